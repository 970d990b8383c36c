//! Plots nanoseconds for one event against subscriptions, both axes logarithmic, one panel for each mix:
//! `docs/matcher.svg`.

use std::fmt::Write as _;

/// A measurement.
pub struct Point {
    pub mix: &'static str,
    pub subscriptions: usize,
    pub matcher: String,
    pub ns: f64,
}

const PANEL: (f64, f64) = (300.0, 260.0);
const LEFT: f64 = 56.0;
const TOP: f64 = 34.0;
const COLOURS: [&str; 7] = ["#2f5fe0", "#7ea2ff", "#c0571f", "#3f8f4f", "#9a4fb0", "#8a8f99", "#b0902c"];

/// Writes the file, or prints the error.
pub fn write(points: &[Point]) {
    let mut mixes: Vec<&str> = points.iter().map(|point| point.mix).collect();
    mixes.dedup();
    let mut matchers: Vec<&str> = Vec::new();
    for point in points {
        if !matchers.contains(&point.matcher.as_str()) {
            matchers.push(&point.matcher);
        }
    }
    let x = |subscriptions: usize| (subscriptions as f64 / 100.0).log10() / 4.0 * (PANEL.0 - 70.0);
    let y = |ns: f64| PANEL.1 - 30.0 - (ns.clamp(10.0, 1e7) / 10.0).log10() / 6.0 * (PANEL.1 - 60.0);
    let mut body = String::new();
    for (at, mix) in mixes.iter().enumerate() {
        let left = LEFT + at as f64 * PANEL.0;
        let _ = write!(body, r#"<g transform="translate({left} {TOP})"><text x="0" y="-12" class="h">{mix}</text>"#);
        for power in 1..=7 {
            let line = y(10_f64.powi(power));
            let label = ["10 ns", "100 ns", "1 µs", "10 µs", "100 µs", "1 ms", "10 ms"][power as usize - 1];
            let _ = write!(body, r#"<line x1="0" x2="{}" y1="{line:.1}" y2="{line:.1}"/>"#, PANEL.0 - 70.0);
            if at == 0 {
                let _ = write!(body, r#"<text x="-6" y="{:.1}" text-anchor="end">{label}</text>"#, line + 4.0);
            }
        }
        for (subscriptions, label) in [(100, "100"), (10_000, "10,000"), (1_000_000, "1,000,000")] {
            let _ = write!(body, r#"<text x="{:.1}" y="{}" text-anchor="middle">{label}</text>"#, x(subscriptions), PANEL.1 - 12.0);
        }
        for (matcher, colour) in matchers.iter().zip(COLOURS) {
            let mut line: Vec<(f64, f64)> = (points.iter())
                .filter(|point| point.mix == *mix && point.matcher == *matcher)
                .map(|point| (x(point.subscriptions), y(point.ns)))
                .collect();
            line.sort_by(|a, b| a.0.total_cmp(&b.0));
            let path: Vec<String> = line.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = write!(body, r#"<polyline points="{}" stroke="{colour}"/>"#, path.join(" "));
            for (x, y) in line {
                let _ = write!(body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#);
            }
        }
        body.push_str("</g>");
    }
    let mut down = TOP + PANEL.1 + 14.0;
    for (matcher, colour) in matchers.iter().zip(COLOURS) {
        let _ = write!(body, r#"<rect x="{LEFT}" y="{:.0}" width="14" height="4" fill="{colour}"/><text x="{}" y="{down:.0}">{matcher}</text>"#, down - 6.0, LEFT + 22.0);
        down += 18.0;
    }
    let style = "text{font:12px system-ui,sans-serif;fill:#555}.h{font-weight:600;font-size:13px;fill:#222}line{stroke:#e3e6eb}\
                 polyline{fill:none;stroke-width:2}@media(prefers-color-scheme:dark){text{fill:#aaa}.h{fill:#eee}line{stroke:#30353f}}";
    let width = LEFT + mixes.len() as f64 * PANEL.0;
    let svg = format!(r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {down}" role="img" aria-label="Nanoseconds an event against subscriptions"><style>{style}</style>{body}</svg>"#);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/matcher.svg");
    match std::fs::write(path, svg) {
        Ok(()) => eprintln!("wrote docs/matcher.svg"),
        Err(error) => eprintln!("{path}: {error}"),
    }
}

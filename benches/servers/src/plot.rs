//! The plots of docs/: CPU time of a delivery by server, memory by connections, the distribution of latencies.

use std::fmt::Write as _;
use std::fs;

use super::peers::PEERS;
use super::report::{Results, cpu};

const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#555}.h{font-weight:600;font-size:13px;fill:#222}line{stroke:#e3e6eb}\
     polyline{fill:none;stroke-width:2}.o{fill:#2f5fe0}.p{fill:#b9c0cc}.b{fill:#7c8796}\
     @media(prefers-color-scheme:dark){text{fill:#aaa}.h{fill:#eee}line{stroke:#30353f}.o{fill:#7ea2ff}.p{fill:#4a5160}.b{fill:#6b7586}}";
/// In the order of the peers.
const COLOURS: [&str; PEERS.len()] = [
    "#2f5fe0", "#7ea2ff", "#1f3f99", "#5b84d8", "#7c8796", "#a9b1bd", "#8f98a5", "#b8bfc9", "#98a2b0",
    "#bfc6d0", "#ccd1d8", "#c9ced6", "#3f8f4f", "#9a4fb0", "#b0902c", "#d0506a", "#3a9aa8", "#6a4fd0",
];

fn save(name: &str, width: f64, height: f64, label: &str, body: &str) -> Result<(), String> {
    let svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0}" role="img" aria-label="{label}"><style>{STYLE}</style>{body}</svg>"#
    );
    let path = super::peers::root().join("docs").join(name);
    fs::write(&path, svg).map_err(|error| format!("{}: {error}", path.display()))
}

/// Bars: microseconds a delivery. The scale is logarithmic, because the loads with bursts differ by a factor of
/// eighty.
fn bars(results: &Results) -> Result<(), String> {
    const LABELS: f64 = 255.0;
    const WIDTH: f64 = 860.0;
    let mut body = String::new();
    let mut y = 26.0;
    for load in super::loads::LOADS
        .iter()
        .filter(|load| ["single", "burst-100", "burst-1000", "sse-burst-1000"].contains(&load.name))
    {
        let _ = write!(body, r#"<text x="12" y="{y}" class="h">{}</text>"#, load.title);
        y += 10.0;
        for peer in PEERS {
            let Some(cost) = results.median(load.name, peer.name, cpu) else { continue };
            let width = (cost.clamp(0.02, 20.0) / 0.02).log10() / 3.0 * (WIDTH - LABELS - 80.0);
            let class = match (peer.name, peer.is_bare) {
                (name, _) if name.starts_with("fanwire") => "o",
                (_, true) => "b",
                _ => "p",
            };
            let _ = write!(
                body,
                r#"<text x="{LABELS}" y="{:.0}" text-anchor="end">{}</text><rect x="{}" y="{y:.0}" width="{width:.1}" height="15" rx="2" class="{class}"/><text x="{:.0}" y="{:.0}">{cost:.3} µs</text>"#,
                y + 12.0,
                peer.name,
                LABELS + 8.0,
                LABELS + 14.0 + width,
                y + 12.0,
            );
            y += 19.0;
        }
        y += 26.0;
    }
    save("servers-cpu.svg", WIDTH, y, "Server CPU a delivery by server, logarithmic", &body)
}

/// A panel of lines with a legend.
struct Panel {
    body: String,
    legend: f64,
}

const AREA: (f64, f64) = (480.0, 320.0);
const LEFT: f64 = 64.0;
const TOP: f64 = 30.0;

impl Panel {
    fn new(title: &str) -> Self {
        Self { body: format!(r#"<text x="{LEFT}" y="18" class="h">{title}</text>"#), legend: TOP + 8.0 }
    }

    fn across(&mut self, y: f64, label: &str) {
        let _ = write!(
            self.body,
            r#"<line x1="{LEFT}" x2="{}" y1="{y:.1}" y2="{y:.1}"/><text x="{}" y="{:.1}" text-anchor="end">{label}</text>"#,
            LEFT + AREA.0,
            LEFT - 6.0,
            y + 4.0
        );
    }

    fn below(&mut self, x: f64, label: &str) {
        let _ = write!(
            self.body,
            r#"<text x="{x:.1}" y="{}" text-anchor="middle">{label}</text>"#,
            TOP + AREA.1 + 18.0
        );
    }

    fn line(&mut self, name: &str, colour: &str, points: &[(f64, f64)]) {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let right = LEFT + AREA.0 + 16.0;
        let _ = write!(
            self.body,
            r#"<polyline points="{}" stroke="{colour}"/><rect x="{right}" y="{:.0}" width="14" height="4" fill="{colour}"/><text x="{}" y="{:.0}">{name}</text>"#,
            path.join(" "),
            self.legend - 6.0,
            right + 22.0,
            self.legend
        );
        self.legend += 18.0;
    }

    fn save(&self, name: &str, label: &str) -> Result<(), String> {
        save(name, LEFT + AREA.0 + 290.0, TOP + AREA.1 + 30.0, label, &self.body)
    }
}

/// Bytes a connection against connections.
fn memory(results: &Results) -> Result<(), String> {
    let mut panel = Panel::new("Resident bytes an idle WebSocket connection");
    let y = |bytes: f64| TOP + AREA.1 - (bytes.clamp(30.0, 300_000.0) / 30.0).log10() / 4.0 * AREA.1;
    let x = |connections: f64| LEFT + connections / 18_000.0 * AREA.0;
    for (bytes, label) in [(100.0, "100 B"), (1000.0, "1 kB"), (10_000.0, "10 kB"), (100_000.0, "100 kB")] {
        panel.across(y(bytes), label);
    }
    for (connections, label) in [(1000.0, "1,000"), (10_000.0, "10,000"), (18_000.0, "18,000")] {
        panel.below(x(connections), label);
    }
    for (peer, colour) in PEERS.iter().zip(COLOURS) {
        let points: Vec<(f64, f64)> =
            [("idle-1000", 1000.0), ("idle-10000", 10_000.0), ("idle-18000", 18_000.0)]
                .into_iter()
                .filter_map(|(load, connections)| {
                    let bytes =
                        results.median(load, peer.name, |r| r["server_bytes_per_connection"].as_f64())?;
                    Some((x(connections), y(bytes)))
                })
                .collect();
        if !points.is_empty() {
            panel.line(peer.name, colour, &points);
        }
    }
    panel.save("servers-memory.svg", "Bytes a connection against connections, logarithmic")
}

/// Latency by percentile, for the load of single events.
fn latency(results: &Results) -> Result<(), String> {
    let mut panel = Panel::new("Latency of single events to 1,000 clients, by percentile");
    let y = |ms: f64| TOP + AREA.1 - (ms.clamp(0.5, 200.0) / 0.5).ln() / 400_f64.ln() * AREA.1;
    // Each nine takes the same space.
    let x = |percentile: f64| LEFT + (-(1.0 - percentile.min(99.99) / 100.0).log10()) / 4.0 * AREA.0;
    for ms in [1.0, 3.0, 10.0, 30.0, 100.0] {
        panel.across(y(ms), &format!("{ms:.0} ms"));
    }
    for (percentile, label) in [(0.0, "0"), (90.0, "90%"), (99.0, "99%"), (99.9, "99.9%"), (99.99, "99.99%")]
    {
        panel.below(x(percentile), label);
    }
    for (peer, colour) in PEERS.iter().zip(COLOURS) {
        let Some(result) = results.typical("single", peer.name) else { continue };
        let points: Vec<(f64, f64)> = (result["latency_percentiles_us"].as_array().into_iter().flatten())
            .filter_map(|pair| Some((x(pair[0].as_f64()?), y(pair[1].as_f64()? / 1000.0))))
            .collect();
        panel.line(peer.name, colour, &points);
    }
    panel.save("servers-latency.svg", "Latency by percentile")
}

/// Writes all plots.
pub fn write(results: &Results) -> Result<(), String> {
    bars(results)?;
    memory(results)?;
    latency(results)?;
    eprintln!("wrote docs/servers-cpu.svg, docs/servers-memory.svg and docs/servers-latency.svg");
    Ok(())
}

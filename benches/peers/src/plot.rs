//! Bars: millions delivered to each reader a second, by shape and contestant.

use std::fmt::Write as _;

use super::contestants::CONTESTANTS;
use super::{Run, SHAPES};

const WIDTH: f64 = 860.0;
const LABELS: f64 = 330.0;
const BAR: f64 = 15.0;

/// Writes `docs/bus-peers.svg`.
pub fn write(medians: &[Vec<Option<Run>>]) {
    let each = |run: &Run, readers: usize| run.delivered as f64 / run.seconds / 1e6 / readers as f64;
    let mut body = String::new();
    let mut y = 34.0;
    for (at, (publishers, readers)) in SHAPES.into_iter().enumerate() {
        let rows: Vec<(&str, f64)> = (CONTESTANTS.iter().zip(medians))
            .filter_map(|(contestant, runs)| Some((contestant.name, each(runs[at].as_ref()?, readers))))
            .collect();
        let most = rows.iter().map(|row| row.1).fold(1.0, f64::max);
        let _ = write!(body, r#"<text x="12" y="{y}" class="h">{publishers} to {readers}</text>"#);
        y += 10.0;
        for (name, rate) in rows {
            let ours = name.starts_with("**");
            let name = name.replace("**", "").replace('`', "");
            let width = (WIDTH - LABELS - 80.0) * rate / most;
            let class = if ours { "o" } else { "p" };
            let _ = write!(
                body,
                r#"<text x="{LABELS}" y="{:.0}" text-anchor="end">{name}</text><rect x="{}" y="{y:.0}" width="{width:.1}" height="{BAR}" rx="2" class="{class}"/><text x="{:.0}" y="{:.0}">{rate:.1}</text>"#,
                y + 12.0, LABELS + 8.0, LABELS + 14.0 + width, y + 12.0,
            );
            y += BAR + 4.0;
        }
        y += 30.0;
    }
    let style = "text{font:12px system-ui,sans-serif;fill:#444}.h{font-weight:600;font-size:14px;fill:#222}.o{fill:#2f5fe0}.p{fill:#b9c0cc}\
                 @media(prefers-color-scheme:dark){text{fill:#bbb}.h{fill:#eee}.o{fill:#7ea2ff}.p{fill:#4a5160}}";
    let svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0}" role="img" aria-label="Millions of items a second delivered to each reader"><style>{style}</style>{body}</svg>"#
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/bus-peers.svg");
    match std::fs::write(path, svg) {
        Ok(()) => eprintln!("wrote docs/bus-peers.svg"),
        Err(error) => eprintln!("{path}: {error}"),
    }
}

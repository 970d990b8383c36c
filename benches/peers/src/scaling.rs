//! Throughput against shards, publishers and readers: a table, and one line each for fanwire's buses and
//! tokio's, published and delivered.

use std::fmt::Write as _;
use std::time::Duration;

use fanwire::bus::WaitStrategy;

use super::contestants::{fanwire_plain, tokio_broadcast};
use super::line::{self, Range};
use super::{Run, median};

/// A measured axis: the quantity that changes, and its steps.
struct Axis {
    name: &'static str,
    steps: &'static [usize],
    ours: fn(usize, Duration) -> Run,
    theirs: Option<fn(usize, Duration) -> Run>,
    readers: fn(usize) -> usize,
}

const AXES: [Axis; 3] = [
    Axis {
        name: "shards (4 publishers, 1 reader)",
        steps: &[1, 2, 4, 8, 16, 32, 64],
        ours: |shards, time| fanwire_plain(4, 1, time, WaitStrategy::default(), 1, shards),
        theirs: None,
        readers: |_| 1,
    },
    Axis {
        name: "publishers (1 reader)",
        steps: &[1, 2, 3, 4],
        ours: |publishers, time| fanwire_plain(publishers, 1, time, WaitStrategy::default(), 1, 1),
        theirs: Some(|publishers, time| tokio_broadcast(publishers, 1, time, false)),
        readers: |_| 1,
    },
    Axis {
        name: "readers (1 publisher)",
        steps: &[1, 2, 4, 8],
        ours: |readers, time| fanwire_plain(1, readers, time, WaitStrategy::default(), 1, 1),
        theirs: Some(|readers, time| tokio_broadcast(1, readers, time, false)),
        readers: |readers| readers,
    },
];

/// Items published, and items delivered to each reader, in millions a second.
type Rates = (f64, f64);

/// Runs everything, prints the table and writes `docs/bus-scaling.svg`.
pub fn measure(rounds: usize, time: Duration, range: Option<Range>) {
    println!("\nMillions a second published / delivered to each reader; readers wait as by default.\n\n| | fanwire | tokio broadcast |\n|---|---|---|");
    let mut panels = Vec::new();
    for Axis { name, steps, ours, theirs, readers } in AXES {
        let rates = |run: fn(usize, Duration) -> Run, step: usize| -> Rates {
            let runs: Vec<Run> = (0..rounds).map(|_| line::within(range, || run(step, time))).collect();
            let run = median(&runs).unwrap_or_default();
            let million = |n: u64| n as f64 / run.seconds.max(1e-9) / 1e6;
            (million(run.published), million(run.delivered) / readers(step) as f64)
        };
        let mut rows = Vec::new();
        for &step in steps {
            let (ours, theirs) = (rates(ours, step), theirs.map(|theirs| rates(theirs, step)));
            let text = |(published, delivered): Rates| format!("{published:.1} / {delivered:.1}");
            println!("| {step} {name} | {} | {} |", text(ours), theirs.map_or("-".to_owned(), text));
            rows.push((step, ours, theirs));
        }
        panels.push((name, rows));
    }
    write(&panels);
}

const WIDTH: f64 = 860.0;
const PANEL: f64 = 220.0;
const LEFT: f64 = 60.0;

fn write(panels: &[(&str, Vec<(usize, Rates, Option<Rates>)>)]) {
    let mut body = String::new();
    for (at, (name, rows)) in panels.iter().enumerate() {
        let (top, height) = (at as f64 * PANEL + 40.0, PANEL - 80.0);
        let all = rows.iter().flat_map(|(_, a, b)| [a.0, a.1, b.map_or(0.0, |b| b.0), b.map_or(0.0, |b| b.1)]);
        let most = all.fold(1.0, f64::max);
        let x = |index: usize| LEFT + (WIDTH - LEFT - 190.0) * index as f64 / (rows.len() - 1).max(1) as f64;
        let y = |rate: f64| top + height - height * rate / most;
        let _ = write!(body, r#"<text x="12" y="{:.0}" class="h">Millions a second by {name}</text>"#, top - 16.0);
        for share in [0.0, 0.5, 1.0] {
            let (rate, right) = (most * share, WIDTH - 190.0);
            let _ = write!(
                body,
                r#"<path d="M{LEFT} {0:.1}H{right}" class="g"/><text x="{1}" y="{2:.1}" text-anchor="end">{rate:.0}</text>"#,
                y(rate), LEFT - 8.0, y(rate) + 4.0,
            );
        }
        for (index, (step, ..)) in rows.iter().enumerate() {
            let _ = write!(body, r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{step}</text>"#, x(index), top + height + 18.0);
        }
        let mut taken: Vec<f64> = Vec::new();
        let mut line = |class: &str, label: &str, rates: Vec<f64>| {
            let points: Vec<String> =
                rates.iter().enumerate().map(|(index, rate)| format!("{:.1},{:.1}", x(index), y(*rate))).collect();
            // Labels next to the last points, moved apart from one another.
            let mut label_y = y(*rates.last().expect("an axis has steps")) + 4.0;
            while taken.iter().any(|other| (other - label_y).abs() < 14.0) {
                label_y -= 2.0;
            }
            taken.push(label_y);
            let _ = write!(
                body,
                r#"<polyline points="{}" class="{class}"/><text x="{:.1}" y="{label_y:.1}">{label}</text>"#,
                points.join(" "), WIDTH - 182.0,
            );
        };
        line("o", "fanwire, published", rows.iter().map(|row| row.1.0).collect());
        line("o d", "fanwire, delivered to each", rows.iter().map(|row| row.1.1).collect());
        if rows.iter().all(|row| row.2.is_some()) {
            line("p", "tokio, published", rows.iter().filter_map(|row| Some(row.2?.0)).collect());
            line("p d", "tokio, delivered to each", rows.iter().filter_map(|row| Some(row.2?.1)).collect());
        }
    }
    let height = panels.len() as f64 * PANEL;
    let style = "text{font:12px system-ui,sans-serif;fill:#444}.h{font-weight:600;font-size:14px;fill:#222}polyline{fill:none;stroke-width:2}\
                 .o{stroke:#2f5fe0}.p{stroke:#8a93a3}.d{stroke-dasharray:5 3}.g{stroke:#ddd}\
                 @media(prefers-color-scheme:dark){text{fill:#bbb}.h{fill:#eee}.o{stroke:#7ea2ff}.p{stroke:#8a93a3}.g{stroke:#333}}";
    let svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Throughput against shards, publishers and readers"><style>{style}</style>{body}</svg>"#
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/bus-scaling.svg");
    match std::fs::write(path, svg) {
        Ok(()) => eprintln!("wrote docs/bus-scaling.svg"),
        Err(error) => eprintln!("{path}: {error}"),
    }
}

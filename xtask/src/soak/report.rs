//! The report of a soak: a page with the counts, and a chart.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::run::Outcome;

/// The server at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) second: u64,
    pub(crate) rss_kib: u64,
    pub(crate) descriptors: u64,
    pub(crate) cpu_seconds: f64,
    pub(crate) clients: u64,
    pub(crate) matched: u64,
    pub(crate) is_balanced: bool,
}

/// Results of a whole soak.
#[derive(Debug, Default)]
pub(crate) struct Account {
    minutes: f64,
    pub(crate) seconds: u64,
    /// Sample before the first client.
    idle: Sample,
    /// Sample after the last client.
    pub(crate) last: Sample,
    pub(crate) samples: Vec<Sample>,
    pub(crate) restarts: u32,
    pub(crate) churned: u32,
    pub(crate) exit: Option<i32>,
    rounds: u64,
    published: u64,
    unsure: u64,
    delivered: u64,
    cuts: u64,
    lost: u64,
    gaps: u64,
    missed: u64,
    /// Faults that `fanwire verify` found, and rounds without a verdict.
    broken: Vec<String>,
}

/// Maximum growth of memory from the middle third of the time to the last third, in percent and in KiB.
const GROWTH_PERCENT: u64 = 10;
const GROWTH_KIB: u64 = 4096;
/// Maximum number of descriptors that the server may have more at the end: connections to the engine and to xtask.
const DESCRIPTORS_MORE: u64 = 4;

impl Account {
    /// Begins an account with the sample before the first client.
    pub(crate) fn new(minutes: f64, idle: Sample) -> Self {
        Self { minutes, idle, ..Self::default() }
    }

    /// Adds a report of `fanwire verify --json`.
    pub(crate) fn take_round(&mut self, stdout: &[u8], stderr: &[u8]) {
        let Ok(report) = serde_json::from_slice::<Value>(stdout) else {
            self.broken
                .push(format!("a round without a verdict: {}", String::from_utf8_lossy(stderr).trim()));
            return;
        };
        let number = |from: &Value, name: &str| from[name].as_u64().unwrap_or(0);
        self.rounds += 1;
        self.published += number(&report, "published");
        self.unsure += number(&report, "unsure");
        self.delivered += number(&report, "delivered");
        for reader in report["readers"].as_array().into_iter().flatten() {
            self.cuts += number(reader, "cuts");
            self.lost += number(reader, "lost");
            self.gaps += number(reader, "gaps");
            self.missed += number(reader, "missed");
        }
        for fault in report["faults"].as_array().into_iter().flatten() {
            let word = |name: &str| fault[name].as_str().unwrap_or_default().to_owned();
            self.broken.push(format!("{} by {}: {}", word("kind"), word("reader"), word("text")));
        }
    }

    /// Returns the median memory of a third of the time (0, 1 or 2), in KiB.
    fn rss_of(&self, third: usize) -> u64 {
        let len = self.samples.len();
        let mut rss: Vec<u64> = self.samples[len * third / 3..len * (third + 1) / 3]
            .iter()
            .map(|sample| sample.rss_kib)
            .collect();
        rss.sort_unstable();
        rss.get(rss.len() / 2).copied().unwrap_or(0)
    }

    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = self.broken.clone();
        if self.rounds == 0 {
            faults.push("`fanwire verify` finished no round".into());
        }
        let (middle, last) = (self.rss_of(1), self.rss_of(2));
        if last > middle + middle * GROWTH_PERCENT / 100 + GROWTH_KIB {
            faults.push(format!("memory grows: {middle} KiB in the middle, {last} KiB in the last third"));
        }
        if self.last.descriptors > self.idle.descriptors + DESCRIPTORS_MORE {
            faults.push(format!(
                "descriptors: {} at first, {} at last",
                self.idle.descriptors, self.last.descriptors
            ));
        }
        if let Some(sample) = self.samples.iter().find(|sample| !sample.is_balanced) {
            faults.push(format!("the ledger did not balance at second {}", sample.second));
        }
        if self.exit != Some(0) {
            faults.push(format!("the server ended with {:?}", self.exit));
        }
        faults
    }
}

/// Returns the report as a page.
pub(crate) fn text(account: &Account) -> String {
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    let most = |of: fn(&Sample) -> u64| account.samples.iter().map(of).max().unwrap_or(0);
    let minutes = account.seconds as f64 / 60.0;
    let faults = account.faults();
    let verdict = if faults.is_empty() { "None.".to_owned() } else { faults.join("\n\n") };
    let mut out = String::new();
    let cpu = account.last.cpu_seconds / account.seconds.max(1) as f64 * 100.0;
    let rows = [
        ("time", format!("{minutes:.1} minutes")),
        ("the engine was killed and started again", format!("{} times", account.restarts)),
        ("rounds of `fanwire verify`", account.rounds.to_string()),
        (
            "events published by it; published without a clear answer while the engine was down",
            format!("{}; {}", account.published, account.unsure),
        ),
        ("events delivered to its readers", account.delivered.to_string()),
        ("connections cut by its readers; broken otherwise", format!("{}; {}", account.cuts, account.lost)),
        (
            "gap notices, and events missed in them (its slow readers)",
            format!("{}; {}", account.gaps, account.missed),
        ),
        ("other clients that came and went", account.churned.to_string()),
        ("events due to all clients together", account.last.matched.to_string()),
        ("most clients at one time", most(|sample| sample.clients).to_string()),
        (
            "memory before the first client; at most",
            format!("{}; {}", mib(account.idle.rss_kib), mib(most(|sample| sample.rss_kib))),
        ),
        (
            "memory, median of the first, second and last third",
            format!("{}, {}, {}", mib(account.rss_of(0)), mib(account.rss_of(1)), mib(account.rss_of(2))),
        ),
        (
            "descriptors before the first client; at most; after the last",
            format!(
                "{}; {}; {}",
                account.idle.descriptors,
                most(|sample| sample.descriptors),
                account.last.descriptors
            ),
        ),
        ("processor time", format!("{cpu:.1} % of one core")),
    ];
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "# Soak\n\nA release build on Redis with two loops. `fanwire verify` reads by WebSocket and SSE, cuts its own connections and accounts for every\n\
         event; one of its readers is too slow. `fanwire bench` adds clients that read slowly or never, and clients that come and go. The engine\n\
         is killed meanwhile. `cargo xtask soak {}` repeats the run. It fails on an event that was lost without a notice, delivered twice or out\n\
         of order, on memory or descriptors that grow, and on a ledger that does not balance.\n\n| | |\n|---|---|\n",
        account.minutes
    );
    for (name, value) in rows {
        let _ = writeln!(out, "| {name} | {value} |");
    }
    let _ = write!(
        out,
        "\n## Faults\n\n{verdict}\n\n![Memory, descriptors and clients over the time](soak.svg)\n"
    );
    out
}

/// Writes `soak.md` and `soak.svg` to a folder.
pub(crate) fn write(account: &Account, folder: &Path) -> Outcome {
    for (name, content) in [("soak.md", text(account)), ("soak.svg", picture(account))] {
        let path = folder.join(name);
        std::fs::write(&path, content).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 110.0;
const LEFT: f64 = 70.0;

/// A function that returns a charted number.
type Charted = fn(&Sample) -> f64;

/// Draws three charts over the time, one below the other.
fn picture(account: &Account) -> String {
    let last = account.samples.last().map_or(1, |sample| sample.second).max(1) as f64;
    let charts: [(&str, Charted); 3] = [
        ("Memory, MiB", |sample| sample.rss_kib as f64 / 1024.0),
        ("Descriptors", |sample| sample.descriptors as f64),
        ("Clients", |sample| sample.clients as f64),
    ];
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"Memory, descriptors and clients over {:.0} minutes\">\
         <style>text{{font:12px system-ui,sans-serif;fill:#555}}.h{{font-weight:600;fill:#222}}line{{stroke:#e3e6eb}}polyline{{fill:none;stroke:#2f5fe0;stroke-width:1.5}}\
         @media(prefers-color-scheme:dark){{text{{fill:#aaa}}.h{{fill:#eee}}line{{stroke:#30353f}}polyline{{stroke:#7ea2ff}}}}</style>",
        LEFT + WIDTH + 20.0,
        3.0 * (HEIGHT + 40.0) + 24.0,
        last / 60.0
    );
    for (number, (name, of)) in charts.into_iter().enumerate() {
        let top = number as f64 * (HEIGHT + 40.0) + 26.0;
        let bottom = top + HEIGHT;
        let most = account.samples.iter().map(of).fold(1.0, f64::max) * 1.1;
        let x = |sample: &Sample| LEFT + sample.second as f64 / last * WIDTH;
        let points: Vec<String> = (account.samples.iter())
            .map(|sample| format!("{:.1},{:.1}", x(sample), bottom - of(sample) / most * HEIGHT))
            .collect();
        let _ = write!(
            out,
            "<text x=\"{LEFT}\" y=\"{:.0}\" class=\"h\">{name}</text><line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{bottom:.0}\" y2=\"{bottom:.0}\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">0</text><text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{:.0}</text><polyline points=\"{}\"/>",
            top - 8.0,
            LEFT + WIDTH,
            LEFT - 8.0,
            bottom + 4.0,
            LEFT - 8.0,
            top + 8.0,
            most / 1.1,
            points.join(" ")
        );
    }
    let foot = 3.0 * (HEIGHT + 40.0) + 12.0;
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"{foot:.0}\">0</text><text x=\"{:.0}\" y=\"{foot:.0}\" text-anchor=\"end\">{:.0} minutes</text></svg>",
        LEFT + WIDTH,
        last / 60.0
    );
    out
}

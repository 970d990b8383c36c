//! Tables of medians in Markdown, on stdout, and the plots.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::loads::{LOADS, Load, SLOPES};
use super::peers::{BARE_TOPICS, BUN_TOPICS, PEERS, TOPIC_PEERS};
use super::{plot, summary};

/// Results by load and peer, in the order of their measurement.
pub struct Results(BTreeMap<(String, String), Vec<Value>>);

impl Results {
    fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut all: BTreeMap<_, Vec<Value>> = BTreeMap::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
            let name = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            let mut result = line["result"].clone();
            result["round"] = line["round"].clone();
            all.entry((name("load"), name("peer"))).or_default().push(result);
        }
        Ok(Self(all))
    }

    /// Returns the median of one number of the results.
    pub fn median(&self, load: &str, peer: &str, number: impl Fn(&Value) -> Option<f64>) -> Option<f64> {
        let results = self.0.get(&(load.to_owned(), peer.to_owned()))?;
        let mut numbers: Vec<f64> = results.iter().filter_map(number).collect();
        numbers.sort_by(f64::total_cmp);
        numbers.get(numbers.len() / 2).copied()
    }

    /// Returns the median over the rounds of a number divided by another peer's of the same round.
    pub fn ratio(
        &self,
        load: &str,
        peer: &str,
        other: &str,
        number: impl Fn(&Value) -> Option<f64>,
    ) -> Option<f64> {
        let others = self.0.get(&(load.to_owned(), other.to_owned()))?;
        let mut ratios: Vec<f64> = self
            .0
            .get(&(load.to_owned(), peer.to_owned()))?
            .iter()
            .filter_map(|result| {
                let other = others.iter().find(|other| other["round"] == result["round"])?;
                Some(number(result)? / number(other)?)
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied()
    }

    /// Returns the number of a peer's results.
    pub fn rounds(&self, load: &str, peer: &str) -> usize {
        self.0.get(&(load.to_owned(), peer.to_owned())).map_or(0, Vec::len)
    }

    /// Returns the result with the median of the latency at 99%.
    pub fn typical(&self, load: &str, peer: &str) -> Option<&Value> {
        let mut results: Vec<&Value> = self.0.get(&(load.to_owned(), peer.to_owned()))?.iter().collect();
        results.sort_by_key(|result| result["latency_us"]["p99"].as_u64());
        results.get(results.len() / 2).copied()
    }
}

pub fn cpu(result: &Value) -> Option<f64> {
    result["server_cpu_us_per_delivery"].as_f64()
}

pub fn plain(number: Option<f64>, digits: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
}

fn thousands(number: Option<f64>) -> String {
    let Some(number) = number else { return "-".to_owned() };
    let text = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in text.chars().enumerate() {
        if at > 0 && (text.len() - at).is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Prints the tables and writes the plots.
pub fn write(path: &Path) -> Result<(), String> {
    let results = Results::read(path)?;
    let is_shared =
        |load: &&Load| !load.topics && !["idle", "ingest", "tls"].iter().any(|part| load.name.contains(part));
    for load in LOADS.iter().filter(is_shared) {
        println!("\n{}\n", load.title);
        println!("| server | CPU a delivery, us | p50 / p99, ms | deliveries a second | of what was due |");
        println!("|---|---|---|---|---|");
        for peer in load.peers {
            let median = |number: fn(&Value) -> Option<f64>| results.median(load.name, peer.name, number);
            let Some(cost) = median(cpu) else { continue };
            let name = if peer.name == "fanwire" { "**fanwire**" } else { peer.name };
            println!(
                "| {name} | {cost:.3} | {} / {} | {} | {}% |",
                plain(median(|r| Some(r["latency_us"]["p50"].as_f64()? / 1000.0)), 1),
                plain(median(|r| Some(r["latency_us"]["p99"].as_f64()? / 1000.0)), 1),
                thousands(median(|r| r["deliveries_per_second"].as_f64())),
                plain(median(|r| Some(100.0 * r["delivered"].as_f64()? / r["expected"].as_f64()?)), 0),
            );
        }
    }
    for load in LOADS.iter().filter(|load| load.topics && !load.name.contains("idle")) {
        topic_table(&results, load);
    }
    summary::write(&results);
    slopes(&results);
    println!("\nBytes of resident memory a subscribed, idle connection\n");
    println!("| server | 1,000 | 10,000 | 18,000 | SSE, 10,000 | SSE, 18,000 |\n|---|---|---|---|---|---|");
    for peer in PEERS {
        let bytes =
            |load| thousands(results.median(load, peer.name, |r| r["server_bytes_per_connection"].as_f64()));
        let row = ["idle-1000", "idle-10000", "idle-18000", "sse-idle-10000", "sse-idle-18000"].map(bytes);
        if row.iter().any(|cell| cell != "-") {
            println!("| {} | {} |", peer.name, row.join(" | "));
        }
    }
    println!("\nEvents taken a second, nobody connected\n");
    println!(
        "| server | POSTs of one event | us of CPU an event | POSTs of 1,000 lines | us of CPU an event |\n|---|---|---|---|---|"
    );
    for peer in PEERS {
        let rate = |load| thousands(results.median(load, peer.name, |r| r["published_per_second"].as_f64()));
        let cost =
            |load| plain(results.median(load, peer.name, |r| r["server_cpu_us_per_event"].as_f64()), 2);
        if rate("ingest") != "-" {
            println!(
                "| {} | {} | {} | {} | {} |",
                peer.name,
                rate("ingest"),
                cost("ingest"),
                rate("ingest-lines"),
                cost("ingest-lines")
            );
        }
    }
    // The plots need the loads in which all clients get the same events.
    if results.rounds("single", "fanwire") == 0 {
        return Ok(());
    }
    plot::write(&results)
}

/// Prints the table of a load in which each client has its own topics.
fn topic_table(results: &Results, load: &Load) {
    if TOPIC_PEERS.iter().all(|peer| results.rounds(load.name, peer.name) == 0) {
        return;
    }
    println!("\n{}\n", load.title);
    println!(
        "| server | CPU a delivery, us | its own code's | of the bare loop | of Bun by WebSocket | p50 / p99, ms | delivered | rounds |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for peer in TOPIC_PEERS {
        let median = |number: fn(&Value) -> Option<f64>| results.median(load.name, peer.name, number);
        let Some(cost) = median(cpu) else { continue };
        let beside = |other| plain(results.ratio(load.name, peer.name, other, cpu), 2);
        let name = if peer.name.starts_with("fanwire") {
            format!("**{}**", peer.name)
        } else {
            peer.name.to_owned()
        };
        println!(
            "| {name} | {cost:.2} | {} | {} | {} | {} / {} | {}% | {} |",
            plain(median(|r| Some(cpu(r)? * r["server_user_share"].as_f64()?)), 2),
            beside(BARE_TOPICS),
            beside(BUN_TOPICS),
            plain(median(|r| Some(r["latency_us"]["p50"].as_f64()? / 1000.0)), 1),
            plain(median(|r| Some(r["latency_us"]["p99"].as_f64()? / 1000.0)), 1),
            plain(median(|r| Some(100.0 * r["delivered"].as_f64()? / r["expected"].as_f64()?)), 0),
            results.rounds(load.name, peer.name),
        );
    }
}

/// Prints the memory of an idle connection as the slope between two sizes.
fn slopes(results: &Results) {
    println!("\nBytes of resident memory for each further idle connection\n");
    let titles: Vec<&str> = SLOPES.iter().map(|(title, ..)| *title).collect();
    println!("| server | {} |\n|---|{}", titles.join(" | "), "---|".repeat(titles.len()));
    for peer in TOPIC_PEERS {
        let cells = SLOPES.iter().map(|(_, small, large)| {
            let total = |load| {
                let bytes = results.median(load, peer.name, |r| r["server_bytes_per_connection"].as_f64())?;
                let clients = results.median(load, peer.name, |r| r["connections"].as_f64())?;
                Some((bytes * clients, clients))
            };
            let slope = |a: (f64, f64), b: (f64, f64)| (b.0 - a.0) / (b.1 - a.1);
            thousands(Some(slope(total(small)?, total(large)?))).into()
        });
        let cells: Vec<String> =
            cells.map(|cell: Option<String>| cell.unwrap_or_else(|| "-".into())).collect();
        if cells.iter().any(|cell| cell != "-") {
            println!("| {} | {} |", peer.name, cells.join(" | "));
        }
    }
}

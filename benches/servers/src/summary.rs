//! Tables over several loads: clients that each have their own set, and what TLS costs.

use serde_json::Value;

use super::loads::{LOADS, Load};
use super::peers::{BARE_TOPICS, BUN_TOPICS, TLS_PEERS};
use super::report::{Results, cpu, plain};

const NATIVE: &str = "fanwire, no acks";
const LEAN: &str = "fanwire lean, no acks";
const NATIVE_POST: &str = "fanwire, POST";
const LEAN_POST: &str = "fanwire lean, POST";
const BUN_POST: &str = "Bun, POST";

/// A cell of a table: the number of a contestant, or its ratio to another one, as the median over the rounds.
enum Cell {
    Of(&'static str),
    Ratio(&'static str, &'static str),
}

use Cell::{Of, Ratio};

/// Contestants and ratios of the tables of WebSocket publishers.
const BY_WEBSOCKET: &[(&str, Cell)] = &[
    ("native", Of(NATIVE)),
    ("lean", Of(LEAN)),
    ("Bun", Of(BUN_TOPICS)),
    ("bare loop", Of(BARE_TOPICS)),
    ("native of Bun", Ratio(NATIVE, BUN_TOPICS)),
    ("lean of Bun", Ratio(LEAN, BUN_TOPICS)),
    ("lean of the loop", Ratio(LEAN, BARE_TOPICS)),
];

/// Columns of the table of publishers that send requests. The bare loop has a WebSocket there, too.
const BY_POST: &[(&str, Cell)] = &[
    ("native", Of(NATIVE_POST)),
    ("lean", Of(LEAN_POST)),
    ("Bun", Of(BUN_POST)),
    ("lean of Bun", Ratio(LEAN_POST, BUN_POST)),
    ("lean of the loop", Ratio(LEAN_POST, BARE_TOPICS)),
];

fn own_code(result: &Value) -> Option<f64> {
    Some(cpu(result)? * result["server_user_share"].as_f64()?)
}

fn p50(result: &Value) -> Option<f64> {
    Some(result["latency_us"]["p50"].as_f64()? / 1000.0)
}

fn p99(result: &Value) -> Option<f64> {
    Some(result["latency_us"]["p99"].as_f64()? / 1000.0)
}

/// Prints the tables of the loads in which each client has its own topics, a row for each load.
pub fn write(results: &Results) {
    let loads: Vec<&Load> = LOADS.iter().filter(|load| load.topics && !load.name.contains("idle")).collect();
    let tables: [(&str, &[(&str, Cell)], fn(&Value) -> Option<f64>); 5] = [
        ("CPU a delivery, us, published by WebSocket", BY_WEBSOCKET, cpu),
        ("of which the server's own code, us", BY_WEBSOCKET, own_code),
        ("p50, ms", BY_WEBSOCKET, p50),
        ("p99, ms", BY_WEBSOCKET, p99),
        ("CPU a delivery, us, published by POST", BY_POST, cpu),
    ];
    for (title, columns, number) in tables {
        let rows: Vec<String> = loads.iter().filter_map(|load| row(results, load, columns, number)).collect();
        if rows.is_empty() {
            continue;
        }
        let heads: Vec<&str> = columns.iter().map(|(head, _)| *head).collect();
        println!("\nEvery client its own set: {title}\n\n| load | {} |", heads.join(" | "));
        println!("|---|{}\n{}", "---|".repeat(heads.len()), rows.join("\n"));
    }
    for load in LOADS.iter().filter(|load| load.name.starts_with("tls")) {
        tls(results, load);
    }
}

/// Returns the load's row, if two contestants or more have results.
fn row(
    results: &Results,
    load: &Load,
    columns: &[(&str, Cell)],
    number: fn(&Value) -> Option<f64>,
) -> Option<String> {
    let cells: Vec<String> = columns
        .iter()
        .map(|(_, cell)| match cell {
            Of(peer) => plain(results.median(load.name, peer, number), 2),
            Ratio(peer, other) => plain(results.ratio(load.name, peer, other, number), 2),
        })
        .collect();
    let count = cells.iter().filter(|cell| *cell != "-").count();
    (count > 1).then(|| format!("| {} | {} |", load.title, cells.join(" | ")))
}

/// Prints a load's table with the share of the cleartext speed that remains under TLS.
fn tls(results: &Results, load: &Load) {
    if TLS_PEERS.iter().all(|peer| results.rounds(load.name, peer.name) == 0) {
        return;
    }
    println!("\n{}\n", load.title);
    println!(
        "| server | CPU a delivery, us | of Bun, TLS | of the cleartext speed | p50 / p99, ms | rounds |"
    );
    println!("|---|---|---|---|---|---|");
    for peer in TLS_PEERS {
        let median = |number: fn(&Value) -> Option<f64>| results.median(load.name, peer.name, number);
        let Some(cost) = median(cpu) else { continue };
        let kept = peer.name.strip_suffix(", TLS");
        println!(
            "| {} | {cost:.3} | {} | {} | {} / {} | {} |",
            peer.name,
            plain(kept.and_then(|_| results.ratio(load.name, peer.name, "Bun, TLS", cpu)), 2),
            plain(kept.and_then(|clear| results.ratio(load.name, clear, peer.name, cpu)), 2),
            plain(median(p50), 1),
            plain(median(p99), 1),
            results.rounds(load.name, peer.name),
        );
    }
}

//! Heap bytes of kept logs with small events, as a counting allocator sees them, compared with the server's own count.
#![cfg(feature = "server")]

#[path = "support/heap.rs"]
mod heap;

use fanwire::Event;
use fanwire::internals::OneClient;

/// Number of logs. Each has 100 events.
const LOGS: isize = 1_000;
const EVENTS: isize = 100;

fn event(kind: &str, log: isize, n: isize) -> Event {
    let payload = format!(r#"{{"n":{n},"delta":"reading "}}"#);
    let stream = format!("{kind}-{log:05}");
    Event::builder("token").source("agent").stream(&stream).json(payload).build().expect("valid")
}

/// Heap bytes of a loop after the events of all logs.
struct Held {
    all: isize,
    /// Bytes that the server counts for the logs.
    counted: isize,
    /// Bytes of the events of a log on a client's connection.
    framed: isize,
}

/// Returns the bytes that a client gets of a stream from its start.
fn sent(client: &mut OneClient, stream: &str) -> isize {
    client.comes_again("/ws");
    client.says(&format!(r#"{{"type":"subscribe","payload":{{"stream_ids":["{stream}"],"from":"start"}}}}"#));
    client.settle().1.len() as isize
}

/// Publishes the events of all logs. Only streams whose name begins with `run-` are kept.
fn held(kind: &str) -> Held {
    let before = heap::held();
    let mut client = OneClient::keeping();
    for log in 0..LOGS {
        for n in 0..EVENTS {
            client.publishes(event(kind, log, n));
        }
        client.quiet_turn();
    }
    let all = heap::held() - before;
    let counted = client.kept_bytes() as isize;
    let framed = sent(&mut client, "run-00000") - sent(&mut client, "run-none");
    Held { all, counted, framed }
}

#[test]
fn kept_logs_take_little_more_than_their_events_and_are_counted() {
    // A first measurement allocates the tables of the thread and of the process.
    held("off");
    let without = held("off").all;
    let Held { all, counted, framed } = held("run");
    let all = all - without;
    println!(
        "{} bytes an event, {counted} counted of {all}; {} bytes on a connection",
        all / (LOGS * EVENTS),
        framed / EVENTS
    );
    assert!(framed > 0, "nothing is kept");
    assert!(all <= (framed * 13 / 10 + 300) * LOGS, "{all} bytes, of {framed} a log on a connection");
    let difference = (all - counted).abs();
    assert!(difference <= all / 10, "{all} bytes, {counted} counted");
}

//! Heap bytes of kept logs with small events, as a counting allocator sees them, compared with the server's own count.
#![cfg(feature = "server")]

#[path = "support/heap.rs"]
mod heap;

use fanwire::Event;
use fanwire::internals::OneClient;

/// Number of logs. Each has 100 events.
const LOGS: isize = 1_000;
const EVENTS: isize = 100;

/// Number of streams that one publisher begins, many times the number of logs that are kept. `FANWIRE_KEPT_STREAMS` sets
/// another.
const STREAMS: isize = 100_000;

/// Number of logs that are kept by default.
const LOGS_MAX: isize = 10_000;

fn payload(n: isize) -> String {
    format!(r#"{{"n":{n},"delta":"reading "}}"#)
}

fn event(kind: &str, log: isize, n: isize) -> Event {
    let event_type = if n + 1 == EVENTS { "run.finished" } else { "token" };
    let stream = format!("{kind}-{log:05}");
    Event::builder(event_type).source("agent").stream(&stream).json(payload(n)).build().expect("valid")
}

/// Returns the size of a log's events as a publisher sends them.
fn published(log: isize) -> isize {
    let event = |n| {
        let event = event("run", log, n);
        let (kind, stream, payload) = (event.event_type(), event.stream(), event.payload());
        let stream = stream.expect("it has one");
        format!(r#"{{"type":"{kind}","source":"agent","stream_id":"{stream}","payload":{payload}}}"#).len()
    };
    (0..EVENTS).map(event).sum::<usize>() as isize
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

fn assert_near(all: isize, counted: isize) {
    let difference = (all - counted).abs();
    assert!(difference <= all / 10, "{all} bytes, {counted} counted");
}

#[test]
fn kept_logs_take_little_more_than_their_events_and_are_counted() {
    // A first measurement allocates the tables of the thread and of the process.
    held("off");
    let without = held("off").all;
    let Held { all, counted, framed } = held("run");
    let all = all - without;
    let published = published(0);
    println!(
        "{} bytes an event, {} counted; {} bytes as published, {} on a connection",
        all / (LOGS * EVENTS),
        counted / (LOGS * EVENTS),
        published / EVENTS,
        framed / EVENTS
    );
    assert!(framed > 0, "nothing is kept");
    assert!(all <= (published * 13 / 10 + 300) * LOGS, "{all} bytes, of {published} a log as published");
    assert_near(all, counted);
}

/// A publisher that begins stream after stream makes the server keep no more than its limits.
#[test]
fn more_streams_than_logs_take_no_more_memory() {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let streams = number("FANWIRE_KEPT_STREAMS").unwrap_or(STREAMS);
    // The memory when all logs are there, and at last, and the bytes that the logs are counted with.
    let held = |kind: &str| {
        let before = heap::held();
        let mut client = OneClient::keeping();
        let mut full = 0;
        for stream in 0..streams {
            client.publishes(event(kind, stream, 0));
            if stream % 64 == 0 {
                client.quiet_turn();
            }
            if stream == 4 * LOGS_MAX {
                full = heap::held() - before;
            }
        }
        client.quiet_turn();
        (full, heap::held() - before, client.kept_bytes() as isize)
    };
    held("off");
    let without = held("off");
    let (full, all, counted) = held("run");
    let (full, all) = (full - without.0, all - without.1);
    println!("{} bytes for each of {LOGS_MAX} logs, after {streams} streams", all / LOGS_MAX);
    assert!(all - full <= full / 20, "{full} bytes at first, {all} at last");
    assert!(all <= 1_000 * LOGS_MAX, "{all} bytes");
    assert_near(all, counted);
}

//! Clients that do not keep up, each with its own policy: gaps, conflation, sampling, a disconnect. The counts of the
//! ledger balance.

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use support::http::{self, read_head};
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::Ws;
use support::{Server, eventually};

/// A client that lags as soon as it does not read.
fn slow(addr: SocketAddr, subscribe: Value) -> Ws {
    let mut ws = Ws::over(Wire::narrow(addr, 4096), "/ws", "");
    let answer = ws.ask(&json!({"type": "subscribe", "payload": subscribe}));
    assert_eq!(answer["type"], "ack", "{answer}");
    ws
}

/// Publishes `count` events of some size, with ten keys in turn, numbered from `first`.
fn flood(server: &Server, first: usize, count: usize) {
    let pad = "x".repeat(800);
    for start in (first..first + count).step_by(500) {
        let mut lines = String::new();
        for n in start..(start + 500).min(first + count) {
            let id = n % 10;
            let entity = format!("{{\"kind\":\"k\",\"id\":\"{id}\"}}");
            let payload = format!("{{\"n\":{n},\"pad\":\"{pad}\"}}");
            writeln!(lines, "{{\"type\":\"tick\",\"entity\":{entity},\"payload\":{payload}}}")
                .expect("a string has room");
        }
        server.publish(lines);
    }
}

fn n(event: &Value) -> usize {
    event["payload"]["n"].as_u64().expect("a number") as usize
}

/// Reads up to the event with this number. Returns the numbers of all events, and the gaps.
fn read_to(client: &mut Ws, last: usize) -> (Vec<usize>, Vec<Value>) {
    let (mut seen, mut gaps) = (Vec::new(), Vec::new());
    while seen.last() != Some(&last) {
        let message = client.message();
        match message["type"].as_str() {
            Some("event") => seen.push(n(&message["payload"])),
            Some("gap") => gaps.push(message["payload"].clone()),
            _ => panic!("{message}"),
        }
    }
    (seen, gaps)
}

const FLOOD: usize = 12_000;

#[test]
fn a_client_that_conflates_gets_the_latest_of_each_key_and_no_gap() {
    let server = Server::start();
    let mut client = slow(server.addr, json!({"on_lag": "conflate"}));
    flood(&server, 0, FLOOD);
    let (seen, gaps) = read_to(&mut client, FLOOD - 1);
    assert_eq!(gaps, Vec::<Value>::new());
    assert!(seen.is_sorted_by(|a, b| a < b) && seen.len() < FLOOD / 2, "{} events", seen.len());
    assert_eq!(seen[seen.len() - 10..], (FLOOD - 10..FLOOD).collect::<Vec<_>>());
    let books = server.balanced_ledger();
    assert_eq!(books["conflated"].as_u64(), Some((FLOOD - seen.len()) as u64), "{books}");
    // From now on it keeps up, and gets everything.
    flood(&server, FLOOD, 20);
    assert_eq!(read_to(&mut client, FLOOD + 19).0.len(), 20);
}

#[test]
fn a_client_that_drops_its_newest_gets_the_pending_events_first() {
    let server = Server::start();
    let mut client = slow(server.addr, json!({"on_lag": "drop_newest"}));
    flood(&server, 0, FLOOD);
    flood(&server, FLOOD, 1);
    let mut seen = Vec::new();
    let gap = loop {
        let message = client.message();
        if message["type"] == "gap" {
            break message["payload"].clone();
        }
        seen.push(n(&message["payload"]));
    };
    assert_eq!(seen, (0..seen.len()).collect::<Vec<_>>(), "no hole before the gap");
    let missed = gap["missed"].as_u64().expect("known") as usize;
    assert_eq!(seen.len() + missed, FLOOD + 1);
    flood(&server, FLOOD + 1, 5);
    assert_eq!(read_to(&mut client, FLOOD + 5).0, (FLOOD + 1..FLOOD + 6).collect::<Vec<_>>());
    assert_eq!(server.balanced_ledger()["dropped"].as_u64(), Some(missed as u64));
}

#[test]
fn an_agentos_client_gets_gaps_if_it_requested_them() {
    let server = Server::start();
    let [mut with_gaps, mut plain] =
        ["/ws/events?gap=1", "/ws/events"].map(|path| Ws::over(Wire::narrow(server.addr, 4096), path, ""));
    flood(&server, 0, FLOOD);
    server.publish(r#"{"type":"done"}"#);
    let read = |client: &mut Ws| {
        let (mut ticks, mut gaps) = (0, Vec::new());
        loop {
            let message = client.message();
            let envelope: Vec<_> = message.as_object().expect("an object").keys().cloned().collect();
            assert_eq!(envelope, ["entity", "payload", "source", "ts", "type"], "frozen");
            match message["type"].as_str() {
                Some("tick") => ticks += 1,
                Some("gap") => gaps.push(message["payload"]["missed"].as_u64().expect("known") as usize),
                _ => return (ticks, gaps),
            }
        }
    };
    let (ticks, gaps) = read(&mut with_gaps);
    assert!(!gaps.is_empty());
    assert_eq!(ticks + gaps.iter().sum::<usize>(), FLOOD);
    let (less, none) = read(&mut plain);
    assert!(less < FLOOD && none.is_empty(), "{less} {none:?}");
    let missed = FLOOD - ticks + FLOOD - less;
    assert_eq!(server.balanced_ledger()["dropped"].as_u64(), Some(missed as u64), "counted in any case");
}

#[test]
fn a_client_that_wants_all_or_nothing_is_closed_with_1013() {
    let server = Server::start();
    let mut client = slow(server.addr, json!({"on_lag": "disconnect"}));
    let mut other = Ws::subscribed(server.addr, json!({"event_types": ["done"]}));
    flood(&server, 0, FLOOD);
    server.publish(r#"{"type":"done"}"#);
    assert_eq!(other.event()["event_type"], "done");
    let mut expected = 0;
    let (code, reason) = loop {
        let frame = client.read_frame(deadline()).expect("a close frame comes");
        if frame.opcode() == 8 {
            break frame.close();
        }
        let message: Value = serde_json::from_slice(&frame.payload).expect("JSON");
        assert_eq!(n(&message["payload"]), expected, "a hole");
        expected += 1;
    };
    assert_eq!((code, reason.contains("slow")), (1013, true), "{reason}");
    assert_eq!(server.metric("fanwire_server_lag_closed_total"), Some(1.0));
    server.balanced_ledger();
}

#[test]
fn a_sample_has_its_rate_and_ends_with_the_last_event() {
    let server = Server::start();
    let mut client = Ws::subscribed(server.addr, json!({"on_lag": "sample", "max_per_second": 20}));
    let mut stream = Sse::open(server.addr, "?on_lag=sample&max_per_second=5");
    let started = std::time::Instant::now();
    for k in 0..30 {
        flood(&server, k * 10, 10);
        std::thread::sleep(Duration::from_millis(20));
    }
    let most = 20 * (started.elapsed().as_millis() as usize + 999) / 1000 + 2;
    let (seen, gaps) = read_to(&mut client, 299);
    assert!(gaps.is_empty() && seen.len() <= most && seen.len() > 3, "{} events, at most {most}", seen.len());
    let mut of_stream = Vec::new();
    while of_stream.last() != Some(&299) {
        of_stream.push(n(&stream.event().json()));
    }
    assert!(of_stream.len() < seen.len(), "{of_stream:?}");
    server.balanced_ledger();
}

#[test]
fn a_snapshot_is_the_latest_of_each_key_and_live_events_follow_once() {
    let server = Server::start();
    flood(&server, 0, 95);
    for sse in [false, true] {
        let mut seen = Vec::new();
        if sse {
            let mut stream = Sse::open(server.addr, "?snapshot=true&type=tick");
            flood(&server, 1000, 3);
            while seen.last() != Some(&1002) {
                seen.push(n(&stream.event().json()));
            }
        } else {
            let mut client = Ws::subscribed(server.addr, json!({"snapshot": true, "event_types": ["tick"]}));
            flood(&server, 95, 3);
            seen = read_to(&mut client, 97).0;
            assert_eq!(seen, (85..98).collect::<Vec<_>>());
            continue;
        }
        assert_eq!(seen[..10], (88..98).collect::<Vec<_>>());
        assert_eq!(seen[10..], [1000, 1001, 1002]);
    }
}

#[test]
fn laggards_are_in_the_stats_before_they_lose_events() {
    let server = Server::start();
    let client = slow(server.addr, json!({}));
    flood(&server, 0, FLOOD);
    eventually("the laggard shows", || {
        let stats = http::get(server.addr, "/api/stats").json();
        let laggards = stats["laggards"].as_array().expect("a list").clone();
        laggards.len() == 1
            && laggards[0]["speaks"] == "ws"
            && laggards[0]["events"].as_u64() > Some(100)
            && laggards[0]["milliseconds"].as_u64() > Some(50)
            && stats["held_bytes"].as_u64() > Some(100_000)
    });
    eventually("the histogram counts it", || server.metric("fanwire_server_lag_events_count") > Some(0.0));
    drop(client);
    server.balanced_ledger();
}

#[test]
fn when_memory_is_short_laggards_go_then_new_streams_and_never_publishers() {
    let server = Server::with(&[
        "--max-memory-bytes",
        "200000",
        "--max-lag-bytes",
        "100000000",
        "--max-lag-events",
        "100000",
    ]);
    let mut newest = slow(server.addr, json!({"on_lag": "drop_newest"}));
    let mut oldest = slow(server.addr, json!({"on_lag": "drop_oldest"}));
    flood(&server, 0, FLOOD);
    eventually("something was shed", || !server.metrics("fanwire_server_shed_total").is_empty());
    server.publish(r#"{"type":"tick","payload":{"n":99999}}"#);
    let (_, gaps) = read_to(&mut oldest, 99_999);
    assert!(!gaps.is_empty(), "the ring has evicted the past");
    // Only its disconnect frees the memory that it holds.
    loop {
        match newest.read_frame(deadline()) {
            Ok(frame) if frame.opcode() == 8 => break assert_eq!(frame.close().0, 1013),
            Ok(_) => {}
            // The client's socket was full for longer than the server waits to send the close frame.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Err(error) => panic!("{error}"),
        }
    }
    drop(newest);
    eventually("streams are taken again", || {
        let mut wire = Wire::connect(server.addr);
        wire.send(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
        read_head(&mut wire, deadline()).expect("an answer").status == 200
    });
    server.balanced_ledger();
}

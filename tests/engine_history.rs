//! Events that the rings have evicted, read from the engine's log: exactly the missed ones, in order, on each kind of
//! log.

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::service::{Kind, Service};
use support::sse::Sse;
use support::wire::Wire;
use support::ws::Ws;
use support::{Server, eventually, http};

/// Number of events in a test, many times the size of a ring here.
const EVENTS: usize = 3_000;

const SECRET: &str = "a secret of thirty-two bytes or more";

/// A log of some kind. Removed on drop.
enum Log {
    Service(Service),
    File(PathBuf),
}

impl Log {
    fn redis() -> Self {
        Self::Service(Service::start(Kind::Redis))
    }

    fn nats() -> Self {
        Self::Service(Service::start(Kind::Nats))
    }

    fn file() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fanwire-history-{}-{number}", std::process::id());
        Self::File(std::env::temp_dir().join(name))
    }

    fn url(&self) -> String {
        match self {
            Self::Service(service) => service.url(),
            Self::File(folder) => format!("file://{}", folder.display()),
        }
    }

    /// A node with small rings.
    fn node(&self, options: &[&str]) -> Server {
        let url = self.url();
        let mut all = vec!["--engine", &url, "--bus-capacity", "512", "--loops", "1"];
        all.extend(options);
        let server = Server::with(&all);
        eventually("the node follows the log", || http::get(server.addr, "/readyz").status == 200);
        server
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Self::File(folder) = self {
            // The folder of the test's log.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

macro_rules! for_each_log {
    ($($name:ident)*) => {
        mod redis { $(#[test] fn $name() { super::$name(&super::Log::redis()); })* }
        mod nats { $(#[test] fn $name() { super::$name(&super::Log::nats()); })* }
        mod file { $(#[test] fn $name() { super::$name(&super::Log::file()); })* }
    };
}

for_each_log! {
    a_client_resumes_from_events_that_the_ring_has_evicted
    the_newest_so_many_are_found_in_the_log
    a_snapshot_has_what_only_the_log_has
    shards_come_whole_and_each_in_its_order
    a_slow_reader_and_what_is_live_meanwhile
    hidden_events_stay_hidden_and_a_revocation_ends_a_replay
    a_forged_place_is_still_a_gap
}

fn event(stream: usize, n: usize) -> String {
    format!(
        "{{\"type\":\"test.numbered\",\"stream_id\":\"s{stream}\",\"entity\":{{\"kind\":\"k\",\"id\":\"{n}\"}},\"payload\":{{\"n\":{n}}}}}\n"
    )
}

fn publish_as(node: SocketAddr, token: Option<&str>, lines: &str) {
    let header = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n{header}Content-Length: {}\r\n\r\n{lines}",
        lines.len()
    );
    let answer = http::exchange(node, request.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Publishes numbers, few at a time, so that no loop is lapped by its ring: these tests are not about such gaps.
fn publish(node: &Server, numbers: std::ops::Range<usize>, streams: usize) {
    publish_with(node, None, numbers, streams);
}

fn publish_with(node: &Server, token: Option<&str>, numbers: std::ops::Range<usize>, streams: usize) {
    let all: Vec<usize> = numbers.collect();
    for some in all.chunks(100) {
        let lines = some.iter().map(|n| event(n % streams, *n)).collect::<String>();
        if token.is_some() {
            publish_as(node.addr, token, &lines);
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        let before = followed(node);
        publish_as(node.addr, token, &lines);
        eventually("the node has them", || followed(node) >= before + some.len());
        // Gives the loop time to read them, too.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Returns the number of events that a node has read from the log.
fn followed(node: &Server) -> usize {
    node.metric("fanwire_engine_events_followed_total").map_or(0, |count| count as usize)
}

fn number(event: &Value) -> u64 {
    event["payload"]["n"].as_u64().unwrap_or_else(|| panic!("not numbered: {event}"))
}

fn id(event: &Value) -> String {
    event["event_id"].as_str().unwrap_or_else(|| panic!("no id: {event}")).to_owned()
}

/// Publishes the first of `EVENTS` numbers and waits until a node has all of them.
fn first_of_many(node: &Server, streams: usize) -> Value {
    let mut client = Ws::subscribed(node.addr, json!({"event_types": ["test.*"]}));
    publish(node, 0..1, streams);
    let first = client.event();
    publish(node, 1..EVENTS, streams);
    first
}

fn a_client_resumes_from_events_that_the_ring_has_evicted(log: &Log) {
    let node = log.node(&[]);
    let first = id(&first_of_many(&node, 1));
    let mut ws = Ws::subscribed(node.addr, json!({"event_types": ["test.numbered"], "since": first}));
    let mut sse = Sse::with(node.addr, "?type=test.numbered", &format!("Last-Event-ID: {first}\r\n"));
    for n in 1..EVENTS as u64 {
        assert_eq!(number(&ws.event()), n);
        assert_eq!(number(&sse.event().json()), n);
    }
    publish(&node, EVENTS..EVENTS + 1, 1);
    assert_eq!(number(&ws.event()), EVENTS as u64, "and live events after it, once");
    assert_eq!(number(&sse.event().json()), EVENTS as u64);
    // Resumes from before the first event, on another node if the log can have one.
    let epoch = first.split('-').next().expect("an epoch");
    let other = matches!(log, Log::Service(_)).then(|| log.node(&[]));
    let addr = other.as_ref().map_or(node.addr, |other| other.addr);
    let since = format!("{epoch}-{}", u64::MAX);
    let mut ws = Ws::subscribed(addr, json!({"event_types": ["test.numbered"], "since": since}));
    for n in 0..=EVENTS as u64 {
        assert_eq!(number(&ws.event()), n);
    }
}

fn the_newest_so_many_are_found_in_the_log(log: &Log) {
    let node = log.node(&[]);
    first_of_many(&node, 3);
    // The filter matches one stream of three, so a thousand events span three thousand.
    for (query, count) in [("stream=s1&history=700", 700), ("stream=s1&history=100000", 1000)] {
        let mut sse = Sse::open(node.addr, &format!("?{query}"));
        for n in (1_000 - count)..1_000u64 {
            assert_eq!(number(&sse.event().json()), n * 3 + 1);
        }
        assert!(sse.is_silent_until(std::time::Instant::now() + Duration::from_millis(100)));
    }
    let mut ws = Ws::subscribed(node.addr, json!({"event_types": ["test.numbered"], "history": 100_000}));
    for n in 0..EVENTS as u64 {
        assert_eq!(number(&ws.event()), n);
    }
    publish(&node, EVENTS..EVENTS + 1, 3);
    assert_eq!(number(&ws.event()), EVENTS as u64);
}

fn a_snapshot_has_what_only_the_log_has(log: &Log) {
    let node = log.node(&[]);
    first_of_many(&node, 1);
    publish(&node, 7..8, 1);
    let mut ws = Ws::subscribed(node.addr, json!({"event_types": ["test.numbered"], "snapshot": true}));
    for n in (0..EVENTS as u64).filter(|n| *n != 7).chain([7]) {
        assert_eq!(number(&ws.event()), n, "the latest of each, oldest first");
    }
    let mut named = Ws::subscribed(
        node.addr,
        json!({"entities": [{"kind": "k", "id": "3"}, {"kind": "k", "id": "2500"}], "snapshot": true}),
    );
    assert_eq!([number(&named.event()), number(&named.event())], [3, 2500]);
    assert!(named.is_silent_for(Duration::from_millis(100)));
}

fn shards_come_whole_and_each_in_its_order(log: &Log) {
    const STREAMS: usize = 7;
    let node = log.node(&["--bus-shards", "3"]);
    // A shard's position in the log is known after its first event.
    for stream in 0..100 {
        publish_as(node.addr, None, &format!("{{\"type\":\"test.first\",\"stream_id\":\"f{stream}\"}}\n"));
    }
    eventually("the node has them", || followed(&node) >= 100);
    let mut client = Ws::connect(node.addr);
    let ack = client.ask(&json!({"type": "subscribe", "payload": {"event_types": ["test.numbered"]}}));
    let mut place = ack["payload"]["last_event_id"].as_str().expect("a position").to_owned();
    assert!(place.contains('~'), "{ack}");
    publish(&node, 0..EVENTS, STREAMS);
    let subscribe =
        |since: &str| Ws::subscribed(node.addr, json!({"event_types": ["test.numbered"], "since": since}));
    let mut ws = subscribe(&place);
    let mut last = [None; STREAMS];
    for seen in 0..EVENTS {
        if seen % 1_000 == 999 {
            // The client disconnects, and returns with its last position.
            ws = subscribe(&place);
        }
        let message = ws.message();
        assert_eq!(message["type"], "event", "{message}");
        message["position"].as_str().expect("a position").clone_into(&mut place);
        let n = number(&message["payload"]);
        let stream = &mut last[n as usize % STREAMS];
        assert!(stream.is_none_or(|last: u64| last + STREAMS as u64 == n), "{n} after {stream:?}");
        *stream = Some(n);
    }
    assert!(last.iter().all(Option::is_some), "{last:?}");
    // The newest events of all shards, of which most are only in the log.
    let mut ws = Ws::subscribed(node.addr, json!({"event_types": ["test.numbered"], "history": 2_500}));
    let mut came: Vec<u64> = (0..2_500).map(|_| number(&ws.event())).collect();
    came.sort_unstable();
    assert_eq!(came.len(), 2_500);
    came.dedup();
    assert_eq!((came.len(), came[2_499]), (2_500, EVENTS as u64 - 1), "each once");
}

fn a_slow_reader_and_what_is_live_meanwhile(log: &Log) {
    let node = log.node(&[]);
    let first = id(&first_of_many(&node, 1));
    let mut ws = Ws::subscribed(node.addr, json!({"event_types": ["test.numbered"], "since": first}));
    // The client reads nothing while the same number of events is published again: it is far behind feed and ring.
    publish(&node, EVENTS..2 * EVENTS, 1);
    std::thread::sleep(Duration::from_millis(300));
    for n in 1..2 * EVENTS as u64 {
        assert_eq!(number(&ws.event()), n);
    }
    publish(&node, 2 * EVENTS..2 * EVENTS + 1, 1);
    assert_eq!(number(&ws.event()), 2 * EVENTS as u64);
}

fn hidden_events_stay_hidden_and_a_revocation_ends_a_replay(log: &Log) {
    let node = log.node(&["--auth-jwt-hs256-secret", SECRET]);
    let admin = support::token(SECRET, &["--sub", "root", "--admin", "--publish", "--stream", "*"]);
    publish_with(&node, Some(&admin), 0..EVENTS, 3);
    let reader = support::token(SECRET, &["--sub", "eve", "--stream", "s1"]);
    let mut client = Ws::over(Wire::connect(node.addr), &format!("/ws?token={reader}"), "");
    let answer = client.ask(&json!({"type": "subscribe", "payload": {"history": 100_000}}));
    let mut next = vec![answer];
    for n in 0..10u64 {
        let mut message = next.pop().unwrap_or_else(|| client.message());
        while message["type"] != "event" {
            message = client.message();
        }
        assert_eq!(number(&message["payload"]), n * 3 + 1, "nothing but its own");
    }
    let body = r#"{"sub":"eve"}"#;
    let request = format!(
        "POST /api/revoke HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {admin}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(http::exchange(node.addr, request.as_bytes()).status, 200);
    let mut came = 10;
    loop {
        let message = client.message();
        match message["type"].as_str() {
            Some("event") => came += 1,
            Some("error") => {
                assert_eq!(message["payload"]["code"], "token_revoked", "{message}");
                break;
            }
            _ => {}
        }
        assert!(came <= 1_000, "nothing twice");
    }
}

fn a_forged_place_is_still_a_gap(log: &Log) {
    let node = log.node(&[]);
    let first = id(&first_of_many(&node, 1));
    let epoch = first.split('-').next().expect("an epoch");
    for since in ["0-5".to_owned(), "1-0".to_owned(), format!("{epoch}0-3"), "zz-7".to_owned()] {
        let mut ws = Ws::connect(node.addr);
        ws.send(&json!({"type": "subscribe", "payload": {"event_types": ["test.numbered"], "since": since}}));
        loop {
            let message = ws.message();
            assert_ne!(message["type"], "event", "{since}: {message}");
            if message["type"] == "gap" {
                assert_eq!(message["payload"]["recoverable"], json!(false), "{since}: {message}");
                break;
            }
        }
    }
}

#[test]
fn events_trimmed_by_redis_are_a_gap_and_the_others_are_delivered() {
    let service = Service::start(Kind::Redis);
    let url = service.url();
    let options = ["--engine", &url, "--engine-history", "1000", "--bus-capacity", "512"];
    let node = Server::with(&options);
    eventually("the node follows the log", || http::get(node.addr, "/readyz").status == 200);
    let first = id(&first_of_many(&node, 1));
    let mut ws = Ws::subscribed(node.addr, json!({"event_types": ["test.numbered"], "since": first}));
    let gap = ws.message();
    assert_eq!(gap["type"], "gap", "{gap}");
    let missed = gap["payload"]["missed"].as_u64().expect("the log knows how many");
    // Redis trims whole nodes of about a hundred entries.
    assert!((1_500..2_000).contains(&missed), "{gap}");
    for n in missed + 1..EVENTS as u64 {
        assert_eq!(number(&ws.event()), n);
    }
}

#[test]
fn a_log_that_dies_midway_is_a_gap_that_can_be_asked_for_again() {
    let service = Service::start(Kind::Redis);
    let url = service.url();
    let options = ["--engine", &url, "--bus-capacity", "512", "--engine-accept-timeout", "2s"];
    let node = Server::with(&options);
    eventually("the node follows the log", || http::get(node.addr, "/readyz").status == 200);
    let first = id(&first_of_many(&node, 1));
    service.pause(true);
    let mut ws = Ws::subscribed(node.addr, json!({"event_types": ["test.numbered"], "since": first}));
    let gap = ws.message();
    assert_eq!((&gap["type"], &gap["payload"]["recoverable"]), (&json!("gap"), &json!(true)), "{gap}");
    let from = gap["payload"]["from"].as_str().expect("where to begin again").to_owned();
    let next = number(&ws.event());
    assert!(next > EVENTS as u64 - 520, "the ring's events come at once: {next}");
    service.pause(false);
    eventually("the node follows the log", || http::get(node.addr, "/readyz").status == 200);
    let mut again = Ws::subscribed(node.addr, json!({"event_types": ["test.numbered"], "since": from}));
    for n in 1..EVENTS as u64 {
        assert_eq!(number(&again.event()), n);
    }
}

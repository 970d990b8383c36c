//! Bursts are written from memory pages that all clients of a feed share: bytes that wait in a socket must not change.
#![cfg(target_os = "linux")]

mod support;

use serde_json::{Value, json};
use support::sse::Sse;
use support::wire::Wire;
use support::ws::Ws;
use support::{Server, http};

const BURSTS: usize = 60;
const A_BURST: usize = 50;
/// Number of clients of each transport.
const CLIENTS: usize = 10;

/// Returns the payload of an event. No two payloads fill a page with the same content.
fn payload(n: usize) -> Value {
    let text: String =
        (0..1000).map(|at| char::from(b'a' + ((n * 131 + at * 7 + at / 26 * n) % 26) as u8)).collect();
    json!({"n": n, "text": text})
}

fn publish(server: &Server, burst: usize) {
    let events = (burst * A_BURST..).take(A_BURST);
    let body: String =
        events.map(|n| json!({"type": "x", "payload": payload(n)}).to_string() + "\n").collect();
    let answer = http::post(server.addr, "/publish", "application/x-ndjson", body.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn shared(server: &Server) -> f64 {
    server.metric("fanwire_server_writes_shared_total").expect("the metric is there")
}

#[test]
fn bytes_in_sockets_are_not_overwritten_by_later_bursts() {
    let server =
        Server::with(&["--max-lag-events", "100000", "--max-lag-bytes", "1GiB", "--heartbeat", "10m"]);
    let mut web_sockets: Vec<Ws> = (0..CLIENTS)
        .map(|n| {
            let wire =
                if n % 2 == 0 { Wire::narrow(server.addr, 16 * 1024) } else { Wire::connect(server.addr) };
            let mut ws = Ws::over(wire, "/ws", "");
            assert_eq!(ws.ask(&json!({"type": "subscribe", "payload": {}}))["type"], "ack");
            ws
        })
        .collect();
    let mut streams: Vec<Sse> = (0..CLIENTS).map(|_| Sse::open(server.addr, "")).collect();
    // No client reads. Two disconnect with much pending for them, which must not affect the others.
    for burst in 0..BURSTS {
        publish(&server, burst);
        if burst == BURSTS / 2 {
            web_sockets.pop();
            streams.pop();
        }
    }
    for n in 0..BURSTS * A_BURST {
        for ws in &mut web_sockets {
            let event = ws.event();
            assert_eq!(event["payload"], payload(n), "event {n}");
        }
        for stream in &mut streams {
            assert_eq!(stream.event().json()["payload"], payload(n), "event {n}");
        }
    }
    // The first bursts fill the sockets, and remain there while the later ones are published.
    let shared = shared(&server);
    assert!(shared >= (2 * CLIENTS) as f64, "{shared} writes were of shared pages");
    server.balanced_ledger();
    assert!(server.metric("fanwire_server_writes_blocked_total").expect("the metric") > 0.0);
}

#[test]
fn few_bytes_few_clients_and_the_setting_share_nothing() {
    let server = Server::with(&["--share-pages-bytes", "0"]);
    let mut clients: Vec<Ws> = (0..CLIENTS).map(|_| Ws::subscribed(server.addr, json!({}))).collect();
    publish(&server, 0);
    assert!(clients.iter_mut().all(|ws| ws.event()["payload"] == payload(0)));
    assert!(shared(&server) < 1.0);

    let server = Server::with(&["--share-pages-bytes", "32KiB"]);
    let mut clients: Vec<Ws> = (0..CLIENTS).map(|_| Ws::subscribed(server.addr, json!({}))).collect();
    let all_get = |clients: &mut [Ws], n| {
        for ws in clients {
            assert_eq!(ws.event()["payload"], payload(n));
        }
    };
    for n in 0..3 {
        server.publish(json!({"type": "x", "payload": payload(n)}).to_string());
        all_get(&mut clients, n);
    }
    assert!(shared(&server) < 1.0, "single events of a kilobyte");
    publish(&server, 0);
    (0..A_BURST).for_each(|n| all_get(&mut clients, n));
    // Writes are counted after they are made.
    support::eventually("a burst is counted", || shared(&server) >= CLIENTS as f64);
    assert!((shared(&server) - CLIENTS as f64).abs() < 1.0, "a burst");
    // A single client would need eight times as many bytes to share pages.
    clients.truncate(1);
    support::eventually("the others are gone", || {
        server.metric("fanwire_server_connections").is_some_and(|open| open < 3.0)
    });
    publish(&server, 0);
    (0..A_BURST).for_each(|n| all_get(&mut clients, n));
    // A later event: the writes of the burst are counted.
    server.publish(json!({"type": "x", "payload": payload(0)}).to_string());
    all_get(&mut clients, 0);
    assert!((shared(&server) - CLIENTS as f64).abs() < 1.0, "one client");
}

//! The end of a server, as its clients see it: they are disconnected one by one, each with its own reconnect delay.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use support::sse::Sse;
use support::wire::deadline;
use support::ws::Ws;
use support::{Server, http, numbered};

/// Returns what a drained WebSocket client receives: the delay in the message, and the close frame.
fn reconnect_of(client: &mut Ws) -> (u64, (u16, String)) {
    let message = client.message();
    assert_eq!(message["type"], "reconnect", "{message}");
    (message["payload"]["delay_ms"].as_u64().expect("a number"), client.closed())
}

#[test]
fn clients_leave_over_the_window_each_with_its_own_time_to_return() {
    let mut server = Server::with(&["--drain-window", "1s", "--drain-return-rate", "10"]);
    let sockets: Vec<Ws> = (0..10).map(|_| Ws::subscribed(server.addr, json!({}))).collect();
    let streams: Vec<Sse> = (0..5).map(|_| Sse::open(server.addr, "")).collect();
    let started = Instant::now();
    server.signal("TERM");
    let mut delays = BTreeSet::new();
    for mut client in sockets {
        let (delay, (code, reason)) = reconnect_of(&mut client);
        assert_eq!((code, reason), (1012, format!("server is shutting down; retry={delay}")));
        delays.insert(delay);
    }
    for mut stream in streams {
        let retry = loop {
            // The first block is the one that every stream begins with.
            match stream.block(deadline()) {
                Ok(block) => stream.retry = block.retry.or(stream.retry),
                Err(_) => break stream.retry,
            }
        };
        delays.insert(retry.expect("a time to come back"));
    }
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert!(started.elapsed() >= Duration::from_millis(800), "the last went at the window's end");
    // Fifteen clients reconnect at ten a second, after a window of a second, and no two at the same time.
    assert_eq!(delays.len(), 15, "{delays:?}");
    assert!(delays.iter().all(|delay| (1500..=3000).contains(delay)), "{delays:?}");
}

#[test]
fn without_a_window_all_leave_at_once_and_still_return_one_by_one() {
    let mut server = Server::with(&["--drain-return-rate", "1"]);
    let clients: Vec<Ws> = (0..4).map(|_| Ws::subscribed(server.addr, json!({}))).collect();
    server.publish(numbered(1));
    server.signal("TERM");
    let mut delays = BTreeSet::new();
    for mut client in clients {
        assert_eq!(client.event()["payload"]["n"], 1, "earlier events come first");
        delays.insert(reconnect_of(&mut client).0);
    }
    assert_eq!(delays.into_iter().collect::<Vec<_>>(), [500, 1500, 2500, 3500]);
    assert!(server.wait().success());
}

#[test]
fn connections_are_accepted_at_the_rate_and_none_is_refused() {
    let server = Server::with(&["--accept-rate", "20"]);
    let started = Instant::now();
    for _ in 0..20 {
        assert_eq!(http::get(server.addr, "/healthz").status, 200);
    }
    // Only the lower bound is checked: a busy machine may take any time.
    assert!(started.elapsed() >= Duration::from_millis(700), "took {:?}", started.elapsed());
}

#[test]
fn readiness_ends_first_and_new_clients_are_still_served() {
    let mut server = Server::with(&["--drain-delay", "2s"]);
    let mut before = Ws::subscribed(server.addr, json!({}));
    server.signal("TERM");
    support::eventually("readiness goes", || http::get(server.addr, "/readyz").status == 503);
    assert_eq!(http::get(server.addr, "/healthz").status, 200);
    let mut late = Ws::subscribed(server.addr, json!({}));
    server.publish(numbered(7));
    for client in [&mut before, &mut late] {
        assert_eq!(client.event()["payload"]["n"], 7);
        reconnect_of(client);
    }
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

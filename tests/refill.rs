//! Pasts that a client requests again: a lost part of its stream, in order and complete, and the whole past of one
//! subscription on a connection with others.

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};
use support::service::{Kind, Service};
use support::wire::Wire;
use support::ws::Ws;
use support::{Server, eventually, http};

/// A client with a small receive buffer, and with these subscriptions.
fn slow(addr: SocketAddr, subscriptions: &[Value]) -> Ws {
    let mut ws = Ws::over(Wire::narrow(addr, 4096), "/ws", "");
    for subscription in subscriptions {
        let answer = ws.ask(&json!({"type": "subscribe", "payload": subscription}));
        assert_eq!(answer["type"], "ack", "{answer}");
    }
    ws
}

/// Publishes numbered events of ten streams in turn.
fn flood(server: &Server, numbers: std::ops::Range<usize>) {
    let pad = "x".repeat(800);
    let numbers: Vec<usize> = numbers.collect();
    for some in numbers.chunks(500) {
        let mut lines = String::new();
        for n in some {
            let (id, kind) = (n % 10, if n % 2 == 0 { "even" } else { "odd" });
            let payload = format!("{{\"n\":{n},\"pad\":\"{pad}\"}}");
            writeln!(lines, "{{\"type\":\"{kind}\",\"stream_id\":\"{id}\",\"payload\":{payload}}}")
                .expect("a string has room");
        }
        server.publish(lines);
    }
}

/// Reads like a client that refills each gap if it can, until it has this many events. Returns their numbers, the gaps
/// that it could not refill, and the number of requests.
fn read_refilling(client: &mut Ws, count: usize, mut place: Value) -> (Vec<usize>, Vec<Value>, usize, Value) {
    let (mut seen, mut gaps, mut refills) = (Vec::new(), Vec::new(), 0);
    let mut is_deaf = false;
    while seen.len() + gaps.iter().map(missed).sum::<usize>() < count {
        let message = client.message();
        match message["type"].as_str() {
            Some("ack") => {
                assert!(is_deaf && message["payload"]["since"].is_string(), "{message}");
                is_deaf = false;
            }
            _ if is_deaf => {}
            Some("event") => {
                let n = message["payload"]["payload"]["n"].as_u64().expect("a number") as usize;
                seen.push(n);
                place = if message["position"].is_null() {
                    message["payload"]["event_id"].clone()
                } else {
                    message["position"].clone()
                };
            }
            // After a burst beyond its limits the feed no longer has the event before the gap, but the client has.
            Some("gap")
                if message["payload"]["recoverable"] == true || message["payload"]["from"].is_null() =>
            {
                refills += 1;
                assert!(refills < 100, "no end to it");
                is_deaf = true;
                let from = &message["payload"]["from"];
                let since = if from.is_null() { &place } else { from };
                client.send(&json!({"type": "refill", "message_id": "r", "payload": {"since": since}}));
            }
            Some("gap") => gaps.push(message["payload"].clone()),
            _ => panic!("{message}"),
        }
    }
    (seen, gaps, refills, place)
}

fn missed(gap: &Value) -> usize {
    gap["missed"].as_u64().unwrap_or(0) as usize
}

const FLOOD: usize = 4_000;

fn a_lost_part_comes_again(server: &Server, in_order: bool) {
    // An event that matches both subscriptions is delivered once.
    let all = json!({"subscription_id": "all"});
    let mut client =
        slow(server.addr, &[json!({"event_types": ["even"]}), all, json!({"event_types": ["odd"]})]);
    flood(server, 0..10);
    let (_, _, refills, place) = read_refilling(&mut client, 10, Value::Null);
    assert_eq!(refills, 0);
    let numbers = 10..10 + FLOOD;
    flood(server, numbers.clone());
    let (mut seen, gaps, refills, place) = read_refilling(&mut client, FLOOD, place);
    assert_eq!(gaps, Vec::<Value>::new());
    assert!(refills > 0, "the flood was too small to lag behind");
    if !in_order {
        for stream in 0..10 {
            assert!(seen.iter().filter(|n| *n % 10 == stream).is_sorted(), "stream {stream}");
        }
        seen.sort_unstable();
    }
    assert_eq!(seen, numbers.collect::<Vec<_>>());
    server.balanced_ledger();
    // Live events follow, once.
    flood(server, 10 + FLOOD..13 + FLOOD);
    let mut live = read_refilling(&mut client, 3, place).0;
    live.sort_unstable();
    assert_eq!(live, (10 + FLOOD..13 + FLOOD).collect::<Vec<_>>());
    // A past within the repeated events is not sent twice.
    let past = json!({"subscription_id": "past", "history": 100, "event_types": ["even"]});
    client.send(&json!({"type": "subscribe", "payload": past}));
    client.send(&json!({"type": "ping", "message_id": "until here"}));
    loop {
        let message = client.message();
        match message["type"].as_str() {
            Some("event") => {
                let n = message["payload"]["payload"]["n"].as_u64().expect("a number");
                panic!("again: {n}");
            }
            Some("pong") => break,
            _ => {}
        }
    }
}

const LIMITS: [&str; 4] = ["--max-lag-events", "100", "--bus-capacity", "8192"];

#[test]
fn on_one_shard() {
    a_lost_part_comes_again(&Server::with(&LIMITS), true);
}

#[test]
fn on_several_shards_and_loops() {
    let more = [&LIMITS[..], &["--bus-shards", "4", "--loops", "2"]].concat();
    a_lost_part_comes_again(&Server::with(&more), false);
}

#[test]
fn over_redis_from_its_log_where_the_ring_is_short() {
    let service = Service::start(Kind::Redis);
    let server =
        Server::with(&["--engine", &service.url(), "--max-lag-events", "100", "--bus-capacity", "1024"]);
    eventually("the node follows the log", || http::get(server.addr, "/readyz").status == 200);
    a_lost_part_comes_again(&server, true);
}

#[test]
fn events_released_by_the_ring_meanwhile_are_a_counted_gap_and_not_asked_for_again() {
    let server = Server::with(&["--max-lag-events", "100", "--bus-capacity", "1024"]);
    let mut client = slow(server.addr, &[json!({})]);
    flood(&server, 0..1);
    let from = client.event()["event_id"].clone();
    flood(&server, 1..800);
    // The gap could be refilled when the client got it, but no longer when the client asks.
    while client.message()["type"] != "gap" {}
    flood(&server, 800..FLOOD);
    client.send(&json!({"type": "refill", "message_id": "r", "payload": {"since": from}}));
    while client.message()["type"] != "ack" {}
    let gap = client.message();
    assert_eq!((&gap["type"], &gap["payload"]["recoverable"]), (&json!("gap"), &json!(false)), "{gap}");
    assert_eq!(gap["payload"]["from"], from, "{gap}");
    let first = client.message();
    let mut next = first["payload"]["payload"]["n"].as_u64().expect("an event");
    while next < FLOOD as u64 - 1 {
        next += 1;
        assert_eq!(client.message()["payload"]["payload"]["n"], next);
    }
    server.balanced_ledger();
}

#[test]
fn under_every_policy_a_client_may_send_requests_and_the_ledger_balances() {
    for policy in ["conflate", "drop_newest", "sample"] {
        let server = Server::with(&LIMITS);
        let subscription = match policy {
            "sample" => json!({"on_lag": policy, "max_per_second": 10}),
            _ => json!({"on_lag": policy}),
        };
        let mut client = slow(server.addr, &[subscription]);
        flood(&server, 0..1);
        let since = client.event()["event_id"].clone();
        flood(&server, 1..FLOOD);
        client.send(&json!({"type": "refill", "message_id": "r", "payload": {"since": since}}));
        while client.message()["type"] != "ack" {}
        for n in 1..FLOOD {
            let message = client.message();
            assert_eq!(message["payload"]["payload"]["n"], n, "{policy}: {message}");
        }
        server.balanced_ledger();
    }
}

#[test]
fn a_place_that_is_not_known_is_a_gap_and_without_subscriptions_there_is_nothing() {
    let server = Server::start();
    flood(&server, 0..3);
    let mut client = Ws::connect(server.addr);
    let ask = |since: &str| json!({"type": "refill", "message_id": "r", "payload": {"since": since}});
    assert_eq!(client.ask(&ask("zzz-1"))["type"], "ack");
    assert_eq!(client.ask(&json!({"type": "ping"}))["type"], "pong", "and nothing else");
    assert_eq!(client.ask(&json!({"type": "subscribe"}))["type"], "ack");
    assert_eq!(client.ask(&ask("zzz-1"))["type"], "ack");
    let gap = client.message();
    assert_eq!((&gap["type"], &gap["payload"]["recoverable"]), (&json!("gap"), &json!(false)), "{gap}");
    flood(&server, 3..4);
    assert_eq!(client.event()["payload"]["n"], 3);
}

#[test]
fn a_past_of_its_own_is_complete_although_others_have_it() {
    for options in [&[][..], &["--bus-shards", "4"]] {
        let server = Server::with(options);
        flood(&server, 0..10);
        let mut client = Ws::connect(server.addr);
        let mut past = |payload: Value| {
            client.send(&json!({"type": "subscribe", "message_id": "s", "payload": payload}));
            client.send(&json!({"type": "ping", "message_id": "until here"}));
            let mut numbers = Vec::new();
            loop {
                let message = client.message();
                match message["type"].as_str() {
                    Some("event") => numbers.push(message["payload"]["payload"]["n"].as_u64().expect("n")),
                    Some("pong") => break,
                    Some("gap") => panic!("{message}"),
                    _ => {}
                }
            }
            numbers.sort_unstable();
            numbers
        };
        let everything: Vec<u64> = (0..10).collect();
        assert_eq!(past(json!({"subscription_id": "a", "history": 100})), everything);
        assert_eq!(
            past(json!({"subscription_id": "b", "history": 100})),
            [0_u64; 0],
            "unasked for, it comes once"
        );
        assert_eq!(past(json!({"subscription_id": "c", "history": 100, "own_past": true})), everything);
        let even = json!({"subscription_id": "d", "history": 3, "own_past": true, "event_types": ["even"]});
        // With several shards, the newest events of one batch follow the order of the shards.
        let newest = past(even.clone());
        assert!(newest.len() == 3 && (!options.is_empty() || newest == [4, 6, 8]), "{newest:?}");
        assert_eq!(past(even), newest, "also in its own place");
        flood(&server, 10..11);
        assert_eq!(client.event()["payload"]["n"], 10);
        assert_eq!(client.ask(&json!({"type": "ping"}))["type"], "pong", "live, it comes once");
    }
}

#[test]
fn the_server_lists_its_capabilities() {
    let server = Server::start();
    let mut client = Ws::connect(server.addr);
    let info = client.ask(&json!({"type": "request", "payload": {"action": "server_info"}}));
    let listed = info["payload"]["capabilities"].as_array().expect("a list").clone();
    for capability in ["filter", "history_end", "lean", "own_past", "refill"] {
        assert!(listed.contains(&json!(capability)), "{capability}: {listed:?}");
    }
}

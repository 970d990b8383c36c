//! Slow clients with `on_lag=catch_up`: they continue to read from the past, and lose no retained event.

mod support;

use std::net::SocketAddr;

use serde_json::{Value, json};
use support::Server;
use support::http::read_head;
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::Ws;

const RULE: &str = "by=stream; end=run.finished; match=stream=run-*";

/// Forms of a server whose feeds hold little. With one loop the ring evicts most of a flood; with several loops it
/// could lap one.
const FORMS: [&[&str]; 3] = [
    &["--bus-capacity", "1024", "--max-lag-events", "16", "--loops", "1"],
    &["--bus-capacity", "1024", "--max-lag-events", "16", "--bus-shards", "4", "--loops", "1"],
    &["--bus-capacity", "16384", "--max-lag-events", "16", "--bus-shards", "4", "--loops", "2"],
];

/// Number of events that fill a narrow socket and its server's feed many times.
const FLOOD: u64 = 5_000;

fn server(form: &[&str]) -> Server {
    Server::with(&[&["--retain", RULE], form].concat())
}

/// Publishes the numbered tokens of a run, with 800 bytes of padding.
fn flood(server: &Server, stream: &str, from: u64, count: u64) {
    // The padding is random, so that it does not compress to a tenth.
    let digit = |at: u64| u64::wrapping_mul(at, 0x9E37_79B9_7F4A_7C15) >> 40;
    let pad = |n: u64| (0..130).fold(String::new(), |pad, at| pad + &format!("{:06x}", digit(n * 131 + at)));
    let token = |n| json!({"type": "token", "stream_id": stream, "payload": {"n": n, "pad": pad(n)}});
    for first in (from..from + count).step_by(200) {
        let events: Vec<Value> = (first..(first + 200).min(from + count)).map(token).collect();
        server.publish(Value::from(events).to_string());
    }
}

/// Opens a WebSocket that lags as soon as it does not read.
fn slow(addr: SocketAddr, headers: &str) -> Ws {
    Ws::over(Wire::narrow(addr, 4096), "/ws", headers)
}

/// Opens an event stream that lags as soon as it does not read.
fn slow_stream(addr: SocketAddr, target: &str) -> Sse {
    let mut wire = Wire::narrow(addr, 4096);
    wire.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    let response = read_head(&mut wire, deadline()).expect("an answer");
    assert_eq!(response.status, 200);
    Sse::from_wire(wire, response)
}

fn subscribe(client: &mut Ws, payload: Value) -> Value {
    client.send(&json!({"type": "subscribe", "message_id": "m", "payload": payload}));
    client.any_message()
}

/// Returns the numbers of the next `count` events. Anything else is a fault.
fn numbers(client: &mut Ws, count: u64) -> Vec<u64> {
    let mut number = || {
        let message = client.message();
        assert_eq!(message["type"], "event", "{message}");
        message["payload"]["payload"]["n"].as_u64().expect("a number")
    };
    (0..count).map(|_| number()).collect()
}

/// Reads messages of a connection with compression.
struct Unpacked {
    client: Ws,
    inflater: flate2::Decompress,
}

impl Unpacked {
    fn message(&mut self) -> Value {
        loop {
            let frame = self.client.read_frame(deadline()).expect("a message");
            if frame.opcode() != 1 {
                continue;
            }
            if frame.first & 0x40 == 0 {
                return serde_json::from_slice(&frame.payload).expect("JSON");
            }
            let input = [&frame.payload, &[0, 0, 0xff, 0xff][..]].concat();
            let mut text = Vec::with_capacity(256 * 1024);
            self.inflater.decompress_vec(&input, &mut text, flate2::FlushDecompress::Sync).expect("deflated");
            return serde_json::from_slice(&text).expect("JSON");
        }
    }
}

fn catch_ups(server: &Server) -> f64 {
    server.metric("fanwire_server_catch_ups_total").expect("a counter")
}

#[test]
fn a_slow_client_loses_nothing_that_is_kept() {
    for form in FORMS {
        let server = server(form);
        let mut client = slow(server.addr, "");
        let ack = subscribe(&mut client, json!({"stream_ids": ["run-1"], "on_lag": "catch_up"}));
        assert_eq!(ack["type"], "ack", "{ack}");
        let mut stream = slow_stream(server.addr, "/sse?stream=run-1&on_lag=catch_up");
        let mut lean = slow_stream(server.addr, "/sse?stream=run-1&on_lag=catch_up&lean");
        flood(&server, "run-1", 0, FLOOD);
        assert!(catch_ups(&server) >= 3.0, "{form:?}");
        let all: Vec<u64> = (0..FLOOD).collect();
        assert_eq!(numbers(&mut client, FLOOD), all, "{form:?}");
        let got: Vec<Value> = (0..FLOOD).map(|_| stream.event().json()["payload"]["n"].clone()).collect();
        assert_eq!(got, all, "{form:?}");
        let got: Vec<Value> = (0..FLOOD).map(|_| lean.event().json()["n"].clone()).collect();
        assert_eq!(got, all, "{form:?}");
        // The client is live again.
        flood(&server, "run-1", FLOOD, 3);
        assert_eq!(numbers(&mut client, 3), [FLOOD, FLOOD + 1, FLOOD + 2], "{form:?}");
        let books = server.balanced_ledger();
        assert_eq!(books["dropped"], 0, "{books}");
    }
}

#[test]
fn several_subscriptions_and_compression_lose_nothing_either() {
    for form in FORMS {
        let server = server(form);
        let client = slow(server.addr, "Sec-WebSocket-Extensions: permessage-deflate\r\n");
        let mut client = Unpacked { client, inflater: flate2::Decompress::new(false) };
        for run in ["run-1", "run-2"] {
            let payload = json!({"subscription_id": run, "stream_ids": [run], "on_lag": "catch_up"});
            client.client.send(&json!({"type": "subscribe", "payload": payload}));
            assert_eq!(client.message()["type"], "ack");
        }
        for first in (0..FLOOD).step_by(500) {
            flood(&server, "run-1", first, 250);
            flood(&server, "run-2", first + 250, 250);
        }
        let numbers = (0..FLOOD).map(|_| client.message()["payload"]["payload"]["n"].clone());
        assert_eq!(numbers.collect::<Vec<_>>(), (0..FLOOD).collect::<Vec<_>>(), "{form:?}");
        assert!(catch_ups(&server) >= 1.0, "{form:?}");
        assert_eq!(server.balanced_ledger()["dropped"], 0);
    }
}

/// The client's messages are answered after the events before them.
#[test]
fn a_change_while_it_catches_up_begins_at_the_place_in_its_answer() {
    let server = server(FORMS[0]);
    let mut client = slow(server.addr, "");
    let subscription = |name: &str, run: &str| json!({"type": "subscribe", "payload": {"subscription_id": name, "stream_ids": [run], "on_lag": "catch_up"}});
    assert_eq!(client.ask(&subscription("s", "run-1"))["type"], "ack");
    flood(&server, "run-1", 0, FLOOD);
    client.send(&subscription("s", "run-2"));
    assert_eq!(numbers(&mut client, FLOOD), (0..FLOOD).collect::<Vec<_>>());
    assert_eq!(client.any_message()["type"], "ack");
    flood(&server, "run-1", 0, 10);
    flood(&server, "run-2", 0, 10);
    assert_eq!(numbers(&mut client, 10), (0..10).collect::<Vec<_>>());
}

#[test]
fn events_that_nothing_retains_are_a_gap() {
    let server = Server::with(FORMS[0]);
    let mut stream = slow_stream(server.addr, "/sse?on_lag=catch_up");
    flood(&server, "chat", 0, FLOOD);
    let (mut came, mut missed) = (0, 0);
    while came + missed < FLOOD {
        let block = stream.event();
        if block.event.as_deref() == Some("gap") {
            missed += block.json()["missed"].as_u64().expect("everything was asked for");
        } else {
            assert_eq!(block.json()["payload"]["n"], came + missed);
            came += 1;
        }
    }
    assert!(missed > 0 && came > 64, "{came} came, {missed} missed");
}

#[test]
fn a_run_that_ends_meanwhile_is_read_to_its_end() {
    let server = server(FORMS[0]);
    let mut stream = slow_stream(server.addr, "/sse?stream=run-1&on_lag=catch_up");
    flood(&server, "run-1", 0, FLOOD);
    server.publish(json!({"type": "run.finished", "stream_id": "run-1"}).to_string());
    for n in 0..FLOOD {
        assert_eq!(stream.event().json()["payload"]["n"], n);
    }
    assert_eq!(stream.event().event.as_deref(), Some("run.finished"));
    assert_eq!(stream.event().event.as_deref(), Some("end"));
    assert!(stream.block(deadline()).is_err(), "the stream is over");
}

#[test]
fn it_is_refused_beside_policies_that_leave_events_out() {
    let server = Server::start();
    for (one, other) in [("catch_up", "conflate"), ("sample", "catch_up")] {
        let mut client = Ws::connect(server.addr);
        let ack = subscribe(&mut client, json!({"subscription_id": "one", "on_lag": one}));
        assert_eq!(ack["type"], "ack", "{ack}");
        let refused = subscribe(&mut client, json!({"subscription_id": "other", "on_lag": other}));
        assert_eq!(refused["payload"]["code"], "invalid_on_lag", "{refused}");
        let replaced = subscribe(&mut client, json!({"subscription_id": "one", "on_lag": other}));
        assert_eq!(replaced["type"], "ack", "{replaced}");
    }
}

/// Sends a message, and waits until the server has read it.
fn tell(server: &Server, client: &mut Ws, kind: &str, payload: Value) {
    let read = || server.metric("fanwire_server_messages_received_total").expect("a counter");
    let before = read();
    client.send(&json!({"type": kind, "message_id": kind, "payload": payload}));
    support::eventually("the message is read", || read() > before);
}

/// Returns the next message, which must have this type and answer a message of this kind.
fn answered(client: &mut Ws, message_type: &str, kind: &str) {
    let message = client.any_message();
    assert_eq!(
        (&message["type"], &message["correlation_id"]),
        (&json!(message_type), &json!(kind)),
        "{message}"
    );
}

/// Reads events of one stream with these numbers.
fn expect(client: &mut Ws, stream: &str, from: u64, count: u64) {
    for n in from..from + count {
        let event = client.event();
        let place = (event["stream_id"].as_str(), event["payload"]["n"].as_u64());
        assert_eq!(place, (Some(stream), Some(n)), "of {from} and {count} more");
    }
}

/// The client reads nothing before it has sent all of its messages, so it is behind at each of them.
#[test]
fn a_client_that_never_catches_up_is_read_and_answered_in_order() {
    const N: u64 = 1_000;
    for form in FORMS {
        let rule = "by=stream; bytes=64MiB; match=stream=run-*";
        let server = Server::with(&[&["--retain", rule], form].concat());
        let mut client = slow(server.addr, "");
        let of = |name: &str, run: &str| json!({"subscription_id": name, "stream_ids": [run], "on_lag": "catch_up"});
        assert_eq!(subscribe(&mut client, of("one", "run-1"))["type"], "ack");
        flood(&server, "run-1", 0, N);
        assert!(catch_ups(&server) >= 1.0, "{form:?}");
        tell(&server, &mut client, "ping", json!({}));
        flood(&server, "run-2", 0, 10);
        flood(&server, "run-1", N, N);
        let added = json!({"subscription_id": "one", "add": {"stream_ids": ["run-2"]}});
        tell(&server, &mut client, "update", added);
        flood(&server, "run-2", 10, N);
        tell(&server, &mut client, "subscribe", of("three", "run-3"));
        flood(&server, "run-3", 0, N);
        tell(&server, &mut client, "unsubscribe", json!({"subscription_id": "one"}));
        flood(&server, "run-1", 2 * N, N);
        flood(&server, "run-3", N, N);
        let mut past = of("four", "run-1");
        past["from"] = json!("start");
        tell(&server, &mut client, "subscribe", past);
        flood(&server, "run-1", 3 * N, N);
        expect(&mut client, "run-1", 0, N);
        answered(&mut client, "pong", "ping");
        expect(&mut client, "run-1", N, N);
        answered(&mut client, "ack", "update");
        expect(&mut client, "run-2", 10, N);
        answered(&mut client, "ack", "subscribe");
        expect(&mut client, "run-3", 0, N);
        answered(&mut client, "ack", "unsubscribe");
        expect(&mut client, "run-3", N, N);
        answered(&mut client, "ack", "subscribe");
        expect(&mut client, "run-1", 0, 3 * N);
        assert_eq!(client.any_message()["type"], "history_end", "{form:?}");
        expect(&mut client, "run-1", 3 * N, N);
        assert_eq!(server.balanced_ledger()["dropped"], 0);
    }
}

/// Messages beyond those that the server takes wait in the socket, and a close before them does not.
#[test]
fn a_close_does_not_wait_until_the_client_has_caught_up() {
    let server = server(FORMS[0]);
    let mut client = slow(server.addr, "");
    let of_run = json!({"stream_ids": ["run-1"], "on_lag": "catch_up"});
    assert_eq!(subscribe(&mut client, of_run)["type"], "ack");
    flood(&server, "run-1", 0, FLOOD);
    tell(&server, &mut client, "ping", json!({}));
    flood(&server, "run-1", FLOOD, 10);
    client.wire.send(&support::ws::frame(support::ws::CLOSE, &1000_u16.to_be_bytes()));
    support::eventually("the client has no subscription", || {
        server.metric("fanwire_server_subscriptions") == Some(0.0)
    });
    let mut came = 0;
    let code = loop {
        let frame = client.read_frame(deadline()).expect("a frame");
        match frame.opcode() {
            support::ws::TEXT => came += 1,
            support::ws::CLOSE => break frame.close().0,
            _ => {}
        }
    };
    assert!(code == 1000 && came < FLOOD, "{code} after {came}");
}

/// Messages of a client that is behind wait in bounded memory, and each is answered in the end.
#[test]
fn many_messages_of_a_client_that_is_behind_are_answered() {
    const PINGS: u64 = 5_000;
    let server = server(FORMS[0]);
    let mut client = slow(server.addr, "");
    let of_run = json!({"stream_ids": ["run-1"], "on_lag": "catch_up"});
    assert_eq!(subscribe(&mut client, of_run)["type"], "ack");
    flood(&server, "run-1", 0, FLOOD);
    let mut wire = Wire::new(client.wire.stream.try_clone().expect("a second handle"));
    let pings = std::thread::spawn(move || {
        let ping = support::ws::frame(support::ws::TEXT, br#"{"type":"ping"}"#);
        (0..PINGS).for_each(|_| wire.send(&ping));
    });
    let (mut events, mut pongs) = (0, 0);
    while (events, pongs) != (FLOOD, PINGS) {
        let message = client.any_message();
        match message["type"].as_str() {
            Some("event") => {
                assert_eq!(message["payload"]["payload"]["n"], events);
                events += 1;
            }
            Some("pong") => pongs += 1,
            _ => panic!("{message}"),
        }
    }
    pings.join().expect("all are sent");
}

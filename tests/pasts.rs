//! A past requested on a connection with live subscriptions: it delivers every event that they did not, and no event is
//! delivered twice on one connection.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::service::{Kind, Service};
use support::ws::Ws;
use support::{Server, eventually, http};

/// Publishes numbers, even ones in stream `even`, odd ones in `odd`. Returns the ids by number.
fn publish(server: &Server, numbers: std::ops::Range<u64>) -> Vec<String> {
    let one = |n: u64| {
        let stream = if n.is_multiple_of(2) { "even" } else { "odd" };
        let event = json!({"type": "test.numbered", "stream_id": stream, "payload": {"n": n}});
        server.publish(event.to_string())["last_event_id"].as_str().expect("an id").to_owned()
    };
    numbers.map(one).collect()
}

fn subscribe(client: &mut Ws, payload: Value) {
    client.send(&json!({"type": "subscribe", "payload": payload}));
}

/// Returns the numbers of the events up to the answer to a ping, without acks. A gap is a fault.
fn numbers(client: &mut Ws) -> Vec<u64> {
    client.send(&json!({"type": "ping", "message_id": "until here"}));
    let mut got = Vec::new();
    loop {
        let message = client.message();
        match message["type"].as_str() {
            Some("event") => got.push(message["payload"]["payload"]["n"].as_u64().expect("a number")),
            Some("ack") => {}
            Some("pong") => break,
            _ => panic!("neither an event nor an answer: {message}"),
        }
    }
    got
}

/// Returns the numbers in order, for any number of shards.
fn sorted(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    numbers
}

fn a_past_beside_live_ones(server: &Server) {
    let ids = publish(server, 0..10);
    // An accepted event is in the log, but if this node has not read it yet, it is live for a new subscriber.
    eventually("the node has read all published events", || {
        let mut reader = Ws::connect(server.addr);
        subscribe(&mut reader, json!({"history": 1000}));
        numbers(&mut reader).len() == 10
    });
    // One subscription has everything live. Another one, for half of it, requests a past.
    let mut client = Ws::subscribed(server.addr, json!({"subscription_id": "live"}));
    publish(server, 10..14);
    let mut live = Vec::new();
    eventually("what is live came", || {
        live.extend(numbers(&mut client));
        live.len() == 4
    });
    assert_eq!(sorted(live), [10, 11, 12, 13]);
    subscribe(&mut client, json!({"subscription_id": "past", "history": 1000, "stream_ids": ["even"]}));
    assert_eq!(numbers(&mut client), [0, 2, 4, 6, 8], "the past, and no live event");
    subscribe(&mut client, json!({"subscription_id": "again", "history": 1000, "stream_ids": ["even"]}));
    assert_eq!(numbers(&mut client), [0_u64; 0], "it has all of that");
    subscribe(&mut client, json!({"subscription_id": "all", "history": 1000}));
    assert_eq!(
        sorted(numbers(&mut client)),
        [1, 3, 5, 7, 9],
        "only events that no other subscription delivered"
    );
    publish(server, 14..16);
    let mut live = Vec::new();
    eventually("what is live came", || {
        live.extend(numbers(&mut client));
        live.len() == 2
    });
    assert_eq!(sorted(live), [14, 15], "once, with any number of subscriptions that want it");
    // From a position instead of by a number of events, on a connection that has received nothing.
    let mut client = Ws::subscribed(server.addr, json!({"subscription_id": "live", "stream_ids": ["even"]}));
    subscribe(&mut client, json!({"subscription_id": "since", "since": ids[5]}));
    let came = sorted(numbers(&mut client));
    assert!(came.ends_with(&[10, 11, 12, 13, 14, 15]), "{came:?}");
    assert_eq!(came.iter().collect::<std::collections::HashSet<_>>().len(), came.len(), "{came:?}");
    subscribe(&mut client, json!({"subscription_id": "before", "history": 1000, "stream_ids": ["odd"]}));
    assert_eq!(sorted([came, numbers(&mut client)].concat()).len(), {
        // Even events before the position were not requested. All odd events have arrived by now.
        let even_before = (0..=5).filter(|n| n % 2 == 0).count();
        16 - even_before
    });
    assert!(client.is_silent_for(Duration::from_millis(50)));
}

#[test]
fn on_one_shard() {
    a_past_beside_live_ones(&Server::start());
}

#[test]
fn on_several_shards() {
    a_past_beside_live_ones(&Server::with(&["--bus-shards", "4"]));
}

#[test]
fn over_redis() {
    let service = Service::start(Kind::Redis);
    let server = Server::with(&["--engine", &service.url()]);
    eventually("the node follows the log", || http::get(server.addr, "/readyz").status == 200);
    a_past_beside_live_ones(&server);
}

#[test]
fn a_limited_past_is_the_newest_that_no_other_brought() {
    let server = Server::start();
    publish(&server, 0..10);
    let mut client = Ws::subscribed(server.addr, json!({"subscription_id": "live", "stream_ids": ["even"]}));
    publish(&server, 10..14);
    assert_eq!(numbers(&mut client), [10, 12]);
    subscribe(&mut client, json!({"subscription_id": "past", "history": 5}));
    assert_eq!(numbers(&mut client), [7, 8, 9, 11, 13]);
    // Another subscription that begins earlier gets the rest.
    subscribe(&mut client, json!({"subscription_id": "more", "history": 3}));
    assert_eq!(numbers(&mut client), [4, 5, 6]);
    // A subscription that replaces another delivers nothing again.
    subscribe(&mut client, json!({"subscription_id": "more", "history": 1000}));
    assert_eq!(numbers(&mut client), [0, 1, 2, 3]);
}

#[test]
fn events_of_a_snapshot_are_not_delivered_again() {
    let server = Server::start();
    let event = |key: &str, n: u64| {
        server.publish(
            json!({"type": "price", "entity": {"kind": "symbol", "id": key}, "payload": {"n": n}})
                .to_string(),
        );
    };
    (0..3).for_each(|n| event("a", n));
    event("b", 3);
    let mut client = Ws::connect(server.addr);
    subscribe(&mut client, json!({"subscription_id": "prices", "snapshot": true}));
    assert_eq!(sorted(numbers(&mut client)), [2, 3]);
    subscribe(&mut client, json!({"subscription_id": "past", "history": 100, "event_types": ["price"]}));
    let came = numbers(&mut client);
    assert!(!came.contains(&2) && !came.contains(&3), "{came:?}");
}

/// Returns everything to the end of a past: the events' numbers, gaps, and the end.
fn past(client: &mut Ws) -> (Vec<u64>, Vec<Value>, Value) {
    let (mut came, mut gaps) = (Vec::new(), Vec::new());
    loop {
        let message = client.any_message();
        match message["type"].as_str() {
            Some("event") => {
                assert!(gaps.is_empty() || !came.is_empty() || gaps.len() == 1, "{gaps:?}");
                came.push(message["payload"]["payload"]["n"].as_u64().expect("a number"));
            }
            Some("gap") => gaps.push(message["payload"].clone()),
            Some("history_end") => {
                assert_eq!(message["correlation_id"], Value::Null);
                let end = message["payload"].clone();
                assert_eq!(end["events"].as_u64(), Some(came.len() as u64), "{message}");
                assert_eq!(end["complete"], gaps.is_empty(), "{message} {gaps:?}");
                return (came, gaps, end);
            }
            _ => panic!("neither an event nor the end: {message}"),
        }
    }
}

/// Asks for a past. Returns the `history` of the answer, the events, and the gaps.
fn asked(client: &mut Ws, payload: Value) -> (Value, Vec<u64>, Vec<Value>) {
    let name = payload["subscription_id"].clone();
    client.send(&json!({"type": "subscribe", "message_id": "m", "payload": payload}));
    let ack = client.any_message();
    assert_eq!((&ack["type"], &ack["correlation_id"]), (&json!("ack"), &json!("m")), "{ack}");
    let (came, gaps, end) = past(client);
    assert_eq!(end["subscription_id"], name);
    (ack["payload"]["history"].clone(), came, gaps)
}

#[test]
fn a_past_has_its_end() {
    let server = Server::start();
    let ids = publish(&server, 0..10);
    for protocol in ["fanwire.v1", "fanwire.v1.lean"] {
        let header = format!("Sec-WebSocket-Protocol: {protocol}\r\n");
        let mut client = Ws::over(support::wire::Wire::connect(server.addr), "/ws", &header);
        let live = client
            .ask(&json!({"type": "subscribe", "payload": {"subscription_id": "live", "event_types": ["x"]}}));
        assert_eq!(live["payload"].get("history"), None, "{live}");
        for (payload, from, events) in [
            (json!({"subscription_id": "a", "history": 3, "event_types": ["test.*"]}), json!(ids[6]), 3),
            (json!({"subscription_id": "b", "since": ids[1], "stream_ids": ["even"]}), json!(ids[1]), 4),
            (json!({"subscription_id": "c", "snapshot": true, "event_types": ["y"]}), json!(null), 0),
            (json!({"subscription_id": "d", "history": 0}), json!(ids[9]), 0),
        ] {
            let name = payload["subscription_id"].clone();
            client.send(&json!({"type": "subscribe", "message_id": "m", "payload": payload}));
            let ack = client.any_message();
            assert_eq!(ack["payload"]["history"], json!({"from": from, "complete": true}), "{ack}");
            assert_eq!(ack["payload"]["last_event_id"], ids[9]);
            for _ in 0..events {
                let event = client.any_message();
                assert!(event["type"] == "event" || event["event_type"] == "test.numbered", "{event}");
            }
            let end = client.any_message();
            assert_eq!(end["type"], "history_end");
            assert_eq!(end["payload"], json!({"subscription_id": name, "events": events, "complete": true}));
            if name == "d" {
                continue;
            }
            let gone = client.ask(&json!({"type": "unsubscribe", "payload": {"subscription_id": name}}));
            assert_eq!(gone["type"], "ack", "messages after the end are answered: {gone}");
        }
    }
    // If all events ever published are delivered, the past is complete for any requested number.
    let mut client = Ws::connect(server.addr);
    let (start, came, _) = asked(&mut client, json!({"subscription_id": "all", "history": 1_000_000}));
    assert_eq!((&start["complete"], came.len()), (&json!(true), 10));
    // A server without any event reports an empty past.
    let server = Server::start();
    let mut client = Ws::connect(server.addr);
    let (start, came, gaps) = asked(&mut client, json!({"subscription_id": "none", "history": 5}));
    assert_eq!((&start["complete"], came.len(), gaps.len()), (&json!(true), 0, 0));
}

/// Returns the end of a past, as the event stream contains it.
fn end_of_stream(addr: std::net::SocketAddr, query: &str) -> (String, usize) {
    let mut wire = support::wire::Wire::connect(addr);
    wire.send(format!("GET /sse{query} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    let text = wire.take_until(b"complete=", support::wire::deadline()).expect("an end");
    let word = wire.take_until(b"\n\n", support::wire::deadline()).expect("a word");
    let text = String::from_utf8([text, word].concat()).expect("text");
    let at = text.rfind(": history_end ").expect("a comment");
    (text[at..].trim_end().to_owned(), text.matches("event: gap").count())
}

/// A run of 2,000 events among 20 others, of which the ring has a part. An older version answered `history:100000` with
/// that part and did not report the rest as missing.
#[test]
fn a_past_that_is_cut_off_is_reported_as_incomplete() {
    let server = Server::with(&["--bus-capacity", "256"]);
    let ids = publish(&server, 0..300);
    let mut client = Ws::connect(server.addr);
    let even = |history: u64| json!({"subscription_id": "s", "history": history, "stream_ids": ["even"]});
    let (start, came, gaps) = asked(&mut client, even(100_000));
    assert_eq!(start["complete"], false);
    assert_eq!(start["from"], ids[43], "the place before the oldest that is there");
    assert_eq!(came, (44..300).step_by(2).collect::<Vec<u64>>());
    let [gap] = gaps.as_slice() else { panic!("one gap, and no other: {gaps:?}") };
    assert_eq!((&gap["from"], &gap["to"], &gap["missed"]), (&json!(null), &json!(ids[43]), &json!(null)));
    assert_eq!(gap["recoverable"], false);
    let mut client = Ws::connect(server.addr);
    let (start, came, gaps) = asked(&mut client, even(20));
    assert_eq!((&start["complete"], came.len(), gaps.len()), (&json!(true), 20, 0), "as many as asked for");
    let (end, gaps) = end_of_stream(server.addr, "?history=100000&stream=even");
    assert_eq!((end.as_str(), gaps), (": history_end events=128 complete=false", 1));
    let (end, gaps) = end_of_stream(server.addr, "?history=7&stream=even&lean");
    assert_eq!((end.as_str(), gaps), (": history_end events=7 complete=true", 0));
    // From a position that the ring has evicted, and from one that never existed.
    for (since, events) in [(ids[3].as_str(), 256), ("zz-7", 0)] {
        let mut client = Ws::connect(server.addr);
        let (start, came, gaps) = asked(&mut client, json!({"subscription_id": "s", "since": since}));
        assert_eq!((&start["complete"], came.len(), gaps.len()), (&json!(false), events, 1));
        assert_eq!(start["from"], since);
    }
    let counted =
        |kind: &str| server.metric(&format!("fanwire_server_pasts_incomplete_total{{kind=\"{kind}\"}}"));
    assert_eq!(
        (counted("history"), counted("since"), counted("snapshot")),
        (Some(2.0), Some(2.0), Some(0.0))
    );
}

/// An older version sent 10,000 of 12,000 keys, and did not report the others as missing.
#[test]
fn a_snapshot_that_is_cut_off_is_reported_as_incomplete() {
    let server = Server::with(&["--max-snapshot-keys", "10"]);
    let key = |n: u64| {
        let event =
            json!({"type": "price", "entity": {"kind": "symbol", "id": n.to_string()}, "payload": {"n": n}});
        server.publish(event.to_string());
    };
    (0..8).for_each(key);
    let snapshot = || asked(&mut Ws::connect(server.addr), json!({"subscription_id": "s", "snapshot": true}));
    let (start, came, gaps) = snapshot();
    assert_eq!((&start["complete"], came.len(), gaps.len()), (&json!(true), 8, 0));
    (8..12).for_each(key);
    let (start, came, gaps) = snapshot();
    assert_eq!((&start["complete"], came), (&json!(false), (2..12).collect::<Vec<u64>>()));
    assert_eq!((gaps.len(), &gaps[0]["to"]), (1, &json!(null)));
    assert_eq!(server.metric("fanwire_server_snapshot_keys_forgotten_total"), Some(2.0));
    let (end, gaps) = end_of_stream(server.addr, "?snapshot=1&entity=symbol:5");
    assert_eq!((end.as_str(), gaps), (": history_end events=1 complete=false", 1));
    // Keys that the ring had evicted before the node began to record them are missing, too.
    let server = Server::with(&["--bus-capacity", "8"]);
    publish(&server, 0..9);
    let (start, came, gaps) =
        asked(&mut Ws::connect(server.addr), json!({"subscription_id": "s", "snapshot": true}));
    assert_eq!((&start["complete"], came, gaps.len()), (&json!(false), vec![7, 8], 1));
}

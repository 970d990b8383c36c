//! Coming back: exactly what was missed, or the truth that it can't be had.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::sse::Sse;
use support::wire::deadline;
use support::ws::Ws;
use support::{Server, numbered};

/// A client of either transport, that gives the events' numbers and ids.
enum Client {
    Ws(Box<Ws>),
    Sse(Box<Sse>),
}

/// What a client can get next.
#[derive(Debug, PartialEq)]
enum Got {
    Event { n: u64, id: String },
    Gap(Value),
}

impl Client {
    fn connect(server: &Server, sse: bool, since: Option<&str>) -> Self {
        if sse {
            let header = since.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
            return Self::Sse(Box::new(Sse::with(server.addr, "?type=test.*", &header)));
        }
        let mut payload = json!({"event_types": ["test.*"]});
        if let Some(id) = since {
            payload["since"] = json!(id);
        }
        Self::Ws(Box::new(Ws::subscribed(server.addr, payload)))
    }

    fn next(&mut self) -> Got {
        let (kind, payload) = match self {
            Self::Ws(ws) => {
                let mut message = ws.message();
                (message["type"].as_str().expect("a type").to_owned(), message["payload"].take())
            }
            Self::Sse(sse) => {
                let event = sse.event();
                (event.event.clone().expect("a name"), event.json())
            }
        };
        match kind.as_str() {
            "gap" => Got::Gap(payload),
            _ => Got::Event {
                n: payload["payload"]["n"].as_u64().unwrap_or_else(|| panic!("not numbered: {payload}")),
                id: payload["event_id"].as_str().expect("an id").to_owned(),
            },
        }
    }
}

#[test]
fn a_client_that_keeps_coming_back_gets_every_event_once_in_order() {
    const EVENTS: u64 = 3000;
    let server = Server::with(&["--loops", "2"]);
    let addr = server.addr;
    let mut clients: Vec<(bool, Client)> =
        [false, true].map(|sse| (sse, Client::connect(&server, sse, None))).into_iter().collect();
    let publisher = std::thread::spawn(move || {
        for n in 0..EVENTS {
            let body = format!("{{\"type\":\"other\"}}\n{}", numbered(n as usize));
            let answer = support::http::post(addr, "/publish", "application/x-ndjson", body.as_bytes());
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    });
    for (sse, client) in &mut clients {
        let mut lives = 0;
        let mut stays = 1;
        for n in 0..EVENTS {
            let Got::Event { n: got, id } = client.next() else {
                panic!("a gap before {n}, in life {lives}")
            };
            assert_eq!(got, n, "sse: {sse}, life {lives}");
            stays -= 1;
            if stays == 0 {
                *client = Client::connect(&server, *sse, Some(&id));
                lives += 1;
                // Now after one event, now after many.
                stays = 1 + (lives * 37) % 90;
            }
        }
        assert!(lives > 30, "{lives} lives");
    }
    publisher.join().expect("published");
}

#[test]
fn who_comes_back_too_late_is_told_and_gets_the_rest_without_a_hole() {
    let server = Server::start();
    let first = server.publish(numbered(0))["last_event_id"].as_str().expect("an id").to_owned();
    // More than any default ring keeps: the first is gone for sure.
    let mut last = 0;
    while server.shard_oldest() == 0 {
        let lines: String = (last + 1..=last + 5000).map(numbered).collect();
        server.publish(lines);
        last += 5000;
        assert!(last < 5_000_000, "the ring has no end");
    }
    for sse in [false, true] {
        let mut client = Client::connect(&server, sse, Some(&first));
        let Got::Gap(gap) = client.next() else { panic!("no gap, though events are gone") };
        assert_eq!(gap["recoverable"], false, "{gap}");
        let missed =
            gap["missed"].as_u64().unwrap_or_else(|| panic!("all events match, so it can be known: {gap}"));
        for n in missed + 1..=last as u64 {
            assert!(matches!(client.next(), Got::Event { n: got, .. } if got == n), "a hole at {n}");
        }
        last += 1;
        server.publish(numbered(last));
        assert!(matches!(client.next(), Got::Event { n, .. } if n == last as u64));
    }
}

#[test]
fn a_resume_and_a_subscribe_with_other_filters_stand_side_by_side() {
    let server = Server::start();
    let first = server.publish(r#"{"type":"a","payload":0}"#)["last_event_id"].clone();
    server.publish(r#"[{"type":"a","payload":1},{"type":"b","payload":2},{"type":"a","payload":3}]"#);
    let mut client = Ws::subscribed(server.addr, json!({"subscription_id": "b", "event_types": ["b"]}));
    client.send(&json!({"type": "subscribe", "payload": {"subscription_id": "a", "event_types": ["a"], "since": first}}));
    assert_eq!(client.message()["type"], "ack");
    server.publish(r#"[{"type":"b","payload":4},{"type":"a","payload":5}]"#);
    let got: Vec<Value> = (0..4).map(|_| client.event()["payload"].clone()).collect();
    assert_eq!(got, [1, 3, 4, 5].map(Value::from));
    assert!(client.is_silent_for(Duration::from_millis(100)));
}

/// What an answer says the client has seen of the bus.
fn position(answer: &Value) -> String {
    answer["payload"]["last_event_id"].as_str().unwrap_or_else(|| panic!("no position: {answer}")).to_owned()
}

#[test]
fn a_client_cut_before_its_first_event_resumes_from_where_it_subscribed() {
    let server = Server::start();
    // On a bus that never had an event, and on one that had some.
    for n in [0, 2] {
        let mut ws = Ws::connect(server.addr);
        let ack = ws.ask(&json!({"type": "subscribe", "payload": {"event_types": ["test.*"]}}));
        let mut sse = Sse::with(server.addr, "?type=test.*", "");
        let told = loop {
            if let Some(id) = sse.block(deadline()).expect("an id before any event").id {
                break id;
            }
        };
        drop((ws, sse));
        server.publish(format!("{}{{\"type\":\"other\"}}\n{}", numbered(n), numbered(n + 1)));
        for (sse, since) in [(false, position(&ack)), (true, told)] {
            let mut client = Client::connect(&server, sse, Some(&since));
            for n in [n, n + 1] {
                assert!(matches!(client.next(), Got::Event { n: got, .. } if got == n as u64), "sse: {sse}");
            }
        }
    }
}

#[test]
fn a_pong_says_how_far_a_quiet_client_has_come() {
    let server = Server::start();
    let mut ws = Ws::subscribed(server.addr, json!({"event_types": ["rare"]}));
    server.publish(r#"{"type":"rare"}"#);
    let last = server.publish(r#"[{"type":"other"},{"type":"other"}]"#)["last_event_id"].clone();
    ws.send(&json!({"type": "ping"}));
    assert_eq!(ws.event()["event_type"], "rare", "what it wanted stands before the pong");
    let pong = ws.message();
    assert_eq!((&pong["type"], &pong["payload"]["last_event_id"]), (&json!("pong"), &last));
}

/// What stands behind the sequence.
fn shard(id: &str) -> Option<&str> {
    id.split_once('.').map(|(_, shard)| shard)
}

#[test]
fn with_several_shards_one_id_resumes_its_own_shard_and_the_rest_is_told_as_a_gap() {
    let server = Server::with(&["--bus-shards", "8"]);
    let event = |stream: usize, n: usize| {
        format!("{{\"type\":\"test\",\"stream_id\":\"s{stream}\",\"payload\":{{\"n\":{n}}}}}\n")
    };
    let first = server.publish(event(0, 0))["last_event_id"].as_str().expect("an id").to_owned();
    server.publish((1..=20).map(|n| event(n % 4, n)).collect::<String>());
    for sse in [false, true] {
        let mut client = if sse {
            Client::Sse(Box::new(Sse::with(server.addr, "", &format!("Last-Event-ID: {first}\r\n"))))
        } else {
            Client::Ws(Box::new(Ws::subscribed(server.addr, json!({"since": first}))))
        };
        let Got::Gap(gap) = client.next() else { panic!("the other shards are passed over in silence") };
        assert_eq!((&gap["missed"], &gap["recoverable"]), (&Value::Null, &json!(false)), "{gap}");
        let Got::Event { n, id } = client.next() else { panic!("its own shard has everything") };
        // Of those behind the first in its shard, whichever streams share that.
        assert!((1..=4).contains(&n) && shard(&id) == shard(&first), "{n} {id}");
    }
}

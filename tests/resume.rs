//! Resuming: a client gets exactly the missed events, or a gap in their place.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use support::sse::Sse;
use support::wire::deadline;
use support::ws::Ws;
use support::{Server, numbered};

/// A client of either transport that returns the events' numbers and ids.
enum Client {
    Ws(Box<Ws>),
    Sse(Box<Sse>),
}

/// Next message of a client.
#[derive(Debug, PartialEq)]
enum Got {
    /// `position`: the position after it, in the transport's form.
    Event {
        n: u64,
        id: String,
        stream: String,
        position: Option<String>,
    },
    Gap(Value),
}

impl Client {
    fn connect(addr: SocketAddr, sse: bool, since: Option<&str>) -> Self {
        if sse {
            let header = since.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
            return Self::Sse(Box::new(Sse::with(addr, "?type=test.*", &header)));
        }
        let mut payload = json!({"event_types": ["test.*"]});
        if let Some(id) = since {
            payload["since"] = json!(id);
        }
        Self::Ws(Box::new(Ws::subscribed(addr, payload)))
    }

    /// A client that wants these types, after an event.
    fn of(addr: SocketAddr, sse: bool, types: &str, since: &str) -> Self {
        if sse {
            let header = format!("Last-Event-ID: {since}\r\n");
            return Self::Sse(Box::new(Sse::with(addr, &format!("?type={types}"), &header)));
        }
        Self::Ws(Box::new(Ws::subscribed(addr, json!({"event_types": [types], "since": since}))))
    }

    fn next(&mut self) -> Got {
        let (kind, payload, position) = match self {
            Self::Ws(ws) => {
                let mut message = ws.message();
                let position = message["position"].as_str().map(str::to_owned);
                (message["type"].as_str().expect("a type").to_owned(), message["payload"].take(), position)
            }
            Self::Sse(sse) => {
                let event = sse.event();
                (event.event.clone().expect("a name"), event.json(), event.id)
            }
        };
        match kind.as_str() {
            "gap" => Got::Gap(payload),
            _ => Got::Event {
                n: payload["payload"]["n"].as_u64().unwrap_or_else(|| panic!("not numbered: {payload}")),
                id: payload["event_id"].as_str().expect("an id").to_owned(),
                stream: payload["stream_id"].as_str().unwrap_or_default().to_owned(),
                position,
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
        [false, true].map(|sse| (sse, Client::connect(server.addr, sse, None))).into_iter().collect();
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
            let Got::Event { n: got, id, .. } = client.next() else {
                panic!("a gap before {n}, in life {lives}")
            };
            assert_eq!(got, n, "sse: {sse}, life {lives}");
            stays -= 1;
            if stays == 0 {
                *client = Client::connect(server.addr, *sse, Some(&id));
                lives += 1;
                // The client disconnects after one event or after many.
                stays = 1 + (lives * 37) % 90;
            }
        }
        assert!(lives > 30, "{lives} lives");
    }
    publisher.join().expect("published");
}

#[test]
fn a_gap_counts_the_events_that_the_client_wanted() {
    let server = Server::with(&["--bus-capacity", "256"]);
    let first = server.publish(numbered(0))["last_event_id"].as_str().expect("an id").to_owned();
    // Every hundredth event is an alarm, and the ring holds the last ten.
    let alarm = |n: usize| numbered(n).replace("test.numbered", "alarm.fire");
    let lines: String = (1..=1000).map(|n| if n % 100 == 0 { alarm(n) } else { numbered(n) }).collect();
    server.publish(lines);
    for sse in [false, true] {
        let gap = |filter: Value, query: &str| {
            if sse {
                let header = format!("Last-Event-ID: {first}\r\n");
                let event = Sse::with(server.addr, query, &header).event();
                assert_eq!(event.event.as_deref(), Some("gap"), "{event:?}");
                return event.json();
            }
            let mut payload = filter;
            payload["since"] = json!(first);
            let mut message = Ws::subscribed(server.addr, payload).message();
            assert_eq!(message["type"], "gap", "{message}");
            message["payload"].take()
        };
        // A client that subscribes to everything has missed all evicted events. Older versions reported that number to
        // every client.
        let all = gap(json!({}), "");
        let missed = all["missed"].as_u64().unwrap_or_else(|| panic!("{all}"));
        assert!((700..1000).contains(&missed) && all["at_most"].is_null(), "{all}");
        // A client that subscribes to some types has missed only those.
        let some = gap(json!({"event_types": ["alarm.*"]}), "?type=alarm.*");
        assert_eq!((&some["missed"], &some["at_most"]), (&json!(missed / 100), &Value::Null), "{some}");
        // Evicted events' correlations are not recorded, so the number is an upper bound.
        let some =
            gap(json!({"event_types": ["alarm.*"], "correlation_ids": ["c"]}), "?type=alarm.*&correlation=c");
        assert_eq!((&some["missed"], &some["at_most"]), (&Value::Null, &json!(missed / 100)), "{some}");
        // A client that subscribes to none of the evicted events has missed nothing, and gets no gap.
        let event_type = if sse { "quiet.sse" } else { "quiet.ws" };
        let mut quiet = Client::of(server.addr, sse, event_type, &first);
        let id = server.publish(numbered(1).replace("test.numbered", event_type))["last_event_id"].take();
        assert!(matches!(quiet.next(), Got::Event { n: 1, id: got, .. } if json!(got) == id));
    }
}

#[test]
fn a_late_resume_gets_a_gap_and_then_the_rest_without_a_hole() {
    let server = Server::start();
    let first = server.publish(numbered(0))["last_event_id"].as_str().expect("an id").to_owned();
    // More events than the default ring holds, so the first event is certainly evicted.
    let mut last = 0;
    while server.shard_oldest() == 0 {
        let lines: String = (last + 1..=last + 5000).map(numbered).collect();
        server.publish(lines);
        last += 5000;
        assert!(last < 5_000_000, "the ring has no end");
    }
    for sse in [false, true] {
        let mut client = Client::connect(server.addr, sse, Some(&first));
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

/// Returns the position in an answer.
fn position(answer: &Value) -> String {
    answer["payload"]["last_event_id"].as_str().unwrap_or_else(|| panic!("no position: {answer}")).to_owned()
}

#[test]
fn a_client_cut_before_its_first_event_resumes_from_where_it_subscribed() {
    let server = Server::start();
    // On a bus without any event, and on one with some.
    for n in [0, 2] {
        let mut ws = Ws::connect(server.addr);
        let ack = ws.ask(&json!({"type": "subscribe", "payload": {"event_types": ["test.*"]}}));
        let mut sse = Sse::with(server.addr, "?type=test.*", "");
        let place = loop {
            if let Some(id) = sse.block(deadline()).expect("an id before any event").id {
                break id;
            }
        };
        drop((ws, sse));
        server.publish(format!("{}{{\"type\":\"other\"}}\n{}", numbered(n), numbered(n + 1)));
        for (sse, since) in [(false, position(&ack)), (true, place)] {
            let mut client = Client::connect(server.addr, sse, Some(&since));
            for n in [n, n + 1] {
                assert!(matches!(client.next(), Got::Event { n: got, .. } if got == n as u64), "sse: {sse}");
            }
        }
    }
}

#[test]
fn a_pong_has_the_position_of_a_quiet_client() {
    let server = Server::start();
    let mut ws = Ws::subscribed(server.addr, json!({"event_types": ["rare"]}));
    server.publish(r#"{"type":"rare"}"#);
    let last = server.publish(r#"[{"type":"other"},{"type":"other"}]"#)["last_event_id"].clone();
    ws.send(&json!({"type": "ping"}));
    assert_eq!(ws.event()["event_type"], "rare", "its events come before the pong");
    let pong = ws.message();
    assert_eq!((&pong["type"], &pong["payload"]["last_event_id"]), (&json!("pong"), &last));
}

/// An event of one of many streams that share the shards.
fn of_stream(stream: usize, n: usize) -> String {
    format!("{{\"type\":\"test.x\",\"stream_id\":\"s{stream}\",\"payload\":{{\"n\":{n}}}}}\n")
}

#[test]
fn with_any_number_of_shards_every_event_comes_once_over_many_reconnects() {
    const PUBLISHERS: usize = 3;
    const EACH: usize = 900;
    for shards in ["1", "2", "4"] {
        let server = Server::with(&["--bus-shards", shards, "--loops", "2"]);
        let addr = server.addr;
        // Clients resume by the stream's ids, by the messages' positions, and by the events' ids alone.
        let mut clients: Vec<(bool, bool, Client)> = [(true, true), (false, true), (false, false)]
            .map(|(sse, by_position)| (sse, by_position, Client::connect(server.addr, sse, None)))
            .into_iter()
            .collect();
        std::thread::scope(|scope| {
            for publisher in 0..PUBLISHERS {
                scope.spawn(move || {
                    for n in 0..EACH {
                        let body = format!(
                            "{{\"type\":\"other\",\"source\":\"{}\"}}\n{}",
                            n % 11,
                            of_stream(publisher + PUBLISHERS * (n % 3), n)
                        );
                        let answer =
                            support::http::post(addr, "/publish", "application/x-ndjson", body.as_bytes());
                        assert_eq!(answer.status, 200, "{answer:?}");
                    }
                });
            }
            for (sse, by_position, client) in &mut clients {
                scope.spawn(move || {
                    let mut next = std::collections::HashMap::new();
                    let (mut lives, mut stays) = (0, 1);
                    for _ in 0..PUBLISHERS * EACH {
                        let (n, id, stream, position) = match client.next() {
                            Got::Event { n, id, stream, position } => (n, id, stream, position),
                            Got::Gap(gap) => panic!("{shards} shards, sse {sse}, life {lives}: {gap}"),
                        };
                        let expected = next.entry(stream.clone()).or_insert_with(|| n % 3);
                        assert_eq!(n, *expected, "{shards} shards, sse {sse}, life {lives}, {stream}");
                        *expected += 3;
                        stays -= 1;
                        if stays == 0 {
                            let since = position.filter(|_| *by_position).unwrap_or(id);
                            *client = Client::connect(addr, *sse, Some(&since));
                            lives += 1;
                            stays = 1 + (lives * 37) % 90;
                        }
                    }
                    assert!(lives > 30, "{lives} lives");
                    let all = (next.len(), next.values().filter(|next| **next >= EACH as u64).count());
                    assert_eq!(all, (9, 9), "{next:?}");
                });
            }
        });
    }
}

#[test]
fn a_quiet_client_of_several_shards_resumes_from_its_last_position() {
    let server = Server::with(&["--bus-shards", "4"]);
    let mut ws = Ws::connect(server.addr);
    let ack = ws.ask(&json!({"type": "subscribe", "payload": {"event_types": ["test.*"]}}));
    server.publish((0..8).map(|n| of_stream(n, n).replace("test.x", "other")).collect::<String>());
    let pong = ws.ask(&json!({"type": "ping"}));
    assert_ne!(position(&ack), position(&pong), "its position has advanced");
    drop(ws);
    server.publish((0..8).map(|n| of_stream(n, n)).collect::<String>());
    for since in [position(&ack), position(&pong)] {
        let mut client = Client::connect(server.addr, false, Some(&since));
        let mut got: Vec<u64> = (0..8)
            .map(|_| match client.next() {
                Got::Event { n, .. } => n,
                Got::Gap(gap) => panic!("{gap}"),
            })
            .collect();
        got.sort_unstable();
        assert_eq!(got, (0..8).collect::<Vec<u64>>());
    }
}

#[test]
fn clients_that_come_back_from_the_same_place_share_frames_whatever_the_shards() {
    let server = Server::with(&["--bus-shards", "4"]);
    let first =
        Ws::connect(server.addr).ask(&json!({"type": "subscribe", "payload": {"event_types": ["test.*"]}}));
    server.publish((0..200).map(|n| of_stream(n % 9, n)).collect::<String>());
    for _ in 0..20 {
        let mut client = Client::connect(server.addr, false, Some(&position(&first)));
        assert!((0..200).all(|_| matches!(client.next(), Got::Event { .. })));
    }
    let encodings = server.metric("fanwire_feed_encodings_total").expect("it is counted");
    assert!(encodings <= 200.0, "{encodings} encodings of 200 events");
}

#[test]
fn a_position_with_another_number_of_shards_is_a_gap() {
    let server = Server::with(&["--bus-shards", "2"]);
    let place = position(&Ws::connect(server.addr).ask(&json!({"type": "subscribe", "payload": {}})));
    assert!(place.contains('~'), "{place}");
    for since in [format!("{place}.1"), place.replace('~', "0~"), "zz-7".to_owned(), "zz-7.1".to_owned()] {
        for sse in [false, true] {
            let mut client = Client::connect(server.addr, sse, Some(&since));
            let Got::Gap(gap) = client.next() else { panic!("{since} is passed over in silence") };
            assert_eq!((&gap["missed"], &gap["recoverable"]), (&Value::Null, &json!(false)), "{gap}");
        }
    }
}

/// Returns ids and positions that no server made: with shards that do not exist, without an epoch, with the highest
/// number.
fn forged(place: &str) -> Vec<String> {
    let epoch = place.split(['~', '-']).next().expect("an epoch").to_owned();
    let mut all = Vec::new();
    for epoch in ["0", "zz", epoch.as_str(), "3w5e11264sgsf"] {
        for shard in [1, 2, 1023, 65_535] {
            for sequence in [1, u64::MAX] {
                all.push(format!("{epoch}-{sequence}.{shard}"));
            }
        }
        all.push(format!("{epoch}-{}", u64::MAX - 1));
        all.push(format!("{epoch}-18446744073709551613"));
        all.push(format!("{epoch}~0.0.0"));
        all.push(format!("{epoch}~3w5e11264sgsf.0.0.1"));
        all.push(format!("{epoch}~{}0", "0.".repeat(1022)));
    }
    all
}

#[test]
fn a_forged_position_is_a_gap_and_ends_no_loop() {
    let folder = std::env::temp_dir().join(format!("fanwire-forged-{}", std::process::id()));
    let engine = format!("file://{}", folder.display());
    for (shards, engine) in [("1", None), ("2", None), ("4", None), ("2", Some(&engine))] {
        let mut args = vec!["--bus-shards", shards, "--loops", "1"];
        args.extend(engine.iter().flat_map(|engine| ["--engine", engine.as_str()]));
        let server = Server::with(&args);
        server.publish((0..8).map(|n| of_stream(n, n)).collect::<String>());
        let place = position(&Ws::connect(server.addr).ask(&json!({"type": "subscribe", "payload": {}})));
        let known: u16 = shards.parse().expect("a number");
        for since in forged(&place) {
            let shard: Option<u16> = since.rsplit_once('.').and_then(|(_, shard)| shard.parse().ok());
            let is_there = !since.contains('~') && shard.is_none_or(|shard| shard < known);
            let is_own = place.split(['~', '-']).next() == since.split(['~', '-']).next();
            for sse in [false, true] {
                let mut client = Client::connect(server.addr, sse, Some(&since));
                if is_there && is_own {
                    // The id may belong to an existing event, or to another node that has read further in the log. Then
                    // no gap is due.
                    continue;
                }
                let Got::Gap(gap) = client.next() else { panic!("{since} is passed over in silence") };
                assert_eq!(gap["recoverable"], json!(false), "{since}: {gap}");
            }
        }
        let mut client = Client::connect(server.addr, true, None);
        server.publish(of_stream(0, 99));
        assert!(matches!(client.next(), Got::Event { n: 99, .. }), "the loop goes on");
    }
    // Server and files that the test made.
    let _ = std::fs::remove_dir_all(&folder);
}

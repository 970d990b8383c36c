//! Lean events for clients that need few bytes: over WebSocket and in event streams, live and past.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::script::tool;
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::Ws;
use support::{Server, http, numbered};

const LEAN: &str = "fanwire.v1.lean";
const WHOLE: &str = "fanwire.v1";

/// A WebSocket client that offers these subprotocols.
fn offering(server: &Server, path: &str, protocols: &str) -> Ws {
    Ws::over(Wire::connect(server.addr), path, &format!("Sec-WebSocket-Protocol: {protocols}\r\n"))
}

fn chosen(ws: &Ws) -> Option<&str> {
    ws.response.header("sec-websocket-protocol")
}

/// A client with a subscription to lean events.
fn lean(server: &Server, payload: &Value) -> Ws {
    let mut ws = offering(server, "/ws", LEAN);
    let answer = ws.ask(&json!({"type": "subscribe", "payload": payload}));
    assert_eq!(answer["type"], "ack", "{answer}");
    ws
}

/// Returns the text of the next message.
fn text(ws: &mut Ws) -> String {
    String::from_utf8(ws.read_frame(deadline()).expect("a message").payload).expect("UTF-8")
}

/// An event with every attribute.
const FULL: &str = r#"{"type":"task.progress","source":"core","ts":"2026-01-27T10:21:33.123456Z","correlation_id":"run-42","stream_id":"webhook","execution_id":"ex-1","entity":{"kind":"task","id":"t"},"channel":"dev-team","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","data":{"progress":42}}"#;

#[test]
fn an_event_is_sent_as_an_object_with_its_own_attributes() {
    let server = Server::start();
    let mut client = lean(&server, &json!({}));
    let id = server.publish(r#"{"type":"x"}"#)["last_event_id"].as_str().expect("an id").to_owned();
    assert_eq!(text(&mut client), format!(r#"{{"event_id":"{id}","event_type":"x","payload":{{}}}}"#));
    let id = server.publish(FULL)["last_event_id"].as_str().expect("an id").to_owned();
    let want = FULL
        .replacen(r#"{"type""#, &format!(r#"{{"event_id":"{id}","event_type""#), 1)
        .replacen(r#""ts""#, r#""timestamp""#, 1)
        .replacen(r#""data""#, r#""payload""#, 1);
    assert_eq!(text(&mut client), want);
    // A payload that looks like a message is no message.
    server.publish(r#"{"type":"gap","payload":{"type":"event"}}"#);
    let event = client.message();
    assert_eq!((&event["type"], &event["event_type"]), (&Value::Null, &json!("gap")), "{event}");
}

#[test]
fn all_but_events_is_as_in_the_whole_form() {
    let server = Server::with(&["--heartbeat", "300ms"]);
    let mut client = offering(&server, "/ws", LEAN);
    assert_eq!(chosen(&client), Some(LEAN));
    let answer =
        client.ask(&json!({"type": "request", "message_id": "q", "payload": {"action": "server_info"}}));
    assert_eq!((&answer["type"], &answer["correlation_id"]), (&json!("response"), &json!("q")), "{answer}");
    assert_eq!(answer["payload"]["protocol"], LEAN);
    let mut whole = offering(&server, "/ws", WHOLE);
    let info = whole.ask(&json!({"type": "request", "payload": {"action": "server_info"}}));
    assert_eq!(info["payload"]["protocol"], WHOLE);

    let ack = client.ask(&json!({"type": "subscribe", "message_id": "s"}));
    assert_eq!((&ack["type"], &ack["correlation_id"]), (&json!("ack"), &json!("s")));
    let ack = client.ask(&json!({"type": "publish", "message_id": "p", "payload": {"type": "x"}}));
    // The client's own event may arrive before the ack.
    let (ack, event) = if ack["type"] == "ack" { (ack, client.message()) } else { (client.message(), ack) };
    assert_eq!(ack["payload"]["event_id"], event["event_id"]);
    assert_eq!(client.ask(&json!({"type": "ping"}))["payload"]["last_event_id"], event["event_id"]);
    assert_eq!(client.ask(&json!({"type": "fly"}))["payload"]["code"], "unknown_type");
    let ping = loop {
        let frame = client.read_frame(deadline()).expect("a heartbeat");
        if frame.opcode() == support::ws::PING {
            break frame;
        }
    };
    client.wire.send(&support::ws::frame(support::ws::PONG, &ping.payload));
}

#[test]
fn a_client_that_offers_both_forms_gets_the_first() {
    let server = Server::start();
    for (offered, want) in [
        ("fanwire.v1.lean, fanwire.v1", LEAN),
        ("fanwire.v1, fanwire.v1.lean", WHOLE),
        ("other, fanwire.v1.lean, other.v1, fanwire.v1", LEAN),
        ("fanwire.auth, fanwire.v1.lean", LEAN),
        ("fanwire.v1.lean, fanwire.auth, bearer.x", LEAN),
        ("fanwire.auth, fanwire.v1", WHOLE),
    ] {
        let mut client = offering(&server, "/ws", offered);
        assert_eq!(chosen(&client), Some(want), "offered {offered}");
        let ack = client.ask(&json!({"type": "subscribe"}));
        assert_eq!(ack["type"], "ack");
        server.publish(numbered(1));
        let event = client.message();
        assert_eq!(event["event_type"].is_string(), want == LEAN, "offered {offered}: {event}");
    }
    // Names are case-sensitive.
    for offered in ["fanwire.v1.LEAN", "fanwire.v1.leaner"] {
        assert_eq!(chosen(&offering(&server, "/ws", offered)), None, "offered {offered}");
    }
}

#[test]
fn it_is_used_at_every_path_by_clients_that_offer_it() {
    let server = Server::start();
    for path in ["/ws/events", "/hive", "/autosdlc", "/ws/circles/dev-team"] {
        let mut client = offering(&server, path, LEAN);
        assert_eq!(client.ask(&json!({"type": "ping"}))["type"], "pong", "{path}");
        assert_eq!(client.ask(&json!({"type": "subscribe"}))["type"], "ack", "{path}");
        server.publish(numbered(7));
        assert_eq!(client.message()["payload"]["n"], 7, "{path}");
    }
}

#[test]
fn the_past_comes_in_the_same_form() {
    let server = Server::start();
    let ids: Vec<Value> = (0..5).map(|n| server.publish(numbered(n))["last_event_id"].clone()).collect();
    for (payload, numbers) in
        [(json!({"since": ids[1]}), 2..5), (json!({"history": 2}), 3..5), (json!({"snapshot": true}), 4..5)]
    {
        let mut client = lean(&server, &payload);
        for n in numbers {
            let event = client.message();
            let want = json!({"event_id": ids[n], "event_type": "test.numbered", "source": "test", "payload": {"n": n}});
            assert_eq!(event, want, "{payload}");
        }
        assert!(client.is_silent_for(Duration::from_millis(50)), "{payload}");
    }
}

#[test]
fn a_gap_is_a_message_and_later_events_are_lean() {
    let server = Server::start();
    let mut client = lean(&server, &json!({"since": "abc-5"}));
    let gap = client.message();
    assert_eq!((&gap["type"], &gap["event_type"]), (&json!("gap"), &Value::Null), "{gap}");
    assert_eq!((&gap["payload"]["missed"], &gap["payload"]["recoverable"]), (&Value::Null, &json!(false)));
    server.publish(numbered(1));
    assert_eq!(client.message()["payload"]["n"], 1);

    let mut stream = Sse::open(server.addr, "?lean&last_event_id=abc-5");
    let gap = stream.event();
    assert_eq!((gap.event.as_deref(), &gap.json()["missed"]), (Some("gap"), &Value::Null));
    server.publish(numbered(2));
    assert_eq!(stream.event().json(), json!({"n": 2}));
}

#[test]
fn with_several_shards_the_position_is_the_last_field_and_resumes() {
    let server = Server::with(&["--bus-shards", "4"]);
    let line = |n: usize| {
        format!("{{\"type\":\"test.x\",\"stream_id\":\"s{}\",\"payload\":{{\"n\":{n}}}}}\n", n % 7)
    };
    let mut client = lean(&server, &json!({}));
    let mut stream = Sse::open(server.addr, "?lean=1");
    server.publish((0..20).map(line).collect::<String>());
    let mut seen = Vec::new();
    let mut position = Value::Null;
    for _ in 0..10 {
        let text = text(&mut client);
        let event: Value = serde_json::from_str(&text).expect("JSON");
        position = event["position"].clone();
        let last = format!(r#","position":{position}}}"#);
        assert!(text.ends_with(&last) && position.as_str().is_some_and(|p| p.contains('~')), "{text}");
        seen.push(event["payload"]["n"].as_u64().expect("a number"));
    }
    let mut again = lean(&server, &json!({"since": position}));
    seen.extend((0..10).map(|_| again.message()["payload"]["n"].as_u64().expect("a number")));
    let mut place = None;
    let mut streamed: Vec<u64> = (0..10)
        .map(|_| {
            let block = stream.event();
            place = block.id.clone();
            block.json()["n"].as_u64().expect("a number")
        })
        .collect();
    let header = format!("Last-Event-ID: {}\r\n", place.expect("an id"));
    let mut stream = Sse::with(server.addr, "?lean=true", &header);
    streamed.extend((0..10).map(|_| stream.event().json()["n"].as_u64().expect("a number")));
    for mut numbers in [seen, streamed] {
        numbers.sort_unstable();
        assert_eq!(numbers, (0..20).collect::<Vec<u64>>());
    }
}

#[test]
fn a_streams_data_is_the_payload_alone() {
    let server = Server::start();
    for query in ["?lean", "?lean=", "?lean=1", "?type=**&lean=true"] {
        let mut stream = Sse::open(server.addr, query);
        let id = server.publish(FULL)["last_event_id"].as_str().expect("an id").to_owned();
        let block = stream.event();
        assert_eq!(block.event.as_deref(), Some("task.progress"), "{query}");
        assert_eq!(block.data.as_deref(), Some(r#"{"progress":42}"#), "{query}");
        assert_eq!(block.id, Some(id), "{query}");
    }
    for query in ["?lean=0", "?lean=false"] {
        let mut stream = Sse::open(server.addr, query);
        server.publish(FULL);
        assert_eq!(stream.event().json()["event_type"], "task.progress", "{query}");
    }
    let answer = http::get(server.addr, "/sse?leen=1");
    assert_eq!(answer.status, 400);
    let error = answer.json()["error"].as_str().expect("words").to_owned();
    assert_eq!(error, "query: unknown key `leen`: did you mean `lean`?");
    // Older versions treated a value that is neither on nor off as off.
    assert_eq!(http::get(server.addr, "/sse?lean=no").status, 400);
}

#[test]
fn a_lean_stream_resumes_has_a_past_and_goes_without_names() {
    let server = Server::start();
    let ids: Vec<String> = (0..4)
        .map(|n| server.publish(numbered(n))["last_event_id"].as_str().expect("an id").to_owned())
        .collect();
    let mut resumed = Sse::with(server.addr, "?lean=1", &format!("Last-Event-ID: {}\r\n", ids[1]));
    let mut past = Sse::open(server.addr, "?lean=1&history=2&event_name=message");
    let mut bare = Wire::connect(server.addr);
    bare.send(b"GET /sse/events?history=2&lean HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = http::read_head(&mut bare, deadline()).expect("a head");
    let mut bare = Sse::from_wire(bare, head);
    for (n, id) in ids.iter().enumerate().skip(2) {
        for (stream, name) in [(&mut resumed, Some("test.numbered")), (&mut past, None), (&mut bare, None)] {
            let block = stream.event();
            let want = (name, Some(id.as_str()), json!({"n": n}));
            assert_eq!((block.event.as_deref(), block.id.as_deref(), block.json()), want);
        }
    }
}

#[test]
fn a_lean_stream_is_compressed_like_any_other() {
    let server = Server::start();
    server.publish(numbered(7));
    let url = format!("http://{}/sse?lean&history=1", server.addr);
    let output = tool("curl").args(["-sSN", "--compressed", "-i", "--max-time", "1", &url]).output();
    let answer = String::from_utf8(output.expect("curl runs").stdout).expect("text");
    assert!(answer.contains("Content-Encoding: gzip"), "{answer}");
    assert!(answer.contains("event: test.numbered\ndata: {\"n\":7}\nid: "), "{answer}");
}

#[test]
fn the_same_interest_in_another_form_has_its_own_feed() {
    let server = Server::with(&["--loops", "2"]);
    let mut whole: Vec<Ws> = (0..4).map(|_| Ws::subscribed(server.addr, json!({}))).collect();
    let mut leans: Vec<Ws> = (0..4).map(|_| lean(&server, &json!({}))).collect();
    let mut stream = Sse::open(server.addr, "");
    let mut lean_stream = Sse::open(server.addr, "?lean");
    for n in 0..3 {
        let id = server.publish(numbered(n))["last_event_id"].clone();
        for client in &mut whole {
            let message = client.message();
            assert_eq!((&message["type"], &message["payload"]["event_id"]), (&json!("event"), &id));
        }
        for client in &mut leans {
            assert_eq!(
                client.message(),
                json!({"event_id": id, "event_type": "test.numbered", "source": "test", "payload": {"n": n}})
            );
        }
        assert_eq!(stream.event().json()["event_id"], id);
        assert_eq!(lean_stream.event().json(), json!({"n": n}));
    }
    // Each event is encoded once for each form, with any number of loops.
    assert_eq!(server.metric("fanwire_feed_encodings_total"), Some(4.0 * 3.0));
    let reported = || {
        let stats = http::get(server.addr, "/api/stats").json();
        let interests = stats["interests"].as_array().cloned().unwrap_or_default();
        let of = |lean: bool, transport: &str| {
            let found = interests.iter().find(|one| one["lean"] == lean && one["transport"] == transport);
            found.map_or(0, |one| one["members"].as_u64().expect("a number"))
        };
        [of(false, "ws"), of(true, "ws"), of(false, "sse"), of(true, "sse")]
    };
    support::eventually("the interests are reported", || reported() == [4, 4, 1, 1]);
}

#[test]
fn a_lean_frame_is_less_than_half_of_a_whole_one() {
    let server = Server::start();
    let (mut whole, mut lean) = (Ws::subscribed(server.addr, json!({})), lean(&server, &json!({})));
    let mut stream = Sse::open(server.addr, "?lean");
    let payload = format!("{{\"pad\":\"{}\"}}", "x".repeat(128 - 10));
    assert_eq!(payload.len(), 128);
    server.publish(format!(r#"{{"type":"task.progress","payload":{payload}}}"#));
    // Each frame has a header of four bytes.
    let [whole, lean] = [&mut whole, &mut lean].map(|ws| 4 + text(ws).len());
    stream.event();
    eprintln!("{whole} and {lean} bytes");
    assert!(whole > 400 && lean <= 210, "{whole} and {lean} bytes");
}

#[test]
fn a_token_may_stand_beside_it() {
    const SECRET: &str = "a secret that is long enough to sign with";
    let server = Server::with(&["--auth-jwt-hs256-secret", SECRET]);
    let token = support::token(SECRET, &["--sub", "ann", "--stream", "a"]);
    let mut client = offering(&server, "/ws", &format!("fanwire.v1.lean, bearer.{token}"));
    assert_eq!(chosen(&client), Some(LEAN));
    assert_eq!(client.ask(&json!({"type": "subscribe"}))["type"], "ack");
    // Without a token the client gets an error, and may send the token after it.
    let mut late = offering(&server, "/ws", LEAN);
    assert_eq!(late.ask(&json!({"type": "subscribe"}))["type"], "error");
    assert_eq!(late.ask(&json!({"type": "auth", "payload": {"token": token}}))["type"], "ack");
    assert_eq!(late.ask(&json!({"type": "subscribe"}))["type"], "ack");
}

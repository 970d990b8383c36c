//! The native protocol over `/ws`, with a client written from its document.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::{self, Ws};
use support::{Server, numbered};

/// Time within which an unwanted event would have arrived.
const SILENCE: Duration = Duration::from_millis(200);

fn request(action: &str) -> Value {
    json!({"type": "request", "message_id": "q", "payload": {"action": action}})
}

fn assert_is_a_message(message: &Value, kind: &str, answers: &Value) {
    assert_eq!(message["type"], kind, "{message}");
    assert_eq!(&message["correlation_id"], answers, "{message}");
    assert!(message["payload"].is_object(), "{message}");
    let id = message["message_id"].as_str().unwrap_or_default();
    let parts: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!(parts, [8, 4, 4, 4, 12], "not a UUID: {message}");
    let time = message["timestamp"].as_str().unwrap_or_default();
    assert!(time.len() >= 20 && time.contains('T') && time.ends_with('Z'), "not ISO 8601 in UTC: {message}");
}

#[test]
fn the_handshake_offers_the_subprotocol_and_does_not_insist() {
    let server = Server::start();
    let plain = Ws::connect(server.addr);
    assert_eq!(plain.response.header("sec-websocket-protocol"), None);
    for offered in ["fanwire.v1", "other, fanwire.v1"] {
        let header = format!("Sec-WebSocket-Protocol: {offered}\r\n");
        let ws = Ws::over(Wire::connect(server.addr), "/ws", &header);
        assert_eq!(ws.response.header("sec-websocket-protocol"), Some("fanwire.v1"), "offered {offered}");
    }
    let other = Ws::over(Wire::connect(server.addr), "/ws", "Sec-WebSocket-Protocol: other\r\n");
    assert_eq!(other.response.header("sec-websocket-protocol"), None);
}

#[test]
fn nothing_is_delivered_before_a_subscribe_nor_after_an_unsubscribe() {
    let server = Server::start();
    let mut client = Ws::connect(server.addr);
    server.publish(numbered(1));
    assert!(client.is_silent_for(SILENCE));

    let ack =
        client.ask(&json!({"type": "subscribe", "message_id": "m1", "payload": {"subscription_id": "s1"}}));
    assert_is_a_message(&ack, "ack", &json!("m1"));
    assert_eq!(ack["payload"]["subscription_id"], "s1");
    server.publish(numbered(2));
    assert_eq!(
        client.event()["payload"],
        json!({"n": 2}),
        "an event from before the subscribe does not come"
    );

    let ack =
        client.ask(&json!({"type": "unsubscribe", "message_id": "m2", "payload": {"subscription_id": "s1"}}));
    assert_is_a_message(&ack, "ack", &json!("m2"));
    assert_eq!(ack["payload"]["subscription_id"], "s1");
    server.publish(numbered(3));
    assert!(client.is_silent_for(SILENCE));
}

#[test]
fn an_event_comes_as_it_was_published_with_an_id() {
    let server = Server::start();
    let mut client = Ws::subscribed(server.addr, json!({}));
    let event = json!({
        "type": "task.progress", "source": "core", "ts": "2026-01-27T10:21:33.123456Z", "correlation_id": "run-42",
        "stream_id": "webhook", "execution_id": "ex-1", "entity": {"kind": "task", "id": "task_abc123"},
        "channel": "dev-team", "data": {"progress": 42, "text": "\u{1f600} \" \\ \n \u{2028}", "big": 12_345_678_901_234_567_890_u64},
    });
    let answer = server.publish(event.to_string());
    let message = client.message();
    assert_is_a_message(&message, "event", &Value::Null);
    let want = json!({
        "event_id": answer["last_event_id"], "event_type": "task.progress", "source": "core",
        "timestamp": "2026-01-27T10:21:33.123456Z", "correlation_id": "run-42", "stream_id": "webhook",
        "execution_id": "ex-1", "entity": {"kind": "task", "id": "task_abc123"}, "channel": "dev-team",
        "payload": event["data"],
    });
    assert_eq!(message["payload"], want);
}

#[test]
fn absent_attributes_are_left_out_but_the_correlation_and_the_payload() {
    let server = Server::start();
    let mut client = Ws::subscribed(server.addr, json!({}));
    server.publish(r#"{"type":"x"}"#);
    let event = client.event();
    assert_eq!((&event["correlation_id"], &event["payload"]), (&Value::Null, &json!({})));
    let mut names: Vec<_> = event.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["correlation_id", "event_id", "event_type", "payload", "timestamp"]);
}

#[test]
fn a_payloads_bytes_go_out_as_they_came_but_for_white_space() {
    let server = Server::start();
    let mut client = Ws::subscribed(server.addr, json!({}));
    server.publish(r#"{"type":"x","payload":{ "b" : 1.50 , "a":1e3, "b":"\u0041" }}"#);
    let frame = client.read_frame(deadline()).expect("an event");
    let text = String::from_utf8(frame.payload).expect("UTF-8");
    assert!(text.contains(r#""payload":{"b":1.50,"a":1e3,"b":"\u0041"}"#), "{text}");
}

#[test]
fn requests_are_answered_and_unknown_actions_named() {
    let server = Server::start();
    let mut client = Ws::connect(server.addr);
    let count = |client: &mut Ws| client.ask(&request("subscription_count"))["payload"].clone();
    assert_eq!(count(&mut client), json!({"count": 0}));

    client.ask(
        &json!({"type": "subscribe", "payload": {"subscription_id": "s1", "event_types": ["workflow.started"],
        "sources": ["sim"], "correlation_id": "run-42"}}),
    );
    // Older versions ignored `streams` and subscribed to everything. The key is `stream_ids`.
    let slip = client.ask(&json!({"type": "subscribe", "payload": {"streams": ["mine"]}}));
    assert_eq!(slip["payload"]["code"], "unknown_key", "{slip}");
    let ack = client.ask(&json!({"type": "subscribe", "payload": {}}));
    let given = ack["payload"]["subscription_id"].as_str().expect("an id is given").to_owned();
    assert!(!given.is_empty());
    assert_eq!(count(&mut client), json!({"count": 2}));

    let answer = client.ask(&request("list_subscriptions"));
    assert_is_a_message(&answer, "response", &json!("q"));
    let subscriptions = answer["payload"]["subscriptions"].as_array().expect("a list").clone();
    assert_eq!(subscriptions.len(), 2, "{answer}");
    let first = subscriptions.iter().find(|s| s["subscription_id"] == "s1").expect("s1 is listed");
    assert_eq!(first["event_types"], json!(["workflow.started"]));
    assert_eq!(first["sources"], json!(["sim"]));
    assert_eq!(first["correlation_id"], "run-42");
    assert!(subscriptions.iter().any(|s| s["subscription_id"] == given.as_str()));

    let answer = client.ask(&request("server_info"));
    assert_is_a_message(&answer, "response", &json!("q"));
    assert_eq!(answer["payload"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(answer["payload"]["dedupe_seconds"], 120.0);
    // Clients without a WebSocket ask by HTTP.
    let over_http = support::http::get(server.addr, "/api/server_info");
    assert_eq!((over_http.status, over_http.json()), (200, answer["payload"].clone()));

    let answer = client.ask(&request("unknown"));
    assert_is_a_message(&answer, "error", &json!("q"));
    assert_eq!(answer["payload"]["error"], "Unknown action: unknown");
    assert!(answer["payload"]["code"].is_string(), "{answer}");
}

#[test]
fn a_subscription_of_the_same_id_replaces_the_first() {
    let server = Server::start();
    let mut client = Ws::connect(server.addr);
    for event_type in ["a", "b"] {
        client.ask(
            &json!({"type": "subscribe", "payload": {"subscription_id": "s", "event_types": [event_type]}}),
        );
    }
    assert_eq!(client.ask(&request("subscription_count"))["payload"], json!({"count": 1}));
    server.publish(r#"[{"type":"a"},{"type":"b"}]"#);
    assert_eq!(client.event()["event_type"], "b");
    assert!(client.is_silent_for(SILENCE));
}

#[test]
fn an_invalid_message_gets_an_error_and_the_connection_stays_open() {
    let server = Server::start();
    let mut client = Ws::connect(server.addr);
    let deep = format!("{{\"type\":\"ping\",\"payload\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_object = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let no_messages = [
        "",
        " ",
        "not valid json",
        "[]",
        "5",
        "null",
        "{}",
        "{\"type\":5}",
        "{\"type\":\"ping\"",
        "\u{feff}{}",
        "{\"type\":null}",
    ];
    for text in no_messages.into_iter().chain([deep.as_str(), &deep_object, &"[".repeat(10_000)]) {
        client.send_text(text);
        let answer = client.message();
        assert_is_a_message(&answer, "error", &Value::Null);
        assert_eq!(answer["payload"]["error"], "Invalid message format", "{}", &text[..text.len().min(40)]);
    }
    client.wire.send(&ws::frame(ws::BINARY, b"\x00\x01"));
    assert_eq!(client.message()["payload"]["error"], "Invalid message format");

    let answer = client.ask(&json!({"type": "fly", "message_id": "m"}));
    assert_is_a_message(&answer, "error", &json!("m"));
    assert!(answer["payload"]["error"].as_str().is_some_and(|error| error.contains("fly")), "{answer}");
    let bad_payloads = [
        json!({"type": "unsubscribe", "payload": {}}),
        json!({"type": "unsubscribe", "payload": {"subscription_id": "unknown"}}),
        json!({"type": "subscribe", "payload": [1]}),
        json!({"type": "subscribe", "payload": {"event_types": 5}}),
        json!({"type": "subscribe", "payload": {"event_types": [5]}}),
        json!({"type": "subscribe", "payload": {"since": "not an id"}}),
        json!({"type": "subscribe", "payload": {"on_lag": "fly"}}),
        json!({"type": "publish", "payload": {}}),
        json!({"type": "publish", "payload": {"type": ""}}),
        json!({"type": "publish"}),
    ];
    for message in bad_payloads {
        let answer = client.ask(&message);
        assert_eq!(answer["type"], "error", "{message}: {answer}");
        assert!(answer["payload"]["code"].is_string(), "{answer}");
    }
    assert_eq!(
        client.ask(&request("subscription_count"))["payload"],
        json!({"count": 0}),
        "no subscription was left"
    );
    assert_is_a_message(&client.ask(&json!({"type": "ping", "message_id": "p"})), "pong", &json!("p"));
    server.assert_serving();
}

#[test]
fn missing_fields_never_close_the_connection() {
    let server = Server::start();
    let mut client = Ws::connect(server.addr);
    for text in [r#"{"type":"ping"}"#, r#"{"type":"ping","payload":null,"message_id":null,"extra":[{}]}"#] {
        client.send_text(text);
        assert_is_a_message(&client.message(), "pong", &Value::Null);
    }
    client.send_text(r#"{"type":"subscribe"}"#);
    assert_eq!(client.message()["type"], "ack");
    // A client's own ack is accepted without an answer.
    client.send_text(r#"{"type":"ack","payload":{"message_id":"x"}}"#);
    client.send_text(r#"{"type":"pong"}"#);
    server.publish(numbered(1));
    assert_eq!(client.event()["payload"]["n"], 1);
}

#[test]
fn pings_are_answered_with_their_bytes_and_a_close_with_its_code() {
    let server = Server::start();
    let mut client = Ws::connect(server.addr);
    for payload in [&b""[..], b"hello", &[0xff; 125]] {
        client.wire.send(&ws::frame(ws::PING, payload));
        let pong = client.read_frame(deadline()).expect("a pong");
        assert_eq!((pong.first, pong.payload.as_slice()), (0x80 | ws::PONG, payload));
    }
    // A control frame between the fragments of a message, as section 5.4 allows.
    client.wire.send(&ws::raw_frame(ws::TEXT, Some([1, 2, 3, 4]), 8, b"{\"type\":"));
    client.wire.send(&ws::frame(ws::PING, b"between"));
    client.wire.send(&ws::raw_frame(0x80, Some([4, 3, 2, 1]), 7, b"\"ping\"}"));
    assert_eq!(client.read_frame(deadline()).expect("a pong").payload, b"between");
    assert_eq!(client.message()["type"], "pong");
    client.wire.send(&ws::frame(ws::PONG, b"unasked"));
    client.wire.send(&ws::frame(ws::CLOSE, &[0x03, 0xe8, b'b', b'y', b'e']));
    assert_eq!(client.closed().0, 1000);

    let mut client = Ws::connect(server.addr);
    client.wire.send(&ws::frame(ws::CLOSE, b""));
    client.closed();
}

#[test]
fn a_client_is_served_however_its_bytes_are_cut() {
    let server = Server::start();
    let mut all = ws::upgrade_request("/ws", "").into_bytes();
    for n in 0..3 {
        all.extend(ws::frame(
            ws::TEXT,
            json!({"type": "ping", "message_id": n.to_string()}).to_string().as_bytes(),
        ));
    }
    for size in [1, 7, all.len()] {
        let mut wire = Wire::connect(server.addr);
        for piece in all.chunks(size) {
            wire.send(piece);
            if size == 1 && piece[0] % 16 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let response = support::http::read_head(&mut wire, deadline()).expect("an answer");
        let mut client = Ws { wire, response };
        for n in 0..3 {
            assert_eq!(client.message()["correlation_id"], n.to_string());
        }
    }
}

#[test]
fn one_event_comes_once_however_many_subscriptions_match() {
    let server = Server::start();
    let mut client = Ws::subscribed(server.addr, json!({}));
    for payload in [json!({}), json!({"event_types": ["a.*"]}), json!({"sources": ["s"]})] {
        client.ask(&json!({"type": "subscribe", "payload": payload}));
    }
    server.publish(r#"[{"type":"a.b","source":"s","payload":1},{"type":"a.b","source":"s","payload":2}]"#);
    assert_eq!((client.event()["payload"].clone(), client.event()["payload"].clone()), (json!(1), json!(2)));
    assert!(client.is_silent_for(SILENCE));
}

/// Events of the filter table: type, source, stream, execution, correlation, entity, channel.
const EVENTS: [[&str; 7]; 4] = [
    ["task.progress", "core", "webhook", "ex-1", "run-1", "task:t/1", "dev-team"],
    ["task.step.done", "agents/a", "webhook", "ex-2", "run-2", "task:t/2", "dev-team"],
    ["task", "agents/b", "cron", "ex-1", "run-2", "provider:ollama", "ops"],
    ["provider.status_changed", "core", "", "", "", "", ""],
];

fn publish_filter_events(server: &Server) {
    let events = EVENTS.iter().enumerate().map(
        |(n, [event_type, source, stream, execution, correlation, entity, channel])| {
            let mut event = json!({"type": event_type, "source": source, "payload": n});
            for (name, value) in [
                ("stream_id", stream),
                ("execution_id", execution),
                ("correlation_id", correlation),
                ("channel", channel),
            ] {
                if !value.is_empty() {
                    event[name] = json!(value);
                }
            }
            if let Some((kind, id)) = entity.split_once(':') {
                event["entity"] = json!({"kind": kind, "id": id});
            }
            event
        },
    );
    server.publish(events.collect::<Value>().to_string());
}

#[test]
fn every_attribute_filters_by_value_and_by_pattern() {
    let server = Server::start();
    // A subscription, and the events of `EVENTS` that it gets.
    let table: [(Value, &[usize]); 22] = [
        (json!({}), &[0, 1, 2, 3]),
        (json!({"event_types": [], "sources": null}), &[0, 1, 2, 3]),
        (json!({"event_types": ["task.progress"]}), &[0]),
        (json!({"event_types": ["task.progress", "task"]}), &[0, 2]),
        (json!({"event_types": ["task.*"]}), &[0]),
        (json!({"event_types": ["task.**"]}), &[0, 1, 2]),
        (json!({"event_types": ["*.status_changed"]}), &[3]),
        (json!({"event_types": ["**"]}), &[0, 1, 2, 3]),
        (json!({"event_types": ["Task.progress", "nothing"]}), &[]),
        (json!({"sources": ["core"]}), &[0, 3]),
        (json!({"sources": ["agents/*"]}), &[1, 2]),
        (json!({"stream_ids": ["webhook"]}), &[0, 1]),
        (json!({"stream_ids": ["*"]}), &[0, 1, 2]),
        (json!({"execution_ids": ["ex-1"]}), &[0, 2]),
        (json!({"correlation_id": "run-2"}), &[1, 2]),
        (json!({"correlation_ids": ["run-1", "run-2"]}), &[0, 1, 2]),
        (json!({"entities": ["task:t/1"]}), &[0]),
        (json!({"entities": ["task:t/*"]}), &[0, 1]),
        (json!({"entities": ["provider:*", "task:t/2"]}), &[1, 2]),
        (json!({"channels": ["ops"]}), &[2]),
        (json!({"event_types": ["task.**"], "channels": ["dev-team"], "execution_ids": ["ex-2"]}), &[1]),
        (json!({"event_types": ["task.progress"], "channels": ["ops"]}), &[]),
    ];
    let mut clients: Vec<Ws> =
        table.iter().map(|(payload, _)| Ws::subscribed(server.addr, payload.clone())).collect();
    publish_filter_events(&server);
    for ((payload, want), client) in table.iter().zip(&mut clients) {
        for n in *want {
            assert_eq!(client.event()["payload"], json!(n), "{payload}");
        }
    }
    std::thread::sleep(SILENCE);
    for ((payload, _), client) in table.iter().zip(&mut clients) {
        assert!(client.is_silent_for(Duration::from_millis(1)), "{payload} got more than it asked for");
    }
}

#[test]
fn events_published_over_a_websocket_are_acked_with_their_id_and_reach_all() {
    let server = Server::start();
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let mut writer = Ws::connect(server.addr);
    let event = json!({"type": "chat.said", "channel": "dev-team", "payload": {"text": "hello"}});
    let ack = writer.ask(&json!({"type": "publish", "message_id": "p1", "payload": event}));
    assert_is_a_message(&ack, "ack", &json!("p1"));
    let got = reader.event();
    assert_eq!((&got["event_type"], &got["payload"]), (&json!("chat.said"), &json!({"text": "hello"})));
    assert_eq!(got["event_id"], ack["payload"]["event_id"]);
}

#[test]
fn since_delivers_missed_events_and_history_the_newest() {
    let server = Server::start();
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(server.publish(numbered(n))["last_event_id"].clone());
    }
    let mut client = Ws::subscribed(server.addr, json!({"since": ids[6]}));
    for n in 7..10 {
        assert_eq!(client.event()["payload"]["n"], n);
    }
    server.publish(numbered(10));
    assert_eq!(client.event()["payload"]["n"], 10);

    let mut client = Ws::subscribed(server.addr, json!({"history": 2}));
    for n in 9..11 {
        assert_eq!(client.event()["payload"]["n"], n);
    }

    // Another epoch: the size of the loss is unknown, and the gap says so.
    let mut client = Ws::subscribed(server.addr, json!({"since": "abc-5"}));
    let gap = client.message();
    assert_eq!(gap["type"], "gap", "{gap}");
    assert_eq!((&gap["payload"]["missed"], &gap["payload"]["recoverable"]), (&Value::Null, &json!(false)));
    server.publish(numbered(11));
    assert_eq!(client.event()["payload"]["n"], 11);
}

#[test]
fn several_loops_share_the_clients_and_each_events_encodings() {
    const LOOPS: usize = 3;
    const EVENTS: usize = 20;
    let server = Server::with(&["--loops", &LOOPS.to_string()]);
    let mut clients: Vec<Ws> = (0..60).map(|_| Ws::subscribed(server.addr, json!({}))).collect();
    let mut streams: Vec<Sse> = (0..60).map(|_| Sse::open(server.addr, "")).collect();
    let metric = |name| server.metric(name).expect("the metric is there") as usize;
    // Each loop has a feed for each kind of client, and some clients of both kinds.
    assert_eq!(metric("fanwire_feed_feeds"), 2 * LOOPS, "a loop has no clients");
    for n in 0..EVENTS {
        server.publish(numbered(n));
    }
    for client in &mut clients {
        for n in 0..EVENTS {
            assert_eq!(client.event()["payload"]["n"], n);
        }
    }
    for stream in &mut streams {
        for n in 0..EVENTS {
            assert_eq!(stream.event().json()["payload"]["n"], n);
        }
    }
    // The first loop that needs an encoding creates it for all loops.
    assert_eq!(metric("fanwire_feed_encodings_total"), 2 * EVENTS);
}

#[test]
fn a_silent_client_is_pinged_and_closed_after_two_misses() {
    let server = Server::with(&["--heartbeat", "300ms"]);
    let mut answering = Ws::subscribed(server.addr, json!({}));
    let mut silent = Ws::subscribed(server.addr, json!({}));
    let started = std::time::Instant::now();
    let mut pings = 0;
    let ended = loop {
        match silent.read_frame(deadline()) {
            Ok(frame) if frame.opcode() == ws::PING => pings += 1,
            Ok(frame) => assert_eq!(frame.opcode(), ws::CLOSE, "{frame:?}"),
            Err(error) => break error,
        }
        // The other client answers each ping, and stays.
        if let Ok(ping) = answering.read_frame(deadline()) {
            assert_eq!(ping.opcode(), ws::PING);
            answering.wire.send(&ws::frame(ws::PONG, &ping.payload));
        }
    };
    assert_ne!(ended.kind(), std::io::ErrorKind::TimedOut, "it was never closed");
    assert!((1..=3).contains(&pings), "{pings} pings");
    assert!(started.elapsed() < Duration::from_secs(3), "closed after {:?}", started.elapsed());
    server.publish(numbered(1));
    assert_eq!(answering.event()["payload"]["n"], 1);
}

#[test]
fn limits_of_a_client_are_enforced_and_named() {
    let server = Server::start();
    let mut client = Ws::connect(server.addr);
    let names: Vec<String> = (0..5000).map(|n| format!("type.{n}")).collect();
    let greedy = [
        json!({"event_types": names}),
        json!({"event_types": [format!("{}x", "a.".repeat(5000))]}),
        json!({"event_types": [format!("{}x", "**.".repeat(2000))]}),
        json!({"sources": ["x".repeat(20_000)]}),
    ];
    for payload in greedy {
        let answer = client.ask(&json!({"type": "subscribe", "payload": payload}));
        let excerpt = payload.to_string();
        assert_eq!(answer["type"], "error", "{}: {answer}", &excerpt[..60]);
        assert!(answer.to_string().len() < 2000, "an error repeats the sent text");
    }
    // A pattern with exponential cost in a naive matcher is matched in time.
    let hard = format!("**.{}.**.z", ["a", "*"].repeat(14).join("."));
    let ack = client.ask(&json!({"type": "subscribe", "payload": {"event_types": [hard]}}));
    assert_eq!(ack["type"], "ack", "{ack}");
    let event = format!("{{\"type\":\"{}\"}}\n", ["a"; 400].join("."));
    let started = std::time::Instant::now();
    server.publish(event.repeat(50));
    assert_eq!(client.ask(&json!({"type": "unsubscribe", "payload": ack["payload"]}))["type"], "ack");
    assert!(started.elapsed() < Duration::from_secs(3), "took {:?}", started.elapsed());

    let subscribe = |n: usize| json!({"type": "subscribe", "payload": {"subscription_id": n.to_string(), "event_types": ["x"]}});
    for n in 1..=1000 {
        assert_eq!(client.ask(&subscribe(n))["type"], "ack", "subscription {n}");
    }
    let answer = client.ask(&subscribe(1001));
    assert_eq!(answer["type"], "error", "{answer}");
    assert_eq!(client.ask(&subscribe(1))["type"], "ack", "replacing one is not one more");
    server.publish(r#"{"type":"x"}"#);
    assert_eq!(client.event()["event_type"], "x");
}

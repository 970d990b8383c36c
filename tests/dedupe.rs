//! Publications with an `Idempotency-Key`, and events with a `dedupe_id`: a repeated one gets the first one's answer,
//! and is not delivered again.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use support::http::{self, Response, read_response};
use support::proxy::Proxy;
use support::service::{Kind, Service};
use support::wire::{Wire, deadline};
use support::ws::Ws;
use support::{Server, eventually, token};

const SECRET: &str = "only-this-test-and-its-server-know-it-4be0";

/// Publishes a body with additional header lines over a new connection.
fn publish(addr: SocketAddr, headers: &str, body: &str) -> Response {
    let mut wire = Wire::connect(addr);
    wire.send(request(headers, body).as_bytes());
    read_response(&mut wire, deadline()).expect("an answer")
}

fn request(headers: &str, body: &str) -> String {
    let length = body.len();
    format!("POST /publish HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

/// Publishes a body that must be accepted. Returns the number of new events, the number of duplicates, and the last id.
fn counts(addr: SocketAddr, headers: &str, body: &str) -> (u64, u64, Value) {
    let answer = publish(addr, headers, body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    let count = |name: &str| answer[name].as_u64().unwrap_or_else(|| panic!("no {name}: {answer}"));
    (count("accepted"), count("duplicates"), answer["last_event_id"].clone())
}

fn event(n: usize, dedupe_id: &str) -> String {
    json!({"type": "x", "stream_id": "s", "dedupe_id": dedupe_id, "payload": {"n": n}}).to_string()
}

/// Returns the numbers of the next events.
fn numbers(reader: &mut Ws, count: usize) -> Vec<u64> {
    (0..count).map(|_| reader.event()["payload"]["n"].as_u64().expect("a number")).collect()
}

#[test]
fn a_second_request_with_a_key_has_the_answer_of_the_first_and_is_not_delivered() {
    let server = Server::start();
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let body = [event(1, "a"), event(2, "b"), event(3, "c")].join("\n");
    let (accepted, duplicates, last) = counts(server.addr, "Idempotency-Key: k-1\r\n", &body);
    assert_eq!((accepted, duplicates), (3, 0));
    for key in ["k-1", "\"k-1\"", "  k-1 "] {
        let again = counts(server.addr, &format!("Idempotency-Key: {key}\r\n"), &body);
        assert_eq!(again, (0, 3, last.clone()), "{key}");
    }
    // Another body, and the same body with another content type.
    for (headers, body) in [("", event(9, "z")), ("Content-Type: application/x-ndjson\r\n", body)] {
        let answer = publish(server.addr, &format!("Idempotency-Key: k-1\r\n{headers}"), &body);
        assert_eq!((answer.status, &answer.json()["code"]), (422, &json!("idempotency_key_reused")));
        assert!(answer.header("retry-after").is_none(), "it can never be accepted");
    }
    let (accepted, duplicates, _) = counts(server.addr, "Idempotency-Key: k-2\r\n", &event(4, "d"));
    assert_eq!((accepted, duplicates), (1, 0));
    assert_eq!(numbers(&mut reader, 4), [1, 2, 3, 4], "each once");
    let stats = http::get(server.addr, "/api/stats").json();
    assert_eq!((&stats["events_published"], &stats["events_duplicate"]), (&json!(4), &json!(9)));
    assert_eq!(stats["dedupe"], json!({"ids": 6, "forgotten": 0}));
    assert_eq!(server.metric("fanwire_server_dedupe_ids"), Some(6.0));
    assert_eq!(server.metric("fanwire_server_events_duplicate_total"), Some(9.0));
}

#[test]
fn known_events_of_a_batch_are_left_out() {
    let server = Server::start();
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let (_, _, first) = counts(server.addr, "", &event(1, "a"));
    let batch = format!(
        "[{},{},{{\"type\":\"x\",\"payload\":{{\"n\":3}}}},{}]",
        event(1, "a"),
        event(2, "b"),
        event(2, "b")
    );
    let (accepted, duplicates, last) = counts(server.addr, "", &batch);
    assert_eq!((accepted, duplicates), (2, 2));
    assert_ne!(first, last);
    assert_eq!(counts(server.addr, "", &event(1, "a")), (0, 1, first), "its own first answer");
    assert_eq!(counts(server.addr, "", &event(2, "b")), (0, 1, last));
    // An event without an id is always new.
    let body = "{\"type\":\"x\",\"dedupe_id\":null,\"payload\":{\"n\":4}}";
    assert!(publish(server.addr, "", body).json().get("duplicates").is_none(), "no key and no id");
    let seen: Vec<Value> = (0..4).map(|_| reader.event()).collect();
    assert!(seen.iter().all(|event| event.get("dedupe_id").is_none()), "readers do not see it: {seen:?}");
    let seen: Vec<&Value> = seen.iter().map(|event| &event["payload"]["n"]).collect();
    assert_eq!(seen, [1, 2, 3, 4]);
}

#[test]
fn a_websocket_publishes_once_too_and_shares_the_ids_with_http() {
    let server = Server::start();
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let mut client = Ws::connect(server.addr);
    let message = |n: usize, id: &str| json!({"type": "publish", "payload": serde_json::from_str::<Value>(&event(n, id)).expect("JSON")});
    let first = client.ask(&message(1, "a"));
    assert_eq!(first["type"], "ack");
    assert!(first["payload"].get("duplicate").is_none());
    let second = client.ask(&message(1, "a"));
    let id = first["payload"]["event_id"].clone();
    assert_eq!(second["payload"], json!({"event_id": id, "duplicate": true}));
    assert_eq!(counts(server.addr, "", &event(1, "a")), (0, 1, id));
    // A burst of repeated and new events keeps its order.
    for n in 2..50 {
        client.send(&message(n, &n.to_string()));
        client.send(&message(n, &n.to_string()));
    }
    for _ in 2..50 {
        let (one, other) = (client.message(), client.message());
        assert_eq!(one["payload"]["event_id"], other["payload"]["event_id"]);
        assert_eq!(other["payload"]["duplicate"], true);
    }
    assert_eq!(numbers(&mut reader, 49), (1..50).collect::<Vec<_>>());
    let bad = client.ask(&json!({"type": "publish", "payload": {"type": "x", "dedupe_id": 5}}));
    assert_eq!((&bad["type"], &bad["payload"]["code"]), (&json!("error"), &json!("invalid_event")));
    assert!(bad["payload"]["error"].as_str().expect("a text").contains("dedupe_id"), "{bad}");
    assert!(reader.is_silent_for(Duration::from_millis(100)));
}

#[test]
fn one_of_several_racing_requests_with_a_key_is_published() {
    let server = Server::with(&["--loops", "2", "--bus-shards", "1"]);
    // The batch is so long that a loop publishes it in several turns, with other requests in between.
    let lines: Vec<String> = (0..3000)
        .map(|n| format!("{{\"type\":\"x\",\"stream_id\":\"s\",\"payload\":{{\"n\":{n}}}}}"))
        .collect();
    let body = lines.join("\n");
    for round in 0..5 {
        let key = format!("Idempotency-Key: race-{round}\r\n");
        let answers: Vec<(u64, u64, Value)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| counts(server.addr, &key, &body))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(
            answers.iter().filter(|(accepted, duplicates, _)| (*accepted, *duplicates) == (3000, 0)).count(),
            1
        );
        assert_eq!(
            answers.iter().filter(|(accepted, duplicates, _)| (*accepted, *duplicates) == (0, 3000)).count(),
            7
        );
        assert!(answers.iter().all(|answer| answer.2 == answers[0].2), "one id: {answers:?}");
    }
    let stats = http::get(server.addr, "/api/stats").json();
    assert_eq!((&stats["events_published"], &stats["shards"][0]["head"]), (&json!(15_000), &json!(15_000)));
}

#[test]
fn a_key_belongs_to_the_subject_of_its_token() {
    let server = Server::with(&["--auth-jwt-hs256-secret", SECRET]);
    let bearer = |subject: &str| {
        let token = token(SECRET, &["--sub", subject, "--publish"]);
        format!("Authorization: Bearer {token}\r\nIdempotency-Key: k\r\n")
    };
    let (one, other) = (bearer("one"), bearer("other"));
    let (accepted, _, first) = counts(server.addr, &one, &event(1, "a"));
    assert_eq!(accepted, 1);
    let (accepted, duplicates, last) = counts(server.addr, &other, &event(2, "a"));
    assert_eq!((accepted, duplicates), (1, 0), "another body, the same key and id");
    assert_eq!(counts(server.addr, &one, &event(1, "a")), (0, 1, first));
    assert_eq!(counts(server.addr, &other, &event(2, "a")), (0, 1, last));
}

#[test]
fn a_refused_publication_leaves_nothing() {
    let server = Server::start();
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let bad = format!("{}\n{{\"source\":\"no type\"}}", event(1, "a"));
    let answer = publish(server.addr, "Idempotency-Key: k\r\n", &bad);
    assert_eq!((answer.status, &answer.json()["line"]), (400, &json!(2)));
    assert_eq!(http::get(server.addr, "/api/stats").json()["dedupe"]["ids"], 0);
    let (accepted, duplicates, _) = counts(server.addr, "Idempotency-Key: k\r\n", &event(1, "a"));
    assert_eq!((accepted, duplicates), (1, 0));
    for (body, says) in [
        ("{\"type\":\"x\",\"dedupe_id\":5}".to_owned(), "dedupe_id: "),
        (event(1, ""), "dedupe_id is empty"),
        (event(1, &"i".repeat(257)), "dedupe_id has 257 bytes; at most 256"),
        ("{\"type\":\"x\",\"dedupe_ids\":\"a\"}".to_owned(), "did you mean `dedupe_id`?"),
    ] {
        let answer = publish(server.addr, "", &format!("{}\n{body}", event(2, "b"))).json();
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(says)), "{answer}");
        assert_eq!(answer["line"], 2);
    }
    assert_eq!(numbers(&mut reader, 1), [1]);
    assert!(reader.is_silent_for(Duration::from_millis(100)));
}

#[test]
fn the_oldest_ids_are_forgotten_when_there_are_too_many() {
    let server = Server::with(&["--dedupe-max-ids", "3"]);
    for n in 0..5 {
        assert_eq!(counts(server.addr, "", &event(n, &n.to_string())).0, 1);
    }
    assert_eq!(http::get(server.addr, "/api/stats").json()["dedupe"], json!({"ids": 3, "forgotten": 2}));
    assert_eq!(counts(server.addr, "", &event(4, "4")).0, 0);
    assert_eq!(counts(server.addr, "", &event(0, "0")).0, 1, "forgotten");
}

/// Starts a node, and waits until it has read its log.
fn node(url: &str) -> Server {
    let server = Server::with(&["--engine", url]);
    eventually("the node follows its log", || http::get(server.addr, "/readyz").status == 200);
    server
}

/// Publishes a request with a key and ids at `first`, and checks that `second` recognizes it after it has read the log.
fn is_known_elsewhere(first: SocketAddr, second: impl FnOnce() -> SocketAddr) {
    let body = [event(1, "a"), event(2, "b")].join("\n");
    let key = "Idempotency-Key: k\r\n";
    let (accepted, duplicates, last) = counts(first, key, &body);
    assert_eq!((accepted, duplicates), (2, 0));
    assert_eq!(counts(first, key, &body), (0, 2, last.clone()), "at the same node");
    let second = second();
    let mut reader = Ws::subscribed(second, json!({"history": 10}));
    assert_eq!(numbers(&mut reader, 2), [1, 2]);
    assert_eq!(counts(second, key, &body), (0, 2, last.clone()));
    assert_eq!(publish(second, key, &event(3, "c")).status, 422, "the digest is known too");
    let (accepted, duplicates, _) = counts(second, "", &[event(2, "b"), event(3, "c")].join("\n"));
    assert_eq!((accepted, duplicates), (1, 1));
    let (_, _, one) = counts(second, "", &event(1, "a"));
    assert_ne!(one, last, "the event's own id");
    assert_eq!(numbers(&mut reader, 1), [3]);
}

#[test]
fn names_are_in_the_log_in_files_and_known_after_a_restart() {
    let folder = std::env::temp_dir().join(format!("fanwire-dedupe-{}", std::process::id()));
    let url = format!("file://{}", folder.display());
    let mut first = node(&url);
    let mut second = None;
    is_known_elsewhere(first.addr, || {
        first.signal("KILL");
        first.wait();
        second.insert(node(&url)).addr
    });
    drop(second);
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn names_are_in_redis_and_known_to_other_nodes() {
    let service = Service::start(Kind::Redis);
    let (first, second) = (node(&service.url()), node(&service.url()));
    is_known_elsewhere(first.addr, || second.addr);
}

#[test]
fn names_are_in_jetstream_and_known_to_other_nodes() {
    let service = Service::start(Kind::Nats);
    let (first, second) = (node(&service.url()), node(&service.url()));
    is_known_elsewhere(first.addr, || second.addr);
}

/// A node ends when JetStream has a part of a request: it waits after 1,000 events without an answer.
#[test]
fn a_repeated_request_completes_one_whose_node_ended_midway() {
    const EVENTS: usize = 3000;
    let service = Service::start(Kind::Nats);
    let proxy = Proxy::to(service.addr);
    let mut first = node(&format!("nats://{}", proxy.addr));
    let second = Server::with(&["--engine", &service.url(), "--max-lag-events", "100000"]);
    eventually("the node follows its log", || http::get(second.addr, "/readyz").status == 200);
    let mut reader = Ws::subscribed(second.addr, json!({}));
    let line = |n| json!({"type": "x", "stream_id": "s", "payload": {"n": n}}).to_string() + "\n";
    let body: String = (0..EVENTS).map(line).collect();
    proxy.stall(true);
    Wire::connect(first.addr).send(request("Idempotency-Key: k\r\n", &body).as_bytes());
    let came = numbers(&mut reader, 1000);
    first.signal("KILL");
    first.wait();
    let (accepted, duplicates, _) = counts(second.addr, "Idempotency-Key: k\r\n", &body);
    assert_eq!((accepted, duplicates), (EVENTS as u64 - 1000, 1000));
    let rest = numbers(&mut reader, EVENTS - 1000);
    assert!(came.into_iter().chain(rest).eq(0..EVENTS as u64), "each once, in order");
    assert_eq!(counts(second.addr, "Idempotency-Key: k\r\n", &body).0, 0);
}

#[test]
fn a_publication_without_an_answer_is_found_by_its_name() {
    let service = Service::start(Kind::Redis);
    let url = service.url();
    let server = Server::with(&["--engine", &url, "--engine-accept-timeout", "1s"]);
    eventually("the node follows its log", || http::get(server.addr, "/readyz").status == 200);
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let (accepted, _, before) = counts(server.addr, "", &event(0, "before"));
    assert_eq!(accepted, 1);
    assert_eq!(numbers(&mut reader, 1), [0]);
    // The log's server receives the bytes and does not answer.
    service.pause(true);
    let answer = publish(server.addr, "", &event(1, "a"));
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("engine_unanswered")));
    // Known events need no log, also under a new key.
    for key in ["", "Idempotency-Key: new\r\n", "Idempotency-Key: new\r\n"] {
        assert_eq!(counts(server.addr, key, &event(0, "before")), (0, 1, before.clone()), "{key}");
    }
    service.pause(false);
    // The request was sent, so the log contains it in the end, and the second request finds it.
    assert_eq!(numbers(&mut reader, 1), [1]);
    let (accepted, duplicates, _) = counts(server.addr, "", &event(1, "a"));
    assert_eq!((accepted, duplicates), (0, 1));
    assert!(reader.is_silent_for(Duration::from_millis(300)), "once");
}

//! Publications to kept logs: an ended log accepts no event until it is reopened, and no event gets between an event
//! and the one that its publisher expects before it.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::Server;
use support::http::{self, Response};
use support::ws::Ws;

const RULE: &str = "by=stream; end=run.finished; match=stream=run-*";

fn server() -> Server {
    Server::with(&["--retain", RULE, "--loops", "2", "--bus-shards", "1"])
}

fn publish(addr: SocketAddr, events: &[Value]) -> Response {
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    http::post(addr, "/publish", "application/x-ndjson", lines.join("\n").as_bytes())
}

/// Publishes events that are accepted, and returns the last id.
fn accepted(addr: SocketAddr, events: &[Value]) -> Value {
    let answer = publish(addr, events);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["last_event_id"].clone()
}

fn event(stream: &str, n: usize) -> Value {
    json!({"type": "run.token", "stream_id": stream, "payload": {"n": n}})
}

fn end(stream: &str) -> Value {
    json!({"type": "run.finished", "stream_id": stream})
}

fn with(mut event: Value, key: &str, value: impl Into<Value>) -> Value {
    event[key] = value.into();
    event
}

#[test]
fn an_ended_log_accepts_nothing_until_it_is_reopened() {
    let server = server();
    let addr = server.addr;
    let mut reader = Ws::subscribed(addr, json!({}));
    let last = accepted(addr, &[event("run-1", 1), event("other", 2), end("run-1")]);
    // The batch is refused as a whole, and the error names the line of the event.
    let batch = [event("run-2", 3), event("other", 4), event("run-1", 5)];
    let answer = publish(addr, &batch);
    let refusal = answer.json();
    assert_eq!((answer.status, &refusal["code"], &refusal["line"]), (409, &json!("ended"), &json!(3)));
    assert_eq!(
        (&refusal["by"], &refusal["value"], &refusal["last_event_id"]),
        (&json!("stream"), &json!("run-1"), &last)
    );
    assert!(refusal["error"].as_str().is_some_and(|error| error.contains("run-1")), "{refusal}");
    assert!(answer.header("retry-after").is_none());
    let array = format!("[\n{},\n\n{}]", event("run-2", 3), event("run-1", 5));
    let answer = http::post(addr, "/publish", "application/json", array.as_bytes()).json();
    assert_eq!((&answer["code"], &answer["line"]), (&json!("ended"), &json!(4)));
    assert_eq!(publish(addr, &[event("run-1", 6)]).json()["line"], 1);
    // The log's next life, and its end.
    accepted(addr, &[with(event("run-1", 7), "reopen", true), event("run-1", 8)]);
    let answer = publish(addr, &[with(event("run-1", 9), "reopen", true)]);
    assert_eq!((answer.status, &answer.json()["code"]), (409, &json!("not_ended")));
    accepted(
        addr,
        &[event("run-1", 9), end("run-1"), with(event("run-1", 10), "reopen", true), end("run-1")],
    );
    let answer = publish(addr, &[with(end("run-1"), "reopen", true), event("run-1", 11)]).json();
    assert_eq!((&answer["code"], &answer["line"]), (&json!("ended"), &json!(2)), "its own end: {answer}");
    assert_eq!(answer["last_event_id"], Value::Null, "that has no id");
    // A log that does not exist may be opened.
    accepted(addr, &[with(event("run-3", 12), "reopen", true)]);
    let mut seen = Vec::new();
    while seen.last() != Some(&json!(12)) {
        let event = reader.event();
        if event["event_type"] == "run.token" {
            seen.push(event["payload"]["n"].clone());
        }
    }
    assert_eq!(seen, [1, 2, 7, 8, 9, 10, 12]);
    assert_eq!(
        server
            .metrics("fanwire_server_faults_total")
            .iter()
            .find(|row| row.0.contains("\"ended\""))
            .map(|row| row.1),
        Some(4.0)
    );
}

#[test]
fn a_websocket_gets_the_same_errors_and_a_known_id_precedes_the_end() {
    let server = server();
    let mut client = Ws::connect(server.addr);
    let mut ask = |event: Value| client.ask(&json!({"type": "publish", "payload": event}))["payload"].clone();
    let first = ask(with(event("run-1", 1), "dedupe_id", "a"));
    let last = ask(end("run-1"))["event_id"].clone();
    let again = ask(with(event("run-1", 1), "dedupe_id", "a"));
    assert_eq!(again, json!({"event_id": first["event_id"], "duplicate": true}));
    let refused = ask(event("run-1", 2));
    assert_eq!(
        (&refused["code"], &refused["by"], &refused["value"], &refused["last_event_id"]),
        (&json!("ended"), &json!("stream"), &json!("run-1"), &last)
    );
    // A refused event leaves no dedupe id.
    assert_eq!(ask(with(event("run-1", 3), "dedupe_id", "b"))["code"], "ended");
    let reopened = ask(with(with(event("run-1", 3), "dedupe_id", "b"), "reopen", true));
    assert!(reopened.get("duplicate").is_none() && reopened["event_id"].is_string(), "{reopened}");
    let refused = ask(with(event("run-1", 4), "expected_last_id", last));
    assert_eq!(
        (&refused["code"], &refused["last_event_id"]),
        (&json!("unexpected_last_id"), &reopened["event_id"])
    );
    assert_eq!(ask(with(event("other", 1), "reopen", true))["code"], "not_kept");
    assert_eq!(ask(with(event("run-1", 4), "reopen", "yes"))["code"], "invalid_event");
    assert_eq!(ask(with(event("run-1", 4), "expected_last_id", 5))["code"], "invalid_event");
    assert_eq!(ask(with(event("run-1", 4), "expected_last_id", "!"))["code"], "invalid_event");
}

#[test]
fn without_rules_no_event_has_a_condition_on_a_log() {
    let server = Server::start();
    for (key, value) in [("reopen", json!(true)), ("expected_last_id", json!(""))] {
        let answer = publish(server.addr, &[event("run-1", 1), with(event("run-1", 2), key, value)]);
        assert_eq!(
            (answer.status, &answer.json()["code"], &answer.json()["line"]),
            (400, &json!("not_kept"), &json!(2))
        );
    }
    accepted(server.addr, &[with(event("run-1", 1), "reopen", false)]);
}

#[test]
fn an_expected_last_event_must_be_the_last_one() {
    let server = server();
    let addr = server.addr;
    let expect = |id: &Value| publish(addr, &[with(event("run-1", 0), "expected_last_id", id.clone())]);
    let first = expect(&json!(""));
    assert_eq!(first.status, 200);
    let first = first.json()["last_event_id"].clone();
    let answer = expect(&json!(""));
    assert_eq!((answer.status, &answer.json()["code"]), (409, &json!("unexpected_last_id")));
    assert_eq!(answer.json()["last_event_id"], first, "the publisher can go on from it");
    let second = accepted(addr, &[with(event("run-1", 0), "expected_last_id", first.clone())]);
    assert_eq!(expect(&first).json()["last_event_id"], second);
    // Only the first event of each log in a batch may name the event before it.
    let batch =
        [with(event("run-2", 0), "expected_last_id", ""), with(event("run-2", 0), "expected_last_id", "")];
    assert_eq!(publish(addr, &batch).json()["line"], 2);
    accepted(addr, &[with(event("run-2", 0), "expected_last_id", ""), event("run-2", 0)]);
}

#[test]
fn writers_that_expect_their_predecessor_make_one_chain() {
    const WRITERS: usize = 6;
    const EACH: usize = 15;
    let server = server();
    let addr = server.addr;
    let refused = AtomicUsize::new(0);
    let mut reader = Ws::subscribed(addr, json!({}));
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                let mut last = json!("");
                for _ in 0..EACH {
                    loop {
                        // The payload holds the id that the writer expects.
                        let event = json!({"type": "run.token", "stream_id": "run-1", "expected_last_id": last, "payload": last});
                        let answer = publish(addr, &[event]);
                        last = answer.json()["last_event_id"].clone();
                        match answer.status {
                            200 => break,
                            409 => refused.fetch_add(1, Ordering::Relaxed),
                            other => panic!("{other}: {answer:?}"),
                        };
                    }
                }
            });
        }
    });
    let mut last = json!("");
    for _ in 0..WRITERS * EACH {
        let event = reader.event();
        assert_eq!(event["payload"], last, "nothing came in between");
        last = event["event_id"].clone();
    }
    assert!(refused.load(Ordering::Relaxed) > 0, "they did not race");
}

#[test]
fn nothing_is_accepted_after_an_end_that_races_with_others() {
    let server = server();
    let addr = server.addr;
    let mut reader = Ws::subscribed(addr, json!({"filter": "type=run.*"}));
    for round in 0..10 {
        let stream = format!("run-{round}");
        let taken = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (stream, taken) = (&stream, &taken);
                scope.spawn(move || {
                    for n in 0..10 {
                        if writer == 0 && n == 5 {
                            accepted(addr, &[end(stream)]);
                        }
                        let answer = publish(addr, &[event(stream, n)]);
                        match answer.status {
                            200 => taken.fetch_add(1, Ordering::Relaxed),
                            _ => {
                                assert_eq!(answer.json()["code"], "ended", "{answer:?}");
                                break;
                            }
                        };
                    }
                });
            }
        });
        let before = std::iter::from_fn(|| Some(reader.event()))
            .take_while(|event| event["event_type"] != "run.finished")
            .inspect(|event| assert_eq!(event["stream_id"], stream.as_str()))
            .count();
        assert_eq!(before, taken.load(Ordering::Relaxed), "round {round}");
    }
    assert!(reader.is_silent_for(Duration::from_millis(100)));
}

#[test]
fn a_long_batch_has_its_logs_for_itself() {
    let server = server();
    let addr = server.addr;
    let batch: Vec<Value> = (0..3000).map(|n| event("run-1", n)).chain([end("run-1")]).collect();
    let others = AtomicUsize::new(0);
    let mut reader = Ws::subscribed(addr, json!({"event_types": ["run.finished", "run.last"]}));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let answer = publish(addr, &[event("run-1", 9999)]);
                    match answer.json()["code"].as_str() {
                        None => drop(others.fetch_add(1, Ordering::Relaxed)),
                        Some("publish_in_flight") => assert_eq!(answer.header("retry-after"), Some("1")),
                        Some("ended") => return,
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
        accepted(addr, &batch);
    });
    // After the batch the log accepts other publishers again.
    accepted(addr, &[with(json!({"type": "run.last", "stream_id": "run-1"}), "reopen", true)]);
    assert_eq!(reader.event()["event_type"], "run.finished");
    assert_eq!(reader.event()["event_type"], "run.last");
    let head = http::get(addr, "/api/stats").json()["shards"][0]["head"].as_u64().expect("a number");
    assert_eq!(head as usize, 3002 + others.load(Ordering::Relaxed));
}

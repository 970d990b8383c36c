//! `POST /runs/{stream}` against the real server: it publishes, and answers with the run.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::http::{self, Response, read_head, read_response};
use support::sse::{Block, Sse};
use support::wire::{Wire, deadline};
use support::ws::Ws;
use support::{Server, eventually, token};

const RULE: &str = "by=stream; end=run.finished; match=stream=run-*";

/// Forms of a server: one shard and one loop, and several of both.
const FORMS: [&[&str]; 2] = [&[], &["--bus-shards", "4", "--loops", "2"]];

fn server(more: &[&str]) -> Server {
    Server::with(&[&["--retain", RULE], more].concat())
}

fn request(target: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /runs/{target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Sends a request. Its answer must be a stream.
fn run_with(server: &Server, target: &str, headers: &str, body: &str) -> Sse {
    let mut wire = Wire::connect(server.addr);
    wire.send(request(target, headers, body).as_bytes());
    stream_of(wire)
}

fn stream_of(mut wire: Wire) -> Sse {
    let response = read_head(&mut wire, deadline()).expect("an answer");
    if response.status != 200 {
        let body = wire.take_rest(deadline()).unwrap_or_default();
        panic!("{response:?} {}", String::from_utf8_lossy(&body));
    }
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    Sse::from_wire(wire, response)
}

fn run(server: &Server, target: &str, body: &str) -> Sse {
    run_with(server, target, "", body)
}

/// Sends a request that is refused.
fn refused(server: &Server, target: &str, headers: &str, body: &str) -> Response {
    let answer = http::exchange(server.addr, request(target, headers, body).as_bytes());
    assert_eq!(answer.header("content-type"), Some("application/json"), "{target}: {answer:?}");
    answer
}

fn event(n: u64) -> Value {
    json!({"type": "token", "payload": {"n": n}})
}

fn events(numbers: std::ops::Range<u64>) -> String {
    Value::from(numbers.map(event).collect::<Vec<_>>()).to_string()
}

fn publish(server: &Server, stream: &str, event_type: &str, n: u64) {
    server.publish(json!({"type": event_type, "stream_id": stream, "payload": {"n": n}}).to_string());
}

fn number(block: &Block) -> u64 {
    let event = block.json();
    event["payload"]["n"].as_u64().unwrap_or_else(|| panic!("no number: {block:?}"))
}

fn numbers(stream: &mut Sse, count: usize) -> Vec<u64> {
    (0..count).map(|_| number(&stream.event())).collect()
}

/// Returns the number of events of a stream in the pages.
fn count(server: &Server, stream: &str) -> usize {
    let answer = http::get(server.addr, &format!("/events?stream={stream}"));
    answer.json()["events"].as_array().expect("events").len()
}

/// Reads the notice of the end, and the end of the stream.
fn ends(stream: &mut Sse) -> Value {
    let end = stream.event();
    assert_eq!(end.event.as_deref(), Some("end"), "{end:?}");
    let rest = stream.block(deadline());
    assert!(rest.is_err(), "the stream is over, and said {rest:?}");
    end.json()
}

#[test]
fn a_request_is_answered_by_the_run_from_its_first_event_on() {
    for form in FORMS {
        let server = server(form);
        for n in 0..5 {
            publish(&server, "run-1", "token", n);
            publish(&server, "run-2", "token", 100 + n);
        }
        eventually("all is recorded", || count(&server, "run-1") == 5);
        let mut own = run(&server, "run-1", &events(5..8));
        assert_eq!(numbers(&mut own, 3), [5, 6, 7], "{form:?}");
        let mut whole = run(&server, "run-1?from=start", &event(8).to_string());
        assert_eq!(numbers(&mut whole, 9), (0..9).collect::<Vec<_>>(), "{form:?}");
        assert_eq!(numbers(&mut own, 1), [8]);
        // Another request publishes the end of the run.
        let last = json!([event(9), {"type": "run.finished", "payload": {"n": 10}}]).to_string();
        let mut last = run(&server, "run-1", &last);
        assert_eq!(numbers(&mut last, 2), [9, 10]);
        assert_eq!(ends(&mut last)["complete"], true);
        for mut stream in [own, whole] {
            assert_eq!(numbers(&mut stream, 2), [9, 10]);
            ends(&mut stream);
        }
        // An ended run accepts nothing, and a new life begins with `reopen`.
        let answer = refused(&server, "run-1", "", &event(11).to_string());
        let error = answer.json();
        assert_eq!((answer.status, &error["code"], &error["line"]), (409, &json!("ended"), &json!(1)));
        let again = json!({"type": "token", "reopen": true, "payload": {"n": 12}}).to_string();
        assert_eq!(numbers(&mut run(&server, "run-1?from=start", &again), 1), [12], "{form:?}");
        assert_eq!(count(&server, "run-1"), 12);
    }
}

#[test]
fn an_empty_body_joins_the_run() {
    for form in FORMS {
        let server = server(form);
        publish(&server, "run-1", "token", 0);
        let mut live = run(&server, "run-1", "");
        let mut whole = run(&server, "run-1?from=start", " \n");
        let mut lean = run(&server, "run-1?from=start&lean", "");
        assert_eq!(numbers(&mut whole, 1), [0]);
        assert_eq!(lean.event().json(), json!({"n": 0}));
        publish(&server, "run-1", "run.finished", 1);
        for stream in [&mut live, &mut whole] {
            assert_eq!(numbers(stream, 1), [1], "{form:?}");
            ends(stream);
        }
        // For an ended run the client gets the end. If the run does not exist, a client may request not to wait.
        ends(&mut run(&server, "run-1", ""));
        let over = http::exchange(server.addr, request("run-9?absent=204", "", "").as_bytes());
        assert_eq!((over.status, over.body.len()), (204, 0));
        assert_eq!(numbers(&mut run(&server, "run-1?from=start", ""), 2), [0, 1]);
        // Chunks without data are an empty body too.
        let mut wire = Wire::connect(server.addr);
        wire.send(b"POST /runs/run-1?from=start HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
        assert_eq!(numbers(&mut stream_of(wire), 2), [0, 1]);
    }
}

#[test]
fn a_retry_joins_the_run_and_publishes_nothing_twice() {
    for form in FORMS {
        let server = server(form);
        let key = "Idempotency-Key: one\r\n";
        let mut first = run_with(&server, "run-1", key, &events(0..3));
        assert_eq!(numbers(&mut first, 3), [0, 1, 2]);
        // The connection breaks, and the request is sent again.
        drop(first);
        publish(&server, "run-1", "token", 3);
        let mut again = run_with(&server, "run-1", key, &events(0..3));
        assert_eq!(numbers(&mut again, 4), [0, 1, 2, 3], "{form:?}");
        // The retry has the position of the last event, as clients of event streams send it.
        let place = {
            let mut stream = run_with(&server, "run-1", key, &events(0..3));
            stream.event();
            stream.event().id.expect("an id")
        };
        let resume = format!("{key}Last-Event-ID: {place}\r\n");
        let mut resumed = run_with(&server, "run-1", &resume, &events(0..3));
        assert_eq!(numbers(&mut resumed, 2), [2, 3]);
        // Another body or another run is another request.
        for (target, body) in [("run-1", events(0..2)), ("run-2", events(0..3))] {
            let answer = refused(&server, target, key, &body);
            assert_eq!((answer.status, &answer.json()["code"]), (422, &json!("idempotency_key_reused")));
        }
        let post = format!(
            "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{key}Content-Length: {}\r\n\r\n{}",
            events(0..3).len(),
            events(0..3)
        );
        assert_eq!(http::exchange(server.addr, post.as_bytes()).status, 422);
        // After the end, a retry is recognized before new events are refused, and a client that has all events gets a
        // 204.
        publish(&server, "run-1", "run.finished", 4);
        assert_eq!(numbers(&mut again, 1), [4]);
        let end = again.event();
        assert_eq!(end.event.as_deref(), Some("end"));
        let mut late = run_with(&server, "run-1", key, &events(0..3));
        assert_eq!(numbers(&mut late, 5), [0, 1, 2, 3, 4]);
        ends(&mut late);
        let place = end.id.expect("an id");
        let all = request("run-1", &format!("{key}Last-Event-ID: {place}\r\n"), &events(0..3));
        assert_eq!(http::exchange(server.addr, all.as_bytes()).status, 204);
        assert_eq!(count(&server, "run-1"), 5);
        // Events with `dedupe_id`: the known ones are left out.
        let named = |n: u64| json!({"type": "token", "dedupe_id": format!("e{n}"), "payload": {"n": n}});
        assert_eq!(numbers(&mut run(&server, "run-3", &named(0).to_string()), 1), [0]);
        let mut both = run(&server, "run-3", &json!([named(0), named(1)]).to_string());
        assert_eq!(numbers(&mut both, 2), [0, 1]);
        assert_eq!(count(&server, "run-3"), 2);
    }
}

/// With several shards it begins at the start of the run, because the first event's id says nothing about the other shards.
#[test]
fn a_retry_begins_with_the_first_event_of_the_first_attempt() {
    let server = server(&[]);
    let key = "Idempotency-Key: one\r\n";
    publish(&server, "run-1", "token", 0);
    publish(&server, "run-1", "token", 1);
    drop(run_with(&server, "run-1", key, &events(2..4)));
    publish(&server, "run-1", "token", 4);
    let mut again = run_with(&server, "run-1", key, &events(2..4));
    assert_eq!(numbers(&mut again, 3), [2, 3, 4]);
    let mut whole = run_with(&server, "run-1?from=start", key, &events(2..4));
    assert_eq!(numbers(&mut whole, 5), [0, 1, 2, 3, 4]);
    // Also by the names of its events.
    let named = |n: u64| json!({"type": "token", "dedupe_id": format!("e{n}"), "payload": {"n": n}});
    let body = json!([named(5), named(6)]).to_string();
    drop(run(&server, "run-1", &body));
    assert_eq!(numbers(&mut run(&server, "run-1", &body), 2), [5, 6]);
    assert_eq!(count(&server, "run-1"), 7);
}

#[test]
fn a_refused_request_publishes_nothing() {
    let server = server(&["--max-body-bytes", "100000"]);
    let mut reader = Ws::subscribed(server.addr, json!({}));
    publish(&server, "run-1", "token", 0);
    assert_eq!(reader.event()["payload"]["n"], 0);
    let good = event(0).to_string();
    let second = r#"[{"type":"a"},
        {"type":"b","stream_id":"run-2"}]"#;
    let rows: &[(&str, &str, &str, u16, &str)] = &[
        ("run-1", "", "{", 400, "JSON"),
        ("run-1", "", r#"{"payload":{}}"#, 400, "type"),
        ("run-1", "", second, 400, "stream_id 'run-2' is not 'run-1'"),
        ("run-1", "", r#"{"type":"a","stream_id":""}"#, 400, "leave it out"),
        ("run-1", "", r#"{"type":"a","reopen":true}"#, 409, "has not ended"),
        ("chat", "", r#"{"type":"a","reopen":true}"#, 400, "no rule keeps"),
        ("run-1", "", r#"{"type":"a","expected_last_id":"a-1"}"#, 409, "expected_last_id"),
        ("run-1?from=begin", "", &good, 400, "from can only be start"),
        ("run-1?frm=start", "", &good, 400, "did you mean `from`"),
        ("run-1?stream=run-2", "", &good, 400, "unknown key `stream`"),
        ("run-1?history=5", "", &good, 400, "unknown key `history`"),
        ("run-1?lean=maybe", "", &good, 400, "lean"),
        ("run-1?on_lag=panic", "", &good, 400, "on_lag"),
        ("", "", &good, 404, "no run is named"),
        ("run-1", "Idempotency-Key: \r\n", &good, 400, "Idempotency-Key"),
    ];
    for (target, headers, body, status, says) in rows {
        let answer = refused(&server, target, headers, body);
        assert!(answer.status == *status && answer.text().contains(says), "{target} {body}: {answer:?}");
    }
    let line = refused(&server, "run-1", "", second).json()["line"].clone();
    assert_eq!(line, 2);
    let kind = "POST /runs/run-1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(http::exchange(server.addr, kind.as_bytes()).status, 415);
    let large = request("run-1", "", &" ".repeat(100_001));
    assert_eq!(http::exchange(server.addr, large.as_bytes()).status, 413);
    for method in ["GET", "PUT", "DELETE"] {
        let answer = http::exchange(
            server.addr,
            format!("{method} /runs/run-1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        );
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST, OPTIONS")), "{method}");
    }
    // A request from a page of another site.
    let foreign = request("run-1", "Origin: http://evil.example\r\n", &good);
    assert_eq!(http::exchange(server.addr, foreign.as_bytes()).status, 403);
    publish(&server, "run-1", "token", 77);
    assert_eq!(reader.event()["payload"]["n"], 77, "nothing came before it");
}

#[test]
fn a_run_takes_the_rights_to_publish_and_to_read() {
    let secret = "a secret of thirty-two characters!";
    let server = server(&["--auth-jwt-hs256-secret", secret]);
    let with = |options: &[&str]| format!("Authorization: Bearer {}\r\n", token(secret, options));
    let body = event(1).to_string();
    for (options, says) in [
        (&["--publish"][..], "seeing events"),
        (&["--stream", "run-1"], "publishing"),
        (&["--stream", "run-2", "--publish"], "stream 'run-1'"),
        (&["--stream", "run-1", "--publish=other"], "type 'token'"),
        (&["--stream", "run-1", "--filter", "payload.n>5", "--publish"], "payload.n > 5"),
    ] {
        let answer = refused(&server, "run-1", &with(options), &body);
        let error = answer.json()["error"].as_str().expect("a text").to_owned();
        assert!(answer.status == 403 && error.contains(says), "{options:?}: {answer:?}");
    }
    assert_eq!(http::exchange(server.addr, request("run-1", "", &body).as_bytes()).status, 401);
    // A holder with limited rights sees its own part, and no unsealed position.
    let own = with(&["--stream", "run-1", "--publish"]);
    let mut stream = run_with(&server, "run-1", &own, &body);
    let begin = stream.block(deadline()).expect("the beginning");
    assert!(begin.id.is_some_and(|id| id.starts_with('~')), "a sealed place");
    assert_eq!(numbers(&mut stream, 1), [1]);
    let narrow = with(&["--stream", "run-1", "--type", "token,run.*", "--publish"]);
    let two = json!([{"type": "other", "payload": {"n": 2}}, event(3)]).to_string();
    assert_eq!(numbers(&mut run_with(&server, "run-1", &narrow, &two), 1), [3]);
}

#[test]
fn a_client_that_leaves_does_not_end_the_run() {
    let server = server(&[]);
    let mut reader = Sse::open(server.addr, "?stream=run-1");
    let mut own = run(&server, "run-1", &events(0..3));
    assert_eq!(numbers(&mut own, 1), [0]);
    eventually("two streams are open", || {
        server.metric("fanwire_server_connections{kind=\"sse\"}").is_some_and(|open| open > 1.5)
    });
    drop(own);
    eventually("one has gone", || {
        server.metric("fanwire_server_connections{kind=\"sse\"}").is_some_and(|open| open < 1.5)
    });
    publish(&server, "run-1", "token", 3);
    publish(&server, "run-1", "run.finished", 4);
    assert_eq!(numbers(&mut reader, 5), [0, 1, 2, 3, 4]);
    ends(&mut reader);
    // A client disconnects before the answer: the whole body is published anyway.
    let mut wire = Wire::connect(server.addr);
    wire.send(request("run-2", "", &events(0..1_000)).as_bytes());
    drop(wire);
    eventually("all of it is there", || {
        let answer = http::get(server.addr, "/events?stream=run-2&order=desc&limit=1").json();
        answer["events"][0]["payload"]["n"] == 999
    });
}

#[test]
fn a_long_body_is_published_whole_and_streamed_whole() {
    for form in FORMS {
        let rule = "by=stream; end=run.finished; events=20000; match=stream=run-*";
        let server = Server::with(&[&["--retain", rule, "--bus-capacity", "512"], form].concat());
        let mut stream = run(&server, "run-1", &events(0..5_000));
        assert_eq!(numbers(&mut stream, 5_000), (0..5_000).collect::<Vec<_>>(), "{form:?}");
        let lines: Vec<String> = (5_000..5_300).map(|n| event(n).to_string()).collect();
        let mut more = run_with(&server, "run-1", "", &lines.join("\n"));
        assert_eq!(numbers(&mut more, 300), (5_000..5_300).collect::<Vec<_>>());
        let mut wrong = events(0..5_000);
        wrong.insert_str(wrong.len() - 1, r#",{"type":"a","stream_id":"b"}"#);
        assert_eq!(refused(&server, "run-1", "", &wrong).status, 400);
        publish(&server, "run-1", "run.finished", 5_300);
        assert_eq!(numbers(&mut more, 1), [5_300]);
    }
}

#[test]
fn a_run_is_a_request_among_others_of_its_connection() {
    let server = server(&[]);
    let publish = |n: u64| {
        let body = json!({"type": "token", "stream_id": "run-1", "payload": {"n": n}}).to_string();
        format!("POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    // After a refusal the connection stays open. Bytes sent after the stream has begun are not read.
    let mut wire = Wire::connect(server.addr);
    let wrong = request("run-1", "", r#"{"type":5}"#);
    let all =
        [publish(0), wrong.clone(), publish(1), request("run-1", "", &events(2..4)), publish(9)].concat();
    wire.send(all.as_bytes());
    for status in [200, 400, 200] {
        assert_eq!(read_response(&mut wire, deadline()).expect("an answer").status, status);
    }
    let mut stream = stream_of(wire);
    assert_eq!(numbers(&mut stream, 2), [2, 3]);
    assert_eq!(count(&server, "run-1"), 4);
    // The refusal of a long body, which a worker reads.
    let long = events(0..2_000).replace("\"n\":1999", "\"n\":x");
    let mut wire = Wire::connect(server.addr);
    wire.send([request("run-1", "", &long), request("run-1", "", &event(4).to_string())].concat().as_bytes());
    assert_eq!(read_response(&mut wire, deadline()).expect("an answer").status, 400);
    assert_eq!(numbers(&mut stream_of(wire), 1), [4]);
    // With `Connection: close` the connection is closed after a refusal by any check.
    for body in [r#"{"type":5}"#, &long, r#"[{"type":"a"},{"type":"a","expected_last_id":""}]"#] {
        let mut wire = Wire::connect(server.addr);
        wire.send(request("run-1", "Connection: close\r\n", body).as_bytes());
        let answer = read_response(&mut wire, deadline()).expect("an answer");
        assert!(answer.status >= 400 && answer.header("connection") == Some("close"), "{answer:?}");
        assert_eq!(wire.take_rest(deadline()).expect("the end"), b"");
    }
    // The client sends the body when the server asks for it.
    let mut wire = Wire::connect(server.addr);
    let asks = request("run-1", "Expect: 100-continue\r\n", &event(5).to_string());
    let (head, body) = asks.split_once("\r\n\r\n").expect("a head");
    wire.send(format!("{head}\r\n\r\n").as_bytes());
    assert_eq!(read_head(&mut wire, deadline()).expect("an answer").status, 100);
    wire.send(body.as_bytes());
    assert_eq!(numbers(&mut stream_of(wire), 1), [5]);
}

#[test]
fn a_run_of_an_engine_comes_from_its_first_event_too() {
    let folder = std::env::temp_dir().join(format!("fanwire-runs-{}", std::process::id()));
    let server = Server::with(&["--engine", &format!("file://{}", folder.display())]);
    server.publish(r#"{"type":"token","stream_id":"run-1","payload":{"n":0}}"#);
    let mut own = run(&server, "run-1", &events(1..4));
    let mut came = numbers(&mut own, 3);
    if came[0] == 0 {
        // The loop may not have read the previous event when the request arrived.
        came.extend(numbers(&mut own, 1));
        came.remove(0);
    }
    assert_eq!(came, [1, 2, 3]);
    server.publish(r#"{"type":"token","stream_id":"run-1","payload":{"n":4}}"#);
    assert_eq!(numbers(&mut own, 1), [4]);
    let answer = refused(&server, "run-1", "", r#"{"type":"a","reopen":true}"#);
    assert_eq!(answer.status, 400);
    drop(server);
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn an_endpoint_under_runs_is_refused_at_start() {
    for path in ["/runs", "/runs/x", "/runs/{id}"] {
        let out = support::run(support::fanwire().args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--endpoint",
            &format!("{path}=hive"),
        ]));
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && error.contains("paths under /runs"), "{path}: {out:?}");
    }
    let server = Server::with(&["--endpoint", "/running=native"]);
    let mut client = Ws::over(Wire::connect(server.addr), "/running", "");
    assert!(client.is_silent_for(Duration::from_millis(1)));
}

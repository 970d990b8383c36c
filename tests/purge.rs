//! `DELETE /events` against the real server: kept logs are removed on request, and clients get gaps.

mod support;

use serde_json::{Value, json};
use support::http::Response;
use support::log_home::{HomedServer, LogHome};
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::Ws;
use support::{Server, eventually, http, token};

const RULE: &str = "by=stream; end=run.finished; match=stream=run-*";

/// Forms of a server: one shard and one loop, several of both, and each engine.
const FORMS: [&[&str]; 5] = [
    &[],
    &["--bus-shards", "4", "--loops", "2"],
    &["--engine", "files"],
    &["--engine", "redis", "--loops", "2"],
    &["--engine", "nats"],
];

fn server(more: &[&str]) -> HomedServer {
    HomedServer::with(&[&["--retain", RULE], more].concat())
}

fn publish(server: &Server, stream: &str, event_type: &str, n: u64) -> String {
    let event = json!({"type": event_type, "stream_id": stream, "payload": {"n": n}});
    server.publish(event.to_string())["last_event_id"].as_str().expect("an id").to_owned()
}

fn delete_with(server: &Server, query: &str, headers: &str) -> Response {
    let request = format!("DELETE /events{query} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    http::exchange(server.addr, request.as_bytes())
}

/// Purges logs. Repeats the request while the server has not recorded all events.
fn purge(server: &Server, query: &str) -> (u64, u64) {
    let mut answer = None;
    eventually("the logs are purged", || {
        let response = delete_with(server, query, "");
        assert!(response.status == 200 || response.status == 503, "{query}: {response:?}");
        if response.status == 503 {
            assert_eq!(response.header("retry-after"), Some("1"));
            return false;
        }
        answer = Some(response.json());
        true
    });
    let answer = answer.expect("an answer");
    (answer["logs"].as_u64().expect("a number"), answer["events"].as_u64().expect("a number"))
}

fn page(server: &Server, query: &str) -> (usize, bool) {
    let answer = http::get(server.addr, &format!("/events?{query}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let page = answer.json();
    (page["events"].as_array().expect("events").len(), page["complete"] == true)
}

/// Returns the name of the next event of a stream, and the number in it.
fn next(stream: &mut Sse) -> (String, Option<u64>) {
    let block = stream.event();
    let number = block.json()["payload"]["n"].as_u64();
    (block.event.unwrap_or_default(), number)
}

#[test]
fn a_purged_log_is_gone_and_never_complete_again() {
    for form in FORMS {
        let server = server(form);
        for n in 0..20 {
            for run in ["run-1", "run-2", "run-3"] {
                publish(&server, run, "token", n);
            }
        }
        publish(&server, "run-2", "run.finished", 20);
        assert_eq!(purge(&server, "?stream=run-1&stream=run-2"), (2, 41), "{form:?}");
        assert_eq!(purge(&server, "?stream=run-1"), (0, 0), "a purge that is repeated finds nothing");
        for run in ["run-1", "run-2"] {
            assert_eq!(page(&server, &format!("stream={run}")), (0, false), "{form:?} {run}");
            // A new log with this name begins, although the old one had ended.
            publish(&server, run, "token", 100);
            let mut stream = Sse::open(server.addr, &format!("?stream={run}&from=start"));
            let (name, _) = next(&mut stream);
            assert_eq!(name, "gap", "{form:?} {run}");
            assert_eq!(next(&mut stream), ("token".to_owned(), Some(100)));
            let mut client = Ws::connect(server.addr);
            client.send(&json!({"type": "subscribe", "payload": {"stream_ids": [run], "from": "start"}}));
            let ack = client.any_message();
            assert_eq!(ack["payload"]["history"]["complete"], false, "{ack}");
        }
        publish(&server, "run-2", "run.finished", 101);
        let mut stream = Sse::open(server.addr, "?stream=run-2&from=start");
        while next(&mut stream).0 != "run.finished" {
            eprintln!("not yet");
        }
        let end = stream.event();
        assert_eq!((end.event.as_deref(), &end.json()["complete"]), (Some("end"), &json!(false)));
        // The other log is not changed.
        eventually("the third is there", || page(&server, "stream=run-3") == (20, true));
    }
}

#[test]
fn live_clients_of_a_purged_log_get_a_gap_and_others_do_not() {
    for form in FORMS {
        let server = server(form);
        // There are several clients of each kind, so that each loop has some.
        let mut named: Vec<Sse> = (0..4).map(|_| Sse::open(server.addr, "?stream=run-1")).collect();
        let mut wide: Vec<Ws> = (0..4).map(|_| Ws::subscribed(server.addr, json!({}))).collect();
        let mut lean = Sse::open(server.addr, "?stream=**&lean");
        let mut other: Vec<Sse> = (0..4).map(|_| Sse::open(server.addr, "?stream=run-2")).collect();
        let mut typed = Sse::open(server.addr, "?stream=chat&type=token");
        publish(&server, "run-1", "token", 0);
        for stream in named.iter_mut().chain([&mut lean]) {
            assert_eq!(stream.event().event.as_deref(), Some("token"));
        }
        for client in &mut wide {
            assert_eq!(client.event()["payload"]["n"], 0);
        }
        assert_eq!(purge(&server, "?stream=run-1"), (1, 1));
        let gap = json!({"missed": null, "from": null, "to": null, "recoverable": false});
        for stream in named.iter_mut().chain([&mut lean]) {
            let block = stream.event();
            assert_eq!((block.event.as_deref(), block.json()), (Some("gap"), gap.clone()), "{form:?}");
        }
        for client in &mut wide {
            let message = client.any_message();
            assert_eq!((&message["type"], &message["payload"]), (&json!("gap"), &gap), "{message}");
        }
        // All clients continue, and the others got no gap.
        for run in ["run-1", "run-2", "chat"] {
            publish(&server, run, "token", 1);
        }
        let all = named.iter_mut().chain(&mut other).chain([&mut typed]);
        for stream in all {
            assert_eq!(next(stream), ("token".to_owned(), Some(1)), "{form:?}");
        }
    }
}

/// A client reads the past of a log while it is purged, too slowly to have received all of it.
#[test]
fn a_client_that_reads_a_log_from_its_start_is_notified_too() {
    let rule = "by=stream; bytes=64MiB; match=stream=run-*";
    let server = Server::with(&["--retain", rule, "--bus-capacity", "64"]);
    let text = "x".repeat(20_000);
    for n in (0..1_000).step_by(20) {
        let one = |n| json!({"type": "token", "stream_id": "run-1", "payload": {"n": n, "text": text}});
        server.publish(Value::from((n..n + 20).map(one).collect::<Vec<_>>()).to_string());
    }
    let mut stream = Sse::open(server.addr, "?stream=run-1&from=start");
    assert_eq!(next(&mut stream), ("token".to_owned(), Some(0)));
    assert_eq!(purge(&server, "?stream=run-1"), (1, 1_000));
    publish(&server, "run-1", "token", 5_000);
    let (mut last, mut gaps) = (0, 0);
    while last < 5_000 {
        match next(&mut stream) {
            (name, None) if name == "gap" => gaps += 1,
            (_, Some(n)) => {
                assert!(n == last + 1 || (gaps > 0 && n > last), "{n} after {last}, {gaps} gaps");
                last = n;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(gaps > 0);
}

/// Requests of one connection are handled in order, and events accepted before a purge are purged.
#[test]
fn a_purge_removes_everything_published_before_it() {
    for form in FORMS {
        let server = server(form);
        for round in 0..20 {
            let publish = |n: u64| {
                let body = json!({"type": "token", "stream_id": "run-1", "payload": {"n": n}}).to_string();
                format!(
                    "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            };
            let mut wire = Wire::connect(server.addr);
            let delete = "DELETE /events?stream=run-1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let get = "GET /events?stream=run-1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
            wire.send([&publish(1), &publish(2), delete, get].concat().as_bytes());
            let mut answer = || http::read_response(&mut wire, deadline()).expect("an answer");
            assert_eq!((answer().status, answer().status), (200, 200));
            let purged = answer();
            let page = answer().json();
            if purged.status == 503 {
                // Not all events were recorded, so nothing was purged.
                purge(&server, "?stream=run-1");
                continue;
            }
            assert_eq!(purged.json(), json!({"logs": 1, "events": 2}), "{form:?} {round}");
            assert_eq!((&page["events"], &page["complete"]), (&json!([]), &json!(false)));
        }
    }
}

#[test]
fn a_purge_names_whole_logs_by_value() {
    let server = server(&["--retain", "by=channel; match=channel=room.*"]);
    publish(&server, "run-1", "token", 0);
    let add = "add stream=VALUE or channel=VALUE";
    let whole = "as a whole";
    for (query, says) in [
        ("", add),
        ("?type=token", add),
        ("?stream=**", add),
        ("?stream=", add),
        ("?stream=run-*", "an asterisk beside other characters stands for itself"),
        ("?stream=run-1&stream=run-*", "name each log by its value"),
        ("?filter=stream!%3Drun-1", add),
        ("?stream=run-1&type=token", whole),
        ("?stream=run-1&channel=room.1", whole),
        ("?stream=run-1&filter=payload.n%3D%3D0", whole),
        ("?stream=run-1&order=asc", "unknown key `order`"),
        ("?stream=run-1&limit=5", "unknown key `limit`"),
        ("?filter=stream%3D", "filter"),
    ] {
        let answer = delete_with(&server, query, "");
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        let error = answer.json()["error"].as_str().expect("a text").to_owned();
        assert!(error.contains(says), "{query}: {error}");
    }
    let many: Vec<String> = (0..101).map(|n| format!("stream=run-{n}")).collect();
    let answer = delete_with(&server, &format!("?{}", many.join("&")), "");
    assert!(answer.status == 400 && answer.text().contains("retain_max_logs_read"), "{answer:?}");
    assert_eq!(page(&server, "stream=run-1"), (1, true), "nothing was purged");
    // A body is ignored.
    let body = "Content-Length: 5\r\nConnection: close\r\n\r\nhello";
    let request = format!("DELETE /events?stream=run-1 HTTP/1.1\r\nHost: localhost\r\n{body}");
    assert_eq!(http::exchange(server.addr, request.as_bytes()).json(), json!({"logs": 1, "events": 1}));
    let none = Server::start();
    let answer = delete_with(&none, "?stream=run-1", "");
    assert!(answer.status == 400 && answer.text().contains("no rule keeps events"), "{answer:?}");
}

#[test]
fn a_purge_needs_its_own_right_for_the_whole_log() {
    let secret = "a secret of thirty-two characters!";
    let server = server(&["--auth-jwt-hs256-secret", secret]);
    let all = token(secret, &["--publish", "--stream", "*", "--metrics", "--admin"]);
    let body = r#"{"type":"token","stream_id":"run-1"}"#;
    let publish = format!(
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {all}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(http::exchange(server.addr, publish.as_bytes()).status, 200);
    let delete = |query: &str, token: &str| {
        let answer = delete_with(&server, query, &format!("Authorization: Bearer {token}\r\n"));
        (answer.status, answer.json()["error"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(delete_with(&server, "?stream=run-1", "").status, 401);
    let beyond = |what: &str| (403, format!("beyond what the token allows: {what}"));
    assert_eq!(delete("?stream=run-1", &all), beyond("purging kept logs"));
    for (grant, query, says) in [
        (&["--stream", "run-2"][..], "?stream=run-1", "stream 'run-1'"),
        (&["--stream", "run-1", "--type", "token"], "?stream=run-1", "all events of these logs"),
        (&["--stream", "*", "--filter", "payload.n>1"], "?stream=run-1", "all events of these logs"),
        (&["--channel", "a"], "?stream=run-1", "all events of these logs"),
        (&["--stream", "run-2"], "?stream=run-2&stream=run-1", "stream 'run-1'"),
        (&[], "?stream=run-1", "seeing events"),
    ] {
        let narrow = token(secret, &[grant, &["--purge"]].concat());
        let (status, error) = delete(query, &narrow);
        assert!(status == 403 && error.contains(says), "{grant:?} {query}: {status} {error}");
    }
    let own = token(secret, &["--purge", "--stream", "run-1,run-3"]);
    assert_eq!(delete("?stream=run-1", &own), (200, String::new()));
    let any = token(secret, &["--purge", "--stream", "*"]);
    assert_eq!(delete("?stream=run-1", &any), (200, String::new()));
    // Clients without a token get the right by a setting.
    let public = Server::with(&[
        "--retain",
        RULE,
        "--auth-jwt-hs256-secret",
        secret,
        "--auth-anonymous-streams",
        "run-1",
        "--auth-anonymous-purge",
    ]);
    assert_eq!(delete_with(&public, "?stream=run-1", "").json(), json!({"logs": 0, "events": 0}));
    assert_eq!(delete_with(&public, "?stream=run-2", "").status, 403);
}

#[test]
fn pages_of_other_origins_purge_nothing_and_a_preflight_allows_the_method() {
    let server = server(&["--cors-origin", "http://app.example", "--allowed-origin", "http://own.example"]);
    publish(&server, "run-1", "token", 0);
    let preflight = "OPTIONS /events HTTP/1.1\r\nHost: localhost\r\nOrigin: http://own.example\r\n\
                     Access-Control-Request-Method: DELETE\r\n\r\n";
    let answer = http::exchange(server.addr, preflight.as_bytes());
    assert_eq!(answer.header("allow"), Some("GET, HEAD, DELETE, OPTIONS"));
    // An origin that may only read, and one without any right.
    for origin in ["http://app.example", "http://evil.example"] {
        assert_eq!(
            delete_with(&server, "?stream=run-1", &format!("Origin: {origin}\r\n")).status,
            403,
            "{origin}"
        );
    }
    assert_eq!(page(&server, "stream=run-1"), (1, true));
    let open = Server::with(&["--retain", RULE, "--cors-origin", "http://app.example"]);
    let preflight = preflight.replace("own.example", "app.example");
    let answer = http::exchange(open.addr, preflight.as_bytes());
    let methods = answer.header("access-control-allow-methods").expect("methods");
    assert!(methods.contains("DELETE"), "{methods}");
    let answer = delete_with(&open, "?stream=run-1", "Origin: http://app.example\r\n");
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, Some("http://app.example"))
    );
}

/// The purge has its place in the engine's log: all nodes follow it, and so does a process that starts later.
#[test]
fn a_purge_holds_on_every_node_and_after_a_restart() {
    for kind in ["redis", "nats"] {
        let home = LogHome::new(kind);
        let [a, b] = [(); 2].map(|()| home.node(&["--retain", RULE]));
        let mut live = [&a, &b].map(|node| Sse::open(node.addr, "?stream=run-1"));
        let mut other = Sse::open(b.addr, "?stream=run-2");
        for n in 0..5 {
            publish(&a, "run-1", "token", n);
            for stream in &mut live {
                assert_eq!(next(stream), ("token".to_owned(), Some(n)));
            }
        }
        publish(&b, "run-2", "token", 0);
        assert_eq!(purge(&a, "?stream=run-1&stream=run-3"), (1, 5), "{kind}");
        for stream in &mut live {
            assert_eq!(next(stream).0, "gap", "{kind}");
        }
        publish(&b, "run-1", "token", 9);
        publish(&b, "run-2", "token", 1);
        let c = home.node(&["--retain", RULE]);
        for node in [&a, &b, &c] {
            for (run, wanted) in [("run-1", &[9][..]), ("run-2", &[0, 1])] {
                eventually("the node has read it", || page(node, &format!("stream={run}")).0 == wanted.len());
                let mut stream = Sse::open(node.addr, &format!("?stream={run}&from=start"));
                let complete = page(node, &format!("stream={run}")).1;
                assert_eq!(complete, run == "run-2", "{kind}");
                if !complete {
                    assert_eq!(next(&mut stream).0, "gap", "{kind}");
                }
                for n in wanted {
                    assert_eq!(next(&mut stream), ("token".to_owned(), Some(*n)), "{kind} {run}");
                }
            }
        }
        // The record of the purge is no event, and no client misses one.
        for n in 0..2 {
            assert_eq!(next(&mut other), ("token".to_owned(), Some(n)), "{kind}");
        }
        for stream in &mut live {
            assert_eq!(next(stream), ("token".to_owned(), Some(9)), "{kind}");
        }
        let metrics = http::get(c.addr, "/metrics");
        assert!(metrics.text().contains("fanwire_engine_entries_unreadable_total 0\n"), "{}", metrics.text());
    }
}

#[test]
fn a_purge_that_the_log_does_not_take_is_refused() {
    let mut home = LogHome::new("redis");
    let server = home.node(&["--retain", RULE, "--engine-accept-timeout", "1s"]);
    publish(&server, "run-1", "token", 0);
    drop(home.service.take());
    let answer = delete_with(&server, "?stream=run-1", "");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    let error = answer.text();
    assert!(error.contains("the engine can't be reached") || error.contains("did not answer"), "{error}");
}

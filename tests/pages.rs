//! Pages of past events against the real server: `GET /events`, and `fanwire history`.

mod support;

use serde_json::{Value, json};
use support::log_home::{HomedServer, LogHome};
use support::wire::{Wire, deadline};
use support::{Server, http, token};

const RULE: &str = "by=stream; match=stream=run-*";

/// Forms of a server: one shard and one loop, and several of both.
const FORMS: [&[&str]; 2] = [&[], &["--bus-shards", "4", "--loops", "2"]];

/// Forms with an engine, whose log has what the small ring has dropped.
const ENGINES: [&[&str]; 3] = [
    &["--bus-capacity", "64", "--engine", "files"],
    &["--bus-capacity", "64", "--engine", "redis", "--loops", "2"],
    &["--bus-capacity", "64", "--engine", "nats"],
];

/// Publishes `count` events with the payload `n` = 0, 1, ..., in batches, to these streams in turn.
fn publish(server: &Server, streams: &[&str], count: usize) {
    let events: Vec<Value> = (0..count)
        .map(|n| json!({"type": "step", "stream_id": streams[n % streams.len()], "payload": {"n": n}}))
        .collect();
    // The batches are small enough for a small ring.
    for batch in events.chunks(20) {
        server.publish(Value::from(batch).to_string());
    }
}

fn page(server: &Server, query: &str) -> Value {
    let answer = http::get(server.addr, &format!("/events?{query}"));
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    answer.json()
}

fn numbers(page: &Value) -> Vec<u64> {
    let events = page["events"].as_array().expect("events");
    events.iter().map(|event| event["payload"]["n"].as_u64().expect("a number")).collect()
}

/// Reads all pages. Returns the numbers of their events, the number of pages, and whether all of them were complete.
fn walk(server: &Server, query: &str, order: &str) -> (Vec<u64>, usize, bool) {
    let onward = if order == "desc" { "before" } else { "after" };
    let (mut all, mut pages, mut complete) = (Vec::new(), 0, true);
    let mut place = String::new();
    loop {
        let page = page(server, &format!("{query}&order={order}{place}"));
        all.extend(numbers(&page));
        pages += 1;
        complete &= page["complete"] == true;
        match page["next"].as_str() {
            Some(next) => place = format!("&{onward}={next}"),
            None => return (all, pages, complete),
        }
        assert!(pages < 1_000, "the pages have no end");
    }
}

/// Waits until the loops have read all events: with several shards a page shows what they have read.
fn settle(server: &Server, query: &str, count: usize) {
    support::eventually("all events are in pages", || walk(server, query, "desc").0.len() == count);
}

#[test]
fn a_walk_over_the_pages_has_each_event_once() {
    for form in FORMS.into_iter().chain(ENGINES) {
        for rules in [&[][..], &["--retain", RULE]] {
            let server = HomedServer::with(&[form, rules].concat());
            // Half of them are under the rule, if there is one.
            publish(&server, &["run-1", "chat", "run-2", "news"], 1_000);
            settle(&server, "limit=1000", 1_000);
            let all: Vec<u64> = (0..1_000).collect();
            let (mut came, pages, complete) = walk(&server, "limit=100", "asc");
            assert!(pages >= 10 && complete, "{form:?} {rules:?}: {pages} {complete}");
            let (mut back, _, complete) = walk(&server, "limit=37", "desc");
            back.reverse();
            assert!(complete);
            assert_eq!(back, came, "{form:?} {rules:?}: both directions have one order");
            let run: Vec<u64> = walk(&server, "stream=run-1", "asc").0;
            assert_eq!(run, all.iter().copied().filter(|n| n % 4 == 0).collect::<Vec<_>>());
            if !form.contains(&"--bus-shards") {
                assert_eq!(came, all, "one shard has the order of publishing");
            }
            came.sort_unstable();
            assert_eq!(came, all, "{form:?} {rules:?}");
        }
    }
}

#[test]
fn a_page_has_a_hundred_events_and_the_filter_holds() {
    for form in [&[][..]].into_iter().chain(ENGINES) {
        a_page_of(&HomedServer::with(&[form, &["--retain", RULE]].concat()));
    }
}

fn a_page_of(server: &Server) {
    publish(server, &["run-1", "chat"], 400);
    settle(server, "limit=1000", 400);
    let first = page(server, "");
    assert_eq!(numbers(&first), (0..100).collect::<Vec<_>>());
    assert_eq!((&first["complete"], first["events"][0]["stream_id"].as_str()), (&json!(true), Some("run-1")));
    let newest = page(server, "order=desc&limit=3&stream=chat");
    assert_eq!(numbers(&newest), [399, 397, 395]);
    let some = page(server, "filter=payload.n%3E%3D390+stream%3Drun-1&limit=1000");
    let (some, _, _) = match some["next"].as_str() {
        None => (numbers(&some), 1, true),
        // A page ends early if it costs much work.
        Some(_) => walk(server, "filter=payload.n%3E%3D390+stream%3Drun-1&limit=1000", "asc"),
    };
    assert_eq!(some, [390, 392, 394, 396, 398]);
    assert_eq!(page(server, "type=nothing")["events"], json!([]));
    // An event's id is a position, too.
    let id = first["events"][7]["event_id"].as_str().expect("an id");
    assert_eq!(numbers(&page(server, &format!("after={id}&limit=2"))), [8, 9]);
    assert_eq!(numbers(&page(server, &format!("before={id}&order=desc&limit=2"))), [6, 5]);
    // A reader that has caught up asks again later.
    let id = page(server, "order=desc&limit=1")["events"][0]["event_id"].as_str().expect("an id").to_owned();
    assert_eq!(page(server, &format!("after={id}")), json!({"events": [], "next": null, "complete": true}));
    server.publish(r#"{"type":"step","stream_id":"run-1","payload":{"n":7}}"#);
    support::eventually("the event is in a page", || numbers(&page(server, &format!("after={id}"))) == [7]);
}

#[test]
fn since_is_a_time() {
    let server = Server::start();
    for n in 0..10 {
        let time = format!("2026-01-27T10:00:{n:02}Z");
        server.publish(json!({"type": "step", "timestamp": time, "payload": {"n": n}}).to_string());
    }
    assert_eq!(numbers(&page(&server, "since=2026-01-27T10:00:07Z")), [7, 8, 9]);
    assert_eq!(numbers(&page(&server, "since=1769508008000")), [8, 9]);
    assert_eq!(numbers(&page(&server, "since=2026-01-27T11:00:08%2B01:00")), [8, 9]);
    // A plus sign that is not escaped is read as a blank.
    assert_eq!(numbers(&page(&server, "since=2026-01-27T11:00:08+01:00")), [8, 9]);
    assert_eq!(numbers(&page(&server, "since=2026-01-27T09:00:08-01:00")), [8, 9]);
    assert_eq!(numbers(&page(&server, "since=2026-01-27T10:00:08Z&order=desc")), [9, 8]);
}

#[test]
fn evicted_events_are_reported() {
    // The ring has 64 events, and a log 20.
    let rule = "by=stream; events=20; match=stream=run-*";
    for form in FORMS {
        let small: &[&str] = &["--retain", rule, "--bus-capacity", "64"];
        let server = Server::with(&[form, small].concat());
        publish(&server, &["run-1", "chat", "run-2", "news"], 60);
        settle(&server, "stream=chat", 15);
        let (run, _, complete) = walk(&server, "stream=run-1", "asc");
        assert_eq!((run.len(), complete), (15, true), "{form:?}");
        publish(&server, &["run-1", "chat", "run-2", "news"], 400);
        support::eventually("the run is recorded", || {
            walk(&server, "stream=run-1", "asc").0 == (320..400).step_by(4).collect::<Vec<u64>>()
        });
        assert!(!walk(&server, "stream=run-1", "asc").2);
        // The newest events without a rule are in the ring.
        let (chat, _, complete) = walk(&server, "stream=chat", "desc");
        assert!(!complete && chat.len() >= 8 && chat.first() == Some(&397), "{chat:?}");
        // The events after a position that is still retained are complete.
        let last = page(&server, "stream=run-1&limit=5");
        let next = last["next"].as_str().expect("more");
        let after = page(&server, &format!("stream=run-1&after={next}"));
        assert_eq!((numbers(&after).len(), &after["complete"]), (15, &json!(true)), "{form:?}");
    }
}

#[test]
fn a_position_of_another_server_is_not_complete() {
    let server = Server::start();
    publish(&server, &["chat"], 5);
    let after = page(&server, "after=1f3k9x2q-7");
    assert_eq!((numbers(&after).len(), &after["complete"]), (5, &json!(false)));
    let before = page(&server, "order=desc&before=1f3k9x2q-7");
    assert_eq!(before, json!({"events": [], "next": null, "complete": false}));
}

#[test]
fn a_grant_narrows_pages_and_seals_their_places() {
    let secret = "a secret of thirty-two characters!";
    let server = Server::with(&["--auth-jwt-hs256-secret", secret, "--retain", RULE]);
    let (publisher, all) = (token(secret, &["--publish"]), token(secret, &["--stream", "**"]));
    let events: Vec<Value> = (0..20)
        .map(|n| json!({"type": "step", "stream_id": format!("run-{}", n % 2), "payload": {"n": n}}))
        .collect();
    let body = Value::from(events).to_string();
    let publish = format!(
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {publisher}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(http::exchange(server.addr, publish.as_bytes()).status, 200);
    let ask = |token: &str, query: &str| {
        let request = format!(
            "GET /events?{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        http::exchange(server.addr, request.as_bytes())
    };
    let good = |token: &str, query: &str| {
        let answer = ask(token, query);
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        answer.json()
    };
    assert_eq!(http::get(server.addr, "/events").status, 401);
    let one = token(secret, &["--stream", "run-1"]);
    let first = good(&one, "limit=4");
    assert_eq!(numbers(&first), [1, 3, 5, 7]);
    let next = first["next"].as_str().expect("more");
    assert!(next.starts_with('~'), "{next}");
    let second = good(&one, &format!("limit=4&after={next}"));
    assert_eq!(numbers(&second), [9, 11, 13, 15]);
    assert_eq!(ask(&one, "stream=run-0").status, 403);
    assert_eq!(ask(&one, "after=~00ff").status, 400, "a place that no server sealed");
    assert_eq!(numbers(&good(&all, "")).len(), 20);
}

#[test]
fn large_events_end_a_page_early() {
    let server = Server::start();
    let text = "x".repeat(200_000);
    for n in 0..12 {
        server.publish(json!({"type": "step", "payload": {"n": n, "text": text}}).to_string());
    }
    let answer = http::get(server.addr, "/events");
    assert!(answer.body.len() <= (1 << 20) + 200, "{}", answer.body.len());
    assert!(answer.json()["next"].is_string());
    assert_eq!(walk(&server, "", "asc").0, (0..12).collect::<Vec<_>>());
    assert_eq!(walk(&server, "", "desc").0, (0..12).rev().collect::<Vec<_>>());
}

#[test]
fn much_work_ends_a_page_early() {
    let server = Server::start();
    publish(&server, &["chat"], 4_000);
    let costly = "filter=type%3Dstep+payload.n%3C1+payload.m%3E1";
    for query in ["type=nothing", costly] {
        let first = page(&server, &format!("{query}&limit=1000"));
        assert!(first["next"].is_string() && first["events"] == json!([]), "{query}: {first}");
        let (came, pages, complete) = walk(&server, query, "desc");
        assert!(came.is_empty() && pages > 1 && complete, "{query}: {pages}");
    }
    assert_eq!(walk(&server, "type=step&limit=1000", "asc").0, (0..4_000).collect::<Vec<_>>());
}

/// A worker creates a page with a huge event. The answers keep the order of the requests, and a `HEAD` has no body.
#[test]
fn a_page_that_takes_long_keeps_its_place_among_the_answers() {
    let server = Server::start();
    let text = "x".repeat(3_000_000);
    server.publish(json!({"type": "huge", "payload": {"n": 1, "text": text}}).to_string());
    server.publish(r#"{"type":"small","payload":{"n":2}}"#);
    let mut wire = Wire::connect(server.addr);
    let ask =
        |method: &str, query: &str| format!("{method} /events?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let long = "filter=payload.n%3D%3D1";
    wire.send(
        [ask("HEAD", long), ask("GET", long), ask("GET", "type=small"), ask("GET", "limit=1")]
            .concat()
            .as_bytes(),
    );
    let head = http::read_head(&mut wire, deadline()).expect("a head");
    let length: usize = head.header("content-length").expect("a length").parse().expect("a number");
    assert!(head.status == 200 && length > 3_000_000, "{head:?}");
    for n in [1, 2, 1] {
        let answer = http::read_response(&mut wire, deadline()).expect("an answer");
        assert_eq!((answer.status, numbers(&answer.json())), (200, vec![n]));
    }
    let metrics = http::get(server.addr, "/metrics");
    assert!(metrics.text().contains("fanwire_server_long_pages_total 3\n"), "three of the four are long");
}

#[test]
fn other_methods_and_heads_are_answered() {
    let server = Server::start();
    publish(&server, &["chat"], 3);
    let answer =
        http::exchange(server.addr, b"PUT /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD, DELETE, OPTIONS")));
    let foreign = "GET /events HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n";
    assert_eq!(http::exchange(server.addr, foreign.as_bytes()).status, 403);
}

#[test]
fn history_prints_the_published_events() {
    let server = Server::with(&["--retain", RULE]);
    publish(&server, &["run-1", "chat"], 250);
    let url = format!("http://{}", server.addr);
    let print = |args: &[&str]| {
        let out = support::run(support::fanwire().args(["history", &url, "--json"]).args(args));
        assert!(out.status.success(), "{out:?}");
        let text = String::from_utf8(out.stdout).expect("text");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.map(|event| event["payload"]["n"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    assert_eq!(print(&["stream=run-1", "--limit", "60"]), (0..120).step_by(2).collect::<Vec<_>>());
    assert_eq!(print(&["--desc", "--limit", "120"]), (130..250).rev().collect::<Vec<_>>());
    assert_eq!(print(&["--stream", "chat", "--filter", "payload.n<4"]), [1, 3]);
}

/// The ring of 64 events is a small part of the log, and the log has forgotten its beginning.
#[test]
fn with_an_engine_pages_reach_as_far_as_its_log() {
    for kind in ["redis", "nats"] {
        let home = LogHome::new(kind);
        let options = ["--bus-capacity", "64", "--retain", RULE, "--engine-history", "1000"];
        let server = home.node(&options);
        publish(&server, &["run-1", "chat"], 200);
        settle(&server, "limit=1000", 200);
        let (chat, _, complete) = walk(&server, "stream=chat", "asc");
        assert_eq!((chat.len(), complete), (100, true), "{kind}");
        let early = page(&server, "stream=chat&limit=10")["next"].as_str().expect("more").to_owned();
        for batch in 1..=6 {
            let noise = |n| json!({"type": "noise", "payload": {"n": batch * 500 + n}});
            server.publish(Value::from((0..500).map(noise).collect::<Vec<_>>()).to_string());
            // The node reads all of it before the engine forgets it.
            support::eventually("the node has read it", || {
                numbers(&page(&server, "type=noise&order=desc&limit=1")) == [batch * 500 + 499]
            });
        }
        let newest = json!({"type": "step", "stream_id": "chat", "payload": {"n": 900}});
        server.publish(newest.to_string());
        support::eventually("the newest is there", || {
            numbers(&page(&server, "stream=chat&order=desc&limit=1")) == [900]
        });
        for order in ["asc", "desc"] {
            let (chat, _, complete) = walk(&server, "stream=chat&limit=1000", order);
            assert!(!complete && chat.contains(&900) && chat.len() < 101, "{kind} {order}: {chat:?}");
            let (run, _, complete) = walk(&server, "stream=run-1", order);
            assert_eq!((run.len(), complete), (100, true), "{kind} {order}: its log is whole");
        }
        let after = page(&server, &format!("stream=chat&after={early}"));
        assert_eq!(after["complete"], false, "{kind}: some after it were forgotten");
        let after = page(&server, "type=noise&order=desc&limit=1")["events"][0]["event_id"].clone();
        let after = page(&server, &format!("stream=chat&after={}", after.as_str().expect("an id")));
        assert_eq!((numbers(&after), &after["complete"]), (vec![900], &json!(true)), "{kind}");
        // Another node has the same log, and less of the run.
        let other = home.node(&options);
        let (chat, _, complete) = walk(&other, "stream=chat", "desc");
        assert!(!complete && chat.first() == Some(&900), "{kind}: {chat:?}");
        assert!(!walk(&other, "stream=run-1", "asc").2, "{kind}");
    }
}

/// Pages and streams of a node have one end, also while the log can't be reached.
#[test]
fn a_page_that_needs_a_log_which_is_gone_is_refused() {
    let mut home = LogHome::new("redis");
    let options = ["--bus-capacity", "64", "--retain", RULE, "--engine-accept-timeout", "1s"];
    let server = home.node(&options);
    publish(&server, &["run-1", "chat"], 400);
    settle(&server, "stream=run-1&limit=1000", 200);
    let newest = page(&server, "stream=run-1&order=desc&limit=1")["events"][0]["event_id"].clone();
    drop(home.service.take());
    // The node serves its own events.
    assert_eq!(walk(&server, "stream=run-1", "asc").0.len(), 200);
    let newest = newest.as_str().expect("an id");
    assert_eq!(page(&server, &format!("stream=chat&after={newest}"))["complete"], true);
    let answer = http::get(server.addr, "/events?stream=chat&order=desc&filter=payload.n%3C0");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
}

/// Large events end the chunks of the log early, in both directions.
#[test]
fn large_events_of_a_log_come_in_pages() {
    let server = HomedServer::with(&["--engine", "files", "--bus-capacity", "4"]);
    let text = "x".repeat(600_000);
    for n in 0..24 {
        server.publish(json!({"type": "step", "payload": {"n": n, "text": text}}).to_string());
    }
    settle(&server, "", 24);
    assert_eq!(walk(&server, "", "asc").0, (0..24).collect::<Vec<_>>());
    let (back, _, complete) = walk(&server, "", "desc");
    assert_eq!((back, complete), ((0..24).rev().collect::<Vec<_>>(), true));
}

#[test]
fn the_shards_of_an_engine_have_no_pages() {
    let server = HomedServer::with(&["--engine", "files", "--bus-shards", "2"]);
    let answer = http::get(server.addr, "/events");
    assert_eq!(answer.status, 501, "{answer:?}");
    assert!(answer.json()["error"].as_str().is_some_and(|text| text.contains("history")), "{answer:?}");
    for (options, has_pages) in [(&["--bus-shards", "2"][..], false), (&[], true)] {
        let server = HomedServer::with(&[&["--engine", "files"], options].concat());
        let info = http::get(server.addr, "/api/server_info").json();
        let capabilities = info["capabilities"].as_array().expect("a list");
        assert_eq!(capabilities.contains(&json!("pages")), has_pages, "{info}");
    }
}

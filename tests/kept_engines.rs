//! Kept logs made from an engine's log: over a restart, on several nodes, and where nodes race.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use support::http::{self, Response};
use support::log_home::LogHome;
use support::service::{Kind, Service};
use support::sse::Sse;
use support::wire::deadline;
use support::ws::Ws;
use support::{Server, eventually};

const RULE: &str = "by=stream; end=run.finished; match=stream=run-*";
const KINDS: [&str; 3] = ["files", "redis", "nats"];
const SHARED: [&str; 2] = ["redis", "nats"];

fn node(home: &LogHome, more: &[&str]) -> Server {
    home.node(&[&["--retain", RULE, "--bus-capacity", "16"], more].concat())
}

fn post(addr: SocketAddr, events: &[Value]) -> Response {
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    http::post(addr, "/publish", "application/x-ndjson", lines.join("\n").as_bytes())
}

/// Publishes events that are accepted, and returns the last id.
fn publish(addr: SocketAddr, events: &[Value]) -> String {
    let answer = post(addr, events);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["last_event_id"].as_str().expect("an id").to_owned()
}

fn event(stream: &str, event_type: &str, n: u64) -> Value {
    json!({"type": event_type, "stream_id": stream, "payload": {"n": n}})
}

fn token(stream: &str, n: u64) -> Value {
    event(stream, "token", n)
}

fn with(mut event: Value, key: &str, value: impl Into<Value>) -> Value {
    event[key] = value.into();
    event
}

/// Returns the numbers of the next `count` events of a stream. Anything else is a fault.
fn numbers(stream: &mut Sse, count: usize) -> Vec<u64> {
    let number = |event: support::sse::Block| match event.json()["payload"]["n"].as_u64() {
        Some(number) => number,
        None => panic!("not an event of the run: {event:?}"),
    };
    (0..count).map(|_| number(stream.event())).collect()
}

/// Reads the end of a log and of the connection. Returns its data.
fn end(stream: &mut Sse) -> Value {
    let event = stream.event();
    assert_eq!(event.event.as_deref(), Some("end"), "{event:?}");
    let rest = stream.wire.take_rest(deadline()).expect("it closes");
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    event.json()
}

fn from_start(server: &Server, run: &str) -> Sse {
    Sse::open(server.addr, &format!("?stream={run}&from=start"))
}

#[test]
fn a_run_half_written_goes_on_after_a_restart() {
    for kind in KINDS {
        let home = LogHome::new(kind);
        let mut first = node(&home, &[]);
        let addr = first.addr;
        for n in 0..30 {
            // Many other events, so that the ring evicts it.
            publish(addr, &[token("run-1", n), token("run-2", 100 + n), token("other", n)]);
        }
        let last = publish(addr, &[event("run-2", "run.finished", 130)]);
        let mut reader = from_start(&first, "run-1");
        assert_eq!(numbers(&mut reader, 30), (0..30).collect::<Vec<_>>(), "{kind}");
        first.signal("KILL");
        first.wait();
        let second = node(&home, &[]);
        let mut run = from_start(&second, "run-1");
        assert_eq!(numbers(&mut run, 30), (0..30).collect::<Vec<_>>(), "{kind}");
        let mut over = from_start(&second, "run-2");
        assert_eq!(numbers(&mut over, 31), (100..131).collect::<Vec<_>>(), "{kind}");
        let reported = json!({"by": "stream", "value": "run-2", "last_event_id": last, "complete": true});
        assert_eq!(end(&mut over), reported, "{kind}");
        // A browser that had read everything gets the answer that there is no more.
        let query = format!("/sse?stream=run-2&from=start&last_event_id={last}");
        assert_eq!(http::get(second.addr, &query).status, 204, "{kind}");
        let refused = post(second.addr, &[token("run-2", 131)]);
        assert_eq!((refused.status, &refused.json()["last_event_id"]), (409, &json!(last)), "{kind}");
        let end_of_run = publish(second.addr, &[token("run-1", 30), event("run-1", "run.finished", 31)]);
        assert_eq!(numbers(&mut run, 2), [30, 31], "{kind}");
        let reported = end(&mut run);
        assert_eq!(
            (&reported["last_event_id"], &reported["complete"]),
            (&json!(end_of_run), &json!(true)),
            "{kind}"
        );
        // The next life, over one more restart.
        publish(second.addr, &[with(token("run-1", 40), "reopen", true), token("run-1", 41)]);
        drop(second);
        let third = node(&home, &[]);
        assert_eq!(numbers(&mut from_start(&third, "run-1"), 2), [40, 41], "{kind}");
        assert_eq!(post(third.addr, &[with(token("run-1", 42), "reopen", true)]).json()["code"], "not_ended");
    }
}

#[test]
fn nodes_share_the_logs_of_one_engine() {
    for kind in SHARED {
        let home = LogHome::new(kind);
        // One of them has a live reader, which is read when all is published.
        let large = ["--retain", RULE, "--bus-capacity", "4096", "--loops", "2"];
        let (a, b) = (node(&home, &[]), home.node(&large));
        let mut live = Sse::open(b.addr, "?stream=run-1");
        for n in 0..40 {
            publish(if n % 2 == 0 { a.addr } else { b.addr }, &[token("run-1", n), token("run-2", n)]);
        }
        for server in [&a, &b] {
            assert_eq!(numbers(&mut from_start(server, "run-1"), 40).len(), 40, "{kind}");
        }
        let mut early = from_start(&a, "run-1");
        let order = numbers(&mut early, 40);
        assert_eq!(numbers(&mut from_start(&b, "run-1"), 40), order, "{kind}");
        let last = publish(a.addr, &[event("run-1", "run.finished", 40)]);
        let reported = json!({"by": "stream", "value": "run-1", "last_event_id": last, "complete": true});
        assert_eq!((numbers(&mut early, 1), end(&mut early)), (vec![40], reported.clone()), "{kind}");
        assert_eq!(numbers(&mut live, 41).last(), Some(&40), "{kind}");
        assert_eq!(end(&mut live), reported, "{kind}");
        // A node that starts now reports the same.
        let c = node(&home, &[]);
        for server in [&a, &b, &c] {
            let mut again = from_start(server, "run-1");
            assert_eq!(numbers(&mut again, 41)[..40], order[..], "{kind}");
            assert_eq!(end(&mut again), reported, "{kind}");
            eventually("the node has read the end", || {
                let refused = post(server.addr, &[token("run-1", 41)]);
                assert_eq!(refused.status, 409, "{kind}");
                refused.json()["last_event_id"] == last.as_str()
            });
        }
        assert_eq!(numbers(&mut from_start(&c, "run-2"), 40), (0..40).collect::<Vec<_>>(), "{kind}");
    }
}

/// An event and the one that its publisher expects before it, of writers at two nodes.
#[test]
fn writers_at_two_nodes_make_one_chain() {
    const WRITERS: usize = 4;
    const EACH: usize = 12;
    for kind in SHARED {
        let home = LogHome::new(kind);
        // The readers are read when all is published.
        let nodes = [(); 2].map(|()| home.node(&["--retain", RULE, "--bus-capacity", "4096"]));
        let mut readers: Vec<Ws> = nodes.iter().map(|node| Ws::subscribed(node.addr, json!({}))).collect();
        let refused = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (addr, refused) = (nodes[writer % 2].addr, &refused);
                scope.spawn(move || {
                    let mut last = json!("");
                    for _ in 0..EACH {
                        loop {
                            let event = json!({"type": "token", "stream_id": "run-1", "expected_last_id": last, "payload": last});
                            let answer = post(addr, &[event]);
                            match answer.status {
                                200 => {}
                                409 => drop(refused.fetch_add(1, Ordering::Relaxed)),
                                _ => assert_eq!(answer.json()["code"], "publish_in_flight", "{answer:?}"),
                            }
                            if answer.status != 503 {
                                last = answer.json()["last_event_id"].clone();
                            }
                            if answer.status == 200 {
                                break;
                            }
                        }
                    }
                });
            }
        });
        for reader in &mut readers {
            let mut last = json!("");
            for _ in 0..WRITERS * EACH {
                let event = reader.event();
                assert_eq!(event["payload"], last, "{kind}: nothing came in between");
                last = event["event_id"].clone();
            }
        }
        assert!(refused.load(Ordering::Relaxed) > 0, "{kind}: they did not race");
    }
}

/// Publishes batches until this many were accepted. Returns their names.
fn write_batches(addr: SocketAddr, writer: usize, count: usize) -> Vec<String> {
    let (mut taken, mut last) = (Vec::new(), json!(""));
    for n in 0.. {
        let name = format!("{writer}-{n}");
        let named = |stream: &str| json!({"type": "token", "stream_id": stream, "payload": name});
        let chained = with(named("run-1"), "expected_last_id", last.clone());
        let answer = post(addr, &[named(&format!("run-of-{writer}")), named("noise"), chained]);
        match answer.status {
            200 => taken.push(name),
            409 => assert_eq!(answer.json()["line"], 3, "{answer:?}"),
            _ => assert_eq!(answer.json()["code"], "publish_in_flight", "{answer:?}"),
        }
        if answer.status != 503 {
            last = answer.json()["last_event_id"].clone();
        }
        if taken.len() == count {
            break;
        }
    }
    taken
}

/// Writers at two nodes publish batches of three streams. The last event of each has a condition that others may break.
#[test]
fn a_batch_is_published_as_a_whole_or_not_at_all() {
    const EACH: usize = 25;
    let home = LogHome::new("redis");
    let nodes = [(); 2].map(|()| home.node(&["--retain", RULE, "--bus-capacity", "4096"]));
    let mut readers: Vec<Ws> = nodes.iter().map(|node| Ws::subscribed(node.addr, json!({}))).collect();
    let addrs = nodes.each_ref().map(|node| node.addr);
    let taken: Vec<Vec<String>> = std::thread::scope(|scope| {
        let write = |writer: usize| scope.spawn(move || write_batches(addrs[writer % 2], writer, EACH));
        let writers: Vec<_> = (0..4).map(write).collect();
        writers.into_iter().map(|writer| writer.join().expect("no writer panicked")).collect()
    });
    let mut taken: Vec<String> = taken.into_iter().flatten().collect();
    taken.sort();
    for reader in &mut readers {
        let mut came: Vec<String> = (0..taken.len())
            .map(|_| {
                let [first, second, third] = [(); 3].map(|()| reader.event()["payload"].clone());
                assert!(first == second && second == third, "{first} {second} {third}: a part of a batch");
                first.as_str().expect("a name").to_owned()
            })
            .collect();
        came.sort();
        assert_eq!(came, taken);
    }
    // A client that resumes over the refused events, on a node that has only the log, gets no gap and none of them.
    let later = node(&home, &[]);
    let first = http::get(later.addr, "/events?limit=1").json()["events"][0].clone();
    let mut names = vec![first["payload"].clone()];
    let place = first["event_id"].as_str().expect("an id");
    let mut again = Sse::open(later.addr, &format!("?last_event_id={place}"));
    while names.len() < 3 * taken.len() {
        let event = again.event();
        assert_eq!(event.event.as_deref(), Some("token"), "{event:?}");
        names.push(event.json()["payload"].clone());
    }
    assert!(names.chunks(3).all(|batch| batch[0] == batch[1] && batch[1] == batch[2]), "{names:?}");
}

/// An end at one node, and events of others at another: each is before the end, or its publisher knows that it is not.
#[test]
fn nothing_is_accepted_after_an_end_of_another_node() {
    for kind in SHARED {
        let home = LogHome::new(kind);
        let nodes = [node(&home, &[]), node(&home, &[])];
        for round in 0..8 {
            let run = format!("run-{round}");
            publish(nodes[0].addr, &[token(&run, 0)]);
            let taken = AtomicUsize::new(1);
            std::thread::scope(|scope| {
                for writer in 1..4 {
                    let (run, taken, addrs) = (&run, &taken, [nodes[0].addr, nodes[1].addr]);
                    scope.spawn(move || {
                        for n in 1.. {
                            let answer = post(addrs[writer % 2], &[token(run, n)]);
                            if answer.status != 200 {
                                assert_eq!(answer.json()["code"], "ended", "{answer:?}");
                                return;
                            }
                            taken.fetch_add(1, Ordering::Relaxed);
                            if n == 5 && writer == 1 {
                                publish(addrs[0], &[event(run, "run.finished", 0)]);
                            }
                        }
                    });
                }
            });
            for node in &nodes {
                let mut stream = from_start(node, &run);
                let mut count = 0;
                while stream.event().event.as_deref() == Some("token") {
                    count += 1;
                }
                // The last one read was the end's own event.
                assert_eq!(count, taken.load(Ordering::Relaxed), "{kind} round {round}");
                assert_eq!(end(&mut stream)["complete"], true, "{kind} round {round}");
            }
        }
    }
}

#[test]
fn a_log_that_was_written_without_rules_is_kept_by_them() {
    for kind in KINDS {
        let home = LogHome::new(kind);
        let before = home.node(&["--bus-capacity", "16"]);
        for n in 0..30 {
            publish(before.addr, &[token("run-1", n), token("other", n)]);
        }
        publish(before.addr, &[event("run-2", "run.finished", 0), token("run-2", 1)]);
        drop(before);
        let after = node(&home, &[]);
        assert_eq!(numbers(&mut from_start(&after, "run-1"), 30), (0..30).collect::<Vec<_>>(), "{kind}");
        // No publisher asked to reopen it.
        assert_eq!(numbers(&mut from_start(&after, "run-2"), 1), [1], "{kind}");
        publish(after.addr, &[token("run-1", 30), event("run-1", "run.finished", 31)]);
        let mut run = from_start(&after, "run-1");
        assert_eq!(numbers(&mut run, 32).len(), 32, "{kind}");
        assert_eq!(end(&mut run)["complete"], true, "{kind}: the log has all of it");
    }
}

#[test]
fn events_that_the_engine_has_forgotten_are_reported_after_a_restart() {
    for kind in SHARED {
        let home = LogHome::new(kind);
        let options = ["--engine-history", "1000"];
        let first = node(&home, &options);
        publish(first.addr, &[token("run-1", 0)]);
        let others: Vec<Value> = (0..500).map(|n| token("other", n)).collect();
        for n in 0..6 {
            publish(first.addr, &others);
            // The answer says that the node has read so far, before the engine forgets it.
            publish(first.addr, &[token("run-0", n)]);
        }
        publish(first.addr, &[token("run-2", 0), token("run-1", 1)]);
        let mut run = from_start(&first, "run-1");
        assert_eq!(numbers(&mut run, 2), [0, 1], "{kind}: this node has read it");
        let second = node(&home, &options);
        let mut run = from_start(&second, "run-1");
        let gap = run.event();
        assert_eq!(
            (gap.event.as_deref(), &gap.json()["recoverable"]),
            (Some("gap"), &json!(false)),
            "{kind}"
        );
        assert_eq!(numbers(&mut run, 1), [1], "{kind}");
        // The node that accepted its first event knew that there was no such log.
        let mut run = from_start(&second, "run-2");
        assert_eq!(numbers(&mut run, 1), [0], "{kind}");
        for (run, complete) in [("run-1", [true, false]), ("run-2", [true, true])] {
            publish(second.addr, &[event(run, "run.finished", 2)]);
            for (node, complete) in [&first, &second].into_iter().zip(complete) {
                let mut stream = Sse::open(node.addr, &format!("?stream={run}&type=run.finished"));
                let reported = loop {
                    let event = stream.event();
                    if event.event.as_deref() == Some("end") {
                        break event.json();
                    }
                };
                assert_eq!(reported["complete"], complete, "{kind} {run}");
            }
        }
    }
}

/// The log is emptied, and no event follows.
#[test]
fn a_lost_log_is_a_gap_in_the_runs_before_its_next_event() {
    let home = LogHome::new("redis");
    let server = node(&home, &[]);
    publish(server.addr, &[token("run-1", 0), token("run-1", 1)]);
    let mut stream = from_start(&server, "run-1");
    assert_eq!(numbers(&mut stream, 2), [0, 1]);
    home.service.as_ref().expect("it has one").redis_ask(&["FLUSHALL"]);
    assert_eq!(stream.event().event.as_deref(), Some("gap"));
    let mut client = Ws::connect(server.addr);
    let subscribe = json!({"subscription_id": "s", "stream_ids": ["run-1"], "from": "start"});
    let ack = client.ask(&json!({"type": "subscribe", "payload": subscribe}));
    assert_eq!(ack["payload"]["history"]["complete"], false, "{ack}");
    eventually("the node has found its log", || post(server.addr, &[token("run-1", 2)]).status == 200);
    assert_eq!(numbers(&mut stream, 1), [2]);
}

#[test]
fn plain_nats_keeps_nothing_and_is_refused_by_name() {
    let service = Service::start(Kind::PlainNats);
    let server = Server::with(&["--engine", &service.url(), "--retain", RULE]);
    eventually("the node says why it is not ready", || {
        let answer = http::get(server.addr, "/readyz");
        assert_eq!(answer.status, 503);
        answer.text().contains("keeps nothing")
    });
    let refused = post(server.addr, &[token("run-1", 0)]);
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("engine_unreachable")));
    assert_eq!(refused.header("retry-after"), Some("1"));
}

#[test]
fn rules_of_a_reload_are_refused_if_plain_nats_keeps_nothing() {
    let service = Service::start(Kind::PlainNats);
    let path = std::env::temp_dir().join(format!("fanwire-plain-{}.toml", std::process::id()));
    std::fs::write(&path, "").expect("a file");
    let server = Server::with(&["--engine", &service.url(), "--config", path.to_str().expect("text")]);
    eventually("the node is ready", || http::get(server.addr, "/readyz").status == 200);
    std::fs::write(&path, "[[retain]]\nmatch = \"stream=run-*\"\nby = \"stream\"\n").expect("a file");
    server.signal("HUP");
    eventually("the rules are refused", || server.log().contains("the log keeps nothing"));
    assert_eq!(post(server.addr, &[token("run-1", 0)]).status, 200);
    let _ = std::fs::remove_file(&path);
}

#[test]
fn nonsense_is_refused_at_the_start() {
    let home = LogHome::new("files");
    for more in [&["--bus-shards", "2"][..], &["--engine-by-interest"]] {
        let mut command = support::fanwire();
        command.args(["check", "--engine", &home.url, "--retain", RULE]).args(more);
        let output = support::run(&mut command);
        assert!(!output.status.success(), "{more:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("retain: "), "{output:?}");
    }
    let mut command = support::fanwire();
    command.args(["check", "--engine", "redis://localhost", "--engine-history", "10", "--retain", RULE]);
    let output = support::run(&mut command);
    let warned = String::from_utf8_lossy(&output.stderr).contains("after a restart kept logs are shorter");
    assert!(output.status.success() && warned, "{output:?}");
}

fn request(method: &str, target: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Bad requests, each with the status and a text of its answer. `ended` is a place in a run that has ended.
fn bad_requests(ended: &str) -> Vec<(String, u16, &'static str)> {
    let get = |target: &str| request("GET", target, "", "");
    let delete = |query: &str| request("DELETE", &format!("/events{query}"), "", "");
    let publish = |headers: &str, event: Value| request("POST", "/publish", headers, &event.to_string());
    let many: Vec<String> = (0..101).map(|n| format!("stream=run-{n}")).collect();
    let many = many.join("&");
    let long = format!("Idempotency-Key: {}\r\n", "k".repeat(10_000));
    vec![
        (get("/sse?stream=run-1&from=start&compact=concat&concat=delta"), 400, "concat"),
        (get("/sse?stream=run-1&from=begin"), 400, "from can only be start"),
        (get("/events?stream=run-1&limit=0"), 400, "limit"),
        (get(&format!("/events?stream=run-1&after={ended}&before={ended}")), 400, "after and before"),
        (get(&format!("/sse?{many}&from=start")), 400, "more than 100 kept logs"),
        (get(&format!("/events?{many}")), 400, "more than 100 kept logs"),
        (delete(&format!("?{many}")), 400, "more than 100 logs"),
        (delete(""), 400, "add stream=VALUE"),
        (delete("?type=token"), 400, "add stream=VALUE"),
        (delete("?stream=run-1&type=token"), 400, "as a whole"),
        (publish("Idempotency-Key: \r\n", token("run-1", 0)), 400, "Idempotency-Key"),
        (publish(&long, token("run-1", 0)), 400, "Idempotency-Key"),
        (publish("", with(token("run-1", 0), "dedupe_id", 5)), 400, "dedupe_id"),
        (publish("", with(token("run-1", 0), "reopen", true)), 409, "has not ended"),
        (publish("", with(token("run-1", 0), "reopen", "yes")), 400, "reopen"),
        (publish("", with(token("run-1", 0), "expected_last_id", "")), 409, "another last event"),
        (publish("", with(token("run-1", 0), "expected_last_id", 7)), 400, "expected_last_id"),
        (publish("", with(token("other", 0), "reopen", true)), 400, "no rule keeps"),
        (publish("", token("run-2", 0)), 409, "has ended"),
        (publish("", json!([token("run-1", 0), token("run-2", 0)])), 409, "has ended"),
        (request("POST", "/runs/run-2", "", &json!({"type": "token"}).to_string()), 409, "has ended"),
        (request("POST", "/runs/run-1", "", &token("run-3", 0).to_string()), 400, "stream_id"),
    ]
}

#[test]
fn every_bad_request_has_its_answer_and_changes_nothing() {
    for kind in KINDS {
        let home = LogHome::new(kind);
        let server = node(&home, &[]);
        publish(server.addr, &[token("run-1", 0)]);
        let ended = publish(server.addr, &[event("run-2", "run.finished", 0)]);
        let mut live = from_start(&server, "run-1");
        assert_eq!(numbers(&mut live, 1), [0]);
        for (n, (input, status, text)) in (1..).zip(bad_requests(&ended)) {
            let line = input.lines().next().unwrap_or_default().chars().take(80).collect::<String>();
            let answer = http::exchange(server.addr, input.as_bytes());
            assert_eq!(answer.status, status, "{kind}: {line}: {answer:?}");
            assert!(answer.text().contains(text), "{kind}: {line}: {}", answer.text());
            publish(server.addr, &[token("run-1", n)]);
            assert_eq!(numbers(&mut live, 1), [n], "{kind}: {line}");
        }
    }
}

/// A publisher makes more logs than a node keeps: the oldest are dropped, and a later reader gets a gap.
#[test]
fn a_publisher_of_many_streams_fills_no_memory() {
    for kind in KINDS {
        let home = LogHome::new(kind);
        let server = node(&home, &["--retain-max-logs", "50"]);
        let held = || http::get(server.addr, "/api/stats").json()["held_bytes"].as_u64().expect("a number");
        let streams =
            |from: usize| (from..from + 500).map(|n| token(&format!("run-{n}"), 0)).collect::<Vec<_>>();
        publish(server.addr, &streams(0));
        let before = held();
        for from in (500..5_000).step_by(500) {
            publish(server.addr, &streams(from));
        }
        assert!(held() < before + 2_000_000, "{kind}: {} after {before}", held());
        assert_eq!(numbers(&mut from_start(&server, "run-4999"), 1), [0], "{kind}");
        assert_eq!(from_start(&server, "run-0").event().event.as_deref(), Some("gap"), "{kind}");
    }
}

/// The loop is lapped by a ring of two events, and may not see the end.
#[test]
fn an_end_that_a_loop_has_lost_is_reported_after_the_gap() {
    for kind in KINDS {
        let home = LogHome::new(kind);
        let server = home.node(&["--retain", RULE, "--bus-capacity", "2"]);
        for round in 0..5 {
            let run = format!("run-{round}");
            let mut live = Sse::open(server.addr, &format!("?stream={run}"));
            let others = (0..1000).map(|n| token("other", n));
            let batch: Vec<Value> =
                [token(&run, 0), event(&run, "run.finished", 1)].into_iter().chain(others).collect();
            let last = post(server.addr, &batch);
            assert_eq!(last.status, 200, "{kind}");
            let reported = loop {
                let event = live.event();
                if event.event.as_deref() == Some("end") {
                    break event.json();
                }
            };
            assert_eq!((&reported["value"], &reported["complete"]), (&json!(run), &json!(true)), "{kind}");
        }
    }
}

//! Kept streams against the real server: a run from its beginning, its end, and events that are no longer retained.

mod support;

use serde_json::{Value, json};
use support::log_home::HomedServer;
use support::sse::Sse;
use support::wire::deadline;
use support::ws::Ws;
use support::{Server, eventually, http};

const RULE: &str = "by=stream; end=run.finished; match=stream=run-*";

/// Forms of a server: one shard and one loop, several of both, and each engine.
const FORMS: [&[&str]; 5] = [
    &["--bus-capacity", "256"],
    &["--bus-capacity", "64", "--bus-shards", "4", "--loops", "2"],
    &["--bus-capacity", "64", "--engine", "files"],
    &["--bus-capacity", "64", "--engine", "redis"],
    &["--bus-capacity", "64", "--engine", "nats"],
];

fn server(more: &[&str]) -> HomedServer {
    HomedServer::with(&[&["--retain", RULE], more].concat())
}

/// Publishes an event of a run. Returns its id.
fn publish(server: &Server, stream: &str, event_type: &str, n: u64) -> String {
    let event = json!({"type": event_type, "stream_id": stream, "payload": {"n": n}});
    server.publish(event.to_string())["last_event_id"].as_str().expect("an id").to_owned()
}

/// Publishes `count` tokens to each of the runs 0 to 19, in turn.
fn publish_runs(server: &Server, from: u64, count: u64) {
    for n in from..from + count {
        let events: Vec<Value> = (0..20)
            .map(|run| json!({"type": "token", "stream_id": format!("run-{run}"), "payload": {"n": n}}))
            .collect();
        server.publish(Value::from(events).to_string());
    }
}

/// Returns the numbers of the next `count` events of a stream. Anything else is a fault.
fn numbers(stream: &mut Sse, count: usize) -> Vec<u64> {
    (0..count).map(|_| stream.event().json()["payload"]["n"].as_u64().expect("a number")).collect()
}

fn subscribe(client: &mut Ws, payload: Value) -> Value {
    client.send(&json!({"type": "subscribe", "message_id": "m", "payload": payload}));
    client.any_message()
}

#[test]
fn a_run_comes_from_its_start_and_goes_on_live() {
    for form in FORMS {
        let server = server(form);
        publish_runs(&server, 0, 30);
        let mut stream = Sse::open(server.addr, "?stream=run-3&from=start");
        assert_eq!(numbers(&mut stream, 30), (0..30).collect::<Vec<_>>(), "{form:?}");
        let mut client = Ws::connect(server.addr);
        let ack = subscribe(
            &mut client,
            json!({"subscription_id": "s", "stream_ids": ["run-3", "run-4"], "from": "start"}),
        );
        assert_eq!(ack["payload"]["history"], json!({"from": null, "complete": true}), "{ack}");
        // The events of both runs are delivered in the order in which they were accepted: a number of both runs before
        // the next number.
        let mut came: Vec<u64> = Vec::new();
        for _ in 0..60 {
            let event = client.any_message();
            assert_eq!(event["type"], "event", "{event}");
            came.push(event["payload"]["payload"]["n"].as_u64().expect("a number"));
        }
        assert_eq!(came, (0..30).flat_map(|n| [n, n]).collect::<Vec<_>>());
        let end = client.any_message();
        assert_eq!(end["payload"], json!({"subscription_id": "s", "events": 60, "complete": true}));
        publish_runs(&server, 30, 3);
        assert_eq!(numbers(&mut stream, 3), [30, 31, 32]);
        let live: Vec<u64> = (0..6)
            .map(|_| client.any_message()["payload"]["payload"]["n"].as_u64().expect("a number"))
            .collect();
        assert_eq!(live, [30, 30, 31, 31, 32, 32]);
    }
}

/// A resume from a position that the ring has evicted.
#[test]
fn a_resume_reaches_as_far_back_as_the_log() {
    for form in FORMS {
        let server = server(form);
        publish_runs(&server, 0, 5);
        let mut stream = Sse::open(server.addr, "?stream=run-3&from=start");
        let mut last = String::new();
        for n in 0..5 {
            let event = stream.event();
            assert_eq!(event.json()["payload"]["n"], n);
            last = event.id.expect("an id");
        }
        drop(stream);
        // More than a ring has: with several shards, the run may be alone in its shard, which then has all of it.
        let line = |n: u64| json!({"type": "line", "stream_id": "other", "payload": {"n": n}});
        for from in (1000..1300).step_by(20) {
            server.publish(Value::from((from..from + 20).map(line).collect::<Vec<_>>()).to_string());
        }
        publish_runs(&server, 5, 40);
        let mut stream =
            Sse::with(server.addr, "?stream=run-3&from=start", &format!("Last-Event-ID: {last}\r\n"));
        assert_eq!(numbers(&mut stream, 40), (5..45).collect::<Vec<_>>(), "the header goes before from");
        let mut stream =
            Sse::open(server.addr, &format!("?stream=run-3&history=1&from=start&last_event_id={last}"));
        assert_eq!(numbers(&mut stream, 40), (5..45).collect::<Vec<_>>());
        // Half of the events that this filter matches are under no rule and were only in the ring, unless there is an
        // engine.
        let mut stream = Sse::open(server.addr, &format!("?stream=run-3&stream=other&last_event_id={last}"));
        if form.contains(&"--engine") {
            assert_eq!(numbers(&mut stream, 340), (1000..1300).chain(5..45).collect::<Vec<_>>());
        } else {
            assert_eq!(stream.event().event.as_deref(), Some("gap"));
        }
    }
}

#[test]
fn events_under_no_rule_are_read_from_the_ring() {
    let server = server(&["--bus-capacity", "64"]);
    for n in 0..30 {
        publish(&server, "run-1", "token", n);
        publish(&server, "chat", "line", 100 + n);
    }
    publish_runs(&server, 0, 2);
    let mut stream = Sse::open(server.addr, "?stream=run-1&stream=chat&from=start");
    let gap = stream.event();
    assert_eq!((gap.event.as_deref(), &gap.json()["recoverable"]), (Some("gap"), &json!(false)));
    // The ring has 64 of 100 events: the run's log is complete, and the chat's events in the ring are delivered between
    // the run's.
    let first = numbers(&mut stream, 18);
    assert_eq!(first, (0..18).collect::<Vec<_>>());
    let rest = numbers(&mut stream, 12 + 12 + 2);
    let want: Vec<u64> = (18..30).flat_map(|n| [n, 100 + n]).chain([0, 1]).collect();
    assert_eq!(rest, want);
    publish(&server, "chat", "line", 7);
    assert_eq!(numbers(&mut stream, 1), [7]);
}

#[test]
fn a_log_that_lost_its_beginning_is_reported_as_incomplete() {
    let rule = "by=stream; events=10; match=stream=run-*";
    let server = Server::with(&["--retain", rule, "--retain-max-logs", "2"]);
    for n in 0..15 {
        publish(&server, "run-1", "token", n);
    }
    let mut client = Ws::connect(server.addr);
    let ack =
        subscribe(&mut client, json!({"subscription_id": "s", "stream_ids": ["run-1"], "from": "start"}));
    assert_eq!(ack["payload"]["history"]["complete"], false);
    let gap = client.any_message();
    assert_eq!((&gap["type"], &gap["payload"]["at_most"]), (&json!("gap"), &json!(5)), "{gap}");
    for n in 5..15 {
        assert_eq!(client.any_message()["payload"]["payload"]["n"], n);
    }
    assert_eq!(client.any_message()["payload"]["complete"], false);
    // The least recently written log is evicted.
    publish(&server, "run-2", "token", 0);
    publish(&server, "run-3", "token", 0);
    let mut stream = Sse::open(server.addr, "?stream=run-1&from=start");
    assert_eq!(stream.event().event.as_deref(), Some("gap"));
    let mut stream = Sse::open(server.addr, "?stream=run-3&from=start");
    assert_eq!(numbers(&mut stream, 1), [0]);
}

#[test]
fn a_request_for_too_many_logs_is_refused() {
    let server = server(&["--retain-max-logs-read", "3"]);
    let get = |query: &str| http::get(server.addr, &format!("/sse{query}"));
    let refused = get("?stream=run-1&stream=run-2&stream=run-3&stream=run-4&from=start");
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("more than 3 kept logs"), "{}", refused.text());
    let mut client = Ws::connect(server.addr);
    let error =
        subscribe(&mut client, json!({"stream_ids": ["run-1", "run-2", "run-3", "run-4"], "from": "start"}));
    assert_eq!(error["payload"]["code"], "too_many_logs", "{error}");
    publish_runs(&server, 0, 1);
    assert_eq!(get("?from=start").status, 400);
    assert_eq!(get("?from=begin").status, 400);
    let error = subscribe(&mut client, json!({"from": "begin"}));
    assert_eq!(
        (&error["payload"]["code"], &error["payload"]["error"]),
        (&json!("invalid_payload"), &json!("from can only be start")),
        "{error}"
    );
}

#[test]
fn an_absent_log_is_reported_to_a_client_that_does_not_wait() {
    let server = server(&[]);
    let status = |query: &str| http::get(server.addr, &format!("/sse{query}")).status;
    assert_eq!(status("?stream=run-1&from=start&absent=204"), 204);
    assert_eq!(status("?stream=run-1&absent=1"), 400);
    // Other filters wait for future events.
    for query in [
        "?absent=204",
        "?stream=run-1&stream=run-2&absent=204",
        "?stream=chat&absent=204",
        "?stream=run-1&stream=chat&absent=204",
    ] {
        drop(Sse::open(server.addr, query));
    }
    let mut client = Ws::connect(server.addr);
    let ask = json!({"stream_ids": ["run-1"], "from": "start", "absent": "error"});
    let error = subscribe(&mut client, ask.clone());
    assert_eq!(error["payload"]["code"], "no_such_log", "{error}");
    publish(&server, "run-1", "token", 0);
    assert_eq!(subscribe(&mut client, ask)["type"], "ack");
    let mut stream = Sse::open(server.addr, "?stream=run-1&from=start&absent=204");
    assert_eq!(numbers(&mut stream, 1), [0]);
}

/// Returns the rest of an event stream, up to the end of the connection.
fn rest(stream: &mut Sse) -> String {
    String::from_utf8(stream.wire.take_rest(deadline()).expect("it closes")).expect("text")
}

#[test]
fn a_stream_of_a_run_gets_its_end_and_closes() {
    for form in FORMS {
        let server = server(form);
        publish(&server, "run-1", "token", 0);
        let mut from_start = Sse::open(server.addr, "?stream=run-1&from=start");
        // The filter does not match the type of the end.
        let mut tokens = Sse::open(server.addr, "?stream=run-1&type=token&from=start");
        assert_eq!((numbers(&mut from_start, 1), numbers(&mut tokens, 1)), (vec![0], vec![0]));
        // With an engine the loop reads an event after its publisher has the answer, and it has now.
        let mut live = Sse::open(server.addr, "?stream=run-1");
        let mut pattern = Sse::open(server.addr, "?stream=run-1&stream=run.*");
        publish(&server, "run-1", "token", 1);
        let last = publish(&server, "run-1", "run.finished", 2);
        publish(&server, "run-2", "token", 3);
        let want = json!({"by": "stream", "value": "run-1", "last_event_id": last, "complete": true});
        let mut place = String::new();
        for (stream, count) in [(&mut live, 2), (&mut from_start, 2), (&mut tokens, 1), (&mut pattern, 2)] {
            assert_eq!(numbers(stream, count), (1..=count as u64).collect::<Vec<_>>(), "{form:?}");
            let end = stream.event();
            assert_eq!((end.event.as_deref(), end.json()), (Some("end"), want.clone()), "{form:?}");
            place = end.id.expect("an id");
        }
        for stream in [&mut live, &mut from_start, &mut tokens] {
            assert_eq!(rest(stream), "", "{form:?}: it closes after the end");
        }
        publish(&server, "run.x", "token", 4);
        assert_eq!(numbers(&mut pattern, 1), [4], "with a pattern the stream goes on");
        // A browser reconnects with the position of the end, and gets a 204, because there is nothing more.
        let status = |query: &str| http::get(server.addr, &format!("/sse{query}")).status;
        assert_eq!(status(&format!("?stream=run-1&from=start&last_event_id={place}")), 204);
        assert_eq!(status(&format!("?stream=run-1&type=token&last_event_id={place}")), 204);
        let mut other = Sse::open(server.addr, &format!("?stream=run-1&stream=run-2&last_event_id={place}"));
        assert_eq!(numbers(&mut other, 1), [3], "{form:?}");
        // From the start and live, for a run that has ended.
        let mut again = Sse::open(server.addr, "?stream=run-1&from=start");
        assert_eq!(numbers(&mut again, 3), [0, 1, 2]);
        assert_eq!(again.event().json(), want);
        assert_eq!(rest(&mut again), "");
        let mut late = Sse::open(server.addr, "?stream=run-1");
        assert_eq!(late.event().json(), want);
        assert_eq!(rest(&mut late), "");
    }
}

#[test]
fn a_subscription_is_over_when_all_its_runs_have_ended() {
    for form in FORMS {
        let server = server(form);
        let mut client = Ws::connect(server.addr);
        publish(&server, "run-2", "run.finished", 0);
        subscribe(
            &mut client,
            json!({"subscription_id": "both", "stream_ids": ["run-1", "run-2"], "event_types": ["token"]}),
        );
        let end = client.any_message();
        let ended = |message: &Value| {
            let payload = &message["payload"];
            assert_eq!(message["type"], "end", "{message}");
            // One of two runs is left.
            let is_over = payload["value"] != "run-2";
            assert_eq!(payload.get("over"), is_over.then_some(&json!(true)), "{message}");
            (
                payload["subscription_id"].as_str().expect("a name").to_owned(),
                payload["value"].as_str().expect("a run").to_owned(),
            )
        };
        assert_eq!(ended(&end), ("both".into(), "run-2".into()));
        subscribe(&mut client, json!({"subscription_id": "one", "stream_ids": ["run-1"]}));
        subscribe(&mut client, json!({"subscription_id": "all"}));
        publish(&server, "run-1", "token", 1);
        assert_eq!(client.any_message()["payload"]["payload"]["n"], 1);
        publish(&server, "run-1", "run.finished", 2);
        assert_eq!(client.any_message()["payload"]["payload"]["n"], 2);
        let mut ends = [ended(&client.any_message()), ended(&client.any_message())];
        ends.sort();
        assert_eq!(ends, [("both".into(), "run-1".into()), ("one".into(), "run-1".into())]);
        let list = client.ask(&json!({"type": "request", "payload": {"action": "subscription_count"}}));
        assert_eq!(list["payload"]["count"], 1, "{list}");
        let again = json!({"type": "token", "stream_id": "run-1", "reopen": true, "payload": {"n": 3}});
        server.publish(again.to_string());
        assert_eq!(client.any_message()["payload"]["payload"]["n"], 3, "all goes on");
        // The log's next life: from its first event to its own end.
        let ack = subscribe(
            &mut client,
            json!({"subscription_id": "next", "stream_ids": ["run-1"], "from": "start", "own_past": true}),
        );
        assert_eq!(ack["type"], "ack", "{ack}");
        assert_eq!(client.any_message()["payload"]["payload"]["n"], 3);
        assert_eq!(client.any_message()["type"], "history_end");
        publish(&server, "run-1", "run.finished", 4);
        assert_eq!(client.any_message()["payload"]["payload"]["n"], 4);
        assert_eq!(ended(&client.any_message()), ("next".into(), "run-1".into()));
    }
}

/// The end of the run is published while the client still reads its past.
#[test]
fn an_end_is_sent_after_the_past() {
    let server = server(&[]);
    let big = "x".repeat(60_000);
    for _ in 0..120 {
        let event = json!({"type": "token", "stream_id": "run-1", "payload": {"text": big}});
        server.publish(event.to_string());
    }
    let mut stream = Sse::open(server.addr, "?stream=run-1&from=start");
    let last = publish(&server, "run-1", "run.finished", 1);
    for n in 0..120 {
        assert_eq!(stream.event().event.as_deref(), Some("token"), "{n}");
    }
    assert_eq!(numbers(&mut stream, 1), [1]);
    assert_eq!(stream.event().json()["last_event_id"], last.as_str());
    assert_eq!(rest(&mut stream), "");
}

/// Live events lap the ring, and the client's feed, many times while the client does not read.
#[test]
fn a_slow_reader_of_a_run_loses_nothing() {
    let rule = "by=stream; bytes=64MiB; match=stream=run-*";
    let options = ["--retain", rule, "--bus-capacity", "64", "--max-lag-events", "50"];
    let server = Server::with(&options);
    let text = "x".repeat(20_000);
    let publish = |numbers: std::ops::Range<u64>| {
        let one = |n| json!({"type": "token", "stream_id": "run-1", "payload": {"n": n, "text": text}});
        for n in numbers.step_by(20) {
            let events: Vec<Value> = (n..n + 20).map(one).collect();
            server.publish(Value::from(events).to_string());
        }
    };
    publish(0..400);
    let mut stream = Sse::open(server.addr, "?stream=run-1&from=start");
    assert_eq!(numbers(&mut stream, 1), [0]);
    publish(400..1400);
    assert_eq!(numbers(&mut stream, 1399), (1..1400).collect::<Vec<_>>());
    publish(1400..1420);
    assert_eq!(numbers(&mut stream, 20), (1400..1420).collect::<Vec<_>>());
}

#[test]
fn a_reload_changes_which_logs_are_kept_and_which_ends_are_sent() {
    for engine in [&[][..], &["--engine", "files"], &["--engine", "redis"], &["--engine", "nats"]] {
        check_reload(engine);
    }
}

fn check_reload(engine: &[&str]) {
    let path = std::env::temp_dir().join(format!("fanwire-kept-{}.toml", std::process::id()));
    let rules = |text: &str| std::fs::write(&path, text).expect("a file");
    rules("");
    let options = ["--config", path.to_str().expect("text"), "--bus-capacity", "16"];
    let server = HomedServer::with(&[&options, engine].concat());
    let mut live = Sse::open(server.addr, "?stream=run-1");
    publish(&server, "run-1", "token", 0);
    assert_eq!(numbers(&mut live, 1), [0], "the node has read the events from before the rule");
    rules("[[retain]]\nmatch = \"stream=run-*\"\nby = \"stream\"\nend = [\"run.finished\"]\n");
    server.signal("HUP");
    // The rule is active when a request for an absent log is refused. A stream would wait for its first event before that.
    let asked = json!({"subscription_id": "s", "stream_ids": ["run-9"], "absent": "error"});
    eventually("the rule is in force", || {
        subscribe(&mut Ws::connect(server.addr), asked.clone())["type"] == "error"
    });
    for n in 1..40 {
        publish(&server, "run-1", "token", n);
    }
    let mut stream = Sse::open(server.addr, "?stream=run-1&from=start");
    assert_eq!(stream.event().event.as_deref(), Some("gap"), "the events before the rule are unknown");
    assert_eq!(numbers(&mut stream, 39), (1..40).collect::<Vec<_>>(), "{engine:?}");
    publish(&server, "run-1", "run.finished", 40);
    for stream in [&mut live, &mut stream] {
        let end = loop {
            let event = stream.event();
            if event.event.as_deref() == Some("end") {
                break event;
            }
        };
        assert_eq!(end.json()["complete"], false);
        assert_eq!(rest(stream), "", "events from before the rule are reported too");
    }
    rules("[[retain]]\nmatch = \"stream=run-*\"\nby = \"stream\"\nfor = \"0s\"\n");
    server.signal("HUP");
    eventually("nonsense is refused", || server.log().contains("for: 0 keeps nothing"));
    let _ = std::fs::remove_file(&path);
}

/// An event of a run may have a channel, so a room could have events in the logs of runs. As long as none has one, runs neither
/// count nor matter.
#[test]
fn a_room_is_whole_and_readable_beside_runs_that_are_gone_and_many() {
    let rules = ["--retain", "by=channel; match=channel=room.*", "--retain", "by=type; match=type=audit.**"];
    for engine in [&[][..], &["--engine", "files"]] {
        let server = server(&[&rules, engine].concat());
        let other = |event: Value| drop(server.publish(event.to_string()));
        other(json!({"type": "chat", "channel": "room.1", "payload": {"n": 0}}));
        other(json!({"type": "audit.login", "payload": {"n": 1}}));
        publish(&server, "run-gone", "token", 2);
        let purged = http::exchange(
            server.addr,
            b"DELETE /events?stream=run-gone HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        );
        assert_eq!(purged.json()["logs"], 1);
        for n in 0..101 {
            publish(&server, &format!("run-{n}"), "token", n);
        }
        let rooms = [("channel=room.1", 0), ("type=audit.**", 1), ("type=audit.login", 1)];
        for (query, n) in rooms {
            let page = http::get(server.addr, &format!("/events?{query}")).json();
            let first = &page["events"][0]["payload"]["n"];
            assert_eq!((first, &page["complete"]), (&json!(n), &json!(true)), "{engine:?} {query}: {page}");
            let mut stream = Sse::open(server.addr, &format!("?{query}&from=start"));
            assert_eq!(numbers(&mut stream, 1), [n], "{engine:?} {query}");
        }
        // With an event of the room in a run's log, its logs are read, and there are too many.
        let event = json!({"type": "token", "stream_id": "run-5", "channel": "room.1", "payload": {"n": 6}});
        other(event);
        let page = |query: &str| http::get(server.addr, &format!("/events?{query}"));
        assert_eq!([page("channel=room.1").status, page("type=audit.**").status], [400, 200], "{engine:?}");
        let purged: Vec<String> = (50..101).map(|n| format!("stream=run-{n}")).collect();
        let request = format!("DELETE /events?{} HTTP/1.1\r\nHost: localhost\r\n\r\n", purged.join("&"));
        assert_eq!(http::exchange(server.addr, request.as_bytes()).json()["logs"], 51);
        let found = page("channel=room.1").json();
        let numbers: Vec<_> =
            found["events"].as_array().expect("a list").iter().map(|e| &e["payload"]["n"]).collect();
        assert_eq!((numbers, &found["complete"]), (vec![&json!(0), &json!(6)], &json!(false)), "{engine:?}");
    }
}

/// Publishes one event with `reopen`.
fn reopen(server: &Server, stream: &str, n: u64) {
    let event = json!({"type": "token", "stream_id": stream, "payload": {"n": n}, "reopen": true});
    server.publish(event.to_string());
}

/// The log of a rule that is gone, or that another rule continues, and the ring both have its events.
#[test]
fn a_change_of_rules_brings_no_event_twice_and_none_of_an_older_life() {
    for engine in [&[][..], &["--engine", "files"]] {
        let path = std::env::temp_dir().join(format!("fanwire-rules-{}.toml", std::process::id()));
        let rule = |matching: &str, end: &str| {
            format!("[[retain]]\nmatch = \"{matching}\"\nby = \"stream\"\nend = [\"{end}\"]\n")
        };
        let first = rule("stream=run-*", "run.finished");
        std::fs::write(&path, &first).expect("a file");
        let server = HomedServer::with(&[&["--config", path.to_str().expect("text")], engine].concat());
        let asked = json!({"subscription_id": "s", "stream_ids": ["other"], "absent": "error"});
        let change = |rules: &str, keeps_other: bool| {
            std::fs::write(&path, rules).expect("a file");
            server.signal("HUP");
            let answer = if keeps_other { "error" } else { "ack" };
            eventually("the rules are in force", || {
                subscribe(&mut Ws::connect(server.addr), asked.clone())["type"] == answer
            });
        };
        let from_start = |run: &str| {
            let mut stream = Sse::open(server.addr, &format!("?stream={run}&from=start"));
            let mut found: Vec<u64> = Vec::new();
            loop {
                let block = stream.block(deadline()).expect("the past has an end");
                if block.comments.iter().any(|comment| comment.contains("history_end")) {
                    return found;
                }
                if block.data.is_some() {
                    found.extend(block.json()["payload"]["n"].as_u64());
                }
            }
        };
        for run in ["run-1", "run-2"] {
            publish(&server, run, "token", 0);
            publish(&server, run, "run.finished", 1);
            reopen(&server, run, 2);
            publish(&server, run, "token", 3);
        }
        // Another rule continues the log of run-2.
        change(&[rule("stream=run-2,other", "over"), first].concat(), true);
        publish(&server, "run-2", "token", 4);
        assert_eq!(from_start("run-2"), [2, 3, 4], "{engine:?}");
        // No rule continues that of run-1.
        change(&rule("stream=run-2", "over"), false);
        publish(&server, "run-1", "token", 4);
        for run in ["run-1", "run-2"] {
            assert_eq!(from_start(run), [2, 3, 4], "{engine:?} {run}");
        }
        let _ = std::fs::remove_file(&path);
    }
}

/// Without an engine, a restarted server is another process: it does not know the places that its predecessor gave.
#[test]
fn a_resume_from_before_a_restart_gets_a_gap_and_everything_that_is_kept_since() {
    let old = server(&[]);
    let place = publish(&old, "run-1", "token", 0);
    drop(old);
    for place in [place.as_str(), "no-place"] {
        let server = server(&[]);
        publish(&server, "run-1", "token", 1);
        publish(&server, "chat", "said", 2);
        let mut stream = Sse::open(server.addr, &format!("?stream=run-1&last_event_id={place}"));
        assert_eq!(stream.event().event.as_deref(), Some("gap"), "{place}");
        assert_eq!(numbers(&mut stream, 1), [1]);
        publish(&server, "run-1", "run.finished", 3);
        assert_eq!(numbers(&mut stream, 1), [3]);
        assert_eq!(stream.event().event.as_deref(), Some("end"));
        // Events under no rule are still those after the place, which is unknown.
        let mut stream = Sse::open(server.addr, &format!("?stream=chat&last_event_id={place}"));
        assert_eq!(stream.event().event.as_deref(), Some("gap"));
        publish(&server, "chat", "said", 4);
        assert_eq!(numbers(&mut stream, 1), [4]);
    }
}

#[test]
fn a_grant_limits_the_events_from_the_start_and_the_ends_that_are_sent() {
    let secret = "0123456789abcdef0123456789abcdef";
    let server = server(&["--auth-jwt-hs256-secret", secret]);
    let own = support::token(secret, &["--publish", "--stream", "run-1"]);
    let all = support::token(secret, &["--publish", "--stream", "*"]);
    let publish = |stream: &str, event_type: &str, n: u64| {
        let body = json!({"type": event_type, "stream_id": stream, "payload": {"n": n}}).to_string();
        let request = format!(
            "POST /publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {all}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(http::exchange(server.addr, request.as_bytes()).status, 200);
    };
    for n in 0..5 {
        publish("run-1", "token", n);
        publish("run-2", "token", 100 + n);
    }
    assert_eq!(
        http::get(server.addr, &format!("/sse?stream=run-2&from=start&access_token={own}")).status,
        403
    );
    let mut stream = Sse::open(server.addr, &format!("?from=start&access_token={own}"));
    assert_eq!(numbers(&mut stream, 5), [0, 1, 2, 3, 4]);
    publish("run-2", "run.finished", 105);
    publish("run-1", "run.finished", 5);
    assert_eq!(numbers(&mut stream, 1), [5]);
    let end = stream.event();
    assert_eq!((end.event.as_deref(), &end.json()["value"]), (Some("end"), &json!("run-1")));
}

/// Clients that want every event of a log share its encoded events. One that names all types is served event by event.
#[test]
fn a_whole_run_is_the_same_event_by_event() {
    for form in &FORMS[..2] {
        let server = server(form);
        publish_runs(&server, 0, 150);
        publish(&server, "run-3", "run.finished", 150);
        let read = |query: &str| -> Vec<_> {
            let mut stream = Sse::open(server.addr, &format!("?stream=run-3&from=start{query}"));
            let mut all = vec![stream.event()];
            while all.last().is_some_and(|last| last.event.as_deref() != Some("end")) {
                all.push(stream.event());
            }
            all
        };
        for choices in ["", "&lean", "&event_name=message"] {
            let want = read(&format!("{choices}&type=token&type=run.finished"));
            assert_eq!(want.len(), 152, "{choices}");
            for _ in 0..2 {
                assert_eq!(read(choices), want, "{form:?} {choices}");
            }
        }
        // From an id in the middle of the events that are encoded together.
        let all = read("");
        let id = all[70].id.as_deref().expect("an id");
        assert_eq!(read(&format!("&last_event_id={id}")), all[71..]);
    }
}

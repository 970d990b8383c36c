//! `fanwire publish`, `fanwire tail` and the output of `serve`, as a user sees them at a terminal.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};
use support::log_home::LogHome;
use support::ws::Ws;
use support::{PATIENCE, Server, eventually, fanwire, numbered, run};

/// A subcommand with the server's address.
fn client(server: &Server, command: &str) -> Command {
    let mut fanwire = fanwire();
    fanwire.args([command, "--url", &format!("http://{}", server.addr)]);
    fanwire
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// A running command, with its output line by line. Killed on drop.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let (send, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { stdin: child.stdin.take(), child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn subscriptions(server: &Server) -> f64 {
    server.metric("fanwire_server_subscriptions").expect("the metric is there")
}

#[test]
fn publish_sends_one_event_of_options() {
    let server = Server::start();
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let output = run(client(&server, "publish").args([
        "--type",
        "task.progress",
        "--source",
        "core",
        "--stream",
        "st",
        "--execution",
        "ex",
        "--correlation",
        "run",
        "--entity",
        "task:a:b",
        "--channel",
        "dev",
        "--payload",
        r#"{"z":1.50,"a":"é"}"#,
    ]));
    assert!(output.status.success(), "{}", err(&output));
    let event = reader.event();
    assert_eq!(
        out(&output),
        format!("accepted 1 event, last id {}\n", event["event_id"].as_str().expect("an id"))
    );
    assert_eq!(
        (&event["event_type"], &event["source"], &event["stream_id"]),
        (&json!("task.progress"), &json!("core"), &json!("st"))
    );
    assert_eq!(
        (&event["execution_id"], &event["correlation_id"], &event["channel"]),
        (&json!("ex"), &json!("run"), &json!("dev"))
    );
    assert_eq!(
        (&event["entity"], &event["payload"]),
        (&json!({"kind": "task", "id": "a:b"}), &json!({"z": 1.5, "a": "é"}))
    );

    let output = run(client(&server, "publish").args(["--type", "x", "--json"]));
    let answer: Value = serde_json::from_str(&out(&output)).expect("JSON");
    assert_eq!((&answer["accepted"], &answer["last_event_id"]), (&json!(1), &reader.event()["event_id"]));
}

#[test]
fn an_event_with_an_id_is_published_once() {
    let server = Server::start();
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let publish = |args: &[&str]| {
        out(&run(client(&server, "publish").args(["--type", "x", "--dedupe-id", "a"]).args(args)))
    };
    assert!(publish(&[]).starts_with("accepted 1 event, last id "));
    assert!(publish(&[]).starts_with("accepted 0 events, 1 known before, last id "));
    let answer: Value = serde_json::from_str(&publish(&["--json"])).expect("JSON");
    let id = reader.event()["event_id"].clone();
    assert_eq!(answer, json!({"accepted": 0, "duplicates": 1, "last_event_id": id}));
}

#[test]
fn publish_takes_files_of_every_form() {
    let server = Server::start();
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let file = std::env::temp_dir().join(format!("fanwire-test-cli-{}.json", std::process::id()));
    let one = "{\n  \"type\": \"x\",\n  \"payload\": {\"n\": 0}\n}\n".to_owned();
    let lines = |count: usize| (0..count).map(numbered).collect::<String>();
    let array = "[".to_owned() + &lines(3).trim().replace('\n', ",\n") + "]";
    for (body, count) in
        [(one, 1), (lines(5), 5), (array, 3), (format!("\n\n{}", lines(2)), 2), (lines(30_000), 30_000)]
    {
        std::fs::write(&file, &body).expect("a temporary file");
        let output = run(client(&server, "publish").arg(&file));
        assert!(output.status.success(), "{}", err(&output));
        assert!(out(&output).starts_with(&format!("accepted {count} event")), "{}", out(&output));
        // Sampled, because the server does not retain 30,000 events for a slow reader.
        if count < 10 {
            (0..count).for_each(|n| assert_eq!(reader.event()["payload"]["n"], n));
        }
    }
    let _ = std::fs::remove_file(&file);
    assert_eq!(server.metric("fanwire_server_events_published_total"), Some(30_011.0));
}

#[test]
fn publish_sends_a_pipes_lines_as_they_come() {
    let server = Server::start();
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let mut publish = Running::start(client(&server, "publish").arg("-"));
    let mut pipe = publish.stdin.take().expect("piped");
    for n in 0..3 {
        pipe.write_all(numbered(n).as_bytes()).expect("it reads");
        assert_eq!(reader.event()["payload"]["n"], n, "while the pipe is open");
    }
    drop(pipe);
    assert!(publish.line().starts_with("accepted 3 events"));
    assert!(publish.child.wait().expect("it ends").success());
}

#[test]
fn publish_reports_refused_events_and_their_lines() {
    let server = Server::start();
    let file = std::env::temp_dir().join(format!("fanwire-test-bad-{}.ndjson", std::process::id()));
    // The fault is in a later batch. Its line number counts from the file's start.
    let lines: String = (0..20_000).map(numbered).collect();
    std::fs::write(&file, lines + "\n{\"source\":\"no type\"}\n" + &numbered(1)).expect("a temporary file");
    let output = run(client(&server, "publish").arg(&file));
    let _ = std::fs::remove_file(&file);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("line 20002: event has no type"), "{}", err(&output));
    assert!(out(&output).starts_with("accepted "), "the events sent before are reported: {}", out(&output));

    for (options, problem) in [
        (&["--type", "x", "--payload", "{nonsense"][..], "--payload is not JSON"),
        (&["--type", "x", "--entity", "nonsense"], "KIND:ID"),
        (&["/no/such/file"], "cannot read /no/such/file"),
        (&["--type", "a\u{7}"], "control character"),
    ] {
        let output = run(client(&server, "publish").args(options));
        assert_eq!(output.status.code(), Some(1), "{options:?}");
        assert!(err(&output).contains(problem), "{options:?}: {}", err(&output));
        assert_eq!(out(&output), "");
    }
    // An invalid command line has an exit code of its own.
    for options in [&["--source", "x"][..], &["--type", "x", "file"], &["--url", "ftp://x", "--type", "x"]] {
        assert_eq!(run(fanwire().arg("publish").args(options)).status.code(), Some(2), "{options:?}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port");
    let output = run(fanwire().args(["publish", "--type", "x", "--url", &nobody.to_string()]));
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("Is the server running?"), "{}", err(&output));
}

#[test]
fn tail_shows_events_as_lines_over_both_transports() {
    let server = Server::start();
    for transport in [&[][..], &["--sse"]] {
        let filter =
            ["--type", "task.*", "--source", "core", "--entity", "task:*", "--count", "2", "--history", "1"];
        server.publish(r#"{"type":"task.before","source":"core","entity":{"kind":"task","id":"t"}}"#);
        let tail = Running::start(client(&server, "tail").args(filter).args(transport));
        assert!(tail.line().contains("task.before"), "history comes first");
        server.publish(
            r#"[{"type":"other","source":"core"},{"type":"task.x","source":"other"},
                {"type":"task.progress","source":"core","ts":"2026-01-27T10:21:33.123456Z","correlation_id":"run-42",
                 "entity":{"kind":"task","id":"t-1"},"channel":"dev","payload":{"progress":42}}]"#,
        );
        let line = tail.line();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["10:21:33.123", "task.progress", "core", "task:t-1", "run-42", "#dev", "{\"progress\":42}"]
        );
        let mut tail = tail;
        assert!(tail.child.wait().expect("it ends by itself").success());
    }
}

#[test]
fn tail_prints_a_run_from_its_start_and_exits_at_its_end() {
    let rule = "by=stream; end=run.finished; match=stream=run-*";
    let server = Server::with(&["--retain", rule, "--bus-capacity", "64"]);
    let publish = |event_type: &str, n: u32| {
        let event = format!(r#"{{"type":"{event_type}","stream_id":"run-1","payload":{{"n":{n}}}}}"#);
        server.publish(event);
    };
    (0..3).for_each(|n| publish("token", n));
    (0..100).for_each(|_| drop(server.publish(r#"{"type":"noise"}"#)));
    let tails: Vec<Running> = [&[][..], &["--sse"]]
        .map(|transport| {
            let command = ["--stream", "run-1", "--from", "start", "--no-reconnect"];
            Running::start(client(&server, "tail").args(command).args(transport))
        })
        .into();
    let is_token = |line: &str, n: u32| line.contains("token") && line.contains(&format!("{{\"n\":{n}}}"));
    for tail in &tails {
        (0..3).for_each(|n| assert!(is_token(&tail.line(), n)));
    }
    publish("token", 3);
    publish("run.finished", 4);
    for mut tail in tails {
        assert!(is_token(&tail.line(), 3));
        assert!(tail.line().contains("run.finished"));
        assert_eq!(tail.line(), "-- end of stream run-1 --");
        assert!(tail.child.wait().expect("it ends by itself").success());
    }
    // A run that is over, as JSON.
    let output = run(client(&server, "tail").args(["--stream", "run-1", "--from", "start", "--json"]));
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.lines().count(), 6, "{text}");
    let end: serde_json::Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&end["end"]["value"], &end["end"]["complete"]), (&"run-1".into(), &true.into()), "{end}");
    assert!(output.status.success());
    // At its limit `history` names the place to continue from.
    let url = format!("http://{}", server.addr);
    let output = run(fanwire().args(["history", &url, "stream=run-1", "--limit", "2"]));
    let errors = String::from_utf8(output.stderr).expect("text");
    let place = errors.split_once("--after ").expect(&errors).1.trim();
    let output = run(fanwire().args(["history", &url, "stream=run-1", "--after", place]));
    let lines = String::from_utf8(output.stdout).expect("text");
    assert!(lines.lines().count() == 3 && is_token(lines.lines().next().expect("a line"), 2), "{lines}");
    for args in
        [&["--after", place, "--before", place][..], &["--desc", "--after", place], &["--before", place]]
    {
        let output = run(fanwire().args(["history", &url, "stream=run-1"]).args(args));
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", err(&output));
    }
}

/// The log of an engine is there for the commands too, also at a node that started after the events.
#[test]
fn tail_and_history_read_the_log_of_an_engine() {
    let rule = "by=stream; end=run.finished; match=stream=run-*";
    let options = ["--retain", rule, "--bus-capacity", "64"];
    for kind in ["files", "redis"] {
        let home = LogHome::new(kind);
        let mut node = home.node(&options);
        let event =
            |event_type: &str, n: u32| json!({"type": event_type, "stream_id": "run-1", "payload": {"n": n}});
        node.publish(Value::from((0..200).map(|n| event("token", n)).collect::<Vec<_>>()).to_string());
        node.publish(event("run.finished", 200).to_string());
        node.signal("KILL");
        node.wait();
        let server = home.node(&options);
        let output = run(client(&server, "tail").args(["--stream", "run-1", "--from", "start", "--json"]));
        let (text, is_success) = (out(&output), output.status.success());
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((lines.len(), is_success), (202, true), "{kind}: {text}");
        assert_eq!(
            (&lines[0]["payload"]["n"], &lines[200]["payload"]["n"]),
            (&json!(0), &json!(200)),
            "{kind}"
        );
        assert_eq!(lines[201]["end"]["complete"], true, "{kind}");
        let url = format!("http://{}", server.addr);
        let output = run(fanwire().args(["history", &url, "stream=run-1", "--limit", "150"]));
        assert_eq!(out(&output).lines().count(), 150, "{kind}: {}", err(&output));
        let errors = err(&output);
        let place = errors.split_once("--after ").expect(&errors).1.trim();
        let output = run(fanwire().args(["history", &url, "stream=run-1", "--after", place]));
        assert_eq!((out(&output).lines().count(), err(&output)), (51, String::new()), "{kind}");
    }
}

#[test]
fn tail_as_json_prints_each_event_as_it_came() {
    let server = Server::start();
    let payload = r#"{"z":1.50,"a":"\u0041"}"#;
    let mut printed = Vec::new();
    let id = server.publish(format!("{{\"type\":\"x\",\"payload\":{payload}}}"))["last_event_id"].clone();
    for transport in [&[][..], &["--sse"]] {
        let output =
            run(client(&server, "tail").args(["--json", "--count", "1", "--history", "1"]).args(transport));
        assert!(output.status.success(), "{}", err(&output));
        assert!(out(&output).contains(&format!("\"payload\":{payload}}}\n")), "{}", out(&output));
        let event: Value = serde_json::from_str(&out(&output)).expect("a line of JSON");
        assert_eq!(event["event_id"], id);
        printed.push(out(&output));
    }
    assert_eq!(printed[0], printed[1], "both transports carry the same event");
}

#[test]
fn tail_reports_the_place_where_its_history_is_cut_off() {
    let server = Server::with(&["--bus-capacity", "8"]);
    (0..9).for_each(|n| drop(server.publish(numbered(n))));
    for (history, is_cut_off) in [("8", false), ("9", true)] {
        let args = ["--history", history, "--count", "9"];
        let mut tail = Running::start(client(&server, "tail").args(args).stderr(Stdio::piped()));
        if is_cut_off {
            assert!(tail.line().starts_with("-- gap: an unknown number"), "before the first event");
        }
        (0..8).for_each(|_| assert!(tail.line().contains("test.numbered")));
        // A live event ends the command.
        server.publish(numbered(9));
        assert!(tail.child.wait().expect("it ends by itself").success());
        let mut errors = String::new();
        tail.child.stderr.take().expect("piped").read_to_string(&mut errors).expect("text");
        assert_eq!(errors.contains("history: 8 events"), is_cut_off, "{errors}");
    }
}

#[test]
fn tail_continues_with_a_restarted_servers_events() {
    let mut server = Server::start();
    let address = server.addr.to_string();
    for transport in [&[][..], &["--sse"]] {
        let tail = Running::start(
            client(&server, "tail").args(["--json", "--history", "1"]).args(transport).stderr(Stdio::null()),
        );
        server.publish(numbered(1));
        while !tail.line().contains("\"n\":1") {}
        drop(server);
        server = Server::at(&address, &[]);
        // Another epoch: the size of the loss is unknown, and the gap is delivered before any new event.
        let gap = tail.line();
        assert!(
            gap.starts_with(r#"{"gap":{"missed":null,"#) && gap.contains(r#""recoverable":false"#),
            "{gap}"
        );
        server.publish(numbered(2));
        assert!(tail.line().contains("\"n\":2"));
    }
}

#[test]
fn tail_ends_silently_when_stdout_closes_and_with_an_error_when_refused() {
    let server = Server::start();
    let mut tail = client(&server, "tail").stdout(Stdio::piped()).spawn().expect("it starts");
    drop(tail.stdout.take());
    eventually("it has subscribed", || subscriptions(&server) > 0.0);
    eventually("it ends", || {
        server.publish(numbered(1));
        tail.try_wait().expect("it is our child").is_some()
    });
    assert!(tail.wait().expect("it has ended").success());

    let output = run(client(&server, "tail").args(["--no-reconnect", "--entity", "nonsense"]));
    assert_eq!(output.status.code(), Some(2));
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port");
    for transport in [&[][..], &["--sse"]] {
        let output =
            run(fanwire().args(["tail", "--no-reconnect", "--url", &nobody.to_string()]).args(transport));
        assert_eq!(output.status.code(), Some(1));
        assert!(err(&output).contains("cannot connect"), "{}", err(&output));
        // A server answers, but it is not fanwire.
        let output =
            run(fanwire().args(["tail", "--url", &format!("{}/elsewhere", server.addr)]).args(transport));
        assert_eq!(output.status.code(), Some(1), "{}", out(&output));
        assert!(err(&output).contains("404"), "{}", err(&output));
    }
}

#[test]
fn the_demo_shows_a_lively_run_at_its_rate() {
    let server = Server::with(&["--demo"]);
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let events: Vec<Value> = (0..60).map(|_| reader.event()).collect();
    let types: BTreeSet<&str> =
        events.iter().map(|event| event["event_type"].as_str().expect("a type")).collect();
    assert!(types.len() >= 6, "{types:?}");
    // Twenty a second, by the server's own clock.
    let second = |event: &Value| -> f64 {
        let time = event["timestamp"].as_str().expect("a time");
        time[17..].trim_end_matches('Z').parse().expect("seconds, after 2026-01-27T10:21:")
    };
    let took = (second(&events[59]) - second(&events[0])).rem_euclid(60.0);
    assert!((1.5..10.0).contains(&took), "60 events took {took} s");
}

#[test]
fn serve_takes_its_options_from_the_environment_and_refuses_nonsense() {
    let server = Server::start();
    let taken = server.addr.to_string();
    let output = run(fanwire().arg("serve").env("FANWIRE_LISTEN", &taken));
    assert!(err(&output).contains(&taken), "{}", err(&output));
    let output = run(fanwire().args(["serve", "--listen", "256.0.0.1:1"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("--listen takes"), "{}", err(&output));
    for options in [
        &["--listen", "nonsense"][..],
        &["--port", "65536"],
        &["--listen", "127.0.0.1:0", "--port", "0"],
        &["--listen", "127.0.0.1"],
        &["--loops", "0"],
        &["--heartbeat", "30"],
        &["--log-level", "a=b=c"],
        &["--engine", "ftp://x"],
    ] {
        let output = run(fanwire().arg("serve").args(options));
        assert_eq!(output.status.code(), Some(2), "{options:?}: {}", err(&output));
    }
}

#[test]
fn host_and_port_are_the_two_halves_of_listen() {
    let port = support::service::free_port().to_string();
    let server = Server::spawn(fanwire().args([
        "serve",
        "--dialect",
        "hive",
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--log-level",
        "warn",
    ]));
    assert_eq!(server.addr.to_string(), format!("127.0.0.1:{port}"));
    let mut client = Ws::over(support::wire::Wire::connect(server.addr), "/", "");
    assert_eq!(client.ask(&json!({"action": "subscribe"}))["type"], "subscribed");
    let listens = |options: &[&str]| {
        let output = run(fanwire().args(["check", "--json"]).args(options));
        let settings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        settings["listen"]["value"].as_str().map(|value| value.trim_matches('"').to_owned())
    };
    for (options, listen) in [
        (&[][..], "127.0.0.1:8765"),
        (&["--port", "9000"], "127.0.0.1:9000"),
        (&["--host", "0.0.0.0"], "0.0.0.0:8765"),
        (&["--host", "::1", "--port", "9000"], "[::1]:9000"),
        (&["--host", "[::1]"], "[::1]:8765"),
    ] {
        assert_eq!(listens(options).as_deref(), Some(listen), "{options:?}");
    }
}

#[test]
fn check_points_at_the_fault_and_explains_filters() {
    let check = |args: &[&str]| run(fanwire().arg("check").args(args));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let good = check(&["type=task.* source=core", "payload.progress >= 50"]);
    assert!(good.status.success(), "{good:?}");
    assert_eq!(text(&good.stdout).lines().count(), 2);

    let bad = check(&["type=task.* colour=red"]);
    assert_eq!(bad.status.code(), Some(1));
    let lines: Vec<String> = text(&bad.stdout).lines().map(str::to_owned).collect();
    assert_eq!(lines[1].find("colour"), lines[2].find('^'), "{lines:?}");

    let event = r#"{"type":"task.progress","source":"edge","payload":{"progress":42}}"#;
    let why = check(&["type=task.*", "source=core payload.progress>=50", "--explain", event, "--json"]);
    assert!(why.status.success(), "{why:?}");
    let rows: Vec<serde_json::Value> =
        text(&why.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&rows[0]["wanted"], &rows[1]["wanted"]), (&true.into(), &false.into()));
    assert_eq!(rows[1]["conditions"][0]["found"], "edge");
    assert_eq!(rows[1]["conditions"][1]["found"], "42");
    assert_eq!(check(&["type=x", "--explain", event]).status.code(), Some(1), "no filter matches it");
    assert_eq!(check(&["type=x", "--explain", "[]"]).status.code(), Some(1));
    let long = text(&check(&["", "--explain", event]).stdout);
    assert!(long.contains("matches"), "{long}");
}

#[test]
fn bench_accounts_for_every_delivery_of_every_mix_and_pace() {
    let server = Server::start();
    let bench = |args: &str| -> Value {
        let output = run(client(&server, "bench").arg("--json").args(args.split(' ')));
        assert!(output.status.success(), "{args}: {}", err(&output));
        serde_json::from_str(&out(&output)).expect("JSON")
    };
    let all = |args: &str| {
        let report = bench(args);
        assert_eq!(report["delivered"], report["expected"], "{args}: {report}");
        assert!(report["delivered"].as_u64() > Some(0), "{args}: {report}");
        report
    };
    all("-c 20 -r 200 -s 0.3 --mix types,patterns,entities,all --filters 3");
    all("-c 20 -r 200 -s 0.3 --mix types,entities,all --transport sse -b 20");
    for speak in ["lean", "agentos"] {
        all(&format!("-c 20 -r 200 -s 0.3 -b 20 --speak {speak}"));
    }
    #[cfg(feature = "deflate")]
    all("-c 20 -r 2000 -s 0.3 -b 100 --deflate");
    let report = all("-c 20 -r 200 -s 0.3 --sleepers 10 --slow 20 --slow-rate 1000000");
    assert!(report["slow_delivered"].as_u64() > Some(0), "{report}");
    let report = bench("-c 0 -b 10 -s 0.3 --window 4");
    assert!(report["published"].as_u64() > Some(40), "answers open the window again: {report}");
    let report = bench("-c 20 --churn 100");
    assert_eq!(report["connected"], 100, "{report}");
}

#[test]
fn bench_checks_each_delivery_against_the_client_s_own_topics() {
    let server = Server::start();
    let bench = |args: &str| -> Value {
        let output = run(client(&server, "bench").arg("--json").args(args.split(' ')));
        assert!(output.status.success(), "{args}: {}", err(&output));
        let report: Value = serde_json::from_str(&out(&output)).expect("JSON");
        assert_eq!(report["delivered"], report["expected"], "{args}: {report}");
        assert!(report["delivered"].as_u64() > Some(0), "{args}: {report}");
        assert_eq!(
            (&report["unwanted"], &report["wrong_clients"]),
            (&0.into(), &0.into()),
            "{args}: {report}"
        );
        report
    };
    let report =
        bench("-c 30 -r 1000 -b 20 -s 0.3 --watch 5 --topics 50 --zipf 1 --mix entities,channels,types");
    assert_eq!((&report["watch"], &report["keys"]), (&5.into(), &50.into()));
    bench("-c 20 -r 1000 -b 20 -s 0.3 --watch 5 --topics 50 --mix entities,channels --transport sse");
    bench("-c 20 -r 1000 -b 20 -s 0.3 --watch 5 --topics 50 --speak lean --publish ws");
    bench("-c 20 -r 1000 -s 0.3 --filters 20 --mix channels --publish ws");
    bench("-c 20 -r 1000 -b 20 -s 0.3 --watch 5 --topics 50 --mix entities --publish ws-no-ack");
    #[cfg(feature = "deflate")]
    bench("-c 20 -r 1000 -b 20 -s 0.3 --watch 5 --topics 20 --deflate");

    // A list that the server does not take, over both transports.
    for args in ["--watch 1100 --topics 1200", "--watch 300 --topics 400 --transport sse"] {
        let output = run(client(&server, "bench").args(args.split(' ')).args(["-c", "1", "-s", "0.1"]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains("refused a client"), "{args}: {said}");
        assert!(said.contains("over the limit"), "{args}: {said}");
    }
    let output = run(client(&server, "bench").args(["--speak", "nats", "--publish", "ws"]));
    assert!(!output.status.success() && err(&output).contains("--publish ws"), "{}", err(&output));
}

#[test]
fn top_prints_one_plain_frame_without_a_terminal() {
    let server = Server::start();
    let _client = Ws::subscribed(server.addr, json!({"event_types": ["task.*"]}));
    server.publish(numbered(1));
    let url = format!("http://{}", server.addr);
    eventually("the interest is reported", || {
        let output = run(fanwire().args(["top", &url]));
        assert!(output.status.success(), "{output:?}");
        let frame = String::from_utf8(output.stdout).expect("text");
        assert!(frame.contains("serving") && frame.contains("1 (1 ws, 0 sse"), "{frame}");
        assert!(!frame.contains('\u{1b}'), "{frame:?}");
        frame.contains("type=task.*")
    });
    let guarded = Server::with(&["--auth-jwt-hs256-secret", "a secret of thirty-two bytes, no less"]);
    let output = run(fanwire().args(["top", &format!("http://{}", guarded.addr)]));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the right `admin`"), "{output:?}");
}

#[test]
fn top_draws_on_a_terminal_and_gives_it_back() {
    let server = Server::start();
    let command = format!("{} top http://{}", env!("CARGO_BIN_EXE_fanwire"), server.addr);
    let mut script = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("script, of util-linux, starts");
    let mut screen = script.stdout.take().expect("piped");
    let mut printed = String::new();
    let mut chunk = [0; 4096];
    while !printed.contains("no subscriptions") {
        let len = screen.read(&mut chunk).expect("a frame");
        assert!(len > 0, "ended early: {printed}");
        printed.push_str(&String::from_utf8_lossy(&chunk[..len]));
    }
    script.stdin.as_mut().expect("piped").write_all(b"q").expect("a key");
    screen.read_to_string(&mut printed).expect("the rest");
    assert!(script.wait().expect("it ends").success(), "{printed}");
    assert!(
        printed.contains("\u{1b}[?1049h") && printed.trim_end().ends_with("\u{1b}[?1049l"),
        "{printed:?}"
    );
}

#[test]
fn a_password_in_a_url_is_repeated_by_no_command() {
    let urls =
        ["http://ann:s3cret@127.0.0.1:1", "ann:s3cret@127.0.0.1:1", "http://127.0.0.1:1/?token=s3cret"];
    for url in urls {
        for words in [
            &["tail", "--url", url][..],
            &["tail", "--sse", "--url", url],
            &["publish", "--type", "a", "--url", url],
            &["bench", "-c", "1", "-s", "0.1", "--url", url],
            &["top", url],
            &["history", url],
            &["verify", url],
        ] {
            let output = run(Command::new("timeout").arg("60").arg(fanwire().get_program()).args(words));
            assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
            let text = out(&output) + &err(&output);
            assert!(!text.contains("s3cret") && !text.contains("ann"), "{text}");
            assert!(url.contains('?') || text.contains("FANWIRE_TOKEN"), "the next step: {text}");
        }
        let output = run(fanwire().arg("tail").env("FANWIRE_URL", url));
        assert!(!err(&output).contains("s3cret"), "{output:?}");
        for command in ["tail", "publish", "bench", "top", "history", "verify"] {
            let output = run(fanwire().args([command, "--help"]).env("FANWIRE_URL", url));
            assert!(!out(&output).contains("s3cret"), "{output:?}");
        }
    }
}

#[test]
fn a_password_of_an_engine_or_an_ingest_is_shown_nowhere() {
    let ingest = "redis://ann:s3cret@127.0.0.1:1#system:events";
    for words in [&["check"][..], &["check", "--json"], &["check", "--help"], &["check", "--print-defaults"]]
    {
        let mut command = fanwire();
        command
            .args(words)
            .env("FANWIRE_INGEST", ingest)
            .env("FANWIRE_ENGINE", "nats://ann:s3cret@127.0.0.1:1");
        let output = run(&mut command);
        assert!(output.status.success(), "{output:?}");
        assert!(!(out(&output) + &err(&output)).contains("s3cret"), "{output:?}");
    }
    for wrong in ["redis://ann:s3cret@127.0.0.1:1", "amqp://ann:s3cret@h#c", "ann:s3cret"] {
        let output = run(fanwire().args(["check", "--ingest", wrong]));
        assert!(!output.status.success() && !(out(&output) + &err(&output)).contains("s3cret"), "{output:?}");
    }
}

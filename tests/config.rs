//! The configuration as an operator uses it: files, variables, flags, faults, and SIGHUP.

mod support;

use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};
use support::http;
use support::ws::Ws;
use support::{Server, eventually, fanwire, run};

/// A file of this test, removed on drop.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fanwire-config-{}-{name}.toml", std::process::id()));
        let file = Self(path);
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).expect("a temporary file");
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn server_info(client: &mut Ws) -> Value {
    let request = json!({ "type": "request", "message_id": "r", "payload": { "action": "server_info" } });
    client.ask(&request)["payload"].clone()
}

#[test]
fn check_shows_the_effective_settings_and_their_origins() {
    let file = File::new("check", "heartbeat = \"10s\"\nloops = 2\n\n[drain]\ntimeout = \"1m\"\n");
    let check = |more: &[&str]| {
        run(fanwire().args(["check", "--config", file.path()]).args(more).env("FANWIRE_LOOPS", "3"))
    };
    let text = out(&check(&["--retry", "9s"]));
    let line = |key: &str| {
        let line =
            text.lines().find(|line| line.starts_with(&format!("{key} = "))).expect("the key is there");
        line.split_whitespace().skip(2).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("heartbeat"), format!("\"10s\" # {}:1", file.path()));
    assert_eq!(line("drain.timeout"), format!("\"1m\" # {}:5", file.path()));
    assert_eq!(line("loops"), "3 # FANWIRE_LOOPS");
    assert_eq!(line("retry"), "\"9s\" # --retry");
    assert_eq!(line("max_message_bytes"), "\"64KiB\" # default");
    let json: Value = serde_json::from_str(&out(&check(&["--json"]))).expect("JSON");
    assert_eq!(json["loops"], json!({ "value": "3", "from": "FANWIRE_LOOPS" }));
}

#[test]
fn the_printed_defaults_are_a_file_that_changes_nothing() {
    let defaults = run(fanwire().args(["check", "--print-defaults"]));
    let file = File::new("defaults", &out(&defaults));
    let values = |output: &Output| {
        let text = out(output);
        text.lines()
            .map(|line| line.split("  #").next().unwrap_or_default().trim().to_owned())
            .collect::<Vec<_>>()
    };
    let from_file = run(fanwire().args(["check", "--config", file.path()]));
    assert!(from_file.status.success(), "{}", err(&from_file));
    assert_eq!(values(&from_file), values(&run(fanwire().arg("check"))));
    let mut server = Server::with(&["--config", file.path()]);
    server.signal("TERM");
    assert!(server.wait().success());
}

#[test]
fn a_file_with_faults_is_refused_with_all_of_them() {
    let file = File::new("faults", "max_conections = 5\nheartbeat = 30\n");
    for command in ["serve", "check"] {
        let output = run(fanwire().args([command, "--config", file.path()]));
        assert_eq!((output.status.code(), out(&output).as_str()), (Some(1), ""));
        let text = err(&output);
        let path = file.path();
        assert!(text.contains("the configuration has 2 faults:"), "{text}");
        assert!(
            text.contains(&format!(
                "{path}:1: unknown key `max_conections`; did you mean `max_connections`?"
            )),
            "{text}"
        );
        assert!(text.contains(&format!("{path}:2: heartbeat = 30: `30` has no unit")), "{text}");
    }
    let output = run(fanwire().args(["serve", "--config", "/nonexistent/f.toml"]));
    assert!(err(&output).contains("/nonexistent/f.toml: cannot be read: "), "{}", err(&output));
}

#[test]
fn the_server_applies_file_variables_and_flags() {
    let file =
        File::new("serve", "max_subscriptions = 7\nheartbeat = \"11s\"\nmax_message_bytes = \"1KiB\"\n");
    let server = Server::with(&["--config", file.path(), "--heartbeat", "12s"]);
    let mut client = Ws::connect(server.addr);
    let info = server_info(&mut client);
    assert_eq!(
        (&info["max_subscriptions"], &info["heartbeat_seconds"], &info["max_message_bytes"]),
        (&json!(7), &json!(12.0), &json!(1024))
    );
}

#[test]
fn a_hangup_reloads_live_settings_and_reports_the_others() {
    let file = File::new("reload", "max_subscriptions = 7\n");
    let server = Server::with(&["--config", file.path(), "--log-level", "info"]);
    let mut client = Ws::connect(server.addr);
    assert_eq!(server_info(&mut client)["max_subscriptions"], 7);

    file.write("max_subscriptions = 9\nloops = 4\n[log]\nlevel = \"debug\"\n");
    server.signal("HUP");
    eventually("the open connection has the new limit", || {
        server_info(&mut client)["max_subscriptions"] == 9
    });
    eventually("the log says so", || {
        let log = server.log();
        log.contains("reloaded: took effect key=\"max_subscriptions\" value=\"9\"")
            && log.contains("reloaded: takes effect after a restart key=\"loops\" value=\"4\"")
    });
    assert!(!server.log().contains("key=\"log.level\""), "the flag goes before the file: {}", server.log());

    file.write("max_subscriptions = 9\nlops = 4\n");
    server.signal("HUP");
    eventually("the log says what is wrong", || {
        server.log().contains("reload failed, nothing changed: ")
            && server.log().contains("did you mean `loops`?")
    });
    assert_eq!(server_info(&mut client)["max_subscriptions"], 9);
    server.assert_serving();
}

#[test]
fn payloads_keep_to_their_schemas_and_new_schemas_come_with_a_hangup() {
    let dir = std::env::temp_dir().join(format!("fanwire-config-schemas-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary folder");
    let schema = dir.join("task.progress.json");
    let limit = |max: u32| {
        let text = json!({ "required": ["progress"], "properties": { "progress": { "maximum": max } } });
        std::fs::write(&schema, text.to_string()).expect("a file");
    };
    limit(100);
    let name = dir.file_name().and_then(|name| name.to_str()).expect("UTF-8");
    let file = File::new("schemas", &format!("[schemas]\ndir = \"{name}\"\n"));
    let server = Server::with(&["--config", file.path(), "--log-level", "info"]);
    let post = |body: &str| http::post(server.addr, "/publish", "application/json", body.as_bytes());
    let progress = |n: u32| format!("{{\"type\":\"task.progress\",\"payload\":{{\"progress\":{n}}}}}");

    assert_eq!(post(&progress(42)).status, 200);
    let refused = post(&format!("{}\n{}", progress(1), progress(142)));
    let error = json!({ "error": "payload/progress: 142 is greater than the maximum of 100", "line": 2 });
    assert_eq!((refused.status, refused.json()), (400, error));
    assert_eq!(post(r#"{"type":"task.other","payload":{"progress":142}}"#).status, 200);
    let mut client = Ws::connect(server.addr);
    let event = json!({ "event_type": "task.progress", "payload": { "progress": 101 } });
    let answer = client.ask(&json!({ "type": "publish", "message_id": "p", "payload": event }));
    let reported =
        json!({ "code": "schema", "error": "payload/progress: 101 is greater than the maximum of 100" });
    assert_eq!((&answer["type"], &answer["payload"]), (&json!("error"), &reported));
    let faults = server.metrics("fanwire_server_faults_total");
    assert!(faults.contains(&("{kind=\"schema\"}".to_owned(), 2.0)), "{faults:?}");

    limit(200);
    server.signal("HUP");
    eventually("the new schema holds", || post(&progress(142)).status == 200);
    std::fs::write(&schema, "{").expect("a file");
    server.signal("HUP");
    eventually("the log says what is wrong", || server.log().contains("task.progress.json: EOF"));
    assert_eq!((post(&progress(142)).status, post(&progress(201)).status), (200, 400));

    let broken = run(fanwire().args(["serve", "--listen", "127.0.0.1:0", "--config", file.path()]));
    assert_eq!(broken.status.code(), Some(1));
    assert!(err(&broken).contains("task.progress.json: EOF"), "{}", err(&broken));
    std::fs::remove_dir_all(&dir).expect("our own folder");
}

#[test]
fn defaults_are_those_that_autosdlc_and_gathering_need() {
    let output = run(fanwire().args(["check", "--json"]));
    let settings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for (key, value) in [
        // GatheRing's ping interval, AutoSDLC's rate limit window and its cookie.
        ("heartbeat", r#""30s""#),
        ("limits.window", r#""1m""#),
        ("auth.cookie", r#""auth-token""#),
        // All events are delivered in publishing order. An old client can connect and publish unchanged.
        ("bus.shards", "1"),
        ("allowed_origin", "[]"),
        ("schemas.autosdlc", "false"),
    ] {
        let is = &settings[key];
        assert_eq!((&is["value"], &is["from"]), (&json!(value), &json!("default")), "{key}");
    }
}

#[test]
fn the_sum_of_memory_fits_a_machine_and_lists_its_omissions() {
    let sum = |args: &[&str]| {
        let output = run(fanwire().arg("check").args(args));
        assert!(output.status.success(), "{}", err(&output));
        let text = out(&output);
        let line = text.lines().find(|line| line.contains("  in all")).expect("a sum").to_owned();
        let mut words = line.trim_start_matches('#').split_whitespace();
        let size: f64 = words.next().and_then(|word| word.parse().ok()).expect("a number");
        let unit = words.next().expect("a unit").to_owned();
        let bytes = size
            * ["B", "KiB", "MiB", "GiB", "TiB"]
                .iter()
                .position(|known| *known == unit)
                .map_or(0.0, |n| 1024_f64.powi(n as i32));
        (bytes / 1024_f64.powi(3), text)
    };
    let (usual, text) = sum(&[]);
    assert!((1.0..8.0).contains(&usual), "{text}");
    assert!(text.contains("this machine has") && text.contains("Not included: "), "{text}");
    let (small, text) = sum(&["--bus-max-bytes", "64MiB", "--max-memory-bytes", "64MiB"]);
    assert!(small < 0.5, "{text}");
    let (_, text) = sum(&["--max-memory-bytes", "0"]);
    assert!(text.contains("max_memory_bytes is not set: no budget"), "{text}");
}

/// The maximum matching time of an event depends on the limit of a client's subscriptions.
#[test]
fn the_longest_match_of_an_event_is_shown() {
    let checked = |args: &[&str]| out(&run(fanwire().arg("check").args(args)));
    let usual = checked(&[]);
    assert!(usual.contains("one event costs a loop 66 ms for each client"), "{usual}");
    let small = checked(&["--max-subscription-values", "1000"]);
    assert!(small.contains("one event costs a loop 2 ms for each client"), "{small}");
}

#[test]
fn a_line_that_is_no_toml_is_refused_with_the_right_syntax() {
    for (line, want) in [
        ("listen = 127.0.0.1", "a text needs quotes, and expected ADDRESS:PORT"),
        ("listen = 0.0.0.0:443", "a text needs quotes: listen = \"0.0.0.0:443\""),
        ("heartbeat = 30s", "heartbeat = \"30s\""),
    ] {
        let file = File::new("slip", &format!("{line}\n"));
        for command in ["serve", "check"] {
            let output = run(fanwire().args([command, "--config", file.path()]));
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(err(&output).contains(want), "{}", err(&output));
        }
    }
}

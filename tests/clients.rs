//! The server with other people's clients: Node's, Python's, curl, and a browser.
//!
//! The clients are the scripts in `tests/clients/`; `cargo xtask setup` installs their dependencies.

mod support;

use serde_json::{Value, json};
use support::script::{Script, Stage, tool};
use support::{Server, numbered};

/// Runs a script against a server with these options. Exactly this many checks must pass.
fn script(name: &str, options: &[&str], checks: usize) {
    let mut stage = Stage::new(options);
    Script::start(name, &[&stage.url()]).finish(&mut stage, checks);
}

#[test]
fn node_ws_speaks_the_native_protocol() {
    script("ws_native.mjs", &[], 19);
}

#[test]
fn node_ws_meets_the_letter_of_websocket() {
    script("ws_frames.mjs", &[], 12);
}

#[test]
fn node_ws_that_stops_reading_gets_an_exact_gap() {
    script("ws_lag.mjs", &[], 3);
}

#[test]
fn node_eventsource_streams_and_resumes() {
    script("sse_eventsource.mjs", &[], 7);
}

#[test]
fn two_hundred_node_clients_see_one_order() {
    script("fanout.mjs", &["--loops", "2"], 2);
}

#[test]
fn chromium_streams_resumes_and_crosses_origins() {
    script("browser_streams.mjs", &[], 4);
}

#[test]
fn python_websockets_and_aiohttp_speak_the_native_protocol() {
    script("ws_python.py", &[], 9);
}

#[test]
fn python_httpx_sse_streams_and_resumes() {
    script("sse_python.py", &[], 6);
}

#[test]
fn agentos_clients_change_nothing() {
    script("dialect_agentos.mjs", &["--dialect", "agentos"], 6);
}

#[test]
fn hives_dashboard_changes_nothing() {
    script("dialect_hive.mjs", &["--dialect", "hive"], 4);
}

#[test]
fn hives_four_programs_change_nothing() {
    script("dialect_hive.py", &["--dialect", "hive"], 4);
}

#[test]
fn autosdlcs_javascript_sdk_changes_nothing() {
    script("dialect_autosdlc.mjs", &["--dialect", "autosdlc"], 5);
}

#[test]
fn autosdlcs_python_sdk_changes_nothing() {
    script("dialect_autosdlc.py", &["--dialect", "autosdlc"], 3);
}

#[test]
fn gatherings_browser_client_and_hook_change_nothing() {
    script("dialect_gathering.mjs", &["--dialect", "gathering"], 4);
}

#[test]
fn gatherings_python_client_changes_nothing() {
    script("dialect_gathering.py", &["--dialect", "gathering"], 2);
}

#[test]
fn fccs_hook_changes_nothing() {
    script("dialect_fcc.mjs", &["--dialect", "fcc"], 3);
}

#[test]
fn the_live_page_shows_filters_and_comes_back() {
    script("browser_page.mjs", &[], 20);
}

#[test]
fn the_operators_view_shows_the_servers_state() {
    script("browser_operator.mjs", &[], 18);
}

#[test]
fn the_page_shows_a_run_from_its_start_to_its_end() {
    let rules = [
        "--bus-capacity",
        "64",
        "--retain",
        "by=stream; end=run.finished; match=stream=run-*",
        "--retain",
        "by=stream; end=run.finished; events=10; match=stream=short-*",
    ];
    script("browser_run.mjs", &rules, 10);
}

#[test]
fn the_page_holds_still_for_a_reader_at_any_rate() {
    script("browser_reading.mjs", &[], 15);
}

#[test]
fn nothing_on_the_page_is_cut_broken_or_hard_to_read() {
    script("browser_looks.mjs", &[], 24);
}

/// Publishes with curl to this URL with more options.
fn curl(server: &Server, options: &[&str]) -> String {
    let mut curl = tool("curl");
    curl.args(["-sS", "--max-time", "20"]).args(options);
    let output = curl.arg(format!("http://{}/publish", server.addr)).output().expect("curl runs");
    assert!(output.status.success(), "curl {options:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("an answer is UTF-8")
}

#[test]
fn every_client_sees_curls_events_in_one_order() {
    const EVENTS: usize = 120;
    let stage = Stage::new(&[]);
    let (url, count) = (stage.url(), EVENTS.to_string());
    let mut watchers: Vec<Script> = [
        ("watch.mjs", "ws"),
        ("watch.mjs", "sse"),
        ("watch.py", "websockets"),
        ("watch.py", "aiohttp"),
        ("watch.py", "httpx"),
        ("browser_watch.mjs", "ws"),
        ("browser_watch.mjs", "sse"),
    ]
    .map(|(name, kind)| Script::start(name, &[&url, kind, &count]))
    .into();
    for watcher in &mut watchers {
        assert_eq!(watcher.line().as_deref(), Some("ready"));
    }
    for n in 0..EVENTS / 4 {
        // One by one, as an array, and as lines.
        let first = 4 * n;
        assert!(curl(&stage.server, &["-d", &numbered(first)]).contains("\"accepted\":1"));
        curl(&stage.server, &["-d", &format!("[{},{}]", numbered(first + 1), numbered(first + 2))]);
        curl(
            &stage.server,
            &["-H", "Content-Type: application/x-ndjson", "--data-binary", &numbered(first + 3)],
        );
    }
    let seen: Vec<Vec<String>> = watchers
        .iter_mut()
        .map(|watcher| (0..EVENTS).map(|_| watcher.line().expect("it sees all")).collect())
        .collect();
    // The clients disconnect by themselves, and clean up.
    for watcher in &mut watchers {
        assert_eq!(watcher.line(), None);
    }
    for (n, line) in seen[0].iter().enumerate() {
        assert!(line.starts_with("saw ") && line.ends_with(&json!({ "n": n }).to_string()), "{line}");
    }
    for other in &seen[1..] {
        assert_eq!(other, &seen[0]);
    }
}

#[test]
fn curl_publishes_in_every_way_it_knows() {
    let stage = Stage::new(&[]);
    let server = &stage.server;
    let accepted = |options: &[&str]| -> Value {
        let answer = curl(server, options);
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{options:?}: {answer}"));
        answer["accepted"].clone()
    };
    let lines: String = (0..20_000).map(numbered).collect();
    let file = std::env::temp_dir().join(format!("fanwire-curl-{}.ndjson", std::process::id()));
    std::fs::write(&file, &lines).expect("a temporary file");
    let (data, ndjson) = (format!("@{}", file.display()), "Content-Type: application/x-ndjson");

    // No options but -d.
    assert_eq!(accepted(&["-d", r#"{"type":"hello","payload":{"from":"curl"}}"#]), 1);
    assert_eq!(accepted(&["-d", r#"[{"type":"a"},{"type":"b"}]"#]), 2);
    assert_eq!(accepted(&["--json", r#"{"type":"hello"}"#]), 1);
    assert_eq!(accepted(&["-H", ndjson, "--data-binary", &data]), 20_000);
    // curl sends the body after the server's 100 Continue, and without it.
    assert_eq!(accepted(&["-H", ndjson, "-H", "Expect: 100-continue", "--data-binary", &data]), 20_000);
    assert_eq!(accepted(&["-H", ndjson, "-H", "Expect:", "--data-binary", &data]), 20_000);
    assert_eq!(accepted(&["-H", ndjson, "-H", "Transfer-Encoding: chunked", "--data-binary", &data]), 20_000);
    assert_eq!(accepted(&["-X", "POST", "-H", ndjson, "-T", &data[1..]]), 20_000);
    // HTTP versions older and newer than the server's.
    assert_eq!(accepted(&["--http1.0", "-d", r#"{"type":"old"}"#]), 1);
    assert_eq!(accepted(&["--http2", "-d", r#"{"type":"new"}"#]), 1);
    assert_eq!(accepted(&["--compressed", "-d", r#"{"type":"small"}"#]), 1);
    let _ = std::fs::remove_file(&file);

    // The 100 precedes the answer.
    let answer = curl(server, &["-i", "-H", "Expect: 100-continue", "-d", r#"{"type":"patient"}"#]);
    assert!(answer.starts_with("HTTP/1.1 100") && answer.contains("HTTP/1.1 200"), "{answer}");

    // Many requests on one connection.
    let url = format!("http://{}/publish", server.addr);
    let counts = curl(
        server,
        &[
            "-d",
            r#"{"type":"x"}"#,
            "-o",
            "/dev/null",
            "-w",
            "%{num_connects} ",
            &url,
            "-o",
            "/dev/null",
            &url,
            "-o",
            "/dev/null",
        ],
    );
    assert_eq!(counts.split_whitespace().collect::<Vec<_>>(), ["1", "0", "0"]);

    // An error names its line.
    let fault = curl(
        server,
        &["-w", "%{http_code}", "-H", ndjson, "--data-binary", "{\"type\":\"a\"}\n{\"type\":}\n"],
    );
    assert!(fault.ends_with("400") && fault.contains("\"line\":2"), "{fault}");
    assert_eq!(curl(server, &["-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", "-d", "{}"]), "405");
    server.assert_serving();
}

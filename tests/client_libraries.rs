//! The client libraries in `clients/` against this build's server. Each of their test files is a test here.
//!
//! `cargo xtask setup` installs their dependencies.

mod support;

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use fanwire::{Event, Filter, Pattern};
use serde_json::value::RawValue;
use support::script::{chromium, in_project, is_installed, missing, tool};

/// Time limit of a test file.
const LIMIT: Duration = Duration::from_secs(400);

/// Runs a command, which must succeed, and returns its output of any size.
fn succeed(name: &str, command: &mut Command) -> String {
    let path = in_project("target/tmp").join(format!("{name}-{}.log", std::process::id()));
    std::fs::create_dir_all(in_project("target/tmp")).expect("a place for logs");
    let log = File::create(&path).expect("a log");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor"))
        .stderr(log)
        .spawn()
        .expect("it starts");
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            break status;
        }
        if Instant::now() >= end {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let output = std::fs::read_to_string(&path).unwrap_or_default();
    let _ = std::fs::remove_file(&path);
    assert!(status.success(), "{name}: {status}\n{output}");
    output
}

/// Runs a test file of the JavaScript client. Exactly this many tests must pass.
fn node_test(file: &str, tests: usize) {
    static BUILT: OnceLock<()> = OnceLock::new();
    let js = in_project("clients/js");
    let modules = "clients/js/node_modules";
    if !is_installed("clients/js/package-lock.json", &format!("{modules}/.installed-lock.json")) {
        missing(modules);
    }
    BUILT.get_or_init(|| drop(succeed("build", tool("node").arg(js.join("build.mjs")))));
    let output = succeed(
        file,
        tool("node")
            .args(["--test", "--test-reporter=tap"])
            .arg(js.join("test").join(file))
            .env("FANWIRE_BIN", env!("CARGO_BIN_EXE_fanwire"))
            .env("FANWIRE_CHROMIUM", chromium()),
    );
    for wanted in [format!("# pass {tests}"), "# fail 0".into(), "# skipped 0".into()] {
        assert!(output.lines().any(|line| line == wanted), "{file}: no {wanted:?} in\n{output}");
    }
}

/// Runs a test file of the Python client. Exactly this many tests must pass.
fn python_test(file: &str, tests: usize) {
    if !is_installed("tests/clients/requirements.txt", "target/venv/requirements.txt") {
        missing("target/venv");
    }
    let output = succeed(
        file,
        Command::new(in_project("target/venv/bin/python"))
            .args(["-W", "error"])
            .arg(in_project("clients/python/tests").join(file))
            .env("FANWIRE_BIN", env!("CARGO_BIN_EXE_fanwire"))
            .env("PYTHONDONTWRITEBYTECODE", "1"),
    );
    let ran = format!("Ran {tests} test");
    assert!(output.contains(&ran) && output.ends_with("\nOK\n"), "{file}: no {ran:?} in\n{output}");
}

#[test]
fn patterns_mean_the_same_in_every_language() {
    let cases = std::fs::read_to_string(in_project("clients/cases/patterns.json")).expect("the cases");
    let cases: Vec<(String, String, bool)> = serde_json::from_str(&cases).expect("rows of three");
    for (pattern, value, want) in &cases {
        assert_eq!(Pattern::new(pattern.as_str()).matches(value), *want, "{pattern} on {value:?}");
    }
}

#[test]
fn texts_of_filters_mean_the_same_in_every_language() {
    #[derive(serde::Deserialize)]
    struct Cases<'a> {
        #[serde(borrow)]
        events: std::collections::BTreeMap<String, &'a RawValue>,
        cases: Vec<(String, String, bool)>,
    }
    let cases = std::fs::read_to_string(in_project("clients/cases/filters.json")).expect("the cases");
    let Cases { events, cases } = serde_json::from_str(&cases).expect("events, and rows of three");
    for (text, event, want) in &cases {
        let filter: Filter = text.parse().expect(text);
        let event = Event::from_json(events[event].get()).expect("an event");
        assert_eq!(filter.matches(&event), *want, "{text} on {event:?}");
    }
}

#[test]
fn the_guides_javascript_methods_work() {
    node_test("client.test.mjs", 25);
}

#[test]
fn the_guides_javascript_works() {
    node_test("docs.test.mjs", 2);
}

#[test]
fn javascript_changes_its_lists() {
    node_test("update.test.mjs", 5);
}

#[test]
fn python_changes_its_lists() {
    python_test("test_update.py", 4);
}

#[test]
fn javascript_misses_nothing_on_a_bad_network() {
    node_test("cuts.test.mjs", 10);
}

#[test]
fn javascript_obeys_the_servers_reconnect_delays() {
    node_test("hints.test.mjs", 11);
}

#[test]
fn javascript_survives_faulty_servers_clocks_and_callers() {
    node_test("faults.test.mjs", 14);
}

#[test]
fn javascript_keeps_its_promises_under_a_referee() {
    node_test("referee.test.mjs", 102);
}

#[test]
fn javascript_follows_runs_and_walks_the_past() {
    node_test("runs.test.mjs", 58);
}

#[test]
fn javascript_signs_in_and_outlives_its_tokens() {
    node_test("auth.test.mjs", 8);
}

#[test]
fn javascript_reads_streams_in_any_pieces() {
    node_test("sse.test.mjs", 3);
}

#[test]
fn javascript_is_small_and_whole_as_a_package() {
    node_test("package.test.mjs", 7);
}

#[test]
fn javascript_and_its_hooks_work_in_chromium() {
    node_test("browser.test.mjs", 8);
}

#[test]
fn the_guides_python_methods_work() {
    python_test("test_client.py", 14);
}

#[test]
fn python_misses_nothing_on_a_bad_network() {
    python_test("test_cuts.py", 6);
}

#[test]
fn python_obeys_the_servers_reconnect_delays() {
    python_test("test_hints.py", 5);
}

#[test]
fn python_survives_faulty_servers_and_callers() {
    python_test("test_faults.py", 8);
}

#[test]
fn python_keeps_its_promises_under_a_referee() {
    python_test("test_referee.py", 4);
}

#[test]
fn python_follows_runs_and_walks_the_past() {
    python_test("test_runs.py", 6);
}

#[test]
fn python_is_typed_and_its_examples_run() {
    python_test("test_package.py", 6);
}

#[test]
fn python_reads_streams_in_any_pieces() {
    python_test("test_sse.py", 3);
}

#[test]
fn python_signs_in_and_outlives_its_tokens() {
    python_test("test_auth.py", 4);
}

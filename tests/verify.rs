//! `fanwire verify`: it passes a good server, and detects each fault planted between server and readers.

mod support;

use serde_json::Value;
use support::faulty::{Liar, Lie, On};
use support::{Server, eventually, fanwire, run};

/// Runs a short check. Returns its exit code and its report.
fn verify(url: &str, more: &[&str]) -> (Option<i32>, Value) {
    let mut command = fanwire();
    command
        .args(["verify", url, "--json", "--seconds", "3", "--lanes", "2", "--ws", "2", "--sse", "2"])
        .args(more);
    let output = run(&mut command);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr))
    });
    (output.status.code(), report)
}

fn is_kept((code, report): (Option<i32>, Value)) -> Value {
    assert_eq!((code, &report["kept"]), (Some(0), &Value::Bool(true)), "{report:#}");
    assert_eq!(report["faults"], serde_json::json!([]));
    report
}

#[test]
fn a_good_server_passes_and_a_slow_reader_gets_its_gap() {
    let server = Server::start();
    let report = is_kept(verify(&format!("http://{}", server.addr), &[]));
    let readers = report["readers"].as_array().expect("a list");
    assert_eq!(readers.len(), 5);
    for reader in readers {
        let number = |name: &str| reader[name].as_u64().expect("a number");
        if reader["reader"] == "slow" {
            assert!(number("gaps") > 0 && number("missed") > 0, "{report:#}");
        } else {
            assert!(number("cuts") > 0 && number("connections") > number("cuts"), "{report:#}");
            assert_eq!((number("lost"), number("gaps")), (0, 0), "{report:#}");
            assert!(number("delivered") > 10, "{report:#}");
        }
    }
    assert_eq!((&report["unsure"], &report["throttled"]), (&0.into(), &0.into()));
}

#[test]
fn several_shards_and_loops_keep_it_too() {
    let server = Server::with(&["--bus-shards", "4", "--loops", "2"]);
    let report = is_kept(verify(&format!("http://{}", server.addr), &["--slow", "0"]));
    // With several shards, too, a resume leaves no gap.
    assert!(
        report["readers"].as_array().expect("a list").iter().all(|reader| reader["gaps"] == 0),
        "{report:#}"
    );
}

#[test]
fn a_planted_fault_is_caught_and_reported_with_its_event() {
    let server = Server::start();
    for on in [On::WebSocket, On::Sse] {
        for (lie, kind, words) in [
            (Lie::Drop, "lost", "#3 never arrived, between #2 ("),
            (Lie::Double, "twice", "#3 ("),
            (Lie::Swap, "disorder", "#3 ("),
            (Lie::Change, "changed", " carries "),
        ] {
            let liar = Liar::before(server.addr, lie, on);
            let (code, report) = verify(&format!("http://{}", liar.addr), &["--slow", "0"]);
            assert!(liar.has_lied(), "{on:?} {lie:?}: nothing was planted: {report:#}");
            assert_eq!(code, Some(1), "{on:?} {lie:?}: {report:#}");
            let faults = report["faults"].as_array().expect("a list");
            let fault = &faults[0];
            let name = if on == On::Sse { "sse-" } else { "ws-" };
            assert!(fault["reader"].as_str().expect("a name").starts_with(name), "{report:#}");
            assert_eq!(fault["kind"], kind, "{report:#}");
            assert!(fault["text"].as_str().expect("words").contains(words), "{report:#}");
            // An event that arrived changed also counts as missing.
            let others: Vec<_> = faults[1..].iter().map(|fault| &fault["kind"]).collect();
            assert_eq!(others, if lie == Lie::Change { vec!["lost"] } else { vec![] }, "{report:#}");
        }
    }
}

#[test]
fn watch_lists_that_change_are_accounted_for_event_by_event() {
    let server = Server::with(&["--bus-shards", "2", "--loops", "2"]);
    let args = ["--slow", "0", "--watch", "5", "--topics", "20", "--rate", "400"];
    let report = is_kept(verify(&format!("http://{}", server.addr), &args));
    let mut cut = [0, 0];
    for reader in report["readers"].as_array().expect("a list") {
        let number = |name: &str| reader[name].as_u64().expect("a number");
        assert_eq!((number("lost"), number("gaps")), (0, 0), "{report:#}");
        assert!(number("changes") > 0, "{report:#}");
        assert!(number("delivered") > 10 && number("delivered") < 1000, "{report:#}");
        cut[usize::from(reader["over"] == "sse")] += number("cuts");
    }
    // How often one connection is cut in three seconds is left to chance.
    assert!(cut.iter().all(|cuts| *cuts > 0), "{report:#}");
}

#[test]
fn merged_events_are_accounted_for_one_by_one() {
    let server = Server::start();
    let url = format!("http://{}", server.addr);
    for more in [&["--slow", "4"][..], &["--slow", "0", "--watch", "3", "--topics", "8"]] {
        let report = is_kept(verify(&url, &[&["--on-lag", "concat", "--rate", "400"], more].concat()));
        assert!(report["merged"].as_u64() > Some(0), "{report:#}");
        let readers = report["readers"].as_array().expect("a list");
        assert!(readers.iter().all(|reader| reader["gaps"] == 0), "{report:#}");
    }
    let books = server.balanced_ledger();
    assert!(books["merged"].as_u64() > Some(0), "{books}");
    // Events that the loop has not read yet are in no ledger, and may be merged after this one was written.
    eventually("the metric and the ledger have one number", || {
        let merged = server.balanced_ledger()["merged"].as_f64();
        server.metric("fanwire_server_events_merged_total") == merged
    });
    // A merged event counts once as delivered to a socket.
    let slow = is_kept(verify(&url, &["--on-lag", "catch_up", "--slow", "4"]));
    assert_eq!(slow["merged"], 0, "{slow:#}");
    assert!(slow["readers"].as_array().expect("a list").iter().all(|reader| reader["gaps"] == 0), "{slow:#}");
}

#[test]
fn a_planted_fault_in_a_watch_list_is_caught() {
    let server = Server::start();
    for (lie, on, kind) in [
        (Lie::Drop, On::WebSocket, "lost"),
        (Lie::Drop, On::Sse, "lost"),
        (Lie::Double, On::WebSocket, "twice"),
        (Lie::Swap, On::WebSocket, "disorder"),
    ] {
        let liar = Liar::before(server.addr, lie, on);
        let args = ["--slow", "0", "--watch", "5", "--topics", "10", "--rate", "200"];
        let (code, report) = verify(&format!("http://{}", liar.addr), &args);
        assert!(liar.has_lied(), "{on:?} {lie:?}: nothing was planted: {report:#}");
        assert_eq!(code, Some(1), "{on:?} {lie:?}: {report:#}");
        let faults = report["faults"].as_array().expect("a list");
        assert_eq!((faults.len(), &faults[0]["kind"]), (1, &kind.into()), "{on:?} {lie:?}: {report:#}");
    }
}

#[test]
fn people_read_the_verdict_line_by_line() {
    let server = Server::start();
    let liar = Liar::before(server.addr, Lie::Drop, On::Sse);
    let url = format!("http://{}", liar.addr);
    let output = run(fanwire().args(["verify", &url, "--seconds", "2", "--slow", "0", "--seed", "7"]));
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{text}{error}");
    assert!(
        text.contains("seed 7") && text.contains("nothing is delivered twice                  kept"),
        "{text}"
    );
    assert!(text.contains("broken 1 times") && text.contains("lost     sse-"), "{text}");
    assert!(error.contains("1 fault"), "{error}");
}

#[test]
fn a_server_that_cannot_be_reached_or_refuses_all_gives_no_verdict() {
    let output = run(fanwire().args(["verify", "ftp://x"]));
    assert_eq!(output.status.code(), Some(2));

    let server = Server::with(&["--auth-jwt-hs256-secret", "a secret of thirty-two bytes, no less"]);
    let url = format!("http://{}", server.addr);
    let output = run(fanwire().args(["verify", &url, "--seconds", "1"]));
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error.contains("the server refuses the readers") && error.contains("fanwire.verify.**"),
        "{error}"
    );
    assert!(output.stdout.is_empty());
}

//! The examples do what their heads say.

mod support;

#[path = "../examples/axum_beside.rs"]
#[allow(dead_code, reason = "`main` is for running it by itself")]
mod axum_beside;
#[path = "../examples/ticker.rs"]
#[allow(dead_code, reason = "as above")]
mod ticker;

use std::path::Path;

use serde_json::json;
use support::script::{Script, in_project};
use support::sse::Sse;
use support::wire::Wire;
use support::ws::Ws;
use support::{Server, fanwire, http, run};

#[test]
fn axum_and_fanwire_share_a_port() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (addr, _server) = runtime.block_on(axum_beside::start("127.0.0.1:0")).expect("it starts");
    assert!(http::get(addr, "/").text().contains("<h1>Agents</h1>"));
    let mut socket = Ws::over(Wire::connect(addr), "/events/ws", "");
    assert_eq!(
        socket.ask(&json!({"type": "subscribe", "payload": {"event_types": ["agent.*"]}}))["type"],
        "ack"
    );
    assert_eq!(http::post(addr, "/agents/ann/ask", "text/plain", b"").status, 202);
    assert_eq!(socket.event()["entity"], json!({"kind": "agent", "id": "ann"}));
    // Another answer of fanwire, and one of the app itself.
    assert_eq!(http::get(addr, "/events/healthz").json()["status"], "ok");
    assert_eq!(http::get(addr, "/healthz").status, 404);
}

#[test]
fn the_agent_dashboard_works_in_a_browser() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (addr, _server) = runtime.block_on(axum_beside::start("127.0.0.1:0")).expect("it starts");
    let mut script = Script::start("browser_dashboard.mjs", &[&format!("http://{addr}")]);
    let mut said = Vec::new();
    while let Some(line) = script.line() {
        said.push(line);
    }
    assert_eq!(said.last().map(String::as_str), Some("passed 2"), "{said:?}");
}

#[test]
fn the_tickers_newcomers_get_the_latest_of_each_symbol_first() {
    let (server, mut market) = ticker::start("127.0.0.1:0").expect("it starts");
    for _ in 0..1000 {
        market.quote().expect("a quote");
    }
    let mut screen = Sse::open(server.local_addr(), "?type=quote&snapshot=1&on_lag=conflate");
    let mut symbols: Vec<String> = (0..8)
        .map(|_| screen.event().json()["entity"]["id"].as_str().expect("a symbol").to_owned())
        .collect();
    symbols.sort();
    symbols.dedup();
    assert_eq!(symbols.len(), 8, "{symbols:?}");
    market.quote().expect("a quote");
    assert!(screen.event().json()["payload"]["price"].is_f64());
}

#[test]
fn a_shell_pipes_what_a_command_prints() {
    let server = Server::start();
    let url = format!("http://{}", server.addr);
    let programs = Path::new(env!("CARGO_BIN_EXE_fanwire")).parent().expect("a folder").display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let mut pipe = std::process::Command::new("sh");
    pipe.arg(in_project("examples/pipe.sh")).args(["build.log", "printf", r#"one\n"two"\\\ttab\n"#]);
    let output = run(pipe.env("PATH", path).env("FANWIRE_URL", &url));
    assert!(output.status.success(), "{output:?}");
    let shown = run(fanwire().args([
        "tail",
        "--url",
        &url,
        "--json",
        "--history",
        "2",
        "--count",
        "2",
        "--type",
        "build.log",
    ]));
    let lines: Vec<serde_json::Value> = (String::from_utf8(shown.stdout).expect("text").lines())
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines[0]["payload"], json!({"line": "one"}));
    assert_eq!(lines[1]["payload"], json!({"line": "\"two\"\\\ttab"}));
    assert_eq!(lines[0]["correlation_id"], lines[1]["correlation_id"]);
}

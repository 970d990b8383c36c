//! A crate outside of the workspace with only the dependencies and the code of docs/embedding.md compiles, and each
//! piece of code does what the page says: clients send requests to the pieces that serve, and the others have their own
//! assertions.

mod support;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::json;
use support::authority::Authority;
use support::script::in_project;
use support::service::free_port;
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::Ws;
use support::{eventually, http, read_until};

const CRATE: &str = "tests/outside_crate";

/// Compiles the crate once, with the versions of our lock file, and returns the program's path. It shares compiled
/// dependencies with this build if their features are equal.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let (home, target) = (in_project(CRATE), Path::new(env!("CARGO_TARGET_TMPDIR")).join(".."));
        std::fs::copy(in_project("Cargo.lock"), home.join("Cargo.lock")).expect("a lock file");
        let mut build = Command::new("timeout");
        build.args(["1200", env!("CARGO"), "build", "--offline", "--target-dir"]).arg(&target);
        let output = build.current_dir(&home).output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target.join("debug/outside-crate")
    })
}

/// A running piece of a page. It is killed on drop.
struct Piece(Child);

impl Drop for Piece {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the piece that contains this text and serves, and waits until its port is open.
fn serve(text: &str, folder: &Path) -> (Piece, SocketAddr) {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut command = Command::new(program());
    command
        .arg(text)
        .env("LISTEN", addr.to_string())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut piece = Piece(command.spawn().expect("it starts"));
    eventually(&format!("{text} listens"), || {
        assert_eq!(piece.0.try_wait().expect("our child"), None, "{text} ended");
        TcpStream::connect(addr).is_ok()
    });
    (piece, addr)
}

/// Checks that a WebSocket and an event stream at these paths receive what a WebSocket publishes.
fn check_streams(addr: SocketAddr, websocket: &str, events: &str) {
    let mut ws = Ws::over(Wire::connect(addr), websocket, "");
    assert_eq!(ws.ask(&json!({"type": "subscribe", "payload": {"event_types": ["a"]}}))["type"], "ack");
    let mut sse = Sse::at(addr, &format!("{events}?type=a"), "");
    // The program may write the head. The stream begins with what the server writes.
    assert!(sse.block(deadline()).expect("the server's first lines").retry.is_some());
    ws.send(&json!({"type": "publish", "payload": {"type": "a", "payload": 7}}));
    let event = std::iter::repeat_with(|| ws.message()).find(|message| message["type"] == "event");
    assert_eq!(event.expect("an event")["payload"]["payload"], 7);
    assert_eq!(sse.event().json()["payload"], 7);
}

#[test]
fn axum_serves_it_in_five_lines() {
    let (_piece, addr) = serve("axum::serve(", &std::env::temp_dir());
    check_streams(addr, "/live", "/live");
}

#[test]
fn plain_hyper_serves_it() {
    let (_piece, addr) = serve("http1::Builder", &std::env::temp_dir());
    check_streams(addr, "/live", "/live");
}

/// This is also the server without a listener: the program's socket is the only one.
#[test]
fn a_socket_that_the_program_upgraded_is_adopted() {
    let (_piece, addr) = serve(".acceptor().check(", &std::env::temp_dir());
    check_streams(addr, "/ws", "/sse");
    assert_eq!(http::get(addr, "/nowhere").status, 404);
}

#[test]
fn tls_is_ended_by_axum_server() {
    let authority = Authority::new("outside");
    let (_piece, addr) = serve("axum_server::bind_rustls", &authority.dir);
    let mut sse = authority.connect_http1(addr);
    sse.write_all(b"GET /live?type=a HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is open");
    let mut all = String::new();
    read_until(&mut sse, &mut all, "retry:");
    let (mut ws, _) =
        tungstenite::client("wss://localhost/live", authority.connect_http1(addr)).expect("a WebSocket");
    ws.send(r#"{"type":"publish","payload":{"type":"a","payload":7}}"#.into()).expect("it is open");
    assert!(ws.read().expect("an answer").to_string().contains("\"ack\""));
    read_until(&mut sse, &mut all, "event: a");
}

/// Runs all pieces that end by themselves: buses, handlers, values, ends, stages, latency, and both sides of the diff
/// from tokio's broadcast.
#[test]
fn the_other_pieces_run_to_their_end() {
    let mut command = Command::new("timeout");
    let output = command.arg("120").arg(program()).stdin(Stdio::null()).output().expect("it runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "try_publish(4).is_err()",
        "subscribe_after(",
        "Bus::of::<Quote>()",
        "Select::new()",
        "recv_async()",
        "WaitStrategy::SpinThenPark",
        "broadcast::channel(1024)",
        "quotes.close();",
    ] {
        assert!(printed.contains(part), "no piece has {part}");
    }
}

/// The crate's dependency line is one of the page's lines.
#[test]
fn the_crates_dependencies_are_those_of_the_page() {
    let page = std::fs::read_to_string(in_project("docs/embedding.md")).expect("the page");
    let manifest = std::fs::read_to_string(in_project(CRATE).join("Cargo.toml")).expect("a manifest");
    let line = manifest.lines().find(|line| line.starts_with("fanwire = ")).expect("a line");
    assert!(page.contains(&line.replace("../..", "../fanwire")), "{line}");
}

//! Handlers of other protocols' messages in an embedded server: slow handlers, failing handlers, and the clients that
//! wait for them.

mod support;

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanwire::bridge::Bridge;
use fanwire::{Bus, Server, ServerConfig, ServerHandle};
use serde_json::json;
use support::http::{self, Response, post_request, read_response};
use support::wire::{Wire, deadline};
use support::ws::Ws;

/// A server with a bridge. Its route `slow` holds each message until the test releases one.
struct Slow {
    server: ServerHandle,
    addr: SocketAddr,
    bridge: Bridge,
    begun: Receiver<()>,
    release: Sender<()>,
}

fn slow(change: impl FnOnce(&mut ServerConfig)) -> Slow {
    let bus = Bus::new();
    let bridge = Bridge::create_default(&bus);
    let (begin, begun) = channel();
    let (release, held) = channel::<()>();
    let held = Arc::new(Mutex::new(held));
    bridge.register_route("slow", move |message| {
        let _ = begin.send(());
        let _ = held.lock().expect("no panic holds it").recv();
        Ok(message.json().to_owned())
    });
    let mut config = ServerConfig::default();
    change(&mut config);
    let server = Server::builder(&bus).listen("127.0.0.1:0").bridge(&bridge).config(config).spawn();
    let server = server.expect("a free port");
    Slow { addr: server.local_addr(), server, bridge, begun, release }
}

impl Slow {
    fn post(&self, protocol: &str, body: &str) -> Response {
        http::exchange(self.addr, &request(protocol, body))
    }

    /// Sends a message to the slow route, and waits until its handler runs.
    fn ask(&self, body: &str) -> Wire {
        let mut wire = Wire::connect(self.addr);
        wire.send(&request("slow", body));
        self.begun.recv_timeout(support::PATIENCE).expect("the handler runs");
        wire
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.server.drain(Duration::from_millis(1));
    }
}

fn request(protocol: &str, body: &str) -> Vec<u8> {
    post_request(&format!("/bridge/{protocol}"), "application/json", body.as_bytes())
}

fn answer(wire: &mut Wire) -> Response {
    read_response(wire, deadline()).expect("an answer")
}

#[test]
fn a_slow_handler_delays_no_other() {
    let slow = slow(|_| {});
    let mut client = Ws::subscribed(slow.addr, json!({ "event_types": ["protocol.**"] }));
    let mut waits = slow.ask(r#"{"n":1}"#);
    // Later messages of the same connection wait for their turn.
    waits.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(client.event()["event_type"], "protocol.slow.received");
    assert_eq!(slow.post("a2a", r#"{"task_id":"t"}"#).json()["message_id"], "t");
    assert_eq!(client.event()["event_type"], "protocol.a2a.task.received");
    assert_eq!(http::get(slow.addr, "/healthz").status, 200);
    assert!(waits.is_silent_for(Duration::from_millis(50)));
    slow.release.send(()).expect("the handler waits");
    let first = answer(&mut waits);
    assert_eq!((first.status, first.text()), (200, r#"{"n":1}"#));
    assert_eq!(answer(&mut waits).json(), json!({ "status": "ok" }));
}

#[test]
fn a_client_that_waits_too_long_gets_an_error_and_may_continue() {
    let slow = slow(|config| config.bridge.answer_timeout = Duration::from_millis(200));
    let mut wire = slow.ask("{}");
    let late = answer(&mut wire);
    assert_eq!(late.status, 504, "{late:?}");
    assert!(late.json()["error"].as_str().is_some_and(|error| error.contains("in time")), "{late:?}");
    // The handler answers after the client has got a timeout.
    slow.release.send(()).expect("the handler waits");
    wire.send(&request("a2a", r#"{"task_id":"next"}"#));
    assert_eq!(answer(&mut wire).json()["message_id"], "next");
}

#[test]
fn too_many_messages_for_a_handler_are_refused_at_once() {
    let slow = slow(|config| (config.bridge.threads, config.bridge.max_waiting) = (1, 1));
    let mut first = slow.ask(r#"{"n":1}"#);
    let mut second = Wire::connect(slow.addr);
    second.send(&request("slow", r#"{"n":2}"#));
    // Another message may take the free place before the second one does.
    let refused = loop {
        let mut third = Wire::connect(slow.addr);
        third.send(&request("slow", r#"{"n":3}"#));
        if !third.is_silent_for(Duration::from_millis(50)) {
            break answer(&mut third);
        }
    };
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused:?}");
    assert_eq!(slow.post("mcp", "{}").status, 200, "another protocol has its own");
    (0..2).for_each(|_| slow.release.send(()).expect("the handler waits"));
    assert_eq!(answer(&mut first).text(), r#"{"n":1}"#);
}

#[test]
fn a_handler_that_panics_or_fails_hurts_its_own_message_only() {
    let slow = slow(|_| {});
    slow.bridge.register_route("broken", |message| {
        if message.text("how").as_deref() == Some("panic") {
            panic!("as requested")
        } else {
            Err("no".into())
        }
    });
    for (how, error) in [("panic", "as requested"), ("fail", "no"), ("panic", "as requested")] {
        let answer = slow.post("broken", &format!(r#"{{"how":"{how}"}}"#));
        assert_eq!((answer.status, answer.json()), (500, json!({ "status": "error", "error": error })));
    }
    assert_eq!(slow.post("a2a", "{}").status, 200);
}

#[test]
fn a_client_that_leaves_before_the_answer_leaves_no_state() {
    let slow = slow(|_| {});
    let open = || {
        let stats = http::get(slow.addr, "/api/stats").json();
        stats["connections"]["http"].as_u64().expect("a count")
    };
    let wire = slow.ask("{}");
    assert_eq!(open(), 2, "it waits");
    drop(wire);
    slow.release.send(()).expect("the handler waits");
    support::eventually("the connection is gone", || open() == 1);
}

#[cfg(feature = "schema")]
#[test]
fn messages_that_violate_a_schema_reach_no_handler() {
    let dir = std::env::temp_dir().join(format!("fanwire-bridge-schemas-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let schema = json!({ "properties": { "message": { "required": ["task_id"] } } });
    std::fs::write(dir.join("protocol.a2a.task.received.json"), schema.to_string()).expect("a file");
    let slow = slow(|config| config.schemas.dir = Some(dir.clone()));
    let mut client = Ws::subscribed(slow.addr, json!({}));
    let refused = slow.post("a2a", "{}");
    assert_eq!(refused.status, 400, "{refused:?}");
    let error = refused.json()["error"].as_str().expect("a text").to_owned();
    assert!(error.starts_with("payload/message: ") && error.contains("task_id"), "{error}");
    assert_eq!(client.event()["event_type"], "protocol.bridge.error");
    assert_eq!(slow.post("a2a", r#"{"task_id":"t"}"#).status, 200);
    assert_eq!(client.event()["event_type"], "protocol.a2a.task.received");
    let _ = std::fs::remove_dir_all(&dir);
}

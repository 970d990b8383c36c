//! W3C trace context: it is delivered with its event, and written to the log.

mod support;

use serde_json::{Value, json};
use support::http::exchange;
use support::sse::Sse;
use support::ws::Ws;
use support::{Server, eventually};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OTHER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

fn post(server: &Server, headers: &str, body: &str) {
    let head = format!(
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(server.addr, head.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Returns the trace context of an event as delivered.
fn trace(event: &Value) -> (Option<&str>, Option<&str>) {
    (event["traceparent"].as_str(), event["tracestate"].as_str())
}

#[test]
fn a_trace_goes_from_the_publisher_to_every_client_and_into_the_log() {
    let server = Server::with(&["--log-level", "debug", "--log-format", "json"]);
    let mut ws = Ws::subscribed(server.addr, json!({}));
    let mut sse = Sse::open(server.addr, "");
    let mut next = || {
        let (a, b) = (ws.event(), sse.event().json());
        assert_eq!(trace(&a), trace(&b));
        a
    };
    // The request's context applies to all its events except those with their own.
    let own = format!(r#"{{"type":"b","traceparent":"{OTHER}"}}"#);
    let both = format!("[{{\"type\":\"a\"}},{own}]");
    post(&server, &format!("traceparent: {PARENT}\r\ntracestate: v=1,w=2\r\n"), &both);
    assert_eq!(trace(&next()), (Some(PARENT), Some("v=1,w=2")));
    assert_eq!(trace(&next()), (Some(OTHER), None));
    // The extension of CloudEvents, in both modes.
    let cloud = json!({"specversion": "1.0", "id": "1", "type": "c", "source": "s", "traceparent": PARENT});
    post(&server, "Content-Type: application/cloudevents+json\r\n", &cloud.to_string());
    assert_eq!(trace(&next()), (Some(PARENT), None));
    let binary = format!(
        "ce-specversion: 1.0\r\nce-id: 2\r\nce-type: d\r\nce-source: s\r\nce-traceparent: {PARENT}\r\n"
    );
    post(&server, &binary, "");
    assert_eq!(trace(&next()).0, Some(PARENT));
    // An invalid context is left out, and so is a forged one that would add a line to the log.
    post(&server, "traceparent: 00-zz\r\n", r#"{"type":"e","traceparent":"00-x\nlevel=ERROR"}"#);
    assert_eq!(trace(&next()), (None, None));
    // A WebSocket client's context.
    let answer = Ws::connect(server.addr)
        .ask(&json!({"type": "publish", "payload": {"type": "f", "traceparent": OTHER}}));
    assert_eq!(answer["type"], "ack");
    assert_eq!(trace(&next()), (Some(OTHER), None));
    let logged = |kind: &str, trace_id: &str| {
        server.log().lines().any(|line| {
            let line: Value = serde_json::from_str(line).expect("a line is JSON");
            line["fields"]["event_type"] == kind && line["fields"]["trace_id"] == trace_id
        })
    };
    eventually("the log has both", || logged("a", &PARENT[3..35]) && logged("f", &OTHER[3..35]));
}

#[test]
fn delivery_turns_and_sizes_are_measured() {
    let server = Server::start();
    let mut clients: Vec<Ws> = (0..3).map(|_| Ws::subscribed(server.addr, json!({}))).collect();
    for n in 0..5 {
        server.publish(support::numbered(n));
        for client in &mut clients {
            client.event();
        }
    }
    let count = |name: &str| server.metric(&format!("fanwire_{name}_count")).unwrap_or_default() as u64;
    eventually("each delivery is counted", || count("feed_delivery_seconds") == 15);
    assert_eq!(count("feed_frame_bytes"), 5, "each frame once, with any number of clients");
    assert!(count("server_loop_turn_seconds") >= 5);
    let bytes = server.metric("fanwire_feed_frame_bytes_sum").expect("it is there");
    assert!(bytes > 500.0, "{bytes}");
}

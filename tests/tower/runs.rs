//! Runs through the service: a `POST` publishes, and is answered by the stream.

use std::net::SocketAddr;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use fanwire::server::{RetainBy, RetainRule, ServerConfig, ServerHandle};
use fanwire::tower::live;
use fanwire::{Bus, Server};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::support::PATIENCE;
use super::support::http::{self, Response, read_head};
use super::support::sse::Sse;
use super::support::wire::{Wire, deadline};
use super::{connect_h2, open_sse, runtime, start, start_h2, wait_for_tasks};

fn serve(bus: &Bus) -> ServerHandle {
    let mut config = ServerConfig::default();
    config.max_body_bytes = 100_000;
    let rule = RetainRule::new("stream=run-*", RetainBy::Stream).expect("a filter");
    config.retain.rules = vec![rule.end(["run.finished"])];
    Server::builder(bus).config(config).spawn().expect("a server")
}

/// Mounts the service on a path and below it.
fn app(server: &ServerHandle) -> Router {
    let service = live(server);
    Router::new()
        .route("/", get(|| async { "the app" }))
        .route_service("/live", service.clone())
        .route_service("/live/{*rest}", service)
}

fn request(target: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn run(addr: SocketAddr, target: &str, headers: &str, body: &str) -> Sse {
    let mut wire = Wire::connect(addr);
    wire.send(request(target, headers, body).as_bytes());
    let response = read_head(&mut wire, deadline()).expect("an answer");
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/event-stream")));
    Sse::from_wire(wire, response)
}

fn refused(addr: SocketAddr, target: &str, headers: &str, body: &str) -> Response {
    http::exchange(addr, request(target, headers, body).as_bytes())
}

fn token(n: u64) -> Value {
    json!({"type": "token", "payload": {"n": n}})
}

/// Reads events with these numbers.
fn expect(stream: &mut Sse, numbers: impl IntoIterator<Item = u64>) {
    for n in numbers {
        assert_eq!(stream.event().json()["payload"]["n"], n);
    }
}

#[test]
fn a_run_is_published_and_followed_through_the_app() {
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve(&bus);
    let (addr, _end) = start(&runtime, app(&server));
    let key = "Idempotency-Key: one\r\n";
    let body = Value::from(vec![token(0), token(1)]).to_string();
    let mut first = run(addr, "/live/runs/run-1", key, &body);
    expect(&mut first, 0..2);
    // A retry publishes nothing, and joins. Another body under this key is refused, as on the server's own port.
    let mut retry = run(addr, "/live/runs/run-1?from=start", key, &body);
    expect(&mut retry, 0..2);
    assert_eq!(refused(addr, "/live/runs/run-1", key, &token(7).to_string()).status, 422);
    // In pieces, which this client frames itself.
    let mut wire = Wire::connect(addr);
    wire.send(b"POST /live/runs/run-1 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let text = token(2).to_string();
    let (one, two) = text.split_at(9);
    for piece in [one, two] {
        wire.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes());
    }
    wire.send(b"0\r\n\r\n");
    let response = read_head(&mut wire, deadline()).expect("an answer");
    assert_eq!(response.status, 200, "{response:?}");
    expect(&mut Sse::from_wire(wire, response), [2]);
    // A long body comes through whole.
    let long = Value::from((3..900).map(token).collect::<Vec<_>>()).to_string();
    let mut long = run(addr, "/live/runs/run-1", "", &long);
    expect(&mut long, 3..900);
    let mut joined = run(addr, "/live/runs/run-1?from=start", "", "");
    expect(&mut joined, 0..900);
    let end = json!({"type": "run.finished", "payload": {"n": 900}}).to_string();
    let mut last = run(addr, "/live/runs/run-1", "", &end);
    for stream in [&mut last, &mut joined, &mut retry, &mut long] {
        while stream.event().event.as_deref() != Some("end") {}
        assert!(stream.block(deadline()).is_err(), "the stream is over");
    }
    let over = refused(addr, "/live/runs/run-1", "", &token(901).to_string());
    assert_eq!((over.status, &over.json()["code"]), (409, &json!("ended")));
}

#[test]
fn a_refused_or_broken_request_publishes_nothing() {
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve(&bus);
    let (addr, _end) = start(&runtime, app(&server));
    let mut reader = open_sse(addr, "/live", "");
    for (target, headers, body, status) in [
        ("/live/runs/run-1", "", "{", 400),
        ("/live/runs/run-1", "", r#"{"type":"a","stream_id":"run-2"}"#, 400),
        ("/live/runs/run-1?stream=run-2", "", r#"{"type":"a"}"#, 400),
        ("/live/runs/run-1", "Origin: http://evil.example\r\n", r#"{"type":"a"}"#, 403),
        ("/live/runs/run-1", "", &" ".repeat(100_001), 413),
        ("/live", "", r#"{"type":"a"}"#, 405),
        ("/live/runs", "", r#"{"type":"a"}"#, 405),
        ("/live/truns/run-1", "", r#"{"type":"a"}"#, 405),
    ] {
        assert_eq!(refused(addr, target, headers, body).status, status, "{target} {headers}");
    }
    let before = runtime.metrics().num_alive_tasks();
    // A client that leaves in the middle of its body.
    let mut wire = Wire::connect(addr);
    wire.send(b"POST /live/runs/run-1 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    wire.send(b"c\r\n{\"type\":\"a\"}\r\n");
    drop(wire);
    wait_for_tasks(&runtime, before, || {});
    expect_only(&mut run(addr, "/live/runs/run-1", "", &token(1).to_string()), 1);
    expect_only(&mut reader, 1);
}

/// Reads the next event, which has this number.
fn expect_only(stream: &mut Sse, n: u64) {
    assert_eq!(stream.event().json()["payload"]["n"], n);
}

#[test]
fn http_2_carries_runs() {
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve(&bus);
    let addr = start_h2(&runtime, app(&server));
    runtime.block_on(async {
        let mut sender = connect_h2(addr).await;
        let body = json!([token(0), {"type": "run.finished"}]).to_string();
        let pieces =
            body.as_bytes().chunks(7).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)));
        let pieces: Vec<_> = pieces.collect();
        let request = hyper::Request::post(format!("http://{addr}/live/runs/run-1"))
            .body(Body::from_stream(futures_util::stream::iter(pieces)))
            .expect("a request");
        let answer = sender.send_request(request).await.expect("a response");
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (200, &"text/event-stream".parse().expect("a value"))
        );
        let all = axum::body::to_bytes(Body::new(answer.into_body()), 100_000);
        let all = tokio::time::timeout(PATIENCE, all).await.expect("in time").expect("a body");
        let text = String::from_utf8(all.to_vec()).expect("UTF-8");
        assert!(text.contains("event: token") && text.contains("event: end"), "{text}");
        // The connection remains usable.
        let refused = hyper::Request::post(format!("http://{addr}/live/runs/run-1"))
            .body(Body::from("{"))
            .expect("a request");
        let refused = sender.send_request(refused).await.expect("a response");
        assert_eq!(refused.status(), 400);
        let mut body = Body::new(refused.into_body()).into_data_stream();
        assert!(body.next().await.expect("a body").expect("bytes").starts_with(b"{\"error\""));
    });
}

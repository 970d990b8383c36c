//! The tower service: WebSockets and event streams on the port of an axum or hyper app.

#[path = "../support/mod.rs"]
mod support;

mod runs;
mod sockets;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::serve::Listener;
use fanwire::auth::Claims;
use fanwire::tower::live;
use fanwire::{Bus, Event, Server, ServerConfig, ServerHandle};
use futures_util::StreamExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use support::authority::Authority;
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::Ws;
use support::{PATIENCE, eventually, http, read_until};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tungstenite::WebSocket;

fn event(kind: &str) -> Event {
    Event::builder(kind).json("1").build().expect("an event")
}

fn serve(bus: &Bus) -> ServerHandle {
    Server::builder(bus).spawn().expect("a server")
}

fn app(server: &ServerHandle) -> Router {
    Router::new().route("/", get(|| async { "the app" })).route_service("/live", live(server))
}

fn runtime() -> Runtime {
    Runtime::new().expect("a runtime")
}

/// Number of tasks of an app without connections: the server, and the one that waits for its shutdown.
const APP_TASKS: usize = 2;

/// Serves an app. Returns its address, and a sender that ends it.
fn start(runtime: &Runtime, app: Router) -> (SocketAddr, oneshot::Sender<()>) {
    start_on(runtime, app, |listener| listener)
}

/// Serves an app on a listener that `wrap` changes.
fn start_on<L: Listener<Addr = SocketAddr>>(
    runtime: &Runtime,
    app: Router,
    wrap: impl FnOnce(TcpListener) -> L,
) -> (SocketAddr, oneshot::Sender<()>) {
    let (end, ended) = oneshot::channel::<()>();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let listener = wrap(listener);
    runtime.spawn(async move {
        let ended = async { drop(ended.await) };
        axum::serve(listener, app).with_graceful_shutdown(ended).await
    });
    (addr, end)
}

/// Waits until the runtime has no more than `most` tasks, and calls `nudge` repeatedly.
fn wait_for_tasks(runtime: &Runtime, most: usize, nudge: impl Fn()) {
    eventually("the tasks have ended", || {
        let is_done = runtime.metrics().num_alive_tasks() <= most;
        if !is_done {
            nudge();
        }
        is_done
    });
}

fn open_ws(addr: SocketAddr, path: &str) -> Ws {
    let mut ws = Ws::over(Wire::connect(addr), path, "");
    assert_eq!(ws.ask(&json!({"type": "subscribe", "payload": {"event_types": ["a"]}}))["type"], "ack");
    ws
}

/// Opens the event stream at this path.
fn open_sse(addr: SocketAddr, target: &str, headers: &str) -> Sse {
    let sse = Sse::at(addr, target, headers);
    assert_eq!(sse.response.header("content-type"), Some("text/event-stream"));
    sse
}

/// Reads messages of another WebSocket client up to one that contains `part`.
fn await_message(ws: &mut WebSocket<impl Read + Write>, part: &str) {
    while !ws.read().expect("a message").to_string().contains(part) {}
}

/// Subscribes another WebSocket client to events of type `a`.
fn subscribe(ws: &mut WebSocket<impl Read + Write>) {
    ws.send(r#"{"type":"subscribe","payload":{"event_types":["a"]}}"#.into()).expect("it is open");
    await_message(ws, "\"ack\"");
}

#[test]
fn axum_serves_streams_on_its_own_port() {
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve(&bus);
    let (addr, _end) = start(&runtime, app(&server));
    assert_eq!(http::get(addr, "/").text(), "the app");
    let mut ws = open_ws(addr, "/live");
    let mut sse = open_sse(addr, "/live?type=a", "");
    bus.publish(event("a"));
    assert_eq!(ws.event()["event_type"], "a");
    assert_eq!(sse.event().json()["event_type"], "a");
    // The server writes the refusals.
    for (target, status, word) in [("/live?typ=a", 400, "type"), ("/live?history=x", 400, "number")] {
        let response = http::get(addr, target);
        assert_eq!(response.status, status, "{target}");
        assert!(response.text().contains(word), "{target}: {}", response.text());
    }
    assert_eq!(http::post(addr, "/live", "text/plain", b"x").status, 405);
}

/// A WebSocket leaves nothing in the runtime: its socket moves to a loop.
#[test]
fn a_thousand_websockets_leave_no_task_and_no_socket_in_the_runtime() {
    support::raise_file_limit(6000);
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve(&bus);
    let (addr, _end) = start(&runtime, app(&server));
    let mut clients: Vec<Ws> = (0..1000).map(|_| open_ws(addr, "/live")).collect();
    wait_for_tasks(&runtime, APP_TASKS, || {});
    bus.publish(event("a"));
    for client in &mut clients {
        assert_eq!(client.event()["event_type"], "a");
    }
}

#[test]
fn a_thousand_event_streams_are_pumped() {
    support::raise_file_limit(6000);
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve(&bus);
    let (addr, _end) = start(&runtime, app(&server));
    let mut clients: Vec<Sse> = (0..1000).map(|_| open_sse(addr, "/live?type=a", "")).collect();
    bus.publish(event("a"));
    for client in &mut clients {
        assert_eq!(client.event().json()["event_type"], "a");
    }
    // A client that leaves is noticed through the pump.
    drop(clients);
    wait_for_tasks(&runtime, APP_TASKS, || {
        bus.publish(event("a"));
    });
}

/// The app's middleware checks who a client is, and gives it rights.
#[test]
fn middleware_gives_rights() {
    let (runtime, bus) = (runtime(), Bus::new());
    let mut config = ServerConfig::default();
    config.auth.by_program = true;
    let server = Server::builder(&bus).config(config).spawn().expect("a server");
    let check = |mut request: Request, next: Next| async move {
        match request.headers().get("x-user").and_then(|user| user.to_str().ok()).map(str::to_owned) {
            None => StatusCode::UNAUTHORIZED.into_response(),
            Some(user) => {
                let mut claims = Claims::default();
                claims.channels = Some(vec![format!("user:{user}")]);
                claims.sub = Some(user);
                request.extensions_mut().insert(claims);
                next.run(request).await
            }
        }
    };
    let (addr, _end) = start(&runtime, app(&server).layer(from_fn(check)));
    let mut ann = open_sse(addr, "/live", "X-User: ann\r\n");
    let of = |user: &str| {
        Event::builder("a").channel(&format!("user:{user}")).json("1").build().expect("an event")
    };
    bus.publish(of("bob"));
    bus.publish(of("ann"));
    assert_eq!(ann.event().json()["channel"], "user:ann");
    assert_eq!(http::get(addr, "/live").status, 401);
}

#[test]
fn both_shutdowns_together_end_every_client() {
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve(&bus);
    let (addr, end) = start(&runtime, app(&server));
    let mut ws = open_ws(addr, "/live");
    let mut sse = open_sse(addr, "/live", "");
    end.send(()).expect("the app runs");
    // The app waits for its open responses: the event streams end when the server drains.
    server.drain(Duration::ZERO);
    assert_eq!(ws.closed().0, 1012);
    while sse.block(deadline()).is_ok() {}
    server.join().expect("no thread failed");
    wait_for_tasks(&runtime, 0, || {});
}

#[test]
fn plain_hyper_gives_its_sockets_too() {
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve(&bus);
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let service = live(&server).websocket("/ws").events("/sse/events");
    runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    let mut ws = open_ws(addr, "/anything");
    let mut sse = open_sse(addr, "/anything", "");
    // Two tasks remain: the acceptor, and the event stream's connection.
    wait_for_tasks(&runtime, 2, || {});
    bus.publish(event("a"));
    assert_eq!(ws.event()["event_type"], "a");
    assert_eq!(sse.event().event, None);
}

/// TLS that the app ends: the bytes are copied.
#[test]
fn tls_of_the_app_is_pumped() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (runtime, bus, authority) = (runtime(), Bus::new(), Authority::new("tower"));
    let server = serve(&bus);
    let files = (authority.path("cert.pem"), authority.path("key.pem"));
    let config = runtime.block_on(axum_server::tls_rustls::RustlsConfig::from_pem_file(files.0, files.1));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let addr = listener.local_addr().expect("it is bound");
    let app = app(&server).into_make_service();
    let _in_runtime = runtime.enter();
    let serving = axum_server::from_tcp_rustls(listener, config.expect("a certificate")).expect("a socket");
    runtime.spawn(serving.serve(app));
    let (mut ws, _) =
        tungstenite::client("wss://localhost/live", authority.connect_http1(addr)).expect("a WebSocket");
    subscribe(&mut ws);
    let mut sse = authority.connect_http1(addr);
    sse.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is open");
    let mut all = String::new();
    read_until(&mut sse, &mut all, "retry:");
    bus.publish(event("a"));
    assert!(ws.read().expect("an event").to_string().contains("\"a\""));
    read_until(&mut sse, &mut all, "event: a");
}

/// axum's handlers can return the service's response type.
#[test]
fn a_handler_can_call_the_service() {
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve(&bus);
    let service = live(&server);
    let handler = move |request: Request| {
        let mut service = service.clone();
        async move {
            let response: Response = tower_service::Service::call(&mut service, request)
                .await
                .unwrap_or_else(|never| match never {})
                .map(Body::new);
            response
        }
    };
    let (addr, _end) = start(&runtime, Router::new().route("/feed/{name}", get(handler)));
    open_ws(addr, "/feed/x");
}

/// Serves an app over HTTP/1.1 and HTTP/2, with WebSockets over HTTP/2.
fn start_h2(runtime: &Runtime, app: Router) -> SocketAddr {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = TowerToHyperService::new(app.clone());
            tokio::spawn(async move {
                let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                builder.http2().enable_connect_protocol();
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(socket), service).await;
            });
        }
    });
    addr
}

/// Connects with HTTP/2, and returns the sender of requests after the server's settings have arrived.
async fn connect_h2(addr: SocketAddr) -> hyper::client::conn::http2::SendRequest<Body> {
    let socket = tokio::net::TcpStream::connect(addr).await.expect("it listens");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (mut sender, connection) = handshake.await.expect("HTTP/2");
    tokio::spawn(connection);
    let get = hyper::Request::get(format!("http://{addr}/")).body(Body::empty()).expect("a request");
    assert_eq!(sender.send_request(get).await.expect("a response").status(), 200);
    sender
}

/// Returns a request for a WebSocket as in RFC 8441.
fn connect_request(addr: SocketAddr, protocol: &'static str) -> hyper::Request<Body> {
    let request = hyper::Request::builder().method("CONNECT").uri(format!("http://{addr}/live"));
    let request = request.header("sec-websocket-version", "13");
    let protocol = hyper::ext::Protocol::from_static(protocol);
    request.extension(protocol).body(Body::empty()).expect("a request")
}

/// Streams over HTTP/2 share one connection. A WebSocket ends with the server's close, although its client continues.
#[test]
fn http_2_carries_websockets_and_event_streams() {
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve(&bus);
    let addr = start_h2(&runtime, app(&server));
    let (mut sender, upgraded, events) = runtime.block_on(async {
        let mut sender = connect_h2(addr).await;
        let agreed = sender.send_request(connect_request(addr, "websocket")).await.expect("a response");
        assert_eq!(agreed.status(), 200);
        for name in ["upgrade", "connection", "sec-websocket-accept"] {
            assert_eq!(agreed.headers().get(name), None, "{name}");
        }
        let upgraded = hyper::upgrade::on(agreed).await.expect("a stream");
        let get = hyper::Request::get(format!("http://{addr}/live?type=a")).body(Body::empty());
        let events = sender.send_request(get.expect("a request")).await.expect("a response");
        assert_eq!(events.headers()["content-type"], "text/event-stream");
        (sender, upgraded, events)
    });
    // tungstenite reads one end of a pair, and a task copies between the other end and the stream.
    let (client, other) = std::os::unix::net::UnixStream::pair().expect("a pair");
    client.set_read_timeout(Some(PATIENCE)).expect("a time");
    other.set_nonblocking(true).expect("a socket");
    runtime.spawn(async move {
        let mut other = tokio::net::UnixStream::from_std(other).expect("a socket");
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut other).await;
    });
    let mut ws = WebSocket::from_raw_socket(client, tungstenite::protocol::Role::Client, None);
    subscribe(&mut ws);
    bus.publish(event("a"));
    await_message(&mut ws, "\"event\"");
    runtime.block_on(async {
        let mut pieces = Body::new(events.into_body()).into_data_stream();
        let mut all = Vec::new();
        while !String::from_utf8_lossy(&all).contains("event: a") {
            let piece = tokio::time::timeout(PATIENCE, pieces.next()).await.expect("in time");
            all.extend_from_slice(&piece.expect("it is open").expect("bytes"));
        }
        // Another protocol or method is refused, and the connection remains open.
        for request in [connect_request(addr, "connect-udp"), post_request(addr)] {
            let refused = sender.send_request(request).await.expect("a response");
            assert_eq!(
                (refused.status().as_u16(), &refused.headers()["allow"]),
                (405, &"GET".parse().expect("a value"))
            );
        }
    });
    server.drain(Duration::ZERO);
    loop {
        if let tungstenite::Message::Close(Some(frame)) = ws.read().expect("a close frame") {
            assert_eq!(u16::from(frame.code), 1012);
            break;
        }
    }
    server.join().expect("no thread failed");
}

fn post_request(addr: SocketAddr) -> hyper::Request<Body> {
    hyper::Request::post(format!("http://{addr}/live")).body(Body::empty()).expect("a request")
}

/// A pump ends when the server ends its client, although the client keeps its side open.
#[test]
fn a_pump_ends_with_the_server() {
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve(&bus);
    let addr = start_h2(&runtime, app(&server));
    let (sender, upgraded) = runtime.block_on(async {
        let mut sender = connect_h2(addr).await;
        let agreed = sender.send_request(connect_request(addr, "websocket")).await.expect("a response");
        (sender, hyper::upgrade::on(agreed).await.expect("a stream"))
    });
    let before = runtime.metrics().num_alive_tasks();
    server.drain(Duration::ZERO);
    server.join().expect("no thread failed");
    wait_for_tasks(&runtime, before - 1, || {});
    drop((sender, upgraded));
}

/// A WebSocket over a Unix socket is pumped as well.
#[test]
fn a_unix_socket_is_pumped() {
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve(&bus);
    let path = std::env::temp_dir().join(format!("fanwire-tower-{}.sock", std::process::id()));
    let listener = runtime.block_on(async { tokio::net::UnixListener::bind(&path) }).expect("a path");
    let app = app(&server);
    runtime.spawn(async move { axum::serve(listener, app).await });
    let socket = std::os::unix::net::UnixStream::connect(&path).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time");
    let (mut ws, _) = tungstenite::client("ws://localhost/live", socket).expect("a WebSocket");
    subscribe(&mut ws);
    bus.publish(event("a"));
    await_message(&mut ws, "\"event\"");
    let _ = std::fs::remove_file(path);
}

/// A client behind a pump that does not read lags like any other client and gets a gap. No other client waits for it.
#[test]
fn a_pumped_client_that_does_not_read_gets_a_gap() {
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve_lagging(&bus);
    let (addr, _end) = start(&runtime, app(&server));
    await_gap(&bus, addr);
}

/// Returns a server whose clients fall behind by 10 events.
fn serve_lagging(bus: &Bus) -> ServerHandle {
    let mut config = ServerConfig::default();
    config.max_lag_events = 10;
    Server::builder(bus).config(config).spawn().expect("a server")
}

/// Publishes more than the sockets of a client at `/live` take while another one reads, and waits for the first one's gap.
fn await_gap(bus: &Bus, addr: SocketAddr) {
    let mut slow = open_sse(addr, "/live?type=a", "");
    let mut other = open_sse(addr, "/live?type=a", "");
    let payload = serde_json::Value::String("x".repeat(64 * 1024)).to_string();
    // The sockets' buffers take some events; the feed evicts the oldest of the rest.
    for _ in 0..400 {
        bus.publish(Event::builder("a").json(&payload).build().expect("an event"));
        while other.event().event.as_deref() != Some("a") {}
    }
    let mut kinds = std::iter::repeat_with(|| slow.event().event);
    assert!(kinds.any(|kind| kind.as_deref() == Some("gap")));
}

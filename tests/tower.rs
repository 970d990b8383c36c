//! The service for routers: WebSockets and event streams on the port of an axum or hyper app.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use fanwire::auth::Claims;
use fanwire::tower::live;
use fanwire::{Bus, Event, Server, ServerConfig, ServerHandle};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use support::PATIENCE;
use support::authority::Authority;
use support::http;
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::Ws;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

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

/// Tasks of a served app without connections: the server, and the one that waits for its shutdown.
const APP_TASKS: usize = 2;

/// Serves an app, and returns its address and what ends it.
fn start(runtime: &Runtime, app: Router) -> (SocketAddr, oneshot::Sender<()>) {
    let (end, ended) = oneshot::channel::<()>();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    runtime.spawn(async move {
        let ended = async { drop(ended.await) };
        axum::serve(listener, app).with_graceful_shutdown(ended).await
    });
    (addr, end)
}

/// Waits until the runtime has no more than `most` tasks, and calls `nudge` now and then.
fn wait_for_tasks(runtime: &Runtime, most: usize, nudge: impl Fn()) {
    let until = Instant::now() + PATIENCE;
    while runtime.metrics().num_alive_tasks() > most {
        assert!(Instant::now() < until, "{} tasks are left", runtime.metrics().num_alive_tasks());
        nudge();
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn open_ws(addr: SocketAddr, path: &str) -> Ws {
    let mut ws = Ws::over(Wire::connect(addr), path, "");
    assert_eq!(ws.ask(&json!({"type": "subscribe", "payload": {"event_types": ["a"]}}))["type"], "ack");
    ws
}

/// Opens the event stream at this path.
fn open_sse(addr: SocketAddr, target: &str, headers: &str) -> Sse {
    let mut wire = Wire::connect(addr);
    wire.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes());
    let response = http::read_head(&mut wire, deadline()).expect("a head");
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    Sse::from_wire(wire, response)
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
    // Refusals are the server's own.
    for (target, status, word) in [("/live?typ=a", 400, "type"), ("/live?history=x", 400, "number")] {
        let response = http::get(addr, target);
        assert_eq!(response.status, status, "{target}");
        assert!(response.text().contains(word), "{target}: {}", response.text());
    }
    assert_eq!(http::post(addr, "/live", "text/plain", b"x").status, 405);
}

/// A WebSocket leaves nothing in the runtime: its socket is the loop's.
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
    // The app waits for its open responses: event streams end with Fanwire.
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
    // The acceptor, and the event stream's connection.
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
    let mut client = authority.client(&[&rustls::version::TLS13]);
    Arc::make_mut(&mut client).alpn_protocols = vec![b"http/1.1".to_vec()];
    let connect = || {
        let name = "localhost".try_into().expect("a name");
        let session = rustls::ClientConnection::new(Arc::clone(&client), name).expect("a session");
        let socket = TcpStream::connect(addr).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time");
        rustls::StreamOwned::new(session, socket)
    };
    let (mut ws, _) = tungstenite::client("wss://localhost/live", connect()).expect("a WebSocket");
    ws.send(r#"{"type":"subscribe","payload":{"event_types":["a"]}}"#.into()).expect("it is open");
    while !ws.read().expect("a message").to_string().contains("\"ack\"") {}
    let mut sse = connect();
    sse.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is open");
    let mut all = String::new();
    let mut read_until = |part: &str| {
        while !all.contains(part) {
            let mut piece = [0; 4096];
            let read = sse.read(&mut piece).expect("bytes");
            assert!(read > 0, "ended after {all}");
            all.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    };
    read_until("retry:");
    bus.publish(event("a"));
    assert!(ws.read().expect("an event").to_string().contains("\"a\""));
    read_until("event: a");
}

/// A response's type is what axum's handlers can return too.
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

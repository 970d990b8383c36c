//! Event streams that take their sockets from the app's listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderName, HeaderValue, Request, StatusCode};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use axum::serve::ListenerExt as _;
use fanwire::tower::{Live, live};
use fanwire::{Bus, Server, ServerConfig, ServerHandle};
use futures_util::StreamExt as _;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tower_service::Service as _;

use super::support::sse::Sse;
use super::support::wire::{Wire, deadline};
use super::support::{self, PATIENCE, eventually, http};
use super::{
    APP_TASKS, await_gap, event, open_sse, open_ws, runtime, serve, serve_lagging, start_on, wait_for_tasks,
};

/// Header with which the service marks a response until its socket is taken.
const MARK: &str = "fanwire-socket";

fn app_with(live: Live) -> Router {
    Router::new().route("/", get(|| async { "the app" })).route_service("/live", live)
}

/// Serves an app with this service on a listener that it wraps.
fn start_taking(runtime: &Runtime, live: &Live, app: Router) -> (SocketAddr, oneshot::Sender<()>) {
    start_on(runtime, app, |listener| live.listener(listener))
}

/// A server in an app that serves only its streams.
struct Taking {
    runtime: Runtime,
    bus: Bus,
    server: ServerHandle,
    live: Live,
    addr: SocketAddr,
    end: oneshot::Sender<()>,
}

impl Taking {
    fn start() -> Self {
        Self::with(|app| app)
    }

    /// Serves the app with a layer around it.
    fn with(layer: impl FnOnce(Router) -> Router) -> Self {
        let (runtime, bus) = (runtime(), Bus::new());
        let server = serve(&bus);
        let live = live(&server);
        let (addr, end) = start_taking(&runtime, &live, layer(app_with(live.clone())));
        Self { runtime, bus, server, live, addr, end }
    }

    /// Checks that a stream receives an event.
    fn check(&self, stream: &mut Sse) {
        self.bus.publish(event("a"));
        while stream.event().json()["event_type"] != "a" {}
    }
}

/// Requests a stream on a connection, with these headers, and returns it after its head.
fn ask(mut wire: Wire, headers: &str) -> Sse {
    wire.send(format!("GET /live?type=a HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes());
    let response = http::read_head(&mut wire, deadline()).expect("an answer");
    Sse::from_wire(wire, response)
}

/// Checks that the server's loop writes a stream: it has the loop's framing, and no mark.
fn assert_taken(stream: &Sse) {
    let header = |name| stream.response.header(name);
    assert_eq!(stream.response.status, 200);
    assert_eq!((header("transfer-encoding"), header(MARK)), (None, None), "{:?}", stream.response);
    assert_eq!(header("connection"), Some("close"));
    assert_eq!(header("content-type"), Some("text/event-stream"));
}

#[test]
fn a_thousand_event_streams_leave_no_task_in_the_runtime() {
    support::raise_file_limit(6000);
    let app = Taking::start();
    let mut clients: Vec<Sse> = (0..1000).map(|_| open_sse(app.addr, "/live?type=a", "")).collect();
    wait_for_tasks(&app.runtime, APP_TASKS, || {});
    app.bus.publish(event("a"));
    for client in &mut clients {
        assert_taken(client);
        assert_eq!(client.event().json()["event_type"], "a");
    }
    assert_eq!(http::get(app.addr, "/").text(), "the app");
}

#[test]
fn websockets_and_refusals_pass_the_wrapper() {
    let app = Taking::start();
    let mut ws = open_ws(app.addr, "/live");
    wait_for_tasks(&app.runtime, APP_TASKS, || {});
    app.bus.publish(event("a"));
    assert_eq!(ws.event()["event_type"], "a");
    let refusal = http::get(app.addr, "/live?typ=a");
    assert_eq!((refusal.status, refusal.header(MARK)), (400, None));
}

/// A stream is the last request of its connection: earlier ones are answered, later ones are not read.
#[test]
fn a_stream_comes_after_other_requests_of_its_connection() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let app = Taking::with(|app| {
        app.route(
            "/count",
            get(move || {
                let before = counted.fetch_add(1, Ordering::SeqCst);
                async move { before.to_string() }
            }),
        )
    });
    let mut wire = Wire::connect(app.addr);
    let count = "GET /count HTTP/1.1\r\nHost: localhost\r\n\r\n";
    wire.send(count.as_bytes());
    assert_eq!(http::read_response(&mut wire, deadline()).expect("an answer").text(), "0");
    // The client pipelines one request before the stream's, and one after it.
    let live = "GET /live?type=a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    wire.send([count, live, count].concat().as_bytes());
    assert_eq!(http::read_response(&mut wire, deadline()).expect("an answer").text(), "1");
    let response = http::read_head(&mut wire, deadline()).expect("an answer");
    let mut stream = Sse::from_wire(wire, response);
    assert_taken(&stream);
    app.check(&mut stream);
    wait_for_tasks(&app.runtime, APP_TASKS, || {});
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

/// The client gets the head as the app's middleware changed it.
#[test]
fn headers_of_middleware_reach_the_client() {
    let app = Taking::with(|app| {
        app.layer(map_response(|mut response: Response| async move {
            let headers = response.headers_mut();
            for cookie in ["a=1; Path=/", "b=2"] {
                headers.append("set-cookie", HeaderValue::from_static(cookie));
            }
            headers.insert("access-control-allow-origin", HeaderValue::from_static("https://a.example"));
            response
        }))
    });
    let mut stream = open_sse(app.addr, "/live?type=a", "");
    assert_taken(&stream);
    let cookies = stream.response.headers.iter().filter(|(name, _)| name == "set-cookie");
    assert_eq!(cookies.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["a=1; Path=/", "b=2"]);
    assert_eq!(stream.response.header("access-control-allow-origin"), Some("https://a.example"));
    assert!(stream.response.header("date").is_some());
    app.check(&mut stream);
}

/// Middleware that encodes the body and sets `Content-Encoding` gets the body.
#[test]
fn an_encoded_body_is_copied() {
    let app = Taking::with(|app| {
        app.layer(map_response(|response: Response| async move {
            let (mut head, body) = response.into_parts();
            head.headers.insert("content-encoding", HeaderValue::from_static("x-louder"));
            let louder = body.into_data_stream().map(|piece| piece.map(|piece| piece.to_ascii_uppercase()));
            Response::from_parts(head, Body::from_stream(louder))
        }))
    });
    let mut wire = Wire::connect(app.addr);
    wire.send(b"GET /live?type=a HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = http::read_head(&mut wire, deadline()).expect("an answer");
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    wire.take_until(b"RETRY:", deadline()).expect("the stream's beginning");
    app.bus.publish(event("a"));
    wire.take_until(b"EVENT: A", deadline()).expect("an event");
}

/// A head that is not the stream's own, or that is too long to be parsed, is passed on unchanged.
#[test]
fn a_response_of_another_kind_is_copied() {
    type Change = fn(&mut Response);
    let changes: [Change; 2] = [
        |response| *response.status_mut() = StatusCode::NON_AUTHORITATIVE_INFORMATION,
        |response| {
            for nth in 0..70 {
                let name = HeaderName::try_from(format!("x-{nth}")).expect("a name");
                response.headers_mut().insert(name, HeaderValue::from_static("1"));
            }
        },
    ];
    for change in changes {
        let app = Taking::with(|app| {
            app.layer(map_response(move |mut response: Response| async move {
                change(&mut response);
                response
            }))
        });
        let mut stream = ask(Wire::connect(app.addr), "");
        assert_eq!(stream.response.header("transfer-encoding"), Some("chunked"));
        while stream.retry.is_none() {
            let block = stream.block(deadline()).expect("the stream's beginning");
            stream.retry = block.retry;
        }
        app.check(&mut stream);
    }
}

/// An HTTP/1.0 client does not support chunks, so its stream is copied.
#[test]
fn a_client_of_http_1_0_is_copied() {
    let app = Taking::start();
    let mut wire = Wire::connect(app.addr);
    wire.send(b"GET /live?type=a HTTP/1.0\r\nHost: localhost\r\n\r\n");
    wire.take_until(b"retry:", deadline()).expect("the stream's beginning");
    app.bus.publish(event("a"));
    wire.take_until(b"event: a", deadline()).expect("an event");
}

/// The server's own compression is announced in the head, so the socket can still be taken.
#[test]
fn a_stream_that_the_server_compresses_is_taken() {
    let (runtime, bus) = (runtime(), Bus::new());
    let mut config = ServerConfig::default();
    config.compression = true;
    let server = Server::builder(&bus).config(config).spawn().expect("a server");
    let live = live(&server);
    let (addr, _end) = start_taking(&runtime, &live, app_with(live.clone()));
    let mut stream = ask(Wire::connect(addr), "Accept-Encoding: gzip\r\n");
    assert_taken(&stream);
    assert_eq!(stream.response.header("content-encoding"), Some("gzip"));
    assert_eq!(stream.wire.take(2, deadline()).expect("the stream's beginning"), [0x1f, 0x8b]);
}

/// If middleware drops the response, the connection is not taken.
#[test]
fn a_replaced_response_takes_no_socket() {
    let app = Taking::with(|app| {
        app.layer(map_response(|response: Response| async move {
            if response.headers().contains_key(MARK) {
                return Response::new(Body::from("replaced"));
            }
            response
        }))
    });
    let mut wire = Wire::connect(app.addr);
    for (path, text) in [("/live", "replaced"), ("/", "the app")] {
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        assert_eq!(http::read_response(&mut wire, deadline()).expect("an answer").text(), text);
    }
}

/// A mark that names no offered stream is treated like any other header.
#[test]
fn a_mark_of_another_response_takes_no_socket() {
    let app = Taking::with(|app| {
        let marked = |value: &'static str| {
            get(move || async move {
                let pieces = futures_util::stream::iter([Ok::<_, std::io::Error>("a piece")]);
                ([(MARK, value)], Body::from_stream(pieces))
            })
        };
        app.route("/unknown", marked("0123456789abcdef")).route("/invalid", marked("?"))
    });
    // This response's stream is offered, but the response is never written.
    let request = Request::get("/live").header("host", "localhost").body(Body::empty()).expect("a request");
    let held = app.runtime.block_on(app.live.clone().call(request)).expect("no error");
    assert!(held.headers().contains_key(MARK));
    for path in ["/unknown", "/invalid"] {
        let response = http::get(app.addr, path);
        assert_eq!((response.status, response.text()), (200, "a piece"));
        assert!(response.header(MARK).is_some());
    }
    drop(held);
}

#[test]
fn the_apps_shutdown_does_not_wait_for_taken_streams() {
    let app = Taking::start();
    let mut stream = open_sse(app.addr, "/live?type=a", "");
    let Taking { runtime, bus, server, end, .. } = app;
    end.send(()).expect("the app runs");
    wait_for_tasks(&runtime, 0, || {});
    bus.publish(event("a"));
    assert_eq!(stream.event().json()["event_type"], "a");
    server.drain(Duration::ZERO);
    while stream.block(deadline()).is_ok() {}
    server.join().expect("no thread failed");
}

/// Taken streams count as clients, and a client that leaves makes room.
#[test]
fn limits_hold_for_taken_streams() {
    let (runtime, bus) = (runtime(), Bus::new());
    let mut config = ServerConfig::default();
    config.max_connections = 1;
    let server = Server::builder(&bus).config(config).spawn().expect("a server");
    let live = live(&server);
    let (addr, _end) = start_taking(&runtime, &live, app_with(live.clone()));
    let first = open_sse(addr, "/live", "");
    assert_eq!(http::get(addr, "/live").status, 503);
    drop(first);
    eventually("there is room again", || ask(Wire::connect(addr), "").response.status == 200);
}

#[test]
fn a_taken_client_that_does_not_read_gets_a_gap() {
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve_lagging(&bus);
    let live = live(&server);
    let (addr, _end) = start_taking(&runtime, &live, app_with(live.clone()));
    await_gap(&bus, addr);
}

/// With a `tap_io` on the listener, axum passes the client's address to handlers.
#[test]
fn handlers_still_get_the_clients_address() {
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve(&bus);
    let live = live(&server);
    let app = app_with(live.clone())
        .route("/me", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() }));
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let listener = live.listener(listener).tap_io(|io| {
        let _ = io.tcp().map(|socket| socket.set_nodelay(true));
    });
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    runtime.spawn(async move { axum::serve(listener, app).await });
    assert_eq!(http::get(addr, "/me").text(), "127.0.0.1");
    let mut stream = open_sse(addr, "/live?type=a", "");
    assert_taken(&stream);
    bus.publish(event("a"));
    assert_eq!(stream.event().json()["event_type"], "a");
}

/// hyper without a framework: the connection is wrapped, and its future ends without an error.
#[test]
fn a_connection_of_plain_hyper_is_taken() {
    let (runtime, bus) = (runtime(), Bus::new());
    let server = serve(&bus);
    let live = live(&server);
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let serving = runtime.spawn(async move {
        let (socket, _) = listener.accept().await.expect("a connection");
        let service = TowerToHyperService::new(live.clone());
        let builder = hyper::server::conn::http1::Builder::new();
        builder.serve_connection(TokioIo::new(live.io(socket)), service).with_upgrades().await
    });
    let mut stream = open_sse(addr, "/anything?type=a", "");
    assert_taken(&stream);
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, serving).await });
    ended.expect("in time").expect("no panic").expect("no error");
    bus.publish(event("a"));
    assert_eq!(stream.event().json()["event_type"], "a");
    server.drain(Duration::ZERO);
    while stream.block(deadline()).is_ok() {}
    server.join().expect("no thread failed");
}

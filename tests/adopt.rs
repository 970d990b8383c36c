//! Connections that the embedding program accepts and gives to a server.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use fanwire::auth::Claims;
use fanwire::bus::BusConfig;
use fanwire::server::{Acceptor, Inheritance, StreamRequest};
use fanwire::{Bus, Event, Server, ServerConfig, ServerHandle};
use tungstenite::{Message, WebSocket};

const PATIENCE: Duration = Duration::from_secs(60);

/// Returns both ends of a connection that the program has accepted.
fn accepted() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a time");
    (client, listener.accept().expect("the client").0)
}

/// Reads a request's head as an embedding program does. Returns it with the bytes received after it.
fn read_request(socket: &mut TcpStream) -> (StreamRequest, Vec<u8>) {
    let mut head = Vec::new();
    let end = loop {
        let mut piece = [0; 1024];
        let read = socket.read(&mut piece).expect("a request");
        assert!(read > 0, "the client ended its request early");
        head.extend_from_slice(&piece[..read]);
        if let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let text = String::from_utf8(head[..end].to_vec()).expect("ASCII");
    let mut lines = text.trim_end().lines();
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a target");
    let headers = lines.filter_map(|line| line.split_once(": "));
    let request =
        headers.fold(StreamRequest::get(target), |request, (name, value)| request.header(name, value));
    (request, head[end..].to_vec())
}

/// Opens a client's WebSocket at one end of a connection while the program handles the other end.
fn open_websocket(path: &str, program: impl FnOnce(TcpStream) + Send) -> WebSocket<TcpStream> {
    let (client, socket) = accepted();
    std::thread::scope(|scope| {
        scope.spawn(move || program(socket));
        let url = format!("ws://127.0.0.1{path}");
        tungstenite::client(url, client).expect("a WebSocket").0
    })
}

fn read_text(ws: &mut WebSocket<TcpStream>) -> String {
    loop {
        if let Message::Text(text) = ws.read().expect("a message") {
            return text.to_string();
        }
    }
}

/// Reads messages up to the first one that contains `part`.
fn read_until(ws: &mut WebSocket<TcpStream>, part: &str) -> String {
    loop {
        let text = read_text(ws);
        if text.contains(part) {
            return text;
        }
    }
}

/// Reads a stream up to `part`, and returns everything.
fn read_stream(mut stream: impl Read, part: &str) -> String {
    let (mut all, mut searched) = (Vec::new(), 0);
    while !all[searched..].windows(part.len()).any(|window| window == part.as_bytes()) {
        searched = all.len().saturating_sub(part.len());
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).expect("bytes");
        assert!(read > 0, "ended after {:?}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&piece[..read]);
    }
    String::from_utf8(all).expect("UTF-8")
}

fn event(kind: &str) -> Event {
    Event::builder(kind).stream("s").json("1").build().expect("an event")
}

/// Returns an event that contains `<n>`, by which a reader finds it, and a text of this length.
fn numbered(n: usize, text_bytes: usize) -> Event {
    let text = "x".repeat(text_bytes);
    Event::builder("a").json(format!(r#"{{"n":"<{n}>","text":"{text}"}}"#)).build().expect("an event")
}

/// Returns a request for this target, with a host.
fn get(target: &str) -> StreamRequest {
    StreamRequest::get(target).header("Host", "localhost")
}

/// Adopts a client of an event stream, and returns the client's end.
fn open_stream(acceptor: &Acceptor, request: StreamRequest) -> TcpStream {
    let (client, socket) = accepted();
    acceptor.adopt(request, socket, Vec::new()).expect("the server runs");
    read_stream(&client, "retry:");
    client
}

/// Starts a server without a listener.
fn serve(bus: &Bus) -> (ServerHandle, Acceptor) {
    let server = Server::builder(bus).spawn().expect("a server");
    let acceptor = server.acceptor();
    (server, acceptor)
}

fn stop(server: ServerHandle) {
    server.drain(Duration::ZERO);
    server.join().expect("no thread failed");
}

#[test]
fn a_server_without_a_listener_answers_an_adopted_websocket() {
    let bus = Bus::new();
    let (server, acceptor) = serve(&bus);
    let mut ws = open_websocket("/ws", |mut socket| {
        let (request, read) = read_request(&mut socket);
        acceptor.adopt(request, socket, read).expect("the server runs");
    });
    ws.send(Message::text(r#"{"type":"subscribe","payload":{"event_types":["a"]}}"#)).expect("it is open");
    read_until(&mut ws, "\"ack\"");
    bus.publish(event("a"));
    assert!(read_until(&mut ws, "\"event\"").contains(r#""stream_id":"s""#));
    // An adopted client is closed as any other: with the code for a restart.
    server.drain(Duration::ZERO);
    loop {
        if let Message::Close(Some(frame)) = ws.read().expect("a close frame") {
            assert_eq!(u16::from(frame.code), 1012);
            break;
        }
    }
    server.join().expect("no thread failed");
}

/// A client may send its first message together with its request.
#[test]
fn bytes_that_the_program_has_read_are_used_first() {
    let bus = Bus::new();
    let (server, acceptor) = serve(&bus);
    let (client, socket) = accepted();
    let request = get("/ws")
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    // Masked text frames with a key of zeros. The rest of the second one arrives by the socket.
    let message = br#"{"type":"ping"}"#;
    let mut frame = vec![0x81, 0x80 | message.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(message);
    let two = [frame.as_slice(), &frame].concat();
    let (read, later) = two.split_at(frame.len() + 5);
    acceptor.adopt(request, socket, read.to_vec()).expect("the server runs");
    (&client).write_all(later).expect("it is open");
    let text = read_stream_lossy(&client, "pong", 2);
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    stop(server);
}

/// Reads until `part` has arrived `times` times.
fn read_stream_lossy(mut stream: impl Read, part: &str, times: usize) -> String {
    let mut all = String::new();
    while all.matches(part).count() < times {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).expect("bytes");
        assert!(read > 0, "ended after {all:?}");
        all.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    all
}

#[test]
fn a_program_that_writes_the_response_gets_one_head_only() {
    let bus = Bus::new();
    let (server, acceptor) = serve(&bus);
    let (client, mut socket) = accepted();
    let stream = acceptor.check(get("/sse?type=a")).expect("it is a stream");
    assert_eq!(stream.response().status(), 200);
    let headers: Vec<_> = stream.response().headers().map(|(name, _)| name.to_ascii_lowercase()).collect();
    assert!(headers.contains(&"content-type".to_owned()), "{headers:?}");
    socket.write_all(&stream.response().to_bytes()).expect("it is open");
    stream.adopt(socket, Vec::new()).expect("the server runs");
    let first = read_stream(&client, "retry:");
    bus.publish(event("a"));
    let all = first + &read_stream(&client, "event: a");
    assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{all}");

    let mut ws = open_websocket("/ws", |mut socket| {
        let (request, read) = read_request(&mut socket);
        let stream = acceptor.check(request).expect("it is a WebSocket");
        assert_eq!(stream.response().status(), 101);
        socket.write_all(&stream.response().to_bytes()).expect("it is open");
        stream.adopt(socket, read).expect("the server runs");
    });
    ws.send(Message::text(r#"{"type":"ping"}"#)).expect("it is open");
    read_until(&mut ws, "pong");
    stop(server);
}

#[test]
fn a_pair_carries_what_is_not_tcp() {
    let bus = Bus::new();
    let (server, acceptor) = serve(&bus);
    let (client, end) = UnixStream::pair().expect("a pair");
    client.set_read_timeout(Some(PATIENCE)).expect("a time");
    acceptor.adopt(get("/sse").peer([127, 0, 0, 9].into()), end, Vec::new()).expect("the server runs");
    read_stream(&client, "retry:");
    bus.publish(event("b"));
    read_stream(&client, "event: b");
    stop(server);
}

#[test]
fn a_refusal_comes_before_the_response_or_as_one() {
    let bus = Bus::new();
    let (server, acceptor) = serve(&bus);
    for (request, status, word) in [
        (get("/nowhere"), 404, "nothing at /nowhere"),
        (get("/healthz"), 200, ""),
        (get("/ws"), 426, "upgrade"),
        (get("/sse?typ=a"), 400, "type"),
        (get("sse"), 400, "starts with /"),
        (get("/sse HTTP/1.1\r\nX: y"), 400, "starts with /"),
        (get("/sse").header("A", "b\r\nX: y"), 400, "forbidden character"),
        (get("/sse").header("A b", "c"), 400, "forbidden character"),
        (get("/sse").header("Content-Length", "5"), 400, "no body"),
        (StreamRequest::get("/sse"), 400, "Host"),
        (get("/sse").header("Origin", "https://evil.example"), 403, "allowed_origin"),
        (get("/sse").claims(Claims::default()), 500, "auth.by_program"),
    ] {
        let name = format!("{request:?} {status} {word}");
        let response = acceptor.check(request).expect_err(&name);
        assert_eq!(response.status(), status, "{name}");
        let body = String::from_utf8_lossy(response.body()).to_lowercase();
        assert!(body.contains(&word.to_lowercase()), "{name}: {body}");
    }
    // If the server answers itself, it writes the refusal and closes.
    let (mut client, socket) = accepted();
    acceptor.adopt(get("/nowhere"), socket, Vec::new()).expect("the server runs");
    let mut all = String::new();
    client.read_to_string(&mut all).expect("a response and its end");
    assert!(all.starts_with("HTTP/1.1 404 ") && all.contains("Connection: close"), "{all}");

    server.drain(Duration::ZERO);
    server.join().expect("no thread failed");
    let response = acceptor.check(get("/sse")).expect_err("the server has ended");
    assert_eq!(response.status(), 503);
    let (_client, socket) = accepted();
    acceptor.adopt(get("/sse"), socket, Vec::new()).expect_err("the server has ended");
}

#[test]
fn claims_of_the_program_limit_the_events_of_its_client() {
    let bus = Bus::new();
    let mut config = ServerConfig::default();
    config.auth.by_program = true;
    let server = Server::builder(&bus).config(config).spawn().expect("a server");
    let acceptor = server.acceptor();
    // Without claims and without a token there are no rights.
    assert_eq!(acceptor.check(get("/sse")).expect_err("no rights").status(), 401);
    let mut claims = Claims::default();
    claims.sub = Some("ann".to_owned());
    claims.types = Some(vec!["a.*".to_owned()]);
    let client = open_stream(&acceptor, get("/sse").claims(claims.clone()));
    bus.publish(event("b.secret"));
    bus.publish(event("a.seen"));
    assert!(!read_stream(&client, "event: a.seen").contains("secret"));

    claims.exp = Some(1);
    let refused = acceptor.check(get("/sse").claims(claims));
    assert_eq!(refused.expect_err("the rights have ended").status(), 401);
    stop(server);
}

#[test]
fn adopted_connections_count_as_others_do() {
    let bus = Bus::new();
    let mut config = ServerConfig::default();
    config.max_connections = 2;
    let server = Server::builder(&bus).config(config).loops(2).spawn().expect("a server");
    let acceptor = server.acceptor();
    let clients = [(); 2].map(|()| open_stream(&acceptor, get("/sse")));
    bus.publish(event("a"));
    for client in &clients {
        read_stream(client, "event: a");
    }
    assert_eq!(acceptor.check(get("/sse")).expect_err("there is no room").status(), 503);
    let (mut client, socket) = accepted();
    acceptor.adopt(get("/sse"), socket, Vec::new()).expect("the server runs");
    let mut all = String::new();
    client.read_to_string(&mut all).expect("a response and its end");
    assert!(all.starts_with("HTTP/1.1 503 "), "{all}");
    stop(server);
}

/// A client over TCP moves to another process. A client behind a pump can't move: it is closed, and reconnects.
#[test]
fn an_adopted_client_moves_to_a_successor() {
    let bus = Bus::new();
    let (server, acceptor) = serve(&bus);
    let client = open_stream(&acceptor, get("/sse?type=a"));
    let (mut piped, end) = UnixStream::pair().expect("a pair");
    piped.set_read_timeout(Some(PATIENCE)).expect("a time");
    acceptor.adopt(get("/sse?type=a"), end, Vec::new()).expect("the server runs");
    read_stream(&piped, "retry:");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let successor = std::thread::spawn(move || {
        let mut inheritance = Inheritance::claim(theirs).expect("it is handed over");
        let bus = inheritance.bus(&BusConfig::default()).expect("a bus");
        let server = Server::builder(&bus).inherit(inheritance).spawn().expect("a server");
        (bus, server)
    });
    assert_eq!(server.hand_over(ours, PATIENCE, || ()).expect("it is handed over"), 1);
    let (bus, successor) = successor.join().expect("no panic");
    server.join().expect("no thread failed");
    bus.publish(event("a"));
    read_stream(&client, "event: a");
    piped.read_to_end(&mut Vec::new()).expect("its end");
    stop(successor);
}

#[test]
fn an_adopted_client_that_does_not_read_gets_a_gap() {
    let bus = Bus::new();
    let mut config = ServerConfig::default();
    config.max_lag_events = 10;
    let server = Server::builder(&bus).config(config).spawn().expect("a server");
    let acceptor = server.acceptor();
    let [slow, other] = [(); 2].map(|()| open_stream(&acceptor, get("/sse?type=a")));
    // The sockets' buffers take some; the feed evicts the oldest of the rest.
    for n in 0..400 {
        bus.publish(numbered(n, 64 * 1024));
        read_stream(&other, &format!("<{n}>"));
    }
    read_stream(&slow, "event: gap");
    stop(server);
}

/// A burst to several adopted clients is written from shared memory pages.
#[cfg(target_os = "linux")]
#[test]
fn adopted_clients_share_pages() {
    let bus = Bus::new();
    let server = Server::builder(&bus).listen("127.0.0.1:0").spawn().expect("a server");
    let acceptor = server.acceptor();
    let clients = [(); 10].map(|()| open_stream(&acceptor, get("/sse?type=a")));
    bus.publish_batch((0..50).map(|n| numbered(n, 1000)));
    for client in &clients {
        read_stream(client, "<49>");
    }
    let shares = || {
        let mut asking = TcpStream::connect(server.local_addr()).expect("it listens");
        asking.set_read_timeout(Some(PATIENCE)).expect("a time");
        asking
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("it is open");
        let mut metrics = String::new();
        asking.read_to_string(&mut metrics).expect("a response and its end");
        let shared = metrics.split("\nfanwire_server_writes_shared_total ").nth(1).unwrap_or_default();
        shared.starts_with(|digit: char| ('1'..='9').contains(&digit))
    };
    // Writes are counted after they are made.
    let end = Instant::now() + PATIENCE;
    while !shares() {
        assert!(Instant::now() < end, "no write was of shared pages");
        std::thread::sleep(Duration::from_millis(5));
    }
    stop(server);
}

/// The program has read a request's head, and a part of its body. The server reads the rest.
#[test]
fn an_adopted_request_publishes_and_is_answered_by_its_run() {
    let bus = Bus::new();
    let (server, acceptor) = serve(&bus);
    let body = r#"[{"type":"token","payload":"<1>"},{"type":"token","payload":"<2>"}]"#;
    for (name, value, pieces) in [
        ("Content-Length", body.len().to_string(), vec![body[..20].to_owned(), body[20..].to_owned()]),
        ("Content-Length", body.len().to_string(), vec![String::new(), body.to_owned()]),
        (
            "Transfer-Encoding",
            "chunked".to_owned(),
            vec![format!("{:x}\r\n{}", body.len(), &body[..20]), format!("{}\r\n0\r\n\r\n", &body[20..])],
        ),
    ] {
        let (mut client, socket) = accepted();
        let request = StreamRequest::post("/runs/run-1").header("Host", "localhost").header(name, &value);
        acceptor.adopt(request, socket, pieces[0].clone().into_bytes()).expect("the server runs");
        client.write_all(pieces[1].as_bytes()).expect("it is open");
        let answer = read_stream(&client, "<2>");
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("<1>"), "{answer}");
    }
    // Refusals come as on the server's own port, and a program that writes the response itself can't have a run.
    let (mut client, socket) = accepted();
    let request =
        StreamRequest::post("/runs/run-1").header("Host", "localhost").header("Content-Length", "1");
    acceptor.adopt(request, socket, Vec::new()).expect("the server runs");
    client.write_all(b"{").expect("it is open");
    let mut all = String::new();
    client.read_to_string(&mut all).expect("the end");
    assert!(all.starts_with("HTTP/1.1 400"), "{all}");
    let request =
        StreamRequest::post("/runs/run-1").header("Host", "localhost").header("Content-Length", "1");
    assert_eq!(acceptor.check(request).map(|_| ()).expect_err("a refusal").status(), 405);
    stop(server);
}

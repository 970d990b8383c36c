//! Requests of other people's clients, polyfills, pools and proxies, and the answers that they depend on.

mod support;

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use support::http::{self, read_response};
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::{Server, eventually};

fn ask(server: &Server, method: &str, path: &str, headers: &str) -> http::Response {
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n");
    http::exchange(server.addr, request.as_bytes())
}

/// A connection of a pool may be used immediately and then be idle. The time limit of a handshake does not apply to it.
#[test]
fn a_connection_that_was_answered_may_idle_however_soon_it_asked() {
    // A busy machine may take a part of this time before it sends the first request.
    let server = Server::with(&["--handshake-timeout", "2s", "--keep-alive", "1h"]);
    let ask = |pooled: &mut Wire| {
        pooled.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
        assert_eq!(read_response(pooled, deadline()).expect("an answer").status, 200);
    };
    let mut pool = [1, 3].map(|requests| {
        let mut pooled = Wire::connect(server.addr);
        (0..requests).for_each(|_| ask(&mut pooled));
        pooled
    });
    std::thread::sleep(Duration::from_millis(3500));
    pool.iter_mut().for_each(ask);
    // A connection without any request is closed as before.
    let mut silent = Wire::connect(server.addr);
    assert_eq!(silent.take_rest(deadline()).expect("the end"), b"");
}

/// `event-source-polyfill` sends `lastEventId`; other polyfills use other spellings.
#[test]
fn polyfills_resume_by_their_own_names_of_the_last_id() {
    let server = Server::start();
    let first = server.publish(r#"{"type":"a"}"#)["last_event_id"].as_str().expect("an id").to_owned();
    server.publish(r#"{"type":"b"}"#);
    for name in ["last_event_id", "lastEventId", "lastEventID", "Last-Event-ID", "last-event-id"] {
        let mut stream = Sse::open(server.addr, &format!("?{name}={first}"));
        assert_eq!(stream.event().event.as_deref(), Some("b"), "{name}");
    }
    // An empty header counts as absent, so the query counts (HTML, 9.2.4).
    for header in ["Last-Event-ID:\r\n", "Last-Event-ID:  \r\n"] {
        let mut stream = Sse::with(server.addr, &format!("?last_event_id={first}"), header);
        assert_eq!(stream.event().event.as_deref(), Some("b"), "{header:?}");
    }
    let mut stream = Sse::open(server.addr, &format!("?last_event_id=&lastEventId={first}"));
    assert_eq!(stream.event().event.as_deref(), Some("b"));
}

/// The loop in httpx-sse's manual keeps only the newest stream's `id`. So a resumed stream must send its position
/// before its first event, or a loss after a break before that event would be unnoticed.
#[test]
fn a_stream_that_resumes_names_its_place_before_its_first_event() {
    let server = Server::start();
    let first = server.publish(r#"{"type":"a"}"#)["last_event_id"].as_str().expect("an id").to_owned();
    for more in ["", "Accept-Encoding: gzip;q=0\r\n"] {
        let mut stream = Sse::with(server.addr, "", &format!("Last-Event-ID: {first}\r\n{more}"));
        let block = stream.block(deadline()).expect("what comes first");
        assert_eq!((block.id.as_deref(), block.retry, block.data), (Some(first.as_str()), Some(3000), None));
        // The events of a past have ids. An id that never existed is reported as a gap.
        for from in ["?history=1", "?snapshot", "?last_event_id=no-such-id"] {
            let mut stream = Sse::with(server.addr, from, more);
            let block = stream.block(deadline()).expect("what comes first");
            assert_eq!((block.id, block.retry), (None, Some(3000)), "{from}");
        }
    }
}

#[test]
fn a_named_window_is_answered_and_empty_elements_are_passed_over() {
    let server = Server::start();
    let upgrade = |more: &str| {
        let headers = format!(
            "GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        let mut wire = Wire::connect(server.addr);
        wire.send(headers.as_bytes());
        http::read_head(&mut wire, deadline()).expect("an answer")
    };
    // RFC 7692, 7.1.2.1. Python's `websockets` fails the handshake if the answer does not mention it.
    let answer = upgrade(
        "sec-websocket-extensions: permessage-deflate; server_max_window_bits=15; client_max_window_bits\r\n",
    );
    assert_eq!(answer.status, 101);
    assert!(
        answer.header("sec-websocket-extensions").is_some_and(|e| e.contains("server_max_window_bits=15")),
        "{answer:?}"
    );
    let answer = upgrade("sec-websocket-protocol: , fanwire.v1,,\r\n");
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, Some("fanwire.v1")));
}

#[test]
fn an_origin_is_equal_with_and_without_its_default_port() {
    let server = Server::with(&[
        "--allowed-origin",
        "https://app.example:443",
        "--cors-origin",
        "http://page.example",
        // Without authentication, a server on loopback answers only to its own names.
        "--allowed-host",
        "h",
    ]);
    let post = |host: &str, origin: &str| {
        let request = format!(
            "POST /publish HTTP/1.1\r\nhost: {host}\r\norigin: {origin}\r\nconnection: close\r\ncontent-length: 12\r\n\r\n{{\"type\":\"a\"}}"
        );
        http::exchange(server.addr, request.as_bytes())
    };
    for (host, origin, status) in [
        ("h:443", "https://h", 200),
        ("h", "https://h:443", 200),
        ("h:80", "http://h", 200),
        ("H", "http://h:80", 200),
        ("[::1]:80", "http://[::1]", 200),
        ("h", "https://app.example", 200),
        ("h:443", "http://h", 403),
        ("h", "https://h:8443", 403),
        ("h", "http://app.example", 403),
        ("h", "null", 403),
    ] {
        assert_eq!(post(host, origin).status, status, "{host} {origin}");
    }
    let read = ask(&server, "GET", "/healthz", "origin: http://page.example:80\r\n");
    assert_eq!(read.header("access-control-allow-origin"), Some("http://page.example:80"));
    assert!(
        read.header("access-control-expose-headers").is_some_and(|names| names.contains("Retry-After")),
        "{read:?}"
    );
}

/// A preflight that lacks one of a library's own headers refuses all of its requests (Fetch, 4.9).
#[test]
fn a_preflight_allows_the_headers_that_libraries_add() {
    let server = Server::with(&["--cors-origin", "http://page.example"]);
    let headers = "origin: http://page.example\r\naccess-control-request-method: GET\r\n";
    let answer = ask(&server, "OPTIONS", "/sse", headers);
    assert_eq!(answer.status, 204, "{answer:?}");
    let allowed = answer.header("access-control-allow-headers").unwrap_or_default().to_ascii_lowercase();
    for name in
        ["last-event-id", "cache-control", "pragma", "x-requested-with", "authorization", "content-type"]
    {
        assert!(allowed.split(", ").any(|one| one == name), "{name} is not in {allowed}");
    }
}

#[test]
fn answers_conform_to_the_rfcs() {
    let server = Server::start();
    // RFC 9110, 7.8: a client that sends `Upgrade` names it in `Connection`.
    let plain = ask(&server, "GET", "/ws", "");
    assert_eq!((plain.status, plain.header("upgrade")), (426, Some("websocket")));
    assert_eq!(plain.header("connection"), Some("upgrade, close"));
    // 9.3.2: HEAD is answered like GET, without a body.
    let mut wire = Wire::connect(server.addr);
    wire.send(b"HEAD /ws HTTP/1.1\r\nhost: localhost\r\n\r\nHEAD /sse HTTP/1.1\r\nhost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(http::read_head(&mut wire, deadline()).expect("a head").status, 426);
    let head = http::read_head(&mut wire, deadline()).expect("a head");
    assert_eq!((head.status, head.header("connection")), (200, Some("keep-alive")));
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert_eq!(read_response(&mut wire, deadline()).expect("what it says holds").status, 200);
    // 6.6.1: an origin server with a clock sends a date, in the one form that the RFC allows.
    for path in ["/", "/healthz", "/nowhere", "/ws"] {
        let answer = ask(&server, "GET", path, "");
        let date = answer.header("date").unwrap_or_else(|| panic!("{path}: {answer:?}"));
        assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
    }
    assert!(Sse::open(server.addr, "").response.header("date").is_some());
    // RFC 9112, 3.2: an invalid Host is refused.
    let bad = http::exchange(server.addr, b"GET /healthz HTTP/1.1\r\nhost: a b\r\nconnection: close\r\n\r\n");
    assert_eq!(bad.status, 400);
    assert!(bad.header("date").is_some(), "{bad:?}");
    // RFC 3986, 3.1: schemes have no case.
    let absolute = http::exchange(
        server.addr,
        b"GET HTTP://LOCALHOST/healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    );
    assert_eq!(absolute.status, 200);
}

/// A first line that only a lenient parser accepts as JSON still counts as an event: it is published before the end of
/// the input.
#[test]
fn lines_are_published_as_they_arrive_whatever_they_contain() {
    for first in [r#"{"type":"a","payload":1e400}"#, r#"{"type":"a","payload":"\ud800"}"#, &deep(128)] {
        let server = Server::start();
        let mut stream = Sse::open(server.addr, "");
        let mut publish = support::fanwire()
            .args(["publish", "--url", &format!("http://{}", server.addr), "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        let input = publish.stdin.as_mut().expect("a pipe");
        input.write_all(format!("{first}\n").as_bytes()).expect("written");
        assert_eq!(stream.event().event.as_deref(), Some("a"), "{first}");
        drop(publish.stdin.take());
        let mut status = None;
        eventually("it ends", || {
            status = publish.try_wait().expect("our child");
            status.is_some()
        });
        assert!(status.expect("ended").success());
    }
}

fn deep(levels: usize) -> String {
    format!(r#"{{"type":"a","payload":{}{}}}"#, "[".repeat(levels), "]".repeat(levels))
}

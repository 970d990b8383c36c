//! Broken, hostile and lost clients, row by row: the answer is the expected one, no other client is affected, and the
//! server continues.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::http::{self, post_request, read_response};
use support::wire::{Wire, deadline};
use support::ws::{self, KEY, Ws};
use support::{Server, eventually, numbered};

/// A well-behaved client that must not be affected.
struct Witness {
    client: Ws,
    seen: usize,
}

impl Witness {
    fn new(server: &Server) -> Self {
        Self { client: Ws::subscribed(server.addr, json!({})), seen: 0 }
    }

    /// Panics unless the client gets the next event, and nothing else.
    fn check(&mut self, server: &Server, row: &str) {
        server.assert_serving();
        server.publish(numbered(self.seen));
        assert_eq!(self.client.event()["payload"], json!({"n": self.seen}), "after {row}");
        self.seen += 1;
    }
}

struct HttpRow {
    name: &'static str,
    input: Vec<u8>,
    /// Expected status: one of these.
    status: &'static [u16],
    /// A header that the answer must have, and a text within it.
    header: Option<(&'static str, &'static str)>,
}

fn row(name: &'static str, input: impl Into<Vec<u8>>, status: &'static [u16]) -> HttpRow {
    HttpRow { name, input: input.into(), status, header: None }
}

fn with_header(
    name: &'static str,
    input: impl Into<Vec<u8>>,
    status: &'static [u16],
    header: (&'static str, &'static str),
) -> HttpRow {
    HttpRow { header: Some(header), ..row(name, input, status) }
}

/// Returns a request with no header except the host.
fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// Returns a publish request with these header lines and this body.
fn publish(headers: &str, body: &str) -> String {
    format!("POST /publish HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n{body}")
}

/// The shortest event.
const EVENT: &str = r#"{"type":"x"}"#;

/// Returns a request that publishes into a run.
fn run(target: &str, body: &str) -> String {
    format!(
        "POST /runs/{target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Returns a request to publish an event with this dedupe id, as JSON.
fn event_with(dedupe_id: &str) -> String {
    let body = format!(r#"{{"type":"x","dedupe_id":{dedupe_id}}}"#);
    publish(&format!("Content-Length: {}\r\n", body.len()), &body)
}

/// Returns a handshake with some of its lines replaced.
fn handshake(replace: &[(&str, &str)]) -> String {
    replace.iter().fold(ws::upgrade_request("/ws", ""), |request, (from, to)| {
        assert!(request.contains(from), "{from}");
        request.replace(from, to)
    })
}

fn http_rows() -> Vec<HttpRow> {
    let key_line = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let version = "Sec-WebSocket-Version: 13\r\n";
    vec![
        // Input that is not HTTP at all.
        row("zero bytes", [0; 64], &[400]),
        row("a query name with a typing error", get("/sse?types=task.*"), &[400]),
        row("a page with limit 0", get("/events?limit=0"), &[400]),
        row("a page that is too long", get("/events?limit=1001"), &[400]),
        row("a page with a limit that is not a number", get("/events?limit=ten"), &[400]),
        row("a page after and before a place", get("/events?after=a-1&before=a-2&order=desc"), &[400]),
        row("a page before a place in the order of publishing", get("/events?before=a-1"), &[400]),
        row("a page after a place in the other order", get("/events?after=a-1&order=desc"), &[400]),
        row("a page in an unknown order", get("/events?order=newest"), &[400]),
        row("a page since an invalid time", get("/events?since=yesterday"), &[400]),
        row("a page since the latest possible time", get("/events?since=9223372036854775807"), &[400]),
        row("a page after an invalid place", get("/events?after=x"), &[400]),
        row("a page after a place with a forged seal", get("/events?after=~00"), &[400]),
        row("a page after a place in other shards", get("/events?after=a~1.2"), &[400]),
        row("a page with two limits", get("/events?limit=1&limit=2"), &[400]),
        row("a page with a typing error", get("/events?limt=1"), &[400]),
        row("a run without a name", run("", "{}"), &[404]),
        row("a GET of a run", get("/runs/run-1"), &[405]),
        row("an event of another run", run("run-1", r#"{"type":"a","stream_id":"run-2"}"#), &[400]),
        row("an event without a type in a run", run("run-1", r#"{"payload":1}"#), &[400]),
        row("a run with a typing error", run("run-1?form=start", EVENT), &[400]),
        row("a run from its beginning", run("run-1?from=begin", EVENT), &[400]),
        row("a run with a filter", run("run-1?type=a", EVENT), &[400]),
        row(
            "a run to be opened again that no rule keeps",
            run("run-1", r#"{"type":"a","reopen":true}"#),
            &[400],
        ),
        row("a purge without a value", "DELETE /events HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        row("a purge of a pattern", "DELETE /events?stream=** HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        row(
            "a purge of a page",
            "DELETE /events?stream=a&limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            &[400],
        ),
        row("an unknown start of a stream", get("/sse?stream=run-1&from=begin"), &[400]),
        row("an unknown answer for an absent stream", get("/sse?stream=run-1&absent=404"), &[400]),
        row("garbage bytes", (0..=255).rev().cycle().take(4000).collect::<Vec<u8>>(), &[400]),
        row("a TLS client", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20), &[400]),
        row("an SSH client", "SSH-2.0-OpenSSH_9.2p1\r\n\r\n", &[400]),
        row("HTTP/2 without asking", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400, 505]),
        row(
            "a proxy's preamble",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            &[400],
        ),
        // Wrong HTTP.
        row("no version", "GET /\r\n\r\n", &[400]),
        row("no path", "GET HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        row("an invalid version", "GET / HTTP/1.x\r\nHost: localhost\r\n\r\n", &[400, 505]),
        row("an unknown version", "GET / HTTP/3.9\r\nHost: localhost\r\n\r\n", &[400, 505]),
        row("two spaces", "GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        row("a space in the path", "GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        row("a control character in the path", get("/\x01"), &[400]),
        row("a method that is no token", "G{T / HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        row("no host", "GET / HTTP/1.1\r\n\r\n", &[400]),
        row("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[400]),
        row("a space before the colon", "GET / HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n", &[400]),
        row("a header without a colon", "GET / HTTP/1.1\r\nHost: localhost\r\nnonsense\r\n\r\n", &[400]),
        row("a header without a name", "GET / HTTP/1.1\r\nHost: localhost\r\n: y\r\n\r\n", &[400]),
        row("a folded header", "GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n", &[400]),
        row("a zero byte in a header", "GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n", &[400]),
        row(
            "a bare carriage return in a header",
            "GET / HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n",
            &[400],
        ),
        row("lines that end in a bare line feed", "GET / HTTP/1.1\nHost: t\n\n", &[400]),
        row("one header that ends in a bare line feed", "GET / HTTP/1.1\r\nHost: t\nX: y\r\n\r\n", &[400]),
        row("a head that ends in a bare line feed", "GET / HTTP/1.1\r\nHost: localhost\r\n\n", &[400]),
        row("a first header that is folded", "GET / HTTP/1.1\r\n Host: localhost\r\n\r\n", &[400]),
        row("a header folded by a tab", "GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n\tb\r\n\r\n", &[400]),
        row("a tab before the colon", "GET / HTTP/1.1\r\nHost: localhost\r\nX\t: y\r\n\r\n", &[400]),
        row("a space before the colon of a length", publish("Content-Length : 2\r\n", "{}"), &[400]),
        // Too much input.
        row(
            "1 MB header",
            format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)),
            &[431],
        ),
        row(
            "1 MB of headers",
            format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(1 << 17)),
            &[431],
        ),
        row("1 MB path", get(&format!("/{}", "x".repeat(1 << 20))), &[414, 431]),
        row("1 MB method", "G".repeat(1 << 20), &[400, 414, 431]),
        row(
            "1,000 headers",
            format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(1000)),
            &[431],
        ),
        row("a body over the limit, announced", publish("Content-Length: 4194305\r\n", ""), &[413]),
        row(
            "a body over any limit, announced",
            publish("Content-Length: 18446744073709551615\r\n", ""),
            &[400, 413],
        ),
        row("a chunk over the limit", publish("Transfer-Encoding: chunked\r\n", "400001\r\n"), &[413]),
        row(
            "chunks over the limit in sum",
            publish(
                "Transfer-Encoding: chunked\r\n",
                &format!("100000\r\n{}\r\n", " ".repeat(1 << 20)).repeat(5),
            ),
            &[413],
        ),
        // Bodies of unclear length (request smuggling).
        row(
            "Content-Length and Transfer-Encoding",
            publish("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            &[400],
        ),
        row(
            "Transfer-Encoding and Content-Length",
            publish("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "0\r\n\r\n"),
            &[400],
        ),
        row("two lengths", publish("Content-Length: 2\r\nContent-Length: 3\r\n", "{}x"), &[400]),
        row("two lengths in one", publish("Content-Length: 2, 3\r\n", "{}x"), &[400]),
        row("a length that is no number", publish("Content-Length: two\r\n", "{}"), &[400]),
        row("a negative length", publish("Content-Length: -2\r\n", "{}"), &[400]),
        row("a length with a plus", publish("Content-Length: +2\r\n", "{}"), &[400]),
        row("an empty length", publish("Content-Length: \r\n", "{}"), &[400, 411]),
        row(
            "a length beyond numbers",
            publish("Content-Length: 99999999999999999999999\r\n", "{}"),
            &[400, 413],
        ),
        row("an unknown encoding", publish("Transfer-Encoding: gzip\r\n", "{}"), &[400, 501]),
        row("chunked not last", publish("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"), &[400, 501]),
        row(
            "chunked twice",
            publish("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            &[400, 501],
        ),
        row("an invalid chunk size", publish("Transfer-Encoding: chunked\r\n", "xyz\r\n"), &[400]),
        row("an empty chunk size", publish("Transfer-Encoding: chunked\r\n", "\r\n{}\r\n"), &[400]),
        row(
            "a chunk size that ends in a bare line feed",
            publish("Transfer-Encoding: chunked\r\n", "2\n{}\r\n0\r\n\r\n"),
            &[400],
        ),
        row(
            "a chunk that ends in a bare line feed",
            publish("Transfer-Encoding: chunked\r\n", "2\r\n{}\n0\r\n\r\n"),
            &[400],
        ),
        row("a negative chunk size", publish("Transfer-Encoding: chunked\r\n", "-1\r\n"), &[400]),
        row(
            "a chunk size with 0x",
            publish("Transfer-Encoding: chunked\r\n", "0x2\r\n{}\r\n0\r\n\r\n"),
            &[400],
        ),
        row(
            "a chunk size beyond numbers",
            publish("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n"),
            &[400, 413],
        ),
        row(
            "a chunk longer than its size",
            publish("Transfer-Encoding: chunked\r\n", "2\r\n{}x\r\n0\r\n\r\n"),
            &[400],
        ),
        row(
            "an endless chunk extension",
            publish("Transfer-Encoding: chunked\r\n", &format!("2;{}", "x".repeat(1 << 20))),
            &[400, 413, 431],
        ),
        row(
            "endless trailers",
            publish("Transfer-Encoding: chunked\r\n", &format!("0\r\n{}", "x: y\r\n".repeat(1 << 17))),
            &[400, 413, 431],
        ),
        row("a post without a length", publish("", ""), &[411]),
        row("an unknown expectation", publish("Content-Length: 2\r\nExpect: miracles\r\n", "{}"), &[417]),
        // Well-formed requests for missing resources.
        row("an unknown path", get("/nothing"), &[404]),
        row("a path above the root", get("/../../etc/passwd"), &[400, 404]),
        with_header(
            "a wrong method",
            "DELETE /publish HTTP/1.1\r\nHost: localhost\r\n\r\n",
            &[405],
            ("allow", "POST"),
        ),
        with_header("publish by GET", get("/publish"), &[405], ("allow", "POST")),
        with_header(
            "a post to the stream",
            "POST /sse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
            &[405],
            ("allow", "GET"),
        ),
        row("an unknown method", "BREW /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", &[404, 405, 501]),
        row("CONNECT", "CONNECT t:80 HTTP/1.1\r\nHost: t:80\r\n\r\n", &[400, 404, 405, 501]),
        row("another media type", publish("Content-Type: image/png\r\nContent-Length: 2\r\n", "{}"), &[415]),
        row("an empty key", publish("Idempotency-Key:\r\nContent-Length: 12\r\n", EVENT), &[400]),
        row(
            "a key of empty quotes",
            publish("Idempotency-Key: \"\"\r\nContent-Length: 12\r\n", EVENT),
            &[400],
        ),
        row(
            "a key of 10 kB",
            publish(&format!("Idempotency-Key: {}\r\nContent-Length: 12\r\n", "k".repeat(10_000)), EVENT),
            &[400],
        ),
        row(
            "two idempotency keys",
            publish("Idempotency-Key: a\r\nIdempotency-Key: b\r\nContent-Length: 12\r\n", EVENT),
            &[400],
        ),
        row("a dedupe id that is no text", event_with("5"), &[400]),
        row("a dedupe id that is a list", event_with("[\"a\"]"), &[400]),
        row("an empty dedupe id", event_with("\"\""), &[400]),
        row("a dedupe id of 10 kB", event_with(&format!("\"{}\"", "i".repeat(10_000))), &[400]),
        row("an object that is not an event", publish("Content-Length: 2\r\n", "{}"), &[400]),
        // Handshakes.
        row("no upgrade", get("/ws"), &[400, 426]),
        row("no Upgrade header", handshake(&[("Upgrade: websocket\r\n", "")]), &[400, 426]),
        row("another protocol", handshake(&[("Upgrade: websocket", "Upgrade: h2c")]), &[400, 426]),
        row("no Connection header", handshake(&[("Connection: Upgrade\r\n", "")]), &[400, 426]),
        row("no key", handshake(&[(&key_line, "")]), &[400]),
        row("a short key", handshake(&[(KEY, "dG9vIHNob3J0")]), &[400]),
        row("a long key", handshake(&[(KEY, "dGhpcyBrZXkgaXMgbG9uZ2VyIHRoYW4gMTY=")]), &[400]),
        row("a key that is no base64", handshake(&[(KEY, "!!!!!!!!!!!!!!!!!!!!!!==")]), &[400]),
        row("two keys", handshake(&[(&key_line, &key_line.repeat(2))]), &[400]),
        with_header(
            "version 12",
            handshake(&[(version, "Sec-WebSocket-Version: 12\r\n")]),
            &[426],
            ("sec-websocket-version", "13"),
        ),
        with_header(
            "no version header",
            handshake(&[(version, "")]),
            &[400, 426],
            ("content-type", "application/json"),
        ),
        with_header(
            "version 13 and others",
            handshake(&[(version, "Sec-WebSocket-Version: 13, 8\r\n")]),
            &[400, 426],
            ("content-type", "application/json"),
        ),
        row(
            "a handshake by POST",
            handshake(&[("GET", "POST")]).replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n"),
            &[405],
        ),
        row("a handshake of HTTP/1.0", handshake(&[("HTTP/1.1", "HTTP/1.0")]), &[400, 426, 505]),
    ]
}

/// Time limit of the answer to a fault. A server that waits for more input has not detected the fault.
const ANSWER: Duration = Duration::from_secs(2);

/// Sends a row's input in two pieces. Returns the fault of the answer as an error.
fn check_http(server: &Server, row: &HttpRow, cut: usize) -> Result<(), String> {
    let mut wire = Wire::connect(server.addr);
    wire.send_if_taken(&row.input[..cut]);
    wire.send_if_taken(&row.input[cut..]);
    let answer = read_response(&mut wire, Instant::now() + ANSWER).map_err(|error| error.to_string())?;
    let error = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
    let wrong = if !row.status.contains(&answer.status) {
        format!("want {:?}", row.status)
    } else if row
        .header
        .is_some_and(|(name, value)| !answer.header(name).is_some_and(|got| got.contains(value)))
    {
        format!("want {:?}", row.header)
    } else if answer.header("content-type") != Some("application/json")
        || error["error"].as_str().is_none_or(str::is_empty)
    {
        "not a JSON error".into()
    } else if answer.body.len() > 1000 {
        "it repeats what was sent".into()
    } else {
        return Ok(());
    };
    Err(format!("{wrong}: {answer:?}"))
}

#[test]
fn every_bad_request_has_its_status_and_the_server_continues() {
    let server = Server::start();
    let mut witness = Witness::new(&server);
    let mut wrong = Vec::new();
    for row in http_rows() {
        // In one piece, and split so that a parser sees only half of the fault at first.
        for cut in [row.input.len(), row.input.len() / 2] {
            wrong.extend(check_http(&server, &row, cut).err().map(|why| format!("{}: {why}", row.name)));
        }
        witness.check(&server, row.name);
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn after_a_fault_nothing_of_the_connection_is_read_as_a_request() {
    let server = Server::start();
    let smuggled = numbered(1);
    let second =
        String::from_utf8(post_request("/publish", "application/json", smuggled.as_bytes())).expect("ASCII");
    let mut client = Ws::subscribed(server.addr, json!({}));
    for first in [
        publish("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        publish("Content-Length: 1\r\nContent-Length: 2\r\n", ""),
        publish("Transfer-Encoding: chunked\r\n", "zz\r\n"),
        "GET / HTTP/1.1\r\nX : y\r\n\r\n".to_owned(),
    ] {
        let mut wire = Wire::connect(server.addr);
        wire.send_if_taken((first + &second).as_bytes());
        assert_eq!(read_response(&mut wire, deadline()).expect("an answer").status, 400);
        assert_eq!(wire.take_rest(deadline()).expect("the connection ends"), b"");
    }
    assert!(client.is_silent_for(Duration::from_millis(100)), "a smuggled request was obeyed");
}

const MASK: Option<[u8; 4]> = Some([0x37, 0xfa, 0x21, 0x3d]);

/// Frames, each with the close code that must answer it.
fn frame_rows() -> Vec<(&'static str, Vec<u8>, u16)> {
    let text = |payload: &[u8]| ws::frame(ws::TEXT, payload);
    let close = |payload: &[u8]| ws::frame(ws::CLOSE, payload);
    let fragment = |first: u8, payload: &[u8]| ws::raw_frame(first, MASK, payload.len(), payload);
    let hello = b"{\"type\":\"ping\"}";
    let sum_over_the_limit = [fragment(0x01, &vec![b' '; 60_000]), fragment(0x80, &[b' '; 6000])].concat();
    vec![
        ("an unmasked frame", ws::raw_frame(0x81, None, hello.len(), hello), 1002),
        ("an unmasked close", ws::raw_frame(0x88, None, 0, b""), 1002),
        ("reserved bit 1", fragment(0xc1, hello), 1002),
        ("reserved bit 2", fragment(0xa1, hello), 1002),
        ("reserved bit 3", fragment(0x91, hello), 1002),
        ("a reserved bit on a ping", fragment(0xc9, b""), 1002),
        ("reserved opcode 3", fragment(0x83, hello), 1002),
        ("reserved opcode 11", fragment(0x8b, b""), 1002),
        ("a fragmented ping", fragment(0x09, b""), 1002),
        ("a ping of 126 bytes", fragment(0x89, &[0; 126]), 1002),
        ("a close of 126 bytes", fragment(0x88, &[0; 126]), 1002),
        ("a continuation without a beginning", fragment(0x80, hello), 1002),
        ("a message within a message", [fragment(0x01, hello), fragment(0x81, hello)].concat(), 1002),
        (
            "a length in more bytes than it needs",
            [&[0x81, 0xfe, 0, 5, 1, 2, 3, 4][..], b"hello"].concat(),
            1002,
        ),
        (
            "a length of eight bytes that fits in two",
            [&[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 5, 1, 2, 3, 4][..], b"hello"].concat(),
            1002,
        ),
        ("a length with its highest bit set", vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], 1002),
        ("a frame over the limit, announced", ws::raw_frame(0x81, MASK, 65_537, b""), 1009),
        (
            "a frame over any limit, announced",
            vec![0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4],
            1009,
        ),
        ("fragments over the limit in sum", sum_over_the_limit, 1009),
        ("a whole frame over the limit", text(&vec![b' '; 70_000]), 1009),
        ("text that is not UTF-8", text(b"\xff\xfe"), 1007),
        ("text cut within a character", text(b"\xe2\x82"), 1007),
        ("an overlong encoding", text(b"\xc0\xaf"), 1007),
        ("a surrogate", text(b"\xed\xa0\x80"), 1007),
        ("beyond Unicode", text(b"\xf4\x90\x80\x80"), 1007),
        ("not UTF-8 across fragments", [fragment(0x01, b"\xe2"), fragment(0x80, b"\x28\xa1")].concat(), 1007),
        ("a close of one byte", close(&[3]), 1002),
        ("close code 999", close(&999_u16.to_be_bytes()), 1002),
        ("close code 1005", close(&1005_u16.to_be_bytes()), 1002),
        ("close code 1006", close(&1006_u16.to_be_bytes()), 1002),
        ("close code 1015", close(&1015_u16.to_be_bytes()), 1002),
        ("close code 2999", close(&2999_u16.to_be_bytes()), 1002),
        ("close code 5000", close(&5000_u16.to_be_bytes()), 1002),
        ("a close reason that is not UTF-8", close(b"\x03\xe8\xff"), 1007),
        // These are not faults: the server answers with the same code.
        ("close code 1000", close(&1000_u16.to_be_bytes()), 1000),
        ("close code 4999", close(&4999_u16.to_be_bytes()), 4999),
    ]
}

#[test]
fn every_bad_frame_has_its_close_code_and_the_server_continues() {
    let server = Server::start();
    let mut witness = Witness::new(&server);
    let mut wrong = Vec::new();
    for (name, input, code) in frame_rows() {
        for cut in [input.len(), input.len() / 2] {
            let mut client = Ws::connect(server.addr);
            client.wire.send_if_taken(&input[..cut]);
            client.wire.send_if_taken(&input[cut..]);
            match client.try_closed(Instant::now() + ANSWER) {
                // The answer to a fault has a reason. A valid close is answered with its own code.
                Ok((got, reason)) if got == code && (matches!(code, 1000 | 4999) || !reason.is_empty()) => {}
                other => wrong.push(format!("{name}: want {code}: {other:?}")),
            }
        }
        witness.check(&server, name);
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

/// Payloads of `update` for a subscription `w` to `{"event_types":["quote"],"entities":["symbol:A"]}`, and the code of
/// each answer. An empty code stands for an `ack` without a change.
fn update_rows() -> Vec<(&'static str, Value, &'static str)> {
    let add = |lists: Value| json!({"subscription_id": "w", "add": lists});
    let remove = |lists: Value| json!({"subscription_id": "w", "remove": lists});
    let many = |count: usize| (0..count).map(|n| format!("symbol:{n}")).collect::<Vec<_>>();
    vec![
        ("no object", json!(["w"]), "invalid_payload"),
        ("no subscription", json!({"add": {"entities": ["symbol:B"]}}), "invalid_payload"),
        ("a subscription that is a number", json!({"subscription_id": 1}), "invalid_payload"),
        ("an unknown subscription", json!({"subscription_id": "v", "remove": {}}), "unknown_subscription"),
        ("all subscriptions", json!({"subscription_id": "*"}), "unknown_subscription"),
        ("an unknown key", json!({"subscription_id": "w", "set": {"entities": ["symbol:B"]}}), "unknown_key"),
        ("a key of subscribe", json!({"subscription_id": "w", "entities": ["symbol:B"]}), "unknown_key"),
        ("an unknown attribute to add", add(json!({"entitis": ["symbol:B"]})), "unknown_key"),
        ("an unknown attribute to remove", remove(json!({"colours": []})), "unknown_key"),
        (
            "an attribute that the subscription does not use",
            add(json!({"channels": ["c"]})),
            "invalid_payload",
        ),
        (
            "an attribute to remove from that it does not use",
            remove(json!({"channels": ["c"]})),
            "invalid_payload",
        ),
        ("a list instead of lists", add(json!(["symbol:B"])), "invalid_payload"),
        (
            "entities instead of lists",
            add(json!([null, null, null, null, null, null, ["a:b"]])),
            "invalid_payload",
        ),
        ("an entity that is a list", add(json!({"entities": [["symbol", "B"]]})), "invalid_payload"),
        ("a text instead of lists", add(json!("symbol:B")), "invalid_payload"),
        ("a number as value", add(json!({"event_types": [5]})), "invalid_payload"),
        ("a number as values", remove(json!({"event_types": 5})), "invalid_payload"),
        ("null as value", add(json!({"event_types": [null]})), "invalid_payload"),
        ("a list as value", add(json!({"event_types": [["quote"]]})), "invalid_payload"),
        ("an object as value", add(json!({"event_types": [{"a": 1}]})), "invalid_payload"),
        (
            "an entity with a number",
            add(json!({"entities": [{"kind": "symbol", "id": 5}]})),
            "invalid_payload",
        ),
        (
            "a value to add and to remove",
            {
                json!({"subscription_id": "w", "add": {"entities": ["symbol:B"]}, "remove": {"entities": ["symbol:B"]}})
            },
            "invalid_payload",
        ),
        ("a value over the limit", add(json!({"event_types": ["x".repeat(1025)]})), "invalid_filter"),
        ("a list over the limit", add(json!({"entities": many(1025)})), "invalid_filter"),
        ("more than a client may hold", add(json!({"entities": many(600)})), "too_many_values"),
        ("nothing at all", json!({"subscription_id": "w"}), ""),
        ("both empty", json!({"subscription_id": "w", "add": {}, "remove": {}}), ""),
        (
            "empty lists",
            json!({"subscription_id": "w", "add": {"entities": []}, "remove": {"entities": []}}),
            "",
        ),
        ("a value that is not held", remove(json!({"entities": ["symbol:Z"]})), ""),
    ]
}

#[test]
fn every_bad_update_has_its_code_and_changes_nothing() {
    let server = Server::with(&["--max-subscription-values", "500"]);
    let mut witness = Witness::new(&server);
    let wanted = json!({"subscription_id": "w", "event_types": ["quote"], "entities": ["symbol:A"]});
    let mut client = Ws::subscribed(server.addr, wanted);
    let list = json!({"type": "request", "payload": {"action": "list_subscriptions"}});
    let before = client.ask(&list)["payload"].clone();
    let mut wrong = Vec::new();
    for (name, payload, code) in update_rows() {
        let answer = client.ask(&json!({"type": "update", "message_id": "u", "payload": payload}));
        let got = answer["payload"]["code"].as_str().unwrap_or_default();
        let kind = if code.is_empty() { "ack" } else { "error" };
        if (got, &answer["type"], &answer["correlation_id"]) != (code, &json!(kind), &json!("u")) {
            wrong.push(format!("{name}: want {code:?}: {answer}"));
        }
        assert_eq!(client.ask(&list)["payload"], before, "after {name}");
        witness.check(&server, name);
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn an_update_beyond_the_grant_changes_nothing() {
    const SECRET: &str = "only-this-test-and-its-server-know-it-51b0";
    let server = Server::with(&["--auth-jwt-hs256-secret", SECRET]);
    let token = support::token(SECRET, &["--entity", "symbol:A", "--entity", "symbol:B"]);
    let mut client = Ws::over(Wire::connect(server.addr), &format!("/ws?token={token}"), "");
    let wanted = json!({"subscription_id": "w", "entities": ["symbol:A"]});
    assert_eq!(client.ask(&json!({"type": "subscribe", "payload": wanted}))["type"], "ack");
    let list = json!({"type": "request", "payload": {"action": "list_subscriptions"}});
    let before = client.ask(&list)["payload"].clone();
    for values in [json!(["symbol:C"]), json!(["symbol:B", "symbol:C"]), json!(["trade:A"])] {
        let payload = json!({"subscription_id": "w", "add": {"entities": values}, "remove": {"entities": ["symbol:A"]}});
        let answer = client.ask(&json!({"type": "update", "payload": payload}));
        assert_eq!(answer["payload"]["code"], "forbidden", "{values}: {answer}");
        assert_eq!(client.ask(&list)["payload"], before, "after {values}");
    }
    let payload = json!({"subscription_id": "w", "add": {"entities": ["symbol:B"]}});
    assert_eq!(client.ask(&json!({"type": "update", "payload": payload}))["payload"]["added"], 1);
}

#[test]
fn bytes_after_a_close_are_not_read() {
    let server = Server::start();
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let mut client = Ws::connect(server.addr);
    let publish = json!({"type": "publish", "payload": {"type": "late"}}).to_string();
    let close = ws::frame(ws::CLOSE, &1000_u16.to_be_bytes());
    client.wire.send(&[close, ws::frame(ws::TEXT, publish.as_bytes())].concat());
    assert_eq!(client.closed().0, 1000);
    assert!(reader.is_silent_for(Duration::from_millis(100)));
}

#[test]
fn a_message_of_the_largest_size_is_taken() {
    let server = Server::start();
    let mut reader = Ws::subscribed(server.addr, json!({}));
    let mut client = Ws::connect(server.addr);
    let empty = json!({"type": "publish", "payload": {"type": "x", "payload": ""}}).to_string();
    let message =
        json!({"type": "publish", "payload": {"type": "x", "payload": "y".repeat(65_536 - empty.len())}})
            .to_string();
    assert_eq!(message.len(), 65_536);
    client.send_text(&message);
    assert_eq!(client.message()["type"], "ack");
    assert_eq!(reader.event()["payload"].as_str().map(str::len), Some(65_536 - empty.len()));

    let empty = r#"{"type":"x","payload":""}"#;
    let body = format!(r#"{{"type":"x","payload":"{}"}}"#, "y".repeat(4 * 1024 * 1024 - empty.len()));
    assert_eq!(body.len(), 4 * 1024 * 1024);
    assert_eq!(http::post(server.addr, "/publish", "application/json", body.as_bytes()).status, 200);
}

#[test]
fn a_slow_header_ends_with_the_handshakes_time() {
    let server = Server::start();
    let mut witness = Witness::new(&server);
    let mut slow = Wire::connect(server.addr);
    let mut mute = Wire::connect(server.addr);
    let started = Instant::now();
    let mut request = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: y\r\n\r\n".iter();
    // One byte a second. The limit is 5 s from the first byte, no matter how many follow.
    let answer = loop {
        if let Some(byte) = request.next() {
            slow.send_if_taken(&[*byte]);
        }
        match slow.fill(Instant::now() + Duration::from_secs(1)) {
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                assert!(started.elapsed() < Duration::from_secs(10), "it was left open");
                witness.check(&server, "a byte of a slow header");
            }
            Ok(1..) => break Some(read_response(&mut slow, deadline()).expect("a whole answer")),
            _ => break None,
        }
    };
    let took = started.elapsed();
    assert!((Duration::from_millis(4500)..Duration::from_secs(8)).contains(&took), "ended after {took:?}");
    assert!(answer.is_none_or(|answer| answer.status == 408));
    // A silent client is disconnected, too.
    let rest = mute.take_rest(Instant::now() + Duration::from_secs(5)).expect("it is closed");
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
    assert!(started.elapsed() < Duration::from_secs(9));
}

#[test]
fn half_open_peers_are_closed() {
    let server = Server::with(&["--handshake-timeout", "500ms", "--heartbeat", "300ms"]);
    let mut witness = Wire::connect(server.addr);
    witness.send(get("/sse").as_bytes());
    let open = || server.metric("fanwire_server_connections").expect("the metric is there");
    let whole = ws::frame(ws::TEXT, b"{\"type\":\"subscribe\"}");
    let beginnings: [Vec<u8>; 5] = [
        Vec::new(),
        b"GET /ws HTTP/1.1\r\nHo".to_vec(),
        ws::upgrade_request("/ws", "").into_bytes(),
        [ws::upgrade_request("/ws", "").as_bytes(), &whole].concat(),
        [ws::upgrade_request("/ws", "").as_bytes(), &whole[..5]].concat(),
    ];
    // One client closes its writing side in the middle, the other disconnects without a close.
    for half_close in [true, false] {
        let mut wires: Vec<Wire> = Vec::new();
        for beginning in &beginnings {
            let mut wire = Wire::connect(server.addr);
            wire.send(beginning);
            if half_close {
                wire.half_close();
            }
            wires.push(wire);
        }
        for wire in &mut wires {
            wire.take_rest(deadline()).expect("the server closes it");
        }
    }
    // Clients that reset the connection in the middle.
    for beginning in &beginnings {
        let mut wire = Wire::connect(server.addr);
        wire.send(beginning);
        socket2::SockRef::from(&wire.stream).set_linger(Some(Duration::ZERO)).expect("a socket");
    }
    // Two connections are open: the stream, and the one that requests the metrics.
    eventually("every dead connection is forgotten", || open() <= 2.0);
    server.assert_serving();
}

#[test]
fn a_client_that_vanishes_from_a_stream_is_forgotten() {
    let server = Server::with(&["--heartbeat", "200ms"]);
    let streams: Vec<_> = (0..20).map(|_| support::sse::Sse::open(server.addr, "")).collect();
    let sockets: Vec<_> = (0..20).map(|_| Ws::subscribed(server.addr, json!({}))).collect();
    drop((streams, sockets));
    let open = || server.metric("fanwire_server_connections").expect("the metric is there");
    eventually("dropped clients are gone", || open() <= 1.0);
    eventually("nothing of theirs is left", || {
        server.metric("fanwire_server_subscriptions") == Some(0.0)
            && server.metric("fanwire_feed_feeds") == Some(0.0)
    });
}

#[test]
fn more_connections_than_allowed_are_closed_and_freed_slots_are_used_again() {
    let server = Server::with(&["--max-connections", "10"]);
    let clients: Vec<Ws> = (0..10).map(|_| Ws::subscribed(server.addr, json!({}))).collect();
    for _ in 0..20 {
        let mut wire = Wire::connect(server.addr);
        wire.send_if_taken(get("/healthz").as_bytes());
        let rest = wire.take_rest(deadline()).expect("it is closed");
        // A client that sent before its refusal may find the connection reset, and the answer lost with it.
        let text = String::from_utf8_lossy(&rest).to_lowercase();
        let is_refused = text.starts_with("http/1.1 503")
            && text.contains("content-type: application/json\r\n")
            && text.contains("{\"error\":");
        assert!(rest.is_empty() || is_refused, "{text}");
    }
    drop(clients);
    eventually("a slot is free again", || {
        let mut wire = Wire::connect(server.addr);
        wire.send_if_taken(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        read_response(&mut wire, deadline()).is_ok_and(|answer| answer.status == 200)
    });
}

/// A publisher may name as many streams as it likes: the number of kept logs and their memory have limits.
#[test]
fn streams_without_number_of_one_publisher_are_bounded() {
    const STREAMS: usize = 50_000;
    const AT_ONCE: usize = 1_000;
    let server = Server::with(&[
        "--retain",
        "by=stream; match=stream=run-*",
        "--retain-max-logs",
        "2000",
        "--retain-max-bytes",
        "1MiB",
    ]);
    let kept = || http::get(server.addr, "/api/stats").json()["kept"].clone();
    for first in (0..STREAMS).step_by(AT_ONCE) {
        let event = |n: usize| json!({"type": "token", "stream_id": format!("run-{n}"), "payload": {"n": n}});
        server.publish(Value::from((first..first + AT_ONCE).map(event).collect::<Vec<_>>()).to_string());
        let kept = kept();
        assert!(kept["logs"].as_u64().is_some_and(|logs| logs <= 2000), "{kept}");
        assert!(kept["bytes"].as_u64().is_some_and(|bytes| bytes <= 1280 * 1024), "{kept}");
    }
    assert!(kept()["logs"].as_u64().is_some_and(|logs| logs > 100), "{}", kept());
    assert_eq!(server.metric("fanwire_server_kept_bytes"), kept()["bytes"].as_f64());
    // The oldest are reported as gone.
    let page = http::get(server.addr, "/events?stream=run-0").json();
    assert_eq!((&page["events"], &page["complete"]), (&json!([]), &json!(false)));
}

#[test]
fn running_out_of_descriptors_ends_with_the_shortage() {
    // The process may have 40 descriptors, so some connections wait in the kernel.
    let mut server = Server::start();
    server.limit_files(40);
    let clients: Vec<Wire> = (0..60).map(|_| Wire::connect(server.addr)).collect();
    std::thread::sleep(Duration::from_millis(200));
    drop(clients);
    // Until the server has seen that they left, it refuses connections.
    eventually("the server serves again", || http::get(server.addr, "/healthz").status == 200);
    assert!(server.try_wait().is_none(), "the server ended");
}

//! Publishing, event streams and the other routes over HTTP, from outside.

mod support;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::http::{self, post_request, read_response};
use support::sse::{Block, Sse};
use support::wire::{Wire, deadline};
use support::ws::Ws;
use support::{Server, eventually, fanwire, numbered, run};

/// Time within which an unwanted event would have arrived.
const SILENCE: Duration = Duration::from_millis(200);

fn lines(range: std::ops::Range<usize>) -> String {
    range.map(numbered).collect()
}

fn number(block: &Block) -> u64 {
    block.json()["payload"]["n"].as_u64().unwrap_or_else(|| panic!("not a numbered event: {block:?}"))
}

// Publishing

#[test]
fn one_event_an_array_and_lines_are_taken() {
    let server = Server::start();
    let mut stream = Sse::open(server.addr, "");
    let bodies: [(&str, String, usize); 9] = [
        ("application/json", numbered(0), 1),
        ("application/json; charset=utf-8", "\r\n{ \"type\":\"x\",\n\"payload\":{\n\"n\":1}}".into(), 1),
        (
            "application/json",
            "[{\"type\":\"x\",\"payload\":{\"n\":2}},\n{\"type\":\"x\",\"payload\":{\"n\":3}}]".into(),
            2,
        ),
        ("application/x-ndjson", lines(4..7), 3),
        ("application/x-ndjson", format!("\n{}\r\n\n{}", numbered(7).trim(), numbered(8).trim()), 2),
        // A body of lines, with the content type of JSON.
        ("application/json", lines(9..11), 2),
        // The content type of `curl -d`.
        ("application/x-www-form-urlencoded", numbered(11).trim().into(), 1),
        ("text/plain", numbered(12), 1),
        ("application/json", format!("\u{feff}{}", numbered(13)), 1),
    ];
    let mut n = 0;
    for (content_type, body, count) in bodies {
        let answer = http::post(server.addr, "/publish", content_type, body.as_bytes());
        assert_eq!(answer.status, 200, "{content_type} {body:?}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json()["accepted"], count, "{body:?}");
        for last in (1..=count).map(|at| at == count) {
            let event = stream.event();
            assert_eq!(number(&event), n);
            n += 1;
            assert!(!last || event.id.as_deref() == answer.json()["last_event_id"].as_str(), "{event:?}");
        }
    }
    let answer = http::post(server.addr, "/publish", "application/json", b"[]");
    assert_eq!((answer.status, answer.json()), (200, json!({"accepted": 0, "last_event_id": null})));
}

#[test]
fn publishing_is_all_or_nothing_and_names_the_first_bad_line() {
    let server = Server::start();
    let mut client = Ws::subscribed(server.addr, json!({}));
    let good = numbered(1);
    let good = good.trim();
    let deep = format!("{{\"type\":\"x\",\"payload\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let long = format!("{{\"type\":\"{}\"}}", "x".repeat(2000));
    let bodies: Vec<(&str, String, u64)> = vec![
        ("application/json", String::new(), 1),
        ("application/json", " \n ".into(), 1),
        ("application/json", "nonsense".into(), 1),
        ("application/json", "5".into(), 1),
        ("application/json", "\"text\"".into(), 1),
        ("application/json", "{}".into(), 1),
        ("application/json", "{\"type\":\n\"a\",".into(), 2),
        ("application/json", "{\"type\":5}".into(), 1),
        ("application/json", "{\"type\":\"\"}".into(), 1),
        ("application/json", "{\"type\":\"a\\u0000\"}".into(), 1),
        ("application/json", "{\"type\":\"x\",\"ts\":\"yesterday\"}".into(), 1),
        ("application/json", "{\"type\":\"x\",\"entity\":5}".into(), 1),
        ("application/json", "{\"type\":\"x\",\"payload\":{]}".into(), 1),
        ("application/json", deep.clone(), 1),
        ("application/json", "[".repeat(10_000), 1),
        ("application/json", long, 1),
        ("application/json", format!("[{good},\n\n{{\"source\":\"s\"}},\n{good}]"), 3),
        ("application/json", format!("[{good},"), 1),
        ("application/json", format!("[{good}]\n]"), 2),
        ("application/x-ndjson", format!("{good}\n{good}\nnope\n{good}\nnope"), 3),
        ("application/x-ndjson", format!("{good}\n\n{{}}"), 3),
        ("application/x-ndjson", format!("{good}\n[{good}]"), 2),
        ("application/x-ndjson", format!("{good} {good}\n"), 1),
        ("application/x-ndjson", format!("{good}\n{deep}\n"), 2),
        ("application/x-ndjson", String::new(), 1),
    ];
    for (content_type, body, line) in bodies {
        let excerpt = &body[..body.len().min(80)];
        let answer = http::post(server.addr, "/publish", content_type, body.as_bytes());
        assert_eq!(answer.status, 400, "{excerpt:?}: {answer:?}");
        assert_eq!(answer.json()["line"], line, "{excerpt:?}: {answer:?}");
        assert!(answer.json()["error"].as_str().is_some_and(|error| !error.is_empty()), "{answer:?}");
    }
    let not_utf8 =
        http::post(server.addr, "/publish", "application/x-ndjson", b"{\"type\":\"a\"}\n{\"type\":\"\xff\"}");
    assert_eq!((not_utf8.status, &not_utf8.json()["line"]), (400, &json!(2)));
    assert!(client.is_silent_for(SILENCE), "nothing of a refused body is published");
}

#[test]
fn a_body_may_come_in_chunks_and_after_a_continue() {
    let server = Server::start();
    let mut client = Ws::subscribed(server.addr, json!({}));
    let body = lines(0..3);
    // Chunks of irregular sizes, with extensions and a trailer, split anywhere between two writes.
    let mut request =
        b"POST /publish HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.as_bytes().chunks(11) {
        request.extend(format!("{:X};name=\"value\"\r\n", chunk.len()).as_bytes());
        request.extend(chunk);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\nx-trailer: y\r\n\r\n");
    for size in [request.len(), 5] {
        let mut wire = Wire::connect(server.addr);
        request.chunks(size).for_each(|piece| wire.send(piece));
        let answer = read_response(&mut wire, deadline()).expect("an answer");
        assert_eq!((answer.status, &answer.json()["accepted"]), (200, &json!(3)));
        for n in 0..3 {
            assert_eq!(client.event()["payload"]["n"], n);
        }
    }

    let mut wire = Wire::connect(server.addr);
    let body = numbered(3);
    let head = format!(
        "POST /publish HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    wire.send(head.as_bytes());
    assert_eq!(read_response(&mut wire, deadline()).expect("a go-ahead").status, 100);
    wire.send(body.as_bytes());
    assert_eq!(read_response(&mut wire, deadline()).expect("an answer").status, 200);
    assert_eq!(client.event()["payload"]["n"], 3);
}

#[test]
fn one_connection_takes_many_requests_one_after_another_and_at_once() {
    let server = Server::start();
    let mut client = Ws::subscribed(server.addr, json!({}));
    let mut wire = Wire::connect(server.addr);
    for n in 0..3 {
        wire.send(&post_request("/publish", "application/json", numbered(n).as_bytes()));
        assert_eq!(read_response(&mut wire, deadline()).expect("an answer").status, 200);
    }
    // Pipelined requests, including a chunked one and a refused one. The answers have the order of the requests.
    let mut requests = Vec::new();
    for n in 3..50 {
        requests.extend(post_request("/publish", "application/json", numbered(n).as_bytes()));
        requests.extend(post_request("/publish", "application/json", b"nonsense"));
        let body = numbered(100 + n);
        let chunked = format!(
            "POST /publish HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        requests.extend(chunked.as_bytes());
        requests.extend(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    }
    wire.send(&requests);
    for _ in 3..50 {
        for status in [200, 400, 200, 200] {
            assert_eq!(read_response(&mut wire, deadline()).expect("an answer").status, status);
        }
    }
    let want = (0..3).chain((3..50).flat_map(|n| [n, 100 + n]));
    want.for_each(|n| assert_eq!(client.event()["payload"]["n"], n));

    wire.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let answer = read_response(&mut wire, deadline()).expect("an answer");
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(wire.take_rest(deadline()).expect("the end"), b"");
}

#[test]
fn old_clients_are_answered_in_their_way() {
    let server = Server::start();
    let mut wire = Wire::connect(server.addr);
    wire.send(b"GET /healthz HTTP/1.0\r\n\r\n");
    let answer = read_response(&mut wire, deadline()).expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(wire.take_rest(deadline()).expect("HTTP/1.0 ends with its answer"), b"");

    // A client that has sent everything and closed its side still gets the answer.
    let mut wire = Wire::connect(server.addr);
    wire.send(&post_request("/publish", "application/json", numbered(1).as_bytes()));
    wire.half_close();
    assert_eq!(read_response(&mut wire, deadline()).expect("an answer").status, 200);
}

// Event streams

#[test]
fn a_stream_has_the_four_headers_and_the_reconnect_delay() {
    let server = Server::start();
    let mut stream = Sse::open(server.addr, "");
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("connection", "keep-alive"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(stream.response.header(name), Some(value), "{:?}", stream.response);
    }
    let answer =
        server.publish(r#"{"type":"workflow.started","source":"demo","payload":{"text":"a\nb\r\nc\rd"}}"#);
    let event = stream.event();
    assert_eq!(event.event.as_deref(), Some("workflow.started"));
    assert_eq!(event.id.as_deref(), answer["last_event_id"].as_str());
    assert_eq!(event.json()["payload"]["text"], "a\nb\r\nc\rd");
    assert_eq!(event.json()["event_id"], answer["last_event_id"]);
    assert!(stream.retry.is_some_and(|retry| retry > 0), "no retry came");
}

#[test]
fn a_stream_starts_at_once_and_beats_when_quiet() {
    let server = Server::with(&["--heartbeat", "300ms"]);
    let mut stream = Sse::open(server.addr, "");
    let block = stream.block(deadline()).expect("something comes without any event");
    assert!(block.retry.is_some(), "{block:?}");
    for _ in 0..3 {
        let block = stream.block(Instant::now() + Duration::from_secs(3)).expect("a heartbeat");
        assert_eq!((block.comments.len(), &block.data), (1, &None), "{block:?}");
    }
}

#[test]
fn the_query_is_the_filter() {
    let server = Server::start();
    let table: [(&str, &[u64]); 13] = [
        ("", &[0, 1, 2]),
        ("?type=task.progress", &[0]),
        ("?type=task.*&type=note", &[0, 1, 2]),
        ("?type=task.%2A", &[0, 1]),
        ("?source=core", &[0, 2]),
        ("?stream=webhook", &[0]),
        ("?execution=ex-1", &[0]),
        ("?correlation=run+1", &[0]),
        ("?correlation=run%201", &[0]),
        ("?entity=task:t-1", &[0]),
        ("?entity=task:*&type=**", &[0, 1]),
        ("?channel=dev&source=core", &[0]),
        ("?type=none", &[]),
    ];
    let mut streams: Vec<Sse> = table.iter().map(|(query, _)| Sse::open(server.addr, query)).collect();
    server.publish(
        r#"[{"type":"task.progress","source":"core","stream_id":"webhook","execution_id":"ex-1","correlation_id":"run 1",
             "entity":{"kind":"task","id":"t-1"},"channel":"dev","payload":{"n":0}},
            {"type":"task.done","source":"other","entity":{"kind":"task","id":"t-2"},"channel":"ops","payload":{"n":1}},
            {"type":"note","source":"core","payload":{"n":2}}]"#,
    );
    for ((query, want), stream) in table.iter().zip(&mut streams) {
        for n in *want {
            assert_eq!(number(&stream.event()), *n, "{query}");
        }
    }
    std::thread::sleep(SILENCE);
    for ((query, _), stream) in table.iter().zip(&mut streams) {
        assert!(
            stream.is_silent_until(Instant::now() + Duration::from_millis(2)),
            "{query} got more than it asked for"
        );
    }
}

#[test]
fn events_without_a_name_are_there_for_onmessage() {
    let server = Server::start();
    let mut stream = Sse::open(server.addr, "?event_name=message");
    let answer = server.publish(numbered(1));
    let event = stream.event();
    assert!(matches!(event.event.as_deref(), None | Some("message")), "{event:?}");
    assert_eq!((event.id.as_deref(), number(&event)), (answer["last_event_id"].as_str(), 1));
}

#[test]
fn a_stream_resumes_after_its_last_event() {
    let server = Server::start();
    let mut stream = Sse::open(server.addr, "?type=test.*");
    server.publish(lines(0..3));
    let ids: Vec<String> = (0..3).map(|_| stream.event().id.expect("an id")).collect();
    drop(stream);
    server.publish("{\"type\":\"other\"}\n".to_owned() + &lines(3..6));

    for (query, header) in [
        ("?type=test.*", format!("Last-Event-ID: {}\r\n", ids[1])),
        (&*format!("?type=test.*&last_event_id={}", ids[1]), String::new()),
    ] {
        let mut stream = Sse::with(server.addr, query, &header);
        for n in 2..6 {
            assert_eq!(number(&stream.event()), n);
        }
        assert!(stream.is_silent_until(Instant::now() + SILENCE), "each event once");
    }
    let mut stream = Sse::with(server.addr, "?type=test.*", &format!("Last-Event-ID: {}\r\n", ids[2]));
    server.publish(numbered(6));
    for n in 3..7 {
        assert_eq!(number(&stream.event()), n);
    }
}

#[test]
fn an_unknown_id_gives_a_gap_and_then_live_events() {
    let server = Server::start();
    let id = server.publish(numbered(0))["last_event_id"].as_str().expect("an id").to_owned();
    let (epoch, _) = id.split_once('-').expect("epoch and sequence");
    for unknown in ["nonsense", "abc-5", &format!("{epoch}-99999999"), "\u{e9}"] {
        let mut stream = Sse::with(server.addr, "", &format!("Last-Event-ID: {unknown}\r\n"));
        let gap = stream.event();
        assert_eq!(gap.event.as_deref(), Some("gap"), "{unknown}: {gap:?}");
        assert_eq!(
            (&gap.json()["missed"], &gap.json()["recoverable"]),
            (&Value::Null, &json!(false)),
            "{unknown}"
        );
        assert_eq!(gap.id, None, "a gap's id would be taken for an event's");
        server.publish(numbered(1));
        assert_eq!(number(&stream.event()), 1);
    }
}

#[test]
fn history_replays_the_newest_that_match() {
    let server = Server::start();
    server.publish(lines(0..5));
    server.publish(r#"{"type":"other"}"#);
    for (history, want) in [("0", 5..5), ("1", 4..5), ("3", 2..5), ("5", 0..5), ("1000000", 0..5)] {
        let mut stream = Sse::open(server.addr, &format!("?type=test.*&history={history}"));
        for n in want {
            assert_eq!(number(&stream.event()), n as u64, "history={history}");
        }
        assert!(stream.is_silent_until(Instant::now() + Duration::from_millis(50)), "history={history}");
    }
    for bad in ["?history=x", "?history=-1", "?history="] {
        assert_eq!(http::get(server.addr, &format!("/sse{bad}")).status, 400, "{bad}");
    }
    let mut stream = Sse::open(server.addr, "?type=test.*&history=1");
    assert_eq!(number(&stream.event()), 4);
    server.publish(lines(5..7));
    assert_eq!((number(&stream.event()), number(&stream.event())), (5, 6));
}

// The other routes

#[test]
fn health_readiness_metrics_and_stats_are_there() {
    let server = Server::start();
    let _ws = Ws::subscribed(server.addr, json!({}));
    let _sse = Sse::open(server.addr, "");
    server.publish(lines(0..10));
    assert_eq!(http::get(server.addr, "/healthz").status, 200);
    assert_eq!(http::get(server.addr, "/readyz").status, 200);

    let stats = http::get(server.addr, "/api/stats");
    assert_eq!((stats.status, stats.header("content-type")), (200, Some("application/json")));
    let stats = stats.json();
    assert_eq!(
        (&stats["connections"]["ws"], &stats["connections"]["sse"]),
        (&json!(1), &json!(1)),
        "{stats}"
    );
    assert_eq!(stats["events_published"], 10, "{stats}");

    let metrics = http::get(server.addr, "/metrics");
    assert_eq!(metrics.status, 200);
    let samples = metrics.text().lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    for line in samples {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line:?}"));
        // AutoSDLC's document has its own names.
        assert!(name.starts_with("fanwire_") || name.starts_with("websocket_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert_eq!(server.metric("fanwire_server_events_published_total"), Some(10.0));
}

#[test]
fn the_page_comes_whole_from_the_binary() {
    let server = Server::start();
    let page = http::get(server.addr, "/");
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")),
        "{:?}",
        page.headers
    );
    let text = page.text();
    assert!(text.to_lowercase().starts_with("<!doctype html>"), "{}", &text[..100]);
    for elsewhere in ["src=\"http", "href=\"http", "src=\"//", "@import", "url(http"] {
        assert!(!text.contains(elsewhere), "the page loads something from elsewhere: {elsewhere}");
    }
}

#[test]
fn head_has_the_answers_head_alone() {
    let server = Server::start();
    for path in ["/", "/healthz", "/metrics"] {
        let mut wire = Wire::connect(server.addr);
        wire.send(format!("HEAD {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes());
        let head = http::read_head(&mut wire, deadline()).expect("an answer");
        assert_eq!(head.status, 200, "{path}");
        assert!(head.header("content-length").is_some_and(|len| len != "0"), "{path}: {head:?}");
        assert_eq!(wire.take_rest(deadline()).expect("the end"), b"", "{path}");
    }
}

#[test]
fn other_origins_may_read_only_where_configured() {
    let ask = |server: &Server, method: &str, origin: &str| {
        let request = format!(
            "{method} /publish HTTP/1.1\r\nhost: localhost\r\norigin: {origin}\r\nconnection: close\r\n\
                               access-control-request-method: POST\r\ncontent-length: 0\r\n\r\n"
        );
        http::exchange(server.addr, request.as_bytes())
    };
    let allowed = |answer: &http::Response| answer.header("access-control-allow-origin").map(str::to_owned);
    let closed = Server::start();
    assert_eq!(allowed(&ask(&closed, "OPTIONS", "http://a.example")), None);

    let server = Server::with(&["--cors-origin", "http://a.example"]);
    let preflight = ask(&server, "OPTIONS", "http://a.example");
    assert_eq!((preflight.status, allowed(&preflight)), (204, Some("http://a.example".into())));
    assert!(preflight.header("access-control-allow-methods").is_some_and(|methods| methods.contains("POST")));
    assert!(
        preflight
            .header("access-control-allow-headers")
            .is_some_and(|names| names.to_lowercase().contains("content-type"))
    );
    // An error is readable, too.
    assert_eq!(allowed(&ask(&server, "POST", "http://a.example")), Some("http://a.example".into()));
    assert_eq!(allowed(&ask(&server, "OPTIONS", "http://b.example")), None);
    let stream = Sse::with(server.addr, "", "Origin: http://a.example\r\n");
    assert_eq!(allowed(&stream.response), Some("http://a.example".into()));

    let open = Server::with(&["--cors-origin", "*"]);
    assert!(matches!(
        allowed(&ask(&open, "OPTIONS", "http://c.example")).as_deref(),
        Some("*" | "http://c.example")
    ));
}

// The end

#[test]
fn a_signal_drains_and_the_exit_code_is_zero() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::with(&["--loops", "2"]);
        let sockets: Vec<Ws> = (0..5).map(|_| Ws::subscribed(server.addr, json!({}))).collect();
        let streams: Vec<Sse> = (0..5).map(|_| Sse::open(server.addr, "")).collect();
        let mut idle = Wire::connect(server.addr);
        idle.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
        assert_eq!(read_response(&mut idle, deadline()).expect("an answer").status, 200);
        server.publish(numbered(1));
        server.signal(signal);
        let started = Instant::now();
        for mut client in sockets {
            // Earlier events are delivered first.
            assert_eq!(client.event()["payload"]["n"], 1);
            let (code, _) = client.closed();
            assert!(matches!(code, 1001 | 1012), "closed with {code}");
        }
        for mut stream in streams {
            assert_eq!(number(&stream.event()), 1);
            let last = stream.block(deadline()).expect("a time to come back");
            assert_eq!((last.data, last.retry.is_some()), (None, true));
            let end = stream.block(deadline()).expect_err("the stream ends");
            assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof, "ended cleanly, not reset");
        }
        assert_eq!(idle.take_rest(deadline()).expect("idle connections end too"), b"");
        drop(idle);
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());
        assert!(started.elapsed() < Duration::from_secs(3), "it waits for no other: {:?}", started.elapsed());
        assert!(server.more_stdout().is_empty(), "stdout has one line");
    }
}

/// Sends the head of a request, and waits until the server expects its body, which does not come.
fn begin_body(wire: &mut Wire) {
    wire.send(
        b"POST /publish HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n",
    );
    assert_eq!(http::read_head(wire, deadline()).expect("the interim answer").status, 100);
}

#[test]
fn a_drain_does_not_wait_for_ever_for_a_client_that_does_not_answer() {
    let mut server = Server::with(&["--drain-timeout", "1s"]);
    // Neither of them reads or closes.
    let _ws = Ws::subscribed(server.addr, json!({}));
    let mut half = Wire::connect(server.addr);
    begin_body(&mut half);
    let started = Instant::now();
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
    assert!(TcpStream::connect(server.addr).is_err(), "the port is closed");
}

#[test]
fn a_second_signal_quits_at_once() {
    let mut server = Server::with(&["--drain-timeout", "60s"]);
    let mut half = Wire::connect(server.addr);
    begin_body(&mut half);
    server.signal("TERM");
    eventually("the port is closed", || TcpStream::connect(server.addr).is_err());
    server.signal("TERM");
    assert!(!server.wait().success());
}

#[test]
fn an_address_in_use_is_an_error_with_the_next_step() {
    // With several loops, the sockets of one server share the port. Another server's must not.
    for loops in ["1", "2"] {
        let server = Server::with(&["--loops", loops]);
        let output = run(fanwire().args(["serve", "--loops", loops, "--listen", &server.addr.to_string()]));
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("in use") && stderr.contains("--listen"), "{stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_message_for_the_bridge_is_answered_and_reaches_a_client() {
    let server = Server::start();
    let mut reader = Ws::subscribed(server.addr, json!({ "event_types": ["protocol.**"] }));
    let post = |path: &str, body: &str| http::post(server.addr, path, "application/json", body.as_bytes());
    let message = r#"{"task_id":"t1","skill":"review"}"#;
    let answer = post("/bridge/a2a", message);
    let accepted = json!({ "status": "accepted", "protocol": "a2a", "message_id": "t1" });
    assert_eq!((answer.status, answer.json()), (200, accepted));
    let event = reader.event();
    assert_eq!(event["event_type"], "protocol.a2a.task.received");
    assert_eq!(event["payload"]["message"], json!({ "task_id": "t1", "skill": "review" }));

    let unknown = post("/bridge/x%20y", message);
    let error = json!({ "status": "error", "error": "No route registered for protocol 'x y'" });
    assert_eq!((unknown.status, unknown.json()), (404, error));
    assert_eq!(reader.event()["event_type"], "protocol.bridge.error");
    assert_eq!(post("/bridge/mcp", "[]").status, 400);
    assert_eq!(http::post(server.addr, "/bridge/mcp", "application/json", b"\xff").status, 400);
    assert_eq!(http::get(server.addr, "/bridge").json(), json!({ "routes": ["a2a", "mcp"] }));
    assert_eq!(http::get(server.addr, "/bridge/a2a").status, 405);
    assert_eq!(server.metric("fanwire_server_bridged_total"), Some(3.0));
}

// CloudEvents

#[test]
fn cloud_events_are_published_in_their_three_forms() {
    let server = Server::start();
    let mut client = Ws::subscribed(server.addr, json!({}));
    let one = |id: &str| json!({"specversion": "1.0", "type": "com.example.step", "source": "/core", "id": id, "data": {"id": id}});
    let structured = one("1").to_string();
    let answer = http::post(server.addr, "/publish", "application/cloudevents+json", structured.as_bytes());
    assert_eq!((answer.status, answer.json()["accepted"].as_u64()), (200, Some(1)), "{answer:?}");
    let batch = json!([one("2"), one("3")]).to_string();
    let kind = "application/cloudevents-batch+json; charset=utf-8";
    let answer = http::post(server.addr, "/publish", kind, batch.as_bytes());
    assert_eq!((answer.status, answer.json()["accepted"].as_u64()), (200, Some(2)), "{answer:?}");
    let kind = "application/json\r\nce-specversion: 1.0\r\nce-type: com.example.step\r\nce-source: /core\r\nce-id: 4";
    assert_eq!(http::post(server.addr, "/publish", kind, br#"{"id":"4"}"#).status, 200);
    for id in ["1", "2", "3", "4"] {
        let event = client.event();
        assert_eq!((&event["payload"]["id"], &event["correlation_id"]), (&json!(id), &json!(id)), "{event}");
        assert_eq!((&event["event_type"], &event["source"]), (&json!("com.example.step"), &json!("/core")));
    }
    let bad = "[\n{\"specversion\":\"1.0\",\"type\":\"t\",\"source\":\"s\",\"id\":\"i\"},\n{\"specversion\":\"1.0\"}]";
    let answer = http::post(server.addr, "/publish", "application/cloudevents-batch+json", bad.as_bytes());
    assert_eq!((answer.status, answer.json()["line"].as_u64()), (400, Some(3)), "{answer:?}");
}

/// The examples of the JSON format (3.2, 4.3) and of the HTTP binding (3.1.3.2, 3.1.4), with data instead of their
/// dots.
#[test]
fn the_specifications_own_examples_are_taken() {
    const OBJECT: &str = r#"{
        "appinfoA" : "abc",
        "appinfoB" : 123,
        "appinfoC" : true
    }"#;
    let object = json!({"appinfoA": "abc", "appinfoB": 123, "appinfoC": true});
    let server = Server::start();
    let mut client = Ws::subscribed(server.addr, json!({}));
    let publish = |kind: &str, body: &[u8], accepted: u64| {
        let answer = http::post(server.addr, "/publish", kind, body);
        assert_eq!(
            (answer.status, answer.json()["accepted"].as_u64()),
            (200, Some(accepted)),
            "{kind}: {answer:?}"
        );
    };
    let structured = |kind: &str, source: &str, id: &str, time: &str, rest: &str| {
        format!(
            r#"{{
    "specversion" : "1.0",
    "type" : "com.example.{kind}",
    "source" : "{source}",
    "id" : "{id}",
    "time" : "{time}",
    "comexampleextension1" : "value",
    "comexampleothervalue" : 5,
    {rest}
}}"#
        )
    };
    let mut expect = |kind: &str, source: &str, id: &str, time: &str, payload: &Value| {
        let event = client.event();
        assert_eq!(event["event_type"], format!("com.example.{kind}"), "{event}");
        assert_eq!((&event["source"], &event["correlation_id"]), (&json!(source), &json!(id)), "{event}");
        let time = time.replace('Z', ".000000Z");
        assert_eq!((&event["timestamp"], &event["payload"]), (&json!(time), payload), "{event}");
    };
    const TIME: &str = "2018-04-05T17:31:00Z";
    let thrift = r#""datacontenttype" : "application/vnd.apache.thrift.binary", "data_base64" : "aGVsbG8=""#;
    let data = format!(r#""datacontenttype" : "application/json", "data" : {OBJECT}"#);

    // Each example as JSON, and again in the specification's form of headers and a body.
    for (id, rest, content_type, body, payload) in [
        ("A234", thrift.to_owned(), "application/vnd.apache.thrift.binary", "hello", json!("aGVsbG8=")),
        (
            "B234",
            r#""unsetextension": null, "datacontenttype" : "application/xml", "data" : "<much wow=\"xml\"/>""#.to_owned(),
            "application/xml",
            "<much wow=\"xml\"/>",
            json!("<much wow=\"xml\"/>"),
        ),
        ("C234", format!(r#""subject": null, {data}"#), "application/json", OBJECT, object.clone()),
        (
            "D234",
            r#""subject": null, "data" : "I'm just a string""#.to_owned(),
            "application/json",
            r#""I'm just a string""#,
            json!("I'm just a string"),
        ),
    ] {
        let id = format!("{id}-1234-1234");
        let whole = structured("someevent", "/mycontext", &id, TIME, &rest);
        publish("application/cloudevents+json; charset=UTF-8", whole.as_bytes(), 1);
        expect("someevent", "/mycontext", &id, TIME, &payload);
        let headers = format!(
            "{content_type}\r\nce-specversion: 1.0\r\nce-type: com.example.someevent\r\nce-source: /mycontext\r\nce-id: {id}\r\n\
             ce-time: {TIME}\r\nce-comexampleextension1: value\r\nce-comexampleothervalue: 5"
        );
        publish(&headers, body.as_bytes(), 1);
        expect("someevent", "/mycontext", &id, TIME, &payload);
    }

    const LATER: &str = "2018-04-05T17:31:05Z";
    let batch = format!(
        "[{},{}]",
        structured("someevent", "/mycontext/4", "B234-1234-1234", TIME, thrift),
        structured("someotherevent", "/mycontext/9", "C234-1234-1234", LATER, &data)
    );
    publish("application/cloudevents-batch+json; charset=UTF-8", batch.as_bytes(), 2);
    expect("someevent", "/mycontext/4", "B234-1234-1234", TIME, &json!("aGVsbG8="));
    expect("someotherevent", "/mycontext/9", "C234-1234-1234", LATER, &object);
    publish("application/cloudevents-batch+json", b"[]", 0);

    let with_id = |id: &str| {
        format!(
            "application/json; charset=utf-8\r\nce-specversion: 1.0\r\nce-type: com.example.someevent\r\n\
             ce-time: 2018-04-05T03:56:24Z\r\nce-id: {id}\r\nce-source: /mycontext/subcontext"
        )
    };
    for (written, read) in [
        ("1234-1234-1234", "1234-1234-1234"),
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro \u{20ac} \u{1f600}"),
        ("Euro%20%e2%82%ac%20%f0%9f%98%80", "Euro \u{20ac} \u{1f600}"),
        (r#""in \"quotes\" as of old""#, r#"in "quotes" as of old"#),
    ] {
        publish(&with_id(written), OBJECT.as_bytes(), 1);
        expect("someevent", "/mycontext/subcontext", read, "2018-04-05T03:56:24Z", &object);
    }
    // An overlong form of a space is not a space.
    assert_eq!(http::post(server.addr, "/publish", &with_id("%C0%A0"), OBJECT.as_bytes()).status, 400);
}

#[test]
fn an_events_journey_shows_the_interests_and_their_reasons() {
    let server = Server::with(&["--loops", "2"]);
    let subscribe =
        |types: &str| Ws::subscribed(server.addr, json!({"event_types": [types], "sources": ["core"]}));
    let _clients = [subscribe("task.*"), subscribe("task.*"), subscribe("task.*"), subscribe("agent.*")];
    let _all = Sse::open(server.addr, "");
    let id =
        server.publish(r#"{"type":"task.done","source":"core","payload":{"n":1}}"#)["last_event_id"].clone();
    let id = id.as_str().expect("an id");
    let mut journey = Value::Null;
    support::eventually("all interests are reported", || {
        journey = http::get(
            server.addr,
            &format!("/api/explain?event_id={id}&filter=type%3Dtask.*%20source%3Dedge"),
        )
        .json();
        journey["members_shown"] == 5
    });
    assert_eq!((&journey["clients"], &journey["behind_newest"]), (&json!(4), &json!(0)), "{journey:#}");
    assert_eq!(journey["event"]["payload"], json!({"n": 1}));
    let interests = journey["interests"].as_array().expect("a list");
    // The interests of both loops together, the largest first.
    assert_eq!((interests.len(), &interests[0]["members"]), (3, &json!(3)), "{journey:#}");
    let agents = interests.iter().find(|one| one["wanted"] == false).expect("one that does not want it");
    let conditions = json!([
        {"condition": "type=agent.*", "holds": false, "found": "task.done"},
        {"condition": "source=core", "holds": true, "found": "core"},
    ]);
    assert_eq!(agents["filters"][0]["conditions"], conditions, "{journey:#}");
    assert_eq!(
        (&journey["filter"]["wanted"], journey["filter"]["conditions"].as_array().map(Vec::len)),
        (&json!(false), Some(2))
    );

    for (query, status) in [("", 400), ("?event_id=nonsense", 400), ("?event_id=1-1", 404)] {
        let answer = http::get(server.addr, &format!("/api/explain{query}"));
        assert_eq!(answer.status, status, "{query}: {answer:?}");
        assert!(answer.json()["error"].is_string());
    }
    let answer = http::get(server.addr, &format!("/api/explain?event_id={id}&filter=type%3D("));
    assert_eq!(answer.status, 400, "{answer:?}");
}

/// Parses Prometheus' text format 0.0.4 as strictly as its own parser, and applies the rules of `promtool check
/// metrics`. Returns the families by name.
fn families(text: &str) -> BTreeMap<String, String> {
    let is_name = |name: &str| {
        name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    let mut kinds = BTreeMap::new();
    let mut helps = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut current = String::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            assert!(help.len() > 3 && !help.contains('"'), "{line}");
            assert!(helps.insert(name.to_owned(), help.to_owned()).is_none(), "twice: {line}");
            name.clone_into(&mut current);
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            assert_eq!(current, name, "HELP stands before TYPE");
            assert!(["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            continue;
        }
        assert!(!line.starts_with('#') && !line.is_empty(), "neither HELP nor TYPE: {line:?}");
        let (key, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(seen.insert(key.to_owned()), "twice: {line}");
        let (name, labels) = key.split_once('{').unwrap_or((key, "}"));
        let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (label, value) = label.split_once('=').unwrap_or_else(|| panic!("{line}"));
            assert!(
                is_name(label) && value.len() >= 2 && value.starts_with('"') && value.ends_with('"'),
                "{line}"
            );
        }
        let kind = kinds.get(&current).unwrap_or_else(|| panic!("no TYPE before {line}"));
        let endings: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        let belongs = endings.iter().any(|ending| name == format!("{current}{ending}"));
        assert!(belongs && is_name(name), "{line} is not of {current}");
    }
    for (name, kind) in &kinds {
        assert!(helps.contains_key(name), "{name} has no help");
        assert_eq!(
            name.ends_with("_total"),
            kind == "counter",
            "{name}: _total is for counters, and for each of them"
        );
        let is_reserved = ["_bucket", "_count", "_sum", "_info"].iter().any(|ending| name.ends_with(ending));
        assert!(!is_reserved, "{name}: the ending is reserved");
        for part in name.split('_') {
            // Units are whole words in base units. A name does not contain its kind.
            let wrong = [
                "ms",
                "us",
                "ns",
                "sec",
                "kb",
                "mb",
                "milliseconds",
                "microseconds",
                "minutes",
                "hours",
                "kilobytes",
            ];
            assert!(
                !wrong.contains(&part) && !["counter", "gauge", "histogram", "summary"].contains(&part),
                "{name}"
            );
        }
    }
    assert_eq!(helps.len(), kinds.len());
    kinds
}

#[test]
fn metrics_are_prometheus_text_with_help_and_type_unless_openmetrics_is_asked_for() {
    let server = Server::with(&["--dialect", "autosdlc,fcc"]);
    let mut stream = Sse::open(server.addr, "");
    server.publish(numbered(1));
    stream.event();
    let ask = |accept: &str| {
        let mut wire = Wire::connect(server.addr);
        let accept = if accept.is_empty() { String::new() } else { format!("accept: {accept}\r\n") };
        let host = server.addr;
        wire.send(
            format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\n{accept}connection: close\r\n\r\n").as_bytes(),
        );
        let answer = read_response(&mut wire, deadline()).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    };
    // curl, a browser, and promtool's `check metrics` name no format, or accept any.
    for accept in ["", "*/*", "text/html,application/xml;q=0.9,*/*;q=0.8", "text/plain", "application/json"] {
        let answer = ask(accept);
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; version=0.0.4; charset=utf-8"),
            "{accept}"
        );
        let kinds = families(answer.text());
        assert!(kinds.len() > 40, "{kinds:?}");
        assert_eq!(kinds["fanwire_server_events_published_total"], "counter");
        assert_eq!(kinds["fanwire_server_connections"], "gauge");
        assert_eq!(kinds["fanwire_feed_delivery_seconds"], "histogram");
        assert_eq!(kinds["websocket_connections_total"], "counter");
    }
    // Prometheus' scraper.
    let scraper = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    for accept in [scraper, "application/openmetrics-text; version=1.0.0"] {
        let answer = ask(accept);
        let kind = Some("application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert_eq!(answer.header("content-type"), kind);
        assert!(
            answer.text().contains("# TYPE fanwire_server_events_published counter\n"),
            "{}",
            answer.text()
        );
        assert!(answer.text().ends_with("# EOF\n"));
    }
}

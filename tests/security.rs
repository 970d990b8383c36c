//! Tests threats in SECURITY.md's table that no other test covers, and checks that the tests named in the table exist.

mod support;

use std::io::Write as _;
use std::time::{Duration, Instant};

use fanwire::{Bus, Event, Server as InProcess, ServerConfig};
use serde_json::{Value, json};
use support::script::in_project;
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::{CLOSE, PING, Ws, raw_frame, upgrade_request};
use support::{Server, http, named};

const SECRET: &str = "a secret of thirty-two bytes, no less";
const MASK: [u8; 4] = [1, 2, 3, 4];

#[test]
fn the_security_table_names_tests_that_exist() {
    let document = std::fs::read_to_string(in_project("SECURITY.md")).expect("the document");
    let code = named::code();
    let mut rows = 0;
    let table = document.lines().skip_while(|line| *line != "## Threats, and the tests that show them met");
    for line in table.skip(1).take_while(|line| !line.starts_with("## ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let &[_, threat, _, shown, _] = cells.as_slice() else { continue };
        if threat == "threat" || threat.starts_with('-') {
            continue;
        }
        let names: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{threat}: no test");
        for name in names {
            assert!(named::is_test(name, &code), "{threat}: {name} is no test");
        }
        rows += 1;
    }
    assert!(rows >= 10, "{rows} threats");
}

#[test]
fn a_message_that_expands_without_end_costs_its_own_connection_alone() {
    let server = Server::start();
    let mut wire = Wire::connect(server.addr);
    wire.send(upgrade_request("/ws", "Sec-WebSocket-Extensions: permessage-deflate\r\n").as_bytes());
    let answer = http::read_head(&mut wire, deadline()).expect("an answer");
    assert!(
        answer.header("sec-websocket-extensions").is_some_and(|value| value.contains("permessage-deflate"))
    );
    let mut client = Ws { wire, response: answer };
    // 40 MB of zeros, in 40 KB.
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; 40 << 20]).expect("memory");
    let bomb = encoder.finish().expect("memory");
    let before = server.rss_kib();
    client.wire.send(&raw_frame(0xc1, Some(MASK), bomb.len(), &bomb));
    let last = loop {
        let frame = client.read_frame(deadline()).expect("a farewell");
        // On a slow machine a heartbeat may arrive first.
        if frame.opcode() != PING {
            break frame;
        }
    };
    assert_eq!((last.opcode(), last.close().0), (CLOSE, 1009));
    assert!(server.rss_kib() < before + 16 * 1024, "{} KiB, {before} before", server.rss_kib());
    server.assert_serving();
}

#[test]
fn deeply_nested_json_is_refused_at_every_entrance() {
    let server = Server::start();
    let mut client = Ws::connect(server.addr);
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        // Nested too deep for a recursive parser's stack, but within the size limit of a message.
        let nested = format!("{}1{}", open.repeat(9_000), close.repeat(9_000));
        let event = format!("{{\"type\":\"deep\",\"payload\":{nested}}}");
        for body in [&event, &nested, &format!("[{event}]")] {
            let answer = http::post(server.addr, "/publish", "application/json", body.as_bytes());
            assert_eq!(answer.status, 400, "{answer:?}");
        }
        for message in [
            format!("{{\"type\":\"publish\",\"message_id\":\"m\",\"payload\":{event}}}"),
            format!("{{\"type\":\"subscribe\",\"message_id\":\"m\",\"payload\":{nested}}}"),
            nested.clone(),
        ] {
            client.send_text(&message);
            assert_eq!(client.message()["type"], "error");
        }
    }
    assert_eq!(client.ask(&json!({"type": "ping", "payload": {}}))["type"], "pong");
    server.assert_serving();
}

/// Texts that an attacker would use to inject lines into a stream or a log.
const BREAKS: [&str; 5] = [
    "\r\n\r\nevent: evil\r\ndata: evil\r\n\r\n",
    "\nevent: evil\n\n",
    "\rid: evil\r",
    "\u{0}evil",
    "\u{1b}[2J",
];

#[test]
fn nothing_in_an_event_or_a_request_breaks_out_of_its_place_in_a_stream() {
    let server = Server::start();
    let mut all = Sse::open(server.addr, "");
    for text in BREAKS {
        for field in ["type", "source", "stream_id", "execution_id", "correlation_id", "channel"] {
            let mut event = json!({"type": "a.b"});
            event[field] = json!(format!("x{text}"));
            let answer =
                http::post(server.addr, "/publish", "application/json", event.to_string().as_bytes());
            assert_eq!(answer.status, 400, "{field} {text:?}: {answer:?}");
        }
        let entity = json!({"type": "a.b", "entity": {"kind": "k", "id": text}});
        let answer = http::post(server.addr, "/publish", "application/json", entity.to_string().as_bytes());
        assert_eq!(answer.status, 400, "{answer:?}");
        // A payload may contain any text. It stays within its line.
        server.publish(json!({"type": "a.b", "payload": {"text": text, text: 1}}).to_string());
        let block = all.event();
        assert_eq!((block.event.as_deref(), &block.json()["payload"]["text"]), (Some("a.b"), &json!(text)));
    }
    // White space within a payload could end a line.
    server.publish("{\"type\":\"a.b\",\"payload\":{\r\n\r\n\"n\":\n1\r}}");
    assert_eq!(all.event().json()["payload"], json!({"n": 1}));

    // An id that a client made up may be repeated in a gap only.
    for query in [
        "?last_event_id=1-1%0D%0A%0D%0Aevent:%20evil%0D%0Adata:%20x%0D%0A%0D%0A",
        "?type=%0D%0Aevent:%20evil%0D%0A%0D%0A",
    ] {
        let mut wire = Wire::connect(server.addr);
        wire.send(format!("GET /sse{query} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        let answer = http::read_head(&mut wire, deadline()).expect("an answer");
        let _ = wire.take_until(b"\n\n", Instant::now() + Duration::from_millis(500));
        let received = String::from_utf8_lossy(wire.buffered()).into_owned();
        assert!(!received.lines().any(|line| line.starts_with("event: evil")), "{answer:?} {received}");
        assert!(!format!("{answer:?}").contains("\nevent: evil"), "{answer:?}");
    }
    server.assert_serving();
}

#[test]
fn nothing_that_a_stranger_sends_makes_a_line_of_the_log_or_moves_its_terminal() {
    for format in ["text", "json"] {
        let server = Server::with(&["--log-level", "trace", "--log-format", format]);
        let forged = "%0AFORGED%0D%0A%1B[2J";
        for path in [
            format!("/{forged}"),
            format!("/sse?type={forged}"),
            format!("/sse?{forged}=1"),
            format!("/bridge/{forged}"),
        ] {
            let mut wire = Wire::connect(server.addr);
            wire.send(
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
            );
            http::read_head(&mut wire, deadline()).expect("an answer");
        }
        for header in ["User-Agent: \u{1b}[2JFORGED", "Origin: http://\u{1b}[2JFORGED", "Cookie: a=\u{1b}[2J"]
        {
            let mut wire = Wire::connect(server.addr);
            wire.send(
                format!("GET /sse HTTP/1.1\r\nHost: localhost\r\n{header}\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            );
            let _ = http::read_head(&mut wire, deadline());
        }
        let mut client = Ws::connect(server.addr);
        let id = "s\nFORGED\u{1b}[2J";
        client.ask(&json!({"type": "subscribe", "message_id": id, "payload": {"subscription_id": id, "event_types": [id]}}));
        client.ask(&json!({"type": id, "message_id": id, "payload": {}}));
        client.send_text("\u{1b}[2J\nFORGED");
        client.message();
        let hive = &mut Ws::over(Wire::connect(server.addr), "/autosdlc", "");
        hive.send(&json!({"type": id, "id": id, "data": {"x": id}}));
        http::post(server.addr, "/publish", "application/json", b"{\"type\":\"a\\nFORGED\\u001b[2J\"}");
        http::post(server.addr, "/bridge/a2a", "application/json", b"{\"task_id\":\"\\nFORGED\\u001b[2J\"}");
        server.assert_serving();
        let log = server.log();
        assert!(!log.contains('\u{1b}'), "{format}: {log}");
        for line in log.lines() {
            assert!(!line.trim_start().starts_with("FORGED"), "{format}: {line}");
            let is_whole = if format == "json" {
                serde_json::from_str::<Value>(line).is_ok()
            } else {
                line.starts_with("20")
            };
            assert!(is_whole, "{format}: not a line of ours: {line}");
        }
    }
}

/// Publishes events of a stream, in one body.
fn publish_of(server: &Server, writer: &str, stream: &str, count: usize) {
    let line =
        format!("{{\"type\":\"t.x\",\"stream_id\":\"{stream}\",\"payload\":{{\"of\":\"{stream}\"}}}}\n");
    let body = line.repeat(count);
    let request = format!(
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {writer}\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = http::exchange(server.addr, request.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Subscribes, and returns the position in the answer.
fn place_of_ack(client: &mut Ws, payload: &Value) -> Value {
    client.send(&json!({"type": "subscribe", "message_id": "m", "payload": payload}));
    client.message()["payload"]["last_event_id"].take()
}

fn place_of_pong(client: &mut Ws) -> Value {
    client.send(&json!({"type": "ping", "message_id": "p"}));
    let mut pong = client.message();
    assert_eq!(pong["type"], "pong", "{pong}");
    pong["payload"]["last_event_id"].take()
}

/// Returns the first id of an event stream.
fn first_id(server: &Server, token: &str) -> String {
    let mut wire = Wire::connect(server.addr);
    wire.send(format!("GET /sse?token={token} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    http::read_head(&mut wire, deadline()).expect("an answer");
    loop {
        let line = wire.take_until(b"\n", deadline()).expect("a line");
        if let Some(id) = line.strip_prefix(b"id: ") {
            return String::from_utf8_lossy(id).trim().to_owned();
        }
    }
}

#[test]
fn a_silent_tenant_learns_nothing_of_how_much_others_publish() {
    for shards in ["1", "3"] {
        let options = ["--auth-jwt-hs256-secret", SECRET, "--bus-shards", shards, "--bus-capacity", "256"];
        let server = Server::with(&options);
        let writer = support::token(SECRET, &["--publish"]);
        let tenant = support::token(SECRET, &["--stream", "acme"]);
        let connect = || Ws::over(Wire::connect(server.addr), &format!("/ws?token={tenant}"), "");
        let is_sealed =
            |place: &Value| place.as_str().is_some_and(|text| text.starts_with('~') && !text.contains('-'));
        publish_of(&server, &writer, "rival", 5);
        let mut client = connect();
        let begun = place_of_ack(&mut client, &json!({}));
        assert!(is_sealed(&begun), "{begun}");
        // The reported position does not change when others publish.
        for _ in 0..3 {
            assert_eq!(place_of_pong(&mut client), begun);
            publish_of(&server, &writer, "rival", 7);
        }
        // An event of its own changes it.
        publish_of(&server, &writer, "acme", 1);
        assert_eq!(client.message()["type"], "event");
        let moved = place_of_pong(&mut client);
        assert!(is_sealed(&moved) && moved != begun, "{moved}");
        // Two positions of the same time differ, so they do not reveal that they are equal.
        assert_ne!(place_of_ack(&mut connect(), &json!({})), place_of_ack(&mut connect(), &json!({})));
        let id = first_id(&server, &tenant);
        assert!(id.starts_with('~'), "{id}");
        // A client that may see everything gets the real position.
        let wide = support::token(SECRET, &["--stream", "*"]);
        assert!(!first_id(&server, &wide).starts_with('~'));

        // A resume from such a position delivers all of the tenant's events, and no others.
        for since in [moved.as_str().expect("a text"), &id] {
            publish_of(&server, &writer, "rival", 3);
            publish_of(&server, &writer, "acme", 2);
            let mut back = connect();
            let query = format!("?token={tenant}");
            let mut stream = Sse::with(server.addr, &query, &format!("Last-Event-ID: {since}\r\n"));
            back.send(&json!({"type": "subscribe", "message_id": "m", "payload": {"since": since}}));
            let mut came = 0;
            while came < 2 {
                let message = back.message();
                assert_ne!(message["type"], "gap", "{message}");
                came += usize::from(message["type"] == "event");
                if message["type"] == "event" {
                    assert_eq!(stream.event().json()["payload"]["of"], "acme");
                }
            }
        }

        // If the ring has evicted only other tenants' later events, a tenant gets no gap.
        let last = place_of_ack(&mut connect(), &json!({}));
        publish_of(&server, &writer, "rival", 2000);
        let mut back = connect();
        back.send(&json!({"type": "subscribe", "message_id": "m", "payload": {"since": last}}));
        assert_eq!(back.message()["type"], "ack");
        publish_of(&server, &writer, "acme", 1);
        assert_eq!(back.message()["type"], "event");

        // If the server can't know whether the tenant missed events, it sends a gap, without a number or position that
        // counts other tenants' events.
        publish_of(&server, &writer, "rival", 100);
        publish_of(&server, &writer, "acme", 600);
        let mut back = connect();
        let payload = json!({"since": begun, "correlation_ids": ["c"]});
        back.send(&json!({"type": "subscribe", "message_id": "m", "payload": payload}));
        let gap = loop {
            let message = back.message();
            if message["type"] == "gap" {
                break message["payload"].clone();
            }
        };
        assert_eq!(
            (&gap["missed"], &gap["at_most"], &gap["to"]),
            (&Value::Null, &Value::Null, &Value::Null),
            "{gap}"
        );
        assert!(gap["from"].is_null() || is_sealed(&gap["from"]), "{gap}");

        // Before the token, the client gets no position at all.
        let mut stranger = Ws::connect(server.addr);
        assert_eq!(place_of_pong(&mut stranger), Value::Null);
    }
}

#[test]
fn a_tenant_sees_nothing_of_another_by_any_way_in() {
    let server = Server::with(&["--auth-jwt-hs256-secret", SECRET]);
    let writer = support::token(SECRET, &["--publish"]);
    let publish = |stream: &str, n: usize| {
        let body = format!(
            "{{\"type\":\"t.x\",\"stream_id\":\"{stream}\",\"entity\":{{\"kind\":\"k\",\"id\":\"{n}\"}},\"payload\":{{\"of\":\"{stream}\"}}}}"
        );
        let request = format!(
            "POST /publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {writer}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = http::exchange(server.addr, request.as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["last_event_id"].as_str().expect("an id").to_owned()
    };
    let first = publish("acme", 0);
    for n in 1..10 {
        publish(if n % 2 == 0 { "acme" } else { "rival" }, n);
    }
    let tenant = support::token(SECRET, &["--stream", "acme"]);
    // Each way to request a past, and new events after it.
    let mut sockets: Vec<Ws> =
        [json!({"history": 100}), json!({"since": first}), json!({"snapshot": true}), json!({})]
            .into_iter()
            .map(|payload| {
                let mut client = Ws::over(Wire::connect(server.addr), &format!("/ws?token={tenant}"), "");
                client.send(&json!({"type": "subscribe", "message_id": "m", "payload": payload}));
                client
            })
            .collect();
    let queries = ["history=100", "snapshot=1", &format!("last_event_id={first}"), "type=**"];
    let mut streams: Vec<Sse> =
        queries.iter().map(|query| Sse::open(server.addr, &format!("?token={tenant}&{query}"))).collect();
    for (at, client) in sockets.iter_mut().enumerate() {
        // The ack may arrive before or after the past.
        while client.message()["type"] != "ack" {
            assert!(at < 3, "nothing was asked for");
        }
    }
    publish("rival", 98);
    publish("acme", 99);
    for client in &mut sockets {
        loop {
            let message = client.message();
            if message["type"] == "event" {
                assert_eq!(message["payload"]["payload"]["of"], "acme", "{message}");
                if message["payload"]["entity"]["id"] == "99" {
                    break;
                }
            }
        }
    }
    for stream in &mut streams {
        loop {
            let event = stream.event().json();
            assert_eq!(event["payload"]["of"], "acme", "{event}");
            if event["entity"]["id"] == "99" {
                break;
            }
        }
    }
    // Neither an operator's route nor a filter on the other tenant's name reveals its events.
    for path in ["/api/stats", "/metrics", &format!("/api/explain?event_id={first}"), "/sse?stream=rival"] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {tenant}\r\nConnection: close\r\n\r\n"
        );
        let mut wire = Wire::connect(server.addr);
        wire.send(request.as_bytes());
        assert_eq!(http::read_head(&mut wire, deadline()).expect("an answer").status, 403, "{path}");
    }
}

#[test]
fn a_narrow_grant_passes_exactly_its_own_of_a_million_random_events() {
    const ROUNDS: u64 = 1000;
    const A_ROUND: u64 = 1000;
    // Streams that resemble an allowed one, and others that do not.
    const STREAMS: [&str; 10] =
        ["", "acme", "acme.a", "acme.b", "acme.a.b", "acmes.a", "rival", "rival.acme.a", "Acme.a", "*"];
    const TYPES: [&str; 8] = [
        "task",
        "task.done",
        "task.failed",
        "task.step.done",
        "tasks.done",
        "alert.on",
        "a.task.done",
        "Task.done",
    ];
    let may = |kind: &str, stream: &str| {
        matches!(stream, "acme.a" | "acme.b") && matches!(kind, "task.done" | "task.failed")
    };
    let bus = Bus::builder().capacity(4096).build().expect("a bus");
    let mut config = ServerConfig::default();
    config.auth.jwt.hs256_secret = Some(SECRET.into());
    config.max_lag_events = 100_000;
    let server = InProcess::builder(&bus).listen("127.0.0.1:0").config(config).spawn().expect("a free port");
    let addr = server.local_addr();
    let grant = support::token(SECRET, &["--stream", "acme.*", "--type", "task.*"]);
    // The client subscribes to everything, in two ways.
    let mut socket = Ws::over(Wire::connect(addr), &format!("/ws?token={grant}"), "");
    assert_eq!(socket.ask(&json!({"type": "subscribe", "payload": {}}))["type"], "ack");
    let mut stream = Sse::open(addr, &format!("?token={grant}"));
    let mut state = 0x5eed_u64;
    let mut dice = move |sides: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % sides
    };
    let mut allowed = 0;
    for round in 0..ROUNDS {
        let mut wanted = Vec::new();
        for n in round * A_ROUND..(round + 1) * A_ROUND {
            let (kind, of) = (TYPES[dice(TYPES.len())], STREAMS[dice(STREAMS.len())]);
            if may(kind, of) {
                wanted.push(n);
            }
            let event =
                Event::builder(kind).stream(of).json(format!("{{\"n\":{n}}}")).build().expect("an event");
            bus.publish(event);
        }
        // This waits, so that no client lags when the next thousand events are published.
        let last = Event::builder("task.done").stream("acme.a").json("{\"n\":0}").build().expect("an event");
        bus.publish(last);
        allowed += wanted.len();
        wanted.push(0);
        for n in wanted {
            assert_eq!(socket.event()["payload"]["n"], n, "over WebSocket");
            assert_eq!(stream.event().json()["payload"]["n"], n, "over SSE");
        }
    }
    assert!(allowed > 10_000, "{allowed}");
    server.drain(Duration::ZERO);
    server.join().expect("its loops end well");
}

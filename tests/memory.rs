//! Memory that clients can make the server hold: the reported amount is the real one, and it stays within the budget.
//!
//! Real memory is the process's resident memory, so each attack is large enough to stand out from the
//! allocator's overhead.

mod support;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use support::http::{self, read_head};
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::{self, Ws};
use support::{Server, eventually, fanwire};

const MIB: u64 = 1 << 20;

/// Allowed difference of resident memory for the allocator: pages that it keeps, and tables that grew by doubling.
const SLACK: u64 = 12 * MIB;

const SECRET: &str = "only-this-test-and-its-server-know-it-90f2";

/// Starts a server with an allocator that returns freed memory to the system as far as it can.
fn server(options: &[&str]) -> Server {
    let mut command = fanwire();
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn"]).args(options);
    Server::spawn(command.env("MALLOC_ARENA_MAX", "1").env("MALLOC_TRIM_THRESHOLD_", "131072"))
}

/// Sends until the server accepts no more bytes, or has received all.
fn pour(wire: &mut Wire, bytes: &[u8]) {
    wire.stream.set_write_timeout(Some(Duration::from_millis(150))).expect("a socket");
    let _ = wire.stream.write_all(bytes);
}

/// The state before an attack.
struct Before {
    real: u64,
    held: u64,
}

fn held(server: &Server) -> u64 {
    http::get(server.addr, "/api/stats").json()["held_bytes"].as_u64().expect("a number")
}

/// Returns the reported memory after the next count. The server counts it once a second.
fn settled(server: &Server) -> u64 {
    std::thread::sleep(Duration::from_millis(2300));
    held(server)
}

impl Before {
    fn new(server: &Server) -> Self {
        Self { held: settled(server), real: server.rss_kib() * 1024 }
    }

    /// Checks the growth of the real and of the reported memory: each may be at most twice the other, with some slack.
    fn check(&self, server: &Server, what: &str) -> (u64, u64) {
        // A busy machine may count later than once a second.
        let (mut real, mut held) = (0, 0);
        eventually(&format!("{what}: the reported memory is the real one"), || {
            held = settled(server).saturating_sub(self.held);
            real = (server.rss_kib() * 1024).saturating_sub(self.real);
            eprintln!("{what}: {} KiB real, {} KiB held", real / 1024, held / 1024);
            real <= 2 * held + SLACK && held <= 2 * real + SLACK
        });
        (real, held)
    }
}

fn publish(server: &Server, count: usize, size: usize) {
    let pad = "x".repeat(size);
    for start in (0..count).step_by(500) {
        let mut lines = String::new();
        for n in start..(start + 500).min(count) {
            writeln!(lines, "{{\"type\":\"tick\",\"payload\":{{\"n\":{n},\"pad\":\"{pad}\"}}}}")
                .expect("room");
        }
        server.publish(lines);
    }
}

#[test]
fn unread_answers_are_bounded_in_every_dialect() {
    let server = server(&[]);
    let ping = ws::frame(9, b"are you there").repeat(20_000);
    let nonsense = ws::frame(1, b"nonsense").repeat(20_000);
    let requests = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(10_000);
    let before = Before::new(&server);
    let mut all = Vec::new();
    for path in ["/ws", "/hive", "/autosdlc", "/ws/events", "/ws/circles/a"] {
        for (input, what) in [(&ping, "pings"), (&nonsense, "nonsense")] {
            for _ in 0..10 {
                let mut client = Ws::over(Wire::narrow(server.addr, 4096), path, "");
                pour(&mut client.wire, input);
                all.push(client.wire);
            }
            before.check(&server, &format!("{what} at {path}"));
        }
    }
    for _ in 0..20 {
        let mut client = Wire::narrow(server.addr, 4096);
        pour(&mut client, &requests);
        all.push(client);
    }
    let (real, _) = before.check(&server, "pipelined requests");
    let each = real / all.len() as u64;
    assert!(each < MIB, "{each} bytes for a client that does not read");
    server.assert_serving();
}

#[test]
fn pongs_have_a_bound_before_a_token_is_shown_too() {
    let server = server(&["--auth-jwt-hs256-secret", SECRET]);
    let before = server.rss_kib() * 1024;
    let ping = ws::frame(9, b"x").repeat(50_000);
    let mut all = Vec::new();
    for _ in 0..50 {
        let mut client = Ws::over(Wire::narrow(server.addr, 4096), "/ws", "");
        pour(&mut client.wire, &ping);
        all.push(client);
    }
    let real = (server.rss_kib() * 1024).saturating_sub(before);
    assert!(real < 50 * MIB, "{real} bytes for 50 strangers");
}

#[test]
fn replays_that_stand_still_are_counted_and_end() {
    let server = server(&["--heartbeat", "1s"]);
    publish(&server, 8000, 500);
    // A first client, so that the ring's frames exist before the measurement.
    let mut first = Sse::open(server.addr, "?history=8000");
    while first.event().json()["payload"]["n"] != 7999 {}
    drop(first);
    let before = Before::new(&server);
    let mut all = Vec::new();
    for _ in 0..200 {
        let mut wire = Wire::narrow(server.addr, 4096);
        wire.send(b"GET /sse?history=8000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        read_head(&mut wire, deadline()).expect("a stream");
        all.push(wire);
    }
    std::thread::sleep(Duration::from_millis(300));
    let real = (server.rss_kib() * 1024).saturating_sub(before.real);
    assert!(real < 120 * MIB, "{real} bytes for 200 replays");
    // None of the clients reads. All of them are disconnected, although they are event streams.
    eventually("they end", || server.metric("fanwire_server_shed_total") >= Some(200.0));
    eventually("and their memory is freed", || held(&server) < before.held + 2 * MIB);
}

#[test]
fn subscriptions_are_counted_and_a_client_has_a_share() {
    let server = server(&["--max-memory-bytes", "512MiB"]);
    let before = Before::new(&server);
    // Subscriptions as many and as large as the limits allow.
    let mut clients: Vec<Ws> = (0..8).map(|_| Ws::connect(server.addr)).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        let mut refused = Value::Null;
        for number in 0..1000 {
            let values: Vec<String> = (0..256).map(|n| format!("kind-{at}-{number}-{n}")).collect();
            let payload = json!({"subscription_id": format!("s{number}"), "event_types": values});
            let answer = client.ask(&json!({"type": "subscribe", "payload": payload}));
            if answer["type"] == "error" {
                refused = answer["payload"]["code"].clone();
                break;
            }
        }
        assert!(
            refused.is_null() || refused == "too_many_values" || refused == "subscriptions_too_large",
            "{refused}"
        );
    }
    let (_, held) = before.check(&server, "subscriptions of 256 values");
    assert!(held < 8 * 64 * MIB, "{held}");
    drop(clients);
    eventually("what they held is gone", || settled(&server) < before.held + 4 * MIB);
    // Subscriptions with the longest names, from many clients.
    let long = "n".repeat(200);
    let mut all = Vec::new();
    for client in 0..20 {
        let mut ws = Ws::connect(server.addr);
        for number in 0..60 {
            let values: Vec<String> = (0..200).map(|n| format!("{long}.{client}.{number}.{n}")).collect();
            ws.ask(&json!({"type": "subscribe", "payload": {"subscription_id": format!("{long}{number}"), "sources": values}}));
        }
        all.push(ws);
    }
    before.check(&server, "the longest names");
}

/// Patterns and conditions on payloads, as many as a client may hold, each different: nodes of a trie, conditions, fields.
#[test]
fn patterns_and_conditions_are_counted() {
    let server = server(&["--max-memory-bytes", "512MiB"]);
    let before = Before::new(&server);
    let kinds: [(&str, &dyn Fn(usize) -> Value); 3] = [
        (
            "patterns",
            &|n| json!({ "event_types": [format!("a{n}.*.b{n}.**.c{n}"), format!("**.d{n}.e{n}")] }),
        ),
        ("negated patterns", &|n| json!({ "filter": format!("type!=a{n}.*.b{n}.**.c{n},**.d{n}.e{n}") })),
        ("conditions", &|n| json!({ "filter": format!("payload.a{n}.b{n}>={n} payload.c{n}==text-{n}") })),
    ];
    let mut all = Vec::new();
    for (at, (what, payload)) in kinds.into_iter().enumerate() {
        for client in 0..10 {
            let mut ws = Ws::connect(server.addr);
            let mut taken = 0;
            for number in 0..1_000 {
                let mut payload = payload((at * 10 + client) * 1_000 + number);
                payload["subscription_id"] = json!(format!("s{number}"));
                if ws.ask(&json!({"type": "subscribe", "payload": payload}))["type"] == "error" {
                    break;
                }
                taken += 1;
            }
            assert!(taken > 500, "{what}: {taken} were taken");
            all.push(ws);
        }
        before.check(&server, what);
    }
    let (real, _) = before.check(&server, "all of them");
    assert!(real > 12 * MIB, "{real}: nothing to compare");
}

#[test]
fn autosdlc_subscriptions_for_operators_are_counted_as_memory() {
    let server = server(&[]);
    let before = Before::new(&server);
    let mut all = Vec::new();
    for client in 0..40 {
        let mut ws = Ws::over(Wire::connect(server.addr), "/autosdlc", "");
        ws.message();
        let mut taken = 0;
        for number in 0..40 {
            let patterns: Vec<String> =
                (0..60).map(|n| format!("{}-{client}-{number}-{n}:*:x", "e".repeat(180))).collect();
            let data = json!({"subscriptionId": format!("s{number}"), "pattern": patterns});
            taken += usize::from(ws.ask(&json!({"type": "subscribe", "data": data}))["type"] != "error");
        }
        assert!(taken > 0, "none was taken");
        all.push(ws);
    }
    let (real, _) = before.check(&server, "AutoSDLC's subscriptions");
    assert!(real > 8 * MIB, "{real}: nothing to compare");
}

/// Sends part of a body.
fn unfinished(addr: SocketAddr, headers: &str, length: usize, part: usize) -> Wire {
    let mut wire = Wire::connect(addr);
    wire.send(
        format!("POST /publish HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n")
            .as_bytes(),
    );
    wire.send_if_taken(&vec![b'x'; part]);
    wire
}

fn bearer(subject: &str, options: &[&str]) -> String {
    let token = support::token(SECRET, &[&["--sub", subject, "--stream", "*"], options].concat());
    format!("Authorization: Bearer {token}\r\n")
}

#[test]
fn unfinished_bodies_of_one_client_shut_out_no_other() {
    let server = server(&["--auth-jwt-hs256-secret", SECRET, "--max-memory-bytes", "64MiB"]);
    let (greedy, honest) = (bearer("greedy", &["--publish"]), bearer("honest", &["--publish"]));
    let before = server.rss_kib() * 1024;
    let size = 4 << 20;
    let bodies: Vec<Wire> = (0..60).map(|_| unfinished(server.addr, &greedy, size, size - 10)).collect();
    let refused = bodies.into_iter().filter_map(|mut wire| {
        wire.stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
        let mut head = [0; 12];
        std::io::Read::read_exact(&mut wire.stream, &mut head).ok().map(|()| (head, wire))
    });
    let refused: Vec<_> = refused.collect();
    assert!(refused.len() >= 50, "{} of 60 were refused", refused.len());
    assert!(refused.iter().all(|(head, _)| head == b"HTTP/1.1 429" || head == b"HTTP/1.1 503"));
    let real = (server.rss_kib() * 1024).saturating_sub(before);
    assert!(real < 64 * MIB + SLACK, "{real} bytes");
    for _ in 0..20 {
        let body = r#"{"type":"a.b","payload":{}}"#;
        let request = format!(
            "POST /publish HTTP/1.1\r\nHost: localhost\r\n{honest}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(http::exchange(server.addr, request.as_bytes()).status, 200);
        drop(Sse::with(server.addr, "?type=a.b", &honest));
    }
}

#[test]
fn a_client_without_the_right_to_publish_is_refused_by_its_head_alone() {
    let server = server(&["--auth-jwt-hs256-secret", SECRET]);
    let reader = bearer("reader", &[]);
    for path in ["/publish", "/bridge/a2a", "/api/revoke"] {
        let mut wire = Wire::connect(server.addr);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\n{reader}Content-Length: 4000000\r\nExpect: 100-continue\r\n\r\n"
        );
        wire.send(head.as_bytes());
        assert_eq!(read_head(&mut wire, deadline()).expect("an answer").status, 403, "{path}");
    }
    // A body that is not needed is skipped, and the connection remains usable.
    let mut wire = Wire::connect(server.addr);
    wire.send(
        format!("POST /ticket HTTP/1.1\r\nHost: localhost\r\n{reader}Content-Length: 2\r\n\r\n{{}}")
            .as_bytes(),
    );
    assert_eq!(http::read_response(&mut wire, deadline()).expect("an answer").status, 200);
    wire.send(format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{reader}\r\n").as_bytes());
    assert_eq!(http::read_response(&mut wire, deadline()).expect("an answer").status, 200);
}

/// Opens a WebSocket. `None` if the server is short of memory and accepts no new client.
fn upgraded(mut wire: Wire) -> Option<Wire> {
    wire.send(ws::upgrade_request("/ws", "").as_bytes());
    match read_head(&mut wire, deadline()).expect("an answer").status {
        101 => Some(wire),
        503 => None,
        status => panic!("{status} for an upgrade"),
    }
}

#[test]
fn the_process_keeps_to_its_budget_whatever_comes() {
    let budget = 48 * MIB;
    let server = server(&["--max-memory-bytes", "48MiB", "--bus-capacity", "1024"]);
    publish(&server, 1024, 200);
    let before = server.rss_kib() * 1024;
    let mut worst = 0;
    let mut look = |what: &str| {
        let real = (server.rss_kib() * 1024).saturating_sub(before);
        eprintln!("{what}: {} MiB, {} MiB held", real / MIB, held(&server) / MIB);
        worst = worst.max(real);
    };
    let mut all = Vec::new();
    let ping = ws::frame(9, b"x").repeat(20_000);
    for number in 0..150 {
        if let Some(mut client) = upgraded(Wire::narrow(server.addr, 4096)) {
            pour(&mut client, &ping);
            all.push(client);
        }
        if number % 25 == 0 {
            look("pings");
        }
    }
    for number in 0..30 {
        all.push(unfinished(server.addr, "", 4 << 20, (4 << 20) - 10));
        if number % 5 == 0 {
            look("bodies");
        }
    }
    let long = "n".repeat(240);
    for client in 0..30 {
        let Some(mut wire) = upgraded(Wire::connect(server.addr)) else { continue };
        for number in 0..100 {
            let values: Vec<String> = (0..200).map(|n| format!("{long}.{client}.{number}.{n}")).collect();
            let message = json!({"type": "subscribe", "payload": {"sources": values}});
            wire.send_if_taken(&ws::frame(1, message.to_string().as_bytes()));
        }
        std::thread::sleep(Duration::from_millis(50));
        look("subscriptions");
        all.push(wire);
    }
    look("the end");
    // In addition to the budget there is room for a debug build's own needs and the allocator's overhead.
    assert!(worst < budget + 32 * MIB, "{} MiB with a budget of {}", worst / MIB, budget / MIB);
    // An honest client is served.
    let published: Value = server.publish(r#"{"type":"a.b"}"#);
    assert_eq!(published["accepted"], 1);
    eventually("a stream is taken", || {
        let mut wire = Wire::connect(server.addr);
        wire.send(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
        read_head(&mut wire, deadline()).expect("an answer").status == 200
    });
}

/// The events of the ring hold their frames: one for each encoding that clients use.
#[test]
fn the_frames_of_events_in_several_encodings_are_counted_and_bounded() {
    let server = server(&["--bus-capacity", "512", "--bus-max-bytes", "16MiB", "--loops", "2"]);
    let all = |server: &Server| {
        let stats = http::get(server.addr, "/api/stats").json();
        let of = |name: &str| stats[name].as_u64().expect("a number");
        (of("held_bytes") + of("ring_bytes") + of("frame_bytes"), of("frame_bytes"))
    };
    let mut clients = Vec::new();
    for path in ["/ws", "/ws/events", "/hive", "/autosdlc", "/ws/circles/a"] {
        let mut client = Ws::over(Wire::connect(server.addr), path, "");
        let subscribe = match path {
            "/hive" => json!({"action": "subscribe", "event_types": ["*"]}),
            "/autosdlc" => json!({"type": "subscribe", "data": {"patterns": ["*"]}}),
            _ => json!({"type": "subscribe", "payload": {"event_types": ["**"]}}),
        };
        client.send(&subscribe);
        clients.push(client);
    }
    let streams: Vec<Sse> = (0..2).map(|_| Sse::open(server.addr, "")).collect();
    std::thread::sleep(Duration::from_millis(500));
    let (before, _) = all(&server);
    let real_before = server.rss_kib() * 1024;
    // All clients read, so that nothing is held for them.
    let readers: Vec<_> = (clients.into_iter().map(|client| client.wire))
        .chain(streams.into_iter().map(|stream| stream.wire))
        .map(|mut wire| {
            std::thread::spawn(move || {
                let mut sink = vec![0; 1 << 16];
                while std::io::Read::read(&mut wire.stream, &mut sink).is_ok_and(|read| read > 0) {}
            })
        })
        .collect();
    for _ in 0..8 {
        // A body may have up to 4 MiB.
        publish(&server, 50, 60_000);
    }
    let mut frames = 0;
    eventually("the reported memory is the real one", || {
        std::thread::sleep(Duration::from_millis(2300));
        let held;
        (held, frames) = all(&server);
        let (held, real) =
            (held.saturating_sub(before), (server.rss_kib() * 1024).saturating_sub(real_before));
        eprintln!("{} KiB real, {} KiB held, {} KiB of frames", real / 1024, held / 1024, frames / 1024);
        frames > 8 * MIB && real <= 2 * held + SLACK && held <= 2 * real + SLACK
    });
    assert!(frames < 20 * MIB, "{frames} bytes of frames beside 16 MiB of events");
    drop(server);
    for reader in readers {
        reader.join().expect("no panic");
    }
}

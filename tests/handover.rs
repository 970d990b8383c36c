//! Successors that fail at each step of a handover, in every way: the predecessor takes everything back in time, and no
//! client loses an event, gets one twice, or is disconnected.
#![cfg(unix)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fanwire::bus::BusConfig;
use fanwire::engine::EngineConfig;
use fanwire::server::{Inheritance, ServerConfig};
use fanwire::{Bus, Server, ServerHandle};
use serde_json::json;
use support::http::{post_request, read_response};
use support::service::{Kind, Service};
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::Ws;
use support::{eventually, http, numbered};

/// Maximum time for which clients may wait, with time for a busy machine.
const FREEZE: Duration = Duration::from_secs(5);

/// The successor's end of a handover. It can send and receive valid messages of the protocol, and invalid ones.
struct Successor(UnixStream);

impl Successor {
    fn say(&mut self, json: &str) {
        self.say_raw(
            &[&u32::try_from(json.len()).expect("short").to_be_bytes()[..], json.as_bytes()].concat(),
        );
    }

    fn say_raw(&mut self, bytes: &[u8]) {
        // The write fails if the predecessor has given up and closed its end.
        let _ = self.0.write_all(bytes);
    }

    /// Reads one message and drops its descriptors. Returns `None` if the other end is closed.
    fn receive(&mut self) -> Option<String> {
        let mut len = [0; 4];
        self.0.read_exact(&mut len).ok()?;
        let mut body = vec![0; u32::from_be_bytes(len) as usize];
        self.0.read_exact(&mut body).ok()?;
        String::from_utf8(body).ok()
    }

    fn hear_all(&mut self) {
        while self.receive().is_some_and(|message| message != r#""Done""#) {}
    }

    fn ready(&mut self) {
        self.say(r#"{"Ready":{"version":1,"catches_up":true}}"#);
    }

    /// Does nothing until the predecessor gives up.
    fn hang(&mut self) {
        let _ = self.0.read_to_end(&mut Vec::new());
    }

    /// Hangs without reading.
    #[expect(clippy::unused_self, reason = "one form for all faults")]
    fn sleep(&mut self, until: &AtomicBool) {
        while !until.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

type Fault = fn(&mut Successor, &AtomicBool);

/// Name of a fault, the error that the predecessor must report, and the successor's behaviour.
const FAULTS: [(&str, &str, Fault); 19] = [
    ("ends before a word", "ended", |_, _| {}),
    ("is of another version", "version", |it, _| it.say(r#"{"Ready":{"version":2}}"#)),
    ("speaks another language", "ready", |it, _| it.say("hello")),
    ("announces a gigabyte", "limit", |it, _| it.say_raw(&0x3fff_ffff_u32.to_be_bytes())),
    ("says another word than ready", "version", |it, _| it.say(r#""Serving""#)),
    ("hangs when it is ready", "not in time", |it, over| {
        it.ready();
        it.sleep(over);
    }),
    ("ends when it is ready", "", |it, _| it.ready()),
    ("reads a little and ends", "", |it, _| {
        it.ready();
        it.receive();
    }),
    ("reads byte by byte", "not in time", |it, over| {
        it.ready();
        while !over.load(Ordering::Relaxed) && it.0.read_exact(&mut [0]).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }),
    ("says everything at once", "out of its turn", |it, _| {
        it.ready();
        it.say(r#""Taken""#);
        it.say(r#""Serving""#);
        it.hang();
    }),
    ("reads all and hangs", "not in time", |it, _| {
        it.ready();
        it.hear_all();
        it.hang();
    }),
    ("reads all and ends", "ended", |it, _| {
        it.ready();
        it.hear_all();
    }),
    ("answers with rubbish", "take over", |it, _| {
        it.ready();
        it.hear_all();
        it.say("{]");
        it.hang();
    }),
    ("answers with half a word", "not in time", |it, _| {
        it.ready();
        it.hear_all();
        it.say_raw(&[0, 0, 0, 7, b'"', b'T']);
        it.hang();
    }),
    ("answers byte by byte", "not in time", |it, over| {
        it.ready();
        it.hear_all();
        it.say_raw(&[0, 0, 0x80, 0]);
        while !over.load(Ordering::Relaxed) {
            it.say_raw(b" ");
            std::thread::sleep(Duration::from_millis(5));
        }
    }),
    ("serves before it may", "out of its turn", |it, _| {
        it.ready();
        it.hear_all();
        it.say_raw(b"\x00\x00\x00\x07\"Taken\"\x00\x00\x00\x09\"Serving\"");
        it.hang();
    }),
    ("takes it and hangs", "not in time", |it, _| {
        it.ready();
        it.hear_all();
        it.say(r#""Taken""#);
        it.hang();
    }),
    ("takes it and ends", "", |it, _| {
        it.ready();
        it.hear_all();
        it.say(r#""Taken""#);
        it.receive();
    }),
    ("is ready twice", "take over", |it, _| {
        it.ready();
        it.hear_all();
        it.ready();
        it.hang();
    }),
];

fn server(bus: &Bus, loops: usize) -> ServerHandle {
    let mut config = ServerConfig::default();
    config.max_lag_events = 100;
    Server::builder(bus).config(config).listen("127.0.0.1:0").loops(loops).spawn().expect("a free port")
}

#[test]
fn whatever_a_successor_does_clients_wait_a_second_and_miss_nothing() {
    let bus = Bus::new();
    let server = server(&bus, 2);
    let addr = server.local_addr();
    let mut sockets: Vec<Ws> = (0..20).map(|_| Ws::subscribed(addr, json!({}))).collect();
    let mut streams: Vec<Sse> = (0..20).map(|_| Sse::open(addr, "?type=test.*")).collect();
    // The client reads nothing before the end, and so it catches up all the time.
    let mut slow = Ws::over(Wire::narrow(addr, 4096), "/ws", "");
    assert_eq!(slow.ask(&json!({"type": "subscribe", "payload": {"on_lag": "catch_up"}}))["type"], "ack");
    // Enough to fill a socket's buffer. All of it is handed over.
    for n in 0..200 {
        bus.publish(
            fanwire::Event::builder("big")
                .json(json!("x".repeat(5_000) + &n.to_string()).to_string())
                .build()
                .expect("valid"),
        );
        for ws in &mut sockets {
            assert_eq!(ws.event()["event_type"], "big");
        }
    }
    let catch_ups =
        http::get(addr, "/metrics").text().lines().any(|line| line == "fanwire_server_catch_ups_total 1");
    assert!(catch_ups, "one client lags");
    let mut poster = Wire::connect(addr);
    let mut next = 0;
    for (what, said, fault) in FAULTS {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let over = Arc::new(AtomicBool::new(false));
        let successor = {
            let over = Arc::clone(&over);
            std::thread::spawn(move || fault(&mut Successor(theirs), &over))
        };
        let begun = Instant::now();
        let mut given_up = false;
        let given = server.hand_over(ours, Duration::from_secs(1), || given_up = true);
        let error = given.expect_err(what).to_string();
        assert!(error.contains(said), "{what}: {error}");
        assert!(begun.elapsed() < FREEZE, "{what}: {:?}", begun.elapsed());
        over.store(true, Ordering::Relaxed);
        successor.join().expect("no panic");
        // From now on, one client's event reaches all clients, once, on their old connections.
        poster.send(&post_request("/publish", "application/x-ndjson", numbered(next).as_bytes()));
        assert_eq!(read_response(&mut poster, deadline()).expect("an answer").status, 200, "{what}");
        for ws in &mut sockets {
            assert_eq!(ws.event()["payload"]["n"], next, "{what}");
        }
        for sse in &mut streams {
            assert_eq!(sse.event().json()["payload"]["n"], next, "{what}");
        }
        next += 1;
    }
    // Then a correct successor takes over.
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let successor = std::thread::spawn(move || {
        let mut inheritance = Inheritance::claim(theirs).expect("it is given");
        let bus = inheritance.bus(&BusConfig::default()).expect("one shard");
        Server::builder(&bus).inherit(inheritance).spawn().expect("it takes over")
    });
    let moved = server.hand_over(ours, Duration::from_secs(1), || ()).expect("handed over");
    assert_eq!(moved, 42);
    let successor = successor.join().expect("no panic");
    poster.send(&post_request("/publish", "application/x-ndjson", numbered(next).as_bytes()));
    assert_eq!(read_response(&mut poster, deadline()).expect("an answer").status, 200);
    for ws in &mut sockets {
        assert_eq!(ws.event()["payload"]["n"], next);
    }
    for sse in &mut streams {
        assert_eq!(sse.event().json()["payload"]["n"], next);
    }
    for _ in 0..200 {
        assert_eq!(slow.event()["event_type"], "big");
    }
    for n in 0..=next {
        assert_eq!(slow.event()["payload"]["n"], n, "once, after all that was tried");
    }
    server.join().expect("it has nothing left to do");
    successor.drain(Duration::ZERO);
    successor.join().expect("it ends");
}

/// Hands a server to a successor that ends early, with a `give_up` that panics.
fn panic_while_giving_up(server: &Arc<ServerHandle>) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let successor = std::thread::spawn(move || {
        let mut successor = Successor(theirs);
        successor.ready();
        successor.receive();
    });
    let caller = {
        let server = Arc::clone(server);
        std::thread::spawn(move || {
            let _ = server.hand_over(ours, Duration::from_secs(1), || panic!("planted: it can't be ended"));
        })
    };
    assert!(caller.join().is_err(), "the caller's own panic");
    successor.join().expect("no panic");
}

/// The follower of the log stops during a handover. It must run again after the panic.
#[test]
fn a_caller_that_panics_leaves_the_engine_going_on() {
    let service = Service::start(Kind::Redis);
    let bus = Bus::new();
    let server = Server::builder(&bus).listen("127.0.0.1:0").engine(EngineConfig::new(service.url()));
    let server = Arc::new(server.spawn().expect("a free port"));
    let addr = server.local_addr();
    eventually("the node follows the log", || http::get(addr, "/readyz").status == 200);
    let mut client = Ws::subscribed(addr, json!({}));
    panic_while_giving_up(&server);
    assert_eq!(http::post(addr, "/publish", "application/x-ndjson", numbered(7).as_bytes()).status, 200);
    assert_eq!(client.event()["payload"]["n"], 7);
    server.drain(Duration::ZERO);
}

#[test]
fn a_caller_that_panics_and_a_second_caller_leave_the_server_as_it_was() {
    let bus = Bus::new();
    let server = Arc::new(server(&bus, 1));
    let mut client = Ws::subscribed(server.local_addr(), json!({}));
    panic_while_giving_up(&server);
    bus.publish(fanwire::Event::builder("x").build().expect("valid"));
    assert_eq!(client.event()["event_type"], "x");
    // While one caller waits, another gets an error, and the first is not affected.
    let (first, mut first_end) = UnixStream::pair().expect("a pair");
    let slow = {
        let server = Arc::clone(&server);
        std::thread::spawn(move || {
            server.hand_over(first, Duration::from_secs(1), || ()).map_err(|e| e.to_string())
        })
    };
    Successor(first_end.try_clone().expect("a descriptor")).ready();
    let begun = first_end.read(&mut [0]).expect("it has begun");
    assert_eq!(begun, 1);
    let (second, second_end) = UnixStream::pair().expect("a pair");
    Successor(second_end.try_clone().expect("a descriptor")).ready();
    let refused =
        server.hand_over(second, Duration::from_secs(1), || ()).expect_err("one at a time").to_string();
    assert!(refused.contains("another handover is under way"), "{refused}");
    assert!(slow.join().expect("no panic").expect_err("the peer does not read").contains("not in time"));
    bus.publish(fanwire::Event::builder("y").build().expect("valid"));
    assert_eq!(client.event()["event_type"], "y");
    eventually("it serves on", || server.liveness().check(Duration::from_secs(1)));
    server.drain(Duration::ZERO);
}

//! Connections and loops without sockets.

#[cfg(feature = "auth")]
mod clock;
mod failures;
mod gather;
mod presence;
mod purges;
mod storms;
mod turns;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::conn::Connection;
use super::limits::budget::Budget;
use super::reactor::LoopState;
use super::reactor::socket::{HandshakeSteps, Socket};
use super::session::context::{Context, NoLoop};
use super::session::effect::{Acceptance, Effect, PublishReply};
use super::shared::Shared;
use super::*;
use crate::bus::Bus;
use crate::codec::deflate::Inflater;
use crate::event::{Event, Timestamp};
use crate::kept::{RetainBy, RetainConfig, RetainRule};
use crate::metrics::Kind;
use crate::sync::atomic::Ordering;

fn shared(config: ServerConfig) -> Arc<Shared> {
    let shared = Arc::new(Shared::new(Bus::new(), config, 1));
    shared.workers.work_inline();
    shared
}

/// Returns the output of a connection that receives its input in these pieces.
fn written(input: &[u8], pieces: &[usize]) -> Vec<u8> {
    let shared = shared(ServerConfig::default());
    let (_, config) = shared.config();
    let mut rng = rng::Rng::new(7);
    let mut effects = Vec::new();
    let mut connection = Connection::new(0);
    let mut out = Vec::new();
    let mut rest = input.to_vec();
    let mut pieces = pieces.iter().copied().chain(std::iter::repeat(usize::MAX));
    while !rest.is_empty() {
        let len = pieces.next().unwrap_or(1).clamp(1, rest.len());
        let mut piece: Vec<u8> = rest.drain(..len).collect();
        let (now, answered_bytes) = (Timestamp(0), 0);
        let mut cx = Context {
            shared: &shared,
            config: &config,
            rng: &mut rng,
            inflater: &mut Inflater::default(),
            tick: 1,
            now,
            view: &NoLoop,
            effects: &mut effects,
            answered_bytes,
            budget: &mut Budget::new(u32::MAX),
            blocked: false,
        };
        connection.receive(&mut piece, &mut cx);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send(bytes) => out.extend_from_slice(&bytes),
                Effect::Publish { events, answer, .. } => {
                    out.extend_from_slice(format!("<published {}>", events.len()).as_bytes());
                    if let PublishReply::Bytes(Some(bytes)) = (answer.0)(Ok(Acceptance::default())) {
                        out.extend_from_slice(&bytes);
                    }
                }
                other => out.extend_from_slice(format!("<{other:?}>").as_bytes()),
            }
        }
    }
    // A `Date` is the time of the response, so it is left out of the comparison.
    let text: Vec<&[u8]> =
        out.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"Date: ")).collect();
    text.concat()
}

fn masked(op: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x11, 0xf2, 0x53, 0x84];
    let mut frame = vec![0x80 | op];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0xFE);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(0xFF);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&key);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]));
    frame
}

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn conversation() -> Vec<u8> {
    let mut all = Vec::new();
    all.extend_from_slice(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
    all.extend_from_slice(b"POST /publish HTTP/1.1\r\nHost: t\r\nContent-Length: 12\r\n\r\n{\"type\":\"a\"}");
    all.extend_from_slice(
        b"POST /publish HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n{\"type\r\n6;x=y\r\n\":\"a\"}\r\n0\r\n\r\n",
    );
    all.extend_from_slice(b"GET /nowhere HTTP/1.1\r\nHost: t\r\n\r\n");
    all.extend_from_slice(UPGRADE);
    for text in [
        r#"{"type":"ping","message_id":"m1"}"#,
        r#"{"type":"subscribe","payload":{"event_types":["task.*"],"sources":["core","a source of some length, so that the frame has a longer head"]}}"#,
        "nonsense",
        r#"{"type":"request","payload":{"action":"subscription_count"}}"#,
        r#"{"type":"publish","payload":{"type":"x"}}"#,
    ] {
        all.extend_from_slice(&masked(1, text.as_bytes()));
    }
    all.extend_from_slice(&masked(9, b"are you there"));
    all.extend_from_slice(&masked(8, &1000u16.to_be_bytes()));
    all
}

#[test]
fn answers_do_not_depend_on_how_the_input_is_split() {
    let input = conversation();
    let whole = written(&input, &[]);
    let text = String::from_utf8_lossy(&whole).into_owned();
    for part in [
        "200 OK",
        "<published 1>",
        "404 Not Found",
        "101 ",
        "\"pong\"",
        "\"m1\"",
        "Invalid message format",
        "<Close",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(written(&input, &vec![1; input.len()]) == whole, "byte by byte");
    for cut in 1..input.len() {
        assert!(written(&input, &[cut]) == whole, "cut at {cut}");
    }
}

/// One end of a connection; the test holds the other.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Ends>>);

#[derive(Default)]
struct Ends {
    to_server: VecDeque<u8>,
    to_client: Vec<u8>,
    /// Number of bytes that the client's side still accepts.
    room: usize,
    ended: bool,
    /// Number of reads.
    reads: usize,
    /// Whether the client's side has ended.
    fin: bool,
    /// Whether the next bytes begin a TLS handshake.
    awaits_handshake: bool,
    handshakes: HandshakeSteps,
}

impl Wire {
    fn with<R>(&self, f: impl FnOnce(&mut Ends) -> R) -> R {
        f(&mut self.0.lock().expect("no test panicked while holding it"))
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|ends| {
            ends.reads += 1;
            if ends.to_server.is_empty() && ends.fin {
                return Ok(0);
            }
            if ends.awaits_handshake && !ends.to_server.is_empty() {
                ends.to_server.clear();
                ends.awaits_handshake = false;
                ends.handshakes.begun += 1;
            }
            if ends.to_server.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            ends.to_server.read(buffer)
        })
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|ends| {
            let taken = bytes.len().min(ends.room);
            ends.room -= taken;
            ends.to_client.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
        })
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.write(&all)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for Wire {
    fn is_drained(&self, len: usize, room: usize) -> bool {
        len < room
    }

    fn can_move(&self) -> bool {
        true
    }

    fn awaits_handshake(&self) -> bool {
        self.with(|ends| ends.awaits_handshake)
    }

    fn take_handshakes(&mut self) -> HandshakeSteps {
        self.with(|ends| std::mem::take(&mut ends.handshakes))
    }

    fn close_write(&mut self) {
        self.with(|ends| ends.ended = true);
    }
}

struct World {
    shared: Arc<Shared>,
    core: LoopState<Wire>,
    tick: u64,
}

impl World {
    fn new(config: ServerConfig) -> Self {
        let shared = shared(config);
        let reader = shared.bus.reader(|| {});
        Self { core: LoopState::new(Arc::clone(&shared), reader, 1, 0), shared, tick: 0 }
    }

    fn connect(&mut self, request: &str) -> (Wire, u64) {
        let wire = Wire::default();
        let token = self.core.admit(wire.clone()).expect("there is room");
        wire.with(|ends| {
            ends.room = usize::MAX;
            ends.to_server.extend(request.as_bytes());
        });
        self.core.ready(token, true, true);
        (wire, token)
    }

    fn publish(&self, count: usize) {
        for n in 0..count {
            self.shared.bus.publish(Event::builder("a.b").json(n.to_string()).build().expect("valid"));
        }
    }

    /// Returns the held bytes as `/api/stats` reports them.
    fn held_bytes(&self) -> usize {
        http::operator::stats_json(&self.shared)["held_bytes"].as_u64().expect("a number") as usize
    }

    fn turn(&mut self) {
        loop {
            self.core.wake(self.tick, Timestamp(0));
            self.core.turn();
            if !self.core.has_work() {
                return;
            }
        }
    }

    fn after(&mut self, ticks: u64) {
        self.tick += ticks;
        self.turn();
    }
}

fn text(wire: &Wire) -> String {
    wire.with(|ends| String::from_utf8_lossy(&std::mem::take(&mut ends.to_client)).into_owned())
}

#[test]
fn a_sleeper_does_not_affect_others_and_gets_its_gap() {
    let mut world = World::new(ServerConfig { max_lag_events: 50, ..ServerConfig::default() });
    let stream = "GET /sse?event_name=message HTTP/1.1\r\nHost: t\r\n\r\n";
    let (sleeper, token) = world.connect(stream);
    let (reader, _) = world.connect(stream);
    sleeper.with(|ends| ends.room = 500);
    for _ in 0..30 {
        world.publish(100);
        world.turn();
    }
    assert_eq!(text(&reader).matches("data: {").count(), 3000);
    sleeper.with(|ends| ends.room = usize::MAX);
    world.core.ready(token, false, true);
    world.turn();
    let seen = text(&sleeper);
    let missed: usize = (seen.split("\"missed\":").skip(1))
        .map(|rest| rest.split(',').next().and_then(|n| n.parse::<usize>().ok()).expect("a number"))
        .sum();
    let gaps = seen.matches("event: gap\n").count();
    assert_eq!((gaps, seen.matches("\"event_id\"").count() + missed), (1, 3000));
    assert_eq!(world.shared.metrics.dropped.get(), missed as u64);
    assert_eq!(world.shared.metrics.encodings.get(), 3000);
}

#[test]
fn a_body_larger_than_the_ring_reaches_a_reading_client_whole() {
    let mut world = World::new(ServerConfig::default());
    let (reader, _) = world.connect("GET /sse?event_name=message HTTP/1.1\r\nHost: t\r\n\r\n");
    let body = "{\"type\":\"a\"}\n".repeat(20_000);
    let head = format!("POST /publish HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", body.len());
    let (publisher, _) = world.connect(&(head + &body));
    world.turn();
    assert!(text(&publisher).contains("\"accepted\":20000"));
    let seen = text(&reader);
    assert_eq!((seen.matches("\"event_id\"").count(), seen.matches("gap").count()), (20_000, 0));
}

#[test]
fn a_client_that_asks_and_does_not_read_is_answered_in_pieces() {
    let mut world = World::new(ServerConfig::default());
    let (wire, token) = world.connect("");
    wire.with(|ends| {
        ends.room = 0;
        ends.to_server.extend("GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n".repeat(50_000).bytes());
    });
    world.core.ready(token, true, false);
    world.turn();
    assert!(world.shared.metrics.requests.get() < 25_000, "{}", world.shared.metrics.requests.get());
    loop {
        wire.with(|ends| ends.room = 100_000);
        world.core.ready(token, false, true);
        world.turn();
        if wire.with(|ends| ends.room > 0) {
            break;
        }
    }
    assert_eq!(world.shared.metrics.requests.get(), 50_000);
    assert_eq!(text(&wire).matches("HTTP/1.1 200").count(), 50_000);
}

#[test]
fn timeouts_close_slow_connections_and_ping_quiet_ones() {
    let mut world = World::new(ServerConfig::default());
    let (slow, _) = world.connect("GET / HTTP/1.1\r\nHos");
    let (stream, _) = world.connect("GET /sse HTTP/1.1\r\nHost: t\r\n\r\n");
    let upgrade = String::from_utf8_lossy(UPGRADE).into_owned();
    let (socket, _) = world.connect(&upgrade);
    for _ in 0..60 {
        world.after(1);
    }
    assert!(text(&slow).starts_with("HTTP/1.1 408 "));
    assert!(slow.with(|ends| ends.ended));
    text(&stream);
    text(&socket);
    for _ in 0..300 {
        world.after(1);
    }
    assert_eq!(text(&stream), ": heartbeat\n\n");
    socket.with(|ends| assert_eq!(ends.to_client, [0x89, 0], "a ping"));
    for _ in 0..700 {
        world.after(1);
    }
    let open = |kind| world.shared.metrics.connections.get_or_create(&Kind { kind }).get();
    assert_eq!(
        (open("http"), open("ws"), open("sse")),
        (0, 0, 1),
        "a client that does not answer is disconnected"
    );
}

#[test]
fn draining_sends_a_notice_in_each_dialect() {
    let mut world = World::new(ServerConfig::default());
    let (stream, _) = world.connect("GET /sse HTTP/1.1\r\nHost: t\r\n\r\n");
    let upgrade = String::from_utf8_lossy(UPGRADE).into_owned();
    let (socket, _) = world.connect(&upgrade);
    let (idle, _) = world.connect("");
    text(&socket);
    world.shared.lifecycle.drain.store(1, Ordering::Relaxed);
    world.core.drain();
    world.turn();
    assert!(stream.with(|ends| ends.ended) && socket.with(|ends| ends.ended) && idle.with(|ends| ends.ended));
    let output = String::from_utf8_lossy(&socket.with(|ends| ends.to_client.clone())).into_owned();
    assert!(output.contains(r#""type":"reconnect","payload":{"delay_ms":"#), "{output}");
    socket.with(|ends| assert!(ends.to_client.windows(2).any(|two| two == 1012_u16.to_be_bytes())));
    stream.with(|ends| assert!(ends.to_client.ends_with(b"\n\n")));
    assert!(world.core.admit(Wire::default()).is_none());
    world.after(100);
    assert!(world.core.is_empty(), "clients that do not close by themselves are disconnected");
}

#[test]
fn a_drained_client_gets_its_delay_in_the_middle_of_a_past() {
    let mut world = World::new(ServerConfig::default());
    world.publish(5000);
    world.turn();
    let (stream, stream_token) = world.connect("GET /sse?history=5000 HTTP/1.1\r\nHost: t\r\n\r\n");
    let (socket, socket_token) = world.connect(&String::from_utf8_lossy(UPGRADE));
    socket.with(|ends| {
        ends.to_server.extend(masked(1, br#"{"type":"subscribe","payload":{"history":5000}}"#));
    });
    for wire in [&stream, &socket] {
        wire.with(|ends| ends.room = 3000);
    }
    world.core.ready(socket_token, true, true);
    world.turn();
    world.shared.lifecycle.drain.store(1, Ordering::Relaxed);
    world.core.drain();
    world.turn();
    for (wire, token) in [(&stream, stream_token), (&socket, socket_token)] {
        wire.with(|ends| ends.room = usize::MAX);
        world.core.ready(token, false, true);
    }
    world.turn();
    let (stream, socket) = (text(&stream), text(&socket));
    let events = |text: &str| text.matches("\"event_id\"").count();
    assert!(
        (1..5000).contains(&events(&stream)) && (1..5000).contains(&events(&socket)),
        "cut within the past"
    );
    let last = stream.trim_end().rsplit("\n\n").next().expect("a block");
    assert!(last.starts_with("retry: "), "{last}");
    let (_, end) = socket.rsplit_once(r#"{"type":"reconnect","payload":{"delay_ms":"#).expect("a reconnect");
    assert!(!end.contains("event_id") && end.contains("retry="), "{end}");
}

#[test]
fn a_reloaded_config_applies_from_the_next_turn_except_for_fixed_settings() {
    let shared = shared(ServerConfig { max_connections: 1, ..ServerConfig::default() });
    let (version, before) = shared.config();
    assert!(!shared.has_other_config(version));
    let config = ServerConfig {
        max_connections: 2,
        conflate_key: vec![crate::event::Attribute::Type],
        ..ServerConfig::default()
    };
    shared.set_config(config.into());
    assert!(shared.has_other_config(version));
    let (newer, after) = shared.config();
    assert_eq!((newer, after.max_connections), (version + 1, 2));
    assert_eq!(after.conflate_key, before.conflate_key);
}

/// A loop that takes a config lists its clients by the rules in force.
#[test]
fn rules_of_a_reload_are_in_force_before_a_loop_sees_its_config() {
    for _ in 0..200 {
        let shared = shared(ServerConfig::default());
        let (version, _) = shared.config();
        let rule = RetainRule::new("stream=run-*", RetainBy::Stream).expect("valid");
        let retain = RetainConfig { rules: vec![rule], ..RetainConfig::default() };
        std::thread::scope(|scope| {
            let config = ServerConfig { retain, ..ServerConfig::default() };
            let reload = scope.spawn(|| shared.set_config(config.into()));
            while !shared.has_other_config(version) && !reload.is_finished() {
                std::hint::spin_loop();
            }
            assert!(shared.kept.is_on());
        });
    }
}

#[test]
fn a_connection_costs_as_much_as_the_table_in_the_docs() {
    use super::reactor::stream;
    use super::{conn, reactor};
    let socket = size_of::<stream::Stream>();
    // A debug build of mio checks the use of each socket, in more bytes.
    assert!(socket == 16 || cfg!(debug_assertions), "a socket has {socket} bytes");
    let sizes = [
        ("for each connection", size_of::<reactor::Conn<stream::Stream>>() - socket + 16, 104),
        ("of these, its state machine", size_of::<conn::Connection>(), 32),
        ("of these, its place in a feed", size_of::<crate::feed::Outbox>(), 32),
        ("besides, for each WebSocket client with one subscription", size_of::<conn::Ws>(), 104),
    ];
    for (what, size, says) in sizes {
        assert_eq!(size, says, "{what}: {sizes:?}");
    }
}

/// Opens a stream of all events of a type, and drops its head.
fn listens(world: &mut World, kind: &str) -> (Wire, u64) {
    let request = format!("GET /sse?event_name=message&type={kind} HTTP/1.1\r\nHost: t\r\n\r\n");
    let (wire, token) = world.connect(&request);
    world.turn();
    text(&wire);
    (wire, token)
}

#[test]
fn a_burst_is_one_write_for_each_client_that_is_not_blocked() {
    let mut world = World::new(ServerConfig::default());
    let clients: Vec<_> = (0..10).map(|_| listens(&mut world, "a.b")).collect();
    let before = world.shared.metrics.writes.get();
    world.publish(50);
    world.turn();
    assert_eq!(world.shared.metrics.writes.get() - before, clients.len() as u64);
    for (wire, _) in &clients {
        assert_eq!(text(wire).matches("data: {").count(), 50);
    }
}

#[test]
fn events_after_the_first_wait_for_the_flush_interval_and_share_one_write() {
    let interval = Duration::from_millis(5);
    let mut world = World::new(ServerConfig { flush_interval: interval, ..ServerConfig::default() });
    let (wire, token) = listens(&mut world, "a.b");
    let at = |world: &mut World, micros: i64| {
        world.core.wake(0, Timestamp(micros));
        world.core.turn();
        text(&wire).matches("data: {").count()
    };
    world.publish(1);
    assert_eq!(at(&mut world, 1_000_000), 1, "the first goes at once");
    let before = world.shared.metrics.writes.get();
    world.publish(1);
    assert_eq!(at(&mut world, 1_001_000), 0);
    world.publish(1);
    assert_eq!(at(&mut world, 1_004_999), 0);
    assert_eq!(world.core.held_for(Timestamp(1_004_999)), Some(Duration::from_micros(1)));
    assert_eq!(at(&mut world, 1_005_000), 2);
    assert_eq!(world.shared.metrics.writes.get() - before, 1);
    // A client's message is handled after the events published before it.
    world.publish(1);
    world.core.wake(0, Timestamp(1_006_000));
    world.core.ready(token, true, false);
    assert_eq!(text(&wire).matches("data: {").count(), 1);
    // A clock that is set back delays nothing.
    world.publish(1);
    assert_eq!(at(&mut world, 5), 1);
}

#[test]
fn a_firehose_does_not_starve_a_quiet_interest() {
    let mut world = World::new(ServerConfig { write_budget_bytes: 16 * 1024, ..ServerConfig::default() });
    let (firehose, _) = listens(&mut world, "a.b");
    let (quiet, _) = listens(&mut world, "quiet");
    let all = 1000;
    world.publish(all);
    world.shared.bus.publish(Event::builder("quiet").build().expect("valid"));
    world.core.wake(world.tick, Timestamp(0));
    world.core.turn();
    let seen = text(&quiet);
    assert_eq!(seen.matches("data: {").count(), 1, "in the first turn: {seen}");
    let got = text(&firehose).matches("data: {").count();
    assert!(got < all, "the budget of a turn cut nothing off: {got}");
    world.turn();
    assert_eq!(got + text(&firehose).matches("data: {").count(), all, "the rest comes in later turns");
}

#[test]
fn a_client_that_floods_is_read_a_piece_a_turn_while_others_are_served() {
    let mut world = World::new(ServerConfig::default());
    let (flooder, _) = world.connect(&String::from_utf8_lossy(UPGRADE));
    // An unsolicited masked pong, which needs no response.
    let pong = [0x8A, 0x80, 1, 2, 3, 4];
    let flood = 4 << 20;
    flooder.with(|ends| ends.to_server.extend(pong.iter().cycle().take(flood - flood % pong.len())));
    let (other, token) = world.connect("");
    other.with(|ends| ends.to_server.extend(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n".iter()));
    let mut turns = 0;
    while flooder.with(|ends| !ends.to_server.is_empty()) {
        let before = flooder.with(|ends| ends.to_server.len());
        if turns == 0 {
            world.core.ready(1 << 32, true, false);
        }
        world.core.ready(token, true, false);
        world.core.wake(world.tick, Timestamp(0));
        world.core.turn();
        let taken = before - flooder.with(|ends| ends.to_server.len());
        assert!(taken <= 2 * 256 * 1024, "{taken} bytes in one turn");
        turns += 1;
        assert!(text(&other).contains("HTTP/1.1 200") || turns > 1, "the other waited for the flood");
    }
    assert!(turns > 5, "{turns}");
}

/// Earlier, new clients were refused while unfinished bodies held the memory, so one client could keep all others out.
/// Now the largest unfinished body is dropped.
#[test]
fn bodies_and_messages_that_are_coming_in_count_against_the_memory_budget() {
    let budget = 300 * 1024;
    let config = ServerConfig {
        max_memory_bytes: Some(budget),
        max_message_bytes: 1 << 20,
        ..ServerConfig::default()
    };
    let mut world = World::new(config);
    let part = budget / 3;
    let payload = "x".repeat(2 * part);
    let body = format!(r#"{{"type":"a.b","payload":"{payload}"}}"#);
    let head = format!("POST /publish HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", body.len());
    let (publisher, publishing) = world.connect(&head);
    let (client, talking) = world.connect(&String::from_utf8_lossy(UPGRADE));
    let say = |world: &mut World, wire: &Wire, token, bytes: &[u8]| {
        wire.with(|ends| ends.to_server.extend(bytes));
        world.core.ready(token, true, false);
        world.after(1);
        (world.shared.is_short_of_memory(), world.held_bytes())
    };
    let (is_short, held) = say(&mut world, &publisher, publishing, &body.as_bytes()[..part]);
    assert!(held >= part && !is_short, "{held}");
    text(&client);
    // A fragmented message: the first fragment announces more.
    let message =
        format!(r#"{{"type":"publish","payload":{{"type":"a.b","payload":"{}"}}}}"#, &payload[..2 * part]);
    let mut first = masked(1, &message.as_bytes()[..message.len() - 1]);
    first[0] &= 0x7f;
    let (is_short, held) = say(&mut world, &client, talking, &first);
    assert!(held >= part && held <= budget && !is_short, "{held}");
    let sent = client.with(|ends| std::mem::take(&mut ends.to_client).into_iter().collect::<Vec<u8>>());
    assert_eq!(&sent[..4], &[0x88, sent.len() as u8 - 2, 3, 245], "closed with 1013: it held the most");
    let (stream, _) = world.connect("GET /sse HTTP/1.1\r\nHost: t\r\n\r\n");
    assert!(text(&stream).starts_with("HTTP/1.1 200"), "a newcomer is served");
    // A completed body holds no memory.
    let (is_short, held) = say(&mut world, &publisher, publishing, &body.as_bytes()[part..]);
    assert!(text(&publisher).contains(" 200 OK"));
    assert!(held < 4096 && !is_short, "{held}");
}

#[test]
fn a_token_that_outlives_its_connection_reaches_no_client() {
    let mut world = World::new(ServerConfig::default());
    let (_, first) = world.connect("");
    world.core.forget(first);
    let (newcomer, second) = world.connect("");
    assert_eq!(first & 0xffff_ffff, second & 0xffff_ffff, "it has the slot of the client that left");
    newcomer.with(|ends| ends.to_server.extend(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n"));
    world.core.ready(first, true, true);
    world.turn();
    assert_eq!(text(&newcomer), "", "it was read on another's behalf");
    world.core.ready(second, true, true);
    assert!(text(&newcomer).starts_with("HTTP/1.1 200"));
}

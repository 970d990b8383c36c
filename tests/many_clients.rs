//! Thousands of clients, and one that does not read: all get the same bytes, encoded once, and memory stays bounded.

mod support;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::{PING, TEXT, Ws};
use support::{PATIENCE, Server};

const CLIENTS_OF_EACH: usize = 1000;
const EVENTS: usize = 1000;

/// Returns the payload of an event. It depends on the number alone, so a reader can check every byte.
fn payload(n: usize) -> Value {
    let text: String = (0..n % 300).map(|at| char::from(b'a' + ((n * 31 + at * 7) % 26) as u8)).collect();
    json!({"n": n, "text": text, "unicode": "h\u{e9} \u{1f600}"})
}

fn event(n: usize) -> String {
    json!({"type": "load.test", "source": "test", "stream_id": "s", "payload": payload(n)}).to_string() + "\n"
}

/// One client of many. Its first bytes, this many, are equal to those of its transport's reference.
struct Client {
    stream: mio::net::TcpStream,
    transport: usize,
    read: usize,
    readable: bool,
}

/// The bytes of one client of each transport, checked event by event. All others must get the same bytes.
#[derive(Default)]
struct Reference {
    bytes: Vec<u8>,
    parsed: usize,
    events: usize,
}

impl Reference {
    /// Parses the complete new events, which must have consecutive numbers.
    fn check(&mut self, next_event: NextEvent) {
        while let Some((event, len)) = next_event(&self.bytes[self.parsed..]) {
            assert_eq!(event["payload"], payload(self.events), "event {} of the reference", self.events);
            self.parsed += len;
            self.events += 1;
        }
    }
}

fn next_ws_event(bytes: &[u8]) -> Option<(Value, usize)> {
    let [first, len, rest @ ..] = bytes else { return None };
    assert_eq!(*first, 0x80 | TEXT);
    let (head, len) = match (*len, rest) {
        (126, [high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        (126, _) => return None,
        (len @ 0..126, _) => (2, usize::from(len)),
        other => panic!("an unexpected length: {other:?}"),
    };
    let message: Value = serde_json::from_slice(bytes.get(head..head + len)?).expect("a message is JSON");
    assert_eq!(message["type"], "event", "{message}");
    Some((message["payload"].clone(), head + len))
}

fn next_sse_event(bytes: &[u8]) -> Option<(Value, usize)> {
    let end = bytes.windows(2).position(|window| window == b"\n\n")? + 2;
    let text = std::str::from_utf8(&bytes[..end]).expect("a stream is UTF-8");
    let data = text
        .lines()
        .find_map(|line| line.strip_prefix("data: "))
        .unwrap_or_else(|| panic!("no data: {text:?}"));
    Some((serde_json::from_str(data).expect("data is JSON"), end))
}

/// A function that returns the first complete event of some bytes, and its length.
type NextEvent = fn(&[u8]) -> Option<(Value, usize)>;

const NEXT_EVENT: [NextEvent; 2] = [next_ws_event, next_sse_event];

/// Connects the clients of both transports, each with its subscription confirmed. The first of each kind is its
/// reference.
fn connect_all(addr: SocketAddr) -> Vec<Client> {
    let client = |wire: Wire, transport| {
        assert!(wire.buffered().is_empty(), "bytes came before any event");
        wire.stream.set_nonblocking(true).expect("a socket");
        Client { stream: mio::net::TcpStream::from_std(wire.stream), transport, read: 0, readable: true }
    };
    let web_sockets = (0..CLIENTS_OF_EACH).map(|_| client(Ws::subscribed(addr, json!({})).wire, 0));
    let streams = (0..CLIENTS_OF_EACH).map(|_| {
        let mut stream = Sse::open(addr, "");
        assert_eq!(
            stream.response.header("transfer-encoding"),
            None,
            "chunks would differ from client to client"
        );
        let first = stream.block(deadline()).expect("the retry comes at once");
        assert!(first.retry.is_some() && first.data.is_none());
        client(stream.wire, 1)
    });
    web_sockets.chain(streams).collect()
}

#[test]
fn two_thousand_clients_get_every_event_once_in_order_from_one_encoding() {
    // No heartbeat is sent between the events, because every byte is compared.
    let server = Server::with(&["--heartbeat", "10m"]);
    let mut clients = connect_all(server.addr);
    let encodings = || server.metric("fanwire_feed_encodings_total").expect("the metric is there");
    assert!(encodings() < 1.0, "something was encoded before any event");

    let addr = server.addr;
    let publisher = std::thread::spawn(move || {
        let mut accepted = 0;
        // Single posts, lines and arrays.
        let mut post = |body: &str| {
            let answer = support::http::post(addr, "/publish", "application/json", body.as_bytes());
            assert_eq!(answer.status, 200, "{answer:?}");
            accepted += answer.json()["accepted"].as_u64().unwrap_or_default();
        };
        for n in 0..100 {
            post(&event(n));
        }
        for batch in 2..EVENTS / 50 {
            let events: Vec<String> = (batch * 50..(batch + 1) * 50).map(event).collect();
            post(&if batch % 2 == 0 { events.concat() } else { format!("[{}]", events.join(",")) });
        }
        accepted
    });

    let references = read_all(&mut clients);
    assert_eq!(publisher.join().expect("published"), EVENTS as u64);
    for reference in &references {
        assert_eq!((reference.events, reference.parsed), (EVENTS, reference.bytes.len()));
    }

    // Nothing is sent after the last event.
    std::thread::sleep(Duration::from_millis(200));
    for client in &mut clients {
        let more = client.stream.read(&mut [0; 16]).expect_err("no more bytes, and no end");
        assert_eq!(more.kind(), io::ErrorKind::WouldBlock);
    }
    let encodings = encodings();
    let most = (EVENTS * references.len()) as f64;
    assert!(
        encodings <= most,
        "{encodings} encodings of {EVENTS} events for two transports: clients cost encodings"
    );
    assert!(encodings > 0.0, "the metric counts nothing");
    // Deliveries are counted after they are written, and the ledger is reported some time later.
    let all = EVENTS * clients.len();
    support::eventually("the server's books say the same", || {
        server.balanced_ledger()["written"].as_u64() >= Some(all as u64)
    });
    assert_eq!(server.metric("fanwire_feed_deliveries_total"), Some(all as f64));
    assert_eq!(server.balanced_ledger()["written"].as_u64(), Some(all as u64));
}

/// Reads until every client has every event, and compares byte by byte with the references.
fn read_all(clients: &mut [Client]) -> [Reference; 2] {
    let mut poll = Poll::new().expect("a poll");
    for (at, client) in clients.iter_mut().enumerate() {
        poll.registry().register(&mut client.stream, Token(at), Interest::READABLE).expect("registered");
    }
    let mut references = [Reference::default(), Reference::default()];
    let mut events = Events::with_capacity(4096);
    let mut buffer = vec![0; 256 * 1024];
    let end = Instant::now() + 5 * PATIENCE;
    let mut done = 0;
    while done < clients.len() {
        let progress = references.iter().map(|reference| reference.events).collect::<Vec<_>>();
        assert!(Instant::now() < end, "{done} clients are done; events of the references: {progress:?}");
        poll.poll(&mut events, Some(Duration::from_millis(1))).expect("polled");
        for event in &events {
            clients[event.token().0].readable = true;
        }
        done = 0;
        for (at, client) in clients.iter_mut().enumerate() {
            let reference = &mut references[client.transport];
            let leads = at % CLIENTS_OF_EACH == 0;
            while client.readable {
                // No client reads further than the reference, so that every byte can be compared.
                let room =
                    if leads { buffer.len() } else { buffer.len().min(reference.bytes.len() - client.read) };
                if room == 0 {
                    break;
                }
                match client.stream.read(&mut buffer[..room]) {
                    Ok(0) => panic!("client {at} was closed after {} bytes", client.read),
                    Ok(len) if leads => reference.bytes.extend_from_slice(&buffer[..len]),
                    Ok(len) => {
                        let want = &reference.bytes[client.read..client.read + len];
                        assert!(
                            buffer[..len] == *want,
                            "client {at} got other bytes than the first of its kind"
                        );
                        client.read += len;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => client.readable = false,
                    Err(error) => panic!("client {at}: {error}"),
                }
            }
            if leads {
                reference.check(NEXT_EVENT[client.transport]);
                client.read = reference.bytes.len();
            }
            done += usize::from(reference.events == EVENTS && client.read == reference.bytes.len());
        }
    }
    references
}

/// Events are published in rounds while one client does not read. The other client reads each round before the next
/// one.
const ROUNDS: usize = 200;
const ROUND: usize = 200;

/// Allowed growth of the server's memory while a client does not read 30 MB. It contains a feed's limit of 1 MiB, and
/// pages that the allocator keeps, but not the kernel's buffers.
const GROWTH_KIB_MAX: u64 = 12 * 1024;

#[test]
fn a_client_that_never_reads_does_not_affect_others_and_gets_a_gap() {
    let server = Server::with(&["--heartbeat", "10m"]);
    let addr = server.addr;
    let mut reader = Ws::subscribed(addr, json!({"event_types": ["sleep.*"]}));
    let (counted, count) = channel();
    let reading = std::thread::spawn(move || {
        let mut seen = 0;
        while seen < 2 * ROUNDS * ROUND {
            let message = reader.message();
            assert_eq!(
                (&message["type"], &message["payload"]["payload"]["n"]),
                (&json!("event"), &json!(seen % (ROUNDS * ROUND)))
            );
            seen += 1;
            if seen % ROUND == 0 {
                counted.send(seen).expect("the test counts");
            }
        }
    });
    let padding = "x".repeat(600);
    let publish_rounds = || {
        for round in 0..ROUNDS {
            let lines = (round * ROUND..(round + 1) * ROUND).map(|n| {
                format!("{{\"type\":\"sleep.on\",\"payload\":{{\"n\":{n},\"pad\":\"{padding}\"}}}}\n")
            });
            server.publish(lines.collect::<String>());
            // The reader keeps up, with or without a sleeping client: it gets all events of a round within the round.
            count.recv_timeout(PATIENCE).expect("the other client gets its events");
        }
    };
    // One round without a sleeper fills the bus's ring, so that the measurement shows the sleeper alone.
    publish_rounds();
    let before = server.rss_kib();

    let mut sleeper = Ws::over(Wire::narrow(addr, 4096), "/ws", "");
    let mut sse_sleeper = Wire::narrow(addr, 4096);
    sleeper.ask(&json!({"type": "subscribe", "payload": {"event_types": ["sleep.*"]}}));
    sse_sleeper.send(b"GET /sse?type=sleep.* HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = support::http::read_head(&mut sse_sleeper, deadline()).expect("an answer");
    publish_rounds();
    let after = server.rss_kib();
    reading.join().expect("the other client got every event in order");
    assert!(after < before + GROWTH_KIB_MAX, "{before} KiB before, {after} KiB after");
    eprintln!("server: {before} KiB before the sleepers, {after} KiB after");

    // The sleeping clients read again, and their counts balance.
    let (mut received, mut missed, mut next) = (0, 0, 0);
    while next < ROUNDS * ROUND {
        let frame = sleeper.read_frame(deadline()).expect("a frame");
        if frame.opcode() == PING {
            continue;
        }
        let message: Value = serde_json::from_slice(&frame.payload).expect("a message is JSON");
        take(&message["type"], &message["payload"], &mut received, &mut missed, &mut next);
    }
    assert_eq!(received + missed, ROUNDS * ROUND);
    assert!(missed > 0, "it missed nothing: the test was too small");

    let missed_by_the_first = missed;
    let mut stream = Sse::from_wire(sse_sleeper, head);
    let (mut received, mut missed, mut next) = (0, 0, 0);
    while next < ROUNDS * ROUND {
        let block = stream.event();
        let kind = if block.event.as_deref() == Some("gap") { "gap" } else { "event" };
        take(&json!(kind), &block.json(), &mut received, &mut missed, &mut next);
    }
    assert_eq!(received + missed, ROUNDS * ROUND);
    assert!(missed > 0, "it missed nothing: the test was too small");
    let ledger = server.balanced_ledger();
    assert_eq!(ledger["dropped"].as_u64(), Some((missed_by_the_first + missed) as u64), "{ledger}");
}

/// Counts an event or a gap. A gap must be exactly where numbers are missing.
fn take(kind: &Value, payload: &Value, received: &mut usize, missed: &mut usize, next: &mut usize) {
    if kind == "gap" {
        let count = payload["missed"].as_u64().expect("a gap in one epoch has its number") as usize;
        assert!(count > 0, "an empty gap");
        *missed += count;
        *next += count;
    } else {
        assert_eq!(
            (kind, &payload["payload"]["n"]),
            (&json!("event"), &json!(*next)),
            "after {received} events and {missed} missed"
        );
        *received += 1;
        *next += 1;
    }
}

#[test]
fn a_client_that_writes_and_never_reads_its_answers_is_held_back() {
    let server = Server::with(&["--heartbeat", "10m"]);
    let before = server.rss_kib();
    let mut greedy = Ws::over(Wire::narrow(server.addr, 4096), "/ws", "");
    let ping = support::ws::frame(TEXT, b"{\"type\":\"request\",\"payload\":{\"action\":\"server_info\"}}");
    let requests = ping.repeat(1000);
    // Far more than all buffers on the way hold. The server stops reading, so the write blocks.
    greedy.wire.stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a socket");
    let mut sent = 0;
    while sent < 200 << 20 {
        match io::Write::write(&mut greedy.wire.stream, &requests) {
            Ok(len) => sent += len,
            Err(_) => break,
        }
    }
    assert!(sent < 200 << 20, "the server read it all");
    let after = server.rss_kib();
    assert!(after < before + GROWTH_KIB_MAX, "{before} KiB before, {after} KiB after {sent} bytes");
    server.assert_serving();
}

#[test]
fn clients_that_ask_for_history_and_do_not_read_it_pin_no_more_than_their_lag() {
    const GENERATIONS: usize = 4;
    let server = Server::with(&["--heartbeat", "10m"]);
    let stats = support::http::get(server.addr, "/api/stats").json();
    let capacity = stats["shards"][0]["capacity"].as_u64().expect("a capacity") as usize;
    let line = format!("{{\"type\":\"history\",\"payload\":\"{}\"}}\n", "x".repeat(1000));
    let turn_the_ring_over = || {
        for _ in 0..capacity.div_ceil(1000) {
            server.publish(line.repeat(1000));
        }
    };
    // The ring is filled with encoded events before the measurement.
    turn_the_ring_over();
    let _reader = Sse::open(server.addr, "?history=1000000");
    turn_the_ring_over();
    let before = server.rss_kib();
    let sleepers: Vec<Wire> = (0..GENERATIONS)
        .map(|_| {
            let mut wire = Wire::narrow(server.addr, 4096);
            wire.send(b"GET /sse?history=1000000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
            support::http::read_head(&mut wire, deadline()).expect("an answer");
            turn_the_ring_over();
            wire
        })
        .collect();
    let after = server.rss_kib();
    assert!(
        after < before + GROWTH_KIB_MAX,
        "{before} KiB before, {after} KiB after, for {} clients",
        sleepers.len()
    );
}

#[test]
fn a_server_without_descriptors_refuses_newcomers_and_serves_the_rest() {
    const LIMIT: usize = 40;
    let server = Server::start();
    server.limit_files(LIMIT as u64);
    let mut stream = Sse::open(server.addr, "");
    stream.block(deadline()).expect("the retry comes at once");
    let mut wires: Vec<Wire> = Vec::new();
    let mut refused = 0;
    for _ in 0..2 * LIMIT {
        let mut wire = Wire::new(std::net::TcpStream::connect(server.addr).expect("the kernel takes it"));
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let head = support::http::read_head(&mut wire, deadline()).expect("an answer, whatever it is");
        match head.status {
            200 => wires.push(wire),
            503 => refused += 1,
            other => panic!("an unexpected answer: {other}"),
        }
    }
    assert!(wires.len() < LIMIT && refused > LIMIT / 2, "{} taken, {refused} refused", wires.len());
    // Existing clients, including publishers, are still served.
    let publisher = wires.last_mut().expect("some were taken");
    let body = "{\"type\":\"still.there\"}";
    publisher.send(
        format!("POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .as_bytes(),
    );
    assert_eq!(stream.event().json()["event_type"], "still.there");
    // New clients are accepted again when others leave.
    drop(wires);
    support::eventually("a newcomer is served", || {
        std::net::TcpStream::connect(server.addr).is_ok_and(|stream| {
            let mut wire = Wire::new(stream);
            wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
            support::http::read_head(&mut wire, deadline()).is_ok_and(|head| head.status == 200)
        })
    });
    let counted = server.metric("fanwire_server_connections_refused_total");
    assert!(counted >= Some(refused as f64), "{counted:?}");
}

//! Tests that a thread that panics stops its server, with an error that names the place, and nothing else in the
//! process.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::super::*;
use crate::bridge::Bridge;
use crate::bus::Bus;
use crate::engine::EngineConfig;
use crate::event::Event;

const PATIENCE: Duration = Duration::from_secs(60);

/// A folder for a log in files, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fanwire-failures-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn engine(&self) -> EngineConfig {
        let mut config = EngineConfig::new(format!("file://{}", self.0.display()));
        config.sync_interval = Duration::from_millis(1);
        config
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn builder(bus: &Bus) -> (ServerBuilder, Receiver<ThreadFailure>) {
    let (sender, failures) = channel();
    let report = move |failure: &ThreadFailure| drop(sender.send(failure.clone()));
    (Server::builder(bus).listen("127.0.0.1:0").loops(3).on_failure(report), failures)
}

/// Opens a stream, and reads its head.
fn stream(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it reads");
    let mut head = [0; 15];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    stream
}

/// Makes the thread panic by calling `stir`, and checks the remaining state.
fn fails(
    thread: &str,
    builder: ServerBuilder,
    failures: &Receiver<ThreadFailure>,
    stir: impl Fn(SocketAddr),
) {
    let server = builder.spawn().expect("it starts");
    let addr = server.local_addr();
    let mut clients: Vec<TcpStream> = (0..12).map(|_| stream(addr)).collect();
    server.shared.alarm.plant(thread);
    let end = Instant::now() + PATIENCE;
    let failure = loop {
        stir(addr);
        server.shared.wake_loops();
        match failures.recv_timeout(Duration::from_millis(20)) {
            Ok(failure) => break failure,
            Err(_) => assert!(Instant::now() < end, "{thread} did not panic"),
        }
    };
    assert_eq!(
        (failure.thread(), failure.message(), failure.is_panic()),
        (thread, "planted by a test", true)
    );
    let error = server.join().expect_err("a thread of it panicked");
    assert_eq!(error.thread_failure(), Some(&failure));
    let text = error.to_string();
    assert!(text.contains(thread) && text.contains("src/threads.rs:"), "{text}");
    for client in &mut clients {
        let ended = client.read_to_end(&mut Vec::new());
        let is_end = ended.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true);
        assert!(is_end, "of every loop: {ended:?}");
    }
    assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
    assert!(failures.try_recv().is_err(), "reported once");
}

fn post(addr: SocketAddr, path: &str, body: &str) {
    let Ok(mut stream) = TcpStream::connect(addr) else { return };
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // The thread that would answer has just panicked.
    let _ = stream.write_all(request.as_bytes());
}

/// The payload of the panic panics again when it is dropped.
#[test]
fn a_function_for_failures_that_panics_stops_nothing() {
    struct Again;
    impl Drop for Again {
        fn drop(&mut self) {
            panic!("again");
        }
    }
    let bus = Bus::new();
    let (sender, failures) = channel();
    let builder = Server::builder(&bus).listen("127.0.0.1:0").loops(2).on_failure(move |failure| {
        drop(sender.send(failure.clone()));
        std::panic::panic_any(Again)
    });
    fails("fanwire-loop-1", builder, &failures, |_| {});
}

#[test]
fn a_panic_in_any_loop_ends_all_of_them() {
    for number in 0..3 {
        let bus = Bus::new();
        let (builder, failures) = builder(&bus);
        fails(&format!("fanwire-loop-{number}"), builder, &failures, |_| ());
        // The bus is the embedder's, and continues.
        let mut reader = bus.subscribe(crate::filter::Filter::new());
        bus.publish(Event::builder("a").build().expect("an event"));
        assert!(reader.try_recv().is_ok());
    }
}

#[test]
fn a_panic_in_any_of_the_engines_threads_stops_the_server() {
    for name in ["append", "follow", "sync", "watch"] {
        let folder = Folder::new(name);
        let (builder, failures) = builder(&Bus::new());
        let thread = format!("fanwire-engine-{name}");
        fails(&thread, builder.engine(folder.engine()), &failures, |addr| {
            post(addr, "/publish", r#"{"type":"a"}"#);
        });
    }
}

#[test]
fn a_panic_in_the_thread_that_reads_a_log_for_history_stops_the_server() {
    let folder = Folder::new("history");
    let bus = Bus::builder().capacity(8).build().expect("a bus");
    let (builder, failures) = builder(&bus);
    let readers = std::cell::RefCell::new(Vec::new());
    fails("fanwire-engine-history", builder.engine(folder.engine()), &failures, |addr| {
        post(addr, "/publish", &"{\"type\":\"a\"}\n".repeat(20));
        // More than the ring holds, so the rest is read from the log.
        let Ok(mut reader) = TcpStream::connect(addr) else { return };
        let _ = reader.write_all(b"GET /sse?history=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        readers.borrow_mut().push(reader);
    });
}

#[cfg(feature = "redis")]
#[test]
fn a_panic_in_an_ingest_stops_the_server() {
    let (builder, failures) = builder(&Bus::new());
    let ingest = "redis://127.0.0.1:1#nobody".parse().expect("an address");
    fails("fanwire-ingest", builder.ingest(ingest), &failures, |_| ());
}

#[test]
fn a_panic_in_a_worker_itself_stops_the_server_and_one_in_a_handler_does_not() {
    let bus = Bus::new();
    let (builder, failures) = builder(&bus);
    let bridge = Bridge::create_default(&bus);
    bridge.register_route("bad", |_| panic!("the embedder's"));
    let server = builder.bridge(&bridge).spawn().expect("it starts");
    let mut client = TcpStream::connect(server.local_addr()).expect("it listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client
        .write_all(
            b"POST /bridge/bad HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        )
        .expect("it reads");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("the embedder's"), "{answer}");
    assert!(failures.try_recv().is_err());
    server.drain(Duration::ZERO);
    server.join().expect("nothing of the server's failed");

    let (builder, failures) = self::builder(&bus);
    fails("fanwire-worker", builder, &failures, |addr| post(addr, "/bridge/mcp", "{}"));
}

//! This version reads the data of older versions: their logs in files, in Redis and in JetStream, their settings, and
//! their handover to a successor.
//!
//! Each folder of tests/fixtures has the data of one version. `make.py` in it made the data with that version's binary.

mod support;

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use support::script::in_project;
use support::service::{Kind, Service};
use support::wire::{Wire, deadline};
use support::ws::{Ws, upgrade_request};
use support::{PATIENCE, Server, eventually, fanwire, http, run};

const SECRET: &str = "what-all-nodes-of-one-cluster-know-77c1";

/// Fixtures of each version.
fn versions() -> Vec<PathBuf> {
    let all = std::fs::read_dir(in_project("tests/fixtures")).expect("fixtures");
    let all: Vec<PathBuf> =
        all.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()).collect();
    assert!(!all.is_empty());
    all
}

/// A copy that a test may change. Removed on drop.
struct Copy(PathBuf);

impl Copy {
    fn empty() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fanwire-older-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn of(folder: &Path) -> Self {
        let copy = Self::empty();
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), copy.0.join(entry.file_name())).expect("copied");
        }
        copy
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Ids and numbers of the events, from the answers to the version's publisher.
fn expected(version: &Path, what: &str) -> Vec<(String, u64)> {
    let text = std::fs::read_to_string(version.join("expected.json")).expect("what was told");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let pair =
        |pair: &Value| (pair[0].as_str().expect("an id").to_owned(), pair[1].as_u64().expect("a number"));
    all[what].as_array().expect("events").iter().map(pair).collect()
}

fn told(event: &Value) -> (String, u64) {
    let id = event["event_id"].as_str().unwrap_or_else(|| panic!("no id: {event}"));
    (id.to_owned(), event["payload"]["n"].as_u64().unwrap_or_else(|| panic!("no number: {event}")))
}

fn serve(engine: &str, options: &[&str]) -> Server {
    let server = Server::with(&[&["--engine", engine], options].concat());
    eventually("the node has read its log", || http::get(server.addr, "/readyz").status == 200);
    server
}

/// Subscribes with a token, and returns the client after its ack.
fn subscribe(addr: SocketAddr, token: &str, payload: Value) -> Ws {
    let mut ws = Ws::over(Wire::connect(addr), &format!("/ws?token={token}"), "");
    let answer = ws.ask(&json!({"type": "subscribe", "payload": payload}));
    assert_eq!(answer["type"], "ack", "{answer}");
    ws
}

/// Checks a node on a log of an older version: ids, epoch, resume, new events, revocations.
fn holds(engine: &str, expected: &[(String, u64)]) {
    let node = serve(engine, &["--auth-jwt-hs256-secret", SECRET]);
    let admin = support::token(SECRET, &["--sub", "root", "--admin", "--publish", "--stream", "*"]);
    let mut all = subscribe(node.addr, &admin, json!({"history": 100}));
    for one in expected {
        assert_eq!(told(&all.event()), *one);
    }
    let (before, after) = expected.split_at(5);
    let mut resumed = subscribe(node.addr, &admin, json!({"since": before[4].0}));
    for one in after {
        assert_eq!(told(&resumed.event()), *one, "nothing is missing, and there is no gap");
    }
    let body = r#"{"type":"test.numbered","stream_id":"s0","payload":{"n":99}}"#;
    let request = format!(
        "POST /publish HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {admin}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = http::exchange(node.addr, request.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    let (last, _) = expected.last().expect("events");
    let (epoch, sequence) = last.split_once('-').expect("an id");
    let next = format!("{epoch}-{}", sequence.parse::<u64>().expect("a number") + 1);
    assert_eq!(answer.json()["last_event_id"], json!(next), "the epoch goes on");
    for client in [&mut all, &mut resumed] {
        assert_eq!(told(&client.event()), (next.clone(), 99));
    }
    let eve = support::token(SECRET, &["--sub", "eve", "--stream", "*"]);
    let upgrade = upgrade_request(&format!("/ws?token={eve}"), "");
    assert_eq!(http::exchange(node.addr, upgrade.as_bytes()).status, 401, "the revocation stays");
}

#[test]
fn a_log_in_files_opens() {
    for version in versions() {
        let folder = Copy::of(&version.join("file"));
        holds(&format!("file://{}", folder.0.display()), &expected(&version, "file"));
        // Opened once more, after this version has written to it.
        let node = serve(&format!("file://{}", folder.0.display()), &[]);
        let mut all = Ws::subscribed(node.addr, json!({"history": 100}));
        for one in expected(&version, "file") {
            assert_eq!(told(&all.event()), one);
        }
        assert_eq!(told(&all.event()).1, 99);
    }
}

#[test]
fn a_log_in_files_of_several_shards_opens_after_a_kill() {
    for version in versions() {
        let folder = Copy::of(&version.join("file-shards"));
        let node = serve(&format!("file://{}", folder.0.display()), &["--bus-shards", "3"]);
        let expected = expected(&version, "file-shards");
        let mut all = Ws::subscribed(node.addr, json!({"history": 100}));
        let mut events: Vec<(String, u64)> = expected.iter().map(|_| told(&all.event())).collect();
        events.sort_by_key(|(_, n)| *n);
        assert_eq!(events, expected);
        let answer = node.publish(r#"{"type":"test.numbered","stream_id":"s0","payload":{"n":99}}"#);
        let epoch = |id: &str| id.split_once('-').expect("an id").0.to_owned();
        assert_eq!(epoch(answer["last_event_id"].as_str().expect("an id")), epoch(&expected[0].0));
    }
}

#[test]
fn a_log_in_redis_opens() {
    for version in versions() {
        let redis = Service::start(Kind::Redis);
        redis.redis_load(&std::fs::read(version.join("redis.resp")).expect("commands"));
        holds(&redis.url(), &expected(&version, "redis"));
    }
}

#[test]
fn a_log_in_jetstream_opens() {
    for version in versions() {
        let folder = Copy::empty();
        let unpacked = Command::new("tar")
            .arg("-xzf")
            .arg(version.join("jetstream.tar.gz"))
            .arg("-C")
            .arg(&folder.0)
            .status();
        assert!(unpacked.expect("tar runs").success());
        let nats = Service::start_in(Kind::Nats, folder.0.clone(), &[]);
        holds(&nats.url(), &expected(&version, "jetstream"));
    }
}

#[test]
fn settings_load() {
    for version in versions() {
        for name in ["defaults.toml", "settings.toml"] {
            let path = version.join(name);
            let output = run(fanwire().args(["check", "--config", path.to_str().expect("UTF-8")]));
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {stderr}", path.display());
        }
    }
}

/// Sends a message with these descriptors, as a predecessor does.
fn say(mut wire: &UnixStream, message: &str, descriptors: &[BorrowedFd<'_>]) {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    assert!(descriptors.is_empty() || rights.push(SendAncillaryMessage::ScmRights(descriptors)));
    let sent = sendmsg(wire, &[IoSlice::new(&length)], &mut rights, SendFlags::NOSIGNAL)
        .expect("the successor reads");
    wire.write_all(&length[sent..])
        .and_then(|()| wire.write_all(message.as_bytes()))
        .expect("the successor reads");
}

fn hear(mut wire: &UnixStream) -> Value {
    let mut length = [0; 4];
    wire.read_exact(&mut length).expect("the successor answers");
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    wire.read_exact(&mut body).expect("the successor answers");
    serde_json::from_slice(&body).expect("JSON")
}

/// A connection and its other end.
fn pair(listener: &TcpListener) -> (Wire, OwnedFd) {
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (server, _) = listener.accept().expect("it has just connected");
    (Wire::new(client), server.into())
}

#[test]
fn a_handover_from_an_older_version_is_accepted() {
    for version in versions() {
        let record = std::fs::read_to_string(version.join("handover.jsonl")).expect("a record");
        let record: Vec<Value> =
            record.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let mut command = fanwire();
        command.args([
            "serve",
            "--listen",
            &addr.to_string(),
            "--presence-channels",
            "room.*",
            // The recorded client used this name for the older version, which did not check names.
            "--allowed-host",
            "test",
            "--log-level",
            "warn",
        ]);
        command.env("FANWIRE_SUCCEEDS", std::process::id().to_string());
        let predecessor = std::thread::spawn(move || {
            let ready = hear(&ours);
            assert_eq!(ready["Ready"]["version"], 1, "{ready}");
            let mut clients = Vec::new();
            for step in &record {
                let message = step["message"].as_str().expect("a message");
                let count = step["descriptors"].as_u64().expect("a number");
                let descriptors: Vec<OwnedFd> = match message {
                    "\"Sockets\"" => vec![listener.as_fd().try_clone_to_owned().expect("a descriptor")],
                    _ => (0..count)
                        .map(|_| {
                            let (client, descriptor) = pair(&listener);
                            clients.push(client);
                            descriptor
                        })
                        .collect(),
                };
                let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(|one| one.as_fd()).collect();
                say(&ours, message, &borrowed);
            }
            assert_eq!(hear(&ours), "Taken");
            say(&ours, "\"Go\"", &[]);
            assert_eq!(hear(&ours), "Serving");
            clients
        });
        let server = Server::spawn_with(&mut command, Stdio::from(OwnedFd::from(theirs)));
        let clients = predecessor.join().expect("it gave all it had");
        let Ok([native, stream, hive, sdlc, lean, mut half]) = <[Wire; 6]>::try_from(clients) else {
            panic!("six clients")
        };
        let response = || http::Response { status: 101, headers: Vec::new(), body: Vec::new() };
        let socket = |wire| Ws { wire, response: response() };
        // The request of which half had arrived before is continued.
        half.send(b"st.half\"}");
        let answer = http::read_response(&mut half, deadline()).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        server.publish(r#"{"type":"test.numbered","payload":{"n":6}}"#);
        server.publish(r#"{"type":"other","channel":"room.1","payload":{"n":7}}"#);
        server.publish(r#"{"type":"agent.status","source":"x","entity":{"kind":"agent","id":"tester-1"},"payload":{"n":8}}"#);
        server.publish(r#"{"type":"agent.status","source":"x","entity":{"kind":"agent","id":"coder-9"},"payload":{"n":9}}"#);
        let mut native = socket(native);
        assert_eq!(native.event()["event_type"], "test.half");
        assert_eq!(native.event()["payload"]["n"], 6);
        assert_eq!(native.event()["payload"]["n"], 7);
        let list = native.ask(&json!({"type": "request", "payload": {"action": "list_subscriptions"}}));
        assert!(list.to_string().contains("\"mine\"") && list.to_string().contains("\"room\""), "{list}");
        let mut head = support::sse::Sse::from_wire(stream, response());
        assert_eq!(head.event().json()["event_type"], "test.half");
        assert_eq!(head.event().json()["payload"]["n"], 6);
        let mut hive = socket(hive);
        for n in [json!(null), json!(6), json!(7)] {
            let message = hive.message();
            assert_eq!(message["event"]["data"]["n"], n, "{message}");
        }
        let mut sdlc = socket(sdlc);
        let message = sdlc.message();
        assert_eq!(
            (&message["type"], &message["data"]["n"]),
            (&json!("agent_status"), &json!(8)),
            "{message}"
        );
        // The client's pattern agent:coder*:status was saved as a filter text that can't express it. The original pattern is
        // saved beside it.
        let message = sdlc.message();
        assert_eq!(
            (&message["type"], &message["data"]["n"]),
            (&json!("agent_status"), &json!(9)),
            "{message}"
        );
        let mut lean = socket(lean);
        assert_eq!(lean.message()["payload"]["n"], 6);
        // The past was handed over, too, under its old ids.
        let expected = expected(&version, "handover");
        let mut resumed =
            Ws::subscribed(addr, json!({"since": expected[2].0, "event_types": ["test.numbered"]}));
        for one in &expected[3..] {
            assert_eq!(told(&resumed.event()), *one);
        }
        let here = http::get(addr, "/api/presence/room.1").json();
        assert_eq!(here["users"][0]["user"], "ann", "{here}");
    }
}

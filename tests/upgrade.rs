//! Upgrades while clients are connected: a process hands over its sockets, events and clients to the next, and no
//! client is affected.

mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::authority::{Authority, TlsStream, over_tls};
use support::http::{post_request, read_response};
use support::service::{Kind, Service};
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::{CLOSE, TEXT, Ws, frame};
use support::{Server, eventually, fanwire, http, numbered};

/// The process that serves now: the test's child, or a successor, which is not the test's child.
struct Generations {
    first: Server,
    pids: Vec<u32>,
}

impl Generations {
    fn start(options: &[&str]) -> Self {
        Self::of(Server::with(&[&["--log-level", "info"], options].concat()))
    }

    fn of(first: Server) -> Self {
        let pids = vec![first.pid()];
        Self { first, pids }
    }

    fn addr(&self) -> SocketAddr {
        self.first.addr
    }

    fn signal(&self, name: &str) {
        let pid = self.pids.last().expect("one at least").to_string();
        assert!(
            Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill runs").success()
        );
    }

    /// Requests an upgrade, and waits until the next process has taken over.
    fn upgrade(&mut self) {
        self.signal("USR2");
        let count = self.pids.len();
        // Every process writes to the log of the first.
        eventually("the successor takes over", || self.successors().len() == count);
        self.pids.push(*self.successors().last().expect("it has just come"));
    }

    fn successors(&self) -> Vec<u32> {
        let log = self.first.log();
        let pids = log.lines().filter(|line| line.contains("handed over"));
        let pids = pids.filter_map(|line| line.split("successor=").nth(1)?.split(' ').next()?.parse().ok());
        pids.collect()
    }

    fn is_gone(pid: u32) -> bool {
        // A zombie has ended, too.
        std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        for pid in &self.pids[1..] {
            let _ = Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .stderr(std::process::Stdio::null())
                .status();
        }
    }
}

/// Publishes numbers from 0 over one connection until it is stopped. Returns their count.
fn publisher(addr: SocketAddr, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut wire = Wire::connect(addr);
        let mut next = 0;
        while !stop.load(Ordering::Relaxed) {
            let body: String = (next..next + 5).map(numbered).collect();
            wire.send(&post_request("/publish", "application/x-ndjson", body.as_bytes()));
            let answer = read_response(&mut wire, deadline()).expect("an answer on the same connection");
            assert_eq!(answer.status, 200, "{answer:?}");
            next += 5;
            std::thread::sleep(Duration::from_millis(10));
        }
        next
    })
}

/// Reads numbers until the last, in order. Anything else is a fault.
fn follow(mut next_number: impl FnMut() -> u64, last: &AtomicUsize) -> u64 {
    let mut want = 0;
    while want < last.load(Ordering::Relaxed) as u64 {
        assert_eq!(next_number(), want, "nothing is missing, and nothing comes twice");
        want += 1;
    }
    want
}

fn number_of(event: &Value) -> u64 {
    event["payload"]["n"].as_u64().unwrap_or_else(|| panic!("no number in {event}"))
}

#[test]
fn a_thousand_clients_live_through_ten_upgrades_without_a_close_or_a_gap() {
    let mut server = Generations::start(&["--loops", "2"]);
    let addr = server.addr();
    let last = Arc::new(AtomicUsize::new(usize::MAX));
    let mut clients = Vec::new();
    for number in 0..1000 {
        let last = Arc::clone(&last);
        let client: Box<dyn FnOnce() -> u64 + Send> = match number % 4 {
            0 => {
                let mut sse = Sse::open(addr, "?type=test.*");
                Box::new(move || follow(|| number_of(&sse.event().json()), &last))
            }
            1 => {
                let mut ws = Ws::over(Wire::connect(addr), "/hive", "");
                ws.send(&json!({"action": "subscribe"}));
                Box::new(move || {
                    let mut event = || loop {
                        let message = ws.message();
                        if message["type"] == "event" {
                            return message["event"]["data"]["n"].as_u64().expect("a number");
                        }
                    };
                    follow(&mut event, &last)
                })
            }
            2 => {
                let header = "Sec-WebSocket-Protocol: fanwire.v1.lean\r\n";
                let mut ws = Ws::over(Wire::connect(addr), "/ws", header);
                assert_eq!(ws.ask(&json!({"type": "subscribe"}))["type"], "ack");
                Box::new(move || follow(|| number_of(&ws.message()), &last))
            }
            _ => {
                let mut ws = Ws::subscribed(addr, json!({"event_types": ["test.*"]}));
                Box::new(move || follow(|| number_of(&ws.event()), &last))
            }
        };
        clients.push(client);
    }
    eventually("all are subscribed", || server.first.metric("fanwire_server_subscriptions") >= Some(750.0));
    let clients: Vec<_> = (clients.into_iter())
        .map(|client| std::thread::Builder::new().stack_size(256 * 1024).spawn(client).expect("a thread"))
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = publisher(addr, Arc::clone(&stop));
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(100));
        server.upgrade();
    }
    stop.store(true, Ordering::Relaxed);
    let published = publisher.join().expect("it was answered throughout");
    assert!(published > 50, "{published}");
    last.store(published, Ordering::Relaxed);
    // One more event, so that a waiting reader checks again.
    let answer = http::post(addr, "/publish", "application/json", numbered(published).as_bytes());
    assert_eq!(answer.status, 200);
    for client in clients {
        let got = client.join().expect("no close and no gap");
        assert!(got >= published as u64, "{got} of {published}");
    }
    assert_eq!(server.pids.len(), 11);
    assert!(server.first.wait().success(), "{}", server.first.log());
    for pid in &server.pids[..10] {
        eventually("every process but the last has ended", || Generations::is_gone(*pid));
    }
    // The last process works as the first one did.
    server.signal("TERM");
    let pid = *server.pids.last().expect("eleven");
    eventually("the last one drains", || Generations::is_gone(pid));
}

#[test]
fn half_sent_messages_are_finished_after_an_upgrade() {
    let mut server = Generations::start(&["--limits-message-kinds", "ping=3", "--max-lag-bytes", "16MiB"]);
    let addr = server.addr();
    // A message cut in its header, one cut in its payload, and one in fragments.
    let message = json!({"type": "ping", "message_id": "p"}).to_string();
    let whole = frame(TEXT, message.as_bytes());
    let mut cut: Vec<(Ws, &[u8])> = [1, 4, 20]
        .map(|at| {
            let mut ws = Ws::connect(addr);
            ws.wire.send(&whole[..at]);
            (ws, &whole[at..])
        })
        .into();
    let mut limited = Ws::connect(addr);
    for _ in 0..3 {
        assert_eq!(limited.ask(&json!({"type": "ping"}))["type"], "pong");
    }
    // Requests of which only the head, half of the body, or half a chunk has arrived.
    let body = numbered(7);
    let post = post_request("/publish", "application/json", body.as_bytes());
    let mut requests: Vec<(Wire, Vec<u8>)> = [10, post.len() - body.len(), post.len() - 3]
        .map(|at| {
            let mut wire = Wire::connect(addr);
            wire.send(&post[..at]);
            (wire, post[at..].to_vec())
        })
        .into();
    let mut chunked = Wire::connect(addr);
    chunked
        .send(b"POST /publish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"type\":\"te");
    requests.push((chunked, b"st.x\"\r\n1\r\n}\r\n0\r\n\r\n".to_vec()));
    // A client that has read nothing of a long backlog.
    let mut slow = Ws::subscribed(addr, json!({"event_types": ["big"]}));
    let big = "x".repeat(100_000);
    for n in 0..40 {
        server.first.publish(json!({"type": "big", "payload": {"n": n, "text": big}}).to_string());
    }
    let mut reader = Ws::subscribed(addr, json!({"event_types": ["test.*"]}));
    let mut resumes = Ws::connect(addr);
    let before = server.first.publish(numbered(1))["last_event_id"].clone();
    server.first.publish(numbered(2));
    // The sent bytes arrive before the signal.
    std::thread::sleep(Duration::from_millis(200));
    server.upgrade();
    for (ws, rest) in &mut cut {
        ws.wire.send(rest);
        let pong = ws.message();
        assert_eq!((&pong["type"], &pong["correlation_id"]), (&json!("pong"), &json!("p")), "{pong}");
    }
    for (wire, rest) in &mut requests {
        wire.send(rest);
        let answer = read_response(wire, deadline()).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(limited.ask(&json!({"type": "ping"}))["payload"]["code"], "rate_limited");
    for n in 0..40 {
        assert_eq!(number_of(&slow.event()), n);
    }
    for n in [1, 2, 7, 7, 7] {
        assert_eq!(number_of(&reader.event()), n);
    }
    assert_eq!(reader.event()["event_type"], "test.x");
    // The past is handed over, too, under its old ids.
    let since = json!({"type": "subscribe", "payload": {"since": before, "event_types": ["test.numbered"]}});
    assert_eq!(resumes.ask(&since)["type"], "ack");
    for n in [2, 7, 7, 7] {
        assert_eq!(number_of(&resumes.event()), n);
    }
}

#[test]
fn rights_go_with_their_holders_and_revocations_stand() {
    let secret = "0123456789abcdef0123456789abcdef";
    let token = |claims: &[&str]| {
        let mut command = fanwire();
        command.args(["token", "--secret", secret]).args(claims);
        String::from_utf8(support::run(&mut command).stdout).expect("UTF-8").trim().to_owned()
    };
    let mut server = Generations::start(&["--auth-jwt-hs256-secret", secret]);
    let addr = server.addr();
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let (ann, eve) = (token(&["--sub", "ann", "--stream", "a"]), token(&["--sub", "eve", "--stream", "*"]));
    let admin = token(&["--sub", "root", "--admin", "--publish", "--stream", "*"]);
    let mut of_a = Ws::over(Wire::connect(addr), "/ws", &bearer(&ann));
    assert_eq!(of_a.ask(&json!({"type": "subscribe", "payload": {}}))["type"], "ack");
    let mut stream = Sse::with(addr, "", &bearer(&ann));
    let mut stranger = Ws::connect(addr);
    let post = |path: &str, body: &str| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}Content-Length: {}\r\n\r\n{body}",
            bearer(&admin),
            body.len()
        );
        http::exchange(addr, head.as_bytes())
    };
    let mut sdlc = Ws::over(Wire::connect(addr), "/autosdlc", &bearer(&ann));
    let id = sdlc.message()["data"]["clientId"].as_str().expect("an id").to_owned();
    sdlc.ask(&json!({"type": "subscribe", "data": {"subscriptionId": "s", "resource": "agent", "resourceId": "a"}}));
    let subscriptions = || {
        let head = format!(
            "GET /api/subscriptions?client_id={id} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n",
            bearer(&admin)
        );
        http::exchange(addr, head.as_bytes()).json()["subscriptions"].clone()
    };
    let before = subscriptions();
    assert_eq!(before[0]["id"], "s");
    assert_eq!(post("/api/revoke", r#"{"sub":"eve"}"#).status, 200);
    server.upgrade();
    assert_eq!(subscriptions(), before, "an operator gets the same answer");
    for stream in ["b", "a"] {
        let event = json!({"type": "x", "stream_id": stream, "payload": {"n": 1}}).to_string();
        assert_eq!(post("/publish", &event).status, 200);
    }
    assert_eq!(of_a.event()["stream_id"], "a");
    assert_eq!(stream.event().json()["stream_id"], "a");
    let refused = stranger.ask(&json!({"type": "subscribe", "payload": {}}));
    assert_eq!(refused["payload"]["code"], "auth_required");
    let answer = http::exchange(
        addr,
        format!("GET /sse HTTP/1.1\r\nHost: localhost\r\n{}\r\n", bearer(&eve)).as_bytes(),
    );
    assert_eq!(answer.status, 401, "eve is still out");
}

#[test]
fn each_clients_interest_is_exact_after_an_upgrade() {
    let mut server = Generations::start(&[]);
    let addr = server.addr();
    // AutoSDLC's wildcards can be anywhere, which a filter's text cannot express.
    let wants = [
        json!({"pattern": "agent:coder*:*"}),
        json!({"resource": "agent", "resourceId": "co*-1"}),
        json!({"resource": "dep*"}),
    ];
    let mut sdlc: Vec<Ws> = ["/autosdlc", "/autosdlc?compress=gzip"]
        .into_iter()
        .flat_map(|path| wants.iter().map(move |want| (path, want)))
        .map(|(path, want)| {
            let mut ws = Ws::over(Wire::connect(addr), path, "");
            assert_eq!(ws.message()["type"], "connect");
            assert_eq!(ws.ask(&json!({"type": "subscribe", "data": want}))["type"], "subscription_update");
            ws
        })
        .collect();
    // Two clients in one circle, one of which does not get its own messages.
    let [mut speaker, mut listener] = [(); 2].map(|()| Ws::over(Wire::connect(addr), "/ws/circles/dev", ""));
    speaker.send(&json!({"type": "hello"}));
    assert_eq!(listener.message()["type"], "hello");
    // Filters of every form. Some, when joined, have more values than a client's text may have.
    let mut native = Ws::connect(addr);
    let many: Vec<String> = (0..250).map(|n| format!("t.{n}")).collect();
    for payload in [
        json!({"subscription_id": "many", "event_types": many}),
        json!({"subscription_id": "odd", "sources": ["a*b", "x,y", "\"q\"", "=="], "channels": ["**.c", ""]}),
        json!({"subscription_id": "pairs", "entities": [{"kind": "a:b", "id": "*"}, {"kind": "", "id": "x"}]}),
        json!({"subscription_id": "lag", "stream_ids": ["s"], "on_lag": "sample", "max_per_second": 5}),
        json!({"subscription_id": "text", "event_types": ["task.**"], "filter": "source!=core & payload.n >= 5 payload.\"a.b\" != \"x\\n\",null,5"}),
    ] {
        assert_eq!(native.ask(&json!({"type": "subscribe", "payload": payload}))["type"], "ack", "{payload}");
    }
    let list = json!({"type": "request", "payload": {"action": "list_subscriptions"}});
    let before = native.ask(&list)["payload"].clone();
    server.upgrade();
    assert_eq!(native.ask(&list)["payload"], before);
    let about = |key: &str, id: &str, event_type: &str| {
        let event = json!({"type": event_type, "payload": {key: id}}).to_string();
        assert_eq!(http::post(addr, "/publish", "application/json", event.as_bytes()).status, 200);
    };
    about("agentId", "other-1", "agent_status");
    about("agentId", "coder-2", "agent_status");
    about("agentId", "coder-1", "agent_status");
    about("deploymentId", "d", "deployment_status");
    for (at, ws) in sdlc.iter_mut().enumerate() {
        let want: &[&str] = [&["coder-2", "coder-1"][..], &["coder-1"], &["d"]][at % 3];
        for id in want {
            let data = ws.message()["data"].clone();
            assert!(data["agentId"] == *id || data["deploymentId"] == *id, "{at}: {data}");
        }
        assert!(ws.is_silent_for(Duration::from_millis(1)), "{at}");
    }
    speaker.send(&json!({"type": "again"}));
    assert_eq!(listener.message()["type"], "again");
    assert!(speaker.is_silent_for(Duration::from_millis(50)), "it does not hear itself");
}

/// Lists that `update` has changed, one of them now empty, are kept in the next process, and can be changed there.
#[test]
fn updated_lists_are_exact_after_an_upgrade() {
    let mut server = Generations::start(&[]);
    let addr = server.addr();
    let mut client = Ws::connect(addr);
    // More values than one filter holds.
    let values: Vec<String> = (0..600).map(|n| format!("symbol:S{n}")).collect();
    for payload in [
        json!({"subscription_id": "w", "entities": values, "snapshot": true}),
        json!({"subscription_id": "empty", "channels": ["only"]}),
    ] {
        assert_eq!(client.ask(&json!({"type": "subscribe", "payload": payload}))["type"], "ack");
    }
    let update = |client: &mut Ws, id: &str, add: Value, remove: Value| {
        let payload = json!({"subscription_id": id, "add": add, "remove": remove});
        let ack = client.ask(&json!({"type": "update", "payload": payload}));
        (ack["payload"]["added"].clone(), ack["payload"]["removed"].clone())
    };
    let (added, removed) =
        (json!({"entities": ["symbol:T"]}), json!({"entities": ["symbol:S0", "symbol:S300"]}));
    assert_eq!(update(&mut client, "w", added, removed), (json!(1), json!(2)));
    assert_eq!(update(&mut client, "empty", json!({}), json!({"channels": ["only"]})), (json!(0), json!(1)));
    let list = json!({"type": "request", "payload": {"action": "list_subscriptions"}});
    let before = client.ask(&list)["payload"].clone();
    let publish = |symbol: &str| {
        let event = json!({"type": "quote", "channel": "only", "entity": {"kind": "symbol", "id": symbol}});
        let answer = http::post(addr, "/publish", "application/json", event.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    for generation in 1..=2 {
        server.upgrade();
        assert_eq!(client.ask(&list)["payload"], before, "generation {generation}");
        ["S0", "S1", "S300", "T", "S599", "U"].into_iter().for_each(publish);
        for symbol in ["S1", "T", "S599"] {
            assert_eq!(client.event()["entity"]["id"], symbol, "generation {generation}");
        }
        assert!(client.is_silent_for(Duration::from_millis(100)), "generation {generation}");
    }
    // The next process knows that the subscription has snapshots.
    let (added, removed) = (json!({"entities": ["symbol:S0"]}), json!({"entities": ["symbol:T"]}));
    assert_eq!(update(&mut client, "w", added, removed), (json!(1), json!(1)));
    assert_eq!(client.event()["entity"]["id"], "S0", "its snapshot");
    assert_eq!(update(&mut client, "empty", json!({"channels": ["only"]}), json!({})), (json!(1), json!(0)));
    ["T", "S0"].into_iter().for_each(publish);
    for symbol in ["T", "S0"] {
        assert_eq!(client.event()["entity"]["id"], symbol);
    }
}

#[test]
fn a_successor_that_fails_changes_nothing() {
    let dir = std::env::temp_dir().join(format!("fanwire-upgrade-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder of our own");
    let file = dir.join("fanwire.toml");
    std::fs::write(&file, "").expect("a file");
    let mut server = Generations::start(&["--config", file.to_str().expect("UTF-8")]);
    let mut ws = Ws::subscribed(server.addr(), json!({}));
    for (text, why) in [("nonsense = 1", "the other process has ended"), ("[bus]\nshards = 2", "has ended")] {
        std::fs::write(&file, text).expect("a file");
        let before = server.first.log().matches("upgrade failed").count();
        server.signal("USR2");
        eventually("it is told", || server.first.log().matches("upgrade failed").count() > before);
        assert!(server.first.log().contains(why), "{}", server.first.log());
        server.first.publish(numbered(1));
        assert_eq!(number_of(&ws.event()), 1);
        server.first.assert_serving();
    }
    std::fs::write(&file, "").expect("a file");
    server.upgrade();
    server.first.publish(numbered(2));
    assert_eq!(number_of(&ws.event()), 2);
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn with_an_engine_the_log_continues_after_an_upgrade() {
    let redis = Service::start(Kind::Redis);
    let mut server = Generations::start(&["--engine", &redis.url()]);
    let addr = server.addr();
    eventually("the log is followed", || http::get(addr, "/readyz").status == 200);
    let mut ws = Ws::subscribed(addr, json!({"event_types": ["test.*"]}));
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = publisher(addr, Arc::clone(&stop));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(100));
        server.upgrade();
    }
    stop.store(true, Ordering::Relaxed);
    let published = publisher.join().expect("it was answered throughout");
    for n in 0..published as u64 {
        assert_eq!(number_of(&ws.event()), n);
    }
}

#[test]
fn a_publication_from_before_an_upgrade_is_known_after_it() {
    let mut server = Generations::start(&[]);
    let addr = server.addr();
    let publish = || {
        let body = json!({"type": "x", "dedupe_id": "a"}).to_string();
        http::post(addr, "/publish", "application/json", body.as_bytes()).json()
    };
    let first = publish();
    assert_eq!((&first["accepted"], &first["duplicates"]), (&json!(1), &json!(0)));
    server.upgrade();
    let second = publish();
    assert_eq!((&second["accepted"], &second["duplicates"]), (&json!(0), &json!(1)));
    assert_eq!(first["last_event_id"], second["last_event_id"]);
}

#[test]
fn clients_with_tls_are_asked_to_reconnect_and_miss_nothing() {
    let authority = Authority::new("upgrade");
    let path = |name| authority.path(name).to_str().expect("UTF-8").to_owned();
    let mut command = fanwire();
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "info"]);
    command.args(["--tls-cert-file", &path("cert.pem"), "--tls-key-file", &path("key.pem")]);
    let mut server = Generations::of(Server::spawn(&mut command));
    let addr = server.addr();
    let connect = || {
        let tcp = std::net::TcpStream::connect(addr).expect("it listens");
        let stream = over_tls(tcp, &authority.client(&[&rustls::version::TLS13]));
        tungstenite::client("wss://localhost/ws", stream).expect("an upgrade").0
    };
    let mut ws = connect();
    let say = |ws: &mut tungstenite::WebSocket<_>, message: Value| {
        ws.send(message.to_string().into()).expect("sent");
    };
    let hear = |ws: &mut tungstenite::WebSocket<TlsStream>| loop {
        if let tungstenite::Message::Text(text) = ws.read().expect("a message") {
            return serde_json::from_str::<Value>(&text).expect("JSON");
        }
    };
    say(&mut ws, json!({"type": "subscribe", "payload": {}}));
    let position = hear(&mut ws)["payload"]["last_event_id"].clone();
    server.upgrade();
    let heard = hear(&mut ws);
    assert_eq!(heard["type"], "reconnect", "{heard}");
    assert!(server.first.wait().success(), "it has nothing left to do");
    let mut again = connect();
    say(&mut again, json!({"type": "publish", "payload": {"type": "x"}}));
    hear(&mut again);
    say(&mut again, json!({"type": "subscribe", "payload": {"since": position}}));
    assert_eq!(hear(&mut again)["type"], "ack");
    let mut next = hear(&mut again);
    if next["type"] == "history_end" {
        // The loop that accepted the event had not read it back, so it is delivered live.
        next = hear(&mut again);
    }
    assert_eq!(next["payload"]["event_type"], "x");
}

/// A client in the middle of a past is not handed over: it is asked to reconnect, gets no end of its past, and gets the
/// rest of the past from the next process.
#[test]
fn a_past_in_progress_continues_at_the_next_process() {
    /// Number of events. With 8 KiB each they are twice the kernel's buffers for a client that does not read.
    const EVENTS: u64 = 2500;
    let mut server = Generations::start(&[]);
    let pad = "x".repeat(8000);
    for n in 0..EVENTS {
        let event = json!({"type": "test.numbered", "payload": {"n": n, "pad": pad}});
        server.first.publish(event.to_string());
    }
    let addr = server.addr();
    let mut client = Ws::connect(addr);
    client.send(&json!({"type": "subscribe", "payload": {"subscription_id": "all", "history": EVENTS}}));
    let ack = client.any_message();
    assert_eq!(
        (&ack["type"], &ack["payload"]["history"]["complete"]),
        (&json!("ack"), &json!(true)),
        "{ack}"
    );
    server.upgrade();
    let number = |event: &Value| event["payload"]["payload"]["n"].as_u64().expect("a number");
    let (mut got, mut last) = (Vec::new(), ack["payload"]["history"]["from"].clone());
    let mut delay = None;
    loop {
        let next = client.read_frame(deadline()).expect("a frame");
        match next.opcode() {
            TEXT => {
                let message: Value = serde_json::from_slice(&next.payload).expect("JSON");
                assert_eq!(delay, None, "nothing but the close comes after it: {message}");
                if message["type"] == "reconnect" {
                    delay = message["payload"]["delay_ms"].as_u64();
                    continue;
                }
                assert_eq!(message["type"], "event", "no end of a past that is not over: {message}");
                got.push(number(&message));
                last = message["payload"]["event_id"].clone();
            }
            CLOSE => {
                let (code, reason) = next.close();
                let delay = delay.expect("a reconnect message before the close");
                assert!(code == 1012 && reason.ends_with(&format!("retry={delay}")), "{code} {reason}");
                break;
            }
            _ => {}
        }
    }
    assert!(got.len() < EVENTS as usize, "the kernel took all of it");
    let mut client = Ws::connect(addr);
    client.send(&json!({"type": "subscribe", "payload": {"subscription_id": "all", "since": last}}));
    let ack = client.any_message();
    assert_eq!((&ack["type"], &ack["payload"]["history"]["from"]), (&json!("ack"), &last), "{ack}");
    let before = got.len() as u64;
    loop {
        let message = client.any_message();
        match message["type"].as_str() {
            Some("event") => got.push(number(&message)),
            Some("history_end") => {
                let end = &message["payload"];
                assert_eq!((&end["events"], &end["complete"]), (&json!(EVENTS - before), &json!(true)));
                break;
            }
            _ => panic!("neither an event nor the end: {message}"),
        }
    }
    assert_eq!(got, (0..EVENTS).collect::<Vec<_>>(), "each once and in order, over both processes");
}

/// Opens a connection that lags as soon as it does not read.
fn narrow(addr: SocketAddr) -> Wire {
    Wire::narrow(addr, 4096)
}

/// Clients that catch up move with their place and with the replies that wait for it.
#[test]
fn clients_that_catch_up_go_on_at_the_next_process() {
    const N: u64 = 3_000;
    const UPGRADES: u64 = 2;
    let mut server = Generations::start(&["--bus-capacity", "16384", "--max-lag-events", "16"]);
    let addr = server.addr();
    let publish = |from: u64, count: u64| {
        let delta = |n: u64| format!("{n},{}", "x".repeat(800));
        let token =
            |n| json!({"type": "token", "stream_id": "run-1", "payload": {"n": n, "delta": delta(n)}});
        for first in (from..from + count).step_by(100) {
            let events: Vec<Value> = (first..(first + 100).min(from + count)).map(token).collect();
            let body = Value::from(events).to_string();
            assert_eq!(http::post(addr, "/publish", "application/json", body.as_bytes()).status, 200);
        }
    };
    let mut client = Ws::over(narrow(addr), "/ws", "");
    let subscription = json!({"stream_ids": ["run-1"], "on_lag": "catch_up"});
    assert_eq!(client.ask(&json!({"type": "subscribe", "payload": subscription}))["type"], "ack");
    let mut wire = narrow(addr);
    let target = "/sse?stream=run-1&on_lag=concat&concat=/payload/delta";
    wire.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    let response = http::read_head(&mut wire, deadline()).expect("an answer");
    let mut merged = Sse::from_wire(wire, response);
    publish(0, N);
    let metric = |name: &str| server.first.metric(name).expect("a counter");
    eventually("both lag", || metric("fanwire_server_catch_ups_total") >= 2.0);
    let read = metric("fanwire_server_messages_received_total");
    client.send(&json!({"type": "ping"}));
    eventually("the ping is read", || metric("fanwire_server_messages_received_total") > read);
    for n in 0..UPGRADES {
        publish(N + n * 20, 10);
        server.upgrade();
        publish(N + n * 20 + 10, 10);
    }
    let all = N + UPGRADES * 20;
    let (mut next, mut pong_at) = (0, None);
    while next < all || pong_at.is_none() {
        let message = client.any_message();
        if message["type"] == "pong" {
            assert_eq!(pong_at.replace(next), None, "one pong");
        } else {
            assert_eq!(number_of(&message["payload"]), next);
            next += 1;
        }
    }
    // The pong may also wait for events from before the upgrade.
    assert!(pong_at.is_some_and(|at| (N..all).contains(&at)), "{pong_at:?}");
    let (mut came, mut next) = (0, 0);
    while came < all {
        let event = merged.event();
        assert_eq!(event.event.as_deref(), Some("token"), "{event:?}");
        let event = event.json();
        came += event["merged"].as_u64().unwrap_or(1);
        let text = event["payload"]["delta"].as_str().expect("a text");
        for part in text.trim_end_matches('x').split_terminator(',') {
            assert_eq!(part.trim_start_matches('x').parse(), Ok(next));
            next += 1;
        }
    }
    assert_eq!((came, next), (all, all));
    // Both are live again, at the newest process.
    publish(all, 1);
    assert_eq!(number_of(&client.event()), all);
    assert_eq!(number_of(&merged.event().json()), all);
}

#[test]
fn an_upgrade_causes_no_presence_events() {
    let mut server =
        Generations::start(&["--presence-channels", "**", "--presence-grace", "1s", "--loops", "2"]);
    let addr = server.addr();
    let mut ann = Ws::over(Wire::connect(addr), "/ws?user=ann", "");
    ann.ask(&json!({"type": "subscribe", "payload": {"channels": ["room.1"]}}));
    assert_eq!(ann.event()["payload"]["user"], "ann");
    let mut watcher = Sse::open(addr, "?channel=room.*&channel=room.2&user=bob");
    let mut next_report = || {
        let event = watcher.event().json();
        (event["event_type"].clone(), event["payload"]["user"].clone())
    };
    assert_eq!(next_report(), (json!("presence.joined"), json!("bob")));
    let here = || {
        let request = "GET /api/presence/room.1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        http::exchange(addr, request.as_bytes()).json()["users"].clone()
    };
    let before = here();
    assert_eq!(before[0]["user"], "ann");
    server.upgrade();
    server.upgrade();
    assert_eq!(here(), before, "since when, too");
    drop(ann);
    // This is the first presence event since the start: the handover of the members caused none.
    assert_eq!(next_report(), (json!("presence.left"), json!("ann")));
}

#[test]
fn a_kept_run_in_redis_goes_on_over_an_upgrade() {
    let service = Service::start(Kind::Redis);
    let rule = "by=stream; end=run.finished; match=stream=run-*";
    let mut server =
        Generations::start(&["--engine", &service.url(), "--retain", rule, "--bus-capacity", "16"]);
    let addr = server.addr();
    eventually("the node is ready", || http::get(addr, "/readyz").status == 200);
    let publish = |event_type: &str, n: u64| {
        let body = json!({"type": event_type, "stream_id": "run-1", "payload": {"n": n}}).to_string();
        let answer = http::post(addr, "/publish", "application/json", body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let numbers = |stream: &mut Sse, count: usize| -> Vec<u64> {
        (0..count).map(|_| stream.event().json()["payload"]["n"].as_u64().expect("a number")).collect()
    };
    (0..40).for_each(|n| publish("token", n));
    let mut moved = Sse::open(addr, "?stream=run-1&from=start");
    assert_eq!(numbers(&mut moved, 40), (0..40).collect::<Vec<_>>());
    server.upgrade();
    // Publishers wait until the successor has read the log.
    publish("token", 40);
    assert_eq!(numbers(&mut moved, 1), [40]);
    let mut late = Sse::open(addr, "?stream=run-1&from=start");
    assert_eq!(numbers(&mut late, 41), (0..41).collect::<Vec<_>>());
    publish("run.finished", 41);
    for stream in [&mut moved, &mut late] {
        assert_eq!(numbers(stream, 1), [41]);
        let end = stream.event();
        assert_eq!((end.event.as_deref(), &end.json()["complete"]), (Some("end"), &json!(true)));
    }
}

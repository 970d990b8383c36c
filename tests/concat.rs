//! Neighbours of a past merged into one (`compact=concat`, `on_lag=concat`), and browsers of all speeds, which end with the exact
//! text of their runs.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use support::Server;
use support::http::{self, read_head};
use support::sse::Sse;
use support::wire::{Wire, deadline};
use support::ws::Ws;

const RULE: &str = "by=stream; end=run.finished; match=stream=run-*";

/// Returns the n-th token of a run. Some have characters that JSON escapes.
fn token(run: usize, n: usize) -> String {
    let end = ["", " ", "\n", "\"", "\\", "\u{e9}", "\u{1f600}", "\t"][(run + n) % 8];
    format!("{run}:{n}{end}")
}

/// Returns the text of a run.
fn text(run: usize, tokens: usize) -> String {
    (0..tokens).map(|n| token(run, n)).collect()
}

fn event(run: usize, n: usize) -> Value {
    json!({"type": "token", "stream_id": format!("run-{run}"), "payload": {"n": n, "delta": token(run, n)}})
}

/// Publishes tokens of these runs, the runs in turn.
fn publish(server: &Server, runs: usize, tokens: std::ops::Range<usize>) {
    let events: Vec<Value> = tokens.flat_map(|n| (0..runs).map(move |run| event(run, n))).collect();
    for some in events.chunks(500) {
        server.publish(json!(some).to_string());
    }
}

/// Opens a stream whose socket holds little. Returns `None` if there is nothing more to come.
fn open(addr: SocketAddr, target: &str, last_id: Option<&str>, narrow: bool) -> Option<Sse> {
    let mut wire = if narrow { Wire::narrow(addr, 4096) } else { Wire::connect(addr) };
    let header = last_id.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
    wire.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n").as_bytes());
    let response = read_head(&mut wire, deadline()).expect("an answer");
    match response.status {
        204 => None,
        status => {
            assert_eq!(status, 200, "{response:?}");
            Some(Sse::from_wire(wire, response))
        }
    }
}

/// Sum of the events of a run that arrived: their text, their number and how many they stand for.
#[derive(Debug, Default, PartialEq)]
struct Sum {
    text: String,
    events: usize,
    merged: u64,
    last_id: Option<String>,
}

impl Sum {
    /// Adds an event object.
    fn add(&mut self, event: &Value) {
        self.text += event["payload"]["delta"].as_str().expect("a token");
        self.events += 1;
        self.merged += event["merged"].as_u64().unwrap_or(1);
        self.last_id = event["event_id"].as_str().map(str::to_owned);
    }

    /// Adds events of a stream, up to the one with this number.
    fn read(&mut self, stream: &mut Sse, last: usize, is_lean: bool) {
        loop {
            let block = stream.event();
            assert_eq!(block.event.as_deref(), Some("token"), "{block:?}");
            let json = block.json();
            let event = if is_lean { json!({"event_id": block.id, "payload": json}) } else { json };
            self.add(&event);
            if event["payload"]["n"] == last {
                return;
            }
        }
    }
}

#[test]
fn a_run_comes_as_a_handful_of_events_and_a_resume_from_any_is_exact() {
    const TOKENS: usize = 2_000;
    let server = Server::with(&["--retain", RULE, "--bus-capacity", "1024", "--loops", "1"]);
    publish(&server, 3, 0..TOKENS);
    let target = "/sse?stream=run-1&from=start&compact=concat&concat=/payload/delta";
    for lean in ["", "&lean"] {
        let mut stream = open(server.addr, &format!("{target}{lean}"), None, false).expect("a stream");
        let mut sum = Sum::default();
        sum.read(&mut stream, TOKENS - 1, !lean.is_empty());
        assert_eq!(sum.text, text(1, TOKENS));
        assert!(sum.events < 20, "{} events", sum.events);
        if lean.is_empty() {
            assert_eq!(sum.merged, TOKENS as u64);
        }
    }
    // After the first event: the rest, without a hole and none twice.
    let mut stream = open(server.addr, target, None, false).expect("a stream");
    let mut sum = Sum::default();
    sum.add(&stream.event().json());
    drop(stream);
    let (begun, last_id) = (sum.text.len(), sum.last_id.clone());
    let mut stream = open(server.addr, target, last_id.as_deref(), false).expect("a stream");
    if begun < text(1, TOKENS).len() {
        sum.read(&mut stream, TOKENS - 1, false);
    }
    assert_eq!(sum.text, text(1, TOKENS));
    // Live events come one by one.
    publish(&server, 3, TOKENS..TOKENS + 3);
    let live: Vec<Value> = (0..3).map(|_| stream.event().json()).collect();
    assert!(live.iter().all(|event| event.get("merged").is_none()), "{live:?}");
    assert!(server.metric("fanwire_server_events_merged_total").expect("a counter") > 3_000.0);
    server.balanced_ledger();
}

#[test]
fn natively_too_and_only_neighbours_of_one_kind_are_merged() {
    let server = Server::with(&["--retain", RULE]);
    for n in 0..100 {
        server.publish(event(1, n).to_string());
        if n % 10 == 9 {
            let tool = json!({"type": "tool", "stream_id": "run-1", "payload": {"delta": n}});
            server.publish(tool.to_string());
        }
    }
    for lean in [false, true] {
        let protocol = if lean { "Sec-WebSocket-Protocol: fanwire.v1.lean\r\n" } else { "" };
        let mut client = Ws::over(Wire::connect(server.addr), "/ws", protocol);
        let ack = client.ask(&json!({"type": "subscribe", "payload": {
            "subscription_id": "s", "stream_ids": ["run-1"], "from": "start", "compact": "concat", "concat": "/payload/delta",
        }}));
        assert_eq!(ack["type"], "ack", "{ack}");
        let mut sum = Sum::default();
        for n in 0..20 {
            let message = client.message();
            let event = if lean { message } else { message["payload"].clone() };
            assert_eq!(event["event_type"], ["token", "tool"][n % 2], "{event}");
            if n % 2 == 0 {
                assert_eq!(event["merged"], 10, "{event}");
                sum.add(&event);
            } else {
                assert!(event.get("merged").is_none(), "its delta is no string: {event}");
            }
        }
        assert_eq!(sum.text, text(1, 100));
        let end = client.any_message();
        assert_eq!(end["payload"], json!({"subscription_id": "s", "events": 20, "complete": true}));
    }
}

#[test]
fn a_slow_client_gets_missed_events_merged() {
    const TOKENS: usize = 30_000;
    let server = Server::with(&[
        "--retain",
        "by=stream; events=100000; bytes=64MiB; end=run.finished; match=stream=run-*",
        "--bus-capacity",
        "1024",
        "--max-lag-events",
        "64",
        "--loops",
        "1",
    ]);
    let target = "/sse?stream=run-0&on_lag=concat&concat=/payload/delta";
    let mut stream = open(server.addr, target, None, true).expect("a stream");
    publish(&server, 1, 0..TOKENS);
    server.publish(json!({"type": "run.finished", "stream_id": "run-0"}).to_string());
    let mut sum = Sum::default();
    sum.read(&mut stream, TOKENS - 1, false);
    assert_eq!(sum.text, text(0, TOKENS));
    assert_eq!(sum.merged, TOKENS as u64);
    assert!(sum.events < TOKENS, "some were merged");
    assert_eq!(stream.event().event.as_deref(), Some("run.finished"));
    assert_eq!(stream.event().event.as_deref(), Some("end"));
    server.balanced_ledger();
}

#[test]
fn what_can_not_be_merged_is_refused() {
    let server = Server::start();
    for query in [
        "compact=all&concat=/payload/x",
        "compact=concat",
        "concat=/payload/x",
        "compact=concat&concat=payload/x",
        "compact=concat&concat=/event_type",
        "compact=concat&concat=/payload/~2",
        "compact=concat&concat=/payload/x&on_lag=conflate",
        "compact=concat&concat=/payload/x&on_lag=sample",
        "on_lag=concat",
        "on_lag=concat&concat=delta",
    ] {
        let answer = http::get(server.addr, &format!("/sse?{query}"));
        assert_eq!(answer.status, 400, "{query}");
    }
    let mut client = Ws::connect(server.addr);
    for payload in [
        json!({"compact": "all", "concat": "/payload/x"}),
        json!({"compact": "concat"}),
        json!({"concat": "/payload/x"}),
        json!({"compact": "concat", "concat": "x"}),
        json!({"compact": "concat", "concat": "/payload/x", "on_lag": "sample"}),
        json!({"on_lag": "concat"}),
    ] {
        let answer = client.ask(&json!({"type": "subscribe", "payload": payload}));
        assert_eq!(
            (&answer["type"], &answer["payload"]["code"]),
            (&json!("error"), &json!("invalid_payload")),
            "{payload}"
        );
    }
    // One string for all subscriptions that are merged.
    let concat = json!({"subscription_id": "one", "on_lag": "concat", "concat": "/payload/x"});
    assert_eq!(client.ask(&json!({"type": "subscribe", "payload": concat}))["type"], "ack");
    let other = client.ask(&json!({"type": "subscribe", "payload": {"subscription_id": "two"}}));
    assert_eq!(other["payload"]["code"], "invalid_on_lag", "{other}");
}

/// Random numbers of one browser (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % most
    }
}

/// Follows a run to its end, reloads at random, and reads at a speed of its own. Returns the text and the number of reloads.
fn browse(addr: SocketAddr, run: usize, number: usize, tokens: usize) -> (String, usize) {
    let mut dice = Dice(number as u64 * 2 + 1);
    let (mut sum, mut reloads) = (Sum::default(), 0);
    let forms = [
        "&on_lag=catch_up",
        "&on_lag=catch_up&compact=concat&concat=/payload/delta",
        "&on_lag=concat&concat=/payload/delta",
        "&on_lag=concat&compact=concat&concat=/payload/delta",
    ];
    let target = format!("/sse?stream=run-{run}&from=start{}", forms[number % forms.len()]);
    let pause = [0, 0, 1, 2][number / 4 % 4];
    loop {
        let Some(mut stream) = open(addr, &target, sum.last_id.as_deref(), !number.is_multiple_of(3)) else {
            return (sum.text, reloads);
        };
        let mut left = 20 + dice.below(tokens as u64 * 2);
        while left > 0 {
            left -= 1;
            let block = stream.event();
            match block.event.as_deref() {
                Some("token") => sum.add(&block.json()),
                Some("run.finished") => sum.last_id = block.id,
                Some("end") => return (sum.text, reloads),
                _ => panic!("browser {number}: {block:?}"),
            }
            if left.is_multiple_of(16) {
                std::thread::sleep(Duration::from_millis(pause));
            }
        }
        reloads += 1;
        // A connection that broke continues after its last event. A page that was reloaded begins anew.
        if dice.below(2) == 0 {
            sum = Sum::default();
        }
    }
}

/// Number of browsers that sleep while everything is published.
const SLEEPERS: usize = 5;

/// Follows a long run that was published while it did not read.
fn wake(mut stream: Sse, run: usize, tokens: usize) {
    let mut sum = Sum::default();
    sum.read(&mut stream, tokens - 1, false);
    assert_eq!((sum.text, sum.merged), (text(run, tokens), tokens as u64));
    assert_eq!(stream.event().event.as_deref(), Some("run.finished"));
    assert_eq!(stream.event().event.as_deref(), Some("end"));
}

/// `FANWIRE_BROWSERS` and `FANWIRE_TOKENS` set its size (500 and 5,000 make a long run).
#[test]
fn browsers_of_all_speeds_end_with_the_exact_text() {
    let number = |name: &str, default: usize| -> usize {
        std::env::var(name).map_or(default, |n| n.parse().expect("a number"))
    };
    let (browsers, tokens, runs) = (number("FANWIRE_BROWSERS", 100), number("FANWIRE_TOKENS", 200), 50_usize);
    // No loop is lapped, however slow the machine.
    let capacity = ((runs + SLEEPERS) * (tokens + 1)).next_power_of_two().to_string();
    let server = Server::with(&[
        "--retain",
        RULE,
        "--retain-max-bytes",
        "1GiB",
        "--max-memory-bytes",
        "4GiB",
        "--bus-capacity",
        &capacity,
        "--max-lag-events",
        "64",
        "--max-lag-bytes",
        "16KiB",
        "--loops",
        "2",
    ]);
    let addr = server.addr;
    let readers: Vec<_> = (0..browsers)
        .map(|number| {
            std::thread::spawn(move || (number % runs, browse(addr, number % runs, number, tokens)))
        })
        .collect();
    let follow = |run| format!("/sse?stream=run-{run}&on_lag=concat&concat=/payload/delta");
    let asleep: Vec<Sse> =
        (runs..runs + SLEEPERS).map(|run| open(addr, &follow(run), None, true).expect("a stream")).collect();
    // More than the kernel takes for a client that does not read, and less than a log keeps.
    let more = "x".repeat(6_400_000 / tokens);
    for first in (0..tokens).step_by(10) {
        let some = first..(first + 10).min(tokens);
        publish(&server, runs, some.clone());
        for run in runs..runs + SLEEPERS {
            let long = |n| {
                let mut event = event(run, n);
                event["payload"]["more"] = json!(more);
                event
            };
            server.publish(some.clone().map(long).collect::<Value>().to_string());
        }
    }
    for run in 0..runs + SLEEPERS {
        server.publish(json!({"type": "run.finished", "stream_id": format!("run-{run}")}).to_string());
    }
    let mut reloads = 0;
    for reader in readers {
        let (run, (came, again)) = reader.join().expect("a browser");
        assert!(came == text(run, tokens), "run {run}: {} bytes of {}", came.len(), text(run, tokens).len());
        reloads += again;
    }
    assert!(reloads > 0);
    for (stream, run) in asleep.into_iter().zip(runs..) {
        wake(stream, run, tokens);
    }
    assert!(server.metric("fanwire_server_catch_ups_total").expect("a counter") >= 1.0);
    server.balanced_ledger();
}

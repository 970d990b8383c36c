//! Cost of resume, engines and persistence, each compared with a minimal client that does the same work in the same
//! run.
//!
//! The program drives the built server from outside, over loopback, and starts real Redis and NATS servers. `cargo bench --bench
//! engines -- [resume] [past] [attach] [attach-crowd] [redis] [nats] [file]`. Every run checks that all events arrived. `attach` also measures a
//! Node server on Redis Streams, if benches/servers/js is installed.

#[path = "common/attach.rs"]
mod attach;
#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::Commands;
use redis::streams::{StreamReadOptions, StreamReadReply};
use serde_json::{Value, json};
use support::service::{Kind, Service};
use support::wire::Wire;
use support::ws::Ws;
use support::{Server, eventually, http};

/// Number of events of a throughput run, and of one request.
const EVENTS: usize = 60_000;
const BATCH: usize = 500;

/// Number of single events of a latency run.
const SINGLES: usize = 1_000;

fn event(n: usize) -> String {
    format!(
        "{{\"type\":\"task.progress\",\"source\":\"core\",\"stream_id\":\"s{}\",\"payload\":{{\"n\":{n},\"pad\":\"{:0>100}\"}}}}\n",
        n % 16,
        n
    )
}

fn batch(first: usize) -> String {
    (first..first + BATCH).map(event).collect()
}

fn ready(options: &[&str]) -> Server {
    let all = ["--max-lag-events", "10000000", "--max-lag-bytes", "4GiB", "--bus-capacity", "65536"];
    let server = Server::with(&[&all[..], options].concat());
    eventually("it is ready", || http::get(server.addr, "/readyz").status == 200);
    server
}

/// Publishes all events, a batch in each request, over one connection.
fn publish_all(addr: SocketAddr) {
    let mut wire = Wire::connect(addr);
    for first in (0..EVENTS).step_by(BATCH) {
        wire.send(&http::post_request("/publish", "application/x-ndjson", batch(first).as_bytes()));
        let answer = http::read_response(&mut wire, support::wire::deadline()).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// Reads this many frames without parsing their content, because the client is not measured.
fn read_frames(ws: &mut Ws, count: usize) {
    for _ in 0..count {
        ws.read_frame(support::wire::deadline()).expect("an event");
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// Returns events a second, from the first publish until a client of `to` has received all.
fn throughput(from: SocketAddr, to: SocketAddr) -> f64 {
    let mut client = Ws::subscribed(to, json!({}));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| publish_all(from));
        read_frames(&mut client, EVENTS);
    });
    rate(EVENTS, begin.elapsed())
}

/// Returns p50 and p99 of the latency of single events in microseconds. `send` publishes one, and `came` receives the
/// time of its arrival.
fn latency(mut send: impl FnMut(usize), came: &Receiver<Instant>) -> (f64, f64) {
    let mut times: Vec<f64> = (0..SINGLES)
        .map(|n| {
            let begin = Instant::now();
            send(n);
            let end = came.recv_timeout(Duration::from_secs(10)).expect("it comes");
            (end - begin).as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[SINGLES / 2], times[SINGLES * 99 / 100])
}

/// Returns the latency of single events through two nodes.
fn node_latency(from: SocketAddr, to: SocketAddr) -> (f64, f64) {
    let mut client = Ws::subscribed(to, json!({"event_types": ["task.*"]}));
    let mut publisher = Ws::connect(from);
    let (tell, came) = channel();
    let reader = std::thread::spawn(move || {
        for _ in 0..SINGLES {
            read_frames(&mut client, 1);
            if tell.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    let times = latency(
        |n| {
            let event: Value = serde_json::from_str(&event(n)).expect("JSON");
            publisher.send(&json!({"type": "publish", "payload": event}));
            read_frames(&mut publisher, 1);
        },
        &came,
    );
    reader.join().expect("it read");
    times
}

fn report(what: &str, ours: f64, bare: f64, unit: &str) {
    println!("{what:<44} fanwire {ours:>10.0}  bare {bare:>10.0}  {unit}  ratio {:.2}", ours / bare);
}

fn report_latency(what: &str, ours: (f64, f64), bare: (f64, f64)) {
    println!(
        "{what:<44} fanwire {:>7.0} / {:>7.0}  bare {:>7.0} / {:>7.0}  us, p50 / p99",
        ours.0, ours.1, bare.0, bare.1
    );
}

/// Clients that resume, each with 1,000 missed events.
fn resume() {
    const MISSED: usize = 1_000;
    const CLIENTS: usize = 600;
    const AT_ONCE: usize = 8;
    for shards in ["1", "4"] {
        let server = ready(&["--bus-shards", shards]);
        let mut first = Ws::connect(server.addr);
        let told =
            first.ask(&json!({"type": "subscribe", "payload": {}}))["payload"]["last_event_id"].clone();
        drop(first);
        for at in (0..MISSED).step_by(BATCH) {
            server.publish(batch(at));
        }
        let frame = {
            let mut one = Ws::subscribed(server.addr, json!({"since": told}));
            one.read_frame(support::wire::deadline()).expect("an event").payload.len() + 4
        };
        let rate_of = |one: &(dyn Fn() + Sync)| {
            let left = AtomicUsize::new(CLIENTS);
            let begin = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..AT_ONCE {
                    scope.spawn(|| {
                        // Relaxed: the count orders nothing else.
                        while left
                            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                            .is_ok()
                        {
                            one();
                        }
                    });
                }
            });
            rate(CLIENTS, begin.elapsed())
        };
        let ours = rate_of(&|| {
            let mut client = Ws::subscribed(server.addr, json!({"since": told}));
            read_frames(&mut client, MISSED);
        });
        // A thread sends prepared answers of the same number of bytes, after one read.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let addr = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            let bytes = vec![b'x'; frame * MISSED];
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client");
                let mut asked = [0; 512];
                if stream.read(&mut asked).is_ok() {
                    let _ = stream.write_all(&bytes);
                }
            }
        });
        let bare = rate_of(&|| {
            let mut stream = TcpStream::connect(addr).expect("it listens");
            stream.write_all(&[0; 300]).expect("it reads");
            let mut chunk = vec![0; 64 * 1024];
            let mut left = frame * MISSED;
            while left > 0 {
                left -= stream.read(&mut chunk).expect("bytes").min(left);
            }
        });
        report(&format!("resume, 1,000 missed each, {shards} shards"), ours, bare, "clients/s");
    }
    println!("  bare: one thread that writes the same bytes, ready-made, after one read\n");
}

/// Returns a number from the environment, or its default: `FANWIRE_PAST_CLIENTS` is the number of clients that resume
/// at the same time, `FANWIRE_PAST_EVENTS` their lag in events.
fn asked_for(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Clients that resume far behind, from the log: the effect on other clients and on memory.
fn past() {
    let (clients, behind) =
        (asked_for("FANWIRE_PAST_CLIENTS", 1_000), asked_for("FANWIRE_PAST_EVENTS", 50_000));
    let folder = Folder::new();
    let redis = Service::start(Kind::Redis);
    for (name, url) in [("files", format!("file://{}", folder.0.display())), ("Redis", redis.url())] {
        let options = [
            "--engine",
            url.as_str(),
            "--bus-capacity",
            "8192",
            "--max-memory-bytes",
            "256MiB",
            "--loops",
            "1",
        ];
        let server = Server::with(&options);
        eventually("it is ready", || http::get(server.addr, "/readyz").status == 200);
        let mut first = Ws::subscribed(server.addr, json!({"event_types": ["first"]}));
        server.publish(r#"{"type":"first"}"#);
        let since = first.event()["event_id"].clone();
        let mut wire = Wire::connect(server.addr);
        for number in (0..behind).step_by(BATCH) {
            wire.send(&http::post_request("/publish", "application/x-ndjson", batch(number).as_bytes()));
            let answer = http::read_response(&mut wire, support::wire::deadline()).expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let followed = || server.metric("fanwire_engine_events_followed_total") > Some(behind as f64);
        eventually("it has followed", followed);
        let quiet = latency_of_others(server.addr);
        let before = server.rss_kib();
        let request = format!(
            "GET /sse?type=task.* HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {}\r\n\r\n",
            since.as_str().expect("an id")
        );
        let begin = Instant::now();
        let readers: Vec<_> = (0..clients)
            .map(|_| {
                let mut stream = TcpStream::connect(server.addr).expect("it listens");
                stream.write_all(request.as_bytes()).expect("it reads");
                // In production these clients would run on other machines, and would not take the server's CPU time.
                let read_all = move || {
                    let _lower = rustix::process::nice(15);
                    read_blocks(&mut stream, behind + 1);
                };
                std::thread::Builder::new().stack_size(64 << 10).spawn(read_all).expect("a thread")
            })
            .collect();
        let busy = latency_of_others(server.addr);
        let during = server.rss_kib();
        for reader in readers {
            reader.join().expect("it read all");
        }
        let time = begin.elapsed();
        let stats: Value = http::get(server.addr, "/api/stats").json();
        report_latency(&format!("{name}: others, while {clients} resume"), busy, quiet);
        println!(
            "{:<44} {:.1} s, {:.0} events/s; resident {} MiB before, {} MiB during; {} held",
            format!("  {behind} events behind each"),
            time.as_secs_f64(),
            rate(clients * behind, time),
            before / 1024,
            during / 1024,
            stats["held_bytes"],
        );
    }
    println!("  bare: the same while nobody resumes\n");
}

/// Reads this many blocks of an event stream. The first one holds the retry time.
fn read_blocks(stream: &mut TcpStream, mut count: usize) {
    let mut chunk = vec![0; 16 << 10];
    let mut last = 0;
    while count > 0 {
        let read = stream.read(&mut chunk).expect("bytes");
        assert!(read > 0, "the stream ended {count} blocks early");
        for byte in &chunk[..read] {
            count -= usize::from(count > 0 && *byte == b'\n' && last == b'\n');
            last = *byte;
        }
    }
}

/// Measures round trips of single events through the node and its log.
fn latency_of_others(addr: SocketAddr) -> (f64, f64) {
    let mut client = Ws::subscribed(addr, json!({"event_types": ["other"]}));
    let mut publisher = Ws::connect(addr);
    let mut times: Vec<f64> = (0..300)
        .map(|_| {
            let begin = Instant::now();
            publisher.send(&json!({"type": "publish", "payload": {"type": "other"}}));
            client.event();
            std::thread::sleep(Duration::from_millis(2));
            begin.elapsed().as_secs_f64() * 1e6 - 2_000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

fn redis_engine() {
    let service = Service::start(Kind::Redis);
    let url = service.url();
    let options = ["--engine", url.as_str()];
    let (a, b) = (ready(&options), ready(&options));
    let ours = throughput(a.addr, b.addr);
    let ours_latency = node_latency(a.addr, b.addr);

    let client = redis::Client::open(url.as_str()).expect("an address");
    let mut writer = client.get_connection().expect("it answers");
    let mut reader = client.get_connection().expect("it answers");
    let read = move |reader: &mut redis::Connection, after: &mut String| -> usize {
        let options = StreamReadOptions::default().count(1000).block(10_000);
        let reply: StreamReadReply =
            reader.xread_options(&["bare"], &[after.as_str()], &options).expect("entries");
        let ids = &reply.keys[0].ids;
        after.clone_from(&ids[ids.len() - 1].id);
        ids.len()
    };
    let begin = Instant::now();
    let mut after = "0-0".to_owned();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for first in (0..EVENTS).step_by(BATCH) {
                let mut pipe = redis::pipe();
                for n in first..first + BATCH {
                    pipe.cmd("XADD")
                        .arg("bare")
                        .arg("MAXLEN")
                        .arg("~")
                        .arg(100_000)
                        .arg("*")
                        .arg("e")
                        .arg(event(n))
                        .ignore();
                }
                pipe.query::<()>(&mut writer).expect("it takes them");
            }
        });
        let mut count = 0;
        while count < EVENTS {
            count += read(&mut reader, &mut after);
        }
    });
    report("Redis: batches of 500, two nodes", ours, rate(EVENTS, begin.elapsed()), "events/s");

    let (tell, came) = channel();
    let thread = std::thread::spawn(move || {
        let mut count = 0;
        while count < SINGLES {
            count += read(&mut reader, &mut after);
            let _ = tell.send(Instant::now());
        }
    });
    let bare = latency(
        |n| {
            let _: String = writer.xadd("bare", "*", &[("e", event(n))]).expect("it takes it");
        },
        &came,
    );
    thread.join().expect("it read");
    report_latency("Redis: single events, node to node", ours_latency, bare);
    println!("  Redis with appendfsync always; bare: XADD in pipelines of 500, and XREAD BLOCK\n");
}

fn nats_engine() {
    let service = Service::start(Kind::Nats);
    let url = service.url();
    let options = ["--engine", url.as_str()];
    let (a, b) = (ready(&options), ready(&options));
    let ours = throughput(a.addr, b.addr);
    let ours_latency = node_latency(a.addr, b.addr);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (context, mut messages) = runtime.block_on(async {
        let client = async_nats::connect(&url).await.expect("it answers");
        let context = async_nats::jetstream::new(client);
        let config = async_nats::jetstream::stream::Config {
            name: "bare".to_owned(),
            subjects: vec!["bare".to_owned()],
            max_messages: 100_000,
            ..Default::default()
        };
        let stream = context.create_stream(config).await.expect("a stream");
        let consumer =
            stream.create_consumer(async_nats::jetstream::consumer::pull::OrderedConfig::default());
        let messages = consumer.await.expect("a reader").messages().await.expect("messages");
        (context, messages)
    });
    let begin = Instant::now();
    let publisher = {
        let context = context.clone();
        runtime.spawn(async move {
            for first in (0..EVENTS).step_by(BATCH) {
                let mut acks = Vec::with_capacity(BATCH);
                for n in first..first + BATCH {
                    acks.push(context.publish("bare", event(n).into()).await.expect("it is sent"));
                }
                for ack in acks {
                    ack.await.expect("it is taken");
                }
            }
        })
    };
    runtime.block_on(async {
        for _ in 0..EVENTS {
            messages.next().await.expect("an event").expect("an event");
        }
    });
    let bare = rate(EVENTS, begin.elapsed());
    runtime.block_on(publisher).expect("it published");
    report("NATS JetStream: batches of 500, two nodes", ours, bare, "events/s");

    let (tell, came) = channel();
    runtime.spawn(async move {
        while let Some(Ok(_)) = messages.next().await {
            if tell.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    let bare = latency(
        |n| {
            let sent = async { context.publish("bare", event(n).into()).await.expect("it is sent").await };
            runtime.block_on(sent).expect("it is taken");
        },
        &came,
    );
    report_latency("NATS JetStream: single events, node to node", ours_latency, bare);
    println!("  bare: publishes acknowledged in batches of 500, and an ordered pull reader\n");
    runtime.shutdown_background();
}

fn file_engine() {
    let memory = ready(&[]);
    let without = throughput(memory.addr, memory.addr);
    let without_latency = node_latency(memory.addr, memory.addr);
    for (name, interval, safe) in [("1 s", "1s", false), ("before each answer", "0", true)] {
        let folder = Folder::new();
        let url = format!("file://{}", folder.0.display());
        let server = ready(&["--engine", &url, "--engine-sync-interval", interval]);
        let ours = throughput(server.addr, server.addr);
        let ours_latency = node_latency(server.addr, server.addr);
        drop(server);
        let mut file = std::fs::File::create(folder.0.join("bare")).expect("a file");
        let begin = Instant::now();
        for first in (0..EVENTS).step_by(BATCH) {
            file.write_all(batch(first).as_bytes()).expect("written");
            if safe {
                file.sync_data().expect("safe");
            }
        }
        let bare = rate(EVENTS, begin.elapsed());
        report(&format!("files, made safe {name}: batches of 500"), ours, bare, "events/s");
        println!(
            "{:<44} fanwire {ours:>10.0}  without {without:>7.0}  events/s  ratio {:.2}",
            "  beside the server without",
            ours / without
        );
        println!(
            "{:<44} fanwire {:>7.0} / {:>7.0}  without {:>4.0} / {:>4.0}  us, p50 / p99",
            "  single events", ours_latency.0, ours_latency.1, without_latency.0, without_latency.1
        );
    }
    println!(
        "  bare: a loop that makes the same batches and writes them, and makes each safe where the log does\n"
    );
}

/// A new folder, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("fanwire-bench-engines-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let all: [(&str, fn()); 7] = [
        ("resume", resume),
        ("past", past),
        ("attach", attach::attach),
        ("attach-crowd", attach::attach_crowd),
        ("redis", redis_engine),
        ("nats", nats_engine),
        ("file", file_engine),
    ];
    for (name, run) in all {
        if asked.is_empty() || asked.iter().any(|one| one == name) {
            run();
        }
    }
}

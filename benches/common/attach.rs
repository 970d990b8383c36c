//! Clients that attach to kept runs: their CPU time beside that of writing the same bytes, and many of them beside live traffic.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use super::support::service::{Kind, Service, free_port};
use super::support::sse::Sse;
use super::support::wire::{Wire, deadline};
use super::support::{Server, eventually, http};
use super::{BATCH, asked_for, rate};

/// Rule of the runs.
const RUNS: [&str; 2] = ["--retain", "by=stream; end=run.finished; match=stream=run-*"];

/// Number of clients that attach to short runs each second.
const ATTACHES_A_SECOND: usize = 1_000;

/// Number of events of a long run, of a short one, and of one that costs little but its connection and its request.
const LONG: usize = 5_000;
const SHORT: usize = 50;
const TINY: usize = 2;

/// Number of clients of each run after the first one.
const NEXT: usize = 3;

/// Number of long runs that are read before: with them the cache of encoded blocks is full, so that the memory of each new block
/// is that of an evicted one. A new process takes pages from the system for its first 16 MiB of blocks.
const BEFORE: usize = 15;

/// Time within which a thread that has nothing to do sleeps. The kernel adds a thread's CPU time then.
const SLEPT: Duration = Duration::from_millis(2);

/// Returns the CPU time of a process so far, in microseconds.
fn cpu_of(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    tasks.flatten().map(|task| cpu_of_task(&task.path())).sum()
}

/// Returns the CPU time of a thread so far, up to when it went to sleep, in microseconds.
fn cpu_of_task(task: &Path) -> f64 {
    let text = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse::<f64>().ok()).unwrap_or(0.0) / 1e3
}

/// Publishes this many runs of so many events, each with its end.
fn publish_runs(addr: SocketAddr, first: usize, runs: usize, events: usize) {
    let mut wire = Wire::connect(addr);
    for run in first..first + runs {
        let token = |n: usize| {
            let delta = format!("{n:0>20}");
            format!(
                "{{\"type\":\"token\",\"stream_id\":\"run-{run}\",\"payload\":{{\"n\":{n},\"delta\":\"{delta}\"}}}}\n"
            )
        };
        let mut lines: Vec<String> = (0..events - 1).map(token).collect();
        lines.push(format!("{{\"type\":\"run.finished\",\"stream_id\":\"run-{run}\",\"payload\":{{}}}}\n"));
        for lines in lines.chunks(BATCH) {
            wire.send(&http::post_request("/publish", "application/x-ndjson", lines.concat().as_bytes()));
            let answer = http::read_response(&mut wire, deadline()).expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
}

/// Reads a run from its start to its end, by which the stream closes, and passes its bytes to `take`.
fn read_run(addr: SocketAddr, run: usize, mut take: impl FnMut(&[u8])) {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    let request = format!("GET /sse?stream=run-{run}&from=start HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let (mut chunk, mut end) = (vec![0; 256 << 10], Vec::new());
    loop {
        let read = stream.read(&mut chunk).expect("bytes");
        if read == 0 {
            let end = String::from_utf8_lossy(&end);
            assert!(end.contains("run.finished"), "run {run} ends with {end}");
            return;
        }
        take(&chunk[..read]);
        end.extend_from_slice(&chunk[read.saturating_sub(800)..read]);
        end.drain(..end.len().saturating_sub(800));
    }
}

/// A thread that accepts a connection, writes a run of ready bytes, and closes.
struct BareWriter {
    addr: SocketAddr,
    runs: Sender<Vec<u8>>,
    /// The thread in /proc.
    thread: PathBuf,
}

impl BareWriter {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let addr = listener.local_addr().expect("bound");
        let (runs, next) = channel::<Vec<u8>>();
        let (name, thread) = channel();
        std::thread::spawn(move || {
            name.send(std::fs::read_link("/proc/thread-self").expect("Linux")).expect("it is read");
            for (run, stream) in next.iter().zip(listener.incoming()) {
                let mut stream = stream.expect("a client");
                for piece in run.chunks(64 << 10) {
                    stream.write_all(piece).expect("it reads");
                }
            }
        });
        Self { addr, runs, thread: Path::new("/proc").join(thread.recv().expect("it runs")) }
    }

    /// Returns the CPU time of writing a run to a client that reads it, in microseconds.
    fn write(&self, run: Vec<u8>) -> f64 {
        let before = cpu_of_task(&self.thread);
        self.runs.send(run).expect("it writes");
        let mut stream = TcpStream::connect(self.addr).expect("it listens");
        let mut chunk = vec![0; 256 << 10];
        while stream.read(&mut chunk).expect("bytes") > 0 {}
        std::thread::sleep(SLEPT);
        cpu_of_task(&self.thread) - before
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measures round trips of single events: by a POST, and back by an event stream.
fn latency_of_stream(addr: SocketAddr) -> (f64, f64) {
    let mut stream = Sse::open(addr, "?stream=other");
    let mut wire = Wire::connect(addr);
    std::thread::sleep(Duration::from_millis(200));
    let mut times: Vec<f64> = (0..500)
        .map(|n| {
            let begin = Instant::now();
            let event = format!("{{\"type\":\"other\",\"stream_id\":\"other\",\"payload\":{{\"n\":{n}}}}}\n");
            wire.send(&http::post_request("/publish", "application/x-ndjson", event.as_bytes()));
            http::read_response(&mut wire, deadline()).expect("an answer");
            stream.event();
            let time = begin.elapsed();
            std::thread::sleep(Duration::from_millis(4));
            time.as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// Reads short runs, 1,000 a second, while others send single events. Prints the latency of the others, and the server's CPU
/// time for each attach.
fn crowd(name: &str, addr: SocketAddr, pid: u32) {
    const READERS: usize = 8;
    let runs = 200;
    publish_runs(addr, 0, runs, SHORT);
    let quiet = latency_of_stream(addr);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let read = AtomicUsize::new(0);
    let (busy, cpu, time) = std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (is_over, read) = (&is_over, &read);
            scope.spawn(move || {
                // Clients on other machines would not take the server's CPU time.
                let _lower = rustix::process::nice(15);
                let begin = Instant::now();
                for n in 0.. {
                    // Relaxed, here and below: a flag and a count on their own.
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let due = Duration::from_secs_f64(n as f64 * READERS as f64 / ATTACHES_A_SECOND as f64);
                    std::thread::sleep(due.saturating_sub(begin.elapsed()));
                    read_run(addr, (n * READERS + reader) % runs, |_| ());
                    read.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let (before, begin) = (cpu_of(pid), Instant::now());
        let busy = latency_of_stream(addr);
        let (cpu, time) = (cpu_of(pid) - before, begin.elapsed());
        is_over.store(true, Ordering::Relaxed);
        (busy, cpu, time)
    });
    let attached = read.into_inner();
    println!(
        "| {name} | {:.0} | {:.0} us | {:.2} / {:.2} ms | {:.2} / {:.2} ms | {:.2} ms |",
        rate(attached, time),
        cpu / attached as f64,
        busy.0 / 1e3,
        busy.1 / 1e3,
        quiet.0 / 1e3,
        quiet.1 / 1e3,
        (busy.1 - quiet.1) / 1e3
    );
}

/// Process of a peer, ended on drop.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the Node server on Redis Streams; `None` if its packages are not installed.
fn node_runs(redis: &Service) -> Option<(Peer, SocketAddr)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/servers/js");
    if !folder.join("node_modules/ioredis").exists() {
        return None;
    }
    let port = free_port();
    let mut command = Command::new("node");
    command.arg(folder.join("runs.js")).arg(port.to_string()).arg(redis.url());
    let peer = Peer(command.stdin(Stdio::null()).spawn().ok()?);
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    eventually("it listens", || TcpStream::connect(addr).is_ok());
    Some((peer, addr))
}

/// Clients that attach to kept runs: the CPU time of the first one and of the next, and many of them beside live traffic.
pub(crate) fn attach() {
    let runs = asked_for("FANWIRE_ATTACH_RUNS", 10);
    let row = |name: &str, addr: SocketAddr, pid: u32| {
        publish_runs(addr, 3_000, runs + BEFORE, LONG);
        publish_runs(addr, 1_000, runs, LONG);
        publish_runs(addr, 2_000, runs, TINY);
        let bare = BareWriter::start();
        let read = |run: usize| {
            let mut bytes = Vec::new();
            let before = cpu_of(pid);
            read_run(addr, run, |read| bytes.extend_from_slice(read));
            std::thread::sleep(SLEPT);
            (bytes, cpu_of(pid) - before)
        };
        let (new_bytes, new): (Vec<_>, Vec<_>) = (3_000..3_000 + runs).map(read).unzip();
        let bytes = new_bytes.iter().map(Vec::len).sum::<usize>() / runs;
        (3_000 + runs..3_000 + runs + BEFORE).for_each(|run| drop(read(run)));
        // The bytes that are written are those of as many reads ago: as cold as the blocks that the server writes.
        let (mut ready, mut writing) = (VecDeque::from(new_bytes), Vec::new());
        // In turn with the reads, because this machine's speed changes by a factor of three within seconds.
        let mut measure = |run: usize| {
            let (bytes, reading) = read(run);
            ready.push_back(bytes);
            writing.push(bare.write(ready.pop_front().unwrap_or_default()));
            reading
        };
        let first: Vec<_> = (1_000..1_000 + runs).map(&mut measure).collect();
        let again: Vec<_> = (0..NEXT).flat_map(|_| 1_000..1_000 + runs).map(measure).collect();
        let (new, first, again, bare) = (median(new), median(first), median(again), median(writing));
        (2_000..2_000 + runs).for_each(|run| drop(read(run)));
        let tiny = median((0..NEXT).flat_map(|_| (2_000..2_000 + runs).map(|run| read(run).1)).collect());
        println!(
            "| {name} | {bytes} | {bare:.0} us | {new:.0} us, {:.1} | {first:.0} us, {:.1} | {again:.0} us, {:.1} | {tiny:.0} us |",
            new / bare,
            first / bare,
            again / bare
        );
    };
    let redis = Service::start(Kind::Redis);
    let memory = Server::with(&RUNS);
    let url = redis.url();
    let engine = Server::with(&[&RUNS[..], &["--engine", &url]].concat());
    eventually("it is ready", || http::get(engine.addr, "/readyz").status == 200);
    let other = Service::start(Kind::Redis);
    let node = node_runs(&other);
    println!(
        "| {LONG} events | bytes | writing them | first attach of a new process, ratio | first attach, ratio | next, ratio | a run of {TINY} |\n|---|---|---|---|---|---|---|"
    );
    row("fanwire", memory.addr, memory.pid());
    row("fanwire, Redis", engine.addr, engine.pid());
    if let Some((peer, addr)) = &node {
        row("Node, Redis Streams", *addr, peer.0.id());
    }
    print_crowd_head();
    crowd("fanwire", memory.addr, memory.pid());
    crowd("fanwire, Redis", engine.addr, engine.pid());
    if let Some((peer, addr)) = &node {
        crowd("Node, Redis Streams", *addr, peer.0.id());
    }
}

/// Many clients that attach beside live traffic, in memory only.
pub(crate) fn attach_crowd() {
    print_crowd_head();
    let memory = Server::with(&RUNS);
    crowd("fanwire", memory.addr, memory.pid());
}

fn print_crowd_head() {
    println!(
        "\n| attaches of {SHORT} events | a second | CPU each | others, p50 / p99 | alone | p99 added |\n|---|---|---|---|---|---|"
    );
}

//! Storms: thousands of clients that connect or resume at the same time while others are served; and heartbeats of idle
//! clients.
//!
//! `storm NAME --pid PID --to HOST:PORT [--ca FILE] [-n CLIENTS] [--others CLIENTS] [--rate EVENTS] [--apart]` runs the storm on
//! a running server and prints a line of JSON. With `--apart` the clients of the storm want other events, which do not come.
//! Otherwise each event is delivered to them, too. `storm pings PORT SECONDS` is the bare loop beside which storms and heartbeats
//! are measured.
//!
//! Always: the clients of the storm run in another process with the lowest priority, so that the measured latency of
//! the others is the server's, not the load's.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const MARK: &[u8] = b"\"due\":";
/// Channel without events.
const APART: &str = "apart";
const DIGITS: usize = 16;
/// Added to each time, so that it has all digits.
const BASE: u64 = 1_000_000_000_000_000;

/// Returns a client's frame; its mask is zero.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0xFE);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// Options of a run.
#[derive(Clone)]
struct Options {
    name: String,
    to: SocketAddr,
    pid: u32,
    ca: Option<String>,
    clients: usize,
    others: usize,
    rate: u64,
    seconds: f64,
    /// Number of past events that each client of the storm requests.
    past: u64,
    /// Whether the clients of the storm subscribe to a channel without events.
    apart: bool,
    /// Priority of the storm's process: 19 is the lowest.
    nice: u64,
}

impl Options {
    fn read(args: &[String]) -> Result<Self> {
        let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
        let number = |name: &str, default: u64| value(name).map_or(Ok(default), |text| text.parse());
        Ok(Self {
            name: args.first().cloned().unwrap_or_default(),
            to: value("--to").ok_or("--to HOST:PORT is missing")?.parse()?,
            pid: number("--pid", 0)? as u32,
            ca: value("--ca").cloned(),
            clients: number("-n", 5000)? as usize,
            others: number("--others", 1000)? as usize,
            rate: number("--rate", 100)?,
            seconds: value("--seconds").map_or(Ok(5.0), |text| text.parse())?,
            past: number("--past", 0)?,
            apart: args.iter().any(|arg| arg == "--apart"),
            nice: number("--nice", 19)?,
        })
    }

    fn tls(&self) -> Result<Option<Arc<ClientConfig>>> {
        let Some(ca) = &self.ca else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        // Every handshake is a full one.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Some(Arc::new(config)))
    }

    /// Returns the message that subscribes a client of the storm.
    fn subscribe(&self) -> Vec<u8> {
        let payload = match self.past {
            0 if self.apart => json!({ "channels": [APART] }),
            0 => json!({}),
            past => json!({ "history": past }),
        };
        masked(1, json!({ "type": "subscribe", "payload": payload }).to_string().as_bytes())
    }
}

/// CPU time of a process's threads, from the scheduler's accounting.
fn cpu(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Progress of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The answer to the upgrade is awaited.
    Upgrading,
    /// The answer to the subscription is awaited.
    Subscribing,
    Subscribed,
    Gone,
}

struct Client {
    tcp: TcpStream,
    tls: Option<ClientConnection>,
    step: Step,
    /// Bytes that were read and not yet processed.
    input: Vec<u8>,
    output: VecDeque<u8>,
    events: u64,
    pings: u64,
}

impl Client {
    fn connect(to: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let tcp = TcpStream::connect(to)?;
        let tls = match tls {
            Some(config) => {
                Some(ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost")?)?)
            }
            None => None,
        };
        let output = UPGRADE.bytes().collect();
        Ok(Self { tcp, tls, step: Step::Upgrading, input: Vec::new(), output, events: 0, pings: 0 })
    }

    /// Writes pending bytes.
    fn push(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            if !tls.is_handshaking() && !self.output.is_empty() {
                tls.writer().write_all(self.output.make_contiguous())?;
                self.output.clear();
            }
            while tls.wants_write() {
                match tls.write_tls(&mut self.tcp) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            return Ok(());
        }
        while !self.output.is_empty() {
            match self.tcp.write(self.output.as_slices().0) {
                Ok(written) => drop(self.output.drain(..written)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads all available bytes into `input`. Returns false at the end.
    fn pull(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            let read = match &mut self.tls {
                None => self.tcp.read(buffer),
                Some(tls) => match tls.reader().read(buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        match tls.read_tls(&mut self.tcp) {
                            Ok(0) => return Ok(false),
                            Ok(_) => {
                                tls.process_new_packets().map_err(io::Error::other)?;
                                self.push()?;
                                continue;
                            }
                            Err(error) => Err(error),
                        }
                    }
                    read => read,
                },
            };
            match read {
                Ok(0) => return Ok(false),
                Ok(read) => self.input.extend_from_slice(&buffer[..read]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Processes the input: upgrades, subscribes, counts events and answers pings. Calls `due` with the time at which
    /// each event was due.
    fn go_on(&mut self, subscribe: &[u8], mut due: impl FnMut(u64)) {
        if self.step == Step::Upgrading {
            let Some(end) = self.input.windows(4).position(|four| four == b"\r\n\r\n") else { return };
            self.input.drain(..end + 4);
            self.output.extend(subscribe);
            self.step = Step::Subscribing;
        }
        let mut at = 0;
        while let Some((opcode, payload)) = frame(&self.input[at..]) {
            let (start, end) = (at + payload.start, at + payload.end);
            let text = &self.input[start..end];
            if opcode == 9 {
                self.pings += 1;
                self.output.extend(masked(10, text));
            } else if self.step == Step::Subscribing {
                self.step = Step::Subscribed;
            } else if let Some(mark) = memmem(text, MARK) {
                let digits = &text[mark + MARK.len()..];
                let digits = std::str::from_utf8(&digits[..DIGITS.min(digits.len())]).unwrap_or_default();
                self.events += 1;
                due(digits.parse().unwrap_or(BASE));
            }
            at = end;
        }
        self.input.drain(..at);
    }
}

fn memmem(text: &[u8], mark: &[u8]) -> Option<usize> {
    text.windows(mark.len()).position(|window| window == mark)
}

/// Returns the opcode and the payload's range of the first whole frame.
fn frame(bytes: &[u8]) -> Option<(u8, std::ops::Range<usize>)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (start, len) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        len => (2, usize::from(len)),
    };
    (bytes.len() >= start + len).then_some((first & 15, start..start + len))
}

/// Clients of one process, and their poll.
struct Crowd {
    poll: Poll,
    clients: Vec<Client>,
    subscribe: Vec<u8>,
    buffer: Vec<u8>,
    events: Events,
}

impl Crowd {
    fn new(subscribe: Vec<u8>) -> Result<Self> {
        let buffer = vec![0; 256 * 1024];
        Ok(Self {
            poll: Poll::new()?,
            clients: Vec::new(),
            subscribe,
            buffer,
            events: Events::with_capacity(1024),
        })
    }

    fn add(&mut self, to: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<()> {
        let mut client = Client::connect(to, tls)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut client.tcp, Token(self.clients.len()), interest)?;
        self.clients.push(client);
        Ok(())
    }

    /// Waits until sockets are ready, and reads and writes them.
    fn turn(&mut self, timeout: Duration, mut due: impl FnMut(u64)) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &self.events {
            let Some(client) = self.clients.get_mut(event.token().0) else { continue };
            if client.step == Step::Gone {
                continue;
            }
            let went = client.push().and_then(|()| client.pull(&mut self.buffer));
            client.go_on(&self.subscribe, &mut due);
            if !went.unwrap_or(false) || client.push().is_err() {
                client.step = Step::Gone;
            }
        }
        Ok(())
    }

    fn pings(&self) -> u64 {
        self.clients.iter().map(|client| client.pings).sum()
    }

    fn count(&self, step: Step) -> usize {
        self.clients.iter().filter(|client| client.step == step).count()
    }
}

/// The process with the clients of the storm: after a line of input they all connect, and a line of JSON reports when
/// all are subscribed and have their past.
fn newcomers(options: &Options) -> Result<()> {
    let tls = options.tls()?;
    let mut crowd = Crowd::new(options.subscribe())?;
    println!("ready");
    io::stdin().lock().read_line(&mut String::new())?;
    let start = Instant::now();
    let patience = Duration::from_secs(120);
    let mut progress = (0, Instant::now());
    for number in 0..options.clients {
        crowd.add(options.to, tls.as_ref())?;
        if number % 64 == 63 {
            crowd.turn(Duration::ZERO, |_| {})?;
        }
    }
    loop {
        crowd.turn(Duration::from_millis(20), |_| {})?;
        let ended = crowd.clients.iter().filter(|client| match client.step {
            Step::Gone => true,
            Step::Subscribed => client.events >= options.past,
            _ => false,
        });
        let ended = ended.count();
        if ended != progress.0 {
            progress = (ended, Instant::now());
        }
        if ended == options.clients
            || progress.1.elapsed() > Duration::from_secs(10)
            || start.elapsed() > patience
        {
            break;
        }
    }
    let events: u64 = crowd.clients.iter().map(|client| client.events).sum();
    println!(
        "{}",
        json!({ "seconds": start.elapsed().as_secs_f64(), "subscribed": crowd.count(Step::Subscribed), "events": events })
    );
    // The clients stay until the parent has measured.
    let (end, ended) = channel();
    std::thread::spawn(move || {
        let _ = io::stdin().lock().read_line(&mut String::new());
        end.send(())
    });
    while ended.try_recv() == Err(TryRecvError::Empty) {
        crowd.turn(Duration::from_millis(20), |_| {})?;
    }
    Ok(())
}

/// The storm's process, as a child of this one.
struct Storm {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Storm {
    fn start(nice: u64) -> Result<Self> {
        let mut command = Command::new("nice");
        command
            .args(["-n", &nice.to_string()])
            .arg(std::env::current_exe()?)
            .arg("newcomers")
            .args(std::env::args().skip(2));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().ok_or("no stdin")?;
        let output = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let (send, lines) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(io::Result::ok).try_for_each(|line| send.send(line))
        });
        Ok(Self { child, input, lines })
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The clients that are connected before the storm, and the publisher.
struct Others {
    crowd: Crowd,
    publisher: Client,
    clock: Instant,
    due: u64,
    every: u64,
    latencies: Vec<u64>,
}

impl Others {
    fn connect(options: &Options) -> Result<Self> {
        let tls = options.tls()?;
        let mut crowd = Crowd::new(masked(1, br#"{"type":"subscribe","payload":{}}"#))?;
        for _ in 0..options.others {
            crowd.add(options.to, tls.as_ref())?;
            crowd.turn(Duration::ZERO, |_| {})?;
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while crowd.count(Step::Subscribed) < options.others {
            crowd.turn(Duration::from_millis(20), |_| {})?;
            if Instant::now() > deadline || crowd.count(Step::Gone) > 0 {
                return Err("the clients could not subscribe".into());
            }
        }
        let mut publisher = Client::connect(options.to, tls.as_ref())?;
        publisher.output.clear();
        let every = 1_000_000_000 / options.rate.max(1);
        Ok(Self { crowd, publisher, clock: Instant::now(), due: 0, every, latencies: Vec::new() })
    }

    fn nanos(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    fn publish(&mut self, due: u64) -> Result<()> {
        let due = BASE + due;
        let pad = "x".repeat(90);
        let line = format!(r#"{{"type":"bench.event","payload":{{"due":{due},"pad":"{pad}"}}}}"#);
        let request = format!(
            "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{line}",
            line.len()
        );
        self.publisher.output.extend(request.bytes());
        self.publisher.push()?;
        // Answers are ignored.
        self.publisher.pull(&mut self.crowd.buffer)?;
        self.publisher.push()?;
        self.publisher.input.clear();
        Ok(())
    }

    /// Publishes and reads until `end` returns true. Returns the latencies in microseconds, sorted, and the server's
    /// CPU time.
    fn serve(&mut self, pid: u32, mut end: impl FnMut() -> bool) -> Result<(Vec<u64>, Duration, Duration)> {
        self.latencies.clear();
        let (start, before) = (Instant::now(), cpu(pid));
        self.due = self.nanos();
        while !end() {
            while self.due <= self.nanos() {
                self.publish(self.due)?;
                self.due += self.every;
            }
            let timeout = Duration::from_nanos(self.due.saturating_sub(self.nanos()).min(5_000_000));
            let (clock, latencies) = (self.clock, &mut self.latencies);
            self.crowd.turn(timeout, |due| {
                latencies.push((clock.elapsed().as_nanos() as u64).saturating_sub(due - BASE) / 1000);
            })?;
            self.publisher.push()?;
        }
        let mut latencies = std::mem::take(&mut self.latencies);
        latencies.sort_unstable();
        Ok((latencies, cpu(pid).saturating_sub(before), start.elapsed()))
    }
}

fn percentile(sorted: &[u64], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(0) as f64 / 1000.0
}

fn storm(options: &Options) -> Result<()> {
    let mut others = Others::connect(options)?;
    if options.past > 0 {
        // The past that the clients of the storm will request.
        let mut left = options.past + 10;
        let rate = std::mem::replace(&mut others.every, 200_000);
        others.serve(options.pid, || {
            left = left.saturating_sub(1);
            left == 0
        })?;
        let until = Instant::now() + Duration::from_millis(500);
        others.serve(options.pid, || Instant::now() > until)?;
        others.every = rate;
    }
    let mut storm = Storm::start(options.nice)?;
    storm.lines.recv_timeout(Duration::from_secs(30))?;
    let until = Instant::now() + Duration::from_secs_f64(options.seconds);
    let (calm, calm_cpu, calm_time) = others.serve(options.pid, || Instant::now() > until)?;
    storm.input.write_all(b"go\n")?;
    storm.input.flush()?;
    let mut report = None;
    let (stormy, cpu, time) = others.serve(options.pid, || {
        report = storm.lines.try_recv().ok();
        report.is_some()
    })?;
    let report: serde_json::Value = serde_json::from_str(&report.unwrap_or_default())?;
    // Events go on with all clients connected.
    let until = Instant::now() + Duration::from_secs_f64(options.seconds / 2.0);
    let (after, ..) = others.serve(options.pid, || Instant::now() > until)?;
    let usual = calm_cpu.as_secs_f64() / calm_time.as_secs_f64() * time.as_secs_f64();
    let own = cpu.as_secs_f64() - usual;
    println!(
        "{}",
        json!({
            "storm": options.name, "clients": options.clients, "others": options.others, "rate": options.rate,
            "newcomers": report, "cpu_us_per_client": own * 1e6 / options.clients.max(1) as f64,
            "cpu_us_per_event": own * 1e6 / (options.past.max(1) * options.clients.max(1) as u64) as f64,
            "calm": { "p50_ms": percentile(&calm, 50), "p99_ms": percentile(&calm, 99), "events": calm.len() },
            "stormy": { "p50_ms": percentile(&stormy, 50), "p99_ms": percentile(&stormy, 99),
                        "max_ms": percentile(&stormy, 100), "events": stormy.len() },
            "after": { "p50_ms": percentile(&after, 50), "p99_ms": percentile(&after, 99), "events": after.len() },
        })
    );
    Ok(())
}

/// Idle clients that answer pings: CPU of the server for each ping.
fn heartbeats(options: &Options) -> Result<()> {
    let tls = options.tls()?;
    let mut crowd = Crowd::new(masked(1, br#"{"type":"subscribe","payload":{}}"#))?;
    for _ in 0..options.clients {
        crowd.add(options.to, tls.as_ref())?;
        crowd.turn(Duration::ZERO, |_| {})?;
    }
    serve(&mut crowd, 3.0)?;
    let (before, pings) = (cpu(options.pid), crowd.pings());
    serve(&mut crowd, options.seconds)?;
    let (used, pings) = (cpu(options.pid).saturating_sub(before), crowd.pings() - pings);
    println!(
        "{}",
        json!({
            "storm": "heartbeats", "clients": options.clients, "subscribed": crowd.count(Step::Subscribed),
            "pings": pings, "cpu_us_per_ping": used.as_secs_f64() * 1e6 / pings.max(1) as f64,
            "cpu_ms_per_second": used.as_secs_f64() * 1e3 / options.seconds,
        })
    );
    Ok(())
}

fn serve(crowd: &mut Crowd, seconds: f64) -> Result<()> {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < until {
        crowd.turn(Duration::from_millis(20), |_| {})?;
    }
    Ok(())
}

/// A client of the bare loop.
struct BareClient {
    tcp: TcpStream,
    /// Number of its inputs so far.
    inputs: u32,
    /// Whether it receives events.
    listens: bool,
}

/// The bare loop: answers a first input with an upgrade and a second one with an ack, writes the body of each POST to all clients
/// that did not subscribe apart, and pings all clients at an interval. Parses nothing else.
fn pings(port: u16, seconds: f64) -> Result<()> {
    let listener = StdListener::bind(("127.0.0.1", port))?;
    listener.set_nonblocking(true)?;
    let mut listener = mio::net::TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, Token(usize::MAX), Interest::READABLE)?;
    let mut clients: Vec<BareClient> = Vec::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 65536];
    // A tenth of the clients is pinged at each tenth of the interval.
    let (mut next, step) = (Instant::now(), Duration::from_secs_f64(seconds / 10.0));
    let mut part = 0;
    loop {
        match poll.poll(&mut events, Some(next.saturating_duration_since(Instant::now()))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            if event.token() == Token(usize::MAX) {
                while let Ok((mut tcp, _)) = listener.accept() {
                    poll.registry().register(&mut tcp, Token(clients.len()), Interest::READABLE)?;
                    tcp.set_nodelay(true)?;
                    clients.push(BareClient { tcp, inputs: 0, listens: false });
                }
                continue;
            }
            serve_bare(&mut clients, event.token().0, &mut buffer);
        }
        if Instant::now() >= next {
            next += step;
            for client in clients.iter_mut().skip(part).step_by(10).filter(|client| client.inputs > 1) {
                let _ = client.tcp.write(&[0x89, 0]);
            }
            part = (part + 1) % 10;
        }
    }
}

/// Reads and answers one input of a client of the bare loop.
fn serve_bare(clients: &mut [BareClient], index: usize, buffer: &mut [u8]) {
    let client = &mut clients[index];
    let Ok(len @ 1..) = client.tcp.read(buffer) else { return };
    let mut input = &buffer[..len];
    if input.starts_with(b"POST") {
        let _ = client.tcp.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        // A read may have several requests.
        while let Some(head) = memmem(input, b"\r\n\r\n") {
            let rest = &input[head + 4..];
            let end = memmem(rest, b"POST").unwrap_or(rest.len());
            let mut frame = vec![0x81, 126];
            frame.extend_from_slice(&(end as u16).to_be_bytes());
            frame.extend_from_slice(&rest[..end]);
            for client in clients.iter_mut().filter(|client| client.listens) {
                let _ = client.tcp.write(&frame);
            }
            input = &rest[end..];
        }
        return;
    }
    client.inputs += 1;
    match client.inputs {
        1 => drop(client.tcp.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")),
        2 => {
            client.listens = memmem(input, APART.as_bytes()).is_none();
            let _ = client.tcp.write(b"\x81\x02{}");
        }
        _ => {}
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.first().map(String::as_str) {
        Some("pings") => {
            let port = args.get(1).and_then(|port| port.parse().ok()).unwrap_or(0);
            pings(port, args.get(2).and_then(|seconds| seconds.parse().ok()).unwrap_or(10.0))
        }
        Some("newcomers") => Options::read(&args).and_then(|options| newcomers(&options)),
        Some("heartbeats") => Options::read(&args).and_then(|options| heartbeats(&options)),
        Some("storm") => Options::read(&args).and_then(|options| storm(&options)),
        _ => Err("storm storm|heartbeats|pings: see src/bin/storm.rs".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

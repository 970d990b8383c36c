//! The clients and the publisher of a run, on one thread. Imports nothing of ours.
//!
//! Always: every client is counted for itself; what is read is only searched for the events' marks, so the load
//! costs less than what it loads.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::process::Process;

/// How the clients of a run listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Transport {
    Ws,
    Sse,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Ws { "ws" } else { "sse" })
    }
}

/// What to do.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) address: String,
    pub(super) connections: usize,
    pub(super) transport: Transport,
    pub(super) rate: u64,
    pub(super) burst: u64,
    pub(super) payload: usize,
    pub(super) filters: usize,
    pub(super) sleepers: usize,
    pub(super) time: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) published: u64,
    pub(super) expected: u64,
    pub(super) delivered: u64,
    pub(super) gaps: u64,
    pub(super) missed: u64,
    /// Microseconds from when an event was due to when it was read.
    pub(super) latency: Histogram<u64>,
    pub(super) elapsed: Duration,
    pub(super) cpu: Option<Duration>,
}

/// Stands in every payload, before the time in nanoseconds at which the event was due, 16 digits.
const MARK: &[u8] = b"\"due\":";
const DIGITS: usize = 16;
const GAP: &[u8] = b"\"missed\":";
const GAP_DIGITS: usize = 12;

struct Client {
    socket: TcpStream,
    sleeps: bool,
    /// The end of what was read, where a mark may be cut.
    tail: Vec<u8>,
}

/// Connected clients and a publisher.
pub(super) struct Load {
    poll: Poll,
    clients: Vec<Client>,
    publisher: TcpStream,
    outbox: VecDeque<u8>,
    clock: Instant,
    buffer: Vec<u8>,
    delivered: u64,
    gaps: u64,
    missed: u64,
    latency: Histogram<u64>,
}

const PUBLISHER: Token = Token(usize::MAX);

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

fn masked_text(text: &str) -> Vec<u8> {
    // A zero mask leaves the bytes as they are, and is as good as any for a server that unmasks.
    let mut frame = vec![0x81];
    match text.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0xFE);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// Reads until `end` has come; blocking, with the limit of the socket.
fn read_until(socket: &mut std::net::TcpStream, end: &[u8]) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut byte = [0; 1];
    while !all.ends_with(end) {
        if socket.read(&mut byte)? == 0 {
            return Err(invalid("the server closed the connection"));
        }
        all.push(byte[0]);
    }
    Ok(all)
}

fn connect_client(plan: &Plan, number: usize) -> io::Result<std::net::TcpStream> {
    let mut socket = std::net::TcpStream::connect(&plan.address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let kind = format!("bench.{}", number % plan.filters);
    let host = &plan.address;
    let request = match plan.transport {
        Transport::Ws => format!(
            "GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZmFud2lyZSBiZW5jaCEhIQ==\r\n\r\n"
        ),
        Transport::Sse => format!("GET /sse?type={kind} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    };
    socket.write_all(request.as_bytes())?;
    let head = read_until(&mut socket, b"\r\n\r\n")?;
    let status = head.get(9..12).unwrap_or_default();
    match plan.transport {
        Transport::Ws if status == b"101" => {
            let subscribe = format!(r#"{{"type":"subscribe","payload":{{"event_types":["{kind}"]}}}}"#);
            socket.write_all(&masked_text(&subscribe))?;
            read_until(&mut socket, b"}")?;
        }
        Transport::Sse if status == b"200" => {
            read_until(&mut socket, b"\n\n")?;
        }
        _ => return Err(invalid(format!("refused: {}", String::from_utf8_lossy(&head)))),
    }
    Ok(socket)
}

impl Load {
    /// Connects and subscribes every client, one after the other. Blocks.
    pub(super) fn connect(plan: &Plan) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut clients = Vec::with_capacity(plan.connections);
        for number in 0..plan.connections {
            let socket = connect_client(plan, number)?;
            socket.set_nonblocking(true)?;
            let mut socket = TcpStream::from_std(socket);
            let sleeps = number % 100 < plan.sleepers;
            if !sleeps {
                poll.registry().register(&mut socket, Token(number), Interest::READABLE)?;
            }
            clients.push(Client { socket, sleeps, tail: Vec::new() });
        }
        let address = plan.address.to_socket_addrs()?.next().ok_or_else(|| invalid("no such address"))?;
        let publisher = std::net::TcpStream::connect(address)?;
        publisher.set_nodelay(true)?;
        publisher.set_nonblocking(true)?;
        let mut publisher = TcpStream::from_std(publisher);
        poll.registry().register(&mut publisher, PUBLISHER, Interest::READABLE | Interest::WRITABLE)?;
        let latency = Histogram::new_with_bounds(1, 600_000_000, 3).map_err(|e| invalid(e.to_string()))?;
        Ok(Self {
            poll,
            clients,
            publisher,
            outbox: VecDeque::new(),
            clock: Instant::now(),
            buffer: vec![0; 1 << 20],
            delivered: 0,
            gaps: 0,
            missed: 0,
            latency,
        })
    }

    fn nanos(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Publishes by the plan, and reads until everything came or two seconds bring nothing. Blocks.
    pub(super) fn run(&mut self, plan: &Plan, process: Option<&Process>) -> io::Result<Outcome> {
        let mut events = Events::with_capacity(1024);
        let awake: Vec<u64> = (0..plan.filters)
            .map(|kind| {
                let wanting = self.clients.iter().skip(kind).step_by(plan.filters);
                wanting.filter(|client| !client.sleeps).count() as u64
            })
            .collect();
        let cpu_before = process.and_then(Process::cpu);
        let start = self.nanos();
        let end = start + plan.time.as_nanos() as u64;
        let interval = 1_000_000_000 * plan.burst / plan.rate;
        let (mut due, mut published, mut expected) = (start, 0u64, 0u64);
        let mut last_came = Instant::now();
        let mut finished = start;
        let pad = "x".repeat(plan.payload.saturating_sub(MARK.len() + DIGITS + 12));
        loop {
            let now = self.nanos();
            while due <= now && due < end {
                let mut body = String::new();
                for _ in 0..plan.burst {
                    let kind = published as usize % plan.filters;
                    // Writing to a String cannot fail.
                    let _ = writeln!(
                        body,
                        "{{\"type\":\"bench.{kind}\",\"payload\":{{\"due\":{due:016},\"pad\":\"{pad}\"}}}}"
                    );
                    published += 1;
                    expected += awake[kind];
                }
                // A number may not begin with a zero.
                let body = body.replace("\"due\":0", "\"due\":1");
                let head = format!(
                    "POST /publish HTTP/1.1\r\nHost: bench\r\nContent-Type: application/x-ndjson\r\n\
                     Content-Length: {}\r\n\r\n",
                    body.len()
                );
                self.outbox.extend(head.as_bytes());
                self.outbox.extend(body.as_bytes());
                due += interval;
            }
            self.publish()?;
            let timeout = if due < end {
                Duration::from_nanos(due.saturating_sub(self.nanos()))
            } else {
                Duration::from_millis(10)
            };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let before = self.delivered;
            for event in &events {
                match event.token() {
                    PUBLISHER => self.publisher_ready()?,
                    Token(number) => self.read(number)?,
                }
            }
            if self.delivered != before {
                last_came = Instant::now();
                finished = self.nanos();
            }
            let all = self.delivered >= expected || last_came.elapsed() > Duration::from_secs(2);
            if due >= end && self.outbox.is_empty() && all {
                break;
            }
        }
        let cpu = cpu_before
            .zip(process.and_then(Process::cpu))
            .map(|(before, after)| after.saturating_sub(before));
        Ok(Outcome {
            published,
            expected,
            delivered: self.delivered,
            gaps: self.gaps,
            missed: self.missed,
            latency: self.latency.clone(),
            elapsed: Duration::from_nanos(finished.max(end) - start),
            cpu,
        })
    }

    fn publish(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            let (front, _) = self.outbox.as_slices();
            match self.publisher.write(front) {
                Ok(written) => drop(self.outbox.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn publisher_ready(&mut self) -> io::Result<()> {
        loop {
            match self.publisher.read(&mut self.buffer) {
                Ok(0) => return Err(invalid("the server closed the publisher's connection")),
                Ok(read) if self.buffer[..read].starts_with(b"HTTP/1.1 200") => {}
                // An answer may be cut anywhere; a refusal is told by its first line.
                Ok(read) if self.buffer[..read].starts_with(b"HTTP/1.1") => {
                    return Err(invalid(String::from_utf8_lossy(&self.buffer[..read])));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.publish()
    }

    fn read(&mut self, number: usize) -> io::Result<()> {
        loop {
            let client = &mut self.clients[number];
            let kept = client.tail.len();
            self.buffer[..kept].copy_from_slice(&client.tail);
            match client.socket.read(&mut self.buffer[kept..]) {
                Ok(0) => return Err(invalid("the server closed a client's connection")),
                Ok(read) => self.count(number, kept + read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Counts the marks in the first `len` bytes of the buffer.
    fn count(&mut self, number: usize, len: usize) {
        let now = self.nanos();
        let bytes = &self.buffer[..len];
        let mut done = 0;
        for at in memchr::memmem::find_iter(bytes, MARK) {
            let digits = at + MARK.len()..at + MARK.len() + DIGITS;
            let Some(digits) = bytes.get(digits.clone()).map(|d| (d, digits.end)) else { break };
            // The first digit only keeps a zero away.
            let due = digits.0[1..].iter().fold(0, |n, d| n * 10 + u64::from(d.wrapping_sub(b'0')));
            self.latency.saturating_record((now.saturating_sub(due) / 1000).max(1));
            self.delivered += 1;
            done = digits.1;
        }
        for at in memchr::memmem::find_iter(&bytes[..len.saturating_sub(GAP_DIGITS)], GAP) {
            let digits = bytes[at + GAP.len()..].iter().take_while(|d| d.is_ascii_digit());
            self.missed += digits.fold(0, |n, d| n * 10 + u64::from(d - b'0'));
            self.gaps += 1;
            done = done.max(at + GAP.len());
        }
        let keep = (len - done).min(MARK.len() + DIGITS - 1);
        let tail = &mut self.clients[number].tail;
        tail.clear();
        tail.extend_from_slice(&self.buffer[len - keep..len]);
    }
}

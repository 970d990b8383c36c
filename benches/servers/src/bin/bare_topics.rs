//! The kernel's cost if each client has its own topics: a loop with a table from topic to sockets.
//!
//! `bare-topics each|together|uring PORT [BYTES]`. A line of the publisher, a WebSocket message to /publish, is `TOPIC
//! PAYLOAD`. `together` puts frames into a buffer for each client and makes one `send` for each client and read of the
//! publisher; `each` makes one for each event and client; `uring` makes the sends of `together` as one io_uring
//! submission. There is no HTTP except the upgrade and no JSON, and nothing is checked or retained. BYTES pads each
//! frame to a size.

#[path = "../wire.rs"]
mod wire;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use wire::{SEND_FLAGS, STREAM, UPGRADE, frame};

const LISTENER: Token = Token(usize::MAX);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    New,
    Ws,
    Sse,
    Publisher,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Each,
    Together,
    Uring,
}

struct Client {
    socket: TcpStream,
    kind: Kind,
    /// Start of an incomplete message.
    input: Vec<u8>,
    /// Frames from the current read of the publisher, and bytes that the socket has not accepted.
    out: Vec<u8>,
    /// Whether the socket was full.
    is_blocked: bool,
    is_dirty: bool,
}

impl Client {
    fn flush(&mut self) {
        self.is_dirty = false;
        if self.is_blocked {
            return;
        }
        let written = self.socket.write(&self.out).unwrap_or(0);
        self.sent(written);
    }

    fn sent(&mut self, written: usize) {
        self.is_blocked = written < self.out.len();
        self.out.drain(..written);
    }
}

struct Loop {
    mode: Mode,
    /// Minimum size of a frame, in bytes.
    bytes: usize,
    clients: Vec<Option<Client>>,
    /// By topic: the clients' numbers.
    table: Vec<Vec<u32>>,
    dirty: Vec<u32>,
    ring: IoUring,
}

/// Splits off the first message of a client, whose mask is zero: its payload and its total length.
fn message(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (len, head) = match bytes.get(1)? & 0x7F {
        126 => (usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])), 8),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 14),
        len => (usize::from(len), 6),
    };
    Some((bytes.get(head..head + len)?, head + len))
}

/// Reads the topics of `GET /ws?keys=1,2 HTTP/1.1`.
fn topics(head: &[u8]) -> Vec<usize> {
    let line = String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next().unwrap_or_default());
    let target = line.split(' ').nth(1).unwrap_or_default();
    let list = target.split_once("keys=").map_or("", |(_, list)| list);
    list.split(',').filter_map(|topic| topic.parse().ok()).collect()
}

impl Loop {
    fn publish(&mut self, line: &[u8], frames: &mut [Vec<u8>; 2]) {
        let Some(at) = line.iter().position(|byte| *byte == b' ') else { return };
        let topic = line[..at].iter().fold(0, |n, d| n * 10 + usize::from(d.wrapping_sub(b'0')));
        let line = &line[at + 1..];
        let Some(members) = self.table.get(topic) else { return };
        let mut is_made = [false; 2];
        for number in members {
            let Some(client) = &mut self.clients[*number as usize] else { continue };
            let at = usize::from(client.kind == Kind::Sse);
            if !std::mem::replace(&mut is_made[at], true) {
                frames[at].clear();
                frame(line, client.kind == Kind::Sse, self.bytes, &mut frames[at]);
            }
            client.out.extend_from_slice(&frames[at]);
            if !std::mem::replace(&mut client.is_dirty, true) {
                self.dirty.push(*number);
            }
        }
        if self.mode == Mode::Each {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.mode == Mode::Uring {
            return self.submit();
        }
        for number in self.dirty.drain(..) {
            if let Some(client) = &mut self.clients[number as usize] {
                client.flush();
            }
        }
    }

    /// Sends to all clients with pending frames, a full queue in each submission.
    fn submit(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        for part in dirty.chunks(1024) {
            let mut under_way = 0;
            for number in part {
                let Some(client) = &mut self.clients[*number as usize] else { continue };
                client.is_dirty = false;
                if client.is_blocked {
                    continue;
                }
                let (fd, bytes) = (types::Fd(client.socket.as_raw_fd()), &client.out);
                let send = opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32).flags(SEND_FLAGS);
                let send = send.build().user_data(u64::from(*number));
                // SAFETY: `out` is not touched before its completion: all are awaited below.
                unsafe { self.ring.submission().push(&send) }.expect("a queue as long as a part");
                under_way += 1;
            }
            self.ring.submit_and_wait(under_way).expect("a submission");
            for entry in self.ring.completion() {
                if let Some(client) = &mut self.clients[entry.user_data() as usize] {
                    client.sent(usize::try_from(entry.result()).unwrap_or(0));
                }
            }
        }
        self.dirty = dirty;
        self.dirty.clear();
    }

    /// Reads all available input. Returns false if the client has disconnected.
    fn input(&mut self, number: usize, buffer: &mut [u8], frames: &mut [Vec<u8>; 2]) -> bool {
        loop {
            let Some(client) = &mut self.clients[number] else { return false };
            let read = match client.socket.read(buffer) {
                Ok(0) => return false,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            };
            match client.kind {
                Kind::New => {
                    client.input.extend_from_slice(&buffer[..read]);
                    self.open(number);
                }
                Kind::Publisher => {
                    let mut input = std::mem::take(&mut client.input);
                    input.extend_from_slice(&buffer[..read]);
                    let mut done = 0;
                    while let Some((line, len)) = message(&input[done..]) {
                        self.publish(line, frames);
                        done += len;
                    }
                    input.drain(..done);
                    self.flush();
                    if let Some(client) = &mut self.clients[number] {
                        client.input = input;
                    }
                }
                Kind::Ws | Kind::Sse => {}
            }
        }
    }

    /// Answers a request, if its head is whole.
    fn open(&mut self, number: usize) {
        let Some(client) = &mut self.clients[number] else { return };
        if !client.input.ends_with(b"\r\n\r\n") {
            return;
        }
        let head = std::mem::take(&mut client.input);
        (client.kind, client.out) = match &head {
            head if head.starts_with(b"GET /publish") => (Kind::Publisher, UPGRADE.into()),
            head if head.starts_with(b"GET /ws") => (Kind::Ws, UPGRADE.into()),
            _ => (Kind::Sse, STREAM.into()),
        };
        client.flush();
        client.out = Vec::new();
        if client.kind == Kind::Publisher {
            return;
        }
        for topic in topics(&head) {
            if self.table.len() <= topic {
                self.table.resize(topic + 1, Vec::new());
            }
            self.table[topic].push(number as u32);
        }
    }
}

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let mode = match args.get(1).map(String::as_str) {
        Some("each") => Mode::Each,
        Some("uring") => Mode::Uring,
        _ => Mode::Together,
    };
    let port: u16 = args.get(2).and_then(|port| port.parse().ok()).unwrap_or(8080);
    let bytes = args.get(3).and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 1 << 18];
    let mut frames = [Vec::new(), Vec::new()];
    let ring = IoUring::new(1024)?;
    let (clients, table, dirty) = (Vec::new(), Vec::new(), Vec::new());
    let mut all = Loop { mode, bytes, clients, table, dirty, ring };
    let mut free = Vec::new();
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut socket, _)) = listener.accept() {
                    socket.set_nodelay(true)?;
                    let number = free.pop().unwrap_or_else(|| {
                        all.clients.push(None);
                        all.clients.len() - 1
                    });
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut socket, Token(number), interest)?;
                    let (input, out) = (Vec::new(), Vec::new());
                    let client =
                        Client { socket, kind: Kind::New, input, out, is_blocked: false, is_dirty: false };
                    all.clients[number] = Some(client);
                }
                continue;
            }
            let number = event.token().0;
            if event.is_writable()
                && let Some(client) = &mut all.clients[number]
                && client.is_blocked
            {
                client.is_blocked = false;
                client.flush();
            }
            if event.is_readable() && !all.input(number, &mut buffer, &mut frames) {
                all.clients[number] = None;
                for members in &mut all.table {
                    members.retain(|member| *member as usize != number);
                }
                free.push(number);
            }
        }
    }
}

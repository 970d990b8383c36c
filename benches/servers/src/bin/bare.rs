//! The kernel's cost alone: loops that parse as little as possible and write the same bytes to every client.
//!
//! `bare each PORT`: one write for each event and client. `bare together PORT`: one contiguous write for each
//! burst and client. `bare uring PORT`: like `each` or, with bursts, like `together`, but the writes of a burst
//! go to the kernel as one io_uring submission. `bare sendfile PORT`, `bare tee PORT`: like `together`, but a
//! burst's bytes are put once into a file in memory, or into a pipe, and sockets get its pages. `bare … PORT
//! BYTES`: pads each event's frame to this size, so that it writes as much as a server with larger frames.

#[path = "../wire.rs"]
mod wire;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use io_uring::{IoUring, opcode, types};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice, tee};
use wire::{SEND_FLAGS, STREAM, UPGRADE, frame};

const LISTENER: Token = Token(usize::MAX);

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    New,
    Ws,
    Sse,
}

struct Client {
    socket: TcpStream,
    kind: Kind,
    /// Incomplete input of a publisher.
    input: Vec<u8>,
    /// Bytes that the socket has not accepted.
    rest: Vec<u8>,
}

impl Client {
    fn write(&mut self, bytes: &[u8]) {
        if !self.rest.is_empty() {
            return self.rest.extend_from_slice(bytes);
        }
        let written = self.socket.write(bytes).unwrap_or(0);
        self.rest.extend_from_slice(&bytes[written..]);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Each,
    Together,
    Uring,
    Sendfile,
    Tee,
}

/// A burst in pages that sockets share.
struct Pages {
    file: File,
    held: (OwnedFd, OwnedFd),
    sent: (OwnedFd, OwnedFd),
    nowhere: File,
}

impl Pages {
    fn new() -> io::Result<Self> {
        let pipe = || -> io::Result<_> {
            let pipe = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
            fcntl_setpipe_size(&pipe.0, 256 << 10)?;
            Ok(pipe)
        };
        let file = memfd_create("burst", MemfdFlags::CLOEXEC)?.into();
        let nowhere = File::options().write(true).open("/dev/null")?;
        Ok(Self { file, held: pipe()?, sent: pipe()?, nowhere })
    }

    fn put(&self, mode: Mode, burst: &[u8]) -> io::Result<()> {
        if mode == Mode::Tee {
            assert_eq!(rustix::io::write(&self.held.1, burst)?, burst.len(), "a pipe takes a burst");
            return Ok(());
        }
        // New pages, because sockets may still hold the old ones.
        self.file.set_len(0)?;
        self.file.write_all_at(burst, 0)
    }

    /// Returns the number of bytes that a socket accepted.
    fn send(&self, mode: Mode, len: usize, socket: &TcpStream) -> usize {
        if mode == Mode::Sendfile {
            return sendfile(socket, &self.file, Some(&mut 0), len).unwrap_or(0);
        }
        let shared = tee(&self.held.0, &self.sent.1, len, SpliceFlags::NONBLOCK);
        assert_eq!(shared, Ok(len), "a pipe takes a burst");
        let sent = splice(&self.sent.0, None, socket, None, len, SpliceFlags::NONBLOCK).unwrap_or(0);
        self.drain(&self.sent.0, len - sent);
        sent
    }

    fn drain(&self, pipe: &OwnedFd, mut len: usize) {
        while len > 0 {
            len -= splice(pipe, None, &self.nowhere, None, len, SpliceFlags::NONBLOCK).expect("a pipe");
        }
    }
}

struct Loop {
    mode: Mode,
    /// Minimum size of a frame's content, in bytes.
    bytes: usize,
    clients: Vec<Option<Client>>,
    /// Numbers of the clients that get events.
    members: Vec<usize>,
    ring: IoUring,
    pages: Pages,
}

impl Loop {
    fn publish(&mut self, lines: &[u8]) {
        for kind in [Kind::Ws, Kind::Sse] {
            let wants = |client: &Option<Client>| client.as_ref().is_some_and(|client| client.kind == kind);
            if !self.members.iter().any(|&number| wants(&self.clients[number])) {
                continue;
            }
            let mut bursts = vec![Vec::new()];
            for line in lines.split(|byte| *byte == b'\n') {
                if self.mode == Mode::Each && !bursts[0].is_empty() {
                    bursts.push(Vec::new());
                }
                let last = bursts.len() - 1;
                frame(line, kind == Kind::Sse, self.bytes, &mut bursts[last]);
            }
            for burst in bursts {
                if self.mode == Mode::Uring {
                    self.submit(&burst, kind);
                    continue;
                }
                let shares = matches!(self.mode, Mode::Sendfile | Mode::Tee);
                if shares {
                    self.pages.put(self.mode, &burst).expect("memory");
                }
                for &number in &self.members {
                    let client = self.clients[number].as_mut().filter(|client| client.kind == kind);
                    match client {
                        Some(client) if shares && client.rest.is_empty() => {
                            let sent = self.pages.send(self.mode, burst.len(), &client.socket);
                            client.rest.extend_from_slice(&burst[sent..]);
                        }
                        Some(client) => client.write(&burst),
                        None => {}
                    }
                }
                if self.mode == Mode::Tee {
                    self.pages.drain(&self.pages.held.0, burst.len());
                }
            }
        }
    }

    /// Sends to every member, a full queue in each submission, and records the bytes that were not accepted.
    fn submit(&mut self, burst: &[u8], kind: Kind) {
        let mut under_way = 0;
        let all = self.members.clone();
        for (at, &number) in all.iter().enumerate() {
            let Some(client) = &mut self.clients[number] else { continue };
            if client.kind != kind {
                continue;
            }
            if !client.rest.is_empty() {
                client.rest.extend_from_slice(burst);
                continue;
            }
            let send =
                opcode::Send::new(types::Fd(client.socket.as_raw_fd()), burst.as_ptr(), burst.len() as u32)
                    .flags(SEND_FLAGS)
                    .build()
                    .user_data(number as u64);
            // SAFETY: `burst` outlives the submission: all completions are awaited below before it is dropped.
            while unsafe { self.ring.submission().push(&send) }.is_err() {
                self.complete(burst, &mut under_way);
            }
            under_way += 1;
            if at + 1 == all.len() {
                self.complete(burst, &mut under_way);
            }
        }
        self.complete(burst, &mut under_way);
    }

    fn complete(&mut self, burst: &[u8], under_way: &mut usize) {
        if *under_way == 0 {
            return;
        }
        self.ring.submit_and_wait(*under_way).expect("a submission");
        let done: Vec<(u64, i32)> =
            self.ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (number, result) in done {
            *under_way -= 1;
            if let Some(client) = &mut self.clients[number as usize] {
                let written = usize::try_from(result).unwrap_or(0);
                client.rest.extend_from_slice(&burst[written..]);
            }
        }
    }

    /// Reads all available input. Returns false if the client has disconnected.
    fn input(&mut self, number: usize, buffer: &mut [u8]) -> bool {
        loop {
            let Some(client) = &mut self.clients[number] else { return false };
            let read = match client.socket.read(buffer) {
                Ok(0) => return false,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            };
            if client.kind != Kind::New {
                continue;
            }
            client.input.extend_from_slice(&buffer[..read]);
            while let Some(client) = &mut self.clients[number] {
                let text = &client.input;
                let Some(head) = text.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4) else {
                    break;
                };
                if text.starts_with(b"GET /ws") || text.starts_with(b"GET /sse") {
                    client.kind = if text.starts_with(b"GET /ws") { Kind::Ws } else { Kind::Sse };
                    client.input = Vec::new();
                    client.write(if client.kind == Kind::Ws { UPGRADE } else { STREAM }.as_bytes());
                    self.members.push(number);
                    break;
                }
                let length = String::from_utf8_lossy(&text[..head])
                    .lines()
                    .find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok())
                    .unwrap_or(0);
                if text.len() < head + length {
                    break;
                }
                let body: Vec<u8> = client.input.drain(..head + length).skip(head).collect();
                client.write(OK.as_bytes());
                self.publish(&body);
            }
        }
    }
}

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let mode = match args.get(1).map(String::as_str) {
        Some("together") => Mode::Together,
        Some("uring") => Mode::Uring,
        Some("sendfile") => Mode::Sendfile,
        Some("tee") => Mode::Tee,
        _ => Mode::Each,
    };
    let port: u16 = args.get(2).and_then(|port| port.parse().ok()).unwrap_or(8080);
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 1 << 18];
    let bytes = args.get(3).and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    let (ring, pages) = (IoUring::new(1024)?, Pages::new()?);
    let mut all = Loop { mode, bytes, clients: Vec::new(), members: Vec::new(), ring, pages };
    let mut free = Vec::new();
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut socket, _)) = listener.accept() {
                    socket.set_nodelay(true)?;
                    let number = free.pop().unwrap_or_else(|| {
                        all.clients.push(None);
                        all.clients.len() - 1
                    });
                    poll.registry().register(
                        &mut socket,
                        Token(number),
                        Interest::READABLE | Interest::WRITABLE,
                    )?;
                    all.clients[number] =
                        Some(Client { socket, kind: Kind::New, input: Vec::new(), rest: Vec::new() });
                }
                continue;
            }
            let number = event.token().0;
            if event.is_writable()
                && let Some(client) = &mut all.clients[number]
                && !client.rest.is_empty()
            {
                let rest = std::mem::take(&mut client.rest);
                client.write(&rest);
            }
            if event.is_readable() && !all.input(number, &mut buffer) {
                all.clients[number] = None;
                all.members.retain(|member| *member != number);
                free.push(number);
            }
        }
    }
}

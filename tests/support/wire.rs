//! A buffered socket with a deadline for each read.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::PATIENCE;

pub struct Wire {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
}

impl Wire {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::new(TcpStream::connect_timeout(&addr, PATIENCE).expect("the server takes connections"))
    }

    /// Connects with a receive buffer of this many bytes, so that the kernel accepts few bytes that are not read.
    pub fn narrow(addr: SocketAddr, receive_buffer: usize) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(receive_buffer).expect("a socket");
        socket.connect(&addr.into()).expect("the server takes connections");
        Self::new(socket.into())
    }

    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        Self { stream, buffer: Vec::new(), start: 0 }
    }

    /// Writes everything, or panics.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the peer reads");
    }

    /// Writes as much as the peer accepts. The peer may close in the middle.
    pub fn send_if_taken(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Closes the sending side.
    pub fn half_close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Waits for more bytes. Returns their number, 0 at the end.
    pub fn fill(&mut self, deadline: Instant) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        self.buffer.drain(..self.start);
        self.start = 0;
        let old = self.buffer.len();
        self.buffer.resize(old + 64 * 1024, 0);
        let read = self.stream.read(&mut self.buffer[old..]);
        self.buffer.truncate(old + read.as_ref().copied().unwrap_or(0));
        read.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }

    /// Returns the next `len` bytes.
    pub fn take(&mut self, len: usize, deadline: Instant) -> io::Result<Vec<u8>> {
        while self.buffered().len() < len {
            if self.fill(deadline)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.start += len;
        Ok(self.buffer[self.start - len..self.start].to_vec())
    }

    /// Returns the next bytes up to and including `end`.
    pub fn take_until(&mut self, end: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
        let mut from = 0;
        loop {
            if let Some(at) = self.buffered()[from..].windows(end.len()).position(|window| window == end) {
                return self.take(from + at + end.len(), deadline);
            }
            from = (self.buffered().len() + 1).saturating_sub(end.len());
            if self.fill(deadline)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Returns everything up to the end of the connection. A reset counts as an end.
    pub fn take_rest(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        loop {
            match self.fill(deadline) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
                _ => {
                    let rest = self.buffered().to_vec();
                    self.start = self.buffer.len();
                    return Ok(rest);
                }
            }
        }
    }

    /// Returns whether no bytes arrive for this long.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.buffered().is_empty()
            && self.fill(Instant::now() + time).is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
    }
}

pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

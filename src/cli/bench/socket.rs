//! A non-blocking connection of the load, with or without TLS.
//!
//! Always: a read or write that would block returns `WouldBlock`. Bytes that TLS has accepted and the socket has not
//! are written by [`push`](LoadSocket::push).

use std::io::{self, Read, Write};

use mio::net::TcpStream;
use rustls::StreamOwned;

use super::super::remote::Link;

/// A connected client or publisher.
pub(super) struct LoadSocket(Link<TcpStream>);

impl LoadSocket {
    /// Takes over a connected link, and makes it non-blocking.
    pub(super) fn new(link: Link) -> io::Result<Self> {
        link.tcp().set_nonblocking(true)?;
        Ok(Self(match link {
            Link::Plain(tcp) => Link::Plain(TcpStream::from_std(tcp)),
            Link::Secure(stream) => {
                let (session, tcp) = stream.into_parts();
                Link::Secure(Box::new(StreamOwned::new(session, TcpStream::from_std(tcp))))
            }
        }))
    }

    /// Returns the socket, for the poll.
    pub(super) fn tcp(&mut self) -> &mut TcpStream {
        match &mut self.0 {
            Link::Plain(tcp) => tcp,
            Link::Secure(stream) => &mut stream.sock,
        }
    }

    /// Returns whether TLS holds bytes that the socket has not accepted.
    pub(super) fn wants_write(&self) -> bool {
        matches!(&self.0, Link::Secure(stream) if stream.conn.wants_write())
    }

    /// Writes the bytes that TLS holds until the socket is full.
    pub(super) fn push(&mut self) -> io::Result<()> {
        let Link::Secure(stream) = &mut self.0 else { return Ok(()) };
        while stream.conn.wants_write() {
            match stream.conn.write_tls(&mut stream.sock) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Read for LoadSocket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.read(into) {
            // TLS reports an end without a closing alert as an error. A plain socket does not.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            read => read,
        }
    }
}

impl Write for LoadSocket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

//! A connection of the load, without TLS or with it, that never waits. Imports its siblings.
//!
//! Always: a read or write that can't go on says `WouldBlock`; what TLS took and the socket did not yet goes out by
//! [`push`](Wire::push).

use std::io::{self, Read, Write};

use mio::net::TcpStream;
use rustls::StreamOwned;

use super::super::remote::Link;

/// A connected client or publisher.
pub(super) struct Wire(Link<TcpStream>);

impl Wire {
    /// Takes over a connection as it is.
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

    /// Returns whether TLS holds bytes that the socket has not taken.
    pub(super) fn wants_write(&self) -> bool {
        matches!(&self.0, Link::Secure(stream) if stream.conn.wants_write())
    }

    /// Writes what TLS holds, as far as the socket takes it.
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

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.read(into) {
            // An end without TLS' farewell is an end. A socket alone does not say this.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            read => read,
        }
    }
}

impl Write for Wire {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

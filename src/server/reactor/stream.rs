//! A client's socket: TCP, with TLS or without.
//!
//! Invariants:
//! - No call blocks.
//! - After a short write the socket takes no more until it is reported writable.

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
#[cfg(target_os = "linux")]
use std::os::fd::BorrowedFd;
#[cfg(unix)]
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use mio::net::TcpStream;

use super::socket::Socket;
#[cfg(feature = "tls")]
use super::tls::TlsStream;
use crate::metrics::Metrics;
use crate::server::config::Prepared;

/// A client's stream, with TLS or without.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Wraps an accepted stream as configured. Returns `None` if TLS state could not be created.
    #[cfg_attr(not(feature = "tls"), expect(clippy::unnecessary_wraps, reason = "as with TLS"))]
    pub(crate) fn new(tcp: TcpStream, config: &Prepared, metrics: &Arc<Metrics>) -> Option<Self> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &config.tls_acceptor {
            return TlsStream::new(tcp, tls, metrics).map(|stream| Self::Tls(Box::new(stream)));
        }
        let _ = (config, metrics);
        Some(Self::Plain(tcp))
    }

    /// Wraps a stream that another process handed over.
    pub(crate) fn taken_over(tcp: std::net::TcpStream) -> io::Result<Self> {
        tcp.set_nonblocking(true)?;
        Ok(Self::Plain(TcpStream::from_std(tcp)))
    }

    /// Duplicates the socket for another process.
    #[cfg(unix)]
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.socket().as_fd().try_clone_to_owned()
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.socket(),
        }
    }

    pub(crate) fn tcp(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.tcp(),
        }
    }

    /// Writes the bytes that TLS still holds. Returns whether the socket takes more.
    pub(crate) fn is_writable(&mut self) -> bool {
        match self {
            Self::Plain(_) => true,
            #[cfg(feature = "tls")]
            // The next write reports an error again.
            Self::Tls(stream) => stream.push().unwrap_or(true),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write(&[IoSlice::new(bytes)]),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write_vectored(slices),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for Stream {
    fn can_move(&self) -> bool {
        // rustls does not export the keys and counters of a connection.
        matches!(self, Self::Plain(_))
    }

    fn peer(&self) -> Option<IpAddr> {
        self.socket().peer_addr().ok().map(|address| address.ip())
    }

    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let tcp = self.socket();
        tcp.local_addr().ok().zip(tcp.peer_addr().ok())
    }

    fn close_write(&mut self) {
        match self {
            Self::Plain(tcp) => {
                // The peer may already be gone.
                let _ = tcp.shutdown(Shutdown::Write);
            }
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.close_write(),
        }
    }

    #[cfg(target_os = "linux")]
    fn shares_pages(&self) -> bool {
        // TLS bytes differ for each client.
        matches!(self, Self::Plain(_))
    }

    #[cfg(target_os = "linux")]
    fn take_from(&mut self, pipe: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
        Ok(rustix::pipe::splice(pipe, None, self.socket(), None, len, rustix::pipe::SpliceFlags::NONBLOCK)?)
    }

    fn take_handshakes(&mut self) -> u32 {
        match self {
            Self::Plain(_) => 0,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.take_handshakes(),
        }
    }

    fn held_bytes(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            #[cfg(feature = "tls")]
            Self::Tls(_) => super::tls::TLS_BYTES,
        }
    }
}

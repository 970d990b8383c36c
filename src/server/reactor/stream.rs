//! A client's socket: TCP, with TLS or without, or one end of a pair that the embedding program holds the other end of.
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

use mio::event::Source;
use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;
use socket2::SockRef;

use super::listener;
use super::socket::Socket;
#[cfg(feature = "tls")]
use super::tls::TlsStream;
use crate::metrics::Metrics;
use crate::server::config::Prepared;
use crate::server::shared::adoption::AdoptedSocket;

/// A client's stream.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
    /// One end of a pair, and the address of the client at the other end, if it is known.
    #[cfg(unix)]
    Local(UnixStream, Option<IpAddr>),
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

    /// Wraps a socket that the embedding program accepted. TCP gets the options that this server's own listeners hand down.
    pub(crate) fn adopted(socket: AdoptedSocket) -> io::Result<Self> {
        match socket {
            AdoptedSocket::Tcp(tcp) => {
                listener::set_options(SockRef::from(&tcp))?;
                Ok(Self::Plain(TcpStream::from_std(tcp)))
            }
            #[cfg(unix)]
            AdoptedSocket::Unix(unix, peer) => {
                unix.set_nonblocking(true)?;
                Ok(Self::Local(UnixStream::from_std(unix), peer))
            }
        }
    }

    /// Duplicates the socket for another process.
    #[cfg(unix)]
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Plain(tcp) => tcp.as_fd().try_clone_to_owned(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.socket().as_fd().try_clone_to_owned(),
            Self::Local(unix, _) => unix.as_fd().try_clone_to_owned(),
        }
    }

    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Some(stream.socket()),
            #[cfg(unix)]
            Self::Local(..) => None,
        }
    }

    /// Returns the socket as the poll takes it.
    pub(crate) fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Plain(tcp) => tcp,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.tcp(),
            #[cfg(unix)]
            Self::Local(unix, _) => unix,
        }
    }

    /// Writes the bytes that TLS still holds. Returns whether the socket takes more.
    pub(crate) fn is_writable(&mut self) -> bool {
        match self {
            Self::Plain(_) => true,
            #[cfg(unix)]
            Self::Local(..) => true,
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
            #[cfg(unix)]
            Self::Local(unix, _) => unix.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write(&[IoSlice::new(bytes)]),
            #[cfg(unix)]
            Self::Local(unix, _) => unix.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write_vectored(slices),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write(slices),
            #[cfg(unix)]
            Self::Local(unix, _) => unix.write_vectored(slices),
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
        match self {
            #[cfg(unix)]
            Self::Local(_, peer) => *peer,
            stream => stream.socket()?.peer_addr().ok().map(|address| address.ip()),
        }
    }

    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let tcp = self.socket()?;
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
            #[cfg(unix)]
            Self::Local(unix, _) => {
                // As above.
                let _ = unix.shutdown(Shutdown::Write);
            }
        }
    }

    #[cfg(target_os = "linux")]
    fn shares_pages(&self) -> bool {
        // TLS bytes differ for each client.
        matches!(self, Self::Plain(_))
    }

    #[cfg(target_os = "linux")]
    fn take_from(&mut self, pipe: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
        let socket = self.socket().ok_or(io::ErrorKind::Unsupported)?;
        Ok(rustix::pipe::splice(pipe, None, socket, None, len, rustix::pipe::SpliceFlags::NONBLOCK)?)
    }

    fn take_handshakes(&mut self) -> u32 {
        match self {
            Self::Plain(_) => 0,
            #[cfg(unix)]
            Self::Local(..) => 0,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.take_handshakes(),
        }
    }

    fn held_bytes(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            #[cfg(unix)]
            Self::Local(..) => 0,
            #[cfg(feature = "tls")]
            Self::Tls(_) => super::tls::TLS_BYTES,
        }
    }
}

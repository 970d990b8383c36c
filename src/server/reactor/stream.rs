//! A client's socket: TCP, with TLS or without, or one end of a pair. The embedding program holds the other end.
//!
//! Invariants:
//! - No call blocks.
//! - After a short write the socket accepts no more until it is reported writable.

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
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
use super::socket::{HandshakeSteps, Socket, takes_all};
#[cfg(feature = "tls")]
use super::tls::TlsStream;
use crate::metrics::Metrics;
use crate::server::config::Prepared;
use crate::server::shared::adoption::AdoptedSocket;

/// A client's stream.
#[derive(Debug)]
pub(crate) enum Stream {
    /// TCP, and the peer's address, if it is an IPv4 address. Other addresses cost a system call for each request that
    /// is charged to an address.
    Plain(TcpStream, Option<Ipv4Addr>),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
    /// One end of a pair, and the address of the client at the other end, if it is known.
    #[cfg(unix)]
    Local(UnixStream, Option<Box<IpAddr>>),
}

fn ipv4(address: Option<SocketAddr>) -> Option<Ipv4Addr> {
    if let IpAddr::V4(address) = address?.ip() { Some(address) } else { None }
}

impl Stream {
    /// Wraps an accepted stream as configured. Returns `None` if TLS state could not be created.
    #[cfg_attr(not(feature = "tls"), expect(clippy::unnecessary_wraps, reason = "as with TLS"))]
    pub(crate) fn new(
        tcp: TcpStream,
        peer: SocketAddr,
        config: &Prepared,
        metrics: &Arc<Metrics>,
    ) -> Option<Self> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &config.tls_acceptor {
            return TlsStream::new(tcp, peer, tls, metrics).map(|stream| Self::Tls(Box::new(stream)));
        }
        let _ = (config, metrics);
        Some(Self::Plain(tcp, ipv4(Some(peer))))
    }

    fn over(tcp: std::net::TcpStream) -> Self {
        let peer = ipv4(tcp.peer_addr().ok());
        Self::Plain(TcpStream::from_std(tcp), peer)
    }

    /// Wraps a stream that another process handed over.
    pub(crate) fn taken_over(tcp: std::net::TcpStream) -> io::Result<Self> {
        tcp.set_nonblocking(true)?;
        Ok(Self::over(tcp))
    }

    /// Wraps a socket that the embedding program accepted. TCP gets the options that this server's own listeners hand down.
    pub(crate) fn adopted(socket: AdoptedSocket) -> io::Result<Self> {
        match socket {
            AdoptedSocket::Tcp(tcp) => {
                listener::set_options(SockRef::from(&tcp))?;
                Ok(Self::over(tcp))
            }
            #[cfg(unix)]
            AdoptedSocket::Unix(unix, peer) => {
                unix.set_nonblocking(true)?;
                Ok(Self::Local(UnixStream::from_std(unix), peer.map(Box::new)))
            }
        }
    }

    /// Duplicates the socket for another process.
    #[cfg(unix)]
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Plain(tcp, _) => tcp.as_fd().try_clone_to_owned(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.socket().as_fd().try_clone_to_owned(),
            Self::Local(unix, _) => unix.as_fd().try_clone_to_owned(),
        }
    }

    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp, _) => Some(tcp),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Some(stream.socket()),
            #[cfg(unix)]
            Self::Local(..) => None,
        }
    }

    /// Returns the socket as a source for the poll.
    pub(crate) fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Plain(tcp, _) => tcp,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.tcp(),
            #[cfg(unix)]
            Self::Local(unix, _) => unix,
        }
    }

    /// Writes the bytes that TLS still holds. Returns whether the socket accepts more.
    pub(crate) fn is_writable(&mut self) -> bool {
        match self {
            Self::Plain(..) => true,
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
            Self::Plain(tcp, _) => tcp.read(buffer),
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
            Self::Plain(tcp, _) => tcp.write(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write(&[IoSlice::new(bytes)]),
            #[cfg(unix)]
            Self::Local(unix, _) => unix.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp, _) => tcp.write_vectored(slices),
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
        matches!(self, Self::Plain(..))
    }

    fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Plain(_, Some(peer)) => Some(IpAddr::V4(*peer)),
            Self::Plain(tcp, None) => tcp.peer_addr().ok().map(|address| address.ip()),
            #[cfg(unix)]
            Self::Local(_, peer) => peer.as_deref().copied(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Some(stream.peer().ip()),
        }
    }

    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let tcp = self.socket()?;
        tcp.local_addr().ok().zip(tcp.peer_addr().ok())
    }

    fn close_write(&mut self) {
        match self {
            Self::Plain(tcp, _) => {
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
        matches!(self, Self::Plain(..))
    }

    #[cfg(target_os = "linux")]
    fn take_from(&mut self, pipe: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
        let socket = self.socket().ok_or(io::ErrorKind::Unsupported)?;
        Ok(rustix::pipe::splice(pipe, None, socket, None, len, rustix::pipe::SpliceFlags::NONBLOCK)?)
    }

    fn is_drained(&self, len: usize, room: usize) -> bool {
        match self {
            Self::Plain(..) => takes_all(len, room),
            #[cfg(unix)]
            Self::Local(..) => false,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.is_drained(len, room),
        }
    }

    fn awaits_handshake(&self) -> bool {
        match self {
            Self::Plain(..) => false,
            #[cfg(unix)]
            Self::Local(..) => false,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.awaits_handshake(),
        }
    }

    fn take_handshakes(&mut self) -> HandshakeSteps {
        match self {
            Self::Plain(..) => HandshakeSteps::default(),
            #[cfg(unix)]
            Self::Local(..) => HandshakeSteps::default(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.take_handshakes(),
        }
    }

    fn held_bytes(&self) -> usize {
        match self {
            Self::Plain(..) => 0,
            #[cfg(unix)]
            Self::Local(..) => 0,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.held_bytes(),
        }
    }
}

//! The interface between a loop and the sockets of its clients.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
#[cfg(target_os = "linux")]
use std::os::fd::BorrowedFd;

use crate::server::limits::budget;

/// Returns whether a read of `len` bytes into `room` bytes took all bytes that a TCP socket had. On Linux a short read
/// means that (epoll(7)), and the end of the peer's input is reported separately.
pub(super) fn takes_all(len: usize, room: usize) -> bool {
    cfg!(target_os = "linux") && len < room
}

/// Steps of TLS handshakes that a socket took in its reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HandshakeSteps {
    /// Number of key exchanges with a signature.
    pub(crate) begun: u32,
    /// Number of last steps: keys are derived, and a ticket is made.
    pub(crate) ended: u32,
}

impl HandshakeSteps {
    /// Returns the cost in units of a turn's budget.
    pub(crate) fn units(self) -> u32 {
        self.begun * budget::HANDSHAKE + self.ended * budget::HANDSHAKE_END
    }
}

/// Interface of a client's socket for its loop. No call blocks. A short write means that the socket is full until it is
/// reported writable, as with the kernel's streams.
pub(crate) trait Socket: Read + Write {
    /// Returns the peer's address, if it has one.
    fn peer(&self) -> Option<IpAddr> {
        None
    }

    /// Closes the writing side. Input of the peer can still be read.
    fn close_write(&mut self);

    /// Returns whether another process can take the socket over.
    fn can_move(&self) -> bool {
        false
    }

    /// Returns whether a read of `len` bytes into `room` bytes took all that had arrived, so that the poll reports what comes
    /// next. If not, the next read may find more.
    fn is_drained(&self, _len: usize, _room: usize) -> bool {
        false
    }

    /// Returns whether the next input begins a TLS handshake, so that reading it may cost a signature.
    fn awaits_handshake(&self) -> bool {
        false
    }

    /// Returns the steps of handshakes that were taken in reads since the last call.
    fn take_handshakes(&mut self) -> HandshakeSteps {
        HandshakeSteps::default()
    }

    /// Returns the number of bytes that the socket buffers in this process.
    fn held_bytes(&self) -> usize {
        0
    }

    /// Returns whether [`take_from`](Self::take_from) is supported.
    #[cfg(target_os = "linux")]
    fn shares_pages(&self) -> bool {
        false
    }

    /// Writes up to `len` bytes of a pipe by moving their pages. The rest stays in the pipe.
    #[cfg(target_os = "linux")]
    fn take_from(&mut self, _pipe: BorrowedFd<'_>, _len: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Returns the addresses of both ends, ours first, if the kernel can report the queue between them.
    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        None
    }
}

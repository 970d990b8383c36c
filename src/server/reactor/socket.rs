//! The interface between a loop and the sockets of its clients.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
#[cfg(target_os = "linux")]
use std::os::fd::BorrowedFd;

/// Socket as a loop uses it. No call blocks. A short write means that the socket is full until it is reported writable, as
/// with the kernel's streams.
pub(crate) trait Socket: Read + Write {
    /// Returns the peer's address, if it has one.
    fn peer(&self) -> Option<IpAddr> {
        None
    }

    /// Closes the writing side. Input of the peer can still be read.
    fn close_write(&mut self);

    /// Returns whether another process can take it over.
    fn can_move(&self) -> bool {
        false
    }

    /// Returns the number of handshakes whose expensive part happened in reads since the last call.
    fn take_handshakes(&mut self) -> u32 {
        0
    }

    /// Returns the bytes that it buffers in this process.
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

    /// Returns the addresses of both ends, ours first, if the kernel can report its queue for them.
    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        None
    }
}

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

    /// No more bytes will be written; what the peer still sends can be read.
    fn close_write(&mut self);

    /// Whether another process could go on with it.
    fn can_move(&self) -> bool {
        false
    }

    /// Returns the number of handshakes whose expensive part happened in reads since the last call.
    fn take_handshakes(&mut self) -> u32 {
        0
    }

    /// Bytes that it keeps beside the kernel's.
    fn held_bytes(&self) -> usize {
        0
    }

    /// Whether [`take_from`](Self::take_from) takes anything.
    #[cfg(target_os = "linux")]
    fn shares_pages(&self) -> bool {
        false
    }

    /// Writes up to `len` bytes of a pipe by moving their pages. The rest stays in the pipe.
    #[cfg(target_os = "linux")]
    fn take_from(&mut self, _pipe: BorrowedFd<'_>, _len: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The addresses of both ends, ours first, of what the kernel can be asked about.
    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        None
    }
}

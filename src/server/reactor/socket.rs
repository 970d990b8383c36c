//! The interface between a loop and the sockets of its clients.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
#[cfg(target_os = "linux")]
use std::os::fd::BorrowedFd;

/// What a loop needs of a socket. Nothing blocks, and a write that takes less than it was given says that the
/// socket takes no more until it is reported writable, as the kernel's streams do.
pub(crate) trait Socket: Read + Write {
    /// Where the peer is, if it is anywhere.
    fn peer(&self) -> Option<IpAddr> {
        None
    }

    /// No more bytes will be written; what the peer still sends can be read.
    fn close_write(&mut self);

    /// Whether another process could go on with it.
    fn can_move(&self) -> bool {
        false
    }

    /// Handshakes whose dear part was done in reads since this was asked last.
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

    /// As a write, of so many bytes out of a pipe: their pages, not a copy. What it does not take stays there.
    #[cfg(target_os = "linux")]
    fn take_from(&mut self, _pipe: BorrowedFd<'_>, _len: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The addresses of both ends, ours first, of what the kernel can be asked about.
    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        None
    }
}

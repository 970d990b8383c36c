//! Queries the number of bytes that the kernel holds for a connection: written by us, not acknowledged by the peer
//! (`SIOCOUTQ`).
//!
//! Invariant: one query and one answer for each connection, without blocking. If the kernel does not answer (another
//! system, a sandbox), the number is unknown and nothing fails.
//!
//! The `ioctl` itself is `unsafe` in every crate that has it. The kernel's socket diagnosis (sock_diag(7), which `ss` reads)
//! returns it with one datagram each way.

use std::net::SocketAddr;

#[cfg(target_os = "linux")]
use std::{
    io::{Read, Write},
    net::IpAddr,
};

/// Connection to the kernel, opened with the first query.
#[derive(Debug, Default)]
pub(crate) struct KernelQueues {
    #[cfg(target_os = "linux")]
    socket: Option<socket2::Socket>,
    /// Whether the kernel refused a query. Then there are no further queries.
    #[cfg(target_os = "linux")]
    refused: bool,
}

#[cfg(not(target_os = "linux"))]
impl KernelQueues {
    /// Returns the bytes written to the connection between these ends that its peer has not acknowledged.
    pub(crate) fn of(&mut self, _: (SocketAddr, SocketAddr)) -> Option<u64> {
        None
    }
}

#[cfg(target_os = "linux")]
impl KernelQueues {
    /// Returns the bytes written to the connection between these ends, ours first, that its peer has not
    /// acknowledged.
    pub(crate) fn of(&mut self, ends: (SocketAddr, SocketAddr)) -> Option<u64> {
        if self.socket.is_none() && !self.refused {
            self.socket = open();
            self.refused = self.socket.is_none();
        }
        let socket = self.socket.as_mut()?;
        let mut answer = [0; 512];
        let len = socket.write(&question(ends)).and_then(|_| socket.read(&mut answer)).ok();
        len.and_then(|len| read(&answer[..len]))
    }
}

/// Socket to the kernel's socket diagnosis; it never blocks.
#[cfg(target_os = "linux")]
fn open() -> Option<socket2::Socket> {
    const SOCK_DIAG: i32 = 4;
    let socket = socket2::Socket::new(
        socket2::Domain::from(libc::AF_NETLINK),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::from(SOCK_DIAG)),
    )
    .ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2` (linux/inet_diag.h) for one connection.
#[cfg(target_os = "linux")]
fn question((ours, peers): (SocketAddr, SocketAddr)) -> [u8; 72] {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    let mut out = [0; 72];
    out[..4].copy_from_slice(&72_u32.to_ne_bytes());
    out[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    let family = if ours.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    out[16] = family as u8;
    out[17] = libc::IPPROTO_TCP as u8;
    // Sockets in any state.
    out[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
    for (at, end) in [(0, ours), (1, peers)] {
        out[24 + 2 * at..26 + 2 * at].copy_from_slice(&end.port().to_be_bytes());
        let address = &mut out[28 + 16 * at..44 + 16 * at];
        match end.ip() {
            IpAddr::V4(ip) => address[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => address.copy_from_slice(&ip.octets()),
        }
    }
    // No cookie: any socket with these ends.
    out[64..72].fill(0xff);
    out
}

/// Returns `idiag_wqueue` of `struct inet_diag_msg`, after the header; `None` if the kernel reports an error.
#[cfg(target_os = "linux")]
fn read(answer: &[u8]) -> Option<u64> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    Some(u32::from_ne_bytes(answer.get(76..80)?.try_into().ok()?).into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn bytes_that_a_peer_does_not_read_are_counted_exactly() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let _peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
            let (mut ours, peers) = listener.accept().expect("accepted");
            let ends = (ours.local_addr().expect("bound"), peers);
            let mut backlog = KernelQueues::default();
            assert_eq!(backlog.of(ends), Some(0));
            // Writes more than the peer's receive buffer holds: the rest stays in our kernel's queue.
            ours.set_nonblocking(true).expect("a socket");
            let mut written = 0;
            while let Ok(len) = ours.write(&[7; 8 * 1024]) {
                written += len as u64;
            }
            let waits = backlog.of(ends).expect("the kernel reports it");
            assert!(waits > 0 && waits < written, "{waits} of {written}");
            assert_eq!(backlog.of((ends.1, "127.0.0.1:1".parse().expect("an address"))), None);
        }
    }
}

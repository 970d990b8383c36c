//! The listening socket: its options, accepting within a budget, and the handling of exhausted descriptors.
//!
//! Always: a client that can't be served receives an HTTP refusal if that works without waiting, and never delays other
//! clients. The listener survives running out of descriptors.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
#[cfg(unix)]
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Maximum number of connections that wait in the kernel, which reduces this to its own limit.
const BACKLOG: i32 = 4096;

/// Maximum number of unsent bytes that the kernel holds for a client: two of the feeds' blocks. Without a limit it would
/// hold megabytes for each client that does not read, and the client's lag would be detected later by that many bytes.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 49\r\n\
                      Retry-After: 5\r\nConnection: close\r\n\r\n{\"error\":\"server takes no more connections now\"}\n";

/// Binds an address. Every connection inherits the options set here from the kernel, which saves two system calls for
/// each.
pub(crate) fn bind(address: SocketAddr, shared_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted server may bind while connections of its predecessor linger.
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(shared_port)?;
    // Frames are written whole: waiting to fill a packet would only delay them.
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Adopts a socket that already listens, and sets the options that can still be set.
pub(crate) fn adopt(socket: std::net::TcpListener) -> io::Result<Socket> {
    let socket = Socket::from(socket);
    set_options(SockRef::from(&socket))?;
    Ok(socket)
}

/// Sets the options of a client's socket, or of a listening socket that hands them down.
pub(crate) fn set_options(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    Ok(())
}

/// Writes the refusal to a new connection, as far as that works without waiting.
pub(crate) fn refuse(mut socket: impl Read + Write) {
    // Closing a socket with unread input makes the kernel discard written bytes.
    let _ = socket.read(&mut [0; 4096]);
    let _ = socket.write(BUSY);
}

/// Result of an accept.
pub(crate) enum Accepted {
    Connection(TcpStream, SocketAddr),
    /// A connection was refused because no descriptor was free.
    Refused,
    /// No connection is waiting.
    Nothing,
}

/// Spreads accepted connections over each second.
#[derive(Debug, Default)]
struct Pace {
    /// Time at which the next connection may be accepted.
    next: Option<Instant>,
    /// Interval between two connections.
    every: Duration,
}

impl Pace {
    /// Returns the time that the next connection has to wait, if any. An unused allowance is kept for one tick only.
    fn wait(&mut self, rate: Option<u32>, now: Instant) -> Option<Duration> {
        let Some(rate) = rate else {
            self.next = None;
            return None;
        };
        self.every = Duration::from_secs(1) / rate.max(1);
        let next = self.next.get_or_insert(now);
        *next = (*next).max(now.checked_sub(PAUSE).unwrap_or(now));
        next.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    fn take(&mut self) {
        if let Some(next) = &mut self.next {
            *next += self.every;
        }
    }
}

/// Accepts connections.
pub(crate) struct Listener {
    socket: TcpListener,
    /// A descriptor in reserve. When all others are in use, it is closed so that one connection can be accepted and refused.
    /// Otherwise waiting connections would never be refused, and the listener would stay readable forever.
    reserve: Option<File>,
    /// Whether there may be more to accept, which the poll does not report again.
    pub(crate) waits: bool,
    /// Time before which nothing is accepted, after a failure or for the rate.
    paused: Option<Instant>,
    pace: Pace,
}

/// Opens a descriptor to keep in reserve.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

impl Listener {
    pub(crate) fn new(socket: Socket, registry: &Registry, token: Token) -> io::Result<Self> {
        let mut socket = TcpListener::from_std(socket.into());
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Self { socket, reserve: spare(), waits: false, paused: None, pace: Pace::default() })
    }

    /// Duplicates the socket for another process.
    #[cfg(unix)]
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// Returns whether accepting is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Ends the pause if its time has come.
    pub(crate) fn wake(&mut self) {
        if self.paused.is_some_and(|time| Instant::now() >= time) {
            self.paused = None;
            self.waits = true;
        }
    }

    /// Returns whether one more connection may be accepted at this rate per second (`None`: no limit). If not, pauses until
    /// it may.
    pub(crate) fn is_within_rate(&mut self, rate: Option<u32>) -> bool {
        let now = Instant::now();
        let Some(wait) = self.pace.wait(rate, now) else { return true };
        self.waits = false;
        self.paused = Some(now + wait);
        false
    }

    /// Accepts one connection.
    pub(crate) fn accept(&mut self) -> Accepted {
        loop {
            match self.socket.accept() {
                Ok((stream, peer)) => {
                    // Only Linux passes the option on to accepted sockets.
                    #[cfg(not(target_os = "linux"))]
                    let _ = stream.set_nodelay(true);
                    self.pace.take();
                    return Accepted::Connection(stream, peer);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        self.waits = false;
                        return Accepted::Nothing;
                    }
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ if is_out_of_descriptors(&error) && self.reserve.take().is_some() => {
                        return self.refuse_one();
                    }
                    _ => {
                        tracing::warn!(%error, "accepting a connection failed");
                        return self.pause();
                    }
                },
            }
        }
    }

    /// Accepts one connection with the reserve descriptor, refuses it, and opens the reserve again.
    fn refuse_one(&mut self) -> Accepted {
        let accepted = self.socket.accept();
        let found = accepted.is_ok();
        if let Ok((stream, _)) = accepted {
            refuse(&stream);
            let _ = stream.shutdown(Shutdown::Write);
        }
        self.reserve = spare();
        if found { Accepted::Refused } else { self.pause() }
    }

    fn pause(&mut self) -> Accepted {
        self.waits = false;
        self.paused = Some(Instant::now() + PAUSE);
        self.reserve = self.reserve.take().or_else(spare);
        Accepted::Nothing
    }
}

/// Returns whether the error means that this process or the system has no more descriptors.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_has_the_length_that_it_announces() {
        let text = std::str::from_utf8(BUSY).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }

    #[test]
    fn accepting_keeps_to_its_rate() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let begin = now;
        for _ in 0..1000 {
            now += pace.wait(Some(100), now).unwrap_or_default();
            pace.take();
        }
        let took = now - begin;
        assert!((9900..=10_000).contains(&took.as_millis()), "{took:?}");
        assert_eq!(pace.wait(None, now), None);
    }
}

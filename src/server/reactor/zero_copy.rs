//! Shares pages of memory among the kernel's socket queues, so that bytes sent to many clients in one turn are in
//! memory once.
//!
//! Invariants: bytes in a page are never overwritten. A failure costs only the copies that sharing would have saved.
//! After a turn nothing is held here.
//!
//! `write(2)` copies its bytes for each socket. That is most of the cost of delivering a burst, and slow clients then
//! take memory for each copy. So the bytes are written to a pipe once; `tee(2)` gives a second pipe the same pages, and
//! `splice(2)` moves those into a socket's queue. A page belongs to the pipe until the last queue has released it; the
//! next bytes get new pages, because the pipe is empty then.

use std::io::{self, IoSlice, Write};

use super::socket::Socket;
use crate::feed::{ByteSink, FeedTail};

/// Minimum number of clients for which bytes of [`share_pages_bytes`](crate::server::ServerConfig::share_pages_bytes)
/// are shared; for half as many clients, twice as many bytes.
const CLIENTS_MIN: usize = 8;

/// Client's socket, and the pages that it may be sent.
pub(crate) struct FanoutSocket<'a, S> {
    pub(crate) socket: &'a mut S,
    pub(crate) pages: &'a mut SharedPages,
}

impl<S: Socket> Write for FanoutSocket<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl<S: Socket> ByteSink for FanoutSocket<'_, S> {
    fn write_tail(&mut self, tail: &FeedTail<'_>) -> io::Result<usize> {
        match self.pages.send(tail, self.socket) {
            Some(sent) => sent,
            None => tail.write_to(self.socket),
        }
    }
}

#[cfg(target_os = "linux")]
pub(crate) use linux::SharedPages;

/// Empty: sharing pages needs Linux.
#[cfg(not(target_os = "linux"))]
#[derive(Debug, Default)]
pub(crate) struct SharedPages;

#[cfg(not(target_os = "linux"))]
impl SharedPages {
    pub(crate) fn open(&mut self, _: usize, _: Option<usize>) {}

    fn send(&mut self, _: &FeedTail<'_>, _: &mut impl Socket) -> Option<io::Result<usize>> {
        None
    }

    pub(crate) fn close(&mut self) -> u64 {
        0
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::{self, File};
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};

    use bytes::Bytes;
    use rustix::io::writev;
    use rustix::pipe::{
        PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice, tee,
    };

    use super::{CLIENTS_MIN, FeedTail, Socket};

    /// Maximum number of bytes shared at once: the default write budget of a client in one turn.
    const SHARED_BYTES_MAX: usize = 256 * 1024;

    /// Tail of a feed in pages, while its members are written.
    #[derive(Debug, Default)]
    pub(crate) struct SharedPages {
        pipes: Option<Pipes>,
        held: Option<Held>,
        /// Minimum number of bytes for this feed's members; `None` if they do not share.
        min_bytes: Option<usize>,
        /// Whether sharing is impossible here.
        refused: bool,
        shared: u64,
    }

    /// Contents of the first pipe.
    #[derive(Debug)]
    struct Held {
        /// Block in which the tail begins; kept alive, so that its address is not reused.
        first: Bytes,
        start: usize,
        len: usize,
    }

    impl Held {
        fn is(&self, tail: &FeedTail<'_>) -> bool {
            let begins =
                tail.blocks().next().is_some_and(|first| std::ptr::eq(first.as_ptr(), self.first.as_ptr()));
            begins && (tail.start(), tail.len()) == (self.start, self.len)
        }
    }

    impl SharedPages {
        /// Begins to write a feed with this many members, which share writes of at least `min_bytes`. `None`: nothing
        /// is shared.
        #[inline]
        pub(in crate::server) fn open(&mut self, members: usize, min_bytes: Option<usize>) {
            if members == 1 && self.held.is_none() && self.min_bytes.is_none() {
                return;
            }
            self.empty();
            let is_of_use = members > 1 && !self.refused;
            let least = |bytes: usize| bytes.max(bytes.saturating_mul(CLIENTS_MIN) / members);
            self.min_bytes = min_bytes.filter(|_| is_of_use).map(least);
        }

        /// Ends the writing. Returns the number of writes from shared pages.
        pub(in crate::server) fn close(&mut self) -> u64 {
            self.empty();
            self.min_bytes = None;
            std::mem::take(&mut self.shared)
        }

        fn empty(&mut self) {
            if let Some(held) = self.held.take()
                && let Some(pipes) = &self.pipes
                && pipes.drain(&pipes.held, held.len).is_err()
            {
                self.pipes = None;
            }
        }

        /// Sends the tail of the feed to a socket from shared pages; `None` if it has to be written.
        pub(crate) fn send(
            &mut self,
            tail: &FeedTail<'_>,
            socket: &mut impl Socket,
        ) -> Option<io::Result<usize>> {
            let min_bytes = self.min_bytes?;
            if self.refused || !socket.shares_pages() {
                return None;
            }
            if self.held.is_none() && (tail.len() < min_bytes || !self.put(tail)) {
                return None;
            }
            if !self.held.as_ref()?.is(tail) {
                return None;
            }
            let pipes = self.pipes.as_mut()?;
            let sent = pipes.send(tail.len(), socket);
            if pipes.is_broken {
                self.refuse();
            }
            self.shared += u64::from(matches!(sent, Some(Ok(_))));
            sent
        }

        fn refuse(&mut self) {
            self.refused = true;
            (self.held, self.pipes) = (None, None);
        }

        /// Puts the tail of the feed into the first pipe.
        fn put(&mut self, tail: &FeedTail<'_>) -> bool {
            if self.pipes.is_none() {
                match Pipes::open() {
                    Ok(pipes) => self.pipes = Some(pipes),
                    // Descriptors may be available again later.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                        self.min_bytes = None;
                    }
                    Err(_) => self.refuse(),
                }
            }
            let Some(pipes) = &self.pipes else { return false };
            let Some(first) = tail.blocks().next().filter(|_| tail.len() <= pipes.capacity) else {
                self.min_bytes = None;
                return false;
            };
            // Writes less if memory is short now.
            let len = writev(&pipes.held.1, &tail.slices()).unwrap_or(0);
            self.held = Some(Held { first: first.clone(), start: tail.start(), len });
            if len < tail.len() {
                self.empty();
                self.min_bytes = None;
            }
            self.held.is_some()
        }
    }

    /// Read end and write end of a pipe.
    type Pipe = (OwnedFd, OwnedFd);

    #[derive(Debug)]
    struct Pipes {
        /// Pipe with the bytes for all.
        held: Pipe,
        /// Pipe with the bytes that are being sent to one socket.
        sent: Pipe,
        nowhere: File,
        /// Capacity of each, in bytes.
        capacity: usize,
        /// Whether the pipes can no longer be used.
        is_broken: bool,
    }

    impl Pipes {
        fn open() -> io::Result<Self> {
            if !is_sigpipe_harmless() {
                return Err(io::ErrorKind::Unsupported.into());
            }
            let pipe = || pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
            let (held, sent) = (pipe()?, pipe()?);
            let nowhere = File::options().write(true).open("/dev/null")?;
            let mut capacity = SHARED_BYTES_MAX;
            for pipe in [&held, &sent] {
                // Past the user's limit on pipe sizes, the default size is kept.
                let _ = fcntl_setpipe_size(&pipe.0, SHARED_BYTES_MAX);
                capacity = capacity.min(fcntl_getpipe_size(&pipe.0)?);
            }
            Ok(Self { held, sent, nowhere, capacity, is_broken: false })
        }

        /// Sends the held bytes to a socket; `None` if that is impossible and the socket has none of them.
        fn send(&mut self, len: usize, socket: &mut impl Socket) -> Option<io::Result<usize>> {
            if tee(&self.held.0, &self.sent.1, len, SpliceFlags::NONBLOCK) != Ok(len) {
                self.is_broken = true;
                return None;
            }
            let sent = socket.take_from(self.sent.0.as_fd(), len);
            let rest = len - sent.as_ref().map_or(0, |sent| *sent);
            self.is_broken |= self.drain(&self.sent, rest).is_err();
            // A system or a sandbox without this call.
            let refusals =
                [io::ErrorKind::InvalidInput, io::ErrorKind::Unsupported, io::ErrorKind::PermissionDenied];
            if sent.as_ref().is_err_and(|error| refusals.contains(&error.kind())) {
                self.is_broken = true;
                return None;
            }
            Some(sent)
        }

        fn drain(&self, pipe: &Pipe, mut len: usize) -> io::Result<()> {
            while len > 0 {
                match splice(&pipe.0, None, &self.nowhere, None, len, SpliceFlags::NONBLOCK)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    gone => len -= gone,
                }
            }
            Ok(())
        }
    }

    /// Returns whether writing to a socket without a peer only fails. `splice` has no `MSG_NOSIGNAL`, so it also
    /// sends `SIGPIPE`, which ends a program that does not ignore it. Rust's own `main` ignores it; a main in another
    /// language may not.
    fn is_sigpipe_harmless() -> bool {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        is_signal_handled(&status)
    }

    fn is_signal_handled(status: &str) -> bool {
        let mask = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        let bit = 1 << (libc::SIGPIPE - 1);
        ["SigIgn:", "SigCgt:", "SigBlk:"].into_iter().filter_map(mask).any(|mask| mask & bit != 0)
    }

    #[cfg(test)]
    mod tests {
        use std::os::fd::BorrowedFd;

        use super::*;

        #[test]
        fn a_program_that_a_broken_pipe_would_end_shares_nothing() {
            let status = |ignored: &str| {
                format!("Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t{ignored}\nSigCgt:\t00\n")
            };
            assert!(is_signal_handled(&status("0000000000001000")));
            assert!(!is_signal_handled(&status("0000000000000fff")));
            assert!(!is_signal_handled("SigIgn:\tnonsense"));
            assert!(!is_signal_handled(""));
            assert!(is_sigpipe_harmless(), "Rust's main ignores it");
        }

        /// Maximum number of bytes taken from each write; `None`: the call is not supported.
        struct Peer(Option<usize>, Vec<u8>);

        impl io::Read for Peer {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Ok(0)
            }
        }

        impl io::Write for Peer {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        impl Socket for Peer {
            fn close_write(&mut self) {}

            fn take_from(&mut self, pipe: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
                let takes = self.0.ok_or(io::ErrorKind::Unsupported)?.min(len);
                let mut bytes = vec![0; takes];
                assert_eq!(rustix::io::read(pipe, &mut bytes), Ok(takes));
                self.1.extend(bytes);
                Ok(takes)
            }
        }

        #[test]
        fn each_socket_gets_all_bytes_however_many_the_earlier_ones_took() {
            let mut pipes = Pipes::open().expect("pipes");
            let bytes: Vec<u8> = (0..100_000_u32).map(|at| (at / 7) as u8).collect();
            assert_eq!(rustix::io::write(&pipes.held.1, &bytes), Ok(bytes.len()), "{} bytes", pipes.capacity);
            for takes in [5000, 100_000, 1, 4096, 100_000] {
                let mut peer = Peer(Some(takes), Vec::new());
                assert_eq!(pipes.send(bytes.len(), &mut peer).map(Result::ok), Some(Some(takes)));
                assert_eq!(peer.1, bytes[..takes]);
            }
            assert!(!pipes.is_broken);
            assert!(pipes.send(bytes.len(), &mut Peer(None, Vec::new())).is_none());
            assert!(pipes.is_broken, "it sends nothing any more");
        }
    }
}

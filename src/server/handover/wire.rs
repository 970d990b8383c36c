//! Exchanges messages and descriptors (`SCM_RIGHTS`) between two processes on one machine.
//!
//! Invariants:
//! - A message arrives complete, with exactly its own descriptors, or not at all.
//! - All waits together have one limit, however the other end spaces its bytes.
//! - Messages from the other end are bounded, although it runs the same program.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sync::{Mutex, lock};

/// Maximum number of descriptors with one message. The kernel allows 253.
pub(super) const DESCRIPTORS_MAX: usize = 64;

/// Maximum size of a message, in bytes: the pending bytes of 64 clients, with room.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// Maximum size of a successor's answer, in bytes: a word, with room for additions of later versions.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Maximum number of bytes written in one call. The time is checked after each call.
const PIECE_BYTES: usize = 64 << 10;

/// One end of a conversation.
#[derive(Debug)]
pub(super) struct HandoverWire {
    socket: UnixStream,
    limits: Mutex<WaitLimits>,
}

/// Limits of the waits for the other end.
#[derive(Debug)]
struct WaitLimits {
    /// Waiting time that is left.
    left: Duration,
    /// Waiting time that each byte accepted by the other end adds.
    byte: Duration,
    /// Deadline of all waits, however the time was spent.
    until: Instant,
}

impl HandoverWire {
    /// Returns one end of a conversation. The limits of waits must be set before the first wait.
    pub(super) fn new(socket: UnixStream) -> Self {
        let limits = WaitLimits { left: Duration::ZERO, byte: Duration::ZERO, until: Instant::now() };
        Self { socket, limits: Mutex::new(limits) }
    }

    /// Sets the deadline of all further waits.
    pub(super) fn wait_until(&self, until: Instant) {
        *lock(&self.limits) = WaitLimits { left: Duration::MAX, byte: Duration::ZERO, until };
    }

    /// Sets the time that may be spent waiting for the other end, all waits together. Each byte that the other end accepts
    /// adds to it. Work of this end does not count, but everything has to end at `until`.
    pub(super) fn wait_in_all(&self, left: Duration, byte: Duration, until: Instant) {
        *lock(&self.limits) = WaitLimits { left, byte, until };
    }

    /// Adds waiting time.
    pub(super) fn wait_longer(&self, time: Duration) {
        let limits = &mut *lock(&self.limits);
        limits.left = limits.left.saturating_add(time);
    }

    /// Returns the time until the deadline of all waits, or an error if it has passed.
    pub(super) fn time_left(&self) -> io::Result<Duration> {
        let left = lock(&self.limits).until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    /// Calls a function that may wait for the other end, with the waiting time that is left.
    fn wait<T>(
        &self,
        limit: impl FnOnce(&UnixStream, Option<Duration>) -> io::Result<()>,
        act: impl FnOnce(&UnixStream) -> T,
    ) -> io::Result<T> {
        let left = self.time_left()?.min(lock(&self.limits).left);
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        limit(&self.socket, Some(left))?;
        let begun = Instant::now();
        let done = act(&self.socket);
        let limits = &mut *lock(&self.limits);
        limits.left = limits.left.saturating_sub(begun.elapsed());
        Ok(done)
    }

    fn extend_deadline(&self, bytes: usize) {
        let limits = &mut *lock(&self.limits);
        let added = limits.byte.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX));
        limits.left = limits.left.saturating_add(added);
    }

    /// Returns whether the other end has sent unread bytes, or has closed.
    pub(super) fn has_input(&self) -> bool {
        let mut byte = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        !matches!(rustix::net::recv(&self.socket, &mut byte, flags), Err(rustix::io::Errno::AGAIN))
    }

    /// Sends a message, and these descriptors with it. Blocks.
    pub(super) fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let len = u32::try_from(body.len()).ok().filter(|len| *len as usize <= MESSAGE_BYTES_MAX);
        let len = len.ok_or_else(|| io::Error::other("a message of over 1 GiB"))?.to_be_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other(format!("{} descriptors in one message", descriptors.len())));
        }
        // The descriptors go with the first byte.
        let sent = loop {
            let sent = self.wait(UnixStream::set_write_timeout, |socket| {
                sendmsg(socket, &[IoSlice::new(&len)], &mut rights, SendFlags::NOSIGNAL)
            })?;
            match sent {
                Err(error) if error == rustix::io::Errno::INTR => {}
                sent => break sent?,
            }
        };
        self.send_all(&len[sent..])?;
        self.send_all(&body)
    }

    fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
            match self.wait(UnixStream::set_write_timeout, |mut socket| socket.write(piece))? {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    self.extend_deadline(sent);
                    bytes = &bytes[sent..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns the next message of at most `bytes_max` bytes, and its descriptors. Blocks.
    pub(super) fn receive<M: DeserializeOwned>(&self, bytes_max: usize) -> io::Result<(M, Vec<OwnedFd>)> {
        let mut len = [0; 4];
        let mut got = 0;
        let mut descriptors = Vec::new();
        while got < len.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut rights = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut len[got..])];
            let read = self.wait(UnixStream::set_read_timeout, |socket| {
                recvmsg(socket, &mut into, &mut rights, RecvFlags::CMSG_CLOEXEC)
            })?;
            let read = match read {
                Err(error) if error == rustix::io::Errno::INTR => continue,
                read => read?.bytes,
            };
            for message in rights.drain() {
                if let RecvAncillaryMessage::ScmRights(come) = message {
                    descriptors.extend(come);
                }
            }
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            got += read;
        }
        let len = u32::from_be_bytes(len) as usize;
        if len > bytes_max {
            return Err(io::Error::other(format!(
                "a message of {len} bytes is over the limit of {bytes_max}"
            )));
        }
        Ok((serde_json::from_slice(&self.receive_all(len)?)?, descriptors))
    }

    fn receive_all(&self, len: usize) -> io::Result<Vec<u8>> {
        // Memory grows with the bytes received, not with the announced length.
        let mut body = Vec::new();
        while body.len() < len {
            let at = body.len();
            body.resize(len.min(at + PIECE_BYTES), 0);
            match self.wait(UnixStream::set_read_timeout, |mut socket| socket.read(&mut body[at..]))? {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => body.truncate(at + read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => body.truncate(at),
                Err(error) => return Err(error),
            }
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn each_message_has_its_own_descriptors() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let (one, other) = (HandoverWire::new(one), HandoverWire::new(other));
        let soon = Instant::now() + Duration::from_secs(20);
        one.wait_until(soon);
        other.wait_until(soon);
        let files: Vec<std::fs::File> =
            (0..DESCRIPTORS_MAX).map(|_| std::fs::File::open("/dev/null").expect("it is there")).collect();
        let all: Vec<BorrowedFd<'_>> = files.iter().map(std::os::fd::AsFd::as_fd).collect();
        let sender = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                one.send(&"first", &all[..1])?;
                one.send(&"none", &[])?;
                one.send(&"x".repeat(300_000), &all)?;
                one.send(&"too many", &[files[0].as_fd(); 2 * DESCRIPTORS_MAX])
            });
            for (len, count) in [(5, 1), (4, 0), (300_000, DESCRIPTORS_MAX)] {
                let (text, descriptors): (String, _) = other.receive(MESSAGE_BYTES_MAX).expect("a message");
                assert_eq!((text.len(), descriptors.len()), (len, count));
            }
            sender.join().expect("no panic")
        });
        assert!(sender.is_err(), "too many descriptors");
        drop(one);
        assert!(other.receive::<String>(MESSAGE_BYTES_MAX).is_err(), "the end");
    }

    #[test]
    fn too_long_a_body_is_refused_before_it_is_read() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let other = HandoverWire::new(other);
        other.wait_until(Instant::now() + Duration::from_secs(20));
        (&one).write_all(&0x3fff_ffffu32.to_be_bytes()).expect("written");
        let error = other.receive::<String>(ANSWER_BYTES_MAX).expect_err("too long");
        assert!(error.to_string().contains("over the limit"), "{error}");
    }

    #[test]
    fn a_peer_that_trickles_or_does_not_read_ends_at_the_deadline() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let (wire, soon) = (HandoverWire::new(one), Instant::now() + Duration::from_millis(200));
        wire.wait_until(soon);
        let trickle = std::thread::spawn(move || {
            // A byte at intervals, until the reader closes.
            (&other).write_all(&1000u32.to_be_bytes())?;
            loop {
                std::thread::sleep(Duration::from_millis(5));
                (&other).write_all(b"x")?;
            }
            #[allow(unreachable_code, reason = "it names the type")]
            io::Result::Ok(())
        });
        let ended =
            |error: io::Error| matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
        assert!(ended(wire.receive::<String>(ANSWER_BYTES_MAX).expect_err("not in time")));
        assert!(Instant::now() >= soon);
        assert!(ended(wire.send(&"x".repeat(10 << 20), &[]).expect_err("not in time")));
        drop(wire);
        assert!(trickle.join().expect("no panic").is_err());
    }
}

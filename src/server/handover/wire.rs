//! Messages between two processes on one machine, and the descriptors that go with them (`SCM_RIGHTS`).
//!
//! Imports nothing of ours. Always: a message comes whole, with its own descriptors and no others, or not at all;
//! every wait has an end. What the other end sends is bounded, though it is the same program.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Descriptors that go with one message; the kernel takes 253.
pub(super) const DESCRIPTORS_MAX: usize = 64;

/// The longest message, in bytes: what 64 clients may be owed, with room.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// One end of a conversation.
#[derive(Debug)]
pub(super) struct Wire(UnixStream);

impl Wire {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self(socket)
    }

    /// How long a step of the other end may take from here on.
    pub(super) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(patience))?;
        self.0.set_write_timeout(Some(patience))
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
            match sendmsg(&self.0, &[IoSlice::new(&len)], &mut rights, SendFlags::NOSIGNAL) {
                Err(error) if error == rustix::io::Errno::INTR => {}
                sent => break sent?,
            }
        };
        let mut out = &self.0;
        out.write_all(&len[sent..])?;
        out.write_all(&body)
    }

    /// The next message, and its descriptors. Blocks.
    pub(super) fn receive<M: DeserializeOwned>(&self) -> io::Result<(M, Vec<OwnedFd>)> {
        let mut len = [0; 4];
        let mut got = 0;
        let mut descriptors = Vec::new();
        while got < len.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut rights = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut len[got..])];
            let read = match recvmsg(&self.0, &mut into, &mut rights, RecvFlags::CMSG_CLOEXEC) {
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
        if len > MESSAGE_BYTES_MAX {
            return Err(io::Error::other("a message of over 1 GiB"));
        }
        let mut body = vec![0; len];
        (&self.0).read_exact(&mut body)?;
        Ok((serde_json::from_slice(&body)?, descriptors))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn each_message_has_its_own_descriptors() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let (one, other) = (Wire::new(one), Wire::new(other));
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
                let (text, descriptors): (String, _) = other.receive().expect("a message");
                assert_eq!((text.len(), descriptors.len()), (len, count));
            }
            sender.join().expect("no panic")
        });
        assert!(sender.is_err(), "too many descriptors");
        drop(one);
        assert!(other.receive::<String>().is_err(), "the end");
    }
}

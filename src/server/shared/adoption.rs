//! Connections that the embedding program accepted and that wait for a loop.
//!
//! Invariants:
//! - A connection that was taken reaches a loop, or its socket is closed.
//! - Nothing waits for a loop that has ended.

use std::collections::VecDeque;
use std::net::{IpAddr, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;

use crate::codec::http::Request;
use crate::server::auth::Shown;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Callback, Mutex, lock};

/// Socket that the embedding program accepted.
#[derive(Debug)]
pub(crate) enum AdoptedSocket {
    Tcp(TcpStream),
    /// One end of a pair, and the address of the client at the other end, if it is known.
    #[cfg(unix)]
    Unix(UnixStream, Option<IpAddr>),
}

/// Request that the embedding program has read.
#[derive(Debug)]
pub(crate) struct AdoptedRequest {
    pub(crate) request: Request,
    /// Rights that the program gives; `None`: the request's own credentials decide.
    pub(crate) shown: Option<Shown>,
    /// Bytes that were read after the request.
    pub(crate) read: Vec<u8>,
    pub(crate) head: AdoptedHead,
}

/// Head of the response to a request that the embedding program has read.
#[derive(Debug)]
pub(crate) enum AdoptedHead {
    /// The server writes its own.
    Own,
    /// The server writes this one before the stream, or its own refusal.
    #[cfg_attr(not(all(unix, feature = "tower")), allow(dead_code, reason = "made by `tower`, and by tests"))]
    Given(Vec<u8>),
    /// The program has written it.
    Written,
}

impl AdoptedRequest {
    /// Returns the memory of the request and of the input after it, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        let head = if let AdoptedHead::Given(head) = &self.head { head.capacity() } else { 0 };
        size_of::<Self>() + self.request.held_bytes() + self.read.capacity() + head
    }
}

/// Connection that waits for a loop.
pub(crate) struct Adoption {
    pub(crate) socket: AdoptedSocket,
    pub(crate) request: AdoptedRequest,
}

/// Connections that wait for one loop.
#[derive(Default)]
struct AdoptionQueue {
    /// `None` once the loop has ended.
    waiting: Mutex<Option<VecDeque<Adoption>>>,
    /// Whether connections wait, readable without the lock.
    has_some: AtomicBool,
    waker: Mutex<Option<Callback>>,
}

/// Connections that wait for their loops.
pub(crate) struct Adoptions {
    queues: Box<[AdoptionQueue]>,
    next: AtomicUsize,
}

impl Adoptions {
    pub(crate) fn new(loops: usize) -> Self {
        Self { queues: (0..loops).map(|_| AdoptionQueue::default()).collect(), next: AtomicUsize::new(0) }
    }

    /// Opens the queue of a loop that now runs, and sets the callback that wakes it.
    pub(crate) fn open(&self, number: usize, waker: Callback) {
        lock(&self.queues[number].waiting).get_or_insert_default();
        *lock(&self.queues[number].waker) = Some(waker);
    }

    /// Gives a connection to the next loop in turn. Returns false if that loop has ended: the socket is closed then.
    pub(crate) fn give(&self, adoption: Adoption) -> bool {
        // Relaxed: any order of the loops is as good.
        let number = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        let queue = &self.queues[number];
        {
            let mut waiting = lock(&queue.waiting);
            let Some(waiting) = waiting.as_mut() else { return false };
            waiting.push_back(adoption);
            // Relaxed: the waker's system call orders it for the loop.
            queue.has_some.store(true, Ordering::Relaxed);
        }
        let wake = lock(&queue.waker).clone();
        if let Some(wake) = wake {
            wake();
        }
        true
    }

    /// Returns whether connections wait for this loop.
    pub(crate) fn has_some(&self, number: usize) -> bool {
        // Relaxed: as above.
        self.queues[number].has_some.load(Ordering::Relaxed)
    }

    /// Takes the connection that has waited longest for this loop.
    pub(crate) fn take(&self, number: usize) -> Option<Adoption> {
        let queue = &self.queues[number];
        let mut waiting = lock(&queue.waiting);
        let adoption = waiting.as_mut().and_then(VecDeque::pop_front);
        if adoption.is_none() {
            // Relaxed: written under the lock, as in `give`.
            queue.has_some.store(false, Ordering::Relaxed);
        }
        adoption
    }

    /// Closes the queue of a loop that ends, and the sockets in it.
    pub(crate) fn close(&self, number: usize) {
        let waiting = lock(&self.queues[number].waiting).take();
        drop(waiting);
    }
}

//! An eventcount: readers that sleep, and publishers that wake them.
//!
//! Invariants:
//! - P1 A reader that announced its sleep, then found nothing to read, is woken by the next publication.
//! - P2 One sleep is ended by one wake, however many events come: the publisher that moves the waiter's state from ASLEEP
//!   calls the waker, and no other publisher does.
//! - P3 A publisher that finds no reader asleep pays a light fence and one load of a cache line that changes only when
//!   a reader announces a sleep or ends it.
//! - P4 A waker is the embedder's code: it is called and dropped with no lock held. Its panic is caught and counted, so
//!   the sleepers after it are woken too.
//! - P5 An announcement may stand while its reader is awake. A reader that goes back to sleep on it needs no other fence: every
//!   publication since then has woken it, or is visible to the look that follows.
//!
//! # States of a waiter
//! `AWAKE -> ASLEEP` by its reader (`prepare_wait`). `ASLEEP -> AWAKE` by its reader (`cancel_wait`), or
//! `ASLEEP -> WAKING -> AWAKE` by one publisher, which owns the waker between the two steps. A reader that cancels while
//! WAKING waits for that publisher; publishers never wait.
//!
//! # Orderings
//! E6 sleep: the reader writes `count` and `state`, passes a heavy fence, looks at the ring. The publisher writes the
//! ring, passes a light fence, looks at `count` and `state`. Whichever fence comes first in the total order, the side
//! after it sees what the other wrote: the publisher sees the sleeper, or the reader sees the event.
//! E8 waker: the waker is written before `state = ASLEEP` (release), and read after winning the state (acquire);
//! `state = AWAKE` (release) by the publisher hands it back to the reader (acquire).

use std::{fmt, task};

use super::barrier::Fences;
use super::panics::catch_panic;
use crate::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{CachePadded, Callback, Mutex, compiler_fence, lock, thread};

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const WAKING: u32 = 2;

/// Bit of the count of sleepers where publishers need a real fence before they look at it: with it, one look at the
/// count says whether anything more has to be done.
const SYMMETRIC: usize = 1 << (usize::BITS - 1);

/// Means of waking one sleeper.
#[derive(Clone)]
pub enum Wake {
    /// A thread that parks.
    Thread(thread::Thread),
    /// An event loop.
    Call(Callback),
    /// A stream's task.
    Task(task::Waker),
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

impl Wake {
    /// Wakes the sleeper, and returns false if its waker panicked.
    fn wake(self) -> bool {
        match self {
            Self::Thread(thread) => {
                thread.unpark();
                true
            }
            Self::Call(call) => catch_panic(move || call()).is_some(),
            Self::Task(waker) => catch_panic(move || waker.wake()).is_some(),
        }
    }
}

/// Sleeping place of one reader.
#[derive(Default)]
pub(crate) struct Waiter {
    state: AtomicU32,
    // Never contended: the state says which thread owns it.
    wake: Mutex<Option<Wake>>,
}

#[cfg(any(feature = "server", loom))]
impl Waiter {
    /// Returns whether the announcement of this waiter's reader is still in effect: no publisher has woken it since.
    /// Called by the reader.
    pub(crate) fn is_asleep(&self) -> bool {
        // If this load is stale, a publisher is about to call the waker, which ends the sleep.
        self.state.load(Ordering::Relaxed) == ASLEEP
    }
}

/// The number of sleepers, and statistics. Waiters are in the registry.
pub(crate) struct EventCount {
    fences: Fences,
    /// Number of sleepers, with [`SYMMETRIC`].
    count: CachePadded<AtomicUsize>,
    wakes: AtomicU64,
    panics: AtomicU64,
}

impl EventCount {
    pub(crate) fn new(fences: Fences) -> Self {
        let count = CachePadded::new(AtomicUsize::new(if fences.is_asymmetric() { 0 } else { SYMMETRIC }));
        Self { fences, count, wakes: AtomicU64::new(0), panics: AtomicU64::new(0) }
    }

    /// Returns the number of wakes so far.
    pub(crate) fn wakes(&self) -> u64 {
        // A statistic: no edge.
        self.wakes.load(Ordering::Relaxed)
    }

    /// Returns the number of panics of wakers so far.
    pub(crate) fn panics(&self) -> u64 {
        // A statistic: no edge.
        self.panics.load(Ordering::Relaxed)
    }

    /// Announces a sleep. Called by the reader that owns this waiter: it must look for events once more before it sleeps,
    /// and [`cancel_wait`](Self::cancel_wait) in any case afterwards.
    pub(crate) fn prepare_wait(&self, waiter: &Waiter, wake: Wake) {
        // Not AWAKE if this reader's previous announcement was not cancelled. Relaxed: only this reader stores ASLEEP.
        if waiter.state.load(Ordering::Relaxed) != AWAKE {
            self.cancel_wait(waiter);
        }
        let before = lock(&waiter.wake).replace(wake);
        debug_assert!(before.is_none(), "a reader that is awake has no waker");
        drop(before);
        // Before the state, so that the count is never below the number of waiters that show ASLEEP: a
        // publisher that wakes this one at once subtracts only after this addition. Ordered by E6.
        self.count.fetch_add(1, Ordering::Relaxed);
        // E8; and E6 by the fence.
        waiter.state.store(ASLEEP, Ordering::Release);
        self.fences.heavy();
    }

    /// Ends the announcement, whether or not a publisher woke the reader.
    pub(crate) fn cancel_wait(&self, waiter: &Waiter) {
        // E8: acquire, to own the waker again.
        let mut seen = waiter.state.compare_exchange(ASLEEP, AWAKE, Ordering::Acquire, Ordering::Acquire);
        if seen.is_ok() {
            self.count.fetch_sub(1, Ordering::Relaxed);
            let wake = lock(&waiter.wake).take();
            catch_panic(|| drop(wake));
            return;
        }
        while seen == Err(WAKING) {
            thread::yield_now();
            // E8, as above.
            seen = waiter.state.compare_exchange(ASLEEP, AWAKE, Ordering::Acquire, Ordering::Acquire);
        }
    }

    /// Returns whether a reader may be asleep. Called by a publisher after a publication: if so, it must wake all waiters.
    #[inline(always)]
    pub(crate) fn has_waiters(&self) -> bool {
        if !cfg!(loom) {
            // E6, where the light fence is only the compiler's. Elsewhere the count never is 0, and the fence follows.
            compiler_fence();
            if self.count.load(Ordering::Relaxed) == 0 {
                return false;
            }
        }
        self.has_waiters_after_fence()
    }

    #[cold]
    fn has_waiters_after_fence(&self) -> bool {
        self.fences.light();
        // E6, by the fence.
        self.count.load(Ordering::Relaxed) & !SYMMETRIC != 0
    }

    /// Wakes the reader of this waiter, if it sleeps.
    pub(crate) fn wake(&self, waiter: &Waiter) {
        // E6 by the fence in `has_waiters`. A plain look first, so that lines of readers that are awake stay shared.
        if waiter.state.load(Ordering::Relaxed) != ASLEEP {
            return;
        }
        // E8: acquire, for the waker.
        let won = waiter.state.compare_exchange(ASLEEP, WAKING, Ordering::Acquire, Ordering::Relaxed);
        if won.is_err() {
            return;
        }
        let wake = lock(&waiter.wake).take();
        self.count.fetch_sub(1, Ordering::Relaxed);
        // E8: hands the waiter back.
        waiter.state.store(AWAKE, Ordering::Release);
        self.wakes.fetch_add(1, Ordering::Relaxed);
        if wake.is_some_and(|wake| !wake.wake()) {
            // A statistic: no edge.
            self.panics.fetch_add(1, Ordering::Relaxed);
        }
    }
}

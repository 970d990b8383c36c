//! Sleeping readers and the publishers that wake them: an eventcount.
//!
//! Imports `sync`, `barrier` and `caught`. Always:
//! - P1 a reader that announced its sleep, then found nothing to read, is woken by the next publication;
//! - P2 one sleep is ended by one wake, however many events come: the publisher that wins the bed's state
//!   from ASLEEP calls the waker, nobody else;
//! - P3 a publisher that finds nobody asleep has paid a light fence and one load of a line that changes
//!   only when somebody lies down or gets up;
//! - P4 a waker is the embedder's code: it is called and dropped with no lock held, and its panic is counted and
//!   goes no further, so the sleepers behind it are woken too.
//!
//! # States of a bed
//! `AWAKE -> ASLEEP` by its reader (announce). `ASLEEP -> AWAKE` by its reader (cancel), or
//! `ASLEEP -> WAKING -> AWAKE` by one publisher, which owns the waker between the two steps. A reader that
//! cancels while WAKING waits for that publisher; publishers wait for nobody.
//!
//! # Orderings
//! E6 sleep: the reader writes `count` and `state`, passes a heavy fence, looks at the ring. The publisher
//! writes the ring, passes a light fence, looks at `count` and `state`. Whichever fence comes first in the
//! total order, the side behind it sees what the other wrote: the publisher sees the sleeper, or the reader
//! sees the event.
//! E8 waker: the waker is written before `state = ASLEEP` (release), and read after winning the state
//! (acquire); `state = AWAKE` (release) by the publisher hands it back to the reader (acquire).

use std::task::Waker;

use super::barrier::Fences;
use super::caught::caught;
use crate::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Callback, Mutex, Padded, lock, thread};

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const WAKING: u32 = 2;

/// How a sleeper is woken.
pub(crate) enum Wake {
    Thread(thread::Thread),
    #[cfg_attr(not(feature = "server"), expect(dead_code, reason = "an event loop's"))]
    Call(Callback),
    #[cfg_attr(not(feature = "async"), expect(dead_code, reason = "a stream's"))]
    Task(Waker),
}

impl Wake {
    /// False where it panicked.
    fn wake(self) -> bool {
        match self {
            Self::Thread(thread) => {
                thread.unpark();
                true
            }
            Self::Call(call) => caught(move || call()).is_some(),
            Self::Task(waker) => caught(move || waker.wake()).is_some(),
        }
    }
}

/// Where one reader sleeps.
#[derive(Default)]
pub(crate) struct Bed {
    state: AtomicU32,
    // Never contended: the state says whose it is.
    wake: Mutex<Option<Wake>>,
}

/// How many sleep.
pub(crate) struct Sleepers {
    fences: Fences,
    count: Padded<AtomicUsize>,
    wakes: AtomicU64,
    panics: AtomicU64,
}

impl Sleepers {
    pub(crate) fn new(fences: Fences) -> Self {
        Self { fences, count: Padded::default(), wakes: AtomicU64::new(0), panics: AtomicU64::new(0) }
    }

    /// Wakes given so far.
    pub(crate) fn wakes(&self) -> u64 {
        // A statistic: no edge.
        self.wakes.load(Ordering::Relaxed)
    }

    /// Panics of wakers so far.
    pub(crate) fn panics(&self) -> u64 {
        // A statistic: no edge.
        self.panics.load(Ordering::Relaxed)
    }

    /// For the reader that owns this bed. It must look for events once more before it sleeps,
    /// and [`cancel`](Self::cancel) in any case afterwards.
    pub(crate) fn announce(&self, bed: &Bed, wake: Wake) {
        // Its own store, if any: one that announced and was dropped before it looked again.
        if bed.state.load(Ordering::Relaxed) != AWAKE {
            self.cancel(bed);
        }
        let before = lock(&bed.wake).replace(wake);
        debug_assert!(before.is_none(), "who is awake has no waker");
        drop(before);
        // Before the state, so that the count is never below the number of beds that show ASLEEP: a
        // publisher that wakes this bed at once takes off what was put on. Ordered by E6.
        self.count.0.fetch_add(1, Ordering::Relaxed);
        // E8; and E6 by the fence.
        bed.state.store(ASLEEP, Ordering::Release);
        self.fences.heavy();
    }

    /// Ends the announcement, whether or not somebody woke the reader.
    pub(crate) fn cancel(&self, bed: &Bed) {
        // E8: acquire, to own the waker again.
        let mut seen = bed.state.compare_exchange(ASLEEP, AWAKE, Ordering::Acquire, Ordering::Acquire);
        if seen.is_ok() {
            self.count.0.fetch_sub(1, Ordering::Relaxed);
            let wake = lock(&bed.wake).take();
            caught(|| drop(wake));
            return;
        }
        while seen == Err(WAKING) {
            thread::yield_now();
            // E8, as above.
            seen = bed.state.compare_exchange(ASLEEP, AWAKE, Ordering::Acquire, Ordering::Acquire);
        }
    }

    /// Whether somebody may be asleep. After a publication, for the publisher: if so, it must wake
    /// all beds.
    #[inline(always)]
    pub(crate) fn any(&self) -> bool {
        self.fences.light();
        // E6, by the fence.
        self.count.0.load(Ordering::Relaxed) != 0
    }

    /// Wakes the reader of this bed, if it sleeps.
    pub(crate) fn wake(&self, bed: &Bed) {
        // E6 by the fence in `any`. A plain look first, so that beds of readers that are awake stay shared.
        if bed.state.load(Ordering::Relaxed) != ASLEEP {
            return;
        }
        // E8: acquire, for the waker.
        let won = bed.state.compare_exchange(ASLEEP, WAKING, Ordering::Acquire, Ordering::Relaxed);
        if won.is_err() {
            return;
        }
        let wake = lock(&bed.wake).take();
        self.count.0.fetch_sub(1, Ordering::Relaxed);
        // E8: hands the bed back.
        bed.state.store(AWAKE, Ordering::Release);
        self.wakes.fetch_add(1, Ordering::Relaxed);
        if wake.is_some_and(|wake| !wake.wake()) {
            // A statistic: no edge.
            self.panics.fetch_add(1, Ordering::Relaxed);
        }
    }
}

//! Recording: keeps the newest events since the recording was started.
//!
//! Invariants: at most `max` events are kept. Publishing copies nothing: the recorder reads the ring as any other
//! reader does. It reads when the history is requested; a recording larger than the ring has a thread that reads along.

use std::collections::VecDeque;
use std::sync::Arc as Count;

use super::cursor::Cursor;
use super::delivery::DeliveryRef;
use super::item::Item;
use super::ring::RingSet;
use super::wait::{AdaptiveWait, WaitStrategy};
use super::waitable::Waitable;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, lock};

/// A recording.
pub(super) struct Recorder<T: Item> {
    /// `Some` while recording.
    pub(super) cursor: Option<Cursor<T>>,
    pub(super) kept: VecDeque<T>,
    pub(super) max: usize,
    pub(super) missed: u64,
    pub(super) stop: Count<AtomicBool>,
}

impl<T: Item> Default for Recorder<T> {
    fn default() -> Self {
        Self { cursor: None, kept: VecDeque::new(), max: 0, missed: 0, stop: Count::default() }
    }
}

impl<T: Item> Recorder<T> {
    /// Takes the events that came since the last look.
    pub(super) fn pull(&mut self) {
        let Self { cursor: Some(cursor), kept, max, missed, .. } = self else { return };
        while cursor.visit(|visit| {
            match visit {
                DeliveryRef::Event(item) => {
                    if kept.len() == *max {
                        kept.pop_front();
                    }
                    kept.push_back(item.duplicate());
                }
                DeliveryRef::Gap(gap) => *missed += gap.missed,
            }
            true
        }) {}
    }

    /// Ends the recording; the kept events stay. [`RingSet::notify`] must follow, after the lock is released: the
    /// thread may sleep, and waking runs the embedder's wakers.
    pub(super) fn stop(&mut self) {
        self.pull();
        self.cursor = None;
        // Relaxed: after the announcement of the thread's sleep (E6).
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Reads along with the recorder in a thread of its own, until the recording ends.
pub(super) fn read_along<T: Item>(
    rings: &Arc<RingSet<T::Codec>>,
    recorder: &Mutex<Recorder<T>>,
    stop: &AtomicBool,
) {
    // Starts at the recorder's place, and is used for waiting only.
    let mut cursor = Cursor::<T>::new(rings);
    let mut waiting = AdaptiveWait::new(WaitStrategy::Park);
    while !stop.load(Ordering::Relaxed) {
        let mut recorder = lock(recorder);
        if stop.load(Ordering::Relaxed) {
            return;
        }
        recorder.pull();
        if let Some(reads) = &recorder.cursor {
            for shard in 0..cursor.shards() {
                cursor.set_next(shard, reads.next(shard));
            }
        }
        drop(recorder);
        if cursor.is_closed() {
            return;
        }
        // Relaxed: called after the announcement of sleep, E6 orders it with the store and the notice that follows it.
        waiting.wait(&mut cursor, None, || stop.load(Ordering::Relaxed));
    }
}

//! Writers for threads that publish without a [`Publisher`](super::Publisher).
//!
//! Invariant: a thread takes a writer that is free, and never waits for one.

use std::cell::Cell;
use std::sync::PoisonError;

use super::ring::{RingSet, RingWriter, SlotCodec};
use crate::sync::{Arc, CachePadded, Mutex, MutexGuard};

/// Number of writers that threads without a publisher of their own share.
const WRITERS: usize = 8;

/// Writers shared by all threads that publish through the bus itself.
pub(super) struct WriterPool<C: SlotCodec>(Box<[CachePadded<Mutex<RingWriter<C>>>]>);

impl<C: SlotCodec> WriterPool<C> {
    pub(super) fn new(rings: &Arc<RingSet<C>>) -> Self {
        let count = if C::COUNTED { WRITERS } else { 0 };
        Self((0..count).map(|_| CachePadded::new(Mutex::new(RingWriter::new(Arc::clone(rings))))).collect())
    }

    /// Returns a writer for this thread: its preferred one, or the next free one. `None` if all are taken.
    #[inline]
    pub(super) fn acquire(&self) -> Option<MutexGuard<'_, RingWriter<C>>> {
        let home = preferred_writer();
        (0..self.0.len()).find_map(|step| match self.0[(home + step) % WRITERS].try_lock() {
            Ok(writer) => Some(writer),
            Err(std::sync::TryLockError::Poisoned(writer)) => Some(PoisonError::into_inner(writer)),
            Err(std::sync::TryLockError::WouldBlock) => None,
        })
    }

    /// Releases evicted bodies that no reader looks at, from the writers that are free now.
    pub(super) fn reclaim(&self) {
        for writer in &self.0 {
            if let Ok(mut writer) = writer.try_lock() {
                writer.reclaim();
            }
        }
    }
}

/// Returns the index of this thread's preferred writer. Threads take turns in choosing one.
fn preferred_writer() -> usize {
    use crate::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static WRITER: Cell<usize> = const { Cell::new(usize::MAX) });
    WRITER.with(|writer| {
        if writer.get() == usize::MAX {
            // A number of its own: no edge.
            writer.set(NEXT.fetch_add(1, Ordering::Relaxed) % WRITERS);
        }
        writer.get()
    })
}

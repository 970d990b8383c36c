//! Releases overwritten bodies that no reader looks at any more.
//!
//! Invariant: I4 of the room. A writer holds at most [`RETIRED_MAX`] evicted bodies or [`RETIRED_BYTES_MAX`] bytes of
//! them, and up to one pin span more for each reader that is stopped in the middle of a span.
#![allow(unsafe_code, reason = "releases bodies; the invariants are the room's")]

use super::pin::{IDLE, is_pinned, pin_word};
use super::{RingSet, RingWriter, Sequence, SlotCodec};
use crate::sync::atomic::{Ordering, fence};
use crate::sync::lock;

/// Evictions between two looks at the pins.
const RETIRED_MAX: usize = if cfg!(loom) { 1 } else { 128 };
/// Weight of the evictions between two looks at the pins, in bytes.
const RETIRED_BYTES_MAX: u64 = 1 << 20;

/// A body that was overwritten, or released early.
pub(super) struct Evicted {
    /// Shard and sequence, as [`pin_word`] makes them.
    pin_word: u64,
    /// Word 0 of the slot: one count of the body.
    word: u64,
    /// Weight of the body, in bytes.
    weight: u64,
}

/// Evicted bodies of one writer that are not released yet.
pub(super) struct Retired {
    list: Vec<Evicted>,
    /// Length of the list at which pins are looked at again.
    max: usize,
    /// Weight of the list, in bytes.
    bytes: u64,
    /// Weight at which pins are looked at again, in bytes.
    bytes_max: u64,
}

impl Retired {
    pub(super) fn new() -> Self {
        Self { list: Vec::new(), max: RETIRED_MAX, bytes: 0, bytes_max: RETIRED_BYTES_MAX }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds the body that a slot of `shard` owned while it showed `sequence`.
    #[inline(always)]
    pub(super) fn push(&mut self, shard: usize, sequence: Sequence, word: u64, weight: u64) {
        self.list.push(Evicted { pin_word: pin_word(shard, sequence), word, weight });
        self.bytes += weight;
    }

    /// Returns whether there are enough to look at the pins.
    #[inline(always)]
    pub(super) fn is_due(&self) -> bool {
        self.list.len() >= self.max || self.bytes >= self.bytes_max
    }

    /// Moves the rest to the list of bodies whose writer is gone.
    pub(super) fn abandon(&mut self, orphans: &mut Vec<Evicted>) {
        orphans.append(&mut self.list);
    }
}

impl<C: SlotCodec> RingWriter<C> {
    /// Releases the retired bodies that no reader looks at. Walks all participants; never blocks.
    #[cold]
    pub(crate) fn reclaim(&mut self) {
        let Self { rings, retired, .. } = self;
        if let Ok(mut orphans) = rings.orphans.try_lock() {
            retired.list.append(&mut orphans);
        }
        // E4: after every eviction on the list: those of other writers came with the lock.
        fence(Ordering::SeqCst);
        let mut pins = Vec::new();
        rings.registry.for_each(|participant| {
            // E5.
            let pin = participant.sequence.load(Ordering::Acquire);
            if pin != IDLE {
                pins.push(pin);
            }
        });
        let before = retired.list.len();
        let is_free = |evicted: &mut Evicted| !pins.iter().any(|&pin| is_pinned(pin, evicted.pin_word));
        let mut weight = 0;
        let free = retired.list.extract_if(.., is_free).map(|evicted| {
            weight += evicted.weight;
            evicted.word
        });
        // SAFETY: I3: each count came from a slot's word 0. I4: its eviction was before the fence, no pin covers it
        // after the fence, so no reader holds it or can come to (E4), and those that did are done (E5). It has left
        // the list when it is released, so it is released once.
        unsafe { C::release_all(free) };
        let released = before - retired.list.len();
        // A statistic: no edge.
        rings.released.fetch_add(released as u64, Ordering::Relaxed);
        retired.max = retired.list.len() + RETIRED_MAX;
        retired.bytes = retired.list.iter().map(|evicted| evicted.weight).sum();
        retired.bytes_max = retired.bytes + RETIRED_BYTES_MAX;
        // Includes bodies of other writers: only the sum over all accounts counts.
        self.add_to_net(-(weight as i64));
    }
}

impl<C: SlotCodec> Drop for RingSet<C> {
    fn drop(&mut self) {
        let orphans = std::mem::take(&mut *lock(&self.orphans));
        // SAFETY: I3, I4: evicted counts that no list holds any more; no reader is left.
        unsafe { C::release_all(orphans.into_iter().map(|evicted| evicted.word)) };
    }
}

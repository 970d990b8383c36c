//! Releases overwritten bodies that no reader looks at any more.
//!
//! Invariant: I4 of the room.
#![allow(unsafe_code, reason = "releases bodies; the invariants are the room's")]

use super::pin::is_pinned;
use super::registry::IDLE;
use super::retired::{Evicted, RETIRED_BYTES_MAX, RETIRED_MAX};
use super::{RingSet, RingWriter, SlotCodec};
use crate::sync::atomic::{Ordering, fence};
use crate::sync::lock;

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

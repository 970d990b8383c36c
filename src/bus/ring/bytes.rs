//! The ring's bound in bytes: the weight of its items, and how the oldest are released early.
//!
//! Invariants: I8 of the room; the weight of a ring's items is the sum of the settled weight and each publisher's
//! unsettled weight, which is at most a grain.
//!
//! A count that all publishers share would cost each publication a second read-modify-write on a shared line. So each
//! writer adds up for itself, and settles with the ring when it has a grain: 1/4096 of the bound. The ring holds to a
//! bound that is 1/64 lower, so up to 64 writers that have not settled do not carry it over the requested one. Items are
//! then released down to another 1/64 below, because each such step costs a system call where fences are asymmetric.

use std::ops::Range;

use super::slot_codec::SlotCodec;
use super::slots::Ring;
use super::{PIN_SPAN, Sequence};
use crate::sync::atomic::{Ordering, fence};

impl<C: SlotCodec> Ring<C> {
    /// Adds the bytes that a writer put in minus those it took out, and returns whether the ring is over its bound.
    pub(super) fn settle(&self, unsettled: i64) -> bool {
        // A sum: no edge.
        let before = self.weight.fetch_add(unsettled as u64, Ordering::Relaxed);
        self.bound.is_set() && before.wrapping_add(unsettled as u64) as i64 > self.bound.high as i64
    }

    /// Returns the number of bytes by which the ring is over its lower mark, down to which items are released.
    fn excess(&self) -> u64 {
        (self.weight.load(Ordering::Relaxed) as i64).saturating_sub(self.bound.low as i64).max(0) as u64
    }

    /// Returns whether a sequence is among those that were released early.
    #[inline(always)]
    pub(super) fn is_below_floor(&self, sequence: Sequence) -> bool {
        // E11, by the fence before it.
        self.floor.load(Ordering::Relaxed) > sequence
    }

    /// Raises the floor over as many of the oldest items as the bound requires: at most a pin span, and none from
    /// `until` on. Returns their sequences: the caller takes them out, after the fences of E11.
    pub(super) fn raise_floor(&self, until: Sequence) -> Option<Range<Sequence>> {
        loop {
            let excess = self.excess();
            let floor = self.floor.load(Ordering::Relaxed);
            let from = self.oldest();
            let (mut to, mut sum) = (from, 0_u64);
            while to < until && to - from < PIN_SPAN && sum < excess {
                // A hint: the caller that takes an item out reads its weight under the stamp.
                sum = sum.saturating_add(Self::weight_word(self.slot(to)).load(Ordering::Relaxed));
                to += 1;
            }
            if to <= from.max(floor) {
                return None;
            }
            // E11, by the fence after it.
            let raised = self.floor.compare_exchange(floor, to, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            if raised {
                return Some(from..to);
            }
        }
    }

    /// Takes the item of a sequence below the floor out of its slot, and returns its word 0 and its weight. `None` if the
    /// item is not there (yet), or another thread takes it. The caller has a pin over the sequence and has passed the
    /// fences of E11.
    pub(super) fn take_out(&self, sequence: Sequence) -> Option<(u64, u64)> {
        let slot = self.slot(sequence);
        // E1; and E11 by the fence.
        if slot.stamp.load(Ordering::Acquire) != Self::published(sequence) {
            return None;
        }
        let body = Self::word(slot, 0);
        let word = body.load(Ordering::Relaxed);
        let weight = Self::weight_word(slot).load(Ordering::Relaxed);
        // E2.
        fence(Ordering::Acquire);
        if word == 0 || slot.stamp.load(Ordering::Relaxed) != Self::published(sequence) {
            return None;
        }
        // I8: while the pin is held no other body has this address, so the word is this sequence's or none.
        let taken = body.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        taken.then_some((word, weight))
    }
}

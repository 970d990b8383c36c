//! The ring's bound in bytes: what its items weigh, and how the oldest are let go of early.
//!
//! Imports `sync`. Always: I8 of the room; what a ring's items weigh is the sum of what publishers have settled and
//! what they have not, and of the latter each has at most a grain.
//!
//! A count that all publishers share would cost each publication a second read-modify-write on a shared line. So
//! each writer adds up for itself, and settles with the ring when it has a grain: 1/4096 of the bound. The bound that
//! is held to is 1/64 lower, so up to 64 writers that have not settled do not carry the ring over the one that was
//! asked for. What goes over is then let go of down to another 1/64 below, because each such step costs a
//! system call where fences are asymmetric.

use std::ops::Range;

use super::cargo::Cargo;
use super::slots::Ring;
use super::{RUN, Sequence};
use crate::sync::atomic::{Ordering, fence};

/// The most that a writer has before it settles.
const GRAIN_MAX: u64 = 64 << 10;

/// How many bytes the bodies in a ring may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    /// Over this the oldest are let go of...
    high: u64,
    /// ...until they weigh this.
    low: u64,
    grain: u64,
}

impl Bound {
    /// So many bytes; 0 = no bound.
    pub(crate) fn new(bytes: u64) -> Self {
        if bytes == 0 {
            return Self { high: u64::MAX, low: u64::MAX, grain: GRAIN_MAX };
        }
        Self { high: bytes - bytes / 64, low: bytes - bytes / 32, grain: (bytes / 4096).min(GRAIN_MAX) }
    }

    #[inline(always)]
    pub(super) fn is_set(self) -> bool {
        self.high != u64::MAX
    }

    /// Whether a writer that has so much must settle.
    #[inline(always)]
    pub(super) fn is_grain(self, pending: i64) -> bool {
        pending.unsigned_abs() > self.grain
    }
}

impl<C: Cargo> Ring<C> {
    /// Adds what a writer has put in beyond what it took out. Answers whether the ring is over its bound.
    pub(super) fn settle(&self, pending: i64) -> bool {
        // A sum: no edge.
        let before = self.weight.0.fetch_add(pending as u64, Ordering::Relaxed);
        self.bound.is_set() && before.wrapping_add(pending as u64) as i64 > self.bound.high as i64
    }

    /// How much it is over what it is brought back to.
    fn excess(&self) -> u64 {
        (self.weight.0.load(Ordering::Relaxed) as i64).saturating_sub(self.bound.low as i64).max(0) as u64
    }

    /// Whether a sequence is among those that were let go of.
    #[inline(always)]
    pub(super) fn is_below_floor(&self, sequence: Sequence) -> bool {
        // E11, by the fence before it.
        self.floor.0.load(Ordering::Relaxed) > sequence
    }

    /// Raises the floor over as many of the oldest as it takes, at most a run, and none from `until` on. Answers
    /// which they are: the caller's to take out, behind the fences of E11.
    pub(super) fn raise_floor(&self, until: Sequence) -> Option<Range<Sequence>> {
        loop {
            let excess = self.excess();
            let floor = self.floor.0.load(Ordering::Relaxed);
            let from = self.oldest();
            let (mut to, mut sum) = (from, 0_u64);
            while to < until && to - from < RUN && sum < excess {
                // A hint: who takes an item out reads its weight under the stamp.
                sum = sum.saturating_add(Self::weight_word(self.slot(to)).load(Ordering::Relaxed));
                to += 1;
            }
            if to <= from.max(floor) {
                return None;
            }
            // E11, by the fence behind it.
            let raised =
                self.floor.0.compare_exchange(floor, to, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            if raised {
                return Some(from..to);
            }
        }
    }

    /// Takes the item of a sequence below the floor out of its slot: its word 0, and what it weighs. None where it is
    /// not there (yet), or another takes it. For who has a pin over it, behind the fences of E11.
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
        // I8: while the pin stands no other body has this address, so the word is this sequence's or none.
        let taken = body.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        taken.then_some((word, weight))
    }
}

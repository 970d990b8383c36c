//! The names of evicted logs, in a fixed amount of memory.
//!
//! Invariant: a name that was added is found. A name that was not added may be found too (a Bloom filter): then a
//! complete log is reported as incomplete.

use std::hash::BuildHasher as _;

use foldhash::quality::RandomState;

use super::rule::RetainBy;

/// Bits of a set: 128 KiB. With 100,000 names, one in 90 other names is found by mistake.
const BITS: usize = 1 << 20;

/// Bits that are set for a name.
const BITS_A_NAME: usize = 4;

/// Set of names, which allocates with the first one.
#[derive(Debug, Default)]
pub(super) struct LostNames {
    bits: Box<[u64]>,
    hasher: RandomState,
}

impl LostNames {
    fn places(&self, by: RetainBy, value: &str) -> [usize; BITS_A_NAME] {
        let hash = self.hasher.hash_one((by, value));
        let (start, step) = (hash as usize, (hash >> 32) as usize | 1);
        std::array::from_fn(|at| start.wrapping_add(step.wrapping_mul(at)) % BITS)
    }

    pub(super) fn add(&mut self, by: RetainBy, value: &str) {
        if self.bits.is_empty() {
            self.bits = vec![0; BITS / 64].into();
        }
        for place in self.places(by, value) {
            self.bits[place / 64] |= 1 << (place % 64);
        }
    }

    /// Returns whether the name may have been added.
    pub(super) fn may_have(&self, by: RetainBy, value: &str) -> bool {
        !self.bits.is_empty()
            && self.places(by, value).iter().all(|place| self.bits[place / 64] & 1 << (place % 64) != 0)
    }

    /// Returns whether no name was added.
    pub(super) fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }

    pub(super) fn held_bytes(&self) -> usize {
        size_of_val(&*self.bits)
    }
}

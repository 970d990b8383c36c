//! The names of evicted logs, in a fixed amount of memory, and the newest purges.
//!
//! Invariants:
//! - A name that was added is found. A name that was not added may be found, too (a Bloom filter): then a complete log
//!   is reported as incomplete.
//! - Each loop can get the purges since the last one that it has read. If some of them are no longer stored, it gets a
//!   filter that matches everything.

use std::collections::VecDeque;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::quality::FixedState;

use super::rule::RetainBy;
use crate::filter::Filter;

/// Bits of a set: 128 KiB. With 100,000 names, about one in 100 other names is found by mistake.
const BITS: usize = 1 << 20;

/// Bits that are set for a name.
const BITS_A_NAME: usize = 4;

/// Set of names. Allocates when the first one is added.
#[derive(Debug, Default)]
pub(super) struct LostNames {
    bits: Box<[u64]>,
    /// Equal on every node, so that all find the same names by mistake.
    hasher: FixedState,
    /// For each attribute, whether a name was added.
    attributes: [bool; RetainBy::ALL.len()],
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
        self.attributes[by as usize] = true;
        for place in self.places(by, value) {
            self.bits[place / 64] |= 1 << (place % 64);
        }
    }

    /// Returns whether the name may have been added.
    pub(super) fn may_have(&self, by: RetainBy, value: &str) -> bool {
        !self.bits.is_empty()
            && self.places(by, value).iter().all(|place| self.bits[place / 64] & 1 << (place % 64) != 0)
    }

    /// Returns whether a name of this attribute was added.
    pub(super) fn have_any(&self, by: RetainBy) -> bool {
        self.attributes[by as usize]
    }

    pub(super) fn held_bytes(&self) -> usize {
        size_of_val(&*self.bits)
    }
}

/// Numbers of logs and events that a purge removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PurgedLogs {
    pub(crate) logs: usize,
    pub(crate) events: usize,
}

/// Maximum number of purges that are stored for loops that lag.
const PURGES_MAX: usize = 64;

/// Newest purges, oldest first.
#[derive(Debug, Default)]
pub(super) struct Purges {
    /// Number of purges so far.
    count: u64,
    /// For each stored purge, a filter that matches the events of its logs.
    newest: VecDeque<Arc<Filter>>,
}

impl Purges {
    /// Adds a purge of the events that this filter matches.
    pub(super) fn add(&mut self, purged: Filter) {
        self.count += 1;
        self.newest.push_back(Arc::new(purged));
        if self.newest.len() > PURGES_MAX {
            self.newest.pop_front();
        }
    }

    /// Returns the number of purges so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Returns filters of the events that were purged after the purge with this number, from 1. If some of these purges
    /// are no longer stored, returns a filter that matches everything.
    pub(super) fn after(&self, seen: u64) -> Vec<Arc<Filter>> {
        let new = usize::try_from(self.count.saturating_sub(seen)).unwrap_or(usize::MAX);
        let newest = &self.newest;
        let forgotten = (new > newest.len()).then(|| Arc::new(Filter::new()));
        forgotten.into_iter().chain(newest.iter().skip(newest.len().saturating_sub(new)).cloned()).collect()
    }

    /// Returns the memory of the purges, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.newest.iter().map(|purged| size_of::<Filter>() + purged.held_bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_lags_gets_all_purges() {
        let mut purges = Purges::default();
        assert!(purges.after(0).is_empty());
        let filter = |n: u64| Filter::new().streams([format!("run-{n}")]);
        for n in 1..=100 {
            purges.add(filter(n));
        }
        assert_eq!(purges.count(), 100);
        assert!(purges.after(100).is_empty());
        let after = |seen| purges.after(seen).iter().map(|filter| (**filter).clone()).collect::<Vec<_>>();
        assert_eq!(after(98), [filter(99), filter(100)]);
        assert_eq!(after(36), (37..=100).map(filter).collect::<Vec<_>>());
        // Some are no longer stored, so the filter matches everything.
        let all = after(35);
        assert!(all[0].is_everything());
        assert_eq!(all.len(), 65);
    }
}

//! The latest event of each key, for clients that want to know how things stand before they hear what changes.
//!
//! Imports `event`. Always: at most so many keys; the one that changed longest ago goes first.

use std::ops::Bound;

use super::thin::{KeyRule, Latest};
use crate::event::Event;

/// The latest event of each key, numbered in the order in which they came, from 1.
#[derive(Debug)]
pub(crate) struct Snapshot {
    rule: KeyRule,
    max_keys: usize,
    newest: u64,
    latest: Latest<Event>,
}

impl Snapshot {
    pub(crate) fn new(rule: KeyRule, max_keys: usize) -> Self {
        Self { rule, max_keys, newest: 0, latest: Latest::default() }
    }

    /// Takes note of an event, newer than all before.
    pub(crate) fn put(&mut self, event: &Event) {
        self.newest += 1;
        self.latest.put(self.rule.key(event), self.newest, event.clone(), self.max_keys);
    }

    /// Forgets all: events were lost, and what is here may not be the latest any more.
    pub(crate) fn forget(&mut self) {
        self.latest.clear();
    }

    /// Bytes that it takes. Walks all.
    pub(crate) fn held_bytes(&self) -> usize {
        self.latest.held_bytes()
    }

    /// The number of the newest event.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// The events that are still the latest of their keys among those numbered `from..=to`, oldest first.
    pub(crate) fn range(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &Event)> {
        // An empty range must not be the wrong way round, as `1..=0` is.
        self.latest.range((Bound::Included(from.min(to + 1)), Bound::Excluded(to + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who asks before there is anything, and is answered when there is, gets nothing of it: it is live.
    #[test]
    fn what_came_since_an_empty_snapshot_is_not_in_it() {
        let mut snapshot = Snapshot::new(KeyRule::default(), 10);
        snapshot.put(&Event::builder("a").build().expect("an event"));
        assert_eq!(snapshot.range(1, 0).count(), 0);
        assert_eq!(snapshot.range(2, 1).count(), 0);
        assert_eq!(snapshot.range(1, 1).count(), 1);
    }
}

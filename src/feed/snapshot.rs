//! The latest event of each key, for clients that want to know how things stand before they hear what changes.
//!
//! Imports `event`. Always: at most so many keys; the one that changed longest ago goes first.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use super::thin::KeyRule;
use crate::event::Event;

/// The latest event of each key, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Snapshot {
    rule: KeyRule,
    max_keys: usize,
    number: u64,
    number_of: HashMap<u64, u64, foldhash::fast::RandomState>,
    events: BTreeMap<u64, (u64, Event)>,
}

impl Snapshot {
    pub(crate) fn new(rule: KeyRule, max_keys: usize) -> Self {
        Self { rule, max_keys, number: 0, number_of: HashMap::default(), events: BTreeMap::new() }
    }

    /// Takes note of an event, newer than all before.
    pub(crate) fn put(&mut self, event: &Event) {
        let key = self.rule.key(event);
        self.number += 1;
        if let Some(before) = self.number_of.insert(key, self.number) {
            self.events.remove(&before);
        }
        self.events.insert(self.number, (key, event.clone()));
        if self.events.len() > self.max_keys
            && let Some((_, (key, _))) = self.events.pop_first()
        {
            self.number_of.remove(&key);
        }
    }

    /// The number of the newest event.
    pub(crate) fn newest(&self) -> u64 {
        self.number
    }

    /// The events that are still the latest of their keys among those numbered `from..=to`, oldest first.
    pub(crate) fn range(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &Event)> {
        // An empty range must not be the wrong way round.
        self.events.range(from.min(to + 1)..=to).map(|(number, (_, event))| (*number, event))
    }
}

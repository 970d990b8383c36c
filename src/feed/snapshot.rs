//! Latest event of each key, for clients that ask for the current state before they receive changes.
//!
//! Invariants:
//! - A bounded number of keys is retained. The key that changed longest ago is removed first.
//! - Events are numbered in the order of their arrival. An older event never replaces a newer one of its key.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::num::NonZeroU64;
use std::ops::Bound;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::conflate::{KeyRule, LatestByKey};
use crate::event::Event;
use crate::filter::{Clause, ENTITY, Filter};

/// Number of the first live event. Older events are inserted later, under smaller numbers.
const FIRST_LIVE: u64 = 1 << 40;

/// Latest event of each key, numbered from 1.
#[derive(Debug)]
pub(crate) struct Snapshot {
    rule: KeyRule,
    max_keys: usize,
    /// Number of the newest live event.
    newest: u64,
    /// Number of the newest event from before the first live one.
    newest_older: u64,
    latest: LatestByKey<Event>,
    /// Keys of each entity, if a key has one entity.
    by_entity: Option<ByEntity>,
    /// Whether keys may be missing: some were removed for the limit, or events were evicted before they could be
    /// inserted.
    is_short: bool,
    /// Keys removed for the limit since the last [`Snapshot::take_forgotten`].
    forgotten: u64,
}

/// Keys of each entity.
#[derive(Debug, Default)]
struct ByEntity {
    keys: HashMap<u64, SmallVec<[NonZeroU64; 2]>, foldhash::fast::RandomState>,
    state: foldhash::fast::RandomState,
}

impl ByEntity {
    fn hash(&self, entity: (&str, &str)) -> u64 {
        self.state.hash_one(entity)
    }

    fn put(&mut self, event: &Event, key: NonZeroU64) {
        let Some(entity) = event.entity() else { return };
        let hash = self.hash(entity);
        let keys = self.keys.entry(hash).or_default();
        if !keys.contains(&key) {
            keys.push(key);
        }
    }

    fn remove(&mut self, event: &Event, key: NonZeroU64) {
        let Some(entity) = event.entity() else { return };
        let hash = self.hash(entity);
        if let Some(keys) = self.keys.get_mut(&hash) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.keys.remove(&hash);
            }
        }
    }
}

impl Snapshot {
    pub(crate) fn new(rule: KeyRule, max_keys: usize) -> Self {
        let by_entity = rule.has_one_entity().then(ByEntity::default);
        Self {
            rule,
            max_keys,
            newest: FIRST_LIVE,
            newest_older: 0,
            latest: LatestByKey::default(),
            by_entity,
            is_short: false,
            forgotten: 0,
        }
    }

    /// Inserts a live event, newer than all before.
    pub(crate) fn put(&mut self, event: &Event) {
        self.newest += 1;
        self.put_at(self.newest, event);
    }

    /// Inserts an event from before the first live one, newer than all such events inserted so far.
    pub(crate) fn put_older(&mut self, event: &Event) {
        self.newest_older += 1;
        self.put_at(self.newest_older, event);
    }

    fn put_at(&mut self, number: u64, event: &Event) {
        let key = self.rule.key(event);
        if self.latest.number(key).is_some_and(|known| known > number) {
            return;
        }
        let removed = self.latest.put(key, number, event.clone(), self.max_keys);
        self.forgotten += removed.len() as u64;
        self.is_short |= !removed.is_empty();
        if let Some(by_entity) = &mut self.by_entity {
            by_entity.put(event, key);
            for (key, event) in removed {
                by_entity.remove(&event, key);
            }
        }
    }

    /// Removes all events. Called when events were lost, because the retained ones may not be the latest any more.
    pub(crate) fn forget(&mut self) {
        self.is_short = true;
        self.latest.clear();
        if let Some(by_entity) = &mut self.by_entity {
            by_entity.keys.clear();
        }
    }

    /// Records that older events were evicted before they could be inserted.
    pub(crate) fn mark_incomplete(&mut self) {
        self.is_short = true;
    }

    /// Returns whether keys may be missing.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short
    }

    /// Returns the number of keys removed for the limit since the last call.
    pub(crate) fn take_forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.forgotten)
    }

    /// Returns the bytes that the snapshot takes. Walks all events.
    pub(crate) fn held_bytes(&self) -> usize {
        self.latest.held_bytes()
    }

    /// Returns the number of the newest event.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Returns the events numbered `from..=to` that are still the latest of their keys, oldest first.
    pub(crate) fn range(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &Event)> {
        // `BTreeMap::range` panics if the start is after the end, as in `1..=0`.
        self.latest.range((Bound::Included(from.min(to + 1)), Bound::Excluded(to + 1)))
    }

    /// Returns the event of this number, if it is still the latest of its key.
    pub(crate) fn get(&self, number: u64) -> Option<&Event> {
        self.latest.get(number)
    }

    /// Returns the numbers, up to `to`, of all events that `filter` can match, oldest first. Returns `None` if the filter
    /// does not name its entities, or if keys do not depend on entities.
    pub(crate) fn named_by(&self, filter: &Filter, to: u64) -> Option<VecDeque<u64>> {
        let by_entity = self.by_entity.as_ref()?;
        let named = filter.clauses().find_map(|clause| match clause {
            Clause::Set(set) if set.about == ENTITY && !set.negated => Some(set),
            _ => None,
        })?;
        let mut numbers = Vec::new();
        for (kind, id) in named.members() {
            let (kind, id) = (kind.exact()?, id?.exact()?);
            let keys = by_entity.keys.get(&by_entity.hash((kind, id)));
            let known = keys.into_iter().flatten().filter_map(|key| self.latest.number(*key));
            numbers.extend(known.filter(|number| *number <= to));
        }
        numbers.sort_unstable();
        numbers.dedup();
        Some(numbers.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, entity: &str) -> Event {
        Event::builder(kind).entity("symbol", entity).build().expect("an event")
    }

    fn entities<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<(String, String)> {
        events
            .map(|event| (event.event_type().to_owned(), event.entity().map_or("", |(_, id)| id).to_owned()))
            .collect()
    }

    /// A client that asked while the snapshot was empty gets nothing from it: later events are live.
    #[test]
    fn events_after_an_empty_snapshot_are_not_in_it() {
        let mut snapshot = Snapshot::new(KeyRule::default(), 10);
        let before = snapshot.newest();
        snapshot.put(&Event::builder("a").build().expect("an event"));
        let first = snapshot.newest();
        assert_eq!(snapshot.range(1, before).count(), 0);
        assert_eq!(snapshot.range(first + 1, first).count(), 0);
        assert_eq!(snapshot.range(1, 0).count(), 0);
        assert_eq!(snapshot.range(1, first).count(), 1);
    }

    #[test]
    fn older_events_are_put_in_later_and_replace_nothing_newer() {
        let mut snapshot = Snapshot::new(KeyRule::default(), 3);
        snapshot.put(&event("price", "a"));
        let asked = snapshot.newest();
        snapshot.put(&event("price", "b"));
        for entity in ["z", "a", "b", "c", "d", "c"] {
            snapshot.put_older(&event("price", entity));
        }
        let all = entities(snapshot.range(1, u64::MAX - 1).map(|(_, event)| event));
        let ids: Vec<&str> = all.iter().map(|(_, id)| id.as_str()).collect();
        assert_eq!(ids, ["c", "a", "b"], "three keys, the oldest first");
        let asked = entities(snapshot.range(1, asked).map(|(_, event)| event));
        assert_eq!(asked.len(), 2, "b came live after the question: {asked:?}");
    }

    #[test]
    fn a_filter_that_names_entities_is_looked_up() {
        let mut snapshot = Snapshot::new(KeyRule::default(), 4);
        for (kind, entity) in [("price", "a"), ("price", "b"), ("size", "a"), ("price", "a"), ("price", "c")]
        {
            snapshot.put(&event(kind, entity));
        }
        let named = |snapshot: &Snapshot, ids: &[&str]| {
            let filter = Filter::new().entities(ids.iter().map(|id| ("symbol", *id)));
            let numbers = snapshot.named_by(&filter, snapshot.newest())?;
            let found = entities(numbers.iter().filter_map(|number| snapshot.get(*number)));
            let by_definition = entities(
                snapshot
                    .range(1, snapshot.newest())
                    .map(|(_, event)| event)
                    .filter(|event| filter.matches(event)),
            );
            assert_eq!(found, by_definition);
            Some(found.len())
        };
        assert_eq!(named(&snapshot, &["a"]), Some(2));
        assert_eq!(named(&snapshot, &["a", "c", "x"]), Some(3));
        assert_eq!(named(&snapshot, &["*"]), None, "a pattern names none");
        // The key that changed longest ago is removed, and its entity with it.
        for entity in ["d", "e", "f"] {
            snapshot.put(&event("price", entity));
        }
        assert_eq!(named(&snapshot, &["b"]), Some(0));
        assert_eq!(snapshot.by_entity.as_ref().map(|by_entity| by_entity.keys.len()), Some(4));
        snapshot.forget();
        assert_eq!(named(&snapshot, &["a"]), Some(0));
    }
}

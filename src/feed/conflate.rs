//! What a feed keeps for subscriptions that do not want everything: the latest frame of each key, and the rate
//! of a sample.
//!
//! Imports `event`, `dialect`. Always: at most so many keys; a key's latest frame is kept until every member
//! has it, or the table is full of younger ones.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::dialect::OnLag;
use crate::event::{Attribute, Event, EventId, Timestamp};

/// What a subscription lets be left out. The order is from the least to the most; where several subscriptions
/// of one connection match an event, the least counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Conflation {
    /// Nothing.
    #[default]
    None,
    /// For a client that lags, all but the latest of each key.
    Conflate,
    /// All but one in so many microseconds; the last one always comes.
    Sample(u32),
}

/// What a connection loses when it falls off its feed. It has one queue, so this is the connection's: where its
/// subscriptions differ, the strictest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum LagPolicy {
    /// The oldest; it goes on with the oldest kept.
    #[default]
    DropOldest,
    /// The newest; what waited first is still written.
    DropNewest,
    /// Itself.
    Disconnect,
}

impl From<OnLag> for Conflation {
    fn from(on_lag: OnLag) -> Self {
        match on_lag {
            OnLag::Conflate => Self::Conflate,
            OnLag::Sample { per_second } => Self::Sample((1_000_000 / per_second).max(1)),
            OnLag::DropOldest | OnLag::DropNewest | OnLag::Disconnect => Self::None,
        }
    }
}

impl From<OnLag> for LagPolicy {
    fn from(on_lag: OnLag) -> Self {
        match on_lag {
            OnLag::DropNewest => Self::DropNewest,
            OnLag::Disconnect => Self::Disconnect,
            OnLag::DropOldest | OnLag::Conflate | OnLag::Sample { .. } => Self::DropOldest,
        }
    }
}

/// Which events are about the same thing, so that a later one makes an earlier one worthless.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyRule {
    /// None: type and entity where there is one, else type and stream.
    pub(crate) attributes: Option<Arc<[Attribute]>>,
    state: foldhash::fast::RandomState,
}

impl KeyRule {
    pub(crate) fn new(attributes: &[Attribute]) -> Self {
        Self { attributes: (!attributes.is_empty()).then(|| attributes.into()), ..Self::default() }
    }

    /// The event's key. Two keys meet with a chance of one in 2^64, by a hash whose seed no client knows.
    pub(crate) fn key(&self, event: &Event) -> u64 {
        let key = match &self.attributes {
            Some(attributes) => {
                let values: SmallVec<[Option<&str>; 8]> =
                    attributes.iter().map(|attribute| event.attribute(*attribute)).collect();
                self.state.hash_one(values)
            }
            None => match event.entity() {
                Some(entity) => self.state.hash_one((event.event_type(), entity)),
                None => self.state.hash_one((event.event_type(), event.stream())),
            },
        };
        // Even ones say that there is none.
        key | 1
    }
}

/// The latest value of each key, in the order of the numbers under which they came.
#[derive(Debug)]
pub(super) struct LatestByKey<V> {
    number_of: HashMap<u64, u64, foldhash::fast::RandomState>,
    /// By number: key and value.
    kept: BTreeMap<u64, (u64, V)>,
    /// Below this, values that were the latest of their keys are gone.
    pub(super) floor: u64,
}

/// What a value that is kept takes beside its own struct.
pub(super) trait Weigh {
    fn weight(&self) -> usize;
}

impl Weigh for (Bytes, EventId) {
    fn weight(&self) -> usize {
        self.0.len()
    }
}

impl Weigh for Event {
    fn weight(&self) -> usize {
        // The payload, and what stands beside it.
        self.payload().len() + 256
    }
}

impl<V: Weigh> LatestByKey<V> {
    /// Bytes that it takes. Walks all.
    pub(super) fn held_bytes(&self) -> usize {
        let entry = size_of::<(u64, (u64, V))>() + size_of::<(u64, u64)>() + 16;
        self.kept.values().map(|(_, value)| entry + value.weight()).sum()
    }
}

impl<V> Default for LatestByKey<V> {
    fn default() -> Self {
        Self { number_of: HashMap::default(), kept: BTreeMap::new(), floor: 0 }
    }
}

impl<V> LatestByKey<V> {
    /// Takes a value under a number higher than that of its key before. Beyond `max` keys, the one that changed longest
    /// ago goes. Returns what went.
    pub(super) fn put(&mut self, key: u64, number: u64, value: V, max: usize) -> SmallVec<[(u64, V); 1]> {
        if let Some(before) = self.number_of.insert(key, number) {
            self.kept.remove(&before);
        }
        self.kept.insert(number, (key, value));
        let mut gone = SmallVec::new();
        while self.kept.len() > max {
            let Some((number, (key, value))) = self.kept.pop_first() else { break };
            self.number_of.remove(&key);
            self.floor = number + 1;
            gone.push((key, value));
        }
        gone
    }

    /// The number of a key's value.
    pub(super) fn number(&self, key: u64) -> Option<u64> {
        self.number_of.get(&key).copied()
    }

    /// What is still the latest of its key among these numbers, oldest first.
    pub(super) fn range(&self, numbers: impl RangeBounds<u64>) -> impl Iterator<Item = (u64, &V)> {
        self.kept.range(numbers).map(|(number, (_, value))| (*number, value))
    }

    pub(super) fn get(&self, number: u64) -> Option<&V> {
        self.kept.get(&number).map(|(_, value)| value)
    }

    /// Forgets all: everybody who may ask has everything.
    pub(super) fn clear(&mut self) {
        self.number_of.clear();
        self.kept.clear();
    }
}

/// A frame, and whether it is sent as it is.
type Sample = (Bytes, bool);

/// Samples that go, in their order.
pub(super) type Released = SmallVec<[(Sample, EventId); 2]>;

/// One rate of a feed.
#[derive(Debug)]
struct Sampler {
    interval: u32,
    /// When the next one may go, in microseconds.
    due: i64,
    interned: Option<(Sample, EventId)>,
}

impl Sampler {
    /// Whether one may go. A due time further off than the interval was set by a clock that was put back since.
    fn is_due(&self, now: Timestamp) -> bool {
        let ahead = self.due.saturating_sub(now.0);
        ahead <= 0 || ahead > i64::from(self.interval)
    }
}

/// The rates of a feed.
#[derive(Debug, Default)]
pub(super) struct Samplers(SmallVec<[Sampler; 1]>);

/// What became of a frame that came to a sampler.
pub(super) enum Sampled {
    /// It goes now.
    Now(Sample, EventId),
    /// It waits for its time.
    Waits,
    /// It waits, and another that waited is left out.
    Instead,
}

impl Samplers {
    pub(super) fn take(&mut self, interval: u32, now: Timestamp, frame: Sample, id: EventId) -> Sampled {
        let known = self.0.iter().position(|sampler| sampler.interval == interval);
        let at = known.unwrap_or_else(|| {
            self.0.push(Sampler { interval, due: i64::MIN, interned: None });
            self.0.len() - 1
        });
        let sampler = &mut self.0[at];
        if sampler.interned.is_none() && sampler.is_due(now) {
            sampler.due = now.0 + i64::from(interval);
            return Sampled::Now(frame, id);
        }
        match sampler.interned.replace((frame, id)) {
            None => Sampled::Waits,
            Some(_) => Sampled::Instead,
        }
    }

    /// What waits and whose time has come, the oldest first; with it what is older of the same shard, for a client
    /// sees a shard's events in order.
    pub(super) fn release(&mut self, now: Timestamp) -> Released {
        let due: SmallVec<[EventId; 2]> = (self.0.iter())
            .filter(|sampler| sampler.is_due(now))
            .filter_map(|sampler| sampler.interned.as_ref().map(|(_, id)| *id))
            .collect();
        self.let_go(now, |id| due.iter().any(|due| due.shard == id.shard && id.sequence <= due.sequence))
    }

    /// What waits of this shard, the oldest first: something newer of it is about to be appended.
    pub(super) fn release_shard(&mut self, shard: u16, now: Timestamp) -> Released {
        self.let_go(now, |id| id.shard == shard)
    }

    /// All that waits, the oldest first.
    pub(super) fn release_all(&mut self, now: Timestamp) -> Released {
        self.let_go(now, |_| true)
    }

    fn let_go(&mut self, now: Timestamp, is_meant: impl Fn(&EventId) -> bool) -> Released {
        let mut released = Released::new();
        for sampler in &mut self.0 {
            if sampler.interned.as_ref().is_some_and(|(_, id)| is_meant(id)) {
                sampler.due = now.0 + i64::from(sampler.interval);
                released.extend(sampler.interned.take());
            }
        }
        released.sort_by_key(|(_, id)| id.sequence);
        released
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.0.iter().filter(|sampler| sampler.interned.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_events_are_about_is_the_rules_to_say() {
        let event = |kind: &str, stream: &str, entity: Option<&str>, channel: &str| {
            let event = Event::builder(kind).stream(stream).channel(channel);
            let event = if let Some(id) = entity { event.entity("task", id) } else { event };
            event.build().expect("valid")
        };
        let first = event("a", "s", Some("1"), "x");
        let same = |rule: &KeyRule, other: &Event| rule.key(&first) == rule.key(other);
        let usual = KeyRule::default();
        assert!(same(&usual, &event("a", "another", Some("1"), "y")), "type and entity");
        assert!(!same(&usual, &event("a", "s", Some("2"), "x")));
        assert!(!same(&usual, &event("b", "s", Some("1"), "x")));
        let (one, other) = (event("a", "s", None, "x"), event("a", "s", None, "y"));
        assert_eq!(usual.key(&one), usual.key(&other), "without an entity: type and stream");
        assert_ne!(usual.key(&one), usual.key(&event("a", "another", None, "x")));
        let by_channel = KeyRule::new(&[Attribute::Channel, Attribute::Stream]);
        assert!(
            same(&by_channel, &event("b", "s", None, "x")),
            "what the configuration names, and nothing else"
        );
        assert!(!same(&by_channel, &event("a", "s", Some("1"), "y")));
        assert!(!same(&by_channel, &event("a", "another", Some("1"), "x")));
    }
}

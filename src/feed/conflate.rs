//! Policies for clients that do not want every event, or cannot keep up, and the frames that a feed retains for them.
//!
//! Invariants:
//! - [`LatestByKey`] retains a bounded number of keys.
//! - A key's latest frame is retained until every member has it, or until the table is full of newer ones.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::num::NonZeroU64;
use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::frame::UnsealedFrame;
use crate::dialect::OnLag;
use crate::event::{Attribute, Event, EventId, Timestamp};

/// Events that a subscription allows to be left out.
///
/// The variants are ordered from the least to the most that is left out. If several subscriptions of one connection
/// match an event, the least applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Conflation {
    /// None.
    #[default]
    None,
    /// All but the latest event of each key, for a client that lags.
    #[serde(rename = "Conflate")]
    LatestPerKey,
    /// All but one event per interval, in microseconds. The last event is always delivered.
    Sample(u32),
}

/// Events that a connection loses when its feed has trimmed some that it had not received. A connection has one
/// position in one feed, so its subscriptions share one policy: the strictest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum LagPolicy {
    /// The oldest events; the connection continues with the oldest retained one.
    #[default]
    DropOldest,
    /// The newest events; the events that waited first are still written.
    DropNewest,
    /// None that the past still has: the connection skips the feed's frames, and a replay delivers their events.
    CatchUp,
    /// Everything: the connection is closed.
    Disconnect,
}

impl From<OnLag> for Conflation {
    fn from(on_lag: OnLag) -> Self {
        match on_lag {
            OnLag::Conflate => Self::LatestPerKey,
            OnLag::Sample { per_second } => Self::Sample((1_000_000 / per_second).max(1)),
            OnLag::DropOldest | OnLag::DropNewest | OnLag::CatchUp | OnLag::Concat | OnLag::Disconnect => {
                Self::None
            }
        }
    }
}

impl From<OnLag> for LagPolicy {
    fn from(on_lag: OnLag) -> Self {
        match on_lag {
            OnLag::DropNewest => Self::DropNewest,
            OnLag::CatchUp | OnLag::Concat => Self::CatchUp,
            OnLag::Disconnect => Self::Disconnect,
            OnLag::DropOldest | OnLag::Conflate | OnLag::Sample { .. } => Self::DropOldest,
        }
    }
}

/// Rule for an event's key: a later event replaces an earlier one with the same key.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyRule {
    /// Attributes that make up the key. `None`: the type and the entity, or without an entity the type and the stream.
    pub(crate) attributes: Option<Arc<[Attribute]>>,
    state: foldhash::fast::RandomState,
}

impl KeyRule {
    pub(crate) fn new(attributes: &[Attribute]) -> Self {
        Self { attributes: (!attributes.is_empty()).then(|| attributes.into()), ..Self::default() }
    }

    /// Returns the event's key. Two different keys collide with a probability of 2^-63; no client knows the hash's seed.
    pub(crate) fn key(&self, event: &Event) -> NonZeroU64 {
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
        NonZeroU64::MIN | key
    }

    /// Returns whether all events of a key are about one entity, or about none.
    pub(super) fn has_one_entity(&self) -> bool {
        self.attributes.as_ref().is_none_or(|attributes| {
            attributes.contains(&Attribute::EntityKind) && attributes.contains(&Attribute::EntityId)
        })
    }
}

/// Latest value of each key, ordered by the number under which it was inserted.
#[derive(Debug)]
pub(super) struct LatestByKey<V> {
    number_of: HashMap<NonZeroU64, u64, foldhash::fast::RandomState>,
    /// Key and value, by number.
    values: BTreeMap<u64, (NonZeroU64, V)>,
    /// Number below which the latest values of some keys have been removed for the limit.
    pub(super) floor: u64,
}

/// Heap bytes of a value in [`LatestByKey`].
pub(super) trait HeapBytes {
    fn heap_bytes(&self) -> usize;
}

impl HeapBytes for (Bytes, EventId) {
    fn heap_bytes(&self) -> usize {
        self.0.len()
    }
}

impl HeapBytes for Event {
    fn heap_bytes(&self) -> usize {
        // The payload, and about 256 bytes for the rest of the event.
        self.payload().len() + 256
    }
}

impl<V: HeapBytes> LatestByKey<V> {
    /// Returns the bytes that the table takes. Walks all values.
    pub(super) fn held_bytes(&self) -> usize {
        let entry = size_of::<(u64, (u64, V))>() + size_of::<(u64, u64)>() + 16;
        self.values.values().map(|(_, value)| entry + value.heap_bytes()).sum()
    }
}

impl<V> Default for LatestByKey<V> {
    fn default() -> Self {
        Self { number_of: HashMap::default(), values: BTreeMap::new(), floor: 0 }
    }
}

impl<V> LatestByKey<V> {
    /// Inserts a value under a number higher than its key's previous one. With more than `max` keys, removes the keys
    /// that changed longest ago, and returns them.
    pub(super) fn put(
        &mut self,
        key: NonZeroU64,
        number: u64,
        value: V,
        max: usize,
    ) -> SmallVec<[(NonZeroU64, V); 1]> {
        if let Some(before) = self.number_of.insert(key, number) {
            self.values.remove(&before);
        }
        self.values.insert(number, (key, value));
        let mut removed = SmallVec::new();
        while self.values.len() > max {
            let Some((number, (key, value))) = self.values.pop_first() else { break };
            self.number_of.remove(&key);
            self.floor = number + 1;
            removed.push((key, value));
        }
        removed
    }

    /// Returns the number of the key's value.
    pub(super) fn number(&self, key: NonZeroU64) -> Option<u64> {
        self.number_of.get(&key).copied()
    }

    /// Returns the values with these numbers that are still the latest of their keys, oldest first.
    pub(super) fn range(&self, numbers: impl RangeBounds<u64>) -> impl Iterator<Item = (u64, &V)> {
        self.values.range(numbers).map(|(number, (_, value))| (*number, value))
    }

    pub(super) fn get(&self, number: u64) -> Option<&V> {
        self.values.get(&number).map(|(_, value)| value)
    }

    /// Removes all values. Called when no reader needs them any more.
    pub(super) fn clear(&mut self) {
        self.number_of.clear();
        self.values.clear();
    }
}

/// Sampled frames to append, in order.
pub(super) type Released = SmallVec<[UnsealedFrame; 2]>;

/// One sampling interval of a feed.
#[derive(Debug)]
struct Sampler {
    interval: u32,
    /// Time at which the next frame may be sent, in microseconds.
    due: i64,
    waiting: Option<UnsealedFrame>,
}

impl Sampler {
    /// Returns whether a frame may be sent now. A due time further ahead than the interval was set before the clock was
    /// set back, so it counts as due.
    fn is_due(&self, now: Timestamp) -> bool {
        let ahead = self.due.saturating_sub(now.0);
        ahead <= 0 || ahead > i64::from(self.interval)
    }
}

/// Sampling intervals of a feed.
#[derive(Debug, Default)]
pub(super) struct Samplers(SmallVec<[Sampler; 1]>);

/// Outcome of offering a frame to a sampler.
pub(super) enum Sampled {
    /// The frame is sent now.
    Send(UnsealedFrame),
    /// The frame waits until it is due.
    Waits,
    /// The frame waits, and the frame that waited before is left out.
    Replaces,
}

impl Samplers {
    /// Offers a frame to the sampler of this interval, and adds the sampler if there is none.
    pub(super) fn offer(&mut self, interval: u32, now: Timestamp, frame: UnsealedFrame) -> Sampled {
        let known = self.0.iter().position(|sampler| sampler.interval == interval);
        let at = known.unwrap_or_else(|| {
            self.0.push(Sampler { interval, due: i64::MIN, waiting: None });
            self.0.len() - 1
        });
        let sampler = &mut self.0[at];
        if sampler.waiting.is_none() && sampler.is_due(now) {
            sampler.due = now.0 + i64::from(interval);
            return Sampled::Send(frame);
        }
        match sampler.waiting.replace(frame) {
            None => Sampled::Waits,
            Some(_) => Sampled::Replaces,
        }
    }

    /// Takes the waiting frames that are due, oldest first. With each it takes the older ones of its shard, because a
    /// client receives a shard's events in order.
    pub(super) fn release(&mut self, now: Timestamp) -> Released {
        let due: SmallVec<[EventId; 2]> = (self.0.iter())
            .filter(|sampler| sampler.is_due(now))
            .filter_map(|sampler| sampler.waiting.as_ref().map(|frame| frame.id))
            .collect();
        self.release_where(now, |id| {
            due.iter().any(|due| due.shard == id.shard && id.sequence <= due.sequence)
        })
    }

    /// Takes the waiting frames of a shard, oldest first. Called before a newer frame of the shard is appended.
    pub(super) fn release_shard(&mut self, shard: u16, now: Timestamp) -> Released {
        self.release_where(now, |id| id.shard == shard)
    }

    /// Takes all waiting frames, oldest first.
    pub(super) fn release_all(&mut self, now: Timestamp) -> Released {
        self.release_where(now, |_| true)
    }

    fn release_where(&mut self, now: Timestamp, is_meant: impl Fn(&EventId) -> bool) -> Released {
        let mut released = Released::new();
        for sampler in &mut self.0 {
            if sampler.waiting.as_ref().is_some_and(|frame| is_meant(&frame.id)) {
                sampler.due = now.0 + i64::from(sampler.interval);
                released.extend(sampler.waiting.take());
            }
        }
        released.sort_by_key(|frame| frame.id.sequence);
        released
    }

    /// Returns the number of waiting frames.
    pub(super) fn waiting(&self) -> usize {
        self.0.iter().filter(|sampler| sampler.waiting.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_rule_decides_which_events_share_a_key() {
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
            "the configured attributes, and nothing else"
        );
        assert!(!same(&by_channel, &event("a", "s", Some("1"), "y")));
        assert!(!same(&by_channel, &event("a", "another", Some("1"), "x")));
    }
}

//! Configuration of a bus, and its statistics.
//!
//! Invariant: everything that can fail when a bus is made fails here.

use std::fmt;
use std::sync::Arc as Count;

use super::item::Item;
use super::ring::{Bound, SHARDS_MAX};
use super::shared::SharedValue;
use crate::event::{Event, Position};

/// Default number of slots of a shard: 8,192.
pub const CAPACITY_DEFAULT: usize = 8192;

/// Default bound of the events in a bus's rings, in bytes: 1 GiB. A ring of the default capacity reaches it with events of
/// 128 KiB on average, so the bound is a safety net for large events and changes nothing for others.
pub const MAX_BYTES_DEFAULT: u64 = 1 << 30;

/// Maximum number of slots of a shard: 2^24.
const CAPACITY_MAX: usize = 1 << 24;

/// Size of a bus, as set in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BusConfig {
    /// Number of rings, 1 to 1,024. Default: 1.
    pub shards: usize,
    /// Slots of each ring, a power of two, at most 2^24. Default: 8,192.
    pub capacity: usize,
    /// Maximum size of the events in all rings, in bytes. `None`: no bound. Default: 1 GiB.
    pub max_bytes: Option<u64>,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self { shards: 1, capacity: CAPACITY_DEFAULT, max_bytes: Some(MAX_BYTES_DEFAULT) }
    }
}

/// Function that returns an item's ordering key.
pub(super) type OrderingKey<T> = Count<dyn Fn(&T) -> u64 + Send + Sync>;

/// Builds a [`Bus`](super::Bus) or a [`LosslessBus`](super::LosslessBus).
///
/// # Defaults
/// - one shard of 8,192 slots, and at most 1 GiB of events in it,
/// - ordering key: an event's stream, else its source.
pub struct BusBuilder<T: Item = Event> {
    pub(super) shards: usize,
    pub(super) capacity: usize,
    pub(super) max_bytes: Option<u64>,
    pub(super) ordering_key: Option<OrderingKey<T>>,
    /// Position and epoch of an earlier bus that this one continues.
    pub(super) resumed: Option<Position>,
}

/// A bus cannot be built with these settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusConfigError {
    /// A shard's capacity is not a power of two between 1 and 16,777,216.
    Capacity(usize),
    /// The number of shards is not between 1 and 1,024.
    Shards(usize),
    /// Several shards of plain values, without an ordering key that selects a value's shard.
    NoOrderingKey,
    /// A lossless bus with a number of shards other than 1.
    LosslessShards(usize),
    /// A lossless bus with a bound in bytes.
    LosslessBytes,
}

impl fmt::Display for BusConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity(given) => {
                write!(f, "capacity of {given} is not a power of two from 1 to {CAPACITY_MAX}")
            }
            Self::Shards(given) => write!(f, "{given} shards are not from 1 to {SHARDS_MAX}"),
            Self::NoOrderingKey => f.write_str("several shards of plain values need an ordering key"),
            Self::LosslessShards(given) => write!(f, "a lossless bus has one shard, not {given}"),
            Self::LosslessBytes => f.write_str(
                "a lossless bus releases nothing early, so it has a capacity and no bound in bytes",
            ),
        }
    }
}

impl std::error::Error for BusConfigError {}

impl BusBuilder<Event> {
    pub(super) fn new() -> Self {
        Self { shards: 1, capacity: CAPACITY_DEFAULT, max_bytes: None, ordering_key: None, resumed: None }
    }

    /// Changes the item to values of any type, in [`SharedValue`] handles, instead of events. An ordering key that was set is
    /// dropped.
    #[must_use]
    pub fn of<V: Send + Sync + 'static>(self) -> BusBuilder<SharedValue<V>> {
        self.carrying()
    }

    /// Changes the item to a plain value instead of events. An ordering key that was set is dropped.
    #[must_use]
    pub fn carrying<T: Item>(self) -> BusBuilder<T> {
        let Self { shards, capacity, max_bytes, .. } = self;
        BusBuilder { shards, capacity, max_bytes, ordering_key: None, resumed: None }
    }
}

impl<T: Item> BusBuilder<T> {
    /// Sets the number of shards, 1 to 1,024. Each is a ring of its own; order is kept within a shard only. Default: 1.
    #[must_use]
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// Sets the number of slots of a shard: a power of two, at most 2^24. A shard keeps that many events. Default: 8,192.
    #[must_use]
    pub fn capacity(mut self, per_shard: usize) -> Self {
        self.capacity = per_shard;
        self
    }

    /// Sets the maximum size of the events in all rings together, in bytes; `None` or 0: no bound. Default: 1 GiB. No
    /// effect on plain values, which have the size of their slots; a [`SharedValue`] value counts with its own size.
    ///
    /// Each shard has an equal part, so large events of one shard do not evict those of another. A shard over its part
    /// releases its oldest events early. A reader that has not read them gets a gap, as after being overtaken. The
    /// newest event always stays, however large. The size of attributes and payloads counts.
    #[must_use]
    pub fn max_bytes(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.max_bytes = Some(bytes.into().unwrap_or(0));
        self
    }

    /// Returns the bound of each ring.
    pub(super) fn bound(&self) -> Bound {
        match self.max_bytes.unwrap_or(MAX_BYTES_DEFAULT) {
            0 => Bound::new(0),
            bytes => Bound::new((bytes / self.shards as u64).max(1)),
        }
    }

    /// Sets the function that keeps items in order: items with equal keys go to the same shard. Default: an event's stream,
    /// else its source.
    #[must_use]
    pub fn ordering_key(mut self, key: impl Fn(&T) -> u64 + Send + Sync + 'static) -> Self {
        self.ordering_key = Some(Count::new(key));
        self
    }

    /// Checks for settings that a lossless bus cannot have.
    pub(super) fn check_lossless(&self) -> Result<(), BusConfigError> {
        if self.shards != 1 {
            return Err(BusConfigError::LosslessShards(self.shards));
        }
        if self.max_bytes.is_some_and(|bytes| bytes != 0) {
            return Err(BusConfigError::LosslessBytes);
        }
        Ok(())
    }

    pub(super) fn check(&self) -> Result<(), BusConfigError> {
        if !(self.capacity.is_power_of_two() && self.capacity <= CAPACITY_MAX) {
            return Err(BusConfigError::Capacity(self.capacity));
        }
        if !(1..=SHARDS_MAX).contains(&self.shards) {
            return Err(BusConfigError::Shards(self.shards));
        }
        if self.shards > 1 && self.ordering_key.is_none() && !T::KEYED {
            return Err(BusConfigError::NoOrderingKey);
        }
        Ok(())
    }

    /// Continues an earlier bus at this position, under its epoch.
    #[cfg(feature = "server")]
    pub(crate) fn resuming(mut self, position: Position) -> Self {
        self.shards = position.sequences.len();
        self.resumed = Some(position);
        self
    }
}

impl<T: Item> fmt::Debug for BusBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusBuilder")
            .field("shards", &self.shards)
            .field("capacity", &self.capacity)
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

/// Statistics of one shard at the time of [`Bus::stats`](super::Bus::stats).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStats {
    /// Next sequence to be claimed: the number of sequences claimed so far.
    pub head: u64,
    /// Oldest sequence that may still be in the ring.
    pub oldest: u64,
    /// Number of slots.
    pub capacity: usize,
}

/// Statistics of a bus. A snapshot: the parts are read one after the other.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BusStats {
    /// Statistics of the shards, by number.
    pub shards: Vec<ShardStats>,
    /// Sequences claimed in all shards.
    pub published: u64,
    /// Events that the bus keeps in memory: those in its rings, and overwritten ones that are not released yet. 0 for plain
    /// values, which are copies.
    pub live_events: u64,
    /// Size of the attributes and payloads of those events, in bytes. 0 for plain values.
    pub held_bytes: u64,
    /// Wakes of sleeping readers; each was one system call.
    pub wakes: u64,
    /// Number of subscribers and handlers now.
    pub subscribers: usize,
    /// Panics caught in handlers and their filters.
    pub handler_panics: u64,
    /// Panics caught in wakers of tasks.
    pub waker_panics: u64,
}

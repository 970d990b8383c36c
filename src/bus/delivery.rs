//! Events and gaps, as readers get them.
//!
//! Invariant: in its shard's order, a gap is delivered where its events are missing.

use super::item::Item;
use crate::event::{Event, Sequence};

/// Consecutive sequences that a reader did not get, because it fell behind by more than the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// Number of missing events: `to - from`. Includes events that a filter would have left out. In rare cases one was never
    /// an event: a publisher was stopped so long that its sequence was given up.
    pub missed: u64,
    /// Shard of the sequences.
    pub shard: u16,
    /// First sequence that is missing.
    pub from: Sequence,
    /// First sequence after the gap.
    pub to: Sequence,
}

impl Gap {
    /// Creates the gap of the sequences `from..to` of a shard, for tests of code that reads gaps.
    ///
    /// # Panics
    /// If `from` is above `to`.
    #[must_use]
    pub fn new(shard: u16, from: Sequence, to: Sequence) -> Self {
        assert!(from <= to, "a gap of sequences {from}..{to}");
        Self { missed: to - from, shard, from, to }
    }
}

/// Event or gap, as a subscriber yields it. No other variant will be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery<T = Event> {
    /// The next event.
    Event(T),
    /// Events were missed here.
    Gap(Gap),
}

/// A [`Delivery`] by reference. No other variant will be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryRef<'a, T = Event> {
    /// The next event.
    Event(&'a T),
    /// Events were missed here.
    Gap(Gap),
}

impl<T: Item> DeliveryRef<'_, T> {
    /// Returns itself, or `None` for an item that the filter leaves out. Every reader gets gaps.
    #[inline]
    pub(super) fn wanted(self, filter: &T::Filter) -> Option<Self> {
        match self {
            Self::Event(item) if !item.is_wanted(filter) => None,
            _ => Some(self),
        }
    }

    /// Returns the number of sequences that it covers.
    pub(super) fn sequences(&self) -> u64 {
        match self {
            Self::Event(_) => 1,
            Self::Gap(gap) => gap.missed,
        }
    }

    #[inline]
    pub(super) fn into_delivery(self) -> Delivery<T> {
        match self {
            Self::Event(item) => Delivery::Event(item.duplicate()),
            Self::Gap(gap) => Delivery::Gap(gap),
        }
    }
}

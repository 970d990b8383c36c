//! One kept log: its newest events, its lives, and its end.
//!
//! Invariants:
//! - Entries have increasing numbers, which are the order in which the loops read them.
//! - A life begins with the log, or with the first event after an end. Entries of earlier lives come before those of the newest.

use std::sync::Arc;

use super::packed::{Entry, PackedEvents};
use super::rule::RetainBy;
use crate::event::{Event, EventId, Sequence, Since, Timestamp};
use crate::held::heap_block;

/// Place in a shard: an epoch and a sequence. Places grow along the shard.
pub(crate) type ShardPlace = (u64, Sequence);

/// Returns the place of an event.
pub(super) fn place_at(id: EventId) -> ShardPlace {
    (id.epoch, id.sequence)
}

/// Returns the place after an event.
pub(crate) fn place_after(id: EventId) -> ShardPlace {
    (id.epoch, id.next_sequence())
}

/// Name of a log: an attribute, and the value that all its events have of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LogName {
    pub(crate) by: RetainBy,
    pub(crate) value: Arc<str>,
}

impl LogName {
    pub(crate) fn new(by: RetainBy, value: &str) -> Self {
        Self { by, value: value.into() }
    }
}

/// End of a log's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd {
    pub(crate) name: LogName,
    /// Event that ended it.
    pub(crate) id: EventId,
    /// Place of a client that has received everything up to that event.
    pub(crate) at: Since,
    /// Whether the life was kept from its first event on.
    pub(crate) complete: bool,
}

/// Newest life of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogLife {
    /// Index of its first entry, among all entries that the log ever had.
    pub(super) start: u64,
    /// Number of its first event among all recorded events.
    pub(super) number: u64,
    /// Whether that event is known to be the first of the life.
    pub(super) is_from_start: bool,
}

/// Neighbours in the order of the last write, among logs of one rule.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Links {
    pub(super) older: Option<usize>,
    pub(super) newer: Option<usize>,
}

#[derive(Debug)]
pub(super) struct KeptLog {
    pub(super) name: LogName,
    /// Index of the rule that kept its last event.
    pub(super) rule: usize,
    /// Number that distinguishes it from an earlier log of this name.
    pub(super) serial: u64,
    pub(super) entries: PackedEvents,
    /// Number of entries evicted from its front.
    pub(super) base: u64,
    pub(super) life: LogLife,
    /// Last event that was evicted.
    pub(super) last_evicted: Option<EventId>,
    /// End of the newest life; `None` while it is open.
    pub(super) end: Option<Arc<LogEnd>>,
    pub(super) newest: EventId,
    pub(super) written: Timestamp,
    /// Number of the newest event.
    pub(super) number: u64,
    pub(super) links: Links,
}

/// Memory of a log without its entries, its name and its end, in bytes: the struct, and its entries in two tables.
const LOG_BYTES: usize = heap_block(size_of::<KeptLog>()) + 64;

/// Memory of the counts of an `Arc`, in bytes.
const COUNTS_BYTES: usize = 2 * size_of::<usize>();

impl KeptLog {
    /// Returns the memory of the log, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let end = self.end.as_ref().map_or(0, |_| heap_block(COUNTS_BYTES + size_of::<LogEnd>()));
        LOG_BYTES + heap_block(COUNTS_BYTES + self.name.value.len()) + end + self.entries.held_bytes()
    }

    /// Appends an event that has this id.
    pub(super) fn push(&mut self, number: u64, id: EventId, event: &Event) {
        self.newest = id;
        self.entries.push(number, id, event);
    }

    /// Evicts the oldest event.
    pub(super) fn pop(&mut self) {
        if let Some(id) = self.entries.pop() {
            self.base += 1;
            self.last_evicted = Some(id);
        }
    }

    /// Returns whether the newest life is kept from its first event on. `hole` is the number before which events were not
    /// recorded.
    pub(super) fn is_complete(&self, hole: u64) -> bool {
        self.life.is_from_start && self.base <= self.life.start && hole <= self.life.number
    }

    /// Returns an entry by its index.
    pub(super) fn entry(&self, index: u64) -> Option<Entry<'_>> {
        self.entries.get(usize::try_from(index.checked_sub(self.base)?).ok()?)
    }

    /// Returns the index after the last entry.
    pub(super) fn next(&self) -> u64 {
        self.base + self.entries.len() as u64
    }
}

//! Surroundings of an outbox: the lookups and counters of its loop, and the outcome of a flush.

use crate::event::{EventId, Position, Since, Timestamp};

/// Loop of an outbox: the lookup that a gap notice needs, and the loop's places.
pub(crate) trait ResumeLookup {
    /// Returns what a client can resume with after event `id`, if every event after it can still be read again.
    fn resume_after(&self, id: EventId) -> Option<Since>;
    /// Returns the current time.
    fn now(&self) -> Timestamp;
    /// Returns the place of a client that has received all events in the feeds, if clients of the loop catch up.
    fn place(&self) -> Option<&Position> {
        None
    }
    /// Returns the place of a client that had received all events before the newest batch, if clients of the loop catch up.
    fn place_before_batch(&self) -> Option<&Position> {
        None
    }
}

/// Counters and resume lookup of the loop that an outbox belongs to.
pub(crate) struct OutboxContext<'a, L> {
    pub(in crate::feed) tally: &'a mut Tally,
    pub(in crate::feed) lookup: &'a L,
}

impl<'a, L: ResumeLookup> OutboxContext<'a, L> {
    pub(crate) fn new(tally: &'a mut Tally, lookup: &'a L) -> Self {
        Self { tally, lookup }
    }
}

/// Outcome of a flush.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Everything is written.
    Done,
    /// The socket is full; wait until it is writable.
    Blocked,
    /// The budget is used up; the next turn continues.
    Budget,
    /// The connection has lost frames, and its lag policy is to close it.
    Lagged,
    /// The connection has lost frames, and its policy is to read them elsewhere.
    Behind,
    /// The connection is broken.
    Failed,
}

/// Counts of flushes, which the loop adds to its metrics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes: u64,
    /// Events written or begun.
    pub(crate) events: u64,
    pub(crate) writes: u64,
    /// Writes after which the socket was full.
    pub(crate) blocked: u64,
    pub(crate) dropped: u64,
    /// Events left out for a later one of the same key. Signed, because a dropped event is subtracted when it is
    /// dropped, and added back when the outbox moves past it.
    pub(crate) conflated: i64,
    /// Gap notices.
    pub(crate) gaps: u64,
    /// Events that were merged into a later one of a past.
    pub(crate) merged: u64,
}

//! State of an outbox that is not caught up: the rest of a partly written frame, the connection's own bytes, and its
//! losses.

use std::num::NonZeroU32;

use bytes::Bytes;

use super::inserted::InsertedQueue;
use crate::dialect::Missed;
use crate::event::{EventId, Position, Timestamp};

/// Frames dropped at the newest end since the socket became full. The gap notice is due once everything that was waiting
/// before them is written.
#[derive(Debug, Default)]
pub(super) struct NewestGap {
    /// Number of events that the frames represent; a gap notice among them represents several.
    pub(super) missed: Missed,
    /// Last event of the frames.
    pub(super) last: Option<EventId>,
}

/// State of an outbox that is not caught up.
#[derive(Debug, Default)]
pub(super) struct OutboxBacklog {
    /// Rest of the partly written frame.
    pub(super) partial: Bytes,
    pub(super) inserted: InsertedQueue,
    /// Tick at which the socket last accepted bytes, if it is full.
    pub(super) progress_tick: Option<NonZeroU32>,
    /// Last event that was written, in full or in part.
    pub(super) last: Option<EventId>,
    /// While the connection conflates: number of required frames before the outbox's position, those counted as lost
    /// included.
    pub(super) required_before_next: Option<u64>,
    /// Open gap at the newest end.
    pub(super) newest_gap: Option<NewestGap>,
    /// Place of the loop before the next frame of the feed, of a connection that catches up: everything after it is in
    /// the feed's frames from there on.
    pub(super) place: Option<Box<Position>>,
    /// Time at which the connection began to lag.
    pub(super) lagging_since: Option<Timestamp>,
}

impl OutboxBacklog {
    /// Returns whether nothing is left to write or to report.
    pub(super) fn is_empty(&self) -> bool {
        self.partial.is_empty() && self.inserted.is_empty() && self.newest_gap.is_none()
    }

    /// Returns the last event before position `at` in `inserted`, waiting or written.
    pub(super) fn last_before(&self, at: usize) -> Option<EventId> {
        self.inserted.last_before(at).or(self.last)
    }

    /// Returns the number of bytes that only this backlog retains.
    pub(super) fn own_bytes(&self) -> usize {
        let partial = if self.partial.is_unique() { self.partial.len() } else { 0 };
        let place = if self.place.is_some() { size_of::<Position>() } else { 0 };
        size_of::<Self>() + self.inserted.own_bytes() + partial + place
    }

    /// Returns the number of waiting bytes that are also retained elsewhere.
    pub(super) fn shared_bytes(&self) -> usize {
        self.inserted.sums().shared_bytes + if self.partial.is_unique() { 0 } else { self.partial.len() }
    }
}

//! State of an outbox that is not caught up: the rest of a partly written frame, the connection's own bytes, and its
//! losses.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use bytes::{Bytes, BytesMut};

use crate::dialect::Missed;
use crate::event::{EventId, Position, Timestamp};

/// Largest frame of a replay that is copied for its connection, in bytes.
///
/// A copy is freed with the connection. A shared frame would keep the event's whole frame alive after the ring dropped
/// it, and its reference count costs an allocation.
const COPIED_BYTES_MAX: usize = 4096;

/// Bytes that are allocated at once for copies of a replay's frames.
const COPIES_BYTES: usize = 16 * 1024;

/// Overhead of one piece of inserted bytes, for the allocator and the reference count, in bytes.
const PIECE_BYTES: usize = 48;

/// Memory of a waiting reply in addition to its bytes: a pong of 2 bytes takes about 60 times its size.
pub(crate) const REPLY_COST: usize = size_of::<Inserted>() + PIECE_BYTES;

/// Bytes of one connection, inserted between the frames of its feed.
#[derive(Debug)]
pub(super) struct Inserted {
    /// Index of the frame that the bytes precede.
    pub(super) before: u64,
    pub(super) bytes: Bytes,
    /// Number of events in the bytes.
    pub(super) events: u32,
    /// Whether the bytes change the connection's compression window, so that it differs from the feed's.
    pub(super) changes_window: bool,
    /// Last event in the bytes.
    pub(super) last: Option<EventId>,
    /// Whether the event, the feed or other connections also retain the bytes.
    pub(super) is_shared: bool,
}

/// State of an outbox that is not caught up.
#[derive(Debug, Default)]
pub(super) struct OutboxBacklog {
    /// Rest of the partly written frame.
    pub(super) partial: Bytes,
    pub(super) inserted: VecDeque<Inserted>,
    pub(super) inserted_bytes: usize,
    /// Part of `inserted_bytes` that is also retained elsewhere.
    pub(super) shared_bytes: usize,
    /// Free capacity for the next copies of a replay's frames.
    pub(super) copies: BytesMut,
    /// Tick at which the socket last accepted bytes, if it is full.
    pub(super) progress_tick: Option<NonZeroU32>,
    /// Number of events in `inserted`.
    pub(super) inserted_events: u64,
    /// Last event that was written, in full or in part.
    pub(super) last: Option<EventId>,
    /// Whether the connection lags in a feed that conflates, and receives only the latest frames of keys.
    pub(super) conflates: bool,
    /// While `conflates`: number of required frames before the outbox's position, those counted as lost included.
    pub(super) required_before_next: u64,
    /// Number of frames dropped at the newest end since the socket became full. The gap notice is due once the socket
    /// accepts bytes.
    pub(super) dropped_newest: u64,
    /// Number of events that those frames represent; a gap notice among them represents several.
    pub(super) dropped_missed: Missed,
    /// Last event of those frames.
    pub(super) dropped_last: Option<EventId>,
    /// Place of the loop before the next frame of the feed, of a connection that catches up: everything after it is in
    /// the feed's frames from there on.
    pub(super) place: Option<Box<Position>>,
    /// Time at which the connection began to lag.
    pub(super) lagging_since: Option<Timestamp>,
}

impl OutboxBacklog {
    /// Returns whether nothing is left to write or to report.
    pub(super) fn is_empty(&self) -> bool {
        self.is_written() && self.dropped_newest == 0
    }

    /// Returns whether nothing is left to write.
    pub(super) fn is_written(&self) -> bool {
        self.partial.is_empty() && self.inserted.is_empty()
    }

    /// Returns the last event before position `at` in `inserted`, waiting or written.
    pub(super) fn last_before(&self, at: usize) -> Option<EventId> {
        self.inserted.range(..at).rev().find_map(|inserted| inserted.last).or(self.last)
    }

    /// Returns the position in `inserted` after all bytes that precede frame `index` or an earlier one.
    pub(super) fn position_after(&self, index: u64) -> usize {
        self.inserted.partition_point(|inserted| inserted.before <= index)
    }

    fn count(&mut self, inserted: &Inserted) {
        self.inserted_bytes += inserted.bytes.len();
        if inserted.is_shared {
            self.shared_bytes += inserted.bytes.len();
        }
        self.inserted_events += u64::from(inserted.events);
    }

    pub(super) fn push(&mut self, inserted: Inserted) {
        self.count(&inserted);
        self.inserted.push_back(inserted);
    }

    pub(super) fn insert(&mut self, at: usize, inserted: Inserted) {
        self.count(&inserted);
        self.inserted.insert(at, inserted);
    }

    pub(super) fn pop(&mut self) -> Option<Inserted> {
        let inserted = self.inserted.pop_front()?;
        self.inserted_bytes -= inserted.bytes.len();
        if inserted.is_shared {
            self.shared_bytes -= inserted.bytes.len();
        }
        self.inserted_events -= u64::from(inserted.events);
        Some(inserted)
    }

    /// Takes all inserted bytes out.
    pub(super) fn take_inserted(&mut self) -> VecDeque<Inserted> {
        (self.inserted_bytes, self.shared_bytes, self.inserted_events) = (0, 0, 0);
        std::mem::take(&mut self.inserted)
    }

    /// Takes out the inserted bytes from this position on.
    pub(super) fn split_off(&mut self, at: usize) -> VecDeque<Inserted> {
        let rest = self.inserted.split_off(at);
        for inserted in &rest {
            self.inserted_bytes -= inserted.bytes.len();
            if inserted.is_shared {
                self.shared_bytes -= inserted.bytes.len();
            }
            self.inserted_events -= u64::from(inserted.events);
        }
        rest
    }

    /// Drops everything pending, except the first `count` pieces of inserted bytes, which hold no events.
    pub(super) fn truncate(&mut self, count: usize) {
        self.inserted.truncate(count);
        self.inserted.shrink_to_fit();
        let sizes = self.inserted.iter().map(|inserted| (inserted.bytes.len(), inserted.is_shared));
        (self.inserted_bytes, self.shared_bytes) = sizes.fold((0, 0), |(all, shared), (len, is_shared)| {
            (all + len, shared + if is_shared { len } else { 0 })
        });
        self.inserted_events = 0;
        (self.dropped_newest, self.dropped_missed) = (0, Missed::default());
    }

    /// Returns the number of bytes that only this backlog retains.
    pub(super) fn own_bytes(&self) -> usize {
        let entries = self.inserted.capacity() * size_of::<Inserted>() + self.inserted.len() * PIECE_BYTES;
        let bytes = self.inserted_bytes - self.shared_bytes + self.copies.capacity();
        let partial = if self.partial.is_unique() { self.partial.len() } else { 0 };
        let place = if self.place.is_some() { size_of::<Position>() } else { 0 };
        size_of::<Self>() + entries + bytes + partial + place
    }

    /// Returns the number of waiting bytes that are also retained elsewhere.
    pub(super) fn shared_bytes(&self) -> usize {
        self.shared_bytes + if self.partial.is_unique() { 0 } else { self.partial.len() }
    }

    /// Returns a copy of a small frame, in the same allocation as the copies before it, or a large frame itself; and
    /// whether the bytes are also retained elsewhere.
    pub(super) fn copied(&mut self, frame: Bytes) -> (Bytes, bool) {
        if frame.len() > COPIED_BYTES_MAX {
            let is_shared = !frame.is_unique();
            return (frame, is_shared);
        }
        if self.copies.capacity() < frame.len() {
            self.copies = BytesMut::with_capacity(COPIES_BYTES);
        }
        self.copies.extend_from_slice(&frame);
        (self.copies.split().freeze(), false)
    }
}

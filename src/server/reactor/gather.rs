//! Gathering: events in the feeds wait for the rest of a publisher's burst before they are written.
//!
//! A write to a socket costs as much as 10 to 20 publications. A burst of 500 events is read in several turns, so without
//! waiting it is as many writes to each receiver.
//!
//! Invariants:
//! - The loop has read the events that wait and appended them to the feeds. So each place, reply and interest is the one that
//!   it would be after the write.
//! - Batches that wait are written as one: the place of a client that keeps up is the one before the first of them.
//! - All waiting events are written before an interest changes.
//! - Events wait only for a publisher that the turn's budget has interrupted, while it has input, or for the rest of an accepted
//!   batch. They fit into what feeds retain, apart from [`EVENTS_A_BATCH`] events, and wait about as long as their writes take, within
//!   [`TIME_MIN`] and [`TIME_MAX`].

use super::token::Token;
use crate::event::Timestamp;
use crate::feed::FeedLimits;

/// Maximum number of events taken from the bus before they are written or wait. As many may wait, however few a feed retains.
pub(super) const EVENTS_A_BATCH: usize = 256;

/// Number of waiting events at which they are written, however many a feed retains.
const EVENTS_MAX: usize = 1_024;

/// Bytes of waiting frames at which they are written, however many a feed retains.
const BYTES_MAX: usize = 512 * 1024;

/// Bytes of a native frame around its payload.
const HEAD_BYTES: usize = 300;

/// Time for which events may always wait, in microseconds.
const TIME_MIN: i64 = 2_000;

/// Time after which events do not wait any longer, in microseconds.
const TIME_MAX: i64 = 5_000;

/// Time that a write to one receiver takes, in microseconds. Waiting saves one for each receiver.
const WRITE_TIME: i64 = 10;

/// Events in the feeds that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    /// Publisher of the newest events whose input the turn's budget has interrupted.
    pub(super) publisher: Option<Token>,
    /// Time at which they began to wait; `None` if there are none.
    since: Option<Timestamp>,
    /// Creation of the oldest.
    oldest: Option<Timestamp>,
    events: usize,
    /// Approximate bytes of their frames.
    bytes: usize,
}

impl Unwritten {
    /// Returns whether events wait.
    pub(super) fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// Adds a batch that was appended to the feeds. `bytes` is the length of its payloads.
    pub(super) fn add(&mut self, events: usize, bytes: usize, oldest: Option<Timestamp>) {
        self.events += events;
        self.bytes += bytes + events * HEAD_BYTES;
        self.oldest = self.oldest.or(oldest);
    }

    /// Returns the creation of the oldest event.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.oldest
    }

    /// Lets the events wait from now on, unless they wait already.
    pub(super) fn wait(&mut self, now: Timestamp) {
        self.since.get_or_insert(now);
    }

    /// Returns whether the events may wait for more, as far as their number, bytes and time go. `receivers` is the number of
    /// clients that they are for.
    pub(super) fn may_wait(&self, now: Timestamp, receivers: usize, limits: &FeedLimits) -> bool {
        let passed = self.since.map_or(0, |since| now.0 - since.0);
        let time = (receivers as i64).saturating_mul(WRITE_TIME).clamp(TIME_MIN, TIME_MAX);
        // One more batch fits in what a feed retains.
        let events = limits.max_events.saturating_sub(EVENTS_A_BATCH).clamp(EVENTS_A_BATCH, EVENTS_MAX);
        let bytes = BYTES_MAX.min(limits.max_bytes / 2);
        // A clock that was set back ends it too.
        self.events < events && self.bytes < bytes && (0..time).contains(&passed)
    }
}

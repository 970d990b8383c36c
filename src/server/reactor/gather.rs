//! Gathering: events in the feeds wait for the rest of a publisher's burst before they are written.
//!
//! A write to a socket costs as much as 10 to 20 publications. A burst of 200 events takes all units of a turn, so without
//! waiting it is often two writes to each receiver.
//!
//! Invariants:
//! - The loop has read the events that wait and appended them to the feeds. So each place, reply and interest is the one that
//!   it would be after the write.
//! - Batches that wait are written as one: the place of a client that keeps up is the one before the first of them.
//! - All that waits is written before an interest changes.
//! - Events wait only for a publisher that the turn's budget has interrupted, while it has input: at most [`EVENTS_MAX`]
//!   events, [`BYTES_MAX`] bytes, and [`TIME_MAX`] microseconds.

use super::token::Token;
use crate::event::Timestamp;

/// Number of events from which on they do not wait.
const EVENTS_MAX: usize = 256;

/// Bytes of payloads from which on they do not wait, far below what feeds retain for clients that lag.
const BYTES_MAX: usize = 256 * 1024;

/// Time after which events do not wait any longer, in microseconds.
const TIME_MAX: i64 = 2_000;

/// Events in the feeds that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    /// Publisher of the newest events whose input the turn's budget has interrupted.
    pub(super) publisher: Option<Token>,
    /// Time since when they wait; `None` if there are none.
    since: Option<Timestamp>,
    /// Creation of the oldest.
    oldest: Option<Timestamp>,
    events: usize,
    bytes: usize,
}

impl Unwritten {
    /// Returns whether events wait.
    pub(super) fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// Adds a batch that was appended to the feeds.
    pub(super) fn add(&mut self, events: usize, bytes: usize, oldest: Option<Timestamp>) {
        self.events += events;
        self.bytes += bytes;
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

    /// Returns whether the events may wait for more, as far as their number, bytes and time go.
    pub(super) fn may_wait(&self, now: Timestamp) -> bool {
        let passed = self.since.map_or(0, |since| now.0 - since.0);
        // A clock that was set back ends it too.
        self.events < EVENTS_MAX && self.bytes < BYTES_MAX && (0..TIME_MAX).contains(&passed)
    }
}

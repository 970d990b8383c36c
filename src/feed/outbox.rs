//! Position of a connection in its feed, and the bytes that it still has to write, in order.
//!
//! Invariants:
//! - A frame that was partly written is completed: its rest is kept, even if the feed trims the frame.
//! - Replies keep the position in the feed at which they were sent, and are never dropped.
//! - A connection that is caught up holds nothing: its backlog is freed.
//! - In a feed that compresses with a window, a connection gets those frames only while it is *in sync*: it has read every frame
//!   since the window's last restart.
//! - Each event of the feed is, for the connection, written, pending, dropped (and reported in a gap notice) or
//!   conflated, and is counted as such.

mod backlog;
mod catch_up;
mod flush;
mod gap;
mod membership;
pub(super) mod saved;
pub(super) mod tail;
mod through;

use std::num::NonZeroU32;

use bytes::Bytes;

use super::compressor::Compression;
use super::conflate::LagPolicy;
use super::fanout::Fanout;
use super::feed::Feed;
use super::keys::Membership;
use crate::codec::sse::HEARTBEAT;
use crate::event::{EventId, Position, Since, Timestamp};
use backlog::{Inserted, OutboxBacklog};

pub(crate) use backlog::REPLY_COST;
pub(crate) use catch_up::HeldReplies;

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
    tally: &'a mut Tally,
    lookup: &'a L,
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

/// Position of a connection in its feed, if it has one, and its backlog.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    membership: Option<Membership>,
    lag_policy: LagPolicy,
    /// Whether a replay is under way: no frame of the feed is written before it is over.
    replaying: bool,
    compression: Compression,
    /// Whether the connection can read the feed's next frame in the form that uses the window.
    in_sync: bool,
    /// Low bits of `next` at the last heartbeat of an event stream.
    next_at_heartbeat: u16,
    /// Index of the next frame.
    next: u64,
    /// Pending bytes and losses; `None` if the connection is caught up.
    backlog: Option<Box<OutboxBacklog>>,
}

/// Lag of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lag {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) milliseconds: u64,
}

impl Outbox {
    /// Returns the backlog. Creates one if the connection was caught up so far.
    fn backlog(&mut self, feed: Option<&Feed>) -> &mut OutboxBacklog {
        let next = self.next;
        self.backlog.get_or_insert_with(|| {
            let last = feed.and_then(|feed| feed.id_before(next));
            Box::new(OutboxBacklog { last, ..OutboxBacklog::default() })
        })
    }

    fn drop_empty_backlog(&mut self) {
        let is_replaying = self.replaying;
        let is_over = |backlog: &OutboxBacklog| {
            // Frames of the feed wait for the end of the replay, so the place before them is still needed.
            backlog.is_empty() && !(is_replaying && backlog.place.is_some())
        };
        if self.backlog.as_deref().is_some_and(is_over) {
            self.backlog = None;
        }
    }

    #[cfg(test)]
    pub(crate) fn feed(&self) -> Option<u32> {
        self.membership.map(Membership::feed)
    }

    /// Sets the events that the connection loses when it falls off its feed.
    pub(crate) fn set_lag_policy(&mut self, lag_policy: LagPolicy) {
        self.lag_policy = lag_policy;
    }

    /// Sets the compression of all bytes from here on. The connection must have no feed.
    pub(crate) fn set_compression(&mut self, compression: Compression) {
        self.compression = compression;
    }

    /// Returns the compression of the connection's bytes.
    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// Sets whether a replay is under way, so that frames of the feed are held back.
    pub(crate) fn set_replaying(&mut self, replaying: bool) {
        self.replaying = replaying;
    }

    /// Returns whether bytes with no position among the events can be written directly: no other bytes are waiting or
    /// partly written, and none are compressed.
    pub(crate) fn is_clear(&self) -> bool {
        self.backlog.is_none() && self.compression == Compression::None
    }

    /// Returns the number of waiting inserted bytes.
    pub(crate) fn inserted_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.inserted_bytes)
    }

    /// Returns the number of bytes that only this outbox retains besides its own struct, and the number of waiting
    /// bytes that are also retained elsewhere.
    pub(crate) fn held_bytes(&self) -> (usize, usize) {
        self.backlog.as_ref().map_or((0, 0), |backlog| (backlog.own_bytes(), backlog.shared_bytes()))
    }

    /// Returns the waiting pieces that are also retained elsewhere: the address of each piece's end, and its length.
    /// Partly written copies of one frame end at the same address, wherever they begin.
    pub(crate) fn shared_pieces(&self) -> impl Iterator<Item = (usize, usize)> {
        let end_of = |bytes: &Bytes| (bytes.as_ptr() as usize + bytes.len(), bytes.len());
        self.backlog.iter().flat_map(move |backlog| {
            let count = if backlog.shared_bytes > 0 { usize::MAX } else { 0 };
            let inserted = backlog.inserted.iter().take(count).filter(|inserted| inserted.is_shared);
            let partial = Some(&backlog.partial).filter(|partial| !partial.is_unique());
            inserted.map(|inserted| &inserted.bytes).chain(partial).map(end_of)
        })
    }

    /// Records that the socket is full at `tick`. `progressed` is true if it has just accepted bytes.
    pub(crate) fn record_full(&mut self, tick: u64, progressed: bool) {
        if let Some(backlog) = &mut self.backlog
            && (progressed || backlog.progress_tick.is_none())
        {
            backlog.progress_tick = Some(NonZeroU32::new(tick as u32).unwrap_or(NonZeroU32::MIN));
        }
    }

    /// Returns the number of ticks since a full socket last accepted bytes; 0 if it is not full.
    pub(crate) fn full_for(&self, tick: u64) -> u64 {
        let progress = self.backlog.as_ref().and_then(|backlog| backlog.progress_tick);
        progress.map_or(0, |progress| u64::from((tick as u32).wrapping_sub(progress.get())))
    }

    /// Returns the number of pending events, of which no byte is written.
    pub(crate) fn pending(&self, fanout: &Fanout) -> u64 {
        let ahead = self.membership.map_or(0, |m| {
            let feed = fanout.feed(m.feed());
            feed.next + feed.unsealed() - self.next
        });
        ahead + self.backlog.as_ref().map_or(0, |backlog| backlog.inserted_events)
    }

    /// Returns the newest event of the feed.
    pub(crate) fn newest(&self, fanout: &Fanout) -> Option<EventId> {
        self.membership.and_then(|membership| fanout.newest_appended(membership.feed()))
    }

    /// Returns the connection's lag. The bytes are those inserted and those that the feed still retains for the connection.
    pub(crate) fn lag(&self, fanout: &Fanout, now: Timestamp) -> Lag {
        let Some(backlog) = &self.backlog else { return Lag::default() };
        let ahead = self.membership.map_or(0, |m| fanout.feed(m.feed()).bytes_from(self.next));
        Lag {
            events: self.pending(fanout),
            bytes: (backlog.partial.len() + backlog.inserted_bytes) as u64 + ahead,
            milliseconds: backlog.lagging_since.map_or(0, |since| (now.0 - since.0).max(0) as u64 / 1000),
        }
    }

    /// Returns whether the connection is caught up.
    #[cfg(test)]
    pub(crate) fn is_done(&self, fanout: &Fanout) -> bool {
        self.backlog.is_none() && self.membership.is_none_or(|m| fanout.feed(m.feed()).next == self.next)
    }

    /// Queues bytes after everything that is appended to the feed so far.
    pub(crate) fn send(
        &mut self,
        fanout: &mut Fanout,
        bytes: Bytes,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        if bytes.is_empty() {
            return;
        }
        if let Some(membership) = self.membership {
            fanout.seal(membership.feed());
        }
        let feed = self.membership.map(|m| fanout.feed(m.feed()));
        self.hold_place(feed, cx.lookup);
        let live = feed.filter(|_| !self.replaying);
        if let Some(feed) = live {
            // A reply may confirm that all events so far were delivered, so lost ones must be reported before it.
            self.close_newest_gap(feed, cx);
        }
        let before = live.map_or(self.next, |feed| feed.next);
        let next = self.next as u16;
        let bytes = if bytes == HEARTBEAT && std::mem::replace(&mut self.next_at_heartbeat, next) != next {
            self.compression.heartbeat_after_events(bytes)
        } else {
            self.compression.own(bytes)
        };
        let inserted = self.inserted(before, bytes);
        self.backlog(feed).push(inserted);
    }

    /// Queues a message of a replay, in order with the events of [`Self::send_replayed`].
    pub(crate) fn send_in_replay(&mut self, bytes: Bytes, last: Option<EventId>) {
        let inserted = Inserted { last, ..self.own(self.next, bytes) };
        self.backlog(None).push(inserted);
    }

    /// Returns the connection's own bytes, in the form of its stream, for insertion before frame `before`.
    fn own(&self, before: u64, bytes: Bytes) -> Inserted {
        self.inserted(before, self.compression.own(bytes))
    }

    /// Returns bytes that already have the form of the connection's stream, for insertion before frame `before`.
    fn inserted(&self, before: u64, bytes: Bytes) -> Inserted {
        let (changes_window, is_shared) = (self.compression.changes_window(&bytes), !bytes.is_unique());
        Inserted { before, bytes, events: 0, changes_window, last: None, is_shared }
    }

    /// Queues an event of a replay: before everything in the feed, and after all other bytes.
    pub(crate) fn send_replayed(&mut self, fanout: &mut Fanout, frame: Bytes, id: Option<EventId>) {
        fanout.totals.matched += 1;
        // The frame may be compressed standalone, which changes any window.
        let changes_window = self.compression.uses_window();
        let before = self.next;
        let backlog = self.backlog(None);
        let (bytes, is_shared) = backlog.copied(frame);
        backlog.push(Inserted { before, bytes, events: 1, changes_window, last: id, is_shared });
    }

    /// Counts the frames between the outbox's position and `first` as conflated.
    fn count_conflated(&self, first: u64, tally: &mut Tally) {
        tally.conflated += (first - self.next) as i64;
    }
}

//! Inserts bytes of the connection's own: replies at their position among the frames of the feed, and the events and messages
//! of a replay before all of them.

use bytes::Bytes;

use super::backlog::OutboxBacklog;
use super::inserted::Inserted;
use super::{Outbox, OutboxContext, ResumeLookup};
use crate::codec::sse::HEARTBEAT;
use crate::event::EventId;
use crate::feed::fanout::Fanout;
use crate::feed::feed::Feed;

impl Outbox {
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
        self.backlog(feed).inserted.push(inserted);
    }

    /// Queues a message of a replay, in order with the events of [`Self::send_replayed`].
    pub(crate) fn send_in_replay(&mut self, bytes: Bytes, last: Option<EventId>) {
        let inserted = Inserted { last, ..self.own(self.next, bytes) };
        self.backlog(None).inserted.push(inserted);
    }

    /// Queues events of a replay as one piece: before everything in the feed, and after all other bytes. `last` is the last of
    /// them.
    pub(crate) fn send_replayed(
        &mut self,
        fanout: &mut Fanout,
        bytes: Bytes,
        events: u32,
        last: Option<EventId>,
    ) {
        fanout.totals.matched += u64::from(events);
        // The frames may be compressed standalone, which changes any window.
        let (changes_window, is_shared) = (self.compression.uses_window(), !bytes.is_unique());
        let inserted = Inserted { before: self.next, bytes, events, changes_window, last, is_shared };
        self.backlog(None).inserted.push(inserted);
    }

    /// Returns the connection's own bytes, in the form of its stream, for insertion before frame `before`.
    pub(super) fn own(&self, before: u64, bytes: Bytes) -> Inserted {
        self.inserted(before, self.compression.own(bytes))
    }

    /// Returns bytes that already have the form of the connection's stream, for insertion before frame `before`.
    pub(super) fn inserted(&self, before: u64, bytes: Bytes) -> Inserted {
        let (changes_window, is_shared) = (self.compression.changes_window(&bytes), !bytes.is_unique());
        Inserted { before, bytes, events: 0, changes_window, last: None, is_shared }
    }

    /// Returns the backlog. Creates one if the connection was caught up so far.
    pub(super) fn backlog(&mut self, feed: Option<&Feed>) -> &mut OutboxBacklog {
        let next = self.next;
        self.backlog.get_or_insert_with(|| {
            let last = feed.and_then(|feed| feed.id_before(next));
            Box::new(OutboxBacklog { last, ..OutboxBacklog::default() })
        })
    }

    /// Frees the backlog if nothing is left in it.
    pub(super) fn drop_empty_backlog(&mut self) {
        let (is_replaying, catches_up) = (self.replaying, self.catches_up());
        let is_over = |backlog: &OutboxBacklog| {
            // Frames of the feed wait for the end of the replay, so the place before them is still needed. No place is the one
            // before the log was reached.
            let has_place = catches_up || backlog.place.is_some();
            backlog.is_empty() && !(is_replaying && has_place)
        };
        if self.backlog.as_deref().is_some_and(is_over) {
            self.backlog = None;
        }
    }
}

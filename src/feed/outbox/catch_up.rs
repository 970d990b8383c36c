//! Catching up: a connection whose frames the feed has dropped reads them in a replay, and then returns to the feed's
//! end.
//!
//! Invariants, for a connection with [`LagPolicy::CatchUp`]:
//! - Without a backlog, everything before the newest batch has been written to the connection.
//! - With one, its place is the one before the next frame of the feed, whatever else is pending. If it has no place,
//!   that was lost with the frames after it, and the loss is reported.
//! - A reply after omitted frames waits until the replay has delivered them.
//! - A notice of a purge among omitted frames is sent before the replay.

use std::collections::VecDeque;

use bytes::Bytes;

use super::inserted::Inserted;
use super::{Outbox, ResumeLookup};
use crate::event::Since;
use crate::feed::conflate::LagPolicy;
use crate::feed::fanout::Fanout;
use crate::feed::feed::Feed;

/// Replies of a connection that wait for events of its replay.
#[derive(Debug, Default)]
pub(crate) struct HeldReplies(VecDeque<Inserted>);

impl HeldReplies {
    /// Returns the replies' bytes, in the form of the connection's stream.
    pub(crate) fn into_bytes(self) -> impl Iterator<Item = Bytes> {
        self.0.into_iter().map(|inserted| inserted.bytes)
    }

    /// Returns the memory of the replies, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        let bytes: usize = self.0.iter().map(|inserted| inserted.bytes.len()).sum();
        self.0.capacity() * size_of::<Inserted>() + bytes
    }
}

impl Outbox {
    /// Records the place before the next frame, if the connection was caught up before this batch. Called before any of the batch is
    /// written, or anything is queued.
    pub(super) fn hold_place(&mut self, feed: Option<&Feed>, lookup: &impl ResumeLookup) {
        if !self.catches_up() || self.backlog.is_some() {
            return;
        }
        let Some(feed) = feed else { return };
        let is_at_end = self.next == feed.next + feed.unsealed();
        let place = if is_at_end { lookup.place() } else { lookup.place_before_batch() };
        self.backlog(Some(feed)).place = place.cloned().map(Box::new);
    }

    /// Records the place of a connection at its feed's end. Does nothing for one that has frames of the feed pending.
    pub(crate) fn record_place(&mut self, fanout: &Fanout, lookup: &impl ResumeLookup) {
        // A connection that still catches up keeps its place under another policy.
        let has_place =
            self.replaying && self.backlog.as_ref().is_some_and(|backlog| backlog.place.is_some());
        if self.catches_up() || has_place {
            self.set_place(fanout, lookup);
        }
    }

    fn set_place(&mut self, fanout: &Fanout, lookup: &impl ResumeLookup) {
        let Some(feed) = self.membership.map(|membership| fanout.feed(membership.feed())) else { return };
        if self.next == feed.next + feed.unsealed() {
            self.backlog(Some(feed)).place = lookup.place().cloned().map(Box::new);
        }
    }

    /// Moves the place past frames of the feed.
    pub(super) fn pass_frames(&mut self, feed: &Feed, first: u64, end: u64) {
        let Some(place) = self.backlog.as_mut().and_then(|backlog| backlog.place.as_mut()) else { return };
        // With one shard, the last frame determines the place.
        let first = if place.sequences().len() == 1 { end.saturating_sub(1) } else { first };
        for id in (first..end).filter_map(|index| feed.id_of(index)) {
            // A notice has the id of an event before it.
            let next = place.sequences().get(usize::from(id.shard));
            let is_passed = next.is_some_and(|next| (id.epoch, id.next_sequence()) <= (place.epoch(), *next));
            if !is_passed {
                place.advance_past(id);
            }
        }
    }

    /// Forgets the place: frames after it were lost.
    pub(super) fn forget_place(&mut self) {
        if let Some(backlog) = &mut self.backlog {
            backlog.place = None;
        }
    }

    /// Returns whether a notice of a purge is among the pending frames. A replay of the events does not find it.
    pub(crate) fn has_purge_notice(&self, fanout: &Fanout) -> bool {
        self.membership.is_some_and(|membership| fanout.feed(membership.feed()).has_purge_from(self.next))
    }

    /// Returns whether the connection's policy is to read in a replay what its feed drops.
    pub(crate) fn catches_up(&self) -> bool {
        self.lag_policy == LagPolicy::CatchUp
    }

    /// Returns whether frames of the feed are pending.
    pub(crate) fn has_frames(&self, fanout: &Fanout) -> bool {
        let feed = self.membership.map(|membership| fanout.feed(membership.feed()));
        feed.is_some_and(|feed| self.next < feed.next + feed.unsealed())
    }

    /// Returns whether the connection has lost frames that it is to read in a replay.
    pub(crate) fn is_behind(&self, fanout: &Fanout) -> bool {
        let may_catch_up = self.catches_up() && !self.replaying;
        let feed = self.membership.filter(|_| may_catch_up).map(|membership| fanout.feed(membership.feed()));
        feed.is_some_and(|feed| self.next < feed.base() && !feed.conflates())
    }

    /// Returns whether the connection is behind once its feed is sealed.
    pub(crate) fn falls_behind(&self, fanout: &mut Fanout) -> bool {
        if !self.catches_up() {
            return false;
        }
        if let Some(membership) = self.membership {
            fanout.seal(membership.feed());
        }
        self.is_behind(fanout)
    }

    /// Omits all pending frames of the feed, and holds back new ones until the replay that delivers them has ended.
    /// Returns the place to replay from, and the replies that follow such frames.
    pub(crate) fn begin_catch_up(
        &mut self,
        fanout: &mut Fanout,
        lookup: &impl ResumeLookup,
    ) -> (Option<Since>, HeldReplies) {
        self.hold_place(self.membership.map(|membership| fanout.feed(membership.feed())), lookup);
        let held = self.hold_after_next();
        let mut since = None;
        if let Some(backlog) = &mut self.backlog {
            let place = backlog.place.take().map(|place| Since::Position(*place));
            since = place.or(backlog.last.map(Since::Event));
        }
        self.skip_to_end(fanout);
        self.set_place(fanout, lookup);
        self.replaying = true;
        (since, held)
    }

    /// Takes out the replies that follow pending frames.
    pub(super) fn hold_after_next(&mut self) -> HeldReplies {
        let next = self.next;
        let rest = self.backlog.as_mut().map(|backlog| {
            let at = backlog.inserted.position_after(next);
            backlog.inserted.split_off(at)
        });
        HeldReplies(rest.unwrap_or_default())
    }

    /// Begins a replay that ends at the place of the feed's end, where the connection is.
    pub(crate) fn continue_catch_up(&mut self, fanout: &Fanout, lookup: &impl ResumeLookup) {
        self.set_place(fanout, lookup);
        self.replaying = true;
    }

    /// Adds a reply to those that wait for events of a replay.
    pub(crate) fn hold(&self, bytes: Bytes, held: &mut HeldReplies) {
        if !bytes.is_empty() {
            held.0.push_back(self.own(0, bytes));
        }
    }

    /// Returns the replies of a connection that another process began to catch up. Their bytes have the form of the connection's stream.
    pub(crate) fn restore_held(&self, replies: Vec<Bytes>) -> HeldReplies {
        HeldReplies(replies.into_iter().map(|bytes| self.inserted(0, bytes)).collect())
    }

    /// Queues held replies after everything that is pending.
    pub(crate) fn send_held(&mut self, held: HeldReplies) {
        let before = self.next;
        for inserted in held.0 {
            self.backlog(None).inserted.push(Inserted { before, ..inserted });
        }
    }
}

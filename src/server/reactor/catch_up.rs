//! Clients that fall behind and read on from the past, as they requested (`on_lag=catch_up`).
//!
//! Invariants:
//! - One place decides what a client gets from the past and what from its feed: the place before the next frame of the feed. The
//!   past begins there when the feed has dropped frames, and ends at the loop's place, where the client joins the feed's end. So
//!   no event is missing and none is delivered twice.
//! - A client that has everything but the newest batch has no place of its own: its place is the loop's before that batch
//!   ([`LoopPlaces`]). Frames that no batch appended, such as the notice of a purge, are a batch without events.
//! - The place never moves back. A notice stands for no event, so its id may be that of an earlier one.
//! - The past is read like any other: page by page, as fast as the client reads. So it takes the memory of a cursor.
//! - The client's messages are read meanwhile, because a client that is slower than its stream never catches up. A message
//!   acts at once, at the loop's place. The events before that place come by the interest before the message, in a replay of
//!   their own, and the reply waits for them. The next replay begins at that place.
//! - A close waits for nothing: it drops the events and replies that wait.
//!
//! [`LoopPlaces`]: crate::server::shared::resume::LoopPlaces

use std::sync::Arc;

use super::loop_state::LoopState;
use super::replay::SuspendedCatchUp;
use super::socket::Socket;
use crate::dialect::ConcatTarget;
use crate::event::Position;
use crate::feed::{FeedInterest, LagPolicy};
use crate::filter::Filter;

impl<S: Socket> LoopState<S> {
    /// Records the loop's places from now on, if a client with this policy needs them.
    pub(super) fn keep_places_for(&mut self, lag_policy: LagPolicy) {
        if lag_policy == LagPolicy::CatchUp && !self.places.are_kept {
            self.places.are_kept = true;
            self.places.now = self.loop_place();
            self.places.before_batch.clone_from(&self.places.now);
        }
    }

    /// Records the places before and after a batch that was appended to the feeds.
    pub(super) fn record_places(&mut self) {
        if self.places.are_kept {
            let now = self.loop_place();
            let before = std::mem::replace(&mut self.places.now, now);
            if !self.delivery.unwritten.is_waiting() {
                self.places.before_batch = before;
            }
        }
    }

    /// Begins frames that no batch appends. Without it, a client that has received the newest batch, and none of these frames,
    /// would read that batch again when it falls behind.
    pub(super) fn begin_notices(&mut self) {
        if self.places.are_kept && !self.delivery.unwritten.is_waiting() {
            let places = &mut self.places;
            places.before_batch.clone_from(&places.now);
        }
    }

    /// Returns the place after everything in the feeds. Before the loop has read its first event, that is where the node began to
    /// read the engine's log; `None` before the node has reached the log.
    pub(super) fn loop_place(&self) -> Option<Position> {
        self.delivery.position(&self.shared.bus).or_else(|| self.first_place())
    }

    /// Starts the replays of the clients that are behind, unless there is an event that the loop has read and not yet
    /// appended to the feeds.
    pub(super) fn begin_catch_ups(&mut self) {
        if self.delivery.in_hand.is_some() {
            return;
        }
        for token in std::mem::take(&mut self.clients.behind) {
            if let Some(slot) = self.find(token) {
                self.begin_catch_up(slot);
            }
        }
    }

    /// Starts the replay of a client if it is behind after its feed is sealed.
    pub(super) fn catch_up_if_behind(&mut self, slot: usize) {
        let is_behind = self.clients.conns[slot].outbox.falls_behind(&mut self.delivery.fanout);
        if is_behind && self.delivery.in_hand.is_none() {
            self.begin_catch_up(slot);
        }
    }

    /// Begins to deliver from the past the events that the client's feed has dropped.
    fn begin_catch_up(&mut self, slot: usize) {
        let conn = &self.clients.conns[slot];
        if conn.replay.is_none() && conn.outbox.is_behind(&self.delivery.fanout) {
            self.shared.metrics.catch_ups.inc();
            self.add_catch_up(slot);
            self.queue(slot);
        }
    }

    /// Adds a replay of everything up to the loop's place that the client's interest matches and that is still pending.
    fn add_catch_up(&mut self, slot: usize) {
        let conn = &mut self.clients.conns[slot];
        let Some(FeedInterest { encoding, selections, .. }) = conn.outbox.interest(&self.delivery.fanout)
        else {
            return;
        };
        let filters: Vec<Filter> = selections.into_iter().map(|selection| selection.filter).collect();
        self.turn.work.spend((filters.len() / 10) as u32);
        conn.add_purge_notice(&self.delivery.fanout, encoding, &filters);
        let ring = self.turn.resume_lookup(&self.shared, &self.places);
        let (since, held) = conn.outbox.begin_catch_up(&mut self.delivery.fanout, &ring);
        let mut replay = self.catch_up_replay(encoding, filters, since, held);
        if let Some(target) = self.clients.concats.get(&self.clients.token(slot)) {
            replay.merge_by(Arc::clone(target));
        }
        self.clients.conns[slot].add_replay(replay);
    }

    /// Continues to deliver what a client has to catch up with, up to the loop's place, where its feed continues.
    pub(super) fn continue_catch_up(&mut self, slot: usize, suspended: SuspendedCatchUp) {
        self.keep_places_for(LagPolicy::CatchUp);
        let ring = self.turn.resume_lookup(&self.shared, &self.places);
        let conn = &mut self.clients.conns[slot];
        let Some(FeedInterest { encoding, selections, .. }) = conn.outbox.interest(&self.delivery.fanout)
        else {
            return;
        };
        conn.outbox.continue_catch_up(&self.delivery.fanout, &ring);
        let held = conn.outbox.restore_held(suspended.held);
        let filters: Vec<Filter> = selections.into_iter().map(|selection| selection.filter).collect();
        let mut replay = self.catch_up_replay(encoding, filters, Some(suspended.place), held);
        if let Some(target) = self.clients.concats.get(&self.clients.token(slot)) {
            replay.merge_by(Arc::clone(target));
        }
        self.clients.conns[slot].add_replay(replay);
        self.queue(slot);
    }

    /// Divides a client's catch-up at the loop's place: the events pending now come before the next effect, by the interest
    /// before it. Does nothing for a client that is not catching up, or has nothing pending.
    pub(super) fn mark_place(&mut self, slot: usize) {
        let conn = &self.clients.conns[slot];
        let is_marked = conn.replay.as_ref().is_some_and(|replay| replay.marks_places());
        if is_marked && self.delivery.in_hand.is_none() && conn.outbox.has_frames(&self.delivery.fanout) {
            self.add_catch_up(slot);
        }
    }

    /// Ends a client's catch-up at the loop's place, because its interest changes here.
    pub(super) fn end_catch_up_here(&mut self, slot: usize) {
        self.mark_place(slot);
        if let Some(replay) = self.clients.conns[slot].replay.as_mut().filter(|replay| replay.is_catch_up()) {
            replay.end_here();
        }
    }

    /// Sets the string by which neighbours are merged for a client that catches up.
    pub(super) fn concat(&mut self, slot: usize, target: Option<Arc<ConcatTarget>>) {
        let token = self.clients.token(slot);
        match target {
            Some(target) => self.clients.concats.insert(token, target),
            None => self.clients.concats.remove(&token),
        };
    }
}

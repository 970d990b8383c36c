//! Clients that fall behind and read on from the past, as they requested (`on_lag=catch_up`).
//!
//! Invariants:
//! - The past begins after the last event written to the client, and ends where its feed continues. So no event is
//!   missing and none is delivered twice.
//! - It is read like any other past: page by page, as fast as the client reads. So it costs a cursor.
//! - Effects of a message that is handled at that time wait until the client has caught up.

use std::sync::Arc;

use super::loop_state::LoopState;
use super::mailbox::Wait;
use super::socket::Socket;
use super::token::Token;
use crate::dialect::ConcatTarget;
use crate::feed::{FeedInterest, LagPolicy};
use crate::filter::Filter;
use crate::server::session::effect::Effect;

impl<S: Socket> LoopState<S> {
    /// Records the loop's places from now on, if a client with this policy needs them.
    pub(super) fn keep_places_for(&mut self, lag_policy: LagPolicy) {
        if lag_policy == LagPolicy::CatchUp && !self.places.are_kept {
            self.places.are_kept = true;
            self.places.now = self.delivery.position(&self.shared.bus);
            self.places.before_batch.clone_from(&self.places.now);
        }
    }

    /// Records the places before and after a batch that was appended to the feeds.
    pub(super) fn record_places(&mut self) {
        if self.places.are_kept {
            let now = self.delivery.position(&self.shared.bus);
            self.places.before_batch = std::mem::replace(&mut self.places.now, now);
        }
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
        let conn = &mut self.clients.conns[slot];
        if conn.replay.is_some() || !conn.outbox.is_behind(&self.delivery.fanout) {
            return;
        }
        let Some(FeedInterest { encoding, selections, .. }) = conn.outbox.interest(&self.delivery.fanout)
        else {
            return;
        };
        let filters: Vec<Filter> = selections.into_iter().map(|selection| selection.filter).collect();
        self.turn.work.spend((filters.len() / 10) as u32);
        let ring = self.turn.resume_lookup(&self.shared, &self.places);
        let (since, held) = conn.outbox.begin_catch_up(&mut self.delivery.fanout, &ring);
        self.shared.metrics.catch_ups.inc();
        self.begin_catch_up_replay(slot, encoding, filters, since, held);
        let target = self.clients.concats.get(&self.clients.token(slot)).cloned();
        if let Some((replay, target)) = self.clients.conns[slot].replay.as_mut().zip(target) {
            replay.merge_by(target);
        }
        self.queue(slot);
    }

    /// Sets the string by which neighbours are merged for a client that catches up.
    pub(super) fn concat(&mut self, slot: usize, target: Option<Arc<ConcatTarget>>) {
        let token = self.clients.token(slot);
        match target {
            Some(target) => self.clients.concats.insert(token, target),
            None => self.clients.concats.remove(&token),
        };
    }

    /// Returns whether a client catches up at present.
    pub(super) fn is_catching_up(&self, token: Token) -> bool {
        let conn = self.find(token).map(|slot| &self.clients.conns[slot]);
        conn.and_then(|conn| conn.replay.as_ref()).is_some_and(|replay| replay.is_catch_up())
    }

    /// Defers effects of a client until it has caught up. If one of them closes the connection, the events and the
    /// replies after them are dropped.
    pub(super) fn defer_until_caught_up(&mut self, token: Token, effects: Vec<Effect>) {
        if !effects.iter().any(|effect| matches!(effect, Effect::Close(_))) {
            if let Some(slot) = self.find(token) {
                self.put_off(slot, Wait::CaughtUp, effects);
            }
            return;
        }
        for effect in effects.into_iter().filter(|effect| !matches!(effect, Effect::Send(_))) {
            if let Some(slot) = self.find(token) {
                self.apply_effect(slot, effect);
            }
        }
    }
}

//! Applies the effects that connections return, in order.
//!
//! Invariants:
//! - All effects of a connection are applied, even if an earlier one removed it: applying an effect may write to all clients
//!   and find this one's socket broken.

use bytes::Bytes;
use smallvec::SmallVec;

use super::clients::Ending;
use super::loop_state::LoopState;
use super::socket::Socket;
use crate::dialect::Encoding;
use crate::feed::{Change, Conflation, ConnIndex, FilterSelection, LagPolicy, OutboxContext, REPLY_COST};
use crate::server::session::effect::Effect;

impl<S: Socket> LoopState<S> {
    /// Applies the connection's pending effects. Returns false if the connection is gone.
    pub(super) fn apply(&mut self, slot: usize) -> bool {
        let token = self.clients.token(slot);
        let mut effects = std::mem::take(&mut self.turn.effects);
        self.apply_effects(token, effects.drain(..));
        self.turn.effects = effects;
        self.find(token).is_some() && self.flush(slot)
    }

    /// Applies one effect of a connection.
    pub(super) fn apply_effect(&mut self, slot: usize, effect: Effect) {
        match effect {
            Effect::Send(bytes) => self.send(slot, bytes),
            Effect::Compress(compression) => self.clients.conns[slot].outbox.set_compression(compression),
            Effect::Interest { .. }
            | Effect::Change { .. }
            | Effect::Replay { .. }
            | Effect::Refill { .. }
            | Effect::ReportEnded { .. }
                if self.is_denied(slot) => {}
            Effect::Named(name) => self.call(slot, name),
            Effect::Interest { encoding, wishes } => {
                self.end_catch_up_here(slot);
                self.place(slot, wishes.iter().map(|(filter, _)| filter));
                self.watch_ends(slot, encoding, wishes.iter().map(|(filter, _)| filter));
                self.leave_feed(slot);
                if wishes.is_empty() {
                    self.clients.wanted.remove(&self.clients.token(slot));
                } else {
                    let lag_policy =
                        wishes.iter().map(|wish| LagPolicy::from(wish.1)).max().unwrap_or_default();
                    let wishes: SmallVec<[FilterSelection; 2]> = (wishes.into_iter())
                        .map(|(filter, on_lag)| FilterSelection {
                            filter,
                            conflation: Conflation::from(on_lag),
                        })
                        .collect();
                    self.join(slot, encoding, lag_policy, &wishes);
                }
            }
            Effect::Change { encoding, lag_policy, changes, added } => {
                self.end_catch_up_here(slot);
                self.turn.work.spend(changes.iter().map(Change::units).sum());
                self.change(slot, encoding, lag_policy, &changes, added);
                let rebuilt = self.delivery.fanout.take_rebuilt();
                self.turn.work.spend(u32::try_from(2 * rebuilt).unwrap_or(u32::MAX));
            }
            Effect::Replay { encoding, filters, except, from, report, merge } => {
                self.mark_place(slot);
                self.begin_replay(slot, encoding, filters, except, from, report);
                if let Some((replay, target)) = self.clients.conns[slot].replay.as_mut().zip(merge) {
                    replay.newest().merge_by(target);
                }
            }
            Effect::Concat(target) => self.concat(slot, target),
            Effect::Refill { encoding, filters, since } => {
                self.begin_refill(slot, encoding, filters, since);
            }
            // These effects have waited: see `deferred`.
            Effect::AwaitRead(_) | Effect::AwaitFollowed(_) => {}
            Effect::ReportEnded { subscription } => self.queue_past_ends(slot, &subscription, &[]),
            Effect::Publish { events, once, answer } => self.publish(slot, events, once, answer),
            Effect::Purge { names, answer } => self.purge(slot, &names, answer),
            Effect::Work(work) => self.work(slot, work),
            Effect::Count(counted) => {
                self.clients.addresses.insert(self.clients.token(slot), counted);
            }
            Effect::LookAt(tick) => {
                self.turn.wheel.add(tick, slot as ConnIndex);
            }
            Effect::Close(last) => self.begin_close(slot, last),
        }
    }

    /// Ends a connection once these last bytes are written: it gets no further events.
    fn begin_close(&mut self, slot: usize, last: Bytes) {
        self.forget_deferred(slot);
        self.leave_channels(slot);
        self.clients.ends.remove(self.clients.token(slot));
        if self.clients.conns[slot].replay.take().is_some() {
            // Stop here: live events would follow an unreported gap.
            let outbox = &mut self.clients.conns[slot].outbox;
            outbox.set_replaying(false);
            let moved = outbox.abandon(&mut self.delivery.fanout, &mut self.delivery.tally);
            self.update_member_index(moved);
        } else {
            self.leave_feed(slot);
        }
        self.send(slot, last);
        let conn = &mut self.clients.conns[slot];
        conn.end_with(Ending::Closing);
        // The connection's timer limits the time that closing may take.
        self.turn.wheel.add(self.turn.tick + 1, slot as ConnIndex);
    }

    /// Queues bytes for one client, after all its pending bytes and events.
    pub(super) fn send(&mut self, slot: usize, bytes: Bytes) {
        self.mark_place(slot);
        let conn = &mut self.clients.conns[slot];
        if let Some(replay) = conn.replay.as_mut().filter(|replay| replay.is_catch_up()) {
            self.accounts.bytes_since_count =
                self.accounts.bytes_since_count.saturating_add(bytes.len() + REPLY_COST);
            return replay.hold(&conn.outbox, bytes);
        }
        self.send_now(slot, bytes);
    }

    /// Queues bytes for one client, after all its pending bytes.
    pub(super) fn send_now(&mut self, slot: usize, bytes: Bytes) {
        self.accounts.bytes_since_count =
            self.accounts.bytes_since_count.saturating_add(bytes.len() + REPLY_COST);
        let ring = self.turn.resume_lookup(&self.shared, &self.places);
        self.clients.conns[slot].outbox.send(
            &mut self.delivery.fanout,
            bytes,
            &mut OutboxContext::new(&mut self.delivery.tally, &ring),
        );
    }

    /// Starts to deliver the events that these wishes match. The client must have left its feed.
    pub(super) fn join(
        &mut self,
        slot: usize,
        encoding: Encoding,
        lag_policy: LagPolicy,
        wishes: &[FilterSelection],
    ) {
        if let Some(interest) = self.shared.engine.as_ref().and_then(|engine| engine.interest()) {
            let token = self.clients.token(slot);
            // The new guard comes before the old one is dropped, so a subject that is in both stays followed.
            let want =
                |wish: &FilterSelection| (wish.filter.clone(), interest.want(std::iter::once(&wish.filter)));
            let _old = self.clients.wanted.insert(token, wishes.iter().map(want).collect());
        }
        self.keep_places_for(lag_policy);
        let conn = &mut self.clients.conns[slot];
        conn.outbox.set_lag_policy(lag_policy);
        conn.outbox.join(&mut self.delivery.fanout, encoding, wishes, slot as ConnIndex);
        conn.outbox.record_place(&self.delivery.fanout, &self.turn.resume_lookup(&self.shared, &self.places));
        conn.outbox.set_replaying(conn.replay.is_some());
        conn.connection.share_filters(usize::MAX, |filter| self.delivery.fanout.interned(filter));
    }

    /// Changes a connection's interest: the changes hold from the next event on.
    fn change(
        &mut self,
        slot: usize,
        encoding: Encoding,
        lag_policy: LagPolicy,
        changes: &[Change],
        added: usize,
    ) {
        self.change_channels(slot, changes);
        self.change_watched(slot, encoding, changes);
        if let Some(interest) = self.shared.engine.as_ref().and_then(|engine| engine.interest()) {
            let wanted = self.clients.wanted.entry(self.clients.token(slot)).or_default();
            // The new guard comes before the old one is dropped, so a subject that is in both stays followed.
            for change in changes.iter().filter(|change| change.to.is_some()) {
                let want = interest.want(std::iter::once(&change.filter));
                let _old = wanted.insert(change.filter.clone(), want);
            }
            for change in changes.iter().filter(|change| change.to.is_none()) {
                wanted.remove(&change.filter);
            }
            for from in changes.iter().filter_map(|change| change.from.as_ref()) {
                wanted.remove(from);
            }
        }
        self.keep_places_for(lag_policy);
        let ring = self.turn.resume_lookup(&self.shared, &self.places);
        let conn = &mut self.clients.conns[slot];
        let moved = conn.outbox.change(
            &mut self.delivery.fanout,
            encoding,
            lag_policy,
            changes,
            slot as ConnIndex,
            &mut OutboxContext::new(&mut self.delivery.tally, &ring),
        );
        conn.outbox.set_replaying(conn.replay.is_some());
        conn.connection.share_filters(added, |filter| self.delivery.fanout.interned(filter));
        self.update_member_index(moved);
    }

    pub(super) fn leave_feed(&mut self, slot: usize) {
        let ring = self.turn.resume_lookup(&self.shared, &self.places);
        let moved = self.clients.conns[slot]
            .outbox
            .leave(&mut self.delivery.fanout, &mut OutboxContext::new(&mut self.delivery.tally, &ring));
        self.update_member_index(moved);
    }
}

//! Effects of clients for which this node is not ready yet.
//!
//! A client may come from another node that has read more of the engine's log than this one, or from another loop that has read
//! more of the bus. Or it wants events that no client here wanted before, so the node has only just subscribed to them. Or it wants
//! a log from its start, of which this loop has not read the newest life.
//!
//! Invariants:
//! - The effect is applied when this loop has read that far, or when the node receives the wanted events. So the client
//!   gets no event twice and misses none.
//! - After a few seconds the effect is applied anyway, and the client receives a gap.
//! - The client is not read while it waits.

use super::loop_state::LoopState;
use super::mailbox::{DeferredEffects, Wait};
use super::socket::Socket;
use super::token::Token;
use crate::event::Since;
use crate::feed::Change;
use crate::filter::Filter;
use crate::server::limits::budget;
use crate::server::session::effect::Effect;
use crate::server::session::past::ReplayFrom;
use crate::server::shared::resume::is_ahead;
use crate::server::tick::{Tick, ticks};

/// Maximum time that a client waits for this node to catch up.
const PATIENCE_TICKS: Tick = 50;

impl<S: Socket> LoopState<S> {
    /// Applies a connection's effects in order. An effect that has to wait is deferred, with all effects after it.
    pub(super) fn apply_effects(&mut self, token: Token, effects: impl IntoIterator<Item = Effect>) {
        let mut rest = effects.into_iter();
        while let Some(effect) = rest.next() {
            if self.delivery.unwritten.is_waiting()
                && !matches!(effect, Effect::Send(_) | Effect::Publish { .. } | Effect::LookAt(_))
            {
                // Interests change between batches that are written.
                self.flush_dirty();
            }
            let Some(slot) = self.find(token) else { return };
            if let Effect::Send(bytes) = effect {
                // The usual effect, which waits for nothing.
                self.catch_up_if_behind(slot);
                self.send(slot, bytes);
            } else if let Some(wait) = self.wait_for(&effect) {
                self.put_off(slot, wait, std::iter::once(effect).chain(rest.by_ref()).collect());
            } else {
                self.apply_part(slot, effect, rest.by_ref());
            }
        }
    }

    /// Applies one effect. A long change is applied as far as this turn's budget goes; its rest is deferred, with all
    /// effects after it.
    ///
    /// A change that fits a client's part of a turn is not divided, even if that part is spent: it is the last step of
    /// the current message. So no event is delivered by the new interest before the reply to the change.
    fn apply_part(&mut self, slot: usize, effect: Effect, rest: impl Iterator<Item = Effect>) {
        // A change would seal the feed, and then report what the feed drops as missed. An effect before this one may have
        // made the client fall behind.
        self.catch_up_if_behind(slot);
        let Effect::Change { encoding, lag_policy, mut changes, added } = effect else {
            return self.apply_effect(slot, effect);
        };
        let units = changes.iter().map(Change::units).fold(0, u32::saturating_add);
        if units <= budget::CLIENT {
            return self.apply_effect(slot, Effect::Change { encoding, lag_policy, changes, added });
        }
        // At least one change, so that each turn makes progress, and so that live delivery begins where a replay before it
        // ends.
        let mut left = self.turn.work.left().min(budget::CLIENT);
        let mut count = 0;
        while count < changes.len() && (count == 0 || left > 0) {
            left = left.saturating_sub(changes[count].units());
            count += 1;
        }
        let later = changes.split_off(count);
        if later.is_empty() {
            return self.apply_effect(slot, Effect::Change { encoding, lag_policy, changes, added });
        }
        let later = Effect::Change { encoding, lag_policy, changes: later, added };
        self.apply_effect(slot, Effect::Change { encoding, lag_policy, changes, added: 0 });
        self.put_off(slot, Wait::Turn, std::iter::once(later).chain(rest).collect());
    }

    /// Returns whether some effects wait for nothing but the next turn.
    pub(super) fn has_unfinished(&self) -> bool {
        let is_ready = |put_off: &DeferredEffects| matches!(put_off.wait, Wait::Turn);
        self.requests.deferred.iter().any(is_ready)
    }

    /// Returns the condition that this effect has to wait for.
    fn wait_for(&self, effect: &Effect) -> Option<Wait> {
        if let Effect::AwaitRead(since) = effect
            && self.is_ahead(since)
        {
            return Some(Wait::Log(since.clone()));
        }
        if let Effect::Replay { filters, from: ReplayFrom::Start, .. } = effect
            && !self.shared.kept.is_reading()
            && let Some(since) = self.place_of_unread_lives(filters)
            && self.is_ahead(&since)
        {
            return Some(Wait::Log(since));
        }
        self.wait_for_engine(effect)
    }

    /// Returns the condition that this effect has to wait for because of the engine.
    fn wait_for_engine(&self, effect: &Effect) -> Option<Wait> {
        let engine = self.shared.engine.as_ref()?;
        let needs_logs =
            matches!(effect, Effect::Replay { .. } | Effect::ReportEnded { .. } | Effect::Publish { .. });
        if needs_logs && self.shared.kept.is_reading() {
            return Some(Wait::KeptLogs);
        }
        let interest = engine.interest()?;
        let filters: Vec<Filter> = match effect {
            Effect::Replay { filters, .. } => filters.clone(),
            Effect::AwaitFollowed(filter) => vec![filter.clone()],
            Effect::Interest { wishes, .. } => wishes.iter().map(|(filter, _)| filter.clone()).collect(),
            Effect::Change { changes, .. } => changes
                .iter()
                .filter(|change| change.to.is_some())
                .map(|change| change.filter.clone())
                .collect(),
            _ => return None,
        };
        if interest.is_followed(filters.iter()) {
            return None;
        }
        let wanted = interest.want(filters.iter());
        Some(Wait::Interest(filters, wanted))
    }

    fn is_over(&self, wait: &Wait) -> bool {
        match wait {
            Wait::Turn => true,
            Wait::KeptLogs => !self.shared.kept.is_reading(),
            Wait::Log(since) => !self.is_ahead(since),
            Wait::Interest(filters, _) => {
                let interest = self.shared.engine.as_ref().and_then(|engine| engine.interest());
                interest.is_none_or(|interest| interest.is_followed(filters.iter()))
            }
        }
    }

    /// Returns whether effects of a client wait.
    #[cfg(test)]
    pub(crate) fn has_deferred(&self, token: Token) -> bool {
        self.requests.deferred.iter().any(|put_off| put_off.token == token)
    }

    fn is_ahead(&self, since: &Since) -> bool {
        is_ahead(&self.shared, since, |shard| self.delivery.reader.position(shard))
    }

    pub(super) fn put_off(&mut self, slot: usize, wait: Wait, effects: Vec<Effect>) {
        let conn = &mut self.clients.conns[slot];
        conn.pending_answers += 1;
        let token = conn.token(slot);
        let is_publisher = matches!(effects.first(), Some(Effect::Publish { .. }));
        let patience = match wait {
            // A publisher that waits for long is refused instead.
            Wait::KeptLogs if !is_publisher => ticks(self.turn.config.retain.read_timeout) + PATIENCE_TICKS,
            _ => PATIENCE_TICKS,
        };
        self.requests.deferred.push(DeferredEffects {
            token,
            wait,
            until: self.turn.tick + patience,
            effects,
        });
    }

    /// Drops the deferred effects of a connection that closes.
    pub(super) fn forget_deferred(&mut self, slot: usize) {
        let conn = &mut self.clients.conns[slot];
        let token = conn.token(slot);
        self.requests.deferred.retain(|put_off| {
            let other = put_off.token != token;
            conn.pending_answers -= u32::from(!other);
            other
        });
    }

    /// Applies the deferred effects that need not wait any more.
    pub(super) fn resume_deferred(&mut self) {
        let mut at = 0;
        // Effects that are deferred again during this walk wait for the next turn.
        let mut looks = self.requests.deferred.len();
        while looks > 0
            && let Some(put_off) = self.requests.deferred.get(at)
        {
            looks -= 1;
            let is_gone = self.find(put_off.token).is_none();
            let waits = match put_off.wait {
                _ if self.delivery.in_hand.is_some() => true,
                Wait::Turn => self.turn.spending.is_spent(),
                ref wait => self.turn.tick < put_off.until && !self.is_over(wait),
            };
            if waits && !is_gone {
                at += 1;
                continue;
            }
            // Held until its effects are applied.
            let DeferredEffects { token, effects, wait, .. } = self.requests.deferred.remove(at);
            let Some(slot) = self.find(token) else { continue };
            let conn = &mut self.clients.conns[slot];
            conn.pending_answers -= 1;
            if conn.is_unread() || conn.connection.holds_input() {
                self.queue_input(slot);
            }
            let mut effects = effects.into_iter();
            self.turn.work = self.turn.spending.share(budget::CLIENT);
            // The first effect has waited. Those after it may have to wait for something else, and so may the first one after
            // the wait for kept logs: this loop has not read as far as the engine's follower.
            let has_waited = !matches!(wait, Wait::KeptLogs) || !self.is_over(&wait);
            if has_waited && let Some(first) = effects.next() {
                // A past that has waited for this loop may have to wait for what the node follows.
                let next = matches!(wait, Wait::Log(_)).then(|| self.wait_for_engine(&first)).flatten();
                match next {
                    Some(next) => {
                        self.put_off(slot, next, std::iter::once(first).chain(effects.by_ref()).collect());
                    }
                    None => self.apply_part(slot, first, effects.by_ref()),
                }
            }
            self.apply_effects(token, effects);
            self.turn.spending.settle(&self.turn.work);
            drop(wait);
            if let Some(slot) = self.find(token) {
                self.flush(slot);
            }
        }
    }
}

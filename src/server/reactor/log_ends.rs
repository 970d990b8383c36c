//! Reports the ends of kept logs to the clients that name them in their filters.
//!
//! Invariants:
//! - An end is reported after the log's last event was appended to the feeds, and before any later event is.
//! - A client that still receives its past gets the report after it, with its current place, so that its place never
//!   moves back.
//! - Without a rule that ends logs, the cost is one look at a flag and at an empty table.

use std::sync::Arc;

use super::end_watch::PendingEnds;
use super::loop_state::LoopState;
use super::socket::Socket;
use crate::dialect::{Dialect, Encoding};
use crate::engine::LogPlace;
use crate::event::EventId;
use crate::feed::{Change, FeedInterest};
use crate::filter::Filter;
use crate::kept::LogEnd;
use crate::server::session::ended::LogsEnded;

impl<S: Socket> LoopState<S> {
    /// Lists a client under the logs that these filters name. The filters are its whole interest.
    pub(super) fn watch_ends<'a>(
        &mut self,
        slot: usize,
        encoding: Encoding,
        filters: impl Iterator<Item = &'a Filter>,
    ) {
        let token = self.clients.token(slot);
        self.clients.ends.remove(token);
        if encoding.dialect() != Dialect::Native {
            return;
        }
        let Some(logs) = self.shared.kept.lock_with_ends() else { return };
        let mut count = 0;
        let mut is_closed = true;
        for filter in filters {
            let named = logs.named_with_end(filter);
            self.turn.work.spend((filter.members_count() / 4) as u32);
            (count, is_closed) = (count + 1, is_closed && named.is_closed);
            named.names.into_iter().for_each(|name| self.clients.ends.add(token, name));
        }
        self.clients.ends.set_closed(token, is_closed && count == 1);
    }

    /// Lists a client under the logs that these changes of its interest add and remove.
    pub(super) fn change_watched(&mut self, slot: usize, encoding: Encoding, changes: &[Change]) {
        if encoding.dialect() != Dialect::Native {
            return;
        }
        let Some(logs) = self.shared.kept.lock_with_ends() else { return };
        let token = self.clients.token(slot);
        let ends = &mut self.clients.ends;
        for Change { filter, was, to, from } in changes {
            self.turn.work.spend((filter.members_count() / 4) as u32);
            match (was, to.is_some()) {
                (false, true) => {
                    logs.named_with_end(filter).names.into_iter().for_each(|name| ends.add(token, name));
                }
                (true, false) => {
                    logs.named_with_end(filter).names.iter().for_each(|name| ends.take(token, name));
                }
                _ => {}
            }
            if let Some(from) = from {
                logs.named_with_end(from).names.iter().for_each(|name| ends.take(token, name));
            }
        }
    }

    /// Lists all clients again, because the rules have changed.
    pub(super) fn watch_ends_anew(&mut self) {
        let slots: Vec<usize> = self.clients.conns.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            match self.clients.conns[slot].outbox.interest(&self.delivery.fanout) {
                Some(FeedInterest { encoding, selections, .. }) => {
                    self.watch_ends(slot, encoding, selections.iter().map(|selection| &selection.filter));
                }
                None => self.clients.ends.remove(self.clients.token(slot)),
            }
        }
    }

    /// Returns whether this loop has read an event.
    fn has_read(&self, id: EventId) -> bool {
        (id.epoch, id.sequence) < self.next_place(id.shard)
    }

    /// Reports the end of a log to the clients that name it. The event that ended it is in the feeds.
    pub(super) fn handle_end(&mut self, end: &Arc<LogEnd>) {
        let pending =
            |&token| PendingEnds { token, subscription: None, ends: vec![Arc::clone(end)], is_late: false };
        let new: Vec<PendingEnds> = self.clients.ends.clients(&end.name).iter().map(pending).collect();
        self.clients.ends.pending.extend(new);
        self.report_ends();
    }

    /// Reports ends that this loop has lost and the engine's follower has read. `from` is the place of the first lost event;
    /// `reported` is an end that is reported anyway.
    pub(super) fn report_lost_ends(&mut self, from: LogPlace, reported: Option<EventId>) {
        let Some(logs) = self.shared.kept.lock_with_ends() else { return };
        let mut lost = Vec::new();
        for (name, clients) in self.clients.ends.names() {
            let Some(end) = logs.end(name, self.turn.now) else { continue };
            if (end.id.epoch, end.id.sequence) >= from && self.has_read(end.id) && Some(end.id) != reported {
                let pending = |&token| PendingEnds {
                    token,
                    subscription: None,
                    ends: vec![Arc::clone(end)],
                    is_late: true,
                };
                lost.extend(clients.iter().map(pending));
            }
        }
        drop(logs);
        self.clients.ends.pending.extend(lost);
        self.report_ends();
    }

    /// Queues reports of the logs that a new subscription or stream names and that have ended already. Those in `except`
    /// are reported anyway.
    pub(super) fn queue_past_ends(&mut self, slot: usize, subscription: &str, except: &[Arc<LogEnd>]) {
        let conn = &self.clients.conns[slot];
        let token = conn.token(slot);
        let waits = conn.replay.as_ref().is_some_and(|replay| !replay.is_catch_up());
        if self.clients.ends.is_empty() || waits {
            return;
        }
        let Some(logs) = self.shared.kept.lock() else { return };
        let names = match conn.connection.named_logs(subscription, &logs) {
            Some(names) => names,
            None => {
                let watched = self.clients.ends.logs_of(token);
                watched.map_or_else(Vec::new, |watched| watched.names.keys().cloned().collect())
            }
        };
        self.turn.work.spend((names.len() / 4) as u32);
        let is_new =
            |end: &&Arc<LogEnd>| self.has_read(end.id) && !except.iter().any(|other| other.id == end.id);
        let ends = names.iter().filter_map(|name| logs.end(name, self.turn.now));
        let ends: Vec<Arc<LogEnd>> = ends.filter(is_new).cloned().collect();
        if !ends.is_empty() {
            let subscription = (!subscription.is_empty()).then(|| subscription.into());
            self.clients.ends.pending.push(PendingEnds { token, subscription, ends, is_late: true });
        }
    }

    /// Reports the pending ends to clients. A client is not removed here: its bytes are written later.
    pub(super) fn report_ends(&mut self) {
        for PendingEnds { token, subscription, ends, is_late } in
            std::mem::take(&mut self.clients.ends.pending)
        {
            let Some(slot) = self.find(token) else { continue };
            // The end may close the connection, and what its feed has dropped comes before that.
            self.catch_up_if_behind(slot);
            let is_over = self.have_all_ended(slot);
            let conn = &mut self.clients.conns[slot];
            // For a client that catches up, the report is a reply like others, unless it closes the connection.
            if let Some(replay) = &mut conn.replay
                && (is_over || !replay.takes_messages())
            {
                replay.newest().add_ends(ends);
                continue;
            }
            let view = self.delivery.view(&self.shared.bus, &conn.socket, Some(&conn.outbox));
            let mut cx = self.turn.context(&self.shared, &view, conn.blocked);
            let ended = LogsEnded { ends: &ends, subscription: subscription.as_deref(), is_late, is_over };
            conn.connection.logs_ended(&ended, &mut cx);
            let mut effects = std::mem::take(&mut self.turn.effects);
            self.apply_effects(token, effects.drain(..));
            self.turn.effects = effects;
            if self.find(token).is_some() {
                self.queue(slot);
            }
        }
    }

    /// Returns whether all logs that a client's only filter names have ended, and the filter selects no others.
    fn have_all_ended(&self, slot: usize) -> bool {
        let Some(watched) = self.clients.ends.logs_of(self.clients.token(slot)) else { return false };
        let Some(logs) = self.shared.kept.lock().filter(|_| watched.is_closed) else { return false };
        logs.have_ended(watched.names.keys(), self.turn.now, |end| self.has_read(end.id))
    }
}

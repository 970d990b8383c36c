//! A loop without its poll: connections, feeds and the bus, driven by readiness and time.
//!
//! The loop does not depend on mio: a socket is any type that implements [`Socket`].
//!
//! Invariants:
//! - Events of the bus are appended to the feeds before a client's message is read, so a subscription starts at the place
//!   where its message was read.
//! - A connection that has pending bytes and is not blocked is written in the turn that made them. Events of a burst may wait
//!   for its rest (see [`gather`](super::gather)).
//! - Readiness is used up, because mio reports it once. A connection that ran out of budget waits in a queue.

use std::io;
use std::sync::Arc;

use bytes::Buf as _;

use super::accounts::Accounts;
use super::clients::{Clients, Ending, SocketInput};
use super::delivery::{BATCHES_A_TURN, EventFlow};
use super::departures::Departures;
use super::mailbox::PendingRequests;
use super::queues::Queued;
use super::socket::{HandshakeSteps, Socket};
use super::token::Token;
use super::turn::{CLOCK_TICKS, Turn};
use super::zero_copy::FanoutSocket;
use crate::bus::LoopReader;
use crate::event::Timestamp;
use crate::feed::{ConnIndex, Fanout, Flushed, LagPolicy, MovedMember, OutboxContext};
use crate::metrics::Kind;
use crate::server::config::Prepared;
use crate::server::conn::Timer;
use crate::server::limits::budget;
use crate::server::limits::budget::Budget;
use crate::server::session::effect::Effect;
use crate::server::shared::Shared;
use crate::server::shared::report::ClientTransport;
use crate::server::shared::resume::LoopPlaces;
use crate::server::tick::Tick;

pub(crate) const READ_BYTES: usize = 64 * 1024;

/// Instructions for a byte that is read: the kernel's copy.
const READ_INSTRUCTIONS: usize = 1;

/// Maximum number of reads of one connection in one turn.
const READS_A_TURN: usize = 4;

/// Unsent reply bytes beyond which a client is not read.
const REPLY_BYTES_MAX: usize = 256 * 1024;

/// State of one loop.
pub(crate) struct LoopState<S> {
    pub(super) shared: Arc<Shared>,
    pub(super) turn: Turn,
    pub(super) clients: Clients<S>,
    pub(super) delivery: EventFlow,
    pub(super) places: LoopPlaces,
    pub(super) requests: PendingRequests,
    pub(super) accounts: Accounts,
    pub(super) departures: Departures,
    pub(super) read_buffer: Box<[u8]>,
}

impl<S: Socket> LoopState<S> {
    pub(crate) fn new(shared: Arc<Shared>, reader: LoopReader, seed: u64, number: usize) -> Self {
        let turn = Turn::new(&shared, seed);
        let config = &turn.config;
        let mut fanout = Fanout::new(config.feed_limits(), config.key_rule(), Arc::clone(&shared.metrics));
        fanout.share_frames(shared.loops.count > 1);
        fanout.observe(|encoding| encoding.protocol().observes());
        if let Some(mut kept) = shared.kept.lock() {
            let epoch = shared.bus.epoch();
            kept.begin_at((0..shared.bus.shards()).map(|shard| (epoch, reader.position(shard as u16))));
        }
        Self {
            delivery: EventFlow::new(&shared.bus, reader, fanout, shared.engine.is_some()),
            places: LoopPlaces::default(),
            turn,
            shared,
            clients: Clients::default(),
            requests: PendingRequests::default(),
            accounts: Accounts::new(number),
            departures: Departures::default(),
            read_buffer: vec![0; READ_BYTES].into_boxed_slice(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.clients.conns.is_empty() && self.requests.commits.is_empty()
    }

    /// Returns whether another turn has work without waiting for a socket.
    pub(crate) fn has_work(&self) -> bool {
        (self.delivery.more_events && self.held_for(self.turn.now).is_none())
            || self.delivery.in_hand.is_some()
            || self.delivery.unwritten.is_waiting()
            || !self.clients.queues.is_empty()
            || self.delivery.fanout.has_unwanted()
            || !self.requests.commits.is_empty()
            || self.has_unfinished()
            || self.can_build_snapshot()
            || !self.clients.denied.is_empty()
            || !self.clients.ends.pending.is_empty()
            || self.clients.purges.is_pending()
    }

    /// Returns the number of ticks until a timer may fire.
    pub(crate) fn ticks_to_timer(&self) -> Option<u64> {
        let timer = self.turn.wheel.ticks_to_next(self.turn.tick);
        let departure = self.next_departure().map(|at| at.saturating_sub(self.turn.tick).max(1));
        // Nothing wakes a loop when the wall clock is set, so it looks at intervals if that can end a grant.
        let clock = (!self.shared.auth.is_open() && !self.clients.conns.is_empty()).then_some(CLOCK_TICKS);
        let report = self.ticks_to_report().map(|ticks| ticks.max(1));
        // A pending sample is sent at the next tick.
        let is_busy = self.delivery.fanout.is_sampling() || !self.requests.deferred.is_empty();
        let next = is_busy.then_some(1);
        timer.into_iter().chain(departure).chain(clock).chain(report).chain(next).min()
    }

    /// Announces that the loop is about to sleep. Returns false if the bus has events; after true, a publisher wakes the
    /// loop.
    pub(crate) fn prepare_sleep(&mut self) -> bool {
        let may_sleep = self.delivery.reader.prepare_sleep();
        self.delivery.more_events |= !may_sleep;
        may_sleep
    }

    /// Withdraws the announcement: publishers do not wake the loop.
    pub(crate) fn cancel_sleep(&mut self) {
        self.delivery.reader.cancel_sleep();
    }

    /// Begins a turn at this time.
    pub(crate) fn wake(&mut self, tick: Tick, now: Timestamp) {
        self.turn.now = now;
        #[cfg(test)]
        {
            self.check_spending();
            self.check_conditions();
        }
        self.begin_conditions();
        self.turn.spending = Budget::new(budget::TURN);
        self.clients.queues.newcomers_spent = 0;
        if self.shared.has_other_config(self.turn.version) {
            let before = Arc::clone(&self.turn.config);
            (self.turn.version, self.turn.config) = self.shared.config();
            self.delivery.fanout.set_limits(self.turn.config.feed_limits());
            if before.retain != self.turn.config.retain {
                self.watch_ends_anew();
            }
        }
        self.turn.tick = self.turn.tick.max(tick);
        self.look_at_the_clock();
        self.pump_unless_held(1);
        self.report_purges();
        self.take_mail();
        self.resume_deferred();
        self.commit();
    }

    /// Panics if the last turn spent more than its budget and one step. A larger message is a larger step.
    #[cfg(test)]
    pub(super) fn check_spending(&self) {
        let is_usual = self.turn.config.max_message_bytes
            <= crate::server::config::ServerConfig::default().max_message_bytes;
        assert!(
            !(is_usual && self.turn.spending.is_overdrawn()),
            "a turn spent more than it may: {:?}",
            self.turn.spending
        );
    }

    /// Returns the budget units that this turn has spent so far.
    pub(crate) fn spent(&self) -> u32 {
        self.turn.spending.spent()
    }

    /// Returns the config of this turn.
    pub(crate) fn config(&self) -> &Prepared {
        &self.turn.config
    }

    /// Returns the socket of a connection.
    pub(crate) fn socket(&mut self, token: Token) -> Option<&mut S> {
        self.find(token).map(|slot| &mut self.clients.conns[slot].socket)
    }

    /// Removes a connection.
    pub(crate) fn forget(&mut self, token: Token) {
        if let Some(slot) = self.find(token) {
            self.remove(slot);
        }
    }

    pub(super) fn count_shed(&self, kind: &'static str) {
        self.shared.metrics.shed.get_or_create(&Kind { kind }).inc();
    }

    pub(super) fn find(&self, token: Token) -> Option<usize> {
        self.clients.find(token)
    }

    /// Handles a socket that became readable, writable or both.
    pub(crate) fn ready(&mut self, token: Token, readable: bool, writable: bool) {
        if let Some(slot) = self.find(token).filter(|_| writable) {
            self.clients.conns[slot].blocked = false;
            if self.turn.is_behind {
                // Other connections already wait for their pages.
                self.flush(slot);
            } else {
                self.flush_past(slot);
            }
        }
        if let Some(slot) = self.find(token).filter(|_| readable) {
            if self.held_for(self.turn.now).is_some() {
                // Held-back events came before this client's message.
                self.pump(1);
            }
            let conn = &mut self.clients.conns[slot];
            conn.record_input();
            let must_wait = self.turn.is_behind
                || self.delivery.in_hand.is_some()
                || conn.socket.awaits_handshake()
                || self.must_others_go_first(slot);
            if must_wait {
                self.queue_input(slot);
            } else {
                self.read(slot);
            }
        }
    }

    /// Returns whether a connection with input waits because of others, as far as the budget of the turn goes.
    fn must_others_go_first(&self, slot: usize) -> bool {
        let (left, queues) = (self.turn.spending.left(), &self.clients.queues);
        if self.clients.conns[slot].queued.is_newcomer() {
            left == 0 || queues.left_of_newcomers() == 0 || !queues.newcomers.is_empty()
        } else {
            left <= queues.reserved_for_newcomers()
        }
    }

    /// Records that the peer of a connection has ended its input, or the connection, so that it is read to that end. Called
    /// before [`ready`](Self::ready): the poll reports the end once, and perhaps with the last bytes.
    pub(crate) fn record_end(&mut self, token: Token) {
        if let Some(slot) = self.find(token) {
            self.clients.conns[slot].input = SocketInput::UntilEnd;
        }
    }

    /// Reads from a connection within its part of the turn's budget.
    pub(super) fn read(&mut self, slot: usize) {
        let is_unauthenticated = self.clients.conns[slot].connection.is_unauthenticated(&self.shared.auth);
        let part = if is_unauthenticated { budget::UNAUTHENTICATED } else { budget::CLIENT };
        self.read_within(slot, part.saturating_sub(self.spent_by(slot)));
    }

    /// Reads from a connection that has used up its part of the turn's budget, because no other connection needs the
    /// rest.
    pub(super) fn read_more(&mut self, slot: usize) {
        self.read_within(slot, budget::CLIENT);
    }

    /// Returns the units that a connection has spent in this turn.
    fn spent_by(&self, slot: usize) -> u32 {
        let (turn, spent) = self.clients.conns[slot].spent_in;
        if turn == self.turn.number { u32::from(spent) } else { 0 }
    }

    fn read_within(&mut self, slot: usize, units: u32) {
        let before = self.spent_by(slot);
        let (token, unpumped) = (self.clients.token(slot), self.delivery.unpumped);
        let is_newcomer = self.clients.conns[slot].queued.is_newcomer();
        let units = if is_newcomer { units.min(self.clients.queues.left_of_newcomers()) } else { units };
        self.turn.work = self.turn.spending.share(units);
        self.read_on(slot);
        if self.delivery.unpumped > unpumped {
            self.delivery.unwritten.publisher = Some(token);
        }
        self.turn.spending.settle(&self.turn.work);
        if is_newcomer {
            self.clients.queues.newcomers_spent += self.turn.work.spent();
        }
        if let Some(conn) = self.clients.conns.get_mut(slot) {
            let spent = before.saturating_add(self.turn.work.spent());
            conn.spent_in = (self.turn.number, u16::try_from(spent).unwrap_or(u16::MAX));
        }
        self.shared.metrics.signatures_checked.inc_by(u64::from(self.turn.work.signatures()));
    }

    pub(super) fn read_on(&mut self, slot: usize) {
        for _ in 0..READS_A_TURN {
            let conn = &mut self.clients.conns[slot];
            if conn.is_held_by_past() || conn.pending_answers > 0 || conn.waiting_bytes() > REPLY_BYTES_MAX {
                // Reading continues after the replies, or the past, are written.
                return;
            }
            if self.turn.work.is_spent() {
                break;
            }
            if conn.connection.holds_input() {
                if !self.receive(slot, 0) {
                    return;
                }
                continue;
            }
            if !conn.is_unread() {
                return;
            }
            let read = conn.socket.read(&mut self.read_buffer);
            let handshakes = conn.socket.take_handshakes();
            if handshakes != HandshakeSteps::default() {
                self.turn.work.spend(handshakes.units());
                self.shared.metrics.tls_handshakes.inc_by(u64::from(handshakes.begun));
            }
            let read = match read {
                Ok(0) => return self.handle_hangup(slot),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    conn.input = SocketInput::Drained;
                    return;
                }
                Err(_) => return self.remove(slot),
            };
            if conn.input == SocketInput::Unread && conn.socket.is_drained(read, self.read_buffer.len()) {
                conn.input = SocketInput::Drained;
            }
            self.turn.work.spend_bytes(read, READ_INSTRUCTIONS);
            if !self.receive(slot, read) {
                return;
            }
            let conn = &mut self.clients.conns[slot];
            if conn.connection.input_bytes() > 0 {
                // The rest of a request may have arrived by now. The request should not hold memory until the next
                // turn.
                conn.record_input();
            }
        }
        let conn = &self.clients.conns[slot];
        if conn.is_unread() || conn.connection.holds_input() {
            self.queue_input(slot);
        }
    }

    /// Passes the first `read` bytes of the read buffer to a connection. Returns false if the connection is gone.
    pub(super) fn receive(&mut self, slot: usize, read: usize) -> bool {
        let conn = &mut self.clients.conns[slot];
        let view = self.delivery.view(&self.shared.bus, &conn.socket, Some(&conn.outbox));
        let mut cx = self.turn.context(&self.shared, &view, conn.blocked);
        let before = conn.connection.transport();
        conn.connection.receive(&mut self.read_buffer[..read], &mut cx);
        conn.queued.record_input();
        // The client's unfinished input counts against the memory budget.
        self.accounts.report_due |= conn.connection.input_bytes() > 0;
        self.accounts.bytes_since_count = self.accounts.bytes_since_count.saturating_add(read);
        self.record_transport(slot, before);
        self.apply(slot)
    }

    /// Counts a connection that has become a stream.
    pub(super) fn record_transport(&mut self, slot: usize, before: ClientTransport) {
        let after = self.clients.conns[slot].connection.transport();
        if before != after {
            let open =
                |kind: &'static str| self.shared.metrics.connections.get_or_create(&Kind { kind }).clone();
            open(before.name()).dec();
            open(after.name()).inc();
            self.turn.wheel.add(self.turn.tick + self.turn.config.heartbeat_ticks(), slot as ConnIndex);
        }
    }

    /// Handles the end of a peer's input. A client may still wait for the answer to its request; without a pending answer it
    /// is removed.
    pub(super) fn handle_hangup(&mut self, slot: usize) {
        let conn = &mut self.clients.conns[slot];
        let has_pending_answer = conn.pending_answers > 0 || conn.outbox.inserted_bytes() > 0;
        if conn.connection.transport() != ClientTransport::Http || !has_pending_answer {
            return self.remove(slot);
        }
        conn.input = SocketInput::Drained;
        conn.end_with(Ending::HungUp);
    }

    pub(super) fn update_member_index(&mut self, moved: Option<MovedMember>) {
        self.accounts.report_due = true;
        if let Some(MovedMember { conn, index }) = moved {
            self.clients.conns[conn as usize].outbox.set_member_index(index);
        }
    }

    /// Writes a connection's pending bytes, and queues the connection if its replay goes on. Returns false if the connection is
    /// gone.
    pub(super) fn flush(&mut self, slot: usize) -> bool {
        if self.clients.conns[slot].blocked {
            return true;
        }
        if self.has_page(slot) {
            // The connection is queued, and its next page is made in its turn.
            self.queue(slot);
            let is_new = self.clients.conns[slot].replay.as_ref().is_some_and(|replay| replay.is_new());
            if is_new && self.may_make_page(slot) {
                // The first page is written with the bytes that are pending.
                return true;
            }
        }
        self.write_pending(slot)
    }

    /// Writes a connection's pending bytes, unless its socket is full. Returns false if the connection is gone.
    pub(super) fn write_pending(&mut self, slot: usize) -> bool {
        let conn = &mut self.clients.conns[slot];
        if conn.blocked {
            return true;
        }
        let ring = self.turn.resume_lookup(&self.shared, &self.places);
        let budget = self.turn.config.write_budget_bytes;
        let mut out = FanoutSocket { socket: &mut conn.socket, pages: &mut self.delivery.pages };
        let written = self.delivery.tally.bytes;
        match conn.outbox.flush(
            &self.delivery.fanout,
            &mut out,
            budget,
            &mut OutboxContext::new(&mut self.delivery.tally, &ring),
        ) {
            Flushed::Done => {
                if conn.replay.is_some() {
                    conn.connection.record_activity(self.turn.tick);
                    let may_be_read = conn.pending_answers == 0 && !conn.is_held_by_past();
                    if may_be_read && (conn.is_unread() || conn.connection.holds_input()) {
                        self.queue_input(slot);
                    }
                } else if conn.pending_answers > 0 {
                    // The pending answer arrives by the mailbox.
                } else if conn.ending == Ending::HungUp {
                    // The poll will not report the end of this connection.
                    self.remove(slot);
                    return false;
                } else if conn.ending == Ending::Closing {
                    conn.ending = Ending::None;
                    conn.socket.close_write();
                } else if conn.is_unread() || conn.connection.holds_input() {
                    self.queue_input(slot);
                }
            }
            Flushed::Blocked => {
                self.block(slot);
                self.clients.conns[slot]
                    .outbox
                    .record_full(self.turn.tick, self.delivery.tally.bytes != written);
            }
            Flushed::Budget => {
                conn.outbox.enforce_drop_newest(
                    &self.delivery.fanout,
                    &mut OutboxContext::new(&mut self.delivery.tally, &ring),
                );
                self.queue(slot);
            }
            Flushed::Lagged => return self.close_lagged(slot),
            Flushed::Behind => {
                self.clients.behind.push(self.clients.token(slot));
                self.begin_catch_ups();
            }
            Flushed::Failed => {
                self.remove(slot);
                return false;
            }
        }
        true
    }

    /// Marks a connection as blocked: its socket is full.
    pub(super) fn block(&mut self, slot: usize) {
        let conn = &mut self.clients.conns[slot];
        conn.blocked = true;
        if let Some(replay) = &mut conn.replay {
            replay.drop_page();
        }
        let ring = self.turn.resume_lookup(&self.shared, &self.places);
        conn.outbox.enforce_drop_newest(
            &self.delivery.fanout,
            &mut OutboxContext::new(&mut self.delivery.tally, &ring),
        );
    }

    /// Closes a connection that fell off its feed and has a subscription with the policy to disconnect. Returns false if it
    /// is already gone.
    pub(super) fn close_lagged(&mut self, slot: usize) -> bool {
        self.stop_delivery(slot);
        self.shared.metrics.lag_closed.inc();
        let conn = &mut self.clients.conns[slot];
        let view = self.delivery.view(&self.shared.bus, &conn.socket, Some(&conn.outbox));
        let mut cx = self.turn.context(&self.shared, &view, conn.blocked);
        conn.connection.lagged(&mut cx);
        self.apply(slot)
    }

    /// Notifies and closes the connections with an ended grant.
    pub(super) fn close_denied(&mut self) {
        for (token, why) in std::mem::take(&mut self.clients.denied) {
            let Some(slot) = self.find(token) else { continue };
            self.stop_delivery(slot);
            let conn = &mut self.clients.conns[slot];
            let view = self.delivery.view(&self.shared.bus, &conn.socket, Some(&conn.outbox));
            let mut cx = self.turn.context(&self.shared, &view, conn.blocked);
            conn.connection.denied(why, &mut cx);
            self.apply(slot);
        }
    }

    /// Ends the delivery of events to a connection, past and live.
    pub(super) fn stop_delivery(&mut self, slot: usize) {
        self.clients.ends.remove(self.clients.token(slot));
        let moved =
            self.clients.conns[slot].outbox.abandon(&mut self.delivery.fanout, &mut self.delivery.tally);
        self.update_member_index(moved);
        let conn = &mut self.clients.conns[slot];
        conn.outbox.set_lag_policy(LagPolicy::default());
        conn.replay = None;
        conn.outbox.set_replaying(false);
    }

    pub(super) fn remove(&mut self, slot: usize) {
        self.leave_channels(slot);
        let conn = &mut self.clients.conns[slot];
        let view = self.delivery.view(&self.shared.bus, &conn.socket, Some(&conn.outbox));
        let mut cx = self.turn.context(&self.shared, &view, conn.blocked);
        conn.connection.leave(&mut cx);
        self.turn.effects.clear();
        self.shared
            .metrics
            .connections
            .get_or_create(&Kind { kind: conn.connection.transport().name() })
            .dec();
        let moved =
            self.clients.conns[slot].outbox.abandon(&mut self.delivery.fanout, &mut self.delivery.tally);
        self.update_member_index(moved);
        self.turn.wheel.remove(slot as ConnIndex);
        let conn = self.clients.conns.remove(slot);
        if !self.requests.awaited.is_empty() {
            self.requests.awaited.remove(&conn.token(slot));
        }
        if !self.clients.wanted.is_empty() {
            self.clients.wanted.remove(&conn.token(slot));
        }
        if !self.clients.concats.is_empty() {
            self.clients.concats.remove(&conn.token(slot));
        }
        if !self.clients.addresses.is_empty() {
            self.clients.addresses.remove(&conn.token(slot));
        }
        self.clients.ends.remove(conn.token(slot));
    }

    /// Does the work of a turn that no socket's readiness starts: waiting connections, the bus, timers.
    pub(crate) fn turn(&mut self) {
        self.shared.metrics.turns.inc();
        self.close_denied();
        self.serve_ready();
        self.report_ends();
        self.turn.number = self.turn.number.wrapping_add(1);
        self.delivery.fanout.sweep();
        self.build_snapshot();
        self.delivery.fanout.release_samples(self.turn.now);
        self.pump_unless_held(BATCHES_A_TURN);
        let mut due = std::mem::take(&mut self.turn.due);
        self.turn.wheel.advance(self.turn.tick, &mut due);
        for key in due.drain(..) {
            let slot = key as usize;
            // An earlier timer of this turn may have ended this connection.
            let Some(conn) = self.clients.conns.get_mut(slot) else { continue };
            let token = conn.token(slot);
            if !self.requests.awaited.is_empty() {
                self.answer_late(token);
            }
            let Some(conn) = self.clients.conns.get_mut(slot) else { continue };
            if conn.blocked && conn.outbox.full_for(self.turn.tick) >= self.turn.config.stalled_ticks() {
                // The pending bytes would wait forever.
                self.count_shed("stalled");
                self.remove(slot);
                continue;
            }
            let waits_for_others = conn.queued.is_in(Queued::INPUT)
                && (conn.socket.awaits_handshake() || conn.queued.is_newcomer());
            if conn.pending_answers > 0 || waits_for_others {
                // A connection that is not read has not timed out.
                conn.connection.record_activity(self.turn.tick);
            }
            let view = self.delivery.view(&self.shared.bus, &conn.socket, Some(&conn.outbox));
            let mut cx = self.turn.context(&self.shared, &view, conn.blocked);
            match conn.connection.timer(&mut cx) {
                // A pending answer arrives in time, or its own timeout ends the wait.
                Timer::Over if self.clients.conns[slot].pending_answers > 0 => {
                    self.turn.wheel.add(self.turn.tick + 10, key);
                }
                Timer::Over => self.remove(slot),
                Timer::Denied(why) => {
                    // `close_denied` schedules the timers of closing connections.
                    self.clients.denied.push((token, why));
                }
                Timer::At(tick) => {
                    self.turn
                        .wheel
                        .add(self.worker_deadline(token).map_or(tick, |until| until.min(tick)), key);
                    self.write_heartbeat(slot);
                    self.apply(slot);
                }
            }
        }
        self.turn.due = due;
        self.close_denied();
        self.notify_due_departures();
        self.publish_presence(self.turn.tick);
        if let Some(mut kept) = self.shared.kept.lock() {
            kept.tend(self.turn.now);
        }
        self.count();
        self.report();
    }

    /// Writes the heartbeat of an idle client directly to the socket, without a place in the outbox, which saves two
    /// allocations. If the socket does not accept all of it, the outbox gets the rest.
    fn write_heartbeat(&mut self, slot: usize) {
        let [Effect::Send(bytes)] = self.turn.effects.as_mut_slice() else { return };
        let Some(conn) = self.clients.conns.get_mut(slot) else { return };
        if conn.replay.as_ref().is_some_and(|replay| replay.is_catch_up()) {
            // The message confirms no event, so it does not wait as a reply does.
            let bytes = std::mem::take(bytes);
            self.turn.effects.clear();
            return self.send_now(slot, bytes);
        }
        let is_idle = conn.outbox.is_clear() && conn.outbox.pending(&self.delivery.fanout) == 0;
        if conn.blocked || conn.replay.is_some() || !is_idle {
            return;
        }
        // The write from the outbox meets the same error.
        let Ok(written) = conn.socket.write(bytes) else { return };
        bytes.advance(written);
        self.shared.metrics.writes.inc();
        self.shared.metrics.written_bytes.inc_by(written as u64);
        if bytes.is_empty() {
            self.turn.effects.clear();
        }
    }

    /// Notifies a client of the drain and of its delay before it reconnects.
    pub(super) fn notify_drain(&mut self, slot: usize, delay_ms: u64) {
        let Some(conn) = self.clients.conns.get_mut(slot) else { return };
        if conn.replay.is_some() {
            // Closing drops the unwritten events of an unfinished past, and every reply after them. So they are dropped
            // here first, and the notice is the next message that the client receives.
            self.stop_delivery(slot);
        }
        let conn = &mut self.clients.conns[slot];
        let view = self.delivery.view(&self.shared.bus, &conn.socket, Some(&conn.outbox));
        let mut cx = self.turn.context(&self.shared, &view, conn.blocked);
        conn.connection.drain(delay_ms, &mut cx);
        self.apply(slot);
    }
}

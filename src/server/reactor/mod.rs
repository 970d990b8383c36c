//! A loop without its poll: connections, feeds and the bus, driven by readiness and time.
//!
//! Imports every lower room, never mio; sockets come as anything that reads and writes. Always:
//! - what the bus has is appended to the feeds before a client's words are taken, so a subscription starts
//!   where its words were read;
//! - a connection that is not blocked and owes something is written in the turn that made it owe;
//! - readiness is used up (mio tells it once): what is left for lack of budget waits in `ready`.

/// What a connection needs of the loop that it is in. A macro, so that the connection can be borrowed besides.
macro_rules! context {
    ($core:ident, $conn:ident) => {
        context!($core, $conn.socket.peer(), $conn.blocked, $conn.outbox.newest(&$core.fanout))
    };
    ($core:ident, $peer:expr, $blocked:expr, $newest:expr) => {
        Context {
            shared: &$core.shared,
            config: &$core.config,
            rng: &mut $core.rng,
            inflater: &mut $core.inflater,
            tick: $core.tick,
            now: $core.now,
            position: &|| taken(&$core.shared.bus, &$core.reader, $core.continuity.as_ref()),
            newest: &|| $newest,
            effects: &mut $core.effects,
            answered_bytes: 0,
            budget: &mut $core.work,
            peer: &|| $peer,
            blocked: $blocked,
        }
    };
}

mod admit;
mod bygone;
mod commit;
pub(crate) mod continuity;
mod deferred;
mod deliver;
mod drain;
mod effects;
pub(crate) mod event_loop;
mod expire_grants;
mod handover;
pub(crate) mod kernel_queue;
pub(crate) mod listener;
mod mailbox;
mod presence;
mod ready;
mod replay;
mod report;
mod snapshots;
pub(crate) mod socket;
pub(crate) mod stream;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod wheel;
pub(crate) mod zero_copy;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use slab::Slab;

use self::kernel_queue::Backlog;
use self::wheel::Wheel;
use self::zero_copy::{Outlet, Pages};
use super::auth::Denied;
use super::config::Prepared;
use super::conn::{Connection, Timer};
use super::limits::budget;
use super::limits::budget::Budget;
use super::limits::rates::Counted;
use super::rng::Rng;
use super::session::context::Context;
use super::session::effect::Effect;
use super::shared::Shared;
use super::shared::report::Speaks;
use super::shared::resume::Kept;
use super::tick::Tick;
use crate::bus::{Bus, LoopReader};
use crate::codec::deflate::Inflater;
use crate::engine::InterestGuard;
use crate::event::{Position, Timestamp};
use crate::feed::{
    ConnIndex, Fanout, FeedKey, FeedView, Flushed, LagPolicy, MovedMember, Outbox, OutboxContext, Snapshot,
    Tally,
};
use crate::filter::Filter;
use crate::metrics::Kind;
use socket::Socket;

/// A connection's number in its loop, and which life of that number: a token that outlives its connection
/// reaches nobody.
pub(crate) type Token = u64;

use bygone::Bygone;
use commit::Commit;
use continuity::Continuity;
use deferred::PutOff;
use drain::Leave;
pub(crate) use handover::SavedClient;
use mailbox::{Awaited, Mailbox};
use presence::Present;
use replay::Replay;
use report::Books;
use snapshots::Building;

pub(super) const READ_BYTES: usize = 64 * 1024;

/// Instructions for a byte that is read: the kernel's copy.
const READ_INSTRUCTIONS: usize = 1;

/// Reads of one connection in one turn.
const READS_A_TURN: usize = 4;

/// Batches of events taken from the bus between two looks at the sockets.
const BATCHES_A_TURN: usize = 8;

/// Events published by clients before the loop delivers them, so that no body laps the ring or its own feeds.
const PUBLISHED_A_BATCH: usize = 256;

/// A client that does not read its replies is not read either.
const REPLY_BYTES_MAX: usize = 256 * 1024;

pub(super) struct Conn<S> {
    socket: S,
    generation: u32,
    connection: Connection,
    outbox: Outbox,
    /// What it asked to see of the past, while it has not seen it.
    replay: Option<Box<Replay>>,
    /// Answers that the engine owes it; it is not read meanwhile.
    awaits: u32,
    /// The socket takes no more until it says so.
    blocked: bool,
    /// The socket may hold more to read.
    unread: bool,
    /// It is in `ready`.
    queued: bool,
    /// The turn in which it was read last, and what it spent of its part then: it may be read twice in one.
    spent_in: (u16, u16),
    ending: Ending,
}

/// What becomes of a connection when all that it is owed is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// It stays; a closed one until its peer or its timer ends it.
    #[default]
    None,
    /// It is closed from this side.
    Closing,
    /// It is removed: the peer has said that it will say no more.
    HungUp,
}

impl<S> Conn<S> {
    /// Bytes of its own that wait for the client, with what it takes to keep them: a reply of two bytes takes more than
    /// a hundred.
    fn waiting_bytes(&self) -> usize {
        let (own, shared) = self.outbox.held_bytes();
        own + shared
    }

    /// A peer that is gone stays gone.
    fn end_with(&mut self, ending: Ending) {
        self.ending = self.ending.max(ending);
    }
}

/// The state of one loop.
pub(crate) struct Core<S> {
    shared: Arc<Shared>,
    /// What holds for this turn; it changes between two turns only.
    config: Arc<Prepared>,
    version: u64,
    /// The changes of who may come in that every connection here was held against.
    auth_changes: u64,
    reader: LoopReader,
    fanout: Fanout,
    conns: Slab<Conn<S>>,
    generation: u32,
    /// The addresses that connections count for.
    addresses: HashMap<Token, Counted>,
    /// What connections want of an engine that is asked only for that.
    wanted: HashMap<Token, HashMap<Filter, InterestGuard>>,
    wheel: Wheel,
    tick: Tick,
    now: Timestamp,
    /// The wall clock's time at the loop's tick 0, in microseconds, when it was last looked at.
    clock_offset: i64,
    ready: Vec<Token>,
    /// What this turn may still spend on what peers sent.
    spending: Budget,
    /// The part of it that the connection at hand may spend.
    work: Budget,
    /// Numbers the turns, from 1, again and again.
    turns: u16,
    /// Connections wait in `ready` because the last turn had spent all: who becomes readable stands behind them.
    is_behind: bool,
    /// The bus may have more.
    more_events: bool,
    /// When events were taken from it last.
    pumped: Timestamp,
    /// Events published by this loop's clients since it last looked at the bus.
    unpumped: usize,
    draining: bool,
    /// Who is still to be told that the server goes; the next one last.
    leaving: Vec<Leave>,
    /// From the first time that a client asked for one.
    snapshot: Option<Box<Snapshot>>,
    /// Record of the events that went by, for clients that come back too late.
    bygone: Bygone,
    /// While what came before is put into it.
    building: Option<Box<Building>>,
    effects: Vec<Effect>,
    tally: Tally,
    books: Books,
    /// This loop among the others.
    number: usize,
    /// Something happened since the last report.
    unreported: bool,
    /// Bytes that came, and bytes that were queued for clients, since what the loop holds was counted.
    grown: usize,
    /// What the feeds' tables of filters take, as of the last second.
    tables: usize,
    /// And what of it is free for the next filters.
    spare: usize,
    /// The largest feeds when they were last looked at.
    largest: Arc<[FeedView]>,
    reported: Tick,
    observed: Tick,
    rng: Rng,
    /// For whatever client sends compressed messages: none looks back at an earlier one.
    inflater: Inflater,
    read_buffer: Box<[u8]>,
    dirty: Vec<FeedKey>,
    due: Vec<ConnIndex>,
    /// Connections to be closed because they lag.
    lagged: Vec<Token>,
    /// What many of them are written at once.
    pages: Pages,
    /// What the kernel holds for connections.
    kernel: Backlog,
    /// The connection after which the next are asked about, though they do not lag yet.
    asked: usize,
    mailbox: Arc<Mailbox>,
    /// What waits until this loop has read the engine's log as far as its client has.
    ahead: Vec<PutOff>,
    /// Batches on their way to the bus.
    commits: VecDeque<Commit>,
    /// What workers do for connections.
    awaited: HashMap<Token, Awaited>,
    /// Numbers it.
    works: u64,
    /// With an engine: whether its log had holes.
    continuity: Option<Continuity>,
    /// Connections to be closed because their grants have ended.
    denied: Vec<(Token, Denied)>,
    /// Which clients are in which channels.
    present: Present,
}

fn token_of(slot: usize, generation: u32) -> Token {
    u64::from(generation) << 32 | slot as u64
}

/// Where a client stands that has got all that a loop has appended to its feeds. With an engine, from when its log
/// was reached.
fn taken(bus: &Bus, reader: &LoopReader, log: Option<&Continuity>) -> Option<Position> {
    match (reader.client_position(), log) {
        (Some(told), log) => (log.is_none() || told.epoch() != bus.epoch()).then(|| told.clone()),
        (None, None) => Some(Position::new(bus.epoch(), [reader.position(0)])),
        (None, Some(log)) => log.newest(0).map(|id| Position::new(id.epoch, [id.next_sequence()])),
    }
}

impl<S: Socket> Core<S> {
    pub(crate) fn new(shared: Arc<Shared>, reader: LoopReader, seed: u64, number: usize) -> Self {
        let (version, config) = shared.config();
        let mut fanout = Fanout::new(config.feed_limits(), config.key_rule(), Arc::clone(&shared.metrics));
        fanout.share_frames(shared.loops > 1);
        fanout.observe(|encoding| encoding.protocol().observes());
        Self {
            continuity: shared.engine.as_ref().map(|_| Continuity::behind(&shared.bus, &reader)),
            fanout,
            version,
            config,
            auth_changes: shared.auth.changes(),
            shared,
            reader,
            conns: Slab::new(),
            generation: 0,
            addresses: HashMap::new(),
            wanted: HashMap::new(),
            wheel: Wheel::new(0),
            tick: 0,
            now: Timestamp::default(),
            clock_offset: 0,
            ready: Vec::new(),
            spending: Budget::new(budget::TURN),
            work: Budget::new(budget::TURN),
            turns: 1,
            is_behind: false,
            more_events: true,
            pumped: Timestamp::default(),
            unpumped: 0,
            draining: false,
            leaving: Vec::new(),
            snapshot: None,
            bygone: Bygone::default(),
            building: None,
            effects: Vec::new(),
            tally: Tally::default(),
            books: Books::default(),
            number,
            unreported: false,
            grown: 0,
            tables: 0,
            spare: 0,
            largest: Arc::default(),
            reported: 0,
            observed: 0,
            rng: Rng::new(seed),
            inflater: Inflater::default(),
            read_buffer: vec![0; READ_BYTES].into_boxed_slice(),
            dirty: Vec::new(),
            due: Vec::new(),
            lagged: Vec::new(),
            pages: Pages::default(),
            kernel: Backlog::default(),
            asked: 0,
            mailbox: Arc::default(),
            ahead: Vec::new(),
            commits: VecDeque::new(),
            awaited: HashMap::new(),
            works: 0,
            denied: Vec::new(),
            present: Present::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.conns.is_empty() && self.commits.is_empty()
    }

    /// Whether another turn has something to do without waiting for a socket.
    pub(crate) fn has_work(&self) -> bool {
        (self.more_events && self.held_for(self.now).is_none())
            || !self.ready.is_empty()
            || self.fanout.has_unwanted()
            || !self.commits.is_empty()
            || self.has_unfinished()
            || self.can_build_snapshot()
            || !self.denied.is_empty()
    }

    /// Ticks until a timer may want to be looked at.
    pub(crate) fn ticks_to_timer(&self) -> Option<u64> {
        let timer = self.wheel.ticks_to_next(self.tick);
        let departure = self.next_departure().map(|at| at.saturating_sub(self.tick).max(1));
        // Nothing wakes a loop when the wall clock is set: it looks, where that can end a grant.
        let clock =
            (!self.shared.auth.is_open() && !self.conns.is_empty()).then_some(expire_grants::CLOCK_TICKS);
        let timer = timer.into_iter().chain(departure).chain(clock).min();
        // A sample that waits, or a report, goes at the next tick.
        if self.fanout.is_sampling() || self.unreported || !self.ahead.is_empty() { Some(1) } else { timer }
    }

    /// Announces that the loop goes to sleep; false where the bus has something after all. After true, a
    /// publisher wakes it.
    pub(crate) fn prepare_sleep(&mut self) -> bool {
        let may_sleep = self.reader.prepare_sleep();
        self.more_events |= !may_sleep;
        may_sleep
    }

    /// The loop is awake, at this time.
    pub(crate) fn wake(&mut self, tick: Tick, now: Timestamp) {
        self.now = now;
        #[cfg(test)]
        self.check_spending();
        self.spending = Budget::new(budget::TURN);
        if self.shared.has_other_config(self.version) {
            (self.version, self.config) = self.shared.config();
            self.fanout.set_limits(self.config.feed_limits());
        }
        self.reader.cancel_sleep();
        self.tick = self.tick.max(tick);
        self.look_at_the_clock();
        self.pump_unless_held(1);
        self.take_mail();
        self.catch_up();
        self.commit();
    }

    /// Panics where the last turn spent more than its budget and one step. Larger messages than usual are larger steps.
    #[cfg(test)]
    fn check_spending(&self) {
        let is_usual = self.config.max_message_bytes <= super::ServerConfig::default().max_message_bytes;
        assert!(
            !(is_usual && self.spending.is_overdrawn()),
            "a turn spent more than it may: {:?}",
            self.spending
        );
    }

    /// The units that this turn has spent so far.
    pub(crate) fn spent(&self) -> u32 {
        self.spending.spent()
    }

    /// What holds for this turn.
    pub(crate) fn config(&self) -> &Prepared {
        &self.config
    }

    /// The socket behind a token.
    pub(crate) fn socket(&mut self, token: Token) -> Option<&mut S> {
        self.find(token).map(|slot| &mut self.conns[slot].socket)
    }

    /// Lets a connection go.
    pub(crate) fn forget(&mut self, token: Token) {
        if let Some(slot) = self.find(token) {
            self.remove(slot);
        }
    }

    pub(super) fn count_shed(&self, kind: &'static str) {
        self.shared.metrics.shed.get_or_create(&Kind { kind }).inc();
    }

    fn find(&self, token: Token) -> Option<usize> {
        let slot = (token & 0xffff_ffff) as usize;
        self.conns.get(slot).filter(|conn| u64::from(conn.generation) == token >> 32).map(|_| slot)
    }

    /// A socket became readable, writable or both.
    pub(crate) fn ready(&mut self, token: Token, readable: bool, writable: bool) {
        if let Some(slot) = self.find(token).filter(|_| writable) {
            self.conns[slot].blocked = false;
            if self.is_behind {
                // Others wait for their pages already.
                self.flush(slot);
            } else {
                self.flush_past(slot);
            }
        }
        if let Some(slot) = self.find(token).filter(|_| readable) {
            if self.held_for(self.now).is_some() {
                // What is held back was there before this client's words.
                self.pump(1);
            }
            if self.is_behind || self.spending.is_spent() {
                self.conns[slot].unread = true;
                self.queue(slot);
            } else {
                self.read(slot);
            }
        }
    }

    /// Reads from a connection within its part of the turn's budget.
    fn read(&mut self, slot: usize) {
        let is_stranger = self.conns[slot].connection.is_stranger(&self.shared.auth);
        let (turn, spent) = self.conns[slot].spent_in;
        let before = if turn == self.turns { u32::from(spent) } else { 0 };
        let part = if is_stranger { budget::STRANGER } else { budget::CLIENT };
        self.work = self.spending.share(part.saturating_sub(before));
        self.read_on(slot);
        self.spending.settle(&self.work);
        if let Some(conn) = self.conns.get_mut(slot) {
            let spent = before.saturating_add(self.work.spent());
            conn.spent_in = (self.turns, u16::try_from(spent).unwrap_or(u16::MAX));
        }
        self.shared.metrics.signatures_checked.inc_by(u64::from(self.work.signatures()));
    }

    fn read_on(&mut self, slot: usize) {
        for _ in 0..READS_A_TURN {
            let conn = &mut self.conns[slot];
            conn.unread = true;
            if conn.replay.is_some() || conn.awaits > 0 || conn.waiting_bytes() > REPLY_BYTES_MAX {
                // Read on when the replies, or the past, are written.
                return;
            }
            if self.work.is_spent() {
                break;
            }
            if conn.connection.holds_input() {
                if !self.receive(slot, 0) {
                    return;
                }
                continue;
            }
            let read = conn.socket.read(&mut self.read_buffer);
            let handshakes = conn.socket.take_handshakes();
            if handshakes > 0 {
                self.work.spend(handshakes * budget::HANDSHAKE);
                self.shared.metrics.tls_handshakes.inc_by(u64::from(handshakes));
            }
            let read = match read {
                Ok(0) => return self.hung_up(slot),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    conn.unread = false;
                    return;
                }
                Err(_) => return self.remove(slot),
            };
            self.work.spend_bytes(read, READ_INSTRUCTIONS);
            if !self.receive(slot, read) {
                return;
            }
        }
        self.queue(slot);
    }

    /// Hands the first bytes of the read buffer to a connection; false where it is gone.
    fn receive(&mut self, slot: usize, read: usize) -> bool {
        let conn = &mut self.conns[slot];
        let mut cx = context!(self, conn);
        let before = conn.connection.speaks();
        conn.connection.receive(&mut self.read_buffer[..read], &mut cx);
        // What it keeps of it counts against the memory budget.
        self.unreported |= conn.connection.input_bytes() > 0;
        self.grown = self.grown.saturating_add(read);
        let after = conn.connection.speaks();
        if before != after {
            let open =
                |kind: &'static str| self.shared.metrics.connections.get_or_create(&Kind { kind }).clone();
            open(before.name()).dec();
            open(after.name()).inc();
            self.wheel.add(self.tick + self.config.heartbeat_ticks(), slot as ConnIndex);
        }
        self.apply(slot)
    }

    fn queue(&mut self, slot: usize) {
        let conn = &mut self.conns[slot];
        if !conn.queued {
            conn.queued = true;
            self.ready.push(token_of(slot, conn.generation));
        }
    }

    /// The peer will say no more. Who only asked something may still wait for the answer; everybody else is gone.
    fn hung_up(&mut self, slot: usize) {
        let conn = &mut self.conns[slot];
        let is_owed = conn.awaits > 0 || conn.outbox.inserted_bytes() > 0;
        if conn.connection.speaks() != Speaks::Http || !is_owed {
            return self.remove(slot);
        }
        conn.unread = false;
        conn.end_with(Ending::HungUp);
    }

    fn tell_moved(&mut self, moved: Option<MovedMember>) {
        self.unreported = true;
        if let Some(MovedMember { conn, index }) = moved {
            self.conns[conn as usize].outbox.set_member_index(index);
        }
    }

    /// Writes what a connection is owed; false where it is gone.
    fn flush(&mut self, slot: usize) -> bool {
        if self.conns[slot].blocked {
            return true;
        }
        if self.conns[slot].replay.as_ref().is_some_and(|replay| !replay.is_waiting()) {
            // Its next page is made in turn.
            self.queue(slot);
        }
        let conn = &mut self.conns[slot];
        let ring = Kept { shared: &self.shared, now: self.now };
        let budget = self.config.write_budget_bytes;
        let mut out = Outlet { socket: &mut conn.socket, pages: &mut self.pages };
        let written = self.tally.bytes;
        match conn.outbox.flush(
            &self.fanout,
            &mut out,
            budget,
            &mut OutboxContext::new(&mut self.tally, &ring),
        ) {
            Flushed::Done => {
                if conn.replay.is_some() {
                    conn.connection.heard(self.tick);
                } else if conn.awaits > 0 {
                    // What it is owed comes through the mailbox.
                } else if conn.ending == Ending::HungUp {
                    // Nobody will say that it is gone.
                    self.remove(slot);
                    return false;
                } else if conn.ending == Ending::Closing {
                    conn.ending = Ending::None;
                    conn.socket.close_write();
                } else if conn.unread || conn.connection.holds_input() {
                    self.queue(slot);
                }
            }
            Flushed::Blocked => {
                self.block(slot);
                self.conns[slot].outbox.record_full(self.tick, self.tally.bytes != written);
            }
            Flushed::Budget => {
                conn.outbox
                    .enforce_drop_newest(&self.fanout, &mut OutboxContext::new(&mut self.tally, &ring));
                self.queue(slot);
            }
            Flushed::Lagged => return self.close_lagged(slot),
            Flushed::Failed => {
                self.remove(slot);
                return false;
            }
        }
        true
    }

    /// The socket takes no more.
    fn block(&mut self, slot: usize) {
        let conn = &mut self.conns[slot];
        conn.blocked = true;
        if let Some(replay) = &mut conn.replay {
            replay.let_go();
        }
        let ring = Kept { shared: &self.shared, now: self.now };
        conn.outbox.enforce_drop_newest(&self.fanout, &mut OutboxContext::new(&mut self.tally, &ring));
    }

    /// A connection fell off its feed, and one of its subscriptions says that it is to end then. False where it
    /// is gone already.
    fn close_lagged(&mut self, slot: usize) -> bool {
        self.let_go_of_feed(slot);
        self.shared.metrics.lag_closed.inc();
        let conn = &mut self.conns[slot];
        let mut cx = context!(self, conn);
        conn.connection.lagged(&mut cx);
        self.apply(slot)
    }

    /// Tells and closes the connections whose grants have ended.
    fn close_denied(&mut self) {
        for (token, why) in std::mem::take(&mut self.denied) {
            let Some(slot) = self.find(token) else { continue };
            self.let_go_of_feed(slot);
            let conn = &mut self.conns[slot];
            let mut cx = context!(self, conn);
            conn.connection.denied(why, &mut cx);
            self.apply(slot);
        }
    }

    /// It gets nothing more of what it asked for, past or present.
    fn let_go_of_feed(&mut self, slot: usize) {
        let moved = self.conns[slot].outbox.abandon(&mut self.fanout, &mut self.tally);
        self.tell_moved(moved);
        let conn = &mut self.conns[slot];
        conn.outbox.set_lag_policy(LagPolicy::default());
        conn.replay = None;
        conn.outbox.set_replaying(false);
    }

    fn remove(&mut self, slot: usize) {
        self.displace(slot);
        let conn = &mut self.conns[slot];
        let mut cx = context!(self, conn);
        conn.connection.leave(&mut cx);
        self.effects.clear();
        self.shared.metrics.connections.get_or_create(&Kind { kind: conn.connection.speaks().name() }).dec();
        let moved = self.conns[slot].outbox.abandon(&mut self.fanout, &mut self.tally);
        self.tell_moved(moved);
        self.wheel.remove(slot as ConnIndex);
        let conn = self.conns.remove(slot);
        if !self.awaited.is_empty() {
            self.awaited.remove(&token_of(slot, conn.generation));
        }
        if !self.wanted.is_empty() {
            self.wanted.remove(&token_of(slot, conn.generation));
        }
        if !self.addresses.is_empty() {
            self.addresses.remove(&token_of(slot, conn.generation));
        }
    }

    /// Everything but sockets' own readiness: what waits, the bus, timers.
    pub(crate) fn turn(&mut self) {
        self.shared.metrics.turns.inc();
        self.close_denied();
        self.serve_ready();
        self.turns = self.turns.wrapping_add(1);
        self.fanout.sweep();
        self.build_snapshot();
        self.fanout.release_samples(self.now);
        self.pump_unless_held(BATCHES_A_TURN);
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(self.tick, &mut due);
        for key in due.drain(..) {
            let slot = key as usize;
            // One that fired before it may have ended it.
            let Some(conn) = self.conns.get_mut(slot) else { continue };
            let token = token_of(slot, conn.generation);
            if !self.awaited.is_empty() {
                self.answer_late(token);
            }
            let Some(conn) = self.conns.get_mut(slot) else { continue };
            if conn.blocked && conn.outbox.full_for(self.tick) >= self.config.stalled_ticks() {
                // What waits for it would wait for ever.
                self.count_shed("stalled");
                self.remove(slot);
                continue;
            }
            if conn.awaits > 0 {
                // It is not read: its silence is ours.
                conn.connection.heard(self.tick);
            }
            let mut cx = context!(self, conn);
            match conn.connection.timer(&mut cx) {
                // It is owed an answer, which comes in time or is given up.
                Timer::Over if self.conns[slot].awaits > 0 => self.wheel.add(self.tick + 10, key),
                Timer::Over => self.remove(slot),
                Timer::Denied(why) => {
                    // Closing has looks of its own.
                    self.denied.push((token, why));
                }
                Timer::At(tick) => {
                    self.wheel.add(self.patience_of(token).map_or(tick, |until| until.min(tick)), key);
                    self.apply(slot);
                }
            }
        }
        self.due = due;
        self.close_denied();
        self.let_go();
        self.tell_presence(self.tick);
        self.count();
        self.report();
    }

    /// Tells a client that the server goes, and when to come back.
    fn dismiss(&mut self, slot: usize, delay_ms: u64) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if conn.replay.is_some() {
            // The close drops the events of an unfinished past that are not written yet, and every reply after them. So they are
            // dropped first, and the delay is the next thing that the client gets.
            self.let_go_of_feed(slot);
        }
        let conn = &mut self.conns[slot];
        let mut cx = context!(self, conn);
        conn.connection.drain(delay_ms, &mut cx);
        self.apply(slot);
    }
}

//! What a client asked to see of the past, page by page, as fast as it reads.
//!
//! Invariants:
//! - A page is made when the one before is written, so a client that does not read holds no events.
//! - What is live comes behind the last page, each event once.
//! - A turn spends no more on replays than its budget: looking for the newest events, holding events against filters and
//!   making pages go on in the next turn.
//! - Where the ring no longer has what comes next, it is read from the engine's log. A client gets a gap only where the log
//!   has forgotten too, or can't be read in time.

mod forward;
mod judge;
mod newest;

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

use super::super::Rng;
use super::super::auth::{Auth, Grant};
use super::super::budget::{self, Budget};
use super::super::connection::ReplayFrom;
use super::log_places::{Behind, behind, event_id, marks};
use super::mail::Letter;
use super::{Core, Kept, Socket, token_of};
use crate::dialect::{Encoding, GapNotice, Missed};
use crate::engine::{Place, Ticket};
use crate::event::{Event, EventId, Position, Sequence, Since};
use crate::feed::{Cursor, Fanout, Tally};
use crate::filter::Filter;
use crate::server::session::began::Brought;
pub(super) use forward::{Arrived, Forward, Sink, Step, Store};
use forward::{Lane, Spot, notice};
use judge::Judge;
use newest::Newest;

/// Bytes of a page, about.
pub(super) const PAGE_BYTES: usize = 64 * 1024;

/// Instructions for an event that is handed to a client, beside those for its bytes: its frame and its place in the queue.
const EVENT_INSTRUCTIONS: u32 = 1_500;

/// Instructions for a byte that a client is sent: the copy into its frame and the kernel's.
const BYTE_INSTRUCTIONS: usize = 3;

/// A replay that is not over.
#[derive(Debug)]
pub(super) struct Replay {
    encoding: Encoding,
    judge: Judge,
    work: Work,
    /// Held while it waits for a page of the log.
    ticket: Option<Ticket>,
    arrived: Option<Arrived>,
}

#[derive(Debug)]
enum Work {
    /// The newest so many are looked for.
    Newest(Newest),
    /// All behind the places that the client named, or that were found.
    Forward(Forward),
    /// What the snapshot has up to this number.
    Snapshot { filter: Filter, next: u64, to: u64, is_waiting: bool },
    /// What the snapshot has under these numbers, where the filter names keys.
    Keys { numbers: VecDeque<u64> },
    /// Nothing can be said of what the client named.
    Unknown(Option<Since>),
}

impl Replay {
    /// Whether it goes on when something comes that it waits for.
    pub(super) fn is_waiting(&self) -> bool {
        self.ticket.is_some() || matches!(self.work, Work::Snapshot { is_waiting: true, .. })
    }

    /// The snapshot that it waited for is there.
    pub(super) fn snapshot_came(&mut self) {
        if let Work::Snapshot { is_waiting, .. } = &mut self.work {
            *is_waiting = false;
        }
    }

    /// Lets go of a page of the log that its client can't take now.
    pub(super) fn let_go(&mut self) {
        self.arrived = None;
    }

    /// Returns the bytes that it holds, the page apart that it was given just now.
    pub(super) fn held_bytes(&self) -> usize {
        let work = match &self.work {
            Work::Newest(newest) => newest.shards() * size_of::<Lane>(),
            Work::Forward(forward) => forward.shards() * size_of::<Lane>(),
            Work::Keys { numbers } => numbers.capacity() * size_of::<u64>(),
            Work::Snapshot { filter, .. } => filter.bytes().len(),
            Work::Unknown(_) => 0,
        };
        size_of::<Self>() + self.judge.held_bytes() + work
    }
}

impl<S: Socket> Core<S> {
    /// Begins a replay. The interest that goes with it is told next.
    pub(super) fn begin_replay(
        &mut self,
        slot: usize,
        encoding: Encoding,
        filter: Filter,
        except: Vec<Brought>,
        from: ReplayFrom,
    ) {
        let work = match from {
            ReplayFrom::Newest(count) => {
                let ends = (0..self.shared.bus.shards() as u16).map(|shard| {
                    let (to, until) = self.end_of(shard);
                    (shard, to, until)
                });
                Work::Newest(Newest::new(&self.shared.bus, ends, count))
            }
            ReplayFrom::Snapshot => {
                let to = self.begin_snapshot();
                Work::Snapshot { filter: filter.clone(), next: 1, to, is_waiting: false }
            }
            ReplayFrom::After(since) => self.behind(since, std::slice::from_ref(&filter)),
            ReplayFrom::Unknown => Work::Unknown(None),
        };
        if let Work::Forward(forward) = &work {
            self.conns[slot].connection.past_begins(forward.places());
        }
        let judge = Judge::new(filter, except);
        let replay = Replay { encoding, judge, work, ticket: None, arrived: None };
        self.conns[slot].replay = Some(Box::new(replay));
    }

    /// Begins to deliver again what a client's subscriptions match behind a place. What its feed has for it is passed over:
    /// that comes again too.
    pub(super) fn begin_refill(
        &mut self,
        slot: usize,
        encoding: Encoding,
        filters: Vec<Filter>,
        since: Since,
    ) {
        let work = self.behind(since, &filters);
        let ring = Kept { shared: &self.shared, now: self.now };
        let conn = &mut self.conns[slot];
        if let Work::Forward(forward) = &work {
            conn.connection.refill_begins(forward.places());
        }
        conn.cursor.go_back(&mut self.fanout, &mut self.tally, &ring);
        conn.cursor.set_waits(true);
        let replay = Replay { encoding, judge: Judge::any(filters), work, ticket: None, arrived: None };
        conn.replay = Some(Box::new(replay));
    }

    /// Where a shard ends for a reader that gets what is live from here on: the place in the ring, and the last event
    /// before it.
    pub(super) fn end_of(&self, shard: u16) -> (Sequence, Place) {
        let to = self.reader.position(shard);
        let until = match &self.continuity {
            Some(continuity) => continuity.newest(shard).map_or((0, 0), |id| (id.epoch, id.sequence)),
            None => (self.shared.bus.epoch(), to.wrapping_sub(1)),
        };
        (to, until)
    }

    /// The way through all that the rings hold, and of the log as much as it is to keep of each shard.
    pub(super) fn whole_past(&self) -> Forward {
        let bus = &self.shared.bus;
        let shards = bus.shards() as u16;
        let kept = self.shared.engine.as_ref().filter(|engine| engine.history().is_some());
        let lanes = (0..shards).map(|shard| {
            let (to, until) = self.end_of(shard);
            let oldest = bus.oldest(shard).min(to);
            let ring = Spot::Ring(oldest);
            let first = event_id(bus, shard, oldest, to).map(|(_, id)| id);
            let (spot, after) = match (first, kept) {
                (Some(id), Some(engine)) => {
                    let from = id.sequence.saturating_sub(engine.kept_events());
                    (Spot::Log { is_known: true }, EventId::before(id.epoch, shard, from))
                }
                (Some(id), None) => (ring, EventId::before(id.epoch, shard, id.sequence)),
                (None, _) => (ring, EventId { epoch: 0, shard, sequence: 0 }),
            };
            Lane { shard, spot, to, until, after, missed: 0, counts: false }
        });
        Forward { lanes: lanes.collect(), at: None, says_too_little: None }
    }

    /// All behind the places that a client names, up to the loop's own.
    fn behind(&self, since: Since, filters: &[Filter]) -> Work {
        let shards = self.shared.bus.shards();
        let has_log = self.shared.engine.as_ref().is_some_and(|engine| engine.history().is_some());
        let mut marks = marks(&self.shared, &since);
        // What the node did not ask for then, it can't know.
        let mut is_from_before = false;
        for filter in filters {
            is_from_before |= self.follow_on(&mut marks, filter);
        }
        // Of the shards that it says nothing of, the client gets what comes from now on.
        let mut at = self.reader.told().cloned();
        if let (Some(at), Some(first)) = (&mut at, marks.first())
            && at.epoch() != first.epoch
        {
            *at = Position::new(first.epoch, (0..shards).map(|_| 0));
        }
        let mut lanes = SmallVec::new();
        for id in marks {
            let (to, until) = self.end_of(id.shard);
            let (missed, spot) = match behind(&self.shared, id, to) {
                Behind::All(next) => (0, Spot::Ring(next)),
                // It was waited for as long as is sensible.
                Behind::NotYet => continue,
                _ if has_log => (0, Spot::Log { is_known: false }),
                Behind::Some(missed, next) => (missed, Spot::Ring(next)),
                Behind::Unknown => continue,
            };
            at = at.map(|at| at.behind(id));
            lanes.push(Lane { shard: id.shard, spot, to, until, after: id, missed, counts: true });
        }
        if lanes.is_empty() {
            return Work::Unknown(Some(since));
        }
        let says_too_little = (is_from_before || lanes.len() < shards).then_some(since);
        Work::Forward(Forward { lanes, at, says_too_little })
    }

    /// Moves places on to where the node began to follow what a client wants, where it follows no more than its clients
    /// want; true where that was behind one of them.
    fn follow_on(&self, marks: &mut [EventId], filter: &Filter) -> bool {
        let interest = self.shared.engine.as_ref().and_then(|engine| engine.interest());
        let Some((epoch, since)) = interest.and_then(|it| it.since(filter, self.shared.bus.shards())) else {
            return false;
        };
        let mut moved = false;
        for id in marks.iter_mut().filter(|id| id.epoch == epoch) {
            let Some(since) = since.get(usize::from(id.shard)) else { continue };
            if id.next_sequence() < *since {
                // A place that is not there yet is where what comes begins.
                let since = (*since).min(self.next_of_log(id.shard, epoch)).max(id.next_sequence());
                *id = EventId::before(epoch, id.shard, since);
                moved = true;
            }
        }
        moved
    }

    /// The sequence behind the newest event that this loop has seen of a shard, in this life of the log.
    fn next_of_log(&self, shard: u16, epoch: u64) -> Sequence {
        let newest = self
            .continuity
            .as_ref()
            .and_then(|continuity| continuity.newest(shard))
            .filter(|id| id.epoch == epoch);
        newest.map_or(0, EventId::next_sequence)
    }

    /// Makes the next page of a connection's replay and writes what it is owed; false where the connection is gone. For
    /// calls between two reads, where the turn's budget has no other user.
    pub(super) fn flush_past(&mut self, slot: usize) -> bool {
        let conn = &self.conns[slot];
        let is_due = conn.replay.as_ref().is_some_and(|replay| !replay.is_waiting());
        if is_due && !conn.blocked && conn.cursor.direct_bytes() <= PAGE_BYTES && !self.spending.is_spent() {
            let mut budget = self.spending.share(budget::CLIENT);
            self.page(slot, &mut budget);
            self.spending.settle(&budget);
        }
        self.flush(slot)
    }

    /// Queues the next page of a connection's replay.
    fn page(&mut self, slot: usize, budget: &mut Budget) {
        let Some(mut replay) = self.conns[slot].replay.take() else { return };
        if !replay.judge.prepare(budget) {
            self.conns[slot].replay = Some(replay);
            return;
        }
        let is_building = self.is_building_snapshot();
        let conn = &mut self.conns[slot];
        let token = token_of(slot, conn.generation);
        let Replay { encoding, judge, work, ticket, arrived } = &mut *replay;
        let now = self.now;
        let mut store = Store { shared: &self.shared, arrived, now };
        if let Work::Newest(newest) = work {
            match newest.step(&mut store, judge, budget) {
                Step::Over => {
                    let forward = newest.turn_round();
                    conn.connection.past_begins(forward.places());
                    *work = Work::Forward(forward);
                }
                Step::More => {}
                Step::Waits { shard, from } => *ticket = self.ask_log(token, shard, from),
            }
            self.conns[slot].replay = Some(replay);
            return;
        }
        let seals = conn.connection.grant().is_some_and(Grant::narrows);
        let mut out = Page {
            seals: seals.then_some((&self.shared.auth, &mut self.rng)),
            encoding: *encoding,
            judge,
            cursor: &mut conn.cursor,
            fanout: &mut self.fanout,
            tally: &mut self.tally,
            size: 0,
        };
        let over = match work {
            Work::Newest(_) => false,
            Work::Unknown(id) => {
                out.gap(&notice(Missed::Unknown, id.take(), None, now));
                true
            }
            Work::Snapshot { is_waiting, .. } if is_building => {
                *is_waiting = true;
                self.wait_for_snapshot(token);
                false
            }
            Work::Snapshot { filter, next, to, .. } => {
                let mut over = true;
                let snapshot = self.snapshot.as_deref();
                if let Some(numbers) = snapshot.and_then(|snapshot| snapshot.named_by(filter, *to)) {
                    // A look costs about as much as a short step.
                    budget.spend(numbers.len() as u32 / 4 + 1);
                    *work = Work::Keys { numbers };
                    over = false;
                } else if let Some(snapshot) = snapshot {
                    for (number, event) in snapshot.range(*next, *to) {
                        if out.is_full() || budget.is_spent() {
                            over = false;
                            break;
                        }
                        *next = number + 1;
                        out.event(event, None, budget);
                    }
                }
                over
            }
            Work::Keys { numbers } => {
                while !out.is_full()
                    && !budget.is_spent()
                    && let Some(number) = numbers.pop_front()
                {
                    budget.spend(1);
                    if let Some(event) = self.snapshot.as_ref().and_then(|snapshot| snapshot.get(number)) {
                        out.event(event, None, budget);
                    }
                }
                numbers.is_empty()
            }
            Work::Forward(forward) => match forward.step(&mut store, &mut out, budget) {
                Step::More => false,
                Step::Waits { shard, from } => {
                    *ticket = self.ask_log(token, shard, from);
                    false
                }
                // What is live went on without it: it gets that this way too, if all of it is its own.
                Step::Over if judge.is_alone() && self.skip_live(slot) => {
                    forward.extend(|shard| self.end_of(shard));
                    false
                }
                Step::Over => true,
            },
        };
        let conn = &mut self.conns[slot];
        if over {
            conn.cursor.set_waits(false);
        } else {
            conn.replay = Some(replay);
        }
    }

    /// Passes over what a connection's feed has for it, if the feed has let go of some of that; false where it has not.
    fn skip_live(&mut self, slot: usize) -> bool {
        let cursor = &mut self.conns[slot].cursor;
        cursor.has_lost(&self.fanout) && cursor.skip_to_end(&mut self.fanout)
    }

    /// Asks for a page of the log; the ticket is held while a client waits for it.
    pub(super) fn ask_log(&self, token: super::Token, shard: u16, from: Place) -> Option<Ticket> {
        let history = self.shared.engine.as_ref()?.history()?;
        let ticket = Ticket::default();
        let mailbox = Arc::clone(&self.mailbox);
        let on_page = move |outcome| mailbox.leave(token, Letter::Past(Arrived { shard, from, outcome }));
        history.request(shard, from, &ticket, Box::new(on_page));
        Some(ticket)
    }

    /// Takes a page of the log that came for a connection.
    pub(super) fn page_came(&mut self, slot: usize, arrived: Arrived) {
        let conn = &mut self.conns[slot];
        let Some(replay) = &mut conn.replay else { return };
        if replay.ticket.take().is_some() && !conn.blocked {
            replay.arrived = Some(arrived);
        }
        self.queue(slot);
    }
}

/// What is being queued for one connection.
struct Page<'a> {
    /// What seals places, for a client that may not know how much goes on beyond its grant.
    seals: Option<(&'a Auth, &'a mut Rng)>,
    encoding: Encoding,
    judge: &'a mut Judge,
    cursor: &'a mut Cursor,
    fanout: &'a mut Fanout,
    tally: &'a mut Tally,
    size: usize,
}

impl Sink for Page<'_> {
    fn is_full(&self) -> bool {
        self.size >= PAGE_BYTES
    }

    /// A client that came live may stand elsewhere behind an event of several shards, where shards have their own order
    /// here, or this client came from another node: then it gets a frame of its own.
    fn event(&mut self, event: &Event, at: Option<&Position>, budget: &mut Budget) {
        if !self.judge.wants(event, budget) {
            return;
        }
        let frame = match at.filter(|at| event.position() != Some(at)) {
            None => self.fanout.frame(event, self.encoding, self.cursor.compression()),
            Some(at) => self.fanout.frame_at(event, at, self.encoding, self.cursor.compression()),
        };
        self.size += frame.len();
        budget.spend(EVENT_INSTRUCTIONS / 1_000);
        budget.spend_bytes(frame.len().min(PAGE_BYTES * 4), BYTE_INSTRUCTIONS);
        self.cursor.send_replayed(self.fanout, frame, event.id());
    }

    fn gap(&mut self, gap: &GapNotice) {
        let Some(missed) = self.judge.missed(gap.missed) else { return };
        self.tally.gaps += 1;
        let mut gap = GapNotice { missed, ..gap.clone() };
        if let Some((auth, rng)) = &mut self.seals {
            gap = gap.within_a_grant(|since| auth.seal(since, rng.next_u128() as u64));
        }
        self.cursor.send_in_replay(self.encoding.gap(&gap));
    }
}

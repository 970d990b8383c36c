//! Replays: sends a client the past that it requested, page by page, as fast as the client reads.
//!
//! Invariants:
//! - A page is made after the previous one is written, so a client that does not read holds no events.
//! - Live events follow the last page, each event once.
//! - A turn spends no more on replays than its budget. Searching for the newest events, filtering and making pages
//!   continue in the next turn.
//! - Events that the ring no longer has are read from the engine's log. A client gets a gap only if the log has
//!   dropped them too, or can't be read in time.

#[cfg(test)]
mod blocks_tests;
mod forward;
mod kept;
mod merge;
mod newest;
mod packed;
mod page;
mod selector;
mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

use super::super::auth::Grant;
use super::end_watch::PendingEnds;
use super::kind_log::Count;
use super::loop_state::LoopState;
use super::mailbox::MailboxItem;
use super::socket::Socket;
use super::token::Token;
use crate::dialect::{Encoding, Missed, PastStart, Stamp};
use crate::engine::{LogPlace, Ticket};
use crate::event::{EventId, Position, Sequence, Since};
use crate::feed::{HeldReplies, OutboxContext, Snapshot};
use crate::filter::Filter;
use crate::kept::{KeptCursor, place_after};
use crate::metrics::Kind;
use crate::server::limits::budget;
use crate::server::limits::budget::Budget;
use crate::server::session::began::DeliveredElsewhere;
use crate::server::session::past::PastReport;
use crate::server::session::past::ReplayFrom;
use crate::server::shared::resume::{RetainedAfter, event_id, marks, oldest_place, retained_after};
pub(super) use forward::{Arrived, EventSink, Forward, Step, Store};
use forward::{ReadPlace, ShardLane, is_complete_from, notice};
use kept::KeptPast;
use newest::Newest;
use page::{PAGE_BYTES, Page, SmallFrames};
use selector::ReplaySelector;
use state::{CATCH_UP, ReplayWork};
pub(super) use state::{ClientReplay, SuspendedCatchUp};

impl ReplayFrom {
    /// Returns the word by which a client requests this kind of past.
    fn kind(&self) -> &'static str {
        match self {
            Self::After(_) | Self::Unknown => "since",
            Self::Newest(_) => "history",
            Self::Snapshot => "snapshot",
            Self::Start => "start",
        }
    }
}

impl<S: Socket> LoopState<S> {
    /// Begins a replay. The client's interest changes next.
    pub(super) fn begin_replay(
        &mut self,
        slot: usize,
        encoding: Encoding,
        filters: Vec<Filter>,
        except: Vec<DeliveredElsewhere>,
        from: ReplayFrom,
        report: PastReport,
    ) {
        let kind = from.kind();
        // The start of the other kinds is known only after the search.
        let mut start = None;
        let work = match from {
            ReplayFrom::Newest(count) => ReplayWork::Newest(self.newest(&filters, count)),
            ReplayFrom::Snapshot => {
                let to = self.begin_snapshot();
                let is_followed = filters.iter().all(|filter| self.followed(filter).is_none());
                let filters = filters.clone();
                ReplayWork::Snapshot { filters, next: 1, to, is_waiting: false, is_followed }
            }
            ReplayFrom::After(since) => {
                let work = self.work_after(since.clone(), &filters, false);
                let work = self.or_new_logs(work, &filters, &report);
                start = Some(PastStart { from: Some(since), complete: work.is_complete() });
                work
            }
            ReplayFrom::Start => {
                let work = self.work_from_start(&filters);
                start = Some(PastStart { from: None, complete: work.is_complete() });
                work
            }
            ReplayFrom::Unknown => {
                start = Some(PastStart { from: None, complete: Some(false) });
                self.or_new_logs(ReplayWork::Unknown(None), &filters, &report)
            }
        };
        self.clients.conns[slot].connection.past_begins(work.places().into_iter());
        let selector = ReplaySelector::any(filters, except);
        let replay =
            ClientReplay { start, report: Some(report), ..ClientReplay::new(encoding, selector, work, kind) };
        self.clients.conns[slot].add_replay(replay);
    }

    /// Begins to deliver again, from a place on, the events that a client's subscriptions match. Events pending in its
    /// feed are skipped, because they are delivered again, too. Replies after such events wait for them.
    pub(super) fn begin_refill(
        &mut self,
        slot: usize,
        encoding: Encoding,
        filters: Vec<Filter>,
        since: Since,
    ) {
        let work = self.work_after(since, &filters, false);
        let ring = self.turn.resume_lookup(&self.shared, &self.places);
        let conn = &mut self.clients.conns[slot];
        conn.add_purge_notice(&self.delivery.fanout, encoding, &filters);
        conn.connection.record_refill(work.places().into_iter());
        let held = conn.outbox.skip_for_replay(
            &mut self.delivery.fanout,
            &mut OutboxContext::new(&mut self.delivery.tally, &ring),
        );
        conn.outbox.set_replaying(true);
        let selector = ReplaySelector::any(filters, Vec::new());
        conn.add_replay(ClientReplay { held, ..ClientReplay::new(encoding, selector, work, "refill") });
    }

    /// Returns the replay of everything after a place to which a client was written. `held` are replies that come after these
    /// events.
    pub(super) fn catch_up_replay(
        &mut self,
        encoding: Encoding,
        filters: Vec<Filter>,
        since: Option<Since>,
        held: HeldReplies,
    ) -> ClientReplay {
        // A client without a place joined before this node had reached the log.
        let work = match since.or_else(|| self.first_place().map(Since::Position)) {
            Some(since) => self.work_after(since, &filters, true),
            None => ReplayWork::Unknown(None),
        };
        let selector = ReplaySelector::any(filters, Vec::new());
        ClientReplay { held, ..ClientReplay::new(encoding, selector, work, CATCH_UP) }
    }

    /// Ends a client's catch-up, so that another process can continue it. Returns the client's place and the replies that wait;
    /// `None` if the client can't move.
    pub(super) fn suspend_catch_up(&mut self, slot: usize, filters: &[Filter]) -> Option<SuspendedCatchUp> {
        let place = self.clients.conns[slot].replay.as_ref()?.place_to_continue(filters)?;
        let mut replay = self.clients.conns[slot].replay.take()?;
        let held = replay.take_held().flat_map(HeldReplies::into_bytes).collect();
        // The place is after the event that waits to be merged.
        replay.work = ReplayWork::Over;
        self.page_of(slot, &mut replay, &mut Budget::new(budget::CLIENT));
        Some(SuspendedCatchUp { place, held })
    }

    /// Returns the place at which this node began to read the engine's log; `None` before it has reached the log.
    pub(super) fn first_place(&self) -> Option<Position> {
        let status = self.shared.engine.as_ref()?.status();
        let place = |shard: usize| status.began_at_place(shard as u16);
        let (epoch, _) = place(0);
        let next = (0..self.shared.bus.shards()).map(|shard| place(shard).1);
        (epoch > 0).then(|| Position::new(epoch, next))
    }

    /// Returns the search for the newest `count` events that one of the filters matches.
    fn newest(&self, filters: &[Filter], count: usize) -> Newest {
        let ends = (0..self.shared.bus.shards() as u16).map(|shard| {
            let (to, until) = self.end_of(shard);
            (shard, to, until)
        });
        let followed: Vec<_> = filters.iter().filter_map(|filter| self.followed(filter)).collect();
        let followed = |shard: u16| {
            let of_shard = |(epoch, since): &(u64, Box<[Sequence]>)| {
                since.get(usize::from(shard)).map_or((0, 0), |since| (*epoch, *since))
            };
            followed.iter().map(of_shard).max().unwrap_or((0, 0))
        };
        Newest::new(ends, followed, count)
    }

    /// Returns the places from which a node that follows only its clients' interest has everything that a filter
    /// matches; `None` if it has everything from the beginning.
    fn followed(&self, filter: &Filter) -> Option<(u64, Box<[Sequence]>)> {
        let interest = self.shared.engine.as_ref()?.interest()?;
        let followed = interest.since(filter, self.shared.bus.shards())?;
        followed.1.iter().any(|since| *since > 0).then_some(followed)
    }

    /// Returns the end of a shard for a reader that continues with live events: the place in the ring, and the last
    /// event before it.
    pub(super) fn end_of(&self, shard: u16) -> (Sequence, LogPlace) {
        let to = self.delivery.reader.position(shard);
        let until = match &self.delivery.continuity {
            Some(continuity) => continuity.newest(shard).map_or((0, 0), |id| (id.epoch, id.sequence)),
            None => (self.shared.bus.epoch(), to.wrapping_sub(1)),
        };
        (to, until)
    }

    /// Returns a reader of everything in the rings, and of the part of the log that is kept of each shard.
    pub(super) fn whole_past(&self) -> Forward {
        let bus = &self.shared.bus;
        let shards = bus.shards() as u16;
        let kept = self.shared.engine_with_past();
        let lanes = (0..shards).map(|shard| {
            let (to, until) = self.end_of(shard);
            let oldest = bus.oldest(shard).min(to);
            let ring = ReadPlace::Ring(oldest);
            let first = event_id(bus, shard, oldest, to).map(|(_, id)| id);
            let (place, after, has_all) = match (first, kept) {
                (Some(id), Some(engine)) => {
                    let from = id.sequence.saturating_sub(engine.kept_events());
                    (ReadPlace::Log { is_known: true }, EventId::before(id.epoch, shard, from), from == 0)
                }
                (Some(id), None) => {
                    let has_all = is_complete_from(&self.shared, shard, Some(id.sequence));
                    (ring, EventId::before(id.epoch, shard, id.sequence), has_all)
                }
                (None, _) => {
                    let has_all = is_complete_from(&self.shared, shard, None);
                    (ring, EventId { epoch: 0, shard, sequence: 0 }, has_all)
                }
            };
            let forgotten = (!has_all).then_some(after);
            ShardLane { shard, place, to, until, after, missed: 0, counts: false, forgotten }
        });
        Forward { lanes: lanes.collect(), at: None, partial_since: None, unread_first: false }
    }

    /// Returns the work for everything after the places that a client names, up to the loop's own place. `spans_lives`: the client
    /// followed kept logs up to there, so it gets the rest of older lives, too.
    fn work_after(&mut self, since: Since, filters: &[Filter], spans_lives: bool) -> ReplayWork {
        let shards = self.shared.bus.shards();
        let has_log = self.shared.engine_with_past().is_some();
        let mut marks = marks(&self.shared, &since);
        if let Some(work) = self.work_in_logs(&marks, filters, spans_lives) {
            return work;
        }
        // Events from before the node subscribed to them are unknown to it.
        let mut is_from_before = false;
        for filter in filters {
            is_from_before |= self.follow_on(&mut marks, filter);
        }
        // In shards that the client does not name, the past begins now.
        let mut at = self.delivery.reader.client_position().cloned();
        if let (Some(at), Some(first)) = (&mut at, marks.first())
            && at.epoch() != first.epoch
        {
            *at = Position::new(first.epoch, (0..shards).map(|_| 0));
        }
        let mut lanes = SmallVec::new();
        for id in marks {
            let (to, until) = self.end_of(id.shard);
            let (missed, place) = match retained_after(&self.shared, id, to) {
                RetainedAfter::All(next) => (0, ReadPlace::Ring(next)),
                // The maximum wait for the log is over.
                RetainedAfter::NotYet => continue,
                _ if has_log => (0, ReadPlace::Log { is_known: false }),
                RetainedAfter::Some(missed, next) => (missed, ReadPlace::Ring(next)),
                RetainedAfter::Unknown => continue,
            };
            at = at.map(|at| at.after(id));
            let (shard, after) = (id.shard, id);
            lanes.push(ShardLane { shard, place, to, until, after, missed, counts: true, forgotten: None });
        }
        if lanes.is_empty() {
            return ReplayWork::Unknown(Some(since));
        }
        let partial_since = (is_from_before || lanes.len() < shards).then_some(since);
        ReplayWork::Forward(Forward { lanes, at, partial_since, unread_first: false })
    }

    /// Returns the work for everything retained in the logs that the filters name or match, and for the rings if some
    /// of their events may be under no rule.
    fn work_from_start(&self, filters: &[Filter]) -> ReplayWork {
        let (cursor, is_covered) = match self.shared.kept.lock() {
            Some(logs) => match logs.cursor(filters, &[], self.turn.now) {
                Ok(cursor) => (cursor, logs.cover(filters, |shard| oldest_place(&self.shared, shard))),
                // The number of logs has grown since the request was checked.
                Err(_) => return ReplayWork::Unknown(None),
            },
            None => (KeptCursor::default(), false),
        };
        let rings = (!is_covered).then(|| self.whole_past());
        ReplayWork::Kept(Box::new(KeptPast::new(cursor, filters, self.ends(), rings)))
    }

    /// Returns this work, unless an event stream names a place of another process, whose events are gone, and logs keep everything
    /// that its filter matches: then all of the newest lives is new to the client, and comes after the gap. A native client asks for
    /// that itself, because it knows what its other subscriptions have delivered.
    fn or_new_logs(&self, work: ReplayWork, filters: &[Filter], report: &PastReport) -> ReplayWork {
        let ReplayWork::Unknown(since) = &work else { return work };
        if !report.name().is_empty() {
            return work;
        }
        let epoch = self.shared.bus.epoch();
        let is_of_here = |since: &Since| marks(&self.shared, since).iter().any(|id| id.epoch == epoch);
        let logs = self.shared.kept.lock().filter(|_| !since.as_ref().is_some_and(is_of_here));
        let Some(logs) = logs else { return work };
        if !logs.cover(filters, |shard| oldest_place(&self.shared, shard)) {
            return work;
        }
        let Ok(cursor) = logs.cursor(filters, &[], self.turn.now) else { return work };
        ReplayWork::Kept(Box::new(KeptPast::new(cursor.after_unknown(), filters, self.ends(), None)))
    }

    /// Returns the place that this loop has to reach before it can read the logs of these filters from their start. Another loop,
    /// or the engine's follower, may have read the beginning of a newer life or a purge, and this loop's live events are from before.
    pub(super) fn place_of_unread_lives(&self, filters: &[Filter]) -> Option<Since> {
        let logs = self.shared.kept.lock()?;
        if logs.recorded().zip(self.ends()).all(|(recorded, read)| recorded <= read) {
            return None;
        }
        let is_read = |id: EventId| (id.epoch, id.sequence) < self.next_place(id.shard);
        let mut begins = logs.unread_lives(filters, is_read, self.turn.now);
        begins.extend(logs.unread_before_purge(is_read));
        drop(logs);
        let newest = *begins.iter().max_by_key(|id| (id.epoch, id.sequence))?;
        let shards = self.shared.bus.shards() as u16;
        if shards == 1 {
            return Some(Since::Event(newest));
        }
        let of_shard =
            |shard: u16| begins.iter().filter(move |id| (id.shard, id.epoch) == (shard, newest.epoch));
        let next = |shard| of_shard(shard).map(|id| id.next_sequence()).max().unwrap_or(0);
        Some(Since::Position(Position::new(newest.epoch, (0..shards).map(next))))
    }

    /// Returns the work for everything in kept logs after these places, if the logs have all events that the filters
    /// match, or more of them than the rings have. Logs are preferred because publishers can overtake a resume that reads
    /// the rings: a slow client would get a gap for events that a log still has.
    fn work_in_logs(
        &mut self,
        marks: &[EventId],
        filters: &[Filter],
        spans_lives: bool,
    ) -> Option<ReplayWork> {
        let (shared, bus) = (&self.shared, &self.shared.bus);
        if !shared.kept.is_on() || marks.len() < bus.shards() {
            return None;
        }
        let place = |mark: &EventId| retained_after(shared, *mark, self.delivery.reader.position(mark.shard));
        let is_known =
            |place: &RetainedAfter| matches!(place, RetainedAfter::All(_) | RetainedAfter::Some(..));
        let places: SmallVec<[RetainedAfter; 1]> = marks.iter().map(place).collect();
        let is_lost = places.iter().any(|place| matches!(place, RetainedAfter::Some(..)));
        if !places.iter().all(is_known) {
            return None;
        }
        let logs = shared.kept.lock()?;
        if !logs.cover(filters, |shard| oldest_place(shared, shard)) {
            return None;
        }
        // The engine's follower, or another loop, may have read further than this one, which continues in an older life.
        let is_read = |id: EventId| (id.epoch, id.sequence) < self.next_place(id.shard);
        let spans_lives = spans_lives || !logs.unread_lives(filters, is_read, self.turn.now).is_empty();
        let cursor = if spans_lives {
            logs.cursor_over_lives(filters, marks, self.turn.now).ok()?
        } else {
            logs.cursor(filters, marks, self.turn.now).ok()?
        };
        if cursor.has_gap() && (!is_lost || shared.engine.is_some()) {
            // An engine's log may still have the events.
            return None;
        }
        // About 100 instructions for each look at a name or log.
        self.turn.work.spend((logs.looks(filters) / 10) as u32);
        Some(ReplayWork::Kept(Box::new(KeptPast::new(cursor, filters, self.ends(), None))))
    }

    /// Returns the place of the next live event in each shard.
    fn ends(&self) -> impl Iterator<Item = LogPlace> {
        (0..self.shared.bus.shards()).map(|shard| self.next_place(shard as u16))
    }

    /// Returns the place of the next event that this loop reads from a shard: an epoch and a sequence.
    pub(super) fn next_place(&self, shard: u16) -> LogPlace {
        let Some(continuity) = &self.delivery.continuity else {
            return (self.shared.bus.epoch(), self.delivery.reader.position(shard));
        };
        match continuity.newest(shard) {
            Some(newest) => place_after(newest),
            None => {
                self.shared.engine.as_ref().map_or((0, 0), |engine| engine.status().began_at_place(shard))
            }
        }
    }

    /// Moves places forward to where the node began to follow a filter, if it follows only its clients' interest.
    /// Returns whether it moved any.
    fn follow_on(&self, marks: &mut [EventId], filter: &Filter) -> bool {
        let interest = self.shared.engine.as_ref().and_then(|engine| engine.interest());
        let Some((epoch, since)) = interest.and_then(|it| it.since(filter, self.shared.bus.shards())) else {
            return false;
        };
        let mut moved = false;
        for id in marks.iter_mut().filter(|id| id.epoch == epoch) {
            let Some(since) = since.get(usize::from(id.shard)) else { continue };
            if id.next_sequence() < *since {
                // A place beyond the newest event counts as that of the next event.
                let since = (*since).min(self.next_of_log(id.shard, epoch)).max(id.next_sequence());
                *id = EventId::before(epoch, id.shard, since);
                moved = true;
            }
        }
        moved
    }

    /// Returns the sequence after the newest event that this loop has seen of a shard, in this epoch.
    fn next_of_log(&self, shard: u16, epoch: u64) -> Sequence {
        let newest = self
            .delivery
            .continuity
            .as_ref()
            .and_then(|continuity| continuity.newest(shard))
            .filter(|id| id.epoch == epoch);
        newest.map_or(0, EventId::next_sequence)
    }

    /// Makes the next pages of a connection's replay, and writes its pending bytes: each page after the one before it is
    /// written, as far as the client's part of the turn goes. Returns false if the connection is gone. For calls between two
    /// reads, when the turn's budget has no other user.
    pub(super) fn flush_past(&mut self, slot: usize) -> bool {
        let mut budget = self.turn.spending.share(budget::CLIENT);
        while self.may_make_page(slot) && !budget.is_spent() {
            self.page(slot, &mut budget);
            if !self.has_page(slot) || self.clients.conns[slot].outbox.inserted_bytes() == 0 {
                break;
            }
            if !self.write_pending(slot) {
                self.turn.spending.settle(&budget);
                return false;
            }
        }
        self.turn.spending.settle(&budget);
        if self.clients.conns[slot].replay.is_none() && !self.clients.ends.pending.is_empty() {
            // Ends that follow the last page are written with it.
            let token = self.clients.token(slot);
            self.report_ends();
            if self.find(token).is_none() {
                return false;
            }
        }
        self.flush(slot)
    }

    /// Returns whether a connection's replay has another page to make now.
    pub(super) fn has_page(&self, slot: usize) -> bool {
        self.clients.conns[slot].replay.as_ref().is_some_and(|replay| !replay.is_waiting())
    }

    /// Returns whether the next page may be made: the page before it is written, and no event is in hand.
    pub(super) fn may_make_page(&self, slot: usize) -> bool {
        let conn = &self.clients.conns[slot];
        self.has_page(slot)
            && !conn.blocked
            && conn.outbox.inserted_bytes() <= PAGE_BYTES
            && self.delivery.in_hand.is_none()
    }

    /// Queues the next page of a connection's replay.
    fn page(&mut self, slot: usize, budget: &mut Budget) {
        let Some(mut replay) = self.clients.conns[slot].replay.take() else { return };
        if let Some(start) = replay.start.take() {
            self.answer(slot, &mut replay, &start);
        }
        if !replay.selector.prepare(budget) {
            self.clients.conns[slot].replay = Some(replay);
            return;
        }
        if let ReplayWork::Newest(_) = replay.work {
            self.search_newest(slot, &mut replay, budget);
            self.clients.conns[slot].replay = Some(replay);
            return;
        }
        if let ReplayWork::Snapshot { is_followed, .. } = replay.work {
            let is_building = self.is_building_snapshot();
            // The effects of this page do not wait for the log.
            let has_log = self.shared.engine_with_past().is_some();
            if !is_building || has_log {
                let has_all = is_followed
                    && !self.delivery.snapshot.as_ref().is_some_and(|snapshot| snapshot.is_short());
                let complete = (!is_building || !has_all).then_some(has_all);
                self.answer(slot, &mut replay, &PastStart { from: None, complete });
            }
            if is_building {
                replay.wait_for_snapshot();
                self.wait_for_snapshot(self.clients.token(slot));
                self.clients.conns[slot].replay = Some(replay);
                return;
            }
        }
        let over = self.page_of(slot, &mut replay, budget);
        if over {
            self.end_replay(slot, *replay);
        } else {
            self.clients.conns[slot].replay = Some(replay);
        }
    }

    /// Continues the search for the newest events. Answers the client once they are found, or a page of the log has to
    /// be requested.
    fn search_newest(&mut self, slot: usize, replay: &mut ClientReplay, budget: &mut Budget) {
        let ReplayWork::Newest(newest) = &mut replay.work else { return };
        let mut store = Store { shared: &self.shared, arrived: &mut replay.arrived, now: self.turn.now };
        let start = match newest.step(&mut store, &mut replay.selector, budget) {
            Step::More => return,
            Step::Over => {
                let forward = newest.to_forward();
                self.clients.conns[slot].connection.past_begins(forward.places());
                let start = forward.start();
                replay.work = ReplayWork::Forward(forward);
                start
            }
            Step::Waits { shard, from } => {
                let token = self.clients.token(slot);
                replay.ticket = self.ask_log(token, shard, from);
                PastStart { from: None, complete: None }
            }
        };
        self.answer(slot, replay, &start);
    }

    /// Returns whether the client is known to have wanted none of the dropped events after its places.
    fn has_lost_nothing(&self, replay: &ClientReplay) -> bool {
        let ReplayWork::Forward(forward) = &replay.work else { return false };
        let is_unwanted = |(after, gone): (EventId, u64)| {
            let (shard, from) = ((after.epoch, after.shard), after.next_sequence());
            let count = self.delivery.kind_log.count(replay.selector.requested(), shard, from, gone, &mut 0);
            matches!(count, Some(Count { most: 0, .. }))
        };
        forward.lost().is_some_and(|mut lost| lost.all(is_unwanted))
    }

    /// Answers the subscribe that requested a past, unless that is done.
    fn answer(&mut self, slot: usize, replay: &mut ClientReplay, start: &PastStart) {
        let has_lost_nothing = start.complete == Some(false) && self.has_lost_nothing(replay);
        let Some(report) = &mut replay.report else { return };
        let mut start = start.clone();
        if replay.selector.missed(Missed::Unknown).is_none() || has_lost_nothing {
            // A client that wants nothing misses nothing.
            start.complete = Some(true);
        }
        let conn = &mut self.clients.conns[slot];
        if conn.connection.grant().is_some_and(Grant::narrows) {
            let (auth, rng) = (&self.shared.auth, &mut self.turn.rng);
            start.from = start.from.and_then(|from| auth.seal(&from, rng.next_u128() as u64));
        }
        if let Some(answer) = report.answer(replay.encoding, &start) {
            conn.outbox.send_in_replay(answer, None);
        }
    }

    /// Queues some events. Returns whether they were the last.
    fn page_of(&mut self, slot: usize, replay: &mut ClientReplay, budget: &mut Budget) -> bool {
        let now = self.turn.now;
        let conn = &mut self.clients.conns[slot];
        let may_extend = replay.may_extend(conn.outbox.catches_up());
        let ClientReplay { encoding, selector, work, ticket, arrived, events, has_gap, held, merger, .. } =
            replay;
        let mut store = Store { shared: &self.shared, arrived, now };
        let mut spent = 0;
        let seals = conn.connection.grant().is_some_and(Grant::narrows);
        let mut out = Page {
            seals: seals.then_some((&self.shared.auth, &mut self.turn.rng)),
            kind_log: &self.delivery.kind_log,
            spent: &mut spent,
            encoding: *encoding,
            selector,
            outbox: &mut conn.outbox,
            fanout: &mut self.delivery.fanout,
            tally: &mut self.delivery.tally,
            events,
            has_gap,
            merger,
            size: 0,
            small: SmallFrames::default(),
        };
        let over = match work {
            ReplayWork::Newest(_) => false,
            ReplayWork::Over => {
                out.finish(&Step::Over, budget);
                true
            }
            ReplayWork::Unknown(id) => {
                out.gap(&notice(Missed::Unknown, id.take(), None, now));
                self.send_held(slot, held);
                true
            }
            ReplayWork::Snapshot { filters, next, to, is_followed, .. } => {
                let Some(snapshot) = self.delivery.snapshot.as_deref() else { return true };
                let is_followed = *is_followed;
                out.report_short_snapshot(snapshot, is_followed, now);
                if let Some(numbers) = named_by(snapshot, filters, *to) {
                    // A lookup costs about as much as a short step.
                    budget.spend(numbers.len() as u32 / 4 + 1);
                    *work = ReplayWork::Keys { numbers, is_followed };
                    return false;
                }
                let mut is_over = true;
                for (number, event) in snapshot.range(*next, *to) {
                    if out.is_full() || budget.is_spent() || !out.selector.decides(event, budget) {
                        is_over = false;
                        break;
                    }
                    *next = number + 1;
                    out.event(event, None, budget);
                }
                if is_over {
                    // The snapshot may have dropped keys since.
                    out.report_short_snapshot(snapshot, is_followed, now);
                }
                out.flush();
                is_over
            }
            ReplayWork::Keys { numbers, is_followed } => {
                let Some(snapshot) = self.delivery.snapshot.as_deref() else { return true };
                while !out.is_full()
                    && !budget.is_spent()
                    && let Some(&number) = numbers.front()
                {
                    budget.spend(1);
                    if let Some(event) = snapshot.get(number) {
                        if !out.selector.decides(event, budget) {
                            break;
                        }
                        out.event(event, None, budget);
                    }
                    numbers.pop_front();
                }
                out.report_short_snapshot(snapshot, *is_followed, now);
                out.flush();
                numbers.is_empty()
            }
            ReplayWork::Forward(forward) => {
                let step = forward.step(&mut store, &mut out, budget);
                out.finish(&step, budget);
                let may_extend = may_extend && selector.is_alone();
                self.after_step(slot, step, ticket, held, may_extend, |this| {
                    forward.extend(|shard| this.end_of(shard));
                })
            }
            ReplayWork::Kept(past) => {
                let step = past.step(&mut store, &mut out, budget);
                out.finish(&step, budget);
                let may_extend = may_extend && selector.is_alone();
                self.after_step(slot, step, ticket, held, may_extend, |this| {
                    past.extend(&this.shared, this.ends(), |shard| this.end_of(shard), now);
                })
            }
        };
        budget.spend(spent);
        over
    }

    /// Reports the end of the past to the client. The next replay follows, or live events.
    fn end_replay(&mut self, slot: usize, replay: ClientReplay) {
        let complete = !replay.has_gap;
        if !complete {
            let kind = replay.kind;
            self.shared.metrics.pasts_incomplete.get_or_create(&Kind { kind }).inc();
        }
        let stamp = Stamp { random: self.turn.rng.next_u128(), now: self.turn.now, position: None };
        let conn = &mut self.clients.conns[slot];
        let report = replay.report.as_ref();
        let end = report.and_then(|report| report.end(replay.encoding, replay.events, complete, &stamp));
        if let Some(end) = end {
            conn.outbox.send_in_replay(end, None);
        }
        let mut queue = replay.queue;
        if let Some(mut next) = queue.pop_front() {
            next.ends.splice(0..0, replay.ends);
            next.queue = queue;
            conn.replay = Some(Box::new(next));
            // There is room for another message.
            if conn.is_unread() || conn.connection.holds_input() {
                self.queue_input(slot);
            }
            return;
        }
        conn.outbox.set_replaying(false);
        if !replay.ends.is_empty() {
            let token = self.clients.token(slot);
            let ends = replay.ends.clone();
            self.clients.ends.pending.push(PendingEnds { token, subscription: None, ends, is_late: true });
        }
        if let Some(report) = report {
            self.queue_past_ends(slot, report.name(), &replay.ends);
        }
    }

    /// Returns whether the past is over after this step. If the feed has dropped live events of the client, they are read by the
    /// replay too, if it may be extended.
    fn after_step(
        &mut self,
        slot: usize,
        step: Step,
        ticket: &mut Option<Ticket>,
        held: &mut HeldReplies,
        may_extend: bool,
        extend: impl FnOnce(&Self),
    ) -> bool {
        match step {
            Step::More => false,
            Step::Waits { shard, from } => {
                *ticket = self.ask_log(self.clients.token(slot), shard, from);
                false
            }
            Step::Over => {
                self.send_held(slot, held);
                let goes_on = may_extend && self.skip_live(slot);
                if goes_on {
                    extend(self);
                }
                !goes_on
            }
        }
    }

    /// Queues the replies that waited for the events of a replay.
    fn send_held(&mut self, slot: usize, held: &mut HeldReplies) {
        self.clients.conns[slot].outbox.send_held(std::mem::take(held));
    }

    /// Skips a connection's pending events if its feed has dropped some of them. Returns whether it did.
    fn skip_live(&mut self, slot: usize) -> bool {
        let outbox = &mut self.clients.conns[slot].outbox;
        // The next replay begins with the notice of a purge.
        let skips = outbox.has_lost_frames(&self.delivery.fanout)
            && !outbox.has_purge_notice(&self.delivery.fanout)
            && outbox.skip_to_end(&mut self.delivery.fanout);
        if skips {
            outbox.record_place(&self.delivery.fanout, &self.turn.resume_lookup(&self.shared, &self.places));
        }
        skips
    }

    /// Requests a page of the log. The client holds the ticket while it waits.
    pub(super) fn ask_log(&self, token: Token, shard: u16, from: LogPlace) -> Option<Ticket> {
        let history = self.shared.engine.as_ref()?.history()?;
        let ticket = Ticket::default();
        let mailbox = Arc::clone(&self.requests.mailbox);
        let on_page =
            move |outcome| mailbox.leave(token, MailboxItem::Past(Arrived { shard, from, outcome }));
        history.request(shard, from, &ticket, Box::new(on_page));
        Some(ticket)
    }

    /// Takes a page of the log that arrived for a connection.
    pub(super) fn handle_page(&mut self, slot: usize, arrived: Arrived) {
        let conn = &mut self.clients.conns[slot];
        let Some(replay) = &mut conn.replay else { return };
        if replay.ticket.take().is_some() && !conn.blocked {
            replay.arrived = Some(arrived);
        }
        self.queue(slot);
    }
}

/// Returns the numbers, up to `to`, of all events of a snapshot that one of the filters can match, oldest first; `None` if a
/// filter does not name its entities.
fn named_by(snapshot: &Snapshot, filters: &[Filter], to: u64) -> Option<VecDeque<u64>> {
    match filters {
        [one] => snapshot.named_by(one, to),
        all => {
            let mut numbers = Vec::new();
            for filter in all {
                numbers.extend(snapshot.named_by(filter, to)?);
            }
            numbers.sort_unstable();
            numbers.dedup();
            Some(numbers.into())
        }
    }
}

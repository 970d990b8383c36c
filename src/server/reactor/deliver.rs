//! Delivery: from the bus to the feeds, and from the feeds to the sockets.
//!
//! Invariants:
//! - A batch is appended whole before any of it is written, so a burst is one write for each member that is not blocked.
//! - A member that is blocked, or has used its budget, delays no other member.
//! - An event whose match takes more than its part of a turn is kept in hand, and the match continues in the next turn.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::delivery::{self, BATCHES_A_TURN, EventFlow, EventInHand, PUBLISHED_A_BATCH};
use super::gather::{EVENTS_A_BATCH, Unwritten};
use super::loop_state::LoopState;
use super::queues::Queued;
use super::socket::Socket;
use super::zero_copy::FanoutSocket;
use crate::bus::ReaderItem;
use crate::dialect::{GapNotice, Missed, Observed};
use crate::engine::{Engine, Status};
use crate::event::{Event, EventId, Since, Timestamp};
use crate::feed::{Fanout, FeedDelivery, Flushed, OutboxContext, Tally};
use crate::kept::LogEnd;
use crate::server::limits::budget;

/// Approximate number of instructions that a turn spends on conditions on payloads and on those that no index holds, as many
/// as on input of peers. Further events wait for the next turn.
const CONDITIONS_A_TURN: u64 = budget::TURN as u64 * 1_000;

/// Outcome of reading a batch of events from the bus.
#[derive(Default)]
struct AppendedBatch {
    /// Number of events and gaps.
    taken: usize,
    /// Bytes of the events' payloads.
    bytes: usize,
    /// Whether the turn's budget for payloads is spent.
    is_spent: bool,
    /// Whether the ring has overrun the loop.
    lost: bool,
    /// Whether a gap has emptied the snapshot.
    has_gap: bool,
    /// Creation of the oldest event.
    oldest: Option<Timestamp>,
    /// End of a log that the last event ends, if it is reported to clients.
    ended: Option<Arc<LogEnd>>,
}

/// Function that seals a place.
type SealFn<'a> = &'a dyn Fn(&Since) -> Option<Since>;

/// Appends a gap notice for events that were lost before they were matched. Members that want every event receive the
/// number; others receive a bound, unless that would reveal the volume of events beyond a client's grant.
fn append_gap(fanout: &mut Fanout, gap: &GapNotice, seal: Option<SealFn<'_>>) {
    let before = |since: &Since| if let Since::Event(id) = since { Some(*id) } else { None };
    let Some(id) = gap.to.or_else(|| gap.from.as_ref().and_then(before)) else { return };
    let mut to_some = GapNotice { missed: gap.missed.as_bound(), ..gap.clone() };
    if let Some(seal) = seal {
        to_some = to_some.within_a_grant(seal);
    }
    fanout.append_gap(id, gap, &to_some, seal.is_some());
}

/// Returns the place before an event. `epoch` is that of an event without an id.
fn place_before(event: &Event, epoch: u64) -> EventId {
    let id = event.id().unwrap_or(EventId::before(epoch, 0, 0));
    EventId::before(id.epoch, id.shard, id.sequence)
}

/// Returns the gap for sequences that the ring has overwritten. `id` returns the id of a sequence.
fn lap_gap(missed: u64, id: impl Fn(u64) -> EventId, lost: Range<u64>, now: Timestamp) -> GapNotice {
    GapNotice {
        missed: Missed::Exactly(missed),
        from: lost.start.checked_sub(1).map(&id).map(Since::Event),
        to: lost.end.checked_sub(1).map(&id),
        recoverable: false,
        at: now,
    }
}

/// Appends a gap notice for an unknown number of events before an id. No past shows them, so a client that falls behind gets
/// the notice, too, as it gets the notice of a purge.
fn append_break(fanout: &mut Fanout, before: EventId, at: Timestamp) {
    let gap = GapNotice { missed: Missed::Unknown, from: None, to: None, recoverable: false, at };
    let mut from = 0;
    while let Some(feed) = fanout.feed_from(from) {
        from = feed + 1;
        fanout.append_gap_to(feed, before, &gap, |filter| !filter.is_nothing());
    }
}

/// Returns whether a gap lies between two events of one epoch.
fn is_of_one_epoch(gap: &GapNotice) -> bool {
    matches!((&gap.from, gap.to), (Some(Since::Event(from)), Some(to)) if from.epoch == to.epoch)
}

impl<S: Socket> LoopState<S> {
    /// Returns the time for which events are still held back, so that more of them share a write. Returns `None` if no flush
    /// interval is set, or it has passed.
    pub(crate) fn held_for(&self, now: Timestamp) -> Option<Duration> {
        let interval = self.turn.config.flush_interval.as_micros() as i64;
        let passed = now.0 - self.delivery.pumped.0;
        // A clock that was set back ends it too.
        (0..interval).contains(&passed).then(|| Duration::from_micros((interval - passed) as u64))
    }

    /// Begins to count the work on conditions of this turn.
    pub(super) fn begin_conditions(&mut self) {
        self.delivery.worked_before = self.delivery.fanout.worked();
    }

    /// Panics if conditions took more of the last turn than their part and one last step.
    #[cfg(test)]
    pub(super) fn check_conditions(&self) {
        const STEP_MAX: u64 = 2_000_000;
        let worked = self.delivery.fanout.worked() - self.delivery.worked_before;
        assert!(worked <= CONDITIONS_A_TURN + STEP_MAX, "{worked} instructions of conditions in a turn");
    }

    /// Returns the approximate number of instructions so far for conditions on payloads and for those that no index holds.
    pub(crate) fn condition_work(&self) -> u64 {
        self.delivery.fanout.worked()
    }

    /// Returns whether more events of a publisher are to come: it has input, or the rest of its batch is not published yet.
    fn is_gathering(&self) -> bool {
        let has_input = |slot: usize| self.clients.conns[slot].queued.is_in(Queued::INPUT);
        let publisher = self.delivery.unwritten.publisher.and_then(|publisher| self.find(publisher));
        !self.requests.commits.is_empty() || publisher.is_some_and(has_input)
    }

    /// Returns whether appended events may wait to be written.
    fn may_wait(&self) -> bool {
        let EventFlow { fanout, unwritten, .. } = &self.delivery;
        self.turn.config.flush_interval.is_zero()
            && unwritten.may_wait(self.turn.now, fanout.receivers(), &fanout.limits())
    }

    /// Appends the bus's new events to the feeds, unless a flush interval holds them back. Writes them, unless they wait for
    /// the rest of a burst.
    pub(super) fn pump_unless_held(&mut self, batches: usize) {
        let is_due = self.held_for(self.turn.now).is_none() || self.delivery.unwritten.is_waiting();
        if is_due || self.delivery.in_hand.is_some() {
            let gathers = self.is_gathering();
            self.append_and_write(batches, gathers);
        }
    }

    /// Appends the bus's new events to the feeds and writes them, in at most `batches` batches.
    pub(super) fn pump(&mut self, batches: usize) {
        self.append_and_write(batches, false);
    }

    /// Appends what the loop's clients have published. It is written at the end of the turn, if it may wait so long.
    pub(super) fn append_published(&mut self) {
        self.append_and_write(BATCHES_A_TURN, true);
    }

    /// Appends the bus's new events to the feeds, in at most `batches` batches. With `gathers` they are not written yet, if
    /// they may wait.
    fn append_and_write(&mut self, batches: usize, gathers: bool) {
        if std::mem::take(&mut self.delivery.unpumped) >= PUBLISHED_A_BATCH {
            // Published events have a part of their own, so that they do not lap the ring.
            self.delivery.worked_before = self.delivery.fanout.worked();
        }
        let worked = self.delivery.worked_before;
        let left = CONDITIONS_A_TURN.saturating_sub(self.delivery.fanout.worked() - worked);
        if left == 0 {
            self.delivery.more_events = true;
            return;
        }
        if let Some(in_hand) = self.delivery.in_hand.take() {
            return self.continue_match(in_hand, left);
        }
        let mut any = false;
        let breaks = self.shared.engine.as_ref().map(|engine| engine.status().breaks());
        for _ in 0..batches {
            let has_follower = self.shared.engine.is_some() && !self.clients.ends.is_empty();
            let before = has_follower.then(|| self.next_place(0));
            let batch = self.append_batch(worked);
            self.record_places();
            if batch.lost || batch.has_gap {
                self.snapshot_is_made();
            }
            self.report_deliveries();
            any |= batch.taken > 0;
            self.delivery.more_events =
                batch.taken == EVENTS_A_BATCH || batch.is_spent || batch.ended.is_some();
            if let Some(breaks) = breaks.filter(|_| !self.delivery.more_events) {
                self.report_break(breaks);
            }
            // After reading and before writing: no event reaches a client whose right to it ended before it was
            // published.
            self.end_grants();
            if let Some(end) = &batch.ended {
                self.handle_end(end);
            }
            if let Some(before) = before.filter(|_| batch.lost) {
                let in_hand = self.delivery.in_hand.as_ref().and_then(|in_hand| in_hand.ended.as_ref());
                let reported = batch.ended.as_ref().or(in_hand).map(|end| end.id);
                self.report_lost_ends(before, reported);
            }
            self.delivery.unwritten.add(batch.taken, batch.bytes, batch.oldest);
            if gathers && self.may_wait() {
                self.delivery.unwritten.wait(self.turn.now);
                if batch.taken < EVENTS_A_BATCH || batch.is_spent {
                    break;
                }
                continue;
            }
            let oldest = self.delivery.unwritten.oldest();
            let written = self.flush_dirty();
            if let Some(oldest) = oldest.filter(|_| written > 0) {
                let passed = (Timestamp::now().0 - oldest.0).max(0) as u64;
                self.shared.metrics.delivery.observe(passed, written);
            }
            if !self.delivery.more_events || batch.is_spent {
                break;
            }
        }
        if any {
            self.delivery.pumped = self.turn.now;
        }
    }

    /// Continues the match of an event. Clients are read before the next event, which may take as long.
    fn continue_match(&mut self, in_hand: EventInHand, allowance: u64) {
        self.delivery.more_events = true;
        if !self.delivery.fanout.append_within(&in_hand.event, self.turn.now, allowance) {
            self.delivery.in_hand = Some(in_hand);
            return;
        }
        self.record_places();
        self.report_deliveries();
        self.end_grants();
        if let Some(end) = &in_hand.ended {
            self.handle_end(end);
        }
        self.flush_dirty();
        self.delivery.pumped = self.turn.now;
    }

    /// Appends the next events of the bus to the feeds. `worked` is the work on conditions at the turn's begin.
    fn append_batch(&mut self, worked: u64) -> AppendedBatch {
        let EventFlow { fanout, reader, in_hand, snapshot, kind_log, continuity, .. } = &mut self.delivery;
        let (metrics, kept) = (&self.shared.metrics, &self.shared.kept);
        let (epoch, now) = (self.shared.bus.epoch(), self.turn.now);
        let (auth, rng) = (&self.shared.auth, std::cell::RefCell::new(&mut self.turn.rng));
        let seal = |since: &Since| auth.seal(since, rng.borrow_mut().next_u128() as u64);
        let seal: Option<SealFn<'_>> = if auth.is_open() { None } else { Some(&seal) };
        // With several shards, the id before the hole says nothing about the other shards.
        let can_recover = self.shared.engine_with_past().is_some() && self.shared.bus.shards() == 1;
        let mut batch = AppendedBatch::default();
        let ends = &self.clients.ends;
        let status = self.shared.engine.as_ref().map(Engine::status);
        let first_due = |first| status.and_then(|status| status.first_due(first));
        let began_with_break = || status.is_some_and(Status::began_with_break);
        // One by one if matching a single event may be expensive, or an end is reported to clients after its event.
        let step = if fanout.may_work_long() || !ends.is_empty() { 1 } else { EVENTS_A_BATCH };
        loop {
            let before =
                if step == 1 { delivery::taken(&self.shared.bus, reader, continuity.as_ref()) } else { None };
            let mut unfinished = None;
            let came = reader.poll_batch(step, |item| match item {
                ReaderItem::Event(event) => {
                    batch.oldest.get_or_insert_with(|| event.made());
                    batch.bytes += event.payload().len();
                    let mut has_gap = continuity.as_mut().is_some_and(|c| c.begins(began_with_break));
                    if has_gap {
                        append_break(fanout, place_before(event, epoch), now);
                    }
                    let gap = continuity.as_mut().and_then(|c| c.gap_before(event, now, first_due));
                    // Events that no node delivers are not missing.
                    let is_missing = |gap: &GapNotice| !kept.are_undelivered(gap);
                    if let Some(mut gap) = gap.filter(is_missing) {
                        // After a lap of the ring, the log still has the overwritten events.
                        gap.recoverable = batch.lost && can_recover && is_of_one_epoch(&gap);
                        append_gap(fanout, &gap, seal);
                        has_gap = true;
                    }
                    batch.has_gap |= has_gap;
                    if let Some(snapshot) = snapshot {
                        if has_gap {
                            snapshot.forget();
                        }
                        snapshot.put(event);
                    }
                    kind_log.record(event);
                    if let Some(mut kept) = kept.lock() {
                        let ended = kept.record(event, now);
                        batch.ended = ended.filter(|end| !ends.clients(&end.name).is_empty());
                    }
                    let left = CONDITIONS_A_TURN.saturating_sub(fanout.worked() - worked);
                    if !fanout.append_within(event, now, left) {
                        unfinished = Some(event.clone());
                    }
                }
                ReaderItem::Gap { shard, missed, from, to } => {
                    metrics.loop_gaps.inc_by(missed);
                    if let Some(mut kept) = kept.lock() {
                        kept.record_gap(EventId::before(epoch, shard, to));
                    }
                    if let Some(snapshot) = snapshot {
                        snapshot.forget();
                    }
                    batch.lost = true;
                    if let Some(continuity) = continuity {
                        // The next event's id shows the gap.
                        continuity.lose(shard, status.map(|it| it.began_at_place(shard)).unwrap_or_default());
                        return;
                    }
                    let id = |sequence| EventId { epoch, shard, sequence };
                    append_gap(fanout, &lap_gap(missed, id, from..to, now), seal);
                }
            });
            batch.taken += came;
            batch.is_spent = unfinished.is_some() || fanout.worked() - worked >= CONDITIONS_A_TURN;
            *in_hand = unfinished.map(|event| EventInHand { event, before, ended: batch.ended.take() });
            if came < step || batch.taken >= EVENTS_A_BATCH || batch.is_spent || batch.ended.is_some() {
                return batch;
            }
        }
    }

    /// Reports the newest break of the engine's log to the loop's clients, if they have not received an event after it. `breaks` is
    /// the number of breaks before the loop read the last event of the bus.
    fn report_break(&mut self, breaks: u64) {
        let EventFlow { fanout, continuity, snapshot, .. } = &mut self.delivery;
        let Some(continuity) = continuity.as_mut().filter(|continuity| continuity.breaks() < breaks) else {
            return;
        };
        let newest = self.shared.engine.as_ref().and_then(|engine| engine.status().newest_break());
        // Events before a later break may be in the rings.
        let Some(newest) = newest.filter(|newest| newest.count == breaks) else { return };
        if !continuity.pass_break(&newest) {
            return;
        }
        let first = newest.places.next.first().copied().unwrap_or(0);
        append_break(fanout, EventId::before(newest.places.epoch, 0, first), self.turn.now);
        if let Some(snapshot) = snapshot {
            snapshot.forget();
            self.snapshot_is_made();
        }
    }

    /// Reports the deliveries that the feeds recorded to the dialects that observe them.
    fn report_deliveries(&mut self) {
        for FeedDelivery { feed, event, members } in self.delivery.fanout.take_deliveries() {
            let feed = self.delivery.fanout.feed(feed);
            let mut clients =
                feed.members().iter().map(|&slot| self.clients.conns[slot as usize].connection.client());
            let delivered = Observed::Delivered { event: &event, members, clients: &mut clients };
            let watch = self.turn.config.watch(&self.shared.clients.observers, 0, self.turn.now);
            feed.form.encoding.protocol().observe(&watch, delivered);
        }
    }

    /// Writes the feeds' new frames to their members. Returns the number of events written.
    pub(super) fn flush_dirty(&mut self) -> u64 {
        self.delivery.unwritten = Unwritten::default();
        let before = self.delivery.tally.events;
        let mut dirty = std::mem::take(&mut self.delivery.dirty);
        self.delivery.fanout.take_dirty(&mut dirty);
        for feed in dirty.drain(..) {
            let mut all_done = true;
            let mut broken = false;
            let members = self.delivery.fanout.feed(feed).members().len();
            if members > 1 {
                // A lone member may be written through.
                self.delivery.fanout.seal(feed);
            }
            self.delivery.pages.open(members, self.turn.config.share_pages_bytes);
            for place in 0..members {
                let slot = self.delivery.fanout.feed(feed).members()[place] as usize;
                let conn = &mut self.clients.conns[slot];
                let ring = self.turn.resume_lookup(&self.shared, &self.places);
                if conn.blocked {
                    all_done = false;
                    self.delivery.fanout.seal(feed);
                    conn.outbox.enforce_drop_newest(
                        &self.delivery.fanout,
                        &mut OutboxContext::new(&mut self.delivery.tally, &ring),
                    );
                    self.record_loss(slot);
                    continue;
                }
                let budget = self.turn.config.write_budget_bytes;
                let mut out = FanoutSocket { socket: &mut conn.socket, pages: &mut self.delivery.pages };
                let cx = &mut OutboxContext::new(&mut self.delivery.tally, &ring);
                let flushed = if members > 1 {
                    conn.outbox.flush(&self.delivery.fanout, &mut out, budget, cx)
                } else {
                    conn.outbox.flush_appended(&mut self.delivery.fanout, &mut out, budget, cx)
                };
                match flushed {
                    // Frames of the feed are written after the replay.
                    Flushed::Done => all_done &= conn.replay.is_none(),
                    Flushed::Blocked => {
                        self.block(slot);
                        all_done = false;
                    }
                    Flushed::Lagged | Flushed::Behind => {
                        self.record_loss(slot);
                        all_done = false;
                    }
                    Flushed::Budget => {
                        conn.outbox.enforce_drop_newest(
                            &self.delivery.fanout,
                            &mut OutboxContext::new(&mut self.delivery.tally, &ring),
                        );
                        self.queue(slot);
                        all_done = false;
                    }
                    Flushed::Failed => {
                        // Removing it now would move another member to this place. `serve_ready` finds it broken.
                        broken = true;
                        self.queue(slot);
                    }
                }
            }
            if all_done && !broken {
                self.delivery.fanout.forget_written(feed);
            }
        }
        self.delivery.dirty = dirty;
        self.shared.metrics.writes_shared.inc_by(self.delivery.pages.close());
        for token in std::mem::take(&mut self.clients.lagged) {
            if let Some(slot) = self.find(token) {
                self.close_lagged(slot);
            }
        }
        self.begin_catch_ups();
        let written = self.delivery.tally.events.saturating_sub(before);
        self.count();
        written
    }

    /// Records a connection that has lost frames, if its policy is to be closed or to catch up.
    fn record_loss(&mut self, slot: usize) {
        let conn = &self.clients.conns[slot];
        let token = conn.token(slot);
        if conn.outbox.should_disconnect(&self.delivery.fanout) {
            self.clients.lagged.push(token);
        } else if conn.outbox.is_behind(&self.delivery.fanout) {
            self.clients.behind.push(token);
        }
    }

    pub(super) fn count(&mut self) {
        let metrics = &self.shared.metrics;
        let forgotten = self.delivery.snapshot.as_mut().map_or(0, |snapshot| snapshot.take_forgotten());
        if forgotten > 0 && metrics.snapshot_forgotten.inc_by(forgotten) == 0 {
            let max_snapshot_keys = self.turn.config.max_snapshot_keys;
            tracing::warn!(max_snapshot_keys, "snapshots dropped the keys that changed longest ago");
        }
        let Tally { bytes, events, writes, blocked, dropped, conflated, gaps, merged } =
            std::mem::take(&mut self.delivery.tally);
        self.accounts.books.written += events;
        self.accounts.books.dropped += dropped;
        self.accounts.books.conflated += conflated;
        self.accounts.books.merged += merged;
        if writes == 0 && dropped == 0 && events == 0 && conflated == 0 && merged == 0 {
            return;
        }
        self.accounts.report_due = true;
        metrics.written_bytes.inc_by(bytes);
        metrics.deliveries.inc_by(events);
        metrics.writes.inc_by(writes);
        metrics.write_blocked.inc_by(blocked);
        metrics.dropped.inc_by(dropped);
        metrics.conflated.inc_by(conflated.max(0) as u64);
        metrics.gaps.inc_by(gaps);
        metrics.merged.inc_by(merged);
    }
}

//! Reads the past for one reader, oldest event first: from a place in each shard to the loop's place at the start.
//!
//! A shard is read from the engine's log while the ring has dropped its events, and from the ring after that.
//!
//! Invariants:
//! - An event is passed on once, each shard in its order; events missing between two others are reported as a gap in
//!   their place.
//! - No event is kept between two steps, so a paused reader holds a few dozen bytes for each shard.
//! - A step ends when its budget is spent or the sink is full, and continues where it stopped.
//! - From rings alone, shards are merged in the order in which loops read them. If a shard's events come from the
//!   log, that order is not known beyond each shard's own, and the events' timestamps decide.

use std::collections::VecDeque;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::dialect::{Encoding, GapNotice, Missed, PastStart};
use crate::engine::{EngineError, Handed, History, LogPage, LogPlace, log_place_of};
use crate::event::{Event, EventId, Position, Sequence, Since, Timestamp};
use crate::kept::PartEvent;
use crate::server::limits::budget::Budget;
use crate::server::shared::Shared;
use crate::server::shared::blocks::BlockForm;
use crate::server::shared::resume::{RetainedAfter, event_id, retained_after};

/// Number of events taken from a ring or a page together, of all shards.
const CHUNK: usize = 64;

/// Receiver of a reader's events and gaps.
pub(crate) trait EventSink {
    /// Returns whether the sink accepts no more for now.
    fn is_full(&self) -> bool;

    /// Decides whether the reader wants an event. Returns false if the decision continues in the next step.
    fn decides(&mut self, _event: &Event, _budget: &mut Budget) -> bool {
        true
    }

    /// Takes an event. `at`: the reader's position after it, if there are several shards.
    fn event(&mut self, event: &Event, at: Option<&Position>, budget: &mut Budget);

    /// Takes a gap, which counts all events that the reader would have passed, wanted or not.
    fn gap(&mut self, gap: &GapNotice);

    /// Returns the receiver of encoded blocks; `None` if the sink takes single events only.
    fn blocks(&mut self) -> Option<&mut dyn BlockSink> {
        None
    }

    /// Returns the receiver of packed events; `None` if the sink takes built events only.
    fn packed(&mut self) -> Option<&mut dyn PackedSink> {
        None
    }
}

/// Receiver of events that the reader wants without a decision for each.
pub(crate) trait BlockSink {
    /// Returns the form of the frames.
    fn form(&self) -> BlockForm;

    /// Returns the encoding of the frames, before their compression.
    fn encoding(&self) -> Encoding;

    /// Appends an event's frame.
    fn put_frame(&mut self, event: &Event, frames: &mut Vec<u8>);

    /// Counts frames of these lengths that were encoded elsewhere.
    fn count_frames(&self, lens: &mut dyn Iterator<Item = usize>);

    /// Takes the frames of this many events. `last` is the last of them.
    fn block(&mut self, frames: Bytes, events: u32, last: EventId, budget: &mut Budget);
}

/// Receiver of packed events of kept logs, which decides on them by their attributes.
pub(crate) trait PackedSink {
    /// Takes events until it is full or the budget is spent. Returns the number of events taken, and the last of them.
    fn take_packed<'a>(
        &mut self,
        events: &mut dyn Iterator<Item = PartEvent<'a>>,
        budget: &mut Budget,
    ) -> Option<(u64, PartEvent<'a>)>;
}

/// Result of a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Everything is read.
    Over,
    /// There is more: the sink was full or the budget spent.
    More,
    /// Continues after this page of the log has been read.
    Waits { shard: u16, from: LogPlace },
}

/// Page of the log for a reader, or the failure to read it.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) shard: u16,
    pub(crate) from: LogPlace,
    pub(crate) outcome: Result<Handed, EngineError>,
}

/// Access to the past: the rings, and pages of the log.
pub(crate) struct Store<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) arrived: &'a mut Option<Arrived>,
    pub(crate) now: Timestamp,
}

/// Result of looking for a page.
pub(super) enum Found {
    Page(std::sync::Arc<LogPage>, Option<Handed>),
    NotRead,
    Failed,
}

impl Store<'_> {
    fn history(&self) -> Option<&History> {
        self.shared.engine.as_ref()?.history()
    }

    /// Returns whether there is a log that may have events that a ring has dropped.
    pub(crate) fn has_log(&self) -> bool {
        self.history().is_some()
    }

    /// Returns whether no node delivers the entries between two events of an engine's log.
    fn are_undelivered(&self, after: EventId, before: EventId) -> bool {
        self.shared.kept.lock().is_some_and(|logs| logs.are_undelivered(after, before))
    }

    /// Looks for the page of a place among those that arrived or are cached.
    pub(super) fn page(&mut self, shard: u16, from: LogPlace) -> Found {
        match self.arrived.take_if(|arrived| (arrived.shard, arrived.from) == (shard, from)) {
            Some(Arrived { outcome: Ok(handed), .. }) => {
                return Found::Page(std::sync::Arc::clone(&handed.page), Some(handed));
            }
            Some(_) => return Found::Failed,
            None => {}
        }
        match self.history() {
            Some(history) => history.find(shard, from).map_or(Found::NotRead, |page| Found::Page(page, None)),
            None => Found::Failed,
        }
    }
}

/// Place of a reader in one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadPlace {
    /// In the log. `is_known` is false until the log has confirmed the place that the client named.
    Log {
        is_known: bool,
    },
    /// In the ring, before this place.
    Ring(Sequence),
    Over,
}

/// Reader of one shard.
#[derive(Debug)]
pub(super) struct ShardLane {
    pub(super) shard: u16,
    pub(super) place: ReadPlace,
    /// Place in the ring at which the reader ends.
    pub(super) to: Sequence,
    /// With an engine: the last event before that place.
    pub(super) until: LogPlace,
    /// Last event read, or the place that the client named.
    pub(super) after: EventId,
    /// Number of events missing after it.
    pub(super) missed: u64,
    /// Whether all missing events were requested; otherwise the number is an upper bound.
    pub(super) counts: bool,
    /// Last of the events that may be missing before the first one; reported as a gap before it.
    pub(super) forgotten: Option<EventId>,
}

/// Reader of all shards.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(super) lanes: SmallVec<[ShardLane; 1]>,
    /// Position of the reader, if there are several shards.
    pub(super) at: Option<Position>,
    /// Place that the client named, if it does not cover all shards; reported first.
    pub(super) partial_since: Option<Since>,
    /// Whether events that no loop has read, which have no place in the order, come as early as their shard allows.
    pub(super) unread_first: bool,
}

/// Result of reading a shard's next events.
enum Filled {
    /// The events are there, or the shard is read.
    Done,
    /// The reader moved, so the read has to be repeated.
    Again,
    Waits(LogPlace),
}

/// Next events of a shard.
type Head = VecDeque<Event>;

pub(super) fn notice(missed: Missed, from: Option<Since>, to: Option<EventId>, at: Timestamp) -> GapNotice {
    GapNotice { missed, from, to, recoverable: false, at }
}

fn next_place(id: EventId) -> LogPlace {
    (id.epoch, id.next_sequence())
}

impl Forward {
    /// Returns the places after which it begins.
    pub(crate) fn places(&self) -> impl Iterator<Item = EventId> {
        self.lanes.iter().map(|lane| lane.after)
    }

    /// Returns the place up to which it has read everything.
    pub(super) fn place(&self) -> Option<Since> {
        if self.partial_since.is_some() {
            return self.partial_since.clone();
        }
        match (self.lanes.as_slice(), &self.at) {
            ([one], _) => Some(Since::Event(one.after)),
            (_, at) => at.clone().map(Since::Position),
        }
    }

    /// Continues reading.
    pub(crate) fn step(
        &mut self,
        store: &mut Store<'_>,
        sink: &mut dyn EventSink,
        budget: &mut Budget,
    ) -> Step {
        self.begin(store.now, sink);
        let share = (CHUNK / self.lanes.len().max(1)).max(1);
        let mut heads: SmallVec<[Head; 1]> = self.lanes.iter().map(|_| Head::new()).collect();
        loop {
            for (lane, head) in self.lanes.iter_mut().zip(&mut heads) {
                while head.is_empty() && lane.place != ReadPlace::Over {
                    if sink.is_full() || budget.is_spent() {
                        return Step::More;
                    }
                    budget.spend(3);
                    match lane.fill(store, self.at.as_ref(), share, head, sink) {
                        Filled::Done => break,
                        Filled::Again => {}
                        Filled::Waits(from) => return Step::Waits { shard: lane.shard, from },
                    }
                }
            }
            let Some(at) = self.first(&heads) else { return Step::Over };
            if sink.is_full() || budget.is_spent() {
                return Step::More;
            }
            if heads[at].front().is_some_and(|event| !sink.decides(event, budget)) {
                return Step::More;
            }
            if let (Some(lane), Some(event)) = (self.lanes.get_mut(at), heads[at].pop_front()) {
                lane.pass(&event, &mut self.at, store, sink);
                sink.event(&event, self.at.as_ref(), budget);
            }
        }
    }

    /// Reports events that may be missing before the first one.
    fn begin(&mut self, now: Timestamp, sink: &mut dyn EventSink) {
        if let Some(since) = self.partial_since.take() {
            sink.gap(&notice(Missed::Unknown, Some(since), None, now));
        }
        for lane in &mut self.lanes {
            if let Some(last) = lane.forgotten.take() {
                // Epoch 0, or a place before the first event of an epoch, is no event.
                let last = Some(last).filter(|last| last.epoch > 0 && last.sequence < Sequence::MAX);
                sink.gap(&notice(Missed::Unknown, None, last, now));
            }
        }
    }

    /// Returns the start of its past, and whether the past is complete, as far as that is known.
    pub(super) fn start(&self) -> PastStart {
        let is_short = |lane: &ShardLane| lane.missed > 0 || lane.forgotten.is_some();
        let is_in_doubt = |lane: &ShardLane| lane.place == ReadPlace::Log { is_known: false };
        let complete = if self.partial_since.is_some() || self.lanes.iter().any(is_short) {
            Some(false)
        } else {
            (!self.lanes.iter().any(is_in_doubt)).then_some(true)
        };
        let from = match self.lanes.as_slice() {
            [one] => Some(one.after).filter(|after| after.epoch > 0).map(Since::Event),
            lanes => position_before(lanes).map(Since::Position),
        };
        PastStart { from, complete }
    }

    /// Returns the places after which the ring has dropped events, with their numbers. `None` if it has dropped none,
    /// or other events may be missing too.
    pub(super) fn lost(&self) -> Option<impl Iterator<Item = (EventId, u64)>> {
        let is_more =
            |lane: &ShardLane| lane.forgotten.is_some() || lane.place == ReadPlace::Log { is_known: false };
        let is_more = self.partial_since.is_some() || self.lanes.iter().any(is_more);
        let lost = self.lanes.iter().filter(|lane| lane.missed > 0);
        (!is_more && lost.clone().next().is_some()).then(|| lost.map(|lane| (lane.after, lane.missed)))
    }

    /// Returns the shard of the next event.
    fn first(&self, heads: &[Head]) -> Option<usize> {
        let by_time = self.lanes.iter().zip(heads).any(|(lane, head)| lane.is_in_log() && !head.is_empty());
        let order = |event: &Event| match event.position() {
            None if self.unread_first => (0, 0),
            _ => order_of(event, by_time),
        };
        let events = heads.iter().enumerate().filter_map(|(at, head)| Some((order(head.front()?), at)));
        events.min().map(|(_, at)| at)
    }

    /// Moves the end forward: the reader has not reached it, and reads the events since then this way.
    pub(crate) fn extend(&mut self, end: impl Fn(u16) -> (Sequence, LogPlace)) {
        for lane in &mut self.lanes {
            let before = lane.to;
            (lane.to, lane.until) = end(lane.shard);
            if lane.place == ReadPlace::Over && lane.to > before {
                lane.place = ReadPlace::Ring(before);
            }
        }
    }

    /// Returns the number of shards that it reads.
    pub(crate) fn shards(&self) -> usize {
        self.lanes.len()
    }

    /// Returns the memory of the lanes, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.shards() * size_of::<ShardLane>()
    }
}

/// Returns whether no event of a shard is older than the ring's oldest, which has the sequence `first`; `None`: the
/// ring is empty.
pub(super) fn is_complete_from(shared: &Shared, shard: u16, first: Option<Sequence>) -> bool {
    let began = match (first, &shared.engine) {
        (Some(first), _) => Some(first),
        // Entries that the log had before this node followed it are not delivered live.
        (None, Some(engine)) => engine.status().began_at(shard),
        (None, None) => Some(0),
    };
    began == Some(0) && shared.bus.oldest(shard) == 0
}

/// Returns the position before the first event of each shard, all in the oldest epoch among them; `None` if there
/// never was an event.
pub(super) fn position_before(lanes: &[ShardLane]) -> Option<Position> {
    let epoch = lanes.iter().map(|lane| lane.after.epoch).filter(|epoch| *epoch > 0).min()?;
    let next = |lane: &ShardLane| if lane.after.epoch == epoch { lane.after.next_sequence() } else { 0 };
    Some(Position::new(epoch, lanes.iter().map(next)))
}

/// Returns the key by which events of several shards are merged.
pub(super) fn order_of(event: &Event, by_time: bool) -> (u64, u128) {
    match event.position().filter(|_| !by_time) {
        Some(position) => position.passed(),
        None => {
            let time = event.timestamp().0.cast_unsigned() ^ (1 << 63);
            (event.id().map_or(0, |id| id.epoch), u128::from(time))
        }
    }
}

impl ShardLane {
    pub(super) fn is_in_log(&self) -> bool {
        matches!(self.place, ReadPlace::Log { .. })
    }

    /// Records its next event, and reports events missing before it.
    fn pass(
        &mut self,
        event: &Event,
        at: &mut Option<Position>,
        store: &Store<'_>,
        sink: &mut dyn EventSink,
    ) {
        let id = event.id().unwrap_or(self.after);
        let is_in_log = self.is_in_log();
        self.report_gap_before(id, is_in_log, store, sink);
        self.after = id;
        if let Some(at) = at {
            at.advance_past(id);
        }
        if let ReadPlace::Ring(next) = &mut self.place {
            *next += 1;
        }
    }

    /// Reports events missing before an event: those that the log has dropped, or of another epoch. If the log was
    /// read, their number is known.
    fn report_gap_before(
        &mut self,
        id: EventId,
        is_known: bool,
        store: &Store<'_>,
        sink: &mut dyn EventSink,
    ) {
        // Epoch 0 stands for nothing before it.
        if self.after.epoch == 0 || (id.epoch, id.sequence) == next_place(self.after) {
            return;
        }
        if store.are_undelivered(self.after, id) {
            return;
        }
        let from = Some(Since::Event(self.after));
        let last = EventId::before(id.epoch, id.shard, id.sequence);
        let missed = self.missed_up_to(last);
        let is_counted = is_known && missed != Missed::Unknown;
        sink.gap(&notice(missed, from, Some(if is_counted { last } else { id }), store.now));
    }

    /// Returns the number of events missing after the reader's place up to this one.
    fn missed_up_to(&self, last: EventId) -> Missed {
        let missed = last.next_sequence().checked_sub(self.after.next_sequence());
        missed
            .filter(|_| last.epoch == self.after.epoch)
            .map_or(Missed::Unknown, |missed| self.counted(missed))
    }

    /// Returns this number of missing events, as exact or as an upper bound.
    fn counted(&self, missed: u64) -> Missed {
        if self.counts { Missed::Exactly(missed) } else { Missed::AtMost(missed) }
    }

    /// Reads the shard's next events.
    fn fill(
        &mut self,
        store: &mut Store<'_>,
        at: Option<&Position>,
        share: usize,
        head: &mut Head,
        sink: &mut dyn EventSink,
    ) -> Filled {
        match self.place {
            ReadPlace::Over => Filled::Done,
            ReadPlace::Ring(next) => self.fill_from_ring(next, store, share, head, sink),
            ReadPlace::Log { is_known } => self.fill_from_log(is_known, store, at, share, head, sink),
        }
    }

    fn fill_from_ring(
        &mut self,
        next: Sequence,
        store: &Store<'_>,
        share: usize,
        head: &mut Head,
        sink: &mut dyn EventSink,
    ) -> Filled {
        let bus = &store.shared.bus;
        if next >= self.to && self.missed == 0 {
            self.place = ReadPlace::Over;
            return Filled::Done;
        }
        let from = next.max(bus.oldest(self.shard)).min(self.to);
        let to = from.saturating_add(share as u64).min(self.to);
        let from = bus.read_range(self.shard, from, to, |event| head.push_back(event.clone()));
        if from > next && store.has_log() {
            // The ring has dropped the next events.
            head.clear();
            self.place = ReadPlace::Log { is_known: true };
            return Filled::Again;
        }
        let missed = std::mem::take(&mut self.missed) + (from - next);
        if missed > 0 {
            let last = EventId { sequence: self.after.sequence.wrapping_add(missed), ..self.after };
            sink.gap(&notice(self.counted(missed), Some(Since::Event(self.after)), Some(last), store.now));
            self.after = last;
        }
        self.place = ReadPlace::Ring(from);
        if head.is_empty() { Filled::Again } else { Filled::Done }
    }

    fn fill_from_log(
        &mut self,
        is_known: bool,
        store: &mut Store<'_>,
        at: Option<&Position>,
        share: usize,
        head: &mut Head,
        sink: &mut dyn EventSink,
    ) -> Filled {
        if is_known {
            if next_place(self.after) > self.until {
                self.place = ReadPlace::Over;
                return Filled::Done;
            }
            if self.has_ring(store)
                && let RetainedAfter::All(next) = retained_after(store.shared, self.after, self.to)
            {
                self.place = ReadPlace::Ring(next);
                return Filled::Again;
            }
        }
        let from = match self.after.sequence {
            // Place before the first event of a shard.
            Sequence::MAX => (self.after.epoch, 0),
            // The page includes the event that the client named, which confirms that the log has it.
            sequence if !is_known => (self.after.epoch, sequence),
            _ => next_place(self.after),
        };
        // Held until the page's events are taken.
        let (page, _handed) = match store.page(self.shard, from) {
            Found::Page(page, handed) => (page, handed),
            Found::NotRead => return Filled::Waits(from),
            Found::Failed => {
                self.give_up(store, at, sink);
                return Filled::Again;
            }
        };
        let events = page.from(from);
        if !is_known {
            match events.first().and_then(Event::id) {
                // All retained entries of the log come after the client's place.
                Some(first) if first.epoch == self.after.epoch => {
                    self.place = ReadPlace::Log { is_known: true }
                }
                _ => self.handle_unknown_place(store, at, sink),
            }
            return Filled::Again;
        }
        let ring = self.ring(store);
        let end = ring.map_or((u64::MAX, u64::MAX), |(_, id)| (id.epoch, id.sequence));
        let before_ring = events.partition_point(|event| {
            let place = log_place_of(event);
            place < end && place <= self.until
        });
        head.extend(events[..before_ring.min(share)].iter().cloned());
        if !head.is_empty() {
            return Filled::Done;
        }
        if events.is_empty() && page.next > from {
            // The entry is not an event: it is a gap here, as it was live.
            let (epoch, sequence) = page.next;
            let last = EventId::before(epoch, self.shard, sequence);
            if !store.are_undelivered(self.after, EventId { epoch, shard: self.shard, sequence }) {
                let missed = self.missed_up_to(last);
                sink.gap(&notice(missed, Some(Since::Event(self.after)), Some(last), store.now));
            }
            self.after = last;
        } else {
            self.continue_in_ring(ring, store, sink);
        }
        Filled::Again
    }

    /// Returns whether the ring has events before the reader's end.
    fn has_ring(&self, store: &Store<'_>) -> bool {
        store.shared.bus.oldest(self.shard) < self.to
    }

    /// Returns the oldest event of the ring before the reader's end: its place and its id.
    fn ring(&self, store: &Store<'_>) -> Option<(Sequence, EventId)> {
        let bus = &store.shared.bus;
        event_id(bus, self.shard, bus.oldest(self.shard), self.to)
    }

    /// Continues in the ring, whatever is missing before it; ends if the ring has no events for this reader.
    fn continue_in_ring(
        &mut self,
        ring: Option<(Sequence, EventId)>,
        store: &Store<'_>,
        sink: &mut dyn EventSink,
    ) {
        match ring {
            Some((place, id)) => {
                self.report_gap_before(id, true, store, sink);
                self.after = EventId::before(id.epoch, id.shard, id.sequence);
                self.place = ReadPlace::Ring(place);
            }
            None => {
                self.place = ReadPlace::Over;
                if next_place(self.after) <= self.until {
                    let last = self.last();
                    let missed = self.missed_up_to(last);
                    sink.gap(&notice(missed, Some(Since::Event(self.after)), Some(last), store.now));
                    self.after = last;
                }
            }
        }
    }

    /// Handles a place that the log does not have: continues in the ring if the ring has it, otherwise reports a gap of
    /// unknown size.
    fn handle_unknown_place(&mut self, store: &Store<'_>, at: Option<&Position>, sink: &mut dyn EventSink) {
        if self.has_ring(store) {
            match retained_after(store.shared, self.after, self.to) {
                RetainedAfter::All(next) => {
                    self.place = ReadPlace::Ring(next);
                    return;
                }
                RetainedAfter::Some(missed, next) => {
                    // The log keeps less than the ring: events in between are reported.
                    let last = EventId { sequence: self.after.sequence.wrapping_add(missed), ..self.after };
                    let counted = self.counted(missed);
                    sink.gap(&notice(counted, Some(Since::Event(self.after)), Some(last), store.now));
                    self.after = last;
                    self.place = ReadPlace::Ring(next);
                    return;
                }
                RetainedAfter::NotYet | RetainedAfter::Unknown => {}
            }
        }
        let named = at.map_or(Since::Event(self.after), |at| Since::Position(at.clone()));
        sink.gap(&notice(Missed::Unknown, Some(named), None, store.now));
        self.after = self.last();
        self.place = ReadPlace::Over;
    }

    /// Returns the last event before the reader's end.
    fn last(&self) -> EventId {
        EventId { epoch: self.until.0, shard: self.shard, sequence: self.until.1 }
    }

    /// Reports the events of an unreadable log as a recoverable gap, and continues in the ring.
    fn give_up(&mut self, store: &Store<'_>, at: Option<&Position>, sink: &mut dyn EventSink) {
        let from = at.map_or(Since::Event(self.after), |at| Since::Position(at.clone()));
        let ring = self.ring(store);
        let last = match ring {
            Some((_, id)) => EventId::before(id.epoch, id.shard, id.sequence),
            None => self.last(),
        };
        let gap = notice(self.missed_up_to(last), Some(from), Some(last), store.now);
        sink.gap(&GapNotice { recoverable: true, ..gap });
        self.after = last;
        self.place = ring.map_or(ReadPlace::Over, |(place, _)| ReadPlace::Ring(place));
    }
}

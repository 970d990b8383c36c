//! What a client asked to see of the past, page by page, as fast as it reads.
//!
//! Imports every lower room. Always: a page is made when the one before is written, so a client that does not
//! read pins nothing; what is live comes behind the last page, each event once.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::super::connection::ReplayFrom;
use super::log_places::{Behind, behind, marks, place_of};
use super::{Core, Socket};
use crate::bus::Bus;
use crate::dialect::{Encoding, GapNotice};
use crate::event::{Event, EventId, Position, Sequence, Since, Timestamp};
use crate::feed::{Cursor, Fanout, Tally};
use crate::filter::Filter;

/// Bytes of a page, about.
pub(super) const PAGE_BYTES: usize = 64 * 1024;

/// Events looked at for a page.
const PAGE_EVENTS: u64 = 1024;

/// A replay that is not over.
#[derive(Debug)]
pub(super) struct Replay {
    encoding: Encoding,
    wanted: Wanted,
    work: Work,
}

#[derive(Debug)]
struct Wanted {
    filter: Filter,
    /// What the client has other subscriptions for: it got that before.
    except: Vec<Filter>,
}

#[derive(Debug)]
enum Work {
    /// What shards have behind the places that the client named.
    Behind(Behindhand),
    /// These, if they are still there: bodies are not kept for a client that may never read.
    Events(VecDeque<EventId>),
    /// What the snapshot has between these numbers.
    Snapshot { next: u64, to: u64 },
    /// Nothing can be said of what the client named.
    Unknown(Option<Since>),
}

/// A client on its way from the places that it named to the loop's own.
#[derive(Debug)]
struct Behindhand {
    ranges: SmallVec<[Range; 1]>,
    /// Of several shards: where the client stands.
    at: Option<Position>,
    /// What the client named, where that says nothing of some shards; it is told that first.
    says_too_little: Option<Since>,
}

/// The events of a shard from `next` to `to`; `after` is what the client named, or got last, and `missed` how many
/// are gone between.
#[derive(Debug)]
struct Range {
    shard: u16,
    next: Sequence,
    to: Sequence,
    after: EventId,
    missed: u64,
}

impl Replay {
    /// Bytes that it takes until it is over.
    pub(super) fn held_bytes(&self) -> usize {
        let filters = std::iter::once(&self.wanted.filter).chain(&self.wanted.except);
        let filters: usize = filters.map(|filter| size_of::<Filter>() + filter.held_bytes()).sum();
        let work = match &self.work {
            Work::Events(events) => events.capacity() * size_of::<EventId>(),
            Work::Behind(behindhand) => behindhand.ranges.len() * size_of::<Range>(),
            Work::Snapshot { .. } | Work::Unknown(_) => 0,
        };
        size_of::<Self>() + filters + work
    }
}

impl Wanted {
    fn matches(&self, event: &Event) -> bool {
        self.filter.matches(event) && !self.except.iter().any(|other| other.matches(event))
    }
}

impl<S: Socket> Core<S> {
    /// Begins a replay. The interest that goes with it is told next.
    pub(super) fn begin_replay(
        &mut self,
        slot: usize,
        encoding: Encoding,
        filter: Filter,
        except: Vec<Filter>,
        from: ReplayFrom,
    ) {
        let wanted = Wanted { filter, except };
        let work = match from {
            ReplayFrom::Newest(count) => Work::Events(self.newest(&wanted, count)),
            ReplayFrom::Snapshot => {
                let snapshot = self.snapshot.get_or_insert_with(|| {
                    let mut snapshot = self.config.snapshot();
                    for event in whole_ring(&self.shared.bus, |shard| self.reader.position(shard)) {
                        snapshot.put(&event);
                    }
                    Box::new(snapshot)
                });
                Work::Snapshot { next: 1, to: snapshot.newest() }
            }
            ReplayFrom::After(since) => self.behind(since, &wanted.filter),
            ReplayFrom::Unknown => Work::Unknown(None),
        };
        self.conns[slot].replay = Some(Box::new(Replay { encoding, wanted, work }));
    }

    /// All behind the places that a client names, up to the loop's own.
    fn behind(&self, since: Since, filter: &Filter) -> Work {
        let shards = self.shared.bus.shards();
        let mut marks = marks(&self.shared, &since);
        // What the node did not ask for then, it can't know.
        let is_from_before = self.follow_on(&mut marks, filter);
        // Of the shards that it says nothing of, the client gets what comes from now on.
        let mut at = self.reader.told().cloned();
        if let (Some(at), Some(first)) = (&mut at, marks.first())
            && at.epoch() != first.epoch
        {
            *at = Position::new(first.epoch, (0..shards).map(|_| 0));
        }
        let mut ranges = SmallVec::new();
        for id in marks {
            let to = self.reader.position(id.shard);
            let (missed, next) = match behind(&self.shared, id, to) {
                Behind::All(next) => (0, next),
                Behind::Some(missed, next) => (missed, next),
                // It was waited for as long as is sensible.
                Behind::NotYet | Behind::Unknown => continue,
            };
            at = at.map(|at| at.behind(id));
            ranges.push(Range { shard: id.shard, next, to, after: id, missed });
        }
        if ranges.is_empty() {
            return Work::Unknown(Some(since));
        }
        let says_too_little = (is_from_before || ranges.len() < shards).then_some(since);
        Work::Behind(Behindhand { ranges, at, says_too_little })
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

    /// The newest so many that a replay wants, oldest first.
    fn newest(&self, wanted: &Wanted, count: usize) -> VecDeque<EventId> {
        let mut newest = VecDeque::new();
        for event in whole_ring(&self.shared.bus, |shard| self.reader.position(shard)) {
            if count > 0 && wanted.matches(&event) {
                if newest.len() == count {
                    newest.pop_front();
                }
                newest.extend(event.id());
            }
        }
        newest
    }

    /// Queues the next page of a connection's replay; true while there is one.
    pub(super) fn page(&mut self, slot: usize) -> bool {
        let conn = &mut self.conns[slot];
        let Some(mut replay) = conn.replay.take() else { return false };
        let Replay { encoding, wanted, work } = &mut *replay;
        let (bus, now) = (&self.shared.bus, self.now);
        let mut out = Page {
            encoding: *encoding,
            cursor: &mut conn.cursor,
            fanout: &mut self.fanout,
            tally: &mut self.tally,
            size: 0,
        };
        let over = match work {
            Work::Unknown(id) => {
                out.gap(&notice(None, id.take(), None, now));
                true
            }
            Work::Events(events) => {
                let mut gap = None;
                let mut missed = 0;
                while !out.is_full()
                    && let Some(id) = events.pop_front()
                {
                    let mut found = None;
                    if let Some(at) = place_of(&self.shared, id) {
                        bus.read_range(id.shard, at, at + 1, |event| found = Some(event.clone()));
                    }
                    let Some(event) = found else {
                        missed += 1;
                        gap = Some(notice(Some(missed), None, Some(id), now));
                        continue;
                    };
                    if let Some(gap) = gap.take() {
                        out.gap(&gap);
                        missed = 0;
                    }
                    out.event(&event);
                }
                if let Some(gap) = gap {
                    out.gap(&gap);
                }
                events.is_empty()
            }
            Work::Snapshot { next, to } => {
                let mut events = self.snapshot.iter().flat_map(|snapshot| snapshot.range(*next, *to));
                let mut last = None;
                while !out.is_full()
                    && let Some((number, event)) = events.next()
                {
                    last = Some(number);
                    if wanted.matches(event) {
                        out.event(event);
                    }
                }
                let over = events.next().is_none();
                drop(events);
                *next = last.map_or(*next, |number| number + 1);
                over
            }
            Work::Behind(behindhand) => behindhand.page(bus, wanted, &mut out, now),
        };
        if over {
            conn.cursor.set_waits(false);
        } else {
            conn.replay = Some(replay);
        }
        // A page may have nothing that is wanted: then the next one is due at once.
        !over
    }
}

impl Behindhand {
    /// Queues a page; true where it was the last.
    fn page(&mut self, bus: &Bus, wanted: &Wanted, out: &mut Page<'_>, now: Timestamp) -> bool {
        if let Some(since) = self.says_too_little.take() {
            out.gap(&notice(None, Some(since), None, now));
        }
        let share = (PAGE_EVENTS / self.ranges.len() as u64).max(1);
        let mut pages: SmallVec<[_; 1]> = (self.ranges.iter_mut())
            .map(|range| range.read(bus, share, out, now).into_iter().peekable())
            .collect();
        while !out.is_full() {
            // In the order in which who was there got them. Where one of the pages is used up, that is not known.
            let mut first = None;
            for (at, (range, page)) in self.ranges.iter().zip(&mut pages).enumerate() {
                match page.peek().map(|event| event.position().map(Position::passed)) {
                    Some(place) => first = first.min(Some((place, at))).or(Some((place, at))),
                    None if range.next < range.to => return false,
                    None => {}
                }
            }
            let Some((_, at)) = first else { break };
            let (range, Some(event)) = (&mut self.ranges[at], pages[at].next()) else { break };
            range.next += 1;
            let id = event.id().unwrap_or(range.after);
            if (id.epoch, id.sequence) != (range.after.epoch, range.after.next_sequence()) {
                // What the log no longer had, or another life of it.
                out.gap(&notice(None, Some(Since::Event(range.after)), Some(id), now));
            }
            range.after = id;
            if let Some(at) = &mut self.at {
                at.pass(range.after);
            }
            if wanted.matches(&event) {
                out.event_at(&event, self.at.as_ref());
            }
        }
        self.ranges.iter().all(|range| range.next == range.to)
    }
}

impl Range {
    /// Its next events, up to so many; what is gone is told.
    fn read(&mut self, bus: &Bus, max: u64, out: &mut Page<'_>, now: Timestamp) -> Vec<Event> {
        let from = self.next.max(bus.oldest(self.shard)).min(self.to);
        let mut page = Vec::new();
        let from =
            bus.read_range(self.shard, from, (from + max).min(self.to), |event| page.push(event.clone()));
        let missed = std::mem::take(&mut self.missed) + (from - self.next);
        if missed > 0 {
            let last = EventId { sequence: self.after.sequence.wrapping_add(missed), ..self.after };
            out.gap(&notice(Some(missed), Some(Since::Event(self.after)), Some(last), now));
            self.after = last;
        }
        self.next = from;
        page
    }
}

/// What is being queued for one connection.
struct Page<'a> {
    encoding: Encoding,
    cursor: &'a mut Cursor,
    fanout: &'a mut Fanout,
    tally: &'a mut Tally,
    size: usize,
}

impl Page<'_> {
    fn is_full(&self) -> bool {
        self.size >= PAGE_BYTES
    }

    fn event(&mut self, event: &Event) {
        let frame = self.fanout.frame(event, self.encoding, self.cursor.compression());
        self.size += frame.len();
        self.cursor.send_replayed(self.fanout, frame, event.id());
    }

    /// The same for a client that stands at this place behind it, of several shards. Who came live stands elsewhere
    /// where shards have their own order here, or this client came from another node.
    fn event_at(&mut self, event: &Event, position: Option<&Position>) {
        let Some(position) = position.filter(|position| event.position() != Some(position)) else {
            return self.event(event);
        };
        let frame = self.fanout.frame_at(event, position, self.encoding, self.cursor.compression());
        self.size += frame.len();
        self.cursor.send_replayed(self.fanout, frame, event.id());
    }

    fn gap(&mut self, gap: &GapNotice) {
        self.tally.gaps += 1;
        self.cursor.send_in_replay(self.encoding.gap(gap));
    }
}

fn notice(missed: Option<u64>, from: Option<Since>, to: Option<EventId>, at: Timestamp) -> GapNotice {
    GapNotice { missed, from, to, recoverable: false, at }
}

/// Everything that the rings have up to the loop's place in each, in the order in which loops read it.
fn whole_ring(bus: &Bus, position: impl Fn(u16) -> Sequence) -> Vec<Event> {
    let mut events = Vec::new();
    let shards = bus.shards() as u16;
    for shard in 0..shards {
        bus.read_range(shard, bus.oldest(shard), position(shard), |event: &Event| events.push(event.clone()));
    }
    if shards > 1 {
        // Stable: within a shard the order stays.
        events.sort_by_key(|event| event.position().map(Position::passed));
    }
    events
}

//! What a client asked to see of the past, page by page, as fast as it reads.
//!
//! Imports every lower room. Always: a page is made when the one before is written, so a client that does not
//! read pins nothing; what is live comes behind the last page, each event once.

use std::collections::VecDeque;

use super::super::connection::ReplayFrom;
use super::log_places::{Behind, behind, place_of};
use super::{Core, Socket};
use crate::bus::Bus;
use crate::dialect::{Encoding, GapNotice};
use crate::event::{Event, EventId, Sequence, Timestamp};
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
    /// The events of a shard from `next` on; `after` is what the client named, or got last, and `missed` how many
    /// are gone between. Where the shard is not alone, the client is told that first.
    Range { shard: u16, next: Sequence, to: Sequence, after: EventId, missed: u64, alone: bool },
    /// These, if they are still there: bodies are not kept for a client that may never read.
    Events(VecDeque<EventId>),
    /// What the snapshot has between these numbers.
    Snapshot { next: u64, to: u64 },
    /// Nothing can be said of what the client named.
    Unknown(Option<EventId>),
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
            ReplayFrom::After(id) => {
                let known = usize::from(id.shard) < self.shared.bus.shards();
                let to = if known { self.reader.position(id.shard) } else { 0 };
                // Its id says nothing of the other shards: what the client missed there can't be known.
                let alone = self.shared.bus.shards() == 1;
                match behind(&self.shared, id, to) {
                    Behind::All(next) => {
                        Work::Range { shard: id.shard, next, to, after: id, missed: 0, alone }
                    }
                    Behind::Some(missed, next) => {
                        Work::Range { shard: id.shard, next, to, after: id, missed, alone }
                    }
                    // It was waited for as long as is sensible.
                    Behind::NotYet | Behind::Unknown => Work::Unknown(Some(id)),
                }
            }
            ReplayFrom::Unknown => Work::Unknown(None),
        };
        self.conns[slot].replay = Some(Box::new(Replay { encoding, wanted, work }));
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
                out.gap(&notice(None, *id, None, now));
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
            Work::Range { shard, next, to, after, missed, alone } => {
                if !std::mem::replace(alone, true) {
                    out.gap(&notice(None, Some(*after), None, now));
                }
                let from = (*next).max(bus.oldest(*shard)).min(*to);
                let end = (from + PAGE_EVENTS).min(*to);
                let mut page = Vec::new();
                let from = bus.read_range(*shard, from, end, |event| page.push(event.clone()));
                let missed = std::mem::take(missed) + (from - *next);
                if missed > 0 {
                    let last = EventId { sequence: after.sequence.wrapping_add(missed), ..*after };
                    out.gap(&notice(Some(missed), Some(*after), Some(last), now));
                }
                *next = from;
                for event in page {
                    if out.is_full() {
                        break;
                    }
                    *next += 1;
                    *after = event.id().unwrap_or(*after);
                    if wanted.matches(&event) {
                        out.event(&event);
                    }
                }
                *next == *to
            }
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

    fn gap(&mut self, gap: &GapNotice) {
        self.tally.gaps += 1;
        self.cursor.send(self.fanout, self.encoding.gap(gap));
    }
}

fn notice(missed: Option<u64>, from: Option<EventId>, to: Option<EventId>, at: Timestamp) -> GapNotice {
    GapNotice { missed, from, to, recoverable: false, at }
}

/// Everything that the rings have up to the loop's place in each; where there are several shards, by time.
fn whole_ring(bus: &Bus, position: impl Fn(u16) -> Sequence) -> Vec<Event> {
    let mut events = Vec::new();
    let shards = bus.shards() as u16;
    for shard in 0..shards {
        bus.read_range(shard, bus.oldest(shard), position(shard), |event: &Event| events.push(event.clone()));
    }
    if shards > 1 {
        // Stable: within a shard the order stays.
        events.sort_by_key(Event::timestamp);
    }
    events
}

//! What a client asked to see of the past, page by page, as fast as it reads.
//!
//! Imports every lower room. Always: a page is made when the one before is written, so a client that does not
//! read pins nothing; what is live comes behind the last page, each event once.

use std::collections::VecDeque;

use super::super::connection::ReplayFrom;
use super::{Core, Socket};
use crate::bus::Bus;
use crate::dialect::{Encoding, GapNotice};
use crate::event::{Event, EventId, Sequence, Timestamp};
use crate::filter::Filter;

/// Bytes of a page, about.
const PAGE_BYTES: usize = 64 * 1024;

/// Events looked at for a page.
const PAGE_EVENTS: u64 = 1024;

/// A replay that is not over.
#[derive(Debug)]
pub(super) struct Replay {
    encoding: Encoding,
    filter: Filter,
    /// What the client has other subscriptions for: it got that before.
    except: Vec<Filter>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// The events of a shard from `next` on; `after` is what the client named, or got last.
    Range { shard: u16, next: Sequence, to: Sequence, after: EventId },
    /// These, if they are still there: bodies are not kept for a client that may never read.
    Events(VecDeque<(u16, Sequence)>),
    /// What the snapshot has between these numbers.
    Snapshot { next: u64, to: u64 },
    /// Nothing can be said of what the client named.
    Unknown(Option<EventId>),
}

impl Replay {
    fn wants(&self, event: &Event) -> bool {
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
        let mut replay = Replay { encoding, filter, except, work: Work::Unknown(None) };
        replay.work = match from {
            ReplayFrom::Newest(count) => Work::Events(self.newest(&replay, count)),
            ReplayFrom::Snapshot => {
                let snapshot = self.snapshot.get_or_insert_with(|| {
                    let mut snapshot = self.shared.config.snapshot();
                    for event in whole_ring(&self.shared.bus, |shard| self.reader.position(shard)) {
                        snapshot.put(&event);
                    }
                    Box::new(snapshot)
                });
                Work::Snapshot { next: 1, to: snapshot.newest() }
            }
            ReplayFrom::After(id) => {
                let to = (usize::from(id.shard) < self.shared.bus.shards())
                    .then(|| self.reader.position(id.shard));
                match to.filter(|to| id.epoch == self.shared.bus.epoch() && id.sequence < *to) {
                    Some(to) => Work::Range { shard: id.shard, next: id.sequence + 1, to, after: id },
                    None => Work::Unknown(Some(id)),
                }
            }
            ReplayFrom::Unknown => Work::Unknown(None),
        };
        self.conns[slot].replay = Some(Box::new(replay));
    }

    /// The newest so many that a replay wants, oldest first.
    fn newest(&self, replay: &Replay, count: usize) -> VecDeque<(u16, Sequence)> {
        let mut newest = VecDeque::new();
        for event in whole_ring(&self.shared.bus, |shard| self.reader.position(shard)) {
            if count > 0 && replay.wants(&event) {
                if newest.len() == count {
                    newest.pop_front();
                }
                newest.extend(event.id().map(|id| (id.shard, id.sequence)));
            }
        }
        newest
    }

    /// Queues the next page of a connection's replay; true while there is one.
    pub(super) fn page(&mut self, slot: usize) -> bool {
        let conn = &mut self.conns[slot];
        let Some(mut replay) = conn.replay.take() else { return false };
        let mut size = 0;
        let over;
        let mut gap = None;
        match &mut replay.work {
            Work::Unknown(id) => {
                over = true;
                gap = Some(notice(None, *id, None, self.now));
            }
            Work::Events(events) => {
                let bus = &self.shared.bus;
                let epoch = bus.epoch();
                let mut missed = 0;
                while size < PAGE_BYTES && !events.is_empty() {
                    let Some((shard, sequence)) = events.pop_front() else { break };
                    let mut found = None;
                    bus.read_range(shard, sequence, sequence + 1, |event| found = Some(event.clone()));
                    let Some(event) = found else {
                        missed += 1;
                        let to = EventId { epoch, shard, sequence };
                        gap = Some(notice(Some(missed), None, Some(to), self.now));
                        continue;
                    };
                    if let Some(gap) = gap.take() {
                        self.tally.gaps += 1;
                        conn.cursor.send(&mut self.fanout, replay.encoding.gap(&gap));
                        missed = 0;
                    }
                    size += send(&mut self.fanout, &mut conn.cursor, &self.shared, replay.encoding, &event);
                }
                over = events.is_empty();
            }
            Work::Snapshot { next, to } => {
                let mut is_whole = true;
                let (from, end) = (*next, *to);
                for (number, event) in self.snapshot.iter().flat_map(|snapshot| snapshot.range(from, end)) {
                    if size >= PAGE_BYTES {
                        is_whole = false;
                        break;
                    }
                    *next = number + 1;
                    let wanted =
                        replay.filter.matches(event) && !replay.except.iter().any(|e| e.matches(event));
                    if wanted {
                        size +=
                            send(&mut self.fanout, &mut conn.cursor, &self.shared, replay.encoding, event);
                    }
                }
                over = is_whole;
            }
            Work::Range { shard, next, to, after } => {
                let bus = &self.shared.bus;
                let mut from = (*next).max(bus.oldest(*shard)).min(*to);
                let end = (from + PAGE_EVENTS).min(*to);
                let mut page = Vec::new();
                from = bus.read_range(*shard, from, end, |event| page.push(event.clone()));
                if from > *next {
                    let last = EventId { sequence: from - 1, ..*after };
                    let gap = notice(Some(from - *next), Some(*after), Some(last), self.now);
                    self.tally.gaps += 1;
                    conn.cursor.send(&mut self.fanout, replay.encoding.gap(&gap));
                }
                *after = EventId { sequence: end - 1, ..*after };
                *next = end;
                over = end == *to;
                for event in page {
                    if replay.filter.matches(&event) && !replay.except.iter().any(|e| e.matches(&event)) {
                        send(&mut self.fanout, &mut conn.cursor, &self.shared, replay.encoding, &event);
                    }
                }
            }
        }
        if let Some(gap) = gap {
            self.tally.gaps += 1;
            conn.cursor.send(&mut self.fanout, replay.encoding.gap(&gap));
        }
        if over {
            conn.cursor.set_waits(false);
        } else {
            conn.replay = Some(replay);
        }
        // A page may have nothing that is wanted: then the next one is due at once.
        !over
    }
}

fn notice(missed: Option<u64>, from: Option<EventId>, to: Option<EventId>, at: Timestamp) -> GapNotice {
    GapNotice { missed, from, to, recoverable: false, at }
}

fn send(
    fanout: &mut crate::feed::Fanout,
    cursor: &mut crate::feed::Cursor,
    shared: &super::Shared,
    encoding: Encoding,
    event: &Event,
) -> usize {
    let make = |event: &Event| {
        shared.metrics.encodings.inc();
        encoding.encode(event)
    };
    let frame = event.frame(encoding as usize, make).clone();
    let size = frame.len();
    cursor.send_replayed(fanout, frame, event.id());
    size
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

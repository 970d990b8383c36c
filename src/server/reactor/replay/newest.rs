//! Searches for the place from which a reader gets the newest events that it wants: backwards from the loop's place,
//! through the rings and then through the engine's log.
//!
//! Invariants:
//! - Only places and a count are kept between two steps, however many events are requested.
//! - The search ends in the epoch of the oldest event in a shard's ring.
//! - If the search ends although older events may exist, and the reader may miss some of them, it gets a gap before its
//!   first event.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::forward::{
    Forward, Found, ReadPlace, ShardLane, Step, Store, is_complete_from, order_of, position_before,
};
use super::selector::ReplaySelector;
use crate::engine::{LogPlace, PAGE_EVENTS, log_place_of};
use crate::event::{Event, EventId, Sequence};
use crate::server::limits::budget::Budget;

/// Number of events taken from a ring or a page together, of all shards.
const CHUNK: usize = 64;

/// Search in one shard.
#[derive(Debug)]
struct ShardSearch {
    shard: u16,
    to: Sequence,
    until: LogPlace,
    /// Place from which the node followed everything that the reader wants; usually the beginning.
    followed: LogPlace,
    place: SearchPlace,
    ended: Option<Ended>,
    /// Oldest event examined.
    oldest: Option<EventId>,
}

/// Reason for the end of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// There never was an older event.
    Beginning,
    /// Older events were dropped or can't be read.
    Forgotten,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SearchPlace {
    /// In the ring, before this place.
    Ring(Sequence),
    /// In the log, before the oldest examined event; the page that begins here is searched.
    Log { from: Sequence },
    /// All known events were examined. The log's entries from this place on show whether there are older ones.
    Beginning { from: LogPlace },
}

/// Search in all shards.
#[derive(Debug)]
pub(super) struct Newest {
    lanes: SmallVec<[ShardSearch; 1]>,
    /// Number of events that are not found yet.
    left: usize,
    /// Whether events were found after another shard's past had ended, which may have had newer ones.
    passed_an_end: bool,
}

enum Filled {
    Done,
    Again,
    Waits(LogPlace),
}

type Tail = VecDeque<Event>;

impl Newest {
    /// Begins at the end of each shard for the reader: a place in the ring, and in the log. `followed` returns the
    /// place since which the node followed everything that the reader wants.
    pub(super) fn new(
        ends: impl Iterator<Item = (u16, Sequence, LogPlace)>,
        followed: impl Fn(u16) -> LogPlace,
        count: usize,
    ) -> Self {
        let lane = |(shard, to, until)| ShardSearch {
            shard,
            to,
            until,
            followed: followed(shard),
            place: SearchPlace::Ring(to),
            ended: None,
            oldest: None,
        };
        Self { lanes: ends.map(lane).collect(), left: count, passed_an_end: false }
    }

    /// Returns the number of shards that it searches.
    pub(super) fn shards(&self) -> usize {
        self.lanes.len()
    }

    /// Continues the search.
    pub(super) fn step(
        &mut self,
        store: &mut Store<'_>,
        selector: &mut ReplaySelector,
        budget: &mut Budget,
    ) -> Step {
        let share = (CHUNK / self.lanes.len().max(1)).max(1);
        let mut tails: SmallVec<[Tail; 1]> = self.lanes.iter().map(|_| Tail::new()).collect();
        while self.left > 0 {
            for (lane, tail) in self.lanes.iter_mut().zip(&mut tails) {
                while tail.is_empty() && lane.ended.is_none() {
                    if budget.is_spent() {
                        return Step::More;
                    }
                    budget.spend(3);
                    match lane.fill(store, share, tail) {
                        Filled::Done => break,
                        Filled::Again => {}
                        Filled::Waits(from) => return Step::Waits { shard: lane.shard, from },
                    }
                }
            }
            if budget.is_spent() {
                return Step::More;
            }
            let Some(at) = self.last(&tails) else { return Step::Over };
            if tails[at].back().is_some_and(|event| !selector.decides(event, budget)) {
                return Step::More;
            }
            if let Some(event) = tails[at].pop_back() {
                self.lanes[at].pass(&event);
                if selector.wants(&event, budget) {
                    self.left -= 1;
                    self.passed_an_end |= self.lanes.iter().any(ShardSearch::is_short);
                }
            }
        }
        Step::Over
    }

    /// Returns the shard of the newest unexamined event.
    fn last(&self, tails: &[Tail]) -> Option<usize> {
        let in_log = |lane: &ShardSearch| matches!(lane.place, SearchPlace::Log { .. });
        let by_time = self.lanes.iter().zip(tails).any(|(lane, tail)| in_log(lane) && !tail.is_empty());
        let events =
            tails.iter().enumerate().filter_map(|(at, tail)| Some((order_of(tail.back()?, by_time), at)));
        events.max().map(|(_, at)| at)
    }

    /// Returns the reader from the place found.
    pub(super) fn to_forward(&self) -> Forward {
        let in_log = self.lanes.iter().any(ShardSearch::starts_in_log);
        // If all were found, older events do not matter.
        let needs_older = self.left > 0 || self.passed_an_end;
        let lanes: SmallVec<[ShardLane; 1]> =
            self.lanes.iter().map(|lane| lane.forward(needs_older)).collect();
        // Without a log, events carry their positions.
        let at = (in_log && lanes.len() > 1).then(|| position_before(&lanes)).flatten();
        Forward { lanes, at, partial_since: None, unread_first: false }
    }
}

impl ShardSearch {
    fn forward(&self, needs_older: bool) -> ShardLane {
        let Self { shard, to, until, place, oldest, .. } = *self;
        let before = |id: EventId| EventId::before(id.epoch, id.shard, id.sequence);
        let (place, after) = match (place, oldest) {
            (SearchPlace::Ring(place), Some(id)) => (ReadPlace::Ring(place), before(id)),
            // If the ring has it, the reader finds it there.
            (_, Some(id)) => (ReadPlace::Log { is_known: true }, before(id)),
            (_, None) => (ReadPlace::Over, EventId { epoch: until.0, shard, sequence: until.1 }),
        };
        let (epoch, followed) = self.followed;
        let forgotten = match self.ended {
            Some(Ended::Forgotten) => after,
            _ => EventId::before(epoch, shard, followed),
        };
        let forgotten = (needs_older && self.is_short()).then_some(forgotten);
        ShardLane { shard, place, to, until, after, missed: 0, counts: false, forgotten }
    }

    /// Returns whether the search ended at a place before which events may be missing.
    fn is_short(&self) -> bool {
        let is_before = |id: EventId| (id.epoch, id.sequence) < self.followed;
        self.ended == Some(Ended::Forgotten) || self.oldest.is_some_and(is_before)
    }

    /// Returns whether the reader begins in the log.
    fn starts_in_log(&self) -> bool {
        !matches!(self.place, SearchPlace::Ring(_)) && self.oldest.is_some()
    }

    fn pass(&mut self, event: &Event) {
        self.oldest = event.id().or(self.oldest);
        if let SearchPlace::Ring(place) = &mut self.place {
            *place -= 1;
        }
    }

    fn fill(&mut self, store: &mut Store<'_>, share: usize, tail: &mut Tail) -> Filled {
        match self.place {
            SearchPlace::Ring(before) => {
                let bus = &store.shared.bus;
                let oldest = bus.oldest(self.shard);
                if before <= oldest {
                    return self.leave_ring(store);
                }
                let from = before.saturating_sub(share as u64).max(oldest);
                bus.read_range(self.shard, from, before, |event| tail.push_back(event.clone()));
                if !tail.is_empty() {
                    return Filled::Done;
                }
                if bus.oldest(self.shard) <= from {
                    // A publisher gave up the previous sequence, so there is no event.
                    self.place = SearchPlace::Ring(before - 1);
                    return Filled::Again;
                }
                // The ring overtook the search.
                self.leave_ring(store)
            }
            SearchPlace::Log { from } => self.fill_from_log(from, store, tail),
            SearchPlace::Beginning { from } => self.check_log_start(from, store),
        }
    }

    /// Leaves the ring, which has nothing older.
    fn leave_ring(&mut self, store: &Store<'_>) -> Filled {
        match self.oldest {
            Some(_) if store.has_log() => self.search_older_page(),
            oldest => {
                let first = oldest.map(|id| id.sequence);
                // Without an engine, the first event of all has the sequence 0. A search from there has nothing to find.
                let is_at_first = first == Some(0) || self.place == SearchPlace::Ring(0);
                let has_first = is_at_first && store.shared.engine.is_none();
                let has_all = has_first || is_complete_from(store.shared, self.shard, first);
                let is_first = has_all && self.followed == (0, 0);
                self.ended = Some(if is_first { Ended::Beginning } else { Ended::Forgotten });
            }
        }
        Filled::Again
    }

    /// Searches the page before the oldest examined event.
    fn search_older_page(&mut self) {
        self.place = match self.oldest.and_then(|id| id.sequence.checked_sub(1)) {
            Some(last) => SearchPlace::Log { from: last - last % PAGE_EVENTS },
            None => SearchPlace::Beginning { from: (0, 0) },
        };
    }

    /// Checks whether the log has anything older than the examined events, such as another epoch, which is not read.
    fn check_log_start(&mut self, from: LogPlace, store: &mut Store<'_>) -> Filled {
        let is_first = match store.page(self.shard, from) {
            Found::Page(page, _) => {
                let oldest = self.oldest.map(|id| (id.epoch, id.sequence));
                page.from(from).first().is_none_or(|event| Some(log_place_of(event)) == oldest)
            }
            Found::NotRead => return Filled::Waits(from),
            Found::Failed => false,
        };
        self.ended = Some(if is_first { Ended::Beginning } else { Ended::Forgotten });
        Filled::Again
    }

    fn fill_from_log(&mut self, from: Sequence, store: &mut Store<'_>, tail: &mut Tail) -> Filled {
        let Some(oldest) = self.oldest else {
            self.ended = Some(Ended::Forgotten);
            return Filled::Again;
        };
        let place = (oldest.epoch, from);
        let end = (oldest.epoch, oldest.sequence);
        if place >= end {
            self.search_older_page();
            return Filled::Again;
        }
        // Held until the page's events are taken.
        let (page, _handed) = match store.page(self.shard, place) {
            Found::Page(page, handed) => (page, handed),
            Found::NotRead => return Filled::Waits(place),
            Found::Failed => {
                self.ended = Some(Ended::Forgotten);
                return Filled::Again;
            }
        };
        if page.next > place && page.next < end {
            // The page ended early for its size: search the rest of it first.
            self.place = SearchPlace::Log { from: page.next.1 };
            return Filled::Again;
        }
        let events = page.from(place);
        let before = events.partition_point(|event| log_place_of(event) < end);
        tail.extend(events[..before].iter().cloned());
        if tail.is_empty() {
            // The log has dropped older events.
            self.ended = Some(Ended::Forgotten);
            return Filled::Again;
        }
        Filled::Done
    }
}

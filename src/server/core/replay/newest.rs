//! Looks for the place from which a reader gets the newest so many events that it wants: backwards, from where the loop
//! stood, through the rings and on through the engine's log.
//!
//! Invariants:
//! - Nothing but places and a count is kept between two steps, however many events are asked for.
//! - The way back ends in the life of the log that a shard's oldest event in the ring is of.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::super::log_places::event_id;
use super::forward::{Forward, Found, Lane, Spot, Step, Store, order_of};
use super::judge::Judge;
use crate::bus::Bus;
use crate::engine::{PAGE_EVENTS, Place, log_place_of};
use crate::event::{Event, EventId, Position, Sequence};
use crate::server::budget::Budget;

/// Events that are taken out of a ring or a page together, of all shards.
const CHUNK: usize = 64;

/// The way back in one shard.
#[derive(Debug)]
struct Way {
    shard: u16,
    to: Sequence,
    until: Place,
    /// What the ring had when it began: the oldest place, and the event there.
    first: Option<(Sequence, EventId)>,
    spot: Back,
    /// There is nothing older.
    is_over: bool,
    /// The oldest event that was looked at.
    oldest: Option<EventId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
    /// Behind this place of the ring.
    Ring(Sequence),
    /// In the log, before the oldest event that was looked at; the page that begins here is looked for.
    Log { from: Sequence },
}

/// The way back in all shards.
#[derive(Debug)]
pub(in super::super) struct Newest {
    lanes: SmallVec<[Way; 1]>,
    /// Events that are still to be found.
    left: usize,
}

enum Filled {
    Done,
    Again,
    Waits(Place),
}

type Tail = VecDeque<Event>;

impl Newest {
    /// Begins where each shard ends for the reader: a place in the ring, and in the log.
    pub(in super::super) fn new(
        bus: &Bus,
        ends: impl Iterator<Item = (u16, Sequence, Place)>,
        count: usize,
    ) -> Self {
        let lane = |(shard, to, until)| Way {
            shard,
            to,
            until,
            first: event_id(bus, shard, bus.oldest(shard), to),
            spot: Back::Ring(to),
            is_over: false,
            oldest: None,
        };
        Self { lanes: ends.map(lane).collect(), left: count }
    }

    /// Returns the number of shards that it looks through.
    pub(in super::super) fn shards(&self) -> usize {
        self.lanes.len()
    }

    /// Looks on.
    pub(in super::super) fn step(
        &mut self,
        store: &mut Store<'_>,
        judge: &mut Judge,
        budget: &mut Budget,
    ) -> Step {
        let share = (CHUNK / self.lanes.len().max(1)).max(1);
        let mut tails: SmallVec<[Tail; 1]> = self.lanes.iter().map(|_| Tail::new()).collect();
        while self.left > 0 {
            for (lane, tail) in self.lanes.iter_mut().zip(&mut tails) {
                while tail.is_empty() && !lane.is_over {
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
            if let Some(event) = tails[at].pop_back() {
                self.lanes[at].pass(&event);
                self.left -= usize::from(judge.wants(&event, budget));
            }
        }
        Step::Over
    }

    /// The lane of the newest event that was not looked at.
    fn last(&self, tails: &[Tail]) -> Option<usize> {
        let in_log = |lane: &Way| matches!(lane.spot, Back::Log { .. });
        let by_time = self.lanes.iter().zip(tails).any(|(lane, tail)| in_log(lane) && !tail.is_empty());
        let events =
            tails.iter().enumerate().filter_map(|(at, tail)| Some((order_of(tail.back()?, by_time), at)));
        events.max().map(|(_, at)| at)
    }

    /// The way forward from where it came to.
    pub(in super::super) fn turn_round(&self) -> Forward {
        let in_log =
            self.lanes.iter().any(|lane| matches!(lane.spot, Back::Log { .. }) && lane.oldest.is_some());
        let lanes: SmallVec<[Lane; 1]> = self.lanes.iter().map(Way::forward).collect();
        // From rings alone, events say themselves where they stand.
        let at = (in_log && lanes.len() > 1).then(|| {
            let epoch = lanes.iter().map(|lane| lane.after.epoch).min().unwrap_or_default();
            let next = |lane: &Lane| if lane.after.epoch == epoch { lane.after.next_sequence() } else { 0 };
            Position::new(epoch, lanes.iter().map(next))
        });
        Forward { lanes, at, says_too_little: None }
    }
}

impl Way {
    fn forward(&self) -> Lane {
        let Self { shard, to, until, first, spot, is_over, oldest } = *self;
        let before = |id: EventId| EventId::before(id.epoch, id.shard, id.sequence);
        let (spot, after) = match (spot, first, oldest) {
            // It came to where the ring began: what the ring has let go of since is told.
            (Back::Ring(_), Some((place, id)), _) if is_over => (Spot::Ring(place), before(id)),
            (Back::Ring(place), _, Some(id)) => (Spot::Ring(place), before(id)),
            // Where the ring has it, the way is found there.
            (Back::Log { .. }, _, Some(id)) => (Spot::Log { is_known: true }, before(id)),
            (_, _, None) => (Spot::Over, EventId { epoch: until.0, shard, sequence: until.1 }),
        };
        Lane { shard, spot, to, until, after, missed: 0, counts: false }
    }

    fn pass(&mut self, event: &Event) {
        self.oldest = event.id().or(self.oldest);
        if let Back::Ring(place) = &mut self.spot {
            *place -= 1;
        }
    }

    fn fill(&mut self, store: &mut Store<'_>, share: usize, tail: &mut Tail) -> Filled {
        match self.spot {
            Back::Ring(before) => {
                let bus = &store.shared.bus;
                let oldest = bus.oldest(self.shard);
                if before <= oldest {
                    return self.leave_ring(store);
                }
                let from = before.saturating_sub(share as u64).max(oldest);
                bus.read_range(self.shard, from, before, |event| tail.push_back(event.clone()));
                // Where nothing of it is left, the ring was quicker.
                if tail.is_empty() { self.leave_ring(store) } else { Filled::Done }
            }
            Back::Log { from } => self.fill_from_log(from, store, tail),
        }
    }

    /// The ring has nothing older.
    fn leave_ring(&mut self, store: &Store<'_>) -> Filled {
        match self.oldest {
            Some(_) if store.has_log() => self.look_before(),
            _ => self.is_over = true,
        }
        Filled::Again
    }

    /// Looks for the page before the oldest event that was looked at.
    fn look_before(&mut self) {
        match self.oldest.and_then(|id| id.sequence.checked_sub(1)) {
            Some(last) => self.spot = Back::Log { from: last - last % PAGE_EVENTS },
            None => self.is_over = true,
        }
    }

    fn fill_from_log(&mut self, from: Sequence, store: &mut Store<'_>, tail: &mut Tail) -> Filled {
        let Some(oldest) = self.oldest else {
            self.is_over = true;
            return Filled::Again;
        };
        let place = (oldest.epoch, from);
        let end = (oldest.epoch, oldest.sequence);
        if place >= end {
            self.look_before();
            return Filled::Again;
        }
        // Kept until the events are taken over.
        let (page, _handed) = match store.page(self.shard, place) {
            Found::Page(page, handed) => (page, handed),
            Found::NotRead => return Filled::Waits(place),
            Found::Failed => {
                self.is_over = true;
                return Filled::Again;
            }
        };
        if page.next > place && page.next < end {
            // It ended early for its size: the newer ones come first.
            self.spot = Back::Log { from: page.next.1 };
            return Filled::Again;
        }
        let events = page.from(place);
        let before = events.partition_point(|event| log_place_of(event) < end);
        tail.extend(events[..before].iter().cloned());
        if tail.is_empty() {
            // The log has forgotten what is older.
            self.is_over = true;
            return Filled::Again;
        }
        Filled::Done
    }
}

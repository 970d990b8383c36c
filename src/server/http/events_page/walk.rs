//! Walks over the kept logs, the rings and an engine's log, merged in the order in which the loops read events.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::log::LogWalk;
use super::query::{EventsQuery, NoPage, PageMaker};
use crate::engine::{Engine, LogPlace, log_place_of};
use crate::event::{Event, Position, Sequence, Timestamp};
use crate::kept::{LogName, OrderPlace, OrderRange, ShardPlace, order_place};
use crate::server::shared::Shared;
use crate::server::shared::resume::{oldest_place, ring_sequence};

/// Number of events taken from the logs, or from a ring, together.
const CHUNK: usize = 64;

/// Reader of the logs and rings, merged.
pub(super) struct PageWalk<'a> {
    shared: &'a Shared,
    request: &'a EventsQuery,
    now: Timestamp,
    names: Vec<LogName>,
    /// Rest of the range in the logs.
    range: OrderRange,
    logs: VecDeque<Event>,
    has_read_logs: bool,
    /// Newest epoch. An engine's log of it begins with sequence 0.
    epoch: u64,
    /// Whether a part of the range is of another epoch, so that events of it are missing.
    is_beyond: bool,
    rings: SmallVec<[RingWalk; 1]>,
    /// Place of the next event of each shard that was not recorded when the page began.
    recorded: SmallVec<[ShardPlace; 4]>,
    /// Whether an event in a ring has no place in the order, or was overwritten before it was read.
    has_unplaced: bool,
    /// Events that an engine's log has and the ring does not.
    log: Option<LogWalk<'a>>,
    /// Whether the logs have every event of the filter.
    is_covered: bool,
}

/// Reader of one ring.
struct RingWalk {
    shard: u16,
    next: Sequence,
    end: Sequence,
    /// Next events, and whether each belongs to a log instead.
    events: VecDeque<(Event, bool)>,
}

/// Range of a page as places of events in their shards.
struct ShardRange<'r> {
    low: Option<&'r Position>,
    high: &'r Position,
    until: &'r Position,
}

impl ShardRange<'_> {
    /// Returns the place in a shard at which the range ends.
    fn end(&self, shard: u16) -> LogPlace {
        place_in(self.high, shard).min(place_in(self.until, shard))
    }
}

/// Returns the place of a position in a shard.
fn place_in(position: &Position, shard: u16) -> LogPlace {
    (position.epoch(), position.sequences().get(usize::from(shard)).copied().unwrap_or_default())
}

/// Returns whether an event comes before these places of the shards.
fn is_before(event: &Event, places: &[ShardPlace]) -> bool {
    event
        .id()
        .is_some_and(|id| places.get(usize::from(id.shard)).is_some_and(|place| log_place_of(event) < *place))
}

impl<'a> PageWalk<'a> {
    /// Returns a walk over the range of a page; `None` if it needs an engine's log, which only a worker reads.
    pub(super) fn new(
        shared: &'a Shared,
        request: &'a EventsQuery,
        until: &Position,
        now: Timestamp,
        maker: PageMaker,
    ) -> Result<Option<Self>, NoPage> {
        let is_desc = request.is_desc;
        let place = request.place.as_ref();
        let is_beyond = place.is_some_and(|place| place.epoch() != until.epoch());
        // Epochs of an engine's log have an order. No other epoch of a bus is left, and its events came before.
        let is_gone = is_beyond && shared.engine.is_none();
        let mut range = OrderRange { after: (0, 0), until: until.passed() };
        let mut of_shards = ShardRange { low: None, high: until, until };
        match place {
            Some(_) if is_gone && is_desc => range.until = (0, 0),
            Some(_) if is_gone => {}
            Some(place) if is_desc => {
                let (epoch, passed) = place.passed();
                range.until = range.until.min((epoch, passed.saturating_sub(1)));
                of_shards.high = place;
            }
            Some(place) => {
                range.after = place.passed();
                of_shards.low = Some(place);
            }
            None => {}
        }
        let mut walk = Self {
            shared,
            request,
            now,
            names: Vec::new(),
            range,
            logs: VecDeque::new(),
            has_read_logs: false,
            epoch: until.epoch(),
            is_beyond,
            rings: SmallVec::new(),
            recorded: SmallVec::new(),
            has_unplaced: false,
            log: None,
            is_covered: false,
        };
        if let Some(logs) = shared.kept.lock() {
            let filters = std::slice::from_ref(&request.filter);
            walk.names = logs.matched(filters, now)?;
            walk.recorded = logs.recorded().collect();
            walk.is_covered = logs.cover(filters, |shard| oldest_place(shared, shard));
        }
        walk.rings = (0..shared.bus.shards() as u16).map(|shard| walk.ring(shard, &of_shards)).collect();
        Ok(walk.open_log(&of_shards, maker)?.then_some(walk))
    }

    /// Returns a reader of the part of a range that is in a ring.
    fn ring(&self, shard: u16, range: &ShardRange<'_>) -> RingWalk {
        let shared = self.shared;
        let low = range.low.map_or((0, 0), |low| place_in(low, shard));
        let recorded = self.recorded.get(usize::from(shard)).filter(|_| self.is_covered);
        let low = low.max(recorded.copied().unwrap_or_default());
        RingWalk {
            shard,
            next: ring_sequence(shared, shard, low).max(shared.bus.oldest(shard)),
            end: ring_sequence(shared, shard, range.end(shard)),
            events: VecDeque::new(),
        }
    }

    /// Opens the engine's log if the page needs it. Returns false if a worker has to do that.
    fn open_log(&mut self, range: &ShardRange<'_>, maker: PageMaker) -> Result<bool, NoPage> {
        let Some(history) = self.shared.engine.as_ref().and_then(Engine::history) else { return Ok(true) };
        if self.is_covered || self.is_in_ring() {
            return Ok(true);
        }
        if maker == PageMaker::Loop {
            return Ok(false);
        }
        let end = range.end(0).min(oldest_place(self.shared, 0));
        self.log = Some(LogWalk::new(history, self.low(), end)?);
        Ok(true)
    }

    /// Returns the place in a single shard at which the range of the request begins.
    fn low(&self) -> LogPlace {
        let after = self.request.place.as_ref().filter(|_| !self.request.is_desc);
        after.map_or((0, 0), |after| place_in(after, 0))
    }

    /// Returns whether the ring has everything in the range. An engine's log has one shard here.
    fn is_in_ring(&self) -> bool {
        let oldest = oldest_place(self.shared, 0);
        oldest <= self.low() || oldest == (self.epoch, 0)
    }

    /// Returns the units of work for preparing the walk.
    pub(super) fn units(&self) -> u32 {
        2 + u32::try_from(self.names.len()).unwrap_or(u32::MAX)
    }

    /// Returns the next event of the range, and whether it is skipped because a log has evicted it.
    pub(super) fn next(&mut self) -> Result<Option<(Event, bool)>, NoPage> {
        loop {
            let of_logs = self.next_of_logs();
            let of_rings = self.next_of_rings()?;
            let (place, ring) = match (of_logs, of_rings) {
                (None, None) => return Ok(None),
                (Some(place), None) => (place, None),
                (None, Some((place, ring))) => (place, Some(ring)),
                // A log and the ring may both have it.
                (Some(log), Some((ring, at))) if log == ring => {
                    self.rings[at].events.pop_front();
                    (log, None)
                }
                (Some(log), Some((ring, _))) if (log < ring) != self.request.is_desc => (log, None),
                (Some(_), Some((ring, at))) => (ring, Some(at)),
            };
            let event = match ring {
                Some(at) => self.rings[at].events.pop_front(),
                None => self.logs.pop_front().map(|event| (event, false)),
            };
            if self.range.contains(place) {
                if self.request.is_desc {
                    self.range.until = (place.0, place.1.saturating_sub(1));
                } else {
                    self.range.after = place;
                }
                return Ok(event);
            }
        }
    }

    /// Returns the place of the logs' next event.
    fn next_of_logs(&mut self) -> Option<OrderPlace> {
        if self.logs.is_empty() && !self.has_read_logs && !self.names.is_empty() {
            let logs = self.shared.kept.lock()?;
            let (range, is_desc) = (self.range, self.request.is_desc);
            logs.read_page(&self.names, range, is_desc, self.now, CHUNK, &mut self.logs);
            // Later ones are read from the ring.
            self.has_read_logs = self.logs.len() < CHUNK;
            let recorded = &self.recorded;
            self.logs.retain(|event| is_before(event, recorded));
        }
        order_place(self.logs.front()?, self.shared.bus.shards())
    }

    /// Returns the place of the rings' next event, and its ring.
    fn next_of_rings(&mut self) -> Result<Option<(OrderPlace, usize)>, NoPage> {
        let mut found: Option<(OrderPlace, usize)> = None;
        for at in 0..self.rings.len() {
            let Some(place) = self.next_of_ring(at)? else { continue };
            if found.is_none_or(|(other, _)| (place < other) != self.request.is_desc) {
                found = Some((place, at));
            }
        }
        Ok(found)
    }

    fn next_of_ring(&mut self, at: usize) -> Result<Option<OrderPlace>, NoPage> {
        let shards = self.shared.bus.shards();
        loop {
            if let Some((event, _)) = self.rings[at].events.front() {
                match order_place(event, shards) {
                    Some(place) => return Ok(Some(place)),
                    None => {
                        self.has_unplaced = true;
                        self.rings[at].events.pop_front();
                        continue;
                    }
                }
            }
            let is_ring_over = self.rings[at].next >= self.rings[at].end;
            // The log has what came before the ring.
            let log =
                self.log.as_mut().filter(|log| !log.is_over() && (is_ring_over || !self.request.is_desc));
            let mut events: VecDeque<(Event, bool)> = match log {
                Some(log) => {
                    let events = log.read(self.request.is_desc)?;
                    events.into_iter().map(|event| (event, false)).collect()
                }
                None if is_ring_over => return Ok(None),
                None => self.read_ring(at),
            };
            if let Some(logs) = self.shared.kept.lock() {
                for (event, is_hidden) in &mut events {
                    *is_hidden = is_before(event, &self.recorded) && logs.covers_event(event);
                }
            }
            self.rings[at].events = events;
        }
    }

    /// Reads the next events of a ring.
    fn read_ring(&mut self, at: usize) -> VecDeque<(Event, bool)> {
        let RingWalk { shard, next, end, .. } = self.rings[at];
        let (from, to) = if self.request.is_desc {
            (end.saturating_sub(CHUNK as u64).max(next), end)
        } else {
            (next, (next + CHUNK as u64).min(end))
        };
        let mut events = VecDeque::new();
        self.shared.bus.read_range(shard, from, to, |event| events.push_back((event.clone(), false)));
        // Without an engine that shows in the end.
        self.has_unplaced |= self.shared.engine.is_some() && self.shared.bus.oldest(shard) > from;
        let ring = &mut self.rings[at];
        if self.request.is_desc {
            events.make_contiguous().reverse();
            ring.end = from;
        } else {
            ring.next = to;
        }
        events
    }

    /// Returns whether, as far as is known, nothing of the request's range is missing.
    pub(super) fn is_complete(&self) -> bool {
        if self.is_beyond || self.has_unplaced {
            return false;
        }
        let EventsQuery { filter, since, .. } = self.request;
        let after = self.request.place.as_ref().filter(|_| !self.request.is_desc);
        if let Some(logs) = self.shared.kept.lock() {
            if !logs.is_whole_after(filter, &self.names, after, *since, self.now) {
                return false;
            }
            if logs.cover(std::slice::from_ref(filter), |shard| oldest_place(self.shared, shard)) {
                return true;
            }
        }
        let Some(engine) = &self.shared.engine else { return self.are_rings_whole(after) };
        match &self.log {
            Some(log) => {
                let is_first = |oldest: LogPlace| oldest == self.low() || oldest == (self.epoch, 0);
                let is_older = since.is_some_and(|since| log.is_oldest_before(since));
                !log.has_hole() && (is_older || log.oldest().is_some_and(is_first))
            }
            // A node that follows what its clients want has not followed the rest.
            None => engine.history().is_some() && !self.is_covered,
        }
    }

    /// Returns whether the rings of a bus without an engine have everything of the range.
    fn are_rings_whole(&self, after: Option<&Position>) -> bool {
        let (bus, since) = (&self.shared.bus, self.request.since);
        (0..bus.shards() as u16).all(|shard| {
            let oldest = bus.oldest(shard);
            if oldest <= after.map_or(0, |after| place_in(after, shard).1) {
                return true;
            }
            // Evicted events came before it.
            let mut is_older = false;
            bus.read_range(shard, oldest, oldest + 1, |event| {
                is_older = since.is_some_and(|since| event.timestamp() < since);
            });
            is_older
        })
    }
}

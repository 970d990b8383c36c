//! A page of past events: from the kept logs, and from the rings for events under no rule.
//!
//! Invariants:
//! - A page that a loop makes takes one turn, within a budget of its own: it ends early if that is spent, after at
//!   least one event was examined. If even that one takes more, the page is left to a worker, which looks at one event
//!   whatever it costs.
//! - Each event of the range is looked at once, in the order in which the loops read events, or backwards.
//! - A page is reported as complete only if nothing of its range is known or suspected to be missing.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::event::{Event, Position, Sequence, Since, Timestamp};
use crate::filter::{Filter, FilterLimits, Matcher};
use crate::kept::{LogName, OrderPlace, OrderRange, TooManyLogs, order_place};
use crate::server::limits::budget::Budget;
use crate::server::session::kept::LOOKS_A_UNIT;
use crate::server::shared::Shared;
use crate::server::shared::resume::oldest_place;

/// Maximum units of work for one page. With the last step of a match, of 2,500 units, it is at most the largest step of
/// a turn.
const PAGE_UNITS: u32 = 1_500;

/// Maximum size of a page's events, in bytes. A single larger event is a page of its own, which a worker makes.
pub(crate) const PAGE_BYTES: usize = 1 << 20;

/// Number of events taken from the logs, or from a ring, together.
const CHUNK: usize = 64;

/// Beginning of an answer.
const HEAD: &str = r#"{"events":["#;

/// Instructions for compiling a byte of a filter.
const COMPILE_INSTRUCTIONS: usize = 50;

/// Instructions for one byte of an event's JSON: it is copied three times.
const BYTE_INSTRUCTIONS: usize = 2;

/// Instructions of conditions after which the test of an event stops.
const STEP_INSTRUCTIONS: u64 = 500_000;

/// Query of a page.
#[derive(Clone, Debug)]
pub(crate) struct EventsQuery {
    pub(crate) filter: Filter,
    pub(crate) is_desc: bool,
    pub(crate) limit: usize,
    /// Place after which the page begins, or before which with `is_desc`; `None` for the beginning, or the end.
    pub(crate) place: Option<Position>,
    /// Time of the oldest wanted event.
    pub(crate) since: Option<Timestamp>,
}

/// Page of events.
#[derive(Debug)]
pub(crate) struct EventsPage {
    /// Beginning of the answer: the events as JSON, separated by commas.
    events: String,
    /// Place to continue from; `None` if nothing is left.
    next: Option<Since>,
    is_complete: bool,
}

impl EventsPage {
    /// Returns the place to continue from, once.
    pub(crate) fn take_next(&mut self) -> Option<Since> {
        self.next.take()
    }

    /// Returns the answer, with the place to continue from as the client may see it.
    pub(crate) fn into_body(self, next: Option<&Since>) -> String {
        let Self { events: mut body, is_complete, .. } = self;
        body.push_str(r#"],"next":"#);
        match next {
            Some(next) => body.extend(["\"", &next.to_string(), "\""]),
            None => body.push_str("null"),
        }
        body.push_str(if is_complete { r#","complete":true}"# } else { r#","complete":false}"# });
        body
    }
}

/// Thread that makes a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageMaker {
    /// A loop, within a turn.
    Loop,
    /// A worker: it looks at the first event whatever that costs.
    Worker,
}

/// Outcome of making a page.
#[derive(Debug)]
pub(crate) enum MadePage {
    Page(EventsPage),
    /// The page takes more than a turn may spend; its only event has about this many bytes.
    TooLong(usize),
}

/// Makes a page of the events up to the position `until`. Returns it with the units that it cost.
pub(crate) fn make_page(
    shared: &Shared,
    request: &EventsQuery,
    until: &Position,
    now: Timestamp,
    maker: PageMaker,
) -> Result<(MadePage, u32), TooManyLogs> {
    let in_turn = maker == PageMaker::Loop;
    let prepared = compile_units(&request.filter).saturating_add(look_units(shared, &request.filter));
    if in_turn && prepared > PAGE_UNITS / 2 {
        return Ok((MadePage::TooLong(0), 0));
    }
    let mut walk = PageWalk::new(shared, request, until, now)?;
    let mut filter = PageFilter::new(&request.filter);
    let mut budget = Budget::new(PAGE_UNITS);
    budget.spend(prepared.min(PAGE_UNITS / 2) + walk.units);
    let (mut page, mut count) = (EventsPage::begin(), 0);
    let mut last: Option<Event> = None;
    while let Some((event, is_hidden)) = walk.next() {
        budget.spend(1);
        let is_first = last.is_none();
        let is_full = count == request.limit || (!is_first && budget.is_spent());
        let is_wanted = if is_full {
            None
        } else if is_hidden || request.since.is_some_and(|since| event.timestamp() < since) {
            Some(false)
        } else {
            filter.matches(&event, is_first && !in_turn, &mut budget)
        };
        let size = event.weight() as usize;
        let has_room = || page.events.len() + size <= PAGE_BYTES && budget.left() >= byte_units(size);
        match is_wanted {
            Some(true) if has_room() || (is_first && !in_turn) => {
                let charged = byte_units(page.events.len());
                page.add(&event);
                budget.spend(byte_units(page.events.len()) - charged);
                count += 1;
            }
            Some(false) => {}
            _ if is_first => return Ok((MadePage::TooLong(size), budget.spent())),
            _ => {
                page.next = last.and_then(|last| place_of(&last, shared));
                break;
            }
        }
        last = Some(event);
    }
    page.is_complete = walk.is_complete();
    Ok((MadePage::Page(page), budget.spent()))
}

impl EventsPage {
    fn begin() -> Self {
        Self { events: String::from(HEAD), next: None, is_complete: false }
    }

    fn add(&mut self, event: &Event) {
        if self.events.len() > HEAD.len() {
            self.events.push(',');
        }
        self.events.push_str(&event.to_json());
    }
}

/// Returns the units for copying bytes of events.
fn byte_units(bytes: usize) -> u32 {
    u32::try_from(bytes.saturating_mul(BYTE_INSTRUCTIONS) / 1_000).unwrap_or(u32::MAX)
}

/// Returns the units for compiling a filter.
fn compile_units(filter: &Filter) -> u32 {
    let mut budget = Budget::new(0);
    budget.spend_bytes(filter.spelled_len() + 20, COMPILE_INSTRUCTIONS);
    budget.spent()
}

/// Returns the units for finding the logs that a filter names or matches.
fn look_units(shared: &Shared, filter: &Filter) -> u32 {
    let looks = shared.kept.lock().map_or(0, |logs| logs.looks(std::slice::from_ref(filter)));
    u32::try_from(looks / LOOKS_A_UNIT).unwrap_or(u32::MAX)
}

/// Returns the place of an event that has one in the order.
fn place_of(event: &Event, shared: &Shared) -> Option<Since> {
    match event.position() {
        Some(position) => Some(Since::Position(position.clone())),
        None if shared.bus.shards() == 1 => event.id().map(Since::Event),
        None => None,
    }
}

/// Compiled filter of a page.
struct PageFilter {
    matcher: Matcher,
    found: Vec<crate::filter::ClassId>,
}

impl PageFilter {
    fn new(filter: &Filter) -> Self {
        let mut matcher = Matcher::new(FilterLimits::default());
        matcher.insert(filter);
        Self { matcher, found: Vec::new() }
    }

    /// Returns whether an event matches; `None` if the budget ends before that is known, unless it has to be decided.
    fn matches(&mut self, event: &Event, is_decided: bool, budget: &mut Budget) -> Option<bool> {
        loop {
            let worked = self.matcher.worked();
            let is_over = self.matcher.matches_within(event, &mut self.found, STEP_INSTRUCTIONS);
            let units = (self.matcher.worked() - worked) / 1_000;
            budget.spend(u32::try_from(units).unwrap_or(u32::MAX));
            if is_over {
                return Some(!self.found.is_empty());
            }
            if budget.is_spent() && !is_decided {
                self.matcher.give_up();
                return None;
            }
        }
    }
}

/// Reader of the logs and rings, merged.
struct PageWalk<'a> {
    shared: &'a Shared,
    request: &'a EventsQuery,
    now: Timestamp,
    names: Vec<LogName>,
    /// Rest of the range in the logs.
    range: OrderRange,
    logs: VecDeque<Event>,
    has_read_logs: bool,
    /// Whether a part of the range is of an earlier epoch, so that events of it are missing.
    is_beyond: bool,
    rings: SmallVec<[RingWalk; 1]>,
    /// Next sequence of each shard that was not recorded when the page began.
    recorded: SmallVec<[Sequence; 4]>,
    /// Whether an event in a ring has no place in the order.
    has_unplaced: bool,
    units: u32,
}

/// Reader of one ring.
struct RingWalk {
    shard: u16,
    next: Sequence,
    end: Sequence,
    /// Next events, and whether each belongs to a log instead.
    events: VecDeque<(Event, bool)>,
}

impl<'a> PageWalk<'a> {
    fn new(
        shared: &'a Shared,
        request: &'a EventsQuery,
        until: &Position,
        now: Timestamp,
    ) -> Result<Self, TooManyLogs> {
        let is_desc = request.is_desc;
        let place = request.place.as_ref();
        let is_beyond = place.is_some_and(|place| place.epoch() != until.epoch());
        let mut range = OrderRange { after: (0, 0), until: until.passed() };
        let (mut low, mut high) = (None, until.sequences());
        match place {
            // Nothing of another epoch is left: all events come after it.
            Some(_) if is_beyond && is_desc => range.until = (0, 0),
            Some(_) if is_beyond => {}
            Some(place) if is_desc => {
                let (epoch, passed) = place.passed();
                range.until = range.until.min((epoch, passed.saturating_sub(1)));
                high = place.sequences();
            }
            Some(place) => {
                range.after = place.passed();
                low = Some(place.sequences());
            }
            None => {}
        }
        let mut names = Vec::new();
        let mut recorded = SmallVec::new();
        let mut units = 2;
        let mut is_covered = false;
        if let Some(logs) = shared.kept.lock() {
            let filters = std::slice::from_ref(&request.filter);
            names = logs.matched(filters, now)?;
            recorded = logs.recorded().collect();
            is_covered = logs.cover(filters, |shard| oldest_place(shared, shard));
        }
        units += u32::try_from(names.len()).unwrap_or(u32::MAX);
        let rings = (0..shared.bus.shards()).map(|shard| {
            let at = |all: Option<&[Sequence]>| all.and_then(|all| all.get(shard)).copied();
            let recorded = at(Some(&recorded)).filter(|_| is_covered).unwrap_or_default();
            let ring = shard as u16;
            let next = at(low).unwrap_or_default().max(shared.bus.oldest(ring)).max(recorded);
            let end = at(Some(high)).unwrap_or_default().min(at(Some(until.sequences())).unwrap_or_default());
            RingWalk { shard: ring, next, end, events: VecDeque::new() }
        });
        let rings = rings.collect();
        Ok(Self {
            shared,
            request,
            now,
            names,
            range,
            logs: VecDeque::new(),
            has_read_logs: false,
            is_beyond,
            rings,
            recorded,
            has_unplaced: false,
            units,
        })
    }

    /// Returns the next event of the range, and whether it is skipped because a log has evicted it.
    fn next(&mut self) -> Option<(Event, bool)> {
        loop {
            let of_logs = self.next_of_logs();
            let of_rings = self.next_of_rings();
            let (place, ring) = match (of_logs, of_rings) {
                (None, None) => return None,
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
                Some(at) => self.rings[at].events.pop_front()?,
                None => (self.logs.pop_front()?, false),
            };
            if self.range.contains(place) {
                if self.request.is_desc {
                    self.range.until = (place.0, place.1.saturating_sub(1));
                } else {
                    self.range.after = place;
                }
                return Some(event);
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
            let is_recorded = |event: &Event| {
                event.id().is_some_and(|id| {
                    self.recorded.get(usize::from(id.shard)).is_some_and(|next| id.sequence < *next)
                })
            };
            self.has_read_logs = self.logs.len() < CHUNK;
            self.logs.retain(is_recorded);
        }
        order_place(self.logs.front()?, self.shared.bus.shards())
    }

    /// Returns the place of the rings' next event, and its ring.
    fn next_of_rings(&mut self) -> Option<(OrderPlace, usize)> {
        let mut found: Option<(OrderPlace, usize)> = None;
        for at in 0..self.rings.len() {
            let Some(place) = self.next_of_ring(at) else { continue };
            if found.is_none_or(|(other, _)| (place < other) != self.request.is_desc) {
                found = Some((place, at));
            }
        }
        found
    }

    fn next_of_ring(&mut self, at: usize) -> Option<OrderPlace> {
        let shards = self.shared.bus.shards();
        loop {
            if let Some((event, _)) = self.rings[at].events.front() {
                match order_place(event, shards) {
                    Some(place) => return Some(place),
                    None => {
                        self.has_unplaced = true;
                        self.rings[at].events.pop_front();
                        continue;
                    }
                }
            }
            let RingWalk { shard, next, end, .. } = self.rings[at];
            if next >= end {
                return None;
            }
            let (from, to) = if self.request.is_desc {
                (end.saturating_sub(CHUNK as u64).max(next), end)
            } else {
                (next, (next + CHUNK as u64).min(end))
            };
            let mut events = VecDeque::new();
            self.shared.bus.read_range(shard, from, to, |event| events.push_back((event.clone(), false)));
            if let Some(logs) = self.shared.kept.lock() {
                let recorded = self.recorded.get(usize::from(shard)).copied().unwrap_or_default();
                let is_before = |event: &Event| event.id().is_some_and(|id| id.sequence < recorded);
                for (event, is_hidden) in &mut events {
                    *is_hidden = is_before(event) && logs.covers_event(event);
                }
            }
            let ring = &mut self.rings[at];
            if self.request.is_desc {
                events.make_contiguous().reverse();
                ring.end = from;
            } else {
                ring.next = to;
            }
            ring.events = events;
        }
    }

    /// Returns whether, as far as is known, nothing of the request's range is missing.
    fn is_complete(&self) -> bool {
        if self.is_beyond || self.has_unplaced {
            return false;
        }
        let EventsQuery { filter, since, .. } = self.request;
        let after = self.request.place.as_ref().filter(|_| !self.request.is_desc);
        let bus = &self.shared.bus;
        if let Some(logs) = self.shared.kept.lock() {
            if !logs.is_whole_after(filter, &self.names, after, *since, self.now) {
                return false;
            }
            if logs.cover(std::slice::from_ref(filter), |shard| oldest_place(self.shared, shard)) {
                return true;
            }
        }
        (0..bus.shards() as u16).all(|shard| {
            let oldest = bus.oldest(shard);
            let next = after.and_then(|after| after.sequences().get(usize::from(shard)));
            if oldest <= next.copied().unwrap_or_default() {
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

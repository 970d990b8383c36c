//! A page of past events: from the kept logs, and for events under no rule from the rings, or an engine's log.
//!
//! Invariants:
//! - A page that a loop makes takes one turn, within a budget of its own: it ends early if that is spent, after at
//!   least one event was examined. If even that one takes more, the page is left to a worker, which looks at one event
//!   whatever it costs.
//! - Each event of the range is looked at once, in the order in which the loops read events, or backwards.
//! - A page is reported as complete only if nothing of its range is known or suspected to be missing.
//! - A loop reads no engine's log: a page that needs one is left to a worker.

mod log;
mod query;
mod walk;

use crate::event::{Event, Position, Since, Timestamp};
use crate::filter::{Filter, FilterLimits, Matcher};
use crate::server::limits::budget::Budget;
use crate::server::session::kept::LOOKS_A_UNIT;
use crate::server::shared::Shared;
pub(crate) use query::{EventsQuery, NoPage, PageMaker};
use walk::PageWalk;

/// Maximum units of work for one page. With the last step of a match, of 2,500 units, it is at most the largest step of
/// a turn.
const PAGE_UNITS: u32 = 1_500;

/// Maximum size of a page's events, in bytes. A single larger event is a page of its own, which a worker makes.
pub(crate) const PAGE_BYTES: usize = 1 << 20;

/// Beginning of an answer.
const HEAD: &str = r#"{"events":["#;

/// Instructions for compiling a byte of a filter.
const COMPILE_INSTRUCTIONS: usize = 50;

/// Instructions for one byte of an event's JSON: it is copied three times.
const BYTE_INSTRUCTIONS: usize = 2;

/// Instructions of conditions after which the test of an event stops.
const STEP_INSTRUCTIONS: u64 = 500_000;

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
) -> Result<(MadePage, u32), NoPage> {
    let in_turn = maker == PageMaker::Loop;
    let prepared = compile_units(&request.filter).saturating_add(look_units(shared, &request.filter));
    if in_turn && prepared > PAGE_UNITS / 2 {
        return Ok((MadePage::TooLong(0), 0));
    }
    let Some(mut walk) = PageWalk::new(shared, request, until, now, maker)? else {
        return Ok((MadePage::TooLong(0), prepared));
    };
    let mut filter = PageFilter::new(&request.filter);
    let mut budget = Budget::new(PAGE_UNITS);
    budget.spend(prepared.min(PAGE_UNITS / 2) + walk.units());
    let (mut page, mut count) = (EventsPage::begin(), 0);
    let mut last: Option<Event> = None;
    while let Some((event, is_hidden)) = walk.next()? {
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

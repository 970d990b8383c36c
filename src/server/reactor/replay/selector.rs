//! Decides which past events a client gets: those that its new subscription matches and that none of its other
//! subscriptions has delivered.
//!
//! Invariants:
//! - The decision is that of [`Filter::matches`], the definition. Other subscriptions count from the place at which
//!   they began.
//! - The cost of a filter is charged to the turn's budget: its compilation, and each event that it is matched
//!   against.
//!
//! A small filter without conditions on the payload is not compiled: that takes no memory, and up to [`PLAIN_BYTES`] it
//! is about as fast. Larger filters are compiled. A client's other subscriptions are one matcher, because there may be
//! a thousand of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use smallvec::{SmallVec, smallvec};

use crate::dialect::Missed;
use crate::event::{Attribute, Event, EventId};
use crate::filter::{ClassId, Filter, FilterLimits, Matcher};
use crate::server::limits::budget::{Budget, STEP_MAX};
use crate::server::session::began::{Began, DeliveredElsewhere};

/// Maximum size of a filter that is not compiled, in encoded bytes.
const PLAIN_BYTES: usize = 96;

/// Instructions for compiling a byte of a filter: a wildcard pattern of two-byte segments, the most expensive.
const COMPILE_INSTRUCTIONS: usize = 50;

/// Id of an event that was not published.
const NO_EVENT: EventId = EventId { epoch: 0, shard: 0, sequence: 0 };

/// Maximum charge for one step of the test of an event. Two tests and the rest of a step stay below the amount by which a budget
/// may be overdrawn.
const CHARGE_MAX: u32 = STEP_MAX / 3;

/// Instructions of conditions after which the test of an event stops.
const STEP_INSTRUCTIONS: u64 = CHARGE_MAX as u64 * 1_000 / 2;

/// Decision for one replay.
#[derive(Debug)]
pub(super) struct ReplaySelector {
    filter: Test,
    /// Filters that make up `filter`.
    requested: SmallVec<[Filter; 1]>,
    wants: Wants,
    except: Test,
    /// Places at which the subscriptions of `except` began: of a single filter, and of each class of a matcher.
    plain_began: Option<Began>,
    began: HashMap<ClassId, Option<Began>>,
    /// Subscriptions that are not in `except` yet.
    pending: Vec<DeliveredElsewhere>,
    /// Filters that are not in `filter` yet.
    wanted: Vec<Filter>,
    /// Last event that was decided, and whether the client gets it.
    decided: Option<(EventId, bool)>,
}

/// Share of missing events that a filter matches, if that is known without the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    Everything,
    Some,
    Nothing,
}

/// Filters of which one must match.
#[derive(Debug)]
enum Test {
    /// Matches nothing.
    None,
    Plain(Filter),
    Compiled(Box<Compiled>),
}

#[derive(Debug)]
struct Compiled {
    matcher: Matcher,
    found: Vec<ClassId>,
    /// Last event, and whether its match is finished.
    tested: Option<(EventId, bool)>,
}

impl ReplaySelector {
    /// Creates a selector of events that `filter` matches and that none of `except` delivered.
    pub(super) fn new(filter: Filter, except: Vec<DeliveredElsewhere>) -> Self {
        let wants = match &filter {
            filter if filter.is_nothing() => Wants::Nothing,
            filter if filter.is_everything() && except.is_empty() => Wants::Everything,
            _ => Wants::Some,
        };
        let mut selector = Self {
            filter: Test::None,
            requested: smallvec![filter.clone()],
            wants,
            except: Test::None,
            plain_began: None,
            began: HashMap::new(),
            pending: except,
            wanted: Vec::new(),
            decided: None,
        };
        selector.filter =
            if is_plain(&filter) { Test::Plain(filter) } else { Test::Compiled(Compiled::new(&filter)) };
        if let [one] = selector.pending.as_slice()
            && is_plain(&one.filter)
        {
            selector.except = Test::Plain(one.filter.clone());
            selector.plain_began.clone_from(&one.began);
            selector.pending.clear();
        }
        selector
    }

    /// Creates a selector of events that one of `filters` matches and that none of `except` delivered.
    pub(super) fn any(filters: Vec<Filter>, except: Vec<DeliveredElsewhere>) -> Self {
        let mut filters = filters;
        match filters.pop() {
            Some(one) if filters.is_empty() => Self::new(one, except),
            last => {
                let is_alone = except.is_empty();
                let mut selector = Self::new(Filter::new(), except);
                selector.filter = Test::None;
                selector.wanted = filters;
                selector.wanted.extend(last);
                selector.requested = selector.wanted.iter().cloned().collect();
                selector.wants = match selector.wanted.as_slice() {
                    all if is_alone && all.iter().any(Filter::is_everything) => Wants::Everything,
                    all if all.iter().all(Filter::is_nothing) => Wants::Nothing,
                    _ => Wants::Some,
                };
                selector
            }
        }
    }

    /// Returns whether every live event of this client belongs to this replay.
    pub(super) fn is_alone(&self) -> bool {
        self.pending.is_empty() && matches!(self.except, Test::None)
    }

    /// Returns whether events with equal attributes have one decision, which takes a single step.
    pub(super) fn decides_by_attributes(&self) -> bool {
        self.is_alone() && self.wanted.is_empty() && matches!(self.filter, Test::Plain(_))
    }

    /// Returns the number of dropped events that the client misses; `None` if it wanted none of them.
    pub(super) fn missed(&self, gone: Missed) -> Option<Missed> {
        match self.wants {
            Wants::Everything => Some(gone),
            Wants::Some => Some(gone.as_bound()),
            Wants::Nothing => None,
        }
    }

    /// Returns the filters of which one must match.
    pub(super) fn requested(&self) -> &[Filter] {
        &self.requested
    }

    /// Compiles filters that are not compiled yet. Returns whether all are.
    pub(super) fn prepare(&mut self, budget: &mut Budget) -> bool {
        while let Some(filter) = self.wanted.last() {
            if budget.is_spent() {
                return false;
            }
            budget.spend_bytes(filter.spelled_len() + 20, COMPILE_INSTRUCTIONS);
            if let Test::Compiled(compiled) = &mut self.filter {
                compiled.add(filter);
            } else {
                self.filter = Test::Compiled(Compiled::new(filter));
            }
            self.wanted.pop();
        }
        while !self.pending.is_empty() {
            if budget.is_spent() {
                return false;
            }
            let Some(DeliveredElsewhere { filter, began }) = self.pending.pop() else { break };
            budget.spend_bytes(filter.spelled_len() + 20, COMPILE_INSTRUCTIONS);
            let class = match &mut self.except {
                Test::Compiled(compiled) => compiled.add(&filter),
                other => {
                    let mut compiled = Compiled::empty();
                    let class = compiled.add(&filter);
                    *other = Test::Compiled(compiled);
                    class
                }
            };
            match self.began.entry(class) {
                Entry::Vacant(place) => drop(place.insert(began)),
                Entry::Occupied(mut place) => {
                    let other = place.get_mut().take();
                    *place.get_mut() = Began::earlier(other, began);
                }
            }
        }
        true
    }

    /// Returns whether the client gets this event. Decides on it first if that has not been done, whatever it costs. Requires
    /// that [`Self::prepare`] returned true.
    pub(super) fn wants(&mut self, event: &Event, budget: &mut Budget) -> bool {
        if event.id().is_none() {
            self.forget_events();
        }
        while !self.decides(event, budget) {}
        self.decided.is_some_and(|(_, is_wanted)| is_wanted)
    }

    /// Decides on an event, and charges the work to the budget. Returns false if the budget ends before the decision:
    /// the next call for the event continues.
    pub(super) fn decides(&mut self, event: &Event, budget: &mut Budget) -> bool {
        let id = event.id().unwrap_or(NO_EVENT);
        if self.decided.is_some_and(|(decided, _)| decided == id) {
            return true;
        }
        let Some(is_requested) = self.filter.matches(event, id, budget) else { return false };
        let is_elsewhere = if is_requested { self.except.matches(event, id, budget) } else { Some(false) };
        let Some(is_elsewhere) = is_elsewhere else { return false };
        self.decided = Some((id, is_requested && !(is_elsewhere && self.began_before(event))));
        true
    }

    fn forget_events(&mut self) {
        self.decided = None;
        for test in [&mut self.filter, &mut self.except] {
            if let Test::Compiled(compiled) = test {
                compiled.tested = None;
            }
        }
    }

    /// Returns whether one of the client's other subscriptions that match an event had begun before it.
    fn began_before(&self, event: &Event) -> bool {
        match &self.except {
            Test::None => false,
            Test::Plain(_) => Began::covers(self.plain_began.as_ref(), event),
            Test::Compiled(compiled) => compiled.found.iter().any(|class| {
                let began = self.began.get(class).and_then(Option::as_ref);
                Began::covers(began, event)
            }),
        }
    }

    /// Returns the bytes that the selector holds.
    pub(super) fn held_bytes(&self) -> usize {
        let pending = self
            .pending
            .iter()
            .map(|delivered| delivered.filter.bytes().len() + size_of::<DeliveredElsewhere>());
        let filters = self.requested.iter().chain(&self.wanted);
        let filters: usize = filters.map(|filter| filter.bytes().len() + size_of::<Filter>()).sum();
        let began = self.began.capacity() * size_of::<(ClassId, Option<Began>)>();
        self.filter.held_bytes() + self.except.held_bytes() + began + filters + pending.sum::<usize>()
    }
}

/// Returns whether a filter is used without compiling it. Filters with conditions on the payload are compiled: each
/// condition would walk over the whole payload.
fn is_plain(filter: &Filter) -> bool {
    let bytes = filter.bytes();
    // Each segment of a pattern with `**` is compared with each segment of a value: at most 1.7 million instructions.
    filter.spelled_len() <= PLAIN_BYTES
        && filter.comparisons_count().0 == 0
        && memchr::memmem::find(bytes, b"**").is_none()
}

impl Test {
    /// Returns whether an event matches; `None` if the budget ends before that is known. The next call for the event
    /// continues.
    fn matches(&mut self, event: &Event, id: EventId, budget: &mut Budget) -> Option<bool> {
        match self {
            Self::None => Some(false),
            Self::Plain(filter) => {
                budget.spend(1 + unindexed_cost(filter.spelled_len(), event));
                Some(filter.matches(event))
            }
            Self::Compiled(compiled) => compiled.matches(event, id, budget),
        }
    }

    fn held_bytes(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Plain(filter) => filter.bytes().len(),
            Self::Compiled(compiled) => compiled.matcher.memory_bytes(),
        }
    }
}

impl Compiled {
    fn empty() -> Box<Self> {
        let matcher = Matcher::new(FilterLimits::default());
        Box::new(Self { matcher, found: Vec::new(), tested: None })
    }

    fn new(filter: &Filter) -> Box<Self> {
        let mut compiled = Self::empty();
        compiled.add(filter);
        compiled
    }

    fn add(&mut self, filter: &Filter) -> ClassId {
        self.matcher.insert(filter)
    }

    fn matches(&mut self, event: &Event, id: EventId, budget: &mut Budget) -> Option<bool> {
        if self.tested != Some((id, true)) {
            if self.tested != Some((id, false)) {
                self.matcher.give_up();
            }
            let worked = self.matcher.worked();
            let is_over = self.matcher.matches_within(event, &mut self.found, STEP_INSTRUCTIONS);
            self.tested = Some((id, is_over));
            let walked = u32::try_from((self.matcher.worked() - worked) / 1_000).unwrap_or(u32::MAX);
            let all = 2 + self.found.len() as u32 / 20;
            budget.spend(all.saturating_add(walked).min(CHARGE_MAX));
            if !is_over {
                return None;
            }
        }
        Some(!self.found.is_empty())
    }
}

/// Returns the approximate cost of testing conditions against an event one by one, in budget units.
fn unindexed_cost(bytes: usize, event: &Event) -> u32 {
    let values = Attribute::ALL.iter().filter_map(|attribute| event.attribute(*attribute));
    let values: usize = values.map(str::len).sum();
    // A pattern is tried at each segment of a value: about two instructions for a byte of each.
    let sets = bytes * values / 500;
    u32::try_from(sets).unwrap_or(u32::MAX).min(CHARGE_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::EventId;
    use crate::filter::Operator;

    fn filter() -> impl Strategy<Value = Filter> {
        let value = prop::sample::select(vec!["a.b", "a.*", "a.**", "**.c", "*.b.c", "x", "a:b", "**:b**"]);
        let set = prop::collection::vec(value, 0..40);
        (set.clone(), set.clone(), set, prop::option::of(0..4i64)).prop_map(
            |(types, not_types, sources, least)| {
                let filter =
                    Filter::new().types(types).not_types(not_types.into_iter().take(1)).sources(sources);
                match least {
                    Some(least) => filter.payload("n", Operator::GreaterOrEqual, [least]),
                    None => filter,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn the_selector_agrees_with_the_definition(
            wanted in filter(), except in prop::collection::vec((filter(), prop::option::of(0..8u64)), 0..6),
            types in prop::collection::vec(prop::sample::select(vec!["a.b", "a.b.c", "x", "a:b", "c", "z"]), 1..8)
        ) {
            let except: Vec<DeliveredElsewhere> = except.into_iter().map(|(filter, next)| {
                DeliveredElsewhere { filter, began: next.map(|next| Began::from(crate::event::Position::new(3, [next]))) }
            }).collect();
            let mut selector = ReplaySelector::new(wanted.clone(), except.clone());
            while !selector.prepare(&mut Budget::new(1)) {}
            for (sequence, event_type) in types.into_iter().enumerate() {
                let event = Event::builder(event_type).source("a.b").json(format!(r#"{{"n":{sequence}}}"#)).build().expect("valid");
                event.set_id(EventId { epoch: 3, shard: 0, sequence: sequence as u64 });
                let by_definition = wanted.matches(&event) && !except.iter().any(|other| other.has(&event));
                prop_assert_eq!(selector.wants(&event, &mut Budget::new(1000)), by_definition);
            }
        }
    }

    #[test]
    fn one_of_several_filters_is_enough() {
        for count in [1, 2, 300] {
            let filters = (0..count).map(|n| Filter::new().types([format!("t{n}.*")])).collect();
            let mut selector = ReplaySelector::any(filters, Vec::new());
            while !selector.prepare(&mut Budget::new(50)) {}
            assert!(selector.is_alone());
            let mut wants = |event_type: String| {
                let event = Event::builder(&event_type).build().expect("valid");
                selector.wants(&event, &mut Budget::new(1000))
            };
            assert!(wants("t0.x".into()) && wants(format!("t{}.x", count - 1)));
            assert!(!wants(format!("t{count}.x")));
            assert_eq!(selector.wants, Wants::Some, "the number of a gap's events that it wanted is unknown");
        }
    }

    #[test]
    fn a_thousand_other_subscriptions_are_compiled_within_the_budget_of_each_turn() {
        let except = (0..1000).map(|n| DeliveredElsewhere {
            filter: Filter::new().types((0..60).map(|m| format!("a{n}.*.b{m}.**"))),
            began: None,
        });
        let mut selector = ReplaySelector::new(Filter::new(), except.collect());
        for turns in 1.. {
            let mut budget = Budget::new(500);
            let is_prepared = selector.prepare(&mut budget);
            assert!(budget.spent() < 500 + 1000, "{}", budget.spent());
            if is_prepared {
                assert!(turns > 20, "{turns}");
                break;
            }
        }
    }
}

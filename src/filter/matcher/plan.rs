//! Plan of a filter's entries in the index: the sets that make paths, and the residual conditions, which are evaluated
//! for each event.
//!
//! Always: the same filter under the same limit gives the same plan, so that its entries are found again when it is
//! removed.

use smallvec::SmallVec;

use super::automaton::Automaton;
use super::index::{Path, Symbols8};
use super::symbols::{NONE, Symbols};
use crate::event::{Attribute, Event};
use crate::filter::definition::Filter;
use crate::filter::encoding::{Clause, ENTITY, SetRef};
use crate::filter::evaluate;
use crate::filter::pattern::{PatternKind, PatternRef};

/// Order in which wide sets are expanded: selective attributes first.
const ORDER: [u8; 9] = [
    Attribute::Correlation as u8,
    Attribute::Execution as u8,
    ENTITY,
    Attribute::EntityId as u8,
    Attribute::Stream as u8,
    Attribute::Channel as u8,
    Attribute::Source as u8,
    Attribute::EntityKind as u8,
    Attribute::Type as u8,
];

/// Number of the last condition with a bit of its own. Later conditions share it.
const LAST_BIT: usize = 31;

/// Plan of one filter.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) sets: SmallVec<[SetRef<'a>; 4]>,
    /// Bit set of the conditions that no path expresses, by their place in the filter.
    pub(super) residual: u32,
    pub(super) paths: usize,
}

impl<'a> Plan<'a> {
    pub(super) fn new(filter: &'a Filter, paths_max: usize) -> Self {
        let mut chosen: [Option<(SetRef<'a>, usize, usize)>; 9] = [None; 9];
        let mut residual = 0u32;
        for (nth, clause) in filter.clauses().enumerate() {
            match clause {
                Clause::Set(set)
                    if !set.negated && chosen[usize::from(set.about)].is_none() && !has_runs(set) =>
                {
                    chosen[usize::from(set.about)] = Some((set, nth, set.members().count()));
                }
                _ => residual |= bit(nth),
            }
        }
        // A pair of kind and id takes the columns of both.
        if chosen[usize::from(ENTITY)].is_some() {
            for attribute in [Attribute::EntityKind, Attribute::EntityId] {
                if let Some((_, nth, _)) = chosen[attribute.index()].take() {
                    residual |= bit(nth);
                }
            }
        }
        let mut sets = SmallVec::new();
        let mut paths = 1usize;
        // Sets with at most one member cost nothing, so they come first; then as many wide sets as fit.
        for single in [true, false] {
            for about in ORDER {
                let Some((set, nth, members)) = chosen[usize::from(about)] else { continue };
                if (members <= 1) != single {
                    continue;
                }
                if paths.saturating_mul(members) <= paths_max.max(1) {
                    paths *= members;
                    sets.push(set);
                } else {
                    residual |= bit(nth);
                }
            }
        }
        Self { sets, residual, paths }
    }

    /// Returns whether a posting of this plan must be confirmed for each event.
    pub(super) fn must_confirm(&self) -> bool {
        self.residual != 0 || self.paths > 1
    }
}

/// Returns whether a set has patterns of runs of characters, which the automaton cannot hold.
fn has_runs(set: SetRef<'_>) -> bool {
    let runs = |pattern: PatternRef<'_>| pattern.kind == PatternKind::Runs;
    set.members().any(|(first, second)| runs(first) || second.is_some_and(runs))
}

fn bit(nth: usize) -> u32 {
    1 << nth.min(LAST_BIT)
}

/// Work on residual conditions, and the place of an unfinished one.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Indexes of the next condition, and of the next value or pattern in it, to try.
    next: (usize, usize),
    /// Approximate number of instructions of all evaluations so far.
    pub(super) worked: u64,
}

impl Steps {
    /// Forgets the place of an unfinished condition.
    pub(super) fn stop(&mut self) {
        self.next = (0, 0);
    }
}

/// Returns whether the residual conditions of a plan hold. Returns `None` if it stopped because the work reached
/// `until`: the next call with the same filter and event continues.
pub(super) fn holds(
    filter: &Filter,
    residual: u32,
    event: &Event,
    steps: &mut Steps,
    until: u64,
) -> Option<bool> {
    if residual == 0 {
        return Some(true);
    }
    let begun = std::mem::take(&mut steps.next);
    for (nth, clause) in filter.clauses().enumerate().skip(begun.0) {
        let Clause::Set(set) = clause else { continue };
        if residual & bit(nth) == 0 {
            continue;
        }
        let values = evaluate::values(set, event);
        let skipped = if nth == begun.0 { begun.1 } else { 0 };
        let mut has_match = false;
        for (at, member) in set.members().enumerate().skip(skipped) {
            if steps.worked >= until && (nth, at) != begun {
                steps.next = (nth, at);
                return None;
            }
            if evaluate::is_member(member, values, &mut steps.worked) {
                has_match = true;
                break;
            }
        }
        if has_match == set.negated {
            return Some(false);
        }
    }
    Some(true)
}

/// One value or pattern of a path, as a number.
#[derive(Clone, Copy, Debug)]
struct PathStep {
    attribute: u8,
    wild: bool,
    number: u32,
    /// Number of holders of the value.
    holders: u32,
}

type Choice = SmallVec<[PathStep; 2]>;

/// Values and patterns of a plan as numbers.
#[derive(Debug)]
pub(super) struct Choices(SmallVec<[SmallVec<[Choice; 1]>; 4]>);

impl Choices {
    fn new(plan: &Plan<'_>, mut number: impl FnMut(usize, PatternRef<'_>) -> (u32, u32)) -> Self {
        let mut step = |attribute: u8, pattern: PatternRef<'_>| {
            let (number, holders) = number(usize::from(attribute), pattern);
            PathStep { attribute, wild: pattern.kind != PatternKind::Exact, number, holders }
        };
        let choices = |set: &SetRef<'_>| {
            set.members()
                .map(|(first, second)| match second {
                    None => Choice::from_slice(&[step(set.about, first)]),
                    Some(second) => Choice::from_slice(&[
                        step(Attribute::EntityKind as u8, first),
                        step(Attribute::EntityId as u8, second),
                    ]),
                })
                .collect()
        };
        Self(plan.sets.iter().map(choices).collect())
    }

    /// Adds a holder of each value and pattern of the plan.
    pub(super) fn acquire(plan: &Plan<'_>, symbols: &mut Symbols, automaton: &mut Automaton) -> Self {
        Self::new(plan, |attribute, pattern| match pattern.kind {
            PatternKind::Exact => symbols.acquire(attribute, pattern.text),
            PatternKind::Segments | PatternKind::Runs => (automaton.acquire(attribute, pattern.text), 0),
        })
    }

    /// Returns the same numbers again, for a plan that holds its values already.
    pub(super) fn find(plan: &Plan<'_>, symbols: &Symbols, automaton: &Automaton) -> Self {
        Self::new(plan, |attribute, pattern| match pattern.kind {
            PatternKind::Exact => symbols.lookup(attribute, pattern.text),
            PatternKind::Segments | PatternKind::Runs => (automaton.lookup(attribute, pattern.text), 0),
        })
    }

    /// Calls `with` for every path and the rarest of its values.
    pub(super) fn for_each(&self, mut with: impl FnMut(&Path, Option<u32>)) {
        if self.0.iter().any(SmallVec::is_empty) {
            return;
        }
        let mut places: SmallVec<[usize; 9]> = SmallVec::from_elem(0, self.0.len());
        loop {
            let none: Symbols8 = [NONE; Attribute::COUNT];
            let mut path = Path { symbols: none, patterns: SmallVec::new() };
            let mut rarest: Option<(u32, u32)> = None;
            for (set, &place) in self.0.iter().zip(&places) {
                for step in &set[place] {
                    if step.wild {
                        path.patterns.push(step.number);
                    } else {
                        path.symbols[usize::from(step.attribute)] = step.number;
                        let this = (step.holders, step.number);
                        rarest = Some(rarest.map_or(this, |other| other.min(this)));
                    }
                }
            }
            path.patterns.sort_unstable();
            with(&path, rarest.map(|(_, number)| number));
            // Advances to the next combination: the last set changes fastest.
            let mut turning = self.0.len();
            loop {
                if turning == 0 {
                    return;
                }
                turning -= 1;
                places[turning] += 1;
                if places[turning] < self.0[turning].len() {
                    break;
                }
                places[turning] = 0;
            }
        }
    }
}

/// Calls `one` with each pattern of a set and the attribute that it is for.
fn each_pattern<'a>(set: SetRef<'a>, one: &mut impl FnMut(u8, PatternRef<'a>)) {
    for (first, second) in set.members() {
        match second {
            None => one(set.about, first),
            Some(second) => {
                one(Attribute::EntityKind as u8, first);
                one(Attribute::EntityId as u8, second);
            }
        }
    }
}

/// Adds a holder of each value and pattern of a set.
#[cfg(feature = "server")]
pub(super) fn acquire(set: SetRef<'_>, symbols: &mut Symbols, automaton: &mut Automaton) {
    let mut one = |attribute: u8, pattern: PatternRef<'_>| match pattern.kind {
        PatternKind::Exact => drop(symbols.acquire(usize::from(attribute), pattern.text)),
        PatternKind::Segments | PatternKind::Runs => {
            automaton.acquire(usize::from(attribute), pattern.text);
        }
    };
    each_pattern(set, &mut one);
}

/// Removes a holder of each value and pattern of the plan. Calls `gone` for each value that has no holder left.
pub(super) fn release(
    plan: &Plan<'_>,
    symbols: &mut Symbols,
    automaton: &mut Automaton,
    mut gone: impl FnMut(u32),
) {
    let mut one = |attribute: u8, pattern: PatternRef<'_>| match pattern.kind {
        PatternKind::Exact => {
            if let Some(number) = symbols.release(usize::from(attribute), pattern.text) {
                gone(number);
            }
        }
        PatternKind::Segments | PatternKind::Runs => automaton.release(usize::from(attribute), pattern.text),
    };
    for set in &plan.sets {
        each_pattern(*set, &mut one);
    }
}

//! Finds the filters that match an event, among any number of filters, in time proportional to the matches.
//!
//! An event's values become symbols ([`symbols`]) and, for attributes that filters have patterns on, sets of patterns
//! ([`automaton`], cached by [`value_cache`]). The tuple of these is looked up in the [`memo`] and, on a miss, in the
//! [`index`]. Conditions that the index cannot hold (negations, sets too wide) are evaluated last: [`plan`] says which
//! ones they are for each filter. Filters with conditions on the payload are found by [`payloads`], after their
//! attributes matched. Inserting and removing change the tables in place. One thread owns a matcher; nothing in it is
//! shared.
//!
//! Always:
//! - The result is what [`Filter::matches`] of every filter says.
//! - Events add nothing permanent. Removed filters leave nothing but capacity.
//! - Matching may stop when its allowance of work is used up, and continues where it stopped. A change of the filters
//!   in between makes it start again. Then it does not stop, so that it ends.

mod automaton;
mod class;
mod conditions;
#[cfg(feature = "server")]
mod edit;
mod fields;
mod flat;
mod index;
mod memo;
mod payloads;
mod plan;
mod posting;
mod posting_list;
mod segment_texts;
mod symbols;
#[cfg(test)]
mod tests;
mod value_cache;

use super::definition::Filter;
use super::limits::FilterLimits;
use crate::event::{Attribute, Event};
use automaton::Automaton;
use class::Classes;
use index::{Index, Symbols8};
use memo::{Generations, Lookup, Memo};
use payloads::Payloads;
use plan::{Choices, Plan, Steps};
use posting::{Posting, PostingKind};
use symbols::{NONE, SYMBOLS_MAX, Symbols};
use value_cache::ValueCache;

pub use class::ClassId;

/// State of the match of the current event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Finished,
    /// The match stopped, and continues at the next call.
    Stopped,
    /// The filters changed since the match stopped.
    Void,
}

/// Maximum number of nodes visited to look up the patterns of one event's values. If more patterns continue with each
/// segment, as hundreds of `**.*.a.*` do with a long value, each filter is evaluated by itself, which may stop and
/// continue.
const VISITS_MAX: u64 = 10_000;

/// Approximate number of instructions for a node of a look-up.
const VISIT: u64 = 100;

/// Match of the current event, which may stop and continue.
#[derive(Debug, Default)]
struct MatchAtHand {
    progress: Progress,
    /// Whether the index was not used, so that all conditions of all filters are evaluated.
    is_exhaustive: bool,
    /// Postings that are evaluated next, last one first.
    unconfirmed: Vec<Posting>,
    /// Whether the conditions on attributes of the last one, a group, were evaluated.
    is_group_confirmed: bool,
}

/// Set of distinct filters, each with a number of holders, that finds those that match an event.
#[derive(Debug)]
pub struct Matcher {
    paths_max: usize,
    classes: Classes,
    symbols: Symbols,
    automaton: Automaton,
    values: ValueCache,
    index: Index,
    memo: Memo,
    generations: Generations,
    payloads: Payloads,
    /// Number of the current event, from 1. It wraps around.
    turn: u32,
    at_hand: MatchAtHand,
    steps: Steps,
    /// Buffers of [`matches`](Self::matches).
    found: Vec<Posting>,
    patterns: Vec<u32>,
    /// [`VISITS_MAX`], except in tests.
    visits_max: u64,
}

impl Matcher {
    /// Returns an empty matcher. It uses [`FilterLimits::paths_max`] only: the caller checks the other limits before it
    /// inserts a filter.
    #[must_use]
    pub fn new(limits: FilterLimits) -> Self {
        Self {
            paths_max: limits.paths_max,
            classes: Classes::default(),
            symbols: Symbols::default(),
            automaton: Automaton::new(),
            values: ValueCache::default(),
            index: Index::default(),
            memo: Memo::default(),
            generations: Generations::default(),
            payloads: Payloads::default(),
            turn: 0,
            at_hand: MatchAtHand::default(),
            steps: Steps::default(),
            found: Vec::new(),
            patterns: Vec::new(),
            visits_max: VISITS_MAX,
        }
    }

    /// Adds a holder of this filter. Equal filters share one class.
    pub fn insert(&mut self, filter: &Filter) -> ClassId {
        let (id, is_new) = self.classes.acquire(filter);
        if !is_new {
            return ClassId(id);
        }
        self.void_match();
        if let Some(base) = payloads::base_of(filter) {
            let (member, new_group) = self.payloads.insert(filter, &base, id);
            self.classes.set_member(id, member);
            if let Some(group) = new_group {
                let plan = Plan::new(&base, self.paths_max);
                self.payloads.set_residual(group, plan.residual, self.turn);
                self.add_to_index(&plan, Posting::group(group));
            }
            return ClassId(id);
        }
        let plan = Plan::new(filter, self.paths_max);
        if plan.must_confirm() {
            self.classes.set_residual(id, plan.residual, self.turn);
        }
        self.add_to_index(&plan, Posting::class(id, plan.must_confirm()));
        ClassId(id)
    }

    fn add_to_index(&mut self, plan: &Plan<'_>, posting: Posting) {
        let Self { symbols, automaton, index, generations, .. } = self;
        let choices = Choices::acquire(plan, symbols, automaton);
        choices.for_each(|path, rarest| {
            index.insert(path, posting);
            generations.advance(rarest);
        });
    }

    fn remove_from_index(&mut self, plan: &Plan<'_>, posting: Posting) {
        let Self { symbols, automaton, index, generations, .. } = self;
        let choices = Choices::find(plan, symbols, automaton);
        choices.for_each(|path, rarest| {
            index.remove(path, posting);
            generations.advance(rarest);
        });
        // A symbol's number may be reused for another value, so answers kept under it become void.
        plan::release(plan, symbols, automaton, |number| generations.advance(Some(number)));
    }

    /// Returns the filter held here that equals this one, so that a caller that keeps it needs no copy of its own.
    #[must_use]
    pub fn interned(&self, filter: &Filter) -> Option<&Filter> {
        self.class_of(filter).and_then(|id| self.classes.filter(id))
    }

    /// Returns the class of this filter, if a holder has inserted it.
    pub(crate) fn class_of(&self, filter: &Filter) -> Option<ClassId> {
        self.classes.find(filter)
    }

    /// Adds a holder of a class that has one.
    #[cfg(feature = "server")]
    pub(crate) fn hold(&mut self, id: ClassId) {
        self.classes.hold(id);
    }

    /// Removes a holder of a class. The last holder's removal removes the class, and its id may be reused.
    ///
    /// Returns whether the class was removed; `false` if there is no such class.
    pub fn remove(&mut self, id: ClassId) -> bool {
        let Some(class::Removed { filter, member }) = self.classes.release(id) else { return false };
        self.void_match();
        if let Some(member) = member {
            if let Some(group) = self.payloads.remove(member) {
                let base = self.payloads.base(group).clone();
                self.remove_from_index(&Plan::new(&base, self.paths_max), Posting::group(group));
                self.payloads.forget_group(group);
            }
            return true;
        }
        let plan = Plan::new(&filter, self.paths_max);
        self.remove_from_index(&plan, Posting::class(id.0, plan.must_confirm()));
        true
    }

    /// Clears `out` and fills it with the classes that match the event, each once, in no order.
    ///
    /// Allocates only where a buffer or a cache has to grow.
    pub fn matches(&mut self, event: &Event, out: &mut Vec<ClassId>) {
        self.at_hand.progress = Progress::Finished;
        let is_over = self.matches_within(event, out, u64::MAX);
        debug_assert!(is_over, "it stops only when it has worked enough");
    }

    /// Matches as [`matches`](Self::matches) does, but stops after about `allowance` instructions in conditions that
    /// are evaluated one by one or on the payload, and returns false. The next call must have the same event and `out`,
    /// and continues.
    pub(crate) fn matches_within(&mut self, event: &Event, out: &mut Vec<ClassId>, allowance: u64) -> bool {
        let until = match self.at_hand.progress {
            // Runs to its end, so that changes of the filters can restart it only once.
            Progress::Void => u64::MAX,
            _ => self.worked().saturating_add(allowance),
        };
        if self.at_hand.progress != Progress::Stopped {
            self.begin(event, out);
        }
        let is_over = self.confirm(event, out, until);
        self.at_hand.progress = if is_over { Progress::Finished } else { Progress::Stopped };
        is_over
    }

    /// Returns whether a match stopped and has to be continued.
    #[cfg(feature = "server")]
    pub(crate) fn is_matching(&self) -> bool {
        self.at_hand.progress != Progress::Finished
    }

    /// Abandons the match that stopped.
    #[cfg(feature = "server")]
    pub(crate) fn give_up(&mut self) {
        self.at_hand.progress = Progress::Finished;
    }

    fn void_match(&mut self) {
        if self.at_hand.progress == Progress::Stopped {
            self.at_hand.progress = Progress::Void;
        }
    }

    /// Finds candidates for the event: appends classes that match, and collects the postings to evaluate next.
    fn begin(&mut self, event: &Event, out: &mut Vec<ClassId>) {
        out.clear();
        self.at_hand.unconfirmed.clear();
        (self.at_hand.is_group_confirmed, self.at_hand.is_exhaustive) = (false, false);
        self.steps.stop();
        self.payloads.stop();
        if self.is_empty() {
            return;
        }
        self.next_turn();
        let visited = self.automaton.nodes_visited();
        let is_found = self.look_up(event, out);
        self.steps.worked += VISIT * (self.automaton.nodes_visited() - visited);
        if !is_found {
            let all = self.classes.on_attributes().map(|class| Posting::class(class, true));
            self.at_hand.unconfirmed.extend(all.chain(self.payloads.groups().map(Posting::group)));
            self.at_hand.is_exhaustive = true;
        }
    }

    /// Looks the event up. Returns false if its values lead to too many patterns.
    fn look_up(&mut self, event: &Event, out: &mut Vec<ClassId>) -> bool {
        let Self { symbols, automaton, values, memo, generations, at_hand, visits_max, .. } = self;
        let visited_max = automaton.nodes_visited() + *visits_max;
        let hashes = event.signature().0;
        let value =
            |attribute: usize| event.attribute(Attribute::ALL[attribute]).unwrap_or_default().as_bytes();
        // Key of the memo: for each attribute a symbol, the serial of a set of patterns, or neither.
        let mut known = [NONE; Attribute::COUNT];
        let mut key = [NONE; Attribute::COUNT];
        let mut memoized = true;
        let mut generation = generations.all();
        for (attribute, hash) in hashes.into_iter().enumerate() {
            if symbols.may_have(attribute, hash) {
                let symbol = symbols.find(attribute, hash, value(attribute));
                if symbol != NONE {
                    known[attribute] = symbol;
                    key[attribute] = symbol;
                    generation = generation.wrapping_add(generations.of(symbol));
                    continue;
                }
            }
            if hash != 0 && automaton.has_patterns(attribute) {
                let left = visited_max.saturating_sub(automaton.nodes_visited());
                let Some((list, serials_restarted)) =
                    values.find(automaton, attribute, hash, value(attribute), left)
                else {
                    return false;
                };
                if serials_restarted {
                    generations.advance(None);
                    memoized = false;
                }
                match list.serial {
                    _ if values.patterns(list).is_empty() => {}
                    Some(serial) => key[attribute] = SYMBOLS_MAX | serial,
                    None => memoized = false,
                }
            }
        }
        let lookup = if memoized { memo.get(&key, generation) } else { Lookup::Bypassed };
        let miss = match lookup {
            Lookup::Hit(postings) => {
                sort_out(postings, &mut at_hand.unconfirmed, out);
                return true;
            }
            Lookup::Miss(hash) => Some(hash),
            Lookup::Bypassed => None,
        };
        self.search(event, &known);
        if let Some(hash) = miss {
            self.memo.put(hash, &key, generation, &self.found);
        }
        sort_out(&self.found, &mut self.at_hand.unconfirmed, out);
        true
    }

    /// Evaluates the postings that are left. Returns false if it stopped when the work reached `until`.
    fn confirm(&mut self, event: &Event, out: &mut Vec<ClassId>, until: u64) -> bool {
        let turn = self.turn;
        while let Some(&posting) = self.at_hand.unconfirmed.last() {
            let worked = self.worked();
            if worked >= until {
                return false;
            }
            let Self { classes, payloads, steps, at_hand, .. } = self;
            let (filter, residual) = match posting.kind() {
                PostingKind::Class(class) | PostingKind::Candidate(class) => classes.residual(class),
                PostingKind::Group(group) => payloads.residual(group),
            };
            let conditions = match posting.kind() {
                PostingKind::Class(_) => 0,
                PostingKind::Group(_) if at_hand.is_group_confirmed => 0,
                _ if at_hand.is_exhaustive => u32::MAX,
                _ => residual,
            };
            let until_step = steps.worked.saturating_add(until - worked);
            let Some(holds) = plan::holds(filter, conditions, event, steps, until_step) else { return false };
            match posting.kind() {
                PostingKind::Class(class) | PostingKind::Candidate(class) if holds => {
                    out.push(ClassId(class));
                }
                PostingKind::Group(group) if holds => {
                    self.at_hand.is_group_confirmed = true;
                    let allowance = until.saturating_sub(self.worked());
                    if !self.payloads.find(group, event.payload(), turn, out, allowance) {
                        return false;
                    }
                    self.at_hand.is_group_confirmed = false;
                }
                _ => {}
            }
            self.at_hand.unconfirmed.pop();
        }
        true
    }

    /// Fills `found` from the index, for an event with these symbols. A posting with several paths is kept once.
    fn search(&mut self, event: &Event, known: &Symbols8) {
        let Self { automaton, values, generations, index, classes, found, patterns, payloads, turn, .. } =
            self;
        patterns.clear();
        for (attribute, hash) in event.signature().0.into_iter().enumerate() {
            if hash != 0 && automaton.has_patterns(attribute) {
                let value = event.attribute(Attribute::ALL[attribute]).unwrap_or_default().as_bytes();
                // Not reached: the value was found before within the allowed number of nodes.
                let Some((list, serials_restarted)) =
                    values.find(automaton, attribute, hash, value, u64::MAX)
                else {
                    continue;
                };
                if serials_restarted {
                    generations.advance(None);
                }
                patterns.extend_from_slice(values.patterns(list));
            }
        }
        patterns.sort_unstable();
        found.clear();
        index.find(known, patterns, found);
        found.retain_mut(|posting| match posting.kind() {
            PostingKind::Class(_) => true,
            PostingKind::Candidate(class) => {
                let is_first = classes.is_first_for(class, *turn);
                if is_first && classes.residual(class).1 == 0 {
                    // Being found was its only condition.
                    *posting = Posting::class(class, false);
                }
                is_first
            }
            PostingKind::Group(group) => payloads.is_first_for(group, *turn),
        });
    }

    fn next_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        if self.turn == 0 {
            self.turn = 1;
            self.payloads.forget_turns();
            self.classes.forget_turns();
        }
    }

    /// Returns the filter of a class.
    #[must_use]
    pub fn filter(&self, id: ClassId) -> Option<&Filter> {
        self.classes.filter(id)
    }

    /// Returns the number of distinct filters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Returns whether the matcher holds no filter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the work done so far for conditions that are evaluated one by one and for those on payloads, in
    /// approximate instructions.
    pub(crate) fn worked(&self) -> u64 {
        self.payloads.worked() + self.steps.worked
    }

    /// Returns whether one event may take much work: a filter has a condition on the payload, or one that no index holds.
    #[cfg(feature = "server")]
    pub(crate) fn may_work_long(&self) -> bool {
        self.payloads.len() > 0 || self.classes.residuals() > 0
    }

    /// Returns the sizes of the tables.
    #[must_use]
    pub fn stats(&self) -> MatcherStats {
        MatcherStats {
            classes: self.len(),
            symbols: self.symbols.len(),
            segments: self.automaton.len(),
            shapes: self.index.shapes(),
            fields: self.payloads.fields(),
        }
    }

    /// Returns the size of the filters themselves, in bytes. Walks all classes.
    #[cfg(feature = "server")]
    pub(crate) fn filter_bytes(&self) -> usize {
        self.classes.filter_bytes()
    }

    /// Returns the unused bytes of the tables. New filters use them before more is allocated.
    #[cfg(feature = "server")]
    pub(crate) fn spare_bytes(&self) -> usize {
        self.classes.spare_bytes()
            + self.automaton.spare_bytes()
            + self.index.spare_bytes()
            + self.payloads.spare_bytes()
    }

    /// Returns the memory of the tables, in bytes, without the filters themselves. Walks the tables.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.classes.memory_bytes()
            + self.symbols.memory_bytes()
            + self.automaton.memory_bytes()
            + self.values.memory_bytes()
            + self.index.memory_bytes()
            + self.memo.memory_bytes()
            + self.generations.memory_bytes()
            + self.payloads.memory_bytes()
            + (self.found.capacity() + self.patterns.capacity() + self.at_hand.unconfirmed.capacity())
                * size_of::<u32>()
    }
}

/// Sizes of a [`Matcher`]'s tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MatcherStats {
    /// Distinct filters.
    pub classes: usize,
    /// Exact values that filters name.
    pub symbols: usize,
    /// Nodes of the patterns' automaton, its eight roots included.
    pub segments: usize,
    /// Combinations of attributes in use.
    pub shapes: usize,
    /// Fields of payloads that conditions are on, and the keys of their paths.
    pub fields: usize,
}

/// Appends the classes that match to `out`, and the postings that must be evaluated to `unconfirmed`.
fn sort_out(found: &[Posting], unconfirmed: &mut Vec<Posting>, out: &mut Vec<ClassId>) {
    for posting in found {
        match posting.kind() {
            PostingKind::Class(class) => out.push(ClassId(class)),
            PostingKind::Candidate(_) | PostingKind::Group(_) => unconfirmed.push(*posting),
        }
    }
}

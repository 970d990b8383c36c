//! Answers for all filters at once: from an event to the distinct filters that want it, in the time of the
//! matches.
//!
//! Imports its siblings and `event`. An event's values become symbols ([`symbols`]) and, where patterns ask,
//! sets of patterns ([`automaton`], kept by [`values`]); the tuple of these is looked up in the [`memo`], and
//! only if it is not there in the [`index`]. Conditions that the index cannot hold (negations, sets too wide) are looked
//! at last, by what [`plan`] left of the filter. Filters with conditions on the payload are found by [`payloads`], where
//! their attributes match. Adding and removing change tables in place. Owned by one thread; nothing in it is shared.
//!
//! Always: the answer is what [`Filter::matches`] of every filter says; events add nothing that stays; filters
//! that went leave nothing but capacity.

mod automaton;
mod fields;
mod flat;
mod index;
mod memo;
mod payloads;
mod plan;
mod symbols;
#[cfg(test)]
mod tests;
mod values;

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use super::definition::Filter;
use super::limits::FilterLimits;
use crate::event::{Attribute, Event};
use automaton::Automaton;
use index::{Index, MARKED};
use memo::{Answer, Memo};
use payloads::Payloads;
use plan::{Choices, Plan};
use symbols::{NONE, SYMBOLS_MAX, Symbols};
use values::Values;

/// One distinct filter of a [`Matcher`], whoever holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u32);

impl ClassId {
    /// Its place in a table by class: ids are small, and those that went are given anew.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
struct Class {
    filter: Filter,
    /// 0 where there is no class.
    holders: u32,
    /// Its place among the marked ones or, with [`MEMBER`], among the members of groups; or [`UNMARKED`].
    marked: u32,
}

const UNMARKED: u32 = u32::MAX;

/// The class has conditions on the payload: the index has its group in its place.
const MEMBER: u32 = 1 << 31;

/// A spot of the index that is a group of [`payloads`], not a class. It is marked, too.
const GROUP: u32 = 1 << 29;

/// What only classes have that must be looked at before they are believed.
#[derive(Debug, Default)]
struct Marked {
    /// What the plan left; see [`Plan::left`].
    left: u32,
    /// The event this class was last found for.
    found_for: u32,
}

/// Generations of the memo's answers: each change touches the bucket of one of its values, or them all.
const BUCKETS: usize = 1024;

/// The distinct filters of one loop, counted.
#[derive(Debug)]
pub struct Matcher {
    paths_max: usize,
    classes: Vec<Class>,
    free: Vec<u32>,
    marked: Vec<Marked>,
    marked_free: Vec<u32>,
    ids: HashTable<u32>,
    hasher: RandomState,
    symbols: Symbols,
    automaton: Automaton,
    values: Values,
    index: Index,
    memo: Memo,
    payloads: Payloads,
    all_changed: u64,
    changed: Box<[u64; BUCKETS]>,
    turn: u32,
    found: Vec<u32>,
    patterns: Vec<u32>,
}

impl Matcher {
    /// An empty one. Of the limits it takes [`FilterLimits::paths_max`]; who inserts has checked the rest.
    pub fn new(limits: FilterLimits) -> Self {
        Self {
            paths_max: limits.paths_max,
            classes: Vec::new(),
            free: Vec::new(),
            marked: Vec::new(),
            marked_free: Vec::new(),
            ids: HashTable::new(),
            hasher: RandomState::default(),
            symbols: Symbols::default(),
            automaton: Automaton::new(),
            values: Values::default(),
            index: Index::default(),
            memo: Memo::default(),
            payloads: Payloads::default(),
            all_changed: 1,
            changed: Box::new([0; BUCKETS]),
            turn: 0,
            found: Vec::new(),
            patterns: Vec::new(),
        }
    }

    /// Adds a holder of this filter; equal filters have one class.
    pub fn insert(&mut self, filter: &Filter) -> ClassId {
        let base = payloads::base_of(filter);
        let Self { classes, ids, hasher, .. } = self;
        let entry = ids.entry(
            hasher.hash_one(filter.bytes()),
            |&id| classes[id as usize].filter == *filter,
            |&id| hasher.hash_one(classes[id as usize].filter.bytes()),
        );
        let vacant = match entry {
            hashbrown::hash_table::Entry::Occupied(entry) => {
                let id = *entry.get();
                classes[id as usize].holders += 1;
                return ClassId(id);
            }
            hashbrown::hash_table::Entry::Vacant(vacant) => vacant,
        };
        let plan = Plan::new(filter, self.paths_max);
        let mut marked = UNMARKED;
        if base.is_none() && plan.marked() {
            let fresh = Marked { left: plan.left, found_for: self.turn };
            if let Some(free) = self.marked_free.pop() {
                marked = free;
                self.marked[free as usize] = fresh;
            } else {
                marked = self.marked.len() as u32;
                self.marked.push(fresh);
            }
        }
        let class = Class { filter: filter.clone(), holders: 1, marked };
        let id = match self.free.pop() {
            Some(id) => {
                vacant.insert(id);
                classes[id as usize] = class;
                id
            }
            None => {
                let id = classes.len() as u32;
                debug_assert!(id < GROUP, "2^29 classes would fill 30 GB before this");
                vacant.insert(id);
                classes.push(class);
                id
            }
        };
        if let Some(base) = base {
            let (member, fresh) = self.payloads.insert(filter, &base, id);
            self.classes[id as usize].marked = member | MEMBER;
            if let Some(group) = fresh {
                let plan = Plan::new(&base, self.paths_max);
                let held = self.payloads.group_mut(group);
                (held.left, held.found_for) = (plan.left, self.turn);
                self.place(&plan, group | GROUP | MARKED);
            }
            return ClassId(id);
        }
        let spot = if plan.marked() { id | MARKED } else { id };
        self.place(&plan, spot);
        ClassId(id)
    }

    /// Puts what has this plan into the index.
    fn place(&mut self, plan: &Plan<'_>, spot: u32) {
        let Self { symbols, automaton, index, changed, all_changed, .. } = self;
        let choices = Choices::acquire(plan, symbols, automaton);
        choices.for_each(|path, rarest| {
            index.insert(path, spot);
            touch(changed, all_changed, rarest);
        });
    }

    /// Takes what has this plan from the index.
    fn displace(&mut self, plan: &Plan<'_>, spot: u32) {
        let Self { symbols, automaton, index, changed, all_changed, .. } = self;
        let choices = Choices::held(plan, symbols, automaton);
        choices.for_each(|path, rarest| {
            index.remove(path, spot);
            touch(changed, all_changed, rarest);
        });
        // A symbol's number may come back with another meaning: what was answered under it is void.
        plan::release(plan, symbols, automaton, |number| touch(changed, all_changed, Some(number)));
    }

    /// The filter held here that equals this one: who keeps it instead keeps no copy.
    pub fn held(&self, filter: &Filter) -> Option<&Filter> {
        self.class_of(filter).map(|id| &self.classes[id.index()].filter)
    }

    /// The class of this filter, if it has one.
    pub(crate) fn class_of(&self, filter: &Filter) -> Option<ClassId> {
        let same = |id: &u32| self.classes[*id as usize].filter == *filter;
        self.ids.find(self.hasher.hash_one(filter.bytes()), same).map(|id| ClassId(*id))
    }

    #[cfg(feature = "server")]
    /// Adds a holder of a class that has one.
    pub(crate) fn hold(&mut self, id: ClassId) {
        debug_assert!(self.classes[id.index()].holders > 0, "nobody could have named it");
        self.classes[id.index()].holders += 1;
    }

    /// Takes one holder away; the class goes with the last, and its id may be given anew. Answers whether it
    /// went.
    pub fn remove(&mut self, id: ClassId) -> bool {
        let Some(class) = self.classes.get_mut(id.0 as usize) else { return false };
        if class.holders == 0 {
            return false;
        }
        class.holders -= 1;
        if class.holders > 0 {
            return false;
        }
        let filter = std::mem::take(&mut class.filter);
        let marked = class.marked;
        if let Ok(entry) = self.ids.find_entry(self.hasher.hash_one(filter.bytes()), |&other| other == id.0) {
            entry.remove();
        }
        self.free.push(id.0);
        if marked != UNMARKED && marked & MEMBER != 0 {
            if let Some(group) = self.payloads.remove(marked & !MEMBER) {
                let base = self.payloads.group_mut(group).base.clone();
                self.displace(&Plan::new(&base, self.paths_max), group | GROUP | MARKED);
                self.payloads.forget_group(group);
            }
            return true;
        }
        let plan = Plan::new(&filter, self.paths_max);
        let spot = if plan.marked() { id.0 | MARKED } else { id.0 };
        self.displace(&plan, spot);
        if marked != UNMARKED {
            self.marked_free.push(marked);
        }
        true
    }

    /// Clears `out` and fills it with the classes that want the event, each once, in no order.
    pub fn matches(&mut self, event: &Event, out: &mut Vec<ClassId>) {
        out.clear();
        if self.ids.is_empty() {
            return;
        }
        self.next_turn();
        let Self {
            symbols, automaton, values, memo, index, classes, marked, found, patterns, payloads, ..
        } = self;
        let turn = self.turn;
        let hashes = event.signature().0;
        let value =
            |attribute: usize| event.attribute(Attribute::ALL[attribute]).unwrap_or_default().as_bytes();
        // The memo's key: a symbol, or the serial of a set of patterns, or neither.
        let mut known = [NONE; Attribute::COUNT];
        let mut key = [NONE; Attribute::COUNT];
        let mut memoized = true;
        let mut generation = self.all_changed;
        for (attribute, hash) in hashes.into_iter().enumerate() {
            if symbols.asked(attribute, hash) {
                let symbol = symbols.find(attribute, hash, value(attribute));
                if symbol != NONE {
                    known[attribute] = symbol;
                    key[attribute] = symbol;
                    generation = generation.wrapping_add(self.changed[symbol as usize % BUCKETS]);
                    continue;
                }
            }
            if hash != 0 && automaton.asked(attribute) {
                let (list, anew) = values.find(automaton, attribute, hash, value(attribute));
                if anew {
                    self.all_changed += 1;
                    memoized = false;
                }
                match list.serial {
                    _ if values.patterns(list).is_empty() => {}
                    Some(serial) => key[attribute] = SYMBOLS_MAX | serial,
                    None => memoized = false,
                }
            }
        }
        let answer = if memoized { memo.get(&key, generation) } else { Answer::Bypassed };
        let missing = match answer {
            Answer::Known(answer) => {
                return believe(answer, classes, marked, payloads, turn, event, out);
            }
            Answer::Missing(hash) => Some(hash),
            Answer::Bypassed => None,
        };
        patterns.clear();
        for (attribute, hash) in hashes.into_iter().enumerate() {
            if hash != 0 && automaton.asked(attribute) {
                let (list, anew) = values.find(automaton, attribute, hash, value(attribute));
                if anew {
                    self.all_changed += 1;
                }
                patterns.extend_from_slice(values.patterns(list));
            }
        }
        patterns.sort_unstable();
        found.clear();
        index.find(&known, patterns, found);
        // A class with several paths is told once.
        found.retain(|&spot| {
            spot & MARKED == 0 || {
                let found_for = if spot & GROUP != 0 {
                    &mut payloads.group_mut(spot & !(MARKED | GROUP)).found_for
                } else {
                    &mut marked[classes[(spot & !MARKED) as usize].marked as usize].found_for
                };
                std::mem::replace(found_for, turn) != turn
            }
        });
        if let Some(hash) = missing {
            memo.put(hash, &key, generation, found);
        }
        believe(found, classes, marked, payloads, turn, event, out);
    }

    fn next_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        if self.turn == 0 {
            self.turn = 1;
            self.payloads.forget();
            for marked in &mut self.marked {
                marked.found_for = 0;
            }
        }
    }

    /// The filter of a class.
    pub fn filter(&self, id: ClassId) -> Option<&Filter> {
        self.classes.get(id.0 as usize).filter(|class| class.holders > 0).map(|class| &class.filter)
    }

    /// How many distinct filters there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Returns a measure of the work done for patterns so far: the nodes that walks over values stood on. A node is about
    /// 100 instructions.
    #[cfg(feature = "server")]
    pub(crate) fn walked(&self) -> u64 {
        self.automaton.walked()
    }

    /// Returns about the instructions that looking into payloads took so far.
    #[cfg(feature = "server")]
    pub(crate) fn payload_work(&self) -> u64 {
        self.payloads.worked()
    }

    /// Returns whether a filter has a condition on the payload.
    #[cfg(feature = "server")]
    pub(crate) fn reads_payloads(&self) -> bool {
        self.payloads.len() > 0
    }

    /// What is in the tables.
    pub fn stats(&self) -> MatcherStats {
        MatcherStats {
            classes: self.len(),
            symbols: self.symbols.len(),
            segments: self.automaton.len(),
            shapes: self.index.shapes(),
            fields: self.payloads.fields(),
        }
    }

    /// Bytes of the filters themselves. Walks all.
    #[cfg(feature = "server")]
    pub(crate) fn filter_bytes(&self) -> usize {
        self.classes.iter().map(|class| class.filter.held_bytes()).sum()
    }

    /// Bytes of the tables that nothing is in now: the next filters take them before more is allocated.
    #[cfg(feature = "server")]
    pub(crate) fn spare_bytes(&self) -> usize {
        self.free.len() * size_of::<Class>()
            + self.automaton.spare_bytes()
            + self.index.spare_bytes()
            + self.payloads.spare_bytes()
    }

    /// Bytes held by the tables, the filters' own apart. Walks the tables that have lists.
    pub fn memory_bytes(&self) -> usize {
        self.classes.capacity() * size_of::<Class>()
            + self.marked.capacity() * size_of::<Marked>()
            + self.ids.allocation_size()
            + self.symbols.memory_bytes()
            + self.automaton.memory_bytes()
            + self.values.memory_bytes()
            + self.index.memory_bytes()
            + self.memo.memory_bytes()
            + self.payloads.memory_bytes()
            + size_of::<[u64; BUCKETS]>()
            + (self.free.capacity()
                + self.marked_free.capacity()
                + self.found.capacity()
                + self.patterns.capacity())
                * size_of::<u32>()
    }
}

/// How much is in a [`Matcher`]'s tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MatcherStats {
    /// Distinct filters.
    pub classes: usize,
    /// Exact values that filters name.
    pub symbols: usize,
    /// Nodes of the patterns' automaton, its eight roots among them.
    pub segments: usize,
    /// Combinations of attributes in use.
    pub shapes: usize,
    /// Fields of payloads that conditions ask for, with the keys on the way there.
    pub fields: usize,
}

fn touch(changed: &mut [u64; BUCKETS], all_changed: &mut u64, symbol: Option<u32>) {
    match symbol {
        Some(symbol) => changed[symbol as usize % BUCKETS] += 1,
        None => *all_changed += 1,
    }
}

/// Tells the classes found, the marked ones only if what their plan left holds, and of a group those that want the payload.
fn believe(
    found: &[u32],
    classes: &[Class],
    marked: &[Marked],
    payloads: &mut Payloads,
    turn: u32,
    event: &Event,
    out: &mut Vec<ClassId>,
) {
    for &spot in found {
        let id = spot & !MARKED;
        if spot & MARKED != 0 {
            if spot & GROUP != 0 {
                let id = id & !GROUP;
                let group = payloads.group_mut(id);
                if plan::holds(&group.base, group.left, event) {
                    payloads.find(id, event.payload(), turn, out);
                }
                continue;
            }
            let class = &classes[id as usize];
            if !plan::holds(&class.filter, marked[class.marked as usize].left, event) {
                continue;
            }
        }
        out.push(ClassId(id));
    }
}

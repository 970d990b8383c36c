//! The distinct filters of a matcher, each with the number of its holders.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::posting::NUMBERS_MAX;
use crate::filter::definition::Filter;

/// Id of one distinct filter of a [`Matcher`](super::Matcher), regardless of the number of its holders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u32);

impl ClassId {
    /// Returns the class's place in a table by class. Ids are small: those of removed classes are reused.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
struct Class {
    filter: Filter,
    /// Holders of the class; 0 in a free entry.
    holders: u32,
    /// Index of the class's [`Residual`] or, with [`MEMBER`], its number among the members of groups; or [`PLAIN`].
    detail: u32,
}

/// The class has neither a residual nor a place in a group.
const PLAIN: u32 = u32::MAX;

/// The class has conditions on the payload: the index holds its group instead of the class.
const MEMBER: u32 = 1 << 31;

/// State of a class that must be confirmed for each event for which it is found.
#[derive(Debug, Default)]
struct Residual {
    /// Conditions that no path holds; see [`Plan::residual`](super::plan::Plan::residual).
    conditions: u32,
    /// Event for which the class was last found.
    found_for: u32,
}

/// Data of a class that was removed.
pub(super) struct Removed {
    pub(super) filter: Filter,
    /// Number of the class among the members of groups, if it had conditions on the payload.
    pub(super) member: Option<u32>,
}

/// Table of classes.
#[derive(Debug, Default)]
pub(super) struct Classes {
    table: Vec<Class>,
    free: Vec<u32>,
    residuals: Vec<Residual>,
    residuals_free: Vec<u32>,
    /// Number of classes with conditions that no path holds.
    with_residual: usize,
    ids: HashTable<u32>,
    hasher: RandomState,
}

impl Classes {
    /// Adds a holder of this filter's class. Returns the class, and whether it is new.
    pub(super) fn acquire(&mut self, filter: &Filter) -> (u32, bool) {
        let Self { table, ids, hasher, .. } = self;
        let entry = ids.entry(
            hasher.hash_one(filter.bytes()),
            |&id| table[id as usize].filter == *filter,
            |&id| hasher.hash_one(table[id as usize].filter.bytes()),
        );
        let vacant = match entry {
            Entry::Occupied(entry) => {
                let id = *entry.get();
                table[id as usize].holders += 1;
                return (id, false);
            }
            Entry::Vacant(vacant) => vacant,
        };
        let class = Class { filter: filter.clone(), holders: 1, detail: PLAIN };
        let id = match self.free.pop() {
            Some(id) => {
                vacant.insert(id);
                table[id as usize] = class;
                id
            }
            None => {
                let id = table.len() as u32;
                debug_assert!(id < NUMBERS_MAX, "2^29 classes would fill 30 GB before this");
                vacant.insert(id);
                table.push(class);
                id
            }
        };
        (id, true)
    }

    /// Adds a holder of a class that has one.
    #[cfg(feature = "server")]
    pub(super) fn hold(&mut self, id: ClassId) {
        debug_assert!(self.table[id.index()].holders > 0, "a class without a holder has no id in use");
        self.table[id.index()].holders += 1;
    }

    /// Removes a holder. Returns the removed class's data if that was the last one; its id may be reused.
    pub(super) fn release(&mut self, id: ClassId) -> Option<Removed> {
        let class = self.table.get_mut(id.index()).filter(|class| class.holders > 0)?;
        class.holders -= 1;
        if class.holders > 0 {
            return None;
        }
        let filter = std::mem::take(&mut class.filter);
        let detail = class.detail;
        if let Ok(entry) = self.ids.find_entry(self.hasher.hash_one(filter.bytes()), |&other| other == id.0) {
            entry.remove();
        }
        self.free.push(id.0);
        let member = (detail != PLAIN && detail & MEMBER != 0).then_some(detail & !MEMBER);
        if detail != PLAIN && member.is_none() {
            self.with_residual -= usize::from(self.residuals[detail as usize].conditions != 0);
            self.residuals_free.push(detail);
        }
        Some(Removed { filter, member })
    }

    /// Returns whether a class has one holder, several paths and nothing else to confirm.
    #[cfg(feature = "server")]
    pub(super) fn is_plain_candidate(&self, id: ClassId) -> bool {
        let class = &self.table[id.index()];
        let residual = self.residuals.get(class.detail as usize);
        class.holders == 1 && class.detail & MEMBER == 0 && residual.is_some_and(|it| it.conditions == 0)
    }

    /// Replaces the filter of a class by one that no class has.
    #[cfg(feature = "server")]
    pub(super) fn replace(&mut self, id: ClassId, filter: &Filter) {
        let Self { table, ids, hasher, .. } = self;
        let before = std::mem::replace(&mut table[id.index()].filter, filter.clone());
        if let Ok(entry) = ids.find_entry(hasher.hash_one(before.bytes()), |&other| other == id.0) {
            entry.remove();
        }
        let hash = hasher.hash_one(filter.bytes());
        ids.insert_unique(hash, id.0, |&id| hasher.hash_one(table[id as usize].filter.bytes()));
    }

    /// Records that a new class has conditions on the payload.
    pub(super) fn set_member(&mut self, id: u32, member: u32) {
        self.table[id as usize].detail = member | MEMBER;
    }

    /// Records that a new class must be confirmed. `turn` is the last event that was matched.
    pub(super) fn set_residual(&mut self, id: u32, conditions: u32, turn: u32) {
        let fresh = Residual { conditions, found_for: turn };
        self.with_residual += usize::from(conditions != 0);
        self.table[id as usize].detail = if let Some(free) = self.residuals_free.pop() {
            self.residuals[free as usize] = fresh;
            free
        } else {
            self.residuals.push(fresh);
            self.residuals.len() as u32 - 1
        };
    }

    /// Returns whether a class that must be confirmed is found for the first time for this event.
    pub(super) fn is_first_for(&mut self, id: u32, turn: u32) -> bool {
        let residual = &mut self.residuals[self.table[id as usize].detail as usize];
        std::mem::replace(&mut residual.found_for, turn) != turn
    }

    /// Returns the filter of a class, and its conditions that no path holds.
    pub(super) fn residual(&self, id: u32) -> (&Filter, u32) {
        let Class { filter, detail, .. } = &self.table[id as usize];
        (filter, self.residuals.get(*detail as usize).map_or(0, |residual| residual.conditions))
    }

    /// Returns the classes without conditions on the payload.
    pub(super) fn on_attributes(&self) -> impl Iterator<Item = u32> {
        let is_on_attributes = |class: &Class| class.detail == PLAIN || class.detail & MEMBER == 0;
        let held = self
            .table
            .iter()
            .enumerate()
            .filter(move |(_, class)| class.holders > 0 && is_on_attributes(class));
        held.map(|(id, _)| id as u32)
    }

    /// Returns the number of classes with residual conditions.
    #[cfg(feature = "server")]
    pub(super) fn residuals(&self) -> usize {
        self.with_residual
    }

    /// Forgets which event was the last, before turns start again.
    pub(super) fn forget_turns(&mut self) {
        for residual in &mut self.residuals {
            residual.found_for = 0;
        }
    }

    /// Returns the class of this filter.
    pub(super) fn find(&self, filter: &Filter) -> Option<ClassId> {
        let same = |id: &u32| self.table[*id as usize].filter == *filter;
        self.ids.find(self.hasher.hash_one(filter.bytes()), same).map(|id| ClassId(*id))
    }

    /// Returns the filter of a class.
    pub(super) fn filter(&self, id: ClassId) -> Option<&Filter> {
        self.table.get(id.index()).filter(|class| class.holders > 0).map(|class| &class.filter)
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    #[cfg(test)]
    pub(super) fn ids_max(&self) -> u32 {
        self.table.len() as u32
    }

    /// Returns the size of the filters themselves, in bytes. Walks all classes.
    #[cfg(feature = "server")]
    pub(super) fn filter_bytes(&self) -> usize {
        self.table.iter().map(|class| class.filter.held_bytes()).sum()
    }

    #[cfg(feature = "server")]
    pub(super) fn spare_bytes(&self) -> usize {
        self.free.len() * size_of::<Class>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.table.capacity() * size_of::<Class>()
            + self.residuals.capacity() * size_of::<Residual>()
            + self.ids.allocation_size()
            + (self.free.capacity() + self.residuals_free.capacity()) * size_of::<u32>()
    }
}

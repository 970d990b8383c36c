//! Replaces a class's filter by one with other values in one list, in place.
//!
//! Always:
//! - The tables are those that a removal and an insertion would leave, except that the class keeps its id.
//! - The cost is that of the values that differ, and a walk over both filters.

use std::cmp::Ordering;

use super::Matcher;
use super::plan::{self, Choices, Plan};
use super::posting::Posting;
use crate::filter::definition::Filter;
use crate::filter::encoding::{Clause, MembersWriter, SetRef};

/// Members of one list in which two filters differ, encoded.
struct Difference {
    about: u8,
    added: Vec<u8>,
    removed: Vec<u8>,
}

impl Difference {
    /// Returns the difference of two filters; `None` if they differ in more than one list, or in anything else.
    fn of(from: &Filter, to: &Filter) -> Option<Self> {
        let (mut old, mut new) = (from.clauses(), to.clauses());
        let mut difference = None;
        loop {
            match (old.next(), new.next()) {
                (None, None) => return difference,
                (Some(Clause::Set(one)), Some(Clause::Set(other))) => {
                    if (one.about, one.negated) != (other.about, other.negated) {
                        return None;
                    }
                    if one.body() == other.body() {
                        continue;
                    }
                    if one.negated || difference.is_some() {
                        return None;
                    }
                    difference = Some(Self::of_lists(one, other));
                }
                // A comparison of the payload.
                _ => return None,
            }
        }
    }

    fn of_lists(from: SetRef<'_>, to: SetRef<'_>) -> Self {
        let (mut added, mut removed) = (MembersWriter::default(), MembersWriter::default());
        let (mut old, mut new) = (from.members(), to.members());
        loop {
            // Most members are equal, and comparing their bytes is the quickest way to see that.
            old.skip_common(&mut new);
            let (mut old_next, mut new_next) = (old.clone(), new.clone());
            let (one, other) = (old_next.next(), new_next.next());
            let order = match (one, other) {
                (None, None) => {
                    let (added, removed) = (added.into_bytes(), removed.into_bytes());
                    return Self { about: from.about, added, removed };
                }
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(one), Some(other)) => one.cmp(&other),
            };
            match (order, one, other) {
                (Ordering::Less, Some(one), _) => removed.push(one),
                (Ordering::Greater, _, Some(other)) => added.push(other),
                _ => {}
            }
            if order != Ordering::Greater {
                old = old_next;
            }
            if order != Ordering::Less {
                new = new_next;
            }
        }
    }
}

impl Matcher {
    /// Replaces the filter of a class that has a single holder. Returns whether that was possible in place: if not, nothing
    /// has changed, and the caller inserts one filter and removes the other.
    pub(crate) fn edit(&mut self, from: &Filter, to: &Filter) -> bool {
        let Some(id) = self.classes.find(from).filter(|id| self.classes.is_plain_candidate(*id)) else {
            return false;
        };
        let Some(Difference { about, added, removed }) = Difference::of(from, to) else { return false };
        let plan = Plan::new(to, self.paths_max);
        // With one path the posting needs no confirmation, so it would have to be replaced by another kind.
        if plan.residual != 0 || plan.paths < 2 || self.classes.find(to).is_some() {
            return false;
        }
        let posting = Posting::class(id.0, true);
        let of_added = plan.with(SetRef::of(about, &added));
        let of_removed = plan.with(SetRef::of(about, &removed));
        let Self { symbols, automaton, index, generations, .. } = self;
        plan::acquire(SetRef::of(about, &added), symbols, automaton);
        Choices::find(&of_added, symbols, automaton).for_each(|path, rarest| {
            index.insert(path, posting);
            generations.advance(rarest);
        });
        Choices::find(&of_removed, symbols, automaton).for_each(|path, rarest| {
            index.remove(path, posting);
            generations.advance(rarest);
        });
        let of_removed = Plan { sets: [SetRef::of(about, &removed)].into_iter().collect(), ..of_removed };
        plan::release(&of_removed, symbols, automaton, |number| generations.advance(Some(number)));
        self.classes.replace(id, to);
        true
    }
}

impl<'a> Plan<'a> {
    /// Returns the plan with other members in the set on the same attribute.
    fn with(&self, set: SetRef<'a>) -> Self {
        let other = |own: &SetRef<'a>| if own.about == set.about { set } else { *own };
        Self { sets: self.sets.iter().map(other).collect(), residual: self.residual, paths: self.paths }
    }
}

//! Edits of one list of a filter: values are added and removed, and the other conditions stay as they are.
//!
//! Always:
//! - An edited filter equals the one that its setters would build from the new values.
//! - The cost is a walk over the list (at most 256 members in a filter from outside), and a copy of the filter.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::slice::Iter;

use super::definition::Filter;
use super::encoding::{self, Clause, Member, MemberPatterns, MembersWriter, SetRef, in_place, write_clause};
use super::limits::{self, VALUES_MAX};

/// Divisor of a part's capacity that is left free: a quarter, so that values can be added.
const FREE_SHARE: usize = 4;

/// Minimum number of values in a part for which a long list is divided. Below it the other conditions are too many.
const ROOM_MIN: usize = 16;

/// List of a filter after an edit.
#[derive(Debug, Default)]
pub(crate) struct EditedList {
    /// Members, encoded.
    body: Vec<u8>,
    /// Number of members.
    pub(crate) count: usize,
    /// Members that the list did not have before, encoded.
    pub(crate) added: Vec<u8>,
    /// Numbers of members that were added and removed.
    pub(crate) added_count: usize,
    pub(crate) removed_count: usize,
    /// Weights of the members that were added and removed; see [`Filter::weight`].
    pub(crate) added_weight: u32,
    pub(crate) removed_weight: u32,
}

/// An edit of a list that is under way.
struct Edit<'a> {
    list: EditedList,
    body: MembersWriter<'a>,
    added: MembersWriter<'a>,
    add: Peekable<Iter<'a, MemberPatterns>>,
}

impl EditedList {
    /// Returns a list after its members in `remove` were removed and those in `add` were added. Both are sorted, distinct,
    /// and have no member in common.
    pub(crate) fn of(list: SetRef<'_>, add: &[MemberPatterns], remove: &[MemberPatterns]) -> Self {
        let mut edit = Edit {
            list: Self::default(),
            body: MembersWriter::with_capacity(list.body().len() + 32),
            added: MembersWriter::default(),
            add: add.iter().peekable(),
        };
        let mut remove = remove.iter().peekable();
        let mut members = list.members();
        while let Some(member) = members.next() {
            edit.add_before(Some(member));
            while remove.next_if(|value| in_place(value) < member).is_some() {}
            if remove.next_if(|value| in_place(value) == member).is_some() {
                edit.list.removed_count += 1;
                edit.list.removed_weight += limits::member_weight(member);
                continue;
            }
            edit.list.count += 1;
            edit.body.push(member);
            if edit.add.peek().is_none() && remove.peek().is_none() {
                edit.body.push_rest(&members);
                edit.list.count += members.count();
                return edit.finish();
            }
        }
        edit.add_before(None);
        edit.finish()
    }
}

impl Edit<'_> {
    /// Adds the members that come before `member`, and skips `member` itself.
    fn add_before(&mut self, member: Option<Member<'_>>) {
        while let Some(added) =
            self.add.next_if(|added| member.is_none_or(|member| in_place(added) <= member))
        {
            let added = in_place(added);
            if member.is_none_or(|member| added.cmp(&member) != Ordering::Equal) {
                self.body.push(added);
                self.added.push(added);
                self.list.count += 1;
                self.list.added_count += 1;
                self.list.added_weight += limits::member_weight(added);
            }
        }
    }

    fn finish(self) -> EditedList {
        EditedList { body: self.body.into_bytes(), added: self.added.into_bytes(), ..self.list }
    }
}

/// Returns these members, encoded.
pub(crate) fn encoded(members: &[MemberPatterns]) -> Vec<u8> {
    MembersWriter::of(members.iter().map(in_place))
}

impl Filter {
    /// Returns the filter that requires one of these values.
    pub(crate) fn of_list(about: u8, members: Vec<MemberPatterns>) -> Self {
        let set = encoding::Set { about, negated: false, members };
        Self::from_parts(encoding::Parts { sets: vec![set], comparisons: Vec::new() })
    }

    /// Returns the set of alternatives for the event's value; `None` if there is no such set, or more than one.
    pub(crate) fn list(&self, about: u8) -> Option<SetRef<'_>> {
        let mut lists = self.clauses().filter_map(|clause| match clause {
            Clause::Set(set) if set.about == about && !set.negated => Some(set),
            _ => None,
        });
        lists.next().filter(|_| lists.next().is_none() && !self.is_nothing())
    }

    /// Returns a bit for each attribute with alternatives for the event's value.
    pub(crate) fn lists(&self) -> u16 {
        self.clauses().fold(0, |lists, clause| match clause {
            Clause::Set(set) if !set.negated => lists | 1 << set.about,
            _ => lists,
        })
    }

    /// Returns the filter with `body`, an encoded list that is not empty, in place of its list.
    pub(crate) fn with_list(&self, about: u8, body: &[u8]) -> Self {
        let mut out = Vec::with_capacity(self.bytes().len() + body.len() + 4);
        let mut clauses = self.clauses();
        loop {
            let before = clauses.rest;
            match clauses.next() {
                None => return Self::from_canonical(&out),
                Some(Clause::Set(set)) if set.about == about && !set.negated => {
                    write_clause(about, body, &mut out);
                }
                Some(_) => out.extend_from_slice(&before[..before.len() - clauses.rest.len()]),
            }
        }
    }

    /// Returns the filter after an edit of its list, in parts if it has too many values for one filter.
    pub(crate) fn with_edited(&self, about: u8, list: &EditedList) -> Vec<Self> {
        let whole = self.with_list(about, &list.body);
        if list.count <= self.room_for(about) { vec![whole] } else { whole.divided(about) }
    }

    /// Returns the number of values that this list may have in addition to the filter's other conditions.
    pub(crate) fn room_for(&self, about: u8) -> usize {
        let others = self.clauses().map(|clause| match clause {
            Clause::Set(set) if set.about == about && !set.negated => 0,
            Clause::Set(set) => set.members().count(),
            Clause::Comparison(comparison) => comparison.literals().count(),
        });
        VALUES_MAX.saturating_sub(others.sum())
    }

    /// Returns filters that together match what this one matches, each with a part of the list. None has too many values,
    /// unless the other conditions alone are too many.
    fn divided(&self, about: u8) -> Vec<Self> {
        let room = self.room_for(about);
        let Some(list) = self.list(about).filter(|_| room >= ROOM_MIN) else { return vec![self.clone()] };
        let count = list.members().count();
        let parts = count.div_ceil(room - room / FREE_SHARE);
        let mut members = list.members();
        let mut divided = Vec::with_capacity(parts);
        for part in 0..parts {
            let size = count * (part + 1) / parts - count * part / parts;
            divided.push(self.with_list(about, &MembersWriter::of(members.by_ref().take(size))));
        }
        divided
    }

    /// Returns filters that together match what this one matches: itself, or parts of its longest list if that makes it
    /// too long for a filter.
    pub(crate) fn in_parts(self) -> Vec<Self> {
        let lists = self.clauses().filter_map(|clause| match clause {
            Clause::Set(set) if !set.negated => Some((set.members().count(), set.about)),
            _ => None,
        });
        let longest = lists.max();
        match longest {
            Some((count, about)) if count > self.room_for(about) => self.divided(about),
            _ => vec![self],
        }
    }

    /// Returns the attribute of the list in which two parts of a divided filter differ.
    pub(crate) fn divided_by(&self, other: &Self) -> Option<u8> {
        let mut others = other.clauses();
        let differing = self.clauses().find_map(|clause| match (clause, others.next()?) {
            (Clause::Set(one), Clause::Set(other)) if one.body() != other.body() => Some(one.about),
            _ => None,
        });
        differing.filter(|about| self.list(*about).is_some() && other.list(*about).is_some())
    }

    /// Returns whether two filters with this list are equal in everything else.
    pub(crate) fn differs_only_in(&self, about: u8, other: &Self) -> bool {
        match (self.list(about), other.list(about)) {
            (Some(list), Some(_)) => other.with_list(about, list.body()) == *self,
            _ => false,
        }
    }

    /// Returns the filter that was divided into these parts.
    pub(crate) fn joined<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut parts = parts.into_iter();
        let Some(first) = parts.next() else { return Self::nothing() };
        let Some(second) = parts.next() else { return first.clone() };
        let (own, mut joined) = (encoding::decode(first.bytes()), encoding::decode(first.bytes()));
        for part in std::iter::once(second).chain(parts) {
            let sets = encoding::decode(part.bytes()).sets;
            for ((set, own), other) in joined.sets.iter_mut().zip(&own.sets).zip(sets) {
                if *own != other {
                    set.members.extend(other.members);
                }
            }
        }
        Self::from_parts(joined)
    }

    /// Returns whether the first member of a list is after this one.
    pub(crate) fn first_member_is_after(&self, about: u8, member: &MemberPatterns) -> bool {
        let first = self.list(about).and_then(|list| list.members().next());
        first.is_some_and(|first| first > in_place(member))
    }

    /// Returns the list's first member, encoded.
    pub(crate) fn first_member(&self, about: u8) -> Vec<u8> {
        MembersWriter::of(self.list(about).and_then(|list| list.members().next()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Attribute;
    use crate::filter::ENTITY;
    use crate::filter::pattern::Pattern;

    fn members(numbers: &std::collections::BTreeSet<u8>, pairs: bool) -> Vec<MemberPatterns> {
        let value =
            |n: &u8| Pattern::new(if n.is_multiple_of(7) { format!("v.{n}.*") } else { format!("v{n}") });
        let mut all: Vec<MemberPatterns> = numbers
            .iter()
            .map(|n| if pairs { (Pattern::new("k"), Some(value(n))) } else { (value(n), None) })
            .collect();
        all.sort_unstable();
        all
    }

    fn filter(about: u8, list: &[MemberPatterns]) -> Filter {
        let set = encoding::Set { about, negated: false, members: list.to_vec() };
        let base = Filter::new().types(["t.*", "u"]).not_sources(["s"]).not_channels(["v1"]);
        let mut parts = encoding::decode(base.bytes());
        parts.sets.push(set);
        Filter::from_parts(parts)
    }

    proptest! {
        #[test]
        fn an_edit_gives_the_filter_of_the_new_values(
            held in prop::collection::btree_set(any::<u8>(), 1..60),
            add in prop::collection::btree_set(any::<u8>(), 0..20),
            remove in prop::collection::btree_set(any::<u8>(), 0..20),
            pairs in any::<bool>(),
        ) {
            let about = if pairs { ENTITY } else { Attribute::Channel as u8 };
            let remove: std::collections::BTreeSet<u8> = remove.difference(&add).copied().collect();
            let before = filter(about, &members(&held, pairs));
            let list = before.list(about).expect("a list");
            let edited = EditedList::of(list, &members(&add, pairs), &members(&remove, pairs));
            let kept: std::collections::BTreeSet<u8> = held.difference(&remove).copied().collect();
            let all: std::collections::BTreeSet<u8> = kept.union(&add).copied().collect();
            prop_assert_eq!(edited.count, all.len());
            prop_assert_eq!(edited.removed_count, held.len() - kept.len());
            prop_assert_eq!(edited.added_count, add.difference(&held).count());
            let fresh: std::collections::BTreeSet<u8> = add.difference(&held).copied().collect();
            prop_assert_eq!(&edited.added, &encoded(&members(&fresh, pairs)));
            if !all.is_empty() {
                let after = filter(about, &members(&all, pairs));
                prop_assert_eq!(before.weight() + edited.added_weight - edited.removed_weight, after.weight());
                prop_assert_eq!(before.with_edited(about, &edited), vec![after]);
            }
        }
    }

    #[test]
    fn a_long_list_is_divided_and_joined_again() {
        for count in [1usize, 255, 256, 257, 1000, 1024] {
            let long = Filter::new()
                .types(["a.*", "b"])
                .payload("x", crate::filter::Operator::Equal, [1])
                .entities((0..count).map(|n| ("symbol", format!("S{n:04}"))));
            let parts = long.clone().in_parts();
            let limits = crate::filter::FilterLimits::default();
            assert!(parts.iter().all(|part| part.check(&limits).is_ok()), "{count}");
            assert_eq!(parts.len() > 1, count > 253, "{count}");
            assert_eq!(Filter::joined(&parts), long);
            if let [one, two, ..] = parts.as_slice() {
                assert_eq!(one.divided_by(two), Some(ENTITY));
            }
        }
        let wide =
            Filter::new().types((0..250).map(|n| n.to_string())).sources((0..250).map(|n| n.to_string()));
        assert_eq!(wide.clone().in_parts(), [wide], "no list has enough room beside the other");
        assert_eq!(Filter::nothing().in_parts(), [Filter::nothing()]);
    }
}

//! Relations between filters, rules and logs, decided from the conditions alone.
//!
//! Invariant: every answer is conservative. A filter that implies a rule matches no event outside it, and a filter that
//! excludes a rule matches none of its events. Where the conditions do not decide, both answers are no.

use std::borrow::Cow;

use super::rule::RetainBy;
use crate::event::Attribute;
use crate::filter::{Clause, ENTITY, Filter, PatternRef, SetRef};

/// Values of an attribute that a filter names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NamedValues<'a> {
    /// These values and no others.
    Exactly(Vec<Cow<'a, str>>),
    /// Patterns too, or no condition on the attribute. Holds the exact values among them.
    Open(Vec<Cow<'a, str>>),
}

type PairRef<'a> = (PatternRef<'a>, Option<PatternRef<'a>>);

fn sets(filter: &Filter, about: u8, negated: bool) -> impl Iterator<Item = SetRef<'_>> {
    filter.clauses().filter_map(move |clause| match clause {
        Clause::Set(set) if set.about == about && set.negated == negated => Some(set),
        _ => None,
    })
}

/// Returns the values of an attribute that a filter names.
pub(super) fn named_values(filter: &Filter, by: RetainBy) -> NamedValues<'_> {
    let mut values = Vec::new();
    let mut is_open = true;
    for set in sets(filter, by.about(), false) {
        is_open = false;
        for (first, second) in set.members() {
            match (first.exact(), second.map(PatternRef::exact)) {
                // An empty value stands for an absent attribute, which has no log.
                (Some(""), _) | (_, Some(Some(""))) => {}
                (Some(value), None) => values.push(Cow::Borrowed(value)),
                (Some(kind), Some(Some(id))) => {
                    if !kind.contains(':') {
                        values.push(Cow::Owned(format!("{kind}:{id}")));
                    }
                }
                _ => is_open = true,
            }
        }
    }
    if is_open { NamedValues::Open(values) } else { NamedValues::Exactly(values) }
}

/// Returns whether every event that a filter matches has a value of the attribute.
pub(super) fn requires(filter: &Filter, by: RetainBy) -> bool {
    let is_value = |(first, second): PairRef<'_>| match second {
        None => first.exact().is_none_or(|value| !value.is_empty()),
        Some(second) => {
            first.exact().is_some_and(|kind| !kind.is_empty() && !kind.contains(':'))
                && second.exact().is_some_and(|id| !id.is_empty())
        }
    };
    by == RetainBy::Type || sets(filter, by.about(), false).any(|set| set.members().all(is_value))
}

/// Returns whether a member of a set matches only what another member matches.
fn is_within((first, second): PairRef<'_>, (firsts, seconds): PairRef<'_>) -> bool {
    let is_one = |one: PatternRef<'_>, all: PatternRef<'_>| {
        one == all || one.exact().is_some_and(|value| all.matches(value.as_bytes()))
    };
    is_one(first, firsts)
        && match (second, seconds) {
            (Some(one), Some(all)) => is_one(one, all),
            _ => true,
        }
}

/// Returns whether no value matches both members: both are exact and differ, or one is exact and the other does not
/// match it.
fn is_apart((first, second): PairRef<'_>, (firsts, seconds): PairRef<'_>) -> bool {
    let differs = |one: PatternRef<'_>, other: PatternRef<'_>| match (one.exact(), other.exact()) {
        (Some(one), _) => !other.matches(one.as_bytes()),
        (None, Some(other)) => !one.matches(other.as_bytes()),
        (None, None) => false,
    };
    differs(first, firsts) || second.zip(seconds).is_some_and(|(one, other)| differs(one, other))
}

/// Returns whether every event that `filter` matches is one that `rule` matches.
pub(crate) fn implies(filter: &Filter, rule: &Filter) -> bool {
    rule.clauses().all(|clause| match clause {
        Clause::Set(wanted) if !wanted.negated => sets(filter, wanted.about, false)
            .any(|set| set.members().all(|member| wanted.members().any(|all| is_within(member, all)))),
        Clause::Set(refused) => {
            let none_of = |set: SetRef<'_>| {
                set.members().all(|member| refused.members().all(|other| is_apart(member, other)))
            };
            let all_of = |set: SetRef<'_>| {
                refused.members().all(|other| set.members().any(|member| is_within(other, member)))
            };
            sets(filter, refused.about, false).any(none_of) || sets(filter, refused.about, true).any(all_of)
        }
        Clause::Comparison(_) => false,
    })
}

/// Returns whether no event that `filter` matches is one that `rule` matches.
pub(crate) fn excludes(filter: &Filter, rule: &Filter) -> bool {
    let abouts = Attribute::ALL.iter().map(|attribute| attribute.index() as u8).chain([ENTITY]);
    let are_apart = |about: u8| {
        sets(filter, about, false).any(|one| {
            sets(rule, about, false)
                .any(|other| one.members().all(|one| other.members().all(|other| is_apart(one, other))))
        })
    };
    filter.is_nothing() || abouts.into_iter().any(are_apart)
}

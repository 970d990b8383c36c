//! Evaluates one clause of a filter for one event. The matcher is tested against this definition.

use super::encoding::{Clause, ENTITY, Member, SetRef};
use super::pattern::{PatternKind, PatternRef, segments};
use crate::event::{Attribute, Event};

/// Returns whether one condition holds.
pub(crate) fn holds(clause: Clause<'_>, event: &Event) -> bool {
    match clause {
        Clause::Set(set) => set_holds(set, event),
        Clause::Comparison(comparison) => comparison.holds(event.payload()),
    }
}

fn set_holds(set: SetRef<'_>, event: &Event) -> bool {
    let values = values(set, event);
    set.members().any(|member| is_member(member, values)) != set.negated
}

/// Value of the attribute that a set is about, and of the second one of a pair.
pub(crate) type Values<'a> = (&'a [u8], &'a [u8]);

/// Returns an event's values for a set.
pub(crate) fn values<'a>(set: SetRef<'_>, event: &'a Event) -> Values<'a> {
    let value = |attribute| event.attribute(attribute).unwrap_or_default().as_bytes();
    if set.about == ENTITY {
        (value(Attribute::EntityKind), value(Attribute::EntityId))
    } else {
        (value(Attribute::ALL[usize::from(set.about)]), &[])
    }
}

/// Returns whether a member of a set matches these values.
pub(crate) fn is_member((first, second): Member<'_>, values: Values<'_>) -> bool {
    first.matches(values.0) && second.is_none_or(|second| second.matches(values.1))
}

/// Returns about how many instructions [`is_member`] takes, at most.
pub(crate) fn cost((first, second): Member<'_>, values: Values<'_>) -> u64 {
    let of = |pattern: PatternRef<'_>, value: &[u8]| match pattern.kind {
        PatternKind::Exact => 20,
        // Each segment of the pattern is compared with each segment of the value, which takes 107 instructions. A segment of a
        // value has a byte and a separator at the least.
        PatternKind::Segments => {
            let segments = segments(pattern.text).count();
            (150 + 6 * value.len() + 54 * segments * value.len()) as u64
        }
        PatternKind::Runs => (100 + 4 * (pattern.text.len() + value.len())) as u64,
    };
    30 + of(first, values.0) + second.map_or(0, |second| of(second, values.1))
}

//! Evaluates one clause of a filter for one event. The matcher is tested against this definition.

use super::encoding::{Clause, ENTITY, Member, SetRef};
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
    set.members().any(|member| is_member(member, values, &mut 0)) != set.negated
}

/// Value of the attribute that a set is about; for entities, kind and id.
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

/// Returns whether a member of a set matches these values. Adds the approximate number of instructions to `worked`.
pub(crate) fn is_member((first, second): Member<'_>, values: Values<'_>, worked: &mut u64) -> bool {
    *worked += 30;
    first.matches_counted(values.0, worked)
        && second.is_none_or(|second| second.matches_counted(values.1, worked))
}

//! Evaluates one clause of a filter for one event. The matcher is tested against this definition.

use super::encoding::{Clause, ENTITY, SetRef};
use crate::event::{Attribute, Event};

/// Returns whether one condition holds.
pub(crate) fn holds(clause: Clause<'_>, event: &Event) -> bool {
    match clause {
        Clause::Set(set) => set_holds(set, event),
        Clause::Comparison(comparison) => comparison.holds(event.payload()),
    }
}

fn set_holds(set: SetRef<'_>, event: &Event) -> bool {
    let value = |attribute| event.attribute(attribute).unwrap_or_default().as_bytes();
    let matched = if set.about == ENTITY {
        let (kind, id) = (value(Attribute::EntityKind), value(Attribute::EntityId));
        set.members().any(|(kinds, ids)| kinds.matches(kind) && ids.is_some_and(|ids| ids.matches(id)))
    } else {
        let value = value(Attribute::ALL[usize::from(set.about)]);
        set.members().any(|(pattern, _)| pattern.matches(value))
    };
    matched != set.negated
}

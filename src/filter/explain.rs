//! Explains why a filter matches an event or does not.
//!
//! Always: an explanation says "wanted" exactly if [`Filter::matches`] returns `true`.

use std::fmt;

#[cfg(feature = "server")]
use super::comparison::{Comparison, ComparisonRef};
use super::definition::Filter;
use super::encoding::{Clause, ENTITY};
use super::evaluate::holds;
#[cfg(feature = "server")]
use super::literal::Operator;
use crate::event::{Attribute, Event};

/// Result of one condition of a filter for one event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Condition {
    /// Condition, in the text form of filters.
    pub text: String,
    /// Whether the condition holds.
    pub holds: bool,
    /// Value of the event: an attribute's value, `kind:id`, or a field's JSON text; `None` if the event has none.
    pub found: Option<String>,
}

/// Results of a filter's conditions for one event; see [`Filter::explain`].
///
/// The `Display` form is one line for each condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    conditions: Vec<Condition>,
}

impl Explanation {
    /// Returns whether the filter matches the event: all conditions hold.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.conditions.iter().all(|condition| condition.holds)
    }

    /// Returns the conditions in the order of the filter's text. The filter that matches everything has none.
    #[must_use]
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}

impl Filter {
    /// Returns which conditions hold for an event, and the values that were found. For people: slower than
    /// [`matches`](Self::matches), and it allocates.
    ///
    /// ```
    /// # use fanwire::{Event, Filter};
    /// let filter: Filter = "type=task.* source=core".parse()?;
    /// let why = filter.explain(&Event::builder("task.done").source("edge").build()?);
    /// assert!(!why.is_wanted());
    /// assert_eq!(why.to_string(), "holds  type=task.*  (task.done)\nfails  source=core  (edge)\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn explain(&self, event: &Event) -> Explanation {
        let mut clauses = self.clauses();
        let mut conditions = Vec::new();
        loop {
            let before = clauses.rest;
            let Some(clause) = clauses.next() else { break };
            let alone = &before[..before.len() - clauses.rest.len()];
            conditions.push(Condition {
                text: Self::from_canonical(alone).to_string(),
                holds: holds(clause, event),
                found: found(clause, event),
            });
        }
        Explanation { conditions }
    }
}

/// Explanations for filters that are grants.
#[cfg(feature = "server")]
impl Filter {
    /// Returns whether no event with this value of an attribute matches.
    pub(crate) fn refuses(&self, attribute: Attribute, value: &str) -> bool {
        self.clauses().any(|clause| match clause {
            Clause::Set(set) if usize::from(set.about) == attribute.index() => {
                let mut members = set.members();
                members.any(|(pattern, _)| pattern.matches(value.as_bytes())) == set.negated
            }
            _ => false,
        })
    }

    /// Returns whether no event with this entity matches.
    pub(crate) fn refuses_entity(&self, kind: &str, id: &str) -> bool {
        let pairs = |clause| match clause {
            Clause::Set(set) if set.about == ENTITY => {
                let mut members = set.members();
                let is_one = members.any(|(kinds, ids)| {
                    kinds.matches(kind.as_bytes()) && ids.is_some_and(|ids| ids.matches(id.as_bytes()))
                });
                is_one == set.negated
            }
            _ => false,
        };
        self.refuses(Attribute::EntityKind, kind)
            || self.refuses(Attribute::EntityId, id)
            || self.clauses().any(pairs)
    }

    /// Returns the payload values that `asked` names and that no event matching this filter can have, as
    /// `payload.tenant "b"`.
    pub(crate) fn refused_literals(&self, asked: &Self) -> Vec<String> {
        let own = comparisons(self);
        if own.is_empty() {
            return Vec::new();
        }
        let mut refused = Vec::new();
        for (_, asked) in comparisons(asked).iter().filter(|(_, asked)| asked.operator == Operator::Equal) {
            for value in &asked.values {
                let json = value.to_string();
                if own
                    .iter()
                    .any(|(comparison, parts)| parts.path == asked.path && !comparison.holds_at(&json))
                {
                    refused.push(format!("payload.{} {json}", asked.path.join(".")));
                }
            }
        }
        refused
    }

    /// Returns the text of the first condition that an event breaks. Conditions on the type, and on values that the
    /// event does not have, are not considered.
    pub(crate) fn broken_by(&self, event: &Event) -> Option<String> {
        let mut clauses = self.clauses();
        loop {
            let before = clauses.rest;
            let clause = clauses.next()?;
            let is_of_type =
                matches!(clause, Clause::Set(set) if usize::from(set.about) == Attribute::Type.index());
            // `nothing` is a set on the type without members.
            if (!is_of_type || self.is_nothing())
                && !holds(clause, event)
                && (found(clause, event).is_some() || self.is_nothing())
            {
                let alone = &before[..before.len() - clauses.rest.len()];
                return Some(Self::from_canonical(alone).to_string());
            }
        }
    }
}

#[cfg(feature = "server")]
fn comparisons(filter: &Filter) -> Vec<(ComparisonRef<'_>, Comparison)> {
    let of = |clause| match clause {
        Clause::Comparison(comparison) => Some((comparison, comparison.to_comparison())),
        Clause::Set(_) => None,
    };
    filter.clauses().filter_map(of).collect()
}

fn found(clause: Clause<'_>, event: &Event) -> Option<String> {
    match clause {
        Clause::Set(set) if set.about == ENTITY => event.entity().map(|(kind, id)| format!("{kind}:{id}")),
        Clause::Set(set) => event.attribute(Attribute::ALL[usize::from(set.about)]).map(str::to_owned),
        Clause::Comparison(comparison) => comparison.found(event.payload()).map(str::to_owned),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.conditions.is_empty() {
            return writeln!(f, "holds  (everything)");
        }
        for Condition { text, holds, found } in &self.conditions {
            let verdict = if *holds { "holds" } else { "fails" };
            writeln!(f, "{verdict}  {text}  ({})", found.as_deref().unwrap_or("absent"))?;
        }
        Ok(())
    }
}

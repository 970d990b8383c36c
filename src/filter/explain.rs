//! Why a filter wants an event, or does not. Imports its siblings only. Always: an explanation says "wanted"
//! exactly where [`Filter::matches`] does.

use std::fmt;

use super::encoding::{Clause, ENTITY};
use super::{Filter, holds};
use crate::event::{Attribute, Event};

/// One condition of a filter before one event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Condition {
    /// The condition, as a filter's text.
    pub text: String,
    /// Whether it holds.
    pub holds: bool,
    /// What the event has there: an attribute's value, `kind:id`, or a field's JSON text; `None` if it has
    /// nothing.
    pub found: Option<String>,
}

/// A filter's conditions before one event; made by [`Filter::explain`].
///
/// Its `Display` is a line for each condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    conditions: Vec<Condition>,
}

impl Explanation {
    /// Whether the filter wants the event: all conditions hold.
    pub fn is_wanted(&self) -> bool {
        self.conditions.iter().all(|condition| condition.holds)
    }

    /// The conditions in the order of the filter's text. None for the filter that wants everything.
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}

impl Filter {
    /// Which of its conditions hold for an event, and what was found instead. For people: slower than
    /// [`matches`](Self::matches).
    ///
    /// ```
    /// # use fanwire::{Event, Filter};
    /// let filter: Filter = "type=task.* source=core".parse()?;
    /// let why = filter.explain(&Event::builder("task.done").source("edge").build()?);
    /// assert!(!why.is_wanted());
    /// assert_eq!(why.to_string(), "holds  type=task.*  (task.done)\nfails  source=core  (edge)\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn explain(&self, event: &Event) -> Explanation {
        let mut clauses = self.clauses();
        let mut conditions = Vec::new();
        loop {
            let before = clauses.rest;
            let Some(clause) = clauses.next() else { break };
            let alone = &before[..before.len() - clauses.rest.len()];
            conditions.push(Condition {
                text: Self(Some(alone.into())).to_string(),
                holds: holds(clause, event),
                found: found(clause, event),
            });
        }
        Explanation { conditions }
    }
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

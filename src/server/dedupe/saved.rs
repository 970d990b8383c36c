//! Saved form of outcomes, for a successor process.

use serde::{Deserialize, Serialize};

use super::super::tick::Tick;
use super::table::{AcceptedIds, BEGIN, Name, NameState, NameTable};
use crate::event::EventId;

/// Outcome of a name, as a successor reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedOutcome {
    name: Box<str>,
    /// Digest of the request, for a key.
    #[serde(default, skip_serializing_if = "is_zero")]
    digest: u64,
    /// Ticks since the outcome was known.
    age: Tick,
    /// Id of the last event; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<Box<str>>,
    /// Id of the first event; absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<Box<str>>,
    /// For a key: numbers of the events that the log is known to have, if it is known not to have all. An earlier version reads
    /// the outcome as uncertain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<u32>,
    /// Whether it is unknown if the events were accepted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    uncertain: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(digest: &u64) -> bool {
    *digest == 0
}

impl NameTable {
    /// Returns all outcomes, the oldest first. A publication that is still in flight is uncertain for the successor.
    pub(super) fn save(&self) -> Vec<SavedOutcome> {
        let saved = |name: &Name, age| {
            let entry = self.entries.get(name)?;
            let text = |id: Option<EventId>| id.map(|id| id.to_string().into());
            let (id, first, parts) = match (&entry.state, &entry.parts) {
                (NameState::Accepted(AcceptedIds { first, last }), _) => {
                    (text(*last), text(*first), Vec::new())
                }
                (NameState::Partial, Some(parts)) => (text(Some(parts.last)), None, parts.numbers.clone()),
                _ => (None, None, Vec::new()),
            };
            let uncertain = !matches!(entry.state, NameState::Accepted(_));
            let name = (&*name.0).into();
            Some(SavedOutcome { name, digest: entry.digest, age, id, first, parts, uncertain })
        };
        let is_current =
            |number: u64, name: &Name| self.entries.get(name).is_some_and(|entry| entry.number == number);
        let settled = self.settled.iter().filter(|(_, number, name)| is_current(*number, name));
        let in_flight =
            self.entries.iter().filter(|(_, entry)| matches!(entry.state, NameState::InFlight(_)));
        settled
            .filter_map(|(since, _, name)| saved(name, self.now.saturating_sub(*since)))
            .chain(in_flight.filter_map(|(name, _)| saved(name, 0)))
            .collect()
    }

    /// Adds a predecessor's outcomes, the oldest first. Invalid ones are left out.
    pub(super) fn restore(&mut self, saved: Vec<SavedOutcome>) {
        self.now = self.now.max(BEGIN);
        for SavedOutcome { name, digest, age, id, first, parts, uncertain } in saved {
            let last: Option<EventId> = match id.as_deref().map(str::parse) {
                Some(Err(_)) => continue,
                Some(Ok(id)) => Some(id),
                None => None,
            };
            let first = first.and_then(|id| id.parse().ok());
            let ids = AcceptedIds { first, last };
            let name = Name((&*name).into());
            if parts.is_empty() {
                let state = if uncertain { NameState::Uncertain } else { NameState::Accepted(ids) };
                self.remember(name.clone(), digest, state, age);
            }
            for (at, last) in parts.into_iter().filter_map(|at| Some((at, last?))) {
                self.learn_part(0, (name.clone(), digest), at, last, age);
            }
        }
    }
}

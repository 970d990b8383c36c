//! Purges: kept logs are removed as a whole, on request.
//!
//! Invariants:
//! - A purged log is never reported as complete again, even if it had ended.
//! - No event that was accepted before a purge is in a log after it. With an engine a purge has a place in the engine's log,
//!   which decides what came before it (`followed`).

use std::sync::Arc;

use super::log::LogName;
use super::lost::PurgedLogs;
use super::named::{NamedValues, named_values};
use super::rule::RetainBy;
use super::store::KeptLogs;
use crate::event::{Attribute, Sequence, Timestamp};
use crate::filter::{Filter, Pattern};

/// Returns the filter of all events of these logs.
pub(super) fn filter_of(names: &[LogName]) -> Filter {
    let values = |by: RetainBy| names.iter().filter(move |name| name.by == by).map(|name| &*name.value);
    let Some(by) = names.first().map(|name| name.by) else { return Filter::nothing() };
    match by.attribute() {
        Some(attribute) => Filter::new().any_of(attribute, values(by).map(Pattern::exact)),
        None => {
            let pairs = values(by).filter_map(|value| value.split_once(':'));
            let (kinds, ids): (Vec<_>, Vec<_>) = pairs.unzip();
            // The product of kinds and ids may select more than these logs, never less.
            Filter::new()
                .any_of(Attribute::EntityKind, kinds.into_iter().map(Pattern::exact))
                .any_of(Attribute::EntityId, ids.into_iter().map(Pattern::exact))
        }
    }
}

impl KeptLogs {
    /// Returns the logs that a filter names by value and by nothing else. An error's text says how to change the
    /// filter.
    pub(crate) fn named_to_purge(&self, filter: &Filter) -> Result<Vec<LogName>, String> {
        let attributes = self.attributes();
        let named = |by: &RetainBy| match named_values(filter, *by) {
            NamedValues::Exactly(values) if !values.is_empty() => Some((*by, values)),
            _ => None,
        };
        let Some((by, values)) = attributes.iter().find_map(named) else {
            let wanted: Vec<String> = attributes.iter().map(|by| format!("{}=VALUE", by.name())).collect();
            return Err(if wanted.is_empty() {
                "no rule keeps events, so there is no log to purge".to_owned()
            } else {
                format!("the filter names no kept log by its value: add {}", wanted.join(" or "))
            });
        };
        if filter.clauses().count() > 1 {
            let by = by.name();
            return Err(format!(
                "a kept log is purged as a whole: name values of {by} and no other condition"
            ));
        }
        let is_unknown = |value: &&std::borrow::Cow<'_, str>| {
            value.contains('*') && !self.names[by as usize].contains_key(&***value)
        };
        if let Some(value) = values.iter().find(is_unknown) {
            return Err(format!(
                "no log of {} {value:?} is kept, and an asterisk beside other characters stands for itself: name each log by its value",
                by.name()
            ));
        }
        let max = self.max_logs_read();
        if values.len() > max {
            return Err(format!(
                "more than {max} logs (retain_max_logs_read): purge them in several requests"
            ));
        }
        Ok(values.iter().map(|value| LogName::new(by, value)).collect())
    }

    /// Removes these logs, which must be of one attribute. Returns `None`, and does nothing, if an event before `heads`
    /// (the next sequence of each shard) is not recorded yet, or a batch for one of the logs is in progress.
    pub(crate) fn purge(
        &mut self,
        names: &[LogName],
        heads: &[Sequence],
        now: Timestamp,
    ) -> Option<PurgedLogs> {
        let is_recorded = self.next.iter().zip(heads).all(|(next, head)| next.1 >= *head);
        if !is_recorded || names.iter().any(|name| self.is_held(name)) {
            return None;
        }
        let purged = self.remove(names, now);
        if purged.logs > 0 {
            self.record_purge(names);
        }
        Some(purged)
    }

    /// Evicts these logs, so that they are never complete again.
    pub(super) fn remove(&mut self, names: &[LogName], now: Timestamp) -> PurgedLogs {
        let mut purged = PurgedLogs::default();
        for name in names {
            if let Some(events) = self.evict_by_name(name, now) {
                purged.logs += 1;
                purged.events += events;
            }
        }
        purged
    }

    /// Records a purge for the loops, which report it to their clients.
    pub(super) fn record_purge(&mut self, names: &[LogName]) {
        self.past.purges.add(filter_of(names));
    }

    /// Returns the number of purges so far.
    pub(crate) fn purge_count(&self) -> u64 {
        self.past.purges.count()
    }

    /// Returns filters of the events that were purged after the purge with this number, as `Purges::after` does.
    pub(crate) fn purged_after(&self, seen: u64) -> Vec<Arc<Filter>> {
        self.past.purges.after(seen)
    }
}

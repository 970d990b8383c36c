//! Questions about filters: which logs they name or match, and whether the logs have all of their events.

use std::sync::Arc;

use super::log::{LogName, ShardPlace};
use super::named::{NamedValues, excludes, implies, named_values, requires};
use super::rule::{RetainBy, RetainRule};
use super::store::{KeptLogs, NamedLogs, RuleInForce, TooManyLogs};
use crate::event::Timestamp;
use crate::filter::Filter;

impl KeptLogs {
    /// Returns the rules that may keep events of a filter, in their order, up to the first one that keeps all remaining
    /// events.
    fn rules_for(&self, filter: &Filter) -> impl Iterator<Item = (&RuleInForce, bool)> {
        let mut is_over = false;
        let filter = filter.clone();
        self.active_rules()
            .map_while(move |(_, in_force)| {
                if is_over {
                    return None;
                }
                if excludes(&filter, in_force.rule.filter()) {
                    return Some(None);
                }
                is_over = implies(&filter, in_force.rule.filter());
                Some(Some((in_force, is_over)))
            })
            .flatten()
    }

    /// Returns whether every retained event that one of the filters matches is in a log, so that none is in a ring
    /// alone. `oldest` returns the place of the oldest event of a shard's ring.
    pub(crate) fn cover(&self, filters: &[Filter], oldest: impl Fn(u16) -> ShardPlace) -> bool {
        let covers = |filter: &Filter| {
            let mut is_covered = false;
            for (in_force, is_last) in self.rules_for(filter) {
                let is_since =
                    in_force.since.iter().enumerate().all(|(shard, since)| *since <= oldest(shard as u16));
                let by = in_force.rule.by;
                if !is_since || !(requires(filter, by) || requires(in_force.rule.filter(), by)) {
                    return false;
                }
                is_covered = is_last;
            }
            is_covered
        };
        !filters.is_empty() && filters.iter().all(|filter| filter.is_nothing() || covers(filter))
    }

    /// Returns the names of the logs that the filters name by value, existing or not, and of those that they match by
    /// pattern. Fails if they are more than a request may read.
    pub(crate) fn matched(&self, filters: &[Filter], now: Timestamp) -> Result<Vec<LogName>, TooManyLogs> {
        let max = self.limits.max_logs_read;
        let mut found: Vec<LogName> = Vec::new();
        for filter in filters {
            let mut attributes: Vec<RetainBy> =
                self.rules_for(filter).map(|(in_force, _)| in_force.rule.by).collect();
            let retired = self.rules.iter().filter(|(_, rule)| !rule.is_active);
            attributes.extend(retired.map(|(_, rule)| rule.rule.by));
            attributes.sort_unstable();
            attributes.dedup();
            for by in attributes {
                let is_kept = |value: &str| {
                    self.names[by as usize].contains_key(value)
                        || self.rules_for(filter).any(|(in_force, _)| {
                            in_force.rule.by == by && by.accepts(in_force.rule.filter(), value)
                        })
                };
                match named_values(filter, by) {
                    NamedValues::Exactly(values) => {
                        let kept = values.iter().filter(|value| is_kept(value)).take(max + 1);
                        found.extend(kept.map(|value| LogName::new(by, value)));
                    }
                    NamedValues::Open(_) if !self.past.seen[by as usize].may_match(filter) => {}
                    NamedValues::Open(_) => {
                        let live = self.names[by as usize].iter().filter(|(value, at)| {
                            by.accepts(filter, value) && !self.is_expired(&self.logs[**at], now)
                        });
                        let names = live.map(|(value, _)| LogName { by, value: Arc::clone(value) });
                        found.extend(names.take(max + 1));
                    }
                }
            }
            if found.len() > max {
                found.sort_unstable();
                found.dedup();
                if found.len() > max {
                    return Err(TooManyLogs { max });
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Returns the number of names and logs that [`matched`](Self::matched) looks at.
    pub(crate) fn looks(&self, filters: &[Filter]) -> usize {
        let looks =
            |filter: &Filter| if self.is_open(filter) { self.logs.len() } else { filter.members_count() };
        filters.iter().map(looks).sum()
    }

    /// Returns the log that a filter names, if it is exactly one and the filter names nothing else.
    pub(crate) fn single(&self, filter: &Filter) -> Option<LogName> {
        let mut single = None;
        for (in_force, _) in self.rules_for(filter) {
            let by = in_force.rule.by;
            let NamedValues::Exactly(values) = named_values(filter, by) else { return None };
            if values.len() > 1 {
                return None;
            }
            for value in values.iter().filter(|value| by.accepts(in_force.rule.filter(), value)) {
                let name = LogName::new(by, value);
                if single.as_ref().is_some_and(|single| *single != name) {
                    return None;
                }
                single = Some(name);
            }
        }
        single
    }

    /// Returns the attributes of logs that a filter selects by pattern, or does not restrict.
    fn open_attributes(&self, filter: &Filter) -> impl Iterator<Item = RetainBy> {
        let attributes = self.rules_for(filter).map(|(in_force, _)| in_force.rule.by);
        attributes.filter(|by| matches!(named_values(filter, *by), NamedValues::Open(_)))
    }

    /// Returns whether a filter selects logs by pattern, or does not restrict them, that may have events of it.
    pub(super) fn is_open(&self, filter: &Filter) -> bool {
        self.open_attributes(filter).any(|by| self.past.seen[by as usize].may_match(filter))
    }

    /// Returns whether a filter may have events in other logs than those that it names by value.
    pub(super) fn selects_more(&self, filter: &Filter) -> bool {
        self.open_attributes(filter).next().is_some()
    }

    /// Returns whether such logs may have been evicted, or not been recorded.
    pub(super) fn may_lack_logs(&self, filter: &Filter, now: Timestamp) -> bool {
        self.open_attributes(filter).any(|by| self.may_have_evicted(by, filter, now))
    }

    /// Returns the logs that a filter names by value and that can end.
    pub(crate) fn named_with_end(&self, filter: &Filter) -> NamedLogs {
        let mut named = NamedLogs { names: Vec::new(), is_closed: true };
        let mut is_last = false;
        for (in_force, is_implied) in self.rules_for(filter) {
            let RetainRule { by, end, .. } = &in_force.rule;
            let (values, is_exact) = match named_values(filter, *by) {
                NamedValues::Exactly(values) => (values, true),
                NamedValues::Open(values) => (values, false),
            };
            let kept = |value: &&std::borrow::Cow<'_, str>| by.accepts(in_force.rule.filter(), value);
            let count = values.iter().filter(kept).count();
            named.is_closed &= is_exact && !end.is_empty() && count == values.len();
            if !end.is_empty() {
                named.names.extend(values.iter().filter(kept).map(|value| LogName::new(*by, value)));
            }
            is_last = is_implied;
        }
        named.is_closed &= is_last && !named.names.is_empty();
        named.names.sort_unstable();
        named.names.dedup();
        named
    }
}

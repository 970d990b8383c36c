//! Statements about an event of a kept log, stored with it in an engine's log.
//!
//! Always: readers of events ignore them, and a node of an earlier version writes none.

use serde::{Deserialize, Serialize};

use super::log::{LogName, ShardPlace};
use super::rule::RetainBy;
use crate::event::Timestamp;

/// Statement of the node that accepted an event, stored with it in the engine's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptMark {
    /// Whether it begins the log's next life.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) reopen: bool,
    /// Last event that its publisher expects in the log; empty for no log yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<String>,
    /// Place up to which the node had read when it knew of no such log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) first: Option<ShardPlace>,
    /// Whether it was published without a check of its log.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) free: bool,
    /// Batch that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) batch: Option<BatchMark>,
}

/// Batch of several events that is accepted as a whole or not at all. Its first event has the conditions of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BatchMark {
    /// Number that no other batch has.
    pub(super) key: u64,
    /// Number of the event in the batch, from 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) part: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    /// Conditions on its logs; empty in all events but the first.
    pub(super) needs: Vec<BatchNeed>,
}

/// Condition of a batch on a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BatchNeed {
    /// Number in the batch of the first event that goes to the log, from 0.
    at: usize,
    by: String,
    value: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    reopen: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl BatchNeed {
    /// Returns the condition of an event, the first one of its batch in a log.
    pub(super) fn new(at: usize, name: &LogName, mark: &KeptMark) -> Self {
        Self {
            at,
            by: name.by.name().to_owned(),
            value: name.value.to_string(),
            reopen: mark.reopen,
            after: mark.after.clone(),
        }
    }

    /// Returns the event's number, its log, and its conditions; `None` if the attribute is unknown here.
    pub(super) fn parts(&self) -> Option<(usize, LogName, KeptMark)> {
        let mark = KeptMark { reopen: self.reopen, after: self.after.clone(), ..KeptMark::default() };
        Some((self.at, LogName::new(attribute(&self.by)?, &self.value), mark))
    }
}

fn attribute(name: &str) -> Option<RetainBy> {
    RetainBy::ALL.into_iter().find(|by| by.name() == name)
}

/// Parts of a stamp that concern kept logs.
#[derive(Debug, Deserialize)]
pub(super) struct StampParts {
    /// Time when the event was accepted, in microseconds since 1970.
    pub(super) at: i64,
    #[serde(default)]
    pub(super) kept: Option<KeptMark>,
    /// Logs to purge, in an entry without an event.
    #[serde(default)]
    pub(super) purge: Option<PurgeMark>,
}

/// Statement that these logs are purged at its place in the engine's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PurgeMark {
    by: String,
    values: Vec<String>,
}

impl PurgeMark {
    /// Returns the names of the logs; none if the attribute is unknown here.
    pub(super) fn names(&self) -> Vec<LogName> {
        attribute(&self.by)
            .map_or_else(Vec::new, |by| self.values.iter().map(|value| LogName::new(by, value)).collect())
    }
}

/// Returns the entry of an engine's log that purges these logs, which must be of one attribute. It has no event, so a node
/// of an earlier version reports it as a gap.
pub(crate) fn purge_record(names: &[LogName], now: Timestamp) -> Option<String> {
    let by = names.first()?.by.name().to_owned();
    let mark = PurgeMark { by, values: names.iter().map(|name| name.value.to_string()).collect() };
    let mark = serde_json::to_string(&mark).ok()?;
    Some(format!("{{\"stamp\":{{\"at\":{},\"purge\":{mark}}}}}", now.0))
}

/// Adds a mark to the stamp of an event, or makes one. `now` is the time at which the event is accepted.
pub(super) fn put_mark(stamp: Option<&str>, mark: &KeptMark, now: Timestamp) -> Option<Box<str>> {
    let mark = serde_json::to_string(mark).ok()?;
    let stamp = match stamp.and_then(|stamp| stamp.strip_suffix('}')) {
        Some(before) => format!("{before},\"kept\":{mark}}}"),
        None => format!("{{\"at\":{},\"kept\":{mark}}}", now.0),
    };
    Some(stamp.into())
}

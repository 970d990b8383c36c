//! Admission of publications to kept logs: an ended log accepts nothing, and a publisher may state the last event that
//! it expects.
//!
//! Invariants:
//! - A publication is admitted as a whole or not at all.
//! - The caller holds the logs from the admission until its events have their ids and are noted, so the order of admissions
//!   is the order of the events.

use std::collections::HashMap;

use super::log::LogName;
use super::refusal::LogRefusal;
use super::store::{KeptLogs, LogHead};
use crate::dialect::{Complete, ErrorCode, ExpectedLast};
use crate::event::{EventId, Timestamp};

/// State of a log within a publication.
#[derive(Clone, Copy)]
struct AdmittedHead {
    /// Newest event; `None` if it has no id yet.
    last: Option<EventId>,
    is_ended: bool,
    /// Whether the newest event is of another publication and on its way to an engine.
    is_sent: bool,
}

impl From<LogHead> for AdmittedHead {
    fn from(head: LogHead) -> Self {
        Self { last: head.last, is_ended: head.is_ended, is_sent: head.last.is_none() }
    }
}

impl KeptLogs {
    /// Returns the logs of the events of a publication, or the first reason to refuse it as a whole.
    pub(crate) fn admit(&self, events: &[Complete], now: Timestamp) -> Result<Vec<LogName>, LogRefusal> {
        // `None` for a log that does not exist.
        let mut heads: HashMap<LogName, Option<AdmittedHead>> = HashMap::new();
        for (at, event) in events.iter().enumerate() {
            let Some((name, is_end)) = self.log_of(event) else {
                refuse_unkept(at, event)?;
                continue;
            };
            let head = match heads.get_mut(&name) {
                Some(head) => head,
                None => heads.entry(name.clone()).or_insert(self.head(&name, now).map(Into::into)),
            };
            let last = head.and_then(|head| head.last);
            let refuse = |code| Err(LogRefusal { code, at, name: Some(name.clone()), last });
            if self.is_reading() {
                return refuse(ErrorCode::EngineUnreachable);
            }
            if event.expected_last_id().is_some() && head.is_some_and(|head| head.is_sent) {
                return refuse(ErrorCode::PublishInFlight);
            }
            if let Some(ExpectedLast(expected)) = event.expected_last_id()
                // An event of this publication has no id yet, so nothing can expect it.
                && expected.map(Some) != head.map(|head| head.last)
            {
                return refuse(ErrorCode::UnexpectedLastId);
            }
            match (head.map(|head| head.is_ended), event.reopens()) {
                (Some(true), false) => return refuse(ErrorCode::Ended),
                (Some(false), true) => return refuse(ErrorCode::NotEnded),
                _ => {}
            }
            *head = Some(AdmittedHead { last: None, is_ended: is_end, is_sent: false });
        }
        Ok(heads.into_keys().collect())
    }

    /// Returns whether a log is held for a long batch.
    pub(crate) fn is_held(&self, name: &LogName) -> bool {
        self.publishing.held.contains(name)
    }

    /// Holds logs for a long batch.
    pub(crate) fn hold(&mut self, names: &[LogName]) {
        self.publishing.held.extend(names.iter().cloned());
    }

    /// Releases logs after a long batch.
    pub(crate) fn release(&mut self, names: &[LogName]) {
        for name in names {
            self.publishing.held.remove(name);
        }
    }
}

/// Refuses an event with conditions on a log if no rule keeps it.
fn refuse_unkept(at: usize, event: &Complete) -> Result<(), LogRefusal> {
    if event.reopens() || event.expected_last_id().is_some() {
        return Err(LogRefusal { code: ErrorCode::NotKept, at, name: None, last: None });
    }
    Ok(())
}

/// Refuses events with conditions on logs, on a server without rules.
pub(crate) fn refuse_all_unkept(events: &[Complete]) -> Result<(), LogRefusal> {
    events.iter().enumerate().try_for_each(|(at, event)| refuse_unkept(at, event))
}

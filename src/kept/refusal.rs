//! Reasons for which a kept log refuses an event.

use std::borrow::Cow;

use super::log::LogName;
use crate::dialect::ErrorCode;
use crate::event::EventId;

/// Refusal of an event by a kept log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRefusal {
    pub(crate) code: ErrorCode,
    /// Number of the event in its publication, from 0.
    pub(crate) at: usize,
    /// Log; `None` if no rule keeps the event.
    pub(crate) name: Option<LogName>,
    /// Newest event of the log, if it has an id already.
    pub(crate) last: Option<EventId>,
}

impl LogRefusal {
    /// Returns the text for people.
    pub(crate) fn text(&self) -> Cow<'static, str> {
        let log = self.name.as_ref();
        let log = log.map_or_else(String::new, |name| format!("{} {:?}", name.by.name(), name.value));
        match self.code {
            ErrorCode::Ended => {
                format!("the log of {log} has ended: an event with \"reopen\": true begins its next life")
            }
            ErrorCode::NotEnded => format!("the log of {log} has not ended: publish without reopen"),
            ErrorCode::UnexpectedLastId => {
                format!("the log of {log} has another last event than expected_last_id")
            }
            ErrorCode::PublishInFlight => {
                format!("another event of the log of {log} is on its way to the engine: try again")
            }
            ErrorCode::EngineUnreachable => {
                "the kept logs are still being read from the engine's log: try again later".to_owned()
            }
            _ => "no rule keeps this event, so it can't have reopen or expected_last_id (docs/runs.md)"
                .to_owned(),
        }
        .into()
    }
}

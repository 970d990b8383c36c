//! Reports to a client about a past that it requested: where the past begins, in the response to its subscribe, and
//! that it is over, after its last event.
//!
//! Invariants:
//! - The response comes before the first event of the past, and the end after the last one.
//! - There is one response. It waits until the start of the past is known, but never for an engine's log.

use bytes::Bytes;

use crate::dialect::{Asked, Encoding, PastEnd, PastStart, Reply, Stamp};
use crate::event::Since;

/// Start of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReplayFrom {
    /// After this event, or from this position on.
    After(Since),
    /// At the newest matching events, this many.
    Newest(usize),
    /// At the latest event of each key.
    Snapshot,
    /// At an event that no bus ever had.
    Unknown,
}

/// Pending reports about one past.
#[derive(Debug, Default)]
pub(crate) struct PastReport {
    /// Name of the subscription; empty for an event stream.
    name: Box<str>,
    /// Subscribe without a response so far.
    unanswered: Option<Box<(Asked, Stamp)>>,
}

impl PastReport {
    /// Returns the reports for a subscription with another response to its subscribe.
    pub(crate) fn of(name: &str) -> Self {
        Self { name: name.into(), unanswered: None }
    }

    /// Returns the reports for a subscription, with the response to its subscribe. `stamp` is of the time when it was
    /// accepted.
    pub(crate) fn answering(name: &str, asked: Asked, stamp: Stamp) -> Self {
        Self { name: name.into(), unanswered: Some(Box::new((asked, stamp))) }
    }

    /// Returns the response to the subscribe, if it is still pending.
    pub(crate) fn answer(&mut self, encoding: Encoding, past: &PastStart) -> Option<Bytes> {
        let (asked, stamp) = *self.unanswered.take()?;
        let reply = Reply::Subscribed { id: &self.name, past: Some(past) };
        encoding.protocol().reply(&reply, &asked, stamp)
    }

    /// Returns the report that the past is over.
    pub(crate) fn end(
        &self,
        encoding: Encoding,
        events: u64,
        complete: bool,
        stamp: &Stamp,
    ) -> Option<Bytes> {
        encoding.past_end(&PastEnd { subscription_id: &self.name, events, complete }, stamp)
    }

    /// Returns the heap memory of the reports, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        let asked = self
            .unanswered
            .as_ref()
            .map_or(0, |unanswered| size_of::<(Asked, Stamp)>() + unanswered.0.id().map_or(0, str::len));
        self.name.len() + asked
    }
}

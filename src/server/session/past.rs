//! Reports to a client about a past that it asked for: in the answer to its subscribe where the past begins, and behind
//! the last event that it is over.
//!
//! Invariants:
//! - The answer comes before the first event of the past, and its end behind the last one.
//! - The answer is given once. It waits until it is known where the past begins, but never for an engine's log.

use bytes::Bytes;

use crate::dialect::{Asked, Encoding, PastEnd, PastStart, Reply, Stamp};
use crate::event::Since;

/// Where a replay starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReplayFrom {
    /// Behind this event, or from this position on.
    After(Since),
    /// At the newest so many that match.
    Newest(usize),
    /// At the latest of each key.
    Snapshot,
    /// The client named an event that no bus ever had.
    Unknown,
}

/// Words that are still to be said about one past.
#[derive(Debug, Default)]
pub(crate) struct PastReport {
    /// Name of the subscription; empty for an event stream.
    name: Box<str>,
    /// The subscribe that is not answered yet.
    unanswered: Option<Box<(Asked, Stamp)>>,
}

impl PastReport {
    /// Returns one for a subscription whose subscribe is answered otherwise.
    pub(crate) fn of(name: &str) -> Self {
        Self { name: name.into(), unanswered: None }
    }

    /// Returns one for a subscription whose subscribe it answers, with a stamp of when that was taken.
    pub(crate) fn answering(name: &str, asked: Asked, stamp: Stamp) -> Self {
        Self { name: name.into(), unanswered: Some(Box::new((asked, stamp))) }
    }

    /// Returns the answer to the subscribe, where it is not given yet.
    pub(crate) fn answer(&mut self, encoding: Encoding, past: &PastStart) -> Option<Bytes> {
        let (asked, stamp) = *self.unanswered.take()?;
        let reply = Reply::Subscribed { id: &self.name, past: Some(past) };
        encoding.protocol().reply(&reply, &asked, stamp)
    }

    /// Returns what says that the past is over.
    pub(crate) fn end(
        &self,
        encoding: Encoding,
        events: u64,
        complete: bool,
        stamp: &Stamp,
    ) -> Option<Bytes> {
        encoding.past_end(&PastEnd { subscription_id: &self.name, events, complete }, stamp)
    }

    /// Returns the bytes that it holds beside its own struct.
    pub(crate) fn held_bytes(&self) -> usize {
        let asked = self
            .unanswered
            .as_ref()
            .map_or(0, |unanswered| size_of::<(Asked, Stamp)>() + unanswered.0.id().map_or(0, str::len));
        self.name.len() + asked
    }
}

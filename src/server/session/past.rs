//! Reports to a client about a past that it requested: its start, in the response to the subscribe, and its end, after
//! the last event.
//!
//! Invariants:
//! - The response comes before the first event of the past, and the end after the last one.
//! - There is one response. It waits until the start of the past is known, but never for an engine's log.

use bytes::Bytes;

use crate::dialect::{Encoding, OwnChannel, PastEnd, PastStart, Reply, ReplyTag, Stamp, UpdateCounts};
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
    /// At the beginning of the kept logs, and of the rings for events under no rule.
    Start,
    /// At an event that no bus ever had.
    Unknown,
}

/// Pending reports about one past.
#[derive(Debug, Default)]
pub(crate) struct PastReport {
    /// Name of the subscription; empty for an event stream.
    name: Box<str>,
    /// Message that waits for its response.
    unanswered: Option<Box<Unanswered>>,
}

/// Message that requested a past.
#[derive(Debug)]
struct Unanswered {
    tag: ReplyTag,
    stamp: Stamp,
    /// Counts of an update; `None` for a subscribe.
    update: Option<UpdateCounts>,
    /// Channels that the message named by templates.
    own: Box<[OwnChannel]>,
}

impl PastReport {
    /// Returns the reports for a subscription with another response to its subscribe.
    pub(crate) fn of(name: &str) -> Self {
        Self { name: name.into(), unanswered: None }
    }

    /// Returns the reports for a subscription, with the response to its subscribe, or to the update with these counts. `stamp` is of
    /// the time when the message was accepted.
    pub(crate) fn answering(
        name: &str,
        tag: ReplyTag,
        stamp: Stamp,
        update: Option<UpdateCounts>,
        own: &[OwnChannel],
    ) -> Self {
        let unanswered = Unanswered { tag, stamp, update, own: own.into() };
        Self { name: name.into(), unanswered: Some(Box::new(unanswered)) }
    }

    /// Returns the name of the subscription; empty for an event stream.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the response to the message, if it is still pending.
    pub(crate) fn answer(&mut self, encoding: Encoding, past: &PastStart) -> Option<Bytes> {
        let Unanswered { tag, stamp, update, own } = *self.unanswered.take()?;
        let past = Some(past);
        let reply = match update {
            Some(counts) => Reply::Updated { counts, past, own: &own },
            None => Reply::Subscribed { id: &self.name, past, own: &own },
        };
        encoding.protocol().reply(&reply, &tag, stamp)
    }

    /// Returns the report of the end of the past.
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
        let unanswered = self.unanswered.as_ref().map_or(0, |message| {
            let own: usize = message.own.iter().map(OwnChannel::held_bytes).sum();
            size_of::<Unanswered>() + message.tag.id().map_or(0, str::len) + own
        });
        self.name.len() + unanswered
    }
}

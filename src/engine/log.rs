//! What a log is: the traits that `redis`, `nats` and `file` implement, and the values that go through them.
//!
//! Imports `event`. The contract, which `tests/engine_contract` checks against the real servers:
//! - `append` answers with sequences only when the log has every record. The same record is in the log once, however often
//!   it is sent, as long as its batch or its own number is the same;
//! - a call returns within some seconds, whatever the server does, and soon after [`AppendBatch::until`];
//! - every error says by its kind what is to be done: see [`EngineError`]. A log that answered that it takes nothing, or not
//!   this, has appended nothing of the batch; where that can't be said it sets [`AppendBatch::kept_some`];
//! - a log that lost entries which a node has seen is in another epoch for every node, so that no id is given twice;
//! - a log is of one kind for as long as the process lives.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::EngineError;
use crate::event::{EventId, Sequence};

/// Highest sequence and epoch of a log. An entry above them was not written by a node, and nothing could follow it.
/// Redis scripts count in doubles, which are exact up to here.
pub(super) const SEQUENCE_MAX: Sequence = (1 << 53) - 2;
pub(super) const EPOCH_MAX: u64 = (1 << 53) - 2;

/// One event on its way into the log.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) shard: u16,
    /// The event as JSON, without an id.
    pub(crate) json: String,
}

/// Events that are appended together.
#[derive(Debug)]
pub(crate) struct AppendBatch<'a> {
    /// The number by which a log that appends all or nothing knows the batch again. No other composition of records of this
    /// process has it.
    pub(crate) number: u64,
    /// The number of the first record, by which a log that appends records singly knows each again: the one behind it has
    /// the next. A record keeps its number when its batch is taken apart.
    pub(crate) first: u64,
    pub(crate) records: &'a [Record],
    /// The moment from which nobody waits for an answer any more.
    pub(crate) until: Instant,
    /// Whether a log that appends records singly has appended some of these, although it refused.
    pub(crate) kept_some: Cell<bool>,
}

impl<'a> AppendBatch<'a> {
    /// Makes a batch.
    pub(crate) fn new(number: u64, first: u64, records: &'a [Record], until: Instant) -> Self {
        Self { number, first, records, until, kept_some: Cell::new(false) }
    }

    /// The ids of its records, which have these sequences in one epoch.
    pub(crate) fn ids(&self, epoch: u64, sequences: &[Sequence]) -> Vec<EventId> {
        let placed = self.records.iter().zip(sequences);
        placed.map(|(record, sequence)| EventId { epoch, shard: record.shard, sequence: *sequence }).collect()
    }
}

/// One event of the log.
#[derive(Debug)]
pub(crate) struct LogEntry<'a> {
    pub(crate) id: EventId,
    pub(crate) json: &'a [u8],
}

/// Where a follower stands: which life of the log, and in each shard the next sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places {
    pub(crate) epoch: u64,
    pub(crate) next: Vec<Sequence>,
    /// Whether the log keeps entries, as all but plain NATS do; `None` where that is not in question, or an older version
    /// did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<bool>,
}

/// A connection that appends.
pub(crate) trait Append: Send {
    /// Returns why the log can never take these together, as far as that is known without asking it: a publisher is told at
    /// once, and nothing is sent.
    fn check(&self, _records: &[Record]) -> Result<(), EngineError> {
        Ok(())
    }

    /// Appends all or nothing, and answers the ids, in order; none where the log gives none. A batch of the same number
    /// that is tried again, because the answer to it was lost, is not appended twice.
    ///
    /// A log that appends records singly appends them in order; what was appended when it fails is found again by its number.
    /// After any error but those about the event the caller drops the connection.
    fn append(&mut self, batch: &AppendBatch<'_>) -> Result<Vec<EventId>, EngineError>;

    /// Returns why the log would not take an event now. Asked every few seconds while there is nothing to append, so it is
    /// cheap, and leaves nothing that a reader sees.
    fn probe(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
}

/// A connection that follows.
pub(crate) trait Follow: Send {
    /// Waits for entries at `places` and behind for about this long, and hands them over in order for each
    /// shard. Entries that the log no longer has are left out.
    ///
    /// Returns an error, some seconds after it happened at the latest, where the log does not answer, and
    /// [`EngineError::OtherEpoch`] where it is not the log any more that these places are of.
    fn follow(
        &mut self,
        places: &Places,
        wait: Duration,
        take: &mut dyn FnMut(LogEntry<'_>),
    ) -> Result<(), EngineError>;
}

/// A stretch of one shard of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogSpan {
    pub(crate) shard: u16,
    /// The place of the first entry wanted.
    pub(crate) epoch: u64,
    pub(crate) from: Sequence,
    /// The most entries wanted.
    pub(crate) max_events: usize,
    /// Bytes of JSON after which no further entry is wanted.
    pub(crate) max_bytes: usize,
}

/// A connection that reads what a log keeps.
pub(crate) trait Past: Send {
    /// Hands over the entries of a span, in the order of their epochs and sequences. Entries that the log no longer has
    /// are left out. Where an epoch ends, the entries of the next one follow, if the log keeps both. Does not wait for
    /// entries that are not there yet.
    fn read(&mut self, span: LogSpan, take: &mut dyn FnMut(LogEntry<'_>)) -> Result<(), EngineError>;
}

/// Takes what nodes tell one another beside events.
pub(crate) type OnNotice = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Notices that a log keeps: many times what there may be of what they are for.
pub(crate) const NOTICES_MAX: u64 = 1_000_000;

/// Makes the two connections; anew after each loss. Both block while they connect, some seconds at most.
pub(crate) trait Log: Send + Sync {
    /// Tells where a predecessor stood, before anything else is asked.
    fn expect(&self, _known: &Places) {}

    /// Keeps a notice and hands it to every node, this one too, on its follower's thread. A node that follows anew
    /// gets those that are kept before it gets an event. Blocks for the log, some seconds at most.
    fn tell(&self, notice: &str) -> Result<(), EngineError>;

    /// A connection to append with.
    fn appender(&self) -> Result<Box<dyn Append>, EngineError>;

    /// A connection to follow with, and where to begin: at the places known if the log is still in that life,
    /// else `past` events before its end in each shard.
    fn follower(&self, known: Option<&Places>, past: u64) -> Result<(Box<dyn Follow>, Places), EngineError>;

    /// A connection to read what the log kept; none where it keeps nothing.
    fn past(&self) -> Result<Option<Box<dyn Past>>, EngineError> {
        Ok(None)
    }
}

//! The contract of a log: traits that `redis`, `nats` and `file` implement, and the values that pass through them.
//!
//! `tests/engine_contract` checks the contract against the real servers:
//! - `append` returns sequences only after the log has every record. The log has a record once, however often it is
//!   sent, if its batch or its own number is the same.
//! - A call returns within a few seconds, whatever the server does, and soon after [`AppendBatch::until`].
//! - The kind of an error determines the reaction: see [`EngineError`]. A log that refuses all events, or this one, has
//!   appended nothing of the batch; if it may have, it sets [`AppendBatch::kept_some`].
//! - A log that lost entries which a node has seen is in another epoch for every node, so that no id is given twice.
//! - A log keeps its kind for the life of the process.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::EngineError;
use crate::event::{EventId, Sequence, json};

/// Highest sequence of a log; the next constant is the highest epoch. An entry above them was not written by a node,
/// and nothing could follow it. Redis scripts count in doubles, which are exact up to here.
pub(super) const SEQUENCE_MAX: Sequence = (1 << 53) - 2;
pub(super) const EPOCH_MAX: u64 = (1 << 53) - 2;

/// First key of an entry with a stamp: a value of the server in addition to the event. Readers of events ignore it.
const STAMP: &str = r#"{"stamp":"#;

/// Adds a stamp, which is JSON, to an event's JSON.
pub(super) fn put_stamp(stamp: &str, json: &mut String) {
    json.replace_range(..1, &format!("{STAMP}{stamp},"));
}

/// Returns the stamp of an entry.
pub(super) fn stamp_of(json: &str) -> Option<&str> {
    // Events of publishers begin with other keys.
    json.starts_with(STAMP).then_some(())?;
    let end = json::scan(json, STAMP.len(), |_| ()).ok()?;
    Some(&json[STAMP.len()..end])
}

/// Event to append.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Record {
    pub(crate) shard: u16,
    /// Event as JSON, without an id.
    pub(crate) json: String,
}

/// Events that are appended together.
#[derive(Debug)]
pub(crate) struct AppendBatch<'a> {
    /// Number by which a log that appends all or nothing recognizes the batch. No other composition of records of
    /// this process has it.
    pub(crate) number: u64,
    /// Number of the first record; each further record has the next number. A log that appends records singly
    /// recognizes each by its number. A record keeps its number when its batch is split.
    pub(crate) first: u64,
    pub(crate) records: &'a [Record],
    /// Time after which no publisher waits for an answer.
    pub(crate) until: Instant,
    /// Whether a log that appends records singly has appended some of these although it returned an error.
    pub(crate) kept_some: Cell<bool>,
}

impl<'a> AppendBatch<'a> {
    /// Returns a batch that was not sent before.
    pub(crate) fn new(number: u64, first: u64, records: &'a [Record], until: Instant) -> Self {
        Self { number, first, records, until, kept_some: Cell::new(false) }
    }

    /// Returns the ids of its records, given their sequences in one epoch.
    pub(crate) fn ids(&self, epoch: u64, sequences: &[Sequence]) -> Vec<EventId> {
        let placed = self.records.iter().zip(sequences);
        placed.map(|(record, sequence)| EventId { epoch, shard: record.shard, sequence: *sequence }).collect()
    }
}

/// Entry of a log.
#[derive(Debug)]
pub(crate) struct LogEntry<'a> {
    pub(crate) id: EventId,
    pub(crate) json: &'a [u8],
}

/// Position of a follower: the epoch of the log, and the next sequence of each shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places {
    pub(crate) epoch: u64,
    pub(crate) next: Vec<Sequence>,
    /// Whether the log keeps entries, as all but plain NATS do. `None` if that is irrelevant, or the places were
    /// written by an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<bool>,
}

/// Place at which a follower begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FollowStart {
    pub(crate) places: Places,
    /// End of the log at that time: its newest epoch, and the next sequence of each shard.
    pub(crate) end: Places,
}

/// Connection that appends.
pub(crate) trait Append: Send {
    /// Returns an error if the log can never accept these records together, as far as that is known without a request
    /// to it. Publishers are then refused immediately, and nothing is sent.
    fn check(&self, _records: &[Record]) -> Result<(), EngineError> {
        Ok(())
    }

    /// Appends all records or none, and returns their ids in order; empty if the log gives no ids. A batch of the
    /// same number that is retried because its answer was lost is not appended twice.
    ///
    /// A log that appends records singly appends them in order; after a failure it recognizes them by their numbers.
    /// After any error except those about the event, the caller drops the connection.
    fn append(&mut self, batch: &AppendBatch<'_>) -> Result<Vec<EventId>, EngineError>;

    /// Returns an error if the log would not accept an event now. Called every few seconds while there is nothing to
    /// append, so it is cheap and leaves nothing that a reader sees.
    fn probe(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
}

/// Connection that follows.
pub(crate) trait Follow: Send {
    /// Waits up to about `wait` for entries from `places` on, and passes them to `take`, in order for each shard.
    /// Entries that the log no longer has are skipped.
    ///
    /// # Errors
    ///
    /// Returns an error within a few seconds after the log stopped answering, and [`EngineError::OtherEpoch`] if the
    /// log is no longer the one that these places belong to.
    fn follow(
        &mut self,
        places: &Places,
        wait: Duration,
        take: &mut dyn FnMut(LogEntry<'_>),
    ) -> Result<(), EngineError>;
}

/// Range of one shard of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogSpan {
    pub(crate) shard: u16,
    /// Place of the first wanted entry.
    pub(crate) epoch: u64,
    pub(crate) from: Sequence,
    /// Maximum number of entries.
    pub(crate) max_events: usize,
    /// Size of JSON after which no further entry is wanted, in bytes.
    pub(crate) max_bytes: usize,
}

/// Connection that reads the entries that a log keeps.
pub(crate) trait Past: Send {
    /// Passes the entries of a span to `take`, in the order of their epochs and sequences. Entries that the log no
    /// longer has are skipped. At the end of an epoch the next one follows, if the log keeps both. Does not wait for
    /// entries that are not there yet.
    fn read(&mut self, span: LogSpan, take: &mut dyn FnMut(LogEntry<'_>)) -> Result<(), EngineError>;
}

/// Callback for notices, which nodes send to one another besides events.
pub(crate) type OnNotice = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Maximum number of notices that a log keeps: far more than the revocations of any deployment.
pub(crate) const NOTICES_MAX: u64 = 1_000_000;

/// A log, which makes the connections, again after each loss. Connecting blocks for a few seconds at most.
pub(crate) trait Log: Send + Sync {
    /// Sets the places of a predecessor process, before anything else is called.
    fn expect(&self, _known: &Places) {}

    /// Keeps a notice and passes it to every node, this one included, on its follower's thread. A node that attaches
    /// receives the kept notices before any event. Blocks for a few seconds at most.
    fn send_notice(&self, notice: &str) -> Result<(), EngineError>;

    /// Returns a connection that appends.
    fn appender(&self) -> Result<Box<dyn Append>, EngineError>;

    /// Returns a connection that follows, and where it begins: at the known places if the log is still in their
    /// epoch, otherwise `past` events before the end of each shard, or at the oldest entry that the log has from there on. So an
    /// entry that is missing after these places was forgotten later.
    fn follower(
        &self,
        known: Option<&Places>,
        past: u64,
    ) -> Result<(Box<dyn Follow>, FollowStart), EngineError>;

    /// Returns whether this process alone appends to the log, and a first follower begins before everything that it has
    /// appended.
    fn has_one_owner(&self) -> bool {
        false
    }

    /// Returns a connection that reads kept entries, or `None` if the log keeps nothing.
    fn past(&self) -> Result<Option<Box<dyn Past>>, EngineError> {
        Ok(None)
    }
}

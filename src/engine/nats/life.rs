//! Lives of the log: epochs, their streams, and what a node has seen of them.

use async_nats::jetstream::message::StreamMessage;
use serde::{Deserialize, Serialize};

use crate::event::{EventId, Sequence};

/// Announcement of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EpochRecord {
    pub(super) epoch: u64,
    /// Creation times of its streams.
    pub(super) created: Vec<u64>,
    /// Places at which it begins in each shard, after a mark in its stream; `None` until all marks are written.
    pub(super) starts: Option<Vec<Sequence>>,
}

/// Life of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) epoch: u64,
    /// Creation time of each shard's stream, in microseconds.
    pub(super) created: Vec<u64>,
    /// Places at which this life begins.
    pub(super) starts: Vec<Sequence>,
    /// Places at which the shards end.
    pub(super) ends: Vec<Sequence>,
    /// Sequence of the message that announces the epoch, in the log's own stream; zero if the epoch follows from the
    /// streams.
    pub(super) announced_by: u64,
}

/// Places up to which a node has followed, or appended, in one life.
#[derive(Clone, Debug, Default)]
pub(super) struct LogProgress {
    pub(super) epoch: u64,
    /// Creation times as in [`Life`]; empty if a predecessor did not pass them on.
    pub(super) created: Vec<u64>,
    pub(super) next: Vec<Sequence>,
    /// Fingerprint of the entry before each place, if known.
    pub(super) marks: Vec<Option<Fingerprint>>,
}

/// Fingerprint by which an entry is recognized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fingerprint {
    /// Time at which the server stored it, in nanoseconds.
    Time(i128),
    /// Message id.
    Id(String),
}

impl Fingerprint {
    pub(super) fn is_of(&self, message: &StreamMessage) -> bool {
        match self {
            Self::Time(time) => message.time.unix_timestamp_nanos() == *time,
            Self::Id(id) => message.headers.get("Nats-Msg-Id").is_some_and(|of| of.as_str() == id),
        }
    }
}

impl LogProgress {
    /// Begins a life, of which nothing has been seen, at `next`.
    pub(super) fn begin(&mut self, life: &Life, next: &[Sequence]) {
        if self.epoch != life.epoch || self.created != life.created || self.next != next {
            self.marks = vec![None; next.len()];
        }
        self.epoch = life.epoch;
        self.created.clone_from(&life.created);
        self.next = next.to_vec();
    }

    pub(super) fn saw(&mut self, shard: u16, sequence: Sequence, mark: Fingerprint) {
        let shard = usize::from(shard);
        if let (Some(next), Some(known)) = (self.next.get_mut(shard), self.marks.get_mut(shard))
            && sequence + 1 >= *next
        {
            (*next, *known) = (sequence + 1, Some(mark));
        }
    }

    /// Returns whether a shard's stream is the one that was seen.
    pub(super) fn is_same(&self, shard: usize, life: &Life) -> bool {
        match self.created.get(shard) {
            Some(created) => *created == life.created[shard],
            // The epoch is the creation time of the youngest stream.
            None => life.created[shard] <= self.epoch,
        }
    }
}

/// Knowledge of a node about the log, in addition to the streams themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownLog {
    pub(super) followed: LogProgress,
    pub(super) appended: LogProgress,
    /// Latest epoch named by a mark in a stream or by another node.
    pub(super) marked: u64,
    /// Latest epoch whose predecessor was read to its end.
    pub(super) read_up_to: u64,
    /// Epoch in which this node appended before the current one.
    pub(super) appended_before: u64,
    /// Last time at which the streams were found to be those that this node follows.
    pub(super) looked: Option<std::time::Instant>,
}

/// Message that a stream acknowledged, of a batch whose publishers were not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    pub(super) id: EventId,
    /// Creation time of its stream.
    pub(super) created: u64,
}

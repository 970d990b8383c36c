//! Lives of the log.

use async_nats::jetstream::message::StreamMessage;
use serde::{Deserialize, Serialize};

use crate::event::{EventId, Sequence};

/// What is told of an epoch that is not the streams' own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EpochRecord {
    pub(super) epoch: u64,
    /// The streams that it is of, by when they were created.
    pub(super) created: Vec<u64>,
    /// Where it begins in each shard, behind a mark in its stream; `None` until all marks are there.
    pub(super) starts: Option<Vec<Sequence>>,
}

/// A life of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) epoch: u64,
    /// Microseconds at which each shard's stream was created.
    pub(super) created: Vec<u64>,
    /// Where this life begins in each shard.
    pub(super) starts: Vec<Sequence>,
    /// Where each shard ends.
    pub(super) ends: Vec<Sequence>,
    /// The message that tells of the epoch, in the stream of the log's own; zero where the streams do themselves.
    pub(super) told: u64,
}

/// How far a node has followed, or appended, in one life.
#[derive(Clone, Debug, Default)]
pub(super) struct LogProgress {
    pub(super) epoch: u64,
    /// As in [`Life`]; empty where a predecessor did not say.
    pub(super) created: Vec<u64>,
    pub(super) next: Vec<Sequence>,
    /// By what the entry before each place is known again, where it is known.
    pub(super) marks: Vec<Option<Fingerprint>>,
}

/// By what an entry is known again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fingerprint {
    /// Nanoseconds at which the server took it.
    Time(i128),
    /// Its message id.
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
    /// Nothing was seen of this life yet, but that it begins at `next`.
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

    /// Whether a shard's stream is the one that was seen.
    pub(super) fn is_same(&self, shard: usize, life: &Life) -> bool {
        match self.created.get(shard) {
            Some(created) => *created == life.created[shard],
            // The epoch is when the youngest was created.
            None => life.created[shard] <= self.epoch,
        }
    }
}

/// What a node knows of the log beside what the streams say.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownLog {
    pub(super) followed: LogProgress,
    pub(super) appended: LogProgress,
    /// The latest epoch that a mark in a stream or the word of a node named.
    pub(super) marked: u64,
    /// When the streams were last found to be those that this node follows.
    pub(super) looked: Option<std::time::Instant>,
}

/// A message that a stream acknowledged, in a batch that was not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    pub(super) id: EventId,
    /// When the stream that it was sent to was created.
    pub(super) created: u64,
}

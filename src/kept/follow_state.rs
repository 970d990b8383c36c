//! State of kept logs that are made from an engine's log.

use std::collections::{HashMap, VecDeque};

use super::log::ShardPlace;
use super::lost::PurgedLogs;
use super::refusal::LogRefusal;
use crate::event::{EventId, Timestamp};

/// Number of remembered entries without an event for clients. Loops and publishers look them up soon after they were read.
const UNDELIVERED_MAX: usize = 4096;

/// Number of remembered batches that were refused. In most logs the events of a batch are neighbours.
const REFUSED_BATCHES_MAX: usize = 64;

/// Why no node delivers an entry of the engine's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Undelivered {
    /// An event that its log refused.
    Refused(LogRefusal),
    /// The record of a purge, which removed this much.
    Purge(PurgedLogs),
}

/// State of logs that are made from an engine's log.
#[derive(Debug, Default)]
pub(super) struct FollowedLog {
    /// Place in each shard since which every event was read; `None` before the first.
    pub(super) known_from: Box<[Option<ShardPlace>]>,
    /// Time of the first event after that place, as far as it is known.
    pub(super) known_since: Option<Timestamp>,
    /// Newest time of an event.
    pub(super) clock: Timestamp,
    /// Whether the past of the engine's log is still to be read.
    pub(super) is_reading: bool,
    /// Number of the last publication.
    pub(super) tickets: u64,
    /// Number of the last batch. It begins anywhere, so that those of other nodes differ.
    pub(super) batches: u64,
    /// Newest batches that were refused, oldest first.
    pub(super) refused_batches: VecDeque<(u64, LogRefusal)>,
    pub(super) undelivered: HashMap<EventId, Undelivered>,
    pub(super) undelivered_order: VecDeque<EventId>,
}

impl FollowedLog {
    /// Records that a batch is refused.
    pub(super) fn refuse_batch(&mut self, key: u64, refusal: LogRefusal) {
        self.refused_batches.push_back((key, refusal));
        if self.refused_batches.len() > REFUSED_BATCHES_MAX {
            self.refused_batches.pop_front();
        }
    }

    /// Records that an entry is not delivered.
    pub(super) fn record_undelivered(&mut self, id: EventId, why: Undelivered) {
        self.undelivered.insert(id, why);
        self.undelivered_order.push_back(id);
        if self.undelivered_order.len() > UNDELIVERED_MAX
            && let Some(oldest) = self.undelivered_order.pop_front()
        {
            self.undelivered.remove(&oldest);
        }
    }

    /// Returns its memory, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.undelivered.len() * (size_of::<(EventId, Undelivered)>() + size_of::<EventId>() + 64)
    }
}

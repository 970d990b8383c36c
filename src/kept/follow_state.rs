//! State of kept logs that are made from an engine's log.

use std::collections::{HashMap, VecDeque};

use super::log::ShardPlace;
use super::refusal::LogRefusal;
use crate::event::{EventId, Timestamp};

/// Number of refused events that are remembered. Loops and publishers look them up soon after they were read.
const REFUSED_MAX: usize = 4096;

/// State of logs that are made from an engine's log.
#[derive(Debug, Default)]
pub(super) struct FollowedLog {
    /// Place of each shard from which on every event was read; `None` before the first.
    pub(super) known_from: Box<[Option<ShardPlace>]>,
    /// Time of the first event after that place, as far as it is known.
    pub(super) known_since: Option<Timestamp>,
    /// Newest time of an event.
    pub(super) clock: Timestamp,
    /// Whether the past of the engine's log is still to be read.
    pub(super) is_reading: bool,
    /// Number of the last publication.
    pub(super) tickets: u64,
    pub(super) refused: HashMap<EventId, LogRefusal>,
    pub(super) refused_order: VecDeque<EventId>,
}

impl FollowedLog {
    /// Records that an event was refused.
    pub(super) fn refuse(&mut self, id: EventId, refusal: LogRefusal) {
        self.refused.insert(id, refusal);
        self.refused_order.push_back(id);
        if self.refused_order.len() > REFUSED_MAX
            && let Some(oldest) = self.refused_order.pop_front()
        {
            self.refused.remove(&oldest);
        }
    }

    /// Returns its memory, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.refused.len() * (size_of::<(EventId, LogRefusal)>() + size_of::<EventId>() + 64)
    }
}

//! State of kept logs that are made from an engine's log.
//!
//! Invariants:
//! - The reasons of the newest refusals are stored for their publishers.
//! - The ids of refused events are stored far longer, so that readers of the past neither deliver them nor miss them.

use std::collections::{HashMap, VecDeque};

use super::log::ShardPlace;
use super::lost::PurgedLogs;
use super::refusal::LogRefusal;
use crate::event::{EventId, Timestamp};

/// Maximum number of undelivered entries with a stored reason. A publisher asks for the reason soon after the entry was read,
/// so no more are needed than events can wait for an engine.
const UNDELIVERED_MAX: usize = 4096;

/// Maximum number of stored stretches of such entries: 2 MiB. A refused publication takes one. So does a refused batch, if its
/// events are neighbours.
const STRETCHES_MAX: usize = 65_536;

/// Maximum number of stored refusals of batches. In most logs the events of a batch are neighbours.
const REFUSED_BATCHES_MAX: usize = 64;

/// Reason for which no node delivers an entry of the engine's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Undelivered {
    /// An event that its log refused.
    Refused(LogRefusal),
    /// The record of a purge, which removed this much.
    Purge(PurgedLogs),
}

/// Ids in the order of the log, in stretches without a hole.
#[derive(Debug, Default)]
pub(super) struct IdStretches(VecDeque<(EventId, u64)>);

impl IdStretches {
    /// Adds an id after all others.
    fn add(&mut self, id: EventId) {
        match self.0.back_mut() {
            Some((first, count)) if is_at(*first, *count, id) => *count += 1,
            _ => self.0.push_back((id, 1)),
        }
        if self.0.len() > STRETCHES_MAX {
            self.0.pop_front();
        }
    }

    /// Returns whether the stretches have `count` ids from this one on.
    pub(super) fn have(&self, id: EventId, count: u64) -> bool {
        let after =
            self.0.partition_point(|(first, _)| (first.epoch, first.sequence) <= (id.epoch, id.sequence));
        let Some((first, length)) = after.checked_sub(1).and_then(|at| self.0.get(at)) else { return false };
        let is_same = (first.epoch, first.shard) == (id.epoch, id.shard);
        is_same && (id.sequence - first.sequence).checked_add(count).is_some_and(|end| end <= *length)
    }
}

/// Returns whether an id follows a stretch.
fn is_at(first: EventId, count: u64, id: EventId) -> bool {
    (first.epoch, first.shard, first.sequence.checked_add(count)) == (id.epoch, id.shard, Some(id.sequence))
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
    /// Newest event that was not refused.
    pub(super) delivered: Option<EventId>,
    /// Newest delivered event before the newest purge.
    pub(super) before_purge: Option<EventId>,
    /// Whether the past of the engine's log is still to be read.
    pub(super) is_reading: bool,
    /// Number of the last publication.
    pub(super) tickets: u64,
    /// Number of the last batch. The first one is random, so that batches of other nodes have other numbers.
    pub(super) batches: u64,
    /// Newest batches that were refused, oldest first.
    pub(super) refused_batches: VecDeque<(u64, LogRefusal)>,
    /// Newest entries that no node delivers, with the reason.
    pub(super) undelivered: HashMap<EventId, Undelivered>,
    pub(super) undelivered_order: VecDeque<EventId>,
    /// Ids of the entries in `undelivered`, and of earlier ones.
    pub(super) undelivered_ids: IdStretches,
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
        self.undelivered_ids.add(id);
        self.undelivered.insert(id, why);
        self.undelivered_order.push_back(id);
        if self.undelivered_order.len() > UNDELIVERED_MAX
            && let Some(oldest) = self.undelivered_order.pop_front()
        {
            self.undelivered.remove(&oldest);
        }
    }

    /// Returns the memory of the state, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let stretches = self.undelivered_ids.0.capacity() * size_of::<(EventId, u64)>();
        self.undelivered.len() * (size_of::<(EventId, Undelivered)>() + size_of::<EventId>() + 64) + stretches
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::dialect::ErrorCode;

    fn id(epoch: u64, sequence: u64) -> EventId {
        EventId { epoch, shard: 0, sequence }
    }

    #[test]
    fn stretches_have_the_ids_that_were_added_and_no_others() {
        let mut stretches = IdStretches::default();
        let mut added = HashSet::new();
        for epoch in [3, 4] {
            for sequence in [0, 1, 2, 5, 9, 10, u64::MAX] {
                stretches.add(id(epoch, sequence));
                added.insert(id(epoch, sequence));
            }
        }
        assert_eq!(stretches.0.len(), 8);
        for epoch in 2..=5 {
            for sequence in (0..12).chain([u64::MAX - 1, u64::MAX]) {
                for count in 1..5 {
                    let all = (0..count).all(|more| {
                        sequence
                            .checked_add(more)
                            .is_some_and(|sequence| added.contains(&id(epoch, sequence)))
                    });
                    assert_eq!(stretches.have(id(epoch, sequence), count), all, "{epoch}-{sequence} {count}");
                }
            }
        }
    }

    #[test]
    fn refused_events_are_known_longer_than_their_reasons_and_take_bounded_memory() {
        let mut followed = FollowedLog::default();
        let refusal = LogRefusal { code: ErrorCode::Ended, at: 0, name: None, last: None };
        for n in 0..STRETCHES_MAX as u64 + 10 {
            followed.record_undelivered(id(1, 2 * n), Undelivered::Refused(refusal.clone()));
        }
        assert_eq!(followed.undelivered.len(), UNDELIVERED_MAX);
        let has = |n: u64| followed.undelivered_ids.have(id(1, 2 * n), 1);
        assert_eq!([has(9), has(10), has(STRETCHES_MAX as u64 + 9)], [false, true, true]);
        assert!(followed.held_bytes() < 8 << 20, "{}", followed.held_bytes());
    }
}

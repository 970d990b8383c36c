//! Where a reader stands in a whole bus. Imports `event` only.
//! Always: a position is only followed on the bus, and in the life of it, that it was taken from.

use std::fmt;

use smallvec::SmallVec;

use crate::event::{EventId, Sequence};

/// A place in every shard of a bus: its epoch, and the next sequence of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub(crate) epoch: u64,
    pub(crate) sequences: SmallVec<[Sequence; 4]>,
}

impl Position {
    /// The epoch, and the next sequence of each shard.
    pub fn new(epoch: u64, sequences: impl IntoIterator<Item = Sequence>) -> Self {
        Self { epoch, sequences: sequences.into_iter().collect() }
    }

    /// Which life of which bus it belongs to.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The next sequence of each shard.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// The same position, but behind this event in its shard. Unchanged where the event is of another epoch
    /// or shard.
    pub fn behind(mut self, id: EventId) -> Self {
        if id.epoch == self.epoch
            && let Some(next) = self.sequences.get_mut(usize::from(id.shard))
        {
            *next = id.next_sequence();
        }
        self
    }
}

/// A position cannot be followed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PositionError {
    /// It was taken from another bus, or another life of this one.
    OtherEpoch,
    /// It has another number of shards.
    OtherShards,
    /// It is ahead of what was published.
    Ahead,
}

impl fmt::Display for PositionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherEpoch => "position is of another epoch",
            Self::OtherShards => "position has another number of shards",
            Self::Ahead => "position is ahead of what was published",
        })
    }
}

impl std::error::Error for PositionError {}

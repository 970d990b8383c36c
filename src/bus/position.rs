//! Why a position can't be followed.
//!
//! Imports nothing of ours. Always: a position is only followed on the bus, and in the life of it, that it was taken from.

use std::fmt;

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

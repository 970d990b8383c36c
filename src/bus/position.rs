//! Errors of positions.
//!
//! Invariant: a position is only followed on the bus, and in the epoch, that it was taken from.

use std::fmt;

/// A position cannot be followed on this bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PositionError {
    /// The position was taken from another bus, or from another epoch of this one.
    OtherEpoch,
    /// The position has another number of shards.
    OtherShards,
    /// The position is ahead of the newest event.
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

//! The list of bodies that a writer has evicted, until `reclaim` releases them.
//!
//! Invariant: a writer holds at most [`RETIRED_MAX`] evicted bodies or [`RETIRED_BYTES_MAX`] bytes of them, and up to one pin
//! span more for each reader that is stopped in the middle of a span.

use super::Sequence;
use super::pin::pin_word;

/// Evictions between two looks at the pins.
pub(super) const RETIRED_MAX: usize = if cfg!(loom) { 1 } else { 128 };
/// Weight of the evictions between two looks at the pins, in bytes.
pub(super) const RETIRED_BYTES_MAX: u64 = 1 << 20;

/// A body that was overwritten, or released early.
pub(super) struct Evicted {
    /// Shard and sequence, as [`pin_word`] makes them.
    pub(super) pin_word: u64,
    /// Word 0 of the slot: one count of the body.
    pub(super) word: u64,
    /// Weight of the body, in bytes.
    pub(super) weight: u64,
}

/// Evicted bodies of one writer that are not released yet.
pub(super) struct Retired {
    pub(super) list: Vec<Evicted>,
    /// Length of the list from which the pins are looked at again.
    pub(super) max: usize,
    /// Weight of the list, in bytes.
    pub(super) bytes: u64,
    /// Weight of the list from which the pins are looked at again, in bytes.
    pub(super) bytes_max: u64,
}

impl Retired {
    pub(super) fn new() -> Self {
        Self { list: Vec::new(), max: RETIRED_MAX, bytes: 0, bytes_max: RETIRED_BYTES_MAX }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds the body that a slot of `shard` owned while it showed `sequence`.
    #[inline(always)]
    pub(super) fn push(&mut self, shard: usize, sequence: Sequence, word: u64, weight: u64) {
        self.list.push(Evicted { pin_word: pin_word(shard, sequence), word, weight });
        self.bytes += weight;
    }

    /// Returns whether the list is long or heavy enough to look at the pins.
    #[inline(always)]
    pub(super) fn is_due(&self) -> bool {
        self.list.len() >= self.max || self.bytes >= self.bytes_max
    }

    /// Moves the rest to the orphans: bodies of writers that are gone.
    pub(super) fn abandon(&mut self, orphans: &mut Vec<Evicted>) {
        orphans.append(&mut self.list);
    }
}

//! Pins: a reader marks the span of sequences that it looks at, so that no body in the span is released.
//!
//! Invariant: a [`Pinned`] guard holds its pin until it is dropped, also if the visitor panics (I4, I5 of the room).

use super::Sequence;
use super::registry::{IDLE, Participant};
use crate::sync::CachePadded;
use crate::sync::atomic::{AtomicU64, Ordering, fence};

/// Number of sequences that one pin covers.
pub(crate) const PIN_SPAN: u64 = if cfg!(loom) { 1 } else { 64 };

/// Bits of a pin word that hold the sequence; the shard is above them. Truncated sequences that collide are 2^48 events
/// apart, and a collision only holds a body longer.
const SEQUENCE_BITS: u32 = 48;

/// Maximum number of shards of a ring set.
pub(crate) const SHARDS_MAX: usize = 1024;

/// Returns the word that names a sequence of a shard, in a pin or on a retired list.
pub(super) fn pin_word(shard: usize, sequence: Sequence) -> u64 {
    (shard as u64) << SEQUENCE_BITS | sequence & ((1 << SEQUENCE_BITS) - 1)
}

/// Returns whether the span of a pin covers a sequence.
pub(super) fn is_pinned(pin: u64, word: u64) -> bool {
    let same_shard = (pin ^ word) >> SEQUENCE_BITS == 0;
    same_shard && word.wrapping_sub(pin) & ((1 << SEQUENCE_BITS) - 1) < PIN_SPAN
}

/// A pin that is held until the guard is dropped.
pub(super) struct Pinned<'a>(&'a CachePadded<AtomicU64>);

impl<'a> Pinned<'a> {
    /// Pins the span that begins at `word`.
    #[inline(always)]
    pub(super) fn new(participant: &'a Participant, word: u64) -> Self {
        // E4, by the fence. E5: a reclaimer that finds this pin, and not the idle one before it, must know too that the
        // span before is done with; a plain store after a release store does not carry that.
        participant.sequence.store(word, Ordering::Release);
        fence(Ordering::SeqCst);
        Self(&participant.sequence)
    }
}

impl Drop for Pinned<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // E5.
        self.0.store(IDLE, Ordering::Release);
    }
}

//! The registry of participants: a list that only grows and reuses its entries.
//!
//! Invariants: I6 of the room; a participant has one owner at a time.

use std::sync::Arc as Count;

use super::super::event_count::Waiter;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{CachePadded, OnceLock};

const BLOCK_PARTICIPANTS: usize = if cfg!(loom) { 1 } else { 16 };

/// Value of a pin that covers nothing, and of a gate that limits no publisher. No span begins here: its shard would be
/// 65,535, which a ring set refuses.
pub(super) const IDLE: u64 = u64::MAX;

/// Entry of a reader, or of a publisher that pins or waits.
pub(super) struct Participant {
    in_use: AtomicBool,
    /// Number of readers in the lossless ring that follow this one (G6). An entry that is followed is not reused.
    pub(super) followers: AtomicU32,
    /// Place of the owner, or [`IDLE`]. In the overwriting ring a *pin*: the first word of the span that the owner
    /// looks at (E4, E5). In the lossless ring a *gate*: the first sequence that must not be overwritten (G2, G3).
    pub(super) sequence: CachePadded<AtomicU64>,
    /// Sleeping place of the owner.
    pub(super) waiter: CachePadded<Waiter>,
}

impl Default for Participant {
    fn default() -> Self {
        Self {
            in_use: AtomicBool::new(false),
            followers: AtomicU32::new(0),
            sequence: CachePadded::new(AtomicU64::new(IDLE)),
            waiter: CachePadded::default(),
        }
    }
}

impl Participant {
    /// Takes the entry, and returns whether it was free.
    fn try_take(&self) -> bool {
        // The load is a hint: the exchange decides. E7.
        if self.in_use.load(Ordering::Relaxed)
            || self.in_use.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return false;
        }
        // G6: no follower can be added, because the previous owner is gone. Acquire: pairs with the release of
        // followers that left.
        let is_free = self.followers.load(Ordering::Acquire) == 0;
        if !is_free {
            self.release();
        }
        is_free
    }

    /// Leaves the entry to the next owner.
    pub(super) fn release(&self) {
        // E7.
        self.in_use.store(false, Ordering::Release);
    }
}

/// All participants: a list of blocks. A block's link is a `OnceLock`: set before the owner that made the block registers
/// there, so the fences of E4 show the block with the pin.
#[derive(Default)]
pub(super) struct Registry {
    participants: [Count<Participant>; BLOCK_PARTICIPANTS],
    next: OnceLock<Box<Self>>,
}

impl Registry {
    /// Returns a free entry, or appends a block of them.
    pub(super) fn register(&self) -> Count<Participant> {
        let mut block = self;
        loop {
            for participant in &block.participants {
                if participant.try_take() {
                    return Count::clone(participant);
                }
            }
            block = block.next.get_or_init(Box::default);
        }
    }

    /// Calls `f` with each entry, in use or not.
    pub(super) fn for_each(&self, mut f: impl FnMut(&Participant)) {
        let mut block = Some(self);
        while let Some(this) = block {
            this.participants.iter().for_each(|participant| f(participant));
            block = this.next.get().map(|next| &**next);
        }
    }
}

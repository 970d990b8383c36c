//! The registry of readers: a list of seats that only grows.
//!
//! Imports `sync` and `park`. Always: I6 of the room; a seat is one reader's at a time.

use std::sync::Arc as Count;

use super::super::park::Bed;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{OnceLock, Padded};

const SEATS_A_BLOCK: usize = if cfg!(loom) { 1 } else { 16 };

/// A pin over nothing. No run begins here: its shard would be 65,535, which a core refuses.
pub(super) const IDLE: u64 = u64::MAX;

/// A reader's place in the registry.
pub(super) struct Seat {
    taken: AtomicBool,
    /// The run that its reader looks at, or [`IDLE`].
    pub(super) pin: Padded<AtomicU64>,
    /// Where its reader sleeps.
    pub(super) bed: Padded<Bed>,
}

impl Default for Seat {
    fn default() -> Self {
        Self { taken: AtomicBool::new(false), pin: Padded(AtomicU64::new(IDLE)), bed: Padded::default() }
    }
}

impl Seat {
    /// Gives it to the next reader.
    pub(super) fn leave(&self) {
        // E7.
        self.taken.store(false, Ordering::Release);
    }
}

/// Seats; a list of blocks that only grows. A block's link is a `OnceLock`: set before the reader that made
/// it takes a seat there, so the fences of E4 show it with the pin.
#[derive(Default)]
pub(super) struct Seats {
    seats: [Count<Seat>; SEATS_A_BLOCK],
    next: OnceLock<Box<Self>>,
}

impl Seats {
    /// Takes a free seat, or makes one.
    pub(super) fn take(&self) -> Count<Seat> {
        let mut block = self;
        loop {
            for seat in &block.seats {
                let free = !seat.taken.load(Ordering::Relaxed);
                // E7.
                if free
                    && seat.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
                {
                    return Count::clone(seat);
                }
            }
            block = block.next.get_or_init(Box::default);
        }
    }

    pub(super) fn for_each(&self, mut f: impl FnMut(&Seat)) {
        let mut block = Some(self);
        while let Some(this) = block {
            this.seats.iter().for_each(|seat| f(seat));
            block = this.next.get().map(|next| &**next);
        }
    }
}

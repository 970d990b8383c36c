//! Makes the epochs of buses.

use crate::event::Timestamp;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Returns the time in microseconds, moved on if another bus has the same.
pub(super) fn new_epoch() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = Timestamp::now().0 as u64;
    let mut last = LAST.load(Ordering::Relaxed);
    loop {
        let epoch = now.max(last + 1);
        // Only its own uniqueness matters: no edge.
        match LAST.compare_exchange(last, epoch, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return epoch,
            Err(other) => last = other,
        }
    }
}

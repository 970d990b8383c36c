//! The embedder's code, called where its panic must not go on.
//!
//! Imports nothing of ours. Always: whatever it does, who called it goes on behind it: also where what it panicked with
//! panics again when it is dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs it; none where it panicked.
///
/// What it shares with others may be half changed by its panic: it chose to share it, and nothing of ours is in it.
pub(crate) fn catch_panic<R>(run: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(done) => Some(done),
        Err(payload) => {
            if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(again);
            }
            None
        }
    }
}

//! Calls the embedder's code where its panic must not spread.
//!
//! Invariant: whatever the code does, its caller continues after it, even if the panic's payload panics again when
//! dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `run`, and returns `None` if it panicked.
///
/// A panic may leave state that `run` shares with other code half changed. That state is the embedder's; none of the
/// crate's own is in it.
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

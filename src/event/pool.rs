//! Bodies of events that nobody holds any more, kept for the next events that their thread makes.
//!
//! Imports its siblings. Always: at most so many bodies a thread, of at most so many bytes each; what is kept
//! is nobody's, and its frames go when it is written anew.
//!
//! A ring lets go of the oldest event for each that comes: so a thread that publishes gets back as many bodies
//! as it needs, and makes events without an allocation. Measured with `cargo bench --bench bus`: an event made
//! and published takes half the time.

use std::cell::RefCell;

use super::Body;
use crate::sync::Arc;

/// Bodies kept for each thread.
const BODIES_MAX: usize = 256;

/// Longer texts go back to the allocator: a ring full of short events must not hold long ones' memory.
const TEXT_BYTES_MAX: usize = 512;

thread_local! {
    static POOL: RefCell<Vec<Arc<Body>>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a body if nobody else holds it: there are no weak handles, and the last strong one is given here.
#[inline]
pub(super) fn give(body: Arc<Body>) {
    if Arc::strong_count(&body) != 1 || body.text.capacity() > TEXT_BYTES_MAX {
        return;
    }
    // A thread that ends has no pool any more.
    let _ = POOL.try_with(|pool| {
        if let Ok(mut pool) = pool.try_borrow_mut()
            && pool.len() < BODIES_MAX
        {
            pool.push(body);
        }
    });
}

/// A body to be written anew.
pub(super) fn take() -> Option<Arc<Body>> {
    POOL.try_with(|pool| pool.try_borrow_mut().ok()?.pop()).ok().flatten()
}

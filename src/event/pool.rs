//! Bodies of events that their ring let go of, kept for the next events that their thread makes.
//!
//! Imports its siblings. Always: at most so many bodies a thread, of at most so many bytes each; a body is written
//! anew only where the pool's handle is the last, and its frames go then.
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

/// Whether a body is worth keeping. Asked where it is written, and near.
#[inline]
pub(super) fn is_wanted(body: &Body) -> bool {
    body.text.capacity() <= TEXT_BYTES_MAX
}

/// Keeps bodies that are wanted, as many as have room. Without a look at them: they have not been touched for a lap of
/// the ring, and each look would wait for memory. Whether somebody else holds one is seen when it is taken, and written
/// anew.
#[inline]
pub(super) fn give(mut bodies: impl Iterator<Item = Arc<Body>>) {
    // A thread that ends has no pool any more.
    let _ = POOL.try_with(|pool| {
        if let Ok(mut pool) = pool.try_borrow_mut() {
            let room = BODIES_MAX.saturating_sub(pool.len());
            pool.extend(bodies.by_ref().take(room));
        }
    });
    bodies.for_each(drop);
}

/// A body to be written anew, if nobody else holds it: `Arc::get_mut` tells.
pub(super) fn take() -> Option<Arc<Body>> {
    POOL.try_with(|pool| pool.try_borrow_mut().ok()?.pop()).ok().flatten()
}

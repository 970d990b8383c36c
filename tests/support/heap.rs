//! A global allocator that counts the heap bytes of each thread, as glibc's allocator would use them.
#![allow(unsafe_code, reason = "an allocator of the test's own, which counts and calls the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local!(static HELD: Cell<isize> = const { Cell::new(0) });

/// Returns the heap bytes that this thread holds: allocated less freed.
pub(crate) fn held() -> isize {
    HELD.with(Cell::get)
}

/// Returns the bytes that glibc's allocator uses for a small block: with its header, in steps of 16, and at least 32.
fn block(layout: Layout) -> isize {
    (layout.size() + 8).next_multiple_of(16).max(32) as isize
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.with(|held| held.set(held.get() + block(layout)));
        // SAFETY: the caller upholds the requirements.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.with(|held| held.set(held.get() - block(layout)));
        // SAFETY: the caller upholds the requirements.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

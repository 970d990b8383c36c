//! Plain memory of the lossless ring, which begins on a cache line.
//!
//! Invariant: a thread that reads or writes a cell has made sure that no other thread writes it meanwhile. Loom watches
//! the cells.
#![allow(
    unsafe_code,
    reason = "memory with an alignment of its own; the ring's invariants say who touches it"
)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use bytemuck::Pod;

use super::AHEAD;
use crate::sync::UnsafeCell;

/// Size of a cache line, in bytes.
const LINE: usize = 64;

/// An array of cells whose length is a power of two.
pub(super) struct Cells<I: Pod> {
    first: NonNull<UnsafeCell<I>>,
    mask: usize,
}

// SAFETY: cells hold plain values; a thread that touches one has made sure that no other access excludes it.
unsafe impl<I: Pod + Send> Send for Cells<I> {}
// SAFETY: as above.
unsafe impl<I: Pod + Send + Sync> Sync for Cells<I> {}

impl<I: Pod> Cells<I> {
    /// Allocates `count` cells of zeros: a power of two.
    pub(super) fn new(count: usize) -> Self {
        assert!(count.is_power_of_two(), "the builder checks it");
        let layout = Self::layout(count);
        let first = if layout.size() == 0 {
            NonNull::dangling()
        } else {
            // SAFETY: the layout has a size.
            let memory = unsafe { alloc(layout) };
            NonNull::new(memory.cast()).unwrap_or_else(|| handle_alloc_error(layout))
        };
        for index in 0..count {
            // SAFETY: inside the layout, and no other thread has it yet.
            unsafe { first.add(index).write(UnsafeCell::new(I::zeroed())) };
        }
        Self { first, mask: count - 1 }
    }

    /// Returns the layout of `count` cells, with spare room after them for prefetches.
    fn layout(count: usize) -> Layout {
        let cells =
            Layout::array::<UnsafeCell<I>>(count + AHEAD as usize).and_then(|layout| layout.align_to(LINE));
        cells.expect("a ring's size is bounded by the builder")
    }

    /// Returns the cell of a sequence.
    #[inline(always)]
    pub(super) fn at(&self, sequence: u64) -> &UnsafeCell<I> {
        // SAFETY: the masked index is below the count, and all cells were written when they were made.
        unsafe { self.first.add(sequence as usize & self.mask).as_ref() }
    }

    pub(super) fn count(&self) -> u64 {
        self.mask as u64 + 1
    }
}

impl<I: Pod> Drop for Cells<I> {
    fn drop(&mut self) {
        let layout = Self::layout(self.mask + 1);
        for index in 0..=self.mask {
            // SAFETY: each was written when it was made, and is dropped once.
            unsafe { self.first.add(index).drop_in_place() };
        }
        if layout.size() > 0 {
            // SAFETY: made with this layout.
            unsafe { dealloc(self.first.cast().as_ptr(), layout) };
        }
    }
}

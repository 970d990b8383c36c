//! A buffer of items that are collected before they are published together.
//!
//! Invariants:
//! - The embedder's iterator (which may lie about its length, take its time, publish itself or panic) has made the items
//!   before the first sequence is claimed: the rings take a [`Batch`], never an iterator.
//! - B1 The items `from..to` are initialized, and no others.
#![allow(
    unsafe_code,
    reason = "items in a place of fixed size: a vector that may spill costs twice as much an item"
)]

use std::fmt;
use std::mem::MaybeUninit;

/// Maximum number of items of a batch.
pub(super) const BATCH: usize = if cfg!(loom) { 4 } else { 64 };

/// Items that are not published yet, in a buffer of fixed size.
pub(crate) struct Batch<T> {
    items: [MaybeUninit<T>; BATCH],
    from: usize,
    to: usize,
}

impl<T> Batch<T> {
    pub(crate) fn new() -> Self {
        Self { items: [const { MaybeUninit::uninit() }; BATCH], from: 0, to: 0 }
    }

    /// Adds items from the iterator until the batch is full or the iterator ends. Runs the iterator.
    #[inline]
    pub(crate) fn fill(&mut self, items: &mut impl Iterator<Item = T>) {
        // One by one: an iterator's hint of its size may be as wrong as its length.
        while !self.is_full()
            && let Some(item) = items.next()
        {
            self.push(item);
        }
    }

    /// Adds an item. An empty batch begins at the front again.
    ///
    /// # Panics
    /// If the batch is full.
    #[inline]
    pub(crate) fn push(&mut self, item: T) {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        }
        self.items[self.to].write(item);
        self.to += 1;
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.to - self.from
    }

    /// Returns whether no more items can be added.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.to == BATCH && self.from < self.to
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        // SAFETY: B1.
        self.items[self.from..self.to].iter().map(|item| unsafe { item.assume_init_ref() })
    }

    /// Returns the batch's items.
    pub(crate) fn into_items(mut self) -> Vec<T> {
        self.take().collect()
    }

    /// Takes all items.
    pub(super) fn take(&mut self) -> impl ExactSizeIterator<Item = T> {
        self.take_first(BATCH)
    }

    /// Takes at most `count` items from the front. Items that the caller does not pull stay.
    #[inline]
    pub(super) fn take_first(&mut self, count: usize) -> impl ExactSizeIterator<Item = T> {
        let end = self.from + count.min(self.len());
        BatchDrain { batch: self, end }
    }
}

impl<T> Drop for Batch<T> {
    fn drop(&mut self) {
        self.take().for_each(drop);
    }
}

impl<T> fmt::Debug for Batch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.len()).finish()
    }
}

/// Iterator that takes items up to an end.
struct BatchDrain<'a, T> {
    batch: &'a mut Batch<T>,
    /// At most the batch's `to`.
    end: usize,
}

impl<T> Iterator for BatchDrain<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        let at = self.batch.from;
        if at == self.end {
            return None;
        }
        self.batch.from += 1;
        // SAFETY: B1: `at` was in `from..to`, and is no longer.
        Some(unsafe { self.batch.items[at].assume_init_read() })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end - self.batch.from;
        (left, Some(left))
    }
}

impl<T> ExactSizeIterator for BatchDrain<'_, T> {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn each_item_is_taken_or_dropped_once() {
        let one = Rc::new(());
        let mut batch = Batch::new();
        let mut items = std::iter::repeat_with(|| Rc::clone(&one)).take(100);
        batch.fill(&mut items);
        assert_eq!((batch.len(), Rc::strong_count(&one)), (64, 65));
        assert_eq!(batch.take_first(10).take(4).count(), 4);
        assert_eq!((batch.len(), batch.iter().count(), Rc::strong_count(&one)), (60, 60, 61));
        // There is space again when all are taken.
        batch.fill(&mut items);
        assert_eq!(batch.take_first(1000).len(), 60);
        assert_eq!(batch.take().count(), 60);
        batch.fill(&mut items);
        assert_eq!((batch.len(), batch.is_empty()), (36, false));
        drop(batch);
        assert_eq!(Rc::strong_count(&one), 1);
    }
}

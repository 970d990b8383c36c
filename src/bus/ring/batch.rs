//! What is published at once.
//!
//! Imports nothing of ours. Always: whatever makes the items (an iterator of the embedder's, which may lie about its
//! length, take its time, publish itself or panic) has made them before the first place is claimed: the rings take
//! a [`Batch`], and no iterator.

use smallvec::SmallVec;

/// Items of a batch that are claimed together.
const BATCH: usize = if cfg!(loom) { 4 } else { 64 };

/// Items that wait to be published.
#[derive(Clone, Debug)]
pub(crate) struct Batch<T>(SmallVec<[T; BATCH]>);

impl<T> Batch<T> {
    pub(crate) fn new() -> Self {
        Self(SmallVec::new())
    }

    /// Adds what the iterator gives, as far as there is room. Runs the iterator.
    pub(crate) fn fill(&mut self, items: &mut impl Iterator<Item = T>) {
        // One by one: an iterator's hint of its size may be as wrong as its length.
        while self.0.len() < BATCH
            && let Some(item) = items.next()
        {
            self.0.push(item);
        }
    }

    pub(crate) fn push(&mut self, item: T) {
        self.0.push(item);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= BATCH
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    /// Takes all of them; the memory is used again.
    pub(super) fn take(&mut self) -> impl ExactSizeIterator<Item = T> {
        self.0.drain(..)
    }

    /// Takes the first ones, at most so many.
    pub(super) fn take_first(&mut self, count: usize) -> impl ExactSizeIterator<Item = T> {
        let count = count.min(self.0.len());
        self.0.drain(..count)
    }
}

//! Bytes of one connection, inserted between the frames of its feed.
//!
//! Invariants:
//! - A piece's `before` is never smaller than that of the piece before it.
//! - The sums of a queue are those of its pieces.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::event::EventId;

/// Overhead of one piece of inserted bytes, for the allocator and the reference count, in bytes.
const PIECE_BYTES: usize = 48;

/// Memory of a waiting reply in addition to its bytes: a pong of 2 bytes takes about 60 times its size.
pub(crate) const REPLY_COST: usize = size_of::<Inserted>() + PIECE_BYTES;

/// Bytes of one connection, inserted between the frames of its feed.
#[derive(Debug)]
pub(super) struct Inserted {
    /// Index of the frame that the bytes precede.
    pub(super) before: u64,
    pub(super) bytes: Bytes,
    /// Number of events in the bytes.
    pub(super) events: u32,
    /// Whether the bytes change the connection's compression window, so that it differs from the feed's.
    pub(super) changes_window: bool,
    /// Last event in the bytes.
    pub(super) last: Option<EventId>,
    /// Whether the event, the feed or other connections also retain the bytes.
    pub(super) is_shared: bool,
}

/// Sums over inserted bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct InsertedSums {
    pub(super) bytes: usize,
    /// Part of `bytes` that is also retained elsewhere.
    pub(super) shared_bytes: usize,
    pub(super) events: u64,
}

impl InsertedSums {
    /// Returns the sums over these pieces.
    fn of<'a>(pieces: impl IntoIterator<Item = &'a Inserted>) -> Self {
        let mut sums = Self::default();
        pieces.into_iter().for_each(|piece| sums.add(piece));
        sums
    }

    fn add(&mut self, Inserted { bytes, events, is_shared, .. }: &Inserted) {
        self.bytes += bytes.len();
        self.shared_bytes += if *is_shared { bytes.len() } else { 0 };
        self.events += u64::from(*events);
    }

    fn subtract(&mut self, Inserted { bytes, events, is_shared, .. }: &Inserted) {
        self.bytes -= bytes.len();
        self.shared_bytes -= if *is_shared { bytes.len() } else { 0 };
        self.events -= u64::from(*events);
    }
}

/// Inserted bytes of a connection, in order.
#[derive(Debug, Default)]
pub(super) struct InsertedQueue {
    pieces: VecDeque<Inserted>,
    sums: InsertedSums,
}

impl InsertedQueue {
    pub(super) fn sums(&self) -> InsertedSums {
        self.sums
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn get(&self, at: usize) -> Option<&Inserted> {
        self.pieces.get(at)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Inserted> {
        self.pieces.iter()
    }

    /// Returns the position in the queue after all bytes that precede frame `index` or an earlier one.
    pub(super) fn position_after(&self, index: u64) -> usize {
        self.pieces.partition_point(|piece| piece.before <= index)
    }

    /// Returns the last event in the pieces before position `at`.
    pub(super) fn last_before(&self, at: usize) -> Option<EventId> {
        self.pieces.range(..at).rev().find_map(|piece| piece.last)
    }

    pub(super) fn push(&mut self, piece: Inserted) {
        self.sums.add(&piece);
        self.pieces.push_back(piece);
    }

    /// Appends all pieces of another queue.
    pub(super) fn append(&mut self, rest: Self) {
        rest.pieces.into_iter().for_each(|piece| self.push(piece));
    }

    /// Inserts a piece at position `at`. The later ones move to at least its place among the frames.
    pub(super) fn insert(&mut self, at: usize, piece: Inserted) {
        let before = piece.before;
        self.sums.add(&piece);
        self.pieces.insert(at, piece);
        for later in self.pieces.range_mut(at..) {
            later.before = later.before.max(before);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Inserted> {
        let piece = self.pieces.pop_front()?;
        self.sums.subtract(&piece);
        Some(piece)
    }

    /// Drops the first `count` pieces.
    pub(super) fn drop_first(&mut self, count: usize) {
        let Self { pieces, sums } = self;
        pieces.drain(..count).for_each(|piece| sums.subtract(&piece));
    }

    /// Moves all pieces to before this frame.
    pub(super) fn move_before(&mut self, index: u64) {
        self.pieces.iter_mut().for_each(|piece| piece.before = index);
    }

    /// Takes out the pieces from position `at` on.
    pub(super) fn split_off(&mut self, at: usize) -> VecDeque<Inserted> {
        let rest = self.pieces.split_off(at);
        self.sums = InsertedSums::of(&self.pieces);
        rest
    }

    /// Drops all pieces except the first `count`.
    pub(super) fn truncate(&mut self, count: usize) {
        self.pieces.truncate(count);
        self.pieces.shrink_to_fit();
        self.sums = InsertedSums::of(&self.pieces);
    }

    /// Returns the bytes that only this queue retains.
    pub(super) fn own_bytes(&self) -> usize {
        let entries = self.pieces.capacity() * size_of::<Inserted>() + self.pieces.len() * PIECE_BYTES;
        entries + self.sums.bytes - self.sums.shared_bytes
    }

    /// Checks the invariants. Walks all pieces.
    #[cfg(debug_assertions)]
    pub(super) fn check(&self) {
        assert_eq!(self.sums, InsertedSums::of(&self.pieces), "the sums are those of the pieces");
        assert!(self.pieces.iter().is_sorted_by_key(|piece| piece.before), "the pieces are in order");
    }
}

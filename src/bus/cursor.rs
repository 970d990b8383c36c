//! A reader's place in all shards: every kind of reader reads events through a cursor.
//!
//! Invariant, for each shard: the events shown plus those reported as missed are the events claimed between the place where
//! the cursor was set and its place now.

use smallvec::SmallVec;

use super::delivery::{DeliveryRef, Gap};
use super::event_count::Wake;
use super::item::Item;
use super::position::PositionError;
use super::ring::{Peek, RingReader, RingSet, VisitEnd};
use super::waitable::Waitable;
use crate::event::{Position, Sequence};
use crate::sync::Arc;

/// Empty looks at the slot between two looks at the head. The head shows that a sequence will never come; publishers
/// write its cache line, so each look at it slows them.
const LOOKS_PER_SKIP: u32 = 64;

/// Place of a reader in all shards.
pub(crate) struct Cursor<T: Item> {
    reader: RingReader<T::Codec>,
    next: SmallVec<[Sequence; 4]>,
    /// Shard to look at first.
    turn: usize,
    empty_looks: u32,
    is_at_end: bool,
    missed: u64,
}

impl<T: Item> Cursor<T> {
    /// Creates a cursor after the newest event of each shard.
    pub(crate) fn new(rings: &Arc<RingSet<T::Codec>>) -> Self {
        let reader = RingReader::new(Arc::clone(rings));
        let next = rings.shards().iter().map(super::ring::Ring::head).collect();
        Self { reader, next, turn: 0, empty_looks: 0, is_at_end: true, missed: 0 }
    }

    pub(crate) fn rings(&self) -> &Arc<RingSet<T::Codec>> {
        self.reader.rings()
    }

    /// Returns the next sequence in one shard.
    pub(crate) fn next(&self, shard: usize) -> Sequence {
        self.next[shard]
    }

    pub(crate) fn shards(&self) -> usize {
        self.next.len()
    }

    /// Returns the number of events reported as missed so far.
    pub(crate) fn missed(&self) -> u64 {
        self.missed
    }

    /// Returns the number of events ahead of the cursor, in all shards.
    pub(crate) fn lag(&self) -> u64 {
        let rings = self.rings().shards().iter();
        rings.zip(&self.next).map(|(ring, next)| ring.head().saturating_sub(*next)).sum()
    }

    pub(crate) fn position(&self, epoch: u64) -> Position {
        Position { epoch, sequences: self.next.clone() }
    }

    pub(crate) fn seek(&mut self, position: &Position, epoch: u64) -> Result<(), PositionError> {
        if position.epoch != epoch {
            return Err(PositionError::OtherEpoch);
        }
        if position.sequences.len() != self.next.len() {
            return Err(PositionError::OtherShards);
        }
        let heads = self.rings().shards().iter().map(super::ring::Ring::head);
        if heads.zip(&position.sequences).any(|(head, wanted)| head < *wanted) {
            return Err(PositionError::Ahead);
        }
        self.next.clone_from(&position.sequences);
        Ok(())
    }

    pub(crate) fn set_next(&mut self, shard: usize, next: Sequence) {
        self.next[shard] = next;
    }

    /// Returns whether the reader may sleep again on its announcement, which is in effect while no publisher has woken
    /// the reader. `None` if there is no such announcement.
    #[cfg(feature = "server")]
    pub(crate) fn resume_sleep(&mut self) -> Option<bool> {
        let stands = self.reader.is_announced();
        stands.then(|| !(self.is_closed() || self.is_ready() || self.is_at_hole()))
    }

    /// Wakes every other reader that sleeps.
    #[cfg(feature = "server")]
    pub(crate) fn notify_others(&self) {
        self.reader.notify_others();
    }

    fn gap(&mut self, shard: usize, to: Sequence) -> Gap {
        let from = std::mem::replace(&mut self.next[shard], to);
        let missed = to - from;
        self.missed += missed;
        Gap { missed, shard: shard as u16, from, to }
    }

    /// Shows events and gaps, beginning with the shard whose turn it is, until `visit` returns false or there is nothing
    /// more. Returns whether anything was shown.
    #[inline]
    pub(crate) fn visit(&mut self, mut visit: impl FnMut(DeliveryRef<'_, T>) -> bool) -> bool {
        let shards = self.next.len();
        let mut any = false;
        let mut more = true;
        let mut dry = 0;
        while more && dry < shards {
            let (shown, end) = self.visit_span(self.turn, |item| {
                more = visit(item);
                more
            });
            any |= shown;
            // After a span that reached the end, no second look: it would take the cache line that is being written.
            dry = if end == VisitEnd::NotYet { dry + 1 } else { 0 };
            self.turn = if self.turn + 1 == shards { 0 } else { self.turn + 1 };
        }
        self.is_at_end = more;
        if any {
            self.empty_looks = 0;
            return true;
        }
        self.empty_looks += 1;
        self.empty_looks >= LOOKS_PER_SKIP && self.skip(visit)
    }

    /// Shows one span or one gap of the first shard that has any, beginning with the shard whose turn it is. Returns the
    /// shard.
    #[cfg(feature = "server")]
    pub(crate) fn visit_one(&mut self, mut visit: impl FnMut(DeliveryRef<'_, T>) -> bool) -> Option<usize> {
        let shards = self.next.len();
        // Checks for given-up sequences only every few empty looks: publishers write the head's cache line.
        self.empty_looks += 1;
        let skips = self.empty_looks >= LOOKS_PER_SKIP;
        for _ in 0..shards {
            let shard = self.turn;
            self.turn = if shard + 1 == shards { 0 } else { shard + 1 };
            if self.visit_span(shard, &mut visit).0 || (skips && self.skip_shard(shard, &mut visit)) {
                self.empty_looks = 0;
                return Some(shard);
            }
        }
        if skips {
            self.empty_looks = 0;
        }
        None
    }

    /// Continues at this sequence of a shard. Returns the gap if that skips sequences.
    #[cfg(feature = "server")]
    pub(crate) fn skip_to(&mut self, shard: usize, to: Sequence) -> Option<Gap> {
        (self.next[shard] < to).then(|| self.gap(shard, to))
    }

    /// Shows one span of one shard, or the gap there. Returns whether anything was shown, and how the visit ended.
    #[inline]
    fn visit_span(
        &mut self,
        shard: usize,
        mut visit: impl FnMut(DeliveryRef<'_, T>) -> bool,
    ) -> (bool, VisitEnd) {
        let before = self.next[shard];
        let first = self.rings().shards()[shard].first();
        if before < first {
            // I7 of the rings.
            let gap = self.gap(shard, first);
            visit(DeliveryRef::Gap(gap));
            return (true, VisitEnd::Enough);
        }
        let end = self.reader.visit(shard, &mut self.next[shard], |item| visit(DeliveryRef::Event(item)));
        if self.next[shard] == before && end == VisitEnd::Lapped {
            let to = self.rings().shards()[shard].resume(before);
            let gap = self.gap(shard, to);
            visit(DeliveryRef::Gap(gap));
            return (true, VisitEnd::Enough);
        }
        (self.next[shard] != before, end)
    }

    /// Shows one span or one gap of one shard.
    pub(crate) fn visit_shard(
        &mut self,
        shard: usize,
        mut visit: impl FnMut(DeliveryRef<'_, T>) -> bool,
    ) -> bool {
        self.visit_span(shard, &mut visit).0 || self.skip_shard(shard, visit)
    }

    /// Shows the gap of a sequence that was given up, if it is the next one.
    #[cold]
    pub(crate) fn skip(&mut self, mut visit: impl FnMut(DeliveryRef<'_, T>) -> bool) -> bool {
        self.empty_looks = 0;
        let mut any = false;
        for shard in 0..self.next.len() {
            any |= self.skip_shard(shard, &mut visit);
        }
        any
    }

    fn skip_shard(&mut self, shard: usize, mut visit: impl FnMut(DeliveryRef<'_, T>) -> bool) -> bool {
        let next = self.next[shard];
        let ring = &self.rings().shards()[shard];
        // Reads the head before the slot: every sequence below the head was claimed, so if the slot does not show it
        // now, it is late, given up, or a lap away.
        match ring.skip(next) {
            Some(to) if ring.peek(next) == Peek::NotYet => {
                let gap = self.gap(shard, to);
                visit(DeliveryRef::Gap(gap));
                true
            }
            _ => false,
        }
    }
}

impl<T: Item> Waitable for Cursor<T> {
    /// Reads one line for each shard.
    #[inline]
    fn is_ready(&self) -> bool {
        self.rings().shards().iter().zip(&self.next).any(|(ring, next)| ring.peek(*next) != Peek::NotYet)
    }

    fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    /// Returns whether the bus is closed and the cursor has reached its end.
    fn is_closed(&self) -> bool {
        let mut rings = self.rings().shards().iter().zip(&self.next);
        self.rings().is_closed() && rings.all(|(ring, next)| *next >= ring.end())
    }

    /// Returns whether the cursor is before a sequence that will never come. Then the next visit shows the gap.
    fn is_at_hole(&mut self) -> bool {
        let mut rings = self.rings().shards().iter().zip(&self.next);
        let at_hole = rings.any(|(ring, next)| ring.skip(*next).is_some());
        if at_hole {
            self.empty_looks = LOOKS_PER_SKIP;
        }
        at_hole
    }

    /// Returns the sum of the next sequences of all shards.
    fn passed(&self) -> u64 {
        self.next.iter().sum()
    }

    fn capacity(&self) -> u64 {
        self.rings().shards()[0].capacity()
    }

    fn prepare_sleep(&mut self, wake: Wake) -> bool {
        self.reader.prepare_sleep(wake);
        if self.is_closed() || self.is_ready() || self.is_at_hole() {
            self.reader.cancel_sleep();
            return false;
        }
        true
    }

    fn cancel_sleep(&mut self) {
        self.reader.cancel_sleep();
    }
}

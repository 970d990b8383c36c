//! One shard: its slots, their stamps, and the record of sequences that publishers gave up.
//!
//! Invariants: I1 to I3 of the room.
//!
//! # The record of given-up sequences
//! A publisher that finds its slot held for too long gives its sequence up and notes that in the slot's record: one word,
//! with the lap of the first sequence given up in the high half and the number of consecutive laps in the low half.
//! For slot 1 of a ring of 4 slots:
//! ```text
//! lap               0           1          2          3
//! sequence          1           5          9          13
//! state             published   given up   given up   its turn
//! record            ────────────┴─ first = 1, count = 2
//! ```
//! The publisher of sequence 13 may write: the lap after the one shown is `first`, and `first + count` is its own. It then
//! clears the record. A lap can be added only at either end of the record, so laps between are never assumed.
#![allow(
    unsafe_code,
    reason = "slots without bounds checks, and what they own; the invariants are the room's"
)]

use std::marker::PhantomData;

use super::super::barrier::Fences;
use super::bound::Bound;
use super::slot_codec::{SlotCodec, load_image, store_image, word_0};
use super::{AHEAD, Sequence, prefetch};
use crate::sync::atomic::{AtomicU64, Ordering, fence};
use crate::sync::{Backoff, CachePadded};

/// Looks at a slot that another publisher holds before the sequence is given up: 7 while [`Backoff`] spins, 64 with a
/// yield each.
const WAIT_LOOKS: u32 = if cfg!(loom) { 1 } else { 7 + 64 };

const WORDS_PER_LINE: usize = 8;

/// Bit of the head of a closed ring: a claim that finds it has claimed nothing (E10).
const CLOSED: u64 = 1 << 63;

/// Eight words on a cache line.
#[repr(C, align(64))]
struct CacheLine([AtomicU64; WORDS_PER_LINE]);

impl CacheLine {
    fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// Stamp and words of one item.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a> {
    pub(super) stamp: &'a AtomicU64,
    lines: &'a [CacheLine],
}

/// A slot that its publisher may write.
#[derive(Clone, Copy)]
pub(super) struct OpenSlot<'a> {
    slot: Slot<'a>,
    /// Sequence that the slot shows until then. Not always the lap before: laps between may have been given up.
    shown: Sequence,
}

/// Contents of a slot before it was overwritten, and the weight of the new item.
#[derive(Clone, Copy)]
pub(super) struct Overwritten {
    /// Sequence that the slot showed.
    pub(super) shown: Sequence,
    /// Word 0 of the slot: 0 if it owned nothing any more.
    pub(super) word: u64,
    /// Weight of the old item, in bytes.
    pub(super) was: u64,
    /// Weight of the new item, in bytes.
    pub(super) weight: u64,
}

/// Result of reading a sequence.
pub(super) enum SlotRead<I> {
    Image(I),
    NotYet,
    Lapped,
}

/// Result of a look at a sequence's stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peek {
    Ready,
    NotYet,
    Lapped,
}

/// Reason why a visit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VisitEnd {
    /// The visitor returned false, or the span is over.
    Enough,
    /// The next sequence is not published yet.
    NotYet,
    /// The next sequence has been overwritten.
    Lapped,
}

/// The slots of one shard.
pub(crate) struct Ring<C: SlotCodec> {
    head: CachePadded<AtomicU64>,
    /// The head when the ring was closed. Claims that came too late move the head on.
    end: AtomicU64,
    lines: Box<[CacheLine]>,
    // One word per slot: 0, or the lap of the first sequence given up there (high half) and the number of consecutive
    // laps given up (low half). Cleared by the publisher that proceeds past them.
    given_up: Box<[AtomicU64]>,
    /// Number of sequences given up so far.
    pub(super) holes: AtomicU64,
    /// Weight of the items in bytes, as far as publishers have settled it (see `bytes`). Wraps below zero for a moment.
    pub(super) weight: CachePadded<AtomicU64>,
    /// First sequence that was not released early to keep the bound.
    pub(super) floor: CachePadded<AtomicU64>,
    pub(super) bound: Bound,
    fences: Fences,
    /// First sequence of the ring; below it nothing was ever published here.
    first: Sequence,
    mask: u64,
    lap_shift: u32,
    codec: PhantomData<C>,
}

impl<C: SlotCodec> Ring<C> {
    const WORDS: usize = size_of::<C::Image>().div_ceil(8);
    /// Lines of a slot: the stamp and the words. Stamps in an array of their own, with the words of a 64-byte item on one
    /// line instead of two, were measured: a reader that follows the publisher closely got half the throughput.
    const LINES: usize = (1 + Self::WORDS).div_ceil(WORDS_PER_LINE);

    pub(super) fn new(capacity: usize, first: Sequence, bound: Bound, fences: Fences) -> Self {
        assert!(capacity.is_power_of_two(), "the builder checks it");
        // The sequence of the lap before that has this slot.
        let behind = |index: u64| index.wrapping_sub(first) & (capacity as u64 - 1);
        let stamp_before = |index: usize| {
            let next = first.wrapping_add(behind(index as u64));
            Self::published(next).wrapping_sub(2 * capacity as u64)
        };
        let lines = |count: usize| (0..count).map(|_| CacheLine::new()).collect();
        let ring = Self {
            head: CachePadded::new(AtomicU64::new(first)),
            end: AtomicU64::new(first),
            lines: lines(capacity * Self::LINES),
            given_up: (0..capacity).map(|_| AtomicU64::new(0)).collect(),
            holes: AtomicU64::new(0),
            weight: CachePadded::new(AtomicU64::new(0)),
            floor: CachePadded::new(AtomicU64::new(0)),
            bound,
            fences,
            first,
            mask: capacity as u64 - 1,
            lap_shift: capacity.trailing_zeros(),
            codec: PhantomData,
        };
        for index in 0..capacity {
            // No other thread has the ring yet.
            ring.slot(index as u64).stamp.store(stamp_before(index), Ordering::Relaxed);
        }
        ring
    }

    /// Returns the stamp of a published sequence.
    #[inline(always)]
    pub(super) fn published(sequence: Sequence) -> u64 {
        sequence.wrapping_mul(2).wrapping_add(2)
    }

    /// Returns the first sequence of the ring. A reader must not stand below it (I7).
    #[inline(always)]
    pub(crate) fn first(&self) -> Sequence {
        self.first
    }

    /// Returns the oldest sequence that may still be here.
    pub(crate) fn oldest(&self) -> Sequence {
        // No edge: a reader that finds a sequence gone reports it as a gap, whatever this says.
        let floor = self.floor.load(Ordering::Relaxed);
        self.head().saturating_sub(self.capacity()).max(self.first).max(floor)
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.mask + 1
    }

    /// Returns the next sequence that will be claimed; of a closed ring, the first that never was.
    pub(crate) fn head(&self) -> Sequence {
        // No edge: a thread that acts on it looks at stamps. A reader that joins here misses nothing published after
        // it joined, because claims that follow in time follow in the head's own order.
        let head = self.head.load(Ordering::Relaxed);
        if head & CLOSED == 0 {
            return head;
        }
        // E10: the end was stored before the bit was set.
        fence(Ordering::Acquire);
        self.end()
    }

    /// Returns the first sequence that was not claimed before the ring was closed. Called after [`RingSet::is_closed`]
    /// returned true.
    ///
    /// [`RingSet::is_closed`]: super::RingSet::is_closed
    pub(crate) fn end(&self) -> Sequence {
        // E10, by the caller's look at the flag or the bit.
        self.end.load(Ordering::Relaxed)
    }

    /// Claims `count` sequences, and returns the first one; `None` if the ring is closed.
    #[inline(always)]
    pub(super) fn claim(&self, count: u64) -> Option<Sequence> {
        // E3: relaxed.
        let first = self.head.fetch_add(count, Ordering::Relaxed);
        (first & CLOSED == 0).then_some(first)
    }

    /// Closes the ring: no sequence is claimed afterwards. One thread at a time.
    pub(super) fn close(&self) {
        let mut head = self.head.load(Ordering::Relaxed);
        while head & CLOSED == 0 {
            self.end.store(head, Ordering::Relaxed);
            // E10.
            match self.head.compare_exchange(head, head | CLOSED, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => head = other,
            }
        }
    }

    #[inline(always)]
    pub(super) fn slot(&self, sequence: Sequence) -> Slot<'_> {
        let index = (sequence & self.mask) as usize;
        let first = index * Self::LINES;
        // SAFETY: I1: the masked index is below the capacity, and there are LINES lines for each.
        let lines = unsafe { self.lines.get_unchecked(first..first + Self::LINES) };
        Slot { stamp: &lines[0].0[0], lines }
    }

    #[inline(always)]
    pub(super) fn word(slot: Slot<'_>, index: usize) -> &AtomicU64 {
        &slot.lines[(index + 1) / WORDS_PER_LINE].0[(index + 1) % WORDS_PER_LINE]
    }

    /// Returns the word that holds the weight of a counted item: the last.
    #[inline(always)]
    pub(super) fn weight_word(slot: Slot<'_>) -> &AtomicU64 {
        Self::word(slot, Self::WORDS - 1)
    }

    /// Returns the slot of a claimed sequence, once this publisher may write it (I2); `None` if the sequence was given
    /// up.
    #[inline(always)]
    pub(super) fn open(&self, sequence: Sequence) -> Option<OpenSlot<'_>> {
        for line in self.slot(sequence.wrapping_add(AHEAD)).lines {
            prefetch::for_writing(line);
        }
        let slot = self.slot(sequence);
        let shown = sequence.wrapping_sub(self.capacity());
        let before = Self::published(shown);
        // E3.
        if slot.stamp.load(Ordering::Acquire) == before {
            return Some(OpenSlot { slot, shown });
        }
        self.open_slowly(sequence)
    }

    fn record(&self, sequence: Sequence) -> &AtomicU64 {
        &self.given_up[(sequence & self.mask) as usize]
    }

    /// Returns the lap of a sequence, cut to the half word that the record has for it.
    fn lap(&self, sequence: Sequence) -> u32 {
        (sequence >> self.lap_shift) as u32
    }

    #[cold]
    fn open_slowly(&self, sequence: Sequence) -> Option<OpenSlot<'_>> {
        let slot = self.slot(sequence);
        let backoff = Backoff::new();
        let mut looks = 0;
        loop {
            // E9, before the stamp: a record that is cleared meanwhile belongs to an older stamp.
            let record = self.record(sequence).load(Ordering::Acquire);
            // E3.
            let stamp = slot.stamp.load(Ordering::Acquire);
            let (first, count) = ((record >> 32) as u32, record as u32);
            if stamp & 1 == 0 {
                // Halved by a shift that keeps the sign: a ring's first lap shows sequences below zero.
                let shown = ((stamp as i64 >> 1) as u64).wrapping_sub(1);
                let (after_shown, own) = (self.lap(shown).wrapping_add(1), self.lap(sequence));
                if after_shown == own {
                    return Some(OpenSlot { slot, shown });
                }
                // All laps between were given up, so it is this sequence's turn, and the record is no longer needed. No
                // other thread can change it: it could only grow by this lap.
                if count != 0 && first == after_shown && first.wrapping_add(count) == own {
                    self.record(sequence).store(0, Ordering::Release);
                    return Some(OpenSlot { slot, shown });
                }
            }
            if looks >= WAIT_LOOKS && self.give_up(sequence, record) {
                // A statistic: no edge.
                self.holes.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            looks += 1;
            backoff.snooze();
        }
    }

    /// Records that this sequence will never be published. Returns false if the record has no room for it yet: a lap
    /// between is still undecided.
    fn give_up(&self, sequence: Sequence, record: u64) -> bool {
        let own = self.lap(sequence);
        let (first, count) = ((record >> 32) as u32, record as u32);
        let (first, count) = match count {
            0 => (own, 1),
            _ if first.wrapping_add(count) == own => (first, count + 1),
            _ if own.wrapping_add(1) == first => (own, count + 1),
            _ => return false,
        };
        let new = u64::from(first) << 32 | u64::from(count);
        // E9.
        let noted = self.record(sequence).compare_exchange(record, new, Ordering::Release, Ordering::Relaxed);
        noted.is_ok()
    }

    /// Returns whether this sequence was claimed and given up.
    fn is_given_up(&self, sequence: Sequence) -> bool {
        // E9.
        let record = self.record(sequence).load(Ordering::Acquire);
        self.lap(sequence).wrapping_sub((record >> 32) as u32) < record as u32
    }

    /// Writes an image to an open slot, publishes it, and returns what the slot held.
    #[inline(always)]
    pub(super) fn fill(&self, open: OpenSlot<'_>, sequence: Sequence, image: &C::Image) -> Overwritten {
        let slot = open.slot;
        // E2. I2: ours since `open`, so no other thread writes it now, but for its word 0 (I8).
        slot.stamp.store(Self::published(sequence) - 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let (word, was) = if C::COUNTED { self.take_over(open) } else { (0, 0) };
        store_image(image, |index| Self::word(slot, index));
        // E1, E3.
        slot.stamp.store(Self::published(sequence), Ordering::Release);
        Overwritten { shown: open.shown, word, was, weight: C::weight(image) }
    }

    /// Takes what a slot owns, after its odd stamp: its word 0, and the weight of that body.
    #[inline(always)]
    fn take_over(&self, open: OpenSlot<'_>) -> (u64, u64) {
        let word = Self::word(open.slot, 0);
        let was = Self::weight_word(open.slot).load(Ordering::Relaxed);
        if self.bound.is_set() {
            // E11.
            self.fences.light();
            if self.floor.load(Ordering::Relaxed) > open.shown {
                // I8.
                return (word.swap(0, Ordering::Relaxed), was);
            }
        }
        (word.load(Ordering::Relaxed), was)
    }

    /// Returns whether a sequence can be read. Touches the slot's line only.
    #[inline(always)]
    pub(crate) fn peek(&self, sequence: Sequence) -> Peek {
        // E1, for a caller that then reads.
        let ahead = self.slot(sequence).stamp.load(Ordering::Acquire) as i64;
        match ahead.wrapping_sub(Self::published(sequence) as i64) {
            0 => Peek::Ready,
            ahead if ahead > 0 => Peek::Lapped,
            _ => Peek::NotYet,
        }
    }

    /// Returns where to continue after a sequence that is not published and never will be: it was given up, or
    /// overwritten by the next lap. Reads the head's cache line, so a reader calls it before it sleeps or every few
    /// empty looks.
    pub(crate) fn skip(&self, sequence: Sequence) -> Option<Sequence> {
        let head = self.head();
        if head <= sequence {
            return None;
        }
        if head - sequence > self.capacity() {
            return Some(self.resume(sequence));
        }
        self.is_given_up(sequence).then_some(sequence + 1)
    }

    /// Returns where a reader that was lapped at a sequence continues: a quarter of the retained events after the
    /// oldest, so that it is not lapped again immediately.
    pub(crate) fn resume(&self, lapped: Sequence) -> Sequence {
        let (head, capacity) = (self.head(), self.capacity());
        let lap = head.saturating_sub(capacity - capacity / 4);
        // No edge: any floor that was ever set will do.
        let floor = self.floor.load(Ordering::Relaxed);
        let kept = if floor > lapped { floor + head.saturating_sub(floor) / 4 } else { 0 };
        lap.max(kept).max(lapped + 1)
    }

    #[inline(always)]
    pub(super) fn read(&self, sequence: Sequence) -> SlotRead<C::Image> {
        let slot = self.slot(sequence);
        match self.peek(sequence) {
            Peek::NotYet => return SlotRead::NotYet,
            Peek::Lapped => return SlotRead::Lapped,
            Peek::Ready => {}
        }
        let image = load_image(|index| Self::word(slot, index));
        // E2.
        fence(Ordering::Acquire);
        let is_whole = slot.stamp.load(Ordering::Relaxed) == Self::published(sequence);
        // I8: a body that was released early is not there, whatever the stamp says.
        if is_whole && (!C::COUNTED || word_0(&image) != 0) {
            SlotRead::Image(image)
        } else {
            SlotRead::Lapped
        }
    }
}

impl<C: SlotCodec> Drop for Ring<C> {
    fn drop(&mut self) {
        if !C::COUNTED {
            return;
        }
        // `&mut self`: all that was written happened before.
        let word = |index| Self::word(self.slot(index), 0).load(Ordering::Relaxed);
        let owned = (0..self.capacity()).map(word).filter(|word| *word != 0);
        // SAFETY: I3: a slot's word 0 is 0 or holds a count; no other thread is left (`&mut self`).
        unsafe { C::release_all(owned) };
    }
}

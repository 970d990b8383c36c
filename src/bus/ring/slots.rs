//! One shard: slots, their stamps, and what is done about a publisher that was stopped between two of them.
//!
//! Imports `sync` and `barrier`. Always: I1 to I3 of the room.
#![allow(
    unsafe_code,
    reason = "slots without bounds checks, and what they own; the invariants are the room's"
)]

use std::marker::PhantomData;

use super::super::barrier::Fences;
use super::bytes::Bound;
use super::cargo::{Cargo, load_image, store_image, word_0};
use super::{AHEAD, Sequence, prefetch};
use crate::sync::atomic::{AtomicU64, Ordering, fence};
use crate::sync::{Padded, hint, thread};

/// Looks at a slot that another publisher holds before its sequence is given up: first spinning, then
/// yielding.
const WAIT_SPINS: u32 = if cfg!(loom) { 0 } else { 64 };
const WAIT_LOOKS: u32 = if cfg!(loom) { 1 } else { WAIT_SPINS + 64 };

const WORDS_A_LINE: usize = 8;

/// Eight words on a cache line.
#[repr(C, align(64))]
struct Line([AtomicU64; WORDS_A_LINE]);

impl Line {
    fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// Where one item's stamp and words are.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a> {
    pub(super) stamp: &'a AtomicU64,
    lines: &'a [Line],
}

/// A slot that is its publisher's to write.
#[derive(Clone, Copy)]
pub(super) struct Turn<'a> {
    slot: Slot<'a>,
    /// The sequence that it shows until then. Not always the lap before: laps between may have been given up.
    shown: Sequence,
}

/// What a slot held before it was overwritten, and the weight of what it holds now.
#[derive(Clone, Copy)]
pub(super) struct Filled {
    /// The sequence that it showed.
    pub(super) shown: Sequence,
    /// Its word 0: 0 where it owned nothing any more.
    pub(super) word: u64,
    /// What that weighed.
    pub(super) was: u64,
    /// What the new item weighs.
    pub(super) weight: u64,
}

/// What a reader found at a sequence.
pub(super) enum Found<I> {
    Image(I),
    NotYet,
    Lapped,
}

/// Whether a reader would find something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peek {
    Ready,
    NotYet,
    Lapped,
}

/// How a visit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The visitor had enough.
    Enough,
    /// The next sequence is not published yet.
    NotYet,
    /// The next sequence has been overwritten.
    Lapped,
}

/// One shard's slots.
pub(crate) struct Ring<C: Cargo> {
    pub(super) head: Padded<AtomicU64>,
    lines: Box<[Line]>,
    // One word a slot: 0, or the lap of the first sequence given up there (high half) and how many laps
    // running were (low half). Cleared by the publisher that proceeds past them.
    given_up: Box<[AtomicU64]>,
    /// Sequences given up so far.
    pub(super) holes: AtomicU64,
    /// What its items weigh, as far as publishers have settled it (see `bytes`). Wraps below zero for a moment.
    pub(super) weight: Padded<AtomicU64>,
    /// Below it items were let go of, where the bound asked for it.
    pub(super) floor: Padded<AtomicU64>,
    pub(super) bound: Bound,
    fences: Fences,
    /// The sequence that the ring began with; below it nothing was ever published here.
    first: Sequence,
    mask: u64,
    lap_shift: u32,
    cargo: PhantomData<C>,
}

impl<C: Cargo> Ring<C> {
    const WORDS: usize = size_of::<C::Image>().div_ceil(8);
    /// Lines a slot takes: the stamp and the words. Stamps in an array of their own, with the words of a
    /// 64-byte item on one line instead of two, were measured: a reader at the publisher's heels got half.
    const LINES: usize = (1 + Self::WORDS).div_ceil(WORDS_A_LINE);

    pub(super) fn new(capacity: usize, first: Sequence, bound: Bound, fences: Fences) -> Self {
        assert!(capacity.is_power_of_two(), "the builder checks it");
        // The sequence of the lap before that has this slot.
        let behind = |index: u64| index.wrapping_sub(first) & (capacity as u64 - 1);
        let stamp_before = |index: usize| {
            let next = first.wrapping_add(behind(index as u64));
            Self::published(next).wrapping_sub(2 * capacity as u64)
        };
        let lines = |count: usize| (0..count).map(|_| Line::new()).collect();
        let ring = Self {
            head: Padded(AtomicU64::new(first)),
            lines: lines(capacity * Self::LINES),
            given_up: (0..capacity).map(|_| AtomicU64::new(0)).collect(),
            holes: AtomicU64::new(0),
            weight: Padded(AtomicU64::new(0)),
            floor: Padded(AtomicU64::new(0)),
            bound,
            fences,
            first,
            mask: capacity as u64 - 1,
            lap_shift: capacity.trailing_zeros(),
            cargo: PhantomData,
        };
        for index in 0..capacity {
            // Nobody else has the ring yet.
            ring.slot(index as u64).stamp.store(stamp_before(index), Ordering::Relaxed);
        }
        ring
    }

    /// The stamp of a published sequence.
    #[inline(always)]
    pub(super) fn published(sequence: Sequence) -> u64 {
        sequence.wrapping_mul(2).wrapping_add(2)
    }

    /// The sequence that the ring began with. A reader must not stand below it (I7).
    #[inline(always)]
    pub(crate) fn first(&self) -> Sequence {
        self.first
    }

    /// The oldest sequence that may still be here.
    pub(crate) fn oldest(&self) -> Sequence {
        // No edge: what is below either is told as a gap by who finds it gone.
        let floor = self.floor.0.load(Ordering::Relaxed);
        self.head().saturating_sub(self.capacity()).max(self.first).max(floor)
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.mask + 1
    }

    /// The next sequence that will be claimed.
    pub(crate) fn head(&self) -> Sequence {
        // No edge: who acts on it looks at stamps. A reader that joins here misses nothing published after
        // it joined, because claims that follow in time follow in the head's own order.
        self.head.0.load(Ordering::Relaxed)
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
        &slot.lines[(index + 1) / WORDS_A_LINE].0[(index + 1) % WORDS_A_LINE]
    }

    /// The word that tells what a shared item weighs: the last.
    #[inline(always)]
    pub(super) fn weight_word(slot: Slot<'_>) -> &AtomicU64 {
        Self::word(slot, Self::WORDS - 1)
    }

    /// The slot of a claimed sequence, once it is this publisher's to write (I2); `None` where the sequence
    /// was given up.
    #[inline(always)]
    pub(super) fn open(&self, sequence: Sequence) -> Option<Turn<'_>> {
        for line in self.slot(sequence.wrapping_add(AHEAD)).lines {
            prefetch::for_writing(line);
        }
        let slot = self.slot(sequence);
        let shown = sequence.wrapping_sub(self.capacity());
        let before = Self::published(shown);
        // E3.
        if slot.stamp.load(Ordering::Acquire) == before {
            return Some(Turn { slot, shown });
        }
        self.open_slowly(sequence)
    }

    fn record(&self, sequence: Sequence) -> &AtomicU64 {
        &self.given_up[(sequence & self.mask) as usize]
    }

    /// The lap of a sequence, cut to the half word that the record has for it.
    fn lap(&self, sequence: Sequence) -> u32 {
        (sequence >> self.lap_shift) as u32
    }

    #[cold]
    fn open_slowly(&self, sequence: Sequence) -> Option<Turn<'_>> {
        let slot = self.slot(sequence);
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
                    return Some(Turn { slot, shown });
                }
                // All laps between were given up, so it is this one's turn, and the record has served.
                // Nobody else can change it: it could only grow by this lap.
                if count != 0 && first == after_shown && first.wrapping_add(count) == own {
                    self.record(sequence).store(0, Ordering::Release);
                    return Some(Turn { slot, shown });
                }
            }
            if looks >= WAIT_LOOKS && self.give_up(sequence, record) {
                // A statistic: no edge.
                self.holes.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            looks += 1;
            if looks <= WAIT_SPINS {
                hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }

    /// Notes that this sequence will never be published. False where the record has no room for it yet: a
    /// lap between is still undecided.
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

    /// Whether this sequence was claimed and given up.
    fn is_given_up(&self, sequence: Sequence) -> bool {
        // E9.
        let record = self.record(sequence).load(Ordering::Acquire);
        self.lap(sequence).wrapping_sub((record >> 32) as u32) < record as u32
    }

    /// Writes an opened slot and publishes it; answers what it held.
    #[inline(always)]
    pub(super) fn fill(&self, turn: Turn<'_>, sequence: Sequence, image: &C::Image) -> Filled {
        let slot = turn.slot;
        // E2. I2: ours since `open`, so nobody else writes it now, but for its word 0 (I8).
        slot.stamp.store(Self::published(sequence) - 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let (word, was) = if C::SHARED { self.take_over(turn) } else { (0, 0) };
        store_image(image, |index| Self::word(slot, index));
        Self::publish(slot, sequence);
        Filled { shown: turn.shown, word, was, weight: C::weight(image) }
    }

    /// Takes what a slot owns, behind its odd stamp: its word 0, and what that weighs.
    #[inline(always)]
    fn take_over(&self, turn: Turn<'_>) -> (u64, u64) {
        let word = Self::word(turn.slot, 0);
        let was = Self::weight_word(turn.slot).load(Ordering::Relaxed);
        if self.bound.is_set() {
            // E11.
            self.fences.light();
            if self.floor.0.load(Ordering::Relaxed) > turn.shown {
                // I8.
                return (word.swap(0, Ordering::Relaxed), was);
            }
        }
        (word.load(Ordering::Relaxed), was)
    }

    /// Shows a written slot to the readers.
    #[inline(always)]
    fn publish(slot: Slot<'_>, sequence: Sequence) {
        // E1, E3.
        slot.stamp.store(Self::published(sequence), Ordering::Release);
    }

    /// Whether a sequence can be read. Touches the slot's line only.
    #[inline(always)]
    pub(crate) fn peek(&self, sequence: Sequence) -> Peek {
        // E1, for who goes on to read.
        let ahead = self.slot(sequence).stamp.load(Ordering::Acquire) as i64;
        match ahead.wrapping_sub(Self::published(sequence) as i64) {
            0 => Peek::Ready,
            ahead if ahead > 0 => Peek::Lapped,
            _ => Peek::NotYet,
        }
    }

    /// Whether a sequence that is not published will never be: it was given up, or the ring has gone on by
    /// a lap. Answers where to go on. Looks at the head's line: for a reader about to sleep, or patient.
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

    /// Where a reader that was lapped at a sequence goes on: a quarter of what is there ahead of the oldest, so that
    /// it is not lapped again at once.
    pub(crate) fn resume(&self, lapped: Sequence) -> Sequence {
        let (head, capacity) = (self.head(), self.capacity());
        let lap = head.saturating_sub(capacity - capacity / 4);
        let floor = self.floor.0.load(Ordering::Relaxed);
        let kept = if floor > lapped { floor + head.saturating_sub(floor) / 4 } else { 0 };
        lap.max(kept).max(lapped + 1)
    }

    #[inline(always)]
    pub(super) fn read(&self, sequence: Sequence) -> Found<C::Image> {
        let slot = self.slot(sequence);
        match self.peek(sequence) {
            Peek::NotYet => return Found::NotYet,
            Peek::Lapped => return Found::Lapped,
            Peek::Ready => {}
        }
        let image = load_image(|index| Self::word(slot, index));
        // E2.
        fence(Ordering::Acquire);
        let is_whole = slot.stamp.load(Ordering::Relaxed) == Self::published(sequence);
        // I8: what was let go of is not there, whatever the stamp says.
        if is_whole && (!C::SHARED || word_0(&image) != 0) { Found::Image(image) } else { Found::Lapped }
    }
}

impl<C: Cargo> Drop for Ring<C> {
    fn drop(&mut self) {
        if !C::SHARED {
            return;
        }
        // `&mut self`: all that was written happened before.
        let word = |index| Self::word(self.slot(index), 0).load(Ordering::Relaxed);
        let owned = (0..self.capacity()).map(word).filter(|word| *word != 0);
        // SAFETY: I3: a slot's word 0 is 0 or holds a count; nobody else is left (`&mut self`).
        unsafe { C::release_all(owned) };
    }
}

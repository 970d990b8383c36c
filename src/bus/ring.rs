//! The ring: bounded, overwriting, many publishers, any number of readers. All `unsafe` of the crate.
//!
//! Imports `sync` and the eventcount (`park`). Nothing here knows what an event is: a [`Cargo`] says how an
//! item becomes the words of a slot.
//!
//! # Layout
//! ```text
//! Core ── rings (one a shard) ── head         next sequence to claim                    own line
//!  │                             slots        stamp | word 0 | word 1 ...               whole lines
//!  │                             given_up     one word a slot, written only in trouble
//!  ├──── seats (one a reader) ── pin          the run that its reader looks at          own line
//!  │                             bed          where its reader sleeps                   own line
//!  └──── orphans                 evicted bodies whose publisher is gone
//! ```
//! A slot's stamp says which sequence `s` it shows: `2s + 1` while that is written, `2s + 2` once it is
//! published. A new ring looks as if the lap before the first had been published. All words of a slot are
//! atomics, so a reader that is overtaken reads a mixture, not undefined behaviour, and rejects it at the
//! second look at the stamp.
//!
//! An item is carried in one of two ways: [`Plain`] copies it into the words; [`Shared`] keeps the count of
//! an `Arc` in word 0 (its *body*) and a copy of what readers ask most in the others.
//!
//! # Invariants
//! - I1 `slot(s)` is inside the ring: slots are a power of two, the index is masked.
//! - I2 A slot is written only by the publisher of the one sequence whose turn it is: the lap before was
//!   published, or all laps since the one published last were given up. Sequences are claimed once
//!   (`fetch_add`), a publisher gives up only its own, and never touches the slot afterwards.
//! - I3 Word 0 of a published slot of a shared cargo holds one count of its body. Overwriting moves that
//!   count to the evicting publisher's retired list.
//! - I4 A body on a retired list is released only after a fence behind its eviction, and a look at all
//!   pins that found none over its sequence.
//! - I5 A reader follows word 0 only of a slot whose stamp it found right *after* the fence behind its
//!   pin, and only while the pin stands.
//! - I6 Seats are only appended, and live as long as the core.
//!
//! # Orderings
//! - E1 publish: `stamp = even` (release) -> reader's first load of the stamp (acquire).
//! - E2 overwrite seen: `stamp = odd` (relaxed), release fence, words (relaxed) -> words (relaxed), acquire
//!   fence, second load of the stamp (relaxed). A reader that got one new word sees at least the odd stamp.
//! - E3 slot handed on: `stamp = even` (release) -> the next publisher's load (acquire): it overwrites, and
//!   takes the body of, a finished slot. The claim itself orders nothing (relaxed): it makes a sequence
//!   unique, which any read-modify-write does, and everything written under it is published by the stamp.
//! - E4 pin before body: pin, `SeqCst` fence, stamp -> (overwritten stamp), `SeqCst` fence, pins. Either the
//!   reader sees the overwritten stamp, or the reclaimer sees the pin. The same fences show the reclaimer
//!   every seat that could matter: it was appended and taken before the pin was set.
//! - E5 unpin: `pin = idle` or the next run (release) -> reclaimer's load of the pin (acquire): the last
//!   look at the body comes before its release.
//! - E6 sleep and E8 waker: see `park`.
//! - E7 seat handed on: `taken = false` (release) -> the next reader's exchange (acquire).
//! - E9 given up: the record (release) -> the record (acquire): who proceeds on it never meets the
//!   publisher that gave up, and a reader that skips on it skips what was claimed.
//! - E10 closed: the flag (release) -> reader's load (acquire): a reader that sees it sees all events.
//!
//! # What can wait
//! Readers never hold up a publisher. One step of `publish` can wait for another *publisher*: one that the
//! scheduler stopped between its two stamps while the others published a whole ring. After a bounded
//! number of yields the sequence is given up (I2) and a new one claimed; readers report the hole as a gap
//! of one. Only where a second publisher is stopped on the same slot, at the same step a lap later, are
//! those behind it held until it runs again. Everything else in `publish` is wait-free.
#![allow(unsafe_code, reason = "the one file that has any; see the invariants above")]

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

use bytemuck::{Pod, Zeroable};

use super::barrier::Fences;
use super::park::{Bed, Sleepers, Wake};
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};
use crate::sync::{Arc, Mutex, Padded, hint, lock, thread};

/// An event's number in its shard.
type Sequence = u64;

/// Sequences that one pin covers.
pub(crate) const RUN: u64 = if cfg!(loom) { 1 } else { 64 };

/// Evictions between two looks at the pins.
const RETIRED_MAX: usize = if cfg!(loom) { 1 } else { 128 };

/// Looks at a slot that another publisher holds before its sequence is given up: first spinning, then
/// yielding.
const WAIT_SPINS: u32 = if cfg!(loom) { 0 } else { 64 };
const WAIT_LOOKS: u32 = if cfg!(loom) { 1 } else { WAIT_SPINS + 64 };

const WORDS_A_LINE: usize = 8;
const SEATS_A_BLOCK: usize = if cfg!(loom) { 1 } else { 16 };

/// Words beside the body in a slot of a [`Shared`] cargo.
pub(crate) const HEADER_WORDS: usize = if cfg!(loom) { 1 } else { 6 };

/// A pin over nothing. No run begins here: its shard would be 65,535, which a core refuses.
const IDLE: u64 = u64::MAX;

/// A pin, and the name of a retired body: the shard above the low bits of the sequence. Cut sequences that
/// collide (2^48 events apart) only hold a body longer.
const SEQUENCE_BITS: u32 = 48;

/// The most shards a core can have.
pub(crate) const SHARDS_MAX: usize = 1024;

fn place_word(shard: usize, sequence: Sequence) -> u64 {
    (shard as u64) << SEQUENCE_BITS | sequence & ((1 << SEQUENCE_BITS) - 1)
}

/// Whether a body is in the run that a pin covers.
fn is_pinned(pin: u64, place: u64) -> bool {
    let same_shard = (pin ^ place) >> SEQUENCE_BITS == 0;
    same_shard && place.wrapping_sub(pin) & ((1 << SEQUENCE_BITS) - 1) < RUN
}

/// How items of one kind become the words of a slot, and are looked at there.
///
/// # Safety
/// `SHARED` is true exactly if word 0 of an image owns something that `release` gives back.
pub unsafe trait Cargo: Send + Sync + 'static {
    /// What is published.
    type Item: Clone + Send + Sync + 'static;
    /// What a slot holds.
    type Image: Pod;
    /// Whether word 0 owns something.
    const SHARED: bool;

    /// Gives the item up to an image.
    fn pack(item: Self::Item) -> Self::Image;

    /// Looks at the item of an image.
    ///
    /// # Safety
    /// The image came from `pack`, and has not been released.
    unsafe fn look<R>(image: &Self::Image, look: impl FnOnce(&Self::Item) -> R) -> R;

    /// Gives back what word 0 owns.
    ///
    /// # Safety
    /// The word came from `pack`, and is not used again.
    unsafe fn release(word: u64);
}

/// Items that are carried as they are.
#[derive(Debug)]
pub struct Plain<T>(PhantomData<T>);

// SAFETY: a copy owns nothing.
unsafe impl<T: Pod + Send + Sync> Cargo for Plain<T> {
    type Item = T;
    type Image = T;
    const SHARED: bool = false;

    #[inline(always)]
    fn pack(item: T) -> T {
        item
    }

    #[inline(always)]
    unsafe fn look<R>(image: &T, look: impl FnOnce(&T) -> R) -> R {
        look(image)
    }

    unsafe fn release(_: u64) {}
}

/// A handle of a counted body.
pub(crate) trait Handle: Clone + Send + Sync + 'static {
    /// What the handles share.
    type Body: Send + Sync + 'static;

    /// The count in this handle.
    fn into_arc(self) -> Arc<Self::Body>;
    /// The handle of a count.
    fn from_arc(body: Arc<Self::Body>) -> Self;
    /// A copy of what readers ask most, kept in the slot.
    fn header(&self) -> [u64; HEADER_WORDS];
}

/// Items whose body stays where it is.
#[derive(Debug)]
pub struct Shared<H>(PhantomData<H>);

// SAFETY: `pack` moves one count into word 0, `release` takes it out.
unsafe impl<H: Handle> Cargo for Shared<H> {
    type Item = H;
    type Image = [u64; 1 + HEADER_WORDS];
    const SHARED: bool = true;

    #[inline(always)]
    fn pack(item: H) -> Self::Image {
        let header = item.header();
        let mut image = [0; 1 + HEADER_WORDS];
        image[0] = Arc::into_raw(item.into_arc()).expose_provenance() as u64;
        image[1..].copy_from_slice(&header);
        image
    }

    #[inline(always)]
    unsafe fn look<R>(image: &Self::Image, look: impl FnOnce(&H) -> R) -> R {
        let body: *const H::Body = ptr::with_exposed_provenance(image[0] as usize);
        // SAFETY: by contract the count in word 0 stands, so the body lives. The handle made of it here is
        // never dropped, so that count is neither taken nor given back.
        let item = ManuallyDrop::new(H::from_arc(unsafe { Arc::from_raw(body) }));
        look(&item)
    }

    unsafe fn release(word: u64) {
        let body: *const H::Body = ptr::with_exposed_provenance(word as usize);
        // SAFETY: by contract the count in this word came from `pack`, and is taken once.
        drop(unsafe { Arc::from_raw(body) });
    }
}

/// Eight words on a cache line.
#[repr(C, align(64))]
struct Line([AtomicU64; WORDS_A_LINE]);

/// What a reader found at a sequence.
enum Found<I> {
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
    head: Padded<AtomicU64>,
    lines: Box<[Line]>,
    // One word a slot: 0, or the lap of the first sequence given up there (high half) and how many laps
    // running were (low half). Cleared by the publisher that proceeds past them.
    given_up: Box<[AtomicU64]>,
    /// Sequences given up so far.
    holes: AtomicU64,
    mask: u64,
    lap_shift: u32,
    cargo: PhantomData<C>,
}

impl<C: Cargo> Ring<C> {
    const WORDS: usize = size_of::<C::Image>().div_ceil(8);
    /// Lines a slot takes: the stamp and the words.
    const LINES: usize = (1 + Self::WORDS).div_ceil(WORDS_A_LINE);

    fn new(capacity: usize) -> Self {
        assert!(capacity.is_power_of_two(), "the builder checks it");
        let stamp_before = |index: usize| Self::published(index as u64).wrapping_sub(2 * capacity as u64);
        let lines = (0..capacity * Self::LINES).map(|line| {
            let stamp = if line % Self::LINES == 0 { stamp_before(line / Self::LINES) } else { 0 };
            Line(std::array::from_fn(|word| AtomicU64::new(if word == 0 { stamp } else { 0 })))
        });
        Self {
            head: Padded(AtomicU64::new(0)),
            lines: lines.collect(),
            given_up: (0..capacity).map(|_| AtomicU64::new(0)).collect(),
            holes: AtomicU64::new(0),
            mask: capacity as u64 - 1,
            lap_shift: capacity.trailing_zeros(),
            cargo: PhantomData,
        }
    }

    /// The stamp of a published sequence.
    #[inline(always)]
    fn published(sequence: Sequence) -> u64 {
        sequence.wrapping_mul(2).wrapping_add(2)
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
    fn slot(&self, sequence: Sequence) -> &[Line] {
        let first = (sequence & self.mask) as usize * Self::LINES;
        // SAFETY: I1: the masked index is below the capacity, and there are LINES lines for each.
        unsafe { self.lines.get_unchecked(first..first + Self::LINES) }
    }

    #[inline(always)]
    fn stamp(slot: &[Line]) -> &AtomicU64 {
        &slot[0].0[0]
    }

    #[inline(always)]
    fn word(slot: &[Line], index: usize) -> &AtomicU64 {
        &slot[(index + 1) / WORDS_A_LINE].0[(index + 1) % WORDS_A_LINE]
    }

    /// The slot of a claimed sequence, once it is this publisher's to write (I2); `None` where the sequence
    /// was given up.
    #[inline(always)]
    fn open(&self, sequence: Sequence) -> Option<&[Line]> {
        let slot = self.slot(sequence);
        let before = Self::published(sequence.wrapping_sub(self.capacity()));
        // E3.
        if Self::stamp(slot).load(Ordering::Acquire) == before {
            return Some(slot);
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
    fn open_slowly(&self, sequence: Sequence) -> Option<&[Line]> {
        let slot = self.slot(sequence);
        let mut looks = 0;
        loop {
            // E9, before the stamp: a record that is cleared meanwhile belongs to an older stamp.
            let record = self.record(sequence).load(Ordering::Acquire);
            // E3.
            let stamp = Self::stamp(slot).load(Ordering::Acquire);
            let (first, count) = ((record >> 32) as u32, record as u32);
            if stamp & 1 == 0 {
                let shown = (stamp / 2).wrapping_sub(1);
                let (shown, own) = (self.lap(shown), self.lap(sequence));
                let after_shown = shown.wrapping_add(1);
                if after_shown == own {
                    return Some(slot);
                }
                // All laps between were given up, so it is this one's turn, and the record has served.
                // Nobody else can change it: it could only grow by this lap.
                if count != 0 && first == after_shown && first.wrapping_add(count) == own {
                    self.record(sequence).store(0, Ordering::Release);
                    return Some(slot);
                }
            }
            if looks >= WAIT_LOOKS && self.give_up(sequence, record) {
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

    /// Writes an opened slot; answers its word 0 of the lap before.
    #[inline(always)]
    fn fill(slot: &[Line], sequence: Sequence, image: &C::Image) -> u64 {
        let published = Self::published(sequence);
        // I2: ours since `open`, so nobody else writes it now.
        let evicted = if C::SHARED { Self::word(slot, 0).load(Ordering::Relaxed) } else { 0 };
        // E2.
        Self::stamp(slot).store(published - 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let bytes = bytemuck::bytes_of(image);
        let whole = bytes.chunks_exact(8);
        let rest = whole.remainder();
        for (index, chunk) in whole.enumerate() {
            let word = u64::from_ne_bytes(chunk.try_into().expect("chunks of eight"));
            Self::word(slot, index).store(word, Ordering::Relaxed);
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            Self::word(slot, Self::WORDS - 1).store(u64::from_ne_bytes(word), Ordering::Relaxed);
        }
        // E1, E3.
        Self::stamp(slot).store(published, Ordering::Release);
        evicted
    }

    /// Whether a sequence can be read. Touches the slot's line only.
    #[inline(always)]
    pub(crate) fn peek(&self, sequence: Sequence) -> Peek {
        // E1, for who goes on to read.
        let ahead = Self::stamp(self.slot(sequence)).load(Ordering::Acquire) as i64;
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

    /// Where a reader that was lapped at a sequence goes on: a quarter of the ring ahead of the oldest slot,
    /// so that it is not lapped again at once.
    pub(crate) fn resume(&self, lapped: Sequence) -> Sequence {
        let capacity = self.capacity();
        self.head().saturating_sub(capacity - capacity / 4).max(lapped + 1)
    }

    #[inline(always)]
    fn read(&self, sequence: Sequence) -> Found<C::Image> {
        let slot = self.slot(sequence);
        match self.peek(sequence) {
            Peek::NotYet => return Found::NotYet,
            Peek::Lapped => return Found::Lapped,
            Peek::Ready => {}
        }
        let mut image = C::Image::zeroed();
        let mut whole = bytemuck::bytes_of_mut(&mut image).chunks_exact_mut(8);
        for (index, chunk) in whole.by_ref().enumerate() {
            chunk.copy_from_slice(&Self::word(slot, index).load(Ordering::Relaxed).to_ne_bytes());
        }
        let rest = whole.into_remainder();
        if !rest.is_empty() {
            let word = Self::word(slot, Self::WORDS - 1).load(Ordering::Relaxed).to_ne_bytes();
            rest.copy_from_slice(&word[..rest.len()]);
        }
        // E2.
        fence(Ordering::Acquire);
        if Self::stamp(slot).load(Ordering::Relaxed) == Self::published(sequence) {
            Found::Image(image)
        } else {
            Found::Lapped
        }
    }
}

impl<C: Cargo> Drop for Ring<C> {
    fn drop(&mut self) {
        if !C::SHARED {
            return;
        }
        for slot in self.lines.chunks(Self::LINES) {
            let word = Self::word(slot, 0).load(Ordering::Relaxed);
            if word != 0 {
                // SAFETY: I3: a slot's word 0 is 0 or holds a count; nobody else is left (`&mut self`).
                unsafe { C::release(word) };
            }
        }
    }
}

/// A reader's place in the registry.
struct Seat {
    taken: AtomicBool,
    pin: Padded<AtomicU64>,
    bed: Padded<Bed>,
}

impl Default for Seat {
    fn default() -> Self {
        Self { taken: AtomicBool::new(false), pin: Padded(AtomicU64::new(IDLE)), bed: Padded::default() }
    }
}

/// Seats; a list of blocks that only grows (I6).
struct Block {
    seats: [Seat; SEATS_A_BLOCK],
    next: AtomicPtr<Self>,
}

impl Block {
    fn new() -> Self {
        Self { seats: std::array::from_fn(|_| Seat::default()), next: AtomicPtr::new(ptr::null_mut()) }
    }

    fn next(&self) -> Option<&Self> {
        let next = self.next.load(Ordering::Acquire);
        // SAFETY: I6: null, or a block that was made whole before the exchange that published it (release
        // there, acquire here), and that is freed only with the first one.
        unsafe { next.as_ref() }
    }

    fn append(&self) -> &Self {
        let new = Box::into_raw(Box::new(Self::new()));
        match self.next.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: I6: now in the list.
            Ok(_) => unsafe { &*new },
            Err(other) => {
                // SAFETY: made above, and seen by nobody.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: I6: somebody else's block, in the list.
                unsafe { &*other }
            }
        }
    }

    fn take_seat(&self) -> &Seat {
        let mut block = self;
        loop {
            for seat in &block.seats {
                let free = !seat.taken.load(Ordering::Relaxed);
                // E7.
                if free
                    && seat.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
                {
                    return seat;
                }
            }
            block = block.next().unwrap_or_else(|| block.append());
        }
    }

    fn for_each(&self, mut f: impl FnMut(&Seat)) {
        let mut block = Some(self);
        while let Some(this) = block {
            this.seats.iter().for_each(&mut f);
            block = this.next();
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let next = self.next.load(Ordering::Relaxed);
        if !next.is_null() {
            // SAFETY: I6: blocks are owned by the one before; readers, which point at seats, hold the core.
            drop(unsafe { Box::from_raw(next) });
        }
    }
}

/// A body that was overwritten.
struct Evicted {
    place: u64,
    word: u64,
}

/// The rings of a bus, and all who read them.
pub(crate) struct Core<C: Cargo> {
    rings: Box<[Ring<C>]>,
    seats: Block,
    sleepers: Sleepers,
    orphans: Mutex<Vec<Evicted>>,
    released: AtomicU64,
    closed: AtomicBool,
}

impl<C: Cargo> Core<C> {
    /// `shards` rings of `capacity` slots each: a power of two. At most [`SHARDS_MAX`] shards.
    pub(crate) fn new(shards: usize, capacity: usize) -> Self {
        assert!((1..=SHARDS_MAX).contains(&shards), "the builder checks it");
        Self {
            rings: (0..shards).map(|_| Ring::new(capacity)).collect(),
            seats: Block::new(),
            sleepers: Sleepers::new(Fences::new()),
            orphans: Mutex::new(Vec::new()),
            released: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    #[inline(always)]
    pub(crate) fn rings(&self) -> &[Ring<C>] {
        &self.rings
    }

    pub(crate) fn wakes(&self) -> u64 {
        self.sleepers.wakes()
    }

    /// Items published and not released yet: those in the rings, and evicted ones that wait.
    pub(crate) fn live(&self) -> u64 {
        // Statistics: no edge.
        let holes = |ring: &Ring<C>| ring.holes.load(Ordering::Relaxed);
        let published: u64 = self.rings.iter().map(|ring| ring.head() - holes(ring)).sum();
        published.saturating_sub(self.released.load(Ordering::Relaxed))
    }

    /// Publishes an item that owns nothing. `place` gets the item and its sequence before anyone else can
    /// see it.
    #[inline]
    pub(crate) fn publish_plain(
        &self,
        shard: usize,
        item: C::Item,
        place: impl FnOnce(&C::Item, Sequence),
    ) -> Sequence {
        assert!(!C::SHARED, "what was evicted would leak");
        self.put(shard, item, place).0
    }

    /// Answers the item's sequence and word 0 of what it overwrote.
    #[inline(always)]
    fn put(&self, shard: usize, item: C::Item, place: impl FnOnce(&C::Item, Sequence)) -> (Sequence, u64) {
        let ring = &self.rings[shard];
        let (sequence, slot) = loop {
            // E3: relaxed.
            let sequence = ring.head.0.fetch_add(1, Ordering::Relaxed);
            if let Some(slot) = ring.open(sequence) {
                break (sequence, slot);
            }
        };
        place(&item, sequence);
        let evicted = Ring::<C>::fill(slot, sequence, &C::pack(item));
        self.notify();
        (sequence, evicted)
    }

    /// Wakes who sleeps. Behind every publication.
    #[inline(always)]
    pub(crate) fn notify(&self) {
        if self.sleepers.any() {
            self.wake_all();
        }
    }

    #[cold]
    fn wake_all(&self) {
        self.seats.for_each(|seat| self.sleepers.wake(&seat.bed.0));
    }

    /// Tells readers that nothing more will come.
    pub(crate) fn close(&self) {
        // E10.
        self.closed.store(true, Ordering::Release);
        self.notify();
    }

    /// Whether nothing more will come. What came before can be read by who sees true.
    pub(crate) fn is_closed(&self) -> bool {
        // E10.
        self.closed.load(Ordering::Acquire)
    }
}

impl<C: Cargo> Drop for Core<C> {
    fn drop(&mut self) {
        for evicted in lock(&self.orphans).drain(..) {
            // SAFETY: I3, I4: an evicted count that no list holds any more; no reader is left.
            unsafe { C::release(evicted.word) };
        }
    }
}

/// Publishes to the rings of a core, and keeps the bodies that it evicted until no reader looks at them: at
/// most [`RETIRED_MAX`], and [`RUN`] more for each reader that is stopped in the middle of a run.
pub(crate) struct Writer<C: Cargo> {
    core: Arc<Core<C>>,
    retired: Vec<Evicted>,
    full: usize,
}

impl<C: Cargo> Writer<C> {
    pub(crate) fn new(core: Arc<Core<C>>) -> Self {
        Self { core, retired: Vec::new(), full: RETIRED_MAX }
    }

    /// Publishes an item. `place` gets the item and its sequence before anyone else can see it.
    #[inline]
    pub(crate) fn publish(
        &mut self,
        shard: usize,
        item: C::Item,
        place: impl FnOnce(&C::Item, Sequence),
    ) -> Sequence {
        let (sequence, evicted) = self.core.put(shard, item, place);
        self.retire(shard, sequence, evicted);
        sequence
    }

    /// Publishes items that were made before, claiming once for all that fit a quarter of the ring. Answers
    /// the last one's sequence.
    pub(crate) fn publish_run(
        &mut self,
        shard: usize,
        mut items: impl ExactSizeIterator<Item = C::Item>,
        mut place: impl FnMut(&C::Item, Sequence),
    ) -> Option<Sequence> {
        let core = Arc::clone(&self.core);
        let ring = &core.rings[shard];
        let mut last = None;
        let (mut next, mut end) = (0, 0);
        while items.len() > 0 {
            if next == end {
                let count = (items.len() as u64).min((ring.capacity() / 4).max(1));
                // E3: relaxed.
                next = ring.head.0.fetch_add(count, Ordering::Relaxed);
                end = next + count;
            }
            let sequence = next;
            next += 1;
            let Some(slot) = ring.open(sequence) else { continue };
            let item = items.next().expect("its length is exact");
            place(&item, sequence);
            let evicted = Ring::<C>::fill(slot, sequence, &C::pack(item));
            self.retire(shard, sequence, evicted);
            last = Some(sequence);
        }
        core.notify();
        last
    }

    #[inline(always)]
    fn retire(&mut self, shard: usize, sequence: Sequence, word: u64) {
        // The first lap evicts nothing.
        if C::SHARED && word != 0 {
            let evicted = sequence.wrapping_sub(self.core.rings[shard].capacity());
            self.retired.push(Evicted { place: place_word(shard, evicted), word });
            if self.retired.len() >= self.full {
                self.reclaim();
            }
        }
    }

    /// Releases what no reader looks at.
    #[cold]
    pub(crate) fn reclaim(&mut self) {
        if let Ok(mut orphans) = self.core.orphans.try_lock() {
            self.retired.append(&mut orphans);
        }
        // E4: behind every eviction on the list: those of others came with the lock.
        fence(Ordering::SeqCst);
        let mut pins = Vec::new();
        self.core.seats.for_each(|seat| {
            // E5.
            let pin = seat.pin.0.load(Ordering::Acquire);
            if pin != IDLE {
                pins.push(pin);
            }
        });
        let before = self.retired.len();
        self.retired.retain(|evicted| {
            let held = pins.iter().any(|&pin| is_pinned(pin, evicted.place));
            if !held {
                // SAFETY: I3: the count came from the slot's word 0. I4: its eviction was before the fence,
                // no pin covers it behind the fence, so no reader holds it or can come to (E4), and those
                // that did are done (E5). It leaves the list, so it is released once.
                unsafe { C::release(evicted.word) };
            }
            held
        });
        let released = before - self.retired.len();
        self.core.released.fetch_add(released as u64, Ordering::Relaxed);
        self.full = self.retired.len() + RETIRED_MAX;
    }
}

impl<C: Cargo> Drop for Writer<C> {
    fn drop(&mut self) {
        if !self.retired.is_empty() {
            self.reclaim();
        }
        if !self.retired.is_empty() {
            lock(&self.core.orphans).append(&mut self.retired);
        }
    }
}

/// Reads the rings of a core: one seat.
pub(crate) struct Reader<C: Cargo> {
    core: Arc<Core<C>>,
    seat: NonNull<Seat>,
}

// SAFETY: the seat is shared memory made of `Sync` parts, kept alive by the core (I6); it is this reader's
// alone, whichever thread that is on. Items are looked at by reference (`Sync`) and cloned out (`Send`).
unsafe impl<C: Cargo> Send for Reader<C> {}
// SAFETY: as above; `&Reader` gives out nothing that changes the seat's owner.
unsafe impl<C: Cargo> Sync for Reader<C> {}

impl<C: Cargo> Reader<C> {
    pub(crate) fn new(core: Arc<Core<C>>) -> Self {
        let seat = NonNull::from(core.seats.take_seat());
        Self { core, seat }
    }

    pub(crate) fn core(&self) -> &Arc<Core<C>> {
        &self.core
    }

    fn seat(&self) -> &Seat {
        // SAFETY: I6: it lives as long as the core, which `self` holds.
        unsafe { self.seat.as_ref() }
    }

    /// Shows items to `visit`, from `*next` on, until it answers false, or there are no more, or a run is
    /// over. `*next` is moved past an item before it is shown.
    #[inline]
    pub(crate) fn visit(
        &mut self,
        shard: usize,
        next: &mut Sequence,
        mut visit: impl FnMut(&C::Item) -> bool,
    ) -> End {
        let ring = &self.core.rings[shard];
        if C::SHARED {
            // Without a pin: most looks find nothing.
            match ring.peek(*next) {
                Peek::NotYet => return End::NotYet,
                Peek::Lapped => return End::Lapped,
                Peek::Ready => {}
            }
        }
        let pinned = C::SHARED.then(|| Pinned::new(self.seat(), place_word(shard, *next)));
        let end = *next + RUN;
        let outcome = loop {
            if *next == end {
                break End::Enough;
            }
            match ring.read(*next) {
                Found::NotYet => break End::NotYet,
                Found::Lapped => break End::Lapped,
                Found::Image(image) => {
                    *next += 1;
                    // SAFETY: the stamp was right after the words were read, so the image is whole (E1, E2)
                    // and as packed. A body: the stamp was right behind the fence of our pin, which covers
                    // this sequence (I5), so it is not released before the pin is taken off (I4).
                    if !unsafe { C::look(&image, &mut visit) } {
                        break End::Enough;
                    }
                }
            }
        };
        drop(pinned);
        outcome
    }

    /// Announces that this reader goes to sleep. It must look once more, then sleep or not, and call
    /// [`Self::awake`].
    pub(crate) fn announce(&self, wake: Wake) {
        self.core.sleepers.announce(&self.seat().bed.0, wake);
    }

    /// Ends the announcement.
    pub(crate) fn awake(&self) {
        self.core.sleepers.cancel(&self.seat().bed.0);
    }
}

impl<C: Cargo> Drop for Reader<C> {
    fn drop(&mut self) {
        let seat = self.seat();
        self.core.sleepers.cancel(&seat.bed.0);
        // E7.
        seat.taken.store(false, Ordering::Release);
    }
}

/// A pin that stands until this is dropped, also by a visitor's panic.
struct Pinned<'a>(&'a AtomicU64);

impl<'a> Pinned<'a> {
    #[inline(always)]
    fn new(seat: &'a Seat, place: u64) -> Self {
        // E4. What a run before looked at was released from it by E5.
        seat.pin.0.store(place, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Self(&seat.pin.0)
    }
}

impl Drop for Pinned<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // E5.
        self.0.store(IDLE, Ordering::Release);
    }
}

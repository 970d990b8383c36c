//! The lossless ring: nothing is overwritten before every reader that gates the ring has passed it.
//!
//! No slot is read twice here: a slot between the slowest gate and the head is whole and stays so. After the LMAX
//! Disruptor: claim up to a lap after the slowest gate, publish, read in runs. A reader's gate is the `sequence` of its
//! [`Participant`], which the overwriting ring uses as a pin.
//!
//! # Invariants
//! - L1 Items lie in plain memory: L2 and L3 keep the writer and the readers of a cell apart.
//! - L2 A sequence `s` is claimed only when `s - capacity` was published and every gate is after it. So its publisher
//!   alone touches the slot until it publishes it.
//! - L3 A reader looks at `s` only when it was published and the reader's own gate is at most `s`.
//! - L4 Word 0 of a slot that was ever published owns a count, taken by the publisher that overwrites it or by the drop. The
//!   publisher releases it when it has published: the value's own code may panic, block or publish.
//!
//! # Orderings
//! - G1 publish: `stamp` (several publishers) or `head` (one) stored with release -> reader's acquire.
//! - G2 pass: a gate stored with release -> the publisher's acquire when it looks for the slowest; the result goes into
//!   `slowest` with release, for publishers that take it from there (acquire).
//! - G3 join: gate, `SeqCst` fence, head -> head, `SeqCst` fence, gates. A publisher that did not see the gate had read a
//!   head that the joiner's is not older than: what it may overwrite is before the joiner's place.
//! - G4 sleep: as E6, in both directions: readers sleep for events, publishers for space.
//! - G5 closed: the bit in the head, which ends claims, then the flag (release) -> reader's load (acquire): a reader
//!   that sees the flag sees the last head. With one publisher: the flag alone, stored after its last publication.
//! - G6 stage: a gate stored with release -> the acquire of a reader that follows it: what the first did with an item comes
//!   before the second sees it. A gate that left is idle, and its entry is not reused while it is followed.
#![allow(unsafe_code, reason = "looks at bodies and releases them; the invariants are above")]

use std::sync::Arc as Count;

use super::super::barrier::Fences;
use super::super::event_count::{EventCount, Wake};
use super::batch::{BATCH, Batch};
use super::cells::Cells;
use super::registry::{IDLE, Participant, Registry};
use super::slot_codec::{SlotCodec, word_0};
use super::{AHEAD, PIN_SPAN, Sequence, prefetch};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use crate::sync::{Arc, CachePadded};

/// Bit of the head of a closed ring with several publishers (G5).
const CLOSED: u64 = 1 << 63;

/// Maximum number of items that a reader without followers has looked at before its gate moves.
const RUN_MAX: u64 = 512;

/// A ring that fills up instead of overwriting.
pub(crate) struct Gated<C: SlotCodec> {
    /// Next sequence to be claimed; with one publisher: to be published.
    head: CachePadded<AtomicU64>,
    /// Slowest gate at the last look; no gate is before it.
    slowest: CachePadded<AtomicU64>,
    /// For each slot: the sequence that it shows, plus one. Unused with one publisher.
    stamps: Box<[AtomicU64]>,
    cells: Cells<C::Image>,
    solo: bool,
    closed: AtomicBool,
    readers: Registry,
    published: EventCount,
    /// Publishers that wait for space.
    publishers: Registry,
    passed: EventCount,
    /// Sleeping places of readers that follow others, which wake them.
    sleepers: Registry,
    staged: EventCount,
}

impl<C: SlotCodec> Gated<C> {
    /// Creates a ring of `capacity` slots, a power of two; `solo`: for one [`Claim`] at a time.
    pub(crate) fn new(capacity: usize, solo: bool) -> Self {
        let fences = Fences::new();
        Self {
            head: CachePadded::new(AtomicU64::new(0)),
            slowest: CachePadded::new(AtomicU64::new(0)),
            stamps: (0..if solo { 0 } else { capacity }).map(|_| AtomicU64::new(0)).collect(),
            cells: Cells::new(capacity),
            solo,
            closed: AtomicBool::new(false),
            readers: Registry::default(),
            published: EventCount::new(fences),
            publishers: Registry::default(),
            passed: EventCount::new(fences),
            sleepers: Registry::default(),
            staged: EventCount::new(fences),
        }
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.cells.count()
    }

    /// Returns the number of sequences claimed so far.
    pub(crate) fn head(&self) -> Sequence {
        // A statistic for callers outside; inside, the edges are named where the head is used.
        self.head.load(Ordering::Relaxed) & !CLOSED
    }

    pub(crate) fn wakes(&self) -> u64 {
        self.published.wakes() + self.passed.wakes() + self.staged.wakes()
    }

    #[inline(always)]
    fn stamp(&self, sequence: Sequence) -> &AtomicU64 {
        &self.stamps[sequence as usize & (self.stamps.len() - 1)]
    }

    /// Returns whether a sequence has been published.
    #[inline(always)]
    fn is_published(&self, sequence: Sequence) -> bool {
        if self.solo {
            // G1.
            self.head.load(Ordering::Acquire) > sequence
        } else {
            // G1.
            self.stamp(sequence).load(Ordering::Acquire) > sequence
        }
    }

    /// Returns the first sequence that may not be claimed: by the last look at the gates or, if that is not enough, by a
    /// new one.
    #[inline(always)]
    fn space_to(&self, head: Sequence) -> Sequence {
        // G2.
        let known = self.slowest.load(Ordering::Acquire);
        if head.wrapping_sub(known) < self.capacity() {
            return known + self.capacity();
        }
        self.find_space(head)
    }

    #[cold]
    fn find_space(&self, head: Sequence) -> Sequence {
        // G3.
        fence(Ordering::SeqCst);
        let mut slowest = head;
        self.readers.for_each(|participant| {
            // G2. An idle participant's gate is larger than any head.
            slowest = slowest.min(participant.sequence.load(Ordering::Acquire));
        });
        // G2. Another publisher may have found a later gate meanwhile; an earlier one only costs it another look.
        self.slowest.store(slowest, Ordering::Release);
        slowest + self.capacity()
    }

    /// Claims up to `count` sequences, and returns the first one and the number.
    #[inline(always)]
    fn claim(&self, count: u64) -> Option<(Sequence, u64)> {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            if head & CLOSED != 0 {
                return None;
            }
            let space = self.space_to(head).saturating_sub(head).min(count);
            // L2: a publisher of the lap before may have claimed and not published yet, if no gate waits for it.
            let lap = head.saturating_sub(self.capacity())..(head + space).saturating_sub(self.capacity());
            if space == 0 || !lap.into_iter().all(|last| self.is_published(last)) {
                return None;
            }
            // The claim itself orders nothing: it makes the sequences one publisher's.
            match self.head.compare_exchange_weak(head, head + space, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some((head, space)),
                Err(other) => head = other,
            }
        }
    }

    /// Writes a claimed slot (L2), and returns the word 0 that it held: 0 if it owned nothing.
    #[inline(always)]
    fn fill(&self, sequence: Sequence, image: &C::Image) -> u64 {
        let cell = self.cells.at(sequence);
        // Not masked, which costs more than the lap's last cells lose by it: a line after the ring's end is its spare.
        prefetch::for_writing(std::ptr::from_ref(cell).wrapping_add(AHEAD as usize));
        cell.with_mut(|place| {
            // SAFETY: L2: no other thread touches the cell until it is published; it holds a value since it was made.
            let place = unsafe { &mut *place };
            let owned = if C::COUNTED { word_0(place) } else { 0 };
            *place = *image;
            owned
        })
    }

    /// Releases what overwritten slots owned (L4).
    #[inline(always)]
    fn release(mut owned: impl Iterator<Item = u64>) {
        if C::COUNTED {
            // SAFETY: L4: each word was taken from a slot that is overwritten.
            unsafe { C::release_all(owned.by_ref().filter(|word| *word != 0)) };
        }
    }

    /// Publishes one item, or gives it back if there is no space.
    #[inline]
    pub(crate) fn try_publish(
        &self,
        item: C::Item,
        assign: impl FnOnce(&C::Item, Sequence),
    ) -> Result<Sequence, C::Item> {
        debug_assert!(!self.solo, "one publisher has its own claim");
        let Some((sequence, _)) = self.claim(1) else { return Err(item) };
        assign(&item, sequence);
        let owned = self.fill(sequence, &C::pack(item));
        // G1.
        self.stamp(sequence).store(sequence + 1, Ordering::Release);
        self.wake_readers();
        Self::release(std::iter::once(owned));
        Ok(sequence)
    }

    /// Publishes as many items of a batch as there is space for, claimed at once, and returns the last one's sequence.
    ///
    /// A batch holds items, and not the iterator that makes them: so no code but ours runs between claim and publication,
    /// and there is an item for each claimed sequence.
    pub(crate) fn try_publish_batch(
        &self,
        batch: &mut Batch<C::Item>,
        mut assign: impl FnMut(&C::Item, Sequence),
    ) -> Option<Sequence> {
        let (first, count) = self.claim((batch.len() as u64).min(self.capacity()))?;
        let mut owned = Batch::new();
        for (sequence, item) in (first..first + count).zip(batch.take_first(count as usize)) {
            assign(&item, sequence);
            let word = self.fill(sequence, &C::pack(item));
            // G1.
            self.stamp(sequence).store(sequence + 1, Ordering::Release);
            if C::COUNTED {
                owned.push(word);
            }
        }
        self.wake_readers();
        Self::release(owned.take());
        Some(first + count - 1)
    }

    #[inline(always)]
    fn wake_readers(&self) {
        // G4.
        if self.published.has_waiters() {
            Self::wake_all(&self.published, &self.readers);
        }
    }

    #[inline(always)]
    fn wake_publishers(&self) {
        // G4.
        if self.passed.has_waiters() {
            Self::wake_all(&self.passed, &self.publishers);
        }
    }

    #[inline(always)]
    fn wake_followers(&self) {
        // G4.
        if self.staged.has_waiters() {
            Self::wake_all(&self.staged, &self.sleepers);
        }
    }

    #[cold]
    fn wake_all(event_count: &EventCount, registry: &Registry) {
        registry.for_each(|participant| event_count.wake(&participant.waiter));
    }

    /// Ends claims, and wakes readers and publishers. Sequences claimed before may still be published.
    pub(crate) fn close(&self) {
        if !self.solo {
            // G5, by the flag; G4 for publishers that wait.
            self.head.fetch_or(CLOSED, Ordering::Relaxed);
        }
        // G5.
        self.closed.store(true, Ordering::Release);
        self.wake_readers();
        self.wake_publishers();
        self.wake_followers();
    }

    /// Returns whether nothing more will be claimed. A reader that sees true ends after it has reached the head.
    pub(crate) fn is_closed(&self) -> bool {
        // G5.
        self.closed.load(Ordering::Acquire)
    }

    /// Returns whether publishers are refused permanently. A ring with one publisher never refuses it.
    pub(crate) fn is_refusing(&self) -> bool {
        // No edge: the bit is in the word that claims change.
        self.head.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Returns whether a reader's gate leaves no space. If it does not, a publisher that found none only met another
    /// publisher in the middle of a publication.
    ///
    /// A closed ring is not full: a publisher that waits must try again, and is refused.
    pub(crate) fn is_full(&self) -> bool {
        let head = self.head.load(Ordering::Relaxed);
        if head & CLOSED != 0 {
            return false;
        }
        self.space_to(head) <= head && self.find_space(head) <= head
    }
}

impl<C: SlotCodec> Drop for Gated<C> {
    fn drop(&mut self) {
        if !C::COUNTED {
            return;
        }
        // SAFETY: no other thread is left (`&mut self`).
        let word = |sequence| self.cells.at(sequence).with(|place| word_0(unsafe { &*place }));
        Self::release((0..self.capacity()).map(word));
    }
}

/// The one publisher of a `solo` ring: claims with plain stores.
pub(crate) struct Claim {
    next: Sequence,
    space_to: Sequence,
}

impl Claim {
    /// Creates the claim of a new ring. There must be no other for the ring at any time.
    pub(crate) fn new<C: SlotCodec>(ring: &Gated<C>) -> Self {
        debug_assert!(ring.solo, "made for one publisher");
        Self { next: ring.head(), space_to: ring.capacity() }
    }

    /// Returns the next sequence.
    pub(crate) fn next(&self) -> Sequence {
        self.next
    }

    /// Publishes one item, or gives it back if there is no space.
    #[inline]
    pub(crate) fn try_publish<C: SlotCodec>(
        &mut self,
        ring: &Gated<C>,
        item: C::Item,
        assign: impl FnOnce(&C::Item, Sequence),
    ) -> Result<Sequence, C::Item> {
        if self.next == self.space_to {
            self.space_to = ring.find_space(self.next);
            if self.next == self.space_to {
                return Err(item);
            }
        }
        let sequence = self.next;
        assign(&item, sequence);
        let owned = ring.fill(sequence, &C::pack(item));
        self.next += 1;
        // G1.
        ring.head.store(self.next, Ordering::Release);
        ring.wake_readers();
        Gated::<C>::release(std::iter::once(owned));
        Ok(sequence)
    }

    /// Publishes items that own nothing, as many as there is space for and at most a batch, and returns their number and whether
    /// the iterator ended. They are written where they belong, and are seen when the iterator has given the last of them. If it
    /// panics, none of them is published, and their cells are written again.
    #[inline]
    pub(crate) fn try_publish_from<C: SlotCodec>(
        &mut self,
        ring: &Gated<C>,
        items: &mut impl Iterator<Item = C::Item>,
        mut assign: impl FnMut(&C::Item, Sequence),
    ) -> (u64, bool) {
        assert!(!C::COUNTED, "what is overwritten would leak");
        if self.space_to - self.next < BATCH as u64 {
            self.space_to = ring.find_space(self.next);
        }
        let (first, end) = (self.next, self.space_to.min(self.next + BATCH as u64));
        let (mut next, mut is_over) = (first, false);
        while next < end {
            let Some(item) = items.next() else {
                is_over = true;
                break;
            };
            assign(&item, next);
            ring.fill(next, &C::pack(item));
            next += 1;
        }
        if next > first {
            self.next = next;
            // G1.
            ring.head.store(next, Ordering::Release);
            ring.wake_readers();
        }
        (next - first, is_over)
    }

    /// Does the same as [`Gated::try_publish_batch`].
    pub(crate) fn try_publish_batch<C: SlotCodec>(
        &mut self,
        ring: &Gated<C>,
        batch: &mut Batch<C::Item>,
        mut assign: impl FnMut(&C::Item, Sequence),
    ) -> Option<Sequence> {
        let wanted = batch.len() as u64;
        if self.space_to - self.next < wanted {
            self.space_to = ring.find_space(self.next);
        }
        let count = wanted.min(self.space_to - self.next);
        if count == 0 {
            return None;
        }
        let mut owned = Batch::new();
        for (sequence, item) in (self.next..self.next + count).zip(batch.take_first(count as usize)) {
            assign(&item, sequence);
            let word = ring.fill(sequence, &C::pack(item));
            if C::COUNTED {
                owned.push(word);
            }
        }
        self.next += count;
        // G1.
        ring.head.store(self.next, Ordering::Release);
        ring.wake_readers();
        Gated::<C>::release(owned.take());
        Some(self.next - 1)
    }
}

/// Place of a reader that looks at items. It is kept when the visitor panics, without a store for each item.
struct Place<'a> {
    next: &'a mut Sequence,
    at: Sequence,
}

impl Drop for Place<'_> {
    #[inline]
    fn drop(&mut self) {
        *self.next = self.at;
    }
}

/// A reader that gates the ring: items that it has not passed are not overwritten.
pub(crate) struct GatedReader<C: SlotCodec> {
    ring: Arc<Gated<C>>,
    participant: Count<Participant>,
    next: Sequence,
    /// Items before this were available at the last look: published, and passed by the readers that it follows. Not
    /// used with several publishers and no followed reader: then the stamps decide.
    known: Sequence,
    /// Place of the gate.
    passed: Sequence,
    is_done: bool,
    /// Readers that this one follows: it sees an item when all of them have passed it.
    after: Box<[Count<Participant>]>,
    /// Sleeping place of this reader while it follows others.
    sleeper: Option<Count<Participant>>,
}

impl<C: SlotCodec> GatedReader<C> {
    /// Joins after the newest item.
    pub(crate) fn new(ring: Arc<Gated<C>>) -> Self {
        let participant = ring.readers.register();
        let gate = ring.head();
        // G3.
        participant.sequence.store(gate, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // G3. With one publisher also G1: items before it are whole.
        let next = ring.head.load(Ordering::Acquire) & !CLOSED;
        // G2: no item was looked at.
        participant.sequence.store(next, Ordering::Release);
        let after = Box::default();
        Self { ring, participant, next, known: next, passed: next, is_done: true, after, sleeper: None }
    }

    /// Joins after the newest item, and follows these readers of the same ring: it sees an item after they have passed
    /// it.
    pub(crate) fn following(ring: Arc<Gated<C>>, others: &[&Self]) -> Self {
        let follow = |other: &&Self| {
            debug_assert!(Arc::ptr_eq(&other.ring, &ring), "the caller checks it");
            // Relaxed, by G6: `others` are borrowed, so the owner exists, and whatever ends the borrow orders this
            // before its drop.
            other.participant.followers.fetch_add(1, Ordering::Relaxed);
            Count::clone(&other.participant)
        };
        let after: Box<[_]> = others.iter().map(follow).collect();
        let sleeper = (!after.is_empty()).then(|| ring.sleepers.register());
        let mut reader = Self::new(ring);
        (reader.after, reader.sleeper) = (after, sleeper);
        reader
    }

    /// Returns the first sequence that one of the followed readers has not passed; `IDLE` if it follows none.
    #[inline(always)]
    fn limit(&self) -> Sequence {
        // G6.
        self.after.iter().map(|other| other.sequence.load(Ordering::Acquire)).min().unwrap_or(IDLE)
    }

    /// Returns whether other readers follow this one.
    #[inline(always)]
    pub(crate) fn is_followed(&self) -> bool {
        // No edge: a follower that comes later begins later.
        self.participant.followers.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn ring(&self) -> &Arc<Gated<C>> {
        &self.ring
    }

    pub(crate) fn next(&self) -> Sequence {
        self.next
    }

    /// Returns whether there is an item to look at.
    #[inline]
    pub(crate) fn has_next(&self) -> bool {
        self.next < self.known
            || match self.limit() {
                IDLE => self.ring.is_published(self.next),
                limit => self.next < limit,
            }
    }

    /// Returns whether the next look takes a line that publishers write: the reader follows no other, and has read all
    /// items that it knows of.
    #[inline]
    pub(crate) fn looks_at_publishers(&self) -> bool {
        self.after.is_empty() && self.next >= self.known
    }

    /// Returns the sequence before which items can be looked at, by a new look at the head or at gates if the last one
    /// is used up. `None`: each item's stamp decides.
    #[inline(always)]
    fn known_to(&mut self) -> Option<Sequence> {
        if self.next >= self.known {
            self.known = match self.limit() {
                // G1.
                IDLE if self.ring.solo => self.ring.head.load(Ordering::Acquire),
                IDLE => return None,
                limit => limit,
            };
        }
        Some(self.known)
    }

    /// Shows items in order until `visit` returns false, there are no more, or a run is over, and returns whether any was
    /// shown. The gate moves when the run is over.
    #[inline]
    pub(crate) fn visit(&mut self, visit: impl FnMut(&C::Item) -> bool) -> bool {
        let any = self.look(visit);
        if any {
            self.pass_if_due();
        }
        any
    }

    /// Shows items as [`Self::visit`] does, for a caller that uses them after the call: a reader that is followed has passed them
    /// when it comes again.
    #[inline]
    pub(crate) fn hand_out(&mut self, visit: impl FnMut(&C::Item) -> bool) -> bool {
        if !self.is_followed() {
            return self.visit(visit);
        }
        self.pass();
        self.look(visit)
    }

    /// Shows items as [`Self::visit`] does, and leaves the gate where it is.
    #[inline]
    pub(crate) fn look(&mut self, visit: impl FnMut(&C::Item) -> bool) -> bool {
        self.look_at(PIN_SPAN, visit) > 0
    }

    /// Shows at most `most` items, as [`Self::look`] does, and returns their number.
    #[inline]
    pub(crate) fn look_at(&mut self, most: u64, mut visit: impl FnMut(&C::Item) -> bool) -> u64 {
        let known = self.known_to();
        let Self { ring, next, .. } = self;
        let ring = &**ring;
        let first = *next;
        let end = (first + most.min(PIN_SPAN)).min(known.unwrap_or(IDLE));
        // A visitor that panics leaves the gate where it was; the next call moves it.
        let mut place = Place { next, at: first };
        while place.at < end && (known.is_some() || ring.is_published(place.at)) {
            let sequence = place.at;
            place.at += 1;
            // SAFETY: L3: published, as packed, and our gate holds it until we move it.
            if !ring.cells.at(sequence).with(|item| unsafe { C::with_item(&*item, &mut visit) }) {
                break;
            }
        }
        let at = place.at;
        drop(place);
        // Judged by the last look: another look at a head or a gate that is being written would slow both threads.
        self.is_done = known.map_or_else(|| !ring.is_published(at), |known| at >= known);
        at - first
    }

    /// Moves the gate after a run, and when all is read. A move per item would cost the publisher a cache line each
    /// time.
    ///
    /// A publisher that is as fast as its readers looks at every gate as often as the slowest one moves, so a reader that
    /// no other follows lets 1/16 of a large ring become free at once. Followers see a run sooner.
    #[inline]
    pub(crate) fn pass_if_due(&mut self) {
        let capacity = self.ring.capacity();
        let mut run = PIN_SPAN.min((capacity / 4).max(1));
        if !self.is_followed() {
            run = run.max((capacity / 16).min(RUN_MAX));
        }
        if self.next - self.passed >= run || self.is_done {
            self.pass();
        }
    }

    /// Returns whether the ring is closed and everything was looked at.
    pub(crate) fn is_over(&self) -> bool {
        // G5: the head after the flag.
        self.ring.is_closed() && self.next >= self.ring.head()
    }

    /// Returns whether the last visit reached the end of the available items.
    pub(crate) fn reached_end(&self) -> bool {
        self.is_done
    }

    /// Lets publishers overwrite what was looked at.
    pub(crate) fn pass(&mut self) {
        if self.passed != self.next {
            self.passed = self.next;
            // G2.
            self.participant.sequence.store(self.next, Ordering::Release);
            self.ring.wake_publishers();
            if self.is_followed() {
                self.ring.wake_followers();
            }
        }
    }

    /// Announces a sleep. The reader must look once more, then sleep or not, and call [`Self::cancel_wait`].
    pub(crate) fn prepare_wait(&self, wake: Wake) {
        if let Some(sleeper) = self.sleeper.as_ref().filter(|_| self.limit() != IDLE) {
            self.ring.staged.prepare_wait(&sleeper.waiter, wake.clone());
            if self.limit() != IDLE {
                return;
            }
            // The last reader that this one followed has left, perhaps before the announcement: publishers wake this
            // one from now on.
            self.ring.staged.cancel_wait(&sleeper.waiter);
        }
        self.ring.published.prepare_wait(&self.participant.waiter, wake);
    }

    pub(crate) fn cancel_wait(&self) {
        if let Some(sleeper) = &self.sleeper {
            self.ring.staged.cancel_wait(&sleeper.waiter);
        }
        self.ring.published.cancel_wait(&self.participant.waiter);
    }
}

impl<C: SlotCodec> Drop for GatedReader<C> {
    fn drop(&mut self) {
        self.cancel_wait();
        // G2: this gate no longer holds any publisher.
        self.participant.sequence.store(IDLE, Ordering::Release);
        self.ring.wake_publishers();
        if self.is_followed() {
            self.ring.wake_followers();
        }
        self.participant.release();
        for other in &self.after {
            // G6.
            other.followers.fetch_sub(1, Ordering::Release);
        }
        if let Some(sleeper) = self.sleeper.take() {
            sleeper.release();
        }
    }
}

/// A publisher's announcement that it waits for space; withdrawn when it is dropped.
pub(crate) struct SpaceWaiter<C: SlotCodec> {
    ring: Arc<Gated<C>>,
    participant: Count<Participant>,
}

impl<C: SlotCodec> SpaceWaiter<C> {
    /// Announces that a publisher waits for space. It must try once more, then sleep or not.
    pub(crate) fn new(ring: &Arc<Gated<C>>, wake: Wake) -> Self {
        let participant = ring.publishers.register();
        ring.passed.prepare_wait(&participant.waiter, wake);
        Self { ring: Arc::clone(ring), participant }
    }
}

impl<C: SlotCodec> Drop for SpaceWaiter<C> {
    fn drop(&mut self) {
        self.ring.passed.cancel_wait(&self.participant.waiter);
        self.participant.release();
    }
}

//! The lossless ring: nothing is overwritten before every reader that gates it has passed it.
//!
//! Imports `sync`, `barrier` and `park`. Nothing is read twice here: a slot between the slowest gate and the
//! head is whole and stays so. After the LMAX Disruptor: claim behind the slowest gate, publish, read in runs.
//!
//! # Invariants
//! - L1 Items lie in plain memory: L2 and L3 keep who writes a cell and who reads it apart.
//! - L2 A sequence `s` is claimed only when `s - capacity` was published and every gate stands behind it.
//!   So its publisher alone touches the slot until it publishes it.
//! - L3 A reader looks at `s` only when it was published and its own gate is at most `s`.
//! - L4 Word 0 of a slot that was ever published owns a count, taken by who overwrites it or by the drop.
//!
//! # Orderings
//! - G1 publish: `stamp` (several publishers) or `head` (one) stored with release -> reader's acquire.
//! - G2 pass: a gate stored with release -> the publisher's acquire when it looks for the slowest; that goes
//!   into `slowest` with release, for publishers that take it from there (acquire).
//! - G3 join: gate, `SeqCst` fence, head -> head, `SeqCst` fence, gates. A publisher that did not see the
//!   gate had read a head that the joiner's is not older than: what it may overwrite is behind the joiner.
//! - G4 sleep: as E6, in both directions: readers sleep for events, publishers for room.
//! - G5 closed: as E10.
#![allow(unsafe_code, reason = "looks at bodies and releases them; the invariants are above")]

use std::sync::Arc as Count;

use super::super::barrier::Fences;
use super::super::park::{Bed, Sleepers, Wake};
use super::batch::Batch;
use super::cargo::{Cargo, word_0};
use super::cells::Cells;
use super::seats::{IDLE, Seat, Seats};
use super::{AHEAD, RUN, Sequence, prefetch};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use crate::sync::{Arc, Padded};

/// A ring that fills up instead of overwriting.
pub(crate) struct Gated<C: Cargo> {
    /// The next sequence to be claimed; with one publisher: to be published.
    head: Padded<AtomicU64>,
    /// Where the slowest gate stood when somebody looked; no gate is behind it.
    slowest: Padded<AtomicU64>,
    /// By slot: the sequence it shows, plus one. Unused with one publisher.
    stamps: Box<[AtomicU64]>,
    cells: Cells<C::Image>,
    solo: bool,
    closed: AtomicBool,
    seats: Seats,
    readers: Sleepers,
    /// Publishers that wait for room.
    beds: Seats,
    publishers: Sleepers,
}

impl<C: Cargo> Gated<C> {
    /// A ring of `capacity` slots, a power of two; `solo`: for one [`Claim`] at a time.
    pub(crate) fn new(capacity: usize, solo: bool) -> Self {
        let fences = Fences::new();
        Self {
            head: Padded(AtomicU64::new(0)),
            slowest: Padded(AtomicU64::new(0)),
            stamps: (0..if solo { 0 } else { capacity }).map(|_| AtomicU64::new(0)).collect(),
            cells: Cells::new(capacity),
            solo,
            closed: AtomicBool::new(false),
            seats: Seats::default(),
            readers: Sleepers::new(fences),
            beds: Seats::default(),
            publishers: Sleepers::new(fences),
        }
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.cells.count()
    }

    /// How many were claimed so far.
    pub(crate) fn head(&self) -> Sequence {
        // A statistic for who asks from outside; inside, the edges are named where it is used.
        self.head.0.load(Ordering::Relaxed)
    }

    pub(crate) fn wakes(&self) -> u64 {
        self.readers.wakes() + self.publishers.wakes()
    }

    #[inline(always)]
    fn stamp(&self, sequence: Sequence) -> &AtomicU64 {
        &self.stamps[sequence as usize & (self.stamps.len() - 1)]
    }

    /// Whether `s` has been published.
    #[inline(always)]
    fn is_published(&self, sequence: Sequence) -> bool {
        if self.solo {
            // G1.
            self.head.0.load(Ordering::Acquire) > sequence
        } else {
            // G1.
            self.stamp(sequence).load(Ordering::Acquire) > sequence
        }
    }

    /// The first sequence that may not be claimed, as far as was known or, where `known` is not enough, is.
    #[inline(always)]
    fn room_to(&self, head: Sequence) -> Sequence {
        // G2.
        let known = self.slowest.0.load(Ordering::Acquire);
        if head.wrapping_sub(known) < self.capacity() {
            return known + self.capacity();
        }
        self.look_for_room(head)
    }

    #[cold]
    fn look_for_room(&self, head: Sequence) -> Sequence {
        // G3.
        fence(Ordering::SeqCst);
        let mut slowest = head;
        self.seats.for_each(|seat| {
            // G2. An idle seat's gate is larger than any head.
            slowest = slowest.min(seat.pin.0.load(Ordering::Acquire));
        });
        // Others may have found a later one meanwhile; an earlier one only costs them another look.
        // G2.
        self.slowest.0.store(slowest, Ordering::Release);
        slowest + self.capacity()
    }

    /// Claims up to `count` sequences: the first, and how many.
    #[inline(always)]
    fn claim(&self, count: u64) -> Option<(Sequence, u64)> {
        let mut head = self.head.0.load(Ordering::Relaxed);
        loop {
            let room = self.room_to(head).saturating_sub(head).min(count);
            // L2: a publisher a lap behind may have claimed and not published yet, where no gate waits for it.
            let lap = head.saturating_sub(self.capacity())..(head + room).saturating_sub(self.capacity());
            if room == 0 || !lap.into_iter().all(|last| self.is_published(last)) {
                return None;
            }
            // The claim itself orders nothing: it makes the sequences one publisher's.
            match self.head.0.compare_exchange_weak(head, head + room, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some((head, room)),
                Err(other) => head = other,
            }
        }
    }

    /// Writes a claimed slot (L2).
    #[inline(always)]
    fn fill(&self, sequence: Sequence, image: &C::Image) {
        prefetch::for_writing(self.cells.at(sequence.wrapping_add(AHEAD)));
        self.cells.at(sequence).with_mut(|place| {
            // SAFETY: L2: nobody else touches the cell until it is published; it holds a value since it was made.
            let place = unsafe { &mut *place };
            if C::SHARED && word_0(place) != 0 {
                // SAFETY: L4: the cell owned it, and is overwritten.
                unsafe { C::release_all(std::iter::once(word_0(place))) };
            }
            *place = *image;
        });
    }

    /// Publishes one item, or gives it back where there is no room.
    #[inline]
    pub(crate) fn try_publish(
        &self,
        item: C::Item,
        place: impl FnOnce(&C::Item, Sequence),
    ) -> Result<Sequence, C::Item> {
        debug_assert!(!self.solo, "one publisher has its own claim");
        let Some((sequence, _)) = self.claim(1) else { return Err(item) };
        place(&item, sequence);
        self.fill(sequence, &C::pack(item));
        // G1.
        self.stamp(sequence).store(sequence + 1, Ordering::Release);
        self.wake_readers();
        Ok(sequence)
    }

    /// Publishes as many of a batch as there is room for, claimed at once. Answers the last one's sequence.
    ///
    /// A batch holds items, and nothing that makes them: so no code but ours runs between claim and publication, and
    /// there are as many as were claimed for.
    pub(crate) fn try_publish_run(
        &self,
        batch: &mut Batch<C::Item>,
        mut place: impl FnMut(&C::Item, Sequence),
    ) -> Option<Sequence> {
        let (first, count) = self.claim((batch.len() as u64).min(self.capacity()))?;
        for (sequence, item) in (first..first + count).zip(batch.take_first(count as usize)) {
            place(&item, sequence);
            self.fill(sequence, &C::pack(item));
            // G1.
            self.stamp(sequence).store(sequence + 1, Ordering::Release);
        }
        self.wake_readers();
        Some(first + count - 1)
    }

    #[inline(always)]
    fn wake_readers(&self) {
        // G4.
        if self.readers.any() {
            Self::wake_all(&self.readers, &self.seats);
        }
    }

    #[inline(always)]
    fn wake_publishers(&self) {
        // G4.
        if self.publishers.any() {
            Self::wake_all(&self.publishers, &self.beds);
        }
    }

    #[cold]
    fn wake_all(sleepers: &Sleepers, seats: &Seats) {
        seats.for_each(|seat| sleepers.wake(&seat.bed.0));
    }

    /// Tells readers that nothing more will come.
    pub(crate) fn close(&self) {
        // G5.
        self.closed.store(true, Ordering::Release);
        self.wake_readers();
    }

    /// Whether nothing more will come.
    pub(crate) fn is_closed(&self) -> bool {
        // G5.
        self.closed.load(Ordering::Acquire)
    }

    /// Whether a gate holds the publishers. If not, one that found no room only met another that is just
    /// publishing.
    pub(crate) fn is_full(&self) -> bool {
        let head = self.head.0.load(Ordering::Relaxed);
        self.room_to(head) <= head && self.look_for_room(head) <= head
    }
}

impl<C: Cargo> Drop for Gated<C> {
    fn drop(&mut self) {
        if !C::SHARED {
            return;
        }
        for sequence in 0..self.capacity() {
            // SAFETY: nobody else is left (`&mut self`).
            let word = self.cells.at(sequence).with(|place| word_0(unsafe { &*place }));
            if word != 0 {
                // SAFETY: L4.
                unsafe { C::release_all(std::iter::once(word)) };
            }
        }
    }
}

/// The one publisher of a `solo` ring: claims with plain stores.
pub(crate) struct Claim {
    next: Sequence,
    room_to: Sequence,
}

impl Claim {
    /// For a new ring. There must be no other for it at any time.
    pub(crate) fn new<C: Cargo>(ring: &Gated<C>) -> Self {
        debug_assert!(ring.solo, "made for one publisher");
        Self { next: ring.head(), room_to: ring.capacity() }
    }

    /// Publishes one item, or gives it back where there is no room.
    #[inline]
    pub(crate) fn try_publish<C: Cargo>(
        &mut self,
        ring: &Gated<C>,
        item: C::Item,
        place: impl FnOnce(&C::Item, Sequence),
    ) -> Result<Sequence, C::Item> {
        if self.next == self.room_to {
            self.room_to = ring.look_for_room(self.next);
            if self.next == self.room_to {
                return Err(item);
            }
        }
        let sequence = self.next;
        place(&item, sequence);
        ring.fill(sequence, &C::pack(item));
        self.next += 1;
        // G1.
        ring.head.0.store(self.next, Ordering::Release);
        ring.wake_readers();
        Ok(sequence)
    }

    /// As [`Gated::try_publish_run`].
    pub(crate) fn try_publish_run<C: Cargo>(
        &mut self,
        ring: &Gated<C>,
        batch: &mut Batch<C::Item>,
        mut place: impl FnMut(&C::Item, Sequence),
    ) -> Option<Sequence> {
        let wanted = batch.len() as u64;
        if self.room_to - self.next < wanted {
            self.room_to = ring.look_for_room(self.next);
        }
        let count = wanted.min(self.room_to - self.next);
        if count == 0 {
            return None;
        }
        for (sequence, item) in (self.next..self.next + count).zip(batch.take_first(count as usize)) {
            place(&item, sequence);
            ring.fill(sequence, &C::pack(item));
        }
        self.next += count;
        // G1.
        ring.head.0.store(self.next, Ordering::Release);
        ring.wake_readers();
        Some(self.next - 1)
    }
}

/// A reader that gates the ring: what it has not passed is not overwritten.
pub(crate) struct GatedReader<C: Cargo> {
    ring: Arc<Gated<C>>,
    seat: Count<Seat>,
    next: Sequence,
    /// With one publisher: what was published when it looked last.
    known: Sequence,
    /// Where its gate stands.
    passed: Sequence,
    is_done: bool,
}

impl<C: Cargo> GatedReader<C> {
    /// Joins behind the newest item.
    pub(crate) fn new(ring: Arc<Gated<C>>) -> Self {
        let seat = ring.seats.take();
        let gate = ring.head.0.load(Ordering::Relaxed);
        // G3.
        seat.pin.0.store(gate, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // G3. With one publisher also G1: what is behind is whole.
        let next = ring.head.0.load(Ordering::Acquire);
        // G2: nothing was looked at.
        seat.pin.0.store(next, Ordering::Release);
        Self { ring, seat, next, known: next, passed: next, is_done: true }
    }

    pub(crate) fn ring(&self) -> &Arc<Gated<C>> {
        &self.ring
    }

    pub(crate) fn next(&self) -> Sequence {
        self.next
    }

    /// Whether there is something to look at.
    #[inline]
    pub(crate) fn has_next(&self) -> bool {
        self.next < self.known || self.ring.is_published(self.next)
    }

    /// Shows items in order until `visit` answers false, there are no more, or a run is over. Answers whether
    /// any was shown. The gate moves when the run is over.
    #[inline]
    pub(crate) fn visit(&mut self, mut visit: impl FnMut(&C::Item) -> bool) -> bool {
        let first = self.next;
        // A visitor that panics leaves the gate where it was; the next call moves it.
        let mut end = first + RUN;
        if self.ring.solo {
            if self.next == self.known {
                // G1.
                self.known = self.ring.head.0.load(Ordering::Acquire);
            }
            end = end.min(self.known);
        }
        while self.next < end && (self.ring.solo || self.ring.is_published(self.next)) {
            let sequence = self.next;
            self.next += 1;
            // SAFETY: L3: published, as packed, and our gate holds it until we move it.
            if !self.ring.cells.at(sequence).with(|place| unsafe { C::look(&*place, &mut visit) }) {
                break;
            }
        }
        let any = self.next > first;
        // Passing one by one would cost the publisher a line each time: run by run, and when all is read.
        let run = RUN.min((self.ring.capacity() / 4).max(1));
        // With one publisher as far as it is known: a look at the head at its heels would cost both.
        self.is_done =
            if self.ring.solo { self.next == self.known } else { !self.ring.is_published(self.next) };
        if any && (self.next - self.passed >= run || self.is_done) {
            self.pass();
        }
        any
    }

    /// Whether the last visit came to the end of what was there.
    pub(crate) fn came_to_end(&self) -> bool {
        self.is_done
    }

    /// Lets publishers have what was looked at.
    pub(crate) fn pass(&mut self) {
        if self.passed != self.next {
            self.passed = self.next;
            // G2.
            self.seat.pin.0.store(self.next, Ordering::Release);
            self.ring.wake_publishers();
        }
    }

    /// Announces a sleep; look once more, then sleep or not, then [`Self::cancel`].
    pub(crate) fn announce(&self, wake: Wake) {
        self.ring.readers.announce(&self.seat.bed.0, wake);
    }

    pub(crate) fn cancel(&self) {
        self.ring.readers.cancel(&self.seat.bed.0);
    }
}

impl<C: Cargo> Drop for GatedReader<C> {
    fn drop(&mut self) {
        self.cancel();
        // G2: this gate no longer holds anybody.
        self.seat.pin.0.store(IDLE, Ordering::Release);
        self.ring.wake_publishers();
        self.seat.leave();
    }
}

/// A publisher's bed: where it waits for room.
pub(crate) struct Waiting<C: Cargo> {
    ring: Arc<Gated<C>>,
    seat: Count<Seat>,
}

impl<C: Cargo> Waiting<C> {
    /// Announces that a publisher waits for room. It must try once more, then sleep or not.
    pub(crate) fn new(ring: &Arc<Gated<C>>, wake: Wake) -> Self {
        let seat = ring.beds.take();
        ring.publishers.announce(&seat.bed.0, wake);
        Self { ring: Arc::clone(ring), seat }
    }

    fn bed(&self) -> &Bed {
        &self.seat.bed.0
    }
}

impl<C: Cargo> Drop for Waiting<C> {
    fn drop(&mut self) {
        self.ring.publishers.cancel(self.bed());
        self.seat.leave();
    }
}

//! Who publishes to the rings and who reads them, and how an overwritten body is released.
//!
//! Imports `sync`, `barrier` and `park`. Always: I4 and I5 of the room.
#![allow(unsafe_code, reason = "looks at bodies and releases them; the invariants are the room's")]

use std::sync::Arc as Count;

use super::super::barrier::Fences;
use super::super::park::{Sleepers, Wake};
use super::cargo::Cargo;
use super::seats::{IDLE, Seat, Seats};
use super::slots::{End, Found, Peek, Ring};
use super::{RUN, SHARDS_MAX, Sequence, is_pinned, place_word};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use crate::sync::{Arc, Mutex, lock};

/// Evictions between two looks at the pins.
const RETIRED_MAX: usize = if cfg!(loom) { 1 } else { 128 };

/// A body that was overwritten.
struct Evicted {
    place: u64,
    word: u64,
}

/// The rings of a bus, and all who read them.
pub(crate) struct Core<C: Cargo> {
    rings: Box<[Ring<C>]>,
    seats: Seats,
    sleepers: Sleepers,
    orphans: Mutex<Vec<Evicted>>,
    released: AtomicU64,
    closed: AtomicBool,
}

impl<C: Cargo> Core<C> {
    /// `shards` rings of `capacity` slots each: a power of two. At most [`SHARDS_MAX`] shards.
    pub(crate) fn new(shards: usize, capacity: usize) -> Self {
        Self::starting_at(&vec![0; shards], capacity)
    }

    /// A ring for each of these sequences, which is its first.
    pub(crate) fn starting_at(first: &[Sequence], capacity: usize) -> Self {
        assert!((1..=SHARDS_MAX).contains(&first.len()), "the builder checks it");
        Self {
            rings: first.iter().map(|first| Ring::new(capacity, *first)).collect(),
            seats: Seats::default(),
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
        let published: u64 = self.rings.iter().map(|ring| ring.head() - ring.first() - holes(ring)).sum();
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
        let orphans = std::mem::take(&mut *lock(&self.orphans));
        // SAFETY: I3, I4: evicted counts that no list holds any more; no reader is left.
        unsafe { C::release_all(orphans.into_iter().map(|evicted| evicted.word)) };
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
        while items.len() > 0 {
            let count = (items.len() as u64).min((ring.capacity() / 4).max(1));
            // E3: relaxed.
            let first = ring.head.0.fetch_add(count, Ordering::Relaxed);
            for sequence in first..first + count {
                let Some(slot) = ring.open(sequence) else { continue };
                let item = items.next().expect("its length is exact, and no more is claimed");
                place(&item, sequence);
                let evicted = Ring::<C>::fill(slot, sequence, &C::pack(item));
                self.retire(shard, sequence, evicted);
                last = Some(sequence);
            }
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
        let is_free = |evicted: &mut Evicted| !pins.iter().any(|&pin| is_pinned(pin, evicted.place));
        let free = self.retired.extract_if(.., is_free).map(|evicted| evicted.word);
        // SAFETY: I3: each count came from a slot's word 0. I4: its eviction was before the fence, no pin covers it
        // behind the fence, so no reader holds it or can come to (E4), and those that did are done (E5). It has left
        // the list when it is released, so it is released once.
        unsafe { C::release_all(free) };
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
    seat: Count<Seat>,
}

impl<C: Cargo> Reader<C> {
    pub(crate) fn new(core: Arc<Core<C>>) -> Self {
        let seat = core.seats.take();
        Self { core, seat }
    }

    pub(crate) fn core(&self) -> &Arc<Core<C>> {
        &self.core
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
        let pinned = C::SHARED.then(|| Pinned::new(&self.seat, place_word(shard, *next)));
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
        self.core.sleepers.announce(&self.seat.bed.0, wake);
    }

    /// Ends the announcement.
    pub(crate) fn awake(&self) {
        self.core.sleepers.cancel(&self.seat.bed.0);
    }
}

impl<C: Cargo> Drop for Reader<C> {
    fn drop(&mut self) {
        self.core.sleepers.cancel(&self.seat.bed.0);
        self.seat.leave();
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

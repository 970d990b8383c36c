//! Who publishes to the rings and who reads them, and how an overwritten body is released.
//!
//! Imports `sync`, `barrier` and `park`. Always: I4 and I5 of the room.
#![allow(unsafe_code, reason = "looks at bodies and releases them; the invariants are the room's")]

use std::sync::Arc as Count;

use super::super::barrier::Fences;
use super::super::park::{Sleepers, Wake};
use super::batch::Batch;
use super::bytes::Bound;
use super::cargo::Cargo;
use super::seats::{IDLE, Seat, Seats};
use super::slots::{End, Filled, Found, Peek, Ring};
use super::{RUN, SHARDS_MAX, Sequence, is_pinned, place_word};
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering, fence};
use crate::sync::{Arc, Mutex, lock};

/// Evictions between two looks at the pins, and what they may weigh.
const RETIRED_MAX: usize = if cfg!(loom) { 1 } else { 128 };
const RETIRED_BYTES_MAX: u64 = 1 << 20;

/// A body that was overwritten, or let go of early.
struct Evicted {
    place: u64,
    word: u64,
    weight: u64,
}

/// The rings of a bus, and all who read them.
pub(crate) struct Core<C: Cargo> {
    rings: Box<[Ring<C>]>,
    seats: Seats,
    sleepers: Sleepers,
    orphans: Mutex<Vec<Evicted>>,
    released: AtomicU64,
    closed: AtomicBool,
    fences: Fences,
    books: Mutex<Books>,
}

/// What the bodies weigh that are not released yet, by who published or released them.
#[derive(Default)]
struct Books {
    /// Writers that are there: what each published less what it released.
    writers: Vec<Count<AtomicI64>>,
    /// The same of those that are gone.
    closed: i64,
}

impl<C: Cargo> Core<C> {
    /// `shards` rings of `capacity` slots each: a power of two. At most [`SHARDS_MAX`] shards.
    #[cfg(loom)]
    pub(crate) fn new(shards: usize, capacity: usize) -> Self {
        Self::starting_at(&vec![0; shards], capacity, Bound::new(0))
    }

    /// A ring for each of these sequences, which is its first, each with this bound.
    pub(crate) fn starting_at(first: &[Sequence], capacity: usize, bound: Bound) -> Self {
        assert!((1..=SHARDS_MAX).contains(&first.len()), "the builder checks it");
        let fences = Fences::new();
        Self {
            rings: first.iter().map(|first| Ring::new(capacity, *first, bound, fences)).collect(),
            seats: Seats::default(),
            sleepers: Sleepers::new(fences),
            orphans: Mutex::new(Vec::new()),
            released: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            fences,
            books: Mutex::default(),
        }
    }

    #[inline(always)]
    pub(crate) fn rings(&self) -> &[Ring<C>] {
        &self.rings
    }

    pub(crate) fn wakes(&self) -> u64 {
        self.sleepers.wakes()
    }

    pub(crate) fn waker_panics(&self) -> u64 {
        self.sleepers.panics()
    }

    /// Items published and not released yet: those in the rings, and evicted ones that wait. A publication or a
    /// release that is under way may be counted or not.
    pub(crate) fn live(&self) -> u64 {
        // Statistics: no edge. Released first, so that what comes meanwhile does not make it too few.
        let released = self.released.load(Ordering::Relaxed);
        let published = |ring: &Ring<C>| {
            let holes = ring.holes.load(Ordering::Relaxed);
            ring.head().saturating_sub(ring.first()).saturating_sub(holes)
        };
        self.rings.iter().map(published).sum::<u64>().saturating_sub(released)
    }

    /// What the bodies weigh that were published and not released yet.
    pub(crate) fn held(&self) -> u64 {
        let books = lock(&self.books);
        // A sum: no edge.
        let open: i64 = books.writers.iter().map(|net| net.load(Ordering::Relaxed)).sum();
        (books.closed + open).max(0) as u64
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
        let (sequence, _) = self.put(shard, item, place);
        self.notify();
        sequence
    }

    /// Answers the item's sequence and what it overwrote. [`Self::notify`] must follow.
    #[inline(always)]
    fn put(&self, shard: usize, item: C::Item, place: impl FnOnce(&C::Item, Sequence)) -> (Sequence, Filled) {
        let ring = &self.rings[shard];
        let (sequence, turn) = loop {
            // E3: relaxed.
            let sequence = ring.head.0.fetch_add(1, Ordering::Relaxed);
            if let Some(turn) = ring.open(sequence) {
                break (sequence, turn);
            }
        };
        place(&item, sequence);
        (sequence, ring.fill(turn, sequence, &C::pack(item)))
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
/// most [`RETIRED_MAX`] or [`RETIRED_BYTES_MAX`], and [`RUN`] more for each reader that is stopped in the middle of a
/// run.
pub(crate) struct Writer<C: Cargo> {
    core: Arc<Core<C>>,
    retired: Vec<Evicted>,
    full: usize,
    /// What the retired weigh, and when that is too much.
    retired_bytes: u64,
    full_bytes: u64,
    /// By shard: what it put in less what it took out, and has not settled.
    pending: Box<[i64]>,
    /// What it published less what it released, and whether the core's books know it.
    net: Count<AtomicI64>,
    is_booked: bool,
    /// For letting go of what is old: a pin of its own.
    seat: Option<Count<Seat>>,
}

impl<C: Cargo> Writer<C> {
    pub(crate) fn new(core: Arc<Core<C>>) -> Self {
        let mut writer = Self::passing(core);
        lock(&writer.core.books).writers.push(Count::clone(&writer.net));
        writer.is_booked = true;
        writer
    }

    /// One for a single publication: its books are told when it goes.
    pub(crate) fn passing(core: Arc<Core<C>>) -> Self {
        let pending = vec![0; if C::SHARED { core.rings.len() } else { 0 }];
        Self {
            core,
            retired: Vec::new(),
            full: RETIRED_MAX,
            retired_bytes: 0,
            full_bytes: RETIRED_BYTES_MAX,
            pending: pending.into(),
            net: Count::default(),
            is_booked: false,
            seat: None,
        }
    }

    /// Publishes an item. `place` gets the item and its sequence before anyone else can see it.
    /// [`Core::notify`] must follow, when the caller holds no lock.
    #[inline]
    pub(crate) fn publish(
        &mut self,
        shard: usize,
        item: C::Item,
        place: impl FnOnce(&C::Item, Sequence),
    ) -> Sequence {
        let (sequence, filled) = self.core.put(shard, item, place);
        self.book(shard, sequence, filled);
        sequence
    }

    /// Publishes the items of a batch, claiming once for all that fit a quarter of the ring. Answers the last one's
    /// sequence. [`Core::notify`] must follow, when the caller holds no lock.
    ///
    /// A batch holds items, and nothing that makes them: so no code but ours runs between claim and publication.
    pub(crate) fn publish_run(
        &mut self,
        shard: usize,
        batch: &mut Batch<C::Item>,
        mut place: impl FnMut(&C::Item, Sequence),
    ) -> Option<Sequence> {
        let core = Arc::clone(&self.core);
        let ring = &core.rings[shard];
        let mut items = batch.take();
        let mut last = None;
        while items.len() > 0 {
            let count = (items.len() as u64).min((ring.capacity() / 4).max(1));
            // E3: relaxed.
            let first = ring.head.0.fetch_add(count, Ordering::Relaxed);
            for sequence in first..first + count {
                let Some(turn) = ring.open(sequence) else { continue };
                let item = items.next().expect("as many as were counted");
                place(&item, sequence);
                let filled = ring.fill(turn, sequence, &C::pack(item));
                self.book(shard, sequence, filled);
                last = Some(sequence);
            }
        }
        last
    }

    /// Takes what was overwritten, and adds up.
    #[inline(always)]
    fn book(&mut self, shard: usize, sequence: Sequence, filled: Filled) {
        if !C::SHARED {
            return;
        }
        let Filled { shown, word, was, weight } = filled;
        let mut came = weight as i64;
        // Read and written by this writer alone; others only look.
        self.net.store(self.net.load(Ordering::Relaxed) + came, Ordering::Relaxed);
        // The first lap evicts nothing.
        if word != 0 {
            came -= was as i64;
            self.retire(shard, shown, word, was);
        }
        self.pending[shard] += came;
        let bound = self.core.rings[shard].bound;
        if bound.is_grain(self.pending[shard]) {
            self.settle(shard, sequence);
        }
        if bound.is_set() {
            // E11: behind the stamp.
            self.core.fences.light();
            if self.core.rings[shard].is_below_floor(sequence) {
                // Others had to let go of it before it was there.
                self.take_out(shard, sequence..sequence + 1);
            }
        }
        if self.retired.len() >= self.full || self.retired_bytes >= self.full_bytes {
            self.reclaim();
        }
    }

    #[inline(always)]
    fn retire(&mut self, shard: usize, sequence: Sequence, word: u64, weight: u64) {
        self.retired.push(Evicted { place: place_word(shard, sequence), word, weight });
        self.retired_bytes += weight;
    }

    /// Settles with the ring, and lets go of the oldest where it is over its bound: none from `until` on.
    #[cold]
    fn settle(&mut self, shard: usize, until: Sequence) {
        let core = Arc::clone(&self.core);
        let ring = &core.rings[shard];
        let pending = std::mem::take(&mut self.pending[shard]);
        if !ring.settle(pending) {
            return;
        }
        while let Some(run) = ring.raise_floor(until) {
            self.take_out(shard, run);
        }
    }

    /// Takes items below the floor out of their slots.
    #[cold]
    fn take_out(&mut self, shard: usize, run: std::ops::Range<Sequence>) {
        let core = Arc::clone(&self.core);
        let ring = &core.rings[shard];
        let seat = Count::clone(self.seat.get_or_insert_with(|| core.seats.take()));
        // I8, E4: no body of the run is released, and none takes its address, until the pin is taken off.
        let pinned = Pinned::new(&seat, place_word(shard, run.start));
        // E11: the floor is above the run.
        core.fences.heavy();
        let mut weight = 0;
        for sequence in run {
            if let Some((word, was)) = ring.take_out(sequence) {
                self.retire(shard, sequence, word, was);
                weight += was;
            }
        }
        drop(pinned);
        ring.settle((weight as i64).wrapping_neg());
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
        let mut weight = 0;
        let free = self.retired.extract_if(.., is_free).map(|evicted| {
            weight += evicted.weight;
            evicted.word
        });
        // SAFETY: I3: each count came from a slot's word 0. I4: its eviction was before the fence, no pin covers it
        // behind the fence, so no reader holds it or can come to (E4), and those that did are done (E5). It has left
        // the list when it is released, so it is released once.
        unsafe { C::release_all(free) };
        let released = before - self.retired.len();
        self.core.released.fetch_add(released as u64, Ordering::Relaxed);
        self.full = self.retired.len() + RETIRED_MAX;
        // Of others as well: the books are one.
        self.net.store(self.net.load(Ordering::Relaxed) - weight as i64, Ordering::Relaxed);
        self.retired_bytes = self.retired.iter().map(|evicted| evicted.weight).sum();
        self.full_bytes = self.retired_bytes + RETIRED_BYTES_MAX;
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
        for (ring, pending) in self.core.rings.iter().zip(&self.pending) {
            if *pending != 0 {
                ring.settle(*pending);
            }
        }
        if let Some(seat) = self.seat.take() {
            seat.leave();
        }
        let mut books = lock(&self.core.books);
        // Its own: no edge.
        books.closed += self.net.load(Ordering::Relaxed);
        if self.is_booked {
            books.writers.retain(|net| !Count::ptr_eq(net, &self.net));
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
        // E4, by the fence. E5: who finds this pin, and not the idle one before it, must know too that the run before
        // is done with; a plain store behind a release store does not carry that.
        seat.pin.0.store(place, Ordering::Release);
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

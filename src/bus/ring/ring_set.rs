//! The rings of a bus, one for each shard, and what their publishers and readers share.
//!
//! Invariant: every publication is followed by [`RingSet::notify`], when the publisher holds no lock; an event loop's by
//! `notify_except`, which leaves out the loop itself.

use std::sync::Arc as Count;

use super::super::barrier::Fences;
use super::super::event_count::EventCount;
use super::batch::Batch;
use super::bound::Bound;
use super::pin::SHARDS_MAX;
#[cfg(feature = "server")]
use super::registry::Participant;
use super::registry::Registry;
use super::retired::Evicted;
use super::slots::{Overwritten, Ring};
use super::{Sequence, SlotCodec};
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use crate::sync::{Mutex, lock};

/// The rings of a bus, their readers, and the bodies that wait to be released.
pub(crate) struct RingSet<C: SlotCodec> {
    pub(super) shards: Box<[Ring<C>]>,
    pub(super) registry: Registry,
    pub(super) event_count: EventCount,
    /// Evicted bodies of writers that are gone.
    pub(super) orphans: Mutex<Vec<Evicted>>,
    /// Number of bodies released so far.
    pub(super) released: AtomicU64,
    closed: AtomicBool,
    /// Held while the shards are closed.
    closing: Mutex<()>,
    pub(super) fences: Fences,
    pub(super) accounts: Mutex<ByteAccounts>,
}

/// Weight of the bodies that are published and not released yet, by the writer that published or released them.
#[derive(Default)]
pub(super) struct ByteAccounts {
    /// For each open writer: bytes published minus bytes released.
    pub(super) open: Vec<Count<AtomicI64>>,
    /// Sum over the writers that are gone.
    pub(super) closed: i64,
}

impl<C: SlotCodec> RingSet<C> {
    /// Creates `shards` rings of `capacity` slots each: a power of two. At most [`SHARDS_MAX`] shards.
    #[cfg(loom)]
    pub(crate) fn new(shards: usize, capacity: usize) -> Self {
        Self::starting_at(&vec![0; shards], capacity, Bound::new(0))
    }

    /// Creates a ring for each of these first sequences, each with this bound.
    pub(crate) fn starting_at(first: &[Sequence], capacity: usize, bound: Bound) -> Self {
        assert!((1..=SHARDS_MAX).contains(&first.len()), "the builder checks it");
        let fences = Fences::new();
        Self {
            shards: first.iter().map(|first| Ring::new(capacity, *first, bound, fences)).collect(),
            registry: Registry::default(),
            event_count: EventCount::new(fences),
            orphans: Mutex::new(Vec::new()),
            released: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            closing: Mutex::new(()),
            fences,
            accounts: Mutex::default(),
        }
    }

    #[inline(always)]
    pub(crate) fn shards(&self) -> &[Ring<C>] {
        &self.shards
    }

    pub(crate) fn wakes(&self) -> u64 {
        self.event_count.wakes()
    }

    pub(crate) fn waker_panics(&self) -> u64 {
        self.event_count.panics()
    }

    /// Returns the number of items published and not released yet: those in the rings, and evicted ones that wait. A
    /// publication or a release that is under way may be counted or not.
    pub(crate) fn live(&self) -> u64 {
        // Statistics: no edge. Released first, so that a publication meanwhile does not make the result too small. Each
        // subtraction saturates: publishers may give sequences up between two of these loads.
        let released = self.released.load(Ordering::Relaxed);
        let published = |ring: &Ring<C>| {
            let holes = ring.holes.load(Ordering::Relaxed);
            ring.head().saturating_sub(ring.first()).saturating_sub(holes)
        };
        self.shards.iter().map(published).sum::<u64>().saturating_sub(released)
    }

    /// Returns the bound of all rings in bytes, if they have one.
    #[cfg(feature = "server")]
    pub(crate) fn max_bytes(&self) -> Option<u64> {
        let bound = self.shards.first()?.bound;
        bound.is_set().then(|| bound.high.saturating_mul(self.shards.len() as u64))
    }

    /// Returns the weight of the bodies that were published and are not released yet, in bytes.
    pub(crate) fn held(&self) -> u64 {
        let accounts = lock(&self.accounts);
        // A sum: no edge.
        let open: i64 = accounts.open.iter().map(|net| net.load(Ordering::Relaxed)).sum();
        (accounts.closed + open).max(0) as u64
    }

    /// Publishes an item that owns nothing, or gives it back if the rings are closed. `assign` gets the item and its
    /// sequence before any reader can see the item.
    #[inline]
    pub(crate) fn publish_inline(
        &self,
        shard: usize,
        item: C::Item,
        assign: impl FnOnce(&C::Item, Sequence),
    ) -> Result<Sequence, C::Item> {
        assert!(!C::COUNTED, "what was evicted would leak");
        let published = self.publish_unannounced(shard, item, assign);
        self.notify();
        published.map(|(sequence, _)| sequence)
    }

    /// Publishes an item, and returns its sequence and what it overwrote; gives it back if the rings are closed.
    /// [`Self::notify`] must follow in either case: a sequence may have been given up first.
    #[inline(always)]
    pub(super) fn publish_unannounced(
        &self,
        shard: usize,
        item: C::Item,
        assign: impl FnOnce(&C::Item, Sequence),
    ) -> Result<(Sequence, Overwritten), C::Item> {
        let ring = &self.shards[shard];
        let (sequence, slot) = loop {
            let Some(sequence) = ring.claim(1) else { return Err(item) };
            if let Some(slot) = ring.open(sequence) {
                break (sequence, slot);
            }
        };
        assign(&item, sequence);
        Ok((sequence, ring.fill(slot, sequence, &C::pack(item))))
    }

    /// Publishes the items of a batch that own nothing, as [`RingWriter::publish_batch`] does, without a writer.
    ///
    /// [`RingWriter::publish_batch`]: super::RingWriter::publish_batch
    pub(crate) fn publish_batch_inline(
        &self,
        shard: usize,
        batch: &mut Batch<C::Item>,
        mut assign: impl FnMut(&C::Item, Sequence),
    ) -> Option<Sequence> {
        assert!(!C::COUNTED, "what was evicted would leak");
        let mut items = batch.take();
        let mut last = None;
        while self.publish_run(shard, &mut items, &mut assign, |sequence, _| last = Some(sequence)) {}
        drop(items);
        self.notify();
        last
    }

    /// Claims once for the items that fit a quarter of the ring and publishes them. Returns false if there were none, or the
    /// rings are closed.
    #[inline(always)]
    pub(super) fn publish_run(
        &self,
        shard: usize,
        items: &mut impl ExactSizeIterator<Item = C::Item>,
        assign: &mut impl FnMut(&C::Item, Sequence),
        mut published: impl FnMut(Sequence, Overwritten),
    ) -> bool {
        let ring = &self.shards[shard];
        let count = (items.len() as u64).min((ring.capacity() / 4).max(1));
        if count == 0 {
            return false;
        }
        let Some(first) = ring.claim(count) else { return false };
        for sequence in first..first + count {
            let Some(slot) = ring.open(sequence) else { continue };
            let item = items.next().expect("as many as were counted");
            assign(&item, sequence);
            published(sequence, ring.fill(slot, sequence, &C::pack(item)));
        }
        true
    }

    /// Wakes the readers that sleep. Called after every publication.
    #[inline(always)]
    pub(crate) fn notify(&self) {
        if self.event_count.has_waiters() {
            self.wake_all();
        }
    }

    /// Wakes the readers that sleep, except the owner of this entry: the caller, which will look before it sleeps.
    #[cfg(feature = "server")]
    pub(super) fn notify_except(&self, own: &Participant) {
        if self.event_count.has_waiters() {
            self.registry.for_each(|participant| {
                if !std::ptr::eq(participant, own) {
                    self.event_count.wake(&participant.waiter);
                }
            });
        }
    }

    #[cold]
    fn wake_all(&self) {
        self.registry.for_each(|participant| self.event_count.wake(&participant.waiter));
    }

    /// Ends claims, and wakes the readers. Sequences claimed before may still be published.
    pub(crate) fn close(&self) {
        {
            let _one = lock(&self.closing);
            self.shards.iter().for_each(Ring::close);
        }
        // E10.
        self.closed.store(true, Ordering::Release);
        self.notify();
    }

    /// Returns whether nothing more will be claimed. A reader that sees true ends when it has come to [`Ring::end`] of each
    /// shard.
    pub(crate) fn is_closed(&self) -> bool {
        // E10.
        self.closed.load(Ordering::Acquire)
    }
}

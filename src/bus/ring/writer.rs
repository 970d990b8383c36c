//! Publishes to the rings of a bus, and keeps what was overwritten until `reclaim` may release it.
//!
//! Invariants: I3 and I8 of the room: each count that leaves a slot is put on the retired list of one writer.

use std::ops::Range;
use std::sync::Arc as Count;

use super::batch::Batch;
use super::pin::{Pinned, pin_word};
use super::registry::Participant;
use super::retired::Retired;
use super::slots::Overwritten;
use super::{RingSet, Sequence, SlotCodec};
use crate::sync::atomic::{AtomicI64, Ordering};
use crate::sync::{Arc, lock};

/// Publishes to the rings of a ring set.
pub(crate) struct RingWriter<C: SlotCodec> {
    pub(super) rings: Arc<RingSet<C>>,
    pub(super) retired: Retired,
    /// For each shard: bytes put in minus bytes taken out that are not settled with the ring yet.
    unsettled: Box<[i64]>,
    /// Bytes published minus bytes released.
    net: Count<AtomicI64>,
    /// Whether the ring set's accounts list `net`.
    is_listed: bool,
    /// Entry for this writer's own pin, used to release old items early.
    participant: Option<Count<Participant>>,
}

impl<C: SlotCodec> RingWriter<C> {
    pub(crate) fn new(rings: Arc<RingSet<C>>) -> Self {
        let mut writer = Self::transient(rings);
        lock(&writer.rings.accounts).open.push(Count::clone(&writer.net));
        writer.is_listed = true;
        writer
    }

    /// Creates a writer for a single publication: the ring set accounts for it when it is dropped.
    pub(crate) fn transient(rings: Arc<RingSet<C>>) -> Self {
        let unsettled = vec![0; if C::COUNTED { rings.shards.len() } else { 0 }];
        Self {
            rings,
            retired: Retired::new(),
            unsettled: unsettled.into(),
            net: Count::default(),
            is_listed: false,
            participant: None,
        }
    }

    /// Publishes an item, or gives it back if the rings are closed. `assign` gets the item and its sequence before any reader
    /// can see the item. [`RingSet::notify`] must follow, when the caller holds no lock.
    #[inline]
    pub(crate) fn publish(
        &mut self,
        shard: usize,
        item: C::Item,
        assign: impl FnOnce(&C::Item, Sequence),
    ) -> Result<Sequence, C::Item> {
        let (sequence, overwritten) = self.rings.publish_unannounced(shard, item, assign)?;
        self.account(shard, sequence, overwritten);
        self.reclaim_if_due();
        Ok(sequence)
    }

    /// Publishes the items of a batch, claiming once for all that fit a quarter of the ring, and returns the last one's
    /// sequence. Items that come after the end of the rings stay in the batch. [`RingSet::notify`] must follow, when the
    /// caller holds no lock.
    ///
    /// A batch holds items, and not the iterator that makes them: so no code but ours runs between claim and publication.
    pub(crate) fn publish_batch(
        &mut self,
        shard: usize,
        batch: &mut Batch<C::Item>,
        mut assign: impl FnMut(&C::Item, Sequence),
    ) -> Option<Sequence> {
        let rings = Arc::clone(&self.rings);
        let mut items = batch.take();
        let mut last = None;
        while rings.publish_run(shard, &mut items, &mut assign, |sequence, overwritten| {
            self.account(shard, sequence, overwritten);
            last = Some(sequence);
        }) {
            // Not within the run: dropping a value may run the embedder's code.
            self.reclaim_if_due();
        }
        last
    }

    /// Retires what a publication overwrote, and keeps the ring within its bound.
    #[inline(always)]
    fn account(&mut self, shard: usize, sequence: Sequence, overwritten: Overwritten) {
        if !C::COUNTED {
            return;
        }
        let Overwritten { shown, word, was, weight } = overwritten;
        let mut came = weight as i64;
        self.add_to_net(came);
        // The first lap evicts nothing.
        if word != 0 {
            came -= was as i64;
            self.retired.push(shard, shown, word, was);
        }
        self.unsettled[shard] += came;
        let bound = self.rings.shards[shard].bound;
        if bound.is_grain(self.unsettled[shard]) {
            self.settle(shard, sequence);
        }
        if bound.is_set() {
            // E11: after the stamp.
            self.rings.fences.light();
            if self.rings.shards[shard].is_below_floor(sequence) {
                // Another writer had to release it before it was there.
                self.take_out(shard, sequence..sequence + 1);
            }
        }
    }

    /// Releases what was overwritten, if that is due. Called when every sequence that this writer claimed is published.
    #[inline(always)]
    fn reclaim_if_due(&mut self) {
        if C::COUNTED && self.retired.is_due() {
            self.reclaim();
        }
    }

    /// Adds bytes to this writer's account.
    #[inline(always)]
    pub(super) fn add_to_net(&self, bytes: i64) {
        // Relaxed: only this writer stores; other threads only add up.
        self.net.store(self.net.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }

    /// Settles with the ring, and releases the oldest items where the ring is over its bound: none from `until` on.
    #[cold]
    fn settle(&mut self, shard: usize, until: Sequence) {
        let rings = Arc::clone(&self.rings);
        let ring = &rings.shards[shard];
        let unsettled = std::mem::take(&mut self.unsettled[shard]);
        if !ring.settle(unsettled) {
            return;
        }
        while let Some(span) = ring.raise_floor(until) {
            self.take_out(shard, span);
        }
    }

    /// Takes items below the floor out of their slots.
    #[cold]
    fn take_out(&mut self, shard: usize, span: Range<Sequence>) {
        let rings = Arc::clone(&self.rings);
        let ring = &rings.shards[shard];
        let participant = Count::clone(self.participant.get_or_insert_with(|| rings.registry.register()));
        // I8, E4: no body of the span is released, and none takes its address, until the pin is taken off.
        let pinned = Pinned::new(&participant, pin_word(shard, span.start));
        // E11: the floor is above the span.
        rings.fences.heavy();
        let mut weight = 0;
        for sequence in span {
            if let Some((word, was)) = ring.take_out(sequence) {
                self.retired.push(shard, sequence, word, was);
                weight += was;
            }
        }
        drop(pinned);
        ring.settle((weight as i64).wrapping_neg());
    }
}

impl<C: SlotCodec> Drop for RingWriter<C> {
    fn drop(&mut self) {
        if !self.retired.is_empty() {
            self.reclaim();
        }
        if !self.retired.is_empty() {
            self.retired.abandon(&mut lock(&self.rings.orphans));
        }
        for (ring, unsettled) in self.rings.shards.iter().zip(&self.unsettled) {
            if *unsettled != 0 {
                ring.settle(*unsettled);
            }
        }
        if let Some(participant) = self.participant.take() {
            participant.release();
        }
        let mut accounts = lock(&self.rings.accounts);
        // Stored by this writer only: no edge.
        accounts.closed += self.net.load(Ordering::Relaxed);
        if self.is_listed {
            accounts.open.retain(|net| !Count::ptr_eq(net, &self.net));
        }
    }
}

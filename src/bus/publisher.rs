//! Publishing, by the bus itself and by publishers of one's own.
//!
//! Imports the bus. Always: an item is whole, keyed and placed before it can be seen, and code of the
//! embedder's (ordering keys, iterators, handlers) never runs between a claim and its publication.

use std::cell::Cell;
use std::fmt;
use std::sync::PoisonError;

use super::item::Item;
use super::ring::{Batch, RingWriter, SlotCodec};
use super::{Bus, Inner};
use crate::event::{Event, EventId, Sequence};
use crate::sync::{Arc, CachePadded, Mutex, MutexGuard};

/// Writers that threads without a [`Publisher`] share.
const WRITERS: usize = 8;

/// What `publish` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The item's place.
    pub id: EventId,
    /// Handlers ([`Bus::on_sync`]) that took it before `publish` returned.
    pub handled: usize,
}

/// What `publish_batch` answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishedBatch {
    /// How many items were published.
    pub count: usize,
    /// The last one's place; `None` if there were none.
    pub last: Option<EventId>,
    /// What handlers ([`Bus::on_sync`]) took, added up.
    pub handled: usize,
}

/// Writers shared by all threads that publish through the bus itself.
pub(super) struct WriterPool<C: SlotCodec>(Box<[CachePadded<Mutex<RingWriter<C>>>]>);

impl<C: SlotCodec> WriterPool<C> {
    pub(super) fn new(rings: &Arc<super::ring::RingSet<C>>) -> Self {
        let count = if C::COUNTED { WRITERS } else { 0 };
        Self((0..count).map(|_| CachePadded::new(Mutex::new(RingWriter::new(Arc::clone(rings))))).collect())
    }

    /// A writer for this thread: its usual desk, or the next free one. None if all are taken.
    #[inline]
    fn acquire(&self) -> Option<MutexGuard<'_, RingWriter<C>>> {
        let home = preferred_writer();
        (0..self.0.len()).find_map(|step| match self.0[(home + step) % WRITERS].try_lock() {
            Ok(writer) => Some(writer),
            Err(std::sync::TryLockError::Poisoned(writer)) => Some(PoisonError::into_inner(writer)),
            Err(std::sync::TryLockError::WouldBlock) => None,
        })
    }

    /// Releases what was evicted and is not looked at, at the writers where nobody publishes now.
    pub(super) fn reclaim(&self) {
        for writer in &self.0 {
            if let Ok(mut writer) = writer.try_lock() {
                writer.reclaim();
            }
        }
    }
}

/// Threads take turns in choosing their usual desk.
fn preferred_writer() -> usize {
    use crate::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static DESK: Cell<usize> = const { Cell::new(usize::MAX) });
    DESK.with(|desk| {
        if desk.get() == usize::MAX {
            // A number of one's own: no edge.
            desk.set(NEXT.fetch_add(1, Ordering::Relaxed) % WRITERS);
        }
        desk.get()
    })
}

impl<T: Item> Inner<T> {
    /// The shard that this item goes to.
    #[inline]
    fn shard(&self, item: &T) -> usize {
        let shards = self.rings.shards().len();
        if shards == 1 {
            return 0;
        }
        self.shard_of_key(self.ordering_key.as_ref().map_or_else(|| item.ordering_key(), |key| key(item)))
    }

    #[inline]
    fn shard_of_key(&self, key: u64) -> usize {
        // The golden ratio spreads keys that differ in few bits over the high ones, which choose.
        let spread = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        ((spread * self.rings.shards().len() as u64) >> 32) as usize
    }

    /// Publishes through a desk, then wakes who sleeps: wakers are the embedder's, and no desk is held then.
    #[inline(always)]
    fn with_writer<R>(&self, publish: impl FnOnce(&mut RingWriter<T::Codec>) -> R) -> R {
        let published = match self.writers.acquire() {
            Some(mut writer) => publish(&mut writer),
            // It hands what it evicted to the others.
            None => publish(&mut RingWriter::transient(Arc::clone(&self.rings))),
        };
        self.rings.notify();
        published
    }

    fn id(&self, shard: usize, sequence: Sequence) -> EventId {
        EventId { epoch: self.epoch, shard: shard as u16, sequence }
    }

    #[inline(always)]
    fn publish(&self, item: T, put: impl FnOnce(usize, T) -> Sequence) -> Published {
        let item = item.into_publishable();
        let shard = self.shard(&item);
        self.publish_in(shard, item, put)
    }

    #[inline(always)]
    fn publish_in(&self, shard: usize, item: T, put: impl FnOnce(usize, T) -> Sequence) -> Published {
        if self.handlers.has_sync() {
            let kept = item.another();
            let id = self.id(shard, put(shard, item));
            return Published { id, handled: self.handlers.call(&kept) };
        }
        Published { id: self.id(shard, put(shard, item)), handled: 0 }
    }

    fn publish_batch(
        &self,
        items: impl IntoIterator<Item = T>,
        mut put: impl FnMut(usize, &mut Batch<T>) -> Option<Sequence>,
    ) -> PublishedBatch {
        let mut items = items.into_iter().fuse().map(T::into_publishable);
        let mut answer = PublishedBatch::default();
        let mut run = Batch::new();
        if self.rings.shards().len() == 1 {
            loop {
                run.fill(&mut items);
                if run.is_empty() {
                    return answer;
                }
                self.publish_run(0, &mut run, &mut answer, &mut put);
            }
        }
        let mut next = items.next().map(|item| (self.shard(&item), item));
        while let Some((shard, first)) = next.take() {
            run.push(first);
            while !run.is_full() && next.is_none() {
                let Some(item) = items.next() else { break };
                match self.shard(&item) {
                    same if same == shard => run.push(item),
                    other => next = Some((other, item)),
                }
            }
            self.publish_run(shard, &mut run, &mut answer, &mut put);
            next = next.or_else(|| items.next().map(|item| (self.shard(&item), item)));
        }
        answer
    }

    /// Publishes items of one shard, and adds them to the answer.
    #[inline]
    fn publish_run(
        &self,
        shard: usize,
        run: &mut Batch<T>,
        answer: &mut PublishedBatch,
        put: &mut impl FnMut(usize, &mut Batch<T>) -> Option<Sequence>,
    ) {
        answer.count += run.len();
        let kept: Vec<T> =
            if self.handlers.has_sync() { run.iter().map(T::another).collect() } else { Vec::new() };
        if let Some(sequence) = put(shard, run) {
            answer.last = Some(self.id(shard, sequence));
        }
        answer.handled += kept.iter().map(|item| self.handlers.call(item)).sum::<usize>();
    }
}

#[cfg(feature = "server")]
impl Bus<Event> {
    /// The shard of a log that an event goes to: the same in every process, so that a stream stays in order whoever
    /// publishes it, and over a restart.
    pub(crate) fn log_shard_of(&self, event: &Event) -> u16 {
        let key = self.0.ordering_key.as_ref().map_or_else(
            || {
                // As the ordering key, which is one process's own.
                let name = event.stream().or(event.source()).unwrap_or_default();
                let mut crc = flate2::Crc::new();
                crc.update(name.as_bytes());
                u64::from(crc.sum())
            },
            |key| key(event),
        );
        self.0.shard_of_key(key) as u16
    }

    /// Publishes an event that got its place elsewhere, in the log of an engine: it keeps that id, whatever
    /// its sequence in the ring. For one thread at a time.
    pub(crate) fn publish_placed(&self, event: Event, id: EventId) {
        let inner = &*self.0;
        let shard = usize::from(id.shard).min(self.shards() - 1);
        inner.publish_in(shard, event.into_publishable(), |shard, event| {
            inner.with_writer(|writer| writer.publish(shard, event, |event, _| event.set_id(id)))
        });
    }
}

impl<T: Item> Bus<T> {
    /// Publishes an item: it gets its place, and every subscriber will see it or learn that it missed it.
    ///
    /// Never fails, never waits for a reader, takes no lock that is held by another, and makes no system
    /// call unless a reader is asleep (then one wake for it, however many events follow). One step can wait,
    /// and only for another publisher that the scheduler stopped in the middle of its few writes while the
    /// others published a whole ring; that wait is bounded, after it another place is taken. All other steps
    /// are wait-free. Handlers added with [`on_sync`](Self::on_sync) run in here.
    ///
    /// An event that was published before, or of which there are other handles, is published as a copy.
    #[inline]
    pub fn publish(&self, item: T) -> Published {
        let inner = &*self.0;
        inner.publish(item, |shard, item| {
            let place = |item: &T, sequence| item.place(inner.id(shard, sequence));
            if T::Codec::COUNTED {
                inner.with_writer(|writer| writer.publish(shard, item, place))
            } else {
                inner.rings.publish_inline(shard, item, place)
            }
        })
    }

    /// Publishes items in order, claiming places for many at once: several times faster than one by one.
    /// Other publishers' items may stand between them.
    ///
    /// The iterator gives up to 64 items before they are published together, and is not asked while places are
    /// claimed: it may take its time, publish itself, or panic. Then what it gave before in whole runs is published,
    /// and the rest is dropped.
    pub fn publish_batch(&self, items: impl IntoIterator<Item = T>) -> PublishedBatch {
        let inner = &*self.0;
        inner.publish_batch(items, |shard, run| {
            let place = |item: &T, sequence| item.place(inner.id(shard, sequence));
            inner.with_writer(|writer| writer.publish_batch(shard, run, place))
        })
    }

    /// A publisher of one's own: some nanoseconds faster for each event than [`Bus::publish`], because it
    /// keeps its own books of what it overwrote.
    pub fn publisher(&self) -> Publisher<T> {
        Publisher { writer: RingWriter::new(Arc::clone(&self.0.rings)), bus: self.clone() }
    }
}

/// Publishes to a bus. One for each thread; a clone costs as much as a new one.
///
/// While it is there, the bus stays open.
pub struct Publisher<T: Item = Event> {
    writer: RingWriter<T::Codec>,
    bus: Bus<T>,
}

impl<T: Item> Publisher<T> {
    /// As [`Bus::publish`].
    #[inline]
    pub fn publish(&mut self, item: T) -> Published {
        let inner = &*self.bus.0;
        inner.publish(item, |shard, item| {
            let place = |item: &T, sequence| item.place(inner.id(shard, sequence));
            let sequence = self.writer.publish(shard, item, place);
            inner.rings.notify();
            sequence
        })
    }

    /// As [`Bus::publish_batch`].
    pub fn publish_batch(&mut self, items: impl IntoIterator<Item = T>) -> PublishedBatch {
        let inner = &*self.bus.0;
        inner.publish_batch(items, |shard, run| {
            let place = |item: &T, sequence| item.place(inner.id(shard, sequence));
            let last = self.writer.publish_batch(shard, run, place);
            inner.rings.notify();
            last
        })
    }

    /// The bus that it publishes to.
    pub fn bus(&self) -> &Bus<T> {
        &self.bus
    }
}

impl<T: Item> Clone for Publisher<T> {
    fn clone(&self) -> Self {
        self.bus.publisher()
    }
}

impl<T: Item> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publisher")
    }
}

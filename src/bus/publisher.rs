//! Publishing, through the bus itself or through a publisher of one's own.
//!
//! Invariant: an item is whole, keyed and has its id before it can be seen, and the embedder's code (ordering keys,
//! iterators, handlers) never runs between a claim and its publication.

use std::fmt;

use super::item::Item;
use super::ring::{Batch, RingWriter, SlotCodec};
use super::shared::IntoItem;
use super::{Bus, BusInner};
use crate::event::{Event, EventId, Sequence};
use crate::sync::Arc;

/// An item was not published, because the bus is closed. The error returns the item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishError<T = Event>(pub T);

impl<T> fmt::Display for PublishError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bus is closed")
    }
}

impl<T: fmt::Debug> std::error::Error for PublishError<T> {}

/// Result of `publish`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Id of the item: epoch, shard and sequence. `None` if the bus is closed, and the item was dropped.
    pub id: Option<EventId>,
    /// Number of handlers ([`Bus::on_sync`]) that took it before `publish` returned.
    pub handled: usize,
}

/// Result of `publish_batch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishedBatch {
    /// Number of items published: all, unless the bus was closed meanwhile.
    pub count: usize,
    /// Id of the last item; `None` if there were none.
    pub last: Option<EventId>,
    /// Number of times that handlers ([`Bus::on_sync`]) took an item.
    pub handled: usize,
}

impl<T: Item> BusInner<T> {
    /// Returns the shard of an item.
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
        // The golden ratio spreads keys that differ in few bits over the high bits, which choose the shard.
        let spread = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        ((spread * self.rings.shards().len() as u64) >> 32) as usize
    }

    /// Publishes through a writer of the pool, then wakes sleeping readers: wakers are the embedder's code, and no writer is
    /// held then.
    #[inline(always)]
    fn with_writer<R>(&self, publish: impl FnOnce(&mut RingWriter<T::Codec>) -> R) -> R {
        let published = self.with_writer_unannounced(publish);
        self.rings.notify();
        published
    }

    /// Publishes through a writer of the pool. A notification of the readers must follow.
    #[inline(always)]
    fn with_writer_unannounced<R>(&self, publish: impl FnOnce(&mut RingWriter<T::Codec>) -> R) -> R {
        match self.writers.acquire() {
            Some(mut writer) => publish(&mut writer),
            // A transient writer leaves its evicted bodies to the other writers when it is dropped.
            None => publish(&mut RingWriter::transient(Arc::clone(&self.rings))),
        }
    }

    fn id(&self, shard: usize, sequence: Sequence) -> EventId {
        EventId { epoch: self.epoch, shard: shard as u16, sequence }
    }

    #[inline(always)]
    fn publish(&self, item: T, put: impl FnOnce(usize, T) -> Result<Sequence, T>) -> Result<Published, T> {
        let item = item.into_publishable();
        let shard = self.shard(&item);
        self.publish_in(shard, item, put)
    }

    #[inline(always)]
    fn publish_in(
        &self,
        shard: usize,
        item: T,
        put: impl FnOnce(usize, T) -> Result<Sequence, T>,
    ) -> Result<Published, T> {
        if self.handlers.has_sync() {
            let kept = item.duplicate();
            let id = Some(self.id(shard, put(shard, item)?));
            return Ok(Published { id, handled: self.handlers.call(&kept) });
        }
        Ok(Published { id: Some(self.id(shard, put(shard, item)?)), handled: 0 })
    }

    fn publish_batch(
        &self,
        items: impl IntoIterator<Item: IntoItem<T>>,
        mut put: impl FnMut(usize, &mut Batch<T>) -> Option<Sequence>,
    ) -> PublishedBatch {
        let mut items = items.into_iter().fuse().map(|item| item.into_item().into_publishable());
        let mut result = PublishedBatch::default();
        let mut batch = Batch::new();
        if self.rings.shards().len() == 1 {
            loop {
                batch.fill(&mut items);
                if batch.is_empty() {
                    return result;
                }
                if !self.publish_collected(0, &mut batch, &mut result, &mut put) {
                    return result;
                }
            }
        }
        let mut next = items.next().map(|item| (self.shard(&item), item));
        while let Some((shard, first)) = next.take() {
            batch.push(first);
            while !batch.is_full() && next.is_none() {
                let Some(item) = items.next() else { break };
                match self.shard(&item) {
                    same if same == shard => batch.push(item),
                    other => next = Some((other, item)),
                }
            }
            if !self.publish_collected(shard, &mut batch, &mut result, &mut put) {
                return result;
            }
            next = next.or_else(|| items.next().map(|item| (self.shard(&item), item)));
        }
        result
    }

    /// Publishes items of one shard, and adds them to the result. Returns false if the bus is closed.
    #[inline]
    fn publish_collected(
        &self,
        shard: usize,
        batch: &mut Batch<T>,
        result: &mut PublishedBatch,
        put: &mut impl FnMut(usize, &mut Batch<T>) -> Option<Sequence>,
    ) -> bool {
        let wanted = batch.len();
        let kept: Vec<T> =
            if self.handlers.has_sync() { batch.iter().map(T::duplicate).collect() } else { Vec::new() };
        if let Some(sequence) = put(shard, batch) {
            result.last = Some(self.id(shard, sequence));
        }
        let published = wanted - batch.len();
        result.count += published;
        result.handled += kept.iter().take(published).map(|item| self.handlers.call(item)).sum::<usize>();
        published == wanted
    }
}

#[cfg(feature = "server")]
impl Bus<Event> {
    /// Returns the shard of a log that an event goes to: the same in every process, so that a stream stays in order
    /// whichever process publishes it, and over a restart.
    pub(crate) fn log_shard_of(&self, event: &Event) -> u16 {
        let key = self.0.ordering_key.as_ref().map_or_else(
            || {
                // Hashes the text of the ordering key's attributes: the hash of the key itself differs between
                // processes.
                let name = event.stream().or(event.source()).unwrap_or_default();
                let mut crc = flate2::Crc::new();
                crc.update(name.as_bytes());
                u64::from(crc.sum())
            },
            |key| key(event),
        );
        self.0.shard_of_key(key) as u16
    }

    /// Publishes an event for a loop that will read it itself. [`LoopReader::notify_others`](super::LoopReader::notify_others)
    /// must follow: once, after the last of several events. Returns `None` if the bus is closed.
    pub(crate) fn publish_unannounced(&self, event: Event) -> Option<EventId> {
        let inner = &*self.0;
        let published = inner.publish(event, |shard, event| {
            let assign = |event: &Event, sequence| event.set_id(inner.id(shard, sequence));
            inner.with_writer_unannounced(|writer| writer.publish(shard, event, assign))
        });
        published.ok().and_then(|published| published.id)
    }

    /// Publishes an event under an id that it got elsewhere. See [`publish_identified`](Self::publish_identified).
    pub(crate) fn publish_placed(&self, event: Event, id: EventId) {
        let event = event.into_publishable();
        event.set_id(id);
        self.publish_identified(event);
    }

    /// Publishes an event that has its id from elsewhere, the log of an engine: it keeps that id, regardless of its sequence in the ring.
    /// The event may have other handles. For one thread at a time.
    pub(crate) fn publish_identified(&self, event: Event) {
        let inner = &*self.0;
        let shard = event.id().map_or(0, |id| usize::from(id.shard)).min(self.shards() - 1);
        // A closed bus takes nothing more, and its server ends.
        let _ = inner.publish_in(shard, event, |shard, event| {
            inner.with_writer(|writer| writer.publish(shard, event, |_, _| ()))
        });
    }
}

impl<T: Item> Bus<T> {
    /// Publishes an item, which gets an id. Every subscriber will see it or receive a gap in its place.
    ///
    /// Never fails, never waits for a reader, and takes no lock that another thread holds. Makes no system call unless
    /// a reader is asleep: then one wake for that reader, however many events follow. One step can wait, and only for
    /// another publisher that the scheduler stopped in the middle of its few writes while the others published a whole
    /// ring. That wait is bounded, and after it another sequence is taken. All other steps are wait-free. Never
    /// allocates, except when the list of evicted events grows. Handlers added with [`on_sync`](Self::on_sync) run in
    /// this call.
    ///
    /// An event that was published before, or that has other handles, is published as a copy. A closed bus drops the item
    /// ([`close`](Self::close), [`try_publish`](Self::try_publish)).
    #[inline]
    pub fn publish(&self, item: impl IntoItem<T>) -> Published {
        self.try_publish(item).unwrap_or_default()
    }

    /// Publishes as [`publish`](Self::publish) does, and reports a closed bus.
    ///
    /// # Errors
    /// [`PublishError`] with the item if the bus is closed.
    #[inline]
    pub fn try_publish(&self, item: impl IntoItem<T>) -> Result<Published, PublishError<T>> {
        let inner = &*self.0;
        let published = inner.publish(item.into_item(), |shard, item| {
            let assign = |item: &T, sequence| item.set_id(inner.id(shard, sequence));
            if T::Codec::COUNTED {
                inner.with_writer(|writer| writer.publish(shard, item, assign))
            } else {
                inner.rings.publish_inline(shard, item, assign)
            }
        });
        published.map_err(PublishError)
    }

    /// Closes the bus for all publishers: subscribers read what was published before and end, as when the last handle
    /// is dropped. Handlers and tasks end too; those that sleep are woken. An item published afterwards is returned by
    /// [`try_publish`](Self::try_publish), and dropped by other calls. Takes a lock that other calls of `close` hold.
    pub fn close(&self) {
        self.0.rings.close();
    }

    /// Returns whether the bus is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.rings.is_closed()
    }

    /// Publishes items in order, claiming sequences for many at once: several times faster than one by one. Other
    /// publishers' items may come between them. Waits no more than [`publish`](Self::publish) does.
    ///
    /// The iterator yields up to 64 items before they are published together. It is not called while sequences are
    /// claimed, so it may be slow, publish, or panic. If it panics, the complete runs of 64 before are published and
    /// the rest is dropped. If the bus is closed meanwhile, [`PublishedBatch::count`] is the number of items published;
    /// up to 64 more were taken from the iterator and dropped.
    ///
    /// # Panics
    /// Only if the iterator does.
    pub fn publish_batch(&self, items: impl IntoIterator<Item: IntoItem<T>>) -> PublishedBatch {
        let inner = &*self.0;
        inner.publish_batch(items, |shard, batch| {
            let assign = |item: &T, sequence| item.set_id(inner.id(shard, sequence));
            if T::Codec::COUNTED {
                inner.with_writer(|writer| writer.publish_batch(shard, batch, assign))
            } else {
                inner.rings.publish_batch_inline(shard, batch, assign)
            }
        })
    }

    /// Creates a publisher for one thread. It is a few nanoseconds per event faster than [`Bus::publish`], because it
    /// keeps its own list of overwritten events. Allocates.
    #[must_use]
    pub fn publisher(&self) -> Publisher<T> {
        Publisher { writer: RingWriter::new(Arc::clone(&self.0.rings)), bus: self.clone() }
    }
}

/// Publisher of one thread. A clone costs as much as a new one.
///
/// The bus stays open while the publisher exists.
pub struct Publisher<T: Item = Event> {
    writer: RingWriter<T::Codec>,
    bus: Bus<T>,
}

impl<T: Item> Publisher<T> {
    /// Publishes as [`Bus::publish`] does.
    #[inline]
    pub fn publish(&mut self, item: impl IntoItem<T>) -> Published {
        self.try_publish(item).unwrap_or_default()
    }

    /// Publishes as [`Bus::try_publish`] does.
    ///
    /// # Errors
    /// [`PublishError`] with the item if the bus is closed.
    #[inline]
    pub fn try_publish(&mut self, item: impl IntoItem<T>) -> Result<Published, PublishError<T>> {
        let inner = &*self.bus.0;
        let published = inner.publish(item.into_item(), |shard, item| {
            let assign = |item: &T, sequence| item.set_id(inner.id(shard, sequence));
            let sequence = self.writer.publish(shard, item, assign);
            inner.rings.notify();
            sequence
        });
        published.map_err(PublishError)
    }

    /// Publishes as [`Bus::publish_batch`] does.
    ///
    /// # Panics
    /// Only if the iterator does.
    pub fn publish_batch(&mut self, items: impl IntoIterator<Item: IntoItem<T>>) -> PublishedBatch {
        let inner = &*self.bus.0;
        inner.publish_batch(items, |shard, batch| {
            let assign = |item: &T, sequence| item.set_id(inner.id(shard, sequence));
            let last = self.writer.publish_batch(shard, batch, assign);
            inner.rings.notify();
            last
        })
    }

    /// Returns the bus that it publishes to.
    #[must_use]
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

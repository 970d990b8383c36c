//! The bus that fills up: publishers wait for the slowest subscriber instead of overwriting what it has not read.
//!
//! Invariants:
//! - Every subscriber gets every item published while it was there, in order.
//! - A publisher that finds no space gets its item back or waits, as it chose.

use std::fmt;
use std::sync::Arc as Count;
use std::time::{Duration, Instant};

use super::builder::{BusBuilder, BusConfigError};
use super::epoch::new_epoch;
use super::event_count::Wake;
use super::item::Item;
use super::lossless_subscriber::LosslessSubscriber;
use super::publisher::PublishError;
use super::ring::{Batch, Claim, Gated, SlotCodec, SpaceWaiter};
use super::shared::IntoItem;
use crate::event::{Event, EventId, Sequence};
use crate::sync::{Arc, Backoff, hint, thread};

/// Looks for space before a publisher sleeps. With the spins between them they take as long as waking a thread: about
/// 15 us.
const SPACE_LOOKS: u32 = if cfg!(loom) { 0 } else { 64 };
/// Spins between two looks. Each look takes the readers' cache lines.
const SPINS_PER_LOOK: u32 = 16;

/// An item was not published. The error returns the item.
///
/// No other variant will be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryPublishError<T = Event> {
    /// There was no space: the slowest subscriber is a whole ring behind.
    Full(T),
    /// The bus is closed.
    Closed(T),
}

impl<T> TryPublishError<T> {
    /// Returns the item.
    pub fn into_inner(self) -> T {
        let (Self::Full(item) | Self::Closed(item)) = self;
        item
    }
}

impl<T> fmt::Display for TryPublishError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the slowest subscriber is a whole ring behind",
            Self::Closed(_) => "the bus is closed",
        })
    }
}

impl<T: fmt::Debug> std::error::Error for TryPublishError<T> {}

/// A bus that loses nothing: a full ring makes publishers wait, or gives their items back, until its slowest subscriber
/// has read.
///
/// There is one ring, so all items are in one order. A handle: clones are the same bus. When the last handle is dropped, or one
/// calls [`close`](Self::close), subscribers read what is left and end. With no subscriber no item can be lost, and publishing always succeeds.
///
/// ```
/// use fanwire::bus::TryPublishError;
/// use fanwire::{Event, Filter, LosslessBus};
///
/// let bus = LosslessBus::builder().capacity(1).build_lossless()?;
/// let mut reader = bus.subscribe(Filter::new());
/// bus.try_publish(Event::builder("a").build()?)?;
/// let Err(TryPublishError::Full(event)) = bus.try_publish(Event::builder("b").build()?) else { panic!("no space") };
/// assert_eq!(reader.recv()?.event_type(), "a");
/// bus.publish_blocking(event)?;
/// assert_eq!(reader.recv()?.event_type(), "b");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LosslessBus<T: Item = Event>(Count<LosslessInner<T>>);

struct LosslessInner<T: Item> {
    ring: Arc<Gated<T::Codec>>,
    epoch: u64,
}

impl<T: Item> LosslessInner<T> {
    fn new(builder: &BusBuilder<T>, solo: bool) -> Result<Self, BusConfigError> {
        builder.check()?;
        Ok(Self { ring: Arc::new(Gated::new(builder.capacity, solo)), epoch: new_epoch() })
    }

    fn id(&self, sequence: Sequence) -> EventId {
        EventId { epoch: self.epoch, shard: 0, sequence }
    }

    /// Tries to publish until there is space or the deadline has passed. Sleeps while a reader's gate leaves no space.
    fn publish_until(
        &self,
        item: T,
        deadline: Option<Instant>,
        mut attempt: impl FnMut(T) -> Result<Sequence, T>,
    ) -> Result<EventId, TryPublishError<T>> {
        let mut item = item;
        let backoff = Backoff::new();
        loop {
            item = match attempt(item) {
                Ok(sequence) => return Ok(self.id(sequence)),
                Err(back) => back,
            };
            if self.ring.is_refusing() {
                return Err(TryPublishError::Closed(item));
            }
            self.wait_for_space(&backoff, deadline);
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return attempt(item).map(|sequence| self.id(sequence)).map_err(|back| self.refused(back));
            }
        }
    }

    /// Returns the reason why an item was not published.
    fn refused(&self, item: T) -> TryPublishError<T> {
        if self.ring.is_refusing() { TryPublishError::Closed(item) } else { TryPublishError::Full(item) }
    }

    /// Tries to publish until there is space. Returns the item if the bus is closed.
    #[inline]
    fn publish_waiting(
        &self,
        mut item: T,
        mut attempt: impl FnMut(T) -> Result<Sequence, T>,
    ) -> Result<EventId, T> {
        let backoff = Backoff::new();
        loop {
            match attempt(item) {
                Ok(sequence) => return Ok(self.id(sequence)),
                Err(back) => item = back,
            }
            if self.ring.is_refusing() {
                return Err(item);
            }
            self.wait_for_space(&backoff, None);
        }
    }

    /// Publishes all items, as many at once as there is space for. If the bus is closed, returns those that it took.
    fn publish_all(
        &self,
        items: impl IntoIterator<Item: IntoItem<T>>,
        mut attempt: impl FnMut(&mut Batch<T>) -> Option<Sequence>,
    ) -> Result<Option<EventId>, Vec<T>> {
        let mut items = items.into_iter().fuse().map(|item| item.into_item().into_publishable());
        let mut batch = Batch::new();
        let mut last = None;
        let backoff = Backoff::new();
        loop {
            // Nothing is claimed while the iterator runs.
            batch.fill(&mut items);
            if batch.is_empty() {
                return Ok(last);
            }
            match attempt(&mut batch) {
                Some(sequence) => {
                    last = Some(self.id(sequence));
                    backoff.reset();
                }
                None if self.ring.is_refusing() => return Err(batch.into_items()),
                None => self.wait_for_space(&backoff, None),
            }
        }
    }

    /// Waits for space, one step longer each time: spins, then yields, then sleeps.
    fn wait_for_space(&self, backoff: &Backoff, deadline: Option<Instant>) {
        if !backoff.is_completed() || !self.ring.is_full() {
            backoff.snooze();
            return;
        }
        for _ in 0..SPACE_LOOKS {
            (0..SPINS_PER_LOOK).for_each(|_| hint::spin_loop());
            if !self.ring.is_full() {
                return;
            }
        }
        let waiter = SpaceWaiter::new(&self.ring, Wake::Thread(thread::current()));
        // After the announcement: a reader that passes from here on wakes this publisher.
        if self.ring.is_full() {
            park(deadline);
        }
        drop(waiter);
    }
}

fn park(deadline: Option<Instant>) {
    match deadline {
        None => thread::park(),
        Some(deadline) => thread::park_timeout(deadline.saturating_duration_since(Instant::now())),
    }
}

impl LosslessBus<Event> {
    /// Returns a builder; end with [`BusBuilder::build_lossless`].
    #[must_use]
    pub fn builder() -> BusBuilder<Event> {
        BusBuilder::new()
    }
}

impl<T: Item> BusBuilder<T> {
    /// Creates a lossless bus. It has one ring, bounded by its number of items, and releases nothing early: neither
    /// [`shards`](Self::shards) nor [`max_bytes`](Self::max_bytes) can be set. Allocates the ring.
    ///
    /// # Errors
    /// [`BusConfigError`] if the capacity is not a power of two in range, or shards or a bound in bytes were set.
    pub fn build_lossless(self) -> Result<LosslessBus<T>, BusConfigError> {
        self.check_lossless()?;
        Ok(LosslessBus(Count::new(LosslessInner::new(&self, false)?)))
    }

    /// Creates a lossless bus with a single publisher, which needs no atomic read-modify-write: several times
    /// faster than one that may be shared. Allocates the ring.
    ///
    /// # Errors
    /// As [`build_lossless`](Self::build_lossless).
    pub fn build_lossless_solo(self) -> Result<SoloPublisher<T>, BusConfigError> {
        self.check_lossless()?;
        let inner = LosslessInner::new(&self, true)?;
        Ok(SoloPublisher { claim: Claim::new(&inner.ring), inner })
    }
}

impl<T: Item> LosslessBus<T> {
    /// Returns a subscriber to the items that the filter lets through, from now on. Publishers wait while it is a whole
    /// ring behind.
    #[must_use = "a subscriber that is kept and not read holds up publishers"]
    pub fn subscribe(&self, filter: impl Into<T::Filter>) -> LosslessSubscriber<T> {
        LosslessSubscriber::new(&self.0.ring, filter.into(), &[])
    }

    /// Returns a subscriber that gets an item only after all of the `others` have passed it, whether their filters want
    /// it or not. Stages may depend on each other in a line, a diamond or any other shape.
    ///
    /// A subscriber has passed an item from `recv` when it is called for the next one, and an item shown to
    /// `visit_batch` or a handler when that call returned. Everything that the `others` did with the item is visible to
    /// the new subscriber. A subscriber that is dropped holds nothing back.
    ///
    /// ```
    /// use fanwire::{LosslessBus, Predicate};
    ///
    /// let bus = LosslessBus::builder().carrying::<u64>().capacity(8).build_lossless()?;
    /// let (mut journal, mut replica) = (bus.subscribe(Predicate::all()), bus.subscribe(Predicate::all()));
    /// let mut apply = bus.subscribe_after(Predicate::all(), &[&journal, &replica]);
    /// bus.try_publish(7)?;
    /// assert_eq!(journal.visit_batch(1, |_| ()), 1);
    /// assert!(apply.try_recv().is_err(), "the replica does not have it");
    /// assert_eq!(replica.visit_batch(1, |_| ()), 1);
    /// assert_eq!(apply.try_recv()?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// If one of the others reads another bus.
    #[must_use = "a subscriber that is kept and not read holds up publishers"]
    pub fn subscribe_after(
        &self,
        filter: impl Into<T::Filter>,
        others: &[&LosslessSubscriber<T>],
    ) -> LosslessSubscriber<T> {
        LosslessSubscriber::new(&self.0.ring, filter.into(), others)
    }

    /// Publishes an item. Never blocks and never allocates; lock-free.
    ///
    /// # Errors
    /// [`TryPublishError`] with the item if there is no space, or the bus is closed.
    #[inline]
    pub fn try_publish(&self, item: impl IntoItem<T>) -> Result<EventId, TryPublishError<T>> {
        self.attempt(item.into_item().into_publishable())
            .map(|sequence| self.0.id(sequence))
            .map_err(|back| self.0.refused(back))
    }

    #[inline]
    fn attempt(&self, item: T) -> Result<Sequence, T> {
        self.0.ring.try_publish(item, |item, sequence| item.set_id(self.0.id(sequence)))
    }

    /// Publishes an item. Blocks until there is space: spins for a moment, then sleeps.
    ///
    /// # Errors
    /// [`PublishError`] with the item if the bus is closed.
    pub fn publish_blocking(&self, item: impl IntoItem<T>) -> Result<EventId, PublishError<T>> {
        self.0
            .publish_waiting(item.into_item().into_publishable(), |item| self.attempt(item))
            .map_err(PublishError)
    }

    /// Publishes an item. Blocks for at most `timeout` until there is space.
    ///
    /// # Errors
    /// [`TryPublishError`] with the item if there was no space in time, or the bus is closed.
    pub fn publish_timeout(
        &self,
        item: impl IntoItem<T>,
        timeout: Duration,
    ) -> Result<EventId, TryPublishError<T>> {
        // A deadline that the clock cannot represent counts as none.
        let deadline = Instant::now().checked_add(timeout);
        self.0.publish_until(item.into_item().into_publishable(), deadline, |item| self.attempt(item))
    }

    /// Publishes all items in order, claiming space for many at once. Blocks while there is no space. Other publishers'
    /// items may come between them. Returns the id of the last item, `None` if there were no items.
    ///
    /// The iterator yields up to 64 items before they are published together. Nothing is claimed while it runs, so it
    /// may be slow, publish, or panic. If it panics, the complete runs of 64 before are published and the rest is
    /// dropped.
    ///
    /// # Errors
    /// [`PublishError`] if the bus is closed, with the items, at most 64, that were taken from the iterator and not published.
    ///
    /// # Panics
    /// Only if the iterator does.
    pub fn publish_batch_blocking(
        &self,
        items: impl IntoIterator<Item: IntoItem<T>>,
    ) -> Result<Option<EventId>, PublishError<Vec<T>>> {
        let inner = &*self.0;
        let published = inner.publish_all(items, |batch| {
            inner.ring.try_publish_batch(batch, |item, sequence| item.set_id(inner.id(sequence)))
        });
        published.map_err(PublishError)
    }

    /// Closes the bus for all publishers: subscribers read what was published before and end. Publishers that wait for space
    /// get their items back. Never blocks.
    pub fn close(&self) {
        self.0.ring.close();
    }

    /// Returns whether the bus is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.ring.is_closed()
    }

    /// Returns how many items the slowest subscriber may be behind.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.ring.capacity() as usize
    }

    /// Returns the number of wakes of sleeping subscribers and publishers so far: each was one system call.
    #[must_use]
    pub fn wakes(&self) -> u64 {
        self.0.ring.wakes()
    }

    #[cfg(feature = "async")]
    pub(super) fn ring(&self) -> &Arc<Gated<T::Codec>> {
        &self.0.ring
    }
}

impl<T: Item> Clone for LosslessBus<T> {
    fn clone(&self) -> Self {
        Self(Count::clone(&self.0))
    }
}

impl<T: Item> Drop for LosslessInner<T> {
    fn drop(&mut self) {
        self.ring.close();
    }
}

impl<T: Item> fmt::Debug for LosslessBus<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LosslessBus").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

/// The only publisher of a lossless bus, and the only handle that closes it. When it is dropped, subscribers read what
/// is left and end.
pub struct SoloPublisher<T: Item = Event> {
    claim: Claim,
    inner: LosslessInner<T>,
}

impl<T: Item> SoloPublisher<T> {
    /// Subscribes as [`LosslessBus::subscribe`] does.
    #[must_use = "a subscriber that is kept and not read holds up the publisher"]
    pub fn subscribe(&self, filter: impl Into<T::Filter>) -> LosslessSubscriber<T> {
        LosslessSubscriber::new(&self.inner.ring, filter.into(), &[])
    }

    /// Subscribes as [`LosslessBus::subscribe_after`] does.
    ///
    /// # Panics
    /// If one of the others reads another bus.
    #[must_use = "a subscriber that is kept and not read holds up the publisher"]
    pub fn subscribe_after(
        &self,
        filter: impl Into<T::Filter>,
        others: &[&LosslessSubscriber<T>],
    ) -> LosslessSubscriber<T> {
        LosslessSubscriber::new(&self.inner.ring, filter.into(), others)
    }

    /// Publishes an item. Never blocks and never allocates; wait-free.
    ///
    /// # Errors
    /// [`TryPublishError::Full`] with the item if there is no space.
    #[inline]
    pub fn try_publish(&mut self, item: impl IntoItem<T>) -> Result<EventId, TryPublishError<T>> {
        self.attempt(item.into_item().into_publishable()).map_err(TryPublishError::Full)
    }

    /// Publishes an item. Blocks until there is space: spins for a moment, then sleeps.
    #[inline]
    pub fn publish_blocking(&mut self, item: impl IntoItem<T>) -> EventId {
        match self.attempt(item.into_item().into_publishable()) {
            Ok(id) => id,
            Err(item) => self.publish_when_space(item),
        }
    }

    #[inline(always)]
    fn attempt(&mut self, item: T) -> Result<EventId, T> {
        let Self { claim, inner } = self;
        let assign = |item: &T, sequence| item.set_id(inner.id(sequence));
        claim.try_publish(&inner.ring, item, assign).map(|sequence| inner.id(sequence))
    }

    #[cold]
    fn publish_when_space(&mut self, mut item: T) -> EventId {
        let backoff = Backoff::new();
        loop {
            self.inner.wait_for_space(&backoff, None);
            match self.attempt(item) {
                Ok(id) => return id,
                Err(back) => item = back,
            }
        }
    }

    /// Publishes as [`LosslessBus::publish_timeout`] does.
    ///
    /// # Errors
    /// [`TryPublishError::Full`] with the item if there was no space in time.
    pub fn publish_timeout(
        &mut self,
        item: impl IntoItem<T>,
        timeout: Duration,
    ) -> Result<EventId, TryPublishError<T>> {
        let deadline = Instant::now().checked_add(timeout);
        let Self { claim, inner } = self;
        inner.publish_until(item.into_item().into_publishable(), deadline, |item| {
            claim.try_publish(&inner.ring, item, |item, sequence| item.set_id(inner.id(sequence)))
        })
    }

    /// Publishes as [`LosslessBus::publish_batch_blocking`] does; no other items come between them.
    ///
    /// # Panics
    /// Only if the iterator does.
    pub fn publish_batch_blocking(&mut self, items: impl IntoIterator<Item: IntoItem<T>>) -> Option<EventId> {
        if !T::Codec::COUNTED {
            return self.publish_in_place(items.into_iter().map(|item| item.into_item().into_publishable()));
        }
        let Self { claim, inner } = self;
        let published = inner.publish_all(items, |batch| {
            claim.try_publish_batch(&inner.ring, batch, |item, sequence| item.set_id(inner.id(sequence)))
        });
        // Never refused: the bus is closed when this publisher is dropped.
        published.unwrap_or_default()
    }

    /// Publishes items that own nothing, writing each directly to its slot.
    fn publish_in_place(&mut self, mut items: impl Iterator<Item = T>) -> Option<EventId> {
        let Self { claim, inner } = self;
        let backoff = Backoff::new();
        let mut last = None;
        loop {
            let assign = |item: &T, sequence| item.set_id(inner.id(sequence));
            let (count, is_over) = claim.try_publish_from(&inner.ring, &mut items, assign);
            if count > 0 {
                last = Some(inner.id(claim.next() - 1));
                backoff.reset();
            }
            if is_over {
                return last;
            }
            if count == 0 {
                inner.wait_for_space(&backoff, None);
            }
        }
    }
}

impl<T: Item> fmt::Debug for SoloPublisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SoloPublisher")
    }
}

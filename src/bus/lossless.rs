//! The bus that fills up: publishers wait for the slowest subscriber instead of overwriting what it has not
//! read.
//!
//! Imports the gated ring. Always: every subscriber gets every item published while it was there, in order;
//! a publisher is told, never overruled, where there is no room.

use std::fmt;
use std::sync::Arc as Count;
use std::time::{Duration, Instant};

use super::builder::{BusBuilder, BusConfigError};
use super::event_count::Wake;
use super::item::Item;
use super::new_epoch;
use super::ring::{Batch, Claim, Gated, GatedReader, PIN_SPAN, SlotCodec, SpaceWaiter};
use super::subscriber::{RecvError, RecvTimeoutError, TryRecvError};
use super::wait::{AdaptiveWait, NEAR, WaitStrategy, Waitable};
use crate::event::{Event, EventId, Sequence};
use crate::sync::{Arc, hint, thread};

/// Looks of a publisher that waits for room before it sleeps.
const SPINS: u32 = 200;
const YIELDS: u32 = 8;

/// An item was not published. The item comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryPublishError<T = Event> {
    /// There was no space: the slowest subscriber is a whole ring behind.
    Full(T),
}

impl<T> TryPublishError<T> {
    /// Returns the item.
    pub fn into_inner(self) -> T {
        let Self::Full(item) = self;
        item
    }
}

impl<T> fmt::Display for TryPublishError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the slowest subscriber is a whole ring behind")
    }
}

impl<T: fmt::Debug> std::error::Error for TryPublishError<T> {}

/// A bus that loses nothing: each subscriber gates it, and a full ring makes publishers wait or turn away.
///
/// One ring, so all items are in one order. A handle: clones are the same bus. When the last one is gone,
/// subscribers read what is left and end. With no subscriber there is nobody to lose anything, and publishing
/// always succeeds.
///
/// ```
/// use fanwire::bus::TryPublishError;
/// use fanwire::{Event, LosslessBus};
///
/// let bus = LosslessBus::builder().capacity(1).build_lossless()?;
/// let mut reader = bus.subscribe();
/// bus.try_publish(Event::builder("a").build()?)?;
/// let Err(TryPublishError::Full(event)) = bus.try_publish(Event::builder("b").build()?) else { panic!("no room") };
/// assert_eq!(reader.recv()?.event_type(), "a");
/// bus.publish_blocking(event);
/// assert_eq!(reader.recv()?.event_type(), "b");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LosslessBus<T: Item = Event>(Count<Inner<T>>);

struct Inner<T: Item> {
    ring: Arc<Gated<T::Codec>>,
    epoch: u64,
}

impl<T: Item> Inner<T> {
    fn new(builder: &BusBuilder<T>, solo: bool) -> Result<Self, BusConfigError> {
        builder.check()?;
        Ok(Self { ring: Arc::new(Gated::new(builder.capacity, solo)), epoch: new_epoch() })
    }

    fn id(&self, sequence: Sequence) -> EventId {
        EventId { epoch: self.epoch, shard: 0, sequence }
    }

    /// Tries until there is room or the deadline is over; sleeps where a gate holds it.
    fn publish_until(
        &self,
        item: T,
        deadline: Option<Instant>,
        mut attempt: impl FnMut(T) -> Result<Sequence, T>,
    ) -> Result<EventId, TryPublishError<T>> {
        let mut item = item;
        let mut looks = 0;
        loop {
            item = match attempt(item) {
                Ok(sequence) => return Ok(self.id(sequence)),
                Err(back) => back,
            };
            self.wait_for_room(&mut looks, deadline);
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return attempt(item).map(|sequence| self.id(sequence)).map_err(TryPublishError::Full);
            }
        }
    }

    /// Tries as long as it takes.
    #[inline]
    fn publish_waiting(&self, mut item: T, mut attempt: impl FnMut(T) -> Result<Sequence, T>) -> EventId {
        let mut looks = 0;
        loop {
            match attempt(item) {
                Ok(sequence) => return self.id(sequence),
                Err(back) => item = back,
            }
            self.wait_for_room(&mut looks, None);
        }
    }

    /// Publishes all, as many at once as there is room for.
    fn publish_all(
        &self,
        items: impl IntoIterator<Item = T>,
        mut attempt: impl FnMut(&mut Batch<T>) -> Option<Sequence>,
    ) -> Option<EventId> {
        let mut items = items.into_iter().fuse().map(T::into_publishable);
        let mut batch = Batch::new();
        let mut last = None;
        let mut looks = 0;
        loop {
            // Nothing is claimed while the iterator runs.
            batch.fill(&mut items);
            if batch.is_empty() {
                return last;
            }
            match attempt(&mut batch) {
                Some(sequence) => (last, looks) = (Some(self.id(sequence)), 0),
                None => self.wait_for_room(&mut looks, None),
            }
        }
    }

    /// One step of waiting for room: spin, then yield, then sleep.
    fn wait_for_room(&self, looks: &mut u32, deadline: Option<Instant>) {
        *looks += 1;
        if *looks <= SPINS {
            hint::spin_loop();
        } else if *looks <= SPINS + YIELDS || !self.ring.is_full() {
            thread::yield_now();
        } else {
            let waiting = SpaceWaiter::new(&self.ring, Wake::Thread(thread::current()));
            // Behind the announcement: a reader that passes from here on wakes us.
            if self.ring.is_full() {
                park(deadline);
            }
            drop(waiting);
        }
    }
}

fn park(deadline: Option<Instant>) {
    match deadline {
        None => thread::park(),
        Some(deadline) => thread::park_timeout(deadline.saturating_duration_since(Instant::now())),
    }
}

impl LosslessBus<Event> {
    /// Describes one; end with [`BusBuilder::build_lossless`].
    pub fn builder() -> BusBuilder<Event> {
        BusBuilder::new()
    }
}

impl<T: Item> BusBuilder<T> {
    /// Makes a lossless bus. It has one ring, which is full by its number of items and lets go of nothing: neither
    /// [`shards`](Self::shards) nor [`max_bytes`](Self::max_bytes) can be set.
    pub fn build_lossless(self) -> Result<LosslessBus<T>, BusConfigError> {
        self.check_lossless()?;
        Ok(LosslessBus(Count::new(Inner::new(&self, false)?)))
    }

    /// Makes a lossless bus with a single publisher, which needs no atomic read-modify-write: several times
    /// faster than one that may be shared.
    pub fn build_lossless_solo(self) -> Result<SoloPublisher<T>, BusConfigError> {
        self.check_lossless()?;
        let inner = Inner::new(&self, true)?;
        Ok(SoloPublisher { claim: Claim::new(&inner.ring), inner })
    }
}

impl<T: Item> LosslessBus<T> {
    /// Reads everything published from now on. While the subscriber exists, what it has not read holds up
    /// publishers.
    pub fn subscribe(&self) -> LosslessSubscriber<T> {
        LosslessSubscriber::new(&self.0.ring)
    }

    /// Publishes, or gives the item back where there is no room. Never blocks; lock-free.
    #[inline]
    pub fn try_publish(&self, item: T) -> Result<EventId, TryPublishError<T>> {
        self.attempt(item.into_publishable())
            .map(|sequence| self.0.id(sequence))
            .map_err(TryPublishError::Full)
    }

    #[inline]
    fn attempt(&self, item: T) -> Result<Sequence, T> {
        self.0.ring.try_publish(item, |item, sequence| item.place(self.0.id(sequence)))
    }

    /// Publishes, waiting for room as long as it takes: spins a moment, then sleeps.
    pub fn publish_blocking(&self, item: T) -> EventId {
        self.0.publish_waiting(item.into_publishable(), |item| self.attempt(item))
    }

    /// Publishes, waiting for room no longer than this; then the item comes back.
    pub fn publish_timeout(&self, item: T, timeout: Duration) -> Result<EventId, TryPublishError<T>> {
        // A time too far away to be told is as good as none.
        let deadline = Instant::now().checked_add(timeout);
        self.0.publish_until(item.into_publishable(), deadline, |item| self.attempt(item))
    }

    /// Publishes all items in order, claiming room for many at once and waiting for it where needed. Other
    /// publishers' items may stand between. Answers the last one's place.
    ///
    /// The iterator gives up to 64 items before they are published together, and nothing is claimed while it runs: it
    /// may take its time, publish itself, or panic. Then what it gave before in whole runs is published, and the rest
    /// is dropped.
    pub fn publish_batch_blocking(&self, items: impl IntoIterator<Item = T>) -> Option<EventId> {
        let inner = &*self.0;
        inner.publish_all(items, |batch| {
            inner.ring.try_publish_batch(batch, |item, sequence| item.place(inner.id(sequence)))
        })
    }

    /// How many items the slowest subscriber may be behind.
    pub fn capacity(&self) -> usize {
        self.0.ring.capacity() as usize
    }

    /// Wakes of sleeping subscribers and publishers so far: each was one system call.
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

impl<T: Item> Drop for Inner<T> {
    fn drop(&mut self) {
        self.ring.close();
    }
}

impl<T: Item> fmt::Debug for LosslessBus<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LosslessBus").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

/// The only publisher of a lossless bus. Dropping it ends the subscribers when they have read what is left.
pub struct SoloPublisher<T: Item = Event> {
    claim: Claim,
    inner: Inner<T>,
}

impl<T: Item> SoloPublisher<T> {
    /// As [`LosslessBus::subscribe`].
    pub fn subscribe(&self) -> LosslessSubscriber<T> {
        LosslessSubscriber::new(&self.inner.ring)
    }

    /// Publishes, or gives the item back where there is no room. WaitStrategy-free.
    #[inline]
    pub fn try_publish(&mut self, item: T) -> Result<EventId, TryPublishError<T>> {
        let Self { claim, inner } = self;
        let place = |item: &T, sequence| item.place(inner.id(sequence));
        let published = claim.try_publish(&inner.ring, item.into_publishable(), place);
        published.map(|sequence| inner.id(sequence)).map_err(TryPublishError::Full)
    }

    /// As [`LosslessBus::publish_blocking`].
    #[inline]
    pub fn publish_blocking(&mut self, item: T) -> EventId {
        let Self { claim, inner } = self;
        inner.publish_waiting(item.into_publishable(), |item| {
            claim.try_publish(&inner.ring, item, |item, sequence| item.place(inner.id(sequence)))
        })
    }

    /// As [`LosslessBus::publish_timeout`].
    pub fn publish_timeout(&mut self, item: T, timeout: Duration) -> Result<EventId, TryPublishError<T>> {
        let deadline = Instant::now().checked_add(timeout);
        let Self { claim, inner } = self;
        inner.publish_until(item.into_publishable(), deadline, |item| {
            claim.try_publish(&inner.ring, item, |item, sequence| item.place(inner.id(sequence)))
        })
    }

    /// As [`LosslessBus::publish_batch_blocking`]; nothing stands between the items.
    pub fn publish_batch_blocking(&mut self, items: impl IntoIterator<Item = T>) -> Option<EventId> {
        let Self { claim, inner } = self;
        inner.publish_all(items, |batch| {
            claim.try_publish_batch(&inner.ring, batch, |item, sequence| item.place(inner.id(sequence)))
        })
    }
}

impl<T: Item> fmt::Debug for SoloPublisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SoloPublisher")
    }
}

/// Reads everything published to a lossless bus since it joined, in order. `for item in subscriber` reads until all
/// publishers are gone; with the feature `async` it is a `futures_core::Stream` that does.
///
/// What it has read makes room for publishers a quarter of the ring or 64 items later at the latest, and
/// whenever it finds nothing more to read.
pub struct LosslessSubscriber<T: Item = Event> {
    reader: GatedReader<T::Codec>,
    waiting: AdaptiveWait,
    /// Items without a wait, as a stream.
    #[cfg(feature = "async")]
    pub(super) ready_run: usize,
}

impl<C: SlotCodec> Waitable for GatedReader<C> {
    #[inline]
    fn is_ready(&self) -> bool {
        self.has_next()
    }

    fn is_done(&self) -> bool {
        self.came_to_end()
    }

    fn is_closed(&self) -> bool {
        self.ring().is_closed()
    }

    /// Nothing is ever given up here.
    fn is_at_hole(&mut self) -> bool {
        false
    }

    fn passed(&self) -> u64 {
        self.next()
    }

    fn capacity(&self) -> u64 {
        self.ring().capacity()
    }

    fn prepare_sleep(&mut self, wake: Wake) -> bool {
        self.prepare_wait(wake);
        if self.is_ready() || self.is_closed() {
            self.cancel_wait();
            return false;
        }
        true
    }

    fn cancel_sleep(&mut self) {
        self.cancel_wait();
    }
}

impl<T: Item> LosslessSubscriber<T> {
    fn new(ring: &Arc<Gated<T::Codec>>) -> Self {
        Self {
            reader: GatedReader::new(Arc::clone(ring)),
            waiting: AdaptiveWait::default(),
            #[cfg(feature = "async")]
            ready_run: 0,
        }
    }

    /// Sets how it waits.
    pub fn with_wait(mut self, wait: WaitStrategy) -> Self {
        self.waiting = AdaptiveWait::new(wait);
        self
    }

    /// What is there now, without waiting.
    #[inline]
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        if let Some(item) = self.take() {
            return Ok(item);
        }
        if !self.reader.ring().is_closed() {
            return Err(TryRecvError::Empty);
        }
        // Closed was seen, so whatever was published can be seen now.
        self.take().ok_or(TryRecvError::Closed)
    }

    #[inline]
    fn take(&mut self) -> Option<T> {
        let mut taken = None;
        self.reader.visit(|item| {
            taken = Some(item.another());
            false
        });
        taken
    }

    /// Waits for the next one.
    #[inline]
    pub fn recv(&mut self) -> Result<T, RecvError> {
        self.waiting.back_off_at_end(&self.reader);
        loop {
            match self.try_recv() {
                Ok(item) => return Ok(item),
                Err(TryRecvError::Closed) => return Err(RecvError),
                Err(TryRecvError::Empty) => _ = self.wait_until(None),
            }
        }
    }

    /// Waits for the next one, but no longer than this.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        let deadline = Instant::now().checked_add(timeout);
        if timeout > NEAR {
            self.waiting.back_off_at_end(&self.reader);
        }
        loop {
            match self.try_recv() {
                Ok(item) => return Ok(item),
                Err(TryRecvError::Closed) => return Err(RecvTimeoutError::Closed),
                Err(TryRecvError::Empty) => {
                    if !self.wait_until(deadline) {
                        return Err(RecvTimeoutError::Timeout);
                    }
                }
            }
        }
    }

    /// Waits until there is at least one, and appends up to `max` of those that are there. Answers how many.
    pub fn recv_batch(&mut self, into: &mut Vec<T>, max: usize) -> Result<usize, RecvError> {
        if max == 0 {
            return Ok(0);
        }
        into.push(self.recv()?);
        Ok(1 + self.visit_batch(max - 1, |item| into.push(item.another())))
    }

    /// Shows up to `max` of what is there to `visit`, by reference and without waiting. Answers how many.
    #[inline]
    pub fn visit_batch(&mut self, max: usize, mut visit: impl FnMut(&T)) -> usize {
        let mut count = 0;
        while count < max {
            let shown = count;
            self.reader.visit(|item| {
                visit(item);
                count += 1;
                count < max
            });
            // Less than a run was all there was. Another look at once would be at the publisher's heels.
            if ((count - shown) as u64) < PIN_SPAN {
                break;
            }
        }
        count
    }

    /// Waits until there is something to read, or the bus is closed.
    pub fn wait(&mut self) {
        self.waiting.back_off_at_end(&self.reader);
        while !self.reader.is_ready() && !self.reader.ring().is_closed() {
            self.wait_until(None);
        }
    }

    /// Until there is something, the bus is closed or time is up. False where time ran out.
    fn wait_until(&mut self, deadline: Option<Instant>) -> bool {
        // Whoever waits has read everything, and a publisher may wait for just that.
        self.reader.pass();
        self.waiting.wait_without_backoff(&mut self.reader, deadline, || false)
    }

    /// How many items are ahead of it.
    pub fn lag(&self) -> u64 {
        self.reader.ring().head().saturating_sub(self.reader.next())
    }

    /// Announces that a task waits; false where there is something after all.
    #[cfg(feature = "async")]
    pub(super) fn sleep_as(&mut self, waker: std::task::Waker) -> bool {
        self.reader.pass();
        self.reader.prepare_sleep(Wake::Task(waker))
    }

    #[cfg(feature = "async")]
    pub(super) fn cancel_sleep(&mut self) {
        self.reader.cancel_sleep();
    }
}

impl<T: Item> LosslessSubscriber<T> {
    /// Reads as an iterator that waits for each, and ends when all publishers are gone.
    pub fn iter(&mut self) -> LosslessIter<'_, T> {
        LosslessIter(self)
    }
}

/// Reads from a [`LosslessSubscriber`], waiting for each; ends when all publishers are gone.
#[derive(Debug)]
pub struct LosslessIter<'a, T: Item = Event>(&'a mut LosslessSubscriber<T>);

/// A [`LosslessSubscriber`] as an iterator that waits for each, and ends when all publishers are gone.
#[derive(Debug)]
pub struct LosslessIntoIter<T: Item = Event>(LosslessSubscriber<T>);

impl<T: Item> Iterator for LosslessIter<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<T: Item> Iterator for LosslessIntoIter<T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<T: Item> IntoIterator for LosslessSubscriber<T> {
    type Item = T;
    type IntoIter = LosslessIntoIter<T>;

    fn into_iter(self) -> LosslessIntoIter<T> {
        LosslessIntoIter(self)
    }
}

#[expect(
    clippy::into_iter_without_iter,
    reason = "`iter`, as channels have it: reading is all that can be done"
)]
impl<'a, T: Item> IntoIterator for &'a mut LosslessSubscriber<T> {
    type Item = T;
    type IntoIter = LosslessIter<'a, T>;

    fn into_iter(self) -> LosslessIter<'a, T> {
        self.iter()
    }
}

impl<T: Item> fmt::Debug for LosslessSubscriber<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LosslessSubscriber").field("lag", &self.lag()).finish_non_exhaustive()
    }
}

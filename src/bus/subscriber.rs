//! A reader of the bus: events in order, gaps as values.
//!
//! Invariant: the events that it delivered, those that its filter left out and those that it reported as missed add up to
//! the events published since it joined.

use std::fmt;
use std::time::Duration;

use super::cursor::Cursor;
use super::delivery::{Delivery, DeliveryRef};
use super::item::Item;
use super::position::PositionError;
use super::receive::{self, LOOK_MAX, Look, Receive, RecvError, RecvTimeoutError, TryRecvError};
use super::subscriber_count::SubscriberCount;
use super::wait::{AdaptiveWait, WaitStrategy};
use super::waitable::Waitable;
use crate::event::{Event, Position, Sequence};

/// Counts of a subscriber. While no thread publishes, `seen + missed + lag` is the number of events published since it
/// joined (or since its last [`seek`](Subscriber::seek)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ledger {
    /// Events it looked at: delivered, or left out by its filter.
    pub seen: u64,
    /// Events reported as missed in gaps.
    pub missed: u64,
    /// Events it has not looked at yet.
    pub lag: u64,
}

/// Reads the events that a filter lets through, from the time of subscribing on.
///
/// `for delivery in subscriber` reads until all publishers are gone; with the feature `async` a subscriber is a
/// `futures_core::Stream` that does the same ([`iter`](Self::iter), [`into_stream`](Self::into_stream),
/// [`recv_async`](Self::recv_async)). A slow subscriber holds up no publisher: the events that it lost are reported by
/// a [`Delivery::Gap`], and it continues. Dropping it ends the subscription.
///
/// A filter's function runs in the calls that read. Its panic comes out of that call; the event is passed over, and the
/// subscriber continues with the next one.
pub struct Subscriber<T: Item = Event> {
    cursor: Cursor<T>,
    filter: T::Filter,
    epoch: u64,
    waiting: AdaptiveWait,
    /// Sum over all shards of the sequences at which the ledger begins.
    start: u64,
    missed_before: u64,
    count: SubscriberCount,
}

impl<T: Item> Subscriber<T> {
    pub(super) fn new(cursor: Cursor<T>, filter: T::Filter, epoch: u64, count: SubscriberCount) -> Self {
        let start = cursor.passed();
        Self { cursor, filter, epoch, waiting: AdaptiveWait::default(), start, missed_before: 0, count }
    }

    /// Sets how the subscriber waits. Default: [`WaitStrategy::SpinThenPark`].
    #[must_use]
    pub fn with_wait(mut self, strategy: WaitStrategy) -> Self {
        self.waiting = AdaptiveWait::new(strategy);
        self
    }

    /// Returns the next delivery without waiting. Never blocks and never allocates.
    ///
    /// The call passes over at most 256 events that the filter leaves out, so it ends however many come.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`] if there is nothing, or if the call passed over 256 events: then [`lag`](Self::lag) is not 0, and the
    /// next call continues after them. [`TryRecvError::Closed`] if all publishers are gone and everything was read.
    #[inline]
    pub fn try_recv(&mut self) -> Result<Delivery<T>, TryRecvError> {
        match self.look(LOOK_MAX) {
            Look::Found(delivery) => Ok(delivery),
            Look::Passed | Look::Empty => Err(TryRecvError::Empty),
            Look::Closed => Err(TryRecvError::Closed),
        }
    }

    #[inline]
    fn take(&mut self, most: usize) -> Look<Delivery<T>> {
        let Self { cursor, filter, .. } = self;
        let mut taken = None;
        let mut passed = 0;
        cursor.visit(|delivery| {
            taken = delivery.wanted(filter).map(DeliveryRef::into_delivery);
            passed += 1;
            taken.is_none() && passed < most
        });
        match taken {
            Some(delivery) => Look::Found(delivery),
            None if passed < most => Look::Empty,
            None => Look::Passed,
        }
    }

    /// Looks once more after the bus was seen closed: every publication before that is visible now, holes included.
    /// Waits for publications that are under way.
    #[cold]
    fn look_at_end(&mut self, most: usize) -> Look<Delivery<T>> {
        match self.take(most) {
            Look::Empty => {
                let mut gap = None;
                self.cursor.skip(|delivery| {
                    gap = Some(delivery.into_delivery());
                    false
                });
                match gap {
                    Some(gap) => Look::Found(gap),
                    None if self.cursor.is_closed() => Look::Closed,
                    None => Look::Empty,
                }
            }
            look => look,
        }
    }

    /// Returns the next delivery. Blocks until there is one; never allocates.
    ///
    /// # Errors
    /// [`RecvError`] if all publishers are gone and everything was read.
    #[inline]
    pub fn recv(&mut self) -> Result<Delivery<T>, RecvError> {
        receive::recv(self)
    }

    /// Returns the next delivery. Blocks for at most `timeout`, also while unwanted events come: the clock is read
    /// every 32 events that the filter leaves out.
    ///
    /// # Errors
    /// [`RecvTimeoutError::Timeout`] if nothing arrived in time, [`RecvTimeoutError::Closed`] if all publishers are gone and
    /// everything was read.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Delivery<T>, RecvTimeoutError> {
        receive::recv_timeout(self, timeout)
    }

    /// Blocks until there is a delivery, appends up to `max` of those that are there to `into`, and returns their number.
    /// After the first it passes over at most 256 events that the filter leaves out. Allocates only to grow `into`.
    ///
    /// # Errors
    /// [`RecvError`] if all publishers are gone and everything was read.
    pub fn recv_batch(&mut self, into: &mut Vec<Delivery<T>>, max: usize) -> Result<usize, RecvError> {
        if max == 0 {
            return Ok(0);
        }
        into.push(self.recv()?);
        Ok(1 + self.visit_batch(max - 1, |delivery| into.push(delivery.into_delivery())))
    }

    /// Shows up to `max` deliveries to `visit`, by reference, and returns their number. Never blocks and never allocates:
    /// no item is cloned and no count is touched, so this is the fastest way to read. It passes over at most 256 events that
    /// the filter leaves out; [`lag`](Self::lag) shows whether there are more.
    ///
    /// The events shown stay in memory until the call returns, at most 64 of them beyond the ring.
    ///
    /// # Panics
    /// Only if `visit` or the filter's function does; the event is passed over.
    #[inline]
    pub fn visit_batch(&mut self, max: usize, mut visit: impl FnMut(DeliveryRef<'_, T>)) -> usize {
        let Self { cursor, filter, .. } = self;
        let (mut count, mut passed) = (0, 0);
        if max > 0 {
            cursor.visit(|delivery| {
                if let Some(delivery) = delivery.wanted(filter) {
                    count += 1;
                    visit(delivery);
                } else {
                    passed += 1;
                }
                count < max && passed < LOOK_MAX
            });
        }
        count
    }

    /// Blocks until there is something to read, or the bus is closed.
    pub fn wait(&mut self) {
        self.waiting.back_off_at_end(&self.cursor);
        if !self.cursor.is_ready() {
            receive::wait(self, None);
        }
    }

    /// Returns whether nothing more will come. Earlier events may still be there to read.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.cursor.rings().is_closed()
    }

    /// Returns the number of events that it has not looked at, over all shards, whether its filter wants them or not.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.cursor.lag()
    }

    /// Returns the position of the next event that it will look at.
    #[must_use]
    pub fn position(&self) -> Position {
        self.cursor.position(self.epoch)
    }

    /// Moves to a position, forward or back. Events that the ring no longer holds there come as a gap. The
    /// [`ledger`](Self::ledger) starts again from zero.
    ///
    /// # Errors
    /// [`PositionError`] if the position is of another epoch, has another number of shards, or is ahead of the newest
    /// event. The subscriber stays where it was.
    pub fn seek(&mut self, position: &Position) -> Result<(), PositionError> {
        self.cursor.seek(position, self.epoch)?;
        self.start = self.cursor.passed();
        self.missed_before = self.cursor.missed();
        Ok(())
    }

    /// Returns its ledger.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let missed = self.cursor.missed() - self.missed_before;
        Ledger { seen: self.cursor.passed() - self.start - missed, missed, lag: self.lag() }
    }

    /// Returns the next sequence that it will look at in a shard; `None` if the bus has no such shard.
    #[must_use]
    pub fn next_sequence(&self, shard: u16) -> Option<Sequence> {
        (usize::from(shard) < self.cursor.shards()).then(|| self.cursor.next(shard.into()))
    }

    /// Returns an iterator that blocks for each delivery, and ends when all publishers are gone and everything was read.
    pub fn iter(&mut self) -> SubscriberIter<'_, T> {
        SubscriberIter(self)
    }

    /// Returns the cursor and the filter.
    pub(super) fn parts(&mut self) -> (&mut Cursor<T>, &T::Filter) {
        (&mut self.cursor, &self.filter)
    }
}

impl<T: Item> Receive for Subscriber<T> {
    type Received = Delivery<T>;
    type Source = Cursor<T>;

    #[inline]
    fn look(&mut self, most: usize) -> Look<Delivery<T>> {
        match self.take(most) {
            Look::Empty if self.cursor.rings().is_closed() => self.look_at_end(most),
            look => look,
        }
    }

    #[inline]
    fn waiting(&mut self) -> (&mut Cursor<T>, &mut AdaptiveWait) {
        (&mut self.cursor, &mut self.waiting)
    }
}

/// Reads from a [`Subscriber`], blocking for each delivery; ends when all publishers are gone. See [`Subscriber::iter`].
#[derive(Debug)]
pub struct SubscriberIter<'a, T: Item = Event>(&'a mut Subscriber<T>);

/// A [`Subscriber`] as an iterator that blocks for each delivery, and ends when all publishers are gone.
///
/// The subscriber itself is not an iterator, because it is a stream, and both traits have a method `next`.
#[derive(Debug)]
pub struct SubscriberIntoIter<T: Item = Event>(Subscriber<T>);

impl<T: Item> Iterator for SubscriberIter<'_, T> {
    type Item = Delivery<T>;

    #[inline]
    fn next(&mut self) -> Option<Delivery<T>> {
        self.0.recv().ok()
    }
}

impl<T: Item> Iterator for SubscriberIntoIter<T> {
    type Item = Delivery<T>;

    #[inline]
    fn next(&mut self) -> Option<Delivery<T>> {
        self.0.recv().ok()
    }
}

impl<T: Item> IntoIterator for Subscriber<T> {
    type Item = Delivery<T>;
    type IntoIter = SubscriberIntoIter<T>;

    fn into_iter(self) -> SubscriberIntoIter<T> {
        SubscriberIntoIter(self)
    }
}

#[expect(
    clippy::into_iter_without_iter,
    reason = "`iter`, as channels have it: reading is all that can be done"
)]
impl<'a, T: Item> IntoIterator for &'a mut Subscriber<T> {
    type Item = Delivery<T>;
    type IntoIter = SubscriberIter<'a, T>;

    fn into_iter(self) -> SubscriberIter<'a, T> {
        self.iter()
    }
}

impl<T: Item> Drop for Subscriber<T> {
    fn drop(&mut self) {
        self.count.leave();
    }
}

impl<T: Item> fmt::Debug for Subscriber<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("lag", &self.lag()).finish_non_exhaustive()
    }
}

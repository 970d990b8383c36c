//! A subscription as its thread sees it: events in order, gaps as values.
//!
//! Imports the cursor. Always: what it delivered, what its filter left out and what it told as missed add up
//! to what was published since it joined.

use std::fmt;
use std::time::{Duration, Instant};

use super::cursor::Cursor;
use super::item::Item;
use super::position::PositionError;
use super::wait::{AdaptiveWait, NEAR, WaitStrategy, Waitable};
use super::{Delivery, DeliveryRef, SubscriberCount};
use crate::event::{Event, Position, Sequence};

/// Events that are not wanted of which one look passes over at most so many, so that it ends however many come.
pub(super) const LOOK_MAX: usize = 256;

/// The same between two looks at the clock: with a filter that takes 10 us for each, a third of a millisecond.
const LOOK_TIMED_MAX: usize = 32;

/// There was nothing to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRecvError {
    /// Nothing yet; or [`Subscriber::try_recv`] passed over as many events as it does at a time.
    Empty,
    /// Nothing any more: all publishers are gone, and everything was read.
    Closed,
}

/// Nothing came in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvTimeoutError {
    /// Time ran out.
    Timeout,
    /// All publishers are gone, and everything was read.
    Closed,
}

/// All publishers are gone, and everything was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvError;

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "nothing to receive yet",
            Self::Closed => "the bus is closed",
        })
    }
}

impl fmt::Display for RecvTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "nothing came in time",
            Self::Closed => "the bus is closed",
        })
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bus is closed")
    }
}

impl std::error::Error for TryRecvError {}
impl std::error::Error for RecvTimeoutError {}
impl std::error::Error for RecvError {}

/// A subscriber's account. At any quiet moment `seen + missed + lag` is what was published since it joined
/// (or since its last [`seek`](Subscriber::seek)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Events it looked at: delivered, or left out by its filter.
    pub seen: u64,
    /// Events told as missed in gaps.
    pub missed: u64,
    /// Events it has not looked at yet.
    pub lag: u64,
}

/// Reads what a filter lets through, from the time of subscribing on.
///
/// `for delivery in subscriber` reads until all publishers are gone; with the feature `async` it is a
/// `futures_core::Stream` that does ([`iter`](Self::iter), [`into_stream`](Self::into_stream),
/// [`recv_async`](Self::recv_async)). A slow subscriber holds up nobody: what it lost is told by a
/// [`Delivery::Gap`], and it goes on. Dropping it ends the subscription.
///
/// A filter's function runs in the calls that read. Its panic comes out of that call; the event is passed over, and the
/// subscriber goes on with the next one.
pub struct Subscriber<T: Item = Event> {
    cursor: Cursor<T>,
    filter: T::Filter,
    epoch: u64,
    waiting: AdaptiveWait,
    /// Where the account begins, all shards added up.
    start: u64,
    missed_before: u64,
    count: SubscriberCount,
    /// Deliveries without a wait, as a stream.
    #[cfg(feature = "async")]
    pub(super) ready_run: usize,
}

impl<T: Item> Subscriber<T> {
    pub(super) fn new(cursor: Cursor<T>, filter: T::Filter, epoch: u64, count: SubscriberCount) -> Self {
        let start = cursor.passed();
        Self {
            cursor,
            filter,
            epoch,
            waiting: AdaptiveWait::default(),
            start,
            missed_before: 0,
            count,
            #[cfg(feature = "async")]
            ready_run: 0,
        }
    }

    /// Sets how it waits.
    pub fn with_wait(mut self, wait: WaitStrategy) -> Self {
        self.waiting = AdaptiveWait::new(wait);
        self
    }

    /// What is there now, without waiting. It passes over at most 256 events that the filter leaves out, so it ends
    /// however many come: `Empty` means that there was nothing else, or that it passed over so many. In the latter
    /// case [`lag`](Self::lag) is not 0, and the next call goes on behind them.
    #[inline]
    pub fn try_recv(&mut self) -> Result<Delivery<T>, TryRecvError> {
        match self.look(LOOK_MAX) {
            Look::SlotRead(delivery) => Ok(delivery),
            Look::Passed | Look::Empty => Err(TryRecvError::Empty),
            Look::Closed => Err(TryRecvError::Closed),
        }
    }

    /// What is there now, behind at most so many that are not wanted.
    #[inline]
    pub(super) fn look(&mut self, most: usize) -> Look<T> {
        match self.take(most) {
            Look::Empty if self.cursor.rings().is_closed() => self.look_at_end(most),
            look => look,
        }
    }

    #[inline]
    fn take(&mut self, most: usize) -> Look<T> {
        let Self { cursor, filter, .. } = self;
        let mut taken = None;
        let mut passed = 0;
        cursor.visit(|visit| {
            taken = visit.wanted(filter).map(DeliveryRef::into_delivery);
            passed += 1;
            taken.is_none() && passed < most
        });
        match taken {
            Some(delivery) => Look::SlotRead(delivery),
            None if passed < most => Look::Empty,
            None => Look::Passed,
        }
    }

    /// Closed was seen, so whatever was published can be seen now, holes included.
    #[cold]
    fn look_at_end(&mut self, most: usize) -> Look<T> {
        match self.take(most) {
            Look::Empty => {
                let mut gap = None;
                self.cursor.skip(|visit| {
                    gap = Some(visit.into_delivery());
                    false
                });
                gap.map_or(Look::Closed, Look::SlotRead)
            }
            look => look,
        }
    }

    /// Waits for the next one.
    #[inline]
    pub fn recv(&mut self) -> Result<Delivery<T>, RecvError> {
        self.waiting.back_off_at_end(&self.cursor);
        loop {
            match self.look(LOOK_MAX) {
                Look::SlotRead(delivery) => return Ok(delivery),
                Look::Closed => return Err(RecvError),
                Look::Passed => {}
                Look::Empty => {
                    self.waiting.wait_without_backoff(&mut self.cursor, None, || false);
                }
            }
        }
    }

    /// Waits for the next one, but no longer than this, whatever else comes: the clock is looked at every 32 events
    /// that the filter leaves out.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Delivery<T>, RecvTimeoutError> {
        // A time too far away to be told is as good as none.
        let deadline = Instant::now().checked_add(timeout);
        let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if timeout > NEAR {
            self.waiting.back_off_at_end(&self.cursor);
        }
        loop {
            let is_empty = match self.look(LOOK_TIMED_MAX) {
                Look::SlotRead(delivery) => return Ok(delivery),
                Look::Closed => return Err(RecvTimeoutError::Closed),
                Look::Passed => false,
                Look::Empty => true,
            };
            // Also where the look found little: a wait that is ended by what is not wanted says nothing of the time.
            if is_over() {
                return Err(RecvTimeoutError::Timeout);
            }
            if is_empty {
                self.waiting.wait_without_backoff(&mut self.cursor, deadline, || false);
            }
        }
    }

    /// Waits until there is at least one, and appends up to `max` of those that are there. Answers how many. Behind the
    /// first it passes over at most 256 that the filter leaves out.
    pub fn recv_batch(&mut self, into: &mut Vec<Delivery<T>>, max: usize) -> Result<usize, RecvError> {
        if max == 0 {
            return Ok(0);
        }
        into.push(self.recv()?);
        Ok(1 + self.visit_batch(max - 1, |visit| into.push(visit.into_delivery())))
    }

    /// Shows up to `max` of what is there to `visit`, by reference and without waiting: nothing is cloned and
    /// no count is touched, so this is the fastest way to read. Answers how many were shown. It passes over at most 256
    /// that the filter leaves out; [`lag`](Self::lag) tells whether there are more.
    ///
    /// The events shown stay in memory until the call returns, at most 64 of them beyond the ring.
    #[inline]
    pub fn visit_batch(&mut self, max: usize, mut visit: impl FnMut(DeliveryRef<'_, T>)) -> usize {
        let Self { cursor, filter, .. } = self;
        let (mut count, mut passed) = (0, 0);
        if max > 0 {
            cursor.visit(|item| {
                if let Some(item) = item.wanted(filter) {
                    count += 1;
                    visit(item);
                } else {
                    passed += 1;
                }
                count < max && passed < LOOK_MAX
            });
        }
        count
    }

    /// Waits until there is something to read, or the bus is closed.
    pub fn wait(&mut self) {
        self.waiting.back_off_at_end(&self.cursor);
        if !self.cursor.is_ready() {
            self.waiting.wait_without_backoff(&mut self.cursor, None, || false);
        }
    }

    /// Whether nothing will come any more. What came before may still be there to read.
    pub fn is_closed(&self) -> bool {
        self.cursor.rings().is_closed()
    }

    /// How many events are ahead of it, all shards added up, whether its filter wants them or not.
    pub fn lag(&self) -> u64 {
        self.cursor.lag()
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        self.cursor.position(self.epoch)
    }

    /// Goes to a position. What is no longer in the ring there comes as a gap; its account begins anew.
    pub fn seek(&mut self, position: &Position) -> Result<(), PositionError> {
        self.cursor.seek(position, self.epoch)?;
        self.start = self.cursor.passed();
        self.missed_before = self.cursor.missed();
        Ok(())
    }

    /// Its account.
    pub fn ledger(&self) -> Ledger {
        let missed = self.cursor.missed() - self.missed_before;
        Ledger { seen: self.cursor.passed() - self.start - missed, missed, lag: self.lag() }
    }

    /// The next sequence it will look at in a shard.
    pub fn next_sequence(&self, shard: u16) -> Option<Sequence> {
        (usize::from(shard) < self.cursor.shards()).then(|| self.cursor.next(shard.into()))
    }

    /// Reads as an iterator that waits for each, and ends when all publishers are gone.
    pub fn iter(&mut self) -> SubscriberIter<'_, T> {
        SubscriberIter(self)
    }

    /// The reader's place, for siblings that wait.
    pub(super) fn cursor_mut(&mut self) -> &mut Cursor<T> {
        &mut self.cursor
    }

    /// The reader's place, and what it wants.
    pub(super) fn parts(&mut self) -> (&mut Cursor<T>, &T::Filter) {
        (&mut self.cursor, &self.filter)
    }
}

/// How a look ended.
pub(super) enum Look<T> {
    SlotRead(Delivery<T>),
    /// It passed over as many as it might. There may be more.
    Passed,
    Empty,
    Closed,
}

/// Reads from a [`Subscriber`], waiting for each; ends when all publishers are gone. See [`Subscriber::iter`].
#[derive(Debug)]
pub struct SubscriberIter<'a, T: Item = Event>(&'a mut Subscriber<T>);

/// A [`Subscriber`] as an iterator that waits for each, and ends when all publishers are gone.
///
/// The subscriber itself is none, because it is a stream, and both have a `next`.
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

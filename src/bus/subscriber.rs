//! A subscription as its thread sees it: events in order, gaps as values.
//!
//! Imports the cursor. Always: what it delivered, what its filter left out and what it told as missed add up
//! to what was published since it joined.

use std::fmt;
use std::time::{Duration, Instant};

use super::carried::Carried;
use super::cursor::Cursor;
use super::position::PositionError;
use super::wait::{Awaited, Patience, Wait};
use super::{Census, Delivery, Visit};
use crate::event::{Event, Position, Sequence};

/// There was nothing to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRecvError {
    /// Nothing yet.
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
pub struct Closed;

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

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bus is closed")
    }
}

impl std::error::Error for TryRecvError {}
impl std::error::Error for RecvTimeoutError {}
impl std::error::Error for Closed {}

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
/// It is an iterator that ends when all publishers are gone. A slow subscriber holds up nobody: what it lost
/// is told by a [`Delivery::Gap`], and it goes on. Dropping it ends the subscription.
pub struct Subscriber<T: Carried = Event> {
    cursor: Cursor<T>,
    filter: T::Filter,
    epoch: u64,
    patience: Patience,
    /// Where the account begins, all shards added up.
    start: u64,
    missed_before: u64,
    census: Census,
    /// Deliveries without a wait, as a stream.
    #[cfg(feature = "async")]
    pub(super) ready_run: u32,
}

impl<T: Carried> Subscriber<T> {
    pub(super) fn new(cursor: Cursor<T>, filter: T::Filter, epoch: u64, census: Census) -> Self {
        let start = cursor.passed();
        Self {
            cursor,
            filter,
            epoch,
            patience: Patience::default(),
            start,
            missed_before: 0,
            census,
            #[cfg(feature = "async")]
            ready_run: 0,
        }
    }

    /// Sets how it waits.
    pub fn with_wait(mut self, wait: Wait) -> Self {
        self.patience = Patience::new(wait);
        self
    }

    /// What is there now, without waiting.
    #[inline]
    pub fn try_recv(&mut self) -> Result<Delivery<T>, TryRecvError> {
        if let Some(delivery) = self.take() {
            return Ok(delivery);
        }
        if !self.cursor.core().is_closed() {
            return Err(TryRecvError::Empty);
        }
        // Closed was seen, so whatever was published can be seen now, holes included.
        self.take_all().ok_or(TryRecvError::Closed)
    }

    #[inline]
    fn take(&mut self) -> Option<Delivery<T>> {
        let Self { cursor, filter, .. } = self;
        let mut taken = None;
        cursor.visit(|visit| {
            taken = visit.wanted(filter).map(Visit::into_delivery);
            taken.is_none()
        });
        taken
    }

    #[cold]
    fn take_all(&mut self) -> Option<Delivery<T>> {
        let mut gap = None;
        self.take().or_else(|| {
            self.cursor.skip(|visit| {
                gap = Some(visit.into_delivery());
                false
            });
            gap
        })
    }

    /// Waits for the next one.
    #[inline]
    pub fn recv(&mut self) -> Result<Delivery<T>, Closed> {
        self.patience.keep_distance(&self.cursor);
        loop {
            match self.try_recv() {
                Ok(delivery) => return Ok(delivery),
                Err(TryRecvError::Closed) => return Err(Closed),
                Err(TryRecvError::Empty) => {
                    self.patience.wait_near(&mut self.cursor, None, || false);
                }
            }
        }
    }

    /// Waits for the next one, but no longer than this.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Delivery<T>, RecvTimeoutError> {
        // A time too far away to be told is as good as none.
        let deadline = Instant::now().checked_add(timeout);
        self.patience.keep_distance(&self.cursor);
        loop {
            match self.try_recv() {
                Ok(delivery) => return Ok(delivery),
                Err(TryRecvError::Closed) => return Err(RecvTimeoutError::Closed),
                Err(TryRecvError::Empty) => {
                    if !self.patience.wait_near(&mut self.cursor, deadline, || false) {
                        return Err(RecvTimeoutError::Timeout);
                    }
                }
            }
        }
    }

    /// Waits until there is at least one, and appends up to `max` of those that are there. Answers how many.
    pub fn recv_batch(&mut self, into: &mut Vec<Delivery<T>>, max: usize) -> Result<usize, Closed> {
        if max == 0 {
            return Ok(0);
        }
        into.push(self.recv()?);
        let mut count = 1;
        if count < max {
            let Self { cursor, filter, .. } = self;
            cursor.visit(|visit| {
                if let Some(visit) = visit.wanted(filter) {
                    into.push(visit.into_delivery());
                    count += 1;
                }
                count < max
            });
        }
        Ok(count)
    }

    /// Shows up to `max` of what is there to `visit`, by reference and without waiting: nothing is cloned and
    /// no count is touched, so this is the fastest way to read. Answers how many were shown.
    ///
    /// The events shown stay in memory until the call returns, at most 64 of them beyond the ring.
    #[inline]
    pub fn visit_batch(&mut self, max: usize, mut visit: impl FnMut(Visit<'_, T>)) -> usize {
        let Self { cursor, filter, .. } = self;
        let mut count = 0;
        if max > 0 {
            cursor.visit(|item| {
                if let Some(item) = item.wanted(filter) {
                    count += 1;
                    visit(item);
                }
                count < max
            });
        }
        count
    }

    /// Waits until there is something to read, or the bus is closed.
    pub fn wait(&mut self) {
        self.patience.keep_distance(&self.cursor);
        if !self.cursor.is_ready() {
            self.patience.wait_near(&mut self.cursor, None, || false);
        }
    }

    /// Whether nothing will come any more. What came before may still be there to read.
    pub fn is_closed(&self) -> bool {
        self.cursor.core().is_closed()
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

    /// The reader's place, for siblings that wait.
    pub(super) fn cursor_mut(&mut self) -> &mut Cursor<T> {
        &mut self.cursor
    }
}

impl<T: Carried> Iterator for Subscriber<T> {
    type Item = Delivery<T>;

    #[inline]
    fn next(&mut self) -> Option<Delivery<T>> {
        self.recv().ok()
    }
}

impl<T: Carried> Drop for Subscriber<T> {
    fn drop(&mut self) {
        self.census.leave();
    }
}

impl<T: Carried> fmt::Debug for Subscriber<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("lag", &self.lag()).finish_non_exhaustive()
    }
}

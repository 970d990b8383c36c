//! Subscriber of a lossless bus: one by one, in batches, or as an iterator.
//!
//! Invariants:
//! - An item that was handed out holds up the readers that follow until the next call; one that was shown does not.
//! - A call ends however many items come that the filter leaves out.

use std::fmt;
use std::time::Duration;

use smallvec::SmallVec;

use super::event_count::Wake;
use super::item::Item;
use super::receive::{self, LOOK_MAX, Look, Receive, RecvError, RecvTimeoutError, TryRecvError};
use super::ring::{Gated, GatedReader, PIN_SPAN, SlotCodec};
use super::wait::{AdaptiveWait, PollPace, WaitStrategy};
use super::waitable::Waitable;
use crate::event::Event;
use crate::sync::Arc;

/// Reads the items published to a lossless bus since it joined, in order, if the filter lets them through. `for item in
/// subscriber` reads until all publishers are gone; with the feature `async` it is a `futures_core::Stream` that does
/// the same.
///
/// Items that it has read become space for publishers when it finds nothing more to read, and at the latest a quarter
/// of the ring or 64 items later.
pub struct LosslessSubscriber<T: Item = Event> {
    reader: GatedReader<T::Codec>,
    filter: T::Filter,
    waiting: AdaptiveWait,
    pace: PollPace,
}

impl<C: SlotCodec> Waitable for GatedReader<C> {
    #[inline]
    fn is_ready(&self) -> bool {
        self.has_next()
    }

    fn is_at_end(&self) -> bool {
        self.reached_end()
    }

    fn is_closed(&self) -> bool {
        self.is_over()
    }

    /// No sequence is ever given up here.
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
    pub(super) fn new(ring: &Arc<Gated<T::Codec>>, filter: T::Filter, others: &[&Self]) -> Self {
        assert!(others.iter().all(|other| Arc::ptr_eq(other.reader.ring(), ring)), "subscribers of one bus");
        let others: SmallVec<[_; 4]> = others.iter().map(|other| &other.reader).collect();
        let reader = GatedReader::following(Arc::clone(ring), &others);
        Self { reader, filter, waiting: AdaptiveWait::default(), pace: PollPace::default() }
    }

    /// Returns the reader, the filter and the wait state.
    pub(super) fn parts(&mut self) -> (&mut GatedReader<T::Codec>, &T::Filter, &mut AdaptiveWait) {
        (&mut self.reader, &self.filter, &mut self.waiting)
    }

    /// Sets how the subscriber waits. Default: [`WaitStrategy::SpinThenPark`].
    #[must_use]
    pub fn with_wait(mut self, strategy: WaitStrategy) -> Self {
        self.waiting = AdaptiveWait::new(strategy);
        self
    }

    /// Returns the next item without waiting. Never blocks and never allocates.
    ///
    /// The call passes over at most 256 items that the filter leaves out, so it ends however many come.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`] if there is nothing yet, or if the call passed over 256 items: then [`lag`](Self::lag) is not 0, and
    /// the next call continues after them. [`TryRecvError::Closed`] if the bus is closed and everything was read.
    #[inline]
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        match self.look(LOOK_MAX) {
            Look::Found(item) => Ok(item),
            Look::Passed | Look::Empty => Err(TryRecvError::Empty),
            Look::Closed => Err(TryRecvError::Closed),
        }
    }

    #[inline]
    fn take(&mut self, most: usize) -> Look<T> {
        let Self { reader, filter, .. } = self;
        let (mut taken, mut passed) = (None, 0);
        loop {
            let any = reader.hand_out(|item| {
                if item.is_wanted(filter) {
                    taken = Some(item.duplicate());
                } else {
                    passed += 1;
                }
                taken.is_none() && passed < most
            });
            match taken {
                Some(item) => return Look::Found(item),
                None if passed >= most => return Look::Passed,
                None if !any => return Look::Empty,
                None => {}
            }
        }
    }

    /// Returns the next item. Blocks until there is one; never allocates.
    ///
    /// # Errors
    /// [`RecvError`] if all publishers are gone and everything was read.
    #[inline]
    pub fn recv(&mut self) -> Result<T, RecvError> {
        receive::recv(self)
    }

    /// Returns the next item. Blocks for at most `timeout`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::Timeout`] if nothing arrived in time, [`RecvTimeoutError::Closed`] if all publishers are gone and
    /// everything was read.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        receive::recv_timeout(self, timeout)
    }

    /// Blocks until there is an item, appends up to `max` of those that are there to `into`, and returns their number.
    /// Allocates only to grow `into`.
    ///
    /// # Errors
    /// [`RecvError`] if all publishers are gone and everything was read.
    pub fn recv_batch(&mut self, into: &mut Vec<T>, max: usize) -> Result<usize, RecvError> {
        if max == 0 {
            return Ok(0);
        }
        into.push(self.recv()?);
        // The caller uses the items after this call, so if readers follow, the gate moves at the next call.
        let passes = !self.reader.is_followed();
        Ok(1 + self.show(max - 1, passes, |item| into.push(item.duplicate())))
    }

    /// Shows up to `max` items to `visit`, by reference, and returns their number. Never blocks and never allocates. It passes
    /// over at most 256 items that the filter leaves out; [`lag`](Self::lag) shows whether there are more.
    ///
    /// If four or more items came in the 0.3 us before the last look, the next call that has nothing left from it waits for 0.3 us
    /// before it looks again: each look takes the cache line that the publisher writes.
    ///
    /// # Panics
    /// Only if `visit` does; the item is passed over.
    #[inline]
    pub fn visit_batch(&mut self, max: usize, visit: impl FnMut(&T)) -> usize {
        let looks = self.reader.looks_at_publishers();
        if looks {
            self.pace.before_look();
        }
        let before = self.reader.next();
        let count = self.show(max, true, visit);
        if looks {
            self.pace.after_look(self.reader.next() - before);
        }
        count
    }

    /// Shows items as [`Self::visit_batch`] does. Moves the gate if `passes` is true.
    #[inline]
    fn show(&mut self, max: usize, passes: bool, mut visit: impl FnMut(&T)) -> usize {
        let Self { reader, filter, .. } = self;
        let (mut count, mut passed) = (0, 0);
        while count < max && passed < LOOK_MAX {
            // Bounds the run before it begins, so that nothing has to be checked after each item.
            let most = (max - count).min(LOOK_MAX - passed).min(PIN_SPAN as usize);
            let seen = if T::wants_all(filter) {
                let seen = reader.look_at(most as u64, |item| {
                    visit(item);
                    true
                });
                count += seen as usize;
                seen
            } else {
                reader.look_at(most as u64, |item| {
                    if item.is_wanted(filter) {
                        count += 1;
                        visit(item);
                    } else {
                        passed += 1;
                    }
                    true
                })
            };
            if passes && seen > 0 {
                reader.pass_if_due();
            }
            // A short run means the end was reached. Another look would take the cache line that is being written.
            if seen < most as u64 {
                break;
            }
        }
        if passes && reader.is_followed() {
            // Also if `max` ended the call within a run: readers that follow may have what was shown.
            reader.pass();
        }
        count
    }

    /// Blocks until there is something to read, or the bus is closed.
    pub fn wait(&mut self) {
        self.reader.pass();
        self.waiting.back_off_at_end(&self.reader);
        while !self.reader.is_ready() && !self.reader.is_over() {
            receive::wait(self, None);
        }
    }

    /// Moves the gate to the reader's place, for publishers and followers, and returns the reader to wait at.
    pub(super) fn passed_place(&mut self) -> &mut GatedReader<T::Codec> {
        self.reader.pass();
        &mut self.reader
    }

    /// Returns whether the bus is closed, so that nothing more is published. Items may still be there to read: all were read when
    /// [`lag`](Self::lag) is 0.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.reader.ring().is_closed()
    }

    /// Returns the number of items that it has not read.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.reader.ring().head().saturating_sub(self.reader.next())
    }

    /// Returns an iterator that blocks for each item, and ends when all publishers are gone and everything was read.
    pub fn iter(&mut self) -> LosslessIter<'_, T> {
        LosslessIter(self)
    }
}

impl<T: Item> Receive for LosslessSubscriber<T> {
    type Received = T;
    type Source = GatedReader<T::Codec>;

    #[inline]
    fn look(&mut self, most: usize) -> Look<T> {
        match self.take(most) {
            // Every item published before the close is visible now. Waits for publications that are under way.
            Look::Empty if self.reader.ring().is_closed() => match self.take(most) {
                Look::Empty if self.reader.is_over() => Look::Closed,
                look => look,
            },
            look => look,
        }
    }

    /// Moves the gate: a reader that waits has read everything, and a publisher may be waiting for that space.
    fn before_wait(&mut self) {
        self.reader.pass();
    }

    #[inline]
    fn waiting(&mut self) -> (&mut GatedReader<T::Codec>, &mut AdaptiveWait) {
        (&mut self.reader, &mut self.waiting)
    }
}

/// Reads from a [`LosslessSubscriber`], blocking for each item; ends when all publishers are gone.
#[derive(Debug)]
pub struct LosslessIter<'a, T: Item = Event>(&'a mut LosslessSubscriber<T>);

/// A [`LosslessSubscriber`] as an iterator that blocks for each item, and ends when all publishers are gone.
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

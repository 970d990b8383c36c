//! Receives from either bus: the loops that look and wait, and the errors that end a call.
//!
//! Invariant: a call that waits looks again after each wait, so a wait that ends for another reason delivers nothing wrong.

use std::fmt;
use std::time::{Duration, Instant};

use super::wait::{AdaptiveWait, NEAR};
use super::waitable::Waitable;

/// Maximum number of unwanted events that one look passes over, so that it ends however many come.
pub(super) const LOOK_MAX: usize = 256;

/// Maximum number of unwanted events between two looks at the clock: with a filter that takes 10 us for each, a third of a
/// millisecond.
const LOOK_TIMED_MAX: usize = 32;

/// There was nothing to receive.
///
/// No other variant will be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRecvError {
    /// Nothing yet; or [`Subscriber::try_recv`](super::Subscriber::try_recv) skipped the maximum number of unwanted
    /// events for one call.
    Empty,
    /// Nothing will come: everything was read, and the bus is closed or all publishers are gone.
    Closed,
}

/// Nothing came in time.
///
/// No other variant will be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvTimeoutError {
    /// Time ran out.
    Timeout,
    /// Nothing will come: everything was read, and the bus is closed or all publishers are gone.
    Closed,
}

/// Nothing will come: everything was read, and the bus is closed or all publishers are gone.
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
            Self::Timeout => "nothing arrived in time",
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

/// Result of one look.
pub(super) enum Look<T> {
    Found(T),
    /// The look skipped the maximum number of unwanted values. There may be more.
    Passed,
    Empty,
    Closed,
}

/// A subscriber of either bus.
pub(super) trait Receive {
    /// Value that a look returns.
    type Received;
    /// Place that the subscriber reads from.
    type Source: Waitable;

    /// Returns the next value without waiting, after passing over at most `most` unwanted ones.
    fn look(&mut self, most: usize) -> Look<Self::Received>;

    /// Gives publishers the space that they may wait for. Called before each wait.
    fn before_wait(&mut self) {}

    /// Returns the source and the way to wait for it.
    fn waiting(&mut self) -> (&mut Self::Source, &mut AdaptiveWait);
}

/// Waits for the next value.
#[inline]
pub(super) fn recv<R: Receive>(reader: &mut R) -> Result<R::Received, RecvError> {
    let (source, waiting) = reader.waiting();
    waiting.back_off_at_end(source);
    loop {
        match reader.look(LOOK_MAX) {
            Look::Found(received) => return Ok(received),
            Look::Closed => return Err(RecvError),
            Look::Passed => {}
            Look::Empty => {
                wait(reader, None);
            }
        }
    }
}

/// Waits for the next value until time is up.
pub(super) fn recv_timeout<R: Receive>(
    reader: &mut R,
    timeout: Duration,
) -> Result<R::Received, RecvTimeoutError> {
    // A deadline that the clock cannot represent counts as none.
    let deadline = Instant::now().checked_add(timeout);
    let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
    if timeout > NEAR {
        let (source, waiting) = reader.waiting();
        waiting.back_off_at_end(source);
    }
    loop {
        let is_empty = match reader.look(LOOK_TIMED_MAX) {
            Look::Found(received) => return Ok(received),
            Look::Closed => return Err(RecvTimeoutError::Closed),
            Look::Passed => false,
            Look::Empty => true,
        };
        // Also checked after a look that found only unwanted events: the wait before it did not time out.
        if is_over() {
            return Err(RecvTimeoutError::Timeout);
        }
        if is_empty {
            wait(reader, deadline);
        }
    }
}

/// Waits until there is something to look at, the bus is closed or time is up.
pub(super) fn wait<R: Receive>(reader: &mut R, deadline: Option<Instant>) {
    reader.before_wait();
    let (source, waiting) = reader.waiting();
    waiting.wait_without_backoff(source, deadline, || false);
}

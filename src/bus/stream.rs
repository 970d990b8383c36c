//! Subscribers and publishers for async code, whatever runs it: wakers only, no runtime of our own.
//!
//! Imports the subscribers. Always: a task that was told to wait is woken by the next event, or the end; a
//! task that always finds events gives others a turn now and then, also where it wants none of them; what is dropped
//! while it waits has taken nothing.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::Delivery;
use super::event_count::Wake;
use super::item::Item;
use super::lossless::{LosslessBus, LosslessSubscriber, TryPublishError};
use super::ring::SpaceWaiter;
use super::subscriber::{LOOK_MAX, Look, RecvError, Subscriber, TryRecvError};
use super::wait::Waitable;
use crate::event::EventId;

/// Events handed to a task that did not have to wait, before it gives others a turn. A poll looks at no more either.
const READY_RUN: usize = LOOK_MAX;

impl<T: Item> Stream for Subscriber<T> {
    type Item = Delivery<T>;

    /// The next delivery; ends when all publishers are gone and everything was read.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery<T>>> {
        let this = self.get_mut();
        // What the poll before announced.
        this.cursor_mut().cancel_sleep();
        if this.ready_run >= READY_RUN {
            this.ready_run = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut left = LOOK_MAX;
        loop {
            let passed = this.cursor_mut().passed();
            match this.look(left) {
                Look::SlotRead(delivery) => {
                    this.ready_run += 1;
                    return Poll::Ready(Some(delivery));
                }
                Look::Closed => return Poll::Ready(None),
                Look::Passed => left = 0,
                Look::Empty => left = left.saturating_sub((this.cursor_mut().passed() - passed) as usize),
            }
            if left == 0 {
                this.ready_run = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if this.cursor_mut().prepare_sleep(Wake::Task(cx.waker().clone())) {
                this.ready_run = 0;
                return Poll::Pending;
            }
        }
    }
}

impl<T: Item> Stream for LosslessSubscriber<T> {
    type Item = T;

    /// The next item; ends when all publishers are gone and everything was read.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let this = self.get_mut();
        this.cancel_sleep();
        if this.ready_run >= READY_RUN {
            this.ready_run = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match this.try_recv() {
                Ok(item) => {
                    this.ready_run += 1;
                    return Poll::Ready(Some(item));
                }
                Err(TryRecvError::Closed) => return Poll::Ready(None),
                Err(TryRecvError::Empty) => {}
            }
            if this.sleep_as(cx.waker().clone()) {
                this.ready_run = 0;
                return Poll::Pending;
            }
        }
    }
}

impl<T: Item> Subscriber<T> {
    /// Waits for the next one without blocking the thread. Cancel-safe: dropped before it is ready, as `select!` does
    /// with what came second, it has taken nothing.
    pub fn recv_async(&mut self) -> impl Future<Output = Result<Delivery<T>, RecvError>> + Send + '_ {
        Next(self)
    }

    /// The subscriber as a stream of deliveries, which it is, for who wants to say so: it ends when all publishers are
    /// gone.
    pub fn into_stream(self) -> impl Stream<Item = Delivery<T>> + Send + Unpin {
        self
    }
}

impl<T: Item> LosslessSubscriber<T> {
    /// As [`Subscriber::recv_async`].
    pub fn recv_async(&mut self) -> impl Future<Output = Result<T, RecvError>> + Send + '_ {
        Next(self)
    }

    /// As [`Subscriber::into_stream`].
    pub fn into_stream(self) -> impl Stream<Item = T> + Send + Unpin {
        self
    }
}

/// What can be told that its task no longer waits.
trait Sleeper {
    fn withdraw(&mut self);
}

impl<T: Item> Sleeper for Subscriber<T> {
    fn withdraw(&mut self) {
        self.cursor_mut().cancel_sleep();
    }
}

impl<T: Item> Sleeper for LosslessSubscriber<T> {
    fn withdraw(&mut self) {
        self.cancel_sleep();
    }
}

/// The next item of a stream; dropped, its task is not woken any more.
struct Next<'a, S: Sleeper>(&'a mut S);

impl<S: Sleeper + Stream + Unpin> Future for Next<'_, S> {
    type Output = Result<S::Item, RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut *self.0).poll_next(cx).map(|next| next.ok_or(RecvError))
    }
}

impl<S: Sleeper> Drop for Next<'_, S> {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}

/// What [`LosslessBus::publish_async`] returns. Dropped before it is ready, it has published nothing.
#[must_use = "futures publish nothing unless polled"]
pub struct PublishFuture<T: Item> {
    bus: LosslessBus<T>,
    item: Option<T>,
    waiting: Option<SpaceWaiter<T::Codec>>,
}

impl<T: Item> LosslessBus<T> {
    /// Publishes, waiting for room without blocking the thread.
    pub fn publish_async(&self, item: T) -> PublishFuture<T> {
        PublishFuture { bus: self.clone(), item: Some(item), waiting: None }
    }
}

impl<T: Item + Unpin> Future for PublishFuture<T> {
    type Output = EventId;

    /// # Panics
    /// If it is polled after it was ready.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<EventId> {
        let this = self.get_mut();
        this.waiting = None;
        loop {
            let item = this.item.take().expect("polled after it was ready");
            match this.bus.try_publish(item) {
                Ok(id) => return Poll::Ready(id),
                Err(TryPublishError::Full(back)) => this.item = Some(back),
            }
            let waiting = SpaceWaiter::new(this.bus.ring(), Wake::Task(cx.waker().clone()));
            if this.bus.ring().is_full() {
                this.waiting = Some(waiting);
                return Poll::Pending;
            }
        }
    }
}

impl<T: Item> fmt::Debug for PublishFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublishFuture")
    }
}

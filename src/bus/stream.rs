//! Subscribers and publishers for async code under any runtime: they use wakers only.
//!
//! Invariants:
//! - A task that got `Pending` is woken by the next event, or by the end.
//! - A task that always finds events yields to other tasks regularly, even if its filter wants none of the events.
//! - A future that is dropped while it waits has taken nothing.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::delivery::Delivery;
use super::event_count::Wake;
use super::item::Item;
use super::lossless::{LosslessBus, TryPublishError};
use super::lossless_subscriber::LosslessSubscriber;
use super::publisher::PublishError;
use super::receive::{LOOK_MAX, Look, Receive, RecvError};
use super::ring::SpaceWaiter;
use super::shared::IntoItem;
use super::subscriber::Subscriber;
use super::waitable::Waitable;
use crate::event::EventId;

/// Polls a subscriber of either bus for its next delivery.
fn poll_next<R: Receive>(reader: &mut R, cx: &mut Context<'_>) -> Poll<Option<R::Received>> {
    // Withdraws the announcement of the previous poll.
    reader.waiting().0.cancel_sleep();
    if reader.waiting().1.budget.is_spent() {
        return yield_to_tasks(reader, cx);
    }
    let mut left = LOOK_MAX;
    loop {
        let before = reader.waiting().0.passed();
        match reader.look(left) {
            Look::Found(received) => {
                reader.waiting().1.budget.spend();
                return Poll::Ready(Some(received));
            }
            Look::Closed => return Poll::Ready(None),
            Look::Passed => left = 0,
            Look::Empty => left = left.saturating_sub((reader.waiting().0.passed() - before) as usize),
        }
        if left == 0 {
            return yield_to_tasks(reader, cx);
        }
        reader.before_wait();
        let (source, waiting) = reader.waiting();
        if source.prepare_sleep(Wake::Task(cx.waker().clone())) {
            waiting.budget.reset();
            return Poll::Pending;
        }
    }
}

/// Wakes the task at once, so that it is polled again after other tasks.
fn yield_to_tasks<R: Receive, T>(reader: &mut R, cx: &Context<'_>) -> Poll<T> {
    reader.waiting().1.budget.reset();
    cx.waker().wake_by_ref();
    Poll::Pending
}

impl<T: Item> Stream for Subscriber<T> {
    type Item = Delivery<T>;

    /// Returns the next delivery; ends when all publishers are gone and everything was read.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery<T>>> {
        poll_next(self.get_mut(), cx)
    }
}

impl<T: Item> Stream for LosslessSubscriber<T> {
    type Item = T;

    /// Returns the next item; ends when all publishers are gone and everything was read.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        poll_next(self.get_mut(), cx)
    }
}

impl<T: Item> Subscriber<T> {
    /// Waits for the next delivery without blocking the thread. Cancel-safe: a future that is dropped before it is ready,
    /// as `select!` drops the one that came second, has taken nothing.
    ///
    /// # Errors
    /// [`RecvError`] if all publishers are gone and everything was read.
    pub fn recv_async(&mut self) -> impl Future<Output = Result<Delivery<T>, RecvError>> + Send + '_ {
        RecvFuture(self)
    }

    /// Returns the subscriber itself as an opaque stream of deliveries, which ends when all publishers are gone.
    pub fn into_stream(self) -> impl Stream<Item = Delivery<T>> + Send + Unpin {
        self
    }
}

impl<T: Item> LosslessSubscriber<T> {
    /// Waits for the next item as [`Subscriber::recv_async`] does.
    ///
    /// # Errors
    /// [`RecvError`] if all publishers are gone and everything was read.
    pub fn recv_async(&mut self) -> impl Future<Output = Result<T, RecvError>> + Send + '_ {
        RecvFuture(self)
    }

    /// Returns the subscriber as a stream, as [`Subscriber::into_stream`] does.
    pub fn into_stream(self) -> impl Stream<Item = T> + Send + Unpin {
        self
    }
}

/// Future of the next delivery; when it is dropped, its task is not woken any more.
struct RecvFuture<'a, R: Receive>(&'a mut R);

impl<R: Receive> Future for RecvFuture<'_, R> {
    type Output = Result<R::Received, RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        poll_next(&mut *self.0, cx).map(|next| next.ok_or(RecvError))
    }
}

impl<R: Receive> Drop for RecvFuture<'_, R> {
    fn drop(&mut self) {
        self.0.waiting().0.cancel_sleep();
    }
}

/// Future of [`LosslessBus::publish_async`]. If it is dropped before it is ready, it has published nothing.
#[must_use = "futures publish nothing unless polled"]
pub struct PublishFuture<T: Item> {
    bus: LosslessBus<T>,
    item: Option<T>,
    waiter: Option<SpaceWaiter<T::Codec>>,
}

impl<T: Item> LosslessBus<T> {
    /// Publishes an item, waiting for space without blocking the thread. The future returns the item's id, or
    /// [`PublishError`] with the item if the bus is closed.
    ///
    /// # Panics
    /// If the future is polled after it was ready.
    pub fn publish_async(&self, item: impl IntoItem<T>) -> PublishFuture<T> {
        PublishFuture { bus: self.clone(), item: Some(item.into_item()), waiter: None }
    }
}

impl<T: Item + Unpin> Future for PublishFuture<T> {
    type Output = Result<EventId, PublishError<T>>;

    /// # Panics
    /// If it is polled after it was ready.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.waiter = None;
        loop {
            let item = this.item.take().expect("polled after it was ready");
            match this.bus.try_publish(item) {
                Ok(id) => return Poll::Ready(Ok(id)),
                Err(TryPublishError::Closed(back)) => return Poll::Ready(Err(PublishError(back))),
                Err(TryPublishError::Full(back)) => this.item = Some(back),
            }
            let waiter = SpaceWaiter::new(this.bus.ring(), Wake::Task(cx.waker().clone()));
            if this.bus.ring().is_full() {
                this.waiter = Some(waiter);
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

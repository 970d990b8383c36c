//! Subscribers and publishers for async code, whatever runs it: wakers only, no runtime of our own.
//!
//! Imports the subscribers. Always: a task that was told to wait is woken by the next event, or the end; a
//! task that always finds events gives others a turn now and then.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::Delivery;
use super::carried::Carried;
use super::lossless::{Full, LosslessBus, LosslessSubscriber};
use super::park::Wake;
use super::ring::Waiting;
use super::subscriber::{Subscriber, TryRecvError};
use super::wait::Awaited;
use crate::event::EventId;

/// Events handed to a task that did not have to wait, before it gives others a turn.
const READY_RUN: u32 = 256;

impl<T: Carried> Stream for Subscriber<T> {
    type Item = Delivery<T>;

    /// The next delivery; ends when all publishers are gone and everything was read.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery<T>>> {
        let this = self.get_mut();
        // What the poll before announced.
        this.cursor_mut().awake();
        if this.ready_run >= READY_RUN {
            this.ready_run = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match this.try_recv() {
                Ok(delivery) => {
                    this.ready_run += 1;
                    return Poll::Ready(Some(delivery));
                }
                Err(TryRecvError::Closed) => return Poll::Ready(None),
                Err(TryRecvError::Empty) => {}
            }
            if this.cursor_mut().prepare_sleep(Wake::Task(cx.waker().clone())) {
                this.ready_run = 0;
                return Poll::Pending;
            }
        }
    }
}

impl<T: Carried> Stream for LosslessSubscriber<T> {
    type Item = T;

    /// The next item; ends when all publishers are gone and everything was read.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let this = self.get_mut();
        this.awake();
        loop {
            match this.try_recv() {
                Ok(item) => return Poll::Ready(Some(item)),
                Err(TryRecvError::Closed) => return Poll::Ready(None),
                Err(TryRecvError::Empty) => {}
            }
            if this.sleep_as(cx.waker().clone()) {
                return Poll::Pending;
            }
        }
    }
}

/// What [`LosslessBus::publish_async`] returns. Dropped before it is ready, it has published nothing.
#[must_use = "futures publish nothing unless polled"]
pub struct PublishAsync<T: Carried> {
    bus: LosslessBus<T>,
    item: Option<T>,
    waiting: Option<Waiting<T::Cargo>>,
}

impl<T: Carried> LosslessBus<T> {
    /// Publishes, waiting for room without blocking the thread.
    pub fn publish_async(&self, item: T) -> PublishAsync<T> {
        PublishAsync { bus: self.clone(), item: Some(item), waiting: None }
    }
}

impl<T: Carried + Unpin> Future for PublishAsync<T> {
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
                Err(Full(back)) => this.item = Some(back),
            }
            let waiting = Waiting::new(this.bus.ring(), Wake::Task(cx.waker().clone()));
            if this.bus.ring().is_full() {
                this.waiting = Some(waiting);
                return Poll::Pending;
            }
        }
    }
}

impl<T: Carried> fmt::Debug for PublishAsync<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublishAsync")
    }
}

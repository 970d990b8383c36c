//! A bus for async code that wants handlers and a queue instead of a stream.
//!
//! Invariants:
//! - Futures run in the caller's task, under any runtime.
//! - A panic of a handler, its filter or its future ends that call only.
//! - Wakers are called with no lock held.

use std::fmt;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream as _;
use futures_timer::Delay;

use super::handler::HandlerGuard;
use super::item::Item;
use super::panics::catch_panic;
use super::subscriber::Subscriber;
use super::{Bus, Delivery};
use crate::event::Event;
use crate::sync::{Arc, Mutex, lock};

type HandlerFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

struct AsyncHandler<T: Item> {
    id: u64,
    filter: T::Filter,
    call: Box<dyn FnMut(T) -> HandlerFuture + Send>,
}

/// Async handlers and a queue over a [`Bus`].
///
/// Async handlers get the items published through this adapter; the queue gets everything on the bus while the adapter is
/// forwarding.
pub struct AsyncAdapter<T: Item = Event> {
    bus: Bus<T>,
    handlers: Vec<AsyncHandler<T>>,
    next_id: u64,
    queue: Option<Subscriber<T>>,
    missed: u64,
    panics: u64,
}

impl<T: Item> AsyncAdapter<T> {
    /// Creates an adapter over a bus.
    #[must_use]
    pub fn new(bus: &Bus<T>) -> Self {
        Self { bus: bus.clone(), handlers: Vec::new(), next_id: 0, queue: None, missed: 0, panics: 0 }
    }

    /// Returns the bus.
    #[must_use]
    pub fn bus(&self) -> &Bus<T> {
        &self.bus
    }

    /// Publishes an item, then calls the async handlers that want it, one after the other. Returns the number of
    /// [`Bus::on_sync`] handlers that took it. If the bus has such handlers, a separate thread publishes and calls
    /// them, so that a slow one does not block the caller's runtime.
    pub async fn publish(&mut self, item: T) -> usize {
        let handled = if self.bus.0.handlers.has_sync() {
            publish_elsewhere(&self.bus, &item).await
        } else {
            self.bus.publish(item.duplicate()).handled
        };
        for handler in &mut self.handlers {
            let call = || item.is_wanted(&handler.filter).then(|| (handler.call)(item.duplicate()));
            let called = match catch_panic(call) {
                Some(None) => true,
                Some(Some(future)) => Guarded(Some(future)).await,
                None => false,
            };
            self.panics += u64::from(!called);
        }
        handled
    }

    /// Adds an async handler, and returns its id for [`unsubscribe_async`](Self::unsubscribe_async). Allocates.
    pub fn subscribe_async<F, Fut>(&mut self, filter: impl Into<T::Filter>, mut handler: F) -> u64
    where
        F: FnMut(T) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let id = self.next_id;
        self.next_id += 1;
        let call = Box::new(move |item| -> HandlerFuture { Box::pin(handler(item)) });
        self.handlers.push(AsyncHandler { id, filter: filter.into(), call });
        id
    }

    /// Removes an async handler, and returns false if there is none of this id.
    pub fn unsubscribe_async(&mut self, id: u64) -> bool {
        let Some(index) = self.handlers.iter().position(|handler| handler.id == id) else { return false };
        let removed = self.handlers.remove(index);
        self.panics += u64::from(catch_panic(move || drop(removed)).is_none());
        true
    }

    /// Returns the number of async handlers.
    #[must_use]
    pub fn async_subscriber_count(&self) -> usize {
        self.handlers.len()
    }

    /// Returns the number of panics caught in async handlers.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics
    }

    /// Adds a handler that is called in the publishing thread, as [`Bus::on_sync`] does.
    pub fn subscribe_sync(
        &self,
        filter: impl Into<T::Filter>,
        handler: impl Fn(&T) + Send + Sync + 'static,
    ) -> HandlerGuard {
        self.bus.on_sync(filter, handler)
    }

    /// Starts to queue the events that the filter lets through. The queue is the ring: its oldest events are
    /// overwritten first, and [`missed`](Self::missed) counts them. Does nothing if the adapter is forwarding already.
    pub fn start_forwarding(&mut self, filter: impl Into<T::Filter>) {
        if self.queue.is_none() {
            self.queue = Some(self.bus.subscribe(filter));
        }
    }

    /// Ends forwarding and drops the queued events.
    pub fn stop_forwarding(&mut self) {
        self.queue = None;
    }

    /// Returns whether the adapter is forwarding.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.queue.is_some()
    }

    /// Returns the number of events in the queue, including those that the filter will leave out.
    #[must_use]
    pub fn queue_size(&self) -> u64 {
        self.queue.as_ref().map_or(0, Subscriber::lag)
    }

    /// Returns the number of events that were overwritten before they were read.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Waits for the next queued event for at most `timeout`. Returns `None` if none came in time, the bus is closed, or the
    /// adapter is not forwarding.
    pub async fn get_event(&mut self, timeout: Duration) -> Option<T> {
        let queue = self.queue.as_mut()?;
        let mut time = pin!(Delay::new(timeout));
        loop {
            let next = std::future::poll_fn(|cx| match Pin::new(&mut *queue).poll_next(cx) {
                Poll::Ready(delivery) => Poll::Ready(delivery),
                Poll::Pending => time.as_mut().poll(cx).map(|()| None),
            });
            match next.await? {
                Delivery::Event(item) => return Some(item),
                Delivery::Gap(gap) => self.missed += gap.missed,
            }
        }
    }
}

impl<T: Item> fmt::Debug for AsyncAdapter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncAdapter")
            .field("handlers", &self.handlers.len())
            .field("running", &self.is_running())
            .finish_non_exhaustive()
    }
}

/// Result of a thread that publishes, and the waker of the task that waits for it.
#[derive(Default)]
struct PublishState {
    handled: Option<usize>,
    waiting: Option<Waker>,
}

/// Wakes the task when the publishing thread ends, also by a panic, so that no task waits for a thread that is gone.
struct WakeOnDrop(Arc<Mutex<PublishState>>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        let waiting = {
            let mut state = lock(&self.0);
            state.handled.get_or_insert(0);
            state.waiting.take()
        };
        // After the lock is released: the executor may poll the task within this call.
        if let Some(waker) = waiting {
            catch_panic(move || waker.wake());
        }
    }
}

/// Publishes in a new thread, or in the calling one if the system cannot start a thread.
fn publish_elsewhere<T: Item>(bus: &Bus<T>, item: &T) -> impl Future<Output = usize> + Send + use<T> {
    let state = Arc::new(Mutex::new(PublishState::default()));
    let run = {
        let (bus, item, shared) = (bus.clone(), item.duplicate(), WakeOnDrop(Arc::clone(&state)));
        move || {
            let handled = bus.publish(item).handled;
            // Dropped before the wake-up, so that the woken task can hold the last handle of this bus.
            drop(bus);
            lock(&shared.0).handled = Some(handled);
        }
    };
    if std::thread::Builder::new().name("fanwire-publish".to_owned()).spawn(run).is_err() {
        let handled = bus.publish(item.duplicate()).handled;
        lock(&state).handled = Some(handled);
    }
    std::future::poll_fn(move |cx| {
        // Wakers are cloned and dropped outside the lock too: they are the executor's code.
        let waker = cx.waker().clone();
        let before = {
            let mut state = lock(&state);
            if let Some(handled) = state.handled {
                return Poll::Ready(handled);
            }
            state.waiting.replace(waker)
        };
        drop(before);
        Poll::Pending
    })
}

/// A handler's future; returns false if it panicked, also when it was dropped.
struct Guarded(Option<HandlerFuture>);

impl Future for Guarded {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(called) = &mut self.0 else { return Poll::Ready(false) };
        let polled = catch_panic(|| called.as_mut().poll(cx));
        if matches!(polled, Some(Poll::Pending)) {
            return Poll::Pending;
        }
        let called = self.0.take();
        let dropped = catch_panic(move || drop(called));
        Poll::Ready(polled.is_some() && dropped.is_some())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let called = self.0.take();
        catch_panic(move || drop(called));
    }
}

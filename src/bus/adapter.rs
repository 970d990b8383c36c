//! A bus for async code that wants handlers and a queue instead of a stream.
//!
//! Imports the subscriber and the handlers. Always: no runtime of our own: what is awaited runs where the
//! caller runs; a panic of a handler, its filter or its future ends that call only; wakers are called with no lock held.

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

type Called = Pin<Box<dyn Future<Output = ()> + Send>>;

struct AsyncHandler<T: Item> {
    id: u64,
    filter: T::Filter,
    call: Box<dyn FnMut(T) -> Called + Send>,
}

/// Async handlers and a queue over a [`Bus`].
///
/// Async handlers get what is published through this adapter; the queue gets everything on the bus while it
/// is forwarding.
pub struct AsyncAdapter<T: Item = Event> {
    bus: Bus<T>,
    handlers: Vec<AsyncHandler<T>>,
    next_id: u64,
    queue: Option<Subscriber<T>>,
    missed: u64,
    panics: u64,
}

impl<T: Item> AsyncAdapter<T> {
    /// An adapter over a bus.
    pub fn new(bus: &Bus<T>) -> Self {
        Self { bus: bus.clone(), handlers: Vec::new(), next_id: 0, queue: None, missed: 0, panics: 0 }
    }

    /// The bus.
    pub fn bus(&self) -> &Bus<T> {
        &self.bus
    }

    /// Publishes, then calls the async handlers that want it, one after the other. Answers how many handlers
    /// added with [`Bus::on_sync`] took it. Where there are such handlers, it publishes in a thread: they may take
    /// their time, and the caller's runtime goes on.
    pub async fn publish(&mut self, item: T) -> usize {
        let handled = if self.bus.0.handlers.has_sync() {
            publish_elsewhere(&self.bus, &item).await
        } else {
            self.bus.publish(item.another()).handled
        };
        for handler in &mut self.handlers {
            let call = || item.is_wanted(&handler.filter).then(|| (handler.call)(item.another()));
            let called = match catch_panic(call) {
                Some(None) => true,
                Some(Some(future)) => Guarded(Some(future)).await,
                None => false,
            };
            self.panics += u64::from(!called);
        }
        handled
    }

    /// Adds an async handler; answers its name for [`unsubscribe_async`](Self::unsubscribe_async).
    pub fn subscribe_async<F, Fut>(&mut self, filter: impl Into<T::Filter>, mut handler: F) -> u64
    where
        F: FnMut(T) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let id = self.next_id;
        self.next_id += 1;
        let call = Box::new(move |item| -> Called { Box::pin(handler(item)) });
        self.handlers.push(AsyncHandler { id, filter: filter.into(), call });
        id
    }

    /// Removes an async handler; false if there was none of this name.
    pub fn unsubscribe_async(&mut self, id: u64) -> bool {
        let Some(index) = self.handlers.iter().position(|handler| handler.id == id) else { return false };
        let removed = self.handlers.remove(index);
        self.panics += u64::from(catch_panic(move || drop(removed)).is_none());
        true
    }

    /// How many async handlers there are.
    pub fn async_subscriber_count(&self) -> usize {
        self.handlers.len()
    }

    /// Panics caught in async handlers.
    pub fn panics(&self) -> u64 {
        self.panics
    }

    /// As [`Bus::on_sync`].
    pub fn subscribe_sync(
        &self,
        filter: impl Into<T::Filter>,
        handler: impl Fn(&T) + Send + Sync + 'static,
    ) -> HandlerGuard {
        self.bus.on_sync(filter, handler)
    }

    /// Queues what is published to the bus from now on. The queue is the ring: its oldest events go first
    /// ([`missed`](Self::missed) counts them). Nothing happens if it is forwarding already.
    pub fn start_forwarding(&mut self, filter: impl Into<T::Filter>) {
        if self.queue.is_none() {
            self.queue = Some(self.bus.subscribe(filter));
        }
    }

    /// Ends forwarding and drops what is queued.
    pub fn stop_forwarding(&mut self) {
        self.queue = None;
    }

    /// Whether it is forwarding.
    pub fn is_running(&self) -> bool {
        self.queue.is_some()
    }

    /// Events waiting in the queue, those that its filter will leave out among them.
    pub fn queue_size(&self) -> u64 {
        self.queue.as_ref().map_or(0, Subscriber::lag)
    }

    /// Events that left the queue unread.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// The next queued event; `None` if none came in time, or it is not forwarding.
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

/// What a thread that published tells: how many took the item, and whom to wake.
#[derive(Default)]
struct Told {
    handled: Option<usize>,
    waiting: Option<Waker>,
}

/// Tells, whatever happened to the thread that was to publish: nobody waits for one that is not there.
struct Teller(Arc<Mutex<Told>>);

impl Drop for Teller {
    fn drop(&mut self) {
        let waiting = {
            let mut told = lock(&self.0);
            told.handled.get_or_insert(0);
            told.waiting.take()
        };
        // Behind the lock: an executor may poll at once, in here.
        if let Some(waker) = waiting {
            catch_panic(move || waker.wake());
        }
    }
}

/// Publishes in a thread of its own; here where there is none to be had.
fn publish_elsewhere<T: Item>(bus: &Bus<T>, item: &T) -> impl Future<Output = usize> + Send + use<T> {
    let told = Arc::new(Mutex::new(Told::default()));
    let run = {
        let (bus, item, teller) = (bus.clone(), item.another(), Teller(Arc::clone(&told)));
        move || {
            let handled = bus.publish(item).handled;
            // Who is woken may be the last who has this bus.
            drop(bus);
            lock(&teller.0).handled = Some(handled);
        }
    };
    if std::thread::Builder::new().name("fanwire-publish".to_owned()).spawn(run).is_err() {
        let handled = bus.publish(item.another()).handled;
        lock(&told).handled = Some(handled);
    }
    std::future::poll_fn(move |cx| {
        // Wakers are cloned and dropped behind the lock too: they are the executor's.
        let waker = cx.waker().clone();
        let before = {
            let mut told = lock(&told);
            if let Some(handled) = told.handled {
                return Poll::Ready(handled);
            }
            told.waiting.replace(waker)
        };
        drop(before);
        Poll::Pending
    })
}

/// A handler's future; false where it panicked, or did when it was dropped.
struct Guarded(Option<Called>);

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

//! Functions that are called with events: each in a thread of its own, or in the publishing thread.
//!
//! Invariants:
//! - A panic, of a handler or of its filter, ends that call, but not the handler, not the thread that published, and no
//!   other handler.
//! - Handlers are called, dropped and woken with no lock held: they may publish, and own guards of other handlers.

use std::fmt;
use std::sync::{Arc as Count, Weak};

use arc_swap::ArcSwap;

use super::delivery::DeliveryRef;
use super::item::Item;
use super::panics::catch_panic;
use super::ring::RingSet;
use super::subscriber::Subscriber;
use super::wait::AdaptiveWait;
use super::waitable::Waitable;
use crate::event::Event;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, lock};

/// Identifies a handler, for [`Bus::unsubscribe`](super::Bus::unsubscribe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandlerId(u64);

/// Counters of one handler.
#[derive(Debug, Default)]
struct HandlerCounts {
    panics: AtomicU64,
    missed: AtomicU64,
}

type SyncCall<T> = Box<dyn Fn(&T) + Send + Sync>;

struct SyncHandler<T: Item> {
    id: HandlerId,
    filter: T::Filter,
    /// `Some` until the handler is dropped.
    call: Option<SyncCall<T>>,
    counts: Count<HandlerCounts>,
    all_panics: Count<AtomicU64>,
}

impl<T: Item> SyncHandler<T> {
    /// Calls the handler if it wants the item, and returns whether it took it without a panic.
    fn call(&self, item: &T) -> bool {
        let call = || {
            let wanted = item.is_wanted(&self.filter);
            if let Some(call) = self.call.as_ref().filter(|_| wanted) {
                call(item);
            }
            wanted
        };
        guarded(&self.counts, &self.all_panics, call).unwrap_or(false)
    }
}

/// Drops the embedder's function in the thread that holds the handler last: often one that publishes.
impl<T: Item> Drop for SyncHandler<T> {
    fn drop(&mut self) {
        let own = (self.call.take(), std::mem::take(&mut self.filter));
        guarded(&self.counts, &self.all_panics, move || drop(own));
    }
}

struct ThreadHandler {
    id: HandlerId,
    stop: Count<AtomicBool>,
}

type SyncHandlers<T> = Vec<Count<SyncHandler<T>>>;

/// All handlers of a bus.
pub(super) struct Handlers<T: Item> {
    rings: Arc<RingSet<T::Codec>>,
    ids: AtomicU64,
    panics: Count<AtomicU64>,
    sync_count: AtomicUsize,
    /// List of handlers, read in every `publish` while there are any. Replaced as a whole.
    sync: ArcSwap<SyncHandlers<T>>,
    /// Held to replace the list.
    changes: Mutex<()>,
    threads: Mutex<Vec<ThreadHandler>>,
}

impl<T: Item> Handlers<T> {
    pub(super) fn new(rings: Arc<RingSet<T::Codec>>) -> Self {
        Self {
            rings,
            ids: AtomicU64::new(0),
            panics: Count::default(),
            sync_count: AtomicUsize::new(0),
            sync: ArcSwap::default(),
            changes: Mutex::default(),
            threads: Mutex::default(),
        }
    }

    pub(super) fn panics(&self) -> u64 {
        // A statistic: no edge.
        self.panics.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self) -> usize {
        let threads = lock(&self.threads).len();
        self.sync.load().len() + threads
    }

    /// Returns whether a publisher must call a handler.
    #[inline(always)]
    pub(super) fn has_sync(&self) -> bool {
        // Relaxed: the list itself comes with its own load. A thread that added a handler sees its own addition, and for
        // other threads "from now on" begins when they see it.
        self.sync_count.load(Ordering::Relaxed) != 0
    }

    /// Changes the list. A removed handler is dropped after the lock is released: its drop may publish, or drop another
    /// handler's guard.
    fn change_sync(&self, change: impl FnOnce(&mut SyncHandlers<T>)) {
        let before = {
            let _changes = lock(&self.changes);
            let mut handlers = SyncHandlers::clone(&self.sync.load());
            change(&mut handlers);
            // No edge: see `has_sync`.
            self.sync_count.store(handlers.len(), Ordering::Relaxed);
            self.sync.swap(Count::new(handlers))
        };
        drop(before);
    }

    /// Calls the handlers that want this item, and returns how many took it without a panic.
    #[cold]
    pub(super) fn call(&self, item: &T) -> usize {
        self.sync.load().iter().filter(|handler| handler.call(item)).count()
    }

    pub(super) fn remove(&self, id: HandlerId) -> bool {
        let mut threads = lock(&self.threads);
        if let Some(index) = threads.iter().position(|handler| handler.id == id) {
            let handler = threads.swap_remove(index);
            drop(threads);
            self.stop(&handler);
            return true;
        }
        drop(threads);
        let mut found = false;
        self.change_sync(|handlers| {
            let before = handlers.len();
            handlers.retain(|handler| handler.id != id);
            found = handlers.len() < before;
        });
        found
    }

    fn stop(&self, handler: &ThreadHandler) {
        // Relaxed: the handler looks after its announcement of sleep; `notify` orders the two (E6).
        handler.stop.store(true, Ordering::Relaxed);
        self.rings.notify();
    }

    pub(super) fn clear(&self) {
        let threads = std::mem::take(&mut *lock(&self.threads));
        for handler in threads {
            self.stop(&handler);
        }
        self.change_sync(Vec::clear);
    }

    fn new_id(&self) -> HandlerId {
        // A number of its own: no edge.
        HandlerId(self.ids.fetch_add(1, Ordering::Relaxed))
    }
}

/// Runs a handler's code, and returns `None` if it panicked.
fn guarded<R>(counts: &HandlerCounts, all: &AtomicU64, call: impl FnOnce() -> R) -> Option<R> {
    let done = catch_panic(call);
    if done.is_none() {
        counts.panics.fetch_add(1, Ordering::Relaxed);
        all.fetch_add(1, Ordering::Relaxed);
        #[cfg(feature = "server")]
        tracing::error!("a handler panicked; it continues with the next event");
    }
    done
}

trait Unsubscribe: Send + Sync {
    fn unsubscribe(&self, id: HandlerId) -> bool;
}

impl<T: Item> Unsubscribe for Handlers<T> {
    fn unsubscribe(&self, id: HandlerId) -> bool {
        self.remove(id)
    }
}

/// Keeps a handler subscribed; dropping the guard unsubscribes it.
#[must_use = "dropping the guard unsubscribes the handler; `detach` keeps it for the life of the bus"]
pub struct HandlerGuard {
    id: HandlerId,
    counts: Count<HandlerCounts>,
    handlers: Option<Weak<dyn Unsubscribe>>,
}

impl HandlerGuard {
    /// Returns the handler's id.
    #[must_use]
    pub fn id(&self) -> HandlerId {
        self.id
    }

    /// Keeps the handler until [`Bus::unsubscribe`](super::Bus::unsubscribe), [`Bus::clear`](super::Bus::clear) or the end of the bus, and returns its id.
    ///
    /// A handler that holds a [`Bus`](super::Bus) keeps it open, and the bus keeps the handler. Let it hold a
    /// [`WeakBus`](super::WeakBus) ([`Bus::downgrade`](super::Bus::downgrade)) instead, or end it by `unsubscribe` or
    /// `clear`.
    #[allow(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn detach(mut self) -> HandlerId {
        self.handlers = None;
        self.id
    }

    /// Returns how often the handler or its filter panicked.
    #[must_use]
    pub fn panics(&self) -> u64 {
        // A statistic: no edge.
        self.counts.panics.load(Ordering::Relaxed)
    }

    /// Returns how many events the handler missed because it was slow. Always 0 for a handler in the publishing thread.
    #[must_use]
    pub fn missed(&self) -> u64 {
        // A statistic: no edge.
        self.counts.missed.load(Ordering::Relaxed)
    }
}

impl Drop for HandlerGuard {
    fn drop(&mut self) {
        if let Some(handlers) = self.handlers.as_ref().and_then(Weak::upgrade) {
            handlers.unsubscribe(self.id);
        }
    }
}

impl fmt::Debug for HandlerGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandlerGuard({})", self.id.0)
    }
}

impl<T: Item> Handlers<T> {
    fn guard(self: &Count<Self>, id: HandlerId, counts: Count<HandlerCounts>) -> HandlerGuard {
        let handlers: Count<dyn Unsubscribe> = Count::<Self>::clone(self);
        HandlerGuard { id, counts, handlers: Some(Count::downgrade(&handlers)) }
    }

    /// Starts a thread that calls `handler` for what the subscriber reads.
    ///
    /// # Panics
    /// If the system cannot start a thread.
    pub(super) fn start(
        self: &Count<Self>,
        mut subscriber: Subscriber<T>,
        mut handler: impl FnMut(&T) + Send + 'static,
    ) -> HandlerGuard {
        let id = self.new_id();
        let counts = Count::<HandlerCounts>::default();
        let stop = Count::<AtomicBool>::default();
        let run = {
            let (counts, stop, panics) =
                (Count::clone(&counts), Count::clone(&stop), Count::clone(&self.panics));
            move || {
                // Relaxed: after the announcement of sleep, E6 orders it (see `stop`); before that, a late look does no
                // harm.
                let stopped = || stop.load(Ordering::Relaxed);
                let mut waiting = AdaptiveWait::default();
                while !stopped() {
                    let mut shown = 0;
                    let (cursor, filter) = subscriber.parts();
                    cursor.visit(|visit| {
                        shown += 1;
                        match visit {
                            DeliveryRef::Event(item) => {
                                let call = || {
                                    if item.is_wanted(filter) {
                                        handler(item);
                                    }
                                };
                                guarded(&counts, &panics, call);
                            }
                            DeliveryRef::Gap(gap) => {
                                // A statistic: no edge.
                                counts.missed.fetch_add(gap.missed, Ordering::Relaxed);
                            }
                        }
                        !stopped()
                    });
                    if shown > 0 {
                        continue;
                    }
                    if is_over(&mut subscriber) {
                        break;
                    }
                    waiting.wait(subscriber.parts().0, None, stopped);
                }
                guarded(&counts, &panics, move || drop((handler, subscriber)));
            }
        };
        let thread = std::thread::Builder::new().name(format!("fanwire-on-{}", id.0));
        thread.spawn(run).expect("the system starts a thread, as documented");
        lock(&self.threads).push(ThreadHandler { id, stop });
        self.guard(id, counts)
    }

    /// Adds a handler that publishers call.
    pub(super) fn add_sync(
        self: &Count<Self>,
        filter: T::Filter,
        handler: impl Fn(&T) + Send + Sync + 'static,
    ) -> HandlerGuard {
        let id = self.new_id();
        let counts = Count::<HandlerCounts>::default();
        let handler = SyncHandler {
            id,
            filter,
            call: Some(Box::new(handler)),
            counts: Count::clone(&counts),
            all_panics: Count::clone(&self.panics),
        };
        self.change_sync(|handlers| handlers.push(Count::new(handler)));
        self.guard(id, counts)
    }
}

/// Returns whether a reader that found nothing will never find anything again.
fn is_over<T: Item>(subscriber: &mut Subscriber<T>) -> bool {
    let (cursor, _) = subscriber.parts();
    cursor.is_closed() && !cursor.is_ready() && !cursor.is_at_hole()
}

const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Subscriber<Event>>();
};

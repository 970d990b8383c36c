//! The bus: carries events from any number of publishers to any number of readers of one process.
//!
//! [`Bus`] overwrites its oldest events and never waits for a reader; [`LosslessBus`] makes publishers wait instead.
//! [`Subscriber`] and [`LosslessSubscriber`] read them, and [`WaitStrategy`] says how they wait.
//!
//! Invariants:
//! - Publishing to a [`Bus`] waits for no reader. The rings bound the memory, however slow a reader is.
//! - A reader gets the events of a shard in order, each at most once, and a gap wherever some are missing.

// From the bottom up: `barrier` and `event_count` (fences, sleep and wake), `ring` (slots, pins, reclamation; all `unsafe`
// code), `item` (contents of a slot), `cursor` (a reader's place in all shards), `wait` and `receive`, and on these the
// subscribers, the handlers, the recorder, the loop's reader and the publishers.
#[cfg(feature = "async")]
mod adapter;
mod barrier;
mod builder;
mod cursor;
mod delivery;
mod epoch;
mod event_count;
mod handler;
mod history;
mod item;
#[cfg(feature = "server")]
mod loop_reader;
mod lossless;
mod lossless_subscriber;
mod on;
#[cfg(feature = "server")]
mod order;
mod panics;
mod position;
mod publisher;
mod receive;
mod recorder;
mod replay;
mod ring;
mod select;
mod shared;
mod stage;
#[cfg(feature = "async")]
mod stream;
mod subscriber;
mod subscriber_count;
#[cfg(test)]
mod tests;
mod wait;
mod waitable;
mod writer_pool;

use std::fmt;
use std::sync::{Arc as Count, OnceLock, Weak};

use crate::event::{Event, Position, Sequence};
#[cfg(feature = "server")]
use crate::sync::lock;
use crate::sync::{Arc, Mutex};
use builder::OrderingKey;
use cursor::Cursor;
use epoch::new_epoch;
use handler::Handlers;
use recorder::Recorder;
use ring::RingSet;
use subscriber_count::SubscriberCount;
use writer_pool::WriterPool;

#[cfg(feature = "async")]
pub use adapter::AsyncAdapter;
pub use builder::{
    BusBuilder, BusConfig, BusConfigError, BusStats, CAPACITY_DEFAULT, MAX_BYTES_DEFAULT, ShardStats,
};
pub use delivery::{Delivery, DeliveryRef, Gap};
pub use handler::{HandlerGuard, HandlerId};
pub use item::{Item, Predicate};
#[cfg(feature = "server")]
pub(crate) use loop_reader::{LoopReader, ReaderItem};
pub use lossless::{LosslessBus, SoloPublisher, TryPublishError};
pub use lossless_subscriber::{LosslessIntoIter, LosslessIter, LosslessSubscriber};
#[cfg(feature = "server")]
pub(crate) use panics::catch_panic;
pub use position::PositionError;
pub use publisher::{PublishError, Published, PublishedBatch, Publisher};
pub use receive::{RecvError, RecvTimeoutError, TryRecvError};
pub use replay::Replay;
pub use select::{Select, Selectable};
pub use shared::{IntoItem, SharedValue};
pub use stage::{BatchItem, HandlerThread};
#[cfg(feature = "async")]
pub use stream::PublishFuture;
pub use subscriber::{Ledger, Subscriber, SubscriberIntoIter, SubscriberIter};
pub use wait::WaitStrategy;

/// Carries events, or plain values, from publishers to subscribers of one process.
///
/// A handle: clones are the same bus. Each shard is a ring that keeps its newest events; publishing overwrites the oldest
/// and never waits for readers. Items with the same ordering key share a shard and stay in order, whichever thread
/// published them; nothing is promised across shards. When the last handle ([`Bus`], [`Publisher`]) is dropped, or one calls
/// [`close`](Self::close), subscribers read what is left and end.
///
/// ```
/// use fanwire::{Bus, Delivery, Event, Filter};
///
/// let bus = Bus::new();
/// let mut tasks = bus.subscribe("type=task.*".parse::<Filter>()?);
/// bus.publish(Event::builder("task.started").build()?);
/// assert!(matches!(tasks.try_recv()?, Delivery::Event(event) if event.event_type() == "task.started"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Bus<T: Item = Event>(Count<BusInner<T>>);

/// State that the handles of a bus share. Subscribers hold the rings only, so that they learn of the end.
struct BusInner<T: Item> {
    rings: Arc<RingSet<T::Codec>>,
    epoch: u64,
    ordering_key: Option<OrderingKey<T>>,
    writers: WriterPool<T::Codec>,
    handlers: Count<Handlers<T>>,
    recorder: Count<Mutex<Recorder<T>>>,
    subscribers: SubscriberCount,
    /// With several shards: the order in which loops read them, from the first loop on.
    #[cfg(feature = "server")]
    order: OnceLock<Arc<Mutex<order::Order>>>,
}

impl Bus<Event> {
    /// Creates a bus of events with one shard of 8,192 slots. Allocates the ring.
    #[must_use]
    pub fn new() -> Self {
        Self::from_builder(BusBuilder::new())
    }

    /// Returns a builder, for a bus with other settings.
    #[must_use]
    pub fn builder() -> BusBuilder<Event> {
        BusBuilder::new()
    }

    /// Creates a bus of values of any type, with one shard of 8,192 slots. Allocates the ring; each publication allocates its
    /// value, which all readers share ([`SharedValue`]).
    #[must_use]
    pub fn of<V: Send + Sync + 'static>() -> Bus<SharedValue<V>> {
        Bus::from_builder(BusBuilder::new().of())
    }

    /// Returns the bus of the whole process, which the first call creates. It never closes.
    pub fn global() -> &'static Self {
        static GLOBAL: OnceLock<Bus> = OnceLock::new();
        GLOBAL.get_or_init(Self::new)
    }
}

impl<T: Item> BusBuilder<T> {
    /// Creates the bus. Allocates the rings.
    ///
    /// # Errors
    /// [`BusConfigError`] if the capacity is not a power of two from 1 to 2^24, the number of shards is not from 1 to 1,024,
    /// or several shards of plain values have no ordering key.
    pub fn build(self) -> Result<Bus<T>, BusConfigError> {
        self.check()?;
        Ok(Bus::from_builder(self))
    }
}

impl<T: Item> Bus<T> {
    fn from_builder(builder: BusBuilder<T>) -> Self {
        let (epoch, first) = match builder.resumed {
            Some(Position { epoch, ref sequences }) => (epoch, sequences.to_vec()),
            None => (new_epoch(), vec![0; builder.shards]),
        };
        let rings = Arc::new(RingSet::starting_at(&first, builder.capacity, builder.bound()));
        Self(Count::new(BusInner {
            epoch,
            ordering_key: builder.ordering_key,
            writers: WriterPool::new(&rings),
            handlers: Count::new(Handlers::new(Arc::clone(&rings))),
            recorder: Count::default(),
            subscribers: SubscriberCount::counting(),
            #[cfg(feature = "server")]
            order: OnceLock::new(),
            rings,
        }))
    }

    /// Returns the bus's epoch. No two buses of a process have the same, nor, as far as the clock can be trusted, two
    /// processes.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Returns a subscriber to the events that the filter lets through, from now on. Allocates; never blocks.
    pub fn subscribe(&self, filter: impl Into<T::Filter>) -> Subscriber<T> {
        let cursor = Cursor::new(&self.0.rings);
        Subscriber::new(cursor, filter.into(), self.0.epoch, self.0.subscribers.enter())
    }

    /// Returns a subscriber that reads from a position on; events that the rings no longer hold come as a gap first.
    /// Allocates; never blocks.
    ///
    /// # Errors
    /// [`PositionError`] if the position is of another epoch, has another number of shards, or is ahead of the newest
    /// event.
    pub fn subscribe_from(
        &self,
        filter: impl Into<T::Filter>,
        position: &Position,
    ) -> Result<Subscriber<T>, PositionError> {
        let mut subscriber = self.subscribe(filter);
        subscriber.seek(position)?;
        Ok(subscriber)
    }

    fn subscribe_uncounted(&self, filter: T::Filter) -> Subscriber<T> {
        Subscriber::new(Cursor::new(&self.0.rings), filter, self.0.epoch, SubscriberCount::default())
    }

    /// Returns the position of the next events.
    #[must_use]
    pub fn position(&self) -> Position {
        Position::new(self.0.epoch, self.0.rings.shards().iter().map(ring::Ring::head))
    }

    /// Returns the position of the oldest events that the rings still hold.
    #[must_use]
    pub fn oldest_position(&self) -> Position {
        Position::new(self.0.epoch, (0..self.shards()).map(|shard| self.oldest(shard as u16)))
    }

    /// Returns the number of shards.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.0.rings.shards().len()
    }

    /// Returns the number of slots of each shard: that many of its newest events are held.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring(0).map_or(0, |ring| ring.capacity() as usize)
    }

    /// Returns the bound of all rings in bytes, if they have one.
    #[cfg(feature = "server")]
    pub(crate) fn ring_bytes_max(&self) -> Option<u64> {
        self.0.rings.max_bytes()
    }

    /// Returns the bytes of the attributes and payloads of the events that it holds: those in its rings, and
    /// overwritten ones that are not released yet. Exact while no thread publishes; takes a lock and a load for each
    /// publisher. 0 for plain values.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.0.rings.held()
    }

    /// Returns the ring of a shard. A shard number can come from outside, in an event id, so it may not be there.
    fn ring(&self, shard: u16) -> Option<&ring::Ring<T::Codec>> {
        self.0.rings.shards().get(usize::from(shard))
    }

    /// Returns the next sequence of a shard, 0 for a shard that is not there.
    #[cfg(feature = "server")]
    pub(crate) fn head(&self, shard: u16) -> Sequence {
        self.ring(shard).map_or(0, ring::Ring::head)
    }

    /// Returns the oldest sequence that a shard may still hold, 0 for a shard that is not there.
    pub(crate) fn oldest(&self, shard: u16) -> Sequence {
        self.ring(shard).map_or(0, ring::Ring::oldest)
    }

    /// Returns the number of subscribers and handlers now. Takes a lock.
    #[must_use]
    pub fn subscriber_count(&self) -> usize {
        self.0.subscribers.count() + self.0.handlers.count()
    }

    /// Ends all handlers' subscriptions and the recording, and drops the recorded events. Subscribers stay, and so do the
    /// events in the rings. Does not wait for handlers that are running.
    pub fn clear(&self) {
        self.0.handlers.clear();
        self.end_recording();
    }

    /// Returns the statistics. Releases overwritten events first. Takes locks; allocates.
    #[must_use]
    pub fn stats(&self) -> BusStats {
        let rings = &self.0.rings;
        self.0.writers.reclaim();
        let shards = rings.shards().iter().map(|ring| {
            let head = ring.head();
            let capacity = ring.capacity();
            ShardStats { head, oldest: ring.oldest(), capacity: capacity as usize }
        });
        let shards: Vec<ShardStats> = shards.collect();
        let published = shards.iter().map(|shard| shard.head).sum();
        BusStats {
            published,
            live_events: if <T::Codec as ring::SlotCodec>::COUNTED { rings.live() } else { 0 },
            held_bytes: rings.held(),
            wakes: rings.wakes(),
            subscribers: self.subscriber_count(),
            handler_panics: self.0.handlers.panics(),
            waker_panics: rings.waker_panics(),
            shards,
        }
    }
}

#[cfg(feature = "server")]
impl Bus<Event> {
    /// Creates a reader for an event loop. A publisher calls `waker` once for each time that the reader announced its
    /// sleep.
    pub(crate) fn reader(&self, waker: impl Fn() + Send + Sync + 'static) -> LoopReader {
        LoopReader::new(Cursor::new(&self.0.rings), self.epoch(), Count::new(waker), self.order())
    }

    /// Returns the order of several shards.
    fn order(&self) -> Option<&Arc<Mutex<order::Order>>> {
        let make = || Arc::new(Mutex::new(order::Order::new(self.position())));
        (self.shards() > 1).then(|| self.0.order.get_or_init(make))
    }

    /// Sets the position in a log that the events come from: the position of clients that have received nothing yet. Called
    /// by the log's follower, before it publishes the first event.
    pub(crate) fn begin_at(&self, log: Position) {
        if let Some(order) = self.order() {
            lock(order).begin_at(self.epoch(), log);
        }
    }
}

impl<T: Item> Drop for BusInner<T> {
    fn drop(&mut self) {
        self.rings.close();
    }
}

/// A handle that does not keep its bus open. See [`Bus::downgrade`].
pub struct WeakBus<T: Item = Event>(Weak<BusInner<T>>);

impl<T: Item> Bus<T> {
    /// Returns a handle that does not keep the bus open, for handlers that publish. A handler that holds a [`Bus`]
    /// keeps it open, and the bus keeps the handler, so neither would end before the handler is unsubscribed.
    ///
    /// ```
    /// use fanwire::{Bus, Event, Filter};
    ///
    /// let bus = Bus::new();
    /// let mut all = bus.subscribe(Filter::new());
    /// let echo = bus.downgrade();
    /// bus.on_sync("type=ask".parse::<Filter>()?, move |_| {
    ///     if let (Some(bus), Ok(answer)) = (echo.upgrade(), Event::builder("answer").build()) {
    ///         bus.publish(answer);
    ///     }
    /// })
    /// .detach();
    /// bus.publish(Event::builder("ask").build()?);
    /// drop(bus);
    /// assert_eq!(all.iter().count(), 2, "and then the bus is closed");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn downgrade(&self) -> WeakBus<T> {
        WeakBus(Count::downgrade(&self.0))
    }
}

impl<T: Item> WeakBus<T> {
    /// Returns the bus, while it is open.
    #[must_use]
    pub fn upgrade(&self) -> Option<Bus<T>> {
        self.0.upgrade().map(Bus)
    }
}

impl<T: Item> Clone for WeakBus<T> {
    fn clone(&self) -> Self {
        Self(Weak::clone(&self.0))
    }
}

impl<T: Item> fmt::Debug for WeakBus<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakBus")
    }
}

impl<T: Item> Clone for Bus<T> {
    fn clone(&self) -> Self {
        Self(Count::clone(&self.0))
    }
}

impl Default for Bus<Event> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Item> fmt::Debug for Bus<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("position", &self.position()).finish_non_exhaustive()
    }
}

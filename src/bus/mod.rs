//! The bus: stand-in behind the final interface.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::event::{Event, EventId, Sequence, Timestamp};
use crate::filter::Filter;

const CAPACITY: usize = 8192;

type Waker = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Inner {
    ring: VecDeque<Event>,
    head: u64,
    sleepers: Vec<Waker>,
}

struct SharedBus {
    inner: Mutex<Inner>,
    more: Condvar,
    epoch: u64,
}

/// A bus.
#[derive(Clone)]
pub struct Bus(Arc<SharedBus>);

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bus")
    }
}

impl Default for Bus {
    fn default() -> Self {
        Self::new()
    }
}

/// What `publish` answers.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// The event's place.
    pub id: EventId,
    /// Handlers that took it.
    pub handled: usize,
}

/// Events a reader did not get.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// How many.
    pub missed: u64,
    /// The first.
    pub from: Sequence,
    /// Behind the last.
    pub to: Sequence,
}

/// What a subscriber yields.
#[derive(Clone, Debug)]
pub enum Delivery<T = Event> {
    /// An event.
    Event(T),
    /// A loss.
    Gap(Gap),
}

pub(crate) struct ShardStats {
    pub(crate) head: u64,
    pub(crate) oldest: u64,
    pub(crate) capacity: usize,
}

pub(crate) struct BusStats {
    pub(crate) shards: Vec<ShardStats>,
}

impl Bus {
    /// A bus of one shard.
    pub fn new() -> Self {
        let epoch = Timestamp::now().0 as u64;
        Self(Arc::new(SharedBus { inner: Mutex::default(), more: Condvar::new(), epoch }))
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes.
    pub fn publish(&self, event: Event) -> Published {
        let event = event.into_publishable();
        let mut inner = self.inner();
        let id = EventId { epoch: self.0.epoch, shard: 0, sequence: inner.head };
        event.place(id);
        inner.head += 1;
        if inner.ring.len() == CAPACITY {
            inner.ring.pop_front();
        }
        inner.ring.push_back(event);
        let sleepers = std::mem::take(&mut inner.sleepers);
        drop(inner);
        self.0.more.notify_all();
        for wake in sleepers {
            wake();
        }
        Published { id, handled: 0 }
    }

    /// Subscribes.
    pub fn subscribe(&self, filter: Filter) -> Subscriber {
        let next = self.inner().head;
        Subscriber { bus: self.clone(), filter, next }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.0.epoch
    }

    pub(crate) fn oldest(&self, _shard: u16) -> Sequence {
        let inner = self.inner();
        inner.head - inner.ring.len() as u64
    }

    pub(crate) fn stats(&self) -> BusStats {
        let inner = self.inner();
        let oldest = inner.head - inner.ring.len() as u64;
        BusStats { shards: vec![ShardStats { head: inner.head, oldest, capacity: CAPACITY }] }
    }

    fn get(&self, from: Sequence, max: usize) -> (Sequence, Vec<Event>) {
        let inner = self.inner();
        let oldest = inner.head - inner.ring.len() as u64;
        let start = from.max(oldest);
        (start, inner.ring.iter().skip((start - oldest) as usize).take(max).cloned().collect())
    }

    /// Gives the events `from..to` that are kept to `take`; answers where it could start.
    pub(crate) fn read_range(
        &self,
        _shard: u16,
        from: Sequence,
        to: Sequence,
        mut take: impl FnMut(&Event),
    ) -> Sequence {
        let (start, events) = self.get(from, usize::MAX);
        for event in events.iter().take(to.saturating_sub(start) as usize) {
            take(event);
        }
        start
    }

    pub(crate) fn reader(&self, waker: impl Fn() + Send + Sync + 'static) -> LoopReader {
        LoopReader { bus: self.clone(), next: self.inner().head, waker: Arc::new(waker) }
    }
}

pub(crate) enum ReaderItem<'a> {
    Event(&'a Event),
    Gap { shard: u16, missed: u64, from: Sequence, to: Sequence },
}

pub(crate) struct LoopReader {
    bus: Bus,
    next: Sequence,
    waker: Waker,
}

impl LoopReader {
    pub(crate) fn position(&self, _shard: u16) -> Sequence {
        self.next
    }

    pub(crate) fn poll_batch(&mut self, max: usize, mut f: impl FnMut(ReaderItem<'_>)) -> usize {
        let (start, events) = self.bus.get(self.next, max);
        if start > self.next {
            f(ReaderItem::Gap { shard: 0, missed: start - self.next, from: self.next, to: start });
        }
        for event in &events {
            f(ReaderItem::Event(event));
        }
        self.next = start + events.len() as u64;
        events.len()
    }

    pub(crate) fn prepare_sleep(&mut self) -> bool {
        let mut inner = self.bus.inner();
        if inner.head > self.next {
            return false;
        }
        inner.sleepers.push(Arc::clone(&self.waker));
        true
    }

    pub(crate) fn awake(&mut self) {
        self.bus.inner().sleepers.retain(|w| !Arc::ptr_eq(w, &self.waker));
    }
}

/// A reader.
#[derive(Debug)]
pub struct Subscriber {
    bus: Bus,
    filter: Filter,
    next: Sequence,
}

impl Iterator for Subscriber {
    type Item = Delivery;

    fn next(&mut self) -> Option<Delivery> {
        loop {
            let (start, events) = self.bus.get(self.next, 1);
            if start > self.next {
                let gap = Gap { missed: start - self.next, from: self.next, to: start };
                self.next = start;
                return Some(Delivery::Gap(gap));
            }
            match events.into_iter().next() {
                Some(event) => {
                    self.next += 1;
                    if self.filter.matches(&event) {
                        return Some(Delivery::Event(event));
                    }
                }
                None => {
                    let inner = self.bus.inner();
                    if inner.head == self.next {
                        drop(self.bus.0.more.wait(inner).unwrap_or_else(PoisonError::into_inner));
                    }
                }
            }
        }
    }
}

//! Readers of kept logs within the embedding program: the retained events, then those that come, and the ends.
//!
//! Invariants:
//! - The logs are read up to the places that were recorded when the reader began, and the rings from there on, so no event is missing
//!   or duplicated in between.
//! - With an engine events are recorded before they are in the ring: the ring is read from its end on, without those that were recorded.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::handle::ServerHandle;
use super::shared::Shared;
use super::shared::resume::oldest_place;
use crate::bus::{Delivery, PositionError, RecvError, Subscriber, TryRecvError};
use crate::dialect::Missed;
use crate::event::{Event, EventId, Position, Timestamp};
use crate::filter::Filter;
use crate::kept::{KeptContent, KeptCursor, KeptItem, LogName, RetainBy, ShardPlace, excludes, place_after};

/// Number of events read from the logs under one lock.
const READ_AT_ONCE: usize = 64;

/// Number of events that one poll looks at before other tasks run.
#[cfg(feature = "async")]
const POLL_MAX: usize = 256;

/// Place at which a [`KeptReader`] begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadFrom {
    /// The first retained event of the newest life of each log.
    Start,
}

/// End of a kept log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptEnd {
    /// Attribute by which the log is kept.
    pub by: RetainBy,
    /// Value of the attribute.
    pub value: String,
    /// Event that ended it.
    pub last_event_id: EventId,
    /// Type of that event.
    pub event_type: String,
    /// Whether the reader has delivered everything, from the first event on.
    pub complete: bool,
}

/// Next item of a [`KeptReader`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KeptDelivery {
    /// Event that the filter matches.
    Event(Event),
    /// Events are missing here. Holds their number, counted before the filter; `None` if it is unknown.
    Gap(Option<u64>),
    /// A log that the filter names by value has ended. Nothing follows the last end if the filter selects no other logs.
    End(KeptEnd),
}

/// Reason why there is no [`KeptReader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotKept {
    /// No rule of [`ServerConfig::retain`](super::ServerConfig::retain) keeps everything that the filter matches, or the rule
    /// came into force after the rings' oldest event.
    NotCovered,
    /// The filter names or matches more than this many logs (`retain_max_logs_read`).
    TooManyLogs(usize),
    /// The engine's log is still being read, or can't be read. Try again when the server is ready.
    NotReady,
}

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCovered => f.write_str(
                "no rule keeps everything that the filter matches: name a stream, or another attribute, that ServerConfig::retain keeps",
            ),
            Self::NotReady => f.write_str("the engine's log is not read yet: try again when the server is ready"),
            Self::TooManyLogs(max) => {
                write!(f, "the filter names or matches more than {max} kept logs (retain_max_logs_read): narrow it")
            }
        }
    }
}

impl std::error::Error for NotKept {}

/// Reader of kept logs, from their start to their end. See [`ServerHandle::subscribe_from`].
pub struct KeptReader {
    shared: Arc<Shared>,
    filter: Filter,
    /// Part of the logs that is not read yet; `None` when the reader is live.
    past: Option<KeptPastReader>,
    live: Subscriber,
    /// Logs that end and that the filter names by value, without those that have ended.
    names: Vec<LogName>,
    /// Whether the filter selects no other logs.
    is_closed: bool,
    has_gap: bool,
    /// Items to return next.
    ready: VecDeque<KeptDelivery>,
    /// Number of purges that the reader knows.
    purges: u64,
    seam: Seam,
    is_over: bool,
}

/// Place in the logs.
struct KeptPastReader {
    cursor: KeptCursor,
    queue: VecDeque<KeptItem>,
}

/// Places between the logs and the live events.
struct Seam {
    /// Place of the next event of each shard that was not recorded when the reader began.
    until: Box<[ShardPlace]>,
    /// With an engine: place of the next live event of each shard, unless it is not known.
    next: Box<[Option<ShardPlace>]>,
}

impl Seam {
    /// Returns whether an event was recorded when the reader began.
    fn is_past(&self, id: EventId) -> bool {
        self.until.get(usize::from(id.shard)).is_some_and(|until| (id.epoch, id.sequence) < *until)
    }

    /// Moves past a live event. Returns the first missing event before it, in the log of an engine.
    fn pass(&mut self, id: EventId) -> Option<EventId> {
        let next = self.next.get_mut(usize::from(id.shard))?;
        let (epoch, sequence) = next.replace(place_after(id))?;
        let expected = EventId { epoch, sequence, ..id };
        (expected != id).then_some(expected)
    }
}

impl fmt::Debug for KeptReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptReader").field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl ServerHandle {
    /// Returns a reader of the retained events of the logs that a filter names or matches, in the order in which they were
    /// accepted, and then of live events. No event is missing or duplicated in between. The reader ends when all logs that the
    /// filter names by value have ended, if the filter selects no others.
    ///
    /// The live part is a [`Subscriber`] of the bus: a reader that the rings overtake gets a gap. A purge of a log is a gap too. With an
    /// engine the reader has the events that this node has read of the log, and wakes for each event of it. Allocates; takes the lock of
    /// the logs.
    ///
    /// # Errors
    ///
    /// [`NotKept`] if the rules don't keep everything that the filter matches, or the filter selects more logs than one request
    /// may read.
    pub fn subscribe_from(&self, filter: impl Into<Filter>, from: ReadFrom) -> Result<KeptReader, NotKept> {
        let ReadFrom::Start = from;
        let (filter, shared) = (filter.into(), Arc::clone(&self.shared));
        let bus = &shared.bus;
        let logs = shared.kept.lock().ok_or(NotKept::NotCovered)?;
        let filters = std::slice::from_ref(&filter);
        if logs.is_reading() {
            return Err(NotKept::NotReady);
        }
        if !logs.cover(filters, |shard| oldest_place(&shared, shard)) {
            return Err(NotKept::NotCovered);
        }
        let too_many = |error: crate::kept::TooManyLogs| NotKept::TooManyLogs(error.max);
        let cursor = logs.cursor(filters, &[], Timestamp::now()).map_err(too_many)?;
        let named = logs.named_with_end(&filter);
        let has_engine = shared.engine.is_some();
        // An end may be an event that the filter leaves out. The ids of all events show which an engine's log lacks.
        let wanted = if named.names.is_empty() && !has_engine { filter.clone() } else { Filter::new() };
        let until: Box<[ShardPlace]> = logs.recorded().collect();
        let live = if has_engine {
            // Each event that is not recorded yet comes into the ring later than this.
            bus.subscribe(wanted)
        } else {
            let position = Position::new(bus.epoch(), until.iter().map(|(_, sequence)| *sequence));
            // The loops record what they have read from this very bus.
            bus.subscribe_from(wanted.clone(), &position)
                .unwrap_or_else(|_: PositionError| bus.subscribe(wanted))
        };
        let next = until.iter().filter(|_| has_engine).map(|place| Some(*place)).collect();
        let purges = logs.purge_count();
        drop(logs);
        Ok(KeptReader {
            past: Some(KeptPastReader { cursor, queue: VecDeque::new() }),
            live,
            names: named.names,
            is_closed: named.is_closed,
            has_gap: false,
            ready: VecDeque::new(),
            purges,
            seam: Seam { until, next },
            is_over: false,
            filter,
            shared,
        })
    }
}

impl KeptReader {
    /// Waits for the next item.
    ///
    /// # Errors
    /// [`RecvError`] after the last end, and if the bus is closed and everything was read.
    pub fn recv(&mut self) -> Result<KeptDelivery, RecvError> {
        loop {
            if let Some(item) = self.past_item() {
                return Ok(item);
            }
            if self.is_over {
                return Err(RecvError);
            }
            let delivery = self.live.recv()?;
            self.take(delivery);
        }
    }

    /// Returns the next item, if it is there.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`] if there is none yet; [`TryRecvError::Closed`] as [`recv`](Self::recv) fails.
    pub fn try_recv(&mut self) -> Result<KeptDelivery, TryRecvError> {
        loop {
            if let Some(item) = self.past_item() {
                return Ok(item);
            }
            if self.is_over {
                return Err(TryRecvError::Closed);
            }
            let delivery = self.live.try_recv()?;
            self.take(delivery);
        }
    }

    /// Returns the next item that is there without waiting for a live event.
    fn past_item(&mut self) -> Option<KeptDelivery> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            let past = self.past.as_mut().filter(|_| !self.is_over)?;
            let Some(item) =
                past.queue.pop_front().or_else(|| past.read(&self.shared, &self.seam, &mut self.purges))
            else {
                self.past = None;
                return None;
            };
            past.cursor.pass(&item);
            match item.content {
                KeptContent::Event(event) => self.take_event(event),
                KeptContent::Gap { missed, .. } => self.take_gap(match missed {
                    Missed::Exactly(count) => Some(count),
                    Missed::AtMost(_) | Missed::Unknown => None,
                }),
            }
        }
    }

    /// Takes an item of the ring.
    fn take(&mut self, delivery: Delivery) {
        self.take_purges();
        match delivery {
            Delivery::Gap(gap) => {
                // The gap is reported here, and not again by the id of the event after it.
                self.seam.next.iter_mut().for_each(|next| *next = None);
                self.take_gap(Some(gap.missed));
            }
            Delivery::Event(event) => {
                if let Some(id) = event.id().filter(|_| self.shared.engine.is_some()) {
                    if self.seam.is_past(id) {
                        return;
                    }
                    if let Some(first) = self.seam.pass(id)
                        && !self.is_undelivered(first, id)
                    {
                        self.take_gap(None);
                    }
                }
                self.take_event(event);
            }
        }
    }

    /// Returns whether no node delivers the events of an engine's log from `first` on before another.
    fn is_undelivered(&self, first: EventId, before: EventId) -> bool {
        let after = EventId::before(first.epoch, first.shard, first.sequence);
        self.shared.kept.lock().is_some_and(|logs| logs.are_undelivered(after, before))
    }

    /// Takes a gap if a purge since the last item concerns the filter.
    fn take_purges(&mut self) {
        let purged = self.shared.kept.purged_since(&mut self.purges);
        if purged.iter().any(|purged| !excludes(&self.filter, purged)) {
            self.take_gap(None);
        }
    }

    fn take_gap(&mut self, missed: Option<u64>) {
        self.has_gap = true;
        self.ready.push_back(KeptDelivery::Gap(missed));
    }

    /// Queues an event if the filter matches it, and the end of a log if the event is one.
    fn take_event(&mut self, event: Event) {
        let end = self.end_of(&event);
        if self.filter.matches(&event) {
            self.ready.push_back(KeptDelivery::Event(event));
        }
        if let Some(end) = end {
            self.is_over = self.is_closed && self.names.is_empty();
            self.ready.push_back(KeptDelivery::End(end));
        }
    }

    /// Returns the end of a log that the filter names, if the event is one.
    fn end_of(&mut self, event: &Event) -> Option<KeptEnd> {
        if self.names.is_empty() {
            return None;
        }
        let ended = self.shared.kept.lock().and_then(|logs| logs.log_of(event));
        let (Some((name, true)), Some(last_event_id)) = (ended, event.id()) else { return None };
        let at = self.names.iter().position(|known| *known == name)?;
        self.names.swap_remove(at);
        Some(KeptEnd {
            by: name.by,
            value: name.value.to_string(),
            last_event_id,
            event_type: event.event_type().to_owned(),
            complete: !self.has_gap,
        })
    }
}

impl KeptPastReader {
    /// Reads the next items, and returns the first. Logs that were purged are gaps among them, so `purges` moves on.
    fn read(&mut self, shared: &Shared, seam: &Seam, purges: &mut u64) -> Option<KeptItem> {
        let logs = shared.kept.lock()?;
        *purges = logs.purge_count();
        logs.read(&self.cursor, |id| seam.is_past(id), Timestamp::now(), READ_AT_ONCE, &mut self.queue);
        self.queue.pop_front()
    }
}

/// Iterator over the items of a [`KeptReader`]; it waits for each.
#[derive(Debug)]
pub struct KeptReaderIntoIter(KeptReader);

impl Iterator for KeptReaderIntoIter {
    type Item = KeptDelivery;

    fn next(&mut self) -> Option<KeptDelivery> {
        self.0.recv().ok()
    }
}

impl IntoIterator for KeptReader {
    type Item = KeptDelivery;
    type IntoIter = KeptReaderIntoIter;

    fn into_iter(self) -> KeptReaderIntoIter {
        KeptReaderIntoIter(self)
    }
}

#[cfg(feature = "async")]
impl futures_core::Stream for KeptReader {
    type Item = KeptDelivery;

    /// Returns the next item; ends as [`recv`](Self::recv) fails.
    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<KeptDelivery>> {
        use std::task::Poll;
        let reader = self.get_mut();
        for _ in 0..POLL_MAX {
            if let Some(item) = reader.past_item() {
                return Poll::Ready(Some(item));
            }
            if reader.is_over {
                return Poll::Ready(None);
            }
            match std::pin::Pin::new(&mut reader.live).poll_next(cx) {
                Poll::Ready(Some(delivery)) => reader.take(delivery),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

//! Readers of kept logs within the embedding program: the retained events, then those that come, and the ends.
//!
//! Invariant: the logs are read up to the places that the loops had recorded when the reader began, and the rings from there
//! on, so no event is missing or duplicated in between.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::handle::ServerHandle;
use super::shared::Shared;
use super::shared::resume::oldest_place;
use crate::bus::{Delivery, PositionError, RecvError, Subscriber, TryRecvError};
use crate::dialect::Missed;
use crate::event::{Event, EventId, Position, Sequence, Timestamp};
use crate::filter::Filter;
use crate::kept::{KeptContent, KeptCursor, KeptItem, LogName, RetainBy};

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
    /// The server has an engine, which holds the order and the logs. Clients read them over a stream.
    Engine,
}

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCovered => f.write_str(
                "no rule keeps everything that the filter matches: name a stream, or another attribute, that ServerConfig::retain keeps",
            ),
            Self::Engine => f.write_str("with an engine there are no readers of kept logs in the program: read them as a client"),
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
    pending: Option<KeptEnd>,
    is_over: bool,
}

/// Place in the logs.
struct KeptPastReader {
    cursor: KeptCursor,
    queue: VecDeque<KeptItem>,
    /// Next sequence of each shard that was not recorded when the reader began.
    until: Box<[Sequence]>,
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
    /// The live part is a [`Subscriber`] of the bus: a reader that the rings overtake gets a gap. Allocates; takes the lock of the logs.
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
        if shared.engine.is_some() {
            return Err(NotKept::Engine);
        }
        if !logs.cover(filters, |shard| oldest_place(&shared, shard)) {
            return Err(NotKept::NotCovered);
        }
        let too_many = |error: crate::kept::TooManyLogs| NotKept::TooManyLogs(error.max);
        let cursor = logs.cursor(filters, &[], Timestamp::now()).map_err(too_many)?;
        let named = logs.named_with_end(&filter);
        // An end may be an event that the filter leaves out.
        let wanted = if named.names.is_empty() { filter.clone() } else { Filter::new() };
        let until: Box<[Sequence]> = logs.recorded().collect();
        let position = Position::new(bus.epoch(), until.iter().copied());
        let live = bus.subscribe_from(wanted.clone(), &position);
        // The loops record what they have read from this very bus.
        let live = live.unwrap_or_else(|_: PositionError| bus.subscribe(wanted));
        drop(logs);
        Ok(KeptReader {
            past: Some(KeptPastReader { cursor, queue: VecDeque::new(), until }),
            live,
            names: named.names,
            is_closed: named.is_closed,
            has_gap: false,
            pending: None,
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
            if let Some(item) = self.judge(delivery) {
                return Ok(item);
            }
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
            if let Some(item) = self.judge(delivery) {
                return Ok(item);
            }
        }
    }

    /// Returns the next item of the logs, or the end that is due.
    fn past_item(&mut self) -> Option<KeptDelivery> {
        loop {
            if let Some(end) = self.take_end() {
                return Some(end);
            }
            let past = self.past.as_mut().filter(|_| !self.is_over)?;
            let Some(item) = past.queue.pop_front().or_else(|| past.read(&self.shared)) else {
                self.past = None;
                return None;
            };
            past.cursor.pass(&item);
            let delivery = match item.content {
                KeptContent::Event(event) => self.judge_event(event),
                KeptContent::Gap { missed, .. } => Some(self.gap(match missed {
                    Missed::Exactly(count) => Some(count),
                    Missed::AtMost(_) | Missed::Unknown => None,
                })),
            };
            if delivery.is_some() {
                return delivery;
            }
        }
    }

    fn judge(&mut self, delivery: Delivery) -> Option<KeptDelivery> {
        match delivery {
            Delivery::Event(event) => self.judge_event(event),
            Delivery::Gap(gap) => Some(self.gap(Some(gap.missed))),
        }
    }

    fn gap(&mut self, missed: Option<u64>) -> KeptDelivery {
        self.has_gap = true;
        KeptDelivery::Gap(missed)
    }

    /// Returns the event if the filter matches it; otherwise the end of a log, if the event is one.
    fn judge_event(&mut self, event: Event) -> Option<KeptDelivery> {
        self.record_end(&event);
        if self.filter.matches(&event) { Some(KeptDelivery::Event(event)) } else { self.take_end() }
    }

    fn record_end(&mut self, event: &Event) {
        if self.names.is_empty() {
            return;
        }
        let ended = self.shared.kept.lock().and_then(|logs| logs.log_of(event));
        let (Some((name, true)), Some(last_event_id)) = (ended, event.id()) else { return };
        let Some(at) = self.names.iter().position(|one| *one == name) else { return };
        self.names.swap_remove(at);
        self.pending = Some(KeptEnd {
            by: name.by,
            value: name.value.to_string(),
            last_event_id,
            event_type: event.event_type().to_owned(),
            complete: !self.has_gap,
        });
    }

    fn take_end(&mut self) -> Option<KeptDelivery> {
        let end = self.pending.take()?;
        self.is_over = self.is_closed && self.names.is_empty();
        Some(KeptDelivery::End(end))
    }
}

impl KeptPastReader {
    /// Reads the next items, and returns the first.
    fn read(&mut self, shared: &Shared) -> Option<KeptItem> {
        let logs = shared.kept.lock()?;
        let is_past =
            |id: EventId| self.until.get(usize::from(id.shard)).is_some_and(|until| id.sequence < *until);
        logs.read(&self.cursor, is_past, Timestamp::now(), READ_AT_ONCE, &mut self.queue);
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
                Poll::Ready(Some(delivery)) => {
                    if let Some(item) = reader.judge(delivery) {
                        return Poll::Ready(Some(item));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

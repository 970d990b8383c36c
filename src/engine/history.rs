//! Reads the engine's log for clients that resume further back than the node's rings reach.
//!
//! One thread reads pages of the log for all loops. Pages are shared: clients that resume over the same range read
//! the log about once.
//!
//! Invariants:
//! - A client has one request at a time, so requests are served in turn and are bounded by the number of clients.
//! - Memory is bounded: the cache holds at most [`CACHE_BYTES`]; pages that loops have not used yet hold at most
//!   [`AHEAD_BYTES`] and one page more. A client that does not read holds no page.
//! - A request is answered within the publishers' accept timeout, or fails, so a log that hangs blocks no client for
//!   ever.
//! - A request is dropped when its client disconnects.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::EngineError;
use super::log::{Log, LogEntry, LogSpan, Past};
use crate::dialect::envelope;
use crate::event::{Event, EventId, Sequence};
use crate::sync::{Mutex, lock};
use crate::threads::{self, Alarm};

/// Maximum number of entries in a page. Pages end at multiples of it, so that clients that start at different places
/// share pages from the second one on.
pub(crate) const PAGE_EVENTS: u64 = 256;

/// Size of JSON after which a page ends, in bytes. An entry is never divided.
const PAGE_BYTES: usize = 256 * 1024;

/// Maximum memory of cached pages, in bytes.
const CACHE_BYTES: usize = 32 << 20;

/// Maximum memory of pages that loops have received and not used, in bytes.
const AHEAD_BYTES: usize = 8 << 20;

/// Pause after a failure, before the log is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Place in a shard of a log. Places grow with epochs, then with sequences.
pub(crate) type LogPlace = (u64, Sequence);

/// Consecutive entries of one shard.
#[derive(Debug)]
pub(crate) struct LogPage {
    start: LogPlace,
    /// Place of the first entry, which may be no event; `None` if there is none.
    pub(crate) first: Option<LogPlace>,
    /// Place after the last entry, or `start` if there is none.
    pub(crate) next: LogPlace,
    pub(crate) events: Vec<Event>,
    bytes: usize,
}

impl LogPage {
    /// Returns the events from a place on.
    pub(crate) fn from(&self, place: LogPlace) -> &[Event] {
        let at = self.events.partition_point(|event| log_place_of(event) < place);
        &self.events[at..]
    }

    fn covers(&self, place: LogPlace) -> bool {
        self.start <= place && place < self.next
    }
}

/// Returns the place of an event in its shard of the log.
pub(crate) fn log_place_of(event: &Event) -> LogPlace {
    event.id().map_or((0, 0), |id| (id.epoch, id.sequence))
}

/// Page handed to a loop. It counts against [`AHEAD_BYTES`] until it is dropped.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) page: Arc<LogPage>,
    state: Weak<HistoryInner>,
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Some(inner) = self.state.upgrade() {
            let mut state = lock(&inner.state);
            state.ahead_bytes = state.ahead_bytes.saturating_sub(self.page.bytes);
            drop(state);
            inner.changed.notify_all();
        }
    }
}

/// Callback for the answer to a request, called on the thread that reads the log.
pub(crate) type OnPage = Box<dyn FnOnce(Result<Handed, EngineError>) + Send>;

/// Returns false for an event that every node refused when it read it.
pub(super) type IsDelivered = Box<dyn Fn(EventId) -> bool + Send>;

/// Token held by the client that wants a page; dropping it drops the request.
pub(crate) type Ticket = Arc<()>;

struct PageRequest {
    shard: u16,
    from: LogPlace,
    until: Instant,
    client: Weak<()>,
    /// Whether only the first entry is wanted, as the log has it now.
    is_probe: bool,
    on_page: OnPage,
}

#[derive(Default)]
struct HistoryState {
    requests: VecDeque<PageRequest>,
    cache: Cache,
    ahead_bytes: usize,
    is_closed: bool,
}

#[derive(Default)]
struct HistoryInner {
    state: Mutex<HistoryState>,
    changed: Condvar,
}

impl fmt::Debug for HistoryInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("History")
    }
}

/// Pages read before; the oldest is evicted first.
#[derive(Default)]
struct Cache {
    pages: BTreeMap<(u16, LogPlace), Arc<LogPage>>,
    order: VecDeque<(u16, LogPlace)>,
    bytes: usize,
}

impl Cache {
    fn find(&self, shard: u16, place: LogPlace) -> Option<Arc<LogPage>> {
        let (key, page) = self.pages.range(..=(shard, place)).next_back()?;
        (key.0 == shard && page.covers(place)).then(|| Arc::clone(page))
    }

    fn put(&mut self, shard: u16, page: &Arc<LogPage>) {
        let key = (shard, page.start);
        self.bytes += page.bytes;
        match self.pages.insert(key, Arc::clone(page)) {
            Some(old) => self.bytes -= old.bytes,
            None => self.order.push_back(key),
        }
        while self.bytes > CACHE_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.pages.remove(&oldest).map_or(0, |page| page.bytes);
        }
    }
}

/// Reader of a log's past for the loops of a server.
pub(crate) struct History {
    inner: Arc<HistoryInner>,
    timeout: Duration,
}

impl History {
    /// Starts the thread, which ends after [`Self::close`]. `timeout` is the maximum time that a request waits for
    /// the log.
    pub(super) fn start(
        log: Arc<dyn Log>,
        is_delivered: IsDelivered,
        timeout: Duration,
        alarm: &Alarm,
    ) -> (Self, Option<JoinHandle<()>>) {
        let inner: Arc<HistoryInner> = Arc::default();
        let (reads, stopping) = (Arc::clone(&inner), Arc::clone(&inner));
        alarm.on_raised(Arc::new(move || stopping.close()));
        let thread = threads::spawn("fanwire-engine-history", alarm, move || reads.run(&*log, &is_delivered))
            .map_err(|error| {
                tracing::error!(%error, "no thread to read the engine's log for clients that resume");
                inner.close();
            });
        (Self { inner, timeout }, thread.ok())
    }

    /// Returns a reader without a thread, for simulations.
    #[cfg(test)]
    pub(super) fn stepped(timeout: Duration) -> Self {
        Self { inner: Arc::default(), timeout }
    }

    /// Answers the oldest request, as the thread does. Returns whether there was one.
    #[cfg(test)]
    pub(super) fn step(
        &self,
        log: &dyn Log,
        is_delivered: &IsDelivered,
        connection: &mut Option<Box<dyn Past>>,
    ) -> bool {
        let request = loop {
            match lock(&self.inner.state).requests.pop_front() {
                Some(request) if request.client.strong_count() > 0 => break request,
                Some(_) => {}
                None => return false,
            }
        };
        self.inner.answer(request, log, is_delivered, connection);
        true
    }

    /// Returns the page that contains a place, if it is cached.
    pub(crate) fn find(&self, shard: u16, place: LogPlace) -> Option<Arc<LogPage>> {
        lock(&self.inner.state).cache.find(shard, place)
    }

    /// Requests the entries of a shard from a place on. Does not block. `on_page` may be called before this returns;
    /// it is never called if the server ends or the ticket is dropped.
    pub(crate) fn request(&self, shard: u16, from: LogPlace, ticket: &Ticket, on_page: OnPage) {
        let until = Instant::now() + self.timeout;
        let client = Arc::downgrade(ticket);
        self.push(PageRequest { shard, from, until, client, is_probe: false, on_page });
    }

    fn push(&self, request: PageRequest) {
        let mut state = lock(&self.inner.state);
        if state.is_closed {
            drop(state);
            return (request.on_page)(Err(EngineError::Unreachable("the engine is closed".to_owned())));
        }
        state.requests.push_back(request);
        drop(state);
        self.inner.changed.notify_all();
    }

    /// Returns the entries of a shard from a place on. Blocks up to the accept timeout and a call to the log, so it is for workers.
    pub(crate) fn read(&self, shard: u16, from: LogPlace) -> Result<Arc<LogPage>, EngineError> {
        match self.find(shard, from) {
            Some(page) => Ok(page),
            None => self.wait_for(shard, from, false),
        }
    }

    /// Returns the first entry of a shard from a place on, as the log has it now. Blocks as [`read`](Self::read) does.
    pub(crate) fn probe(&self, shard: u16, from: LogPlace) -> Result<Arc<LogPage>, EngineError> {
        self.wait_for(shard, from, true)
    }

    fn wait_for(&self, shard: u16, from: LogPlace, is_probe: bool) -> Result<Arc<LogPage>, EngineError> {
        let (sender, outcome) = std::sync::mpsc::sync_channel(1);
        let ticket = Ticket::new(());
        let on_page: OnPage = Box::new(move |page| {
            // The receiver waits for it.
            let _ = sender.send(page.map(|handed| Arc::clone(&handed.page)));
        });
        let until = Instant::now() + self.timeout;
        self.push(PageRequest { shard, from, until, client: Arc::downgrade(&ticket), is_probe, on_page });
        let closed = || Err(EngineError::Unreachable("the engine is closed".to_owned()));
        outcome.recv().unwrap_or_else(|_| closed())
    }

    /// Returns the bytes held by pages.
    pub(crate) fn held_bytes(&self) -> usize {
        let state = lock(&self.inner.state);
        state.cache.bytes + state.ahead_bytes
    }

    /// Makes the thread end, once it returns from the log.
    pub(super) fn close(&self) {
        self.inner.close();
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("History")
    }
}

impl HistoryInner {
    fn close(&self) {
        lock(&self.state).is_closed = true;
        self.changed.notify_all();
    }

    /// Answers requests until closed.
    fn run(self: &Arc<Self>, log: &dyn Log, is_delivered: &IsDelivered) {
        let mut connection = None;
        while let Some(request) = self.next() {
            threads::fault_point();
            self.answer(request, log, is_delivered, &mut connection);
        }
    }

    /// Reads a page, and answers its request, or queues it again.
    fn answer(
        self: &Arc<Self>,
        request: PageRequest,
        log: &dyn Log,
        is_delivered: &IsDelivered,
        connection: &mut Option<Box<dyn Past>>,
    ) {
        let PageRequest { shard, from, is_probe, .. } = request;
        let known = lock(&self.state).cache.find(shard, from).filter(|_| !is_probe);
        let count = if is_probe { 1 } else { PAGE_EVENTS - from.1 % PAGE_EVENTS };
        let outcome = match known {
            Some(page) => Ok(page),
            None => read(log, is_delivered, connection, (shard, from), count),
        };
        match outcome {
            Ok(page) => {
                let mut state = lock(&self.state);
                if page.next > page.start && !is_probe {
                    state.cache.put(shard, &page);
                }
                state.ahead_bytes += page.bytes;
                drop(state);
                (request.on_page)(Ok(Handed { page, state: Arc::downgrade(self) }));
            }
            Err(error) => {
                *connection = None;
                self.put_back(request, error);
            }
        }
    }

    /// Waits for the next request of a connected client. Returns `None` when the engine ends.
    fn next(&self) -> Option<PageRequest> {
        let mut state = lock(&self.state);
        loop {
            if state.is_closed {
                // Pending requests end with the server.
                state.requests.clear();
                return None;
            }
            if state.ahead_bytes <= AHEAD_BYTES {
                match state.requests.pop_front() {
                    Some(request) if request.client.strong_count() > 0 => return Some(request),
                    Some(_) => continue,
                    None => {}
                }
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Queues a request again, or fails it if it has waited for too long.
    fn put_back(&self, request: PageRequest, error: EngineError) {
        if Instant::now() >= request.until {
            tracing::warn!(%error, "the engine's log can't be read for a client that resumes");
            return (request.on_page)(Err(error));
        }
        let mut state = lock(&self.state);
        state.requests.push_back(request);
        let end = Instant::now() + PAUSE;
        while !state.is_closed
            && let Some(left) = end.checked_duration_since(Instant::now())
        {
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Reads one page of a log, of at most this many entries.
fn read(
    log: &dyn Log,
    is_delivered: &IsDelivered,
    connection: &mut Option<Box<dyn Past>>,
    (shard, from): (u16, LogPlace),
    count: u64,
) -> Result<Arc<LogPage>, EngineError> {
    let mut page = LogPage { start: from, first: None, next: from, events: Vec::new(), bytes: 0 };
    let past = match connection {
        Some(past) => past,
        None => match log.past()? {
            Some(past) => connection.insert(past),
            // The log keeps no entries.
            None => return Ok(Arc::new(page)),
        },
    };
    let span =
        LogSpan { shard, epoch: from.0, from: from.1, max_events: count as usize, max_bytes: PAGE_BYTES };
    past.read(span, &mut |LogEntry { id, json }| {
        let place = (id.epoch, id.sequence);
        if id.shard != shard || place < page.next {
            return;
        }
        page.first.get_or_insert(place);
        page.next = (id.epoch, id.sequence.saturating_add(1));
        if !is_delivered(id) {
            return;
        }
        // An entry that is not an event appears as a hole, as it does live.
        if let Some(event) = std::str::from_utf8(json).ok().and_then(|json| envelope::read_stored(json).ok())
        {
            // Estimate: the text, a frame of about the same size, and the event's own fields.
            page.bytes += json.len() * 2 + 512;
            let event = event.into_publishable();
            event.set_id(EventId { shard, ..id });
            page.events.push(event);
        }
    })?;
    Ok(Arc::new(page))
}

//! An engine without threads, for simulations: a simulation takes each step of the appender, of the follower and of the reader
//! of the past, in any order and with any delay.
//!
//! Invariant: what a step does is done by the code of the threads. Only their waits and retries are left out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::EngineError;
use super::follow::{FollowTarget, Unreadable, publish};
use super::history::IsDelivered;
use super::log::{Append, AppendBatch, Follow, FollowStart, Log, LogEntry, LogSpan, Past, Places, Record};
use super::queue::{QueueItems, Refused};
use super::recorder::{SharedRecorder, read_past};
use super::runtime::Engine;
use crate::event::{EventId, Position, Sequence};
use crate::sync::{Mutex, lock};

const EPOCH: u64 = 7;

/// Log of one shard in memory, which several nodes share. It keeps its newest entries.
#[derive(Debug, Default)]
pub(crate) struct SimulatedLog {
    entries: Mutex<Vec<String>>,
    /// Number of the oldest entry that it has.
    oldest: Mutex<usize>,
}

impl SimulatedLog {
    /// Forgets all but the newest entries.
    pub(crate) fn trim(&self, left: usize) {
        *lock(&self.oldest) = lock(&self.entries).len().saturating_sub(left);
    }

    /// Returns all entries that it ever had.
    pub(crate) fn entries(&self) -> Vec<String> {
        lock(&self.entries).clone()
    }

    /// Returns the id of an entry.
    pub(crate) fn id(at: usize) -> EventId {
        EventId { epoch: EPOCH, shard: 0, sequence: at as Sequence }
    }

    fn pass(&self, from: Sequence, max: usize, take: &mut dyn FnMut(LogEntry<'_>)) {
        let entries = lock(&self.entries).clone();
        let first = (from as usize).max(*lock(&self.oldest));
        for (at, json) in entries.iter().enumerate().skip(first).take(max) {
            take(LogEntry { id: Self::id(at), json: json.as_bytes() });
        }
    }
}

/// Connection to a simulated log.
#[derive(Debug)]
struct Connection(Arc<SimulatedLog>);

/// Handle of a simulated log, as each node has one.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedConnector(pub(crate) Arc<SimulatedLog>);

impl Log for SimulatedConnector {
    fn send_notice(&self, _notice: &str) -> Result<(), EngineError> {
        Ok(())
    }

    fn appender(&self) -> Result<Box<dyn Append>, EngineError> {
        Ok(Box::new(Connection(Arc::clone(&self.0))))
    }

    fn follower(
        &self,
        known: Option<&Places>,
        past: u64,
    ) -> Result<(Box<dyn Follow>, FollowStart), EngineError> {
        let (end, oldest) = (lock(&self.0.entries).len() as Sequence, *lock(&self.0.oldest) as Sequence);
        let start = known.map_or(end.saturating_sub(past).max(oldest), |known| known.next[0]);
        let at = |next| Places { epoch: EPOCH, next: vec![next], kept: None };
        let start = FollowStart { places: at(start), end: at(end) };
        Ok((Box::new(Connection(Arc::clone(&self.0))), start))
    }

    fn past(&self) -> Result<Option<Box<dyn Past>>, EngineError> {
        Ok(Some(Box::new(Connection(Arc::clone(&self.0)))))
    }
}

impl Append for Connection {
    fn append(&mut self, batch: &AppendBatch<'_>) -> Result<Vec<EventId>, EngineError> {
        let mut entries = lock(&self.0.entries);
        let first = entries.len();
        entries.extend(batch.records.iter().map(|record| record.json.clone()));
        Ok((first..entries.len()).map(SimulatedLog::id).collect())
    }
}

impl Follow for Connection {
    fn follow(
        &mut self,
        places: &Places,
        _wait: Duration,
        take: &mut dyn FnMut(LogEntry<'_>),
    ) -> Result<(), EngineError> {
        self.0.pass(places.next[0], usize::MAX, take);
        Ok(())
    }
}

impl Past for Connection {
    fn read(&mut self, span: LogSpan, take: &mut dyn FnMut(LogEntry<'_>)) -> Result<(), EngineError> {
        if span.epoch <= EPOCH {
            let from = if span.epoch == EPOCH { span.from } else { 0 };
            self.0.pass(from, span.max_events, take);
        }
        Ok(())
    }
}

/// Outcome of a simulated append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AppendFate {
    Stored,
    /// The log has the events, and its answer is lost.
    Unanswered,
    /// The log has none of the events.
    Unreachable,
}

/// Submission of which the log has a part.
struct Sending {
    records: Vec<Record>,
    ids: Vec<EventId>,
    fate: AppendFate,
}

/// Steps of one node's engine.
pub(crate) struct EngineSteps {
    log: SimulatedConnector,
    recorder: SharedRecorder,
    /// Whether the log takes the events of a submission one by one, each in a step.
    pub(crate) is_single: bool,
    sending: Option<Sending>,
    /// Ids of an appended submission whose answer waits until this node has read it.
    unread: Option<Vec<EventId>>,
    places: Option<Places>,
    unreadable: Unreadable,
    past: Option<Box<dyn Past>>,
}

impl EngineSteps {
    pub(super) fn new(log: SimulatedConnector, recorder: SharedRecorder) -> Self {
        Self {
            log,
            recorder,
            is_single: false,
            sending: None,
            unread: None,
            places: None,
            unreadable: Unreadable::default(),
            past: None,
        }
    }

    /// Submits an entry that is no event, as a worker does that waits for it.
    pub(crate) fn submit_other(engine: &Engine, json: String) {
        // The engine is there as long as the simulation.
        let _ = engine.submit_records(vec![Record { shard: 0, json }], &[], true, Box::new(|_| {}));
    }

    /// Appends the oldest submission or the next event of one, or answers the one that waits for the reading. Returns whether it did something.
    pub(crate) fn append(&mut self, engine: &Engine, fate: AppendFate) -> bool {
        let queue = engine.queue();
        if let Some(ids) = self
            .unread
            .take_if(|ids| ids.last().is_some_and(|last| self.recorder.await_read(*last, Instant::now())))
        {
            queue.answer(0, Ok(&ids));
            queue.settled(ids.len());
            return true;
        }
        if self.unread.is_some() {
            return false;
        }
        if self.sending.is_none() {
            let QueueItems::Submissions(taken) = queue.take(1, Duration::ZERO) else { return false };
            let records = taken.concat();
            if fate == AppendFate::Unreachable {
                queue.answer(0, Err(Refused::Unreachable));
                queue.settled(records.len());
                return true;
            }
            self.sending = Some(Sending { records, ids: Vec::new(), fate });
        }
        let Some(sending) = &mut self.sending else { return false };
        let rest = &sending.records[sending.ids.len()..];
        let batch = AppendBatch::new(1, 1, if self.is_single { &rest[..1] } else { rest }, Instant::now());
        let ids = Connection(Arc::clone(&self.log.0)).append(&batch).expect("it takes everything");
        sending.ids.extend(ids);
        if sending.ids.len() < sending.records.len() {
            return true;
        }
        let Some(Sending { ids, fate, .. }) = self.sending.take() else { return false };
        engine.status().set_appending();
        if fate == AppendFate::Unanswered {
            queue.answer(0, Err(Refused::Unanswered));
        } else if queue.awaits_reading(0..1) {
            self.unread = Some(ids);
            return true;
        } else {
            queue.answer(0, Ok(&ids));
        }
        queue.settled(ids.len());
        true
    }

    /// Returns the place of the next entry that the follower reads; `None` before it has reached the log.
    pub(crate) fn next(&self) -> Option<Sequence> {
        Some(self.places.as_ref()?.next[0])
    }

    /// Reads at most `max` entries and publishes them. The first step reads the past. Returns whether it did something.
    pub(crate) fn follow(&mut self, engine: &Engine, max: usize) -> bool {
        let (recorder, status, bus) = (&*self.recorder, engine.status(), engine.bus());
        let Some(places) = &mut self.places else {
            let (_, start) = self.log.follower(None, bus.capacity() as u64).expect("it is there");
            read_past(&self.log, recorder, &start.places, || false).expect("it is there");
            status.set_attached(&start, None, self.log.has_one_owner());
            let start = start.places;
            status.pause.pass(&start, || false, || recorder.end_past(&start));
            status.set_appending();
            bus.begin_at(Position::new(start.epoch, start.next.iter().copied()));
            self.places = Some(start);
            return true;
        };
        let target = FollowTarget { status, bus, recorder };
        let mut next = places.clone();
        let mut count = 0;
        let unreadable = &mut self.unreadable;
        self.log.0.pass(places.next[0], max, &mut |entry| {
            count += 1;
            publish(&entry, &target, &mut next, unreadable, || false);
        });
        *places = next;
        status.set_following();
        count > 0
    }

    /// Reads a page of the log for a client that asked for one. Returns whether there was one.
    pub(crate) fn read_page(&mut self, engine: &Engine) -> bool {
        let recorder = Arc::clone(&self.recorder);
        let is_delivered: IsDelivered = Box::new(move |id| recorder.is_delivered(id));
        engine.history().is_some_and(|history| history.step(&self.log, &is_delivered, &mut self.past))
    }
}

//! The appending thread: takes submissions from the queue and appends them to the log.
//!
//! Invariants:
//! - Submissions are appended in the order in which they arrived.
//! - A submission that was sent and not answered is sent again under the same number, so that the log has it once.
//! - An event that the log can never take is refused alone; the other submissions proceed.
//! - A submission is never sent after its publisher's request was refused.
//! - A log that does not answer delays no publisher beyond the accept timeout.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::error::EngineError;
use super::log::{Append, AppendBatch, Log, Record};
use super::queue::{AppendQueue, QueueItems, Refused};
use super::recorder::EntryRecorder;
use super::status::Status;
use crate::event::EventId;
use crate::threads;

/// Maximum number of events in one batch.
const EVENTS_A_BATCH: usize = 512;

/// Maximum pause before a log that failed is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Interval at which an idle node probes whether the log accepts events, so that it detects a failure without
/// publications.
const PROBE: Duration = Duration::from_secs(2);

/// Interval at which a wait for the follower checks whether the queue is closed.
const LOOK: Duration = Duration::from_millis(100);

/// Time for which the last events are retried during shutdown.
const LAST_TRIES: Duration = Duration::from_secs(3);

/// Appends until the queue is closed and empty.
pub(super) fn run(log: &dyn Log, queue: &AppendQueue, status: &Status, recorder: &dyn EntryRecorder) {
    let mut appender = AppendLoop {
        log,
        recorder,
        connection: None,
        backoff: Backoff::new(PAUSE_MAX),
        queue,
        status,
        look: Instant::now(),
        batches: 0,
        numbers: 0,
        is_in_doubt: false,
    };
    loop {
        threads::fault_point();
        let timeout = appender.look.saturating_duration_since(Instant::now());
        match queue.take(EVENTS_A_BATCH, timeout) {
            QueueItems::Closed => return,
            QueueItems::Nothing => appender.probe(),
            QueueItems::Submissions(taken) => appender.append_all(taken),
        }
    }
}

/// Answers each publisher at its deadline, until the queue is closed and empty.
pub(super) fn watch(queue: &AppendQueue, status: &Status) {
    queue.watch(|events, was_taken| {
        status.metrics.engine_refused.inc_by(events as u64);
        if was_taken && status.is_appending() {
            let error = EngineError::Unreachable("no answer within the accept timeout".to_owned());
            if status.lost_appending(&error) {
                tracing::warn!(%error, "the engine does not take events");
            }
        }
    });
}

/// Result of appending one part of a batch.
enum AppendOutcome {
    Appended(Vec<EventId>),
    /// The log can never accept the part.
    Refused(Refused),
    /// The log may have the part or not, and another attempt would not show which.
    InDoubt,
    /// Some publishers were refused before the part was sent.
    Late,
    /// All publishers of the part already have an answer.
    GivenUp,
}

struct AppendLoop<'a> {
    log: &'a dyn Log,
    recorder: &'a dyn EntryRecorder,
    connection: Option<Box<dyn Append>>,
    backoff: Backoff,
    queue: &'a AppendQueue,
    status: &'a Status,
    /// Time of the next probe, unless an append comes first.
    look: Instant,
    /// Number of batches so far.
    batches: u64,
    /// Number of records numbered so far.
    numbers: u64,
    /// Whether the log may have some of the submissions that were taken.
    is_in_doubt: bool,
}

impl AppendLoop<'_> {
    /// Appends these submissions and answers their publishers.
    fn append_all(&mut self, taken: Vec<Vec<Record>>) {
        // Submission `n` has the records `ends[n]..ends[n + 1]`.
        let mut ends = vec![0];
        ends.extend(taken.iter().scan(0, |end, records| {
            *end += records.len();
            Some(*end)
        }));
        let records: Vec<Record> = taken.into_iter().flatten().collect();
        let first = self.numbers + 1;
        self.numbers += records.len() as u64;
        self.is_in_doubt = false;
        let mut parts = VecDeque::new();
        parts.push_back(0..ends.len() - 1);
        while let Some(part) = parts.pop_front().filter(|part| !part.is_empty()) {
            let unfit = self.find_unfit(part.clone(), |at| &records[ends[at]..ends[at + 1]]);
            if let Some((at, refused)) = unfit {
                self.refuse(at, refused, ends[at + 1] - ends[at]);
                for rest in [at + 1..part.end, part.start..at] {
                    if !rest.is_empty() {
                        parts.push_front(rest);
                    }
                }
                continue;
            }
            let span = ends[part.start]..ends[part.end];
            match self.append(&records[span.clone()], first + span.start as u64, &part) {
                AppendOutcome::Appended(ids) => {
                    self.status.metrics.engine_appended.inc_by(span.len() as u64);
                    let was_read = self.await_reading(&part, &ids);
                    for at in part {
                        if !was_read && self.queue.awaits_reading(at..at + 1) {
                            self.refuse(at, Refused::Unanswered, ends[at + 1] - ends[at]);
                            continue;
                        }
                        let of_part = ends[at] - span.start..ends[at + 1] - span.start;
                        self.queue.answer(at, Ok(ids.get(of_part).unwrap_or_default()));
                    }
                    self.queue.set_in_doubt(self.is_in_doubt);
                }
                AppendOutcome::Refused(refused) if part.len() == 1 => {
                    self.refuse(part.start, refused, span.len());
                }
                // The log did not say which submission it refused: try each half.
                AppendOutcome::Refused(_) => {
                    let middle = part.start + part.len() / 2;
                    parts.push_front(middle..part.end);
                    parts.push_front(part.start..middle);
                }
                AppendOutcome::InDoubt => {
                    for at in part {
                        self.refuse(at, Refused::Unanswered, ends[at + 1] - ends[at]);
                    }
                }
                AppendOutcome::Late => {
                    for rest in self.queue.unanswered(part).into_iter().rev() {
                        parts.push_front(rest);
                    }
                }
                AppendOutcome::GivenUp => {}
            }
        }
        self.queue.settled(records.len());
    }

    fn refuse(&self, at: usize, refused: Refused, events: usize) {
        if self.queue.answer(at, Err(refused)) {
            self.status.metrics.engine_refused.inc_by(events as u64);
            tracing::warn!(events, reason = %refused.text(), "events were refused");
        }
    }

    /// Returns the first of these submissions that the log can never accept, as far as that is known without a request
    /// to it.
    fn find_unfit<'r>(
        &self,
        part: Range<usize>,
        records: impl Fn(usize) -> &'r [Record],
    ) -> Option<(usize, Refused)> {
        let connection = self.connection.as_ref()?;
        part.into_iter().find_map(|at| Some((at, Refused::by(&connection.check(records(at)).err()?))))
    }

    /// Waits until this node has read the events of a part from the log, if an answer to it waits for that. Returns whether it has.
    fn await_reading(&self, part: &Range<usize>, ids: &[EventId]) -> bool {
        let Some(last) = ids.last().filter(|_| self.queue.awaits_reading(part.clone())) else { return true };
        let deadline = self.queue.last_deadline();
        loop {
            let until = deadline.min(Instant::now() + LOOK);
            // A node that shuts down reads no more.
            let is_over = until >= deadline || self.queue.was_closed_for(LOOK);
            if self.recorder.await_read(*last, until) {
                return true;
            }
            if is_over {
                return false;
            }
        }
    }

    /// Appends, over as many connections as needed, while at least one publisher still has time.
    fn append(&mut self, records: &[Record], first: u64, part: &Range<usize>) -> AppendOutcome {
        self.batches += 1;
        let batch = AppendBatch::new(self.batches, first, records, self.queue.last_deadline());
        let mut is_possibly_stored = false;
        loop {
            if self.queue.are_answered(part.clone()) {
                return AppendOutcome::GivenUp;
            }
            let error = match self.try_append(&batch, part, &mut is_possibly_stored) {
                Ok(Some(ids)) => {
                    self.record_success();
                    return AppendOutcome::Appended(ids);
                }
                Ok(None) => return AppendOutcome::Late,
                Err(error) => error,
            };
            if error.is_about_the_event() {
                return AppendOutcome::Refused(Refused::by(&error));
            }
            if matches!(error, EngineError::InDoubt(_)) {
                return AppendOutcome::InDoubt;
            }
            self.connection = None;
            if matches!(error, EngineError::OtherEpoch) && self.backoff.is_fresh() {
                // Nothing was appended. The next attempt appends in the log's new epoch.
                self.backoff.pause();
                continue;
            }
            self.record_failure(&error);
            let pause = self.backoff.pause();
            if self.queue.was_closed_for(LAST_TRIES) {
                self.queue.abandon();
            } else if self.queue.sleep(pause) {
                // The queue is closed. The last attempts pause in between too.
                std::thread::sleep(pause);
            }
        }
    }

    /// Sends the batch. Returns `None` without sending it if some of its publishers were refused. A batch that the log
    /// may already have is sent unchanged.
    fn try_append(
        &mut self,
        batch: &AppendBatch<'_>,
        part: &Range<usize>,
        is_possibly_stored: &mut bool,
    ) -> Result<Option<Vec<EventId>>, EngineError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                // Checked before anything is sent.
                let connection = self.connection.insert(self.log.appender()?);
                connection.check(batch.records)?;
                connection
            }
        };
        // Connecting may have taken longer than some publishers wait.
        if !*is_possibly_stored && !self.queue.mark_sent(part.clone()) {
            return Ok(None);
        }
        self.queue.set_in_doubt(true);
        let outcome = connection.append(batch);
        *is_possibly_stored |= batch.kept_some.get() || matches!(outcome, Err(EngineError::Unreachable(_)));
        self.is_in_doubt |= *is_possibly_stored;
        // Events that the log has stay in doubt until they are answered.
        self.queue.set_in_doubt(self.is_in_doubt || outcome.is_ok());
        outcome.map(Some)
    }

    /// Probes whether the log accepts events.
    fn probe(&mut self) {
        let connection = match &mut self.connection {
            Some(connection) => Ok(connection),
            none => self.log.appender().map(|connection| none.insert(connection)),
        };
        match connection.and_then(|connection| connection.probe()) {
            Ok(()) => self.record_success(),
            Err(error) => {
                self.connection = None;
                self.record_failure(&error);
                self.look = Instant::now() + self.backoff.pause();
            }
        }
    }

    fn record_success(&mut self) {
        self.backoff.reset();
        self.queue.set_trouble(Refused::Unreachable);
        self.status.set_appending();
        self.look = Instant::now() + PROBE;
    }

    fn record_failure(&self, error: &EngineError) {
        self.queue.set_trouble(Refused::by(error));
        if self.status.lost_appending(error) {
            tracing::warn!(%error, "the engine does not take events");
        }
    }
}

#[cfg(test)]
mod tests;

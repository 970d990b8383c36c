//! The thread that appends what is published to the log.
//!
//! Imports its siblings. Always: submissions are appended in the order in which they came; one that was sent
//! and not answered is sent again under the same number, so that the log has it once. What the log can never take is
//! refused alone: those that wait beside it go on. What was told that it was not accepted is not sent afterwards. A log that does not answer holds up nobody beyond the accept timeout.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::error::EngineError;
use super::log::{Append, AppendBatch, Log, Record};
use super::queue::{AppendQueue, QueueItems, Refused};
use super::status::Status;
use crate::event::EventId;
use crate::threads;

/// Events sent to the log together.
const EVENTS_A_BATCH: usize = 512;

/// The longest pause before a log that did not answer is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often a log is asked whether it takes events while there are none: a node without publishers is to notice too.
const PROBE: Duration = Duration::from_secs(2);

/// How long the last events are tried once the node is on its way out.
const LAST_TRIES: Duration = Duration::from_secs(3);

/// Appends until the queue is closed and empty.
pub(super) fn run(log: &dyn Log, queue: &AppendQueue, status: &Status) {
    let mut appender = AppendLoop {
        log,
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
        let patience = appender.look.saturating_duration_since(Instant::now());
        match queue.take(EVENTS_A_BATCH, patience) {
            QueueItems::Closed => return,
            QueueItems::Nothing => appender.probe(),
            QueueItems::Submissions(taken) => appender.append_all(taken),
        }
    }
}

/// Answers who has waited long enough, until the queue is closed and empty.
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

/// What has become of a part of a batch.
enum AppendOutcome {
    Appended(Vec<EventId>),
    /// The log can never take it.
    Refused(Refused),
    /// The log may have it or not, and trying again would not show which.
    InDoubt,
    /// Some who waited for it were told that it was not accepted, before it was sent.
    Late,
    /// Everybody who waited for it was answered.
    GivenUp,
}

struct AppendLoop<'a> {
    log: &'a dyn Log,
    connection: Option<Box<dyn Append>>,
    backoff: Backoff,
    queue: &'a AppendQueue,
    status: &'a Status,
    /// When the log is asked next, if nothing is to be appended before.
    look: Instant,
    /// Batches that were made.
    batches: u64,
    /// Records that were numbered.
    numbers: u64,
    /// Whether the log may have some of what was taken.
    is_in_doubt: bool,
}

impl AppendLoop<'_> {
    /// Appends these submissions and answers them.
    fn append_all(&mut self, taken: Vec<Vec<Record>>) {
        // Submission `n` has the records from `ends[n]` to `ends[n + 1]`.
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
                    for at in part {
                        let last = ends[at + 1].checked_sub(1).filter(|last| *last >= ends[at]);
                        let id = last.and_then(|last| ids.get(last - span.start).copied());
                        self.queue.answer(at, Ok(id));
                    }
                }
                AppendOutcome::Refused(refused) if part.len() == 1 => {
                    self.refuse(part.start, refused, span.len());
                }
                // Which of them it is, the log did not say.
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

    /// The first of these submissions that the log can never take, as far as it is known without asking.
    fn find_unfit<'r>(
        &self,
        part: Range<usize>,
        records: impl Fn(usize) -> &'r [Record],
    ) -> Option<(usize, Refused)> {
        let connection = self.connection.as_ref()?;
        part.into_iter().find_map(|at| Some((at, Refused::by(&connection.check(records(at)).err()?))))
    }

    /// Appends, over as many connections as it takes, while one of those who wait still has time.
    fn append(&mut self, records: &[Record], first: u64, part: &Range<usize>) -> AppendOutcome {
        self.batches += 1;
        let batch = AppendBatch::new(self.batches, first, records, self.queue.patience_ends());
        let mut may_have_it = false;
        loop {
            if self.queue.are_answered(part.clone()) {
                return AppendOutcome::GivenUp;
            }
            let error = match self.try_append(&batch, part, &mut may_have_it) {
                Ok(Some(ids)) => {
                    self.is_well();
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
                // Nothing was appended, and the new life is as good as the old one.
                self.backoff.pause();
                continue;
            }
            self.is_ill(&error);
            let pause = self.backoff.pause();
            if self.queue.was_closed_for(LAST_TRIES) {
                self.queue.abandon();
            } else if self.queue.sleep(pause) {
                // Closed: the last tries, without a storm.
                std::thread::sleep(pause);
            }
        }
    }

    /// Sends the batch; none where it is not to be sent as it is, because somebody was told that it was not accepted.
    /// What the log may have is sent as it was.
    fn try_append(
        &mut self,
        batch: &AppendBatch<'_>,
        part: &Range<usize>,
        may_have_it: &mut bool,
    ) -> Result<Option<Vec<EventId>>, EngineError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                // Before anything is sent: what it can't take is not sent.
                let connection = self.connection.insert(self.log.appender()?);
                connection.check(batch.records)?;
                connection
            }
        };
        // Connecting may have taken longer than some have time.
        if !*may_have_it && !self.queue.begin_to_send(part.clone()) {
            return Ok(None);
        }
        self.queue.set_in_doubt(true);
        let outcome = connection.append(batch);
        *may_have_it |= batch.kept_some.get() || matches!(outcome, Err(EngineError::Unreachable(_)));
        self.is_in_doubt |= *may_have_it;
        self.queue.set_in_doubt(self.is_in_doubt);
        outcome.map(Some)
    }

    /// Asks the log whether it takes events.
    fn probe(&mut self) {
        let connection = match &mut self.connection {
            Some(connection) => Ok(connection),
            none => self.log.appender().map(|connection| none.insert(connection)),
        };
        match connection.and_then(|connection| connection.probe()) {
            Ok(()) => self.is_well(),
            Err(error) => {
                self.connection = None;
                self.is_ill(&error);
                self.look = Instant::now() + self.backoff.pause();
            }
        }
    }

    fn is_well(&mut self) {
        self.backoff.reset();
        self.queue.set_trouble(Refused::Unreachable);
        self.status.appends();
        self.look = Instant::now() + PROBE;
    }

    fn is_ill(&self, error: &EngineError) {
        self.queue.set_trouble(Refused::by(error));
        if self.status.lost_appending(error) {
            tracing::warn!(%error, "the engine does not take events");
        }
    }
}

#[cfg(test)]
mod tests;

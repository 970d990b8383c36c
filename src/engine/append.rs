//! The thread that appends what is published to the log.
//!
//! Imports its siblings. Always: submissions are appended in the order in which they came; one that was sent
//! and not answered is sent again under the same number, so that the log has it once.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::queue::{Queue, Refused, Submission, all_late};
use super::{Append, Batch, EngineError, Log, Record, Status};
use crate::event::{EventId, Sequence};
use crate::threads;

/// Events sent to the log together.
const EVENTS_A_BATCH: usize = 512;

/// The longest pause before a log that did not answer is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Appends until the queue is closed and empty.
pub(super) fn run(log: &dyn Log, queue: &Queue, status: &Status) {
    let mut appender = Appender { log, connection: None, backoff: Backoff::new(PAUSE_MAX), queue, status };
    let mut number = 0;
    loop {
        let mut taken = queue.take(EVENTS_A_BATCH);
        if taken.is_empty() {
            return;
        }
        threads::fault_point();
        number += 1;
        let sizes: Vec<usize> = taken.iter().map(|submission| submission.records.len()).collect();
        let records: Vec<Record> = taken.iter_mut().flat_map(|s| std::mem::take(&mut s.records)).collect();
        let outcome = appender.append(&Batch { number, records: &records }, &taken);
        queue.settled(records.len());
        let metrics = &status.metrics;
        let count = if outcome.is_ok() { &metrics.engine_appended } else { &metrics.engine_refused };
        count.inc_by(records.len() as u64);
        let mut end = 0;
        for (submission, size) in taken.into_iter().zip(sizes) {
            end += size;
            submission.answer(outcome.as_ref().map_err(|refused| *refused).map(|(epoch, sequences)| {
                let last = end.checked_sub(1).filter(|_| size > 0)?;
                Some(EventId { epoch: *epoch, shard: records[last].shard, sequence: *sequences.get(last)? })
            }));
        }
    }
}

struct Appender<'a> {
    log: &'a dyn Log,
    connection: Option<Box<dyn Append>>,
    backoff: Backoff,
    queue: &'a Queue,
    status: &'a Status,
}

impl Appender<'_> {
    /// Appends, over as many connections as it takes, while one of those who wait still has time.
    fn append(&mut self, batch: &Batch<'_>, waiting: &[Submission]) -> Result<(u64, Vec<Sequence>), Refused> {
        let mut sent = false;
        loop {
            match self.try_append(batch, &mut sent) {
                Ok(appended) => {
                    self.backoff.reset();
                    self.status.appends();
                    return Ok(appended);
                }
                // Nothing was appended, and the new life is as good as the old one.
                Err(EngineError::OtherEpoch) => {}
                Err(error) => {
                    if self.status.lost_appending(&error) {
                        tracing::warn!(%error, "the engine does not take events");
                    }
                    self.connection = None;
                    let expired = self.queue.expire(Instant::now());
                    self.status.metrics.engine_refused.inc_by(expired as u64);
                    if all_late(waiting, Instant::now()) {
                        return Err(if sent { Refused::Unanswered } else { Refused::Unreachable });
                    }
                    let pause = self.backoff.pause();
                    if self.queue.sleep(pause) {
                        // Closed: the last tries, without a storm.
                        std::thread::sleep(pause);
                    }
                }
            }
        }
    }

    fn try_append(
        &mut self,
        batch: &Batch<'_>,
        sent: &mut bool,
    ) -> Result<(u64, Vec<Sequence>), EngineError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(self.log.appender()?),
        };
        *sent = true;
        connection.append(batch)
    }
}

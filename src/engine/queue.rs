//! Bounded queue of submissions that wait to be appended, each with a deadline.
//!
//! Invariants:
//! - Every submission is answered exactly once, at its deadline at the latest, even if the appending thread hangs in
//!   the log. [`AppendQueue::watch`] answers on a thread of its own.
//! - Waiting events exceed the bounds by at most one submission that is itself larger than the bounds.
//!
//! The queue is not a channel: a submission must be found and answered while the appending thread has it, and the
//! bound is in events and bytes.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Condvar, PoisonError};
use std::time::{Duration, Instant};

use super::error::EngineError;
use super::log::Record;
use crate::dialect::ErrorCode;
use crate::event::EventId;
use crate::sync::{Mutex, MutexGuard, lock};
use crate::threads;

/// Reason why events were not accepted. Each reason implies whether the log may have them nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many events are waiting.
    Full,
    /// The log was not reached in time and has none of the events.
    Unreachable,
    /// The log answered that it accepts nothing now, and has none of the events.
    TakesNothing,
    /// The log has changed its kind and has none of the events.
    OtherKind,
    /// The events were sent and no answer came in time: the log may or may not have them.
    Unanswered,
    /// One of the events is longer than the log can ever accept.
    TooLarge { bytes: u64, limit: u64 },
    /// The log can never accept the events, for another reason.
    Unfit,
    /// The node is shutting down.
    Closed,
}

impl Refused {
    /// Returns the reason given to publishers for a failure of the log.
    pub(crate) const fn by(error: &EngineError) -> Self {
        match error {
            EngineError::TooLarge { bytes, limit } => Self::TooLarge { bytes: *bytes, limit: *limit },
            EngineError::Unfit(_) => Self::Unfit,
            EngineError::TakesNothing(_) => Self::TakesNothing,
            EngineError::OtherKind(_) => Self::OtherKind,
            _ => Self::Unreachable,
        }
    }

    /// Returns the text for publishers.
    pub(crate) fn text(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Full => "too many events wait for the engine: try again later",
            Self::Unreachable => "the engine can't be reached: nothing was accepted, try again later",
            Self::TakesNothing => "the engine's log takes nothing now: nothing was accepted, try again later",
            Self::OtherKind => {
                "the engine's log is not of the kind that it was: nothing was accepted, try again later"
            }
            Self::Unanswered => "the engine did not answer in time: the events may have been accepted or not",
            Self::TooLarge { bytes, limit } => {
                return Cow::Owned(format!(
                    "an event has {bytes} bytes in the engine's log, which takes at most {limit}: do not send it again"
                ));
            }
            Self::Unfit => "the engine's log can never take this: do not send it again",
            Self::Closed => "server is shutting down",
        })
    }

    /// Returns the error code, which is also the label in the metrics.
    pub(crate) const fn code(self) -> ErrorCode {
        match self {
            Self::Full => ErrorCode::EngineFull,
            Self::Unreachable => ErrorCode::EngineUnreachable,
            Self::TakesNothing => ErrorCode::EngineTakesNothing,
            Self::OtherKind => ErrorCode::EngineOtherKind,
            Self::Unanswered => ErrorCode::EngineUnanswered,
            Self::TooLarge { .. } => ErrorCode::EventTooLarge,
            Self::Unfit => ErrorCode::EventUnfit,
            Self::Closed => ErrorCode::Draining,
        }
    }

    /// Returns whether a later attempt may succeed.
    pub(crate) const fn may_pass_later(self) -> bool {
        self.code().status() == 503
    }
}

/// Callback that is called once: with the ids of the events, or the reason why none was accepted.
pub(crate) type Done = Box<dyn FnOnce(Result<&[EventId], Refused>) + Send>;

/// Pending answer to a publisher.
struct Promise {
    deadline: Instant,
    events: usize,
    /// Whether the answer waits until this node has read the events from the log.
    awaits_reading: bool,
    done: Option<Done>,
}

impl Promise {
    fn answer(mut self, outcome: Result<&[EventId], Refused>) {
        if let Some(done) = self.done.take() {
            done(outcome);
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        // Dropped without an answer, perhaps by a panicking thread: the outcome is unknown.
        if let Some(done) = self.done.take() {
            done(Err(Refused::Unanswered));
        }
    }
}

/// Events of one publisher that are appended together.
pub(crate) struct Submission {
    records: Vec<Record>,
    bytes: usize,
    promise: Promise,
}

/// Memory of a waiting event without its text, in bytes.
const RECORD_BYTES: usize = size_of::<Record>() + 16;

impl Submission {
    pub(crate) fn new(records: Vec<Record>, deadline: Instant, awaits_reading: bool, done: Done) -> Self {
        let promise = Promise { deadline, events: records.len(), awaits_reading, done: Some(done) };
        let bytes = records.iter().map(|record| record.json.len() + RECORD_BYTES).sum();
        Self { records, bytes, promise }
    }
}

/// Result of waiting for submissions.
pub(super) enum QueueItems {
    /// The records of each submission.
    Submissions(Vec<Vec<Record>>),
    /// Nothing arrived in time.
    Nothing,
    /// The queue is closed and empty.
    Closed,
}

struct QueueState {
    submissions: VecDeque<Submission>,
    /// Submissions that were taken and are not settled, in order; `None` after their answer.
    flight: Vec<Option<Promise>>,
    /// Whether the log may have some of the submissions that were taken.
    is_in_doubt: bool,
    /// Reason given to publishers at the deadline, if the log does not have their events.
    trouble: Refused,
    events: usize,
    /// Bytes of the waiting submissions, and of those that were taken.
    bytes: usize,
    flight_bytes: usize,
    closed: Option<Instant>,
}

/// Queue of submissions, shared by publishers and the engine's threads.
pub(crate) struct AppendQueue {
    waiting: Mutex<QueueState>,
    /// Signals the appending thread that a submission arrived or the queue was closed.
    changed: Condvar,
    /// Signals that the queue was closed.
    closing: Condvar,
    max_events: usize,
    max_bytes: usize,
    accept_timeout: Duration,
}

impl AppendQueue {
    pub(crate) fn new(max_events: usize, max_bytes: usize, accept_timeout: Duration) -> Self {
        let waiting = QueueState {
            submissions: VecDeque::new(),
            flight: Vec::new(),
            is_in_doubt: false,
            trouble: Refused::Unreachable,
            events: 0,
            bytes: 0,
            flight_bytes: 0,
            closed: None,
        };
        let (changed, closing) = (Condvar::new(), Condvar::new());
        Self { waiting: Mutex::new(waiting), changed, closing, max_events, max_bytes, accept_timeout }
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.waiting).events
    }

    /// Returns the bytes of the events that wait or were taken.
    pub(crate) fn bytes(&self) -> usize {
        let waiting = lock(&self.waiting);
        waiting.bytes + waiting.flight_bytes
    }

    /// Queues these records, or refuses them and returns `done` uncalled. `done` is called once, at the accept timeout at the
    /// latest. `awaits_reading`: the answer waits until this node has read the events from the log.
    pub(crate) fn push(
        &self,
        records: Vec<Record>,
        awaits_reading: bool,
        done: Done,
    ) -> Result<(), (Refused, Done)> {
        let count = records.len();
        let mut submission =
            Submission::new(records, Instant::now() + self.accept_timeout, awaits_reading, done);
        let refused = {
            let mut waiting = lock(&self.waiting);
            if waiting.closed.is_some() {
                Refused::Closed
            } else if waiting.events > 0
                && (waiting.events + count > self.max_events
                    || waiting.bytes + waiting.flight_bytes + submission.bytes > self.max_bytes)
            {
                Refused::Full
            } else {
                waiting.events += count;
                waiting.bytes += submission.bytes;
                waiting.submissions.push_back(submission);
                drop(waiting);
                self.changed.notify_one();
                return Ok(());
            }
        };
        let done = submission.promise.done.take().unwrap_or_else(|| Box::new(|_| ()));
        Err((refused, done))
    }

    /// Takes the oldest submissions, at most `max_events` events or one submission. Waits up to `timeout` for the
    /// first. They count as waiting until [`Self::settled`].
    pub(super) fn take(&self, max_events: usize, timeout: Duration) -> QueueItems {
        let end = Instant::now() + timeout;
        let mut waiting = lock(&self.waiting);
        while waiting.submissions.is_empty() {
            if waiting.closed.is_some() {
                return QueueItems::Closed;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return QueueItems::Nothing;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut taken = Vec::new();
        let mut events = 0;
        while let Some(next) = waiting.submissions.front() {
            events += next.records.len();
            if !taken.is_empty() && events > max_events {
                break;
            }
            if let Some(Submission { records, bytes, promise }) = waiting.submissions.pop_front() {
                waiting.bytes -= bytes;
                waiting.flight_bytes += bytes;
                taken.push(records);
                waiting.flight.push(Some(promise));
            }
        }
        QueueItems::Submissions(taken)
    }

    /// Answers a submission that was taken. Returns whether it had no answer yet.
    pub(super) fn answer(&self, at: usize, outcome: Result<&[EventId], Refused>) -> bool {
        let promise = lock(&self.waiting).flight.get_mut(at).and_then(Option::take);
        promise.map(|promise| promise.answer(outcome)).is_some()
    }

    /// Returns whether the answer to one of these taken submissions waits until this node has read its events.
    pub(super) fn awaits_reading(&self, range: Range<usize>) -> bool {
        let waiting = lock(&self.waiting);
        let mut flight = waiting.flight.get(range).unwrap_or_default().iter().flatten();
        flight.any(|promise| promise.awaits_reading)
    }

    /// Returns whether all of these taken submissions have their answers.
    pub(super) fn are_answered(&self, range: Range<usize>) -> bool {
        let waiting = lock(&self.waiting);
        waiting.flight.get(range).is_none_or(|flight| flight.iter().all(Option::is_none))
    }

    /// Returns the latest deadline of the taken submissions.
    pub(super) fn last_deadline(&self) -> Instant {
        let waiting = lock(&self.waiting);
        waiting.flight.iter().flatten().map(|promise| promise.deadline).max().unwrap_or_else(Instant::now)
    }

    /// Marks these taken submissions as being sent: from now on the log may have them. Returns false and marks nothing
    /// if one of them was already answered, because its publisher was refused.
    pub(super) fn mark_sent(&self, range: Range<usize>) -> bool {
        let mut waiting = lock(&self.waiting);
        let all_wait = waiting.flight.get(range).is_some_and(|flight| flight.iter().all(Option::is_some));
        waiting.is_in_doubt |= all_wait;
        all_wait
    }

    /// Returns the ranges of these taken submissions that have no answer yet.
    pub(super) fn unanswered(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let waiting = lock(&self.waiting);
        let mut runs: Vec<Range<usize>> = Vec::new();
        for at in range.filter(|at| waiting.flight.get(*at).is_some_and(Option::is_some)) {
            match runs.last_mut().filter(|run| run.end == at) {
                Some(run) => run.end += 1,
                None => runs.push(at..at + 1),
            }
        }
        runs
    }

    /// Sets whether the log may have the taken submissions.
    pub(super) fn set_in_doubt(&self, is_in_doubt: bool) {
        lock(&self.waiting).is_in_doubt = is_in_doubt;
    }

    /// Sets the reason given to publishers at their deadline.
    pub(super) fn set_trouble(&self, trouble: Refused) {
        lock(&self.waiting).trouble = trouble;
    }

    /// Ends the sending of all taken submissions, which have this many events. Those without an answer are answered
    /// as unanswered.
    pub(super) fn settled(&self, events: usize) {
        let left = {
            let mut waiting = lock(&self.waiting);
            waiting.events -= events;
            waiting.flight_bytes = 0;
            waiting.is_in_doubt = false;
            std::mem::take(&mut waiting.flight)
        };
        // Answered outside the lock: the callbacks are not the queue's code.
        drop(left);
    }

    /// Answers every submission with a deadline up to `now`. If there are any, `on_late` is called first, with the
    /// number of their events and whether some of them were taken.
    fn expire(&self, now: Instant, on_late: impl FnOnce(usize, bool)) {
        let mut late: Vec<(Promise, Refused)> = Vec::new();
        let mut was_taken = false;
        {
            let mut waiting = lock(&self.waiting);
            let QueueState { submissions, flight, is_in_doubt, trouble, events, bytes, .. } = &mut *waiting;
            let refused = if *is_in_doubt { Refused::Unanswered } else { *trouble };
            for promise in flight {
                if let Some(promise) = promise.take_if(|promise| promise.deadline <= now) {
                    was_taken = true;
                    late.push((promise, refused));
                }
            }
            // The queue is in the order of deadlines, because all submissions have the same timeout.
            while submissions.front().is_some_and(|next| next.promise.deadline <= now) {
                let Some(next) = submissions.pop_front() else { break };
                *events -= next.records.len();
                *bytes -= next.bytes;
                late.push((next.promise, *trouble));
            }
        }
        let count = late.iter().map(|(promise, _)| promise.events).sum();
        if count > 0 {
            on_late(count, was_taken);
        }
        for (promise, refused) in late {
            promise.answer(Err(refused));
        }
    }

    /// Answers each submission at its deadline, until the queue is closed and empty. `on_late` is called with the
    /// number of events without an answer in time and whether some were taken. It is called before their publishers
    /// have the answer, so that a refused publisher finds the node not ready.
    pub(super) fn watch(&self, on_late: impl Fn(usize, bool)) {
        loop {
            threads::fault_point();
            {
                let waiting = lock(&self.waiting);
                let flight = waiting.flight.iter().flatten().map(|promise| promise.deadline).min();
                let first = waiting.submissions.front().map(|next| next.promise.deadline);
                if waiting.closed.is_some() && flight.is_none() && first.is_none() {
                    return;
                }
                // Later submissions have later deadlines. A closed queue is checked more often.
                let longest = if waiting.closed.is_some() { LOOK } else { self.accept_timeout };
                let until = flight.into_iter().chain(first).min();
                let left = until.map_or(longest, |until| until.saturating_duration_since(Instant::now()));
                let left = left.clamp(Duration::from_millis(1), longest.max(Duration::from_millis(1)));
                drop(self.wait_until_closed(waiting, left));
            }
            self.expire(Instant::now(), &on_late);
        }
    }

    /// Closes the queue: it accepts nothing more.
    pub(crate) fn close(&self) {
        lock(&self.waiting).closed.get_or_insert_with(Instant::now);
        self.changed.notify_all();
        self.closing.notify_all();
    }

    /// Closes the queue and answers every submission immediately.
    pub(crate) fn abandon(&self) {
        self.close();
        let mut waiting = lock(&self.waiting);
        waiting.trouble = Refused::Closed;
        drop(waiting);
        self.expire(Instant::now() + self.accept_timeout, |_, _| ());
    }

    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.waiting).closed.is_some()
    }

    /// Returns whether the queue was closed at least this long ago.
    pub(super) fn was_closed_for(&self, time: Duration) -> bool {
        lock(&self.waiting).closed.is_some_and(|closed| closed.elapsed() >= time)
    }

    /// Sleeps until the time is over or the queue is closed. Returns whether it is closed.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        let waiting = lock(&self.waiting);
        if waiting.closed.is_some() {
            return true;
        }
        self.wait_until_closed(waiting, time).closed.is_some()
    }

    /// Waits until the time is over, or the queue is closed if it was open.
    fn wait_until_closed<'a>(
        &self,
        mut waiting: MutexGuard<'a, QueueState>,
        time: Duration,
    ) -> MutexGuard<'a, QueueState> {
        let was_closed = waiting.closed.is_some();
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if waiting.closed.is_some() != was_closed || left.is_zero() {
                return waiting;
            }
            waiting = self.closing.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Interval at which a closed queue is checked.
const LOOK: Duration = Duration::from_millis(20);

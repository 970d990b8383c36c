//! What waits to be appended to the log: bounded, and nothing waits longer than it may.
//!
//! Imports `sync`. Always: every submission is answered exactly once; events that wait never exceed the bound
//! by more than one submission that is larger than all of it.

use std::collections::VecDeque;
use std::sync::{Condvar, PoisonError};
use std::time::{Duration, Instant};

use super::Record;
use crate::event::EventId;
use crate::sync::{Mutex, MutexGuard, lock};

/// Why events were not taken. Each knows whether they may be in the log all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many events wait already.
    Full,
    /// The log was not reached in time; it has none of them.
    Unreachable,
    /// They were sent and no answer came in time: the log may have them or not.
    Unanswered,
    /// The node is on its way out.
    Closed,
}

impl Refused {
    /// What a publisher is told.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Full => "too many events wait for the engine: try again later",
            Self::Unreachable => "the engine can't be reached: nothing was accepted, try again later",
            Self::Unanswered => "the engine did not answer in time: the events may have been accepted or not",
            Self::Closed => "server is shutting down",
        }
    }

    /// A word for metrics and error codes.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Full => "engine_full",
            Self::Unreachable => "engine_unreachable",
            Self::Unanswered => "engine_unanswered",
            Self::Closed => "draining",
        }
    }
}

/// Told once: the id of the last event, or why none was taken.
pub(crate) type Done = Box<dyn FnOnce(Result<Option<EventId>, Refused>) + Send>;

/// Events of one publisher that are appended together.
pub(crate) struct Submission {
    pub(super) records: Vec<Record>,
    deadline: Instant,
    done: Option<Done>,
}

impl Submission {
    pub(crate) fn new(records: Vec<Record>, deadline: Instant, done: Done) -> Self {
        Self { records, deadline, done: Some(done) }
    }

    pub(super) fn answer(mut self, outcome: Result<Option<EventId>, Refused>) {
        if let Some(done) = self.done.take() {
            done(outcome);
        }
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        // Whoever lets go of it without an answer, a panicking thread perhaps, does not know more than this.
        if let Some(done) = self.done.take() {
            done(Err(Refused::Unanswered));
        }
    }
}

struct Waiting {
    submissions: VecDeque<Submission>,
    events: usize,
    closed: bool,
}

/// The submissions that wait.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    max_events: usize,
}

impl Queue {
    pub(crate) fn new(max_events: usize) -> Self {
        let waiting = Waiting { submissions: VecDeque::new(), events: 0, closed: false };
        Self { waiting: Mutex::new(waiting), changed: Condvar::new(), max_events }
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.waiting).events
    }

    /// Takes a submission, or refuses it and says how many events that were.
    pub(crate) fn push(&self, submission: Submission) -> Result<(), usize> {
        let count = submission.records.len();
        let refused = {
            let mut waiting = lock(&self.waiting);
            if waiting.closed {
                Refused::Closed
            } else if waiting.events > 0 && waiting.events + count > self.max_events {
                Refused::Full
            } else {
                waiting.events += count;
                waiting.submissions.push_back(submission);
                drop(waiting);
                self.changed.notify_all();
                return Ok(());
            }
        };
        submission.answer(Err(refused));
        Err(count)
    }

    /// The oldest submissions, together at most so many events or one submission; waits for the first. Those
    /// taken still count as waiting until [`Self::settled`]. Empty: closed, and nothing is left.
    pub(crate) fn take(&self, max_events: usize) -> Vec<Submission> {
        let mut waiting = lock(&self.waiting);
        while waiting.submissions.is_empty() {
            if waiting.closed {
                return Vec::new();
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let mut taken = Vec::new();
        let mut events = 0;
        while let Some(next) = waiting.submissions.front() {
            events += next.records.len();
            if !taken.is_empty() && events > max_events {
                break;
            }
            taken.extend(waiting.submissions.pop_front());
        }
        taken
    }

    /// So many events that were taken no longer wait.
    pub(crate) fn settled(&self, events: usize) {
        lock(&self.waiting).events -= events;
    }

    /// Answers those whose time is over: they were never sent. Says how many events.
    pub(crate) fn expire(&self, now: Instant) -> usize {
        let mut late = Vec::new();
        {
            let mut waiting = lock(&self.waiting);
            // In order of their deadlines, for all have the same time.
            while waiting.submissions.front().is_some_and(|next| next.deadline <= now) {
                let Some(next) = waiting.submissions.pop_front() else { break };
                waiting.events -= next.records.len();
                late.push(next);
            }
        }
        let events = late.iter().map(|submission| submission.records.len()).sum();
        for submission in late {
            submission.answer(Err(Refused::Unreachable));
        }
        events
    }

    /// Takes nothing more.
    pub(crate) fn close(&self) {
        lock(&self.waiting).closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.waiting).closed
    }

    /// Sleeps this long, or until it is closed; true where it is.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut waiting: MutexGuard<'_, Waiting> = lock(&self.waiting);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if waiting.closed || left.is_zero() {
                return waiting.closed;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Whether every one of these has had its time.
pub(super) fn all_late(submissions: &[Submission], now: Instant) -> bool {
    submissions.iter().all(|submission| submission.deadline <= now)
}

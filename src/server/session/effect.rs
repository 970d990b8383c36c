//! Effects: the requests of a connection to its loop, as values.
//!
//! Always: effects are executed in the order in which they were requested.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::began::DeliveredElsewhere;
use super::opening::StreamOpening;
use super::past::{PastReport, ReplayFrom};
use crate::dialect::{Complete, ConcatTarget, Encoding, ErrorCode, OnLag, RefusingLog};
use crate::engine::Refused;
use crate::event::{EventId, Since};
use crate::feed::{Change, Compression, LagPolicy};
use crate::filter::Filter;
use crate::kept::{LogName, LogRefusal, PurgedLogs};
use crate::server::dedupe::PublishOnce;
use crate::server::limits::rates::CountedConnection;
use crate::server::tick::Tick;
use crate::server::workers::LaneLimits;

/// Request of a connection to its loop. A loop executes them in order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Writes these bytes after everything pending so far.
    Send(Bytes),
    /// Compresses everything after this.
    Compress(Compression),
    /// Delivers the events that these filters match, instead of those of earlier filters. `None`: delivers nothing.
    Interest { encoding: Encoding, wishes: Vec<(Filter, OnLag)> },
    /// Changes which events are delivered. `lag_policy` determines which events the feed drops when the client falls
    /// behind. The newest `added` subscriptions have filters that no other connection shares yet.
    Change { encoding: Encoding, lag_policy: LagPolicy, changes: Vec<Change>, added: usize },
    /// Delivers the retained events that match one of `filters`, without those that `except` has delivered, before live
    /// events.
    Replay {
        encoding: Encoding,
        filters: Vec<Filter>,
        except: Vec<DeliveredElsewhere>,
        from: ReplayFrom,
        report: PastReport,
        /// String that neighbours are merged by.
        merge: Option<Arc<ConcatTarget>>,
    },
    /// Merges neighbours of what the client reads to catch up by this string.
    Concat(Option<Arc<ConcatTarget>>),
    /// Delivers again the retained events after `since` that match one of `filters`, and then live events. Events
    /// pending from the feed are dropped, because they are delivered again.
    Refill { encoding: Encoding, filters: Vec<Filter>, since: Since },
    /// Reads nothing more from the client, and applies no further effect, until the loop has read the event at this place, or
    /// the wait has reached its limit.
    AwaitRead(Since),
    /// Waits likewise until the node receives what this filter wants of an engine that it follows by its clients' interest.
    AwaitFollowed(Filter),
    /// Reports to the client which of the kept logs that this subscription names have already ended. Empty for an event
    /// stream.
    ReportEnded { subscription: Box<str> },
    /// Publishes these events in order, and writes the response that `answer` makes from the outcome. `once` is set if
    /// the request has a key, or events have ids, by which they may have been published before.
    Publish { events: Vec<Complete>, once: Option<Box<PublishOnce>>, answer: PublishAnswer },
    /// Removes these kept logs, all of one attribute, and writes the response that `answer` makes of the outcome.
    Purge { names: Vec<LogName>, answer: PurgeAnswer },
    /// Gives a job to a worker, and writes the response when it is ready.
    Work(Work),
    /// Counts the connection for its address.
    Count(CountedConnection),
    /// Names the client, with a name of its choosing.
    Named(Box<str>),
    /// Calls the connection's timer at this tick, in addition to its usual time.
    LookAt(Tick),
    /// Delivers nothing more, writes these bytes after everything pending, and closes.
    Close(Bytes),
}

/// Function that makes the response to a publisher from the outcome: all events are accepted, or none. It may make
/// none.
pub(crate) struct PublishAnswer(pub(crate) MakeAnswer);

type MakeAnswer = Box<dyn FnOnce(Result<Acceptance, PublishRefusal>) -> PublishReply + Send>;

/// Response to a publisher.
pub(crate) enum PublishReply {
    /// These bytes; `None` if the client expects none.
    Bytes(Option<Bytes>),
    /// An event stream.
    Stream(Box<StreamOpening>),
}

impl From<Option<Bytes>> for PublishReply {
    fn from(bytes: Option<Bytes>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Bytes> for PublishReply {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(Some(bytes))
    }
}

/// Makes the response to a purge: `None` if events from before it are not in the logs yet, and nothing was purged.
pub(crate) struct PurgeAnswer(pub(crate) Box<dyn FnOnce(Option<PurgedLogs>) -> Bytes + Send>);

impl fmt::Debug for PurgeAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PurgeAnswer")
    }
}

/// Outcome of an accepted publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acceptance {
    /// Id of the oldest event of the publication, if it is known.
    pub(crate) first: Option<EventId>,
    /// Id of the newest event of the publication, or of the one that was published in its place before.
    pub(crate) last: Option<EventId>,
    /// Number of duplicates: events that were published before and not again.
    pub(crate) duplicates: usize,
}

impl Acceptance {
    /// Adds the next event of the publication.
    pub(crate) fn record(&mut self, id: Option<EventId>) {
        self.first = self.first.or(id);
        self.last = id.or(self.last);
    }

    /// Adds the outcome of the next part of the publication.
    pub(crate) fn join(&mut self, later: Self) {
        self.first = self.first.or(later.first);
        self.last = later.last.or(self.last);
        self.duplicates += later.duplicates;
    }
}

/// Reason why nothing of a publication was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PublishRefusal {
    Engine(Refused),
    /// The key was used for another request.
    KeyReused,
    /// Another publication with the same key or id has no outcome yet.
    InFlight,
    /// A kept log refuses the event of this line of the body; 0 if it is not from a body. Nothing was published but these events: their
    /// numbers in the publication, from 0, and ids.
    Log(Box<LogRefusal>, u32, Vec<(usize, EventId)>),
}

impl PublishRefusal {
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Engine(refused) => refused.code(),
            Self::KeyReused => ErrorCode::IdempotencyKeyReused,
            Self::InFlight => ErrorCode::PublishInFlight,
            Self::Log(refusal, ..) => refusal.code,
        }
    }

    pub(crate) fn text(&self) -> Cow<'static, str> {
        match self {
            Self::Engine(refused) => refused.text(),
            Self::KeyReused => {
                "this Idempotency-Key was used for another request: send each new request with a new key".into()
            }
            Self::InFlight => {
                "another request with the same Idempotency-Key or dedupe_id has no answer yet: try again later".into()
            }
            Self::Log(refusal, ..) => refusal.text(),
        }
    }

    /// Returns the kept log that refuses an event.
    pub(crate) fn log(&self) -> Option<RefusingLog> {
        let Self::Log(refusal, ..) = self else { return None };
        let LogName { by, value } = refusal.name.as_ref()?;
        Some(RefusingLog { by: by.name(), value: (**value).into(), last_event_id: refusal.last })
    }

    /// Returns whether a later attempt may succeed.
    pub(crate) fn may_pass_later(&self) -> bool {
        self.code().status() == 503
    }
}

impl fmt::Debug for PublishAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublishAnswer")
    }
}

/// Job that takes too long for a loop. A worker does it while the client waits.
pub(crate) struct Work {
    pub(crate) lane: String,
    pub(crate) limits: LaneLimits,
    /// Time that the client waits, in ticks.
    pub(crate) patience: Tick,
    /// Size of the client's data that the job holds, in bytes.
    pub(crate) bytes: usize,
    pub(crate) job: Box<dyn FnOnce() -> Made + Send>,
    /// Makes the response if the job does not.
    pub(crate) instead: FallbackResponse,
}

/// Result of a job.
#[derive(Debug)]
pub(crate) enum Made {
    /// Response.
    Answer(Bytes),
    /// Events to publish, as in [`Effect::Publish`].
    Publish { events: Vec<Complete>, once: Option<Box<PublishOnce>>, answer: PublishAnswer },
}

/// Function that makes the response to a client if its job makes none.
pub(crate) type FallbackResponse = Box<dyn FnOnce(NotDone) -> Bytes + Send>;

/// Reason why a job made no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotDone {
    /// The workers have too much to do; the job was not started.
    Busy,
    /// The client's wait is over; the job may still run.
    Late,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Work({})", self.lane)
    }
}

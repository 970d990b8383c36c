//! Answers from other threads, and clients' requests in progress.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::vec;

use super::replay::Arrived;
use super::token::Token;
use crate::dialect::Complete;
use crate::engine::InterestGuard;
use crate::event::{Event, Since};
use crate::filter::Filter;
use crate::held::Charge;
use crate::kept::LogName;
use crate::server::dedupe::PublishOnce;
use crate::server::session::effect::{
    Acceptance, Effect, FallbackResponse, Made, PublishAnswer, PublishReply,
};
use crate::server::tick::Tick;
use crate::sync::{Callback, Mutex, lock};

/// An answer from another thread.
pub(super) enum MailboxItem {
    /// Answer to a publication that the engine has decided on.
    Engine(PublishReply),
    /// Result of a worker, with the number of its job.
    Work(u64, Made),
    /// A page of the engine's log, for a replay or the snapshot.
    Past(Arrived),
    /// Outcome of the publication that the one with this number waits for.
    Settled(u64),
}

/// Answer that a client waits for, with its deadline.
pub(super) struct Awaited {
    pub(super) number: u64,
    pub(super) until: Tick,
    pub(super) instead: FallbackResponse,
}

/// Answers that other threads leave for a loop.
#[derive(Default)]
pub(super) struct Mailbox {
    pub(super) items: Mutex<Vec<(Token, MailboxItem)>>,
    /// Callback that wakes the loop.
    pub(super) waker: Mutex<Option<Callback>>,
}

impl Mailbox {
    pub(super) fn leave(&self, token: Token, item: MailboxItem) {
        let first = {
            let mut items = lock(&self.items);
            items.push((token, item));
            items.len() == 1
        };
        if first && let Some(wake) = lock(&self.waker).as_ref() {
            wake();
        }
    }
}

/// A batch with events that are not published yet.
pub(super) struct Commit {
    pub(super) token: Token,
    pub(super) events: vec::IntoIter<Event>,
    /// Outcome so far.
    pub(super) accepted: Acceptance,
    /// Kept logs that refuse other events until the batch is published.
    pub(super) held: Vec<LogName>,
    pub(super) answer: PublishAnswer,
    #[expect(dead_code, reason = "counts its bytes while it lives")]
    pub(super) charge: Charge,
}

/// Publication that waits for another one with the same key or id.
pub(super) struct WaitingPublish {
    pub(super) events: Vec<Complete>,
    pub(super) once: Box<PublishOnce>,
    pub(super) answer: PublishAnswer,
    #[expect(dead_code, reason = "counts its bytes while it lives")]
    pub(super) charge: Charge,
}

/// Condition that a client waits for.
pub(super) enum Wait {
    /// The loop has read the events up to this place.
    Log(Since),
    /// The kept logs are read from the engine's log.
    KeptLogs,
    /// The next turn begins. A long change has used up the budget of this one.
    Turn,
    /// The node receives all events that these filters match; the guard keeps the request alive.
    Interest(Vec<Filter>, #[expect(dead_code, reason = "held")] InterestGuard),
}

/// Effects of one client that wait for a condition.
pub(super) struct DeferredEffects {
    pub(super) token: Token,
    pub(super) wait: Wait,
    pub(super) until: Tick,
    pub(super) effects: Vec<Effect>,
}

/// Clients' requests in progress, and the mailbox for their answers.
#[derive(Default)]
pub(super) struct PendingRequests {
    pub(super) mailbox: Arc<Mailbox>,
    /// Effects that wait, for example until this loop has read the engine's log as far as its client has.
    pub(super) deferred: Vec<DeferredEffects>,
    /// Batches that are being published.
    pub(super) commits: VecDeque<Commit>,
    /// Clients that wait for a worker.
    pub(super) awaited: HashMap<Token, Awaited>,
    /// Number of jobs given to workers; numbers the next.
    pub(super) works: u64,
    /// Publications that wait for others, by number.
    pub(super) waiting: HashMap<u64, WaitingPublish>,
    /// Number of the newest of these waits.
    pub(super) waits: u64,
}

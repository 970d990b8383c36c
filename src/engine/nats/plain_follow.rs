//! Follows plain subjects, of which a node may subscribe to those that its clients want.
//!
//! Invariant: a subject counts as followed after a message to ourselves, sent after its subscription, has arrived and
//! everything before it is on the bus.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures_util::Stream as _;
use futures_util::task::AtomicWaker;
use tokio::task::unconstrained;
use tokio::time::timeout_at;

use super::super::error::EngineError;
use super::super::log::{Follow, LogEntry, OnNotice, Places};
use super::super::reorder::ReorderBuffer;
use super::link::{Faults, InRuntime, TIMEOUT, unreachable};
use super::plain::{StampClock, connects, order_of};
use super::shared::NatsShared;
use crate::event::{EventId, Sequence, Timestamp};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Callback, lock};

/// Interval at which the follower looks for expired interest.
const LOOK: Duration = Duration::from_millis(500);

/// Maximum number of passes over all subscriptions before the ordered messages are passed on.
const PASSES_MAX: usize = 8;

/// Maximum number of messages held for reordering. With more the node is too slow for its subscriptions.
const HELD_MAX: usize = 200_000;

/// Signal that interest has changed.
#[derive(Default)]
struct Changed {
    flag: AtomicBool,
    waker: AtomicWaker,
}

/// All subscriptions, and their messages that wait for their order.
struct Subscriptions {
    /// Subject prefix of events, before the shard.
    prefix: String,
    events: BTreeMap<Arc<str>, Subscriber>,
    notices: Subscriber,
    /// This node's messages to itself.
    marks: Subscriber,
    arrivals: ReorderBuffer<(u16, Bytes)>,
    /// Number of messages that no node sent.
    strange: u64,
    /// Newest mark received in the current pass, and in the one before.
    seen_mark: u64,
    mark: u64,
}

impl Subscriptions {
    /// Empties every subscription once. Returns the number of messages, or an error if a subscription has ended.
    fn pass(
        &mut self,
        cx: &mut std::task::Context<'_>,
        clock: &StampClock,
        on_notice: &OnNotice,
    ) -> Result<usize, EngineError> {
        let ended = || unreachable("a subscription ended");
        let mut count = 0;
        while let Poll::Ready(notice) = Pin::new(&mut self.notices).poll_next(cx) {
            on_notice(&notice.ok_or_else(ended)?.payload);
            count += 1;
        }
        while let Poll::Ready(mark) = Pin::new(&mut self.marks).poll_next(cx) {
            let text = mark.ok_or_else(ended)?.payload;
            let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
            self.seen_mark = self.seen_mark.max(number.unwrap_or(0));
            count += 1;
        }
        for subscription in self.events.values_mut() {
            while let Poll::Ready(message) = Pin::new(&mut *subscription).poll_next(cx) {
                let message = message.ok_or_else(ended)?;
                count += 1;
                let rest = message.subject.as_str().strip_prefix(self.prefix.as_str());
                let shard = rest.and_then(|rest| rest.split('.').next()?.parse().ok());
                let Some(shard) = shard else { continue };
                let (node, stamp) = order_of(&message).unwrap_or_else(|| {
                    self.strange += 1;
                    (0, self.strange)
                });
                if node != 0 {
                    clock.saw(stamp);
                }
                self.arrivals.found(node, stamp, (shard, message.payload));
                if self.arrivals.len() > HELD_MAX {
                    return Err(EngineError::OtherEpoch);
                }
            }
        }
        Ok(count)
    }
}

/// Follower of the subjects that the node's clients want. It numbers the events it receives.
pub(super) struct PlainFollower {
    shared: Arc<NatsShared>,
    client: Client,
    epoch: u64,
    next: Vec<Sequence>,
    faults: Arc<Faults>,
    /// Number of the client's connections when this follower began.
    connects: u64,
    changed: Arc<Changed>,
    looked: Instant,
    inbox: String,
    /// Unconfirmed subscriptions, with the mark sent after them.
    asked: VecDeque<(u64, Vec<Arc<str>>)>,
    marks: u64,
    subscriptions: InRuntime<Subscriptions>,
}

impl PlainFollower {
    /// Subscribes. Call it within the runtime.
    pub(super) async fn new(
        log: &Arc<NatsShared>,
        client: Client,
        faults: Arc<Faults>,
    ) -> Result<(Self, Places), EngineError> {
        let connects = connects(&client);
        let inbox = client.new_inbox();
        let subscriptions = Subscriptions {
            prefix: format!("{}.events.", log.settings.name),
            events: BTreeMap::new(),
            notices: client.subscribe(log.notices()).await.map_err(unreachable)?,
            marks: client.subscribe(inbox.clone()).await.map_err(unreachable)?,
            arrivals: ReorderBuffer::after(&lock(&log.delivered)),
            strange: 0,
            seen_mark: 0,
            mark: 0,
        };
        let places = Places {
            epoch: Timestamp::now().0 as u64,
            next: vec![0; log.settings.shards],
            kept: Some(false),
        };
        let changed = Arc::new(Changed::default());
        let wake: Callback = {
            let changed = Arc::clone(&changed);
            Arc::new(move || {
                // Release: pairs with the Acquire where the flag is taken, so that the follower sees the new
                // interest.
                changed.flag.store(true, Ordering::Release);
                changed.waker.wake();
            })
        };
        log.interest.reset(Some(places.epoch), Some(wake));
        let mut follower = Self {
            shared: Arc::clone(log),
            client,
            epoch: places.epoch,
            next: places.next.clone(),
            connects,
            faults,
            changed,
            looked: Instant::now(),
            inbox,
            asked: VecDeque::new(),
            marks: 0,
            subscriptions: InRuntime::new(&log.driver, subscriptions),
        };
        // Also without any interest: the mark proves that the server is there.
        follower.ask(Vec::new()).await?;
        follower.change().await?;
        Ok((follower, places))
    }

    /// Returns whether messages may have been missed: the client reconnects by itself, and passes on messages of the
    /// new connection before it reports the loss.
    fn is_cut(&self) -> bool {
        self.faults.is_faulty() || connects(&self.client) != self.connects
    }

    /// Subscribes to these subjects and sends a mark after them.
    async fn ask(&mut self, subjects: Vec<Arc<str>>) -> Result<(), EngineError> {
        for wanted in &subjects {
            let subject = format!("{}*.{wanted}", self.subscriptions.get().prefix);
            let subscription = self.client.subscribe(subject).await.map_err(unreachable)?;
            self.subscriptions.get().events.insert(Arc::clone(wanted), subscription);
        }
        self.marks += 1;
        let mark = Bytes::from(self.marks.to_string());
        self.client.publish(self.inbox.clone(), mark).await.map_err(unreachable)?;
        self.asked.push_back((self.marks, subjects));
        Ok(())
    }

    /// Subscribes to the subjects that are wanted now, and unsubscribes from the others.
    async fn change(&mut self) -> Result<(), EngineError> {
        self.looked = Instant::now();
        let change = self.shared.interest.changes(self.looked);
        if !change.subscribe.is_empty() {
            self.ask(change.subscribe).await?;
        }
        for subject in &change.unsubscribe {
            self.subscriptions.get().events.remove(subject);
        }
        Ok(())
    }

    /// Waits for messages or for changed interest. Returns the number of messages.
    async fn wait(&mut self, until: tokio::time::Instant) -> Result<usize, EngineError> {
        let Self { subscriptions, changed, shared, .. } = self;
        let subscriptions = subscriptions.get();
        let came = poll_fn(|cx| {
            changed.waker.register(cx.waker());
            match subscriptions.pass(cx, &shared.clock, &shared.on_notice) {
                // Relaxed: the flag is read again when it is taken.
                Ok(0) if !changed.flag.load(Ordering::Relaxed) => Poll::Pending,
                done => Poll::Ready(done),
            }
        });
        timeout_at(until, came).await.unwrap_or(Ok(0))
    }

    /// Passes the received events to `take` in order. Returns whether more passes would bring more.
    fn end_pass(&mut self, count: usize, take: &mut dyn FnMut(LogEntry<'_>)) -> bool {
        let Self { subscriptions, next, epoch, .. } = self;
        let subscriptions = subscriptions.get();
        subscriptions.arrivals.pass(count == 0, |(shard, json)| {
            if let Some(place) = next.get_mut(usize::from(shard)) {
                let id = EventId { epoch: *epoch, shard, sequence: *place };
                *place += 1;
                take(LogEntry { id, json: &json });
            }
        });
        // Messages before a mark of the previous pass were found and are on the bus by now, so that mark counts as
        // reached.
        let reached = std::mem::replace(&mut subscriptions.mark, subscriptions.seen_mark);
        let goes_on = reached < subscriptions.seen_mark || !subscriptions.arrivals.is_empty();
        while self.asked.front().is_some_and(|(mark, _)| *mark <= reached) {
            if let Some((_, subjects)) = self.asked.pop_front() {
                self.shared.interest.confirm(&subjects, &self.next);
                // Relaxed: this thread takes it.
                self.changed.flag.store(true, Ordering::Relaxed);
            }
        }
        goes_on
    }

    async fn step(
        &mut self,
        until: tokio::time::Instant,
        take: &mut dyn FnMut(LogEntry<'_>),
    ) -> Result<(), EngineError> {
        // Acquire: pairs with the Release of the change that set it.
        if self.changed.flag.swap(false, Ordering::Acquire) || self.looked.elapsed() >= LOOK {
            self.change().await?;
        }
        let is_idle = {
            let subscriptions = self.subscriptions.get();
            subscriptions.arrivals.is_empty() && subscriptions.mark == subscriptions.seen_mark
        };
        if is_idle {
            let count = self.wait(until).await?;
            if count == 0 {
                return Ok(());
            }
            if self.is_cut() {
                return Err(EngineError::OtherEpoch);
            }
            self.end_pass(count, take);
        }
        for _ in 0..PASSES_MAX {
            let Self { subscriptions, shared, .. } = &mut *self;
            let subscriptions = subscriptions.get();
            let count =
                poll_fn(|cx| Poll::Ready(subscriptions.pass(cx, &shared.clock, &shared.on_notice))).await?;
            if self.is_cut() {
                return Err(EngineError::OtherEpoch);
            }
            if !self.end_pass(count, take) {
                break;
            }
        }
        Ok(())
    }
}

impl Drop for PlainFollower {
    fn drop(&mut self) {
        let delivered = self.subscriptions.get().arrivals.newest_gone();
        *lock(&self.shared.delivered) = delivered;
    }
}

impl Follow for PlainFollower {
    fn follow(
        &mut self,
        _: &Places,
        wait: Duration,
        take: &mut dyn FnMut(LogEntry<'_>),
    ) -> Result<(), EngineError> {
        let driver = Arc::clone(&self.shared.driver);
        // Runs without the runtime's task budget: a subscription that reports nothing must be empty.
        driver.block_on(unconstrained(async {
            let begin = tokio::time::Instant::now();
            let mut until = begin + wait;
            loop {
                // Messages may have been missed, or the log is in streams from now on.
                if self.is_cut() || self.shared.is_kept() {
                    return Err(EngineError::OtherEpoch);
                }
                self.step(until, take).await?;
                if self.asked.is_empty() {
                    return Ok(());
                }
                // A subscription is confirmed within a round trip, or the server is gone.
                until = begin + TIMEOUT;
                if tokio::time::Instant::now() >= until {
                    return Err(unreachable("the server does not answer"));
                }
            }
        }))
    }
}

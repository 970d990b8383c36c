//! NATS without JetStream: subjects that keep nothing, of which a node may ask for those that its clients want.
//!
//! Imports its parent and siblings of that. An event goes under `NAME.events.SHARD.` and its own subject
//! ([`subject`]), with its node's number and a stamp in a header. Always: of each node, events come in the order in which
//! it sent them, over however many subscriptions ([`Arrivals`]); a subject counts as followed when a message to
//! ourselves, sent behind the wish for it, has come back, and all that came before it is on the bus; an event that is sent
//! again after a lost answer has its first stamp, and a node that has delivered it passes it over.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use futures_util::{Stream as _, StreamExt};
use tokio::task::unconstrained;
use tokio::time::{timeout, timeout_at};

use super::super::arrival::Arrivals;
use super::super::{EngineError, Entry, Follow, Interest, OnNotice, Places, Record, subject};
use super::Shared;
use super::link::{Driver, Faults, InRuntime, TIMEOUT, unreachable};
use crate::dialect::envelope;
use crate::event::{EventId, Sequence, Timestamp};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Callback, lock};

/// `NODE-STAMP`, both in hexadecimal.
const ORDER: &str = "Fanwire-Order";

/// How often wants that nobody has any more are looked for.
const LOOK: Duration = Duration::from_millis(500);

/// Passes over all subscriptions in one go, before what is known to be in order goes on.
const PASSES_MAX: usize = 8;

/// Messages held back at most. With more the node is too slow for what it asked for.
const HELD_MAX: usize = 200_000;

/// A clock that is ahead of every stamp that was seen, so that an answer has a later stamp than what it answers.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    pub(super) fn stamp(&self) -> u64 {
        let now = Timestamp::now().0.unsigned_abs();
        let later = |last: u64| now.max(last.saturating_add(1));
        // Relaxed, here and below: a number on its own; only one thread makes stamps.
        let last = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(later(last)));
        later(last.unwrap_or_else(|last| last))
    }

    fn saw(&self, stamp: u64) {
        self.0.fetch_max(stamp, Ordering::Relaxed);
    }
}

/// Sends an event with this stamp.
pub(super) async fn publish(
    client: &Client,
    name: &str,
    node: u64,
    stamp: u64,
    record: &Record,
) -> Result<(), EngineError> {
    // Read as every node will read it, so that all agree on what it is about.
    let subject = match envelope::read_stored(&record.json) {
        Ok(event) => subject::of_event(&event),
        Err(error) => return Err(unreachable(error)),
    };
    let mut headers = HeaderMap::new();
    headers.insert(ORDER, format!("{node:x}-{stamp:x}"));
    let subject = format!("{name}.events.{}.{subject}", record.shard);
    let json = Bytes::copy_from_slice(record.json.as_bytes());
    client.publish_with_headers(subject, headers, json).await.map_err(unreachable)
}

/// Records that a server without streams is known to have, and the stamps of those that it may have.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Number of the last record that the server is known to have.
    passed: u64,
    /// Stamps by the numbers of the records behind it. A record that is sent again has its first stamp, by which readers
    /// know it again.
    stamps: BTreeMap<u64, u64>,
}

impl Sent {
    /// Returns the number of the last record that the server is known to have.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// Returns the stamp of a record, which is a new one where it was not sent before.
    pub(super) fn stamp(&mut self, number: u64, clock: &Clock) -> u64 {
        *self.stamps.entry(number).or_insert_with(|| clock.stamp())
    }

    /// Notes that the server has all records up to this one.
    pub(super) fn pass(&mut self, number: u64) {
        self.passed = self.passed.max(number);
        self.stamps = self.stamps.split_off(&(self.passed + 1));
    }
}

/// Messages to ourselves, each of which says that the server has what was sent before it: it reads a connection in order,
/// and hands on what it has read before it reads on.
pub(super) struct Marks {
    inbox: String,
    came: Subscriber,
    sent: u64,
    /// Connections that the client had made when this began.
    connects: u64,
}

impl Marks {
    pub(super) async fn new(client: &Client) -> Result<Self, EngineError> {
        let connects = connects(client);
        let inbox = client.new_inbox();
        let came = client.subscribe(inbox.clone()).await.map_err(unreachable)?;
        Ok(Self { inbox, came, sent: 0, connects })
    }

    /// Waits until the server has all that was sent so far. Fails where the client has made another connection meanwhile:
    /// what it wrote to the one before may be lost, although a mark comes back.
    pub(super) async fn pass(&mut self, client: &Client) -> Result<(), EngineError> {
        self.sent += 1;
        let mark = self.sent.to_string();
        client.publish(self.inbox.clone(), Bytes::from(mark.clone())).await.map_err(unreachable)?;
        let comes = async {
            while let Some(message) = self.came.next().await {
                if message.payload == mark.as_bytes() {
                    if connects(client) == self.connects {
                        return Ok(());
                    }
                    return Err(unreachable("the connection was lost"));
                }
            }
            Err(unreachable("the connection ended"))
        };
        timeout(TIMEOUT, comes).await.unwrap_or_else(|_| Err(unreachable("no answer in time")))
    }
}

/// The stamp in a message.
fn order_of(message: &Message) -> Option<(u64, u64)> {
    let (node, stamp) = message.headers.as_ref()?.get(ORDER)?.as_str().split_once('-')?;
    Some((u64::from_str_radix(node, 16).ok()?, u64::from_str_radix(stamp, 16).ok()?))
}

/// Woken when wants change.
#[derive(Default)]
struct Changed {
    flag: AtomicBool,
    waker: AtomicWaker,
}

/// All subscriptions, and what came over them and waits for its order.
struct Subscriptions {
    /// Before the shard in the subject of an event.
    prefix: String,
    events: BTreeMap<Arc<str>, Subscriber>,
    notices: Subscriber,
    /// Our messages to ourselves.
    marks: Subscriber,
    arrivals: Arrivals<(u16, Bytes)>,
    /// Messages that no node sent.
    strange: u64,
    /// The newest mark that came in the pass that is on, and in the one before.
    seen_mark: u64,
    mark: u64,
}

impl Subscriptions {
    /// Empties every subscription once; how much there was. `Err` where one has ended.
    fn pass(
        &mut self,
        cx: &mut std::task::Context<'_>,
        clock: &Clock,
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

/// Connections that the client has made.
fn connects(client: &Client) -> u64 {
    // Relaxed: the count is written before anything of a connection is handed on, through a channel.
    client.statistics().connects.load(Ordering::Relaxed)
}

/// Follows what the node's clients want, and numbers what comes.
pub(super) struct Follower {
    shared: Arc<Shared>,
    driver: Arc<Driver>,
    client: Client,
    epoch: u64,
    next: Vec<Sequence>,
    faults: Arc<Faults>,
    /// Connections that the client had made when this one began.
    connects: u64,
    clock: Arc<Clock>,
    on_notice: OnNotice,
    interest: Arc<Interest>,
    changed: Arc<Changed>,
    looked: Instant,
    inbox: String,
    /// What was asked for, with the mark behind it.
    asked: VecDeque<(u64, Vec<Arc<str>>)>,
    marks: u64,
    subscriptions: InRuntime<Subscriptions>,
}

impl Follower {
    /// Within the runtime.
    pub(super) async fn new(
        log: &Arc<Shared>,
        client: Client,
        faults: Arc<Faults>,
    ) -> Result<(Self, Places), EngineError> {
        let connects = connects(&client);
        let inbox = client.new_inbox();
        let subscriptions = Subscriptions {
            prefix: format!("{}.events.", log.name),
            events: BTreeMap::new(),
            notices: client.subscribe(log.notices()).await.map_err(unreachable)?,
            marks: client.subscribe(inbox.clone()).await.map_err(unreachable)?,
            arrivals: Arrivals::after(&lock(&log.delivered)),
            strange: 0,
            seen_mark: 0,
            mark: 0,
        };
        let places =
            Places { epoch: Timestamp::now().0 as u64, next: vec![0; log.shards], kept: Some(false) };
        let changed = Arc::new(Changed::default());
        let wake: Callback = {
            let changed = Arc::clone(&changed);
            Arc::new(move || {
                // Release: pairs with the Acquire where it is taken, so that the follower sees the want.
                changed.flag.store(true, Ordering::Release);
                changed.waker.wake();
            })
        };
        log.interest.begin(Some(places.epoch), Some(wake));
        let mut follower = Self {
            shared: Arc::clone(log),
            driver: Arc::clone(&log.driver),
            client,
            epoch: places.epoch,
            next: places.next.clone(),
            connects,
            faults,
            clock: Arc::clone(&log.clock),
            on_notice: Arc::clone(&log.on_notice),
            interest: Arc::clone(&log.interest),
            changed,
            looked: Instant::now(),
            inbox,
            asked: VecDeque::new(),
            marks: 0,
            subscriptions: InRuntime::new(&log.driver, subscriptions),
        };
        // Also where nothing is wanted: the mark says that the server is there.
        follower.ask(Vec::new()).await?;
        follower.change().await?;
        Ok((follower, places))
    }

    /// Whether something may have passed by: the client makes a lost connection anew by itself, and hands on what comes over
    /// that before it tells of the loss.
    fn is_cut(&self) -> bool {
        self.faults.is_faulty() || connects(&self.client) != self.connects
    }

    /// Sends a mark behind these wishes.
    async fn ask(&mut self, subjects: Vec<Arc<str>>) -> Result<(), EngineError> {
        for one in &subjects {
            let subject = format!("{}*.{one}", self.subscriptions.get().prefix);
            let subscription = self.client.subscribe(subject).await.map_err(unreachable)?;
            self.subscriptions.get().events.insert(Arc::clone(one), subscription);
        }
        self.marks += 1;
        let mark = Bytes::from(self.marks.to_string());
        self.client.publish(self.inbox.clone(), mark).await.map_err(unreachable)?;
        self.asked.push_back((self.marks, subjects));
        Ok(())
    }

    /// Asks for what is wanted now, and leaves what is not.
    async fn change(&mut self) -> Result<(), EngineError> {
        self.looked = Instant::now();
        let change = self.interest.change(self.looked);
        if !change.ask.is_empty() {
            self.ask(change.ask).await?;
        }
        for one in &change.leave {
            self.subscriptions.get().events.remove(one);
        }
        Ok(())
    }

    /// Waits for something to come, or for wants to change; how much came.
    async fn wait(&mut self, until: tokio::time::Instant) -> Result<usize, EngineError> {
        let Self { subscriptions, changed, clock, on_notice, .. } = self;
        let subscriptions = subscriptions.get();
        let came = poll_fn(|cx| {
            changed.waker.register(cx.waker());
            match subscriptions.pass(cx, clock, on_notice) {
                // Relaxed: who takes the flag reads it once more.
                Ok(0) if !changed.flag.load(Ordering::Relaxed) => Poll::Pending,
                done => Poll::Ready(done),
            }
        });
        timeout_at(until, came).await.unwrap_or(Ok(0))
    }

    /// Hands over what came, in order; whether more passes would bring more.
    fn end_pass(&mut self, count: usize, take: &mut dyn FnMut(Entry<'_>)) -> bool {
        let Self { subscriptions, next, epoch, .. } = self;
        let subscriptions = subscriptions.get();
        subscriptions.arrivals.pass(count == 0, |(shard, json)| {
            if let Some(place) = next.get_mut(usize::from(shard)) {
                let id = EventId { epoch: *epoch, shard, sequence: *place };
                *place += 1;
                take(Entry { id, json: &json });
            }
        });
        // What came before a mark was found by now, and is on the bus: a mark of the pass before counts.
        let reached = std::mem::replace(&mut subscriptions.mark, subscriptions.seen_mark);
        let goes_on = reached < subscriptions.seen_mark || !subscriptions.arrivals.is_empty();
        while self.asked.front().is_some_and(|(mark, _)| *mark <= reached) {
            if let Some((_, subjects)) = self.asked.pop_front() {
                self.interest.followed(&subjects, &self.next);
                // Relaxed: this thread takes it.
                self.changed.flag.store(true, Ordering::Relaxed);
            }
        }
        goes_on
    }

    async fn step(
        &mut self,
        until: tokio::time::Instant,
        take: &mut dyn FnMut(Entry<'_>),
    ) -> Result<(), EngineError> {
        // Acquire: pairs with the Release of the want that set it.
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
            let Self { subscriptions, clock, on_notice, .. } = &mut *self;
            let subscriptions = subscriptions.get();
            let count = poll_fn(|cx| Poll::Ready(subscriptions.pass(cx, clock, on_notice))).await?;
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

impl Drop for Follower {
    fn drop(&mut self) {
        let delivered = self.subscriptions.get().arrivals.newest_gone();
        *lock(&self.shared.delivered) = delivered;
    }
}

impl Follow for Follower {
    fn follow(
        &mut self,
        _: &Places,
        wait: Duration,
        take: &mut dyn FnMut(Entry<'_>),
    ) -> Result<(), EngineError> {
        let driver = Arc::clone(&self.driver);
        // Without the runtime's budget: a subscription that says it has nothing must have nothing.
        driver.block_on(unconstrained(async {
            let begin = tokio::time::Instant::now();
            let mut until = begin + wait;
            loop {
                // What passed meanwhile is lost; or the log is kept from now on.
                if self.is_cut() || self.shared.is_kept() {
                    return Err(EngineError::OtherEpoch);
                }
                self.step(until, take).await?;
                if self.asked.is_empty() {
                    return Ok(());
                }
                // What was asked for comes within a round trip, or the server is gone.
                until = begin + TIMEOUT;
                if tokio::time::Instant::now() >= until {
                    return Err(unreachable("the server does not answer"));
                }
            }
        }))
    }
}

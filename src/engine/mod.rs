//! Where order and history live, when not in the rings alone: a log in Redis or NATS that many nodes share, or in
//! files of this node's own.
//!
//! Imports `event`, `bus`, `dialect` (an event as JSON) and `sync`. Always:
//! - what is published goes to the log first; every node, the publishing one too, publishes on its bus what it
//!   reads from the log, in the log's order and under the log's ids;
//! - a publisher is told that its events were taken only when the log has them, and is refused, never kept
//!   waiting for ever, when the log can't be reached;
//! - nothing here runs on an event loop: two threads, one that appends and one that follows, own the
//!   connections.
//!
//! [`queue`] is what waits to be appended, [`append`] and [`follow`] are the two threads' work over a [`Log`],
//! and `redis`, `nats` and `file` are the logs. Of plain NATS a node may ask for less than everything: [`interest`], by
//! [`subject`]. [`ingest`] takes other systems' messages in. The rings of the bus hold the newest part of the log: a client resumes
//! from them, on whichever node it comes back.

mod append;
#[cfg(feature = "nats")]
mod arrival;
mod backoff;
mod file;
mod follow;
mod gate;
mod ingest;
#[cfg_attr(not(feature = "nats"), allow(dead_code, reason = "what no log asks for"))]
mod interest;
#[cfg(feature = "nats")]
mod nats;
mod queue;
#[cfg(feature = "redis")]
mod redis;
#[cfg_attr(not(feature = "nats"), allow(dead_code, reason = "as interest"))]
mod subject;

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::bus::Bus;
use crate::dialect::envelope;
use crate::event::{Event, EventId, Sequence};
use crate::metrics::Metrics;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Callback, Mutex, lock};
use crate::threads::{self, Alarm};
use gate::Gate;
use queue::{Queue, Submission};

pub use ingest::Ingest;
pub(crate) use interest::{Interest, Wanted};
pub(crate) use queue::{Done, Refused};

/// What an engine is told.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineConfig {
    /// Where the log is: `redis://host:port/db` (feature `redis`), `nats://host:port` (feature `nats`), or
    /// `file:///folder` for this node's own files. Of several servers, with commas between them, the first that
    /// answers counts, and the next one when it fails. Credentials in it are never shown. Empty: none, the bus is
    /// all there is.
    pub url: String,
    /// What the log's keys or streams begin with; nodes with the same name share one log. `fanwire`.
    pub name: String,
    /// Events kept in the log of each shard, about, in Redis or NATS. 100,000.
    pub history: u64,
    /// Events that may wait to be appended while the log does not answer; beyond, publishers are refused
    /// (HTTP 503, with `Retry-After`). 10,000.
    pub max_waiting_events: usize,
    /// How long a publisher may wait for the log before it is refused. 10 s.
    pub accept_timeout: Duration,
    /// Of NATS: on how many of its servers each event is kept. Read when the streams are made. 1.
    pub replicas: usize,
    /// Of NATS without JetStream: whether the node asks it only for what its clients want. What is published on other
    /// nodes and nobody wants here does not come here, and is in no history. False.
    pub by_interest: bool,
    /// How long the node goes on asking for what the last client wanted that has gone: who comes back within this
    /// time has missed nothing. 60 s.
    pub interest_linger: Duration,
    /// Of files: how often what was written is made safe from a crash of the machine; zero: before a publisher
    /// is told. A crash of the process alone loses nothing. 1 s.
    pub sync_interval: Duration,
    /// Of files: how many bytes they may have together, about. 1 GiB.
    pub max_bytes: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            name: "fanwire".to_owned(),
            history: 100_000,
            max_waiting_events: 10_000,
            accept_timeout: Duration::from_secs(10),
            replicas: 1,
            by_interest: false,
            interest_linger: Duration::from_secs(60),
            sync_interval: Duration::from_secs(1),
            max_bytes: 1 << 30,
        }
    }
}

impl EngineConfig {
    /// An engine at this address, everything else as by default.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }
}

/// The logs that this build knows, by the beginning of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    #[cfg(feature = "redis")]
    Redis,
    #[cfg(feature = "nats")]
    Nats,
    File,
}

impl Scheme {
    /// Of the servers that this build has a client for.
    fn named(scheme: &str) -> Option<Self> {
        match scheme {
            #[cfg(feature = "redis")]
            "redis" | "rediss" | "unix" => Some(Self::Redis),
            #[cfg(feature = "nats")]
            "nats" | "tls" => Some(Self::Nats),
            _ => None,
        }
    }

    /// Of one address or of several: all have the same.
    fn of(url: &str) -> Result<Self, EngineError> {
        if url.starts_with("file://") {
            return Ok(Self::File);
        }
        let mut first = None;
        for one in url.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            let name = one.split_once("://").map_or(one, |(scheme, _)| scheme);
            let Some(scheme) = Self::named(name) else {
                return Err(EngineError::Unsupported { scheme: name.to_owned() });
            };
            if *first.get_or_insert(scheme) != scheme {
                return Err(EngineError::Url("the servers of one log are of one kind".to_owned()));
            }
        }
        first.ok_or_else(|| EngineError::Unsupported { scheme: url.to_owned() })
    }
}

/// Whether this build has an engine for an address; an empty one needs none.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    if url.is_empty() { Ok(()) } else { Scheme::of(url).map(drop).map_err(|error| error.to_string()) }
}

/// The addresses of several servers of one log, as an engine's address names them.
#[cfg(any(feature = "redis", feature = "nats"))]
fn addresses(url: &str) -> impl Iterator<Item = &str> {
    url.split(',').map(str::trim).filter(|one| !one.is_empty())
}

/// An address without what is secret in it.
fn shown(url: &str) -> String {
    if url.starts_with("file://") {
        return url.to_owned();
    }
    url.split(',').map(shown_one).collect::<Vec<_>>().join(",")
}

fn shown_one(url: &str) -> String {
    match url.trim().split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{}", host.split(['?', '#']).next().unwrap_or_default())
        }
        None => "(not an address)".to_owned(),
    }
}

impl fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineConfig")
            .field("url", &shown(&self.url))
            .field("name", &self.name)
            .field("history", &self.history)
            .finish_non_exhaustive()
    }
}

/// Why there is no such engine, or why a log did not do what was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum EngineError {
    /// The address names no engine that this build has.
    Unsupported {
        /// The part before `://`.
        scheme: String,
    },
    /// The address can't be read.
    Url(String),
    /// The log was made for another number of shards; all nodes of one name have the same.
    Shards {
        /// What the log has.
        log: usize,
        /// What this node has.
        node: usize,
    },
    /// The log can't be reached, or answered with an error; it is tried again.
    Unreachable(String),
    /// The log began another life; the follower attaches anew.
    OtherEpoch,
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported { scheme } => {
                let others = match (cfg!(feature = "redis"), cfg!(feature = "nats")) {
                    (true, true) => "redis://, nats://",
                    (true, false) => "redis://",
                    (false, true) => "nats://",
                    (false, false) => "",
                };
                let or = if others.is_empty() { "" } else { " or " };
                write!(f, "no engine for `{scheme}://` in this build: use {others}{or}file://, or none")
            }
            Self::Url(error) => write!(f, "the engine's address can't be read: {error}"),
            Self::Shards { log, node } => {
                write!(
                    f,
                    "the log has {log} shards and this node has {node}: all nodes of one name need the same"
                )
            }
            Self::Unreachable(error) => write!(f, "the log can't be reached: {error}"),
            Self::OtherEpoch => f.write_str("the log began another life"),
        }
    }
}

impl std::error::Error for EngineError {}

/// One event on its way into the log.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) shard: u16,
    /// The event as JSON, without an id.
    pub(crate) json: String,
}

/// Events that are appended together, and a number by which the log knows them again.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) number: u64,
    pub(crate) records: &'a [Record],
}

/// One event of the log.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) id: EventId,
    pub(crate) json: &'a [u8],
}

/// Where a follower stands: which life of the log, and in each shard the next sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places {
    pub(crate) epoch: u64,
    pub(crate) next: Vec<Sequence>,
}

/// A connection that appends.
pub(crate) trait Append: Send {
    /// Appends all or nothing, and answers the epoch and the sequences, in order. A batch of the same number
    /// that is tried again, because the answer to it was lost, is not appended twice.
    fn append(&mut self, batch: &Batch<'_>) -> Result<(u64, Vec<Sequence>), EngineError>;
}

/// A connection that follows.
pub(crate) trait Follow: Send {
    /// Waits for entries at `places` and behind for about this long, and hands them over in order for each
    /// shard. Entries that the log no longer has are left out.
    fn follow(
        &mut self,
        places: &Places,
        wait: Duration,
        take: &mut dyn FnMut(Entry<'_>),
    ) -> Result<(), EngineError>;
}

/// Takes what nodes tell one another beside events.
pub(crate) type OnNotice = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Notices that a log keeps: many times what there may be of what they are for.
const NOTICES_MAX: u64 = 1_000_000;

/// Makes the two connections; anew after each loss. Both block while they connect, some seconds at most.
pub(crate) trait Log: Send + Sync {
    /// Keeps a notice and hands it to every node, this one too, on its follower's thread. A node that follows anew
    /// gets those that are kept before it gets an event. Blocks for the log, some seconds at most.
    fn tell(&self, notice: &str) -> Result<(), EngineError>;

    /// A connection to append with.
    fn appender(&self) -> Result<Box<dyn Append>, EngineError>;

    /// A connection to follow with, and where to begin: at the places known if the log is still in that life,
    /// else `past` events before its end in each shard.
    fn follower(&self, known: Option<&Places>, past: u64) -> Result<(Box<dyn Follow>, Places), EngineError>;
}

/// What the threads tell: `/readyz`, `/api/stats` and `/metrics` show it.
#[derive(Debug)]
pub(crate) struct Status {
    metrics: Arc<Metrics>,
    appending: AtomicBool,
    epoch: AtomicU64,
    last_error: Mutex<String>,
    gate: Gate,
}

impl Status {
    /// Whether the log is being followed, so that clients see what other nodes publish.
    pub(crate) fn is_following(&self) -> bool {
        self.metrics.engine_following.get() != 0
    }

    /// The life that the log is in.
    pub(crate) fn epoch(&self) -> u64 {
        // Relaxed, here and below: something to look at, nothing hangs on its order.
        self.epoch.load(Ordering::Relaxed)
    }

    /// What went wrong last; empty where nothing did, or where all is well again.
    pub(crate) fn last_error(&self) -> String {
        lock(&self.last_error).clone()
    }

    fn attached(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    fn follows(&self) {
        if !self.is_following() {
            self.metrics.engine_following.set(1);
            lock(&self.last_error).clear();
        }
    }

    /// The log can't be followed; true where it could be until now.
    fn lost_following(&self, error: &EngineError) -> bool {
        let was = self.metrics.engine_following.set(0) != 0;
        self.lost(was, error);
        was
    }

    fn appends(&self) {
        // A state that is told, no edge; here and where it is lost.
        self.appending.store(true, Ordering::Relaxed);
    }

    /// The log can't be appended to; true where it could be until now.
    fn lost_appending(&self, error: &EngineError) -> bool {
        let was = self.appending.swap(false, Ordering::Relaxed);
        self.lost(was, error);
        was
    }

    fn lost(&self, was: bool, error: &EngineError) {
        self.metrics.engine_losses.inc_by(was.into());
        *lock(&self.last_error) = error.to_string();
    }
}

/// A bus's connection to the log that it shares with other nodes.
pub(crate) struct Engine {
    config: EngineConfig,
    queue: Arc<Queue>,
    status: Arc<Status>,
    log: Arc<dyn Log>,
    bus: Bus,
    /// What it follows, where that is not everything.
    interest: Option<Arc<Interest>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({})", shown(&self.config.url))
    }
}

impl Engine {
    /// Starts to follow the log and to take events for it. Does not wait for the log: until it answers,
    /// [`Status::is_following`] is false and what is published waits.
    pub(crate) fn start(
        config: EngineConfig,
        bus: &Bus,
        metrics: &Arc<Metrics>,
        alarm: &Alarm,
        on_notice: OnNotice,
        on_followed: Callback,
        known: Option<Places>,
    ) -> Result<Self, EngineError> {
        let interest = Arc::new(Interest::new(config.interest_linger, on_followed));
        let log: Arc<dyn Log> = open(&config, bus.shards(), alarm, on_notice, &interest)?;
        let by_interest = config.by_interest;
        let mut engine = Self::start_with(config, bus, metrics, alarm, &log, known);
        engine.interest = by_interest.then_some(interest);
        Ok(engine)
    }

    fn start_with(
        config: EngineConfig,
        bus: &Bus,
        metrics: &Arc<Metrics>,
        alarm: &Alarm,
        log: &Arc<dyn Log>,
        known: Option<Places>,
    ) -> Self {
        let queue = Arc::new(Queue::new(config.max_waiting_events));
        let status = Arc::new(Status {
            metrics: Arc::clone(metrics),
            appending: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            last_error: Mutex::default(),
            gate: Gate::default(),
        });
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            threads::spawn(format!("fanwire-engine-{name}"), alarm, work)
        };
        let stopping = Arc::clone(&queue);
        alarm.on_raised(Arc::new(move || stopping.close()));
        let appender = {
            let (log, queue, status) = (Arc::clone(log), Arc::clone(&queue), Arc::clone(&status));
            spawn("append", Box::new(move || append::run(&*log, &queue, &status)))
        };
        let follower = {
            let (log, queue, status, bus) =
                (Arc::clone(log), Arc::clone(&queue), Arc::clone(&status), bus.clone());
            spawn("follow", Box::new(move || follow::run(&*log, &queue, &status, &bus, known)))
        };
        // A thread that could not be made leaves an engine that is never ready, and says so.
        let threads: Vec<_> = [appender, follower]
            .into_iter()
            .filter_map(|spawned| match spawned {
                Ok(thread) => Some(thread),
                Err(error) => {
                    *lock(&status.last_error) = format!("no thread for the engine: {error}");
                    queue.close();
                    None
                }
            })
            .collect();
        Self {
            config,
            queue,
            status,
            log: Arc::clone(log),
            bus: bus.clone(),
            interest: None,
            threads: Mutex::new(threads),
        }
    }

    /// Hands events to the log. `done` is called once, on another thread or in here: with the id of the last
    /// event when the log has all of them, or with why it has none. Does not block.
    pub(crate) fn submit(&self, events: &[Event], done: Done) {
        let records = events.iter().map(|event| {
            // The log gives the id: one of a bus that had the event before stays out.
            let mut json = String::with_capacity(256 + event.payload().len());
            if event.id().is_none() {
                envelope::write_stored(event, &mut json);
            } else {
                envelope::write_stored(&event.clone().into_publishable(), &mut json);
            }
            Record { shard: self.bus.log_shard_of(event), json }
        });
        let deadline = Instant::now() + self.config.accept_timeout;
        if let Err(refused) = self.queue.push(Submission::new(records.collect(), deadline, done)) {
            self.status.metrics.engine_refused.inc_by(refused as u64);
        }
    }

    /// Where clients' wants go, if not everything is followed.
    pub(crate) fn interest(&self) -> Option<&Arc<Interest>> {
        self.interest.as_ref()
    }

    /// Tells every node something that is no event. Blocks for the log, some seconds at most.
    pub(crate) fn tell(&self, notice: &str) -> Result<(), EngineError> {
        self.log.tell(notice)
    }

    /// Whether its log belongs to one process at a time.
    pub(crate) fn has_one_owner(&self) -> bool {
        self.config.url.starts_with("file:")
    }

    /// Holds the follower up, and says where it stands; what it reads further, it publishes after
    /// [`resume`](Self::resume).
    pub(crate) fn pause(&self) -> Option<Places> {
        self.status.gate.close()
    }

    /// Lets the follower go on.
    pub(crate) fn resume(&self) {
        self.status.gate.open();
    }

    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// What `/api/stats` shows of it.
    pub(crate) fn stats(&self) -> serde_json::Value {
        serde_json::json!({
            "url": shown(&self.config.url),
            "name": self.config.name,
            "following": self.status.is_following(),
            "waiting": self.queue.len(),
            "appended": self.status.metrics.engine_appended.get(),
            "followed": self.status.metrics.engine_followed.get(),
            "last_error": self.status.last_error(),
        })
    }

    /// Takes nothing more, appends what waits if the log answers, and ends the threads. Blocks for some
    /// seconds at most.
    pub(crate) fn close(&self) {
        self.queue.close();
        for thread in lock(&self.threads).drain(..) {
            // A panic in it was caught, and told.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// The log at an address.
fn open(
    config: &EngineConfig,
    shards: usize,
    alarm: &Alarm,
    on_notice: OnNotice,
    #[cfg_attr(not(feature = "nats"), expect(unused_variables, reason = "no other log asks"))] interest: &Arc<
        Interest,
    >,
) -> Result<Arc<dyn Log>, EngineError> {
    // What keys, streams and subjects may all be called.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if config.name.is_empty() || !config.name.chars().all(is_plain) {
        return Err(EngineError::Url(format!(
            "the name {:?} may hold letters, digits, - and _ only",
            config.name
        )));
    }
    match Scheme::of(&config.url)? {
        #[cfg(feature = "redis")]
        Scheme::Redis => Ok(Arc::new(redis::RedisLog::new(config, shards, on_notice)?)),
        #[cfg(feature = "nats")]
        Scheme::Nats => Ok(Arc::new(nats::NatsLog::new(config, shards, on_notice, interest)?)),
        Scheme::File => Ok(Arc::new(file::FileLog::new(config, shards, alarm, on_notice)?)),
    }
}

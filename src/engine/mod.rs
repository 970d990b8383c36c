//! Where order and history live, when not in the rings alone: a log in Redis or NATS that many nodes share, or in
//! files of this node's own.
//!
//! Imports `event`, `bus`, `dialect` (an event as JSON) and `sync`. Always:
//! - what is published goes to the log first; every node, the publishing one too, publishes on its bus what it
//!   reads from the log, in the log's order and under the log's ids;
//! - a publisher is told that its events were taken only when the log has them, and is refused, never kept
//!   waiting for ever, when the log can't be reached;
//! - nothing here runs on an event loop: two threads, one that appends and one that follows, own the
//!   connections; a third answers who has waited long enough, whatever those two hang in.
//!
//! `log` is what a log has to do, `queue` what waits to be appended, `append` and `follow` are the two threads'
//! work over a `Log`, `status` is what they tell of it, and `redis`, `nats` and `file` are the logs. Of plain NATS a node may ask for less than everything: `interest`, by
//! `subject`. `ingest` takes other systems' messages in. The rings of the bus hold the newest part of the log: a client resumes
//! from them, on whichever node it comes back.

mod append;
#[cfg(feature = "nats")]
mod arrival;
mod backoff;
mod error;
mod file;
mod follow;
mod gate;
mod history;
mod ingest;
#[cfg_attr(not(feature = "nats"), allow(dead_code, reason = "what no log asks for"))]
mod interest;
mod log;
#[cfg(feature = "nats")]
mod nats;
mod queue;
#[cfg(feature = "redis")]
mod redis;
mod status;
#[cfg_attr(not(feature = "nats"), allow(dead_code, reason = "as interest"))]
mod subject;

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bus::Bus;
use crate::dialect::envelope;
use crate::event::{Event, Sequence};
use crate::metrics::Metrics;
use crate::sync::{Callback, Mutex, lock};
use crate::threads::{self, Alarm};
#[cfg_attr(
    not(any(feature = "redis", feature = "nats")),
    allow(unused_imports, reason = "files keep all")
)]
use log::NOTICES_MAX;
use log::{Append, Batch, Entry, Follow, Log, OnNotice, Record};
use queue::Queue;

pub use error::EngineError;
pub(crate) use history::{Handed, History, LogPage, PAGE_EVENTS, Place, Ticket, log_place_of};
pub use ingest::Ingest;
pub(crate) use interest::{Interest, Wanted};
pub(crate) use log::Places;
pub(crate) use queue::{Done, Refused};
pub(crate) use status::{NotReady, Status};

/// The highest sequence and epoch that a log of ours has. What claims more was not written by a node: nothing could come after it.
/// Scripts of Redis count in doubles, which are exact up to here.
const SEQUENCE_MAX: Sequence = (1 << 53) - 2;
const EPOCH_MAX: u64 = (1 << 53) - 2;

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
    /// Bytes of the events that may wait to be appended; beyond, publishers are refused likewise. One submission is taken
    /// whatever it has. 64 MiB.
    pub max_waiting_bytes: usize,
    /// How long a publisher may wait for the log before it is refused. 10 s.
    pub accept_timeout: Duration,
    /// Of `rediss://` and `tls://`: a file with the certificates of the authorities to trust, PEM. Empty: those that the
    /// system trusts.
    pub tls_ca_file: String,
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
            max_waiting_bytes: 64 << 20,
            accept_timeout: Duration::from_secs(10),
            tls_ca_file: String::new(),
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

/// What is longer is no scheme.
const SCHEME_MAX: usize = 16;

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
            let Some((name, _)) = split(one) else {
                return Err(EngineError::Unsupported { scheme: String::new() });
            };
            let Some(scheme) = Self::named(name) else {
                return Err(EngineError::Unsupported { scheme: name.to_owned() });
            };
            if *first.get_or_insert(scheme) != scheme {
                return Err(EngineError::Url("the servers of one log are of one kind".to_owned()));
            }
        }
        first.ok_or_else(|| EngineError::Url("an address is SCHEME://HOST:PORT".to_owned()))
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

/// The scheme of an address and what is behind it. What is no scheme is nowhere repeated: with a slip in it, an address shows
/// what is secret.
fn split(url: &str) -> Option<(&str, &str)> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let (scheme, rest) = url.trim().split_once("://")?;
    (scheme.len() <= SCHEME_MAX && scheme.chars().all(is_plain)).then_some((scheme, rest))
}

fn shown_one(url: &str) -> String {
    match split(url) {
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
    /// Reads the log for clients that want more than the rings hold.
    history: History,
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
        if let Some(known) = &known {
            log.expect(known);
        }
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
        let queue =
            Arc::new(Queue::new(config.max_waiting_events, config.max_waiting_bytes, config.accept_timeout));
        let status = Arc::new(Status::new(metrics));
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            threads::spawn(format!("fanwire-engine-{name}"), alarm, work)
        };
        let (history, reads_history) = History::start(Arc::clone(log), config.accept_timeout, alarm);
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
        let watch = {
            let (queue, status) = (Arc::clone(&queue), Arc::clone(&status));
            spawn("watch", Box::new(move || append::watch(&queue, &status)))
        };
        // A thread that could not be made leaves an engine that is never ready, and says so.
        let threads: Vec<_> = [appender, follower, watch]
            .into_iter()
            .filter_map(|spawned| match spawned {
                Ok(thread) => Some(thread),
                Err(error) => {
                    status.failed(&EngineError::Unreachable(format!("no thread for the engine: {error}")));
                    queue.close();
                    None
                }
            })
            .chain(reads_history)
            .collect();
        Self {
            config,
            queue,
            status,
            log: Arc::clone(log),
            bus: bus.clone(),
            interest: None,
            threads: Mutex::new(threads),
            history,
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
        if let Err(refused) = self.queue.push(records.collect(), done) {
            self.status.metrics.engine_refused.inc_by(refused as u64);
        }
    }

    /// Where clients' wants go, if not everything is followed.
    pub(crate) fn interest(&self) -> Option<&Arc<Interest>> {
        self.interest.as_ref()
    }

    /// Returns what reads the log's past; none where the log is not kept as a whole.
    pub(crate) fn history(&self) -> Option<&History> {
        self.interest.is_none().then_some(&self.history)
    }

    /// Returns how many events of each shard the log is to keep.
    pub(crate) fn kept_events(&self) -> u64 {
        self.config.history
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

    /// Bytes of the events that wait to be appended.
    pub(crate) fn held_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// What `/api/stats` shows of it.
    pub(crate) fn stats(&self) -> serde_json::Value {
        serde_json::json!({
            "url": shown(&self.config.url),
            "name": self.config.name,
            "following": self.status.is_following(),
            "appending": self.status.is_appending(),
            "waiting": self.queue.len(),
            "appended": self.status.metrics.engine_appended.get(),
            "followed": self.status.metrics.engine_followed.get(),
            "last_error": self.status.last_error(),
        })
    }

    /// Takes nothing more, appends what waits if the log answers, and ends the threads. Blocks for some seconds at most: a
    /// thread that hangs in the log is left to itself, and those who wait for it are answered.
    pub(crate) fn close(&self) {
        self.queue.close();
        self.history.close();
        let mut threads: Vec<_> = lock(&self.threads).drain(..).collect();
        let end = Instant::now() + CLOSE_MAX;
        while !threads.is_empty() && Instant::now() < end {
            for thread in threads.extract_if(.., |thread| thread.is_finished()) {
                // A panic in it was caught, and told.
                let _ = thread.join();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.queue.abandon();
        if !threads.is_empty() {
            tracing::warn!("the engine's log does not answer: what it may still do is not waited for");
        }
    }
}

/// How long the end of an engine waits for its threads.
const CLOSE_MAX: Duration = Duration::from_secs(5);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_in_an_address_is_told_without_what_is_secret() {
        let slips = [
            "nats//u:s3cret@h",
            "u:s3cret@h:4222",
            "nats:/u:s3cret@h",
            "s3cret",
            "u:s3cret@nats://h",
            ",",
            " ",
        ];
        for slip in slips {
            let error = check_url(slip).expect_err(slip);
            assert!(!error.contains("s3cret"), "{error}");
            assert!(!shown(slip).contains("s3cret"), "{}", shown(slip));
        }
        let error = check_url("ftp://u:s3cret@h").expect_err("there is no such engine");
        assert!(error.contains("`ftp://`") && !error.contains("s3cret"), "{error}");
    }
}

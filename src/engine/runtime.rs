//! A node's engine: its threads, and the interface that the server uses.

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::address::{Scheme, shown};
use super::config::EngineConfig;
use super::error::EngineError;
use super::follow::FollowTarget;
use super::history::History;
use super::interest::InterestRegistry;
use super::log::{Log, OnNotice, Places, Record, put_stamp};
#[cfg(feature = "nats")]
use super::nats;
use super::queue::{AppendQueue, Done, Refused};
use super::recorder::SharedRecorder;
#[cfg(feature = "redis")]
use super::redis;
use super::status::Status;
#[cfg(test)]
use super::stepped::{EngineSteps, SimulatedConnector};
use super::{append, file, follow};
use crate::bus::Bus;
use crate::dialect::envelope;
use crate::event::{Event, EventId};
use crate::metrics::Metrics;
use crate::sync::{Callback, Mutex, lock};
use crate::threads::{self, Alarm};

/// Callbacks of an engine to its server, on the engine's threads.
pub(crate) struct EngineHooks {
    pub(crate) notice: OnNotice,
    /// Called when the node follows further subjects that its clients want.
    pub(crate) followed: Callback,
    /// Receives what is read of the log, before it is published.
    pub(crate) recorder: SharedRecorder,
}

/// Engine of a bus: its connection to the log.
pub(crate) struct Engine {
    config: EngineConfig,
    queue: Arc<AppendQueue>,
    status: Arc<Status>,
    log: Arc<dyn Log>,
    bus: Bus,
    /// Interest of the node's clients, if it does not follow everything.
    interest: Option<Arc<InterestRegistry>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Reader of the log for clients that resume further back than the rings reach.
    history: History,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({})", shown(&self.config.url))
    }
}

impl Engine {
    /// Starts the threads that follow the log and append to it. Does not wait for the log: until it answers,
    /// [`Status::is_following`] is false and published events wait.
    pub(crate) fn start(
        config: EngineConfig,
        bus: &Bus,
        metrics: &Arc<Metrics>,
        alarm: &Alarm,
        hooks: EngineHooks,
        known: Option<Places>,
    ) -> Result<Self, EngineError> {
        let EngineHooks { notice: on_notice, followed: on_followed, recorder } = hooks;
        let interest = Arc::new(InterestRegistry::new(config.interest_linger, on_followed));
        let log: Arc<dyn Log> = open(&config, bus.shards(), alarm, on_notice, &interest)?;
        if let Some(known) = &known {
            log.expect(known);
        }
        let by_interest = config.by_interest;
        let mut engine = Self::start_with(config, bus, metrics, alarm, &log, recorder, known);
        engine.interest = by_interest.then_some(interest);
        Ok(engine)
    }

    /// Returns an engine without threads, and the steps that a simulation takes in their place.
    #[cfg(test)]
    pub(crate) fn stepped(
        config: EngineConfig,
        bus: &Bus,
        metrics: &Arc<Metrics>,
        log: &SimulatedConnector,
        recorder: SharedRecorder,
    ) -> (Self, EngineSteps) {
        let queue =
            AppendQueue::new(config.max_waiting_events, config.max_waiting_bytes, config.accept_timeout);
        let engine = Self {
            history: History::stepped(config.accept_timeout),
            config,
            queue: Arc::new(queue),
            status: Arc::new(Status::new(metrics)),
            log: Arc::new(log.clone()),
            bus: bus.clone(),
            interest: None,
            threads: Mutex::default(),
        };
        (engine, EngineSteps::new(log.clone(), recorder))
    }

    #[cfg(test)]
    pub(super) fn queue(&self) -> &AppendQueue {
        &self.queue
    }

    #[cfg(test)]
    pub(super) fn bus(&self) -> &Bus {
        &self.bus
    }

    fn start_with(
        config: EngineConfig,
        bus: &Bus,
        metrics: &Arc<Metrics>,
        alarm: &Alarm,
        log: &Arc<dyn Log>,
        recorder: SharedRecorder,
        known: Option<Places>,
    ) -> Self {
        let queue = Arc::new(AppendQueue::new(
            config.max_waiting_events,
            config.max_waiting_bytes,
            config.accept_timeout,
        ));
        let status = Arc::new(Status::new(metrics));
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            threads::spawn(format!("fanwire-engine-{name}"), alarm, work)
        };
        let refuses = Arc::clone(&recorder);
        let is_delivered = Box::new(move |id| refuses.is_delivered(id));
        let (history, reads_history) =
            History::start(Arc::clone(log), is_delivered, config.accept_timeout, alarm);
        let stopping = Arc::clone(&queue);
        alarm.on_raised(Arc::new(move || stopping.close()));
        let appender = {
            let (log, queue, status) = (Arc::clone(log), Arc::clone(&queue), Arc::clone(&status));
            let recorder = Arc::clone(&recorder);
            spawn("append", Box::new(move || append::run(&*log, &queue, &status, &*recorder)))
        };
        let follower = {
            let (log, queue, status, bus) =
                (Arc::clone(log), Arc::clone(&queue), Arc::clone(&status), bus.clone());
            let work = move || {
                let target = FollowTarget { status: &status, bus: &bus, recorder: &*recorder };
                follow::run(&*log, &queue, &target, known);
            };
            spawn("follow", Box::new(work))
        };
        let watch = {
            let (queue, status) = (Arc::clone(&queue), Arc::clone(&status));
            spawn("watch", Box::new(move || append::watch(&queue, &status)))
        };
        // If a thread can't be started, the engine never becomes ready and reports the reason.
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

    /// Queues events for the log. Does not block. `done` is called once, on another thread or before this returns: with the ids of
    /// the events after the log has all of them (none if it gives no ids), or with the reason why it has none. `stamps` is empty,
    /// or has an item for each event, as JSON: every node that reads the event passes it to its server.
    pub(crate) fn submit(&self, events: &[Event], stamps: &[Option<Box<str>>], done: Done) {
        if let Err((refused, done)) = self.submit_records(self.records(events.iter()), stamps, false, done) {
            done(Err(refused));
        }
    }

    /// Returns the log's form of events.
    pub(crate) fn records<'e>(&self, events: impl Iterator<Item = &'e Event>) -> Vec<Record> {
        let record = |event: &Event| {
            // The log assigns the id; an id of another bus is left out.
            let mut json = String::with_capacity(256 + event.payload().len());
            if event.id().is_none() {
                envelope::write_stored(event, &mut json);
            } else {
                envelope::write_stored(&event.clone().into_publishable(), &mut json);
            }
            Record { shard: self.bus.log_shard_of(event), json }
        };
        events.map(record).collect()
    }

    /// Queues events in the log's form, as [`submit`](Self::submit) does, or refuses them and returns `done` uncalled.
    /// `awaits_reading` delays `done` until this node has read them from the log.
    pub(crate) fn submit_records(
        &self,
        mut records: Vec<Record>,
        stamps: &[Option<Box<str>>],
        awaits_reading: bool,
        done: Done,
    ) -> Result<(), (Refused, Done)> {
        let count = records.len() as u64;
        for (Record { json, .. }, stamp) in records.iter_mut().zip(stamps) {
            if let Some(stamp) = stamp {
                put_stamp(stamp, json);
            }
        }
        let pushed = self.queue.push(records, awaits_reading, done);
        if pushed.is_err() {
            self.status.metrics.engine_refused.inc_by(count);
        }
        pushed
    }

    /// Appends an entry that is no event to the log's first shard, and waits until this node has read it. Blocks up to the accept
    /// timeout, so it is for workers.
    pub(crate) fn append_other(&self, json: String) -> Result<EventId, Refused> {
        let (sender, outcome) = std::sync::mpsc::sync_channel(1);
        let done: Done = Box::new(move |ids| {
            // The receiver waits for it.
            let _ = sender.send(ids.map(|ids| ids.first().copied()));
        });
        let pushed = self.submit_records(vec![Record { shard: 0, json }], &[], true, done);
        pushed.map_err(|(refused, _)| refused)?;
        // A promise that is dropped without an answer drops the sender.
        outcome.recv().unwrap_or(Err(Refused::Unanswered))?.ok_or(Refused::Unanswered)
    }

    /// Returns the longest time that a publisher waits for the log.
    pub(crate) fn accept_timeout(&self) -> Duration {
        self.config.accept_timeout
    }

    /// Returns the registry of clients' interest, if the node does not follow everything.
    pub(crate) fn interest(&self) -> Option<&Arc<InterestRegistry>> {
        self.interest.as_ref()
    }

    /// Returns the reader of the log's past, or `None` if the node does not follow the whole log.
    pub(crate) fn history(&self) -> Option<&History> {
        self.interest.is_none().then_some(&self.history)
    }

    /// Returns the number of events that the log keeps of each shard.
    pub(crate) fn kept_events(&self) -> u64 {
        self.config.history
    }

    /// Sends a notice to every node. Blocks for a few seconds at most.
    pub(crate) fn send_notice(&self, notice: &str) -> Result<(), EngineError> {
        self.log.send_notice(notice)
    }

    /// Returns whether one process at a time owns the log.
    pub(crate) fn has_one_owner(&self) -> bool {
        self.config.url.starts_with("file:")
    }

    /// Returns whether the log takes the events of a publication one by one, so that it may have a part of them.
    pub(crate) fn appends_singly(&self) -> bool {
        Scheme::of(&self.config.url).is_ok_and(Scheme::appends_singly)
    }

    /// Calls `act` with the places up to which the follower has recorded and published everything. It goes on afterwards. The places
    /// are `None` before it has reached the log.
    pub(crate) fn at_places<T>(&self, act: impl FnOnce(Option<&Places>) -> T) -> T {
        self.status.pause.at_places(act)
    }

    /// Pauses the follower and returns its places. Later events are published after [`resume`](Self::resume).
    pub(crate) fn pause(&self) -> Option<Places> {
        self.status.pause.close()
    }

    /// Resumes the follower.
    pub(crate) fn resume(&self) {
        self.status.pause.open();
    }

    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// Returns the bytes of the events that wait to be appended.
    pub(crate) fn held_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// Returns the engine's part of `/api/stats`.
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

    /// Stops accepting events, appends the waiting ones if the log answers, and ends the threads. Blocks for a few
    /// seconds at most: a thread that hangs in the log is abandoned, and the publishers that wait for it are answered.
    pub(crate) fn close(&self) {
        self.queue.close();
        self.history.close();
        let mut threads: Vec<_> = lock(&self.threads).drain(..).collect();
        let end = Instant::now() + CLOSE_MAX;
        while !threads.is_empty() && Instant::now() < end {
            for thread in threads.extract_if(.., |thread| thread.is_finished()) {
                // A panic of the thread was caught and reported already.
                let _ = thread.join();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.queue.abandon();
        if !threads.is_empty() {
            tracing::warn!("the engine's log does not answer: the engine's threads are abandoned");
        }
    }
}

/// Maximum wait for the threads when an engine ends.
const CLOSE_MAX: Duration = Duration::from_secs(5);

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// Opens the log at the configured address.
fn open(
    config: &EngineConfig,
    shards: usize,
    alarm: &Alarm,
    on_notice: OnNotice,
    #[cfg_attr(not(feature = "nats"), expect(unused_variables, reason = "no other log asks"))] interest: &Arc<
        InterestRegistry,
    >,
) -> Result<Arc<dyn Log>, EngineError> {
    // Characters that are valid in keys, streams and subjects alike.
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

//! State that all loops of one server share: the bus, the engine, the config, tables of clients, and flags.

pub(crate) mod adoption;
#[cfg(unix)]
pub(crate) mod barrier;
pub(crate) mod blocks;
pub(crate) mod history;
pub(crate) mod kept;
pub(crate) mod refusals;
pub(crate) mod report;
pub(crate) mod resume;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::bridge::{Bridge, BridgeAnswer};
use crate::bus::Bus;
use crate::dialect::{ErrorCode, Observers};
use crate::engine::{Engine, EngineConfig, EngineError, EngineHooks, History, NotReady, Places};
use crate::event::{Event, Timestamp};
use crate::held::HeldBytes;
use crate::kept::RetainConfig;
use crate::metrics::{Kind, Metrics};
use crate::server::auth::{Auth, Notice, Revocation};
use crate::server::config::{Prepared, ServerConfig};
use crate::server::dedupe::Dedupe;
use crate::server::limits::bodies::Bodies;
use crate::server::limits::rates::{Addresses, Callers};
use crate::server::presence::Presence;
use crate::server::workers::Workers;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{CachePadded, Callback, Mutex, lock};
use crate::threads::Alarm;
use adoption::Adoptions;
#[cfg(unix)]
use barrier::HandoverBarrier;
use history::{Counts, MinuteHistory};
use kept::{KeptStore, LogRecorder};
use refusals::Refusals;
use report::LoopReport;

/// State that the loops of one server share.
pub(crate) struct Shared {
    pub(crate) bus: Bus,
    /// Log with the order and the history of events; `None` if only the bus has them.
    pub(crate) engine: Option<Engine>,
    pub(crate) config: CurrentConfig,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) bridge: Bridge,
    /// Alarm that is raised when a thread of this server has failed.
    pub(crate) alarm: Alarm,
    /// Bytes that are held outside the loops by jobs of workers.
    pub(crate) held: HeldBytes,
    /// Threads for jobs that a loop must not wait for.
    pub(crate) workers: Workers,
    pub(crate) auth: Arc<Auth>,
    pub(crate) clients: ClientTables,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) barriers: Barriers,
    pub(crate) loops: Loops,
    pub(crate) monitor: Monitor,
    /// Logs of events kept by rule.
    pub(crate) kept: Arc<KeptStore>,
}

/// Settings in force.
pub(crate) struct CurrentConfig {
    /// Settings with their version number, from 0.
    prepared: ArcSwap<(u64, Arc<Prepared>)>,
    /// Version number of the settings, which can be read without loading them.
    version: AtomicU64,
    /// Held while the settings are replaced, so that reloads do not overlap.
    reloading: Mutex<()>,
}

impl CurrentConfig {
    fn new(config: Prepared) -> Self {
        Self {
            prepared: ArcSwap::from_pointee((0, Arc::new(config))),
            version: AtomicU64::new(0),
            reloading: Mutex::default(),
        }
    }
}

/// Tables of clients, over all loops.
#[derive(Default)]
pub(crate) struct ClientTables {
    /// Incomplete request bodies, by client.
    pub(crate) bodies: Bodies,
    /// Recent publishers, if their rate is limited.
    pub(crate) publishers: Mutex<Callers<String>>,
    /// Open connections by address, if their number is limited.
    pub(crate) addresses: Addresses,
    /// Users in channels.
    pub(crate) presence: Arc<Mutex<Presence>>,
    /// State of the dialects that observe their clients.
    pub(crate) observers: Observers,
    /// Keys and ids of publications that are accepted once.
    pub(crate) dedupe: Dedupe,
}

/// Flags that all loops look at.
#[derive(Default)]
pub(crate) struct Lifecycle {
    /// Whether the server listens on loopback addresses only.
    pub(crate) is_local: bool,
    /// Whether readiness is withdrawn: new clients are served, but load balancers should not send any.
    pub(crate) withdrawn: AtomicBool,
    /// Milliseconds that draining may take, plus one; 0 = not draining.
    pub(crate) drain: AtomicU64,
    /// Whether another process has taken over the sockets and the clients.
    pub(crate) handed_over: AtomicBool,
    /// One bit for each loop that is short of memory.
    pub(crate) short_of_memory: AtomicU64,
}

/// Barrier that calls the loops together for a handover.
#[derive(Default)]
pub(crate) struct Barriers {
    /// Current barrier and its number. Each loop comes once for a number.
    #[cfg(unix)]
    current: Mutex<(u64, Option<HandoverBarrier>)>,
    /// Number of the newest barrier, readable without the lock.
    number: AtomicU64,
}

/// Interface of other threads to the loops of a server.
pub(crate) struct Loops {
    pub(crate) count: usize,
    /// Wakes the loops, once they run.
    pub(crate) wake: Arc<Mutex<Option<Callback>>>,
    /// Number of turns that each loop has begun.
    pub(crate) beats: Box<[CachePadded<AtomicU64>]>,
    /// Last report of each loop.
    pub(crate) reports: Mutex<Vec<LoopReport>>,
    /// Connections that the embedding program accepted.
    pub(crate) adoptions: Adoptions,
}

impl Loops {
    fn new(count: usize) -> Self {
        Self {
            count,
            wake: Arc::default(),
            beats: (0..count).map(|_| CachePadded::new(AtomicU64::new(0))).collect(),
            reports: Mutex::new(vec![LoopReport::default(); count]),
            adoptions: Adoptions::new(count),
        }
    }
}

/// Data for operators.
pub(crate) struct Monitor {
    pub(crate) started: Instant,
    /// Log of refused pages.
    pub(crate) refusals: Refusals,
    /// Counters of the last minutes.
    pub(crate) history: Mutex<MinuteHistory>,
}

impl Shared {
    pub(crate) fn new(bus: Bus, config: impl Into<Prepared>, loops: usize) -> Self {
        let (alarm, held) = (Alarm::default(), HeldBytes::default());
        let config = config.into();
        let clients = ClientTables::default();
        clients.dedupe.configure(&config.dedupe);
        let ring_bytes = bus.ring_bytes_max().unwrap_or(u64::MAX) / bus.shards() as u64;
        let kept =
            KeptStore::new(&config.retain, bus.shards()).sharing_with_rings(bus.capacity(), ring_bytes);
        Self {
            kept: Arc::new(kept),
            bridge: Bridge::create_default(&bus),
            workers: Workers::new(&alarm, &held),
            alarm,
            held,
            bus,
            engine: None,
            config: CurrentConfig::new(config),
            metrics: Arc::default(),
            auth: Arc::default(),
            clients,
            lifecycle: Lifecycle::default(),
            barriers: Barriers::default(),
            loops: Loops::new(loops),
            monitor: Monitor {
                started: Instant::now(),
                refusals: Refusals::default(),
                history: Mutex::default(),
            },
        }
    }

    /// Connects to the log that this node shares with others.
    pub(crate) fn with_engine(
        mut self,
        config: EngineConfig,
        known: Option<Places>,
    ) -> Result<Self, EngineError> {
        let (auth, wake) = (Arc::clone(&self.auth), Arc::clone(&self.loops.wake));
        let on_notice = move |notice: &[u8]| match Notice::read(notice) {
            Ok(Notice::Revoked(one)) => {
                if let Err(max) = auth.revoke(one, Timestamp::now()) {
                    tracing::error!(
                        max,
                        "other nodes revoked more than is kept here: raise auth.max_revocations"
                    );
                }
                wake_all(&wake);
            }
            // A node of a later version may send other notices.
            Err(error) => tracing::warn!(%error, "another node said what this one does not understand"),
        };
        let wake = Arc::clone(&self.loops.wake);
        let on_followed: Callback = Arc::new(move || wake_all(&wake));
        let (bus, metrics, alarm) = (&self.bus, &self.metrics, &self.alarm);
        self.kept.follow_engine(self.bus.shards() * self.bus.capacity());
        let (dedupe, wake) = (self.clients.dedupe.clone(), Callback::clone(&on_followed));
        let recorder = Arc::new(LogRecorder::new(&self.kept, dedupe, self.monitor.started, wake));
        let hooks = EngineHooks { notice: Arc::new(on_notice), followed: on_followed, recorder };
        self.engine = Some(Engine::start(config, bus, metrics, alarm, hooks, known)?);
        Ok(self)
    }

    /// Connects to a simulated log, by an engine whose steps the caller takes.
    #[cfg(test)]
    pub(crate) fn with_steps(
        mut self,
        config: EngineConfig,
        log: &crate::engine::stepped::SimulatedConnector,
    ) -> (Self, crate::engine::stepped::EngineSteps) {
        self.kept.follow_engine(self.bus.shards() * self.bus.capacity());
        let wake = Arc::clone(&self.loops.wake);
        let wake: Callback = Arc::new(move || wake_all(&wake));
        let recorder = LogRecorder::new(&self.kept, self.clients.dedupe.clone(), self.monitor.started, wake);
        let (engine, steps) = Engine::stepped(config, &self.bus, &self.metrics, log, Arc::new(recorder));
        self.engine = Some(engine);
        (self, steps)
    }

    /// Publishes an event for every node, without waiting for the result.
    pub(crate) fn publish_detached(&self, event: Event) {
        match &self.engine {
            // The engine counts the events that it refuses: there is no caller to report them to.
            Some(engine) => {
                let stamp = self.kept.lock().and_then(|logs| logs.stamp_free(&event, Timestamp::now()));
                engine.submit(&[event], &[stamp], Box::new(|_| {}));
            }
            None => {
                self.bus.publish(event);
            }
        }
    }

    /// Publishes an event of another system. Returns `false` if the server is shutting down.
    pub(crate) fn take_in(&self, event: Event) -> bool {
        match self.config().1.check_event(&event) {
            Ok(()) => self.publish_detached(event),
            Err(error) => {
                self.metrics.fault(ErrorCode::Schema.name());
                tracing::debug!(event_type = event.event_type(), error, "what was sent is not published");
            }
        }
        !self.is_draining() && !self.alarm.is_raised()
    }

    /// Routes a message from outside. Runs the handler, and blocks until it returns.
    pub(crate) fn route(&self, config: &Prepared, protocol: &str, message: &str) -> BridgeAnswer {
        let publish = |event| self.publish_detached(event);
        self.bridge.route_checked(protocol, message, &|event| config.check_event(event), &publish)
    }

    /// Returns the epoch of the ids that clients see.
    pub(crate) fn epoch(&self) -> u64 {
        self.engine.as_ref().map_or_else(|| self.bus.epoch(), |engine| engine.status().epoch())
    }

    /// Returns the reason why load balancers should send no new clients, if there is one.
    pub(crate) fn not_ready(&self) -> Option<NotReady> {
        // Relaxed: a flag on its own.
        if self.is_draining() || self.alarm.is_raised() || self.lifecycle.withdrawn.load(Ordering::Relaxed) {
            Some(NotReady { status: "draining", readers: false, publishers: false })
        } else {
            self.engine.as_ref().and_then(|engine| engine.status().not_ready())
        }
    }

    /// Wakes every loop to look at a change now.
    pub(crate) fn wake_loops(&self) {
        wake_all(&self.loops.wake);
    }

    /// Announces a revocation to the other nodes, if there are any. Blocks for a few seconds at most.
    pub(crate) fn announce_revocation(&self, one: Revocation) -> Result<(), EngineError> {
        match &self.engine {
            Some(engine) => engine.send_notice(&Notice::Revoked(one).to_json()),
            None => Ok(()),
        }
    }

    /// Returns the current barrier, if it is later than the one with this number.
    #[cfg(unix)]
    pub(crate) fn barrier(&self, seen: u64) -> Option<(u64, HandoverBarrier)> {
        // Relaxed: a hint; the loops are woken after it is set.
        if self.barriers.number.load(Ordering::Relaxed) == seen {
            return None;
        }
        let barrier = lock(&self.barriers.current);
        Some((barrier.0, barrier.1.clone()?))
    }

    /// Sets the barrier for all loops. Returns `false` if there is one.
    #[cfg(unix)]
    pub(crate) fn raise_barrier(&self, called: &HandoverBarrier) -> bool {
        let mut barrier = lock(&self.barriers.current);
        if barrier.1.is_some() {
            return false;
        }
        *barrier = (barrier.0 + 1, Some(called.clone()));
        // Relaxed: as above.
        self.barriers.number.store(barrier.0, Ordering::Relaxed);
        true
    }

    /// Removes the barrier.
    #[cfg(unix)]
    pub(crate) fn lift_barrier(&self) {
        lock(&self.barriers.current).1 = None;
    }

    /// Returns whether another process has taken over the sockets and the clients.
    pub(crate) fn is_handed_over(&self) -> bool {
        // Relaxed: written before the decision that the loops take under a lock.
        self.lifecycle.handed_over.load(Ordering::Relaxed)
    }

    /// Counts a turn that a loop begins.
    pub(crate) fn beat(&self, number: usize) {
        // Relaxed, also where it is read: a count by itself.
        self.loops.beats[number].fetch_add(1, Ordering::Relaxed);
    }

    /// Stores a loop's report.
    pub(crate) fn store_report(&self, number: usize, report: LoopReport) {
        if let Some(place) = lock(&self.loops.reports).get_mut(number) {
            *place = report;
        }
    }

    /// Returns the current config and its number.
    pub(crate) fn config(&self) -> (u64, Arc<Prepared>) {
        let current = self.config.prepared.load();
        (current.0, Arc::clone(&current.1))
    }

    /// Returns whether the current config has another number.
    pub(crate) fn has_other_config(&self, version: u64) -> bool {
        // Acquire: pairs with the Release of `set_config`, so that a loop that sees a new number finds its configuration.
        self.config.version.load(Ordering::Acquire) != version
    }

    pub(crate) fn set_config(&self, config: Prepared) {
        let _reloading = lock(&self.config.reloading);
        let current = self.config.prepared.load_full();
        let number = current.0 + 1;
        let prepared = Arc::new(config.with_fixed_of(&current.1));
        self.clients.dedupe.configure(&prepared.dedupe);
        // Before a loop sees the config: it lists its clients by the logs that they name, according to these rules.
        if prepared.retain != current.1.retain {
            self.set_rules(&prepared.retain);
        }
        self.config.prepared.store(Arc::new((number, prepared)));
        // Release: pairs with the Acquire of `has_other_config`.
        self.config.version.store(number, Ordering::Release);
    }

    /// Replaces the rules of retention for later events, unless the engine's log can't follow them.
    fn set_rules(&self, retain: &RetainConfig) {
        let log = self.engine.as_ref().map(|engine| (self.bus.shards(), engine.interest().is_some()));
        if let Some(fault) = retain.fault(log) {
            tracing::error!(fault, "the rules of retention stay as they were");
            return;
        }
        let Some(engine) = &self.engine else {
            let head = |shard: usize| (self.bus.epoch(), self.bus.head(shard as u16));
            let heads: Vec<_> = (0..self.bus.shards()).map(head).collect();
            return self.kept.set_rules(retain, &heads);
        };
        engine.at_places(|places| {
            if !retain.rules.is_empty() && places.is_some_and(|places| places.kept == Some(false)) {
                let error = EngineError::KeepsNothing;
                return tracing::error!(%error, "the rules of retention stay as they were");
            }
            let heads = places.map(|places| places.next.iter().map(|next| (places.epoch, *next)).collect());
            self.kept.set_rules(retain, &heads.unwrap_or_else(Vec::new));
        });
    }

    /// Returns the memory held outside the loops, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.bytes()
            + self.clients.observers.held_bytes()
            + self.engine.as_ref().and_then(Engine::history).map_or(0, History::held_bytes)
            + self.auth.held_bytes()
            + lock(&self.clients.presence).held_bytes()
            + self.kept.held_bytes()
            + self.clients.dedupe.held_bytes()
            + self.engine.as_ref().map_or(0, Engine::held_bytes)
    }

    /// Returns the memory that one loop may hold for its clients, in bytes: its share of the budget that is not held
    /// outside the loops.
    pub(crate) fn loop_budget(&self, config: &ServerConfig) -> Option<usize> {
        let budget = config.max_memory_bytes?;
        Some(budget.saturating_sub(self.held_bytes()) / self.loops.count)
    }

    pub(crate) fn set_short_of_memory(&self, number: usize, short: bool) {
        let bit = 1 << (number % 64);
        // Relaxed: a flag on its own; a turn sooner or later makes no difference.
        if short {
            self.lifecycle.short_of_memory.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.lifecycle.short_of_memory.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Returns whether new streams are refused because memory is short.
    pub(crate) fn is_short_of_memory(&self) -> bool {
        // Relaxed: as above.
        self.lifecycle.short_of_memory.load(Ordering::Relaxed) != 0
    }

    /// Starts to shut down the server.
    pub(crate) fn start_drain(&self, limit: Duration) {
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX - 1).saturating_add(1);
        // Relaxed: the wakers' system calls order it for the loops.
        self.lifecycle.drain.store(millis, Ordering::Relaxed);
        self.wake_loops();
    }

    /// Returns whether the server is shutting down.
    pub(crate) fn is_draining(&self) -> bool {
        // Relaxed: a flag on its own; the loops are woken after it is set and look again.
        self.lifecycle.drain.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn drain_time(&self) -> Option<Duration> {
        // Relaxed: as above.
        self.lifecycle.drain.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis)
    }

    /// Returns the number of open connections of a transport: `http`, `ws` or `sse`.
    pub(crate) fn connections(&self, kind: &'static str) -> u64 {
        self.metrics.connections.get_or_create(&Kind { kind }).get().max(0).unsigned_abs()
    }

    /// Returns the number of open connections.
    pub(crate) fn open_connections(&self) -> u64 {
        ["http", "ws", "sse"].into_iter().map(|kind| self.connections(kind)).sum()
    }

    /// Records the current counters in the history.
    pub(crate) fn record_history(&self, now: Timestamp) {
        let metrics = &self.metrics;
        let counts = Counts {
            published: self.bus.stats().shards.iter().map(|shard| shard.head).sum(),
            delivered: metrics.deliveries.get(),
            written_bytes: metrics.written_bytes.get(),
            missed: metrics.dropped.get(),
            connections: self.connections("ws") + self.connections("sse"),
            pending: lock(&self.loops.reports).iter().map(LoopReport::pending).sum(),
        };
        lock(&self.monitor.history).record(now.0.div_euclid(1_000_000), counts);
    }

    /// Returns the engine, if its log can be read for the past.
    pub(crate) fn engine_with_past(&self) -> Option<&Engine> {
        self.engine.as_ref().filter(|engine| engine.history().is_some())
    }
}

pub(crate) fn wake_all(wake: &Mutex<Option<Callback>>) {
    let wake = lock(wake).clone();
    if let Some(wake) = wake {
        wake();
    }
}

//! The server: connections, their protocols and the loops that drive them.
//!
//! Imports every lower room. Always: a connection is a state machine without a socket, the core drives it
//! without knowing mio, and `event_loop` alone touches sockets and threads.

pub(crate) mod auth;
pub(crate) mod config;
pub(crate) mod conn;
pub(crate) mod dialect_autosdlc;
pub(crate) mod endpoint;
mod error;
#[cfg(unix)]
pub(crate) mod handover;
pub(crate) mod harness;
pub(crate) mod http;
pub(crate) mod limits;
pub(crate) mod memory;
pub(crate) mod presence;
pub(crate) mod reactor;
pub(crate) mod rng;
pub(crate) mod session;
pub(crate) mod shared;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bridge::{Bridge, BridgeAnswer};
use crate::bus::Bus;
use crate::engine::{Engine, EngineConfig, EngineError, History as LogHistory, Ingest, NotReady, Places};
use crate::event::{Event, Timestamp};
use crate::held::HeldBytes;
use crate::metrics::{Kind, Metrics};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{CachePadded, Callback, Mutex, lock};
use crate::threads::{Alarm, OnFailure};
use auth::{Auth, Notice, Revocation};
use dialect_autosdlc::client_registry::Directory;
use error::CONFIGURATION;
use http::door::Refusals;
use limits::bodies::Bodies;
use limits::rates::{Addresses, Callers};
use presence::Presence;
use reactor::Report;
use shared::history::{Counts, History};
use shared::workers::Workers;

pub use crate::dialect::{Dialect, ParseDialectError};
pub use crate::threads::ThreadFailure;
use config::Prepared;
pub use config::{BridgeConfig, ServerConfig};
#[doc(hidden)]
pub use dialect_autosdlc::client_registry::ClientSubscription;
#[doc(hidden)]
pub use dialect_autosdlc::messages::MessageLogConfig;
#[cfg(feature = "schema")]
pub use dialect_autosdlc::schemas::SchemaConfig;
pub use endpoint::{Endpoint, System};
pub use error::ServerError;
#[cfg(unix)]
use handover::Muster;
#[cfg(unix)]
pub use handover::{HandoverError, Inheritance};
pub use http::client_address::{AddressRange, ParseAddressRangeError};
pub use limits::rates::RateLimits;
pub use memory::MemoryLine;
pub use presence::PresenceConfig;
#[cfg(feature = "tls")]
pub use reactor::tls::TlsConfig;

/// What the loops of one server share.
pub(crate) struct Shared {
    pub(crate) bus: Bus,
    /// Where order and history live, if not in the bus alone.
    pub(crate) engine: Option<Engine>,
    config: Mutex<Arc<Prepared>>,
    /// Counts the configs that there were.
    version: AtomicU64,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) bridge: Bridge,
    /// Says whether a thread of this server has failed.
    pub(crate) alarm: Alarm,
    /// Bytes held outside the loops: by jobs of workers.
    pub(crate) held: HeldBytes,
    /// Bodies that are coming in, by client.
    pub(crate) bodies: Bodies,
    /// Threads for what a loop must not wait for.
    pub(crate) workers: Workers,
    pub(crate) auth: Arc<Auth>,
    /// Whether it listens on loopback addresses alone.
    pub(crate) is_local: bool,
    /// Pages that were refused, for the log.
    pub(crate) refusals: Refusals,
    /// Who published lately, where that is limited.
    pub(crate) publishers: Mutex<Callers<String>>,
    /// Open connections by address, where they are limited.
    pub(crate) addresses: Addresses,
    /// Who is in which channel.
    presence: Arc<Mutex<Presence>>,
    /// Wakes the loops, once they run.
    wake: Arc<Mutex<Option<Callback>>>,
    started: Instant,
    loops: usize,
    /// Nobody is to be sent here any more, though who comes is served.
    withdrawn: AtomicBool,
    /// Milliseconds that draining may take, plus one; 0 = not draining.
    pub(crate) drain: AtomicU64,
    /// The loops are called together, or were; counted, so that each comes once.
    #[cfg(unix)]
    muster: Mutex<(u64, Option<Muster>)>,
    /// Whether they are, to look at.
    musters: AtomicU64,
    /// Another process has the sockets and the clients now.
    handed_over: AtomicBool,
    /// Turns of each loop, of those that were begun.
    beats: Box<[CachePadded<AtomicU64>]>,
    /// Who subscribed to what, where an operator may ask.
    directory: Directory,
    /// What each loop said last.
    reports: Mutex<Vec<Report>>,
    /// The last minutes.
    history: Mutex<History>,
    /// One bit a loop: it is short of memory.
    short_of_memory: AtomicU64,
}

impl Shared {
    pub(crate) fn new(bus: Bus, config: impl Into<Prepared>, loops: usize) -> Self {
        let (alarm, held) = (Alarm::default(), HeldBytes::default());
        Self {
            bridge: Bridge::create_default(&bus),
            workers: Workers::new(&alarm, &held),
            alarm,
            held,
            bodies: Bodies::default(),
            bus,
            engine: None,
            config: Mutex::new(Arc::new(config.into())),
            version: AtomicU64::new(0),
            metrics: Arc::default(),
            auth: Arc::default(),
            is_local: false,
            refusals: Refusals::default(),
            publishers: Mutex::default(),
            addresses: Addresses::default(),
            presence: Arc::default(),
            wake: Arc::default(),
            started: Instant::now(),
            loops,
            withdrawn: AtomicBool::new(false),
            drain: AtomicU64::new(0),
            #[cfg(unix)]
            muster: Mutex::default(),
            musters: AtomicU64::new(0),
            handed_over: AtomicBool::new(false),
            beats: (0..loops).map(|_| CachePadded::new(AtomicU64::new(0))).collect(),
            directory: Directory::default(),
            reports: Mutex::new(vec![Report::default(); loops]),
            history: Mutex::default(),
            short_of_memory: AtomicU64::new(0),
        }
    }

    /// Connects to the log that this node shares with others.
    fn with_engine(mut self, config: EngineConfig, known: Option<Places>) -> Result<Self, EngineError> {
        let (auth, wake) = (Arc::clone(&self.auth), Arc::clone(&self.wake));
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
            // A node of a later version may have more to say.
            Err(error) => tracing::warn!(%error, "another node said what this one does not understand"),
        };
        let wake = Arc::clone(&self.wake);
        let on_followed: Callback = Arc::new(move || wake_all(&wake));
        let (bus, metrics, alarm) = (&self.bus, &self.metrics, &self.alarm);
        let on_notice = Arc::new(on_notice);
        self.engine = Some(Engine::start(config, bus, metrics, alarm, on_notice, on_followed, known)?);
        Ok(self)
    }

    /// Publishes what nobody waits for an answer to, for every node.
    fn publish_unasked(&self, event: Event) {
        match &self.engine {
            // What it refuses, it counts: there is nobody to be told.
            Some(engine) => engine.submit(&[event], Box::new(|_| {})),
            None => {
                self.bus.publish(event);
            }
        }
    }

    /// Publishes what another system sent; false where the server is on its way out.
    fn take_in(&self, event: Event) -> bool {
        match self.config().1.check_event(&event) {
            Ok(()) => self.publish_unasked(event),
            Err(error) => {
                self.metrics.fault("schema");
                tracing::debug!(event_type = event.event_type(), error, "what was sent is not published");
            }
        }
        !self.is_draining() && !self.alarm.is_raised()
    }

    /// Routes a message that came from outside. Runs the handler: blocks as long as that does.
    fn route(&self, config: &Prepared, protocol: &str, message: &str) -> BridgeAnswer {
        let publish = |event| self.publish_unasked(event);
        self.bridge.route_checked(protocol, message, &|event| config.check_event(event), &publish)
    }

    /// The epoch of the ids that clients see.
    pub(crate) fn epoch(&self) -> u64 {
        self.engine.as_ref().map_or_else(|| self.bus.epoch(), |engine| engine.status().epoch())
    }

    /// Why new clients would be wrong here for now; `None` where all is well.
    pub(crate) fn not_ready(&self) -> Option<NotReady> {
        // Relaxed: a flag on its own.
        if self.is_draining() || self.alarm.is_raised() || self.withdrawn.load(Ordering::Relaxed) {
            Some(NotReady { status: "draining", readers: false, publishers: false })
        } else {
            self.engine.as_ref().and_then(|engine| engine.status().not_ready())
        }
    }

    /// Has every loop look at what changed, now.
    pub(crate) fn wake_loops(&self) {
        wake_all(&self.wake);
    }

    /// Tells the other nodes, if there are any, of a revocation. Blocks for the engine, some seconds at most.
    pub(crate) fn tell_revoked(&self, one: Revocation) -> Result<(), EngineError> {
        match &self.engine {
            Some(engine) => engine.tell(&Notice::Revoked(one).to_json()),
            None => Ok(()),
        }
    }

    /// What calls the loops together, if it is a later one than this number.
    #[cfg(unix)]
    fn muster(&self, seen: u64) -> Option<(u64, Muster)> {
        // Relaxed: a hint; the loops are woken after it is set.
        if self.musters.load(Ordering::Relaxed) == seen {
            return None;
        }
        let muster = lock(&self.muster);
        Some((muster.0, muster.1.clone()?))
    }

    /// Calls the loops together; false where they are already.
    #[cfg(unix)]
    fn call_muster(&self, called: &Muster) -> bool {
        let mut muster = lock(&self.muster);
        if muster.1.is_some() {
            return false;
        }
        *muster = (muster.0 + 1, Some(called.clone()));
        // Relaxed: as above.
        self.musters.store(muster.0, Ordering::Relaxed);
        true
    }

    /// Calls nobody any more.
    #[cfg(unix)]
    fn dismiss_muster(&self) {
        lock(&self.muster).1 = None;
    }

    /// Whether another process has the sockets and the clients now.
    pub(crate) fn is_handed_over(&self) -> bool {
        // Relaxed: written before the loops are told, under a lock that they take.
        self.handed_over.load(Ordering::Relaxed)
    }

    /// A loop begins a turn.
    fn beat(&self, number: usize) {
        // Relaxed, and so where it is read: a count on its own.
        self.beats[number].fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a loop's report.
    fn tell(&self, number: usize, report: Report) {
        if let Some(place) = lock(&self.reports).get_mut(number) {
            *place = report;
        }
    }

    /// The config that holds now, and its number.
    pub(crate) fn config(&self) -> (u64, Arc<Prepared>) {
        let config = lock(&self.config);
        // Relaxed: written with the lock held, as it is here.
        (self.version.load(Ordering::Relaxed), Arc::clone(&config))
    }

    /// Whether the config is another than the one of this number.
    pub(crate) fn has_other_config(&self, version: u64) -> bool {
        // Relaxed: a hint; the lock orders the config itself.
        self.version.load(Ordering::Relaxed) != version
    }

    fn set_config(&self, config: Prepared) {
        let mut current = lock(&self.config);
        *current = Arc::new(config.with_fixed_of(&current));
        // Relaxed: as above.
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes held outside the loops.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.bytes()
            + self.directory.held_bytes()
            + self.engine.as_ref().and_then(Engine::history).map_or(0, LogHistory::held_bytes)
            + self.auth.held_bytes()
            + lock(&self.presence).held_bytes()
            + self.engine.as_ref().map_or(0, Engine::held_bytes)
    }

    /// What one loop may hold for its clients: its part of what is not held outside the loops.
    fn loop_budget(&self, config: &ServerConfig) -> Option<usize> {
        let budget = config.max_memory_bytes?;
        Some(budget.saturating_sub(self.held_bytes()) / self.loops)
    }

    fn set_short_of_memory(&self, number: usize, short: bool) {
        let bit = 1 << (number % 64);
        // Relaxed: a flag on its own; a turn sooner or later is the same.
        if short {
            self.short_of_memory.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.short_of_memory.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Whether new streams are refused because memory is short.
    pub(crate) fn is_short_of_memory(&self) -> bool {
        // Relaxed: as above.
        self.short_of_memory.load(Ordering::Relaxed) != 0
    }

    /// Starts to end the server.
    fn start_drain(&self, limit: Duration) {
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX - 1).saturating_add(1);
        // Relaxed: the wakers' system calls order it for the loops.
        self.drain.store(millis, Ordering::Relaxed);
        self.wake_loops();
    }

    /// Whether the server is on its way out.
    pub(crate) fn is_draining(&self) -> bool {
        // Relaxed: a flag on its own; the loops are woken after it is set and look again.
        self.drain.load(Ordering::Relaxed) != 0
    }

    fn drain_time(&self) -> Option<Duration> {
        // Relaxed: as above.
        self.drain.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis)
    }

    /// Notes what the counters say now, for who asks later.
    fn note_history(&self, now: Timestamp) {
        let metrics = &self.metrics;
        let open = |kind| metrics.connections.get_or_create(&Kind { kind }).get().unsigned_abs();
        let counts = Counts {
            published: self.bus.stats().shards.iter().map(|shard| shard.head).sum(),
            delivered: metrics.deliveries.get(),
            written_bytes: metrics.written_bytes.get(),
            missed: metrics.dropped.get(),
            connections: open("ws") + open("sse"),
            pending: lock(&self.reports).iter().map(Report::pending).sum(),
        };
        lock(&self.history).note(now.0.div_euclid(1_000_000), counts);
    }

    /// What `/api/history` shows.
    pub(crate) fn history(&self, now: Timestamp) -> serde_json::Value {
        self.note_history(now);
        lock(&self.history).json(now.0.div_euclid(1_000_000))
    }

    /// Returns the engine, where its log can be read for the past.
    pub(crate) fn engine_with_past(&self) -> Option<&Engine> {
        self.engine.as_ref().filter(|engine| engine.history().is_some())
    }

    /// What `/api/stats` shows.
    pub(crate) fn stats(&self) -> serde_json::Value {
        let metrics = &self.metrics;
        let open = |kind| metrics.connections.get_or_create(&Kind { kind }).get();
        let bus = self.bus.stats();
        let shards: Vec<_> = (bus.shards.iter())
            .map(|s| json!({ "head": s.head, "oldest": s.oldest, "capacity": s.capacity }))
            .collect();
        let (ledger, laggards, held_bytes) = Report::together(lock(&self.reports).iter());
        json!({
            "ledger": ledger,
            "laggards": laggards,
            "held_bytes": held_bytes + self.held_bytes(),
            "name": "fanwire",
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "engine": self.engine.as_ref().map_or_else(|| json!("memory"), Engine::stats),
            "epoch": self.epoch().to_string(),
            "loops": self.loops,
            "draining": self.is_draining(),
            "connections": { "http": open("http"), "ws": open("ws"), "sse": open("sse") },
            "subscriptions": metrics.subscriptions.get(),
            "feeds": metrics.feeds.get(),
            "events_published": metrics.events_published.get(),
            "events_matched": metrics.events_matched.get(),
            "encodings": metrics.encodings.get(),
            "deliveries": metrics.deliveries.get(),
            "dropped": metrics.dropped.get(),
            "gaps": metrics.gaps.get(),
            "written_bytes": metrics.written_bytes.get(),
            "interests": http::explain::interests_json(self),
            "shards": shards,
            "ring_bytes": bus.held_bytes,
        })
    }
}

fn wake_all(wake: &Mutex<Option<Callback>>) {
    let wake = lock(wake).clone();
    if let Some(wake) = wake {
        wake();
    }
}

/// Serves a bus to WebSocket and SSE clients.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Starts describing a server of this bus.
    pub fn builder(bus: &Bus) -> ServerBuilder {
        ServerBuilder {
            bus: bus.clone(),
            listen: "127.0.0.1:8765".to_owned(),
            sockets: Vec::new(),
            #[cfg(unix)]
            inheritance: None,
            engine: None,
            ingest: Vec::new(),
            loops: 1,
            config: ServerConfig::default(),
            bridge: None,
            on_failure: None,
        }
    }
}

/// A server to be.
pub struct ServerBuilder {
    bus: Bus,
    listen: String,
    sockets: Vec<TcpListener>,
    #[cfg(unix)]
    inheritance: Option<Inheritance>,
    engine: Option<EngineConfig>,
    ingest: Vec<Ingest>,
    loops: usize,
    config: ServerConfig,
    bridge: Option<Bridge>,
    on_failure: Option<OnFailure>,
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerBuilder({}, {} loops)", self.listen, self.loops)
    }
}

impl ServerBuilder {
    /// The address and port to serve at; port 0 takes a free one. `127.0.0.1:8765` if never set.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = address.into();
        self
    }

    /// Sockets that listen already, as a service manager holds them: served in place of
    /// [`listen`](Self::listen)'s address, unless there are none.
    pub fn sockets(mut self, sockets: Vec<TcpListener>) -> Self {
        self.sockets = sockets;
        self
    }

    /// Goes on where another process's server stood: its sockets, in place of [`listen`](Self::listen)'s address,
    /// and its clients, who notice nothing. The bus must be [the inheritance's](Inheritance::bus).
    #[cfg(unix)]
    pub fn inherit(mut self, inheritance: Inheritance) -> Self {
        self.inheritance = Some(inheritance);
        self
    }

    /// How many event loops, each a thread with its own share of the connections; at least 1, which is the
    /// default.
    pub fn loops(mut self, loops: usize) -> Self {
        self.loops = loops.max(1);
        self
    }

    /// Keeps order and history in a log that several nodes share, instead of in this bus alone. What clients
    /// publish goes there first, and comes back to every node in the log's order; what is published straight on
    /// the bus stays on this node.
    pub fn engine(mut self, engine: EngineConfig) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Publishes here what other systems send to a channel of Redis or NATS. May be called for several.
    pub fn ingest(mut self, ingest: Ingest) -> Self {
        self.ingest.push(ingest);
        self
    }

    /// Limits, times and the rest.
    pub fn config(mut self, config: ServerConfig) -> Self {
        self.config = config;
        self
    }

    /// What answers at `POST /bridge/{protocol}`; with the routes `a2a` and `mcp` if never set. Handlers run in
    /// threads of their own ([`BridgeConfig`]), and may block.
    pub fn bridge(mut self, bridge: &Bridge) -> Self {
        self.bridge = Some(bridge.clone());
        self
    }

    /// Calls `hook` once if a thread of the server panics or can't go on. The server stops then: its loops end, its
    /// sockets close, and [`ServerHandle::join`] returns the failure; the process lives on. The hook runs in the thread
    /// that failed. Handlers of yours are isolated, and do not stop the server.
    pub fn on_failure(mut self, hook: impl Fn(&ThreadFailure) + Send + Sync + 'static) -> Self {
        self.on_failure = Some(Box::new(hook));
        self
    }

    /// Binds the address and starts the loops. Blocks for a name look-up and the files of keys at the most.
    ///
    /// Without authentication it serves this machine only: another address is an error
    /// ([`ServerError::is_unguarded`]) unless the config says `insecure`.
    pub fn spawn(self) -> Result<ServerHandle, ServerError> {
        #[cfg(unix)]
        let mut inheritance = self.inheritance;
        #[cfg_attr(not(unix), expect(unused_mut, reason = "nobody comes before"))]
        let Self { bus, listen, mut sockets, engine, ingest, loops, config, bridge, on_failure, .. } = self;
        #[cfg(unix)]
        if let Some(inheritance) = &mut inheritance {
            sockets = std::mem::take(&mut inheritance.listeners);
        }
        let doing = || format!("listening on {listen}");
        let address = match sockets.first() {
            Some(socket) => socket.local_addr(),
            None => resolve(&listen),
        };
        let address = address.map_err(|e| ServerError::new(doing(), e))?;
        let is_local = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        let others = sockets.iter().filter_map(|socket| socket.local_addr().ok());
        let is_local = std::iter::once(address).chain(others).all(is_local);
        #[cfg(feature = "auth")]
        let auth = Auth::load(&config.auth).map_err(ServerError::authentication)?;
        #[cfg(not(feature = "auth"))]
        let auth = Auth::default();
        if auth.is_open() && !config.insecure && !is_local {
            return Err(ServerError::unguarded(doing()));
        }
        let config = Prepared::new(config).map_err(|e| ServerError::new(CONFIGURATION, e))?;
        let mut shared = Shared::new(bus, config, loops);
        if let Some(hook) = on_failure {
            shared.alarm.set_hook(hook);
        }
        shared.auth = Arc::new(auth);
        shared.is_local = is_local;
        http::door::tell_if_open(&shared, &shared.config().1);
        #[cfg(unix)]
        for one in inheritance.iter_mut().flat_map(Inheritance::revoked) {
            if let Err(max) = shared.auth.revoke(one, Timestamp::now()) {
                tracing::error!(max, "more was revoked than is kept here: raise auth.max_revocations");
            }
        }
        #[cfg(unix)]
        if let Some(inheritance) = &mut inheritance {
            lock(&shared.presence).expect(inheritance.present());
            inheritance.seal().into_iter().for_each(|seal| shared.auth.take_seal(seal));
        }
        if let Some(bridge) = bridge {
            shared.bridge = bridge;
        }
        if let Some(engine) = engine {
            let doing = format!("the engine {engine:?}");
            #[cfg(unix)]
            let known = inheritance.as_ref().and_then(Inheritance::places).cloned();
            #[cfg(not(unix))]
            let known = None;
            shared = shared
                .with_engine(engine, known)
                .map_err(|e| ServerError::new(doing, io::Error::other(e)))?;
        }
        let shared = Arc::new(shared);
        let (address, started) = reactor::event_loop::start(
            &shared,
            address,
            sockets,
            #[cfg(unix)]
            inheritance.as_mut(),
        )
        .map_err(|e| ServerError::new(doing(), e))?;
        for ingest in ingest {
            let server = Arc::downgrade(&shared);
            let take = move |event| server.upgrade().is_some_and(|shared| shared.take_in(event));
            let doing = format!("listening to {ingest}");
            ingest
                .start(Arc::clone(&shared.metrics), &shared.alarm, Box::new(take))
                .map_err(|error| ServerError::new(doing, error))?;
        }
        let (threads, wakers): (_, Vec<Arc<mio::Waker>>) = started.into_iter().unzip();
        *lock(&shared.wake) = Some(Arc::new(move || {
            for waker in &wakers {
                // A loop that can't be woken has ended.
                let _ = waker.wake();
            }
        }));
        let wake = Arc::clone(&shared.wake);
        shared.alarm.on_raised(Arc::new(move || wake_all(&wake)));
        Ok(ServerHandle { address, shared, threads })
    }
}

/// The first address of this text.
fn resolve(listen: &str) -> io::Result<SocketAddr> {
    listen.to_socket_addrs()?.next().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Tells whether a server's loops turn. May outlive the server.
#[derive(Clone)]
pub struct Pulse {
    shared: Arc<Shared>,
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pulse")
    }
}

impl Pulse {
    /// Whether every loop begins another turn within so long, when it is asked to. Blocks until then.
    pub fn beats(&self, within: Duration) -> bool {
        let beats = || self.shared.beats.iter().map(|beat| beat.load(Ordering::Relaxed));
        let before: Vec<u64> = beats().collect();
        self.shared.wake_loops();
        let end = Instant::now() + within;
        loop {
            if beats().zip(&before).all(|(now, before)| now != *before) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5).min(within));
        }
    }
}

/// A running server. Dropping it lets the server run on by itself.
#[must_use = "keep it to drain or join the server"]
pub struct ServerHandle {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerHandle({})", self.address)
    }
}

impl ServerHandle {
    /// Where it listens: the port that was taken, if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Says at `/readyz` that the server goes, and serves on: who sends clients here has time to see it. Then
    /// [`drain`](Self::drain).
    pub fn withdraw(&self) {
        // Relaxed: a flag on its own.
        self.shared.withdrawn.store(true, Ordering::Relaxed);
    }

    /// Gives all that this server has to a successor, a process that calls [`Inheritance::claim`] at the other end of
    /// this socket: the rings, the listening sockets, and the clients with what they are owed. Clients with TLS can't
    /// move: they are told to come back, as by [`drain`](Self::drain). Answers how many moved; then only
    /// [`join`](Self::join) is left to do. Blocks for some seconds at the most once the successor is ready.
    ///
    /// Where it fails, this server goes on with all it had; before that `give_up` is called, which must see to it
    /// that the successor has ended. Publish nothing on the bus meanwhile: nobody might see it.
    #[cfg(unix)]
    pub fn hand_over(
        &self,
        socket: std::os::unix::net::UnixStream,
        limit: Duration,
        give_up: impl FnOnce(),
    ) -> Result<usize, HandoverError> {
        handover::hand_over(&self.shared, socket, limit, give_up)
    }

    /// What the AutoSDLC client of this `clientId` is subscribed to at this server; nothing where there is none.
    pub fn client_subscriptions(&self, client_id: &str) -> Vec<ClientSubscription> {
        self.shared.directory.of(client_id)
    }

    /// What tells whether the loops turn.
    pub fn pulse(&self) -> Pulse {
        Pulse { shared: Arc::clone(&self.shared) }
    }

    /// Publishes for all clients as they do themselves: through the engine, where there is one. What that refuses
    /// is counted, and lost. The function answers false once the server is on its way out.
    pub fn publisher(&self) -> impl Fn(Event) -> bool + Send + Sync + 'static {
        let server = Arc::downgrade(&self.shared);
        move |event| server.upgrade().is_some_and(|shared| shared.take_in(event))
    }

    /// Starts to end the server: readiness goes, accepting stops, every client is told in its protocol's own
    /// form. What is not written within `limit` is dropped. Returns at once; [`join`](Self::join) waits.
    pub fn drain(&self, limit: Duration) {
        self.shared.start_drain(limit);
    }

    /// Limits, times and the rest from now on; connections that are open keep what they have. What is made once
    /// (`conflate_key`, `max_snapshot_keys`) stays as it was. Blocks for the files that the config names; each loop
    /// takes the new config at its next turn.
    ///
    /// Clients whose token, key or subject no longer counts are closed before the next event. On an error nothing
    /// has changed.
    pub fn reload(&self, config: ServerConfig) -> Result<(), ServerError> {
        let config = Prepared::new(config).map_err(|e| ServerError::new(CONFIGURATION, e))?;
        #[cfg(feature = "auth")]
        self.shared.auth.reload(&config.auth).map_err(ServerError::authentication)?;
        http::door::tell_if_opened(&self.shared, &config);
        self.shared.set_config(config);
        self.shared.wake_loops();
        Ok(())
    }

    /// Waits until every loop has ended. Blocks. Returns what ended a thread of the server early, if one was
    /// ([`ServerError::thread_failure`]): the other loops have ended too then.
    pub fn join(self) -> Result<(), ServerError> {
        for thread in self.threads {
            // A panic is caught in its thread, and stands in the alarm.
            let _ = thread.join();
        }
        self.shared.alarm.first().map_or(Ok(()), |failure| Err(ServerError::stopped(failure)))
    }
}

#[cfg(test)]
mod tests;

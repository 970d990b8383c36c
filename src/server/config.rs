//! Settings of a server: limits and times, each with its default and unit.

use std::io;
use std::ops::Deref;
use std::time::Duration;

#[cfg(feature = "auth")]
use super::auth::AuthConfig;
use super::dedupe::DedupeConfig;
use super::limits::bodies::BodyLimits;
use super::limits::rates::RateLimits;
use super::presence::PresenceConfig;
#[cfg(feature = "schema")]
use super::schemas::{SchemaConfig, Schemas};
use super::tick::{TICK_MS, Tick, ticks};
#[cfg(feature = "tls")]
use super::tls_config;
#[cfg(feature = "tls")]
use super::tls_config::TlsConfig;
use super::workers::LaneLimits;
use super::{AddressRange, Endpoint, Preset};
use crate::codec::deflate::{WINDOW_BITS_MAX, window_bytes};
use crate::codec::http::HttpLimits;
use crate::codec::ws::WsLimits;
#[cfg(feature = "dialects")]
use crate::dialect::autosdlc::MessageLogConfig;
use crate::dialect::{ClientError, Dialect, Incoming, Observers, Watch, WireProtocol};
use crate::event::{Attribute, Event, Timestamp};
use crate::feed::{CompressorLimits, FeedLimits, KeyRule, Snapshot};
use crate::kept::RetainConfig;

/// Limits of the handlers of `POST /bridge/{protocol}`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BridgeConfig {
    /// `bridge.threads`: maximum number of threads that run the handlers of one protocol. They start on demand and end when
    /// idle. Default: 4.
    pub threads: usize,
    /// `bridge.max_waiting`: maximum number of messages of one protocol that wait for a thread; beyond it, 503.
    /// Default: 1,000.
    pub max_waiting: usize,
    /// `bridge.answer_timeout`: maximum time that a client waits for the answer; then 504, while the handler continues.
    /// Default: 30 s.
    pub answer_timeout: Duration,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self { threads: 4, max_waiting: 1000, answer_timeout: Duration::from_secs(30) }
    }
}

impl BridgeConfig {
    /// Returns the limits of a protocol's lane, with jobs of at most `bytes` together.
    pub(crate) fn lane(&self, bytes: usize) -> LaneLimits {
        LaneLimits { threads: self.threads.max(1), waiting: self.max_waiting.max(1), bytes }
    }
}

/// Limits and times of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Maximum size of a message from a WebSocket client, in bytes; beyond it, close code 1009. Default: 65,536.
    pub max_message_bytes: usize,
    /// Maximum size of a request's body, in bytes; beyond it, 413. Default: 4 MiB.
    pub max_body_bytes: usize,
    /// Maximum number of events in one request to publish, all or none; beyond it, 413. The engine's log appends this
    /// many in one step of at most 10 ms. Default: 65,536.
    pub max_batch_events: usize,
    /// Maximum size of a request's head, in bytes; beyond it, 431. Default: 16 KiB.
    pub max_head_bytes: usize,
    /// Maximum number of subscriptions of one client; beyond it, an error. Default: 1,000.
    pub max_subscriptions: usize,
    /// Maximum number of values and pattern segments in all subscriptions of one client together; a `**` counts 16. Beyond it,
    /// an error. Default: 32,768.
    pub max_subscription_values: usize,
    /// Maximum number of open connections, all loops together; beyond it, new ones are refused. Default: 100,000.
    pub max_connections: usize,
    /// Maximum number of events that a feed keeps for slow members; older ones become a gap. Default: 1,000.
    pub max_lag_events: usize,
    /// Maximum number of bytes that a feed keeps for slow members; older events become a gap. Default: 1 MiB.
    pub max_lag_bytes: usize,
    /// Memory budget for clients, in bytes, all loops together: retained frames of feeds, each connection's own bytes,
    /// incomplete input, and tables of subscriptions. Beyond it, feeds drop retained frames, then the connections that hold
    /// the most are closed. While that is not enough, no new stream is accepted. Publishers are always served. `None`: no
    /// budget. Default: 1 GiB.
    pub max_memory_bytes: Option<usize>,
    /// Maximum number of keys with a latest event that a feed keeps, for subscriptions that conflate. Default: 10,000.
    pub max_conflate_keys: usize,
    /// Maximum number of keys with a latest event that a loop keeps, for subscriptions that begin with a snapshot. Default:
    /// 10,000.
    pub max_snapshot_keys: usize,
    /// Attributes that identify the subject of an event, for `conflate` and `snapshot`. Empty: type and entity if there is
    /// one, else type and stream.
    pub conflate_key: Vec<Attribute>,
    /// Maximum time for a request's head to arrive. Default: 5 s.
    pub handshake_timeout: Duration,
    /// Maximum time for a request's body to arrive. Default: 30 s.
    pub body_timeout: Duration,
    /// Maximum time between two requests of a connection. Default: 75 s.
    pub keep_alive: Duration,
    /// Interval of heartbeats to a quiet client (WebSocket ping, SSE comment). A client is closed after two unanswered
    /// pings. Default: 30 s.
    pub heartbeat: Duration,
    /// Delay before a disconnected SSE client reconnects, sent as `retry`. Default: 3 s.
    pub retry: Duration,
    /// Time over which streams are closed when the server drains, in random order. Default: 0 s, all at once.
    pub drain_window: Duration,
    /// Rate at which drained clients are asked to reconnect, in clients per second, so that they do not all return at
    /// once; at least 1. Default: 1,000.
    pub drain_return_rate: u32,
    /// Maximum number of connections accepted per second, all loops together; the kernel queues the others. `None`: no
    /// limit. Default: none.
    pub accept_rate: Option<u32>,
    /// Origins with pages that may read responses in a browser; `*` allows all. Without authentication their pages may also
    /// connect, unless [`allowed_origins`](Self::allowed_origins) is set. Default: none.
    pub cors_origins: Vec<String>,
    /// Systems that are also served at the paths of their own documents. Default: none.
    pub presets: Vec<Preset>,
    /// Paths in addition to the usual ones, each with its dialect. If several match, the last one counts. Default: none.
    pub endpoints: Vec<Endpoint>,
    /// Origins of pages that may open WebSockets and event streams and publish, in addition to the server's own; a page from
    /// elsewhere gets 403. A client without an `Origin` is not a page, and is not refused. `*` allows any origin; `null` is
    /// the origin of pages opened from files. Empty: with authentication any, without it those of this machine
    /// (`http://localhost:5173`, `http://127.0.0.1:3000`) and those in [`cors_origins`](Self::cors_origins).
    pub allowed_origins: Vec<String>,
    /// Names by which the server may be called, in the `Host` header: `events.example.com`, `*.example.com` for all
    /// below, `*` for any. They are checked only if the server listens on loopback addresses alone, without
    /// authentication and trusted proxies: there a web page with a name that resolves to this machine would pass for
    /// the server's own (DNS rebinding). Addresses, `localhost`, names below it, and hosts of allowed origins are
    /// always accepted. Default: none.
    pub allowed_hosts: Vec<String>,
    /// Whether clients that support it get compressed bytes: permessage-deflate on WebSockets, gzip on event streams.
    /// Without the feature `deflate` no client does. Default: true.
    pub compression: bool,
    /// Maximum number of compression windows of feeds in each loop, about 330 KB each, and together at most an eighth of
    /// [`max_memory_bytes`](Self::max_memory_bytes). Further feeds deflate each event by itself. Default: 64.
    pub max_deflate_windows: usize,
    /// Minimum size of a message that is deflated in the context of earlier ones, in bytes. Default: 64.
    pub deflate_min_bytes: usize,
    /// Compression level, from 1 (about 0.5 microseconds for a small event) to 9. Default: 6, with about 8 microseconds and
    /// a third fewer bytes.
    pub deflate_level: usize,
    /// Minimum size of a message that is deflated by itself, for clients that demand it, in bytes. Default: 1,024.
    pub deflate_alone_min_bytes: usize,
    /// Selection of AutoSDLC's messages for the message log.
    #[cfg(feature = "dialects")]
    pub message_log: MessageLogConfig,
    /// Rate limits of a client's messages and requests.
    pub limits: RateLimits,
    /// Proxies that name their clients in `X-Forwarded-For`, for limits by address. None: the socket's address counts.
    pub trusted_proxies: Vec<AddressRange>,
    /// Limits of the handlers of other protocols' messages.
    pub bridge: BridgeConfig,
    /// Channels with presence. Default: none.
    pub presence: PresenceConfig,
    /// Events to keep in separate logs, in addition to the bus's ring. Default: none.
    pub retain: RetainConfig,
    /// Remembered keys and ids of publications, so that a repeated one is not published again.
    pub dedupe: DedupeConfig,
    /// Whether other machines are served although there is no authentication. Default: false.
    pub insecure: bool,
    /// Authentication and rights. Default: all clients, with all rights.
    #[cfg(feature = "auth")]
    pub auth: AuthConfig,
    /// Maximum number of bytes written to one connection in one turn. Default: 256 KiB.
    pub write_budget_bytes: usize,
    /// Smallest write to several clients of one feed that shares pages of memory, instead of a copy in the kernel for each: for
    /// eight clients or more, twice as many bytes for four. On Linux, for connections without TLS, in programs that ignore or
    /// handle `SIGPIPE`, as every program with Rust's `main` does. `None`: never. Default: 8 KiB.
    pub share_pages_bytes: Option<usize>,
    /// Time for which events may be held back so that more of them share a write, in whole milliseconds. The first
    /// event is written immediately; those that follow within this time are written together. Default: 0 s, not at all.
    pub flush_interval: Duration,
    /// Schemas for payloads from outside: by HTTP, a WebSocket, a bridge or an ingest. Events that a program publishes on its
    /// bus are not checked. Default: none.
    #[cfg(feature = "schema")]
    pub schemas: SchemaConfig,
    /// Certificate and key, for `https://` and `wss://`. Default: none.
    #[cfg(feature = "tls")]
    pub tls: TlsConfig,
    /// Whether WebSocket clients receive their own messages back, and nothing else.
    pub(crate) echo: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_message_bytes: 64 * 1024,
            max_body_bytes: 4 * 1024 * 1024,
            max_batch_events: 65_536,
            max_head_bytes: 16 * 1024,
            max_subscriptions: 1000,
            max_subscription_values: 32_768,
            max_connections: 100_000,
            max_lag_events: 1000,
            max_lag_bytes: 1024 * 1024,
            max_memory_bytes: Some(1 << 30),
            max_conflate_keys: 10_000,
            max_snapshot_keys: 10_000,
            conflate_key: Vec::new(),
            handshake_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            heartbeat: Duration::from_secs(30),
            retry: Duration::from_secs(3),
            drain_window: Duration::ZERO,
            drain_return_rate: 1000,
            accept_rate: None,
            cors_origins: Vec::new(),
            presets: Vec::new(),
            endpoints: Vec::new(),
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            compression: true,
            max_deflate_windows: 64,
            deflate_min_bytes: 64,
            deflate_level: 6,
            deflate_alone_min_bytes: 1024,
            #[cfg(feature = "dialects")]
            message_log: MessageLogConfig::default(),
            limits: RateLimits::default(),
            trusted_proxies: Vec::new(),
            bridge: BridgeConfig::default(),
            presence: PresenceConfig::default(),
            retain: RetainConfig::default(),
            dedupe: DedupeConfig::default(),
            insecure: false,
            #[cfg(feature = "auth")]
            auth: AuthConfig::default(),
            write_budget_bytes: 256 * 1024,
            share_pages_bytes: Some(8 * 1024),
            flush_interval: Duration::ZERO,
            #[cfg(feature = "schema")]
            schemas: SchemaConfig::default(),
            #[cfg(feature = "tls")]
            tls: TlsConfig::default(),
            echo: false,
        }
    }
}

/// A config, with the files that it names loaded.
#[derive(Debug)]
pub(crate) struct Prepared {
    config: ServerConfig,
    #[cfg(feature = "schema")]
    schemas: Schemas,
    #[cfg(feature = "tls")]
    pub(crate) tls_acceptor: tls_config::Acceptor,
}

impl Prepared {
    /// Reads the files that a config names. Blocks for them.
    pub(crate) fn new(config: ServerConfig) -> io::Result<Self> {
        if let Some(fault) = config.endpoints.iter().find_map(Endpoint::fault) {
            return Err(io::Error::other(fault));
        }
        Ok(Self {
            #[cfg(feature = "schema")]
            schemas: Schemas::load(&config.schemas)?,
            #[cfg(feature = "tls")]
            tls_acceptor: tls_config::acceptor(&config.tls)?,
            config,
        })
    }

    /// Returns these settings, but with the values of `running` for settings that a running server can't change.
    pub(crate) fn with_fixed_of(mut self, running: &Self) -> Self {
        self.config = self.config.with_fixed_of(&running.config);
        self
    }

    /// Checks a client's message. The error describes the fault.
    #[cfg(feature = "schema")]
    pub(crate) fn check_message(
        &self,
        protocol: &dyn WireProtocol,
        message: Incoming<'_>,
    ) -> Result<(), ClientError> {
        protocol.check(self.schemas.of_documents(), message, self.max_message_bytes)
    }

    /// Accepts every message.
    #[cfg(not(feature = "schema"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "as with schemas")]
    pub(crate) fn check_message(&self, _: &dyn WireProtocol, _: Incoming<'_>) -> Result<(), ClientError> {
        Ok(())
    }

    /// Returns the context of a dialect's hooks.
    #[cfg_attr(
        not(feature = "dialects"),
        expect(clippy::unused_self, reason = "the log is an optional dialect's")
    )]
    pub(crate) fn watch<'a>(&'a self, observers: &'a Observers, client: u64, now: Timestamp) -> Watch<'a> {
        #[cfg(feature = "dialects")]
        let log = &self.message_log;
        Watch {
            observers,
            #[cfg(feature = "dialects")]
            log,
            client,
            now,
        }
    }

    /// Checks whether an event from outside may be published. The error has the reason.
    pub(crate) fn check_event(&self, event: &Event) -> Result<(), String> {
        if self.presence.reserves(event) {
            return Err(format!("{} is the server's own to say in this channel", event.event_type()));
        }
        #[cfg(feature = "schema")]
        self.schemas.check(event)?;
        Ok(())
    }
}

/// Prepares a config without loading its files.
impl From<ServerConfig> for Prepared {
    fn from(config: ServerConfig) -> Self {
        Self {
            config,
            #[cfg(feature = "schema")]
            schemas: Schemas::default(),
            #[cfg(feature = "tls")]
            tls_acceptor: None,
        }
    }
}

impl Deref for Prepared {
    type Target = ServerConfig;

    fn deref(&self) -> &ServerConfig {
        &self.config
    }
}

impl ServerConfig {
    /// Returns these settings, but with the values of `running` for settings that a running server can't change.
    fn with_fixed_of(self, running: &Self) -> Self {
        Self {
            conflate_key: running.conflate_key.clone(),
            max_snapshot_keys: running.max_snapshot_keys,
            ..self
        }
    }

    pub(crate) fn http_limits(&self) -> HttpLimits {
        HttpLimits {
            max_head_bytes: self.max_head_bytes,
            max_body_bytes: self.max_body_bytes as u64,
            ..HttpLimits::default()
        }
    }

    pub(crate) fn ws_limits(&self) -> WsLimits {
        WsLimits { max_message_bytes: self.max_message_bytes, max_frame_bytes: self.max_message_bytes }
    }

    /// Returns the maximum size of a message that is parsed for its type, and of an inflated one. Before authentication
    /// that is the maximum size of a token and 512 bytes. With 1,024 instead, the most expensive message of an unknown
    /// client took more than 0.1 ms.
    pub(crate) fn message_bytes_max(&self, is_locked: bool) -> usize {
        #[cfg(feature = "auth")]
        if is_locked {
            return self.max_message_bytes.min(self.auth.max_token_bytes.saturating_add(512));
        }
        let _ = is_locked;
        self.max_message_bytes
    }

    pub(crate) fn feed_limits(&self) -> FeedLimits {
        FeedLimits {
            max_events: self.max_lag_events.max(1),
            max_bytes: self.max_lag_bytes,
            max_keys: self.max_conflate_keys.max(1),
            compressor: self.compressor_limits(),
        }
    }

    fn compressor_limits(&self) -> CompressorLimits {
        let affordable =
            self.max_memory_bytes.map_or(usize::MAX, |budget| budget / 8 / window_bytes(WINDOW_BITS_MAX));
        CompressorLimits {
            max_windows: self.max_deflate_windows.min(affordable),
            min_bytes: self.deflate_min_bytes,
            level: self.deflate_level.clamp(1, 9) as u32,
            min_standalone_bytes: self.deflate_alone_min_bytes,
        }
    }

    pub(crate) fn key_rule(&self) -> KeyRule {
        KeyRule::new(&self.conflate_key)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.key_rule(), self.max_snapshot_keys.max(1))
    }

    /// Returns the maximum memory of one client's subscriptions, in bytes: a sixteenth of the memory budget, and at least 1
    /// MiB. With the default budget, 1,000 subscriptions of 256 values each take half of it.
    pub(crate) fn subscription_bytes(&self) -> usize {
        self.max_memory_bytes.map_or(64 << 20, |budget| (budget / 16).max(1 << 20))
    }

    /// Returns the maximum memory of the waiting jobs of one lane, in bytes.
    pub(crate) fn lane_bytes(&self) -> usize {
        self.max_memory_bytes.map_or(usize::MAX, |budget| budget / 8)
    }

    /// Returns the limits of unfinished bodies.
    pub(crate) fn body_limits(&self) -> Option<BodyLimits> {
        self.max_memory_bytes.map(|budget| BodyLimits::new(budget, self.max_body_bytes))
    }

    /// Returns the number of ticks after which a client with a full socket is closed. It is that of a client that
    /// answers no heartbeat.
    pub(crate) fn stalled_ticks(&self) -> Tick {
        let heartbeat = self.heartbeat_ticks();
        2 * heartbeat + (heartbeat / 2).max(3)
    }

    /// Returns the dialect at a path, and the channel that the path names.
    pub(crate) fn endpoint(&self, path: &str) -> Option<(Dialect, String)> {
        let found = |endpoint: &Endpoint| Some((endpoint.dialect(), endpoint.matches(path)?));
        (self.endpoints.iter().rev().find_map(found))
            .or_else(|| self.presets.iter().rev().find_map(|preset| found(&preset.endpoint())))
            .or_else(|| Endpoint::usual().iter().rev().find_map(found))
    }

    pub(crate) fn handshake_ticks(&self) -> Tick {
        ticks(self.handshake_timeout)
    }

    pub(crate) fn body_ticks(&self) -> Tick {
        ticks(self.body_timeout)
    }

    pub(crate) fn keep_alive_ticks(&self) -> Tick {
        ticks(self.keep_alive)
    }

    pub(crate) fn bridge_ticks(&self) -> Tick {
        ticks(self.bridge.answer_timeout)
    }

    /// Returns the grace time of presence in ticks, at least one unless it is zero.
    pub(crate) fn presence_grace_ticks(&self) -> Tick {
        (self.presence.grace.as_millis() as u64).div_ceil(TICK_MS)
    }

    pub(crate) fn heartbeat_ticks(&self) -> Tick {
        ticks(self.heartbeat)
    }
}

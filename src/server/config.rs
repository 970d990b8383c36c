//! Settings of a server: limits and times, each with its default and unit.

use std::io;
use std::ops::Deref;
use std::time::Duration;

#[cfg(feature = "auth")]
use super::auth::AuthConfig;
use super::limits::bodies::BodyLimits;
use super::limits::rates::RateLimits;
use super::presence::PresenceConfig;
#[cfg(feature = "schema")]
use super::schemas::{SchemaConfig, Schemas};
use super::tick::{TICK_MS, Tick};
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
use crate::filter::FilterLimits;

/// Limits of the handlers of `POST /bridge/{protocol}`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BridgeConfig {
    /// `bridge.threads`: threads that run the handlers of one protocol at the same time; they begin when there is
    /// something to do, and end when there is not. 4.
    pub threads: usize,
    /// `bridge.max_waiting`: messages of one protocol that wait for a thread; beyond, 503. 1,000.
    pub max_waiting: usize,
    /// `bridge.answer_timeout`: how long a client waits for the answer; then 504, though the handler goes on. 30 s.
    pub answer_timeout: Duration,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self { threads: 4, max_waiting: 1000, answer_timeout: Duration::from_secs(30) }
    }
}

impl BridgeConfig {
    /// Returns the limits of a protocol's lane; its jobs may have `bytes` together.
    pub(crate) fn lane(&self, bytes: usize) -> LaneLimits {
        LaneLimits { threads: self.threads.max(1), waiting: self.max_waiting.max(1), bytes }
    }
}

/// Limits and times of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerConfig {
    /// The longest message taken from a WebSocket client, in bytes; over it the close code is 1009. 65,536.
    pub max_message_bytes: usize,
    /// The longest body of a request, in bytes; over it 413. 4 MiB.
    pub max_body_bytes: usize,
    /// Events in one request to publish, all or none; over it 413. The log takes so many in one step of 10 ms at most.
    /// 65,536.
    pub max_batch_events: usize,
    /// The longest head of a request, in bytes; over it 431. 16 KiB.
    pub max_head_bytes: usize,
    /// Subscriptions of one client; over it an error. 1,000.
    pub max_subscriptions: usize,
    /// Values, and segments of patterns, in all subscriptions of one client together; a `**` counts 16. Over it an error.
    /// 32,768.
    pub max_subscription_values: usize,
    /// Open connections, all loops together; over it new ones are closed at once. 100,000.
    pub max_connections: usize,
    /// How many events a feed keeps for members that are slow, before they get a gap. 1,000.
    pub max_lag_events: usize,
    /// How many bytes a feed keeps for members that are slow, before they get a gap. 1 MiB.
    pub max_lag_bytes: usize,
    /// Bytes that may be held for clients, all loops together: what feeds keep, what is each connection's own, what is
    /// still coming in, and tables of what they asked for. Beyond, feeds let go of their past, then those that hold the
    /// most are closed; while that is not enough, no new stream is taken. Publishers are served. `None`: no budget. Default: 1 GiB.
    pub max_memory_bytes: Option<usize>,
    /// Keys of which a feed keeps the latest event, for subscriptions that conflate. 10,000.
    pub max_conflate_keys: usize,
    /// Keys of which the latest event is kept for subscriptions that begin with a snapshot. 10,000.
    pub max_snapshot_keys: usize,
    /// Attributes that identify the subject of an event, for `conflate` and `snapshot`. Empty: type and entity if there is
    /// one, else type and stream.
    pub conflate_key: Vec<Attribute>,
    /// How long a request's head may take to come. 5 s.
    pub handshake_timeout: Duration,
    /// How long a request's body may take to come. 30 s.
    pub body_timeout: Duration,
    /// How long a connection may wait for its next request. 75 s.
    pub keep_alive: Duration,
    /// How often a quiet client is asked whether it is there (WebSocket ping, SSE comment); closed after two
    /// unanswered. 30 s.
    pub heartbeat: Duration,
    /// How long an SSE client is told to wait before it comes back. 3 s.
    pub retry: Duration,
    /// Over how long streams are closed when the server drains, in random order. None: all at once.
    pub drain_window: Duration,
    /// How many clients a second are told to come back after a drain, so that they do not all come at once; at
    /// least 1. 1,000.
    pub drain_return_rate: u32,
    /// Connections accepted in a second, all loops together; the kernel holds the others. `None`: as
    /// they come. Default: none.
    pub accept_rate: Option<u32>,
    /// Origins that may read answers in a browser; `*` allows all. Without authentication their pages may also connect, unless
    /// [`allowed_origins`](Self::allowed_origins) is set. None.
    pub cors_origins: Vec<String>,
    /// Systems that find their protocol at their own document's path too. None.
    pub presets: Vec<Preset>,
    /// More paths and what is spoken there; of several that match, the last. None beside the contract's.
    pub endpoints: Vec<Endpoint>,
    /// Origins of pages that may open WebSockets and event streams and publish, beside the server's own; a page from
    /// elsewhere gets 403. A client without an `Origin` is not a page, and is not refused. `*` allows any; `null` is that of pages
    /// opened from files. Empty: with authentication any, without it those of this machine (`http://localhost:5173`,
    /// `http://127.0.0.1:3000`) and those in [`cors_origins`](Self::cors_origins).
    pub allowed_origins: Vec<String>,
    /// Names by which the server may be called, in the `Host` header: `events.example.com`, `*.example.com` for all below,
    /// `*` for any. They count where it listens on loopback addresses alone, without authentication and trusted proxies:
    /// there a web page with a name that resolves to this machine would pass for the server's own (DNS rebinding). Addresses,
    /// `localhost`, names below it, and hosts of the origins that are allowed need not be named. None.
    pub allowed_hosts: Vec<String>,
    /// Whether clients that can take it get compressed bytes: permessage-deflate on WebSockets, gzip on event
    /// streams. Without the feature `deflate` nobody does. True.
    pub compression: bool,
    /// Windows that feeds' compressors may hold, in each loop; some 330 KB each, and together at most an eighth of
    /// [`max_memory_bytes`](Self::max_memory_bytes). Feeds beyond have each event deflated by itself. 64.
    pub max_deflate_windows: usize,
    /// The shortest message that is deflated with what went before as its context, in bytes. 64.
    pub deflate_min_bytes: usize,
    /// How hard compressors try, from 1 (some half a microsecond for a small event) to 9. Default 6: some 8 microseconds, and
    /// a third fewer bytes.
    pub deflate_level: usize,
    /// The shortest message that is deflated by itself, for clients that demand it, in bytes. 1,024.
    pub deflate_alone_min_bytes: usize,
    /// Messages of AutoSDLC's clients that are logged while the log is read.
    #[cfg(feature = "dialects")]
    pub message_log: MessageLogConfig,
    /// How often a client may ask.
    pub limits: RateLimits,
    /// Proxies that name their clients in `X-Forwarded-For`, for limits by address. None: the socket's address counts.
    pub trusted_proxies: Vec<AddressRange>,
    /// Limits of the handlers of other protocols' messages.
    pub bridge: BridgeConfig,
    /// Channels with presence. None.
    pub presence: PresenceConfig,
    /// Serve other machines though there is no authentication. No.
    pub insecure: bool,
    /// Authentication and rights. Default: all clients, with all rights.
    #[cfg(feature = "auth")]
    pub auth: AuthConfig,
    /// Bytes written to one connection in one turn before the others have theirs. 256 KiB.
    pub write_budget_bytes: usize,
    /// Smallest write to several clients of one feed that shares pages of memory, instead of a copy in the kernel for each: for
    /// eight clients or more, twice as many bytes for four. On Linux, for connections without TLS, in programs that ignore or
    /// handle `SIGPIPE`, as every program with Rust's `main` does. `None`: never. Default: 8 KiB.
    pub share_pages_bytes: Option<usize>,
    /// For how long events may be held back behind others, so that more of them go in one write: the first goes
    /// at once, those that come within this time after it go together. Whole milliseconds. 0 = not at all. 0.
    pub flush_interval: Duration,
    /// Schemas for payloads from outside: by HTTP, a WebSocket, a bridge or an ingest. Events that a program publishes on its
    /// bus are not checked. Default: none.
    #[cfg(feature = "schema")]
    pub schemas: SchemaConfig,
    /// Certificate and key, for `https://` and `wss://`. None.
    #[cfg(feature = "tls")]
    pub tls: TlsConfig,
    /// Every WebSocket client hears what it said, and nothing else.
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

/// A config, and what is read and made for it once.
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
    #[cfg_attr(
        not(any(feature = "schema", feature = "tls")),
        expect(clippy::unnecessary_wraps, reason = "files can fail")
    )]
    pub(crate) fn new(config: ServerConfig) -> io::Result<Self> {
        Ok(Self {
            #[cfg(feature = "schema")]
            schemas: Schemas::load(&config.schemas)?,
            #[cfg(feature = "tls")]
            tls_acceptor: tls_config::acceptor(&config.tls)?,
            config,
        })
    }

    /// This one as far as a running server can take it; the rest stays as it runs.
    pub(crate) fn with_fixed_of(mut self, running: &Self) -> Self {
        self.config = self.config.with_fixed_of(&running.config);
        self
    }

    /// Whether a client's message may be obeyed; else what is wrong with it.
    #[cfg(feature = "schema")]
    pub(crate) fn check_message(
        &self,
        protocol: &dyn WireProtocol,
        message: Incoming<'_>,
    ) -> Result<(), ClientError> {
        protocol.check(self.schemas.of_documents(), message, self.max_message_bytes)
    }

    /// Every message may.
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

    /// Whether an event from outside may be published; else why not.
    pub(crate) fn check_event(&self, event: &Event) -> Result<(), String> {
        if self.presence.reserves(event) {
            return Err(format!("{} is the server's own to say in this channel", event.event_type()));
        }
        #[cfg(feature = "schema")]
        self.schemas.check(event)?;
        Ok(())
    }
}

/// Without what would be read for it.
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

fn ticks(time: Duration) -> Tick {
    (time.as_millis() as u64).div_ceil(TICK_MS).max(1)
}

impl ServerConfig {
    /// These settings, but for those that a running server can't change: they stay as in `running`.
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

    /// The longest message that is read for its type, and the most that one may be inflated to. Before authentication
    /// that is a token and 512 bytes around it; 1,024 made the dearest message of a stranger cost more than 0.1 ms.
    pub(crate) fn glance_limits(&self, is_locked: bool) -> usize {
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

    #[allow(clippy::unused_self, reason = "the limits become configurable with the matcher")]
    pub(crate) fn filter_limits(&self) -> FilterLimits {
        FilterLimits::default()
    }

    /// Bytes that one client's subscriptions may take: a sixteenth of the memory budget, and 1 MiB at the least. With the
    /// default budget 1,000 subscriptions of 256 values each take half of it.
    pub(crate) fn subscription_bytes(&self) -> usize {
        self.max_memory_bytes.map_or(64 << 20, |budget| (budget / 16).max(1 << 20))
    }

    /// Bytes that jobs of one lane of workers may have.
    pub(crate) fn lane_bytes(&self) -> usize {
        self.max_memory_bytes.map_or(usize::MAX, |budget| budget / 8)
    }

    /// Returns the limits of unfinished bodies.
    pub(crate) fn body_limits(&self) -> Option<BodyLimits> {
        self.max_memory_bytes.map(|budget| BodyLimits::new(budget, self.max_body_bytes))
    }

    /// Returns the ticks after which a client with a full socket is closed, as one that answers no heartbeat is.
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

    /// How long a user may be away. None at all is none.
    pub(crate) fn presence_grace_ticks(&self) -> Tick {
        (self.presence.grace.as_millis() as u64).div_ceil(TICK_MS)
    }

    pub(crate) fn heartbeat_ticks(&self) -> Tick {
        ticks(self.heartbeat)
    }
}

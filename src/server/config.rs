//! What a server can be told: limits and times, each with its default and unit.
//!
//! Imports `codec`, `feed`, `filter`. Always: the defaults are the contract's.

use std::time::Duration;

use super::wheel::{TICK_MS, Tick};
use super::{Endpoint, System};
use crate::codec::http::HttpLimits;
use crate::codec::ws::WsLimits;
use crate::dialect::Dialect;
use crate::event::Attribute;
use crate::feed::{FeedLimits, KeyRule, Snapshot};
use crate::filter::FilterLimits;

/// Limits and times of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerConfig {
    /// The longest message taken from a WebSocket client, in bytes; over it the close code is 1009. 65,536.
    pub max_message_bytes: usize,
    /// The longest body of a request, in bytes; over it 413. 4 MiB.
    pub max_body_bytes: usize,
    /// The longest head of a request, in bytes; over it 431. 16 KiB.
    pub max_head_bytes: usize,
    /// Subscriptions of one client; over it an error. 1,000.
    pub max_subscriptions: usize,
    /// Open connections, all loops together; over it new ones are closed at once. 100,000.
    pub max_connections: usize,
    /// How many events a feed keeps for members that are slow, before they get a gap. 1,000.
    pub max_lag_events: usize,
    /// How many bytes a feed keeps for members that are slow, before they get a gap. 1 MiB.
    pub max_lag_bytes: usize,
    /// Bytes that may be held for clients, all loops together: what feeds keep and what is each connection's
    /// own. Beyond, feeds let go of their past, then the worst laggards are closed, and no new stream is taken;
    /// publishers are served. 0 = no budget. 1 GiB.
    pub max_memory_bytes: usize,
    /// Keys of which a feed keeps the latest event, for subscriptions that conflate. 10,000.
    pub max_conflate_keys: usize,
    /// Keys of which the latest event is kept for subscriptions that begin with a snapshot. 10,000.
    pub max_snapshot_keys: usize,
    /// What makes two events be about the same thing, for `conflate` and `snapshot`. Empty: type and entity
    /// where there is one, else type and stream.
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
    /// Origins that may read answers from a browser; `*` allows all. None.
    pub cors_origins: Vec<String>,
    /// Systems whose clients find their protocol at their own document's path too. None.
    pub systems: Vec<System>,
    /// More paths and what is spoken there; of several that match, the last. None beside the contract's.
    pub endpoints: Vec<Endpoint>,
    /// Bytes written to one connection in one turn before the others have theirs. 256 KiB.
    pub write_budget_bytes: usize,
    /// For how long events may be held back behind others, so that more of them go in one write: the first goes
    /// at once, those that come within this time after it go together. Whole milliseconds. 0 = not at all. 0.
    pub flush_interval: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_message_bytes: 64 * 1024,
            max_body_bytes: 4 * 1024 * 1024,
            max_head_bytes: 16 * 1024,
            max_subscriptions: 1000,
            max_connections: 100_000,
            max_lag_events: 1000,
            max_lag_bytes: 1024 * 1024,
            max_memory_bytes: 1 << 30,
            max_conflate_keys: 10_000,
            max_snapshot_keys: 10_000,
            conflate_key: Vec::new(),
            handshake_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            heartbeat: Duration::from_secs(30),
            retry: Duration::from_secs(3),
            cors_origins: Vec::new(),
            systems: Vec::new(),
            endpoints: Vec::new(),
            write_budget_bytes: 256 * 1024,
            flush_interval: Duration::ZERO,
        }
    }
}

fn ticks(time: Duration) -> Tick {
    (time.as_millis() as u64).div_ceil(TICK_MS).max(1)
}

impl ServerConfig {
    /// These settings, but for those that a running server can't change: they stay as in `running`.
    pub(crate) fn with_fixed_of(self, running: &Self) -> Self {
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

    pub(crate) fn feed_limits(&self) -> FeedLimits {
        FeedLimits {
            max_events: self.max_lag_events.max(1),
            max_bytes: self.max_lag_bytes,
            max_keys: self.max_conflate_keys.max(1),
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

    /// What is spoken at a path, and the channel that the path names.
    pub(crate) fn endpoint(&self, path: &str) -> Option<(Dialect, String)> {
        let found = |endpoint: &Endpoint| Some((endpoint.dialect(), endpoint.matches(path)?));
        (self.endpoints.iter().rev().find_map(found))
            .or_else(|| self.systems.iter().rev().find_map(|system| found(&system.endpoint())))
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

    pub(crate) fn heartbeat_ticks(&self) -> Tick {
        ticks(self.heartbeat)
    }
}

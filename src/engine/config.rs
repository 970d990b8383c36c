//! Settings of an engine.

use std::fmt;
use std::time::Duration;

use super::address::shown;

/// Settings of the log that holds order and history outside the process.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineConfig {
    /// Address of the log: `redis://host:port/db` (feature `redis`), `nats://host:port` (feature `nats`), or
    /// `file:///folder` for files of this node alone. Default: empty, which means no engine.
    ///
    /// Several servers of one log are separated by commas; the node uses the first that answers, and the next one when it
    /// fails. Credentials in the address are never shown.
    pub url: String,
    /// Prefix of the log's keys or streams. Nodes with the same name share one log. Letters, digits, `-` and `_` only.
    /// Default: `fanwire`.
    pub name: String,
    /// Approximate number of events that Redis or NATS keeps of each shard. Default: 100,000.
    pub history: u64,
    /// Maximum number of events that wait to be appended. Beyond it, publishers are refused (HTTP 503 with
    /// `Retry-After`). Default: 10,000.
    pub max_waiting_events: usize,
    /// Maximum size of the events that wait to be appended, in bytes. Beyond it, publishers are refused likewise. An
    /// empty queue takes one submission of any size. Default: 64 MiB.
    pub max_waiting_bytes: usize,
    /// Maximum time that a publisher waits for the log before it is refused. Default: 10 s.
    pub accept_timeout: Duration,
    /// PEM file with the certificates of authorities to trust for `rediss://` and `tls://`. Default: empty, which means
    /// the system's authorities.
    pub tls_ca_file: String,
    /// NATS only: number of servers that keep each event. Read when the streams are created. Default: 1.
    pub replicas: usize,
    /// NATS without JetStream only: whether the node subscribes only to events that its clients want. Events that no
    /// client of this node wants do not reach it and are in no history. Default: false.
    pub by_interest: bool,
    /// Time for which the node stays subscribed after the last client that wanted an event has left. A client that
    /// returns within this time has missed nothing. Default: 1 min.
    pub interest_linger: Duration,
    /// Files only: interval at which written events are synchronized to disk, which makes them safe from a crash of the
    /// machine. Zero: before each publisher is answered. A crash of the process alone loses nothing. Default: 1 s.
    pub sync_interval: Duration,
    /// Files only: approximate maximum size of all files together, in bytes. Default: 1 GiB.
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
    /// Returns the default settings with this address.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
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

//! State shared by the connections of one node to its NATS log.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use super::super::config::EngineConfig;
use super::super::error::EngineError;
use super::super::interest::InterestRegistry;
use super::super::log::OnNotice;
use super::life::{Acknowledged, KnownLog};
use super::link::Driver;
use super::peers::Peers;
use super::plain::{Sent, StampClock};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, Ordering};

/// Whether the server keeps the log. The value only moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LogKind {
    /// The node has not attached yet.
    Unknown,
    /// Plain subjects: the server keeps nothing.
    Plain,
    /// JetStream streams.
    Kept,
}

/// Settings of the log, as NATS needs them.
pub(super) struct NatsSettings {
    pub(super) url: String,
    /// File with certificates of authorities to trust in addition to the system's; empty: the system's alone.
    pub(super) ca_file: String,
    pub(super) name: String,
    pub(super) shards: usize,
    /// Maximum number of events in each shard's stream.
    pub(super) history: u64,
    pub(super) replicas: usize,
    pub(super) accept_timeout: Duration,
}

/// State shared by the appending and the following connection.
pub(super) struct NatsShared {
    pub(super) driver: Arc<Driver>,
    pub(super) settings: NatsSettings,
    /// Random number of this node, so that message ids of two nodes never collide.
    pub(super) node: u64,
    pub(super) on_notice: OnNotice,
    pub(super) interest: Arc<InterestRegistry>,
    pub(super) clock: Arc<StampClock>,
    /// A [`LogKind`].
    kind: AtomicU8,
    pub(super) known: Mutex<KnownLog>,
    pub(super) peers: Mutex<Peers>,
    pub(super) sent: Mutex<Sent>,
    /// Newest delivered stamp of each node, where the server keeps nothing. It outlives a follower: an event that a node
    /// sends again must not be delivered again in another epoch.
    pub(super) delivered: Mutex<HashMap<u64, u64>>,
    /// Messages that streams acknowledged, in a batch that is not answered yet, by record number.
    pub(super) unproven: Mutex<BTreeMap<u64, Acknowledged>>,
}

impl NatsShared {
    /// Starts the runtime. Does not connect.
    pub(super) fn new(
        config: &EngineConfig,
        shards: usize,
        on_notice: OnNotice,
        interest: &Arc<InterestRegistry>,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            driver: Driver::start()?,
            settings: NatsSettings {
                url: config.url.clone(),
                ca_file: config.tls_ca_file.clone(),
                name: config.name.clone(),
                shards,
                history: config.history.clamp(1, i64::MAX as u64),
                replicas: config.replicas.max(1),
                accept_timeout: config.accept_timeout,
            },
            node: RandomState::new().hash_one(0),
            on_notice,
            interest: Arc::clone(interest),
            clock: Arc::default(),
            kind: AtomicU8::new(LogKind::Unknown as u8),
            known: Mutex::default(),
            peers: Mutex::default(),
            sent: Mutex::default(),
            delivered: Mutex::default(),
            unproven: Mutex::default(),
        })
    }

    /// Returns the subject of a shard's events in JetStream.
    pub(super) fn subject(&self, shard: usize) -> String {
        format!("{}.{shard}", self.settings.name)
    }

    /// Returns the subject of notices.
    pub(super) fn notices(&self) -> String {
        format!("{}.notices", self.settings.name)
    }

    pub(super) fn kind(&self) -> LogKind {
        // Relaxed, here and below: no other memory depends on the number, and it only grows.
        match self.kind.load(Ordering::Relaxed) {
            kind if kind == LogKind::Kept as u8 => LogKind::Kept,
            kind if kind == LogKind::Plain as u8 => LogKind::Plain,
            _ => LogKind::Unknown,
        }
    }

    /// Returns whether the log is known to be in streams.
    pub(super) fn is_kept(&self) -> bool {
        self.kind() == LogKind::Kept
    }

    /// Records the kind of the log; a kind earlier in the list changes nothing.
    pub(super) fn found_kind(&self, kind: LogKind) {
        self.kind.fetch_max(kind as u8, Ordering::Relaxed);
    }

    /// Records that the log is in streams.
    pub(super) fn found_streams(&self) {
        if self.kind() == LogKind::Plain {
            tracing::warn!("NATS keeps this log now: the node goes over to its streams");
        }
        self.found_kind(LogKind::Kept);
    }
}

//! State shared by the connections of one node to its Redis log, and how a node joins the log.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use redis::streams::StreamRangeReply;
use redis::{Commands, Connection, RedisError};

use super::super::config::EngineConfig;
use super::super::error::EngineError;
use super::super::log::{OnNotice, Places, SEQUENCE_MAX};
use super::scripts::{self, Joined, parse_id};
use super::servers::{Servers, fault};
use crate::event::{Sequence, Timestamp};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};

/// Field of an entry that holds the event.
pub(super) const FIELD: &str = "e";

/// Time for nodes to report their places after the server changed. A node that lost its connection retries after 2 s at
/// the latest, and may be late on a busy machine. Publishers wait for 10 s by default.
const PATIENCE: Duration = Duration::from_secs(6);

/// Interval at which a node writes that it is alive.
pub(super) const BEAT: Duration = Duration::from_secs(5);

/// Maximum number of attempts to join a log while other nodes begin another life of it.
const TRIES: usize = 8;

/// Reason for an epoch if the hash has none: the log is new, or the hash was lost.
const NONE_YET: &str = "the log had none";

/// State shared by appender and follower.
pub(super) struct RedisShared {
    pub(super) servers: Servers,
    pub(super) keys: RedisKeys,
    /// Random name of this process, which no other process has.
    pub(super) node: String,
    pub(super) history: u64,
    /// Places up to which this node has read or appended. Nothing is appended to a log that does not reach them.
    pub(super) seen: Mutex<Places>,
    /// Epoch and life of the log when this node last joined.
    pub(super) known: Mutex<(u64, String)>,
    /// Number of the batch that was sent without an answer, and the epoch that it was sent in.
    pub(super) unanswered: Mutex<Option<(u64, u64)>>,
    /// Whether the node is registered.
    pub(super) has_joined: AtomicBool,
    /// Epoch that was read to its end, and the one that follows it.
    pub(super) finished: Mutex<Option<(u64, u64)>>,
    pub(super) on_notice: OnNotice,
}

pub(super) struct RedisKeys {
    pub(super) meta: String,
    pub(super) notices: String,
    pub(super) streams: Vec<String>,
}

/// Returns a random name that is unique in practice.
fn random_name() -> String {
    format!("{:016x}{:016x}", RandomState::new().hash_one(1), RandomState::new().hash_one(2))
}

/// Returns a random increment for a new epoch, up to about a second, because epochs are in microseconds.
pub(super) fn random_step() -> u64 {
    RandomState::new().hash_one(3) % (1 << 20)
}

impl RedisShared {
    /// Reads the addresses. Does not connect.
    pub(super) fn new(
        config: &EngineConfig,
        shards: usize,
        on_notice: OnNotice,
    ) -> Result<Self, EngineError> {
        let servers = Servers::new(&config.url, &config.tls_ca_file)?;
        // Braces: in a cluster, all keys of one log must be on one machine for the script.
        let name = &config.name;
        let keys = RedisKeys {
            meta: format!("{{{name}}}:log"),
            notices: format!("{{{name}}}:notices"),
            streams: (0..shards).map(|shard| format!("{{{name}}}:shard:{shard}")).collect(),
        };
        Ok(Self {
            servers,
            keys,
            node: random_name(),
            history: config.history.max(1),
            seen: Mutex::new(Places { epoch: 0, next: vec![0; shards], kept: None }),
            known: Mutex::default(),
            unanswered: Mutex::default(),
            has_joined: AtomicBool::new(false),
            finished: Mutex::default(),
            on_notice,
        })
    }

    pub(super) fn shards(&self) -> usize {
        self.keys.streams.len()
    }

    /// Records that this node has read or appended a shard up to this sequence.
    pub(super) fn saw(&self, epoch: u64, shard: usize, next: Sequence) {
        let mut seen = lock(&self.seen);
        if epoch > seen.epoch {
            seen.epoch = epoch;
            seen.next.fill(0);
        }
        if epoch == seen.epoch
            && let Some(known) = seen.next.get_mut(shard)
        {
            *known = next.max(*known);
        }
    }

    /// Registers this node with the log, or reports that it is alive, and returns the state of the log. `beat` is the
    /// maximum age of the last report.
    pub(super) fn join(&self, connection: &mut Connection, beat: Duration) -> Result<Joined, EngineError> {
        let node_shards = self.shards();
        let join = scripts::join();
        for _ in 0..TRIES {
            let reply: Result<Option<String>, RedisError> = connection.hget(&self.keys.meta, "life");
            let expected = reply.map_err(|error| fault(&error))?.unwrap_or_default();
            let fresh = next_life(connection, &expected).map_err(|error| fault(&error))?;
            // Relaxed, here and below: both threads may find it unset, and then write the same value.
            let is_first = !self.has_joined.load(Ordering::Relaxed);
            // Read before the script looks at the end of the log, because the log grows.
            let seen = lock(&self.seen).clone();
            let mut call = join.key(&self.keys.meta);
            call.key(&self.keys.streams).key(&self.keys.notices);
            call.arg(&self.node).arg(&expected).arg(&fresh).arg(seen.epoch).arg(Timestamp::now().0);
            call.arg(PATIENCE.as_millis() as u64).arg(beat.as_millis() as u64).arg(u8::from(is_first));
            call.arg(random_step());
            call.arg(&seen.next);
            let answer: Result<Vec<String>, RedisError> = call.invoke(connection);
            let answer = answer.map_err(|error| match fault(&error) {
                EngineError::Shards { log, .. } => EngineError::Shards { log, node: node_shards },
                other => other,
            })?;
            let Some(joined) = Joined::read(answer, node_shards)? else { continue };
            if joined.refused.is_empty() {
                // Relaxed: as where it is read.
                self.has_joined.store(true, Ordering::Relaxed);
            }
            if joined.lost == NONE_YET {
                tracing::info!(epoch = joined.epoch, "the engine's log has no epoch: one begins");
            } else if !joined.lost.is_empty() {
                tracing::warn!(epoch = joined.epoch, why = %joined.lost, "the engine's log begins another epoch");
            }
            *lock(&self.known) = (joined.epoch, joined.life.clone());
            return Ok(joined);
        }
        Err(EngineError::TakesNothing("the nodes do not agree which server it is".to_owned()))
    }

    /// Returns places `past` events before the end of the log. If the epoch is too young, they are in earlier epochs.
    pub(super) fn places_before(
        &self,
        connection: &mut Connection,
        joined: &Joined,
        past: u64,
    ) -> Result<Places, EngineError> {
        let mut places = Places {
            epoch: joined.epoch,
            next: joined.next.iter().map(|end| end.saturating_sub(past)).collect(),
            kept: None,
        };
        let mut oldest = Vec::new();
        for (shard, end) in joined.next.iter().enumerate() {
            let stream = &self.keys.streams[shard];
            let id = scripts::back(connection, stream, joined.epoch, past.saturating_sub(*end))?;
            let id = id.and_then(|id| parse_id(&id)).filter(|(_, sequence)| *sequence <= SEQUENCE_MAX);
            oldest.extend(id.map(|id| (shard, id)));
        }
        if let Some(epoch) = oldest.iter().map(|(_, (epoch, _))| *epoch).min() {
            places = Places { epoch, next: vec![0; self.shards()], kept: None };
            for (shard, (of, sequence)) in oldest {
                if of == epoch {
                    places.next[shard] = sequence;
                }
            }
        }
        Ok(places)
    }

    /// Moves places forward to the oldest entries that the log has from there on, or to its end.
    pub(super) fn move_to_oldest(
        &self,
        connection: &mut Connection,
        joined: &Joined,
        places: &mut Places,
    ) -> Result<(), EngineError> {
        let Places { epoch, next, .. } = places;
        for ((stream, next), end) in self.keys.streams.iter().zip(next).zip(&joined.next) {
            if *epoch == joined.epoch && *next >= *end {
                continue;
            }
            let (first, last) = (format!("{epoch}-{next}"), format!("{epoch}-{SEQUENCE_MAX}"));
            let found: StreamRangeReply =
                connection.xrange_count(stream, first, last, 1).map_err(|error| fault(&error))?;
            let oldest = found.ids.first().and_then(|entry| parse_id(&entry.id));
            match oldest {
                Some((_, sequence)) => *next = sequence,
                None if *epoch == joined.epoch => *next = *end,
                None => {}
            }
        }
        Ok(())
    }
}

/// Returns the name of another life if this one has ended, and loads its script; otherwise an empty text.
fn next_life(connection: &mut Connection, life: &str) -> Result<String, RedisError> {
    let is_alive = match scripts::append(life) {
        Some(script) => scripts::has(connection, &script)?,
        None => false,
    };
    let fresh = if is_alive { String::new() } else { random_name() };
    if let Some(script) = scripts::append(&fresh) {
        script.load(connection)?;
    }
    Ok(fresh)
}

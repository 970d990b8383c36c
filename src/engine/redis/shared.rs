//! What appender and follower share.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use redis::{Commands, Connection, RedisError};

use super::super::config::EngineConfig;
use super::super::error::EngineError;
use super::super::log::{OnNotice, Places, SEQUENCE_MAX};
use super::scripts::{self, Joined, parse_id};
use super::servers::{Servers, fault};
use crate::event::{Sequence, Timestamp};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};

/// The field of an entry that holds the event.
pub(super) const FIELD: &str = "e";

/// How long nodes have to say how far they had read, once the server is another one. A node that lost its connection tries
/// again after 2 s at the latest, and one on a busy machine is late. Publishers wait for 10 s by default.
const PATIENCE: Duration = Duration::from_secs(6);

/// How often a node writes that it is there.
pub(super) const BEAT: Duration = Duration::from_secs(5);

/// Tries to join a log while other nodes begin another life of it.
const TRIES: usize = 8;

/// Why an epoch begins where the hash has none: the log is new, or the hash was lost.
const NONE_YET: &str = "the log had none";

/// What appender and follower share.
pub(super) struct RedisShared {
    pub(super) servers: Servers,
    pub(super) keys: RedisKeys,
    /// The name of this process: random, so that no other has it.
    pub(super) node: String,
    pub(super) history: u64,
    /// How far this node has read or appended: what a log must reach for it to be appended to.
    pub(super) seen: Mutex<Places>,
    /// The epoch and life that the log was in when this node joined last.
    pub(super) known: Mutex<(u64, String)>,
    /// The batch that was sent and not answered, and the epoch that it was sent in.
    pub(super) unanswered: Mutex<Option<(u64, u64)>>,
    /// Whether the node has been registered.
    pub(super) has_joined: AtomicBool,
    /// The epoch that was read to its end, and the one that follows it.
    pub(super) finished: Mutex<Option<(u64, u64)>>,
    pub(super) on_notice: OnNotice,
}

pub(super) struct RedisKeys {
    pub(super) meta: String,
    pub(super) notices: String,
    pub(super) streams: Vec<String>,
}

/// Returns a name that nobody else gives.
fn random_name() -> String {
    format!("{:016x}{:016x}", RandomState::new().hash_one(1), RandomState::new().hash_one(2))
}

/// Returns by how much another epoch is above the least that it could be: up to a second, as epochs are in microseconds.
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
        // Braces: in a cluster all keys of one log live on one machine, as the script needs it.
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

    /// Notes that this node has read or appended a shard up to here.
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

    /// Registers this node with the log, or says that it is still there, and learns where the log stands. `beat` is how old
    /// what was written last may be.
    pub(super) fn join(&self, connection: &mut Connection, beat: Duration) -> Result<Joined, EngineError> {
        let node_shards = self.shards();
        let join = scripts::join();
        for _ in 0..TRIES {
            let told: Result<Option<String>, RedisError> = connection.hget(&self.keys.meta, "life");
            let expected = told.map_err(|error| fault(&error))?.unwrap_or_default();
            let fresh = fresh_life(connection, &expected).map_err(|error| fault(&error))?;
            // Relaxed, and below: the two threads may both come first, and write the same.
            let is_first = !self.has_joined.load(Ordering::Relaxed);
            // Before the script looks where the log ends: that grows meanwhile.
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

    /// Returns places so many events before the end of the log. A young epoch has fewer: then those of the epochs before.
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
}

/// Returns the name of another life where this one has ended, and loads its script; else nothing.
fn fresh_life(connection: &mut Connection, life: &str) -> Result<String, RedisError> {
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

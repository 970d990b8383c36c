//! The log as Redis Streams: one stream a shard, appended by a script, followed by `XREAD`.
//!
//! An entry's id is `EPOCH-SEQUENCE`, given by the log's own hash and not by the stream, so every node gives an event the
//! same id. Invariants:
//! - a batch is appended by one script, all or nothing, and remembered by node and number. One that is sent again is answered
//!   and not appended; where the log does not remember whether it has it, its publishers are told so;
//! - no id is given twice. The script compares each stream with what the hash says of it, and with what the node has read. A server
//!   process that is not the one of the last append takes nothing until every node that was there has said how far it had
//!   read: `join.lua` says how. Where something is missing or can't be known, another epoch begins, above every id that is there;
//! - notices stand in a stream of their own that is read together with the events, and first: so a node has heard
//!   every notice that was told before an event was appended;
//! - of several servers the one that is no replica counts, so that a node finds the new one when a replica was
//!   promoted;
//! - what ae66709 and before wrote opens as it is, and nodes of that version may share the log: they write neither the fields
//!   nor the names of lives, so the script looks at the streams where these are behind.

mod append;
mod follow;
mod scripts;
mod servers;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use redis::streams::StreamMaxlen;
use redis::{Commands, Connection, RedisError};

use super::history::{Past, RedisPast};
use super::ingest::OnMessage;
use super::{Append, EngineConfig, EngineError, Follow, Log, NOTICES_MAX, OnNotice, Places, SEQUENCE_MAX};
use crate::event::{Sequence, Timestamp};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};
use scripts::Joined;
use servers::{Servers, fault};

/// The field of an entry that holds the event.
const FIELD: &str = "e";

/// How long nodes have to say how far they had read, once the server is another one. A node that lost its connection tries
/// again after 2 s at the latest, and one on a busy machine is late. Publishers wait for 10 s by default.
const PATIENCE: Duration = Duration::from_secs(6);

/// How often a node writes that it is there.
const BEAT: Duration = Duration::from_secs(5);

/// Tries to join a log while other nodes begin another life of it.
const TRIES: usize = 8;

/// Why an epoch begins where the hash has none: the log is new, or the hash was lost.
const NONE_YET: &str = "the log had none";

/// A log in Redis.
pub(super) struct RedisLog {
    shared: Arc<Shared>,
}

/// What appender and follower share.
struct Shared {
    servers: Servers,
    keys: Keys,
    /// The name of this process: random, so that no other has it.
    node: String,
    history: u64,
    /// How far this node has read or appended: what a log must reach for it to be appended to.
    seen: Mutex<Places>,
    /// The epoch and life that the log was in when this node joined last.
    known: Mutex<(u64, String)>,
    /// The batch that was sent and not answered, and the epoch that it was sent in.
    unanswered: Mutex<Option<(u64, u64)>>,
    /// Whether the node has been registered.
    has_joined: AtomicBool,
    /// The epoch that was read to its end, and the one that follows it.
    finished: Mutex<Option<(u64, u64)>>,
    on_notice: OnNotice,
}

struct Keys {
    meta: String,
    notices: String,
    streams: Vec<String>,
}

/// Returns a name that nobody else gives.
fn random_name() -> String {
    format!("{:016x}{:016x}", RandomState::new().hash_one(1), RandomState::new().hash_one(2))
}

/// Returns by how much another epoch is above the least that it could be: up to a second, as epochs are in microseconds.
fn random_step() -> u64 {
    RandomState::new().hash_one(3) % (1 << 20)
}

impl RedisLog {
    pub(super) fn new(
        config: &EngineConfig,
        shards: usize,
        on_notice: OnNotice,
    ) -> Result<Self, EngineError> {
        let servers = Servers::new(&config.url, &config.tls_ca_file)?;
        // Braces: in a cluster all keys of one log live on one machine, as the script needs it.
        let name = &config.name;
        let keys = Keys {
            meta: format!("{{{name}}}:log"),
            notices: format!("{{{name}}}:notices"),
            streams: (0..shards).map(|shard| format!("{{{name}}}:shard:{shard}")).collect(),
        };
        let shared = Shared {
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
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    fn shards(&self) -> usize {
        self.keys.streams.len()
    }

    /// Notes that this node has read or appended a shard up to here.
    fn saw(&self, epoch: u64, shard: usize, next: Sequence) {
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
    fn join(&self, connection: &mut Connection, beat: Duration) -> Result<Joined, EngineError> {
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
    fn places_before(
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
            let id =
                id.and_then(|id| follow::parse_id(&id)).filter(|(_, sequence)| *sequence <= SEQUENCE_MAX);
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

impl Log for RedisLog {
    fn past(&self) -> Result<Option<Box<dyn Past>>, EngineError> {
        let connection = self.shared.servers.connect_to_primary()?;
        Ok(Some(Box::new(RedisPast::new(connection, self.shared.keys.streams.clone(), FIELD))))
    }

    fn tell(&self, notice: &str) -> Result<(), EngineError> {
        let mut connection = self.shared.servers.connect_to_primary()?;
        let most = StreamMaxlen::Approx(NOTICES_MAX as usize);
        let told: Result<String, RedisError> =
            connection.xadd_maxlen(&self.shared.keys.notices, most, "*", &[(FIELD, notice)]);
        told.map(|_| ()).map_err(|error| fault(&error))
    }

    fn appender(&self) -> Result<Box<dyn Append>, EngineError> {
        let mut connection = self.shared.servers.connect_to_primary()?;
        self.shared.join(&mut connection, BEAT)?;
        Ok(Box::new(append::Appender::new(connection, Arc::clone(&self.shared))))
    }

    fn follower(&self, known: Option<&Places>, past: u64) -> Result<(Box<dyn Follow>, Places), EngineError> {
        let shared = &self.shared;
        let mut connection = shared.servers.connect_to_primary()?;
        for (shard, next) in known.iter().flat_map(|known| known.next.iter().enumerate()) {
            shared.saw(known.map_or(0, |known| known.epoch), shard, *next);
        }
        let joined = shared.join(&mut connection, BEAT)?;
        let finished = *lock(&shared.finished);
        let places = match (known, finished) {
            (Some(known), Some((epoch, then))) if known.epoch == epoch && then < joined.epoch => {
                Places { epoch: then, next: vec![0; shared.shards()], kept: None }
            }
            (Some(known), Some((epoch, _))) if known.epoch == epoch && epoch < joined.epoch => Places {
                epoch: joined.epoch,
                next: joined.next.iter().map(|end| end.saturating_sub(past)).collect(),
                kept: None,
            },
            // What is left of an epoch that has ended is read to its end.
            (Some(known), _)
                if (1..=joined.epoch).contains(&known.epoch) && known.next.len() == shared.shards() =>
            {
                known.clone()
            }
            _ => shared.places_before(&mut connection, &joined, past)?,
        };
        let mut follower = follow::Follower::new(connection, Arc::clone(shared), &joined);
        follower.hear_all()?;
        Ok((Box::new(follower), places))
    }
}

impl Drop for RedisLog {
    /// Takes this node off the list of those that are asked, where it leaves in order.
    fn drop(&mut self) {
        let shared = &self.shared;
        // Relaxed: set by threads that have ended.
        if shared.has_joined.load(Ordering::Relaxed)
            && let Ok(mut connection) = shared.servers.connect_to_primary()
        {
            let fields = [format!("node:{}", shared.node), format!("batch:{}", shared.node)];
            let gone: Result<u64, RedisError> = connection.hdel(&shared.keys.meta, &fields);
            if let Err(error) = gone {
                tracing::debug!(%error, "the node stays registered with the engine's log for a minute");
            }
        }
    }
}

/// Hands over the messages of a channel, or of all that a pattern names. See [`super::ingest`].
pub(super) fn listen(
    url: &str,
    ca_file: &str,
    channel: &str,
    on_message: OnMessage<'_>,
) -> Result<(), EngineError> {
    let mut connection = Servers::new(url, ca_file)?.connect(|_| Ok(()))?;
    let mut messages = connection.as_pubsub();
    if channel.contains('*') {
        messages.psubscribe(channel).map_err(|error| fault(&error))?;
    } else {
        messages.subscribe(channel).map_err(|error| fault(&error))?;
    }
    messages.set_read_timeout(Some(super::ingest::wait())).map_err(|error| fault(&error))?;
    loop {
        let goes_on = match messages.get_message() {
            Ok(message) => on_message(Some((message.get_channel_name(), message.get_payload_bytes()))),
            Err(error) if error.is_timeout() => on_message(None),
            Err(error) => return Err(fault(&error)),
        };
        if !goes_on {
            return Ok(());
        }
    }
}

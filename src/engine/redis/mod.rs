//! The log as Redis Streams: one stream for each shard, appended to by a script, followed by `XREAD`.
//!
//! An entry's id is `EPOCH-SEQUENCE`. The log's own hash gives it, not the stream, so every node gives an event the
//! same id.
//!
//! Invariants:
//! - One script appends a batch, all or nothing, and remembers it by node and number. A batch that is sent again is
//!   answered and not appended. If the log no longer remembers it, the outcome is reported as unknown.
//! - No id is given twice. The script compares each stream with the hash and with what the node has read. If the server
//!   process is not the one of the last append, nothing is accepted until every known node has reported its places
//!   (`join.lua`). If something is missing or unknown, another epoch begins, above every existing id.
//! - Notices have a stream of their own that is read together with the events, and first. So a node that receives an
//!   event has received every notice that was sent before it.
//! - If the address lists several servers, a node uses the primary, so it finds the new primary after a failover.
//! - Logs of version ae66709 and earlier open as they are, and nodes of that version may share the log: they write
//!   neither the fields nor the names of lives, so the script looks at the streams if these are behind.

mod append;
mod follow;
mod past;
mod scripts;
mod servers;
mod shared;

use std::sync::Arc;

use redis::streams::StreamMaxlen;
use redis::{Commands as _, RedisError};

use super::config::EngineConfig;
use super::error::EngineError;
use super::listen::{LISTEN_WAIT, OnMessage};
use super::log::{Append, Follow, FollowStart, Log, NOTICES_MAX, OnNotice, Past, Places};
use crate::sync::atomic::Ordering;
use crate::sync::lock;
use append::RedisAppender;
use follow::RedisFollower;
use past::RedisPast;
use servers::{Servers, fault};
use shared::{BEAT, FIELD, RedisShared};

/// Log in Redis.
pub(super) struct RedisLog {
    shared: Arc<RedisShared>,
}

impl RedisLog {
    pub(super) fn new(
        config: &EngineConfig,
        shards: usize,
        on_notice: OnNotice,
    ) -> Result<Self, EngineError> {
        let shared = RedisShared::new(config, shards, on_notice)?;
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Log for RedisLog {
    fn past(&self) -> Result<Option<Box<dyn Past>>, EngineError> {
        let connection = self.shared.servers.connect_to_primary()?;
        Ok(Some(Box::new(RedisPast::new(connection, self.shared.keys.streams.clone(), FIELD))))
    }

    fn send_notice(&self, notice: &str) -> Result<(), EngineError> {
        let mut connection = self.shared.servers.connect_to_primary()?;
        let most = StreamMaxlen::Approx(NOTICES_MAX as usize);
        let reply: Result<String, RedisError> =
            connection.xadd_maxlen(&self.shared.keys.notices, most, "*", &[(FIELD, notice)]);
        reply.map(|_| ()).map_err(|error| fault(&error))
    }

    fn appender(&self) -> Result<Box<dyn Append>, EngineError> {
        let mut connection = self.shared.servers.connect_to_primary()?;
        self.shared.join(&mut connection, BEAT)?;
        Ok(Box::new(RedisAppender::new(connection, Arc::clone(&self.shared))))
    }

    fn follower(
        &self,
        known: Option<&Places>,
        past: u64,
    ) -> Result<(Box<dyn Follow>, FollowStart), EngineError> {
        let shared = &self.shared;
        let mut connection = shared.servers.connect_to_primary()?;
        for (shard, next) in known.iter().flat_map(|known| known.next.iter().enumerate()) {
            shared.saw(known.map_or(0, |known| known.epoch), shard, *next);
        }
        let joined = shared.join(&mut connection, BEAT)?;
        let finished = *lock(&shared.finished);
        let mut is_known = false;
        let mut places = match (known, finished) {
            (Some(known), Some((epoch, then))) if known.epoch == epoch && then < joined.epoch => {
                Places { epoch: then, next: vec![0; shared.shards()], kept: None }
            }
            (Some(known), Some((epoch, _))) if known.epoch == epoch && epoch < joined.epoch => Places {
                epoch: joined.epoch,
                next: joined.next.iter().map(|end| end.saturating_sub(past)).collect(),
                kept: None,
            },
            // The rest of an ended epoch is read to its end.
            (Some(known), _)
                if (1..=joined.epoch).contains(&known.epoch) && known.next.len() == shared.shards() =>
            {
                is_known = true;
                known.clone()
            }
            _ => shared.places_before(&mut connection, &joined, past)?,
        };
        if !is_known {
            shared.move_to_oldest(&mut connection, &joined, &mut places)?;
        }
        let mut follower = RedisFollower::new(connection, Arc::clone(shared), &joined);
        follower.receive_notices()?;
        let end = Places { epoch: joined.epoch, next: joined.next, kept: None };
        Ok((Box::new(follower), FollowStart { places, end }))
    }
}

impl Drop for RedisLog {
    /// Removes this node from the list of nodes to wait for, if it leaves in order.
    fn drop(&mut self) {
        let shared = &self.shared;
        // Relaxed: the threads that set it have ended.
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

/// Passes the messages of a channel, or of all channels that match a pattern, to `on_message`. See [`super::ingest`].
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
    messages.set_read_timeout(Some(LISTEN_WAIT)).map_err(|error| fault(&error))?;
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

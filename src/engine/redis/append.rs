//! The connection that appends.

use std::sync::Arc;
use std::time::Duration;

use redis::{Connection, RedisError};

use super::super::error::EngineError;
use super::super::log::{Append, AppendBatch, Record};
use super::scripts::{self, Appended, Joined, unreadable};
use super::servers::fault;
use super::shared::{BEAT, RedisShared, random_step};
use crate::event::{EventId, Sequence, Timestamp};
use crate::sync::lock;

/// Maximum size of one argument, in bytes, unless the server has another limit (`proto-max-bulk-len`).
const ARGUMENT_BYTES_MAX: u64 = 512 << 20;

/// Maximum size of one batch, in bytes: half of the default query buffer of a client.
const BATCH_BYTES_MAX: u64 = 512 << 20;

/// Maximum number of attempts to append if the server changes each time.
const TRIES: usize = 4;

pub(super) struct RedisAppender {
    connection: Connection,
    shared: Arc<RedisShared>,
    /// Maximum size of one event, in bytes.
    event_bytes_max: u64,
}

/// Events of a batch for one shard.
struct ShardGroup<'a> {
    shard: u16,
    events: Vec<&'a str>,
}

fn groups(records: &[Record]) -> Vec<ShardGroup<'_>> {
    let mut groups: Vec<ShardGroup<'_>> = Vec::new();
    for Record { shard, json } in records {
        match groups.iter_mut().find(|group| group.shard == *shard) {
            Some(group) => group.events.push(json),
            None => groups.push(ShardGroup { shard: *shard, events: vec![json] }),
        }
    }
    groups
}

impl RedisAppender {
    pub(super) fn new(mut connection: Connection, shared: Arc<RedisShared>) -> Self {
        // If this user may not read the limit, the default applies.
        let reply: Result<Vec<String>, RedisError> =
            redis::cmd("CONFIG").arg("GET").arg("proto-max-bulk-len").query(&mut connection);
        let reply = reply.ok().and_then(|reply| reply.get(1)?.parse().ok());
        Self { connection, shared, event_bytes_max: reply.unwrap_or(ARGUMENT_BYTES_MAX) }
    }

    fn try_append(&mut self, batch: &AppendBatch<'_>, sent_in: Option<u64>) -> Result<Appended, RedisError> {
        let shared = &*self.shared;
        let life = lock(&shared.known).1.clone();
        let Some(script) = scripts::append(&life) else {
            return Err((redis::ErrorKind::Client, "the log's life has no name").into());
        };
        let seen = lock(&shared.seen).clone();
        let mut call = redis::cmd("EVALSHA");
        call.arg(script.get_hash()).arg(1 + shared.keys.streams.len());
        call.arg(&shared.keys.meta).arg(&shared.keys.streams);
        call.arg(&shared.node)
            .arg(batch.number)
            .arg(sent_in.map_or_else(String::new, |epoch| epoch.to_string()));
        call.arg(shared.history).arg(seen.epoch).arg(Timestamp::now().0).arg(random_step());
        for ShardGroup { shard, events } in groups(batch.records) {
            let next = seen.next.get(usize::from(shard)).copied().unwrap_or(0);
            call.arg(shard).arg(next).arg(events.len()).arg(events);
        }
        let answer: String = call.query(&mut self.connection)?;
        Appended::read(&answer).map_err(|_| (redis::ErrorKind::Parse, "the log's answer").into())
    }
}

/// Returns an error while other nodes have not reported their places: nothing may be appended before that.
fn check_all_reported(joined: &Joined) -> Result<(), EngineError> {
    match joined.waits {
        0 => Ok(()),
        waits => Err(EngineError::TakesNothing(format!(
            "the server has changed, and {waits} nodes have not reported yet how far they had read"
        ))),
    }
}

impl Append for RedisAppender {
    fn check(&self, records: &[Record]) -> Result<(), EngineError> {
        let longest = records.iter().map(|record| record.json.len() as u64).max().unwrap_or(0);
        let all: u64 = records.iter().map(|record| record.json.len() as u64).sum();
        for (bytes, limit) in [(longest, self.event_bytes_max), (all, BATCH_BYTES_MAX)] {
            if bytes > limit {
                return Err(EngineError::TooLarge { bytes, limit });
            }
        }
        Ok(())
    }

    fn append(&mut self, batch: &AppendBatch<'_>) -> Result<Vec<EventId>, EngineError> {
        let shared = Arc::clone(&self.shared);
        let mut tries = 0;
        let appended = loop {
            let sent_in = lock(&shared.unanswered).filter(|(number, _)| *number == batch.number);
            let epoch = lock(&shared.known).0;
            match self.try_append(batch, sent_in.map(|(_, epoch)| epoch)) {
                Ok(appended) => break appended,
                Err(error) => match error.code() {
                    // Nothing was appended: the server is another process, or the log began another life.
                    Some("NOSCRIPT" | "OTHERLIFE" | "WAITING") if tries < TRIES => {
                        tries += 1;
                        let joined = shared.join(&mut self.connection, BEAT)?;
                        check_all_reported(&joined)?;
                    }
                    Some("FORGOTTEN") => return Err(EngineError::InDoubt(error.to_string())),
                    Some(_) => return Err(fault(&error)),
                    None => {
                        *lock(&shared.unanswered) = sent_in.or(Some((batch.number, epoch)));
                        return Err(fault(&error));
                    }
                },
            }
        };
        *lock(&shared.unanswered) = None;
        let mut next: Vec<Option<Sequence>> = vec![None; shared.shards()];
        for (shard, first) in appended.first {
            *next.get_mut(usize::from(shard)).ok_or_else(unreadable)? = Some(first);
        }
        let mut sequences = Vec::with_capacity(batch.records.len());
        for Record { shard, .. } in batch.records {
            let place = next.get_mut(usize::from(*shard)).and_then(Option::as_mut).ok_or_else(unreadable)?;
            sequences.push(*place);
            *place += 1;
        }
        for (shard, next) in next.into_iter().enumerate().filter_map(|(shard, next)| Some((shard, next?))) {
            shared.saw(appended.epoch, shard, next);
        }
        lock(&shared.known).0 = appended.epoch;
        Ok(batch.ids(appended.epoch, &sequences))
    }

    fn probe(&mut self) -> Result<(), EngineError> {
        // Joining writes that the node is alive; a server that accepts nothing refuses that too.
        let joined = self.shared.join(&mut self.connection, Duration::ZERO)?;
        check_all_reported(&joined)?;
        match joined.refused {
            refused if refused.is_empty() => Ok(()),
            refused => Err(EngineError::TakesNothing(refused)),
        }
    }
}

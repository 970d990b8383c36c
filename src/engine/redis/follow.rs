//! The connection that follows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::streams::{StreamId, StreamReadOptions, StreamReadReply};
use redis::{Commands, Connection, Value};

use super::super::error::EngineError;
use super::super::log::{Follow, LogEntry, Places, SEQUENCE_MAX};
use super::scripts::{Joined, parse_id};
use super::servers::fault;
use super::shared::{BEAT, FIELD, RedisShared};
use crate::event::{EventId, Sequence};
use crate::sync::lock;

/// Maximum number of entries of each shard that are read together.
const READ_COUNT_MAX: usize = 1000;

/// Number of entries of each shard that the first read requests.
const READ_COUNT_FIRST: usize = 128;

/// Size of an answer, in bytes, above which fewer entries are requested.
const READ_BYTES: usize = 8 << 20;

/// Interval at which a follower checks that the log is the same.
const CHECK: Duration = Duration::from_secs(1);

/// Id before the first notice.
const BEFORE_FIRST: &str = "0-0";

/// Returns the content of an entry; empty if no node wrote it.
fn text_of(entry: &StreamId) -> &[u8] {
    match entry.map.get(FIELD) {
        Some(Value::BulkString(text)) => text,
        _ => b"",
    }
}

pub(super) struct RedisFollower {
    connection: Connection,
    shared: Arc<RedisShared>,
    /// Epoch of the log.
    epoch: u64,
    /// Id of the last notice.
    last_notice: String,
    read_count: usize,
    checked: Instant,
}

impl RedisFollower {
    pub(super) fn new(connection: Connection, shared: Arc<RedisShared>, joined: &Joined) -> Self {
        Self {
            connection,
            shared,
            epoch: joined.epoch,
            last_notice: BEFORE_FIRST.to_owned(),
            read_count: READ_COUNT_FIRST,
            checked: Instant::now(),
        }
    }

    fn pass_on(&mut self, notices: &[StreamId]) {
        for notice in notices {
            (self.shared.on_notice)(text_of(notice));
            self.last_notice.clone_from(&notice.id);
        }
    }

    /// Receives the existing notices.
    pub(super) fn receive_notices(&mut self) -> Result<(), EngineError> {
        let options = StreamReadOptions::default().count(READ_COUNT_MAX);
        loop {
            let reply: Option<StreamReadReply> = self
                .connection
                .xread_options(&[&self.shared.keys.notices], &[&self.last_notice], &options)
                .map_err(|error| fault(&error))?;
            let notices = reply.and_then(|mut reply| reply.keys.pop()).map_or_else(Vec::new, |key| key.ids);
            self.pass_on(&notices);
            if notices.len() < READ_COUNT_MAX {
                return Ok(());
            }
        }
    }

    /// Checks at intervals that the log is the same, and reports that the node is alive.
    fn check(&mut self) -> Result<(), EngineError> {
        if self.checked.elapsed() < CHECK {
            return Ok(());
        }
        self.checked = Instant::now();
        let joined = self.shared.join(&mut self.connection, BEAT)?;
        if joined.epoch != self.epoch {
            return Err(EngineError::OtherEpoch);
        }
        if parse_id(&joined.notices) < parse_id(&self.last_notice) {
            // The notices were lost. Newer ones are received from the first.
            tracing::warn!(
                "the engine's log has lost notices: nodes that join later do not know of earlier revocations"
            );
            BEFORE_FIRST.clone_into(&mut self.last_notice);
        }
        Ok(())
    }

    /// Adapts the number of requested entries to their size.
    fn adapt_read_count(&mut self, reply: &StreamReadReply) {
        let entries = reply.keys.iter().flat_map(|stream| &stream.ids);
        let bytes: usize = entries.map(|entry| text_of(entry).len()).sum();
        self.read_count = match bytes {
            bytes if bytes > READ_BYTES => (self.read_count / 2).max(1),
            bytes if bytes < READ_BYTES / 4 => (self.read_count * 2).min(READ_COUNT_MAX),
            _ => self.read_count,
        };
    }
}

impl Follow for RedisFollower {
    fn follow(
        &mut self,
        places: &Places,
        wait: Duration,
        take: &mut dyn FnMut(LogEntry<'_>),
    ) -> Result<(), EngineError> {
        self.check()?;
        let shared = Arc::clone(&self.shared);
        let keys: Vec<&String> = std::iter::once(&shared.keys.notices).chain(&shared.keys.streams).collect();
        let places_after = (places.next.iter()).map(|next| match next.checked_sub(1) {
            Some(last) => format!("{}-{last}", places.epoch),
            None => format!("{}-{}", places.epoch.saturating_sub(1), u64::MAX),
        });
        let after: Vec<String> = std::iter::once(self.last_notice.clone()).chain(places_after).collect();
        let count = self.read_count;
        let mut options = StreamReadOptions::default().count(count);
        let has_ended = places.epoch < self.epoch;
        if !has_ended {
            options = options.block(wait.as_millis().max(1) as usize);
        }
        let reply: Option<StreamReadReply> =
            self.connection.xread_options(&keys, &after, &options).map_err(|error| fault(&error))?;
        let reply = reply.unwrap_or_default();
        self.adapt_read_count(&reply);
        if let Some(notices) = reply.keys.iter().find(|stream| stream.key == shared.keys.notices) {
            self.pass_on(&notices.ids);
            if notices.ids.len() >= count {
                self.receive_notices()?;
            }
        }
        // Next epoch, if one was read, and whether this one may have more.
        let mut then: Option<u64> = None;
        let mut has_more = false;
        for stream in &reply.keys {
            let Some(shard) = shared.keys.streams.iter().position(|key| *key == stream.key) else { continue };
            let is_ours =
                |(epoch, sequence): &(u64, Sequence)| *epoch == places.epoch && *sequence <= SEQUENCE_MAX;
            let ids: Vec<(u64, Sequence)> =
                stream.ids.iter().map_while(|entry| parse_id(&entry.id)).take_while(is_ours).collect();
            // Noted before the events are delivered.
            if let Some((epoch, last)) = ids.last() {
                shared.saw(*epoch, shard, last + 1);
            }
            match stream.ids.get(ids.len()).and_then(|entry| parse_id(&entry.id)) {
                Some((epoch, _)) => then = Some(then.map_or(epoch, |then| then.min(epoch))),
                None => has_more |= stream.ids.len() >= count,
            }
            for ((epoch, sequence), entry) in ids.into_iter().zip(&stream.ids) {
                take(LogEntry { id: EventId { epoch, shard: shard as u16, sequence }, json: text_of(entry) });
            }
        }
        if has_ended && !has_more {
            let then = then.filter(|then| (places.epoch + 1..self.epoch).contains(then));
            *lock(&shared.finished) = Some((places.epoch, then.unwrap_or(self.epoch)));
            return Err(EngineError::OtherEpoch);
        }
        match then {
            // The next entry is of another epoch, or has an id that no node gave; joining again shows which.
            Some(_) if !has_ended => Err(EngineError::OtherEpoch),
            _ => Ok(()),
        }
    }
}

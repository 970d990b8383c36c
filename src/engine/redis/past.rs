//! Reads kept events of a log in Redis by ranges of its streams.

use redis::streams::StreamRangeReply;
use redis::{Commands, Connection, RedisError, Value};

use super::super::error::EngineError;
use super::super::log::{LogEntry, LogSpan, Past};
use super::scripts::parse_id;
use crate::event::EventId;

/// Number of entries requested first; their size determines the next number.
const COUNT_FIRST: usize = 16;

/// Reader of a log's streams. An entry's id is `EPOCH-SEQUENCE`, and its event is in one field.
pub(super) struct RedisPast {
    connection: Connection,
    streams: Vec<String>,
    field: &'static str,
}

impl RedisPast {
    pub(super) fn new(connection: Connection, streams: Vec<String>, field: &'static str) -> Self {
        Self { connection, streams, field }
    }
}

impl Past for RedisPast {
    fn read(&mut self, span: LogSpan, take: &mut dyn FnMut(LogEntry<'_>)) -> Result<(), EngineError> {
        let LogSpan { shard, epoch, from, max_events, max_bytes } = span;
        let Some(stream) = self.streams.get(usize::from(shard)) else { return Ok(()) };
        let (mut next, mut events, mut bytes) = ((epoch, from), 0, 0);
        let mut count = COUNT_FIRST;
        while events < max_events && bytes < max_bytes {
            // Redis can't limit a range by bytes.
            let asked = count.min(max_events - events);
            let start = format!("{}-{}", next.0, next.1);
            let reply: Result<StreamRangeReply, RedisError> =
                self.connection.xrange_count(stream, start, "+", asked);
            let reply = reply.map_err(|error| EngineError::Unreachable(error.to_string()))?;
            let came = reply.ids.len();
            for entry in reply.ids {
                let Some(id @ (epoch, sequence)) = parse_id(&entry.id) else { continue };
                let json: &[u8] = match entry.map.get(self.field) {
                    Some(Value::BulkString(text)) => text,
                    // No node wrote the entry.
                    _ => b"",
                };
                bytes += json.len();
                events += 1;
                take(LogEntry { id: EventId { epoch, shard, sequence }, json });
                let Some(after) = id.1.checked_add(1) else { return Ok(()) };
                next = (epoch, after);
            }
            if came < asked {
                return Ok(());
            }
            let each = (bytes / events.max(1)).max(1);
            count = (max_bytes.saturating_sub(bytes) / each).clamp(1, 1024);
        }
        Ok(())
    }
}

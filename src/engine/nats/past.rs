//! Reads kept events of a log in JetStream with short-lived readers of its streams.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::super::error::EngineError;
use super::super::log::{LogEntry, LogSpan, Past};
use super::api::{epoch_of, micros};
use super::life::Life;
use super::link::{Driver, InRuntime};
use crate::event::EventId;

/// Maximum time of a request.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Time for which the server keeps an unused reader: one is created for each page.
const IDLE: Duration = Duration::from_secs(5);

/// Reader of a log's streams, one for each shard. An entry's sequence is its stream's less one.
pub(super) struct NatsPast {
    driver: Arc<Driver>,
    streams: InRuntime<Vec<Stream>>,
    /// Life of the log that the streams are in.
    life: Life,
}

fn unreachable(error: impl std::fmt::Display) -> EngineError {
    EngineError::Unreachable(error.to_string())
}

impl NatsPast {
    pub(super) fn new(driver: Arc<Driver>, streams: InRuntime<Vec<Stream>>, life: Life) -> Self {
        Self { driver, streams, life }
    }
}

impl Past for NatsPast {
    fn read(&mut self, span: LogSpan, take: &mut dyn FnMut(LogEntry<'_>)) -> Result<(), EngineError> {
        let LogSpan { shard, epoch, from, max_events, max_bytes } = span;
        let Some(stream) = self.streams.get().get_mut(usize::from(shard)) else { return Ok(()) };
        if epoch != self.life.epoch {
            // An earlier epoch has no entries left, or none with an id.
            return Ok(());
        }
        let (created, begin) = (self.life.created[usize::from(shard)], self.life.starts[usize::from(shard)]);
        self.driver.block_on(async {
            let info = stream.info().await.map_err(unreachable)?;
            if micros(info) != created {
                return Err(EngineError::OtherEpoch);
            }
            let (first, last) = (info.state.first_sequence, info.state.last_sequence);
            let start = from.max(begin).saturating_add(1).max(first);
            let there = last.saturating_add(1).saturating_sub(start).min(max_events as u64);
            if there == 0 || info.state.messages == 0 {
                return Ok(());
            }
            let config = pull::Config {
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: start },
                ack_policy: AckPolicy::None,
                inactive_threshold: IDLE,
                memory_storage: true,
                num_replicas: 1,
                ..pull::Config::default()
            };
            let consumer = timeout(TIMEOUT, stream.create_consumer(config)).await;
            let consumer = consumer.map_err(unreachable)?.map_err(unreachable)?;
            let name = consumer.cached_info().name.clone();
            // The reader was created by the stream's name, so it may be in another stream.
            if micros(stream.info().await.map_err(unreachable)?) != created {
                return Err(EngineError::OtherEpoch);
            }
            let batch = consumer.fetch().max_messages(there as usize).max_bytes(max_bytes.max(1 << 23));
            let mut messages =
                timeout(TIMEOUT, batch.messages()).await.map_err(unreachable)?.map_err(unreachable)?;
            let (mut left, mut bytes) = (there, 0);
            while left > 0 && bytes < max_bytes {
                let Some(message) = timeout(TIMEOUT, messages.next()).await.map_err(unreachable)? else {
                    break;
                };
                let message = message.map_err(unreachable)?;
                let sequence = message.info().map_err(unreachable)?.stream_sequence.saturating_sub(1);
                bytes += message.payload.len();
                left -= 1;
                match epoch_of(&message) {
                    Some(marked) if marked > epoch => return Err(EngineError::OtherEpoch),
                    Some(_) => continue,
                    None => {}
                }
                take(LogEntry { id: EventId { epoch, shard, sequence }, json: &message.payload });
            }
            drop(messages);
            // The server would remove it after a while.
            let _ = timeout(TIMEOUT, stream.delete_consumer(&name)).await;
            Ok(())
        })
    }
}

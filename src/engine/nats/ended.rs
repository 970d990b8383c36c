//! Reads the rest of an epoch that has ended, from the streams that still exist.
//!
//! Invariant: entries passed on come before the first mark of a later epoch in their stream, so every node gives them the
//! same id, whether it read them before the epoch ended or after.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use futures_util::stream::{SelectAll, select_all};
use tokio::time::Instant;

use super::super::error::EngineError;
use super::super::log::{Follow, LogEntry, Places};
use super::attach::Attached;
use super::follow::{Messages, READ_COUNT, StreamEntry, next_entry, read};
use super::life::Fingerprint;
use super::link::{Faults, InRuntime, TIMEOUT};
use super::shared::NatsShared;
use crate::event::{EventId, Sequence};
use crate::sync::lock;

/// Follower that ends with the epoch. The streams may have trimmed entries, so it also ends after [`TIMEOUT`] without
/// one.
pub(super) struct EndedFollower {
    shared: Arc<NatsShared>,
    epoch: u64,
    /// Epoch that follows.
    later: u64,
    left: Vec<Range<Sequence>>,
    messages: InRuntime<SelectAll<Messages>>,
    faults: Arc<Faults>,
    /// Keeps the subscriptions alive.
    _client: Client,
}

impl EndedFollower {
    /// Returns a follower for the entries of an ended epoch that were not read up to `known`; `None` if there are none,
    /// or they were tried before. Call it within the runtime.
    pub(super) async fn new(
        shared: &Arc<NatsShared>,
        client: &Client,
        faults: &Arc<Faults>,
        attached: &Attached,
        known: &Places,
    ) -> Result<Option<Self>, EngineError> {
        let later = attached.life.epoch;
        let left = {
            let known_log = lock(&shared.known);
            if known_log.read_up_to >= later {
                return Ok(None);
            }
            attached.unread(known, &known_log.followed)
        };
        let Some(left) = left else { return Ok(None) };
        let mut all = Vec::with_capacity(left.len());
        for (shard, unread) in left.iter().enumerate().filter(|(_, unread)| !unread.is_empty()) {
            all.push(read(Some(shard as u16), &attached.streams[shard], unread.start + 1).await?);
        }
        Ok(Some(Self {
            shared: Arc::clone(shared),
            epoch: known.epoch,
            later,
            left,
            messages: InRuntime::new(&shared.driver, select_all(all)),
            faults: Arc::clone(faults),
            _client: client.clone(),
        }))
    }

    /// Records that the rest was read, as far as it exists.
    fn end(&self) -> EngineError {
        let mut known = lock(&self.shared.known);
        known.read_up_to = known.read_up_to.max(self.later);
        EngineError::OtherEpoch
    }
}

impl Follow for EndedFollower {
    fn follow(
        &mut self,
        _: &Places,
        _: Duration,
        take: &mut dyn FnMut(LogEntry<'_>),
    ) -> Result<(), EngineError> {
        let driver = Arc::clone(&self.shared.driver);
        driver.block_on(async {
            for _ in 0..READ_COUNT {
                if self.left.iter().all(Range::is_empty) {
                    return Err(self.end());
                }
                let Self { shared, epoch, left, messages, faults, .. } = self;
                let Some(entry) = next_entry(messages, faults, Instant::now() + TIMEOUT).await? else {
                    return Err(self.end());
                };
                let StreamEntry { shard, sequence, time, payload, epoch: marked } = entry;
                let Some(shard) = shard else { continue };
                let unread = &mut left[usize::from(shard)];
                unread.start = unread.start.max(sequence + 1);
                if sequence >= unread.end || marked.is_some_and(|marked| marked > *epoch) {
                    unread.start = unread.end;
                } else if marked.is_none() {
                    take(LogEntry { id: EventId { epoch: *epoch, shard, sequence }, json: &payload });
                    lock(&shared.known).followed.saw(shard, sequence, Fingerprint::Time(time));
                }
            }
            Ok(())
        })
    }
}

//! Follows the streams.
//!
//! Invariant: entries passed on are of the epoch that was attached to. Each reader is one consumer of the server, which
//! ends with its stream, and the streams are compared once more after all consumers are created. The client's ordered
//! consumer is not used: it recreates itself silently, in whatever stream has the name by then.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::consumer::pull::{self, MessagesErrorKind};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, Context};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::{BoxStream, SelectAll, select_all};
use tokio::time::{Instant, timeout, timeout_at};

use super::super::error::EngineError;
use super::super::log::{Follow, LogEntry, OnNotice, Places};
use super::api::epoch_of;
use super::attach::Attached;
use super::life::Fingerprint;
use super::link::{Faults, InRuntime, TIMEOUT, Task, unreachable};
use super::peer_messages;
use super::shared::NatsShared;
use super::watch::watch;
use crate::event::{EventId, Sequence};
use crate::sync::lock;

/// Maximum number of entries passed on in one call.
pub(super) const READ_COUNT: usize = 1000;

/// Wait for existing entries, which arrive over the network.
const FIRST_WAIT: Duration = Duration::from_millis(200);

pub(super) type Messages = BoxStream<'static, Result<StreamEntry, EngineError>>;

/// Message that arrived.
pub(super) struct StreamEntry {
    /// Shard of an event; `None`: the message is a notice.
    pub(super) shard: Option<u16>,
    pub(super) sequence: Sequence,
    pub(super) time: i128,
    pub(super) payload: bytes::Bytes,
    /// Epoch that begins after it, if it is a mark and no event.
    pub(super) epoch: Option<u64>,
}

/// Number of messages in one request of a reader.
const PULL_COUNT: usize = 500;

/// Interval at which the server reports that it has nothing for a reader. After twice this time in silence the reader
/// counts as lost.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Time for which the server keeps a reader that requests nothing.
const IDLE: Duration = Duration::from_secs(30);

/// Returns the meaning of a reader's failure.
fn ended(error: &pull::MessagesError) -> EngineError {
    match error.kind() {
        // The reader is gone, perhaps with its stream; attaching again shows which.
        MessagesErrorKind::ConsumerDeleted
        | MessagesErrorKind::NoResponders
        | MessagesErrorKind::MissingHeartbeat => EngineError::OtherEpoch,
        _ => unreachable(error),
    }
}

/// Returns the messages of a stream from this sequence on. A stream's own sequences begin at 1.
pub(super) async fn read(shard: Option<u16>, stream: &Stream, from: u64) -> Result<Messages, EngineError> {
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
        ack_policy: AckPolicy::None,
        max_deliver: 1,
        inactive_threshold: IDLE,
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(unreachable)?;
    let messages = consumer.stream().max_messages_per_batch(PULL_COUNT).heartbeat(HEARTBEAT).messages();
    let messages = messages.await.map_err(unreachable)?;
    // The reader numbers its messages from 1.
    let mut read = 0;
    let came = move |message: Result<jetstream::Message, pull::MessagesError>| {
        let message = message.map_err(|error| ended(&error))?;
        let info = message.info().map_err(unreachable)?;
        read += 1;
        if info.consumer_sequence != read {
            return Err(EngineError::OtherEpoch);
        }
        let (sequence, time) = (info.stream_sequence, info.published.unix_timestamp_nanos());
        let epoch = epoch_of(&message);
        let payload = message.message.payload;
        Ok(StreamEntry { shard, sequence: sequence.saturating_sub(1), time, payload, epoch })
    };
    Ok(messages.map(came).boxed())
}

/// Returns the next message of these readers; `None` if none arrives before `until`.
pub(super) async fn next_entry(
    messages: &mut InRuntime<SelectAll<Messages>>,
    faults: &Faults,
    until: Instant,
) -> Result<Option<StreamEntry>, EngineError> {
    let next = faults.guard(async { Ok(messages.get().next().await) });
    let Ok(next) = timeout_at(until, next).await else { return Ok(None) };
    next?.ok_or_else(|| unreachable("the streams ended"))?.map(Some)
}

/// Follower of streams.
pub(super) struct StreamFollower {
    shared: Arc<NatsShared>,
    epoch: u64,
    messages: InRuntime<SelectAll<Messages>>,
    faults: Arc<Faults>,
    on_notice: OnNotice,
    _tasks: [Task; 2],
    /// Keeps the streams and subscriptions alive.
    client: Client,
}

impl Drop for StreamFollower {
    fn drop(&mut self) {
        if !self.faults.is_faulty() {
            self.shared.announce_departure(&self.client);
        }
    }
}

impl StreamFollower {
    /// Receives the existing notices, then follows from these places. Call it within the runtime.
    pub(super) async fn new(
        shared: &Arc<NatsShared>,
        client: Client,
        context: &Context,
        faults: Arc<Faults>,
        attached: Attached,
        next: &[Sequence],
    ) -> Result<Self, EngineError> {
        let notices = shared.notice_stream(context).await?;
        let mut all = vec![receive_notices(shared, &notices).await?];
        for ((shard, stream), next) in attached.streams.iter().enumerate().zip(next) {
            all.push(read(Some(shard as u16), stream, *next + 1).await?);
        }
        // Readers are created by name, and the stream of that name may have been replaced since it was inspected.
        let ends = attached.life.ends.iter().enumerate();
        try_join_all(ends.map(|(shard, end)| attached.prove(shard, *end))).await?;
        let epoch = attached.life.epoch;
        lock(&shared.known).followed.begin(&attached.life, next);
        let words = peer_messages::subscribe(shared, &client).await?;
        let listen = shared.driver.spawn(peer_messages::listen(Arc::clone(shared), client.clone(), words));
        let watch = watch(Arc::clone(shared), client.clone(), Arc::clone(&faults), attached, notices);
        Ok(Self {
            shared: Arc::clone(shared),
            epoch,
            messages: InRuntime::new(&shared.driver, select_all(all)),
            faults,
            on_notice: Arc::clone(&shared.on_notice),
            _tasks: [listen, shared.driver.spawn(watch)],
            client,
        })
    }
}

/// Receives the existing notices, and returns the later ones.
async fn receive_notices(shared: &NatsShared, stream: &Stream) -> Result<Messages, EngineError> {
    let state = &stream.cached_info().state;
    let mut messages = read(None, stream, state.first_sequence.max(1)).await?;
    let mut received = if state.messages == 0 { u64::MAX } else { 0 };
    while received < state.last_sequence {
        let next = timeout(TIMEOUT, messages.next()).await.map_err(unreachable)?;
        let notice = next.ok_or_else(|| unreachable("the notices ended"))??;
        received = notice.sequence + 1;
        (shared.on_notice)(&notice.payload);
    }
    Ok(messages)
}

impl Follow for StreamFollower {
    fn follow(
        &mut self,
        _: &Places,
        wait: Duration,
        take: &mut dyn FnMut(LogEntry<'_>),
    ) -> Result<(), EngineError> {
        let Self { shared, messages, epoch, faults, on_notice, .. } = self;
        let wait = wait.max(FIRST_WAIT);
        shared.driver.block_on(async {
            let end = Instant::now() + wait;
            for _ in 0..READ_COUNT {
                faults.check()?;
                let Some(entry) = next_entry(messages, faults, end).await? else { return Ok(()) };
                let StreamEntry { shard, sequence, time, payload, epoch: marked } = entry;
                let Some(shard) = shard else {
                    on_notice(&payload);
                    continue;
                };
                if let Some(marked) = marked {
                    if marked > *epoch {
                        let mut known = lock(&shared.known);
                        known.marked = known.marked.max(marked);
                        return Err(EngineError::OtherEpoch);
                    }
                    // A mark of a node that claimed an epoch and did not finish.
                    continue;
                }
                take(LogEntry { id: EventId { epoch: *epoch, shard, sequence }, json: &payload });
                lock(&shared.known).followed.saw(shard, sequence, Fingerprint::Time(time));
            }
            Ok(())
        })
    }
}

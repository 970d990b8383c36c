//! Appends to the streams, or publishes to plain subjects.
//!
//! Invariants:
//! - Messages are sent in order, with at most [`WINDOW`] of them unanswered. A message that is sent again has its first
//!   message id, so that the server stores it once, in its original order.
//! - An acknowledgement has a sequence but no epoch. So after the last acknowledgement of a batch its streams are
//!   inspected, and the batch is answered only if they are those that were attached to. If they are not, each message
//!   is looked up in the new streams. A message that a new stream does not have was in the old one, where nodes have
//!   delivered it, and is not sent again.
//!
//! One batch is answered before the next is sent. Several batches in flight would hide a round trip. But if a message
//! of the first were refused, the messages of the second would be in the stream already, before its second attempt.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use bytes::Bytes;
use futures_util::future::{try_join, try_join_all};
use tokio::time::{Instant, timeout_at};

use super::super::error::EngineError;
use super::super::log::{Append, AppendBatch, Record};
use super::api::{answer, look, refused};
use super::attach::Attached;
use super::life::{Acknowledged, Fingerprint, Life};
use super::link::{Faults, InRuntime, TIMEOUT, unreachable};
use super::peers::RollCall;
use super::plain::{self, Marks};
use super::shared::NatsShared;
use super::watch::look_time;
use crate::event::{EventId, Sequence, Timestamp};
use crate::sync::lock;

/// Maximum number of messages without an answer.
const WINDOW: usize = 1000;

/// Maximum size of those messages, in bytes, unless one message alone is larger.
const WINDOW_BYTES: usize = 4 << 20;

/// Maximum size of a message's headers, in bytes: two numbers of 16 digits, the header's name and the frame.
const HEADERS: usize = 64;

/// Destination of appended events.
pub(super) enum AppendTarget {
    Kept { context: InRuntime<Context>, attached: Box<InRuntime<Attached>> },
    Plain { marks: InRuntime<Marks> },
}

/// Connection that appends.
pub(super) struct NatsAppender {
    pub(super) shared: Arc<NatsShared>,
    pub(super) client: Client,
    pub(super) faults: Arc<Faults>,
    pub(super) way: AppendTarget,
    pub(super) made: std::time::Instant,
}

/// Time after attaching during which an appender reads back what new streams acknowledged.
const FRESH_ATTACHMENT: Duration = Duration::from_secs(10);

/// Number of the follower's inspections for which the streams count as unchanged.
const FRESH: u32 = 3;

/// Returns whether appending goes to streams.
fn is_kept(way: &AppendTarget) -> bool {
    matches!(way, AppendTarget::Kept { .. })
}

/// Returns whether the streams may have changed. A node that was suspended checks this before it appends.
fn is_stale(shared: &NatsShared, way: &AppendTarget, made: std::time::Instant) -> bool {
    let AppendTarget::Kept { attached, .. } = way else { return false };
    let known = lock(&shared.known);
    let looked = known.looked.map_or(made, |looked| looked.max(made));
    known.marked > attached.peek().life.epoch || looked.elapsed() > look_time(shared.settings.shards) * FRESH
}

impl NatsAppender {
    /// Returns the maximum size of an event, in bytes.
    fn limit(&self) -> usize {
        let server = self.client.max_payload();
        let streams = match &self.way {
            AppendTarget::Kept { attached, .. } => attached.peek().max_message.map(|max| max as usize),
            AppendTarget::Plain { .. } => None,
        };
        streams.map_or(server, |streams| streams.min(server)).saturating_sub(HEADERS)
    }
}

impl Append for NatsAppender {
    fn check(&self, records: &[Record]) -> Result<(), EngineError> {
        let limit = self.limit();
        let longest = records.iter().map(|record| record.json.len()).max().unwrap_or(0);
        if longest <= limit {
            return Ok(());
        }
        Err(EngineError::TooLarge { bytes: longest as u64, limit: limit as u64 })
    }

    fn append(&mut self, batch: &AppendBatch<'_>) -> Result<Vec<EventId>, EngineError> {
        let Self { shared, client, faults, way, made } = self;
        if faults.is_faulty() || is_kept(way) != shared.is_kept() || is_stale(shared, way, *made) {
            // Nothing was sent, so another connection continues immediately.
            return Err(EngineError::OtherEpoch);
        }
        shared.driver.block_on(faults.guard(async {
            match way {
                AppendTarget::Kept { context, attached } => {
                    let epoch = attached.get().life.epoch;
                    await_peers(shared, client, context.get(), epoch, batch.until).await?;
                    let is_fresh = made.elapsed() < FRESH_ATTACHMENT;
                    append_kept(shared, context.get(), attached.get(), batch, is_fresh).await
                }
                AppendTarget::Plain { marks } => {
                    // Record numbers grow. Records that the server is known to have are not sent again.
                    let numbered = (batch.first..).zip(batch.records);
                    let mut since_mark = 0;
                    let passed = lock(&shared.sent).passed();
                    for (number, record) in numbered.skip_while(|(number, _)| *number <= passed) {
                        let stamp = lock(&shared.sent).stamp(number, &shared.clock);
                        plain::publish(client, &shared.settings.name, shared.node, stamp, record).await?;
                        since_mark += 1;
                        if since_mark % WINDOW == 0 {
                            marks.get().pass(client).await?;
                            lock(&shared.sent).pass(number);
                        }
                    }
                    marks.get().pass(client).await?;
                    lock(&shared.sent).pass((batch.first + batch.records.len() as u64).saturating_sub(1));
                    Ok(Vec::new())
                }
            }
        }))
    }

    fn probe(&mut self) -> Result<(), EngineError> {
        let Self { shared, client, faults, way, .. } = self;
        faults.check()?;
        shared.driver.block_on(faults.guard(async {
            match way {
                AppendTarget::Kept { context, attached } => {
                    let epoch = attached.get().life.epoch;
                    await_peers(shared, client, context.get(), epoch, std::time::Instant::now()).await?;
                    if let Err(error) = &attached.get().own {
                        // Other reasons concern this stream alone; the others may accept events.
                        return match error {
                            EngineError::TakesNothing(error) => Err(EngineError::TakesNothing(error.clone())),
                            _ => Ok(()),
                        };
                    }
                    let message = PublishMessage::build().payload(Bytes::from_static(b"{}"));
                    let sent = context.get().send_publish(shared.probe_subject(), message).await;
                    let ack = sent.map_err(|error| refused(&error))?;
                    answer(ack, Instant::now() + TIMEOUT).await.map(drop)
                }
                AppendTarget::Plain { marks } => {
                    marks.get().pass(client).await?;
                    if !shared.has_replacement(client).await? {
                        return Ok(());
                    }
                    Err(EngineError::OtherKind(
                        "NATS keeps this log now: the node goes over to that".to_owned(),
                    ))
                }
            }
        }))
    }
}

/// Waits for the other nodes after the server was restarted; ends the epoch if one of them is missing.
async fn await_peers(
    shared: &NatsShared,
    client: &Client,
    context: &Context,
    epoch: u64,
    until: std::time::Instant,
) -> Result<(), EngineError> {
    match shared.roll(until).await {
        RollCall::Complete => Ok(()),
        RollCall::Waits => {
            let why =
                "its server was restarted, and not all nodes have reported that they found it unchanged";
            Err(EngineError::TakesNothing(why.to_owned()))
        }
        RollCall::Missing => {
            shared.attach(client, context, Some(epoch)).await?;
            lock(&shared.peers).give_up();
            Err(EngineError::OtherEpoch)
        }
    }
}

async fn append_kept(
    shared: &NatsShared,
    context: &Context,
    attached: &Attached,
    batch: &AppendBatch<'_>,
    is_fresh: bool,
) -> Result<Vec<EventId>, EngineError> {
    let ids = gone(shared, attached, batch).await?;
    let followed = {
        let known = lock(&shared.known);
        if known.followed.epoch == attached.life.epoch { known.followed.next.clone() } else { Vec::new() }
    };
    let mut window = AckWindow { shared, attached, batch, acks: VecDeque::new(), bytes: 0, followed, ids };
    for (at, record) in batch.records.iter().enumerate() {
        if window.ids[at].is_some() {
            batch.kept_some.set(true);
            continue;
        }
        let length = record.json.len();
        while window.acks.len() >= WINDOW || (window.bytes + length > WINDOW_BYTES && !window.acks.is_empty())
        {
            window.settle().await?;
        }
        let payload = Bytes::copy_from_slice(record.json.as_bytes());
        let message =
            PublishMessage::build().payload(payload).message_id(message_id(shared, batch.first + at as u64));
        let sent = context.send_publish(shared.subject(record.shard.into()), message).await;
        let ack = match sent {
            Ok(ack) => ack,
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                let limit = context.client().max_payload().saturating_sub(HEADERS) as u64;
                return Err(EngineError::TooLarge { bytes: length as u64, limit });
            }
            Err(error) => return Err(refused(&error)),
        };
        window.acks.push_back((at, ack));
        window.bytes += length;
    }
    while !window.acks.is_empty() {
        window.settle().await?;
    }
    window.prove(is_fresh).await?;
    let end = batch.first + batch.records.len() as u64;
    let mut unproven = lock(&shared.unproven);
    *unproven = unproven.split_off(&end);
    // All were answered; otherwise the loop above ended in an error.
    Ok(window.ids.into_iter().flatten().collect())
}

/// Returns the message id by which the server recognizes a record.
fn message_id(shared: &NatsShared, number: u64) -> String {
    format!("{:x}-{number:x}", shared.node)
}

/// Returns for each record of a batch the id under which a stream that is gone acknowledged it, if one did.
///
/// The message may be in the stream that was attached to then, or in one that replaced it unnoticed. In the latter case
/// it is found at the acknowledged number: it is sent again, and the server takes it once. In the former case it must
/// not be sent again: readers have it under its first id, or receive a gap.
async fn gone(
    shared: &NatsShared,
    attached: &Attached,
    batch: &AppendBatch<'_>,
) -> Result<Vec<Option<EventId>>, EngineError> {
    let mut ids = vec![None; batch.records.len()];
    let known: Vec<(u64, Acknowledged)> = {
        let mut unproven = lock(&shared.unproven);
        // Numbers grow, and records before this batch are never needed again.
        *unproven = unproven.split_off(&batch.first);
        let end = batch.first + ids.len() as u64;
        unproven.range(..end).map(|(number, acknowledged)| (*number, *acknowledged)).collect()
    };
    for (shard, stream) in attached.streams.iter().enumerate() {
        let created = attached.life.created[shard];
        let of_others: Vec<(u64, Acknowledged)> = (known.iter().copied())
            .filter(|(_, acknowledged)| {
                usize::from(acknowledged.id.shard) == shard && acknowledged.created != created
            })
            .collect();
        // The messages were sent in order, so the messages of the old stream come first.
        let (mut least, mut most) = (0, of_others.len());
        while least < most {
            let middle = usize::midpoint(least, most);
            let (number, Acknowledged { id, .. }) = of_others[middle];
            let is_here = match stream.get_raw_message(id.sequence + 1).await {
                Ok(message) => Fingerprint::Id(message_id(shared, number)).is_of(&message),
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => false,
                Err(error) => return Err(unreachable(error)),
            };
            if is_here { most = middle } else { least = middle + 1 }
        }
        for (number, acknowledged) in &of_others[..least] {
            ids[(number - batch.first) as usize] = Some(acknowledged.id);
        }
        let epoch = attached.life.epoch;
        let here = of_others[least..].iter();
        let here = here.map(|(number, acknowledged)| {
            (*number, Acknowledged { id: EventId { epoch, ..acknowledged.id }, created })
        });
        lock(&shared.unproven).extend(here);
    }
    Ok(ids)
}

/// Messages of a batch that have no answer yet.
struct AckWindow<'a> {
    shared: &'a NatsShared,
    attached: &'a Attached,
    batch: &'a AppendBatch<'a>,
    acks: VecDeque<(usize, PublishAckFuture)>,
    bytes: usize,
    /// Places up to which this node had followed before it sent the messages.
    followed: Vec<Sequence>,
    /// Ids of the acknowledged messages.
    ids: Vec<Option<EventId>>,
}

impl AckWindow<'_> {
    /// Waits for the answer to the oldest message.
    async fn settle(&mut self) -> Result<(), EngineError> {
        let Some((at, ack)) = self.acks.pop_front() else { return Ok(()) };
        let Record { shard, json } = &self.batch.records[at];
        // Publishers that gave up do not delay those after them.
        let until = Instant::from_std(self.batch.until).min(Instant::now() + TIMEOUT);
        let ack = match answer(ack, until).await {
            Ok(ack) => ack,
            Err(error) => {
                return Err(too_large(error, &self.attached.streams[usize::from(*shard)], json.len()).await);
            }
        };
        self.bytes -= json.len();
        self.batch.kept_some.set(true);
        let sequence = ack.sequence.saturating_sub(1);
        let (number, created) =
            (self.batch.first + at as u64, self.attached.life.created[usize::from(*shard)]);
        let epoch = self.attached.life.epoch;
        let id = EventId { epoch: self.epoch_of(number, *shard, sequence), shard: *shard, sequence };
        lock(&self.shared.unproven).insert(number, Acknowledged { id, created });
        let mut known = lock(&self.shared.known);
        if known.marked > epoch {
            // The message may be after the mark; attaching again finds its epoch.
            return Err(EngineError::OtherEpoch);
        }
        let appended = known.appended.next.get(usize::from(*shard)).filter(|_| known.appended.epoch == epoch);
        let least = appended.into_iter().chain(self.followed.get(usize::from(*shard))).max();
        if !ack.duplicate && least.is_some_and(|least| sequence < *least) {
            // The sequences started again: another stream has this message now.
            return Err(EngineError::OtherEpoch);
        }
        known.appended.saw(*shard, sequence, Fingerprint::Id(message_id(self.shared, number)));
        self.ids[at] = Some(id);
        Ok(())
    }

    /// Returns the epoch of an acknowledged message: an earlier one, if it was sent before the mark that began this one.
    fn epoch_of(&self, number: u64, shard: u16, sequence: Sequence) -> u64 {
        let Life { epoch, starts, .. } = &self.attached.life;
        if starts.get(usize::from(shard)).is_none_or(|start| sequence >= *start) {
            return *epoch;
        }
        let first = lock(&self.shared.unproven).get(&number).map(|acknowledged| acknowledged.id);
        match first.filter(|id| (id.shard, id.sequence) == (shard, sequence)) {
            Some(first) => first.epoch,
            None => lock(&self.shared.known).appended_before,
        }
    }

    /// Checks that the streams that have the batch are those of this epoch.
    ///
    /// A node that was suspended for a second does not know that a stream was deleted and created again, and the new
    /// stream's sequences may have passed those of the old one by then. A stream that existed before the first message
    /// and after the last acknowledgement existed all the time in between. This costs one round trip for each batch:
    /// the server does not order publishing and inspecting, so the inspection can't be sent together with the messages.
    ///
    /// The epoch's record is also compared: a node that does not know yet that another epoch was claimed may have
    /// appended after its marks.
    ///
    /// If `is_fresh`, the last message of each stream that may be new is read back: a server that creates a stream
    /// again within milliseconds of its deletion may acknowledge messages and not have them (seen with NATS 2.9).
    async fn prove(&self, is_fresh: bool) -> Result<(), EngineError> {
        let mut ends: Vec<Option<Sequence>> = vec![None; self.attached.streams.len()];
        // Messages of a stream that is gone need no check.
        for id in self.ids.iter().flatten().filter(|id| id.epoch == self.attached.life.epoch) {
            let end = &mut ends[usize::from(id.shard)];
            *end = (*end).max(Some(id.sequence + 1));
        }
        let touched = ends.into_iter().enumerate().filter_map(|(shard, end)| Some((shard, end?)));
        let until = Instant::from_std(self.batch.until).min(Instant::now() + TIMEOUT);
        let proofs = try_join_all(touched.map(async |(shard, end)| {
            self.attached.prove(shard, end).await?;
            if is_fresh && is_new(self.attached.life.created[shard]) {
                has(&self.attached.streams[shard], end).await?;
            }
            Ok(())
        }));
        let proofs = async { try_join(proofs, self.attached.prove_epoch(self.shared)).await };
        timeout_at(until, proofs).await.map_err(|_| unreachable("no answer in time"))?.map(drop)
    }
}

/// Returns whether a stream created at this time, in microseconds, may be less than a minute old.
fn is_new(created: u64) -> bool {
    Timestamp::now().0.unsigned_abs().abs_diff(created) < 60_000_000
}

/// Returns an error if a stream has acknowledged a message that it neither has nor has trimmed.
async fn has(stream: &Stream, sequence: u64) -> Result<(), EngineError> {
    match stream.get_raw_message(sequence).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {
            let info = stream.get_info().await.map_err(unreachable)?;
            if info.state.first_sequence > sequence {
                return Ok(());
            }
            Err(unreachable("a stream that was made anew has lost what it acknowledged"))
        }
        Err(error) => Err(unreachable(error)),
    }
}

/// Returns the error with the stream's own limit, if one was set in the meantime.
async fn too_large(error: EngineError, stream: &Stream, bytes: usize) -> EngineError {
    if !matches!(&error, EngineError::Unfit(_)) {
        return error;
    }
    match look(stream).await {
        Ok(Some(info)) if info.config.max_message_size > 0 => EngineError::TooLarge {
            bytes: bytes as u64,
            limit: (info.config.max_message_size as u64).saturating_sub(HEADERS as u64),
        },
        _ => error,
    }
}

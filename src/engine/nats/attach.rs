//! Attaches: finds the streams of the log and its epoch, and ends an epoch that lost events.
//!
//! Invariants:
//! - A log begins in the epoch at which the youngest of its streams was created. The first node to attach writes the
//!   epoch and the streams' creation times into the log's own stream.
//! - If a node has seen an event that the streams no longer have, or have changed, the epoch ends. It also ends if some
//!   of the streams are not those of its record. The node claims the next epoch in the log's own stream; of nodes that
//!   do so at once, one succeeds. It appends a mark to each stream that still exists and announces the marks' places:
//!   for every node, entries before a mark are of the old epoch and entries after it of the new one. A stream that
//!   replaced another one has entries of the new epoch only.
//! - Epochs grow, so nodes that know of each other's epochs give no id twice.
//!
//! The streams' identities are compared on each attachment, again after its readers are created, after the
//! acknowledgements of each batch, and every second ([`super::watch`]). The last check serves idle nodes only: no id
//! depends on it.

use std::ops::Range;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, LastRawMessageErrorKind, RawMessageErrorKind, StorageType, Stream,
};
use tokio::time::{Instant, timeout};

use super::super::error::EngineError;
use super::super::log::{NOTICES_MAX, Places};
use super::api::{EPOCH, answer, context, look, micros, of_making, refused};
use super::epoch::{EpochState, FoundEpoch, find_epoch};
use super::life::{EpochRecord, Life, LogProgress};
use super::link::{TIMEOUT, unreachable};
use super::shared::{LogKind, NatsShared};
use crate::event::{Sequence, Timestamp};
use crate::sync::lock;

/// Minimum time within which the server recognizes an event that is sent twice.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Maximum number of attempts to agree on an epoch with other nodes that found the same loss.
const ROUNDS: usize = 30;

/// Pause before checking again whether another node has finished an epoch that it claimed.
const CLAIM_PAUSE: Duration = Duration::from_millis(200);

/// Number of such checks before a node takes over from one that may have died.
const CLAIM_LOOKS: usize = 20;

/// Pause before a stream is created again. A server that creates a stream while it still removes the previous one of
/// that name leaves it without files (NATS 2.9).
const REMAKE_PAUSE: Duration = Duration::from_millis(500);

/// Streams of a log, and their epoch.
pub(super) struct Attached {
    pub(super) streams: Vec<Stream>,
    /// The log's own stream, or the reason why there is none.
    pub(super) own: Result<Stream, EngineError>,
    pub(super) life: Life,
    /// For each shard, whether it still has everything that was followed.
    followed_is_there: Vec<bool>,
    /// Maximum size of a message, in bytes.
    pub(super) max_message: Option<u64>,
}

impl Attached {
    /// Checks that a shard's stream is the one that was attached to and has everything before `end`.
    ///
    /// If two checks find the same stream, it existed in between: a deleted stream does not come back.
    pub(super) async fn prove(&self, shard: usize, end: Sequence) -> Result<(), EngineError> {
        match look(&self.streams[shard]).await? {
            Some(info) if micros(&info) == self.life.created[shard] && info.state.last_sequence >= end => {
                Ok(())
            }
            _ => Err(EngineError::OtherEpoch),
        }
    }

    /// Checks that no other epoch was claimed. The marks of an epoch come after its claim, so messages acknowledged
    /// before this check began come before them.
    pub(super) async fn prove_epoch(&self, shared: &NatsShared) -> Result<(), EngineError> {
        let Ok(own) = &self.own else { return Ok(()) };
        let (announced, _) = shared.last_announcement(own).await?;
        if announced == self.life.announced_by { Ok(()) } else { Err(EngineError::OtherEpoch) }
    }

    /// Returns the entries of the epoch of `known` that its follower has not read, for each shard: those that come before
    /// the marks that ended it. Returns `None` if there are none.
    pub(super) fn unread(&self, known: &Places, followed: &LogProgress) -> Option<Vec<Range<Sequence>>> {
        let Life { epoch, starts, .. } = &self.life;
        if known.epoch >= *epoch || known.epoch != followed.epoch || known.next.len() != starts.len() {
            return None;
        }
        let unread = |(shard, start): (usize, &Sequence)| {
            let lives_on = followed.is_same(shard, &self.life) && self.followed_is_there[shard];
            let next = known.next[shard];
            // The mark itself is before the start.
            if lives_on { next..start.saturating_sub(1).max(next) } else { next..next }
        };
        let unread: Vec<Range<Sequence>> = starts.iter().enumerate().map(unread).collect();
        unread.iter().any(|unread| !unread.is_empty()).then_some(unread)
    }

    /// Returns the places at which a follower that was at `known` continues.
    pub(super) fn places(&self, known: Option<&Places>, followed: &LogProgress, past: u64) -> Vec<Sequence> {
        let Life { epoch, starts, ends, .. } = &self.life;
        match known {
            Some(known) if known.epoch == *epoch => known.next.clone(),
            Some(known) if known.next.len() == ends.len() => (0..ends.len())
                .map(|shard| {
                    // Events that it has read from a stream that still exists are not repeated.
                    let goes_on = followed.epoch == known.epoch
                        && followed.is_same(shard, &self.life)
                        && self.followed_is_there[shard];
                    if goes_on { known.next[shard].max(starts[shard]) } else { starts[shard] }
                })
                .collect(),
            _ => (starts.iter().zip(ends).zip(&self.streams))
                .map(|((start, end), stream)| {
                    let oldest = stream.cached_info().state.first_sequence.saturating_sub(1);
                    end.saturating_sub(past).max(*start).max(oldest)
                })
                .collect(),
        }
    }
}

impl NatsShared {
    fn stream_config(&self, name: String, subjects: Vec<String>) -> Config {
        Config {
            name,
            subjects,
            num_replicas: self.settings.replicas,
            discard: DiscardPolicy::Old,
            storage: StorageType::File,
            ..Config::default()
        }
    }

    /// Returns the streams of the log's shards; creates missing ones.
    async fn streams(&self, client: &Client, context: &Context) -> Result<Vec<Stream>, EngineError> {
        let mut streams = Vec::with_capacity(self.settings.shards);
        for shard in 0..self.settings.shards {
            let config = Config {
                max_messages: self.settings.history as i64,
                duplicate_window: DUPLICATE_WINDOW.max(self.settings.accept_timeout * 2),
                ..self.stream_config(format!("{}-{shard}", self.settings.name), vec![self.subject(shard)])
            };
            self.await_removal(context, &config.name).await?;
            match context.get_or_create_stream(config).await {
                Ok(stream) => streams.push(stream),
                Err(error) => return Err(self.kind_of(client, &of_making(&error), &error)),
            }
        }
        Ok(streams)
    }

    /// Returns the meaning of a failure to create the streams.
    fn kind_of(&self, client: &Client, meaning: &EngineError, error: &CreateStreamError) -> EngineError {
        match meaning {
            // The server's INFO announces JetStream, so its responder is still starting.
            EngineError::OtherKind(_)
                if error.kind() == CreateStreamErrorKind::JetStreamUnavailable
                    && client.server_info().jetstream
                    && !self.is_kept() =>
            {
                unreachable("JetStream does not answer yet")
            }
            _ => of_making(error),
        }
    }

    /// Waits for [`REMAKE_PAUSE`] if a stream is missing that may have been there before.
    async fn await_removal(&self, context: &Context, name: &str) -> Result<(), EngineError> {
        if lock(&self.known).followed.epoch == 0 {
            return Ok(());
        }
        let there = context.get_stream_no_info(name).await.map_err(unreachable)?;
        if matches!(look(&there).await, Ok(None)) {
            tokio::time::sleep(REMAKE_PAUSE).await;
        }
        Ok(())
    }

    /// Returns the log's own stream, which holds the epoch and the messages of probes.
    async fn own_stream(&self, context: &Context) -> Result<Stream, EngineError> {
        let config = Config {
            max_messages_per_subject: 1,
            ..self.stream_config(
                format!("{}-log", self.settings.name),
                vec![format!("{}.log.*", self.settings.name)],
            )
        };
        self.await_removal(context, &config.name).await?;
        context.get_or_create_stream(config).await.map_err(|error| of_making(&error))
    }

    pub(super) fn probe_subject(&self) -> String {
        format!("{}.log.probe", self.settings.name)
    }

    fn epoch_subject(&self) -> String {
        format!("{}.log.epoch", self.settings.name)
    }

    pub(super) async fn notice_stream(&self, context: &Context) -> Result<Stream, EngineError> {
        let config = Config {
            max_messages: NOTICES_MAX as i64,
            ..self.stream_config(format!("{}-notices", self.settings.name), vec![self.notices()])
        };
        self.await_removal(context, &config.name).await?;
        context.get_or_create_stream(config).await.map_err(|error| of_making(&error))
    }

    /// Returns the last announcement of an epoch, and its message's sequence.
    pub(super) async fn last_announcement(
        &self,
        own: &Stream,
    ) -> Result<(u64, Option<EpochRecord>), EngineError> {
        match own.get_last_raw_message_by_subject(&self.epoch_subject()).await {
            Ok(message) => Ok((message.sequence, serde_json::from_slice(&message.payload).ok())),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok((0, None)),
            Err(error) => Err(unreachable(error)),
        }
    }

    /// Returns the streams, in the epoch that all nodes agree on. Begins another epoch if this node has seen events
    /// that the streams no longer have, or if `ends` names this epoch.
    pub(super) async fn attach(
        &self,
        client: &Client,
        context: &Context,
        ends: Option<u64>,
    ) -> Result<Attached, EngineError> {
        let mut claimed = (0, 0);
        for _ in 0..ROUNDS {
            // Read before the streams are inspected, because both grow.
            let known = lock(&self.known).clone();
            let streams = self.streams(client, context).await?;
            self.found_streams();
            let own = self.own_stream(context).await;
            let (announced_by, announced) = match &own {
                Ok(own) => self.last_announcement(own).await?,
                Err(EngineError::Unreachable(error)) => return Err(unreachable(error)),
                Err(_) => (0, None),
            };
            let infos = streams.iter().map(Stream::cached_info);
            let max_message = infos.clone().map(|info| info.config.max_message_size).filter(|max| *max > 0);
            let max_message = max_message.min().and_then(|max| u64::try_from(max).ok());
            let mut life = Life {
                epoch: 0,
                created: infos.clone().map(micros).collect(),
                starts: vec![0; streams.len()],
                ends: infos.map(|info| info.state.last_sequence).collect(),
                announced_by,
            };
            let youngest = life.created.iter().copied().max().unwrap_or_default();
            let FoundEpoch { state, lives_on } = find_epoch(announced, &known, &mut life);
            // Least possible epoch, if it is not the current one.
            let mut least = match state {
                EpochState::Ended { least } => Some(least),
                EpochState::Claimed { epoch } if claimed.0 == announced_by && claimed.1 >= CLAIM_LOOKS => {
                    Some(epoch + 1)
                }
                EpochState::Claimed { .. } => {
                    claimed = (announced_by, if claimed.0 == announced_by { claimed.1 + 1 } else { 1 });
                    tokio::time::sleep(CLAIM_PAUSE).await;
                    continue;
                }
                EpochState::Recorded | EpochState::Unrecorded => None,
            };
            let mut followed_is_there = Vec::with_capacity(streams.len());
            for (shard, stream) in streams.iter().enumerate() {
                let followed = is_there(&known.followed, shard, &life, stream).await?;
                let appended = is_there(&known.appended, shard, &life, stream).await?;
                for (seen, is_there) in [(&known.followed, followed), (&known.appended, appended)] {
                    let is_lost = seen.epoch == life.epoch && !(seen.is_same(shard, &life) && is_there);
                    if seen.epoch != 0 && (seen.epoch > life.epoch || is_lost) {
                        least = least.max(Some(seen.epoch + 1));
                    }
                }
                followed_is_there.push(followed);
            }
            if known.marked > life.epoch {
                // A claim is recorded before it is announced, so its record is lost, or the node is faulty.
                least = least.max(Some(known.marked + 1));
            }
            if let Some(ends) = ends.filter(|ends| *ends >= life.epoch) {
                least = least.max(Some(ends + 1));
            }
            let Some(least) = least else {
                let is_recorded = matches!(state, EpochState::Recorded);
                if !is_recorded && own.is_ok() && !self.record(context, &mut life).await? {
                    continue;
                }
                return Ok(Attached { streams, own, life, followed_is_there, max_message });
            };
            let epoch = (Timestamp::now().0 as u64).max(least).max(youngest + 1);
            own?;
            self.begin_epoch(client, context, epoch, life, &lives_on).await?;
        }
        Err(unreachable("other nodes begin one epoch after the other"))
    }

    /// Records an epoch that follows from the streams, for nodes that come after one of them was deleted. Returns false
    /// if another node has announced an epoch since.
    async fn record(&self, context: &Context, life: &mut Life) -> Result<bool, EngineError> {
        let Life { epoch, created, starts, announced_by, .. } = life;
        let record = EpochRecord { epoch: *epoch, created: created.clone(), starts: Some(starts.clone()) };
        match self.announce_epoch(context, &record, *announced_by).await {
            Ok(Some(sequence)) => *announced_by = sequence,
            Ok(None) => return Ok(false),
            Err(error @ (EngineError::Unreachable(_) | EngineError::OtherEpoch)) => return Err(error),
            // The log's own stream accepts nothing; those of events may accept them.
            Err(error) => tracing::debug!(%error, "the epoch is not recorded"),
        }
        Ok(true)
    }

    /// Begins an epoch for all nodes, unless another one was claimed in the meantime. Streams of `life` that still
    /// exist get a mark.
    async fn begin_epoch(
        &self,
        client: &Client,
        context: &Context,
        epoch: u64,
        life: Life,
        lives_on: &[bool],
    ) -> Result<(), EngineError> {
        let Life { created, announced_by, .. } = life;
        let mut announced = EpochRecord { epoch, created, starts: None };
        let Some(claim) = self.announce_epoch(context, &announced, announced_by).await? else {
            return Ok(());
        };
        tracing::warn!(epoch, "the engine's log may have lost events that a node saw: another epoch begins");
        self.announce_claim(client, epoch).await;
        let mut starts = vec![0; lives_on.len()];
        for (shard, start) in starts.iter_mut().enumerate().filter(|(shard, _)| lives_on[*shard]) {
            let mark = PublishMessage::build().header(EPOCH, epoch.to_string().as_str());
            let sent = context.send_publish(self.subject(shard), mark).await;
            let ack = sent.map_err(|error| refused(&error))?;
            *start = answer(ack, Instant::now() + TIMEOUT).await?.sequence;
        }
        announced.starts = Some(starts);
        self.announce_epoch(context, &announced, claim).await.map(drop)
    }

    /// Announces an epoch to all nodes, unless another one was announced in the meantime. Returns the message's
    /// sequence.
    async fn announce_epoch(
        &self,
        context: &Context,
        announced: &EpochRecord,
        since: u64,
    ) -> Result<Option<u64>, EngineError> {
        let json = serde_json::to_vec(announced).map_err(unreachable)?;
        let message = PublishMessage::build().payload(json.into()).expected_last_subject_sequence(since);
        let ack =
            context.send_publish(self.epoch_subject(), message).await.map_err(|error| refused(&error))?;
        match timeout(TIMEOUT, ack.into_future()).await.map_err(unreachable)? {
            Ok(ack) => Ok(Some(ack.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
            Err(error) => Err(refused(&error)),
        }
    }

    /// Publishes a notice and reads it back. A server that creates a stream again within milliseconds of its deletion
    /// may acknowledge a message and not store it (seen with NATS 2.9: one in three under load).
    pub(super) async fn keep_notice(
        &self,
        context: &Context,
        notice: bytes::Bytes,
    ) -> Result<(), EngineError> {
        let stream = self.notice_stream(context).await?;
        let ack = context.publish(self.notices(), notice).await.map_err(unreachable)?;
        let ack = timeout(TIMEOUT, ack.into_future()).await.map_err(unreachable)?.map_err(unreachable)?;
        stream.get_raw_message(ack.sequence).await.map(drop).map_err(unreachable)
    }

    /// Returns whether a log without streams has streams by now.
    pub(super) async fn has_replacement(&self, client: &Client) -> Result<bool, EngineError> {
        let first = context(client).get_stream_no_info(format!("{}-0", self.settings.name)).await;
        let found = match first {
            Ok(stream) => look(&stream).await,
            Err(error) => return Err(unreachable(error)),
        };
        match found {
            Ok(Some(_)) => {
                self.found_streams();
                Ok(true)
            }
            Ok(None) | Err(EngineError::OtherKind(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the streams of the log, or `None` if it is not kept.
    pub(super) async fn find(
        &self,
        client: &Client,
        context: &Context,
    ) -> Result<Option<Attached>, EngineError> {
        if self.kind() == LogKind::Plain && !self.has_replacement(client).await? {
            return Ok(None);
        }
        match self.attach(client, context, None).await {
            Ok(attached) => Ok(Some(attached)),
            Err(EngineError::OtherKind(why)) if self.kind() == LogKind::Unknown => {
                tracing::warn!(why, "NATS keeps nothing: no history, and no resume on another node");
                self.found_kind(LogKind::Plain);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Returns whether a shard still has everything that this node has seen of it, unchanged.
async fn is_there(
    seen: &LogProgress,
    shard: usize,
    life: &Life,
    stream: &Stream,
) -> Result<bool, EngineError> {
    let Some(next) = seen.next.get(shard).copied() else { return Ok(seen.epoch == 0) };
    if !seen.is_same(shard, life) {
        return Ok(false);
    }
    if next > life.ends[shard] {
        return Ok(false);
    }
    let Some(Some(mark)) = seen.marks.get(shard) else { return Ok(true) };
    // The last seen sequence is `next - 1`, and streams begin at 1.
    match stream.get_raw_message(next).await {
        Ok(message) => Ok(mark.is_of(&message)),
        // The message was trimmed or purged in the meantime.
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(true),
        Err(error) => Err(unreachable(error)),
    }
}

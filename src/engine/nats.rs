//! The log as NATS JetStream streams, one a shard; or, where the server has JetStream off, plain subjects.
//!
//! Imports its siblings; [`plain`] is what follows plain subjects. The client is for async code, so a small runtime of one thread drives it, and the
//! engine's two threads block on that. Always:
//! - with JetStream, an entry's sequence is the stream's own less one (streams begin at 1, shards at 0), and the epoch is when the youngest of the streams
//!   was created: every node gives an event the same id. A batch is not all or nothing, but each event's message
//!   id makes the server take it once, however often it is sent;
//! - notices have a stream of their own, which is read to its end before events are, and beside them from then on;
//! - without, nothing is kept: order is what each node receives, ids are the node's own, a client resumes on the
//!   node that it was on, and a lost connection begins another epoch, because what passed meanwhile is lost. There a
//!   node may ask for what its clients want only: a stream's reader could as well, but then its positions would have
//!   holes that are no loss, and who resumes with another wish would need the stream read anew.

mod plain;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType, Stream};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, Event as ClientEvent, ServerAddr};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::history::{NatsPast, Past};
use super::ingest::OnMessage;
use super::{
    Append, Batch, EngineConfig, EngineError, Entry, Follow, Interest, Log, NOTICES_MAX, OnNotice, Places,
    Wanted, addresses,
};
use crate::event::{EventId, Sequence};
use crate::sync::atomic::{AtomicBool, Ordering};

/// How long connecting, a request and an acknowledgement may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// For how long the server knows an event again that is sent twice.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// A log in NATS.
pub(super) struct NatsLog {
    runtime: Arc<Runtime>,
    url: String,
    /// Certificates of the authorities to trust beside the system's.
    ca_file: String,
    name: String,
    shards: usize,
    history: u64,
    replicas: usize,
    /// Which node this is, so that event ids of two nodes never meet.
    node: u64,
    on_notice: OnNotice,
    interest: Arc<Interest>,
    /// Everything, where that is what the node follows.
    _all: Option<Wanted>,
    clock: Arc<plain::Clock>,
}

/// In place of a shard: a message is a notice.
const NOTICE: u16 = u16::MAX;

fn unreachable(error: impl std::fmt::Display) -> EngineError {
    EngineError::Unreachable(error.to_string())
}

fn start_runtime() -> Result<Runtime, EngineError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).thread_name("fanwire-engine-nats").enable_all().build().map_err(unreachable)
}

/// The servers of an address, in any order: which of them is asked makes no difference.
fn servers(urls: &str) -> Result<Vec<ServerAddr>, EngineError> {
    addresses(urls).map(|url| url.parse().map_err(|error| EngineError::Url(format!("{error}")))).collect()
}

/// A connection to one of the servers; `lost` is set whenever messages may have passed it by.
async fn connect(urls: &str, ca_file: &str, lost: &Arc<AtomicBool>) -> Result<Client, EngineError> {
    let lost = Arc::clone(lost);
    let mut options = ConnectOptions::new();
    if !ca_file.is_empty() {
        options = options.add_root_certificates(ca_file.into());
    }
    let options =
        options.connection_timeout(TIMEOUT).request_timeout(Some(TIMEOUT)).event_callback(move |event| {
            if matches!(event, ClientEvent::Disconnected | ClientEvent::Closed | ClientEvent::SlowConsumer(_))
            {
                // Relaxed: the follower looks again and again.
                lost.store(true, Ordering::Relaxed);
            }
            std::future::ready(())
        });
    let servers: Vec<ServerAddr> = servers(urls)?;
    let patience = TIMEOUT * servers.len() as u32;
    timeout(patience, options.connect(servers)).await.map_err(unreachable)?.map_err(unreachable)
}

/// Hands over the messages of a subject. See [`super::ingest`].
pub(super) fn listen(
    url: &str,
    ca_file: &str,
    subject: &str,
    on_message: OnMessage<'_>,
) -> Result<(), EngineError> {
    let lost = Arc::default();
    start_runtime()?.block_on(async {
        let client = connect(url, ca_file, &lost).await?;
        let mut messages = client.subscribe(subject.to_owned()).await.map_err(unreachable)?;
        // Relaxed: it is looked at again and again.
        while !lost.load(Ordering::Relaxed) {
            let goes_on = match timeout(super::ingest::wait(), messages.next()).await {
                Ok(Some(message)) => on_message(Some((message.subject.as_str(), &message.payload))),
                Ok(None) => break,
                Err(_) => on_message(None),
            };
            if !goes_on {
                return Ok(());
            }
        }
        Err(EngineError::Unreachable("the connection was lost".to_owned()))
    })
}

impl NatsLog {
    pub(super) fn new(
        config: &EngineConfig,
        shards: usize,
        on_notice: OnNotice,
        interest: &Arc<Interest>,
    ) -> Result<Self, EngineError> {
        let runtime = start_runtime()?;
        // Read now, so that a slip is told at the start.
        servers(&config.url)?;
        Ok(Self {
            runtime: Arc::new(runtime),
            url: config.url.clone(),
            ca_file: config.tls_ca_file.clone(),
            name: config.name.clone(),
            shards,
            history: config.history.clamp(1, i64::MAX as u64),
            replicas: config.replicas.max(1),
            node: RandomState::new().hash_one(0),
            on_notice,
            interest: Arc::clone(interest),
            _all: (!config.by_interest).then(|| interest.want_all()),
            clock: Arc::default(),
        })
    }

    fn subject(&self, shard: usize) -> String {
        format!("{}.{shard}", self.name)
    }

    /// Notices' subject.
    fn notices(&self) -> String {
        format!("{}.notices", self.name)
    }

    async fn notice_stream(&self, context: &Context) -> Result<Stream, EngineError> {
        let config = Config {
            name: format!("{}-notices", self.name),
            subjects: vec![self.notices()],
            max_messages: NOTICES_MAX as i64,
            num_replicas: self.replicas,
            discard: DiscardPolicy::Old,
            storage: StorageType::File,
            ..Config::default()
        };
        context.get_or_create_stream(config).await.map_err(unreachable)
    }

    /// What comes of notices, once those that are there were heard.
    async fn hear_all(&self, context: &Context) -> Result<Messages, EngineError> {
        let mut stream = self.notice_stream(context).await?;
        let state = stream.info().await.map_err(unreachable)?.state.clone();
        let consumer = stream.create_consumer(pull::OrderedConfig::default()).await.map_err(unreachable)?;
        let mut messages = consumer.messages().await.map_err(unreachable)?;
        let mut heard = if state.messages == 0 { u64::MAX } else { 0 };
        while heard < state.last_sequence {
            let next = timeout(TIMEOUT, messages.next()).await.map_err(unreachable)?;
            let message = next.ok_or_else(|| unreachable("the notices ended"))?.map_err(unreachable)?;
            heard = message.info().map_err(unreachable)?.stream_sequence;
            (self.on_notice)(&message.payload);
        }
        Ok(messages.map(|message| Came::kept(NOTICE, message)).boxed())
    }

    /// The streams of the log; `None` where the server keeps none.
    async fn streams(&self, context: &Context) -> Result<Option<Vec<Stream>>, EngineError> {
        let mut streams = Vec::with_capacity(self.shards);
        for shard in 0..self.shards {
            let config = Config {
                name: format!("{}-{shard}", self.name),
                subjects: vec![self.subject(shard)],
                max_messages: self.history as i64,
                discard: DiscardPolicy::Old,
                storage: StorageType::File,
                duplicate_window: DUPLICATE_WINDOW,
                num_replicas: self.replicas,
                ..Config::default()
            };
            match context.get_or_create_stream(config).await {
                Ok(stream) => streams.push(stream),
                Err(error) if shard == 0 && is_off(&error) => return Ok(None),
                Err(error) => return Err(unreachable(error)),
            }
        }
        Ok(Some(streams))
    }
}

/// Whether the server answered that it has no JetStream, or nobody answered for it.
fn is_off(error: &jetstream::context::CreateStreamError) -> bool {
    use jetstream::ErrorCode;
    use jetstream::context::CreateStreamErrorKind;
    match error.kind() {
        CreateStreamErrorKind::JetStreamUnavailable => true,
        CreateStreamErrorKind::JetStream(error) => {
            matches!(
                error.error_code(),
                ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
            )
        }
        _ => false,
    }
}

/// Needs the runtime: it spawns a task.
fn context(client: &Client) -> Context {
    let mut context = jetstream::new(client.clone());
    context.set_timeout(TIMEOUT);
    context
}

/// Whether the log still has all that this node has seen.
fn reaches(end: &Places, known: &Places) -> bool {
    known.next.iter().zip(&end.next).all(|(known, end)| known <= end)
}

/// When the youngest of the streams was created, and where each ends.
async fn ends(streams: &mut [Stream]) -> Result<Places, EngineError> {
    let mut places = Places::default();
    for stream in streams {
        let info = stream.info().await.map_err(unreachable)?;
        let created = info.created.unix_timestamp_nanos() / 1000;
        places.epoch = places.epoch.max(u64::try_from(created).unwrap_or_default());
        places.next.push(info.state.last_sequence);
    }
    Ok(places)
}

impl Log for NatsLog {
    fn past(&self) -> Result<Option<Box<dyn Past>>, EngineError> {
        let lost = Arc::default();
        self.runtime.block_on(async {
            let client = connect(&self.url, &self.ca_file, &lost).await?;
            let Some(mut streams) = self.streams(&context(&client)).await? else { return Ok(None) };
            let epoch = ends(&mut streams).await?.epoch;
            let streams = InRuntime::new(&self.runtime, streams);
            Ok(Some(Box::new(NatsPast::new(Arc::clone(&self.runtime), streams, epoch)) as Box<dyn Past>))
        })
    }

    fn tell(&self, notice: &str) -> Result<(), EngineError> {
        let lost = Arc::default();
        self.runtime.block_on(async {
            let client = connect(&self.url, &self.ca_file, &lost).await?;
            let context = context(&client);
            let (subject, notice) = (self.notices(), bytes::Bytes::copy_from_slice(notice.as_bytes()));
            if self.streams(&context).await?.is_none() {
                client.publish(subject, notice).await.map_err(unreachable)?;
                return timeout(TIMEOUT, client.flush()).await.map_err(unreachable)?.map_err(unreachable);
            }
            self.notice_stream(&context).await?;
            let ack = context.publish(subject, notice).await.map_err(unreachable)?;
            timeout(TIMEOUT, ack.into_future()).await.map_err(unreachable)?.map_err(unreachable)?;
            Ok(())
        })
    }

    fn appender(&self) -> Result<Box<dyn Append>, EngineError> {
        let lost = Arc::default();
        let (client, context, epoch) = self.runtime.block_on(async {
            let client = connect(&self.url, &self.ca_file, &lost).await?;
            let context = context(&client);
            let epoch = match self.streams(&context).await? {
                Some(mut streams) => Some(ends(&mut streams).await?.epoch),
                None => None,
            };
            Ok::<_, EngineError>((client, context, epoch))
        })?;
        Ok(Box::new(Appender {
            runtime: Arc::clone(&self.runtime),
            context: InRuntime::new(&self.runtime, context),
            client,
            epoch,
            node: self.node,
            name: self.name.clone(),
            clock: Arc::clone(&self.clock),
            subjects: (0..self.shards).map(|shard| self.subject(shard)).collect(),
        }))
    }

    fn follower(&self, known: Option<&Places>, past: u64) -> Result<(Box<dyn Follow>, Places), EngineError> {
        let lost = Arc::default();
        self.runtime.block_on(async {
            let client = connect(&self.url, &self.ca_file, &lost).await?;
            let context = context(&client);
            let Some(mut streams) = self.streams(&context).await? else {
                tracing::warn!("NATS has JetStream off: no history, and no resume on another node");
                let (follower, places) = plain::Follower::new(self, client, lost).await?;
                return Ok((Box::new(follower) as Box<dyn Follow>, places));
            };
            self.interest.begin(None, None);
            let end = ends(&mut streams).await?;
            let places = match known {
                Some(known) if known.epoch == end.epoch && reaches(&end, known) => known.clone(),
                _ => Places { next: end.next.iter().map(|end| end.saturating_sub(past)).collect(), ..end },
            };
            let mut entries = Vec::with_capacity(streams.len() + 1);
            entries.push(self.hear_all(&context).await?);
            for ((shard, stream), next) in streams.iter().enumerate().zip(&places.next) {
                let config = pull::OrderedConfig {
                    deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: *next + 1 },
                    ..pull::OrderedConfig::default()
                };
                let consumer = stream.create_consumer(config).await.map_err(unreachable)?;
                let messages = consumer.messages().await.map_err(unreachable)?;
                entries.push(messages.map(move |message| Came::kept(shard as u16, message)).boxed());
            }
            Ok((self.follow_all(client, lost, places.epoch, entries), places))
        })
    }
}

struct Appender {
    runtime: Arc<Runtime>,
    client: Client,
    context: InRuntime<Context>,
    /// `None`: nothing is kept.
    epoch: Option<u64>,
    node: u64,
    name: String,
    clock: Arc<plain::Clock>,
    subjects: Vec<String>,
}

impl Append for Appender {
    fn append(&mut self, batch: &Batch<'_>) -> Result<(u64, Vec<Sequence>), EngineError> {
        let subject = |shard: u16| self.subjects[usize::from(shard)].clone();
        let json = |record: &super::Record| bytes::Bytes::copy_from_slice(record.json.as_bytes());
        self.runtime.block_on(async {
            let Some(epoch) = self.epoch else {
                for record in batch.records {
                    plain::publish(&self.client, &self.name, self.node, &self.clock, record).await?;
                }
                timeout(TIMEOUT, self.client.flush()).await.map_err(unreachable)?.map_err(unreachable)?;
                return Ok((0, Vec::new()));
            };
            let mut acks = VecDeque::with_capacity(batch.records.len());
            for (at, record) in batch.records.iter().enumerate() {
                let id = format!("{:x}-{:x}", self.node, batch.first + at as u64);
                let message = PublishMessage::build().payload(json(record)).message_id(id);
                acks.push_back(
                    self.context
                        .get()
                        .send_publish(subject(record.shard), message)
                        .await
                        .map_err(unreachable)?,
                );
            }
            let mut sequences = Vec::with_capacity(acks.len());
            for ack in acks {
                sequences.push(
                    timeout(TIMEOUT, ack.into_future())
                        .await
                        .map_err(unreachable)?
                        .map_err(unreachable)?
                        .sequence
                        .saturating_sub(1),
                );
            }
            Ok((epoch, sequences))
        })
    }
}

/// Something of the client's that spawns a task when it goes, for which it needs the runtime around it.
pub(super) struct InRuntime<T> {
    runtime: Arc<Runtime>,
    value: Option<T>,
}

impl<T> InRuntime<T> {
    fn new(runtime: &Arc<Runtime>, value: T) -> Self {
        Self { runtime: Arc::clone(runtime), value: Some(value) }
    }

    pub(super) fn get(&mut self) -> &mut T {
        self.value.as_mut().expect("taken when it is dropped, not before")
    }
}

impl<T> Drop for InRuntime<T> {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        self.value.take();
    }
}

type Messages = futures_util::stream::BoxStream<'static, Result<Came, EngineError>>;

/// A message that came.
struct Came {
    /// Or [`NOTICE`].
    shard: u16,
    sequence: Sequence,
    payload: bytes::Bytes,
}

impl Came {
    /// Of a stream.
    fn kept(
        shard: u16,
        message: Result<jetstream::Message, impl std::fmt::Display>,
    ) -> Result<Self, EngineError> {
        let message = message.map_err(unreachable)?;
        let sequence = message.info().map_err(unreachable)?.stream_sequence.saturating_sub(1);
        Ok(Self { shard, sequence, payload: message.message.payload })
    }
}

/// Entries handed over in one call.
const READ_COUNT: usize = 1000;

/// What is there comes over the network, not at once.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// Follows streams.
struct Follower {
    runtime: Arc<Runtime>,
    epoch: u64,
    messages: InRuntime<SelectAll<Messages>>,
    lost: Arc<AtomicBool>,
    on_notice: OnNotice,
    /// While it lives, its streams and subscriptions do.
    _client: Client,
}

impl Follow for Follower {
    fn follow(
        &mut self,
        _: &Places,
        wait: Duration,
        take: &mut dyn FnMut(Entry<'_>),
    ) -> Result<(), EngineError> {
        let Self { runtime, messages, epoch, lost, on_notice, .. } = self;
        let wait = wait.max(FIRST_WAIT);
        runtime.block_on(async {
            let end = tokio::time::Instant::now() + wait;
            for _ in 0..READ_COUNT {
                // Relaxed: it is looked at again and again.
                if lost.load(Ordering::Relaxed) {
                    return Err(EngineError::Unreachable("the connection was lost".to_owned()));
                }
                let Came { shard, sequence, payload } =
                    match tokio::time::timeout_at(end, messages.get().next()).await {
                        Err(_) => return Ok(()),
                        Ok(None) => return Err(EngineError::Unreachable("the streams ended".to_owned())),
                        Ok(Some(came)) => came?,
                    };
                if shard == NOTICE {
                    on_notice(&payload);
                    continue;
                }
                take(Entry { id: EventId { epoch: *epoch, shard, sequence }, json: &payload });
            }
            Ok(())
        })
    }
}

impl NatsLog {
    /// A follower of these. Within the runtime.
    fn follow_all(
        &self,
        client: Client,
        lost: Arc<AtomicBool>,
        epoch: u64,
        all: Vec<Messages>,
    ) -> Box<dyn Follow> {
        Box::new(Follower {
            runtime: Arc::clone(&self.runtime),
            epoch,
            messages: InRuntime::new(&self.runtime, select_all(all)),
            lost,
            on_notice: Arc::clone(&self.on_notice),
            _client: client,
        })
    }
}

//! The log as NATS JetStream streams, one a shard; or, where the server has JetStream off, plain subjects.
//!
//! Imports its siblings; [`streams`] says which streams the log is and which life it is in, [`append`] and [`mod@follow`] are
//! the two connections, [`peers`] the other nodes, [`plain`] is what goes over plain subjects. The client is for async code, so a small runtime of one
//! thread drives it ([`link`]), and the engine's two threads block on that. Always:
//! - with JetStream, an entry's sequence is the stream's own less one (streams begin at 1, shards at 0), and the epoch is
//!   when the youngest of the streams was created, or a later one that a node told all others of because the streams had
//!   lost what it saw: every node gives an event the same id. A batch is not all or nothing, but each event's message id
//!   makes the server take it once, however often it is sent;
//! - notices have a stream of their own, which is read to its end before events are, and beside them from then on;
//! - without, nothing is kept: order is what each node receives, ids are the node's own, a client resumes on the
//!   node that it was on, and a lost connection begins another epoch, because what passed meanwhile is lost. There a
//!   node may ask for what its clients want only: a stream's reader could as well, but then its positions would have
//!   holes that are no loss, and who resumes with another wish would need the stream read anew;
//! - which of the two it is is found at the first attaching. A log that was kept is never read or written as one that is not,
//!   whatever the server says later: the node is not ready until the streams are back. One that was not kept goes over
//!   when another node has made streams.

mod append;
mod follow;
mod link;
mod peers;
mod plain;
mod streams;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::jetstream::Context;
use tokio::time::timeout;

use super::history::{NatsPast, Past};
use super::ingest::OnMessage;
use super::{Append, EngineConfig, EngineError, Follow, Interest, Log, OnNotice, Places, Wanted};
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::{Mutex, lock};
use append::{Appender, Way};
use link::{Faults, TIMEOUT, connect, unreachable};
use peers::Peers;
use plain::Marks;
use streams::{Attached, Known, context, look};

pub(super) use follow::epoch_of;
pub(super) use link::{Driver, InRuntime};
pub(super) use streams::{Life, micros};

/// What both connections have of the log.
struct Shared {
    driver: Arc<Driver>,
    url: String,
    /// Certificates of the authorities to trust beside the system's.
    ca_file: String,
    name: String,
    shards: usize,
    history: u64,
    replicas: usize,
    accept_timeout: Duration,
    /// Which node this is, so that event ids of two nodes never meet.
    node: u64,
    on_notice: OnNotice,
    interest: Arc<Interest>,
    clock: Arc<plain::Clock>,
    /// [`UNKNOWN`], [`PLAIN`] or [`KEPT`]: it only grows.
    kind: AtomicU8,
    known: Mutex<Known>,
    peers: Mutex<Peers>,
    sent: Mutex<plain::Sent>,
    /// Newest stamp of each node that was delivered, where the server keeps nothing. It outlives a follower: what a node sends
    /// again must not be delivered again in another epoch.
    delivered: Mutex<HashMap<u64, u64>>,
    /// Messages of a batch without an answer that streams acknowledged, by the records' numbers.
    unproven: Mutex<BTreeMap<u64, append::Acknowledged>>,
}

/// How long a notice waits before it is told again.
const NOTICE_PAUSE: Duration = Duration::from_millis(100);

const UNKNOWN: u8 = 0;
const PLAIN: u8 = 1;
const KEPT: u8 = 2;

impl Shared {
    fn subject(&self, shard: usize) -> String {
        format!("{}.{shard}", self.name)
    }

    /// Notices' subject.
    fn notices(&self) -> String {
        format!("{}.notices", self.name)
    }

    fn kind(&self) -> u8 {
        // Relaxed, here and below: a number on its own, which only grows.
        self.kind.load(Ordering::Relaxed)
    }

    /// Whether the log is known to be one of streams.
    fn is_kept(&self) -> bool {
        self.kind() == KEPT
    }

    fn is(&self, kind: u8) {
        self.kind.fetch_max(kind, Ordering::Relaxed);
    }

    fn keeps(&self) {
        if self.kind() == PLAIN {
            tracing::warn!("NATS keeps this log now: the node goes over to its streams");
        }
        self.is(KEPT);
    }

    fn is_way(&self, way: &Way) -> bool {
        matches!(way, Way::Kept { .. }) == self.is_kept()
    }

    /// Publishes a notice and reads it back. A server that makes a stream anew within milliseconds of its deletion may
    /// acknowledge a message and not have it (seen with NATS 2.9: one in three under load).
    async fn keep_notice(&self, context: &Context, notice: bytes::Bytes) -> Result<(), EngineError> {
        let stream = self.notice_stream(context).await?;
        let ack = context.publish(self.notices(), notice).await.map_err(unreachable)?;
        let ack = timeout(TIMEOUT, ack.into_future()).await.map_err(unreachable)?.map_err(unreachable)?;
        stream.get_raw_message(ack.sequence).await.map(drop).map_err(unreachable)
    }

    /// Whether a log that was not kept is kept by now.
    async fn goes_over(&self, client: &Client) -> Result<bool, EngineError> {
        let first = context(client).get_stream_no_info(format!("{}-0", self.name)).await;
        let found = match first {
            Ok(stream) => look(&stream).await,
            Err(error) => return Err(unreachable(error)),
        };
        match found {
            Ok(Some(_)) => {
                self.keeps();
                Ok(true)
            }
            Ok(None) | Err(EngineError::OtherKind(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The streams of the log; `None` where it is not kept.
    async fn find(&self, client: &Client, context: &Context) -> Result<Option<Attached>, EngineError> {
        if self.kind() == PLAIN && !self.goes_over(client).await? {
            return Ok(None);
        }
        match self.attach(client, context, None).await {
            Ok(attached) => Ok(Some(attached)),
            Err(EngineError::OtherKind(why)) if self.kind() == UNKNOWN => {
                tracing::warn!(why, "NATS keeps nothing: no history, and no resume on another node");
                self.is(PLAIN);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// A log in NATS.
pub(super) struct NatsLog {
    shared: Arc<Shared>,
    /// Everything, where that is what the node follows.
    _all: Option<Wanted>,
}

/// Hands over the messages of a subject. See [`super::ingest`].
pub(super) fn listen(
    url: &str,
    ca_file: &str,
    subject: &str,
    on_message: OnMessage<'_>,
) -> Result<(), EngineError> {
    let faults = Arc::<Faults>::default();
    Driver::start()?.block_on(async {
        let client = connect(url, ca_file, &faults).await?;
        let mut messages = client.subscribe(subject.to_owned()).await.map_err(unreachable)?;
        while !faults.is_faulty() {
            let goes_on =
                match timeout(super::ingest::wait(), futures_util::StreamExt::next(&mut messages)).await {
                    Ok(Some(message)) => on_message(Some((message.subject.as_str(), &message.payload))),
                    Ok(None) => break,
                    Err(_) => on_message(None),
                };
            if !goes_on {
                return Ok(());
            }
        }
        Err(unreachable("the connection was lost"))
    })
}

impl NatsLog {
    pub(super) fn new(
        config: &EngineConfig,
        shards: usize,
        on_notice: OnNotice,
        interest: &Arc<Interest>,
    ) -> Result<Self, EngineError> {
        // Read now, so that a slip is told at the start.
        link::check_address(&config.url)?;
        let shared = Shared {
            driver: Driver::start()?,
            url: config.url.clone(),
            ca_file: config.tls_ca_file.clone(),
            name: config.name.clone(),
            shards,
            history: config.history.clamp(1, i64::MAX as u64),
            replicas: config.replicas.max(1),
            accept_timeout: config.accept_timeout,
            node: RandomState::new().hash_one(0),
            on_notice,
            interest: Arc::clone(interest),
            clock: Arc::default(),
            kind: AtomicU8::new(UNKNOWN),
            known: Mutex::default(),
            peers: Mutex::default(),
            sent: Mutex::default(),
            delivered: Mutex::default(),
            unproven: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), _all: (!config.by_interest).then(|| interest.want_all()) })
    }
}

impl Log for NatsLog {
    fn expect(&self, known: &Places) {
        match known.kept {
            Some(true) => {
                self.shared.is(KEPT);
                let followed = &mut lock(&self.shared.known).followed;
                followed.epoch = known.epoch;
                followed.next.clone_from(&known.next);
            }
            Some(false) => self.shared.is(PLAIN),
            // A predecessor of an older version did not say.
            None => {}
        }
    }

    fn past(&self) -> Result<Option<Box<dyn Past>>, EngineError> {
        let (shared, faults) = (&self.shared, Arc::default());
        shared.driver.block_on(async {
            let client = connect(&shared.url, &shared.ca_file, &faults).await?;
            let found = shared.find(&client, &context(&client)).await?;
            let Some(Attached { streams, life, .. }) = found else { return Ok(None) };
            let streams = InRuntime::new(&shared.driver, streams);
            Ok(Some(Box::new(NatsPast::new(Arc::clone(&shared.driver), streams, life)) as Box<dyn Past>))
        })
    }

    fn tell(&self, notice: &str) -> Result<(), EngineError> {
        let (shared, faults) = (&self.shared, Arc::default());
        shared.driver.block_on(async {
            let client = connect(&shared.url, &shared.ca_file, &faults).await?;
            let context = context(&client);
            let subject = shared.notices();
            let notice = bytes::Bytes::copy_from_slice(notice.as_bytes());
            if !shared.is_kept() && shared.find(&client, &context).await?.is_none() {
                client.publish(subject, notice).await.map_err(unreachable)?;
                return Marks::new(&client).await?.pass(&client).await;
            }
            let end = Instant::now() + TIMEOUT;
            loop {
                match shared.keep_notice(&context, notice.clone()).await {
                    // To be told twice is to be told.
                    Err(error) if Instant::now() < end => {
                        tracing::debug!(%error, "a notice is told again");
                        tokio::time::sleep(NOTICE_PAUSE).await;
                    }
                    outcome => return outcome,
                }
            }
        })
    }

    fn appender(&self) -> Result<Box<dyn Append>, EngineError> {
        let (shared, faults) = (&self.shared, Arc::<Faults>::default());
        let (client, way) = shared.driver.block_on(async {
            let client = connect(&shared.url, &shared.ca_file, &faults).await?;
            let context = context(&client);
            let way = match shared.find(&client, &context).await? {
                Some(attached) => {
                    shared.arrive(&client, attached.life.epoch);
                    let appended = &mut lock(&shared.known).appended;
                    if appended.epoch != attached.life.epoch || appended.created != attached.life.created {
                        appended.begin(&attached.life, &attached.life.starts);
                    }
                    Way::Kept {
                        context: InRuntime::new(&shared.driver, context),
                        attached: Box::new(InRuntime::new(&shared.driver, attached)),
                    }
                }
                None => Way::Plain { marks: InRuntime::new(&shared.driver, Marks::new(&client).await?) },
            };
            Ok::<_, EngineError>((client, way))
        })?;
        let made = Instant::now();
        Ok(Box::new(Appender { shared: Arc::clone(shared), client, faults, way, made }))
    }

    fn follower(&self, known: Option<&Places>, past: u64) -> Result<(Box<dyn Follow>, Places), EngineError> {
        let (shared, faults) = (&self.shared, Arc::<Faults>::default());
        shared.driver.block_on(async {
            let client = connect(&shared.url, &shared.ca_file, &faults).await?;
            let context = context(&client);
            let Some(attached) = shared.find(&client, &context).await? else {
                let (follower, places) = plain::Follower::new(shared, client, faults).await?;
                return Ok((Box::new(follower) as Box<dyn Follow>, places));
            };
            shared.interest.begin(None, None);
            let next = attached.places(known, &lock(&shared.known).followed, past);
            let places = Places { epoch: attached.life.epoch, next, kept: Some(true) };
            let follower =
                follow::Follower::new(shared, client, &context, faults, attached, &places.next).await?;
            Ok((Box::new(follower) as Box<dyn Follow>, places))
        })
    }
}

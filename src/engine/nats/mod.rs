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

mod api;
mod append;
mod attach;
mod follow;
mod life;
mod link;
mod past;
mod peer_messages;
mod peers;
mod plain;
mod plain_follow;
mod shared;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::config::EngineConfig;
use super::error::EngineError;
use super::interest::{InterestGuard, InterestRegistry};
use super::listen::{LISTEN_WAIT, OnMessage};
use super::log::{Append, Follow, Log, OnNotice, Past, Places};
use crate::sync::lock;
use api::context;
use append::{AppendTarget, NatsAppender};
use attach::Attached;
use follow::StreamFollower;
use link::{Driver, Faults, InRuntime, TIMEOUT, connect, unreachable};
use past::NatsPast;
use plain::Marks;
use plain_follow::PlainFollower;
use shared::{LogKind, NatsShared};

/// How long a notice waits before it is told again.
const NOTICE_PAUSE: Duration = Duration::from_millis(100);

/// A log in NATS.
pub(super) struct NatsLog {
    shared: Arc<NatsShared>,
    /// Everything, where that is what the node follows.
    _all: Option<InterestGuard>,
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
            let goes_on = match timeout(LISTEN_WAIT, futures_util::StreamExt::next(&mut messages)).await {
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
        interest: &Arc<InterestRegistry>,
    ) -> Result<Self, EngineError> {
        // Read now, so that a slip is told at the start.
        link::check_address(&config.url)?;
        let shared = NatsShared::new(config, shards, on_notice, interest)?;
        Ok(Self { shared: Arc::new(shared), _all: (!config.by_interest).then(|| interest.want_all()) })
    }
}

impl Log for NatsLog {
    fn expect(&self, known: &Places) {
        match known.kept {
            Some(true) => {
                self.shared.found_kind(LogKind::Kept);
                let followed = &mut lock(&self.shared.known).followed;
                followed.epoch = known.epoch;
                followed.next.clone_from(&known.next);
            }
            Some(false) => self.shared.found_kind(LogKind::Plain),
            // A predecessor of an older version did not say.
            None => {}
        }
    }

    fn past(&self) -> Result<Option<Box<dyn Past>>, EngineError> {
        let (shared, faults) = (&self.shared, Arc::default());
        shared.driver.block_on(async {
            let client = connect(&shared.settings.url, &shared.settings.ca_file, &faults).await?;
            let found = shared.find(&client, &context(&client)).await?;
            let Some(Attached { streams, life, .. }) = found else { return Ok(None) };
            let streams = InRuntime::new(&shared.driver, streams);
            Ok(Some(Box::new(NatsPast::new(Arc::clone(&shared.driver), streams, life)) as Box<dyn Past>))
        })
    }

    fn tell(&self, notice: &str) -> Result<(), EngineError> {
        let (shared, faults) = (&self.shared, Arc::default());
        shared.driver.block_on(async {
            let client = connect(&shared.settings.url, &shared.settings.ca_file, &faults).await?;
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
            let client = connect(&shared.settings.url, &shared.settings.ca_file, &faults).await?;
            let context = context(&client);
            let way = match shared.find(&client, &context).await? {
                Some(attached) => {
                    shared.arrive(&client, attached.life.epoch);
                    let appended = &mut lock(&shared.known).appended;
                    if appended.epoch != attached.life.epoch || appended.created != attached.life.created {
                        appended.begin(&attached.life, &attached.life.starts);
                    }
                    AppendTarget::Kept {
                        context: InRuntime::new(&shared.driver, context),
                        attached: Box::new(InRuntime::new(&shared.driver, attached)),
                    }
                }
                None => {
                    AppendTarget::Plain { marks: InRuntime::new(&shared.driver, Marks::new(&client).await?) }
                }
            };
            Ok::<_, EngineError>((client, way))
        })?;
        let made = Instant::now();
        Ok(Box::new(NatsAppender { shared: Arc::clone(shared), client, faults, way, made }))
    }

    fn follower(&self, known: Option<&Places>, past: u64) -> Result<(Box<dyn Follow>, Places), EngineError> {
        let (shared, faults) = (&self.shared, Arc::<Faults>::default());
        shared.driver.block_on(async {
            let client = connect(&shared.settings.url, &shared.settings.ca_file, &faults).await?;
            let context = context(&client);
            let Some(attached) = shared.find(&client, &context).await? else {
                let (follower, places) = PlainFollower::new(shared, client, faults).await?;
                return Ok((Box::new(follower) as Box<dyn Follow>, places));
            };
            shared.interest.begin(None, None);
            let next = attached.places(known, &lock(&shared.known).followed, past);
            let places = Places { epoch: attached.life.epoch, next, kept: Some(true) };
            let follower =
                StreamFollower::new(shared, client, &context, faults, attached, &places.next).await?;
            Ok((Box::new(follower) as Box<dyn Follow>, places))
        })
    }
}

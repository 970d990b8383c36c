//! The log as NATS JetStream streams, one for each shard; or as plain subjects, if the server has JetStream off.
//!
//! The client is asynchronous, so a small runtime with one thread drives it, and the engine's threads block on that.
//!
//! Invariants:
//! - With JetStream, an entry's sequence is the stream's own less one (streams begin at 1, shards at 0). The epoch is
//!   the creation time of the youngest stream, or a later one that a node announced because the streams had lost
//!   events that it saw, or one of them was replaced. So every node gives an event the same id. A batch is not all or nothing, but each event's
//!   message id makes the server take it once, however often it is sent.
//! - Notices have a stream of their own, which is read to its end before events are, and beside them from then on.
//! - Without JetStream nothing is kept: the order is that in which each node receives events, and ids are the node's
//!   own. A client resumes on the node that it was on, and a lost connection begins another epoch, because messages
//!   sent in the meantime are lost. In this mode a node may subscribe only to what its clients want. A reader of a
//!   stream could do that as well, but its positions would then have holes that are no loss, and a client that resumes
//!   with another filter would need the stream read again.
//! - The first attachment decides between the two. A log in streams is never used as plain subjects, whatever the
//!   server reports later: the node is not ready until the streams are back. A log in plain subjects moves to streams
//!   after another node has created them.

mod api;
mod append;
mod attach;
mod ended;
mod epoch;
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
use super::log::{Append, Follow, FollowStart, Log, OnNotice, Past, Places};
use crate::sync::lock;
use api::context;
use append::{AppendTarget, NatsAppender};
use attach::Attached;
use ended::EndedFollower;
use follow::StreamFollower;
use link::{Driver, Faults, InRuntime, TIMEOUT, connect, unreachable};
use past::NatsPast;
use plain::Marks;
use plain_follow::PlainFollower;
use shared::{LogKind, NatsShared};

/// Pause before a notice is sent again.
const NOTICE_PAUSE: Duration = Duration::from_millis(100);

/// Log in NATS.
pub(super) struct NatsLog {
    shared: Arc<NatsShared>,
    /// Interest in everything, unless the node follows its clients' interest.
    _all: Option<InterestGuard>,
}

/// Passes the messages of a subject to `on_message`. See [`super::ingest`].
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
        // Checked now, so that a malformed address fails at the start.
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
            // A predecessor of an older version did not pass this on.
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

    fn send_notice(&self, notice: &str) -> Result<(), EngineError> {
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
                    // Receiving a notice twice does no harm.
                    Err(error) if Instant::now() < end => {
                        tracing::debug!(%error, "a notice is sent again");
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
                    let mut known = lock(&shared.known);
                    if known.appended.epoch != attached.life.epoch {
                        known.appended_before = known.appended.epoch;
                    }
                    if known.appended.epoch != attached.life.epoch
                        || known.appended.created != attached.life.created
                    {
                        known.appended.begin(&attached.life, &attached.life.starts);
                    }
                    drop(known);
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

    fn follower(
        &self,
        known: Option<&Places>,
        past: u64,
    ) -> Result<(Box<dyn Follow>, FollowStart), EngineError> {
        let (shared, faults) = (&self.shared, Arc::<Faults>::default());
        shared.driver.block_on(async {
            let client = connect(&shared.settings.url, &shared.settings.ca_file, &faults).await?;
            let context = context(&client);
            let Some(attached) = shared.find(&client, &context).await? else {
                let (follower, places) = PlainFollower::new(shared, client, faults).await?;
                let start = FollowStart { end: places.clone(), places };
                return Ok((Box::new(follower) as Box<dyn Follow>, start));
            };
            shared.interest.reset(None, None);
            let life = &attached.life;
            let end = Places { epoch: life.epoch, next: life.ends.clone(), kept: Some(true) };
            if let Some(known) = known
                && let Some(rest) = EndedFollower::new(shared, &client, &faults, &attached, known).await?
            {
                return Ok((Box::new(rest) as Box<dyn Follow>, FollowStart { places: known.clone(), end }));
            }
            let next = attached.places(known, &lock(&shared.known).followed, past);
            let places = Places { epoch: attached.life.epoch, next, kept: Some(true) };
            let follower =
                StreamFollower::new(shared, client, &context, faults, attached, &places.next).await?;
            Ok((Box::new(follower) as Box<dyn Follow>, FollowStart { places, end }))
        })
    }
}

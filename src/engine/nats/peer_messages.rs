//! What nodes say to one another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::super::error::EngineError;
use super::link::unreachable;
use super::peers::Roll;
use super::shared::NatsShared;
use crate::sync::lock;

/// How often it is looked whether all were heard.
const LOOK: Duration = Duration::from_millis(20);

/// What a node says in place of the server's run when it goes, and when it claims an epoch.
const GONE: &str = "-";
const CLAIM: &str = "epoch";

/// How long what is on its way to the log in the old epoch has to come there, before marks end it.
const SETTLING: Duration = Duration::from_millis(150);

/// How long the word that a node goes may take.
const FAREWELL: Duration = Duration::from_millis(200);

impl NatsShared {
    fn peers_subject(&self) -> String {
        format!("{}.peers", self.settings.name)
    }

    /// Notes which run of the server a connection to append with is to.
    pub(super) fn arrive(&self, client: &Client, epoch: u64) {
        let server = client.server_info();
        if server.cluster.is_none() && !server.server_id.is_empty() {
            lock(&self.peers).arrive(&server.server_id, epoch, Instant::now());
        }
    }

    /// Waits until all nodes were heard, or one was not; at most until this moment.
    pub(super) async fn roll(&self, until: Instant) -> Roll {
        loop {
            let now = Instant::now();
            let roll = lock(&self.peers).roll(now);
            if roll != Roll::Waits || now >= until {
                return roll;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Tells the other nodes that this one found the log as it knew it.
    pub(super) async fn say_here(&self, client: &Client, server: &str) {
        let word = format!("{:x} {server}", self.node);
        // An error is a connection that was lost, which is found elsewhere.
        let _ = client.publish(self.peers_subject(), Bytes::from(word)).await;
    }

    /// Tells the other nodes that an epoch is claimed: from here on they append nothing in an older one.
    pub(super) async fn say_claimed(&self, client: &Client, epoch: u64) {
        let word = format!("{:x} {CLAIM} {epoch}", self.node);
        // Who does not hear it sees the marks.
        let _ = client.publish(self.peers_subject(), Bytes::from(word)).await;
        tokio::time::sleep(SETTLING).await;
    }

    /// Tells the other nodes that this one goes.
    pub(super) fn say_gone(&self, client: &Client) {
        let word = Bytes::from(format!("{:x} {GONE}", self.node));
        let say = async {
            let _ = client.publish(self.peers_subject(), word).await;
            let _ = client.flush().await;
        };
        // One that is not heard is waited for once, no more.
        let _ = self.driver.block_on(async { timeout(FAREWELL, say).await });
    }
}

/// What other nodes say.
pub(super) async fn subscribe(shared: &NatsShared, client: &Client) -> Result<Subscriber, EngineError> {
    client.subscribe(shared.peers_subject()).await.map_err(unreachable)
}

/// Notes what other nodes say, and answers one that was not known.
pub(super) async fn listen(shared: Arc<NatsShared>, client: Client, mut words: Subscriber) {
    let own = client.server_info().server_id;
    while let Some(word) = words.next().await {
        let Ok(text) = std::str::from_utf8(&word.payload) else { continue };
        let mut parts = text.split(' ');
        let Some(node) = parts.next().and_then(|node| u64::from_str_radix(node, 16).ok()) else { continue };
        match (parts.next(), parts.next().and_then(|epoch| epoch.parse::<u64>().ok())) {
            (Some(CLAIM), Some(epoch)) => {
                let mut known = lock(&shared.known);
                known.marked = known.marked.max(epoch);
            }
            (Some(server), None) if node != shared.node && server.len() <= 256 => {
                let server = (server != GONE).then_some(server);
                if lock(&shared.peers).hear(node, server, Instant::now()) {
                    shared.say_here(&client, &own).await;
                }
            }
            _ => {}
        }
    }
}

//! Messages that nodes of a log send to one another: that they are present, that they leave, and that an epoch is
//! claimed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::super::error::EngineError;
use super::link::unreachable;
use super::peers::RollCall;
use super::shared::NatsShared;
use crate::sync::lock;

/// Interval at which the roll call is checked.
const LOOK: Duration = Duration::from_millis(20);

/// Words in place of the server's run, for a node that leaves and for one that claims an epoch.
const GONE: &str = "-";
const CLAIM: &str = "epoch";

/// Time for messages of the old epoch to reach the log before marks end it.
const SETTLING: Duration = Duration::from_millis(150);

/// Maximum time for the message of a node that leaves.
const FAREWELL: Duration = Duration::from_millis(200);

impl NatsShared {
    fn peers_subject(&self) -> String {
        format!("{}.peers", self.settings.name)
    }

    /// Records the server's run of an appending connection.
    pub(super) fn arrive(&self, client: &Client, epoch: u64) {
        let server = client.server_info();
        if server.cluster.is_none() && !server.server_id.is_empty() {
            lock(&self.peers).arrive(&server.server_id, epoch, Instant::now());
        }
    }

    /// Waits until all nodes have reported or one has missed its time, at most until `until`.
    pub(super) async fn roll(&self, until: Instant) -> RollCall {
        loop {
            let now = Instant::now();
            let roll = lock(&self.peers).roll(now);
            if roll != RollCall::Waits || now >= until {
                return roll;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Reports to the other nodes that this one found the log unchanged.
    pub(super) async fn announce_presence(&self, client: &Client, server: &str) {
        let word = format!("{:x} {server}", self.node);
        // An error means a lost connection, which is detected elsewhere.
        let _ = client.publish(self.peers_subject(), Bytes::from(word)).await;
    }

    /// Reports to the other nodes that an epoch is claimed: from now on they append nothing in an older one.
    pub(super) async fn announce_claim(&self, client: &Client, epoch: u64) {
        let word = format!("{:x} {CLAIM} {epoch}", self.node);
        // Nodes that miss it see the marks.
        let _ = client.publish(self.peers_subject(), Bytes::from(word)).await;
        tokio::time::sleep(SETTLING).await;
    }

    /// Reports to the other nodes that this one leaves. Blocks for [`FAREWELL`] at most.
    pub(super) fn announce_departure(&self, client: &Client) {
        let word = Bytes::from(format!("{:x} {GONE}", self.node));
        let say = async {
            let _ = client.publish(self.peers_subject(), word).await;
            let _ = client.flush().await;
        };
        // If the message is lost, the other nodes wait for this one, once.
        let _ = self.driver.block_on(async { timeout(FAREWELL, say).await });
    }
}

/// Subscribes to the messages of other nodes.
pub(super) async fn subscribe(shared: &NatsShared, client: &Client) -> Result<Subscriber, EngineError> {
    client.subscribe(shared.peers_subject()).await.map_err(unreachable)
}

/// Records the messages of other nodes, and answers nodes that are new.
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
                if lock(&shared.peers).record(node, server, Instant::now()) {
                    shared.announce_presence(&client, &own).await;
                }
            }
            _ => {}
        }
    }
}

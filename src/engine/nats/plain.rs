//! Publishing over NATS without JetStream: plain subjects, which keep nothing.
//!
//! An event is published under `NAME.events.SHARD.` and its own subject ([`subject`]), with its node's number and a
//! stamp in a header.
//!
//! Invariants:
//! - Events of one node are delivered in the order in which it sent them, over however many subscriptions
//!   ([`ReorderBuffer`](super::super::reorder::ReorderBuffer)).
//! - An event that is sent again after a lost answer has its first stamp, and a node that has delivered it skips it.

use std::collections::BTreeMap;

use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::super::error::EngineError;
use super::super::log::Record;
use super::super::subject;
use super::link::{TIMEOUT, unreachable};
use crate::dialect::envelope;
use crate::event::Timestamp;
use crate::sync::atomic::{AtomicU64, Ordering};

/// `NODE-STAMP`, both in hexadecimal.
const ORDER: &str = "Fanwire-Order";

/// Clock that is ahead of every stamp seen, so that an answer has a later stamp than the event it answers.
#[derive(Debug, Default)]
pub(super) struct StampClock(AtomicU64);

impl StampClock {
    pub(super) fn stamp(&self) -> u64 {
        let now = Timestamp::now().0.unsigned_abs();
        let later = |last: u64| now.max(last.saturating_add(1));
        // Relaxed, here and below: no other memory depends on the number, and only one thread makes stamps.
        let last = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(later(last)));
        later(last.unwrap_or_else(|last| last))
    }

    pub(super) fn saw(&self, stamp: u64) {
        self.0.fetch_max(stamp, Ordering::Relaxed);
    }
}

/// Publishes an event with this stamp.
pub(super) async fn publish(
    client: &Client,
    name: &str,
    node: u64,
    stamp: u64,
    record: &Record,
) -> Result<(), EngineError> {
    // Parsed as every node parses it, so that all agree on its attributes.
    let subject = match envelope::read_stored(&record.json) {
        Ok(event) => subject::of_event(&event),
        Err(error) => return Err(unreachable(error)),
    };
    let mut headers = HeaderMap::new();
    headers.insert(ORDER, format!("{node:x}-{stamp:x}"));
    let subject = format!("{name}.events.{}.{subject}", record.shard);
    let json = Bytes::copy_from_slice(record.json.as_bytes());
    client.publish_with_headers(subject, headers, json).await.map_err(unreachable)
}

/// Records that a server without streams is known to have, and stamps of records that it may have.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Number of the last record that the server is known to have.
    passed: u64,
    /// Stamps of the later records, by number. A record that is sent again has its first stamp, by which readers
    /// recognize it.
    stamps: BTreeMap<u64, u64>,
}

impl Sent {
    /// Returns the number of the last record that the server is known to have.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// Returns the stamp of a record, a new one if it was not sent before.
    pub(super) fn stamp(&mut self, number: u64, clock: &StampClock) -> u64 {
        *self.stamps.entry(number).or_insert_with(|| clock.stamp())
    }

    /// Records that the server has all records up to this one.
    pub(super) fn pass(&mut self, number: u64) {
        self.passed = self.passed.max(number);
        self.stamps = self.stamps.split_off(&(self.passed + 1));
    }
}

/// Messages of a node to itself. Receiving one proves that the server has everything sent before it: the server reads a
/// connection in order, and forwards each message before it reads the next.
pub(super) struct Marks {
    inbox: String,
    came: Subscriber,
    sent: u64,
    /// Number of the client's connections when this began.
    connects: u64,
}

impl Marks {
    pub(super) async fn new(client: &Client) -> Result<Self, EngineError> {
        let connects = connects(client);
        let inbox = client.new_inbox();
        let came = client.subscribe(inbox.clone()).await.map_err(unreachable)?;
        Ok(Self { inbox, came, sent: 0, connects })
    }

    /// Waits until the server has everything sent so far. Fails if the client has reconnected meanwhile: data written
    /// to the earlier connection may be lost although a mark arrives.
    pub(super) async fn pass(&mut self, client: &Client) -> Result<(), EngineError> {
        self.sent += 1;
        let mark = self.sent.to_string();
        client.publish(self.inbox.clone(), Bytes::from(mark.clone())).await.map_err(unreachable)?;
        let comes = async {
            while let Some(message) = self.came.next().await {
                if message.payload == mark.as_bytes() {
                    if connects(client) == self.connects {
                        return Ok(());
                    }
                    return Err(unreachable("the connection was lost"));
                }
            }
            Err(unreachable("the connection ended"))
        };
        timeout(TIMEOUT, comes).await.unwrap_or_else(|_| Err(unreachable("no answer in time")))
    }
}

/// Returns the node and stamp of a message.
pub(super) fn order_of(message: &Message) -> Option<(u64, u64)> {
    let (node, stamp) = message.headers.as_ref()?.get(ORDER)?.as_str().split_once('-')?;
    Some((u64::from_str_radix(node, 16).ok()?, u64::from_str_radix(stamp, 16).ok()?))
}

/// Returns the number of connections that the client has made.
pub(super) fn connects(client: &Client) -> u64 {
    // Relaxed: the count is written before anything of a connection is passed on, through a channel.
    client.statistics().connects.load(Ordering::Relaxed)
}

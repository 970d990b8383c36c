//! Hooks by which a dialect observes its clients, for counters, logs and lists of its own.
//!
//! Invariant: nothing here changes the bytes that clients receive.

use prometheus_client::registry::Registry;
use serde_json::Value;
use serde_json::value::RawValue;

#[cfg(feature = "dialects")]
use super::autosdlc::{MessageLogConfig, Records};
use super::command::{Incoming, Reply, ReplyTag};
use crate::event::{Event, Timestamp};
use crate::filter::Filter;

/// Records that dialects keep about their clients. One per server, shared by its loops.
#[derive(Debug, Default)]
pub(crate) struct Observers {
    #[cfg(feature = "dialects")]
    pub(crate) autosdlc: Records,
}

#[cfg_attr(
    not(feature = "dialects"),
    expect(clippy::unused_self, reason = "only the optional dialects keep records")
)]
impl Observers {
    /// Returns the registries with the dialects' own metrics, for the exposition.
    pub(crate) fn registries(&self) -> impl Iterator<Item = &Registry> {
        #[cfg(feature = "dialects")]
        return std::iter::once(self.autosdlc.registry());
        #[cfg(not(feature = "dialects"))]
        std::iter::empty()
    }

    /// Returns a client's subscriptions as JSON, by the id that its dialect gave it.
    pub(crate) fn subscriptions_of(&self, client_id: &str) -> Value {
        #[cfg(feature = "dialects")]
        return serde_json::to_value(self.autosdlc.clients.of(client_id)).unwrap_or_default();
        #[cfg(not(feature = "dialects"))]
        {
            let _ = client_id;
            Value::Array(Vec::new())
        }
    }

    /// Returns the bytes that the records take.
    pub(crate) fn held_bytes(&self) -> usize {
        #[cfg(feature = "dialects")]
        return self.autosdlc.clients.held_bytes();
        #[cfg(not(feature = "dialects"))]
        0
    }

    /// Returns the bytes that the records of one client take.
    pub(crate) fn held_bytes_of(&self, client: u64) -> usize {
        #[cfg(feature = "dialects")]
        return self.autosdlc.clients.bytes_of(client);
        #[cfg(not(feature = "dialects"))]
        {
            let _ = client;
            0
        }
    }
}

/// Context of an observation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch<'a> {
    pub(crate) observers: &'a Observers,
    #[cfg(feature = "dialects")]
    pub(crate) log: &'a MessageLogConfig,
    pub(crate) client: u64,
    pub(crate) now: Timestamp,
}

/// One thing that happened to a client.
pub(crate) enum Observed<'a> {
    /// A message of the client. A compressed message may expand to `bytes_max`.
    Received { kind: &'static str, tag: &'a ReplyTag, message: Incoming<'a>, bytes_max: usize },
    /// A reply to the client; [`Reply::Welcome`] is the first of every client that connects.
    Sent { reply: &'a Reply<'a>, frame: &'a [u8] },
    /// A new subscription, with the client's request if the dialect keeps it.
    Subscribed { id: &'a str, config: Option<Box<RawValue>>, filters: &'a [Filter] },
    /// The end of a subscription.
    Unsubscribed { id: &'a str, filters: &'a mut dyn Iterator<Item = &'a Filter> },
    /// The end of a connection, with the filters of all subscriptions.
    Left { filters: &'a mut dyn Iterator<Item = &'a Filter> },
    /// Takeover of a client from the predecessor process, with [`WireProtocol::keep`](super::WireProtocol::keep)'s
    /// record.
    TakenOver { kept: Option<&'a RawValue>, filters: &'a mut dyn Iterator<Item = &'a Filter> },
    /// An event appended to a feed with `members` clients.
    Delivered { event: &'a Event, members: usize, clients: &'a mut dyn Iterator<Item = u64> },
}

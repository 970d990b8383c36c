//! The server's records of AutoSDLC's clients: counters, message log and client registry, fed by the dialect's hooks.

use prometheus_client::registry::Registry;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use super::client_registry::ClientRegistry;
use super::counters::Counters;
use super::message_log::{Line, is_read, payload_of, shown};
use super::{ClientSubscription, message_id, text_of};
use crate::catalogue::autosdlc::event_type;
use crate::dialect::command::{Incoming, Reply};
use crate::dialect::observe::{Observed, Watch};
use crate::event::{Attribute, Event};
use crate::filter::Filter;

/// Resources by which subscriptions are counted.
const RESOURCES: [&str; 5] = ["agent", "workflow", "system", "deployment", "github"];

/// Counters and client registry of one server.
#[derive(Debug, Default)]
pub(crate) struct Records {
    counters: Counters,
    pub(crate) clients: ClientRegistry,
}

impl Records {
    /// Returns the registry of the counters.
    pub(crate) fn registry(&self) -> &Registry {
        self.counters.registry()
    }

    /// Returns the entries of a client, to be kept over a handover; `None` if there are none.
    pub(super) fn keep(&self, client: u64) -> Option<Box<RawValue>> {
        let entries = self.clients.of_number(client);
        // Strings and raw JSON always serialize.
        if entries.is_empty() { None } else { to_raw_value(&entries).ok() }
    }

    /// Records one observation.
    pub(super) fn observe(&self, watch: &Watch<'_>, observed: Observed<'_>) {
        let client = watch.client;
        match observed {
            Observed::Received { kind, asked, message, bytes_max } => {
                let size = message.len();
                self.counters.received(kind, size);
                if is_read() {
                    let text = text_of(message, bytes_max).unwrap_or_default();
                    let data = shown(kind, &text);
                    let id = asked.id().unwrap_or_default();
                    Line { direction: "in", client, id, kind, size, data: &data }.log(watch.log);
                }
            }
            Observed::Sent { reply, frame } => self.sent(watch, reply, frame),
            Observed::Subscribed { id, config, filters } => {
                if let Some(config) = config {
                    self.clients.add(client, id.to_owned(), config, watch.now);
                }
                self.count(filters.iter(), 1);
            }
            Observed::Unsubscribed { id, filters } => {
                self.count(filters, -1);
                self.clients.remove(client, id);
            }
            Observed::Left { filters } => {
                self.counters.left();
                self.count(filters, -1);
                self.clients.remove(client, "*");
            }
            Observed::TakenOver { kept, filters } => {
                self.counters.opened();
                self.count(filters, 1);
                self.clients.take_over(client, kept.map(read_kept).unwrap_or_default());
            }
            Observed::Delivered { event, members, clients } => {
                let known = event_type(event.event_type()).map(|known| known.name);
                self.counters.sent(known.unwrap_or("other"), event.payload().len(), members);
                if is_read() {
                    let kind = known.unwrap_or(event.event_type());
                    clients.for_each(|client| log_delivery(watch, client, kind, event));
                }
            }
        }
    }

    fn sent(&self, watch: &Watch<'_>, reply: &Reply<'_>, frame: &[u8]) {
        let kind = match reply {
            Reply::Welcome { .. } => {
                self.counters.opened();
                "connect"
            }
            Reply::Subscribed { .. } | Reply::Unsubscribed { .. } | Reply::Refilling { .. } => {
                "subscription_update"
            }
            Reply::Pong => "pong",
            Reply::Authenticated => "auth_success",
            Reply::AuthFailed(_) => "auth_failure",
            Reply::Error(_) => "error",
            Reply::Reconnect(_) | Reply::Response(_) | Reply::Published(_) => return,
        };
        self.counters.sent(kind, frame.len(), 1);
        if is_read() {
            #[derive(Deserialize)]
            struct HasId {
                id: String,
            }
            let text = text_of(Incoming::Binary(payload_of(frame)), usize::MAX).unwrap_or_default();
            let id =
                serde_json::from_str::<HasId>(&text).map_or_else(|_| String::new(), |message| message.id);
            let (client, size) = (watch.client, text.len());
            Line { direction: "out", client, id: &id, kind, size, data: &text }.log(watch.log);
        }
    }

    /// Counts filters of subscriptions that began (1) or ended (-1).
    fn count<'a>(&self, filters: impl Iterator<Item = &'a Filter>, more: i64) {
        for filter in filters {
            let resource = match filter.values(Attribute::EntityKind).next() {
                Some(kind) => RESOURCES.iter().find(|known| **known == kind).copied().unwrap_or("other"),
                None if filter.is_everything() => "other",
                // The half of a subscription that finds events without an entity.
                None => continue,
            };
            self.counters.subscribed(resource, more);
        }
    }
}

/// Reads the entries of [`Records::keep`].
pub(super) fn read_kept(kept: &RawValue) -> Vec<ClientSubscription> {
    serde_json::from_str(kept.get()).unwrap_or_default()
}

/// Logs an event for one client. The size is that of the event's data.
fn log_delivery(watch: &Watch<'_>, client: u64, kind: &str, event: &Event) {
    let (id, data) = (message_id(event), event.payload());
    Line { direction: "out", client, id: &id, kind, size: data.len(), data }.log(watch.log);
}

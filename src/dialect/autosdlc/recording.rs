//! Recording of what AutoSDLC's clients send and receive: the dialect's hooks.

use serde::Deserialize;

use super::message_log::{Line, is_read, payload_of, shown};
use super::records::{Records, read_kept};
use super::text::{message_id, text_of};
use crate::catalogue::autosdlc::event_type;
use crate::dialect::command::{Incoming, Reply};
use crate::dialect::observe::{Observed, Watch};
use crate::event::{Attribute, Event};
use crate::filter::Filter;

/// Resources by which subscriptions are counted.
const RESOURCES: [&str; 5] = ["agent", "workflow", "system", "deployment", "github"];

/// Records one observation.
pub(super) fn observe(records: &Records, watch: &Watch<'_>, observed: Observed<'_>) {
    let client = watch.client;
    match observed {
        Observed::Received { kind, tag, message, bytes_max } => {
            let size = message.len();
            records.counters.received(kind, size);
            if is_read() {
                let text = text_of(message, bytes_max).unwrap_or_default();
                let data = shown(kind, &text);
                let id = tag.id().unwrap_or_default();
                Line { direction: "in", client, id, kind, size, data: &data }.log(watch.log);
            }
        }
        Observed::Sent { reply, frame } => sent(records, watch, reply, frame),
        Observed::Subscribed { id, config, filters } => {
            if let Some(config) = config {
                records.clients.add(client, id.to_owned(), config, watch.now);
            }
            count(records, filters.iter(), 1);
        }
        Observed::Unsubscribed { id, filters } => {
            count(records, filters, -1);
            records.clients.remove(client, id);
        }
        Observed::Left { filters } => {
            records.counters.left();
            count(records, filters, -1);
            records.clients.remove(client, "*");
        }
        Observed::TakenOver { kept, filters } => {
            records.counters.opened();
            count(records, filters, 1);
            records.clients.take_over(client, kept.map(read_kept).unwrap_or_default());
        }
        Observed::Delivered { event, members, clients } => {
            let known = event_type(event.event_type()).map(|known| known.name);
            records.counters.sent(known.unwrap_or("other"), event.payload().len(), members);
            if is_read() {
                let kind = known.unwrap_or(event.event_type());
                clients.for_each(|client| log_delivery(watch, client, kind, event));
            }
        }
    }
}

fn sent(records: &Records, watch: &Watch<'_>, reply: &Reply<'_>, frame: &[u8]) {
    let kind = match reply {
        Reply::Welcome { .. } => {
            records.counters.opened();
            "connect"
        }
        Reply::Subscribed { .. } | Reply::Unsubscribed { .. } | Reply::Refilling { .. } => {
            "subscription_update"
        }
        Reply::Pong => "pong",
        Reply::Authenticated => "auth_success",
        Reply::AuthFailed(_) => "auth_failure",
        Reply::Error(_) => "error",
        Reply::Reconnect(_) | Reply::Response(_) | Reply::Published { .. } | Reply::Updated { .. } => return,
    };
    records.counters.sent(kind, frame.len(), 1);
    if is_read() {
        #[derive(Deserialize)]
        struct HasId {
            id: String,
        }
        let text = text_of(Incoming::Binary(payload_of(frame)), usize::MAX).unwrap_or_default();
        let id = serde_json::from_str::<HasId>(&text).map_or_else(|_| String::new(), |message| message.id);
        let (client, size) = (watch.client, text.len());
        Line { direction: "out", client, id: &id, kind, size, data: &text }.log(watch.log);
    }
}

/// Counts filters of subscriptions that began (1) or ended (-1).
fn count<'a>(records: &Records, filters: impl Iterator<Item = &'a Filter>, more: i64) {
    for filter in filters {
        let resource = match filter.values(Attribute::EntityKind).next() {
            Some(kind) => RESOURCES.iter().find(|known| **known == kind).copied().unwrap_or("other"),
            None if filter.is_everything() => "other",
            // The part of a subscription for events without an entity is not counted again.
            None => continue,
        };
        records.counters.subscribed(resource, more);
    }
}

/// Logs an event for one client. The size is that of the event's data.
fn log_delivery(watch: &Watch<'_>, client: u64, kind: &str, event: &Event) {
    let (id, data) = (message_id(event), event.payload());
    Line { direction: "out", client, id: &id, kind, size: data.len(), data }.log(watch.log);
}

//! What AutoSDLC clients say and are told, in that system's own counters, and as a log to look for faults with.
//!
//! Imports `catalogue`, `dialect`, `event`, `filter`. The log is of the target `fanwire::messages`: at level `debug` a
//! line for each message and client, with its data `[FILTERED]`; at `trace` with the data. Always: nothing here changes
//! what is sent; where nobody reads the log, a message costs a comparison more.

use serde::Deserialize;

use super::connection::Context;
use super::session::Session;
use crate::catalogue::autosdlc::event_type;
use crate::dialect::autosdlc::{client_id, message_id, text_of};
use crate::dialect::{Asked, Dialect, Encoding, Incoming, Reply};
use crate::event::{Attribute, Event};
use crate::filter::Filter;

/// Which messages are in the log. All.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageLogConfig {
    /// `log.message_types`: these types. Empty: all.
    pub types: Vec<String>,
    /// `log.message_types_except`: but not these. None.
    pub except: Vec<String>,
}

impl MessageLogConfig {
    fn wants(&self, kind: &str) -> bool {
        let has = |list: &[String]| list.iter().any(|name| name == kind);
        (self.types.is_empty() || has(&self.types)) && !has(&self.except)
    }
}

/// The target of the log.
const TARGET: &str = "fanwire::messages";

/// The resources that subscriptions are counted by.
const RESOURCES: [&str; 5] = ["agent", "workflow", "system", "deployment", "github"];

fn counts(encoding: Encoding) -> bool {
    encoding.dialect() == Dialect::Autosdlc
}

/// A client is going, and its subscriptions with it.
pub(super) fn left<'a>(encoding: Encoding, filters: impl Iterator<Item = &'a Filter>, cx: &Context<'_>) {
    if counts(encoding) {
        cx.shared.metrics.websocket.left();
        filters.for_each(|filter| subscribed(encoding, filter, -1, cx));
    }
}

/// A client came from the process before this one, with its subscriptions.
pub(super) fn came_over<'a>(encoding: Encoding, filters: impl Iterator<Item = &'a Filter>, cx: &Context<'_>) {
    if counts(encoding) {
        cx.shared.metrics.websocket.opened();
        filters.for_each(|filter| subscribed(encoding, filter, 1, cx));
    }
}

/// A client's message of this kind.
pub(super) fn came(
    session: &Session,
    kind: &'static str,
    asked: &Asked,
    message: Incoming<'_>,
    cx: &Context<'_>,
) {
    if counts(session.encoding()) {
        let size = match message {
            Incoming::Text(text) => text.len(),
            Incoming::Binary(bytes) => bytes.len(),
        };
        cx.shared.metrics.websocket.received(kind, size);
        if is_read() {
            let text = text_of(message, cx.config.max_message_bytes).unwrap_or_default();
            let id = asked.id().unwrap_or_default();
            Line { direction: "in", client: session.client(), id, kind, size, data: &text }
                .log(&cx.config.message_log);
        }
    }
}

/// An answer.
pub(super) fn went(session: &Session, reply: &Reply<'_>, frame: &[u8], cx: &Context<'_>) {
    if !counts(session.encoding()) {
        return;
    }
    let kind = match reply {
        Reply::Welcome { .. } => {
            cx.shared.metrics.websocket.opened();
            "connect"
        }
        Reply::Subscribed { .. } | Reply::Unsubscribed { .. } => "subscription_update",
        Reply::Pong => "pong",
        Reply::Authenticated => "auth_success",
        Reply::AuthFailed(_) => "auth_failure",
        Reply::Error(_) => "error",
        Reply::Reconnect(_) | Reply::Response(_) | Reply::Published(_) => return,
    };
    cx.shared.metrics.websocket.sent(kind, frame.len(), 1);
    if is_read() {
        #[derive(Deserialize)]
        struct HasId {
            id: String,
        }
        let text = text_of(Incoming::Binary(payload_of(frame)), usize::MAX).unwrap_or_default();
        let id = serde_json::from_str::<HasId>(&text).map_or_else(|_| String::new(), |message| message.id);
        let (client, size) = (session.client(), text.len());
        Line { direction: "out", client, id: &id, kind, size, data: &text }.log(&cx.config.message_log);
    }
}

/// An event for a client with this number. Its size is that of its data.
pub(super) fn delivered(client: u64, event: &Event, config: &MessageLogConfig) {
    let kind = event_type(event.event_type()).map_or(event.event_type(), |known| known.name);
    let (id, data) = (message_id(event), event.payload());
    Line { direction: "out", client, id: &id, kind, size: data.len(), data }.log(config);
}

/// Whether anybody reads the log.
pub(super) fn is_read() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}

/// What a server's frame carries (RFC 6455, 5.2).
fn payload_of(frame: &[u8]) -> &[u8] {
    let head = match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    frame.get(head..).unwrap_or_default()
}

/// A subscription's filter came (1), or went (-1).
pub(super) fn subscribed(encoding: Encoding, filter: &Filter, more: i64, cx: &Context<'_>) {
    if !counts(encoding) {
        return;
    }
    let resource = match filter.values(Attribute::EntityKind).next() {
        Some(kind) => RESOURCES.iter().find(|known| **known == kind).copied().unwrap_or("other"),
        None if filter.is_everything() => "other",
        // The half of a subscription that finds events without an entity.
        None => return,
    };
    cx.shared.metrics.websocket.subscribed(resource, more);
}

/// A line of the log, with the document's names.
struct Line<'a> {
    direction: &'static str,
    client: u64,
    id: &'a str,
    kind: &'a str,
    size: usize,
    data: &'a str,
}

impl Line<'_> {
    fn log(&self, config: &MessageLogConfig) {
        let Self { direction, id, kind, size, data, .. } = *self;
        if !config.wants(kind) {
            return;
        }
        let client = client_id(self.client);
        if tracing::enabled!(target: TARGET, tracing::Level::TRACE) {
            tracing::trace!(target: TARGET, direction, clientId = client, messageId = id, "type" = kind, size, data);
        } else {
            let data = "[FILTERED]";
            tracing::debug!(target: TARGET, direction, clientId = client, messageId = id, "type" = kind, size, data);
        }
    }
}

//! What AutoSDLC clients say and are told, in that system's own counters, and as a log to look for faults with.
//!
//! Imports `dialect`, `event`, `filter`. The log is of the target `fanwire::messages`: at level `debug` a line a
//! message, with its data `[FILTERED]`; at `trace` with the data. Always: nothing here changes what is sent, and
//! other dialects cost a comparison.

use super::connection::Context;
use crate::dialect::{Dialect, Encoding, Incoming, Reply};
use crate::event::Attribute;
use crate::filter::Filter;

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

/// A client's message of this kind.
pub(super) fn came(encoding: Encoding, kind: &'static str, message: Incoming<'_>, cx: &Context<'_>) {
    if counts(encoding) {
        let bytes = match message {
            Incoming::Text(text) => text.as_bytes(),
            Incoming::Binary(bytes) => bytes,
        };
        cx.shared.metrics.websocket.received(kind, bytes.len());
        log("in", kind, bytes);
    }
}

/// An answer.
pub(super) fn went(encoding: Encoding, reply: &Reply<'_>, frame: &[u8], cx: &Context<'_>) {
    if !counts(encoding) {
        return;
    }
    let kind = match reply {
        Reply::Welcome => {
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
    log("out", kind, frame);
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

fn log(direction: &'static str, kind: &'static str, bytes: &[u8]) {
    let size = bytes.len();
    if tracing::enabled!(target: TARGET, tracing::Level::TRACE) {
        let data = String::from_utf8_lossy(bytes);
        tracing::trace!(target: TARGET, direction, kind, size, %data);
    } else {
        tracing::debug!(target: TARGET, direction, kind, size, data = "[FILTERED]");
    }
}

//! What AutoSDLC clients say and are told, in that system's own counters, and as a log to look for faults with.
//!
//! Imports `catalogue`, `dialect`, `event`, `filter`. The log is of the target `fanwire::messages`: at level `debug` a
//! line for each message and client, with its data `[FILTERED]`; at `trace` with the data, but for tokens and what is named
//! like a secret. Always: nothing here changes
//! what is sent; where nobody reads the log, a message costs a comparison more.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use crate::catalogue::autosdlc::event_type;
use crate::dialect::autosdlc::{client_id, message_id, text_of};
use crate::dialect::{Asked, Dialect, Encoding, Incoming, Reply, UNKNOWN};
use crate::event::{Attribute, Event};
use crate::filter::Filter;
use crate::metrics::Metrics;

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

/// Counters and log settings that a message is recorded with.
#[derive(Clone, Copy)]
pub(crate) struct MessageRecorder<'a> {
    pub(crate) metrics: &'a Metrics,
    pub(crate) log: &'a MessageLogConfig,
    /// Length in bytes beyond which a message is not read for the log.
    pub(crate) max_message_bytes: usize,
}

fn counts(encoding: Encoding) -> bool {
    encoding.dialect() == Dialect::Autosdlc
}

/// A client is going, and its subscriptions with it.
pub(crate) fn left<'a>(
    encoding: Encoding,
    filters: impl Iterator<Item = &'a Filter>,
    recorder: MessageRecorder<'_>,
) {
    if counts(encoding) {
        recorder.metrics.websocket.left();
        filters.for_each(|filter| subscribed(encoding, filter, -1, recorder));
    }
}

/// A client came from the process before this one, with its subscriptions.
pub(crate) fn came_over<'a>(
    encoding: Encoding,
    filters: impl Iterator<Item = &'a Filter>,
    recorder: MessageRecorder<'_>,
) {
    if counts(encoding) {
        recorder.metrics.websocket.opened();
        filters.for_each(|filter| subscribed(encoding, filter, 1, recorder));
    }
}

/// A client's message of this kind.
pub(crate) fn came(
    encoding: Encoding,
    client: u64,
    kind: &'static str,
    asked: &Asked,
    message: Incoming<'_>,
    recorder: MessageRecorder<'_>,
) {
    if counts(encoding) {
        let size = match message {
            Incoming::Text(text) => text.len(),
            Incoming::Binary(bytes) => bytes.len(),
        };
        recorder.metrics.websocket.received(kind, size);
        if is_read() {
            let text = text_of(message, recorder.max_message_bytes).unwrap_or_default();
            let id = asked.id().unwrap_or_default();
            let data = shown(kind, &text);
            Line { direction: "in", client, id, kind, size, data: &data }.log(recorder.log);
        }
    }
}

/// An answer.
pub(crate) fn went(
    encoding: Encoding,
    client: u64,
    reply: &Reply<'_>,
    frame: &[u8],
    recorder: MessageRecorder<'_>,
) {
    if !counts(encoding) {
        return;
    }
    let kind = match reply {
        Reply::Welcome { .. } => {
            recorder.metrics.websocket.opened();
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
    recorder.metrics.websocket.sent(kind, frame.len(), 1);
    if is_read() {
        #[derive(Deserialize)]
        struct HasId {
            id: String,
        }
        let text = text_of(Incoming::Binary(payload_of(frame)), usize::MAX).unwrap_or_default();
        let id = serde_json::from_str::<HasId>(&text).map_or_else(|_| String::new(), |message| message.id);
        let (client, size) = (client, text.len());
        Line { direction: "out", client, id: &id, kind, size, data: &text }.log(recorder.log);
    }
}

/// An event for a client with this number. Its size is that of its data.
pub(crate) fn delivered(client: u64, event: &Event, config: &MessageLogConfig) {
    let kind = event_type(event.event_type()).map_or(event.event_type(), |known| known.name);
    let (id, data) = (message_id(event), event.payload());
    Line { direction: "out", client, id: &id, kind, size: data.len(), data }.log(config);
}

/// Whether anybody reads the log.
pub(crate) fn is_read() -> bool {
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

/// Names of fields whose values are not written down, in lower case and without what parts words.
const SECRETS: [&str; 14] = [
    "accesstoken",
    "apikey",
    "authorization",
    "authtoken",
    "bearer",
    "clientsecret",
    "idtoken",
    "jwt",
    "passwd",
    "password",
    "refreshtoken",
    "secret",
    "ticket",
    "token",
];

/// What a line of the log has in place of a value that may be a secret.
const FILTERED: &str = "[FILTERED]";

/// Returns what of a client's message may be written down: nothing of one that shows a token or that no dialect knows,
/// for a slip in its type or its form hides what it holds; of others all but the values of fields that are named like
/// secrets.
fn shown<'a>(kind: &str, text: &'a str) -> Cow<'a, str> {
    if kind == "auth_request" || kind == UNKNOWN {
        return FILTERED.into();
    }
    match serde_json::from_str::<Value>(text) {
        Ok(mut value) => {
            if redact(&mut value) {
                value.to_string().into()
            } else {
                text.into()
            }
        }
        Err(_) => FILTERED.into(),
    }
}

/// Takes the values of fields that are named like secrets out; whether there were any. A value that was read nests at most
/// 128 levels.
fn redact(value: &mut Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter_mut().fold(false, |any, (name, value)| {
            let plain: String =
                name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
            if SECRETS.contains(&plain.as_str()) {
                *value = FILTERED.into();
                return true;
            }
            redact(value) || any
        }),
        // Each is looked at, also behind the first that has some.
        Value::Array(values) => values.iter_mut().filter_map(|value| redact(value).then_some(())).count() > 0,
        _ => false,
    }
}

/// A subscription's filter came (1), or went (-1).
pub(crate) fn subscribed(encoding: Encoding, filter: &Filter, more: i64, recorder: MessageRecorder<'_>) {
    if !counts(encoding) {
        return;
    }
    let resource = match filter.values(Attribute::EntityKind).next() {
        Some(kind) => RESOURCES.iter().find(|known| **known == kind).copied().unwrap_or("other"),
        None if filter.is_everything() => "other",
        // The half of a subscription that finds events without an entity.
        None => return,
    };
    recorder.metrics.websocket.subscribed(resource, more);
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
            let data = FILTERED;
            tracing::debug!(target: TARGET, direction, clientId = client, messageId = id, "type" = kind, size, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_may_be_a_secret_is_written_down() {
        for (kind, text, want) in [
            ("auth_request", r#"{"type":"auth_request","data":{"token":"S"}}"#, FILTERED),
            (UNKNOWN, r#"{"type":"auth","token":"S"}"#, FILTERED),
            (UNKNOWN, r#"{"type":"auth_request","data":{"token":"S""#, FILTERED),
            ("ping", r#"{"type":"ping","data":{"a":1}}"#, r#"{"type":"ping","data":{"a":1}}"#),
            ("ping", r#"{"Access-Token":"S"}"#, r#"{"Access-Token":"[FILTERED]"}"#),
            ("ping", r#"[{"a":[{"apiKey":{"b":"S"}}]}]"#, r#"[{"a":[{"apiKey":"[FILTERED]"}]}]"#),
            ("agent_metric", r#"{"tokens":5,"tokenCount":7}"#, r#"{"tokens":5,"tokenCount":7}"#),
        ] {
            assert_eq!(shown(kind, text), want, "{text}");
        }
    }
}

//! A log of the messages from and to AutoSDLC's clients, for debugging.
//!
//! The target is `fanwire::messages`. Level `debug` has one line per message and client with the data `[FILTERED]`; level
//! `trace` has the data without tokens and without fields that are named like secrets. While the log is off, a message costs
//! one comparison.

use std::borrow::Cow;

use serde_json::Value;

use super::text::client_id;
use crate::dialect::command::UNKNOWN;

/// Types of messages in the log. Default: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageLogConfig {
    /// `log.message_types`: types that are logged. Empty: all.
    pub types: Vec<String>,
    /// `log.message_types_except`: types that are not logged. Default: none.
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

/// Returns whether the log is on at any level.
pub(super) fn is_read() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}

/// Returns the payload of a server's frame (RFC 6455, 5.2).
pub(super) fn payload_of(frame: &[u8]) -> &[u8] {
    let head = match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    frame.get(head..).unwrap_or_default()
}

/// Names of fields with values that are not logged, in lower case and without separators.
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

/// Replacement for a value that may be a secret.
const FILTERED: &str = "[FILTERED]";

/// Returns the loggable form of a client's message. A message with a token is not logged, and neither is an unknown or
/// malformed one, which may hold a token under a misspelt name. In every other message, values of fields that are named like
/// secrets are replaced.
pub(super) fn shown<'a>(kind: &str, text: &'a str) -> Cow<'a, str> {
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

/// Replaces the values of fields that are named like secrets; returns whether there were any. Recursion is bounded: serde_json
/// reads at most 128 levels.
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
        // No short circuit: every element is checked.
        Value::Array(values) => values.iter_mut().filter_map(|value| redact(value).then_some(())).count() > 0,
        _ => false,
    }
}

/// A line of the log, with the document's names.
pub(super) struct Line<'a> {
    pub(super) direction: &'static str,
    pub(super) client: u64,
    pub(super) id: &'a str,
    pub(super) kind: &'a str,
    pub(super) size: usize,
    pub(super) data: &'a str,
}

impl Line<'_> {
    pub(super) fn log(&self, config: &MessageLogConfig) {
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

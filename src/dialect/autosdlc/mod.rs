//! AutoSDLC's messages: `{id, type, timestamp, data, metadata}` both ways, subscriptions by resource.
//!
//! Invariants:
//! - Times are in milliseconds.
//! - A message of a type that the document lacks is ignored.
//! - Compressed messages are binary frames that start with 1f 8b.

mod client_registry;
mod counters;
mod message_log;
mod recording;
mod records;
mod subscription;
mod text;
#[cfg(feature = "schema")]
mod validator;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::codes::{CLOSE_POLICY, ErrorCode};
use super::command::{UNKNOWN, in_scratch, text_frame};
#[cfg(feature = "schema")]
use super::documents::DocumentSchemas;
use super::infer_attributes::{Complete, complete};
use super::observe::{Observed, Observers, Watch};
use super::uuid::Uuid;
use super::wire::{KindLimits, WireProtocol};
use super::{
    ClientError, ClientMessage, Command, Encoding, GapNotice, Incoming, Opening, Place, Refusal, Reply,
    ReplyTag, Stamp,
};
use crate::catalogue::autosdlc::event_type;
use crate::codec::ws;
use crate::event::{Event, Timestamp, json};
use crate::filter::Filter;
use crate::sync::atomic::{AtomicU64, Ordering};

use text::{client_id, text_of};

pub use client_registry::ClientSubscription;
pub use message_log::MessageLogConfig;
pub(crate) use records::Records;
#[cfg(feature = "schema")]
pub use validator::MessageValidator;

/// AutoSDLC's dialect.
#[derive(Debug)]
pub(super) struct Autosdlc {
    /// Whether the client asked for gzip.
    pub(super) gzip: bool,
}

/// Minimum length of a message that is compressed, in bytes, if the client asked for gzip.
const GZIP_BYTES_MIN: usize = 1024;

/// Reads the query: `?compress=gzip`.
pub(super) fn open(place: Place, query: &[(String, String)]) -> Opening {
    let gzip = query.iter().any(|(name, value)| name == "compress" && value.eq_ignore_ascii_case("gzip"));
    let encoding = if gzip { Encoding::AutosdlcWsGzip } else { Encoding::AutosdlcWs };
    Opening { encoding, subscribe: None, place: Some(Box::new(place)) }
}

#[derive(Deserialize)]
struct AutosdlcMessage<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    metadata: Option<AutosdlcMetadata<'a>>,
}

#[derive(Deserialize, Default)]
struct AutosdlcMetadata<'a> {
    #[serde(borrow, default)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "correlationId")]
    correlation: Option<Cow<'a, str>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct AutosdlcNames {
    subscription_id: Option<String>,
    token: Option<String>,
}

impl WireProtocol for Autosdlc {
    fn read(&self, message: Incoming<'_>, _: &Place, bytes_max: usize) -> ClientMessage {
        let fault = |why: String| ClientMessage {
            kind: UNKNOWN,
            tag: ReplyTag::None,
            command: Err(ClientError::invalid(why)),
        };
        match text_of(message, bytes_max) {
            Ok(text) => read(&text),
            Err(why) => fault(why),
        }
    }

    fn read_unauthenticated(&self, message: Incoming<'_>, bytes_max: usize) -> ClientMessage {
        let message_of = |kind, tag, command| ClientMessage { kind, tag, command };
        if message.len() > bytes_max {
            return message_of(UNKNOWN, ReplyTag::None, Ok(Command::Withheld));
        }
        let text = match text_of(message, bytes_max) {
            Ok(text) => text,
            Err(why) => return message_of(UNKNOWN, ReplyTag::None, Err(ClientError::invalid(why))),
        };
        match serde_json::from_str::<AutosdlcMessage<'_>>(&text) {
            Ok(message) => {
                let (kind, command) = match &*message.kind {
                    "subscribe" => ("subscribe", Ok(Command::Withheld)),
                    "unsubscribe" => ("unsubscribe", Ok(Command::Withheld)),
                    "ping" | "auth_request" => command(&message),
                    other => match event_type(other) {
                        Some(known) => (known.name, Ok(Command::Withheld)),
                        None => (UNKNOWN, Ok(Command::Nothing)),
                    },
                };
                message_of(kind, ReplyTag::of(message.id), command)
            }
            Err(error) => message_of(UNKNOWN, ReplyTag::None, Err(ClientError::invalid(fault_of(&error)))),
        }
    }

    fn reply(&self, reply: &Reply<'_>, tag: &ReplyTag, stamp: Stamp) -> Option<Bytes> {
        let millis = millis(stamp.now);
        let (kind, data) = match reply {
            Reply::Welcome { client } => ("connect", json!({ "clientId": client_id(*client) })),
            Reply::Subscribed { id, .. } => {
                ("subscription_update", json!({ "subscriptionId": id, "status": "active" }))
            }
            Reply::Unsubscribed { id } => {
                ("subscription_update", json!({ "subscriptionId": id, "status": "removed" }))
            }
            Reply::Pong => ("pong", json!({ "timestamp": millis })),
            Reply::Authenticated => ("auth_success", json!({})),
            Reply::AuthFailed(why) => ("auth_failure", json!({ "error": why })),
            Reply::Error(error) => {
                let mut data = json!({ "error": error.text, "code": error.code });
                if let Some(details) = &error.details {
                    data["details"] = details.as_str().into();
                }
                if !error.faults.is_empty() {
                    // Field names of the document for its validator's faults.
                    data["valid"] = false.into();
                    data["errors"] = error.faults.as_slice().into();
                }
                ("error", data)
            }
            Reply::Reconnect(_)
            | Reply::Response(_)
            | Reply::Published { .. }
            | Reply::Refilling { .. }
            | Reply::Updated { .. } => {
                return None;
            }
        };
        let mut metadata = json!({ "version": "1.0" });
        if let Some(id) = tag.id() {
            metadata["correlationId"] = id.into();
        }
        let id = Uuid::random(stamp.random ^ u128::MAX).to_string();
        let message: Value =
            json!({ "id": id, "type": kind, "timestamp": millis, "data": data, "metadata": metadata });
        Some(self.frame(&message.to_string()))
    }

    fn gap(&self, gap: &GapNotice) -> Bytes {
        self.frame(&format!(
            r#"{{"id":"{}","type":"gap","timestamp":{},"data":{},"metadata":{{"version":"1.0"}}}}"#,
            Uuid::of_gap(gap.edge()),
            millis(gap.at),
            gap.json(),
        ))
    }

    fn spells_types(&self) -> bool {
        true
    }

    fn observes(&self) -> bool {
        true
    }

    #[cfg(feature = "schema")]
    fn check(
        &self,
        schemas: &DocumentSchemas,
        message: Incoming<'_>,
        bytes_max: usize,
    ) -> Result<(), ClientError> {
        schemas.autosdlc.as_ref().map_or(Ok(()), |validator| validator.check_message(message, bytes_max))
    }

    fn observe(&self, watch: &Watch<'_>, observed: Observed<'_>) {
        recording::observe(&watch.observers.autosdlc, watch, observed);
    }

    fn keep(&self, observers: &Observers, client: u64) -> Option<Box<RawValue>> {
        observers.autosdlc.keep(client)
    }

    fn filters_of(&self, kept: &RawValue) -> Vec<(String, Vec<Filter>)> {
        let entries = records::read_kept(kept).into_iter();
        entries.filter_map(|entry| Some((entry.id().to_owned(), filters_of(entry.config())?))).collect()
    }

    fn usual_limits(&self) -> KindLimits {
        &[("", 100), ("subscribe", 50), ("agent_log", 1000), ("ping", 60)]
    }

    fn refuse(&self, why: &Refusal) -> Option<(u16, Cow<'static, str>)> {
        match why {
            // The client gets an error, and may still authenticate.
            Refusal::NoToken | Refusal::BadToken(_) => None,
            Refusal::TooLate(limit) => {
                Some((CLOSE_POLICY, format!("no auth_request within {limit} s").into()))
            }
        }
    }
}

/// Returns the filters of a subscription, from the `config` of its [`Subscribe`](super::Subscribe).
fn filters_of(config: &str) -> Option<Vec<Filter>> {
    let subscribe = subscription::read(config).ok()?;
    Some(std::iter::once(subscribe.filter).chain(subscribe.or).collect())
}

/// Describes a fault in a message without its values: serde would repeat a value, which may be a token in the wrong place.
fn fault_of(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => {
            format!("a field has a value of another kind, before column {}", error.column())
        }
        _ => error.to_string(),
    }
}

fn millis(at: Timestamp) -> i64 {
    at.0.div_euclid(1000)
}

fn read(text: &str) -> ClientMessage {
    // Also bounds the nesting.
    let mut scratch = String::new();
    let message = json::minify(text, &mut scratch)
        .map_err(|error| error.to_string())
        .and_then(|()| match scratch.as_bytes().first() {
            Some(b'{') => Ok(()),
            _ => Err("not an object".to_owned()),
        })
        .and_then(|()| {
            serde_json::from_str::<AutosdlcMessage<'_>>(&scratch).map_err(|error| fault_of(&error))
        });
    match message {
        Ok(message) => {
            let (kind, command) = command(&message);
            ClientMessage { kind, tag: ReplyTag::of(message.id), command }
        }
        Err(error) => {
            ClientMessage { kind: UNKNOWN, tag: ReplyTag::None, command: Err(ClientError::invalid(error)) }
        }
    }
}

fn command(message: &AutosdlcMessage<'_>) -> (&'static str, Result<Command, ClientError>) {
    let data = message.data.map_or("{}", RawValue::get);
    let fault = |what: String| ClientError::new(ErrorCode::InvalidData, format!("data: {what}"));
    // serde would accept an array of the fields in order.
    let object = || match data {
        "null" => Ok("{}"),
        data if data.starts_with('{') => Ok(data),
        _ => Err(fault("not an object".to_owned())),
    };
    let names = || {
        object()
            .and_then(|data| serde_json::from_str::<AutosdlcNames>(data).map_err(|e| fault(e.to_string())))
    };
    match &*message.kind {
        "subscribe" => {
            let subscribe = object().and_then(subscription::read);
            ("subscribe", subscribe.map(|subscribe| Command::Subscribe(Box::new(subscribe))))
        }
        "unsubscribe" => {
            let id = names().map(|names| names.subscription_id.unwrap_or_default());
            let command = |subscription_id| Command::Unsubscribe { subscription_id, strict: false };
            ("unsubscribe", id.map(command))
        }
        "ping" => ("ping", Ok(Command::Ping)),
        "auth_request" => {
            // serde's error text would repeat the token.
            let token = names().ok().and_then(|names| names.token);
            let token = token.ok_or_else(|| ClientError::new(ErrorCode::AuthFailed, "data.token is missing"));
            ("auth_request", token.map(|token| Command::Auth { token }))
        }
        other => match event_type(other) {
            // A report of an agent about itself.
            Some(known) => (
                known.name,
                publish(message, known.name, data).map(|event| Command::Publish { event, is_acked: true }),
            ),
            None => {
                warn_of(other);
                (UNKNOWN, Ok(Command::Nothing))
            }
        },
    }
}

/// Logs a warning about an unknown message type: the first, the second, the fourth, … so that clients cannot fill the log.
fn warn_of(kind: &str) {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    // A count, with no other memory after it: no edge.
    let seen = SEEN.fetch_add(1, Ordering::Relaxed) + 1;
    if seen.is_power_of_two() {
        tracing::warn!(kind = super::shortened(kind), seen, "unknown message type");
    }
}

fn publish(message: &AutosdlcMessage<'_>, name: &str, data: &str) -> Result<Complete, ClientError> {
    let metadata = message.metadata.as_ref();
    let mut builder = Event::builder(name).json(data);
    if let Some(source) = metadata.and_then(|metadata| metadata.source.as_deref()) {
        builder = builder.source(source);
    }
    if let Some(correlation) = metadata.and_then(|metadata| metadata.correlation.as_deref()) {
        builder = builder.correlation(correlation);
    }
    complete(builder).map_err(|error| ClientError::new(ErrorCode::InvalidEvent, error.to_string()))
}

impl Autosdlc {
    fn frame(&self, json: &str) -> Bytes {
        if !self.gzip || json.len() < GZIP_BYTES_MIN {
            return text_frame(json);
        }
        let mut encoder = GzEncoder::new(Vec::with_capacity(json.len() / 4), Compression::fast());
        // Writing to a vector does not fail.
        match encoder.write_all(json.as_bytes()).and_then(|()| encoder.finish()) {
            Ok(packed) => ws::frame(ws::OpCode::Binary, &packed),
            Err(_) => text_frame(json),
        }
    }
}

/// Appends the message as a WebSocket frame. Its id is made from the event's id, so it is equal for every client.
pub(super) fn put_event(event: &Event, gzip: bool, frames: &mut Vec<u8>) {
    in_scratch(|out| {
        // Writing to a String does not fail.
        let _ = write!(out, r#"{{"id":"{}","type":"#, Uuid::of_event(event.id()));
        let name = event.event_type();
        json::write_string(event_type(name).map_or(name, |known| known.name), out);
        let _ = write!(out, r#","timestamp":{},"data":"#, millis(event.timestamp()));
        out.push_str(event.payload());
        out.push_str(r#","metadata":{"version":"1.0""#);
        for (name, value) in
            [(r#","source":"#, event.source()), (r#","correlationId":"#, event.correlation())]
        {
            if let Some(value) = value {
                out.push_str(name);
                json::write_string(value, out);
            }
        }
        out.push_str("}}");
        frames.extend_from_slice(&Autosdlc { gzip }.frame(out));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_compressed_from_the_threshold_on() {
        let opcode = |gzip, len| Autosdlc { gzip }.frame(&"x".repeat(len))[0] & 0x0f;
        let (text, binary) = (1, 2);
        assert_eq!((opcode(true, 1023), opcode(true, 1024)), (text, binary));
        assert_eq!(opcode(false, 100_000), text, "nobody asked");
    }
}

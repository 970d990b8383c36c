//! GatheRing's channels: `{type, data, timestamp, channel}`; a client's message goes to the other clients of its channel.
//!
//! Invariants:
//! - A client is in the channel of its path and in no other.
//! - A client's message is sent on with its fields as they were.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::json;
use serde_json::value::RawValue;

use super::codes::{CLOSE_GATHERING_AUTH, ErrorCode};
use super::command::{UNKNOWN, in_scratch, put_text, text_frame};
use super::infer_attributes::complete;
use super::wire::WireProtocol;
use super::{
    ClientError, ClientMessage, Command, Encoding, GapNotice, Incoming, Opening, Place, Refusal, Reply,
    ReplyTag, Stamp, shortened,
};
use crate::catalogue::gathering::message_type;
use crate::codec::ws;
use crate::event::{Attribute, Event, Position, json};
use crate::filter::{Filter, Pattern};

/// GatheRing's dialect.
#[derive(Debug)]
pub(super) struct Gathering;

/// Prefix of the source of a client's message, before the client's number. The payload of such an event holds the message's
/// fields, which go beside `type` on the wire, not into `data`.
const SAID_BY: &str = "gathering:";

/// Subscribes to everything in the path's channel.
pub(super) fn open(place: Place) -> Opening {
    let filter = Filter::new().any_of(Attribute::Channel, [Pattern::exact(place.channel.clone())]);
    // An empty name is no channel, and neither is a missing one.
    let filter = if place.channel.is_empty() { Filter::nothing() } else { filter };
    Opening {
        encoding: Encoding::GatheringWs,
        subscribe: Some(Box::new(filter.into())),
        place: Some(Box::new(place)),
    }
}

/// A message's fields in their order, each as its JSON text, and its type.
#[derive(Default)]
struct GatheringMessage<'a> {
    kind: Option<Cow<'a, str>>,
    token: Option<Cow<'a, str>>,
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'de: 'a, 'a> Deserialize<'de> for GatheringMessage<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = GatheringMessage<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<GatheringMessage<'de>, A::Error> {
                let mut message = GatheringMessage::default();
                while let Some(Word(name)) = map.next_key()? {
                    let value: &RawValue = map.next_value()?;
                    let text = || serde_json::from_str::<Word<'de>>(value.get()).ok().map(|word| word.0);
                    match &*name {
                        "type" => message.kind = text(),
                        "token" => {
                            message.token = text();
                            message.fields.push((name, value));
                        }
                        _ => message.fields.push((name, value)),
                    }
                }
                Ok(message)
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// A string that borrows if it can.
#[derive(Deserialize)]
struct Word<'a>(#[serde(borrow)] Cow<'a, str>);

/// A message's type and token.
#[derive(Deserialize)]
struct GatheringGlance<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
}

impl WireProtocol for Gathering {
    fn read(&self, message: Incoming<'_>, place: &Place, _: usize) -> ClientMessage {
        let text = match message {
            Incoming::Text(text) => text,
            // Clients of FastAPI's `receive_json(mode="binary")` send these.
            Incoming::Binary(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        };
        let (kind, command) = read(text, place);
        ClientMessage { kind, tag: ReplyTag::None, command }
    }

    fn read_unauthenticated(&self, message: Incoming<'_>, bytes_max: usize) -> ClientMessage {
        let text = match message {
            _ if message.len() > bytes_max => None,
            Incoming::Text(text) => Some(text),
            Incoming::Binary(bytes) => std::str::from_utf8(bytes).ok(),
        };
        let invalid = || Err(ClientError::invalid("not an object"));
        let (kind, command) = match text.map(serde_json::from_str::<GatheringGlance<'_>>) {
            None if message.len() > bytes_max => (UNKNOWN, Ok(Command::Withheld)),
            None | Some(Err(_)) => (UNKNOWN, invalid()),
            Some(Ok(GatheringGlance { kind, token })) => match (kind.as_deref(), token) {
                (None | Some(""), _) => (UNKNOWN, Err(ClientError::invalid("no type"))),
                (Some("ping"), _) => ("ping", Ok(Command::Ping)),
                (Some("pong"), _) => ("pong", Ok(Command::Nothing)),
                (Some("auth"), Some(token)) => ("auth", Ok(Command::Auth { token: token.into_owned() })),
                (Some("auth"), None) => {
                    ("auth", Err(ClientError::new(ErrorCode::InvalidPayload, "token is missing")))
                }
                (Some(_), _) => ("message", Ok(Command::Withheld)),
            },
        };
        ClientMessage { kind, tag: ReplyTag::None, command }
    }

    fn reply(&self, reply: &Reply<'_>, _: &ReplyTag, stamp: Stamp) -> Option<Bytes> {
        let at = stamp.now.to_string();
        let message = match reply {
            Reply::Pong => json!({ "type": "pong" }),
            Reply::Authenticated => json!({ "type": "authenticated" }),
            Reply::Error(error) => json!({
                "type": "error", "data": { "error": error.text, "code": error.code }, "timestamp": at,
                "channel": null,
            }),
            // A channel's clients expect its messages only.
            _ => return None,
        };
        Some(text_frame(&message.to_string()))
    }

    fn gap(&self, gap: &GapNotice) -> Bytes {
        let (data, at) = (gap.json(), gap.at);
        text_frame(&format!(r#"{{"type":"gap","data":{data},"timestamp":"{at}","channel":null}}"#))
    }

    /// Returns the document's ping and a WebSocket ping. Clients may answer the first; browsers and libraries answer
    /// the second by themselves.
    fn heartbeat(&self) -> Bytes {
        let mut both = BytesMut::from(&*text_frame(r#"{"type":"ping"}"#));
        both.extend_from_slice(&ws::frame(ws::OpCode::Ping, b""));
        both.freeze()
    }

    fn always_beats(&self) -> bool {
        true
    }

    fn refuse(&self, why: &Refusal) -> Option<(u16, Cow<'static, str>)> {
        Some((
            CLOSE_GATHERING_AUTH,
            match why {
                Refusal::NoToken => "Auth required".into(),
                Refusal::BadToken(why) => why.clone().into(),
                Refusal::TooLate(limit) => format!("no auth message within {limit} s").into(),
            },
        ))
    }
}

fn read(text: &str, place: &Place) -> (&'static str, Result<Command, ClientError>) {
    // Also bounds the nesting.
    let mut whole = String::new();
    if let Err(error) = json::minify(text, &mut whole) {
        return (UNKNOWN, Err(ClientError::invalid(error.to_string())));
    }
    let Ok(message) = serde_json::from_str::<GatheringMessage<'_>>(&whole) else {
        return (UNKNOWN, Err(ClientError::invalid("not an object")));
    };
    match message.kind.as_deref() {
        None | Some("") => (UNKNOWN, Err(ClientError::invalid("no type"))),
        Some("ping") => ("ping", Ok(Command::Ping)),
        Some("pong") => ("pong", Ok(Command::Nothing)),
        Some("auth") => match message.token {
            Some(token) => ("auth", Ok(Command::Auth { token: token.into_owned() })),
            None => ("auth", Err(ClientError::new(ErrorCode::InvalidPayload, "token is missing"))),
        },
        Some(kind) => {
            let mut payload = String::with_capacity(text.len());
            payload.push('{');
            for (at, (name, value)) in message.fields.iter().enumerate() {
                if at > 0 {
                    payload.push(',');
                }
                json::write_string(name, &mut payload);
                payload.push(':');
                payload.push_str(value.get());
            }
            payload.push('}');
            let builder = Event::builder(kind)
                .source(&format!("{SAID_BY}{:016x}", place.client))
                .channel(&place.channel)
                .json(&payload);
            let command = complete(builder).map(Command::Say).map_err(|error| {
                ClientError::new(ErrorCode::InvalidEvent, format!("{}: {error}", shortened(kind)))
            });
            ("message", command)
        }
    }
}

/// Presence of the standard fields in a client's message.
#[derive(Default)]
struct Has {
    data: bool,
    timestamp: bool,
    channel: bool,
}

impl<'de> Deserialize<'de> for Has {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Has;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Has, A::Error> {
                let mut has = Has::default();
                while let Some(Word(name)) = map.next_key()? {
                    match &*name {
                        "data" => has.data = true,
                        "timestamp" => has.timestamp = true,
                        "channel" => has.channel = true,
                        _ => {}
                    }
                    map.next_value::<IgnoredAny>()?;
                }
                Ok(has)
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// Appends the message as a WebSocket frame.
pub(super) fn put_event(event: &Event, _: Option<&Position>, frames: &mut Vec<u8>) {
    let payload = event.payload();
    in_scratch(|out| {
        out.push_str(r#"{"type":"#);
        // GatheRing's event bus has other names for these types than its clients.
        let name = event.event_type();
        json::write_string(message_type(name).unwrap_or(name), out);
        // The fields of a client's message other than the type.
        let fields = payload.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let payload_fields =
            fields.filter(|_| event.source().is_some_and(|source| source.starts_with(SAID_BY)));
        let has: Has = payload_fields.and_then(|_| serde_json::from_str(payload).ok()).unwrap_or_default();
        if let Some(fields) = payload_fields.filter(|fields| !fields.is_empty()) {
            out.push(',');
            out.push_str(fields);
        }
        if !has.data {
            out.push_str(r#","data":"#);
            out.push_str(payload);
        }
        if !has.timestamp {
            // Writing to a String does not fail.
            let _ = write!(out, r#","timestamp":"{}""#, event.timestamp());
        }
        if !has.channel {
            out.push_str(r#","channel":"#);
            match event.channel() {
                Some(channel) => json::write_string(channel, out),
                None => out.push_str("null"),
            }
        }
        out.push('}');
        put_text(frames, out);
    });
}

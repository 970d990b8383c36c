//! The native dialect, FCC's messages and more: `{type, payload, message_id, timestamp, correlation_id}`.
//!
//! Imports `event`, `filter` and `codec`. Always: whatever text comes in, the answer is a message.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{GapNotice, OnLag, envelope};
use crate::codec::ws;
use crate::event::{Attribute, Event, EventId, Timestamp, json};
use crate::filter::Filter;

/// The text for anything that is not JSON or not a message (the FCC document's words).
pub(crate) const INVALID_MESSAGE: &str = "Invalid message format";

/// A fault in a client's message, as its `error` answer tells it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientError {
    pub(crate) code: &'static str,
    pub(crate) text: String,
}

impl ClientError {
    pub(crate) fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    fn invalid() -> Self {
        Self::new("invalid_message", INVALID_MESSAGE)
    }
}

/// What a client asks for.
#[derive(Debug)]
pub(crate) enum Command {
    Subscribe(Box<Subscribe>),
    Unsubscribe {
        subscription_id: String,
    },
    Request {
        action: String,
    },
    Ping,
    Publish(Event),
    /// An `ack` or `pong` of the client's own: taken silently.
    Nothing,
}

/// A message with the id its answer names.
#[derive(Debug)]
pub(crate) struct ClientMessage {
    pub(crate) message_id: Option<String>,
    pub(crate) command: Result<Command, ClientError>,
}

/// A subscription as asked for.
#[derive(Clone, Debug)]
pub(crate) struct Subscribe {
    pub(crate) subscription_id: Option<String>,
    pub(crate) filter: Filter,
    pub(crate) since: Option<EventId>,
    pub(crate) history: Option<usize>,
    /// First the latest event of each key.
    pub(crate) snapshot: bool,
    pub(crate) on_lag: OnLag,
}

#[derive(Deserialize)]
struct MessageIn<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message_id: Option<Cow<'a, str>>,
}

/// A list of strings, or one string for a list of one.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Strings {
    One(String),
    Many(Vec<String>),
    #[default]
    None,
}

impl Strings {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
            Self::None => Vec::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum EntityIn {
    /// `kind:id`.
    Text(String),
    Pair {
        kind: Option<String>,
        id: Option<String>,
    },
}

impl EntityIn {
    fn into_pair(self) -> (String, String) {
        let or_any = |part: Option<String>| part.filter(|p| !p.is_empty()).unwrap_or_else(|| "**".to_owned());
        match self {
            Self::Text(text) => split_entity(&text),
            Self::Pair { kind, id } => (or_any(kind), or_any(id)),
        }
    }
}

/// `kind:id`, as query strings and messages write it; a kind alone means any of it.
pub(crate) fn split_entity(text: &str) -> (String, String) {
    let (kind, id) = text.split_once(':').unwrap_or((text, "**"));
    (kind.to_owned(), id.to_owned())
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SubscribeIn {
    subscription_id: Option<String>,
    event_types: Option<Strings>,
    sources: Option<Strings>,
    correlation_id: Option<Strings>,
    correlation_ids: Option<Strings>,
    stream_ids: Option<Strings>,
    execution_ids: Option<Strings>,
    entities: Option<Vec<EntityIn>>,
    channels: Option<Strings>,
    since: Option<String>,
    history: Option<usize>,
    on_lag: Option<String>,
    max_per_second: Option<u32>,
    snapshot: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NamesIn {
    subscription_id: Option<String>,
    action: Option<String>,
}

/// Reads one text message. `None`: it is not even a message.
pub(crate) fn read_message(text: &str) -> ClientMessage {
    let broken = || ClientMessage { message_id: None, command: Err(ClientError::invalid()) };
    // Also bounds the nesting, which serde's skipping does not.
    let mut scratch = String::new();
    if !text.trim_ascii_start().starts_with('{') || json::minify(text, &mut scratch).is_err() {
        return broken();
    }
    let Ok(message) = serde_json::from_str::<MessageIn<'_>>(text) else { return broken() };
    ClientMessage {
        command: read_command(&message.kind, message.payload.map_or("{}", RawValue::get)),
        message_id: message.message_id.map(Cow::into_owned),
    }
}

fn read_command(kind: &str, payload: &str) -> Result<Command, ClientError> {
    let names = || serde_json::from_str::<NamesIn>(payload).map_err(|error| bad_payload(&error));
    match kind {
        "subscribe" => read_subscribe(payload).map(|s| Command::Subscribe(Box::new(s))),
        "unsubscribe" => match names()?.subscription_id {
            Some(subscription_id) => Ok(Command::Unsubscribe { subscription_id }),
            None => Err(ClientError::new("invalid_payload", "subscription_id is missing")),
        },
        "request" => Ok(Command::Request { action: names()?.action.unwrap_or_default() }),
        "ping" => Ok(Command::Ping),
        "publish" => envelope::read_event(payload)
            .map(Command::Publish)
            .map_err(|error| ClientError::new("invalid_event", error.to_string())),
        "ack" | "pong" => Ok(Command::Nothing),
        other => Err(ClientError::new("unknown_type", format!("Unknown message type: {}", shortened(other)))),
    }
}

/// A client's own word in an answer to it, bounded.
pub(crate) fn shortened(text: &str) -> &str {
    text.char_indices().nth(64).map_or(text, |(at, _)| &text[..at])
}

fn bad_payload(error: &serde_json::Error) -> ClientError {
    ClientError::new("invalid_payload", format!("payload: {error}"))
}

fn read_subscribe(payload: &str) -> Result<Subscribe, ClientError> {
    let input: SubscribeIn = serde_json::from_str(payload).map_err(|error| bad_payload(&error))?;
    let list = |strings: Option<Strings>| strings.unwrap_or_default().into_vec();
    let on_lag = OnLag::read(input.on_lag.as_deref(), input.max_per_second)
        .map_err(|text| ClientError::new("invalid_on_lag", text))?;
    let since = match input.since.as_deref().map(str::parse) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(error)) => return Err(ClientError::new("invalid_since", format!("since: {error}"))),
    };
    let mut correlations = list(input.correlation_id);
    correlations.extend(list(input.correlation_ids));
    let filter = Filter::new()
        .types(list(input.event_types))
        .sources(list(input.sources))
        .correlations(correlations)
        .streams(list(input.stream_ids))
        .executions(list(input.execution_ids))
        .channels(list(input.channels))
        .entities(input.entities.unwrap_or_default().into_iter().map(EntityIn::into_pair));
    Ok(Subscribe {
        subscription_id: input.subscription_id.filter(|id| !id.is_empty()),
        filter,
        since,
        history: input.history,
        snapshot: input.snapshot,
        on_lag,
    })
}

/// A subscription as `list_subscriptions` shows it: FCC's fields, and the others where they are set.
pub(crate) fn describe(subscription_id: &str, filter: &Filter) -> serde_json::Value {
    let list = |attribute| filter.values(attribute).map(str::to_owned).collect::<Vec<_>>();
    let correlations = list(Attribute::Correlation);
    let mut shown = serde_json::json!({
        "subscription_id": subscription_id,
        "event_types": list(Attribute::Type),
        "sources": list(Attribute::Source),
        "correlation_id": if let [one] = correlations.as_slice() { Some(one) } else { None },
    });
    let more = [
        ("correlation_ids", if correlations.len() > 1 { correlations } else { Vec::new() }),
        ("stream_ids", list(Attribute::Stream)),
        ("execution_ids", list(Attribute::Execution)),
        ("entities", filter.entity_values().map(|(kind, id)| format!("{kind}:{id}")).collect()),
        ("channels", list(Attribute::Channel)),
    ];
    for (name, values) in more {
        if !values.is_empty() {
            shown[name] = values.into();
        }
    }
    shown
}

/// What a server's message is about, in its `type`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    Ack,
    Response,
    Error,
    Pong,
}

impl Reply {
    const fn name(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Response => "response",
            Self::Error => "error",
            Self::Pong => "pong",
        }
    }
}

/// An answer as a WebSocket frame. `random` makes its id; `to` is the request's.
pub(crate) fn reply(
    kind: Reply,
    payload: &serde_json::Value,
    random: u128,
    now: Timestamp,
    to: Option<&str>,
) -> Bytes {
    let mut out = String::with_capacity(192);
    let _ = write!(
        out,
        r#"{{"type":"{}","payload":{payload},"message_id":"{}","timestamp":"{now}","correlation_id":"#,
        kind.name(),
        Uuid::random(random),
    );
    match to {
        Some(id) => json::write_string(id, &mut out),
        None => out.push_str("null"),
    }
    out.push('}');
    ws::frame(ws::OpCode::Text, out.as_bytes())
}

/// A UUID's text (RFC 9562).
struct Uuid(u128);

impl Uuid {
    /// Version 4 of these random bits.
    fn random(bits: u128) -> Self {
        Self(bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62))
    }

    /// Version 8 of an event's place: the same for every client, so that the frame can be shared.
    fn of_event(id: EventId) -> Self {
        let epoch = u128::from(id.epoch & 0xffff_ffff_ffff);
        let shard = u128::from(id.shard & 0xfff);
        let sequence = u128::from(id.sequence & 0x3fff_ffff_ffff_ffff);
        Self(epoch << 80 | 0x8 << 76 | shard << 64 | 0x2 << 62 | sequence)
    }
}

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bits = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            (bits >> 96) as u32,
            (bits >> 80) as u16,
            (bits >> 64) as u16,
            (bits >> 48) as u16,
            bits & 0xffff_ffff_ffff
        )
    }
}

/// The `event` message as a WebSocket frame.
pub(crate) fn event_frame(event: &Event) -> Bytes {
    let mut out = String::with_capacity(384 + event.payload().len());
    out.push_str(r#"{"type":"event","payload":"#);
    envelope::write_event(event, &mut out);
    let id = event.id().unwrap_or(EventId { epoch: 0, shard: 0, sequence: 0 });
    let _ = write!(
        out,
        r#","message_id":"{}","timestamp":"{}","correlation_id":null}}"#,
        Uuid::of_event(id),
        event.timestamp()
    );
    ws::frame(ws::OpCode::Text, out.as_bytes())
}

/// The `gap` message as a WebSocket frame.
pub(crate) fn gap_frame(gap: &GapNotice) -> Bytes {
    let id = gap.to.or(gap.from).unwrap_or(EventId { epoch: 0, shard: 0, sequence: 0 });
    // Not an event's id: the complement keeps it apart from the event at that place.
    let message_id = Uuid::of_event(EventId { epoch: !id.epoch, ..id });
    let out = format!(
        r#"{{"type":"gap","payload":{},"message_id":"{message_id}","timestamp":"{}","correlation_id":null}}"#,
        gap.json(),
        gap.at
    );
    ws::frame(ws::OpCode::Text, out.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> Result<Command, ClientError> {
        read_message(text).command
    }

    #[test]
    fn what_is_no_message_gets_the_documents_words() {
        for text in
            ["", "not valid json", "[]", "5", "{}", r#"{"type":5}"#, r#"{"type":"ping""#, r#"["ping"]"#]
        {
            assert_eq!(command(text).expect_err(text).text, INVALID_MESSAGE, "{text}");
        }
        let deep = format!(r#"{{"type":"ping","payload":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(command(&deep).expect_err("deep").text, INVALID_MESSAGE);
    }

    #[test]
    fn a_subscribe_may_lack_everything() {
        for text in
            [r#"{"type":"subscribe"}"#, r#"{"type":"subscribe","payload":{"event_types":[],"sources":null}}"#]
        {
            match command(text) {
                Ok(Command::Subscribe(s)) => assert!(s.filter.is_everything() && s.subscription_id.is_none()),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_subscription_is_shown_as_it_was_asked_for() {
        let text = r#"{"type":"subscribe","payload":{"subscription_id":"s1","event_types":["workflow.started"],"sources":"sim","correlation_id":"run-42","entities":["task:t-1",{"kind":"provider"}]}}"#;
        let Ok(Command::Subscribe(s)) = command(text) else { panic!() };
        let shown = describe("s1", &s.filter);
        assert_eq!(shown["event_types"], serde_json::json!(["workflow.started"]));
        assert_eq!(shown["sources"], serde_json::json!(["sim"]));
        assert_eq!(shown["correlation_id"], "run-42");
        assert_eq!(shown["entities"], serde_json::json!(["provider:**", "task:t-1"]));
        assert!(shown.get("channels").is_none());
    }

    #[test]
    fn faults_in_a_payload_are_named() {
        for (text, code) in [
            (r#"{"type":"fly"}"#, "unknown_type"),
            (r#"{"type":"unsubscribe"}"#, "invalid_payload"),
            (r#"{"type":"subscribe","payload":[1]}"#, "invalid_payload"),
            (r#"{"type":"subscribe","payload":{"event_types":5}}"#, "invalid_payload"),
            (r#"{"type":"subscribe","payload":{"since":"!"}}"#, "invalid_since"),
            (r#"{"type":"publish","payload":{}}"#, "invalid_event"),
        ] {
            assert_eq!(command(text).expect_err(text).code, code, "{text}");
        }
    }

    #[test]
    fn uuids_have_their_version_and_variant() {
        let id = EventId { epoch: u64::MAX, shard: u16::MAX, sequence: u64::MAX };
        assert_eq!(Uuid::of_event(id).to_string(), "ffffffff-ffff-8fff-bfff-ffffffffffff");
        assert_eq!(Uuid::random(u128::MAX).to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(Uuid::random(0).to_string(), "00000000-0000-4000-8000-000000000000");
    }
}

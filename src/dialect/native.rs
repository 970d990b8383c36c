//! The native dialect, FCC's messages and more: `{type, payload, message_id, timestamp, correlation_id}`.
//!
//! Invariant: every text that asks for something is answered by a message.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::codes::{CLOSE_POLICY, ErrorCode};
use super::command::{
    Bounded, LIST_VALUES_MAX, ListUpdate, Strings, UNKNOWN, Update, in_scratch, put_text, text_frame,
};
use super::concat::Concat;
use super::keys::{FromObject, UnknownKey, first_unknown, plain_key};
use super::uuid::Uuid;
use super::wire::WireProtocol;
use super::{
    ClientError, ClientMessage, Command, GapNotice, Incoming, LogEnded, OnLag, OwnChannel, PastEnd,
    PastStart, Place, Refusal, RefusingLog, Reply, ReplyTag, Stamp, Subscribe, UpdateCounts, envelope,
    shortened, split_entity,
};
use crate::event::{Attribute, Event, Position, Since, json};
use crate::filter::{ENTITY, Filter, FilterErrorKind, MemberPatterns, Pattern};

/// Subprotocol of the dialect.
pub(crate) const PROTOCOL: &str = "fanwire.v1";

/// The native dialect.
#[derive(Debug)]
pub(super) struct Native;

struct NativeMessage<'a> {
    kind: Cow<'a, str>,
    payload: Option<&'a str>,
    message_id: Option<Cow<'a, str>>,
    ack: Option<&'a str>,
}

/// Text that is borrowed unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Keys of a client's message. Only a `publish` has the last one.
const MESSAGE_KEYS: [&str; 7] =
    ["type", "payload", "message_id", "timestamp", "correlation_id", "position", "ack"];

/// Returns the keys of a client's message of this type.
fn message_keys(kind: &str) -> &'static [&'static str] {
    if kind == "publish" { &MESSAGE_KEYS } else { &MESSAGE_KEYS[..6] }
}

impl<'a> NativeMessage<'a> {
    /// Reads a message in one pass, and checks it for unknown keys if it asks for something. The error has the details
    /// for the client.
    fn read(text: &'a str) -> Result<(Self, Result<(), ClientError>), &'static str> {
        let (mut kind, mut payload, mut message_id, mut ack) = (None, None, None, None);
        let mut unknown = None;
        for member in json::members(text) {
            let (key, value) = member.map_err(|_| "not a JSON object")?;
            let key = plain_key(key).ok_or("no type")?;
            match &*key {
                "type" if kind.is_none() => {
                    kind = Some(serde_json::from_str::<Text<'_>>(value).map_err(|_| "no type")?.0);
                }
                "payload" if payload.is_none() => {
                    payload = Some(Some(value).filter(|value| *value != "null"));
                }
                "message_id" if message_id.is_none() => {
                    let id = serde_json::from_str::<Option<Text<'_>>>(value).map_err(|_| "no type")?;
                    message_id = Some(id.map(|id| id.0));
                }
                "ack" if ack.is_none() => ack = Some(value),
                // A repeated key is an error.
                "type" | "payload" | "message_id" | "ack" => return Err("no type"),
                key if MESSAGE_KEYS.contains(&key) => {}
                _ => unknown = unknown.or(Some(key)),
            }
        }
        let kind: Cow<'_, str> = kind.ok_or("no type")?;
        let known = message_keys(&kind);
        let misplaced = ack.filter(|_| !known.contains(&"ack")).map(|_| Cow::Borrowed("ack"));
        let is_known = match unknown.or(misplaced) {
            Some(key) if refuses_unknown(&kind) => Err(unknown_key("message", &kind, &key, known)),
            _ => Ok(()),
        };
        Ok((Self { kind, payload: payload.flatten(), message_id: message_id.flatten(), ack }, is_known))
    }
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "an entity is \"kind:id\", or an object of kind and id")]
enum EntityValue {
    /// `kind:id`.
    Text(String),
    Pair {
        kind: Option<String>,
        id: Option<String>,
    },
}

impl EntityValue {
    fn into_pair(self) -> (String, String) {
        let or_any = |part: Option<String>| part.filter(|p| !p.is_empty()).unwrap_or_else(|| "**".to_owned());
        match self {
            Self::Text(text) => split_entity(&text),
            Self::Pair { kind, id } => (or_any(kind), or_any(id)),
        }
    }
}

/// Keys of a `subscribe`.
const SUBSCRIBE_KEYS: [&str; 20] = [
    "subscription_id",
    "event_types",
    "sources",
    "correlation_id",
    "correlation_ids",
    "stream_ids",
    "execution_ids",
    "entities",
    "channels",
    "filter",
    "since",
    "from",
    "history",
    "absent",
    "on_lag",
    "max_per_second",
    "compact",
    "concat",
    "snapshot",
    "own_past",
];

/// Payload of a `subscribe`. Unknown keys are refused: a typing error would otherwise be a subscription to everything.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct NativeSubscribe {
    subscription_id: Option<String>,
    event_types: Option<Values>,
    sources: Option<Values>,
    correlation_id: Option<Values>,
    correlation_ids: Option<Values>,
    stream_ids: Option<Values>,
    execution_ids: Option<Values>,
    entities: Option<Bounded<EntityValue, LIST_VALUES_MAX>>,
    channels: Option<Values>,
    filter: Option<String>,
    since: Option<String>,
    from: Option<String>,
    history: Option<usize>,
    absent: Option<String>,
    on_lag: Option<String>,
    max_per_second: Option<u32>,
    compact: Option<String>,
    concat: Option<String>,
    snapshot: bool,
    own_past: bool,
}

/// A list of values, up to the maximum length of a subscription's list.
type Values = Strings<LIST_VALUES_MAX>;

/// Payload of an `update`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct NativeUpdate {
    subscription_id: Option<String>,
    add: Option<FromObject<NativeLists>>,
    remove: Option<FromObject<NativeLists>>,
}

/// Payload of an `update` with raw values, to find unknown keys.
#[derive(Deserialize)]
struct NativeRawUpdate<'a> {
    #[serde(borrow, default)]
    add: Option<&'a RawValue>,
    #[serde(borrow, default)]
    remove: Option<&'a RawValue>,
}

/// Keys of `add` and `remove` in an `update`.
const LIST_KEYS: [&str; 8] = [
    "event_types",
    "sources",
    "correlation_id",
    "correlation_ids",
    "stream_ids",
    "execution_ids",
    "entities",
    "channels",
];

/// Name and attribute of a list, and values for it.
type ListValues = (&'static str, u8, Vec<MemberPatterns>);

/// Values for the lists of a subscription.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct NativeLists {
    event_types: Option<Values>,
    sources: Option<Values>,
    correlation_id: Option<Values>,
    correlation_ids: Option<Values>,
    stream_ids: Option<Values>,
    execution_ids: Option<Values>,
    entities: Option<Bounded<EntityValue, LIST_VALUES_MAX>>,
    channels: Option<Values>,
}

impl NativeLists {
    /// Returns the values of each list that is named, with its name and its attribute: sorted and distinct.
    fn into_values(self) -> Result<Vec<ListValues>, ClientError> {
        let texts = |values: Option<Values>| {
            values.map(|values| {
                values.into_vec().into_iter().map(|value| (Pattern::from(value), None)).collect()
            })
        };
        let pairs = |entities: Bounded<EntityValue, LIST_VALUES_MAX>| {
            let pair = |entity: EntityValue| {
                let (kind, id) = entity.into_pair();
                (Pattern::from(kind), Some(Pattern::from(id)))
            };
            entities.0.into_iter().map(pair).collect()
        };
        let of = |attribute: Attribute| attribute.index() as u8;
        let lists: [(&str, u8, Option<Vec<MemberPatterns>>); 8] = [
            ("event_types", of(Attribute::Type), texts(self.event_types)),
            ("sources", of(Attribute::Source), texts(self.sources)),
            ("correlation_ids", of(Attribute::Correlation), texts(self.correlation_ids)),
            ("correlation_ids", of(Attribute::Correlation), texts(self.correlation_id)),
            ("stream_ids", of(Attribute::Stream), texts(self.stream_ids)),
            ("execution_ids", of(Attribute::Execution), texts(self.execution_ids)),
            ("entities", ENTITY, self.entities.map(pairs)),
            ("channels", of(Attribute::Channel), texts(self.channels)),
        ];
        let mut named: Vec<ListValues> = Vec::new();
        for (name, about, values) in lists {
            let Some(values) = values else { continue };
            if values.len() > LIST_VALUES_MAX {
                return Err(too_long(values.len()));
            }
            match named.last_mut() {
                Some(last) if last.1 == about => last.2.extend(values),
                _ => named.push((name, about, values)),
            }
        }
        for (_, _, values) in &mut named {
            values.sort_unstable();
            values.dedup();
        }
        Ok(named)
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NativeNames {
    subscription_id: Option<String>,
    action: Option<String>,
    channel: Option<String>,
    token: Option<String>,
    since: Option<String>,
}

/// Reads one text message.
fn read_message(text: &str) -> ClientMessage {
    let broken = |details: &str| ClientMessage {
        kind: UNKNOWN,
        tag: ReplyTag::None,
        command: Err(ClientError::invalid(details)),
    };
    let (message, is_known) = match NativeMessage::read(text) {
        Ok(read) => read,
        Err(details) => return broken(details),
    };
    let mut command = is_known.and_then(|()| read_command(&message.kind, message.payload.unwrap_or("{}")));
    if let (Ok(Command::Publish { is_acked, .. }), Some(ack)) = (&mut command, message.ack) {
        match ack {
            "true" | "null" => {}
            "false" => *is_acked = false,
            _ => command = Err(ClientError::new(ErrorCode::InvalidMessage, "ack is true or false")),
        }
    }
    ClientMessage {
        kind: KINDS.iter().find(|kind| **kind == message.kind).copied().unwrap_or(UNKNOWN),
        command,
        tag: ReplyTag::of(message.message_id),
    }
}

/// Returns whether unknown keys are faults in a message of this kind: one that asks for something.
fn refuses_unknown(kind: &str) -> bool {
    matches!(kind, "subscribe" | "update" | "unsubscribe" | "request" | "refill" | "publish")
}

/// Returns the error for an unknown key of a message or its payload.
fn unknown_key(what: &str, kind: &str, key: &str, known: &[&str]) -> ClientError {
    let error = if what == "message" && keys_of(kind).contains(&key) {
        format!("message: `{}` belongs into the payload of {kind}", shortened(key))
    } else {
        format!("{what}: {}", UnknownKey { key, known })
    };
    ClientError::new(ErrorCode::UnknownKey, error)
}

/// Returns the keys of a payload.
fn keys_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "subscribe" => &SUBSCRIBE_KEYS,
        "update" => &["subscription_id", "add", "remove"],
        // Clients send the payload of the `ack` back, so its keys are accepted.
        "unsubscribe" => &["subscription_id", "last_event_id", "history", "own_channels", "truncated"],
        "request" => &["action", "channel"],
        "refill" => &["since"],
        _ => &[],
    }
}

/// Types of a client's messages.
const KINDS: [&str; 10] =
    ["subscribe", "update", "unsubscribe", "request", "refill", "ping", "publish", "auth", "ack", "pong"];

fn read_command(kind: &str, payload: &str) -> Result<Command, ClientError> {
    let names = || serde_json::from_str::<NativeNames>(payload).map_err(|error| bad_payload(&error));
    // serde would accept an array of the fields in order.
    let is_list = payload.trim_ascii_start().starts_with('[');
    if matches!(kind, "update" | "unsubscribe" | "request" | "refill") {
        let known = keys_of(kind);
        if let Some(key) = first_unknown(payload, |key| known.contains(&key)) {
            return Err(unknown_key("payload", kind, &key, known));
        }
    }
    match kind {
        "subscribe" | "update" | "unsubscribe" | "request" | "refill" | "auth" if is_list => {
            Err(ClientError::new(ErrorCode::InvalidPayload, "payload: not an object"))
        }
        "subscribe" => read_subscribe(payload).map(|s| Command::Subscribe(Box::new(s))),
        "update" => read_update(payload).map(|update| Command::Update(Box::new(update))),
        "unsubscribe" => match names()?.subscription_id {
            Some(subscription_id) => Ok(Command::Unsubscribe { subscription_id, strict: true }),
            None => Err(ClientError::new(ErrorCode::InvalidPayload, "subscription_id is missing")),
        },
        "request" => match names()? {
            NativeNames { action: Some(action), channel, .. } if action == "presence" => match channel {
                Some(channel) => Ok(Command::Presence { channel }),
                None => Err(ClientError::new(ErrorCode::InvalidPayload, "channel is missing")),
            },
            NativeNames { action, .. } => Ok(Command::Request { action: action.unwrap_or_default() }),
        },
        "refill" => match names()?.since.as_deref().map(str::parse) {
            Some(Ok(since)) => Ok(Command::Refill { since }),
            Some(Err(error)) => Err(ClientError::new(ErrorCode::InvalidSince, format!("since: {error}"))),
            None => Err(ClientError::new(ErrorCode::InvalidPayload, "since is missing")),
        },
        "ping" => Ok(Command::Ping),
        "publish" => envelope::read_published(payload)
            .map(|event| Command::Publish { event, is_acked: true })
            .map_err(|error| ClientError::new(ErrorCode::InvalidEvent, error.to_string())),
        // serde's error text would repeat the token.
        "auth" => match names().ok().and_then(|names| names.token) {
            Some(token) => Ok(Command::Auth { token }),
            None => Err(ClientError::new(ErrorCode::InvalidPayload, "token is missing")),
        },
        "ack" | "pong" => Ok(Command::Nothing),
        other => Err(ClientError::new(
            ErrorCode::UnknownType,
            format!("Unknown message type: {}", shortened(other)),
        )),
    }
}

fn bad_payload(error: &serde_json::Error) -> ClientError {
    ClientError::new(ErrorCode::InvalidPayload, format!("payload: {error}"))
}

fn too_long(count: usize) -> ClientError {
    let error = FilterErrorKind::TooManyValues(count, LIST_VALUES_MAX);
    ClientError::new(ErrorCode::InvalidFilter, error.to_string())
}

pub(super) fn read_subscribe(payload: &str) -> Result<Subscribe, ClientError> {
    let input: NativeSubscribe = serde_json::from_str(payload).map_err(|error| {
        let unknown = first_unknown(payload, |key| SUBSCRIBE_KEYS.contains(&key));
        let unknown = unknown.map(|key| unknown_key("payload", "subscribe", &key, &SUBSCRIBE_KEYS));
        unknown.unwrap_or_else(|| bad_payload(&error))
    })?;
    let list = |values: Option<Values>| {
        let values = values.unwrap_or_default().into_vec();
        if values.len() > LIST_VALUES_MAX { Err(too_long(values.len())) } else { Ok(values) }
    };
    let on_lag = OnLag::read(input.on_lag.as_deref(), input.max_per_second)
        .map_err(|text| ClientError::new(ErrorCode::InvalidOnLag, text))?;
    let concat = Concat::read(input.compact.as_deref(), input.concat.as_deref(), on_lag)
        .map_err(|text| ClientError::new(ErrorCode::InvalidPayload, text))?;
    let since = match input.since.as_deref().map(str::parse) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(error)) => return Err(ClientError::new(ErrorCode::InvalidSince, format!("since: {error}"))),
    };
    let word = |key: &str, given: Option<&str>, word: &str| match given {
        Some(given) if given != word => {
            let text = format!("{key} can only be {word}");
            Err(ClientError::new(ErrorCode::InvalidPayload, text))
        }
        given => Ok(given.is_some()),
    };
    let from_start = word("from", input.from.as_deref(), "start")?;
    let absent_is_error = word("absent", input.absent.as_deref(), "error")?;
    let mut correlations = list(input.correlation_id)?;
    correlations.extend(list(input.correlation_ids)?);
    let entities = input.entities.unwrap_or_default().0;
    if entities.len() > LIST_VALUES_MAX {
        return Err(too_long(entities.len()));
    }
    let filter = Filter::new()
        .types(list(input.event_types)?)
        .sources(list(input.sources)?)
        .correlations(correlations)
        .streams(list(input.stream_ids)?)
        .executions(list(input.execution_ids)?)
        .channels(list(input.channels)?)
        .entities(entities.into_iter().map(EntityValue::into_pair));
    // The filter's text is a condition in addition to the lists.
    let text: Filter = input.filter.map_or(Ok(Filter::new()), |text| text.parse())?;
    let (fixed_lists, filter) = (text.lists(), filter.try_and(&text)?);
    // A list that is too long for one filter becomes several filters.
    let mut parts = filter.in_parts().into_iter();
    let filter = parts.next().unwrap_or_default();
    Ok(Subscribe {
        subscription_id: input.subscription_id.filter(|id| !id.is_empty()),
        or: parts.collect(),
        since,
        history: input.history,
        from_start,
        absent_is_error,
        snapshot: input.snapshot,
        own_past: input.own_past,
        on_lag,
        concat,
        fixed_lists,
        ..Subscribe::from(filter)
    })
}

/// Reads the payload of an `update`.
pub(super) fn read_update(payload: &str) -> Result<Update, ClientError> {
    let input: NativeUpdate = serde_json::from_str(payload).map_err(|error| {
        let lists: Option<NativeRawUpdate<'_>> = serde_json::from_str(payload).ok();
        let lists = lists.into_iter().flat_map(|raw| [("add", raw.add), ("remove", raw.remove)]);
        let mut unknown = lists.filter_map(|(name, list)| {
            let key = first_unknown(list?.get(), |key| LIST_KEYS.contains(&key))?;
            Some(unknown_key(name, "update", &key, &LIST_KEYS))
        });
        unknown.next().unwrap_or_else(|| bad_payload(&error))
    })?;
    let Some(subscription_id) = input.subscription_id else {
        return Err(ClientError::new(ErrorCode::InvalidPayload, "subscription_id is missing"));
    };
    let mut lists: Vec<ListUpdate> = Vec::new();
    for (name, about, add) in input.add.unwrap_or_default().0.into_values()? {
        lists.push(ListUpdate { name, about, add, remove: Vec::new() });
    }
    for (name, about, remove) in input.remove.unwrap_or_default().0.into_values()? {
        let Some(list) = lists.iter_mut().find(|list| list.about == about) else {
            lists.push(ListUpdate { name, about, add: Vec::new(), remove });
            continue;
        };
        list.remove = remove;
        list.check_apart()?;
    }
    Ok(Update { subscription_id, lists })
}

/// Appends a subscription as `list_subscriptions` shows it: FCC's fields, and other fields if they are set. The filter's
/// text is added if the lists do not express all of it. `empty_lists` has a bit for each list that is shown empty, by its
/// attribute, though the filter has a value of it.
pub(crate) fn describe(subscription_id: &str, filter: &Filter, empty_lists: u16, out: &mut String) {
    fn list<'a>(out: &mut String, values: impl Iterator<Item = &'a str>) {
        for (at, value) in values.enumerate() {
            out.push(if at == 0 { '[' } else { ',' });
            json::write_string(value, out);
        }
        out.push(']');
    }
    let is_empty = |about: u8| empty_lists & 1 << about != 0;
    let field = |out: &mut String, name: &str, attribute: Attribute, is_always: bool| {
        let is_empty = is_empty(attribute.index() as u8);
        let mut values = filter.values(attribute).filter(|_| !is_empty).peekable();
        if is_always || is_empty || values.peek().is_some() {
            out.push_str(name);
            if values.peek().is_none() {
                out.push('[');
            }
            list(out, values);
        }
    };
    out.push_str(r#"{"subscription_id":"#);
    json::write_string(subscription_id, out);
    field(out, r#","event_types":"#, Attribute::Type, true);
    field(out, r#","sources":"#, Attribute::Source, true);
    out.push_str(r#","correlation_id":"#);
    let no_correlation = is_empty(Attribute::Correlation.index() as u8);
    let mut correlations = filter.values(Attribute::Correlation).filter(|_| !no_correlation);
    match (correlations.next(), correlations.next()) {
        (Some(one), None) => json::write_string(one, out),
        (_, second) => {
            out.push_str("null");
            if second.is_some() || no_correlation {
                field(out, r#","correlation_ids":"#, Attribute::Correlation, true);
            }
        }
    }
    field(out, r#","stream_ids":"#, Attribute::Stream, false);
    field(out, r#","execution_ids":"#, Attribute::Execution, false);
    let entities = filter.entity_values().filter(|_| !is_empty(ENTITY)).enumerate();
    if is_empty(ENTITY) {
        out.push_str(r#","entities":["#);
    }
    for (at, (kind, id)) in entities {
        out.push_str(if at == 0 { r#","entities":["# } else { "," });
        json::write_string(&format!("{kind}:{id}"), out);
    }
    if filter.entity_values().next().is_some() {
        out.push(']');
    }
    field(out, r#","channels":"#, Attribute::Channel, false);
    if !filter.is_lists() {
        out.push_str(r#","filter":"#);
        json::write_string(&filter.to_string(), out);
    }
    out.push('}');
}

/// Adds the start of the past to the payload of an `ack`.
fn add_start(payload: &mut serde_json::Value, past: Option<&PastStart>) {
    if let Some(PastStart { from, complete }) = past {
        let from = from.as_ref().map(Since::to_string);
        payload["history"] = json!({ "from": from, "complete": complete });
    }
}

/// Returns the frame of a message with this JSON payload.
fn message(kind: &str, payload: &str, tag: &ReplyTag, stamp: &Stamp) -> Bytes {
    let mut out = String::with_capacity(160 + payload.len());
    let id = Uuid::random(stamp.random);
    // Writing to a String does not fail.
    let _ = write!(
        out,
        r#"{{"type":"{kind}","payload":{payload},"message_id":"{id}","timestamp":"{}","correlation_id":"#,
        stamp.now,
    );
    match tag.id() {
        Some(id) => json::write_string(id, &mut out),
        None => out.push_str("null"),
    }
    out.push('}');
    text_frame(&out)
}

impl WireProtocol for Native {
    fn reports_past_start(&self) -> bool {
        true
    }

    fn read(&self, message: Incoming<'_>, _: &Place, _: usize) -> ClientMessage {
        match message {
            Incoming::Text(text) => read_message(text),
            Incoming::Binary(_) => ClientMessage {
                kind: UNKNOWN,
                tag: ReplyTag::None,
                command: Err(ClientError::invalid("binary")),
            },
        }
    }

    fn read_unauthenticated(&self, message: Incoming<'_>, bytes_max: usize) -> ClientMessage {
        let message_of = |kind, tag, command| ClientMessage { kind, tag, command };
        let text = match message {
            _ if message.len() > bytes_max => {
                return message_of(UNKNOWN, ReplyTag::None, Ok(Command::Withheld));
            }
            Incoming::Text(text) if text.trim_ascii_start().starts_with('{') => text,
            _ => return message_of(UNKNOWN, ReplyTag::None, Err(ClientError::invalid("not a JSON object"))),
        };
        let Ok((message, _)) = NativeMessage::read(text) else {
            return message_of(UNKNOWN, ReplyTag::None, Err(ClientError::invalid("no type")));
        };
        let kind = KINDS.iter().find(|kind| **kind == message.kind).copied().unwrap_or(UNKNOWN);
        let command = match kind {
            "ping" | "auth" | "ack" | "pong" | UNKNOWN => {
                read_command(&message.kind, message.payload.unwrap_or("{}"))
            }
            _ => Ok(Command::Withheld),
        };
        message_of(kind, ReplyTag::of(message.message_id), command)
    }

    fn reply(&self, reply: &Reply<'_>, tag: &ReplyTag, stamp: Stamp) -> Option<Bytes> {
        let position = || stamp.position.as_ref().map(Since::to_string);
        let (kind, payload) = match reply {
            Reply::Welcome { .. } => return None,
            Reply::Subscribed { id, past, own } => {
                let mut payload = json!({ "subscription_id": id, "last_event_id": position() });
                add_start(&mut payload, *past);
                OwnChannel::add(own, &mut payload);
                ("ack", payload)
            }
            Reply::Unsubscribed { id } => ("ack", json!({ "subscription_id": id })),
            Reply::Updated { counts: UpdateCounts { added, removed, not_held }, past, own } => {
                let mut payload = json!({ "added": added, "removed": removed, "last_event_id": position() });
                if *not_held > 0 {
                    payload["not_held"] = (*not_held).into();
                }
                add_start(&mut payload, *past);
                OwnChannel::add(own, &mut payload);
                ("ack", payload)
            }
            Reply::Refilling { since } => {
                ("ack", json!({ "since": since.to_string(), "last_event_id": position() }))
            }
            Reply::Response(payload) => return Some(message("response", payload, tag, &stamp)),
            Reply::Published { id, is_duplicate } => {
                let mut payload = json!({ "event_id": id.map(|id| id.to_string()) });
                if *is_duplicate {
                    payload["duplicate"] = true.into();
                }
                ("ack", payload)
            }
            Reply::Reconnect(delay_ms) => ("reconnect", json!({ "delay_ms": delay_ms })),
            Reply::Pong => ("pong", json!({ "last_event_id": position() })),
            Reply::Authenticated => ("ack", json!({ "authenticated": true })),
            Reply::AuthFailed(why) => ("error", json!({ "error": why, "code": "auth_failed" })),
            Reply::Error(ClientError { text, code, column: Some(column), .. }) => {
                ("error", json!({ "error": text, "code": code, "column": column }))
            }
            Reply::Error(ClientError { text, code, log: Some(log), .. }) => {
                let RefusingLog { by, value, last_event_id } = &**log;
                let last = last_event_id.map(|id| id.to_string());
                let payload =
                    json!({ "error": text, "code": code, "by": by, "value": value, "last_event_id": last });
                ("error", payload)
            }
            Reply::Error(error) => ("error", json!({ "error": error.text, "code": error.code })),
        };
        Some(message(kind, &payload.to_string(), tag, &stamp))
    }

    fn gap(&self, gap: &GapNotice) -> Bytes {
        text_frame(&format!(
            r#"{{"type":"gap","payload":{},"message_id":"{}","timestamp":"{}","correlation_id":null}}"#,
            gap.json(),
            Uuid::of_gap(gap.edge()),
            gap.at
        ))
    }

    fn past_end(&self, end: &PastEnd<'_>, stamp: &Stamp) -> Option<Bytes> {
        let PastEnd { subscription_id, events, complete } = end;
        let payload = json!({ "subscription_id": subscription_id, "events": events, "complete": complete });
        Some(message("history_end", &payload.to_string(), &ReplyTag::None, stamp))
    }

    fn log_end(&self, end: &LogEnded<'_>, stamp: &Stamp) -> Option<Bytes> {
        let LogEnded { subscription_id, by, value, last_event_id, complete, is_over } = end;
        let mut payload = json!({
            "subscription_id": subscription_id,
            "by": by,
            "value": value,
            "last_event_id": last_event_id.to_string(),
            "complete": complete,
        });
        if *is_over {
            payload["over"] = true.into();
        }
        Some(message("end", &payload.to_string(), &ReplyTag::None, stamp))
    }

    fn refuse(&self, why: &Refusal) -> Option<(u16, Cow<'static, str>)> {
        match why {
            // The client gets an error, and may still authenticate.
            Refusal::NoToken => None,
            Refusal::BadToken(why) => Some((CLOSE_POLICY, format!("authentication failed: {why}").into())),
            Refusal::TooLate(limit) => Some((CLOSE_POLICY, format!("no auth within {limit} s").into())),
        }
    }
}

/// Appends the `event` message as a WebSocket frame. If the id alone is not enough to resume from, the message has a
/// `position`.
pub(super) fn put_event(event: &Event, position: Option<&Position>, frames: &mut Vec<u8>) {
    put_message(event, position, frames, |time, out| envelope::write_event_at(event, time, out));
}

/// Appends the `event` message of an event, whose object `write` appends; it is given the text of the event's time.
#[inline]
pub(super) fn put_message(
    event: &Event,
    position: Option<&Position>,
    frames: &mut Vec<u8>,
    write: impl FnOnce(&str, &mut String),
) {
    in_scratch(|out| {
        out.push_str(r#"{"type":"event","payload":"#);
        let time = event.timestamp().text();
        let time = time.as_str();
        write(time, out);
        out.push_str(r#","message_id":""#);
        // Writing to a String does not fail.
        let _ = Uuid::of_event(event.id()).write(out);
        out.push_str(r#"","timestamp":""#);
        out.push_str(time);
        out.push_str(r#"","correlation_id":null"#);
        if let Some(position) = position {
            let _ = write!(out, r#","position":"{position}""#);
        }
        out.push('}');
        put_text(frames, out);
    });
}

#[cfg(test)]
mod tests {
    use super::super::command::INVALID_MESSAGE;
    use super::*;

    fn command(text: &str) -> Result<Command, ClientError> {
        read_message(text).command
    }

    #[test]
    fn an_invalid_message_gets_the_documents_error() {
        for text in
            ["", "not valid json", "[]", "5", "{}", r#"{"type":5}"#, r#"{"type":"ping""#, r#"["ping"]"#]
        {
            assert_eq!(command(text).expect_err(text).text, INVALID_MESSAGE, "{text}");
        }
        let deep = format!(r#"{{"type":"ping","payload":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(command(&deep).expect_err("deep").text, INVALID_MESSAGE);
    }

    #[test]
    fn the_keys_of_a_subscribe_are_those_that_are_read() {
        let error = serde_json::from_str::<NativeSubscribe>(r#"{"no such key":1}"#).err().expect("an error");
        let named: Vec<String> = error.to_string().split('`').skip(3).step_by(2).map(str::to_owned).collect();
        assert_eq!(named, SUBSCRIBE_KEYS, "what serde says: {error}");
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
        let mut fields = String::new();
        describe("s1", &s.filter, 0, &mut fields);
        let fields: serde_json::Value = serde_json::from_str(&fields).expect("JSON");
        assert_eq!(fields["event_types"], serde_json::json!(["workflow.started"]));
        assert_eq!(fields["sources"], serde_json::json!(["sim"]));
        assert_eq!(fields["correlation_id"], "run-42");
        assert_eq!(fields["entities"], serde_json::json!(["provider:**", "task:t-1"]));
        assert!(fields.get("channels").is_none());
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
            (r#"{"type":"refill","payload":{}}"#, "invalid_payload"),
            (r#"{"type":"refill","payload":["a-1"]}"#, "invalid_payload"),
            (r#"{"type":"refill","payload":{"since":"!"}}"#, "invalid_since"),
        ] {
            assert_eq!(command(text).expect_err(text).code.name(), code, "{text}");
        }
    }
}

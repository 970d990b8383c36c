//! An event as JSON in the native form, in both directions.
//!
//! Invariants:
//! - The payload is sent byte for byte as it was received (checked and minified once).
//! - An unknown key is a fault only in an event that a client publishes ([`read_published`]). A log, a predecessor and
//!   other systems' channels may be of another version.

use std::borrow::Cow;
use std::fmt;

use super::event_keys::{KEYS, Others, UNREAD, read_timestamp};
use super::fast_path;
use super::infer_attributes::{Complete, Implied, complete_with_key, implied_by};
use super::keys::{UnknownKey, plain_key};
use super::publish_terms::{PublishTerms, TermFields};
use crate::event::{Event, EventBuilder, EventError, json};

#[derive(Default)]
struct EntityIn<'a> {
    kind: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
}

/// Fields that are read. [`Others`] decides how other keys are treated. The bus assigns `event_id`.
#[derive(Default)]
struct EventIn<'a> {
    event_type: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    timestamp: Option<&'a str>,
    correlation_id: Option<Cow<'a, str>>,
    stream_id: Option<Cow<'a, str>>,
    execution_id: Option<Cow<'a, str>>,
    entity: Option<EntityIn<'a>>,
    channel: Option<Cow<'a, str>>,
    traceparent: Option<Cow<'a, str>>,
    tracestate: Option<Cow<'a, str>>,
    payload: Option<&'a str>,
    /// Subject of an event of AutoSDLC's broadcaster: `agent:coder-001:status`.
    key: Option<&'a str>,
    terms: TermFields<'a>,
}

/// Fault in an event's JSON.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The text is no JSON object.
    NotAnObject,
    /// The text is no JSON, or a field has a value of the wrong type.
    Json(serde_json::Error),
    /// The timestamp can't be read.
    Timestamp,
    /// The fields do not make a valid event.
    Event(EventError),
    /// An unknown key. The text names it and the closest known key.
    UnknownKey(String),
}

impl std::error::Error for ReadError {}

impl Event {
    /// Reads an event from the JSON in which events are published: an object with at least a `type` (or `event_type`).
    ///
    /// Attributes that the object does not name are taken from the payload if the type is in one of the catalogues of
    /// the feature `dialects`, as in every event that a client publishes. An event of [`Event::builder`] has only the
    /// attributes that it was given. `event_id` is ignored: the bus that publishes the event assigns one. Unknown keys
    /// are also ignored, because a log of a later version may have them. A server refuses them in events that clients
    /// publish.
    ///
    /// # Errors
    ///
    /// Fails if the text is no JSON object, a field has a value of the wrong type, or the fields make no event.
    ///
    /// ```
    /// # use fanwire::Event;
    /// let event = Event::from_json(r#"{"type":"task.progress","source":"core","payload":{"progress":42}}"#)?;
    /// assert_eq!(event.source(), Some("core"));
    /// assert!(event.to_json().contains(r#""payload":{"progress":42}"#));
    /// # Ok::<(), fanwire::protocol::ReadError>(())
    /// ```
    pub fn from_json(text: &str) -> Result<Self, ReadError> {
        read_event(text).map(Complete::into_event)
    }

    /// Returns the event as the native dialect delivers it: a JSON object, with its `event_id` once the event is
    /// published.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(256 + self.payload().len());
        write_event(self, &mut out);
        out
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("not an event: expected a JSON object"),
            Self::Json(error) => write!(f, "not an event: {error}"),
            Self::Timestamp => f.write_str("timestamp is neither ISO 8601 text nor milliseconds since 1970"),
            Self::Event(error) => error.fmt(f),
            Self::UnknownKey(error) => f.write_str(error),
        }
    }
}

/// Reads one event object of another system, and fills in the attributes that its payload implies.
pub(crate) fn read_event(text: &str) -> Result<Complete, ReadError> {
    read(text, Others::PassedOver)
}

/// Reads one event object that a client publishes, as [`read_event`] does, but refuses unknown keys.
pub(crate) fn read_published(text: &str) -> Result<Complete, ReadError> {
    read(text, Others::Refused)
}

/// Reads one event object that a client publishes into a stream, as [`read_published`] does. The stream is that of an event
/// that names none.
pub(crate) fn read_published_in(text: &str, stream: &str) -> Result<Complete, ReadError> {
    let build = |builder: EventBuilder, key: Option<&str>| complete_with_key(builder.or_stream(stream), key);
    let (event, terms) = match fast_path::read(text, Others::Refused, build) {
        Some(read) => read.map_err(ReadError::Event)?,
        None => read_slowly(text, Others::Refused, build)?,
    };
    Ok(event.under(terms))
}

fn read(text: &str, others: Others) -> Result<Complete, ReadError> {
    match fast_path::read(text, others, complete_with_key) {
        Some(read) => read.map(|(event, terms)| event.under(terms)).map_err(ReadError::Event),
        None => read_any(text, others),
    }
}

/// Reads one event object of a publisher without the fast path. Called after the fast path, which accepts every valid
/// object.
pub(crate) fn read_any(text: &str, others: Others) -> Result<Complete, ReadError> {
    let (event, terms) = read_slowly(text, others, complete_with_key)?;
    Ok(event.under(terms))
}

/// Reads one event object of an engine's log.
///
/// An entry of [`write_stored`] names every attribute that a payload could imply, so its attributes are those that were
/// checked. Entries of earlier versions may lack some: those versions filled them in here, after the check, and their nodes
/// route such an entry by them. This version routes it in the same way, so that all nodes of a rolling upgrade agree and an
/// old log keeps its meaning. SECURITY.md describes the consequence for old entries.
pub(crate) fn read_stored(text: &str) -> Result<Event, ReadError> {
    read_event(text).map(Complete::into_event)
}

/// Reads one event object that was published before, with the attributes that it names and no others.
pub(crate) fn read_as_it_stands(text: &str) -> Result<Event, ReadError> {
    let others = Others::PassedOver;
    let build = |builder: EventBuilder, _: Option<&str>| builder.build();
    match fast_path::read(text, others, build) {
        Some(read) => read.map_err(ReadError::Event),
        None => read_slowly(text, others, build),
    }
    .map(|(event, _)| event)
}

/// Reads any event object, and builds it by `build`, which also gets AutoSDLC's `key`. Conditions are read from
/// publishers only.
fn read_slowly<T>(
    text: &str,
    others: Others,
    build: impl FnOnce(EventBuilder, Option<&str>) -> Result<T, EventError>,
) -> Result<(T, PublishTerms), ReadError> {
    if !text.trim_ascii_start().starts_with('{') {
        return Err(ReadError::NotAnObject);
    }
    let (input, unknown) = read_fields(text)?;
    if let (Others::Refused, Some(unknown)) = (others, unknown) {
        return Err(unknown);
    }
    let terms = match others {
        Others::Refused => input.terms.read().map_err(|error| fault(&error))?,
        Others::PassedOver => PublishTerms::default(),
    };
    let event_type = input.event_type.as_deref().unwrap_or_default();
    let mut builder = Event::builder(event_type);
    if let Some(source) = &input.source {
        builder = builder.source(source);
    }
    if let Some(stream) = &input.stream_id {
        builder = builder.stream(stream);
    }
    if let Some(execution) = &input.execution_id {
        builder = builder.execution(execution);
    }
    if let Some(correlation) = &input.correlation_id {
        builder = builder.correlation(correlation);
    }
    if let Some(EntityIn { kind, id }) = &input.entity {
        builder = builder.entity(kind.as_deref().unwrap_or_default(), id.as_deref().unwrap_or_default());
    }
    if let Some(channel) = &input.channel {
        builder = builder.channel(channel);
    }
    if let Some(parent) = &input.traceparent {
        builder = builder.trace(parent, input.tracestate.as_deref());
    }
    if let Some(timestamp) = input.timestamp {
        builder = builder.timestamp(read_timestamp(timestamp).ok_or(ReadError::Timestamp)?);
    }
    if let Some(payload) = input.payload {
        builder = builder.json(payload);
    }
    Ok((build(builder, input.key).map_err(ReadError::Event)?, terms))
}

/// Reads the fields of an event object in one pass, and its first unknown key as a fault.
fn read_fields(text: &str) -> Result<(EventIn<'_>, Option<ReadError>), ReadError> {
    let mut input = EventIn::default();
    let (mut seen, mut unknown, mut unknown_in_entity) = (0u32, None, None);
    for member in json::members(text) {
        let (key, value) = member.map_err(|error| fault(&error))?;
        let key = plain_key(key).ok_or_else(|| fault(&"a key is no text"))?;
        let Some(place) = KEYS.iter().position(|known| *known == key) else {
            unknown = unknown.or_else(|| Some(key).filter(|key| !UNREAD.contains(&&**key)));
            continue;
        };
        // The short and the long name of a field mean the same.
        let place = match KEYS[place] {
            "type" => place + 1,
            "ts" | "data" => place - 1,
            _ => place,
        };
        if seen & (1 << place) != 0 {
            return Err(fault(&format_args!("duplicate field `{key}`")));
        }
        seen |= 1 << place;
        let value = if value == "null" { None } else { Some(value) };
        match &*key {
            "type" | "event_type" => input.event_type = text_of(&key, value)?,
            "source" => input.source = text_of(&key, value)?,
            "timestamp" | "ts" => input.timestamp = value,
            "correlation_id" => input.correlation_id = text_of(&key, value)?,
            "stream_id" => input.stream_id = text_of(&key, value)?,
            "execution_id" => input.execution_id = text_of(&key, value)?,
            "channel" => input.channel = text_of(&key, value)?,
            "traceparent" => input.traceparent = text_of(&key, value)?,
            "tracestate" => input.tracestate = text_of(&key, value)?,
            "entity" => {
                if let Some(value) = value {
                    let (entity, unknown) = read_entity(value)?;
                    input.entity = Some(entity);
                    unknown_in_entity = unknown;
                }
            }
            "payload" | "data" => input.payload = value,
            "dedupe_id" => input.terms.dedupe_id = value,
            "reopen" => input.terms.reopen = value,
            "expected_last_id" => input.terms.expected_last_id = value,
            _ => input.key = value,
        }
    }
    let unknown = unknown.map(|key| unknown_key(&key, &KEYS)).or(unknown_in_entity);
    Ok((input, unknown))
}

/// Reads an entity, and its first unknown key as a fault.
fn read_entity(text: &str) -> Result<(EntityIn<'_>, Option<ReadError>), ReadError> {
    let mut entity = EntityIn::default();
    let (mut seen, mut unknown) = (0u32, None);
    for member in json::members(text) {
        let (key, value) = member.map_err(|error| fault(&format_args!("entity: {error}")))?;
        let key = plain_key(key).ok_or_else(|| fault(&"a key is no text"))?;
        let Some(place) = ["kind", "id"].iter().position(|known| *known == key) else {
            unknown = unknown.or(Some(key));
            continue;
        };
        if seen & (1 << place) != 0 {
            return Err(fault(&format_args!("duplicate field `{key}`")));
        }
        seen |= 1 << place;
        let value = text_of(&key, Some(value).filter(|value| *value != "null"))?;
        *[&mut entity.kind, &mut entity.id][place] = value;
    }
    let unknown = unknown.map(|key| unknown_key(&format!("entity.{key}"), &["entity.kind", "entity.id"]));
    Ok((entity, unknown))
}

/// Reads the text of a field.
fn text_of<'a>(key: &str, value: Option<&'a str>) -> Result<Option<Cow<'a, str>>, ReadError> {
    let Some(value) = value else { return Ok(None) };
    plain_key(value).map(Some).ok_or_else(|| {
        let error = serde_json::from_str::<String>(value).err();
        let error = error.map_or_else(String::new, |error| error.to_string());
        // The place is one in the field's value.
        let error = error.rsplit_once(" at line ").map_or(&*error, |(error, _)| error);
        fault(&format_args!("{key}: {error}"))
    })
}

fn fault(error: &dyn fmt::Display) -> ReadError {
    ReadError::Json(serde::de::Error::custom(error))
}

/// Returns the fault of an unknown key.
fn unknown_key(key: &str, known: &[&str]) -> ReadError {
    let hint = match key {
        "specversion" => "; a CloudEvent is sent as application/cloudevents+json",
        _ => "",
    };
    ReadError::UnknownKey(format!("{}{hint}", UnknownKey { key, known }))
}

/// Returns the event of this type with an object as its payload.
pub(crate) fn read_event_as(event_type: &str, payload: &str) -> Result<Complete, ReadError> {
    if !payload.trim_ascii_start().starts_with('{') {
        return Err(ReadError::NotAnObject);
    }
    let mut text = String::with_capacity(payload.len() + event_type.len() + 32);
    text.push_str(r#"{"type":"#);
    json::write_string(event_type, &mut text);
    text.push_str(r#","payload":"#);
    text.push_str(payload);
    text.push('}');
    read_event(&text)
}

/// Appends the event as the contract's JSON object. Absent attributes are left out, except `correlation_id` and `payload`.
pub(crate) fn write_event(event: &Event, out: &mut String) {
    write_event_at(event, event.timestamp().text().as_str(), out);
}

/// Appends the event as [`write_event`] does, with the text of its time from the caller.
pub(crate) fn write_event_at(event: &Event, time: &str, out: &mut String) {
    write_before_time(event, out);
    out.push_str(time);
    write_after_time(event, out);
}

/// Appends the object up to the text of its time.
pub(super) fn write_before_time(event: &Event, out: &mut String) {
    write_head(event, out);
    write_attribute(r#","source":"#, event.source(), out);
    out.push_str(r#","timestamp":""#);
}

/// Appends the object from the end of its time's text on.
pub(super) fn write_after_time(event: &Event, out: &mut String) {
    out.push_str(r#"","correlation_id":"#);
    match event.correlation() {
        Some(correlation) => json::write_string(correlation, out),
        None => out.push_str("null"),
    }
    write_rest(event, out);
}

/// Appends the event as an engine's log keeps it: as [`write_event`], plus every attribute that [`read_stored`] could
/// otherwise take from the payload. An empty value stands for none.
///
/// Nodes of earlier versions infer attributes that an entry does not name, so naming them all makes every version read the
/// same event.
pub(crate) fn write_stored(event: &Event, out: &mut String) {
    write_event(event, out);
    let Implied { entity, channel, stream, execution } = implied_by(event.event_type());
    let names = [
        (entity && event.entity().is_none(), r#""entity":{},"#),
        (channel && event.channel().is_none(), r#""channel":"","#),
        (stream && event.stream().is_none(), r#""stream_id":"","#),
        (execution && event.execution().is_none(), r#""execution_id":"","#),
    ];
    for (is_unnamed, name) in names {
        if is_unnamed {
            // After the opening bracket. Few events are moved for this.
            out.insert_str(1, name);
        }
    }
}

/// Appends the object without redundant fields: as [`write_event`], but without an absent `correlation_id`, and with a time
/// only if the publisher gave one.
pub(crate) fn write_lean(event: &Event, out: &mut String) {
    write_lean_before_time(event, out);
    if has_lean_time(event) {
        out.push_str(event.timestamp().text().as_str());
    }
    write_lean_after_time(event, out);
}

/// Returns whether the object without redundant fields has a time.
pub(super) fn has_lean_time(event: &Event) -> bool {
    event.timestamp() != event.made()
}

/// Appends the object without redundant fields up to the text of its time, or to the place after the source.
pub(super) fn write_lean_before_time(event: &Event, out: &mut String) {
    write_head(event, out);
    write_attribute(r#","source":"#, event.source(), out);
    if has_lean_time(event) {
        out.push_str(r#","timestamp":""#);
    }
}

/// Appends the object without redundant fields from that place on.
pub(super) fn write_lean_after_time(event: &Event, out: &mut String) {
    if has_lean_time(event) {
        out.push('"');
    }
    write_attribute(r#","correlation_id":"#, event.correlation(), out);
    write_rest(event, out);
}

/// Appends `{"event_id":…,"event_type":…`.
fn write_head(event: &Event, out: &mut String) {
    out.push('{');
    if let Some(id) = event.id() {
        out.push_str(r#""event_id":""#);
        // Writing to a String does not fail.
        let _ = id.write(out);
        out.push_str(r#"","#);
    }
    out.push_str(r#""event_type":"#);
    json::write_string(event.event_type(), out);
}

/// Appends the fields after time and correlation, and the end.
fn write_rest(event: &Event, out: &mut String) {
    write_attribute(r#","stream_id":"#, event.stream(), out);
    write_attribute(r#","execution_id":"#, event.execution(), out);
    if let Some((kind, id)) = event.entity() {
        out.push_str(r#","entity":{"kind":"#);
        json::write_string(kind, out);
        out.push_str(r#","id":"#);
        json::write_string(id, out);
        out.push('}');
    }
    write_attribute(r#","channel":"#, event.channel(), out);
    write_attribute(r#","traceparent":"#, event.trace_parent(), out);
    write_attribute(r#","tracestate":"#, event.trace_state(), out);
    out.push_str(r#","payload":"#);
    out.push_str(event.payload());
    out.push('}');
}

fn write_attribute(key: &str, value: Option<&str>, out: &mut String) {
    if let Some(value) = value {
        out.push_str(key);
        json::write_string(value, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    fn written(event: &Event) -> String {
        let mut out = String::new();
        write_event(event, &mut out);
        out
    }

    #[test]
    fn the_contracts_event_goes_in_and_comes_out_the_same() {
        let text = r#"{"event_id":"a-1","event_type":"task.progress","source":"core","timestamp":"2026-01-27T10:21:33.123456Z","correlation_id":"run-42","stream_id":"webhook","execution_id":"ex-1","entity":{"kind":"task","id":"task_abc123"},"channel":"dev-team","payload":{"progress":42}}"#;
        let event = read_event(text).expect("valid");
        event.set_id(EventId { epoch: 10, shard: 0, sequence: 1 });
        assert_eq!(written(&event), text);
    }

    /// Returns the log's entry of an event, which has no place yet.
    fn stored(event: &Event) -> String {
        let mut out = String::new();
        write_stored(event, &mut out);
        out
    }

    #[test]
    fn events_of_the_log_are_routed_as_they_were_checked() {
        let channel_of = |text: &str| read_stored(text).expect("an event").channel().map(str::to_owned);
        // An attribute that the publisher set to none, one that an embedder did not set, and one that is inferred.
        let named = read_event(r#"{"type":"agent_message","channel":"","payload":{"circle_name":"b"}}"#);
        assert_eq!(channel_of(&stored(&named.expect("valid"))), None);
        let given = Event::builder("agent_message").json(r#"{"circle_name":"b"}"#).build().expect("valid");
        assert_eq!(channel_of(&stored(&given)), None);
        let filled = read_event(r#"{"type":"agent_message","payload":{"circle_name":"b"}}"#).expect("valid");
        assert_eq!(channel_of(&stored(&filled)).as_deref(), Some("b"));
        // An entry of a version that inferred attributes while reading.
        assert_eq!(channel_of(&written(&given)).as_deref(), Some("b"));
    }

    #[test]
    fn the_stored_form_of_every_type_names_all_implied_attributes() {
        let payload = r#"{"agentId":"b","workflowId":"b","deploymentId":"b","alertId":"b","circle_name":"b","workspace_id":"b","stream_id":"b","execution_id":"b"}"#;
        let types = crate::catalogue::autosdlc::TYPES
            .iter()
            .map(|known| known.name)
            .chain(crate::catalogue::gathering::CIRCLE)
            .chain(crate::catalogue::gathering::WORKSPACE)
            .chain(crate::catalogue::hive::TYPES)
            .chain(["agent.status", "state_changed", "agent.message", "task.done"]);
        for event_type in types {
            let given = Event::builder(event_type).json(payload).build().expect("valid");
            let text = stored(&given);
            for read in [
                read_stored(&text),
                read_any(&text, Others::PassedOver).map(Complete::into_event),
                read_as_it_stands(&text),
            ] {
                assert_eq!(written(&read.expect("an event")), written(&given), "{text}");
            }
        }
    }

    #[test]
    fn attributes_of_a_predecessors_event_are_taken_unchanged() {
        for text in [
            r#"{"type":"agent_message","payload":{"circle_name":"b"}}"#,
            r#"{"type":"agent_message","key":"agent:b:status","ts":"2026-01-27T10:21:33Z","payload":{"circle_name":"b"}}"#,
            r#"{"type":"agent_status","key":"agent:b:status","payload":{}}"#,
        ] {
            let event = read_as_it_stands(text).expect("an event");
            assert_eq!((event.channel(), event.entity(), event.stream()), (None, None, None), "{text}");
        }
    }

    #[test]
    fn a_lean_event_has_only_its_own_attributes() {
        let lean = |text: &str| {
            let mut out = String::new();
            write_lean(&read_event(text).expect("valid"), &mut out);
            out
        };
        assert_eq!(lean(r#"{"type":"x","data":1}"#), r#"{"event_type":"x","payload":1}"#);
        let whole = r#"{"event_type":"x","source":"s","timestamp":"1970-01-01T00:00:01.500000Z","correlation_id":"c","stream_id":"st","entity":{"kind":"k","id":"i"},"payload":{}}"#;
        assert_eq!(lean(whole), whole);
    }

    #[test]
    fn short_names_stand_for_the_long_ones_and_the_type_is_enough() {
        let event =
            read_event(r#" {"type":"x","ts":1500,"data":[ 1 ],"extra":{"deep":[]}} "#).expect("valid");
        assert_eq!(
            written(&event),
            r#"{"event_type":"x","timestamp":"1970-01-01T00:00:01.500000Z","correlation_id":null,"payload":[1]}"#
        );
        let event = read_event(r#"{"type":"x","entity":null,"payload":null,"source":null}"#).expect("valid");
        assert_eq!((event.payload(), event.entity()), ("{}", None));
    }

    #[test]
    fn a_publishers_typo_is_an_error_that_names_the_intended_key() {
        for (text, want) in [
            (
                r#"{"type":"x","entitty":{"kind":"k","id":"i"}}"#,
                "unknown key `entitty`: did you mean `entity`?",
            ),
            (r#"{"type":"x","Source":"s"}"#, "unknown key `Source`: did you mean `source`?"),
            (r#"{"type":"x","streamId":"s"}"#, "unknown key `streamId`: did you mean `stream_id`?"),
            (r#"{"type":"x","paylod":{}}"#, "unknown key `paylod`: did you mean `payload`?"),
            (
                r#"{"type":"x","entity":{"kind":"k","idd":"i"}}"#,
                "unknown key `entity.idd`: did you mean `entity.id`?",
            ),
            (r#"{"typ":"x"}"#, "unknown key `typ`: did you mean `type`?"),
            (
                r#"{"type":"x","cont\u0065nt":1}"#,
                "unknown key `content`: the known keys are type, event_type, ",
            ),
        ] {
            let error = read_published(text).expect_err(text).to_string();
            assert!(error.starts_with(want), "{text}: {error}");
            assert!(text.contains("typ\"") || read_event(text).is_ok(), "a log may have it: {text}");
        }
        let error =
            read_published(r#"{"type":"x","specversion":"1.0"}"#).expect_err("a CloudEvent").to_string();
        assert!(error.contains("application/cloudevents+json"), "{error}");
    }

    #[test]
    fn a_received_event_is_published_again_as_it_is() {
        let text = r#"{"type":"task.done","source":"s\u00e9","ts":1500,"correlation_id":"c","entity":{"kind":"k","id":"i"},"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","tracestate":"a=b","payload":{"n":1}}"#;
        let event = read_event(text).expect("valid").into_event();
        event.set_id(EventId { epoch: 10, shard: 0, sequence: 1 });
        let mut lean = String::new();
        write_lean(&event, &mut lean);
        for whole in [written(&event), lean] {
            let marked = whole.replacen('{', r#"{"position":"a~1.2","merged":7,"#, 1);
            for text in [whole, marked] {
                let again = read_published(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
                assert_eq!(again.payload(), event.payload());
                assert_eq!(again.timestamp(), event.timestamp(), "{text}");
            }
        }
    }

    #[test]
    fn faults_are_named() {
        for (text, want) in [
            ("{}", "event has no type"),
            ("[]", "not an event"),
            ("{", "not an event: invalid JSON at byte 1"),
            (r#"{"type":5}"#, "not an event: type: invalid type: integer `5`, expected a string"),
            (r#"{"type":"x","ts":"yesterday"}"#, "timestamp is neither"),
            (r#"{"type":"x\n"}"#, "type holds a control character"),
        ] {
            let error = read_event(text).expect_err(text).to_string();
            assert!(error.starts_with(want), "{text}: {error}");
        }
        let deep = format!(r#"{{"type":"x","payload":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert!(read_event(&deep).expect_err("deep").to_string().contains("nested deeper than 128"));
    }
}

//! Builds events and checks their parts.
//!
//! Always: a built event can be framed, logged and matched without another check.

use std::fmt;

use super::attribute::Attribute;
use super::body::{EventBody, PARTS, PAYLOAD, TRACE_PARENT, TRACE_STATE, TextSpan};
use super::handle::Event;
use super::json::{self, JsonError};
use super::time::Timestamp;
use super::{pool, trace};
use crate::sync::Arc;

/// Maximum length of an attribute's value, in bytes.
pub const ATTRIBUTE_BYTES_MAX: usize = 1024;

/// Reason why an event could not be built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventError {
    /// The type is missing or empty.
    NoType,
    /// An attribute is longer than [`ATTRIBUTE_BYTES_MAX`].
    AttributeTooLong(Attribute, usize),
    /// An attribute holds a control character.
    ControlCharacter(Attribute),
    /// The payload is not JSON.
    Payload(JsonError),
    /// The payload's type could not be written as JSON, for this reason.
    Unserializable(String),
    /// The event as a whole is over 4 GiB.
    TooLarge,
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoType => f.write_str("event has no type"),
            Self::AttributeTooLong(attribute, len) => {
                write!(f, "{attribute} of {len} bytes is over the limit of {ATTRIBUTE_BYTES_MAX}")
            }
            Self::ControlCharacter(attribute) => write!(f, "{attribute} holds a control character"),
            Self::Payload(error) => write!(f, "payload: {error}"),
            Self::Unserializable(reason) => write!(f, "payload cannot be written as JSON: {reason}"),
            Self::TooLarge => f.write_str("event is over 4 GiB"),
        }
    }
}

impl std::error::Error for EventError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Payload(error) => Some(error),
            _ => None,
        }
    }
}

/// Returns whether an event's attribute may have this value.
#[cfg(feature = "server")]
pub(crate) fn may_be_attribute(value: &str) -> bool {
    value.len() <= ATTRIBUTE_BYTES_MAX && !has_control(value)
}

/// Returns whether a value holds a control character. Most values are ASCII, which one pass shows.
fn has_control(value: &str) -> bool {
    let is_plain = |byte: u8| (b' '..0x7f).contains(&byte);
    !value.bytes().fold(true, |plain, byte| plain & is_plain(byte)) && value.chars().any(char::is_control)
}

/// Writes to a string, for serde_json, which writes whole characters.
#[cfg(feature = "serde")]
struct TextWriter<'a>(&'a mut String);

#[cfg(feature = "serde")]
impl std::io::Write for TextWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.push_str(str::from_utf8(bytes).map_err(std::io::Error::other)?);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Builder of an event. It reports the first error in [`build`](Self::build).
///
/// An empty value removes the attribute. Setting a part again replaces it.
#[must_use = "`build` makes the event"]
pub struct EventBuilder {
    pooled: Option<Arc<EventBody>>,
    text: String,
    spans: [TextSpan; PARTS],
    /// Bits of the attributes that were set, even to the empty value.
    named: u16,
    timestamp: Option<Timestamp>,
    error: Option<EventError>,
}

impl fmt::Debug for EventBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBuilder")
            .field("text", &self.text)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl Event {
    /// Returns a builder of an event of this type.
    ///
    /// May allocate, unless the thread's pool has a body to reuse.
    pub fn builder(event_type: &str) -> EventBuilder {
        EventBuilder::new(event_type)
    }
}

impl EventBuilder {
    fn new(event_type: &str) -> Self {
        Self::with_room(event_type.len() + 96).attribute(Attribute::Type, event_type)
    }

    /// Returns a builder with room for parts of this many bytes in all.
    pub(crate) fn with_room(bytes: usize) -> Self {
        let (pooled, mut text) = pool::take_body();
        text.reserve(bytes);
        Self { pooled, text, spans: [TextSpan::default(); PARTS], named: 0, timestamp: None, error: None }
    }

    /// Sets the payload to the JSON value at offset `at` of `text`. Returns the offset after the value, or `None` if no
    /// valid value is there.
    #[cfg(feature = "server")]
    pub(crate) fn json_at(&mut self, text: &str, at: usize) -> Option<usize> {
        let start = self.text.len();
        let end = json::scan(text, at, |part| self.text.push_str(part)).ok()?;
        self.put(PAYLOAD, start);
        Some(end)
    }

    fn fail(&mut self, error: EventError) {
        self.error.get_or_insert(error);
    }

    fn put(&mut self, part: usize, start: usize) {
        let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(self.text.len())) else {
            return self.fail(EventError::TooLarge);
        };
        self.spans[part] = TextSpan { start, end };
    }

    /// Sets an attribute, to at most [`ATTRIBUTE_BYTES_MAX`] bytes without control characters.
    pub fn attribute(mut self, attribute: Attribute, value: &str) -> Self {
        self.set(attribute, value);
        self
    }

    /// Sets an attribute as [`attribute`](Self::attribute) does, in place.
    pub(crate) fn set(&mut self, attribute: Attribute, value: &str) {
        self.named |= 1 << attribute.index();
        if value.len() > ATTRIBUTE_BYTES_MAX {
            self.fail(EventError::AttributeTooLong(attribute, value.len()));
        } else if has_control(value) {
            self.fail(EventError::ControlCharacter(attribute));
        } else {
            let start = self.text.len();
            self.text.push_str(value);
            self.put(attribute.index(), start);
        }
    }

    /// Returns whether this attribute was set, even to the empty value, by which a publisher states that there is none.
    #[cfg(feature = "server")]
    pub(crate) fn names(&self, attribute: Attribute) -> bool {
        self.named & (1 << attribute.index()) != 0
    }

    /// Sets the stream, unless it was set.
    #[cfg(feature = "server")]
    pub(crate) fn or_stream(self, stream_id: &str) -> Self {
        if self.names(Attribute::Stream) { self } else { self.stream(stream_id) }
    }

    /// Returns the type as set so far, and the payload.
    #[cfg(feature = "server")]
    pub(crate) fn type_and_payload(&self) -> (&str, &str) {
        let part = |part: usize| {
            let TextSpan { start, end } = self.spans[part];
            &self.text[start as usize..end as usize]
        };
        (part(Attribute::Type.index()), part(PAYLOAD))
    }

    /// Sets the component that publishes the event.
    pub fn source(self, source: &str) -> Self {
        self.attribute(Attribute::Source, source)
    }

    /// Sets the stream that the event belongs to. It is also the default ordering key.
    pub fn stream(self, stream_id: &str) -> Self {
        self.attribute(Attribute::Stream, stream_id)
    }

    /// Sets the execution that the event belongs to.
    pub fn execution(self, execution_id: &str) -> Self {
        self.attribute(Attribute::Execution, execution_id)
    }

    /// Sets the key that related events share.
    pub fn correlation(self, correlation_id: &str) -> Self {
        self.attribute(Attribute::Correlation, correlation_id)
    }

    /// Sets the entity that the event is about: its kind, and its id among those.
    pub fn entity(self, kind: &str, id: &str) -> Self {
        self.attribute(Attribute::EntityKind, kind).attribute(Attribute::EntityId, id)
    }

    /// Sets the channel that the event is sent in.
    pub fn channel(self, channel: &str) -> Self {
        self.attribute(Attribute::Channel, channel)
    }

    /// Sets the time when the event happened. Default: the time of [`build`](Self::build).
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Sets the W3C trace context: `traceparent`, and the `tracestate` that goes with it. Invalid values are left out,
    /// as the recommendation requires.
    pub fn trace(mut self, parent: &str, state: Option<&str>) -> Self {
        if trace::is_parent(parent) {
            let state = state.filter(|state| trace::is_state(state)).unwrap_or_default();
            for (part, value) in [(TRACE_PARENT, parent), (TRACE_STATE, state)] {
                let start = self.text.len();
                self.text.push_str(value);
                self.put(part, start);
            }
        }
        self
    }

    /// Sets the payload: JSON text of any value, nested at most 128 deep. White space between its parts is dropped.
    /// Default: `{}`.
    pub fn json(mut self, payload: impl AsRef<str>) -> Self {
        let start = self.text.len();
        match json::minify(payload.as_ref(), &mut self.text) {
            Ok(()) => self.put(PAYLOAD, start),
            Err(error) => {
                self.text.truncate(start);
                self.fail(EventError::Payload(error));
            }
        }
        self
    }

    /// Sets the payload to a value, written as JSON by serde. Allocates nothing if the thread's pool has a body with room.
    ///
    /// [`Event::parse`] reads it.
    #[cfg(feature = "serde")]
    pub fn payload(mut self, value: &(impl serde::Serialize + ?Sized)) -> Self {
        let start = self.text.len();
        if let Err(error) = serde_json::to_writer(TextWriter(&mut self.text), value) {
            self.text.truncate(start);
            self.fail(EventError::Unserializable(error.to_string()));
            return self;
        }
        let written = &self.text[start..];
        let mut kept = 0;
        // serde_json writes compact text, but a `RawValue` inside may have white space or be nested too deep.
        if json::scan(written, 0, |part| kept += part.len()).is_ok() && kept == written.len() {
            self.put(PAYLOAD, start);
            return self;
        }
        let spaced = self.text.split_off(start);
        self.json(spaced)
    }

    /// Builds the event. Allocates its body, unless the thread's pool has one to reuse. Does not block.
    ///
    /// # Errors
    ///
    /// The first [`EventError`] in the parts.
    pub fn build(mut self) -> Result<Event, EventError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.spans[Attribute::Type.index()].is_empty() {
            return Err(EventError::NoType);
        }
        if self.spans[PAYLOAD].is_empty() {
            let start = self.text.len();
            self.text.push_str("{}");
            self.put(PAYLOAD, start);
        }
        let body = EventBody::new(self.text, self.spans, self.timestamp);
        Ok(match self.pooled {
            Some(pooled) => Event::from_pooled(pooled, body),
            None => Event::from_body(body),
        })
    }
}

//! Makes events and checks what they are made of. Imports its siblings only.
//! Always: what `build` lets through can be framed, logged and matched without another look.

use std::fmt;

use super::attribute::Attribute;
use super::body::{EventBody, PARTS, PAYLOAD, TRACE_PARENT, TRACE_STATE, TextSpan};
use super::handle::Event;
use super::json::{self, JsonError};
use super::time::Timestamp;
use super::{pool, trace};
use crate::sync::Arc;

/// The longest value of an attribute, in bytes.
pub const ATTRIBUTE_BYTES_MAX: usize = 1024;

/// An event could not be built.
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

/// Whether there is a control character: most values are ASCII, and seen to be in one pass.
fn has_control(value: &str) -> bool {
    let is_plain = |byte: u8| (b' '..0x7f).contains(&byte);
    !value.bytes().fold(true, |plain, byte| plain & is_plain(byte)) && value.chars().any(char::is_control)
}

/// Collects an event's parts; errors wait until [`build`](Self::build).
///
/// An empty value is the same as none. Setting a part again replaces it.
pub struct EventBuilder {
    pooled: Option<Arc<EventBody>>,
    text: String,
    spans: [TextSpan; PARTS],
    /// A bit for each attribute that was set, also to the empty value.
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
    /// Starts an event of this type.
    pub fn builder(event_type: &str) -> EventBuilder {
        EventBuilder::new(event_type)
    }
}

impl EventBuilder {
    fn new(event_type: &str) -> Self {
        Self::with_room(event_type.len() + 96).attribute(Attribute::Type, event_type)
    }

    /// One whose parts have so many bytes at the most.
    pub(crate) fn with_room(bytes: usize) -> Self {
        let taken = pool::take(|body| {
            let mut text = std::mem::take(&mut body.text);
            text.clear();
            body.forget_frames();
            text
        });
        let (pooled, mut text) =
            taken.map_or_else(|| (None, String::new()), |(body, text)| (Some(body), text));
        text.reserve(bytes);
        Self { pooled, text, spans: [TextSpan::default(); PARTS], named: 0, timestamp: None, error: None }
    }

    /// Sets the payload: the value that stands at this place in a text. Answers the place behind it; `None` where there is
    /// none.
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

    /// Sets any one attribute. At most [`ATTRIBUTE_BYTES_MAX`] bytes, no control characters.
    pub fn attribute(mut self, attribute: Attribute, value: &str) -> Self {
        self.set(attribute, value);
        self
    }

    /// The same in place.
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

    /// Whether this attribute was set, also to the empty value: then its publisher says that there is none.
    #[cfg(feature = "server")]
    pub(crate) fn names(&self, attribute: Attribute) -> bool {
        self.named & (1 << attribute.index()) != 0
    }

    /// The type as set so far, and the payload.
    #[cfg(feature = "server")]
    pub(crate) fn type_and_payload(&self) -> (&str, &str) {
        let part = |part: usize| {
            let TextSpan { start, end } = self.spans[part];
            &self.text[start as usize..end as usize]
        };
        (part(Attribute::Type.index()), part(PAYLOAD))
    }

    /// Sets the component that publishes it.
    pub fn source(self, source: &str) -> Self {
        self.attribute(Attribute::Source, source)
    }

    /// Sets the stream it belongs to, which is also the default ordering key.
    pub fn stream(self, stream_id: &str) -> Self {
        self.attribute(Attribute::Stream, stream_id)
    }

    /// Sets the execution it belongs to.
    pub fn execution(self, execution_id: &str) -> Self {
        self.attribute(Attribute::Execution, execution_id)
    }

    /// Sets what ties it to other events.
    pub fn correlation(self, correlation_id: &str) -> Self {
        self.attribute(Attribute::Correlation, correlation_id)
    }

    /// Sets the thing it is about: its kind and which one.
    pub fn entity(self, kind: &str, id: &str) -> Self {
        self.attribute(Attribute::EntityKind, kind).attribute(Attribute::EntityId, id)
    }

    /// Sets the channel it is sent in.
    pub fn channel(self, channel: &str) -> Self {
        self.attribute(Attribute::Channel, channel)
    }

    /// Sets when it happened; otherwise the time of `build`.
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Sets the W3C's trace context: `traceparent`, and the `tracestate` that goes with it. What is none is left out, as
    /// the recommendation has it.
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

    /// Sets the payload: JSON text (any value, nested at most 128 deep), kept without the white space between
    /// its parts. `{}` if never set.
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

    /// Makes the event, or says what the first fault in its parts was. Allocates the event's one shared body.
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

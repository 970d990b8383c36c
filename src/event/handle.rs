//! The public event type: a counted handle of an [`EventBody`].

use std::fmt;

#[cfg(feature = "server")]
use bytes::Bytes;

use super::attribute::Attribute;
use super::body::{BODY_BYTES, EventBody, PARTS, PAYLOAD, TRACE_PARENT, TRACE_STATE, TextSpan, UNPUBLISHED};
use super::pool;
use super::position::EventId;
#[cfg(feature = "server")]
use super::position::Position;
use super::signature::Signature;
use super::time::Timestamp;
#[cfg(feature = "server")]
use super::trace;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

/// Shared handle of an event: a type, routing attributes, a time and a JSON payload.
///
/// Cloning increments a count. [`Event::builder`] builds events; publishing one assigns its [`id`](Self::id).
///
/// ```
/// # use fanwire::Event;
/// let event = Event::builder("task.progress").source("core").entity("task", "t-1").json(r#"{"progress": 42}"#).build()?;
/// assert_eq!(event.event_type(), "task.progress");
/// assert_eq!(event.payload(), r#"{"progress":42}"#);
/// # Ok::<(), fanwire::event::EventError>(())
/// ```
#[derive(Clone)]
pub struct Event(pub(super) Arc<EventBody>);

impl Event {
    pub(super) fn from_body(body: EventBody) -> Self {
        Self(Arc::new(body))
    }

    /// Returns an event in a body from the pool, which no other handle uses.
    pub(super) fn from_pooled(mut pooled: Arc<EventBody>, body: EventBody) -> Self {
        match Arc::get_mut(&mut pooled) {
            Some(place) => {
                place.overwrite(body);
                Self(pooled)
            }
            // Not reached: the pool returns bodies without other handles only.
            None => Self::from_body(body),
        }
    }

    /// Returns whether the pool may keep the body once no handle is left.
    pub(crate) fn is_reusable(&self) -> bool {
        pool::is_worth_keeping(&self.0)
    }

    /// Returns the memory of the body in bytes: attributes, payload, and the body itself. Frames are not included,
    /// because they are made later.
    #[inline]
    pub(crate) fn weight(&self) -> u64 {
        (BODY_BYTES + self.0.text.capacity()) as u64
    }

    /// Returns the size of the attributes, the payload and the trace context, in bytes.
    #[cfg(feature = "server")]
    pub(crate) fn text_bytes(&self) -> usize {
        self.0.spans.iter().map(|span| (span.end - span.start) as usize).sum()
    }

    /// Drops these handles. Their bodies may be reused by later events of this thread.
    pub(crate) fn recycle_all(handles: impl Iterator<Item = Self>) {
        pool::keep(handles.map(|handle| handle.0));
    }

    /// Drops this handle. If it is the last one, its body may be reused by a later event of this thread.
    #[cfg(feature = "server")]
    pub(crate) fn recycle(self) {
        if Arc::strong_count(&self.0) == 1 && self.is_reusable() {
            pool::keep(std::iter::once(self.0));
        }
    }

    /// Returns the counted pointer of this handle, for the ring.
    pub(crate) fn into_arc(self) -> Arc<EventBody> {
        self.0
    }

    /// Returns the handle of a counted pointer.
    pub(crate) fn from_arc(body: Arc<EventBody>) -> Self {
        Self(body)
    }

    /// Returns an attribute's value, or `None` if the event has none.
    #[must_use]
    pub fn attribute(&self, attribute: Attribute) -> Option<&str> {
        let value = self.part(attribute.index());
        (!value.is_empty()).then_some(value)
    }

    fn part(&self, part: usize) -> &str {
        let TextSpan { start, end } = self.0.spans[part];
        &self.0.text[start as usize..end as usize]
    }

    /// Returns the type, a dotted name. It is never empty.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.part(Attribute::Type.index())
    }

    /// Returns the component that published the event.
    #[must_use]
    pub fn source(&self) -> Option<&str> {
        self.attribute(Attribute::Source)
    }

    /// Returns the stream that the event belongs to.
    #[must_use]
    pub fn stream(&self) -> Option<&str> {
        self.attribute(Attribute::Stream)
    }

    /// Returns the execution that the event belongs to.
    #[must_use]
    pub fn execution(&self) -> Option<&str> {
        self.attribute(Attribute::Execution)
    }

    /// Returns the key that related events share.
    #[must_use]
    pub fn correlation(&self) -> Option<&str> {
        self.attribute(Attribute::Correlation)
    }

    /// Returns the entity that the event is about, as kind and id. One of them is empty if only the other was set.
    #[must_use]
    pub fn entity(&self) -> Option<(&str, &str)> {
        let (kind, id) = (self.part(Attribute::EntityKind.index()), self.part(Attribute::EntityId.index()));
        (!kind.is_empty() || !id.is_empty()).then_some((kind, id))
    }

    /// Returns the channel that the event is sent in.
    #[must_use]
    pub fn channel(&self) -> Option<&str> {
        self.attribute(Attribute::Channel)
    }

    /// Returns the time when the event happened.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.0.timestamp
    }

    /// Returns the payload: JSON text on one line, without white space between its parts.
    #[must_use]
    pub fn payload(&self) -> &str {
        self.part(PAYLOAD)
    }

    /// Reads the payload as a value of any type that serde can read. The value may borrow from the event.
    ///
    /// ```
    /// # use fanwire::Event;
    /// #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    /// struct Progress<'a> {
    ///     task: &'a str,
    ///     percent: u8,
    /// }
    ///
    /// let event = Event::builder("task.progress").payload(&Progress { task: "t-1", percent: 42 }).build()?;
    /// assert_eq!(event.payload(), r#"{"task":"t-1","percent":42}"#);
    /// assert_eq!(event.parse::<Progress>()?, Progress { task: "t-1", percent: 42 });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// serde_json's, with the place, if the payload is not of this type.
    #[cfg(feature = "serde")]
    pub fn parse<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.payload())
    }

    /// Returns the id that the bus gave the event, or `None` before it is published.
    #[must_use]
    pub fn id(&self) -> Option<EventId> {
        // Relaxed, here and in the rest of this file: the ring's publication edge orders the id's writes before the reads of
        // other threads; see `EventBody`.
        let shard = self.0.shard.load(Ordering::Relaxed);
        (shard != UNPUBLISHED).then(|| EventId {
            epoch: self.0.epoch.load(Ordering::Relaxed),
            shard: shard as u16,
            sequence: self.0.sequence.load(Ordering::Relaxed),
        })
    }

    /// Returns the hashes of the attributes.
    pub(crate) fn signature(&self) -> &Signature {
        &self.0.signature
    }

    /// Returns a handle that may be given an id: this one, or one with a new body if this handle is shared or was
    /// published before.
    pub(crate) fn into_publishable(self) -> Self {
        if Arc::strong_count(&self.0) == 1 && self.0.shard.load(Ordering::Relaxed) == UNPUBLISHED {
            return self;
        }
        self.copied(self.0.text.clone(), self.0.spans, Timestamp::now())
    }

    /// Returns whether another event has the attributes and the trace context of this one.
    #[cfg(feature = "server")]
    pub(crate) fn has_head_of(&self, other: &Self) -> bool {
        let (ours, theirs) = (&*self.0, &*other.0);
        let start = ours.spans[PAYLOAD].start;
        let heads = |spans: &[TextSpan; PARTS]| -> [TextSpan; PARTS] {
            let mut heads = *spans;
            heads[PAYLOAD].end = heads[PAYLOAD].start;
            heads
        };
        let ours_heads = heads(&ours.spans);
        if ours_heads == heads(&theirs.spans) && ours_heads.iter().all(|span| span.end <= start) {
            // The payload comes last, as a rule.
            return ours.text.as_bytes()[..start as usize] == theirs.text.as_bytes()[..start as usize];
        }
        (0..PARTS).filter(|part| *part != PAYLOAD).all(|part| self.part(part) == other.part(part))
    }

    fn copied(&self, text: String, spans: [TextSpan; PARTS], made: Timestamp) -> Self {
        Self::from_body(self.0.copied(text, spans, made))
    }

    /// Returns the `traceparent` of the event's W3C trace context.
    #[must_use]
    pub fn trace_parent(&self) -> Option<&str> {
        Some(self.part(TRACE_PARENT)).filter(|parent| !parent.is_empty())
    }

    /// Returns the `tracestate` of the event's W3C trace context.
    #[must_use]
    pub fn trace_state(&self) -> Option<&str> {
        Some(self.part(TRACE_STATE)).filter(|state| !state.is_empty())
    }

    /// Returns the event with this trace context, unless the event has one or `parent` is invalid.
    #[cfg(feature = "server")]
    pub(crate) fn traced(self, parent: &str, state: Option<&str>) -> Self {
        if self.trace_parent().is_some() || !trace::is_parent(parent) {
            return self;
        }
        let mut text = self.0.text.clone();
        let mut spans = self.0.spans;
        let state = state.filter(|state| trace::is_state(state)).unwrap_or_default();
        for (place, value) in [(TRACE_PARENT, parent), (TRACE_STATE, state)] {
            let start = text.len();
            text.push_str(value);
            // An event of 4 GiB has no room for the context, and goes without.
            let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(text.len())) else { return self };
            spans[place] = TextSpan { start, end };
        }
        self.copied(text, spans, self.0.made)
    }

    /// Returns the time when this process created the event.
    #[cfg(feature = "server")]
    pub(crate) fn made(&self) -> Timestamp {
        self.0.made
    }

    /// Sets the id. Only the publisher that holds the only handle may call this (see [`Self::into_publishable`]),
    /// before it publishes the event.
    pub(crate) fn set_id(&self, id: EventId) {
        self.0.epoch.store(id.epoch, Ordering::Relaxed);
        self.0.sequence.store(id.sequence, Ordering::Relaxed);
        self.0.shard.store(u32::from(id.shard), Ordering::Relaxed);
    }

    /// Returns the position of a client that has received everything up to this event; `None` if the id alone is
    /// enough.
    #[cfg(feature = "server")]
    pub(crate) fn position(&self) -> Option<&Position> {
        self.0.position.get().map(|position| &**position)
    }

    /// Sets the position of a client that has received everything up to this event. All loops compute the same.
    #[cfg(feature = "server")]
    pub(crate) fn set_position(&self, position: &Position) {
        self.0.position.get_or_init(|| Box::new(position.clone()));
    }

    /// Returns the frame of one encoding. The first caller encodes it; the callers of all loops share it.
    #[cfg(feature = "server")]
    pub(crate) fn frame(&self, encoding: usize, mut encode: impl FnMut(&Self) -> Bytes) -> &Bytes {
        self.0.frames.get(encoding, || encode(self))
    }

    /// Returns whether the event keeps the frame of one encoding.
    #[cfg(feature = "server")]
    pub(crate) fn has_frame(&self, encoding: usize) -> bool {
        self.0.frames.has(encoding)
    }

    /// Returns the frame of one encoding compressed by itself, shared likewise.
    #[cfg(feature = "server")]
    pub(crate) fn deflated(&self, encoding: usize, deflate: impl FnMut() -> Bytes) -> &Bytes {
        self.0.deflated.get_or_init(Box::default).get(encoding, deflate)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({}", self.event_type())?;
        if let Some(id) = self.id() {
            write!(f, " {id}")?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ATTRIBUTE_BYTES_MAX, EventError};

    #[cfg(feature = "serde")]
    #[test]
    fn a_payload_is_written_and_read_by_serde_and_checked_as_any() {
        use serde_json::value::RawValue;
        let written = |value: &dyn Fn(super::super::EventBuilder) -> super::super::EventBuilder| {
            value(Event::builder("a").source("s")).build().map(|event| event.payload().to_owned())
        };
        assert_eq!(
            written(&|event| event.payload(&(1, "\u{1}ä", None::<u8>))),
            Ok(r#"[1,"\u0001ä",null]"#.into())
        );
        // The last payload counts, and parts that were set before stay.
        assert_eq!(written(&|event| event.json("[1]").payload("x").channel("c")), Ok("\"x\"".into()));
        let spaced = RawValue::from_string("{ \"a\" :\n 1 }".into()).expect("JSON");
        assert_eq!(written(&|event| event.payload(&[&spaced])), Ok(r#"[{"a":1}]"#.into()));
        let deep = RawValue::from_string(["[".repeat(127), "]".repeat(127)].concat()).expect("JSON");
        assert!(written(&|event| event.payload(&[&deep])).is_ok());
        assert!(matches!(written(&|event| event.payload(&[[&deep]])), Err(EventError::Payload(_))));
        let no_key = std::collections::HashMap::from([((1, 2), 3)]);
        assert!(matches!(written(&|event| event.payload(&no_key)), Err(EventError::Unserializable(_))));
        let event = Event::builder("a").json(r#"{"n": 7}"#).build().expect("valid");
        assert!(event.parse::<Vec<u8>>().is_err());
        assert_eq!(event.parse::<std::collections::HashMap<&str, u8>>().expect("a map")["n"], 7);
    }

    #[test]
    fn parts_come_back_as_they_were_set() {
        let event = Event::builder("a.b")
            .source("s")
            .stream("st")
            .execution("ex")
            .correlation("c")
            .entity("k", "i")
            .channel("ch")
            .timestamp(Timestamp(5))
            .json(" [1, 2] ")
            .build()
            .expect("valid");
        let all = Attribute::ALL.map(|a| event.attribute(a).unwrap_or_default());
        assert_eq!(all, ["a.b", "s", "st", "ex", "c", "k", "i", "ch"]);
        assert_eq!((event.payload(), event.timestamp(), event.id()), ("[1,2]", Timestamp(5), None));
    }

    #[test]
    fn only_the_type_is_required() {
        let event = Event::builder("x").build().expect("valid");
        assert_eq!((event.payload(), event.source(), event.entity()), ("{}", None, None));
        assert_eq!(Event::builder("").build().err(), Some(EventError::NoType));
    }

    #[test]
    fn the_first_fault_is_reported() {
        let long = "x".repeat(ATTRIBUTE_BYTES_MAX + 1);
        let built = Event::builder("x").source(&long).channel("a\nb").json("{").build();
        assert_eq!(
            built.err(),
            Some(EventError::AttributeTooLong(Attribute::Source, ATTRIBUTE_BYTES_MAX + 1))
        );
        let built = Event::builder("x").channel("a\r\nb").build();
        assert_eq!(built.err(), Some(EventError::ControlCharacter(Attribute::Channel)));
    }

    #[test]
    fn a_shared_or_published_event_is_published_under_a_body_of_its_own() {
        let id = |sequence| EventId { epoch: 1, shard: 0, sequence };
        let first = Event::builder("x").build().expect("valid");
        let kept = first.clone();
        let published = first.into_publishable();
        published.set_id(id(1));
        assert_eq!((kept.id(), published.id()), (None, Some(id(1))));
        let again = published.clone().into_publishable();
        again.set_id(id(2));
        assert_eq!((published.id(), again.id()), (Some(id(1)), Some(id(2))));
    }

    #[test]
    fn equal_values_have_equal_hashes_and_absent_ones_zero() {
        let a = Event::builder("x").source("s").build().expect("valid");
        let b = Event::builder("x").source("s").json("[]").build().expect("valid");
        assert_eq!(a.signature(), b.signature());
        assert_eq!(a.signature().0[Attribute::Stream.index()], 0);
        assert_ne!(a.signature().0[Attribute::Type.index()], 0);
    }
}

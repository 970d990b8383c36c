//! An event as the rest of the program holds it: a counted handle of an [`EventBody`].

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

/// A shared handle of something that happened: a type, routing attributes, a time and a JSON payload.
///
/// Cloning costs one count. Made by [`Event::builder`]; its [`id`](Self::id) is given by the bus that
/// publishes it.
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

    /// A body that was nobody's, written anew.
    pub(super) fn from_pooled(mut pooled: Arc<EventBody>, body: EventBody) -> Self {
        match Arc::get_mut(&mut pooled) {
            Some(place) => {
                place.write_anew(body);
                Self(pooled)
            }
            // It was taken because it is nobody's; this is how anything else would end.
            None => Self::from_body(body),
        }
    }

    /// Whether the body may serve another event once nobody holds it.
    pub(crate) fn is_reusable(&self) -> bool {
        pool::is_wanted(&self.0)
    }

    /// The memory of its body: attributes, payload, and what a body has besides. The frames made of it are not in it:
    /// they come later.
    #[inline]
    pub(crate) fn weight(&self) -> u64 {
        (BODY_BYTES + self.0.text.capacity()) as u64
    }

    /// Lets go of these handles; their bodies may serve other events of this thread.
    pub(crate) fn recycle_all(handles: impl Iterator<Item = Self>) {
        pool::give(handles.map(|handle| handle.0));
    }

    /// The count in this handle, for the ring.
    pub(crate) fn into_arc(self) -> Arc<EventBody> {
        self.0
    }

    /// The handle of a count.
    pub(crate) fn from_arc(body: Arc<EventBody>) -> Self {
        Self(body)
    }

    /// One attribute's value; `None` where the event has none.
    pub fn attribute(&self, attribute: Attribute) -> Option<&str> {
        let value = self.part(attribute.index());
        (!value.is_empty()).then_some(value)
    }

    fn part(&self, part: usize) -> &str {
        let TextSpan { start, end } = self.0.spans[part];
        &self.0.text[start as usize..end as usize]
    }

    /// The type, a dotted name. Never empty.
    pub fn event_type(&self) -> &str {
        self.part(Attribute::Type.index())
    }

    /// The component that published it.
    pub fn source(&self) -> Option<&str> {
        self.attribute(Attribute::Source)
    }

    /// The stream it belongs to.
    pub fn stream(&self) -> Option<&str> {
        self.attribute(Attribute::Stream)
    }

    /// The execution it belongs to.
    pub fn execution(&self) -> Option<&str> {
        self.attribute(Attribute::Execution)
    }

    /// What ties it to other events.
    pub fn correlation(&self) -> Option<&str> {
        self.attribute(Attribute::Correlation)
    }

    /// The thing it is about, as kind and id; either may be empty where only the other was set.
    pub fn entity(&self) -> Option<(&str, &str)> {
        let (kind, id) = (self.part(Attribute::EntityKind.index()), self.part(Attribute::EntityId.index()));
        (!kind.is_empty() || !id.is_empty()).then_some((kind, id))
    }

    /// The channel it is sent in.
    pub fn channel(&self) -> Option<&str> {
        self.attribute(Attribute::Channel)
    }

    /// When it happened.
    pub fn timestamp(&self) -> Timestamp {
        self.0.timestamp
    }

    /// The payload as JSON text on one line, without white space between its parts.
    pub fn payload(&self) -> &str {
        self.part(PAYLOAD)
    }

    /// Its place, given by the bus; `None` before it is published.
    pub fn id(&self) -> Option<EventId> {
        let shard = self.0.shard.load(Ordering::Relaxed);
        (shard != UNPUBLISHED).then(|| EventId {
            epoch: self.0.epoch.load(Ordering::Relaxed),
            shard: shard as u16,
            sequence: self.0.sequence.load(Ordering::Relaxed),
        })
    }

    /// The attributes' hashes.
    pub(crate) fn signature(&self) -> &Signature {
        &self.0.signature
    }

    /// Makes sure that this handle may be given a place: a handle that is shared or was published before is
    /// replaced by a body of its own.
    pub(crate) fn into_publishable(self) -> Self {
        if Arc::strong_count(&self.0) == 1 && self.0.shard.load(Ordering::Relaxed) == UNPUBLISHED {
            return self;
        }
        self.copied(self.0.text.clone(), self.0.spans, Timestamp::now())
    }

    fn copied(&self, text: String, spans: [TextSpan; PARTS], made: Timestamp) -> Self {
        Self::from_body(self.0.copied(text, spans, made))
    }

    /// The `traceparent` of the W3C's Trace Context that it carries.
    pub fn trace_parent(&self) -> Option<&str> {
        Some(self.part(TRACE_PARENT)).filter(|parent| !parent.is_empty())
    }

    /// The `tracestate` that goes with it.
    pub fn trace_state(&self) -> Option<&str> {
        Some(self.part(TRACE_STATE)).filter(|state| !state.is_empty())
    }

    /// The event with this trace context, if that is one and it has none of its own.
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
            // An event of 4 GiB has no room for it, and goes without.
            let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(text.len())) else { return self };
            spans[place] = TextSpan { start, end };
        }
        self.copied(text, spans, self.0.made)
    }

    /// When this process made it.
    #[cfg(feature = "server")]
    pub(crate) fn made(&self) -> Timestamp {
        self.0.made
    }

    /// Gives the event its place. For the publisher that holds the only handle (see
    /// [`Self::into_publishable`]), before it is published.
    pub(crate) fn place(&self, id: EventId) {
        self.0.epoch.store(id.epoch, Ordering::Relaxed);
        self.0.sequence.store(id.sequence, Ordering::Relaxed);
        self.0.shard.store(u32::from(id.shard), Ordering::Relaxed);
    }

    /// Where a client stands that has got all up to this event, where its id alone does not say it.
    #[cfg(feature = "server")]
    pub(crate) fn position(&self) -> Option<&Position> {
        self.0.position.get().map(|position| &**position)
    }

    /// All up to this event is here: the same, whichever loop says it.
    #[cfg(feature = "server")]
    pub(crate) fn stand(&self, position: &Position) {
        self.0.position.get_or_init(|| Box::new(position.clone()));
    }

    /// The frame of one encoding, made by the first who asks and shared by all others, whatever their loop.
    #[cfg(feature = "server")]
    pub(crate) fn frame(&self, encoding: usize, encode: impl Fn(&Self) -> Bytes) -> &Bytes {
        self.0.frames.get(encoding, || encode(self))
    }

    /// The same frame compressed by itself, made likewise.
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
    fn the_first_fault_is_told() {
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
        published.place(id(1));
        assert_eq!((kept.id(), published.id()), (None, Some(id(1))));
        let again = published.clone().into_publishable();
        again.place(id(2));
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

//! What is carried: an event, its attributes, its payload and its place.
//!
//! Imports `sync` only. Always: an event is complete and immutable before it is published; what changes
//! later is its place, set once by the bus, and the frames encoded from it, each made once.

mod attribute;
mod builder;
#[cfg(feature = "server")]
mod frames;
pub(crate) mod json;
mod pool;
mod position;
pub(crate) mod signature;
mod time;
mod trace;

use std::fmt;
#[cfg(feature = "server")]
use std::sync::OnceLock;

#[cfg(feature = "server")]
use bytes::Bytes;

use crate::sync::Arc;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(feature = "server")]
use frames::Frames;
use signature::{Signature, value_hash};

pub use attribute::Attribute;
pub use builder::{ATTRIBUTE_BYTES_MAX, EventBuilder, EventError};
pub use json::JsonError;
#[cfg(feature = "server")]
pub(crate) use position::Since;
pub use position::{EventId, ParseEventIdError, Position, Sequence};
pub use time::{ParseTimestampError, Timestamp};

/// How many encodings of one event are kept with it.
#[cfg(feature = "server")]
pub(crate) const ENCODINGS_MAX: usize = 13;

/// The payload's place among an event's spans, after the attributes.
const PAYLOAD: usize = Attribute::COUNT;

/// The places of the trace context.
const TRACE_PARENT: usize = PAYLOAD + 1;
const TRACE_STATE: usize = PAYLOAD + 2;

/// All parts of an event's text.
const PARTS: usize = PAYLOAD + 3;

/// A body besides its text: with the counts of its handles.
pub(crate) const BODY_BYTES: usize = size_of::<Body>() + 2 * size_of::<usize>();

/// A shard that no bus has: the event has not been published.
const UNPUBLISHED: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// What the handles of one event share.
pub(crate) struct Body {
    // The place: written once, between claim and publication, by the publisher who holds the only handle;
    // read by those who got the handle from the ring. The ring's publication edge orders both, so the
    // accesses themselves are relaxed.
    epoch: AtomicU64,
    sequence: AtomicU64,
    shard: AtomicU32,
    timestamp: Timestamp,
    /// When this process made it: it is published at once, as a rule.
    #[cfg(feature = "server")]
    made: Timestamp,
    signature: Signature,
    spans: [Span; PARTS],
    text: String,
    #[cfg(feature = "server")]
    frames: Frames,
    /// The same frames, each compressed by itself.
    #[cfg(feature = "server")]
    deflated: OnceLock<Box<Frames>>,
    /// Where a client stands that has got all up to this event; on a bus of one shard its id says that.
    #[cfg(feature = "server")]
    position: OnceLock<Box<Position>>,
}

impl Body {
    fn new(text: String, spans: [Span; PARTS], timestamp: Option<Timestamp>) -> Self {
        let made = Timestamp::now();
        let mut signature = Signature::default();
        for attribute in Attribute::ALL {
            let Span { start, end } = spans[attribute.index()];
            signature.0[attribute.index()] = value_hash(&text[start as usize..end as usize]);
        }
        Self {
            epoch: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            shard: AtomicU32::new(UNPUBLISHED),
            timestamp: timestamp.unwrap_or(made),
            #[cfg(feature = "server")]
            made,
            signature,
            spans,
            text,
            #[cfg(feature = "server")]
            frames: Frames::default(),
            #[cfg(feature = "server")]
            deflated: OnceLock::new(),
            #[cfg(feature = "server")]
            position: OnceLock::new(),
        }
    }
}

impl Body {
    /// Lets go of the frames, but not of the place for them.
    #[cfg_attr(
        not(feature = "server"),
        allow(clippy::unused_self, reason = "there are frames with a server only")
    )]
    fn forget_frames(&mut self) {
        #[cfg(feature = "server")]
        {
            self.frames.forget();
            self.deflated.take();
            self.position.take();
        }
    }

    /// Becomes another body; keeps the place for frames.
    fn write_anew(&mut self, body: Self) {
        #[cfg(feature = "server")]
        let frames = std::mem::take(&mut self.frames);
        *self = body;
        #[cfg(feature = "server")]
        {
            self.frames = frames;
        }
    }
}

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
pub struct Event(Arc<Body>);

impl Event {
    /// Starts an event of this type.
    pub fn builder(event_type: &str) -> EventBuilder {
        EventBuilder::new(event_type)
    }

    fn from_body(body: Body) -> Self {
        Self(Arc::new(body))
    }

    /// A body that was nobody's, written anew.
    fn from_pooled(mut pooled: Arc<Body>, body: Body) -> Self {
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
    pub(crate) fn into_arc(self) -> Arc<Body> {
        self.0
    }

    /// The handle of a count.
    pub(crate) fn from_arc(body: Arc<Body>) -> Self {
        Self(body)
    }

    /// One attribute's value; `None` where the event has none.
    pub fn attribute(&self, attribute: Attribute) -> Option<&str> {
        let value = self.part(attribute.index());
        (!value.is_empty()).then_some(value)
    }

    fn part(&self, part: usize) -> &str {
        let Span { start, end } = self.0.spans[part];
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

    /// Another event like this one, but for its parts.
    #[cfg_attr(not(feature = "server"), allow(unused_variables, reason = "a server asks when it was made"))]
    fn copied(&self, text: String, spans: [Span; PARTS], made: Timestamp) -> Self {
        let body = &*self.0;
        Self::from_body(Body {
            epoch: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            shard: AtomicU32::new(UNPUBLISHED),
            timestamp: body.timestamp,
            #[cfg(feature = "server")]
            made,
            signature: body.signature,
            spans,
            text,
            #[cfg(feature = "server")]
            frames: Frames::default(),
            #[cfg(feature = "server")]
            deflated: OnceLock::new(),
            #[cfg(feature = "server")]
            position: OnceLock::new(),
        })
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
            spans[place] = Span { start, end };
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

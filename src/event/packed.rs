//! Packed events: bytes from which an event can be built again.
//!
//! Events of one group differ little. Attributes that several of them have are stored once, in an [`EventHead`]. Ids and
//! times are stored as differences from those of the group's first event, a [`PackingBase`].
//!
//! Always:
//! - An unpacked event equals the packed one: in its id, times, attributes, payload, trace context and position. Its frames
//!   are not packed.
//! - Only this process reads what it has packed, so the form may change at any time.

use super::attribute::Attribute;
use super::body::{EventBody, PARTS, PAYLOAD, TRACE_PARENT, TRACE_STATE, TextSpan};
use super::handle::Event;
use super::pool;
use super::position::{EventId, Position};
use super::signature::{Signature, value_hash};
use super::time::Timestamp;

/// Maximum number of heads of a group: a code of 4 bits.
pub(crate) const HEADS_MAX: usize = 16;

/// Bits of the first byte: the code of the head, and what follows.
const CODE: u8 = 0x0f;
const HAS_OWN_ATTRIBUTES: u8 = 0x10;
const HAS_PLACE: u8 = 0x20;
const HAS_TIME_MADE: u8 = 0x40;
const HAS_MORE: u8 = 0x80;

/// Bits of the byte that follows if [`HAS_MORE`] is set.
const HAS_POSITION: u8 = 1;
const HAS_TRACE: u8 = 2;

/// Attributes of an event that later events may share.
#[derive(Debug, Default)]
pub(crate) struct EventHead {
    /// Values of the attributes, one after the other.
    text: Box<str>,
    /// End of each value.
    ends: [u16; Attribute::COUNT],
    signature: Signature,
}

impl EventHead {
    /// Returns the attributes of an event, unless they have more than `bytes_max` bytes.
    pub(crate) fn of(event: &Event, bytes_max: u16) -> Option<Self> {
        let mut text = String::new();
        let mut ends = [0; Attribute::COUNT];
        for (attribute, end) in Attribute::ALL.into_iter().zip(&mut ends) {
            text.push_str(event.attribute(attribute).unwrap_or_default());
            *end = u16::try_from(text.len()).ok().filter(|end| *end <= bytes_max)?;
        }
        Some(Self { text: text.into(), ends, signature: *event.signature() })
    }

    fn value(&self, attribute: Attribute) -> &str {
        let index = attribute.index();
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[usize::from(start)..usize::from(self.ends[index])]
    }

    /// Returns whether all attributes of an event have equal hashes. Then they are nearly always equal.
    #[inline]
    pub(crate) fn has_hashes_of(&self, event: &Event) -> bool {
        self.signature == *event.signature()
    }

    /// Returns the attributes in which an event differs, as bits.
    pub(crate) fn differences(&self, event: &Event) -> OwnAttributes {
        let mut own = OwnAttributes::default();
        for attribute in Attribute::ALL {
            let index = attribute.index();
            let (hash, of_event) = (self.signature.0[index], event.signature().0[index]);
            // The hashes decide most comparisons. That of an absent value is 0.
            if hash != of_event
                || (hash != 0 && self.value(attribute) != event.attribute(attribute).unwrap_or_default())
            {
                own.0 |= 1 << index;
            }
        }
        own
    }

    /// Returns the size of the values, in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        self.text.len()
    }
}

/// Attributes in which an event differs from its head, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnAttributes(u8);

impl OwnAttributes {
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the number of these attributes.
    pub(crate) fn count(self) -> u32 {
        self.0.count_ones()
    }

    pub(crate) fn contains(self, attribute: Attribute) -> bool {
        self.0 & (1 << attribute.index()) != 0
    }
}

/// First event of a group, from which the others differ little.
#[derive(Debug)]
pub(crate) struct PackingBase {
    id: EventId,
    timestamp: Timestamp,
    /// Next sequence of each shard, if the event has a position.
    sequences: Box<[u64]>,
}

impl PackingBase {
    pub(crate) fn of(event: &Event, id: EventId) -> Self {
        let sequences = event.position().map(Position::sequences).unwrap_or_default();
        Self { id, timestamp: event.timestamp(), sequences: sequences.into() }
    }

    /// Returns the heap memory in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        size_of_val(&*self.sequences)
    }
}

/// Appends a number of 7 bits a byte, the lowest first.
pub(crate) fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends the difference of two numbers, so that small ones of either sign are short.
fn put_difference(number: u64, base: u64, out: &mut Vec<u8>) {
    let difference = number.wrapping_sub(base).cast_signed();
    put_number(((difference << 1) ^ (difference >> 63)).cast_unsigned(), out);
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    put_number(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// Removes a number from the front of packed bytes.
#[inline]
pub(crate) fn take_number(bytes: &mut &[u8]) -> u64 {
    match **bytes {
        // Most differences are small.
        [byte, ref rest @ ..] if byte < 0x80 => {
            *bytes = rest;
            u64::from(byte)
        }
        _ => take_long_number(bytes),
    }
}

fn take_long_number(bytes: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    while let Some((byte, rest)) = bytes.split_first() {
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << (shift & 63);
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

#[inline]
fn take_difference(base: u64, bytes: &mut &[u8]) -> u64 {
    let number = take_number(bytes);
    base.wrapping_add((number >> 1) ^ (number & 1).wrapping_neg())
}

#[inline]
fn take_byte(bytes: &mut &[u8]) -> u8 {
    let Some((byte, rest)) = bytes.split_first() else { return 0 };
    *bytes = rest;
    *byte
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> &'a str {
    let len = take_number(bytes) as usize;
    let Some((text, rest)) = bytes.split_at_checked(len) else { return "" };
    *bytes = rest;
    text_of(text)
}

/// Returns packed text. The bytes were a text's.
pub(crate) fn text_of(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Returns the size of an event when it is packed, by an estimate that is seldom too small.
pub(crate) fn packed_bytes(event: &Event, own: OwnAttributes) -> usize {
    let own = |attribute: &Attribute| own.contains(*attribute);
    let attributes = Attribute::ALL.iter().filter(|attribute| own(attribute));
    let own: usize = attributes.map(|attribute| event.attribute(*attribute).map_or(0, str::len) + 2).sum();
    let trace = |part: Option<&str>| part.map_or(0, |part| part.len() + 3);
    let shards = event.position().map_or(0, |position| 12 + 3 * position.sequences.len());
    event.payload().len() + own + trace(event.trace_parent()) + trace(event.trace_state()) + shards + 12
}

/// Appends a packed event. `code` is the number of its head in the group, and `own` the differences from it.
pub(crate) fn pack(
    event: &Event,
    id: EventId,
    base: &PackingBase,
    code: u8,
    own: OwnAttributes,
    out: &mut Vec<u8>,
) {
    let is_near = (id.epoch, id.shard) == (base.id.epoch, base.id.shard);
    let is_made_then = event.made() == event.timestamp();
    let trace = event.trace_parent();
    let flag = |bit: u8, is_set: bool| if is_set { bit } else { 0 };
    let more = flag(HAS_POSITION, event.position().is_some()) | flag(HAS_TRACE, trace.is_some());
    out.push(
        code & CODE
            | flag(HAS_OWN_ATTRIBUTES, !own.is_empty())
            | flag(HAS_PLACE, !is_near)
            | flag(HAS_TIME_MADE, !is_made_then)
            | flag(HAS_MORE, more != 0),
    );
    put_difference(id.sequence, base.id.sequence, out);
    put_difference(event.timestamp().0.cast_unsigned(), base.timestamp.0.cast_unsigned(), out);
    if !is_near {
        put_number(id.epoch, out);
        put_number(u64::from(id.shard), out);
    }
    if !is_made_then {
        put_difference(event.made().0.cast_unsigned(), event.timestamp().0.cast_unsigned(), out);
    }
    if more != 0 {
        out.push(more);
    }
    if let Some(position) = event.position() {
        put_difference(position.epoch, id.epoch, out);
        put_number(position.sequences.len() as u64, out);
        for (shard, next) in position.sequences.iter().enumerate() {
            put_difference(*next, base.sequences.get(shard).copied().unwrap_or_default(), out);
        }
    }
    if let Some(parent) = trace {
        put_text(parent, out);
        put_text(event.trace_state().unwrap_or_default(), out);
    }
    if !own.is_empty() {
        out.push(own.0);
        for attribute in Attribute::ALL.into_iter().filter(|attribute| own.contains(*attribute)) {
            put_text(event.attribute(attribute).unwrap_or_default(), out);
        }
    }
    out.extend_from_slice(event.payload().as_bytes());
}

/// Packed event with its id and time read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedEvent<'a> {
    id: EventId,
    timestamp: Timestamp,
    made: Timestamp,
    flags: u8,
    base: &'a PackingBase,
    head: Option<&'a EventHead>,
    /// Bytes after those of the times.
    rest: &'a [u8],
}

/// Packed event that has the attributes of its head and neither a trace context nor a position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlainEvent<'a> {
    pub(crate) id: EventId,
    pub(crate) timestamp: Timestamp,
    pub(crate) made: Timestamp,
    pub(crate) head: &'a EventHead,
    pub(crate) payload: &'a [u8],
}

/// Parts of a packed event.
struct PackedParts<'a> {
    position: Option<Position>,
    trace: (&'a str, &'a str),
    own: OwnAttributes,
    /// Values of those attributes.
    values: [&'a str; Attribute::COUNT],
    payload: &'a [u8],
}

impl<'a> PackedEvent<'a> {
    /// Returns the code of the event's head.
    #[inline]
    pub(crate) fn code(bytes: &[u8]) -> usize {
        bytes.first().map_or(0, |flags| usize::from(flags & CODE))
    }

    /// Reads an event that has this head.
    #[inline]
    pub(crate) fn read(mut bytes: &'a [u8], base: &'a PackingBase, head: Option<&'a EventHead>) -> Self {
        let flags = take_byte(&mut bytes);
        let sequence = take_difference(base.id.sequence, &mut bytes);
        let time = take_difference(base.timestamp.0.cast_unsigned(), &mut bytes);
        let mut id = EventId { sequence, ..base.id };
        if flags & HAS_PLACE != 0 {
            id.epoch = take_number(&mut bytes);
            id.shard = take_number(&mut bytes) as u16;
        }
        let made = if flags & HAS_TIME_MADE == 0 { time } else { take_difference(time, &mut bytes) };
        let (timestamp, made) = (Timestamp(time.cast_signed()), Timestamp(made.cast_signed()));
        Self { id, timestamp, made, flags, base, head, rest: bytes }
    }

    /// Returns the parts of an event that has the attributes of its head and neither a trace context nor a position.
    #[inline]
    pub(crate) fn plain(&self) -> Option<PlainEvent<'a>> {
        if self.flags & (HAS_OWN_ATTRIBUTES | HAS_MORE) != 0 {
            return None;
        }
        let Self { id, timestamp, made, .. } = *self;
        Some(PlainEvent { id, timestamp, made, head: self.head?, payload: self.rest })
    }

    pub(crate) fn id(&self) -> EventId {
        self.id
    }

    pub(crate) fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Returns the epoch of the position, and the number of events up to it, as [`Position::passed`] does; `None` without a
    /// position.
    pub(crate) fn passed(&self) -> Option<(u64, u128)> {
        if self.flags & HAS_MORE == 0 {
            return None;
        }
        self.parts().position.as_ref().map(Position::passed)
    }

    fn parts(&self) -> PackedParts<'a> {
        let mut rest = self.rest;
        let more = if self.flags & HAS_MORE == 0 { 0 } else { take_byte(&mut rest) };
        let mut position = None;
        if more & HAS_POSITION != 0 {
            let epoch = take_difference(self.id.epoch, &mut rest);
            let shards = (take_number(&mut rest) as usize).min(rest.len());
            let bases = self.base.sequences.iter().copied().chain(std::iter::repeat(0));
            position =
                Some(Position::new(epoch, bases.take(shards).map(|base| take_difference(base, &mut rest))));
        }
        let trace =
            if more & HAS_TRACE == 0 { ("", "") } else { (take_text(&mut rest), take_text(&mut rest)) };
        let mut values = [""; Attribute::COUNT];
        let mut own = OwnAttributes::default();
        if self.flags & HAS_OWN_ATTRIBUTES != 0 {
            own = OwnAttributes(take_byte(&mut rest));
            for attribute in Attribute::ALL.into_iter().filter(|attribute| own.contains(*attribute)) {
                values[attribute.index()] = take_text(&mut rest);
            }
        }
        PackedParts { position, trace, own, values, payload: rest }
    }

    /// Returns the size of the event's attributes, payload and trace context, in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        let parts = self.parts();
        let attributes: usize =
            Attribute::ALL.iter().map(|attribute| self.value(*attribute, &parts).len()).sum();
        attributes + parts.payload.len() + parts.trace.0.len() + parts.trace.1.len()
    }

    fn value(&self, attribute: Attribute, parts: &PackedParts<'a>) -> &'a str {
        if parts.own.contains(attribute) {
            parts.values[attribute.index()]
        } else {
            self.head.map_or("", |head| head.value(attribute))
        }
    }

    /// Builds the event. Allocates, unless the thread's pool has a body.
    pub(crate) fn unpack(&self) -> Event {
        let (pooled, mut text) = pool::take_body();
        text.reserve(self.head.map_or(0, |head| head.text.len()) + self.rest.len());
        let mut spans = [TextSpan::default(); PARTS];
        let mut signature = self.head.map(|head| head.signature).unwrap_or_default();
        let position = match self.plain() {
            Some(PlainEvent { head, payload, .. }) => {
                text.push_str(&head.text);
                let mut start = 0;
                for (span, end) in spans.iter_mut().zip(head.ends) {
                    *span = TextSpan { start, end: u32::from(end) };
                    start = u32::from(end);
                }
                spans[PAYLOAD] = append(text_of(payload), &mut text);
                None
            }
            None => self.put_parts(&mut text, &mut spans, &mut signature),
        };
        let body = EventBody::unpublished(text, spans, signature, self.timestamp, self.made);
        let event = match pooled {
            Some(pooled) => Event::from_pooled(pooled, body),
            None => Event::from_body(body),
        };
        event.set_id(self.id);
        if let Some(position) = &position {
            event.set_position(position);
        }
        event
    }

    /// Appends the parts of an event to its text, and returns its position. `signature` is that of its head.
    fn put_parts(
        &self,
        text: &mut String,
        spans: &mut [TextSpan; PARTS],
        signature: &mut Signature,
    ) -> Option<Position> {
        let parts = self.parts();
        for attribute in Attribute::ALL {
            let value = self.value(attribute, &parts);
            spans[attribute.index()] = append(value, text);
            if parts.own.contains(attribute) {
                signature.0[attribute.index()] = value_hash(value);
            }
        }
        spans[PAYLOAD] = append(text_of(parts.payload), text);
        let (parent, state) = parts.trace;
        if !parent.is_empty() {
            spans[TRACE_PARENT] = append(parent, text);
            spans[TRACE_STATE] = append(state, text);
        }
        parts.position
    }
}

/// Appends a part of an event to its text. The parts of a packed event fit, because they fitted before.
fn append(part: &str, text: &mut String) -> TextSpan {
    let start = text.len() as u32;
    text.push_str(part);
    TextSpan { start, end: text.len() as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn id(epoch: u64, shard: u16, sequence: u64) -> EventId {
        EventId { epoch, shard, sequence }
    }

    /// Returns everything that an event has beside its frames.
    fn all(event: &Event) -> impl PartialEq + std::fmt::Debug + use<> {
        let attributes = Attribute::ALL.map(|attribute| event.attribute(attribute).map(str::to_owned));
        let trace = (event.trace_parent().map(str::to_owned), event.trace_state().map(str::to_owned));
        let times = (event.timestamp(), event.made());
        let place = (event.id(), event.position().cloned());
        (attributes, event.payload().to_owned(), trace, times, place, *event.signature())
    }

    fn packed(event: &Event, base: &PackingBase, head: &EventHead) -> Vec<u8> {
        let mut out = Vec::new();
        let id = event.id().expect("published");
        pack(event, id, base, 5, head.differences(event), &mut out);
        assert_eq!(PackedEvent::code(&out), 5);
        out
    }

    fn events() -> Vec<Event> {
        let text = |payload: &str| Event::builder("token").source("agent").stream("run-1").json(payload);
        let events = [
            (text(r#"{"delta":"a"}"#), id(9, 0, 7)),
            (text("[]"), id(9, 0, 8)),
            (text(r#""ä""#), id(9, 0, 3)),
            (text("1").timestamp(Timestamp(-5)), id(9, 0, u64::MAX)),
            (text("1").timestamp(Timestamp(i64::MAX)), id(u64::MAX, 0, 0)),
            (text("1").timestamp(Timestamp(i64::MIN)), id(9, u16::MAX, 300)),
            (text("1").trace(TRACE, None), id(9, 0, 9)),
            (text("1").trace(TRACE, Some("a=b")).channel("room"), id(9, 0, 10)),
            (Event::builder("other").correlation("c").execution("e"), id(9, 0, 11)),
            (text("1").entity("task", "").stream(&"x".repeat(1000)), id(9, 1, 12)),
            (text(&format!("\"{}\"", "y".repeat(100_000))).entity("", "1"), id(9, 0, 13)),
        ];
        events
            .into_iter()
            .map(|(builder, id)| {
                let event = builder.build().expect("valid");
                event.set_id(id);
                event
            })
            .collect()
    }

    #[test]
    fn an_unpacked_event_equals_the_packed_one() {
        let events = events();
        for first in &events {
            let base = PackingBase::of(first, first.id().expect("published"));
            for head in [EventHead::default(), EventHead::of(first, u16::MAX).expect("short")] {
                for event in &events {
                    let bytes = packed(event, &base, &head);
                    let read = PackedEvent::read(&bytes, &base, Some(&head));
                    assert_eq!((Some(read.id()), read.timestamp()), (event.id(), event.timestamp()));
                    assert_eq!(read.passed(), None);
                    assert_eq!(all(&read.unpack()), all(event));
                    let attributes =
                        Attribute::ALL.map(|attribute| event.attribute(attribute).map_or(0, str::len));
                    let trace =
                        [event.trace_parent(), event.trace_state()].map(|part| part.map_or(0, str::len));
                    let bytes = attributes.iter().chain(&trace).sum::<usize>() + event.payload().len();
                    assert_eq!(read.text_bytes(), bytes);
                }
            }
        }
    }

    #[test]
    fn a_position_of_several_shards_is_packed() {
        let positions = [
            Position::new(9, [1, 2, 3]),
            Position::new(9, [2, 2, 1]),
            Position::new(8, [u64::MAX, 0]),
            Position::new(9, (0..40).map(|shard| shard * shard)),
        ];
        let events: Vec<Event> = events()
            .into_iter()
            .zip(positions.iter().cycle())
            .map(|(event, position)| {
                event.set_position(position);
                event
            })
            .collect();
        for first in &events {
            let base = PackingBase::of(first, first.id().expect("published"));
            let head = EventHead::of(first, u16::MAX).expect("short");
            for event in &events {
                let bytes = packed(event, &base, &head);
                let read = PackedEvent::read(&bytes, &base, Some(&head));
                assert_eq!(read.passed(), event.position().map(Position::passed));
                assert_eq!(all(&read.unpack()), all(event));
            }
        }
    }

    #[test]
    fn a_small_event_takes_few_bytes_beside_its_payload() {
        let event = |n: u64| {
            let event =
                Event::builder("token").source("agent").stream("run-1").json("[]").build().expect("valid");
            event.set_id(id(9, 0, n));
            event
        };
        let first = event(1_000_000);
        let base = PackingBase::of(&first, id(9, 0, 1_000_000));
        let head = EventHead::of(&first, u16::MAX).expect("short");
        let second = event(1_000_050);
        assert_eq!(head.differences(&second), OwnAttributes::default());
        let bytes = packed(&second, &base, &head);
        // A flag, two bytes of the sequence, the time since the first, and the payload.
        assert!(bytes.len() <= 3 + 5 + 2, "{} bytes", bytes.len());
    }

    #[test]
    fn a_head_is_limited() {
        let event = Event::builder("x").channel(&"c".repeat(100)).build().expect("valid");
        assert!(EventHead::of(&event, 100).is_none());
        assert_eq!(EventHead::of(&event, 101).expect("short").text_bytes(), 101);
    }

    #[test]
    fn malformed_bytes_are_an_event() {
        let base = PackingBase::of(&Event::builder("x").build().expect("valid"), id(1, 0, 1));
        for flags in 0..=u8::MAX {
            for rest in [&[][..], &[0xff; 30], &[2, 2, 1, 200, 3]] {
                let bytes: Vec<u8> = [flags].iter().chain(rest).copied().collect();
                PackedEvent::read(&bytes, &base, None).unpack();
            }
        }
    }
}

//! Encodes consecutive events: parts of a frame that the frame before has, too, are copied instead of encoded.
//!
//! Invariants:
//! - The bytes are those of [`Encoding::put`] for each event.
//! - A template belongs to one set of attributes. It is made once two neighbours have them, so a sequence in which no two have
//!   costs little more than its single events.
//!
//! Most neighbours in a kept log differ only in their id, their time and their payload.

use smallvec::SmallVec;

use super::uuid::Uuid;
use super::{Encoding, envelope};
use crate::codec::{sse, ws};
use crate::event::packed::{EventHead, PlainEvent};
use crate::event::{Event, EventId, Position, Timestamp};

/// Start of an event object, before the text of the id.
const BEFORE_ID: &str = r#"{"event_id":""#;

/// Parts of the native `event` message around the event object, the UUID and the time.
const MESSAGE: &str = r#"{"type":"event","payload":"#;
const BEFORE_UUID: &[u8] = br#"},"message_id":""#;
const AFTER_UUID: &[u8] = br#"","timestamp":""#;
const AFTER_TIME: &[u8] = br#"","correlation_id":null"#;

/// Bytes in a frame beside the parts that are counted: the ends of lines and objects.
const REST_BYTES: usize = 64;

/// Maximum number of templates at once: a run has tokens among calls of tools and their results.
const TEMPLATES_MAX: usize = 4;

/// Encoder of consecutive events.
#[derive(Debug)]
pub(crate) struct SequenceEncoder<'a> {
    encoding: Encoding,
    /// Newest template first.
    templates: SmallVec<[Box<FrameTemplate<'a>>; TEMPLATES_MAX]>,
    /// Last event that had no template.
    unmatched: Option<Event>,
    /// Number of events encoded without a template.
    encoded_alone: usize,
    id: IdText,
    time: TimeText,
    /// Field with the text of the event's position; empty without one.
    position: String,
}

/// Arrangement of the parts in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrameLayout {
    /// Event object as the data of an event stream.
    Stream,
    /// Payload as the data of an event stream.
    LeanStream,
    /// Event object in a message.
    Message,
    /// Event object alone.
    LeanMessage,
}

/// Parts of a frame that all events with some attributes have.
#[derive(Debug)]
struct FrameTemplate<'a> {
    /// Event with these attributes.
    event: Event,
    /// Head of packed events with these attributes.
    head: Option<&'a EventHead>,
    layout: FrameLayout,
    /// Whether the frame has a time.
    has_time: bool,
    before_id: Vec<u8>,
    before_time: Vec<u8>,
    before_payload: Vec<u8>,
}

impl<'a> SequenceEncoder<'a> {
    pub(crate) fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            templates: SmallVec::new(),
            unmatched: None,
            encoded_alone: 0,
            id: IdText::new(),
            time: TimeText::new(),
            position: String::new(),
        }
    }

    /// Returns whether an encoding has templates.
    pub(crate) fn has_templates(encoding: Encoding) -> bool {
        FrameLayout::of(encoding).is_some()
    }

    /// Returns the number of events that were encoded without a template.
    pub(crate) fn encoded_alone(&self) -> usize {
        self.encoded_alone
    }

    /// Appends an event's frame, for a client at the event's position.
    pub(crate) fn put(&mut self, event: &Event, frames: &mut Vec<u8>) {
        self.put_event(event, frames);
    }

    /// Appends the frame of a packed event, which `unpack` builds.
    pub(crate) fn put_plain(
        &mut self,
        event: &PlainEvent<'a>,
        unpack: impl FnOnce() -> Event,
        frames: &mut Vec<u8>,
    ) {
        if let Some(at) = self.templates.iter().position(|template| template.fits_plain(event)) {
            self.position.clear();
            self.put_parts(at, event.id, event.timestamp, event.payload, frames);
        } else if let Some(at) = self.put_event(&unpack(), frames) {
            // An unpacked event has its head's attributes and nothing else.
            self.templates[at].head = Some(event.head);
        }
    }

    /// Appends an event's frame. Returns the index of its template.
    fn put_event(&mut self, event: &Event, frames: &mut Vec<u8>) -> Option<usize> {
        let (Some(at), Some(id)) = (self.template_of(event), event.id()) else {
            self.encoded_alone += 1;
            self.encoding.put(event, event.position(), frames);
            return None;
        };
        self.position.clear();
        if let Some(position) = event.position() {
            put_position(self.templates[at].layout, position, &mut self.position);
        }
        self.put_parts(at, id, event.timestamp(), event.payload().as_bytes(), frames);
        Some(at)
    }

    /// Appends a frame with these parts, and the position.
    fn put_parts(&mut self, at: usize, id: EventId, time: Timestamp, payload: &[u8], frames: &mut Vec<u8>) {
        self.id.set(id);
        let template = &*self.templates[at];
        if template.has_time {
            self.time.set(time);
        }
        match template.layout {
            FrameLayout::Stream | FrameLayout::LeanStream => self.put_stream(template, payload, frames),
            FrameLayout::Message => self.put_message(template, payload, id, frames),
            FrameLayout::LeanMessage => self.put_lean_message(template, payload, frames),
        }
    }

    /// Returns the index of an event's template. Makes one if the event before it without a template had the same attributes.
    fn template_of(&mut self, event: &Event) -> Option<usize> {
        event.id()?;
        if let Some(at) = self.templates.iter().position(|template| template.fits(event)) {
            return Some(at);
        }
        let is_repeated = self.unmatched.as_ref().is_some_and(|unmatched| event.has_head_of(unmatched));
        self.unmatched = Some(event.clone());
        let template = is_repeated.then(|| FrameTemplate::new(self.encoding, event)).flatten()?;
        self.templates.truncate(TEMPLATES_MAX - 1);
        self.templates.insert(0, Box::new(template));
        Some(0)
    }

    fn put_stream(&self, template: &FrameTemplate<'_>, payload: &[u8], frames: &mut Vec<u8>) {
        let id = self.id.as_bytes();
        frames.reserve(
            template.len() + 2 * id.len() + TimeText::LEN + payload.len() + self.position.len() + REST_BYTES,
        );
        let has_object = template.layout == FrameLayout::Stream;
        if has_object {
            template.put(id, &self.time.text, payload, frames);
        } else {
            frames.extend_from_slice(&template.before_payload);
            frames.extend_from_slice(payload);
        }
        frames.extend_from_slice(if has_object { b"}\nid: " } else { b"\nid: " });
        frames.extend_from_slice(if self.position.is_empty() { id } else { self.position.as_bytes() });
        frames.extend_from_slice(b"\n\n");
    }

    fn put_message(&self, template: &FrameTemplate<'_>, payload: &[u8], id: EventId, frames: &mut Vec<u8>) {
        let uuid = Uuid::of_event(Some(id)).text();
        let id = self.id.as_bytes();
        let around = BEFORE_UUID.len() + uuid.len() + AFTER_UUID.len() + AFTER_TIME.len() + 1;
        let len =
            template.len() + id.len() + 2 * TimeText::LEN + payload.len() + self.position.len() + around;
        let header = ws::header(ws::OpCode::Text, len);
        frames.reserve(header.len() + len);
        frames.extend_from_slice(&header);
        template.put(id, &self.time.text, payload, frames);
        frames.extend_from_slice(BEFORE_UUID);
        frames.extend_from_slice(&uuid);
        frames.extend_from_slice(AFTER_UUID);
        frames.extend_from_slice(&self.time.text);
        frames.extend_from_slice(AFTER_TIME);
        frames.extend_from_slice(self.position.as_bytes());
        frames.push(b'}');
    }

    fn put_lean_message(&self, template: &FrameTemplate<'_>, payload: &[u8], frames: &mut Vec<u8>) {
        let id = self.id.as_bytes();
        let time: &[u8] = if template.has_time { &self.time.text } else { &[] };
        let len = template.len() + id.len() + time.len() + payload.len() + self.position.len() + 1;
        let header = ws::header(ws::OpCode::Text, len);
        frames.reserve(header.len() + len);
        frames.extend_from_slice(&header);
        template.put(id, time, payload, frames);
        frames.extend_from_slice(self.position.as_bytes());
        frames.push(b'}');
    }
}

/// Writes the field with an event's position.
fn put_position(layout: FrameLayout, position: &Position, out: &mut String) {
    use std::fmt::Write as _;
    // Writing to a String does not fail.
    let _ = match layout {
        FrameLayout::Stream | FrameLayout::LeanStream => write!(out, "{position}"),
        FrameLayout::Message | FrameLayout::LeanMessage => write!(out, r#","position":"{position}""#),
    };
}

impl FrameLayout {
    /// Returns the layout of an encoding, and whether its events are named; `None` if it has no templates.
    #[cfg_attr(not(feature = "dialects"), expect(clippy::unnecessary_wraps, reason = "as with `dialects`"))]
    fn of(encoding: Encoding) -> Option<(Self, bool)> {
        match encoding {
            Encoding::NativeSse => Some((Self::Stream, true)),
            Encoding::NativeSseUnnamed => Some((Self::Stream, false)),
            Encoding::NativeSseLean => Some((Self::LeanStream, true)),
            Encoding::NativeSseLeanUnnamed => Some((Self::LeanStream, false)),
            Encoding::NativeWs => Some((Self::Message, false)),
            Encoding::NativeWsLean => Some((Self::LeanMessage, false)),
            #[cfg(feature = "dialects")]
            _ => None,
        }
    }
}

impl FrameTemplate<'_> {
    /// Returns the template of events with the attributes of this one; `None` if the encoding has none.
    fn new(encoding: Encoding, event: &Event) -> Option<Self> {
        let (layout, is_named) = FrameLayout::of(encoding)?;
        let id = event.id()?.to_string();
        let (mut first, mut before, mut after) = (Vec::new(), String::new(), String::new());
        match layout {
            FrameLayout::Stream | FrameLayout::LeanStream => {
                // Without data, the lines end here.
                sse::encode_event(&mut first, is_named.then(|| event.event_type()), "", None);
                first.truncate(first.len() - 2);
            }
            FrameLayout::Message => first.extend_from_slice(MESSAGE.as_bytes()),
            FrameLayout::LeanMessage => {}
        }
        let has_time = match layout {
            FrameLayout::LeanStream => {
                return Some(Self {
                    event: event.clone(),
                    head: None,
                    layout,
                    has_time: false,
                    before_id: Vec::new(),
                    before_time: Vec::new(),
                    before_payload: first,
                });
            }
            FrameLayout::Stream | FrameLayout::Message => {
                envelope::write_before_time(event, &mut before);
                envelope::write_after_time(event, &mut after);
                true
            }
            FrameLayout::LeanMessage => {
                envelope::write_lean_before_time(event, &mut before);
                envelope::write_lean_after_time(event, &mut after);
                envelope::has_lean_time(event)
            }
        };
        first.extend_from_slice(BEFORE_ID.as_bytes());
        let before_time = before.strip_prefix(BEFORE_ID)?.strip_prefix(&id)?.into();
        let before_payload = after.strip_suffix('}')?.strip_suffix(event.payload())?.into();
        Some(Self {
            event: event.clone(),
            head: None,
            layout,
            has_time,
            before_id: first,
            before_time,
            before_payload,
        })
    }

    /// Returns whether a packed event's frame has these parts.
    #[inline]
    fn fits_plain(&self, event: &PlainEvent<'_>) -> bool {
        self.head.is_some_and(|head| std::ptr::eq(head, event.head))
            && (self.layout != FrameLayout::LeanMessage || self.has_time == (event.timestamp != event.made))
    }

    /// Returns whether an event's frame has these parts.
    fn fits(&self, event: &Event) -> bool {
        let has_its_time =
            self.layout != FrameLayout::LeanMessage || self.has_time == envelope::has_lean_time(event);
        has_its_time && event.has_head_of(&self.event)
    }

    /// Appends the template's texts with an id, a time and a payload between them.
    #[inline]
    fn put(&self, id: &[u8], time: &[u8], payload: &[u8], frames: &mut Vec<u8>) {
        frames.extend_from_slice(&self.before_id);
        frames.extend_from_slice(id);
        frames.extend_from_slice(&self.before_time);
        frames.extend_from_slice(time);
        frames.extend_from_slice(&self.before_payload);
        frames.extend_from_slice(payload);
    }

    fn len(&self) -> usize {
        self.before_id.len() + self.before_time.len() + self.before_payload.len()
    }
}

/// Text of an id. The epoch is written once.
#[derive(Debug)]
struct IdText {
    epoch: Option<u64>,
    text: [u8; 48],
    /// Length of the epoch and its dash.
    start: usize,
    len: usize,
}

impl IdText {
    fn new() -> Self {
        Self { epoch: None, text: [0; 48], start: 0, len: 0 }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }

    fn set(&mut self, id: EventId) {
        if self.epoch != Some(id.epoch) {
            let text = EventId { shard: 0, sequence: 0, ..id }.to_string();
            self.epoch = Some(id.epoch);
            // Without the sequence, which is one digit.
            self.start = text.len() - 1;
            self.text[..self.start].copy_from_slice(&text.as_bytes()[..self.start]);
        }
        self.len = self.start;
        self.push_number(id.sequence);
        if id.shard != 0 {
            self.text[self.len] = b'.';
            self.len += 1;
            self.push_number(u64::from(id.shard));
        }
    }

    fn push_number(&mut self, mut number: u64) {
        let (mut digits, mut at) = ([0; 20], 20);
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        let len = digits.len() - at;
        self.text[self.len..self.len + len].copy_from_slice(&digits[at..]);
        self.len += len;
    }
}

/// Text of a time. The date is written once for all times of a second.
#[derive(Debug)]
struct TimeText {
    second: Option<i64>,
    text: [u8; TimeText::LEN],
}

impl TimeText {
    const LEN: usize = 27;

    fn new() -> Self {
        Self { second: None, text: [0; Self::LEN] }
    }

    fn set(&mut self, time: Timestamp) {
        let second = time.0.div_euclid(1_000_000);
        if self.second != Some(second) {
            self.second = Some(second);
            self.text.copy_from_slice(time.text().as_str().as_bytes());
            return;
        }
        let micros = time.0.rem_euclid(1_000_000) as u32;
        for (at, two) in [(20, micros / 10_000), (22, micros / 100 % 100), (24, micros % 100)] {
            self.text[at] = b'0' + (two / 10) as u8;
            self.text[at + 1] = b'0' + (two % 10) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::packed::{PackedEvent, PackingBase, pack};

    fn events() -> Vec<Event> {
        let mut events = Vec::new();
        let times = [1_769_509_293_999_999, 1_769_509_294_000_000, 1_769_509_294_123_456, -1, -2, 0];
        for n in 0..400_u64 {
            let payload = format!(r#"{{"n":{n},"text":"{}"}}"#, "ä\\n ".repeat(n as usize % 40));
            let mut event = Event::builder(["token", "tool.\"called\"", "t"][(n / 30 % 3) as usize]);
            if n % 50 > 20 {
                event = event.stream("run-1").source("a\\b").correlation(&format!("c{}", n / 25));
            }
            if n % 90 > 60 {
                event = event.entity("task", "t-1").channel("c").execution("e");
            }
            if n % 7 == 0 {
                event = event.json(&payload).stream("run-2");
            }
            if n % 11 == 0 {
                event = event.timestamp(Timestamp(times[n as usize % times.len()]));
            }
            let mut event = event.json(if n % 3 == 0 { "[]" } else { &payload }).build().expect("valid");
            if n % 13 > 10 {
                event = event.traced("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Some("a=b"));
            }
            let sequence = if n == 399 { u64::MAX } else { n * n * n };
            event.set_id(EventId { epoch: 0x7fff_ffff + n / 100, shard: (n / 200) as u16, sequence });
            if n % 17 > 8 {
                event.set_position(&Position::new(7, [n, 2]));
            }
            events.push(event);
        }
        events
    }

    #[test]
    fn a_sequence_is_encoded_as_each_event_alone() {
        let events = events();
        for encoding in Encoding::all() {
            let mut encoder = SequenceEncoder::new(encoding);
            for event in &events {
                let (mut got, mut want) = (b"before".to_vec(), b"before".to_vec());
                encoder.put(event, &mut got);
                encoding.put(event, event.position(), &mut want);
                assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&want), "{encoding:?}");
            }
        }
    }

    #[test]
    fn packed_events_are_encoded_as_they_were() {
        let event = |n: u64, kind: &str, made: bool| {
            let builder = Event::builder(kind).stream("run-1").source("a\"b").json(format!("[{n}]"));
            let builder = if made { builder } else { builder.timestamp(Timestamp(n as i64 * 400_000)) };
            let event = builder.build().expect("valid");
            event.set_id(EventId { epoch: 9, shard: 0, sequence: n * 7 });
            event
        };
        let kinds = ["token", "token", "tool", "token", "tool", "tool"];
        let events: Vec<Event> = (0..60).map(|n| event(n, kinds[n as usize % 6], n % 20 < 12)).collect();
        let base = PackingBase::of(&events[0], events[0].id().expect("published"));
        let heads: Vec<EventHead> =
            [0, 2].iter().map(|at| EventHead::of(&events[*at], u16::MAX).expect("short")).collect();
        let packed = |event: &Event| {
            let head = &heads[usize::from(event.event_type() == "tool")];
            let mut bytes = Vec::new();
            pack(event, event.id().expect("published"), &base, 0, head.differences(event), &mut bytes);
            (bytes, head)
        };
        let all: Vec<_> = events.iter().map(packed).collect();
        for encoding in Encoding::all() {
            let mut encoder = SequenceEncoder::new(encoding);
            let mut unpacked = 0;
            for (event, (bytes, head)) in events.iter().zip(&all) {
                let plain = PackedEvent::read(bytes, &base, Some(head)).plain().expect("it is like its head");
                let (mut got, mut want) = (Vec::new(), Vec::new());
                let unpack = || {
                    unpacked += 1;
                    event.clone()
                };
                encoder.put_plain(&plain, unpack, &mut got);
                encoding.put(event, None, &mut want);
                assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&want), "{encoding:?}");
            }
            let most = if SequenceEncoder::has_templates(encoding) { 12 } else { 60 };
            assert!(unpacked <= most, "{encoding:?}: {unpacked}");
        }
    }

    #[test]
    fn an_event_without_an_id_has_its_frame() {
        let event = Event::builder("x").build().expect("valid");
        for encoding in Encoding::all() {
            let mut got = Vec::new();
            SequenceEncoder::new(encoding).put(&event, &mut got);
            assert_eq!(got, encoding.encode(&event, None), "{encoding:?}");
        }
    }

    #[test]
    fn events_with_the_attributes_of_others_take_their_template() {
        let mut encoder = SequenceEncoder::new(Encoding::NativeSse);
        let mut alone = |kinds: &[&str]| {
            let before = encoder.encoded_alone();
            for (n, kind) in kinds.iter().enumerate() {
                let event =
                    Event::builder(kind).stream("run-1").json(format!("[{n}]")).build().expect("valid");
                event.set_id(EventId { epoch: 1, shard: 0, sequence: n as u64 });
                encoder.put(&event, &mut Vec::new());
            }
            encoder.encoded_alone() - before
        };
        assert_eq!(alone(&["token"; 10]), 1, "the second has the first one's attributes");
        assert_eq!(alone(&["token", "tool", "token", "tool", "tool", "token"]), 1);
        assert_eq!(alone(&["a", "b", "c", "d", "e", "a", "b", "c"]), 8, "no two neighbours are alike");
        assert_eq!(alone(&["a", "a", "b", "b", "c", "c", "token", "tool"]), 4, "the oldest template is gone");
        assert_eq!(alone(&["d", "d", "a", "b", "c", "d", "tool"]), 2, "as above");
    }
}

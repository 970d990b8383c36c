//! Encodes consecutive events: parts of a frame that the frame before has, too, are copied instead of encoded.
//!
//! Invariants:
//! - The bytes are those of [`Encoding::put`] for each event.
//! - A template belongs to one set of attributes. It is made once two neighbours have them, or the first packed event that has
//!   the attributes of its head. So a sequence in which no two have the same attributes costs little more than its single events.
//!
//! Most neighbours in a kept log differ only in their id, their time and their payload.

use smallvec::SmallVec;

use super::Encoding;
use super::frame_template::{FrameTemplate, has_templates};
use crate::event::Event;
use crate::event::packed::PlainEvent;

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
}

impl<'a> SequenceEncoder<'a> {
    pub(crate) fn new(encoding: Encoding) -> Self {
        Self { encoding, templates: SmallVec::new(), unmatched: None, encoded_alone: 0 }
    }

    /// Returns whether an encoding has templates.
    pub(crate) fn has_templates(encoding: Encoding) -> bool {
        has_templates(encoding)
    }

    /// Returns the number of events that were encoded without a template, or for which one was made.
    pub(crate) fn encoded_alone(&self) -> usize {
        self.encoded_alone
    }

    /// Appends an event's frame, for a client at the event's position.
    pub(crate) fn put(&mut self, event: &Event, frames: &mut Vec<u8>) {
        let (Some(at), Some(id)) = (self.template_of(event), event.id()) else {
            self.encoded_alone += 1;
            self.encoding.put(event, event.position(), frames);
            return;
        };
        let (time, payload) = (event.timestamp(), event.payload().as_bytes());
        match event.position() {
            None => self.templates[at].put(id, time, payload, frames),
            Some(position) => self.templates[at].put_at(id, time, payload, position, frames),
        }
    }

    /// Appends the frame of a packed event, which `unpack` builds.
    #[inline]
    pub(crate) fn put_plain(
        &mut self,
        event: &PlainEvent<'a>,
        unpack: impl FnOnce() -> Event,
        frames: &mut Vec<u8>,
    ) {
        let at = match self.templates.iter().position(|template| template.fits_plain(event)) {
            Some(at) => at,
            None => {
                let unpacked = unpack();
                self.encoded_alone += 1;
                let Some(template) = FrameTemplate::new(self.encoding, &unpacked, Some(event.head)) else {
                    self.encoding.put(&unpacked, unpacked.position(), frames);
                    return;
                };
                // An unpacked event has its head's attributes and nothing else.
                self.add(template)
            }
        };
        self.templates[at].put(event.id, event.timestamp, event.payload, frames);
    }

    /// Returns the index of an event's template. Makes one if the event before it without a template had the same attributes.
    fn template_of(&mut self, event: &Event) -> Option<usize> {
        event.id()?;
        if let Some(at) = self.templates.iter().position(|template| template.fits(event)) {
            return Some(at);
        }
        let is_repeated = self.unmatched.as_ref().is_some_and(|unmatched| event.has_head_of(unmatched));
        self.unmatched = Some(event.clone());
        let template = is_repeated.then(|| FrameTemplate::new(self.encoding, event, None)).flatten()?;
        Some(self.add(template))
    }

    /// Adds a template, and returns its index.
    fn add(&mut self, template: FrameTemplate<'a>) -> usize {
        self.templates.truncate(TEMPLATES_MAX - 1);
        self.templates.insert(0, Box::new(template));
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::packed::{EventHead, PackedEvent, PackingBase, pack};
    use crate::event::{EventId, Position, Timestamp};

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

//! Templates of frames: the texts around the payload that all events with some attributes have.
//!
//! Invariants:
//! - The bytes are those of [`Encoding::put`].
//! - The texts hold an id and a time. Those of the next event differ in few digits, which are written over, as long as its
//!   epoch, its shard, the length of its number and its second are equal. Otherwise the texts are made again.

use super::uuid::{Uuid, hex};
use super::{Encoding, envelope};
use crate::codec::{sse, ws};
use crate::event::packed::{EventHead, PlainEvent};
use crate::event::{Event, EventId, Position, Timestamp};

/// Start of an event object, before the text of the id.
const BEFORE_ID: &str = r#"{"event_id":""#;

/// Parts of the native `event` message around the event object, the UUID and the time.
const MESSAGE: &str = r#"{"type":"event","payload":"#;
const BEFORE_UUID: &str = r#"},"message_id":""#;
const AFTER_UUID: &str = r#"","timestamp":""#;
const AFTER_TIME: &str = r#"","correlation_id":null}"#;

/// Number of digits that are written over at once.
const DIGITS: usize = size_of::<u64>();

/// Length of a text that most templates' texts do not exceed, in bytes.
const TEXT_BYTES: usize = 256;

/// Length of the longest id and of a time, or of a UUID and a time, in bytes.
const NUMBERS_BYTES: usize = 68;

/// Maximum length of a message's header.
const HEADER_BYTES_MAX: usize = 10;

/// Number of microseconds in a second.
const MICROS: i64 = 1_000_000;

/// First number of nine digits.
const NINE_DIGITS: u64 = 100_000_000;

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

    /// Returns the text between the payload and the id of a frame that ends with it.
    fn before_last_id(self) -> &'static str {
        if self == Self::Stream { "}\nid: " } else { "\nid: " }
    }
}

/// Returns whether an encoding has templates.
pub(super) fn has_templates(encoding: Encoding) -> bool {
    FrameLayout::of(encoding).is_some()
}

/// Frame of events with some attributes.
#[derive(Debug)]
pub(super) struct FrameTemplate<'a> {
    /// Event with these attributes.
    event: Event,
    /// Head of packed events with these attributes.
    head: Option<&'a EventHead>,
    layout: FrameLayout,
    /// Whether the frame has a time.
    has_time: bool,
    before_id: String,
    before_time: String,
    before_payload: String,
    texts: FrameTexts,
}

impl<'a> FrameTemplate<'a> {
    /// Returns the template of events with the attributes of this one; `None` if the encoding has none. `head` is that of packed
    /// events with these attributes.
    pub(super) fn new(encoding: Encoding, event: &Event, head: Option<&'a EventHead>) -> Option<Self> {
        let (layout, is_named) = FrameLayout::of(encoding)?;
        let id = event.id()?;
        let (mut before, mut after) =
            (String::with_capacity(TEXT_BYTES), String::with_capacity(TEXT_BYTES + event.payload().len()));
        let has_time = match layout {
            FrameLayout::LeanStream => false,
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
        let mut first = match layout {
            FrameLayout::Stream | FrameLayout::LeanStream => {
                let mut first = Vec::with_capacity(TEXT_BYTES);
                // Without data, the lines end here.
                sse::encode_event(&mut first, is_named.then(|| event.event_type()), "", None);
                first.truncate(first.len() - 2);
                String::from_utf8(first).ok()?
            }
            FrameLayout::Message => MESSAGE.to_owned(),
            FrameLayout::LeanMessage => String::new(),
        };
        let (mut before_time, mut before_payload) = ("", "");
        if layout != FrameLayout::LeanStream {
            first.push_str(BEFORE_ID);
            before_time = before.strip_prefix(BEFORE_ID)?.strip_prefix(&*id.to_string())?;
            before_payload = after.strip_suffix('}')?.strip_suffix(event.payload())?;
        }
        let mut template = Self {
            event: event.clone(),
            head,
            layout,
            has_time,
            before_id: first,
            before_time: before_time.to_owned(),
            before_payload: before_payload.to_owned(),
            texts: FrameTexts::default(),
        };
        template.renew(id, event.timestamp());
        Some(template)
    }

    /// Returns whether a packed event's frame has these texts.
    #[inline]
    pub(super) fn fits_plain(&self, event: &PlainEvent<'_>) -> bool {
        self.head.is_some_and(|head| std::ptr::eq(head, event.head))
            && (self.layout != FrameLayout::LeanMessage || self.has_time == (event.timestamp != event.made))
    }

    /// Returns whether an event's frame has these texts.
    pub(super) fn fits(&self, event: &Event) -> bool {
        let has_its_time =
            self.layout != FrameLayout::LeanMessage || self.has_time == envelope::has_lean_time(event);
        has_its_time && event.has_head_of(&self.event)
    }

    /// Appends the frame of an event that the template fits.
    #[inline]
    pub(super) fn put(&mut self, id: EventId, time: Timestamp, payload: &[u8], frames: &mut Vec<u8>) {
        let digits = self.digits(id, time);
        let FrameTexts { before, after, .. } = &self.texts;
        let len = before.text.len() + payload.len() + after.text.len();
        frames.reserve(HEADER_BYTES_MAX + len);
        self.put_header(len, frames);
        before.put(&digits, frames);
        frames.extend_from_slice(payload);
        after.put(&digits, frames);
    }

    /// Appends the frame of an event that the template fits, for a client at this position.
    pub(super) fn put_at(
        &mut self,
        id: EventId,
        time: Timestamp,
        payload: &[u8],
        position: &Position,
        frames: &mut Vec<u8>,
    ) {
        let digits = self.digits(id, time);
        let FrameTexts { before, after, .. } = &self.texts;
        let len = before.text.len() + payload.len();
        match self.layout {
            FrameLayout::Stream | FrameLayout::LeanStream => {
                before.put(&digits, frames);
                frames.extend_from_slice(payload);
                frames.extend_from_slice(self.layout.before_last_id().as_bytes());
                frames.extend_from_slice(position.to_string().as_bytes());
                frames.extend_from_slice(b"\n\n");
            }
            FrameLayout::Message | FrameLayout::LeanMessage => {
                let end = format!(r#","position":"{position}"}}"#);
                self.put_header(len + after.text.len() - 1 + end.len(), frames);
                before.put(&digits, frames);
                frames.extend_from_slice(payload);
                after.put(&digits, frames);
                // The bracket comes after the position.
                frames.truncate(frames.len() - 1);
                frames.extend_from_slice(end.as_bytes());
            }
        }
    }

    /// Appends the header of a frame with this length of text, if it has one.
    #[inline]
    fn put_header(&self, len: usize, frames: &mut Vec<u8>) {
        if matches!(self.layout, FrameLayout::Message | FrameLayout::LeanMessage) {
            frames.extend_from_slice(&ws::header(ws::OpCode::Text, len));
        }
    }

    /// Returns the digits of an event's id and time. Makes the texts again if they do not fit.
    #[inline]
    fn digits(&mut self, id: EventId, time: Timestamp) -> EventDigits {
        let micros = match self.texts.micros(id, time) {
            Some(micros) => micros,
            None => {
                self.renew(id, time);
                time.0.rem_euclid(MICROS).cast_unsigned()
            }
        };
        let texts = &self.texts;
        EventDigits {
            number: eight_digits(id.sequence - texts.base) & !texts.kept,
            uuid: u64::from_le_bytes(hex(id.sequence as u32)),
            micros: if self.has_time { eight_digits(micros) & !SlotText::KEPT_OF_TIME } else { 0 },
        }
    }

    /// Makes the texts for ids and times like these.
    fn renew(&mut self, id: EventId, time: Timestamp) {
        let texts = FrameTexts::fitting(id, self.has_time.then_some(time));
        let id_text = EventId { shard: 0, ..id }.to_string();
        let shard = if id.shard == 0 { String::new() } else { format!(".{}", id.shard) };
        let mut before = SlotText::with_capacity(
            self.before_id.len() + self.before_time.len() + self.before_payload.len() + NUMBERS_BYTES,
        );
        let mut after =
            SlotText::with_capacity(BEFORE_UUID.len() + AFTER_UUID.len() + AFTER_TIME.len() + NUMBERS_BYTES);
        before.push(&self.before_id);
        if self.layout != FrameLayout::LeanStream {
            before.push_id(&id_text, texts.kept);
            before.push(&shard);
            before.push(&self.before_time);
            if self.has_time {
                before.push_time(time);
            }
            before.push(&self.before_payload);
        }
        match self.layout {
            FrameLayout::Stream | FrameLayout::LeanStream => {
                after.push(self.layout.before_last_id());
                after.push_id(&id_text, texts.kept);
                after.push(&shard);
                after.push("\n\n");
            }
            FrameLayout::Message => {
                after.push(BEFORE_UUID);
                after.push_uuid(id);
                after.push(AFTER_UUID);
                after.push_time(time);
                after.push(AFTER_TIME);
            }
            FrameLayout::LeanMessage => after.push("}"),
        }
        self.texts = FrameTexts { before, after, ..texts };
    }
}

/// Digits of one event in the texts, as eight bytes each.
struct EventDigits {
    number: u64,
    uuid: u64,
    micros: u64,
}

/// Texts before and after the payload, and the ids and times that they fit.
#[derive(Debug, Default)]
struct FrameTexts {
    epoch: u64,
    shard: u16,
    /// First sequence that the texts fit, and the number of sequences after it that they fit.
    first: u64,
    more: u64,
    /// Number that is subtracted from a sequence, so that at most eight digits are left.
    base: u64,
    /// Mask of the bytes that are kept of the eight before the end of a sequence.
    kept: u64,
    /// First time that the texts fit, and the number of microseconds from it that they fit; 0 if they fit no other time.
    second: i64,
    micros: u64,
    before: SlotText,
    after: SlotText,
}

impl FrameTexts {
    /// Returns empty texts for ids and times like these, or for ids like this one at any time.
    fn fitting(id: EventId, time: Option<Timestamp>) -> Self {
        const LOW: u64 = u32::MAX as u64;
        let sequence = id.sequence;
        let (first, last, base, kept) = if sequence < NINE_DIGITS {
            let more = sequence.checked_ilog10().unwrap_or(0);
            let first = if more == 0 { 0 } else { 10_u64.pow(more) };
            (first, 10_u64.pow(more + 1) - 1, 0, u64::MAX.checked_shr(8 * (more + 1)).unwrap_or(0))
        } else {
            let base = sequence - sequence % NINE_DIGITS;
            (base, base.saturating_add(NINE_DIGITS - 1), base, 0)
        };
        // A UUID's last eight digits are written over.
        let (first, last) = (first.max(sequence & !LOW), last.min(sequence | LOW));
        let (second, micros) = match time {
            Some(time) => match time.0.checked_sub(time.0.rem_euclid(MICROS)) {
                Some(second) => (second, i64::MAX.abs_diff(second).min(MICROS as u64 - 1) + 1),
                // The second began before the first time that there is.
                None => (0, 0),
            },
            None => (0, u64::MAX),
        };
        let (epoch, shard, more) = (id.epoch, id.shard, last - first);
        Self { epoch, shard, first, more, base, kept, second, micros, ..Self::default() }
    }

    /// Returns the microseconds of a time since its second began; `None` if the texts do not fit it or the id.
    #[inline]
    fn micros(&self, id: EventId, time: Timestamp) -> Option<u64> {
        let micros = time.0.wrapping_sub(self.second).cast_unsigned();
        let fits = id.epoch == self.epoch
            && id.shard == self.shard
            && id.sequence.wrapping_sub(self.first) <= self.more
            && micros < self.micros;
        fits.then_some(micros)
    }
}

/// Place of digits in a text.
#[derive(Clone, Copy, Debug)]
struct DigitSlot {
    /// Offset of the first digit.
    at: usize,
    /// Bytes of the text that stay, in the place of digits that the number does not have.
    kept: u64,
}

impl DigitSlot {
    #[inline]
    fn write(self, digits: u64, text: &mut [u8]) {
        if let Some(place) = text.get_mut(self.at..self.at + DIGITS) {
            place.copy_from_slice(&(self.kept | digits).to_le_bytes());
        }
    }
}

/// Text with places for digits.
#[derive(Debug, Default)]
struct SlotText {
    text: Vec<u8>,
    number: Option<DigitSlot>,
    uuid: Option<DigitSlot>,
    micros: Option<DigitSlot>,
}

impl SlotText {
    /// Mask of the bytes that are kept of the eight before the end of the microseconds: the last digit of the second, and a point.
    const KEPT_OF_TIME: u64 = 0xffff;

    /// Number of bytes after the microseconds.
    const AFTER_MICROS: usize = 1;

    fn with_capacity(bytes: usize) -> Self {
        Self { text: Vec::with_capacity(bytes), ..Self::default() }
    }

    fn push(&mut self, text: &str) {
        self.text.extend_from_slice(text.as_bytes());
    }

    /// Appends an id that ends with its sequence.
    fn push_id(&mut self, id: &str, kept: u64) {
        self.push(id);
        self.number = Some(self.slot(0, kept));
    }

    fn push_uuid(&mut self, id: EventId) {
        self.text.extend_from_slice(&Uuid::of_event(Some(id)).text());
        self.uuid = Some(self.slot(0, 0));
    }

    fn push_time(&mut self, time: Timestamp) {
        self.push(time.text().as_str());
        self.micros = Some(self.slot(Self::AFTER_MICROS, Self::KEPT_OF_TIME));
    }

    /// Returns the place of eight digits that end `after` bytes before the end of the text. `kept` is the mask of the bytes that
    /// stay.
    fn slot(&self, after: usize, kept: u64) -> DigitSlot {
        let at = self.text.len() - after - DIGITS;
        let mut bytes = [0; DIGITS];
        bytes.copy_from_slice(&self.text[at..at + DIGITS]);
        DigitSlot { at, kept: u64::from_le_bytes(bytes) & kept }
    }

    /// Appends the text with an event's digits.
    #[inline]
    fn put(&self, digits: &EventDigits, frames: &mut Vec<u8>) {
        let start = frames.len();
        frames.extend_from_slice(&self.text);
        let text = &mut frames[start..];
        for (slot, digits) in
            [(self.number, digits.number), (self.uuid, digits.uuid), (self.micros, digits.micros)]
        {
            if let Some(slot) = slot {
                slot.write(digits, text);
            }
        }
    }
}

/// Returns the digits of a number below 100,000,000, the first one in the lowest byte. All are made at once: four digits in each half,
/// then two in each quarter, then one in each byte.
#[inline]
fn eight_digits(number: u64) -> u64 {
    let fours = (number / 10_000) | ((number % 10_000) << 32);
    // A division by 100, and one by 10, as multiplications.
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let twos = hundreds | ((fours - hundreds * 100) << 16);
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    let ones = tens | ((twos - tens * 10) << 8);
    ones + 0x3030_3030_3030_3030
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_std() {
        let digits = |number: u64| eight_digits(number).to_le_bytes();
        for number in (0..NINE_DIGITS).step_by(9_973).chain(0..20_000).chain([NINE_DIGITS - 1]) {
            assert_eq!(digits(number), format!("{number:08}").as_bytes(), "{number}");
        }
    }

    #[test]
    fn texts_fit_until_a_number_is_longer() {
        let id = |sequence: u64| EventId { epoch: 1, shard: 0, sequence };
        let ends = |sequence: u64| {
            let texts = FrameTexts::fitting(id(sequence), None);
            let fits = |sequence: u64| texts.micros(id(sequence), Timestamp(0)).is_some();
            let (first, last) = (texts.first, texts.first + texts.more);
            assert!(fits(sequence) && fits(first) && fits(last), "{sequence}");
            assert!(!fits(first.wrapping_sub(1)) && !fits(last.wrapping_add(1)), "{sequence}");
            (first, last)
        };
        assert_eq!([ends(0), ends(9), ends(10)], [(0, 9), (0, 9), (10, 99)]);
        assert_eq!(ends(99_999_999), (10_000_000, 99_999_999));
        assert_eq!(ends(100_000_000), (100_000_000, 199_999_999));
        assert_eq!(ends(1 << 32), (1 << 32, 4_299_999_999));
        assert_eq!(ends((1 << 32) - 1), (4_200_000_000, (1 << 32) - 1));
        assert_eq!(ends(u64::MAX).1, u64::MAX);
    }

    #[test]
    fn texts_fit_the_times_of_one_second() {
        let id = EventId { epoch: 1, shard: 0, sequence: 5 };
        for time in [0, 999_999, -1, 1_769_509_293_123_456, i64::MIN, i64::MIN + 999_999, i64::MAX] {
            let texts = FrameTexts::fitting(id, Some(Timestamp(time)));
            for other in [time, i64::MIN, i64::MAX, 0, -1, time.wrapping_add(1), time.wrapping_sub(1_000_000)]
            {
                if let Some(micros) = texts.micros(id, Timestamp(other)) {
                    assert_eq!(other.div_euclid(MICROS), time.div_euclid(MICROS));
                    assert_eq!(micros, other.rem_euclid(MICROS).cast_unsigned());
                }
            }
        }
    }
}

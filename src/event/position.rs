//! Places in the event log: of one event (epoch of the bus, shard, sequence), and of a reader in all shards.
//!
//! Always: the text of an id or a position parses back to the same value.

use std::fmt;
use std::str::FromStr;

use smallvec::SmallVec;

/// Number of an event in its shard, from 0.
pub type Sequence = u64;

/// Id of an event: the epoch of its bus, the shard, and the number in it.
///
/// The text (`1f3k9x2q-42`, or `1f3k9x2q-42.3` in shard 3) is opaque to clients; they send it back to resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    /// Epoch: one life of a bus, or of an engine's log.
    pub epoch: u64,
    /// Shard: the ring within the bus.
    pub shard: u16,
    /// Number within the ring.
    pub sequence: Sequence,
}

impl EventId {
    /// Returns the id just before this sequence, to resume with that event. Before the first event of a shard it has
    /// the sequence `u64::MAX`, which no event has.
    #[cfg(feature = "server")]
    pub(crate) const fn before(epoch: u64, shard: u16, sequence: Sequence) -> Self {
        Self { epoch, shard, sequence: sequence.wrapping_sub(1) }
    }

    /// Writes the text of the id.
    pub(crate) fn write(self, out: &mut impl fmt::Write) -> fmt::Result {
        let mut text = ReverseText::new();
        if self.shard != 0 {
            text.push_number::<10>(u64::from(self.shard));
            text.push(b'.');
        }
        text.push_number::<10>(self.sequence);
        text.push(b'-');
        text.push_number::<36>(self.epoch);
        text.write(out)
    }

    /// Returns the sequence of the next event in the shard.
    pub(crate) const fn next_sequence(self) -> Sequence {
        self.sequence.wrapping_add(1)
    }
}

/// Error: the text is not an event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseEventIdError;

impl fmt::Display for ParseEventIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an event id")
    }
}

impl std::error::Error for ParseEventIdError {}

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// Maximum length of an id's text in bytes: an epoch in base 36, a sequence, a shard, and two separators.
const ID_BYTES_MAX: usize = 13 + 20 + 5 + 2;

/// Text that is written from its end. Every frame has an id, and this is faster than std's formatting of numbers.
struct ReverseText {
    bytes: [u8; ID_BYTES_MAX],
    at: usize,
}

impl ReverseText {
    const fn new() -> Self {
        Self { bytes: [0; ID_BYTES_MAX], at: ID_BYTES_MAX }
    }

    fn push(&mut self, byte: u8) {
        self.at -= 1;
        self.bytes[self.at] = byte;
    }

    fn push_number<const BASE: u64>(&mut self, mut number: u64) {
        // Two digits at a time: half the long divisions.
        while number >= BASE {
            let two = (number % (BASE * BASE)) as u32;
            number /= BASE * BASE;
            let (high, low) = (two / BASE as u32, two % BASE as u32);
            self.push(DIGITS[low as usize]);
            self.push(DIGITS[high as usize]);
            if number == 0 {
                return;
            }
        }
        self.push(DIGITS[number as usize]);
    }

    fn write(&self, out: &mut impl fmt::Write) -> fmt::Result {
        out.write_str(std::str::from_utf8(&self.bytes[self.at..]).map_err(|_| fmt::Error)?)
    }
}

fn write_base36(number: u64, out: &mut impl fmt::Write) -> fmt::Result {
    let mut text = ReverseText::new();
    text.push_number::<36>(number);
    text.write(out)
}

/// Parses digits and lower-case letters. Unlike std's parser it accepts no sign.
fn read_base36(text: &str) -> Result<u64, ParseEventIdError> {
    if is_plain(text) {
        u64::from_str_radix(text, 36).map_err(|_| ParseEventIdError)
    } else {
        Err(ParseEventIdError)
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

impl FromStr for EventId {
    type Err = ParseEventIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, rest) = text.split_once('-').ok_or(ParseEventIdError)?;
        let (sequence, shard) = rest.split_once('.').unwrap_or((rest, "0"));
        if !(is_plain(sequence) && is_plain(shard)) {
            return Err(ParseEventIdError);
        }
        Ok(Self {
            epoch: read_base36(epoch)?,
            shard: shard.parse().map_err(|_| ParseEventIdError)?,
            sequence: sequence.parse().map_err(|_| ParseEventIdError)?,
        })
    }
}

/// Position in every shard: the epoch, and the next sequence of each shard.
///
/// The text is opaque to clients. A client can resume from it, as from an id. With one shard it is the id of the last event
/// before the position. With more it is `1f3k9x2q~lfls.2s.-1a`: the sequences in base 36. All after the first are
/// differences from the previous one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub(crate) epoch: u64,
    pub(crate) sequences: SmallVec<[Sequence; 4]>,
}

/// Maximum number of shards of a bus.
const SHARDS_MAX: usize = 1024;

impl Position {
    /// Returns the position with this epoch and the next sequence of each shard.
    pub fn new(epoch: u64, sequences: impl IntoIterator<Item = Sequence>) -> Self {
        let mut position = Self { epoch, sequences: SmallVec::new() };
        // One by one: an iterator's size hint may be anything.
        for sequence in sequences {
            position.sequences.push(sequence);
        }
        position
    }

    /// Returns the epoch of the bus that the position belongs to.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns the next sequence of each shard.
    #[must_use]
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// Returns this position moved to just after an event in its shard. An event of another epoch or shard changes
    /// nothing.
    #[must_use]
    pub fn after(mut self, id: EventId) -> Self {
        if id.epoch == self.epoch
            && let Some(next) = self.sequences.get_mut(usize::from(id.shard))
        {
            *next = id.next_sequence();
        }
        self
    }

    /// Moves the position to just after an event. The first event of another epoch starts all shards at 0.
    #[cfg(feature = "server")]
    pub(crate) fn advance_past(&mut self, id: EventId) {
        if id.epoch != self.epoch {
            self.epoch = id.epoch;
            self.sequences.fill(0);
        }
        if let Some(next) = self.sequences.get_mut(usize::from(id.shard)) {
            *next = id.next_sequence();
        }
    }

    /// Returns the id just before the next sequence, for each shard.
    #[cfg(feature = "server")]
    pub(crate) fn ids(&self) -> impl Iterator<Item = EventId> {
        let all = self.sequences.iter().zip(0..);
        all.map(|(next, shard)| EventId::before(self.epoch, shard, *next))
    }

    /// Returns the epoch, and a number that grows with every event that a reader passes in it.
    #[cfg(feature = "server")]
    pub(crate) fn passed(&self) -> (u64, u128) {
        (self.epoch, self.sequences.iter().map(|next| u128::from(*next)).sum())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [next] = *self.sequences {
            return EventId { epoch: self.epoch, shard: 0, sequence: next.wrapping_sub(1) }.fmt(f);
        }
        write_base36(self.epoch, f)?;
        let mut before = 0;
        for (shard, next) in self.sequences.iter().enumerate() {
            f.write_str(if shard == 0 { "~" } else { "." })?;
            let more = next.wrapping_sub(before).cast_signed();
            if more < 0 && shard > 0 {
                f.write_str("-")?;
                write_base36(more.unsigned_abs(), f)?;
            } else {
                write_base36(next.wrapping_sub(before), f)?;
            }
            before = *next;
        }
        Ok(())
    }
}

impl FromStr for Position {
    type Err = ParseEventIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((epoch, rest)) = text.split_once('~') else {
            let id: EventId = text.parse()?;
            let is_alone = id.shard == 0;
            return if is_alone {
                Ok(Self::new(id.epoch, [id.next_sequence()]))
            } else {
                Err(ParseEventIdError)
            };
        };
        let mut position = Self::new(read_base36(epoch)?, []);
        let mut before: Sequence = 0;
        for (shard, part) in rest.split('.').enumerate() {
            before = match part.strip_prefix('-') {
                Some(less) if shard > 0 => before.wrapping_sub(read_base36(less)?),
                _ => before.wrapping_add(read_base36(part)?),
            };
            position.sequences.push(before);
        }
        if (2..=SHARDS_MAX).contains(&position.sequences.len()) {
            Ok(position)
        } else {
            Err(ParseEventIdError)
        }
    }
}

/// Place that a client asks to resume after: an event's id, or a position from a server's message.
#[cfg(feature = "server")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    Event(EventId),
    Position(Position),
    /// An id or a position, encrypted so that only a server can read it: see `server::auth::seal`.
    Sealed(Box<str>),
}

#[cfg(feature = "server")]
impl Since {
    /// First character of a sealed place. No other place begins with it.
    pub(crate) const SEALED: char = '~';
}

#[cfg(feature = "server")]
impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(id) => id.fmt(f),
            Self::Position(position) => position.fmt(f),
            Self::Sealed(text) => f.write_str(text),
        }
    }
}

#[cfg(feature = "server")]
impl FromStr for Since {
    type Err = ParseEventIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(hex) = text.strip_prefix(Self::SEALED) {
            let is_hex = hex.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'));
            return if is_hex { Ok(Self::Sealed(text.into())) } else { Err(ParseEventIdError) };
        }
        if text.contains('~') { text.parse().map(Self::Position) } else { text.parse().map(Self::Event) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ids_text_parses_back_to_it() {
        for (epoch, shard, sequence) in
            [(0, 0, 0), (u64::MAX, u16::MAX, u64::MAX), (36, 0, 7), (123_456_789, 3, 42)]
        {
            let id = EventId { epoch, shard, sequence };
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn other_text_is_no_id() {
        for text in [
            "",
            "-",
            "a-",
            "-1",
            "a-b",
            "A-1",
            "a-1.",
            "a-1.x",
            "a-1.70000",
            "a-+1",
            "zzzzzzzzzzzzzz-1",
            "a-1-2",
            "\0",
        ] {
            assert_eq!(text.parse::<EventId>(), Err(ParseEventIdError), "{text:?}");
        }
    }

    #[test]
    fn a_positions_text_parses_back_to_it() {
        for sequences in [
            &[0][..],
            &[7],
            &[0, 0],
            &[1_000_000, 1_000_100, 999_954],
            &[u64::MAX, 0, 1 << 63, u64::MAX],
            &[0, u64::MAX, (1 << 63) - 1, 1],
        ] {
            let position = Position::new(36, sequences.iter().copied());
            assert_eq!(position.to_string().parse(), Ok(position.clone()), "{position}");
        }
        let four = Position::new(123_456_789, [1_000_000, 1_000_100, 999_954, 1_000_007]);
        assert_eq!(four.to_string(), "21i3v9~lfls.2s.-42.1h");
        assert_eq!(Position::new(36, [8]).to_string(), "10-7", "of one shard it is an id");
    }

    #[test]
    fn other_text_is_no_position() {
        for text in [
            "", "~", "a~", "a~1", "a~1.", "a~-1.2", "a~1.--2", "a~+1.2", "a~1.2~3", "A~1.2", "a-1.2", "a~1.B",
        ] {
            assert_eq!(text.parse::<Position>(), Err(ParseEventIdError), "{text:?}");
        }
        let endless = format!("a~{}1", "1.".repeat(SHARDS_MAX));
        assert_eq!(endless.parse::<Position>(), Err(ParseEventIdError));
    }
}

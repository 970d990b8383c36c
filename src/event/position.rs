//! Where an event stands: sequence in its shard, epoch of the bus, and the id made of both.
//! Imports nothing of ours. Always: an id's text parses back to the same id.

use std::fmt;
use std::str::FromStr;

/// An event's number in its shard, from 0.
pub type Sequence = u64;

/// An event's place for good: which life of which bus, which shard, which number in it.
///
/// Its text (`1f3k9x2q-42`, or `1f3k9x2q-42.3` in shard 3) is opaque to clients; it is what they hand back
/// to resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    /// One life of a bus, or of an engine's log.
    pub epoch: u64,
    /// The ring within the bus.
    pub shard: u16,
    /// The number within the ring.
    pub sequence: Sequence,
}

impl EventId {
    /// The place just before this sequence: what resumes with it. Before the first event of a shard that is
    /// the number that no event ever has, `u64::MAX`.
    #[cfg(feature = "server")]
    pub(crate) const fn before(epoch: u64, shard: u16, sequence: Sequence) -> Self {
        Self { epoch, shard, sequence: sequence.wrapping_sub(1) }
    }

    /// The sequence of the event behind this one.
    pub(crate) const fn next_sequence(self) -> Sequence {
        self.sequence.wrapping_add(1)
    }
}

/// The text was not an event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseEventIdError;

impl fmt::Display for ParseEventIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an event id")
    }
}

impl std::error::Error for ParseEventIdError {}

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// Digits of `u64::MAX` in base 36.
const BASE36_MAX: usize = 13;

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0u8; BASE36_MAX];
        let mut at = BASE36_MAX;
        let mut rest = self.epoch;
        loop {
            at -= 1;
            digits[at] = DIGITS[(rest % 36) as usize];
            rest /= 36;
            if rest == 0 {
                break;
            }
        }
        let epoch = std::str::from_utf8(&digits[at..]).map_err(|_| fmt::Error)?;
        if self.shard == 0 {
            write!(f, "{epoch}-{}", self.sequence)
        } else {
            write!(f, "{epoch}-{}.{}", self.sequence, self.shard)
        }
    }
}

impl FromStr for EventId {
    type Err = ParseEventIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain =
            |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
        let (epoch, rest) = text.split_once('-').ok_or(ParseEventIdError)?;
        let (sequence, shard) = rest.split_once('.').unwrap_or((rest, "0"));
        if !(plain(epoch) && plain(sequence) && plain(shard)) {
            return Err(ParseEventIdError);
        }
        Ok(Self {
            epoch: u64::from_str_radix(epoch, 36).map_err(|_| ParseEventIdError)?,
            shard: shard.parse().map_err(|_| ParseEventIdError)?,
            sequence: sequence.parse().map_err(|_| ParseEventIdError)?,
        })
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
}

//! Marks in payloads: the time at which an event was due, and its key where clients get different events.
//!
//! Always: a mark has a fixed length, so a mark that is split between two reads is found after the second one.

use std::fmt::Write as _;

/// Start of a mark.
pub(super) const START: &[u8] = b"\"due\":";
const DUE_DIGITS: usize = 16;
const KEY: &str = ",\"key\":";
const KEY_DIGITS: usize = 8;

/// Form of the marks of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MarkForm {
    Due,
    DueAndKey,
}

/// Content of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Time at which the event was due, in nanoseconds.
    pub(super) due: u64,
    pub(super) key: u32,
}

impl Mark {
    /// Returns a number for a checksum: the sum over several events shows whether they are the expected ones.
    pub(super) fn token(self) -> u64 {
        (self.due ^ u64::from(self.key) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Reads digits after a leading 1, which keeps zeros: a JSON number cannot begin with one.
fn number(digits: &[u8]) -> u64 {
    digits[1..].iter().fold(0, |n, d| n * 10 + u64::from(d.wrapping_sub(b'0')))
}

impl MarkForm {
    /// Returns the length of a mark.
    pub(super) fn len(self) -> usize {
        START.len()
            + DUE_DIGITS
            + match self {
                Self::Due => 0,
                Self::DueAndKey => KEY.len() + KEY_DIGITS,
            }
    }

    /// Appends a mark: fields of a JSON object.
    pub(super) fn write(self, mark: Mark, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = write!(out, "\"due\":{:016}", 1_000_000_000_000_000 + mark.due);
        if self == Self::DueAndKey {
            let _ = write!(out, "{KEY}{}", 10_000_000 + mark.key);
        }
    }

    /// Reads the mark at the beginning of `bytes`. Returns `None` if it is incomplete.
    pub(super) fn read(self, bytes: &[u8]) -> Option<Mark> {
        let bytes = bytes.get(..self.len())?;
        let due = number(&bytes[START.len()..START.len() + DUE_DIGITS]);
        let key = match self {
            Self::Due => 0,
            Self::DueAndKey => number(&bytes[bytes.len() - KEY_DIGITS..]) as u32,
        };
        Some(Mark { due, key })
    }
}

/// Count of one client's deliveries, to compare with the events that were published for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClientCount {
    pub(super) events: u64,
    /// Sum of the marks' [tokens](Mark::token).
    pub(super) sum: u64,
}

impl ClientCount {
    pub(super) fn add(&mut self, mark: Mark) {
        self.events += 1;
        self.sum = self.sum.wrapping_add(mark.token());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_not_when_it_is_cut() {
        for (form, key) in [(MarkForm::Due, 0), (MarkForm::DueAndKey, 9_999_999), (MarkForm::DueAndKey, 0)] {
            let mark = Mark { due: 12_345_678_901, key };
            let mut text = String::new();
            form.write(mark, &mut text);
            assert_eq!(text.len(), form.len());
            assert!(serde_json::from_str::<serde_json::Value>(&format!("{{{text}}}")).is_ok(), "{text}");
            assert_eq!(form.read(text.as_bytes()), Some(mark));
            assert_eq!(form.read(&text.as_bytes()[..text.len() - 1]), None);
        }
    }

    #[test]
    fn a_lost_event_and_a_doubled_one_do_not_cancel_out() {
        let marks = [1, 2].map(|key| Mark { due: 5, key });
        let (mut want, mut have) = (ClientCount::default(), ClientCount::default());
        for mark in marks {
            want.add(mark);
        }
        for mark in [marks[0], marks[0]] {
            have.add(mark);
        }
        assert_eq!(want.events, have.events);
        assert_ne!(want, have);
    }
}

//! UUIDs as text (RFC 9562), for dialects that require such ids.

use std::fmt;

use crate::event::EventId;

/// 128 bits, written in five groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uuid(u128);

impl Uuid {
    /// Returns version 4 of these random bits.
    pub(crate) fn random(bits: u128) -> Self {
        Self(bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62))
    }

    /// Returns version 8 of a client's number.
    #[cfg(feature = "dialects")]
    pub(crate) fn of_client(client: u64) -> Self {
        let (high, low) = (u128::from(client >> 32), u128::from(client & 0xffff_ffff));
        Self(high << 96 | 0x8 << 76 | 0x2 << 62 | low)
    }

    /// Returns the client's number from the text of [`Self::of_client`].
    #[cfg(feature = "dialects")]
    pub(crate) fn to_client(text: &str) -> Option<u64> {
        let (high, low) = (text.get(..8)?, text.get(28..)?);
        let part = |text| u64::from_str_radix(text, 16).ok();
        let client = part(high)? << 32 | part(low)?;
        Self::of_client(client).to_string().eq_ignore_ascii_case(text).then_some(client)
    }

    /// Returns version 8 of an event's id: equal for every client, so that the frame can be shared. An unpublished event
    /// has the id with zeros.
    pub(crate) fn of_event(id: Option<EventId>) -> Self {
        let id = id.unwrap_or(EventId { epoch: 0, shard: 0, sequence: 0 });
        let epoch = u128::from(id.epoch & 0xffff_ffff_ffff);
        let shard = u128::from(id.shard & 0xfff);
        let sequence = u128::from(id.sequence & 0x3fff_ffff_ffff_ffff);
        Self(epoch << 80 | 0x8 << 76 | shard << 64 | 0x2 << 62 | sequence)
    }

    /// Returns the text. Every native frame has one, so this avoids the cost of std's formatting.
    pub(super) fn text(self) -> [u8; 36] {
        let word = |nth: u32| hex((self.0 >> (96 - 32 * nth)) as u32);
        let (b, c) = (word(1), word(2));
        let mut text = [b'-'; 36];
        text[..8].copy_from_slice(&word(0));
        text[9..13].copy_from_slice(&b[..4]);
        text[14..18].copy_from_slice(&b[4..]);
        text[19..23].copy_from_slice(&c[..4]);
        text[24..28].copy_from_slice(&c[4..]);
        text[28..].copy_from_slice(&word(3));
        text
    }

    /// Writes the text.
    pub(crate) fn write(self, out: &mut impl fmt::Write) -> fmt::Result {
        out.write_str(std::str::from_utf8(&self.text()).map_err(|_| fmt::Error)?)
    }

    /// Returns the UUID of a gap. The complement of the epoch distinguishes it from the event at that place.
    pub(crate) fn of_gap(to: Option<EventId>) -> Self {
        Self::of_event(to.map(|id| EventId { epoch: !id.epoch, ..id }))
    }
}

/// Returns the digits of 32 bits, all at once: each nibble is spread to a byte, and those over nine are moved up to the
/// letters.
pub(super) fn hex(bits: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut word = u64::from(bits);
    word = (word | word << 16) & 0x0000_ffff_0000_ffff;
    word = (word | word << 8) & 0x00ff_00ff_00ff_00ff;
    word = (word | word << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let is_letter = (word + 6 * ONES) >> 4 & ONES;
    (word + u64::from(b'0') * ONES + is_letter * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_std() {
        for bits in [0, 0x0123_4567, 0x89ab_cdef, 0xffff_ffff, 0x9a9a_a9a9, 0x1000_0001] {
            assert_eq!(hex(bits), format!("{bits:08x}").as_bytes(), "{bits:x}");
        }
    }

    #[test]
    fn uuids_have_their_version_and_variant() {
        let id = EventId { epoch: u64::MAX, shard: u16::MAX, sequence: u64::MAX };
        assert_eq!(Uuid::of_event(Some(id)).to_string(), "ffffffff-ffff-8fff-bfff-ffffffffffff");
        assert_eq!(Uuid::random(u128::MAX).to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        for client in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            let text = Uuid::of_client(client).to_string();
            assert_eq!(Uuid::to_client(&text), Some(client));
            assert_eq!(Uuid::to_client(&text.to_uppercase()), Some(client));
            assert_eq!(Uuid::to_client(&text[1..]), None);
            assert_eq!(Uuid::to_client(&text.replace("-8", "-4")), None);
        }
        for text in ["", "1", "00000000-0000-8000-8000-+00000000001", "äöüäöüäöüäöüäöüäöüäöüäöüäöü"]
        {
            assert_eq!(Uuid::to_client(text), None, "{text}");
        }
        assert_eq!(Uuid::random(0).to_string(), "00000000-0000-4000-8000-000000000000");
    }
}

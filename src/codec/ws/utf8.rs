//! Validates UTF-8 that arrives in pieces cut anywhere.
//!
//! Always: each byte is validated once, and a byte that makes the text invalid is refused when it arrives, not at the
//! message's end.

use serde::{Deserialize, Serialize};
use simdutf8::basic::from_utf8;

/// Text so far, and the first bytes of an incomplete character.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct TextBuffer {
    pub(super) valid: String,
    cut: [u8; 4],
    cut_len: u8,
}

/// Error: the bytes are not UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

impl TextBuffer {
    /// Returns the buffer of a complete text.
    pub(super) fn whole(bytes: Vec<u8>) -> Result<Self, NotUtf8> {
        let valid = String::from_utf8(bytes).map_err(|_| NotUtf8)?;
        Ok(Self { valid, ..Self::default() })
    }

    /// Returns the number of bytes so far.
    pub(super) fn len(&self) -> usize {
        self.valid.len() + usize::from(self.cut_len)
    }

    /// Appends a piece.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> Result<(), NotUtf8> {
        while self.cut_len > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
            piece = rest;
            let have = usize::from(self.cut_len);
            self.cut[have] = byte;
            // At most three bytes are pending, so `have` is at most 3 and the slice at most the array.
            match std::str::from_utf8(&self.cut[..=have]) {
                Ok(character) => {
                    self.valid.push_str(character);
                    self.cut_len = 0;
                }
                Err(error) if error.error_len().is_some() => return Err(NotUtf8),
                Err(_) => self.cut_len += 1,
            }
        }
        let (whole, cut) = piece.split_at(piece.len() - cut_at_end(piece));
        self.valid.push_str(from_utf8(whole).map_err(|_| NotUtf8)?);
        if !cut.is_empty() {
            match std::str::from_utf8(cut) {
                Err(error) if error.error_len().is_none() => {}
                _ => return Err(NotUtf8),
            }
            self.cut[..cut.len()].copy_from_slice(cut);
            self.cut_len = cut.len() as u8;
        }
        Ok(())
    }

    /// Returns whether no character is incomplete.
    pub(super) fn is_whole(&self) -> bool {
        self.cut_len == 0
    }
}

/// Returns the number of bytes at the end of `piece` that begin a character that is incomplete there.
fn cut_at_end(piece: &[u8]) -> usize {
    for back in 1..=piece.len().min(3) {
        let needs = match piece[piece.len() - back] {
            // A continuation byte: the character began before it.
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xFF => 4,
            0x00..=0x7F => 1,
        };
        return if needs > back { back } else { 0 };
    }
    0
}

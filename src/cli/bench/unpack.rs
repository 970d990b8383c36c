//! Compressed WebSocket messages (RFC 7692) as a client of the load receives them.
//!
//! Always: each client's bytes are split into frames. Only some clients inflate the messages, because inflating costs
//! more than everything else that the load does.

use std::io;

use flate2::{Decompress, FlushDecompress};

use super::speak::invalid;

/// Bit of a frame's first byte that marks a compressed message.
const COMPRESSED: u8 = 0x40;
/// Opcodes of text and binary messages.
const DATA: std::ops::RangeInclusive<u8> = 1..=2;
/// Last bytes of every compressed message. The sender omits them.
const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];

/// Decoder of one client's bytes.
pub(super) struct Unpack {
    /// Start of an incomplete frame.
    rest: Vec<u8>,
    inflate: Option<Decompress>,
}

impl Unpack {
    /// Creates the decoder of a client that inflates its messages, or of one that only counts them.
    pub(super) fn new(reads: bool) -> Self {
        Self { rest: Vec::new(), inflate: reads.then(|| Decompress::new(false)) }
    }

    /// Returns whether the client inflates its messages.
    pub(super) fn reads(&self) -> bool {
        self.inflate.is_some()
    }

    /// Takes received bytes and appends the text of messages to `text`. Returns the number of messages that
    /// were counted but not inflated.
    pub(super) fn take(&mut self, bytes: &[u8], text: &mut Vec<u8>) -> io::Result<u64> {
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let mut unread = 0;
        let mut at = 0;
        while let Some((first, payload, len)) = frame(&all[at..]) {
            at += len;
            if !DATA.contains(&(first & 0x0F)) {
                continue;
            }
            if first & COMPRESSED == 0 {
                text.extend_from_slice(payload);
            } else if let Some(inflate) = &mut self.inflate {
                for part in [payload, &TAIL] {
                    unpack(inflate, part, text)?;
                }
            } else {
                unread += 1;
            }
        }
        all.drain(..at);
        self.rest = all;
        Ok(unread)
    }
}

/// Splits off the first frame of a server: its first byte, its payload, and its total length.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (&first, rest) = bytes.split_first()?;
    let (len, head): (usize, usize) = match *rest.first()? {
        126 => (usize::from(u16::from_be_bytes(*rest.get(1..)?.first_chunk()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(*rest.get(1..)?.first_chunk()?)).ok()?, 10),
        len => (usize::from(len), 2),
    };
    let end = head.checked_add(len)?;
    Some((first, bytes.get(head..end)?, end))
}

fn unpack(inflate: &mut Decompress, mut part: &[u8], text: &mut Vec<u8>) -> io::Result<()> {
    loop {
        text.reserve(part.len() * 4 + 64);
        let (read, written) = (inflate.total_in(), inflate.total_out());
        inflate
            .decompress_vec(part, text, FlushDecompress::Sync)
            .map_err(|error| invalid(format!("a message can't be inflated: {error}")))?;
        part = &part[(inflate.total_in() - read) as usize..];
        // The decoder holds back no more than fits into the rest of the buffer.
        if part.is_empty() && (text.len() < text.capacity() || inflate.total_out() == written) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    #[test]
    fn messages_are_read_or_counted_wherever_they_are_cut() {
        let mut compress = Compress::new(Compression::new(1), false);
        let mut bytes = vec![0x89, 0];
        let mut want = Vec::new();
        for n in 0..40 {
            let message = format!("message {n} {}", "again ".repeat(n * 40)).into_bytes();
            let mut packed = Vec::with_capacity(message.len() + 100);
            compress.compress_vec(&message, &mut packed, FlushCompress::Sync).expect("compressed");
            packed.truncate(packed.len() - TAIL.len());
            bytes.push(0x80 | COMPRESSED | 1);
            if packed.len() < 126 {
                bytes.push(packed.len() as u8);
            } else {
                bytes.push(126);
                bytes.extend((packed.len() as u16).to_be_bytes());
            }
            bytes.extend(&packed);
            want.extend(message);
        }
        bytes.extend(b"\x81\x05plain");
        want.extend(b"plain");
        for step in [1, 7, 100, bytes.len()] {
            let (mut reads, mut counts) = (Unpack::new(true), Unpack::new(false));
            let (mut text, mut plain, mut unread) = (Vec::new(), Vec::new(), 0);
            for part in bytes.chunks(step) {
                assert_eq!(reads.take(part, &mut text).expect("valid"), 0);
                unread += counts.take(part, &mut plain).expect("valid");
            }
            assert_eq!(text, want);
            assert_eq!((unread, plain.as_slice()), (40, b"plain".as_slice()));
        }
    }
}

//! DEFLATE (RFC 1951) in blocks that end on a byte: a compressor that keeps or drops its window on demand, and a
//! decompressor with a hard limit.
//!
//! Always:
//! - A block that [`Deflater::block`] appends ends with the `00 00 FF FF` of an empty stored block, so a reader can
//!   decompress all of its input at once.
//! - The first block after [`Deflater::start_afresh`] can be decompressed by any reader, whatever it read before.
//!
//! Without the feature `deflate` neither does anything; see [`AVAILABLE`].

/// Whether this build can compress.
pub const AVAILABLE: bool = cfg!(feature = "deflate");

/// End of a block: an empty stored block without its first byte.
pub const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];

/// Block without content. It leaves the window unchanged.
pub const EMPTY_BLOCK: [u8; 5] = [0, 0, 0, 0xFF, 0xFF];

/// Start of a gzip stream (RFC 1952): DEFLATE, no name, no time, unknown system. Our streams end only with their
/// connection, so they have no trailer.
pub const GZIP_HEADER: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF];

/// Largest window, in address bits.
pub const WINDOW_BITS_MAX: u8 = 15;

/// Maximum length of a stored block, in bytes: its length field has 16 bits.
const STORED_BYTES_MAX: usize = 0xFFFF;

/// Appends `bytes` uncompressed, in blocks that any decompressor reads. They shift its window as other input does.
pub fn store(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() + EMPTY_BLOCK.len() * bytes.len().div_ceil(STORED_BYTES_MAX));
    for piece in bytes.chunks(STORED_BYTES_MAX) {
        // A chunk is no longer than the length field allows.
        let len = piece.len() as u16;
        out.push(0);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(piece);
    }
}

/// Returns the memory of a compressor with this window, in bytes: twice the window, the hash chains through it, the
/// heads of the chains, and pending output.
#[must_use]
pub const fn window_bytes(bits: u8) -> usize {
    (4 << bits) + 204 * 1024
}

/// Reason why a message can't be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflateError {
    /// The input is not DEFLATE, or does not end where it should.
    Corrupt,
    /// The output is longer than the limit.
    TooLong,
}

#[cfg(feature = "deflate")]
mod backend {
    use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

    use super::{InflateError, TAIL};

    /// Last, empty block of a stream. A decompressor accepts it only between two blocks.
    const LAST_BLOCK: [u8; 5] = [1, 0, 0, 0xFF, 0xFF];

    /// Minimum free space of the output, in bytes: a block's end, and a margin. With less space zlib may write its
    /// marker twice.
    const ROOM_MIN: usize = 64;

    /// Compressor with its window.
    #[derive(Debug)]
    pub struct Deflater(Compress);

    impl Deflater {
        /// Returns a compressor with a window of `1 << bits` bytes (8 to 15) and a `level` of 1 (fast) to 9 (small).
        ///
        /// Allocates [`window_bytes`](super::window_bytes). Returns `None` if this build has no compressor.
        #[must_use]
        pub fn new(bits: u8, level: u32) -> Option<Self> {
            // zlib has no window of 8 bits. With 9 bits no distance is over 250, which a decompressor with 8 bits
            // accepts too.
            let bits = bits.clamp(9, 15);
            Some(Self(Compress::new_with_window_bits(Compression::new(level), false, bits)))
        }

        /// Drops the window, so that the next block refers to no earlier input.
        pub fn start_afresh(&mut self) {
            self.0.reset();
        }

        /// Compresses `input` and appends it, up to the end of a byte. Appends nothing if `input` is empty.
        pub fn block(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
            out.reserve(input.len() / 2 + ROOM_MIN);
            loop {
                let before = self.0.total_in();
                // The call fails only after the end of the stream, which is never written.
                let _ = self.0.compress_vec(input, out, FlushCompress::Sync);
                input = &input[(self.0.total_in() - before) as usize..];
                if input.is_empty() && out.len() < out.capacity() {
                    return;
                }
                out.reserve(input.len() / 2 + ROOM_MIN);
            }
        }
    }

    /// Decompressor for messages that do not refer to earlier ones.
    ///
    /// The first use allocates about 40 KB, which are kept.
    #[derive(Debug, Default)]
    pub struct Inflater(Option<Decompress>);

    impl Inflater {
        /// Decompresses one message, without its last block's [`TAIL`], to at most `max` bytes.
        ///
        /// # Errors
        ///
        /// [`InflateError`] if the input is not DEFLATE, or is longer than `max` when decompressed.
        pub fn message(&mut self, input: &[u8], max: usize) -> Result<Vec<u8>, InflateError> {
            let inflate = self.0.get_or_insert_with(|| Decompress::new(false));
            inflate.reset(false);
            let mut out = Vec::with_capacity(input.len().saturating_mul(4).clamp(64, max.max(64)));
            let mut ended = false;
            for (mut piece, is_last) in [(input, false), (&TAIL, false), (&LAST_BLOCK, true)] {
                while !piece.is_empty() {
                    if ended {
                        // The previous block was marked as the last one (RFC 7692, 7.2.3.4). The next one may still
                        // refer to it.
                        inflate.reset(false);
                        let window = &out[out.len().saturating_sub(1 << 15)..];
                        inflate.set_dictionary(window).map_err(|_| InflateError::Corrupt)?;
                    }
                    let (read, written) = (inflate.total_in(), out.len());
                    if out.len() == out.capacity() {
                        // One byte over the limit is enough to see that there is more.
                        out.reserve_exact(out.len().max(64).min(max + 1 - out.len()));
                    }
                    let status = inflate
                        .decompress_vec(piece, &mut out, FlushDecompress::Sync)
                        .map_err(|_| InflateError::Corrupt)?;
                    if out.len() > max {
                        return Err(InflateError::TooLong);
                    }
                    let taken = (inflate.total_in() - read) as usize;
                    piece = &piece[taken..];
                    ended = status == Status::StreamEnd;
                    if taken == 0 && out.len() == written && !ended && out.len() < out.capacity() {
                        return Err(InflateError::Corrupt);
                    }
                }
                if is_last && !ended {
                    return Err(InflateError::Corrupt);
                }
            }
            Ok(out)
        }
    }
}

#[cfg(not(feature = "deflate"))]
mod backend {
    use super::InflateError;

    /// Stand-in for the compressor, which this build does not have.
    #[derive(Debug)]
    pub enum Deflater {}

    impl Deflater {
        /// Returns `None`.
        #[must_use]
        pub fn new(_: u8, _: u32) -> Option<Self> {
            None
        }

        /// Never called.
        pub fn start_afresh(&mut self) {
            match *self {}
        }

        /// Never called.
        pub fn block(&mut self, _: &[u8], _: &mut Vec<u8>) {
            match *self {}
        }
    }

    /// Stand-in for the decompressor, which this build does not have.
    #[derive(Debug, Default)]
    pub struct Inflater(());

    impl Inflater {
        /// Always fails. No client is offered compression in this build.
        ///
        /// # Errors
        ///
        /// Always [`InflateError::Corrupt`].
        #[allow(clippy::unused_self, reason = "as the other one")]
        pub fn message(&mut self, _: &[u8], _: usize) -> Result<Vec<u8>, InflateError> {
            Err(InflateError::Corrupt)
        }
    }
}

pub use backend::{Deflater, Inflater};

#[cfg(all(test, feature = "deflate"))]
mod tests {
    use miniz_oxide::inflate::stream::{InflateState, inflate};
    use miniz_oxide::{DataFormat, MZFlush};
    use proptest::prelude::*;

    use super::*;

    /// Decompresses `bytes` with another implementation, which keeps its window in `state`.
    fn read(state: &mut InflateState, mut bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut piece = vec![0; 4096];
        loop {
            let result = inflate(state, bytes, &mut piece, MZFlush::None);
            out.extend_from_slice(&piece[..result.bytes_written]);
            bytes = &bytes[result.bytes_consumed..];
            match result.status {
                Ok(_) if bytes.is_empty() && result.bytes_written < piece.len() => return out,
                Ok(_) => {}
                Err(miniz_oxide::MZError::Buf) if bytes.is_empty() => return out,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    fn message(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Deflater::new(15, 6).expect("built in").block(bytes, &mut out);
        assert_eq!(out.split_off(out.len() - 4), TAIL);
        out
    }

    proptest! {
        #[test]
        fn another_implementation_reads_every_block_at_once(
            bits in 8_u8..16,
            level in 1_u32..10,
            blocks in proptest::collection::vec((0_u8..4, 1_usize..3000, any::<u8>()), 1..40),
        ) {
            let mut deflater = Deflater::new(bits, level).expect("built in");
            let mut reader = InflateState::new_boxed(DataFormat::Raw);
            for (what, len, seed) in blocks {
                let block: Vec<u8> = (0..len).map(|n| match what {
                    0 => b'x',
                    1 => ((n % 7) as u8).wrapping_add(seed),
                    _ => (n as u32).wrapping_mul(2_654_435_761).rotate_left(u32::from(seed)) as u8,
                }).collect();
                let mut out = Vec::new();
                if what == 3 {
                    // A new reader can start at this block, and a reader of the earlier blocks can continue.
                    deflater.start_afresh();
                    reader = InflateState::new_boxed(DataFormat::Raw);
                    store(&mut out, b"what was read before");
                    out.extend_from_slice(&EMPTY_BLOCK);
                    assert_eq!(read(&mut reader, &out), b"what was read before");
                    out.clear();
                }
                deflater.block(&block, &mut out);
                assert!(out.ends_with(&TAIL));
                assert_eq!(read(&mut reader, &out), block);
            }
        }

        #[test]
        fn input_that_is_not_deflate_is_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Inflater::default().message(&bytes, 1000);
        }
    }

    #[test]
    fn an_empty_block_has_no_text_and_does_not_move_the_window() {
        let mut deflater = Deflater::new(15, 6).expect("built in");
        let mut reader = InflateState::new_boxed(DataFormat::Raw);
        for text in ["the same words", "the same words again", "and the same words again"] {
            let mut out = Vec::new();
            deflater.block(text.as_bytes(), &mut out);
            out.extend_from_slice(&EMPTY_BLOCK);
            assert_eq!(read(&mut reader, &out), text.as_bytes());
        }
    }

    #[test]
    fn a_message_may_reach_the_limit_and_not_exceed_it() {
        let bomb = message(&vec![0; 10_000_000]);
        assert!(bomb.len() < 12_000);
        let mut inflater = Inflater::default();
        assert_eq!(inflater.message(&bomb, 65_536), Err(InflateError::TooLong));
        assert_eq!(inflater.message(&bomb, 9_999_999), Err(InflateError::TooLong));
        assert_eq!(inflater.message(&bomb, 10_000_000).map(|out| out.len()), Ok(10_000_000));
        assert_eq!(inflater.message(&message(b"x"), 1), Ok(b"x".to_vec()));
        assert_eq!(inflater.message(&message(b"xy"), 1), Err(InflateError::TooLong));
        // The empty message of RFC 7692, 7.2.3.6.
        assert_eq!(inflater.message(&[0], 0), Ok(Vec::new()));
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let mut inflater = Inflater::default();
        let hello = Ok(b"Hello".to_vec());
        // 7.2.3.1: one block; 7.2.3.3: stored; 7.2.3.4: marked as the last; 7.2.3.5: two blocks.
        for bytes in [
            &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00][..],
            &[0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00],
            &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00],
            &[0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00],
        ] {
            assert_eq!(inflater.message(bytes, 5), hello, "{bytes:x?}");
        }
    }

    #[test]
    fn a_message_that_was_cut_is_an_error() {
        let whole = message("a message that was cut is an error, wherever".repeat(3).as_bytes());
        let mut inflater = Inflater::default();
        for len in 0..whole.len() - 1 {
            assert_eq!(inflater.message(&whole[..len], 1000), Err(InflateError::Corrupt), "{len} bytes");
        }
        assert!(inflater.message(&whole, 1000).is_ok());
    }
}

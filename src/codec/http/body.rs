//! Decodes a request's body from bytes that are cut anywhere.

use serde::{Deserialize, Serialize};

use super::error::RequestError;
use super::limits::HttpLimits;
use super::request::BodyFraming;

/// Maximum length of one chunk's size line, and of all trailers together, in bytes.
const LINE_BYTES_MAX: usize = 4096;

/// Maximum number of digits of a chunk's size: 16 of them fill a `u64`.
const SIZE_DIGITS_MAX: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum BodyState {
    /// Number of bytes that are left of the body, or of the chunk.
    Data(u64),
    /// Within the digits of a chunk's size.
    Size {
        size: u64,
        digits: u8,
    },
    /// In the chunk's extensions, after the size. A quoted string there cannot hold a line end.
    Extension(u64),
    /// After the carriage return of a size line.
    SizeEnd(u64),
    /// After a chunk's data: CR, then LF.
    DataCr,
    DataLf,
    /// In the trailers, at the start of a line or within one.
    TrailerStart,
    Trailer,
    TrailerLf,
    /// After the carriage return of the last, empty line.
    End,
    Done,
}

/// Decoder of one body.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BodyDecoder {
    state: BodyState,
    chunked: bool,
    line_bytes: usize,
    limit: u64,
}

impl BodyDecoder {
    /// Returns a decoder for a body with this framing.
    ///
    /// # Errors
    ///
    /// [`RequestError::BodyTooLong`] if the declared length is over the limit.
    pub fn new(body: &BodyFraming, limits: &HttpLimits) -> Result<Self, RequestError> {
        let limit = limits.max_body_bytes;
        let state = match *body {
            BodyFraming::None => BodyState::Done,
            BodyFraming::Length(length) if length > limit => return Err(RequestError::BodyTooLong { limit }),
            BodyFraming::Length(length) => BodyState::Data(length),
            BodyFraming::Chunked => BodyState::Size { size: 0, digits: 0 },
        };
        Ok(Self { state, chunked: matches!(body, BodyFraming::Chunked), line_bytes: 0, limit })
    }

    /// Takes bytes from the front of `input` and appends the body's content to `out`. Returns how many bytes it took,
    /// and whether the body is complete.
    ///
    /// `out` must hold the content of this body decoded so far, and nothing else.
    ///
    /// # Errors
    ///
    /// A [`RequestError`] if the chunks are malformed or a limit is exceeded.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, bool), RequestError> {
        let mut at = 0;
        while self.state != BodyState::Done {
            if let BodyState::Data(left) = self.state {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                out.extend_from_slice(&input[at..at + taken]);
                at += taken;
                let left = left - taken as u64;
                self.state = match (left, self.chunked) {
                    (0, true) => BodyState::DataCr,
                    (0, false) => BodyState::Done,
                    _ => BodyState::Data(left),
                };
                if left > 0 {
                    break;
                }
                continue;
            }
            let Some(&byte) = input.get(at) else { break };
            at += 1;
            self.line_bytes += 1;
            if self.line_bytes > LINE_BYTES_MAX {
                return Err(RequestError::ChunkLineTooLong { limit: LINE_BYTES_MAX });
            }
            self.state = self.step(byte, out.len() as u64)?;
        }
        Ok((at, self.state == BodyState::Done))
    }

    fn step(&mut self, byte: u8, decoded: u64) -> Result<BodyState, RequestError> {
        Ok(match (self.state, byte) {
            (BodyState::Size { size, digits }, byte) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(RequestError::BadChunk);
                }
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                BodyState::Size { size: size << 4 | digit, digits: digits + 1 }
            }
            (BodyState::Size { digits: 0, .. }, _) => return Err(RequestError::BadChunk),
            (BodyState::Size { size, .. } | BodyState::Extension(size), b'\r') => BodyState::SizeEnd(size),
            (BodyState::Size { size, .. }, b';' | b' ' | b'\t') => BodyState::Extension(size),
            (BodyState::Extension(size), b'\t' | 0x20..=0x7e | 0x80..) => BodyState::Extension(size),
            (BodyState::SizeEnd(0), b'\n') => {
                self.line_bytes = 0;
                BodyState::TrailerStart
            }
            (BodyState::SizeEnd(size), b'\n') => {
                if size > self.limit.saturating_sub(decoded) {
                    return Err(RequestError::BodyTooLong { limit: self.limit });
                }
                self.line_bytes = 0;
                BodyState::Data(size)
            }
            (BodyState::DataCr, b'\r') => BodyState::DataLf,
            (BodyState::DataLf, b'\n') => {
                self.line_bytes = 0;
                BodyState::Size { size: 0, digits: 0 }
            }
            // Trailers are read to their end and dropped.
            (BodyState::TrailerStart, b'\r') => BodyState::End,
            (BodyState::TrailerStart | BodyState::Trailer, b'\t' | 0x20..=0x7e | 0x80..) => {
                BodyState::Trailer
            }
            (BodyState::Trailer, b'\r') => BodyState::TrailerLf,
            (BodyState::TrailerLf, b'\n') => BodyState::TrailerStart,
            (BodyState::End, b'\n') => BodyState::Done,
            _ => return Err(RequestError::BadChunk),
        })
    }
}

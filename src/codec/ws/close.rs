//! Close frames: code and reason (RFC 6455, 5.5.1 and 7.4).

use bytes::Bytes;

use super::error::ProtocolError;
use super::frame::{CONTROL_BYTES_MAX, OpCode, frame};

/// Content of a close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// Close code.
    pub code: u16,
    /// Reason as text; may be empty.
    pub reason: &'a str,
}

impl<'a> CloseFrame<'a> {
    /// Parses a close frame's payload, which may be empty.
    pub(super) fn parse(payload: &'a [u8]) -> Result<Option<Self>, ProtocolError> {
        let Some((code, reason)) = payload.split_first_chunk::<2>() else {
            return if payload.is_empty() { Ok(None) } else { Err(ProtocolError::ShortClose) };
        };
        let code = u16::from_be_bytes(*code);
        if !is_valid_close_code(code) {
            return Err(ProtocolError::InvalidCloseCode(code));
        }
        let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::InvalidCloseReason)?;
        Ok(Some(Self { code, reason }))
    }
}

/// Returns whether a peer may send `code`: a registered code that is allowed in frames, or one of the ranges for
/// libraries and applications.
#[must_use]
pub const fn is_valid_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Encodes a server's close frame. The reason is cut, between characters, at the 123 bytes that a control frame has for
/// it.
#[must_use]
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    debug_assert!(is_valid_close_code(code), "close code {code} must not be sent");
    let mut end = reason.len().min(CONTROL_BYTES_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason[..end];
    let mut payload = [0; CONTROL_BYTES_MAX];
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
    frame(OpCode::Close, &payload[..2 + reason.len()])
}

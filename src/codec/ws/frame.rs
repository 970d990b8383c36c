//! Frames: headers in both directions, masking, and whole frames of a server (RFC 6455, 5).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::ProtocolError;
use super::limits::{Role, WsLimits};

/// Maximum payload of a control frame, in bytes.
pub(super) const CONTROL_BYTES_MAX: usize = 125;
/// Maximum size of a header, in bytes: two bytes, a 64-bit length, a mask.
pub(super) const HEADER_BYTES_MAX: usize = 14;

/// Kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum OpCode {
    /// Continuation of a fragmented message.
    Continuation = 0x0,
    /// UTF-8 text.
    Text = 0x1,
    /// Bytes.
    Binary = 0x2,
    /// Close: the last frame that its sender sends.
    Close = 0x8,
    /// Ping. The receiver responds with a pong with the same payload.
    Ping = 0x9,
    /// Pong: the response to a ping, or unsolicited.
    Pong = 0xA,
}

impl OpCode {
    /// Returns whether this is the opcode of a control frame, which may come between the fragments of a message.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self as u8 >= 0x8
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }
}

/// Header of a server's frame: 2, 4 or 10 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    bytes: [u8; 10],
    len: u8,
}

impl std::ops::Deref for FrameHeader {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Returns the header of a server's unfragmented frame with a payload of `len` bytes.
#[must_use]
pub fn header(op: OpCode, len: usize) -> FrameHeader {
    debug_assert!(!op.is_control() || len <= CONTROL_BYTES_MAX, "control frame of {len} bytes");
    let mut bytes = [0; 10];
    bytes[0] = 0x80 | op as u8;
    let header_len = match len {
        0..=125 => {
            bytes[1] = len as u8;
            2
        }
        126..=0xFFFF => {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            4
        }
        _ => {
            bytes[1] = 127;
            bytes[2..].copy_from_slice(&(len as u64).to_be_bytes());
            10
        }
    };
    FrameHeader { bytes, len: header_len }
}

/// Appends a server's frame: unfragmented, not masked, with the shortest length field. A control frame's payload must
/// have at most 125 bytes.
pub fn encode(out: &mut Vec<u8>, op: OpCode, payload: &[u8]) {
    let header = header(op, payload.len());
    out.reserve(header.len() + payload.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
}

/// Server's ping without a payload (RFC 6455, 5.5.2).
pub(crate) const PING: &[u8] = &[0x89, 0];

/// Returns a server's frame in an allocation of exactly its size.
#[must_use]
pub fn frame(op: OpCode, payload: &[u8]) -> Bytes {
    let header = header(op, payload.len());
    let mut out = Vec::with_capacity(header.len() + payload.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    out.into()
}

/// Bit of the first byte that marks a compressed message (RFC 7692, 6).
const RSV1: u8 = 0x40;

/// Appends a server's frame with a payload of DEFLATE data, without the tail of its last block.
pub fn encode_deflated(out: &mut Vec<u8>, op: OpCode, payload: &[u8]) {
    let at = out.len();
    encode(out, op, payload);
    out[at] |= RSV1;
}

/// Returns the opcode and payload of a server's whole, unfragmented frame; `None` if `frame` is not one.
#[must_use]
pub fn payload_of(frame: &[u8]) -> Option<(OpCode, &[u8])> {
    let [first, second, ..] = *frame else { return None };
    let at = match second {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    Some((OpCode::from_bits(first & 0x0F)?, frame.get(at..)?))
}

/// Masks or unmasks in place; the operation is its own inverse. `offset` is the number of payload bytes before these.
pub fn unmask(payload: &mut [u8], mask: [u8; 4], offset: usize) {
    let mut turned = mask;
    turned.rotate_left(offset % 4);
    let [a, b, c, d] = turned;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(word.to_ne_bytes()) {
        *byte ^= mask;
    }
}

/// Header of a received frame.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct ReceivedHeader {
    pub(super) op: OpCode,
    pub(super) fin: bool,
    /// Whether the whole message is compressed.
    pub(super) deflated: bool,
    pub(super) len: usize,
    /// Mask; zero if the frame is not masked.
    pub(super) mask: [u8; 4],
}

/// Parses a header at the front of `bytes`. Returns the header and its length in bytes, or `None` if more bytes are
/// needed. Checks each byte as soon as it is there, so a fault is reported at the byte that causes it.
///
/// `open` is the length so far of the message that is being received in fragments, if any. `inflates` allows compressed
/// messages.
pub(super) fn parse(
    bytes: &[u8],
    role: Role,
    limits: &WsLimits,
    open: Option<usize>,
    inflates: bool,
) -> Result<Option<(ReceivedHeader, usize)>, ProtocolError> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let fin = first & 0x80 != 0;
    let deflated = first & RSV1 != 0;
    if first & 0x30 != 0 || (deflated && !inflates) {
        return Err(ProtocolError::ReservedBits);
    }
    let op = OpCode::from_bits(first & 0x0F).ok_or(ProtocolError::ReservedOpcode(first & 0x0F))?;
    // The first frame of a message sets the bit for all of them.
    if deflated && !matches!(op, OpCode::Text | OpCode::Binary) {
        return Err(ProtocolError::ReservedBits);
    }
    match (op, open) {
        _ if op.is_control() && !fin => return Err(ProtocolError::FragmentedControl),
        (OpCode::Continuation, None) => return Err(ProtocolError::UnexpectedContinuation),
        (OpCode::Text | OpCode::Binary, Some(_)) => return Err(ProtocolError::ExpectedContinuation),
        _ => {}
    }

    let Some(&second) = bytes.get(1) else { return Ok(None) };
    let masked = second & 0x80 != 0;
    match role {
        Role::Server if !masked => return Err(ProtocolError::NotMasked),
        Role::Client if masked => return Err(ProtocolError::Masked),
        _ => {}
    }
    let short = second & 0x7F;
    if op.is_control() && usize::from(short) > CONTROL_BYTES_MAX {
        return Err(ProtocolError::LongControl);
    }
    if op == OpCode::Close && short == 1 {
        return Err(ProtocolError::ShortClose);
    }

    let (len, at) = match short {
        126 => {
            let Some(&long) = bytes[2..].first_chunk::<2>() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(long)), 4)
        }
        127 => {
            let Some(&long) = bytes[2..].first_chunk::<8>() else { return Ok(None) };
            (u64::from_be_bytes(long), 10)
        }
        _ => (u64::from(short), 2),
    };
    if len >> 63 != 0 {
        return Err(ProtocolError::LengthTopBit);
    }
    if (short == 126 && len < 126) || (short == 127 && len <= 0xFFFF) {
        return Err(ProtocolError::NonMinimalLength);
    }
    if !op.is_control() {
        if len > limits.max_frame_bytes as u64 {
            return Err(ProtocolError::FrameTooLong { len, max: limits.max_frame_bytes });
        }
        let message = len + open.unwrap_or(0) as u64;
        if message > limits.max_message_bytes as u64 {
            return Err(ProtocolError::MessageTooLong { len: message, max: limits.max_message_bytes });
        }
    }

    let mask = match (masked, bytes[at..].first_chunk::<4>()) {
        (false, _) => [0; 4],
        (true, Some(&mask)) => mask,
        (true, None) => return Ok(None),
    };
    let header_len = if masked { at + 4 } else { at };
    // Bounded by a limit that is a `usize`, or by 125.
    Ok(Some((ReceivedHeader { op, fin, deflated, len: len as usize, mask }, header_len)))
}

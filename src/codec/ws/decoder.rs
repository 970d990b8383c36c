//! Decodes messages from reads cut anywhere (RFC 6455, 5 and 6.2; RFC 7692, 6.2).
//!
//! Always:
//! - A server's idle decoder takes one word.
//! - Only a frame that is split over reads, or a fragmented message, is copied. Its buffer grows with the bytes
//!   received, not with the length announced.

use serde::{Deserialize, Serialize};

use super::close::CloseFrame;
use super::error::ProtocolError;
use super::frame::{HEADER_BYTES_MAX, OpCode, ReceivedHeader, parse, unmask};
use super::limits::{Role, WsLimits};
use super::utf8::{NotUtf8, TextBuffer};
use crate::codec::deflate::{InflateError, Inflater};

/// Message from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WsMessage<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
    /// Ping. The receiver responds with a pong with the same payload.
    Ping(&'a [u8]),
    /// Pong: the response to a ping, or unsolicited.
    Pong(&'a [u8]),
    /// Close. The peer sends no more messages; bytes after this need not be decoded.
    Close(Option<CloseFrame<'a>>),
}

/// Decoder of one connection's frames.
///
/// The role is in the pending state, because a server has very many idle decoders. A decoder without that state is a
/// server's.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "SavedDecoder", into = "SavedDecoder")]
pub struct Decoder {
    pending: Option<Box<Pending>>,
}

/// Saved form of a decoder.
#[derive(Serialize, Deserialize)]
struct SavedDecoder {
    role: Role,
    pending: Option<Box<Pending>>,
}

impl From<SavedDecoder> for Decoder {
    fn from(saved: SavedDecoder) -> Self {
        let SavedDecoder { role, pending } = saved;
        let mut decoder = Self::new(role);
        if let Some(pending) = pending {
            decoder.pending = Some(Box::new(Pending { role, ..*pending }));
        }
        decoder
    }
}

impl From<Decoder> for SavedDecoder {
    fn from(decoder: Decoder) -> Self {
        Self { role: decoder.role(), pending: decoder.pending }
    }
}

/// State between reads.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Pending {
    /// Role, which the saved form stores outside this struct.
    #[serde(skip)]
    role: Role,
    /// Bytes of an incomplete header.
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    /// Frame with an incomplete payload, and the number of payload bytes received.
    frame: Option<(ReceivedHeader, usize)>,
    /// Payload of an incomplete control frame.
    control: Vec<u8>,
    /// Fragments or pieces of a message received so far.
    message: Option<PartialMessage>,
    /// Which of `message` and `control` was returned, to be dropped at the next call.
    delivered: Option<Delivered>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum PartialMessage {
    Text(TextBuffer),
    Binary(Vec<u8>),
    /// A compressed message of this kind.
    Deflated(OpCode, Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Delivered {
    Message,
    Control,
}

impl PartialMessage {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) | Self::Deflated(_, bytes) => bytes.len(),
        }
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), ProtocolError> {
        match self {
            Self::Text(text) => text.push(piece).map_err(|NotUtf8| ProtocolError::InvalidUtf8),
            Self::Binary(bytes) | Self::Deflated(_, bytes) => {
                bytes.extend_from_slice(piece);
                Ok(())
            }
        }
    }
}

impl Decoder {
    /// Returns a decoder for one end of a connection.
    #[must_use]
    pub fn new(role: Role) -> Self {
        let pending = || Box::new(Pending { role, ..Pending::default() });
        Self { pending: (role != Role::Server).then(pending) }
    }

    fn role(&self) -> Role {
        self.pending.as_ref().map_or(Role::Server, |pending| pending.role)
    }

    /// Takes bytes from the front of `input`, unmasking them in place, up to the end of the first message.
    ///
    /// Returns the number of bytes taken, and the message. After a message there may be more in the rest of `input`:
    /// call again. Without a message, all of `input` was taken. Copies, and allocates, only for a split frame or
    /// message.
    ///
    /// # Errors
    ///
    /// A [`ProtocolError`] if the peer breaks the protocol or a limit. The connection is over then, as it is after a
    /// close message: the results of further calls have no meaning.
    pub fn decode<'a>(
        &'a mut self,
        input: &'a mut [u8],
        limits: &WsLimits,
    ) -> Result<(usize, Option<WsMessage<'a>>), ProtocolError> {
        self.decode_with(input, limits, None)
    }

    /// Takes bytes as [`decode`](Self::decode) does, on a connection with compressed messages.
    ///
    /// The agreement must have `client_no_context_takeover`: messages do not refer to earlier ones, so one [`Inflater`]
    /// serves any number of decoders.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode), and if a message can't be decompressed within the limit.
    pub fn decode_with<'a>(
        &'a mut self,
        input: &'a mut [u8],
        limits: &WsLimits,
        mut inflater: Option<&mut Inflater>,
    ) -> Result<(usize, Option<WsMessage<'a>>), ProtocolError> {
        self.release();
        let mut at = 0;
        loop {
            // A frame begun in an earlier read?
            if self.pending.as_ref().is_some_and(|p| p.frame.is_some()) {
                let (taken, done) = self.resume(&mut input[at..])?;
                at += taken;
                match done {
                    Some(op) => {
                        self.expand(op, limits, inflater)?;
                        return Ok((at, Some(self.deliver(op)?)));
                    }
                    None if at == input.len() => return Ok((at, None)),
                    None => continue,
                }
            }
            let Some((frame, header_len)) = self.next_header(&input[at..], limits, inflater.is_some())?
            else {
                return Ok((input.len(), None));
            };
            at += header_len;
            let whole = input.len() - at >= frame.len;
            let alone = frame.op.is_control() || (frame.fin && frame.op != OpCode::Continuation);
            if whole && alone {
                let payload = &mut input[at..at + frame.len];
                unmask(payload, frame.mask, 0);
                if let Some(inflater) = inflater.as_mut().filter(|_| frame.deflated) {
                    let data = expanded(frame.op, payload, limits, inflater)?;
                    self.pending.get_or_insert_default().message = Some(data);
                    return Ok((at + frame.len, Some(self.deliver(frame.op)?)));
                }
                return Ok((at + frame.len, Some(message(frame.op, payload)?)));
            }
            self.begin(frame);
        }
    }

    /// Frees the memory of the last message. [`decode`](Self::decode) does this too. Call it when no message may follow
    /// soon, so that a quiet connection holds no buffer.
    pub fn release(&mut self) {
        let Some(pending) = &mut self.pending else { return };
        match pending.delivered.take() {
            Some(Delivered::Message) => pending.message = None,
            Some(Delivered::Control) => pending.control = Vec::new(),
            None => {}
        }
        let is_idle = pending.header_len == 0 && pending.frame.is_none() && pending.message.is_none();
        if is_idle && pending.role == Role::Server {
            self.pending = None;
        }
    }

    /// Returns the heap memory held for a split frame or message, in bytes.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.pending.as_ref().map_or(0, |p| {
            let message = match &p.message {
                Some(PartialMessage::Text(text)) => text.valid.capacity(),
                Some(PartialMessage::Binary(bytes) | PartialMessage::Deflated(_, bytes)) => bytes.capacity(),
                None => 0,
            };
            size_of::<Pending>() + p.control.capacity() + message
        })
    }

    /// Returns the next frame's header and the number of bytes of `input` that it took. Stores an incomplete header.
    fn next_header(
        &mut self,
        input: &[u8],
        limits: &WsLimits,
        inflates: bool,
    ) -> Result<Option<(ReceivedHeader, usize)>, ProtocolError> {
        let open = self.pending.as_ref().and_then(|p| p.message.as_ref()).map(PartialMessage::len);
        let kept = self.pending.as_ref().map_or(0, |p| usize::from(p.header_len));
        if kept == 0 {
            let parsed = parse(input, self.role(), limits, open, inflates)?;
            if parsed.is_none() && !input.is_empty() {
                let pending = self.pending.get_or_insert_default();
                // An incomplete header is shorter than the longest one.
                pending.header[..input.len()].copy_from_slice(input);
                pending.header_len = input.len() as u8;
            }
            return Ok(parsed);
        }
        let pending = self.pending.get_or_insert_default();
        let added = input.len().min(HEADER_BYTES_MAX - kept);
        pending.header[kept..kept + added].copy_from_slice(&input[..added]);
        match parse(&pending.header[..kept + added], pending.role, limits, open, inflates)? {
            Some((frame, len)) => {
                pending.header_len = 0;
                // The stored bytes alone were no header, so the header took some bytes of `input`.
                Ok(Some((frame, len - kept)))
            }
            None => {
                pending.header_len = (kept + added) as u8;
                Ok(None)
            }
        }
    }

    /// Starts buffering a frame's payload.
    fn begin(&mut self, frame: ReceivedHeader) {
        let pending = self.pending.get_or_insert_default();
        match frame.op {
            op if frame.deflated => pending.message = Some(PartialMessage::Deflated(op, Vec::new())),
            OpCode::Text => pending.message = Some(PartialMessage::Text(TextBuffer::default())),
            OpCode::Binary => pending.message = Some(PartialMessage::Binary(Vec::new())),
            _ => {}
        }
        pending.frame = Some((frame, 0));
    }

    /// Buffers the bytes of `input` that belong to the frame begun. Returns their number, and the frame's opcode if it
    /// completes a message.
    fn resume(&mut self, input: &mut [u8]) -> Result<(usize, Option<OpCode>), ProtocolError> {
        let Some(pending) = &mut self.pending else { return Ok((0, None)) };
        let Some((frame, got)) = &mut pending.frame else { return Ok((0, None)) };
        let taken = input.len().min(frame.len - *got);
        let piece = &mut input[..taken];
        unmask(piece, frame.mask, *got);
        if frame.op.is_control() {
            pending.control.extend_from_slice(piece);
        } else if let Some(message) = &mut pending.message {
            message.push(piece)?;
        }
        *got += taken;
        if *got < frame.len {
            return Ok((taken, None));
        }
        let (op, fin) = (frame.op, frame.fin);
        pending.frame = None;
        Ok((taken, fin.then_some(op)))
    }

    /// Decompresses the message that `resume` completed, if it is compressed.
    fn expand(
        &mut self,
        op: OpCode,
        limits: &WsLimits,
        inflater: Option<&mut Inflater>,
    ) -> Result<(), ProtocolError> {
        if op.is_control() {
            return Ok(());
        }
        if let Some(pending) = &mut self.pending
            && let Some(PartialMessage::Deflated(op, bytes)) = &pending.message
        {
            // `parse` refuses compressed frames if there is no inflater.
            let inflater = inflater.ok_or(ProtocolError::ReservedBits)?;
            pending.message = Some(expanded(*op, bytes, limits, inflater)?);
        }
        Ok(())
    }

    /// Returns the message that `resume` completed.
    fn deliver(&mut self, op: OpCode) -> Result<WsMessage<'_>, ProtocolError> {
        let pending = self.pending.get_or_insert_default();
        if op.is_control() {
            pending.delivered = Some(Delivered::Control);
            return message(op, &pending.control);
        }
        pending.delivered = Some(Delivered::Message);
        match &pending.message {
            Some(PartialMessage::Text(text)) if text.is_whole() => Ok(WsMessage::Text(&text.valid)),
            Some(PartialMessage::Text(_)) => Err(ProtocolError::InvalidUtf8),
            Some(PartialMessage::Binary(bytes)) => Ok(WsMessage::Binary(bytes)),
            // `expand` has replaced it.
            Some(PartialMessage::Deflated(..)) => Err(ProtocolError::BadDeflate),
            // `begin` and `parse` make sure that a data frame has a message. This is the error for a continuation that
            // has nothing to continue.
            None => Err(ProtocolError::UnexpectedContinuation),
        }
    }
}

/// Decompresses a message.
fn expanded(
    op: OpCode,
    bytes: &[u8],
    limits: &WsLimits,
    inflater: &mut Inflater,
) -> Result<PartialMessage, ProtocolError> {
    let max = limits.max_message_bytes;
    let content = inflater.message(bytes, max).map_err(|error| match error {
        InflateError::Corrupt => ProtocolError::BadDeflate,
        InflateError::TooLong => ProtocolError::ExpandsTooFar { max },
    })?;
    Ok(match op {
        OpCode::Text => {
            PartialMessage::Text(TextBuffer::whole(content).map_err(|NotUtf8| ProtocolError::InvalidUtf8)?)
        }
        _ => PartialMessage::Binary(content),
    })
}

/// Returns the message of a frame that is a message by itself.
fn message(op: OpCode, payload: &[u8]) -> Result<WsMessage<'_>, ProtocolError> {
    Ok(match op {
        OpCode::Text => {
            WsMessage::Text(simdutf8::basic::from_utf8(payload).map_err(|_| ProtocolError::InvalidUtf8)?)
        }
        OpCode::Continuation | OpCode::Binary => WsMessage::Binary(payload),
        OpCode::Ping => WsMessage::Ping(payload),
        OpCode::Pong => WsMessage::Pong(payload),
        OpCode::Close => WsMessage::Close(CloseFrame::parse(payload)?),
    })
}

//! WebSocket frames and handshake.

pub mod handshake;

use std::fmt;

use bytes::Bytes;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpCode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

pub fn frame(op: OpCode, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(payload.len() + 10);
    encode(&mut out, op, payload);
    out.into()
}

pub fn encode(out: &mut Vec<u8>, op: OpCode, payload: &[u8]) {
    out.push(0x80 | op as u8);
    match payload.len() {
        len @ 0..=125 => out.push(len as u8),
        len @ 126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let mut payload = code.to_be_bytes().to_vec();
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    frame(OpCode::Close, &payload)
}

#[derive(Clone, Copy, Debug)]
pub struct WsLimits {
    pub max_message_bytes: usize,
    pub max_frame_bytes: usize,
}

#[derive(Debug)]
pub struct CloseFrame<'a> {
    pub code: u16,
    pub reason: &'a str,
}

#[derive(Debug)]
pub enum Message<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    Close(Option<CloseFrame<'a>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    Unmasked,
    Reserved,
    TooLong,
    Utf8,
    Other,
}

impl ProtocolError {
    pub fn close_code(self) -> u16 {
        match self {
            Self::TooLong => 1009,
            Self::Utf8 => 1007,
            _ => 1002,
        }
    }
    pub fn label(self) -> &'static str {
        "ws"
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    message: Vec<u8>,
    text: bool,
    fragmented: bool,
    control: Vec<u8>,
}

impl Decoder {
    pub fn decode<'a>(
        &'a mut self,
        input: &'a mut [u8],
        limits: &WsLimits,
    ) -> Result<(usize, Option<Message<'a>>), ProtocolError> {
        let had = self.buffer.len();
        self.buffer.extend_from_slice(input);
        let b = &mut self.buffer;
        let more = |b: &Vec<u8>| Ok((b.len() - had, None));
        if b.len() < 2 {
            return more(b);
        }
        let (fin, op, masked, len7) = (b[0] & 0x80 != 0, b[0] & 15, b[1] & 0x80 != 0, b[1] & 0x7f);
        if b[0] & 0x70 != 0 || matches!(op, 3..=7 | 11..) {
            return Err(ProtocolError::Reserved);
        }
        if !masked {
            return Err(ProtocolError::Unmasked);
        }
        if op >= 8 && (!fin || len7 > 125) {
            return Err(ProtocolError::Other);
        }
        let (head, len) = match len7 {
            126 if b.len() < 4 => return more(b),
            126 => (4, u64::from(u16::from_be_bytes([b[2], b[3]]))),
            127 if b.len() < 10 => return more(b),
            127 => (10, u64::from_be_bytes([b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9]])),
            n => (2, u64::from(n)),
        };
        if len > limits.max_frame_bytes as u64
            || self.message.len() as u64 + len > limits.max_message_bytes as u64
        {
            return Err(ProtocolError::TooLong);
        }
        let total = head + 4 + len as usize;
        if b.len() < total {
            return more(b);
        }
        let used = total - had;
        let key = [b[head], b[head + 1], b[head + 2], b[head + 3]];
        let mut payload = b[head + 4..total].to_vec();
        b.clear();
        for (at, byte) in payload.iter_mut().enumerate() {
            *byte ^= key[at % 4];
        }
        if op >= 8 {
            self.control = payload;
            let p = &self.control;
            let message = match op {
                9 => Message::Ping(p),
                10 => Message::Pong(p),
                _ if p.is_empty() => Message::Close(None),
                _ if p.len() == 1 => return Err(ProtocolError::Other),
                _ => {
                    let code = u16::from_be_bytes([p[0], p[1]]);
                    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                        return Err(ProtocolError::Other);
                    }
                    let reason = std::str::from_utf8(&p[2..]).map_err(|_| ProtocolError::Utf8)?;
                    Message::Close(Some(CloseFrame { code, reason }))
                }
            };
            return Ok((used, Some(message)));
        }
        if (op == 0) != self.fragmented {
            return Err(ProtocolError::Other);
        }
        if op != 0 {
            self.text = op == 1;
            self.message.clear();
        }
        self.message.extend_from_slice(&payload);
        self.fragmented = !fin;
        if !fin {
            return Ok((used, None));
        }
        if self.text {
            let text = std::str::from_utf8(&self.message).map_err(|_| ProtocolError::Utf8)?;
            return Ok((used, Some(Message::Text(text))));
        }
        Ok((used, Some(Message::Binary(&self.message))))
    }
}

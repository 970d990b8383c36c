//! A WebSocket client, written from RFC 6455, that can break every rule of it.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::{Response, read_head};
use super::wire::{Wire, deadline};

/// Key of RFC 6455, section 1.3, and its answer there.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// First byte: FIN, reserved bits, opcode.
    pub first: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn opcode(&self) -> u8 {
        self.first & 0xf
    }

    /// Returns a close frame's code and reason; 1005 if it has none.
    pub fn close(&self) -> (u16, String) {
        match self.payload.as_slice() {
            [high, low, reason @ ..] => (
                u16::from_be_bytes([*high, *low]),
                String::from_utf8(reason.to_vec()).expect("a reason is UTF-8"),
            ),
            _ => (1005, String::new()),
        }
    }
}

/// Returns a frame with any first byte, masked or not, of any claimed length.
pub fn raw_frame(first: u8, mask: Option<[u8; 4]>, claimed_len: usize, payload: &[u8]) -> Vec<u8> {
    let mask_bit = if mask.is_some() { 0x80 } else { 0 };
    let mut out = vec![first];
    match claimed_len {
        0..126 => out.push(mask_bit | claimed_len as u8),
        126..65_536 => {
            out.push(mask_bit | 0x7e);
            out.extend_from_slice(&(claimed_len as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 0x7f);
            out.extend_from_slice(&(claimed_len as u64).to_be_bytes());
        }
    }
    match mask {
        Some(mask) => {
            out.extend_from_slice(&mask);
            out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
        None => out.extend_from_slice(payload),
    }
    out
}

/// Returns a complete, valid client frame.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    raw_frame(0x80 | opcode, Some([0x12, 0x34, 0x56, 0x78]), payload.len(), payload)
}

pub fn upgrade_request(path: &str, more_headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Version: 13\r\n{more_headers}\r\n"
    )
}

pub struct Ws {
    pub wire: Wire,
    pub response: Response,
}

impl Ws {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::over(Wire::connect(addr), "/ws", "")
    }

    pub fn over(mut wire: Wire, path: &str, more_headers: &str) -> Self {
        wire.send(upgrade_request(path, more_headers).as_bytes());
        let response = read_head(&mut wire, deadline()).expect("an answer to the handshake");
        assert_eq!(response.status, 101, "{response:?}");
        assert_eq!(response.header("sec-websocket-accept"), Some(ACCEPT));
        Self { wire, response }
    }

    /// Connects, subscribes with this payload, and waits for the ack.
    pub fn subscribed(addr: SocketAddr, payload: Value) -> Self {
        let mut ws = Self::connect(addr);
        let answer = ws.ask(&json!({"type": "subscribe", "payload": payload}));
        assert_eq!(answer["type"], "ack", "{answer}");
        ws
    }

    pub fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    pub fn send_text(&mut self, text: &str) {
        self.wire.send(&frame(TEXT, text.as_bytes()));
    }

    /// Returns the next frame. A server's frame must be unmasked.
    pub fn read_frame(&mut self, until: Instant) -> io::Result<Frame> {
        let head = self.wire.take(2, until)?;
        assert_eq!(head[1] & 0x80, 0, "a server's frame is not masked");
        let len = match head[1] {
            126 => u16::from_be_bytes(self.wire.take(2, until)?.try_into().expect("two bytes")).into(),
            127 => u64::from_be_bytes(self.wire.take(8, until)?.try_into().expect("eight bytes")),
            len => len.into(),
        };
        Ok(Frame { first: head[0], payload: self.wire.take(len as usize, until)? })
    }

    /// Returns the next message. Skips the end of a past. Pings are not answered.
    pub fn message(&mut self) -> Value {
        loop {
            let message = self.any_message();
            if message["type"] != "history_end" {
                return message;
            }
        }
    }

    /// Returns the next message of any type. Skips pings without an answer.
    pub fn any_message(&mut self) -> Value {
        loop {
            let frame = self.read_frame(deadline()).expect("a message");
            match frame.opcode() {
                TEXT => return serde_json::from_slice(&frame.payload).expect("a message is JSON"),
                PING | PONG => {}
                _ => panic!("not a message: {frame:?} {:?}", frame.close()),
            }
        }
    }

    /// Sends a message and returns the next one received.
    pub fn ask(&mut self, message: &Value) -> Value {
        self.send(message);
        self.message()
    }

    /// Returns the next message's payload. The message must be an event.
    pub fn event(&mut self) -> Value {
        let message = self.message();
        assert_eq!(message["type"], "event", "{message}");
        message["payload"].clone()
    }

    /// Returns whether no message arrives for this long. Pings and the end of a past don't count.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            match self.read_frame(until) {
                Ok(frame) if matches!(frame.opcode(), PING | PONG) => {}
                Ok(frame) if frame.payload.starts_with(br#"{"type":"history_end""#) => {}
                Ok(frame) => {
                    eprintln!("received: {}", String::from_utf8_lossy(&frame.payload));
                    return false;
                }
                Err(error) => return error.kind() == io::ErrorKind::TimedOut,
            }
        }
    }

    /// Reads to the close frame and the end of the connection. Returns code and reason.
    pub fn closed(&mut self) -> (u16, String) {
        self.try_closed(deadline()).expect("a close frame, and nothing after it")
    }

    /// Like [`Self::closed`], with a time limit.
    pub fn try_closed(&mut self, until: Instant) -> io::Result<(u16, String)> {
        loop {
            let frame = self.read_frame(until)?;
            if frame.opcode() == CLOSE {
                let rest = self.wire.take_rest(until)?;
                if !rest.is_empty() {
                    return Err(io::Error::other(format!("bytes after the close frame: {rest:?}")));
                }
                return Ok(frame.close());
            }
        }
    }
}

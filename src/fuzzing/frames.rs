//! Compares the frame decoder with tungstenite. Compiled under `cfg(fuzzing)` and in tests only.

use tungstenite::protocol::{Role as TheirRole, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message as Theirs};

use crate::codec::ws::{Decoder, ProtocolError, Role, WsLimits, WsMessage};

const LIMITS: WsLimits = WsLimits { max_message_bytes: 600, max_frame_bytes: 400 };

fn decode(bytes: &[u8], pieces: usize, role: Role) -> (Vec<(u8, Vec<u8>)>, Option<ProtocolError>) {
    let mut decoder = Decoder::new(role);
    let mut messages = Vec::new();
    for piece in bytes.chunks(pieces) {
        let mut piece = piece.to_vec();
        let mut input = piece.as_mut_slice();
        while !input.is_empty() {
            let (used, message) = match decoder.decode(input, &LIMITS) {
                Ok(progress) => progress,
                Err(error) => return (messages, Some(error)),
            };
            match message {
                Some(WsMessage::Text(text)) => messages.push((1, text.as_bytes().to_vec())),
                Some(WsMessage::Binary(bytes)) => messages.push((2, bytes.to_vec())),
                Some(WsMessage::Close(frame)) => {
                    messages.push((8, frame.map_or(Vec::new(), |f| reason(f.code, f.reason.as_bytes()))));
                    return (messages, None);
                }
                Some(WsMessage::Ping(bytes)) => messages.push((9, bytes.to_vec())),
                Some(WsMessage::Pong(bytes)) => messages.push((10, bytes.to_vec())),
                None => assert_eq!(used, input.len(), "bytes left without a message"),
            }
            input = &mut input[used..];
        }
        assert!(decoder.buffered_bytes() < 3000);
    }
    (messages, None)
}

/// Returns the part of a close on which both decoders must agree. Code 1014 (bad gateway) is registered, and ours
/// accepts it. Tungstenite does not know it, and turns it into a protocol error (1002, with its own text).
fn reason(code: u16, reason: &[u8]) -> Vec<u8> {
    match code {
        1014 => b"Protocol violation".to_vec(),
        _ => reason.to_vec(),
    }
}

/// Socket that yields these bytes and then would block. Written bytes are dropped.
struct Wire<'a>(&'a [u8]);

impl std::io::Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() { Err(std::io::ErrorKind::WouldBlock.into()) } else { self.0.read(buffer) }
    }
}

impl std::io::Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Decodes `bytes` by tungstenite, up to a close, a fault or the end. Returns the messages, and whether there was a fault.
fn decode_theirs(bytes: &[u8], role: Role) -> (Vec<(u8, Vec<u8>)>, bool) {
    let role = if role == Role::Server { TheirRole::Server } else { TheirRole::Client };
    let config = WebSocketConfig::default()
        .max_message_size(Some(LIMITS.max_message_bytes))
        .max_frame_size(Some(LIMITS.max_frame_bytes));
    let mut socket = WebSocket::from_raw_socket(Wire(bytes), role, Some(config));
    let mut messages = Vec::new();
    loop {
        messages.push(match socket.read() {
            Ok(Theirs::Text(text)) => (1, text.as_bytes().to_vec()),
            Ok(Theirs::Binary(bytes)) => (2, bytes.to_vec()),
            Ok(Theirs::Ping(bytes)) => (9, bytes.to_vec()),
            Ok(Theirs::Pong(bytes)) => (10, bytes.to_vec()),
            Ok(Theirs::Close(frame)) => {
                messages.push((8, frame.map_or(Vec::new(), |f| reason(f.code.into(), f.reason.as_bytes()))));
                return (messages, false);
            }
            Ok(Theirs::Frame(_)) => unreachable!("only written ones"),
            Err(Error::Io(_)) => return (messages, false),
            Err(_) => return (messages, true),
        });
    }
}

/// Checks that both decoders accept and refuse the same bytes. Ours may refuse at a header what tungstenite refuses at the
/// end of the payload, and is stricter where the standard is: shortest lengths, codes that must not be sent.
fn agree(bytes: &[u8], role: Role, ours: &(Vec<(u8, Vec<u8>)>, Option<ProtocolError>)) {
    let (theirs, refused) = decode_theirs(bytes, role);
    match &ours.1 {
        None => {
            assert!(!refused, "tungstenite refuses the bytes after {:?}", ours.0);
            assert_eq!(ours.0, theirs);
        }
        // Our decoder refuses any control frame with a two-byte length as too long.
        Some(
            ProtocolError::NonMinimalLength | ProtocolError::LongControl | ProtocolError::InvalidCloseCode(_),
        ) => {
            assert!(theirs.starts_with(&ours.0), "{ours:?}, {theirs:?}");
        }
        Some(_) => assert_eq!(ours.0, theirs, "refused: {ours:?}"),
    }
}

/// Decodes WebSocket frames: messages and fault do not depend on where reads are cut, and equal tungstenite's. The first
/// byte chooses the cuts, and which side reads.
pub fn ws_frame(data: &[u8]) {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let role = if cut & 0x80 == 0 { Role::Server } else { Role::Client };
    let whole = decode(bytes, usize::MAX, role);
    assert_eq!(whole, decode(bytes, usize::from(cut & 0x7F) + 1, role));
    assert_eq!(whole, decode(bytes, 1, role));
    agree(bytes, role, &whole);
}

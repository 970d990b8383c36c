//! WebSocket frames from any bytes: the same messages and the same fault wherever the reads are cut.
#![no_main]

use fanwire::internals::ws::{Decoder, Message, ProtocolError, Role, WsLimits};
use libfuzzer_sys::fuzz_target;

const LIMITS: WsLimits = WsLimits { max_message_bytes: 600, max_frame_bytes: 400 };

fn decode(bytes: &[u8], pieces: usize, role: Role) -> (Vec<(u8, Vec<u8>)>, Option<ProtocolError>) {
    let mut decoder = Decoder::new(role);
    let mut said = Vec::new();
    for piece in bytes.chunks(pieces) {
        let mut piece = piece.to_vec();
        let mut input = piece.as_mut_slice();
        while !input.is_empty() {
            let (used, message) = match decoder.decode(input, &LIMITS) {
                Ok(progress) => progress,
                Err(error) => return (said, Some(error)),
            };
            match message {
                Some(Message::Text(text)) => said.push((1, text.as_bytes().to_vec())),
                Some(Message::Binary(bytes)) => said.push((2, bytes.to_vec())),
                Some(Message::Close(frame)) => {
                    said.push((8, frame.map_or(Vec::new(), |f| f.reason.as_bytes().to_vec())));
                    return (said, None);
                }
                Some(Message::Ping(bytes)) => said.push((9, bytes.to_vec())),
                Some(Message::Pong(bytes)) => said.push((10, bytes.to_vec())),
                None => assert_eq!(used, input.len(), "bytes left without a message"),
            }
            input = &mut input[used..];
        }
        assert!(decoder.buffered_bytes() < 3000);
    }
    (said, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let role = if cut & 0x80 == 0 { Role::Server } else { Role::Client };
    let whole = decode(bytes, usize::MAX, role);
    assert_eq!(whole, decode(bytes, usize::from(cut & 0x7F) + 1, role));
    assert_eq!(whole, decode(bytes, 1, role));
});

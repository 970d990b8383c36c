//! Server-sent events: any bytes parse the same wherever they are cut, and what is encoded reads back.
#![no_main]

use fanwire::internals::sse::{SseError, SseEvent, SseParser, encode_event};
use libfuzzer_sys::fuzz_target;

fn parse(bytes: &[u8], pieces: usize) -> (Vec<SseEvent>, Option<SseError>) {
    let mut parser = SseParser::new(500);
    let mut events = Vec::new();
    for mut piece in bytes.chunks(pieces) {
        loop {
            match parser.feed(&mut piece) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
        assert!(piece.is_empty());
    }
    (events, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    assert_eq!(parse(bytes, usize::MAX), parse(bytes, usize::from(cut) + 1));
    if let Ok(text) = std::str::from_utf8(&bytes[..bytes.len().min(400)]) {
        let mut out = Vec::new();
        encode_event(&mut out, Some(text), text, Some(text));
        let (events, error) = parse(&out, usize::from(cut) + 1);
        assert_eq!((events.len(), error), (1, None));
        assert_eq!(events[0].data, text.replace("\r\n", "\n").replace('\r', "\n"));
    }
});

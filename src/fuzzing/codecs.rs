//! Fuzz targets for requests, event streams and filters. Compiled under `cfg(fuzzing)` and in tests only.

use crate::codec::http::{BodyDecoder, HttpLimits, parse_request};
use crate::codec::sse::{SseError, SseEvent, SseParser, encode_event};
use crate::filter::Filter;

const LIMITS: HttpLimits =
    HttpLimits { max_head_bytes: 1024, max_headers: 16, max_target_bytes: 200, max_body_bytes: 2000 };

/// Parses an HTTP head and body: no bytes cause a panic, and the result does not depend on where reads are cut.
pub fn http_request(data: &[u8]) {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let whole = parse_request(bytes, &LIMITS);
    // A complete head stays complete whatever follows it.
    if let Ok(Some((request, used))) = &whole {
        assert!(*used <= bytes.len());
        let alone = parse_request(&bytes[..*used], &LIMITS).expect("valid").expect("whole");
        assert_eq!(alone.1, *used);
        assert_eq!(
            (&alone.0.path, &alone.0.query, alone.0.body),
            (&request.path, &request.query, request.body)
        );
        assert!(matches!(parse_request(&bytes[..used - 1], &LIMITS), Ok(None)));
        let _ = request.query_pairs().count();
        let body = |pieces: usize| {
            let mut decoder = BodyDecoder::new(&request.body, &LIMITS).ok()?;
            let mut out = Vec::new();
            let mut taken = 0;
            for piece in bytes[*used..].chunks(pieces) {
                match decoder.decode(piece, &mut out) {
                    Ok((used, done)) => {
                        taken += used;
                        if done {
                            return Some((taken, out, true));
                        }
                        assert_eq!(used, piece.len());
                    }
                    Err(_) => return None,
                }
                assert!(out.len() <= 2000);
            }
            Some((taken, out, false))
        };
        assert_eq!(body(usize::MAX), body(usize::from(cut) + 1));
    }
}

fn parse_stream(bytes: &[u8], pieces: usize) -> (Vec<SseEvent>, Option<SseError>) {
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

/// Parses server-sent events: the result does not depend on where reads are cut, and encoded events read back.
pub fn sse_parser(data: &[u8]) {
    let Some((&cut, bytes)) = data.split_first() else { return };
    assert_eq!(parse_stream(bytes, usize::MAX), parse_stream(bytes, usize::from(cut) + 1));
    if let Ok(text) = std::str::from_utf8(&bytes[..bytes.len().min(400)]) {
        let mut out = Vec::new();
        encode_event(&mut out, Some(text), text, Some(text));
        let (events, error) = parse_stream(&out, usize::from(cut) + 1);
        assert_eq!((events.len(), error), (1, None));
        assert_eq!(events[0].data, text.replace("\r\n", "\n").replace('\r', "\n"));
    }
}

/// Parses a filter's text: a parsed filter prints as a text that parses to the same filter.
pub fn filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Filter>() {
        Ok(filter) => {
            let printed = filter.to_string();
            let again: Filter = printed.parse().expect("what we printed is a filter");
            assert_eq!(again, filter, "{printed}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

//! An HTTP head and body from any bytes: no panic, and no other outcome where the reads are cut elsewhere.
#![no_main]

use fanwire::internals::http::{BodyDecoder, HttpLimits, parse_request};
use libfuzzer_sys::fuzz_target;

const LIMITS: HttpLimits =
    HttpLimits { max_head_bytes: 1024, max_headers: 16, max_target_bytes: 200, max_body_bytes: 2000 };

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let whole = parse_request(bytes, &LIMITS);
    // A head that is there is there whatever follows it.
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
});

//! The codec against the RFC's clauses, with input cut at every byte, and against a second implementation.

use proptest::prelude::*;

use super::*;
use crate::codec::http::{HttpLimits, parse_request};

const LIMITS: WsLimits = WsLimits { max_message_bytes: 300, max_frame_bytes: 200 };
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Owned copy of a decoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum OwnedMessage {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<WsMessage<'_>> for OwnedMessage {
    fn from(message: WsMessage<'_>) -> Self {
        match message {
            WsMessage::Text(text) => Self::Text(text.to_owned()),
            WsMessage::Binary(bytes) => Self::Binary(bytes.to_vec()),
            WsMessage::Ping(bytes) => Self::Ping(bytes.to_vec()),
            WsMessage::Pong(bytes) => Self::Pong(bytes.to_vec()),
            WsMessage::Close(frame) => Self::Close(frame.map(|f| (f.code, f.reason.to_owned()))),
        }
    }
}

/// Feeds `bytes` in pieces of `cut` bytes. Returns the messages, and the error if there was one.
fn decode_in_pieces(
    decoder: &mut Decoder,
    bytes: &[u8],
    cut: usize,
    limits: &WsLimits,
) -> (Vec<OwnedMessage>, Option<ProtocolError>) {
    pieces(bytes, cut, |input| {
        let (used, message) = decoder.decode(input, limits)?;
        Ok((used, message.map(OwnedMessage::from)))
    })
}

fn pieces(
    bytes: &[u8],
    cut: usize,
    mut decode: impl FnMut(&mut [u8]) -> Result<(usize, Option<OwnedMessage>), ProtocolError>,
) -> (Vec<OwnedMessage>, Option<ProtocolError>) {
    let mut messages = Vec::new();
    for piece in bytes.chunks(cut.max(1)) {
        let mut piece = piece.to_vec();
        let mut input = piece.as_mut_slice();
        loop {
            let (used, message) = match decode(input) {
                Ok(progress) => progress,
                Err(error) => return (messages, Some(error)),
            };
            let quiet = message.is_none();
            messages.extend(message);
            input = &mut input[used..];
            if input.is_empty() {
                break;
            }
            assert!(used > 0 || !quiet, "no progress");
        }
    }
    (messages, None)
}

/// Encodes a client's frame: first byte as given, shortest length field, masked.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = header(OpCode::Binary, payload.len()).to_vec();
    out[0] = first;
    out[1] |= 0x80;
    out.extend_from_slice(&MASK);
    let mut payload = payload.to_vec();
    unmask(&mut payload, MASK, 0);
    out.extend_from_slice(&payload);
    out
}

fn decode_whole(bytes: &[u8]) -> (Vec<OwnedMessage>, Option<ProtocolError>) {
    decode_in_pieces(&mut Decoder::default(), bytes, bytes.len(), &LIMITS)
}

#[test]
fn messages_come_out_the_same_wherever_the_reads_are_cut() {
    let long = "ä€𝄞x".repeat(15);
    let stream = [
        masked(0x81, b"hello"),
        masked(0x81, b""),
        masked(0x82, &[0, 255, 1]),
        masked(0x89, b"are you there"),
        // A text in four fragments, cut inside characters, with control frames between.
        masked(0x01, &long.as_bytes()[..1]),
        masked(0x89, b"1"),
        masked(0x00, b""),
        masked(0x00, &long.as_bytes()[1..8]),
        masked(0x8A, b""),
        masked(0x80, &long.as_bytes()[8..]),
        masked(0x02, &[7; 150]),
        masked(0x80, &[8; 150]),
        masked(0x88, &[&3000_u16.to_be_bytes()[..], "tschüß".as_bytes()].concat()),
    ]
    .concat();
    let expected = [
        OwnedMessage::Text("hello".to_owned()),
        OwnedMessage::Text(String::new()),
        OwnedMessage::Binary(vec![0, 255, 1]),
        OwnedMessage::Ping(b"are you there".to_vec()),
        OwnedMessage::Ping(b"1".to_vec()),
        OwnedMessage::Pong(Vec::new()),
        OwnedMessage::Text(long),
        OwnedMessage::Binary([[7; 150], [8; 150]].concat()),
        OwnedMessage::Close(Some((3000, "tschüß".to_owned()))),
    ];
    for cut in 1..=stream.len() {
        let mut decoder = Decoder::default();
        let (messages, error) = decode_in_pieces(&mut decoder, &stream, cut, &LIMITS);
        assert_eq!((messages.as_slice(), error), (&expected[..], None), "pieces of {cut}");
        decoder.release();
        assert_eq!(decoder.buffered_bytes(), 0, "a quiet connection keeps a buffer");
    }
}

#[test]
fn each_clause_of_the_rfc_has_its_own_error_at_the_byte_that_breaks_it() {
    use ProtocolError as E;
    let rows: [(&str, Vec<u8>, ProtocolError, u16); 22] = [
        ("reserved bit 1", vec![0xC1], E::ReservedBits, 1002),
        ("reserved bit 2", vec![0xA1], E::ReservedBits, 1002),
        ("reserved bit 3", vec![0x91], E::ReservedBits, 1002),
        ("opcode 3", vec![0x83], E::ReservedOpcode(3), 1002),
        ("opcode 15", vec![0x8F], E::ReservedOpcode(15), 1002),
        ("not masked", vec![0x81, 5], E::NotMasked, 1002),
        ("ping in fragments", vec![0x09], E::FragmentedControl, 1002),
        ("long ping", vec![0x89, 0xFE], E::LongControl, 1002),
        ("close of one byte", vec![0x88, 0x81], E::ShortClose, 1002),
        ("125 in 16 bits", vec![0x81, 0xFE, 0, 125], E::NonMinimalLength, 1002),
        ("65,535 in 64 bits", vec![0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], E::NonMinimalLength, 1002),
        ("top bit", vec![0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], E::LengthTopBit, 1002),
        ("frame over the limit", vec![0x82, 0xFE, 0, 201], E::FrameTooLong { len: 201, max: 200 }, 1009),
        ("nothing to continue", vec![0x80], E::UnexpectedContinuation, 1002),
        ("two messages at once", [masked(0x01, b"a"), vec![0x81]].concat(), E::ExpectedContinuation, 1002),
        (
            "message over the limit",
            [masked(0x02, &[0; 200]), vec![0x80, 0xE5]].concat(),
            E::MessageTooLong { len: 301, max: 300 },
            1009,
        ),
        ("not text", masked(0x81, b"\xFF"), E::InvalidUtf8, 1007),
        ("a surrogate in pieces", masked(0x01, b"\xED\xA0"), E::InvalidUtf8, 1007),
        ("a cut character at the end", masked(0x81, "ä".as_bytes().split_at(1).0), E::InvalidUtf8, 1007),
        ("close code 1005", masked(0x88, &1005_u16.to_be_bytes()), E::InvalidCloseCode(1005), 1002),
        ("close code 999", masked(0x88, &999_u16.to_be_bytes()), E::InvalidCloseCode(999), 1002),
        ("close reason", masked(0x88, b"\x03\xE8\xC3"), E::InvalidCloseReason, 1007),
    ];
    for (name, bytes, expected, code) in rows {
        for cut in [1, 2, 3, bytes.len()] {
            let (_, error) = decode_in_pieces(&mut Decoder::default(), &bytes, cut, &LIMITS);
            assert_eq!(error.as_ref(), Some(&expected), "{name} in pieces of {cut}");
        }
        assert_eq!(expected.close_code(), code, "{name}");
        assert!(!expected.to_string().is_empty() && !expected.label().contains(' '));
    }
}

#[cfg(feature = "deflate")]
mod compressed {
    use super::*;
    use crate::codec::deflate::{Deflater, Inflater, TAIL};

    fn deflated(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Deflater::new(15, 6).expect("built in").block(payload, &mut out);
        out.truncate(out.len() - TAIL.len());
        out
    }

    fn decode(bytes: &[u8], cut: usize, limits: &WsLimits) -> (Vec<OwnedMessage>, Option<ProtocolError>) {
        let (mut decoder, mut inflater) = (Decoder::default(), Inflater::default());
        let decoded = pieces(bytes, cut, |input| {
            let (used, message) = decoder.decode_with(input, limits, Some(&mut inflater))?;
            Ok((used, message.map(OwnedMessage::from)))
        });
        decoder.release();
        assert!(decoded.1.is_some() || decoder.buffered_bytes() == 0, "a quiet connection keeps a buffer");
        decoded
    }

    #[test]
    fn compressed_messages_come_out_the_same_wherever_the_reads_are_cut() {
        let text = "ä€𝄞x".repeat(25);
        let data = deflated(text.as_bytes());
        let stream = [
            masked(0xC1, &data),
            masked(0x81, b"plain"),
            masked(0x41, &data[..3]),
            masked(0x89, b"between"),
            masked(0x00, b""),
            masked(0x80, &data[3..]),
            masked(0xC2, &deflated(&[7; 299])),
            masked(0xC1, &[0]),
        ]
        .concat();
        let expected = [
            OwnedMessage::Text(text.clone()),
            OwnedMessage::Text("plain".to_owned()),
            OwnedMessage::Ping(b"between".to_vec()),
            OwnedMessage::Text(text),
            OwnedMessage::Binary(vec![7; 299]),
            OwnedMessage::Text(String::new()),
        ];
        for cut in 1..=stream.len() {
            assert_eq!(decode(&stream, cut, &LIMITS), (expected.to_vec(), None), "pieces of {cut}");
        }
    }

    #[test]
    fn each_clause_of_the_extension_has_its_own_error() {
        use ProtocolError as E;
        let fragment = masked(0x41, &deflated(b"x"));
        let rows = [
            ("a compressed ping", vec![0xC9], E::ReservedBits, 1002),
            ("a compressed close", vec![0xC8], E::ReservedBits, 1002),
            ("a compressed continuation", [fragment.clone(), vec![0xC0]].concat(), E::ReservedBits, 1002),
            ("another reserved bit too", vec![0xE1], E::ReservedBits, 1002),
            ("garbage", masked(0xC1, b"\xFF\xFF\xFF"), E::BadDeflate, 1007),
            ("no byte at all", masked(0xC1, b""), E::BadDeflate, 1007),
            ("a cut message", [masked(0x41, b"\xF2"), masked(0x80, b"\x48")].concat(), E::BadDeflate, 1007),
            ("not text", masked(0xC1, &deflated(b"\xFF")), E::InvalidUtf8, 1007),
            ("a bomb", masked(0xC2, &deflated(&vec![0; 100_000])), E::ExpandsTooFar { max: 300 }, 1009),
            ("one too many", masked(0xC2, &deflated(&[0; 301])), E::ExpandsTooFar { max: 300 }, 1009),
        ];
        for (name, bytes, expected, code) in rows {
            for cut in [1, 2, 3, bytes.len()] {
                assert_eq!(
                    decode(&bytes, cut, &LIMITS).1.as_ref(),
                    Some(&expected),
                    "{name} in pieces of {cut}"
                );
            }
            assert_eq!(expected.close_code(), code, "{name}");
        }
    }

    proptest! {
        #[test]
        fn nothing_compressed_panics_and_cuts_change_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 1_usize..50) {
            let stream = masked(0xC1, &bytes);
            prop_assert_eq!(decode(&stream, stream.len(), &LIMITS), decode(&stream, cut, &LIMITS));
        }
    }
}

#[test]
fn a_limit_is_the_last_size_that_passes() {
    for len in [200, 201] {
        let (messages, error) = decode_whole(&masked(0x82, &vec![1; len]));
        assert_eq!(messages.len(), usize::from(len == 200), "{len}: {error:?}");
    }
    let halves = [masked(0x02, &[1; 200]), masked(0x80, &[1; 100])].concat();
    assert_eq!(decode_whole(&halves).0, [OwnedMessage::Binary(vec![1; 300])]);
}

#[test]
fn memory_follows_the_received_bytes_not_the_announced_ones() {
    let limits = WsLimits { max_message_bytes: 1 << 40, max_frame_bytes: 1 << 40 };
    let mut decoder = Decoder::default();
    let mut announced = vec![0x82, 0xFF, 0, 0, 0, 1, 0, 0, 0, 0];
    announced.extend_from_slice(&MASK);
    announced.extend_from_slice(&[0; 100]);
    assert_eq!(decode_in_pieces(&mut decoder, &announced, 7, &limits), (vec![], None));
    assert!(decoder.buffered_bytes() < 600, "{} bytes for 100", decoder.buffered_bytes());
    assert_eq!(size_of::<Decoder>(), 8, "an idle decoder grew");
}

#[test]
fn a_client_reads_unmasked_frames_and_refuses_masked_ones() {
    let mut decoder = Decoder::new(Role::Client);
    let bytes = frame(OpCode::Text, "ü".repeat(70_000).as_bytes());
    let limits = WsLimits { max_message_bytes: 1 << 20, max_frame_bytes: 1 << 20 };
    let (messages, error) = decode_in_pieces(&mut decoder, &bytes, 4096, &limits);
    assert_eq!((messages, error), (vec![OwnedMessage::Text("ü".repeat(70_000))], None));
    let (_, error) = decode_in_pieces(&mut decoder, &masked(0x81, b"x"), 1, &limits);
    assert_eq!(error, Some(ProtocolError::Masked));
}

#[test]
fn a_close_reason_is_cut_between_characters_at_123_bytes() {
    let frame = close_frame(1001, &"€".repeat(60));
    assert_eq!(&frame[..4], [0x88, 125, 3, 0xE9]);
    assert_eq!(std::str::from_utf8(&frame[4..]).expect("text"), "€".repeat(41));
    let valid: Vec<u16> = (0..=u16::MAX).filter(|code| is_valid_close_code(*code)).collect();
    assert_eq!(valid.len(), 4 + 8 + 2000);
}

fn upgrade(lines: &[&str]) -> Result<Upgrade, UpgradeError> {
    let head = format!("GET /ws HTTP/1.1\r\nHost: t\r\n{}\r\n\r\n", lines.join("\r\n"));
    check_upgrade(&parse(&head))
}

fn parse(head: &str) -> crate::codec::http::Request {
    parse_request(head.as_bytes(), &HttpLimits::default()).expect("valid").expect("whole").0
}

const LINES: [&str; 4] = [
    "Upgrade: WebSocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

#[test]
fn the_handshake_of_the_rfc_is_answered_as_in_the_rfc() {
    let mut lines = LINES.to_vec();
    lines.push("Sec-WebSocket-Protocol: one, two");
    lines.push("Sec-WebSocket-Protocol: three");
    let upgrade = upgrade(&lines).expect("valid");
    assert_eq!(upgrade.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(upgrade.protocols, ["one", "two", "three"]);
    // RFC 9110, 5.6.1.2: empty list elements are ignored.
    let sparse = self::upgrade(
        &[&LINES[..], &["Sec-WebSocket-Protocol: , a,, b ,", "Sec-WebSocket-Protocol:"]].concat(),
    );
    assert_eq!(sparse.expect("valid").protocols, ["a", "b"]);
    let mut out = Vec::new();
    write_upgrade(&mut out, &upgrade.accept, Some("two"), upgrade.deflate);
    let text = String::from_utf8(out).expect("text");
    assert!(text.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{text}");
    for line in ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Protocol: two"] {
        assert!(text.contains(&format!("{line}\r\n")), "{text}");
    }
}

#[test]
fn each_fault_of_a_handshake_has_its_own_error() {
    use UpgradeError as E;
    let without = |at: usize| {
        let mut lines = LINES.to_vec();
        lines.remove(at);
        upgrade(&lines)
    };
    let with = |line: &str| upgrade(&[&LINES[..], &[line]].concat());
    let instead = |at: usize, line: &str| {
        let mut lines = LINES.to_vec();
        lines[at] = line;
        upgrade(&lines)
    };
    let rows = [
        (without(0), E::NoUpgrade),
        (without(1), E::NoConnectionUpgrade),
        (without(2), E::BadVersion),
        (without(3), E::MissingKey),
        (instead(2, "Sec-WebSocket-Version: 12"), E::BadVersion),
        (instead(3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"), E::BadKey),
        (instead(3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZTE="), E::BadKey),
        (with(LINES[3]), E::BadKey),
        (with("Sec-WebSocket-Protocol: a, a"), E::BadProtocol),
        (with("Sec-WebSocket-Extensions: a;=b"), E::BadExtensions),
        (with("Content-Length: 3"), E::HasBody),
    ];
    for (at, (answer, expected)) in rows.into_iter().enumerate() {
        assert_eq!(answer, Err(expected), "row {at}");
    }
    let old = format!("GET / HTTP/1.0\r\n{}\r\n\r\n", LINES.join("\r\n"));
    assert_eq!(check_upgrade(&parse(&old)), Err(E::OldHttp));
    let head = format!("HEAD / HTTP/1.1\r\nHost: t\r\n{}\r\n\r\n", LINES.join("\r\n"));
    assert_eq!(check_upgrade(&parse(&head)), Err(E::NotGet));
}

/// Negotiates these offers.
fn agreed(offers: &[&str]) -> Result<Option<String>, UpgradeError> {
    let offers: Vec<String> = offers.iter().map(|o| format!("Sec-WebSocket-Extensions: {o}")).collect();
    let lines: Vec<&str> = LINES.into_iter().chain(offers.iter().map(String::as_str)).collect();
    upgrade(&lines).map(|upgrade| upgrade.deflate.map(PerMessageDeflate::header))
}

#[cfg(feature = "deflate")]
#[test]
fn an_offer_of_compression_is_granted_to_the_letter_or_passed_over() {
    let base = "permessage-deflate; client_no_context_takeover";
    let own = "; server_no_context_takeover";
    let rows: &[(&[&str], Option<String>)] = &[
        (&[], None),
        (&["permessage-deflate"], Some(base.into())),
        (&["x-webkit-deflate-frame, PerMessage-Deflate"], Some(base.into())),
        (&["permessage-deflate; client_max_window_bits"], Some(base.into())),
        (&["permessage-deflate ;client_max_window_bits = 10; client_no_context_takeover"], Some(base.into())),
        (&["permessage-deflate; server_no_context_takeover"], Some(format!("{base}{own}"))),
        (
            &["permessage-deflate; server_max_window_bits=\"1\\0\""],
            Some(format!("{base}; server_max_window_bits=10")),
        ),
        (
            &["permessage-deflate; server_max_window_bits=8"],
            Some(format!("{base}; server_max_window_bits=8")),
        ),
        // RFC 7692, 7.1.2.1: an offer that names a window gets a response that names one, even of the default size.
        (
            &["permessage-deflate; server_max_window_bits=15"],
            Some(format!("{base}; server_max_window_bits=15")),
        ),
        // An offer that can't be granted is skipped, and the next one is taken, in the same line or another.
        (&["permessage-deflate; server_max_window_bits=7, permessage-deflate"], Some(base.into())),
        (
            &["permessage-deflate; x=1", ", ,permessage-deflate; server_no_context_takeover,"],
            Some(format!("{base}{own}")),
        ),
        (&["permessage-deflate; server_max_window_bits"], None),
        (&["permessage-deflate; server_max_window_bits=16"], None),
        (&["permessage-deflate; server_max_window_bits=09"], None),
        (&["permessage-deflate; server_max_window_bits=+9"], None),
        (&["permessage-deflate; client_max_window_bits=0"], None),
        (&["permessage-deflate; server_no_context_takeover=1"], None),
        (&["permessage-deflate; client_no_context_takeover; client_no_context_takeover"], None),
        (&["permessage-deflate; Server_No_Context_Takeover"], None),
    ];
    for (offers, expected) in rows {
        assert_eq!(agreed(offers).as_ref(), Ok(expected), "{offers:?}");
    }
    for broken in [";", "a b", "a; ", "a; b=", "a; b=\"", "a; b=\"\"", "a; b=\"c d\"", "a; b=\"c\\", "é"] {
        assert_eq!(agreed(&[broken]), Err(UpgradeError::BadExtensions), "{broken}");
    }
}

proptest! {
    #[test]
    fn nothing_a_peer_sends_panics_and_cuts_change_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 1_usize..50) {
        let whole = decode_whole(&bytes);
        let pieces = decode_in_pieces(&mut Decoder::default(), &bytes, cut, &LIMITS);
        // A cut changes neither the messages before a fault nor the fault.
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn frames_written_by_tungstenite_are_read(payload in ".{0,120}", ping in proptest::collection::vec(any::<u8>(), 0..125), cut in 1_usize..300) {
        use tungstenite::protocol::frame::{Frame, coding::{Data, OpCode as Code}};
        let mut bytes = Vec::new();
        let frames = [
            Frame::message(payload.clone(), Code::Data(Data::Text), true),
            Frame::ping(ping.clone()),
        ];
        for mut frame in frames {
            frame.header_mut().mask = Some(MASK);
            frame.format(&mut bytes).expect("room");
        }
        let limits = WsLimits::default();
        let (messages, error) = decode_in_pieces(&mut Decoder::default(), &bytes, cut, &limits);
        prop_assert_eq!(messages, vec![OwnedMessage::Text(payload), OwnedMessage::Ping(ping)]);
        prop_assert_eq!(error, None);
    }

    #[test]
    fn text_in_pieces_is_text_when_the_whole_is(bytes in proptest::collection::vec(prop_oneof![Just(0xC3), Just(0xA4), Just(0xE2), Just(0x82), Just(0xAC), Just(0xF0), Just(b'a'), any::<u8>()], 0..24), cut in 1_usize..6) {
        let mut text = utf8::TextBuffer::default();
        let pushed = bytes.chunks(cut).try_for_each(|piece| text.push(piece));
        let is_text = std::str::from_utf8(&bytes).is_ok();
        prop_assert_eq!(pushed.is_ok() && text.is_whole(), is_text);
        if is_text {
            prop_assert_eq!(text.valid.as_bytes(), bytes.as_slice());
        }
    }

    #[test]
    fn masking_twice_is_nothing_wherever_it_is_cut(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), at in 0_usize..100) {
        let before = bytes.clone();
        unmask(&mut bytes, MASK, 0);
        for (i, (masked, plain)) in bytes.iter().zip(&before).enumerate() {
            prop_assert_eq!(*masked, plain ^ MASK[i % 4]);
        }
        let at = at.min(bytes.len());
        let (head, tail) = bytes.split_at_mut(at);
        unmask(head, MASK, 0);
        unmask(tail, MASK, at);
        prop_assert_eq!(bytes, before);
    }
}

#[test]
fn the_constant_ping_is_a_frame() {
    assert_eq!(PING, &frame(OpCode::Ping, b"")[..]);
}

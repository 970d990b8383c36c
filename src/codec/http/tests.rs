//! Requests as any client may send them.

use super::*;

fn head(text: &str) -> Result<Option<(Request, usize)>, RequestError> {
    parse_request(text.as_bytes(), &HttpLimits::default())
}

fn request(text: &str) -> Request {
    head(text).expect("valid").expect("complete").0
}

#[test]
fn a_browsers_request_is_read() {
    let text = "\r\nGET /sse?type=task.*&type=a%20b+c&x&entity=k:%C3%A9 HTTP/1.1\r\nHost: t\r\nConnection: keep-alive, Upgrade\r\nX-Empty:\r\n\r\nrest";
    let (request, used) = head(text).expect("valid").expect("complete");
    assert_eq!((request.method, request.path.as_str(), used), (Method::Get, "/sse", text.len() - 4));
    let pairs: Vec<_> = request.query_pairs().collect();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(pairs, [pair("type", "task.*"), pair("type", "a b c"), pair("x", ""), pair("entity", "k:é")]);
    assert!(request.keep_alive && request.http11 && request.header_has_token("CONNECTION", "upgrade"));
    assert_eq!(
        (request.header("x-empty"), request.header("none"), request.body),
        (Some(""), None, BodyFraming::None)
    );
}

#[test]
fn harmless_differences_are_taken() {
    assert_eq!(request("GET http://h:1/a%2Fb?q HTTP/1.1\r\nHost: t\r\n\r\n").path, "/a/b");
    assert_eq!(request("GET http://h HTTP/1.1\r\nHost: t\r\n\r\n").path, "/");
    assert_eq!(request("GET HTTP://H/x HTTP/1.1\r\nHost: t\r\n\r\n").path, "/x");
    assert_eq!(request("GET hTTps://h?q HTTP/1.1\r\nHost: t\r\n\r\n").path, "/");
    assert_eq!(request("OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n").path, "/");
    // RFC 9112, 3.2.2: the host of a target in absolute form overrides the header.
    for target in ["http://h:1/a", "HTTP://h:1", "http://h:1?host=t"] {
        let absolute = request(&format!("GET {target} HTTP/1.1\r\nhOST: t\r\n\r\n"));
        assert_eq!(absolute.headers_named("host").collect::<Vec<_>>(), ["h:1"], "{target}");
    }
    assert_eq!(request("GET http://[::1]:1/ HTTP/1.0\r\n\r\n").header("host"), Some("[::1]:1"));
    let old = request("GET / HTTP/1.0\r\n\r\n");
    assert!(!old.keep_alive && !old.http11);
    assert!(request("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
    let twice = request("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\ncontent-length:  5 \r\n\r\n");
    assert_eq!(twice.body, BodyFraming::Length(5));
}

#[test]
fn faults_are_seen_as_soon_as_they_are_there() {
    for (text, want) in [
        ("\x16\x03\x01", RequestError::NotHttp),
        (" GET", RequestError::NotHttp),
        ("GET / HTTP/1.1\n", RequestError::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: t\rx", RequestError::BareCarriageReturn),
        ("GET / HTTP/2.0\r\n", RequestError::Version),
        ("GET / HTTP/1.1\r\nX : y\r\n", RequestError::BadHeader),
        ("GET nowhere HTTP/1.1\r\nHost: t\r\n\r\n", RequestError::BadTarget),
        ("GET /%zz HTTP/1.1\r\nHost: t\r\n\r\n", RequestError::BadTarget),
        ("GET http:///x HTTP/1.1\r\nHost: t\r\n\r\n", RequestError::BadTarget),
        ("GET http://localhost@h/x HTTP/1.1\r\nHost: t\r\n\r\n", RequestError::BadTarget),
        ("GET http://h#/x HTTP/1.1\r\nHost: t\r\n\r\n", RequestError::BadTarget),
        ("GET /%00 HTTP/1.1\r\nHost: t\r\n\r\n", RequestError::BadTarget),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", RequestError::TransferEncoding),
        ("POST / HTTP/1.1\r\nHost: t\r\nExpect: x\r\nContent-Length: 1\r\n\r\n", RequestError::Expectation),
    ] {
        assert_eq!(head(text).err(), Some(want), "{text:?}");
    }
}

#[test]
fn a_head_in_pieces_is_incomplete_until_its_end() {
    let text = "POST /publish?x=y HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\n";
    for cut in 0..text.len() {
        assert!(matches!(head(&text[..cut]), Ok(None)), "{cut}");
    }
    assert_eq!(request(text).body, BodyFraming::Length(3));
}

#[test]
fn limits_hold_before_the_end_comes() {
    let limits = HttpLimits { max_head_bytes: 100, max_headers: 2, max_target_bytes: 20, max_body_bytes: 10 };
    let parse = |text: &str| parse_request(text.as_bytes(), &limits).map(|r| r.is_some());
    assert_eq!(parse(&format!("GET /{}", "x".repeat(30))), Err(RequestError::TargetTooLong { limit: 20 }));
    let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(100));
    assert_eq!(parse(&long), Err(RequestError::HeadTooLong { limit: 100 }));
    let many = "GET / HTTP/1.1\r\nHost: t\r\na: b\r\nc: d\r\n\r\n";
    assert_eq!(parse(many), Err(RequestError::TooManyHeaders { limit: 2 }));
    assert_eq!(
        parse("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 11\r\n\r\n"),
        Err(RequestError::BodyTooLong { limit: 10 })
    );
}

fn decoded(kind: BodyFraming, input: &[u8], cut: usize) -> Result<(Vec<u8>, usize, bool), RequestError> {
    let limits = HttpLimits { max_body_bytes: 20, ..HttpLimits::default() };
    let mut decoder = BodyDecoder::new(&kind, &limits)?;
    let (mut out, mut used, mut done) = (Vec::new(), 0, false);
    for piece in [&input[..cut], &input[cut..]] {
        if !done {
            let (taken, end) = decoder.decode(piece, &mut out)?;
            used += taken;
            done = end;
        }
    }
    Ok((out, used, done))
}

#[test]
fn bodies_are_the_same_however_they_are_cut() {
    let chunks = b"5;a=\"b\"\r\nhello\r\n0003 \r\n, w\r\n0\r\nTrailer: x\r\n\r\nGET";
    for cut in 0..=chunks.len() {
        let want = (b"hello, w".to_vec(), chunks.len() - 3, true);
        assert_eq!(decoded(BodyFraming::Chunked, chunks, cut), Ok(want), "{cut}");
    }
    for cut in 0..=8 {
        assert_eq!(decoded(BodyFraming::Length(5), b"helloGET", cut), Ok((b"hello".to_vec(), 5, true)));
    }
    assert_eq!(decoded(BodyFraming::Chunked, b"5\r\nhel", 0), Ok((b"hel".to_vec(), 6, false)));
}

#[test]
fn bad_chunks_are_refused() {
    for text in [
        "x\r\n",
        "\r\n",
        "5\n",
        "-1\r\n",
        "0x1\r\n",
        "2\r\nabc\r\n",
        "1\r\na\n",
        "fffffffffffffffff\r\n",
        "0\r\n\n",
        "1;\x01\r\n",
    ] {
        assert_eq!(
            decoded(BodyFraming::Chunked, text.as_bytes(), 0),
            Err(RequestError::BadChunk),
            "{text:?}"
        );
    }
    let limit = Err(RequestError::BodyTooLong { limit: 20 });
    assert_eq!(decoded(BodyFraming::Chunked, b"15\r\n", 0), limit);
    assert_eq!(decoded(BodyFraming::Chunked, b"ffffffffffffffff\r\n", 0), limit);
    assert_eq!(decoded(BodyFraming::Chunked, b"10\r\n0123456789abcdef\r\n5\r\n", 0), limit);
    let endless = [b"0\r\n".to_vec(), b"x: y\r\n".repeat(1000)].concat();
    assert_eq!(
        decoded(BodyFraming::Chunked, &endless, 0),
        Err(RequestError::ChunkLineTooLong { limit: 4096 })
    );
}

proptest::proptest! {
    /// No bytes make the parser panic, and a cut never changes the result for a valid prefix.
    #[test]
    fn any_bytes_get_an_answer(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), cut in 0usize..300) {
        let limits = HttpLimits::default();
        let whole = parse_request(&bytes, &limits);
        let part = parse_request(&bytes[..cut.min(bytes.len())], &limits);
        if let (Ok(Some((_, used))), Ok(Some((_, of_part)))) = (&whole, &part) {
            proptest::prop_assert_eq!(used, of_part);
        }
        let (mut out, cut) = (Vec::new(), cut.min(bytes.len()));
        if let Ok(mut decoder) = BodyDecoder::new(&BodyFraming::Chunked, &limits) {
            let first = decoder.decode(&bytes[..cut], &mut out);
            if matches!(first, Ok((_, false))) {
                let _ = decoder.decode(&bytes[cut..], &mut out);
            }
        }
    }
}

#[test]
fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
    let read = |host: &str| head(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    for host in [
        "",
        "h",
        "h:80",
        "h:",
        "a-b.example.",
        "xn--bcher-kva",
        "a%20b",
        "_x",
        "127.0.0.1:8765",
        "[::1]",
        "[::1]:8765",
    ] {
        assert!(read(host).is_ok(), "{host:?}");
    }
    for host in [
        "a b",
        "h/x",
        "u@h",
        "h:x",
        "h:80:80",
        "h:65536",
        "[::1",
        "::1",
        "[x]",
        "[::1]x",
        "a,b c",
        "h?",
        "h#",
        "<h>",
        "\"h\"",
        "h\\",
        "b\u{fc}cher",
    ] {
        assert_eq!(read(host).err(), Some(RequestError::BadHost), "{host:?}");
    }
}

#[test]
fn weights_have_no_case() {
    let accepts = |value: &str| {
        request(&format!("GET / HTTP/1.1\r\nHost: t\r\nAccept-Encoding: {value}\r\n\r\n"))
            .accepts_encoding("gzip")
    };
    assert!(!accepts("gzip;Q=0") && !accepts("gzip; q=0.000") && !accepts("*;Q=0"));
    assert!(accepts("gzip;Q=0.5") && accepts("GZIP") && accepts("br;Q=0, *"));
}

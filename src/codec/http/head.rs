//! Parses a request's head.

use std::mem::MaybeUninit;

use super::error::RequestError;
use super::limits::{HEADERS_MAX, HttpLimits};
use super::request::{BodyFraming, Method, Request, decode, is_token_byte};

/// Empty lines before a request that are skipped (RFC 9112, 2.2).
const EMPTY_LINES_MAX: usize = 4;

/// Number of bytes within which a method must end. Known methods are shorter.
const METHOD_BYTES_MAX: usize = 32;

/// Checks that the bytes so far can be the start of a request line. Garbage is refused at once, instead of waiting for
/// the end of a head that never comes.
fn check_start(buf: &[u8]) -> Result<(), RequestError> {
    let method = buf.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(buf.len());
    match buf.get(method) {
        Some(b' ') if method > 0 => Ok(()),
        None if method <= METHOD_BYTES_MAX => Ok(()),
        _ => Err(RequestError::NotHttp),
    }
}

/// Checks that lines end in CR LF and hold no other CR, LF or NUL, because some readers treat those as line ends.
fn check_lines(head: &[u8]) -> Result<(), RequestError> {
    for at in memchr::memchr3_iter(b'\n', b'\r', 0, head) {
        match head[at] {
            b'\n' if at == 0 || head[at - 1] != b'\r' => return Err(RequestError::BareLineFeed),
            b'\r' if head.get(at + 1).is_some_and(|next| *next != b'\n') => {
                return Err(RequestError::BareCarriageReturn);
            }
            0 => return Err(RequestError::ControlCharacter),
            _ => {}
        }
    }
    Ok(())
}

/// Returns the length of the head at the front of `bytes`, with the empty line that ends it.
#[must_use]
pub fn head_len(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// Parses a request's head at the front of `buf`. Returns the request and the length of its head in bytes; the body
/// follows. Returns `None` if more bytes are needed.
///
/// # Errors
///
/// A [`RequestError`] if the bytes can't become a valid head. The connection must be closed then.
pub fn parse_request(buf: &[u8], limits: &HttpLimits) -> Result<Option<(Request, usize)>, RequestError> {
    let mut start = 0;
    while buf[start..].starts_with(b"\r\n") {
        start += 2;
        if start > 2 * EMPTY_LINES_MAX {
            return Err(RequestError::NotHttp);
        }
    }
    let text = &buf[start..];
    if text.is_empty() || text == b"\r" {
        return Ok(None);
    }
    check_start(text)?;
    let seen = &text[..text.len().min(limits.max_head_bytes)];
    let end = head_len(seen);
    check_lines(&seen[..end.unwrap_or(seen.len())])?;
    let line = memchr::memchr(b'\n', seen).unwrap_or(seen.len());
    let mut words = seen[..line].split(|byte| *byte == b' ').skip(1);
    let target_len = words.next().map_or(0, <[u8]>::len);
    if target_len > limits.max_target_bytes {
        return Err(RequestError::TargetTooLong { limit: limits.max_target_bytes });
    }
    if let Some(version) = words.next().filter(|_| line < seen.len()) {
        check_version(version.strip_suffix(b"\r").unwrap_or(version))?;
    }
    let Some(end) = end else {
        if text.len() > limits.max_head_bytes {
            return Err(RequestError::HeadTooLong { limit: limits.max_head_bytes });
        }
        // The parser finds faults in the bytes that are there so far.
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        return match httparse::Request::new(&mut headers).parse(text) {
            Ok(_) => Ok(None),
            Err(error) => Err(RequestError::from_parser(error, limits)),
        };
    };
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let headers = &mut headers[..limits.max_headers.min(HEADERS_MAX)];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(&text[..end], headers) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(RequestError::NotHttp),
        Err(error) => return Err(RequestError::from_parser(error, limits)),
    }
    Ok(Some((read_head(&parsed, limits)?, start + end)))
}

fn check_version(version: &[u8]) -> Result<(), RequestError> {
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => Ok(()),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(RequestError::Version)
        }
        _ => Err(RequestError::NotHttp),
    }
}

fn read_head(parsed: &httparse::Request<'_, '_>, limits: &HttpLimits) -> Result<Request, RequestError> {
    let method = match parsed.method.unwrap_or_default() {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "OPTIONS" => Method::Options,
        "DELETE" => Method::Delete,
        _ => Method::Other,
    };
    let RequestTarget { authority, path, query } = read_target(parsed.path.unwrap_or_default(), method)?;
    let http11 = parsed.version == Some(1);
    let mut headers = Vec::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        // Values are bytes. None of the headers that are read here may have a value that is not UTF-8.
        let value = String::from_utf8_lossy(header.value).trim_ascii().to_owned();
        if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(RequestError::ControlCharacter);
        }
        headers.push((header.name.to_owned(), value));
    }
    let mut request = Request {
        method,
        path,
        query,
        http11,
        keep_alive: http11,
        expect_continue: false,
        body: BodyFraming::None,
        headers,
    };
    match request.headers_named("host").count() {
        0 if http11 => return Err(RequestError::NoHost),
        0 | 1 => {}
        _ => return Err(RequestError::SeveralHosts),
    }
    if request.header("host").is_some_and(|host| !is_host(host)) {
        return Err(RequestError::BadHost);
    }
    if let Some(authority) = authority {
        // The host in the target overrides the header (RFC 9112, 3.2.2).
        request.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("host"));
        request.headers.push(("Host".to_owned(), authority));
    }
    request.keep_alive = if http11 {
        !request.header_has_token("connection", "close")
    } else {
        request.header_has_token("connection", "keep-alive")
    };
    match request.header("expect") {
        None => {}
        Some(expect) if expect.eq_ignore_ascii_case("100-continue") => request.expect_continue = http11,
        Some(_) => return Err(RequestError::Expectation),
    }
    request.body = read_body_kind(&request, limits)?;
    Ok(request)
}

/// Returns whether a Host header's value is valid: a name, an IPv4 address or an IPv6 address in brackets, and
/// optionally a port (RFC 9110, 7.2; RFC 3986, 3.2.2). An empty value is valid.
fn is_host(host: &str) -> bool {
    let (name, port) = if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        // Zones (`%25eth0`) and addresses of future versions are not supported.
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        ("", port)
    } else {
        host.find(':').map_or((host, ""), |at| host.split_at(at))
    };
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte);
    let is_port = |port: &str| {
        port.is_empty() || (port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
    };
    name.bytes().all(is_name_byte) && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// Target of a request.
struct RequestTarget {
    /// Host in the target itself, in absolute form.
    authority: Option<String>,
    path: String,
    query: String,
}

/// Parses a target in origin form, or in absolute form as proxies send it. `*` is for OPTIONS.
fn read_target(target: &str, method: Method) -> Result<RequestTarget, RequestError> {
    let mut authority = None;
    let origin = if target.starts_with('/') {
        target
    } else if target == "*" && method == Method::Options {
        "/"
    } else {
        let (scheme, rest) = target.split_once("://").ok_or(RequestError::BadTarget)?;
        // Schemes are case-insensitive (RFC 3986, 3.1).
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(RequestError::BadTarget);
        }
        let (host, rest) = rest.find(['/', '?']).map_or((rest, "/"), |at| rest.split_at(at));
        // A URL without a host is invalid, and one with a user name is a trap (RFC 9110, 4.2.1 and 4.2.4).
        if host.is_empty() || !is_host(host) {
            return Err(RequestError::BadTarget);
        }
        authority = Some(host.to_owned());
        rest
    };
    let (path, query) = origin.split_once('?').unwrap_or((origin, ""));
    let path = decode(path, false).ok_or(RequestError::BadTarget)?;
    if path.contains('\0') {
        return Err(RequestError::BadTarget);
    }
    let path = if path.is_empty() { "/".to_owned() } else { path.into_owned() };
    Ok(RequestTarget { authority, path, query: query.to_owned() })
}

/// Returns how the body is delimited. A request that allows two interpretations is refused, because another reader may
/// choose the other one (request smuggling; RFC 9112, 6.3).
fn read_body_kind(request: &Request, limits: &HttpLimits) -> Result<BodyFraming, RequestError> {
    let lengths: Vec<&str> = request.headers_named("content-length").collect();
    let encodings: Vec<&str> = request.headers_named("transfer-encoding").collect();
    if !encodings.is_empty() {
        if !lengths.is_empty() {
            return Err(RequestError::TwoLengths);
        }
        if !request.http11 {
            return Err(RequestError::TransferEncoding);
        }
        return match encodings.as_slice() {
            [one] if one.eq_ignore_ascii_case("chunked") => Ok(BodyFraming::Chunked),
            _ => Err(RequestError::TransferEncoding),
        };
    }
    let Some((first, others)) = lengths.split_first() else {
        return if request.method == Method::Post {
            Err(RequestError::LengthRequired)
        } else {
            Ok(BodyFraming::None)
        };
    };
    if others.iter().any(|other| other != first) {
        return Err(RequestError::TwoLengths);
    }
    if first.is_empty() || !first.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(RequestError::BadLength);
    }
    // The text is all digits, so parsing fails only for a number that is too large.
    match first.parse() {
        Ok(0) => Ok(BodyFraming::None),
        Ok(length) if length <= limits.max_body_bytes => Ok(BodyFraming::Length(length)),
        _ => Err(RequestError::BodyTooLong { limit: limits.max_body_bytes }),
    }
}

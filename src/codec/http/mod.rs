//! HTTP/1.1 (RFC 9112): a request's head and body out of bytes, an answer's bytes.
//!
//! Imports nothing of ours; `httparse` splits the head. Always: strict where two readers of one request could
//! disagree about where it ends, tolerant where nothing hangs on it; every fault is a [`RequestError`] with the
//! status that tells it; no input makes more memory than the limits say.

mod body;
mod error;
mod response;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use body::BodyDecoder;
pub use error::RequestError;
pub use response::{date, reason, write_head, write_response};

/// How large a request may be.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Bytes of the request line and the headers; over it 431.
    pub max_head_bytes: usize,
    /// How many headers, at most 64; over it 431.
    pub max_headers: usize,
    /// Bytes of the request's target; over it 414.
    pub max_target_bytes: usize,
    /// Bytes of the body; over it 413.
    pub max_body_bytes: u64,
}

/// No limit can be higher: the parsed headers stand on the stack.
const HEADERS_MAX: usize = 64;

/// Empty lines before a request that are passed over (RFC 9112, 2.2).
const EMPTY_LINES_MAX: usize = 4;

/// The longest method that is looked at; known ones are shorter.
const METHOD_BYTES_MAX: usize = 32;

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_head_bytes: 16 * 1024,
            max_headers: HEADERS_MAX,
            max_target_bytes: 8 * 1024,
            max_body_bytes: 4 * 1024 * 1024,
        }
    }
}

/// What a request wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// Read.
    Get,
    /// Read the head alone.
    Head,
    /// Give.
    Post,
    /// Ask what can be done.
    Options,
    /// A method that exists, perhaps, but not here.
    Other,
}

/// How a request's body is told from what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// There is none.
    None,
    /// So many bytes, more than none.
    Length(u64),
    /// Chunks, each with its length.
    Chunked,
}

/// The head of a request.
#[derive(Clone, Serialize, Deserialize)]
pub struct Request {
    /// What to do.
    pub method: Method,
    /// The target's path, percent-decoded; starts with `/`.
    pub path: String,
    /// The target's query as it came, without the `?`.
    pub query: String,
    /// Whether it is HTTP/1.1, else 1.0.
    pub http11: bool,
    /// Whether another request may follow.
    pub keep_alive: bool,
    /// Whether the client waits for a `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// How the body is told.
    pub body: Body,
    headers: Vec<(String, String)>,
}

/// Without the query, the headers and the body, which hold tokens.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({:?} {:?})", self.method, self.path)
    }
}

impl Request {
    /// The value of a header, the first where there are several. The name's case does not matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Bytes that it takes, about.
    pub(crate) fn held_bytes(&self) -> usize {
        let header =
            |(name, value): &(String, String)| size_of::<(String, String)>() + name.len() + value.len() + 32;
        self.path.len() + self.query.len() + self.headers.iter().map(header).sum::<usize>()
    }

    /// All headers, as they came.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Every value of a header.
    pub fn headers_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Whether a header that is a list of tokens has this one, in any case, in any of its lines.
    pub fn header_has_token(&self, name: &str, token: &str) -> bool {
        self.headers_named(name)
            .flat_map(|value| value.split(','))
            .any(|t| t.trim().eq_ignore_ascii_case(token))
    }

    /// Whether an answer may have this content coding: it is named in `Accept-Encoding`, or `*` is, and not with a
    /// weight of zero (RFC 9110, 12.5.3).
    pub fn accepts_encoding(&self, coding: &str) -> bool {
        let mut by_star = false;
        for item in self.headers_named("accept-encoding").flat_map(|value| value.split(',')) {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let weight = parameters
                .split(';')
                .filter_map(|p| p.split_once('='))
                .find(|(q, _)| q.trim().eq_ignore_ascii_case("q"));
            // Three digits at the most: what is no number is no refusal.
            let wanted = weight.is_none_or(|(_, weight)| weight.trim().parse() != Ok(0.0));
            match name.trim() {
                "*" => by_star = wanted,
                named if named.eq_ignore_ascii_case(coding) => return wanted,
                _ => {}
            }
        }
        by_star
    }

    /// The query as pairs, decoded (`+` is a space); a name without `=` has an empty value. What is not
    /// decodable is passed as it came.
    pub fn query_pairs(&self) -> impl Iterator<Item = (String, String)> {
        let decoded = |text: &str| decode(text, true).map_or_else(|| text.to_owned(), Cow::into_owned);
        self.query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
    }
}

/// Percent-decodes a header's value; `None` where an escape is broken or the outcome is not UTF-8.
pub fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    decode(text, false)
}

/// Percent-decodes; `None` where an escape is broken or the outcome is not UTF-8.
fn decode(text: &str, plus_is_space: bool) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|byte| byte == b'%' || (plus_is_space && byte == b'+')) {
        return Some(text.into());
    }
    let hex = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

/// Whether a token (a method, a header's name, a subprotocol) may hold this byte (RFC 9110, 5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether the bytes so far can be the start of a request line: garbage is told at once, not when an end of
/// head comes that never will.
fn check_start(buf: &[u8]) -> Result<(), RequestError> {
    let method = buf.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(buf.len());
    match buf.get(method) {
        Some(b' ') if method > 0 => Ok(()),
        None if method <= METHOD_BYTES_MAX => Ok(()),
        _ => Err(RequestError::NotHttp),
    }
}

/// A head's lines end in CR LF and hold no other CR, LF or NUL: other readers take those for line ends.
fn check_lines(head: &[u8]) -> Result<(), RequestError> {
    for (at, byte) in head.iter().enumerate() {
        match byte {
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

/// Reads a request's head from the front of `buf`. `Ok(None)`: more bytes are needed. Else the request and how
/// many bytes its head took; its body follows.
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
    let end = seen.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    check_lines(&seen[..end.unwrap_or(seen.len())])?;
    let line = seen.iter().position(|byte| *byte == b'\n').unwrap_or(seen.len());
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
        // The parser sees faults in what is there so far.
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        return match httparse::Request::new(&mut headers).parse(text) {
            Ok(_) => Ok(None),
            Err(error) => Err(RequestError::from_parser(error, limits)),
        };
    };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers[..limits.max_headers.min(HEADERS_MAX)]);
    match parsed.parse(&text[..end]) {
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
        _ => Method::Other,
    };
    let Target { authority, path, query } = read_target(parsed.path.unwrap_or_default(), method)?;
    let http11 = parsed.version == Some(1);
    let mut headers = Vec::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        // Values are octets; what is not UTF-8 can't be a value that matters here.
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
        body: Body::None,
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
        // The target's own host is the one that counts (RFC 9112, 3.2.2).
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

/// Whether a Host header's value is what it has to be: a name, an IPv4 address or an IPv6 address in brackets, and
/// perhaps a port (RFC 9110, 7.2; RFC 3986, 3.2.2). An empty one is allowed.
fn is_host(host: &str) -> bool {
    let (name, port) = if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        // A zone (`%25eth0`) and addresses of a version to come are left to others.
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

/// A request's target.
struct Target {
    /// The host that it names itself, in absolute form.
    authority: Option<String>,
    path: String,
    query: String,
}

/// Reads a target in origin form, or in absolute form as proxies send it; `*` is for OPTIONS.
fn read_target(target: &str, method: Method) -> Result<Target, RequestError> {
    let mut authority = None;
    let origin = if target.starts_with('/') {
        target
    } else if target == "*" && method == Method::Options {
        "/"
    } else {
        let (scheme, rest) = target.split_once("://").ok_or(RequestError::BadTarget)?;
        // Schemes have no case (RFC 3986, 3.1).
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(RequestError::BadTarget);
        }
        let (host, rest) = rest.find(['/', '?']).map_or((rest, "/"), |at| rest.split_at(at));
        // A URL without a host is none, and one with a user is a trap (RFC 9110, 4.2.1 and 4.2.4).
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
    Ok(Target { authority, path, query: query.to_owned() })
}

/// How the body is told: where two answers are possible the request is refused, for another reader may take
/// the other one (request smuggling; RFC 9112, 6.3).
fn read_body_kind(request: &Request, limits: &HttpLimits) -> Result<Body, RequestError> {
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
            [one] if one.eq_ignore_ascii_case("chunked") => Ok(Body::Chunked),
            _ => Err(RequestError::TransferEncoding),
        };
    }
    let Some((first, others)) = lengths.split_first() else {
        return if request.method == Method::Post {
            Err(RequestError::LengthRequired)
        } else {
            Ok(Body::None)
        };
    };
    if others.iter().any(|other| other != first) {
        return Err(RequestError::TwoLengths);
    }
    if first.is_empty() || !first.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(RequestError::BadLength);
    }
    // All digits, so it fails only by being too large.
    match first.parse() {
        Ok(0) => Ok(Body::None),
        Ok(length) if length <= limits.max_body_bytes => Ok(Body::Length(length)),
        _ => Err(RequestError::BodyTooLong { limit: limits.max_body_bytes }),
    }
}

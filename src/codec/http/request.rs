//! The parsed head of a request, and percent-decoding.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// OPTIONS.
    Options,
    /// DELETE.
    Delete,
    /// Any other method. None of them is supported.
    Other,
}

/// How a request's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BodyFraming {
    /// No body.
    None,
    /// A body of this many bytes, more than 0.
    Length(u64),
    /// Chunks, each with its length.
    Chunked,
}

/// Head of a request.
#[derive(Clone, Serialize, Deserialize)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Path of the target, percent-decoded. It starts with `/`.
    pub path: String,
    /// Query of the target as it was received, without the `?`.
    pub query: String,
    /// Whether the request is HTTP/1.1 (`false`: 1.0).
    pub http11: bool,
    /// Whether another request may follow.
    pub keep_alive: bool,
    /// Whether the client waits for a `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// How the body is delimited.
    pub body: BodyFraming,
    pub(super) headers: Vec<(String, String)>,
}

/// Leaves out the query, the headers and the body, which may hold tokens.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({:?} {:?})", self.method, self.path)
    }
}

impl Request {
    /// Returns the value of a header, the first one if there are several. The name is case-insensitive.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Returns the approximate memory that the request holds, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        let header =
            |(name, value): &(String, String)| size_of::<(String, String)>() + name.len() + value.len() + 32;
        self.path.len() + self.query.len() + self.headers.iter().map(header).sum::<usize>()
    }

    /// Returns all headers as they were received.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns every value of a header. The name is case-insensitive.
    pub fn headers_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Returns whether a header that is a list of tokens contains this token. Case is ignored, and repeated headers
    /// count as one list.
    #[must_use]
    pub fn header_has_token(&self, name: &str, token: &str) -> bool {
        self.headers_named(name)
            .flat_map(|value| value.split(','))
            .any(|t| t.trim().eq_ignore_ascii_case(token))
    }

    /// Returns whether the client accepts this content coding: `Accept-Encoding` names it, or `*`, with a weight over 0
    /// (RFC 9110, 12.5.3).
    #[must_use]
    pub fn accepts_encoding(&self, coding: &str) -> bool {
        let mut by_star = false;
        for item in self.headers_named("accept-encoding").flat_map(|value| value.split(',')) {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let weight = parameters
                .split(';')
                .filter_map(|p| p.split_once('='))
                .find(|(q, _)| q.trim().eq_ignore_ascii_case("q"));
            // A weight has at most three digits. One that is not a number does not refuse the coding.
            let wanted = weight.is_none_or(|(_, weight)| weight.trim().parse() != Ok(0.0));
            match name.trim() {
                "*" => by_star = wanted,
                named if named.eq_ignore_ascii_case(coding) => return wanted,
                _ => {}
            }
        }
        by_star
    }

    /// Returns the query as pairs, decoded (`+` is a space). A name without `=` has an empty value. Text that can't be
    /// decoded is returned as it was received.
    pub fn query_pairs(&self) -> impl Iterator<Item = (String, String)> {
        let decoded = |text: &str| decode(text, true).map_or_else(|| text.to_owned(), Cow::into_owned);
        self.query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
    }
}

/// Percent-decodes a header's value. Returns `None` if an escape is broken or the result is not UTF-8.
#[must_use]
pub fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    decode(text, false)
}

/// Percent-decodes. Returns `None` if an escape is broken or the result is not UTF-8.
pub(super) fn decode(text: &str, plus_is_space: bool) -> Option<Cow<'_, str>> {
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

/// Returns whether a token (a method, a header's name, a subprotocol) may hold this byte (RFC 9110, 5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

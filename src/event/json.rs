//! Validates JSON text (RFC 8259) and drops the white space between its parts, in one pass.
//!
//! Always:
//! - No recursion, and no allocation but the output, so nesting and size cost only what the limits allow.
//! - The output of valid text has no control character, so it fits in one line of NDJSON or SSE.

use std::fmt;

/// Maximum nesting of arrays and objects in a payload.
pub(crate) const DEPTH_MAX: usize = 128;

/// Fault of text that should be JSON, and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JsonError {
    /// Offset of the fault from the start of the text, in bytes.
    pub offset: usize,
    /// Token that was expected or found there.
    pub reason: &'static str,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid JSON at byte {}: {}", self.offset, self.reason)
    }
}

impl std::error::Error for JsonError {}

/// Next token that is allowed.
#[derive(Clone, Copy, PartialEq)]
enum Expect {
    Value,
    /// Right after `[`: a value or `]`.
    FirstItem,
    /// Right after `{`: a key or `}`.
    FirstKey,
    Key,
    Colon,
    /// After a value: `,` or the closing bracket, or the end at depth 0.
    Comma,
}

impl Expect {
    /// Returns the reason of a fault where another token came. Values have reasons of their own.
    const fn reason(self) -> &'static str {
        match self {
            Self::Key | Self::FirstKey => "expected a key",
            Self::Colon => "expected ':'",
            _ => "expected ',' or an end",
        }
    }
}

/// Appends `text`, minified, to `out`. After an error `out` may hold a part of it.
pub(crate) fn minify(text: &str, out: &mut String) -> Result<(), JsonError> {
    out.reserve(text.len());
    let end = scan(text, 0, |part| out.push_str(part))?;
    match text.as_bytes()[end..].iter().position(|byte| !is_space(*byte)) {
        Some(more) => Err(JsonError { offset: end + more, reason: "unexpected text after the value" }),
        None => Ok(()),
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Returns the first offset from `at` on that is not white space.
#[inline]
pub(crate) fn space_end(text: &str, mut at: usize) -> usize {
    while text.as_bytes().get(at).is_some_and(|byte| is_space(*byte)) {
        at += 1;
    }
    at
}

/// Validates the value at offset `start` and returns the offset after it. Passes it to `keep` in pieces, without its
/// white space; after an error `keep` may have got a part.
pub(crate) fn scan<'a>(
    text: &'a str,
    start: usize,
    mut keep: impl FnMut(&'a str),
) -> Result<usize, JsonError> {
    let bytes = text.as_bytes();
    // One bit for each level: 1 is an object. DEPTH_MAX bits.
    let mut kinds: u128 = 0;
    let mut depth = 0usize;
    let mut expect = Expect::Value;
    let mut at = start;
    // Start of the piece for `keep`: bytes between white space.
    let mut kept = start;
    let fail = |offset, reason| Err(JsonError { offset, reason });
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {
                keep(&text[kept..at]);
                at = space_end(text, at);
                kept = at;
                continue;
            }
            b'"' => match expect {
                Expect::Value | Expect::FirstItem => {
                    at = string_end(bytes, at)?;
                    (at, expect) = after_value(bytes, at, depth, kinds);
                }
                Expect::Key | Expect::FirstKey => {
                    at = string_end(bytes, at)?;
                    expect = Expect::Colon;
                }
                _ => return fail(at, expect.reason()),
            },
            b':' if expect == Expect::Colon => {
                at += 1;
                expect = Expect::Value;
            }
            b',' if expect == Expect::Comma => {
                at += 1;
                expect = if kinds & 1 == 1 { Expect::Key } else { Expect::Value };
            }
            b'{' | b'[' if matches!(expect, Expect::Value | Expect::FirstItem) => {
                if depth == DEPTH_MAX {
                    return fail(at, "nested deeper than 128 levels");
                }
                at += 1;
                depth += 1;
                kinds = (kinds << 1) | u128::from(byte == b'{');
                expect = if byte == b'{' { Expect::FirstKey } else { Expect::FirstItem };
            }
            b'}' | b']' if depth > 0 && (kinds & 1 == 1) == (byte == b'}') => {
                let empty = if byte == b'}' { Expect::FirstKey } else { Expect::FirstItem };
                if expect != Expect::Comma && expect != empty {
                    return fail(at, "expected a value or key before the end");
                }
                at += 1;
                depth -= 1;
                kinds >>= 1;
                expect = Expect::Comma;
            }
            _ if matches!(expect, Expect::Value | Expect::FirstItem) => {
                at = match integer_end(bytes, at) {
                    Some(end) => end,
                    None => scalar_end(bytes, at)?,
                };
                (at, expect) = after_value(bytes, at, depth, kinds);
            }
            _ => return fail(at, expect.reason()),
        }
        if depth == 0 {
            keep(&text[kept..at]);
            return Ok(at);
        }
    }
    fail(at, "unexpected end")
}

/// Returns the offset and the next token after a value that ends at `at`. Most values are followed by a comma, which is
/// skipped here.
#[inline]
fn after_value(bytes: &[u8], at: usize, depth: usize, kinds: u128) -> (usize, Expect) {
    match bytes.get(at) {
        Some(b',') if depth > 0 => (at + 1, if kinds & 1 == 1 { Expect::Key } else { Expect::Value }),
        _ => (at, Expect::Comma),
    }
}

/// Returns the first offset from `at` on with a quote, a backslash or a control character, or the end. It looks at
/// eight bytes at a time, because most are plain.
#[inline]
fn special_from(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return at + (special.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|byte| !matches!(byte, 0..=0x1f | b'"' | b'\\')) {
        at += 1;
    }
    at
}

/// ObjectMembers of an object; see [`members`].
#[cfg(feature = "server")]
#[derive(Debug)]
pub(crate) struct ObjectMembers<'a> {
    text: &'a str,
    at: usize,
    is_first: bool,
    is_over: bool,
}

/// Returns the members of a JSON object in their order: the text of the key, with its quotes, and the text of the value. All
/// values are validated, and nothing is allocated. The last item is the fault, if the text is not an object.
///
/// A skipped value takes about a third of the instructions that serde's skipping takes.
#[cfg(feature = "server")]
pub(crate) fn members(text: &str) -> ObjectMembers<'_> {
    ObjectMembers { text, at: 0, is_first: true, is_over: false }
}

#[cfg(feature = "server")]
impl<'a> ObjectMembers<'a> {
    fn space(&mut self) {
        self.at = space_end(self.text, self.at);
    }

    fn take(&mut self, byte: u8, reason: &'static str) -> Result<(), JsonError> {
        self.space();
        if self.text.as_bytes().get(self.at) != Some(&byte) {
            return Err(JsonError { offset: self.at, reason });
        }
        self.at += 1;
        Ok(())
    }

    fn member(&mut self) -> Result<Option<(&'a str, &'a str)>, JsonError> {
        let is_first = std::mem::take(&mut self.is_first);
        if is_first {
            self.take(b'{', "expected an object")?;
        }
        self.space();
        if self.text.as_bytes().get(self.at) == Some(&b'}') {
            self.at += 1;
            self.space();
            if self.at < self.text.len() {
                return Err(JsonError { offset: self.at, reason: "unexpected text after the value" });
            }
            return Ok(None);
        }
        if !is_first {
            self.take(b',', Expect::Comma.reason())?;
            self.space();
        }
        let text = self.text;
        let key = self.at;
        if text.as_bytes().get(key) != Some(&b'"') {
            return Err(JsonError { offset: key, reason: Expect::Key.reason() });
        }
        self.at = string_end(text.as_bytes(), key)?;
        let key = &text[key..self.at];
        self.take(b':', Expect::Colon.reason())?;
        self.space();
        let value = self.at;
        self.at = scan(text, value, |_| ())?;
        Ok(Some((key, &text[value..self.at])))
    }
}

#[cfg(feature = "server")]
impl<'a> Iterator for ObjectMembers<'a> {
    type Item = Result<(&'a str, &'a str), JsonError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let member = self.member().transpose();
        self.is_over = !matches!(member, Some(Ok(_)));
        member
    }
}

/// Returns the string without escapes that starts with a quote at `at`, and the offset after it; `None` if there is
/// something else.
#[cfg(feature = "server")]
#[inline]
pub(crate) fn plain_string(text: &str, at: usize) -> Option<(&str, usize)> {
    let bytes = text.as_bytes();
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let end = special_from(bytes, at + 1);
    (bytes.get(end) == Some(&b'"')).then(|| (&text[at + 1..end], end + 1))
}

/// Returns the offset after the string that starts with a quote at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> Result<usize, JsonError> {
    at += 1;
    loop {
        at = special_from(bytes, at);
        match bytes.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => match bytes.get(at + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
                Some(b'u') => {
                    let hex = bytes.get(at + 2..at + 6).unwrap_or_default();
                    if hex.len() < 4 || !hex.iter().all(u8::is_ascii_hexdigit) {
                        return Err(JsonError { offset: at, reason: "bad \\u escape" });
                    }
                    at += 6;
                }
                _ => return Err(JsonError { offset: at, reason: "bad escape" }),
            },
            Some(_) => return Err(JsonError { offset: at, reason: "control character in a string" }),
            None => return Err(JsonError { offset: at, reason: "unexpected end of a string" }),
        }
    }
}

/// Returns the high bit of each byte that is `"`, `\` or below 0x20 (Bit Twiddling Hacks: "determine if a word has a
/// byte less than n"). Borrows may mark a byte above a true one, never below: the first mark is exact.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let less = |w: u64, n: u64| w.wrapping_sub(ONES * n) & !w & HIGHS;
    less(word, 0x20) | less(word ^ (ONES * u64::from(b'"')), 1) | less(word ^ (ONES * u64::from(b'\\')), 1)
}

/// Returns the offset after a positive integer, which most numbers are; `None` if there is anything else.
#[inline]
fn integer_end(bytes: &[u8], at: usize) -> Option<usize> {
    if !matches!(bytes[at], b'1'..=b'9') {
        return None;
    }
    let mut end = at + 1;
    loop {
        match bytes.get(end) {
            Some(b'0'..=b'9') => end += 1,
            Some(b'.' | b'e' | b'E') => return None,
            _ => return Some(end),
        }
    }
}

/// Returns the offset after a number, `true`, `false` or `null`.
fn scalar_end(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let word: &[u8] = match bytes[at] {
        b't' => b"true",
        b'f' => b"false",
        b'n' => b"null",
        _ => return number_end(bytes, at),
    };
    if bytes[at..].starts_with(word) {
        return Ok(at + word.len());
    }
    Err(JsonError { offset: at, reason: "expected a value" })
}

/// Returns the offset after a number.
fn number_end(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    // Most numbers are digits only.
    let mut plain = at;
    while bytes.get(plain).is_some_and(u8::is_ascii_digit) {
        plain += 1;
    }
    let is_plain = plain > at && (bytes[at] != b'0' || plain == at + 1);
    if is_plain && !matches!(bytes.get(plain), Some(b'.' | b'e' | b'E')) {
        return Ok(plain);
    }
    let digits = |mut place: usize| {
        let start = place;
        while bytes.get(place).is_some_and(u8::is_ascii_digit) {
            place += 1;
        }
        (place > start).then_some(place).ok_or(JsonError { offset: start, reason: "expected a value" })
    };
    let start = at + usize::from(bytes[at] == b'-');
    let mut end = digits(start)?;
    if bytes[start] == b'0' && end > start + 1 {
        return Err(JsonError { offset: start, reason: "number with a leading zero" });
    }
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1)?;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        end += 1;
        end += usize::from(matches!(bytes.get(end), Some(b'+' | b'-')));
        end = digits(end)?;
    }
    Ok(end)
}

/// Appends `text` as a JSON string, quotes included. Every control character is escaped.
pub(crate) fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let mut kept = 0;
    loop {
        let at = special_from(text.as_bytes(), kept);
        out.push_str(&text[kept..at]);
        let Some(&byte) = text.as_bytes().get(at) else { break };
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.push_str("\\u00");
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
        kept = at + 1;
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minified(text: &str) -> Result<String, JsonError> {
        let mut out = String::new();
        minify(text, &mut out).map(|()| out)
    }

    #[test]
    fn white_space_between_parts_goes_and_strings_stay() {
        for (text, want) in [
            (
                " { \"a b\" : [ 1 , -2.5e+3 , true ,\nnull ] , \"c\" : { } , \"d\" : [ ] }\r\n",
                r#"{"a b":[1,-2.5e+3,true,null],"c":{},"d":[]}"#,
            ),
            ("0", "0"),
            (" \"x \\\" y\\u00e9 \\\\\" ", "\"x \\\" y\\u00e9 \\\\\""),
            ("\"ein längerer Text ohne Besonderes\"", "\"ein längerer Text ohne Besonderes\""),
            ("[[],{}]", "[[],{}]"),
        ] {
            assert_eq!(minified(text).as_deref(), Ok(want));
        }
    }

    #[cfg(feature = "server")]
    #[test]
    fn members_are_the_keys_and_values_of_an_object() {
        let all = |text: &'static str| members(text).collect::<Result<Vec<_>, _>>();
        let want = vec![("\"a\\u0062\"", "[1, {}]"), ("\"\"", "\"}\""), ("\"a\"", "-1e400")];
        assert_eq!(all(" {\"a\\u0062\" : [1, {}] ,\"\":\"}\", \"a\":-1e400 }\n"), Ok(want));
        assert_eq!(all("{}"), Ok(vec![]));
        for (text, offset) in [
            ("", 0),
            ("[]", 0),
            ("{", 1),
            ("{,}", 1),
            ("{\"a\"}", 4),
            ("{\"a\":}", 5),
            ("{\"a\":1,}", 7),
            ("{\"a\":1 \"b\":2}", 7),
            ("{\"a\":1}}", 7),
            ("{\"a\":1} 2", 8),
            ("{\"a\":[}", 6),
            ("{\"a", 3),
            ("{a:1}", 1),
        ] {
            let fault = all(text).expect_err(text);
            assert!(fault.offset >= offset, "{text}: {fault}");
        }
    }

    #[test]
    fn what_rfc_8259_forbids_is_refused_with_its_place() {
        for (text, offset) in [
            ("", 0),
            ("{", 1),
            ("[1,]", 3),
            ("{,}", 1),
            ("{\"a\"}", 4),
            ("{\"a\":}", 5),
            ("[1 2]", 3),
            ("01", 0),
            ("1.", 2),
            ("-", 1),
            ("+1", 0),
            ("nul", 0),
            ("'a'", 0),
            ("\"\n\"", 1),
            ("\"\\x\"", 1),
            ("\"\\u12g4\"", 1),
            ("\"abc", 4),
            ("{\"a\":1]", 6),
            ("1 2", 2),
            ("[1}", 2),
            ("{1:2}", 1),
            ("NaN", 0),
            ("}", 0),
            ("\"long string with \x01 control\"", 18),
            ("{\"a\":1,}", 7),
            ("[,1]", 1),
        ] {
            assert_eq!(minified(text).map_err(|e| e.offset), Err(offset), "{text:?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(minified(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(minified(&nested(DEPTH_MAX + 1)).map_err(|e| e.offset), Err(DEPTH_MAX));
        assert!(minified(&"[".repeat(10_000)).is_err());
    }

    #[test]
    fn every_control_character_of_a_string_is_escaped() {
        let text: String = (0u8..=0x7f).map(char::from).collect::<String>() + "é\u{2028}";
        let mut json = String::new();
        write_string(&text, &mut json);
        assert!(json.bytes().all(|b| b >= 0x20));
        assert_eq!(minified(&json).as_deref(), Ok(json.as_str()));
    }
}

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

/// Reasons of faults that both readers report.
const NO_KEY: &str = "expected a key";
const NO_COLON: &str = "expected ':'";
const NO_VALUE: &str = "expected a value";
const NO_END: &str = "expected ',' or an end";
const CUT_OFF: &str = "unexpected end";

#[cold]
const fn fault<T>(offset: usize, reason: &'static str) -> Result<T, JsonError> {
    Err(JsonError { offset, reason })
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

/// Arrays and objects that are open.
#[derive(Clone, Copy, Default)]
struct OpenLevels {
    depth: usize,
    /// One bit for each level, the innermost last: 1 is an object. [`DEPTH_MAX`] bits.
    kinds: u128,
}

impl OpenLevels {
    #[inline]
    fn open(&mut self, at: usize, is_object: bool) -> Result<(), JsonError> {
        if self.depth == DEPTH_MAX {
            return fault(at, "nested deeper than 128 levels");
        }
        self.depth += 1;
        self.kinds = (self.kinds << 1) | u128::from(is_object);
        Ok(())
    }

    #[inline]
    fn close(&mut self) {
        self.depth -= 1;
        self.kinds >>= 1;
    }

    #[inline]
    fn is_in_object(self) -> bool {
        self.kinds & 1 == 1
    }
}

/// Pieces of a value between its white space, for a caller that keeps them.
struct KeptPieces<'a, K> {
    text: &'a str,
    /// Start of the piece at hand.
    from: usize,
    keep: K,
}

impl<'a, K: FnMut(&'a str)> KeptPieces<'a, K> {
    /// Ends the piece before the white space at `at`, if there is some. Returns the offset after it.
    #[inline]
    fn space(&mut self, at: usize) -> usize {
        match self.text.as_bytes().get(at) {
            Some(byte) if is_space(*byte) => self.skip(at),
            _ => at,
        }
    }

    fn skip(&mut self, at: usize) -> usize {
        (self.keep)(&self.text[self.from..at]);
        self.from = space_end(self.text, at);
        self.from
    }
}

/// Validates the value at offset `start` and returns the offset after it. Passes it to `keep` in pieces, without its
/// white space. If it fails, `keep` may have received a part.
///
/// A byte takes at most 30 instructions, and in most texts fewer than 27.
pub(crate) fn scan<'a>(text: &'a str, start: usize, keep: impl FnMut(&'a str)) -> Result<usize, JsonError> {
    let bytes = text.as_bytes();
    let mut levels = OpenLevels::default();
    let mut pieces = KeptPieces { text, from: start, keep };
    let mut at = start;
    loop {
        // A value.
        match bytes.get(at) {
            Some(b'[') => {
                levels.open(at, false)?;
                at = pieces.space(at + 1);
                if bytes.get(at) != Some(&b']') {
                    continue;
                }
                levels.close();
                at += 1;
            }
            Some(b'{') => {
                levels.open(at, true)?;
                at = pieces.space(at + 1);
                if bytes.get(at) != Some(&b'}') {
                    at = member_key(bytes, at, &mut pieces)?;
                    continue;
                }
                levels.close();
                at += 1;
            }
            Some(b'"') => at = string_end(bytes, at)?,
            Some(b' ' | b'\t' | b'\n' | b'\r') => {
                at = pieces.skip(at);
                continue;
            }
            Some(b']') if levels.depth > 0 && !levels.is_in_object() => {
                return fault(at, "expected a value before the end");
            }
            // Most numbers are positive integers.
            Some(b'1'..=b'9') => {
                let end = digits_end(bytes, at + 1);
                at = match bytes.get(end) {
                    Some(b'.' | b'e' | b'E') => {
                        fraction_end_called(bytes, end).ok_or_else(|| scalar_fault(bytes, at))?
                    }
                    _ => end,
                };
            }
            Some(_) => at = scalar_end(bytes, at)?,
            None => return fault(at, CUT_OFF),
        }
        // The comma or bracket after a value.
        loop {
            if levels.depth == 0 {
                (pieces.keep)(&text[pieces.from..at]);
                return Ok(at);
            }
            let is_in_object = levels.is_in_object();
            match bytes.get(at) {
                Some(b',') => {
                    at += 1;
                    if is_in_object {
                        at = pieces.space(at);
                        at = member_key(bytes, at, &mut pieces)?;
                    }
                    break;
                }
                Some(b']') if !is_in_object => levels.close(),
                Some(b'}') if is_in_object => levels.close(),
                Some(byte) if is_space(*byte) => {
                    at = pieces.skip(at);
                    continue;
                }
                Some(_) => return fault(at, NO_END),
                None => return fault(at, CUT_OFF),
            }
            at += 1;
        }
    }
}

/// Returns the offset after the key at `at` and its colon.
#[inline(always)]
fn member_key<'a>(
    bytes: &[u8],
    at: usize,
    pieces: &mut KeptPieces<'a, impl FnMut(&'a str)>,
) -> Result<usize, JsonError> {
    match bytes.get(at) {
        Some(b'"') => {}
        Some(_) => return fault(at, NO_KEY),
        None => return fault(at, CUT_OFF),
    }
    let at = pieces.space(string_end(bytes, at)?);
    match bytes.get(at) {
        Some(b':') => Ok(at + 1),
        Some(_) => fault(at, NO_COLON),
        None => fault(at, CUT_OFF),
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

/// Members of an object; see [`members`].
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
            self.take(b',', NO_END)?;
            self.space();
        }
        let text = self.text;
        let key = self.at;
        if text.as_bytes().get(key) != Some(&b'"') {
            return Err(JsonError { offset: key, reason: NO_KEY });
        }
        self.at = string_end(text.as_bytes(), key)?;
        let key = &text[key..self.at];
        self.take(b':', NO_COLON)?;
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

/// Returns the offset after the string that starts with a quote at `at`; `None` if there is something else.
#[cfg(feature = "server")]
pub(crate) fn text_end(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes.get(at) == Some(&b'"') { string_end(bytes, at).ok() } else { None }
}

/// Returns the offset after the string that starts with a quote at `at`.
#[inline(always)]
fn string_end(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let mut end = special_from(bytes, at + 1);
    while bytes.get(end) == Some(&b'\\')
        && bytes.get(end + 1).is_some_and(|escaped| is_short_escape(*escaped))
    {
        end = special_from(bytes, end + 2);
    }
    if bytes.get(end) == Some(&b'"') { Ok(end + 1) } else { escaped_string_end(bytes, end) }
}

const fn is_short_escape(escaped: u8) -> bool {
    matches!(escaped, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')
}

/// Returns the offset after the string that continues at `at` with an escape, or has a fault there.
#[inline(never)]
fn escaped_string_end(bytes: &[u8], mut at: usize) -> Result<usize, JsonError> {
    while bytes.get(at) != Some(&b'"') {
        match escape_end(bytes, at) {
            Some(after) => at = special_from(bytes, after),
            None => return Err(string_fault(bytes, at)),
        }
    }
    Ok(at + 1)
}

/// Returns the offset after the escape at `at`, or `None` if there is none.
fn escape_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at) != Some(&b'\\') {
        return None;
    }
    match bytes.get(at + 1)? {
        escaped if is_short_escape(*escaped) => Some(at + 2),
        b'u' => {
            let hex = bytes.get(at + 2..at + 6)?;
            hex.iter().all(u8::is_ascii_hexdigit).then_some(at + 6)
        }
        _ => None,
    }
}

/// Returns the fault at `at` in a string.
#[cold]
fn string_fault(bytes: &[u8], at: usize) -> JsonError {
    let reason = match (bytes.get(at), bytes.get(at + 1)) {
        (Some(b'\\'), Some(b'u')) => "bad \\u escape",
        (Some(b'\\'), _) => "bad escape",
        (Some(_), _) => "control character in a string",
        (None, _) => "unexpected end of a string",
    };
    JsonError { offset: at, reason }
}

/// Returns the high bit of each byte that is `"`, `\` or below 0x20 (Bit Twiddling Hacks: "determine if a word has a
/// byte less than n"). Borrows may mark a byte above a true one, never below: the first mark is exact.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let less = |w: u64, n: u64| w.wrapping_sub(ONES * n) & !w & HIGHS;
    less(word, 0x20) | less(word ^ (ONES * u64::from(b'"')), 1) | less(word ^ (ONES * u64::from(b'\\')), 1)
}

/// Returns the offset after the digits from `at` on.
#[inline]
fn digits_end(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

/// Returns the offset after a number, `true`, `false` or `null`.
#[inline(always)]
fn scalar_end(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let start = at + usize::from(bytes[at] == b'-');
    let end = digits_end(bytes, start);
    let has_digits = end == start + 1 || (end > start && bytes[start] != b'0');
    let has_more = matches!(bytes.get(end), Some(b'.' | b'e' | b'E'));
    if has_digits && !has_more {
        return Ok(end);
    }
    let end = if has_digits { fraction_end(bytes, end) } else { word_end(bytes, at) };
    end.ok_or_else(|| scalar_fault(bytes, at))
}

/// Returns the offset after a number, from `end`, where its digits end and its fraction or exponent may begin.
#[inline]
fn fraction_end(bytes: &[u8], mut end: usize) -> Option<usize> {
    if bytes.get(end) == Some(&b'.') {
        let fraction = end + 1;
        end = digits_end(bytes, fraction);
        if end == fraction {
            return None;
        }
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let exponent = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        end = digits_end(bytes, exponent);
        if end == exponent {
            return None;
        }
    }
    Some(end)
}

/// Calls [`fraction_end`] without inlining, so that the loop over integers stays small.
#[inline(never)]
fn fraction_end_called(bytes: &[u8], end: usize) -> Option<usize> {
    fraction_end(bytes, end)
}

/// Returns the offset after `true`, `false` or `null`.
#[inline(never)]
fn word_end(bytes: &[u8], at: usize) -> Option<usize> {
    let word: &[u8] = match bytes[at] {
        b't' => b"true",
        b'f' => b"false",
        b'n' => b"null",
        _ => return None,
    };
    bytes[at..].starts_with(word).then_some(at + word.len())
}

/// Returns the fault of the scalar at `at`.
#[cold]
fn scalar_fault(bytes: &[u8], at: usize) -> JsonError {
    let start = at + usize::from(bytes[at] == b'-');
    let mut end = digits_end(bytes, start);
    if end > start + 1 && bytes[start] == b'0' {
        return JsonError { offset: start, reason: "number with a leading zero" };
    }
    // The part that lacks digits is the number itself, its fraction or its exponent.
    if end > start && bytes.get(end) == Some(&b'.') {
        let fraction = end + 1;
        end = digits_end(bytes, fraction);
        if end == fraction {
            return JsonError { offset: fraction, reason: NO_VALUE };
        }
    }
    if end > start && matches!(bytes.get(end), Some(b'e' | b'E')) {
        end += 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
    }
    JsonError { offset: if end > start { end } else { start }, reason: NO_VALUE }
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
    fn invalid_json_is_refused_with_its_place() {
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

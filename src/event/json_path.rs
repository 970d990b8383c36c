//! Finds the value at a path in JSON text, without building anything.
//!
//! The text must be as `event::json` writes it: valid JSON, minified, nested at most 128 deep. On other text the result
//! may be wrong, but every walk ends at the text's end: no recursion, no allocation, no index beyond the bytes.

use std::cmp::Ordering;
use std::ops::Range;

/// Compares the inside of a JSON string with plain text.
pub(crate) fn compare_text(raw: &[u8], text: &[u8]) -> Ordering {
    if raw.contains(&b'\\') { Unescaped { raw }.cmp(text.iter().copied()) } else { raw.cmp(text) }
}

/// Reader of the UTF-8 bytes that the inside of a JSON string stands for. A lone surrogate is read as U+FFFD.
struct Unescaped<'a> {
    raw: &'a [u8],
}

impl Unescaped<'_> {
    fn cmp(mut self, mut text: impl Iterator<Item = u8>) -> Ordering {
        let mut buffer = [0; 4];
        loop {
            let length = self.next_char(&mut buffer);
            if length == 0 {
                return if text.next().is_some() { Ordering::Less } else { Ordering::Equal };
            }
            for &byte in &buffer[..length] {
                let Some(other) = text.next() else { return Ordering::Greater };
                if byte != other {
                    return byte.cmp(&other);
                }
            }
        }
    }

    /// Writes the next character, or one byte of a character without escape. Returns the number of bytes, 0 at the end.
    fn next_char(&mut self, buffer: &mut [u8; 4]) -> usize {
        let Some((&byte, rest)) = self.raw.split_first() else { return 0 };
        self.raw = rest;
        buffer[0] = byte;
        if byte != b'\\' {
            return 1;
        }
        let Some((&escape, rest)) = self.raw.split_first() else { return 1 };
        self.raw = rest;
        buffer[0] = match escape {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return self.unicode().encode_utf8(buffer).len(),
            other => other,
        };
        1
    }

    /// Reads the character of an escape, after `\u`.
    fn unicode(&mut self) -> char {
        let unit = |raw: &[u8]| -> Option<u32> {
            let hex = std::str::from_utf8(raw.get(..4)?).ok()?;
            u32::from_str_radix(hex, 16).ok()
        };
        let Some(high) = unit(self.raw) else { return char::REPLACEMENT_CHARACTER };
        self.raw = &self.raw[4..];
        if (0xd800..0xdc00).contains(&high)
            && let Some(low) = self.raw.strip_prefix(b"\\u").and_then(unit)
            && (0xdc00..0xe000).contains(&low)
        {
            self.raw = &self.raw[6..];
            let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            return char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        }
        char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER)
    }
}

/// Appends the UTF-8 bytes that the inside of a JSON string stands for.
pub(crate) fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut unescaped = Unescaped { raw };
    let mut buffer = [0; 4];
    loop {
        match unescaped.next_char(&mut buffer) {
            0 => return,
            length => out.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Returns the text of the value at a path: keys of objects, decimal indexes of arrays from 0. If an object has a key
/// twice, the last one counts.
pub(crate) fn find<'a, 'k>(json: &'a [u8], path: impl Iterator<Item = &'k [u8]>) -> Option<&'a [u8]> {
    json.get(find_range(json, path)?)
}

/// Returns the place of the value that [`find`] returns.
pub(crate) fn find_range<'k>(json: &[u8], path: impl Iterator<Item = &'k [u8]>) -> Option<Range<usize>> {
    let mut value = 0..json.len();
    for key in path {
        value = match json.get(value.start)? {
            b'{' => member(json, value.start, key)?,
            b'[' => item(json, value.start, place_of(key)?)?,
            _ => return None,
        };
    }
    Some(value)
}

/// Returns the place of a member's value in the object at `at`.
fn member(json: &[u8], at: usize, key: &[u8]) -> Option<Range<usize>> {
    let mut found = None;
    let mut at = at + 1;
    while json.get(at) == Some(&b'"') {
        let colon = value_end(json, at);
        let value = colon + 1;
        let end = value_end(json, value);
        let name = json.get(at + 1..colon.checked_sub(1)?)?;
        if compare_text(name, key).is_eq() {
            found = Some(value..end);
        }
        // After the object's last value comes no quote.
        at = end + 1;
    }
    found
}

/// Returns the place of an element in the array at `at`.
fn item(json: &[u8], at: usize, index: usize) -> Option<Range<usize>> {
    let mut at = at + 1;
    for _ in 0..index {
        at = value_end(json, at);
        if json.get(at) != Some(&b',') {
            return None;
        }
        at += 1;
    }
    let end = value_end(json, at);
    (at < end).then_some(at..end)
}

/// Returns the array index that a key of a path stands for.
pub(crate) fn place_of(key: &[u8]) -> Option<usize> {
    if key.is_empty() || key.len() > 9 || (key[0] == b'0' && key.len() > 1) {
        return None;
    }
    key.iter().try_fold(0, |n, byte| byte.is_ascii_digit().then(|| n * 10 + usize::from(byte - b'0')))
}

/// Returns the offset after the value that starts at `at`.
pub(crate) fn value_end(json: &[u8], at: usize) -> usize {
    match json.get(at) {
        Some(b'"') => string_end(json, at),
        Some(b'{' | b'[') => container_end(json, at + 1),
        // A number or a word.
        _ => {
            let rest = json.get(at..).unwrap_or_default();
            let length = rest.iter().position(|byte| matches!(byte, b',' | b':' | b'}' | b']'));
            at + length.unwrap_or(rest.len())
        }
    }
}

/// Returns the offset after the container that `at` is in.
pub(crate) fn container_end(json: &[u8], mut at: usize) -> usize {
    let mut depth = 1usize;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => {
                at = string_end(json, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    json.len()
}

/// Returns the offset after the string that starts at `at`.
fn string_end(json: &[u8], at: usize) -> usize {
    string_span(json, at).0
}

/// Returns the offset after the string that starts at `at`, and whether the string has an escape. It looks at eight
/// bytes at a time.
pub(crate) fn string_span(json: &[u8], mut at: usize) -> (usize, bool) {
    const ONES: u64 = u64::MAX / 255;
    // The lowest mark is that of the first such byte.
    let marks = |word: u64, byte: u8| {
        let other = word ^ (ONES * u64::from(byte));
        other.wrapping_sub(ONES) & !other & (ONES << 7)
    };
    let mut has_escape = false;
    at += 1;
    loop {
        if let Some(Ok(eight)) = json.get(at..at + 8).map(<[u8; 8]>::try_from) {
            let word = u64::from_le_bytes(eight);
            let found = marks(word, b'"') | marks(word, b'\\');
            if found == 0 {
                at += 8;
                continue;
            }
            at += found.trailing_zeros() as usize / 8;
        }
        match json.get(at) {
            None => return (json.len(), has_escape),
            Some(b'"') => return (at + 1, has_escape),
            Some(b'\\') => {
                has_escape = true;
                at += 2;
            }
            Some(_) => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'a>(json: &'a str, path: &str) -> Option<&'a str> {
        let path = path.split('.').filter(|key| !key.is_empty()).map(str::as_bytes);
        find(json.as_bytes(), path).map(|bytes| std::str::from_utf8(bytes).expect("a slice between ASCII"))
    }

    #[test]
    fn a_path_leads_through_objects_and_arrays() {
        let json = r#"{"a":{"b":[1,{"c":"x,}"},[]],"":{}},"d\"":-1.5,"e":null,"\u0066":true,"g":{},"h":[]}"#;
        for (path, want) in [
            ("", Some(json)),
            ("a.b.0", Some("1")),
            ("a.b.1.c", Some(r#""x,}""#)),
            ("a.b.2", Some("[]")),
            ("a.b.3", None),
            ("a.b.00", None),
            ("a.b.x", None),
            ("d\"", Some("-1.5")),
            ("e", Some("null")),
            ("f", Some("true")),
            ("e.x", None),
            ("g.x", None),
            ("h.0", None),
            ("z", None),
        ] {
            assert_eq!(found(json, path), want, "{path}");
        }
        assert_eq!(found(r#"{"a":1,"a":2}"#, "a"), Some("2"));
    }

    #[test]
    fn a_walk_through_broken_text_ends() {
        for json in
            ["", "{", "{\"", "{\"a", "{\"a\"", "{\"a\":", "[", "[1", "{\"a\\", "[\"\\", "}", "{\"a\"}"]
        {
            for path in ["a", "0", "a.a"] {
                let _ = found(json, path);
            }
        }
    }
}

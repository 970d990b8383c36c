//! Comparisons on fields of an event's payload, evaluated on its JSON text without building anything.
//!
//! Imports its siblings only. Relies on what `event::json` guarantees: the text is valid JSON, minified, nested
//! at most 128 deep. On other text the answer may be wrong, but every walk ends at the text's end: no
//! recursion, no allocation, no index beyond the bytes.

use std::cmp::Ordering;
use std::fmt;

use super::encoding::{read_bytes, read_length, write_bytes, write_length};

/// How a field of the payload is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operator {
    /// The field is there, whatever its value (`null` too).
    Exists,
    /// The field is not there.
    Missing,
    /// It equals one of the values.
    Equal,
    /// It equals none of the values, or is not there.
    NotEqual,
    /// It is below one of the values, and of its kind.
    Less,
    /// It is not above one of the values, and of its kind.
    LessOrEqual,
    /// It is above one of the values, and of its kind.
    Greater,
    /// It is not below one of the values, and of its kind.
    GreaterOrEqual,
}

impl Operator {
    pub(crate) const ALL: [Self; 8] = [
        Self::Exists,
        Self::Missing,
        Self::Equal,
        Self::NotEqual,
        Self::Less,
        Self::LessOrEqual,
        Self::Greater,
        Self::GreaterOrEqual,
    ];

    /// As it stands in a filter's text.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::Missing => "!exists",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    /// Whether a value that stands in this order to the one literal is wanted.
    pub(crate) const fn orders(self, order: Ordering) -> bool {
        match self {
            Self::Exists => true,
            Self::Missing => false,
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }

    pub(crate) const fn takes_values(self) -> bool {
        !matches!(self, Self::Exists | Self::Missing)
    }
}

/// A value that a payload's field is compared with.
///
/// Numbers are compared exactly where both are integers of at most 38 digits, else as `f64`; texts by their
/// characters' code points. Values of different kinds are never equal and have no order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Literal {
    /// JSON `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string.
    Text(Box<str>),
}

/// A number as JSON writes it. Two that are written differently are different literals (`1` and `1.0`), though
/// they compare alike with a payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Number(Box<str>);

impl Number {
    /// A number from its JSON text; `None` if that is something else.
    pub fn from_json(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
        let run = |at: usize| digits[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        let mut at = run(0);
        if at == 0 || (digits[0] == b'0' && at > 1) {
            return None;
        }
        if digits.get(at) == Some(&b'.') {
            let fraction = run(at + 1);
            at += 1 + fraction;
            if fraction == 0 {
                return None;
            }
        }
        if matches!(digits.get(at), Some(b'e' | b'E')) {
            at += 1 + usize::from(matches!(digits.get(at + 1), Some(b'+' | b'-')));
            let exponent = run(at);
            at += exponent;
            if exponent == 0 {
                return None;
            }
        }
        (at == digits.len()).then(|| Self(text.into()))
    }

    /// Its JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Literal {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Literal {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<bool> for Literal {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Literal {
    fn from(value: i64) -> Self {
        Self::Number(Number(value.to_string().into()))
    }
}

impl From<i32> for Literal {
    fn from(value: i32) -> Self {
        i64::from(value).into()
    }
}

impl From<u64> for Literal {
    fn from(value: u64) -> Self {
        Self::Number(Number(value.to_string().into()))
    }
}

impl From<f64> for Literal {
    /// What JSON has no number for (infinities, not-a-number) becomes [`Literal::Null`].
    fn from(value: f64) -> Self {
        if value.is_finite() { Self::Number(Number(value.to_string().into())) } else { Self::Null }
    }
}

impl fmt::Display for Literal {
    /// As JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(number) => f.write_str(&number.0),
            Self::Text(text) => super::print::write_quoted(text, f),
        }
    }
}

/// A condition on one field of the payload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Comparison {
    pub(crate) path: Vec<Box<str>>,
    pub(crate) operator: Operator,
    pub(crate) values: Vec<Literal>,
}

impl Comparison {
    /// Values are sorted, and dropped where the operator takes none.
    pub(crate) fn new(path: Vec<Box<str>>, operator: Operator, mut values: Vec<Literal>) -> Self {
        if operator.takes_values() {
            values.sort_unstable();
            values.dedup();
        } else {
            values.clear();
        }
        Self { path, operator, values }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.operator as u8);
        write_length(self.path.len(), out);
        for key in &self.path {
            write_bytes(key.as_bytes(), out);
        }
        for value in &self.values {
            let (kind, text): (u8, &str) = match value {
                Literal::Null => (0, ""),
                Literal::Bool(false) => (1, ""),
                Literal::Bool(true) => (2, ""),
                Literal::Number(number) => (3, &number.0),
                Literal::Text(text) => (4, text),
            };
            out.push(kind);
            write_bytes(text.as_bytes(), out);
        }
    }
}

/// A [`Comparison`] in a filter's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ComparisonRef<'a> {
    body: &'a [u8],
}

impl<'a> ComparisonRef<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { body }
    }

    /// Operator, path, and the bytes of the values.
    fn parts(self) -> (Operator, impl Iterator<Item = &'a [u8]> + Clone, &'a [u8]) {
        let (&operator, mut rest) = self.body.split_first().unwrap_or((&0, &[]));
        let operator = Operator::ALL.get(usize::from(operator)).copied().unwrap_or(Operator::Exists);
        let keys = read_length(&mut rest).unwrap_or(0);
        let mut path = rest;
        for _ in 0..keys {
            read_bytes(&mut rest);
        }
        (operator, (0..keys).map_while(move |_| read_bytes(&mut path)), rest)
    }

    pub(crate) fn to_comparison(self) -> Comparison {
        let text = |bytes: &[u8]| -> Box<str> { String::from_utf8_lossy(bytes).into() };
        let (operator, path, values) = self.parts();
        let values = Values { rest: values }
            .map(|(kind, bytes)| match kind {
                0 => Literal::Null,
                1 => Literal::Bool(false),
                2 => Literal::Bool(true),
                3 => Literal::Number(Number(text(bytes))),
                _ => Literal::Text(text(bytes)),
            })
            .collect();
        Comparison { path: path.map(text).collect(), operator, values }
    }

    /// Its bytes.
    pub(crate) fn body(self) -> &'a [u8] {
        self.body
    }

    /// How it compares.
    pub(crate) fn operator(self) -> Operator {
        self.parts().0
    }

    /// The keys on the way to its field.
    pub(crate) fn path(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.parts().1
    }

    /// Returns the literal that it compares with.
    pub(crate) fn literals(self) -> impl Iterator<Item = LiteralRef<'a>> {
        Values { rest: self.parts().2 }.map(|(kind, text)| match kind {
            3 => LiteralRef::Number(float(text).unwrap_or(f64::NAN)),
            4 => LiteralRef::Text(text),
            word => LiteralRef::Word(word),
        })
    }

    /// The JSON text of the field it is about.
    pub(crate) fn found(self, payload: &str) -> Option<&str> {
        let (_, path, _) = self.parts();
        std::str::from_utf8(find(payload.as_bytes(), path)?).ok()
    }

    /// Whether it holds for a payload.
    pub(crate) fn holds(self, payload: &str) -> bool {
        let (_, path, _) = self.parts();
        self.holds_for(find(payload.as_bytes(), path))
    }

    /// Whether it holds where the field has this JSON text.
    #[cfg(feature = "server")]
    pub(crate) fn holds_at(self, json: &str) -> bool {
        self.holds_for(Some(json.as_bytes()))
    }

    /// Whether it holds where the field has this JSON text, or is not there.
    pub(crate) fn holds_for(self, found: Option<&[u8]>) -> bool {
        self.holds_by(found.is_some(), |kind, text| compare(found?, kind, text))
    }

    /// The one literal that it has, where that is an integer of 64 bits.
    pub(crate) fn integer(self) -> Option<i64> {
        let mut values = Values { rest: self.parts().2 };
        match (values.next(), values.next()) {
            (Some((3, text)), None) => integer(text)?.try_into().ok(),
            _ => None,
        }
    }

    /// How it compares, and where in its bytes the literals begin; for [`holds`].
    pub(crate) fn split(self) -> (Operator, usize) {
        let (operator, _, rest) = self.parts();
        (operator, self.body.len() - rest.len())
    }

    fn holds_by(self, is_there: bool, order: impl Fn(u8, &[u8]) -> Option<Ordering>) -> bool {
        let (operator, _, rest) = self.parts();
        holds_by(operator, rest, is_there, order)
    }
}

/// Whether a condition holds where the field has this value, or is not there. `literals` are the bytes behind
/// [`ComparisonRef::split`].
pub(crate) fn holds(operator: Operator, literals: &[u8], value: Option<Scalar<'_>>) -> bool {
    holds_by(operator, literals, value.is_some(), |kind, text| value?.compare(kind, text))
}

fn holds_by(
    operator: Operator,
    rest: &[u8],
    is_there: bool,
    order: impl Fn(u8, &[u8]) -> Option<Ordering>,
) -> bool {
    let any = |wanted: fn(Ordering) -> bool| {
        Values { rest }.any(|(kind, text)| order(kind, text).is_some_and(wanted))
    };
    match operator {
        Operator::Exists => is_there,
        Operator::Missing => !is_there,
        Operator::Equal => any(Ordering::is_eq),
        Operator::NotEqual => !any(Ordering::is_eq),
        Operator::Less => any(Ordering::is_lt),
        Operator::LessOrEqual => any(Ordering::is_le),
        Operator::Greater => any(Ordering::is_gt),
        Operator::GreaterOrEqual => any(Ordering::is_ge),
    }
}

/// A field's value, read once and compared with many literals.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    Number {
        integer: Option<i128>,
        float: f64,
    },
    /// Unescaped; as [`Scalar::read`] returns it, as it stands in the JSON.
    Text(&'a [u8]),
    /// An object or an array: it equals nothing.
    Other,
}

impl<'a> Scalar<'a> {
    /// Reads a value's JSON text.
    pub(crate) fn read(json: &'a [u8]) -> Self {
        match json {
            b"null" => Self::Null,
            b"true" => Self::Bool(true),
            b"false" => Self::Bool(false),
            [b'"', inner @ .., b'"'] => Self::Text(inner),
            [b'-' | b'0'..=b'9', ..] => match integer(json) {
                // The nearest float, as its text would be read.
                Some(integer) => Self::Number { integer: Some(integer), float: integer as f64 },
                None => float(json).map_or(Self::Other, |float| Self::Number { integer: None, float }),
            },
            _ => Self::Other,
        }
    }

    /// Its order against a literal, as [`compare`] has it.
    fn compare(self, kind: u8, literal: &[u8]) -> Option<Ordering> {
        let same = |is_same: bool| is_same.then_some(Ordering::Equal);
        match (self, kind) {
            (Self::Null, 0) | (Self::Bool(false), 1) | (Self::Bool(true), 2) => same(true),
            (Self::Number { integer: own, float: value }, 3) => match (own, integer(literal)) {
                (Some(own), Some(other)) => Some(own.cmp(&other)),
                _ => value.partial_cmp(&float(literal)?),
            },
            (Self::Text(text), 4) => Some(text.cmp(literal)),
            _ => None,
        }
    }
}

/// A literal in a filter's bytes.
pub(crate) enum LiteralRef<'a> {
    Word(u8),
    Number(f64),
    Text(&'a [u8]),
}

struct Values<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some((kind, read_bytes(&mut self.rest)?))
    }
}

/// A field's JSON text against a literal; `None` where they have no order. `null`, booleans, objects and
/// arrays are only ever equal or not.
fn compare(found: &[u8], kind: u8, text: &[u8]) -> Option<Ordering> {
    let same = |word: &[u8]| (found == word).then_some(Ordering::Equal);
    match kind {
        0 => same(b"null"),
        1 => same(b"false"),
        2 => same(b"true"),
        3 => matches!(found.first(), Some(b'-' | b'0'..=b'9')).then(|| compare_numbers(found, text))?,
        _ => match found {
            [b'"', inner @ .., b'"'] => Some(compare_text(inner, text)),
            _ => None,
        },
    }
}

fn compare_numbers(a: &[u8], b: &[u8]) -> Option<Ordering> {
    if let (Some(a), Some(b)) = (integer(a), integer(b)) {
        return Some(a.cmp(&b));
    }
    float(a)?.partial_cmp(&float(b)?)
}

fn float(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// An integer that fits; 38 digits always do.
fn integer(text: &[u8]) -> Option<i128> {
    let (digits, sign) = match text {
        [b'-', digits @ ..] => (digits, -1),
        digits => (digits, 1),
    };
    if digits.is_empty() || digits.len() > 38 {
        return None;
    }
    if digits.len() <= 18 {
        // 64 bits are enough for these, and quicker.
        let number = digits.iter().try_fold(0i64, |number, byte| {
            byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'))
        })?;
        return Some(i128::from(number) * sign);
    }
    let number = digits.iter().try_fold(0i128, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + i128::from(byte - b'0'))
    })?;
    Some(number * sign)
}

/// The inside of a JSON string against plain text.
fn compare_text(raw: &[u8], text: &[u8]) -> Ordering {
    if raw.contains(&b'\\') { Unescaped { raw }.cmp(text.iter().copied()) } else { raw.cmp(text) }
}

/// The UTF-8 bytes that the inside of a JSON string stands for; a lone surrogate is U+FFFD.
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

    /// Writes the next character, or a byte of an unescaped one; answers how many bytes, 0 at the end.
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

    /// After `\u`.
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

/// The text of the value at a path: keys of objects, decimal places (from 0) of arrays. Where an object says
/// a key twice, the last counts.
pub(crate) fn find<'a, 'k>(json: &'a [u8], path: impl Iterator<Item = &'k [u8]>) -> Option<&'a [u8]> {
    let mut value = json;
    for key in path {
        value = match value.first()? {
            b'{' => member(value, key)?,
            b'[' => item(value, place_of(key)?)?,
            _ => return None,
        };
    }
    Some(value)
}

fn member<'a>(object: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let mut found = None;
    let mut at = 1;
    while object.get(at) == Some(&b'"') {
        let colon = value_end(object, at);
        let value = colon + 1;
        let end = value_end(object, value);
        let name = object.get(at + 1..colon.checked_sub(1)?)?;
        if compare_text(name, key).is_eq() {
            found = object.get(value..end);
        }
        at = end + 1;
    }
    found
}

fn item(array: &[u8], index: usize) -> Option<&[u8]> {
    let mut at = 1;
    for _ in 0..index {
        at = value_end(array, at);
        if array.get(at) != Some(&b',') {
            return None;
        }
        at += 1;
    }
    let end = value_end(array, at);
    array.get(at..end).filter(|item| !item.is_empty())
}

/// The place in an array that a key of a path says.
pub(crate) fn place_of(key: &[u8]) -> Option<usize> {
    if key.is_empty() || key.len() > 9 || (key[0] == b'0' && key.len() > 1) {
        return None;
    }
    key.iter().try_fold(0, |n, byte| byte.is_ascii_digit().then(|| n * 10 + usize::from(byte - b'0')))
}

/// The place after the value that starts at `at`.
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

/// The place after the container that `at` is in.
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

/// The place after the closing quote of the string that starts at `at`.
fn string_end(json: &[u8], at: usize) -> usize {
    string_span(json, at).0
}

/// Returns that, and whether the string has an escape. Eight bytes at a time.
pub(crate) fn string_span(json: &[u8], mut at: usize) -> (usize, bool) {
    const ONES: u64 = u64::MAX / 255;
    // The lowest bit that is set is that of the first such byte.
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

    fn holds(payload: &str, path: &str, operator: Operator, values: &[Literal]) -> bool {
        let path = path.split('.').map(Into::into).collect();
        let comparison = Comparison::new(path, operator, values.to_vec());
        let mut body = Vec::new();
        comparison.encode(&mut body);
        let encoded = ComparisonRef::new(&body);
        assert_eq!(encoded.to_comparison(), comparison);
        encoded.holds(payload)
    }

    #[test]
    fn numbers_compare_exactly_as_integers_and_else_as_floats() {
        let big: Literal = 9_007_199_254_740_993_i64.into();
        let payload = r#"{"n":9007199254740992,"f":1.5,"e":5e1,"s":"5"}"#;
        for (path, operator, value, want) in [
            ("n", Operator::Less, big.clone(), true),
            ("n", Operator::Equal, big, false),
            ("f", Operator::Greater, 1.into(), true),
            ("f", Operator::LessOrEqual, 1.5.into(), true),
            ("e", Operator::Equal, 50.into(), true),
            ("e", Operator::GreaterOrEqual, 50.into(), true),
            ("s", Operator::Equal, 5.into(), false),
            ("s", Operator::NotEqual, 5.into(), true),
            ("x", Operator::NotEqual, 5.into(), true),
            ("x", Operator::Less, 5.into(), false),
        ] {
            assert_eq!(holds(payload, path, operator, &[value]), want, "{path} {operator:?}");
        }
    }

    #[test]
    fn texts_compare_unescaped() {
        let payload = r#"{"a":"x\n\u00e9\ud83d\ude00","b":"READY","c":"\ud83d"}"#;
        assert!(holds(payload, "a", Operator::Equal, &["x\né😀".into()]));
        assert!(holds(payload, "a", Operator::Greater, &["x\né".into()]));
        assert!(holds(payload, "b", Operator::Equal, &["DONE".into(), "READY".into()]));
        assert!(holds(payload, "b", Operator::Less, &["READY!".into()]));
        assert!(holds(payload, "c", Operator::Equal, &["\u{fffd}".into()]));
    }

    #[test]
    fn null_and_booleans_are_values_and_absence_is_none() {
        let payload = r#"{"n":null,"t":true}"#;
        assert!(holds(payload, "n", Operator::Exists, &[]));
        assert!(holds(payload, "n", Operator::Equal, &[Literal::Null]));
        assert!(holds(payload, "x", Operator::Missing, &[]));
        assert!(!holds(payload, "x", Operator::Equal, &[Literal::Null]));
        assert!(holds(payload, "t", Operator::Equal, &[true.into()]));
        assert!(!holds(payload, "t", Operator::Equal, &[false.into()]));
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

    #[test]
    fn only_json_numbers_are_numbers() {
        for text in ["0", "-0", "1.5", "-1e5", "1E+05", "12345678901234567890"] {
            assert!(Number::from_json(text).is_some(), "{text}");
        }
        for text in ["", "-", "01", "1.", ".5", "1e", "1e+", "+1", "0x1", "1 ", "NaN", "1_0"] {
            assert!(Number::from_json(text).is_none(), "{text}");
        }
    }
}

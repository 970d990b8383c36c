//! Conditions on fields of the payload: their encoding, and their evaluation on the payload's JSON text.

use std::cmp::Ordering;

use super::literal::{Literal, Number, Operator};
use super::varint::{read_bytes, read_length, write_bytes, write_length};
use crate::event::json_path::{compare_text, find};

/// Maximum length of a number that is compared, in bytes. A longer one equals nothing, so its digits are not parsed.
const NUMBER_BYTES_MAX: usize = 1024;

/// Condition on one field of the payload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Comparison {
    pub(crate) path: Vec<Box<str>>,
    pub(crate) operator: Operator,
    pub(crate) values: Vec<Literal>,
}

impl Comparison {
    /// Returns the comparison with its literals sorted; without them if the operator takes none.
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

/// [`Comparison`] in a filter's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ComparisonRef<'a> {
    body: &'a [u8],
}

impl<'a> ComparisonRef<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { body }
    }

    /// Returns the operator, the path, and the bytes of the literals.
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
        let values = Literals { rest: values }
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

    /// Returns the comparison's bytes.
    pub(crate) fn body(self) -> &'a [u8] {
        self.body
    }

    /// Returns the operator.
    pub(crate) fn operator(self) -> Operator {
        self.parts().0
    }

    /// Returns the keys of the path to the field.
    pub(crate) fn path(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.parts().1
    }

    /// Returns the literals to compare with.
    pub(crate) fn literals(self) -> impl Iterator<Item = LiteralRef<'a>> {
        Literals { rest: self.parts().2 }.map(|(kind, text)| match kind {
            3 => LiteralRef::Number(float(text).unwrap_or(f64::NAN)),
            4 => LiteralRef::Text(text),
            word => LiteralRef::Word(word),
        })
    }

    /// Returns the field's JSON text in a payload.
    pub(crate) fn found(self, payload: &str) -> Option<&str> {
        let (_, path, _) = self.parts();
        std::str::from_utf8(find(payload.as_bytes(), path)?).ok()
    }

    /// Returns whether the condition holds for a payload.
    pub(crate) fn holds(self, payload: &str) -> bool {
        let (_, path, _) = self.parts();
        self.holds_for(find(payload.as_bytes(), path))
    }

    /// Returns whether the condition holds if the field has this JSON text.
    #[cfg(feature = "server")]
    pub(crate) fn holds_at(self, json: &str) -> bool {
        self.holds_for(Some(json.as_bytes()))
    }

    /// Returns whether the condition holds for this JSON text of the field, or for its absence.
    pub(crate) fn holds_for(self, found: Option<&[u8]>) -> bool {
        self.holds_by(found.is_some(), |kind, text| compare(found?, kind, text))
    }

    /// Returns the literal if there is only one and it is an integer of 64 bits.
    pub(crate) fn integer(self) -> Option<i64> {
        let mut values = Literals { rest: self.parts().2 };
        match (values.next(), values.next()) {
            (Some((3, text)), None) => integer(text)?.try_into().ok(),
            _ => None,
        }
    }

    /// Returns the operator, and the offset of the literals in the comparison's bytes, for [`holds`].
    pub(crate) fn split(self) -> (Operator, usize) {
        let (operator, _, rest) = self.parts();
        (operator, self.body.len() - rest.len())
    }

    fn holds_by(self, is_there: bool, order: impl Fn(u8, &[u8]) -> Option<Ordering>) -> bool {
        let (operator, _, rest) = self.parts();
        holds_by(operator, rest, is_there, order)
    }
}

/// Returns whether a condition holds for this value of the field, or for its absence. `literals` are the bytes from the
/// offset on that [`ComparisonRef::split`] returns.
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
        Literals { rest }.any(|(kind, text)| order(kind, text).is_some_and(wanted))
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

/// Value of a field, parsed once and compared with many literals.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    Number {
        integer: Option<i128>,
        float: f64,
    },
    /// Text without escapes. [`Scalar::read`] returns it as it is in the JSON, with escapes.
    Text(&'a [u8]),
    /// An object or an array. It equals nothing.
    Other,
}

impl<'a> Scalar<'a> {
    /// Parses a value's JSON text.
    pub(crate) fn read(json: &'a [u8]) -> Self {
        match json {
            b"null" => Self::Null,
            b"true" => Self::Bool(true),
            b"false" => Self::Bool(false),
            [b'"', inner @ .., b'"'] => Self::Text(inner),
            [b'-' | b'0'..=b'9', ..] => match integer(json) {
                // The nearest float, which parsing the text as a float would give.
                Some(integer) => Self::Number { integer: Some(integer), float: integer as f64 },
                None => float(json).map_or(Self::Other, |float| Self::Number { integer: None, float }),
            },
            _ => Self::Other,
        }
    }

    /// Returns the value's order relative to a literal, as [`compare`] does.
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

/// Literal in a filter's bytes.
pub(crate) enum LiteralRef<'a> {
    Word(u8),
    Number(f64),
    Text(&'a [u8]),
}

struct Literals<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Literals<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some((kind, read_bytes(&mut self.rest)?))
    }
}

/// Returns the order of a field's JSON text relative to a literal, or `None` if they have none. `null`, booleans,
/// objects and arrays are only ever equal or not.
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
    if text.len() > NUMBER_BYTES_MAX {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Parses an integer that fits; 38 digits always do.
fn integer(text: &[u8]) -> Option<i128> {
    let (digits, sign) = match text {
        [b'-', digits @ ..] => (digits, -1),
        digits => (digits, 1),
    };
    if digits.is_empty() || digits.len() > 38 {
        return None;
    }
    if digits.len() <= 18 {
        // 64 bits are enough for these, and faster.
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_number_without_end_equals_nothing() {
        let number = |digits: usize| format!(r#"{{"n":1.{}}}"#, "0".repeat(digits));
        assert!(holds(&number(1_000), "n", Operator::Equal, &[1.into()]));
        assert!(!holds(&number(1_100), "n", Operator::Equal, &[1.into()]));
        assert!(holds(&number(1_100), "n", Operator::NotEqual, &[1.into()]));
        assert!(holds(&number(1_100), "n", Operator::Exists, &[]));
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
}

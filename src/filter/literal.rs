//! Operators and literals of conditions on fields of the payload.

use std::cmp::Ordering;
use std::fmt;

use super::lexical::write_quoted;

/// Comparison of a field of the payload with values. Missing fields satisfy [`Missing`](Self::Missing) and
/// [`NotEqual`](Self::NotEqual) only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operator {
    /// The field exists, regardless of its value (`null` too).
    Exists,
    /// The field does not exist.
    Missing,
    /// The field equals one of the values.
    Equal,
    /// The field equals none of the values, or does not exist.
    NotEqual,
    /// The field is less than one of the values, and of the same kind.
    Less,
    /// The field is at most one of the values, and of the same kind.
    LessOrEqual,
    /// The field is greater than one of the values, and of the same kind.
    Greater,
    /// The field is at least one of the values, and of the same kind.
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

    /// Returns the operator in the text form of filters.
    #[must_use]
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

    /// Returns whether the operator holds for a value with this order relative to the only literal.
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

/// Value that a field of the payload is compared with.
///
/// Numbers are compared exactly if both are integers of at most 38 digits, otherwise as `f64`. Texts are compared by
/// code points. Values of different kinds are never equal and have no order.
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

/// Number as JSON writes it. `1` and `1.0` are different literals, though they compare alike with a payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Number(pub(super) Box<str>);

impl Number {
    /// Returns the number with this JSON text, or `None` if the text is not a JSON number.
    #[must_use]
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

    /// Returns the JSON text.
    #[must_use]
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
    /// Infinities and not-a-number, for which JSON has no number, become [`Literal::Null`].
    fn from(value: f64) -> Self {
        if value.is_finite() { Self::Number(Number(value.to_string().into())) } else { Self::Null }
    }
}

impl fmt::Display for Literal {
    /// Writes the literal as JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(number) => f.write_str(&number.0),
            Self::Text(text) => write_quoted(text, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

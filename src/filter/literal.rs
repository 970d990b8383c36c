//! Operators and literals: what conditions on a field of the payload compare it with, and how.

use std::cmp::Ordering;
use std::fmt;

use super::lexical::write_quoted;

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
pub struct Number(pub(super) Box<str>);

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

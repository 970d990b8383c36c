//! Errors of filters.

use std::fmt;

/// Error: a filter's text could not be parsed, or the filter is over a limit.
///
/// The `Display` form is one line; [`caret`](Self::caret) shows the place in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError(Box<FilterFault>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FilterFault {
    kind: FilterErrorKind,
    column: usize,
    text: String,
}

/// Kind of a [`FilterError`]. Pairs of numbers are the value found and the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FilterErrorKind {
    /// No attribute has this name.
    UnknownAttribute(String),
    /// An attribute or `payload` is missing.
    ExpectedName,
    /// An operator (`=`, `!=`, ...) is missing.
    ExpectedOperator,
    /// This operator is for payload fields only.
    OperatorOfPayload(&'static str),
    /// A value is missing.
    ExpectedValue,
    /// An entity is not of the form `kind:id`.
    ExpectedEntity,
    /// A key of a payload path is missing.
    ExpectedKey,
    /// A quoted value has no closing quote.
    UnclosedQuote,
    /// A quoted value has an unknown escape.
    BadEscape,
    /// A character after a value does not belong there.
    Unexpected(char),
    /// More values than the limit.
    TooManyValues(usize, usize),
    /// More payload comparisons than the limit.
    TooManyComparisons(usize, usize),
    /// The sets on one attribute have too many values and patterns to be joined (all of the sets must hold).
    TooMuchToJoin,
    /// A payload path has more keys than the limit.
    TooManyKeys(usize, usize),
    /// A value, pattern or path has more bytes than the limit.
    ValueTooLong(usize, usize),
    /// A pattern has more segments than the limit.
    TooManySegments(usize, usize),
    /// A pattern has more `**` than the limit.
    TooManyDoubleWildcards(usize, usize),
}

impl fmt::Display for FilterErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAttribute(name) => write!(
                f,
                "unknown attribute {name:?}, expected type, source, stream, execution, correlation, entity, \
                 entity_kind, entity_id, channel or payload.FIELD"
            ),
            Self::ExpectedName => f.write_str("expected an attribute"),
            Self::ExpectedOperator => f.write_str("expected an operator such as = or !="),
            Self::OperatorOfPayload(operator) => write!(f, "{operator} is for payload fields only"),
            Self::ExpectedValue => f.write_str("expected a value"),
            Self::ExpectedEntity => f.write_str("expected an entity as kind:id"),
            Self::ExpectedKey => f.write_str("expected a key of the payload"),
            Self::UnclosedQuote => f.write_str("quoted value has no end, expected its closing quote"),
            Self::BadEscape => f.write_str("unknown escape, expected one of JSON's, as \\n or \\u00e9"),
            Self::Unexpected(found) => {
                write!(
                    f,
                    "unexpected {found:?}, expected a space, & or the end; a value with other characters must be quoted"
                )
            }
            Self::TooManyValues(count, max) => {
                write!(
                    f,
                    "filter of {count} values is over the limit of {max}; several subscriptions may share them"
                )
            }
            Self::TooManyComparisons(count, max) => {
                write!(f, "filter of {count} payload comparisons is over the limit of {max}")
            }
            Self::TooMuchToJoin => f.write_str(
                "values of one attribute that stand beside lists or groups of the same attribute are too many to be held \
                 against the patterns there; name fewer, or say them once",
            ),
            Self::TooManyKeys(count, max) => {
                write!(f, "payload path of {count} keys is over the limit of {max}")
            }
            Self::ValueTooLong(bytes, max) => write!(f, "value of {bytes} bytes is over the limit of {max}"),
            Self::TooManySegments(count, max) => {
                write!(f, "pattern of {count} segments is over the limit of {max}")
            }
            Self::TooManyDoubleWildcards(count, max) => {
                write!(f, "pattern with {count} ** segments is over the limit of {max}")
            }
        }
    }
}

impl FilterError {
    pub(crate) fn at(text: &str, offset: usize, kind: FilterErrorKind) -> Self {
        let column = text.get(..offset).unwrap_or(text).chars().count() + 1;
        Self(Box::new(FilterFault { kind, column, text: text.to_owned() }))
    }

    /// Returns an error of the filter as a whole.
    pub(crate) fn whole(kind: FilterErrorKind) -> Self {
        Self(Box::new(FilterFault { kind, column: 0, text: String::new() }))
    }

    /// Returns the kind of error.
    #[must_use]
    pub fn kind(&self) -> &FilterErrorKind {
        &self.0.kind
    }

    /// Returns the column of the error in the text, in characters from 1; 0 if the error has no single place.
    #[must_use]
    pub fn column(&self) -> usize {
        self.0.column
    }

    /// Returns the error on three lines, for a terminal: the message, the text, and a caret under the place.
    #[must_use]
    pub fn caret(&self) -> String {
        if self.0.column == 0 {
            return self.to_string();
        }
        // A window around the place keeps a giant text on one line. Control characters are shown as spaces.
        const BEFORE: usize = 60;
        const AFTER: usize = 30;
        let start = (self.0.column - 1).saturating_sub(BEFORE);
        let line: String = self
            .0
            .text
            .chars()
            .skip(start)
            .take(BEFORE + AFTER)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        format!("{}\n  {line}\n  {:>width$}", self.0.kind, '^', width = self.0.column - start)
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.column == 0 {
            return write!(f, "{}", self.0.kind);
        }
        write!(f, "filter, column {}, ", self.0.column)?;
        // Enough text to find the place by eye, on one line.
        const SHOWN: usize = 24;
        let mut rest = self.0.text.chars().skip(self.0.column - 1);
        let excerpt: String = rest.by_ref().take(SHOWN).collect();
        match (excerpt.is_empty(), rest.next()) {
            (true, _) => f.write_str("at the end")?,
            (false, None) => write!(f, "at {excerpt:?}")?,
            (false, Some(_)) => write!(f, "at {excerpt:?}…")?,
        }
        write!(f, ": {}", self.0.kind)
    }
}

impl std::error::Error for FilterError {}

//! Limits of one filter.

use super::comparison::Comparison;
use super::encoding::{Clause, Clauses};
use super::error::FilterErrorKind;
use super::literal::Literal;
use super::pattern::{PatternKind, PatternRef, segments};

/// Limits of a filter from outside; see [`Filter::check`](super::Filter::check).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilterLimits {
    /// Maximum number of values and patterns in one filter, the literals of comparisons included. Default: 256.
    pub values_max: usize,
    /// Maximum length of one value, pattern or payload path, in bytes. Default: 1,024, as for an attribute.
    pub value_bytes_max: usize,
    /// Maximum number of segments in one pattern with wildcards. Default: 32.
    pub segments_max: usize,
    /// Maximum number of `**` in one pattern. Default: 2.
    pub double_wildcards_max: usize,
    /// Maximum number of comparisons of payload fields. Default: 16.
    pub comparisons_max: usize,
    /// Maximum number of keys in one payload path. Default: 32.
    pub path_keys_max: usize,
    /// Maximum number of entries that a matcher keeps for one filter: the product of the sizes of its sets. The sets
    /// that do not fit are evaluated for each event, which is correct but slower. Default: 256.
    pub paths_max: usize,
}

/// Maximum number of values and patterns in one filter. A text with more is not parsed to its end.
pub(crate) const VALUES_MAX: usize = 256;

/// Maximum number of steps to join the sets on one attribute. A step is about ten instructions, so this is 1 ms.
pub(crate) const JOIN_STEPS_MAX: u64 = 300_000;

/// Maximum length of one value or pattern, in bytes.
pub(crate) const VALUE_BYTES_MAX: usize = 1024;

#[cfg(feature = "server")]
/// Weight of a `**` in a filter.
pub(crate) const MANY_WEIGHT: u32 = 16;

#[cfg(any(feature = "config-file", all(test, feature = "server")))]
/// Approximate maximum number of instructions per unit of a filter's weight, for any one event. The worst case is a
/// pattern of `**` and a word against a value of 1,024 separators.
pub(crate) const INSTRUCTIONS_A_WEIGHT: u64 = 6_000;

#[cfg(feature = "server")]
/// Returns the cost to hold a member of a set.
pub(super) fn member_weight((first, second): (PatternRef<'_>, Option<PatternRef<'_>>)) -> u32 {
    let of_pattern = |pattern: PatternRef<'_>| match pattern.kind {
        PatternKind::Exact => 1,
        PatternKind::Segments => {
            segments(pattern.text).map(|segment| if segment.text == b"**" { MANY_WEIGHT } else { 1 }).sum()
        }
        PatternKind::Runs => {
            let runs = pattern.text.split(|byte| *byte == b'*').count() - 1;
            MANY_WEIGHT.saturating_mul(u32::try_from(runs).unwrap_or(u32::MAX)).saturating_add(1)
        }
    };
    of_pattern(first).saturating_add(second.map_or(0, of_pattern))
}

#[cfg(feature = "server")]
/// Returns the cost to hold a filter; see [`Filter::weight`](super::Filter::weight).
pub(super) fn weight(clauses: Clauses<'_>) -> u32 {
    let of_clause = |clause: Clause<'_>| -> u32 {
        match clause {
            Clause::Set(set) => set.members().map(member_weight).fold(0, u32::saturating_add),
            Clause::Comparison(comparison) => {
                let members = comparison.literals().count() + comparison.path().count();
                MANY_WEIGHT.saturating_add(u32::try_from(members).unwrap_or(u32::MAX))
            }
        }
    };
    clauses.map(of_clause).fold(0, u32::saturating_add)
}

impl Default for FilterLimits {
    fn default() -> Self {
        Self {
            values_max: VALUES_MAX,
            value_bytes_max: VALUE_BYTES_MAX,
            segments_max: 32,
            double_wildcards_max: 2,
            comparisons_max: 16,
            path_keys_max: 32,
            paths_max: 256,
        }
    }
}

impl FilterLimits {
    pub(crate) fn check(&self, clauses: Clauses<'_>) -> Result<(), FilterErrorKind> {
        let mut values = 0;
        let mut comparisons = 0;
        for clause in clauses {
            let mut members = 0;
            match clause {
                Clause::Set(set) => {
                    for (first, second) in set.members() {
                        self.check_pattern(first)?;
                        second.map_or(Ok(()), |second| self.check_pattern(second))?;
                        members += 1;
                    }
                }
                Clause::Comparison(comparison) => {
                    comparisons += 1;
                    members += self.check_comparison(&comparison.to_comparison())?;
                }
            }
            values += members;
        }
        let over = |value, limit, kind: fn(usize, usize) -> FilterErrorKind| {
            if value > limit { Err(kind(value, limit)) } else { Ok(()) }
        };
        over(values, self.values_max, FilterErrorKind::TooManyValues)?;
        over(comparisons, self.comparisons_max, FilterErrorKind::TooManyComparisons)
    }

    pub(crate) fn check_bytes(&self, bytes: usize) -> Result<(), FilterErrorKind> {
        if bytes > self.value_bytes_max {
            return Err(FilterErrorKind::ValueTooLong(bytes, self.value_bytes_max));
        }
        Ok(())
    }

    pub(crate) fn check_pattern(&self, pattern: PatternRef<'_>) -> Result<(), FilterErrorKind> {
        self.check_bytes(pattern.text.len())?;
        if pattern.kind == PatternKind::Segments {
            let count = segments(pattern.text).count();
            if count > self.segments_max {
                return Err(FilterErrorKind::TooManySegments(count, self.segments_max));
            }
            let double = segments(pattern.text).filter(|segment| segment.text == b"**").count();
            if double > self.double_wildcards_max {
                return Err(FilterErrorKind::TooManyDoubleWildcards(double, self.double_wildcards_max));
            }
        }
        Ok(())
    }

    pub(crate) fn check_path(&self, path: &[Box<str>]) -> Result<(), FilterErrorKind> {
        if path.len() > self.path_keys_max {
            return Err(FilterErrorKind::TooManyKeys(path.len(), self.path_keys_max));
        }
        self.check_bytes(path.iter().map(|key| key.len() + 1).sum())
    }

    fn check_comparison(&self, comparison: &Comparison) -> Result<usize, FilterErrorKind> {
        self.check_path(&comparison.path)?;
        for value in &comparison.values {
            self.check_bytes(match value {
                Literal::Number(number) => number.as_str().len(),
                Literal::Text(text) => text.len(),
                _ => 0,
            })?;
        }
        Ok(comparison.values.len())
    }
}

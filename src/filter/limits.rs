//! How much one filter may ask for. Imports its siblings only.

use super::comparison::Comparison;
use super::encoding::{Clause, Clauses};
use super::error::FilterErrorKind;
use super::literal::Literal;
use super::pattern::{PatternKind, PatternRef, segments};

/// Bounds of a filter that came from outside; see [`Filter::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilterLimits {
    /// Values and patterns in one filter, those of comparisons included. 256 by default.
    pub values_max: usize,
    /// Bytes of one value, pattern, or payload path. 1,024 by default, as an attribute's.
    pub value_bytes_max: usize,
    /// Segments of one pattern with wildcards. 32 by default.
    pub segments_max: usize,
    /// `**` in one pattern. 2 by default.
    pub double_wildcards_max: usize,
    /// Comparisons on payload fields. 16 by default.
    pub comparisons_max: usize,
    /// Keys of one payload path. 32 by default.
    pub path_keys_max: usize,
    /// Entries that a matcher keeps for one filter: the product of the sizes of its sets. The sets of a wider
    /// filter that do not fit are compared event by event, which is right but slower. 256 by default.
    pub paths_max: usize,
}

/// Values and patterns in one filter: more than these are not even parsed.
pub(crate) const VALUES_MAX: usize = 256;

/// Steps, of about ten instructions each, that joining what must all hold of one attribute may take: 1 ms.
pub(crate) const JOIN_STEPS_MAX: u64 = 300_000;

/// Bytes of one value or pattern.
pub(crate) const VALUE_BYTES_MAX: usize = 1024;

#[cfg(feature = "server")]
/// What a `**` adds to the weight of a filter.
pub(crate) const MANY_WEIGHT: u32 = 16;

#[cfg(feature = "server")]
/// See [`Filter::weight`].
pub(super) fn weight(clauses: Clauses<'_>) -> u32 {
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
    let of_clause = |clause: Clause<'_>| -> u32 {
        match clause {
            Clause::Set(set) => (set.members())
                .map(|(first, second)| of_pattern(first).saturating_add(second.map_or(0, of_pattern)))
                .fold(0, u32::saturating_add),
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

//! Filters: which events a subscription wants, as values and as text, and the matcher that evaluates many at once.
//!
//! Always:
//! - A filter's bytes are canonical, so equal filters have equal bytes.
//! - [`Filter::matches`] is the definition; the matcher is tested against it.

mod bytes;
mod comparison;
mod definition;
#[cfg(feature = "server")]
mod edit;
mod encoding;
mod error;
mod evaluate;
mod explain;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod grammar;
mod lexical;
mod limits;
mod literal;
mod matcher;
mod pattern;
mod print;
#[cfg(feature = "server")]
pub(crate) mod saved;
#[cfg(test)]
mod tests;
mod varint;

pub use definition::Filter;
#[cfg(feature = "server")]
pub(crate) use edit::{EditedList, encoded};
#[cfg(feature = "server")]
pub(crate) use encoding::{Clause, ENTITY, MemberPatterns, SetRef};
pub use error::{FilterError, FilterErrorKind};
#[cfg(feature = "server")]
pub(crate) use evaluate::holds;
pub use explain::{Condition, Explanation};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use fuzz::fuzz_matcher;
pub use limits::FilterLimits;
#[cfg(feature = "config-file")]
pub(crate) use limits::INSTRUCTIONS_A_WEIGHT;
#[cfg(all(feature = "server", feature = "dialects"))]
pub(crate) use limits::VALUE_BYTES_MAX;
#[cfg(feature = "server")]
pub(crate) use limits::{MANY_WEIGHT, VALUES_MAX};
pub use literal::{Literal, Number, Operator};
#[doc(hidden)]
pub use matcher::{ClassId, Matcher, MatcherStats};
pub use pattern::Pattern;
#[cfg(feature = "server")]
pub(crate) use pattern::{PatternKind, PatternRef, segments};

//! The filter itself: its setters, its contents, and which events it matches.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use super::bytes::FilterBytes;
use super::comparison::Comparison;
use super::encoding::{self, Clause, Clauses, ENTITY, MemberPatterns, NOTHING, Parts, Set};
use super::error::FilterError;
#[cfg(feature = "server")]
use super::error::FilterErrorKind;
use super::evaluate::holds;
use super::limits::FilterLimits;
#[cfg(feature = "server")]
use super::limits::{self, JOIN_STEPS_MAX};
use super::literal::{Literal, Operator};
use super::pattern::Pattern;
#[cfg(feature = "server")]
use super::pattern::{PatternKind, PatternRef, has_wildcard};
use crate::event::{Attribute, Event};

/// Conditions on an event: a set of values and patterns for each attribute that it restricts, and comparisons of fields
/// of the payload. All of them must hold.
///
/// The values of one set are alternatives: one must match. A setter adds to the values of earlier calls. An empty value
/// stands for an absent attribute. Filters with the same meaning are equal, regardless of the order of the calls. Cloning
/// allocates nothing.
///
/// ```
/// # use fanwire::filter::Operator;
/// # use fanwire::{Event, Filter};
/// let filter = Filter::new().types(["task.*"]).not_sources(["test"]).payload("progress", Operator::GreaterOrEqual, [50]);
/// assert_eq!(filter, "payload.progress >= 50 source!=test type=task.*".parse()?);
/// assert!(filter.matches(&Event::builder("task.progress").json(r#"{"progress": 72}"#).build()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
#[must_use = "a filter only describes events"]
pub struct Filter(FilterBytes);

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        let (one, other) = (self.bytes(), other.bytes());
        // Handles of the same filter, the usual case of equal long ones.
        std::ptr::eq(one, other) || one == other
    }
}

impl Eq for Filter {}

impl Hash for Filter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

impl PartialOrd for Filter {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Filter {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl Filter {
    /// Returns the filter that matches every event.
    pub fn new() -> Self {
        Self(FilterBytes::EMPTY)
    }

    /// Returns the filter that matches no event.
    pub fn nothing() -> Self {
        Self(FilterBytes::new(&NOTHING))
    }

    pub(super) fn from_parts(parts: Parts) -> Self {
        Self::from_canonical(&encoding::encode(parts))
    }

    /// Wraps canonical bytes: those that [`encoding::encode`] writes, or whole clauses of them in order.
    pub(super) fn from_canonical(bytes: &[u8]) -> Self {
        Self(FilterBytes::new(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Returns the length of the filter's patterns and comparisons, in bytes, a pattern that several pairs share counted
    /// for each. For estimates of work: [`Self::bytes`] may be much shorter.
    #[cfg(feature = "server")]
    pub(crate) fn spelled_len(&self) -> usize {
        let of = |clause| match clause {
            Clause::Set(set) => set
                .members()
                .map(|(first, second)| first.text.len() + second.map_or(1, |second| second.text.len() + 2))
                .sum(),
            Clause::Comparison(comparison) => comparison.body().len(),
        };
        self.clauses().map(|clause| 2 + of(clause)).sum()
    }

    /// Returns the memory of the filter, in bytes, if no other handle shares it.
    #[cfg(feature = "server")]
    pub(crate) fn held_bytes(&self) -> usize {
        self.0.held_bytes()
    }

    /// Returns the number of values, patterns, and comparisons.
    #[cfg(feature = "server")]
    pub(crate) fn members_count(&self) -> usize {
        let of = |clause| match clause {
            Clause::Set(set) => set.members().count(),
            Clause::Comparison(_) => 1,
        };
        self.clauses().map(of).sum()
    }

    /// Returns the number of comparisons, and the number of keys in their paths.
    #[cfg(feature = "server")]
    pub(crate) fn comparisons_count(&self) -> (usize, usize) {
        self.clauses().fold((0, 0), |(count, keys), clause| match clause {
            Clause::Set(_) => (count, keys),
            Clause::Comparison(comparison) => (count + 1, keys + comparison.path().count()),
        })
    }

    pub(crate) fn clauses(&self) -> Clauses<'_> {
        Clauses { rest: self.bytes() }
    }

    /// Returns whether lists of values, one for each attribute and one for entities, express the whole filter.
    #[cfg(feature = "server")]
    pub(crate) fn is_lists(&self) -> bool {
        let reads_back = |pattern: PatternRef<'_>| match pattern.kind {
            PatternKind::Exact => !has_wildcard(pattern.text),
            PatternKind::Segments => true,
            PatternKind::Runs => false,
        };
        let mut last = None;
        self.clauses().all(|clause| {
            let Clause::Set(set) = clause else { return false };
            let is_first = last.replace(set.about) != Some(set.about);
            let has_list = ![Attribute::EntityKind, Attribute::EntityId]
                .iter()
                .any(|attribute| attribute.index() == usize::from(set.about));
            let mut members = set.members();
            is_first
                && has_list
                && !set.negated
                && !self.is_nothing()
                && members.all(|(first, second)| reads_back(first) && second.is_none_or(reads_back))
        })
    }

    fn add(self, about: u8, negated: bool, members: impl Iterator<Item = MemberPatterns>) -> Self {
        let mut members = members.peekable();
        if members.peek().is_none() || self.is_nothing() {
            return self;
        }
        let mut parts = encoding::decode(self.bytes());
        let known = parts.sets.iter().position(|set| set.about == about && set.negated == negated);
        let index = known.unwrap_or(parts.sets.len());
        if known.is_none() {
            parts.sets.push(Set { about, negated, members: Vec::new() });
        }
        // One by one: an iterator's size hint may be anything.
        for member in members {
            parts.sets[index].members.push(member);
        }
        Self::from_parts(parts)
    }

    /// Requires this attribute to match one of these values or patterns, or of those given before. An empty list
    /// changes nothing.
    pub fn any_of(self, attribute: Attribute, values: impl IntoIterator<Item: Into<Pattern>>) -> Self {
        self.add(attribute.index() as u8, false, values.into_iter().map(|value| (value.into(), None)))
    }

    /// Requires this attribute to match none of these values or patterns, nor of those given before. An absent
    /// attribute matches none.
    pub fn none_of(self, attribute: Attribute, values: impl IntoIterator<Item: Into<Pattern>>) -> Self {
        self.add(attribute.index() as u8, true, values.into_iter().map(|value| (value.into(), None)))
    }

    /// Requires the entity to match one of these pairs of kind and id. Both patterns of a pair must match.
    pub fn entities(self, pairs: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> Self {
        self.add(ENTITY, false, pairs.into_iter().map(pair))
    }

    /// Requires the entity to match none of these pairs of kind and id.
    pub fn not_entities(self, pairs: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> Self {
        self.add(ENTITY, true, pairs.into_iter().map(pair))
    }

    /// Requires this entity, or one given before.
    pub fn entity(self, kind: impl AsRef<str>, id: impl AsRef<str>) -> Self {
        self.entities([(kind, id)])
    }

    /// Requires that the comparison of a payload field holds for one of the values. [`Operator::NotEqual`] must hold
    /// for all of them.
    ///
    /// `path` is a list of keys, or array indexes from 0, separated by dots. The empty path is the payload itself. Each
    /// call adds a condition.
    pub fn payload(
        self,
        path: &str,
        operator: Operator,
        values: impl IntoIterator<Item: Into<Literal>>,
    ) -> Self {
        if self.is_nothing() {
            return self;
        }
        let path = path.split('.').filter(|_| !path.is_empty()).map(Into::into).collect();
        let values = values.into_iter().map(Into::into).collect();
        let mut parts = encoding::decode(self.bytes());
        parts.comparisons.push(Comparison::new(path, operator, values));
        Self::from_parts(parts)
    }

    /// Returns the filter that matches the events that both match.
    ///
    /// The cost may grow with the product of the sizes of their sets.
    pub fn and(&self, other: &Self) -> Self {
        if self.is_everything() || self == other {
            return other.clone();
        }
        if other.is_everything() {
            return self.clone();
        }
        let mut parts = encoding::decode(self.bytes());
        let more = encoding::decode(other.bytes());
        parts.sets.extend(more.sets);
        parts.comparisons.extend(more.comparisons);
        Self::from_parts(parts)
    }

    /// Returns the filter that matches the events that both match, if joining them takes a bounded number of steps. For
    /// filters that clients chose.
    #[cfg(feature = "server")]
    pub(crate) fn try_and(&self, other: &Self) -> Result<Self, FilterError> {
        self.check_join(other)?;
        Ok(self.and(other))
    }

    /// Checks that joining both filters, or matching the values of one against the other, takes a bounded number of
    /// steps.
    #[cfg(feature = "server")]
    pub(crate) fn check_join(&self, other: &Self) -> Result<(), FilterError> {
        if !self.is_everything() && !other.is_everything() {
            let sets = self.clauses().chain(other.clauses()).filter_map(|clause| match clause {
                Clause::Set(set) if !set.negated => Some((set.about, set.members())),
                _ => None,
            });
            if encoding::join_work(sets) > JOIN_STEPS_MAX {
                return Err(FilterError::whole(FilterErrorKind::TooMuchToJoin));
            }
        }
        Ok(())
    }

    /// Returns whether the filter matches this event. Evaluates one condition after the other; does not allocate.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        self.clauses().all(|clause| holds(clause, event))
    }

    /// Returns whether the filter matches every event.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Returns whether the filter is known to match no event, because a set of it is empty.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.bytes() == NOTHING
    }

    /// Checks that the filter is within these limits. Filters from outside must be checked; parsing the text form does
    /// so.
    ///
    /// # Errors
    ///
    /// The first limit that is exceeded.
    pub fn check(&self, limits: &FilterLimits) -> Result<(), FilterError> {
        limits.check(self.clauses()).map_err(FilterError::whole)
    }

    /// Returns the filter with each value that has an asterisk as a pattern in which `*` matches any run of characters.
    #[cfg(feature = "server")]
    pub(crate) fn with_runs(&self) -> Self {
        let mut parts = encoding::decode(self.bytes());
        for (first, second) in parts.sets.iter_mut().flat_map(|set| &mut set.members) {
            for value in std::iter::once(first).chain(second).filter(|value| value.is_exact()) {
                *value = Pattern::runs(value.as_str());
            }
        }
        Self::from_parts(parts)
    }

    #[cfg(feature = "server")]
    /// Returns the cost to hold the filter: 1 for each value, each segment of a pattern and each key of a path, and
    /// [`limits::MANY_WEIGHT`] for each comparison and each `**` or run of characters, where a search can continue in
    /// more than one way.
    pub(crate) fn weight(&self) -> u32 {
        limits::weight(self.clauses())
    }

    /// Returns the values and patterns that an attribute may match, sorted. Empty if there is no such condition.
    pub fn values(&self, attribute: Attribute) -> impl Iterator<Item = &str> {
        self.members(attribute.index() as u8, false).map(|(first, _)| first)
    }

    #[cfg(feature = "server")]
    /// Returns the exact values, without the patterns, that an attribute may match. A filter is canonical, so no other
    /// condition on the attribute excludes one of them.
    pub(crate) fn named(&self, attribute: Attribute) -> impl Iterator<Item = &str> {
        let about = attribute.index() as u8;
        self.clauses()
            .filter_map(move |clause| match clause {
                Clause::Set(set) if set.about == about && !set.negated => Some(set.members()),
                _ => None,
            })
            .flatten()
            .filter_map(|(pattern, _)| pattern.exact())
    }

    /// Returns the values and patterns that an attribute must not match, sorted.
    pub fn not_values(&self, attribute: Attribute) -> impl Iterator<Item = &str> {
        self.members(attribute.index() as u8, true).map(|(first, _)| first)
    }

    /// Returns the entities that may match, as kind and id.
    pub fn entity_values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members(ENTITY, false)
    }

    /// Returns the entities that must not match, as kind and id.
    pub fn not_entity_values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members(ENTITY, true)
    }

    fn members(&self, about: u8, negated: bool) -> impl Iterator<Item = (&str, &str)> {
        // The bytes were text when they were encoded.
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        self.clauses()
            .filter_map(move |clause| match clause {
                Clause::Set(set) if set.about == about && set.negated == negated => Some(set.members()),
                _ => None,
            })
            .flatten()
            .map(move |(first, second)| (text(first.text), second.map_or("", |second| text(second.text))))
    }
}

macro_rules! setters {
    ($($any:ident $none:ident $attribute:ident $what:literal;)*) => {
        impl Filter {
            $(
                #[doc = concat!("Requires ", $what, " to match one of these values or patterns.")]
                pub fn $any(self, values: impl IntoIterator<Item: AsRef<str>>) -> Self {
                    self.any_of(Attribute::$attribute, values.into_iter().map(|value| Pattern::new(value.as_ref())))
                }

                #[doc = concat!("Requires ", $what, " to match none of these values or patterns.")]
                pub fn $none(self, values: impl IntoIterator<Item: AsRef<str>>) -> Self {
                    self.none_of(Attribute::$attribute, values.into_iter().map(|value| Pattern::new(value.as_ref())))
                }
            )*
        }
    };
}

setters! {
    types not_types Type "the type";
    sources not_sources Source "the source";
    streams not_streams Stream "the stream";
    executions not_executions Execution "the execution";
    correlations not_correlations Correlation "the correlation";
    channels not_channels Channel "the channel";
}

fn pair((kind, id): (impl AsRef<str>, impl AsRef<str>)) -> MemberPatterns {
    (Pattern::new(kind.as_ref()), Some(Pattern::new(id.as_ref())))
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({self})")
    }
}

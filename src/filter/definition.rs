//! The filter itself: how it is built, what it holds, which events it matches.

use std::fmt;
use std::sync::Arc;

use super::comparison::Comparison;
use super::encoding::{self, Clause, Clauses, ENTITY, Member, NOTHING, Parts, Set};
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

/// What a subscription wants: for each attribute nothing (any will do) or a set of values and patterns, and
/// conditions on fields of the payload. All of them must hold.
///
/// Values given to a setter add to those given before; one of them must match. An empty value stands for an
/// absent attribute. Cloning costs one count. Filters that say the same are equal, in whatever order they
/// said it.
///
/// ```
/// # use fanwire::filter::Operator;
/// # use fanwire::{Event, Filter};
/// let filter = Filter::new().types(["task.*"]).not_sources(["test"]).payload("progress", Operator::GreaterOrEqual, [50]);
/// assert_eq!(filter, "payload.progress >= 50 source!=test type=task.*".parse()?);
/// assert!(filter.matches(&Event::builder("task.progress").json(r#"{"progress": 72}"#).build()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter(Option<Arc<[u8]>>);

impl Filter {
    /// Everything.
    pub fn new() -> Self {
        Self(None)
    }

    /// No event at all.
    pub fn nothing() -> Self {
        Self(Some(Arc::new(NOTHING)))
    }

    pub(super) fn from_parts(parts: Parts) -> Self {
        Self::from_canonical(&encoding::encode(parts))
    }

    /// Wraps canonical bytes: what [`encoding::encode`] writes, or whole clauses of that in their order.
    pub(super) fn from_canonical(bytes: &[u8]) -> Self {
        Self((!bytes.is_empty()).then(|| bytes.into()))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Bytes that it takes, where nobody shares it.
    #[cfg(feature = "server")]
    pub(crate) fn held_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |bytes| bytes.len() + 32)
    }

    /// How many values and patterns it has, and conditions on the payload.
    #[cfg(feature = "server")]
    pub(crate) fn members_count(&self) -> usize {
        let of = |clause| match clause {
            Clause::Set(set) => set.members().count(),
            Clause::Comparison(_) => 1,
        };
        self.clauses().map(of).sum()
    }

    /// How many conditions on the payload it has, and how many keys of theirs.
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

    /// Returns whether lists of values, one for each attribute and for entities, say all of it.
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

    fn add(self, about: u8, negated: bool, members: impl Iterator<Item = Member>) -> Self {
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
        // One by one: an iterator's hint of its size may be anything.
        for member in members {
            parts.sets[index].members.push(member);
        }
        Self::from_parts(parts)
    }

    /// Wants this attribute to match one of these values or patterns, beside those given before. No values
    /// change nothing.
    pub fn any_of(self, attribute: Attribute, values: impl IntoIterator<Item: Into<Pattern>>) -> Self {
        self.add(attribute.index() as u8, false, values.into_iter().map(|value| (value.into(), None)))
    }

    /// Wants this attribute to match none of these values or patterns, nor those given before. An absent
    /// attribute matches none.
    pub fn none_of(self, attribute: Attribute, values: impl IntoIterator<Item: Into<Pattern>>) -> Self {
        self.add(attribute.index() as u8, true, values.into_iter().map(|value| (value.into(), None)))
    }

    /// Wants the entity to match one of these pairs of kind and id; both patterns of a pair together.
    pub fn entities(self, pairs: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> Self {
        self.add(ENTITY, false, pairs.into_iter().map(pair))
    }

    /// Wants the entity to match none of these pairs of kind and id.
    pub fn not_entities(self, pairs: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> Self {
        self.add(ENTITY, true, pairs.into_iter().map(pair))
    }

    /// Wants this entity, or one given before.
    pub fn entity(self, kind: impl AsRef<str>, id: impl AsRef<str>) -> Self {
        self.entities([(kind, id)])
    }

    /// Wants a field of the payload to compare like this with one of the values ([`Operator::NotEqual`]: with
    /// none). The path is keys (and places in arrays, from 0) parted by dots; the empty path is the payload
    /// itself. Each call adds a condition.
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

    /// What both want.
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

    /// Returns what both filters want, if that is not too much to be joined: a client may have chosen both.
    #[cfg(feature = "server")]
    pub(crate) fn try_and(&self, other: &Self) -> Result<Self, FilterError> {
        self.check_join(other)?;
        Ok(self.and(other))
    }

    /// Checks that joining both filters, or holding the values of one against the other, takes a bounded number of steps.
    #[cfg(feature = "server")]
    pub(crate) fn check_join(&self, other: &Self) -> Result<(), FilterError> {
        if !self.is_everything() && !other.is_everything() {
            let (one, two) = (encoding::decode(self.bytes()), encoding::decode(other.bytes()));
            if encoding::join_work(one.sets.iter().chain(&two.sets)) > JOIN_STEPS_MAX {
                return Err(FilterError::whole(FilterErrorKind::TooMuchToJoin));
            }
        }
        Ok(())
    }

    /// Whether it wants this event. The definition: one condition after the other, as they stand.
    pub fn matches(&self, event: &Event) -> bool {
        self.clauses().all(|clause| holds(clause, event))
    }

    /// Whether it wants every event.
    pub fn is_everything(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it can want no event, because a set of it is empty.
    pub fn is_nothing(&self) -> bool {
        self.bytes() == NOTHING
    }

    /// Whether it keeps within these limits; filters from outside must be checked (reading the text form
    /// does).
    pub fn check(&self, limits: &FilterLimits) -> Result<(), FilterError> {
        limits.check(self.clauses()).map_err(FilterError::whole)
    }

    #[cfg(feature = "server")]
    /// Returns the cost to hold it: one for each value, one for each segment of a pattern or key of a path, and
    /// [`limits::MANY_WEIGHT`] for each `**` or run of characters, where a search can go on in more than one way, and for each
    /// condition on the payload.
    pub(crate) fn weight(&self) -> u32 {
        limits::weight(self.clauses())
    }

    /// The values and patterns wanted of an attribute, sorted; none if any will do.
    pub fn values(&self, attribute: Attribute) -> impl Iterator<Item = &str> {
        self.members(attribute.index() as u8, false).map(|(first, _)| first)
    }

    #[cfg(feature = "server")]
    /// The values of an attribute that are wanted by name, not by a pattern: those alone that no other condition on
    /// the attribute refuses, for a filter is canonical.
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

    /// The values and patterns refused of an attribute, sorted.
    pub fn not_values(&self, attribute: Attribute) -> impl Iterator<Item = &str> {
        self.members(attribute.index() as u8, true).map(|(first, _)| first)
    }

    /// The entities wanted, as kind and id.
    pub fn entity_values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members(ENTITY, false)
    }

    /// The entities refused, as kind and id.
    pub fn not_entity_values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members(ENTITY, true)
    }

    fn members(&self, about: u8, negated: bool) -> impl Iterator<Item = (&str, &str)> {
        // What was text when it was encoded is text.
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
                #[doc = concat!("Wants ", $what, " to match one of these values or patterns.")]
                pub fn $any(self, values: impl IntoIterator<Item: AsRef<str>>) -> Self {
                    self.any_of(Attribute::$attribute, values.into_iter().map(|value| Pattern::new(value.as_ref())))
                }

                #[doc = concat!("Wants ", $what, " to match none of these values or patterns.")]
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

fn pair((kind, id): (impl AsRef<str>, impl AsRef<str>)) -> Member {
    (Pattern::new(kind.as_ref()), Some(Pattern::new(id.as_ref())))
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({self})")
    }
}

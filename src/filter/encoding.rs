//! The canonical bytes of a filter: written once when it is built, read in place.
//!
//! A filter is a sequence of clauses, sorted and without repetition. Each is `tag, length of the body, body`. The body
//! of a set is its patterns (`length << 2 | kind`, text). In a set of entities these are the ids. The kind of an entity
//! stands before the first id that has it, with [`SHARED`] in its head: it is written once for a hundred symbols. Patterns
//! with equal heads that follow each other have one: `count << 4 |` [`REPEATED`] and the head stand before their texts.
//! Lengths are LEB128.
//!
//! Always:
//! - Only [`encode`] and [`MembersWriter`] write these bytes, and they read back as they were.
//! - The bytes stay in the process. [`spelled`] gives those that other processes read.

use super::comparison::{Comparison, ComparisonRef};
use super::pattern::{Pattern, PatternKind, PatternRef, segments};
use super::varint::{read_bytes, read_length, take, write_length};
use crate::event::Attribute;

/// Subject of a set of (kind, id) pairs. Other sets have the number of their [`Attribute`].
pub(crate) const ENTITY: u8 = Attribute::COUNT as u8;

const TAG_NEGATED: u8 = 0x10;
const TAG_COMPARISON: u8 = 0x20;

/// Low bits of the head of a pattern that is the first one of all pairs after it. Its length and kind are in the other
/// bits.
const SHARED: usize = 3;

/// Low bits of a number of patterns that have one head, which comes after it. The number is in the other bits.
const REPEATED: usize = SHARED << 2 | SHARED;

/// A set on the type without members.
pub(crate) const NOTHING: [u8; 2] = [0, 0];

/// Pattern of a set. The second one is the id's, in sets of entities.
pub(crate) type MemberPatterns = (Pattern, Option<Pattern>);

/// [`MemberPatterns`] in place.
pub(crate) type MemberRefs<'a> = (PatternRef<'a>, Option<PatternRef<'a>>);

/// Set of patterns. One of them must match, or none if the set is negated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) about: u8,
    pub(crate) negated: bool,
    pub(crate) members: Vec<MemberPatterns>,
}

/// Filter in parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    pub(crate) sets: Vec<Set>,
    pub(crate) comparisons: Vec<Comparison>,
}

/// Encodes a filter in canonical form: sorted, without repetition. No clause gives no bytes: everything. A set without
/// members cannot hold, so all filters with one are the same: nothing.
pub(crate) fn encode(mut parts: Parts) -> Vec<u8> {
    if parts.sets.iter().any(|set| !set.negated && set.members.is_empty()) {
        return NOTHING.to_vec();
    }
    merge_negated(&mut parts.sets);
    narrow_exact(&mut parts.sets);
    if parts.sets.iter().any(|set| set.members.is_empty()) {
        return NOTHING.to_vec();
    }
    for set in &mut parts.sets {
        set.members.sort_unstable();
        set.members.dedup();
    }
    parts
        .sets
        .sort_unstable_by(|a, b| (a.about, a.negated, &a.members).cmp(&(b.about, b.negated, &b.members)));
    parts.sets.dedup();
    parts.comparisons.sort_unstable();
    parts.comparisons.dedup();
    let mut out = Vec::new();
    for set in &parts.sets {
        let body = MembersWriter::of(set.members.iter().map(in_place));
        write_clause(tag_of(set.about, set.negated), &body, &mut out);
    }
    let mut body = Vec::new();
    for comparison in &parts.comparisons {
        comparison.encode(&mut body);
        write_clause(TAG_COMPARISON, &body, &mut out);
        body.clear();
    }
    out
}

fn tag_of(about: u8, negated: bool) -> u8 {
    about | if negated { TAG_NEGATED } else { 0 }
}

pub(super) fn in_place((first, second): &MemberPatterns) -> MemberRefs<'_> {
    (first.as_ref(), second.as_ref().map(Pattern::as_ref))
}

/// Writes members of a set, sorted.
#[derive(Debug, Default)]
pub(super) struct MembersWriter<'a> {
    bytes: Vec<u8>,
    /// First pattern of the last pair.
    first: Option<PatternRef<'a>>,
    /// Number of the last patterns with equal heads, their head, and the place of the first one.
    count: usize,
    head: usize,
    start: usize,
}

impl<'a> MembersWriter<'a> {
    #[cfg(feature = "server")]
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Returns these members, encoded.
    pub(super) fn of(members: impl IntoIterator<Item = MemberRefs<'a>>) -> Vec<u8> {
        let mut writer = Self::default();
        members.into_iter().for_each(|member| writer.push(member));
        writer.into_bytes()
    }

    pub(super) fn push(&mut self, (first, second): MemberRefs<'a>) {
        let Some(second) = second else { return self.push_pattern(first) };
        if self.first != Some(first) {
            self.end_repetition();
            self.first = Some(first);
            write_length(head_of(first) << 2 | SHARED, &mut self.bytes);
            self.bytes.extend_from_slice(first.text);
        }
        self.push_pattern(second);
    }

    fn push_pattern(&mut self, pattern: PatternRef<'a>) {
        let head = head_of(pattern);
        if self.count == 0 || self.head != head {
            self.end_repetition();
            (self.start, self.head) = (self.bytes.len(), head);
            write_length(head, &mut self.bytes);
        }
        self.count += 1;
        self.bytes.extend_from_slice(pattern.text);
    }

    /// Writes the number of the last patterns with equal heads before them, if there are several.
    fn end_repetition(&mut self) {
        if self.count > 1 {
            let mut number = Vec::new();
            write_length(self.count << 4 | REPEATED, &mut number);
            self.bytes.splice(self.start..self.start, number);
        }
        self.count = 0;
    }

    /// Appends the members that are left. The last one before them must have been the last that was pushed.
    #[cfg(feature = "server")]
    pub(super) fn push_rest(&mut self, members: &Members<'a>) {
        let mut members = members.clone();
        if let Some(texts) = members.take_repeated() {
            self.count += texts.len() / text_len(self.head);
            self.bytes.extend_from_slice(texts);
        }
        // A member between two with equal heads may be gone.
        while members.next_head() == Some(self.head)
            && let Some(member) = members.next()
        {
            self.push(member);
            if let Some(texts) = members.take_repeated() {
                self.count += texts.len() / text_len(self.head);
                self.bytes.extend_from_slice(texts);
            }
        }
        self.end_repetition();
        self.bytes.extend_from_slice(members.rest);
    }

    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.end_repetition();
        self.bytes
    }
}

/// Returns whether a member of a set matches one value only.
fn is_exact((first, second): &(Pattern, Option<Pattern>)) -> bool {
    first.is_exact() && second.as_ref().is_none_or(Pattern::is_exact)
}

/// Joins the sets on an attribute if one of them has exact values only: the result is the values that all other sets
/// match.
fn narrow_exact(sets: &mut Vec<Set>) {
    let exact = |set: &Set| set.members.iter().all(is_exact);
    for about in 0..=ENTITY {
        let same = |set: &Set| !set.negated && set.about == about;
        if sets.iter().filter(|set| same(set)).count() < 2 {
            continue;
        }
        let Some(place) = sets.iter().position(|set| same(set) && exact(set)) else { continue };
        let mut narrow = sets.swap_remove(place);
        for other in sets.extract_if(.., |set| same(set)) {
            narrow.members.retain(|(first, second)| {
                other.members.iter().any(|(firsts, seconds)| {
                    firsts.matches(first.as_str())
                        && seconds
                            .as_ref()
                            .zip(second.as_ref())
                            .is_none_or(|(seconds, second)| seconds.matches(second.as_str()))
                })
            });
        }
        sets.push(narrow);
    }
}

/// Returns the sets that are not negated, each as its subject and members, for [`join_work`].
pub(crate) fn joined_sets(
    sets: &[Set],
) -> impl Iterator<Item = (u8, impl Iterator<Item = MemberRefs<'_>> + Clone)> + Clone {
    sets.iter().filter(|set| !set.negated).map(|set| (set.about, set.members.iter().map(in_place)))
}

/// Returns the approximate number of steps that joining these sets takes. A step is ten instructions. For each `**`, a
/// value may be tried from each of its segments on.
pub(crate) fn join_work<'a, M>(sets: impl Iterator<Item = (u8, M)> + Clone) -> u64
where
    M: Iterator<Item = MemberRefs<'a>> + Clone,
{
    let is_exact = |pattern: PatternRef<'_>| pattern.kind == PatternKind::Exact;
    let segments_of = |pattern: PatternRef<'_>| segments(pattern.text).count() as u64;
    let many_of =
        |pattern: PatternRef<'_>| segments(pattern.text).filter(|segment| segment.text == b"**").count();
    let mut work = 0u64;
    for about in 0..=ENTITY {
        let of_this = sets.clone().filter(|(subject, _)| *subject == about).map(|(_, members)| members);
        if of_this.clone().count() < 2 {
            continue;
        }
        // Sums of the values' segments to the power of 0, 1 and 2. Patterns are not matched against patterns.
        let mut sums = [0u64; 3];
        for (first, second) in of_this.clone().flatten() {
            if is_exact(first) && second.is_none_or(is_exact) {
                let length = segments_of(first) + second.map_or(0, segments_of);
                sums = [sums[0] + 1, sums[1] + length, sums[2].saturating_add(length * length)];
            }
        }
        for pattern in of_this.flatten().flat_map(|(first, second)| [Some(first), second]).flatten() {
            let steps = if is_exact(pattern) {
                sums[0]
            } else {
                sums[many_of(pattern).min(2)].saturating_mul(segments_of(pattern))
            };
            work = work.saturating_add(steps);
        }
    }
    work
}

/// Merges negated sets: a value in neither of two sets is not in their union. A negated set without members always
/// holds and is dropped.
fn merge_negated(sets: &mut Vec<Set>) {
    for about in 0..=ENTITY {
        let mut of_this = sets.extract_if(.., |set| set.negated && set.about == about);
        let first = of_this.next();
        let rest: Vec<Set> = of_this.collect();
        if let Some(mut merged) = first {
            merged.members.extend(rest.into_iter().flat_map(|set| set.members));
            if !merged.members.is_empty() {
                sets.push(merged);
            }
        }
    }
}

pub(crate) fn decode(bytes: &[u8]) -> Parts {
    parts_of(bytes, SetRef::members)
}

fn parts_of<'a, M>(bytes: &'a [u8], members: impl Fn(SetRef<'a>) -> M) -> Parts
where
    M: Iterator<Item = Member<'a>>,
{
    let mut parts = Parts::default();
    for clause in (Clauses { rest: bytes }) {
        match clause {
            Clause::Set(set) => parts.sets.push(Set {
                about: set.about,
                negated: set.negated,
                members: members(set)
                    .map(|(first, second)| (first.to_pattern(), second.map(PatternRef::to_pattern)))
                    .collect(),
            }),
            Clause::Comparison(comparison) => parts.comparisons.push(comparison.to_comparison()),
        }
    }
    parts
}

/// Returns a filter's bytes with each pattern and its head written out: the form in which filters go to other processes.
#[cfg(feature = "server")]
pub(crate) fn spelled(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut clauses = Clauses { rest: bytes };
    loop {
        let before = clauses.rest;
        match clauses.next() {
            None => return out,
            Some(Clause::Set(set)) => {
                let mut body = Vec::with_capacity(set.body.len());
                for pattern in set.members().flat_map(|(first, second)| [Some(first), second]).flatten() {
                    write_pattern(pattern, &mut body);
                }
                write_clause(tag_of(set.about, set.negated), &body, &mut out);
            }
            Some(Clause::Comparison(_)) => {
                out.extend_from_slice(&before[..before.len() - clauses.rest.len()]);
            }
        }
    }
}

/// Returns the parts of a filter from bytes that another process wrote with [`spelled`]. Any other bytes may be passed, too.
#[cfg(feature = "server")]
pub(crate) fn decode_spelled(bytes: &[u8]) -> Parts {
    parts_of(bytes, |set| {
        let mut rest = set.body;
        std::iter::from_fn(move || {
            let first = read_pattern(&mut rest)?;
            let second = if set.about == ENTITY { Some(read_pattern(&mut rest)?) } else { None };
            Some((first, second))
        })
    })
}

/// Set, in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetRef<'a> {
    pub(crate) about: u8,
    pub(crate) negated: bool,
    body: &'a [u8],
}

impl<'a> SetRef<'a> {
    /// Returns a set of these members, encoded.
    #[cfg(feature = "server")]
    pub(super) fn of(about: u8, body: &'a [u8]) -> Self {
        Self { about, negated: false, body }
    }

    /// Returns the members, encoded.
    #[cfg(feature = "server")]
    pub(super) fn body(self) -> &'a [u8] {
        self.body
    }

    pub(crate) fn members(self) -> Members<'a> {
        let first = PatternRef { kind: PatternKind::Exact, text: &[] };
        Members { first: (self.about == ENTITY).then_some(first), left: 0, head: 0, rest: self.body }
    }
}

/// Condition of a filter, in place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clause<'a> {
    Set(SetRef<'a>),
    Comparison(ComparisonRef<'a>),
}

/// Clauses of an encoded filter.
#[derive(Clone, Debug)]
pub(crate) struct Clauses<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Iterator for Clauses<'a> {
    type Item = Clause<'a>;

    fn next(&mut self) -> Option<Clause<'a>> {
        let (&tag, rest) = self.rest.split_first()?;
        self.rest = rest;
        let body = read_bytes(&mut self.rest)?;
        Some(if tag == TAG_COMPARISON {
            Clause::Comparison(ComparisonRef::new(body))
        } else {
            Clause::Set(SetRef { about: tag & 0x0f, negated: tag & TAG_NEGATED != 0, body })
        })
    }
}

/// Patterns of a set.
#[derive(Clone, Debug)]
pub(crate) struct Members<'a> {
    /// First pattern of the last pair, in a set of pairs.
    first: Option<PatternRef<'a>>,
    /// Number of patterns that are left of those with this head.
    left: usize,
    head: usize,
    rest: &'a [u8],
}

#[cfg(feature = "server")]
impl<'a> Members<'a> {
    /// Takes the texts that are left of patterns with equal heads.
    fn take_repeated(&mut self) -> Option<&'a [u8]> {
        let left = std::mem::take(&mut self.left);
        if left == 0 { None } else { take(&mut self.rest, left * text_len(self.head)) }
    }

    /// Returns the head of the next pattern, unless the first pattern of a pair comes before it. No pattern may be left of
    /// those with equal heads.
    fn next_head(&self) -> Option<usize> {
        let mut rest = self.rest;
        let head = read_length(&mut rest)?;
        match head & REPEATED {
            REPEATED => read_length(&mut rest),
            _ => (head & SHARED != SHARED).then_some(head),
        }
    }

    /// Skips members that come next in both lists, as far as comparing their bytes shows that.
    pub(super) fn skip_common(&mut self, other: &mut Self) {
        let most = self.left.min(other.left);
        if most == 0 || self.head != other.head || self.first != other.first {
            return;
        }
        let size = text_len(self.head);
        let (one, two) = (self.rest.chunks_exact(size), other.rest.chunks_exact(size));
        let count = one.zip(two).take(most).take_while(|(one, two)| one == two).count();
        for list in [self, other] {
            list.left -= count;
            list.rest = list.rest.get(count * size..).unwrap_or_default();
        }
    }
}

/// Value or pattern of a set; the second one is the other half of a pair.
pub(crate) type Member<'a> = (PatternRef<'a>, Option<PatternRef<'a>>);

impl<'a> Members<'a> {
    /// Reads a pattern that has a head of its own, or is the first one of several with equal heads.
    fn read_pattern(&mut self) -> Option<PatternRef<'a>> {
        loop {
            let head = read_length(&mut self.rest)?;
            if head & SHARED != SHARED {
                return take_pattern(head, &mut self.rest);
            }
            if head & REPEATED == REPEATED {
                self.head = read_length(&mut self.rest)?;
                self.left = (head >> 4).saturating_sub(1);
                return take_pattern(self.head, &mut self.rest);
            }
            self.first = Some(take_pattern(head >> 2, &mut self.rest)?);
        }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let pattern = if self.left > 0 {
            self.left -= 1;
            take_pattern(self.head, &mut self.rest)?
        } else {
            self.read_pattern()?
        };
        Some(self.first.map_or((pattern, None), |first| (first, Some(pattern))))
    }
}

pub(super) fn write_clause(tag: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    write_length(body.len(), out);
    out.extend_from_slice(body);
}

/// Returns the length of the texts of patterns with this head. At most one of several patterns is empty.
#[cfg(feature = "server")]
fn text_len(head: usize) -> usize {
    (head >> 2).max(1)
}

fn head_of(pattern: PatternRef<'_>) -> usize {
    pattern.text.len() << 2 | pattern.kind as usize
}

#[cfg(feature = "server")]
fn write_pattern(pattern: PatternRef<'_>, out: &mut Vec<u8>) {
    write_length(head_of(pattern), out);
    out.extend_from_slice(pattern.text);
}

#[cfg(feature = "server")]
fn read_pattern<'a>(rest: &mut &'a [u8]) -> Option<PatternRef<'a>> {
    let head = read_length(rest)?;
    take_pattern(head, rest)
}

#[inline]
fn take_pattern<'a>(head: usize, rest: &mut &'a [u8]) -> Option<PatternRef<'a>> {
    let kind = match head & 3 {
        0 => PatternKind::Exact,
        1 => PatternKind::Segments,
        _ => PatternKind::Runs,
    };
    Some(PatternRef { kind, text: take(rest, head >> 2)? })
}

/// Returns the name of a set's subject.
pub(super) fn attribute_name(about: u8) -> &'static str {
    Attribute::ALL.get(usize::from(about)).map_or("entity", |attribute| attribute.name())
}

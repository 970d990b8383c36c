//! Values with wildcards for segments.
//!
//! Always: every string is a pattern, and matching takes at most (segments of the pattern) x (segments of the value)
//! steps.

use std::fmt;

use smallvec::SmallVec;

/// Value of an attribute, or a form of values.
///
/// Text is cut into segments at `.`, `:` and `/`. A segment `*` matches any one segment; a segment `**` matches any
/// number of segments, including none. Separators count: `a.*` does not match `a:b`. If a `**` matches no segment, the
/// separator before it is dropped too (for a leading `**` the one after it), so `workflow.**` matches `workflow`, and
/// `**.failed` matches `failed`.
///
/// An asterisk next to other characters (`ta*k`) is literal. The empty pattern matches an absent attribute and nothing
/// else. An absent attribute matches no wildcard.
///
/// ```
/// # use fanwire::Pattern;
/// assert!(Pattern::new("agent:*:status").matches("agent:coder-1:status"));
/// assert!(Pattern::new("workflow.**").matches("workflow.step.done"));
/// assert!(!Pattern::new("task.*").matches("task.step.done"));
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern {
    kind: PatternKind,
    text: Box<str>,
}

/// Interpretation of a pattern's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum PatternKind {
    /// The text is one value.
    Exact = 0,
    /// `*` and `**` are wildcards as whole segments. There is at least one.
    Segments = 1,
    /// `*` matches any run of characters, including none. There is at least one. The text form of filters has no such
    /// patterns.
    Runs = 2,
}

impl Pattern {
    /// Returns the pattern with this text, in which segments `*` and `**` are wildcards.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        let text = text.into();
        let kind = if has_wildcard(text.as_bytes()) { PatternKind::Segments } else { PatternKind::Exact };
        Self { kind, text }
    }

    /// Returns the pattern that matches this text only, asterisks included.
    pub fn exact(text: impl Into<Box<str>>) -> Self {
        Self { kind: PatternKind::Exact, text: text.into() }
    }

    /// Returns AutoSDLC's pattern with this text, in which `*` matches any run of characters anywhere. If a pattern by
    /// segments has the same meaning, it is returned instead: the matcher finds those without evaluating each.
    #[cfg(feature = "server")]
    pub(crate) fn runs(text: impl Into<Box<str>>) -> Self {
        let text = text.into();
        let kind = match text.bytes().all(|byte| byte == b'*') {
            true if text.is_empty() => PatternKind::Exact,
            true => return Self { kind: PatternKind::Segments, text: "**".into() },
            false if text.contains('*') => PatternKind::Runs,
            false => PatternKind::Exact,
        };
        Self { kind, text }
    }

    /// Returns whether the pattern matches one value only.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.kind == PatternKind::Exact
    }

    /// Returns the pattern's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether the pattern matches `value`. An empty value stands for an absent attribute.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        self.as_ref().matches(value.as_bytes())
    }

    pub(crate) fn as_ref(&self) -> PatternRef<'_> {
        PatternRef { kind: self.kind, text: self.text.as_bytes() }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.is_exact() { "Exact" } else { "Pattern" };
        write!(f, "{name}({:?})", self.text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Pattern {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&String> for Pattern {
    fn from(text: &String) -> Self {
        Self::new(text.as_str())
    }
}

/// Pattern with borrowed text. The bytes are UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PatternRef<'a> {
    pub(crate) kind: PatternKind,
    pub(crate) text: &'a [u8],
}

#[cfg(feature = "server")]
impl<'a> PatternRef<'a> {
    /// Returns the value that the pattern matches, if it matches one only.
    pub(crate) fn exact(self) -> Option<&'a str> {
        // The bytes were text when they were encoded.
        (self.kind == PatternKind::Exact).then(|| std::str::from_utf8(self.text).unwrap_or_default())
    }
}

impl PatternRef<'_> {
    pub(crate) fn matches(self, value: &[u8]) -> bool {
        self.matches_counted(value, &mut 0)
    }

    /// Matches as [`matches`](Self::matches) does, and adds the approximate number of instructions to `worked`.
    pub(crate) fn matches_counted(self, value: &[u8], worked: &mut u64) -> bool {
        match self.kind {
            PatternKind::Exact => {
                *worked += 20;
                self.text == value
            }
            PatternKind::Segments => !value.is_empty() && segments_match(self.text, value, worked),
            PatternKind::Runs => {
                *worked += 100 + 4 * (self.text.len() + value.len()) as u64;
                !value.is_empty() && runs_match(self.text, value)
            }
        }
    }

    pub(crate) fn to_pattern(self) -> Pattern {
        Pattern { kind: self.kind, text: String::from_utf8_lossy(self.text).into() }
    }
}

/// Segment, and the separator before it; 0 before the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameSegment<'a> {
    pub(crate) separator: u8,
    pub(crate) text: &'a [u8],
}

impl NameSegment<'_> {
    /// Returns a number below 4 for the separator.
    #[inline]
    pub(crate) fn separator_code(&self) -> u8 {
        match self.separator {
            b'.' => 1,
            b':' => 2,
            b'/' => 3,
            _ => 0,
        }
    }
}

/// Segments of a text, at least one.
#[derive(Clone, Debug)]
pub(crate) struct Segments<'a> {
    separator: u8,
    rest: Option<&'a [u8]>,
}

pub(crate) fn segments(text: &[u8]) -> Segments<'_> {
    Segments { separator: 0, rest: Some(text) }
}

impl<'a> Iterator for Segments<'a> {
    type Item = NameSegment<'a>;

    fn next(&mut self) -> Option<NameSegment<'a>> {
        let rest = self.rest?;
        let separator = self.separator;
        match rest.iter().position(|byte| matches!(byte, b'.' | b':' | b'/')) {
            Some(at) => {
                self.separator = rest[at];
                self.rest = Some(&rest[at + 1..]);
                Some(NameSegment { separator, text: &rest[..at] })
            }
            None => {
                self.rest = None;
                Some(NameSegment { separator, text: rest })
            }
        }
    }
}

pub(crate) fn has_wildcard(text: &[u8]) -> bool {
    text.contains(&b'*') && segments(text).any(|segment| matches!(segment.text, b"*" | b"**"))
}

/// Returns where `text` begins in `within`, in linear time.
#[cfg(feature = "server")]
fn find(within: &[u8], text: &[u8]) -> Option<usize> {
    memchr::memmem::find(within, text)
}

/// Returns where `text` begins in `within`. Quadratic: without a server there are no patterns that need this.
#[cfg(not(feature = "server"))]
fn find(within: &[u8], text: &[u8]) -> Option<usize> {
    within.windows(text.len()).position(|window| window == text)
}

/// Matches a pattern of runs: the texts between the asterisks, the first and the last one at the value's ends, each
/// other one at its first place after the one before.
fn runs_match(pattern: &[u8], value: &[u8]) -> bool {
    let mut texts = pattern.split(|byte| *byte == b'*');
    let first = texts.next().unwrap_or_default();
    let Some(last) = texts.next_back() else { return first == value };
    let Some(mut rest) = value.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else {
        return false;
    };
    texts.filter(|text| !text.is_empty()).all(|text| {
        let at = find(rest, text);
        rest = at.map_or(&[][..], |at| &rest[at + text.len()..]);
        at.is_some()
    })
}

/// Maximum number of segments in a pattern whose places fit the bits of a word.
const PLACES_MAX: usize = 63;

/// Approximate instructions for a byte of a pattern or value that is cut into segments. The next two are for a segment
/// and for a comparison of two texts.
const BYTE: u64 = 5;
const SEGMENT: u64 = 60;
const COMPARED: u64 = 15;

/// Pattern of at most [`PLACES_MAX`] segments. Bit `i` of a word is the place before segment `i`.
struct Places<'a> {
    /// Places before `**`, and before `*`.
    many: u64,
    one: u64,
    /// Places before segments with each separator.
    separated: [u64; 4],
    /// Places with nothing but `**` before them.
    leading: u64,
    /// Literal segments, each text once, with the places before it.
    texts: SmallVec<[(u64, &'a [u8]); 16]>,
    end: u64,
}

impl<'a> Places<'a> {
    /// Returns `None` if the pattern is longer.
    fn new(pattern: &'a [u8], worked: &mut u64) -> Option<Self> {
        let mut places =
            Self { many: 0, one: 0, separated: [0; 4], leading: 1, texts: SmallVec::new(), end: 1 };
        for segment in segments(pattern) {
            let place = places.end;
            if place == 1 << PLACES_MAX {
                return None;
            }
            places.separated[usize::from(segment.separator_code())] |= place;
            places.end <<= 1;
            *worked += SEGMENT;
            match segment.text {
                b"**" => {
                    places.many |= place;
                    places.leading |= (places.leading & place) << 1;
                }
                b"*" => places.one |= place,
                text => {
                    *worked += COMPARED * places.texts.len() as u64;
                    match places.texts.iter_mut().find(|(_, known)| *known == text) {
                        Some((known, _)) => *known |= place,
                        None => places.texts.push((place, text)),
                    }
                }
            }
        }
        *worked += BYTE * pattern.len() as u64;
        Some(places)
    }

    /// Adds the places after each `**` that matches nothing.
    fn skip_empty_many(&self, mut here: u64) -> u64 {
        loop {
            let more = here | (here & self.many) << 1;
            if more == here {
                return here;
            }
            here = more;
        }
    }

    /// Walks the value once. The cost is that of its segments, and of the pattern's distinct texts that may come next.
    fn matches(&self, value: &[u8], worked: &mut u64) -> bool {
        let mut here = self.skip_empty_many(1);
        // Places of each `**` that has begun.
        let mut inside = 0;
        let mut may_lead = self.leading;
        for segment in segments(value) {
            let entered = here & (self.separated[usize::from(segment.separator_code())] | may_lead);
            may_lead = 0;
            let mut passed = entered & self.one;
            let mut compared = 0;
            for (places, text) in &self.texts {
                if entered & places != 0 {
                    compared += 1;
                    if *text == segment.text {
                        passed |= entered & places;
                    }
                }
            }
            *worked += SEGMENT + BYTE * segment.text.len() as u64 + COMPARED * compared;
            inside |= entered & self.many;
            here = self.skip_empty_many((passed | inside) << 1);
            if here == 0 {
                return false;
            }
        }
        here & self.end != 0
    }
}

fn segments_match(pattern: &[u8], value: &[u8], worked: &mut u64) -> bool {
    match Places::new(pattern, worked) {
        Some(places) => places.matches(value, worked),
        None => {
            *worked += (150 + 6 * value.len() + 54 * segments(pattern).count() * value.len()) as u64;
            long_segments_match(pattern, value)
        }
    }
}

/// Matches as [`segments_match`] does, for a pattern of any length. `reached[j]`: the pattern's segments so far match
/// the first `j` of the value.
fn long_segments_match(pattern: &[u8], value: &[u8]) -> bool {
    let value: SmallVec<[NameSegment<'_>; 12]> = segments(value).collect();
    let mut reached: SmallVec<[bool; 32]> = SmallVec::from_elem(false, value.len() + 1);
    reached[0] = true;
    // Whether all segments before this one are `**`, so that it may be the value's first.
    let mut leading = true;
    for segment in segments(pattern) {
        let separated = |j: usize| value[j].separator == segment.separator || (j == 0 && leading);
        if segment.text == b"**" {
            let mut inside = false;
            for j in 0..=value.len() {
                let here = reached[j];
                reached[j] = here || inside;
                inside |= here && j < value.len() && separated(j);
            }
        } else {
            for j in (0..value.len()).rev() {
                reached[j + 1] =
                    reached[j] && separated(j) && (segment.text == b"*" || segment.text == value[j].text);
            }
            reached[0] = false;
            leading = false;
        }
    }
    reached[value.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Defines matching as a recursion: returns whether the pattern from `p` on matches the value from `v` on.
    fn defined(pattern: &[NameSegment<'_>], value: &[NameSegment<'_>], p: usize, v: usize) -> bool {
        let Some(segment) = pattern.get(p) else { return v == value.len() };
        let separated = |v: usize| {
            value[v].separator == segment.separator
                || (v == 0 && pattern[..p].iter().all(|before| before.text == b"**"))
        };
        if segment.text == b"**" {
            // No segment, or any number of segments that starts after the right separator.
            return defined(pattern, value, p + 1, v)
                || (v < value.len()
                    && separated(v)
                    && (v + 1..=value.len()).any(|end| defined(pattern, value, p + 1, end)));
        }
        v < value.len()
            && separated(v)
            && (segment.text == b"*" || segment.text == value[v].text)
            && defined(pattern, value, p + 1, v + 1)
    }

    #[test]
    fn patterns_match_by_whole_segments_and_their_separators() {
        for (pattern, value, want) in [
            ("task.done", "task.done", true),
            ("task.done", "task.don", false),
            ("task.*", "task.done", true),
            ("task.*", "task", false),
            ("task.*", "task.", true),
            ("task.*", "task.a.b", false),
            ("task.*", "task:done", false),
            ("agent:*:status", "agent:x:status", true),
            ("agent:*:status", "agent:x.y:status", false),
            ("workflow.**", "workflow.a.b", true),
            ("workflow.**", "workflow", true),
            ("workflow.**", "workflows", false),
            ("workflow.**", "workflow:a", false),
            ("workflow.**", "workflow.a:b/c", true),
            ("**.failed", "failed", true),
            ("**.failed", "a:b.failed", true),
            ("**.failed", "a:failed", false),
            ("**", "anything/at:all", true),
            ("**", "", false),
            ("*", "one", true),
            ("*", "one.two", false),
            ("*", "", false),
            ("", "", true),
            ("", "a", false),
            ("a.**.z", "a.z", true),
            ("a.**.z", "a.b.c.z", true),
            ("a:**.z", "a.z", true),
            ("a:**.z", "a:b.z", true),
            ("a:**.z", "a.b.z", false),
            ("ta*k", "task", false),
            ("ta*k", "ta*k", true),
            ("***", "a", false),
            ("/var/*/log", "/var/x/log", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(value), want, "{pattern} on {value:?}");
        }
        assert!(!Pattern::exact("task.*").matches("task.done"));
        assert!(Pattern::exact("task.*").matches("task.*"));
    }

    #[cfg(feature = "server")]
    #[test]
    fn runs_of_characters_cross_separators() {
        for (pattern, value, want) in [
            ("coder-*", "coder-001", true),
            ("coder-*", "coder-", true),
            ("coder-*", "code", false),
            ("*-001", "coder:x-001", true),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("*x*", "axb", true),
            ("*", "a:b.c", true),
            ("*", "", false),
            ("plain", "plain", true),
        ] {
            assert_eq!(Pattern::runs(pattern).matches(value), want, "{pattern} on {value:?}");
        }
    }

    #[test]
    fn every_small_pattern_matches_as_defined() {
        let texts = |words: &[&str]| {
            let mut all = vec![String::new()];
            let mut grown: Vec<String> = words.iter().map(ToString::to_string).collect();
            for _ in 0..3 {
                all.extend(grown.iter().cloned());
                grown = grown
                    .iter()
                    .flat_map(|head| {
                        [".", ":"].into_iter().flat_map(move |separator| {
                            words.iter().map(move |word| format!("{head}{separator}{word}"))
                        })
                    })
                    .collect();
            }
            all.extend(grown.into_iter().step_by(7));
            all
        };
        let values = texts(&["a", "b", ""]);
        for pattern in texts(&["a", "*", "**"]) {
            let compiled = Pattern::new(pattern.as_str());
            let pattern_segments: Vec<_> = segments(pattern.as_bytes()).collect();
            for value in &values {
                let value_segments: Vec<_> = segments(value.as_bytes()).collect();
                let want = if value.is_empty() || pattern.is_empty() {
                    *value == pattern
                } else {
                    defined(&pattern_segments, &value_segments, 0, 0)
                };
                assert_eq!(compiled.matches(value), want, "{pattern:?} on {value:?}");
                let is_long = !value.is_empty() && long_segments_match(pattern.as_bytes(), value.as_bytes());
                assert_eq!(!value.is_empty() && want, is_long, "{pattern:?} on {value:?}");
            }
        }
    }

    #[test]
    fn long_patterns_match_as_short_ones() {
        let mut dice = 7u64;
        let mut roll = |sides: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % sides
        };
        let mut found = 0;
        for _ in 0..20_000 {
            let mut text = |words: &[&str], most: u64| {
                let count = 1 + roll(most);
                (0..count).fold(String::new(), |mut text, nth| {
                    if nth > 0 {
                        text.push(if roll(8) == 0 { ':' } else { '.' });
                    }
                    text.push_str(words[roll(words.len() as u64) as usize]);
                    text
                })
            };
            let (pattern, value) = (text(&["a", "b", "*", "**", "a"], 70), text(&["a", "b", "a"], 90));
            let is_match = segments_match(pattern.as_bytes(), value.as_bytes(), &mut 0);
            assert_eq!(
                is_match,
                long_segments_match(pattern.as_bytes(), value.as_bytes()),
                "{pattern} on {value}"
            );
            found += usize::from(is_match);
        }
        assert!(found > 300, "{found}: nothing to compare");
    }

    #[test]
    fn a_giant_pattern_costs_no_more_than_its_product() {
        let pattern = Pattern::new("**.a.".repeat(200) + "b");
        let value = "a.".repeat(500) + "a";
        assert!(!pattern.matches(&value));
    }
}

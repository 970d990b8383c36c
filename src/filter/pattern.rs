//! A value with wildcards by segment. Imports its siblings only.
//!
//! Always: every string is a pattern, and matching costs at most (segments of the pattern) x (segments of the
//! value), whatever both are.

use std::fmt;

use smallvec::SmallVec;

/// A value of an attribute, or a form of values.
///
/// Text is cut into segments at `.`, `:` and `/`. A segment that is `*` stands for any one segment; a segment
/// `**` stands for any run of segments, also none. The separators count: `a.*` does not match `a:b`. With a
/// `**` that stands for nothing, the separator before it goes too (for a leading `**` the one after it), so
/// `workflow.**` matches `workflow`, and `**.failed` matches `failed`.
///
/// An asterisk beside other characters (`ta*k`) means itself. The empty pattern matches an absent attribute
/// and nothing else; an absent attribute matches no wildcard.
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

/// How a pattern's text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum PatternKind {
    /// As it stands.
    Exact = 0,
    /// With `*` and `**` as whole segments; holds at least one.
    Segments = 1,
    /// With `*` for any run of characters, also none; holds at least one. Has no text form of its own.
    Runs = 2,
}

impl Pattern {
    /// A pattern with this text, in which `*` and `**` segments are wildcards.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        let text = text.into();
        let kind = if has_wildcard(text.as_bytes()) { PatternKind::Segments } else { PatternKind::Exact };
        Self { kind, text }
    }

    /// A pattern that matches this text only, asterisks included.
    pub fn exact(text: impl Into<Box<str>>) -> Self {
        Self { kind: PatternKind::Exact, text: text.into() }
    }

    /// A pattern in which `*`, wherever it stands, is any run of characters: AutoSDLC's. Where that comes to the
    /// same, it is one by segments, which the matcher finds without a look at each.
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

    /// Whether it stands for one value only.
    pub fn is_exact(&self) -> bool {
        self.kind == PatternKind::Exact
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches `value`; an empty one means absent.
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

/// A pattern whose text lies elsewhere; the bytes are UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PatternRef<'a> {
    pub(crate) kind: PatternKind,
    pub(crate) text: &'a [u8],
}

#[cfg(feature = "server")]
impl<'a> PatternRef<'a> {
    /// The one value that it matches, if there is one alone.
    pub(crate) fn exact(self) -> Option<&'a str> {
        // What was text when it was encoded is text.
        (self.kind == PatternKind::Exact).then(|| std::str::from_utf8(self.text).unwrap_or_default())
    }
}

impl PatternRef<'_> {
    pub(crate) fn matches(self, value: &[u8]) -> bool {
        match self.kind {
            PatternKind::Exact => self.text == value,
            PatternKind::Segments => !value.is_empty() && segments_match(self.text, value),
            PatternKind::Runs => !value.is_empty() && runs_match(self.text, value),
        }
    }

    pub(crate) fn to_pattern(self) -> Pattern {
        Pattern { kind: self.kind, text: String::from_utf8_lossy(self.text).into() }
    }
}

/// A segment and the separator before it; 0 before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment<'a> {
    pub(crate) separator: u8,
    pub(crate) text: &'a [u8],
}

/// The segments of a text, at least one.
#[derive(Clone, Debug)]
pub(crate) struct Segments<'a> {
    separator: u8,
    rest: Option<&'a [u8]>,
}

pub(crate) fn segments(text: &[u8]) -> Segments<'_> {
    Segments { separator: 0, rest: Some(text) }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        let rest = self.rest?;
        let separator = self.separator;
        match rest.iter().position(|byte| matches!(byte, b'.' | b':' | b'/')) {
            Some(at) => {
                self.separator = rest[at];
                self.rest = Some(&rest[at + 1..]);
                Some(Segment { separator, text: &rest[..at] })
            }
            None => {
                self.rest = None;
                Some(Segment { separator, text: rest })
            }
        }
    }
}

pub(crate) fn has_wildcard(text: &[u8]) -> bool {
    text.contains(&b'*') && segments(text).any(|segment| matches!(segment.text, b"*" | b"**"))
}

/// Where a text begins in another; linear in both.
#[cfg(feature = "server")]
fn find(within: &[u8], text: &[u8]) -> Option<usize> {
    memchr::memmem::find(within, text)
}

/// Where a text begins in another. Without a server there are no patterns of this kind.
#[cfg(not(feature = "server"))]
fn find(within: &[u8], text: &[u8]) -> Option<usize> {
    within.windows(text.len()).position(|window| window == text)
}

/// Between the asterisks stand texts: the first and the last at the value's ends, each other at the first place
/// behind the one before it.
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

/// `reached[j]`: the pattern's segments so far match the first `j` of the value.
fn segments_match(pattern: &[u8], value: &[u8]) -> bool {
    let value: SmallVec<[Segment<'_>; 12]> = segments(value).collect();
    let mut reached: SmallVec<[bool; 32]> = SmallVec::from_elem(false, value.len() + 1);
    reached[0] = true;
    // All segments before this one are `**`, so that it may be the value's first.
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

    /// The definition in words, as recursion: the pattern from `p` on matches the value from `v` on.
    fn defined(pattern: &[Segment<'_>], value: &[Segment<'_>], p: usize, v: usize) -> bool {
        let Some(segment) = pattern.get(p) else { return v == value.len() };
        let separated = |v: usize| {
            value[v].separator == segment.separator
                || (v == 0 && pattern[..p].iter().all(|before| before.text == b"**"))
        };
        if segment.text == b"**" {
            // Nothing, or a run of any length that starts after the right separator.
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
            }
        }
    }

    #[test]
    fn a_giant_pattern_costs_no_more_than_its_product() {
        let pattern = Pattern::new("**.a.".repeat(200) + "b");
        let value = "a.".repeat(500) + "a";
        assert!(!pattern.matches(&value));
    }
}

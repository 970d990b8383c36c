//! Mapping of events and filters to NATS subjects.
//!
//! A subject is a sequence of tokens: stream, channel, kind and id of the entity, then the segments of the type.
//!
//! Invariants:
//! - An event that a filter matches has one of the filter's subjects. Subjects may cover more than the filter, never
//!   less.
//! - A token consists of letters, digits, `-`, `_` and `=` only.

use std::fmt::Write as _;

use crate::event::{Attribute, Event};
use crate::filter::{Clause, ENTITY, Filter, PatternKind, PatternRef, segments};

/// Wildcard for all subjects.
pub(super) const ALL: &str = ">";

/// Wildcard for one token.
const ANY: &str = "*";

/// Attributes with one token each, before the tokens of the type.
const FIXED: [Attribute; 4] =
    [Attribute::Stream, Attribute::Channel, Attribute::EntityKind, Attribute::EntityId];

/// Maximum number of a type's segments with tokens of their own.
const SEGMENTS_MAX: usize = 12;

/// Token that stands for all further segments.
const MORE: &str = "=more";

/// Maximum length of a token, in bytes. A longer one is replaced by a hash.
const TOKEN_BYTES_MAX: usize = 80;

/// Maximum number of subjects of one filter; a filter that needs more subscribes more widely.
const SUBJECTS_MAX: usize = 64;

/// Returns the subject of an event, without the log's prefix.
pub(super) fn of_event(event: &Event) -> String {
    let mut tokens: Vec<String> = FIXED
        .iter()
        .map(|attribute| token(event.attribute(*attribute).unwrap_or_default().as_bytes()))
        .collect();
    tokens.extend(exact_type(event.event_type().as_bytes()));
    tokens.join(".")
}

/// Returns the subjects of all events that a filter may match.
pub(super) fn of_filter(filter: &Filter) -> Vec<String> {
    if filter.is_nothing() {
        return Vec::new();
    }
    let mut fixed: [Vec<String>; 4] = Default::default();
    let mut types: Vec<String> = Vec::new();
    for clause in filter.clauses() {
        let Clause::Set(set) = clause else { continue };
        if set.negated {
            continue;
        }
        if set.about == ENTITY {
            // Kinds and ids are mapped separately, which covers more than the pairs, never less.
            let parts = set.members().map(|(kind, id)| (one(kind), id.map_or_else(|| ANY.to_owned(), one)));
            let (kinds, ids): (Vec<_>, Vec<_>) = parts.unzip();
            keep_narrower(&mut fixed[2], kinds, ANY);
            keep_narrower(&mut fixed[3], ids, ANY);
        } else if usize::from(set.about) == Attribute::Type.index() {
            keep_narrower(&mut types, set.members().flat_map(|(pattern, _)| of_type(pattern)).collect(), ALL);
        } else if let Some(at) = FIXED.iter().position(|fixed| fixed.index() == usize::from(set.about)) {
            keep_narrower(&mut fixed[at], set.members().map(|(pattern, _)| one(pattern)).collect(), ANY);
        }
    }
    let [stream, channel, kind, id] = fixed;
    let mut all = [stream, channel, kind, id, types];
    for (at, values) in all.iter_mut().enumerate() {
        let wide = if at == FIXED.len() { ALL } else { ANY };
        if values.is_empty() || values.iter().any(|value| value == wide) {
            *values = vec![wide.to_owned()];
        }
        values.sort_unstable();
        values.dedup();
    }
    while all.iter().map(Vec::len).product::<usize>() > SUBJECTS_MAX {
        let longest = (0..all.len()).max_by_key(|at| all[*at].len()).unwrap_or_default();
        all[longest] = vec![if longest == FIXED.len() { ALL } else { ANY }.to_owned()];
    }
    let mut subjects = vec![String::new()];
    for values in &all {
        let longer = |subject: &String| -> Vec<String> {
            let dot = if subject.is_empty() { "" } else { "." };
            values.iter().map(|value| format!("{subject}{dot}{value}")).collect()
        };
        subjects = subjects.iter().flat_map(longer).collect();
    }
    subjects
        .into_iter()
        .map(|subject| if subject == "*.*.*.*.>" { ALL.to_owned() } else { subject })
        .collect()
}

/// Returns whether `wide` covers every subject that `narrow` covers.
pub(super) fn covers(wide: &str, narrow: &str) -> bool {
    let (mut wide, mut narrow) = (wide.split('.'), narrow.split('.'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some(ALL), Some(_)) | (None, None) => return true,
            (Some(ANY), Some(token)) if token != ALL => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

/// Keeps the narrower of two conditions that both hold.
fn keep_narrower(known: &mut Vec<String>, other: Vec<String>, wide: &str) {
    let is_wide = |values: &[String]| values.is_empty() || values.iter().any(|value| value == wide);
    if is_wide(known) || (!is_wide(&other) && other.len() < known.len()) {
        *known = other;
    }
}

/// Returns the token of a pattern for an attribute with one token.
fn one(pattern: PatternRef<'_>) -> String {
    match pattern.kind {
        PatternKind::Exact => token(pattern.text),
        PatternKind::Segments | PatternKind::Runs => ANY.to_owned(),
    }
}

/// Returns the subject ends of all types that match a pattern.
fn of_type(pattern: PatternRef<'_>) -> Vec<String> {
    let text = pattern.text;
    let mut tokens = Vec::new();
    let mut is_open = false;
    match pattern.kind {
        PatternKind::Exact => return vec![exact_type(text).join(".")],
        PatternKind::Segments => {
            let mut all = segments(text);
            while let Some(segment) = all.next() {
                if segment.text == b"**" {
                    let mut ends = vec![open(&tokens)];
                    if all.all(|rest| rest.text == b"**") && !tokens.is_empty() {
                        // `**` may also match no segment.
                        ends.push(tokens.join("."));
                    }
                    return ends;
                }
                if tokens.len() == SEGMENTS_MAX {
                    is_open = true;
                    break;
                }
                tokens.push(if segment.text == b"*" { ANY.to_owned() } else { token(segment.text) });
            }
        }
        PatternKind::Runs => {
            is_open = true;
            let star = text.iter().position(|byte| *byte == b'*').unwrap_or(text.len());
            let mut all = segments(&text[..star]).peekable();
            while let Some(segment) = all.next()
                && all.peek().is_some()
                && tokens.len() < SEGMENTS_MAX
            {
                tokens.push(token(segment.text));
            }
        }
    }
    vec![if is_open { open(&tokens) } else { tokens.join(".") }]
}

/// Returns the subject end of all types that begin with these tokens and have more.
fn open(tokens: &[String]) -> String {
    tokens.iter().map(String::as_str).chain([ALL]).collect::<Vec<_>>().join(".")
}

fn exact_type(text: &[u8]) -> Vec<String> {
    let mut tokens: Vec<String> =
        segments(text).take(SEGMENTS_MAX + 1).map(|segment| token(segment.text)).collect();
    if tokens.len() > SEGMENTS_MAX {
        MORE.clone_into(&mut tokens[SEGMENTS_MAX]);
    }
    tokens
}

/// Returns a value as one token: bytes that NATS would misread are escaped, an absent or empty value is `=`.
fn token(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            out.push(char::from(*byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "={byte:02X}");
        }
    }
    if out.is_empty() {
        out.push('=');
    } else if out.len() > TOKEN_BYTES_MAX {
        // FNV-1a: equal on every node, and a collision only delivers more than the filter needs.
        let hash = value.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        out = format!("=h{hash:016x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Pattern;

    fn subjects(filter: &str) -> Vec<String> {
        of_filter(&filter.parse().expect(filter))
    }

    #[test]
    fn an_events_subject_has_the_attributes_of_most_filters() {
        let event =
            Event::builder("task.step:done").stream("s 1").entity("task", "7").build().expect("valid");
        assert_eq!(of_event(&event), "s=201.=.task.7.task.step.done");
        let event = Event::builder("x").channel("ä.*>").build().expect("valid");
        assert_eq!(of_event(&event), "=.=C3=A4=2E=2A=3E.=.=.x");
        let long = "y".repeat(81);
        let event = Event::builder(format!("a.{long}").as_str()).build().expect("valid");
        assert!(of_event(&event).starts_with("=.=.=.=.a.=h"));
        let deep = (0..40).map(|n| n.to_string()).collect::<Vec<_>>().join(".");
        let event = Event::builder(deep.as_str()).build().expect("valid");
        assert!(of_event(&event).ends_with(".10.11.=more"));
    }

    #[test]
    fn a_filters_subjects_are_as_narrow_as_its_conditions() {
        for (filter, wanted) in [
            ("", &[">"][..]),
            ("source=core", &[">"]),
            ("type=task.done", &["*.*.*.*.task.done"]),
            ("type=task.*", &["*.*.*.*.task.*"]),
            ("type=task.**", &["*.*.*.*.task", "*.*.*.*.task.>"]),
            ("type=**.failed", &[">"]),
            ("stream=a,b", &["a.*.*.*.>", "b.*.*.*.>"]),
            ("stream=a.*", &[">"]),
            ("type=x stream=s channel=c entity=task:7", &["s.c.task.7.x"]),
            ("type!=x", &[">"]),
            ("channel=\"\"", &["*.=.*.*.>"]),
        ] {
            assert_eq!(subjects(filter), wanted, "{filter}");
        }
        let runs = Filter::new().any_of(Attribute::Type, [Pattern::runs("agent.task*")]);
        assert_eq!(of_filter(&runs), ["*.*.*.*.agent.>"]);
        assert!(of_filter(&Filter::nothing()).is_empty());
        // Too many subjects are widened.
        let many: Vec<String> = (0..100).map(|n| format!("s{n}")).collect();
        assert_eq!(of_filter(&Filter::new().types(["x"]).streams(&many)), ["*.*.*.*.x"]);
    }

    #[test]
    fn wide_subjects_cover_narrow_ones() {
        for (wide, narrow, is) in [
            (">", "a", true),
            (">", ">", true),
            ("a.>", "a", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a.>", true),
            ("*.>", "a.b", true),
            ("*", ">", false),
            ("a.*", "a.*", true),
            ("a.*", "a.b", true),
            ("a.b", "a.*", false),
            ("a", "a.b", false),
            ("a.b", "a", false),
        ] {
            assert_eq!(covers(wide, narrow), is, "{wide} {narrow}");
        }
    }

    #[test]
    fn every_event_that_a_filter_matches_has_one_of_its_subjects() {
        let mut state = 7_u64;
        let mut dice = move |sides: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % sides
        };
        let words = ["a", "b", "", "*", "**", "a b", "ab"];
        let mut matched = 0;
        for _ in 0..60_000 {
            let mut text = |joints: &[&str]| {
                let mut text = words[dice(words.len())].to_owned();
                for _ in 0..dice(4) {
                    text = text + joints[dice(joints.len())] + words[dice(words.len())];
                }
                text
            };
            let mut event = Event::builder("x");
            let name = text(&[".", ":", "/"]);
            if !name.is_empty() {
                event = Event::builder(name.as_str());
            }
            let (stream, channel) = (text(&["."]), text(&["."]));
            let (kind, id) = (text(&["."]), text(&["."]));
            let pattern = |text: String, kind: usize| match kind {
                0 => Pattern::exact(text),
                1 => Pattern::new(text),
                _ => Pattern::runs(text),
            };
            let patterns: Vec<(String, String)> =
                (0..6).map(|_| (text(&[".", ":", "/"]), text(&["."]))).collect();
            let Ok(event) = event
                .stream(stream.as_str())
                .channel(channel.as_str())
                .entity(kind.as_str(), id.as_str())
                .build()
            else {
                continue;
            };
            let mut filter = Filter::new();
            for (at, (first, second)) in patterns.into_iter().enumerate() {
                let kind = dice(3);
                let say = dice(3) == 0;
                filter = match at {
                    0 | 1 => filter.any_of(Attribute::Type, [pattern(first, kind)]),
                    _ if !say => filter,
                    2 => filter.any_of(Attribute::Stream, [pattern(second, kind)]),
                    3 => filter.any_of(Attribute::Channel, [pattern(second, kind)]),
                    4 => filter.entity(second, first),
                    _ => filter.and(&Filter::new().any_of(Attribute::Type, [pattern(first, kind)])),
                };
            }
            if filter.matches(&event) {
                matched += 1;
                let subject = of_event(&event);
                let all = of_filter(&filter);
                assert!(
                    all.iter().any(|one| covers(one, &subject)),
                    "{filter} {event:?}: {subject} not in {all:?}"
                );
            }
        }
        assert!(matched > 1000, "{matched}");
    }
}

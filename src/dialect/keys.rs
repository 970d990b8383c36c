//! Finds unknown keys in objects and queries that people write, and the known key that was probably meant.
//!
//! Invariants:
//! - The cost is bounded by the known keys.
//! - An error repeats at most a part of a client's key.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use strsim::osa_distance;

use super::shortened;
use crate::event::json;

/// Maximum number of letters of a key that is compared with the known ones. Known keys have at most 15 letters, and a
/// comparison takes as many steps as the product of both lengths.
const LETTERS_MAX: usize = 24;

/// Returns a key's letters and digits in lower case, so that `eventTypes` equals `event_types`.
fn letters(key: &str) -> String {
    let kept = key.chars().filter(|letter| !matches!(letter, '_' | '-' | ' '));
    kept.take(LETTERS_MAX + 1).map(|letter| letter.to_ascii_lowercase()).collect()
}

/// Returns the known key that was probably meant.
pub(crate) fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = letters(key);
    if word.is_empty() || word.len() > LETTERS_MAX {
        return None;
    }
    let far = |known: &str| {
        let other = letters(known);
        // Finds `types` for `event_types` and `stream` for `stream_ids`. A contained key counts as a distance of two
        // letters.
        let has = |whole: &str, part: &str| part.len() > 2 && whole.contains(part);
        let parts = if has(&other, &word) { usize::from(word != other) } else { usize::MAX };
        let parts = if has(&word, &other) { parts.min(2) } else { parts };
        parts.min(osa_distance(&word, &other))
    };
    let (far, nearest) = known.iter().map(|known| (far(known), *known)).min_by_key(|(far, _)| *far)?;
    (far <= 1 + word.len() / 3).then_some(nearest)
}

/// Error text for an unknown key.
pub(crate) struct UnknownKey<'a> {
    pub(crate) key: &'a str,
    pub(crate) known: &'a [&'a str],
}

impl fmt::Display for UnknownKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown key `{}`", shortened(self.key))?;
        match nearest(self.key, self.known) {
            Some(meant) => write!(f, ": did you mean `{meant}`?"),
            None if self.known.is_empty() => f.write_str(": no key is allowed here"),
            None => write!(f, ": the known keys are {}", self.known.join(", ")),
        }
    }
}

/// A value that is read from an object only. Without it serde also takes an array of the fields in their order.
#[derive(Default)]
pub(super) struct FromObject<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for FromObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = FromObject<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(FromObject)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// Returns the first unknown key of a JSON object; `None` also if the text is no object.
pub(crate) fn first_unknown(object: &str, is_known: impl Fn(&str) -> bool) -> Option<String> {
    let mut unknown = None;
    for member in json::members(object) {
        let key = plain_key(member.ok()?.0)?;
        if unknown.is_none() && !is_known(&key) {
            unknown = Some(key.into_owned());
        }
    }
    unknown
}

/// Returns the key in a key's JSON text, unescaped; `None` if the text is no JSON string.
pub(super) fn plain_key(text: &str) -> Option<Cow<'_, str>> {
    match json::plain_string(text, 0) {
        Some((key, end)) if end == text.len() => Some(Cow::Borrowed(key)),
        _ => serde_json::from_str(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 9] = [
        "subscription_id",
        "event_types",
        "sources",
        "correlation_ids",
        "stream_ids",
        "entities",
        "channels",
        "history",
        "max_per_second",
    ];

    #[test]
    fn the_key_that_was_meant_is_named() {
        for (key, meant) in [
            ("types", Some("event_types")),
            ("event_type", Some("event_types")),
            ("eventTypes", Some("event_types")),
            ("Event-Types", Some("event_types")),
            ("sourcse", Some("sources")),
            ("stream", Some("stream_ids")),
            ("entity", Some("entities")),
            ("chanels", Some("channels")),
            ("histroy", Some("history")),
            ("maxPerSecond", Some("max_per_second")),
            ("quite_another", None),
            ("", None),
            ("__", None),
        ] {
            assert_eq!(nearest(key, &KNOWN), meant, "{key}");
        }
        assert_eq!(nearest(&"x".repeat(1 << 20), &KNOWN), None);
        assert_eq!(nearest("x", &[]), None);
        assert_eq!(nearest("event_types", &["event_name", "type", "source"]), Some("type"));
    }

    #[test]
    fn a_distance_counts_letters() {
        for (one, other, far) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "abc", 3),
            ("abc", "acb", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
        ] {
            assert_eq!(osa_distance(one, other), far, "{one} {other}");
            assert_eq!(osa_distance(other, one), far, "{other} {one}");
        }
        let long = |letter: &str| letter.repeat(LETTERS_MAX);
        assert_eq!(osa_distance(&long("a"), &long("b")), LETTERS_MAX);
    }

    #[test]
    fn the_first_unknown_key_is_found_however_it_is_written() {
        let found = |text: &str| first_unknown(text, |key| key == "a" || key == "b");
        assert_eq!(found(r#"{"a":1,"\u0062":{"c":1},"d":[{"e":1}],"f":1}"#).as_deref(), Some("d"));
        assert_eq!(found(r#"{"b":1}"#), None);
        assert_eq!(found("[1]"), None);
        assert_eq!(found(r#"{"x":1"#), None);
    }

    #[test]
    fn a_keys_help_is_short() {
        let key = "é".repeat(5000);
        let text = UnknownKey { key: &key, known: &KNOWN }.to_string();
        assert!(text.len() < 400 && text.contains("the known keys are subscription_id, "), "{text}");
    }
}

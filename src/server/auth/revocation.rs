//! Revocations: valid tokens and subjects that are refused, by id and by name.
//!
//! Invariants:
//! - A revocation stays until its time has passed or it is lifted.
//! - The number of revocations is bounded, and none is dropped for another.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::grant::Grant;

/// One revocation, as a line of the file or the body of `POST /api/revoke`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revocation {
    /// Id of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<Box<str>>,
    /// Subject of tokens and API keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<Box<str>>,
    /// For a subject: only tokens issued before this second, so that new ones are valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_before: Option<i64>,
    /// Second from which the revocation may be forgotten, because the token has expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
    /// Whether the revocation is lifted.
    #[serde(default)]
    lift: bool,
}

/// Notice from a node to the others about access.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Notice {
    /// A revocation was added or lifted.
    Revoked(Revocation),
}

impl Notice {
    pub(crate) fn read(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    pub(crate) fn to_json(&self) -> String {
        // Texts and numbers under names always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Revocation {
    /// Reads a revocation. The error describes the fault.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let one: Self = serde_json::from_str(text).map_err(|error| {
            let place = error.column();
            format!("not a revocation (at character {place}): send {{\"jti\":\"…\"}} or {{\"sub\":\"…\"}}")
        })?;
        match (&one.jti, &one.sub) {
            (Some(_), None) if one.issued_before.is_some() => Err("issued_before goes with sub".to_owned()),
            (Some(_), None) | (None, Some(_)) => Ok(one),
            _ => Err("one of jti and sub is needed, and not both".to_owned()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    issued_before: Option<i64>,
    until: Option<i64>,
}

/// Error of a full table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// Table of revocations.
#[derive(Debug, Default)]
pub(super) struct Revocations {
    tokens: HashMap<Box<str>, Entry>,
    subjects: HashMap<Box<str>, Entry>,
}

impl Revocations {
    /// Reads a file's text. An error names the line.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut all = Self::default();
        for (number, line) in super::lines(text) {
            let one = Revocation::read(line).map_err(|what| format!("line {number}: {what}"))?;
            // No limit here: the operator wrote the file.
            let _ = all.add(one, 0, usize::MAX);
        }
        Ok(all)
    }

    /// Adds a revocation, or lifts it.
    pub(super) fn add(&mut self, one: Revocation, now: i64, max: usize) -> Result<(), TooMany> {
        let Revocation { jti, sub, issued_before, until, lift } = one;
        let entry = Entry { issued_before, until };
        let full = self.len() >= max;
        if full && !lift {
            for table in [&mut self.tokens, &mut self.subjects] {
                table.retain(|_, entry| entry.until.is_none_or(|until| until > now));
            }
        }
        let full = self.len() >= max;
        let (table, name) = match (jti, sub) {
            (Some(jti), _) => (&mut self.tokens, jti),
            (None, Some(sub)) => (&mut self.subjects, sub),
            (None, None) => return Ok(()),
        };
        if lift {
            table.remove(&name);
        } else if full && !table.contains_key(&name) {
            return Err(TooMany);
        } else {
            table.insert(name, entry);
        }
        Ok(())
    }

    /// Returns all revocations, in a form that can be added again.
    pub(super) fn all(&self) -> Vec<Revocation> {
        let one = |jti: Option<&Box<str>>, sub: Option<&Box<str>>, entry: &Entry| Revocation {
            jti: jti.cloned(),
            sub: sub.cloned(),
            issued_before: entry.issued_before,
            until: entry.until,
            lift: false,
        };
        let tokens = self.tokens.iter().map(|(name, entry)| one(Some(name), None, entry));
        tokens.chain(self.subjects.iter().map(|(name, entry)| one(None, Some(name), entry))).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len() + self.subjects.len()
    }

    /// Returns whether a grant is refused at this second.
    pub(super) fn has(&self, grant: &Grant, now: i64) -> bool {
        let current = |entry: &Entry| entry.until.is_none_or(|until| until > now);
        let token = grant.token_id().and_then(|id| self.tokens.get(id)).is_some_and(current);
        let subject = self.subjects.get(grant.subject()).is_some_and(|entry| {
            let early = match (entry.issued_before, grant.issued()) {
                (Some(before), Some(issued)) => issued < before,
                // The time of issue is unknown.
                _ => true,
            };
            early && current(entry)
        });
        token || subject
    }
}

#[cfg(test)]
mod tests {
    use super::super::claims::Claims;
    use super::*;

    fn grant(sub: &str, jti: &str, iat: Option<i64>) -> Grant {
        let claims = Claims { sub: Some(sub.into()), jti: Some(jti.into()), iat, ..Claims::default() };
        Grant::new(&claims, None, 0, &std::sync::Arc::default()).expect("a grant")
    }

    #[test]
    fn tokens_and_subjects_of_the_file_are_revoked() {
        let text = r#"
            # left the company
            {"sub":"eve"}
            {"jti":"t-7","until":100}
            {"sub":"bob","issued_before":50}
        "#;
        let revoked = Revocations::read(text).expect("a file");
        for (sub, jti, iat, now, refused) in [
            ("eve", "x", Some(99), 0, true),
            ("ann", "t-7", None, 99, true),
            ("ann", "t-7", None, 100, false),
            ("ann", "t-8", None, 0, false),
            ("bob", "x", Some(49), 0, true),
            ("bob", "x", None, 0, true),
            ("bob", "x", Some(50), 0, false),
            ("", "x", None, 0, false),
        ] {
            assert_eq!(revoked.has(&grant(sub, jti, iat), now), refused, "{sub} {jti} {iat:?} {now}");
        }
    }

    #[test]
    fn none_makes_way_for_another_that_is_still_needed() {
        let one = |text| Revocation::read(text).expect("one");
        let mut revoked = Revocations::default();
        assert_eq!(revoked.add(one(r#"{"jti":"a"}"#), 0, 2), Ok(()));
        assert_eq!(revoked.add(one(r#"{"jti":"b","until":9}"#), 0, 2), Ok(()));
        assert_eq!(revoked.add(one(r#"{"sub":"c"}"#), 8, 2), Err(TooMany));
        assert_eq!(revoked.add(one(r#"{"jti":"a","until":7}"#), 8, 2), Ok(()), "known ones can change");
        assert_eq!(revoked.add(one(r#"{"sub":"c"}"#), 9, 2), Ok(()), "old ones make room");
        assert_eq!(revoked.add(one(r#"{"sub":"c","lift":true}"#), 9, 0), Ok(()));
        assert!(!revoked.has(&grant("c", "x", None), 9));
    }

    #[test]
    fn an_invalid_revocation_is_reported() {
        for text in [
            "",
            "{}",
            r#"{"jti":"a","sub":"b"}"#,
            r#"{"jti":5}"#,
            r#"{"user":"x"}"#,
            r#"{"jti":"a","issued_before":5}"#,
        ] {
            assert!(Revocation::read(text).is_err(), "{text}");
        }
    }
}

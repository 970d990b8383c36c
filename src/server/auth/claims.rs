//! Claims of a token: its subject, its validity, and its rights.
//!
//! Invariants:
//! - A claim of an unexpected type is an error, and never a wider grant.
//! - Unknown claims are ignored.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Claims of a token, as in a JWT's payload and in a line of the API key file.
///
/// The four lists hold patterns. The pattern `*` stands for everything, and an empty text for events without the attribute. An
/// absent list allows everything, but a token with none of the four lists and no `filter` sees nothing. A token that may see
/// everything says so with `streams: ["*"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Claims {
    /// Subject.
    #[serde(deserialize_with = "name", skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// Subject, if there is no `sub` (Hive's name for it).
    #[serde(deserialize_with = "name", skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// Expiry, in seconds since 1970: the token is invalid from this second on.
    #[serde(deserialize_with = "second", skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// Start of validity, in seconds since 1970.
    #[serde(deserialize_with = "second", skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// Time of issue, in seconds since 1970.
    #[serde(deserialize_with = "second", skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// Id of the token, by which it can be revoked.
    #[serde(deserialize_with = "name", skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Issuer.
    #[serde(deserialize_with = "name", skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Audience.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub aud: Option<Vec<String>>,
    /// Streams that the holder may see.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub streams: Option<Vec<String>>,
    /// Types that the holder may see.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
    /// Channels that the holder may see.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<String>>,
    /// Entities that the holder may see, as `kind:id`. A kind alone stands for every entity of that kind with an id.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub entities: Option<Vec<String>>,
    /// Text of a filter that every visible event must match as well, as `source!=audit payload.tenant == "a"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Right to publish.
    #[serde(skip_serializing_if = "PublishRight::is_none")]
    pub publish: PublishRight,
    /// Whether the holder may purge kept logs, if it may see all their events.
    #[serde(deserialize_with = "flag", skip_serializing_if = "is_false")]
    pub purge: bool,
    /// Whether the holder may read `/metrics`.
    #[serde(deserialize_with = "flag", skip_serializing_if = "is_false")]
    pub metrics: bool,
    /// Whether the holder may use the routes under `/api`.
    #[serde(deserialize_with = "flag", skip_serializing_if = "is_false")]
    pub admin: bool,
}

/// Right to publish: `true`, a list of type patterns, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishRight {
    /// Nothing.
    #[default]
    None,
    /// Every type.
    All,
    /// Types that match one of these patterns.
    Types(Vec<String>),
}

impl PublishRight {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PublishJson {
    Flag(bool),
    Types(Vec<String>),
    Type(String),
    Null(()),
}

impl Serialize for PublishRight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_bool(false),
            Self::All => serializer.serialize_bool(true),
            Self::Types(types) => types.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for PublishRight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match PublishJson::deserialize(deserializer)? {
            PublishJson::Flag(true) => Self::All,
            PublishJson::Flag(false) | PublishJson::Null(()) => Self::None,
            PublishJson::Types(types) => Self::Types(types),
            PublishJson::Type(one) => Self::Types(vec![one]),
        })
    }
}

/// Reads a text. Issuers also write numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Text(String),
    Number(i64),
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<Name>::deserialize(deserializer)?.map(|name| match name {
        Name::Text(text) => text,
        Name::Number(number) => number.to_string(),
    }))
}

/// Reads a NumericDate (RFC 7519, 2): seconds, perhaps with a fraction.
#[derive(Deserialize)]
#[serde(untagged)]
enum Second {
    Whole(i64),
    Fraction(f64),
}

fn second<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    // A float out of range becomes the nearest integer.
    Ok(Option::<Second>::deserialize(deserializer)?.map(|second| match second {
        Second::Whole(second) => second,
        Second::Fraction(second) => second.floor() as i64,
    }))
}

/// Reads a list of texts, or one text as a list of one.
#[derive(Deserialize)]
#[serde(untagged)]
enum List {
    Many(Vec<String>),
    One(String),
}

fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    Ok(Option::<List>::deserialize(deserializer)?.map(|list| match list {
        List::Many(texts) => texts,
        List::One(text) => vec![text],
    }))
}

fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Option::<bool>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde requires this signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_read_back_as_they_were_written() {
        let mut claims = Claims { sub: Some("a".into()), exp: Some(5), ..Claims::default() };
        claims.streams = Some(vec!["*".into()]);
        claims.publish = PublishRight::Types(vec!["task.*".into()]);
        let text = serde_json::to_string(&claims).expect("it is plain");
        assert_eq!(text, r#"{"sub":"a","exp":5,"streams":["*"],"publish":["task.*"]}"#);
        assert_eq!(serde_json::from_str::<Claims>(&text).expect("its own"), claims);
    }

    #[test]
    fn claims_are_read_as_issuers_write_them() {
        let text =
            r#"{"user_id":42,"exp":1.9,"streams":"s","publish":true,"metrics":null,"scope":["x",{"y":1}]}"#;
        let claims: Claims = serde_json::from_str(text).expect("readable");
        assert_eq!(claims.user_id.as_deref(), Some("42"));
        assert_eq!((claims.exp, claims.publish, claims.metrics), (Some(1), PublishRight::All, false));
        assert_eq!(claims.streams, Some(vec!["s".to_owned()]));
    }

    #[test]
    fn claims_of_another_kind_are_refused() {
        for text in [
            r#"{"streams":5}"#,
            r#"{"streams":{"*":true}}"#,
            r#"{"streams":["a",5]}"#,
            r#"{"publish":1}"#,
            r#"{"admin":"true"}"#,
            r#"{"purge":"true"}"#,
            r#"{"purge":["run-1"]}"#,
            r#"{"exp":"soon"}"#,
            r#"{"sub":["a"]}"#,
            r#"{"streams":["a",null]}"#,
            r#"{"streams":[["a"]]}"#,
            r#"{"entities":[{"kind":"a"}]}"#,
            r#"{"entities":true}"#,
            r#"{"publish":["a",null]}"#,
            r#"{"publish":{"types":["a"]}}"#,
            r#"{"filter":["source=a"]}"#,
            r#"{"filter":5}"#,
            r#"{"filter":"source=a","filter":"source=b"}"#,
            r#"{"streams":["a"],"streams":["*"]}"#,
        ] {
            assert!(serde_json::from_str::<Claims>(text).is_err(), "{text}");
        }
    }
}

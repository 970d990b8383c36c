//! What a token says: who it is for, until when, and what they may see and do.
//!
//! Imports nothing of ours. Always: claims of a kind that was not expected are an error, never a wider grant;
//! claims that are not known are passed over.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The claims of a token, as they stand in a JWT's payload and in a line of the API keys' file.
///
/// The four lists hold patterns; one that is `*` stands for everything, an empty text for events without the
/// attribute. A list that is absent allows all, but a token with none of the four, and no `filter`, sees nothing: to
/// see everything it says so, with `streams: ["*"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Claims {
    /// Who it is for.
    #[serde(deserialize_with = "name", skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// Who it is for, where there is no `sub` (Hive's name for it).
    #[serde(deserialize_with = "name", skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The second, since 1970, from which it is no longer good.
    #[serde(deserialize_with = "second", skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// The second from which it is good.
    #[serde(deserialize_with = "second", skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// The second in which it was made.
    #[serde(deserialize_with = "second", skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// Its own id, by which it can be revoked.
    #[serde(deserialize_with = "name", skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Who made it.
    #[serde(deserialize_with = "name", skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Whom it is to be shown to.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub aud: Option<Vec<String>>,
    /// Streams it may see.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub streams: Option<Vec<String>>,
    /// Types it may see.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
    /// Channels it may see.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<String>>,
    /// Entities it may see, as `kind:id`; a kind alone stands for all of that kind that have an id.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub entities: Option<Vec<String>>,
    /// A filter's text that all it may see must match, too, as `source!=audit payload.tenant == "a"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// What it may publish.
    #[serde(skip_serializing_if = "PublishRight::is_none")]
    pub publish: PublishRight,
    /// Whether it may see `/metrics`.
    #[serde(deserialize_with = "flag", skip_serializing_if = "is_false")]
    pub metrics: bool,
    /// Whether it may see and use what is under `/api`.
    #[serde(deserialize_with = "flag", skip_serializing_if = "is_false")]
    pub admin: bool,
}

/// What a token may publish: `true`, a list of patterns of types, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// A text; issuers also write numbers.
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

/// A NumericDate (RFC 7519, 2): seconds, which may have a fraction.
#[derive(Deserialize)]
#[serde(untagged)]
enum Second {
    Whole(i64),
    Fraction(f64),
}

fn second<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    // A float out of range becomes the nearest integer there is.
    Ok(Option::<Second>::deserialize(deserializer)?.map(|second| match second {
        Second::Whole(second) => second,
        Second::Fraction(second) => second.floor() as i64,
    }))
}

/// A list of texts, or one text for a list of one.
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

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
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
    fn what_issuers_write_is_read() {
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

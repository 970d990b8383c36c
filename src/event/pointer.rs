//! A string in a payload by its path, found without parsing the rest.
//!
//! Invariant:
//! - The walk is that of [`json_path`](super::json_path), with the same requirements on the text and the same rule for duplicate
//!   keys.

use std::ops::Range;

use super::json_path::find_range;

/// Maximum length of a pointer's text, in bytes.
const POINTER_BYTES_MAX: usize = 512;

/// Maximum number of keys and indices in a pointer. Each costs a walk over the value that the one before it names.
const TOKENS_MAX: usize = 8;

/// JSON Pointer (RFC 6901) to a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StringPointer(Box<[String]>);

impl StringPointer {
    /// Reads a pointer's text. Returns `None` if it is no pointer, or too long.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.len() > POINTER_BYTES_MAX {
            return None;
        }
        let tokens = match text.strip_prefix('/') {
            Some(rest) => rest.split('/').map(unescaped).collect::<Option<Box<[String]>>>()?,
            None if text.is_empty() => Box::default(),
            None => return None,
        };
        (tokens.len() <= TOKENS_MAX).then_some(Self(tokens))
    }

    /// Returns the place of the string's body, without its quotes; `None` if there is no string at the path.
    pub(crate) fn find(&self, json: &str) -> Option<Range<usize>> {
        let place = find_range(json.as_bytes(), self.0.iter().map(String::as_bytes))?;
        let value = json.get(place.clone())?;
        let is_string = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
        is_string.then(|| place.start + 1..place.end - 1)
    }
}

/// Returns a token without its escapes; `None` if one of them is unknown.
fn unescaped(token: &str) -> Option<String> {
    let mut parts = token.split('~');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(1)?;
        text.push(match code {
            "0" => '~',
            "1" => '/',
            _ => return None,
        });
        text.push_str(rest);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn found<'a>(json: &'a str, pointer: &str) -> Option<&'a str> {
        StringPointer::parse(pointer).expect("a pointer").find(json).map(|body| &json[body])
    }

    #[test]
    fn a_string_is_found_by_its_path() {
        let json = r#"{"a":{"b":["x",{"c":"y\"z"},3]},"":"e","a/b":"s","m~n":"t","k\u0041":"u","n":null,"o":{},"p":[]}"#;
        for (pointer, body) in [
            ("/a/b/0", Some("x")),
            ("/a/b/1/c", Some("y\\\"z")),
            ("/a/b/2", None),
            ("/a/b/3", None),
            ("/a/b/00", None),
            ("/a/b/-", None),
            ("/a/b", None),
            ("/", Some("e")),
            ("/a~1b", Some("s")),
            ("/m~0n", Some("t")),
            ("/kA", Some("u")),
            ("/n", None),
            ("/n/x", None),
            ("/o/x", None),
            ("/p/0", None),
            ("", None),
        ] {
            assert_eq!(found(json, pointer), body, "{pointer}");
        }
        assert_eq!(found(r#""all""#, ""), Some("all"));
        assert_eq!(found(r#"{"a":"1","a":"2"}"#, "/a"), Some("2"));
        assert_eq!(found(r#"{"a":"1","a":2}"#, "/a"), None);
    }

    #[test]
    fn an_invalid_pointer_is_refused() {
        for text in ["a", "a/b", "/~", "/~2", "/a~", "#/a", &"/a".repeat(9), &"/".repeat(600)] {
            assert_eq!(StringPointer::parse(text), None, "{text}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let text = prop::sample::select(vec![
            "", "a", "b", "0", "1", "\"", "\\", "\u{e9}\n", "a/b", "~", "{}", "],",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((text.clone(), inner), 0..5).prop_map(|members| members
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect()),
            ]
        })
    }

    /// Returns the pointers to all values.
    fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
        all.push(at.to_owned());
        match value {
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(n, item)| pointers(item, &format!("{at}/{n}"), all));
            }
            Value::Object(members) => members.iter().for_each(|(key, value)| {
                pointers(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), all);
            }),
            _ => {}
        }
    }

    proptest! {
        /// Each string is found where a parser finds it, and nothing else is. Text inserted at its end extends the string, and
        /// changes nothing else.
        #[test]
        fn it_finds_and_extends_the_strings_that_a_parser_finds(value in value(), other in ".{0,8}", more in "/[ab01/]{0,4}") {
            let json = value.to_string();
            let mut all = Vec::new();
            pointers(&value, "", &mut all);
            all.push(more);
            for pointer in &all {
                let Some(parsed) = StringPointer::parse(pointer) else { continue };
                let want = value.pointer(pointer).and_then(Value::as_str);
                let body = parsed.find(&json);
                prop_assert_eq!(body.is_some(), want.is_some(), "{} in {}", pointer, json);
                let (Some(body), Some(want)) = (body, want) else { continue };
                let quoted = Value::from(other.as_str()).to_string();
                let longer = [&json[..body.end], &quoted[1..quoted.len() - 1], &json[body.end..]].concat();
                let mut expected = value.clone();
                *expected.pointer_mut(pointer).expect("there") = Value::from(format!("{want}{other}"));
                prop_assert_eq!(serde_json::from_str::<Value>(&longer).expect("JSON"), expected);
            }
        }

        #[test]
        fn other_text_does_no_harm(text in ".{0,40}", json in r#"[{}\[\]",:a\\0-9]{0,40}"#, pointer in "(/[a01]){0,3}") {
            let pointer = StringPointer::parse(&pointer).expect("a pointer");
            for text in [text, json] {
                if let Some(body) = pointer.find(&text) {
                    prop_assert!(text.get(body).is_some());
                }
            }
        }
    }
}

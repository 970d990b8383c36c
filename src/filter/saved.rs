//! Saved form of filters, for handing them to another process.
//!
//! Invariants:
//! - A restored filter equals the saved one, even if the text form cannot express it (AutoSDLC's wildcards) or is
//!   longer than a text from outside may be (an interest joined with a grant).
//! - The bytes have a form of their own, [`encoding::spelled`], which is the same in all versions.
//! - The text is included, for older versions that read nothing else.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::definition::Filter;
use super::encoding::{self, ENTITY};
use crate::codec::portable;

/// Text of a filter, and its exact form if the text would be parsed as another filter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SavedFilter {
    filter: String,
    /// Bytes, spelled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exact: Option<Exact>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Exact(#[serde(with = "portable::bytes")] Vec<u8>);

/// Error: the text or the bytes are not those of a saved filter.
#[derive(Debug)]
pub(crate) struct SavedFilterError(String);

impl fmt::Display for SavedFilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a saved filter: {}", self.0)
    }
}

impl From<&Filter> for SavedFilter {
    fn from(filter: &Filter) -> Self {
        let text = filter.to_string();
        let is_exact = text.parse::<Filter>().is_ok_and(|read| read == *filter);
        let exact = (!is_exact).then(|| Exact(encoding::spelled(filter.bytes())));
        Self { filter: text, exact }
    }
}

impl TryFrom<SavedFilter> for Filter {
    type Error = SavedFilterError;

    fn try_from(saved: SavedFilter) -> Result<Self, SavedFilterError> {
        let SavedFilter { filter: text, exact } = saved;
        let Some(Exact(bytes)) = exact else {
            return text.parse().map_err(|error| SavedFilterError(format!("{text}: {error}")));
        };
        let parts = encoding::decode_spelled(&bytes);
        if parts.sets.iter().any(|set| set.about > ENTITY) {
            return Err(SavedFilterError(text));
        }
        // Only bytes that another process wrote are accepted, none that read as the same filter.
        let filter = Self::from_parts(parts);
        if encoding::spelled(filter.bytes()) != bytes {
            return Err(SavedFilterError(text));
        }
        Ok(filter)
    }
}

impl SavedFilter {
    /// Splits into the two forms, for a field that earlier versions read as text alone.
    pub(crate) fn into_forms(self) -> (String, Option<Exact>) {
        (self.filter, self.exact)
    }

    /// Joins the two forms that [`into_forms`](Self::into_forms) returned.
    pub(crate) fn from_forms(filter: String, exact: Option<Exact>) -> Self {
        Self { filter, exact }
    }
}

/// Format for `#[serde(flatten, with = "…")]` of a filter in a structure that had the text as `filter`.
pub(crate) mod flat {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::{Filter, SavedFilter};

    pub(crate) fn serialize<S: Serializer>(filter: &Filter, serializer: S) -> Result<S::Ok, S::Error> {
        SavedFilter::from(filter).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Filter, D::Error> {
        SavedFilter::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Attribute;
    use crate::filter::{Literal, Operator, Pattern};

    fn through(filter: &Filter) -> Filter {
        let json = serde_json::to_string(&SavedFilter::from(filter)).expect("JSON");
        let saved: SavedFilter = serde_json::from_str(&json).expect("what was written");
        saved.try_into().unwrap_or_else(|error| panic!("{error}: {json}"))
    }

    /// Values as clients write them, and unlikely ones.
    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            prop::sample::select(vec![
                "",
                "a",
                "a.b",
                "agent:coder*:*",
                "co*-1",
                "dep*",
                "*",
                "**",
                "a.**.b",
                "x,y",
                "=="
            ])
            .prop_map(str::to_owned),
            "[a-c*.:/ \"\\\\,=!&|()\u{e4}]{0,8}",
            "\\PC{0,6}",
        ]
    }

    fn pattern() -> impl Strategy<Value = Pattern> {
        (value(), 0..3).prop_map(|(value, kind)| match kind {
            0 => Pattern::new(value),
            1 => Pattern::exact(value),
            _ => Pattern::runs(value),
        })
    }

    fn literal() -> impl Strategy<Value = Literal> {
        prop_oneof![
            value().prop_map(Literal::from),
            any::<i64>().prop_map(Literal::from),
            any::<f64>().prop_map(Literal::from),
            any::<bool>().prop_map(Literal::from),
            Just(Literal::Null),
        ]
    }

    fn filter() -> impl Strategy<Value = Filter> {
        let patterns = || prop::collection::vec(pattern(), 0..4);
        let clause = prop_oneof![
            (0..Attribute::COUNT, any::<bool>(), patterns()).prop_map(|(attribute, negated, patterns)| {
                let attribute = Attribute::ALL[attribute];
                if negated {
                    Filter::new().none_of(attribute, patterns)
                } else {
                    Filter::new().any_of(attribute, patterns)
                }
            }),
            (any::<bool>(), prop::collection::vec((value(), value()), 0..4)).prop_map(|(negated, pairs)| {
                if negated { Filter::new().not_entities(pairs) } else { Filter::new().entities(pairs) }
            }),
            (value(), 0..Operator::ALL.len(), prop::collection::vec(literal(), 0..3)).prop_map(
                |(path, operator, values)| Filter::new().payload(&path, Operator::ALL[operator], values)
            ),
            Just(Filter::nothing()),
        ];
        prop::collection::vec(clause, 0..5)
            .prop_map(|clauses| clauses.iter().fold(Filter::new(), |all, clause| all.and(clause)))
    }

    proptest! {
        #[test]
        fn every_filter_is_the_same_in_another_process(filter in filter()) {
            prop_assert_eq!(through(&filter), filter);
        }

        #[test]
        fn a_text_that_is_no_saved_filter_is_refused_or_canonical(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let saved = SavedFilter { filter: String::new(), exact: Some(Exact(bytes.clone())) };
            if let Ok(filter) = Filter::try_from(saved) {
                prop_assert_eq!(encoding::spelled(filter.bytes()), bytes);
                prop_assert_eq!(through(&filter), filter);
            }
        }
    }

    #[test]
    fn a_text_alone_is_read_and_written_if_it_is_the_whole_filter() {
        let saved: SavedFilter =
            serde_json::from_str(r#"{"filter":"source!=s type=a.*"}"#).expect("the old form");
        let filter = Filter::try_from(saved).expect("a filter");
        assert_eq!(filter, Filter::new().types(["a.*"]).not_sources(["s"]));
        assert_eq!(
            serde_json::to_string(&SavedFilter::from(&filter)).expect("JSON"),
            r#"{"filter":"type=a.* source!=s"}"#
        );
    }

    #[test]
    fn the_bytes_are_those_of_earlier_versions() {
        let filter = Filter::new().entities([("k", "a"), ("k", "b*"), ("l", "a")]).not_entities([("k", "c")]);
        let spelled = encoding::spelled(filter.bytes());
        assert_eq!(spelled, b"\x08\x0d\x04k\x04a\x04k\x08b*\x04l\x04a\x18\x04\x04k\x04c");
        let saved = SavedFilter { filter: String::new(), exact: Some(Exact(spelled)) };
        assert_eq!(Filter::try_from(saved).ok(), Some(filter));
    }

    #[test]
    fn a_filter_that_is_longer_than_a_text_may_be_comes_over_whole() {
        let many = Filter::new().types((0..2000).map(|n| format!("type.{n}")));
        assert_eq!(through(&many), many);
        let runs = Filter::new().any_of(Attribute::EntityId, [Pattern::runs("co*-1")]);
        assert_eq!(through(&runs), runs);
    }
}

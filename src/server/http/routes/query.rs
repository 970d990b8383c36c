//! Checks the names in a request's query. A typing error is refused; parameters that other software adds to URLs are
//! ignored.
//!
//! Always: an unknown name is refused with the name that may have been meant.

use crate::codec::http::Request;
use crate::dialect::keys::UnknownKey;
use crate::dialect::{ClientError, ErrorCode, split_entity};
use crate::filter::{Filter, FilterErrorKind, VALUES_MAX};

/// Filter of a query: lists of values by attribute, and a filter text in `filter` that must hold too.
pub(super) struct FilterQuery;

impl FilterQuery {
    /// Names of the lists.
    const LISTS: [&str; 7] = ["type", "source", "stream", "execution", "correlation", "channel", "entity"];

    /// Names of the query that belong to the filter.
    pub(super) const NAMES: [&str; 8] =
        ["type", "source", "stream", "execution", "correlation", "channel", "entity", "filter"];

    /// Returns whether a name of the query belongs to the filter.
    pub(super) fn takes(name: &str) -> bool {
        Self::NAMES.contains(&name)
    }

    /// Reads the filter.
    pub(super) fn read(request: &Request) -> Result<Filter, ClientError> {
        let mut text = None;
        for (_, value) in request.query_pairs().filter(|(name, _)| name == "filter") {
            if text.replace(value).is_some() {
                let error = "filter is given twice; join the texts with &, then both hold";
                return Err(ClientError::new(ErrorCode::InvalidFilter, error));
            }
        }
        let narrow = text.as_deref().unwrap_or_default().parse()?;
        // The values are counted before they are parsed.
        let count = request.query_pairs().filter(|(name, _)| Self::LISTS.contains(&name.as_str())).count();
        if count > VALUES_MAX {
            let error = FilterErrorKind::TooManyValues(count, VALUES_MAX).to_string();
            return Err(ClientError::new(ErrorCode::InvalidQuery, error));
        }
        let mut lists: [Vec<String>; 7] = Default::default();
        for (name, value) in request.query_pairs() {
            if let Some(list) = Self::LISTS.iter().position(|list| *list == name) {
                lists[list].push(value);
            }
        }
        let [types, sources, streams, executions, correlations, channels, entities] = lists;
        let filter = Filter::new()
            .types(types)
            .sources(sources)
            .streams(streams)
            .executions(executions)
            .correlations(correlations)
            .channels(channels)
            .entities(entities.iter().map(|value| split_entity(value)));
        Ok(filter.try_and(&narrow)?)
    }
}

/// Returns whether a name is ignored: keys of caches (`_=123`), names that analytics and mailers add to links, and
/// names that authentication and presence read on every path.
fn is_passed_over(name: &str) -> bool {
    name.starts_with('_')
        || name.starts_with("utm_")
        || matches!(name, "" | "token" | "access_token" | "ticket" | "user" | "gclid" | "fbclid" | "msclkid")
}

/// Returns an error if a name is neither known nor ignored.
pub(super) fn unknown(name: &str, known: &[&str]) -> Result<(), String> {
    if is_passed_over(name) { Ok(()) } else { Err(format!("query: {}", UnknownKey { key: name, known })) }
}

/// Returns an error if a request's query has a name that is neither known nor ignored.
pub(super) fn check(request: &Request, known: &[&str]) -> Result<(), String> {
    let mut names = request.query_pairs().map(|(name, _)| name).filter(|name| !known.contains(&&**name));
    names.try_for_each(|name| unknown(&name, known))
}

/// Parses a switch: set by its name alone, `1` or `true`.
pub(super) fn switch(name: &str, value: &str) -> Result<bool, String> {
    let is = |word: &str| value.eq_ignore_ascii_case(word);
    if value.is_empty() || is("1") || is("true") {
        Ok(true)
    } else if is("0") || is("false") {
        Ok(false)
    } else {
        Err(format!("{name} is neither 1, true, 0 nor false"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http::{HttpLimits, parse_request};

    #[test]
    fn a_typo_is_refused_and_foreign_parameters_are_not() {
        let check = |query: &str, known: &[&str]| {
            let text = format!("GET /x?{query} HTTP/1.1\r\nHost: t\r\n\r\n");
            let parsed = parse_request(text.as_bytes(), &HttpLimits::default()).expect("valid");
            check(&parsed.expect("whole").0, known)
        };
        let known = ["event_id", "filter"];
        for query in [
            "",
            "&",
            "event_id=1&filter=",
            "_=123&__x&utm_source=a&gclid=b&fbclid=c",
            "token=t&access_token=t&ticket=t&user=u",
            "=x",
        ] {
            assert_eq!(check(query, &known), Ok(()), "{query}");
        }
        for (query, says) in [
            ("eventid=1", "query: unknown key `eventid`: did you mean `event_id`?"),
            ("filter=x&fliter=y", "query: unknown key `fliter`: did you mean `filter`?"),
            ("minutes=5", "query: unknown key `minutes`: the known keys are event_id, filter"),
        ] {
            assert_eq!(check(query, &known), Err(says.to_owned()));
        }
        assert_eq!(
            check("minutes=5", &[]),
            Err("query: unknown key `minutes`: no key is allowed here".to_owned())
        );
    }

    #[test]
    fn a_switch_is_on_or_off_and_nothing_else() {
        for (value, want) in [
            ("", Some(true)),
            ("1", Some(true)),
            ("TRUE", Some(true)),
            ("0", Some(false)),
            ("False", Some(false)),
            ("yes", None),
            ("2", None),
        ] {
            assert_eq!(switch("lean", value).ok(), want, "{value}");
        }
    }
}

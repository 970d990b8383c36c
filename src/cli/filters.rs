//! The filter options of a client command, and their two forms in requests.
//!
//! Always: both forms select the same events.

use clap::Args;
use fanwire::Filter;
use serde_json::{Map, Value};

/// Filter options. Each is repeatable (any of its values matches); all given options must match.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filter (values may have wildcards: `*` one segment, `**` any rest)")]
pub(super) struct Filters {
    /// Event type, as `task.progress` or `task.*`
    #[arg(long = "type", value_name = "PATTERN")]
    types: Vec<String>,
    /// Component that published it
    #[arg(long, value_name = "PATTERN")]
    source: Vec<String>,
    /// Stream
    #[arg(long, value_name = "PATTERN")]
    stream: Vec<String>,
    /// Execution
    #[arg(long, value_name = "PATTERN")]
    execution: Vec<String>,
    /// Correlation id
    #[arg(long, value_name = "PATTERN")]
    correlation: Vec<String>,
    /// Entity, as `task:task_1` or `provider:*`
    #[arg(long, value_name = "KIND:ID", value_parser = entity)]
    entity: Vec<String>,
    /// Channel
    #[arg(long, value_name = "PATTERN")]
    channel: Vec<String>,
    /// Filter text, as 'type=task.* source!=core payload.progress>=50'; it must match besides the options above
    #[arg(long, value_name = "TEXT", value_parser = text)]
    filter: Option<String>,
}

/// Checks a filter's text before any request is sent, so that an error names its position.
pub(super) fn text(text: &str) -> Result<String, String> {
    text.parse::<Filter>().map(|_| text.to_owned()).map_err(|error| error.caret())
}

fn entity(text: &str) -> Result<String, String> {
    if text.contains(':') { Ok(text.to_owned()) } else { Err("expected KIND:ID, as task:task_1".into()) }
}

impl Filters {
    fn lists(&self) -> [(&'static str, &'static str, &[String]); 7] {
        [
            ("type", "event_types", &self.types),
            ("source", "sources", &self.source),
            ("stream", "stream_ids", &self.stream),
            ("execution", "execution_ids", &self.execution),
            ("correlation", "correlation_ids", &self.correlation),
            ("entity", "entities", &self.entity),
            ("channel", "channels", &self.channel),
        ]
    }

    /// Returns `name`, `value` pairs of a URL's query, not yet escaped.
    pub(super) fn query(&self) -> Vec<(&'static str, &str)> {
        let pairs = |(name, _, values)| <[String]>::iter(values).map(move |value| (name, value.as_str()));
        let filter = self.filter.iter().map(|text| ("filter", text.as_str()));
        self.lists().into_iter().flat_map(pairs).chain(filter).collect()
    }

    /// Returns whether the options name exactly one stream by value, and nothing else that may be kept.
    pub(super) fn names_one_stream(&self) -> bool {
        let others = [&self.execution, &self.correlation, &self.entity, &self.channel];
        self.filter.is_none()
            && others.iter().all(|values| values.is_empty())
            && matches!(self.stream.as_slice(), [stream] if !stream.contains('*'))
    }

    /// Returns the fields of a `subscribe` payload. Options that were not given are left out.
    pub(super) fn payload(&self) -> Map<String, Value> {
        let lists = self.lists().into_iter().filter(|(_, _, values)| !values.is_empty());
        let filter = self.filter.iter().map(|text| ("filter".to_owned(), Value::from(text.as_str())));
        lists.map(|(_, name, values)| (name.to_owned(), Value::from(values))).chain(filter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_hold_every_value_given() {
        let filters = Filters {
            types: vec!["task.*".into(), "alert".into()],
            entity: vec!["task:1".into()],
            filter: Some("source!=core".into()),
            ..Filters::default()
        };
        let pairs = [("type", "task.*"), ("type", "alert"), ("entity", "task:1"), ("filter", "source!=core")];
        assert_eq!(filters.query(), pairs);
        let payload = Value::from(filters.payload());
        let lists = serde_json::json!({"event_types": ["task.*", "alert"], "entities": ["task:1"], "filter": "source!=core"});
        assert_eq!(payload, lists);
    }
}

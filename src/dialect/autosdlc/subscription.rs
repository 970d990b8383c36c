//! Filters of a subscription to a resource, or by pattern over `resource:id:event`.
//!
//! Invariants:
//! - `*` is any run of characters, colons included, and a pattern is anchored at both ends, as in the document's own
//!   matcher.
//! - An event's key is its entity's kind and id, and its type without the kind. A known type has its place in the
//!   catalogue, with or without an entity.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use smallvec::SmallVec;

use super::super::codes::ErrorCode;
use super::super::command::Strings;
use super::super::{ClientError, Subscribe};
use crate::catalogue::autosdlc::{EventType, TYPES};
use crate::event::Attribute;
use crate::filter::{Filter, FilterErrorKind, Pattern, VALUE_BYTES_MAX, VALUES_MAX};

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct AutosdlcSubscribe {
    subscription_id: Option<String>,
    resource: Option<String>,
    resource_id: Option<String>,
    events: Option<Strings>,
    pattern: Option<Strings>,
    patterns: Option<Strings>,
}

/// The parts of a `subscribe` that had an effect.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<&'a [String]>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pattern: &'a [String],
}

/// Maximum number of ways to split one pattern in three.
const SPLITS_MAX: usize = 16;

/// Maximum number of ways to split all patterns of one message.
const ALL_SPLITS_MAX: usize = 256;

/// Maximum number of type names in all filters of one message. Each costs about 2,100 instructions.
const TYPE_NAMES_MAX: usize = 1_500;

/// Maximum number of pairs of resource and event in one message. Each pair makes one or two filters, and adding a
/// filter to the loop costs up to 46,000 instructions. The document has 18 pairs.
const PAIRS_MAX: usize = 64;

/// Reads the `data` of a `subscribe`.
pub(super) fn read(data: &str) -> Result<Subscribe, ClientError> {
    let input: AutosdlcSubscribe = serde_json::from_str(data)
        .map_err(|error| ClientError::new(ErrorCode::InvalidData, format!("data: {error}")))?;
    let list = |strings: Option<Strings>| strings.unwrap_or_default().into_vec();
    let mut patterns = list(input.pattern);
    patterns.extend(list(input.patterns));
    if patterns.len() > VALUES_MAX {
        let text = FilterErrorKind::TooManyValues(patterns.len(), VALUES_MAX).to_string();
        return Err(ClientError::new(ErrorCode::InvalidFilter, text));
    }
    let or_any = |part: Option<String>| part.filter(|p| !p.is_empty()).unwrap_or_else(|| "*".to_owned());
    let subscription_id = input.subscription_id.filter(|id| !id.is_empty());
    let mut filters = Vec::new();
    let resource = or_any(input.resource);
    let (mut resource_id, mut events) = (String::new(), Vec::new());
    if resource.contains(':') {
        // The resource may be a whole pattern.
        patterns.push(resource.clone());
    } else if patterns.is_empty() {
        resource_id = or_any(input.resource_id);
        events = list(input.events);
        if events.is_empty() {
            events.push("*".to_owned());
        }
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        let ids = std::slice::from_ref(&resource_id);
        let known = known_types(&resource, ids, &events);
        wanted(&resource, ids, &events, &known, &mut filters);
    }
    let is_parted = patterns.is_empty();
    let config = to_raw_value(&Config {
        subscription_id: subscription_id.as_deref(),
        resource: is_parted.then_some(&resource),
        resource_id: is_parted.then_some(&resource_id),
        events: is_parted.then_some(&events),
        pattern: &patterns,
    });
    read_patterns(&patterns, &mut filters)?;
    filters.sort_unstable();
    filters.dedup();
    let mut filters = filters.into_iter();
    let first = filters.next().unwrap_or_else(Filter::nothing);
    Ok(Subscribe {
        subscription_id,
        or: filters.collect(),
        // Strings and lists of strings are always JSON.
        config: config.ok(),
        ..Subscribe::from(first)
    })
}

/// Appends the filters of all patterns. All patterns are counted before any becomes a filter, so that a refusal is cheap.
fn read_patterns(patterns: &[String], filters: &mut Vec<Filter>) -> Result<(), ClientError> {
    let mut ways = Vec::new();
    for pattern in patterns {
        if pattern.len() > VALUE_BYTES_MAX {
            let text = FilterErrorKind::ValueTooLong(pattern.len(), VALUE_BYTES_MAX).to_string();
            return Err(ClientError::new(ErrorCode::InvalidFilter, text));
        }
        let Some(parted) = splits(pattern) else {
            let text = format!("pattern can be read in more than {SPLITS_MAX} ways: fewer asterisks");
            return Err(ClientError::new(ErrorCode::InvalidPattern, text));
        };
        ways.extend(parted);
        if ways.len() > ALL_SPLITS_MAX {
            let text = format!(
                "patterns can be read in more than {ALL_SPLITS_MAX} ways: fewer asterisks, or fewer patterns in a message"
            );
            return Err(ClientError::new(ErrorCode::InvalidPattern, text));
        }
    }
    // One filter has all ids of a resource and event, so that 256 agents cost the same as 256 values.
    let mut pairs: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for [resource, id, event] in ways {
        pairs.entry((resource, event)).or_default().push(id);
    }
    if pairs.len() > PAIRS_MAX {
        let text = format!(
            "patterns mean more than {PAIRS_MAX} pairs of resource and event together: fewer patterns in a message"
        );
        return Err(ClientError::new(ErrorCode::InvalidPattern, text));
    }
    let mut names = 0;
    let mut known = Vec::with_capacity(pairs.len());
    for ((resource, event), ids) in &pairs {
        let meant = known_types(resource, ids, &[event]);
        names += type_names(&meant, ids, &[event]);
        if names > TYPE_NAMES_MAX {
            let text = format!(
                "patterns mean more than {TYPE_NAMES_MAX} names of types together: fewer asterisks, or fewer patterns in a message"
            );
            return Err(ClientError::new(ErrorCode::InvalidPattern, text));
        }
        known.push(meant);
    }
    for (((resource, event), ids), known) in pairs.iter().zip(&known) {
        wanted(resource, ids, &[event], known, filters);
    }
    Ok(())
}

/// Returns every way to split a pattern at the two colons of a key. Each colon is one of the pattern's or is matched by
/// one of its asterisks. Neither the resource nor the event contains a colon.
///
/// Returns `None` if there are more than [`SPLITS_MAX`] ways.
fn splits(pattern: &str) -> Option<Vec<[String; 3]>> {
    let places = |byte| pattern.bytes().enumerate().filter(move |(_, b)| *b == byte).map(|(at, _)| at);
    let (first, last) = (pattern.find(':'), pattern.rfind(':'));
    let firsts: Vec<usize> = places(b'*').filter(|at| first.is_none_or(|f| *at < f)).chain(first).collect();
    let lasts: Vec<usize> = places(b'*').filter(|at| last.is_none_or(|l| *at > l)).chain(last).collect();
    let is_star = |at: usize| pattern.as_bytes()[at] == b'*';
    let mut all = Vec::new();
    for &a in &firsts {
        for &b in &lasts {
            if a > b || (a == b && !is_star(a)) {
                continue;
            }
            if all.len() == SPLITS_MAX {
                return None;
            }
            let star = |at: usize| if is_star(at) { "*" } else { "" };
            let between = if a == b { "*" } else { &format!("{}{}{}", star(a), &pattern[a + 1..b], star(b)) };
            all.push([
                format!("{}{}", &pattern[..a], star(a)),
                between.replace("**", "*"),
                format!("{}{}", star(b), &pattern[b + 1..]),
            ]);
        }
    }
    Some(all)
}

/// The other names of each of [`TYPES`]. Made once: a message may have 256 ways to read its patterns, each with all names.
static KNOWN_NAMES: LazyLock<Vec<[String; 2]>> = LazyLock::new(|| {
    let names = |known: &EventType| [".", ":"].map(|between| [known.resource, between, known.event].concat());
    TYPES.iter().map(names).collect()
});

/// Returns the indices in [`TYPES`] of the types of this resource and any of these events.
fn known_types(resource: &str, ids: &[String], events: &[&str]) -> SmallVec<[u8; TYPES.len()]> {
    // If any event matches, known types matter only for events without an entity.
    if events.contains(&"*") && !is_any(ids) {
        return SmallVec::new();
    }
    let of_resource = Pattern::runs(resource);
    let of_events: Vec<Pattern> = events.iter().map(|event| Pattern::runs(*event)).collect();
    let is_meant = |known: &EventType| {
        of_resource.matches(known.resource)
            && of_events.iter().any(|event| event.matches(known.event) || event.matches(known.name))
    };
    (0_u8..).zip(&TYPES).filter(|(_, known)| is_meant(known)).map(|(at, _)| at).collect()
}

/// Returns the number of type names that the filters will have.
fn type_names(known: &[u8], ids: &[String], events: &[&str]) -> usize {
    let open = if is_any(ids) { 3 * known.len() + 2 } else { 0 };
    let about = if events.contains(&"*") { 0 } else { 3 * known.len() + 4 * events.len() };
    open + about
}

/// Returns whether any id matches.
fn is_any(ids: &[String]) -> bool {
    ids.iter().any(|id| id == "*")
}

/// Appends the filters of one resource with its ids and events, each of which may have asterisks.
fn wanted(resource: &str, ids: &[String], events: &[&str], known: &[u8], filters: &mut Vec<Filter>) {
    let all = events.contains(&"*");
    let mut types: Vec<Cow<'_, str>> = Vec::new();
    for at in known.iter().map(|at| usize::from(*at)) {
        types.push(TYPES[at].name.into());
        types.extend(KNOWN_NAMES[at].iter().map(|name| Cow::from(name.as_str())));
    }
    // Known types are found without an entity too, if any id matches.
    if is_any(ids) {
        let mut open: Vec<Pattern> = types.iter().map(|name| Pattern::exact(&**name)).collect();
        if all && !resource.contains('*') {
            open.extend([format!("{resource}.**"), format!("{resource}:**")].map(Pattern::new));
        }
        if all && resource == "*" {
            filters.push(Filter::new());
            return;
        }
        if !open.is_empty() {
            filters.push(Filter::new().any_of(Attribute::Type, open));
        }
    }
    let about = Filter::new()
        .any_of(Attribute::EntityKind, [Pattern::runs(resource)])
        .any_of(Attribute::EntityId, ids.iter().map(|id| Pattern::runs(id.as_str())));
    if all {
        filters.push(about);
        return;
    }
    for event in events {
        types.push((*event).into());
        types.extend(["_", ".", ":"].map(|between| Cow::from([resource, between, event].concat())));
    }
    filters.push(about.any_of(Attribute::Type, types.into_iter().map(Pattern::runs)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(data: &str, event: &str) -> bool {
        let subscribe = read(data).expect(data);
        let event = crate::dialect::envelope::read_event(event).expect("an event");
        std::iter::once(&subscribe.filter).chain(&subscribe.or).any(|filter| filter.matches(&event))
    }

    fn about(name: &str, kind: &str, id: &str) -> String {
        format!(r#"{{"type":"{name}","entity":{{"kind":"{kind}","id":"{id}"}}}}"#)
    }

    #[test]
    fn a_resource_has_its_events_and_no_others() {
        let data = r#"{"resource":"agent","resourceId":"coder-001","events":["status","task_update"]}"#;
        assert!(takes(data, &about("agent_status", "agent", "coder-001")));
        assert!(takes(data, &about("agent.task_update", "agent", "coder-001")));
        assert!(takes(data, r#"{"type":"agent_status","data":{"agentId":"coder-001"}}"#));
        assert!(!takes(data, &about("agent_log", "agent", "coder-001")));
        assert!(!takes(data, &about("agent_status", "agent", "coder-002")));
        assert!(!takes(data, r#"{"type":"agent_status","data":{"agentId":"coder-002"}}"#));
        assert!(!takes(data, r#"{"type":"agent_status"}"#));
        let data = r#"{"resource":"workflow","resourceId":"w1","events":["started","step_complete","complete","failed"]}"#;
        for name in ["workflow_started", "workflow_step_complete", "workflow_complete", "workflow_failed"] {
            assert!(takes(data, &format!(r#"{{"type":"{name}","data":{{"workflowId":"w1"}}}}"#)), "{name}");
        }
        let tdd = r#"{"type":"tdd_phase_change","data":{"agentId":"coder-001"}}"#;
        assert!(takes(r#"{"resource":"agent","resourceId":"coder-001"}"#, tdd));
        assert!(takes(r#"{"resource":"agent","resourceId":"coder-001","events":["tdd_phase_change"]}"#, tdd));
        assert!(takes(r#"{"resource":"system"}"#, r#"{"type":"system_notification","data":{"title":"x"}}"#));
        assert!(takes("{}", r#"{"type":"anything"}"#));
    }

    #[test]
    fn patterns_match_as_the_documents_own_matcher_does() {
        // (pattern, resource, id, event)
        let cases = [
            ("agent:*:status", "agent", "coder-001", "status"),
            ("agent:coder-*:status", "agent", "coder-001", "status"),
            ("agent:coder-*", "agent", "coder-001", "status"),
            ("*:status", "agent", "coder-001", "status"),
            ("*", "agent", "coder-001", "status"),
            ("agent:*", "agent", "a:b", "log"),
            ("agent:*:b:log", "agent", "a:b", "log"),
            ("a*:x*:*s", "agent", "xy", "status"),
            ("agent:coder-002:*", "agent", "coder-001", "status"),
            ("agent:*:log", "agent", "coder-001", "status"),
            ("workflow:*", "agent", "coder-001", "status"),
            ("agent", "agent", "coder-001", "status"),
            ("agent:", "agent", "coder-001", "status"),
            ("gent:*:status", "agent", "coder-001", "status"),
        ];
        for (pattern, resource, id, event) in cases {
            let key = format!("{resource}:{id}:{event}");
            // The document's regular expression, as a run pattern over the whole key.
            let want = Pattern::runs(pattern).matches(&key);
            let data = format!(r#"{{"pattern":"{pattern}"}}"#);
            let event = about(&format!("{resource}_{event}"), resource, id);
            assert_eq!(takes(&data, &event), want, "{pattern} on {key}");
        }
    }

    #[test]
    fn an_invalid_subscription_is_refused() {
        // Refusing each of these costs time linear in its length.
        let stars = format!(r#"{{"pattern":"{}:x"}}"#, "*".repeat(1000));
        let many = format!(r#"{{"patterns":["{}"]}}"#, ["*:b"; 300].join(r#"",""#));
        let ways = format!(r#"{{"patterns":["{}"]}}"#, ["***a:b***"; 256].join(r#"",""#));
        let long = format!(r#"{{"pattern":"{}"}}"#, "x".repeat(2000));
        for data in [&stars, &many, &ways, &long] {
            assert!(read(data).is_err(), "{data}");
        }
        let patterns: Vec<String> = (0..256).map(|at| format!("agent:coder-{at}-*:status")).collect();
        let usable = format!(r#"{{"patterns":["{}"]}}"#, patterns.join(r#"",""#));
        assert!(read(&usable).is_ok_and(|subscribe| subscribe.or.is_empty()), "one filter");
        assert!(takes(&usable, &about("agent_status", "agent", "coder-7-b")));
        assert!(!takes(&usable, &about("agent_status", "agent", "coder-256-b")));
        let pairs: Vec<String> = (0..65).map(|at| format!("agent:a:e{at}")).collect();
        assert!(read(&format!(r#"{{"patterns":["{}"]}}"#, pairs.join(r#"",""#))).is_err());
        for data in ["5", r#"{"events":5}"#, r#"{"pattern":"*****a*b*c*d"}"#] {
            assert!(read(data).is_err(), "{data}");
        }
    }
}

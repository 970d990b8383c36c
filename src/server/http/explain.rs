//! Answers an operator's queries: which interests exist, and why an event matched them or not.
//!
//! Always: nothing here changes state. Interests are those that the loops reported last, at most a second ago.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::refusal::FaultStatus;
use crate::dialect::HttpFault;
use crate::event::{Event, EventId};
use crate::feed::FeedView;
use crate::filter::{Explanation, Filter};
use crate::server::shared::Shared;
use crate::server::shared::report::LoopReport;
use crate::server::shared::resume::place_of;
use crate::sync::lock;

/// Maximum number of interests in a response.
const INTERESTS_MAX: usize = 50;

/// Equal feeds of all loops, as one.
struct Interest {
    filters: Vec<Filter>,
    /// Texts of the filters, in an order that does not depend on the loop.
    texts: Vec<String>,
    view: FeedView,
}

impl Interest {
    fn json(&self) -> Value {
        let FeedView { encoding, is_compressed, members, retained_events, retained_bytes, .. } = &self.view;
        json!({
            "filters": self.texts.iter().map(|text| shown(text)).collect::<Vec<_>>(), "dialect": encoding.dialect().name(),
            "transport": if encoding.is_sse() { "sse" } else { "ws" },
            "lean": encoding.is_lean(), "compressed": is_compressed,
            "members": members, "kept_events": retained_events, "kept_bytes": retained_bytes,
        })
    }
}

/// Maximum number of characters of a filter's text in a response. A filter of 256 long values has 60,000; fifty of them
/// made a response of megabytes.
const TEXT_MAX: usize = 1000;

fn shown(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((at, _)) => format!("{} ...", &text[..at]),
        None => text.to_owned(),
    }
}

fn interests(shared: &Shared) -> Vec<Interest> {
    let mut all: BTreeMap<(Vec<String>, u8, bool), Interest> = BTreeMap::new();
    for view in lock(&shared.loops.reports).iter().flat_map(LoopReport::feeds) {
        let mut filters: Vec<(String, Filter)> =
            view.filters.iter().map(|filter| (filter.to_string(), filter.clone())).collect();
        filters.sort_by(|a, b| a.0.cmp(&b.0));
        let (texts, filters): (Vec<_>, Vec<_>) = filters.into_iter().unzip();
        let key = (texts.clone(), view.encoding as u8, view.is_compressed);
        all.entry(key)
            .and_modify(|known| {
                known.view.members += view.members;
                known.view.retained_events += view.retained_events;
                known.view.retained_bytes += view.retained_bytes;
            })
            .or_insert_with(|| Interest { filters, texts, view: view.clone() });
    }
    let mut all: Vec<Interest> = all.into_values().collect();
    all.sort_by_key(|interest| std::cmp::Reverse(interest.view.members));
    all.truncate(INTERESTS_MAX);
    all
}

/// Returns the interests with the most members, for `/api/stats`.
pub(crate) fn interests_json(shared: &Shared) -> Vec<Value> {
    interests(shared).iter().map(Interest::json).collect()
}

/// Explains an event: its position, and why each interest matches it or not. Does the same for a filter in the query.
///
/// # Errors
///
/// A status and a message for the client.
pub(crate) fn explain(
    shared: &Shared,
    query: impl Iterator<Item = (String, String)>,
) -> Result<Value, (FaultStatus, String)> {
    let malformed = FaultStatus::from(HttpFault::Explain);
    let (mut id, mut filter) = (None, None);
    for (name, value) in query {
        match name.as_str() {
            "event_id" => {
                let parsed = value.parse::<EventId>();
                id = Some(parsed.map_err(|_| (malformed, "event_id is not an event's id".to_owned()))?);
            }
            "filter" => {
                let parsed = value.parse::<Filter>();
                filter = Some(parsed.map_err(|error| (malformed, error.to_string()))?);
            }
            _ => {}
        }
    }
    let id = id.ok_or((malformed, "event_id is missing: the id of the event to explain".to_owned()))?;
    let mut found: Option<Event> = None;
    if let Some(at) = place_of(shared, id) {
        shared.bus.read_range(id.shard, at, at + 1, |event| found = Some(event.clone()));
    }
    let Some(event) = found else {
        return Err((
            FaultStatus { status: 404, ..malformed },
            "the event is not kept here any more, or never was".to_owned(),
        ));
    };

    let interests = interests(shared);
    let mut clients = 0;
    let rows: Vec<Value> = (interests.iter())
        .map(|interest| {
            let whys: Vec<Explanation> =
                interest.filters.iter().map(|filter| filter.explain(&event)).collect();
            let is_wanted = whys.iter().any(Explanation::is_wanted);
            if is_wanted {
                clients += interest.view.members;
            }
            let mut row = interest.json();
            row["wanted"] = json!(is_wanted);
            row["filters"] =
                interest.texts.iter().zip(&whys).map(|(text, why)| why_json(text, why)).collect();
            row
        })
        .collect();
    let newest = shared.bus.head(id.shard);
    let members: usize = interests.iter().map(|interest| interest.view.members).sum();
    let event_json = RawValue::from_string(event.to_json()).ok();
    Ok(json!({
        "event_id": id.to_string(),
        "event": event_json,
        "shard": id.shard,
        "sequence": id.sequence,
        // Number of later events in its shard.
        "behind_newest": place_of(shared, id).map(|at| newest.saturating_sub(at + 1)),
        "clients": clients,
        "members_shown": members,
        "feeds": shared.metrics.feeds.get(),
        "interests": rows,
        "filter": filter.map(|filter| why_json(&filter.to_string(), &filter.explain(&event))),
    }))
}

fn why_json(text: &str, why: &Explanation) -> Value {
    let conditions: Vec<Value> = (why.conditions().iter())
        .map(|condition| json!({ "condition": condition.text, "holds": condition.holds, "found": condition.found }))
        .collect();
    json!({ "filter": text, "wanted": why.is_wanted(), "conditions": conditions })
}

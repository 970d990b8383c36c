//! `fanwire history`: prints past events, page by page.
//!
//! Always: one event is one line. If events of the range are no longer retained, stderr reports that.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::CliError;
use super::filters::Filters;
use super::remote::{Access, Remote};
use super::style::DIM;
use super::tail::Printer;
use super::target::{Target, error_text};
use super::trust;

/// Options of `fanwire history`.
#[derive(clap::Args, Debug)]
pub(super) struct HistoryArgs {
    /// The server
    #[arg(env = "FANWIRE_URL", hide_env_values = true, default_value = "http://127.0.0.1:8765")]
    url: Target,
    /// Filter text, as 'type=task.* stream=run-42'; it must match besides the options below
    #[arg(value_name = "FILTER", value_parser = super::filters::text)]
    text: Option<String>,
    #[command(flatten)]
    access: Access,
    /// Print the newest event first
    #[arg(long)]
    desc: bool,
    /// Print N events at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print events since this time only, as 2026-01-27T10:21:33Z, or in milliseconds since 1970
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Begin after this place: an event's id, or the place that an earlier walk named at its limit
    #[arg(long, value_name = "PLACE", conflicts_with_all = ["desc", "before"])]
    after: Option<String>,
    /// With --desc: begin before this place
    #[arg(long, value_name = "PLACE", requires = "desc")]
    before: Option<String>,
    /// Print each event as the JSON it came as, one a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: Filters,
}

/// Maximum number of events in a page, as the server allows it.
const PAGE_MAX: u64 = 1_000;
/// Time limit of a page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Size limit of a page. A larger page is a server's fault.
const PAGE_BYTES_MAX: u64 = 64 << 20;

/// One answer of the server.
#[derive(Deserialize)]
struct PageBody<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    next: Option<String>,
    complete: bool,
}

/// Prints events until the range or the limit ends, or stdout is closed.
pub(super) fn run(args: HistoryArgs) -> Result<(), CliError> {
    let remote = Remote::new(args.url.clone(), &args.access)?;
    let mut query = args.filters.query();
    let text = join(&mut query, args.text.as_deref());
    query.extend(text.as_deref().map(|text| ("filter", text)));
    let mut printer = Printer::new(args.json, args.limit);
    let (order, onward) = if args.desc { ("desc", "before") } else { ("asc", "after") };
    let mut place: Option<String> = args.after.clone().or(args.before.clone());
    let mut has_said = false;
    let mut left = args.limit;
    while !printer.is_done() {
        let limit = left.unwrap_or(PAGE_MAX).min(PAGE_MAX).to_string();
        let mut request = remote.get("/events").query_pairs(query.iter().copied());
        request = request.query("order", order).query("limit", &limit);
        if let Some(since) = &args.since {
            request = request.query("since", since);
        }
        if let Some(place) = &place {
            request = request.query(onward, place);
        }
        let called = request.config().timeout_global(Some(PAGE_TIMEOUT)).build().call();
        let mut answer = called.map_err(|error| {
            let refusal = trust::refusal(&error, &args.url);
            refusal.unwrap_or_else(|| CliError::new(format!("{}: {error}", args.url)))
        })?;
        let read = answer.body_mut().with_config().limit(PAGE_BYTES_MAX).read_to_string();
        let body = read.map_err(|error| CliError::new(format!("{}: {error}", args.url)))?;
        if answer.status() != 200 {
            let error = error_text(&body);
            return Err(CliError::new(format!(
                "{}: {error} (status {})",
                args.url,
                answer.status().as_u16()
            )));
        }
        let page: PageBody<'_> = serde_json::from_str(&body)
            .map_err(|error| CliError::new(format!("{}: not a page of events: {error}", args.url)))?;
        if !page.complete && !std::mem::replace(&mut has_said, true) {
            anstream::eprintln!("{DIM}some older events are not kept any more{DIM:#}");
        }
        left = left.map(|left| left.saturating_sub(page.events.len() as u64));
        for event in page.events {
            if printer.event(event.get()).is_err() {
                // Stdout is closed: the reader has seen enough.
                return Ok(());
            }
        }
        match page.next {
            Some(next) if place.as_ref() != Some(&next) => place = Some(next),
            Some(_) => return Err(CliError::new(format!("{}: the next page is the same one", args.url))),
            None => return Ok(()),
        }
    }
    if let Some(place) = place {
        anstream::eprintln!("{DIM}there is more: --{onward} {place}{DIM:#}");
    }
    Ok(())
}

/// Removes the option `filter` from the query, and returns it joined with the argument: the server accepts one text
/// only.
fn join(query: &mut Vec<(&str, &str)>, text: Option<&str>) -> Option<String> {
    let option = query.iter().position(|(name, _)| *name == "filter").map(|at| query.remove(at).1);
    match (text, option) {
        (Some(text), Some(option)) => Some(format!("{text}&{option}")),
        (text, option) => text.or(option).map(str::to_owned),
    }
}

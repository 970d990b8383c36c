//! `GET /events`: past events in pages.
//!
//! Always: a page shows what a stream with the same filter and rights would have shown.

use std::sync::Arc;

use super::query::{FilterQuery, unknown};
use super::{Answer, JSON, RouteOutcome};
use crate::codec::http::Request;
use crate::dialect::{ClientError, ErrorCode, HttpFault};
use crate::event::{Position, Since, Timestamp};
use crate::server::auth::Grant;
use crate::server::http::events_page::{EventsQuery, MadePage, NoPage, PAGE_BYTES, PageMaker, make_page};
use crate::server::session::effect::{Made, Work};
use crate::server::shared::Shared;
use crate::server::shared::resume::{marks, newest_place};
use crate::server::tick::Tick;
use crate::server::workers::LaneLimits;

/// Workers' lane for pages that take longer than a turn may.
const PAGES: &str = "pages";

/// Maximum number of pages that wait for a worker.
const PAGES_WAITING_MAX: usize = 256;

/// Time that a client waits for its page.
const PAGE_TICKS: Tick = 300;

/// Headers of a page.
const PAGE_HEADERS: [(&str, &str); 2] = [JSON, ("Cache-Control", "no-store")];

/// Number of events of a page without `limit`.
const LIMIT_DEFAULT: usize = 100;

/// Maximum number of events of a page.
const LIMIT_MAX: usize = 1_000;

/// Names that the query of a `GET /events` may have.
const KNOWN: [&str; 13] = [
    "type",
    "source",
    "stream",
    "execution",
    "correlation",
    "channel",
    "entity",
    "filter",
    "order",
    "limit",
    "after",
    "before",
    "since",
];

impl Answer<'_, '_> {
    /// Responds with a page of past events.
    pub(super) fn events(&mut self) -> RouteOutcome {
        let grant = match self.grant() {
            Ok(grant) => grant,
            Err(refusal) => return refusal,
        };
        let shared = self.cx.shared;
        if shared.engine.is_some() && shared.bus.shards() > 1 {
            let error = "the shards of an engine's log have no common order, so there are no pages: read the past with history or last_event_id on /sse";
            return self.error(HttpFault::NoPages, error, &[]);
        }
        let mut page = match read(self.request, self.cx.shared) {
            Ok(page) => page,
            Err(error) => return self.bad_query(&error),
        };
        page.filter = match self.interest(page.filter, grant.as_deref()) {
            Ok(filter) => filter,
            Err(refusal) => return refusal,
        };
        if let Some(refusal) = self.refuse_stream() {
            return refusal;
        }
        if shared.engine.as_ref().is_some_and(|engine| !engine.status().is_attached())
            || shared.kept.is_reading()
        {
            let error = "the engine's log is still being read: try again";
            return self.error(ErrorCode::EngineUnreachable, error, &[("Retry-After", "1")]);
        }
        // With one shard the page ends after the newest event; with more, at the loop's place in the common order.
        let until = match shared.bus.shards() {
            1 => {
                let (epoch, next) = newest_place(shared);
                Some(Position::new(epoch, [next]))
            }
            _ => self.cx.view.position(),
        };
        let until = until.unwrap_or_else(|| Position::new(shared.epoch(), [0]));
        match make_page(shared, &page, &until, self.cx.now, PageMaker::Loop) {
            Ok((MadePage::Page(mut made), units)) => {
                self.cx.budget.spend(units);
                let next = made.take_next().and_then(|place| self.cx.seal_for(place, grant.as_deref()));
                self.send_body(200, &PAGE_HEADERS, made.into_body(next.as_ref()).as_bytes())
            }
            Ok((MadePage::TooLong(size), units)) => {
                self.cx.budget.spend(units);
                self.long_page(page, until, grant, size)
            }
            Err(NoPage::TooManyLogs(error)) => {
                self.bad_query(&ClientError::new(ErrorCode::TooManyLogs, error.to_string()))
            }
            Err(NoPage::Engine(error)) => {
                self.error(ErrorCode::EngineUnreachable, &error.to_string(), &[("Retry-After", "1")])
            }
        }
    }

    /// Has a worker make a page whose first event has about this many bytes.
    fn long_page(
        &mut self,
        page: EventsQuery,
        until: Position,
        grant: Option<Arc<Grant>>,
        size: usize,
    ) -> RouteOutcome {
        let shared = Arc::clone(self.cx.shared);
        shared.metrics.long_pages.inc();
        let limits = LaneLimits {
            threads: shared.loops.count,
            waiting: PAGES_WAITING_MAX,
            bytes: self.cx.config.lane_bytes(),
        };
        let bytes = page.filter.held_bytes() + size.max(PAGE_BYTES);
        let (now, seal_number) = (self.cx.now, self.cx.rng.next_u128() as u64);
        let responder = self.responder();
        let busy = {
            let (shared, responder) = (Arc::clone(&shared), responder.clone());
            move || {
                shared.metrics.fault(HttpFault::PagesBusy.label());
                let error = "too many pages that take long are being made: ask again later, or with a narrower filter";
                responder.error(HttpFault::PagesBusy, error, &[("Retry-After", "1")])
            }
        };
        let job = {
            let busy = busy.clone();
            Box::new(move || {
                Made::Answer(match make_page(&shared, &page, &until, now, PageMaker::Worker) {
                    Ok((MadePage::Page(mut made), _)) => {
                        let is_sealed = grant.as_ref().is_some_and(|grant| grant.narrows());
                        let seal =
                            |next| if is_sealed { shared.auth.seal(&next, seal_number) } else { Some(next) };
                        let next = made.take_next().and_then(seal);
                        responder.write(200, &PAGE_HEADERS[1..], &made.into_body(next.as_ref()))
                    }
                    Ok((MadePage::TooLong(_), _)) => busy(),
                    Err(NoPage::TooManyLogs(error)) => {
                        shared.metrics.fault(ErrorCode::TooManyLogs.name());
                        responder.error(ErrorCode::TooManyLogs, &error.to_string(), &[])
                    }
                    Err(NoPage::Engine(error)) => {
                        shared.metrics.fault(ErrorCode::EngineUnreachable.name());
                        tracing::warn!(%error, "the engine's log can't be read for a page");
                        let error = "the engine's log can't be read now: try again later";
                        responder.error(ErrorCode::EngineUnreachable, error, &[("Retry-After", "1")])
                    }
                })
            })
        };
        let instead = Box::new(move |_| busy());
        self.work(Work { lane: PAGES.to_owned(), limits, patience: PAGE_TICKS, bytes, job, instead })
    }
}

/// Reads the request for a page.
fn read(request: &Request, shared: &Shared) -> Result<EventsQuery, ClientError> {
    let filter = FilterQuery::read(request)?;
    read_page(request, filter, shared).map_err(|error| ClientError::new(ErrorCode::InvalidQuery, error))
}

fn read_page(
    request: &Request,
    filter: crate::filter::Filter,
    shared: &Shared,
) -> Result<EventsQuery, String> {
    let (mut order, mut limit, mut after, mut before, mut since) = (None, None, None, None, None);
    for (name, value) in request.query_pairs() {
        let place = match name.as_str() {
            "order" => &mut order,
            "limit" => &mut limit,
            "after" => &mut after,
            "before" => &mut before,
            "since" => &mut since,
            name if FilterQuery::takes(name) => continue,
            name => {
                unknown(name, &KNOWN)?;
                continue;
            }
        };
        if place.replace(value).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    let is_desc = match order.as_deref() {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(_) => return Err("order can only be asc or desc".to_owned()),
    };
    let limit = match limit {
        None => LIMIT_DEFAULT,
        Some(text) => (text.parse().ok())
            .filter(|limit| (1..=LIMIT_MAX).contains(limit))
            .ok_or_else(|| format!("limit is not a number from 1 to {LIMIT_MAX}"))?,
    };
    let place = match (after, before) {
        (Some(_), Some(_)) => return Err("after and before are given: one page has one of them".to_owned()),
        (Some(_), None) if is_desc => {
            return Err("after goes with order=asc; with desc it is before".to_owned());
        }
        (None, Some(_)) if !is_desc => {
            return Err("before goes with order=desc; with asc it is after".to_owned());
        }
        (Some(after), None) => Some(read_place("after", &after, shared)?),
        (None, Some(before)) => Some(read_place("before", &before, shared)?),
        (None, None) => None,
    };
    let since = since.as_deref().map(read_time).transpose()?;
    Ok(EventsQuery { filter, is_desc, limit, place, since })
}

/// Reads a place: `next` of a page, or an event's id.
fn read_place(name: &str, text: &str, shared: &Shared) -> Result<Position, String> {
    let malformed = || format!("{name} is neither next of a page of this server nor an event's id");
    let since: Since = text.parse().map_err(|_| malformed())?;
    // The places in all shards, one for each if they are known.
    let marks = marks(shared, &since);
    let epoch = marks.first().ok_or_else(malformed)?.epoch;
    if marks.len() != shared.bus.shards() {
        return Err(format!("{name} is an event that is in no ring any more: give next of a page"));
    }
    Ok(Position::new(epoch, marks.iter().map(|mark| mark.next_sequence())))
}

fn read_time(text: &str) -> Result<Timestamp, String> {
    let malformed =
        || "since is neither a time as 2026-01-27T10:21:33Z nor milliseconds since 1970".to_owned();
    match text.parse::<i64>() {
        Ok(millis) => millis.checked_mul(1_000).map(Timestamp).ok_or_else(malformed),
        Err(_) => text.parse().or_else(|_| unescaped(text).parse()).map_err(|_| malformed()),
    }
}

/// Returns a time whose offset has its plus sign back: a query that has it unescaped reads it as a blank.
fn unescaped(text: &str) -> String {
    match text.rsplit_once(' ') {
        Some((time, offset)) if offset.len() == "01:00".len() => format!("{time}+{offset}"),
        _ => text.to_owned(),
    }
}

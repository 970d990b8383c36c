//! `POST /runs/{stream}`: publishes into a stream, and answers with that stream.
//!
//! Always:
//! - Every reason to refuse the stream is checked before anything is published, so a refused request publishes nothing.
//! - The stream begins with the first event of the request, or before it. It ends when its client disconnects; the
//!   published events remain.

use std::sync::Arc;

use super::posts::{Publication, Run};
use super::query;
use super::streams::{SseRequest, begin_stream};
use super::{Answer, RUNS, Responder, RouteOutcome};
use crate::codec::http::Request;
use crate::dialect::{Encoding, ErrorCode, HttpFault};
use crate::event::{Attribute, EventId, Position, Since};
use crate::filter::{Filter, Pattern};
use crate::server::auth::Grant;
use crate::server::session::effect::{Acceptance, PublishReply};
use crate::server::session::past::ReplayFrom;

/// Query names of an event stream that do not apply to a run, in addition to the filter: the path names the stream.
const NOT_OF_A_RUN: [&str; 2] = ["history", "snapshot"];

impl Run {
    /// Returns the response to the acceptance of the request's `count` events.
    pub(super) fn reply(self, accepted: Acceptance, count: usize) -> PublishReply {
        let Self { mut opening, before, .. } = self;
        opening.may_be_over = count == accepted.duplicates;
        if opening.from.is_none() && count > 0 {
            let before = before.and_then(|before| match accepted {
                Acceptance { first: Some(first), duplicates: 0, .. } => Some(just_before(before, first)),
                Acceptance { duplicates: 0, .. } => Some(before),
                // All of it was published before. With several shards its first id does not say where that is in the others.
                Acceptance { first: Some(first), duplicates, .. }
                    if duplicates == count
                        && before.sequences().len() == 1
                        && before.epoch() == first.epoch =>
                {
                    Some(just_before(before, first))
                }
                _ => None,
            });
            opening.is_own_place = before.is_some();
            let after = |before| ReplayFrom::After(Since::Position(before));
            opening.from = Some(before.map_or(ReplayFrom::Start, after));
        }
        PublishReply::Stream(Box::new(opening))
    }
}

impl Answer<'_, '_> {
    /// Publishes into a run, and responds with its events.
    pub(super) fn run(&mut self, body: Vec<u8>) -> RouteOutcome {
        let grant = match self.require_right("publishing", Grant::publishes) {
            Ok(grant) => grant,
            Err(refusal) => return refusal,
        };
        if let Err(refusal) = self.admit_publish(grant.as_deref()) {
            return refusal;
        }
        let request = self.request;
        let stream_id = &request.path[RUNS.len()..];
        if stream_id.is_empty() {
            return self.error(HttpFault::NotFound, "no run is named: POST /runs/{stream}", &[]);
        }
        let mut stream = match read_query(request) {
            Ok(stream) => stream,
            Err(error) => return self.error(ErrorCode::InvalidQuery, &error, &[]),
        };
        let filter = Filter::new().any_of(Attribute::Stream, [Pattern::exact(stream_id)]);
        stream.filter = match self.interest(filter, grant.as_deref()) {
            Ok(filter) => filter,
            Err(refusal) => return refusal,
        };
        if let Some(refusal) = self.refuse_stream() {
            return refusal;
        }
        if let Err(refusal) = self.take_name() {
            return refusal;
        }
        let is_empty = body.trim_ascii().is_empty()
            && request.header("ce-specversion").is_none()
            && request.header("idempotency-key").is_none();
        if is_empty && let Some(refusal) = self.refuse_log(&stream) {
            return refusal;
        }
        if let Err(refusal) = self.count_stream() {
            return refusal;
        }
        let opening = self.opening(stream, grant.clone());
        if is_empty {
            return begin_stream(opening, self.cx);
        }
        let publication = Publication {
            request: request.clone(),
            body,
            grant,
            config: Arc::clone(self.cx.config),
            shared: Arc::clone(self.cx.shared),
            responder: Responder {
                cors: opening.head.cors.clone(),
                keep_alive: opening.head.keep_alive,
                head_only: false,
                received_at: opening.head.received_at,
            },
            run: Some(Box::new(Run {
                stream_id: stream_id.into(),
                opening,
                before: self.cx.view.position(),
            })),
        };
        self.take_publication(publication)
    }
}

/// Returns the position moved to just before an event in its shard.
fn just_before(position: Position, EventId { epoch, shard, sequence }: EventId) -> Position {
    position.after(EventId::before(epoch, shard, sequence))
}

/// Reads the query of a run: that of an event stream without its filter.
fn read_query(request: &Request) -> Result<SseRequest, String> {
    let known =
        SseRequest::names().filter(|name| !query::FilterQuery::takes(name) && !NOT_OF_A_RUN.contains(name));
    let known: Vec<&str> = known.collect();
    query::check(request, &known)?;
    SseRequest::read_rest(request, Encoding::NativeSse)
}

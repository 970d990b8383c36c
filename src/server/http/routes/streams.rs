//! Requests that become streams: WebSocket in every dialect, and SSE.
//!
//! Always: a client that may not open a stream, or not now, gets an HTTP error instead. A stream's head is sent before
//! anything else.

use std::sync::Arc;

use serde_json::json;

use super::{Answer, FaultStatus, Responder, RouteOutcome, query};
use crate::codec::deflate;
use crate::codec::http::{self, Method, Request};
use crate::codec::ws::{self, PerMessageDeflate, UpgradeError};
use crate::dialect::stream::HEADERS;
use crate::dialect::{
    ClientError, Concat, Dialect, Encoding, ErrorCode, HttpFault, OnLag, Place, lean, native,
};
use crate::event::{Position, Since};
use crate::feed::Compression;
use crate::filter::{Filter, FilterLimits};
use crate::metrics::Kind;
use crate::server::auth::Grant;
use crate::server::limits::client_address::is_trusted;
use crate::server::limits::rates::address_key;
use crate::server::presence::is_name;
use crate::server::session::context::Context;
use crate::server::session::effect::Effect;
use crate::server::session::kept::{check_absent, check_from_start, has_received_ends, report_ended};
use crate::server::session::opening::{StreamHead, StreamOpening};
use crate::server::session::past::PastReport;
use crate::server::session::past::ReplayFrom;
use crate::server::session::rights::{may_see, with_own_channels};

/// Subprotocol to choose for a client of another dialect that offers a token as a subprotocol: browsers require that
/// one of the offered ones is chosen.
const AUTH_PROTOCOL: &str = "fanwire.auth";

impl Answer<'_, '_> {
    /// Reads the user name that a client chooses, if there is no authentication.
    pub(super) fn take_name(&mut self) -> Result<(), RouteOutcome> {
        if !self.cx.config.presence.is_on() || !self.cx.shared.auth.is_open() {
            return Ok(());
        }
        let Some((_, name)) = self.request.query_pairs().find(|(key, _)| key == "user") else {
            return Ok(());
        };
        if !is_name(&name) {
            let error = "user is empty, longer than 256 bytes or holds a control character";
            return Err(self.error(ErrorCode::InvalidQuery, error, &[]));
        }
        self.cx.effects.push(Effect::Named(name.into()));
        Ok(())
    }

    /// Counts a stream through a proxy for the client's own address. Refuses it if the address has reached its limit.
    pub(super) fn count_stream(&mut self) -> Result<(), RouteOutcome> {
        let config = self.cx.config;
        let (Some(max), Some(peer)) = (config.limits.connections_per_address, self.cx.view.peer()) else {
            return Ok(());
        };
        let Some(client) = self.client().filter(|_| is_trusted(peer, &config.trusted_proxies)) else {
            return Ok(());
        };
        if let Some(counted) = self.cx.shared.clients.addresses.enter(address_key(client), max) {
            self.cx.effects.push(Effect::Count(counted));
            return Ok(());
        }
        self.cx.shared.metrics.connections_refused.get_or_create(&Kind { kind: "address" }).inc();
        let error = format!("limit of {max} streams from one address reached");
        Err(self.error(HttpFault::Address, &error, &[("Retry-After", "5")]))
    }

    /// Refuses a stream while the server drains or is short of memory.
    pub(super) fn refuse_stream(&mut self) -> Option<RouteOutcome> {
        let (fault, error): (FaultStatus, _) = if self.cx.shared.is_draining() {
            (ErrorCode::Draining.into(), "server is shutting down")
        } else if self.cx.shared.is_short_of_memory() {
            (HttpFault::Memory.into(), "server is short of memory")
        } else {
            return None;
        };
        Some(self.error(fault, error, &[("Retry-After", "5")]))
    }

    /// Refuses a stream that requests too many kept logs, or ends one that requests a log that does not exist.
    pub(super) fn refuse_log(&mut self, stream: &SseRequest) -> Option<RouteOutcome> {
        let filters = std::slice::from_ref(&stream.filter);
        if stream.absent_is_over && check_absent(filters, self.cx).is_err() {
            // No content: an `EventSource` does not connect again.
            return Some(self.respond(204, &[], b""));
        }
        if let Some(ReplayFrom::After(since)) = &stream.from
            && has_received_ends(&stream.filter, since, self.cx)
        {
            return Some(self.respond(204, &[], b""));
        }
        if stream.from == Some(ReplayFrom::Start)
            && let Err(error) = check_from_start(filters, self.cx)
        {
            return Some(self.bad_query(&error));
        }
        None
    }

    /// Refuses a stream for an error in its query.
    pub(super) fn bad_query(&mut self, error: &ClientError) -> RouteOutcome {
        if error.code != ErrorCode::InvalidFilter {
            return self.error(error.code, &error.text, &[]);
        }
        self.cx.shared.metrics.fault(error.code.name());
        let mut body = json!({ "error": error.text, "code": error.code });
        if let Some(column) = error.column {
            body["column"] = json!(column);
        }
        self.json(400, &body)
    }

    /// Returns a request's filter with the client's own channels, or the refusal of one that is over a limit or beyond the
    /// grant.
    pub(super) fn allowed(&mut self, filter: Filter, grant: Option<&Grant>) -> Result<Filter, RouteOutcome> {
        if let Err(error) = filter.check(&FilterLimits::default()) {
            return Err(self.bad_query(&error.into()));
        }
        let Some(grant) = grant else { return Ok(filter) };
        with_own_channels(grant, filter)
            .and_then(|filter| may_see(grant, &filter).map(|()| filter))
            .map_err(|error| self.forbidden(&error.text))
    }

    /// Returns the part of a request's filter that its client may see, or a refusal as [`allowed`](Self::allowed) does.
    pub(super) fn interest(&mut self, filter: Filter, grant: Option<&Grant>) -> Result<Filter, RouteOutcome> {
        let filter = self.allowed(filter, grant)?;
        Ok(match grant {
            Some(grant) => grant.narrow(&filter),
            None => filter,
        })
    }

    pub(super) fn refuse_upgrade(&mut self, error: UpgradeError) -> RouteOutcome {
        self.error(error, &error.to_string(), error.headers())
    }

    pub(super) fn websocket(&mut self, dialect: Dialect, channel: String) -> RouteOutcome {
        let upgrade = match ws::check_upgrade(self.request) {
            Ok(upgrade) => upgrade,
            Err(error) => return self.refuse_upgrade(error),
        };
        if let Some(refusal) = self.refuse_stream() {
            return refusal;
        }
        let grant = match self.shown.clone() {
            Ok(grant) => grant,
            Err(denied) => return self.denied(denied),
        };
        // A native subprotocol overrides the path's dialect. The first one offered wins.
        let first_of = |known: &[&'static str]| {
            upgrade.protocols.iter().find_map(|offered| known.iter().find(|known| *known == offered).copied())
        };
        let native = first_of(&[native::PROTOCOL, lean::PROTOCOL]);
        let protocol = native.or_else(|| first_of(&[AUTH_PROTOCOL]));
        let dialect = if native.is_some() { Dialect::Native } else { dialect };
        let place = Place { channel: channel.into(), client: self.cx.rng.next_u128() as u64 };
        // A native client subscribes by messages.
        if dialect == Dialect::Native
            && let Err(error) = query::check(self.request, &[])
        {
            let error = format!("{error}; a WebSocket's filter goes into its subscribe");
            return self.error(ErrorCode::InvalidQuery, &error, &[]);
        }
        let query: Vec<(String, String)> = self.request.query_pairs().collect();
        let mut opening = match dialect.open(place, &query) {
            Ok(opening) => opening,
            Err(error) => return self.error(ErrorCode::InvalidQuery, &error, &[]),
        };
        if native == Some(lean::PROTOCOL) {
            opening.encoding = opening.encoding.lean();
        }
        if let Some(subscribe) = &mut opening.subscribe {
            match self.allowed(std::mem::take(&mut subscribe.filter), grant.as_deref()) {
                // The session narrows it.
                Ok(filter) => subscribe.filter = filter,
                Err(refusal) => return refusal,
            }
        }
        if let Err(refusal) = self.take_name().and_then(|()| self.count_stream()) {
            return refusal;
        }
        let deflate = upgrade.deflate.filter(|_| self.cx.config.compression);
        let mut out = Vec::with_capacity(192);
        ws::write_upgrade(&mut out, &upgrade.accept, protocol, deflate);
        self.cx.send(out);
        if let Some(PerMessageDeflate { context_takeover, window_bits: bits, .. }) = deflate {
            let compression = if context_takeover {
                Compression::ContextTakeover { bits }
            } else {
                Compression::NoContextTakeover { bits }
            };
            self.cx.effects.push(Effect::Compress(compression));
        }
        RouteOutcome::Ws(Box::new(opening), deflate, grant)
    }

    pub(super) fn sse(&mut self, encoding: Encoding) -> RouteOutcome {
        let grant = match self.grant() {
            Ok(grant) => grant,
            Err(refusal) => return refusal,
        };
        let mut stream = match SseRequest::read(self.request, encoding) {
            Ok(stream) => stream,
            Err(error) => return self.bad_query(&error),
        };
        stream.filter = match self.interest(stream.filter, grant.as_deref()) {
            Ok(filter) => filter,
            Err(refusal) => return refusal,
        };
        if let Some(refusal) = self.refuse_stream().or_else(|| self.refuse_log(&stream)) {
            return refusal;
        }
        if let Err(refusal) = self.take_name() {
            return refusal;
        }
        let is_head = self.request.method == Method::Head;
        // A response without a body does not end the connection.
        let connection = if self.keep_alive() { "keep-alive" } else { "close" };
        if !is_head && let Err(refusal) = self.count_stream() {
            return refusal;
        }
        let opening = self.opening(stream, grant);
        if is_head {
            let out = stream_head(&opening, Some(connection), self.cx);
            self.cx.send(out);
            return self.outcome();
        }
        begin_stream(opening, self.cx)
    }

    /// Returns the opening of a stream that is not refused.
    pub(super) fn opening(&mut self, stream: SseRequest, grant: Option<Arc<Grant>>) -> StreamOpening {
        let SseRequest { filter, encoding, from, on_lag, concat, .. } = stream;
        let is_gzip =
            self.cx.config.compression && deflate::AVAILABLE && self.request.accepts_encoding("gzip");
        let Responder { cors, keep_alive, received_at, .. } = self.responder();
        let head = StreamHead { cors, keep_alive, received_at };
        let (is_own_place, may_be_over) = (false, false);
        StreamOpening {
            filter,
            encoding,
            from,
            on_lag,
            concat,
            grant,
            is_gzip,
            is_own_place,
            may_be_over,
            head,
        }
    }
}

/// Returns the head of an event stream. `connection`: value of the header that replaces that of streams.
fn stream_head(opening: &StreamOpening, connection: Option<&'static str>, cx: &Context<'_>) -> Vec<u8> {
    let mut headers: Vec<(&str, &str)> = HEADERS.to_vec();
    headers.extend(opening.head.cors.iter().map(|(name, value)| (*name, value.as_str())));
    if cx.config.compression && deflate::AVAILABLE {
        headers.push(("Vary", "Accept-Encoding"));
    }
    if opening.is_gzip {
        headers.push(("Content-Encoding", "gzip"));
    }
    let date = http::date(cx.now.0);
    headers.push(("Date", &date));
    if let Some(connection) = connection {
        headers.retain(|(name, _)| *name != "Connection");
        headers.push(("Connection", connection));
    }
    let mut out = Vec::with_capacity(256);
    http::write_head(&mut out, 200, &headers);
    out
}

/// Returns whether the loop has read all events before a position.
fn has_read(place: &Position, cx: &Context<'_>) -> bool {
    cx.view.position().is_none_or(|read| {
        read.epoch() != place.epoch()
            || read.sequences().iter().zip(place.sequences()).all(|(read, place)| read >= place)
    })
}

/// Begins an event stream, or responds that it is over.
pub(crate) fn begin_stream(mut opening: StreamOpening, cx: &mut Context<'_>) -> RouteOutcome {
    match &opening.from {
        Some(ReplayFrom::After(since))
            if opening.may_be_over && has_received_ends(&opening.filter, since, cx) =>
        {
            let StreamHead { cors, keep_alive, received_at } = opening.head;
            let responder = Responder { cors, keep_alive, head_only: false, received_at };
            cx.send(responder.write_over());
            return if keep_alive { RouteOutcome::Response } else { RouteOutcome::Closed };
        }
        Some(ReplayFrom::After(Since::Position(place))) if opening.is_own_place && !has_read(place, cx) => {
            // The events after it are still to come: they are live ones.
            opening.from = None;
        }
        _ => {}
    }
    let mut out = stream_head(&opening, None, cx);
    let StreamOpening { filter, encoding, from, on_lag, concat, grant, is_gzip, is_own_place, .. } = opening;
    // Place to resume from if the stream breaks before its first event. A client that resumes gets its own id back:
    // code as in httpx-sse's manual keeps the id of the newest stream only, and would lose its place. A client that
    // requested the past gets none, because it has to receive the past first.
    let id = match &from {
        None => cx.place(grant.as_deref()),
        Some(ReplayFrom::After(place)) if is_own_place => cx.seal_for(place.clone(), grant.as_deref()),
        Some(ReplayFrom::After(place)) => Some(place.clone()),
        Some(ReplayFrom::Newest(_) | ReplayFrom::Start | ReplayFrom::Snapshot | ReplayFrom::Unknown) => None,
    };
    let retry = cx.config.retry.as_millis() as u64;
    if from.is_none() && cx.follows_interest() {
        // A client that has the head is to receive everything from then on.
        cx.effects.push(Effect::AwaitFollowed(filter.clone()));
    }
    if is_gzip {
        out.extend_from_slice(&deflate::GZIP_HEADER);
        cx.send(out);
        cx.effects.push(Effect::Compress(Compression::Gzip));
        out = Vec::new();
    }
    crate::codec::sse::encode_retry(&mut out, retry, id.map(|id| id.to_string()).as_deref());
    cx.send(out);
    let has_past = from.is_some();
    if let Some(ReplayFrom::After(since)) = &from
        && cx.is_ahead(since)
    {
        cx.effects.push(Effect::AwaitRead(since.clone()));
    }
    if let Some(from) = from {
        cx.hold_input();
        let (except, report) = (Vec::new(), PastReport::default());
        let filters = vec![filter.clone()];
        let merge = concat.as_ref().filter(|concat| concat.compacts);
        let merge = merge.map(|concat| Arc::clone(&concat.target));
        cx.effects.push(Effect::Replay { encoding, filters, except, from, report, merge });
    }
    if on_lag == OnLag::Concat {
        cx.effects.push(Effect::Concat(concat.map(|concat| concat.target)));
    }
    cx.effects.push(Effect::Interest { encoding, wishes: vec![(filter, on_lag)] });
    if !has_past {
        report_ended("", cx);
    }
    RouteOutcome::Sse(grant)
}

/// Returns whether a query's key names the id to resume after. Polyfills of `EventSource` write `lastEventId`,
/// `lastEventID` or `Last-Event-ID`.
fn is_last_event_id(key: &str) -> bool {
    let letters =
        key.bytes().filter(|byte| !matches!(byte, b'-' | b'_')).map(|byte| byte.to_ascii_lowercase());
    letters.eq(*b"lasteventid")
}

/// Names that the query of a `GET /sse` may have.
const KNOWN: [&str; 19] = [
    "type",
    "source",
    "stream",
    "execution",
    "correlation",
    "channel",
    "entity",
    "filter",
    "history",
    "from",
    "absent",
    "last_event_id",
    "event_name",
    "on_lag",
    "max_per_second",
    "compact",
    "concat",
    "snapshot",
    "lean",
];

/// Parameters of a `GET /sse`.
pub(super) struct SseRequest {
    pub(super) filter: Filter,
    encoding: Encoding,
    pub(super) from: Option<ReplayFrom>,
    /// Whether the stream ends at once if the log that the filter names does not exist.
    absent_is_over: bool,
    on_lag: OnLag,
    concat: Option<Concat>,
}

impl SseRequest {
    /// Returns the names that a query may have.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.into_iter()
    }

    fn read(request: &Request, encoding: Encoding) -> Result<Self, ClientError> {
        let filter = query::FilterQuery::read(request)?;
        let mut stream = Self::read_rest(request, encoding)
            .map_err(|error| ClientError::new(ErrorCode::InvalidQuery, error))?;
        stream.filter = filter;
        Ok(stream)
    }

    /// Reads the parameters other than the filter.
    pub(super) fn read_rest(request: &Request, mut encoding: Encoding) -> Result<Self, String> {
        let mut history = None;
        // An empty id counts as none (HTML, 9.2.4): a browser without an id sends no header, but other clients send an
        // empty one.
        let an_id = |id: &&str| !id.is_empty();
        let mut last_event_id = request.header("last-event-id").filter(an_id).map(str::to_owned);
        let (mut on_lag, mut max_per_second, mut compact, mut concat) = (None, None, None, None);
        let (mut snapshot, mut is_lean) = (false, false);
        let (mut from_start, mut absent_is_over) = (false, false);
        for (name, value) in request.query_pairs() {
            match name.as_str() {
                name if query::FilterQuery::takes(name) => {}
                "history" => {
                    let count = value.parse().map_err(|_| "history is not a number".to_owned())?;
                    history = Some(count);
                }
                // The browser sets the header on a reconnect, so it is newer than the query.
                name if is_last_event_id(name) => {
                    last_event_id = last_event_id.or(Some(value).filter(|id| an_id(&id.as_str())));
                }
                "event_name" if value == "message" => encoding = Encoding::NativeSseUnnamed,
                "on_lag" => on_lag = Some(value),
                "compact" => compact = Some(value),
                "concat" => concat = Some(value),
                "max_per_second" => {
                    let rate = value.parse().map_err(|_| "max_per_second is not a number".to_owned())?;
                    max_per_second = Some(rate);
                }
                "from" if value == "start" => from_start = true,
                "from" => return Err("from can only be start".to_owned()),
                "absent" if value == "204" => absent_is_over = true,
                "absent" => return Err("absent can only be 204".to_owned()),
                "snapshot" => snapshot = query::switch("snapshot", &value)?,
                "lean" => is_lean = query::switch("lean", &value)?,
                "event_name" => return Err("event_name can only be message".to_owned()),
                // Without this check, a typing error would open a stream of all events.
                name => query::unknown(name, &KNOWN)?,
            }
        }
        let from = match last_event_id.as_deref() {
            None if from_start => Some(ReplayFrom::Start),
            None => history.map(ReplayFrom::Newest).or(snapshot.then_some(ReplayFrom::Snapshot)),
            Some(id) => Some(id.parse().map_or(ReplayFrom::Unknown, ReplayFrom::After)),
        };
        let on_lag = OnLag::read(on_lag.as_deref(), max_per_second)?;
        let concat = Concat::read(compact.as_deref(), concat.as_deref(), on_lag)?;
        let encoding = if is_lean { encoding.lean() } else { encoding };
        Ok(Self { filter: Filter::new(), encoding, from, absent_is_over, on_lag, concat })
    }
}

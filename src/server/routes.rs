//! What is at which path, and the answers that need no connection of their own.
//!
//! Imports every lower room. Always: an answer is complete and has its length, but a stream's head; errors
//! are JSON `{"error": …}` and say what to do where that is not plain; who may not have an answer gets 401 where
//! they have shown nothing that is good, 403 where that allows less.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use super::address::{client_of, is_trusted};
use super::auth::{Denied, Grant, Revocation, Shown};
use super::connection::{Answer as PublishAnswer, Context, Effect, NotDone, ReplayFrom, Work};
use super::explain;
use super::limits::address_key;
use super::page;
use super::publish;
use super::rights::may_see;
use super::wheel::Tick;
use super::workers::LaneLimits;
use crate::bridge::BridgeOutcome;
use crate::codec::deflate;
use crate::codec::http::{self, Method, Request};
use crate::codec::ws::{self, PerMessageDeflate};
use crate::dialect::sse_bridge::HEADERS;
use crate::dialect::{Dialect, Encoding, OnLag, Opening, Place, shortened, split_entity};
use crate::engine::Refused;
use crate::event::{Event, EventId, Position};
use crate::feed::Compression;
use crate::filter::Filter;
use crate::metrics::Kind;
use crate::sync::lock;

/// What a request made of its connection.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Answered; the connection may go on.
    Response,
    /// Answered for the last time.
    Closed,
    /// It speaks WebSocket from here, like this; messages may be compressed where that was agreed on; with these
    /// rights.
    Ws(Box<Opening>, Option<PerMessageDeflate>, Option<Arc<Grant>>),
    /// It is an event stream from here, with these rights.
    Sse(Option<Arc<Grant>>),
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The workers' lane for what other nodes are told.
const NODES: &str = "nodes";

/// How long an operator waits for the engine to take a revocation.
const TELL_TICKS: Tick = 100;

/// Before the name of a bridge's route.
const BRIDGE: &str = "/bridge/";

/// The page loads nothing from elsewhere, and talks to its own server only.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                           connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The subprotocol offered.
const PROTOCOL: &str = "fanwire.v1";

/// A subprotocol to offer beside a token's, where another dialect is spoken: browsers want one of theirs chosen.
const AUTH_PROTOCOL: &str = "fanwire.auth";

/// Writes an error as JSON.
pub(crate) fn write_error(
    out: &mut Vec<u8>,
    status: u16,
    error: &str,
    headers: &[(&str, &str)],
    keep_alive: bool,
) {
    let body = json!({ "error": error }).to_string();
    let mut all = vec![JSON];
    all.extend_from_slice(headers);
    http::write_response(out, status, &all, body.as_bytes(), keep_alive, false);
}

struct Answer<'a, 'b> {
    request: &'a Request,
    shown: Shown,
    cx: &'a mut Context<'b>,
    /// The CORS headers that go with every answer to this origin.
    cors: Vec<(&'static str, String)>,
}

impl Answer<'_, '_> {
    fn respond(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> Outcome {
        let mut all: Vec<(&str, &str)> = headers.to_vec();
        all.extend(self.cors.iter().map(|(name, value)| (*name, value.as_str())));
        let keep_alive = self.keep_alive();
        let head_only = self.request.method == Method::Head;
        let mut out = Vec::with_capacity(256 + body.len());
        http::write_response(&mut out, status, &all, body, keep_alive, head_only);
        self.cx.send(out);
        self.outcome()
    }

    fn keep_alive(&self) -> bool {
        self.request.keep_alive && !self.cx.shared.is_draining()
    }

    /// For an answer that comes later.
    fn pen(&mut self) -> Pen {
        Pen { cors: std::mem::take(&mut self.cors), keep_alive: self.keep_alive() }
    }

    fn outcome(&self) -> Outcome {
        if self.keep_alive() { Outcome::Response } else { Outcome::Closed }
    }

    fn json(&mut self, status: u16, body: &serde_json::Value) -> Outcome {
        self.respond(status, &[JSON], body.to_string().as_bytes())
    }

    fn error(&mut self, status: u16, label: &'static str, error: &str, headers: &[(&str, &str)]) -> Outcome {
        self.cx.shared.metrics.fault(label);
        let mut all = vec![JSON];
        all.extend_from_slice(headers);
        self.respond(status, &all, json!({ "error": error }).to_string().as_bytes())
    }
}

/// Writes the answer to a request that was read some time ago.
#[derive(Clone)]
struct Pen {
    cors: Vec<(&'static str, String)>,
    keep_alive: bool,
}

impl Pen {
    fn write(&self, status: u16, headers: &[(&str, &str)], body: &str) -> Bytes {
        let mut all = vec![JSON];
        all.extend_from_slice(headers);
        all.extend(self.cors.iter().map(|(name, value)| (*name, value.as_str())));
        let mut out = Vec::with_capacity(192 + body.len());
        http::write_response(&mut out, status, &all, body.as_bytes(), self.keep_alive, false);
        out.into()
    }

    fn error(&self, status: u16, error: &str, headers: &[(&str, &str)]) -> Bytes {
        self.write(status, headers, &json!({ "error": error }).to_string())
    }
}

/// Answers one request of whoever has shown this.
pub(crate) fn answer(request: &Request, body: &[u8], shown: Shown, cx: &mut Context<'_>) -> Outcome {
    let cors = cors_headers(request, cx);
    let mut answer = Answer { request, shown, cx, cors };
    if answer.cx.config.echo {
        return answer.websocket(Dialect::Native, String::new());
    }
    let endpoint = answer.cx.config.endpoint(&request.path);
    let allowed = match request.path.as_str() {
        "/" | "/index.html" | "/healthz" | "/readyz" | "/metrics" | "/api/stats" | "/api/explain"
        | "/sse" | "/sse/events" => "GET, HEAD, OPTIONS",
        "/bridge" => "GET, HEAD, OPTIONS",
        path if path.starts_with(BRIDGE) => "POST, OPTIONS",
        "/publish" | "/ticket" | "/api/revoke" => "POST, OPTIONS",
        _ if endpoint.is_some() => "GET, HEAD, OPTIONS",
        path => {
            let error = format!("nothing at {}: the page is at /, streams at /ws and /sse", shortened(path));
            return answer.error(404, "not_found", &error, &[]);
        }
    };
    if let Some(refusal) = answer.refuse_origin() {
        return refusal;
    }
    let is_upgrade = request.header_has_token("upgrade", "websocket");
    match (request.path.as_str(), request.method) {
        (_, Method::Options) => answer.preflight(allowed),
        ("/publish", Method::Post) => answer.publish(body),
        ("/bridge", Method::Get | Method::Head) => {
            if let Err(refusal) = answer.grant() {
                return refusal;
            }
            let routes = answer.cx.shared.bridge.list_routes();
            answer.json(200, &json!({ "routes": routes }))
        }
        (path, Method::Post) if path.starts_with(BRIDGE) => answer.bridge(&path[BRIDGE.len()..], body),
        ("/ticket", Method::Post) => answer.ticket(),
        ("/api/revoke", Method::Post) => answer.revoke(body),
        (_, Method::Get) if endpoint.is_some() && is_upgrade => {
            let (dialect, channel) = endpoint.unwrap_or((Dialect::Native, String::new()));
            answer.websocket(dialect, channel)
        }
        ("/sse", Method::Get | Method::Head) => answer.sse(Encoding::NativeSse),
        ("/sse/events", Method::Get | Method::Head) => answer.sse(Encoding::NativeSseUnnamed),
        ("/" | "/index.html", Method::Get | Method::Head) => answer.respond(
            200,
            &[
                ("Content-Type", "text/html; charset=utf-8"),
                ("Content-Security-Policy", PAGE_POLICY),
                ("Cache-Control", "no-cache"),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
            ],
            page::INDEX.as_bytes(),
        ),
        ("/healthz", Method::Get | Method::Head) => answer.json(200, &json!({ "status": "ok" })),
        ("/readyz", Method::Get | Method::Head) => {
            if let Some(why) = answer.cx.shared.not_ready() {
                let body = json!({ "status": why }).to_string();
                answer.respond(503, &[JSON, ("Retry-After", "5")], body.as_bytes())
            } else {
                answer.json(200, &json!({ "status": "ready" }))
            }
        }
        ("/metrics", Method::Get | Method::Head) => {
            if let Err(refusal) = answer.entitled("seeing metrics", Grant::sees_metrics) {
                return refusal;
            }
            let text = answer.cx.shared.metrics.text();
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            answer.respond(200, &[("Content-Type", kind)], text.as_bytes())
        }
        ("/api/stats", Method::Get | Method::Head) => {
            if let Err(refusal) = answer.entitled("the api", Grant::is_admin) {
                return refusal;
            }
            let stats = answer.cx.shared.stats();
            answer.json(200, &stats)
        }
        ("/api/explain", Method::Get | Method::Head) => {
            if let Err(refusal) = answer.entitled("the api", Grant::is_admin) {
                return refusal;
            }
            match explain::explain(answer.cx.shared, answer.request.query_pairs()) {
                Ok(journey) => answer.json(200, &journey),
                Err((status, error)) => answer.error(status, "explain", &error, &[]),
            }
        }
        // Not an upgrade: says what is missing.
        (_, Method::Get) if endpoint.is_some() => answer.websocket(Dialect::Native, String::new()),
        (path, _) => {
            let error = format!("{path} takes {allowed}");
            answer.error(405, "method_not_allowed", &error, &[("Allow", allowed)])
        }
    }
}

fn cors_headers(request: &Request, cx: &Context<'_>) -> Vec<(&'static str, String)> {
    let origins = &cx.config.cors_origins;
    if origins.is_empty() {
        return Vec::new();
    }
    let mut headers = vec![("Vary", "Origin".to_owned())];
    if let Some(origin) = request.header("origin")
        && origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    {
        headers.push(("Access-Control-Allow-Origin", origin.to_owned()));
        // A page that is named may use its visitor's cookie; `*` names nobody.
        let is_named = origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin));
        if is_named && !cx.shared.auth.is_open() {
            headers.push(("Access-Control-Allow-Credentials", "true".to_owned()));
        }
    }
    headers
}

impl Answer<'_, '_> {
    fn preflight(&mut self, allowed: &str) -> Outcome {
        let headers = [
            ("Allow", allowed),
            ("Access-Control-Allow-Methods", allowed),
            (
                "Access-Control-Allow-Headers",
                "Content-Type, Last-Event-ID, Authorization, Traceparent, Tracestate",
            ),
            ("Access-Control-Max-Age", "86400"),
        ];
        let shown = if self.cors.len() > 1 { headers.len() } else { 1 };
        self.respond(204, &headers[..shown], b"")
    }

    /// The rights of whoever asks: `None` is all, for there is no authentication. Else the refusal.
    fn grant(&mut self) -> Result<Option<Arc<Grant>>, Outcome> {
        match &self.shown {
            Ok(None) if !self.cx.shared.auth.is_open() => Err(self.denied(Denied::Missing)),
            Ok(grant) => Ok(grant.clone()),
            Err(denied) => Err(self.denied(*denied)),
        }
    }

    fn entitled(&mut self, what: &str, has: impl Fn(&Grant) -> bool) -> Result<Option<Arc<Grant>>, Outcome> {
        match self.grant()? {
            Some(grant) if !has(&grant) => {
                Err(self.forbidden(&format!("beyond what the token allows: {what}")))
            }
            grant => Ok(grant),
        }
    }

    fn denied(&mut self, denied: Denied) -> Outcome {
        self.cx.shared.metrics.fault(denied.label());
        let body = json!({ "error": denied.to_string(), "code": denied.code() });
        self.respond(401, &[JSON, denied.challenge()], body.to_string().as_bytes())
    }

    fn forbidden(&mut self, error: &str) -> Outcome {
        self.cx.shared.metrics.fault("forbidden");
        self.json(403, &json!({ "error": error, "code": "forbidden" }))
    }

    /// A ticket with the rights of whoever asks.
    fn ticket(&mut self) -> Outcome {
        let made = match self.grant() {
            Err(refusal) => return refusal,
            // Where nobody need show anything, a client that is made to show a ticket goes on all the same.
            Ok(None) => Some(("none-needed".to_owned(), 30)),
            Ok(Some(grant)) => self.cx.shared.auth.make_ticket(&grant, self.cx.now),
        };
        match made {
            Some((ticket, seconds)) => {
                let body = json!({ "ticket": ticket, "expires_in": seconds }).to_string();
                self.respond(200, &[JSON, ("Cache-Control", "no-store")], body.as_bytes())
            }
            None => self.error(503, "too_many_tickets", "too many tickets are out", &[("Retry-After", "5")]),
        }
    }

    fn revoke(&mut self, body: &[u8]) -> Outcome {
        if let Err(refusal) = self.entitled("the api", Grant::is_admin) {
            return refusal;
        }
        if self.cx.shared.auth.is_open() {
            return self.error(400, "not_configured", "there is no authentication to revoke", &[]);
        }
        let one = std::str::from_utf8(body).map_err(|_| "not UTF-8".to_owned()).and_then(Revocation::read);
        let one = match one {
            Ok(one) => one,
            Err(error) => return self.error(400, "invalid_revocation", &error, &[]),
        };
        match self.cx.shared.auth.revoke(one.clone(), self.cx.now) {
            Ok(count) => {
                self.cx.shared.wake_loops();
                if self.cx.shared.engine.is_some() {
                    self.revoke_everywhere(one, count)
                } else {
                    self.json(200, &json!({ "revoked": count }))
                }
            }
            Err(max) => {
                let error = format!("{max} revocations are as many as are kept: write some to the file");
                self.error(507, "too_many_revocations", &error, &[])
            }
        }
    }

    /// Tells the other nodes too, and answers when the engine has it.
    fn revoke_everywhere(&mut self, one: Revocation, count: usize) -> Outcome {
        let failed = |pen: &Pen, why: &str| {
            pen.error(
                503,
                &format!("revoked on this node; other nodes may not know: {why}"),
                &[("Retry-After", "1")],
            )
        };
        let shared = Arc::clone(self.cx.shared);
        let pen = self.pen();
        let job = {
            let pen = pen.clone();
            Box::new(move || match shared.tell_revoked(one) {
                Ok(()) => pen.write(200, &[], &json!({ "revoked": count }).to_string()),
                Err(error) => failed(&pen, &error.to_string()),
            })
        };
        let instead = Box::new(move |_| failed(&pen, "the engine has not answered in time"));
        let limits = LaneLimits { threads: 1, waiting: 1000 };
        let patience = TELL_TICKS;
        self.work(Work { lane: NODES.to_owned(), limits, patience, job, instead })
    }

    fn work(&mut self, work: Work) -> Outcome {
        self.cx.hold_input();
        self.cx.effects.push(Effect::Work(work));
        self.outcome()
    }

    /// Where the client is, where something is limited by that.
    fn client(&self) -> Option<IpAddr> {
        Some(client_of(self.request, self.cx.peer?, &self.cx.config.trusted_proxies))
    }

    /// Counts a stream that comes through a proxy for the client's own address, if there may be one more.
    fn count_stream(&mut self) -> Result<(), Outcome> {
        let config = self.cx.config;
        let (Some(max), Some(peer)) = (config.limits.connections_per_address, self.cx.peer) else {
            return Ok(());
        };
        let Some(client) = self.client().filter(|_| is_trusted(peer, &config.trusted_proxies)) else {
            return Ok(());
        };
        if let Some(counted) = self.cx.shared.addresses.enter(address_key(client), max) {
            self.cx.effects.push(Effect::Count(counted));
            return Ok(());
        }
        self.cx.shared.metrics.connections_refused.get_or_create(&Kind { kind: "address" }).inc();
        let error = format!("limit of {max} streams from one address reached");
        Err(self.error(429, "address", &error, &[("Retry-After", "5")]))
    }

    /// Refuses a client that publishes too often.
    fn admit_publish(&mut self, grant: Option<&Grant>) -> Result<(), Outcome> {
        let limits = &self.cx.config.limits;
        let Some(max) = limits.publishes else { return Ok(()) };
        let who = match grant.map(Grant::subject).filter(|subject| !subject.is_empty()) {
            Some(subject) => format!("subject {subject}"),
            None => self.client().map_or_else(String::new, |address| address_key(address).to_string()),
        };
        let admitted = lock(&self.cx.shared.publishers).admit(who, self.cx.tick, limits.window, max);
        admitted.map_err(|seconds| {
            let window = self.cx.config.limits.window.as_secs_f64();
            let error = format!("rate limit of {max} publishes in {window} s reached");
            self.error(429, "rate_limited", &error, &[("Retry-After", &seconds.to_string())])
        })
    }

    fn publish(&mut self, body: &[u8]) -> Outcome {
        let grant = match self.entitled("publishing", Grant::publishes) {
            Ok(grant) => grant,
            Err(refusal) => return refusal,
        };
        if let Err(refusal) = self.admit_publish(grant.as_deref()) {
            return refusal;
        }
        let kind = self.request.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let config = self.cx.config;
        let check = |event: &Event| config.check_event(event);
        let cloud_events = publish::read_cloud_events(self.request, &kind, body, &check);
        let lines = match kind.as_str() {
            _ if cloud_events.is_some() => false,
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => true,
            // What `curl -d` sends when it is told nothing.
            "" | "application/json" | "application/x-www-form-urlencoded" | "text/plain" | "text/json" => {
                false
            }
            other => {
                let error = format!(
                    "content type {} is not taken: send application/json, application/x-ndjson or CloudEvents",
                    shortened(other)
                );
                return self.error(415, "media_type", &error, &[]);
            }
        };
        let events = match cloud_events.unwrap_or_else(|| publish::read_body(body, lines, &check)) {
            Ok(events) => events,
            Err(fault) => {
                self.cx.shared.metrics.fault(fault.label);
                return self.json(400, &json!({ "error": fault.error, "line": fault.line }));
            }
        };
        // The request's trace is that of its events, but of those that have one of their own.
        let events: Vec<Event> = match self.request.header("traceparent") {
            None => events,
            Some(parent) => {
                let state = self.request.header("tracestate");
                events.into_iter().map(|event| event.traced(parent, state)).collect()
            }
        };
        let beyond = grant.iter().find_map(|grant| {
            let mut refusals = events.iter().filter_map(|event| grant.may_publish(event).err());
            refusals.next()
        });
        if let Some(what) = beyond {
            return self.forbidden(&format!("beyond what the token allows: {what}"));
        }
        let accepted = events.len();
        self.cx.shared.metrics.events_published.inc_by(accepted as u64);
        let pen = self.pen();
        if self.cx.shared.engine.is_some() {
            // Answers keep the order of the requests.
            self.cx.hold_input();
        }
        let answer = move |outcome: Result<Option<EventId>, Refused>| {
            Some(match outcome {
                Ok(id) => {
                    let id = id.map(|id| id.to_string());
                    pen.write(200, &[], &json!({ "accepted": accepted, "last_event_id": id }).to_string())
                }
                Err(why) => pen.error(503, why.text(), &[("Retry-After", "1")]),
            })
        };
        self.cx.effects.push(Effect::Publish { events, answer: PublishAnswer(Box::new(answer)) });
        self.outcome()
    }

    /// Routes a message of another protocol. The handler runs in a thread of the protocol's own.
    fn bridge(&mut self, protocol: &str, body: &[u8]) -> Outcome {
        // What comes in is told on the bus, so the right is that to publish.
        let told = format!("protocol.{protocol}");
        if let Err(refusal) = self.entitled("the bridge", |grant| grant.may_publish_type(&told)) {
            return refusal;
        }
        let Ok(message) = simdutf8::basic::from_utf8(body) else {
            return self.error(400, "bridge_malformed", "message is not valid UTF-8", &[]);
        };
        let shared = Arc::clone(self.cx.shared);
        shared.metrics.bridged.inc();
        // All that is unknown shares a lane, for its names are strangers'.
        let lane =
            if shared.bridge.has_route(protocol) { format!("bridge/{protocol}") } else { String::new() };
        let config = Arc::clone(self.cx.config);
        let limits = config.bridge.lane();
        let (pen, protocol, message) = (self.pen(), protocol.to_owned(), message.to_owned());
        let job = {
            let (pen, shared) = (pen.clone(), Arc::clone(&shared));
            Box::new(move || {
                let answer = shared.route(&config, &protocol, &message);
                let (status, label) = match answer.outcome() {
                    BridgeOutcome::Answered => (200, ""),
                    BridgeOutcome::Unknown => (404, "bridge_unknown"),
                    BridgeOutcome::Malformed => (400, "bridge_malformed"),
                    BridgeOutcome::Failed => (500, "bridge_failed"),
                };
                if !label.is_empty() {
                    shared.metrics.fault(label);
                }
                pen.write(status, &[], answer.json())
            })
        };
        let instead = Box::new(move |why| match why {
            NotDone::Busy => {
                shared.metrics.fault("bridge_busy");
                pen.error(
                    503,
                    "too many messages of this protocol wait for its handler",
                    &[("Retry-After", "1")],
                )
            }
            NotDone::Late => {
                shared.metrics.fault("bridge_late");
                pen.error(504, "the handler has not answered in time: it may still be at work", &[])
            }
        });
        let patience = self.cx.config.bridge_ticks();
        self.work(Work { lane, limits, patience, job, instead })
    }

    /// A page from elsewhere, where only some may speak to us. Whether it may read what it gets is `cors_origin`'s.
    fn refuse_origin(&mut self) -> Option<Outcome> {
        let allowed = &self.cx.config.allowed_origins;
        let origin = self.request.header("origin").filter(|_| !allowed.is_empty())?;
        let is_speech = !matches!(self.request.method, Method::Options)
            && (self.request.path == "/publish"
                || self.request.path.starts_with("/bridge")
                || self.request.path.starts_with("/sse")
                || self.cx.config.endpoint(&self.request.path).is_some());
        let is_own = origin.split_once("://").is_some_and(|(_, host)| {
            self.request.header("host").is_some_and(|own| own.eq_ignore_ascii_case(host))
        });
        let is_allowed = allowed.iter().any(|one| one == "*" || one.eq_ignore_ascii_case(origin));
        if !is_speech || is_own || is_allowed {
            return None;
        }
        let error = format!("origin {} is not among those allowed", shortened(origin));
        Some(self.error(403, "origin", &error, &[]))
    }

    /// Whether no new stream is taken for now.
    fn refuse_stream(&mut self) -> Option<Outcome> {
        let (label, error) = if self.cx.shared.is_draining() {
            ("draining", "server is shutting down")
        } else if self.cx.shared.is_short_of_memory() {
            ("memory", "server is short of memory")
        } else {
            return None;
        };
        Some(self.error(503, label, error, &[("Retry-After", "5")]))
    }

    fn websocket(&mut self, dialect: Dialect, channel: String) -> Outcome {
        let upgrade = match ws::check_upgrade(self.request) {
            Ok(upgrade) => upgrade,
            Err(error) => {
                return self.error(error.status(), error.label(), &error.to_string(), error.headers());
            }
        };
        if let Some(refusal) = self.refuse_stream() {
            return refusal;
        }
        let grant = match self.shown.clone() {
            Ok(grant) => grant,
            Err(denied) => return self.denied(denied),
        };
        let offers = |protocol: &str| upgrade.protocols.iter().any(|offered| offered == protocol);
        let protocol = [PROTOCOL, AUTH_PROTOCOL].into_iter().find(|protocol| offers(protocol));
        // Who offers the native subprotocol speaks it, wherever it comes.
        let dialect = if protocol == Some(PROTOCOL) { Dialect::Native } else { dialect };
        let place = Place { channel: channel.into(), client: self.cx.rng.next_u128() as u64 };
        let query: Vec<(String, String)> = self.request.query_pairs().collect();
        let opening = match dialect.open(place, &query) {
            Ok(opening) => opening,
            Err(error) => return self.error(400, "invalid_query", &error, &[]),
        };
        if let Some(subscribe) = &opening.subscribe
            && let Err(error) = subscribe.filter.check(&self.cx.config.filter_limits())
        {
            return self.error(400, "invalid_filter", &error.to_string(), &[]);
        }
        if let (Some(subscribe), Some(grant)) = (&opening.subscribe, &grant)
            && let Err(error) = may_see(grant, &subscribe.filter)
        {
            return self.forbidden(&error.text);
        }
        if let Err(refusal) = self.count_stream() {
            return refusal;
        }
        let deflate = upgrade.deflate.filter(|_| self.cx.config.compression);
        let mut out = Vec::with_capacity(192);
        ws::write_upgrade(&mut out, &upgrade.accept, protocol, deflate);
        self.cx.send(out);
        if let Some(PerMessageDeflate { context_takeover, window_bits: bits }) = deflate {
            let compression =
                if context_takeover { Compression::Messages { bits } } else { Compression::Alone { bits } };
            self.cx.effects.push(Effect::Compress(compression));
        }
        Outcome::Ws(Box::new(opening), deflate, grant)
    }

    fn sse(&mut self, encoding: Encoding) -> Outcome {
        let grant = match self.grant() {
            Ok(grant) => grant,
            Err(refusal) => return refusal,
        };
        let mut stream = match StreamRequest::read(self.request, encoding) {
            Ok(stream) => stream,
            Err(error) => return self.error(400, "invalid_query", &error, &[]),
        };
        if let Err(error) = stream.filter.check(&self.cx.config.filter_limits()) {
            return self.error(400, "invalid_filter", &error.to_string(), &[]);
        }
        if let Some(grant) = &grant {
            if let Err(error) = may_see(grant, &stream.filter) {
                return self.forbidden(&error.text);
            }
            stream.filter = grant.narrow(&stream.filter);
        }
        if let Some(refusal) = self.refuse_stream() {
            return refusal;
        }
        let mut headers: Vec<(&str, &str)> = HEADERS.to_vec();
        headers.extend(self.cors.iter().map(|(name, value)| (*name, value.as_str())));
        let gzip = self.cx.config.compression && deflate::AVAILABLE && self.request.accepts_encoding("gzip");
        if self.cx.config.compression && deflate::AVAILABLE {
            headers.push(("Vary", "Accept-Encoding"));
        }
        if gzip {
            headers.push(("Content-Encoding", "gzip"));
        }
        let mut out = Vec::with_capacity(256);
        http::write_head(&mut out, 200, &headers);
        if self.request.method == Method::Head {
            self.cx.send(out);
            return Outcome::Closed;
        }
        if let Err(refusal) = self.count_stream() {
            return refusal;
        }
        // Where the browser resumes if the stream breaks before its first event; who asked for the past has
        // that to see first.
        let id = self.cx.position.as_ref().filter(|_| stream.from.is_none()).map(Position::to_string);
        let retry = self.cx.config.retry.as_millis() as u64;
        if gzip {
            out.extend_from_slice(&deflate::GZIP_HEADER);
            self.cx.send(out);
            self.cx.effects.push(Effect::Compress(Compression::Gzip));
            out = Vec::new();
        }
        crate::codec::sse::encode_retry(&mut out, retry, id.as_deref());
        self.cx.send(out);
        if let Some(from) = stream.from {
            self.cx.hold_input();
            let (encoding, filter) = (stream.encoding, stream.filter.clone());
            self.cx.effects.push(Effect::Replay { encoding, filter, except: Vec::new(), from });
        }
        self.cx.effects.push(Effect::Interest {
            encoding: stream.encoding,
            wishes: vec![(stream.filter, stream.on_lag)],
        });
        Outcome::Sse(grant)
    }
}

/// What a `GET /sse` asks for.
struct StreamRequest {
    filter: Filter,
    encoding: Encoding,
    from: Option<ReplayFrom>,
    on_lag: OnLag,
}

impl StreamRequest {
    fn read(request: &Request, mut encoding: Encoding) -> Result<Self, String> {
        let mut lists: [Vec<String>; 6] = Default::default();
        let mut entities = Vec::new();
        let mut history = None;
        let mut last_event_id = request.header("last-event-id").map(str::to_owned);
        let (mut on_lag, mut max_per_second, mut snapshot) = (None, None, false);
        for (name, value) in request.query_pairs() {
            match name.as_str() {
                "type" => lists[0].push(value),
                "source" => lists[1].push(value),
                "stream" => lists[2].push(value),
                "execution" => lists[3].push(value),
                "correlation" => lists[4].push(value),
                "channel" => lists[5].push(value),
                "entity" => entities.push(split_entity(&value)),
                "history" => {
                    let count = value.parse().map_err(|_| "history is not a number".to_owned())?;
                    history = Some(count);
                }
                // The header is the browser's own, and newer than the query it was opened with.
                "last_event_id" => last_event_id = last_event_id.or(Some(value)),
                "event_name" if value == "message" => encoding = Encoding::NativeSseUnnamed,
                "on_lag" => on_lag = Some(value),
                "max_per_second" => {
                    let rate = value.parse().map_err(|_| "max_per_second is not a number".to_owned())?;
                    max_per_second = Some(rate);
                }
                "snapshot" => snapshot = matches!(value.as_str(), "" | "1" | "true"),
                "event_name" => return Err("event_name can only be message".to_owned()),
                // What authentication reads, and a cache's key.
                "token" | "access_token" | "ticket" => {}
                name if name.starts_with('_') => {}
                // A slip of the pen would otherwise be a stream of everything.
                name => {
                    let known = "type, source, stream, execution, correlation, channel, entity, history, \
                                 last_event_id, event_name, on_lag, max_per_second or snapshot";
                    return Err(format!("'{}' is none of {known}", shortened(name)));
                }
            }
        }
        let [types, sources, streams, executions, correlations, channels] = lists;
        let filter = Filter::new()
            .types(types)
            .sources(sources)
            .streams(streams)
            .executions(executions)
            .correlations(correlations)
            .channels(channels)
            .entities(entities);
        let from = match last_event_id.as_deref() {
            Some("") | None => history.map(ReplayFrom::Newest).or(snapshot.then_some(ReplayFrom::Snapshot)),
            Some(id) => Some(id.parse().map_or(ReplayFrom::Unknown, ReplayFrom::After)),
        };
        let on_lag = OnLag::read(on_lag.as_deref(), max_per_second)?;
        Ok(Self { filter, encoding, from, on_lag })
    }
}

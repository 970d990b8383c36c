//! Routes of HTTP requests, and the responses that need no connection of their own.
//!
//! [`streams`] has the requests that become streams, [`events`] pages of the past, [`posts`] the requests that change something,
//! [`runs`] those that publish and become streams, [`purge`] removes kept logs, [`query`] has the checks of queries.
//!
//! Always:
//! - A response is complete and has its length, except a stream's head.
//! - Errors are JSON `{"error": …}`, with the remedy if it is not obvious.
//! - A client without valid credentials gets 401, a client with insufficient rights 403.

mod events;
mod posts;
mod purge;
mod query;
mod runs;
mod streams;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

pub(crate) use self::streams::begin_stream;
use super::door::Door;
use super::explain;
use super::operator;
use super::page;
use super::refusal::FaultStatus;
use crate::codec::http::{self, Method, Request};
use crate::codec::ws::{self, PerMessageDeflate, UpgradeError};
use crate::dialect::{Dialect, Encoding, ErrorCode, HttpFault, Opening, native, shortened};
use crate::event::{Timestamp, held_frame_bytes};
use crate::metrics::Exposition;
use crate::server::auth::{Denied, Grant, Shown};
use crate::server::limits::bodies::BodyOwner;
use crate::server::limits::client_address::client_of;
use crate::server::limits::rates::address_key;
use crate::server::origin;
use crate::server::session::context::Context;
use crate::server::session::presence_query;
use crate::server::session::server_info::server_info;

/// Effect of a request on its connection.
#[derive(Debug)]
pub(crate) enum RouteOutcome {
    /// The response is sent; the connection stays open.
    Response,
    /// The response is sent; the connection closes.
    Closed,
    /// The response comes later, and may be an event stream.
    Pending,
    /// The connection becomes a WebSocket with this opening, the compression agreed on, and these rights.
    Ws(Box<Opening>, Option<PerMessageDeflate>, Option<Arc<Grant>>),
    /// The connection becomes an event stream with these rights.
    Sse(Option<Arc<Grant>>),
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Instructions for one byte of a response's body, to gather and write it.
const ANSWER_INSTRUCTIONS: usize = 30;

/// Path of a bridge's route, before its name.
const BRIDGE: &str = "/bridge/";

/// Path of a run, before the name of its stream.
const RUNS: &str = "/runs/";

/// Path of a channel's presence, before its name.
const PRESENCE: &str = "/api/presence/";

/// Appends an error as JSON and closes the connection after it.
pub(crate) fn write_error(out: &mut Vec<u8>, status: u16, error: &str, now: Timestamp) {
    let body = json!({ "error": error }).to_string();
    let date = http::date(now.0);
    http::write_response(out, status, &[JSON, ("Date", &date)], body.as_bytes(), false, false);
}

/// Appends an error as [`write_error`] does, with `Retry-After` in seconds.
pub(crate) fn write_later(out: &mut Vec<u8>, status: u16, error: &str, seconds: u64, now: Timestamp) {
    let body = json!({ "error": error }).to_string();
    let (date, after) = (http::date(now.0), seconds.to_string());
    let headers = [JSON, ("Date", date.as_str()), ("Retry-After", after.as_str())];
    http::write_response(out, status, &headers, body.as_bytes(), false, false);
}

struct Answer<'a, 'b> {
    request: &'a Request,
    shown: Shown,
    cx: &'a mut Context<'b>,
    /// CORS headers for this origin, which go with every response.
    cors: Vec<(&'static str, String)>,
}

impl Answer<'_, '_> {
    fn respond(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> RouteOutcome {
        self.cx.budget.spend_bytes(body.len(), ANSWER_INSTRUCTIONS);
        self.send_body(status, headers, body)
    }

    /// Responds with a body that was charged before.
    fn send_body(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> RouteOutcome {
        let date = http::date(self.cx.now.0);
        let mut all: Vec<(&str, &str)> = headers.to_vec();
        all.push(("Date", &date));
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

    /// Returns a writer for a later response.
    fn responder(&mut self) -> Responder {
        Responder {
            cors: std::mem::take(&mut self.cors),
            keep_alive: self.keep_alive(),
            head_only: self.request.method == Method::Head,
            received_at: self.cx.now,
        }
    }

    fn outcome(&self) -> RouteOutcome {
        if self.keep_alive() { RouteOutcome::Response } else { RouteOutcome::Closed }
    }

    fn json(&mut self, status: u16, body: &serde_json::Value) -> RouteOutcome {
        self.respond(status, &[JSON], body.to_string().as_bytes())
    }

    fn error(
        &mut self,
        fault: impl Into<FaultStatus>,
        error: &str,
        headers: &[(&str, &str)],
    ) -> RouteOutcome {
        let FaultStatus { status, label } = fault.into();
        self.cx.shared.metrics.fault(label);
        let mut all = vec![JSON];
        all.extend_from_slice(headers);
        self.respond(status, &all, json!({ "error": error }).to_string().as_bytes())
    }
}

/// Writer of the response to a request that was read earlier.
#[derive(Clone)]
struct Responder {
    cors: Vec<(&'static str, String)>,
    keep_alive: bool,
    /// Whether the response has no body, because the request was a `HEAD`.
    head_only: bool,
    /// Time when the request was read: the response's `Date`, at most a few seconds old.
    received_at: Timestamp,
}

impl Responder {
    fn write(&self, status: u16, headers: &[(&str, &str)], body: &str) -> Bytes {
        let date = http::date(self.received_at.0);
        let mut all = vec![JSON, ("Date", date.as_str())];
        all.extend_from_slice(headers);
        all.extend(self.cors.iter().map(|(name, value)| (*name, value.as_str())));
        let mut out = Vec::with_capacity(192 + body.len());
        http::write_response(&mut out, status, &all, body.as_bytes(), self.keep_alive, self.head_only);
        out.into()
    }

    /// Returns the response that there is nothing more: an `EventSource` does not connect again.
    fn write_over(&self) -> Bytes {
        let date = http::date(self.received_at.0);
        let mut all = vec![("Date", date.as_str())];
        all.extend(self.cors.iter().map(|(name, value)| (*name, value.as_str())));
        let mut out = Vec::with_capacity(192);
        http::write_response(&mut out, 204, &all, b"", self.keep_alive, self.head_only);
        out.into()
    }

    fn error(&self, fault: impl Into<FaultStatus>, error: &str, headers: &[(&str, &str)]) -> Bytes {
        self.write(fault.into().status, headers, &json!({ "error": error }).to_string())
    }
}

/// Handling of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyWanted {
    /// The body is read.
    Taken,
    /// The body is skipped: the response does not depend on it.
    Idle,
    /// The request is refused regardless of its body, which is not awaited.
    Refused,
}

/// Returns whether a request's body is to be read, by the head and the client's credentials.
pub(crate) fn wants_body(request: &Request, shown: &Shown, cx: &Context<'_>) -> BodyWanted {
    if Door::of(cx.shared, cx.config).refuse(request).is_some() {
        return BodyWanted::Refused;
    }
    let grant = match shown {
        Ok(grant) => grant.as_deref(),
        Err(_) => return BodyWanted::Refused,
    };
    if grant.is_none() && !cx.shared.auth.is_open() {
        return BodyWanted::Refused;
    }
    if request.method != Method::Post {
        return BodyWanted::Idle;
    }
    match route_at(&request.path).and_then(|route| route.body) {
        None => BodyWanted::Idle,
        Some(may) if grant.is_none_or(|grant| may(grant, &request.path)) => BodyWanted::Taken,
        Some(_) => BodyWanted::Refused,
    }
}

/// Returns the client that a request's body is charged to.
pub(crate) fn client_of_body(request: &Request, shown: &Shown, cx: &Context<'_>) -> BodyOwner {
    let subject = shown.as_ref().ok().and_then(|grant| grant.as_ref()).map(|grant| grant.subject());
    match subject.filter(|subject| !subject.is_empty()) {
        Some(subject) => BodyOwner::Subject(subject.into()),
        None => cx.view.peer().map_or(BodyOwner::Unknown, |peer| {
            BodyOwner::Address(address_key(client_of(request, peer, &cx.config.trusted_proxies)))
        }),
    }
}

/// One route: a path, its methods, the right that it takes, and its handler.
struct Route {
    /// Path. If it ends with `/`, it is a prefix of paths, except `/` itself.
    path: &'static str,
    methods: RouteMethods,
    right: RouteRight,
    /// Decides by grant and path whether a request's body is read. `None` if no response depends on it.
    body: Option<fn(&Grant, &str) -> bool>,
    /// Names that the query may have. `None`: the handler checks the query, or ignores it.
    query: Option<&'static [&'static str]>,
    handler: fn(&mut Answer<'_, '_>, Vec<u8>) -> RouteOutcome,
}

impl Route {
    /// Sets the names that the query may have, in addition to those that are ignored everywhere.
    const fn with_query(self, names: &'static [&'static str]) -> Self {
        Self { query: Some(names), ..self }
    }

    /// Adds the method `DELETE` to a route with `GET`.
    const fn and_delete(self) -> Self {
        Self { methods: RouteMethods::GetDelete, ..self }
    }
}

/// Methods of a route; `OPTIONS` is one of each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RouteMethods {
    /// `GET` and `HEAD`.
    Get,
    /// `GET`, `HEAD` and `DELETE`.
    GetDelete,
    Post,
}

impl RouteMethods {
    /// Returns the value of `Allow`.
    const fn allowed(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD, OPTIONS",
            Self::GetDelete => "GET, HEAD, DELETE, OPTIONS",
            Self::Post => "POST, OPTIONS",
        }
    }

    fn take(self, method: Method) -> bool {
        match self {
            Self::Get => matches!(method, Method::Get | Method::Head),
            Self::GetDelete => matches!(method, Method::Get | Method::Head | Method::Delete),
            Self::Post => method == Method::Post,
        }
    }
}

/// Right that a route takes, as far as it is the same for all requests.
#[derive(Clone, Copy)]
enum RouteRight {
    /// None, or one that the handler checks.
    Handler,
    /// Any valid credentials.
    Known,
    Metrics,
    Admin,
}

impl RouteRight {
    fn check(self, answer: &mut Answer<'_, '_>) -> Result<(), RouteOutcome> {
        match self {
            Self::Handler => Ok(()),
            Self::Known => answer.grant().map(drop),
            Self::Metrics => answer.require_right("seeing metrics", Grant::sees_metrics).map(drop),
            Self::Admin => answer.require_right("the api", Grant::is_admin).map(drop),
        }
    }
}

/// Routes of every server, in addition to the endpoints of its dialects. `Allow`, `OPTIONS` and 405 follow from them.
#[allow(
    clippy::redundant_closure_for_method_calls,
    reason = "a method's path is less general in its lifetimes"
)]
const ROUTES: &[Route] = &[
    get("/", RouteRight::Handler, |answer, _| answer.index()),
    get("/index.html", RouteRight::Handler, |answer, _| answer.index()),
    get("/healthz", RouteRight::Handler, |answer, _| answer.json(200, &json!({ "status": "ok" }))),
    get("/readyz", RouteRight::Handler, |answer, _| answer.readiness()),
    get("/metrics", RouteRight::Metrics, |answer, _| answer.metrics()),
    get("/api/stats", RouteRight::Admin, |answer, _| {
        let stats = operator::stats_json(answer.cx.shared);
        answer.json(200, &stats)
    })
    .with_query(&[]),
    get("/api/history", RouteRight::Admin, |answer, _| {
        let history = operator::history_json(answer.cx.shared, answer.cx.now);
        answer.json(200, &history)
    })
    .with_query(&[]),
    get("/api/explain", RouteRight::Admin, |answer, _| answer.explain()).with_query(&["event_id", "filter"]),
    get("/api/server_info", RouteRight::Known, |answer, _| {
        let info = server_info(native::PROTOCOL, answer.cx);
        answer.json(200, &info)
    })
    .with_query(&[]),
    get("/api/subscriptions", RouteRight::Handler, |answer, _| answer.subscriptions())
        .with_query(&["client_id"]),
    get(PRESENCE, RouteRight::Handler, |answer, _| answer.presence(&answer.request.path[PRESENCE.len()..]))
        .with_query(&[]),
    get("/sse", RouteRight::Handler, |answer, _| answer.sse(Encoding::NativeSse)),
    get("/sse/events", RouteRight::Handler, |answer, _| answer.sse(Encoding::NativeSseUnnamed)),
    get("/events", RouteRight::Handler, |answer, _| match answer.request.method {
        Method::Delete => answer.purge(),
        _ => answer.events(),
    })
    .and_delete(),
    get("/bridge", RouteRight::Known, |answer, _| {
        let routes = answer.cx.shared.bridge.list_routes();
        answer.json(200, &json!({ "routes": routes }))
    }),
    post(BRIDGE, Some(may_bridge), |answer, body| answer.bridge(&answer.request.path[BRIDGE.len()..], &body)),
    post("/publish", Some(|grant, _| grant.publishes()), |answer, body| answer.publish(body)).with_query(&[]),
    post(RUNS, Some(|grant, _| grant.publishes()), |answer, body| answer.run(body)),
    post("/ticket", None, |answer, _| answer.ticket()),
    post("/api/revoke", Some(|grant, _| grant.is_admin()), |answer, body| answer.revoke(&body))
        .with_query(&[]),
];

const fn get(
    path: &'static str,
    right: RouteRight,
    handler: fn(&mut Answer<'_, '_>, Vec<u8>) -> RouteOutcome,
) -> Route {
    Route { path, methods: RouteMethods::Get, right, body: None, query: None, handler }
}

const fn post(
    path: &'static str,
    body: Option<fn(&Grant, &str) -> bool>,
    handler: fn(&mut Answer<'_, '_>, Vec<u8>) -> RouteOutcome,
) -> Route {
    Route { path, methods: RouteMethods::Post, right: RouteRight::Handler, body, query: None, handler }
}

fn may_bridge(grant: &Grant, path: &str) -> bool {
    grant.may_publish_type(&format!("protocol.{}", &path[BRIDGE.len()..]))
}

/// Returns the route at a path.
fn route_at(path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| {
        let is_prefix = route.path.len() > 1 && route.path.ends_with('/');
        if is_prefix { path.starts_with(route.path) } else { path == route.path }
    })
}

/// Responds to one request of a client with these credentials.
pub(crate) fn answer(request: &Request, body: Vec<u8>, shown: Shown, cx: &mut Context<'_>) -> RouteOutcome {
    let cors = cors_headers(request, cx);
    let mut answer = Answer { request, shown, cx, cors };
    if answer.cx.config.echo {
        return answer.websocket(Dialect::Native, String::new());
    }
    if let Some(refusal) = answer.refuse_page() {
        return refusal;
    }
    let (path, method) = (request.path.as_str(), request.method);
    let (route, endpoint) = (route_at(path), answer.cx.config.endpoint(path));
    if route.is_none() && endpoint.is_none() {
        let error = format!("nothing at {}: the page is at /, streams at /ws and /sse", shortened(path));
        return answer.error(HttpFault::NotFound, &error, &[]);
    }
    if let Some(known) = route.and_then(|route| route.query)
        && let Err(error) = query::check(request, known)
    {
        return answer.error(ErrorCode::InvalidQuery, &error, &[]);
    }
    let allowed = route.map_or(RouteMethods::Get, |route| route.methods).allowed();
    let is_upgrade = ws::is_upgrade(request);
    // A configured endpoint may have the path of a route: then it serves the upgrades there, except at `/bridge`.
    let route = route.filter(|route| route.methods.take(method));
    match (route, endpoint) {
        _ if method == Method::Options => answer.preflight(allowed),
        (route, Some((dialect, channel))) if is_upgrade && route.is_none_or(|it| it.path != "/bridge") => {
            answer.websocket(dialect, channel)
        }
        (Some(route), _) => match route.right.check(&mut answer) {
            Ok(()) => (route.handler)(&mut answer, body),
            Err(refusal) => refusal,
        },
        // Not an upgrade: the error names the missing header. HEAD gets the response of GET, and opens nothing.
        (None, Some(_)) if method == Method::Get => answer.websocket(Dialect::Native, String::new()),
        (None, Some(_)) if method == Method::Head => answer.refuse_upgrade(UpgradeError::NoUpgrade),
        _ => {
            let error = format!("{path} takes {allowed}");
            answer.error(HttpFault::MethodNotAllowed, &error, &[("Allow", allowed)])
        }
    }
}

impl Answer<'_, '_> {
    fn index(&mut self) -> RouteOutcome {
        self.respond(
            200,
            &[
                ("Content-Type", "text/html; charset=utf-8"),
                ("Content-Security-Policy", page::policy()),
                ("Cache-Control", "no-cache"),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
            ],
            page::INDEX.as_bytes(),
        )
    }

    fn readiness(&mut self) -> RouteOutcome {
        let Some(why) = self.cx.shared.not_ready() else {
            return self.json(200, &json!({ "status": "ready" }));
        };
        let (readers, publishers) = (why.readers, why.publishers);
        let body = json!({ "status": why.status, "readers": readers, "publishers": publishers }).to_string();
        self.respond(503, &[JSON, ("Retry-After", "5")], body.as_bytes())
    }

    fn metrics(&mut self) -> RouteOutcome {
        let shared = &self.cx.shared;
        shared.metrics.ring_bytes.set(shared.bus.held_bytes() as i64);
        let (ids, forgotten) = shared.clients.dedupe.counts();
        shared.metrics.dedupe_ids.set(ids as i64);
        shared.metrics.dedupe_forgotten.set(forgotten as i64);
        let (kept_logs, kept_bytes) = shared.kept.counts();
        shared.metrics.kept_logs.set(kept_logs as i64);
        shared.metrics.kept_bytes.set(kept_bytes as i64);
        shared.metrics.event_frame_bytes.set(held_frame_bytes() as i64);
        let format = Exposition::asked(self.request.headers_named("accept"));
        let text = shared.metrics.text(format, shared.clients.observers.registries());
        self.respond(200, &[("Content-Type", format.content_type()), ("Vary", "Accept")], text.as_bytes())
    }

    fn explain(&mut self) -> RouteOutcome {
        match explain::explain(self.cx.shared, self.request.query_pairs()) {
            Ok(journey) => self.json(200, &journey),
            Err((fault, error)) => self.error(fault, &error, &[]),
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
        && origins.iter().any(|allowed| allowed == "*" || origin::is_same(allowed, origin))
    {
        headers.push(("Access-Control-Allow-Origin", origin.to_owned()));
        // Headers that a page's script may read: the delay before a retry, and the required credentials.
        headers.push(("Access-Control-Expose-Headers", "Retry-After, WWW-Authenticate".to_owned()));
        // Pages of a named origin may send cookies; those admitted by `*` may not.
        let is_named = origins.iter().any(|allowed| origin::is_same(allowed, origin));
        if is_named && !cx.shared.auth.is_open() {
            headers.push(("Access-Control-Allow-Credentials", "true".to_owned()));
        }
    }
    headers
}

impl Answer<'_, '_> {
    fn preflight(&mut self, allowed: &str) -> RouteOutcome {
        let headers = [
            ("Allow", allowed),
            ("Access-Control-Allow-Methods", allowed),
            (
                "Access-Control-Allow-Headers",
                // The second line has headers that older polyfills of EventSource and general HTTP libraries add by
                // themselves.
                "Content-Type, Last-Event-ID, Authorization, Idempotency-Key, Traceparent, Tracestate, \
                 Cache-Control, Pragma, X-Requested-With",
            ),
            ("Access-Control-Max-Age", "86400"),
        ];
        let count = if self.cors.len() > 1 { headers.len() } else { 1 };
        self.respond(204, &headers[..count], b"")
    }

    /// Responds with the subscriptions of an AutoSDLC client.
    fn subscriptions(&mut self) -> RouteOutcome {
        if let Err(refusal) = self.require_right("the api", Grant::is_admin) {
            return refusal;
        }
        let mut ids = self.request.query_pairs().filter(|(name, _)| name == "client_id");
        let Some((_, client)) = ids.next() else {
            let error = "client_id is missing: the one that the client got when it connected";
            return self.error(ErrorCode::InvalidQuery, error, &[]);
        };
        let all = self.cx.shared.clients.observers.subscriptions_of(&client);
        self.json(200, &json!({ "subscriptions": all }))
    }

    /// Returns the client's rights (`None`: all, without authentication), or the refusal.
    fn grant(&mut self) -> Result<Option<Arc<Grant>>, RouteOutcome> {
        match &self.shown {
            Ok(None) if !self.cx.shared.auth.is_open() => Err(self.denied(Denied::Missing)),
            Ok(grant) => Ok(grant.clone()),
            Err(denied) => Err(self.denied(*denied)),
        }
    }

    fn require_right(
        &mut self,
        what: &str,
        has: impl Fn(&Grant) -> bool,
    ) -> Result<Option<Arc<Grant>>, RouteOutcome> {
        match self.grant()? {
            Some(grant) if !has(&grant) => {
                Err(self.forbidden(&format!("beyond what the token allows: {what}")))
            }
            grant => Ok(grant),
        }
    }

    fn denied(&mut self, denied: Denied) -> RouteOutcome {
        self.cx.shared.metrics.fault(denied.label());
        let body = json!({ "error": denied.to_string(), "code": denied.code() });
        self.respond(401, &[JSON, denied.challenge()], body.to_string().as_bytes())
    }

    fn forbidden(&mut self, error: &str) -> RouteOutcome {
        self.cx.shared.metrics.fault(ErrorCode::Forbidden.name());
        self.json(403, &json!({ "error": error, "code": ErrorCode::Forbidden }))
    }

    /// Responds with the members of a channel.
    fn presence(&mut self, channel: &str) -> RouteOutcome {
        let grant = match self.grant() {
            Ok(grant) => grant,
            Err(refusal) => return refusal,
        };
        match presence_query::answer(self.cx.shared, self.cx.config, channel, grant.as_deref()) {
            Ok(list) => self.json(200, &list),
            Err(error) if error.code == ErrorCode::Forbidden => self.forbidden(&error.text),
            Err(error) => self.error(error.code, &error.text, &[]),
        }
    }

    /// Returns the client's address, if something is limited by address.
    fn client(&self) -> Option<IpAddr> {
        Some(client_of(self.request, self.cx.view.peer()?, &self.cx.config.trusted_proxies))
    }

    /// Refuses a page of a foreign origin, and a Host that is not the server's.
    fn refuse_page(&mut self) -> Option<RouteOutcome> {
        let request = self.request;
        let refusal = Door::of(self.cx.shared, self.cx.config).refuse(request)?;
        self.cx.shared.monitor.refusals.log(&refusal, self.client());
        Some(self.error(refusal.fault(), &refusal.to_string(), &[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_is_in_the_openapi_document() {
        let document = include_str!("../../../docs/api/openapi.yaml");
        // The document leaves out the page, its stream, and a request of the operator.
        for route in ROUTES {
            let is_described = document.lines().any(|line| {
                let path = line.strip_prefix("  ").and_then(|line| line.strip_suffix(':'));
                path.is_some_and(|path| {
                    path == route.path
                        || (route.path.len() > 1
                            && path.strip_prefix(route.path).is_some_and(|rest| rest.starts_with('{')))
                })
            });
            assert!(
                is_described || ["/", "/index.html", "/sse/events"].contains(&route.path),
                "{} is missing",
                route.path
            );
        }
    }
}

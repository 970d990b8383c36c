//! What is at which path, and the answers that need no connection of their own.
//!
//! Imports every lower room. Always: an answer is complete and has its length, but a stream's head; errors
//! are JSON `{"error": …}` and say what to do where that is not plain.

use bytes::Bytes;
use serde_json::json;

use super::connection::{Answer as PublishAnswer, Context, Effect, ReplayFrom};
use super::page;
use super::publish;
use crate::bridge::BridgeOutcome;
use crate::codec::http::{self, Method, Request};
use crate::codec::ws;
use crate::dialect::{Dialect, Encoding, OnLag, Opening, Place, shortened, split_entity};
use crate::engine::Refused;
use crate::event::EventId;
use crate::filter::Filter;

/// What a request made of its connection.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Answered; the connection may go on.
    Response,
    /// Answered for the last time.
    Closed,
    /// It speaks WebSocket from here, like this.
    Ws(Box<Opening>),
    /// It is an event stream from here.
    Sse,
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Before the name of a bridge's route.
const BRIDGE: &str = "/bridge/";

/// Headers of every event stream (the FCC document's four).
const STREAM_HEADERS: [(&str, &str); 4] = [
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-cache"),
    ("Connection", "keep-alive"),
    ("X-Accel-Buffering", "no"),
];

/// The page loads nothing from elsewhere, and talks to its own server only.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                           connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The subprotocol offered.
const PROTOCOL: &str = "fanwire.v1";

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

/// Answers one request.
pub(crate) fn answer(request: &Request, body: &[u8], cx: &mut Context<'_>) -> Outcome {
    let cors = cors_headers(request, cx);
    let mut answer = Answer { request, cx, cors };
    let endpoint = answer.cx.config.endpoint(&request.path);
    let allowed = match request.path.as_str() {
        "/" | "/index.html" | "/healthz" | "/readyz" | "/metrics" | "/api/stats" | "/sse" | "/sse/events" => {
            "GET, HEAD, OPTIONS"
        }
        "/publish" => "POST, OPTIONS",
        "/bridge" => "GET, HEAD, OPTIONS",
        path if path.starts_with(BRIDGE) => "POST, OPTIONS",
        _ if endpoint.is_some() => "GET, HEAD, OPTIONS",
        path => {
            let error = format!("nothing at {}: the page is at /, streams at /ws and /sse", shortened(path));
            return answer.error(404, "not_found", &error, &[]);
        }
    };
    let is_upgrade = request.header_has_token("upgrade", "websocket");
    match (request.path.as_str(), request.method) {
        (_, Method::Options) => answer.preflight(allowed),
        ("/publish", Method::Post) => answer.publish(body),
        ("/bridge", Method::Get | Method::Head) => {
            let routes = answer.cx.shared.bridge.list_routes();
            answer.json(200, &json!({ "routes": routes }))
        }
        (path, Method::Post) if path.starts_with(BRIDGE) => answer.bridge(&path[BRIDGE.len()..], body),
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
            let text = answer.cx.shared.metrics.text();
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            answer.respond(200, &[("Content-Type", kind)], text.as_bytes())
        }
        ("/api/stats", Method::Get | Method::Head) => {
            let stats = answer.cx.shared.stats();
            answer.json(200, &stats)
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
    }
    headers
}

impl Answer<'_, '_> {
    fn preflight(&mut self, allowed: &str) -> Outcome {
        let headers = [
            ("Allow", allowed),
            ("Access-Control-Allow-Methods", allowed),
            ("Access-Control-Allow-Headers", "Content-Type, Last-Event-ID, Authorization"),
            ("Access-Control-Max-Age", "86400"),
        ];
        let shown = if self.cors.len() > 1 { headers.len() } else { 1 };
        self.respond(204, &headers[..shown], b"")
    }

    fn publish(&mut self, body: &[u8]) -> Outcome {
        let kind = self.request.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let lines = match kind.as_str() {
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => true,
            // What `curl -d` sends when it is told nothing.
            "" | "application/json" | "application/x-www-form-urlencoded" | "text/plain" | "text/json" => {
                false
            }
            other => {
                let error = format!(
                    "content type {} is not taken: send application/json or application/x-ndjson",
                    shortened(other)
                );
                return self.error(415, "media_type", &error, &[]);
            }
        };
        let config = self.cx.config;
        let events = match publish::read_body(body, lines, &|event| config.check_event(event)) {
            Ok(events) => events,
            Err(fault) => {
                self.cx.shared.metrics.fault(fault.label);
                return self.json(400, &json!({ "error": fault.error, "line": fault.line }));
            }
        };
        let accepted = events.len();
        self.cx.shared.metrics.events_published.inc_by(accepted as u64);
        let cors = std::mem::take(&mut self.cors);
        let keep_alive = self.keep_alive();
        let answer = move |outcome: Result<Option<EventId>, Refused>| {
            let mut headers = vec![JSON];
            headers.extend(cors.iter().map(|(name, value)| (*name, value.as_str())));
            let (status, body) = match outcome {
                Ok(id) => {
                    (200, json!({ "accepted": accepted, "last_event_id": id.map(|id| id.to_string()) }))
                }
                Err(why) => {
                    headers.push(("Retry-After", "1"));
                    (503, json!({ "error": why.text() }))
                }
            };
            let mut out = Vec::with_capacity(192);
            http::write_response(&mut out, status, &headers, body.to_string().as_bytes(), keep_alive, false);
            Some(Bytes::from(out))
        };
        self.cx.effects.push(Effect::Publish { events, answer: PublishAnswer(Box::new(answer)) });
        self.outcome()
    }

    /// Routes a message of another protocol. The handler runs here, in the loop.
    fn bridge(&mut self, protocol: &str, body: &[u8]) -> Outcome {
        let Ok(message) = simdutf8::basic::from_utf8(body) else {
            return self.error(400, "bridge_malformed", "message is not valid UTF-8", &[]);
        };
        let answer = self.cx.shared.bridge.route(protocol, message);
        let (status, label) = match answer.outcome() {
            BridgeOutcome::Answered => (200, ""),
            BridgeOutcome::Unknown => (404, "bridge_unknown"),
            BridgeOutcome::Malformed => (400, "bridge_malformed"),
            BridgeOutcome::Failed => (500, "bridge_failed"),
        };
        self.cx.shared.metrics.bridged.inc();
        if !label.is_empty() {
            self.cx.shared.metrics.fault(label);
        }
        self.respond(status, &[JSON], answer.json().as_bytes())
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
        let protocol = upgrade.protocols.iter().find(|p| *p == PROTOCOL).map(|_| PROTOCOL);
        // Who offers the native subprotocol speaks it, wherever it comes.
        let dialect = protocol.map_or(dialect, |_| Dialect::Native);
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
        let mut out = Vec::with_capacity(192);
        ws::write_upgrade(&mut out, &upgrade.accept, protocol);
        self.cx.send(out);
        Outcome::Ws(Box::new(opening))
    }

    fn sse(&mut self, encoding: Encoding) -> Outcome {
        let stream = match StreamRequest::read(self.request, encoding) {
            Ok(stream) => stream,
            Err(error) => return self.error(400, "invalid_query", &error, &[]),
        };
        if let Err(error) = stream.filter.check(&self.cx.config.filter_limits()) {
            return self.error(400, "invalid_filter", &error.to_string(), &[]);
        }
        if let Some(refusal) = self.refuse_stream() {
            return refusal;
        }
        let mut headers: Vec<(&str, &str)> = STREAM_HEADERS.to_vec();
        headers.extend(self.cors.iter().map(|(name, value)| (*name, value.as_str())));
        let mut out = Vec::with_capacity(256);
        http::write_head(&mut out, 200, &headers);
        if self.request.method == Method::Head {
            self.cx.send(out);
            return Outcome::Closed;
        }
        // Where the browser resumes if the stream breaks before its first event; who asked for the past has
        // that to see first.
        let id = self.cx.position.filter(|_| stream.from.is_none()).map(|id| id.to_string());
        let retry = self.cx.config.retry.as_millis() as u64;
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
        Outcome::Sse
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
                // A cache's key, and what authorization reads.
                "token" | "access_token" => {}
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

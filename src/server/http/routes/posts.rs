//! Requests that change something: events, messages of other protocols, tickets, revocations.
//!
//! Always:
//! - A refused request changes nothing.
//! - A client is not read while a worker thread or the engine handles its request.

use std::sync::Arc;

use serde_json::json;

use super::{Answer, FaultStatus, JSON, Responder, RouteOutcome};
use crate::bridge::BridgeOutcome;
use crate::codec::http::Request;
use crate::dialect::{Complete, ErrorCode, HttpFault, RefusingLog, check_dedupe_name, shortened};
use crate::event::{Event, Position};
use crate::server::auth::{Grant, NoTicket, Revocation};
use crate::server::config::Prepared;
use crate::server::dedupe::PublishOnce;
use crate::server::http::publish_body::{self, BodyRules};
use crate::server::limits::rates::address_key;
use crate::server::session::effect::{
    Acceptance, Effect, Made, NotDone, PublishAnswer, PublishRefusal, Work,
};
use crate::server::session::opening::StreamOpening;
use crate::server::shared::Shared;
use crate::server::tick::Tick;
use crate::server::workers::LaneLimits;
use crate::sync::lock;

/// Content types of a JSON body. `curl -d` sends the form type by default.
const JSON_TYPES: [&str; 5] =
    ["", "application/json", "application/x-www-form-urlencoded", "text/plain", "text/json"];

/// Workers' lane for messages to other nodes.
const NODES: &str = "nodes";

/// Time that an operator waits for the engine to accept a revocation.
const REVOKE_TICKS: Tick = 100;

/// Workers' lane for long bodies.
const BODIES: &str = "bodies";

/// Maximum number of long bodies that wait for a worker. Their bytes are limited too.
const BODIES_WAITING_MAX: usize = 1024;

/// Time that a client waits for its long body to be read.
const READ_TICKS: Tick = 300;

/// Instructions for one byte of a body. The shortest event, of 13 bytes, takes about 1,500.
const BODY_INSTRUCTIONS: usize = 115;

/// Maximum size of a body that is read within a turn, in bytes: at most about 2 million instructions. A worker reads
/// longer ones.
const BODY_BYTES_AT_ONCE: usize = 16 * 1024;

/// Number of patterns in a grant that double the cost of reading an event.
const PATTERNS_OF_AN_EVENT: usize = 16;

/// Request to publish, with everything that is needed to read it.
pub(super) struct Publication {
    pub(super) request: Request,
    pub(super) body: Vec<u8>,
    pub(super) grant: Option<Arc<Grant>>,
    pub(super) config: Arc<Prepared>,
    pub(super) shared: Arc<Shared>,
    pub(super) responder: Responder,
    /// Run that answers it; `None` for a `POST /publish`.
    pub(super) run: Option<Box<Run>>,
}

/// Run that a request publishes into, and that answers it.
pub(super) struct Run {
    /// Stream of its events.
    pub(super) stream_id: Box<str>,
    pub(super) opening: StreamOpening,
    /// Place of the loop when the request came: nothing of it was published before.
    pub(super) before: Option<Position>,
}

impl Publication {
    /// Returns whether reading the body takes more than one step of a turn may.
    fn is_long(&self) -> bool {
        let patterns = self.grant.as_ref().map_or(0, |grant| grant.patterns());
        self.body.len().saturating_mul(1 + patterns / PATTERNS_OF_AN_EVENT) > BODY_BYTES_AT_ONCE
    }

    /// Parses the events. Returns them if all of them may be published, otherwise the response.
    fn read(self) -> Made {
        let Self { request, body, grant, config, shared, responder, run } = self;
        let refuse = |FaultStatus { status, label }, body: serde_json::Value| {
            shared.metrics.fault(label);
            Made::Answer(responder.write(status, &[], &body.to_string()))
        };
        let kind = request.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let key = match idempotency_key(&request) {
            Ok(key) => key,
            Err(error) => {
                let code = ErrorCode::InvalidIdempotencyKey;
                return refuse(code.into(), json!({ "error": error, "code": code }));
            }
        };
        let check = |event: &Event| config.check_event(event);
        let stream = run.as_ref().map(|run| &*run.stream_id);
        let rules = BodyRules { max: config.max_batch_events, check: &check, stream };
        let cloud_events = publish_body::read_cloud_events(&request, &kind, &body, rules);
        let lines = match kind.as_str() {
            _ if cloud_events.is_some() => false,
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => true,
            kind if JSON_TYPES.contains(&kind) => false,
            other => {
                let error = format!(
                    "content type {} is not taken: send application/json, application/x-ndjson or CloudEvents",
                    shortened(other)
                );
                return refuse(HttpFault::MediaType.into(), json!({ "error": error }));
            }
        };
        let events = match cloud_events {
            // A run may be joined without an event.
            None if run.is_some() && body.trim_ascii().is_empty() => Ok(Vec::new()),
            Some(events) => events,
            None => publish_body::read_body(&body, lines, rules),
        };
        let events = match events {
            Ok(events) => events,
            Err(fault) => {
                return refuse(fault.status, json!({ "error": fault.error, "line": fault.line }));
            }
        };
        // The events get the request's trace context, unless they have their own.
        let events: Vec<Complete> = match request.header("traceparent") {
            None => events,
            Some(parent) => {
                let state = request.header("tracestate");
                events.into_iter().map(|event| event.traced(parent, state)).collect()
            }
        };
        let beyond = |grant: &Arc<Grant>| events.iter().find_map(|event| grant.may_publish(event).err());
        if let Some(what) = grant.as_ref().and_then(beyond) {
            let (code, error) = (ErrorCode::Forbidden, format!("beyond what the token allows: {what}"));
            return refuse(code.into(), json!({ "error": error, "code": code }));
        }
        let key = key.map(|key| (key, digest(&request, &kind, &body, stream)));
        let is_once = key.is_some() || events.iter().any(|event| event.dedupe_id().is_some());
        let once = is_once.then(|| Box::new(PublishOnce::new(grant.as_deref(), key)));
        let count = events.len();
        if !is_once {
            shared.metrics.events_published.inc_by(count as u64);
        }
        let answer = move |outcome: Result<Acceptance, PublishRefusal>| {
            match (outcome, run) {
                (Ok(accepted), Some(run)) => run.reply(accepted, count),
                (Ok(accepted), None) => {
                    responder.write(200, &[], &accepted_body(accepted, count, is_once).to_string()).into()
                }
                (Err(why), _) => {
                    // Without `Retry-After`, a client does not repeat a request that can never be accepted.
                    let later: &[_] = if why.may_pass_later() { &[("Retry-After", "1")] } else { &[] };
                    responder.write(why.code().status(), later, &refused_body(&why).to_string()).into()
                }
            }
        };
        Made::Publish { events, once, answer: PublishAnswer(Box::new(answer)) }
    }
}

/// Returns the body of the answer to `count` events that were accepted.
fn accepted_body(accepted: Acceptance, count: usize, is_once: bool) -> serde_json::Value {
    let Acceptance { last, duplicates, .. } = accepted;
    let mut body = json!({ "accepted": count - duplicates, "last_event_id": last.map(|id| id.to_string()) });
    if is_once {
        body["duplicates"] = duplicates.into();
    }
    body
}

/// Returns the body of the answer to events that were refused.
fn refused_body(why: &PublishRefusal) -> serde_json::Value {
    let mut body = json!({ "error": why.text(), "code": why.code() });
    if let PublishRefusal::Log(_, line, stayed) = why {
        body["line"] = (*line).into();
        if !stayed.is_empty() {
            let kept = stayed.iter().map(|(index, id)| json!({ "index": index, "event_id": id.to_string() }));
            body["kept"] = kept.collect();
        }
    }
    if let Some(RefusingLog { by, value, last_event_id }) = why.log() {
        body["by"] = by.into();
        body["value"] = (&*value).into();
        body["last_event_id"] = last_event_id.map(|id| id.to_string()).into();
    }
    body
}

/// Returns the key by which a repetition of the request is recognized.
fn idempotency_key(request: &Request) -> Result<Option<Box<str>>, String> {
    let mut keys = request.headers_named("idempotency-key");
    let Some(key) = keys.next() else { return Ok(None) };
    if keys.next().is_some() {
        return Err("more than one Idempotency-Key: send one".to_owned());
    }
    // The header's draft standard requires quotes, which many programs leave out.
    let key = key.trim_ascii();
    let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    check_dedupe_name("Idempotency-Key", key).map(|()| Some(key.into()))
}

/// Returns a digest of all parts of a request that determine its events. It is equal in all versions, and not a secret.
fn digest(request: &Request, kind: &str, body: &[u8], stream: Option<&str>) -> u64 {
    // FNV-1a.
    let mut digest = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes.iter().chain([&0xff]) {
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    add(kind.as_bytes());
    for (name, value) in request.headers() {
        // Headers of a CloudEvent in binary form.
        if name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("ce-")) {
            add(name.to_ascii_lowercase().as_bytes());
            add(value.as_bytes());
        }
    }
    add(body);
    // The path of a run. Digests of `POST /publish` are equal in all versions.
    if let Some(stream) = stream {
        add(stream.as_bytes());
    }
    digest
}

impl Answer<'_, '_> {
    pub(super) fn publish(&mut self, body: Vec<u8>) -> RouteOutcome {
        let grant = match self.require_right("publishing", Grant::publishes) {
            Ok(grant) => grant,
            Err(refusal) => return refusal,
        };
        if let Err(refusal) = self.admit_publish(grant.as_deref()) {
            return refusal;
        }
        let publication = Publication {
            request: self.request.clone(),
            body,
            grant,
            config: Arc::clone(self.cx.config),
            shared: Arc::clone(self.cx.shared),
            responder: self.responder(),
            run: None,
        };
        self.take_publication(publication)
    }

    /// Reads a publication, here or in a worker, and publishes it.
    pub(super) fn take_publication(&mut self, publication: Publication) -> RouteOutcome {
        let is_run = publication.run.is_some();
        if publication.is_long() {
            let (config, responder) = (self.cx.config, publication.responder.clone());
            let limits = LaneLimits {
                threads: self.cx.shared.loops.count,
                waiting: BODIES_WAITING_MAX,
                bytes: config.lane_bytes(),
            };
            let bytes = publication.body.len();
            let job = Box::new(move || publication.read());
            let shared = Arc::clone(self.cx.shared);
            let instead = Box::new(move |_| {
                shared.metrics.fault(HttpFault::BodiesBusy.label());
                let error = "too many long bodies wait to be read: none of this one was published";
                responder.error(HttpFault::BodiesBusy, error, &[("Retry-After", "1")])
            });
            let lane = BODIES.to_owned();
            let outcome = self.work(Work { lane, limits, patience: READ_TICKS, bytes, job, instead });
            return if is_run { RouteOutcome::Pending } else { outcome };
        }
        self.cx.budget.spend_bytes(publication.body.len(), BODY_INSTRUCTIONS);
        match publication.read() {
            Made::Answer(answer) => self.cx.send(answer),
            Made::Publish { events, once, answer } => {
                if self.cx.shared.engine.is_some() || events.len() > 1 || once.is_some() || is_run {
                    // Responses keep the order of the requests.
                    self.cx.hold_input();
                }
                self.cx.effects.push(Effect::Publish { events, once, answer });
                if is_run {
                    return RouteOutcome::Pending;
                }
            }
        }
        self.outcome()
    }

    /// Refuses a client that publishes too often.
    pub(super) fn admit_publish(&mut self, grant: Option<&Grant>) -> Result<(), RouteOutcome> {
        let limits = &self.cx.config.limits;
        let Some(max) = limits.publishes else { return Ok(()) };
        let who = match grant.map(Grant::subject).filter(|subject| !subject.is_empty()) {
            Some(subject) => format!("subject {subject}"),
            None => self.client().map_or_else(String::new, |address| address_key(address).to_string()),
        };
        let admitted = lock(&self.cx.shared.clients.publishers).admit(who, self.cx.tick, limits.window, max);
        admitted.map_err(|seconds| {
            let window = self.cx.config.limits.window.as_secs_f64();
            let error = format!("rate limit of {max} publishes in {window} s reached");
            self.error(ErrorCode::RateLimited, &error, &[("Retry-After", &seconds.to_string())])
        })
    }

    /// Routes a message of another protocol. The handler runs in a thread of that protocol.
    pub(super) fn bridge(&mut self, protocol: &str, body: &[u8]) -> RouteOutcome {
        // Messages are published on the bus, so this takes the right to publish.
        let published_type = format!("protocol.{protocol}");
        if let Err(refusal) =
            self.require_right("the bridge", |grant| grant.may_publish_type(&published_type))
        {
            return refusal;
        }
        let Ok(message) = simdutf8::basic::from_utf8(body) else {
            return self.error(HttpFault::BridgeMalformed, "message is not valid UTF-8", &[]);
        };
        let shared = Arc::clone(self.cx.shared);
        shared.metrics.bridged.inc();
        // Unknown protocols share a lane, because clients choose their names.
        let lane =
            if shared.bridge.has_route(protocol) { format!("bridge/{protocol}") } else { String::new() };
        let config = Arc::clone(self.cx.config);
        let limits = config.bridge.lane(config.lane_bytes());
        let bytes = message.len();
        let (responder, protocol, message) = (self.responder(), protocol.to_owned(), message.to_owned());
        let job = {
            let (responder, shared) = (responder.clone(), Arc::clone(&shared));
            Box::new(move || {
                let answer = shared.route(&config, &protocol, &message);
                let fault = match answer.outcome() {
                    BridgeOutcome::Answered => None,
                    BridgeOutcome::Unknown => Some(HttpFault::BridgeUnknown),
                    BridgeOutcome::Malformed => Some(HttpFault::BridgeMalformed),
                    BridgeOutcome::Failed => Some(HttpFault::BridgeFailed),
                };
                if let Some(fault) = fault {
                    shared.metrics.fault(fault.label());
                }
                Made::Answer(responder.write(fault.map_or(200, HttpFault::status), &[], answer.json()))
            })
        };
        let instead = Box::new(move |why| match why {
            NotDone::Busy => {
                shared.metrics.fault(HttpFault::BridgeBusy.label());
                responder.error(
                    HttpFault::BridgeBusy,
                    "too many messages of this protocol wait for its handler",
                    &[("Retry-After", "1")],
                )
            }
            NotDone::Late => {
                shared.metrics.fault(HttpFault::BridgeLate.label());
                responder.error(
                    HttpFault::BridgeLate,
                    "the handler has not answered in time: it may still be at work",
                    &[],
                )
            }
        });
        let patience = self.cx.config.bridge_ticks();
        self.work(Work { lane, limits, patience, bytes, job, instead })
    }

    /// Creates a ticket with the rights of the client.
    pub(super) fn ticket(&mut self) -> RouteOutcome {
        let made = match self.grant() {
            Err(refusal) => return refusal,
            // Without authentication, clients that must send a ticket get one that is not checked.
            Ok(None) => Ok(("none-needed".to_owned(), 30)),
            Ok(Some(grant)) => self.cx.shared.auth.make_ticket(&grant, self.cx.now),
        };
        match made {
            Ok((ticket, seconds)) => {
                let body = json!({ "ticket": ticket, "expires_in": seconds }).to_string();
                self.respond(200, &[JSON, ("Cache-Control", "no-store")], body.as_bytes())
            }
            Err(NoTicket::Share { max, seconds }) => {
                let error = format!(
                    "this token's subject has {max} tickets that are not used: ask for one when a stream is opened; try \
                     again in {seconds} s"
                );
                self.error(HttpFault::TicketShare, &error, &[("Retry-After", &seconds.to_string())])
            }
            Err(NoTicket::Full) => {
                self.error(HttpFault::TooManyTickets, "too many tickets are out", &[("Retry-After", "5")])
            }
        }
    }

    pub(super) fn revoke(&mut self, body: &[u8]) -> RouteOutcome {
        if let Err(refusal) = self.require_right("the api", Grant::is_admin) {
            return refusal;
        }
        if self.cx.shared.auth.is_open() {
            return self.error(HttpFault::NotConfigured, "there is no authentication to revoke", &[]);
        }
        let one = std::str::from_utf8(body).map_err(|_| "not UTF-8".to_owned()).and_then(Revocation::read);
        let one = match one {
            Ok(one) => one,
            Err(error) => return self.error(HttpFault::InvalidRevocation, &error, &[]),
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
                self.error(HttpFault::TooManyRevocations, &error, &[])
            }
        }
    }

    /// Sends a revocation to the other nodes too, and responds when the engine has accepted the message.
    fn revoke_everywhere(&mut self, one: Revocation, count: usize) -> RouteOutcome {
        let failed = |responder: &Responder, why: &str| {
            responder.error(
                ErrorCode::EngineUnanswered,
                &format!("revoked on this node; other nodes may not know: {why}"),
                &[("Retry-After", "1")],
            )
        };
        let shared = Arc::clone(self.cx.shared);
        let responder = self.responder();
        let job = {
            let responder = responder.clone();
            Box::new(move || {
                Made::Answer(match shared.announce_revocation(one) {
                    Ok(()) => responder.write(200, &[], &json!({ "revoked": count }).to_string()),
                    Err(error) => failed(&responder, &error.to_string()),
                })
            })
        };
        let instead = Box::new(move |_| failed(&responder, "the engine has not answered in time"));
        let limits = LaneLimits { threads: 1, waiting: 1000, bytes: usize::MAX };
        let patience = REVOKE_TICKS;
        self.work(Work { lane: NODES.to_owned(), limits, patience, bytes: 0, job, instead })
    }

    /// Gives a job to a worker. The connection is not read until its result is the response.
    pub(super) fn work(&mut self, work: Work) -> RouteOutcome {
        self.cx.hold_input();
        self.cx.effects.push(Effect::Work(work));
        self.outcome()
    }
}

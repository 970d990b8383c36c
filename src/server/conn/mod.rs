//! The state machine of one client's connection, without its socket: bytes and time in, effects out.
//!
//! Always:
//! - The effects are the same however the bytes are cut into pieces.
//! - No input makes it panic.
//! - A fault is reported in the client's protocol and ends this connection only.

pub(crate) mod saved;

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use serde_json::json;

use super::auth::{Auth, Denied, Grant, Shown};
use super::config::Prepared;
use super::http::routes::{self, BodyWanted, RouteOutcome};
use super::limits::bodies::{Body, TooMuch};
use super::session::context::Context;
use super::session::effect::Effect;
use super::session::ended::LogsEnded;
use super::session::opening::StreamOpening;
use super::session::rights;
use super::session::{Flow, Session};
use super::shared::adoption::{AdoptedHead, AdoptedRequest};
use super::shared::report::ClientTransport;
use super::tick::Tick;
use crate::codec::http::{self, BodyDecoder, Request, RequestError};
use crate::codec::{sse, ws};
use crate::dialect::codes::LABEL_HEARTBEAT_MISSED;
use crate::dialect::{CLOSE_RESTART, CLOSE_TRY_LATER, Encoding, HttpFault, Incoming};
use crate::event::EventId;
use crate::filter::Filter;
use crate::kept::{KeptLogs, LogName};
use crate::metrics::Kind;

/// Request with an incomplete body.
#[derive(Debug)]
struct Receiving {
    request: Request,
    shown: Shown,
    decoder: BodyDecoder,
    body: Vec<u8>,
    /// Size of the request, charged to its client.
    counted: Body,
    /// Whether the body is skipped.
    is_idle: bool,
}

impl Receiving {
    fn new(request: Request, shown: Shown, decoder: BodyDecoder, counted: Body, is_idle: bool) -> Self {
        Self { request, shown, decoder, body: Vec::new(), counted, is_idle }
    }

    /// Returns the memory of the request, in bytes.
    fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.body.capacity() + self.request.held_bytes()
    }
}

#[derive(Debug, Default)]
struct Http {
    /// Request that the embedding program has read, if it is not handled yet.
    adopted: Option<Box<AdoptedRequest>>,
    /// Bytes received and not used yet.
    buffer: Vec<u8>,
    receiving: Option<Box<Receiving>>,
    /// Time when the incomplete request began.
    since: Option<Tick>,
    /// Whether a request was answered. From then on the connection may be idle for `keep_alive`.
    is_answered: bool,
    /// Whether the connection closes after the response that is pending, unless that is a stream.
    closes: bool,
}

#[derive(Debug)]
enum State {
    Http(Box<Http>),
    /// WebSocket client, and whether its messages may be compressed. The flag is outside the box, where it takes padding.
    Ws(Box<Ws>, bool),
    /// Event stream, with the client's rights if they are limited.
    Sse(Option<Arc<Grant>>),
    /// Closing since this tick, which is cut to 32 bits as in [`Connection`]. Input is dropped.
    Closing(u32, ClientTransport),
}

#[derive(Debug)]
pub(super) struct Ws {
    decoder: ws::Decoder,
    session: Session,
}

/// State machine of one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    state: State,
    /// Tick of the last input. Ticks are cut to 32 bits here: thirteen years.
    last_input: u32,
    /// Tick of the last heartbeat sent.
    last_heartbeat: u32,
    /// Input that waits until the responses before it are written.
    #[expect(clippy::box_collection, reason = "rare, and a word in each of very many connections")]
    held: Option<Box<Vec<u8>>>,
}

/// Instructions for one byte of a request's head: about 11,000 for a usual one of 130 bytes.
const HEAD_INSTRUCTIONS: usize = 90;

/// Units for a request's response, however short the request is: up to 20,000 instructions.
const ANSWER_UNITS: u32 = 15;

/// Units for a message, however short it is: a `ping` takes 10,000 instructions from its frame to the response's.
const MESSAGE_UNITS: u32 = 8;

/// Instructions for one byte of a frame, to unmask it and validate it as UTF-8. Parsing is charged where it happens.
const FRAME_INSTRUCTIONS: usize = 2;

/// Time within which a closing connection has to be written out and closed by its peer, so that a reset does not lose
/// the last bytes.
const CLOSING_TICKS: Tick = 50;

/// Replaces the head of the response in the first bytes to send.
fn replace_head(effects: &mut [Effect], head: &[u8]) {
    let first = effects.iter_mut().find_map(|effect| match effect {
        Effect::Send(bytes) => Some(bytes),
        _ => None,
    });
    if let Some(bytes) = first {
        bytes.advance(http::head_len(bytes).unwrap_or_default());
        if !head.is_empty() {
            *bytes = [head, bytes.as_ref()].concat().into();
        }
    }
}

/// Result of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Call the timer again at this tick.
    At(Tick),
    /// Close without further bytes.
    Over,
    /// The credentials have expired; call [`Connection::denied`].
    Denied(Denied),
}

impl Connection {
    pub(crate) fn new(tick: Tick) -> Self {
        Self {
            state: State::Http(Box::default()),
            last_input: tick as u32,
            last_heartbeat: tick as u32,
            held: None,
        }
    }

    /// Returns a connection whose first request the embedding program has read. It is handled as input that waits.
    pub(crate) fn adopted(tick: Tick, request: AdoptedRequest) -> Self {
        let http = Http { adopted: Some(Box::new(request)), ..Http::default() };
        Self { state: State::Http(Box::new(http)), ..Self::new(tick) }
    }

    pub(crate) fn transport(&self) -> ClientTransport {
        match self.state {
            State::Http(_) => ClientTransport::Http,
            State::Ws(..) => ClientTransport::Ws,
            State::Sse(_) => ClientTransport::Sse,
            State::Closing(_, transport) => transport,
        }
    }

    /// Returns whether the client must show credentials before more than a message's type is read.
    pub(crate) fn is_unauthenticated(&self, auth: &Auth) -> bool {
        !auth.is_open()
            && match &self.state {
                // A body is read only from clients that may publish.
                State::Http(http) => http.receiving.is_none(),
                State::Ws(ws, _) => ws.session.is_locked(),
                State::Sse(_) | State::Closing(..) => false,
            }
    }

    /// Returns whether the connection may take more than its part of a turn. False if the client must show a token first, or the
    /// connection is closing and drops its input.
    pub(crate) fn may_exceed_its_part(&self, auth: &Auth) -> bool {
        !self.is_unauthenticated(auth) && !matches!(self.state, State::Closing(..))
    }

    /// Returns whether input waits for pending responses to be written. Call `receive` then, with no bytes if none
    /// arrived.
    pub(crate) fn holds_input(&self) -> bool {
        self.held.is_some()
            || match &self.state {
                State::Http(http) => http.adopted.is_some(),
                State::Ws(ws, _) => ws.session.is_busy(),
                State::Sse(_) | State::Closing(..) => false,
            }
    }

    /// Returns the memory of incomplete requests and messages, and of input that waits, in bytes.
    pub(crate) fn input_bytes(&self) -> usize {
        let held = self.held.as_ref().map_or(0, |held| held.capacity());
        held + match &self.state {
            State::Http(http) => {
                http.buffer.capacity()
                    + http.receiving.as_ref().map_or(0, |coming| coming.held_bytes())
                    + http.adopted.as_ref().map_or(0, |adopted| adopted.held_bytes())
            }
            State::Ws(ws, _) => ws.decoder.buffered_bytes(),
            State::Sse(_) | State::Closing(..) => 0,
        }
    }

    /// Returns the heap memory of the connection, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.input_bytes()
            + match &self.state {
                State::Http(_) => size_of::<Http>(),
                State::Ws(ws, _) => size_of::<Ws>() + ws.session.held_bytes(),
                State::Sse(grant) => grant.as_ref().map_or(0, |grant| grant.held_bytes()),
                State::Closing(..) => 0,
            }
    }

    /// Returns the memory of its subscriptions in the loop's tables, in bytes, if no other connection shares them.
    pub(crate) fn table_bytes(&self) -> usize {
        if let State::Ws(ws, _) = &self.state { ws.session.table_bytes() } else { 0 }
    }

    /// Returns whether it receives a body, and its client holds more than an equal share of all bodies.
    pub(crate) fn is_greedy(&self, config: &Prepared) -> bool {
        match &self.state {
            State::Http(http) => {
                http.receiving.as_ref().is_some_and(|it| it.counted.is_greedy(config.body_limits()))
            }
            _ => false,
        }
    }

    /// Closes the connection of a client that holds much memory when memory is short, and sends the client the reason.
    pub(crate) fn shed(&mut self, cx: &mut Context<'_>) {
        match &self.state {
            State::Ws(..) => {
                return self.close_with(
                    ws::close_frame(CLOSE_TRY_LATER, "server is short of memory: come back later"),
                    cx,
                );
            }
            State::Http(http) if http.receiving.is_some() => {
                let mut out = Vec::with_capacity(256);
                let error = "server is short of memory: the body was not taken";
                routes::write_later(&mut out, 503, error, 5, cx.now);
                cx.send(out);
            }
            State::Http(_) | State::Sse(_) => {}
            State::Closing(..) => return,
        }
        self.close(cx);
    }

    /// Takes bytes from the peer. May unmask them in place.
    pub(crate) fn receive(&mut self, input: &mut [u8], cx: &mut Context<'_>) {
        self.last_input = cx.tick as u32;
        cx.budget.resume();
        let adopted = if let State::Http(http) = &mut self.state { http.adopted.take() } else { None };
        let held = match adopted {
            Some(adopted) => Some(self.begin(*adopted, cx)),
            None => self.held.take().map(|held| *held),
        };
        match held {
            Some(mut held) => {
                held.extend_from_slice(input);
                self.take(&mut held, cx);
            }
            None => self.take(input, cx),
        }
    }

    fn take(&mut self, input: &mut [u8], cx: &mut Context<'_>) {
        match &mut self.state {
            State::Http(http) if http.buffer.is_empty() => self.receive_http(input, cx),
            State::Http(http) => {
                http.buffer.extend_from_slice(input);
                // A head ends with a line. Parsing waits for a line end, because repeated attempts at a head that
                // arrives byte by byte would be expensive.
                if http.receiving.is_some()
                    || input.contains(&b'\n')
                    || http.buffer.len() > cx.config.max_head_bytes
                {
                    let mut buffer = std::mem::take(&mut http.buffer);
                    self.receive_http(&mut buffer, cx);
                }
            }
            State::Ws(..) => self.receive_ws(input, cx),
            // A client of an event stream has nothing more to send. Input of a closing connection is dropped.
            State::Sse(_) | State::Closing(..) => {}
        }
    }

    fn receive_http(&mut self, mut input: &mut [u8], cx: &mut Context<'_>) {
        let limits = cx.config.http_limits();
        while let State::Http(http) = &mut self.state {
            if let Some(receiving) = &mut http.receiving {
                let (used, done) = match receiving.decoder.decode(input, &mut receiving.body) {
                    Ok(progress) => progress,
                    Err(error) => return self.refuse(&error, cx),
                };
                input = &mut input[used..];
                if receiving.is_idle {
                    receiving.body.clear();
                }
                if !done {
                    let took = receiving.held_bytes();
                    if let Err(too_much) = receiving.counted.grow(took, cx.config.body_limits()) {
                        return self.refuse_body(too_much, cx);
                    }
                    http.buffer = input.to_vec();
                    return;
                }
                if let Some(receiving) = http.receiving.take() {
                    let Receiving { request, shown, body, .. } = *receiving;
                    http.since = None;
                    self.answer(&request, body, shown, cx);
                }
                continue;
            }
            if input.is_empty() {
                return;
            }
            if cx.is_enough() {
                self.held = Some(Box::new(input.to_vec()));
                return;
            }
            http.since.get_or_insert(cx.tick);
            let (request, used) = match http::parse_request(input, &limits) {
                Ok(Some(parsed)) => parsed,
                Ok(None) => {
                    http.buffer = input.to_vec();
                    return;
                }
                Err(error) => return self.refuse(&error, cx),
            };
            input = &mut input[used..];
            cx.budget.spend_bytes(used, HEAD_INSTRUCTIONS);
            cx.budget.spend(ANSWER_UNITS);
            let shown = cx.shared.auth.admit(&request, &cx.config.cors_origins, cx.now, cx.budget);
            self.begin_request(request, shown, input.is_empty(), cx);
        }
        // The request was an upgrade, so the rest of the input is frames.
        if matches!(self.state, State::Ws(..)) && !input.is_empty() {
            self.receive_ws(input, cx);
        }
    }

    /// Answers a request without a body, and begins to receive the body of another one. `is_all` says that nothing was received
    /// after its head.
    fn begin_request(&mut self, request: Request, shown: Shown, is_all: bool, cx: &mut Context<'_>) {
        let State::Http(http) = &mut self.state else { return };
        let decoder = match BodyDecoder::new(&request.body, &cx.config.http_limits()) {
            Ok(decoder) => decoder,
            Err(error) => return self.refuse(&error, cx),
        };
        if matches!(request.body, http::BodyFraming::None) {
            http.since = None;
            return self.answer(&request, Vec::new(), shown, cx);
        }
        let wanted = routes::wants_body(&request, &shown, cx);
        if wanted == BodyWanted::Refused {
            // The body of a client that may not publish is not awaited.
            self.answer(&request, Vec::new(), shown, cx);
            if !matches!(self.state, State::Closing(..)) {
                self.close(cx);
            }
            return;
        }
        if request.expect_continue && is_all {
            cx.send(Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n"));
        }
        let client = routes::client_of_body(&request, &shown, cx);
        let is_idle = wanted == BodyWanted::Idle;
        let counted = cx.shared.clients.bodies.begin(client);
        http.receiving = Some(Box::new(Receiving::new(request, shown, decoder, counted, is_idle)));
    }

    /// Refuses a body because too much is being received.
    fn refuse_body(&mut self, too_much: TooMuch, cx: &mut Context<'_>) {
        let (fault, error) = match too_much {
            TooMuch::Client => (HttpFault::BodiesOfClient, "too many bodies of this client are unfinished"),
            TooMuch::All => {
                (HttpFault::Bodies, "too many bodies are unfinished, many of them of this client")
            }
        };
        cx.shared.metrics.fault(fault.label());
        let mut out = Vec::with_capacity(256);
        routes::write_later(&mut out, fault.status(), error, 1, cx.now);
        cx.send(out);
        self.close(cx);
    }

    fn refuse(&mut self, error: &RequestError, cx: &mut Context<'_>) {
        cx.shared.metrics.fault(error.label());
        let mut out = Vec::with_capacity(256);
        routes::write_error(&mut out, error.status(), &error.to_string(), cx.now);
        cx.send(out);
        self.close(cx);
    }

    /// Handles a request that the embedding program has read, and returns the input after it. If the program has
    /// written the head of the response, none is sent here, and a client that can't be served is closed.
    fn begin(&mut self, adopted: AdoptedRequest, cx: &mut Context<'_>) -> Vec<u8> {
        let AdoptedRequest { request, shown, read, head } = adopted;
        let before = cx.effects.len();
        cx.budget.spend(ANSWER_UNITS);
        let shown = shown
            .unwrap_or_else(|| cx.shared.auth.admit(&request, &cx.config.cors_origins, cx.now, cx.budget));
        if matches!(head, AdoptedHead::Own) {
            // The request's body may still have to come.
            if let State::Http(http) = &mut self.state {
                http.since.get_or_insert(cx.tick);
            }
            self.begin_request(request, shown, read.is_empty(), cx);
            return read;
        }
        self.answer(&request, Vec::new(), shown, cx);
        let is_stream = matches!(self.state, State::Ws(..) | State::Sse(_));
        match head {
            AdoptedHead::Own => {}
            AdoptedHead::Given(head) => {
                if is_stream {
                    replace_head(&mut cx.effects[before..], &head);
                }
            }
            AdoptedHead::Written if is_stream => replace_head(&mut cx.effects[before..], &[]),
            AdoptedHead::Written => {
                cx.effects.truncate(before);
                let last = if ws::is_upgrade(&request) {
                    ws::close_frame(CLOSE_TRY_LATER, "server can't serve this client now: come back later")
                } else {
                    Bytes::new()
                };
                self.close_with(last, cx);
                return Vec::new();
            }
        }
        read
    }

    fn answer(&mut self, request: &Request, body: Vec<u8>, shown: Shown, cx: &mut Context<'_>) {
        cx.shared.metrics.requests.inc();
        if let State::Http(http) = &mut self.state {
            http.is_answered = true;
        }
        match routes::answer(request, body, shown, cx) {
            RouteOutcome::Response => {
                if !request.keep_alive || cx.shared.is_draining() {
                    self.close(cx);
                }
            }
            RouteOutcome::Closed => self.close(cx),
            RouteOutcome::Pending => {
                if let State::Http(http) = &mut self.state {
                    http.closes = !request.keep_alive || cx.shared.is_draining();
                }
            }
            RouteOutcome::Ws(opening, deflate, grant) => {
                let mut session = Session::open(*opening, grant, cx);
                if cx.config.echo {
                    session.become_echo(deflate);
                }
                let ws = Ws { decoder: ws::Decoder::default(), session };
                self.state = State::Ws(Box::new(ws), deflate.is_some());
            }
            RouteOutcome::Sse(grant) => self.become_stream(grant, cx),
        }
    }

    fn become_stream(&mut self, grant: Option<Arc<Grant>>, cx: &mut Context<'_>) {
        if let Some(at) = grant.as_ref().and_then(|grant| rights::expiry(grant, cx.tick, cx.now)) {
            cx.look_at(at);
        }
        self.state = State::Sse(grant);
    }

    /// Returns whether the connection closes after the response to the request that it waits for.
    pub(crate) fn closes_after_response(&self) -> bool {
        matches!(&self.state, State::Http(http) if http.closes)
    }

    /// Begins the event stream that answers the request.
    pub(crate) fn begin_stream(&mut self, opening: StreamOpening, cx: &mut Context<'_>) {
        if !matches!(self.state, State::Http(_)) {
            // The connection closes, because the server shuts down.
            let mut out = Vec::with_capacity(256);
            let error = "server is shutting down: the events are accepted, follow them on another node";
            routes::write_later(&mut out, 503, error, 1, cx.now);
            return cx.send(out);
        }
        match routes::begin_stream(opening, cx) {
            RouteOutcome::Sse(grant) => self.become_stream(grant, cx),
            _ if self.closes_after_response() => self.close(cx),
            _ => {}
        }
    }

    fn receive_ws(&mut self, mut input: &mut [u8], cx: &mut Context<'_>) {
        let limits = cx.config.ws_limits();
        let State::Ws(ws, inflates) = &mut self.state else { return };
        loop {
            if ws.session.is_busy() {
                ws.session.proceed(cx);
            }
            if cx.is_enough() || ws.session.is_busy() {
                self.held = (!input.is_empty()).then(|| Box::new(input.to_vec()));
                return;
            }
            let inflater = inflates.then_some(&mut *cx.inflater);
            let (used, message) = match ws.decoder.decode_with(input, &limits, inflater) {
                Ok(progress) => progress,
                Err(error) => {
                    cx.shared.metrics.fault(error.label());
                    let last = ws::close_frame(error.close_code(), &error.to_string());
                    return self.close_with(last, cx);
                }
            };
            let mut incoming = None;
            match message {
                Some(ws::WsMessage::Text(text)) => incoming = Some(Incoming::Text(text)),
                Some(ws::WsMessage::Binary(bytes)) => incoming = Some(Incoming::Binary(bytes)),
                Some(ws::WsMessage::Ping(payload)) => cx.send(ws::frame(ws::OpCode::Pong, payload)),
                Some(ws::WsMessage::Pong(_)) => {}
                Some(ws::WsMessage::Close(frame)) => {
                    // The code is repeated (RFC 6455, 5.5.1). A close frame without a code gets one without a code.
                    let last = match frame {
                        Some(frame) => ws::close_frame(frame.code, ""),
                        None => ws::frame(ws::OpCode::Close, b""),
                    };
                    return self.close_with(last, cx);
                }
                None if used == 0 => return,
                None => {}
            }
            cx.budget.spend_bytes(used, FRAME_INSTRUCTIONS);
            if let Some(message) = incoming {
                cx.shared.metrics.messages_received.inc();
                cx.budget.spend(MESSAGE_UNITS);
                if let Some(echo) = ws.session.echo() {
                    cx.send(echo.answer(message));
                } else if ws.session.message(message, cx) == Flow::Over {
                    return self.close(cx);
                }
            }
            input = &mut input[used..];
            if input.is_empty() {
                // Frees the memory of a message that arrived in pieces.
                ws.decoder.release();
                return;
            }
        }
    }

    /// Closes the connection after all that was sent.
    pub(crate) fn close(&mut self, cx: &mut Context<'_>) {
        self.close_with(Bytes::new(), cx);
    }

    /// Closes the connection after these bytes.
    fn close_with(&mut self, last: Bytes, cx: &mut Context<'_>) {
        self.leave(cx);
        self.state = State::Closing(cx.tick as u32, self.transport());
        cx.effects.push(Effect::Close(last));
    }

    /// Replaces filters of the newest `count` subscriptions by equal ones that the loop holds.
    pub(crate) fn share_filters<'a>(&mut self, count: usize, held: impl Fn(&Filter) -> Option<&'a Filter>) {
        if let State::Ws(ws, _) = &mut self.state {
            ws.session.share_filters(count, held);
        }
    }

    /// Ends the connection's subscriptions, because it is closing.
    pub(crate) fn leave(&mut self, cx: &mut Context<'_>) {
        if let State::Ws(ws, _) = &mut self.state {
            ws.session.leave(cx);
        }
    }

    /// Closes a connection that fell behind and asked to be closed then.
    pub(crate) fn lagged(&mut self, cx: &mut Context<'_>) {
        let last = match &self.state {
            State::Ws(..) => ws::close_frame(CLOSE_TRY_LATER, "too slow: events would have been lost"),
            _ => Bytes::new(),
        };
        self.close_with(last, cx);
    }

    /// Returns the client's grant, if its rights are limited.
    pub(crate) fn grant(&self) -> Option<&Grant> {
        match &self.state {
            State::Ws(ws, _) => ws.session.grant(),
            State::Sse(grant) => grant.as_deref(),
            State::Http(_) | State::Closing(..) => None,
        }
    }

    /// Records that the past that the client asked for last begins after these places.
    pub(crate) fn past_begins(&mut self, places: impl Iterator<Item = EventId>) {
        if let State::Ws(ws, _) = &mut self.state {
            ws.session.past_begins(places);
        }
    }

    /// Records that everything after these places that the client's subscriptions match is delivered again.
    pub(crate) fn record_refill(&mut self, places: impl Iterator<Item = EventId>) {
        if let State::Ws(ws, _) = &mut self.state {
            ws.session.record_refill(places);
        }
    }

    /// Returns the client's number, in dialects that number their clients.
    pub(crate) fn client(&self) -> u64 {
        if let State::Ws(ws, _) = &self.state { ws.session.client() } else { 0 }
    }

    /// Closes the connection of a client that may no longer see its events, and sends the client the reason.
    pub(crate) fn denied(&mut self, why: Denied, cx: &mut Context<'_>) {
        cx.shared.metrics.grants_ended.get_or_create(&Kind { kind: why.code().name() }).inc();
        match &self.state {
            State::Ws(ws, _) => ws.session.denied(why, cx),
            State::Sse(_) => {
                let data = json!({ "code": why.code(), "error": why.to_string() }).to_string();
                let mut out = Vec::with_capacity(96);
                sse::encode_event(&mut out, Some("closed"), &data, None);
                cx.send(out);
            }
            State::Http(_) | State::Closing(..) => return,
        }
        self.close(cx);
    }

    /// Returns the names of the logs with an end that a subscription names; `None` for an event stream, whose filter
    /// the loop has.
    pub(crate) fn named_logs(&self, subscription: &str, logs: &KeptLogs) -> Option<Vec<LogName>> {
        if let State::Ws(ws, _) = &self.state {
            Some(ws.session.named_logs(subscription, logs))
        } else {
            None
        }
    }

    /// Reports ends of kept logs to the client. An event stream whose logs have all ended is closed.
    pub(crate) fn logs_ended(&mut self, ended: &LogsEnded<'_>, cx: &mut Context<'_>) {
        match &mut self.state {
            State::Ws(ws, _) => ws.session.logs_ended(ended, cx),
            State::Sse(grant) => {
                let mut out = Vec::with_capacity(160 * ended.ends.len());
                for end in ended.ends {
                    let at = if ended.is_late { cx.place(grant.as_deref()) } else { Some(end.at.clone()) };
                    let at = at.map(|at| at.to_string());
                    Encoding::put_sse_log_end(&end.report("", false), at.as_deref(), &mut out);
                }
                if ended.is_over {
                    self.close_with(out.into(), cx);
                } else {
                    cx.send(out);
                }
            }
            State::Http(_) | State::Closing(..) => {}
        }
    }

    /// Records that a piece of the response was written, so the peer is there.
    pub(crate) fn record_activity(&mut self, tick: Tick) {
        self.last_input = tick as u32;
    }

    /// Closes the connection because the server shuts down, and sends the client the delay before it reconnects.
    pub(crate) fn drain(&mut self, delay_ms: u64, cx: &mut Context<'_>) {
        match &self.state {
            State::Ws(ws, _) => {
                ws.session.reconnect(delay_ms, cx);
                let reason = format!("server is shutting down; retry={delay_ms}");
                return self.close_with(ws::close_frame(CLOSE_RESTART, &reason), cx);
            }
            State::Http(http) if http.receiving.is_some() => return,
            State::Sse(_) => {
                let mut out = Vec::with_capacity(32);
                crate::codec::sse::encode_retry(&mut out, delay_ms, None);
                cx.send(out);
            }
            State::Http(_) => {}
            State::Closing(..) => return,
        }
        self.close(cx);
    }

    /// Runs the timer. The loop calls this at the tick that was asked for, or earlier.
    pub(crate) fn timer(&mut self, cx: &mut Context<'_>) -> Timer {
        let config = cx.config;
        let heartbeat = config.heartbeat_ticks();
        let (last_input, last_heartbeat) = (Tick::from(self.last_input), Tick::from(self.last_heartbeat));
        let expiry = self.grant().and_then(|grant| rights::expiry(grant, cx.tick, cx.now));
        if expiry.is_some_and(|expiry| expiry <= cx.tick) {
            return Timer::Denied(Denied::Expired);
        }
        match &mut self.state {
            State::Closing(since, _) => {
                let until = Tick::from(*since) + CLOSING_TICKS;
                if cx.tick < until { Timer::At(until) } else { Timer::Over }
            }
            State::Http(http) => {
                let (since, limit) = match (&http.receiving, http.since) {
                    (Some(_), Some(since)) => (since, config.body_ticks()),
                    (None, Some(since)) => (since, config.handshake_ticks()),
                    (_, None) if http.is_answered => (last_input, config.keep_alive_ticks()),
                    (_, None) => (last_input, config.handshake_ticks()),
                };
                if cx.tick < since + limit {
                    // A request may begin in between, and has a shorter limit, so check often.
                    return Timer::At((since + limit).min(cx.tick + 10));
                }
                if http.since.is_some() {
                    let error = "request was not complete in time";
                    cx.shared.metrics.fault(HttpFault::Timeout.label());
                    let mut out = Vec::with_capacity(256);
                    routes::write_error(&mut out, HttpFault::Timeout.status(), error, cx.now);
                    cx.send(out);
                }
                self.close(cx);
                Timer::At(cx.tick + 10)
            }
            State::Ws(ws, _) => {
                let (flow, look) = ws.session.timer(cx);
                if flow == Flow::Over {
                    self.close(cx);
                    return Timer::At(cx.tick + 10);
                }
                let encoding = ws.session.encoding();
                // At least three ticks, so that the second ping has been sent even with a short heartbeat. After a
                // stall of this process it has not been sent, whatever the clock says.
                let was_pinged_twice = last_heartbeat >= last_input + 2 * heartbeat;
                if was_pinged_twice && cx.tick >= last_input + 2 * heartbeat + (heartbeat / 2).max(3) {
                    cx.shared.metrics.fault(LABEL_HEARTBEAT_MISSED);
                    return Timer::Over;
                }
                let since = |last_heartbeat| {
                    if encoding.protocol().always_beats() {
                        last_heartbeat
                    } else {
                        last_input.max(last_heartbeat)
                    }
                };
                let mut next = since(last_heartbeat) + heartbeat;
                if cx.tick >= next {
                    self.last_heartbeat = cx.tick as u32;
                    next = cx.tick + heartbeat;
                    cx.send(encoding.heartbeat());
                }
                Timer::At(look.map_or(next, |look| look.min(next)))
            }
            State::Sse(_) => {
                // A blocked client needs no heartbeat: it has unread bytes.
                if cx.tick >= last_heartbeat + heartbeat && !cx.blocked {
                    self.last_heartbeat = cx.tick as u32;
                    cx.send(Encoding::NativeSse.heartbeat());
                }
                let next = (Tick::from(self.last_heartbeat) + heartbeat).max(cx.tick + 1);
                Timer::At(expiry.map_or(next, |expiry| expiry.min(next)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of an idle native client apart from its feed: 100,000 of them must cost little.
    #[test]
    fn an_idle_client_is_small() {
        let ws = size_of::<Ws>();
        let connection = size_of::<Connection>();
        assert!(ws <= 104, "a WebSocket client is {ws} bytes");
        assert!(connection <= 32, "a connection is {connection} bytes");
    }
}

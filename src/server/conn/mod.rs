//! One client's connection without its socket: bytes and time in, effects out.
//!
//! Imports every lower room, never mio. Always: whatever bytes come, in whatever pieces, the effects are the
//! same; nothing panics; a fault is answered in the protocol's own form and ends this connection only.

pub(crate) mod echo;
pub(crate) mod saved;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use self::echo::Echo;
use super::Shared;
use super::auth::{Auth, Denied, Grant, Shown};
use super::config::Prepared;
use super::http::routes::{self, BodyWanted, Outcome};
use super::limits::bodies::{Body, TooMuch};
use super::limits::budget::Budget;
use super::limits::rates::Counted;
use super::reactor::wheel::Tick;
use super::rng::Rng;
use super::session::began::Brought;
use super::session::past::PastReport;
pub(crate) use super::session::past::ReplayFrom;
use super::session::rights;
use super::session::{Flow, Session};
use super::shared::workers::LaneLimits;
use crate::codec::deflate::Inflater;
use crate::codec::http::{self, BodyDecoder, Request, RequestError};
use crate::codec::{sse, ws};
use crate::dialect::{Complete, Encoding, Incoming, OnLag};
use crate::engine::Refused;
use crate::event::{EventId, Position, Since, Timestamp};
use crate::feed::{Change, Compression, LagPolicy, REPLY_COST};
use crate::filter::Filter;
use crate::metrics::Kind;

/// What a connection asks its loop to do, in order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Write these bytes behind all that is owed so far.
    Send(Bytes),
    /// Compress what comes behind this.
    Compress(Compression),
    /// Deliver what these filters match, and no longer what others did. None = deliver nothing.
    Interest { encoding: Encoding, wishes: Vec<(Filter, OnLag)> },
    /// Change what is delivered by this. What is lost when it falls behind is `lag_policy` of its feed; the newest `added`
    /// subscriptions have filters that nobody shares yet.
    Change { encoding: Encoding, lag_policy: LagPolicy, changes: Vec<Change>, added: usize },
    /// Deliver what is kept and matches `filter`, but for what `except` brought, before what is live.
    Replay { encoding: Encoding, filter: Filter, except: Vec<Brought>, from: ReplayFrom, report: PastReport },
    /// Deliver again what is kept behind this place and matches one of `filters`, and then what is live; what was owed from
    /// the feed so far goes with it.
    Refill { encoding: Encoding, filters: Vec<Filter>, since: Since },
    /// Publish these, in order, and write what `answer` makes of the last one's id.
    Publish { events: Vec<Complete>, answer: Answer },
    /// Have a thread make an answer, and write it when it comes.
    Work(Work),
    /// It is one of its address's.
    Count(Counted),
    /// It calls itself this.
    Named(Box<str>),
    /// Look at the connection's timer at this tick, besides its usual look.
    LookAt(Tick),
    /// Deliver nothing more, write these last words behind all that is owed, and close.
    Close(Bytes),
}

/// Makes the answer to a publisher, if it gets one, from the id of the last event, or from why none was taken.
pub(crate) struct Answer(pub(crate) MakeAnswer);

type MakeAnswer = Box<dyn FnOnce(Result<Option<EventId>, Refused>) -> Option<Bytes> + Send>;

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

/// What takes too long for a loop: a lane of the server's workers does it while the client waits.
pub(crate) struct Work {
    pub(crate) lane: String,
    pub(crate) limits: LaneLimits,
    /// How long the client waits.
    pub(crate) patience: Tick,
    /// What the job has of the client's.
    pub(crate) bytes: usize,
    pub(crate) job: Box<dyn FnOnce() -> Made + Send>,
    /// The answer where the job makes none.
    pub(crate) instead: Instead,
}

/// What a worker made.
#[derive(Debug)]
pub(crate) enum Made {
    /// The answer.
    Answer(Bytes),
    /// Events to be published, which are answered then.
    Publish { events: Vec<Complete>, answer: Answer },
}

/// Makes the answer to a client whose work is not done.
pub(crate) type Instead = Box<dyn FnOnce(NotDone) -> Bytes + Send>;

/// Why a worker made no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotDone {
    /// There is too much to do; it was not begun.
    Busy,
    /// The client has waited long enough; it may still be under way.
    Late,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Work({})", self.lane)
    }
}

/// What a connection needs from its loop.
pub(crate) struct Context<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) config: &'a Arc<Prepared>,
    pub(crate) rng: &'a mut Rng,
    pub(crate) inflater: &'a mut Inflater,
    pub(crate) tick: Tick,
    pub(crate) now: Timestamp,
    /// What the loop has taken of the bus so far, to resume from; `None` before an engine's log was reached. Made when
    /// it is asked for: most input asks for nothing.
    pub(crate) position: &'a dyn Fn() -> Option<Position>,
    /// The newest event that the client was sent, or is about to be.
    pub(crate) newest: &'a dyn Fn() -> Option<EventId>,
    pub(crate) effects: &'a mut Vec<Effect>,
    /// Bytes of answers given since the loop called.
    pub(crate) answered_bytes: usize,
    /// Work that may still be done for this connection in this turn.
    pub(crate) budget: &'a mut Budget,
    /// Where the peer is. Asks the kernel.
    pub(crate) peer: &'a dyn Fn() -> Option<IpAddr>,
    /// The peer takes no more bytes for now.
    pub(crate) blocked: bool,
}

/// Units for sealing a place: some ten blocks of SHA-256.
const SEAL_UNITS: u32 = 20;

/// A client that asks for more than this at once is answered in pieces, each when the one before is written.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

impl Context<'_> {
    pub(crate) fn send(&mut self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        self.answered_bytes += bytes.len() + REPLY_COST;
        self.effects.push(Effect::Send(bytes));
    }

    /// Where a client resumes that has got all up to here: as it is, or sealed for one that may not know how much goes on
    /// beyond its grant.
    pub(crate) fn place(&mut self, grant: Option<&Grant>) -> Option<Since> {
        let place = (self.position)().map(Since::Position)?;
        if grant.is_none_or(|grant| !grant.narrows()) {
            return Some(place);
        }
        // Two hashes and their padding.
        self.budget.spend(SEAL_UNITS);
        self.shared.auth.seal(&place, self.rng.next_u128() as u64)
    }

    /// What came behind this message waits until the loop has done what it asks for.
    pub(crate) fn hold_input(&mut self) {
        self.budget.stop();
    }

    /// Has the loop look at the connection's timer in time, where the next heartbeat would be too late.
    pub(crate) fn look_at(&mut self, tick: Tick) {
        if tick < self.tick + self.config.heartbeat_ticks() {
            self.effects.push(Effect::LookAt(tick));
        }
    }

    fn is_enough(&self) -> bool {
        self.answered_bytes > ANSWER_BYTES_MAX || self.budget.is_spent()
    }
}

/// A request whose body is still coming.
#[derive(Debug)]
struct Receiving {
    request: Request,
    shown: Shown,
    decoder: BodyDecoder,
    body: Vec<u8>,
    /// What it takes, for its client's share.
    counted: Body,
    /// Nothing is made of it: what comes is let go.
    is_idle: bool,
}

impl Receiving {
    fn new(request: Request, shown: Shown, decoder: BodyDecoder, counted: Body, is_idle: bool) -> Self {
        Self { request, shown, decoder, body: Vec::new(), counted, is_idle }
    }

    /// Bytes that it takes.
    fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.body.capacity() + self.request.held_bytes()
    }
}

#[derive(Debug, Default)]
struct Http {
    /// What came and is not used yet.
    buffer: Vec<u8>,
    receiving: Option<Box<Receiving>>,
    /// When the request that is coming began.
    since: Option<Tick>,
    /// A request was answered: from then on the connection may idle for `keep_alive`.
    is_answered: bool,
}

#[derive(Debug)]
enum State {
    Http(Box<Http>),
    Ws(Box<Ws>),
    /// With what the client may see, where that is not everything.
    Sse(Option<Arc<Grant>>),
    /// Everything is said, at this tick; what comes is thrown away.
    Closing(Tick),
}

#[derive(Debug)]
pub(super) struct Ws {
    decoder: ws::Decoder,
    session: Session,
    /// In place of the session, where the server is an echo.
    echo: Option<Box<Echo>>,
}

/// What a connection speaks, for the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http,
    Ws,
    Sse,
}

impl Speaks {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Ws => "ws",
            Self::Sse => "sse",
        }
    }
}

/// The state machine of one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    state: State,
    speaks: Speaks,
    /// A WebSocket client's messages may be compressed. Here it takes the place of padding.
    inflates: bool,
    /// When the peer was last heard. Ticks here are cut to 32 bits, which is thirteen years.
    heard: u32,
    /// When it was last asked whether it is there.
    asked: u32,
    /// What came while the answers before it were too many.
    #[expect(clippy::box_collection, reason = "rare, and a word in each of very many connections")]
    held: Option<Box<Vec<u8>>>,
}

/// Instructions for a byte of a request's head: some 11,000 for a usual one of 130 bytes.
const HEAD_INSTRUCTIONS: usize = 90;

/// Units for a request's answer, however short the request is: up to 20,000 instructions.
const ANSWER_UNITS: u32 = 15;

/// Units for a message, however short it is: a `ping` takes 10,000 instructions from its frame to the answer's.
const MESSAGE_UNITS: u32 = 8;

/// Instructions for a byte of a frame: unmasked and looked at as UTF-8. What is in it is charged where it is read.
const FRAME_INSTRUCTIONS: usize = 2;

/// How long a connection may take to be written out and closed by its peer, so that the last words are not
/// lost to a reset.
const CLOSING_TICKS: Tick = 50;

/// What a timer found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Look again at this tick.
    At(Tick),
    /// Time is up: close without more words.
    Over,
    /// The time of what it had shown is up: see [`Connection::denied`].
    Denied(Denied),
}

impl Connection {
    pub(crate) fn new(tick: Tick) -> Self {
        Self {
            state: State::Http(Box::default()),
            speaks: Speaks::Http,
            inflates: false,
            heard: tick as u32,
            asked: tick as u32,
            held: None,
        }
    }

    pub(crate) fn speaks(&self) -> Speaks {
        self.speaks
    }

    /// Whether the client must show who it is before more than a message's type is read.
    pub(crate) fn is_stranger(&self, auth: &Auth) -> bool {
        !auth.is_open()
            && match &self.state {
                // A body is read of those only who may publish.
                State::Http(http) => http.receiving.is_none(),
                State::Ws(ws) => ws.session.is_locked(),
                State::Sse(_) | State::Closing(_) => false,
            }
    }

    /// Whether input waits that could be taken once the answers so far are written: call `receive` then,
    /// with nothing if nothing came.
    pub(crate) fn holds_input(&self) -> bool {
        self.held.is_some() || matches!(&self.state, State::Ws(ws) if ws.session.is_busy())
    }

    /// Bytes kept of requests and messages that are not complete, or wait for answers before them.
    pub(crate) fn input_bytes(&self) -> usize {
        let held = self.held.as_ref().map_or(0, |held| held.capacity());
        held + match &self.state {
            State::Http(http) => {
                http.buffer.capacity() + http.receiving.as_ref().map_or(0, |coming| coming.held_bytes())
            }
            State::Ws(ws) => ws.decoder.buffered_bytes(),
            State::Sse(_) | State::Closing(_) => 0,
        }
    }

    /// Bytes that the connection takes beside its own struct.
    pub(crate) fn held_bytes(&self) -> usize {
        self.input_bytes()
            + match &self.state {
                State::Http(_) => size_of::<Http>(),
                State::Ws(ws) => size_of::<Ws>() + ws.session.held_bytes(),
                State::Sse(grant) => grant.as_ref().map_or(0, |grant| grant.held_bytes()),
                State::Closing(_) => 0,
            }
    }

    /// Bytes that its subscriptions take in its loop's tables, where nobody else wants the same.
    pub(crate) fn table_bytes(&self) -> usize {
        if let State::Ws(ws) = &self.state { ws.session.table_bytes() } else { 0 }
    }

    /// Whether a body is coming in of a client that has more than an even part of all of them.
    pub(crate) fn is_greedy(&self, config: &Prepared) -> bool {
        match &self.state {
            State::Http(http) => {
                http.receiving.as_ref().is_some_and(|it| it.counted.is_greedy(config.body_limits()))
            }
            _ => false,
        }
    }

    /// Memory is short, and this client holds much of it: says so in the protocol's own form, and ends.
    pub(crate) fn shed(&mut self, cx: &mut Context<'_>) {
        match &self.state {
            State::Ws(_) => {
                return self
                    .close_with(ws::close_frame(1013, "server is short of memory: come back later"), cx);
            }
            State::Http(http) if http.receiving.is_some() => {
                let mut out = Vec::with_capacity(256);
                let error = "server is short of memory: the body was not taken";
                routes::write_later(&mut out, 503, error, 5, cx.now);
                cx.send(out);
            }
            State::Http(_) | State::Sse(_) => {}
            State::Closing(_) => return,
        }
        self.close(cx);
    }

    /// Takes bytes from the peer. They may be unmasked in place.
    pub(crate) fn receive(&mut self, input: &mut [u8], cx: &mut Context<'_>) {
        self.heard = cx.tick as u32;
        cx.budget.resume();
        if let Some(mut held) = self.held.take() {
            held.extend_from_slice(input);
            self.take(&mut held, cx);
        } else {
            self.take(input, cx);
        }
    }

    fn take(&mut self, input: &mut [u8], cx: &mut Context<'_>) {
        match &mut self.state {
            State::Http(http) if http.buffer.is_empty() => self.receive_http(input, cx),
            State::Http(http) => {
                http.buffer.extend_from_slice(input);
                // A head ends with a line: no use in looking before one does, and many looks at a head that
                // comes byte by byte would be dear.
                if http.receiving.is_some()
                    || input.contains(&b'\n')
                    || http.buffer.len() > cx.config.max_head_bytes
                {
                    let mut buffer = std::mem::take(&mut http.buffer);
                    self.receive_http(&mut buffer, cx);
                }
            }
            State::Ws(_) => self.receive_ws(input, cx),
            // An event stream's client has nothing more to say; neither has one that is let go.
            State::Sse(_) | State::Closing(_) => {}
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
            let decoder = match BodyDecoder::new(&request.body, &limits) {
                Ok(decoder) => decoder,
                Err(error) => return self.refuse(&error, cx),
            };
            let shown = cx.shared.auth.admit(&request, &cx.config.cors_origins, cx.now, cx.budget);
            if matches!(request.body, http::BodyFraming::None) {
                http.since = None;
                self.answer(&request, Vec::new(), shown, cx);
                continue;
            }
            let wanted = routes::wants_body(&request, &shown, cx);
            if wanted == BodyWanted::Refused {
                // The body of who may not publish is not waited for.
                self.answer(&request, Vec::new(), shown, cx);
                if !matches!(self.state, State::Closing(_)) {
                    self.close(cx);
                }
            } else {
                if request.expect_continue && input.is_empty() {
                    cx.send(Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n"));
                }
                let client = routes::client_of_body(&request, &shown, cx);
                let is_idle = wanted == BodyWanted::Idle;
                let receiving =
                    Receiving::new(request, shown, decoder, cx.shared.bodies.begin(client), is_idle);
                http.receiving = Some(Box::new(receiving));
            }
        }
        // The request before was an upgrade: what follows is already frames.
        if matches!(self.state, State::Ws(_)) && !input.is_empty() {
            self.receive_ws(input, cx);
        }
    }

    /// Refuses a body that is coming in, because too much comes in.
    fn refuse_body(&mut self, too_much: TooMuch, cx: &mut Context<'_>) {
        let (status, label, error) = match too_much {
            TooMuch::Client => (429, "bodies_of_client", "too many bodies of this client are unfinished"),
            TooMuch::All => (503, "bodies", "too many bodies are unfinished, many of them of this client"),
        };
        cx.shared.metrics.fault(label);
        let mut out = Vec::with_capacity(256);
        routes::write_later(&mut out, status, error, 1, cx.now);
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

    fn answer(&mut self, request: &Request, body: Vec<u8>, shown: Shown, cx: &mut Context<'_>) {
        cx.shared.metrics.requests.inc();
        if let State::Http(http) = &mut self.state {
            http.is_answered = true;
        }
        match routes::answer(request, body, shown, cx) {
            Outcome::Response => {
                if !request.keep_alive || cx.shared.is_draining() {
                    self.close(cx);
                }
            }
            Outcome::Closed => self.close(cx),
            Outcome::Ws(opening, deflate, grant) => {
                self.speaks = Speaks::Ws;
                self.inflates = deflate.is_some();
                let session = Session::open(*opening, grant, cx);
                self.state = State::Ws(Box::new(Ws {
                    decoder: ws::Decoder::default(),
                    session,
                    echo: cx.config.echo.then(|| Box::new(Echo::new(deflate))),
                }));
            }
            Outcome::Sse(grant) => {
                self.speaks = Speaks::Sse;
                if let Some(at) = grant.as_ref().and_then(|grant| rights::expiry(grant, cx.tick, cx.now)) {
                    cx.look_at(at);
                }
                self.state = State::Sse(grant);
            }
        }
    }

    fn receive_ws(&mut self, mut input: &mut [u8], cx: &mut Context<'_>) {
        let limits = cx.config.ws_limits();
        let State::Ws(ws) = &mut self.state else { return };
        loop {
            if ws.session.is_busy() {
                ws.session.go_on(cx);
            }
            if cx.is_enough() || ws.session.is_busy() {
                self.held = (!input.is_empty()).then(|| Box::new(input.to_vec()));
                return;
            }
            let inflater = self.inflates.then_some(&mut *cx.inflater);
            let (used, message) = match ws.decoder.decode_with(input, &limits, inflater) {
                Ok(progress) => progress,
                Err(error) => {
                    cx.shared.metrics.fault(error.label());
                    let last = ws::close_frame(error.close_code(), &error.to_string());
                    return self.close_with(last, cx);
                }
            };
            let mut said = None;
            match message {
                Some(ws::WsMessage::Text(text)) => said = Some(Incoming::Text(text)),
                Some(ws::WsMessage::Binary(bytes)) => said = Some(Incoming::Binary(bytes)),
                Some(ws::WsMessage::Ping(payload)) => cx.send(ws::frame(ws::OpCode::Pong, payload)),
                Some(ws::WsMessage::Pong(_)) => {}
                Some(ws::WsMessage::Close(frame)) => {
                    // The code comes back (RFC 6455, 5.5.1); without one, a close without one.
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
            if let Some(message) = said {
                cx.shared.metrics.messages_received.inc();
                cx.budget.spend(MESSAGE_UNITS);
                if let Some(echo) = &mut ws.echo {
                    cx.send(echo.answer(message));
                } else if ws.session.message(message, cx) == Flow::Over {
                    return self.close(cx);
                }
            }
            input = &mut input[used..];
            if input.is_empty() {
                // One that came in pieces is not kept until the next comes.
                ws.decoder.release();
                return;
            }
        }
    }

    fn close(&mut self, cx: &mut Context<'_>) {
        self.close_with(Bytes::new(), cx);
    }

    /// Ends it with these last words.
    fn close_with(&mut self, last: Bytes, cx: &mut Context<'_>) {
        self.leave(cx);
        self.state = State::Closing(cx.tick);
        cx.effects.push(Effect::Close(last));
    }

    /// Keeps the loop's own filters in place of equal ones, in the newest `count` subscriptions.
    pub(crate) fn share_filters<'a>(&mut self, count: usize, held: impl Fn(&Filter) -> Option<&'a Filter>) {
        if let State::Ws(ws) = &mut self.state {
            ws.session.share_filters(count, held);
        }
    }

    /// The connection is going: its subscriptions no longer count.
    pub(crate) fn leave(&mut self, cx: &mut Context<'_>) {
        if let State::Ws(ws) = &mut self.state {
            ws.session.leave(cx);
        }
    }

    /// It fell behind, and had asked to be closed for that.
    pub(crate) fn lagged(&mut self, cx: &mut Context<'_>) {
        let last = match &self.state {
            State::Ws(_) => ws::close_frame(1013, "too slow: events would have been lost"),
            _ => Bytes::new(),
        };
        self.close_with(last, cx);
    }

    /// What it has shown of itself, where that limits it.
    pub(crate) fn grant(&self) -> Option<&Grant> {
        match &self.state {
            State::Ws(ws) => ws.session.grant(),
            State::Sse(grant) => grant.as_deref(),
            State::Http(_) | State::Closing(_) => None,
        }
    }

    /// The past that its client asked for last begins behind these places.
    pub(crate) fn past_begins(&mut self, places: impl Iterator<Item = EventId>) {
        if let State::Ws(ws) = &mut self.state {
            ws.session.past_begins(places);
        }
    }

    /// Notes that all that the client's subscriptions match behind these places comes again.
    pub(crate) fn refill_begins(&mut self, places: impl Iterator<Item = EventId>) {
        if let State::Ws(ws) = &mut self.state {
            ws.session.refill_begins(places);
        }
    }

    /// Its number, where its dialect tells clients apart.
    pub(crate) fn client(&self) -> u64 {
        if let State::Ws(ws) = &self.state { ws.session.client() } else { 0 }
    }

    /// It may no longer see what it asked for: says so in the protocol's own form, and ends.
    pub(crate) fn denied(&mut self, why: Denied, cx: &mut Context<'_>) {
        cx.shared.metrics.grants_ended.get_or_create(&Kind { kind: why.code() }).inc();
        match &self.state {
            State::Ws(ws) => ws.session.denied(why, cx),
            State::Sse(_) => {
                let data = json!({ "code": why.code(), "error": why.to_string() }).to_string();
                let mut out = Vec::with_capacity(96);
                sse::encode_event(&mut out, Some("closed"), &data, None);
                cx.send(out);
            }
            State::Http(_) | State::Closing(_) => return,
        }
        self.close(cx);
    }

    /// A page of what it asked for was written: it is there.
    pub(crate) fn heard(&mut self, tick: Tick) {
        self.heard = tick as u32;
    }

    /// The server is going: says so in the protocol's own form, and when to come back.
    pub(crate) fn drain(&mut self, delay_ms: u64, cx: &mut Context<'_>) {
        match &self.state {
            State::Ws(ws) => {
                ws.session.reconnect(delay_ms, cx);
                let reason = format!("server is shutting down; retry={delay_ms}");
                return self.close_with(ws::close_frame(1012, &reason), cx);
            }
            State::Http(http) if http.receiving.is_some() => return,
            State::Sse(_) => {
                let mut out = Vec::with_capacity(32);
                crate::codec::sse::encode_retry(&mut out, delay_ms, None);
                cx.send(out);
            }
            State::Http(_) => {}
            State::Closing(_) => return,
        }
        self.close(cx);
    }

    /// Called at the tick it asked for, or whenever its loop likes.
    pub(crate) fn timer(&mut self, cx: &mut Context<'_>) -> Timer {
        let config = cx.config;
        let heartbeat = config.heartbeat_ticks();
        let (heard, asked) = (Tick::from(self.heard), Tick::from(self.asked));
        let expiry = self.grant().and_then(|grant| rights::expiry(grant, cx.tick, cx.now));
        if expiry.is_some_and(|expiry| expiry <= cx.tick) {
            return Timer::Denied(Denied::Expired);
        }
        match &mut self.state {
            State::Closing(since) if cx.tick < *since + CLOSING_TICKS => Timer::At(*since + CLOSING_TICKS),
            State::Closing(_) => Timer::Over,
            State::Http(http) => {
                let (since, limit) = match (&http.receiving, http.since) {
                    (Some(_), Some(since)) => (since, config.body_ticks()),
                    (None, Some(since)) => (since, config.handshake_ticks()),
                    (_, None) if http.is_answered => (heard, config.keep_alive_ticks()),
                    (_, None) => (heard, config.handshake_ticks()),
                };
                if cx.tick < since + limit {
                    // A request may begin in between, and has less time: look often.
                    return Timer::At((since + limit).min(cx.tick + 10));
                }
                if http.since.is_some() {
                    let error = "request was not complete in time";
                    cx.shared.metrics.fault("timeout");
                    let mut out = Vec::with_capacity(256);
                    routes::write_error(&mut out, 408, error, cx.now);
                    cx.send(out);
                }
                self.close(cx);
                Timer::At(cx.tick + 10)
            }
            State::Ws(ws) => {
                let (flow, look) = ws.session.timer(cx);
                if flow == Flow::Over {
                    self.close(cx);
                    return Timer::At(cx.tick + 10);
                }
                let encoding = ws.session.encoding();
                // Some ticks at the least, so that with a short heartbeat too the second ping has been sent. After a
                // stall of this process it has not been, whatever the clock says.
                let was_asked_twice = asked >= heard + 2 * heartbeat;
                if was_asked_twice && cx.tick >= heard + 2 * heartbeat + (heartbeat / 2).max(3) {
                    cx.shared.metrics.fault("heartbeat_missed");
                    return Timer::Over;
                }
                let since = |asked| if encoding.protocol().always_beats() { asked } else { heard.max(asked) };
                let mut next = since(asked) + heartbeat;
                if cx.tick >= next {
                    self.asked = cx.tick as u32;
                    next = cx.tick + heartbeat;
                    cx.send(encoding.heartbeat());
                }
                Timer::At(look.map_or(next, |look| look.min(next)))
            }
            State::Sse(_) => {
                // Who is blocked has enough to read.
                if cx.tick >= asked + heartbeat && !cx.blocked {
                    self.asked = cx.tick as u32;
                    cx.send(Encoding::NativeSse.heartbeat());
                }
                let next = (Tick::from(self.asked) + heartbeat).max(cx.tick + 1);
                Timer::At(expiry.map_or(next, |expiry| expiry.min(next)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle native client takes of its connection's own: a hundred thousand of them are to cost little.
    #[test]
    fn an_idle_client_is_small() {
        let ws = size_of::<Ws>();
        let connection = size_of::<Connection>();
        assert!(ws <= 128, "a WebSocket client is {ws} bytes");
        assert!(connection <= 48, "a connection is {connection} bytes");
    }
}

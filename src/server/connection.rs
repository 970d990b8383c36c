//! One client's connection without its socket: bytes and time in, effects out.
//!
//! Imports every lower room, never mio. Always: whatever bytes come, in whatever pieces, the effects are the
//! same; nothing panics; a fault is answered in the protocol's own form and ends this connection only.

use bytes::Bytes;

use super::routes::{self, Outcome};
use super::session::Session;
use super::wheel::Tick;
use super::{Rng, Shared};
use crate::codec::http::{self, Body, BodyDecoder, Request, RequestError};
use crate::codec::ws;
use crate::dialect::Encoding;
use crate::event::{EventId, Timestamp};
use crate::filter::Filter;

/// What a connection asks its loop to do, in order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Write these bytes behind all that is owed so far.
    Send(Bytes),
    /// Deliver what these filters match, and no longer what others did. None = deliver nothing.
    Interest { encoding: Encoding, filters: Vec<Filter> },
    /// Deliver what is kept in the ring and matches `filter` but not `except`, before what is live.
    Replay { encoding: Encoding, filter: Filter, except: Vec<Filter>, from: ReplayFrom },
    /// Close, when everything is written.
    Close,
}

/// Where a replay starts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReplayFrom {
    /// Behind this event.
    After(EventId),
    /// At the newest so many that match.
    Newest(usize),
    /// The client named an event that no bus ever had.
    Unknown,
}

/// What a connection needs from its loop.
pub(crate) struct Context<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) rng: &'a mut Rng,
    pub(crate) tick: Tick,
    pub(crate) effects: &'a mut Vec<Effect>,
}

impl Context<'_> {
    pub(crate) fn send(&mut self, bytes: impl Into<Bytes>) {
        self.effects.push(Effect::Send(bytes.into()));
    }

    pub(crate) fn now() -> Timestamp {
        Timestamp::now()
    }
}

/// A request whose body is still coming.
#[derive(Debug)]
struct Receiving {
    request: Request,
    decoder: BodyDecoder,
    body: Vec<u8>,
}

#[derive(Debug, Default)]
struct Http {
    /// What came and is not used yet.
    buffer: Vec<u8>,
    receiving: Option<Receiving>,
    /// When the request that is coming began.
    since: Option<Tick>,
}

#[derive(Debug)]
enum State {
    Http(Box<Http>),
    Ws(Box<Ws>),
    Sse,
    /// Everything is said; what comes is thrown away.
    Closing,
}

#[derive(Debug)]
struct Ws {
    decoder: ws::Decoder,
    session: Session,
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
    /// When the peer was last heard.
    heard: Tick,
    /// When it was last asked whether it is there.
    asked: Tick,
}

/// What a timer found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Look again at this tick.
    At(Tick),
    /// Time is up: close without more words.
    Over,
}

impl Connection {
    pub(crate) fn new(tick: Tick) -> Self {
        Self { state: State::Http(Box::default()), speaks: Speaks::Http, heard: tick, asked: tick }
    }

    pub(crate) fn speaks(&self) -> Speaks {
        self.speaks
    }

    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing)
    }

    /// Takes bytes from the peer. They may be unmasked in place.
    pub(crate) fn receive(&mut self, input: &mut [u8], cx: &mut Context<'_>) {
        self.heard = cx.tick;
        match &mut self.state {
            State::Http(http) => {
                let mut buffer = std::mem::take(&mut http.buffer);
                if buffer.is_empty() {
                    self.receive_http(input, cx);
                } else {
                    buffer.extend_from_slice(input);
                    self.receive_http(&mut buffer, cx);
                }
            }
            State::Ws(_) => self.receive_ws(input, cx),
            // An event stream's client has nothing more to say; neither has one that is let go.
            State::Sse | State::Closing => {}
        }
    }

    fn receive_http(&mut self, mut input: &mut [u8], cx: &mut Context<'_>) {
        let limits = cx.shared.config.http_limits();
        loop {
            let State::Http(http) = &mut self.state else { break };
            if let Some(receiving) = &mut http.receiving {
                let (used, done) = match receiving.decoder.decode(input, &mut receiving.body) {
                    Ok(progress) => progress,
                    Err(error) => return self.refuse(&error, cx),
                };
                input = &mut input[used..];
                if !done {
                    http.buffer = input.to_vec();
                    return;
                }
                if let Some(Receiving { request, body, .. }) = http.receiving.take() {
                    http.since = None;
                    self.answer(&request, &body, cx);
                }
                continue;
            }
            if input.is_empty() {
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
            let decoder = match BodyDecoder::new(&request.body, &limits) {
                Ok(decoder) => decoder,
                Err(error) => return self.refuse(&error, cx),
            };
            if matches!(request.body, Body::None) {
                http.since = None;
                self.answer(&request, &[], cx);
            } else {
                if request.expect_continue && input.is_empty() {
                    cx.send(Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n"));
                }
                http.receiving = Some(Receiving { request, decoder, body: Vec::new() });
            }
        }
        // The request before was an upgrade: what follows is already frames.
        if matches!(self.state, State::Ws(_)) && !input.is_empty() {
            self.receive_ws(input, cx);
        }
    }

    fn refuse(&mut self, error: &RequestError, cx: &mut Context<'_>) {
        cx.shared.metrics.fault(error.label());
        let mut out = Vec::with_capacity(256);
        routes::write_error(&mut out, error.status(), &error.to_string(), &[], false);
        cx.send(out);
        self.close(cx);
    }

    fn answer(&mut self, request: &Request, body: &[u8], cx: &mut Context<'_>) {
        cx.shared.metrics.requests.inc();
        match routes::answer(request, body, cx) {
            Outcome::Response => {
                if !request.keep_alive || cx.shared.is_draining() {
                    self.close(cx);
                }
            }
            Outcome::Closed => self.close(cx),
            Outcome::Ws => {
                self.speaks = Speaks::Ws;
                self.state = State::Ws(Box::new(Ws { decoder: ws::Decoder::default(), session: Session::default() }));
            }
            Outcome::Sse => {
                self.speaks = Speaks::Sse;
                self.state = State::Sse;
            }
        }
    }

    fn receive_ws(&mut self, mut input: &mut [u8], cx: &mut Context<'_>) {
        let limits = cx.shared.config.ws_limits();
        let State::Ws(ws) = &mut self.state else { return };
        loop {
            let (used, message) = match ws.decoder.decode(input, &limits) {
                Ok(progress) => progress,
                Err(error) => {
                    cx.shared.metrics.fault(error.label());
                    cx.send(ws::close_frame(error.close_code(), &error.to_string()));
                    return self.close(cx);
                }
            };
            match message {
                Some(ws::Message::Text(text)) => {
                    cx.shared.metrics.messages_received.inc();
                    ws.session.message(text, cx);
                }
                Some(ws::Message::Binary(_)) => {
                    cx.shared.metrics.messages_received.inc();
                    ws.session.not_a_message(cx);
                }
                Some(ws::Message::Ping(payload)) => cx.send(ws::frame(ws::OpCode::Pong, payload)),
                Some(ws::Message::Pong(_)) => {}
                Some(ws::Message::Close(frame)) => {
                    // The code comes back (RFC 6455, 5.5.1); without one, a close without one.
                    match frame {
                        Some(frame) => cx.send(ws::close_frame(frame.code, "")),
                        None => cx.send(ws::frame(ws::OpCode::Close, b"")),
                    }
                    return self.close(cx);
                }
                None if used == 0 => return,
                None => {}
            }
            input = &mut input[used..];
            if input.is_empty() {
                return;
            }
        }
    }

    fn close(&mut self, cx: &mut Context<'_>) {
        self.leave(cx);
        self.state = State::Closing;
        cx.effects.push(Effect::Close);
    }

    /// The connection is going: its subscriptions no longer count.
    pub(crate) fn leave(&mut self, cx: &mut Context<'_>) {
        if let State::Ws(ws) = &mut self.state {
            ws.session.leave(cx);
        }
    }

    /// The server is going: says so in the protocol's own form.
    pub(crate) fn drain(&mut self, cx: &mut Context<'_>) {
        match &self.state {
            State::Ws(_) => cx.send(ws::close_frame(1001, "server is shutting down")),
            State::Http(http) if http.receiving.is_some() => return,
            State::Http(_) | State::Sse => {}
            State::Closing => return,
        }
        self.close(cx);
    }

    /// Called at the tick it asked for, or whenever its loop likes.
    pub(crate) fn timer(&mut self, cx: &mut Context<'_>) -> Timer {
        let config = &cx.shared.config;
        let heartbeat = config.heartbeat_ticks();
        match &mut self.state {
            State::Closing => Timer::Over,
            State::Http(http) => {
                let (since, limit) = match (&http.receiving, http.since) {
                    (Some(_), Some(since)) => (since, config.body_ticks()),
                    (None, Some(since)) => (since, config.handshake_ticks()),
                    (_, None) if self.heard == self.asked => (self.heard, config.handshake_ticks()),
                    (_, None) => (self.heard, config.keep_alive_ticks()),
                };
                if cx.tick < since + limit {
                    // A request may begin in between, and has less time: look often.
                    return Timer::At((since + limit).min(cx.tick + 10));
                }
                if http.since.is_some() {
                    let error = "request was not complete in time";
                    cx.shared.metrics.fault("timeout");
                    let mut out = Vec::with_capacity(256);
                    routes::write_error(&mut out, 408, error, &[], false);
                    cx.send(out);
                }
                self.close(cx);
                Timer::At(cx.tick + 10)
            }
            State::Ws(_) => {
                if cx.tick >= self.heard + 2 * heartbeat + heartbeat / 2 {
                    cx.shared.metrics.fault("heartbeat_missed");
                    return Timer::Over;
                }
                if cx.tick >= self.heard.max(self.asked) + heartbeat {
                    self.asked = cx.tick;
                    cx.send(Encoding::NativeWs.heartbeat());
                }
                Timer::At(self.heard.max(self.asked) + heartbeat)
            }
            State::Sse => {
                if cx.tick >= self.asked + heartbeat {
                    self.asked = cx.tick;
                    cx.send(Encoding::NativeSse.heartbeat());
                }
                Timer::At(self.asked + heartbeat)
            }
        }
    }
}

//! Entry points of the fuzz targets, such as a connection that is fed with arbitrary bytes in arbitrary pieces.
//!
//! Compiled under `cfg(fuzzing)`, and in tests for past findings (`fuzz/regressions`).

#![cfg_attr(not(fuzzing), allow(unreachable_pub, reason = "public where the fuzzer is"))]

#[cfg(test)]
mod cases;
mod codecs;
mod frames;
#[cfg(test)]
mod regressions;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::sync::Arc;

use crate::bus::Bus;
use crate::codec::deflate::Inflater;
use crate::codec::ws;
use crate::dialect::envelope::ReadError;
use crate::dialect::infer_attributes::complete_with_key;
use crate::dialect::{
    Command, Encoding, Incoming, Others, Place, Reply, Stamp, cloudevents, envelope, fast_path,
};
use crate::event::{Event, Timestamp};
use crate::server::ServerConfig;
use crate::server::conn::Connection;
use crate::server::limits::budget::Budget;
use crate::server::reactor::socket::Socket;
use crate::server::reactor::{LoopState, Token};
use crate::server::rng::Rng;
use crate::server::session::context::{Context, NoLoop};
use crate::server::shared::Shared;

pub use codecs::{filter, http_request, sse_parser};
pub use frames::ws_frame;

/// Reads one control message of the native dialect.
pub fn control_message(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Encoding::NativeWs.protocol().read(Incoming::Text(text), &Place::default(), 1 << 16);
    }
}

/// Feeds a client's message to a dialect: the first byte chooses the dialect, and whether the message is binary. An event
/// that results is encoded in every dialect, natively in lean form too, and the content of a text frame is JSON.
pub fn dialect(data: &[u8]) {
    use Encoding::{AgentosWs, AutosdlcWs, GatheringWs, HiveWs, NativeWs, NativeWsLean};
    let Some((&choice, rest)) = data.split_first() else { return };
    let encodings = [NativeWs, AgentosWs, HiveWs, AutosdlcWs, GatheringWs];
    let encoding = encodings[usize::from(choice & 0x7f) % encodings.len()];
    let message = match (choice & 0x80, std::str::from_utf8(rest)) {
        (0, Ok(text)) => Incoming::Text(text),
        _ => Incoming::Binary(rest),
    };
    let place = Place { channel: "dev-team".into(), client: 7 };
    let _ = encoding.protocol().read_unauthenticated(message, 9 << 10);
    let read = encoding.protocol().read(message, &place, 1 << 16);
    let stamp = Stamp { random: 1, now: Timestamp(0), position: None };
    let mut frames = Vec::new();
    match read.command {
        Ok(Command::Publish { event, .. } | Command::Say(event)) => {
            frames.extend(encodings.map(|encoding| encoding.encode(&event, None)));
            frames.push(NativeWsLean.encode(&event, None));
        }
        Ok(Command::Subscribe(subscribe)) => {
            for filter in std::iter::once(&subscribe.filter).chain(&subscribe.or) {
                let _ = filter.check(&crate::filter::FilterLimits::default());
            }
        }
        Ok(_) => frames.extend(encoding.protocol().reply(&Reply::Pong, &read.tag, stamp)),
        Err(error) => {
            let answer = encoding.protocol().reply(&Reply::Error(&error), &read.tag, stamp);
            frames.push(answer.expect("a fault is reported"));
        }
    }
    for frame in frames {
        let mut bytes = frame.to_vec();
        let mut decoder = ws::Decoder::new(ws::Role::Client);
        let limits = ws::WsLimits { max_message_bytes: 1 << 30, max_frame_bytes: 1 << 30 };
        if let Ok((_, Some(ws::WsMessage::Text(text)))) = decoder.decode(&mut bytes, &limits) {
            let is_word = text == "pong";
            assert!(is_word || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(), "{text}");
        } else {
            panic!("no text frame");
        }
    }
}

/// Reads an event. An accepted event is written and reads back as the same event.
pub fn event(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let object = |event: &Event| {
        let mut written = String::new();
        envelope::write_lean(event, &mut written);
        written
    };
    for others in [Others::PassedOver, Others::Refused] {
        match (fast_path::read(text, others, complete_with_key), envelope::read_any(text, others)) {
            (Some(Ok((quick, terms))), Ok(event)) => {
                assert_eq!(object(&quick), object(&event));
                assert_eq!(terms.dedupe_id.as_deref(), event.dedupe_id());
            }
            (Some(Err(_)), Err(ReadError::Event(_))) => {}
            (None, Err(error)) => assert!(!matches!(error, ReadError::Event(_)), "{error}: {text}"),
            (_, read) => panic!("the readers differ: {text}: {read:?}"),
        }
    }
    let Ok(event) = envelope::read_event(text) else {
        assert!(envelope::read_published(text).is_err(), "a publisher may say more: {text}");
        return;
    };
    match envelope::read_published(text) {
        Ok(published) => assert_eq!(object(&published), object(&event)),
        Err(error) => assert!(matches!(error, ReadError::UnknownKey(_)), "{error}: {text}"),
    }
    let mut written = String::new();
    envelope::write_event(&event, &mut written);
    let Ok(again) = envelope::read_published(&written) else { panic!("not an event: {written}") };
    let mut twice = String::new();
    envelope::write_event(&again, &mut twice);
    assert_eq!(written, twice);
}

/// Reads a CloudEvent. The first byte chooses the form; in the binary one, lines up to an empty one are headers. An accepted
/// event is written and read back by the native dialect.
pub fn cloud_event(data: &[u8]) {
    let Some((&form, rest)) = data.split_first() else { return };
    let event = if form & 1 == 0 {
        let Ok(text) = std::str::from_utf8(rest) else { return };
        cloudevents::read_structured(text)
    } else {
        let end = rest.windows(2).position(|two| two == b"\n\n");
        let (head, body) = end.map_or((rest, &[][..]), |end| (&rest[..end], &rest[end + 2..]));
        let Ok(head) = std::str::from_utf8(head) else { return };
        let headers = head.lines().filter_map(|line| line.split_once(':')).map(|(n, v)| (n, v.trim()));
        let kind = headers.clone().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        cloudevents::read_binary(headers, kind.map(|(_, value)| value), body)
    };
    let Ok(event) = event else { return };
    let mut written = String::new();
    envelope::write_event(&event, &mut written);
    let Ok(again) = envelope::read_event(&written) else { panic!("not an event: {written}") };
    assert_eq!((event.event_type(), event.payload()), (again.event_type(), again.payload()));
}

/// Simulated socket between the loop and one client.
#[derive(Debug, Default)]
struct Line {
    arrived: VecDeque<u8>,
    /// Bytes that the client still takes.
    room: usize,
    taken: Vec<u8>,
    hung_up: bool,
    broken: bool,
}

#[derive(Clone, Debug, Default)]
struct End(Rc<RefCell<Line>>);

impl Read for End {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut line = self.0.borrow_mut();
        if line.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if line.arrived.is_empty() && !line.hung_up {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        line.arrived.read(buffer)
    }
}

impl Write for End {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut line = self.0.borrow_mut();
        if line.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let most = bytes.len().min(line.room);
        if most == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        line.room -= most;
        line.taken.extend_from_slice(&bytes[..most]);
        Ok(most)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for End {
    fn close_write(&mut self) {}
}

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: f\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// End of a handshake for lean events, instead of its last two bytes.
const LEAN: &[u8] = b"Sec-WebSocket-Protocol: fanwire.v1.lean\r\n\r\n";

/// Drives a loop with two clients, the clock and a publisher: an operation per byte, followed by its arguments. The ledger
/// balances after each turn, and nothing is left when all clients are gone.
pub fn conversation(data: &[u8]) {
    let config = ServerConfig { max_lag_events: 4, max_lag_bytes: 2000, ..ServerConfig::default() };
    let shared = Arc::new(Shared::new(small_bus(), config, 1));
    shared.workers.work_inline();
    let mut core: LoopState<End> = LoopState::new(Arc::clone(&shared), shared.bus.reader(|| {}), 1, 0);
    let mut clients: [Option<(Token, End)>; 2] = [None, None];
    let (mut tick, mut published) = (0, 0);
    let mut input = data.iter().copied();
    while let Some(op) = input.next() {
        let place = usize::from(op >> 7);
        let size = |input: &mut dyn Iterator<Item = u8>| usize::from(input.next().unwrap_or(0));
        if clients[place].is_none() {
            let end = End::default();
            end.0.borrow_mut().room = 100_000;
            core.wake(tick, Timestamp(tick as i64 * 100_000));
            clients[place] = core.admit(end.clone()).map(|token| (token, end));
        }
        let mut ready = (false, false);
        if let Some((_, end)) = &clients[place] {
            let mut line = end.0.borrow_mut();
            match op & 7 {
                // A list of types that changes.
                1 if op & 0x78 == 0x78 => {
                    let (of, what) = (size(&mut input), size(&mut input));
                    let text = list_message(what, of);
                    let size = (text.len() as u16).to_be_bytes();
                    line.arrived.extend([0x81, 0x80 | 0x7e, size[0], size[1], 0, 0, 0, 0]);
                    line.arrived.extend(text.as_bytes());
                    ready.0 = true;
                }
                // Raw bytes, or bytes in a frame.
                0 => {
                    let count = size(&mut input);
                    line.arrived.extend(input.by_ref().take(count));
                    ready.0 = true;
                }
                1 => {
                    let count = size(&mut input).min(125);
                    let text: Vec<u8> = input.by_ref().take(count).collect();
                    // A mask of zeros changes nothing.
                    line.arrived.extend([0x81, 0x80 | text.len() as u8, 0, 0, 0, 0].iter().chain(&text));
                    ready.0 = true;
                }
                2 => {
                    let (head, end) = UPGRADE.split_at(UPGRADE.len() - 2);
                    line.arrived.extend(head);
                    line.arrived.extend(if op & 8 == 0 { end } else { LEAN });
                    ready.0 = true;
                }
                3 => tick += size(&mut input) as u64,
                4 => {
                    for _ in 0..size(&mut input) % 24 {
                        let event = Event::builder(["a.b", "a.c", "b"][published % 3])
                            .stream(["x", "y"][published % 2])
                            .json(format!("{{\"n\":{published}}}"));
                        shared.bus.publish(event.build().expect("an event"));
                        published += 1;
                    }
                }
                5 => {
                    line.room = size(&mut input) * 16;
                    ready.1 = line.room > 0;
                }
                6 => {
                    line.hung_up = true;
                    ready.0 = true;
                }
                _ => {
                    line.broken = true;
                    ready = (true, true);
                }
            }
        }
        core.wake(tick, Timestamp(tick as i64 * 100_000));
        if let Some((token, _)) = &clients[place] {
            core.ready(*token, ready.0, ready.1);
        }
        core.turn();
        let audit = core.audit();
        assert_eq!(audit.difference, 0, "{}", audit.ledger);
        for client in &mut clients {
            if client.as_ref().is_some_and(|(token, _)| core.socket(*token).is_none()) {
                *client = None;
            }
        }
    }
    for (token, end) in clients.iter().flatten() {
        end.0.borrow_mut().broken = true;
        core.ready(*token, true, true);
    }
    for _ in 0..4 {
        core.turn();
    }
    let audit = core.audit();
    assert_eq!((audit.difference, audit.connections, audit.feeds), (0, 0, 0), "{audit:?}");
}

/// Returns a message about a subscription to types: a subscribe, or a change by the bits of `add` and `remove`.
fn list_message(what: usize, of: usize) -> String {
    let types = |bits: usize| {
        let all = ["a.b", "a.c", "b", "a.*"];
        let named: Vec<&str> = (0..4).filter(|bit| bits & 1 << bit != 0).map(|bit| all[bit]).collect();
        format!("{named:?}")
    };
    let (add, remove) = (types(of), types(of >> 4));
    let snapshot = what & 2 != 0;
    if what & 1 == 0 {
        format!(
            r#"{{"type":"subscribe","payload":{{"subscription_id":"l","event_types":{add},"snapshot":{snapshot}}}}}"#
        )
    } else {
        format!(
            r#"{{"type":"update","payload":{{"subscription_id":"l","add":{{"event_types":{add}}},"remove":{{"event_types":{remove}}}}}}}"#
        )
    }
}

/// Returns a small bus, because each input has a new one.
fn small_bus() -> Bus {
    Bus::builder().capacity(16).build().expect("a power of two")
}

/// Returns the authentication of a server with this secret, which no input knows.
#[cfg(feature = "auth")]
fn auth(secret: &str) -> crate::server::auth::Auth {
    let mut config = crate::server::auth::AuthConfig::default();
    config.jwt.hs256_secret = Some(secret.into());
    config.jwt.require_exp = false;
    crate::server::auth::Auth::load(&config).expect("a secret is all it takes")
}

/// Checks that a token without the server's signature is never accepted, and that claims of these bytes, signed with the
/// server's own key, allow only events of their lists.
#[cfg(feature = "auth")]
pub fn token(data: &[u8]) {
    const SECRET: &str = "a secret of thirty-two bytes, or more";
    let Ok(text) = std::str::from_utf8(data) else { return };
    let auth = auth(SECRET);
    assert!(auth.verify(text, Timestamp(0), &mut Budget::new(u32::MAX)).is_err(), "no key vouches for it");
    let Ok(claims) = serde_json::from_str::<crate::server::auth::Claims>(text) else { return };
    let Ok(token) = crate::server::auth::SigningKey::hs256(&SECRET.into()).sign(&claims) else { return };
    let Ok(Some(grant)) = auth.verify(&token, Timestamp(0), &mut Budget::new(u32::MAX)) else { return };
    let _ = auth.ended(&grant, Timestamp(1));
    let narrow = grant.narrow(&crate::filter::Filter::new());
    for stream in ["a", "b.c", ""] {
        let event = crate::event::Event::builder("t").stream(stream).build();
        let listed = claims.streams.as_ref().is_none_or(|list| !list.is_empty());
        assert!(listed || !event.is_ok_and(|event| narrow.matches(&event)), "an empty list allows nothing");
    }
}

/// Feeds a whole connection. The first byte chooses the length of the pieces, and whether a token is required.
pub fn session(data: &[u8]) {
    let Some((&cut, rest)) = data.split_first() else { return };
    #[cfg_attr(not(feature = "auth"), expect(unused_mut))]
    let mut shared = Shared::new(small_bus(), ServerConfig::default(), 1);
    #[cfg(feature = "auth")]
    if cut & 1 == 1 {
        shared.auth = Arc::new(auth("a secret of thirty-two bytes, or more"));
    }
    let shared = Arc::new(shared);
    let (_, config) = shared.config();
    let mut rng = Rng::new(1);
    let mut inflater = Inflater::default();
    let mut effects = Vec::new();
    let mut connection = Connection::new(0);
    let mut input = rest.to_vec();
    for (tick, piece) in input.chunks_mut(usize::from(cut) + 1).enumerate() {
        let mut cx = Context {
            shared: &shared,
            config: &config,
            rng: &mut rng,
            inflater: &mut inflater,
            tick: tick as u64,
            now: Timestamp(0),
            view: &NoLoop,
            effects: &mut effects,
            answered_bytes: 0,
            budget: &mut Budget::new(u32::MAX),
            blocked: false,
        };
        connection.receive(piece, &mut cx);
        let _ = connection.timer(&mut cx);
        effects.clear();
    }
}

//! What the fuzz targets drive: a connection fed with a stranger's bytes, cut where the input says.
//!
//! Compiled under `cfg(fuzzing)` only.

use std::sync::Arc;

use super::connection::{Connection, Context};
use super::{Rng, ServerConfig, Shared};
use crate::bus::Bus;
use crate::codec::deflate::Inflater;
use crate::codec::ws;
use crate::dialect::{Command, Encoding, Incoming, Place, Reply, Stamp, envelope};
use crate::event::Timestamp;

/// Reads one control message of the native dialect.
pub fn control_message(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Encoding::NativeWs.protocol().read(Incoming::Text(text), &Place::default());
    }
}

/// What a client of any dialect says: the first byte chooses the dialect, and whether it comes as binary. An event
/// that comes of it is encoded in every dialect, and what stands in a text frame is JSON.
pub fn dialect(data: &[u8]) {
    use Encoding::{AgentosWs, AutosdlcWs, GatheringWs, HiveWs, NativeWs};
    let Some((&choice, rest)) = data.split_first() else { return };
    let encodings = [NativeWs, AgentosWs, HiveWs, AutosdlcWs, GatheringWs];
    let encoding = encodings[usize::from(choice & 0x7f) % encodings.len()];
    let message = match (choice & 0x80, std::str::from_utf8(rest)) {
        (0, Ok(text)) => Incoming::Text(text),
        _ => Incoming::Binary(rest),
    };
    let place = Place { channel: "dev-team".into(), client: 7 };
    let read = encoding.protocol().read(message, &place);
    let stamp = Stamp { random: 1, now: Timestamp(0), position: None };
    let mut frames = Vec::new();
    match read.command {
        Ok(Command::Publish(event) | Command::Say(event)) => {
            frames.extend(encodings.map(|encoding| encoding.encode(&event, None)));
        }
        Ok(Command::Subscribe(subscribe)) => {
            for filter in std::iter::once(&subscribe.filter).chain(&subscribe.or) {
                let _ = filter.check(&ServerConfig::default().filter_limits());
            }
        }
        Ok(_) => frames.extend(encoding.protocol().reply(&Reply::Pong, &read.asked, stamp)),
        Err(error) => {
            let answer = encoding.protocol().reply(&Reply::Error(&error), &read.asked, stamp);
            frames.push(answer.expect("a fault is told"));
        }
    }
    for frame in frames {
        let mut bytes = frame.to_vec();
        let mut decoder = ws::Decoder::new(ws::Role::Client);
        let limits = ws::WsLimits { max_message_bytes: 1 << 30, max_frame_bytes: 1 << 30 };
        if let Ok((_, Some(ws::Message::Text(text)))) = decoder.decode(&mut bytes, &limits) {
            let is_word = text == "pong";
            assert!(is_word || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(), "{text}");
        } else {
            panic!("no text frame");
        }
    }
}

/// Reads an event; what was taken is written, and reads back as the same.
pub fn event(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(event) = envelope::read_event(text) else { return };
    let mut written = String::new();
    envelope::write_event(&event, &mut written);
    let Ok(again) = envelope::read_event(&written) else { panic!("not an event: {written}") };
    let mut twice = String::new();
    envelope::write_event(&again, &mut twice);
    assert_eq!(written, twice);
}

/// A new ring for each input, so a small one.
fn small_bus() -> Bus {
    Bus::builder().capacity(16).build().expect("a power of two")
}

/// A server of this secret, which no input knows.
#[cfg(feature = "auth")]
fn auth(secret: &str) -> super::auth::Auth {
    let mut config = super::auth::AuthConfig::default();
    config.jwt.hs256_secret = Some(secret.into());
    config.jwt.require_exp = false;
    super::auth::Auth::load(&config).expect("a secret is all it takes")
}

/// A token of a stranger, who never gets in; and the same bytes as claims that the server's own key has signed,
/// whose grant lets see nothing but what its lists say.
#[cfg(feature = "auth")]
pub fn token(data: &[u8]) {
    const SECRET: &str = "a secret of thirty-two bytes, or more";
    let Ok(text) = std::str::from_utf8(data) else { return };
    let auth = auth(SECRET);
    assert!(auth.verify(text, Timestamp(0)).is_err(), "no key vouches for it");
    let Ok(claims) = serde_json::from_str::<super::auth::Claims>(text) else { return };
    let Ok(token) = super::auth::SigningKey::hs256(&SECRET.into()).sign(&claims) else { return };
    let Ok(Some(grant)) = auth.verify(&token, Timestamp(0)) else { return };
    let _ = auth.ended(&grant, Timestamp(1));
    let narrow = grant.narrow(&crate::filter::Filter::new());
    for stream in ["a", "b.c", ""] {
        let event = crate::event::Event::builder("t").stream(stream).build();
        let listed = claims.streams.as_ref().is_none_or(|list| !list.is_empty());
        assert!(listed || !event.is_ok_and(|event| narrow.matches(&event)), "an empty list allows nothing");
    }
}

/// A whole connection: the first byte says how long the pieces are, in which the rest comes, and whether a token is
/// asked for.
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
            position: None,
            effects: &mut effects,
            answered_bytes: 0,
            peer: None,
            blocked: false,
        };
        connection.receive(piece, &mut cx);
        let _ = connection.timer(&mut cx);
        effects.clear();
    }
}

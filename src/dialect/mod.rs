//! Client protocols: an event to their bytes, their messages to commands. One file each.
//!
//! Imports `catalogue`, `event`, `filter` and `codec`. Always: no I/O and no clock of its own; what a dialect encodes for
//! many clients depends on the event alone; whatever bytes come in, the outcome is a [`ClientMessage`].

mod adopt;
mod agentos;
pub(crate) mod autosdlc;
pub(crate) mod cloudevents;
mod command;
pub(crate) mod envelope;
mod gap;
mod gathering;
mod hive;
pub(crate) mod keys;
pub(crate) mod lean;
pub(crate) mod native;
pub(crate) mod protocol;
pub(crate) mod quick;
pub(crate) mod sse_bridge;
mod uuid;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{sse, ws};
use crate::event::{ENCODINGS_MAX, Event, Position};

pub(crate) use adopt::Complete;
#[cfg(any(test, fuzzing))]
pub(crate) use adopt::complete;
pub(crate) use command::UNKNOWN;
pub(crate) use command::{
    Asked, ClientError, ClientMessage, Command, INVALID_FILTER, Incoming, Opening, PastEnd, PastStart, Place,
    Refusal, Reply, Stamp, Subscribe, shortened, split_entity,
};
pub(crate) use gap::{GapNotice, Missed};

/// A client protocol: the words in which a client asks and is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// Fanwire's own, which is FCC's: `{type, payload, message_id, timestamp, correlation_id}`.
    Native,
    /// AgentOS's event stream: the bare envelope v1, everything from the moment of connecting.
    Agentos,
    /// Hive's streaming: `{"action": …}` in, `{"type": "event", "event": …}` out.
    Hive,
    /// AutoSDLC's messages: `{id, type, timestamp, data, metadata}`, subscriptions by resource.
    Autosdlc,
    /// GatheRing's channels by path: `{type, data, timestamp, channel}`, and what a client says goes to the others.
    Gathering,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 5] = [Self::Native, Self::Agentos, Self::Hive, Self::Autosdlc, Self::Gathering];

    /// Its name in options and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Agentos => "agentos",
            Self::Hive => "hive",
            Self::Autosdlc => "autosdlc",
            Self::Gathering => "gathering",
        }
    }

    /// What a connection is from its start, by the path's channel and the query; or what is wrong with them.
    pub(crate) fn open(self, place: Place, query: &[(String, String)]) -> Result<Opening, String> {
        match self {
            Self::Native => Ok(Opening { encoding: Encoding::NativeWs, subscribe: None, place: None }),
            Self::Agentos => agentos::open(query),
            Self::Hive => Ok(hive::open(query)),
            Self::Autosdlc => Ok(autosdlc::open(place, query)),
            Self::Gathering => Ok(gathering::open(place)),
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseDialectError(String);

impl fmt::Display for ParseDialectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Dialect::ALL.map(Dialect::name).join(", ");
        write!(f, "'{}' is no dialect: {names}, or fcc, which is native", shortened(&self.0))
    }
}

impl std::error::Error for ParseDialectError {}

impl FromStr for Dialect {
    type Err = ParseDialectError;

    fn from_str(text: &str) -> Result<Self, ParseDialectError> {
        let name = if text == "fcc" { "native" } else { text };
        Self::ALL.into_iter().find(|d| d.name() == name).ok_or_else(|| ParseDialectError(text.to_owned()))
    }
}

/// One client protocol over WebSocket.
pub(crate) trait Protocol: Sync {
    /// Reads one message.
    /// One that is compressed may come to `bytes_max`.
    fn read(&self, message: Incoming<'_>, place: &Place, bytes_max: usize) -> ClientMessage;

    /// Reads a message's type alone, and what a client may say before it has shown a token: a ping, the token. All else
    /// is [`Command::Withheld`], as is what is longer than `bytes_max`.
    fn glance(&self, message: Incoming<'_>, bytes_max: usize) -> ClientMessage;

    /// An answer's frame; `None` where this dialect has no words for it.
    fn reply(&self, reply: &Reply<'_>, asked: &Asked, stamp: Stamp) -> Option<Bytes>;

    /// The `gap` message, where clients are told in band. Where not, the frame is one that no application sees.
    fn gap(&self, gap: &GapNotice) -> Bytes;

    /// Returns the message behind the last event of a past; `None` where this dialect's document has none.
    fn past_end(&self, _end: &PastEnd<'_>, _stamp: &Stamp) -> Option<Bytes> {
        None
    }

    /// Asks whether the client is still there, on a connection that is quiet.
    fn heartbeat(&self) -> Bytes {
        ws::frame(ws::OpCode::Ping, b"")
    }

    /// Whether the heartbeat is sent to a client that is heard, too.
    fn always_beats(&self) -> bool {
        false
    }

    /// How many messages of each kind its document allows a client.
    fn usual_limits(&self) -> Usual {
        &[]
    }

    /// How the connection of a client that is refused ends: close code and reason. `None`: it does not end.
    fn refuse(&self, why: &Refusal) -> Option<(u16, Cow<'static, str>)>;
}

/// What a dialect's document says of the messages that one client may send in a window (a minute, where nothing
/// else is configured): kinds with their numbers, the empty name for all others.
pub(crate) type Usual = &'static [(&'static str, u32)];

/// What a subscription wants done when its client lags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OnLag {
    /// The oldest events go, and a gap tells how many.
    #[default]
    DropOldest,
    /// The newest go, and a gap tells how many.
    DropNewest,
    /// The latest event of each key comes; those before it are left out.
    Conflate,
    /// At most so many a second, lag or not; at least one.
    Sample { per_second: u32 },
    /// The connection is closed.
    Disconnect,
}

/// How many events a second a sample has where the client does not say.
const SAMPLE_PER_SECOND_DEFAULT: u32 = 10;

impl OnLag {
    /// Reads the contract's word for it, or says which there are. `per_second` is for `sample` alone.
    pub(crate) fn read(word: Option<&str>, per_second: Option<u32>) -> Result<Self, String> {
        let rate = per_second.filter(|rate| *rate > 0).unwrap_or(SAMPLE_PER_SECOND_DEFAULT);
        Ok(match word {
            None | Some("drop_oldest") => Self::DropOldest,
            Some("drop_newest") => Self::DropNewest,
            Some("conflate") => Self::Conflate,
            Some("sample") => Self::Sample { per_second: rate },
            Some("disconnect") => Self::Disconnect,
            Some(other) => {
                let words = "drop_oldest, drop_newest, conflate, sample or disconnect";
                return Err(format!("on_lag '{}' is none of {words}", shortened(other)));
            }
        })
    }
}

/// How an event's bytes look on a connection: dialect x transport, and what the client chose of its dialect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub(crate) enum Encoding {
    /// Native messages in WebSocket text frames.
    #[default]
    NativeWs = 0,
    /// Native events as SSE, named by their type.
    NativeSse = 1,
    /// Native events as SSE without a name, for `onmessage`.
    NativeSseUnnamed = 2,
    /// AgentOS's envelopes.
    AgentosWs = 3,
    /// Hive's messages.
    HiveWs = 4,
    /// Hive's messages in binary frames.
    HiveWsBinary = 5,
    /// AgentOS's envelopes, and gaps told in band. Its event frames are [`Self::AgentosWs`]'s.
    AgentosWsGaps = 6,
    /// GatheRing's messages.
    GatheringWs = 7,
    /// AutoSDLC's messages.
    AutosdlcWs = 8,
    /// AutoSDLC's messages, the longer ones as gzip in binary frames.
    AutosdlcWsGzip = 9,
    /// Native messages, and events without a message around them.
    NativeWsLean = 10,
    /// Native payloads as SSE, named by their type.
    NativeSseLean = 11,
    /// Native payloads as SSE without a name.
    NativeSseLeanUnnamed = 12,
}

// Every event keeps at most one frame for each.
const _: () = assert!((Encoding::NativeSseLeanUnnamed as usize) < ENCODINGS_MAX);

impl Encoding {
    /// Where an event keeps its frame: encodings whose event frames are the same bytes share one.
    pub(crate) const fn slot(self) -> usize {
        match self {
            Self::AgentosWsGaps => Self::AgentosWs as usize,
            own => own as usize,
        }
    }

    /// Which dialect that is.
    pub(crate) const fn dialect(self) -> Dialect {
        match self {
            Self::NativeWs
            | Self::NativeSse
            | Self::NativeSseUnnamed
            | Self::NativeWsLean
            | Self::NativeSseLean
            | Self::NativeSseLeanUnnamed => Dialect::Native,
            Self::AgentosWs | Self::AgentosWsGaps => Dialect::Agentos,
            Self::HiveWs | Self::HiveWsBinary => Dialect::Hive,
            Self::AutosdlcWs | Self::AutosdlcWsGzip => Dialect::Autosdlc,
            Self::GatheringWs => Dialect::Gathering,
        }
    }

    /// Whether its bytes are an event stream, and not WebSocket messages.
    pub(crate) const fn is_sse(self) -> bool {
        matches!(
            self,
            Self::NativeSse | Self::NativeSseUnnamed | Self::NativeSseLean | Self::NativeSseLeanUnnamed
        )
    }

    /// Whether its events say no more than they must.
    pub(crate) const fn is_lean(self) -> bool {
        matches!(self, Self::NativeWsLean | Self::NativeSseLean | Self::NativeSseLeanUnnamed)
    }

    /// The same with lean events, where its dialect has such.
    pub(crate) const fn lean(self) -> Self {
        match self {
            Self::NativeWs => Self::NativeWsLean,
            Self::NativeSse => Self::NativeSseLean,
            Self::NativeSseUnnamed => Self::NativeSseLeanUnnamed,
            other => other,
        }
    }

    /// Whose words they are, where clients speak.
    pub(crate) const fn protocol(self) -> &'static dyn Protocol {
        match self {
            Self::NativeWs
            | Self::NativeSse
            | Self::NativeSseUnnamed
            | Self::NativeWsLean
            | Self::NativeSseLean
            | Self::NativeSseLeanUnnamed => &native::Native,
            Self::AgentosWs => &agentos::Agentos { gaps: false },
            Self::AgentosWsGaps => &agentos::Agentos { gaps: true },
            Self::HiveWs => &hive::Hive { binary: false },
            Self::HiveWsBinary => &hive::Hive { binary: true },
            Self::GatheringWs => &gathering::Gathering,
            Self::AutosdlcWs => &autosdlc::Autosdlc { gzip: false },
            Self::AutosdlcWsGzip => &autosdlc::Autosdlc { gzip: true },
        }
    }

    /// The event's frame in this encoding, made now, for who stands at `position` behind it. See [`Event::frame`]
    /// for the shared one, which is for [`Event::position`].
    pub(crate) fn encode(self, event: &Event, position: Option<&Position>) -> Bytes {
        let mut frame = Vec::new();
        self.put(event, position, &mut frame);
        frame.into()
    }

    /// Appends the event's frame to others.
    pub(crate) fn put(self, event: &Event, position: Option<&Position>, frames: &mut Vec<u8>) {
        match self {
            Self::NativeWs => native::put_event(event, position, frames),
            Self::NativeSse => put_sse_event(event, Some(event.event_type()), position, frames),
            Self::NativeSseUnnamed => put_sse_event(event, None, position, frames),
            Self::AgentosWs | Self::AgentosWsGaps => agentos::put_event(event, frames),
            Self::HiveWs => hive::put_event(event, false, frames),
            Self::HiveWsBinary => hive::put_event(event, true, frames),
            Self::GatheringWs => gathering::put_event(event, frames),
            Self::AutosdlcWs => autosdlc::put_event(event, false, frames),
            Self::AutosdlcWsGzip => autosdlc::put_event(event, true, frames),
            Self::NativeWsLean => lean::put_event(event, position, frames),
            Self::NativeSseLean => lean::put_sse_event(event, Some(event.event_type()), position, frames),
            Self::NativeSseLeanUnnamed => lean::put_sse_event(event, None, position, frames),
        }
    }

    /// The frame that tells a client of a gap.
    pub(crate) fn gap(self, gap: &GapNotice) -> Bytes {
        if !self.is_sse() {
            return self.protocol().gap(gap);
        }
        let mut out = Vec::with_capacity(128);
        sse::encode_event(&mut out, Some("gap"), &gap.json(), None);
        out.into()
    }

    /// Returns the frame behind the last event of a past, where there is one. On an event stream it is a comment, which no
    /// client's code sees by accident.
    pub(crate) fn past_end(self, end: &PastEnd<'_>, stamp: &Stamp) -> Option<Bytes> {
        if !self.is_sse() {
            return self.protocol().past_end(end, stamp);
        }
        let mut out = Vec::with_capacity(48);
        let PastEnd { events, complete, .. } = end;
        sse::encode_comment(&mut out, &format!("history_end events={events} complete={complete}"));
        Some(out.into())
    }

    /// The frame that asks whether the client is still there, on a connection that is quiet.
    pub(crate) fn heartbeat(self) -> Bytes {
        if self.is_sse() { Bytes::from_static(b": heartbeat\n\n") } else { self.protocol().heartbeat() }
    }
}

fn put_sse_event(event: &Event, name: Option<&str>, position: Option<&Position>, frames: &mut Vec<u8>) {
    command::in_scratch(|json| {
        envelope::write_event(event, json);
        put_sse_data(event, name, json, position, frames);
    });
}

/// Appends an event of an event stream with this data, and the place behind it as its id.
fn put_sse_data(
    event: &Event,
    name: Option<&str>,
    data: &str,
    position: Option<&Position>,
    frames: &mut Vec<u8>,
) {
    let id = position.map(Position::to_string).or_else(|| event.id().map(|id| id.to_string()));
    sse::encode_event(frames, name, data, id.as_deref());
}

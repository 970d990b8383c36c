//! What clients ask for and are answered, whatever their dialect's words for it.
//!
//! Imports `event` and `filter`. Always: a session executes these and nothing else, so what is allowed, limited
//! and counted is so for every dialect.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{self, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::encoding::Encoding;
use super::infer_attributes::Complete;
use super::on_lag::OnLag;
use crate::codec::ws;
use crate::event::{EventId, Since, Timestamp};
use crate::filter::{Filter, FilterError, VALUES_MAX};

/// A WebSocket message, whole.
#[derive(Clone, Copy)]
pub(crate) enum Incoming<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
}

impl Incoming<'_> {
    /// Bytes of the message as it came.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// Its length: it may hold a token.
impl fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Binary(bytes) => write!(f, "Binary({} bytes)", bytes.len()),
        }
    }
}

/// What a client asks for.
pub(crate) enum Command {
    Subscribe(Box<Subscribe>),
    Unsubscribe {
        subscription_id: String,
        /// Whether an id that is not known is a fault.
        strict: bool,
    },
    Request {
        action: String,
    },
    /// All that its subscriptions match behind this place, once more, and then what is live.
    Refill {
        since: Since,
    },
    /// Who is in a channel.
    Presence {
        channel: String,
    },
    Ping,
    Auth {
        token: String,
    },
    Publish(Complete),
    /// Publish, and do not let the client hear itself: from here on it gets nothing from this event's source.
    Say(Complete),
    /// An answer of the client's own, or words that mean nothing here: taken silently.
    Nothing,
    /// Something that was not read beyond its type.
    Withheld,
}

/// Without the token.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscribe(subscribe) => f.debug_tuple("Subscribe").field(subscribe).finish(),
            Self::Unsubscribe { subscription_id, .. } => write!(f, "Unsubscribe({subscription_id:?})"),
            Self::Publish(event) | Self::Say(event) => f.debug_tuple("Publish").field(event).finish(),
            Self::Auth { .. } => f.write_str("Auth(..)"),
            _ => f.write_str("Command(..)"),
        }
    }
}

/// A subscription as asked for.
#[derive(Clone, Debug)]
pub(crate) struct Subscribe {
    /// The client's own name for it. One that it had already is replaced.
    pub(crate) subscription_id: Option<String>,
    pub(crate) filter: Filter,
    /// It wants what one of these matches, too.
    pub(crate) or: Vec<Filter>,
    pub(crate) since: Option<Since>,
    pub(crate) history: Option<usize>,
    /// First the latest event of each key.
    pub(crate) snapshot: bool,
    /// Its past is to be whole, also where other subscriptions brought some of it.
    pub(crate) own_past: bool,
    pub(crate) on_lag: OnLag,
    /// What was asked for, for who may ask about a client, where the dialect tells clients their ids.
    pub(crate) config: Option<Box<RawValue>>,
}

impl From<Filter> for Subscribe {
    fn from(filter: Filter) -> Self {
        Self {
            subscription_id: None,
            filter,
            or: Vec::new(),
            since: None,
            history: None,
            snapshot: false,
            own_past: false,
            on_lag: OnLag::default(),
            config: None,
        }
    }
}

/// What an answer repeats of the message that it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing.
    #[default]
    Silent,
    /// The message's id.
    Id(String),
    /// That it was a bare word, no JSON.
    Bare,
}

impl Asked {
    /// By the id of the message, if it had one.
    pub(crate) fn of(id: Option<Cow<'_, str>>) -> Self {
        id.map_or(Self::Silent, |id| Self::Id(id.into_owned()))
    }

    pub(crate) fn id(&self) -> Option<&str> {
        if let Self::Id(id) = self { Some(id) } else { None }
    }
}

/// One message as its dialect reads it.
#[derive(Debug)]
pub(crate) struct ClientMessage {
    /// The message's type where the dialect knows it, else [`UNKNOWN`]: for limits and counts.
    pub(crate) kind: &'static str,
    pub(crate) asked: Asked,
    pub(crate) command: Result<Command, ClientError>,
}

/// The kind of what is no message, or none that is known.
pub(crate) const UNKNOWN: &str = "unknown";

/// The text for anything that is not JSON or not a message: the FCC and AutoSDLC documents' words.
pub(crate) const INVALID_MESSAGE: &str = "Invalid message format";

/// The code of a filter that is not well formed, or over a limit.
pub(crate) const INVALID_FILTER: &str = "invalid_filter";

/// A fault in a client's message, as an answer tells it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientError {
    pub(crate) code: &'static str,
    pub(crate) text: String,
    /// What more there is to say, in dialects that have a place for it.
    pub(crate) details: Option<String>,
    /// All that a schema finds wrong, each with its place.
    pub(crate) faults: Vec<String>,
    /// Where in a filter's text the fault is, in characters from 1.
    pub(crate) column: Option<usize>,
}

impl From<FilterError> for ClientError {
    fn from(error: FilterError) -> Self {
        let column = Some(error.column()).filter(|column| *column > 0);
        Self { column, ..Self::new(INVALID_FILTER, error.to_string()) }
    }
}

impl ClientError {
    pub(crate) fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), details: None, faults: Vec::new(), column: None }
    }

    /// It is not even a message.
    pub(crate) fn invalid(details: impl Into<String>) -> Self {
        Self { details: Some(details.into()), ..Self::new("invalid_message", INVALID_MESSAGE) }
    }

    /// It is not what its schema says.
    #[cfg(feature = "schema")]
    pub(crate) fn faulty(faults: Vec<String>) -> Self {
        Self { details: Some(faults.join("; ")), faults, ..Self::new("schema", INVALID_MESSAGE) }
    }
}

/// What a client is told.
#[derive(Debug)]
pub(crate) enum Reply<'a> {
    /// It is connected, and has this number.
    Welcome {
        client: u64,
    },
    Subscribed {
        id: &'a str,
        /// Beginning of the past that it asked for, if it did.
        past: Option<&'a PastStart>,
    },
    Unsubscribed {
        id: &'a str,
    },
    /// Events behind this place come next.
    Refilling {
        since: &'a Since,
    },
    /// The server goes; it may come back after so many milliseconds.
    Reconnect(u64),
    /// To a request, as JSON.
    Response(&'a str),
    Published(Option<EventId>),
    Pong,
    Authenticated,
    /// The token was no good. [`Protocol::refuse`](super::WireProtocol::refuse) says whether that is the end.
    AuthFailed(&'a str),
    Error(&'a ClientError),
}

/// Start of a past that a client asked for, as far as it is known when the subscribe is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PastStart {
    /// Place behind which the past begins; none where nothing is known before it.
    pub(crate) from: Option<Since>,
    /// Whether all that was asked for is there now; none where that has to be found out first.
    pub(crate) complete: Option<bool>,
}

/// End of a past: what the client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PastEnd<'a> {
    /// Name of the subscription; empty for a stream, which has one subscription without a name.
    pub(crate) subscription_id: &'a str,
    /// Events that came as the past. Gaps are not counted.
    pub(crate) events: u64,
    /// False where a gap stands among them.
    pub(crate) complete: bool,
}

/// Why a client is let go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "without authentication nobody is refused")]
pub(crate) enum Refusal {
    /// It asked for something before it said who it is.
    NoToken,
    /// What it said was no good: why.
    BadToken(String),
    /// It said nothing in time: the limit in seconds.
    TooLate(u64),
}

/// When an answer is made, and random bits for its id.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    pub(crate) random: u128,
    pub(crate) now: Timestamp,
    /// Where to resume, as of now: all that is wanted up to this place stands before the answer. So a client that
    /// has not got an event yet, or none for long, misses nothing when its connection breaks.
    pub(crate) position: Option<Since>,
}

/// What a connection's path says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The channel that its path names, in a dialect of channels.
    pub(crate) channel: Box<str>,
    /// A number of its own, which no other client of this server has.
    pub(crate) client: u64,
}

/// How a connection starts, by its path and query.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) encoding: Encoding,
    /// What it gets without asking.
    pub(crate) subscribe: Option<Box<Subscribe>>,
    pub(crate) place: Option<Box<Place>>,
}

/// A client's own word in an answer to it, bounded.
pub(crate) fn shortened(text: &str) -> &str {
    text.char_indices().nth(64).map_or(text, |(at, _)| &text[..at])
}

/// `kind:id`, as query strings and messages write it; a kind alone means any of it.
pub(crate) fn split_entity(text: &str) -> (String, String) {
    let (kind, id) = text.split_once(':').unwrap_or((text, "**"));
    (kind.to_owned(), id.to_owned())
}

/// A list of which no more is kept than shows that it is too long: [`VALUES_MAX`] and one more. So a long list is
/// counted before anything in it is parsed.
#[derive(Debug)]
pub(super) struct Bounded<T>(pub(super) Vec<T>);

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

fn bounded<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(mut list: A) -> Result<Vec<T>, A::Error> {
    let mut kept = Vec::new();
    while kept.len() <= VALUES_MAX {
        match list.next_element()? {
            Some(value) => kept.push(value),
            None => return Ok(kept),
        }
    }
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(kept)
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bounded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Bounded<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Bounded<T>, A::Error> {
                bounded(list).map(Bounded)
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// A list of strings, or one string for a list of one, or null for none; bounded as [`Bounded`] is.
#[derive(Debug, Default)]
pub(super) struct Strings(Vec<String>);

impl Strings {
    pub(super) fn into_vec(self) -> Vec<String> {
        self.0
    }
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: de::Error>(self, one: &str) -> Result<Strings, E> {
                Ok(Strings(vec![one.to_owned()]))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Strings, E> {
                Ok(Strings::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Strings, A::Error> {
                bounded(list).map(Strings)
            }
        }
        deserializer.deserialize_any(List)
    }
}

/// What `write` makes of an empty text, which is the thread's own: only the result takes memory.
pub(super) fn in_scratch<T>(write: impl FnOnce(&mut String) -> T) -> T {
    /// A longer text's memory is not kept.
    const KEPT_BYTES_MAX: usize = 64 << 10;
    thread_local! {
        static SCRATCH: Cell<String> = const { Cell::new(String::new()) };
    }
    SCRATCH.with(|scratch| {
        let mut text = scratch.take();
        text.clear();
        let made = write(&mut text);
        if text.capacity() <= KEPT_BYTES_MAX {
            scratch.set(text);
        }
        made
    })
}

/// Appends a JSON text's frame.
pub(super) fn put_text(out: &mut Vec<u8>, json: &str) {
    ws::encode(out, ws::OpCode::Text, json.as_bytes());
}

/// A JSON text in a frame of its own.
pub(super) fn text_frame(json: &str) -> Bytes {
    ws::frame(ws::OpCode::Text, json.as_bytes())
}

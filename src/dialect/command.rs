//! Commands that clients send and replies that they receive, independent of the dialect.
//!
//! Invariant: a session executes these commands and nothing else, so rights, limits and counts are the same in every
//! dialect.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{self, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::codes::ErrorCode;
use super::concat::Concat;
use super::encoding::Encoding;
use super::infer_attributes::Complete;
use super::on_lag::OnLag;
use crate::codec::ws;
use crate::event::{EventId, Since, Timestamp};
use crate::filter::{Filter, FilterError, MemberPatterns, VALUES_MAX};

/// A complete WebSocket message.
#[derive(Clone, Copy)]
pub(crate) enum Incoming<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
}

impl Incoming<'_> {
    /// Returns the message's length in bytes, before decompression.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// Shows the length only: the message may hold a token.
impl fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Binary(bytes) => write!(f, "Binary({} bytes)", bytes.len()),
        }
    }
}

/// One request of a client.
pub(crate) enum Command {
    Subscribe(Box<Subscribe>),
    /// Adds values to lists of a subscription, and removes values.
    Update(Box<Update>),
    Unsubscribe {
        subscription_id: String,
        /// Whether an unknown id is an error.
        strict: bool,
    },
    Request {
        action: String,
    },
    /// Sends again everything after this place that the client's subscriptions match, then live events.
    Refill {
        since: Since,
    },
    /// Lists the members of a channel.
    Presence {
        channel: String,
    },
    Ping,
    Auth {
        token: String,
    },
    Publish {
        event: Complete,
        /// Whether success is reported too. An error always is.
        is_acked: bool,
    },
    /// Publishes the event, and excludes events of this source, the client's own, from its delivery.
    Say(Complete),
    /// A reply of the client, or a message without a meaning here; ignored.
    Nothing,
    /// A message of which only the type was read.
    Withheld,
}

/// Hides the token.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscribe(subscribe) => f.debug_tuple("Subscribe").field(subscribe).finish(),
            Self::Update(update) => f.debug_tuple("Update").field(update).finish(),
            Self::Unsubscribe { subscription_id, .. } => write!(f, "Unsubscribe({subscription_id:?})"),
            Self::Publish { event, .. } | Self::Say(event) => f.debug_tuple("Publish").field(event).finish(),
            Self::Auth { .. } => f.write_str("Auth(..)"),
            _ => f.write_str("Command(..)"),
        }
    }
}

/// A subscription as requested.
#[derive(Clone, Debug)]
pub(crate) struct Subscribe {
    /// The client's own id for the subscription. An earlier subscription of this id is replaced.
    pub(crate) subscription_id: Option<String>,
    pub(crate) filter: Filter,
    /// Alternatives: an event that matches one of these matches too.
    pub(crate) or: Vec<Filter>,
    pub(crate) since: Option<Since>,
    pub(crate) history: Option<usize>,
    /// Whether the past begins with all retained events of the kept logs that the filter names or matches.
    pub(crate) from_start: bool,
    /// Whether it is an error if there is no such log.
    pub(crate) absent_is_error: bool,
    /// Whether the latest event of each key comes first.
    pub(crate) snapshot: bool,
    /// Whether the past is sent in full, including events that the client received by other subscriptions.
    pub(crate) own_past: bool,
    pub(crate) on_lag: OnLag,
    /// Merge of neighbours in the past, or of events read to catch up.
    pub(crate) concat: Option<Concat>,
    /// The client's request as JSON, for operators, in dialects in which clients know their ids.
    pub(crate) config: Option<Box<RawValue>>,
    /// A bit for each list that an update can't change, by its attribute, because the filter's text names values of it.
    pub(crate) fixed_lists: u16,
}

impl From<Filter> for Subscribe {
    fn from(filter: Filter) -> Self {
        Self {
            subscription_id: None,
            filter,
            or: Vec::new(),
            since: None,
            history: None,
            from_start: false,
            absent_is_error: false,
            snapshot: false,
            own_past: false,
            on_lag: OnLag::default(),
            concat: None,
            config: None,
            fixed_lists: 0,
        }
    }
}

/// Change of the lists of one subscription.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    pub(crate) subscription_id: String,
    pub(crate) lists: Vec<ListUpdate>,
}

/// Values to add to one list of a subscription, and to remove from it. Each is sorted and distinct, and no value is in
/// both.
#[derive(Clone, Debug)]
pub(crate) struct ListUpdate {
    /// Name of the list in messages.
    pub(crate) name: &'static str,
    /// Number of the list's attribute, or [`ENTITY`](crate::filter::ENTITY).
    pub(crate) about: u8,
    pub(crate) add: Vec<MemberPatterns>,
    pub(crate) remove: Vec<MemberPatterns>,
}

impl ListUpdate {
    /// Checks that no value is in both lists, which are sorted.
    pub(crate) fn check_apart(&self) -> Result<(), ClientError> {
        if self.add.iter().any(|value| self.remove.binary_search(value).is_ok()) {
            let text = format!("{}: a value is in add and in remove; say one of them", self.name);
            return Err(ClientError::new(ErrorCode::InvalidPayload, text));
        }
        Ok(())
    }
}

/// Values that an update added and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UpdateCounts {
    pub(crate) added: usize,
    pub(crate) removed: usize,
    /// Values to remove that the subscription did not have.
    pub(crate) not_held: usize,
}

/// Part of a message that its reply repeats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ReplyTag {
    /// Nothing.
    #[default]
    None,
    /// The message's id.
    Id(String),
    /// The message was a bare word, not JSON, and so is the reply.
    Bare,
}

impl ReplyTag {
    /// Returns the message's id, if it has one.
    pub(crate) fn of(id: Option<Cow<'_, str>>) -> Self {
        id.map_or(Self::None, |id| Self::Id(id.into_owned()))
    }

    pub(crate) fn id(&self) -> Option<&str> {
        if let Self::Id(id) = self { Some(id) } else { None }
    }
}

/// A message after its dialect has read it.
#[derive(Debug)]
pub(crate) struct ClientMessage {
    /// The message's type if the dialect knows it, else [`UNKNOWN`]; for limits and counts.
    pub(crate) kind: &'static str,
    pub(crate) tag: ReplyTag,
    pub(crate) command: Result<Command, ClientError>,
}

/// Kind of a message with an unknown type, and of text that is no message.
pub(crate) const UNKNOWN: &str = "unknown";

/// Error text for text that is no message, as in the FCC and AutoSDLC documents.
pub(crate) const INVALID_MESSAGE: &str = "Invalid message format";

/// Fault in a client's message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientError {
    pub(crate) code: ErrorCode,
    pub(crate) text: String,
    /// More detail, for dialects that have a field for it.
    pub(crate) details: Option<String>,
    /// Faults that a schema finds, each with its place.
    pub(crate) faults: Vec<String>,
    /// Position of the fault in a filter's text, in characters from 1.
    pub(crate) column: Option<usize>,
    /// Kept log that refuses an event.
    pub(crate) log: Option<Box<RefusingLog>>,
}

/// Kept log that refuses an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RefusingLog {
    /// Attribute by which the log is kept.
    pub(crate) by: &'static str,
    pub(crate) value: Box<str>,
    /// Newest event of the log, if it has an id already.
    pub(crate) last_event_id: Option<EventId>,
}

impl From<FilterError> for ClientError {
    fn from(error: FilterError) -> Self {
        let column = Some(error.column()).filter(|column| *column > 0);
        Self { column, ..Self::new(ErrorCode::InvalidFilter, error.to_string()) }
    }
}

impl ClientError {
    pub(crate) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), details: None, faults: Vec::new(), column: None, log: None }
    }

    /// Creates the error of text that is no message.
    pub(crate) fn invalid(details: impl Into<String>) -> Self {
        Self { details: Some(details.into()), ..Self::new(ErrorCode::InvalidMessage, INVALID_MESSAGE) }
    }

    /// Creates the error of a message that does not fit its schema.
    #[cfg(feature = "schema")]
    pub(crate) fn faulty(faults: Vec<String>) -> Self {
        Self { details: Some(faults.join("; ")), faults, ..Self::new(ErrorCode::Schema, INVALID_MESSAGE) }
    }
}

/// Channel of a client, and the template by which the client named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnChannel {
    /// Text of the template, as `user:{sub}`.
    pub(crate) template: Box<str>,
    pub(crate) channel: Box<str>,
}

impl OwnChannel {
    /// Adds channels to the payload of an `ack`. By them a client with several subscriptions finds those that an event is for.
    pub(super) fn add(own: &[Self], payload: &mut serde_json::Value) {
        for Self { template, channel } in own {
            payload["own_channels"][&**template] = (&**channel).into();
        }
    }

    /// Returns the memory of the channel and its template, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.template.len() + self.channel.len()
    }
}

/// One reply to a client.
#[derive(Debug)]
pub(crate) enum Reply<'a> {
    /// The client is connected, and has this number.
    Welcome {
        client: u64,
    },
    Subscribed {
        id: &'a str,
        /// Start of the past that the client asked for, if it did.
        past: Option<&'a PastStart>,
        /// Channels that the client named by templates.
        own: &'a [OwnChannel],
    },
    Unsubscribed {
        id: &'a str,
    },
    Updated {
        counts: UpdateCounts,
        /// Start of the snapshot of the added values, if one follows.
        past: Option<&'a PastStart>,
        /// Channels among the added values that the client named by templates.
        own: &'a [OwnChannel],
    },
    /// Events after this place come next.
    Refilling {
        since: &'a Since,
    },
    /// The server ends; the client may reconnect after this many milliseconds.
    Reconnect(u64),
    /// Response to a request, as JSON.
    Response(&'a str),
    Published {
        id: Option<EventId>,
        /// Whether the event is a duplicate: it was published before and is not published again.
        is_duplicate: bool,
    },
    Pong,
    Authenticated,
    /// The token was refused. [`WireProtocol::refuse`](super::WireProtocol::refuse) says whether the connection ends.
    AuthFailed(&'a str),
    Error(&'a ClientError),
}

/// Start of a past that a client asked for, as known at the time of the reply to its `subscribe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PastStart {
    /// Place after which the past begins; `None` if there is no known place before it.
    pub(crate) from: Option<Since>,
    /// Whether everything that was asked for is still retained; `None` if this is not known yet.
    pub(crate) complete: Option<bool>,
}

/// End of a past: the events that the client received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PastEnd<'a> {
    /// Id of the subscription; empty for a stream, which has one subscription without an id.
    pub(crate) subscription_id: &'a str,
    /// Events of the past. Gaps are not counted.
    pub(crate) events: u64,
    /// False if the past has a gap.
    pub(crate) complete: bool,
}

/// End of a kept log, for one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEnded<'a> {
    /// Id of the subscription; empty for a stream.
    pub(crate) subscription_id: &'a str,
    /// Attribute with a log for each value; the next field is the value.
    pub(crate) by: &'static str,
    pub(crate) value: &'a str,
    pub(crate) last_event_id: EventId,
    /// Whether the log was kept from its first event on.
    pub(crate) complete: bool,
    /// Whether the subscription is over with it.
    pub(crate) is_over: bool,
}

/// Reason for refusing a client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "without authentication no client is refused")]
pub(crate) enum Refusal {
    /// The client requested something before it sent a token.
    NoToken,
    /// The token was refused, for this reason.
    BadToken(String),
    /// The client sent no token in time: the limit in seconds.
    TooLate(u64),
}

/// Time of a reply, and random bits for its id.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    pub(crate) random: u128,
    pub(crate) now: Timestamp,
    /// Place to resume from: every matching event up to it was sent before the reply. So a client that has received no
    /// event yet, or none for long, can resume without a loss when its connection breaks.
    pub(crate) position: Option<Since>,
}

/// Channel and number of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Channel in the connection's path, in a dialect with channels.
    pub(crate) channel: Box<str>,
    /// Number of the client, unique in this server.
    pub(crate) client: u64,
}

/// Start of a connection, from its path and query.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) encoding: Encoding,
    /// Subscription that the client has without asking.
    pub(crate) subscribe: Option<Box<Subscribe>>,
    pub(crate) place: Option<Box<Place>>,
}

/// Maximum number of values in one list of a native message. A subscription has a filter for each 256 of them.
pub(crate) const LIST_VALUES_MAX: usize = 1024;

/// A list that keeps at most `MAX` and one more value, enough to show that it is too long. A long list is therefore counted
/// before its values are parsed.
#[derive(Debug)]
pub(super) struct Bounded<T, const MAX: usize = VALUES_MAX>(pub(super) Vec<T>);

impl<T, const MAX: usize> Default for Bounded<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

fn bounded<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(mut list: A, max: usize) -> Result<Vec<T>, A::Error> {
    let mut kept = Vec::new();
    while kept.len() <= max {
        match list.next_element()? {
            Some(value) => kept.push(value),
            None => return Ok(kept),
        }
    }
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(kept)
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
            type Value = Bounded<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Bounded<T, MAX>, A::Error> {
                bounded(list, MAX).map(Bounded)
            }
        }
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

/// A list of strings, a single string, or null for none; bounded as [`Bounded`].
#[derive(Debug, Default)]
pub(super) struct Strings<const MAX: usize = VALUES_MAX>(Vec<String>);

impl<const MAX: usize> Strings<MAX> {
    pub(super) fn into_vec(self) -> Vec<String> {
        self.0
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Strings<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringsVisitor<const MAX: usize>;
        impl<'de, const MAX: usize> Visitor<'de> for StringsVisitor<MAX> {
            type Value = Strings<MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: de::Error>(self, one: &str) -> Result<Strings<MAX>, E> {
                Ok(Strings(vec![one.to_owned()]))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Strings<MAX>, E> {
                Ok(Strings::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Strings<MAX>, A::Error> {
                bounded(list, MAX).map(Strings)
            }
        }
        deserializer.deserialize_any(StringsVisitor)
    }
}

/// Calls `write` with an empty thread-local string and returns the result. Only the result allocates.
pub(super) fn in_scratch<T>(write: impl FnOnce(&mut String) -> T) -> T {
    /// Maximum capacity that is kept for the next call, in bytes.
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

/// Appends the frame of a JSON text.
pub(super) fn put_text(out: &mut Vec<u8>, json: &str) {
    ws::encode(out, ws::OpCode::Text, json.as_bytes());
}

/// Returns the frame of a JSON text.
pub(super) fn text_frame(json: &str) -> Bytes {
    ws::frame(ws::OpCode::Text, json.as_bytes())
}

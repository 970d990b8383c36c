//! Hive's streaming: `{"action": …}` in, `{"type":"event","event":{…}}` out.
//!
//! Invariants:
//! - Nothing is delivered before a subscribe, and a second subscribe adds to the first.
//! - Types match in any case, and are sent in lower case.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::codes::{CLOSE_POLICY, ErrorCode};
use super::command::{Strings, UNKNOWN, in_scratch};
use super::wire::WireProtocol;
use super::{
    ClientError, ClientMessage, Command, Encoding, GapNotice, Incoming, Opening, Place, Refusal, Reply,
    ReplyTag, Stamp, Subscribe, shortened,
};
use crate::codec::ws;
use crate::event::{Attribute, Event, json};
use crate::filter::{Filter, Pattern};

/// Hive's dialect.
#[derive(Debug)]
pub(super) struct Hive {
    /// Whether the client asked for binary frames.
    pub(super) binary: bool,
}

/// Reads the query: `?binary=1` asks for binary frames, which some clients read with less work.
pub(super) fn open(query: &[(String, String)]) -> Opening {
    let is_binary = |(name, value): &(String, String)| {
        (name == "binary" && matches!(value.as_str(), "" | "1" | "true"))
            || (name == "frames" && value == "binary")
    };
    let encoding = if query.iter().any(is_binary) { Encoding::HiveWsBinary } else { Encoding::HiveWs };
    Opening { encoding, subscribe: None, place: None }
}

#[derive(Deserialize, Default)]
struct HiveMessage<'a> {
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
    #[serde(default)]
    stream_id: Option<Strings>,
    #[serde(default)]
    execution_id: Option<Strings>,
    #[serde(default)]
    event_types: Option<Strings>,
    #[serde(default)]
    subscription_id: Option<String>,
}

/// Returns a name in the cases that publishers use: as given, lower and upper.
fn in_any_case(name: &str) -> [Pattern; 3] {
    [Pattern::new(name), Pattern::new(name.to_lowercase()), Pattern::new(name.to_uppercase())]
}

impl HiveMessage<'_> {
    fn command(self) -> (&'static str, Result<Command, ClientError>) {
        let list = |strings: Option<Strings>| strings.unwrap_or_default().into_vec();
        match &*self.action {
            "subscribe" => {
                // Ids match exactly, even with asterisks in them.
                let exact = |ids| list(ids).into_iter().map(Pattern::exact);
                let types = list(self.event_types);
                let filter = Filter::new()
                    .any_of(Attribute::Stream, exact(self.stream_id))
                    .any_of(Attribute::Execution, exact(self.execution_id))
                    .any_of(Attribute::Type, types.iter().flat_map(|name| in_any_case(name)));
                let subscribe = Subscribe {
                    subscription_id: self.subscription_id.filter(|id| !id.is_empty()),
                    ..Subscribe::from(filter)
                };
                ("subscribe", Ok(Command::Subscribe(Box::new(subscribe))))
            }
            "unsubscribe" => {
                // Without an id, every subscription ends.
                let subscription_id = self.subscription_id.unwrap_or_else(|| "*".to_owned());
                ("unsubscribe", Ok(Command::Unsubscribe { subscription_id, strict: false }))
            }
            "auth" => match self.token {
                Some(token) => ("auth", Ok(Command::Auth { token: token.into_owned() })),
                None => ("auth", Err(ClientError::new(ErrorCode::AuthFailed, "token is missing"))),
            },
            "ping" => ("ping", Ok(Command::Ping)),
            "pong" => ("pong", Ok(Command::Nothing)),
            other => {
                let text = format!("Unknown action: {}", shortened(other));
                (UNKNOWN, Err(ClientError::new(ErrorCode::UnknownAction, text)))
            }
        }
    }
}

/// A message's action and token.
#[derive(Deserialize)]
struct HiveGlance<'a> {
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
}

/// Reads the fields of a message that `T` has.
fn fields<'a, T: Deserialize<'a>>(message: Incoming<'a>) -> Result<T, ClientError> {
    let text = match message {
        Incoming::Text(text) => Some(text),
        Incoming::Binary(bytes) => simdutf8::basic::from_utf8(bytes).ok(),
    };
    let Some(text) = text.filter(|text| text.trim_ascii_start().starts_with('{')) else {
        return Err(ClientError::invalid("not a JSON object"));
    };
    serde_json::from_str(text).map_err(|error| ClientError::invalid(error.to_string()))
}

impl WireProtocol for Hive {
    fn read(&self, message: Incoming<'_>, _: &Place, _: usize) -> ClientMessage {
        let (kind, command) = match fields::<HiveMessage<'_>>(message) {
            Ok(message) => message.command(),
            Err(error) => (UNKNOWN, Err(error)),
        };
        ClientMessage { kind, tag: ReplyTag::None, command }
    }

    fn read_unauthenticated(&self, message: Incoming<'_>, bytes_max: usize) -> ClientMessage {
        let (kind, command) = if message.len() > bytes_max {
            (UNKNOWN, Ok(Command::Withheld))
        } else {
            match fields::<HiveGlance<'_>>(message) {
                Ok(HiveGlance { action, .. }) if action == "subscribe" => {
                    ("subscribe", Ok(Command::Withheld))
                }
                Ok(HiveGlance { action, .. }) if action == "unsubscribe" => {
                    ("unsubscribe", Ok(Command::Withheld))
                }
                Ok(HiveGlance { action, token }) => {
                    HiveMessage { action, token, ..HiveMessage::default() }.command()
                }
                Err(error) => (UNKNOWN, Err(error)),
            }
        };
        ClientMessage { kind, tag: ReplyTag::None, command }
    }

    fn reply(&self, reply: &Reply<'_>, _: &ReplyTag, _: Stamp) -> Option<Bytes> {
        let message = match reply {
            Reply::Subscribed { id, .. } => json!({ "type": "subscribed", "subscription_id": id }),
            Reply::Unsubscribed { id } => json!({ "type": "unsubscribed", "subscription_id": id }),
            Reply::Pong => json!({ "type": "pong" }),
            Reply::Authenticated => json!({ "type": "authenticated" }),
            Reply::Error(error) => json!({ "type": "error", "error": error.text, "code": error.code }),
            // A refused token is reported by the close reason.
            _ => return None,
        };
        Some(self.frame(&message.to_string()))
    }

    fn gap(&self, gap: &GapNotice) -> Bytes {
        self.frame(&format!(r#"{{"type":"gap","gap":{}}}"#, gap.json()))
    }

    fn refuse(&self, why: &Refusal) -> Option<(u16, Cow<'static, str>)> {
        Some((
            CLOSE_POLICY,
            match why {
                Refusal::NoToken => "Auth required".into(),
                Refusal::BadToken(why) => format!("Auth failed: {why}").into(),
                Refusal::TooLate(limit) => format!("Auth failed: no auth message within {limit} s").into(),
            },
        ))
    }
}

impl Hive {
    fn frame(&self, json: &str) -> Bytes {
        let mut frame = Vec::new();
        self.put(json, &mut frame);
        frame.into()
    }

    /// Appends a message's frame.
    fn put(&self, json: &str, frames: &mut Vec<u8>) {
        let op = if self.binary { ws::OpCode::Binary } else { ws::OpCode::Text };
        ws::encode(frames, op, json.as_bytes());
    }
}

/// Appends the `event` message as a WebSocket frame. `stream_id` and `execution_id` are always present: the document's own
/// clients read them without a check.
pub(super) fn put_event(event: &Event, binary: bool, frames: &mut Vec<u8>) {
    in_scratch(|out| {
        out.push_str(r#"{"type":"event","event":{"type":"#);
        json::write_string(&event.event_type().to_lowercase(), out);
        for (name, value) in
            [(r#","stream_id":"#, event.stream()), (r#","execution_id":"#, event.execution())]
        {
            out.push_str(name);
            match value {
                Some(value) => json::write_string(value, out),
                None => out.push_str("null"),
            }
        }
        out.push_str(r#","data":"#);
        out.push_str(event.payload());
        out.push_str(r#","timestamp":""#);
        out.push_str(event.timestamp().text().as_str());
        out.push_str(r#""}}"#);
        Hive { binary }.put(out, frames);
    });
}

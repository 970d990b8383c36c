//! AgentOS's event stream: every event as its envelope v1, from the moment of connecting.
//!
//! Invariants:
//! - An unsolicited message has exactly the five fields of the envelope.
//! - A client's own messages change nothing.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::codes::{CLOSE_POLICY, ErrorCode};
use super::command::{UNKNOWN, in_scratch, put_text, text_frame};
use super::wire::WireProtocol;
use super::{
    ClientError, ClientMessage, Command, Encoding, GapNotice, Incoming, OnLag, Opening, Place, Refusal,
    Reply, ReplyTag, Stamp, Subscribe, split_entity,
};
use crate::codec::ws;
use crate::event::{Event, Position, json};
use crate::filter::{Filter, FilterErrorKind, VALUES_MAX};

/// Source of an event without one: the document's default.
const SOURCE: &str = "core";

/// AgentOS's dialect.
#[derive(Debug)]
pub(super) struct Agentos {
    /// Whether the client asked for gap messages, which are not part of the frozen envelope.
    pub(super) gaps: bool,
}

/// Reads the query: `?filter=TYPE` (or `type`), `?source=`, `?entity=KIND:ID`, all repeatable; `?history=N`; `?gap=1`;
/// `?max_per_second=N`, `?on_lag=…` as on `/sse`.
pub(super) fn open(query: &[(String, String)]) -> Result<Opening, String> {
    let all = |names: &[&str]| -> Vec<&str> {
        query
            .iter()
            .filter(|(name, value)| names.contains(&name.as_str()) && !value.is_empty())
            .map(|(_, value)| value.as_str())
            .collect()
    };
    // `a,b` stands for two values. They are counted before they are parsed.
    let count =
        all(&["filter", "type"]).into_iter().map(|value| 1 + value.matches(',').count()).sum::<usize>()
            + all(&["source", "entity"]).len();
    if count > VALUES_MAX {
        return Err(FilterErrorKind::TooManyValues(count, VALUES_MAX).to_string());
    }
    let types = all(&["filter", "type"]).into_iter().flat_map(|value| value.split(',')).map(str::trim);
    let filter = Filter::new()
        .types(types.filter(|name| !name.is_empty()))
        .sources(all(&["source"]))
        .entities(all(&["entity"]).into_iter().map(split_entity));
    let history = match all(&["history"]).last() {
        Some(count) => Some(count.parse().map_err(|_| "history is not a number".to_owned())?),
        None => None,
    };
    let rate = match all(&["max_per_second"]).last() {
        Some(rate) => Some(rate.parse().map_err(|_| "max_per_second is not a number".to_owned())?),
        None => None,
    };
    let on_lag = all(&["on_lag"]).last().copied().or(rate.map(|_: u32| "sample"));
    let on_lag = OnLag::read(on_lag, rate)?;
    let gaps = query.iter().any(|(name, value)| name == "gap" && matches!(value.as_str(), "" | "1" | "true"));
    Ok(Opening {
        encoding: if gaps { Encoding::AgentosWsGaps } else { Encoding::AgentosWs },
        subscribe: Some(Box::new(Subscribe { history, on_lag, ..Subscribe::from(filter) })),
        place: None,
    })
}

#[derive(Deserialize)]
struct AgentosMessage<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
}

impl WireProtocol for Agentos {
    fn read(&self, message: Incoming<'_>, _: &Place, bytes_max: usize) -> ClientMessage {
        self.read_unauthenticated(message, bytes_max)
    }

    fn read_unauthenticated(&self, message: Incoming<'_>, bytes_max: usize) -> ClientMessage {
        let nothing = |tag| ClientMessage { kind: UNKNOWN, tag, command: Ok(Command::Nothing) };
        let Incoming::Text(text) = message else { return nothing(ReplyTag::None) };
        if text.len() > bytes_max {
            return nothing(ReplyTag::None);
        }
        let text = text.trim_ascii();
        if text.eq_ignore_ascii_case("ping") {
            return ClientMessage { kind: "ping", tag: ReplyTag::Bare, command: Ok(Command::Ping) };
        }
        let Ok(message) = serde_json::from_str::<AgentosMessage<'_>>(text) else {
            return nothing(ReplyTag::None);
        };
        let (kind, command) = match &*message.kind {
            "ping" => ("ping", Ok(Command::Ping)),
            "auth" => match message.token {
                Some(token) => ("auth", Ok(Command::Auth { token: token.into_owned() })),
                None => ("auth", Err(ClientError::new(ErrorCode::InvalidPayload, "token is missing"))),
            },
            // The stream goes one way: other messages are ignored.
            _ => return nothing(ReplyTag::None),
        };
        ClientMessage { kind, tag: ReplyTag::None, command }
    }

    fn reply(&self, reply: &Reply<'_>, tag: &ReplyTag, stamp: Stamp) -> Option<Bytes> {
        let message = match reply {
            Reply::Pong if *tag == ReplyTag::Bare => return Some(text_frame("pong")),
            Reply::Pong => json!({ "type": "pong", "ts": stamp.now.to_string() }),
            Reply::Authenticated => json!({ "type": "authenticated" }),
            Reply::AuthFailed(why) => json!({ "type": "error", "error": why }),
            Reply::Error(error) => json!({ "type": "error", "error": error.text }),
            // Unsolicited messages are envelopes only.
            _ => return None,
        };
        Some(text_frame(&message.to_string()))
    }

    fn gap(&self, gap: &GapNotice) -> Bytes {
        if self.gaps {
            let (at, payload) = (gap.at, gap.json());
            text_frame(&format!(
                r#"{{"type":"gap","ts":"{at}","source":"fanwire","entity":null,"payload":{payload}}}"#
            ))
        } else {
            // An unsolicited pong (RFC 6455, 5.5.3), which no application sees.
            ws::frame(ws::OpCode::Pong, b"")
        }
    }

    fn refuse(&self, why: &Refusal) -> Option<(u16, Cow<'static, str>)> {
        Some((
            CLOSE_POLICY,
            match why {
                Refusal::NoToken => "authentication required".into(),
                Refusal::BadToken(why) => format!("authentication failed: {why}").into(),
                Refusal::TooLate(limit) => format!("no auth within {limit} s").into(),
            },
        ))
    }
}

/// Appends the envelope v1 as a WebSocket frame.
pub(super) fn put_event(event: &Event, _: Option<&Position>, frames: &mut Vec<u8>) {
    in_scratch(|out| {
        out.push_str(r#"{"type":"#);
        json::write_string(event.event_type(), out);
        out.push_str(r#","ts":""#);
        let time = event.timestamp().text();
        let time = time.as_str();
        // Whole milliseconds have three digits, as the document prints them.
        match time.strip_suffix("000Z") {
            Some(time) => {
                out.push_str(time);
                out.push('Z');
            }
            None => out.push_str(time),
        }
        out.push_str(r#"","source":"#);
        json::write_string(event.source().unwrap_or(SOURCE), out);
        out.push_str(r#","entity":"#);
        match event.entity() {
            Some((kind, id)) => {
                out.push_str(r#"{"kind":"#);
                json::write_string(kind, out);
                out.push_str(r#","id":"#);
                json::write_string(id, out);
                out.push('}');
            }
            None => out.push_str("null"),
        }
        out.push_str(r#","payload":"#);
        out.push_str(event.payload());
        out.push('}');
        put_text(frames, out);
    });
}

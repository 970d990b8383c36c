//! The native protocol as a value, for programs with their own sockets: messages in, messages out.
//!
//! Invariants:
//! - Messages are read and written by the server's own code, so both behave alike.
//! - No I/O.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::codes::ErrorCode;
use super::native::{self, Native};
use super::uuid::Uuid;
use super::{ClientError, Command, Incoming, Place, Subscribe, WireProtocol as _, envelope, shortened};
use crate::event::{Attribute, Event, Timestamp, json as text};
use crate::filter::Filter;

/// Type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageType {
    /// Client to server: subscribe to events.
    Subscribe,
    /// Client to server: end a subscription.
    Unsubscribe,
    /// Client to server: query the client's subscriptions.
    Request,
    /// Client to server: check that the server is reachable.
    Ping,
    /// Server to client: an event.
    Event,
    /// Server to client: the response to a request.
    Response,
    /// Server to client: a fault in a message.
    Error,
    /// Server to client: the reply to a ping.
    Pong,
    /// Both ways: confirmation of a request or of a receipt.
    Ack,
    /// Server to client: events are missing here.
    Gap,
    /// Server to client: the end of the past events that a subscription asked for.
    HistoryEnd,
}

impl MessageType {
    /// Every type.
    pub const ALL: [Self; 11] = [
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Request,
        Self::Ping,
        Self::Event,
        Self::Response,
        Self::Error,
        Self::Pong,
        Self::Ack,
        Self::Gap,
        Self::HistoryEnd,
    ];

    /// Returns the type's word in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Request => "request",
            Self::Ping => "ping",
            Self::Event => "event",
            Self::Response => "response",
            Self::Error => "error",
            Self::Pong => "pong",
            Self::Ack => "ack",
            Self::Gap => "gap",
            Self::HistoryEnd => "history_end",
        }
    }
}

/// Fault in a message: no JSON, no known type, or a payload that is no object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageError(String);

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a message: {}", self.0)
    }
}

impl std::error::Error for MessageError {}

/// One message.
///
/// ```
/// # use fanwire::protocol::{Message, MessageType};
/// let message = Message::new(MessageType::Subscribe, r#"{"event_types":["workflow.started"]}"#)?;
/// assert_eq!(Message::from_json(&message.to_json())?, message);
/// # Ok::<(), fanwire::protocol::MessageError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The message's type.
    pub kind: MessageType,
    /// A JSON object, on one line.
    pub payload: String,
    /// A UUID.
    pub message_id: String,
    /// ISO 8601, in UTC.
    pub timestamp: String,
    /// The id of the message that this one answers.
    pub correlation_id: Option<String>,
}

#[derive(Deserialize)]
struct MessageFields<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    message_id: Option<String>,
    timestamp: Option<String>,
    correlation_id: Option<String>,
}

/// Returns bits that differ from call to call; for ids, not for secrets.
fn random() -> u128 {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    half() << 64 | half()
}

impl Message {
    /// Creates a message with a new id and the current time.
    ///
    /// # Errors
    ///
    /// Fails if the payload is no JSON object.
    pub fn new(kind: MessageType, payload: &str) -> Result<Self, MessageError> {
        let mut minified = String::with_capacity(payload.len());
        text::minify(payload, &mut minified).map_err(|error| MessageError(format!("payload: {error}")))?;
        if !minified.starts_with('{') {
            return Err(MessageError("payload is not an object".to_owned()));
        }
        Ok(Self::of(kind, minified))
    }

    fn of(kind: MessageType, payload: String) -> Self {
        let (message_id, timestamp) = (Uuid::random(random()).to_string(), Timestamp::now().to_string());
        Self { kind, payload, message_id, timestamp, correlation_id: None }
    }

    /// Reads a message. A missing id or time is created.
    ///
    /// # Errors
    ///
    /// Fails if the text is no JSON object, the type is unknown, or the payload is no object.
    pub fn from_json(json: &str) -> Result<Self, MessageError> {
        let input: MessageFields<'_> =
            serde_json::from_str(json).map_err(|error| MessageError(error.to_string()))?;
        let kind = MessageType::ALL.into_iter().find(|kind| kind.name() == input.kind);
        let kind = kind.ok_or_else(|| MessageError(format!("type {}", shortened(&input.kind))))?;
        let mut message = Self::new(kind, input.payload.map_or("{}", RawValue::get))?;
        message.message_id = input.message_id.unwrap_or(message.message_id);
        message.timestamp = input.timestamp.unwrap_or(message.timestamp);
        message.correlation_id = input.correlation_id;
        Ok(message)
    }

    /// Returns the message as JSON, on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        let word = |word: &str| {
            let mut out = String::with_capacity(word.len() + 2);
            text::write_string(word, &mut out);
            out
        };
        format!(
            r#"{{"type":"{}","payload":{},"message_id":{},"timestamp":{},"correlation_id":{}}}"#,
            self.kind.name(),
            self.payload,
            word(&self.message_id),
            word(&self.timestamp),
            self.correlation_id.as_deref().map_or_else(|| "null".to_owned(), word),
        )
    }
}

/// A named filter of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    id: String,
    filter: Filter,
}

impl Subscription {
    /// Creates a subscription to the events that the filter matches.
    pub fn new(id: impl Into<String>, filter: Filter) -> Self {
        Self { id: id.into(), filter }
    }

    /// Returns the subscription's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the filter.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Returns the event types of the filter; none if it matches every type.
    pub fn event_types(&self) -> impl Iterator<Item = &str> {
        self.filter.values(Attribute::Type)
    }

    /// Returns the sources of the filter; none if it matches every source.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.filter.values(Attribute::Source)
    }

    /// Returns whether the event matches the filter.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        self.filter.matches(event)
    }

    /// Returns the subscription as the payload of a `subscribe`, which is also the form in lists.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = String::new();
        native::describe(&self.id, &self.filter, 0, &mut text);
        text
    }

    /// Reads the payload of a `subscribe`. A missing id is created.
    ///
    /// # Errors
    ///
    /// Fails if the payload is malformed, has an unknown key, or a filter over its limits.
    pub fn from_json(json: &str) -> Result<Self, MessageError> {
        let subscribe = native::read_subscribe(json).map_err(|error| MessageError(error.text))?;
        Ok(Self::named(subscribe))
    }

    fn named(Subscribe { subscription_id, filter, or, .. }: Subscribe) -> Self {
        let filter = Filter::joined(std::iter::once(&filter).chain(&or));
        Self { id: subscription_id.unwrap_or_else(|| Uuid::random(random()).to_string()), filter }
    }
}

/// One client's subscriptions, and the answers to its messages.
///
/// ```
/// # use fanwire::{Event, protocol::Protocol};
/// let mut protocol = Protocol::default();
/// let text = r#"{"type": "subscribe", "payload": {"subscription_id": "s1", "event_types": ["workflow.started"]}}"#;
/// let answer = protocol.handle_message(text).expect("an ack");
/// assert_eq!((answer.kind.name(), protocol.subscription_count()), ("ack", 1));
/// let event = Event::builder("workflow.started").source("engine").build()?;
/// assert_eq!(protocol.should_deliver(&event), ["s1"]);
/// assert_eq!(protocol.create_event_message(&event).kind.name(), "event");
/// # Ok::<(), fanwire::event::EventError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Protocol {
    subscriptions: Vec<Subscription>,
}

impl Protocol {
    /// Executes a client's message and returns the reply, if there is one: a client's `ack` and `pong` have none. A message
    /// that needs a server is answered by an `error`.
    pub fn handle_message(&mut self, json: &str) -> Option<Message> {
        let read = Native.read(Incoming::Text(json), &Place::default(), usize::MAX);
        let answered = match read.command {
            Ok(Command::Nothing) => return None,
            Ok(command) => self.execute(command),
            Err(error) => Err(error),
        };
        let (kind, payload) = answered
            .unwrap_or_else(|error| (MessageType::Error, json!({ "error": error.text, "code": error.code })));
        let mut message = Message::of(kind, payload.to_string());
        message.correlation_id = read.tag.id().map(str::to_owned);
        Some(message)
    }

    fn execute(&mut self, command: Command) -> Result<(MessageType, Value), ClientError> {
        match command {
            Command::Subscribe(subscribe) => {
                let subscription = Subscription::named(*subscribe);
                let payload = json!({ "subscription_id": subscription.id });
                self.subscriptions.retain(|other| other.id != subscription.id);
                self.subscriptions.push(subscription);
                Ok((MessageType::Ack, payload))
            }
            Command::Unsubscribe { subscription_id: id, .. } => {
                let before = self.subscriptions.len();
                self.subscriptions.retain(|other| other.id != id);
                if self.subscriptions.len() == before {
                    let text = format!("Unknown subscription: {}", shortened(&id));
                    return Err(ClientError::new(ErrorCode::UnknownSubscription, text));
                }
                Ok((MessageType::Ack, json!({ "subscription_id": id })))
            }
            Command::Request { action } => match action.as_str() {
                "list_subscriptions" => {
                    let summary = |s: &Subscription| -> Value {
                        // The text was written here, so it is JSON.
                        serde_json::from_str(&s.to_json()).unwrap_or_default()
                    };
                    let all: Vec<_> = self.subscriptions.iter().map(summary).collect();
                    Ok((MessageType::Response, json!({ "subscriptions": all })))
                }
                "subscription_count" => {
                    Ok((MessageType::Response, json!({ "count": self.subscriptions.len() })))
                }
                other => {
                    let text = format!("Unknown action: {}", shortened(other));
                    Err(ClientError::new(ErrorCode::UnknownAction, text))
                }
            },
            Command::Ping => Ok((MessageType::Pong, json!({}))),
            Command::Presence { .. }
            | Command::Auth { .. }
            | Command::Publish { .. }
            | Command::Update(_)
            | Command::Say(_)
            | Command::Withheld
            | Command::Refill { .. }
            | Command::Nothing => Err(ClientError::new(ErrorCode::Unsupported, "not here: a server's to do")),
        }
    }

    /// Returns the number of subscriptions.
    #[must_use]
    pub fn subscription_count(&self) -> usize {
        self.subscriptions.len()
    }

    /// Returns the subscriptions, oldest first.
    #[must_use]
    pub fn list_subscriptions(&self) -> &[Subscription] {
        &self.subscriptions
    }

    /// Returns the subscription with this id.
    #[must_use]
    pub fn get_subscription(&self, id: &str) -> Option<&Subscription> {
        self.subscriptions.iter().find(|subscription| subscription.id == id)
    }

    /// Returns the ids of the subscriptions that match this event.
    #[must_use]
    pub fn should_deliver(&self, event: &Event) -> Vec<&str> {
        self.subscriptions.iter().filter(|s| s.matches(event)).map(|s| s.id.as_str()).collect()
    }

    /// Returns the message that delivers an event.
    #[must_use]
    pub fn create_event_message(&self, event: &Event) -> Message {
        let mut payload = String::with_capacity(256 + event.payload().len());
        envelope::write_event(event, &mut payload);
        Message::of(MessageType::Event, payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_conversation_goes_as_printed() {
        let mut protocol = Protocol::default();
        let mut ask = |text: &str| {
            let answer = protocol.handle_message(text).map(|m| (m.kind, m.payload));
            (answer, protocol.subscription_count())
        };
        let count = |n| Some((MessageType::Response, format!(r#"{{"count":{n}}}"#)));
        assert_eq!(ask(r#"{"type": "request", "payload": {"action": "subscription_count"}}"#), (count(0), 0));
        let acked = Some((MessageType::Ack, r#"{"subscription_id":"s1"}"#.to_owned()));
        let subscribe = r#"{"type": "subscribe", "payload": {"subscription_id": "s1", "event_types": ["workflow.started"]}}"#;
        assert_eq!(ask(subscribe), (acked.clone(), 1));
        assert_eq!(ask(r#"{"type": "ping"}"#), (Some((MessageType::Pong, "{}".to_owned())), 1));
        assert_eq!(ask(r#"{"type": "request", "payload": {"action": "subscription_count"}}"#), (count(1), 1));
        assert_eq!(ask(r#"{"type": "unsubscribe", "payload": {"subscription_id": "s1"}}"#), (acked, 0));
        assert_eq!(ask(r#"{"type": "ack"}"#), (None, 0));
        for (text, want) in [
            ("not valid json", "Invalid message format"),
            (r#"{"type": "request", "payload": {"action": "unknown"}}"#, "Unknown action: unknown"),
        ] {
            let (answer, _) = ask(text);
            let (kind, payload) = answer.expect("an error");
            let payload: Value = serde_json::from_str(&payload).expect("JSON");
            assert_eq!((kind, &payload["error"]), (MessageType::Error, &json!(want)));
        }
    }

    #[test]
    fn messages_and_subscriptions_round_trip() {
        let mut message = Message::new(MessageType::Request, r#"{ "action": "x" }"#).expect("valid");
        assert_eq!((message.message_id.len(), message.payload.as_str()), (36, r#"{"action":"x"}"#));
        message.correlation_id = Some("a \"b\"".to_owned());
        assert_eq!(Message::from_json(&message.to_json()), Ok(message));
        let bare = Message::from_json(r#"{"type":"ping"}"#).expect("valid");
        assert_eq!((bare.message_id.len(), bare.payload.as_str(), bare.correlation_id), (36, "{}", None));
        assert!(bare.timestamp.parse::<Timestamp>().is_ok(), "made where there is none: {}", bare.timestamp);
        for text in ["", "[]", "{}", r#"{"type":"fly"}"#, r#"{"type":"ping","payload":5}"#] {
            assert!(Message::from_json(text).is_err(), "{text}");
        }
        let filter = Filter::new().types(["workflow.started"]).sources(["simulation_engine"]);
        let subscription = Subscription::new("sub-001", filter);
        assert_eq!(Subscription::from_json(&subscription.to_json()), Ok(subscription.clone()));
        let event = |source| Event::builder("workflow.started").source(source).build().expect("valid");
        assert!(subscription.matches(&event("simulation_engine")));
        assert!(!subscription.matches(&event("another")), "both must hold");
        let other = Event::builder("workflow.failed").source("simulation_engine").build().expect("valid");
        assert!(!subscription.matches(&other), "both must hold");
        let of_run = Subscription::new("sub-002", Filter::new().correlations(["run-42"]));
        let in_run = |run| Event::builder("x").correlation(run).build().expect("valid");
        assert!(of_run.matches(&in_run("run-42")) && !of_run.matches(&in_run("run-43")));
        assert!(!of_run.matches(&event("simulation_engine")), "an event of no run is not of this one");
        assert!(Subscription::new("sub-003", Filter::new()).matches(&in_run("run-43")), "none wants any");
        assert_eq!(Subscription::from_json(&of_run.to_json()), Ok(of_run));
    }

    #[test]
    fn subscriptions_are_listed_and_select_events() {
        let mut protocol = Protocol::default();
        let mut subscribe = |id: &str, types: &[&str]| {
            let payload = json!({ "subscription_id": id, "event_types": types });
            protocol.handle_message(&json!({ "type": "subscribe", "payload": payload }).to_string());
        };
        subscribe("s1", &["workflow.started"]);
        subscribe("s2", &["node.entered"]);
        subscribe("s3", &[]);
        let ids: Vec<&str> = protocol.list_subscriptions().iter().map(Subscription::id).collect();
        assert_eq!(ids, ["s1", "s2", "s3"]);
        let found = protocol.get_subscription("s2").expect("it is there");
        assert_eq!((found.id(), found.event_types().collect::<Vec<_>>()), ("s2", vec!["node.entered"]));
        assert_eq!(found.sources().count(), 0);
        assert!(protocol.get_subscription("s4").is_none());

        let event = Event::builder("workflow.started").source("engine").json(r#"{"n":1}"#).build();
        let event = event.expect("valid");
        assert_eq!(protocol.should_deliver(&event), ["s1", "s3"]);
        let message = protocol.create_event_message(&event);
        assert_eq!((message.kind, message.message_id.len()), (MessageType::Event, 36));
        let payload: Value = serde_json::from_str(&message.payload).expect("JSON");
        assert_eq!(
            (&payload["event_type"], &payload["source"], &payload["payload"]),
            (&json!("workflow.started"), &json!("engine"), &json!({ "n": 1 }))
        );
        assert_eq!(Message::from_json(&message.to_json()), Ok(message), "as JSON text to the client");

        let answer =
            protocol.handle_message(r#"{"type":"request","payload":{"action":"list_subscriptions"}}"#);
        let listed: Value = serde_json::from_str(&answer.expect("an answer").payload).expect("JSON");
        assert_eq!(
            listed["subscriptions"][0],
            json!({ "subscription_id": "s1", "event_types": ["workflow.started"], "sources": [],
                "correlation_id": null })
        );
        protocol.handle_message(r#"{"type":"unsubscribe","payload":{"subscription_id":"s3"}}"#);
        assert_eq!(protocol.should_deliver(&event), ["s1"]);
    }
}

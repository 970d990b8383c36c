//! Routes messages of other protocols (A2A tasks, MCP tool calls, your own) to handlers, and reports them on the bus.
//!
//! Invariants: `route` always returns an answer, whatever the message and the handler do. Each message leaves one
//! entry event or one `protocol.bridge.error`; a failed handler leaves both.

use std::any::Any;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::bus::{Bus, catch_panic};
use crate::event::Event;

/// Type of the event that reports a message that could not be handled.
const ERROR_TYPE: &str = "protocol.bridge.error";

/// Source of the bridge's events.
const SOURCE: &str = "protocol.bridge";

/// Maximum length of a protocol's name, in bytes: a longer one would make no event type.
const NAME_BYTES_MAX: usize = 128;

/// Error of a handler: any error, or a text.
pub type BridgeError = Box<dyn Error + Send + Sync>;

type Handler = dyn Fn(&BridgeMessage<'_>) -> Result<String, BridgeError> + Send + Sync;

/// Handler of a protocol. Dropped by its last owner: a thread that routes a message, or one that registers another
/// handler.
struct Route(Option<Box<Handler>>);

impl Route {
    fn call(&self, message: &BridgeMessage<'_>) -> Result<String, BridgeError> {
        self.0.as_ref().map_or_else(|| Err("there is no handler".into()), |handler| handler(message))
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        let handler = self.0.take();
        if catch_panic(move || drop(handler)).is_none() {
            tracing::error!("a bridge's handler panicked when it was dropped");
        }
    }
}

/// Routes by protocol. The map is replaced as a whole, because it is read for each message and rarely changed.
type Routes = BTreeMap<String, Arc<Route>>;

/// Message passed to a handler.
#[derive(Debug)]
pub struct BridgeMessage<'a> {
    protocol: &'a str,
    text: &'a str,
    fields: BTreeMap<String, &'a RawValue>,
}

impl BridgeMessage<'_> {
    /// Returns the protocol that it was routed by.
    #[must_use]
    pub fn protocol(&self) -> &str {
        self.protocol
    }

    /// Returns the message, a JSON object, unchanged.
    #[must_use]
    pub fn json(&self) -> &str {
        self.text
    }

    /// Returns a field as JSON, unchanged. A repeated field has its last value.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.get())
    }

    /// Returns a field that is a text, decoded; `None` if it is missing or another kind of value. Allocates.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.field(name)?).ok()
    }
}

/// Outcome of routing a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BridgeOutcome {
    /// The handler answered.
    Answered,
    /// No route has this protocol's name.
    Unknown,
    /// The message is not a JSON object.
    Malformed,
    /// The handler failed, panicked, or its answer is not JSON.
    Failed,
}

/// Answer to a message: always JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeAnswer {
    outcome: BridgeOutcome,
    json: String,
}

impl BridgeAnswer {
    /// Returns the outcome.
    #[must_use]
    pub fn outcome(&self) -> BridgeOutcome {
        self.outcome
    }

    /// Returns the handler's answer, or `{"status":"error","error":TEXT}`.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    fn error(outcome: BridgeOutcome, text: &str) -> Self {
        let text = serde_json::to_string(text).unwrap_or_default();
        Self { outcome, json: format!(r#"{{"status":"error","error":{text}}}"#) }
    }
}

impl fmt::Display for BridgeAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.json)
    }
}

/// Routes messages by their protocol. Cheap to clone; clones share their routes.
///
/// Before a handler is called, an entry event is published on the bus: `protocol.a2a.task.received`,
/// `protocol.mcp.tool.called`, or `protocol.NAME.received` for a route of your own, with the payload
/// `{"protocol","message"}`. A message that can't be handled is reported by `protocol.bridge.error`, which also has
/// `error`. The events carry the message's `correlation_id`, if it has one.
///
/// ```
/// use fanwire::Bus;
/// use fanwire::bridge::Bridge;
///
/// let bus = Bus::new();
/// let bridge = Bridge::create_default(&bus);
/// let answer = bridge.route("a2a", r#"{"task_id":"t1","skill":"review"}"#);
/// assert_eq!(answer.json(), r#"{"status":"accepted","protocol":"a2a","message_id":"t1"}"#);
///
/// bridge.register_route("grpc", |message| {
///     let call = message.text("call").ok_or("no call")?;
///     Ok(format!(r#"{{"status":"done","call":"{call}"}}"#))
/// });
/// assert_eq!(bridge.list_routes(), ["a2a", "grpc", "mcp"]);
/// assert_eq!(bridge.route("grpc", "{}").json(), r#"{"status":"error","error":"no call"}"#);
/// ```
#[derive(Clone)]
pub struct Bridge {
    bus: Bus,
    routes: Arc<ArcSwap<Routes>>,
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bridge").field(&self.list_routes()).finish()
    }
}

impl Bridge {
    /// Returns a bridge without routes.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone(), routes: Arc::default() }
    }

    /// Returns a bridge with the routes `a2a` and `mcp`, which accept every message and leave the work to subscribers
    /// of their events. They answer `{"status":"accepted","protocol":"a2a","message_id":TASK_ID}` and
    /// `{"status":"accepted","protocol":"mcp","tool":TOOL}`, with `"unknown"` if the message names none.
    #[must_use]
    pub fn create_default(bus: &Bus) -> Self {
        let bridge = Self::new(bus);
        bridge.register_route("a2a", |message| Ok(accepted(message, "message_id", "task_id")));
        bridge.register_route("mcp", |message| Ok(accepted(message, "tool", "tool")));
        bridge
    }

    /// Routes a protocol's messages to this handler from now on, instead of an earlier one. The handler gets a JSON
    /// object and returns JSON, or an error; the error's text becomes the answer. It runs on the thread that routes; a
    /// server has threads for it, so it may block.
    ///
    /// # Panics
    ///
    /// Panics if the name is empty, longer than 128 bytes or has control characters.
    pub fn register_route(
        &self,
        protocol: impl Into<String>,
        handler: impl Fn(&BridgeMessage<'_>) -> Result<String, BridgeError> + Send + Sync + 'static,
    ) {
        let protocol = protocol.into();
        assert!(
            is_name(&protocol),
            "a protocol's name has 1 to {NAME_BYTES_MAX} bytes, none of them control"
        );
        let route = Arc::new(Route(Some(Box::new(handler))));
        // Returns the previous table, so a replaced handler is dropped after the exchange: the drop of its data may
        // look at the routes.
        self.routes.rcu(|routes| {
            let mut routes = Routes::clone(routes);
            routes.insert(protocol.clone(), Arc::clone(&route));
            routes
        });
    }

    /// Returns whether a protocol has a handler.
    #[must_use]
    pub fn has_route(&self, protocol: &str) -> bool {
        self.routes.load().contains_key(protocol)
    }

    /// Returns the protocols with a handler, sorted. Allocates.
    #[must_use]
    pub fn list_routes(&self) -> Vec<String> {
        self.routes.load().keys().cloned().collect()
    }

    /// Routes a message, a JSON object. Never fails: an error is an answer. Runs the handler on this thread, so it
    /// blocks for as long as the handler does.
    #[expect(
        clippy::must_use_candidate,
        reason = "the events that the message makes may be all that is wanted"
    )]
    pub fn route(&self, protocol: &str, message: &str) -> BridgeAnswer {
        let publish = |event| {
            self.bus.publish(event);
        };
        self.route_checked(protocol, message, &|_| Ok(()), &publish)
    }

    /// Routes a message if `check` accepts its entry event, and publishes by `publish` instead of on the bus.
    pub(crate) fn route_checked(
        &self,
        protocol: &str,
        message: &str,
        check: &dyn Fn(&Event) -> Result<(), String>,
        publish: &dyn Fn(Event),
    ) -> BridgeAnswer {
        let handler = self.routes.load().get(protocol).cloned();
        let text = message.trim();
        let Some(handler) = handler else {
            let error = format!("No route registered for protocol '{}'", shortened(protocol));
            publish(error_event(protocol, text, &error));
            return BridgeAnswer::error(BridgeOutcome::Unknown, &error);
        };
        let fields = match serde_json::from_str(text) {
            Ok(fields) => fields,
            Err(error) => {
                let error = format!("message is not a JSON object: {error}");
                publish(error_event(protocol, text, &error));
                return BridgeAnswer::error(BridgeOutcome::Malformed, &error);
            }
        };
        let message = BridgeMessage { protocol, text, fields };
        let entry = event_of(&entry_type(protocol), protocol, text, None);
        if let Err(error) = check(&entry) {
            publish(error_event(protocol, text, &error));
            return BridgeAnswer::error(BridgeOutcome::Malformed, &error);
        }
        publish(entry);
        // A panic may leave the handler's own data half changed, which no other code shares. Formatting its error runs
        // the handler's code too, so it is inside the call.
        let call = || handler.call(&message).map_err(|error| error.to_string());
        let answered = catch_unwind(AssertUnwindSafe(call));
        let failed = match answered {
            Ok(Ok(json)) if serde_json::from_str::<&RawValue>(&json).is_ok() => {
                return BridgeAnswer { outcome: BridgeOutcome::Answered, json };
            }
            Ok(Ok(_)) => "handler's answer is not JSON".to_owned(),
            Ok(Err(error)) => error,
            Err(panic) => {
                let text = panic_text(&*panic);
                // Dropping it may panic again.
                catch_panic(move || drop(panic));
                text
            }
        };
        publish(error_event(protocol, text, &failed));
        BridgeAnswer::error(BridgeOutcome::Failed, &failed)
    }
}

fn error_event(protocol: &str, message: &str, error: &str) -> Event {
    event_of(ERROR_TYPE, &shortened(protocol), message, Some(error))
}

/// Returns the event for a message. A message that is not JSON is included as a text.
fn event_of(event_type: &str, protocol: &str, message: &str, error: Option<&str>) -> Event {
    let raw = serde_json::from_str::<&RawValue>(message);
    let message = raw.map_or_else(|_| Value::from(message).to_string(), |raw| raw.get().to_owned());
    let mut payload = format!(r#"{{"protocol":{},"message":{message}"#, Value::from(protocol));
    if let Some(error) = error {
        payload = format!(r#"{payload},"error":{}"#, Value::from(error));
    }
    payload.push('}');
    let mut builder = Event::builder(event_type).source(SOURCE);
    let correlation = serde_json::from_str::<Correlation>(&message).ok().and_then(|c| c.correlation_id);
    if let Some(correlation) = correlation {
        builder = builder.correlation(&correlation);
    }
    // A message that can't be a payload (too deep, correlation id too long) is left out.
    builder.json(payload).build().unwrap_or_else(|_| {
        let payload = json!({ "protocol": protocol, "message": null, "error": error }).to_string();
        let event = Event::builder(event_type).source(SOURCE).json(payload).build();
        event.expect("a route's name is short, and what is unknown is cut, so that both make a type")
    })
}

#[derive(serde::Deserialize)]
struct Correlation {
    #[serde(default)]
    correlation_id: Option<String>,
}

fn accepted(message: &BridgeMessage<'_>, name: &str, field: &str) -> String {
    let value = message.field(field).unwrap_or("\"unknown\"");
    format!(r#"{{"status":"accepted","protocol":"{}","{name}":{value}}}"#, message.protocol())
}

fn entry_type(protocol: &str) -> String {
    match protocol {
        "a2a" => "protocol.a2a.task.received".to_owned(),
        "mcp" => "protocol.mcp.tool.called".to_owned(),
        other => format!("protocol.{other}.received"),
    }
}

fn is_name(protocol: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&protocol.len()) && !protocol.chars().any(char::is_control)
}

/// Returns the beginning of a name from outside.
fn shortened(protocol: &str) -> String {
    protocol.chars().take(NAME_BYTES_MAX).collect()
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "handler panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Delivery, Subscriber};
    use crate::filter::Filter;

    fn next(events: &mut Subscriber) -> (String, Value) {
        match events.try_recv() {
            Ok(Delivery::Event(event)) => {
                (event.event_type().to_owned(), serde_json::from_str(event.payload()).expect("JSON"))
            }
            other => panic!("{other:?}"),
        }
    }

    fn made() -> (Bridge, Subscriber) {
        let bus = Bus::new();
        let events = bus.subscribe(Filter::new());
        (Bridge::create_default(&bus), events)
    }

    #[test]
    fn the_default_routes_accept_and_publish() {
        let (bridge, mut events) = made();
        for (protocol, message, answer, event_type) in [
            (
                "a2a",
                r#"{"task_id":"t1","skill":"review"}"#,
                r#"{"status":"accepted","protocol":"a2a","message_id":"t1"}"#,
                "protocol.a2a.task.received",
            ),
            (
                "mcp",
                r#"{"tool":"persona_lookup","args":{"id":"RC"}}"#,
                r#"{"status":"accepted","protocol":"mcp","tool":"persona_lookup"}"#,
                "protocol.mcp.tool.called",
            ),
            (
                "mcp",
                "{}",
                r#"{"status":"accepted","protocol":"mcp","tool":"unknown"}"#,
                "protocol.mcp.tool.called",
            ),
        ] {
            assert_eq!(bridge.route(protocol, message).json(), answer);
            let message: Value = serde_json::from_str(message).expect("JSON");
            let payload = json!({ "protocol": protocol, "message": message });
            assert_eq!(next(&mut events), (event_type.to_owned(), payload));
        }
        assert!(events.try_recv().is_err());
    }

    #[test]
    fn an_unknown_protocol_is_an_answer_and_an_error_event() {
        let (bridge, mut events) = made();
        let answer = bridge.route("x", r#"{"data":"test"}"#);
        assert_eq!(answer.outcome(), BridgeOutcome::Unknown);
        assert_eq!(answer.json(), r#"{"status":"error","error":"No route registered for protocol 'x'"}"#);
        let (event_type, payload) = next(&mut events);
        assert_eq!(event_type, "protocol.bridge.error");
        assert_eq!(
            payload,
            json!({ "protocol": "x", "message": { "data": "test" }, "error": "No route registered for protocol 'x'" })
        );
        bridge.route(&"é".repeat(100_000), "{}");
        assert_eq!(next(&mut events).0, "protocol.bridge.error");
    }

    #[test]
    fn a_handler_that_fails_or_panics_is_an_answer_and_an_error_event() {
        let (bridge, mut events) = made();
        bridge.register_route("broken", |_| Err("Something went wrong".into()));
        bridge.register_route("panics", |message| panic!("no {}", message.protocol()));
        bridge.register_route("text", |_| Ok("not JSON".to_owned()));
        for (protocol, error) in [
            ("broken", "Something went wrong"),
            ("panics", "no panics"),
            ("text", "handler's answer is not JSON"),
        ] {
            let answer = bridge.route(protocol, r#"{"data":"test"}"#);
            assert_eq!(answer.outcome(), BridgeOutcome::Failed);
            assert_eq!(answer.json(), format!(r#"{{"status":"error","error":"{error}"}}"#));
            assert_eq!(next(&mut events).0, format!("protocol.{protocol}.received"));
            let (event_type, payload) = next(&mut events);
            assert_eq!((event_type.as_str(), &payload["error"]), ("protocol.bridge.error", &json!(error)));
        }
        assert_eq!(bridge.route("a2a", "{}").outcome(), BridgeOutcome::Answered, "others go on");
    }

    #[test]
    fn routes_are_listed_sorted_and_replaced() {
        let (bridge, _events) = made();
        assert_eq!(bridge.list_routes(), ["a2a", "mcp"]);
        assert!(bridge.has_route("a2a") && !bridge.has_route("grpc"));
        bridge.register_route("a2a", |message| {
            Ok(json!({ "status": "completed", "task_id": message.text("task_id") }).to_string())
        });
        assert_eq!(
            bridge.route("a2a", r#"{"task_id":"t"}"#).json(),
            r#"{"status":"completed","task_id":"t"}"#
        );
        assert_eq!(bridge.clone().list_routes(), ["a2a", "mcp"]);
    }

    #[test]
    fn a_message_that_is_no_json_object_reaches_no_handler() {
        let (bridge, mut events) = made();
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        for message in ["", "nope", "[]", "5", "{\"a\":}", &deep] {
            let answer = bridge.route("a2a", message);
            assert_eq!(answer.outcome(), BridgeOutcome::Malformed, "{message}");
            assert!(answer.json().contains("message is not a JSON object"), "{answer}");
            assert_eq!(next(&mut events).0, "protocol.bridge.error");
        }
    }

    #[test]
    fn the_events_carry_the_messages_correlation() {
        let (bridge, mut events) = made();
        bridge.route("a2a", r#"{"task_id":"t","correlation_id":"run-42"}"#);
        let Ok(Delivery::Event(event)) = events.try_recv() else { panic!("no event") };
        assert_eq!((event.correlation(), event.source()), (Some("run-42"), Some("protocol.bridge")));
        let long = format!(r#"{{"correlation_id":"{}"}}"#, "x".repeat(100_000));
        assert_eq!(bridge.route("a2a", &long).outcome(), BridgeOutcome::Answered);
        assert_eq!(next(&mut events).1["message"], Value::Null);
    }
}

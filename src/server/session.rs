//! A native WebSocket client's subscriptions and requests.
//!
//! Imports `dialect`, `filter`, `event`. Always: every message has an answer, but an `ack` or `pong`; a fault
//! never ends the session.

use std::fmt;

use serde_json::json;
use smallvec::SmallVec;

use super::connection::{Answer, Context, Effect, ReplayFrom};
use crate::dialect::native::{self, ClientError, ClientMessage, Command, Reply, Subscribe};
use crate::dialect::{Encoding, OnLag};
use crate::event::EventId;
use crate::filter::Filter;

/// A subscription's name: the client's own, or one that is not worth an allocation.
#[derive(Debug)]
enum Name {
    Given(Box<str>),
    Numbered(u32),
}

impl Name {
    fn is(&self, id: &str) -> bool {
        match self {
            Self::Given(name) => **name == *id,
            Self::Numbered(number) => id.strip_prefix("sub-").is_some_and(|n| n.parse() == Ok(*number)),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(name) => f.write_str(name),
            Self::Numbered(number) => write!(f, "sub-{number}"),
        }
    }
}

#[derive(Debug)]
struct Subscription {
    name: Name,
    filter: Filter,
    on_lag: OnLag,
}

/// What one client subscribed to. Small, for there is one for each client: most have one subscription.
#[derive(Debug, Default)]
pub(crate) struct Session {
    subscriptions: SmallVec<[Subscription; 1]>,
    /// Numbers the subscriptions that came without an id.
    unnamed: u32,
}

impl Session {
    /// Takes one text message.
    pub(crate) fn message(&mut self, text: &str, cx: &mut Context<'_>) {
        let ClientMessage { message_id, command } = native::read_message(text);
        let to = message_id.as_deref();
        let answered = command.and_then(|command| self.obey(command, to, cx));
        if let Err(error) = answered {
            cx.shared.metrics.fault(error.code);
            let payload = json!({ "error": error.text, "code": error.code });
            reply(cx, Reply::Error, &payload, to);
        }
    }

    /// Takes something that can't be a message.
    pub(crate) fn not_a_message(&mut self, cx: &mut Context<'_>) {
        self.message("", cx);
    }

    fn obey(&mut self, command: Command, to: Option<&str>, cx: &mut Context<'_>) -> Result<(), ClientError> {
        match command {
            Command::Subscribe(subscribe) => self.subscribe(*subscribe, to, cx),
            Command::Unsubscribe { subscription_id } => {
                let Some(at) = self.position(&subscription_id) else {
                    let id = native::shortened(&subscription_id);
                    return Err(ClientError::new(
                        "unknown_subscription",
                        format!("Unknown subscription: {id}"),
                    ));
                };
                self.subscriptions.remove(at);
                cx.shared.metrics.subscriptions.dec();
                self.tell_interest(cx);
                reply(cx, Reply::Ack, &json!({ "subscription_id": subscription_id }), to);
                Ok(())
            }
            Command::Request { action } => {
                let payload = self.request(&action, cx)?;
                reply(cx, Reply::Response, &payload, to);
                Ok(())
            }
            Command::Ping => {
                reply(cx, Reply::Pong, &json!({ "last_event_id": last_event_id(cx) }), to);
                Ok(())
            }
            Command::Publish(event) => {
                cx.shared.metrics.events_published.inc();
                let random = cx.rng.next_u128();
                let (now, to) = (cx.now, to.map(str::to_owned));
                let answer = move |id: Option<EventId>| {
                    let payload = json!({ "event_id": id.map(|id| id.to_string()) });
                    native::reply(Reply::Ack, &payload, random, now, to.as_deref())
                };
                cx.effects.push(Effect::Publish { events: vec![event], answer: Answer(Box::new(answer)) });
                Ok(())
            }
            Command::Nothing => Ok(()),
        }
    }

    fn subscribe(
        &mut self,
        subscribe: Subscribe,
        to: Option<&str>,
        cx: &mut Context<'_>,
    ) -> Result<(), ClientError> {
        let Subscribe { subscription_id, filter, since, history, snapshot, on_lag } = subscribe;
        filter
            .check(&cx.config.filter_limits())
            .map_err(|error| ClientError::new("invalid_filter", error.to_string()))?;
        let name = subscription_id.map_or_else(
            || {
                self.unnamed += 1;
                Name::Numbered(self.unnamed)
            },
            |id| Name::Given(id.into()),
        );
        let id = name.to_string();
        let known = self.position(&id);
        let max = cx.config.max_subscriptions;
        if known.is_none() && self.subscriptions.len() >= max {
            let text = format!("subscription limit of {max} reached");
            return Err(ClientError::new("too_many_subscriptions", text));
        }
        let acked = json!({ "subscription_id": id, "last_event_id": last_event_id(cx) });
        reply(cx, Reply::Ack, &acked, to);
        let past = since.map(ReplayFrom::After).or(history.map(ReplayFrom::Newest));
        if let Some(from) = past.or(snapshot.then_some(ReplayFrom::Snapshot)) {
            // Before the interest changes, so that what is live comes behind it.
            let except = self.subscriptions.iter().map(|s| s.filter.clone()).collect();
            cx.effects.push(Effect::Replay {
                encoding: Encoding::NativeWs,
                filter: filter.clone(),
                except,
                from,
            });
            cx.hold_input();
        }
        match known {
            Some(at) => (self.subscriptions[at].filter, self.subscriptions[at].on_lag) = (filter, on_lag),
            None => {
                self.subscriptions.push(Subscription { name, filter, on_lag });
                cx.shared.metrics.subscriptions.inc();
            }
        }
        self.tell_interest(cx);
        Ok(())
    }

    fn request(&self, action: &str, cx: &Context<'_>) -> Result<serde_json::Value, ClientError> {
        match action {
            "list_subscriptions" => {
                let all: Vec<_> = self
                    .subscriptions
                    .iter()
                    .map(|s| native::describe(&s.name.to_string(), &s.filter))
                    .collect();
                Ok(json!({ "subscriptions": all }))
            }
            "subscription_count" => Ok(json!({ "count": self.subscriptions.len() })),
            "server_info" => Ok(json!({
                "name": "fanwire",
                "version": env!("CARGO_PKG_VERSION"),
                "protocol": "fanwire.v1",
                "dialect": "native",
                "epoch": cx.shared.bus.epoch().to_string(),
                "max_message_bytes": cx.config.max_message_bytes,
                "max_subscriptions": cx.config.max_subscriptions,
                "heartbeat_seconds": cx.config.heartbeat.as_secs_f64(),
            })),
            other => Err(ClientError::new(
                "unknown_action",
                format!("Unknown action: {}", native::shortened(other)),
            )),
        }
    }

    fn position(&self, id: &str) -> Option<usize> {
        self.subscriptions.iter().position(|s| s.name.is(id))
    }

    fn tell_interest(&self, cx: &mut Context<'_>) {
        let wishes = self.subscriptions.iter().map(|s| (s.filter.clone(), s.on_lag)).collect();
        cx.effects.push(Effect::Interest { encoding: Encoding::NativeWs, wishes });
    }

    /// Keeps the loop's own filters in place of equal ones.
    pub(crate) fn share_filters<'a>(&mut self, held: impl Fn(&Filter) -> Option<&'a Filter>) {
        for subscription in &mut self.subscriptions {
            if let Some(same) = held(&subscription.filter) {
                subscription.filter = same.clone();
            }
        }
    }

    /// The client is going.
    pub(crate) fn leave(&mut self, cx: &mut Context<'_>) {
        cx.shared.metrics.subscriptions.dec_by(self.subscriptions.len() as i64);
        self.subscriptions.clear();
    }
}

/// Where to resume, as of now: all that is wanted up to this event stands before the answer. So a client that
/// has not got an event yet, or none for long, misses nothing when its connection breaks.
fn last_event_id(cx: &Context<'_>) -> Option<String> {
    cx.position.map(|id| id.to_string())
}

fn reply(cx: &mut Context<'_>, kind: Reply, payload: &serde_json::Value, to: Option<&str>) {
    let random = cx.rng.next_u128();
    let frame = native::reply(kind, payload, random, cx.now, to);
    cx.send(frame);
}

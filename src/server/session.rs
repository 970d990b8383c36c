//! A WebSocket client's subscriptions and requests, whatever its dialect.
//!
//! Imports `dialect`, `filter`, `event`. Always: dialects read and write, this decides; what a client may see, may
//! publish and may ask how often is asked of its [`Rights`], in one place each; what it asked for is kept as it
//! was asked, and narrowed to its grant where it becomes interest; a fault ends no session.

pub(super) mod saved;
mod weight;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use smallvec::SmallVec;

use super::auth::{Denied, Grant};
use super::connection::{Answer, Context, Effect, ReplayFrom};
use super::limits::Limited;
use super::messages;
use super::presence;
use super::rights::Rights;
use super::wheel::Tick;
use crate::codec::ws;
use crate::dialect::{
    Asked, ClientError, ClientMessage, Command, Complete, Dialect, Encoding, Incoming, OnLag, Opening, Place,
    Refusal, Reply, Stamp, Subscribe, lean, native, shortened,
};
use crate::engine::Refused;
use crate::event::EventId;
use crate::filter::{Filter, saved as saved_filter};
use weight::Weight;

/// A subscription's name: the client's own, or one that is not worth an allocation.
#[derive(Clone, Debug, Serialize, Deserialize)]
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

/// One filter of a subscription; one that wants either of several things has as many, one behind the other
/// under one name.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Subscription {
    name: Name,
    #[serde(flatten, with = "saved_filter::flat")]
    filter: Filter,
    on_lag: OnLag,
}

/// Whether the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Flow {
    On,
    /// The last words are said.
    Over,
}

/// What one client subscribed to. Small, for there is one for each client: most have one subscription, and
/// nothing of their own besides.
#[derive(Debug, Default)]
pub(crate) struct Session {
    subscriptions: SmallVec<[Subscription; 1]>,
    /// Numbers the subscriptions that came without an id.
    unnamed: u32,
    encoding: Encoding,
    own: Option<Box<Own>>,
}

/// What few clients have.
#[derive(Debug, Default)]
struct Own {
    place: Place,
    /// It published, and does not hear itself.
    is_deaf_to_itself: bool,
    rights: Rights,
    /// What its subscriptions take, where they are two or more.
    weight: Weight,
}

/// How a connection ends where its dialect has no words of its own for it (RFC 6455, 7.4.1: a policy).
const POLICY: u16 = 1008;

impl Session {
    /// Starts with what the path, the query and what the client showed say.
    pub(crate) fn open(opening: Opening, grant: Option<Arc<Grant>>, cx: &mut Context<'_>) -> Self {
        let Opening { encoding, subscribe, place } = opening;
        let rights = Rights::new(grant, cx);
        let is_locked = rights.is_locked();
        let own = (place.is_some() || rights.are_special()).then(|| {
            Box::new(Own {
                place: place.map_or_else(Place::default, |place| *place),
                rights,
                ..Own::default()
            })
        });
        let mut session = Self { encoding, own, ..Self::default() };
        session.reply(&Reply::Welcome { client: session.client() }, &Asked::Silent, cx);
        match (subscribe, &mut session.own) {
            (Some(subscribe), Some(own)) if is_locked => own.rights.wait_with(subscribe),
            (Some(subscribe), _) => session.subscribe_unasked(*subscribe, cx),
            (None, _) => {}
        }
        session.look_in_time(cx);
        session
    }

    /// Begins what its path says.
    fn subscribe_unasked(&mut self, subscribe: Subscribe, cx: &mut Context<'_>) {
        if let Err(error) = self.subscribe(subscribe, cx) {
            self.fail(&error, &Asked::Silent, cx);
        }
    }

    /// Its number, where its dialect tells clients apart.
    pub(crate) fn client(&self) -> u64 {
        self.own.as_deref().map_or(0, |own| own.place.client)
    }

    fn rights(&self) -> Option<&Rights> {
        self.own.as_deref().map(|own| &own.rights)
    }

    /// The grant that it has shown a token for.
    pub(crate) fn grant(&self) -> Option<&Grant> {
        self.rights()?.grant()
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.rights().is_some_and(Rights::is_locked)
    }

    /// What of a filter becomes interest.
    fn narrow(&self, filter: &Filter) -> Filter {
        self.rights().map_or_else(|| filter.clone(), |rights| rights.narrow(filter))
    }

    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Takes one message.
    pub(crate) fn message(&mut self, message: Incoming<'_>, cx: &mut Context<'_>) -> Flow {
        let nowhere = Place::default();
        let place = self.own.as_ref().map_or(&nowhere, |own| &own.place);
        let ClientMessage { kind, asked, command } = self.encoding.protocol().read(message, place);
        messages::came(self, kind, &asked, message, cx);
        if let Err(limited) = self.admit_message(kind, cx) {
            self.fail(&limited.error(kind), &asked, cx);
            if limited.is_last {
                cx.send(ws::close_frame(POLICY, "rate limit exceeded"));
                return Flow::Over;
            }
            return Flow::On;
        }
        if let Err(error) = cx.config.check_message(self.encoding.dialect(), message) {
            self.fail(&error, &asked, cx);
            return Flow::On;
        }
        let obeyed = match command {
            Ok(Command::Auth { token }) => return self.take_token(&token, &asked, cx),
            command if self.is_locked() => match self.hear_stranger(command, cx) {
                Ok(command) => self.obey(command, &asked, cx),
                Err(Ok(error)) => Err(error),
                Err(Err(refusal)) => return self.refuse(&refusal, cx),
            },
            Ok(command) => self.obey(command, &asked, cx),
            Err(error) => Err(error),
        };
        if let Err(error) = obeyed {
            self.fail(&error, &asked, cx);
        }
        Flow::On
    }

    /// What a client that has shown no token yet may say; else how it is answered, or why it is let go.
    fn hear_stranger(
        &self,
        command: Result<Command, ClientError>,
        cx: &Context<'_>,
    ) -> Result<Command, Result<ClientError, Refusal>> {
        let is_strict = self.encoding.protocol().refuse(&Refusal::NoToken).is_some();
        match command {
            Err(error) if is_strict => Err(Err(Refusal::BadToken(error.text))),
            Err(error) => Err(Ok(error)),
            Ok(_) if is_strict => Err(Err(Refusal::NoToken)),
            Ok(command @ (Command::Ping | Command::Nothing)) => Ok(command),
            Ok(_) => {
                cx.shared.metrics.fault(Denied::Missing.label());
                Err(Ok(ClientError::new(Denied::Missing.code(), Denied::Missing.to_string())))
            }
        }
    }

    /// Whether this client may send one more message of this kind now.
    fn admit_message(&mut self, kind: &'static str, cx: &Context<'_>) -> Result<(), Limited> {
        let protocol = self.encoding.protocol();
        if !cx.config.limits.count_messages() && protocol.usual_limits().is_empty() {
            return Ok(());
        }
        self.own.get_or_insert_default().rights.admit_message(kind, protocol, cx)
    }

    fn take_token(&mut self, token: &str, asked: &Asked, cx: &mut Context<'_>) -> Flow {
        let unlocked = match &mut self.own {
            Some(own) => own.rights.unlock(token, cx),
            // Nobody need show one, so any is good.
            None => Ok(None),
        };
        match unlocked {
            Ok(waiting) => {
                self.recount();
                self.reply(&Reply::Authenticated, asked, cx);
                if !self.subscriptions.is_empty() {
                    // What it may see of what it asked for can be another now.
                    self.tell_interest(cx);
                }
                if let Some(subscribe) = waiting {
                    self.subscribe_unasked(*subscribe, cx);
                }
                self.look_in_time(cx);
                Flow::On
            }
            Err(denied) => {
                cx.shared.metrics.fault(denied.label());
                let why = denied.to_string();
                self.reply(&Reply::AuthFailed(&why), asked, cx);
                self.refuse(&Refusal::BadToken(why), cx)
            }
        }
    }

    /// It may no longer see what it asked for: says so, in the dialect's words.
    pub(crate) fn denied(&self, why: Denied, cx: &mut Context<'_>) {
        let text = why.to_string();
        self.reply(&Reply::Error(&ClientError::new(why.code(), text.as_str())), &Asked::Silent, cx);
        let close = self.encoding.protocol().refuse(&Refusal::BadToken(text.clone()));
        let (code, reason) = close.unwrap_or((POLICY, text.into()));
        cx.send(ws::close_frame(code, &reason));
    }

    /// Has its loop look again when its time is up, where that is before the next heartbeat.
    fn look_in_time(&self, cx: &mut Context<'_>) {
        let Some(rights) = self.rights() else { return };
        if let Some(at) = rights.deadline(cx).or_else(|| rights.expiry(cx)) {
            cx.look_at(at);
        }
    }

    /// Lets the client go, if that is what its dialect does then.
    fn refuse(&self, why: &Refusal, cx: &mut Context<'_>) -> Flow {
        cx.shared.metrics.fault(match why {
            Refusal::NoToken => Denied::Missing.label(),
            Refusal::BadToken(_) => "auth_failed",
            Refusal::TooLate(_) => "auth_late",
        });
        match self.encoding.protocol().refuse(why) {
            Some((code, reason)) => {
                cx.send(ws::close_frame(code, &reason));
                Flow::Over
            }
            None => Flow::On,
        }
    }

    /// Looks whether it had to say something by now; the tick to look again at.
    pub(crate) fn timer(&self, cx: &mut Context<'_>) -> (Flow, Option<Tick>) {
        let Some(rights) = self.rights() else { return (Flow::On, None) };
        match rights.deadline(cx) {
            Some(deadline) if cx.tick >= deadline => {
                let late = Refusal::TooLate(cx.config.handshake_timeout.as_secs());
                let flow = self.refuse(&late, cx);
                if flow == Flow::On {
                    cx.send(ws::close_frame(POLICY, "authentication required"));
                }
                (Flow::Over, None)
            }
            Some(deadline) => (Flow::On, Some(deadline)),
            None => (Flow::On, rights.expiry(cx)),
        }
    }

    /// The server goes: where the protocol has a message for it, says when to come back.
    pub(crate) fn reconnect(&self, delay_ms: u64, cx: &mut Context<'_>) {
        self.reply(&Reply::Reconnect(delay_ms), &Asked::default(), cx);
    }

    fn fail(&self, error: &ClientError, asked: &Asked, cx: &mut Context<'_>) {
        cx.shared.metrics.fault(error.code);
        self.reply(&Reply::Error(error), asked, cx);
    }

    fn reply(&self, reply: &Reply<'_>, asked: &Asked, cx: &mut Context<'_>) {
        let stamp = stamp(cx);
        if let Some(frame) = self.encoding.protocol().reply(reply, asked, stamp) {
            messages::went(self, reply, &frame, cx);
            cx.send(frame);
        }
    }

    fn obey(&mut self, command: Command, asked: &Asked, cx: &mut Context<'_>) -> Result<(), ClientError> {
        match command {
            Command::Subscribe(subscribe) => {
                let id = self.name(&subscribe).to_string();
                // The answer stands between what was owed before and what comes from here on.
                self.subscribe(*subscribe, cx)?;
                self.reply(&Reply::Subscribed { id: &id }, asked, cx);
                Ok(())
            }
            Command::Unsubscribe { subscription_id, strict } => {
                if self.forget(&subscription_id, cx) == 0 && strict {
                    let text = format!("Unknown subscription: {}", shortened(&subscription_id));
                    return Err(ClientError::new("unknown_subscription", text));
                }
                self.tell_interest(cx);
                self.reply(&Reply::Unsubscribed { id: &subscription_id }, asked, cx);
                Ok(())
            }
            Command::Request { action } => {
                let payload = self.request(&action, cx)?;
                self.reply(&Reply::Response(&payload), asked, cx);
                Ok(())
            }
            Command::Presence { channel } => {
                let payload = presence::answer(cx.shared, cx.config, &channel, self.grant())?;
                self.reply(&Reply::Response(&payload), asked, cx);
                Ok(())
            }
            Command::Ping => {
                self.reply(&Reply::Pong, asked, cx);
                Ok(())
            }
            Command::Publish(event) => self.publish(event, asked, cx),
            Command::Say(event) => {
                self.close_ears(event.source().unwrap_or_default(), cx);
                self.publish(event, asked, cx)
            }
            Command::Auth { .. } | Command::Nothing => Ok(()),
        }
    }

    fn publish(&self, event: Complete, asked: &Asked, cx: &mut Context<'_>) -> Result<(), ClientError> {
        if let Some(rights) = self.rights() {
            rights.may_publish(&event)?;
        }
        cx.config.check_event(&event).map_err(|error| ClientError::new("schema", error))?;
        cx.shared.metrics.events_published.inc();
        let stamp = stamp(cx);
        let (encoding, asked) = (self.encoding, asked.clone());
        let answer = move |outcome: Result<Option<EventId>, Refused>| match outcome {
            Ok(id) => encoding.protocol().reply(&Reply::Published(id), &asked, stamp),
            Err(why) => {
                let error = ClientError::new(why.label(), why.text());
                encoding.protocol().reply(&Reply::Error(&error), &asked, stamp)
            }
        };
        cx.effects.push(Effect::Publish { events: vec![event], answer: Answer(Box::new(answer)) });
        Ok(())
    }

    /// From here on it gets nothing from this source, which is its own.
    fn close_ears(&mut self, source: &str, cx: &mut Context<'_>) {
        if let Some(own) = &mut self.own
            && !own.is_deaf_to_itself
        {
            own.is_deaf_to_itself = true;
            for subscription in &mut self.subscriptions {
                subscription.filter = std::mem::take(&mut subscription.filter).not_sources([source]);
            }
            self.recount();
            self.tell_interest(cx);
        }
    }

    /// The name that a subscription is to have.
    fn name(&self, subscribe: &Subscribe) -> Name {
        match &subscribe.subscription_id {
            Some(id) => Name::Given(id.as_str().into()),
            None => Name::Numbered(self.unnamed + 1),
        }
    }

    /// Whether it could be taken.
    fn check(&self, subscribe: &Subscribe, id: &str, cx: &Context<'_>) -> Result<(), ClientError> {
        let limits = cx.config.filter_limits();
        for filter in std::iter::once(&subscribe.filter).chain(&subscribe.or) {
            filter.check(&limits).map_err(|error| ClientError::new("invalid_filter", error.to_string()))?;
            if let Some(rights) = self.rights() {
                rights.may_see(filter, self.encoding.dialect() == Dialect::Autosdlc)?;
            }
        }
        let max = cx.config.max_subscriptions;
        let others = self.subscriptions.iter().filter(|s| !s.name.is(id)).count();
        if others + 1 + subscribe.or.len() > max {
            let text = format!("subscription limit of {max} reached");
            return Err(ClientError::new("too_many_subscriptions", text));
        }
        self.check_weight(subscribe, cx)
    }

    fn subscribe(&mut self, subscribe: Subscribe, cx: &mut Context<'_>) -> Result<(), ClientError> {
        let name = self.name(&subscribe);
        let id = name.to_string();
        self.check(&subscribe, &id, cx)?;
        let Subscribe { filter, or, since, history, snapshot, on_lag, config, .. } = subscribe;
        if let Name::Numbered(number) = name {
            self.unnamed = number;
        }
        let past = since.map(ReplayFrom::After).or(history.map(ReplayFrom::Newest));
        let past = past.or(snapshot.then_some(ReplayFrom::Snapshot));
        if past.is_none() {
            self.forget(&id, cx);
        }
        let filters: SmallVec<[Filter; 1]> = std::iter::once(filter).chain(or).collect();
        if let (Some(from), [filter]) = (past, filters.as_slice()) {
            // Before the interest changes, so that what is live comes behind it.
            let except = self.subscriptions.iter().map(|s| self.narrow(&s.filter)).collect();
            let (encoding, filter) = (self.encoding, self.narrow(filter));
            cx.effects.push(Effect::Replay { encoding, filter, except, from });
            cx.hold_input();
            self.forget(&id, cx);
        }
        if let Some(config) = config {
            cx.shared.directory.add(self.client(), id, config, cx.now);
        }
        for filter in filters {
            messages::subscribed(self.encoding, &filter, 1, cx);
            self.subscriptions.push(Subscription { name: name.clone(), filter, on_lag });
            self.count_newest();
            cx.shared.metrics.subscriptions.inc();
        }
        self.tell_interest(cx);
        Ok(())
    }

    /// Drops what has this name, or everything by the name `*`; how much that was.
    fn forget(&mut self, id: &str, cx: &Context<'_>) -> usize {
        let before = self.subscriptions.len();
        let (encoding, client, narrowed) = (self.encoding, self.client(), self.grant().is_some());
        let mut weight = Weight::default();
        self.subscriptions.retain(|s| {
            let stays = id != "*" && !s.name.is(id);
            if !stays {
                let Weight { all, own } = Self::weight_of(s, narrowed);
                weight = Weight { all: weight.all + all, own: weight.own + own };
                messages::subscribed(encoding, &s.filter, -1, cx);
                if encoding.dialect() == Dialect::Autosdlc {
                    cx.shared.directory.remove(client, &s.name.to_string());
                }
            }
            stays
        });
        let gone = before - self.subscriptions.len();
        self.count_gone(weight);
        cx.shared.metrics.subscriptions.dec_by(gone as i64);
        gone
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
                "protocol": if self.encoding.is_lean() { lean::PROTOCOL } else { native::PROTOCOL },
                "dialect": "native",
                "epoch": cx.shared.bus.epoch().to_string(),
                "max_message_bytes": cx.config.max_message_bytes,
                "max_subscriptions": cx.config.max_subscriptions,
                "heartbeat_seconds": cx.config.heartbeat.as_secs_f64(),
            })),
            other => Err(ClientError::new("unknown_action", format!("Unknown action: {}", shortened(other)))),
        }
    }

    fn tell_interest(&self, cx: &mut Context<'_>) {
        if cx.config.presence.is_on() {
            // Who asks next who is there finds itself among them.
            cx.hold_input();
        }
        let wishes = self.subscriptions.iter().map(|s| (self.narrow(&s.filter), s.on_lag)).collect();
        cx.effects.push(Effect::Interest { encoding: self.encoding, wishes });
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
        messages::left(self.encoding, self.subscriptions.iter().map(|s| &s.filter), cx);
        cx.shared.metrics.subscriptions.dec_by(self.subscriptions.len() as i64);
        self.subscriptions.clear();
        if self.encoding.dialect() == Dialect::Autosdlc {
            cx.shared.directory.remove(self.client(), "*");
        }
    }
}

fn stamp(cx: &mut Context<'_>) -> Stamp {
    Stamp { random: cx.rng.next_u128(), now: cx.now, position: (cx.position)() }
}

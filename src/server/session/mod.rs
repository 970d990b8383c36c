//! A WebSocket client's subscriptions and requests, regardless of its dialect.
//!
//! Always:
//! - Dialects parse and format; the session decides.
//! - [`Rights`] has one function for each check of the events that a client may see or publish, and of its rates.
//! - Subscriptions are kept as the client requested them, and narrowed to its grant in its interest.
//! - A fault does not end the session.

pub(super) mod began;
pub(crate) mod context;
mod echo;
pub(crate) mod effect;
pub(crate) mod ended;
mod interest;
pub(crate) mod kept;
pub(crate) mod opening;
pub(super) mod past;
mod pending;
pub(crate) mod presence_query;
pub(crate) mod rights;
pub(super) mod saved;
pub(crate) mod server_info;
mod subscription;
mod unfinished;
mod update;
mod weighing;
mod weight;

use std::sync::Arc;

use serde_json::json;
use smallvec::SmallVec;

use self::context::Context;
use self::echo::Echo;
use self::effect::{Acceptance, Effect, PublishAnswer, PublishRefusal};
use self::rights::Rights;
use super::auth::{Denied, Grant};
use super::dedupe::PublishOnce;
use super::limits::rates::Limited;
use super::tick::Tick;
use crate::codec::ws;
use crate::dialect::codes::LABEL_AUTH_LATE;
use crate::dialect::{
    CLOSE_POLICY, CLOSE_RESTART, ClientError, ClientMessage, Command, Complete, Encoding, ErrorCode,
    Incoming, Observed, Opening, Place, Refusal, Reply, ReplyTag, Stamp, Subscribe, lean, native, shortened,
};
use crate::event::{EventId, Since};
use crate::filter::Filter;
use pending::{Narrowing, Resuming, Unfinished};
use server_info::server_info;
use subscription::{ALL, SessionSubscription};
use weight::Weight;

/// Continuation of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Flow {
    On,
    /// The final bytes are written; the connection closes.
    Over,
}

/// Subscriptions of one client. The struct is small because each client has one: most have one subscription and no
/// [`Own`] state.
#[derive(Debug, Default)]
pub(crate) struct Session {
    subscriptions: SmallVec<[SessionSubscription; 1]>,
    /// Number of the last subscription without an id.
    unnamed: u32,
    encoding: Encoding,
    own: Option<Box<Own>>,
}

/// State that few clients have.
#[derive(Debug, Default)]
struct Own {
    place: Place,
    /// Whether the client published and must not receive its own events.
    is_own_source_muted: bool,
    rights: Rights,
    /// Memory of the subscriptions, if there are two or more.
    weight: Weight,
    /// Unfinished work. The client is not read until it is done.
    unfinished: Option<Unfinished>,
    /// Last place that was sent to the client, if its places are sealed.
    sent_place: Option<SentPlace>,
    /// Stand-in for the session, on an echo server.
    echo: Option<Box<Echo>>,
}

/// Sealed place that was sent to a client.
#[derive(Debug)]
struct SentPlace {
    place: Since,
    /// Tick when it was first sent.
    at: Tick,
    /// The client's own newest event at that time.
    newest: Option<EventId>,
}

/// Time for which a client with a limited grant is sent the same place while it gets no events: ten seconds. Only the
/// clock renews the place, so its bytes do not reveal whether others have published. It is renewed so that a quiet
/// client does not resume from a place that the ring has dropped.
const SENT_PLACE_TICKS: Tick = 100;

/// Instructions for one byte of a message that is parsed for its type only.
const GLANCE_INSTRUCTIONS: usize = 12;

/// Instructions for one byte of a message from a client without a token, which may be all brackets.
const UNAUTHENTICATED_INSTRUCTIONS: usize = 28;

/// Instructions for one byte of a message that is parsed: up to 70 if it is all short numbers.
const READ_INSTRUCTIONS: usize = 45;

impl Session {
    /// Opens a session with the parameters of the path and the query, and the client's credentials.
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
        session.reply(&Reply::Welcome { client: session.client() }, &ReplyTag::None, cx);
        match (subscribe, &mut session.own) {
            (Some(subscribe), Some(own)) if is_locked => own.rights.wait_with(subscribe),
            (Some(subscribe), _) => session.subscribe_by_path(subscribe, cx),
            (None, _) => {}
        }
        session.schedule_deadline(cx);
        session
    }

    /// Makes the session one that returns the client's messages.
    pub(crate) fn become_echo(&mut self, agreed: Option<ws::PerMessageDeflate>) {
        self.own.get_or_insert_default().echo = Some(Box::new(Echo::new(agreed)));
    }

    /// Returns the stand-in that answers the client's messages, on an echo server.
    pub(crate) fn echo(&mut self) -> Option<&mut Echo> {
        self.own.as_mut()?.echo.as_deref_mut()
    }

    pub(crate) fn is_echo(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.echo.is_some())
    }

    /// Adds the subscription of the path.
    fn subscribe_by_path(&mut self, subscribe: Box<Subscribe>, cx: &mut Context<'_>) {
        if let Err(error) = self.subscribe_when_read(subscribe, None, cx) {
            self.fail(&error, &ReplyTag::None, cx);
        }
    }

    /// Returns the client's number, in dialects that number their clients.
    pub(crate) fn client(&self) -> u64 {
        self.own.as_deref().map_or(0, |own| own.place.client)
    }

    fn rights(&self) -> Option<&Rights> {
        self.own.as_deref().map(|own| &own.rights)
    }

    /// Returns the grant of the client's token.
    pub(crate) fn grant(&self) -> Option<&Grant> {
        self.rights()?.grant()
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.rights().is_some_and(Rights::is_locked)
    }

    /// Returns the part of a filter that becomes interest.
    fn narrow(&self, filter: &Filter) -> Filter {
        self.rights().map_or_else(|| filter.clone(), |rights| rights.narrow(filter))
    }

    /// Returns the part of a subscription's filter that becomes interest.
    fn interest(&self, subscription: &SessionSubscription) -> Filter {
        if subscription.empty_lists() == 0 { self.narrow(&subscription.filter) } else { Filter::nothing() }
    }

    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Handles one message. If the client has not sent its token yet, or messages are counted, the type is parsed
    /// first, and the rest only if the message is admitted.
    pub(crate) fn message(&mut self, message: Incoming<'_>, cx: &mut Context<'_>) -> Flow {
        let protocol = self.encoding.protocol();
        let is_locked = self.is_locked();
        let is_counted = cx.config.limits.count_messages() || !protocol.usual_limits().is_empty();
        if is_locked || is_counted {
            let most = cx.config.message_bytes_max(is_locked);
            let parsed = protocol.read_unauthenticated(message, most);
            // A longer message is not parsed. A compressed one is charged for its maximum length.
            let looked_at = match message {
                _ if message.len() > most => 0,
                Incoming::Binary(_) => most,
                Incoming::Text(text) => text.len(),
            };
            let each = if is_locked { UNAUTHENTICATED_INSTRUCTIONS } else { GLANCE_INSTRUCTIONS };
            cx.budget.spend_bytes(looked_at, each);
            self.observe_message(parsed.kind, &parsed.tag, message, cx);
            if let Err(limited) = self.admit_message(parsed.kind, cx) {
                self.fail(&limited.error(parsed.kind), &parsed.tag, cx);
                if limited.is_last {
                    cx.send(ws::close_frame(CLOSE_POLICY, "rate limit exceeded"));
                    return Flow::Over;
                }
                return Flow::On;
            }
            if is_locked {
                return self.read_unauthenticated(parsed, cx);
            }
        }
        let nowhere = Place::default();
        let place = self.own.as_ref().map_or(&nowhere, |own| &own.place);
        let ClientMessage { kind, tag, command } =
            protocol.read(message, place, cx.config.message_bytes_max(false));
        cx.budget.spend_bytes(message.len(), READ_INSTRUCTIONS);
        if !is_counted {
            self.observe_message(kind, &tag, message, cx);
        }
        if let Err(error) = cx.config.check_message(self.encoding.protocol(), message) {
            self.fail(&error, &tag, cx);
            return Flow::On;
        }
        let executed = match command {
            Ok(Command::Auth { token }) => return self.take_token(&token, tag, cx),
            Ok(command) => self.execute(command, &tag, cx),
            Err(error) => Err(error),
        };
        if let Err(error) = executed {
            self.fail(&error, &tag, cx);
        }
        Flow::On
    }

    /// Handles a message of a client without a token, which may only send a token or a ping.
    fn read_unauthenticated(&mut self, parsed: ClientMessage, cx: &mut Context<'_>) -> Flow {
        let ClientMessage { tag, command, .. } = parsed;
        let is_strict = self.encoding.protocol().refuse(&Refusal::NoToken).is_some();
        let executed = match command {
            Ok(Command::Auth { token }) => return self.take_token(&token, tag, cx),
            Err(error) if is_strict => return self.refuse(&Refusal::BadToken(error.text), cx),
            Err(error) => Err(error),
            Ok(_) if is_strict => return self.refuse(&Refusal::NoToken, cx),
            Ok(command @ (Command::Ping | Command::Nothing)) => self.execute(command, &tag, cx),
            Ok(_) => {
                cx.shared.metrics.fault(Denied::Missing.label());
                Err(ClientError::new(Denied::Missing.code(), Denied::Missing.to_string()))
            }
        };
        if let Err(error) = executed {
            self.fail(&error, &tag, cx);
        }
        Flow::On
    }

    /// Counts a message, and refuses it if it is over the client's limit.
    fn admit_message(&mut self, kind: &'static str, cx: &Context<'_>) -> Result<(), Limited> {
        let protocol = self.encoding.protocol();
        if !cx.config.limits.count_messages() && protocol.usual_limits().is_empty() {
            return Ok(());
        }
        self.own.get_or_insert_default().rights.admit_message(kind, protocol, cx)
    }

    fn take_token(&mut self, token: &str, tag: ReplyTag, cx: &mut Context<'_>) -> Flow {
        let saw = self.rights().and_then(Rights::sees).cloned();
        let unlocked = match &mut self.own {
            Some(own) => own.rights.unlock(token, cx),
            // Without authentication any token is accepted.
            None => Ok(None),
        };
        match unlocked {
            Ok(waiting) => {
                self.recount();
                let sees = self.rights().and_then(Rights::sees).cloned();
                let next = if saw == sees { self.subscriptions.len() } else { 0 };
                let saw = saw.unwrap_or_default();
                if next > 0 {
                    // The client sees the same events, but may be another user.
                    self.emit_change(Vec::new(), 0..0, 0, cx);
                }
                self.begin_narrowing(Narrowing { saw, next, tag, waiting }, cx);
                Flow::On
            }
            Err(denied) => {
                cx.shared.metrics.fault(denied.label());
                let why = denied.to_string();
                self.reply(&Reply::AuthFailed(&why), &tag, cx);
                self.refuse(&Refusal::BadToken(why), cx)
            }
        }
    }

    /// Reports to the client, in its dialect, that it may no longer see its events.
    pub(crate) fn denied(&self, why: Denied, cx: &mut Context<'_>) {
        let text = why.to_string();
        self.reply(&Reply::Error(&ClientError::new(why.code(), text.as_str())), &ReplyTag::None, cx);
        let close = match why {
            // The client's token may still be valid.
            Denied::Outdated => Some((CLOSE_RESTART, text.clone().into())),
            _ => self.encoding.protocol().refuse(&Refusal::BadToken(text.clone())),
        };
        let (code, reason) = close.unwrap_or((CLOSE_POLICY, text.into()));
        cx.send(ws::close_frame(code, &reason));
    }

    /// Requests that the loop calls the timer at the client's deadline, if that is before the next heartbeat.
    fn schedule_deadline(&self, cx: &mut Context<'_>) {
        let Some(rights) = self.rights() else { return };
        if let Some(at) = rights.deadline(cx).or_else(|| rights.expiry(cx)) {
            cx.look_at(at);
        }
    }

    /// Refuses a client. Closes the connection if its dialect does so for this reason.
    fn refuse(&self, why: &Refusal, cx: &mut Context<'_>) -> Flow {
        cx.shared.metrics.fault(match why {
            Refusal::NoToken => Denied::Missing.label(),
            Refusal::BadToken(_) => ErrorCode::AuthFailed.name(),
            Refusal::TooLate(_) => LABEL_AUTH_LATE,
        });
        match self.encoding.protocol().refuse(why) {
            Some((code, reason)) => {
                cx.send(ws::close_frame(code, &reason));
                Flow::Over
            }
            None => Flow::On,
        }
    }

    /// Runs the timer. Returns the tick to run it again.
    pub(crate) fn timer(&self, cx: &mut Context<'_>) -> (Flow, Option<Tick>) {
        let Some(rights) = self.rights() else { return (Flow::On, None) };
        match rights.deadline(cx) {
            Some(deadline) if cx.tick >= deadline => {
                let late = Refusal::TooLate(cx.config.handshake_timeout.as_secs());
                let flow = self.refuse(&late, cx);
                if flow == Flow::On {
                    cx.send(ws::close_frame(CLOSE_POLICY, "authentication required"));
                }
                (Flow::Over, None)
            }
            Some(deadline) => (Flow::On, Some(deadline)),
            None => (Flow::On, rights.expiry(cx)),
        }
    }

    /// Sends the client the delay before it reconnects, if its protocol has a message for that.
    pub(crate) fn reconnect(&self, delay_ms: u64, cx: &mut Context<'_>) {
        self.reply(&Reply::Reconnect(delay_ms), &ReplyTag::default(), cx);
    }

    /// Reports something that happened to the client to its dialect.
    fn observe(&self, observed: Observed<'_>, cx: &Context<'_>) {
        let protocol = self.encoding.protocol();
        if protocol.observes() {
            protocol.observe(&cx.watch(self.client()), observed);
        }
    }

    fn observe_message(&self, kind: &'static str, tag: &ReplyTag, message: Incoming<'_>, cx: &Context<'_>) {
        let bytes_max = cx.config.max_message_bytes;
        self.observe(Observed::Received { kind, tag, message, bytes_max }, cx);
    }

    fn fail(&self, error: &ClientError, tag: &ReplyTag, cx: &mut Context<'_>) {
        cx.shared.metrics.fault(error.code.name());
        self.reply(&Reply::Error(error), tag, cx);
    }

    fn reply(&self, reply: &Reply<'_>, tag: &ReplyTag, cx: &mut Context<'_>) {
        self.reply_at(None, reply, tag, cx);
    }

    /// Responds, with the client's place after the response.
    fn reply_at(&self, place: Option<Since>, reply: &Reply<'_>, tag: &ReplyTag, cx: &mut Context<'_>) {
        let stamp = Stamp { random: cx.rng.next_u128(), now: cx.now, position: place };
        if let Some(frame) = self.encoding.protocol().reply(reply, tag, stamp) {
            self.observe(Observed::Sent { reply, frame: &frame }, cx);
            cx.send(frame);
        }
    }

    /// Returns the place to send to the client; none until it has sent a required token. `is_new` is true if the client
    /// requested something new, so that an earlier place does not suffice.
    fn place(&mut self, is_new: bool, cx: &mut Context<'_>) -> Option<Since> {
        let grant = self.grant();
        if self.is_locked() {
            return None;
        }
        if grant.is_none_or(|grant| !grant.narrows()) {
            return cx.place(None);
        }
        let (newest, tick) = (cx.view.newest(), cx.tick);
        let sent_place = self.own.as_ref().and_then(|own| own.sent_place.as_ref());
        if let Some(sent_place) = sent_place.filter(|sent_place| {
            !is_new && sent_place.newest == newest && tick < sent_place.at + SENT_PLACE_TICKS
        }) {
            return Some(sent_place.place.clone());
        }
        let place = cx.place(grant)?;
        let sent_place = SentPlace { place: place.clone(), at: tick, newest };
        self.own.get_or_insert_default().sent_place = Some(sent_place);
        Some(place)
    }

    fn execute(&mut self, command: Command, tag: &ReplyTag, cx: &mut Context<'_>) -> Result<(), ClientError> {
        match command {
            Command::Subscribe(subscribe) => {
                // The response goes between the events pending before the change and those after it.
                self.subscribe_when_read(subscribe, Some(tag), cx)
            }
            Command::Update(update) => self.update(*update, tag, cx),
            Command::Unsubscribe { subscription_id, strict } => {
                let gone = if subscription_id == ALL {
                    self.forget(0..self.subscriptions.len(), cx)
                } else {
                    self.forget(self.named(&subscription_id), cx)
                };
                if gone.is_empty() && strict {
                    let text = format!("Unknown subscription: {}", shortened(&subscription_id));
                    return Err(ClientError::new(ErrorCode::UnknownSubscription, text));
                }
                if self.subscriptions.is_empty() {
                    self.emit_interest(cx);
                } else {
                    self.emit_change(gone, 0..0, 0, cx);
                }
                self.reply(&Reply::Unsubscribed { id: &subscription_id }, tag, cx);
                Ok(())
            }
            Command::Refill { since } if cx.is_ahead(&since) => {
                self.await_read(since.clone(), Resuming::Refill(since, tag.clone()), cx);
                Ok(())
            }
            Command::Refill { since } => {
                self.execute_refill(since, tag, cx);
                Ok(())
            }
            Command::Request { action } if action == "list_subscriptions" => {
                self.begin_listing(tag.clone(), cx);
                Ok(())
            }
            Command::Request { action } => {
                let payload = self.request(&action, cx)?;
                self.reply(&Reply::Response(&payload), tag, cx);
                Ok(())
            }
            Command::Presence { channel } => {
                let payload = presence_query::answer(cx.shared, cx.config, &channel, self.grant())?;
                self.reply(&Reply::Response(&payload.to_string()), tag, cx);
                Ok(())
            }
            Command::Ping => {
                let place = self.place(false, cx);
                self.reply_at(place, &Reply::Pong, tag, cx);
                Ok(())
            }
            Command::Publish { event, is_acked } => self.publish(event, is_acked, tag, cx),
            Command::Say(event) => {
                self.mute_own_source(event.source().unwrap_or_default(), cx);
                self.publish(event, true, tag, cx)
            }
            Command::Auth { .. } | Command::Withheld | Command::Nothing => Ok(()),
        }
    }

    fn execute_refill(&mut self, since: Since, tag: &ReplyTag, cx: &mut Context<'_>) {
        self.refill(since.clone(), cx);
        self.reply(&Reply::Refilling { since: &since }, tag, cx);
    }

    /// Delivers again, in order and before live events, everything after a place that the subscriptions match.
    fn refill(&self, since: Since, cx: &mut Context<'_>) {
        if self.subscriptions.is_empty() {
            return;
        }
        let filters: Vec<Filter> = self.subscriptions.iter().map(|s| self.interest(s)).collect();
        // About 50 instructions for each copy.
        cx.budget.spend(u32::try_from(filters.len() / 16 + 1).unwrap_or(u32::MAX));
        cx.effects.push(Effect::Refill { encoding: self.encoding, filters, since });
        cx.hold_input();
    }

    /// Publishes an event. With `is_acked` a success is reported too.
    fn publish(
        &self,
        event: Complete,
        is_acked: bool,
        tag: &ReplyTag,
        cx: &mut Context<'_>,
    ) -> Result<(), ClientError> {
        if let Some(rights) = self.rights() {
            // About 60 instructions for each pattern of a token that the event is matched against.
            cx.budget.spend(u32::try_from(rights.patterns() / 16).unwrap_or(u32::MAX));
            rights.may_publish(&event)?;
        }
        cx.config.check_event(&event).map_err(|error| ClientError::new(ErrorCode::Schema, error))?;
        let once = event.dedupe_id().is_some().then(|| Box::new(PublishOnce::new(self.grant(), None)));
        if once.is_none() {
            cx.shared.metrics.events_published.inc();
        } else {
            // The publication may have to wait for another one, and so do later messages.
            cx.hold_input();
        }
        let stamp = Stamp { random: cx.rng.next_u128(), now: cx.now, position: None };
        let (encoding, tag) = (self.encoding, tag.clone());
        let answer = move |outcome: Result<Acceptance, PublishRefusal>| match outcome {
            Ok(_) if !is_acked => None.into(),
            Ok(Acceptance { last: id, duplicates, .. }) => {
                let reply = Reply::Published { id, is_duplicate: duplicates > 0 };
                encoding.protocol().reply(&reply, &tag, stamp).into()
            }
            Err(why) => {
                let error =
                    ClientError { log: why.log().map(Box::new), ..ClientError::new(why.code(), why.text()) };
                encoding.protocol().reply(&Reply::Error(&error), &tag, stamp).into()
            }
        };
        let answer = PublishAnswer(Box::new(answer));
        cx.effects.push(Effect::Publish { events: vec![event], once, answer });
        Ok(())
    }

    /// Excludes events of this source, the client's own, from its subscriptions.
    fn mute_own_source(&mut self, source: &str, cx: &mut Context<'_>) {
        if let Some(own) = &mut self.own
            && !own.is_own_source_muted
        {
            own.is_own_source_muted = true;
            for subscription in &mut self.subscriptions {
                subscription.filter = std::mem::take(&mut subscription.filter).not_sources([source]);
            }
            self.recount();
            self.mark_all();
            self.emit_interest(cx);
        }
    }

    /// Returns the number of subscriptions. A subscription with a long list has several filters.
    fn subscription_count(&self) -> usize {
        self.subscriptions.chunk_by(SessionSubscription::is_part_of).count()
    }

    /// Returns the response to a request, as JSON.
    fn request(&self, action: &str, cx: &mut Context<'_>) -> Result<String, ClientError> {
        let answer = match action {
            "subscription_count" => json!({ "count": self.subscription_count() }),
            "server_info" => {
                server_info(if self.encoding.is_lean() { lean::PROTOCOL } else { native::PROTOCOL }, cx)
            }
            other => {
                let text = format!("Unknown action: {}", shortened(other));
                return Err(ClientError::new(ErrorCode::UnknownAction, text));
            }
        };
        Ok(answer.to_string())
    }

    /// Ends the session's subscriptions, because the connection closes.
    pub(crate) fn leave(&mut self, cx: &mut Context<'_>) {
        let mut filters = self.subscriptions.iter().map(|s| &s.filter);
        self.observe(Observed::Left { filters: &mut filters }, cx);
        cx.shared.metrics.subscriptions.dec_by(self.subscriptions.len() as i64);
        self.subscriptions.clear();
    }
}

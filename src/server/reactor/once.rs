//! Publications that are accepted once: those with an idempotency key, and those of events with a dedupe id.
//!
//! Invariants:
//! - No event of such a publication is published without a claim on its key and on the ids of its new events.
//! - A client is not read while its publication waits for another one, so its answers keep their order.
//! - Each wait ends with the outcome of the other publication, and a publication waits a limited number of times.

use std::sync::Arc;

use super::loop_state::LoopState;
use super::mailbox::{MailboxItem, WaitingPublish};
use super::socket::Socket;
use super::token::Token;
use crate::dialect::Complete;
use crate::engine::Refused;
use crate::server::dedupe::{
    AcceptedIds, Answered, ClaimOutcome, Fresh, OnceClaim, PublishOnce, Settled, SettledCallback,
};
use crate::server::session::effect::{Acceptance, PublishAnswer, PublishRefusal};

/// Maximum number of times that a publication waits for another one.
const WAITS_MAX: u8 = 4;

/// Number of ids that one unit of work claims and settles.
const IDS_A_UNIT: usize = 16;

impl<S: Socket> LoopState<S> {
    /// Publishes a client's events unless they were published before, and sends the answer.
    pub(super) fn publish_once(
        &mut self,
        slot: usize,
        events: Vec<Complete>,
        mut once: Box<PublishOnce>,
        answer: PublishAnswer,
    ) {
        self.turn.work.spend(u32::try_from(1 + events.len() / IDS_A_UNIT).unwrap_or(u32::MAX));
        let token = self.clients.token(slot);
        let number = self.requests.waits + 1;
        let mailbox = &self.requests.mailbox;
        let waiter = || -> SettledCallback {
            let mailbox = Arc::clone(mailbox);
            Box::new(move || mailbox.leave(token, MailboxItem::Settled(number)))
        };
        let claimed = self.shared.clients.dedupe.claim(
            self.turn.tick,
            &once,
            events.iter().map(Complete::dedupe_id),
            (once.waits < WAITS_MAX).then_some(waiter),
        );
        match claimed {
            ClaimOutcome::Publish(claim, fresh) => {
                let stamps = self.stamps(&events, &fresh, &once);
                self.publish_fresh(slot, events, (claim, fresh), stamps, answer);
            }
            ClaimOutcome::Answered(answered) => {
                let outcome = self.known_outcome(answered, events.len());
                self.answer_publisher(token, outcome, answer);
            }
            ClaimOutcome::Waits => {
                once.waits += 1;
                self.requests.waits = number;
                let bytes = events.iter().map(|event| size_of::<Complete>() + event.payload().len()).sum();
                let charge = self.shared.held.charge(bytes);
                self.clients.conns[slot].pending_answers += 1;
                self.requests.waiting.insert(number, WaitingPublish { events, once, answer, charge });
            }
        }
    }

    /// Returns the stamps of the new events for the engine's log, if there is one.
    fn stamps(&self, events: &[Complete], fresh: &Fresh, once: &PublishOnce) -> Vec<Option<Box<str>>> {
        let Some(engine) = &self.shared.engine else { return Vec::new() };
        let is_divided = events.len() > 1 && engine.appends_singly();
        let last = fresh.is_fresh.iter().rposition(|is_fresh| *is_fresh);
        let new = events.iter().enumerate().filter(|(at, _)| fresh.is_fresh[*at]);
        let stamp = |(at, event): (usize, &Complete)| {
            let part = Some(at).filter(|_| is_divided);
            once.stamp(event.dedupe_id(), part, Some(at) == last, self.turn.now)
        };
        new.map(stamp).collect()
    }

    /// Publishes the new events of a publication, and settles its claim with their outcome.
    fn publish_fresh(
        &mut self,
        slot: usize,
        events: Vec<Complete>,
        (claim, fresh): (OnceClaim, Fresh),
        stamps: Vec<Option<Box<str>>>,
        answer: PublishAnswer,
    ) {
        let Fresh { is_fresh, known } = fresh;
        let count = events.len();
        // With only new events, each has its number in the publication.
        let numbers: Vec<usize> = match events.len() {
            1 => Vec::new(),
            _ => is_fresh.iter().enumerate().filter(|(_, is_fresh)| **is_fresh).map(|(at, _)| at).collect(),
        };
        let is_new = events.into_iter().zip(is_fresh).filter(|(_, is_fresh)| *is_fresh);
        let events: Vec<Complete> = is_new.map(|(event, _)| event).collect();
        let duplicates = count - events.len();
        let metrics = Arc::clone(&self.shared.metrics);
        let settle = move |outcome: Result<Acceptance, PublishRefusal>| {
            let mut outcome =
                outcome.map(|accepted| Acceptance { last: accepted.last.or(known), duplicates, ..accepted });
            if let Err(PublishRefusal::Log(_, _, stayed)) = &mut outcome {
                for (at, _) in stayed {
                    *at = numbers.get(*at).copied().unwrap_or(*at);
                }
            }
            claim.settle(match &outcome {
                // Events that were published before lie elsewhere.
                Ok(Acceptance { first, last, duplicates }) => {
                    Settled::Accepted(AcceptedIds { first: first.filter(|_| *duplicates == 0), last: *last })
                }
                Err(PublishRefusal::Engine(Refused::Unanswered)) => Settled::Uncertain,
                Err(_) => Settled::Refused,
            });
            if outcome.is_ok() {
                metrics.events_published.inc_by((count - duplicates) as u64);
                metrics.events_duplicate.inc_by(duplicates as u64);
            }
            (answer.0)(outcome)
        };
        let answer = PublishAnswer(Box::new(settle));
        if events.is_empty() {
            // A new key of known events: nothing waits for the engine.
            return self.answer_publisher(self.clients.token(slot), Ok(Acceptance::default()), answer);
        }
        self.publish_now(slot, events, stamps, answer);
    }

    /// Returns the outcome of a publication that is not published, and counts its `count` events.
    fn known_outcome(&self, answered: Answered, count: usize) -> Result<Acceptance, PublishRefusal> {
        let refusal = match answered {
            Answered::Accepted(AcceptedIds { first, last }) => {
                self.shared.metrics.events_duplicate.inc_by(count as u64);
                return Ok(Acceptance { first, last, duplicates: count });
            }
            Answered::Uncertain => PublishRefusal::Engine(Refused::Unanswered),
            Answered::OtherBody => PublishRefusal::KeyReused,
            Answered::Busy => PublishRefusal::InFlight,
        };
        self.shared.metrics.fault(refusal.code().name());
        Err(refusal)
    }

    /// Continues a publication that waited for another one, which is settled now.
    pub(super) fn publish_again(&mut self, token: Token, number: u64) {
        let Some(waiting) = self.requests.waiting.remove(&number) else { return };
        let WaitingPublish { events, once, answer, .. } = waiting;
        if let Some(slot) = self.find(token) {
            self.publish_once(slot, events, once, answer);
            self.deliver(token, None);
        }
    }
}

//! Publications to kept logs: admitted and published under the lock of the logs, or admitted and sent to the engine.
//!
//! Invariants:
//! - An event of a kept log gets its id under the lock under which it was admitted, or its log is held for its batch.
//!   So an ended log accepts nothing, and no event comes between `expected_last_id` and its event.
//! - With an engine, the order of admissions is the order in which this node sends. If events of other nodes come in
//!   between, the log's order decides, and a publisher whose event it may refuse is answered once this node has read it.
//! - The lock is held for at most [`PUBLISHED_A_BATCH`] events, and never while the loop delivers, because delivery records.

use std::sync::Arc;

use super::delivery::PUBLISHED_A_BATCH;
use super::loop_state::LoopState;
use super::mailbox::MailboxItem;
use super::socket::Socket;
use super::token::Token;
use crate::dialect::Complete;
use crate::engine::Done;
use crate::event::Event;
use crate::kept::{KeptLogs, LogRefusal, SentPublication, refuse_all_unkept};
use crate::server::session::effect::{Acceptance, PublishAnswer, PublishRefusal};

/// Returns the refusal of a publication because of a log.
pub(super) fn refusal_of(refusal: LogRefusal, events: &[Complete]) -> PublishRefusal {
    let line = events.get(refusal.at).map_or(0, Complete::line);
    PublishRefusal::Log(Box::new(refusal), line, Vec::new())
}

impl<S: Socket> LoopState<S> {
    /// Publishes events on the bus, if the kept logs admit them, and sends the answer. Without rules, each event
    /// without a condition on a log is admitted.
    pub(super) fn publish_in_logs(&mut self, token: Token, events: Vec<Complete>, answer: PublishAnswer) {
        if self.delivery.unpumped + events.len() > PUBLISHED_A_BATCH && self.shared.kept.is_on() {
            // Delivers before the lock, under which the loop must not deliver. The client may be gone afterwards.
            self.delivery.reader.notify_others();
            self.append_published();
        }
        let shared = Arc::clone(&self.shared);
        let Some(mut logs) = shared.kept.lock() else {
            match refuse_all_unkept(&events) {
                Ok(()) => self.publish_on_bus(token, into_events(events), Vec::new(), answer),
                Err(refusal) => self.answer_publisher(token, Err(refusal_of(refusal, &events)), answer),
            }
            return;
        };
        let names = match logs.admit(&events, self.turn.now) {
            Ok(names) if names.iter().any(|name| logs.is_held(name)) => Err(PublishRefusal::InFlight),
            Ok(names) => Ok(names),
            Err(refusal) => Err(refusal_of(refusal, &events)),
        };
        match names {
            Err(refusal) => {
                drop(logs);
                self.shared.metrics.fault(refusal.code().name());
                self.answer_publisher(token, Err(refusal), answer);
            }
            Ok(names) if names.is_empty() || events.len() > PUBLISHED_A_BATCH => {
                logs.hold(&names);
                drop(logs);
                self.publish_on_bus(token, into_events(events), names, answer);
            }
            Ok(_) => {
                let accepted = self.publish_under(&mut logs, into_events(events));
                drop(logs);
                self.delivery.reader.notify_others();
                self.answer_publisher(token, Ok(accepted), answer);
            }
        }
    }

    /// Sends events to the engine, if the kept logs take them as far as this node knows. `stamps` is empty, or has an item for
    /// each.
    pub(super) fn send_to_engine(
        &mut self,
        slot: usize,
        events: Vec<Complete>,
        stamps: &[Option<Box<str>>],
        answer: PublishAnswer,
    ) {
        let shared = Arc::clone(&self.shared);
        let Some(engine) = &shared.engine else { return };
        let records = engine.records(events.iter().map(|event| &**event));
        let mut logs = shared.kept.lock();
        let admitted = match &mut logs {
            Some(logs) => logs.admit_sent(&events, stamps, self.turn.now),
            None => refuse_all_unkept(&events).map(|()| None),
        };
        let mut sent = match admitted {
            Ok(sent) => sent,
            Err(refusal) => {
                drop(logs);
                let refusal = refusal_of(refusal, &events);
                shared.metrics.fault(refusal.code().name());
                return self.answer_publisher(self.clients.token(slot), Err(refusal), answer);
            }
        };
        // Events without a log wait for nothing, and their order is the queue's alone.
        logs = logs.filter(|_| sent.is_some());
        let conn = &mut self.clients.conns[slot];
        conn.pending_answers += 1;
        let token = conn.token(slot);
        let is_conditional = sent.as_ref().is_some_and(|sent| sent.is_conditional);
        let marked = sent.as_mut().map(|sent| std::mem::take(&mut sent.stamps));
        let done = self.answer_of_engine(token, &events, sent, answer);
        let stamps = marked.as_deref().unwrap_or(stamps);
        let refused = engine.submit_records(records, stamps, is_conditional, done);
        drop(logs);
        if let Err((refused, done)) = refused {
            done(Err(refused));
        }
    }

    /// Returns the callback that answers a publisher with the outcome of its publication.
    fn answer_of_engine(
        &self,
        token: Token,
        events: &[Complete],
        sent: Option<SentPublication>,
        answer: PublishAnswer,
    ) -> Done {
        let lines: Vec<u32> = events.iter().map(Complete::line).collect();
        let (shared, mailbox) = (Arc::downgrade(&self.shared), Arc::clone(&self.requests.mailbox));
        Box::new(move |outcome| {
            let refusal = sent.and_then(|sent| {
                let shared = shared.upgrade()?;
                let (mut logs, ids) = (shared.kept.lock()?, outcome.unwrap_or_default());
                let refusal = logs.settle_sent(&sent, ids)?;
                let stayed = logs.stayed(ids);
                drop(logs);
                shared.metrics.fault(refusal.code.name());
                Some((refusal, stayed))
            });
            let outcome = match (outcome, refusal) {
                (Err(refused), _) => Err(PublishRefusal::Engine(refused)),
                (Ok(_), Some((refusal, stayed))) => {
                    let line = lines.get(refusal.at).copied().unwrap_or(0);
                    Err(PublishRefusal::Log(Box::new(refusal), line, stayed))
                }
                (Ok(ids), None) => {
                    Ok(Acceptance { first: ids.first().copied(), last: ids.last().copied(), duplicates: 0 })
                }
            };
            mailbox.leave(token, MailboxItem::Engine((answer.0)(outcome)));
        })
    }

    /// Publishes a part of a batch with held logs.
    pub(super) fn publish_held(&mut self, events: Vec<Event>) -> Acceptance {
        self.delivery.reader.notify_others();
        self.append_published();
        let shared = Arc::clone(&self.shared);
        let accepted = match shared.kept.lock() {
            Some(mut logs) => self.publish_under(&mut logs, events),
            None => return self.publish_here(events),
        };
        self.delivery.reader.notify_others();
        accepted
    }

    /// Publishes admitted events and records them in their logs.
    fn publish_under(&mut self, logs: &mut KeptLogs, events: Vec<Event>) -> Acceptance {
        let mut accepted = Acceptance::default();
        for event in events {
            let log = logs.log_of(&event);
            let id = self.shared.bus.publish_unannounced(event);
            self.delivery.unpumped += 1;
            if let (Some((name, is_end)), Some(id)) = (log, id) {
                logs.record_accepted(name, id, is_end);
            }
            accepted.record(id);
        }
        accepted
    }
}

/// Returns the events without their publisher's conditions.
pub(super) fn into_events(events: Vec<Complete>) -> Vec<Event> {
    events.into_iter().map(Complete::into_event).collect()
}

//! Publications to kept logs: admitted and published under the lock of the logs.
//!
//! Invariants:
//! - An event of a kept log gets its id under the lock under which it was admitted, or its log is held for its batch.
//!   So an ended log accepts nothing, and no event comes between `expected_last_id` and its event.
//! - The lock is held for at most [`PUBLISHED_A_BATCH`] events, and never while the loop delivers, because delivery records.

use std::sync::Arc;

use super::delivery::{BATCHES_A_TURN, PUBLISHED_A_BATCH};
use super::loop_state::LoopState;
use super::socket::Socket;
use super::token::Token;
use crate::dialect::Complete;
use crate::event::{Event, EventId};
use crate::kept::{KeptLogs, LogRefusal, refuse_all_unkept};
use crate::server::session::effect::{Acceptance, PublishAnswer, PublishRefusal};

/// Returns the refusal of a publication because of a log.
pub(super) fn refusal_of(refusal: LogRefusal, events: &[Complete]) -> PublishRefusal {
    let line = events.get(refusal.at).map_or(0, Complete::line);
    PublishRefusal::Log(Box::new(refusal), line)
}

impl<S: Socket> LoopState<S> {
    /// Publishes events on the bus, if the kept logs admit them, and sends the answer. Without rules, each event
    /// without a condition on a log is admitted.
    pub(super) fn publish_in_logs(&mut self, token: Token, events: Vec<Complete>, answer: PublishAnswer) {
        if self.delivery.unpumped + events.len() > PUBLISHED_A_BATCH && self.shared.kept.is_on() {
            // Delivers before the lock, under which the loop must not deliver. The client may be gone afterwards.
            self.delivery.reader.notify_others();
            self.pump(BATCHES_A_TURN);
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
                let last = self.publish_under(&mut logs, into_events(events));
                drop(logs);
                self.delivery.reader.notify_others();
                self.answer_publisher(token, Ok(Acceptance { last, duplicates: 0 }), answer);
            }
        }
    }

    /// Publishes a part of a batch with held logs.
    pub(super) fn publish_held(&mut self, events: Vec<Event>) -> Option<EventId> {
        self.delivery.reader.notify_others();
        self.pump(BATCHES_A_TURN);
        let shared = Arc::clone(&self.shared);
        let last = match shared.kept.lock() {
            Some(mut logs) => self.publish_under(&mut logs, events),
            None => return self.publish_here(events),
        };
        self.delivery.reader.notify_others();
        last
    }

    /// Publishes admitted events and notes them in their logs.
    fn publish_under(&mut self, logs: &mut KeptLogs, events: Vec<Event>) -> Option<EventId> {
        let mut last = None;
        for event in events {
            let log = logs.log_of(&event);
            let id = self.shared.bus.publish_unannounced(event);
            self.note_unpumped();
            if let (Some((name, is_end)), Some(id)) = (log, id) {
                logs.note_accepted(name, id, is_end);
            }
            last = id.or(last);
        }
        last
    }
}

/// Returns the events without their publisher's conditions.
pub(super) fn into_events(events: Vec<Complete>) -> Vec<Event> {
    events.into_iter().map(Complete::into_event).collect()
}

//! Answers that come from other threads: what the engine says of events that clients published.
//!
//! Imports the room's core. Always: each answer reaches the connection that waits for it, or nobody if that is
//! gone; while it waits, a connection is not read, so its answers keep their order.

use std::sync::Arc;

use bytes::Bytes;

use super::super::connection::Answer;
use super::{Core, Socket, Token};
use crate::event::{Event, EventId};
use crate::sync::{Callback, Mutex, lock};

/// Where other threads leave answers for a loop.
#[derive(Default)]
pub(super) struct Mailbox {
    answers: Mutex<Vec<(Token, Option<Bytes>)>>,
    /// Wakes the loop.
    waker: Mutex<Option<Callback>>,
}

impl Mailbox {
    fn leave(&self, token: Token, answer: Option<Bytes>) {
        let first = {
            let mut answers = lock(&self.answers);
            answers.push((token, answer));
            answers.len() == 1
        };
        if first && let Some(wake) = lock(&self.waker).as_ref() {
            wake();
        }
    }
}

impl<S: Socket> Core<S> {
    /// How another thread wakes the loop for an answer that it left.
    pub(crate) fn on_mail(&self, waker: Callback) {
        *lock(&self.mailbox.waker) = Some(waker);
    }

    /// Publishes what a client sent, on the bus or through the engine, and answers it.
    pub(super) fn publish(&mut self, slot: usize, events: Vec<Event>, answer: Answer) {
        let Some(engine) = &self.shared.engine else {
            let token = super::token_of(slot, self.conns[slot].generation);
            let last = self.publish_here(events);
            if let Some(answer) = (answer.0)(Ok(last)).filter(|_| self.find(token).is_some()) {
                self.conns[slot].cursor.send(&mut self.fanout, answer);
            }
            return;
        };
        let conn = &mut self.conns[slot];
        conn.awaits += 1;
        let token = super::token_of(slot, conn.generation);
        let mailbox = Arc::clone(&self.mailbox);
        engine.submit(&events, Box::new(move |outcome| mailbox.leave(token, (answer.0)(outcome))));
    }

    fn publish_here(&mut self, events: Vec<Event>) -> Option<EventId> {
        let mut last = None;
        for event in events {
            last = Some(self.shared.bus.publish(event).id);
            self.unpumped += 1;
            if self.unpumped >= super::PUBLISHED_A_BATCH {
                self.pump(super::BATCHES_A_TURN);
            }
        }
        last
    }

    /// Hands out the answers that came.
    pub(super) fn take_mail(&mut self) {
        let answers = std::mem::take(&mut *lock(&self.mailbox.answers));
        for (token, answer) in answers {
            let Some(slot) = self.find(token) else { continue };
            let conn = &mut self.conns[slot];
            conn.awaits -= 1;
            if let Some(answer) = answer {
                conn.cursor.send(&mut self.fanout, answer);
            }
            if conn.unread || conn.connection.holds_input() {
                self.queue(slot);
            }
            self.flush(slot);
        }
    }
}

//! Answers from other threads: the engine's verdict on published events, and results of workers.
//!
//! Invariants:
//! - Each answer reaches the connection that waits for it. The answer for a closed connection is dropped.
//! - A connection is not read while it waits, so its answers keep their order.
//! - The wait for a worker has a limit.

use std::sync::Arc;

use super::delivery::{BATCHES_A_TURN, PUBLISHED_A_BATCH, SNAPSHOT};
use super::loop_state::LoopState;
use super::mailbox::{Awaited, MailboxItem};
use super::socket::Socket;
use super::token::Token;
use crate::dialect::Complete;
use crate::engine::Refused;
use crate::event::Event;
use crate::feed::ConnIndex;
use crate::kept::LogName;
use crate::server::dedupe::PublishOnce;
use crate::server::session::effect::{
    Acceptance, Made, NotDone, PublishAnswer, PublishRefusal, PublishReply, Work,
};
use crate::server::tick::Tick;
use crate::sync::{Callback, lock};

/// Logs the events that belong to a trace, with its ids.
fn log(events: &[Complete]) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    for event in events {
        if let Some(parent) = event.trace_parent() {
            // The text was checked, so both ids have fixed places.
            let (trace_id, span_id) = (&parent[3..35], &parent[36..52]);
            tracing::debug!(trace_id, span_id, event_type = event.event_type(), "published");
        }
    }
}

impl<S: Socket> LoopState<S> {
    /// Sets the callback by which another thread wakes the loop after leaving an answer.
    pub(crate) fn on_mail(&self, waker: Callback) {
        *lock(&self.requests.mailbox.waker) = Some(waker);
    }

    /// Publishes a client's events, on the bus or through the engine, and sends the answer.
    pub(super) fn publish(
        &mut self,
        slot: usize,
        events: Vec<Complete>,
        once: Option<Box<PublishOnce>>,
        answer: PublishAnswer,
    ) {
        if self.shared.is_handed_over() || self.shared.bus.is_closed() {
            // After a handover no client reads this bus; a closed bus accepts nothing.
            let closed = Err(PublishRefusal::Engine(Refused::Closed));
            self.answer_publisher(self.clients.token(slot), closed, answer);
        } else if let Some(once) = once {
            self.publish_once(slot, events, once, answer);
        } else {
            self.publish_now(slot, events, Vec::new(), answer);
        }
    }

    /// Sends the outcome of a publication to its publisher, if that is still connected.
    pub(super) fn answer_publisher(
        &mut self,
        token: Token,
        outcome: Result<Acceptance, PublishRefusal>,
        answer: PublishAnswer,
    ) {
        let reply = (answer.0)(outcome);
        if let Some(slot) = self.find(token) {
            self.reply(slot, reply);
        }
    }

    /// Publishes these events, and sends the answer when their outcome is known. `stamps` is empty, or has an item for each.
    pub(super) fn publish_now(
        &mut self,
        slot: usize,
        events: Vec<Complete>,
        stamps: Vec<Option<Box<str>>>,
        answer: PublishAnswer,
    ) {
        log(&events);
        if self.shared.engine.is_none() {
            return self.publish_in_logs(self.clients.token(slot), events, answer);
        }
        self.send_to_engine(slot, events, &stamps, answer);
    }

    /// Publishes events on the bus, and sends the answer. `held` has the kept logs that are held for a long batch.
    pub(super) fn publish_on_bus(
        &mut self,
        token: Token,
        events: Vec<Event>,
        held: Vec<LogName>,
        answer: PublishAnswer,
    ) {
        if events.len() > PUBLISHED_A_BATCH {
            if let Some(slot) = self.find(token) {
                self.clients.conns[slot].pending_answers += 1;
            }
            return self.begin_commit(token, events, held, answer);
        }
        let accepted = self.publish_here(events);
        self.answer_publisher(token, Ok(accepted), answer);
    }

    /// Gives a job to a worker. Its result becomes the client's answer.
    pub(super) fn work(&mut self, slot: usize, work: Work) {
        let Work { lane, limits, patience, bytes, job, instead } = work;
        let token = self.clients.token(slot);
        self.requests.works += 1;
        let (mailbox, number) = (Arc::clone(&self.requests.mailbox), self.requests.works);
        let job = move || mailbox.leave(token, MailboxItem::Work(number, job()));
        if self.shared.workers.submit(&lane, limits, bytes, Box::new(job)).is_err() {
            self.reply(slot, instead(NotDone::Busy).into());
            return;
        }
        self.clients.conns[slot].pending_answers += 1;
        let until = self.turn.tick + patience;
        self.requests.awaited.insert(token, Awaited { number, until, instead });
        self.turn.wheel.add(until, slot as ConnIndex);
    }

    /// Returns the tick at which a connection stops waiting for a worker.
    pub(super) fn worker_deadline(&self, token: Token) -> Option<Tick> {
        self.requests.awaited.get(&token).map(|awaited| awaited.until)
    }

    /// Sends the substitute answer to a client whose wait for a worker has reached its limit.
    pub(super) fn answer_late(&mut self, token: Token) {
        if self.worker_deadline(token).is_some_and(|until| until <= self.turn.tick)
            && let Some(awaited) = self.requests.awaited.remove(&token)
        {
            self.deliver(token, (awaited.instead)(NotDone::Late));
        }
    }

    pub(super) fn publish_here(&mut self, events: Vec<Event>) -> Acceptance {
        let mut accepted = Acceptance::default();
        for event in events {
            accepted.record(self.shared.bus.publish_unannounced(event));
            self.delivery.unpumped += 1;
            if self.delivery.unpumped >= PUBLISHED_A_BATCH {
                // The other loops read while this one delivers.
                self.delivery.reader.notify_others();
                self.append_published();
            }
        }
        self.delivery.reader.notify_others();
        accepted
    }

    /// Delivers the answers that other threads have left.
    pub(super) fn take_mail(&mut self) {
        let items = std::mem::take(&mut *lock(&self.requests.mailbox.items));
        for (token, item) in items {
            match item {
                MailboxItem::Engine(answer) => self.deliver(token, answer),
                MailboxItem::Work(number, answer) => {
                    // A late result is dropped: the client has its substitute answer.
                    if self.requests.awaited.get(&token).is_some_and(|awaited| awaited.number == number) {
                        self.requests.awaited.remove(&token);
                        self.take_made(token, answer);
                    }
                }
                MailboxItem::Settled(number) => self.publish_again(token, number),
                MailboxItem::Past(arrived) if token == SNAPSHOT => self.handle_snapshot_page(arrived),
                MailboxItem::Past(arrived) => {
                    if let Some(slot) = self.find(token) {
                        self.handle_page(slot, arrived);
                    }
                }
            }
        }
    }

    /// Continues a connection with a worker's result.
    fn take_made(&mut self, token: Token, made: Made) {
        match made {
            Made::Answer(answer) => self.deliver(token, answer),
            Made::Publish { events, once, answer } => {
                if let Some(slot) = self.find(token) {
                    self.publish(slot, events, once, answer);
                    self.deliver(token, None);
                }
            }
        }
    }

    /// Gives a connection its pending answer.
    pub(super) fn deliver(&mut self, token: Token, reply: impl Into<PublishReply>) {
        let Some(slot) = self.find(token) else { return };
        self.clients.conns[slot].pending_answers -= 1;
        self.reply(slot, reply.into());
        // The first events may have found the socket broken.
        let Some(slot) = self.find(token) else { return };
        let conn = &self.clients.conns[slot];
        if conn.is_unread() || conn.connection.holds_input() {
            self.queue_input(slot);
        }
        self.flush(slot);
    }

    /// Writes the response to a client's request. An event stream may end the client.
    fn reply(&mut self, slot: usize, reply: PublishReply) {
        let opening = match reply {
            PublishReply::Bytes(None) => return,
            PublishReply::Bytes(Some(bytes)) => {
                self.send(slot, bytes);
                if !self.clients.conns[slot].connection.closes_after_response() {
                    return;
                }
                None
            }
            PublishReply::Stream(opening) => {
                // Reads the events published so far, so that the past includes them.
                let token = self.clients.token(slot);
                self.delivery.reader.notify_others();
                self.pump(BATCHES_A_TURN);
                if self.find(token).is_none() {
                    return;
                }
                Some(opening)
            }
        };
        let conn = &mut self.clients.conns[slot];
        let token = conn.token(slot);
        let before = conn.connection.transport();
        let view = self.delivery.view(&self.shared.bus, &conn.socket, Some(&conn.outbox));
        let mut cx = self.turn.context(&self.shared, &view, conn.blocked);
        match opening {
            Some(opening) => conn.connection.begin_stream(*opening, &mut cx),
            None => conn.connection.close(&mut cx),
        }
        self.record_transport(slot, before);
        let mut effects = std::mem::take(&mut self.turn.effects);
        self.apply_effects(token, effects.drain(..));
        self.turn.effects = effects;
    }
}

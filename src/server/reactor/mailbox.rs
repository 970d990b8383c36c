//! Answers that come from other threads: what the engine says of events that clients published, and what workers
//! made.
//!
//! Imports the room's core. Always: each answer reaches the connection that waits for it, or nobody if that is
//! gone; while it waits, a connection is not read, so its answers keep their order; who waits for a worker waits
//! so long and no longer.

use std::sync::Arc;

use bytes::Bytes;

use super::replay::Arrived;
use super::snapshots::SNAPSHOT;
use super::socket::Socket;
use super::{Core, Token};
use crate::dialect::Complete;
use crate::engine::Refused;
use crate::event::{Event, EventId};
use crate::feed::ConnIndex;
use crate::server::session::effect::{Instead, Made, NotDone, PublishAnswer, Work};
use crate::server::tick::Tick;
use crate::sync::{Callback, Mutex, lock};

/// An answer from another thread.
pub(super) enum Letter {
    /// The engine's, if it is to be told.
    Engine(Option<Bytes>),
    /// A worker's, and which work it was.
    Work(u64, Made),
    /// A page of the engine's log, for a replay or the snapshot.
    Past(Arrived),
}

/// What a client waits for.
pub(super) struct Awaited {
    number: u64,
    until: Tick,
    instead: Instead,
}

/// Where other threads leave answers for a loop.
#[derive(Default)]
pub(super) struct Mailbox {
    letters: Mutex<Vec<(Token, Letter)>>,
    /// Wakes the loop.
    waker: Mutex<Option<Callback>>,
}

impl Mailbox {
    pub(super) fn leave(&self, token: Token, letter: Letter) {
        let first = {
            let mut letters = lock(&self.letters);
            letters.push((token, letter));
            letters.len() == 1
        };
        if first && let Some(wake) = lock(&self.waker).as_ref() {
            wake();
        }
    }
}

/// Logs what belongs to a trace, by which such a line is found again.
fn log(events: &[Event]) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    for event in events {
        if let Some(parent) = event.trace_parent() {
            // Their places are fixed: it was checked.
            let (trace_id, span_id) = (&parent[3..35], &parent[36..52]);
            tracing::debug!(trace_id, span_id, event_type = event.event_type(), "published");
        }
    }
}

impl<S: Socket> Core<S> {
    /// How another thread wakes the loop for an answer that it left.
    pub(crate) fn on_mail(&self, waker: Callback) {
        *lock(&self.mailbox.waker) = Some(waker);
    }

    /// Publishes what a client sent, on the bus or through the engine, and answers it.
    pub(super) fn publish(&mut self, slot: usize, events: Vec<Complete>, answer: PublishAnswer) {
        let events: Vec<Event> = events.into_iter().map(Complete::into_event).collect();
        log(&events);
        if self.shared.is_handed_over() {
            // Nobody reads this bus any more.
            if let Some(answer) = (answer.0)(Err(Refused::Closed)) {
                self.send(slot, answer);
            }
            return;
        }
        let Some(engine) = &self.shared.engine else {
            let token = super::token_of(slot, self.conns[slot].generation);
            if events.len() > super::PUBLISHED_A_BATCH {
                self.conns[slot].awaits += 1;
                return self.begin_commit(token, events, answer);
            }
            let last = self.publish_here(events);
            if let Some(answer) = (answer.0)(Ok(last)).filter(|_| self.find(token).is_some()) {
                self.send(slot, answer);
            }
            return;
        };
        let conn = &mut self.conns[slot];
        conn.awaits += 1;
        let token = super::token_of(slot, conn.generation);
        let mailbox = Arc::clone(&self.mailbox);
        let leave = move |outcome| mailbox.leave(token, Letter::Engine((answer.0)(outcome)));
        engine.submit(&events, Box::new(leave));
    }

    /// Has a worker make an answer.
    pub(super) fn work(&mut self, slot: usize, work: Work) {
        let Work { lane, limits, patience, bytes, job, instead } = work;
        let token = super::token_of(slot, self.conns[slot].generation);
        self.works += 1;
        let (mailbox, number) = (Arc::clone(&self.mailbox), self.works);
        let job = move || mailbox.leave(token, Letter::Work(number, job()));
        if self.shared.workers.submit(&lane, limits, bytes, Box::new(job)).is_err() {
            self.send(slot, instead(NotDone::Busy));
            return;
        }
        self.conns[slot].awaits += 1;
        let until = self.tick + patience;
        self.awaited.insert(token, Awaited { number, until, instead });
        self.wheel.add(until, slot as ConnIndex);
    }

    /// The tick at which a connection has waited long enough for a worker.
    pub(super) fn patience_of(&self, token: Token) -> Option<Tick> {
        self.awaited.get(&token).map(|awaited| awaited.until)
    }

    /// Answers a client in a worker's place, if it has waited long enough.
    pub(super) fn answer_late(&mut self, token: Token) {
        if self.patience_of(token).is_some_and(|until| until <= self.tick)
            && let Some(awaited) = self.awaited.remove(&token)
        {
            self.deliver(token, Some((awaited.instead)(NotDone::Late)));
        }
    }

    pub(super) fn publish_here(&mut self, events: Vec<Event>) -> Option<EventId> {
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
        let letters = std::mem::take(&mut *lock(&self.mailbox.letters));
        for (token, letter) in letters {
            match letter {
                Letter::Engine(answer) => self.deliver(token, answer),
                Letter::Work(number, answer) => {
                    // One that comes too late was answered already.
                    if self.awaited.get(&token).is_some_and(|awaited| awaited.number == number) {
                        self.awaited.remove(&token);
                        self.take_made(token, answer);
                    }
                }
                Letter::Past(arrived) if token == SNAPSHOT => self.page_came_for_snapshot(arrived),
                Letter::Past(arrived) => {
                    if let Some(slot) = self.find(token) {
                        self.page_came(slot, arrived);
                    }
                }
            }
        }
    }

    /// Goes on with what a worker made for a connection.
    fn take_made(&mut self, token: Token, made: Made) {
        match made {
            Made::Answer(answer) => self.deliver(token, Some(answer)),
            Made::Publish { events, answer } => {
                if let Some(slot) = self.find(token) {
                    self.publish(slot, events, answer);
                    self.deliver(token, None);
                }
            }
        }
    }

    /// Gives a connection the answer that it waited for.
    pub(super) fn deliver(&mut self, token: Token, answer: Option<Bytes>) {
        let Some(slot) = self.find(token) else { return };
        self.conns[slot].awaits -= 1;
        if let Some(answer) = answer {
            self.send(slot, answer);
        }
        let conn = &self.conns[slot];
        if conn.unread || conn.connection.holds_input() {
            self.queue(slot);
        }
        self.flush(slot);
    }
}

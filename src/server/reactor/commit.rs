//! Publishes large batches on the bus, some events in each turn.
//!
//! Invariants:
//! - An accepted batch is published completely and in its order, even if its client is gone.
//! - One turn publishes at most [`PUBLISHED_A_BATCH`] events of batches, so the other clients are served in between, and no
//!   batch laps the ring or its own readers.
//! - The client is not read until its batch is published and answered.

use super::delivery::{BATCHES_A_TURN, PUBLISHED_A_BATCH};
use super::loop_state::LoopState;
use super::mailbox::Commit;
use super::socket::Socket;
use super::token::Token;
use crate::event::Event;
use crate::kept::LogName;
use crate::server::session::effect::{Acceptance, PublishAnswer};

impl<S: Socket> LoopState<S> {
    /// Begins a batch. The client is answered after its last event.
    pub(super) fn begin_commit(
        &mut self,
        token: Token,
        events: Vec<Event>,
        held: Vec<LogName>,
        answer: PublishAnswer,
    ) {
        let bytes = events.iter().map(|event| size_of::<Event>() + event.payload().len()).sum();
        let charge = self.shared.held.charge(bytes);
        self.requests.commits.push_back(Commit {
            token,
            events: events.into_iter(),
            accepted: Acceptance::default(),
            held,
            answer,
            charge,
        });
    }

    /// Publishes the next events of the next batch. After the last event of a batch, it answers the client.
    pub(super) fn commit(&mut self) {
        let Some(mut commit) = self.requests.commits.pop_front() else { return };
        let events = commit.events.by_ref().take(PUBLISHED_A_BATCH).collect();
        let part = if commit.held.is_empty() { self.publish_here(events) } else { self.publish_held(events) };
        commit.accepted.join(part);
        if commit.events.len() > 0 {
            self.requests.commits.push_back(commit);
            return;
        }
        let Commit { token, accepted, held, answer, .. } = commit;
        self.shared.kept.release(&held);
        self.deliver(token, (answer.0)(Ok(accepted)));
    }

    /// Publishes the rest of all batches, because the loop ends or its clients move to another process.
    pub(super) fn commit_all(&mut self) {
        while !self.requests.commits.is_empty() {
            self.commit();
        }
        // Writes what has waited for more.
        self.pump(BATCHES_A_TURN);
    }
}

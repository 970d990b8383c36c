//! Batches on their way to the bus, some events in each turn.
//!
//! Invariants:
//! - A batch that was accepted is published whole, in its order, whatever becomes of the client that sent it.
//! - One turn publishes at most [`PUBLISHED_A_BATCH`] events of batches, so the other clients are served in between, and no
//!   batch laps the ring or its own readers.
//! - The client is not read until its batch is published and answered.

use std::vec;

use super::socket::Socket;
use super::{Core, PUBLISHED_A_BATCH, Token};
use crate::event::{Event, EventId};
use crate::held::Charge;
use crate::server::session::effect::PublishAnswer;

/// A batch of which some events are still to be published.
pub(super) struct Commit {
    token: Token,
    events: vec::IntoIter<Event>,
    last: Option<EventId>,
    answer: PublishAnswer,
    #[expect(dead_code, reason = "counts its bytes while it lives")]
    charge: Charge,
}

impl<S: Socket> Core<S> {
    /// Begins a batch. The client waits for its end.
    pub(super) fn begin_commit(&mut self, token: Token, events: Vec<Event>, answer: PublishAnswer) {
        let bytes = events.iter().map(|event| size_of::<Event>() + event.payload().len()).sum();
        let charge = self.shared.held.charge(bytes);
        self.commits.push_back(Commit { token, events: events.into_iter(), last: None, answer, charge });
    }

    /// Publishes the next events of the batch whose turn it is; after the last it answers the client.
    pub(super) fn commit(&mut self) {
        let Some(mut commit) = self.commits.pop_front() else { return };
        let events = commit.events.by_ref().take(PUBLISHED_A_BATCH).collect();
        commit.last = self.publish_here(events).or(commit.last);
        if commit.events.len() > 0 {
            self.commits.push_back(commit);
            return;
        }
        let Commit { token, last, answer, .. } = commit;
        self.deliver(token, (answer.0)(Ok(last)));
    }

    /// Publishes all that is left of all batches: the loop ends, or its clients move.
    pub(super) fn commit_all(&mut self) {
        while !self.commits.is_empty() {
            self.commit();
        }
    }
}

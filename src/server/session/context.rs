//! The access that a loop gives to a connection for the time of one call.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::effect::Effect;
use crate::codec::deflate::Inflater;
use crate::dialect::Watch;
use crate::event::{EventId, Position, Sequence, Since, Timestamp};
use crate::feed::REPLY_COST;
use crate::server::auth::Grant;
use crate::server::config::Prepared;
use crate::server::limits::budget::Budget;
use crate::server::rng::Rng;
use crate::server::shared::Shared;
use crate::server::shared::resume::is_ahead;
use crate::server::tick::Tick;

/// Facts about a loop that a connection may need. They are computed on demand: most input needs none.
pub(crate) trait LoopView {
    /// Returns the loop's position on the bus, to resume from; `None` before it reached the engine's log.
    fn position(&self) -> Option<Position>;

    /// Returns the sequence of a shard's next event that the loop reads from the bus.
    fn read_to(&self, shard: u16) -> Sequence;

    /// Returns the newest event that the client was sent, or is about to be sent.
    fn newest(&self) -> Option<EventId>;

    /// Returns the peer's address. Makes a system call.
    fn peer(&self) -> Option<IpAddr>;
}

/// View of a connection without a loop. It knows nothing.
#[cfg(any(test, fuzzing))]
pub(crate) struct NoLoop;

#[cfg(any(test, fuzzing))]
impl LoopView for NoLoop {
    fn position(&self) -> Option<Position> {
        None
    }

    fn read_to(&self, _: u16) -> Sequence {
        Sequence::MAX
    }

    fn newest(&self) -> Option<EventId> {
        None
    }

    fn peer(&self) -> Option<IpAddr> {
        None
    }
}

/// Access of a connection to its loop and server.
pub(crate) struct Context<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) config: &'a Arc<Prepared>,
    pub(crate) rng: &'a mut Rng,
    pub(crate) inflater: &'a mut Inflater,
    pub(crate) tick: Tick,
    pub(crate) now: Timestamp,
    /// View of the loop.
    pub(crate) view: &'a dyn LoopView,
    pub(crate) effects: &'a mut Vec<Effect>,
    /// Size of the responses since the loop's call, in bytes.
    pub(crate) answered_bytes: usize,
    /// Work that this connection may still do in this turn.
    pub(crate) budget: &'a mut Budget,
    /// Whether the socket accepts no more bytes for now.
    pub(crate) blocked: bool,
}

/// Units of work to seal a place: about ten blocks of SHA-256.
const SEAL_UNITS: u32 = 20;

/// Maximum size of the responses to one input, in bytes. Further input is processed when they are written.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

impl Context<'_> {
    /// Returns the context of the dialect's hooks for the client with this number.
    pub(crate) fn watch(&self, client: u64) -> Watch<'_> {
        self.config.watch(&self.shared.clients.observers, client, self.now)
    }

    pub(crate) fn send(&mut self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        self.answered_bytes += bytes.len() + REPLY_COST;
        self.effects.push(Effect::Send(bytes));
    }

    /// Returns the place that a client resumes from after it has received everything up to now. The place is sealed if
    /// the client's grant is limited, so that it does not show how many other events there are.
    pub(crate) fn place(&mut self, grant: Option<&Grant>) -> Option<Since> {
        let place = self.view.position().map(Since::Position)?;
        self.seal_for(place, grant)
    }

    /// Returns a place in the form for a client with this grant: sealed if the grant is limited.
    pub(crate) fn seal_for(&mut self, place: Since, grant: Option<&Grant>) -> Option<Since> {
        if grant.is_none_or(|grant| !grant.narrows()) {
            return Some(place);
        }
        // Two hashes and their padding.
        self.budget.spend(SEAL_UNITS);
        self.shared.auth.seal(&place, self.rng.next_u128() as u64)
    }

    /// Returns whether the node receives only what its clients want of the engine.
    pub(crate) fn follows_interest(&self) -> bool {
        self.shared.engine.as_ref().is_some_and(|engine| engine.interest().is_some())
    }

    /// Returns whether the loop has not read the event yet that `since` names, although it is published.
    pub(crate) fn is_ahead(&self, since: &Since) -> bool {
        is_ahead(self.shared, since, |shard| self.view.read_to(shard))
    }

    /// Stops processing input after this message until the loop has executed its effects.
    pub(crate) fn hold_input(&mut self) {
        self.budget.stop();
    }

    /// Asks the loop to call the timer at this tick, if the next heartbeat would be too late.
    pub(crate) fn look_at(&mut self, tick: Tick) {
        if tick < self.tick + self.config.heartbeat_ticks() {
            self.effects.push(Effect::LookAt(tick));
        }
    }

    pub(crate) fn is_enough(&self) -> bool {
        self.answered_bytes > ANSWER_BYTES_MAX || self.budget.is_spent()
    }
}

//! The clock, the budget and the settings of a loop's current turn.

use std::sync::Arc;

use super::wheel::Wheel;
use crate::codec::deflate::Inflater;
use crate::event::Timestamp;
use crate::feed::ConnIndex;
use crate::server::config::Prepared;
use crate::server::limits::budget::{self, Budget};
use crate::server::rng::Rng;
use crate::server::session::context::{Context, LoopView};
use crate::server::session::effect::Effect;
use crate::server::shared::Shared;
use crate::server::shared::resume::{LoopPlaces, RetainedLookup};
use crate::server::tick::Tick;

/// Interval at which an idle loop looks at the wall clock, if grants may end.
pub(super) const CLOCK_TICKS: Tick = 10;

/// State of the current turn.
pub(super) struct Turn {
    /// Settings of this turn. They change only between two turns.
    pub(super) config: Arc<Prepared>,
    /// Number of those settings.
    pub(super) version: u64,
    /// Number of changes of rights against which every connection here was checked.
    pub(super) auth_changes: u64,
    pub(super) wheel: Wheel,
    pub(super) tick: Tick,
    pub(super) now: Timestamp,
    /// Wall clock at tick 0, in microseconds, when the loop last looked at it.
    pub(super) clock_offset: i64,
    /// Budget that this turn may still spend on input of peers.
    pub(super) spending: Budget,
    /// Part of it that the current connection may spend.
    pub(super) work: Budget,
    /// Number of the turn, from 1; wraps around.
    pub(super) number: u16,
    /// Whether connections wait in `ready` because the last turn had spent its budget. Connections that become readable go
    /// after them.
    pub(super) is_behind: bool,
    /// Connections with a timer that has fired; kept for its capacity.
    pub(super) due: Vec<ConnIndex>,
    pub(super) rng: Rng,
    /// Inflater of compressed messages. One serves all clients: no message refers to an earlier one.
    pub(super) inflater: Inflater,
    /// Effects of the current connection; kept for its capacity.
    pub(super) effects: Vec<Effect>,
}

impl Turn {
    pub(super) fn new(shared: &Shared, seed: u64) -> Self {
        let (version, config) = shared.config();
        Self {
            config,
            version,
            auth_changes: shared.auth.changes(),
            wheel: Wheel::new(0),
            tick: 0,
            now: Timestamp::default(),
            clock_offset: 0,
            spending: Budget::new(budget::TURN),
            work: Budget::new(budget::TURN),
            number: 1,
            is_behind: false,
            due: Vec::new(),
            rng: Rng::new(seed),
            inflater: Inflater::default(),
            effects: Vec::new(),
        }
    }

    /// Returns the context of a call into a connection.
    pub(super) fn context<'a>(
        &'a mut self,
        shared: &'a Arc<Shared>,
        view: &'a dyn LoopView,
        blocked: bool,
    ) -> Context<'a> {
        Context {
            shared,
            config: &self.config,
            rng: &mut self.rng,
            inflater: &mut self.inflater,
            tick: self.tick,
            now: self.now,
            view,
            effects: &mut self.effects,
            answered_bytes: 0,
            budget: &mut self.work,
            blocked,
        }
    }

    /// Returns the look-up of retained events, for outboxes.
    pub(super) fn resume_lookup<'a>(&self, shared: &'a Shared, places: &'a LoopPlaces) -> RetainedLookup<'a> {
        RetainedLookup { shared, now: self.now, places }
    }
}

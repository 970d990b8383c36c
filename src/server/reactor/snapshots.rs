//! The loop's snapshot: the latest event of each key, made when the first client requests one.
//!
//! Invariants:
//! - Earlier events are added over many turns, from the engine's log and the rings, while live events are added
//!   immediately under higher numbers. A client that requests the snapshot before it is complete waits.
//! - A client's snapshot ends at the newest number at the time of the request, so it holds no event that the client
//!   also receives live.

use super::delivery::{Building, SNAPSHOT};
use super::loop_state::LoopState;
use super::replay::{Arrived, EventSink, Step, Store};
use super::socket::Socket;
use super::token::Token;
use crate::dialect::GapNotice;
use crate::event::{Event, Position};
use crate::feed::Snapshot;
use crate::server::limits::budget;
use crate::server::limits::budget::Budget;

/// Sink that inserts older events into a snapshot.
struct OlderEvents<'a>(&'a mut Snapshot);

impl EventSink for OlderEvents<'_> {
    fn is_full(&self) -> bool {
        false
    }

    fn event(&mut self, event: &Event, _: Option<&Position>, budget: &mut Budget) {
        budget.spend(1);
        self.0.put_older(event);
    }

    fn gap(&mut self, _: &GapNotice) {
        self.0.mark_incomplete();
    }
}

impl<S: Socket> LoopState<S> {
    /// Begins the snapshot if there is none. Returns the number of the newest event in it.
    pub(super) fn begin_snapshot(&mut self) -> u64 {
        if let Some(snapshot) = &self.delivery.snapshot {
            return snapshot.newest();
        }
        let snapshot = self.delivery.snapshot.insert(Box::new(self.turn.config.snapshot()));
        let newest = snapshot.newest();
        let forward = self.whole_past();
        self.delivery.building =
            Some(Box::new(Building { forward, ticket: None, arrived: None, waiting: Vec::new() }));
        newest
    }

    /// Returns whether earlier events are still being added.
    pub(super) fn is_building_snapshot(&self) -> bool {
        self.delivery.building.is_some()
    }

    /// Returns whether adding can continue without waiting for the log.
    pub(super) fn can_build_snapshot(&self) -> bool {
        self.delivery.building.as_ref().is_some_and(|building| building.ticket.is_none())
    }

    /// Makes a client's replay wait until the snapshot is complete.
    pub(super) fn wait_for_snapshot(&mut self, token: Token) {
        if let Some(building) = &mut self.delivery.building {
            building.waiting.push(token);
        }
    }

    /// Adds more earlier events to the snapshot.
    pub(super) fn build_snapshot(&mut self) {
        if !self.can_build_snapshot() || self.turn.spending.is_spent() {
            return;
        }
        let (Some(mut building), Some(snapshot)) =
            (self.delivery.building.take(), &mut self.delivery.snapshot)
        else {
            return;
        };
        let mut budget = self.turn.spending.share(budget::CLIENT);
        let mut store = Store { shared: &self.shared, arrived: &mut building.arrived, now: self.turn.now };
        let step = building.forward.step(&mut store, &mut OlderEvents(snapshot), &mut budget);
        self.turn.spending.settle(&budget);
        if let Step::Waits { shard, from } = step {
            building.ticket = self.ask_log(SNAPSHOT, shard, from);
        }
        let is_over = step == Step::Over;
        self.delivery.building = Some(building);
        if is_over {
            self.snapshot_is_made();
        }
    }

    /// Takes a page of the log that came for the snapshot.
    pub(super) fn handle_snapshot_page(&mut self, arrived: Arrived) {
        if let Some(building) = &mut self.delivery.building
            && building.ticket.take().is_some()
        {
            building.arrived = Some(arrived);
        }
    }

    /// Continues the replays that wait for the snapshot: it is complete, or a gap has emptied it.
    pub(super) fn snapshot_is_made(&mut self) {
        let Some(building) = self.delivery.building.take() else { return };
        for token in building.waiting {
            if let Some(slot) = self.find(token) {
                if let Some(replay) = &mut self.clients.conns[slot].replay {
                    replay.set_snapshot_ready();
                }
                self.queue(slot);
            }
        }
    }
}

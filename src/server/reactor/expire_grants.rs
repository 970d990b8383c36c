//! Ends the rights of connected clients when their grants expire or are revoked.
//!
//! Invariants:
//! - A client whose grant has ended leaves its feed before another event is written. It is notified in the next turn.
//! - This also holds if a grant ends because the wall clock was set, which timers do not see: they count ticks.

use super::super::auth::Denied;
use super::loop_state::LoopState;
use super::socket::Socket;
use crate::feed::ConnIndex;
use crate::server::session::rights;
use crate::server::tick::TICK_MS;

/// Movement of the wall clock against the loop's ticks beyond which it counts as set, in microseconds. Grants end at whole
/// seconds.
const CLOCK_STEP_MICROS: u64 = 1_000_000;

impl<S: Socket> LoopState<S> {
    /// Removes connections with an ended grant from their feeds, if rights have changed. They are notified in the next turn,
    /// because this call may be in the middle of applying their effects.
    pub(super) fn end_grants(&mut self) {
        let changes = self.shared.auth.changes();
        if changes == self.turn.auth_changes {
            return;
        }
        self.turn.auth_changes = changes;
        self.end_grants_now();
    }

    /// Checks the ends of all grants again if the wall clock was set. Called before events of this turn are written.
    pub(super) fn look_at_the_clock(&mut self) {
        if self.shared.auth.is_open() {
            return;
        }
        let own = i64::try_from(self.turn.tick.saturating_mul(TICK_MS * 1000)).unwrap_or(i64::MAX);
        let offset = self.turn.now.0.saturating_sub(own);
        // Rounding to ticks and the drift between the two clocks stay below the limit.
        if self.turn.clock_offset.abs_diff(offset) < CLOCK_STEP_MICROS {
            return;
        }
        self.turn.clock_offset = offset;
        self.end_grants_now();
        for (slot, conn) in &self.clients.conns {
            let expiry = conn
                .connection
                .grant()
                .and_then(|grant| rights::expiry(grant, self.turn.tick, self.turn.now));
            if let Some(at) = expiry {
                self.turn.wheel.add(at, slot as ConnIndex);
            }
        }
    }

    fn end_grants_now(&mut self) {
        let auth = &self.shared.auth;
        let ended: Vec<(usize, Denied)> = self
            .clients
            .conns
            .iter()
            .filter_map(|(slot, conn)| Some((slot, auth.ended(conn.connection.grant()?, self.turn.now)?)))
            .filter(|(slot, _)| !self.is_denied(*slot))
            .collect();
        for (slot, why) in ended {
            self.stop_delivery(slot);
            self.clients.denied.push((self.clients.token(slot), why));
        }
    }

    /// Returns whether a connection's grant has ended and it was not notified yet.
    pub(super) fn is_denied(&self, slot: usize) -> bool {
        self.clients.denied.iter().any(|(token, _)| self.find(*token) == Some(slot))
    }
}

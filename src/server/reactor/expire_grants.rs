//! Rights that end while their holders are connected.
//!
//! Invariants:
//! - A client that may no longer see what it asked for is off its feed before another event is written, and is told in the
//!   next turn.
//! - That holds for a grant that ends because the wall clock was set, too: timers count the loop's own time.

use super::super::auth::Denied;
use super::loop_state::LoopState;
use super::socket::Socket;
use crate::feed::ConnIndex;
use crate::server::session::rights;
use crate::server::tick::TICK_MS;

/// A wall clock that has moved by more than this against the loop's own time was set. Grants end at whole seconds.
const CLOCK_STEP_MICROS: u64 = 1_000_000;

impl<S: Socket> LoopState<S> {
    /// Takes the connections whose grants have ended off their feeds, if any may have. They are told in the next
    /// turn: this may be in the middle of what one of them asked for.
    pub(super) fn end_grants(&mut self) {
        let changes = self.shared.auth.changes();
        if changes == self.turn.auth_changes {
            return;
        }
        self.turn.auth_changes = changes;
        self.end_grants_now();
    }

    /// Looks at the grants' ends anew where the wall clock was set. Called before events of this time are written.
    pub(super) fn look_at_the_clock(&mut self) {
        if self.shared.auth.is_open() {
            return;
        }
        let own = i64::try_from(self.turn.tick.saturating_mul(TICK_MS * 1000)).unwrap_or(i64::MAX);
        let offset = self.turn.now.0.saturating_sub(own);
        // The two are read in steps of a tick, and drift apart as slowly as clocks do: neither is a step.
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
            self.let_go_of_feed(slot);
            self.clients.denied.push((self.clients.token(slot), why));
        }
    }

    /// Whether a connection's grant has ended, though it was not told yet.
    pub(super) fn is_denied(&self, slot: usize) -> bool {
        self.clients.denied.iter().any(|(token, _)| self.find(*token) == Some(slot))
    }
}

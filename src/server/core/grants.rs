//! Rights that end while their holders are connected.
//!
//! Imports the room's core. Always: who may no longer see what it asked for is off its feed before another event is
//! written, and is told in the next turn.

use super::super::auth::Denied;
use super::{Core, Socket, token_of};

impl<S: Socket> Core<S> {
    /// Takes the connections whose grants have ended off their feeds, if any may have. They are told in the next
    /// turn: this may be in the middle of what one of them asked for.
    pub(super) fn end_grants(&mut self) {
        let changes = self.shared.auth.changes();
        if changes == self.auth_changes {
            return;
        }
        self.auth_changes = changes;
        let auth = &self.shared.auth;
        let ended: Vec<(usize, Denied)> = self
            .conns
            .iter()
            .filter_map(|(slot, conn)| Some((slot, auth.ended(conn.connection.grant()?, self.now)?)))
            .collect();
        for (slot, why) in ended {
            self.let_go_of_feed(slot);
            self.denied.push((token_of(slot, self.conns[slot].generation), why));
        }
    }

    /// Whether a connection's grant has ended, though it was not told yet.
    pub(super) fn is_denied(&self, slot: usize) -> bool {
        self.denied.iter().any(|(token, _)| self.find(*token) == Some(slot))
    }
}

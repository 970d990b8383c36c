//! Serves the connections that have work without waiting for their sockets.
//!
//! Invariants:
//! - Connections with a replay come after all others, and half of the turn's budget is reserved for them. So a publisher
//!   does not wait for a page of each of 1,000 resuming clients (0.3 ms instead of 79 ms), and a flood of messages does not
//!   hold up replays.
//! - A connection that is put off keeps its place before those of its kind that are queued later.

use super::loop_state::LoopState;
use super::socket::Socket;
use super::token::Token;
use crate::server::limits::budget;

impl<S: Socket> LoopState<S> {
    /// Writes the pending bytes of each ready connection. As far as the budget goes, reads its input or makes the next page
    /// of its replay.
    pub(super) fn serve_ready(&mut self) {
        let mut ready = std::mem::take(&mut self.clients.ready);
        let has_past =
            |token: &Token| self.find(*token).is_some_and(|slot| self.clients.conns[slot].replay.is_some());
        // The sort is stable. Without a replay it is one pass and allocates nothing.
        ready.sort_by_key(has_past);
        let others = ready.partition_point(|token| !has_past(token));
        let reserve = if others == ready.len() { 0 } else { budget::TURN / 2 };
        let mut put_off = Vec::new();
        for (at, token) in ready.into_iter().enumerate() {
            let Some(slot) = self.find(token) else { continue };
            let is_spent =
                self.turn.spending.is_spent() || (at < others && self.turn.spending.left() <= reserve);
            // A connection that is put off keeps its place before those that are queued from here on.
            self.clients.conns[slot].queued = is_spent;
            if !self.flush_past(slot) {
                continue;
            }
            let conn = &self.clients.conns[slot];
            if is_spent {
                put_off.push(token);
            } else if conn.unread || conn.connection.holds_input() {
                self.read(slot);
            }
        }
        self.turn.is_behind = !put_off.is_empty();
        self.shared.metrics.work_put_off.inc_by(put_off.len() as u64);
        put_off.append(&mut self.clients.ready);
        self.clients.ready = put_off;
    }
}

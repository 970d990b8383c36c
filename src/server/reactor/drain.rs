//! Drain of a loop at the server's end: clients leave one by one, in random order, each with its own delay before it
//! reconnects.
//!
//! Invariants:
//! - Clients leave over the configured window. They are asked to return after it, at the configured rate, so that other
//!   nodes do not receive all of them at once.

use super::delivery::BATCHES_A_TURN;
use super::departures::{RETURN_MIN_MS, slots};
use super::loop_state::LoopState;
use super::socket::Socket;
use super::token::Token;
use crate::server::shared::report::ClientTransport;

impl<S: Socket> LoopState<S> {
    /// Starts the drain: each client is notified within the window.
    pub(crate) fn drain(&mut self) {
        if std::mem::replace(&mut self.departures.is_draining, true) {
            return;
        }
        self.pump(BATCHES_A_TURN);
        let (streams, others): (Vec<_>, Vec<_>) = self
            .clients
            .conns
            .iter()
            .partition(|(_, conn)| conn.connection.transport() != ClientTransport::Http);
        let others: Vec<usize> = others.into_iter().map(|(slot, _)| slot).collect();
        let mut tokens: Vec<Token> = streams.into_iter().map(|(slot, conn)| conn.token(slot)).collect();
        // Fisher-Yates shuffle: all orders are equally likely.
        for last in (1..tokens.len()).rev() {
            tokens.swap(last, (self.turn.rng.next_u128() % (last as u128 + 1)) as usize);
        }
        // After a handover, a client that could not move receives no more events here.
        let is_over = self.shared.is_handed_over();
        let window = if is_over { 0 } else { self.turn.config.drain_window.as_millis() as u64 };
        let rate = self.turn.config.drain_return_rate as u64 / self.shared.loops.count as u64;
        self.departures.pending = slots(&tokens, self.turn.tick, window, rate);
        // A client between two requests, or with a request that is answered soon, needs no notice.
        for slot in others {
            self.notify_drain(slot, RETURN_MIN_MS);
        }
        self.notify_due_departures();
    }

    /// Notifies the clients that are due.
    pub(super) fn notify_due_departures(&mut self) {
        while let Some(leave) = self.departures.pending.pop_if(|leave| leave.at <= self.turn.tick) {
            if let Some(slot) = self.find(leave.token) {
                self.notify_drain(slot, leave.delay_ms);
            }
        }
    }
}

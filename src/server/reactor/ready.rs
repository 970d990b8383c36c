//! Service of connections that have something to do without waiting for their sockets.
//!
//! Invariants:
//! - Pasts under way are served after all other work, and have half of the turn's budget. So a client that publishes does
//!   not wait until each of 1,000 resuming clients has received a page (0.3 ms instead of 79 ms), and a flood of messages
//!   does not hold up the pasts.
//! - A turn looks at the connections that it serves and at no others. With a walk over all that wait, 5,000 clients that
//!   connect at once cost a third of their CPU time in walks.
//! - A postponed connection keeps its place before those that are queued later.
//! - While the match of an event is in progress, connections are written, but not read, and no page is made.
//! - Units that are left after all have had their part go to those that have more input. So a publisher's burst is delivered
//!   in few batches: 500 events to 500 clients with lists of their own took 10 writes to each client, and take 2 or 3.
//! - Newcomers, whose request or first message is awaited, are served after all other clients and after the events that these
//!   published, and have a part of the turn that no other client can take. In one queue with all others, a publisher waited
//!   for each of 5,000 clients that connected at the same time.
//! - A turn begins at most [`budget::HANDSHAKES_A_TURN`] TLS handshakes, in the order in which they arrived.

use super::loop_state::LoopState;
use super::queues::Queued;
use super::socket::Socket;
use super::token::Token;
use crate::server::limits::budget::{self, Budget};

impl<S: Socket> LoopState<S> {
    /// Queues a connection with bytes to write or a page to make.
    pub(super) fn queue(&mut self, slot: usize) {
        let conn = &mut self.clients.conns[slot];
        if conn.queued.enter(Queued::OUTPUT) {
            let token = conn.token(slot);
            if conn.replay.is_some() {
                self.clients.queues.pasts.push_back(token);
            } else {
                self.clients.queues.output.push(token);
            }
        }
    }

    /// Queues a connection with input to read.
    pub(super) fn queue_input(&mut self, slot: usize) {
        let conn = &mut self.clients.conns[slot];
        if conn.queued.enter(Queued::INPUT) {
            let token = conn.token(slot);
            if conn.socket.awaits_handshake() {
                self.clients.queues.handshakes.push_back(token);
            } else if conn.queued.is_newcomer() {
                self.clients.queues.newcomers.push_back(token);
            } else {
                self.clients.queues.input.push_back(token);
            }
        }
    }

    /// Serves the queued connections, as far as the budget of the turn goes.
    pub(super) fn serve_ready(&mut self) {
        for token in std::mem::take(&mut self.clients.queues.output) {
            if let Some(slot) = self.leave_queue(token, Queued::OUTPUT) {
                self.flush(slot);
            }
        }
        if self.delivery.in_hand.is_some() {
            // A client's request begins between two events.
            self.turn.is_behind = true;
            return;
        }
        let reserve = if self.clients.queues.pasts.is_empty() { 0 } else { budget::TURN / 2 };
        // A connection that has used up its part goes to the end, and is not served twice.
        let mut inputs = self.clients.queues.input.len();
        while inputs > 0 && self.turn.spending.left() > reserve + self.clients.queues.reserved_for_newcomers()
        {
            inputs -= 1;
            let Some(token) = self.clients.queues.input.pop_front() else { break };
            self.serve_input(token);
        }
        let newcomers = self.serve_newcomers(reserve);
        let mut pasts = self.clients.queues.pasts.len();
        while pasts > 0 && !self.turn.spending.is_spent() {
            pasts -= 1;
            let Some(token) = self.clients.queues.pasts.pop_front() else { break };
            if let Some(slot) = self.leave_queue(token, Queued::OUTPUT) {
                self.flush_past(slot);
            }
        }
        self.turn.is_behind = inputs + pasts > 0;
        let put_off = inputs + newcomers + pasts;
        self.shared.metrics.work_put_off.inc_by(put_off as u64);
        if put_off == 0 {
            self.serve_again(reserve);
        }
        self.serve_handshakes();
    }

    /// Reads from a connection that waits with input.
    fn serve_input(&mut self, token: Token) {
        let Some(slot) = self.leave_queue(token, Queued::INPUT) else { return };
        let conn = &self.clients.conns[slot];
        if conn.is_unread() || conn.connection.holds_input() {
            self.read(slot);
        }
    }

    /// Reads from newcomers in order, within their part of the turn, until no more than `reserve` is left of the turn.
    /// Returns how many wait for the next turn.
    fn serve_newcomers(&mut self, reserve: u32) -> usize {
        let mut newcomers = self.clients.queues.newcomers.len();
        if newcomers > 0 && self.delivery.unpumped > 0 {
            self.pump_unless_held(1);
        }
        while newcomers > 0
            && self.delivery.in_hand.is_none()
            && self.clients.queues.left_of_newcomers() > 0
            && self.turn.spending.left() > reserve
        {
            newcomers -= 1;
            let Some(token) = self.clients.queues.newcomers.pop_front() else { break };
            self.serve_input(token);
        }
        newcomers
    }

    /// Gives the rest of the turn's budget to the connections that have used up their part, in turns. A client that must show
    /// a token first, or that is being closed for the lack of one, gets no more than its part.
    fn serve_again(&mut self, reserve: u32) {
        let mut is_served = true;
        while std::mem::take(&mut is_served) {
            for _ in 0..self.clients.queues.input.len() {
                if self.turn.spending.is_spent() || self.turn.spending.left() <= reserve {
                    return;
                }
                let Some(token) = self.clients.queues.input.pop_front() else { return };
                let Some(slot) = self.leave_queue(token, Queued::INPUT) else { continue };
                if self.clients.conns[slot].connection.may_exceed_its_part(&self.shared.auth) {
                    self.read_more(slot);
                    is_served = true;
                } else {
                    self.queue_input(slot);
                }
            }
        }
    }

    /// Begins the next TLS handshakes. They have a budget of their own, so that they neither starve messages nor wait for
    /// them.
    fn serve_handshakes(&mut self) {
        for _ in 0..budget::HANDSHAKES_A_TURN {
            let slot = loop {
                let Some(token) = self.clients.queues.handshakes.pop_front() else { return };
                if let Some(slot) = self.leave_queue(token, Queued::INPUT) {
                    break slot;
                }
            };
            self.turn.work = Budget::new(budget::HANDSHAKE);
            self.read_on(slot);
        }
    }

    /// Takes a connection out of a queue. Returns `None` if the connection is gone.
    fn leave_queue(&mut self, token: Token, queue: Queued) -> Option<usize> {
        let slot = self.find(token)?;
        self.clients.conns[slot].queued.leave(queue);
        Some(slot)
    }
}

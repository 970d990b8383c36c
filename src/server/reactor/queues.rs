//! Queues of the connections that have work and need not wait for their sockets.
//!
//! Always: a connection is at most once in each queue, so the queues are bounded by the number of connections. A token
//! that outlives its connection is skipped.

use std::collections::VecDeque;

use super::token::Token;

/// Connections of one loop that have work, in the order in which they are served.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Connections with bytes beyond their write budget, or whose write failed. All are served in each turn.
    pub(super) output: Vec<Token>,
    /// Connections with input that was not read.
    pub(super) input: VecDeque<Token>,
    /// Connections with a replay that needs its next page.
    pub(super) pasts: VecDeque<Token>,
    /// Connections that begin a TLS handshake with their next input.
    pub(super) handshakes: VecDeque<Token>,
}

impl Queues {
    pub(super) fn is_empty(&self) -> bool {
        self.output.is_empty() && self.input.is_empty() && self.pasts.is_empty() && self.handshakes.is_empty()
    }
}

/// Queues that contain a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Queued(u8);

impl Queued {
    /// In `input` or `handshakes`.
    pub(super) const INPUT: Self = Self(1);
    /// In `output` or `pasts`.
    pub(super) const OUTPUT: Self = Self(2);

    /// Enters a queue. Returns `false` if the connection was in it.
    pub(super) fn enter(&mut self, queue: Self) -> bool {
        let is_new = !self.is_in(queue);
        self.0 |= queue.0;
        is_new
    }

    /// Returns whether the connection is in a queue.
    pub(super) fn is_in(self, queue: Self) -> bool {
        self.0 & queue.0 != 0
    }

    /// Leaves a queue.
    pub(super) fn leave(&mut self, queue: Self) {
        self.0 &= !queue.0;
    }
}

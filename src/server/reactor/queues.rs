//! Queues of the connections that have work and need not wait for their sockets.
//!
//! Always: a connection is at most once in each queue, so the queues are bounded by the number of connections. A token
//! that outlives its connection is skipped.

use std::collections::VecDeque;

use super::token::Token;
use crate::server::limits::budget;

/// Connections of one loop that have work, in the order in which they are served.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Connections with bytes beyond their write budget, or whose write failed. All are served in each turn.
    pub(super) output: Vec<Token>,
    /// Connections with input that was not read.
    pub(super) input: VecDeque<Token>,
    /// [Newcomers](Queued::is_newcomer) with input that was not read. They are served after all others.
    pub(super) newcomers: VecDeque<Token>,
    /// Units that newcomers have spent in this turn.
    pub(super) newcomers_spent: u32,
    /// Connections with a replay that needs its next page.
    pub(super) pasts: VecDeque<Token>,
    /// Connections that begin a TLS handshake with their next input.
    pub(super) handshakes: VecDeque<Token>,
}

impl Queues {
    pub(super) fn is_empty(&self) -> bool {
        self.output.is_empty()
            && self.input.is_empty()
            && self.newcomers.is_empty()
            && self.pasts.is_empty()
            && self.handshakes.is_empty()
    }

    /// Returns the units of this turn that newcomers may still spend.
    pub(super) fn left_of_newcomers(&self) -> u32 {
        budget::NEWCOMERS.saturating_sub(self.newcomers_spent)
    }

    /// Returns the units of this turn that only newcomers may spend.
    pub(super) fn reserved_for_newcomers(&self) -> u32 {
        if self.newcomers.is_empty() { 0 } else { budget::NEWCOMERS_MIN }
    }
}

/// Queues that contain a connection, and the number of times that its input was processed, up to [`INPUTS_OF_A_NEWCOMER`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Queued(u8);

/// Number of inputs, as a rule a request and a subscription, until a connection is served before the clients that connect after
/// it.
const INPUTS_OF_A_NEWCOMER: u8 = 2;

/// One input, in the bits above those of the queues.
const ONE_INPUT: u8 = 4;

impl Queued {
    /// In `input`, `newcomers` or `handshakes`.
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

    /// Counts an input that was processed.
    pub(super) fn record_input(&mut self) {
        if self.is_newcomer() {
            self.0 += ONE_INPUT;
        }
    }

    /// Returns whether the connection is one of a client that is still connecting: at most its first two inputs were processed
    /// or wait.
    pub(super) fn is_newcomer(self) -> bool {
        self.0 / ONE_INPUT < INPUTS_OF_A_NEWCOMER
    }
}

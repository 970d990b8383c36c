//! How a loop lets its clients go when the server ends: one by one, in random order, each with its own time to
//! come back.
//!
//! Imports its siblings. Always: clients leave over the config's window, and are told to return behind it at the
//! config's rate, so that nobody has to take them all at once.

use super::socket::Socket;
use super::{Core, Token, token_of};
use crate::server::shared::report::Speaks;
use crate::server::tick::TICK_MS;
use crate::server::tick::Tick;

/// The least that a client is told to wait: what a restart takes.
const RETURN_MIN_MS: u64 = 500;

/// A client that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leave {
    /// When.
    at: Tick,
    token: Token,
    /// What it is told to wait before it comes back.
    delay_ms: u64,
}

/// The slots of clients that came in this order: the last is the next to go.
fn slots(tokens: &[Token], now: Tick, window_ms: u64, returns_a_second: u64) -> Vec<Leave> {
    let count = tokens.len() as u64;
    let slot = |(place, token): (usize, &Token)| {
        let place = place as u64;
        let goes_ms = window_ms * place / count.max(1);
        let delay_ms = window_ms - goes_ms + RETURN_MIN_MS + place * 1000 / returns_a_second.max(1);
        Leave { at: now + goes_ms / TICK_MS, token: *token, delay_ms }
    };
    let mut leaving: Vec<Leave> = tokens.iter().enumerate().map(slot).collect();
    leaving.reverse();
    leaving
}

impl<S: Socket> Core<S> {
    /// Starts to tell every client that the server goes.
    pub(crate) fn drain(&mut self) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        self.pump(super::BATCHES_A_TURN);
        let (streams, others): (Vec<_>, Vec<_>) =
            self.conns.iter().partition(|(_, conn)| conn.connection.speaks() != Speaks::Http);
        let others: Vec<usize> = others.into_iter().map(|(slot, _)| slot).collect();
        let mut tokens: Vec<Token> =
            streams.into_iter().map(|(slot, conn)| token_of(slot, conn.generation)).collect();
        // Fisher and Yates: every order is as likely.
        for last in (1..tokens.len()).rev() {
            tokens.swap(last, (self.rng.next_u128() % (last as u128 + 1)) as usize);
        }
        // Whoever could not move gets nothing here any more.
        let is_over = self.shared.is_handed_over();
        let window = if is_over { 0 } else { self.config.drain_window.as_millis() as u64 };
        let rate = self.config.drain_return_rate as u64 / self.shared.loops as u64;
        self.leaving = slots(&tokens, self.tick, window, rate);
        // A client between two requests, or with one that is answered soon, has nothing to come back to.
        for slot in others {
            self.dismiss(slot, RETURN_MIN_MS);
        }
        self.let_go();
    }

    /// Tells those whose time has come.
    pub(super) fn let_go(&mut self) {
        while let Some(leave) = self.leaving.pop_if(|leave| leave.at <= self.tick) {
            if let Some(slot) = self.find(leave.token) {
                self.dismiss(slot, leave.delay_ms);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_go_over_the_window_and_return_behind_it_at_the_rate() {
        let tokens: Vec<Token> = (0..50_000).collect();
        let leaving = slots(&tokens, 100, 20_000, 1000);
        let first = leaving.last().expect("many");
        assert_eq!(*first, Leave { at: 100, token: 0, delay_ms: 20_500 });
        let mut before = 0;
        let mut returns = Vec::new();
        for leave in leaving.iter().rev() {
            assert!(leave.at >= before && leave.at < 100 + 20_000 / TICK_MS);
            before = leave.at;
            returns.push((leave.at - 100) * TICK_MS + leave.delay_ms);
        }
        assert!(
            returns.iter().all(|time| *time + TICK_MS >= 20_500),
            "nobody comes back while others still go"
        );
        returns.sort_unstable();
        for (at, time) in returns.iter().enumerate().skip(2000) {
            assert!(time - returns[at - 2000] >= 1800, "at most a thousand a second, but for the ticks");
        }
    }

    #[test]
    fn one_client_returns_soon() {
        assert_eq!(slots(&[7], 5, 0, 1000), [Leave { at: 5, token: 7, delay_ms: 500 }]);
        assert_eq!(slots(&[], 5, 10, 0), []);
    }
}

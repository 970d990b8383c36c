//! The order in which clients leave a loop when the server ends, and the time at which each may reconnect.

use super::token::Token;
use crate::server::tick::{TICK_MS, Tick};

/// Minimum delay before a client reconnects, in milliseconds: the time of a restart.
pub(super) const RETURN_MIN_MS: u64 = 500;

/// A client's place in the drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DrainSlot {
    /// Tick at which the client is notified.
    pub(super) at: Tick,
    pub(super) token: Token,
    /// Delay before the client reconnects, in milliseconds.
    pub(super) delay_ms: u64,
}

/// Returns the places of clients in this order. The last one is notified first.
pub(super) fn slots(tokens: &[Token], now: Tick, window_ms: u64, returns_a_second: u64) -> Vec<DrainSlot> {
    let count = tokens.len() as u64;
    let slot = |(place, token): (usize, &Token)| {
        let place = place as u64;
        let goes_ms = window_ms * place / count.max(1);
        let delay_ms = window_ms - goes_ms + RETURN_MIN_MS + place * 1000 / returns_a_second.max(1);
        DrainSlot { at: now + goes_ms / TICK_MS, token: *token, delay_ms }
    };
    let mut leaving: Vec<DrainSlot> = tokens.iter().enumerate().map(slot).collect();
    leaving.reverse();
    leaving
}

/// Drain of a loop, and the clients that have not left yet.
#[derive(Default)]
pub(super) struct Departures {
    pub(super) is_draining: bool,
    /// Clients in reverse order: the last one is notified next.
    pub(super) pending: Vec<DrainSlot>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_over_the_window_and_return_after_it_at_the_rate() {
        let tokens: Vec<Token> = (0..50_000).collect();
        let leaving = slots(&tokens, 100, 20_000, 1000);
        let first = leaving.last().expect("many");
        assert_eq!(*first, DrainSlot { at: 100, token: 0, delay_ms: 20_500 });
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
        assert_eq!(slots(&[7], 5, 0, 1000), [DrainSlot { at: 5, token: 7, delay_ms: 500 }]);
        assert_eq!(slots(&[], 5, 10, 0), []);
    }
}

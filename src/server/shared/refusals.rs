//! The log of requests that are refused for the page that made them, at most one line a second.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::sync::{Mutex, lock};

/// Log of refusals, limited in rate.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<RefusalState>);

#[derive(Debug, Default)]
struct RefusalState {
    last: Option<Instant>,
    /// Number of refusals since then.
    suppressed: u64,
}

impl Refusals {
    /// Logs a refusal, unless one was logged within [`LOG_EVERY`].
    pub(crate) fn log(&self, refusal: &dyn fmt::Display, client: Option<IpAddr>) {
        let Some(more) = self.is_due(Instant::now()) else { return };
        let client = client.map_or_else(String::new, |client| client.to_string());
        tracing::warn!(client, more, "refused: {refusal}");
    }

    /// Returns the number of refusals that were not logged, if it is time to log one.
    fn is_due(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.0);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < LOG_EVERY) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

/// Minimum time between two log lines about refusals, so that a page in a loop can't flood the log.
const LOG_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_one_line_a_second_and_counts_the_others() {
        let refusals = Refusals::default();
        let begin = Instant::now();
        let lines: Vec<_> =
            (0..3000).filter_map(|ms| refusals.is_due(begin + Duration::from_millis(ms))).collect();
        assert_eq!(lines, [0, 999, 999]);
    }
}

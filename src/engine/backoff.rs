//! Pauses between attempts that fail.
//!
//! Invariant: the first pause is short, and each later one is twice the previous one, up to a maximum.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);

/// Pauses of one operation that is retried.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) const fn new(max: Duration) -> Self {
        Self { next: FIRST, max }
    }

    /// Records a success: the next pause is the first again.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Returns whether nothing has failed since the last success.
    pub(super) fn is_fresh(&self) -> bool {
        self.next == FIRST
    }

    /// Records a failure and returns the time to wait.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_anew_when_it_works() {
        let mut backoff = Backoff::new(Duration::from_millis(150));
        let all: Vec<u128> = (0..4).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!((all, backoff.is_fresh()), (vec![50, 100, 150, 150], false));
        backoff.reset();
        assert_eq!((backoff.is_fresh(), backoff.pause().as_millis()), (true, 50));
    }
}

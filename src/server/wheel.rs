//! Deadlines of many connections: a timing wheel (Varghese and Lauck, 1987, scheme 6 without the sorting).
//!
//! Imports nothing of ours. Always: a deadline fires at its tick or later, never earlier; cost of adding one
//! does not depend on how many there are.

/// A tick of the wheel, some tenths of a second; wraps after years.
pub(crate) type Tick = u64;

/// Milliseconds in a tick.
pub(crate) const TICK_MS: u64 = 100;

const SLOTS: usize = 512;

/// Tokens by the tick at which they want to be looked at.
#[derive(Debug)]
pub(crate) struct Wheel {
    slots: Vec<Vec<(Tick, u64)>>,
    /// Every tick before this one has fired.
    next: Tick,
    entries: usize,
}

impl Wheel {
    pub(crate) fn new(now: Tick) -> Self {
        Self { slots: vec![Vec::new(); SLOTS], next: now + 1, entries: 0 }
    }

    /// Asks for `token` at `tick`, at the earliest at the next one.
    pub(crate) fn add(&mut self, tick: Tick, token: u64) {
        let tick = tick.max(self.next);
        self.slots[tick as usize % SLOTS].push((tick, token));
        self.entries += 1;
    }

    /// Moves the tokens whose ticks have come to `out`.
    pub(crate) fn advance(&mut self, now: Tick, out: &mut Vec<u64>) {
        if now < self.next {
            return;
        }
        // After a long sleep one round of the wheel covers everything.
        let first = self.next.max((now + 1).saturating_sub(SLOTS as u64));
        for tick in first..=now {
            let slot = &mut self.slots[tick as usize % SLOTS];
            let before = out.len();
            slot.retain(|(at, token)| {
                let due = *at <= now;
                if due {
                    out.push(*token);
                }
                !due
            });
            self.entries -= out.len() - before;
        }
        self.next = now + 1;
    }

    /// Ticks until something may fire; `None` where nothing waits.
    pub(crate) fn ticks_to_next(&self, now: Tick) -> Option<u64> {
        if self.entries == 0 {
            return None;
        }
        let from = self.next;
        let ahead = (from..from + SLOTS as u64).find(|tick| !self.slots[*tick as usize % SLOTS].is_empty());
        Some((ahead.unwrap_or(from) + 1).saturating_sub(now).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_fires_once_at_its_tick_or_later() {
        let mut wheel = Wheel::new(10);
        for (tick, token) in [(11, 1), (5, 2), (12, 3), (10 + SLOTS as u64 + 1, 4), (2000, 5)] {
            wheel.add(tick, token);
        }
        let mut fired = |now| -> Vec<u64> {
            let mut out = Vec::new();
            wheel.advance(now, &mut out);
            out.sort_unstable();
            out
        };
        assert!(fired(10).is_empty());
        assert_eq!(fired(11), [1, 2]);
        assert_eq!(fired(12), [3]);
        assert!(fired(522).is_empty());
        assert_eq!(fired(5000), [4, 5]);
        assert_eq!(wheel.ticks_to_next(5000), None);
    }
}

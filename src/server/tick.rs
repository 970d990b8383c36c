//! Time as the loops count it: ticks since a loop started.

use std::time::Duration;

/// Number of 100 ms steps since a loop started.
pub(crate) type Tick = u64;

/// Length of a tick in milliseconds.
pub(crate) const TICK_MS: u64 = 100;

/// Returns a time in ticks, rounded up: at least one.
pub(crate) fn ticks(time: Duration) -> Tick {
    (time.as_millis() as u64).div_ceil(TICK_MS).max(1)
}

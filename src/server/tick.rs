//! Time as the loops count it: ticks since a loop started.

/// Number of 100 ms steps since a loop started.
pub(crate) type Tick = u64;

/// Length of a tick in milliseconds.
pub(crate) const TICK_MS: u64 = 100;

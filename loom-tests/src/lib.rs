//! The ring, the gated ring and the eventcount, as they ship, with loom's atomics, fences and threads instead of
//! the standard ones: `src/sync.rs` is the only file with both.
#![cfg(loom)]

mod bus;
#[path = "../../src/sync.rs"]
mod sync;

#[cfg(test)]
mod gates;
#[cfg(test)]
mod rings;
#[cfg(test)]
mod sleep;

//! The modules under test, as `src/bus/mod.rs` declares them.

#[path = "../../src/bus/barrier.rs"]
mod barrier;
#[path = "../../src/bus/event_count.rs"]
pub(crate) mod event_count;
#[path = "../../src/bus/panics.rs"]
mod panics;
#[path = "../../src/bus/ring/mod.rs"]
pub(crate) mod ring;
#[path = "../../src/bus/waitable.rs"]
pub(crate) mod waitable;

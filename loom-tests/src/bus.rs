//! The rooms under test, as `src/bus/mod.rs` has them.

#[path = "../../src/bus/barrier.rs"]
mod barrier;
#[path = "../../src/bus/caught.rs"]
mod caught;
#[path = "../../src/bus/park.rs"]
pub(crate) mod park;
#[path = "../../src/bus/ring/mod.rs"]
pub(crate) mod ring;

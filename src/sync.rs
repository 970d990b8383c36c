//! The one place that names `std`'s atomics, cells and threads, or loom's under `--cfg loom`.
//!
//! Imports nothing of ours. Always: a module that shares memory between threads takes its
//! primitives from here, so that the model checker sees the same source that ships.

#[cfg(not(loom))]
pub(crate) use std::sync::{Arc, atomic};

#[cfg(loom)]
pub(crate) use loom::sync::{Arc, Mutex, atomic};

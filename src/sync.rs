//! The one place that names `std`'s atomics, locks and threads, or loom's under `--cfg loom`.
//!
//! Imports nothing of ours. Always: a module that shares memory between threads takes its
//! primitives from here, so that the model checker sees the same source that ships.

#[cfg(not(loom))]
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, atomic};

#[cfg(loom)]
pub(crate) use loom::sync::{Arc, Mutex, MutexGuard, atomic};

/// A function that several threads may call. `std`'s count in both builds: loom's cannot hold a `dyn`.
pub(crate) type Callback = std::sync::Arc<dyn Fn() + Send + Sync>;

/// Keeps the compiler, not the processor, from moving memory accesses across it.
#[inline(always)]
pub(crate) fn compiler_fence() {
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
}

pub(crate) mod hint {
    #[cfg(not(loom))]
    pub(crate) use std::hint::spin_loop;

    #[cfg(loom)]
    pub(crate) use loom::hint::spin_loop;
}

pub(crate) mod thread {
    #[cfg(not(loom))]
    pub(crate) use std::thread::{Thread, current, park, park_timeout, yield_now};

    #[cfg(loom)]
    pub(crate) use loom::thread::{Thread, current, park, yield_now};
}

/// Locks, and takes what a panicking holder left: for data that is whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A value on cache lines of its own, so that writing it disturbs no neighbour. 128 bytes, because
/// processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

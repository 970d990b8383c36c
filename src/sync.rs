//! The atomics, locks and threads of the crate: `std`'s, or loom's under `--cfg loom`.
//!
//! Invariant: a module that shares memory between threads takes its primitives from here, so that the model checker sees
//! the same source that ships. Loom cannot see into [`CachePadded`] (a layout, no operation) and `arc-swap`, which
//! no modelled module uses.

/// A value on cache lines of its own, so that a write to it disturbs no neighbour: 128 bytes on x86-64 and AArch64, where
/// processors fetch lines in pairs.
pub(crate) use crossbeam_utils::CachePadded;

/// Waits a little longer at each step: spins for seven steps, then yields to other threads.
#[cfg(not(loom))]
pub(crate) use crossbeam_utils::Backoff;

/// Yields to other threads of the model at each step: crossbeam's own `Backoff` calls `std`, which loom cannot
/// schedule.
#[cfg(loom)]
pub(crate) struct Backoff(());

#[cfg(loom)]
impl Backoff {
    pub(crate) fn new() -> Self {
        Self(())
    }

    pub(crate) fn snooze(&self) {
        thread::yield_now();
    }

    /// Returns whether the caller should sleep instead of waiting on.
    pub(crate) fn is_completed(&self) -> bool {
        true
    }
}

#[cfg(not(loom))]
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, atomic};

#[cfg(loom)]
pub(crate) use loom::sync::{Arc, Mutex, MutexGuard, atomic};

#[cfg(not(loom))]
pub(crate) use std::sync::OnceLock;

/// `std`'s cell, with the edge between the thread that sets it and the threads that get it where loom can see it.
#[cfg(loom)]
pub(crate) struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    /// State: 0 is unset, 1 being set, 2 set.
    state: atomic::AtomicU32,
}

#[cfg(loom)]
impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self { value: std::sync::OnceLock::new(), state: atomic::AtomicU32::new(0) }
    }
}

#[cfg(loom)]
impl<T> OnceLock<T> {
    pub(crate) fn get(&self) -> Option<&T> {
        // Pairs with the release of 2 in `get_or_init`.
        if self.state.load(atomic::Ordering::Acquire) == 2 { self.value.get() } else { None }
    }

    pub(crate) fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        use atomic::Ordering::{Acquire, Release};
        if self.state.compare_exchange(0, 1, Acquire, Acquire).is_ok() {
            let value = self.value.get_or_init(make);
            self.state.store(2, Release);
            return value;
        }
        while self.state.load(Acquire) != 2 {
            thread::yield_now();
        }
        self.value.get().expect("the state is 2")
    }
}

/// Plain memory that threads pass to each other; loom checks that accesses are ordered.
#[cfg(loom)]
pub(crate) use loom::cell::UnsafeCell;

/// Plain memory that threads pass to each other, with the methods of loom's cell.
#[cfg(not(loom))]
#[repr(transparent)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Calls `look` with a pointer to the value. The caller must have the right to read it.
    #[inline(always)]
    pub(crate) fn with<R>(&self, look: impl FnOnce(*const T) -> R) -> R {
        look(self.0.get())
    }

    /// Calls `change` with a pointer to the value. The caller must have the right to write it.
    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
        change(self.0.get())
    }
}

/// A function that several threads may call. `std`'s `Arc` in both builds: loom's cannot hold a `dyn`.
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

/// Locks `mutex`, and ignores that a holder panicked: for data that is consistent between any two statements. Blocks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

//! Two fences that order a rare side against a frequent one: the rare side pays.
//!
//! Invariant: between a [`Fences::light`] and a [`Fences::heavy`] there is a total order, as between two `SeqCst` fences:
//! what was written before the earlier one is seen after the later one.
//!
//! On Linux the heavy fence is `membarrier(PRIVATE_EXPEDITED)`, which makes every running thread of this process pass a
//! full fence, so the light one need only keep the compiler from moving code across it. Elsewhere, under loom and Miri,
//! and where the system refuses the call at registration, both are `SeqCst` fences.

use crate::sync::atomic::{Ordering, fence};
use crate::sync::compiler_fence;

/// The pair of fences that this process uses. Decided once, and the same for all threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fences {
    asymmetric: bool,
}

impl Fences {
    pub(crate) fn new() -> Self {
        Self { asymmetric: system::register() }
    }

    /// Returns whether the light fence is only the compiler's.
    pub(crate) fn is_asymmetric(self) -> bool {
        self.asymmetric
    }

    /// Passes the fence of the frequent side.
    #[inline(always)]
    pub(crate) fn light(self) {
        if self.asymmetric {
            compiler_fence();
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// Passes the fence of the rare side.
    ///
    /// # Panics
    /// If the system refuses `membarrier` now and permitted it when the bus was made.
    pub(crate) fn heavy(self) {
        if self.asymmetric {
            system::membarrier();
        } else {
            fence(Ordering::SeqCst);
        }
    }
}

#[cfg(all(target_os = "linux", not(loom), not(miri)))]
mod system {
    use std::sync::OnceLock;

    use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier as call, membarrier_query};

    pub(super) fn register() -> bool {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        *REGISTERED.get_or_init(|| {
            membarrier_query().contains(MembarrierQuery::PRIVATE_EXPEDITED)
                && call(MembarrierCommand::RegisterPrivateExpedited).is_ok()
                && call(MembarrierCommand::PrivateExpedited).is_ok()
        })
    }

    pub(super) fn membarrier() {
        // The call worked at registration. A seccomp filter installed later that refuses it would break every promise made
        // since, and there is no way back: stop loudly rather than lose a wake-up in silence.
        assert!(
            call(MembarrierCommand::PrivateExpedited).is_ok(),
            "membarrier was permitted when the bus was made and is refused now"
        );
    }
}

#[cfg(not(all(target_os = "linux", not(loom), not(miri))))]
mod system {
    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn membarrier() {
        unreachable!("never registered here");
    }
}

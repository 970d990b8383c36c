//! Prefetches a cache line before it is written.
//!
//! Invariant: a prefetch is a hint, which changes no value and orders nothing.
//!
//! A line that readers have looked at must be taken from their caches before it can be written, and a claim (an
//! atomic read-modify-write) waits on x86 until the writes before it are done. Requested some slots ahead, the
//! line is there when its turn comes.
#![allow(unsafe_code, reason = "an instruction that Rust has no stable name for")]

/// Requests the line at `place`, which may be any address, with the right to write it.
#[inline(always)]
pub(super) fn for_writing<T>(place: *const T) {
    // A number: no access goes through it.
    let place = place.addr();
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    // SAFETY: a prefetch reads and writes nothing that the program could see, and never faults. Processors
    // of this architecture that do not know it pass over it.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) place, options(nomem, nostack, preserves_flags));
    }
    #[cfg(all(target_arch = "aarch64", not(loom), not(miri)))]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) place, options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(loom), not(miri))))]
    let _ = place;
}

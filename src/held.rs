//! The number of bytes that parts of a server hold outside its loops: waiting jobs, pages of a log, lists.
//!
//! Invariant: the bytes of a charge are subtracted when the charge is dropped, in whichever thread that happens.

use std::sync::Arc;

use crate::sync::atomic::{AtomicUsize, Ordering};

/// Returns the memory of a block on the heap, in bytes: glibc's allocator adds a header of 8 bytes, and rounds up to 16 and
/// to at least 32.
pub(crate) const fn heap_block(bytes: usize) -> usize {
    if bytes == 0 {
        return 0;
    }
    let block = (bytes + 8).next_multiple_of(16);
    if block < 32 { 32 } else { block }
}

/// Sum of the bytes held. Clones share the sum.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldBytes(Arc<AtomicUsize>);

impl HeldBytes {
    /// Returns the sum.
    pub(crate) fn bytes(&self) -> usize {
        // Relaxed, here and below: a sum by itself; no other memory is read because of it.
        self.0.load(Ordering::Relaxed)
    }

    /// Adds bytes until the charge is dropped.
    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Charge { held: self.clone(), bytes }
    }
}

/// Part of the sum; subtracted when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    held: HeldBytes,
    bytes: usize,
}

impl Charge {
    /// Returns the bytes of this charge.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the charge to this many bytes.
    #[cfg_attr(not(test), expect(dead_code, reason = "for what grows: pages of a log"))]
    pub(crate) fn set(&mut self, bytes: usize) {
        // Relaxed: as above. The sum may wrap between the two operations and is right after both.
        self.held.0.fetch_add(bytes, Ordering::Relaxed);
        self.held.0.fetch_sub(std::mem::replace(&mut self.bytes, bytes), Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        // Relaxed: as above.
        self.held.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_counts_while_it_lives() {
        let held = HeldBytes::default();
        let mut one = held.charge(10);
        let other = held.clone().charge(5);
        assert_eq!(held.bytes(), 15);
        one.set(3);
        assert_eq!(held.bytes(), 8);
        drop(other);
        one.set(20);
        assert_eq!(held.bytes(), 20);
        drop(one);
        assert_eq!(held.bytes(), 0);
    }
}

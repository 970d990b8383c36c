//! The heap of a loop's thread, grown once at the thread's start.
//!
//! glibc gives every thread but the first a heap that grows by one `mprotect` for each 4 KiB, until the ring is full of events.
//! When memory is freed, glibc returns the pages to the system, but it keeps their addresses accessible. So a block that is
//! allocated and freed leaves room that later allocations take without a system call, and no page of it is resident.
//!
//! `mallopt` has no setting for this: `M_TOP_PAD` does not apply to the heaps of these threads, and the call would need `unsafe`.

/// Bytes of address space that are made accessible: a ring of 16,384 events of 600 bytes, and 5 MiB for connections.
const RESERVED_BYTES: usize = 16 * 1024 * 1024;

/// Size of one block. Blocks from 128 KiB on are mapped apart from the heap.
const BLOCK_BYTES: usize = 120 * 1024;

/// Grows the heap of this thread.
pub(super) fn reserve() {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) {
        return;
    }
    let blocks: Vec<Vec<u8>> = (0..RESERVED_BYTES / BLOCK_BYTES)
        .map(|_| std::hint::black_box(Vec::with_capacity(BLOCK_BYTES)))
        .collect();
    // Dropped in the order of the addresses: the blocks become one, which is released by a single call.
    drop(blocks);
}

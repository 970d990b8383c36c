//! Counters of a loop: its ledger, its memory, and when it last reported them.

use std::sync::Arc;

use super::kernel_queue::KernelQueues;
use crate::feed::FeedView;
use crate::server::tick::Tick;

/// Sums of all tallies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TallyTotals {
    pub(super) written: u64,
    pub(super) dropped: u64,
    pub(super) conflated: i64,
    pub(super) merged: u64,
}

/// Accounts of one loop.
pub(super) struct Accounts {
    pub(super) books: TallyTotals,
    /// Number of this loop.
    pub(super) loop_number: usize,
    /// Whether something has happened since the last report.
    pub(super) report_due: bool,
    /// Bytes received or queued for clients since the loop last counted its memory.
    pub(super) bytes_since_count: usize,
    /// Bytes of the feeds' filter tables, counted once a second.
    pub(super) tables: usize,
    /// Bytes of those tables that are free for further filters.
    pub(super) spare: usize,
    /// Largest feeds, looked up once a second.
    pub(super) largest: Arc<[FeedView]>,
    pub(super) reported: Tick,
    pub(super) observed: Tick,
    /// Reader of the kernel's send queues.
    pub(super) kernel: KernelQueues,
    /// Slot after which the next look at the kernel's queues begins. That look covers connections that do not lag.
    pub(super) next_probe: usize,
}

impl Accounts {
    pub(super) fn new(loop_number: usize) -> Self {
        Self {
            books: TallyTotals::default(),
            loop_number,
            report_due: false,
            bytes_since_count: 0,
            tables: 0,
            spare: 0,
            largest: Arc::default(),
            reported: 0,
            observed: 0,
            kernel: KernelQueues::default(),
            next_probe: 0,
        }
    }
}

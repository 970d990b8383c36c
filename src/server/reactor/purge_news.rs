//! The purges of kept logs that a loop has not reported to all its clients.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::feed::FeedKey;
use crate::filter::Filter;

/// Purges that a loop still has to report to clients.
#[derive(Debug, Default)]
pub(super) struct PurgeNews {
    /// Number of purges that this loop has read.
    pub(super) seen: u64,
    /// Filters of the purged events, oldest first.
    pub(super) pending: VecDeque<Arc<Filter>>,
    /// Next feed to which the first of them is reported.
    pub(super) next: FeedKey,
}

impl PurgeNews {
    /// Returns whether purges are still to be reported.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

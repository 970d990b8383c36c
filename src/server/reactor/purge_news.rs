//! The purges of kept logs that a loop has not told all its clients of.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::feed::FeedKey;
use crate::filter::Filter;

/// Purges that clients of a loop are still to be told of.
#[derive(Debug, Default)]
pub(super) struct PurgeNews {
    /// Number of purges that this loop knows of.
    pub(super) seen: u64,
    /// Filters of the purged events, oldest first.
    pub(super) pending: VecDeque<Arc<Filter>>,
    /// Next feed to tell of the first of them.
    pub(super) next: FeedKey,
}

impl PurgeNews {
    /// Returns whether clients are still to be told.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

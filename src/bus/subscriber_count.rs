//! The number of subscribers of a bus.

use std::sync::Arc as Count;

use crate::sync::atomic::{AtomicUsize, Ordering};

/// Number of subscribers; `None` in a subscriber that does not count.
#[derive(Clone, Debug, Default)]
pub(super) struct SubscriberCount(Option<Count<AtomicUsize>>);

impl SubscriberCount {
    /// Creates a count of 0.
    pub(super) fn counting() -> Self {
        Self(Some(Count::default()))
    }

    pub(super) fn enter(&self) -> Self {
        if let Some(count) = &self.0 {
            // Relaxed: a statistic, which orders nothing.
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.clone()
    }

    pub(super) fn leave(&self) {
        if let Some(count) = &self.0 {
            // Relaxed: as in `enter`.
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count(&self) -> usize {
        // Relaxed: as in `enter`; the sum may be of a moment before.
        self.0.as_ref().map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

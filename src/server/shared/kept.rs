//! The kept logs, shared by all loops.
//!
//! Invariant: without a rule, the cost is one look at a flag.

use std::sync::Arc;

use crate::event::{Sequence, Timestamp};
use crate::filter::Filter;
use crate::kept::{KeptLogs, LogName, PurgedLogs, RetainConfig};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, lock};

/// Kept logs, and whether there are any.
#[derive(Debug)]
pub(crate) struct KeptStore {
    is_on: AtomicBool,
    logs: Mutex<KeptLogs>,
    /// Number of purges, readable without the lock.
    purges: AtomicU64,
}

impl KeptStore {
    pub(crate) fn new(config: &RetainConfig, shards: usize) -> Self {
        Self {
            is_on: AtomicBool::new(!config.rules.is_empty()),
            logs: Mutex::new(KeptLogs::new(config, shards)),
            purges: AtomicU64::new(0),
        }
    }

    /// Returns whether there ever was a rule.
    pub(crate) fn is_on(&self) -> bool {
        // Relaxed: a hint. New rules take effect a little later.
        self.is_on.load(Ordering::Relaxed)
    }

    /// Releases logs after a long batch.
    pub(crate) fn release(&self, names: &[LogName]) {
        if !names.is_empty()
            && let Some(mut logs) = self.lock()
        {
            logs.release(names);
        }
    }

    /// Lets these logs go. Returns `None`, and does nothing, if that has to wait: see [`KeptLogs::purge`]. Wake the loops
    /// afterwards, which tell their clients.
    pub(crate) fn purge(&self, names: &[LogName], heads: &[Sequence], now: Timestamp) -> Option<PurgedLogs> {
        let mut logs = self.lock()?;
        let purged = logs.purge(names, heads, now);
        // Relaxed: a hint; the loops are woken after it is set, and look under the lock.
        self.purges.store(logs.purge_count(), Ordering::Relaxed);
        purged
    }

    /// Returns the filters of what was purged since a loop saw this number of purges, and moves the number on.
    pub(crate) fn purged_since(&self, seen: &mut u64) -> Vec<Arc<Filter>> {
        // Relaxed: as above.
        if self.purges.load(Ordering::Relaxed) == *seen {
            return Vec::new();
        }
        let Some(logs) = self.lock() else { return Vec::new() };
        let purged = logs.purged_after(*seen);
        *seen = logs.purge_count();
        purged
    }

    /// Locks the logs; `None` if there never was a rule.
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, KeptLogs>> {
        self.is_on().then(|| lock(&self.logs))
    }

    /// Locks the logs; `None` if no rule ends logs.
    pub(crate) fn lock_with_ends(&self) -> Option<MutexGuard<'_, KeptLogs>> {
        self.lock().filter(|logs| logs.has_ends())
    }

    /// Replaces the rules for later events. `heads` has the next sequence of each shard.
    pub(crate) fn set_rules(&self, config: &RetainConfig, heads: &[Sequence]) {
        let mut logs = lock(&self.logs);
        if !config.rules.is_empty() && !self.is_on.load(Ordering::Relaxed) {
            // Events before this point were not recorded.
            logs.begin_at(heads.iter().copied());
            self.is_on.store(true, Ordering::Relaxed);
        }
        logs.set_rules(config, Some(heads));
    }

    /// Returns the memory of the logs, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.lock().map_or(0, |logs| logs.held_bytes())
    }
}

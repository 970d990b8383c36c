//! The kept logs, shared by all loops.
//!
//! Invariant: without a rule, the cost is one look at a flag.

use crate::event::Sequence;
use crate::kept::{KeptLogs, LogName, RetainConfig};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard, lock};

/// Kept logs, and whether there are any.
#[derive(Debug)]
pub(crate) struct KeptStore {
    is_on: AtomicBool,
    logs: Mutex<KeptLogs>,
}

impl KeptStore {
    pub(crate) fn new(config: &RetainConfig, shards: usize) -> Self {
        Self {
            is_on: AtomicBool::new(!config.rules.is_empty()),
            logs: Mutex::new(KeptLogs::new(config, shards)),
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

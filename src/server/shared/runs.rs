//! Encoded runs of kept logs: the frames of consecutive events, shared by the clients that read a log from its start.
//!
//! Invariants:
//! - A run's bytes are the frames that a client gets if each event is encoded for it alone.
//! - A run is found by the serial number of its log, which the logs name only while the log is there. So the runs of a purged
//!   or evicted log are not found any more.
//! - All runs together are within their limit. Those that were not used for a while are dropped first.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::feed::Compression;
use crate::kept::KeptPart;

/// Maximum memory of all runs, in bytes: about 50,000 events.
pub(crate) const RUNS_BYTES_MAX: usize = 16 << 20;

/// Maximum size of a run, in bytes. Larger events cost more to write than to encode.
pub(crate) const RUN_BYTES_MAX: usize = 64 * 1024;

/// Memory of a run in addition to its frames and their ends, in bytes: the struct, its count and its entry in a table.
const RUN_BYTES: usize = size_of::<EncodedRun>() + 2 * size_of::<(RunKey, Arc<EncodedRun>)>() + 64;

/// Form of frames: the place of their encoding among an event's frames, and their compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RunForm {
    pub(crate) slot: usize,
    pub(crate) compression: Compression,
}

/// Form, serial number of the log, and number of the stretch of the log.
type RunKey = (RunForm, u64, u64);

/// Frames of consecutive events of a log.
#[derive(Debug, Default)]
pub(crate) struct EncodedRun {
    /// Index of the first event in the log.
    first: u64,
    bytes: Bytes,
    /// End of each frame.
    ends: Box<[u32]>,
}

impl EncodedRun {
    pub(crate) fn new(first: u64, mut bytes: Vec<u8>, ends: Vec<u32>) -> Self {
        bytes.shrink_to_fit();
        Self { first, bytes: bytes.into(), ends: ends.into() }
    }

    /// Returns the frames of the events from one index up to another, if it has them all.
    pub(crate) fn frames(&self, from: u64, end: u64) -> Option<Bytes> {
        let start_of = |index: u64| match usize::try_from(index.checked_sub(self.first)?).ok()? {
            0 => Some(0),
            count => self.ends.get(count - 1).map(|end| *end as usize),
        };
        Some(self.bytes.slice(start_of(from)?..start_of(end)?))
    }

    /// Returns the index of the first event.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Returns the index after the last event.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.ends.len() as u64
    }

    /// Returns a copy of its frames and of their ends, to be continued, and the index of the first event.
    pub(crate) fn parts(&self) -> (u64, Vec<u8>, Vec<u32>) {
        (self.first, self.bytes.to_vec(), self.ends.to_vec())
    }

    fn held_bytes(&self) -> usize {
        RUN_BYTES + self.bytes.len() + size_of_val(&*self.ends)
    }
}

/// Runs in two generations. A run that is used moves to the newer one; when the newer one is full, the older one is
/// dropped.
#[derive(Debug, Default)]
pub(crate) struct RunCache {
    newer: HashMap<RunKey, Arc<EncodedRun>, RandomState>,
    older: HashMap<RunKey, Arc<EncodedRun>, RandomState>,
    newer_bytes: usize,
    older_bytes: usize,
}

impl RunCache {
    /// Returns the run of a part's stretch.
    pub(crate) fn find(&mut self, form: RunForm, part: &KeptPart) -> Option<Arc<EncodedRun>> {
        let key = (form, part.serial, part.stretch());
        if let Some(run) = self.newer.get(&key) {
            return Some(Arc::clone(run));
        }
        let run = self.older.remove(&key)?;
        self.older_bytes -= run.held_bytes();
        self.insert(key, Arc::clone(&run));
        Some(run)
    }

    /// Keeps the run of a part's stretch instead of an earlier one.
    pub(crate) fn keep(&mut self, form: RunForm, part: &KeptPart, run: &Arc<EncodedRun>) {
        let key = (form, part.serial, part.stretch());
        if let Some(before) = self.older.remove(&key) {
            self.older_bytes -= before.held_bytes();
        }
        self.insert(key, Arc::clone(run));
    }

    fn insert(&mut self, key: RunKey, run: Arc<EncodedRun>) {
        self.newer_bytes += run.held_bytes();
        if let Some(before) = self.newer.insert(key, run) {
            self.newer_bytes -= before.held_bytes();
        }
        if self.newer_bytes > RUNS_BYTES_MAX / 2 {
            self.older = std::mem::take(&mut self.newer);
            self.older_bytes = std::mem::take(&mut self.newer_bytes);
        }
    }

    /// Drops all runs.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns the memory of the runs, in bytes, counted one by one.
    #[cfg(test)]
    pub(crate) fn counted_bytes(&self) -> usize {
        self.newer.values().chain(self.older.values()).map(|run| run.held_bytes()).sum()
    }

    /// Returns the memory of the runs, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.newer_bytes + self.older_bytes
    }
}

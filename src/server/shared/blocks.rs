//! Encoded blocks of kept logs: the frames of consecutive events, shared by the clients that read a log from its start.
//!
//! Invariants:
//! - A block's bytes are the frames that a client gets if each event is encoded for it alone.
//! - A block is found by the serial number of its log, which the logs name only while the log is there. So the blocks of a purged
//!   or evicted log are not found any more.
//! - All blocks together are within their limit. Those that were not used for a while are dropped first.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::feed::Compression;
use crate::kept::KeptPart;

/// Maximum memory of all blocks, in bytes: about 50,000 events.
pub(crate) const BLOCKS_BYTES_MAX: usize = 16 << 20;

/// Maximum size of a block, in bytes. Larger events cost more to write than to encode.
pub(crate) const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// Memory of a block in addition to its frames and their ends, in bytes: the struct, its count and its entry in a table.
const BLOCK_OVERHEAD_BYTES: usize =
    size_of::<EncodedBlock>() + 2 * size_of::<(BlockKey, Arc<EncodedBlock>)>() + 64;

/// Form of frames: the place of their encoding among an event's frames, and their compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlockForm {
    pub(crate) slot: usize,
    pub(crate) compression: Compression,
}

/// Form, serial number of the log, and number of the stretch of the log.
type BlockKey = (BlockForm, u64, u64);

/// Frames of consecutive events of a log.
#[derive(Debug, Default)]
pub(crate) struct EncodedBlock {
    /// Index of the first event in the log.
    first: u64,
    bytes: Bytes,
    /// End of each frame.
    ends: Box<[u32]>,
}

impl EncodedBlock {
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
        BLOCK_OVERHEAD_BYTES + self.bytes.len() + size_of_val(&*self.ends)
    }
}

/// Blocks in two generations. A block that is used moves to the newer one; when the newer one is full, the older one is
/// dropped.
#[derive(Debug, Default)]
pub(crate) struct BlockCache {
    newer: HashMap<BlockKey, Arc<EncodedBlock>, RandomState>,
    older: HashMap<BlockKey, Arc<EncodedBlock>, RandomState>,
    newer_bytes: usize,
    older_bytes: usize,
}

impl BlockCache {
    /// Returns the block of a part's stretch.
    pub(crate) fn find(&mut self, form: BlockForm, part: &KeptPart) -> Option<Arc<EncodedBlock>> {
        let key = (form, part.serial, part.stretch());
        if let Some(block) = self.newer.get(&key) {
            return Some(Arc::clone(block));
        }
        let block = self.older.remove(&key)?;
        self.older_bytes -= block.held_bytes();
        self.insert(key, Arc::clone(&block));
        Some(block)
    }

    /// Keeps the block of a part's stretch instead of an earlier one.
    pub(crate) fn keep(&mut self, form: BlockForm, part: &KeptPart, block: &Arc<EncodedBlock>) {
        let key = (form, part.serial, part.stretch());
        if let Some(before) = self.older.remove(&key) {
            self.older_bytes -= before.held_bytes();
        }
        self.insert(key, Arc::clone(block));
    }

    fn insert(&mut self, key: BlockKey, block: Arc<EncodedBlock>) {
        self.newer_bytes += block.held_bytes();
        if let Some(before) = self.newer.insert(key, block) {
            self.newer_bytes -= before.held_bytes();
        }
        if self.newer_bytes > BLOCKS_BYTES_MAX / 2 {
            self.older = std::mem::take(&mut self.newer);
            self.older_bytes = std::mem::take(&mut self.newer_bytes);
        }
    }

    /// Drops all blocks.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns the memory of the blocks, in bytes, counted one by one.
    #[cfg(test)]
    pub(crate) fn counted_bytes(&self) -> usize {
        self.newer.values().chain(self.older.values()).map(|block| block.held_bytes()).sum()
    }

    /// Returns the memory of the blocks, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.newer_bytes + self.older_bytes
    }
}

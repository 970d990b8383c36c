//! Encoded blocks of kept logs: the frames of consecutive events, shared by the clients that read a log from its start.
//!
//! Invariants:
//! - A block's bytes are the frames that a client gets if each event is encoded for it alone.
//! - A block is found by the serial number of its log, which the logs name only while the log is there. So the blocks of a purged
//!   or evicted log are not found any more.
//! - All blocks together are within their limit. While they are, none is dropped; then those that were not used for a while go
//!   first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::feed::Compression;
use crate::kept::KeptPart;

/// Maximum memory of all blocks, in bytes: about 50,000 events.
pub(crate) const BLOCKS_BYTES_MAX: usize = 16 << 20;

/// Maximum size of a block, in bytes. Larger events cost more to write than to encode.
pub(crate) const BLOCK_BYTES_MAX: usize = 128 * 1024;

/// Memory of a block in addition to its frames and their ends, in bytes: the struct, its count, its entry in a table that is half
/// full, and its key in a queue that is half full.
const BLOCK_OVERHEAD_BYTES: usize =
    size_of::<EncodedBlock>() + 2 * size_of::<(BlockKey, CachedBlock)>() + 2 * size_of::<BlockKey>() + 64;

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

    /// Returns a copy, to be continued.
    pub(crate) fn grow(&self) -> GrowingBlock {
        GrowingBlock { first: self.first, bytes: self.bytes.to_vec(), ends: self.ends.to_vec() }
    }

    fn held_bytes(&self) -> usize {
        BLOCK_OVERHEAD_BYTES + self.bytes.len() + size_of_val(&*self.ends)
    }
}

/// Block that is being encoded.
#[derive(Debug, Default)]
pub(crate) struct GrowingBlock {
    /// Index of the first event in the log.
    pub(crate) first: u64,
    pub(crate) bytes: Vec<u8>,
    /// End of each frame.
    pub(crate) ends: Vec<u32>,
}

impl GrowingBlock {
    /// Returns the lengths of the frames after the first `skipped` ones.
    pub(crate) fn lens_from(&self, skipped: usize) -> impl Iterator<Item = usize> {
        let start = |at: usize| if at == 0 { 0 } else { self.ends[at - 1] };
        (skipped..self.ends.len()).map(move |at| (self.ends[at] - start(at)) as usize)
    }

    pub(crate) fn finish(mut self) -> EncodedBlock {
        self.bytes.shrink_to_fit();
        EncodedBlock { first: self.first, bytes: self.bytes.into(), ends: self.ends.into() }
    }
}

/// Block in the cache.
#[derive(Debug)]
struct CachedBlock {
    block: Arc<EncodedBlock>,
    /// Whether it was used since it was last considered for eviction.
    is_used: bool,
}

/// Maximum number of used blocks that are passed over before one is evicted.
const PASSES_MAX: usize = 64;

/// Cache of blocks by the clock algorithm: the oldest block is evicted, and one that was used since has a second chance.
#[derive(Debug, Default)]
pub(crate) struct BlockCache {
    blocks: HashMap<BlockKey, CachedBlock, RandomState>,
    /// Keys in the order in which they are considered for eviction.
    order: VecDeque<BlockKey>,
    bytes: usize,
}

impl BlockCache {
    /// Returns the block of a part's stretch.
    pub(crate) fn find(&mut self, form: BlockForm, part: &KeptPart) -> Option<&Arc<EncodedBlock>> {
        let cached = self.blocks.get_mut(&(form, part.serial, part.stretch()))?;
        cached.is_used = true;
        Some(&cached.block)
    }

    /// Keeps the block of a part's stretch instead of an earlier one.
    pub(crate) fn keep(&mut self, form: BlockForm, part: &KeptPart, block: &Arc<EncodedBlock>) {
        let key = (form, part.serial, part.stretch());
        self.bytes += block.held_bytes();
        match self.blocks.insert(key, CachedBlock { block: Arc::clone(block), is_used: false }) {
            Some(before) => self.bytes -= before.block.held_bytes(),
            None => self.order.push_back(key),
        }
        while self.bytes > BLOCKS_BYTES_MAX && self.evict() {}
    }

    /// Evicts a block. Returns whether there was one.
    fn evict(&mut self) -> bool {
        for passes in 0.. {
            let Some(key) = self.order.pop_front() else { return false };
            let Some(cached) = self.blocks.get_mut(&key) else { continue };
            if std::mem::take(&mut cached.is_used) && passes < PASSES_MAX {
                self.order.push_back(key);
                continue;
            }
            if let Some(cached) = self.blocks.remove(&key) {
                self.bytes -= cached.block.held_bytes();
            }
            return true;
        }
        false
    }

    /// Drops all blocks.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns the memory of the blocks, in bytes, counted one by one.
    #[cfg(test)]
    pub(crate) fn counted_bytes(&self) -> usize {
        assert_eq!(self.order.len(), self.blocks.len(), "each block is considered");
        self.blocks.values().map(|cached| cached.block.held_bytes()).sum()
    }

    /// Returns the memory of the blocks, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: BlockForm = BlockForm { slot: 0, compression: Compression::None };

    fn part(serial: u64) -> KeptPart {
        KeptPart::at(serial)
    }

    fn block(bytes: usize) -> Arc<EncodedBlock> {
        Arc::new(GrowingBlock { first: 0, bytes: vec![b'x'; bytes], ends: vec![bytes as u32] }.finish())
    }

    #[test]
    fn blocks_within_the_limit_all_stay_and_used_ones_stay_longest() {
        let mut cache = BlockCache::default();
        let size = 64 * 1024;
        let room = (BLOCKS_BYTES_MAX / (size + 1024)) as u64;
        for serial in 0..room {
            cache.keep(FORM, &part(serial), &block(size));
        }
        for _ in 0..3 {
            assert!(
                (0..room).all(|serial| cache.find(FORM, &part(serial)).is_some()),
                "none is dropped early"
            );
        }
        // All have a second chance now. The next round takes those that are not used again.
        for serial in room..room + room / 2 {
            cache.keep(FORM, &part(serial), &block(size));
            assert!(cache.find(FORM, &part(3)).is_some(), "{serial}");
            assert!(cache.held_bytes() <= BLOCKS_BYTES_MAX);
        }
        assert_eq!(cache.held_bytes(), cache.counted_bytes());
        assert!(cache.find(FORM, &part(0)).is_none());
        cache.clear();
        assert_eq!((cache.held_bytes(), cache.counted_bytes()), (0, 0));
    }

    #[test]
    fn a_block_replaces_the_shorter_one_of_its_stretch() {
        let mut cache = BlockCache::default();
        cache.keep(FORM, &part(1), &block(10));
        cache.keep(FORM, &part(1), &block(20));
        let found = cache.find(FORM, &part(1)).map(|block| block.frames(0, 1).map(|frames| frames.len()));
        assert_eq!((found, cache.held_bytes()), (Some(Some(20)), cache.counted_bytes()));
    }
}

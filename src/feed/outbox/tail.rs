//! Fast path of a write: everything that a client has pending is the end of its feed.
//!
//! Invariant: the fast path writes the bytes that the general path would have written. A client with bytes of its own, in a
//! replay, or out of sync takes the general path.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::feed::block::FrameBlock;
use crate::feed::feed::Feed;

/// Maximum number of slices in one write call.
pub(super) const SLICES_MAX: usize = 64;

/// Destination of an outbox's bytes.
pub(crate) trait ByteSink: Write {
    /// Writes as [`Write::write`] does, for bytes that are also written to other members of the feed.
    fn write_tail(&mut self, tail: &FeedTail<'_>) -> io::Result<usize> {
        tail.write_to(self)
    }
}

/// End of a feed, from one of its frames on. Nearly every write is of such a tail.
#[derive(Clone, Debug)]
pub(crate) struct FeedTail<'a> {
    blocks: &'a VecDeque<FrameBlock>,
    /// First block.
    first: &'a FrameBlock,
    /// Index of the first block in `blocks`.
    at: usize,
    /// Offset in the first block.
    start: usize,
    pub(super) len: usize,
}

impl<'a> FeedTail<'a> {
    /// Returns the feed's frames from `next` on, unless they are more than `room` bytes or too many blocks for one write.
    pub(super) fn find(feed: &'a Feed, next: u64, room: usize) -> Option<Self> {
        let blocks = feed.blocks()?;
        let (mut first, mut at, mut len) = (blocks.back()?, blocks.len() - 1, 0);
        while next < first.first {
            len += first.bytes.len();
            if at == 0 || len > room || blocks.len() - at >= SLICES_MAX {
                return None;
            }
            at -= 1;
            first = &blocks[at];
        }
        let start = first.start_of(next);
        len += first.bytes.len() - start;
        (len <= room).then_some(Self { blocks, first, at, start, len })
    }
}

impl FeedTail<'_> {
    /// Returns the blocks that contain the tail, in full.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &Bytes> {
        self.blocks.range(self.at..).map(|block| &block.bytes)
    }

    /// Returns the offset in the first block.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "pages are shared on Linux only"))]
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Returns the number of bytes.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "pages are shared on Linux only"))]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the tail's bytes, block by block.
    pub(crate) fn slices(&self) -> SmallVec<[IoSlice<'_>; 8]> {
        let mut slices: SmallVec<[IoSlice<'_>; 8]> = self.blocks().map(|block| IoSlice::new(block)).collect();
        slices[0].advance(self.start);
        slices
    }

    /// Returns whether the tail's bytes equal those of `slices`.
    pub(super) fn equals(&self, slices: &[IoSlice<'_>]) -> bool {
        let bytes = self.slices();
        bytes.iter().flat_map(|slice| slice.iter()).eq(slices.iter().flat_map(|slice| slice.iter()))
    }

    /// Writes the tail with one call.
    pub(crate) fn write_to(&self, out: &mut (impl Write + ?Sized)) -> io::Result<usize> {
        if self.at + 1 == self.blocks.len() {
            return out.write(&self.first.bytes[self.start..]);
        }
        out.write_vectored(&self.slices())
    }
}

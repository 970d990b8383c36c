//! Consecutive frames of a feed in one block of memory, so that one write covers all of them.
//!
//! Invariants:
//! - `bytes` holds the frames in order. `marks` has one entry per frame, at least one.
//! - `forms` has one entry per frame in a feed that compresses with a window, and none in other feeds.

use bytes::Bytes;
use smallvec::SmallVec;

use super::compressor::FrameForms;
use super::frame::FrameKind;
use crate::event::EventId;

/// End of a frame in its block, and the event that it encodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameMark {
    end: u32,
    shard: u16,
    /// Whether conflation must never leave the frame out.
    is_required: bool,
    is_gap: bool,
    sequence: u64,
}

/// One or more frames, shared by every member of a feed.
#[derive(Debug)]
pub(crate) struct FrameBlock {
    /// Index in the feed of the first frame.
    pub(crate) first: u64,
    pub(crate) bytes: Bytes,
    epoch: u64,
    marks: SmallVec<[FrameMark; 1]>,
    forms: Box<[FrameForms]>,
}

/// Marks of a block's frames.
pub(super) type FrameMarks = SmallVec<[FrameMark; 1]>;

impl FrameMark {
    pub(super) fn new(end: usize, id: EventId, kind: FrameKind) -> Self {
        let (is_required, is_gap) = (kind.is_required(), kind == FrameKind::Gap);
        Self { end: end as u32, shard: id.shard, is_required, is_gap, sequence: id.sequence }
    }
}

impl FrameBlock {
    /// Returns a block of the frames that lie back to back in `bytes`. The events are of one epoch.
    pub(super) fn new(
        first: u64,
        epoch: u64,
        marks: FrameMarks,
        bytes: Bytes,
        forms: Box<[FrameForms]>,
    ) -> Self {
        Self { first, bytes, epoch, marks, forms }
    }

    /// Returns the forms of the frame at `index`, in a feed that compresses with a window.
    pub(super) fn forms(&self, index: u64) -> Option<&FrameForms> {
        self.forms.get((index - self.first) as usize)
    }

    /// Returns the number of bytes that the block retains.
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes.len() + self.forms.iter().map(FrameForms::bytes).sum::<usize>()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.marks.len()
    }

    /// Returns the index after the last frame.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.marks.len() as u64
    }

    /// Returns the offset in `bytes` at which the frame of `index` starts; for [`Self::next`] the length of `bytes`.
    #[inline]
    pub(crate) fn start_of(&self, index: u64) -> usize {
        match (index - self.first) as usize {
            0 => 0,
            nth => self.marks[nth - 1].end as usize,
        }
    }

    /// Returns the first index of a frame that starts at or after `offset`.
    pub(crate) fn index_at(&self, offset: usize) -> u64 {
        if offset == 0 {
            return self.first;
        }
        self.first + self.marks.partition_point(|mark| (mark.end as usize) < offset) as u64 + 1
    }

    /// Returns whether conflation must never leave out the frame of `index`.
    pub(crate) fn is_required(&self, index: u64) -> bool {
        self.marks[(index - self.first) as usize].is_required
    }

    /// Returns the indices of gap notices.
    pub(super) fn gap_notices(&self) -> impl Iterator<Item = u64> {
        self.marks.iter().zip(self.first..).filter(|(mark, _)| mark.is_gap).map(|(_, index)| index)
    }

    /// Returns the number of required frames before `index`.
    pub(crate) fn required_before(&self, index: u64) -> u64 {
        self.marks[..(index - self.first) as usize].iter().filter(|mark| mark.is_required).count() as u64
    }

    /// Returns the id of the last event.
    pub(crate) fn newest_id(&self) -> EventId {
        self.id_of(self.next() - 1)
    }

    /// Returns the id of the event at `index`.
    pub(crate) fn id_of(&self, index: u64) -> EventId {
        let FrameMark { shard, sequence, .. } = self.marks[(index - self.first) as usize];
        EventId { epoch: self.epoch, shard, sequence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocks_frames_are_found_by_index_and_by_offset() {
        let id = |sequence| EventId { epoch: 9, shard: 0, sequence };
        let mark = |(n, end)| FrameMark::new(end, id(n), FrameKind::Required);
        let marks = [(5, 2), (6, 3), (7, 7)].map(mark).into_iter().collect();
        let block = FrameBlock::new(10, 9, marks, "aabcccc".into(), Box::default());
        assert_eq!((block.len(), block.next(), &block.bytes[..]), (3, 13, &b"aabcccc"[..]));
        assert_eq!([10, 11, 12, 13].map(|i| block.start_of(i)), [0, 2, 3, 7]);
        assert_eq!([0, 1, 2, 3, 4, 7].map(|o| block.index_at(o)), [10, 11, 11, 12, 13, 13]);
        assert_eq!(block.id_of(12), id(7));
    }
}

//! Consecutive frames of a feed in one block of memory, so that one write covers all of them.
//!
//! Invariants:
//! - `bytes` holds the frames in order. `marks` has one entry per frame, and never none.
//! - `forms` has one entry per frame in a feed that compresses with a window, and none in other feeds.

use bytes::Bytes;
use smallvec::SmallVec;

use super::compressor::FrameForms;
use super::frame::UnsealedFrame;
use crate::event::EventId;

/// End of a frame in its run, and the event it belongs to.
#[derive(Clone, Copy, Debug)]
struct Mark {
    end: u32,
    shard: u16,
    /// Conflation must never leave the frame out.
    is_required: bool,
    sequence: u64,
}

/// One or more frames, shared by every member of a feed.
#[derive(Debug)]
pub(crate) struct FrameRun {
    /// Index in the feed of the first frame.
    pub(crate) first: u64,
    pub(crate) bytes: Bytes,
    epoch: u64,
    marks: SmallVec<[Mark; 1]>,
    forms: Box<[FrameForms]>,
}

impl FrameRun {
    /// Returns a run of `frames`, which lie in `bytes` one after the other and end at `ends`.
    pub(super) fn new(
        first: u64,
        frames: &[UnsealedFrame],
        ends: impl IntoIterator<Item = u32>,
        bytes: Bytes,
        forms: Box<[FrameForms]>,
    ) -> Self {
        let marks = (frames.iter().zip(ends))
            .map(|(frame, end)| {
                let UnsealedFrame { id, kind, .. } = frame;
                Mark { end, shard: id.shard, is_required: kind.is_required(), sequence: id.sequence }
            })
            .collect();
        Self { first, bytes, epoch: frames.first().map_or(0, |frame| frame.id.epoch), marks, forms }
    }

    /// Returns the forms of the frame at `index`, in a feed that compresses with a window.
    pub(super) fn forms(&self, index: u64) -> Option<&FrameForms> {
        self.forms.get((index - self.first) as usize)
    }

    /// Returns the bytes that the run retains.
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

    /// Returns the number of required frames before `index`.
    pub(crate) fn required_before(&self, index: u64) -> u64 {
        self.marks[..(index - self.first) as usize].iter().filter(|mark| mark.is_required).count() as u64
    }

    /// Returns the id of the event at `index`.
    pub(crate) fn id_of(&self, index: u64) -> EventId {
        let Mark { shard, sequence, .. } = self.marks[(index - self.first) as usize];
        EventId { epoch: self.epoch, shard, sequence }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{FrameKind, FrameSource};
    use super::*;

    #[test]
    fn a_runs_frames_are_found_by_index_and_by_offset() {
        let id = |sequence| EventId { epoch: 9, shard: 0, sequence };
        let frame = |n| UnsealedFrame {
            source: FrameSource::Owned(Bytes::new()),
            id: id(n),
            kind: FrameKind::Required,
            is_final: true,
        };
        let run = FrameRun::new(10, &[5, 6, 7].map(frame), [2, 3, 7], "aabcccc".into(), Box::default());
        assert_eq!((run.len(), run.next(), &run.bytes[..]), (3, 13, &b"aabcccc"[..]));
        assert_eq!([10, 11, 12, 13].map(|i| run.start_of(i)), [0, 2, 3, 7]);
        assert_eq!([0, 1, 2, 3, 4, 7].map(|o| run.index_at(o)), [10, 11, 11, 12, 13, 13]);
        assert_eq!(run.id_of(12), id(7));
    }
}

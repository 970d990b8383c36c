//! Frames of a feed that stand one behind the other in memory, so that one write covers them all.
//!
//! Imports `event` and its sibling `press`. Always: `bytes` is the frames in order, `marks` has one entry a frame,
//! never none; `forms` has one a frame too where frames look back, and none elsewhere.

use bytes::Bytes;
use smallvec::SmallVec;

use super::UnsealedFrame;
use super::compressor::FrameForms;
use crate::event::EventId;

/// Where a frame ends in its run, and whose it is.
#[derive(Clone, Copy, Debug)]
struct Mark {
    end: u32,
    shard: u16,
    /// It has no key, so it is never left out.
    required: bool,
    sequence: u64,
}

/// One or more frames, shared by every member of a feed.
#[derive(Debug)]
pub(crate) struct Run {
    /// The index in the feed of the first frame.
    pub(crate) first: u64,
    pub(crate) bytes: Bytes,
    epoch: u64,
    marks: SmallVec<[Mark; 1]>,
    forms: Box<[FrameForms]>,
}

impl Run {
    /// A run of these frames, which stand in `bytes` one behind the other and end there. `forms` where they look back.
    pub(super) fn new(
        first: u64,
        frames: &[UnsealedFrame],
        ends: impl IntoIterator<Item = u32>,
        bytes: Bytes,
        forms: Box<[FrameForms]>,
    ) -> Self {
        let marks = (frames.iter().zip(ends))
            .map(|(fresh, end)| {
                let UnsealedFrame { id, key, .. } = fresh;
                Mark { end, shard: id.shard, required: super::is_required(*key), sequence: id.sequence }
            })
            .collect();
        Self { first, bytes, epoch: frames.first().map_or(0, |fresh| fresh.id.epoch), marks, forms }
    }

    /// The other form of the frame of this index, where frames look back.
    pub(super) fn forms(&self, index: u64) -> Option<&FrameForms> {
        self.forms.get((index - self.first) as usize)
    }

    /// Bytes that it keeps.
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes.len() + self.forms.iter().map(FrameForms::bytes).sum::<usize>()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.marks.len()
    }

    /// The index behind the last frame.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.marks.len() as u64
    }

    /// Where in `bytes` the frame of this index starts; the whole length for [`Self::next`].
    pub(crate) fn start_of(&self, index: u64) -> usize {
        match (index - self.first) as usize {
            0 => 0,
            nth => self.marks[nth - 1].end as usize,
        }
    }

    /// The first index whose frame starts at or behind this offset.
    pub(crate) fn index_at(&self, offset: usize) -> u64 {
        if offset == 0 {
            return self.first;
        }
        self.first + self.marks.partition_point(|mark| (mark.end as usize) < offset) as u64 + 1
    }

    /// Whether the frame of this index is never left out.
    pub(crate) fn is_required(&self, index: u64) -> bool {
        self.marks[(index - self.first) as usize].required
    }

    /// How many frames before this index are never left out.
    pub(crate) fn required_before(&self, index: u64) -> u64 {
        self.marks[..(index - self.first) as usize].iter().filter(|mark| mark.required).count() as u64
    }

    /// Whose frame it is.
    pub(crate) fn id_of(&self, index: u64) -> EventId {
        let Mark { shard, sequence, .. } = self.marks[(index - self.first) as usize];
        EventId { epoch: self.epoch, shard, sequence }
    }
}

#[cfg(test)]
mod tests {
    use super::super::FrameSource;
    use super::*;

    #[test]
    fn a_runs_frames_are_found_by_index_and_by_offset() {
        let id = |sequence| EventId { epoch: 9, shard: 0, sequence };
        let frame =
            |n| UnsealedFrame { frame: FrameSource::Owned(Bytes::new()), id: id(n), key: 0, ready: true };
        let run = Run::new(10, &[5, 6, 7].map(frame), [2, 3, 7], "aabcccc".into(), Box::default());
        assert_eq!((run.len(), run.next(), &run.bytes[..]), (3, 13, &b"aabcccc"[..]));
        assert_eq!([10, 11, 12, 13].map(|i| run.start_of(i)), [0, 2, 3, 7]);
        assert_eq!([0, 1, 2, 3, 4, 7].map(|o| run.index_at(o)), [10, 11, 11, 12, 13, 13]);
        assert_eq!(run.id_of(12), id(7));
    }
}

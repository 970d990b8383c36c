//! Seals feeds: the appended frames become blocks that the members see, and the oldest blocks are dropped.
//!
//! Invariants:
//! - A large frame is not copied. Small frames are copied together, once for the feed.
//! - A block has frames of one epoch.

use bytes::Bytes;

use super::{Feed, FeedForm, FeedLimits};
use crate::feed::block::{FrameBlock, FrameMark, FrameMarks};
use crate::feed::compressor::{Compression, CompressorPool, FrameForms, WindowUse};
use crate::feed::frame::{FrameKind, MERGE_FRAME_BYTES_MAX, UnsealedFrame};
use crate::feed::frame_log::{FrameLog, LoggedFrame};

/// Merge limit for a feed with one member, in bytes: no other member shares the copy, and an extra `writev` segment costs
/// about as much as copying this many bytes.
const MERGE_LONE_FRAME_BYTES_MAX: usize = 1024;

/// Size of a block of small frames, in bytes: large enough that the cost of the write call no longer matters.
const BLOCK_BYTES_MAX: usize = 64 * 1024;

impl Feed {
    /// Makes the appended frames visible to outboxes, and trims the feed to its limits.
    pub(in crate::feed) fn seal(
        &mut self,
        log: &mut FrameLog,
        limits: &FeedLimits,
        pool: &mut CompressorPool,
    ) {
        if self.list.len > 0 {
            self.seal_list(log);
        }
        if let Some(own) = self.own_form_mut().filter(|own| !own.unsealed.is_empty()) {
            let unsealed = std::mem::take(&mut own.unsealed);
            self.seal_own(&unsealed, limits, pool);
            // The frames are in blocks now; a shared feed keeps the vector's capacity for the next turn.
            if self.members().len() > 1
                && let Some(own) = self.own_form_mut()
            {
                own.unsealed = unsealed;
                own.unsealed.clear();
            }
        }
        self.trim(limits);
    }

    /// Copies the frames of the feed's list into blocks.
    fn seal_list(&mut self, log: &mut FrameLog) {
        let encoding = self.form.encoding;
        let mut list = std::mem::take(&mut self.list);
        let mut frames = log.frames(encoding, list).peekable();
        while let Some((first, bytes)) = frames.next() {
            let is_small = |bytes: &[u8]| bytes.len() <= MERGE_FRAME_BYTES_MAX;
            let epoch = first.id.epoch;
            let joins = |(frame, bytes): &(&LoggedFrame, &[u8])| is_small(bytes) && frame.id.epoch == epoch;
            let mut marks = FrameMarks::new();
            let mut mark = |frame: &LoggedFrame, end| marks.push(FrameMark::new(end, frame.id, frame.kind));
            mark(first, bytes.len());
            let block = if is_small(bytes) && frames.peek().is_some_and(joins) {
                // A block has as many frames as start within its maximum size.
                let after = frames.clone().scan(bytes.len(), |end, (_, next)| {
                    let begins = *end <= BLOCK_BYTES_MAX && is_small(next);
                    *end += next.len();
                    begins.then_some(*end)
                });
                let mut together = Vec::with_capacity(after.last().unwrap_or(bytes.len()));
                together.extend_from_slice(bytes);
                while together.len() <= BLOCK_BYTES_MAX
                    && let Some((frame, bytes)) = frames.next_if(joins)
                {
                    together.extend_from_slice(bytes);
                    mark(frame, together.len());
                }
                together.into()
            } else {
                first.own_bytes(encoding).unwrap_or_else(|| Bytes::copy_from_slice(bytes))
            };
            self.push_block(epoch, marks, block, Box::default());
        }
        drop(frames);
        log.take(&mut list);
    }

    /// Makes blocks of the frames of a feed that compresses or conflates.
    fn seal_own(&mut self, unsealed: &[UnsealedFrame], limits: &FeedLimits, pool: &mut CompressorPool) {
        let mut rest = unsealed;
        while let Some(first) = rest.first() {
            let start = self.next;
            let taken = if self.compressor().is_some() {
                self.compressed_block(rest, pool)
            } else {
                self.merged_block(rest)
            };
            debug_assert!(self.next == start + taken as u64, "{first:?}");
            let (frames, after) = rest.split_at(taken);
            self.put_latest(start, frames, limits);
            rest = after;
        }
    }

    /// Retains keyed frames, sealed from index `start` on, as the latest of their keys.
    fn put_latest(&mut self, start: u64, frames: &[UnsealedFrame], limits: &FeedLimits) {
        let FeedForm { encoding, compression } = self.form;
        let Some(own) = self.detail.as_mut().and_then(|detail| detail.own_form.as_mut()) else { return };
        let (Some(conflator), Some(retained)) = (&mut own.conflator, &self.retained) else { return };
        let Some(block) = retained.blocks.back() else { return };
        for (UnsealedFrame { source, id, kind, .. }, index) in frames.iter().zip(start..) {
            if let FrameKind::Keyed(key) = kind {
                let frame = source.bytes(encoding);
                let frame = block.forms(index).map_or(frame, |forms| forms.standalone(compression));
                conflator.latest.put(*key, index, (frame.clone(), *id), limits.max_keys);
            }
        }
    }

    /// Appends a block of the next frames.
    fn push_block(&mut self, epoch: u64, marks: FrameMarks, bytes: Bytes, forms: Box<[FrameForms]>) {
        let block = FrameBlock::new(self.next, epoch, marks, bytes, forms);
        let retained = self.retain();
        if retained.gaps.has_unsealed() {
            block.gap_notices().for_each(|index| retained.gaps.seal(index));
        }
        retained.bytes += block.held_bytes();
        let next = block.next();
        retained.blocks.push_back(block);
        self.next = next;
    }

    /// Makes a block of the first of these frames, and returns the number of frames in it. A large frame is a block by
    /// itself, without a copy; small ones are copied together, once for the feed.
    fn merged_block(&mut self, rest: &[UnsealedFrame]) -> usize {
        let encoding = self.form.encoding;
        let small = if self.members().len() > 1 { MERGE_FRAME_BYTES_MAX } else { MERGE_LONE_FRAME_BYTES_MAX };
        let epoch = rest[0].id.epoch;
        let bytes_of = |frame: &UnsealedFrame| frame.source.bytes(encoding).len();
        let joins = |frame: &&UnsealedFrame| frame.id.epoch == epoch && bytes_of(frame) <= small;
        let count = rest.iter().take_while(joins).count();
        let mut marks = FrameMarks::new();
        if count < 2 {
            let bytes = rest[0].source.bytes(encoding).clone();
            marks.push(FrameMark::new(bytes.len(), rest[0].id, rest[0].kind));
            self.push_block(epoch, marks, bytes, Box::default());
            return 1;
        }
        let mut together = Vec::new();
        for frame in &rest[..count] {
            if together.len() > BLOCK_BYTES_MAX {
                break;
            }
            if together.is_empty() {
                // Frames of a burst mostly have similar lengths.
                let similar = (bytes_of(frame) + 16) * count;
                together.reserve_exact(similar.min(BLOCK_BYTES_MAX + small));
            }
            together.extend_from_slice(frame.source.bytes(encoding));
            marks.push(FrameMark::new(together.len(), frame.id, frame.kind));
        }
        if together.capacity() / 4 > together.len() / 3 {
            together.shrink_to_fit();
        }
        let taken = marks.len();
        self.push_block(epoch, marks, together.into(), Box::default());
        taken
    }

    /// Makes a block of the first of these frames, compressed with the feed's window, and returns the number of frames in
    /// it.
    fn compressed_block(&mut self, rest: &[UnsealedFrame], pool: &mut CompressorPool) -> usize {
        let FeedForm { encoding, compression } = self.form;
        let epoch = rest[0].id.epoch;
        let (mut bytes, mut marks, mut forms) = (Vec::new(), FrameMarks::new(), Vec::new());
        let Some(compressor) = self.compressor_mut() else { return self.merged_block(rest) };
        for UnsealedFrame { source, is_final, id, kind } in rest {
            if id.epoch != epoch {
                break;
            }
            let frame = source.bytes(encoding);
            let start = bytes.len();
            let window_use = if *is_final {
                bytes.extend_from_slice(frame);
                compressor.force_restart();
                WindowUse::None
            } else {
                compressor.compress(compression, frame, pool, &mut bytes)
            };
            // A frame in the block that uses no window is its own standalone form.
            let standalone = match window_use {
                WindowUse::None if !*is_final && compression == Compression::Gzip => {
                    Bytes::copy_from_slice(&bytes[start..])
                }
                _ => frame.clone(),
            };
            forms.push(FrameForms::new(window_use, standalone));
            marks.push(FrameMark::new(bytes.len(), *id, *kind));
            if bytes.len() > BLOCK_BYTES_MAX {
                break;
            }
        }
        let taken = marks.len();
        self.push_block(epoch, marks, bytes.into(), forms.into());
        taken
    }

    /// Drops the oldest blocks until the feed is within its limits. The newest block always stays, because members that are
    /// one block behind must receive it.
    pub(in crate::feed) fn trim(&mut self, limits: &FeedLimits) {
        let next = self.next;
        let Some(retained) = &mut self.retained else { return };
        let mut passed = None;
        while (next - retained.base) as usize > limits.max_events || retained.bytes > limits.max_bytes {
            if retained.blocks.len() <= 1 {
                break;
            }
            let Some(oldest) = retained.blocks.pop_front() else { break };
            retained.bytes -= oldest.held_bytes();
            retained.base = oldest.next();
            let own = self.detail.as_mut().and_then(|detail| detail.own_form.as_mut());
            if let Some(conflator) = own.and_then(|own| own.conflator.as_mut()) {
                conflator.required_before_base += oldest.required_before(oldest.next());
            }
            passed = Some(oldest.newest_id());
        }
        retained.gaps.trim(retained.base);
        self.set_passed(passed);
    }
}

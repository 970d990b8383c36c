//! The walk over everything that an outbox has pending, in the order of the client's stream.
//!
//! Invariants:
//! - Writes, the bookkeeping after them and detached frames follow this walk, so all of them agree on the order.
//! - Inserted bytes come after the frames with an index below their `before`, and before all other frames.
//! - A gap that is open at the newest end hides the feed's frames. Its notice ends the walk.

use bytes::Bytes;

use super::inserted::{Inserted, InsertedQueue};
use super::{Outbox, OutboxState};
use crate::feed::block::FrameBlock;
use crate::feed::compressor::WindowUse;
use crate::feed::feed::Feed;

/// A pending piece of a client's stream.
pub(super) enum PendingPiece<'b, 'f> {
    /// Rest of the partly written frame.
    Partial(&'b Bytes),
    /// Bytes of the connection's own.
    Inserted(&'b Inserted),
    /// Frames of the feed.
    Frames(PendingFrames<'f>),
    /// Notice of the open gap at the newest end, which is due. It has no bytes before it is inserted.
    NewestGap,
}

/// Consecutive frames of a feed that are pending.
pub(super) struct PendingFrames<'f> {
    pub(super) bytes: &'f [u8],
    /// Buffer that `bytes` is a part of.
    pub(super) buffer: &'f Bytes,
    /// Index of the first frame. Frames between the outbox's position and this one are conflated.
    pub(super) first: u64,
    /// Index after the last frame.
    pub(super) end: u64,
    /// Whether a client that was sent the frames, in full or in part, is in sync with the feed's window.
    pub(super) in_sync: bool,
    /// Block that contains `bytes`; `None` for a single frame that was taken out of its block.
    block: Option<&'f FrameBlock>,
}

impl PendingFrames<'_> {
    /// Returns the number of frames.
    pub(super) fn count(&self) -> u64 {
        self.end - self.first
    }

    /// Returns the frames that start within the first `len` bytes: at least one.
    pub(super) fn starting_within(self, len: usize) -> Self {
        match self.block {
            Some(block) if len < self.bytes.len() && self.count() > 1 => {
                let end = block.index_at(block.start_of(self.first) + len);
                self.until(end)
            }
            _ => self,
        }
    }

    /// Returns the frames before `index`, if there are any.
    pub(super) fn before(self, index: u64) -> Option<Self> {
        (self.first < index).then(|| self.until(index))
    }

    /// Returns the frames before `end`, and the first one in any case.
    fn until(mut self, end: u64) -> Self {
        let end = end.max(self.first + 1);
        if let Some(block) = self.block.filter(|_| end < self.end) {
            self.bytes = &self.bytes[..block.start_of(end) - block.start_of(self.first)];
            self.end = end;
        }
        self
    }
}

/// Everything that an outbox has pending, in order.
pub(super) struct PendingPieces<'b, 'f> {
    partial: Option<&'b Bytes>,
    /// Bytes of the connection's own.
    inserted: Option<&'b InsertedQueue>,
    /// Number of inserted pieces before the next one.
    passed: usize,
    /// The feed, if its frames are to be written.
    feed: Option<&'f Feed>,
    /// Whether only the latest frames of keys are to be written.
    conflates: bool,
    /// Index of the next frame, and of the end of the feed.
    next: u64,
    end: u64,
    /// Whether the client can read the next frame in the form that uses the window.
    in_sync: bool,
    /// Whether the walk ends with a gap notice.
    ends_in_gap: bool,
}

impl Outbox {
    /// Returns everything that is pending, in order.
    pub(super) fn pending_pieces<'b, 'f>(&'b self, feed: Option<&'f Feed>) -> PendingPieces<'b, 'f> {
        let backlog = self.backlog.as_deref();
        PendingPieces {
            partial: backlog.map(|backlog| &backlog.partial).filter(|partial| !partial.is_empty()),
            ..self.pieces_among(backlog.map(|backlog| &backlog.inserted), feed)
        }
    }

    /// Returns the pieces after the partly written frame, with these inserted bytes: the backlog's, which the caller may
    /// have taken out.
    pub(super) fn pieces_among<'b, 'f>(
        &self,
        inserted: Option<&'b InsertedQueue>,
        feed: Option<&'f Feed>,
    ) -> PendingPieces<'b, 'f> {
        let state = self.state(feed);
        let has_frames = matches!(state, OutboxState::Ready | OutboxState::Lagging | OutboxState::Conflating);
        PendingPieces {
            partial: None,
            inserted,
            passed: 0,
            feed: feed.filter(|_| has_frames),
            conflates: state == OutboxState::Conflating,
            next: self.next,
            end: feed.map_or(self.next, |feed| feed.next),
            in_sync: self.in_sync,
            ends_in_gap: state == OutboxState::GapOpen,
        }
    }
}

impl<'f> PendingPieces<'_, 'f> {
    /// Returns the next frames of the feed, if there are any before `stop`.
    fn frames_before(&self, stop: u64) -> Option<PendingFrames<'f>> {
        let (feed, next) = (self.feed.filter(|_| self.next < stop)?, self.next);
        let mut in_sync = self.in_sync;
        if self.conflates {
            let (first, bytes, buffer) = feed.next_retained(next)?;
            let frames = PendingFrames { bytes, buffer, first, end: first + 1, in_sync: false, block: None };
            return (first < stop).then_some(frames);
        }
        let block = feed.block_of(next)?;
        let mut end = block.next().min(stop);
        if !in_sync && let Some(forms) = block.forms(next) {
            match forms.window_use {
                WindowUse::Restarts => in_sync = true,
                WindowUse::None => end = next + 1,
                WindowUse::Continues => {
                    let bytes = forms.standalone(feed.form.compression);
                    let end = next + 1;
                    return Some(PendingFrames {
                        bytes,
                        buffer: bytes,
                        first: next,
                        end,
                        in_sync,
                        block: None,
                    });
                }
            }
        }
        let bytes = &block.bytes[block.start_of(next)..block.start_of(end)];
        Some(PendingFrames { bytes, buffer: &block.bytes, first: next, end, in_sync, block: Some(block) })
    }
}

impl<'b, 'f> Iterator for PendingPieces<'b, 'f> {
    type Item = PendingPiece<'b, 'f>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(partial) = self.partial.take() {
            return Some(PendingPiece::Partial(partial));
        }
        let inserted = self.inserted.and_then(|inserted| inserted.get(self.passed));
        let stop = inserted.map_or(self.end, |inserted| inserted.before.min(self.end));
        if let Some(frames) = self.frames_before(stop) {
            (self.next, self.in_sync) = (frames.end, frames.in_sync);
            return Some(PendingPiece::Frames(frames));
        }
        // All frames before `stop` are taken or conflated.
        if let Some(inserted) = inserted {
            self.passed += 1;
            self.next = self.next.max(stop);
            self.in_sync &= !inserted.changes_window;
            return Some(PendingPiece::Inserted(inserted));
        }
        std::mem::take(&mut self.ends_in_gap).then_some(PendingPiece::NewestGap)
    }
}

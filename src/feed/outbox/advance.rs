//! Bookkeeping after a write: moves an outbox past the bytes that the socket accepted.

use bytes::{Buf, Bytes};

use super::inserted::Inserted;
use super::pending::{PendingFrames, PendingPiece};
use super::{Outbox, Tally};
use crate::feed::feed::Feed;

impl Outbox {
    /// Advances past the first `written` pending bytes, and keeps the rest of a partly written frame.
    ///
    /// The inserted bytes are taken out during the walk, so that the position can move under it.
    pub(super) fn advance(&mut self, feed: Option<&Feed>, written: usize, tally: &mut Tally) {
        let mut left = written - self.advance_partial(written);
        if left == 0 {
            return;
        }
        let mut inserted =
            self.backlog.as_mut().map(|backlog| std::mem::take(&mut backlog.inserted)).unwrap_or_default();
        let mut begun = 0;
        let mut walk = self.pieces_among(Some(&inserted), feed);
        while left > 0 {
            left -= match (walk.next(), feed) {
                (Some(PendingPiece::Inserted(piece)), _) => {
                    begun += 1;
                    self.advance_inserted(left, piece, feed, tally)
                }
                (Some(PendingPiece::Frames(frames)), Some(feed)) => {
                    self.advance_frames(left, frames, feed, tally)
                }
                _ => {
                    debug_assert!(false, "more was written than was pending");
                    break;
                }
            };
        }
        inserted.drop_first(begun);
        if let Some(backlog) = &mut self.backlog {
            backlog.inserted = inserted;
        }
    }

    /// Advances within the partly written frame, by at most `written`. Returns the number of bytes.
    fn advance_partial(&mut self, written: usize) -> usize {
        let Some(backlog) = &mut self.backlog else { return 0 };
        let taken = written.min(backlog.partial.len());
        backlog.partial.advance(taken);
        if backlog.partial.is_empty() {
            // Frees the frame.
            backlog.partial = Bytes::new();
        }
        taken
    }

    /// Advances into inserted bytes, by at most `written`. Their rest becomes the partly written frame. Returns the number
    /// of bytes.
    fn advance_inserted(
        &mut self,
        written: usize,
        piece: &Inserted,
        feed: Option<&Feed>,
        tally: &mut Tally,
    ) -> usize {
        let taken = written.min(piece.bytes.len());
        if let Some(backlog) = &mut self.backlog {
            backlog.last = piece.last.or(backlog.last);
            if taken < piece.bytes.len() {
                backlog.partial = piece.bytes.slice(taken..);
            }
        }
        let before = piece.before.min(feed.map_or(self.next, |feed| feed.next));
        if before > self.next {
            self.count_conflated(before, tally);
            self.next = before;
        }
        self.in_sync &= !piece.changes_window;
        tally.events += u64::from(piece.events);
        taken
    }

    /// Advances into frames of the feed, by at most `written`. Frames that are begun count as written, and the rest of
    /// the last one becomes the partly written frame. Returns the number of bytes.
    fn advance_frames(
        &mut self,
        written: usize,
        frames: PendingFrames<'_>,
        feed: &Feed,
        tally: &mut Tally,
    ) -> usize {
        let begun = frames.starting_within(written);
        let taken = written.min(begun.bytes.len());
        let rest = &begun.bytes[taken..];
        if !rest.is_empty() {
            // A slice of a buffer with only this frame keeps nothing else alive. If the buffer has many frames, the rest
            // is small, so it is copied.
            let is_whole_buffer = begun.count() == 1 && begun.buffer.len() == begun.bytes.len();
            let rest =
                if is_whole_buffer { begun.buffer.slice_ref(rest) } else { Bytes::copy_from_slice(rest) };
            self.backlog.get_or_insert_default().partial = rest;
        }
        tally.events += begun.count();
        self.move_past(&begun, feed, tally);
        if let Some(backlog) = &mut self.backlog {
            backlog.last = feed.id_before(self.next).or(backlog.last);
        }
        taken
    }

    /// Moves the position past these frames: they are written, in full or in part, or are inserted bytes from here on.
    pub(super) fn move_past(&mut self, frames: &PendingFrames<'_>, feed: &Feed, tally: &mut Tally) {
        let PendingFrames { first, end, in_sync, .. } = *frames;
        self.count_conflated(first, tally);
        self.count_required(feed, first, end);
        self.pass_frames(feed, first, end);
        self.in_sync = in_sync;
        self.next = end;
    }
}

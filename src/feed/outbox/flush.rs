//! Writes the pending bytes of an outbox in order.
//!
//! Invariant: [`Outbox::pending_slices`] returns the pieces of the walk. [`Outbox::tail`] is a fast path, and returns what
//! `pending_slices` would.

use std::io::{self, IoSlice};

use smallvec::SmallVec;

use super::pending::PendingPiece;
use super::tail::{ByteSink, FeedTail, SLICES_MAX};
use super::{Flushed, Outbox, OutboxContext, OutboxState, ResumeLookup};
use crate::feed::fanout::Fanout;
use crate::feed::feed::Feed;

impl Outbox {
    /// Writes pending bytes, up to `budget`, until the socket is full.
    pub(crate) fn flush<W: ByteSink>(
        &mut self,
        fanout: &Fanout,
        out: &mut W,
        budget: usize,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) -> Flushed {
        let feed = self.membership.map(|m| fanout.feed(m.feed()));
        if let Some(feed) = feed
            && let Some(flushed) = self.flush_tail(feed, out, budget, cx)
        {
            return flushed;
        }
        if self.should_disconnect(fanout) {
            return Flushed::Lagged;
        }
        self.hold_place(feed, cx.lookup);
        if self.is_behind(fanout) {
            return Flushed::Behind;
        }
        let mut left = budget;
        loop {
            if let Some(feed) = feed.filter(|_| !self.replaying) {
                self.skip_trimmed(feed, cx);
                self.insert_due_newest_gap(feed, cx);
            }
            #[cfg(debug_assertions)]
            self.check_sums(feed);
            let slices = self.pending_slices(feed, left);
            if slices.is_empty() {
                drop(slices);
                self.request_restart(feed);
                self.drop_empty_backlog();
                return Flushed::Done;
            }
            if left == 0 {
                return Flushed::Budget;
            }
            let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
            let written = match slices.as_slice() {
                [one] => out.write(one),
                all => out.write_vectored(all),
            };
            drop(slices);
            match self.count_write(feed, wanted, written, cx) {
                Ok(written) => left = left.saturating_sub(written),
                Err(flushed) => return flushed,
            }
        }
    }

    /// Writes the end of the feed, if nothing else is pending. Returns `None` if more is pending, or the write was
    /// interrupted.
    fn flush_tail<W: ByteSink>(
        &mut self,
        feed: &Feed,
        out: &mut W,
        budget: usize,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) -> Option<Flushed> {
        let tail = self.tail(feed, budget)?;
        match out.write_tail(&tail) {
            Ok(written) if written == tail.len => {
                cx.tally.writes += 1;
                cx.tally.bytes += written as u64;
                cx.tally.events += feed.next - self.next;
                self.next = feed.next;
                self.request_restart(Some(feed));
                Some(Flushed::Done)
            }
            written => self.count_write(Some(feed), tail.len, written, cx).err(),
        }
    }

    /// Counts a write of `wanted` pending bytes, and advances past those that were written. Returns their number, or the outcome
    /// that ends the flush. An interrupted write has written nothing.
    pub(super) fn count_write(
        &mut self,
        feed: Option<&Feed>,
        wanted: usize,
        written: io::Result<usize>,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) -> Result<usize, Flushed> {
        cx.tally.writes += 1;
        let written = match written {
            Ok(0) => return Err(Flushed::Failed),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Err(Flushed::Failed),
        };
        cx.tally.bytes += written as u64;
        self.hold_place(feed, cx.lookup);
        self.advance(feed, written, cx.tally);
        if written == wanted {
            return Ok(written);
        }
        // A short write means that the socket is full (epoll(7)), so another attempt is not needed.
        cx.tally.blocked += 1;
        self.record_blocked(feed, cx.lookup);
        Err(Flushed::Blocked)
    }

    /// Records that the socket is full, and starts conflation in a feed that conflates.
    pub(super) fn record_blocked(&mut self, feed: Option<&Feed>, lookup: &impl ResumeLookup) {
        let backlog = self.backlog(feed);
        backlog.lagging_since.get_or_insert_with(|| lookup.now());
        // During a replay the client has no gap notice yet for frames that the feed has trimmed in the meantime, and
        // conflation would count those as reported.
        if let Some(feed) = feed.filter(|feed| feed.conflates() && !self.replaying) {
            self.start_conflating(feed);
        }
        self.request_restart(feed);
    }

    /// Asks the feed for a window restart, if the connection is not in sync.
    fn request_restart(&self, feed: Option<&Feed>) {
        if !self.in_sync
            && let Some(compressor) = feed.and_then(Feed::compressor)
        {
            compressor.request_restart();
        }
    }

    /// Returns all pending bytes if they are exactly the end of the feed. Finds the bytes that
    /// [`pending_slices`](Self::pending_slices) would return, with less work.
    fn tail<'a>(&self, feed: &'a Feed, room: usize) -> Option<FeedTail<'a>> {
        if self.state(Some(feed)) != OutboxState::Ready
            || self.next < feed.base()
            || (!self.in_sync && feed.compressor().is_some())
        {
            return None;
        }
        let tail = FeedTail::find(feed, self.next, room)?;
        debug_assert!(tail.equals(&self.pending_slices(Some(feed), room)), "the general path decides");
        Some(tail)
    }

    /// Returns the next pending pieces, in order: at least one if any byte is pending, and as many frames as start
    /// within `budget` bytes.
    fn pending_slices<'a>(&'a self, feed: Option<&'a Feed>, budget: usize) -> SmallVec<[IoSlice<'a>; 8]> {
        let mut slices = SmallVec::new();
        let mut size = 0;
        for piece in self.pending_pieces(feed) {
            if slices.len() == SLICES_MAX || (size >= budget && !slices.is_empty()) {
                break;
            }
            let bytes: &[u8] = match piece {
                PendingPiece::Partial(rest) => rest,
                PendingPiece::Inserted(inserted) => &inserted.bytes,
                PendingPiece::Frames(frames) => frames.starting_within(budget.saturating_sub(size)).bytes,
                PendingPiece::NewestGap => break,
            };
            size += bytes.len();
            slices.push(IoSlice::new(bytes));
        }
        slices
    }
}

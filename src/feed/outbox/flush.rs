//! Writes the pending bytes of an outbox in order, and accounts for the bytes that each write accepted.
//!
//! Invariant: [`Outbox::pending_slices`] and [`Outbox::advance`] walk the same bytes in the same order. [`Outbox::tail`] is a
//! fast path, and returns what `pending_slices` would.

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::backlog::Inserted;
use super::tail::{ByteSink, FeedTail, SLICES_MAX};
use super::{Flushed, Outbox, OutboxContext, ResumeLookup, Tally};
use crate::feed::compressor::WindowUse;
use crate::feed::fanout::Fanout;
use crate::feed::feed::Feed;

/// Next pending piece of a feed.
pub(super) struct Piece<'a> {
    pub(super) bytes: &'a [u8],
    /// Buffer that `bytes` is a part of.
    pub(super) buffer: &'a Bytes,
    /// Index of the first frame. Frames between the outbox's position and this one are conflated.
    pub(super) first: u64,
    /// Index after the last frame.
    pub(super) end: u64,
    /// Whether a client that was sent the piece, in full or in part, is in sync with the feed's window.
    pub(super) in_sync: bool,
}

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
            }
            self.insert_due_newest_gap(feed, cx);
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

    /// Starts to deliver only the latest frames of keys, until the connection is caught up. Returns `false` if some
    /// pending frames are trimmed already.
    pub(super) fn start_conflating(&mut self, feed: &Feed) -> bool {
        let is_retained = self.next >= feed.base();
        let next = self.next.max(feed.base());
        let backlog = self.backlog.get_or_insert_default();
        if !backlog.conflates {
            backlog.conflates = true;
            backlog.required_before_next = feed.required_before(next);
            return is_retained;
        }
        true
    }

    /// Counts the required frames that the connection moves past while it conflates.
    pub(super) fn count_required(&mut self, feed: &Feed, first: u64, end: u64) {
        if let Some(backlog) = self.backlog.as_mut().filter(|backlog| backlog.conflates)
            && first >= feed.base()
            && end == first + 1
            && let Some(run) = feed.run_of(first)
        {
            backlog.required_before_next += u64::from(run.is_required(first));
        }
    }

    /// Records that the frame before the outbox's position was written, in full or in part.
    fn record_last(&mut self, feed: &Feed) {
        if let Some(backlog) = &mut self.backlog {
            backlog.last = feed.id_before(self.next).or(backlog.last);
        }
    }

    /// Returns all pending bytes if they are exactly the end of the feed. Finds the bytes that
    /// [`pending_slices`](Self::pending_slices) would return, with less work.
    fn tail<'a>(&self, feed: &'a Feed, room: usize) -> Option<FeedTail<'a>> {
        if self.backlog.is_some()
            || self.replaying
            || self.next == feed.next
            || self.next < feed.base()
            || (!self.in_sync && feed.compressor().is_some())
        {
            return None;
        }
        let tail = FeedTail::find(feed, self.next, room)?;
        debug_assert!(tail.equals(&self.pending_slices(Some(feed), room)), "the general path decides");
        Some(tail)
    }

    /// Returns the next piece of the feed from `at` on and before `stop`, for a client that is in sync or not.
    pub(super) fn piece<'a>(
        &self,
        feed: Option<&'a Feed>,
        at: u64,
        stop: u64,
        in_sync: bool,
    ) -> Option<Piece<'a>> {
        let feed = feed.filter(|_| !self.replaying && at < stop)?;
        if self.backlog.as_ref().is_some_and(|backlog| backlog.dropped_newest > 0) {
            // A gap notice comes first.
            return None;
        }
        if self.backlog.as_ref().is_some_and(|backlog| backlog.conflates) {
            let (first, bytes, buffer) = feed.next_retained(at)?;
            let piece = Piece { bytes, buffer, first, end: first + 1, in_sync: false };
            return (first < stop).then_some(piece);
        }
        let run = feed.run_of(at)?;
        let mut end = run.next().min(stop);
        let mut in_sync = in_sync;
        if !in_sync && let Some(forms) = run.forms(at) {
            match forms.window_use {
                WindowUse::Restarts => in_sync = true,
                WindowUse::None => end = at + 1,
                WindowUse::Continues => {
                    let bytes = forms.standalone(feed.form.compression);
                    return Some(Piece { bytes, buffer: bytes, first: at, end: at + 1, in_sync });
                }
            }
        }
        let bytes = &run.bytes[run.start_of(at)..run.start_of(end)];
        Some(Piece { bytes, buffer: &run.bytes, first: at, end, in_sync })
    }

    /// Returns the next pending pieces, in order: at least one if any byte is pending, and as many frames as start
    /// within `budget` bytes.
    fn pending_slices<'a>(&'a self, feed: Option<&'a Feed>, budget: usize) -> SmallVec<[IoSlice<'a>; 8]> {
        let mut slices = SmallVec::new();
        let mut size = 0;
        let mut at = self.next;
        let mut in_sync = self.in_sync;
        let mut replies = None;
        if let Some(backlog) = &self.backlog {
            if !backlog.partial.is_empty() {
                size += backlog.partial.len();
                slices.push(IoSlice::new(&backlog.partial));
            }
            replies = Some(backlog.inserted.iter().peekable());
        }
        let end = feed.map_or(at, |feed| feed.next);
        while slices.len() < SLICES_MAX && (size < budget || slices.is_empty()) {
            let before = replies.as_mut().and_then(|r| r.peek()).map(|inserted| inserted.before);
            if before.is_none_or(|before| before > at)
                && let Some(piece) =
                    self.piece(feed, at, before.map_or(end, |before| before.min(end)), in_sync)
            {
                in_sync = piece.in_sync;
                let Piece { mut bytes, first, end: mut piece_end, .. } = piece;
                let room = budget.saturating_sub(size);
                if bytes.len() > room
                    && piece_end > first + 1
                    && let Some(run) = feed.and_then(|feed| feed.run_of(first))
                {
                    let start = run.start_of(first);
                    piece_end = run.index_at(start + room).max(first + 1);
                    bytes = &bytes[..run.start_of(piece_end) - start];
                }
                size += bytes.len();
                slices.push(IoSlice::new(bytes));
                at = piece_end;
                continue;
            }
            // All frames before the next reply are taken or conflated.
            let Some(reply) = replies.as_mut().and_then(Iterator::next) else { break };
            in_sync &= !reply.changes_window;
            size += reply.bytes.len();
            slices.push(IoSlice::new(&reply.bytes));
            at = at.max(reply.before.min(end));
        }
        slices
    }

    /// Advances past the first `written` pending bytes, and keeps the rest of a partly written frame.
    pub(super) fn advance(&mut self, feed: Option<&Feed>, mut written: usize, tally: &mut Tally) {
        if let Some(backlog) = &mut self.backlog {
            let partial = written.min(backlog.partial.len());
            backlog.partial.advance(partial);
            written -= partial;
        }
        let end = feed.map_or(self.next, |feed| feed.next);
        while written > 0 {
            let front = self.backlog.as_ref().and_then(|backlog| backlog.inserted.front());
            let before = front.map(|inserted| inserted.before);
            let piece = if before.is_some_and(|before| before <= self.next) {
                None
            } else {
                self.piece(feed, self.next, before.map_or(end, |before| before.min(end)), self.in_sync)
            };
            let Some((feed, Piece { bytes, buffer, first, end: piece_end, in_sync })) = feed.zip(piece)
            else {
                let Some(taken) = self.advance_inserted(written, end, tally) else {
                    debug_assert!(false, "more was written than was pending");
                    return;
                };
                written -= taken;
                continue;
            };
            self.count_conflated(first, tally);
            self.in_sync = in_sync;
            if written >= bytes.len() {
                written -= bytes.len();
                tally.events += piece_end - first;
                self.count_required(feed, first, piece_end);
                self.pass_frames(feed, first, piece_end);
                self.next = piece_end;
                self.record_last(feed);
                continue;
            }
            // The write ended within a frame: the frame counts as written, and its rest is kept. A slice of a buffer
            // with only this frame keeps nothing else alive. If the buffer is a run of many frames, the rest is small,
            // so it is copied.
            let run = feed.run_of(first).filter(|_| piece_end > first + 1);
            let (next, rest) = if let Some(run) = run {
                let start = run.start_of(first);
                let next = run.index_at(start + written);
                (next, written..run.start_of(next) - start)
            } else {
                (piece_end, written..bytes.len())
            };
            let rest = &bytes[rest];
            let rest = if buffer.len() == bytes.len() && piece_end == first + 1 {
                buffer.slice_ref(rest)
            } else {
                Bytes::copy_from_slice(rest)
            };
            if !rest.is_empty() {
                self.backlog.get_or_insert_default().partial = rest;
            }
            tally.events += next - first;
            self.count_required(feed, first, next);
            self.pass_frames(feed, first, next);
            self.next = next;
            self.record_last(feed);
            return;
        }
    }

    /// Advances into the first inserted bytes, by at most `written`. Their rest becomes the partly written frame.
    /// Returns the number of bytes taken, or `None` if nothing is inserted.
    fn advance_inserted(&mut self, written: usize, end: u64, tally: &mut Tally) -> Option<usize> {
        let inserted = self.backlog.as_mut().and_then(|backlog| backlog.pop())?;
        let Inserted { before, mut bytes, events, changes_window, last, .. } = inserted;
        let before = before.min(end);
        if before > self.next {
            self.count_conflated(before, tally);
            self.next = before;
        }
        self.in_sync &= !changes_window;
        let taken = written.min(bytes.len());
        bytes.advance(taken);
        tally.events += u64::from(events);
        if let Some(backlog) = &mut self.backlog {
            backlog.last = last.or(backlog.last);
            backlog.partial = bytes;
        }
        Some(taken)
    }
}

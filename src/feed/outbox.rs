//! Where a connection stands in its feed, and how it goes on: the bytes it is owed, in order.
//!
//! Imports `event` and `dialect`. Always:
//! - what was begun is finished: the rest of a frame is kept, though the feed lets the frame go;
//! - replies stand at the point of the feed where they happened and are never dropped;
//! - a connection that has everything keeps nothing: its backlog is gone;
//! - where frames look back, it gets those only while it has read all that they look back at;
//! - what the feed owed it is written, pending, dropped (and told in a gap) or conflated, and in the tally.

mod gap;
pub(super) mod saved;
mod tail;

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

use super::compressor::WindowUse;
use super::conflate::LagPolicy;
use super::interest::{Change, Revised, Selection};
use super::keys::{ConnIndex, Membership, MovedMember};
use super::{Compression, Fanout, Feed};
use crate::dialect::{Encoding, Missed};
use crate::event::{EventId, Since, Timestamp};

pub(crate) use tail::{Sink, Tail};

/// What a outbox asks of the world, when it finds that it has lost something.
pub(crate) trait ResumeLookup {
    /// What to resume with behind this event, if everything there is still there to be read again.
    fn resume_after(&self, id: EventId) -> Option<Since>;
    /// The time.
    fn now(&self) -> Timestamp;
}

/// Counters and resume lookup of the loop that an outbox belongs to.
pub(crate) struct OutboxContext<'a, L> {
    tally: &'a mut Tally,
    lookup: &'a L,
}

impl<'a, L: ResumeLookup> OutboxContext<'a, L> {
    pub(crate) fn new(tally: &'a mut Tally, lookup: &'a L) -> Self {
        Self { tally, lookup }
    }
}

/// How a flush ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Everything is written.
    Done,
    /// The socket takes no more; wait until it is writable.
    Blocked,
    /// The budget is used up; go on in the next turn.
    Budget,
    /// It fell off its feed, and wants to be closed for that.
    Lagged,
    /// The connection is broken.
    Failed,
}

/// What flushes did, to be counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes: u64,
    /// Events written, or at least begun.
    pub(crate) events: u64,
    pub(crate) writes: u64,
    pub(crate) blocked: u64,
    pub(crate) dropped: u64,
    /// Left out for a later event of the same key. Signed: what was passed over while it was already counted
    /// as dropped is taken off first and put on when it is passed.
    pub(crate) conflated: i64,
    pub(crate) gaps: u64,
}

/// Bytes of the connection's own, behind what stands before a place in its feed.
#[derive(Debug)]
struct Inserted {
    /// The index of the frame that it goes before.
    place: u64,
    bytes: Bytes,
    /// How many events it holds.
    events: u32,
    /// Who has read it has another window than the feed's.
    shifts: bool,
    /// The last of them.
    last: Option<EventId>,
    /// The bytes are kept elsewhere too: with the event, in the feed, or for other connections.
    is_shared: bool,
}

/// Largest frame of a replay that is copied for its connection, in bytes. What is copied goes with the connection; a shared
/// frame keeps an event's whole frame alive after the ring let go of it, and costs an allocation's count to hold.
const COPIED_BYTES_MAX: usize = 4096;

/// Bytes that are allocated at once for copies of a replay's frames.
const COPIES_BYTES: usize = 16 * 1024;

/// What a piece of a connection's own takes beside its bytes and its entry: the allocator's and the count's.
const PIECE_BYTES: usize = 48;

/// What a reply costs its connection beside its bytes while it waits: a pong of 2 bytes takes 60 times as much as it says.
pub(crate) const REPLY_COST: usize = size_of::<Inserted>() + PIECE_BYTES;

/// What a connection holds while it has not got everything.
#[derive(Debug, Default)]
struct Backlog {
    /// The rest of what was begun.
    partial: Bytes,
    inserted: VecDeque<Inserted>,
    inserted_bytes: usize,
    /// Of these, bytes that are kept elsewhere too.
    shared_bytes: usize,
    /// Where the next copies of a replay's frames go.
    copies: BytesMut,
    /// The tick at which the socket took bytes last, since it is full.
    moved: u32,
    /// Events in `direct`.
    inserted_events: u64,
    /// The last event that was begun or written.
    last: Option<EventId>,
    /// It lags in a feed that conflates: it gets the latest frames only.
    conflates: bool,
    /// Then: how many frames that are never left out were before its place, or counted as lost.
    required_before_next: u64,
    /// Its newest events were dropped since it was full; to be told when it takes bytes again.
    dropped_newest: u64,
    /// How many events those were: word of a gap may be among them.
    dropped_missed: Missed,
    /// The last of them.
    dropped_last: Option<EventId>,
    /// When it began to lag, in microseconds.
    since: i64,
}

/// A connection's place in its feed, if it has one, and what it is owed besides.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    membership: Option<Membership>,
    lag_policy: LagPolicy,
    /// A replay stands between it and its feed: no frame from there before that is over.
    replaying: bool,
    compression: Compression,
    /// It has read all that the feed's next frame looks back at, where frames do.
    in_sync: bool,
    /// The index of the next frame.
    next: u64,
    backlog: Option<Box<Backlog>>,
}

/// How far behind a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lag {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) milliseconds: u64,
}

/// The next piece of a feed that a outbox is owed.
struct Piece<'a> {
    bytes: &'a [u8],
    /// What the bytes are a part of.
    of: &'a Bytes,
    /// The index of its first frame; those between the outbox and it are left out.
    first: u64,
    /// The index behind its last.
    to: u64,
    /// Whether who has read it, or begun to, is in step with the feed.
    in_sync: bool,
}

/// The most pieces handed to one write call.
const SLICES_MAX: usize = 64;

impl Backlog {
    fn is_empty(&self) -> bool {
        self.has_written() && self.dropped_newest == 0
    }

    fn has_written(&self) -> bool {
        self.partial.is_empty() && self.inserted.is_empty()
    }

    /// The last event before a place among its own bytes: written, begun or waiting there.
    fn last_before(&self, behind: usize) -> Option<EventId> {
        self.inserted.range(..behind).rev().find_map(|inserted| inserted.last).or(self.last)
    }

    fn push(&mut self, inserted: Inserted) {
        self.inserted_bytes += inserted.bytes.len();
        if inserted.is_shared {
            self.shared_bytes += inserted.bytes.len();
        }
        self.inserted_events += u64::from(inserted.events);
        self.inserted.push_back(inserted);
    }

    fn pop(&mut self) -> Option<Inserted> {
        let inserted = self.inserted.pop_front()?;
        self.inserted_bytes -= inserted.bytes.len();
        if inserted.is_shared {
            self.shared_bytes -= inserted.bytes.len();
        }
        self.inserted_events -= u64::from(inserted.events);
        Some(inserted)
    }

    /// Bytes that it takes, but for those that are kept elsewhere too.
    fn own_bytes(&self) -> usize {
        let entries = self.inserted.capacity() * size_of::<Inserted>() + self.inserted.len() * PIECE_BYTES;
        let bytes = self.inserted_bytes - self.shared_bytes + self.copies.capacity();
        let partial = if self.partial.is_unique() { self.partial.len() } else { 0 };
        size_of::<Self>() + entries + bytes + partial
    }

    /// Bytes that wait here and are kept elsewhere too.
    fn shared_bytes(&self) -> usize {
        self.shared_bytes + if self.partial.is_unique() { 0 } else { self.partial.len() }
    }

    /// A copy of a frame that is small, beside the copies before it; a large one as it is. Whether it is shared.
    fn copied(&mut self, frame: Bytes) -> (Bytes, bool) {
        if frame.len() > COPIED_BYTES_MAX {
            let is_shared = !frame.is_unique();
            return (frame, is_shared);
        }
        if self.copies.capacity() < frame.len() {
            self.copies = BytesMut::with_capacity(COPIES_BYTES);
        }
        self.copies.extend_from_slice(&frame);
        (self.copies.split().freeze(), false)
    }
}

impl Outbox {
    /// What it holds; from here on at the least that it does not have everything.
    fn backlog(&mut self, feed: Option<&Feed>) -> &mut Backlog {
        let next = self.next;
        self.backlog.get_or_insert_with(|| {
            let last = feed.and_then(|feed| feed.id_before(next));
            Box::new(Backlog { last, ..Backlog::default() })
        })
    }

    #[cfg(test)]
    pub(crate) fn feed(&self) -> Option<u32> {
        self.membership.map(Membership::feed)
    }

    /// Sets what is lost when it falls off its feed.
    pub(crate) fn set_lag_policy(&mut self, lag_policy: LagPolicy) {
        self.lag_policy = lag_policy;
    }

    /// Sets how its bytes are compressed, from here on. It must have no feed.
    pub(crate) fn set_compression(&mut self, compression: Compression) {
        self.compression = compression;
    }

    /// How its bytes are compressed.
    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// Holds back what its feed has, or no longer.
    pub(crate) fn set_replaying(&mut self, replaying: bool) {
        self.replaying = replaying;
    }

    /// Bytes of its own that wait.
    pub(crate) fn inserted_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |b| b.inserted_bytes)
    }

    /// Bytes that it takes beside its own struct, and bytes that wait here and are kept elsewhere too.
    pub(crate) fn held_bytes(&self) -> (usize, usize) {
        self.backlog.as_ref().map_or((0, 0), |backlog| (backlog.own_bytes(), backlog.shared_bytes()))
    }

    /// What waits here and is kept elsewhere too: where each piece ends in memory, and its length. The rests of one frame
    /// end at the same place, wherever they begin.
    pub(crate) fn shared_pieces(&self) -> impl Iterator<Item = (usize, usize)> {
        let end_of = |bytes: &Bytes| (bytes.as_ptr() as usize + bytes.len(), bytes.len());
        self.backlog.iter().flat_map(move |backlog| {
            let inserted =
                backlog.inserted.iter().take(if backlog.shared_bytes > 0 { usize::MAX } else { 0 });
            let inserted = inserted.filter(|inserted| inserted.is_shared).map(|inserted| &inserted.bytes);
            let partial = Some(&backlog.partial).filter(|partial| !partial.is_unique());
            inserted.chain(partial).map(end_of)
        })
    }

    /// Notes that the socket is full, at this tick; `moved`: it has just taken bytes.
    pub(crate) fn record_full(&mut self, tick: u64, moved: bool) {
        if let Some(backlog) = &mut self.backlog
            && (moved || backlog.moved == 0)
        {
            backlog.moved = (tick as u32).max(1);
        }
    }

    /// Ticks since the socket took bytes last, where it was full then.
    pub(crate) fn full_for(&self, tick: u64) -> u64 {
        let moved = self.backlog.as_ref().map_or(0, |backlog| backlog.moved);
        if moved == 0 { 0 } else { u64::from((tick as u32).wrapping_sub(moved)) }
    }

    /// Events it is owed and has not begun.
    pub(crate) fn pending(&self, fanout: &Fanout) -> u64 {
        let ahead = self.membership.map_or(0, |m| fanout.feed(m.feed()).next - self.next);
        ahead + self.backlog.as_ref().map_or(0, |b| b.inserted_events)
    }

    /// The newest event of its feed.
    pub(crate) fn newest(&self, fanout: &Fanout) -> Option<EventId> {
        self.membership.and_then(|membership| fanout.feed(membership.feed()).newest_appended())
    }

    /// How far behind it is; bytes are those of its own and those its feed still has for it.
    pub(crate) fn lag(&self, fanout: &Fanout, now: Timestamp) -> Lag {
        let Some(backlog) = &self.backlog else { return Lag::default() };
        let ahead = self.membership.map_or(0, |m| fanout.feed(m.feed()).bytes_from(self.next));
        Lag {
            events: self.pending(fanout),
            bytes: (backlog.partial.len() + backlog.inserted_bytes) as u64 + ahead,
            milliseconds: if backlog.since == 0 { 0 } else { (now.0 - backlog.since).max(0) as u64 / 1000 },
        }
    }

    /// Whether it is at the feed's end and owes nothing.
    #[cfg(test)]
    pub(crate) fn is_done(&self, fanout: &Fanout) -> bool {
        self.backlog.is_none() && self.membership.is_none_or(|m| fanout.feed(m.feed()).next == self.next)
    }

    /// Queues bytes behind everything that is appended so far.
    pub(crate) fn send(
        &mut self,
        fanout: &mut Fanout,
        bytes: Bytes,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        if bytes.is_empty() {
            return;
        }
        if let Some(membership) = self.membership {
            fanout.seal(membership.feed());
        }
        let feed = self.membership.map(|m| fanout.feed(m.feed()));
        let live = feed.filter(|_| !self.replaying);
        if let Some(feed) = live {
            // An answer may say that all up to here came before: then what did not come is told before.
            self.close_newest_gap(feed, cx);
        }
        let inserted = self.own(live.map_or(self.next, |feed| feed.next), bytes);
        self.backlog(feed).push(inserted);
    }

    /// Queues words of a replay, as [`Self::send_replayed`] does its events.
    pub(crate) fn send_in_replay(&mut self, bytes: Bytes, last: Option<EventId>) {
        let inserted = Inserted { last, ..self.own(self.next, bytes) };
        self.backlog(None).push(inserted);
    }

    /// Bytes of its own, as they stand in its stream.
    fn own(&self, place: u64, bytes: Bytes) -> Inserted {
        let bytes = self.compression.own(bytes);
        let (shifts, is_shared) = (self.compression.shifts(&bytes), !bytes.is_unique());
        Inserted { place, shifts, bytes, events: 0, last: None, is_shared }
    }

    /// Queues an event of a replay: before everything in its feed, behind all else.
    pub(crate) fn send_replayed(&mut self, fanout: &mut Fanout, frame: Bytes, id: Option<EventId>) {
        fanout.totals.matched += 1;
        // It may be compressed by itself, and then moves any window.
        let shifts = self.compression.looks_back();
        let place = self.next;
        let backlog = self.backlog(None);
        let (bytes, is_shared) = backlog.copied(frame);
        backlog.push(Inserted { place, bytes, events: 1, shifts, last: id, is_shared });
    }

    /// Leaves its feed; what it was still owed from there becomes its own. Another member may have taken its
    /// place there: that one's conn is the answer, to be told by [`Self::moved`].
    pub(crate) fn leave(
        &mut self,
        fanout: &mut Fanout,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) -> Option<MovedMember> {
        let membership = self.membership?;
        self.detach_all(membership, fanout, cx);
        self.membership = None;
        self.next = 0;
        self.drop_empty_backlog();
        fanout.leave(membership)
    }

    /// Makes its own what its feed owes it, so that it stands at the feed's end.
    pub(super) fn detach_all(
        &mut self,
        membership: Membership,
        fanout: &mut Fanout,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        // It may not be there when its time comes.
        fanout.release_samples_of(membership.feed());
        fanout.seal(membership.feed());
        let feed = fanout.feed(membership.feed());
        self.skip_trimmed(feed, cx);
        self.close_newest_gap(feed, cx);
        if self.next < feed.next || self.backlog.is_some() {
            self.detach(feed, u64::MAX, usize::MAX, cx.tally);
        }
    }

    /// Changes what it gets from here on. What it was owed before comes first, whether that is still wanted or not.
    /// Another member may have moved, as in [`leave`](Self::leave).
    pub(crate) fn change(
        &mut self,
        fanout: &mut Fanout,
        encoding: Encoding,
        changes: &[Change],
        conn: ConnIndex,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) -> Option<MovedMember> {
        if let Some(membership) = self.membership {
            self.detach_all(membership, fanout, cx);
        }
        match fanout.revise(self.membership, encoding, self.compression, changes) {
            Revised::Same => {
                self.drop_empty_backlog();
                self.queue_pending_first();
                None
            }
            Revised::Elsewhere(classes) => {
                let moved = self.leave(fanout, cx);
                if !classes.is_empty() {
                    let membership = fanout.join_classes(encoding, self.compression, classes, conn);
                    self.start_at_end(fanout, membership);
                }
                moved
            }
        }
    }

    /// Drops all that it is owed, but for the rest of what was begun, and for replies before the first event that it
    /// does not get: one behind that may say that all before it came.
    pub(crate) fn abandon(&mut self, fanout: &mut Fanout, tally: &mut Tally) -> Option<MovedMember> {
        if let Some(membership) = self.membership {
            // What was appended and not sealed yet is owed too, and so dropped.
            fanout.seal(membership.feed());
        }
        tally.dropped += self.pending(fanout);
        let hole = self.membership.filter(|m| !self.replaying && fanout.feed(m.feed()).next > self.next);
        let hole = hole.map_or(u64::MAX, |_| self.next);
        if let Some(backlog) = &mut self.backlog {
            let required =
                backlog.inserted.iter().take_while(|inserted| inserted.events == 0 && inserted.place <= hole);
            backlog.inserted.truncate(required.count());
            backlog.inserted.shrink_to_fit();
            let sizes = backlog.inserted.iter().map(|inserted| (inserted.bytes.len(), inserted.is_shared));
            (backlog.inserted_bytes, backlog.shared_bytes) = sizes
                .fold((0, 0), |(all, shared), (len, is_shared)| {
                    (all + len, shared + if is_shared { len } else { 0 })
                });
            backlog.inserted_events = 0;
            (backlog.dropped_newest, backlog.dropped_missed) = (0, Missed::default());
            for inserted in &mut backlog.inserted {
                inserted.place = 0;
            }
        }
        self.next = 0;
        let membership = self.membership.take()?;
        fanout.leave(membership)
    }

    /// Whether it fell off its feed and is to be closed for that.
    pub(crate) fn should_disconnect(&self, fanout: &Fanout) -> bool {
        // Behind a replay it gets nothing of its feed yet, so it does not lag there.
        self.lag_policy == LagPolicy::Disconnect
            && !self.replaying
            && self.membership.is_some_and(|m| self.next < fanout.feed(m.feed()).base)
    }

    /// Another member left, and this one stands in its place now.
    pub(crate) fn set_member_index(&mut self, index: u32) {
        if let Some(membership) = &mut self.membership {
            membership.index = index;
        }
    }

    /// Joins the feed for these wishes, from now on. It must have left the one before.
    pub(crate) fn join(
        &mut self,
        fanout: &mut Fanout,
        encoding: Encoding,
        selections: &[Selection],
        conn: ConnIndex,
    ) {
        debug_assert!(self.membership.is_none(), "a connection has one feed");
        let membership = fanout.join(encoding, self.compression, selections, conn);
        self.start_at_end(fanout, membership);
    }

    /// Stands at the end of a feed that it is a member of now.
    fn start_at_end(&mut self, fanout: &Fanout, membership: Membership) {
        self.in_sync = false;
        self.next = fanout.feed(membership.feed()).next;
        self.membership = Some(membership);
        self.queue_pending_first();
    }

    /// All that it is owed so far goes before the next frame of its feed.
    fn queue_pending_first(&mut self) {
        if let Some(backlog) = &mut self.backlog {
            // What it is owed was owed before.
            backlog.conflates = false;
            for inserted in &mut backlog.inserted {
                inserted.place = self.next;
            }
        }
    }

    /// From here on it gets the latest frames only, until it has everything. False where some of what it has
    /// not got is gone already.
    fn start_conflating(&mut self, feed: &Feed) -> bool {
        let is_kept = self.next >= feed.base;
        let next = self.next.max(feed.base);
        let backlog = self.backlog.get_or_insert_default();
        if !backlog.conflates {
            backlog.conflates = true;
            backlog.required_before_next = feed.required_before(next);
            return is_kept;
        }
        true
    }

    /// Counts the frames between its place and `first` as left out.
    fn count_conflated(&mut self, first: u64, tally: &mut Tally) {
        tally.conflated += (first - self.next) as i64;
    }

    /// Counts the frames that are never left out and that it passes.
    fn count_required(&mut self, feed: &Feed, first: u64, to: u64) {
        if let Some(backlog) = self.backlog.as_mut().filter(|backlog| backlog.conflates)
            && first >= feed.base
            && to == first + 1
        {
            backlog.required_before_next += u64::from(feed.run_of(first).is_required(first));
        }
    }

    /// The frame before its place was written, or begun.
    fn record_last(&mut self, feed: &Feed) {
        if let Some(backlog) = &mut self.backlog {
            backlog.last = feed.id_before(self.next).or(backlog.last);
        }
    }

    fn drop_empty_backlog(&mut self) {
        if self.backlog.as_ref().is_some_and(|b| b.is_empty()) {
            self.backlog = None;
        }
    }

    /// Writes what is owed, up to `budget` bytes.
    pub(crate) fn flush<W: Sink>(
        &mut self,
        fanout: &Fanout,
        out: &mut W,
        budget: usize,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) -> Flushed {
        if self.should_disconnect(fanout) {
            return Flushed::Lagged;
        }
        let feed = self.membership.map(|m| fanout.feed(m.feed()));
        let mut left = budget;
        loop {
            if let Some(feed) = feed.filter(|_| !self.replaying) {
                self.skip_trimmed(feed, cx);
            }
            self.insert_due_newest_gap(feed, cx);
            let tail = self.tail(feed, left);
            let (wanted, written) = if let Some(tail) = &tail {
                cx.tally.writes += 1;
                (tail.len, out.write_tail(tail))
            } else {
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
                cx.tally.writes += 1;
                let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
                let written = match slices.as_slice() {
                    [one] => out.write(one),
                    all => out.write_vectored(all),
                };
                (wanted, written)
            };
            let written = match written {
                Ok(0) => return Flushed::Failed,
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return Flushed::Failed,
            };
            cx.tally.bytes += written as u64;
            if let Some(feed) = feed.filter(|_| tail.is_some() && written == wanted) {
                cx.tally.events += feed.next - self.next;
                self.next = feed.next;
                self.request_restart(Some(feed));
                return Flushed::Done;
            }
            self.advance(feed, written, cx.tally);
            left = left.saturating_sub(written);
            if written < wanted {
                // A short write says that the socket is full (epoll(7)): no need to ask again.
                cx.tally.blocked += 1;
                let backlog = self.backlog(feed);
                if backlog.since == 0 {
                    backlog.since = cx.lookup.now().0;
                }
                // Behind a replay it has not been told yet what its feed let go of meanwhile, and this would count it as told.
                if let Some(feed) = feed.filter(|feed| feed.is_conflated() && !self.replaying) {
                    self.start_conflating(feed);
                }
                self.request_restart(feed);
                return Flushed::Blocked;
            }
        }
    }

    /// Asks its feed for a frame from which it can read on, where it needs one.
    fn request_restart(&self, feed: Option<&Feed>) {
        if !self.in_sync
            && let Some(shared) = feed.and_then(|feed| feed.shared.as_ref())
        {
            shared.request_restart();
        }
    }

    /// The next piece of the feed from `at`, none at `stop` or behind it, for a client that is in step or not.
    fn piece<'a>(&self, feed: Option<&'a Feed>, at: u64, stop: u64, in_sync: bool) -> Option<Piece<'a>> {
        let feed = feed.filter(|_| !self.replaying && at < stop)?;
        if self.backlog.as_ref().is_some_and(|backlog| backlog.dropped_newest > 0) {
            // A gap stands before it.
            return None;
        }
        if self.backlog.as_ref().is_some_and(|backlog| backlog.conflates) {
            let (first, bytes, of) = feed.next_retained(at)?;
            return (first < stop).then_some(Piece { bytes, of, first, to: first + 1, in_sync: false });
        }
        let run = feed.run_of(at);
        let mut to = run.next().min(stop);
        let mut in_sync = in_sync;
        if !in_sync && let Some(forms) = run.forms(at) {
            match forms.step {
                WindowUse::Restarts => in_sync = true,
                WindowUse::None => to = at + 1,
                WindowUse::Continues => {
                    let bytes = forms.alone(feed.compression);
                    return Some(Piece { bytes, of: bytes, first: at, to: at + 1, in_sync });
                }
            }
        }
        let bytes = &run.bytes[run.start_of(at)..run.start_of(to)];
        Some(Piece { bytes, of: &run.bytes, first: at, to, in_sync })
    }

    /// The next pieces of what is owed, in order: at least one, while anything is, and as many frames as `budget` bytes
    /// begin.
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
            let place = replies.as_mut().and_then(|r| r.peek()).map(|inserted| inserted.place);
            if place.is_none_or(|place| place > at)
                && let Some(piece) = self.piece(feed, at, place.map_or(end, |place| place.min(end)), in_sync)
            {
                in_sync = piece.in_sync;
                let Piece { mut bytes, first, mut to, .. } = piece;
                let room = budget.saturating_sub(size);
                if let Some(feed) = feed.filter(|_| bytes.len() > room && to > first + 1) {
                    let run = feed.run_of(first);
                    let start = run.start_of(first);
                    to = run.index_at(start + room).max(first + 1);
                    bytes = &bytes[..run.start_of(to) - start];
                }
                size += bytes.len();
                slices.push(IoSlice::new(bytes));
                at = to;
                continue;
            }
            // All frames before the next reply are written, or left out.
            let Some(reply) = replies.as_mut().and_then(Iterator::next) else { break };
            in_sync &= !reply.shifts;
            size += reply.bytes.len();
            slices.push(IoSlice::new(&reply.bytes));
            at = at.max(reply.place.min(end));
        }
        slices
    }

    /// Takes note that the first `written` bytes of what is owed are written.
    fn advance(&mut self, feed: Option<&Feed>, mut written: usize, tally: &mut Tally) {
        if let Some(backlog) = &mut self.backlog {
            let partial = written.min(backlog.partial.len());
            backlog.partial.advance(partial);
            written -= partial;
        }
        let end = feed.map_or(self.next, |feed| feed.next);
        while written > 0 {
            let place = self.backlog.as_ref().and_then(|b| b.inserted.front()).map(|inserted| inserted.place);
            let piece = if place.is_some_and(|place| place <= self.next) {
                None
            } else {
                self.piece(feed, self.next, place.map_or(end, |place| place.min(end)), self.in_sync)
            };
            let Some((feed, Piece { bytes, of, first, to, in_sync })) = feed.zip(piece) else {
                let Some(Inserted { place, mut bytes, events, shifts, last, .. }) =
                    self.backlog.as_mut().and_then(|b| b.pop())
                else {
                    debug_assert!(false, "more was written than was pending_slices");
                    return;
                };
                let place = place.min(end);
                if place > self.next {
                    self.count_conflated(place, tally);
                    self.next = place;
                }
                self.in_sync &= !shifts;
                let taken = written.min(bytes.len());
                bytes.advance(taken);
                written -= taken;
                tally.events += u64::from(events);
                if let Some(backlog) = &mut self.backlog {
                    backlog.last = last.or(backlog.last);
                    backlog.partial = bytes;
                }
                continue;
            };
            self.count_conflated(first, tally);
            self.in_sync = in_sync;
            if written >= bytes.len() {
                written -= bytes.len();
                tally.events += to - first;
                self.count_required(feed, first, to);
                self.next = to;
                self.record_last(feed);
                continue;
            }
            // It ends within a frame: the frame counts as begun, and its rest is kept. A part keeps the whole alive,
            // which is well where the whole is this one frame; of a run of many the rest is small.
            let (next, rest) = if to == first + 1 {
                (to, written..bytes.len())
            } else {
                let run = feed.run_of(first);
                let start = run.start_of(first);
                let next = run.index_at(start + written);
                (next, written..run.start_of(next) - start)
            };
            let rest = &bytes[rest];
            let rest = if of.len() == bytes.len() && to == first + 1 {
                of.slice_ref(rest)
            } else {
                Bytes::copy_from_slice(rest)
            };
            if !rest.is_empty() {
                self.backlog.get_or_insert_default().partial = rest;
            }
            tally.events += next - first;
            self.count_required(feed, first, next);
            self.next = next;
            self.record_last(feed);
            return;
        }
    }
}

//! Where a connection stands in its feed, and how it goes on: the bytes it is owed, in order.
//!
//! Imports `event` and `dialect`. Always:
//! - what was begun is finished: the rest of a frame is kept, though the feed lets the frame go;
//! - replies stand at the point of the feed where they happened and are never dropped;
//! - a connection that has everything keeps nothing: its backlog is gone.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::fanout::Membership;
use super::{Fanout, Feed, Slot};
use crate::dialect::{Encoding, GapNotice};
use crate::event::{EventId, Timestamp};
use crate::filter::Filter;

/// What a cursor asks of the world, when it finds that it has lost something.
pub(crate) trait Ring {
    /// Whether everything behind this event is still there to be read again.
    fn keeps_behind(&self, id: EventId) -> bool;
    /// The time.
    fn now(&self) -> Timestamp;
}

/// How a flush ended.
#[derive(Debug)]
pub(crate) enum Flushed {
    /// Everything is written.
    Done,
    /// The socket takes no more; wait until it is writable.
    Blocked,
    /// The budget is used up; go on in the next turn.
    Budget,
    /// The connection is broken.
    Failed,
}

/// What flushes did, to be counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes: u64,
    pub(crate) events: u64,
    pub(crate) writes: u64,
    pub(crate) blocked: u64,
    pub(crate) dropped: u64,
    pub(crate) gaps: u64,
}

/// What a connection holds while it has not got everything.
#[derive(Debug, Default)]
struct Backlog {
    /// The rest of what was begun.
    partial: Bytes,
    /// Replies, each with the index of the frame that it goes before.
    direct: VecDeque<(u64, Bytes)>,
    direct_bytes: usize,
    /// The last event that was begun or written.
    last: Option<EventId>,
}

/// A connection's place in its feed, if it has one, and what it is owed besides.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    membership: Option<Membership>,
    /// The index of the next frame.
    next: u64,
    backlog: Option<Box<Backlog>>,
}

/// The most pieces handed to one write call.
const SLICES_MAX: usize = 64;

impl Cursor {
    #[cfg(test)]
    pub(crate) fn feed(&self) -> Option<u32> {
        self.membership.map(|m| m.feed)
    }

    /// Bytes of replies that wait.
    pub(crate) fn direct_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |b| b.direct_bytes)
    }

    /// Whether it is at the feed's end and owes nothing.
    #[cfg(test)]
    pub(crate) fn is_done(&self, fanout: &Fanout) -> bool {
        self.backlog.is_none() && self.membership.is_none_or(|m| fanout.feed(m.feed).next == self.next)
    }

    /// Queues bytes behind everything that is appended so far.
    pub(crate) fn send(&mut self, fanout: &mut Fanout, bytes: Bytes) {
        let at = self.membership.map_or(0, |m| {
            fanout.seal(m.feed);
            fanout.feed(m.feed).next
        });
        self.push(at, bytes);
    }

    fn push(&mut self, at: u64, bytes: Bytes) {
        if !bytes.is_empty() {
            let backlog = self.backlog.get_or_insert_default();
            backlog.direct_bytes += bytes.len();
            backlog.direct.push_back((at, bytes));
        }
    }

    /// Leaves its feed; what it was still owed from there becomes its own. Another member may have taken its
    /// place there: that one's slot is the answer, to be told by [`Self::moved`].
    pub(crate) fn leave(
        &mut self,
        fanout: &mut Fanout,
        tally: &mut Tally,
        ring: &impl Ring,
    ) -> Option<(Slot, u32)> {
        let membership = self.membership.take()?;
        fanout.seal(membership.feed);
        let feed = fanout.feed(membership.feed);
        self.skip_what_is_gone(feed, tally, ring);
        if self.next < feed.next || self.backlog.is_some() {
            let mut backlog = self.backlog.take().unwrap_or_default();
            let replies = std::mem::take(&mut backlog.direct);
            backlog.direct_bytes = 0;
            self.backlog = Some(backlog);
            let mut replies = replies.into_iter().peekable();
            while self.next < feed.next || replies.peek().is_some() {
                while let Some((_, reply)) = replies.next_if(|(at, _)| *at <= self.next) {
                    self.push(0, reply);
                }
                if self.next < feed.next {
                    let run = feed.run_of(self.next);
                    let to = replies.peek().map_or(run.next(), |(at, _)| run.next().min(*at));
                    self.push(0, run.bytes.slice(run.start_of(self.next)..run.start_of(to)));
                    tally.events += to - self.next;
                    self.next = to;
                }
            }
        }
        self.next = 0;
        self.drop_empty_backlog();
        fanout.leave(membership).map(|slot| (slot, membership.place))
    }

    /// Another member left, and this one stands in its place now.
    pub(crate) fn moved(&mut self, place: u32) {
        if let Some(membership) = &mut self.membership {
            membership.place = place;
        }
    }

    /// Joins the feed for these filters, from now on. It must have left the one before.
    pub(crate) fn join(&mut self, fanout: &mut Fanout, encoding: Encoding, filters: &[Filter], slot: Slot) {
        debug_assert!(self.membership.is_none(), "a connection has one feed");
        let membership = fanout.join(encoding, filters, slot);
        self.next = fanout.feed(membership.feed).next;
        self.membership = Some(membership);
    }

    /// Notes the gap and goes on at the oldest frame kept, where the feed has gone on without it.
    fn skip_what_is_gone(&mut self, feed: &Feed, tally: &mut Tally, ring: &impl Ring) {
        if self.next >= feed.base {
            return;
        }
        let missed = feed.base - self.next;
        let backlog = self.backlog.get_or_insert_default();
        let from = backlog.last;
        let gap = GapNotice {
            missed: Some(missed),
            from,
            to: feed.trimmed,
            recoverable: from.is_some_and(|id| ring.keeps_behind(id)),
            at: ring.now(),
        };
        let bytes = feed.encoding.gap(&gap);
        backlog.last = feed.trimmed;
        backlog.direct_bytes += bytes.len();
        let behind = backlog.direct.partition_point(|(at, _)| *at <= feed.base);
        backlog.direct.insert(behind, (feed.base, bytes));
        self.next = feed.base;
        tally.dropped += missed;
        tally.gaps += 1;
    }

    fn drop_empty_backlog(&mut self) {
        if self.backlog.as_ref().is_some_and(|b| b.partial.is_empty() && b.direct.is_empty()) {
            self.backlog = None;
        }
    }

    /// Writes what is owed, up to `budget` bytes.
    pub(crate) fn flush<W: Write>(
        &mut self,
        fanout: &Fanout,
        out: &mut W,
        budget: usize,
        tally: &mut Tally,
        ring: &impl Ring,
    ) -> Flushed {
        let feed = self.membership.map(|m| fanout.feed(m.feed));
        let mut left = budget;
        loop {
            if let Some(feed) = feed {
                self.skip_what_is_gone(feed, tally, ring);
            }
            let (wanted, written) = {
                let slices = self.owed(feed, left);
                if slices.is_empty() {
                    drop(slices);
                    self.drop_empty_backlog();
                    return Flushed::Done;
                }
                if left == 0 {
                    return Flushed::Budget;
                }
                tally.writes += 1;
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
            tally.bytes += written as u64;
            self.advance(feed, written, tally);
            left = left.saturating_sub(written);
            if written < wanted {
                // A short write says that the socket is full (epoll(7)): no need to ask again.
                tally.blocked += 1;
                let last = feed.and_then(|feed| feed.id_of(self.next.wrapping_sub(1)));
                let backlog = self.backlog.get_or_insert_default();
                backlog.last = last.or(backlog.last);
                return Flushed::Blocked;
            }
        }
    }

    /// The next pieces of what is owed, in order: at least one, while anything is, and about `budget` bytes.
    fn owed<'a>(&'a self, feed: Option<&'a Feed>, budget: usize) -> SmallVec<[IoSlice<'a>; 8]> {
        let mut slices = SmallVec::new();
        let mut size = 0;
        let mut at = self.next;
        let mut replies = None;
        if let Some(backlog) = &self.backlog {
            if !backlog.partial.is_empty() {
                size += backlog.partial.len();
                slices.push(IoSlice::new(&backlog.partial));
            }
            replies = Some(backlog.direct.iter().peekable());
        }
        let end = feed.map_or(at, |feed| feed.next);
        while slices.len() < SLICES_MAX && (size < budget || slices.is_empty()) {
            let reply = replies.as_mut().and_then(|r| r.next_if(|(place, _)| *place <= at || at == end));
            if let Some((_, reply)) = reply {
                size += reply.len();
                slices.push(IoSlice::new(reply));
            } else if let Some(feed) = feed.filter(|_| at < end) {
                let run = feed.run_of(at);
                let to = replies
                    .as_mut()
                    .and_then(|r| r.peek())
                    .map_or(run.next(), |(place, _)| run.next().min(*place));
                let bytes = &run.bytes[run.start_of(at)..run.start_of(to)];
                size += bytes.len();
                slices.push(IoSlice::new(bytes));
                at = to;
            } else {
                break;
            }
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
            let reply = self.backlog.as_mut().and_then(|backlog| {
                let due =
                    backlog.direct.front().is_some_and(|(place, _)| *place <= self.next || self.next == end);
                let (_, reply) = if due { backlog.direct.pop_front()? } else { return None };
                backlog.direct_bytes -= reply.len();
                Some(reply)
            });
            if let Some(mut reply) = reply {
                let taken = written.min(reply.len());
                reply.advance(taken);
                written -= taken;
                if !reply.is_empty() {
                    self.backlog.get_or_insert_default().partial = reply;
                }
                continue;
            }
            let Some(feed) = feed.filter(|_| self.next < end) else {
                debug_assert!(false, "more was written than was owed");
                return;
            };
            let run = feed.run_of(self.next);
            let to = self
                .backlog
                .as_ref()
                .and_then(|b| b.direct.front())
                .map_or(run.next(), |(place, _)| run.next().min(*place));
            let start = run.start_of(self.next);
            let whole = run.start_of(to) - start;
            if written >= whole {
                written -= whole;
                tally.events += to - self.next;
                self.next = to;
                continue;
            }
            // It ends within a frame: the frame counts as begun, and its rest is kept.
            let next = run.index_at(start + written);
            let end_of_frame = run.start_of(next);
            let rest = start + written..end_of_frame;
            if !rest.is_empty() {
                // A slice would keep the whole run alive; of a run of many frames the rest is small.
                let rest = if run.len() == 1 {
                    run.bytes.slice(rest)
                } else {
                    Bytes::copy_from_slice(&run.bytes[rest])
                };
                self.backlog.get_or_insert_default().partial = rest;
            }
            tally.events += next - self.next;
            self.next = next;
            return;
        }
    }
}

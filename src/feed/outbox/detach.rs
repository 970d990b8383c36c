//! Detaches frames of a feed: they become bytes of the connection's own, so that the feed may drop them, or the connection may
//! leave.

use bytes::Bytes;

use super::inserted::{Inserted, InsertedQueue};
use super::pending::PendingPiece;
use super::{Outbox, OutboxContext, ResumeLookup, Tally};
use crate::feed::fanout::Fanout;
use crate::feed::feed::Feed;
use crate::feed::keys::Membership;

impl Outbox {
    /// Detaches all pending frames, so that the outbox is at the feed's end.
    pub(super) fn detach_all(
        &mut self,
        membership: Membership,
        fanout: &mut Fanout,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        // Appends waiting samples now: the connection may leave before they are due.
        fanout.release_samples_of(membership.feed());
        fanout.seal(membership.feed());
        let feed = fanout.feed(membership.feed());
        self.skip_trimmed(feed, cx);
        self.close_newest_gap(feed, cx);
        if self.next < feed.next || self.backlog.is_some() {
            self.detach(feed, u64::MAX, usize::MAX, cx.tally);
        }
    }

    /// Detaches pending frames, up to `max_events` and `max_bytes`, with the replies at their positions. The frames that do
    /// not fit stay pending, with the replies after them.
    pub(super) fn detach(&mut self, feed: &Feed, mut max_events: u64, max_bytes: usize, tally: &mut Tally) {
        self.backlog.get_or_insert_default();
        let mut detached = InsertedQueue::default();
        loop {
            let inserted = self.backlog.as_ref().map(|backlog| &backlog.inserted);
            let piece = match self.pieces_among(inserted, Some(feed)).next() {
                Some(PendingPiece::Inserted(_)) => {
                    let Some(reply) = self.backlog.as_mut().and_then(|backlog| backlog.inserted.pop()) else {
                        break;
                    };
                    self.in_sync &= !reply.changes_window;
                    reply
                }
                Some(PendingPiece::Frames(frames)) => {
                    let has_room = detached.sums().bytes < max_bytes;
                    let limit = self.next.saturating_add(max_events);
                    let Some(frames) = frames.before(limit).filter(|_| has_room) else { break };
                    // A slice keeps its whole block alive. That wastes memory only if conflation takes single frames of it.
                    let bytes = if self.conflates() {
                        Bytes::copy_from_slice(frames.bytes)
                    } else {
                        frames.buffer.slice_ref(frames.bytes)
                    };
                    max_events -= frames.count().min(max_events);
                    self.move_past(&frames, feed, tally);
                    let (events, last) = (frames.count() as u32, feed.id_of(frames.end - 1));
                    let is_shared = !bytes.is_unique();
                    Inserted { before: 0, bytes, events, changes_window: false, last, is_shared }
                }
                Some(PendingPiece::Partial(_) | PendingPiece::NewestGap) | None => break,
            };
            detached.push(Inserted { before: 0, changes_window: false, ..piece });
        }
        let backlog = self.backlog.get_or_insert_default();
        detached.append(std::mem::take(&mut backlog.inserted));
        backlog.inserted = detached;
    }
}

//! Accounts for a connection's losses in its feed, and inserts the gap notices that report them.
//!
//! Invariant: if events before a reply were not delivered, a gap notice comes before that reply. A client may take a
//! reply as confirmation of everything before it.

use super::inserted::Inserted;
use super::pending::PendingPiece;
use super::{Outbox, OutboxContext, OutboxState, ResumeLookup};
use crate::dialect::{Encoding, GapNotice, Missed};
use crate::event::{EventId, Since};
use crate::feed::conflate::LagPolicy;
use crate::feed::fanout::Fanout;
use crate::feed::feed::Feed;

impl Outbox {
    /// Returns whether the feed has trimmed pending frames.
    pub(crate) fn has_lost_frames(&self, fanout: &Fanout) -> bool {
        self.membership.is_some_and(|m| self.next < fanout.feed(m.feed()).base())
    }

    /// Returns whether the connection has lost frames and is to be closed for that.
    pub(crate) fn should_disconnect(&self, fanout: &Fanout) -> bool {
        // During a replay the connection is sent no frames of its feed, so it does not lag there.
        self.lag_policy == LagPolicy::Disconnect && !self.replaying && self.has_lost_frames(fanout)
    }

    /// Moves on to the oldest retained frame if the feed has trimmed pending ones, and inserts a gap notice.
    pub(super) fn skip_trimmed(&mut self, feed: &Feed, cx: &mut OutboxContext<'_, impl ResumeLookup>) {
        if self.next >= feed.base() {
            return;
        }
        if self.lag_policy == LagPolicy::DropNewest {
            // The frames that were waiting are detached already, and every retained frame is newer than the lost ones.
            return self.drop_newest(feed, cx);
        }
        if feed.conflates() {
            return self.skip_trimmed_conflated(feed, cx);
        }
        self.in_sync = false;
        self.forget_place();
        let stood = self.next;
        self.next = feed.base();
        cx.tally.dropped += feed.base() - stood;
        self.insert_gap_at(stood, feed.missed_in(stood..feed.base()), feed, cx);
    }

    /// Applies [`LagPolicy::DropNewest`] to a connection that can't be written to now: keeps the oldest frames up to the
    /// feed's limits, and drops the newer ones.
    pub(crate) fn enforce_drop_newest(
        &mut self,
        fanout: &Fanout,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        // A replay comes before the feed's frames and is not complete yet, so no frames are kept.
        let applies = self.lag_policy == LagPolicy::DropNewest && !self.replaying;
        let Some(membership) = self.membership.filter(|_| applies) else { return };
        let (feed, limits) = (fanout.feed(membership.feed()), fanout.limits());
        let next = self.next;
        let backlog = self.backlog(Some(feed));
        // If one batch exceeded the feed's limits, its oldest frames are gone already, and the whole batch is dropped.
        if backlog.newest_gap.is_none() && next >= feed.base() {
            let max_events = (limits.max_events as u64).saturating_sub(backlog.inserted.sums().events);
            self.detach(feed, max_events, limits.max_bytes, cx.tally);
        }
        self.drop_newest(feed, cx);
    }

    /// Drops all pending frames of the feed. If replies come after some of them, the gap notice is inserted now.
    fn drop_newest(&mut self, feed: &Feed, cx: &mut OutboxContext<'_, impl ResumeLookup>) {
        let (stood, dropped) = (self.next, feed.next - self.next);
        if dropped == 0 {
            return;
        }
        self.next = feed.next;
        self.in_sync = false;
        let backlog = self.backlog.get_or_insert_default();
        let gap = backlog.newest_gap.get_or_insert_default();
        gap.missed = gap.missed.and(feed.missed_in(stood..feed.next));
        gap.last = feed.newest_id();
        cx.tally.dropped += dropped;
        let at = backlog.inserted.position_after(stood);
        if at < backlog.inserted.len() {
            self.insert_newest_gap(at, feed, cx);
        }
    }

    /// Inserts the gap notice for frames dropped at the newest end, once everything that was waiting before them is
    /// written.
    pub(super) fn insert_due_newest_gap(
        &mut self,
        feed: &Feed,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        if self.state(Some(feed)) == OutboxState::GapOpen
            && let Some(PendingPiece::NewestGap) = self.pending_pieces(Some(feed)).next()
        {
            self.insert_newest_gap(0, feed, cx);
        }
    }

    /// Ends an open gap at the newest end: drops also all frames appended so far, and inserts the gap notice after all
    /// waiting bytes.
    pub(super) fn close_newest_gap(&mut self, feed: &Feed, cx: &mut OutboxContext<'_, impl ResumeLookup>) {
        if self.backlog.as_ref().is_some_and(|backlog| backlog.newest_gap.is_some()) {
            self.drop_newest(feed, cx);
            self.insert_newest_gap(usize::MAX, feed, cx);
        }
    }

    /// Inserts the notice of the open gap at the newest end, at position `at` among the inserted bytes.
    fn insert_newest_gap(&mut self, at: usize, feed: &Feed, cx: &mut OutboxContext<'_, impl ResumeLookup>) {
        let Some(backlog) = &mut self.backlog else { return };
        let Some(gap) = backlog.newest_gap.take() else { return };
        let at = at.min(backlog.inserted.len());
        let edges = (backlog.last_before(at), gap.last);
        self.insert_gap_notice(at, gap.missed, edges, feed.form.encoding, cx);
    }

    /// Inserts a gap notice for events missed since frame `stood`. It comes before the replies after that frame, which
    /// may confirm that all events before them were delivered.
    pub(super) fn insert_gap_at(
        &mut self,
        stood: u64,
        missed: Missed,
        feed: &Feed,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        let backlog = self.backlog.get_or_insert_default();
        let at = backlog.inserted.position_after(stood);
        let edges = (backlog.last_before(at), feed.newest_passed());
        self.insert_gap_notice(at, missed, edges, feed.form.encoding, cx);
    }

    /// Inserts a gap notice for events missed between two events, at position `at` among the inserted bytes. The frames
    /// around the later bytes are lost, so those bytes move to the notice's place.
    fn insert_gap_notice(
        &mut self,
        at: usize,
        missed: Missed,
        (from, to): (Option<EventId>, Option<EventId>),
        encoding: Encoding,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        let resume = from.and_then(|id| cx.lookup.resume_after(id));
        let recoverable = resume.is_some();
        let from = resume.or(from.map(Since::Event));
        let gap = encoding.gap(&GapNotice { missed, from, to, recoverable, at: cx.lookup.now() });
        let inserted = Inserted { last: to, ..self.own(self.next, gap) };
        cx.tally.gaps += 1;
        self.backlog.get_or_insert_default().inserted.insert(at, inserted);
    }
}

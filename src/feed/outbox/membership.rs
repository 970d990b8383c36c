//! Joins, changes and leaves a feed. Frames that were pending before are detached, so that they are still written.

use super::inserted::Inserted;
use super::{HeldReplies, Outbox, OutboxContext, ResumeLookup, Tally};
use crate::dialect::Encoding;
use crate::feed::conflate::LagPolicy;
use crate::feed::fanout::Fanout;
use crate::feed::feed::FeedForm;
use crate::feed::interest::{Change, FilterSelection, Revised};
use crate::feed::keys::{ConnIndex, Membership, MovedMember};

impl Outbox {
    /// Joins the feed for these selections, from now on. The connection must have left its previous feed.
    pub(crate) fn join(
        &mut self,
        fanout: &mut Fanout,
        encoding: Encoding,
        selections: &[FilterSelection],
        conn: ConnIndex,
    ) {
        debug_assert!(self.membership.is_none(), "a connection has one feed");
        let membership = fanout.join(self.form(encoding), selections, conn);
        self.start_at_end(fanout, membership);
    }

    /// Changes the interest and the lag policy from here on. Events that were pending come first, still wanted or not,
    /// and under the old policy. In a feed that conflates, reported losses may lie after the outbox's position, and
    /// another policy would report them again.
    ///
    /// Another member may have moved, as in [`leave`](Self::leave).
    pub(crate) fn change(
        &mut self,
        fanout: &mut Fanout,
        encoding: Encoding,
        lag_policy: LagPolicy,
        changes: &[Change],
        conn: ConnIndex,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) -> Option<MovedMember> {
        if let Some(membership) = self.membership {
            self.detach_all(membership, fanout, cx);
        }
        self.lag_policy = lag_policy;
        let form = self.form(encoding);
        let moved = match fanout.revise(self.membership, form, changes) {
            Revised::Same => {
                self.drop_empty_backlog();
                self.queue_pending_first();
                None
            }
            Revised::Elsewhere(classes) => {
                let moved = self.leave(fanout, cx);
                if !classes.is_empty() {
                    let membership = fanout.join_classes(form, classes, conn);
                    self.start_at_end(fanout, membership);
                }
                moved
            }
        };
        self.record_place(fanout, cx.lookup);
        moved
    }

    /// Leaves the feed. Frames that were pending there become the connection's own bytes.
    ///
    /// Returns the member that took over this one's index, if any, for [`Self::set_member_index`].
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

    /// Leaves the feed and drops everything pending, except the rest of a partly written frame and the replies before
    /// the first dropped event. A reply after that event may confirm that all events before it were delivered.
    pub(crate) fn abandon(&mut self, fanout: &mut Fanout, tally: &mut Tally) -> Option<MovedMember> {
        if let Some(membership) = self.membership {
            // Unsealed frames are pending too, so they count as dropped.
            fanout.seal(membership.feed());
        }
        tally.dropped += self.pending(fanout);
        let hole = self.membership.filter(|m| !self.replaying && fanout.feed(m.feed()).next > self.next);
        let hole = hole.map_or(u64::MAX, |_| self.next);
        if let Some(backlog) = &mut self.backlog {
            let is_kept = |inserted: &&Inserted| inserted.events == 0 && inserted.before <= hole;
            let count = backlog.inserted.iter().take_while(is_kept).count();
            backlog.inserted.truncate(count);
            backlog.inserted.move_before(0);
            backlog.newest_gap = None;
        }
        self.next = 0;
        let membership = self.membership.take()?;
        fanout.leave(membership)
    }

    /// Sets the index among the feed's members, which changed because another member left.
    pub(crate) fn set_member_index(&mut self, index: u32) {
        if let Some(membership) = &mut self.membership {
            membership.index = index;
        }
    }

    /// Skips the feed's pending frames, because a replay delivers them again, and returns the replies that follow such frames. In a
    /// feed that conflates, the frames are detached instead, because conflated ones are counted when the outbox moves past them.
    pub(crate) fn skip_for_replay(
        &mut self,
        fanout: &mut Fanout,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) -> HeldReplies {
        let Some(membership) = self.membership else { return HeldReplies::default() };
        if fanout.feed(membership.feed()).conflates() {
            self.detach_all(membership, fanout, cx);
            return HeldReplies::default();
        }
        let feed = fanout.feed(membership.feed());
        self.close_newest_gap(feed, cx);
        let held = self.hold_after_next();
        self.skip_to_end(fanout);
        self.record_place(fanout, cx.lookup);
        held
    }

    /// Skips the feed's pending frames, which the caller delivers in another way. Returns `false` if the connection has no
    /// feed.
    pub(crate) fn skip_to_end(&mut self, fanout: &mut Fanout) -> bool {
        let Some(membership) = self.membership else { return false };
        fanout.release_samples_of(membership.feed());
        fanout.seal(membership.feed());
        let feed = fanout.feed(membership.feed());
        let skipped = feed.next - self.next;
        self.next = feed.next;
        self.in_sync = false;
        self.count_required_again(feed);
        // The other delivery counts the events again.
        fanout.totals.matched -= skipped;
        true
    }

    fn form(&self, encoding: Encoding) -> FeedForm {
        FeedForm { encoding, compression: self.compression }
    }

    /// Makes the connection a member of a feed, at the feed's end.
    fn start_at_end(&mut self, fanout: &Fanout, membership: Membership) {
        self.in_sync = false;
        self.next = fanout.feed(membership.feed()).next;
        self.membership = Some(membership);
        self.queue_pending_first();
    }

    /// Moves all pending bytes to before the next frame of the feed.
    fn queue_pending_first(&mut self) {
        if let Some(backlog) = &mut self.backlog {
            // Conflation starts again in the new feed.
            backlog.required_before_next = None;
            backlog.inserted.move_before(self.next);
        }
    }
}

//! Conflation in an outbox: a connection that lags in a feed that conflates receives only the latest frames of keys.
//!
//! Invariant: each frame that the position moves past is counted: as written, as dropped if it was required, else as
//! conflated.

use super::{Outbox, OutboxContext, ResumeLookup, Tally};
use crate::dialect::Missed;
use crate::feed::feed::Feed;

impl Outbox {
    /// Returns whether only the latest frames of keys are delivered.
    pub(super) fn conflates(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| backlog.required_before_next.is_some())
    }

    /// Starts to deliver only the latest frames of keys, until the connection is caught up. Returns `false` if some
    /// pending frames are trimmed already.
    pub(super) fn start_conflating(&mut self, feed: &Feed) -> bool {
        if self.conflates() {
            return true;
        }
        let required = feed.required_before(self.next.max(feed.base()));
        self.backlog.get_or_insert_default().required_before_next = Some(required);
        self.next >= feed.base()
    }

    fn required_before_next(&mut self) -> Option<&mut u64> {
        self.backlog.as_mut()?.required_before_next.as_mut()
    }

    /// Counts the frames between the outbox's position and `first` as conflated.
    pub(super) fn count_conflated(&self, first: u64, tally: &mut Tally) {
        tally.conflated += (first - self.next) as i64;
    }

    /// Counts the required frames that the connection moves past while it conflates.
    pub(super) fn count_required(&mut self, feed: &Feed, first: u64, end: u64) {
        if let Some(required) = self.required_before_next()
            && first >= feed.base()
            && end == first + 1
            && let Some(block) = feed.block_of(first)
        {
            *required += u64::from(block.is_required(first));
        }
    }

    /// Counts the required frames before the position, which has skipped frames that are delivered in another way.
    pub(super) fn count_required_again(&mut self, feed: &Feed) {
        let next = self.next;
        if let Some(required) = self.required_before_next() {
            *required = feed.required_before(next);
        }
    }

    /// Reports the required frames that the feed has trimmed, and the latest frames of keys that it has forgotten. The others
    /// that it retains for longer are still pending.
    pub(super) fn skip_trimmed_conflated(
        &mut self,
        feed: &Feed,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        // If frames were trimmed within one batch, the number of required ones among them is unknown.
        let is_unknown = !self.start_conflating(feed) && feed.required_before_base() > 0;
        self.in_sync = false;
        let Some(required) = self.required_before_next() else { return };
        let lost = feed.required_before_base().saturating_sub(*required);
        *required += lost;
        // Moving past these frames counts them as conflated again.
        cx.tally.conflated -= lost as i64;
        cx.tally.dropped += lost;
        let stood = self.next;
        let floor = feed.latest_floor().min(feed.base());
        let is_forgotten = floor > stood;
        let all = feed.missed_in(stood..feed.base());
        let missed = match all {
            // No gap notice is among them, and no required frame is forgotten.
            Missed::Exactly(frames)
                if !is_forgotten && !is_unknown && frames == feed.base().saturating_sub(stood) =>
            {
                Missed::Exactly(lost)
            }
            // The number of frames that were the latest of their keys is unknown.
            all => all.as_bound(),
        };
        if is_forgotten {
            self.count_conflated(floor, cx.tally);
            self.next = floor;
        }
        if lost > 0 || is_forgotten || is_unknown {
            self.insert_gap_at(stood, missed, feed, cx);
        }
    }
}

//! Purges of kept logs, and the gaps that report them to clients.
//!
//! Invariants:
//! - A purge removes everything that was published before its request.
//! - Each client that was connected and whose filters may match events of a purged log gets a gap.
//! - A turn appends gaps to a bounded number of feeds.

use smallvec::SmallVec;

use super::delivery::BATCHES_A_TURN;
use super::loop_state::LoopState;
use super::socket::Socket;
use crate::dialect::{GapNotice, Missed};
use crate::event::{EventId, Sequence};
use crate::filter::Filter;
use crate::kept::{LogName, excludes};
use crate::server::session::effect::PurgeAnswer;

/// Maximum number of comparisons of values in a turn, to find the feeds that need a gap: about 100 instructions each.
const LOOKS_A_TURN: usize = 10_000;

/// Cost of a feed and its gap in addition to its values, in comparisons.
const LOOKS_A_FEED: usize = 10;

impl<S: Socket> LoopState<S> {
    /// Purges kept logs, and sends the answer.
    pub(super) fn purge(&mut self, slot: usize, names: &[LogName], answer: PurgeAnswer) {
        let token = self.clients.token(slot);
        let shards = 0..self.shared.bus.shards() as u16;
        let heads: SmallVec<[Sequence; 4]> = shards.map(|shard| self.shared.bus.head(shard)).collect();
        // Delivery records the events. The client may be disconnected afterwards.
        self.delivery.reader.notify_others();
        self.pump(BATCHES_A_TURN);
        let purged = self.shared.kept.purge(names, &heads, self.turn.now);
        if let Some(purged) = purged.filter(|purged| purged.logs > 0) {
            tracing::info!(logs = purged.logs, events = purged.events, "kept logs purged");
            self.shared.wake_loops();
        }
        if let Some(slot) = self.find(token) {
            self.send(slot, (answer.0)(purged));
        }
    }

    /// Returns the place of a notice in a feed without events, as the id before it. It does not show the volume of events to clients
    /// with grants.
    fn place_of_notices(&self) -> EventId {
        let Some(place) = self.loop_place() else { return EventId::before(self.shared.bus.epoch(), 0, 0) };
        let next = place.sequences().first().filter(|_| self.shared.auth.is_open());
        EventId::before(place.epoch(), 0, next.copied().unwrap_or_default())
    }

    /// Appends the gaps of all purges to the feeds.
    pub(super) fn report_all_purges(&mut self) {
        self.report_purges();
        while self.clients.purges.is_pending() {
            self.report_purges();
        }
    }

    /// Appends the gaps of purges to the next feeds.
    pub(super) fn report_purges(&mut self) {
        let news = &mut self.clients.purges;
        news.pending.extend(self.shared.kept.purged_since(&mut news.seen));
        if !news.is_pending() {
            return;
        }
        self.begin_notices();
        let before = self.place_of_notices();
        let at = self.turn.now;
        let gap = GapNotice { missed: Missed::Unknown, from: None, to: None, recoverable: false, at };
        let news = &mut self.clients.purges;
        let mut left = LOOKS_A_TURN;
        while let Some(purged) = news.pending.front() {
            while left > 0
                && let Some(feed) = self.delivery.fanout.feed_from(news.next)
            {
                let mut looks = LOOKS_A_FEED;
                let concerns = |filter: &Filter| {
                    looks += filter.members_count() * purged.members_count();
                    !excludes(filter, purged)
                };
                self.delivery.fanout.append_gap_to(feed, before, &gap, concerns);
                left = left.saturating_sub(looks);
                news.next = feed + 1;
            }
            if left == 0 {
                break;
            }
            news.pending.pop_front();
            news.next = 0;
        }
        self.flush_dirty();
    }
}

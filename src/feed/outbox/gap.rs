//! What a connection loses of its feed, and how it is told: a gap in its place, before every reply behind it.
//!
//! Imports the room and its siblings. Always: a reply that says that all before it came has, where some did not, a gap
//! before it.

use bytes::Bytes;

use super::{Inserted, Outbox, OutboxContext, Piece, ResumeLookup, Tally};
use crate::dialect::{Encoding, GapNotice, Missed};
use crate::event::{EventId, Since};
use crate::feed::conflate::LagPolicy;
use crate::feed::{Fanout, Feed};

impl Outbox {
    /// For a member that drops its newest and can't be written to now: keeps what fits its limits, and counts what does
    /// not.
    pub(crate) fn enforce_drop_newest(
        &mut self,
        fanout: &Fanout,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        // Behind a replay it holds nothing: the past comes first, and is not there yet.
        let holds = self.lag_policy == LagPolicy::DropNewest && !self.replaying;
        let Some(membership) = self.membership.filter(|_| holds) else { return };
        let (feed, limits) = (fanout.feed(membership.feed()), fanout.limits());
        let next = self.next;
        let backlog = self.backlog(Some(feed));
        // Where one batch was more than the feed keeps, its oldest are gone already: then all of it is lost.
        if backlog.dropped_newest == 0 && next >= feed.base {
            let max_events = (limits.max_events as u64).saturating_sub(backlog.inserted_events);
            self.detach(feed, max_events, limits.max_bytes, cx.tally);
        }
        self.drop_newest(feed, cx);
    }

    /// Counts all that it has not got of its feed as lost; told at once where replies stand behind some of it.
    fn drop_newest(&mut self, feed: &Feed, cx: &mut OutboxContext<'_, impl ResumeLookup>) {
        let (stood, gap) = (self.next, feed.next - self.next);
        if gap == 0 {
            return;
        }
        self.next = feed.next;
        self.in_sync = false;
        let backlog = self.backlog.get_or_insert_default();
        backlog.dropped_newest += gap;
        backlog.dropped_missed = backlog.dropped_missed.and(feed.missed_in(stood..feed.next));
        backlog.dropped_last = feed.newest_id();
        cx.tally.dropped += gap;
        let behind = backlog.inserted.partition_point(|inserted| inserted.place <= stood);
        if behind < backlog.inserted.len() {
            self.insert_newest_gap(behind, feed.encoding, cx);
        }
    }

    /// Notes the gap and goes on at the oldest frame kept, where the feed has gone on without it.
    pub(super) fn skip_trimmed(&mut self, feed: &Feed, cx: &mut OutboxContext<'_, impl ResumeLookup>) {
        if self.next >= feed.base {
            return;
        }
        if self.lag_policy == LagPolicy::DropNewest {
            // What waited before is its own already (see `hold`); what the feed has is newer than what is gone.
            return self.drop_newest(feed, cx);
        }
        if feed.is_conflated() {
            // Of what was trimmed within one batch nobody knows how much should never have been left out.
            let is_unknown = !self.start_conflating(feed) && feed.required_before_base > 0;
            return self.skip_trimmed_conflated(is_unknown, feed, cx);
        }
        self.in_sync = false;
        let stood = self.next;
        self.next = feed.base;
        cx.tally.dropped += feed.base - stood;
        self.insert_gap_at(stood, feed.missed_in(stood..feed.base), feed, cx);
    }

    /// The same where the latest frames of keys are kept longer than others.
    fn skip_trimmed_conflated(
        &mut self,
        is_unknown: bool,
        feed: &Feed,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        self.in_sync = false;
        let Some(backlog) = &mut self.backlog else { return };
        let gap = feed.required_before_base.saturating_sub(backlog.required_before_next);
        backlog.required_before_next += gap;
        // Passing their places puts this back.
        cx.tally.conflated -= gap as i64;
        cx.tally.dropped += gap;
        let stood = self.next;
        let forgotten = feed.latest_floor().min(feed.base) > self.next;
        let all = feed.missed_in(stood..feed.base);
        let missed = match all {
            // None of them told of a gap, and none that should never have been left out is forgotten.
            Missed::Exactly(frames)
                if !forgotten && !is_unknown && frames == feed.base.saturating_sub(stood) =>
            {
                Missed::Exactly(gap)
            }
            // How many of them were the latest of their keys is not known.
            all => all.as_bound(),
        };
        if forgotten {
            let to = feed.latest_floor().min(feed.base);
            self.count_conflated(to, cx.tally);
            self.next = to;
        }
        if gap > 0 || forgotten || is_unknown {
            self.insert_gap_at(stood, missed, feed, cx);
        }
    }

    /// Tells what was missed since it stood at a place: before the replies behind that, which may say that all before
    /// them came.
    fn insert_gap_at(
        &mut self,
        stood: u64,
        missed: Missed,
        feed: &Feed,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        let backlog = self.backlog.get_or_insert_default();
        let behind = backlog.inserted.partition_point(|inserted| inserted.place <= stood);
        let edges = (backlog.last_before(behind), feed.newest_trimmed);
        self.insert_gap_notice(behind, missed, edges, feed.encoding, cx);
    }

    /// Puts the words for what was missed between two events before what waits from `behind` on, at its place.
    fn insert_gap_notice(
        &mut self,
        behind: usize,
        missed: Missed,
        (from, to): (Option<EventId>, Option<EventId>),
        encoding: Encoding,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        let place = self.next;
        let resume = from.and_then(|id| cx.lookup.resume_after(id));
        let recoverable = resume.is_some();
        let from = resume.or(from.map(Since::Event));
        let gap = encoding.gap(&GapNotice { missed, from, to, recoverable, at: cx.lookup.now() });
        let inserted = Inserted { last: to, ..self.own(place, gap) };
        cx.tally.gaps += 1;
        let backlog = self.backlog.get_or_insert_default();
        backlog.inserted_bytes += inserted.bytes.len();
        if inserted.is_shared {
            backlog.shared_bytes += inserted.bytes.len();
        }
        backlog.inserted.insert(behind, inserted);
        // What they stood between is gone.
        for later in backlog.inserted.range_mut(behind..) {
            later.place = later.place.max(place);
        }
    }

    /// Tells what was dropped while it was full, when all that waited before is written.
    pub(super) fn insert_due_newest_gap(
        &mut self,
        feed: Option<&Feed>,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        let is_due = self.backlog.as_ref().is_some_and(|b| b.dropped_newest > 0 && b.has_written());
        if let Some(feed) = feed.filter(|_| is_due) {
            self.insert_newest_gap(0, feed.encoding, cx);
        }
    }

    /// Where it has lost some of its newest, all that is appended so far is lost too, and told behind what waits.
    pub(super) fn close_newest_gap(&mut self, feed: &Feed, cx: &mut OutboxContext<'_, impl ResumeLookup>) {
        if self.backlog.as_ref().is_some_and(|backlog| backlog.dropped_newest > 0) {
            self.drop_newest(feed, cx);
            self.insert_newest_gap(usize::MAX, feed.encoding, cx);
        }
    }

    /// Tells of the newest that it lost, before what waits from `behind` on.
    fn insert_newest_gap(
        &mut self,
        behind: usize,
        encoding: Encoding,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        let Some(backlog) = self.backlog.as_mut().filter(|backlog| backlog.dropped_newest > 0) else {
            return;
        };
        let behind = behind.min(backlog.inserted.len());
        backlog.dropped_newest = 0;
        let missed = std::mem::take(&mut backlog.dropped_missed);
        let edges = (backlog.last_before(behind), backlog.dropped_last.take());
        self.insert_gap_notice(behind, missed, edges, encoding, cx);
    }

    /// Makes frames of the feed its own, up to so many events and bytes, with the replies in their places.
    pub(super) fn detach(&mut self, feed: &Feed, mut max_events: u64, max_bytes: usize, tally: &mut Tally) {
        let mut backlog = self.backlog.take().unwrap_or_default();
        let mut replies = std::mem::take(&mut backlog.inserted).into_iter().peekable();
        (backlog.inserted_bytes, backlog.shared_bytes, backlog.inserted_events) = (0, 0, 0);
        self.backlog = Some(backlog);
        loop {
            let reply = replies.next_if(|inserted| inserted.place <= self.next);
            let backlog = self.backlog.get_or_insert_default();
            if let Some(reply) = reply {
                self.in_sync &= !reply.shifts;
                backlog.push(Inserted { place: 0, shifts: false, ..reply });
                continue;
            }
            let stop = replies.peek().map_or(feed.next, |inserted| inserted.place.min(feed.next));
            let room = max_events > 0 && backlog.inserted_bytes < max_bytes;
            let conflates = backlog.conflates;
            let stop = stop.min(self.next.saturating_add(max_events));
            match self.piece(Some(feed), self.next, stop, self.in_sync) {
                Some(Piece { bytes, of, first, to, in_sync }) if room => {
                    // Of a run that it takes all from, a part keeps nothing alive that it does not need.
                    let bytes = if conflates { Bytes::copy_from_slice(bytes) } else { of.slice_ref(bytes) };
                    self.in_sync = in_sync;
                    let events = to - first;
                    max_events -= events.min(max_events);
                    self.count_conflated(first, tally);
                    self.count_required(feed, first, to);
                    self.next = to;
                    let last = feed.id_of(to - 1);
                    let events = events as u32;
                    let is_shared = !bytes.is_unique();
                    let inserted = Inserted { place: 0, bytes, events, shifts: false, last, is_shared };
                    self.backlog.get_or_insert_default().push(inserted);
                }
                Some(_) => break,
                None => match replies.next() {
                    Some(reply) => {
                        self.in_sync &= !reply.shifts;
                        let inserted = Inserted { place: 0, shifts: false, ..reply };
                        self.backlog.get_or_insert_default().push(inserted);
                    }
                    None => break,
                },
            }
        }
        // What did not fit: replies stay, in order, behind it.
        let backlog = self.backlog.get_or_insert_default();
        for reply in replies {
            backlog.push(reply);
        }
    }

    /// Whether its feed has let go of frames that it was owed.
    pub(crate) fn has_lost_frames(&self, fanout: &Fanout) -> bool {
        self.membership.is_some_and(|m| self.next < fanout.feed(m.feed()).base)
    }

    /// Passes over what its feed has for it, which comes again in another way; where frames may be left out it becomes its
    /// own instead, because how many those are is counted as they are passed.
    pub(crate) fn skip_for_replay(
        &mut self,
        fanout: &mut Fanout,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) {
        let Some(membership) = self.membership else { return };
        if fanout.feed(membership.feed()).is_conflated() {
            self.detach_all(membership, fanout, cx);
            return;
        }
        let feed = fanout.feed(membership.feed());
        self.close_newest_gap(feed, cx);
        self.skip_to_end(fanout);
    }

    /// Goes on behind all that its feed has, because it gets what it passes over in another way; false where it has no
    /// feed.
    pub(crate) fn skip_to_end(&mut self, fanout: &mut Fanout) -> bool {
        let Some(membership) = self.membership else { return false };
        fanout.release_samples_of(membership.feed());
        fanout.seal(membership.feed());
        let next = fanout.feed(membership.feed()).next;
        // It is counted again where it is handed over.
        fanout.totals.matched -= next - self.next;
        self.next = next;
        self.in_sync = false;
        true
    }
}

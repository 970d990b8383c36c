//! What a connection loses of its feed, and how it is told: a gap in its place, before every reply behind it.
//!
//! Imports the room and its siblings. Always: a reply that says that all before it came has, where some did not, a gap
//! before it.

use bytes::Bytes;

use super::{Cursor, Direct, Piece, Ring, Tally};
use crate::dialect::{Encoding, GapNotice, Missed};
use crate::event::{EventId, Since};
use crate::feed::thin::Cut;
use crate::feed::{Fanout, Feed};

impl Cursor {
    /// For a member that drops its newest and can't be written to now: keeps what fits its limits, and counts what does
    /// not.
    pub(crate) fn hold(&mut self, fanout: &Fanout, tally: &mut Tally, ring: &impl Ring) {
        // Behind a replay it holds nothing: the past comes first, and is not there yet.
        let holds = self.cut == Cut::DropNewest && !self.waits;
        let Some(membership) = self.membership.filter(|_| holds) else { return };
        let (feed, limits) = (fanout.feed(membership.feed()), fanout.limits());
        let next = self.next;
        let backlog = self.backlog(Some(feed));
        // Where one batch was more than the feed keeps, its oldest are gone already: then all of it is lost.
        if backlog.lost_newest == 0 && next >= feed.base {
            let max_events = (limits.max_events as u64).saturating_sub(backlog.direct_events);
            self.take_over(feed, max_events, limits.max_bytes, tally);
        }
        self.lose_newest(feed, tally, ring);
    }

    /// Counts all that it has not got of its feed as lost; told at once where replies stand behind some of it.
    fn lose_newest(&mut self, feed: &Feed, tally: &mut Tally, ring: &impl Ring) {
        let (stood, lost) = (self.next, feed.next - self.next);
        if lost == 0 {
            return;
        }
        self.next = feed.next;
        self.in_step = false;
        let backlog = self.backlog.get_or_insert_default();
        backlog.lost_newest += lost;
        backlog.lost_missed = backlog.lost_missed.and(feed.missed_in(stood..feed.next));
        backlog.lost_to = feed.newest_id();
        tally.dropped += lost;
        let behind = backlog.direct.partition_point(|direct| direct.place <= stood);
        if behind < backlog.direct.len() {
            self.tell_lost(behind, feed.encoding, tally, ring);
        }
    }

    /// Notes the gap and goes on at the oldest frame kept, where the feed has gone on without it.
    pub(super) fn skip_what_is_gone(&mut self, feed: &Feed, tally: &mut Tally, ring: &impl Ring) {
        if self.next >= feed.base {
            return;
        }
        if self.cut == Cut::DropNewest {
            // What waited before is its own already (see `hold`); what the feed has is newer than what is gone.
            return self.lose_newest(feed, tally, ring);
        }
        if feed.is_thin() {
            // Of what was trimmed within one batch nobody knows how much should never have been left out.
            let is_unknown = !self.set_conflates(feed) && feed.whole_before_base > 0;
            return self.skip_in_thin(is_unknown, feed, tally, ring);
        }
        self.in_step = false;
        let stood = self.next;
        self.next = feed.base;
        tally.dropped += feed.base - stood;
        self.tell_gap(stood, feed.missed_in(stood..feed.base), feed, tally, ring);
    }

    /// The same where the latest frames of keys are kept longer than others.
    fn skip_in_thin(&mut self, is_unknown: bool, feed: &Feed, tally: &mut Tally, ring: &impl Ring) {
        self.in_step = false;
        let Some(backlog) = &mut self.backlog else { return };
        let lost = feed.whole_before_base.saturating_sub(backlog.whole_before_next);
        backlog.whole_before_next += lost;
        // Passing their places puts this back.
        tally.conflated -= lost as i64;
        tally.dropped += lost;
        let stood = self.next;
        let forgotten = feed.latest_floor().min(feed.base) > self.next;
        let all = feed.missed_in(stood..feed.base);
        let missed = match all {
            // None of them told of a gap, and none that should never have been left out is forgotten.
            Missed::Exactly(frames)
                if !forgotten && !is_unknown && frames == feed.base.saturating_sub(stood) =>
            {
                Missed::Exactly(lost)
            }
            // How many of them were the latest of their keys is not known.
            all => all.as_bound(),
        };
        if forgotten {
            let to = feed.latest_floor().min(feed.base);
            self.pass_over(to, tally);
            self.next = to;
        }
        if lost > 0 || forgotten || is_unknown {
            self.tell_gap(stood, missed, feed, tally, ring);
        }
    }

    /// Tells what was missed since it stood at a place: before the replies behind that, which may say that all before
    /// them came.
    fn tell_gap(&mut self, stood: u64, missed: Missed, feed: &Feed, tally: &mut Tally, ring: &impl Ring) {
        let backlog = self.backlog.get_or_insert_default();
        let behind = backlog.direct.partition_point(|direct| direct.place <= stood);
        let edges = (backlog.last_before(behind), feed.trimmed);
        self.insert_gap(behind, missed, edges, feed.encoding, tally, ring);
    }

    /// Puts the words for what was missed between two events before what waits from `behind` on, at its place.
    fn insert_gap(
        &mut self,
        behind: usize,
        missed: Missed,
        (from, to): (Option<EventId>, Option<EventId>),
        encoding: Encoding,
        tally: &mut Tally,
        ring: &impl Ring,
    ) {
        let place = self.next;
        let resume = from.and_then(|id| ring.resume_behind(id));
        let recoverable = resume.is_some();
        let from = resume.or(from.map(Since::Event));
        let gap = encoding.gap(&GapNotice { missed, from, to, recoverable, at: ring.now() });
        let direct = Direct { last: to, ..self.own(place, gap) };
        tally.gaps += 1;
        let backlog = self.backlog.get_or_insert_default();
        backlog.direct_bytes += direct.bytes.len();
        if direct.is_shared {
            backlog.shared_bytes += direct.bytes.len();
        }
        backlog.direct.insert(behind, direct);
        // What they stood between is gone.
        for later in backlog.direct.range_mut(behind..) {
            later.place = later.place.max(place);
        }
    }

    /// Tells what was dropped while it was full, when all that waited before is written.
    pub(super) fn tell_lost_newest(&mut self, feed: Option<&Feed>, tally: &mut Tally, ring: &impl Ring) {
        let is_due = self.backlog.as_ref().is_some_and(|b| b.lost_newest > 0 && b.has_written());
        if let Some(feed) = feed.filter(|_| is_due) {
            self.tell_lost(0, feed.encoding, tally, ring);
        }
    }

    /// Where it has lost some of its newest, all that is appended so far is lost too, and told behind what waits.
    pub(super) fn say_lost_newest(&mut self, feed: &Feed, tally: &mut Tally, ring: &impl Ring) {
        if self.backlog.as_ref().is_some_and(|backlog| backlog.lost_newest > 0) {
            self.lose_newest(feed, tally, ring);
            self.tell_lost(usize::MAX, feed.encoding, tally, ring);
        }
    }

    /// Tells of the newest that it lost, before what waits from `behind` on.
    fn tell_lost(&mut self, behind: usize, encoding: Encoding, tally: &mut Tally, ring: &impl Ring) {
        let Some(backlog) = self.backlog.as_mut().filter(|backlog| backlog.lost_newest > 0) else { return };
        let behind = behind.min(backlog.direct.len());
        backlog.lost_newest = 0;
        let missed = std::mem::take(&mut backlog.lost_missed);
        let edges = (backlog.last_before(behind), backlog.lost_to.take());
        self.insert_gap(behind, missed, edges, encoding, tally, ring);
    }

    /// Makes frames of the feed its own, up to so many events and bytes, with the replies in their places.
    pub(super) fn take_over(
        &mut self,
        feed: &Feed,
        mut max_events: u64,
        max_bytes: usize,
        tally: &mut Tally,
    ) {
        let mut backlog = self.backlog.take().unwrap_or_default();
        let mut replies = std::mem::take(&mut backlog.direct).into_iter().peekable();
        (backlog.direct_bytes, backlog.shared_bytes, backlog.direct_events) = (0, 0, 0);
        self.backlog = Some(backlog);
        loop {
            let reply = replies.next_if(|direct| direct.place <= self.next);
            let backlog = self.backlog.get_or_insert_default();
            if let Some(reply) = reply {
                self.in_step &= !reply.shifts;
                backlog.push(Direct { place: 0, shifts: false, ..reply });
                continue;
            }
            let stop = replies.peek().map_or(feed.next, |direct| direct.place.min(feed.next));
            let room = max_events > 0 && backlog.direct_bytes < max_bytes;
            let conflates = backlog.conflates;
            let stop = stop.min(self.next.saturating_add(max_events));
            match self.piece(Some(feed), self.next, stop, self.in_step) {
                Some(Piece { bytes, of, first, to, in_step }) if room => {
                    // Of a run that it takes all from, a part keeps nothing alive that it does not need.
                    let bytes = if conflates { Bytes::copy_from_slice(bytes) } else { of.slice_ref(bytes) };
                    self.in_step = in_step;
                    let events = to - first;
                    max_events -= events.min(max_events);
                    self.pass_over(first, tally);
                    self.note_whole(feed, first, to);
                    self.next = to;
                    let last = feed.id_of(to - 1);
                    let events = events as u32;
                    let is_shared = !bytes.is_unique();
                    let direct = Direct { place: 0, bytes, events, shifts: false, last, is_shared };
                    self.backlog.get_or_insert_default().push(direct);
                }
                Some(_) => break,
                None => match replies.next() {
                    Some(reply) => {
                        self.in_step &= !reply.shifts;
                        let direct = Direct { place: 0, shifts: false, ..reply };
                        self.backlog.get_or_insert_default().push(direct);
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
    pub(crate) fn has_lost(&self, fanout: &Fanout) -> bool {
        self.membership.is_some_and(|m| self.next < fanout.feed(m.feed()).base)
    }

    /// Passes over what its feed has for it, which comes again in another way; where frames may be left out it becomes its
    /// own instead, because how many those are is counted as they are passed.
    pub(crate) fn go_back(&mut self, fanout: &mut Fanout, tally: &mut Tally, ring: &impl Ring) {
        let Some(membership) = self.membership else { return };
        if fanout.feed(membership.feed()).is_thin() {
            self.settle(membership, fanout, tally, ring);
            return;
        }
        let feed = fanout.feed(membership.feed());
        self.say_lost_newest(feed, tally, ring);
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
        fanout.books.matched -= next - self.next;
        self.next = next;
        self.in_step = false;
        true
    }
}

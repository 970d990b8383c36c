//! The newest event id that a loop has seen in each shard. The loop detects missing events with it.

use std::collections::BTreeMap;

use crate::bus::{Bus, LoopReader};
use crate::dialect::{GapNotice, Missed};
use crate::engine::{LogBreak, LogPlace, Places};
use crate::event::{Event, EventId, Sequence, Since, Timestamp};

/// The newest id that a loop has seen in each shard.
#[derive(Debug, Default)]
pub(crate) struct Continuity {
    newest: BTreeMap<u16, EventId>,
    /// Places before the next events of the shards for which a gap was reported since.
    reported: BTreeMap<u16, EventId>,
    /// Number of the log's breaks that the loop has passed.
    breaks: u64,
    /// Whether the loop has read an event.
    has_begun: bool,
}

impl Continuity {
    /// Begins at the reader's place in a bus that may already have events.
    pub(crate) fn starting_at(bus: &Bus, reader: &LoopReader) -> Self {
        let mut newest = BTreeMap::new();
        for shard in 0..bus.shards() as u16 {
            let Some(before) = reader.position(shard).checked_sub(1) else { continue };
            // Unknown if the ring has lost it.
            newest.insert(shard, EventId::before(0, shard, 0));
            bus.read_range(shard, before, before + 1, |event| {
                newest.extend(event.id().map(|id| (shard, id)));
            });
        }
        Self { newest, ..Self::default() }
    }

    /// Returns the newest id seen in a shard.
    pub(crate) fn newest(&self, shard: u16) -> Option<EventId> {
        // Nothing comes before the first event of an epoch, nor at an unknown place.
        self.newest.get(&shard).copied().filter(|id| id.epoch > 0 && id.sequence < Sequence::MAX)
    }

    /// Records that the ring has lost events of a shard. If the loop had read none there before, `began` is the place of the first one.
    pub(crate) fn lose(&mut self, shard: u16, (epoch, sequence): LogPlace) {
        self.newest.entry(shard).or_insert(EventId::before(epoch, shard, sequence));
    }

    /// Returns whether a gap is due before the next event: it is the first one that the loop reads, and the engine's follower
    /// began with a break that the loop has not passed.
    #[inline]
    pub(crate) fn begins(&mut self, began_with_break: impl FnOnce() -> bool) -> bool {
        if self.has_begun {
            return false;
        }
        self.has_begun = true;
        let is_due = self.breaks == 0 && began_with_break();
        self.breaks += u64::from(is_due);
        is_due
    }

    /// Passes a break of the log, after all events before it were read. Returns whether a gap is due: in some shard no event after
    /// the break was read.
    pub(crate) fn pass_break(&mut self, one: &LogBreak) -> bool {
        self.breaks = one.count;
        let Places { epoch, next, .. } = &one.places;
        let mut is_due = false;
        for (shard, next) in (0..).zip(next) {
            if self.newest.get(&shard).is_none_or(|newest| newest.epoch < *epoch) {
                is_due = true;
                self.reported.insert(shard, EventId::before(*epoch, shard, *next));
            }
        }
        is_due
    }

    /// Returns the number of breaks that the loop has passed.
    pub(crate) fn breaks(&self) -> u64 {
        self.breaks
    }

    /// Returns the place before the event that is to come after a gap that was reported.
    fn take_reported(&mut self, id: EventId) -> Option<EventId> {
        if self.reported.is_empty() {
            return None;
        }
        self.reported.remove(&id.shard).filter(|reported| reported.epoch == id.epoch)
    }

    /// Records an event. Returns the gap before it, if any, which counts all missing events, wanted or not. If the loop has read none
    /// in that shard before, `first_due` returns the place of the first one that it was to read; `None` if nothing is missing.
    pub(crate) fn gap_before(
        &mut self,
        event: &Event,
        now: Timestamp,
        first_due: impl FnOnce(EventId) -> Option<LogPlace>,
    ) -> Option<GapNotice> {
        let id = event.id()?;
        let newest = self.newest.insert(id.shard, id);
        let last = match self.take_reported(id).or(newest) {
            Some(last) => last,
            None => {
                let (epoch, sequence) = first_due(id)?;
                EventId::before(epoch, id.shard, sequence)
            }
        };
        let follows = last.epoch == id.epoch && last.next_sequence() == id.sequence;
        let between = id.sequence.checked_sub(last.next_sequence()).filter(|_| last.epoch == id.epoch);
        (!follows).then_some(GapNotice {
            missed: between.map_or(Missed::Unknown, Missed::Exactly),
            // Epoch 0 stands for an unknown place.
            from: (last.epoch > 0).then_some(Since::Event(last)),
            to: Some(id),
            recoverable: false,
            at: now,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(epoch: u64, sequence: Sequence) -> Event {
        let event = Event::builder("x").build().expect("valid");
        event.set_id(EventId { epoch, shard: 0, sequence });
        event
    }

    #[test]
    fn a_gap_is_reported_where_ids_do_not_follow() {
        let mut continuity = Continuity::default();
        let mut has_gap = |epoch, sequence| {
            continuity.gap_before(&event(epoch, sequence), Timestamp(0), |_| None).is_some()
        };
        let gaps =
            [(5, 7), (5, 8), (5, 10), (6, 11), (6, 12)].map(|(epoch, sequence)| has_gap(epoch, sequence));
        assert_eq!(gaps, [false, false, true, true, false]);
    }

    #[test]
    fn a_loop_that_did_not_get_its_first_events_reports_them() {
        let first = |due: Option<LogPlace>, sequence| {
            let mut continuity = Continuity::default();
            let gap = continuity.gap_before(&event(5, sequence), Timestamp(0), |id| {
                assert_eq!((id.shard, id.epoch, id.sequence), (0, 5, sequence));
                due
            })?;
            Some((gap.missed, gap.from, gap.to.map(|to| to.sequence)))
        };
        let before = |sequence| Some(Since::Event(EventId::before(5, 0, sequence)));
        assert_eq!(first(Some((5, 3)), 7), Some((Missed::Exactly(4), before(3), Some(7))));
        assert_eq!(first(Some((5, 0)), 7), Some((Missed::Exactly(7), before(0), Some(7))));
        assert_eq!([first(Some((5, 7)), 7), first(None, 7)], [None, None]);
        // The first events were of an earlier epoch.
        let earlier = Since::Event(EventId::before(4, 0, 3));
        assert_eq!(first(Some((4, 3)), 7), Some((Missed::Unknown, Some(earlier), Some(7))));
    }

    #[test]
    fn a_break_is_passed_once_and_its_first_event_is_no_second_gap() {
        let places = |epoch, next| Places { epoch, next: vec![next], kept: None };
        let at = |count, epoch, next| LogBreak { count, places: places(epoch, next) };
        let mut continuity = Continuity::default();
        let gap = |continuity: &mut Continuity, epoch, sequence| {
            let gap = continuity.gap_before(&event(epoch, sequence), Timestamp(0), |_| None);
            gap.map(|gap| gap.missed)
        };
        // The follower's beginning, before the first event or after a wait.
        assert!(continuity.begins(|| true) && !continuity.begins(|| true));
        assert_eq!((continuity.breaks(), gap(&mut continuity, 5, 7)), (1, None));
        assert!(continuity.pass_break(&at(2, 6, 0)));
        assert_eq!(continuity.newest(0).map(|id| (id.epoch, id.sequence)), Some((5, 7)));
        assert_eq!(gap(&mut continuity, 6, 0), None);
        assert!(!continuity.pass_break(&at(3, 6, 0)), "an event after it was read");
        assert!(continuity.pass_break(&at(4, 8, 3)));
        assert_eq!(gap(&mut continuity, 8, 5), Some(Missed::Exactly(2)), "missing after the break");
        assert_eq!(gap(&mut continuity, 8, 6), None);
        let mut continuity = Continuity::default();
        assert!(continuity.pass_break(&at(1, 5, 3)) && !continuity.begins(|| true));
        assert_eq!(gap(&mut continuity, 5, 3), None);
    }

    #[test]
    fn a_loop_whose_first_events_the_ring_has_lost_reports_them() {
        let first = |began: LogPlace| {
            let mut continuity = Continuity::default();
            continuity.lose(0, began);
            let gap = continuity.gap_before(&event(5, 7), Timestamp(0), |_| None)?;
            continuity.lose(0, (5, 0));
            assert!(continuity.gap_before(&event(5, 8), Timestamp(0), |_| None).is_none());
            Some(gap.missed)
        };
        let missed = [(5, 3), (5, 7), (4, 3), (0, 0)].map(first);
        assert_eq!(missed, [Some(Missed::Exactly(4)), None, Some(Missed::Unknown), Some(Missed::Unknown)]);
    }

    #[test]
    fn a_loop_that_begins_at_an_event_that_the_ring_has_lost_reports_an_unknown_number() {
        let newest = BTreeMap::from([(0, EventId::before(0, 0, 0))]);
        let mut continuity = Continuity { newest, ..Continuity::default() };
        assert_eq!(continuity.newest(0), None);
        let gap = continuity.gap_before(&event(5, 7), Timestamp(0), |_| Some((5, 7)));
        assert_eq!(gap.map(|gap| (gap.missed, gap.from)), Some((Missed::Unknown, None)));
    }
}

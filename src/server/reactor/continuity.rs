//! The newest event id that a loop has seen in each shard. The loop detects missing events with it.

use std::collections::BTreeMap;

use crate::bus::{Bus, LoopReader};
use crate::dialect::{GapNotice, Missed};
use crate::engine::LogPlace;
use crate::event::{Event, EventId, Sequence, Since, Timestamp};

/// The newest id that a loop has seen in each shard.
#[derive(Debug, Default)]
pub(crate) struct Continuity(BTreeMap<u16, EventId>);

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
        Self(newest)
    }

    /// Returns the newest id seen in a shard.
    pub(crate) fn newest(&self, shard: u16) -> Option<EventId> {
        // Nothing comes before the first event of an epoch, nor at an unknown place.
        self.0.get(&shard).copied().filter(|id| id.epoch > 0 && id.sequence < Sequence::MAX)
    }

    /// Records that the ring has lost events of a shard. If the loop had read none there before, `began` is the place of the first one.
    pub(crate) fn lose(&mut self, shard: u16, (epoch, sequence): LogPlace) {
        self.0.entry(shard).or_insert(EventId::before(epoch, shard, sequence));
    }

    /// Records an event. Returns the gap before it, if any, which counts all missing events, wanted or not. If the loop has read none
    /// in that shard before, `first_due` returns the place of the first one that it was to read, by the shard and the event's epoch;
    /// `None` if nothing is missing.
    pub(crate) fn gap_before(
        &mut self,
        event: &Event,
        now: Timestamp,
        first_due: impl FnOnce(u16, u64) -> Option<LogPlace>,
    ) -> Option<GapNotice> {
        let id = event.id()?;
        let last = match self.0.insert(id.shard, id) {
            Some(last) => last,
            None => {
                let (epoch, sequence) = first_due(id.shard, id.epoch)?;
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
            continuity.gap_before(&event(epoch, sequence), Timestamp(0), |_, _| None).is_some()
        };
        let gaps =
            [(5, 7), (5, 8), (5, 10), (6, 11), (6, 12)].map(|(epoch, sequence)| has_gap(epoch, sequence));
        assert_eq!(gaps, [false, false, true, true, false]);
    }

    #[test]
    fn a_loop_that_did_not_get_its_first_events_reports_them() {
        let first = |due: Option<LogPlace>, sequence| {
            let mut continuity = Continuity::default();
            let gap = continuity.gap_before(&event(5, sequence), Timestamp(0), |shard, epoch| {
                assert_eq!((shard, epoch), (0, 5));
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
    fn a_loop_whose_first_events_the_ring_has_lost_reports_them() {
        let first = |began: LogPlace| {
            let mut continuity = Continuity::default();
            continuity.lose(0, began);
            let gap = continuity.gap_before(&event(5, 7), Timestamp(0), |_, _| None)?;
            continuity.lose(0, (5, 0));
            assert!(continuity.gap_before(&event(5, 8), Timestamp(0), |_, _| None).is_none());
            Some(gap.missed)
        };
        let missed = [(5, 3), (5, 7), (4, 3), (0, 0)].map(first);
        assert_eq!(missed, [Some(Missed::Exactly(4)), None, Some(Missed::Unknown), Some(Missed::Unknown)]);
    }

    #[test]
    fn a_loop_that_begins_at_an_event_that_the_ring_has_lost_reports_an_unknown_number() {
        let mut continuity = Continuity(BTreeMap::from([(0, EventId::before(0, 0, 0))]));
        assert_eq!(continuity.newest(0), None);
        let gap = continuity.gap_before(&event(5, 7), Timestamp(0), |_, _| Some((5, 7)));
        assert_eq!(gap.map(|gap| (gap.missed, gap.from)), Some((Missed::Unknown, None)));
    }
}

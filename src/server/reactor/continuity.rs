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
            let place = reader.position(shard);
            if let Some(before) = place.checked_sub(1).filter(|before| *before >= bus.oldest(shard)) {
                bus.read_range(shard, before, place, |event| newest.extend(event.id().map(|id| (shard, id))));
            }
        }
        Self(newest)
    }

    /// Returns the newest id seen in a shard.
    pub(crate) fn newest(&self, shard: u16) -> Option<EventId> {
        // Nothing comes before the first event of an epoch, nor at an unknown place.
        self.0.get(&shard).copied().filter(|id| id.epoch > 0 && id.sequence < Sequence::MAX)
    }

    /// Records that events of a shard were lost. If the loop had read none there before, `began` is the place of the first one;
    /// `None` if that is unknown.
    pub(crate) fn lose(&mut self, shard: u16, began: Option<LogPlace>) {
        let (epoch, sequence) = began.unwrap_or_default();
        self.0.entry(shard).or_insert(EventId::before(epoch, shard, sequence));
    }

    /// Records an event. Returns the gap before it, if any, which counts all missing events, wanted or not.
    pub(crate) fn gap_before(&mut self, event: &Event, now: Timestamp) -> Option<GapNotice> {
        let id = event.id()?;
        let last = self.0.insert(id.shard, id)?;
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

    #[test]
    fn a_gap_is_reported_where_ids_do_not_follow() {
        let mut continuity = Continuity::default();
        let mut has_gap = |epoch, sequence| {
            let event = Event::builder("x").build().expect("valid");
            event.set_id(EventId { epoch, shard: 0, sequence });
            continuity.gap_before(&event, Timestamp(0)).is_some()
        };
        let gaps =
            [(5, 7), (5, 8), (5, 10), (6, 11), (6, 12)].map(|(epoch, sequence)| has_gap(epoch, sequence));
        assert_eq!(gaps, [false, false, true, true, false]);
    }

    #[test]
    fn a_loop_that_lost_its_first_events_reports_them() {
        let first = |began: Option<LogPlace>, sequence| {
            let mut continuity = Continuity::default();
            continuity.lose(0, began);
            let event = Event::builder("x").build().expect("valid");
            event.set_id(EventId { epoch: 5, shard: 0, sequence });
            let gap = continuity.gap_before(&event, Timestamp(0))?;
            Some((gap.missed, gap.from, gap.to.map(|to| to.sequence)))
        };
        let before = |sequence| Some(Since::Event(EventId::before(5, 0, sequence)));
        assert_eq!(first(Some((5, 3)), 7), Some((Missed::Exactly(4), before(3), Some(7))));
        assert_eq!(first(Some((5, 0)), 7), Some((Missed::Exactly(7), before(0), Some(7))));
        assert_eq!(first(Some((5, 7)), 7), None);
        assert_eq!(first(None, 7), Some((Missed::Unknown, None, Some(7))));
        // The first events were of an earlier epoch.
        let earlier = Since::Event(EventId::before(4, 0, 3));
        assert_eq!(first(Some((4, 3)), 7), Some((Missed::Unknown, Some(earlier), Some(7))));
    }

    #[test]
    fn a_loss_after_events_that_were_read_does_not_move_the_place() {
        let mut continuity = Continuity::default();
        let mut gap = |sequence| {
            let event = Event::builder("x").build().expect("valid");
            event.set_id(EventId { epoch: 5, shard: 0, sequence });
            let gap = continuity.gap_before(&event, Timestamp(0));
            continuity.lose(0, Some((5, 0)));
            gap.map(|gap| gap.missed)
        };
        assert_eq!([gap(2), gap(6), gap(7)], [None, Some(Missed::Exactly(3)), None]);
    }
}

//! The newest event id that a loop has seen in each shard. The loop detects missing events with it.

use std::collections::BTreeMap;

use crate::bus::{Bus, LoopReader};
use crate::dialect::{GapNotice, Missed};
use crate::event::{Event, EventId, Since, Timestamp};

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
        self.0.get(&shard).copied()
    }

    /// Records an event. Returns the gap before it, if any, which counts all missing events, wanted or not.
    pub(crate) fn gap_before(&mut self, event: &Event, now: Timestamp) -> Option<GapNotice> {
        let id = event.id()?;
        let last = self.0.insert(id.shard, id)?;
        let follows = last.epoch == id.epoch && last.sequence + 1 == id.sequence;
        let between = id.sequence.checked_sub(last.next_sequence()).filter(|_| last.epoch == id.epoch);
        (!follows).then_some(GapNotice {
            missed: between.map_or(Missed::Unknown, Missed::Exactly),
            from: Some(Since::Event(last)),
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
}

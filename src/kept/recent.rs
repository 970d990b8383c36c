//! Newest recorded events, as the rings have them: readers share their bodies, and the frames that loops have encoded.
//!
//! Invariant: an event is here only while its ring has it, by the number of events and by their size. So the bodies
//! take no memory of their own.

use std::collections::VecDeque;

use super::log::ShardPlace;
use crate::event::{Event, EventId};

/// Newest recorded events, by their numbers.
#[derive(Debug, Default)]
pub(super) struct RecentEvents {
    events: VecDeque<Event>,
    /// Number of the first of them.
    first: u64,
    /// Id of the first of them, because its body may not be in the cache.
    oldest: Option<EventId>,
    /// Sum of the events' weights.
    weight: u64,
    /// Maximum distance of an event from the newest of its shard.
    distance: u64,
    weight_max: u64,
}

impl RecentEvents {
    /// Keeps half as many events and bytes as the rings, which have these sizes. So a ring that drops an event has its last
    /// handle, and the body can be reused.
    pub(super) fn with_rings(events: usize, bytes: u64) -> Self {
        Self { distance: events as u64 / 2, weight_max: bytes / 2, ..Self::default() }
    }

    /// Adds the newest event, which has this number.
    pub(super) fn push(&mut self, number: u64, id: EventId, event: &Event) {
        if self.distance == 0 {
            return;
        }
        if self.events.is_empty() {
            (self.first, self.oldest) = (number, Some(id));
        }
        self.events.push_back(event.clone());
        self.weight += event.weight();
        while self.weight > self.weight_max {
            self.pop();
        }
    }

    fn pop(&mut self) {
        self.weight -= self.events.pop_front().map_or(0, |event| event.weight());
        self.first += 1;
        self.oldest = self.events.front().and_then(Event::id);
    }

    /// Drops events that the rings may have dropped. `next` is the place of the next event of each shard.
    pub(super) fn follow(&mut self, next: &[ShardPlace]) {
        while let Some(oldest) = self.oldest {
            let place = next.get(usize::from(oldest.shard)).copied().unwrap_or_default();
            if place.0 == oldest.epoch && place.1.saturating_sub(oldest.sequence) <= self.distance {
                break;
            }
            self.pop();
        }
    }

    /// Returns the event with this number.
    pub(super) fn get(&self, number: u64) -> Option<&Event> {
        self.events.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Returns the memory in bytes, without the bodies, which the rings have.
    pub(super) fn held_bytes(&self) -> usize {
        self.events.capacity() * size_of::<Event>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(shard: u16, sequence: u64) -> EventId {
        EventId { epoch: 1, shard, sequence }
    }

    fn event(id: EventId) -> Event {
        let event = Event::builder("x").build().expect("valid");
        event.set_id(id);
        event
    }

    #[test]
    fn events_are_shared_while_a_ring_has_them() {
        let mut recent = RecentEvents::with_rings(8, 1 << 20);
        let mut next = [(1, 0), (1, 0)];
        for number in 0..20 {
            let id = id(0, number);
            recent.push(number, id, &event(id));
            next[0].1 = number + 1;
            recent.follow(&next);
            for other in 0..30 {
                let known = recent.get(other).and_then(Event::id);
                let is_near = other <= number && number - other < 4;
                assert_eq!(known.map(|id| id.sequence), is_near.then_some(other));
            }
        }
        // One of another shard, and one of another epoch.
        recent.push(20, id(1, 0), &event(id(1, 0)));
        next = [(2, 0), (1, 1)];
        recent.follow(&next);
        assert_eq!((recent.get(19).is_none(), recent.get(20).and_then(Event::id)), (true, Some(id(1, 0))));
        assert!(recent.held_bytes() <= 16 * size_of::<Event>());
    }

    #[test]
    fn large_events_are_limited_by_their_size() {
        let weight = event(id(0, 0)).weight();
        let mut recent = RecentEvents::with_rings(1000, weight * 6);
        for number in 0..10 {
            recent.push(number, id(0, number), &event(id(0, number)));
        }
        assert_eq!((recent.get(6).is_none(), recent.get(7).is_some(), recent.events.len()), (true, true, 3));
        let mut none = RecentEvents::default();
        none.push(1, id(0, 1), &event(id(0, 1)));
        assert!(none.get(1).is_none());
    }
}

//! Finds the place of an event id in the ring: by its sequence if the bus assigned the id, by a search if an engine's
//! log did.
//!
//! Always, in a shard: ids of one epoch increase along the ring. If ids are not consecutive, or the epoch changes,
//! events are missing, and the loop reports a gap to its clients.

use smallvec::{SmallVec, smallvec};

use super::Shared;
use crate::bus::Bus;
use crate::engine::{Engine, LogPlace, Status};
use crate::event::{EventId, Position, Sequence, Since, Timestamp};
use crate::feed::ResumeLookup;
use crate::kept::place_after;

/// Events retained after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetainedAfter {
    /// All of them, from this sequence of the ring on.
    All(Sequence),
    /// All but this many; the rest is from this sequence on.
    Some(u64, Sequence),
    /// Unknown so far: this node has not read the log to that place, or the caller's loop the bus.
    NotYet,
    /// Unknown: another epoch, or no such event.
    Unknown,
}

/// Finds the events after `id`, up to the loop's own place in its shard.
pub(crate) fn retained_after(shared: &Shared, id: EventId, end: Sequence) -> RetainedAfter {
    let log = shared.engine.as_ref().map(Engine::status);
    match search(&shared.bus, log.map(Status::epoch), id, end) {
        // A node that has just started reads the past first, possibly in more than one epoch. Until it reaches the
        // log's end, an id that is not in the ring may still come.
        RetainedAfter::Unknown if log.is_some_and(|status| !status.is_following()) => RetainedAfter::NotYet,
        found => found,
    }
}

/// Returns the places in the shards that a client names: one for each, or only the one that an id gives.
///
/// An id of an unknown shard is ignored, so every place returned has a shard of this bus.
pub(crate) fn marks(shared: &Shared, since: &Since) -> SmallVec<[EventId; 1]> {
    let shards = shared.bus.shards();
    let known = |position: &Position| {
        let fits = position.sequences().len() == shards;
        position.ids().filter(|_| fits).collect()
    };
    match since {
        Since::Position(position) => known(position),
        Since::Sealed(text) => {
            shared.auth.open_seal(text).map_or_else(SmallVec::new, |since| marks(shared, &since))
        }
        Since::Event(id) if usize::from(id.shard) >= shards => SmallVec::new(),
        // The position includes the order that this node chose for events of other shards. Another node may have chosen
        // another order.
        Since::Event(id) if shards > 1 && shared.engine.is_none() => match position_of(shared, *id) {
            Some(position) => known(&position),
            None => smallvec![*id],
        },
        Since::Event(id) => smallvec![*id],
    }
}

/// Returns whether some event that `since` names is published and not read yet, by this node or by the loop that has read each
/// shard up to `read_to`.
pub(crate) fn is_ahead(shared: &Shared, since: &Since, read_to: impl Fn(u16) -> Sequence) -> bool {
    marks(shared, since)
        .into_iter()
        .any(|id| retained_after(shared, id, read_to(id.shard)) == RetainedAfter::NotYet)
}

/// Returns the position of an event that is still in its ring, if it has one.
fn position_of(shared: &Shared, id: EventId) -> Option<Position> {
    let at = place_of(shared, id)?;
    let mut found = None;
    shared.bus.read_range(id.shard, at, at + 1, |event| found = event.position().cloned());
    found
}

/// Returns the place to resume from after this event, if everything after it is retained.
fn resume_behind(shared: &Shared, id: EventId) -> Option<Since> {
    let since = match shared.bus.shards() {
        1 => Since::Event(id),
        _ => Since::Position(position_of(shared, id)?),
    };
    let log = shared.engine_with_past();
    let is_kept = |id: &EventId| match retained_after(shared, *id, Sequence::MAX) {
        RetainedAfter::All(_) => true,
        // The ring has dropped some, but the log keeps at least as many.
        RetainedAfter::Some(missed, at) => log.is_some_and(|engine| {
            let ring = shared.bus.head(id.shard).saturating_sub(at);
            missed.saturating_add(ring) <= engine.kept_events()
        }),
        RetainedAfter::NotYet | RetainedAfter::Unknown => false,
    };
    marks(shared, &since).iter().all(is_kept).then_some(since)
}

/// The bus, for outboxes that look up retained events.
pub(crate) struct RetainedLookup<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) now: Timestamp,
    pub(crate) places: &'a LoopPlaces,
}

/// Places of a loop among the events, kept if some of its clients catch up.
#[derive(Debug, Default)]
pub(crate) struct LoopPlaces {
    /// Whether they are kept.
    pub(crate) are_kept: bool,
    /// Place of a client that has received all events in the feeds.
    pub(crate) now: Option<Position>,
    /// Place of a client that had received all events before the batch that is not written yet, or else the newest one.
    pub(crate) before_batch: Option<Position>,
}

impl ResumeLookup for RetainedLookup<'_> {
    fn resume_after(&self, id: EventId) -> Option<Since> {
        resume_behind(self.shared, id)
    }

    fn now(&self) -> Timestamp {
        self.now
    }

    fn place(&self) -> Option<&Position> {
        self.places.now.as_ref()
    }

    fn place_before_batch(&self) -> Option<&Position> {
        self.places.before_batch.as_ref()
    }
}

/// Finds the events after `id`. `log` is the epoch of the engine's log, if there is one.
fn search(bus: &Bus, log: Option<u64>, id: EventId, end: Sequence) -> RetainedAfter {
    if usize::from(id.shard) >= bus.shards() {
        return RetainedAfter::Unknown;
    }
    let head = bus.head(id.shard);
    let end = end.min(head);
    // In a busy moment the ring may have gone on by a lap from the caller's place.
    let oldest = bus.oldest(id.shard).min(end);
    let Some(newest_epoch) = log else {
        return match Some(id.next_sequence()).filter(|next| id.epoch == bus.epoch() && *next <= end) {
            Some(next) if next >= oldest => RetainedAfter::All(next),
            Some(next) => RetainedAfter::Some(oldest - next, oldest),
            // A publisher, or a client of another loop, knows an id before each loop has read the event.
            None if id.epoch == bus.epoch() && id.next_sequence() <= head => RetainedAfter::NotYet,
            None => RetainedAfter::Unknown,
        };
    };
    // The first place with an event after `id`. Events of earlier epochs come before it.
    let wanted = id.next_sequence();
    let order =
        |at: Sequence| event_id(bus, id.shard, at, end).map(|(_, found)| (found.epoch, found.sequence));
    let (mut low, mut high) = (oldest, end);
    while low < high {
        let middle = low + (high - low) / 2;
        match order(middle) {
            Some(found) if found < (id.epoch, wanted) => low = middle + 1,
            _ => high = middle,
        }
    }
    let before =
        low.checked_sub(1).filter(|before| *before >= oldest).and_then(|at| event_id(bus, id.shard, at, low));
    if before.is_some_and(|(_, found)| found == id) {
        return RetainedAfter::All(low);
    }
    match event_id(bus, id.shard, low, end) {
        Some((at, found)) if found.epoch == id.epoch && before.is_none() => {
            match found.sequence.checked_sub(wanted) {
                Some(0) => RetainedAfter::All(at),
                Some(missed) => RetainedAfter::Some(missed, at),
                // The ring was overwritten during the search.
                None => RetainedAfter::Unknown,
            }
        }
        // The first event of another epoch of the log. Events before it are of the previous one, and do not count.
        Some((at, found)) if found.epoch == id.epoch && wanted == 0 && found.sequence == 0 => {
            RetainedAfter::All(at)
        }
        // The shard has no event yet, neither here nor on the client's earlier node.
        None if newest_epoch == id.epoch && wanted == 0 => RetainedAfter::All(low),
        // After every event that this node has read of the log's current epoch: another node had read more.
        None if newest_epoch == id.epoch => RetainedAfter::NotYet,
        _ => RetainedAfter::Unknown,
    }
}

/// Returns the place of an event in the ring, if it is still there.
pub(crate) fn place_of(shared: &Shared, id: EventId) -> Option<Sequence> {
    let before = EventId::before(id.epoch, id.shard, id.sequence);
    match retained_after(shared, before, Sequence::MAX) {
        RetainedAfter::All(at) => Some(at),
        _ => None,
    }
}

/// Returns the place of the oldest event in a ring, as ids count; the place of the next one if there is none.
pub(crate) fn oldest_place(shared: &Shared, shard: u16) -> LogPlace {
    let bus = &shared.bus;
    let oldest = bus.oldest(shard);
    if shared.engine.is_none() {
        return (bus.epoch(), oldest);
    }
    match event_id(bus, shard, oldest, bus.head(shard)) {
        Some((_, id)) => (id.epoch, id.sequence),
        None => shared.engine.as_ref().map_or((0, 0), |engine| engine.status().began_at_place(shard)),
    }
}

/// Returns the sequence in a ring of its first event at this place or after it, as ids count.
pub(crate) fn ring_sequence(shared: &Shared, shard: u16, place: LogPlace) -> Sequence {
    if shared.engine.is_none() {
        return place.1;
    }
    let bus = &shared.bus;
    let (mut low, mut high) = (bus.oldest(shard), bus.head(shard));
    while low < high {
        let middle = low + (high - low) / 2;
        let found = event_id(bus, shard, middle, high).map(|(_, id)| (id.epoch, id.sequence));
        if found.is_some_and(|found| found < place) { low = middle + 1 } else { high = middle }
    }
    low
}

/// Returns the place after the newest event that this node has, as ids count, for a bus of one shard.
pub(crate) fn newest_place(shared: &Shared) -> LogPlace {
    let bus = &shared.bus;
    let head = bus.head(0);
    let Some(engine) = &shared.engine else { return (bus.epoch(), head) };
    let newest = event_id(bus, 0, head.saturating_sub(1), head).map(|(_, id)| place_after(id));
    let recorded = shared.kept.lock().map(|logs| logs.next_place(0));
    let began = engine.status().began_at_place(0);
    newest.into_iter().chain(recorded).fold(began, LogPlace::max)
}

/// Returns the first event at this place of a ring or after it, and its id.
pub(crate) fn event_id(bus: &Bus, shard: u16, from: Sequence, end: Sequence) -> Option<(Sequence, EventId)> {
    // A sequence may have been given up; then the next one is used.
    (from..end).take(8).find_map(|at| {
        let mut found = None;
        bus.read_range(shard, at, at + 1, |event| found = event.id());
        found.map(|id| (at, id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn bus_with(ids: &[(u64, Sequence)]) -> Bus {
        let bus = Bus::builder().capacity(8).build().expect("valid");
        for (epoch, sequence) in ids {
            let event = Event::builder("x").build().expect("valid");
            bus.publish_placed(event, EventId { epoch: *epoch, shard: 0, sequence: *sequence });
        }
        bus
    }

    fn look(bus: &Bus, epoch: u64, sequence: Sequence) -> RetainedAfter {
        search(bus, Some(6), EventId { epoch, shard: 0, sequence }, Sequence::MAX)
    }

    #[test]
    fn an_id_of_a_log_is_found_in_the_ring() {
        let bus = bus_with(&[(5, 100), (5, 101), (5, 102)]);
        assert_eq!(look(&bus, 5, 101), RetainedAfter::All(2));
        assert_eq!(look(&bus, 5, 102), RetainedAfter::All(3));
        assert_eq!(look(&bus, 5, 99), RetainedAfter::All(0));
        assert_eq!(look(&bus, 5, 90), RetainedAfter::Some(9, 0));
        assert_eq!(look(&bus, 5, 103), RetainedAfter::Unknown);
        assert_eq!(look(&bus, 4, 100), RetainedAfter::Unknown);
        // Earlier, the result was `Unknown`: a client of another node that had read more of the new epoch got a gap and
        // every event twice.
        assert_eq!(look(&bus, 6, 1), RetainedAfter::NotYet);
        assert_eq!(look(&bus, 7, 1), RetainedAfter::Unknown);
    }

    #[test]
    fn before_the_first_event_there_is_nothing_to_wait_for() {
        let before_all = u64::MAX;
        assert_eq!(look(&bus_with(&[]), 6, before_all), RetainedAfter::All(0));
        assert_eq!(look(&bus_with(&[]), 6, 0), RetainedAfter::NotYet);
        assert_eq!(look(&bus_with(&[(6, 0)]), 6, before_all), RetainedAfter::All(0));
        assert_eq!(look(&bus_with(&[(6, 3)]), 6, before_all), RetainedAfter::Some(3, 0));
    }

    #[test]
    fn evicted_events_of_the_ring_are_counted() {
        let ids: Vec<_> = (0..20).map(|sequence| (5, sequence)).collect();
        let bus = bus_with(&ids);
        assert_eq!(look(&bus, 5, 11), RetainedAfter::All(12));
        assert_eq!(look(&bus, 5, 10), RetainedAfter::Some(1, 12));
        assert_eq!(look(&bus, 5, 15), RetainedAfter::All(16));
    }

    #[test]
    fn a_hole_in_the_log_is_not_passed_over() {
        let bus = bus_with(&[(5, 1), (5, 2), (5, 7), (6, 0)]);
        // The event itself is retained. The loop reports the hole after it when it reaches the hole.
        assert_eq!(look(&bus, 5, 2), RetainedAfter::All(2));
        assert_eq!(look(&bus, 5, 4), RetainedAfter::Unknown);
        assert_eq!(look(&bus, 5, 7), RetainedAfter::All(3));
        assert_eq!(look(&bus, 5, 8), RetainedAfter::Unknown);
        assert_eq!([look(&bus, 6, 0), look(&bus, 6, 3)], [RetainedAfter::All(4), RetainedAfter::NotYet]);
    }

    #[test]
    fn a_bus_of_its_own_has_its_sequences_as_places() {
        let bus = Bus::builder().capacity(8).build().expect("valid");
        for _ in 0..20 {
            bus.publish(Event::builder("x").build().expect("valid"));
        }
        let at = |sequence| search(&bus, None, EventId { epoch: bus.epoch(), shard: 0, sequence }, 20);
        assert_eq!(
            [at(11), at(19), at(10), at(20)],
            [
                RetainedAfter::All(12),
                RetainedAfter::All(20),
                RetainedAfter::Some(1, 12),
                RetainedAfter::Unknown
            ]
        );
        // Up to a place that the ring has passed: events after it are not the caller's.
        let up_to_10 = |sequence| search(&bus, None, EventId { epoch: bus.epoch(), shard: 0, sequence }, 10);
        assert_eq!(
            [up_to_10(3), up_to_10(9), up_to_10(10)],
            [RetainedAfter::Some(6, 10), RetainedAfter::All(10), RetainedAfter::NotYet]
        );
        let other = EventId { epoch: bus.epoch() + 1, shard: 0, sequence: 11 };
        assert_eq!(search(&bus, None, other, 20), RetainedAfter::Unknown);
    }
}

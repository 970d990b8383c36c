//! Reads again the events that the rings still hold.
//!
//! Invariant: a replay ends at the newest event at the time of the call.

use std::fmt;

use smallvec::SmallVec;

use super::cursor::Cursor;
use super::item::Item;
use super::{Bus, Delivery, DeliveryRef, PositionError};
use crate::event::{Event, Position, Sequence};

/// Iterator over the events from a position on, up to the newest at the time of the call. See [`Bus::replay`].
pub struct Replay<T: Item = Event> {
    cursor: Cursor<T>,
    filter: T::Filter,
    end: SmallVec<[Sequence; 4]>,
}

impl<T: Item> Bus<T> {
    /// Returns an iterator from a position up to the newest event, straight from the rings: shard by shard, with a gap first
    /// for events that are no longer there. The iterator waits only for a publication that is under way.
    ///
    /// # Errors
    /// [`PositionError`] if the position is of another epoch, has another number of shards, or is ahead of the newest
    /// event.
    pub fn replay(&self, filter: impl Into<T::Filter>, from: &Position) -> Result<Replay<T>, PositionError> {
        let mut cursor = Cursor::new(&self.0.rings);
        let end = (0..cursor.shards()).map(|shard| cursor.next(shard)).collect();
        cursor.seek(from, self.epoch())?;
        Ok(Replay { cursor, filter: filter.into(), end })
    }
}

impl<T: Item> Iterator for Replay<T> {
    type Item = Delivery<T>;

    fn next(&mut self) -> Option<Delivery<T>> {
        let Self { cursor, filter, end } = self;
        for (shard, end) in end.iter().enumerate() {
            let mut taken = None;
            while taken.is_none() && cursor.next(shard) < *end {
                let mut left = *end - cursor.next(shard);
                let any = cursor.visit_shard(shard, |visit| {
                    left = left.saturating_sub(visit.sequences());
                    taken = visit.wanted(filter).map(DeliveryRef::into_delivery);
                    taken.is_none() && left > 0
                });
                if !any {
                    // Claimed, but not published yet: it will be published in a moment, or given up.
                    crate::sync::thread::yield_now();
                }
            }
            if taken.is_some() {
                return taken;
            }
        }
        None
    }
}

impl<T: Item> fmt::Debug for Replay<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replay")
    }
}

#[cfg(feature = "server")]
impl<T: Item> Bus<T> {
    /// Passes to `take` the events of a shard that the ring still holds without a hole up to `to`, beginning at `from`
    /// or later. Returns the sequence of the first. A shard that does not exist has no events.
    #[cfg(feature = "server")]
    pub(crate) fn read_range(
        &self,
        shard: u16,
        from: Sequence,
        to: Sequence,
        take: impl FnMut(&T),
    ) -> Sequence {
        let rings = &self.0.rings;
        let shard = usize::from(shard);
        let Some(ring) = rings.shards().get(shard) else { return to };
        let mut cursor = Cursor::<T>::new(rings);
        let to = to.min(cursor.next(shard));
        let mut start = from.max(ring.oldest()).min(to);
        cursor.set_next(shard, start);
        // Collected first, because publishers may overtake the reader, which then starts again further on.
        let mut events: Vec<T> = Vec::new();
        let mut next = start;
        while next < to {
            let any = cursor.visit_shard(shard, |visit| {
                match visit {
                    DeliveryRef::Event(item) => {
                        events.push(item.duplicate());
                        next += 1;
                    }
                    DeliveryRef::Gap(gap) => {
                        events.clear();
                        next = gap.to;
                        start = gap.to.min(to);
                    }
                }
                next < to
            });
            if !any {
                crate::sync::thread::yield_now();
            }
        }
        events.iter().for_each(take);
        start
    }
}

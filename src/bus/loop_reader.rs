//! Reader of the bus for an event loop: it never waits, and publishers wake it by a function that the loop supplies.
//!
//! Invariants:
//! - After [`LoopReader::prepare_sleep`] returned true, the next publication calls the waker.
//! - With several shards, every loop reads the same order, and each event carries its position in it.

use super::cursor::Cursor;
use super::delivery::DeliveryRef;
use super::event_count::Wake;
use super::order::{NextSegment, Order, Segment};
use super::waitable::Waitable;
use crate::event::{Event, Position, Sequence};
use crate::sync::{Arc, Callback, Mutex, lock};

/// Maximum number of events of a segment.
const SEGMENT_EVENTS: usize = 64;

/// An event or a gap, as a loop reads it.
pub(crate) enum ReaderItem<'a> {
    /// The next event of its shard.
    Event(&'a Event),
    /// Sequences `from..to` of a shard are lost to this reader.
    Gap { shard: u16, missed: u64, from: Sequence, to: Sequence },
}

impl<'a> From<DeliveryRef<'a, Event>> for ReaderItem<'a> {
    fn from(visit: DeliveryRef<'a, Event>) -> Self {
        match visit {
            DeliveryRef::Event(event) => Self::Event(event),
            DeliveryRef::Gap(gap) => {
                Self::Gap { shard: gap.shard, missed: gap.missed, from: gap.from, to: gap.to }
            }
        }
    }
}

/// A loop's reader over all shards.
pub(crate) struct LoopReader {
    cursor: Cursor<Event>,
    waker: Callback,
    ordered: Option<Ordered>,
}

/// Place of a reader in the order.
struct Ordered {
    order: Arc<Mutex<Order>>,
    reader: usize,
    /// Number of the next segment to read.
    next: u64,
    /// Segment that was read in part.
    segment: Option<Segment>,
    /// Position of a client that has received everything shown, in terms of event ids.
    client_position: Position,
    /// Epoch of the bus.
    epoch: u64,
    /// Events and gaps of a segment that this reader made, until they are shown.
    read_items: Vec<ReadItem>,
}

enum ReadItem {
    Event(Event),
    Gap(super::delivery::Gap),
}

impl LoopReader {
    pub(super) fn new(
        mut cursor: Cursor<Event>,
        epoch: u64,
        waker: Callback,
        order: Option<&Arc<Mutex<Order>>>,
    ) -> Self {
        let ordered = order.map(|shared| {
            let mut order = lock(shared);
            let (reader, next) = order.enter();
            for (shard, sequence) in order.next_sequences().iter().enumerate() {
                cursor.set_next(shard, *sequence);
            }
            let client_position = order.client_position().clone();
            Ordered {
                order: Arc::clone(shared),
                reader,
                next,
                segment: None,
                client_position,
                epoch,
                read_items: Vec::new(),
            }
        });
        Self { cursor, waker, ordered }
    }

    /// Moves to this sequence, on a bus of one shard.
    pub(crate) fn start_at(&mut self, sequence: Sequence) {
        if self.ordered.is_none() {
            self.cursor.set_next(0, sequence);
        }
    }

    /// Returns the next sequence it will read in a shard, 0 for a shard that is not there.
    pub(crate) fn position(&self, shard: u16) -> Sequence {
        let shard = usize::from(shard);
        if shard < self.cursor.shards() { self.cursor.next(shard) } else { 0 }
    }

    /// Returns the position of a client that has received everything shown, in terms of event ids; `None` with one
    /// shard.
    pub(crate) fn client_position(&self) -> Option<&Position> {
        self.ordered.as_ref().map(|ordered| &ordered.client_position)
    }

    /// Shows up to `max` events and gaps, in order for each shard, and returns their number.
    pub(crate) fn poll_batch(&mut self, max: usize, mut f: impl FnMut(ReaderItem<'_>)) -> usize {
        let mut count = 0;
        if let Some(ordered) = &mut self.ordered {
            while count < max {
                let shown = ordered.poll(&mut self.cursor, max - count, &mut f);
                count += shown.unwrap_or(0);
                if shown.is_none() {
                    break;
                }
            }
        } else if max > 0 {
            self.cursor.visit(|visit| {
                count += 1;
                f(visit.into());
                count < max
            });
        }
        count
    }

    /// Announces that the loop goes to sleep, and looks again. Returns true if there is nothing to read: the loop may
    /// sleep, and the next publication wakes it. Returns false if there is more.
    ///
    /// The announcement remains in effect until another thread publishes, however often the loop wakes for its sockets
    /// in between. So a loop whose own clients publish does not repeat the heavy fence, which is a system call.
    pub(crate) fn prepare_sleep(&mut self) -> bool {
        self.cursor.is_closed()
            || self
                .cursor
                .resume_sleep()
                .unwrap_or_else(|| self.cursor.prepare_sleep(Wake::Call(Callback::clone(&self.waker))))
    }

    /// Wakes every other reader that sleeps, after the loop has published by [`Bus::publish_unannounced`](super::Bus).
    pub(crate) fn notify_others(&self) {
        self.cursor.notify_others();
    }

    /// Withdraws the announcement, for a loop that sleeps without wanting to be woken by publishers.
    pub(crate) fn cancel_sleep(&mut self) {
        self.cursor.cancel_sleep();
    }
}

impl Ordered {
    /// Shows up to `max` events of one segment, and returns their number, or `None` if there is nothing more.
    fn poll(
        &mut self,
        cursor: &mut Cursor<Event>,
        max: usize,
        f: &mut impl FnMut(ReaderItem<'_>),
    ) -> Option<usize> {
        if let Some(segment) = self.segment.take() {
            return self.read(cursor, segment, max, f);
        }
        let shared = Arc::clone(&self.order);
        let mut order = lock(&shared);
        match order.segment(self.reader, self.next) {
            NextSegment::Segment(segment) => {
                drop(order);
                self.next += 1;
                self.client_position.clone_from(&segment.before);
                self.read(cursor, segment, max, f)
            }
            NextSegment::Lost { number, sequences } => {
                drop(order);
                self.next = number;
                let mut count = 0;
                for (shard, sequence) in sequences.into_iter().enumerate() {
                    if let Some(gap) = cursor.skip_to(shard, sequence) {
                        count += 1;
                        f(DeliveryRef::Gap(gap).into());
                    }
                }
                Some(count)
            }
            NextSegment::End => {
                self.client_position.clone_from(order.client_position());
                let after = self.make(cursor, &mut order, max.min(SEGMENT_EVENTS))?;
                drop(order);
                let mut read_items = std::mem::take(&mut self.read_items);
                let count = read_items.len();
                for item in read_items.drain(..) {
                    match item {
                        ReadItem::Event(event) => {
                            pass(&mut self.client_position, &event);
                            f(ReaderItem::Event(&event));
                        }
                        ReadItem::Gap(gap) => f(DeliveryRef::Gap(gap).into()),
                    }
                }
                self.read_items = read_items;
                // Position after this segment: the order may have grown since.
                self.client_position = after;
                Some(count)
            }
        }
    }

    /// Reads the rings from the order's end, and makes the next segment from the events read. Returns the clients'
    /// position after it; `None` if there is nothing.
    fn make(&mut self, cursor: &mut Cursor<Event>, order: &mut Order, max: usize) -> Option<Position> {
        // The cursor may have skipped overwritten sequences that are in no segment yet. They become a segment, which no
        // loop will see.
        let ahead = (0..cursor.shards()).find(|shard| cursor.next(*shard) > order.next_sequences()[*shard]);
        let mut after = order.client_position().clone();
        // If not, ids come from a log, and the next event brings its own.
        let are_own = after.epoch == self.epoch;
        let read_items = &mut self.read_items;
        let shard = match ahead {
            Some(shard) => shard,
            None => cursor.visit_one(|visit| {
                read_items.push(match visit {
                    DeliveryRef::Event(event) => ReadItem::Event(event.clone()),
                    DeliveryRef::Gap(gap) => ReadItem::Gap(gap),
                });
                read_items.len() < max
            })?,
        };
        for item in read_items.iter() {
            match item {
                ReadItem::Event(event) => event.id().into_iter().for_each(|id| after.advance_past(id)),
                ReadItem::Gap(_) => {}
            }
        }
        if are_own {
            after.sequences[shard] = cursor.next(shard);
        }
        self.next = order.push(self.reader, shard, cursor.next(shard), after.clone());
        Some(after)
    }

    /// Shows the events of a segment that the ring still holds.
    fn read(
        &mut self,
        cursor: &mut Cursor<Event>,
        segment: Segment,
        max: usize,
        f: &mut impl FnMut(ReaderItem<'_>),
    ) -> Option<usize> {
        let Segment { shard, to, .. } = segment;
        let mut next = cursor.next(shard);
        let mut count = 0;
        while next < to && count < max {
            let client_position = &mut self.client_position;
            let any = cursor.visit_shard(shard, |visit| {
                count += 1;
                match &visit {
                    DeliveryRef::Event(event) => {
                        next += 1;
                        pass(client_position, event);
                    }
                    DeliveryRef::Gap(gap) => next = gap.to,
                }
                f(visit.into());
                next < to && count < max
            });
            if !any {
                // Another loop saw the event, so this one sees it at its next look.
                break;
            }
        }
        if next < to {
            self.segment = Some(segment);
            return (count > 0).then_some(count);
        }
        Some(count)
    }
}

/// Moves the clients' position past an event, and records it in the event.
fn pass(client_position: &mut Position, event: &Event) {
    if let Some(id) = event.id() {
        client_position.advance_past(id);
        event.set_position(client_position);
    }
}

impl Drop for Ordered {
    fn drop(&mut self) {
        lock(&self.order).leave(self.reader);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::bus::Bus;
    use crate::event::EventId;

    /// Events that one reader was shown, with their positions.
    type Shown = Vec<(EventId, Position)>;

    fn take(reader: &mut LoopReader, max: usize, shown: &mut Shown, gaps: &mut u64) -> usize {
        reader.poll_batch(max, |item| match item {
            ReaderItem::Event(event) => {
                let position = event.position().expect("it stands somewhere").clone();
                shown.push((event.id().expect("published"), position));
            }
            ReaderItem::Gap { missed, .. } => *gaps += missed,
        })
    }

    fn event(source: u64) -> Event {
        Event::builder("x").source(&source.to_string()).build().expect("valid")
    }

    #[test]
    fn readers_of_several_shards_see_one_order() {
        const EACH: u64 = 3000;
        for shards in [2, 4] {
            let bus = Bus::builder().shards(shards).capacity(1 << 14).build().expect("valid");
            let readers: Vec<LoopReader> = (0..3).map(|_| bus.reader(|| {})).collect();
            let all: Vec<Shown> = std::thread::scope(|scope| {
                for publisher in 0..3 {
                    let bus = bus.clone();
                    scope.spawn(move || {
                        for n in 0..EACH {
                            bus.publish(event(publisher * 7 + n % 5));
                        }
                    });
                }
                let readers: Vec<_> = (readers.into_iter().enumerate())
                    .map(|(at, mut reader)| {
                        scope.spawn(move || {
                            let (mut shown, mut gaps) = (Shown::new(), 0);
                            while (shown.len() as u64) < 3 * EACH {
                                take(&mut reader, 1 + at * 50, &mut shown, &mut gaps);
                            }
                            assert_eq!(gaps, 0);
                            assert_eq!(reader.client_position(), shown.last().map(|(_, position)| position));
                            shown
                        })
                    })
                    .collect();
                readers.into_iter().map(|reader| reader.join().expect("read")).collect()
            });
            assert!(all[0] == all[1] && all[1] == all[2], "{shards} shards: the orders differ");
            // A position covers the events before and the event itself, nothing else.
            let mut next: HashMap<u16, u64> = HashMap::new();
            for (id, position) in &all[0] {
                next.insert(id.shard, id.sequence + 1);
                let want = (0..shards as u16).map(|shard| next.get(&shard).copied().unwrap_or(0));
                assert_eq!(*position, Position::new(bus.epoch(), want));
            }
        }
    }

    #[test]
    fn a_readers_position_is_its_last_item_however_far_the_order_is() {
        let bus = Bus::builder().shards(2).capacity(64).build().expect("valid");
        let (mut one, mut other) = (bus.reader(|| {}), bus.reader(|| {}));
        bus.publish(event(1));
        let (mut shown, mut ahead, mut gaps) = (None, Shown::new(), 0);
        one.poll_batch(1, |item| {
            let ReaderItem::Event(first) = item else { panic!("nothing is lost") };
            shown = first.position().cloned();
            // While this reader shows its segment, the other reader makes the next one.
            bus.publish(event(2));
            while take(&mut other, 10, &mut ahead, &mut gaps) > 0 {}
        });
        assert_eq!(ahead.len(), 2);
        assert_eq!(one.client_position(), shown.as_ref());
    }

    #[test]
    fn a_reader_that_the_ring_overtook_finds_back_into_the_order() {
        let bus = Bus::builder().shards(2).capacity(64).build().expect("valid");
        let (mut quick, mut slow) = (bus.reader(|| {}), bus.reader(|| {}));
        let (mut seen, mut late) = (Shown::new(), Shown::new());
        let (mut none, mut lost) = (0, 0);
        for n in 0..5000 {
            bus.publish(event(n % 9));
            take(&mut quick, 10, &mut seen, &mut none);
            if n % 700 == 0 {
                take(&mut slow, 7, &mut late, &mut lost);
            }
        }
        while take(&mut slow, 100, &mut late, &mut lost) > 0 {}
        assert_eq!((none, seen.len() as u64), (0, late.len() as u64 + lost));
        assert!(lost > 0);
        // The events that it has are in the order of all readers.
        let mut all = seen.iter();
        assert!(late.iter().all(|shown| all.any(|other| other == shown)), "another order");
    }
}

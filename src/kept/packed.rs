//! Events of one log in packed form, from the oldest to the newest.
//!
//! Events are in segments of up to 64. A segment is one piece of bytes, so that a small event takes little more than its
//! payload. Attributes that a log's events share are stored once.
//!
//! Invariants:
//! - An event that is read equals the pushed one, except for its frames.
//! - [`size`](PackedEvents::size) depends on the events alone. It is equal on all nodes, whatever each has in memory.
//! - A push or a pop moves at most [`SEGMENT_BYTES`] of other events, and popped events hold at most as many bytes.

use std::collections::VecDeque;

use crate::event::packed::{
    EventHead, HEADS_MAX, OwnAttributes, PackedEvent, PackingBase, PlainEvent, pack, packed_bytes,
    put_number, take_number,
};
use crate::event::{Attribute, Event, EventId, Timestamp};
use crate::held::heap_block;

/// Maximum number of events of a segment.
const SEGMENT_EVENTS: u64 = 64;

/// Size from which on a segment takes no more events, in bytes.
const SEGMENT_BYTES: usize = 16 << 10;

/// Maximum size of the attributes of a head, in bytes.
const HEAD_BYTES_MAX: u16 = 512;

/// Size of an event in addition to its attributes, payload and trace context, in bytes: id, time and number at most.
const EVENT_BYTES: usize = 32;

/// Maximum size of a packed number.
const NUMBER_BYTES: usize = 10;

/// Event of a log, with its number, id and time read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    /// Number among all recorded events.
    pub(super) number: u64,
    packed: PackedEvent<'a>,
}

impl<'a> Entry<'a> {
    /// Returns the event in packed form, as [`PackedEvent::plain`] does.
    #[inline]
    pub(super) fn plain(&self) -> Option<PlainEvent<'a>> {
        self.packed.plain()
    }

    pub(super) fn id(&self) -> EventId {
        self.packed.id()
    }

    pub(super) fn timestamp(&self) -> Timestamp {
        self.packed.timestamp()
    }

    /// Returns the place of the event's position, as [`Position::passed`](crate::event::Position::passed) does; `None` if
    /// it has none.
    pub(super) fn passed(&self) -> Option<(u64, u128)> {
        self.packed.passed()
    }

    /// Builds the event. Allocates, unless the thread's pool of bodies has one.
    pub(super) fn event(&self) -> Event {
        self.packed.unpack()
    }
}

/// Consecutive events.
#[derive(Debug)]
struct LogSegment {
    base: PackingBase,
    /// Number of the event of the base among all recorded events.
    number: u64,
    /// Index of the first event of `starts`, counted from the first event that was ever pushed.
    first: u64,
    /// Index of the first event that was pushed to the segment.
    began: u64,
    bytes: Vec<u8>,
    /// Start of each event in the bytes.
    starts: Vec<u16>,
    /// Number of events at the front that were popped.
    popped: usize,
}

impl LogSegment {
    /// Returns the memory of its bytes and their starts.
    fn heap_bytes(&self) -> usize {
        heap_block(self.bytes.capacity())
            + heap_block(self.starts.capacity() * size_of::<u16>())
            + heap_block(self.base.held_bytes())
    }

    /// Returns whether it takes another event, at this index.
    fn takes(&self, index: u64) -> bool {
        index - self.began < SEGMENT_EVENTS && self.bytes.len() < SEGMENT_BYTES
    }

    /// Returns an event by its place among `starts`.
    #[inline]
    fn record(&self, at: usize) -> Option<&[u8]> {
        let start = usize::from(*self.starts.get(at)?);
        let end = self.starts.get(at + 1).map_or(self.bytes.len(), |end| usize::from(*end));
        self.bytes.get(start..end)
    }

    #[inline]
    fn entry<'a>(&'a self, at: usize, heads: &'a [EventHead]) -> Option<Entry<'a>> {
        let mut record = self.record(at)?;
        let number = self.number.wrapping_add(take_number(&mut record));
        let head = heads.get(PackedEvent::code(record));
        Some(Entry { number, packed: PackedEvent::read(record, &self.base, head) })
    }

    /// Gives back memory that later events would use.
    fn seal(&mut self) {
        self.bytes.shrink_to_fit();
        self.starts.shrink_to_fit();
    }

    /// Gives back the memory of popped events if they are half of the bytes.
    fn compact(&mut self) {
        let Some(start) = self.starts.get(self.popped).copied() else { return };
        if usize::from(start) * 2 < self.bytes.len() {
            return;
        }
        self.bytes.drain(..usize::from(start));
        self.starts.drain(..self.popped);
        for at in &mut self.starts {
            *at -= start;
        }
        self.first += self.popped as u64;
        self.popped = 0;
        self.seal();
    }
}

/// Makes room for more bytes, with a quarter of the capacity to spare.
fn make_room<T>(place: &mut Vec<T>, more: usize) {
    if place.capacity() - place.len() < more {
        place.reserve_exact(more.max(place.capacity() / 4));
    }
}

/// Queue of packed events.
#[derive(Debug, Default)]
pub(super) struct PackedEvents {
    segments: VecDeque<LogSegment>,
    /// Attributes that events have. The code of a head is its index.
    heads: Vec<EventHead>,
    len: usize,
    /// Size of the events.
    size: usize,
    /// Heap memory of the segments' bytes and of the heads' texts.
    heap_bytes: usize,
}

impl PackedEvents {
    /// Returns the number of events.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the size of the events in bytes: their attributes, payloads and trace contexts, and 32 bytes each.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Returns the heap memory in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.heap_bytes
            + heap_block(self.segments.capacity() * size_of::<LogSegment>())
            + heap_block(self.heads.capacity() * size_of::<EventHead>())
    }

    /// Returns the event at a place, from the oldest one at 0.
    pub(super) fn get(&self, at: usize) -> Option<Entry<'_>> {
        let front = self.segments.front()?;
        let index = front.first + front.popped as u64 + at as u64;
        let after = match self.segments.len() {
            1 => 1,
            _ => self.segments.partition_point(|segment| segment.first <= index),
        };
        let segment = self.segments.get(after.checked_sub(1)?)?;
        segment.entry((index - segment.first) as usize, &self.heads)
    }

    /// Returns the events from one place up to another. Finds the first one only, which is less than a third of the work of
    /// [`get`](Self::get) for each.
    pub(super) fn range(&self, from: usize, to: usize) -> impl Iterator<Item = Entry<'_>> {
        let first = self.segments.front().map_or(0, |front| front.first + front.popped as u64);
        let (from, to) = (first + from as u64, first + to.min(self.len) as u64);
        let begin = self.segments.partition_point(|segment| segment.first <= from).saturating_sub(1);
        let segments = self.segments.range(begin..).take_while(move |segment| segment.first < to);
        segments.flat_map(move |segment| {
            let end = ((to - segment.first) as usize).min(segment.starts.len());
            let begin = from.saturating_sub(segment.first) as usize;
            (begin..end).filter_map(|at| segment.entry(at, &self.heads))
        })
    }

    /// Passes the events from one place up to another to `take`, until it returns false.
    #[inline]
    pub(super) fn visit<'a>(&'a self, from: usize, to: usize, mut take: impl FnMut(Entry<'a>) -> bool) {
        let first = self.segments.front().map_or(0, |front| front.first + front.popped as u64);
        let (from, to) = (first + from as u64, first + to.min(self.len) as u64);
        let begin = self.segments.partition_point(|segment| segment.first <= from).saturating_sub(1);
        for segment in self.segments.range(begin..) {
            if segment.first >= to {
                return;
            }
            let end = ((to - segment.first) as usize).min(segment.starts.len());
            for at in from.saturating_sub(segment.first) as usize..end {
                if let Some(entry) = segment.entry(at, &self.heads)
                    && !take(entry)
                {
                    return;
                }
            }
        }
    }

    /// Returns the size of the segments with the events from one place up to another, in bytes.
    pub(super) fn bytes_between(&self, from: usize, to: usize) -> usize {
        let Some(front) = self.segments.front() else { return 0 };
        let index = |at: usize| front.first + front.popped as u64 + at as u64;
        let (from, to) = (index(from), index(to));
        let begin = self.segments.partition_point(|segment| segment.first <= from).saturating_sub(1);
        let segments = self.segments.range(begin..).take_while(|segment| segment.first < to);
        segments.map(|segment| segment.bytes.len()).sum()
    }

    /// Returns the oldest event.
    pub(super) fn front(&self) -> Option<Entry<'_>> {
        self.get(0)
    }

    /// Returns the number of events at the front for which `is_before` is true. It must be false for all after them.
    pub(super) fn partition_point(&self, is_before: impl Fn(&Entry<'_>) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(middle).is_some_and(|entry| is_before(&entry)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Returns the head that an event is packed with, and the attributes in which it differs from that.
    fn head_for(&mut self, event: &Event) -> (u8, OwnAttributes) {
        let all = || self.heads.iter().zip(0..).map(|(head, code)| (code, head));
        let equal = all().find(|(_, head)| head.has_hashes_of(event));
        if let Some((code, own)) = equal.map(|(code, head)| (code, head.differences(event)))
            && own.is_empty()
        {
            return (code, own);
        }
        let nearest =
            all().map(|(code, head)| (code, head.differences(event))).min_by_key(|(_, own)| own.count());
        let has_type = nearest.is_some_and(|(_, own)| !own.contains(Attribute::Type));
        if let Some(nearest) = nearest.filter(|_| has_type || self.heads.len() == HEADS_MAX) {
            return nearest;
        }
        // Most events of a log have one of few types, and events of one type differ in few attributes.
        let head = EventHead::of(event, HEAD_BYTES_MAX);
        if let (None, Some(nearest)) = (&head, nearest) {
            return nearest;
        }
        let head = head.unwrap_or_default();
        let own = head.differences(event);
        self.heap_bytes += heap_block(head.text_bytes());
        make_room(&mut self.heads, 1);
        self.heads.push(head);
        ((self.heads.len() - 1) as u8, own)
    }

    /// Appends an event that has this id.
    pub(super) fn push(&mut self, number: u64, id: EventId, event: &Event) {
        let (code, own) = self.head_for(event);
        let index =
            self.segments.front().map_or(0, |front| front.first + front.popped as u64) + self.len as u64;
        let is_new = self.segments.back().is_none_or(|last| !last.takes(index));
        if is_new {
            if let Some(full) = self.segments.back_mut() {
                self.heap_bytes -= full.heap_bytes();
                full.seal();
                self.heap_bytes += full.heap_bytes();
            }
            if self.segments.len() == self.segments.capacity() {
                self.segments.reserve_exact(1 + self.segments.len() / 4);
            }
            let base = PackingBase::of(event, id);
            self.heap_bytes += heap_block(base.held_bytes());
            self.segments.push_back(LogSegment {
                base,
                number,
                first: index,
                began: index,
                bytes: Vec::new(),
                starts: Vec::new(),
                popped: 0,
            });
        }
        let Some(last) = self.segments.back_mut() else { return };
        let before = last.heap_bytes();
        make_room(&mut last.starts, 1);
        last.starts.push(last.bytes.len() as u16);
        make_room(&mut last.bytes, packed_bytes(event, own) + NUMBER_BYTES);
        put_number(number.wrapping_sub(last.number), &mut last.bytes);
        pack(event, id, &last.base, code, own, &mut last.bytes);
        self.heap_bytes = self.heap_bytes + last.heap_bytes() - before;
        self.size += EVENT_BYTES + event.text_bytes();
        self.len += 1;
    }

    /// Removes the oldest event, and returns its id.
    pub(super) fn pop(&mut self) -> Option<EventId> {
        let oldest = self.front()?;
        let (id, size) = (oldest.id(), EVENT_BYTES + oldest.packed.text_bytes());
        self.size -= size;
        self.len -= 1;
        let front = self.segments.front_mut()?;
        front.popped += 1;
        if front.popped == front.starts.len() {
            self.drop_segment();
        } else {
            let before = front.heap_bytes();
            front.compact();
            self.heap_bytes = self.heap_bytes + front.heap_bytes() - before;
        }
        if self.len == 0 {
            *self = Self::default();
        }
        Some(id)
    }

    /// Removes the oldest segment. Returns false if there is none.
    pub(super) fn drop_segment(&mut self) -> bool {
        let dropped = self.segments.pop_front();
        self.heap_bytes -= dropped.as_ref().map_or(0, LogSegment::heap_bytes);
        dropped.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Position;
    use crate::kept::tests::dice;

    /// Returns an event that has most attributes in common with others.
    fn event(number: u64, next: &mut impl FnMut(u64) -> u64) -> Event {
        let types = ["token", "token", "token", "tool", "run.finished"];
        let kind = match next(20) {
            0 => format!("type-{}", next(30)),
            _ => types[next(5) as usize].to_owned(),
        };
        let len = if next(200) == 0 { next(40_000) } else { next(60) };
        let mut event =
            Event::builder(&kind).stream("run-1").json(format!("\"{}\"", "x".repeat(len as usize)));
        if next(3) == 0 {
            event = event.source(["agent", "user"][next(2) as usize]);
        }
        if next(10) == 0 {
            event = event.correlation(&format!("c-{number}"));
        }
        if next(100) == 0 {
            event = event.channel(&"c".repeat(1000));
        }
        let event = event.build().expect("valid");
        event.set_id(EventId { epoch: 1 + number / 900, shard: next(2) as u16, sequence: number * 3 });
        if next(2) == 0 {
            event.set_position(&Position::new(1, [number, number * 2]));
        }
        event
    }

    fn parts(event: &Event) -> impl PartialEq + std::fmt::Debug + use<> {
        let attributes = Attribute::ALL.map(|attribute| event.attribute(attribute).map(str::to_owned));
        let place = (event.id(), event.position().cloned());
        (attributes, event.payload().to_owned(), event.timestamp(), event.made(), place)
    }

    fn size(event: &Event) -> usize {
        let attributes =
            Attribute::ALL.iter().map(|attribute| event.attribute(*attribute).map_or(0, str::len));
        attributes.sum::<usize>() + event.payload().len() + 32
    }

    /// Compares everything that a queue says with a plain one.
    fn compare(packed: &PackedEvents, plain: &VecDeque<(u64, Event)>) {
        assert_eq!((packed.len(), packed.is_empty()), (plain.len(), plain.is_empty()));
        assert_eq!(packed.size(), plain.iter().map(|(_, event)| size(event)).sum::<usize>());
        for (at, (number, event)) in plain.iter().enumerate() {
            let entry = packed.get(at).expect("there");
            assert_eq!((entry.number, Some(entry.id())), (*number, event.id()));
            assert_eq!(entry.passed(), event.position().map(Position::passed));
            assert_eq!(parts(&entry.event()), parts(event));
        }
        assert!(packed.get(plain.len()).is_none());
        for (from, to) in
            [(0, plain.len()), (plain.len() / 3, plain.len() / 2), (plain.len(), plain.len() + 9)]
        {
            let want = plain.range(from..to.min(plain.len())).map(|(number, event)| (*number, event.id()));
            let got = packed.range(from, to).map(|entry| (entry.number, Some(entry.id())));
            assert!(got.eq(want), "{from}..{to}");
            let payloads: usize =
                plain.range(from..to.min(plain.len())).map(|(_, event)| event.payload().len()).sum();
            assert!(packed.bytes_between(from, to) >= payloads, "{from}..{to}");
        }
        let segments: usize = packed.segments.iter().map(LogSegment::heap_bytes).sum();
        let heads: usize = packed.heads.iter().map(|head| heap_block(head.text_bytes())).sum();
        assert_eq!(packed.heap_bytes, segments + heads);
    }

    #[test]
    fn packed_events_are_those_that_were_pushed() {
        for seed in 1..13 {
            let mut next = dice(seed);
            let (mut packed, mut plain) = (PackedEvents::default(), VecDeque::new());
            let window = [3, 40, 150, 400][seed as usize % 4];
            for step in 0..600 {
                let event = event(step, &mut next);
                let number = 2 * step + next(2);
                packed.push(number, event.id().expect("published"), &event);
                plain.push_back((number, event));
                // Now and then all are popped.
                let most = if next(250) == 0 { 0 } else { window };
                while plain.len() > most {
                    assert_eq!(packed.pop(), plain.pop_front().and_then(|(_, event)| event.id()));
                }
                if step % 37 == 0 {
                    compare(&packed, &plain);
                }
                let popped: usize = packed
                    .segments
                    .iter()
                    .filter_map(|segment| segment.starts.get(segment.popped))
                    .map(|start| usize::from(*start))
                    .sum();
                assert!(popped <= SEGMENT_BYTES, "{popped} bytes of popped events");
            }
            compare(&packed, &plain);
            let half = plain.len() / 2;
            assert_eq!(packed.partition_point(|entry| entry.number < plain[half].0), half);
            while packed.drop_segment() {}
            assert!(packed.heap_bytes <= HEADS_MAX * (usize::from(HEAD_BYTES_MAX) + 32));
        }
    }

    #[test]
    fn attributes_that_events_share_are_stored_once() {
        let mut packed = PackedEvents::default();
        assert_eq!((packed.pop(), packed.held_bytes()), (None, 0));
        for number in 0..10_000 {
            let kind = if number % 50 == 0 { "tool.call" } else { "token" };
            let event = Event::builder(kind).stream("run-1").source("agent").execution("x").json("[1,2,3,4]");
            let event = event.build().expect("valid");
            let id = EventId { epoch: 1, shard: 0, sequence: 7 * number };
            event.set_id(id);
            packed.push(number, id, &event);
        }
        assert_eq!(packed.heads.len(), 2);
        let an_event = packed.held_bytes() / 10_000;
        assert!(an_event <= 9 + 18, "{an_event} bytes for an event");
    }

    #[test]
    fn an_event_with_long_attributes_is_packed_without_a_head_of_its_own() {
        let mut packed = PackedEvents::default();
        for number in 0..3 {
            let event = Event::builder(&"t".repeat(1000)).channel(&"c".repeat(1000)).build().expect("valid");
            let id = EventId { epoch: 1, shard: 0, sequence: number };
            event.set_id(id);
            packed.push(number, id, &event);
            let read = packed.get(number as usize).expect("there").event();
            assert_eq!(parts(&read), parts(&event));
        }
        assert_eq!(packed.heads.len(), 1);
        assert_eq!(packed.heads[0].text_bytes(), 0);
    }
}

//! Compact record of events that the rings and the log may have dropped, by kind.
//!
//! A client that resumes from a dropped place needs to know whether it missed events, and how many. The events are
//! dropped, but their kinds are recorded: two bytes for each event, which stand for its type, source, stream, channel
//! and kind of entity. Filters on these attributes alone get an exact count, others a bound.
//!
//! Invariants:
//! - The record of a shard is one run of events without a hole, in one epoch.
//! - A count is never below the number of wanted events, and exact if it says so.
//! - Memory is bounded: [`EVENTS_MAX`] events of all shards, and [`KINDS_MAX`] kinds for each [`SEGMENT`] of them.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::event::{Attribute, Event, EventId, Sequence};
use crate::filter::{Clause, Filter, holds};

/// Maximum number of recorded events of all shards together: 512 KiB of numbers.
const EVENTS_MAX: usize = 1 << 18;

/// Number of events that share a list of kinds.
const SEGMENT: usize = 4096;

/// Maximum number of kinds of a segment; further kinds are recorded as unknown. A kind takes about 300 bytes.
const KINDS_MAX: usize = 128;

/// Number of an event of unknown kind.
const OTHER: u16 = u16::MAX;

/// Approximate size of a kind, in bytes: an event of its own, and its place in the list.
const KIND_BYTES: usize = 300;

/// Instructions for a byte of a filter that is matched against one kind.
const COMPARE_INSTRUCTIONS: usize = 30;

/// Maximum budget units of one count. A filter so large that its count would take more gets a bound.
const UNITS_MAX: usize = 500;

/// Attributes that make up a kind. The others usually differ for each event.
const KEPT: [Attribute; 5] =
    [Attribute::Type, Attribute::Source, Attribute::Stream, Attribute::Channel, Attribute::EntityKind];

/// Bounds on the number of wanted events between two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// Events that were certainly wanted.
    pub(super) least: u64,
    /// Events that may have been wanted.
    pub(super) most: u64,
}

/// Record of all shards.
#[derive(Debug, Default)]
pub(super) struct KindLog {
    shards: Vec<Shard>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Shard {
    epoch: u64,
    segments: VecDeque<KindSegment>,
    /// Index of the kinds of the newest segment.
    known: HashTable<u16>,
}

#[derive(Debug)]
struct KindSegment {
    first: Sequence,
    events: Vec<u16>,
    kinds: Vec<Event>,
}

impl KindSegment {
    fn end(&self) -> Sequence {
        self.first + self.events.len() as u64
    }
}

/// Returns whether an event is of a kind.
fn is_of(kind: &Event, event: &Event) -> bool {
    let values = |event: &Event| KEPT.map(|attribute| event.signature().0[attribute.index()]);
    values(kind) == values(event)
        && KEPT.iter().all(|attribute| kind.attribute(*attribute) == event.attribute(*attribute))
}

/// Returns an event with only the kept attributes of another.
fn kind_of(event: &Event) -> Option<Event> {
    let mut kind = Event::builder(event.event_type());
    if let Some(source) = event.source() {
        kind = kind.source(source);
    }
    if let Some(stream) = event.stream() {
        kind = kind.stream(stream);
    }
    if let Some(channel) = event.channel() {
        kind = kind.channel(channel);
    }
    if let Some(entity) = event.attribute(Attribute::EntityKind) {
        kind = kind.entity(entity, "");
    }
    kind.build().ok()
}

impl KindLog {
    /// Records the kind of an event. Events of a shard come in their order.
    pub(super) fn record(&mut self, event: &Event) {
        let Some(id) = event.id() else { return };
        let at = usize::from(id.shard);
        if self.shards.len() <= at {
            self.shards.resize_with(at + 1, Shard::default);
        }
        let segments_max = (EVENTS_MAX / SEGMENT / self.shards.len()).max(2);
        self.shards[at].record(event, id, segments_max, &self.hasher);
    }

    /// Counts the events of a shard from a place on that at least one of these filters wanted, and adds the budget units of
    /// the count to `spent`. Returns `None` if the events are not recorded, or the count would take too long.
    pub(super) fn count(
        &self,
        filters: &[Filter],
        (epoch, shard): (u64, u16),
        from: Sequence,
        count: u64,
        spent: &mut u32,
    ) -> Option<Count> {
        let shard = self.shards.get(usize::from(shard)).filter(|shard| shard.epoch == epoch)?;
        let to = from.checked_add(count)?;
        let (first, last) = (shard.segments.front()?, shard.segments.back()?);
        if from < first.first || to > last.end() {
            return None;
        }
        let segments = shard.segments.iter().filter(|segment| segment.first < to && from < segment.end());
        let kinds: usize = segments.clone().map(|segment| segment.kinds.len()).sum();
        let events = usize::try_from(count).ok()?;
        let bytes: usize = filters.iter().map(|filter| filter.spelled_len() + 2).sum();
        let units = (kinds * bytes * COMPARE_INSTRUCTIONS + events * 2) / 1_000 + 1;
        if units > UNITS_MAX {
            return None;
        }
        *spent = spent.saturating_add(u32::try_from(units).unwrap_or(u32::MAX));
        let mut sum = Count { least: 0, most: 0 };
        for segment in segments {
            let wants = segment.kinds.iter().map(|kind| wanted(filters, kind));
            let wants: Vec<(u64, u64)> = wants.collect();
            let begin = from.saturating_sub(segment.first) as usize;
            let end = (to - segment.first).min(segment.events.len() as u64) as usize;
            for kind in &segment.events[begin..end] {
                let (least, most) = wants.get(usize::from(*kind)).copied().unwrap_or((0, 1));
                sum = Count { least: sum.least + least, most: sum.most + most };
            }
        }
        Some(sum)
    }

    /// Returns the approximate memory of the record, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let segment =
            |segment: &KindSegment| segment.events.capacity() * 2 + segment.kinds.len() * KIND_BYTES;
        self.shards.iter().flat_map(|shard| &shard.segments).map(segment).sum()
    }
}

/// Returns the least and the most that one event of a kind counts for.
fn wanted(filters: &[Filter], kind: &Event) -> (u64, u64) {
    let each = filters.iter().map(|filter| wanted_by(filter, kind));
    each.fold((0, 0), |sum, one| (sum.0.max(one.0), sum.1.max(one.1)))
}

fn wanted_by(filter: &Filter, kind: &Event) -> (u64, u64) {
    let mut least = 1;
    for clause in filter.clauses() {
        let is_kept = match clause {
            Clause::Set(set) => KEPT.iter().any(|attribute| attribute.index() == usize::from(set.about)),
            Clause::Comparison(_) => false,
        };
        if !is_kept {
            least = 0;
        } else if !holds(clause, kind) {
            return (0, 0);
        }
    }
    (least, 1)
}

impl Shard {
    fn record(&mut self, event: &Event, id: EventId, segments_max: usize, hasher: &RandomState) {
        let follows = self.epoch == id.epoch
            && self.segments.back().is_some_and(|segment| segment.end() == id.sequence);
        if !follows {
            self.segments.clear();
            self.epoch = id.epoch;
        }
        if self.segments.back().is_none_or(|segment| segment.events.len() >= SEGMENT) {
            while self.segments.len() >= segments_max {
                self.segments.pop_front();
            }
            self.known.clear();
            self.segments.push_back(KindSegment {
                first: id.sequence,
                events: Vec::new(),
                kinds: Vec::new(),
            });
        }
        let Some(KindSegment { events, kinds, .. }) = self.segments.back_mut() else { return };
        // Events of one kind often come in bursts.
        if let Some(last) = events.last().copied()
            && kinds.get(usize::from(last)).is_some_and(|kind| is_of(kind, event))
        {
            events.push(last);
            return;
        }
        let hash =
            |event: &Event| hasher.hash_one(KEPT.map(|attribute| event.signature().0[attribute.index()]));
        let found = self.known.find(hash(event), |kind| is_of(&kinds[usize::from(*kind)], event)).copied();
        let kind = found.or_else(|| {
            if kinds.len() >= KINDS_MAX {
                return None;
            }
            let number = u16::try_from(kinds.len()).ok()?;
            kinds.push(kind_of(event)?);
            self.known.insert_unique(hash(event), number, |kind| hash(&kinds[usize::from(*kind)]));
            Some(number)
        });
        events.push(kind.unwrap_or(OTHER));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(event_type: &str, sequence: Sequence) -> Event {
        let event = Event::builder(event_type).source("s").entity("k", "1").build().expect("valid");
        event.set_id(EventId { epoch: 7, shard: 0, sequence });
        event
    }

    fn count(kind_log: &KindLog, filter: &Filter, from: Sequence, count: u64) -> Option<(u64, u64)> {
        let found = kind_log.count(std::slice::from_ref(filter), (7, 0), from, count, &mut 0)?;
        Some((found.least, found.most))
    }

    #[test]
    fn missed_events_of_a_filter_are_counted_or_bounded() {
        let mut kind_log = KindLog::default();
        for n in 0..10_000 {
            kind_log.record(&event(if n % 10 == 0 { "alarm.fire" } else { "tick" }, n));
        }
        assert_eq!(count(&kind_log, &Filter::new().types(["alarm.*"]), 5, 9000), Some((900, 900)));
        assert_eq!(count(&kind_log, &Filter::new().types(["other"]), 0, 10_000), Some((0, 0)));
        assert_eq!(count(&kind_log, &Filter::new(), 3, 4), Some((4, 4)));
        // An entity's id is not kept, nor is the payload.
        let one = Filter::new().types(["alarm.*"]).entity("k", "1");
        assert_eq!(count(&kind_log, &one, 0, 100), Some((0, 10)));
        assert_eq!(count(&kind_log, &Filter::new(), 9_999, 2), None, "it has not come yet");
        assert_eq!(kind_log.count(&[Filter::new()], (8, 0), 0, 1, &mut 0), None, "another epoch");
        // A hole ends the record.
        kind_log.record(&event("tick", 10_001));
        assert_eq!(count(&kind_log, &Filter::new(), 10_001, 1), Some((1, 1)));
        assert_eq!(count(&kind_log, &Filter::new(), 9_999, 1), None);
    }

    #[test]
    fn it_is_bounded_whatever_comes() {
        let mut kind_log = KindLog::default();
        for n in 0..600_000 {
            kind_log.record(&event(if n % 3 == 0 { "a" } else { "b" }, n));
        }
        assert!(kind_log.held_bytes() < 1 << 20, "{}", kind_log.held_bytes());
        assert_eq!(count(&kind_log, &Filter::new(), 0, 1), None);
        for n in 600_000..650_000 {
            kind_log.record(&event(&format!("type.{n}"), n));
        }
        assert!(kind_log.held_bytes() < 4 << 20, "{}", kind_log.held_bytes());
        let (least, most) = count(&kind_log, &Filter::new().types(["x"]), 610_000, 20_000).expect("kept");
        assert!(least == 0 && most > 15_000 && most <= 20_000, "{least} to {most}");
    }

    proptest! {
        #[test]
        fn a_count_holds(
            types in prop::collection::vec(prop::sample::select(vec!["a.b", "a.c", "b.x"]), 1..200),
            wanted in prop::collection::vec(prop::sample::select(vec!["a.*", "a.b", "b.**", "c"]), 0..3),
            unwanted in prop::collection::vec(prop::sample::select(vec!["a.b", "b.x"]), 0..2),
            stream in prop::option::of(Just("s1")), from in 0..200u64, len in 0..200u64,
        ) {
            let mut filter = Filter::new().types(wanted).not_types(unwanted);
            if let Some(stream) = stream {
                filter = filter.streams([stream]);
            }
            let mut kind_log = KindLog::default();
            let events: Vec<Event> = types.iter().zip(0..).map(|(event_type, n)| {
                let builder = Event::builder(event_type).stream(if n % 3 == 0 { "s1" } else { "s2" });
                let event = builder.build().expect("valid");
                event.set_id(EventId { epoch: 7, shard: 0, sequence: n });
                event
            }).collect();
            for event in &events {
                kind_log.record(event);
            }
            let end = from + len;
            let by_definition = events.iter().zip(0..).filter(|(event, n)| {
                (from..end).contains(n) && filter.matches(event)
            }).count() as u64;
            let found = count(&kind_log, &filter, from, len);
            prop_assert_eq!(found, (end <= events.len() as u64).then_some((by_definition, by_definition)));
        }
    }
}

//! Tests of replays against their definition: the requested events arrive, each once and in order, and a gap is
//! reported exactly where events were dropped, however the walk is divided and the ring moves on.

use proptest::prelude::*;

use super::*;
use crate::bus::{Bus, LoopReader};
use crate::dialect::GapNotice;
use crate::event::{Event, Timestamp};
use crate::server::ServerConfig;
use crate::server::shared::Shared;
use crate::server::shared::resume::{RetainedAfter, retained_after};

/// Items passed to a reader. A page takes `left` more events.
struct Given {
    selector: ReplaySelector,
    left: usize,
    items: Vec<Item>,
}

#[derive(Debug)]
enum Item {
    Event(EventId),
    Gap(GapNotice),
}

impl EventSink for Given {
    fn is_full(&self) -> bool {
        self.left == 0
    }

    fn event(&mut self, event: &Event, _: Option<&Position>, budget: &mut Budget) {
        if self.selector.wants(event, budget) {
            self.items.push(Item::Event(event.id().expect("published")));
            self.left -= 1;
        }
    }

    fn gap(&mut self, gap: &GapNotice) {
        self.items.push(Item::Gap(gap.clone()));
    }
}

/// Bus, everything ever published on it, and the place of the walk's loop.
struct Stage {
    shared: Shared,
    reader: LoopReader,
    /// Whether each event is wanted, by shard.
    wanted: Vec<Vec<bool>>,
}

impl Stage {
    fn new(shards: usize, capacity: usize) -> Self {
        let bus = Bus::builder().shards(shards).capacity(capacity).build().expect("valid");
        let reader = bus.reader(|| ());
        let shared = Shared::new(bus, ServerConfig::default(), 1);
        Self { shared, reader, wanted: vec![Vec::new(); shards] }
    }

    /// Publishes an event of a stream, with one of two types.
    fn publish(&mut self, (stream, is_wanted): (u8, bool)) {
        let kind = if is_wanted { "a" } else { "b" };
        let event = Event::builder(kind).stream(&format!("s{stream}")).build().expect("valid");
        let id = self.shared.bus.publish(event).id.expect("an open bus");
        let shard = &mut self.wanted[usize::from(id.shard)];
        assert_eq!(shard.len() as u64, id.sequence);
        shard.push(is_wanted);
    }

    /// Publishes events that the loop reads one by one, and then events that it has not read when a client asks. The latter may
    /// overwrite a whole ring.
    fn publish_all(&mut self, before: Vec<(u8, bool)>, unread: Vec<(u8, bool)>) {
        for event in before {
            self.publish(event);
            self.read();
        }
        for event in unread {
            self.publish(event);
        }
    }

    /// Makes the loop read the available events.
    fn read(&mut self) {
        while self.reader.poll_batch(64, |_| ()) > 0 {}
    }

    fn ends(&self) -> Vec<(u16, Sequence, LogPlace)> {
        let end = |shard| {
            let to = self.reader.position(shard);
            (shard, to, (self.shared.bus.epoch(), to.wrapping_sub(1)))
        };
        (0..self.wanted.len() as u16).map(end).collect()
    }

    /// Returns the wanted events of a shard among these.
    fn wanted(&self, shard: u16, from: Sequence, to: Sequence) -> usize {
        let all = &self.wanted[usize::from(shard)];
        all[from as usize..(to as usize).max(from as usize)].iter().filter(|wanted| **wanted).count()
    }

    /// Checks the events of a shard from `begin` up to `end` against the definition.
    fn check(&self, given: &Given, shard: u16, begin: Sequence, end: Sequence) -> Result<(), TestCaseError> {
        let mut next = begin;
        for item in &given.items {
            match item {
                Item::Event(id) if id.shard == shard => {
                    prop_assert!(
                        id.sequence >= next && id.sequence < end,
                        "{id} is not between {next} and {end}"
                    );
                    prop_assert!(self.wanted[usize::from(shard)][id.sequence as usize]);
                    prop_assert_eq!(self.wanted(shard, next, id.sequence), 0, "before {}, no gap", id);
                    next = id.sequence + 1;
                }
                Item::Gap(GapNotice { from: Some(Since::Event(from)), to: Some(to), missed, .. })
                    if to.shard == shard =>
                {
                    let first = from.next_sequence();
                    prop_assert!(first >= next && to.sequence >= first, "{:?} is not after {}", item, next);
                    prop_assert_eq!(self.wanted(shard, next, first), 0, "before {:?}", item);
                    prop_assert!(to.sequence < self.shared.bus.oldest(shard), "{item:?} is still there");
                    let gone = to.sequence + 1 - first;
                    prop_assert!(matches!(*missed, Missed::Exactly(n) | Missed::AtMost(n) if n == gone));
                    next = to.sequence + 1;
                }
                _ => {}
            }
        }
        prop_assert_eq!(self.wanted(shard, next, end), 0, "between {} and {}", next, end);
        Ok(())
    }
}

/// A piece of a walk: events to publish before it, and the budget and number of events of the piece.
type Piece = (Vec<(u8, bool)>, u32, usize);

fn piece() -> impl Strategy<Value = Piece> {
    (prop::collection::vec(event(), 0..5), 12..40u32, 1..6usize)
}

fn event() -> impl Strategy<Value = (u8, bool)> {
    (0..8u8, any::<bool>())
}

/// Continues, a piece at a time, until a step is the last one.
fn walk(
    stage: &mut Stage,
    given: &mut Given,
    pieces: &mut impl Iterator<Item = Piece>,
    mut step: impl FnMut(&mut Store<'_>, &mut Given, &mut Budget) -> Step,
) {
    for turns in 0.. {
        assert!(turns < 10_000, "it never ends");
        let (published, budget, room) = pieces.next().unwrap_or((Vec::new(), 40, 6));
        for event in published {
            stage.publish(event);
        }
        given.left = room;
        let mut store = Store { shared: &stage.shared, arrived: &mut None, now: Timestamp(0) };
        match step(&mut store, given, &mut Budget::new(budget)) {
            Step::Over => return,
            Step::More => {}
            Step::Waits { .. } => panic!("there is no log"),
        }
    }
}

fn given() -> Given {
    Given {
        selector: ReplaySelector::new(Filter::new().types(["a"]), Vec::new()),
        left: 0,
        items: Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_walk_in_any_pieces_delivers_once_in_order_or_reports_a_gap(
        shards in 1..4usize, capacity in prop::sample::select(vec![4, 16, 64]), count in 0..40usize,
        before in prop::collection::vec(event(), 0..120), unread in prop::collection::vec(event(), 0..80),
        pieces in prop::collection::vec(piece(), 0..30),
    ) {
        let mut stage = Stage::new(shards, capacity);
        stage.publish_all(before, unread);
        let ends = stage.ends();
        let mut pieces = pieces.into_iter();
        let mut given = given();
        let mut newest = Newest::new(ends.iter().copied(), |_| (0, 0), count);
        walk(&mut stage, &mut given, &mut pieces, |store, given, budget| newest.step(store, &mut given.selector, budget));
        let mut forward = newest.to_forward();
        let start = forward.start();
        let begins: Vec<Sequence> = forward.places().map(EventId::next_sequence).collect();
        walk(&mut stage, &mut given, &mut pieces, |store, given, budget| forward.step(store, given, budget));

        let mut found = 0;
        let mut there = 0;
        for (shard, end, _) in &ends {
            stage.check(&given, *shard, begins[usize::from(*shard)], *end)?;
            found += stage.wanted(*shard, begins[usize::from(*shard)], *end);
            there += stage.wanted(*shard, 0, *end);
        }
        let forgotten = |item: &Item| match item {
            Item::Gap(gap) if gap.from.is_none() => gap.to,
            _ => None,
        };
        let forgotten: Vec<EventId> = given.items.iter().filter_map(forgotten).collect();
        prop_assert_eq!(start.complete, Some(forgotten.is_empty()));
        if forgotten.is_empty() {
            prop_assert_eq!(found, count.min(there), "the newest of {}", there);
        } else {
            prop_assert!(shards > 1 || found < count, "{} found of {}", found, count);
        }
        for to in forgotten {
            prop_assert_eq!(to.next_sequence(), begins[usize::from(to.shard)]);
            prop_assert!(to.sequence < stage.shared.bus.oldest(to.shard), "{} is still there", to);
        }
    }

    #[test]
    fn events_after_a_place_are_delivered_once_in_order_or_are_a_gap(
        capacity in prop::sample::select(vec![4, 16, 64]), place in 0..100u64,
        before in prop::collection::vec(event(), 1..120), unread in prop::collection::vec(event(), 0..80),
        pieces in prop::collection::vec(piece(), 0..30),
    ) {
        let mut stage = Stage::new(1, capacity);
        stage.publish_all(before, unread);
        let (shard, to, until) = stage.ends()[0];
        let after = EventId { epoch: until.0, shard, sequence: place % to };
        let (missed, place) = match retained_after(&stage.shared, after, to) {
            RetainedAfter::All(next) => (0, ReadPlace::Ring(next)),
            RetainedAfter::Some(missed, next) => (missed, ReadPlace::Ring(next)),
            other => panic!("{after} is known: {other:?}"),
        };
        let lane = ShardLane { shard, place, to, until, after, missed, counts: true, forgotten: None };
        let mut forward = Forward { lanes: SmallVec::from_iter([lane]), at: None, partial_since: None, unread_first: false };
        let mut given = given();
        walk(&mut stage, &mut given, &mut pieces.into_iter(), |store, given, budget| {
            forward.step(store, given, budget)
        });
        stage.check(&given, shard, after.sequence + 1, to)?;
        prop_assert_eq!(given.items.iter().any(|item| matches!(item, Item::Gap(gap) if gap.from.is_none())), false);
    }
}

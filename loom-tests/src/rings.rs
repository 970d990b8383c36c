//! The overwriting ring.

use loom::sync::Arc;
use loom::thread;

use crate::bus::ring::{
    Batch, Bound, Counted, HEADER_WORDS, Handle, Inline, RingReader, RingSet, RingWriter, VisitEnd,
};

/// Two words that belong together, so that a torn read shows.
type Pair = [u64; 2];

fn pair(n: u64) -> Pair {
    [n, !n]
}

fn check(item: &Pair) -> u64 {
    assert_eq!(item[0], !item[1], "torn");
    item[0]
}

pub(crate) fn batch<T>(mut items: impl Iterator<Item = T>) -> Batch<T> {
    let mut batch = Batch::new();
    batch.fill(&mut items);
    batch
}

fn rings(capacity: usize) -> Arc<RingSet<Inline<Pair>>> {
    Arc::new(RingSet::new(1, capacity))
}

/// Publishes from another thread, and returns the sequence.
fn publish(rings: &Arc<RingSet<Inline<Pair>>>, value: u64) -> thread::JoinHandle<u64> {
    let rings = Arc::clone(rings);
    thread::spawn(move || rings.publish_inline(0, pair(value), |_, _| {}).expect("open"))
}

/// Values that a reader got from `next` on, by sequence, and the number reported as missed.
#[derive(Debug, Default)]
struct Seen {
    next: u64,
    items: Vec<(u64, u64)>,
    missed: u64,
}

impl Seen {
    /// Looks once, and returns whether there was something.
    fn look(&mut self, reader: &mut RingReader<Inline<Pair>>) -> bool {
        let before = self.next;
        let mut got = Vec::new();
        let end = reader.visit(0, &mut self.next, |item| {
            got.push(check(item));
            true
        });
        self.items.extend((before..).zip(got));
        if self.next == before && end == VisitEnd::Lapped {
            self.go_on(reader.rings().shards()[0].resume(before));
            return true;
        }
        self.next != before
    }

    fn go_on(&mut self, to: u64) {
        self.missed += to - self.next;
        self.next = to;
    }
}

#[test]
fn a_reader_sees_published_items_whole_and_in_order() {
    loom::model(|| {
        let rings = rings(2);
        let mut reader = RingReader::new(Arc::clone(&rings));
        let publisher = thread::spawn(move || {
            for n in 0..2 {
                assert_eq!(rings.publish_inline(0, pair(10 + n), |_, _| {}), Ok(n));
            }
        });
        let mut seen = Seen::default();
        for _ in 0..2 {
            seen.look(&mut reader);
        }
        publisher.join().unwrap();
        while seen.look(&mut reader) {}
        assert_eq!((seen.items, seen.missed), (vec![(0, 10), (1, 11)], 0));
    });
}

#[test]
fn two_publishers_get_two_sequences_and_both_are_read() {
    loom::model(|| {
        let rings = rings(2);
        let mut reader = RingReader::new(Arc::clone(&rings));
        let (a, b) = (publish(&rings, 1), publish(&rings, 2));
        let mut seen = Seen::default();
        seen.look(&mut reader);
        let (a, b) = (a.join().unwrap(), b.join().unwrap());
        while seen.look(&mut reader) {}
        let mut expected = vec![(a, 1), (b, 2)];
        expected.sort_unstable();
        assert_eq!(seen.items, expected);
    });
}

#[test]
fn two_publishers_a_lap_apart_never_write_one_slot_together() {
    loom::model(|| {
        // One slot: the second claim is a lap ahead of the first.
        let rings = rings(1);
        let mut reader = RingReader::new(Arc::clone(&rings));
        let (a, b) = (publish(&rings, 1), publish(&rings, 2));
        let mut seen = Seen::default();
        seen.look(&mut reader);
        let (a, b) = (a.join().unwrap(), b.join().unwrap());
        while seen.look(&mut reader) || skip(&mut seen, &mut reader) {}
        // The newest is there; the other one was read, lapped or given up, and reported.
        let newest = if a > b { (a, 1) } else { (b, 2) };
        assert_eq!(seen.items.last(), Some(&newest));
        assert_eq!(seen.items.len() as u64 + seen.missed, rings.shards()[0].head());
    });
}

#[test]
fn a_sequence_that_was_given_up_is_reported_as_missed_and_the_next_is_read() {
    loom::model(|| {
        // The second publisher comes to the first one's slot, a lap ahead, while that one is writing.
        let rings = rings(2);
        let mut reader = RingReader::new(Arc::clone(&rings));
        let slow = publish(&rings, 100);
        let last = (0..3).map(|n| rings.publish_inline(0, pair(n), |_, _| {}).expect("open")).last().unwrap();
        let newest = slow.join().unwrap().max(last);
        let mut seen = Seen::default();
        while seen.look(&mut reader) || skip(&mut seen, &mut reader) {}
        assert_eq!(seen.items.last().map(|item| item.0), Some(newest), "{seen:?}");
        assert_eq!(seen.items.len() as u64 + seen.missed, rings.shards()[0].head());
    });
}

#[test]
fn a_batch_is_shown_in_order_and_whole() {
    loom::model(|| {
        let rings = rings(8);
        let mut reader = RingReader::new(Arc::clone(&rings));
        let mut writer = RingWriter::new(rings);
        let mut batch = batch((0..3).map(pair));
        let publisher = thread::spawn(move || writer.publish_batch(0, &mut batch, |_, _| {}));
        let mut seen = Seen::default();
        for _ in 0..2 {
            seen.look(&mut reader);
        }
        assert_eq!(publisher.join().unwrap(), Some(2));
        while seen.look(&mut reader) {}
        assert_eq!(seen.items, [(0, 0), (1, 1), (2, 2)]);
    });
}

fn skip(seen: &mut Seen, reader: &mut RingReader<Inline<Pair>>) -> bool {
    let Some(to) = reader.rings().shards()[0].skip(seen.next) else { return false };
    seen.go_on(to);
    true
}

#[test]
fn a_reader_that_is_lapped_while_it_reads_reports_it_and_takes_nothing_torn() {
    loom::model(|| {
        let rings = rings(1);
        let mut reader = RingReader::new(Arc::clone(&rings));
        rings.publish_inline(0, pair(0), |_, _| {}).expect("open");
        let laps = {
            let rings = Arc::clone(&rings);
            thread::spawn(move || {
                rings.publish_inline(0, pair(1), |_, _| {}).expect("open");
            })
        };
        let mut seen = Seen::default();
        seen.look(&mut reader);
        laps.join().unwrap();
        while seen.look(&mut reader) {}
        assert_eq!(seen.items.len() as u64 + seen.missed, 2);
        assert!(seen.items.iter().all(|(sequence, value)| sequence == value), "{seen:?}");
    });
}

#[test]
fn a_reader_that_joins_or_leaves_while_others_publish_misses_nothing_from_there_on() {
    loom::model(|| {
        let rings = rings(4);
        let publisher = {
            let rings = Arc::clone(&rings);
            thread::spawn(move || {
                rings.publish_inline(0, pair(0), |_, _| {}).expect("open");
                rings.publish_inline(0, pair(1), |_, _| {}).expect("open");
            })
        };
        let leaver = {
            let rings = Arc::clone(&rings);
            thread::spawn(move || drop(RingReader::new(rings)))
        };
        let mut reader = RingReader::new(Arc::clone(&rings));
        let start = rings.shards()[0].head();
        let mut seen = Seen { next: start, ..Seen::default() };
        seen.look(&mut reader);
        publisher.join().unwrap();
        leaver.join().unwrap();
        while seen.look(&mut reader) {}
        assert_eq!(seen.items, (start..2).map(|n| (n, n)).collect::<Vec<_>>());
    });
}

#[test]
fn the_end_comes_after_everything_that_was_published() {
    loom::model(|| {
        let rings = rings(2);
        let mut reader = RingReader::new(Arc::clone(&rings));
        let publisher = thread::spawn(move || {
            rings.publish_inline(0, pair(7), |_, _| {}).expect("open");
            rings.close();
        });
        let mut seen = Seen::default();
        if reader.rings().is_closed() {
            assert!(seen.look(&mut reader), "closed, and an event is not there");
        }
        publisher.join().unwrap();
    });
}

#[test]
fn items_accepted_before_the_end_are_read_and_none_after_it() {
    loom::model(|| {
        let rings = rings(2);
        let mut reader = RingReader::new(Arc::clone(&rings));
        let publisher = {
            let rings = Arc::clone(&rings);
            thread::spawn(move || rings.publish_inline(0, pair(0), |_, _| {}).is_ok())
        };
        let closer = {
            let rings = Arc::clone(&rings);
            thread::spawn(move || rings.close())
        };
        let ring = &rings.shards()[0];
        let mut seen = Seen::default();
        let is_closed = rings.is_closed();
        seen.look(&mut reader);
        assert!(seen.next <= ring.head(), "read, and not claimed");
        let is_over = is_closed && seen.next >= ring.end();
        let accepted = publisher.join().unwrap();
        closer.join().unwrap();
        let more = seen.look(&mut reader);
        assert!(!is_over || !more, "an event after the end");
        assert_eq!((seen.items.len(), ring.head()), (usize::from(accepted), u64::from(accepted)));
    });
}

/// A body that loom watches: freeing it twice, never, or while a reader may look at it is an error.
pub(crate) struct Cell(loom::cell::UnsafeCell<u64>);

impl Drop for Cell {
    fn drop(&mut self) {
        // A write that loom sees, unlike the allocator's.
        // SAFETY: the last handle; loom checks just that.
        self.0.with_mut(|value| unsafe { *value = u64::MAX });
    }
}

// SAFETY: the cell is only read once the body is shared.
unsafe impl Send for Cell {}
// SAFETY: as above.
unsafe impl Sync for Cell {}

#[derive(Clone)]
pub(crate) struct Tracked(Arc<Cell>);

impl Handle for Tracked {
    type Body = Cell;

    fn into_arc(self) -> Arc<Cell> {
        self.0
    }

    fn from_arc(body: Arc<Cell>) -> Self {
        Self(body)
    }

    fn weight(&self) -> u64 {
        1
    }

    fn header(&self) -> [u64; HEADER_WORDS] {
        [0; HEADER_WORDS]
    }
}

pub(crate) fn tracked(n: u64) -> Tracked {
    Tracked(Arc::new(Cell(loom::cell::UnsafeCell::new(n))))
}

pub(crate) fn look(item: &Tracked) -> u64 {
    // SAFETY: written before it was published, and only read since; loom checks just that.
    item.0.0.with(|value| unsafe { *value })
}

#[test]
fn a_body_is_released_once_and_never_while_a_reader_looks_at_it() {
    loom::model(|| {
        let rings: Arc<RingSet<Counted<Tracked>>> = Arc::new(RingSet::new(1, 1));
        let mut reader = RingReader::new(Arc::clone(&rings));
        let mut writer = RingWriter::new(Arc::clone(&rings));
        writer.publish(0, tracked(0), |_, _| {}).ok();
        let publisher = thread::spawn(move || {
            // Each publication evicts one, and the writer looks at the pins at once.
            writer.publish(0, tracked(1), |_, _| {}).ok();
        });
        let mut next = 0;
        reader.visit(0, &mut next, |item| {
            assert_eq!(look(item), 0);
            true
        });
        publisher.join().unwrap();
    });
}

#[test]
fn a_body_that_was_cloned_out_outlives_the_ring() {
    loom::model(|| {
        let rings: Arc<RingSet<Counted<Tracked>>> = Arc::new(RingSet::new(1, 1));
        let mut reader = RingReader::new(Arc::clone(&rings));
        let mut writer = RingWriter::new(Arc::clone(&rings));
        let publisher = thread::spawn(move || {
            writer.publish(0, tracked(0), |_, _| {}).ok();
            writer.publish(0, tracked(1), |_, _| {}).ok();
        });
        let mut next = 0;
        let mut kept = None;
        reader.visit(0, &mut next, |item| {
            kept = Some(item.clone());
            true
        });
        publisher.join().unwrap();
        drop((reader, rings));
        if let Some(kept) = kept {
            assert_eq!(look(&kept), 0);
        }
    });
}

#[test]
fn a_body_that_a_reader_held_back_is_released_by_the_next_writer_that_looks() {
    loom::model(|| {
        let rings: Arc<RingSet<Counted<Tracked>>> = Arc::new(RingSet::new(1, 1));
        let mut reader = RingReader::new(Arc::clone(&rings));
        let mut writer = RingWriter::new(Arc::clone(&rings));
        writer.publish(0, tracked(0), |_, _| {}).ok();
        let publisher = thread::spawn(move || {
            writer.publish(0, tracked(1), |_, _| {}).ok();
            // A body that is still pinned goes to the orphans.
            drop(writer);
        });
        let mut next = 0;
        reader.visit(0, &mut next, |item| {
            assert_eq!(look(item), 0);
            true
        });
        publisher.join().unwrap();
        let mut writer = RingWriter::new(Arc::clone(&rings));
        writer.publish(0, tracked(2), |_, _| {}).ok();
        assert_eq!(rings.live(), 1, "only what the ring holds");
    });
}

type Bounded = RingSet<Counted<Tracked>>;

/// Creates a ring whose bodies weigh one byte each and may weigh `bytes` together.
fn bounded(capacity: usize, bytes: u64) -> Arc<Bounded> {
    Arc::new(RingSet::starting_at(&[0], capacity, Bound::new(bytes)))
}

/// Publishes from another thread.
fn publish_tracked(rings: &Arc<Bounded>, n: u64) -> thread::JoinHandle<u64> {
    let rings = Arc::clone(rings);
    thread::spawn(move || RingWriter::transient(rings).publish(0, tracked(n), |_, _| {}).ok().expect("open"))
}

/// Reads the values that are there, by sequence, and the number reported as missed.
fn read_tracked(reader: &mut RingReader<Counted<Tracked>>, next: &mut u64) -> (Vec<(u64, u64)>, u64) {
    let (mut items, mut missed) = (Vec::new(), 0);
    loop {
        let before = *next;
        let mut got = Vec::new();
        let end = reader.visit(0, next, |item| {
            got.push(look(item));
            true
        });
        items.extend((before..).zip(got));
        if *next == before && end == VisitEnd::Lapped {
            let to = reader.rings().shards()[0].resume(before);
            missed += to - before;
            *next = to;
        } else if *next == before {
            return (items, missed);
        }
    }
}

#[test]
fn a_body_released_early_is_released_once_and_never_while_a_reader_looks_at_it() {
    loom::model(|| {
        let rings = bounded(2, 1);
        let mut reader = RingReader::new(Arc::clone(&rings));
        RingWriter::transient(Arc::clone(&rings)).publish(0, tracked(0), |_, _| {}).ok();
        let publisher = publish_tracked(&rings, 1);
        let mut next = 0;
        let (mut items, mut missed) = read_tracked(&mut reader, &mut next);
        publisher.join().unwrap();
        let (more, lost) = read_tracked(&mut reader, &mut next);
        items.extend(more);
        missed += lost;
        // The newest is there; any other was read or reported.
        assert_eq!(items.last(), Some(&(1, 1)));
        assert!(items.iter().all(|(sequence, value)| sequence == value), "{items:?}");
        assert_eq!(items.len() as u64 + missed, 2);
    });
}

/// Checks that bodies outside the ring are released when no reader looks at them any more, and no others.
fn settled(rings: &Arc<Bounded>) {
    RingWriter::transient(Arc::clone(rings)).reclaim();
    let ring = &rings.shards()[0];
    assert_eq!((rings.held(), rings.live()), (ring.head() - ring.oldest(), ring.head() - ring.oldest()));
}

#[test]
fn a_body_released_early_while_it_is_overwritten_is_taken_once() {
    loom::model(|| {
        // Two slots: the third overwrites the first while the second releases it early.
        let rings = bounded(2, 1);
        RingWriter::transient(Arc::clone(&rings)).publish(0, tracked(0), |_, _| {}).ok();
        let publishers = [publish_tracked(&rings, 1), publish_tracked(&rings, 2)];
        for publisher in publishers {
            publisher.join().unwrap();
        }
        settled(&rings);
    });
}

#[test]
fn a_body_that_comes_below_the_floor_is_taken_out_by_its_publisher() {
    loom::model(|| {
        // The later of two raises the floor over the earlier, which may not be there yet.
        let rings = bounded(4, 1);
        let publishers = [publish_tracked(&rings, 0), publish_tracked(&rings, 1)];
        for publisher in publishers {
            publisher.join().unwrap();
        }
        settled(&rings);
    });
}

#[test]
fn a_body_is_held_under_the_sequence_that_it_was_read_at_though_the_next_lap_was_given_up() {
    loom::model(|| {
        // One slot. While the first is being written the second gives its sequence up; the third overwrites the first.
        let rings: Arc<RingSet<Counted<Tracked>>> = Arc::new(RingSet::new(1, 1));
        let mut reader = RingReader::new(Arc::clone(&rings));
        let publisher = publish_tracked(&rings, 0);
        let reads = thread::spawn(move || {
            let mut next = 0;
            reader.visit(0, &mut next, |item| {
                look(item);
                true
            });
        });
        let mut writer = RingWriter::transient(Arc::clone(&rings));
        writer.publish(0, tracked(1), |_, _| {}).ok();
        reads.join().unwrap();
        publisher.join().unwrap();
    });
}

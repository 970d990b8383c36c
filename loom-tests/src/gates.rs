//! The lossless ring.

use loom::sync::Arc;
use loom::thread;

use crate::bus::event_count::Wake;
use crate::bus::ring::{Claim, Counted, Gated, GatedReader, Inline, SpaceWaiter};
use crate::rings::{Tracked, batch, look, tracked};

type Pair = [u64; 2];
type Ring = Gated<Inline<Pair>>;

fn pair(n: u64) -> Pair {
    [n, !n]
}

fn ring(capacity: usize, solo: bool) -> Arc<Ring> {
    Arc::new(Gated::new(capacity, solo))
}

fn read(reader: &mut GatedReader<Inline<Pair>>, into: &mut Vec<u64>) -> bool {
    reader.visit(|item| {
        assert_eq!(item[0], !item[1], "torn");
        into.push(item[0]);
        true
    })
}

/// Publishes 0 and 1 from another thread, if there is space, and returns those published.
fn publish_two(ring: &Arc<Ring>, solo: bool) -> thread::JoinHandle<Vec<u64>> {
    let ring = Arc::clone(ring);
    thread::spawn(move || {
        let mut claim = solo.then(|| Claim::new(&ring));
        let mut publish = |n: u64| match &mut claim {
            Some(claim) => claim.try_publish(&ring, pair(n), |_, _| {}).is_ok(),
            None => ring.try_publish(pair(n), |_, _| {}).is_ok(),
        };
        (0..2).filter(|n| publish(*n)).collect()
    })
}

/// A reader that joined before gets everything that was published.
fn reads_all(solo: bool) {
    loom::model(move || {
        let ring = ring(1, solo);
        let mut reader = GatedReader::new(Arc::clone(&ring));
        let publisher = publish_two(&ring, solo);
        let mut got = Vec::new();
        read(&mut reader, &mut got);
        // A turn for the publisher: with plain loads and stores alone, loom sees nothing to try in another order.
        thread::yield_now();
        read(&mut reader, &mut got);
        let published = publisher.join().unwrap();
        while read(&mut reader, &mut got) {}
        assert_eq!(got, published);
    });
}

/// A reader that joins meanwhile gets everything from there on.
fn joins(solo: bool) {
    loom::model(move || {
        let ring = ring(1, solo);
        let publisher = publish_two(&ring, solo);
        let mut reader = GatedReader::new(Arc::clone(&ring));
        let start = reader.next() as usize;
        let mut got = Vec::new();
        read(&mut reader, &mut got);
        let published = publisher.join().unwrap();
        while read(&mut reader, &mut got) {}
        assert_eq!(got, published[start..]);
    });
}

#[test]
fn items_that_a_gate_has_not_passed_are_not_overwritten() {
    reads_all(false);
}

#[test]
fn one_publisher_with_plain_stores_keeps_the_same_promise() {
    reads_all(true);
}

#[test]
fn a_reader_that_joins_while_others_publish_gets_everything_from_there_on() {
    joins(false);
}

#[test]
fn a_reader_that_joins_one_publisher_gets_everything_from_there_on() {
    joins(true);
}

#[test]
fn two_publishers_and_a_gate_lose_nothing() {
    loom::model(|| {
        let ring = ring(2, false);
        let mut reader = GatedReader::new(Arc::clone(&ring));
        let publish = |value: u64| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.try_publish(pair(value), |_, _| {}).expect("room for two"))
        };
        let (a, b) = (publish(1), publish(2));
        let mut got = Vec::new();
        read(&mut reader, &mut got);
        let (a, b) = (a.join().unwrap(), b.join().unwrap());
        while read(&mut reader, &mut got) {}
        assert_eq!(got, if a < b { [1, 2] } else { [2, 1] });
    });
}

#[test]
fn a_publisher_that_sleeps_for_space_is_woken_by_the_reader_that_makes_it() {
    loom::model(|| {
        let ring = ring(1, false);
        let mut reader = GatedReader::new(Arc::clone(&ring));
        ring.try_publish(pair(0), |_, _| {}).expect("room for one");
        let publisher = thread::spawn(move || {
            while ring.try_publish(pair(1), |_, _| {}).is_err() {
                let waiting = SpaceWaiter::new(&ring, Wake::Thread(thread::current()));
                if ring.is_full() {
                    thread::park();
                }
                drop(waiting);
            }
        });
        let mut got = Vec::new();
        read(&mut reader, &mut got);
        publisher.join().unwrap();
        while read(&mut reader, &mut got) {}
        assert_eq!(got, [0, 1]);
    });
}

#[test]
fn a_publisher_that_sleeps_for_space_is_woken_by_the_reader_that_leaves() {
    loom::model(|| {
        let ring = ring(1, false);
        let reader = GatedReader::new(Arc::clone(&ring));
        ring.try_publish(pair(0), |_, _| {}).expect("room for one");
        let publisher = thread::spawn(move || {
            while ring.try_publish(pair(1), |_, _| {}).is_err() {
                let waiting = SpaceWaiter::new(&ring, Wake::Thread(thread::current()));
                if ring.is_full() {
                    thread::park();
                }
                drop(waiting);
            }
        });
        drop(reader);
        publisher.join().unwrap();
    });
}

#[test]
fn a_body_is_released_by_its_overwriter_and_never_while_a_reader_looks_at_it() {
    loom::model(|| {
        let ring: Arc<Gated<Counted<Tracked>>> = Arc::new(Gated::new(1, false));
        let mut reader = GatedReader::new(Arc::clone(&ring));
        assert!(ring.try_publish(tracked(0), |_, _| {}).is_ok());
        let publisher = thread::spawn(move || ring.try_publish(tracked(1), |_, _| {}).is_ok());
        reader.visit(|item| {
            assert_eq!(look(item), 0);
            true
        });
        publisher.join().unwrap();
    });
}

/// Items that are written where they belong, one by one, are seen whole, and together.
#[test]
fn solo_items_from_an_iterator_are_seen_together() {
    loom::model(|| {
        let ring = ring(2, true);
        let mut reader = GatedReader::new(Arc::clone(&ring));
        let publisher = thread::spawn(move || {
            let (mut claim, mut items) = (Claim::new(&ring), (0..3).map(pair));
            let mut published = 0;
            for _ in 0..2 {
                published += claim.try_publish_from(&ring, &mut items, |_, _| {}).0;
            }
            published
        });
        let mut got = Vec::new();
        while got.len() < 2 {
            if read(&mut reader, &mut got) {
                assert!(got.len() == 2 || reader.has_next(), "the first two come together");
            } else {
                thread::yield_now();
            }
        }
        let published = publisher.join().unwrap();
        while read(&mut reader, &mut got) {}
        assert!(published >= 2 && got.iter().copied().eq(0..published), "{got:?}, {published}");
    });
}

/// An item follows a batch directly: the batch claimed as many sequences as it held.
fn batches(solo: bool) {
    loom::model(move || {
        let ring = ring(4, solo);
        let mut reader = GatedReader::new(Arc::clone(&ring));
        let publisher = thread::spawn(move || {
            let mut batch = batch((0..2).map(pair));
            let last = match solo.then(|| Claim::new(&ring)) {
                Some(mut claim) => {
                    assert_eq!(claim.try_publish_batch(&ring, &mut batch, |_, _| {}), Some(1));
                    claim.try_publish(&ring, pair(2), |_, _| {})
                }
                None => {
                    assert_eq!(ring.try_publish_batch(&mut batch, |_, _| {}), Some(1));
                    ring.try_publish(pair(2), |_, _| {})
                }
            };
            assert!(batch.is_empty());
            assert_eq!(last, Ok(2));
        });
        let mut got = Vec::new();
        read(&mut reader, &mut got);
        thread::yield_now();
        read(&mut reader, &mut got);
        publisher.join().unwrap();
        while read(&mut reader, &mut got) {}
        assert_eq!(got, [0, 1, 2]);
    });
}

#[test]
fn a_batch_claims_as_many_sequences_as_it_holds() {
    batches(false);
}

#[test]
fn a_batch_of_one_publisher_claims_as_many_sequences_as_it_holds() {
    batches(true);
}

#[test]
fn items_accepted_before_the_end_are_read_by_a_gate_and_none_after_it() {
    loom::model(|| {
        let ring = ring(2, false);
        let mut reader = GatedReader::new(Arc::clone(&ring));
        let publisher = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.try_publish(pair(0), |_, _| {}).is_ok())
        };
        let closer = thread::spawn(move || ring.close());
        let mut got = Vec::new();
        let is_closed = reader.ring().is_closed();
        read(&mut reader, &mut got);
        let is_over = is_closed && reader.is_over();
        let accepted = publisher.join().unwrap();
        closer.join().unwrap();
        let more = read(&mut reader, &mut got);
        assert!(!is_over || !more, "an item after the end");
        assert_eq!((got.len(), reader.is_over()), (usize::from(accepted), true));
    });
}

#[test]
fn a_publisher_that_sleeps_for_space_is_woken_by_the_end() {
    loom::model(|| {
        let ring = ring(1, false);
        let _reader = GatedReader::new(Arc::clone(&ring));
        ring.try_publish(pair(0), |_, _| {}).expect("room for one");
        let publisher = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                while ring.try_publish(pair(1), |_, _| {}).is_err() && !ring.is_refusing() {
                    let waiting = SpaceWaiter::new(&ring, Wake::Thread(thread::current()));
                    if ring.is_full() {
                        thread::park();
                    }
                    drop(waiting);
                }
            })
        };
        ring.close();
        publisher.join().unwrap();
    });
}

/// A ring with an item, its first reader, and one that follows.
fn followed(solo: bool) -> (Arc<Ring>, GatedReader<Inline<Pair>>, GatedReader<Inline<Pair>>, Option<Claim>) {
    let ring = ring(2, solo);
    let first = GatedReader::new(Arc::clone(&ring));
    let follower = GatedReader::following(Arc::clone(&ring), &[&first]);
    let mut claim = solo.then(|| Claim::new(&ring));
    match &mut claim {
        Some(claim) => claim.try_publish(&ring, pair(0), |_, _| {}),
        None => ring.try_publish(pair(0), |_, _| {}),
    }
    .expect("room");
    (ring, first, follower, claim)
}

/// A reader that follows reads what the first one wrote about the item.
fn follows(solo: bool) {
    loom::model(move || {
        let (_ring, mut first, mut follower, _claim) = followed(solo);
        let note = Arc::new(Note(loom::cell::UnsafeCell::new(0)));
        let notes = Arc::clone(&note);
        let thread = thread::spawn(move || {
            // SAFETY: the follower reads it afterwards; loom checks just that.
            first.visit(|_| notes.0.with_mut(|note| unsafe { *note = 7 }) == ());
        });
        // SAFETY: as above.
        let mut read = || follower.visit(|_| note.0.with(|note| unsafe { assert_eq!(*note, 7) }) == ());
        let any = read();
        thread.join().unwrap();
        assert_ne!(any, read(), "once");
    });
}

/// Trace that the first reader leaves of the item.
struct Note(loom::cell::UnsafeCell<u64>);

// SAFETY: loom checks the accesses.
unsafe impl Send for Note {}
// SAFETY: as above.
unsafe impl Sync for Note {}

#[test]
fn a_follower_sees_what_the_reader_before_it_did_with_the_item() {
    follows(false);
}

#[test]
fn a_follower_of_one_publisher_sees_what_the_reader_before_it_did() {
    follows(true);
}

/// Reads until this many items came; sleeps when there is none.
fn read_asleep(reader: &mut GatedReader<Inline<Pair>>, count: usize) {
    let mut got = Vec::new();
    while got.len() < count {
        if !read(reader, &mut got) {
            reader.prepare_wait(Wake::Thread(thread::current()));
            if !reader.has_next() {
                thread::park();
            }
            reader.cancel_wait();
        }
    }
}

#[test]
fn a_follower_that_sleeps_is_woken_by_the_reader_that_passes() {
    loom::model(|| {
        let (_ring, mut first, mut follower, _claim) = followed(false);
        let thread = thread::spawn(move || {
            first.visit(|_| true);
            first
        });
        read_asleep(&mut follower, 1);
        thread.join().unwrap();
    });
}

#[test]
fn a_follower_that_sleeps_is_woken_by_the_reader_that_leaves() {
    loom::model(|| {
        let (_ring, first, mut follower, _claim) = followed(false);
        let thread = thread::spawn(move || drop(first));
        read_asleep(&mut follower, 1);
        thread.join().unwrap();
    });
}

#[test]
fn a_follower_whose_leaders_have_left_is_woken_by_publishers() {
    loom::model(|| {
        let ring = ring(2, false);
        let first = GatedReader::new(Arc::clone(&ring));
        let mut follower = GatedReader::following(Arc::clone(&ring), &[&first]);
        let thread = thread::spawn(move || {
            drop(first);
            ring.try_publish(pair(0), |_, _| {}).expect("room");
        });
        read_asleep(&mut follower, 1);
        thread.join().unwrap();
    });
}

#[test]
fn an_entry_that_is_followed_is_not_reused() {
    loom::model(|| {
        let (ring, first, mut follower, _claim) = followed(false);
        let thread = thread::spawn(move || {
            drop(first);
            // A reader that reads nothing does not hold up those that followed another one.
            let idle = GatedReader::new(Arc::clone(&ring));
            ring.try_publish(pair(1), |_, _| {}).expect("room");
            idle
        });
        let mut got = Vec::new();
        read(&mut follower, &mut got);
        let idle = thread.join().unwrap();
        while read(&mut follower, &mut got) {}
        assert_eq!(got, [0, 1]);
        drop(idle);
    });
}

//! Tests of the bus through its public functions.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use super::*;
use crate::event::Timestamp;
use crate::filter::Filter;
use crate::sync::atomic::{AtomicUsize, Ordering};

fn numbers(capacity: usize) -> Bus<u64> {
    Bus::builder().carrying::<u64>().capacity(capacity).build().expect("valid")
}

fn event(kind: &str) -> Event {
    Event::builder(kind).build().expect("valid")
}

fn publish(bus: &Bus<u64>, numbers: std::ops::Range<u64>) {
    for n in numbers {
        bus.publish(n);
    }
}

fn drain<T: Item>(subscriber: &mut Subscriber<T>) -> Vec<Delivery<T>> {
    std::iter::from_fn(|| subscriber.try_recv().ok()).collect()
}

#[test]
fn every_subscriber_receives_later_items_once_and_in_order() {
    let bus = numbers(8);
    bus.publish(0);
    let mut first = bus.subscribe(Predicate::all());
    bus.publish(1);
    let mut second = bus.subscribe(Predicate::all());
    bus.publish_batch([2, 3]);
    assert_eq!(drain(&mut first), [1, 2, 3].map(Delivery::Event));
    assert_eq!(drain(&mut second), [2, 3].map(Delivery::Event));
    assert_eq!(first.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn a_lapped_reader_learns_exactly_what_it_missed_and_continues_with_room_to_spare() {
    let bus = numbers(8);
    let mut reader = bus.subscribe(Predicate::all());
    for n in 0..20 {
        bus.publish(n);
    }
    assert_eq!(reader.lag(), 20);
    let gap = Gap { missed: 14, shard: 0, from: 0, to: 14 };
    assert_eq!(reader.try_recv(), Ok(Delivery::Gap(gap)));
    assert_eq!(drain(&mut reader), (14..20).map(Delivery::Event).collect::<Vec<_>>());
    assert_eq!(reader.ledger(), Ledger { seen: 6, missed: 14, lag: 0 });
}

#[test]
fn a_filter_hides_events_but_never_gaps() {
    let bus = numbers(4);
    let mut even = bus.subscribe(|n: &u64| n.is_multiple_of(2));
    publish(&bus, 0..4);
    assert_eq!(drain(&mut even), [0, 2].map(Delivery::Event));
    publish(&bus, 4..14);
    assert!(matches!(even.try_recv(), Ok(Delivery::Gap(Gap { missed: 7, from: 4, to: 11, .. }))));
    assert_eq!(drain(&mut even), [Delivery::Event(12)]);
    let Ledger { seen, missed, lag } = even.ledger();
    assert_eq!((seen + missed + lag, missed), (14, 7));
}

#[test]
fn events_carry_their_place_and_a_published_one_is_published_again_as_a_copy() {
    let bus = Bus::new();
    let mut all = bus.subscribe(Filter::new());
    let one = event("a");
    let first = bus.publish(one.clone()).id.expect("open");
    let Ok(Delivery::Event(read)) = all.try_recv() else { panic!("no event") };
    assert_eq!((read.id(), one.id()), (Some(first), None));
    let second = bus.publish(read.clone()).id.expect("open");
    assert_eq!((first.sequence, second.sequence, first.epoch), (0, 1, bus.epoch()));
    assert_eq!(read.id(), Some(first));
}

#[test]
fn equal_keys_share_a_shard_and_stay_in_order() {
    let bus = Bus::builder().shards(8).capacity(64).build().expect("valid");
    let mut all = bus.subscribe(Filter::new());
    for n in 0..200_u64 {
        let event = Event::builder("t").stream(&format!("s{}", n % 20)).json(n.to_string()).build();
        bus.publish(event.expect("valid"));
    }
    let mut last = [None; 20];
    let mut seen = 0;
    for delivery in drain(&mut all) {
        let Delivery::Event(event) = delivery else { panic!("a gap") };
        let stream: usize = event.stream().expect("set")[1..].parse().expect("a number");
        let n: u64 = event.payload().parse().expect("a number");
        assert!(last[stream] < Some(n), "out of order");
        last[stream] = Some(n);
        seen += 1;
    }
    assert_eq!(seen, 200);
    assert!(bus.stats().shards.iter().filter(|shard| shard.head > 0).count() > 1, "all in one shard");
}

#[test]
fn invalid_settings_are_refused_when_a_bus_is_built() {
    let plain = || Bus::builder().carrying::<u64>();
    assert_eq!(plain().capacity(3).build().err(), Some(BusConfigError::Capacity(3)));
    assert_eq!(plain().capacity(0).build().err(), Some(BusConfigError::Capacity(0)));
    assert_eq!(plain().shards(0).build().err(), Some(BusConfigError::Shards(0)));
    assert_eq!(plain().shards(2).build().err(), Some(BusConfigError::NoOrderingKey));
    assert!(plain().shards(2).ordering_key(|n| *n).build().is_ok());
    let error = BusConfigError::Capacity(1000).to_string();
    assert!(error.contains("1000") && error.contains("power of two"), "{error}");
}

#[test]
fn the_last_publishers_end_is_read_after_everything_it_published() {
    let bus = numbers(8);
    let mut publisher = bus.publisher();
    let mut reader = bus.subscribe(Predicate::all());
    bus.publish(1);
    drop(bus);
    publisher.publish(2);
    assert!(!reader.is_closed());
    drop(publisher);
    assert_eq!(reader.recv(), Ok(Delivery::Event(1)));
    assert_eq!(reader.iter().next(), Some(Delivery::Event(2)));
    assert_eq!(reader.iter().next(), None);
    assert_eq!(reader.recv_timeout(Duration::from_secs(60)), Err(RecvTimeoutError::Closed));
}

#[test]
fn every_way_to_wait_is_ended_by_an_event_and_by_the_end() {
    for wait in [WaitStrategy::Spin, WaitStrategy::SpinThenPark, WaitStrategy::Park] {
        let bus = numbers(8);
        let mut reader = bus.subscribe(Predicate::all()).with_wait(wait);
        let joined = Arc::new(Barrier::new(2));
        let thread = thread::spawn({
            let joined = Arc::clone(&joined);
            move || {
                joined.wait();
                reader.iter().count()
            }
        });
        joined.wait();
        for n in 0..8 {
            thread::sleep(Duration::from_millis(2));
            bus.publish(n);
        }
        drop(bus);
        assert_eq!(thread.join().expect("no panic"), 8, "{wait:?}");
    }
}

#[test]
fn a_timeout_ends_a_wait_for_nothing() {
    let bus = numbers(8);
    let mut reader = bus.subscribe(Predicate::all());
    assert_eq!(reader.recv_timeout(Duration::from_millis(5)), Err(RecvTimeoutError::Timeout));
    bus.publish(1);
    assert_eq!(reader.recv_timeout(Duration::MAX), Ok(Delivery::Event(1)));
}

#[test]
fn a_sleeper_costs_one_wake_however_many_events_come() {
    let bus = numbers(1024);
    let mut reader = bus.subscribe(Predicate::all()).with_wait(WaitStrategy::Park);
    bus.publish(0);
    let before = bus.stats().wakes;
    assert_eq!(before, 0, "a reader that is awake was woken");
    let thread = thread::spawn(move || (0..101).filter_map(|_| reader.recv().ok()).count());
    while bus.0.rings.wakes() == 0 {
        bus.publish(7);
        if bus.position().sequences()[0] > 50 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    publish(&bus, 0..101);
    thread.join().expect("no panic");
    assert!(bus.stats().wakes <= 101);
}

#[test]
fn a_position_is_a_place_to_come_back_to_while_the_ring_has_it() {
    let bus = numbers(4);
    let mut reader = bus.subscribe(Predicate::all());
    publish(&bus, 0..4);
    let start = reader.position();
    assert_eq!(drain(&mut reader).len(), 4);
    reader.seek(&start).expect("the same bus");
    assert_eq!(drain(&mut reader).len(), 4);
    publish(&bus, 4..7);
    let replayed: Vec<_> = bus.replay(Predicate::all(), &start).expect("the same bus").collect();
    assert!(matches!(replayed[0], Delivery::Gap(Gap { from: 0, .. })), "{replayed:?}");
    assert_eq!(replayed.last(), Some(&Delivery::Event(6)));
    let other = numbers(4);
    assert_eq!(other.replay(Predicate::all(), &start).err(), Some(PositionError::OtherEpoch));
    let end = bus.position();
    let mut from_end = bus.subscribe_from(Predicate::all(), &end).expect("the same bus");
    bus.publish(7);
    assert_eq!(drain(&mut from_end), [Delivery::Event(7)]);
}

#[test]
fn a_replay_ends_at_the_place_of_its_start_even_if_later_events_match() {
    let bus = numbers(64);
    let start = bus.position();
    publish(&bus, 0..10);
    let replay = bus.replay(|n: &u64| *n > 5, &start).expect("the same bus");
    publish(&bus, 10..20);
    assert_eq!(replay.collect::<Vec<_>>(), (6..10).map(Delivery::Event).collect::<Vec<_>>());
}

#[test]
fn a_handlers_panic_is_counted_and_affects_no_other() {
    let bus = Bus::new();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let good = bus.on(Filter::new(), move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let bad = bus.on("type=bad".parse::<Filter>().expect("valid"), |_| panic!("as asked"));
    assert_eq!(bus.subscriber_count(), 2);
    bus.publish(event("bad"));
    bus.publish(event("good"));
    bus.publish(event("bad"));
    while seen.load(Ordering::SeqCst) < 3 || bad.panics() < 2 {
        thread::yield_now();
    }
    assert_eq!((bus.stats().handler_panics, good.panics()), (2, 0));
    drop(good);
    assert_eq!(bus.subscriber_count(), 1);
    bus.clear();
    assert_eq!(bus.subscriber_count(), 0);
}

#[test]
fn publishing_answers_how_many_sync_handlers_took_the_event() {
    let bus = Bus::new();
    let kept = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&kept);
    let one = bus.on_sync("type=task.*".parse::<Filter>().expect("valid"), move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let two = bus.on_sync(Filter::new(), |_| panic!("as asked"));
    // A handler that panicked did not take it.
    assert_eq!(bus.publish(event("task.started")).handled, 1);
    assert_eq!(bus.publish(event("other")).handled, 0);
    assert_eq!((kept.load(Ordering::SeqCst), two.panics()), (1, 2));
    assert!(bus.unsubscribe(one.id()));
    assert!(!bus.unsubscribe(one.id()));
    drop(two);
    assert_eq!(bus.publish(event("task.started")).handled, 0);
}

#[test]
fn a_sync_handler_may_publish_and_unsubscribe() {
    let bus = Bus::new();
    let mut all = bus.subscribe(Filter::new());
    let again = bus.clone();
    let guard = bus.on_sync("type=first".parse::<Filter>().expect("valid"), move |_| {
        again.publish(event("second"));
    });
    bus.publish(event("first"));
    drop(guard);
    let types: Vec<_> = drain(&mut all)
        .into_iter()
        .map(|delivery| match delivery {
            Delivery::Event(event) => event.event_type().to_owned(),
            Delivery::Gap(gap) => panic!("{gap:?}"),
        })
        .collect();
    assert_eq!(types, ["first", "second"]);
}

#[test]
fn a_recording_keeps_the_newest_events_and_counts_those_it_missed() {
    let bus = numbers(8);
    bus.start_recording(3);
    publish(&bus, 0..5);
    assert_eq!(bus.history(), [2, 3, 4]);
    publish(&bus, 5..40);
    assert_eq!(bus.history(), [37, 38, 39]);
    assert!(bus.history_missed() > 0);
    bus.clear_history();
    assert_eq!(bus.history(), [0; 0]);
    bus.publish(40);
    bus.stop_recording();
    bus.publish(41);
    assert_eq!(bus.history(), [40]);
    // More than the ring keeps: a thread reads along.
    bus.start_recording(100);
    for n in 0..60 {
        bus.publish(n);
        while n % 4 == 3 && bus.history().len() <= n as usize {
            thread::yield_now();
        }
    }
    assert_eq!(bus.history(), (0..60).collect::<Vec<_>>());
    bus.clear();
    bus.publish(60);
    assert_eq!(bus.history(), [0; 0], "all state is cleared, and nobody records any more");
}

#[test]
fn publishing_does_not_wait_for_handlers() {
    let bus = Bus::new();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (done, is_done) = std::sync::mpsc::channel();
    let held = Mutex::new(held);
    let slow = bus.on(Filter::new(), move |event| {
        // If `publish` waited for the handler, no thread could let it go on.
        let _ = held.lock().expect("no panic holds it").recv();
        let _ = done.send(event.event_type().to_owned());
    });
    bus.publish(event("a"));
    bus.publish(event("b"));
    assert!(is_done.try_recv().is_err(), "it cannot have gone on");
    (0..2).for_each(|_| release.send(()).expect("it waits"));
    assert_eq!(["a", "b"].map(|_| is_done.recv().expect("called")), ["a", "b"]);
    drop(slow);
}

#[test]
fn each_bus_is_separate_and_its_handlers_get_the_event() {
    let (one, two) = (Bus::new(), Bus::new());
    let got = Arc::new(Mutex::new(Vec::new()));
    let take = |bus: &Bus, filter: Filter| {
        let got = Arc::clone(&got);
        bus.on_sync(filter, move |event: &Event| {
            let line = format!("{} from {:?}: {}", event.event_type(), event.source(), event.payload());
            got.lock().expect("no panic holds it").push(line);
        })
    };
    let _all = take(&one, Filter::new());
    let of_two = [
        take(&two, Filter::new().types(["workflow.started", "workflow.completed"])),
        take(&two, Filter::new().sources(["simulation_engine"])),
        take(&two, Filter::new().correlations(["run-42"])),
    ];
    let event = |kind: &str, source: &str, run: &str| {
        Event::builder(kind).source(source).correlation(run).build().expect("valid")
    };
    let named = Event::builder("workflow.started").source("demo").json(r#"{"workflow_id":"wf-001"}"#).build();
    assert_eq!(one.publish(named.expect("valid")).handled, 1);
    assert_eq!(two.publish(event("workflow.started", "simulation_engine", "run-42")).handled, 3);
    assert_eq!(two.publish(event("workflow.completed", "demo", "run-1")).handled, 1);
    assert_eq!(two.publish(event("node.entered", "simulation_engine", "run-1")).handled, 1);
    assert_eq!(two.publish(event("node.entered", "demo", "run-42")).handled, 1);
    assert_eq!(two.publish(event("node.entered", "demo", "run-1")).handled, 0);
    assert_eq!(
        *got.lock().expect("no panic holds it").first().expect("the first bus's"),
        r#"workflow.started from Some("demo"): {"workflow_id":"wf-001"}"#
    );
    assert_eq!(got.lock().expect("no panic holds it").len(), 7, "nobody heard another bus");
    assert_eq!((one.subscriber_count(), two.subscriber_count()), (1, 3));
    drop(of_two);
    assert_eq!((one.subscriber_count(), two.subscriber_count()), (1, 0));
}

#[test]
fn the_bus_of_the_process_is_one() {
    let mut reader = Bus::global().subscribe(Filter::new().types(["global.only.this.test"]));
    thread::spawn(|| Bus::global().publish(event("global.only.this.test"))).join().expect("published");
    assert!(matches!(reader.try_recv(), Ok(Delivery::Event(_))));
    assert_ne!(Bus::new().epoch(), Bus::global().epoch());
}

#[test]
fn a_recording_is_queried_by_type_and_time() {
    let bus = Bus::new();
    let at = |kind: &str, second: i64| {
        let event = Event::builder(kind).source("demo").timestamp(Timestamp(second * 1_000_000)).build();
        bus.publish(event.expect("an event"));
    };
    at("workflow.started", 1);
    bus.start_recording(100);
    for (second, kind) in
        [(2, "workflow.started"), (3, "node.entered"), (4, "workflow.completed"), (5, "node.exited")]
    {
        at(kind, second);
    }
    bus.stop_recording();
    at("workflow.failed", 6);
    let shown = |events: Vec<Event>| -> Vec<String> {
        events
            .iter()
            .map(|event| format!("{} at {}", event.event_type(), event.timestamp().0 / 1_000_000))
            .collect()
    };
    let second = |n: i64| Timestamp(n * 1_000_000);
    let workflow = || Filter::new().types(["workflow.*"]);
    assert_eq!(
        shown(bus.history_where(workflow(), ..)),
        ["workflow.started at 2", "workflow.completed at 4"]
    );
    assert_eq!(
        shown(bus.history_where(Filter::new(), second(3)..second(5))),
        ["node.entered at 3", "workflow.completed at 4"]
    );
    assert_eq!(shown(bus.history_where(workflow(), second(3)..)), ["workflow.completed at 4"]);
    assert_eq!(bus.history().len(), 4);
    bus.clear_history();
    assert!(bus.history_where(Filter::new(), ..).is_empty());
}

#[test]
fn no_body_leaks_and_none_is_held_longer_than_the_ring_does() {
    let bus = Bus::builder().capacity(16).build().expect("valid");
    let mut publisher = bus.publisher();
    let mut reader = bus.subscribe(Filter::new());
    for _ in 0..1000 {
        publisher.publish(event("x"));
        bus.publish(event("y"));
        reader.visit_batch(3, |_| {});
    }
    drop(publisher);
    drop(reader);
    let live = bus.stats().live_events;
    assert!(live <= 16, "{live} bodies for 16 slots");
}

#[test]
fn a_visitor_that_panics_costs_that_event_only() {
    let bus = Bus::new();
    let mut reader = bus.subscribe(Filter::new());
    bus.publish_batch([event("a"), event("b")]);
    let panicked = catch_unwind(AssertUnwindSafe(|| reader.visit_batch(1, |_| panic!("as asked"))));
    assert!(panicked.is_err());
    let mut types = Vec::new();
    reader.visit_batch(9, |visit| {
        if let DeliveryRef::Event(event) = visit {
            types.push(event.event_type().to_owned());
        }
    });
    assert_eq!(types, ["b"]);
}

fn lossless(capacity: usize) -> LosslessBus<u64> {
    LosslessBus::builder().carrying::<u64>().capacity(capacity).build_lossless().expect("valid")
}

#[test]
fn a_lossless_bus_is_full_exactly_when_its_slowest_reader_lags_by_a_ring() {
    let bus = lossless(4);
    for n in 0..100 {
        bus.try_publish(n).expect("nobody to wait for");
    }
    let (mut slow, mut fast) = (bus.subscribe(Predicate::all()), bus.subscribe(Predicate::all()));
    (0..4).for_each(|n| assert_eq!(bus.try_publish(n).expect("room").sequence, 100 + n));
    assert_eq!(bus.try_publish(4), Err(TryPublishError::Full(4)));
    assert_eq!(fast.iter().take(4).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(bus.try_publish(4), Err(TryPublishError::Full(4)));
    assert_eq!((slow.recv(), slow.lag()), (Ok(0), 3));
    bus.try_publish(4).expect("room for one");
    assert_eq!(bus.publish_timeout(5, Duration::from_millis(5)), Err(TryPublishError::Full(5)));
    drop(slow);
    bus.publish_blocking(5).expect("open");
    drop(bus);
    assert_eq!(fast.into_iter().collect::<Vec<_>>(), [4, 5]);
}

#[test]
fn a_publisher_that_sleeps_for_room_is_woken_by_a_reader_that_reads_or_leaves() {
    let bus = lossless(2);
    let (reads, mut leaves) = (bus.subscribe(Predicate::all()), Some(bus.subscribe(Predicate::all())));
    let publishing = thread::spawn(move || {
        for n in 0..100 {
            bus.publish_blocking(n).expect("open");
        }
    });
    thread::sleep(Duration::from_millis(20));
    leaves.take();
    thread::sleep(Duration::from_millis(5));
    assert_eq!(reads.into_iter().collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    publishing.join().expect("no panic");
}

#[test]
fn a_lossless_reader_waits_as_asked() {
    for wait in [WaitStrategy::Spin, WaitStrategy::SpinThenPark, WaitStrategy::Park] {
        let bus = lossless(8);
        let mut reader = bus.subscribe(Predicate::all()).with_wait(wait);
        let thread = thread::spawn(move || reader.iter().collect::<Vec<_>>());
        for n in 0..100 {
            if wait == WaitStrategy::Park && n == 50 {
                // The reader has soon read everything, and then sleeps.
                while bus.wakes() == 0 {
                    bus.publish_blocking(n).expect("open");
                    thread::sleep(Duration::from_millis(1));
                }
            }
            bus.publish_blocking(n).expect("open");
        }
        let wakes = bus.wakes();
        drop(bus);
        let read = thread.join().expect("no panic");
        assert!(read.len() >= 100 && read.is_sorted(), "{wait:?}: {read:?}");
        assert!(wait != WaitStrategy::Park || wakes > 0, "a reader that sleeps was never woken");
    }
}

#[test]
fn several_lossless_publishers_and_readers_lose_nothing_and_keep_each_publishers_order() {
    const EACH: u64 = 5_000;
    let bus = lossless(64);
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let mut reader = bus.subscribe(Predicate::all());
            thread::spawn(move || {
                let mut next = [0; 3];
                let mut batch = Vec::new();
                while reader.recv_batch(&mut batch, 50).is_ok() {
                    for item in batch.drain(..) {
                        let (publisher, n) = ((item >> 32) as usize, item & 0xffff_ffff);
                        assert_eq!(next[publisher], n);
                        next[publisher] += 1;
                    }
                }
                next
            })
        })
        .collect();
    let publishers: Vec<_> = (0..3_u64)
        .map(|publisher| {
            let bus = bus.clone();
            thread::spawn(move || {
                let items = (0..EACH).map(|n| publisher << 32 | n);
                let (single, batch): (Vec<_>, Vec<_>) = items.partition(|n| n & 0xffff_ffff < EACH / 2);
                for n in single {
                    bus.publish_blocking(n).expect("open");
                }
                bus.publish_batch_blocking(batch).expect("open");
            })
        })
        .collect();
    drop(bus);
    for publisher in publishers {
        publisher.join().expect("no panic");
    }
    for reader in readers {
        assert_eq!(reader.join().expect("no panic"), [EACH; 3]);
    }
}

#[test]
fn a_solo_publisher_keeps_the_same_promises() {
    let builder = LosslessBus::builder().capacity(8);
    let mut publisher = builder.build_lossless_solo().expect("valid");
    let mut reader = publisher.subscribe(Filter::new());
    publisher.publish_batch_blocking((0..8).map(|n| event(&format!("t{n}"))));
    let Err(TryPublishError::Full(back)) = publisher.try_publish(event("t8")) else { panic!("no room") };
    assert!(publisher.publish_timeout(back.clone(), Duration::from_millis(2)).is_err());
    let mut types = Vec::new();
    assert_eq!(reader.visit_batch(8, |event| types.push(event.event_type().to_owned())), 8);
    publisher.publish_blocking(back);
    drop(publisher);
    types.extend(reader.into_iter().map(|event| event.event_type().to_owned()));
    assert_eq!(types, (0..9).map(|n| format!("t{n}")).collect::<Vec<_>>());
}

#[cfg(feature = "server")]
#[test]
fn a_bus_continues_at_the_position_of_another() {
    let numbered = |n: u64| Event::builder("x").json(n.to_string()).build().expect("valid");
    for first in [1u64, 5, 8, 100] {
        let start = Position::new(77, [first]);
        let bus = Bus::builder().capacity(8).resuming(start).build().expect("valid");
        assert_eq!((bus.epoch(), bus.head(0), bus.oldest(0)), (77, first, first));
        let mut early =
            bus.subscribe_from(Filter::new(), &Position::new(77, [first - 1])).expect("its epoch");
        let mut now = bus.subscribe(Filter::new());
        let mut ids = Vec::new();
        for n in 0..20 {
            ids.push(bus.publish(numbered(n)).id.expect("open"));
            assert_eq!(bus.oldest(0), (first + n + 1).saturating_sub(8).max(first));
        }
        assert!(ids.iter().zip(first..).all(|(id, sequence)| (id.epoch, id.sequence) == (77, sequence)));
        // Below its first sequence there was never an event, whatever the slots hold.
        let gap = |subscriber: &mut Subscriber| match subscriber.try_recv().expect("there is something") {
            Delivery::Gap(gap) => (gap.from, gap.to),
            Delivery::Event(event) => panic!("{event:?}"),
        };
        assert_eq!(gap(&mut early), (first - 1, first));
        assert!(gap(&mut early).0 == first, "then those that were overwritten");
        assert_eq!(gap(&mut now).0, first);
        let mut seen = Vec::new();
        let from = bus.read_range(0, 0, u64::MAX, |event| seen.push(event.payload().to_owned()));
        assert_eq!((from, seen.len()), (first + 12, 8));
        assert_eq!(bus.stats().live_events, 8);
    }
}

//! Closing a bus: with every wait strategy, readers end after the events published before, and publishers are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fanwire::bus::{PublishError, RecvError, RecvTimeoutError, TryPublishError, TryRecvError, WaitStrategy};
use fanwire::{Bus, Delivery, LosslessBus, Predicate};

const WAITS: [WaitStrategy; 3] = [WaitStrategy::Spin, WaitStrategy::SpinThenPark, WaitStrategy::Park];

fn numbers(capacity: usize) -> Bus<u64> {
    Bus::builder().carrying::<u64>().capacity(capacity).build().expect("valid")
}

fn lossless(capacity: usize) -> LosslessBus<u64> {
    LosslessBus::builder().carrying::<u64>().capacity(capacity).build_lossless().expect("valid")
}

#[test]
fn a_closed_bus_delivers_published_events_and_refuses_more() {
    let bus = numbers(16);
    let mut reader = bus.subscribe(Predicate::all());
    let mut publisher = bus.publisher();
    bus.publish_batch([1, 2, 3]);
    assert!(!bus.is_closed());
    bus.close();
    bus.close();
    assert!(bus.is_closed());
    assert_eq!(bus.try_publish(4), Err(PublishError(4)));
    assert_eq!(publisher.try_publish(5), Err(PublishError(5)));
    assert_eq!((bus.publish(6).id, publisher.publish(7).id), (None, None));
    assert_eq!((bus.publish_batch([8, 9]).count, bus.stats().published, reader.lag()), (0, 3, 3));
    assert_eq!(reader.recv_timeout(Duration::ZERO), Ok(Delivery::Event(1)));
    assert_eq!(reader.iter().collect::<Vec<_>>(), [Delivery::Event(2), Delivery::Event(3)]);
    assert_eq!((reader.try_recv(), reader.recv()), (Err(TryRecvError::Closed), Err(RecvError)));
    assert_eq!(reader.recv_timeout(Duration::MAX), Err(RecvTimeoutError::Closed));
    // A later subscriber ends immediately. The past is still available.
    let mut late = bus.subscribe(Predicate::all());
    assert_eq!(late.try_recv(), Err(TryRecvError::Closed));
    late.seek(&bus.oldest_position()).expect("this bus");
    assert_eq!(late.into_iter().count(), 3);
}

#[test]
fn a_batch_of_several_shards_ends_where_the_bus_was_closed() {
    let bus = Bus::builder().carrying::<u64>().shards(4).ordering_key(|n| *n).build().expect("valid");
    let reader = bus.subscribe(Predicate::all());
    let closes = bus.clone();
    let seen = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&seen);
    bus.on_sync(Predicate::all(), move |_| _ = counts.fetch_add(1, Ordering::Relaxed)).detach();
    let published = bus.publish_batch((0..1000).inspect(|n| {
        if *n == 500 {
            closes.close();
        }
    }));
    assert!(published.count < 1000);
    assert_eq!((published.handled, seen.load(Ordering::Relaxed)), (published.count, published.count));
    bus.clear();
    assert_eq!(reader.into_iter().count(), published.count);
}

#[test]
fn every_way_to_wait_is_ended_by_close() {
    for wait in WAITS {
        let (bus, full) = (numbers(4), lossless(1));
        let mut waits = bus.subscribe(Predicate::all()).with_wait(wait);
        let mut other = full.subscribe(Predicate::all()).with_wait(wait);
        full.try_publish(0).expect("room");
        let hold = full.subscribe(Predicate::all());
        full.try_publish(9).expect_err("full");
        thread::scope(|scope| {
            let ends = scope.spawn(move || waits.recv());
            let publishes = scope.spawn(|| full.publish_blocking(1));
            let publishes_in_time = scope.spawn(|| full.publish_timeout(2, Duration::MAX));
            let publishes_many = scope.spawn(|| full.publish_batch_blocking([3, 4]));
            // The publishers end whether or not they already sleep.
            if wait == WaitStrategy::Park {
                thread::yield_now();
            }
            bus.close();
            full.close();
            assert_eq!(ends.join().expect("no panic"), Err(RecvError));
            assert_eq!(publishes.join().expect("no panic"), Err(PublishError(1)));
            assert_eq!(publishes_in_time.join().expect("no panic"), Err(TryPublishError::Closed(2)));
            assert_eq!(publishes_many.join().expect("no panic"), Err(PublishError(vec![3, 4])));
        });
        assert_eq!(full.try_publish(5), Err(TryPublishError::Closed(5)));
        assert_eq!((other.recv(), other.recv()), (Ok(0), Err(RecvError)));
        drop(hold);
    }
}

#[test]
fn a_handler_of_a_closed_bus_gets_the_rest_and_is_dropped() {
    let bus = numbers(64);
    let held = Arc::new(());
    let (told, hears) = std::sync::mpsc::channel();
    let holds = Arc::clone(&held);
    let guard = bus.on(Predicate::all(), move |n| {
        let _ = (&holds, told.send(*n));
    });
    bus.publish_batch([1, 2, 3]);
    bus.close();
    // The channel ends when the handler's thread has dropped the handler.
    assert_eq!(hears.iter().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(Arc::strong_count(&held), 1);
    drop(guard);
}

/// Several threads publish until they are refused, and readers read until they end: each reader gets exactly what was
/// accepted.
#[test]
fn readers_get_exactly_the_events_accepted_during_the_close() {
    for round in 0..20 {
        let bus = Bus::builder().carrying::<u64>().capacity(1 << 16).shards(2).ordering_key(|n| n >> 32);
        let bus = bus.build().expect("valid");
        let full = lossless(64);
        let (reads, gates) = (bus.subscribe(Predicate::all()), full.subscribe(Predicate::all()));
        let begun = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (bus, full, begun) = (&bus, &full, &begun);
            let publishers: Vec<_> = (0..2_u64)
                .map(|who| {
                    scope.spawn(move || {
                        let begin = || _ = begun.fetch_add(1, Ordering::Relaxed);
                        let lossy = (0..).take_while(|n| bus.try_publish(who << 32 | n).is_ok());
                        let lossy = lossy
                            .take(20_000)
                            .inspect(|n| {
                                if *n == round {
                                    begin();
                                }
                            })
                            .count();
                        let kept =
                            (0..1 << 30).take_while(|n| full.publish_blocking(who << 32 | n).is_ok()).count();
                        (lossy, kept)
                    })
                })
                .collect();
            let counts = scope.spawn(move || gates.into_iter().count());
            while begun.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            bus.close();
            full.close();
            let sums = publishers.into_iter().map(|publisher| publisher.join().expect("no panic"));
            let (lossy, kept) = sums.fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1));
            assert_eq!((reads.into_iter().count(), counts.join().expect("no panic")), (lossy, kept));
        });
    }
}

#[cfg(feature = "async")]
#[test]
fn tasks_that_wait_are_ended_by_close() {
    use futures_util::StreamExt as _;
    smol::block_on(async {
        let (bus, full) = (numbers(4), lossless(1));
        let (mut stream, mut gates) = (bus.subscribe(Predicate::all()), full.subscribe(Predicate::all()));
        full.try_publish(1).expect("room");
        let closing = async {
            smol::future::yield_now().await;
            bus.close();
            full.close();
        };
        let publishing = full.publish_async(2);
        let ended = smol::future::zip(stream.next(), smol::future::zip(publishing, closing)).await;
        assert_eq!((ended.0, ended.1.0), (None, Err(PublishError(2))));
        assert_eq!((gates.next().await, gates.next().await), (Some(1), None));
    });
}

//! Stages of a lossless bus: a subscriber that follows others gets an item only after they have passed it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fanwire::bus::{
    BatchItem, HandlerThread, LosslessSubscriber, Select, SoloPublisher, TryRecvError, WaitStrategy,
};
use fanwire::{Bus, Delivery, LosslessBus, Predicate};

fn lossless(capacity: usize) -> LosslessBus<u64> {
    LosslessBus::builder().carrying::<u64>().capacity(capacity).build_lossless().expect("valid")
}

fn all(bus: &LosslessBus<u64>) -> LosslessSubscriber<u64> {
    bus.subscribe(Predicate::all())
}

#[test]
fn an_item_is_passed_at_the_readers_next_call_or_when_the_visitor_returns() {
    let bus = lossless(8);
    let mut first = all(&bus);
    let mut second = bus.subscribe_after(Predicate::all(), &[&first]);
    (0..4).for_each(|n| _ = bus.try_publish(n).expect("room"));
    assert_eq!((second.try_recv(), second.lag()), (Err(TryRecvError::Empty), 4));
    assert_eq!(first.try_recv(), Ok(0));
    assert_eq!(second.try_recv(), Err(TryRecvError::Empty), "the first one may still work on it");
    assert_eq!(first.try_recv(), Ok(1));
    assert_eq!((second.try_recv(), second.try_recv()), (Ok(0), Err(TryRecvError::Empty)));
    assert_eq!(first.visit_batch(9, |_| ()), 2);
    assert_eq!(second.iter().take(3).collect::<Vec<_>>(), [1, 2, 3]);
    // A batch that was handed out is passed at the next call.
    (4..6).for_each(|n| _ = bus.try_publish(n).expect("room"));
    let mut batch = Vec::new();
    assert_eq!(first.recv_batch(&mut batch, 9), Ok(2));
    assert_eq!(second.try_recv(), Err(TryRecvError::Empty));
    assert_eq!((first.try_recv(), second.try_recv()), (Err(TryRecvError::Empty), Ok(4)));
    // A dropped reader holds back no other, even if a new one reuses its slot.
    bus.try_publish(6).expect("room");
    drop(first);
    let idle = all(&bus);
    bus.try_publish(7).expect("room");
    assert_eq!(second.iter().take(3).collect::<Vec<_>>(), [5, 6, 7]);
    drop((second, idle));
}

/// A stage reads up to the place where the previous stage was at its last look, and then looks again.
#[test]
fn a_stage_reads_in_runs_what_the_previous_stage_has_passed() {
    for solo in [false, true] {
        let builder = LosslessBus::builder().carrying::<u64>().capacity(1024);
        let (mut publisher, bus) = if solo {
            (Some(builder.build_lossless_solo().expect("valid")), None)
        } else {
            (None, Some(builder.build_lossless().expect("valid")))
        };
        let publish = |publisher: &mut Option<SoloPublisher<u64>>, n: u64| match (publisher, &bus) {
            (Some(publisher), _) => drop(publisher.try_publish(n).expect("room")),
            (None, Some(bus)) => drop(bus.try_publish(n).expect("room")),
            (None, None) => {}
        };
        let (mut first, mut second) = match (&publisher, &bus) {
            (Some(publisher), _) => {
                let first = publisher.subscribe(Predicate::all());
                let second = publisher.subscribe_after(Predicate::all(), &[&first]);
                (first, second)
            }
            (None, Some(bus)) => {
                let first = all(bus);
                let second = bus.subscribe_after(Predicate::all(), &[&first]);
                (first, second)
            }
            (None, None) => continue,
        };
        (0..300).for_each(|n| publish(&mut publisher, n));
        assert_eq!(first.visit_batch(200, |_| ()), 200);
        let mut seen = Vec::new();
        assert_eq!(second.visit_batch(150, |n| seen.push(*n)), 150);
        // The first 50 are known from its first look; the others need a new look.
        assert_eq!(first.visit_batch(usize::MAX, |_| ()), 100);
        assert_eq!(second.visit_batch(usize::MAX, |n| seen.push(*n)), 50);
        assert_eq!(second.visit_batch(usize::MAX, |n| seen.push(*n)), 100);
        assert_eq!(second.visit_batch(usize::MAX, |n| seen.push(*n)), 0);
        // A subscriber without a predecessor follows the publishers.
        publish(&mut publisher, 300);
        drop(first);
        assert_eq!(second.visit_batch(usize::MAX, |n| seen.push(*n)), 1);
        assert!(seen.iter().copied().eq(0..301), "{seen:?}");
    }
}

/// A poller that follows its publishers closely finds everything, regardless of when it looks, and learns of the end.
#[test]
fn a_poller_sees_all_items_and_the_end() {
    const ITEMS: u64 = 300_000;
    let mut publisher =
        LosslessBus::builder().carrying::<u64>().capacity(1024).build_lossless_solo().expect("valid");
    let mut reader = publisher.subscribe(Predicate::all());
    let publishing = thread::spawn(move || (0..ITEMS).for_each(|n| _ = publisher.publish_blocking(n)));
    let mut next = 0;
    loop {
        // Before the visit: nothing comes after it.
        let is_closed = reader.is_closed();
        let visit = |n: &u64| {
            assert_eq!(*n, next);
            next += 1;
        };
        if reader.visit_batch(usize::MAX, visit) == 0 {
            if is_closed && reader.lag() == 0 {
                break;
            }
            thread::yield_now();
        }
    }
    publishing.join().expect("no panic");
    assert_eq!(next, ITEMS);
}

#[test]
fn items_that_a_stage_does_not_want_are_passed_too() {
    let bus = lossless(1024);
    let mut even = bus.subscribe(|n: &u64| n.is_multiple_of(2));
    let mut odd = bus.subscribe_after(|n: &u64| n % 2 == 1, &[&even]);
    (0..1000).for_each(|n| _ = bus.try_publish(n).expect("room"));
    bus.close();
    assert_eq!(odd.try_recv(), Err(TryRecvError::Empty));
    assert!(even.iter().eq((0..1000).step_by(2)));
    assert!(odd.iter().eq((1..1000).step_by(2)));
}

#[test]
#[should_panic(expected = "subscribers of one bus")]
fn a_subscriber_of_another_bus_is_not_followed() {
    let (bus, other) = (lossless(1), lossless(1));
    drop(bus.subscribe_after(Predicate::all(), &[&all(&other)]));
}

/// Publishes to a diamond of stages. Its last stage checks that the two before it have passed each item.
fn diamond(wait: WaitStrategy, solo: bool) {
    const ITEMS: u64 = 20_000;
    let builder = LosslessBus::builder().carrying::<u64>().capacity(64);
    let (mut one, many) = if solo {
        (Some(builder.build_lossless_solo().expect("valid")), None)
    } else {
        (None, Some(builder.build_lossless().expect("valid")))
    };
    let join = || match (&one, &many) {
        (Some(one), _) => one.subscribe(Predicate::all()).with_wait(wait),
        (_, Some(many)) => many.subscribe(Predicate::all()).with_wait(wait),
        _ => unreachable!("one of the two"),
    };
    let (left, right) = (join(), join());
    let last = match (&one, &many) {
        (Some(one), _) => one.subscribe_after(Predicate::all(), &[&left, &right]),
        (_, Some(many)) => many.subscribe_after(Predicate::all(), &[&left, &right]),
        _ => unreachable!("one of the two"),
    };
    let seen: Arc<[AtomicU64; 2]> = Arc::default();
    let notes = Arc::clone(&seen);
    let mut flushed = 0;
    let left = left.handle(HandlerThread::new().named("left"), move |next| match next {
        BatchItem::Item(n) => flushed = n + 1,
        // Relaxed: the gates order it.
        BatchItem::End => notes[0].store(flushed, Ordering::Relaxed),
    });
    let notes = Arc::clone(&seen);
    let right = thread::spawn(move || {
        for n in right {
            notes[1].store(n + 1, Ordering::Relaxed);
        }
    });
    let last = last.with_wait(wait);
    let check = thread::spawn(move || {
        let mut next = 0;
        for n in last {
            assert_eq!(n, next);
            next += 1;
            assert!(seen.iter().all(|seen| seen.load(Ordering::Relaxed) > n), "a stage was overtaken at {n}");
        }
        next
    });
    for n in 0..ITEMS {
        match (&mut one, &many) {
            (Some(one), _) => _ = one.publish_blocking(n),
            (_, Some(many)) => _ = many.publish_blocking(n).expect("open"),
            _ => unreachable!("one of the two"),
        }
    }
    drop((one, many));
    assert_eq!(check.join().expect("no panic"), ITEMS);
    assert_eq!(left.expect("it starts").join().expect("no panic"), 0);
    right.join().expect("no panic");
}

#[test]
fn no_stage_of_a_diamond_is_overtaken() {
    for wait in [WaitStrategy::SpinThenPark, WaitStrategy::Park, WaitStrategy::Spin] {
        diamond(wait, false);
        diamond(wait, true);
    }
}

#[test]
fn a_batch_handler_is_called_at_each_end_and_continues_after_a_panic() {
    let bus = lossless(256);
    let (sender, received) = std::sync::mpsc::channel();
    let reader = bus.subscribe(|n: &u64| *n != 3);
    (0..6).for_each(|n| _ = bus.try_publish(n).expect("room"));
    let handler = move |next: BatchItem<'_, u64>| match next {
        BatchItem::Item(4) => panic!("as asked"),
        BatchItem::Item(n) => _ = sender.send(Some((*n, thread::current().name().map(str::to_owned)))),
        BatchItem::End => _ = sender.send(None),
    };
    let thread = HandlerThread::new().named("stage-1").pinned_to(0);
    let running = reader.handle(thread, handler).expect("there is a core 0");
    bus.close();
    assert_eq!(running.join().expect("caught"), 1);
    let seen: Vec<_> = received.into_iter().collect();
    let name = Some("stage-1".to_owned());
    let items: Vec<_> = [0, 1, 2, 5].map(|n| Some((n, name.clone()))).into_iter().chain([None]).collect();
    assert_eq!(seen, items, "all that was there is one batch");
}

#[test]
fn a_handler_on_a_core_that_does_not_exist_does_not_start_and_gates_no_publisher() {
    let bus = lossless(1);
    for core in [1 << 9, usize::MAX] {
        let refused = all(&bus).handle(HandlerThread::new().pinned_to(core), |_| ());
        assert!(refused.is_err());
    }
    (0..10).for_each(|n| _ = bus.try_publish(n).expect("no reader to wait for"));
}

#[test]
fn the_first_of_several_subscribers_is_found_and_each_gets_its_turn() {
    let (bus, other) = (Bus::builder().carrying::<u32>().build().expect("valid"), lossless(1));
    let (mut a, mut b) = (bus.subscribe(Predicate::all()), all(&other));
    let mut select = Select::new();
    assert_eq!(select.ready(&mut [], Duration::MAX), None);
    assert_eq!(select.ready(&mut [&mut a, &mut b], Duration::from_millis(1)), None);
    bus.publish_batch([1, 2, 3]);
    other.try_publish(9).expect("room");
    let turns: Vec<_> =
        (0..4).map(|_| select.ready(&mut [&mut a, &mut b], Duration::MAX).expect("ready")).collect();
    assert!(turns == [0, 1, 0, 1] || turns == [1, 0, 1, 0], "{turns:?}");
    // An item that the lossless subscriber has read makes room for a publisher, although another subscriber is read
    // next.
    assert_eq!(b.try_recv(), Ok(9));
    assert_eq!(a.iter().take(3).count(), 3);
    other.try_publish(10).expect("room");
    assert_eq!(select.ready(&mut [&mut a, &mut b], Duration::MAX), Some(1));
    assert_eq!(b.try_recv(), Ok(10));
    bus.close();
    assert_eq!(select.ready(&mut [&mut a, &mut b], Duration::MAX), Some(0));
    assert_eq!(a.try_recv(), Err(TryRecvError::Closed));
    drop(other);
    assert_eq!(select.ready(&mut [&mut b], Duration::MAX), Some(0));
    assert_eq!(b.try_recv(), Err(TryRecvError::Closed));
}

#[test]
fn no_wake_up_of_several_buses_is_lost() {
    const ITEMS: u64 = 3_000;
    for wait in [WaitStrategy::Park, WaitStrategy::SpinThenPark, WaitStrategy::Spin] {
        let (bus, other) = (Bus::builder().carrying::<u64>().build().expect("valid"), lossless(4));
        let (mut a, mut b) = (bus.subscribe(|n: &u64| n.is_multiple_of(2)), all(&other));
        let publishing = [
            thread::spawn(move || (0..ITEMS).for_each(|n| _ = bus.publish(n))),
            thread::spawn(move || (0..ITEMS).for_each(|n| _ = other.publish_blocking(n).expect("open"))),
        ];
        let mut select = Select::new().with_wait(wait);
        let (mut got, mut kept, mut open) = (0, 0, [true; 2]);
        while open.contains(&true) {
            let ready = match open {
                [true, true] => select.ready(&mut [&mut a, &mut b], Duration::MAX),
                [true, false] => select.ready(&mut [&mut a], Duration::MAX),
                _ => select.ready(&mut [&mut b], Duration::MAX).map(|_| 1),
            };
            if ready == Some(0) {
                match a.try_recv() {
                    Ok(Delivery::Event(_)) => got += 1,
                    Ok(Delivery::Gap(gap)) => panic!("{gap:?}"),
                    Err(TryRecvError::Empty) => {}
                    Err(TryRecvError::Closed) => open[0] = false,
                }
            } else {
                match b.try_recv() {
                    Ok(n) => (assert_eq!(n, kept), kept += 1).1,
                    Err(TryRecvError::Empty) => {}
                    Err(TryRecvError::Closed) => open[1] = false,
                }
            }
        }
        assert_eq!((got, kept), (ITEMS / 2, ITEMS));
        for thread in publishing {
            thread.join().expect("no panic");
        }
    }
}

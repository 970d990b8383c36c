//! The embedder's code that the bus calls: iterators, closures, wakers and `Drop`s that panic, return wrong sizes,
//! publish, or own one another. Each cell of the table in docs/guarantees.md names its test here.
//!
//! Such a fault would block a thread forever, so each test has a time limit far beyond its needs.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use fanwire::bus::{
    AsyncAdapter, DeliveryRef, HandlerGuard, SoloPublisher, TryPublishError, TryRecvError, WaitStrategy,
};
use fanwire::{Bus, Delivery, Event, Filter, LosslessBus, Predicate, Subscriber};
use futures_core::Stream;

/// Runs a test in a thread, and fails if the thread does not return.
fn within_limit(test: impl FnOnce() + Send + 'static) {
    let (done, received) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match received.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

fn panics(run: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

fn numbers(capacity: usize) -> Bus<u64> {
    Bus::builder().carrying::<u64>().capacity(capacity).build().expect("valid")
}

fn lossless(capacity: usize) -> LosslessBus<u64> {
    LosslessBus::builder().carrying::<u64>().capacity(capacity).build_lossless().expect("valid")
}

fn solo(capacity: usize) -> SoloPublisher<u64> {
    LosslessBus::builder().carrying::<u64>().capacity(capacity).build_lossless_solo().expect("valid")
}

fn event(kind: &str) -> Event {
    Event::builder(kind).build().expect("valid")
}

fn events(reader: &mut Subscriber<u64>) -> Vec<u64> {
    let mut got = Vec::new();
    while let Ok(Delivery::Event(n)) = reader.try_recv() {
        got.push(n);
    }
    got
}

// Iterators.

/// An iterator that reports a wrong length.
struct Liar {
    says: usize,
    has: std::ops::Range<u64>,
}

impl Iterator for Liar {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.has.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.says, Some(self.says))
    }
}

impl ExactSizeIterator for Liar {
    fn len(&self) -> usize {
        self.says
    }
}

/// An iterator that returns `None` once, and then more items.
struct Stutterer(u64);

impl Iterator for Stutterer {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0 += 1;
        (!self.0.is_multiple_of(3)).then_some(self.0)
    }
}

#[test]
fn a_batch_publishes_the_items_that_the_iterator_returns_despite_a_wrong_length() {
    within_limit(|| {
        for says in [0, 1, 3, 100, usize::MAX] {
            let liar = || Liar { says, has: 0..3 };
            let bus = numbers(256);
            let mut reader = bus.subscribe(Predicate::all());
            assert_eq!(bus.publish_batch(liar()).count, 3);
            assert_eq!(bus.publisher().publish_batch(liar()).count, 3);
            assert_eq!(events(&mut reader), [0, 1, 2, 0, 1, 2]);

            let bus = lossless(256);
            let mut reader = bus.subscribe(Predicate::all());
            assert_eq!(bus.publish_batch_blocking(liar()).expect("open").map(|id| id.sequence), Some(2));
            bus.publish_blocking(7).expect("open");
            assert_eq!((0..4).map(|_| reader.recv().expect("open")).collect::<Vec<_>>(), [0, 1, 2, 7]);
            assert_eq!(reader.try_recv(), Err(TryRecvError::Empty));

            let mut publisher = solo(256);
            let mut reader = publisher.subscribe(Predicate::all());
            assert_eq!(publisher.publish_batch_blocking(liar()).map(|id| id.sequence), Some(2));
            publisher.publish_blocking(7);
            assert_eq!((0..4).map(|_| reader.recv().expect("open")).collect::<Vec<_>>(), [0, 1, 2, 7]);
            assert_eq!(reader.try_recv(), Err(TryRecvError::Empty));
        }
        let bus = numbers(16);
        assert_eq!(bus.publish_batch(Stutterer(0)).count, 2, "the end is the end");
    });
}

/// Bodies are taken from the iterator first, so a slot that was not filled would have none.
#[test]
fn a_batch_of_events_publishes_the_items_that_the_iterator_returns() {
    struct Fewer(usize);
    impl Iterator for Fewer {
        type Item = Event;
        fn next(&mut self) -> Option<Event> {
            self.0 = self.0.checked_sub(1)?;
            Some(event("a"))
        }
    }
    impl ExactSizeIterator for Fewer {
        fn len(&self) -> usize {
            50
        }
    }
    within_limit(|| {
        let mut publisher = LosslessBus::builder().capacity(64).build_lossless_solo().expect("valid");
        let mut reader = publisher.subscribe(Filter::new());
        publisher.publish_batch_blocking(Fewer(2));
        publisher.publish_blocking(event("b"));
        drop(publisher);
        let types: Vec<_> = reader.iter().map(|event| event.event_type().to_owned()).collect();
        assert_eq!(types, ["a", "a", "b"]);
    });
}

#[test]
fn an_iterator_that_panics_blocks_no_reader() {
    within_limit(|| {
        let bad = |at: u64| (0..200).inspect(move |n| assert!(*n != at, "as asked"));
        for at in [0, 5, 64, 130] {
            let whole = at / 64 * 64;
            let bus = numbers(1024);
            let mut reader = bus.subscribe(Predicate::all());
            assert!(panics(|| _ = bus.publish_batch(bad(at))));
            bus.publish(1000);
            let expected: Vec<u64> = (0..whole).chain([1000]).collect();
            assert_eq!(events(&mut reader), expected);

            let bus = lossless(1024);
            let mut reader = bus.subscribe(Predicate::all());
            assert!(panics(|| _ = bus.publish_batch_blocking(bad(at))));
            bus.publish_blocking(1000).expect("open");
            assert_eq!(reader.iter().take(expected.len()).collect::<Vec<_>>(), expected);

            let mut publisher = solo(1024);
            let mut reader = publisher.subscribe(Predicate::all());
            assert!(panics(|| _ = publisher.publish_batch_blocking(bad(at))));
            publisher.publish_blocking(1000);
            assert_eq!(reader.iter().take(expected.len()).collect::<Vec<_>>(), expected);
        }
    });
}

#[test]
fn an_iterator_may_publish_to_the_bus_that_takes_it() {
    within_limit(|| {
        let bus = numbers(1024);
        let mut reader = bus.subscribe(Predicate::all());
        bus.publish_batch((0..100).inspect(|n| _ = bus.publish(1000 + n)));
        let got = events(&mut reader);
        assert_eq!(got.len(), 200);
        assert!(got.iter().filter(|n| **n < 1000).is_sorted());

        // A full bus with a reader on another thread: no sequence is claimed while the iterator waits for room.
        let bus = lossless(4);
        let mut reader = bus.subscribe(Predicate::all());
        let reads = thread::spawn(move || reader.iter().take(200).collect::<Vec<_>>());
        bus.publish_batch_blocking((0..100).inspect(|n| _ = bus.publish_blocking(1000 + n))).expect("open");
        let got = reads.join().expect("no panic");
        assert_eq!(got.len(), 200);
        assert!(got.iter().filter(|n| **n < 1000).is_sorted());
    });
}

#[test]
fn a_slow_iterator_delays_no_other_publisher() {
    within_limit(|| {
        let bus = lossless(64);
        let mut reader = bus.subscribe(Predicate::all());
        let other = bus.clone();
        // In the middle of a batch another event is published and read before the iterator continues.
        bus.publish_batch_blocking((0..3).inspect(|n| {
            if *n == 1 {
                thread::scope(|scope| {
                    let published = scope.spawn(|| other.publish_blocking(77));
                    published.join().expect("it is not held up").expect("open");
                });
                assert_eq!(reader.recv(), Ok(77));
            }
        }))
        .expect("open");
        assert_eq!(reader.iter().take(3).collect::<Vec<_>>(), [0, 1, 2]);
    });
}

#[test]
fn an_ordering_key_that_panics_ends_the_call_and_nothing_else() {
    within_limit(|| {
        let key = |n: &u64| {
            assert!(*n != 13, "as asked");
            *n
        };
        let bus = Bus::builder().carrying::<u64>().shards(4).ordering_key(key).build().expect("valid");
        let mut reader = bus.subscribe(Predicate::all());
        assert!(panics(|| _ = bus.publish(13)));
        assert!(panics(|| _ = bus.publish_batch([1, 2, 13, 3])));
        bus.publish(4);
        assert!(events(&mut reader).contains(&4));
    });
}

// Handlers.

/// Runs a closure when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn a_handler_may_own_another_ones_guard() {
    within_limit(|| {
        let bus = numbers(16);
        let inner = bus.on_sync(Predicate::all(), |_| {});
        let of_thread = bus.on(Predicate::all(), |_| {});
        let own = Mutex::new((inner, of_thread));
        let outer = bus.on_sync(Predicate::all(), move |_| _ = own.lock().is_ok());
        assert_eq!(bus.subscriber_count(), 3);
        drop(outer);
        assert_eq!((bus.subscriber_count(), bus.publish(1).handled), (0, 0));
    });
}

#[test]
fn a_handlers_values_may_publish_subscribe_and_unsubscribe_when_dropped() {
    within_limit(|| {
        // Each way to end a handler.
        type Remove = fn(&Bus<u64>, HandlerGuard);
        let ways: [Remove; 4] = [
            |_, guard| drop(guard),
            |bus, guard| _ = bus.unsubscribe(guard.id()),
            |bus, _guard| bus.clear(),
            |bus, guard| {
                guard.detach();
                bus.clear();
            },
        ];
        for remove in ways {
            let bus = numbers(64);
            let mut reader = bus.subscribe(Predicate::all());
            let dropped = Arc::new(AtomicUsize::new(0));
            let own = {
                let (bus, dropped) = (bus.downgrade(), Arc::clone(&dropped));
                OnDrop(move || {
                    let bus = bus.upgrade().expect("open");
                    bus.publish(99);
                    let guard = bus.on_sync(Predicate::all(), |_| {});
                    let _ = bus.subscriber_count();
                    bus.unsubscribe(guard.id());
                    dropped.fetch_add(1, Ordering::SeqCst);
                })
            };
            let guard = bus.on_sync(Predicate::all(), move |_| _ = &own);
            remove(&bus, guard);
            assert_eq!((dropped.load(Ordering::SeqCst), events(&mut reader)), (1, vec![99]));
        }
    });
}

#[test]
fn a_handler_that_panics_when_it_is_dropped_affects_no_other() {
    within_limit(|| {
        let bus = numbers(64);
        for _ in 0..3 {
            let own = OnDrop(|| panic!("as asked"));
            let guard = bus.on_sync(Predicate::all(), move |_| _ = &own);
            let other = bus.on_sync(Predicate::all(), |_| {});
            drop(guard);
            assert_eq!(bus.publish(1).handled, 1);
            drop(other);
        }
        assert_eq!(bus.stats().handler_panics, 3);
        // The handler is dropped in its own thread, and with the bus.
        let own = OnDrop(|| panic!("as asked"));
        let guard = bus.on(Predicate::all(), move |_| _ = &own);
        drop(guard);
        while bus.stats().handler_panics < 4 {
            thread::yield_now();
        }
        let own = OnDrop(|| panic!("as asked"));
        bus.on_sync(Predicate::all(), move |_| _ = &own).detach();
        drop(bus);
    });
}

#[test]
fn a_filter_that_panics_is_its_handlers_panic() {
    within_limit(|| {
        let bad = |n: &u64| {
            assert!(*n != 1, "as asked");
            true
        };
        let bus = numbers(64);
        let taken = Arc::new(Mutex::new(Vec::new()));
        let own = Arc::clone(&taken);
        let in_thread = bus.on(bad, move |n| own.lock().expect("whole").push(*n));
        let within = bus.on_sync(bad, |_| {});
        assert_eq!((0..3).map(|n| bus.publish(n).handled).collect::<Vec<_>>(), [1, 0, 1]);
        assert_eq!(bus.publish_batch([1, 5]).handled, 1);
        while taken.lock().expect("whole").len() < 3 {
            thread::yield_now();
        }
        assert_eq!(*taken.lock().expect("whole"), [0, 2, 5]);
        assert_eq!((in_thread.panics(), within.panics(), bus.stats().handler_panics), (2, 2, 4));
    });
}

#[test]
fn a_panic_whose_payload_panics_goes_no_further() {
    within_limit(|| {
        let bus = numbers(64);
        let guard = bus.on_sync(Predicate::all(), |_| panic_any(OnDrop(|| panic!("again"))));
        bus.publish(1);
        assert_eq!(guard.panics(), 1);
        let in_thread = bus.on(Predicate::all(), |_| panic_any(OnDrop(|| panic!("again"))));
        bus.publish(2);
        bus.publish(3);
        while in_thread.panics() < 2 {
            thread::yield_now();
        }
    });
}

#[test]
fn a_handler_may_publish_and_end_itself() {
    within_limit(|| {
        let bus = numbers(64);
        let mut reader = bus.subscribe(Predicate::all());
        let guard: Arc<OnceLock<HandlerGuard>> = Arc::default();
        let (own, weak) = (Arc::clone(&guard), bus.downgrade());
        let on = bus.on_sync(
            |n: &u64| *n < 10,
            move |n| {
                let bus = weak.upgrade().expect("open");
                bus.publish(n + 10);
                bus.unsubscribe(own.get().expect("set").id());
                bus.clear();
            },
        );
        guard.set(on).expect("once");
        assert_eq!((bus.publish(1).handled, bus.publish(2).handled), (1, 0));
        assert_eq!(events(&mut reader), [1, 11, 2]);
    });
}

#[test]
fn a_handler_that_blocks_holds_up_its_own_thread_only() {
    within_limit(|| {
        let bus = numbers(64);
        let (go_on, held) = mpsc::channel::<()>();
        let slow = bus.on(Predicate::all(), move |_| _ = held.recv());
        let count = Arc::new(AtomicU64::new(0));
        let own = Arc::clone(&count);
        let quick = bus.on(Predicate::all(), move |_| _ = own.fetch_add(1, Ordering::SeqCst));
        for n in 0..10 {
            bus.publish(n);
        }
        while count.load(Ordering::SeqCst) < 10 {
            thread::yield_now();
        }
        // A handler that is removed while it is called: the removal does not wait for the call.
        drop((slow, quick));
        drop(go_on);
    });
}

#[test]
fn a_handler_that_is_ended_stops_though_events_keep_coming() {
    within_limit(|| {
        let bus = numbers(1024);
        let over = Arc::new(AtomicBool::new(false));
        let publisher = {
            let (bus, over) = (bus.clone(), Arc::clone(&over));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    bus.publish(1);
                }
            })
        };
        let (dropped, received) = mpsc::channel();
        let own = OnDrop(move || _ = dropped.send(()));
        // The handler's filter matches none of them.
        let guard = bus.on(|_: &u64| false, move |_| _ = &own);
        thread::sleep(Duration::from_millis(5));
        drop(guard);
        received.recv().expect("its thread ends, and drops it");
        over.store(true, Ordering::Relaxed);
        publisher.join().expect("no panic");
    });
}

#[test]
fn a_detached_handler_with_a_weak_handle_lets_its_bus_end() {
    within_limit(|| {
        for in_thread in [false, true] {
            let bus = numbers(64);
            let mut reader = bus.subscribe(Predicate::all());
            let weak = bus.downgrade();
            let echo = move |n: &u64| {
                if let Some(bus) = weak.upgrade().filter(|_| *n < 10) {
                    bus.publish(n + 10);
                }
            };
            if in_thread {
                bus.on(Predicate::all(), echo).detach()
            } else {
                bus.on_sync(Predicate::all(), echo).detach()
            };
            bus.publish(1);
            assert_eq!((reader.recv(), reader.recv()), (Ok(Delivery::Event(1)), Ok(Delivery::Event(11))));
            drop(bus);
            assert!(reader.recv().is_err(), "closed");
        }
    });
}

#[test]
fn a_detached_handler_that_holds_its_bus_is_released_by_clear() {
    within_limit(|| {
        for in_thread in [false, true] {
            let bus = numbers(64);
            let mut reader = bus.subscribe(Predicate::all());
            let own = bus.clone();
            let hold = move |_: &u64| _ = own.epoch();
            if in_thread {
                bus.on(Predicate::all(), hold).detach()
            } else {
                bus.on_sync(Predicate::all(), hold).detach()
            };
            bus.clear();
            drop(bus);
            assert!(reader.recv().is_err(), "closed");
        }
    });
}

// Readers' filters, and visitors.

#[test]
fn a_subscriber_continues_after_its_filter_panics() {
    within_limit(|| {
        let bus = numbers(64);
        let bad = |n: &u64| {
            assert!(!n.is_multiple_of(3), "as asked");
            *n > 1
        };
        let mut reader = bus.subscribe(bad);
        bus.publish_batch(0..9);
        let mut got = Vec::new();
        let mut caught = 0;
        while reader.lag() > 0 {
            match catch_unwind(AssertUnwindSafe(|| reader.try_recv())) {
                Ok(Ok(Delivery::Event(n))) => got.push(n),
                Ok(other) => panic!("{other:?}"),
                Err(_) => caught += 1,
            }
        }
        assert_eq!((got, caught), (vec![2, 4, 5, 7, 8], 3));
        let ledger = reader.ledger();
        assert_eq!((ledger.seen, ledger.missed, ledger.lag), (9, 0, 0));
        // The publisher, its memory and other readers are not affected.
        assert_eq!(bus.publish(100).handled, 0);
        assert_eq!(reader.recv(), Ok(Delivery::Event(100)));
    });
}

#[test]
fn a_filter_or_visitor_may_publish_to_the_bus_that_it_reads() {
    within_limit(|| {
        // The ring has two slots: the visited event is overwritten, but not released, while the visitor publishes.
        let bus = Bus::builder().capacity(2).build().expect("valid");
        let mut reader = bus.subscribe(Filter::new());
        bus.publish(Event::builder("a").json("\"kept\"").build().expect("valid"));
        let mut seen = 0;
        reader.visit_batch(1, |visit| {
            let DeliveryRef::Event(kept) = visit else { panic!("no event") };
            for _ in 0..1000 {
                bus.publish(event("b"));
            }
            let _ = bus.stats();
            assert_eq!(kept.payload(), "\"kept\"");
            seen += 1;
        });
        assert_eq!(seen, 1);

        let bus = numbers(64);
        let own = bus.clone();
        let mut reader = bus.subscribe(move |n: &u64| {
            if *n < 3 {
                own.publish(n + 10);
            }
            true
        });
        bus.publish_batch(0..3);
        assert_eq!(events(&mut reader), [0, 1, 2, 10, 11, 12]);
    });
}

#[test]
fn a_lossless_visitor_that_panics_leaves_its_gate_and_goes_on() {
    within_limit(|| {
        let bus = lossless(4);
        let mut reader = bus.subscribe(Predicate::all());
        for n in 0..4 {
            bus.try_publish(n).expect("room");
        }
        assert!(panics(|| _ = reader.visit_batch(4, |n| assert!(*n != 1, "as asked"))));
        assert_eq!(bus.try_publish(9), Err(TryPublishError::Full(9)), "its gate holds until it reads on");
        assert_eq!((reader.recv(), reader.recv()), (Ok(2), Ok(3)));
        bus.publish_blocking(4).expect("open");
        assert_eq!(reader.recv(), Ok(4));
    });
}

// Unwanted events keep coming. The limit counts visits, not time.

/// Returns a filter that counts its calls, publishes another event at each call, and matches none.
fn flood(bus: &Bus<u64>, asked: &Arc<AtomicUsize>) -> Predicate<u64> {
    let (bus, asked) = (bus.clone(), Arc::clone(asked));
    Predicate::from(move |_: &u64| {
        asked.fetch_add(1, Ordering::SeqCst);
        bus.publish(0);
        false
    })
}

#[test]
fn a_look_passes_over_at_most_256_events() {
    within_limit(|| {
        let bus = numbers(1024);
        let asked = Arc::new(AtomicUsize::new(0));
        let mut reader = bus.subscribe(flood(&bus, &asked));
        bus.publish(0);
        let looks = |what: &str, look: &mut dyn FnMut()| {
            asked.store(0, Ordering::SeqCst);
            look();
            let asked = asked.load(Ordering::SeqCst);
            assert!(asked <= 256, "{what} looked at {asked}");
        };
        looks("try_recv", &mut || assert_eq!(reader.try_recv(), Err(TryRecvError::Empty)));
        assert!(reader.lag() > 0, "its lag shows that");
        looks("visit_batch", &mut || assert_eq!(reader.visit_batch(1000, |_| {}), 0));
        looks("a poll", &mut || {
            let woken = Arc::new(Count::default());
            let waker = Waker::from(Arc::clone(&woken));
            let mut cx = Context::from_waker(&waker);
            assert!(Pin::new(&mut reader).poll_next(&mut cx).is_pending());
            assert_eq!(woken.0.load(Ordering::SeqCst), 1, "it wakes itself");
        });
        // A deadline that has passed is noticed at the next check of the clock.
        looks("recv_timeout", &mut || {
            assert!(reader.recv_timeout(Duration::ZERO).is_err());
        });
        assert!(asked.load(Ordering::SeqCst) <= 64);
    });
}

#[test]
fn wanted_items_are_found_after_any_number_of_unwanted_ones() {
    within_limit(|| {
        let bus = numbers(4096);
        let wanted = |n: &u64| *n == 7;
        let mut readers: Vec<_> = (0..4).map(|_| bus.subscribe(wanted)).collect();
        bus.publish_batch((0..3000).map(|_| 0).chain([7]));
        assert_eq!(readers[0].recv(), Ok(Delivery::Event(7)));
        assert_eq!(readers[1].recv_timeout(Duration::from_secs(60)), Ok(Delivery::Event(7)));
        let mut tries = 0;
        while readers[2].try_recv().is_err() {
            tries += 1;
        }
        assert_eq!(tries, 3000 / 256);
        let mut batch = Vec::new();
        assert_eq!(readers[3].recv_batch(&mut batch, 10), Ok(1));
        let taken = Arc::new(AtomicU64::new(0));
        let own = Arc::clone(&taken);
        let on = bus.on(wanted, move |n| _ = own.fetch_add(*n, Ordering::SeqCst));
        bus.publish_batch((0..3000).map(|_| 0).chain([7]));
        while taken.load(Ordering::SeqCst) != 7 {
            thread::yield_now();
        }
        // The bus's end is reported after all of them.
        drop(on);
        let mut last = bus.subscribe(wanted);
        bus.publish_batch((0..3000).map(|_| 0).chain([7]));
        drop(bus);
        assert_eq!(last.iter().collect::<Vec<_>>(), [Delivery::Event(7)]);
    });
}

// Wakers.

/// A waker that counts.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A waker that runs a closure in the waking thread.
struct Doing<F: Fn() + Send + Sync + 'static>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for Doing<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

fn doing(run: impl Fn() + Send + Sync + 'static) -> Waker {
    Waker::from(Arc::new(Doing(run)))
}

fn sleep_with<S: Stream + Unpin>(stream: &mut S, waker: &Waker) {
    assert!(Pin::new(stream).poll_next(&mut Context::from_waker(waker)).is_pending());
}

#[test]
fn a_waker_that_panics_is_counted_and_the_others_are_woken() {
    within_limit(|| {
        let bus = numbers(64);
        let bad = doing(|| panic_any(OnDrop(|| panic!("again"))));
        let counts: Vec<_> = (0..3).map(|_| Arc::new(Count::default())).collect();
        let mut streams: Vec<_> = (0..6).map(|_| bus.subscribe(Predicate::all())).collect();
        for (nth, stream) in streams.iter_mut().enumerate() {
            let good = Waker::from(Arc::clone(&counts[nth / 2]));
            sleep_with(stream, if nth % 2 == 0 { &bad } else { &good });
        }
        bus.publish(1);
        assert!(counts.iter().all(|count| count.0.load(Ordering::SeqCst) == 1));
        assert_eq!(bus.stats().waker_panics, 3);
        // Also with a sleeping thread, and at the end of the bus.
        sleep_with(&mut streams[0].by_taking(), &bad);
        drop(streams);

        let mut stream = bus.subscribe(Predicate::all());
        sleep_with(&mut stream, &bad);
        drop(bus);

        // On a lossless bus: readers, and publishers that wait for room.
        let bus = lossless(1);
        let mut reader = bus.subscribe(Predicate::all());
        sleep_with(&mut reader, &bad);
        let mut other = bus.subscribe(Predicate::all());
        sleep_with(&mut other, &Waker::from(Arc::clone(&counts[0])));
        bus.publish_blocking(1).expect("open");
        assert_eq!(counts[0].0.load(Ordering::SeqCst), 2);
        let mut waits = Box::pin(bus.publish_async(2));
        assert!(waits.as_mut().poll(&mut Context::from_waker(&bad)).is_pending());
        assert_eq!((reader.recv(), other.recv()), (Ok(1), Ok(1)));
        drop((reader, other));
    });
}

/// Reads all available items, so that the stream can sleep.
trait ByTaking {
    fn by_taking(&mut self) -> &mut Self;
}

impl ByTaking for Subscriber<u64> {
    fn by_taking(&mut self) -> &mut Self {
        while self.try_recv().is_ok() {}
        self
    }
}

#[test]
fn a_waker_may_publish_read_and_unsubscribe() {
    within_limit(|| {
        let bus = Bus::new();
        let (mut stream, mut all) = (bus.subscribe(Filter::new()), bus.subscribe(Filter::new()));
        let handler = Mutex::new(Some(bus.on(Filter::new(), |_| {})));
        let own = bus.clone();
        let busy = doing(move || {
            own.publish(event("woken"));
            own.publish_batch([event("b"), event("c")]);
            let _ = own.stats();
            let _ = own.held_bytes();
            drop(own.subscribe(Filter::new()));
            drop(handler.lock().expect("whole").take());
            own.start_recording(10);
            own.clear();
        });
        bus.start_recording(100_000);
        sleep_with(&mut stream, &busy);
        bus.publish(event("a"));
        let types: Vec<_> = std::iter::from_fn(|| match all.try_recv() {
            Ok(Delivery::Event(event)) => Some(event.event_type().to_owned()),
            _ => None,
        })
        .collect();
        assert_eq!(types, ["a", "woken", "b", "c"]);

        // The end of a recording wakes sleepers, and must not do so while the recording is locked.
        let bus = numbers(4);
        let mut stream = bus.subscribe(Predicate::all());
        let own = bus.clone();
        let asks = doing(move || _ = own.history());
        let stops: [fn(&Bus<u64>); 4] = [
            |bus| bus.stop_recording(),
            |bus| bus.start_recording(100),
            Bus::clear,
            |bus| bus.start_recording(0),
        ];
        for stop in stops {
            bus.start_recording(100);
            sleep_with(&mut stream, &asks);
            stop(&bus);
        }
    });
}

/// An executor that polls in the waking thread, as some do.
#[test]
fn the_adapter_publishes_under_an_executor_that_polls_within_wake() {
    type Task = Mutex<Option<Pin<Box<dyn Future<Output = usize> + Send>>>>;
    struct Inline {
        task: Task,
        done: mpsc::Sender<usize>,
    }
    impl Inline {
        fn poll(self: &Arc<Self>) {
            let waker = Waker::from(Arc::clone(self));
            // The task is taken out, so that a wake during its poll does not wait for the lock.
            let Some(mut task) = self.task.lock().expect("whole").take() else { return };
            match task.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(handled) => _ = self.done.send(handled),
                Poll::Pending => *self.task.lock().expect("whole") = Some(task),
            }
        }
    }
    impl Wake for Inline {
        fn wake(self: Arc<Self>) {
            // The polling thread may not have put the task back yet.
            while self.task.lock().expect("whole").is_none() {
                thread::yield_now();
            }
            self.poll();
        }
    }
    within_limit(|| {
        for _ in 0..50 {
            let bus = Bus::new();
            let held = Arc::new(AtomicBool::new(true));
            let own = Arc::clone(&held);
            bus.on_sync(Filter::new(), move |_| {
                while own.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
            })
            .detach();
            let (done, received) = mpsc::channel();
            let future = async move { AsyncAdapter::new(&bus).publish(event("a")).await };
            let task = Arc::new(Inline { task: Mutex::new(Some(Box::pin(future))), done });
            task.poll();
            held.store(false, Ordering::SeqCst);
            assert_eq!(received.recv(), Ok(1));
        }
    });
}

#[test]
fn a_panic_of_an_async_handler_is_counted_and_the_next_is_called() {
    struct Bomb;
    impl Future for Bomb {
        type Output = ();
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("as asked");
        }
    }
    within_limit(|| {
        smol::block_on(async {
            let bus = numbers(16);
            let mut adapter = AsyncAdapter::new(&bus);
            let called = Arc::new(AtomicUsize::new(0));
            adapter.subscribe_async(Predicate::all(), |_| async { panic!("in the future") });
            adapter.subscribe_async(|_: &u64| panic!("in the filter"), |_| async {});
            adapter
                .subscribe_async(Predicate::all(), |_| -> std::future::Ready<()> { panic!("in the call") });
            adapter.subscribe_async(Predicate::all(), |_| Bomb);
            let own = OnDrop(|| panic!("when it is dropped"));
            let last = adapter.subscribe_async(Predicate::all(), move |_| {
                let _ = &own;
                std::future::ready(())
            });
            let own = Arc::clone(&called);
            adapter.subscribe_async(Predicate::all(), move |_| {
                own.fetch_add(1, Ordering::SeqCst);
                std::future::ready(())
            });
            adapter.publish(1).await;
            assert_eq!((adapter.panics(), called.load(Ordering::SeqCst)), (4, 1));
            assert!(adapter.unsubscribe_async(last));
            assert_eq!((adapter.panics(), adapter.async_subscriber_count()), (5, 5));
        });
    });
}

// Values, and the operations that the bus needs of them.

thread_local! {
    static CLONES: Cell<usize> = const { Cell::new(0) };
}

/// A plain value with its own `Clone`.
#[derive(Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct Odd(u64);

#[expect(clippy::non_canonical_clone_impl, reason = "that is the point")]
#[expect(clippy::expl_impl_clone_on_copy, reason = "that is the point")]
impl Clone for Odd {
    fn clone(&self) -> Self {
        CLONES.with(|clones| clones.set(clones.get() + 1));
        panic!("it is not called")
    }
}

#[test]
fn a_plain_values_own_clone_is_never_called() {
    within_limit(|| {
        let bus = Bus::builder().carrying::<Odd>().capacity(16).build().expect("valid");
        let mut reader = bus.subscribe(Predicate::all());
        let _on = bus.on_sync(Predicate::all(), |_| {});
        bus.start_recording(4);
        bus.publish(Odd(1));
        bus.publish_batch([Odd(2), Odd(3)]);
        let mut batch = Vec::new();
        assert!(matches!(reader.try_recv(), Ok(Delivery::Event(Odd(1)))));
        assert_eq!(reader.recv_batch(&mut batch, 10).map(|count| (count, batch.len())), Ok((2, 2)));
        assert_eq!(bus.history().len(), 3);
        let start = bus.oldest_position();
        assert_eq!(bus.replay(Predicate::all(), &start).expect("this bus").count(), 3);
        let lossless = LosslessBus::builder().carrying::<Odd>().capacity(4).build_lossless().expect("valid");
        let mut reader = lossless.subscribe(Predicate::all());
        lossless.publish_batch_blocking([Odd(1), Odd(2)]).expect("open");
        assert!(matches!(reader.recv(), Ok(Odd(1))));
        assert_eq!(CLONES.with(Cell::get), 0);
    });
}

#[test]
fn a_range_of_times_may_ask_the_recording_that_it_is_asked_by() {
    struct Nosy<'a>(&'a Bus, Cell<usize>);
    impl std::ops::RangeBounds<fanwire::event::Timestamp> for Nosy<'_> {
        fn start_bound(&self) -> std::ops::Bound<&fanwire::event::Timestamp> {
            self.1.set(self.1.get() + self.0.history().len());
            std::ops::Bound::Unbounded
        }
        fn end_bound(&self) -> std::ops::Bound<&fanwire::event::Timestamp> {
            std::ops::Bound::Unbounded
        }
    }
    within_limit(|| {
        let bus = Bus::new();
        bus.start_recording(10);
        bus.publish_batch([event("a"), event("b")]);
        assert_eq!(bus.history_where(Filter::new(), Nosy(&bus, Cell::new(0))).len(), 2);
    });
}

#[test]
fn values_for_a_filter_or_a_position_are_taken_one_by_one() {
    within_limit(|| {
        let bus = Bus::builder().shards(3).build().expect("valid");
        let liar = || Liar { says: usize::MAX, has: 0..3 };
        assert_eq!(fanwire::event::Position::new(1, liar()).sequences(), [0, 1, 2]);
        let publishing = liar().inspect(|_| _ = bus.publish(event("b"))).map(|n| n.to_string());
        let filter = Filter::new().types(publishing);
        assert!(filter.matches(&event("2")) && !filter.matches(&event("3")));
        let bad = liar().map(|n| if n == 2 { panic!("as asked") } else { n.to_string() });
        assert!(panics(|| _ = Filter::new().not_types(bad)));
        assert_eq!(bus.stats().published, 3);
    });
}

#[test]
fn every_way_to_wait_sees_the_end_of_a_bus_that_its_own_handler_held_last() {
    within_limit(|| {
        for wait in [WaitStrategy::Spin, WaitStrategy::SpinThenPark, WaitStrategy::Park] {
            let bus = numbers(16);
            let mut reader = bus.subscribe(Predicate::all()).with_wait(wait);
            let own = Mutex::new(Some(bus.clone()));
            // The last handle is dropped within the handler's call.
            bus.on(Predicate::all(), move |_| drop(own.lock().expect("whole").take())).detach();
            bus.publish(1);
            drop(bus);
            assert_eq!(reader.recv(), Ok(Delivery::Event(1)));
            assert!(reader.recv().is_err());
        }
    });
}

// Bridges, and the callbacks of a server.

#[cfg(feature = "server")]
#[test]
fn a_bridges_handler_may_panic_publish_route_and_replace_itself() {
    within_limit(|| {
        let bus = Bus::new();
        let mut all = bus.subscribe(Filter::new());
        let bridge = fanwire::bridge::Bridge::new(&bus);
        // When the handler is replaced, a value that it owns reads the routes and panics.
        let (own, dropped) = (bridge.clone(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&dropped);
        let owned = OnDrop(move || {
            assert_eq!(own.list_routes(), ["x"]);
            count.fetch_add(1, Ordering::SeqCst);
            panic!("as asked");
        });
        bridge.register_route("x", move |_| {
            let _ = &owned;
            panic_any(OnDrop(|| panic!("again")))
        });
        assert_eq!(bridge.route("x", "{}").outcome(), fanwire::bridge::BridgeOutcome::Failed);
        let (own, bus) = (bridge.clone(), bus.clone());
        bridge.register_route("x", move |_| {
            own.register_route("x", |_| Ok("2".to_owned()));
            bus.publish(event("published"));
            Ok(own.route("x", "{}").json().to_owned())
        });
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        assert_eq!(bridge.route("x", "{}").json(), "2");
        let seen = std::iter::from_fn(|| all.try_recv().ok());
        assert!(
            seen.into_iter().any(|one| matches!(one, Delivery::Event(e) if e.event_type() == "published"))
        );
    });
}

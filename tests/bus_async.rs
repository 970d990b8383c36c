//! The bus under async runtimes that do not know it: tokio and smol.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use fanwire::bus::AsyncAdapter;
use fanwire::{Bus, Delivery, Event, Filter, LosslessBus, Predicate};
use futures_core::Stream;

const EVENTS: u64 = 20_000;

async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    let mut stream = pin!(stream);
    std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)).await
}

/// `next` compiles and means the stream's item with each of the two extension traits that define it.
#[test]
fn next_means_the_streams_with_either_ext_trait() {
    under_both(|| async {
        let bus = Bus::builder().carrying::<u64>().capacity(64).build().expect("valid");
        let lossless = LosslessBus::builder().carrying::<u64>().capacity(64).build_lossless().expect("valid");
        let (mut sub, mut other) = (bus.subscribe(Predicate::all()), lossless.subscribe(Predicate::all()));
        bus.publish_batch([1, 2, 3, 4]);
        lossless.publish_batch_blocking([1, 2, 3]).expect("open");
        {
            use futures_util::StreamExt as _;
            assert_eq!(sub.next().await, Some(Delivery::Event(1)));
            assert_eq!(other.next().await, Some(1));
        }
        {
            use smol::stream::StreamExt as _;
            assert_eq!(sub.next().await, Some(Delivery::Event(2)));
            assert_eq!(other.next().await, Some(2));
        }
        assert_eq!(sub.recv_async().await, Ok(Delivery::Event(3)));
        assert_eq!(other.recv_async().await, Ok(3));
        drop((bus, lossless));
        {
            use futures_util::StreamExt as _;
            assert_eq!(sub.into_stream().collect::<Vec<_>>().await, [Delivery::Event(4)]);
            assert_eq!(other.recv_async().await, Err(fanwire::bus::RecvError));
            assert_eq!(other.into_stream().next().await, None);
        }
    });
}

#[test]
fn a_subscriber_is_iterable_by_value_and_by_reference() {
    let bus = Bus::builder().carrying::<u64>().capacity(64).build().expect("valid");
    let lossless = LosslessBus::builder().carrying::<u64>().capacity(64).build_lossless().expect("valid");
    let (mut sub, mut other) = (bus.subscribe(Predicate::all()), lossless.subscribe(Predicate::all()));
    bus.publish_batch([1, 2, 3]);
    lossless.publish_batch_blocking([1, 2, 3]).expect("open");
    drop((bus, lossless));
    let mut first = Vec::new();
    for delivery in &mut sub {
        first.push(delivery);
        if first.len() == 1 {
            break;
        }
    }
    assert_eq!(first, [Delivery::Event(1)]);
    for item in &mut other {
        if item == 1 {
            break;
        }
    }
    let mut rest = Vec::new();
    for delivery in sub {
        rest.push(delivery);
    }
    assert_eq!(rest, [2, 3].map(Delivery::Event));
    let mut rest = Vec::new();
    for item in other {
        rest.push(item);
    }
    assert_eq!(rest, [2, 3]);
}

#[test]
fn a_branch_that_select_drops_has_taken_nothing() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("starts");
    runtime.block_on(async {
        let bus = Bus::builder().carrying::<u64>().capacity(1 << 16).build().expect("valid");
        let lossless = LosslessBus::builder().carrying::<u64>().capacity(64).build_lossless().expect("valid");
        let (mut sub, mut other) = (bus.subscribe(Predicate::all()), lossless.subscribe(Predicate::all()));
        let publisher = std::thread::spawn(move || {
            for n in 0..EVENTS {
                bus.publish(n);
                lossless.publish_blocking(n).expect("open");
            }
        });
        let (mut got, mut all, mut turns) = (0, 0, 0_u64);
        let reading = async {
            while got < EVENTS || all < EVENTS {
                turns += 1;
                tokio::select! {
                    delivery = sub.recv_async(), if got < EVENTS => {
                        assert_eq!(delivery, Ok(Delivery::Event(got)));
                        got += 1;
                    }
                    item = other.recv_async(), if all < EVENTS => {
                        assert_eq!(item, Ok(all));
                        all += 1;
                    }
                    () = tokio::time::sleep(Duration::from_micros(turns % 50)) => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reading).await.expect("in time");
        publisher.join().expect("no panic");
        assert_eq!(sub.recv_async().await, Err(fanwire::bus::RecvError));
    });
}

/// A task that was cancelled while it waited gets no wake-up. Its subscriber can then wait in another way.
#[test]
fn a_wait_that_was_dropped_leaves_no_sleeper() {
    let bus = Bus::builder().carrying::<u64>().capacity(64).build().expect("valid");
    let mut sub = bus.subscribe(Predicate::all());
    assert!(smol::block_on(smol::future::poll_once(sub.recv_async())).is_none());
    bus.publish(1);
    assert_eq!((bus.stats().wakes, sub.recv()), (0, Ok(Delivery::Event(1))));
    // A poll that is not cancelled, then a blocking wait of the thread.
    assert!(smol::block_on(smol::future::poll_once(next(&mut sub))).is_none());
    assert!(sub.recv_timeout(Duration::from_millis(1)).is_err());
    bus.publish(2);
    assert_eq!((bus.stats().wakes, sub.recv()), (0, Ok(Delivery::Event(2))));
}

/// Each runtime, with a function that spawns a task.
fn under_both<Fut: Future<Output = ()> + Send + 'static>(test: impl Fn() -> Fut) {
    let limit = Duration::from_secs(60);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("starts");
    runtime.block_on(async { tokio::time::timeout(limit, test()).await.expect("in time") });
    let done = smol::spawn(test());
    smol::block_on(smol::future::or(done, async {
        smol::Timer::after(limit).await;
        panic!("not in time");
    }));
}

#[test]
fn a_stream_sees_every_event_or_a_gap_and_ends_with_the_bus() {
    under_both(|| async {
        let bus = Bus::builder().carrying::<u64>().capacity(64).build().expect("valid");
        let mut stream = bus.subscribe(Predicate::all());
        let publisher = std::thread::spawn(move || {
            for n in 0..EVENTS {
                bus.publish(n);
                if n % 100 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while let Some(delivery) = next(&mut stream).await {
            match delivery {
                Delivery::Event(n) => {
                    assert_eq!(n, expected);
                    expected += 1;
                }
                Delivery::Gap(gap) => {
                    assert_eq!(gap.from, expected);
                    expected = gap.to;
                }
            }
        }
        assert_eq!(expected, EVENTS);
        publisher.join().expect("no panic");
    });
}

#[test]
fn lossless_tasks_wait_for_room_and_for_items_and_lose_nothing() {
    under_both(|| async {
        let bus = LosslessBus::builder().carrying::<u64>().capacity(4).build_lossless().expect("valid");
        let mut stream = bus.subscribe(Predicate::all());
        let publishing = async move {
            for n in 0..2_000 {
                bus.publish_async(n).await.expect("open");
            }
        };
        let reading = async move {
            let mut expected = 0;
            while let Some(n) = next(&mut stream).await {
                assert_eq!(n, expected);
                expected += 1;
            }
            assert_eq!(expected, 2_000);
        };
        smol::future::zip(publishing, reading).await;
    });
}

#[test]
fn a_publish_that_is_dropped_while_it_waits_has_published_nothing() {
    under_both(|| async {
        let bus = LosslessBus::builder().carrying::<u64>().capacity(1).build_lossless().expect("valid");
        let mut stream = bus.subscribe(Predicate::all());
        bus.publish_async(1).await.expect("open");
        {
            let mut waits = pin!(bus.publish_async(2));
            let ready = smol::future::poll_once(waits.as_mut()).await;
            assert!(ready.is_none());
        }
        assert_eq!(next(&mut stream).await, Some(1));
        bus.publish_async(3).await.expect("open");
        assert_eq!(next(&mut stream).await, Some(3));
    });
}

#[test]
fn the_adapter_calls_async_handlers_and_forwards_to_its_queue() {
    under_both(|| async {
        let bus = Bus::new();
        let mut adapter = AsyncAdapter::new(&bus);
        let event = |kind: &str| Event::builder(kind).build().expect("valid");
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let tasks: Filter = "type=task.*".parse().expect("valid");
        let id = adapter.subscribe_async(tasks.clone(), move |event: Event| {
            let count = Arc::clone(&count);
            async move {
                // The handler is not done at the first poll, so the publisher waits for it.
                smol::future::yield_now().await;
                assert!(event.event_type() != "task.bad", "as asked");
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let sync = adapter.subscribe_sync(Filter::new(), |_| {});
        assert_eq!(adapter.publish(event("task.started")).await, 1);
        assert_eq!(adapter.publish(event("other")).await, 1);
        drop(sync);
        assert_eq!(adapter.publish(event("task.bad")).await, 0);
        assert_eq!(
            (taken.load(Ordering::SeqCst), adapter.panics(), adapter.async_subscriber_count()),
            (1, 1, 1)
        );
        assert!(adapter.unsubscribe_async(id) && !adapter.unsubscribe_async(id));

        assert!(!adapter.is_running());
        assert!(adapter.get_event(Duration::from_secs(9)).await.is_none());
        adapter.start_forwarding(tasks);
        assert!(adapter.is_running());
        assert_eq!(adapter.bus().epoch(), bus.epoch(), "it is over this bus");
        assert!(adapter.get_event(Duration::from_millis(1)).await.is_none());
        bus.publish_batch([event("task.a"), event("x"), event("task.b")]);
        assert_eq!(adapter.queue_size(), 3);
        let first = adapter.get_event(Duration::from_secs(9)).await.expect("queued");
        assert_eq!(first.event_type(), "task.a");
        let later = bus.clone();
        let publisher = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            later.publish(Event::builder("task.c").build().expect("valid"));
        });
        for kind in ["task.b", "task.c"] {
            let next = adapter.get_event(Duration::from_secs(9)).await.expect("queued");
            assert_eq!(next.event_type(), kind);
        }
        publisher.join().expect("no panic");
        adapter.stop_forwarding();
        assert!(!adapter.is_running() && adapter.queue_size() == 0);
    });
}

#[test]
fn a_sync_handler_that_takes_its_time_holds_up_no_task() {
    under_both(|| async {
        let bus = Bus::new();
        let mut adapter = AsyncAdapter::new(&bus);
        let (go_on, held) = mpsc::channel();
        let held = Mutex::new(held);
        let _slow = adapter.subscribe_sync(Filter::new(), move |_| {
            let held = held.lock().expect("no panic holds it");
            held.recv_timeout(Duration::from_secs(20)).expect("the other half of this task lets it go on");
        });
        let event = Event::builder("task.started").build().expect("valid");
        let release = async { go_on.send(()).expect("it waits") };
        let (handled, ()) = smol::future::zip(adapter.publish(event), release).await;
        assert_eq!(handled, 1);
    });
}

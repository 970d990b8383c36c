//! The contestants. Each reader checks every item's checksum, and that each publisher's numbers increase.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, yield_now};
use std::time::{Duration, Instant};

use fanwire::bus::{DeliveryRef, WaitStrategy};
use fanwire::{Bus, Event, Filter, Predicate, LosslessBus};

use super::{Item, Run};

const CAPACITY: usize = 8192;
const BATCH: u64 = 32;

pub struct Contestant {
    pub name: &'static str,
    /// Whether it accepts several publishers, and whether each of several readers gets everything.
    pub publishers: bool,
    pub broadcasts: bool,
    pub run: fn(usize, usize, Duration) -> Run,
}

impl Contestant {
    pub fn does(&self, publishers: usize, readers: usize) -> bool {
        (publishers == 1 || self.publishers) && (readers == 1 || self.broadcasts)
    }
}

const fn contestant(name: &'static str, publishers: bool, broadcasts: bool, run: fn(usize, usize, Duration) -> Run) -> Contestant {
    Contestant { name, publishers, broadcasts, run }
}

pub const CONTESTANTS: &[Contestant] = &[
    contestant("**fanwire, readers spin**", true, true, |p, r, t| fanwire_plain(p, r, t, WaitStrategy::Spin, 1, 1)),
    contestant("**fanwire, default wait**", true, true, |p, r, t| fanwire_plain(p, r, t, WaitStrategy::default(), 1, 1)),
    contestant("**fanwire, batches of 32**", true, true, |p, r, t| fanwire_plain(p, r, t, WaitStrategy::Spin, BATCH, 1)),
    contestant("**fanwire `Event`, readers spin**", true, true, |p, r, t| fanwire_events(p, r, t, WaitStrategy::Spin)),
    contestant("**fanwire `Event`, default wait**", true, true, |p, r, t| fanwire_events(p, r, t, WaitStrategy::default())),
    contestant("tokio broadcast, readers spin", true, true, |p, r, t| tokio_broadcast(p, r, t, true)),
    contestant("tokio broadcast, readers park", true, true, |p, r, t| tokio_broadcast(p, r, t, false)),
    contestant("tokio broadcast of `Arc`, readers spin", true, true, tokio_arcs),
    contestant("async-broadcast, overflow, readers spin", true, true, async_broadcast),
    contestant("**fanwire lossless**", true, true, |p, r, t| fanwire_lossless(p, r, t)),
    contestant("**fanwire lossless, one publisher**", false, true, |_, r, t| fanwire_solo(r, t, 1)),
    contestant("**fanwire lossless, one publisher, batches of 32**", false, true, |_, r, t| fanwire_solo(r, t, BATCH)),
    contestant("disruptor, busy spin", false, true, |_, r, t| disruptor_events(r, t, 1)),
    contestant("disruptor, busy spin, batches of 32", false, true, |_, r, t| disruptor_events(r, t, BATCH)),
    contestant("disruptor, pollers", false, true, |_, r, t| disruptor_pollers(r, t)),
    contestant("bus (lossless)", false, true, |_, r, t| jonhoo_bus(r, t)),
    contestant("crossbeam-channel", true, false, |p, _, t| crossbeam(p, t)),
    contestant("flume", true, false, |p, _, t| flume_channel(p, t)),
    contestant("kanal", true, false, |p, _, t| kanal_channel(p, t)),
    contestant("thingbuf", true, false, |p, _, t| thingbuf_channel(p, t)),
    contestant("rtrb", false, false, |_, _, t| rtrb_ring(t)),
];

/// Spins, and yields every 500 turns. All spinning contestants use it.
#[derive(Default)]
struct Spin(u32);

impl Spin {
    fn turn(&mut self) {
        self.0 += 1;
        if self.0.is_multiple_of(500) { yield_now() } else { spin_loop() }
    }
}

/// Checks and counts the items of one reader.
#[derive(Default)]
struct Check {
    last: [u64; 4],
    seen: u64,
    lost: u64,
}

impl Check {
    #[inline]
    fn take(&mut self, item: &Item) {
        let n = item.check();
        let (publisher, n) = ((n >> 56) as usize, n & 0x00ff_ffff_ffff_ffff);
        assert!(n > self.last[publisher], "out of order");
        self.last[publisher] = n;
        self.seen += 1;
    }
}

fn number(publisher: usize, n: u64) -> u64 {
    (publisher as u64) << 56 | n
}

/// Pins the thread: a single publisher has one core, and its readers share the other. Several publishers are placed by
/// the system.
fn pin(publishers: usize, core: usize) {
    if publishers == 1 {
        pin_to(core);
    }
}

pub fn pin_to(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).expect("two cores");
}

/// Runs publishers for a time, and readers until the end.
fn run<P: Send, R: Send>(
    time: Duration,
    publishers: Vec<P>,
    readers: Vec<R>,
    publish: impl Fn(usize, &mut P, u64) -> u64 + Sync,
    read: impl Fn(R, &AtomicBool) -> Check + Sync,
) -> Run {
    let over = AtomicBool::new(false);
    let published = AtomicU64::new(0);
    let count = publishers.len();
    let start = Barrier::new(count + readers.len() + 1);
    let (over, published, start, publish, read) = (&over, &published, &start, &publish, &read);
    let mut total = Run::default();
    thread::scope(|scope| {
        let publishing: Vec<_> = (publishers.into_iter().enumerate())
            .map(|(who, mut publisher)| {
                scope.spawn(move || {
                    pin(count, 0);
                    start.wait();
                    let (mut n, begun) = (1, Instant::now());
                    // The clock is read once for many publications, because it costs more than one.
                    while begun.elapsed() < time {
                        let until = n + 2048;
                        while n < until {
                            n += publish(who, &mut publisher, n);
                        }
                    }
                    published.fetch_add(n - 1, Ordering::Relaxed);
                })
            })
            .collect();
        let reading: Vec<_> = readers
            .into_iter()
            .map(|reader| {
                scope.spawn(move || {
                    pin(count, 1);
                    start.wait();
                    read(reader, over)
                })
            })
            .collect();
        start.wait();
        let begun = Instant::now();
        publishing.into_iter().for_each(|thread| thread.join().expect("a publisher"));
        total.seconds = begun.elapsed().as_secs_f64();
        over.store(true, Ordering::Release);
        for reader in reading {
            let check = reader.join().expect("a reader");
            total.delivered += check.seen;
            total.lost += check.lost;
        }
    });
    total.published = published.load(Ordering::Relaxed);
    total
}

pub fn fanwire_plain(publishers: usize, readers: usize, time: Duration, wait: WaitStrategy, batch: u64, shards: usize) -> Run {
    let bus = Bus::builder().carrying::<Item>().capacity(CAPACITY).shards(shards);
    // A publisher's items stay in order. With several shards, publishers use different ones.
    let bus = bus.ordering_key(|item| item.0[0] >> 56);
    let bus = bus.build().expect("valid");
    let readers = (0..readers).map(|_| bus.subscribe(Predicate::all()).with_wait(wait)).collect();
    let publishers = (0..publishers).map(|_| bus.publisher()).collect();
    drop(bus);
    run(
        time,
        publishers,
        readers,
        |who, publisher, n| {
            if batch == 1 {
                publisher.publish(Item::new(number(who, n)));
            } else {
                publisher.publish_batch((n..n + batch).map(|n| Item::new(number(who, n))));
            }
            batch
        },
        |mut reader, _| {
            let mut check = Check::default();
            loop {
                let got = reader.visit_batch(usize::MAX, |visit| match visit {
                    DeliveryRef::Event(item) => check.take(item),
                    DeliveryRef::Gap(gap) => check.lost += gap.missed,
                });
                if got == 0 {
                    match reader.recv() {
                        Ok(fanwire::Delivery::Event(item)) => check.take(&item),
                        Ok(fanwire::Delivery::Gap(gap)) => check.lost += gap.missed,
                        Err(_) => return check,
                    }
                }
            }
        },
    )
}

/// Events are created in advance, because only the bus is measured. Each publication needs its own copy, which the
/// publisher builds here. The comparable peer creates an `Arc` for each.
fn fanwire_events(publishers: usize, readers: usize, time: Duration, wait: WaitStrategy) -> Run {
    let bus = Bus::builder().capacity(CAPACITY).build().expect("valid");
    let readers = (0..readers).map(|_| bus.subscribe(Filter::new()).with_wait(wait)).collect();
    let publishers = (0..publishers).map(|_| bus.publisher()).collect();
    drop(bus);
    run(
        time,
        publishers,
        readers,
        |_, publisher, _| {
            publisher.publish(Event::builder("t").build().expect("valid"));
            1
        },
        |mut reader, _| {
            let mut check = Check::default();
            loop {
                let got = reader.visit_batch(usize::MAX, |visit| match visit {
                    DeliveryRef::Event(event) => check.seen += u64::from(event.event_type().len() == 1),
                    DeliveryRef::Gap(gap) => check.lost += gap.missed,
                });
                if got == 0 {
                    match reader.recv() {
                        Ok(fanwire::Delivery::Event(_)) => check.seen += 1,
                        Ok(fanwire::Delivery::Gap(gap)) => check.lost += gap.missed,
                        Err(_) => return check,
                    }
                }
            }
        },
    )
}

pub fn tokio_broadcast(publishers: usize, readers: usize, time: Duration, spin: bool) -> Run {
    use tokio::sync::broadcast::error::{RecvError, TryRecvError};
    let (sender, _) = tokio::sync::broadcast::channel::<Item>(CAPACITY);
    let readers = (0..readers).map(|_| sender.subscribe()).collect();
    let publishers = vec![sender.clone(); publishers];
    drop(sender);
    run(
        time,
        publishers,
        readers,
        |who, sender, n| {
            let _ = sender.send(Item::new(number(who, n)));
            1
        },
        |mut reader, _| {
            let (mut check, mut wait) = (Check::default(), Spin::default());
            loop {
                if spin {
                    match reader.try_recv() {
                        Ok(item) => check.take(&item),
                        Err(TryRecvError::Lagged(lost)) => check.lost += lost,
                        Err(TryRecvError::Empty) => wait.turn(),
                        Err(TryRecvError::Closed) => return check,
                    }
                } else {
                    match reader.blocking_recv() {
                        Ok(item) => check.take(&item),
                        Err(RecvError::Lagged(lost)) => check.lost += lost,
                        Err(RecvError::Closed) => return check,
                    }
                }
            }
        },
    )
}

fn tokio_arcs(publishers: usize, readers: usize, time: Duration) -> Run {
    use tokio::sync::broadcast::error::TryRecvError;
    let (sender, _) = tokio::sync::broadcast::channel::<Arc<Event>>(CAPACITY);
    let readers = (0..readers).map(|_| sender.subscribe()).collect();
    let publishers = vec![sender.clone(); publishers];
    drop(sender);
    run(
        time,
        publishers,
        readers,
        |_, sender, _| {
            let _ = sender.send(Arc::new(Event::builder("t").build().expect("valid")));
            1
        },
        |mut reader, _| {
            let (mut check, mut wait) = (Check::default(), Spin::default());
            loop {
                match reader.try_recv() {
                    Ok(event) => check.seen += u64::from(event.event_type().len() == 1),
                    Err(TryRecvError::Lagged(lost)) => check.lost += lost,
                    Err(TryRecvError::Empty) => wait.turn(),
                    Err(TryRecvError::Closed) => return check,
                }
            }
        },
    )
}

fn async_broadcast(publishers: usize, readers: usize, time: Duration) -> Run {
    use async_broadcast::TryRecvError;
    let (mut sender, receiver) = async_broadcast::broadcast::<Item>(CAPACITY);
    sender.set_overflow(true);
    let readers = (0..readers).map(|_| receiver.new_receiver()).collect();
    drop(receiver);
    let publishers = vec![sender.clone(); publishers];
    drop(sender);
    run(
        time,
        publishers,
        readers,
        |who, sender, n| {
            let _ = sender.try_broadcast(Item::new(number(who, n)));
            1
        },
        |mut reader, _| {
            let (mut check, mut wait) = (Check::default(), Spin::default());
            loop {
                match reader.try_recv() {
                    Ok(item) => check.take(&item),
                    Err(TryRecvError::Overflowed(lost)) => check.lost += lost,
                    Err(TryRecvError::Empty) => wait.turn(),
                    Err(TryRecvError::Closed) => return check,
                }
            }
        },
    )
}

fn read_lossless(mut reader: fanwire::bus::LosslessSubscriber<Item>) -> Check {
    let mut check = Check::default();
    loop {
        if reader.visit_batch(usize::MAX, |item| check.take(item)) == 0 {
            match reader.recv() {
                Ok(item) => check.take(&item),
                Err(_) => return check,
            }
        }
    }
}

fn fanwire_lossless(publishers: usize, readers: usize, time: Duration) -> Run {
    let bus = LosslessBus::builder().carrying::<Item>().capacity(CAPACITY).build_lossless().expect("valid");
    let readers = (0..readers).map(|_| bus.subscribe(Predicate::all())).collect();
    let publishers = vec![bus.clone(); publishers];
    drop(bus);
    run(
        time,
        publishers,
        readers,
        |who, bus, n| {
            bus.publish_blocking(Item::new(number(who, n))).expect("open");
            1
        },
        |reader, _| read_lossless(reader),
    )
}

fn fanwire_solo(readers: usize, time: Duration, batch: u64) -> Run {
    let publisher = LosslessBus::builder().carrying::<Item>().capacity(CAPACITY).build_lossless_solo().expect("valid");
    let readers = (0..readers).map(|_| publisher.subscribe(Predicate::all())).collect();
    run(
        time,
        vec![publisher],
        readers,
        |_, publisher, n| {
            if batch == 1 {
                publisher.publish_blocking(Item::new(n));
            } else {
                publisher.publish_batch_blocking((0..batch as usize).map(|k| Item::new(n + k as u64)));
            }
            batch
        },
        |reader, _| read_lossless(reader),
    )
}

/// The handlers run in the crate's own threads. It joins them when the publisher is dropped.
fn disruptor_events(readers: usize, time: Duration, batch: u64) -> Run {
    use disruptor::{BusySpin, ProcessorSettings, Producer, build_single_producer};
    let counts: Vec<Arc<AtomicU64>> = (0..readers).map(|_| Arc::default()).collect();
    let handler = |at: usize| {
        let count = Arc::clone(&counts[at]);
        let mut check = Check::default();
        move |item: &Item, _: i64, _: bool| {
            check.take(item);
            // The counter has its own cache line, which no thread reads before the end.
            count.store(check.seen, Ordering::Relaxed);
        }
    };
    let builder = build_single_producer(CAPACITY, Item::default, BusySpin);
    let builder = builder.pin_at_core(1).handle_events_with(handler(0));
    macro_rules! go {
        ($builder:expr) => {{
            // Like `pin`, but in a new thread, so that this thread is not pinned.
            thread::scope(|scope| scope.spawn(|| {
            let mut producer = $builder.build();
            pin(1, 0);
            let begun = Instant::now();
            let mut n = 1;
            while begun.elapsed() < time {
                let until = n + 2048;
                while n < until {
                    if batch == 1 {
                        producer.publish(|item| *item = Item::new(n));
                    } else {
                        producer.batch_publish(batch as usize, |items| {
                            for (item, k) in items.zip(0..) {
                                *item = Item::new(n + k);
                            }
                        });
                    }
                    n += batch;
                }
            }
            let seconds = begun.elapsed().as_secs_f64();
            drop(producer);
            Run { published: n - 1, delivered: counts.iter().map(|c| c.load(Ordering::Relaxed)).sum(), lost: 0, seconds }
            }).join().expect("the publisher"))
        }};
    }
    match readers {
        1 => go!(builder),
        2 => go!(builder.pin_at_core(1).handle_events_with(handler(1))),
        _ => go!(
            builder.pin_at_core(1).handle_events_with(handler(1)).pin_at_core(1).handle_events_with(handler(2)).pin_at_core(1).handle_events_with(handler(3))
        ),
    }
}

fn disruptor_pollers(readers: usize, time: Duration) -> Run {
    use disruptor::{BusySpin, Polling, Producer, build_single_producer};
    let (first, builder) = build_single_producer(CAPACITY, Item::default, BusySpin).new_event_poller();
    macro_rules! go {
        ($builder:expr, $pollers:expr) => {
            run(
                time,
                vec![$builder.build()],
                $pollers,
                |_, producer, n| {
                    producer.publish(|item| *item = Item::new(n));
                    1
                },
                |mut poller, _| {
                    let (mut check, mut wait) = (Check::default(), Spin::default());
                    loop {
                        match poller.poll() {
                            Ok(mut items) => (&mut items).for_each(|item| check.take(item)),
                            Err(Polling::NoEvents) => wait.turn(),
                            Err(Polling::Shutdown) => return check,
                        }
                    }
                },
            )
        };
    }
    match readers {
        1 => go!(builder, vec![first]),
        2 => {
            let (second, builder) = builder.new_event_poller();
            go!(builder, vec![first, second])
        }
        _ => {
            let (second, builder) = builder.new_event_poller();
            let (third, builder) = builder.new_event_poller();
            let (fourth, builder) = builder.new_event_poller();
            go!(builder, vec![first, second, third, fourth])
        }
    }
}

fn jonhoo_bus(readers: usize, time: Duration) -> Run {
    let mut bus = bus::Bus::<Item>::new(CAPACITY);
    let readers = (0..readers).map(|_| bus.add_rx()).collect();
    run(
        time,
        vec![bus],
        readers,
        |_, bus, n| {
            bus.broadcast(Item::new(n));
            1
        },
        |mut reader, _| {
            let mut check = Check::default();
            while let Ok(item) = reader.recv() {
                check.take(&item);
            }
            check
        },
    )
}

/// A channel: several threads may send, one receives each item.
fn channel<S: Clone + Send, R: Send>(
    publishers: usize,
    time: Duration,
    (sender, receiver): (S, R),
    send: impl Fn(&S, Item) -> bool + Sync,
    receive: impl Fn(&R) -> Option<Item> + Sync,
) -> Run {
    run(
        time,
        vec![sender; publishers],
        vec![receiver],
        |who, sender, n| {
            assert!(send(sender, Item::new(number(who, n))), "the reader is there");
            1
        },
        |receiver, _| {
            let mut check = Check::default();
            while let Some(item) = receive(&receiver) {
                check.take(&item);
            }
            check
        },
    )
}

fn crossbeam(publishers: usize, time: Duration) -> Run {
    let ends = crossbeam_channel::bounded(CAPACITY);
    channel(publishers, time, ends, |sender, item| sender.send(item).is_ok(), |receiver| receiver.recv().ok())
}

fn flume_channel(publishers: usize, time: Duration) -> Run {
    let ends = flume::bounded(CAPACITY);
    channel(publishers, time, ends, |sender, item| sender.send(item).is_ok(), |receiver| receiver.recv().ok())
}

fn kanal_channel(publishers: usize, time: Duration) -> Run {
    let ends = kanal::bounded(CAPACITY);
    channel(publishers, time, ends, |sender, item| sender.send(item).is_ok(), |receiver| receiver.recv().ok())
}

fn thingbuf_channel(publishers: usize, time: Duration) -> Run {
    let ends = thingbuf::mpsc::blocking::channel(CAPACITY);
    channel(publishers, time, ends, |sender, item| sender.send(item).is_ok(), |receiver| receiver.recv())
}

fn rtrb_ring(time: Duration) -> Run {
    let (sender, receiver) = rtrb::RingBuffer::<Item>::new(CAPACITY);
    run(time, vec![sender], vec![receiver], |_, sender, n| {
        let (mut item, mut wait) = (Item::new(n), Spin::default());
        while let Err(rtrb::PushError::Full(back)) = sender.push(item) {
            item = back;
            wait.turn();
        }
        1
    }, |mut receiver, over| {
        let (mut check, mut wait) = (Check::default(), Spin::default());
        loop {
            match receiver.pop() {
                Ok(item) => check.take(&item),
                Err(_) if over.load(Ordering::Acquire) && receiver.is_empty() => return check,
                Err(_) => wait.turn(),
            }
        }
    })
}

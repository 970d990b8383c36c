//! The bus at full speed: publishers, readers that keep up, readers that do not, and readers that join and leave. Every
//! event has a checksum, and every publisher its own numbers: nothing is torn, duplicated, out of order, or lost
//! without a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytemuck::{Pod, Zeroable};
use fanwire::bus::{DeliveryRef, Item, WaitStrategy};
use fanwire::{Bus, Event, Filter, LosslessBus, Predicate, Subscriber};

/// Duration of each test.
const TIME: Duration = Duration::from_millis(if cfg!(debug_assertions) { 700 } else { 2500 });

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Numbered {
    publisher: u64,
    number: u64,
    filler: [u64; 5],
    sum: u64,
}

impl Numbered {
    fn new(publisher: u64, number: u64) -> Self {
        let filler = std::array::from_fn(|k| number.rotate_left(k as u32 * 11) ^ publisher);
        Self { publisher, number, filler, sum: filler.iter().fold(number, |sum, word| sum ^ word) }
    }
}

trait Checked: Item {
    fn make(publisher: u64, number: u64) -> Self;
    /// Returns the event's publisher and number. Panics if the event is torn.
    fn check(&self) -> (usize, u64);
    fn everything() -> Self::Filter;
}

impl Checked for Numbered {
    fn make(publisher: u64, number: u64) -> Self {
        Self::new(publisher, number)
    }

    fn check(&self) -> (usize, u64) {
        assert_eq!(self.sum, self.filler.iter().fold(self.number, |sum, word| sum ^ word), "torn");
        (self.publisher as usize, self.number)
    }

    fn everything() -> Predicate<Self> {
        Predicate::all()
    }
}

impl Checked for Event {
    fn make(publisher: u64, number: u64) -> Self {
        let payload = format!("[{publisher},{number},{}]", publisher ^ number ^ 0x5555);
        Event::builder("storm").stream(&publisher.to_string()).json(payload).build().expect("valid")
    }

    fn check(&self) -> (usize, u64) {
        let numbers: Vec<u64> = self.payload()[1..self.payload().len() - 1]
            .split(',')
            .map(|text| text.parse().expect("a number: nothing is torn"))
            .collect();
        let [publisher, number, sum] = numbers[..] else { panic!("torn: {}", self.payload()) };
        assert_eq!(sum, publisher ^ number ^ 0x5555, "torn");
        assert_eq!(self.stream(), Some(publisher.to_string().as_str()), "another body's attribute");
        (publisher as usize, number)
    }

    fn everything() -> Filter {
        Filter::new()
    }
}

/// Counts of one reader.
#[derive(Default)]
struct Seen {
    last: [u64; 8],
    events: u64,
    missed: u64,
}

impl Seen {
    fn take<T: Checked>(&mut self, visit: DeliveryRef<'_, T>) {
        match visit {
            DeliveryRef::Event(item) => {
                let (publisher, number) = item.check();
                assert!(number > self.last[publisher], "doubled or out of order");
                self.last[publisher] = number;
                self.events += 1;
            }
            DeliveryRef::Gap(gap) => {
                assert_eq!(gap.missed, gap.to - gap.from);
                self.missed += gap.missed;
            }
        }
    }
}

/// Reads to the end of the bus, and compares the counts with the reader's ledger.
fn read<T: Checked>(mut reader: Subscriber<T>, sleepy: bool) -> Seen {
    let mut seen = Seen::default();
    loop {
        let got = reader.visit_batch(if sleepy { 100 } else { usize::MAX }, |visit| seen.take(visit));
        if sleepy && got == 100 {
            thread::sleep(Duration::from_micros(300));
        }
        if got == 0 {
            match reader.recv() {
                Ok(fanwire::Delivery::Event(item)) => seen.take(DeliveryRef::Event(&item)),
                Ok(fanwire::Delivery::Gap(gap)) => seen.take(DeliveryRef::<T>::Gap(gap)),
                Err(_) => break,
            }
        }
    }
    let books = reader.ledger();
    assert_eq!((books.seen, books.missed, books.lag), (seen.events, seen.missed, 0));
    seen
}

/// Returns the stats at the end, while readers still read.
fn storm<T: Checked + Send>(bus: Bus<T>, publishers: u64) -> fanwire::bus::BusStats {
    let readers: Vec<_> = [
        (WaitStrategy::SpinThenPark, false),
        (WaitStrategy::Park, false),
        (WaitStrategy::Spin, false),
        (WaitStrategy::SpinThenPark, true),
    ]
    .map(|(wait, sleepy)| (bus.subscribe(T::everything()).with_wait(wait), sleepy))
    .into_iter()
    .map(|(reader, sleepy)| thread::spawn(move || read(reader, sleepy)))
    .collect();
    let over = Arc::new(AtomicBool::new(false));
    // Readers that join, read a little and leave.
    let visitors: Vec<_> = (0..2)
        .map(|_| {
            let (bus, over) = (bus.clone(), Arc::clone(&over));
            thread::spawn(move || {
                let mut visits = 0;
                while !over.load(Ordering::Relaxed) {
                    let mut reader = bus.subscribe(T::everything());
                    let mut seen = Seen::default();
                    for _ in 0..20 {
                        reader.visit_batch(70, |visit| seen.take(visit));
                    }
                    let books = reader.ledger();
                    assert_eq!((books.seen, books.missed), (seen.events, seen.missed));
                    visits += 1;
                }
                visits
            })
        })
        .collect();
    let published = Arc::new(AtomicU64::new(0));
    let publishing: Vec<_> = (0..publishers)
        .map(|who| {
            let (bus, published) = (bus.clone(), Arc::clone(&published));
            thread::spawn(move || {
                let mut publisher = bus.publisher();
                let (mut n, begun) = (0, Instant::now());
                while begun.elapsed() < TIME {
                    for _ in 0..50 {
                        n += 1;
                        publisher.publish(T::make(who, n));
                    }
                    publisher.publish_batch((1..=40).map(|k| T::make(who, n + k)));
                    n += 40;
                    n += 1;
                    bus.publish(T::make(who, n));
                }
                published.fetch_add(n, Ordering::Relaxed);
            })
        })
        .collect();
    for publisher in publishing {
        publisher.join().expect("a publisher");
    }
    over.store(true, Ordering::Relaxed);
    for visitor in visitors {
        assert!(visitor.join().expect("a visitor") > 0);
    }
    let published = published.load(Ordering::Relaxed);
    let stats = bus.stats();
    let claimed = stats.published;
    drop(bus);
    for reader in readers {
        let seen = reader.join().expect("a reader");
        assert_eq!(seen.events + seen.missed, claimed, "an event is neither seen nor told as missed");
    }
    // Sequences that publishers gave up are the only claims without an event.
    assert!(
        claimed >= published && claimed - published < published / 100 + 10,
        "{claimed} claims, {published} events"
    );
    stats
}

#[test]
fn plain_values_are_delivered_whole_in_order_once_or_reported_as_missed() {
    storm(Bus::builder().carrying::<Numbered>().capacity(1024).build().expect("valid"), 3);
}

#[test]
fn a_ring_of_two_slots_keeps_its_promises_too() {
    storm(Bus::builder().carrying::<Numbered>().capacity(2).build().expect("valid"), 2);
}

#[test]
fn shards_keep_their_promises() {
    let bus =
        Bus::builder().carrying::<Numbered>().capacity(256).shards(8).ordering_key(|item| item.publisher);
    storm(bus.build().expect("valid"), 3);
}

#[test]
fn events_come_whole_in_order_and_once_or_as_a_gap_and_their_bodies_are_released() {
    let bus = Bus::builder().capacity(512).shards(2).build().expect("valid");
    let stats = storm(bus, 3);
    assert!(stats.live_events <= 1024 + 8 * 192, "{} bodies for 1,024 slots", stats.live_events);
}

#[test]
fn a_lossless_bus_loses_nothing_while_readers_join_and_leave() {
    let bus = LosslessBus::builder().capacity(128).build_lossless().expect("valid");
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let mut reader = bus.subscribe(Filter::new());
            thread::spawn(move || {
                let mut last = [0; 3];
                loop {
                    let mut take = |event: &Event| {
                        let (publisher, number) = event.check();
                        assert_eq!(number, last[publisher] + 1, "lost, doubled or out of order");
                        last[publisher] = number;
                    };
                    if reader.visit_batch(usize::MAX, &mut take) == 0 {
                        match reader.recv() {
                            Ok(event) => take(&event),
                            Err(_) => return last,
                        }
                    }
                }
            })
        })
        .collect();
    let over = Arc::new(AtomicBool::new(false));
    let visitor = {
        let (bus, over) = (bus.clone(), Arc::clone(&over));
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let mut reader = bus.subscribe(Filter::new());
                for _ in 0..10 {
                    reader.visit_batch(7, |event| {
                        event.check();
                    });
                }
            }
        })
    };
    let publishers: Vec<_> = (0..3)
        .map(|who| {
            let bus = bus.clone();
            thread::spawn(move || {
                let (mut n, begun) = (0, Instant::now());
                while begun.elapsed() < TIME {
                    n += 1;
                    bus.publish_blocking(Event::make(who, n)).expect("open");
                    let batch = (1..6_usize).map(|k| Event::make(who, n + k as u64));
                    bus.publish_batch_blocking(batch).expect("open");
                    n += 5;
                }
                n
            })
        })
        .collect();
    let published: Vec<u64> =
        publishers.into_iter().map(|thread| thread.join().expect("a publisher")).collect();
    over.store(true, Ordering::Relaxed);
    visitor.join().expect("the visitor");
    drop(bus);
    for reader in readers {
        assert_eq!(reader.join().expect("a reader").as_slice(), published);
    }
}

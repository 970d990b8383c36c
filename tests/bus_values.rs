//! Values of any type on a bus: each is dropped exactly once, no matter which holder is last and what its `Drop` does.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fanwire::bus::{IntoItem, SharedValue, TryPublishError};
use fanwire::{Bus, Delivery, LosslessBus, Predicate};

/// Duration of the storm.
const TIME: Duration = Duration::from_millis(if cfg!(debug_assertions) { 500 } else { 2000 });

/// Number of drops of each value, by the value's number.
struct Drops(Vec<AtomicU32>);

impl Drops {
    fn of(count: usize) -> Arc<Self> {
        Arc::new(Self((0..count).map(|_| AtomicU32::new(0)).collect()))
    }

    fn value(self: &Arc<Self>, number: usize) -> Counted {
        Counted { number, text: number.to_string(), drops: Arc::clone(self) }
    }

    /// Returns how many of the first `count` values were dropped. Panics if one was dropped twice.
    fn once(&self, count: usize) -> usize {
        let times = |drops: &AtomicU32| drops.load(Ordering::Relaxed) as usize;
        assert!(self.0.iter().all(|drops| times(drops) <= 1), "dropped twice");
        self.0[..count].iter().map(times).sum()
    }
}

/// A value that owns heap memory and counts its drops.
struct Counted {
    number: usize,
    text: String,
    drops: Arc<Drops>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        assert_eq!(self.text, self.number.to_string(), "torn, or freed before");
        self.drops.0[self.number].fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn an_enum_of_the_program_is_broadcast_unchanged() {
    #[derive(Debug, PartialEq)]
    enum Quote {
        Trade(String, u64),
        Halt,
    }
    let bus = Bus::of::<Quote>();
    let (mut all, mut trades) =
        (bus.subscribe(Predicate::all()), bus.subscribe(|quote: &Quote| *quote != Quote::Halt));
    bus.publish(Quote::Halt);
    bus.publish(SharedValue::new(Quote::Trade("ABC".into(), 7)));
    bus.publish_batch([Quote::Halt, Quote::Trade("DEF".into(), 8)]);
    bus.publisher().publish(Quote::Halt);
    bus.close();
    assert_eq!(all.iter().count(), 5);
    let trades: Vec<_> = trades.iter().collect();
    let trade = |name: &str, price| Delivery::Event(SharedValue::new(Quote::Trade(name.into(), price)));
    assert_eq!(trades, [trade("ABC", 7), trade("DEF", 8)]);
    // Two readers share one value.
    let Delivery::Event(quote) = &trades[0] else { panic!("no gap") };
    assert!(Arc::strong_count(&quote.clone().into_arc()) >= 3);
}

#[test]
fn values_of_every_size_and_alignment_are_carried() {
    fn carries<V: PartialEq + std::fmt::Debug + Send + Sync + 'static>(make: impl Fn() -> V) {
        let bus = Bus::builder().of::<V>().capacity(4).build().expect("valid");
        let mut reader = bus.subscribe(Predicate::all());
        (0..9).for_each(|_| _ = bus.publish(make()));
        assert!(matches!(reader.recv(), Ok(Delivery::Gap(_))));
        assert!(matches!(reader.recv(), Ok(Delivery::Event(value)) if *value == make()));
    }
    #[derive(Debug, PartialEq)]
    #[repr(align(256))]
    struct Wide(u8);
    carries(|| ());
    carries(|| true);
    carries(|| Wide(3));
    carries(|| "text".to_owned());
    carries(|| [7_u8; 1000]);
}

#[test]
fn each_value_is_dropped_once_overwritten_unread_or_left_in_the_ring() {
    let drops = Drops::of(2000);
    let bus = Bus::builder().of::<Counted>().capacity(16).build().expect("valid");
    let mut reader = bus.subscribe(Predicate::all());
    let mut kept = Vec::new();
    for number in 0..500 {
        bus.publish(drops.value(number));
        if number % 50 == 0 {
            kept.extend(reader.try_recv());
        }
    }
    bus.publish_batch((500..1000).map(|number| drops.value(number)));
    let _ = bus.stats();
    let held = kept.iter().filter(|kept| matches!(kept, Delivery::Event(_))).count();
    assert_eq!(drops.once(1000), 1000 - 16 - held, "all but those in the ring and those that a reader kept");
    bus.close();
    assert!(bus.try_publish(drops.value(1000)).is_err());
    bus.publish(drops.value(1001));
    bus.publish_batch((1002..1102).map(|number| drops.value(number)));
    drop((reader, bus));
    assert_eq!(drops.once(1002), 1002 - held);
    drop(kept);
    assert_eq!(drops.once(1002), 1002);
}

#[test]
fn each_value_of_a_lossless_bus_is_dropped_once() {
    let drops = Drops::of(1000);
    let bus = LosslessBus::builder().of::<Counted>().capacity(8).build_lossless().expect("valid");
    let mut reader = bus.subscribe(Predicate::all());
    for number in 0..8 {
        bus.try_publish(drops.value(number)).map_err(|_| ()).expect("room");
    }
    let Err(TryPublishError::Full(back)) = bus.try_publish(drops.value(8)) else { panic!("no room") };
    assert_eq!((back.number, drops.once(9)), (8, 0));
    assert_eq!(reader.visit_batch(8, |_| ()), 8);
    bus.publish_batch_blocking((9..17).map(|number| drops.value(number))).map_err(|_| ()).expect("open");
    assert_eq!(drops.once(8), 8, "overwritten");
    drop((reader, bus, back));
    assert_eq!(drops.once(17), 17);

    let mut solo = LosslessBus::builder().of::<Counted>().capacity(8).build_lossless_solo().expect("valid");
    (100..200).for_each(|number| _ = solo.publish_blocking(drops.value(number)));
    solo.publish_batch_blocking((200..300).map(|number| drops.value(number)));
    drop(solo);
    assert_eq!(drops.once(300), 217);
}

/// A value that runs a closure when it is dropped.
struct Acts(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for Acts {
    fn drop(&mut self) {
        if let Some(act) = self.0.take() {
            act();
        }
    }
}

#[test]
fn a_value_that_panics_when_it_is_dropped_affects_no_other() {
    let drops = Drops::of(600);
    let bad = |number: usize| {
        let counted = drops.value(number);
        Acts(Some(Box::new(move || {
            drop(counted);
            panic!("as asked");
        })))
    };
    let bus = Bus::builder().of::<Acts>().capacity(8).build().expect("valid");
    let solo = LosslessBus::builder().of::<Acts>().capacity(8).build_lossless().expect("valid");
    let reader = bus.subscribe(Predicate::all());
    for number in 0..300 {
        assert_eq!(bus.publish(bad(number)).id.map(|id| id.sequence), Some(number as u64));
    }
    assert!(bus.held_bytes() < 10_000, "released values are accounted for");
    for number in 300..400 {
        solo.try_publish(bad(number)).map_err(std::mem::forget).expect("no reader to wait for");
    }
    solo.publish_batch_blocking((400..600).map(bad)).map_err(std::mem::forget).expect("open");
    drop((reader, bus, solo));
    assert_eq!(drops.once(600), 600);
}

#[test]
fn a_value_may_publish_and_subscribe_when_it_is_dropped() {
    let bus = Bus::builder().of::<Acts>().capacity(4).build().expect("valid");
    let full = LosslessBus::builder().of::<Acts>().capacity(4).build_lossless().expect("valid");
    let acts = |left: usize| {
        let (bus, full) = (bus.downgrade(), full.clone());
        Acts(Some(Box::new(move || {
            let Some(bus) = bus.upgrade() else { return };
            drop(bus.subscribe(Predicate::all()));
            let _ = bus.stats();
            if left > 0 {
                bus.publish(Acts(None));
                bus.publish_batch([Acts(None), Acts(None)]);
                full.try_publish(Acts(None)).map_err(|_| ()).expect("no reader to wait for");
            }
        })))
    };
    for _ in 0..100 {
        bus.publish(acts(1));
        bus.publish_batch((0..10).map(|_| acts(1)));
        full.publish_blocking(acts(1)).map_err(|_| ()).expect("open");
        full.publish_batch_blocking((0..10).map(|_| acts(1))).map_err(|_| ()).expect("open");
    }
    assert!(bus.stats().published > 1100);
    // The last values hold the bus that holds them. They are overwritten, so that both are dropped.
    for _ in 0..2 * full.capacity() {
        full.publish_blocking(Acts(None)).map_err(|_| ()).expect("open");
    }
}

#[test]
fn a_value_is_made_by_the_publisher_that_publishes_it() {
    thread_local!(static MADE: Cell<usize> = const { Cell::new(0) });
    struct Lazy;
    impl IntoItem<SharedValue<u64>> for Lazy {
        fn into_item(self) -> SharedValue<u64> {
            MADE.with(|made| made.set(made.get() + 1));
            SharedValue::new(7)
        }
    }
    let bus = Bus::of::<u64>();
    let mut reader = bus.subscribe(Predicate::all());
    bus.publish(Lazy);
    assert_eq!((reader.try_recv(), MADE.with(Cell::get)), (Ok(Delivery::Event(SharedValue::new(7))), 1));
}

#[test]
fn values_survive_a_storm_of_publishers_readers_and_an_end() {
    const MOST: usize = 1 << 20;
    let drops = Drops::of(MOST);
    let next = AtomicU32::new(0);
    let bus = Bus::builder().of::<Counted>().capacity(64).build().expect("valid");
    let full = LosslessBus::builder().of::<Counted>().capacity(64).build_lossless().expect("valid");
    thread::scope(|scope| {
        for wait in 0..2 {
            let reader = bus.subscribe(Predicate::all());
            scope.spawn(move || {
                let mut kept = Vec::new();
                for delivery in reader {
                    if let Delivery::Event(value) = delivery {
                        assert_eq!(value.text, value.number.to_string());
                        kept.push(value);
                    }
                    if kept.len() > 100 {
                        kept.drain(wait..50);
                    }
                }
            });
        }
        let reader = full.subscribe(|value: &Counted| !value.number.is_multiple_of(3));
        scope.spawn(move || assert!(reader.into_iter().all(|value| !value.number.is_multiple_of(3))));
        for _ in 0..2 {
            scope.spawn(|| {
                let value = || {
                    let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                    (number < MOST).then(|| drops.value(number))
                };
                let items = || std::iter::from_fn(value).take(7);
                while bus.publish_batch(items()).count == 7
                    && value().is_some_and(|value| bus.try_publish(value).is_ok())
                    && full.publish_batch_blocking(items()).is_ok()
                    && value().is_some_and(|value| full.publish_blocking(value).is_ok())
                {}
            });
        }
        let begun = Instant::now();
        while begun.elapsed() < TIME && next.load(Ordering::Relaxed) < MOST as u32 - 1000 {
            thread::yield_now();
        }
        bus.close();
        full.close();
    });
    drop((bus, full));
    let made = (next.load(Ordering::Relaxed) as usize).min(MOST);
    assert_eq!(drops.once(made), made);
}

//! The byte limit of a bus: the held bytes are counted exactly and stay below the limit, and events that are evicted
//! for it are reported as a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use fanwire::bus::BusConfigError;
use fanwire::{Bus, Delivery, Event, Filter, Gap, LosslessBus};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn event(stream: &str, bytes: usize) -> Event {
    let payload = format!("\"{}\"", "x".repeat(bytes));
    Event::builder("t").stream(stream).json(payload).build().expect("valid")
}

fn bus(capacity: usize, max_bytes: u64) -> Bus {
    Bus::builder().capacity(capacity).max_bytes(max_bytes).build().expect("valid")
}

#[test]
fn held_bytes_are_counted_exactly() {
    // Returns the counted size of one event of this length, alone in a ring.
    let weight = |bytes| {
        let bus = bus(1, 0);
        bus.publish(event("s", bytes));
        bus.held_bytes()
    };
    let sizes = [0, 100, 5000, 70_000, 1 << 20];
    for bytes in sizes {
        let own = weight(bytes);
        assert!(own > bytes as u64 && own < 2 * bytes as u64 + KIB, "{bytes} bytes are counted as {own}");
    }
    let bus = bus(4, 0);
    let mut publisher = bus.publisher();
    assert_eq!(bus.held_bytes(), 0);
    for (n, bytes) in sizes.into_iter().enumerate() {
        if n % 2 == 0 {
            bus.publish(event("s", bytes))
        } else {
            publisher.publish(event("s", bytes))
        };
    }
    // The first event was overwritten. Reading the stats releases it.
    publisher.publish_batch([event("s", 7), event("s", 8)]);
    drop(publisher);
    let held: u64 = [70_000, 1 << 20, 7, 8].map(weight).iter().sum();
    assert_eq!((bus.stats().held_bytes, bus.stats().live_events), (held, 4));
    assert_eq!(bus.held_bytes(), held);
}

#[test]
fn a_ring_over_its_byte_limit_evicts_the_oldest_and_reports_a_gap() {
    let bus = bus(1024, MIB);
    let mut reader = bus.subscribe(Filter::new());
    for _ in 0..100 {
        bus.publish(event("s", 100 << 10));
        assert!(bus.stats().held_bytes <= MIB, "{}", bus.held_bytes());
    }
    assert!(bus.held_bytes() > MIB / 2, "it holds what it may: {}", bus.held_bytes());
    let oldest = bus.stats().shards[0].oldest;
    assert_eq!(oldest, 90, "ten of 100 KiB fit");
    let Ok(Delivery::Gap(Gap { missed, from: 0, to, shard: 0, .. })) = reader.try_recv() else {
        panic!("no gap")
    };
    assert!(missed == to && to >= oldest && to < 100, "{oldest} {to}");
    let read = std::iter::from_fn(|| reader.try_recv().ok()).count() as u64;
    assert_eq!(missed + read, 100);
    let ledger = reader.ledger();
    assert_eq!((ledger.seen, ledger.missed, ledger.lag), (read, missed, 0));
    // Everything from the oldest event on is retained.
    let mut from_oldest = bus.subscribe_from(Filter::new(), &bus.oldest_position()).expect("there");
    let all: Vec<_> = std::iter::from_fn(|| from_oldest.try_recv().ok()).collect();
    assert!(all.iter().all(|one| matches!(one, Delivery::Event(_))) && all.len() as u64 == 100 - oldest);
    // A replay from the beginning starts with the gap.
    let start = fanwire::event::Position::new(bus.epoch(), [0]);
    let replay: Vec<_> = bus.replay(Filter::new(), &start).expect("this bus").collect();
    assert!(matches!(replay[0], Delivery::Gap(Gap { from: 0, .. })), "{replay:?}");
}

#[test]
fn the_newest_event_stays_however_large_and_small_ones_come_back_after_it() {
    let bus = bus(64, 64 * KIB);
    let mut reader = bus.subscribe(Filter::new());
    bus.publish(event("s", 1 << 20));
    assert!(matches!(reader.try_recv(), Ok(Delivery::Event(_))));
    for _ in 0..64 {
        bus.publish(event("s", 100));
    }
    assert!(bus.stats().held_bytes <= 64 * KIB);
    assert_eq!(std::iter::from_fn(|| reader.try_recv().ok()).count(), 64, "small ones have room");
}

#[test]
fn a_readers_item_is_whole_though_the_ring_has_evicted_it() {
    let bus = bus(64, 64 * KIB);
    let mut reader = bus.subscribe(Filter::new());
    bus.publish(event("first", 40 << 10));
    let Ok(Delivery::Event(kept)) = reader.try_recv() else { panic!("no event") };
    bus.publish(event("s", 40 << 10));
    let mut other = bus.subscribe(Filter::new());
    bus.publish(event("s", 10));
    // The ring evicts the event while the reader visits it.
    let mut looks = 0;
    other.visit_batch(1, |visit| {
        let fanwire::bus::DeliveryRef::Event(event) = visit else { panic!("no event") };
        bus.publish(self::event("s", 60 << 10));
        let _ = bus.stats();
        assert_eq!(event.payload().len(), 12);
        looks += 1;
    });
    assert_eq!((looks, kept.stream(), kept.payload().len()), (1, Some("first"), (40 << 10) + 2));
}

#[test]
fn each_shard_has_its_part() {
    let bus = Bus::builder().shards(4).capacity(1024).max_bytes(4 * MIB).build().expect("valid");
    let quiet = bus.publish(event("quiet", 1000)).id.expect("open");
    let loud = (0..).map(|n| format!("s{n}"));
    let loud =
        loud.clone().find(|name| bus.publish(event(name, 10)).id.is_some_and(|id| id.shard != quiet.shard));
    let loud = loud.expect("some");
    for _ in 0..500 {
        bus.publish(event(&loud, 20_000));
    }
    assert!(bus.stats().held_bytes <= MIB + 64 * KIB);
    assert!(
        bus.stats().shards[usize::from(quiet.shard)].oldest <= quiet.sequence,
        "the quiet one's past is there"
    );
}

#[test]
fn a_lossless_bus_refuses_a_bound_in_bytes_and_shards() {
    let refused = LosslessBus::builder().max_bytes(MIB).build_lossless().err();
    assert_eq!(refused, Some(BusConfigError::LosslessBytes));
    let refused = LosslessBus::builder().shards(2).build_lossless().err();
    assert_eq!(refused, Some(BusConfigError::LosslessShards(2)));
    assert_eq!(
        refused.map(|error| error.to_string()).as_deref(),
        Some("a lossless bus has one shard, not 2")
    );
    assert!(LosslessBus::builder().shards(2).build_lossless_solo().is_err());
    assert!(LosslessBus::builder().max_bytes(0).build_lossless_solo().is_ok());
}

/// Several publishers of very different sizes, and readers that check every byte: nothing is torn, lost without
/// a gap or held beyond the limit.
#[test]
fn a_storm_under_a_small_bound_keeps_every_promise() {
    const MAX: u64 = 256 * KIB;
    let bus = bus(256, MAX);
    let most = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let mut reader = bus.subscribe(Filter::new());
            thread::spawn(move || {
                let (mut events, mut missed) = (0_u64, 0_u64);
                while let Ok(delivery) = reader.recv() {
                    match delivery {
                        Delivery::Gap(gap) => missed += gap.missed,
                        Delivery::Event(event) => {
                            let fill = event.payload().as_bytes();
                            let byte = event.stream().expect("set").as_bytes()[0];
                            assert!(fill[1..fill.len() - 1].iter().all(|one| *one == byte), "torn");
                            events += 1;
                        }
                    }
                }
                (events, missed)
            })
        })
        .collect();
    let publishers: Vec<_> = (0..4_usize)
        .map(|nth| {
            let (bus, most) = (bus.clone(), Arc::clone(&most));
            thread::spawn(move || {
                let name = char::from(b'a' + nth as u8).to_string();
                let mut publisher = bus.publisher();
                for n in 0..3000_usize {
                    let bytes = (n * 7919 + nth * 31) % 20_000;
                    let payload = format!("\"{}\"", name.repeat(bytes));
                    let event = Event::builder("t").stream(&name).json(payload).build().expect("valid");
                    if n % 3 == 0 {
                        bus.publish(event)
                    } else {
                        publisher.publish(event)
                    };
                    if n % 100 == 0 {
                        most.fetch_max(bus.held_bytes(), Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.join().expect("no panic");
    }
    // While they publish, each publisher may hold one event more, and each reader the events that it visits or has not
    // released.
    let most = most.load(Ordering::Relaxed);
    assert!(most <= MAX + 13 * (MIB + 20 * KIB) + 3 * 64 * 20 * KIB, "{most}");
    bus.close();
    // A publisher that was stopped for a whole lap of the ring gave up its sequence: a claim without an event, reported
    // in a gap.
    let claimed = bus.stats().published;
    assert!((12_000..12_120).contains(&claimed), "{claimed} claims");
    for reader in readers {
        let (events, missed) = reader.join().expect("no panic");
        assert_eq!(events + missed, claimed);
    }
    // Checked after the readers are done, because each holds the range that it visits.
    let held = bus.stats().held_bytes;
    assert!(held <= MAX, "{held}");
}

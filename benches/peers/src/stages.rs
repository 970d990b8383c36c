//! Lossless stages that depend on each other, with one publisher, compared with `disruptor`: a pipeline of three, and a
//! diamond. The publisher has one core, and all stages share the other: each in its own thread, or all polled by one
//! thread. Each stage checks each item.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use disruptor::wait_strategies::WaitStrategy as DisruptorWait;
use disruptor::{BusySpin, Polling, ProcessorSettings, Producer};
use disruptor::{Sequence, build_single_producer};
use fanwire::bus::{BatchItem, HandlerThread, LosslessSubscriber, SoloPublisher, WaitStrategy};
use fanwire::{LosslessBus, Predicate};

use super::Item;
use super::contestants::pin_to;

const CAPACITY: usize = 8192;
const BATCH: u64 = 32;

/// Items a second.
type Rate = f64;

/// Shape of the stages: the third one follows the second, or both others.
#[derive(Clone, Copy)]
struct Shape {
    diamond: bool,
    batch: u64,
}

/// Wait strategy of a stage that yields, for threads that share a core.
#[derive(Clone, Copy)]
struct Yields;

impl DisruptorWait for Yields {
    fn wait_for(&self, _: Sequence) {
        thread::yield_now();
    }
}

/// Publishes for a time with `publish`, which gets the number of the first item. Returns how many items were published,
/// and the seconds.
fn publish_for(time: Duration, batch: u64, mut publish: impl FnMut(u64)) -> (u64, f64) {
    let begun = Instant::now();
    let mut n = 1;
    while begun.elapsed() < time {
        let until = n + 2048;
        while n < until {
            publish(n);
            n += batch;
        }
    }
    (n - 1, begun.elapsed().as_secs_f64())
}

/// Publishes by our bus with one publisher.
fn publish_ours(time: Duration, batch: u64, mut publisher: SoloPublisher<Item>) -> (u64, f64) {
    publish_for(time, batch, |n| {
        if batch == 1 {
            publisher.publish_blocking(Item::new(n));
        } else {
            publisher.publish_batch_blocking((n..n + batch).map(Item::new));
        }
    })
}

fn publish_theirs(time: Duration, batch: u64, mut producer: impl Producer<Item>) -> (u64, f64) {
    publish_for(time, batch, |n| {
        if batch == 1 {
            producer.publish(|item| *item = Item::new(n));
        } else {
            producer.batch_publish(batch as usize, |items| {
                for (item, k) in items.zip(0..) {
                    *item = Item::new(n + k);
                }
            });
        }
    })
}

/// Creates a bus with its three readers.
fn ours(shape: Shape) -> (SoloPublisher<Item>, [LosslessSubscriber<Item>; 3]) {
    let publisher = LosslessBus::builder().carrying::<Item>().capacity(CAPACITY).build_lossless_solo().expect("valid");
    let first = publisher.subscribe(Predicate::all());
    let (second, third) = if shape.diamond {
        let second = publisher.subscribe(Predicate::all());
        let third = publisher.subscribe_after(Predicate::all(), &[&first, &second]);
        (second, third)
    } else {
        let second = publisher.subscribe_after(Predicate::all(), &[&first]);
        let third = publisher.subscribe_after(Predicate::all(), &[&second]);
        (second, third)
    };
    (publisher, [first, second, third])
}

/// Starts a stage that sums up its items, and returns its thread.
fn stage(reader: LosslessSubscriber<Item>, seen: &Arc<AtomicU64>) -> JoinHandle<u64> {
    let seen = Arc::clone(seen);
    let mut count = 0;
    let reader = reader.with_wait(WaitStrategy::Spin);
    let thread = HandlerThread::new().named("stage").pinned_to(1);
    let handled = reader.handle(thread, move |next| match next {
        BatchItem::Item(item) => {
            item.check();
            count += 1;
        }
        BatchItem::End => seen.store(count, Ordering::Relaxed),
    });
    handled.expect("two cores")
}

fn fanwire(time: Duration, shape: Shape) -> Rate {
    let (publisher, readers) = ours(shape);
    let seen: [Arc<AtomicU64>; 3] = Default::default();
    let stages: Vec<_> = readers.into_iter().zip(&seen).map(|(reader, seen)| stage(reader, seen)).collect();
    let publishing = thread::spawn(move || {
        pin_to(0);
        publish_ours(time, shape.batch, publisher)
    });
    let (published, seconds) = publishing.join().expect("the publisher");
    for stage in stages {
        assert_eq!(stage.join().expect("a stage"), 0);
    }
    assert!(seen.iter().all(|seen| seen.load(Ordering::Relaxed) == published), "{seen:?}");
    published as f64 / seconds
}

fn disruptor<W: DisruptorWait + 'static>(time: Duration, shape: Shape, wait: W) -> Rate {
    let seen: [Arc<AtomicU64>; 3] = Default::default();
    let handler = |at: usize| {
        let seen = Arc::clone(&seen[at]);
        let mut count = 0;
        move |item: &Item, _: i64, end: bool| {
            item.check();
            count += 1;
            if end {
                seen.store(count, Ordering::Relaxed);
            }
        }
    };
    let builder = build_single_producer(CAPACITY, Item::default, wait);
    let first = builder.pin_at_core(1).handle_events_with(handler(0));
    macro_rules! go {
        ($builder:expr) => {
            thread::scope(|scope| {
                let publishing = scope.spawn(|| {
                    let producer = $builder.build();
                    pin_to(0);
                    publish_theirs(time, shape.batch, producer)
                });
                publishing.join().expect("the publisher")
            })
        };
    }
    let (published, seconds) = if shape.diamond {
        let second = first.pin_at_core(1).handle_events_with(handler(1));
        go!(second.and_then().pin_at_core(1).handle_events_with(handler(2)))
    } else {
        let second = first.and_then().pin_at_core(1).handle_events_with(handler(1));
        go!(second.and_then().pin_at_core(1).handle_events_with(handler(2)))
    };
    assert!(seen.iter().all(|seen| seen.load(Ordering::Relaxed) == published), "{seen:?}");
    published as f64 / seconds
}

/// Polls three stages in turn on the second core until each has ended, while `publish` runs on the first.
fn polled(publish: impl FnOnce() -> (u64, f64) + Send, mut poll: impl FnMut(usize) -> Option<u64> + Send) -> Rate {
    thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            pin_to(0);
            publish()
        });
        let polling = scope.spawn(move || {
            pin_to(1);
            let (mut seen, mut open) = ([0; 3], [true; 3]);
            while open.contains(&true) {
                for at in 0..3 {
                    match poll(at) {
                        Some(count) => seen[at] += count,
                        None => open[at] = false,
                    }
                }
            }
            seen
        });
        let (published, seconds) = publishing.join().expect("the publisher");
        assert_eq!(polling.join().expect("the stages"), [published; 3]);
        published as f64 / seconds
    })
}

fn fanwire_polled(time: Duration, shape: Shape) -> Rate {
    let (publisher, mut readers) = ours(shape);
    polled(
        || publish_ours(time, shape.batch, publisher),
        move |at| {
            let reader = &mut readers[at];
            // Before the visit: nothing comes after it.
            let is_closed = reader.is_closed();
            match reader.visit_batch(usize::MAX, |item| _ = item.check()) {
                0 if is_closed && reader.lag() == 0 => None,
                count => Some(count as u64),
            }
        },
    )
}

/// Polls a stage of `disruptor`'s once: the number of items, or `None` at the end. The stages' types differ.
macro_rules! poll {
    ($poller:expr) => {
        match $poller.poll() {
            Ok(mut items) => {
                let count = (&mut items).len() as u64;
                (&mut items).for_each(|item| _ = item.check());
                Some(count)
            }
            Err(Polling::NoEvents) => Some(0),
            Err(Polling::Shutdown) => None,
        }
    };
}

/// Only the pipeline.
fn disruptor_polled(time: Duration, shape: Shape) -> Rate {
    let (mut first, builder) = build_single_producer(CAPACITY, Item::default, BusySpin).new_event_poller();
    let (mut second, builder) = builder.and_then().new_event_poller();
    let (mut third, builder) = builder.and_then().new_event_poller();
    let producer = builder.build();
    polled(
        || publish_theirs(time, shape.batch, producer),
        move |at| match at {
            0 => poll!(first),
            1 => poll!(second),
            _ => poll!(third),
        },
    )
}

/// Times one thread that publishes a lap's eighth and then polls all stages, again and again: the work without transfers
/// of cache lines. Returns the least ns an item of publishing and of polling, over all laps.
fn alone(time: Duration, mut publish: impl FnMut(u64), mut poll: impl FnMut(usize) -> u64) -> (f64, f64) {
    const ITEMS: u64 = CAPACITY as u64 / 8;
    let (begun, mut best, mut n) = (Instant::now(), (f64::MAX, f64::MAX), 1);
    while begun.elapsed() < time {
        let start = Instant::now();
        (n..n + ITEMS).for_each(&mut publish);
        let published = start.elapsed();
        for at in 0..3 {
            let mut seen = 0;
            while seen < ITEMS {
                seen += poll(at);
            }
        }
        let polled = start.elapsed() - published;
        n += ITEMS;
        let each = |took: Duration| took.as_nanos() as f64 / ITEMS as f64;
        best = (best.0.min(each(published)), best.1.min(each(polled)));
    }
    best
}

fn fanwire_alone(time: Duration) -> (f64, f64) {
    let (mut publisher, mut readers) = ours(Shape { diamond: false, batch: 1 });
    alone(
        time,
        |n| _ = publisher.publish_blocking(Item::new(n)),
        |at| readers[at].visit_batch(usize::MAX, |item| _ = item.check()) as u64,
    )
}

fn disruptor_alone(time: Duration) -> (f64, f64) {
    let (mut first, builder) = build_single_producer(CAPACITY, Item::default, BusySpin).new_event_poller();
    let (mut second, builder) = builder.and_then().new_event_poller();
    let (mut third, builder) = builder.and_then().new_event_poller();
    let mut producer = builder.build();
    alone(
        time,
        |n| _ = producer.publish(|item| *item = Item::new(n)),
        |at| match at {
            0 => poll!(first),
            1 => poll!(second),
            _ => poll!(third),
        }
        .unwrap_or(0),
    )
}

/// Prints what the polled pipeline costs in one thread.
pub fn print_alone(time: Duration) {
    pin_to(1);
    let mut best = [(f64::MAX, f64::MAX); 2];
    let shorter = |a: (f64, f64), b: (f64, f64)| (a.0.min(b.0), a.1.min(b.1));
    for _ in 0..4 {
        best[0] = shorter(best[0], fanwire_alone(time / 4));
        best[1] = shorter(best[1], disruptor_alone(time / 4));
    }
    let [ours, theirs] = best;
    println!("\nPipeline of three in one thread, ns an item: published, polled by all three\n");
    println!("| fanwire | disruptor |\n|---|---|");
    println!("| {:.2}, {:.2} | {:.2}, {:.2} |", ours.0, ours.1, theirs.0, theirs.1);
}

/// Returns the median.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Prints medians, and the median of the ratios of neighbouring runs. `real_time`: without contestants that spin on the
/// shared core, because a real-time thread that spins would never yield it. `only_polled`: without contestants that have a thread for each stage.
pub fn print(rounds: usize, time: Duration, real_time: bool, only_polled: bool) {
    println!("\nStages, one publisher, millions a second: all stages get every item. The ratio is to the faster `disruptor`.\n");
    println!("| | fanwire | disruptor, busy spin | disruptor, yields | ratio |\n|---|---|---|---|---|");
    for (name, diamond, batch, is_polled) in [
        ("pipeline of three, one thread polls", false, 1, true),
        ("pipeline of three, one thread polls, batches of 32", false, BATCH, true),
        ("pipeline of three, a thread each", false, 1, false),
        ("pipeline of three, a thread each, batches of 32", false, BATCH, false),
        ("diamond, a thread each", true, 1, false),
        ("diamond, a thread each, batches of 32", true, BATCH, false),
    ] {
        if only_polled && !is_polled {
            continue;
        }
        let shape = Shape { diamond, batch };
        let mut columns: [Vec<f64>; 3] = Default::default();
        let mut ratios = Vec::new();
        for round in 0..rounds {
            let run = |which| match (which, is_polled) {
                (0, true) => Some(fanwire_polled(time, shape)),
                (0, false) => Some(fanwire(time, shape)),
                (1, true) => Some(disruptor_polled(time, shape)),
                (1, false) => (!real_time).then(|| disruptor(time, shape, BusySpin)),
                (_, true) => None,
                (_, false) => Some(disruptor(time, shape, Yields)),
            };
            // The three take turns: each is first in every third round.
            let mut rates = [None; 3];
            for which in (0..3).map(|at| (at + round) % 3) {
                rates[which] = run(which);
            }
            for (column, rate) in columns.iter_mut().zip(rates) {
                column.extend(rate.map(|rate| rate / 1e6));
            }
            let theirs = match (rates[1], rates[2]) {
                (Some(spins), Some(yields)) => Some(f64::max(spins, yields)),
                (spins, yields) => spins.or(yields),
            };
            ratios.extend(rates[0].zip(theirs).map(|(ours, theirs)| ours / theirs));
        }
        let [ours, spins, yields] = columns.map(|column| match median(column) {
            rate if rate.is_nan() => "-".to_owned(),
            rate => format!("{rate:.1}"),
        });
        println!("| {name} | {ours} | {spins} | {yields} | {:.2} |", median(ratios));
    }
}

//! Stages that depend on each other, lossless, one publisher: a pipeline of three, and a diamond, beside `disruptor`.
//! The publisher has one core, all stages share the other. The last stage checks each item.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fanwire::bus::{BatchItem, HandlerThread, LosslessSubscriber, SoloPublisher, WaitStrategy};
use fanwire::{LosslessBus, Predicate};

use super::Item;
use super::contestants::pin_to;

const CAPACITY: usize = 8192;
const BATCH: u64 = 32;

/// Items a second.
type Rate = f64;

/// Publishes for a time with `publish`, which gets the number of the first item; returns how many were published, and the seconds.
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

/// Starts a stage that sums up what it sees, and returns its thread.
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

fn fanwire(time: Duration, diamond: bool, batch: u64) -> Rate {
    let publisher = LosslessBus::builder().carrying::<Item>().capacity(CAPACITY).build_lossless_solo().expect("valid");
    let first = publisher.subscribe(Predicate::all());
    let second = match diamond {
        true => publisher.subscribe(Predicate::all()),
        false => publisher.subscribe_after(Predicate::all(), &[&first]),
    };
    let third = match diamond {
        true => publisher.subscribe_after(Predicate::all(), &[&first, &second]),
        false => publisher.subscribe_after(Predicate::all(), &[&second]),
    };
    let seen: [Arc<AtomicU64>; 3] = Default::default();
    let stages = [stage(first, &seen[0]), stage(second, &seen[1]), stage(third, &seen[2])];
    let publishing = thread::spawn(move || {
        pin_to(0);
        let mut publisher: SoloPublisher<Item> = publisher;
        publish_for(time, batch, |n| {
            if batch == 1 {
                publisher.publish_blocking(Item::new(n));
            } else {
                publisher.publish_batch_blocking((n..n + batch).map(Item::new));
            }
        })
    });
    let (published, seconds) = publishing.join().expect("the publisher");
    for stage in stages {
        assert_eq!(stage.join().expect("a stage"), 0);
    }
    assert!(seen.iter().all(|seen| seen.load(Ordering::Relaxed) == published), "{seen:?}");
    published as f64 / seconds
}

fn disruptor(time: Duration, diamond: bool, batch: u64) -> Rate {
    use disruptor::{BusySpin, ProcessorSettings, Producer, build_single_producer};
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
    let builder = build_single_producer(CAPACITY, Item::default, BusySpin);
    macro_rules! go {
        ($builder:expr) => {
            thread::scope(|scope| {
                let publishing = scope.spawn(|| {
                    let mut producer = $builder.build();
                    pin_to(0);
                    let done = publish_for(time, batch, |n| {
                        if batch == 1 {
                            producer.publish(|item| *item = Item::new(n));
                        } else {
                            producer.batch_publish(batch as usize, |items| {
                                for (item, k) in items.zip(0..) {
                                    *item = Item::new(n + k);
                                }
                            });
                        }
                    });
                    drop(producer);
                    done
                });
                publishing.join().expect("the publisher")
            })
        };
    }
    let (published, seconds) = match diamond {
        true => go!(
            builder
                .pin_at_core(1)
                .handle_events_with(handler(0))
                .pin_at_core(1)
                .handle_events_with(handler(1))
                .and_then()
                .pin_at_core(1)
                .handle_events_with(handler(2))
        ),
        false => go!(
            builder
                .pin_at_core(1)
                .handle_events_with(handler(0))
                .and_then()
                .pin_at_core(1)
                .handle_events_with(handler(1))
                .and_then()
                .pin_at_core(1)
                .handle_events_with(handler(2))
        ),
    };
    assert!(seen.iter().all(|seen| seen.load(Ordering::Relaxed) == published), "{seen:?}");
    published as f64 / seconds
}

/// Prints medians, and the median of the ratios of neighbouring runs.
pub fn print(rounds: usize, time: Duration) {
    println!("\nStages, one publisher, millions a second: all stages get every item.\n");
    println!("| | fanwire | disruptor | ratio |\n|---|---|---|---|");
    for (shape, diamond) in [("pipeline of three", false), ("diamond", true)] {
        for (name, batch) in [("", 1), (", batches of 32", BATCH)] {
            let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..rounds {
                // In turn, each first in every second round.
                let (a, b) = if round.is_multiple_of(2) {
                    let a = fanwire(time, diamond, batch);
                    (a, disruptor(time, diamond, batch))
                } else {
                    let b = disruptor(time, diamond, batch);
                    (fanwire(time, diamond, batch), b)
                };
                ours.push(a / 1e6);
                theirs.push(b / 1e6);
                ratios.push(a / b);
            }
            let median = |values: &mut Vec<f64>| {
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            let (ours, theirs, ratio) = (median(&mut ours), median(&mut theirs), median(&mut ratios));
            println!("| {shape}{name} | {ours:.1} | {theirs:.1} | {ratio:.2} |");
        }
    }
}

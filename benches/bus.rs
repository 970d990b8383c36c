//! The bus on one thread: publishing without a reader and with sleeping readers, reading, and both together. `cargo
//! bench --bench bus`. Throughput between threads, compared with other crates, is in `benches/peers`.

use std::hint::black_box;

use bytemuck::{Pod, Zeroable};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fanwire::{Bus, Delivery, Event, Filter, LosslessBus, Predicate};

/// 64 bytes: a sequence number, a checksum, and words to sum up.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Quote([u64; 8]);

fn quote(n: u64) -> Quote {
    Quote([n, !n, n ^ 1, n ^ 2, n ^ 3, n ^ 4, n ^ 5, n ^ 6])
}

fn plain(capacity: usize) -> Bus<Quote> {
    Bus::builder().carrying::<Quote>().capacity(capacity).build().expect("valid")
}

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    group.throughput(Throughput::Elements(1));
    let bus = plain(8192);
    group.bench_function("plain, nobody reads", |bencher| {
        let mut n = 0;
        bencher.iter(|| {
            n += 1;
            bus.publish(quote(black_box(n)))
        });
    });
    let sleeper = bus.subscribe(Predicate::all());
    group.bench_function("plain, a subscriber that does not read", |bencher| {
        let mut n = 0;
        bencher.iter(|| {
            n += 1;
            bus.publish(quote(black_box(n)))
        });
    });
    drop(sleeper);
    let mut solo = LosslessBus::builder().carrying::<Quote>().build_lossless_solo().expect("valid");
    group.bench_function("plain, lossless, one publisher", |bencher| {
        let mut n = 0;
        bencher.iter(|| {
            n += 1;
            solo.publish_blocking(quote(black_box(n)))
        });
    });
    let shared = LosslessBus::builder().carrying::<Quote>().build_lossless().expect("valid");
    group.bench_function("plain, lossless, shared", |bencher| {
        let mut n = 0;
        bencher.iter(|| {
            n += 1;
            shared.publish_blocking(quote(black_box(n))).expect("open")
        });
    });
    let events = Bus::new();
    let mut publisher = events.publisher();
    let make =
        || Event::builder("task.progress").source("core").json(r#"{"progress":42}"#).build().expect("valid");
    // A batch is as large as a thread's pool, so the next event reuses the memory that a publication evicts.
    group.bench_function("event from the pool, nobody reads", |bencher| {
        bencher.iter_batched(make, |event| publisher.publish(event), BatchSize::NumIterations(128));
    });
    group.bench_function("event made and published", |bencher| {
        bencher.iter(|| publisher.publish(make()));
    });
    group.throughput(Throughput::Elements(32));
    group.bench_function("plain, batches of 32", |bencher| {
        bencher.iter(|| bus.publish_batch((0..32).map(quote)));
    });
    group.finish();
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish and read");
    group.throughput(Throughput::Elements(64));
    let bus = plain(8192);
    let mut reader = bus.subscribe(Predicate::all());
    group.bench_function("plain, 64 by reference", |bencher| {
        bencher.iter(|| {
            bus.publish_batch((0..64).map(quote));
            let mut sum = 0;
            reader.visit_batch(64, |visit| {
                if let fanwire::bus::DeliveryRef::Event(quote) = visit {
                    sum ^= quote.0[1];
                }
            });
            sum
        });
    });
    let events = Bus::new();
    let mut all = events.subscribe(Filter::new());
    let make =
        || Event::builder("task.progress").source("core").json(r#"{"progress":42}"#).build().expect("valid");
    group.bench_function("event, 64 by clone", |bencher| {
        bencher.iter_batched(
            || (0..64).map(|_| make()).collect::<Vec<_>>(),
            |batch| {
                events.publish_batch(batch);
                let mut seen = 0;
                while let Ok(Delivery::Event(event)) = all.try_recv() {
                    seen += event.payload().len();
                }
                seen
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, publish, read);
criterion_main!(benches);

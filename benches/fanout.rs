//! Cost of a delivery without the kernel's part: match, encode, append, seal, and one write call that accepts
//! everything. `cargo bench --bench fanout`. Times are for one delivery (one event to one client).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanwire::Event;
use fanwire::internals::Fan;

fn event(kind: u32) -> Event {
    let payload =
        r#"{"progress":42,"message":"Reading the sources, sixteen of them so far","agent":"coder-001"}"#;
    Event::builder(&format!("kind{kind}.progress")).source("core").json(payload).build().expect("valid")
}

fn fanout(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fanout");
    for (members, interests, burst) in
        [(1000, 1, 1), (1000, 1, 50), (100, 1, 100), (1000, 1000, 1), (1000, 100, 50)]
    {
        let mut fan = Fan::new(members, interests);
        let each = u64::from(members / interests);
        assert_eq!(
            fan.deliver((0..burst).map(|_| event(0)).collect()),
            each * burst,
            "every member gets every event"
        );
        group.throughput(Throughput::Elements(each * burst));
        group.bench_function(
            format!("{members} clients, {interests} interests, bursts of {burst}"),
            |bencher| {
                bencher.iter_batched(
                    || (0..burst).map(|_| event(0)).collect::<Vec<_>>(),
                    |events| fan.deliver(events),
                    criterion::BatchSize::SmallInput,
                );
            },
        );
    }
    group.finish();
}

criterion_group!(benches, fanout);
criterion_main!(benches);

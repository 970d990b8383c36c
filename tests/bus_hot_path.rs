//! Publishing and receiving on a warm bus: no allocation (a counting allocator checks it) and no system call (strace
//! checks it).
#![allow(unsafe_code, reason = "an allocator of the test's own, which counts and calls the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use fanwire::bus::SharedValue;
use fanwire::{Bus, Event, Filter, LosslessBus, Predicate};

/// Number of rounds of each measurement, a multiple of every ring's capacity.
const ROUNDS: u64 = 4096;

struct Counting;

thread_local!(static ALLOCATIONS: Cell<u64> = const { Cell::new(0) });

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds the requirements.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the requirements.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `round` [`ROUNDS`] times to warm up, then counts this thread's allocations in as many further rounds.
fn allocations(mut round: impl FnMut(u64)) -> u64 {
    (0..ROUNDS).for_each(&mut round);
    mark();
    let before = ALLOCATIONS.with(Cell::get);
    (0..ROUNDS).for_each(&mut round);
    let after = ALLOCATIONS.with(Cell::get);
    mark();
    after - before
}

/// Makes a system call that nothing else here makes, as a mark in strace's log.
fn mark() {
    let _ = std::fs::read_link("/measured");
}

/// Publishes and receives in every way that is documented as free of allocations. Returns the name of each way with its
/// number of allocations.
fn measured() -> Vec<(&'static str, u64)> {
    let plain = Bus::builder().carrying::<[u64; 8]>().capacity(64).build().expect("valid");
    let mut publisher = plain.publisher();
    let mut reader = plain.subscribe(|item: &[u64; 8]| item[0] % 2 == 1);
    let shards = Bus::builder().carrying::<u64>().shards(4).ordering_key(|n| *n).capacity(64).build();
    let shards = shards.expect("valid");
    let mut of_all = shards.subscribe(Predicate::all());
    let lossless = LosslessBus::builder().carrying::<u64>().capacity(64).build_lossless().expect("valid");
    let mut first = lossless.subscribe(Predicate::all());
    let mut second = lossless.subscribe_after(Predicate::all(), &[&first]);
    let mut solo =
        LosslessBus::builder().carrying::<u64>().capacity(64).build_lossless_solo().expect("valid");
    let mut alone = solo.subscribe(Predicate::all());
    let events = Bus::builder().capacity(64).build().expect("valid");
    let (mut sender, mut sub) =
        (events.publisher(), events.subscribe("type=task.*".parse::<Filter>().expect("valid")));
    let values = Bus::builder().of::<u64>().capacity(64).build().expect("valid");
    let (value, mut of_values) = (SharedValue::new(7), values.subscribe(Predicate::all()));
    let lossless_values = LosslessBus::builder().of::<u64>().capacity(64).build_lossless().expect("valid");
    let mut of_lossless = lossless_values.subscribe(Predicate::all());
    let lossless_events = LosslessBus::builder().capacity(64).build_lossless().expect("valid");
    let mut lossless_sub = lossless_events.subscribe(Filter::new());
    let mut ways = vec![
        (
            "plain values, through the bus, a publisher and batches",
            allocations(|n| {
                plain.publish([n; 8]);
                publisher.publish([n + 1; 8]);
                plain.publish_batch([[n; 8], [n + 1; 8]]);
                black_box((reader.try_recv().expect("odd"), reader.recv().expect("odd")));
                assert_eq!(reader.visit_batch(9, |_| ()), 0);
            }),
        ),
        (
            "plain values over shards",
            allocations(|n| {
                shards.publish(n);
                black_box(of_all.recv().expect("open"));
            }),
        ),
        (
            "lossless, two stages",
            allocations(|n| {
                lossless.try_publish(n).expect("room");
                assert_eq!((first.recv(), first.visit_batch(1, |_| ())), (Ok(n), 0));
                assert_eq!(first.try_recv().ok(), None);
                assert_eq!(second.recv(), Ok(n));
            }),
        ),
        (
            "lossless, one publisher",
            allocations(|n| {
                solo.publish_blocking(n);
                assert_eq!(alone.recv(), Ok(n));
            }),
        ),
        (
            "lossless, batches",
            allocations(|n| {
                lossless.publish_batch_blocking([n, n + 1]).expect("open");
                assert_eq!(first.visit_batch(9, |_| ()), 2);
                assert_eq!(second.visit_batch(9, |_| ()), 2);
                solo.publish_batch_blocking([n, n + 1]);
                assert_eq!(alone.visit_batch(9, |_| ()), 2);
            }),
        ),
        (
            "events from the thread's pool",
            allocations(|_| {
                let event = Event::builder("task.progress").source("core").json(r#"{"progress":42}"#);
                sender.publish(event.build().expect("valid"));
                black_box(sub.recv().expect("open"));
            }),
        ),
        (
            "a value that is shared already",
            allocations(|_| {
                values.publish(value.clone());
                black_box(of_values.recv().expect("open"));
            }),
        ),
        (
            "a value that is shared already, lossless",
            allocations(|_| {
                lossless_values.try_publish(value.clone()).expect("room");
                black_box(of_lossless.recv().expect("open"));
            }),
        ),
        (
            "events from the thread's pool, lossless",
            allocations(|_| {
                let event = Event::builder("task.progress").source("core").json(r#"{"progress":42}"#);
                lossless_events.try_publish(event.build().expect("valid")).expect("room");
                black_box(lossless_sub.recv().expect("open"));
            }),
        ),
    ];
    #[cfg(feature = "serde")]
    ways.push((
        "events with a payload written by serde",
        allocations(|n| {
            let event = Event::builder("task.progress").source("core").payload(&[("progress", n)]);
            sender.publish(event.build().expect("valid"));
            black_box(sub.recv().expect("open"));
        }),
    ));
    ways
}

#[test]
fn a_warm_bus_allocates_nothing() {
    for (way, allocations) in measured() {
        assert_eq!(allocations, 0, "{way}");
    }
    // Proof that the counter works: a value that is not shared yet is allocated.
    let values = Bus::builder().of::<u64>().capacity(64).build().expect("valid");
    assert_eq!(allocations(|n| _ = values.publish(n)), ROUNDS);
}

#[cfg(target_os = "linux")]
#[test]
fn a_warm_bus_makes_no_system_call() {
    let log = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("hot-path.strace");
    let program = std::env::current_exe().expect("this program");
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-o"]).arg(&log).arg(program);
    let traced = strace.args(["--exact", "a_warm_bus_allocates_nothing", "--test-threads=1"]).output();
    assert!(traced.expect("strace runs").status.success());
    let text = std::fs::read_to_string(&log).expect("strace writes there");
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let is_mark = |call: &str| call.contains("readlink") && call.contains("/measured");
    let (thread, _) = lines.clone().find(|(_, call)| is_mark(call)).expect("a mark");
    let calls: Vec<&str> = lines.filter(|(of, _)| *of == thread).map(|(_, call)| call.trim()).collect();
    // The parts between marks alternate: a measurement, then the preparation of the next one.
    let measurements: Vec<&[&str]> = calls.split(|call| is_mark(call)).skip(1).step_by(2).collect();
    // The last measurement allocates, which may cause a system call.
    let (_, warm) = measurements.split_last().expect("measurements");
    assert!(warm.len() >= 8 && warm.iter().all(|calls| calls.is_empty()), "{warm:?}");
}

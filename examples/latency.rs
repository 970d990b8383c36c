//! Prints how long an item takes from `publish` to its reader on this machine, by wait strategy and core.
//!
//! `cargo run --release --example latency`, or `-- 200000` for more items. Close other programs first.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use fanwire::bus::WaitStrategy;
use fanwire::{Bus, Predicate};

fn main() {
    let items = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(20_000);
    print!("{}", table(items));
}

/// Measures each wait strategy on one core and on two, and returns a table of nanoseconds.
pub(crate) fn table(items: usize) -> String {
    let mut table =
        String::from("| reader | cores | p50 | p99 | p99.9 | p99.99 |\n|---|---|---|---|---|---|\n");
    for (name, wait) in [
        ("spins", WaitStrategy::Spin),
        ("waits as by default", WaitStrategy::SpinThenPark),
        ("parks", WaitStrategy::Park),
    ] {
        for (cores, reader) in [("two", 1), ("one", 0)] {
            // The first round warms up.
            measure(wait, reader, items / 10);
            let times = measure(wait, reader, items);
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
            let [a, b, c, d] = [0.5, 0.99, 0.999, 0.9999].map(at);
            let _ = writeln!(table, "| {name} | {cores} | {a} | {b} | {c} | {d} |");
        }
    }
    table
}

/// Returns the sorted nanoseconds from `publish` to after `recv`. An item is published after the previous one's arrival.
fn measure(wait: WaitStrategy, core: usize, items: usize) -> Vec<u64> {
    let bus = Bus::builder().carrying::<u64>().build().expect("valid");
    let mut reader = bus.subscribe(Predicate::all()).with_wait(wait);
    let start = Instant::now();
    let now = move || start.elapsed().as_nanos() as u64;
    let reading = thread::spawn(move || {
        stay_on(core);
        let mut times = Vec::with_capacity(items.max(1));
        while let Ok(delivery) = reader.recv() {
            let read = now();
            if let fanwire::Delivery::Event(sent) = delivery {
                times.push(read - sent);
            }
        }
        times.sort_unstable();
        times
    });
    let publishing = thread::spawn(move || {
        stay_on(0);
        for _ in 0..items.max(1) {
            // Long enough for the reader to wait again, and to sleep if it does.
            thread::sleep(Duration::from_micros(50));
            bus.publish(now());
        }
    });
    publishing.join().expect("no panic");
    reading.join().expect("no panic")
}

/// Pins this thread to a core, if the system supports it.
#[cfg_attr(not(target_os = "linux"), allow(unused_variables, reason = "the system places threads"))]
fn stay_on(core: usize) {
    #[cfg(target_os = "linux")]
    {
        let mut cores = rustix::thread::CpuSet::new();
        cores.set(core);
        if rustix::thread::sched_setaffinity(None, &cores).is_err() {
            eprintln!("there is no core {core}: the system places this thread");
        }
    }
}

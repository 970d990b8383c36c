//! Cost and gain of compression, once for a feed and once for each client. `cargo bench --bench deflate`.
//!
//! The program first prints a table of sizes and times by the size of events, on which the thresholds are based. Then it
//! measures one event to 1,000 clients. The kernel's time for the bytes is not included.

use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use fanwire::Event;
use fanwire::internals::deflate::{Deflater, window_bytes};
use fanwire::internals::{Fan, Form, native_frame};

const LEVEL: u32 = 6;
const CLIENTS: usize = 1000;

/// Returns the n-th event of a run of agents, of about `size` bytes as a native message.
fn event(n: u64, size: usize) -> Event {
    let types =
        ["task.progress", "agent.message", "node.entered", "file.changed", "tool.called", "task.completed"];
    let words = [
        "reading", "the", "sources", "of", "module", "found", "a", "test", "that", "fails", "when",
        "writing", "patch", "for", "review", "then", "builds", "and", "runs", "again",
    ];
    let mut seed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::new();
    while text.len() + 380 < size {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        text.push_str(words[(seed % 20) as usize]);
        text.push(' ');
    }
    let payload = format!(r#"{{"progress":{},"step":{n},"message":"{text}"}}"#, seed % 100);
    Event::builder(types[(n % 6) as usize])
        .source("core")
        .correlation(&format!("run-{}", n / 50))
        .entity("task", &format!("task_{:06x}", seed & 0xff_ffff))
        .json(payload)
        .build()
        .expect("valid")
}

/// Prints bytes and microseconds for one event, in each form, by the size of events.
fn sizes() {
    println!(
        "bytes of a compressed native message in percent of the plain one (microseconds to compress it)\n"
    );
    println!(
        "| message | by itself | window of 512 B | 4 KiB | 32 KiB | 32 KiB, level 1 | level 2 | level 3 | level 4 | level 9 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for size in [0, 444, 700, 1024, 2048, 4096, 16_384] {
        let frames: Vec<_> = (0..400).map(|n| native_frame(&event(n, size))).collect();
        let plain: usize = frames.iter().map(bytes::Bytes::len).sum();
        let measure = |bits: u8, level: u32, alone: bool| {
            let mut deflater = Deflater::new(bits, level).expect("built in");
            let mut bytes = 0;
            let mut best = Duration::MAX;
            for _ in 0..3 {
                bytes = 0;
                deflater.start_afresh();
                let start = Instant::now();
                for frame in &frames {
                    if alone {
                        deflater.start_afresh();
                    }
                    let mut out = Vec::with_capacity(frame.len());
                    deflater.block(&frame[4.min(frame.len())..], &mut out);
                    bytes += out.len();
                }
                best = best.min(start.elapsed());
            }
            let percent = bytes as f64 * 100.0 / plain as f64;
            format!("{percent:.0} ({:.1})", best.as_secs_f64() * 1e6 / frames.len() as f64)
        };
        let forms = [
            (15, LEVEL, true),
            (9, LEVEL, false),
            (12, LEVEL, false),
            (15, LEVEL, false),
            (15, 1, false),
            (15, 2, false),
            (15, 3, false),
            (15, 4, false),
            (15, 9, false),
        ];
        let columns = forms.map(|(bits, level, alone)| measure(bits, level, alone)).join(" | ");
        println!("| {} B | {columns} |", plain / frames.len());
    }
    println!(
        "\na window takes {} KB; one for each of {CLIENTS} clients {} MB\n",
        window_bytes(15) / 1000,
        CLIENTS * window_bytes(15) / 1_000_000
    );
}

fn feeds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deflate to 1,000 clients");
    group.sample_size(10);
    group.throughput(Throughput::Elements(CLIENTS as u64));
    for (name, form) in [
        ("plain", Form::Plain),
        ("per feed", Form::ContextTakeover),
        ("by itself", Form::NoContextTakeover),
        ("gzip per feed", Form::Gzip),
    ] {
        let mut fan = Fan::compressed(CLIENTS as u32, form);
        let mut n = 0;
        let before = (fan.written_bytes(), fan.deflates());
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || {
                    n += 1;
                    vec![event(n, 444)]
                },
                |events| assert_eq!(fan.deliver(events), CLIENTS as u64),
                BatchSize::PerIteration,
            );
        });
        let (bytes, deflates) = (fan.written_bytes() - before.0, fan.deflates() - before.1);
        println!(
            "{name}: {} bytes a delivery, {deflates} deflates for {n} events",
            bytes / (n * CLIENTS as u64).max(1)
        );
    }
    let mut clients: Vec<Deflater> =
        (0..CLIENTS).map(|_| Deflater::new(15, LEVEL).expect("built in")).collect();
    let mut out = Vec::with_capacity(64 * 1024);
    let (mut n, mut bytes) = (0_u64, 0_u64);
    group.bench_function("per client", |bencher| {
        bencher.iter_batched(
            || {
                n += 1;
                native_frame(&event(n, 444))
            },
            |frame| {
                for client in &mut clients {
                    out.clear();
                    client.block(&frame[4..], &mut out);
                    bytes += out.len() as u64;
                }
            },
            BatchSize::PerIteration,
        );
    });
    println!(
        "per client: {} bytes a delivery, {CLIENTS} deflates an event",
        bytes / (n * CLIENTS as u64).max(1)
    );
    group.finish();
}

criterion_group!(benches, feeds);

fn main() {
    sizes();
    benches();
    Criterion::default().configure_from_args().final_summary();
}

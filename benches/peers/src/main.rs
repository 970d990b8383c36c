//! Speed of buses that carry a 64-byte item with a checksum from publishers to readers within this process. All
//! contestants run one after the other, round by round. `cargo run --release -- [ROUNDS] [MILLISECONDS] [NAME |
//! SHAPE]...` prints a table of medians and writes SVG. With parts of names, or shapes like `1:4`, it runs only those,
//! and writes no SVG. `line=LOW-HIGH` accepts only runs while a cache line takes that many ns (see `line`). `latency`,
//! `stages`, `stages-real-time`, `stages-polled`, `stages-alone` (in one thread) and `scaling` (against shards, publishers and readers, with an SVG) are
//! names, too.

mod contestants;
mod latency;
mod line;
mod plot;
mod scaling;
mod stages;

use std::time::Duration;

use contestants::{CONTESTANTS, Contestant};

/// 64 bytes that a reader can check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Item([u64; 8]);

impl Item {
    pub fn new(n: u64) -> Self {
        let mut words = [n; 8];
        for (word, k) in words[..7].iter_mut().zip(1..) {
            *word = n.wrapping_mul(k);
        }
        words[7] = words[..7].iter().fold(0, |sum, word| sum ^ word);
        Self(words)
    }

    /// Returns the number if the checksum is correct.
    pub fn check(&self) -> u64 {
        let sum = self.0[..7].iter().fold(0, |sum, word| sum ^ word);
        assert_eq!(sum, self.0[7], "torn");
        self.0[0]
    }
}

/// Result of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    pub published: u64,
    /// Items delivered, by all readers together.
    pub delivered: u64,
    /// Items reported as lost, by all readers together.
    pub lost: u64,
    pub seconds: f64,
}

/// Numbers of publishers and readers.
pub const SHAPES: [(usize, usize); 4] = [(1, 1), (1, 2), (1, 4), (2, 1)];

fn main() {
    let mut args = std::env::args().skip(1);
    let mut number = |default: u64| args.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (rounds, milliseconds) = (number(7) as usize, number(150));
    let time = Duration::from_millis(milliseconds);
    // Parses an argument: `1:4` is a shape, anything else a part of a name.
    let (ranges, args): (Vec<String>, Vec<String>) = args.partition(|text| line::Range::parse(text).is_some());
    let range = ranges.first().and_then(|text| line::Range::parse(text));
    let (shapes, names): (Vec<String>, Vec<String>) = args.into_iter().partition(|text| shape(text).is_some());
    let shapes: Vec<(usize, usize)> = shapes.iter().filter_map(|text| shape(text)).collect();
    let is_asked = |contestant: &Contestant| names.is_empty() || names.iter().any(|name| contestant.name.contains(name));
    let is_whole = names.is_empty() && shapes.is_empty();
    // Runs of all rounds, by contestant and shape.
    let mut runs: Vec<Vec<Vec<Run>>> = vec![vec![Vec::new(); SHAPES.len()]; CONTESTANTS.len()];
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for (contestant, of_shapes) in CONTESTANTS.iter().zip(&mut runs).filter(|pair| is_asked(pair.0)) {
            for (&(publishers, readers), runs) in SHAPES.iter().zip(of_shapes) {
                if contestant.does(publishers, readers) && (shapes.is_empty() || shapes.contains(&(publishers, readers))) {
                    runs.push(line::within(range, || (contestant.run)(publishers, readers, time)));
                }
            }
        }
    }
    let medians: Vec<Vec<Option<Run>>> =
        runs.iter().map(|of_shapes| of_shapes.iter().map(|runs| median(runs)).collect()).collect();
    println!("A line takes {} ns one way.\n", line::one_way());
    print(&medians);
    let is_named = |part: &str| is_whole || names.iter().any(|name| name == part);
    if is_named("latency") {
        latency::print(time, range);
    }
    if is_named("stages") || is_named("stages-real-time") || is_named("stages-polled") {
        stages::print(rounds, time, !is_named("stages"), !is_whole && is_named("stages-polled"));
    }
    if is_named("stages-alone") {
        stages::print_alone(time);
    }
    if is_named("scaling") {
        scaling::measure(rounds, time, range);
    }
    if is_whole {
        plot::write(&medians);
    }
}

/// Formats publishers and readers, as `1:4`.
fn shape(text: &str) -> Option<(usize, usize)> {
    let (publishers, readers) = text.split_once(':')?;
    Some((publishers.parse().ok()?, readers.parse().ok()?))
}

/// Returns the run with the median of deliveries a second.
pub fn median(runs: &[Run]) -> Option<Run> {
    let mut runs = runs.to_vec();
    runs.sort_by(|a, b| (a.delivered as f64 / a.seconds).total_cmp(&(b.delivered as f64 / b.seconds)));
    runs.get(runs.len() / 2).copied()
}

fn print(medians: &[Vec<Option<Run>>]) {
    println!("Millions a second, medians: delivered to each reader (published; lost in percent of what a reader was owed).\n");
    print!("| |");
    for (publishers, readers) in SHAPES {
        print!(" {publishers} to {readers} |");
    }
    println!("\n|---|{}", "---|".repeat(SHAPES.len()));
    for (Contestant { name, .. }, of_shapes) in CONTESTANTS.iter().zip(medians) {
        if of_shapes.iter().all(Option::is_none) {
            continue;
        }
        print!("| {name} |");
        for (run, (_, readers)) in of_shapes.iter().zip(SHAPES) {
            match run {
                None => print!(" - |"),
                Some(Run { published, delivered, lost, seconds }) => {
                    let million = |n: u64| n as f64 / seconds / 1e6;
                    let each = million(*delivered) / readers as f64;
                    let share = *lost as f64 * 100.0 / (*delivered + *lost).max(1) as f64;
                    if *lost == 0 {
                        print!(" {each:.1} |");
                    } else {
                        print!(" {each:.1} ({:.1}; {share:.0}%) |", million(*published));
                    }
                }
            }
        }
        println!();
    }
}

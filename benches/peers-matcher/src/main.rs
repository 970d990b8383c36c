//! Fanwire's matcher compared with others. `cargo run --release -- [--quick] [SUBSCRIPTIONS...]` prints
//! markdown tables, and one line of CSV for each measurement on stderr.
//!
//! As in a server, each event is created just before it is matched (64 together, outside the measured time). The
//! results of all peers are compared before anything is measured.

mod counting;
mod mix;
mod peers;
mod plot;

use std::time::{Duration, Instant};

use mix::{Mix, Random, Scale, Subscription};
use peers::{HashThenScan, MqttTree, Ours, Peer, Scan, Sent, Tree};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

const CHUNK: usize = 64;

struct Row {
    median: f64,
    low: f64,
    high: f64,
    matches: f64,
}

/// Returns nanoseconds for one event over some runs. `signatures` different events repeat.
fn time(peer: &mut dyn Peer, scale: &Scale, signatures: Option<usize>, run: Duration, runs: usize) -> Row {
    let mut times = Vec::new();
    let mut out = Vec::new();
    let (mut matches, mut events) = (0usize, 0usize);
    for nth in 0..=runs {
        let mut random = Random::new(if signatures.is_some() { 99 } else { 1000 + nth as u64 });
        let mut choice = Random::new(5);
        let hot: Vec<u64> = (0..signatures.unwrap_or(0)).map(|n| 50_000 + n as u64).collect();
        let mut spent = Duration::ZERO;
        let mut count = 0;
        let begun = Instant::now();
        while spent < run && begun.elapsed() < run * 8 {
            let chunk: Vec<Sent> = (0..CHUNK)
                .map(|_| {
                    Sent::new(if hot.is_empty() {
                        scale.attributes(&mut random)
                    } else {
                        scale.attributes(&mut Random::new(hot[choice.below(hot.len())]))
                    })
                })
                .collect();
            let start = Instant::now();
            for sent in &chunk {
                out.clear();
                peer.find(sent, &mut out);
                matches += std::hint::black_box(&out).len();
            }
            spent += start.elapsed();
            count += CHUNK;
        }
        events += count;
        // The first run warms up.
        if nth > 0 {
            times.push(spent.as_nanos() as f64 / count as f64);
        }
    }
    times.sort_by(f64::total_cmp);
    Row {
        median: times[times.len() / 2],
        low: times[0],
        high: times[times.len() - 1],
        matches: matches as f64 / events as f64,
    }
}

fn checksum(peer: &mut dyn Peer, scale: &Scale, events: usize) -> u64 {
    let mut random = Random::new(4);
    let mut out = Vec::new();
    (0..events).fold(0u64, |sum, nth| {
        let sent = Sent::new(scale.attributes(&mut random));
        out.clear();
        peer.find(&sent, &mut out);
        out.iter().fold(sum, |sum, &subscriber| sum.wrapping_add((u64::from(subscriber) + 1) * (nth as u64 + 1)))
    })
}

fn add_and_remove(peer: &mut dyn Peer, subscriptions: usize) -> (f64, f64) {
    const EXTRA: usize = 2000;
    let wants: Vec<Subscription> = (0..EXTRA)
        .map(|n| Subscription { event_type: format!("kind{}.step1", n % 10), stream: Some(format!("stream-x{n:06}")) })
        .collect();
    let mut best = (f64::MAX, f64::MAX);
    for _ in 0..3 {
        let start = Instant::now();
        for (nth, want) in wants.iter().enumerate() {
            peer.add(want, (subscriptions + nth) as u32);
        }
        let added = start.elapsed();
        let start = Instant::now();
        for (nth, want) in wants.iter().enumerate().rev() {
            peer.remove(want, (subscriptions + nth) as u32);
        }
        let each = |time: Duration| time.as_nanos() as f64 / EXTRA as f64;
        best = (best.0.min(each(added)), best.1.min(each(start.elapsed())));
    }
    best
}

/// `--count EVENTS HOT`, for cachegrind: builds a million exact subscriptions and matches this many events, random ones
/// or (HOT = 1) a thousand in turn. The difference of two runs is the cost of the events.
fn count() {
    let mut numbers = std::env::args().skip(2).map(|text| text.parse::<usize>().expect("a number"));
    let events = numbers.next().expect("how many events");
    let hot = numbers.next() == Some(1);
    let scale = Scale::new(Mix::Exact, 1_000_000);
    let mut matcher = fanwire::internals::Matcher::new(fanwire::filter::FilterLimits::default());
    for want in scale.wants() {
        matcher.insert(&fanwire::Filter::new().types([&want.event_type]).streams(&want.stream));
    }
    let mut random = Random::new(9);
    let kinds: Vec<fanwire::Event> = (0..if hot { 1000 } else { 100_000 })
        .map(|_| {
            let attributes = scale.attributes(&mut random);
            fanwire::Event::builder(&attributes.event_type).stream(&attributes.stream).build().expect("valid")
        })
        .collect();
    let mut out = Vec::new();
    for event in kinds.iter().cycle().take(events) {
        matcher.matches(event, &mut out);
        std::hint::black_box(&out);
    }
}

fn main() {
    let mut scales = Vec::new();
    let mut quick = false;
    let mut ours_only = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => quick = true,
            "--ours" => ours_only = true,
            "--count" => return count(),
            number => scales.push(number.parse().expect("--quick, --ours or a number of subscriptions")),
        }
    }
    if scales.is_empty() {
        scales = vec![100, 10_000, 1_000_000];
    }
    let (run, runs) = if quick { (Duration::from_millis(60), 3) } else { (Duration::from_millis(150), 5) };
    eprintln!("mix,subscriptions,matcher,ns");
    let mut points = Vec::new();
    for (mix, mix_name) in [
        (Mix::Exact, "exact pairs"),
        (Mix::OwnStreams, "exact pairs, a stream each"),
        (Mix::Patterns, "20% patterns"),
        (Mix::Dashboards, "equal dashboards"),
    ] {
        for &subscriptions in &scales {
            let subscriptions = if mix == Mix::Dashboards { 1000 } else { subscriptions };
            let scale = Scale::new(mix, subscriptions);
            let wants = scale.wants();
            let strings: usize = wants.iter().map(Subscription::bytes).sum();
            println!("\n**{mix_name}, {subscriptions} subscriptions**\n");
            println!(
                "| matcher | random events, ns: median (min-max) | 1,000 hot signatures, ns | matches an event | \
                 bytes a subscription beyond strings | build ms | add ns | remove ns |"
            );
            println!("|---|---|---|---|---|---|---|---|");
            let mut want_sum = None;
            let makes: [(bool, fn() -> Box<dyn Peer>); 6] = [
                (true, || Box::new(Ours::new(false))),
                (true, || Box::new(Ours::new(true))),
                (false, || Box::new(HashThenScan::default())),
                (false, || Box::new(Tree::default())),
                (false, || Box::new(MqttTree::default())),
                (false, || Box::new(Scan::default())),
            ];
            for (ours, make) in makes {
                if ours_only && !ours {
                    continue;
                }
                let before = counting::live();
                let start = Instant::now();
                let mut peer = make();
                for (subscriber, want) in wants.iter().enumerate() {
                    peer.add(want, subscriber as u32);
                }
                let built = start.elapsed();
                let bytes = (counting::live() - before) as f64 - strings as f64;
                let slow = peer.name().contains("scan") && subscriptions > 100_000;
                let events = if slow { 20 } else { 2000 };
                if peer.classes().is_none() || peer.name().contains("listed") {
                    let mut reference = Ours::new(true);
                    if want_sum.is_none() {
                        for (subscriber, want) in wants.iter().enumerate() {
                            reference.add(want, subscriber as u32);
                        }
                        want_sum = Some((checksum(&mut reference, &scale, 2000), checksum(&mut reference, &scale, 20)));
                    }
                    let sums = want_sum.expect("just made");
                    let want = if slow { sums.1 } else { sums.0 };
                    assert_eq!(checksum(&mut *peer, &scale, events), want, "{}", peer.name());
                }
                let cold = time(&mut *peer, &scale, None, run, runs);
                let hot = time(&mut *peer, &scale, Some(1000), run, runs);
                let (add, remove) = if slow { (f64::NAN, f64::NAN) } else { add_and_remove(&mut *peer, subscriptions) };
                if mix != Mix::Dashboards {
                    points.push(plot::Point { mix: mix_name, subscriptions, matcher: peer.name().to_owned(), ns: cold.median });
                }
                eprintln!("{mix_name},{subscriptions},{},{:.1}", peer.name(), cold.median);
                eprintln!("{mix_name} hot,{subscriptions},{},{:.1}", peer.name(), hot.median);
                println!(
                    "| {} | {:.0} ({:.0}-{:.0}) | {:.0} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} |",
                    peer.name(),
                    cold.median,
                    cold.low,
                    cold.high,
                    hot.median,
                    cold.matches,
                    bytes / subscriptions as f64,
                    built.as_millis(),
                    add,
                    remove
                );
            }
            if mix == Mix::Dashboards {
                break;
            }
        }
    }
    plot::write(&points);
}

//! The matcher: `cargo bench --bench matcher`. For comparison, it also runs a scan of all filters and a hash map of
//! exact pairs. The matchers of other crates are in `benches/peers-matcher`.
//!
//! Times are for one event. "hot" cycles through 1,000 events with results in the memo, "random" through
//! 65,536.

use std::collections::HashMap;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use fanwire::event::Attribute;
use fanwire::filter::FilterLimits;
use fanwire::internals::{Matcher, value_hash};
use fanwire::{Event, Filter};

#[path = "peers-matcher/src/mix.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the program that measures other crates")]
mod mix;
use mix::{Attributes, Mix, Random, Scale, Subscription};

fn filter(want: &Subscription) -> Filter {
    Filter::new().types([&want.event_type]).streams(&want.stream)
}

fn event(attributes: &Attributes) -> Event {
    Event::builder(&attributes.event_type).stream(&attributes.stream).build().expect("valid")
}

fn events(scale: &Scale, count: usize) -> Vec<Event> {
    let mut random = Random::new(3);
    (0..count).map(|_| event(&scale.attributes(&mut random))).collect()
}

fn matcher(wants: &[Subscription]) -> Matcher {
    let mut matcher = Matcher::new(FilterLimits::default());
    for want in wants {
        matcher.insert(&filter(want));
    }
    matcher
}

const MIXES: [(Mix, &str); 3] =
    [(Mix::Exact, "exact"), (Mix::OwnStreams, "own streams"), (Mix::Patterns, "patterns")];

fn matching(criterion: &mut Criterion) {
    for (mix, name) in MIXES {
        let mut group = criterion.benchmark_group(format!("matcher, {name}"));
        for subscriptions in [100, 10_000, 1_000_000] {
            let scale = Scale::new(mix, subscriptions);
            let mut matcher = matcher(&scale.wants());
            let mut out = Vec::new();
            for (kind, count) in [("hot", 1000), ("random", 65_536)] {
                let events = events(&scale, count);
                let mut next = events.iter().cycle();
                group.bench_function(format!("{kind}, {subscriptions}"), |bencher| {
                    bencher.iter(|| {
                        let event = next.next().expect("a cycle");
                        // The event already has its values' hashes. This adds the cost of computing them from strings.
                        black_box((value_hash(event.event_type()), event.stream().map(value_hash)));
                        matcher.matches(event, &mut out);
                        black_box(out.len())
                    });
                });
            }
        }
        group.finish();
    }
}

fn others(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("others, exact");
    for subscriptions in [100, 10_000] {
        let scale = Scale::new(Mix::Exact, subscriptions);
        let filters: Vec<Filter> = scale.wants().iter().map(filter).collect();
        let pairs: HashMap<(String, String), usize> = scale
            .wants()
            .into_iter()
            .enumerate()
            .map(|(nth, want)| ((want.event_type, want.stream.unwrap_or_default()), nth))
            .collect();
        let events = events(&scale, 65_536);
        let mut next = events.iter().cycle();
        group.bench_function(format!("scan, {subscriptions}"), |bencher| {
            bencher.iter(|| {
                let event = next.next().expect("a cycle");
                filters.iter().filter(|filter| filter.matches(event)).count()
            });
        });
        let mut key = (String::new(), String::new());
        group.bench_function(format!("hash of pairs, {subscriptions}"), |bencher| {
            bencher.iter(|| {
                let event = next.next().expect("a cycle");
                key.0.clear();
                key.0.push_str(event.event_type());
                key.1.clear();
                key.1.push_str(event.stream().unwrap_or_default());
                pairs.get(&key).copied()
            });
        });
    }
    group.finish();
}

fn changing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matcher, changes");
    for (mix, name) in MIXES {
        let scale = Scale::new(mix, 1_000_000);
        let mut matcher = matcher(&scale.wants());
        let mut nth = 0;
        group.bench_function(format!("add and remove at 1000000, {name}"), |bencher| {
            bencher.iter_batched_ref(
                || {
                    nth += 1;
                    Filter::new().types(["kind1.step1"]).streams([format!("stream-x{nth}")])
                },
                |filter| {
                    let class = matcher.insert(filter);
                    matcher.remove(class)
                },
                BatchSize::SmallInput,
            );
        });
        let filters: Vec<Filter> = (0..10_000)
            .map(|n| Filter::new().types(["kind1.step1"]).streams([format!("stream-y{n}")]))
            .collect();
        group.sample_size(10);
        group.bench_function(format!("10,000 clients come and go at 1000000, {name}"), |bencher| {
            bencher.iter(|| {
                let classes: Vec<_> = filters.iter().map(|filter| matcher.insert(filter)).collect();
                classes.into_iter().filter(|&class| matcher.remove(class)).count()
            });
        });
    }
    group.finish();
}

/// Filters designed to be expensive: every combination of attributes, and thousands of patterns that all match.
fn adversary(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matcher, adversary");
    let words = ["a", "*", "**"];
    let full = |nth: usize| {
        Attribute::ALL
            .into_iter()
            .skip(1)
            .fold(Event::builder("a.b.c.d.e.f").stream(&format!("s{nth}")), |builder, attribute| {
                builder.attribute(attribute, &format!("value{}", (nth >> 3) % 4))
            })
    };
    let events: Vec<Event> = (0..65_536).map(|nth| full(nth).build().expect("valid")).collect();
    let quiet: Vec<Event> = (0..65_536)
        .map(|nth| Event::builder("quiet").stream(&format!("s{nth}")).build().expect("valid"))
        .collect();
    let shapes: Vec<Filter> = (0u32..256)
        .map(|mask| {
            Attribute::ALL.into_iter().filter(|attribute| mask >> (*attribute as u8) & 1 == 1).fold(
                Filter::new(),
                |filter, attribute| {
                    let value = if attribute == Attribute::Type { "a.b.c.d.e.f" } else { "value1" };
                    filter.any_of(attribute, [value])
                },
            )
        })
        .collect();
    // Returns all patterns of six segments, each the value's own, `*`, or (at most two) `**`.
    let patterns: Vec<Filter> = (0..3usize.pow(6))
        .filter_map(|mut code| {
            let mut many = 0;
            let segments: Vec<&str> = ["a", "b", "c", "d", "e", "f"]
                .into_iter()
                .map(|own| {
                    let word = words[code % 3];
                    code /= 3;
                    many += usize::from(word == "**");
                    if word == "a" { own } else { word }
                })
                .collect();
            (many <= 2).then(|| Filter::new().types([segments.join(".")]))
        })
        .collect();
    // Patterns with prefixes that all match, and suffixes that never match.
    let mut ends = Vec::new();
    for nth in 0..5000 {
        ends.push(Filter::new().types([format!("**.b.**.x{nth}")]));
        ends.push(Filter::new().types([format!("a.*.c.**.y{nth}.z")]));
    }
    for (name, filters) in [
        ("none", Vec::new()),
        ("256 shapes", shapes),
        ("496 patterns that match", patterns),
        ("10,000 patterns", ends),
    ] {
        let mut matcher = matcher(&Scale::new(Mix::Exact, 10_000).wants());
        for filter in &filters {
            matcher.insert(filter);
        }
        let mut out = Vec::new();
        for (kind, events) in [("its events", &events), ("others' events", &quiet)] {
            let mut next = events.iter().cycle();
            group.bench_function(format!("{name} ({}), {kind}", filters.len()), |bencher| {
                bencher.iter(|| {
                    matcher.matches(next.next().expect("a cycle"), &mut out);
                    black_box(out.len())
                });
            });
        }
    }
    group.finish();
}

/// One class of subscribers, for any number of them.
fn dashboards(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matcher, equal dashboards");
    for holders in [1, 1000, 100_000] {
        let mut matcher = Matcher::new(FilterLimits::default());
        let filter = Filter::new().types(["kind1.*", "kind2.*"]).sources(["core"]);
        for _ in 0..holders {
            matcher.insert(&filter);
        }
        let event = Event::builder("kind2.step3").source("core").build().expect("valid");
        let mut out = Vec::new();
        group.bench_function(format!("{holders} holders"), |bencher| {
            bencher.iter(|| {
                matcher.matches(&event, &mut out);
                black_box(out.len())
            });
        });
    }
    group.finish();
}

/// Conditions on the payload, compared with the same filters without them.
fn payloads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matcher, payloads");
    let payload = r#"{"message":"reading the sources, sixteen of them so far","progress":10,"user":"u7","of":{"id":"t-1"}}"#;
    let event = Event::builder("task.progress").stream("s7").json(payload).build().expect("valid");
    type Texts = fn(usize) -> String;
    let mixes: [(&str, Texts); 5] = [
        ("a stream each, without", |n| format!("type=task.* stream=s{n}")),
        ("a stream each, and a bound", |n| format!("type=task.* stream=s{n} payload.progress>=5")),
        ("a value each", |n| format!("type=task.* payload.user==u{n}")),
        ("a bound each", |n| format!("type=task.* payload.progress>={}", n + 1)),
        ("a field each", |n| format!("type=task.* payload.f{n} exists")),
    ];
    for (name, text) in mixes {
        for count in [1, 1000, 100_000] {
            let mut matcher = Matcher::new(FilterLimits::default());
            for n in 0..count {
                matcher.insert(&text(n).parse().expect("valid"));
            }
            let mut out = Vec::new();
            group.bench_function(format!("{name}, {count}"), |bencher| {
                bencher.iter(|| {
                    matcher.matches(&event, &mut out);
                    black_box(out.len())
                });
            });
        }
    }
    group.finish();
}

fn filters(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("filter");
    let text = "type=task.*,agent.** source=core payload.progress >= 50";
    let filter: Filter = text.parse().expect("valid");
    let event = Event::builder("task.progress")
        .source("core")
        .json(r#"{"message":"reading the sources, sixteen of them so far","progress":72,"of":{"id":"t-1"}}"#)
        .build()
        .expect("valid");
    assert!(filter.matches(&event), "measured on a match");
    group.bench_function("parse", |bencher| bencher.iter(|| black_box(text).parse::<Filter>()));
    group.bench_function("print", |bencher| bencher.iter(|| filter.to_string()));
    group.bench_function("matches, with a payload comparison", |bencher| {
        bencher.iter(|| filter.matches(&event));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2))
        .sample_size(30);
    targets = matching, others, dashboards, changing, adversary, payloads, filters
}
criterion_main!(benches);

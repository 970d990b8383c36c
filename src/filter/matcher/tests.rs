//! The matcher against the definition.

use proptest::prelude::*;

use super::*;

fn matched(matcher: &mut Matcher, event: &Event) -> Vec<ClassId> {
    let mut out = Vec::new();
    matcher.matches(event, &mut out);
    out.sort_unstable();
    out
}

/// Every filter asked by itself.
fn naive(matcher: &Matcher, event: &Event) -> Vec<ClassId> {
    (0..matcher.classes.len() as u32)
        .map(ClassId)
        .filter(|&id| matcher.filter(id).is_some_and(|filter| filter.matches(event)))
        .collect()
}

/// Few and overlapping words, so that filters and events meet.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned),
        4 => prop::sample::select(vec!["a.b", "a.c", "b.a", "a:b", "a.b.c", "b.b.c", "a/b.c"])
            .prop_map(str::to_owned),
        1 => Just(String::from("a-long-value-that-lies-outside-of-the-table")),
    ]
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => word(),
        4 => prop::sample::select(vec![
            "*", "**", "a.*", "*.b", "a.**", "**.c", "a:*", "*.*", "*.b.*", "a.**.c", "**.b.**", "**.**", "b.*.c",
        ])
        .prop_map(str::to_owned),
        1 => Just(String::new()),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    let set = (0u8..10, prop::bool::weighted(0.2), prop::collection::vec((pattern(), pattern()), 1..4));
    let comparison = (
        prop::sample::select(vec!["n", "s", "n.x"]),
        prop::sample::select(super::super::Operator::ALL.to_vec()),
        0i64..4,
    );
    let one = (prop::collection::vec(set, 0..4), prop::option::weighted(0.2, comparison))
        .prop_map(|(sets, comparison)| {
            let mut filter = Filter::new();
            for (about, negated, values) in sets {
                filter = match (Attribute::ALL.get(usize::from(about)), negated) {
                    (Some(&attribute), false) => {
                        filter.any_of(attribute, values.iter().map(|value| &value.0))
                    }
                    (Some(&attribute), true) => {
                        filter.none_of(attribute, values.iter().map(|value| &value.0))
                    }
                    (None, false) => filter.entities(values),
                    (None, true) => filter.not_entities(values),
                };
            }
            match comparison {
                Some((path, operator, value)) => filter.payload(path, operator, [value]),
                None => filter,
            }
        })
        .boxed();
    prop_oneof![
        8 => one.clone(),
        1 => (one.clone(), one).prop_map(|(a, b)| a.and(&b)),
        1 => Just(Filter::nothing()),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let attributes = prop::collection::vec(prop::option::weighted(0.6, word()), Attribute::COUNT);
    (word(), attributes, 0i64..4).prop_map(|(event_type, attributes, n)| {
        let mut builder = Event::builder(&event_type);
        for (attribute, value) in Attribute::ALL.into_iter().zip(attributes).skip(1) {
            builder = builder.attribute(attribute, &value.unwrap_or_default());
        }
        builder.json(format!("{{\"n\":{n},\"s\":\"{n}\"}}")).build().expect("valid")
    })
}

#[derive(Clone, Debug)]
enum Act {
    Insert(Filter),
    Remove(prop::sample::Index),
    Ask(Event),
    AskAgain(prop::sample::Index),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => filter().prop_map(Act::Insert),
        2 => any::<prop::sample::Index>().prop_map(Act::Remove),
        3 => event().prop_map(Act::Ask),
        3 => any::<prop::sample::Index>().prop_map(Act::AskAgain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_matcher_says_what_every_filter_says(
        acts in prop::collection::vec(act(), 1..60),
        paths_max in prop::sample::select(vec![1usize, 4, 256]),
    ) {
        let mut matcher = Matcher::new(FilterLimits { paths_max, ..FilterLimits::default() });
        let mut held = Vec::new();
        let mut events = Vec::new();
        for act in acts {
            match act {
                Act::Insert(filter) => {
                    let id = matcher.insert(&filter);
                    prop_assert_eq!(matcher.filter(id), Some(&filter));
                    held.push(id);
                }
                Act::Remove(which) => {
                    if !held.is_empty() {
                        let id = held.swap_remove(which.index(held.len()));
                        prop_assert_eq!(matcher.remove(id), !held.contains(&id));
                    }
                }
                Act::Ask(event) => events.push(event),
                Act::AskAgain(which) => {
                    if !events.is_empty() {
                        let event = events[which.index(events.len())].clone();
                        events.push(event);
                    }
                }
            }
            // Every change is seen by events that were asked before it.
            for event in events.iter().rev().take(4) {
                let want = naive(&matcher, event);
                prop_assert_eq!(matched(&mut matcher, event), want);
            }
        }
        for id in held {
            matcher.remove(id);
        }
        let nothing = Matcher::new(FilterLimits::default()).stats();
        prop_assert_eq!(matcher.stats(), nothing, "what went left nothing");
    }

    #[test]
    fn the_text_of_a_filter_reads_back_as_the_filter(filter in filter()) {
        let text = filter.to_string();
        prop_assert_eq!(text.parse::<Filter>(), Ok(filter), "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused_and_any_string_is_a_value(text in ".{0,40}", value in "\\PC{0,12}|.{0,12}") {
        if let Ok(filter) = text.parse::<Filter>() {
            prop_assert_eq!(filter.to_string().parse::<Filter>(), Ok(filter));
        }
        let filter = Filter::new().entity(&value, &value).sources([&value]).payload("a", super::super::Operator::Equal, [value.as_str()]);
        let text = filter.to_string();
        prop_assert_eq!(Filter::parse(&text, &FilterLimits { double_wildcards_max: 99, ..FilterLimits::default() }), Ok(filter), "{}", text);
    }

    #[test]
    fn both_of_an_and_hold(a in filter(), b in filter(), event in event()) {
        prop_assert_eq!(a.and(&b).matches(&event), a.matches(&event) && b.matches(&event));
        prop_assert_eq!(a.and(&b), b.and(&a));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_program_that_the_matcher_survives(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        super::super::fuzz::fuzz_matcher(&bytes);
    }
}

/// A million in the ordinary run; ten million in release.
#[test]
fn streams_that_come_and_go_for_ever_leave_no_memory() {
    const WINDOW: usize = 1000;
    let streams = if cfg!(debug_assertions) { 100_000 } else { 10_000_000 };
    let mut matcher = Matcher::new(FilterLimits::default());
    let standing: Filter = "type=task.* source=core".parse().expect("valid");
    matcher.insert(&standing);
    let mut open = std::collections::VecDeque::new();
    let mut out = Vec::new();
    let mut early = 0;
    for nth in 0..streams {
        let stream = format!("stream-{nth}");
        let filter = if nth % 7 == 0 {
            Filter::new().types([format!("agent:{nth}:*")])
        } else {
            Filter::new().types(["task.done"]).streams([&stream])
        };
        open.push_back(matcher.insert(&filter));
        if open.len() > WINDOW {
            matcher.remove(open.pop_front().expect("a thousand"));
        }
        if nth % 16 == 0 {
            let event = Event::builder("task.done").stream(&stream).source("core").build().expect("valid");
            matcher.matches(&event, &mut out);
            assert_eq!(out.len(), if nth % 7 == 0 { 1 } else { 2 });
        }
        if nth == streams / 4 {
            early = matcher.memory_bytes() - matcher.memo.memory_bytes();
        }
    }
    // The memo has a bound of its own, and takes its time to reach it.
    let late = matcher.memory_bytes() - matcher.memo.memory_bytes();
    assert!(late <= early + early / 4, "{early} bytes after a quarter, {late} at the end");
    assert!(matcher.stats().symbols < WINDOW * 2 + 10, "{:?}", matcher.stats());
}

#[test]
fn a_memo_that_cannot_help_is_bypassed_and_comes_back() {
    let mut matcher = Matcher::new(FilterLimits::default());
    for nth in 0..40_000 {
        matcher.insert(&Filter::new().streams([format!("s{nth}")]));
    }
    let events: Vec<Event> = (0..40_000)
        .map(|nth| Event::builder("x").stream(&format!("s{nth}")).build().expect("valid"))
        .collect();
    let mut out = Vec::new();
    for _ in 0..8 {
        for (nth, event) in events.iter().enumerate() {
            matcher.matches(event, &mut out);
            assert_eq!(out, [ClassId(nth as u32)]);
        }
    }
    assert!(matcher.memo.is_bypassed(), "40,000 signatures in turn never come again in time");
    for nth in 0..400_000 {
        let event = &events[nth % 200];
        matcher.matches(event, &mut out);
        assert_eq!(out.len(), 1);
    }
    assert!(!matcher.memo.is_bypassed(), "200 do");
}

#[test]
fn wide_filters_are_matched_beyond_their_paths() {
    let names = |letter: &str| (0..100).map(|n| format!("{letter}{n}")).collect::<Vec<_>>();
    let wide = Filter::new().types(names("t")).streams(names("s")).sources(names("c"));
    let mut matcher = Matcher::new(FilterLimits::default());
    let class = matcher.insert(&wide);
    let event =
        |event_type: &str| Event::builder(event_type).stream("s7").source("c99").build().expect("valid");
    assert_eq!(matched(&mut matcher, &event("t50")), [class]);
    assert_eq!(matched(&mut matcher, &event("t100")), []);
    assert!(matcher.stats().symbols <= 256, "{:?}", matcher.stats());
    assert!(matcher.remove(class));
    assert!(!matcher.remove(class), "it went");
    assert_eq!(matched(&mut matcher, &event("t50")), []);
}

//! The matcher compared with the definition.

use proptest::prelude::*;

use super::*;
use crate::filter::Literal;
#[cfg(feature = "server")]
use crate::filter::limits::INSTRUCTIONS_A_WEIGHT;

fn matched(matcher: &mut Matcher, event: &Event) -> Vec<ClassId> {
    let mut out = Vec::new();
    matcher.matches(event, &mut out);
    out.sort_unstable();
    out
}

/// Matches as [`matched`] does, in the smallest steps.
fn matched_in_steps(matcher: &mut Matcher, event: &Event) -> Vec<ClassId> {
    let mut out = Vec::new();
    while !matcher.matches_within(event, &mut out, 1) {}
    out.sort_unstable();
    out
}

/// Evaluates every filter by itself.
fn naive(matcher: &Matcher, event: &Event) -> Vec<ClassId> {
    (0..matcher.classes.ids_max())
        .map(ClassId)
        .filter(|&id| matcher.filter(id).is_some_and(|filter| filter.matches(event)))
        .collect()
}

/// Few and overlapping words, so that filters often match events.
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
        prop::sample::select(PATHS.to_vec()),
        prop::sample::select(super::super::Operator::ALL.to_vec()),
        prop::collection::vec(literal(), 1..4),
    );
    // Several filters have the same conditions on attributes.
    let sets = prop_oneof![
        2 => prop::collection::vec(set, 0..4),
        1 => Just(Vec::new()),
        1 => Just(vec![(0, false, vec![("a".to_owned(), String::new())])]),
    ];
    let comparisons = prop_oneof![2 => Just(Vec::new()), 2 => prop::collection::vec(comparison, 1..4)];
    let one = (sets, comparisons)
        .prop_map(|(sets, comparisons)| {
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
            comparisons
                .into_iter()
                .fold(filter, |filter, (path, operator, values)| filter.payload(path, operator, values))
        })
        .boxed();
    prop_oneof![
        8 => one.clone(),
        1 => (one.clone(), one).prop_map(|(a, b)| a.and(&b)),
        1 => Just(Filter::nothing()),
    ]
}

const PATHS: [&str; 10] = ["n", "s", "n.x", "n.0", "n.x.y", "n.n.n", "", "s.1", "é", "x"];

fn literal() -> impl Strategy<Value = Literal> {
    let floats = vec![0.5, 1.0, 1.5, -0.0, 1e30, 9_007_199_254_740_992.0];
    let integers = vec![9_007_199_254_740_992_i64, 9_007_199_254_740_993, -1];
    prop_oneof![
        4 => (0i64..4).prop_map(Literal::from),
        1 => prop::sample::select(floats).prop_map(Literal::from),
        1 => prop::sample::select(integers).prop_map(Literal::from),
        2 => prop::sample::select(vec!["0", "1", "a", "a\"b", "é", ""]).prop_map(Literal::from),
        1 => any::<bool>().prop_map(Literal::from),
        1 => Just(Literal::Null),
    ]
}

/// JSON with few keys, so that paths lead somewhere, and with repeated keys.
fn json() -> impl Strategy<Value = String> {
    let numbers = vec![
        "0.5",
        "1.0",
        "1e0",
        "10e-1",
        "-0",
        "-0.0",
        "1e30",
        "1000000000000000000000000000000",
        "-1",
        "1.5",
        "9007199254740992",
        "9007199254740993",
        "9007199254740992.0",
        "1e999",
        "123456789012345678901234567890123456789",
    ];
    let texts =
        vec![r#""0""#, r#""1""#, r#""a""#, r#""\u0061""#, r#""a\"b""#, r#""\u00e9""#, r#""\ud83d""#, r#""""#];
    let leaf = prop_oneof![
        4 => (0i64..4).prop_map(|n| n.to_string()),
        3 => prop::sample::select(numbers).prop_map(str::to_owned),
        3 => prop::sample::select(texts).prop_map(str::to_owned),
        2 => prop::sample::select(vec!["true", "false", "null", "{}", "[]"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key = prop::sample::select(vec!["n", "s", "x", "y", r"\u006e", "é", r"\u00e9", "0"]);
        let object = prop::collection::vec((key, inner.clone()), 0..5).prop_map(|members| {
            let members: Vec<String> =
                members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            format!("{{{}}}", members.join(","))
        });
        let array = prop::collection::vec(inner, 0..3).prop_map(|items| format!("[{}]", items.join(",")));
        prop_oneof![3 => object, 1 => array]
    })
}

fn event() -> impl Strategy<Value = Event> {
    let attributes = prop::collection::vec(prop::option::weighted(0.6, word()), Attribute::COUNT);
    let plain = (0i64..4).prop_map(|n| format!("{{\"n\":{n},\"s\":\"{n}\"}}"));
    let payload = prop_oneof![1 => plain, 2 => json()];
    (word(), attributes, payload).prop_map(|(event_type, attributes, payload)| {
        let mut builder = Event::builder(&event_type);
        for (attribute, value) in Attribute::ALL.into_iter().zip(attributes).skip(1) {
            builder = builder.attribute(attribute, &value.unwrap_or_default());
        }
        builder.json(payload).build().expect("valid")
    })
}

#[derive(Clone, Debug)]
enum Act {
    Insert(Filter),
    Remove(prop::sample::Index),
    /// Replaces the values of a list of a held filter.
    Edit(prop::sample::Index, u8, Vec<(String, String)>),
    Ask(Event),
    AskAgain(prop::sample::Index),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => filter().prop_map(Act::Insert),
        2 => any::<prop::sample::Index>().prop_map(Act::Remove),
        2 => (any::<prop::sample::Index>(), 0u8..9, prop::collection::vec((pattern(), pattern()), 1..5))
            .prop_map(|(which, about, values)| Act::Edit(which, about, values)),
        3 => event().prop_map(Act::Ask),
        3 => any::<prop::sample::Index>().prop_map(Act::AskAgain),
    ]
}

/// Returns the members of a list in their order, encoded.
#[cfg(feature = "server")]
fn encoded_list(about: u8, values: &[(String, String)]) -> Vec<u8> {
    let second = |value: &String| (about == crate::filter::ENTITY).then(|| value.as_str().into());
    let mut members: Vec<crate::filter::MemberPatterns> =
        values.iter().map(|(one, other)| (one.as_str().into(), second(other))).collect();
    members.sort_unstable();
    members.dedup();
    crate::filter::encoded(&members)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_matcher_agrees_with_every_filter(
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
                // Only the server edits lists.
                #[cfg(not(feature = "server"))]
                Act::Edit(which, about, values) => drop((which, about, values)),
                #[cfg(feature = "server")]
                Act::Edit(which, about, values) => {
                    let Some(id) = held.get(which.index(held.len().max(1))).copied() else { continue };
                    let from = matcher.filter(id).expect("held").clone();
                    if from.list(about).is_some() {
                        let to = from.with_list(about, &encoded_list(about, &values));
                        let is_only = held.iter().filter(|other| **other == id).count() == 1;
                        let is_new = matcher.class_of(&to).is_none();
                        if matcher.edit(&from, &to) {
                            prop_assert!(is_only && is_new);
                            prop_assert_eq!(matcher.filter(id), Some(&to));
                            prop_assert_eq!((matcher.class_of(&from), matcher.class_of(&to)), (None, Some(id)));
                        }
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
            // Every change is seen by events that were matched before it.
            for event in events.iter().rev().take(4) {
                let want = naive(&matcher, event);
                prop_assert_eq!(&matched(&mut matcher, event), &want);
                prop_assert_eq!(matched_in_steps(&mut matcher, event), want.clone());
                // Without the index, where a look-up would take too long.
                matcher.visits_max = 0;
                prop_assert_eq!(matched(&mut matcher, event), want.clone());
                matcher.visits_max = VISITS_MAX;
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
    // The memo has a bound of its own and reaches it slowly, so it is not counted.
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

fn parsed(text: impl AsRef<str>) -> Filter {
    text.as_ref().parse().expect("valid")
}

/// Returns the counted work for one event, in approximate instructions.
fn work(matcher: &mut Matcher, event: &Event) -> u64 {
    let before = matcher.payloads.worked();
    matched(matcher, event);
    matcher.payloads.worked() - before
}

#[test]
fn conditions_share_one_walk_and_are_found_by_the_values_of_the_event() {
    let long = "x".repeat(60_000);
    let event =
        Event::builder("task.progress").stream("s").json(format!(r#"{{"pad":"{long}","user":"u7","n":5}}"#));
    let event = event.build().expect("valid");
    let mut matcher = Matcher::new(FilterLimits::default());
    matcher.insert(&parsed("type=other payload.n>=5"));
    assert_eq!(work(&mut matcher, &event), 0, "an event whose attributes nobody wants is not looked into");
    let one = matcher.insert(&parsed("type=task.* payload.n>=5"));
    let of_one = work(&mut matcher, &event);
    for n in 0..10_000 {
        matcher.insert(&parsed(format!("type=task.* payload.user==u{n} payload.n>=0")));
        matcher.insert(&parsed(format!("type=task.* payload.n>={}", n + 6)));
        matcher.insert(&parsed(format!("type=task.* payload.f{n}>=1")));
        matcher.insert(&parsed(format!("stream=t{n} payload.n>=1")));
    }
    assert_eq!(matched(&mut matcher, &event).len(), 2);
    assert!(matcher.class_of(&parsed("type=task.* payload.n>=5")) == Some(one));
    let of_all = work(&mut matcher, &event);
    assert!(of_all < of_one + 5_000, "{of_all} beside 40,000 more, {of_one} of one");
}

#[test]
fn ten_thousand_conditions_on_one_event_cost_less_than_a_turn() {
    let event = Event::builder("task.progress").json(r#"{"n":5,"user":"u7"}"#).build().expect("valid");
    // Every anchor points at the event, and none of the filters matches it.
    for (anchor, other) in [
        ("payload.n<=", "payload.n>="),
        ("payload.n<=", "payload.user!=u7,x"),
        ("payload.user!=x", "payload.user!=u7,y"),
        ("payload.n exists source!=", "payload.n>"),
    ] {
        let mut matcher = Matcher::new(FilterLimits::default());
        for n in 5..5_005 {
            matcher.insert(&parsed(format!("{anchor}{n} {other}{}", n + 1)));
        }
        assert_eq!(matched(&mut matcher, &event), []);
        let work = work(&mut matcher, &event);
        assert!(work < 3_000_000, "{anchor} {other}: {work}");
    }
}

#[cfg(feature = "server")]
#[test]
fn a_filter_that_changes_makes_an_unfinished_match_begin_again_once() {
    let payload = format!(r#"{{"a":[{}1],"n":5}}"#, "0,".repeat(1_000));
    let event = Event::builder("a.b").json(payload).build().expect("valid");
    let mut matcher = Matcher::new(FilterLimits::default());
    matcher.insert(&parsed("payload.n==5"));
    let gone = matcher.insert(&parsed("payload.a.1000==1 type!=*.c"));
    let mut out = Vec::new();
    for _ in 0..10 {
        assert!(!matcher.matches_within(&event, &mut out, 1_000));
    }
    matcher.insert(&parsed("payload.n!=6"));
    matcher.remove(gone);
    assert!(matcher.matches_within(&event, &mut out, 1_000), "no change holds it up again");
    out.sort_unstable();
    assert_eq!(out, naive(&matcher, &event));
    assert!(!matcher.is_matching());
    // The next event is divided again, and one that is given up leaves nothing for another.
    assert!(!matcher.matches_within(&event, &mut out, 1_000));
    matcher.give_up();
    let other = Event::builder("a.b").json(r#"{"n":7}"#).build().expect("valid");
    assert!(matcher.matches_within(&other, &mut out, 1_000_000));
    assert_eq!(out, naive(&matcher, &other));
}

/// Returns the work of one match, and of its longest step.
#[cfg(feature = "server")]
fn work_in_steps(matcher: &mut Matcher, event: &Event, out: &mut Vec<ClassId>) -> (u64, u64) {
    const STEP: u64 = 100_000;
    let (begun, mut longest) = (matcher.worked(), 0);
    loop {
        let before = matcher.worked();
        let is_over = matcher.matches_within(event, out, STEP);
        longest = longest.max(matcher.worked() - before);
        if is_over {
            return (matcher.worked() - begun, longest);
        }
    }
}

/// Hundreds of patterns that all continue with each segment of a value. In one step this visited 6 million nodes.
#[cfg(feature = "server")]
#[test]
fn patterns_that_all_lead_on_are_tried_in_steps() {
    let mut matcher = Matcher::new(FilterLimits::default());
    let mut dice = 3u64;
    for _ in 0..700 {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let segments = (0..28).map(|at| if dice >> (20 + at) & 1 == 0 { "b" } else { "*" });
        let pattern = format!("**.{}.x", segments.collect::<Vec<_>>().join("."));
        matcher.insert(&parsed(format!("type={pattern}")));
    }
    let few = matcher.insert(&parsed("type=b.**"));
    let event = Event::builder(&("b.".repeat(510) + "b")).build().expect("valid");
    let mut out = Vec::new();
    let (all, longest) = work_in_steps(&mut matcher, &event, &mut out);
    assert_eq!(out, [few]);
    assert!(longest < 1_300_000, "{longest}");
    let weight: u64 = (0..700).map(|_| 16 + 29).sum();
    assert!(all < weight * INSTRUCTIONS_A_WEIGHT, "{all}");
    // Ordinary values cost as little as before.
    let event = Event::builder("b.c").build().expect("valid");
    let (all, _) = work_in_steps(&mut matcher, &event, &mut out);
    assert_eq!(out, [few]);
    assert!(all < 100_000, "{all}");
}

/// The limit on a client's weight also bounds the cost of an event for it.
#[cfg(feature = "server")]
#[test]
fn the_cost_of_an_event_is_bounded_by_the_filters_weight() {
    let deep = |n: usize| format!("**.{}x{n}.**", "b.".repeat(28));
    let letters = |n: usize| {
        let of = |at: usize| char::from(b'a' + ((at * 7 + n) % 26) as u8).to_string();
        format!("**.{}.y", (0..29).map(of).collect::<Vec<_>>().join("."))
    };
    let stars = |n: usize| format!("**.{}x{n}", "*.a.".repeat(14));
    let kinds: [&dyn Fn(usize) -> String; 9] = [
        &|n| format!("type!={}", deep(n)),
        &|n| format!("type!={}", letters(n)),
        &|n| format!("type!={}", stars(n)),
        &|n| format!("type!=**.x{n}"),
        &|n| format!("type!=*.x{n}"),
        &|n| format!("type!=x{n}"),
        &|n| format!("type!=**.**.x{n}"),
        &|n| format!("type=* payload.a!={}", "9".repeat(900) + &n.to_string()),
        &|n| format!("payload.a!=\"{}{n}\"", "x".repeat(900)),
    ];
    let of_letters = |at: usize| char::from(b'a' + (at * 7 % 26) as u8).to_string();
    let types = [
        "b.".repeat(511) + "b",
        "a.".repeat(511) + "a",
        (0..512).map(of_letters).collect::<Vec<_>>().join("."),
        ".".repeat(1_024),
        "b".repeat(1_024),
    ];
    let payloads = [format!(r#"{{"a":{}}}"#, "9".repeat(900)), format!(r#"{{"a":"{}"}}"#, "x".repeat(900))];
    for kind in kinds {
        let mut matcher = Matcher::new(FilterLimits::default());
        let mut weight = 0;
        for n in 0..100 {
            let filter = parsed(kind(n));
            weight += u64::from(filter.weight());
            matcher.insert(&filter);
        }
        let mut out = Vec::new();
        for event_type in &types {
            for payload in &payloads {
                let event = Event::builder(event_type).json(payload).build().expect("valid");
                let (all, longest) = work_in_steps(&mut matcher, &event, &mut out);
                // The payload is read once, regardless of the number of filters.
                let most = weight * INSTRUCTIONS_A_WEIGHT + 200_000;
                assert!(all <= most, "{}: {all} for a weight of {weight}", kind(0));
                assert!(longest <= 500_000, "{}: {longest}", kind(0));
            }
        }
    }
}

#[test]
fn a_change_of_members_leaves_no_state() {
    let mut matcher = Matcher::new(FilterLimits::default());
    let empty = matcher.stats();
    let event = Event::builder("a").json(r#"{"n":{"x":[1,{"y":"z"}]},"m":1.0}"#).build().expect("valid");
    let texts = [
        "type=a payload.n.x.0==1",
        "type=a payload.n.x.1.y==z payload.m>=1",
        "payload.m==1,2,1.0",
        "payload.n exists",
        "type=* source!=b payload.m<=1",
        "type=a,b payload.k!=1",
        "type=a payload.n.x.0==1,2 payload.m<2",
    ];
    for round in 0..50 {
        let mut classes: Vec<ClassId> = texts.iter().map(|text| matcher.insert(&parsed(text))).collect();
        assert_eq!(matched(&mut matcher, &event).len(), texts.len(), "round {round}");
        let nth = round % texts.len();
        classes.rotate_left(nth);
        for (gone, class) in classes.iter().enumerate() {
            assert!(matcher.remove(*class));
            assert_eq!(matched(&mut matcher, &event).len(), texts.len() - gone - 1);
        }
        assert_eq!(matcher.stats(), empty);
    }
}

#[cfg(feature = "server")]
#[test]
fn a_long_list_is_edited_in_place() {
    let mut matcher = Matcher::new(FilterLimits::default());
    let empty = matcher.stats();
    let list = |numbers: std::ops::Range<u32>| {
        Filter::new().types(["quote.*"]).entities(numbers.map(|n| ("symbol", format!("S{n}"))))
    };
    let quote =
        |n: u32| Event::builder("quote.new").entity("symbol", &format!("S{n}")).build().expect("valid");
    let class = matcher.insert(&list(0..200));
    for n in 0..500 {
        assert!(matcher.edit(&list(n..n + 200), &list(n + 1..n + 201)), "{n}");
        assert_eq!(matched(&mut matcher, &quote(n)), [], "{n} is removed");
        assert_eq!(matched(&mut matcher, &quote(n + 1)), [class]);
        assert_eq!(matched(&mut matcher, &quote(n + 200)), [class], "{n} and 200 is added");
    }
    assert!(!matcher.edit(&list(0..200), &list(1..201)), "no class has that filter");
    assert!(!matcher.edit(&list(500..700), &list(500..501)), "a list of one value has another posting");
    let other = matcher.insert(&list(501..701));
    assert!(!matcher.edit(&list(500..700), &list(501..701)), "another class has that filter");
    assert!(matcher.remove(other));
    matcher.hold(class);
    assert!(!matcher.edit(&list(500..700), &list(501..701)), "two hold it");
    assert!(!matcher.remove(class) && matcher.remove(class));
    assert_eq!(matcher.stats(), empty);
}

#[test]
fn turn_numbers_that_restart_forget_found_values() {
    let mut matcher = Matcher::new(FilterLimits::default());
    let class = matcher.insert(&parsed("type=a,b source=c,d payload.n>=5"));
    let event = |n: u64| {
        let builder = Event::builder("a").source("c").json(format!(r#"{{"n":{n}}}"#));
        builder.build().expect("valid")
    };
    matcher.turn = u32::MAX - 3;
    for n in 0..8 {
        let want: &[ClassId] = if n % 2 == 0 { &[] } else { &[class] };
        assert_eq!(matched(&mut matcher, &event(if n % 2 == 0 { 4 } else { 5 })), want, "{n}");
    }
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

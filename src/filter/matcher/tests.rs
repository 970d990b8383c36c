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

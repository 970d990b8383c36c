//! The filter as a whole: meaning, canonical form, text form.

use super::*;
use crate::event::{Attribute, Event};

fn event(event_type: &str) -> crate::event::EventBuilder {
    Event::builder(event_type)
}

fn parsed(text: &str) -> Filter {
    text.parse().unwrap_or_else(|error: FilterError| panic!("{}", error.caret()))
}

#[test]
fn every_condition_must_hold_and_any_value_of_one() {
    let filter = parsed("type=task.*,alert source=core payload.progress >= 50");
    for (event, want) in [
        (event("task.done").source("core").json(r#"{"progress":50}"#), true),
        (event("alert").source("core").json(r#"{"progress":50.5}"#), true),
        (event("task.done").source("core").json(r#"{"progress":49}"#), false),
        (event("task.done").source("core"), false),
        (event("task.done").json(r#"{"progress":50}"#), false),
        (event("tasks").source("core").json(r#"{"progress":50}"#), false),
    ] {
        let event = event.build().expect("valid");
        assert_eq!(filter.matches(&event), want, "{event:?}");
    }
    assert!(Filter::new().matches(&event("x").build().expect("valid")));
    assert!(!Filter::nothing().matches(&event("x").build().expect("valid")));
}

#[test]
fn an_entity_matches_by_the_pair() {
    let filter = Filter::new().entity("task", "*").entity("agent", "a1");
    for (kind, id, want) in [
        ("task", "t1", true),
        ("agent", "a1", true),
        ("agent", "t1", false),
        ("x", "a1", false),
        ("task", "", false),
    ] {
        assert_eq!(filter.matches(&event("x").entity(kind, id).build().expect("valid")), want, "{kind}:{id}");
    }
    assert_eq!(filter, parsed("entity=agent:a1,task:*"));
}

#[test]
fn absent_attributes_match_no_wildcard_and_no_negated_set() {
    let bare = event("x").build().expect("valid");
    for (text, want) in [
        ("source=**", false),
        ("source=*", false),
        ("source=\"\"", true),
        ("source!=core", true),
        ("source!=**", true),
        ("source!=\"\"", false),
        ("entity=*:*", false),
        ("entity!=*:*", true),
    ] {
        assert_eq!(parsed(text).matches(&bare), want, "{text}");
    }
}

#[test]
fn filters_with_one_meaning_are_equal() {
    let a = Filter::new().types(["b", "a", "b"]).sources(["s"]);
    let b = Filter::new().sources(["s"]).types(["a"]).types(["b"]);
    assert_eq!(a, b);
    assert_eq!(a, parsed("source=s type=b type=a,a"));
    assert_eq!(Filter::new().types(Vec::<String>::new()), Filter::new());
    assert_eq!(Filter::new().any_of(Attribute::Type, [Pattern::exact("a")]), Filter::new().types(["a"]));
    assert_eq!(parsed("type=a & nothing"), Filter::nothing());
    assert_eq!(parsed("source!=a & source!=b"), parsed("source!=b,a"));
    assert_eq!(parsed(""), Filter::new());
}

#[test]
fn both_filters_of_an_and_hold() {
    let both = parsed("type=task.*,agent.x").and(&parsed("type=*.x,*.y source=s"));
    assert_eq!(both.to_string().parse(), Ok(both.clone()));
    for (event_type, want) in [("task.x", true), ("agent.x", true), ("agent.y", false), ("task.z", false)] {
        assert_eq!(
            both.matches(&event(event_type).source("s").build().expect("valid")),
            want,
            "{event_type}"
        );
    }
    assert_eq!(Filter::new().and(&both), both);
    assert_eq!(both.and(&Filter::nothing()), Filter::nothing());
}

#[test]
fn the_text_is_canonical() {
    for (text, want) in [
        ("source = core , edge  type= a", "type=a source=core,edge"),
        ("type=='a.*','b' type=c.*", "type=b,c.* type==a.*"),
        ("entity=\"a:b\" entity='a:b':c", "entity=a:b,\"a:b\":c"),
        ("entity=task:a:b", "entity=task:a:b"),
        ("payload.\"a.b\".0 = x,1,true,null,\"1\"", "payload.\"a.b\".0 == null,true,1,\"1\",\"x\""),
        ("payload.a exists payload.b !exists", "payload.a exists payload.b !exists"),
        ("event_type!=a stream_id=x", "type!=a stream=x"),
        ("type=a & type=*", "type=a"),
        ("type=*.a & type=b.*,c", "type=c,b.* & type=*.a"),
        ("type=\"a b\",'\\u00e9\\ud83d\\ude00'", "type=\"a b\",é😀"),
        ("payload exists", "payload exists"),
    ] {
        assert_eq!(parsed(text).to_string(), want, "{text}");
        assert_eq!(parsed(want), parsed(text), "{text}");
    }
}

#[test]
fn errors_point_at_the_column() {
    for (text, column, kind) in [
        ("typ=a", 1, "unknown attribute \"typ\""),
        ("type=a  sorce=b", 9, "unknown attribute"),
        ("type", 5, "expected an operator"),
        ("type=", 6, "expected a value"),
        ("type=a,", 8, "expected a value"),
        ("type=\"a", 6, "no end"),
        ("type=\"a\\x\"", 8, "escape"),
        ("type=\"a\"b", 9, "unexpected 'b'"),
        ("type>a", 5, "payload fields only"),
        ("type=a)", 7, "unexpected ')'"),
        ("é=a", 1, "expected an attribute"),
        ("type=é =", 8, "unexpected '='"),
        ("entity=task", 8, "kind:id"),
        ("payload. > 1", 9, "expected a key"),
        ("payload.a ~ 1", 11, "expected an operator"),
        ("payload.a >", 12, "expected a value"),
    ] {
        let error = text.parse::<Filter>().expect_err(text);
        assert_eq!(error.column(), column, "{text}: {error}");
        assert!(error.to_string().contains(kind), "{text}: {error}");
    }
    assert_eq!(
        "type=a sorce=b".parse::<Filter>().expect_err("misspelt").caret().lines().skip(1).collect::<Vec<_>>(),
        ["  type=a sorce=b", "         ^"]
    );
}

#[test]
fn filters_over_a_limit_are_refused_with_its_name() {
    let limits =
        FilterLimits { values_max: 3, value_bytes_max: 8, segments_max: 3, ..FilterLimits::default() };
    for (filter, want) in [
        (Filter::new().types(["a", "b"]).sources(["c", "d"]), "4 values is over the limit of 3"),
        (Filter::new().types(["123456789"]), "9 bytes is over the limit of 8"),
        (Filter::new().types(["a.*.b.c"]), "4 segments is over the limit of 3"),
        (Filter::new().types(["a.b.c.d"]), ""),
    ] {
        let text = filter.check(&limits).map_or_else(|error| error.to_string(), |()| String::new());
        assert!(text.contains(want) && text.is_empty() == want.is_empty(), "{filter}: {text}");
    }
    let error = Filter::parse("source=a type=b,*.*.*.*", &limits).expect_err("four segments");
    assert_eq!(error.column(), 17);
    assert!("payload.a exists ".repeat(17).parse::<Filter>().is_ok(), "equal conditions are one");
}

#[test]
fn an_expensive_join_is_refused_before_it_is_made() {
    // 12 kB of text took 120 ms.
    let pad = "b.".repeat(14);
    let join = |values: Vec<String>| values.join(",");
    let values = join((0..128).map(|n| format!("{pad}{n}.{pad}c")).collect());
    let patterns = join((0..127).map(|n| format!("**.{pad}**.{n}x")).collect());
    let error = format!("type={values} & type={patterns}").parse::<Filter>().expect_err("too much");
    assert_eq!(error.kind(), &FilterErrorKind::TooMuchToJoin);
    #[cfg(feature = "server")]
    assert!(parsed(&format!("type={values}")).try_and(&parsed(&format!("type={patterns}"))).is_err());
    // The filters that people write are far below the limit.
    let many = join((0..128).map(|n| format!("task.step{n}.done")).collect());
    assert!(format!("type={many} & type=task.**,*.*.done,task.step1*.done").parse::<Filter>().is_ok());
    assert!(format!("type={many} & type={many}").parse::<Filter>().is_ok());
}

#[test]
fn values_are_listed_as_they_are_wanted() {
    let filter = parsed("type=b,a.* source!=x entity=k:i");
    assert_eq!(filter.values(Attribute::Type).collect::<Vec<_>>(), ["b", "a.*"]);
    assert_eq!(filter.not_values(Attribute::Source).collect::<Vec<_>>(), ["x"]);
    assert_eq!(filter.entity_values().collect::<Vec<_>>(), [("k", "i")]);
    assert_eq!(filter.values(Attribute::Channel).count(), 0);
}

/// A list of symbols took a byte for each symbol's length, 100 of 500.
#[test]
fn values_of_equal_length_that_follow_each_other_have_one_length() {
    let symbols =
        |range: std::ops::Range<u32>| Filter::new().entities(range.map(|n| ("symbol", format!("S{n:03}"))));
    // Tag and length of the clause, the kind with its length, the number and the length of the ids.
    assert_eq!(symbols(0..100).bytes().len(), 3 + 7 + 3 + 100 * 4);
    let mixed = Filter::new().channels((0..300).map(|n| n.to_string()));
    assert!(mixed.bytes().len() < 790 + 300 / 2, "{}", mixed.bytes().len());
    for filter in [symbols(0..100), symbols(0..2), mixed] {
        assert_eq!(Filter::from_parts(encoding::decode(filter.bytes())), filter);
    }
}

//! The matcher driven by bytes, against the definition. Only under `cfg(fuzzing)` and in tests.

use super::{ClassId, Filter, FilterLimits, Matcher, Operator};
use crate::event::{Attribute, Event};

/// Reads a program from the bytes.
struct Program<'a> {
    rest: &'a [u8],
}

const WORDS: [&str; 20] = [
    "a",
    "b",
    "a.b",
    "a:b",
    "a.b.c",
    "b.b.c",
    "a/b.c",
    "*",
    "**",
    "a.*",
    "*.b",
    "a.**",
    "**.c",
    "*.*",
    "a.**.c",
    "**.b.**",
    "**.**",
    "b.*.c",
    "",
    "a-long-value-that-lies-outside-of-the-table",
];
/// The words before this have no wildcard.
const PLAIN: u8 = 7;

impl Program<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    fn word(&mut self) -> Option<&'static str> {
        Some(WORDS[usize::from(self.byte()?) % WORDS.len()])
    }

    fn filter(&mut self) -> Option<Filter> {
        let mut filter = Filter::new();
        for _ in 0..self.byte()? % 4 {
            let about = self.byte()?;
            let count = self.byte()? % 3 + 1;
            let words: Vec<&str> = (0..count).map_while(|_| self.word()).collect();
            filter = match Attribute::ALL.get(usize::from(about & 15)) {
                Some(&attribute) if about & 0x80 == 0 => filter.any_of(attribute, words),
                Some(&attribute) => filter.none_of(attribute, words),
                None if about & 0x40 == 0 => filter.entities([(*words.first()?, *words.last()?)]),
                None => {
                    let operator = Operator::ALL[usize::from(about & 7)];
                    filter.payload("n", operator, [i64::from(count)])
                }
            };
        }
        Some(filter)
    }

    fn event(&mut self) -> Option<Event> {
        let mut builder = Event::builder(WORDS[usize::from(self.byte()? % PLAIN)]);
        for attribute in Attribute::ALL.into_iter().skip(1) {
            let byte = self.byte()?;
            if byte & 0x80 == 0 {
                builder = builder.attribute(attribute, WORDS[usize::from(byte % PLAIN)]);
            }
        }
        let n = self.byte()? % 4;
        builder.json(format!("{{\"n\":{n}}}")).build().ok()
    }
}

/// Inserts, removes and asks as the bytes say; panics where the matcher and a filter disagree, where a
/// filter's text reads back as another one, or where something is left at the end.
#[allow(clippy::missing_panics_doc, reason = "panicking is its purpose")]
#[cfg_attr(not(fuzzing), allow(unreachable_pub, reason = "public where the fuzzer is"))]
pub fn fuzz_matcher(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(filter) = text.parse::<Filter>()
    {
        assert_eq!(filter.to_string().parse::<Filter>().as_ref(), Ok(&filter), "{filter}");
    }
    let mut program = Program { rest: bytes };
    let paths_max = usize::from(program.byte().unwrap_or(0));
    let mut matcher = Matcher::new(FilterLimits { paths_max, ..FilterLimits::default() });
    let empty = matcher.stats();
    let mut held: Vec<(ClassId, Filter)> = Vec::new();
    let mut out = Vec::new();
    while let Some(act) = program.byte() {
        match act % 4 {
            0 => {
                let Some(filter) = program.filter() else { break };
                held.push((matcher.insert(&filter), filter));
            }
            1 if !held.is_empty() => {
                let (id, _) = held.swap_remove(usize::from(act >> 2) % held.len());
                assert_eq!(matcher.remove(id), held.iter().all(|other| other.0 != id));
            }
            _ => {
                let Some(event) = program.event() else { break };
                matcher.matches(&event, &mut out);
                out.sort_unstable();
                let mut want: Vec<ClassId> =
                    held.iter().filter(|(_, filter)| filter.matches(&event)).map(|(id, _)| *id).collect();
                want.sort_unstable();
                want.dedup();
                assert_eq!(out, want, "{held:?}");
                assert!(
                    held.iter()
                        .all(|(_, filter)| filter.explain(&event).is_wanted() == filter.matches(&event))
                );
            }
        }
    }
    for (id, _) in held {
        matcher.remove(id);
    }
    assert_eq!(matcher.stats(), empty, "what went left nothing");
}

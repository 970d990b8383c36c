//! Drives the matcher by bytes and compares it with the definition. Only under `cfg(fuzzing)` and in tests.

use super::definition::Filter;
use super::limits::FilterLimits;
use super::literal::{Literal, Operator};
use super::matcher::{ClassId, Matcher};
use crate::event::{Attribute, Event};

/// Program that is read from bytes.
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
/// Number of the words without a wildcard, which come first.
const PLAIN: u8 = 7;

const PATHS: [&str; 8] = ["n", "n.s", "n.0", "s", "", "n.s.n", "n.n.0", "s.1"];

/// Byte of an edit.
#[cfg(feature = "server")]
const EDIT: u8 = 0xff;

/// Keys, as JSON has them.
const KEYS: [&str; 4] = ["n", "s", r"\u006e", "0"];

/// Texts, and their JSON.
const TEXTS: [(&str, &str); 5] =
    [("", r#""""#), ("1", r#""1""#), ("a", r#""\u0061""#), ("a\"", r#""a\"""#), ("\u{fffd}", r#""\ud83d""#)];

const NUMBERS: [&str; 7] =
    ["-0", "0.5", "1e0", "1.5", "1e999", "-1", "99999999999999999999999999999999999999999"];

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
                    let path = PATHS[usize::from(self.byte()?) % PATHS.len()];
                    let values: Vec<Literal> = (0..count).map_while(|_| self.literal()).collect();
                    filter.payload(path, operator, values)
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
        let mut json = String::new();
        self.value(&mut json, 0)?;
        builder.json(json).build().ok()
    }

    fn literal(&mut self) -> Option<Literal> {
        let byte = self.byte()?;
        Some(match byte >> 5 {
            0 => Literal::Null,
            1 => Literal::from(byte & 1 == 0),
            2 | 3 => Literal::from(TEXTS[usize::from(byte) % TEXTS.len()].0),
            4 => Literal::from(f64::from(byte & 15) / 2.0),
            _ => Literal::from(i64::from(byte & 3)),
        })
    }

    /// Appends a JSON value. Objects may have a key twice.
    fn value(&mut self, json: &mut String, depth: usize) -> Option<()> {
        let byte = self.byte()?;
        let count = byte & 3;
        match byte >> 5 {
            0 if depth < 6 => {
                json.push('{');
                for nth in 0..count {
                    let key = KEYS[usize::from(self.byte()?) % KEYS.len()];
                    json.push_str(if nth == 0 { "\"" } else { ",\"" });
                    json.push_str(key);
                    json.push_str("\":");
                    self.value(json, depth + 1)?;
                }
                json.push('}');
            }
            1 if depth < 6 => {
                json.push('[');
                for nth in 0..count {
                    json.push_str(if nth == 0 { "" } else { "," });
                    self.value(json, depth + 1)?;
                }
                json.push(']');
            }
            2 => json.push_str(["null", "true", "false", "{}"][usize::from(count)]),
            3 | 4 => json.push_str(TEXTS[usize::from(byte) % TEXTS.len()].1),
            5 => json.push_str(NUMBERS[usize::from(byte) % NUMBERS.len()]),
            _ => json.push_str(&count.to_string()),
        }
        Some(())
    }
}

/// Inserts, removes and matches as the bytes say. Panics if the matcher and a filter disagree, if a filter's text reads
/// back as another filter, or if something is left at the end.
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
            #[cfg(feature = "server")]
            _ if act == EDIT && !held.is_empty() => {
                let (Some(which), Some(about), Some(to)) = (program.byte(), program.byte(), program.filter())
                else {
                    break;
                };
                let (which, about) = (usize::from(which) % held.len(), about % 9);
                let from = held[which].1.clone();
                if let (Some(_), Some(list)) = (from.list(about), to.list(about)) {
                    let to = from.with_list(about, list.body());
                    let is_only = held.iter().filter(|other| other.0 == held[which].0).count() == 1;
                    if matcher.edit(&from, &to) {
                        assert!(is_only, "others hold {from}");
                        held[which].1 = to;
                    }
                }
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

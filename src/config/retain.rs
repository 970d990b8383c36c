//! The rules of retention as text: `[[retain]]` tables in a file, and one line per rule for flags and the environment.
//!
//! Invariant: a rule's line reads back as the rule. `match` comes last, because a filter's text may contain any
//! character.

use std::time::Duration;

use super::value::{Setting, Words, read_bytes, read_time, show_bytes, show_time, whole_number};
use crate::dialect::keys::UnknownKey;
use crate::server::{RetainBy, RetainRule};

/// Key of the rules.
pub(super) const RETAIN: &str = "retain";

const KNOWN: [&str; 6] = ["match", "by", "events", "bytes", "for", "end"];

/// Maximum number of rules, each of which may be tried for each event.
const RULES_MAX: usize = 100;

struct RetainSetting<'a>(&'a mut Vec<RetainRule>);

impl Setting for RetainSetting<'_> {
    fn set(&mut self, words: &Words) -> Result<(), String> {
        let texts: Vec<&str> = match words {
            Words::Nothing => Vec::new(),
            Words::One(text) => text.lines().filter(|line| !line.trim().is_empty()).collect(),
            Words::Many(texts) => texts.iter().map(String::as_str).collect(),
        };
        if texts.len() > RULES_MAX {
            return Err(format!("{} rules, and {RULES_MAX} is the limit", texts.len()));
        }
        *self.0 = texts.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn words(&self) -> Words {
        Words::Many(self.0.iter().map(show).collect())
    }

    fn kind(&self) -> &'static str {
        "RULE"
    }
}

/// Returns the setting for the rules.
pub(super) fn rules(place: &mut Vec<RetainRule>) -> Box<dyn Setting + '_> {
    Box::new(RetainSetting(place))
}

/// Returns the line of a rule with these members.
pub(super) fn line<'a>(members: impl Iterator<Item = (&'a str, String)>) -> String {
    let mut matching = None;
    let mut parts = Vec::new();
    for (key, value) in members {
        if key == "match" { matching = Some(value) } else { parts.push(format!("{key}={value}")) }
    }
    parts.extend(matching.map(|matching| format!("match={matching}")));
    parts.join("; ")
}

fn show(rule: &RetainRule) -> String {
    let end = (!rule.end.is_empty()).then(|| ("end", rule.end.join(", ")));
    let members = [
        ("by", rule.by.name().to_owned()),
        ("events", rule.events.to_string()),
        ("bytes", show_bytes(rule.bytes as u64)),
        ("for", show_time(rule.keep_for.as_millis() as u64)),
    ];
    let matching = ("match", rule.matching().to_owned());
    line(members.into_iter().chain(end).chain([matching]))
}

fn read(text: &str) -> Result<RetainRule, String> {
    let (mut matching, mut by, mut events, mut bytes, mut keep_for, mut end) =
        (None, None, None, None, None, None);
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (key, value) =
            rest.split_once('=').ok_or_else(|| format!("`{rest}` is no key=value; a rule is {EXAMPLE}"))?;
        let (value, after) =
            if key.trim() == "match" { (value, "") } else { value.split_once(';').unwrap_or((value, "")) };
        rest = after.trim();
        let (key, value) = (key.trim(), value.trim());
        let place = match key {
            "match" => &mut matching,
            "by" => &mut by,
            "events" => &mut events,
            "bytes" => &mut bytes,
            "for" => &mut keep_for,
            "end" => &mut end,
            key => return Err(UnknownKey { key, known: &KNOWN }.to_string()),
        };
        if place.replace(value).is_some() {
            return Err(format!("{key} is given twice"));
        }
    }
    let missing = |key: &str| format!("{key} is missing; a rule is {EXAMPLE}");
    let by = by.ok_or_else(|| missing("by"))?;
    let by = RetainBy::ALL.into_iter().find(|known| known.name() == by).ok_or_else(|| {
        let names: Vec<_> = RetainBy::ALL.iter().map(|by| by.name()).collect();
        format!("by: `{by}` is none of {}", names.join(", "))
    })?;
    let matching = matching.ok_or_else(|| missing("match"))?;
    let mut rule = RetainRule::new(matching, by).map_err(|error| format!("match: {error}"))?;
    if let Some(events) = events {
        let number = whole_number(events).ok_or_else(|| format!("events: `{events}` is no number"))?;
        rule.events = within("events", number, 1_000_000_000)?;
    }
    if let Some(bytes) = bytes {
        let number = read_bytes(bytes).map_err(|error| format!("bytes: {error}"))?;
        rule.bytes = within("bytes", number, 1 << 40)?;
    }
    if let Some(text) = keep_for {
        let millis = read_time(text).map_err(|error| format!("for: {error}"))?;
        let millis = within("for", millis, YEAR_MILLIS)?;
        rule.keep_for = Duration::from_millis(millis as u64);
    }
    if let Some(end) = end {
        rule.end = end
            .split(',')
            .map(|event_type| event_type.trim().to_owned())
            .filter(|event_type| !event_type.is_empty())
            .collect();
    }
    match rule.fault() {
        Some(fault) => Err(fault),
        None => Ok(rule),
    }
}

const EXAMPLE: &str = "by=stream; match=stream=run-*";

const YEAR_MILLIS: u64 = 366 * 86_400_000;

fn within(key: &str, number: u64, max: u64) -> Result<usize, String> {
    if number > max {
        return Err(format!("{key}: {number} is too much; the limit is {max}"));
    }
    usize::try_from(number).map_err(|_| format!("{key}: {number} is too much for this machine"))
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Sources};
    use super::*;

    fn fault(toml: &str) -> String {
        Config::from_toml(toml).expect_err("a fault").to_string()
    }

    #[test]
    fn tables_and_lines_are_the_same_rules() {
        let tables = "retain_max_logs = 5\n[[retain]]\nmatch = \"stream=run-*\"\nby = \"stream\"\nend = [\"a\", \"b\"]\n\
             [[retain]]\nby = \"channel\"\nmatch = 'channel=\"a; b\"'\nevents = 50\nbytes = \"1MiB\"\nfor = \"2h\"\n";
        let config = Config::from_toml(tables).expect("right");
        let [one, other] = config.server.retain.rules.as_slice() else { panic!("two rules") };
        assert_eq!(
            (one.by, one.matching(), &one.end[..]),
            (RetainBy::Stream, "stream=run-*", &["a".to_owned(), "b".to_owned()][..])
        );
        assert_eq!((other.events, other.bytes, other.keep_for), (50, 1 << 20, Duration::from_secs(7200)));
        let lines: Vec<String> = config.server.retain.rules.iter().map(show).collect();
        assert_eq!(lines[0], "by=stream; events=10000; bytes=8MiB; for=1h; end=a, b; match=stream=run-*");
        let again: Vec<RetainRule> = lines.iter().map(|line| read(line).expect("reads back")).collect();
        assert_eq!(again, config.server.retain.rules);
    }

    #[test]
    fn nonsense_is_refused_with_its_line_and_a_remedy() {
        let rule = "[[retain]]\nmatch = \"stream=run-* type=run.*\"\nby = \"stream\"\n";
        for (more, says) in [
            ("for = \"0s\"", "for: 0 keeps nothing; leave the rule out, or give a time such as \"1h\""),
            ("end = [\"other.end\"]", "end: match excludes the type `other.end`"),
            ("end = [\"run.*\"]", "end: `run.*` is a pattern"),
            ("evnts = 5", "unknown key `evnts`: did you mean `events`?"),
            ("events = 0", "events and bytes: a log of nothing"),
            ("bytes = \"much\"", "bytes: expected bytes"),
            ("for = 5", "for: `5` has no unit"),
            ("for = \"9999d\"", "for: 863913600000 is too much"),
        ] {
            let text = fault(&format!("heartbeat = \"5s\"\n{rule}{more}\n"));
            assert!(text.contains(says), "{more}: {text}");
        }
        let second = fault(&format!("{rule}[[retain]]\nmatch = \"\"\nby = \"colour\"\n"));
        assert!(second.contains("by: `colour` is none of stream, channel, entity"), "{second}");
        assert!(second.starts_with("(text):4: "), "{second}");
        assert!(fault("[[retain]]\nby = \"stream\"\n").contains("match is missing"));
        assert!(fault("[[retain]]\nmatch = \"\"\n").contains("by is missing"));
        assert!(fault("[[retain]]\nmatch = \"stream\"\nby = \"stream\"\n").contains("match: "));
    }

    #[test]
    fn rules_that_keep_more_than_the_engine_are_doubted() {
        let rule = "[[retain]]\nmatch = \"\"\nby = \"stream\"\nevents = 5000\n";
        let warnings = |more: &str| -> Vec<String> {
            let loaded = Sources::new().text(&format!("{more}{rule}")).load().expect("valid");
            loaded.warnings().iter().map(|warning| warning.key().to_owned()).collect()
        };
        assert_eq!(warnings("engine_history = 10\n"), [""; 0], "no engine");
        let redis = "engine = \"redis://localhost\"\n";
        assert_eq!(warnings(&format!("{redis}engine_history = 4999\n")), ["engine_history"]);
        assert_eq!(warnings(&format!("{redis}engine_history = 5000\n")), [""; 0]);
        let files = "engine = \"file:///tmp/x\"\nengine_max_bytes = \"2MiB\"\n";
        assert_eq!(warnings(&format!("{files}retain_max_bytes = \"3MiB\"\n")), ["engine_max_bytes"]);
        assert_eq!(warnings(&format!("{files}retain_max_bytes = \"2MiB\"\n")), [""; 0]);
    }

    #[test]
    fn rules_that_an_engine_cannot_keep_are_refused() {
        let engine = "engine = \"nats://localhost\"\n";
        let rule = "[[retain]]\nmatch = \"\"\nby = \"stream\"\n";
        let text = fault(&format!("{engine}bus.shards = 2\n{rule}"));
        assert!(text.contains("retain: with an engine kept logs need one shard"), "{text}");
        assert!(text.contains("set bus.shards = 1 (and another engine_name"), "{text}");
        let text = fault(&format!("{engine}engine_by_interest = true\n{rule}"));
        assert!(text.contains("retain: with engine_by_interest"), "{text}");
    }
}

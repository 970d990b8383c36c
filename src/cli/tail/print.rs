//! Format of an event in `tail`: one line, coloured if the terminal supports colours.
//!
//! Always: one event is one line. An event that cannot be parsed is printed as received.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Stdout, Write, stdout};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::style::{DIM, RED};

/// A loss reported by the server.
#[derive(Debug, Deserialize)]
pub(super) struct LossNotice {
    pub(super) missed: Option<u64>,
    /// Upper bound, if the exact number is not known.
    #[serde(default)]
    at_most: Option<u64>,
    #[serde(default)]
    pub(super) recoverable: bool,
}

/// The end of a kept stream, as reported by the server.
#[derive(Debug, Deserialize)]
pub(super) struct StreamEnd {
    pub(super) by: String,
    pub(super) value: String,
    pub(super) complete: bool,
    /// Whether the subscription is over with it.
    #[serde(default)]
    pub(super) over: bool,
}

/// The fields of an event that a line shows.
#[derive(Deserialize)]
struct EventLine<'a> {
    #[serde(borrow)]
    event_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow)]
    timestamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    stream_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    execution_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    correlation_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    entity: Option<EntityText<'a>>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct EntityText<'a> {
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Cow<'a, str>,
}

/// Prints events and gaps to stdout, and counts events.
#[derive(Debug)]
pub(in crate::cli) struct Printer {
    out: AutoStream<Stdout>,
    json: bool,
    /// Number of events still to print. `None` means no limit.
    left: Option<u64>,
    line: String,
}

impl Printer {
    pub(in crate::cli) fn new(json: bool, count: Option<u64>) -> Self {
        Self { out: AutoStream::auto(stdout()), json, left: count, line: String::new() }
    }

    /// Returns whether the wanted number of events has been printed.
    pub(in crate::cli) fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// Prints an event, given as its JSON. Returns its id.
    pub(in crate::cli) fn event(&mut self, json: &str) -> io::Result<Option<String>> {
        self.line.clear();
        let event_line = serde_json::from_str::<EventLine<'_>>(json);
        match &event_line {
            Ok(event) if !self.json => event.write(&mut self.line),
            _ => self.line.push_str(json),
        }
        self.line.push('\n');
        self.out.write_all(self.line.as_bytes())?;
        self.out.flush()?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(event_line.ok().and_then(|event| event.event_id).map(Cow::into_owned))
    }

    /// Prints the end of a kept stream, given with its JSON.
    pub(super) fn end(&mut self, end: &StreamEnd, json: &str) -> io::Result<()> {
        if self.json {
            writeln!(self.out, "{{\"end\":{json}}}")?;
        } else {
            let (by, value) = (&end.by, &end.value);
            let part = if end.complete { "" } else { ", of which a part is no longer kept" };
            writeln!(self.out, "{DIM}-- end of {by} {value}{part} --{DIM:#}")?;
        }
        self.out.flush()
    }

    /// Prints a gap, given with its JSON.
    pub(super) fn gap(&mut self, gap: &LossNotice, json: &str) -> io::Result<()> {
        if self.json {
            writeln!(self.out, "{{\"gap\":{json}}}")?;
        } else {
            let missed = match (gap.missed, gap.at_most) {
                (Some(missed), _) => missed.to_string(),
                (None, Some(most)) => format!("at most {most}"),
                (None, None) => "an unknown number of".to_owned(),
            };
            let kept = if gap.recoverable { " (still kept by the server)" } else { "" };
            writeln!(self.out, "{RED}-- gap: {missed} events missed{kept} --{RED:#}")?;
        }
        self.out.flush()
    }
}

impl EventLine<'_> {
    fn write(&self, line: &mut String) {
        // A line shows the time of day only. It is in UTC, as in the event.
        let time = self.timestamp.as_deref().and_then(|time| time.get(11..23)).unwrap_or("            ");
        let style = style_of(&self.event_type);
        let source = self.source.as_deref().unwrap_or("-");
        // Writing to a string cannot fail.
        let _ = write!(line, "{DIM}{time}{DIM:#} {style}{:<24}{style:#} {source:<14}", self.event_type);
        if let Some(EntityText { kind, id }) = &self.entity {
            let _ = write!(line, " {kind}:{id}");
        }
        let named = [
            ("", &self.correlation_id),
            ("stream=", &self.stream_id),
            ("exec=", &self.execution_id),
            ("#", &self.channel),
        ];
        for (prefix, value) in named {
            if let Some(value) = value {
                let _ = write!(line, " {DIM}{prefix}{value}{DIM:#}");
            }
        }
        if let Some(payload) = self.payload.map(RawValue::get).filter(|payload| *payload != "{}") {
            let _ = write!(line, " {payload}");
        }
    }
}

/// Returns green for a success, red for a failure, and a colour chosen by the type's first segment for every other
/// event.
fn style_of(event_type: &str) -> Style {
    const DOMAINS: [AnsiColor; 6] = [
        AnsiColor::Cyan,
        AnsiColor::Blue,
        AnsiColor::Magenta,
        AnsiColor::Yellow,
        AnsiColor::BrightCyan,
        AnsiColor::BrightBlue,
    ];
    let mut segments = event_type.split('.');
    let domain = segments.next().unwrap_or_default();
    match segments.next_back() {
        Some("failed" | "error" | "violation") => AnsiColor::Red.on_default().bold(),
        Some("completed" | "passed" | "achieved") => AnsiColor::Green.on_default(),
        _ => {
            let sum: usize = domain.bytes().map(usize::from).sum();
            DOMAINS[sum % DOMAINS.len()].on_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_time_type_source_attributes_and_payload() {
        let json = r#"{"event_id":"1-0","event_type":"task.progress","source":"core","timestamp":"2026-01-27T10:21:33.123456Z",
            "correlation_id":"run-42","stream_id":"webhook","entity":{"kind":"task","id":"t-1"},"channel":"dev","payload":{"progress":42}}"#;
        let event: EventLine<'_> = serde_json::from_str(json).expect("valid");
        let mut line = String::new();
        event.write(&mut line);
        let plain = anstream::adapter::strip_str(&line).to_string();
        let want = "10:21:33.123 task.progress            core           task:t-1 run-42 stream=webhook #dev {\"progress\":42}";
        assert_eq!(plain, want);
    }

    #[test]
    fn only_a_type_is_needed_for_a_line() {
        let event: EventLine<'_> =
            serde_json::from_str(r#"{"event_type":"x","correlation_id":null,"payload":{}}"#).expect("valid");
        let mut line = String::new();
        event.write(&mut line);
        assert!(anstream::adapter::strip_str(&line).to_string().trim().starts_with("x "));
    }
}

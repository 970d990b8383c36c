//! Fast path for event objects as publishers mostly write them: one pass over known fields with values of their kinds and
//! strings without escapes.
//!
//! Invariants:
//! - An object that is accepted here is read exactly as `envelope` reads the same text. A fuzz target compares both.
//! - Every other text is left to `envelope`, which also has the error texts.

use std::mem;

use super::event_keys::{Others, read_timestamp};
use crate::event::{Attribute, EventBuilder, EventError, json};

/// Marks text that is left to `envelope`.
struct Unsupported;

/// A position in the text.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn space(&mut self) {
        self.at = json::space_end(self.text, self.at);
    }

    /// Skips white space and this byte, if the byte is next.
    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let is_next = self.text.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn null(&mut self) -> bool {
        let is_next = self.text.as_bytes()[self.at..].starts_with(b"null");
        self.at += if is_next { 4 } else { 0 };
        is_next
    }

    /// Reads a string, or `null` as none.
    fn string(&mut self) -> Result<Option<&'a str>, Unsupported> {
        if self.null() {
            return Ok(None);
        }
        let (string, end) = json::plain_string(self.text, self.at).ok_or(Unsupported)?;
        self.at = end;
        Ok(Some(string))
    }

    /// Reads any value as it stands, or `null` as none.
    fn value(&mut self) -> Result<Option<&'a str>, Unsupported> {
        if self.null() {
            return Ok(None);
        }
        let start = self.at;
        self.at = json::scan(self.text, start, |_| ()).map_err(|_| Unsupported)?;
        Ok(Some(&self.text[start..self.at]))
    }

    /// Reads the next field's name and colon; returns an empty name at the object's end.
    fn key(&mut self, is_first: bool) -> Result<&'a str, Unsupported> {
        if self.take(b'}') {
            return Ok("");
        }
        if !is_first {
            usual(self.take(b','))?;
            self.space();
        }
        let (key, end) = json::plain_string(self.text, self.at).ok_or(Unsupported)?;
        self.at = end;
        // The empty name marks the end.
        usual(!key.is_empty() && self.take(b':'))?;
        self.space();
        Ok(key)
    }
}

/// Returns an error unless the text is as expected.
fn usual(is_usual: bool) -> Result<(), Unsupported> {
    if is_usual { Ok(()) } else { Err(Unsupported) }
}

/// Returns the attribute that this field holds as text.
fn attribute(key: &str) -> Option<Attribute> {
    Some(match key {
        "type" | "event_type" => Attribute::Type,
        "source" => Attribute::Source,
        "stream_id" => Attribute::Stream,
        "execution_id" => Attribute::Execution,
        "correlation_id" => Attribute::Correlation,
        "channel" => Attribute::Channel,
        _ => return None,
    })
}

/// Bits of the fields that are no attribute, for the fields already seen.
const ENTITY: usize = Attribute::COUNT;
const TIMESTAMP: usize = ENTITY + 1;
const PAYLOAD: usize = ENTITY + 2;
const TRACE_PARENT: usize = ENTITY + 3;
const TRACE_STATE: usize = ENTITY + 4;

/// Reads one event object and builds it by `build`. Returns `None` if anything in it is unusual or wrong.
pub(crate) fn read<T>(
    text: &str,
    others: Others,
    build: impl FnOnce(EventBuilder) -> Result<T, EventError>,
) -> Option<T> {
    read_usual(text, others).and_then(|builder| build(builder).map_err(|_| Unsupported)).ok()
}

fn read_usual(text: &str, others: Others) -> Result<EventBuilder, Unsupported> {
    let mut scan = Scan { text, at: 0 };
    usual(scan.take(b'{'))?;
    let mut builder = EventBuilder::with_room(text.len());
    let mut is_first = true;
    let mut seen = 0u32;
    let (mut parent, mut state) = (None, None);
    loop {
        let key = scan.key(mem::take(&mut is_first))?;
        let mut see = |place: usize| {
            let is_new = seen & (1 << place) == 0;
            seen |= 1 << place;
            usual(is_new)
        };
        if let Some(attribute) = attribute(key) {
            see(attribute.index())?;
            if let Some(value) = scan.string()? {
                builder.set(attribute, value);
            }
            continue;
        }
        match key {
            "" => break,
            "payload" | "data" => {
                see(PAYLOAD)?;
                if !scan.null() {
                    scan.at = builder.json_at(text, scan.at).ok_or(Unsupported)?;
                }
            }
            "timestamp" | "ts" => {
                see(TIMESTAMP)?;
                if let Some(value) = scan.value()? {
                    builder = builder.timestamp(read_timestamp(value).ok_or(Unsupported)?);
                }
            }
            "entity" => {
                see(ENTITY)?;
                if !scan.null() {
                    // An object names the entity, even an empty one.
                    builder.set(Attribute::EntityKind, "");
                    entity(&mut scan, &mut builder)?;
                }
            }
            "traceparent" => {
                see(TRACE_PARENT)?;
                parent = scan.string()?;
            }
            "tracestate" => {
                see(TRACE_STATE)?;
                state = scan.string()?;
            }
            // The key may name the entity.
            "key" => return Err(Unsupported),
            // `envelope` names the key in its error.
            other if !others.allow(other) => return Err(Unsupported),
            _ => drop(scan.value()?),
        }
    }
    scan.space();
    usual(scan.at == text.len())?;
    if let Some(parent) = parent {
        builder = builder.trace(parent, state);
    }
    Ok(builder)
}

/// Reads the object of an entity's kind and id.
fn entity(scan: &mut Scan<'_>, builder: &mut EventBuilder) -> Result<(), Unsupported> {
    usual(scan.take(b'{'))?;
    let mut is_first = true;
    let mut seen = 0u32;
    loop {
        let attribute = match scan.key(mem::take(&mut is_first))? {
            "" => return Ok(()),
            "kind" => Attribute::EntityKind,
            "id" => Attribute::EntityId,
            _ => return Err(Unsupported),
        };
        usual(seen & (1 << attribute.index()) == 0)?;
        seen |= 1 << attribute.index();
        if let Some(value) = scan.string()? {
            builder.set(attribute, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::envelope;
    use crate::dialect::infer_attributes::{Complete, complete};

    /// Texts that both readers accept with the same result.
    #[test]
    fn usual_events_are_taken_as_the_other_reader_takes_them() {
        let whole = r#"{"event_id":"a-1","event_type":"task.progress","source":"core","timestamp":"2026-01-27T10:21:33.123456Z","correlation_id":"run-42","stream_id":"webhook","execution_id":"ex-1","entity":{"kind":"task","id":"t-1"},"channel":"dev","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","tracestate":"a=b","payload":{"n":42}}"#;
        for text in [
            whole,
            r#"{"type":"x","ts":1500,"data":[1,"\u00e9\n"],"extra":{"deep":[null]},"x":1,"x":2}"#,
            " {\t\"payload\" : { \"a\" : [ 1 , 2 ] } ,\r\n\"type\":\"ä\" , \"source\" : null } ",
            r#"{"type":"x","entity":{"id":"7"},"channel":"","payload":null,"ts":null}"#,
            r#"{"type":"x","entity":{},"traceparent":"no","payload":-0.5e1}"#,
            r#"{"type":"agent_status","data":{"agentId":"coder-001"}}"#,
            r#"{"type":"agent_status","entity":{"kind":"k"},"data":{"agentId":"coder-001"}}"#,
            r#"{"type":"agent.message","payload":{"circle_name":"dev-team"},"channel":null}"#,
            r#"{"type":"EXECUTION_STARTED","execution_id":"own","data":{"stream_id":"s","execution_id":"e"}}"#,
        ] {
            let object = |event: Complete| {
                let mut out = String::new();
                envelope::write_lean(&event, &mut out);
                out
            };
            let quick =
                read(text, Others::PassedOver, complete).unwrap_or_else(|| panic!("not taken: {text}"));
            assert_eq!(
                object(quick),
                object(envelope::read_any(text, Others::PassedOver).expect("valid")),
                "{text}"
            );
        }
    }

    #[test]
    fn keys_that_nobody_knows_are_left_to_the_other_reader_where_they_are_faults() {
        for (text, is_taken) in [
            (r#"{"type":"x","entitty":{"kind":"k"}}"#, false),
            (r#"{"type":"x","data":1,"extra":null}"#, false),
            (
                r#"{"event_id":"a-1","type":"x","position":"a~1","merged":3,"id":"m","metadata":{"a":1}}"#,
                true,
            ),
            (r#"{"type":"x","message_id":"m","payload":{"entitty":1}}"#, true),
        ] {
            assert!(read(text, Others::PassedOver, complete).is_some(), "{text}");
            assert_eq!(read(text, Others::Refused, complete).is_some(), is_taken, "{text}");
            assert_eq!(envelope::read_any(text, Others::Refused).is_ok(), is_taken, "{text}");
        }
    }

    #[test]
    fn what_is_unusual_or_wrong_is_left_to_the_other_reader() {
        let long = format!(r#"{{"type":"{}"}}"#, "x".repeat(2000));
        for text in [
            "",
            "{",
            "{}",
            "[]",
            r#"{"type":"x""#,
            r#"{"type":"x"}}"#,
            r#"{"type":"x"} 1"#,
            r#"{"type":"x",}"#,
            r#"{,"type":"x"}"#,
            r#"{"type":"x" "source":"y"}"#,
            r#"{"type":"a\tb"}"#,
            r#"{"type":"x","event_type":"y"}"#,
            r#"{"type":"x","type":"y"}"#,
            r#"{"type":5}"#,
            r#"{"type":""}"#,
            r#"{"type":nullx}"#,
            r#"{"ty\u0070e":"x","type":"y"}"#,
            r#"{"type":"x","":1}"#,
            r#"{"type":"x","entity":"task:1"}"#,
            r#"{"type":"x","entity":{"kind":"k","more":1}}"#,
            r#"{"type":"x","entity":{"kind":"k","kind":"l"}}"#,
            r#"{"type":"x","payload":}"#,
            r#"{"type":"x","payload":{]}"#,
            r#"{"type":"x","ts":"yesterday"}"#,
            r#"{"type":"agent_status","key":"agent:coder-001:status"}"#,
            long.as_str(),
        ] {
            assert!(read(text, Others::PassedOver, complete).is_none(), "{text}");
        }
    }
}

//! Fast path for valid event objects: one pass over the fields, which copies the payload as it validates it.
//!
//! Invariants:
//! - An object that is accepted here is read exactly as `envelope` reads the same text. A fuzz target compares both.
//! - Every valid object is accepted here, so a publisher's payload is not read again. Invalid text is left to
//!   `envelope`, which has the error texts.

use std::borrow::Cow;
use std::mem;

use super::event_keys::{Others, read_timestamp};
use super::keys::plain_key;
use super::publish_terms::{PublishTerms, TermFields};
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

    /// Reads a string.
    fn text(&mut self) -> Result<Cow<'a, str>, Unsupported> {
        if let Some((plain, end)) = json::plain_string(self.text, self.at) {
            self.at = end;
            return Ok(Cow::Borrowed(plain));
        }
        let end = json::text_end(self.text, self.at).ok_or(Unsupported)?;
        let text = plain_key(&self.text[self.at..end]).ok_or(Unsupported)?;
        self.at = end;
        Ok(text)
    }

    /// Reads a string, or `null` as none.
    fn string(&mut self) -> Result<Option<Cow<'a, str>>, Unsupported> {
        if self.null() { Ok(None) } else { self.text().map(Some) }
    }

    /// Reads any value as raw text, or `null` as none.
    fn value(&mut self) -> Result<Option<&'a str>, Unsupported> {
        if self.null() {
            return Ok(None);
        }
        let start = self.at;
        self.at = json::scan(self.text, start, |_| ()).map_err(|_| Unsupported)?;
        Ok(Some(&self.text[start..self.at]))
    }

    /// Reads the next field's name and colon; returns `None` at the object's end.
    fn key(&mut self, is_first: bool) -> Result<Option<Cow<'a, str>>, Unsupported> {
        if self.take(b'}') {
            return Ok(None);
        }
        if !is_first {
            usual(self.take(b','))?;
            self.space();
        }
        let key = self.text()?;
        usual(self.take(b':'))?;
        self.space();
        Ok(Some(key))
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
const KEY: usize = ENTITY + 5;
const DEDUPE_ID: usize = ENTITY + 6;
const REOPEN: usize = ENTITY + 7;
const EXPECTED_LAST_ID: usize = ENTITY + 8;

/// Reads one event object and builds it by `build`, which also gets AutoSDLC's `key`. Returns `None` if the text is
/// invalid, and the builder's error if the fields do not make a valid event. Only publishers have conditions.
pub(crate) fn read<T>(
    text: &str,
    others: Others,
    build: impl FnOnce(EventBuilder, Option<&str>) -> Result<T, EventError>,
) -> Option<Result<(T, PublishTerms), EventError>> {
    let Read { builder, key, terms } = read_fields(text, others).ok()?;
    let terms = if others == Others::Refused { terms.read().ok()? } else { PublishTerms::default() };
    Some(build(builder, key).map(|event| (event, terms)))
}

/// Fields of an event object.
struct Read<'a> {
    builder: EventBuilder,
    key: Option<&'a str>,
    terms: TermFields<'a>,
}

fn read_fields(text: &str, others: Others) -> Result<Read<'_>, Unsupported> {
    let mut scan = Scan { text, at: 0 };
    usual(scan.take(b'{'))?;
    let mut builder = EventBuilder::with_room(text.len());
    let mut is_first = true;
    let mut seen = 0u32;
    let (mut parent, mut state, mut subject, mut terms) = (None, None, None, TermFields::default());
    while let Some(key) = scan.key(mem::take(&mut is_first))? {
        let mut see = |place: usize| {
            let is_new = seen & (1 << place) == 0;
            seen |= 1 << place;
            usual(is_new)
        };
        if let Some(attribute) = attribute(&key) {
            see(attribute.index())?;
            if let Some(value) = scan.string()? {
                builder.set(attribute, &value);
            }
            continue;
        }
        match &*key {
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
                    // An object counts as naming the entity, even if it is empty.
                    builder.set(Attribute::EntityKind, "");
                    entity(&mut scan, others, &mut builder)?;
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
            "key" => {
                see(KEY)?;
                subject = scan.value()?;
            }
            "dedupe_id" => {
                see(DEDUPE_ID)?;
                terms.dedupe_id = scan.value()?;
            }
            "reopen" => {
                see(REOPEN)?;
                terms.reopen = scan.value()?;
            }
            "expected_last_id" => {
                see(EXPECTED_LAST_ID)?;
                terms.expected_last_id = scan.value()?;
            }
            // `envelope` names the key in its error.
            other if !others.allow(other) => return Err(Unsupported),
            _ => {
                scan.value()?;
            }
        }
    }
    scan.space();
    usual(scan.at == text.len())?;
    if let Some(parent) = parent {
        builder = builder.trace(&parent, state.as_deref());
    }
    Ok(Read { builder, key: subject, terms })
}

/// Reads the object of an entity's kind and id.
fn entity(scan: &mut Scan<'_>, others: Others, builder: &mut EventBuilder) -> Result<(), Unsupported> {
    usual(scan.take(b'{'))?;
    let mut is_first = true;
    let mut seen = 0u32;
    while let Some(key) = scan.key(mem::take(&mut is_first))? {
        let attribute = match &*key {
            "kind" => Attribute::EntityKind,
            "id" => Attribute::EntityId,
            _ if others == Others::PassedOver => {
                scan.value()?;
                continue;
            }
            _ => return Err(Unsupported),
        };
        usual(seen & (1 << attribute.index()) == 0)?;
        seen |= 1 << attribute.index();
        if let Some(value) = scan.string()? {
            builder.set(attribute, &value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::envelope::{self, ReadError};
    use crate::dialect::infer_attributes::{Complete, complete_with_key};

    const BOTH: [Others; 2] = [Others::PassedOver, Others::Refused];

    fn quick(text: &str, others: Others) -> Option<Result<Complete, EventError>> {
        Some(read(text, others, complete_with_key)?.map(|(event, terms)| event.under(terms)))
    }

    /// Texts that both readers accept with the same result.
    #[test]
    fn valid_events_are_taken_as_the_other_reader_takes_them() {
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
            r#"{"ty\u0070e":"\u00e9\"","sour\u0063e":"a\/b","p\u0061yload":{"n":1}}"#,
            r#"{"type":"x","":1}"#,
            r#"{"type":"x","entity":{"kind":"k","more":[1],"\u0069d":"\ud83d\ude00"}}"#,
            r#"{"type":"agent_status","key":"agent:coder-001:status"}"#,
            r#"{"key":"agent:a:b:status","type":"agent_status","data":{"agentId":7}}"#,
            r#"{"type":"agent_status","key":null,"payload":1}"#,
            r#"{"type":"agent_status","key":{"a":1}}"#,
            r#"{"type":"x","dedupe_id":"or\u0064er-7"}"#,
            r#"{"type":"x","dedupe_id":null}"#,
            r#"{"type":"x","reopen":true,"expected_last_id":"a-1"}"#,
            r#"{"type":"x","reopen":false,"expected_last_id":""}"#,
            r#"{"type":"x","reopen":null,"expected_last_id":null}"#,
        ] {
            let object = |event: Complete| {
                let mut out = String::new();
                envelope::write_lean(&event, &mut out);
                out
            };
            let read = quick(text, Others::PassedOver).unwrap_or_else(|| panic!("not taken: {text}"));
            assert_eq!(
                object(read.expect(text)),
                object(envelope::read_any(text, Others::PassedOver).expect("valid")),
                "{text}"
            );
            let id = |event: Complete| {
                (event.dedupe_id().map(str::to_owned), event.reopens(), event.expected_last_id())
            };
            assert_eq!(
                quick(text, Others::Refused).map(|read| id(read.expect(text))),
                envelope::read_any(text, Others::Refused).ok().map(id),
                "{text}"
            );
        }
    }

    #[test]
    fn unknown_keys_that_are_faults_are_left_to_the_other_reader() {
        for (text, is_taken) in [
            (r#"{"type":"x","entitty":{"kind":"k"}}"#, false),
            (r#"{"type":"x","data":1,"extra":null}"#, false),
            (r#"{"type":"x","":1}"#, false),
            (r#"{"type":"x","dedupe_id":7}"#, false),
            (r#"{"type":"x","dedupe_id":""}"#, false),
            (r#"{"type":"x","reopen":1}"#, false),
            (r#"{"type":"x","expected_last_id":"no id"}"#, false),
            (r#"{"type":"x","expected_last_id":5}"#, false),
            (r#"{"type":"x","entity":{"kind":"k","more":1}}"#, false),
            (
                r#"{"event_id":"a-1","type":"x","position":"a~1","merged":3,"id":"m","metadata":{"a":1}}"#,
                true,
            ),
            (r#"{"type":"x","message_id":"m","payload":{"entitty":1}}"#, true),
        ] {
            assert!(quick(text, Others::PassedOver).is_some(), "{text}");
            assert_eq!(quick(text, Others::Refused).is_some(), is_taken, "{text}");
            assert_eq!(envelope::read_any(text, Others::Refused).is_ok(), is_taken, "{text}");
        }
    }

    #[test]
    fn fields_that_make_no_event_are_reported_without_another_pass() {
        let long = format!(r#"{{"type":"{}"}}"#, "x".repeat(2000));
        for text in ["{}", r#"{"type":"a\tb"}"#, r#"{"type":""}"#, r#"{"type":"x","source":"\u0000"}"#, &long]
        {
            for others in BOTH {
                let error = quick(text, others).expect(text).expect_err(text);
                let Err(ReadError::Event(other)) = envelope::read_any(text, others) else {
                    panic!("another fault: {text}");
                };
                assert_eq!(error, other, "{text}");
            }
        }
    }

    #[test]
    fn faulty_input_is_left_to_the_other_reader() {
        for text in [
            "",
            "{",
            "[]",
            r#"{"type":"x""#,
            r#"{"type":"x"}}"#,
            r#"{"type":"x"} 1"#,
            r#"{"type":"x",}"#,
            r#"{,"type":"x"}"#,
            r#"{"type":"x" "source":"y"}"#,
            r#"{"type":"\ud800"}"#,
            r#"{"type":"\x"}"#,
            r#"{"type":"x","event_type":"y"}"#,
            r#"{"type":"x","type":"y"}"#,
            r#"{"type":5}"#,
            r#"{"type":nullx}"#,
            r#"{"ty\u0070e":"x","type":"y"}"#,
            r#"{"type":"x","entity":"task:1"}"#,
            r#"{"type":"x","entity":{"kind":"k","kind":"l"}}"#,
            r#"{"type":"x","payload":}"#,
            r#"{"type":"x","payload":{]}"#,
            r#"{"type":"x","payload":1,"d\u0061ta":2}"#,
            r#"{"type":"x","ts":"yesterday"}"#,
            r#"{"type":"agent_status","key":"agent:a:status","key":"agent:b:status"}"#,
            r#"{"type":"x","dedupe_id":"1","dedupe_id":"2"}"#,
        ] {
            for others in BOTH {
                assert!(quick(text, others).is_none(), "{text}");
                assert!(envelope::read_any(text, others).is_err(), "{text}");
            }
        }
    }
}

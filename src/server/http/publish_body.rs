//! Parses the body of `POST /publish`: one event, an array, or one event a line.
//!
//! Always: either every event of a body is returned or none.

use serde_json::value::RawValue;

use super::refusal::FaultStatus;
use crate::codec::http::Request;
use crate::dialect::{Complete, ErrorCode, HttpFault, cloudevents, envelope, shortened};
use crate::event::Event;

/// Reason why a body was refused, and the line, from 1.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BodyError {
    pub(crate) line: usize,
    pub(crate) error: String,
    pub(crate) status: FaultStatus,
}

impl BodyError {
    fn new(line: usize, error: impl Into<String>) -> Self {
        Self { line, error: error.into(), status: ErrorCode::InvalidEvent.into() }
    }
}

fn too_many(line: usize, max: usize) -> BodyError {
    let error = format!(
        "more than {max} events in one request: send them in several, or let the operator raise max_batch_events"
    );
    BodyError { status: HttpFault::BatchTooLong.into(), ..BodyError::new(line, error) }
}

/// Further check of an event. An error is the reason to refuse it.
type Check<'a> = &'a dyn Fn(&Event) -> Result<(), String>;

/// Rules for the events of a body.
#[derive(Clone, Copy)]
pub(crate) struct BodyRules<'a> {
    /// Maximum number of events.
    pub(crate) max: usize,
    pub(crate) check: Check<'a>,
    /// Stream of all events; `None` if each may have its own.
    pub(crate) stream: Option<&'a str>,
}

/// Returns the number of the line, from 1, that starts after `before`.
fn line_after(before: &[u8]) -> usize {
    before.split(|byte| *byte == b'\n').count()
}

fn line_of(body: &str, part: &str) -> usize {
    line_after(&body.as_bytes()[..offset_in(body, part)])
}

/// Returns the offset of a slice of a body.
fn offset_in(body: &str, part: &str) -> usize {
    // The difference of the addresses.
    (part.as_ptr() as usize).saturating_sub(body.as_ptr() as usize).min(body.len())
}

/// Parses the CloudEvents of a request, if it has some: as JSON, as a batch, or one in headers and body.
pub(crate) fn read_cloud_events(
    request: &Request,
    kind: &str,
    body: &[u8],
    rules: BodyRules<'_>,
) -> Option<Result<Vec<Complete>, BodyError>> {
    let is_batch = kind == "application/cloudevents-batch+json";
    if !is_batch && kind != "application/cloudevents+json" {
        request.header("ce-specversion")?;
        let kind = request.header("content-type");
        let event = cloudevents::read_binary_in(request.headers(), kind, body, rules.stream);
        return Some(checked(event, rules).map(|event| vec![event]));
    }
    Some(read_cloud_events_json(body, is_batch, rules))
}

fn read_cloud_events_json(
    body: &[u8],
    is_batch: bool,
    rules: BodyRules<'_>,
) -> Result<Vec<Complete>, BodyError> {
    let body = text_of(body)?;
    let read = |text: &str| checked(cloudevents::read_structured_in(text, rules.stream), rules);
    if is_batch {
        read_items(body, rules.max, "a JSON array", read)
    } else {
        Ok(vec![read_one(body, body, read)?.at_line(1)])
    }
}

/// Returns a body's text.
fn text_of(body: &[u8]) -> Result<&str, BodyError> {
    simdutf8::compat::from_utf8(body)
        .map_err(|error| BodyError::new(line_after(&body[..error.valid_up_to()]), "body is not valid UTF-8"))
}

/// Reads each item of a JSON array. `expected` names the array in the error of a body that is none.
fn read_items(
    body: &str,
    max: usize,
    expected: &str,
    read: impl Fn(&str) -> Result<Complete, BodyError>,
) -> Result<Vec<Complete>, BodyError> {
    let items: Vec<&RawValue> =
        serde_json::from_str(body).map_err(|e| BodyError::new(e.line(), format!("not {expected}: {e}")))?;
    if items.len() > max {
        return Err(too_many(line_of(body, items[max].get()), max));
    }
    let (mut line, mut seen) = (1, 0);
    let mut at_line = |item: &str| {
        let offset = offset_in(body, item);
        line += memchr::memchr_iter(b'\n', &body.as_bytes()[seen..offset]).count();
        seen = offset;
        line
    };
    items
        .into_iter()
        .map(|item| Ok(read_one(body, item.get(), &read)?.at_line(at_line(item.get()))))
        .collect()
}

/// Returns an event that was parsed, if it may be published. The line of an error is 1.
fn checked(event: Result<Complete, String>, rules: BodyRules<'_>) -> Result<Complete, BodyError> {
    let event = event.map_err(|error| BodyError::new(1, error))?;
    if let Some(stream) = rules.stream
        && event.stream() != Some(stream)
    {
        let own = event.stream().unwrap_or_default();
        let error = format!(
            "stream_id '{}' is not '{}', that of the path: leave it out",
            shortened(own),
            shortened(stream)
        );
        return Err(BodyError::new(1, error));
    }
    match (rules.check)(&event) {
        Ok(()) => Ok(event),
        Err(error) => Err(BodyError { status: ErrorCode::Schema.into(), ..BodyError::new(1, error) }),
    }
}

/// Parses the events of a body. `lines` is true if the content type is NDJSON.
pub(crate) fn read_body(body: &[u8], lines: bool, rules: BodyRules<'_>) -> Result<Vec<Complete>, BodyError> {
    let body = text_of(body)?;
    let body = body.strip_prefix('\u{feff}').unwrap_or(body);
    let start = body.trim_ascii_start();
    if start.is_empty() {
        return Err(BodyError::new(1, "body is empty: expected an event"));
    }
    if lines {
        return read_lines(body, rules);
    }
    if start.starts_with('[') {
        return read_items(body, rules.max, "JSON", |text| read_event(text, rules));
    }
    // A single value may span lines. More than one value means one a line, regardless of the content type.
    match serde_json::from_str::<&RawValue>(body) {
        Ok(value) => {
            let event = read_one(body, value.get(), |text| read_event(text, rules))?;
            Ok(vec![event.at_line(line_of(body, value.get()))])
        }
        Err(error) if start.trim_ascii_end().contains('\n') && !error.is_eof() => read_lines(body, rules),
        Err(e) => Err(BodyError::new(e.line(), format!("not JSON: {e}"))),
    }
}

/// Reads an event, which is a part of the body. An error has its line in the body.
fn read_one(
    body: &str,
    text: &str,
    read: impl Fn(&str) -> Result<Complete, BodyError>,
) -> Result<Complete, BodyError> {
    read(text).map_err(|error| BodyError { line: line_of(body, text), ..error })
}

/// Parses one event, and returns it if it may be published. The line of an error is 1.
fn read_event(text: &str, rules: BodyRules<'_>) -> Result<Complete, BodyError> {
    let read = match rules.stream {
        Some(stream) => envelope::read_published_in(text, stream),
        None => envelope::read_published(text),
    };
    checked(read.map_err(|error| error.to_string()), rules)
}

fn read_lines(body: &str, rules: BodyRules<'_>) -> Result<Vec<Complete>, BodyError> {
    let mut events = Vec::new();
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', body.as_bytes()).chain([body.len()]);
    for (at, end) in ends.enumerate() {
        let line = body[start..end].trim_ascii();
        start = end + 1;
        if !line.is_empty() {
            if events.len() == rules.max {
                return Err(too_many(at + 1, rules.max));
            }
            let event = read_event(line, rules).map_err(|error| BodyError { line: at + 1, ..error })?;
            events.push(event.at_line(at + 1));
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(check: Check<'_>) -> BodyRules<'_> {
        BodyRules { max: 100, check, stream: None }
    }

    fn types(body: &str, lines: bool) -> Result<Vec<String>, usize> {
        let events = read_body(body.as_bytes(), lines, rules(&|_| Ok(()))).map_err(|e| e.line)?;
        Ok(events.iter().map(|e| e.event_type().to_owned()).collect())
    }

    #[test]
    fn one_event_an_array_and_lines_are_taken() {
        let ok = |names: &[&str]| Ok(names.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(types("{\"type\":\"a\",\n \"payload\":{\n}}", false), ok(&["a"]));
        assert_eq!(types("[{\"type\":\"a\"},\n{\"type\":\"b\"}]", false), ok(&["a", "b"]));
        assert_eq!(types("{\"type\":\"a\"}\n\n{\"type\":\"b\"}\r\n", true), ok(&["a", "b"]));
        assert_eq!(types("{\"type\":\"a\"}\n{\"type\":\"b\"}", false), ok(&["a", "b"]));
        assert_eq!(types("[]", false), ok(&[]));
        assert_eq!(types("\u{feff}{\"type\":\"a\"}", false), ok(&["a"]));
    }

    #[test]
    fn the_line_of_the_first_bad_event_is_reported() {
        for (body, lines, line) in [
            ("", false, 1),
            (" \n", true, 1),
            ("{\"type\":\"a\"}\nnope\n{}", true, 2),
            ("[{\"type\":\"a\"},\n\n{\"source\":\"b\"}]", false, 3),
            ("{\"type\":\"a\"}\n{\"type\":\"b\"}\n{\"type\":5}", false, 3),
            ("{\"type\":\n\"a\",", false, 2),
            ("[{\"type\":\"a\"},", false, 1),
            ("5", false, 1),
        ] {
            assert_eq!(types(body, lines), Err(line), "{body:?}");
        }
        assert_eq!(
            read_body(b"{\"type\":\"a\"}\n\xff", true, rules(&|_| Ok(()))).map_err(|e| e.line).err(),
            Some(2)
        );
    }

    #[test]
    fn an_invalid_event_is_reported_with_its_line() {
        let check = |event: &Event| {
            if event.event_type() == "b" { Err("payload/x: is wrong".to_owned()) } else { Ok(()) }
        };
        for (body, lines) in
            [("{\"type\":\"a\"}\n{\"type\":\"b\"}", true), ("[{\"type\":\"a\"},\n{\"type\":\"b\"}]", false)]
        {
            let error = read_body(body.as_bytes(), lines, rules(&check)).expect_err("b");
            assert_eq!(
                (error.line, error.error.as_str(), error.status.label),
                (2, "payload/x: is wrong", "schema")
            );
        }
    }

    #[test]
    fn a_batch_with_too_many_events_is_refused_with_the_line_of_the_first_beyond_the_limit() {
        let all = "{\"type\":\"a\"},\n".repeat(101);
        let array = format!("[{}]", all.trim_end().trim_end_matches(','));
        for (body, lines) in [(array.clone(), false), (all.replace("},", "}"), true)] {
            let error = read_body(body.as_bytes(), lines, rules(&|_| Ok(()))).expect_err("101 events");
            assert_eq!((error.line, error.status), (101, HttpFault::BatchTooLong.into()), "{lines}");
        }
        let error =
            read_cloud_events_json(array.as_bytes(), true, rules(&|_| Ok(()))).expect_err("101 events");
        assert_eq!((error.line, error.status), (101, HttpFault::BatchTooLong.into()));
    }

    #[test]
    fn events_of_a_run_have_its_stream_and_no_other() {
        let rules = BodyRules { stream: Some("run-1"), ..rules(&|_| Ok(())) };
        let streams = |body: &str| {
            let events =
                read_body(body.as_bytes(), false, rules).map_err(|error| (error.line, error.error))?;
            Ok::<_, (usize, String)>(
                events.iter().map(|event| event.stream().map(str::to_owned)).collect::<Vec<_>>(),
            )
        };
        let own = Some("run-1".to_owned());
        assert_eq!(streams(r#"{"type":"a"}"#), Ok(vec![own.clone()]));
        assert_eq!(
            streams("{\"type\":\"a\"}\n{\"type\":\"b\",\"stream_id\":\"run-1\"}"),
            Ok(vec![own.clone(), own.clone()])
        );
        // An unusual form, a null, and a payload that implies another stream.
        assert_eq!(
            streams(r#"{ "payload" : {} , "event_type" : "\u0061", "stream_id": null }"#),
            Ok(vec![own.clone()])
        );
        assert_eq!(streams(r#"{"type":"STATE_CHANGED","payload":{"stream_id":"b"}}"#), Ok(vec![own.clone()]));
        let other = "stream_id 'b' is not 'run-1', that of the path: leave it out";
        assert_eq!(
            streams("[{\"type\":\"a\"},\n{\"type\":\"a\",\"stream_id\":\"b\"}]"),
            Err((2, other.to_owned()))
        );
        assert!(streams(r#"{"type":"a","stream_id":""}"#).is_err());
        let event = r#"{"specversion":"1.0","type":"a","source":"/s","id":"1"}"#;
        let read = |text: &str| {
            read_cloud_events_json(text.as_bytes(), false, rules)
                .map(|events| events[0].stream().map(str::to_owned))
        };
        assert_eq!(read(event), Ok(own.clone()));
        assert_eq!(read(&event.replace('}', r#","streamid":"run-1"}"#)), Ok(own));
        assert!(read(&event.replace('}', r#","partitionkey":"b"}"#)).is_err());
    }
}

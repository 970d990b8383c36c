//! CloudEvents 1.0 as published over HTTP: structured, batched and binary.
//!
//! Invariants:
//! - An event that breaks the specification is refused with the name of the attribute at fault.
//! - The payload is the CloudEvent's data, byte for byte.

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use super::infer_attributes::{Complete, complete};
use crate::codec::http::percent_decode;
use crate::event::{Event, Timestamp, json};

/// Attributes of one event: those of the specification, and extensions.
type Attributes<'a> = HashMap<Cow<'a, str>, Cow<'a, str>>;

/// Form of the data in a body.
enum Data<'a> {
    None,
    /// JSON text.
    Json(Cow<'a, str>),
    /// Text that is not JSON.
    Text(Cow<'a, str>),
    /// Base64 of bytes.
    Base64(Cow<'a, str>),
}

/// Reads an event in JSON: `application/cloudevents+json`, or one of a batch.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_structured(text: &str) -> Result<Complete, String> {
    read_structured_in(text, None)
}

/// Reads an event as [`read_structured`] does. The stream is that of an event that names none.
pub(crate) fn read_structured_in(text: &str, stream: Option<&str>) -> Result<Complete, String> {
    if !text.trim_ascii_start().starts_with('{') {
        return Err("not a CloudEvent: expected a JSON object".to_owned());
    }
    let members: HashMap<String, &RawValue> =
        serde_json::from_str(text).map_err(|error| format!("not a CloudEvent: {error}"))?;
    let mut attributes = Attributes::new();
    let (mut data, mut base64) = (None, None);
    for (name, value) in members {
        let value = value.get();
        match name.as_str() {
            // A member that is null is absent (JSON format, 2.2), but null data is a value.
            "data" => data = Some(value),
            _ if value == "null" => {}
            "data_base64" => base64 = Some(read_string(&name, value)?),
            _ => {
                check_name(&name)?;
                let value = match value.as_bytes().first() {
                    Some(b'"') => Cow::Owned(read_string(&name, value)?),
                    Some(b'{' | b'[') => return Err(format!("{name} is neither text, number nor boolean")),
                    _ => Cow::Borrowed(value),
                };
                attributes.insert(name.into(), value);
            }
        }
    }
    let is_json = is_json(attributes.get("datacontenttype").map_or("application/json", |kind| &**kind));
    let data = match (data, base64) {
        (Some(_), Some(_)) => return Err("data and data_base64 exclude each other".to_owned()),
        (None, None) => Data::None,
        (None, Some(base64)) => {
            STANDARD.decode(&base64).map_err(|error| format!("data_base64: {error}"))?;
            Data::Base64(base64.into())
        }
        // In this form, data that is not JSON is a JSON string.
        (Some(data), None) if !is_json && !data.starts_with('"') => {
            return Err("data whose datacontenttype is not JSON is a string or in data_base64".to_owned());
        }
        (Some(data), None) => Data::Json(data.into()),
    };
    build(&attributes, data, stream)
}

/// Reads an event from headers named `ce-…`, with the body as its data.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_binary<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    content_type: Option<&'a str>,
    body: &'a [u8],
) -> Result<Complete, String> {
    read_binary_in(headers, content_type, body, None)
}

/// Reads an event as [`read_binary`] does. The stream is that of an event that names none.
pub(crate) fn read_binary_in<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    content_type: Option<&'a str>,
    body: &'a [u8],
    stream: Option<&str>,
) -> Result<Complete, String> {
    let mut attributes = Attributes::new();
    for (name, value) in headers {
        let Some(name) = name.get(..3).filter(|start| start.eq_ignore_ascii_case("ce-")).map(|_| &name[3..])
        else {
            continue;
        };
        let name = name.to_ascii_lowercase();
        check_name(&name)?;
        let value = match unquote(value) {
            Cow::Borrowed(value) => percent_decode(value),
            Cow::Owned(value) => percent_decode(&value).map(|value| Cow::Owned(value.into_owned())),
        };
        let value = value.ok_or_else(|| format!("ce-{name} is not percent-encoded UTF-8"))?;
        if attributes.insert(name.clone().into(), value).is_some() {
            return Err(format!("ce-{name} appears twice"));
        }
    }
    let text = std::str::from_utf8(body).ok();
    let kind = content_type.unwrap_or("application/json");
    let data = match text {
        _ if body.is_empty() => Data::None,
        Some(text) if is_json(kind) => Data::Json(text.into()),
        Some(text) if kind.to_ascii_lowercase().starts_with("text/") || kind.contains("xml") => {
            Data::Text(text.into())
        }
        None if is_json(kind) => return Err("data is not valid UTF-8".to_owned()),
        _ => Data::Base64(STANDARD.encode(body).into()),
    };
    build(&attributes, data, stream)
}

fn read_string(name: &str, value: &str) -> Result<String, String> {
    serde_json::from_str(value).map_err(|_| format!("{name} is not a string"))
}

/// Checks an attribute's name: lower-case letters and digits (CloudEvents, 3.1).
fn check_name(name: &str) -> Result<(), String> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return Ok(());
    }
    Err(format!("'{}' is no attribute's name: lower-case letters and digits", super::shortened(name)))
}

/// Returns whether text of this type is JSON: `application/json`, or a type that ends with `+json`.
fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.ends_with("/json") || kind.ends_with("+json")
}

fn build(attributes: &Attributes<'_>, data: Data<'_>, stream: Option<&str>) -> Result<Complete, String> {
    let get = |name: &str| attributes.get(name).map(|value| &**value);
    let required = |name: &str| {
        get(name).filter(|value| !value.is_empty()).ok_or_else(|| format!("{name} is missing or empty"))
    };
    match required("specversion")? {
        "1.0" => {}
        other => return Err(format!("specversion {} is not 1.0", super::shortened(other))),
    }
    let mut builder = Event::builder(required("type")?).source(required("source")?);
    let id = required("id")?;
    // Source and id together identify a CloudEvent. Without a correlation, the id ties copies together.
    builder = builder.correlation(get("correlationid").unwrap_or(id));
    if let Some(time) = get("time") {
        let time: Timestamp = time.parse().map_err(|_| "time is not RFC 3339".to_owned())?;
        builder = builder.timestamp(time);
    }
    if let Some(stream) = get("streamid").or(get("partitionkey")) {
        builder = builder.stream(stream);
    } else if let Some(stream) = stream {
        builder = builder.stream(stream);
    }
    if let Some(execution) = get("executionid") {
        builder = builder.execution(execution);
    }
    if let Some(channel) = get("channel") {
        builder = builder.channel(channel);
    }
    // The extension for distributed tracing.
    if let Some(parent) = get("traceparent") {
        builder = builder.trace(parent, get("tracestate"));
    }
    match (get("entitykind"), get("entityid").or(get("subject"))) {
        (None, None) => {}
        (kind, id) => builder = builder.entity(kind.unwrap_or("subject"), id.unwrap_or_default()),
    }
    match data {
        Data::None => {}
        Data::Json(text) => builder = builder.json(text),
        Data::Text(text) | Data::Base64(text) => {
            let mut quoted = String::with_capacity(text.len() + 2);
            json::write_string(&text, &mut quoted);
            builder = builder.json(quoted);
        }
    }
    complete(builder).map_err(|error| error.to_string())
}

/// Removes the quotes and escapes of a quoted string (RFC 7230, 3.2.6); other values stay as they are.
fn unquote(value: &str) -> Cow<'_, str> {
    let Some(inside) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Cow::Borrowed(value);
    };
    if !inside.contains('\\') {
        return Cow::Borrowed(inside);
    }
    let mut text = String::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        // A backslash escapes the next character.
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the event of the specification's examples with more members.
    fn example(more: &str) -> String {
        format!(
            r#"{{"specversion":"1.0","type":"com.github.pull_request.opened","source":"https://github.com/cloudevents/spec/pull","subject":"123","id":"A234-1234-1234","time":"2018-04-05T17:31:00Z","comexampleextension1":"value","comexampleothervalue":5{more}}}"#
        )
    }

    #[test]
    fn the_specifications_examples_are_read() {
        let xml = r#","datacontenttype":"text/xml","data":"<much wow=\"xml\"/>""#;
        let event = read_structured(&example(xml)).expect("the specification's own");
        assert_eq!(event.event_type(), "com.github.pull_request.opened");
        assert_eq!(event.source(), Some("https://github.com/cloudevents/spec/pull"));
        assert_eq!(event.entity(), Some(("subject", "123")));
        assert_eq!(event.correlation(), Some("A234-1234-1234"));
        assert_eq!(event.timestamp().to_string(), "2018-04-05T17:31:00.000000Z");
        assert_eq!(event.payload(), r#""<much wow=\"xml\"/>""#);
        let object = r#","unsetextension":null,"datacontenttype":"application/json","data":{"appinfoA":"abc","appinfoB":123,"appinfoC":true}"#;
        let event = read_structured(&example(object)).expect("the JSON format's own");
        assert_eq!(event.payload(), r#"{"appinfoA":"abc","appinfoB":123,"appinfoC":true}"#);
        let bytes = r#","datacontenttype":"application/vnd.apache.thrift.binary","data_base64":"aGVsbG8=""#;
        assert_eq!(read_structured(&example(bytes)).expect("base64").payload(), r#""aGVsbG8=""#);
        assert_eq!(read_structured(&example(r#","data":null"#)).expect("null").payload(), "null");
        assert_eq!(read_structured(&example("")).expect("no data").payload(), "{}");
    }

    #[test]
    fn the_http_bindings_binary_example_is_read() {
        let headers = [
            ("Host", "webhook.example.com"),
            ("ce-specversion", "1.0"),
            ("ce-type", "com.example.someevent"),
            ("CE-Time", "2018-04-05T03:56:24Z"),
            ("ce-id", "1234-1234-1234"),
            ("ce-source", "/mycontext/subcontext"),
            ("ce-channel", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ];
        let read = |kind, body| read_binary(headers.into_iter(), kind, body);
        let event =
            read(Some("application/json; charset=utf-8"), br#"{ "a" : 1 }"#).expect("the binding's own");
        assert_eq!((event.event_type(), event.payload()), ("com.example.someevent", r#"{"a":1}"#));
        assert_eq!(event.channel(), Some("Euro € 😀"));
        assert_eq!(read(Some("text/plain"), b"say \"hi\"").expect("text").payload(), r#""say \"hi\"""#);
        assert_eq!(
            read(Some("application/octet-stream"), b"\xff\x00").expect("bytes").payload(),
            r#""/wA=""#
        );
        assert_eq!(read(None, b"").expect("nothing").payload(), "{}");
        assert!(read(Some("application/json"), b"{").is_err());
    }

    #[test]
    fn extensions_become_attributes_where_they_have_one() {
        let text = r#","correlationid":"run-42","partitionkey":"webhook","executionid":"ex-1","channel":"dev","entitykind":"task","entityid":"t-1""#;
        let event = read_structured(&example(text)).expect("valid");
        assert_eq!(event.correlation(), Some("run-42"));
        assert_eq!((event.stream(), event.execution()), (Some("webhook"), Some("ex-1")));
        assert_eq!((event.channel(), event.entity()), (Some("dev"), Some(("task", "t-1"))));
    }

    #[test]
    fn violations_of_the_specification_are_named() {
        let minimal =
            |more: &str| format!(r#"{{"specversion":"1.0","type":"t","source":"s","id":"i"{more}}}"#);
        assert!(read_structured(&minimal("")).is_ok());
        for (text, want) in [
            (minimal("").replace("1.0", "0.3"), "specversion 0.3 is not 1.0"),
            (minimal("").replace(r#","id":"i""#, ""), "id is missing"),
            (minimal("").replace(r#""source":"s""#, r#""source":"""#), "source is missing or empty"),
            (minimal(r#","time":"yesterday""#), "time is not RFC 3339"),
            (minimal(r#","Upper":"x""#), "'Upper' is no attribute's name"),
            (minimal(r#","ext":{}"#), "ext is neither"),
            (minimal(r#","data":1,"data_base64":"""#), "data and data_base64"),
            (minimal(r#","data_base64":"*""#), "data_base64: "),
            (minimal(r#","datacontenttype":"text/plain","data":{}"#), "data whose datacontenttype"),
            ("[]".to_owned(), "not a CloudEvent"),
        ] {
            let error = read_structured(&text).expect_err(&text);
            assert!(error.starts_with(want), "{text}: {error}");
        }
        let twice = [("ce-id", "1"), ("CE-ID", "2")];
        assert!(read_binary(twice.into_iter(), None, b"").expect_err("twice").contains("twice"));
    }
}

//! Native events as text of an event stream (SSE).

use super::command::in_scratch;
use super::envelope;
use crate::codec::sse;
use crate::event::{Event, Position};

/// Headers of an event stream: its content type, and values that keep caches and proxies from buffering it.
pub const HEADERS: [(&str, &str); 4] = [
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-cache"),
    ("Connection", "keep-alive"),
    ("X-Accel-Buffering", "no"),
];

/// Returns an event as SSE text: `event`, `data`, `id` (once the event is published) and an empty line. The name defaults to
/// the event's type.
#[must_use]
pub fn format_sse_event(event: &Event, event_name: Option<&str>) -> String {
    let mut frame = Vec::new();
    put_event(event, Some(event_name.unwrap_or(event.event_type())), None, &mut frame);
    // The frame is made of strings.
    String::from_utf8_lossy(&frame).into_owned()
}

/// Appends an event with the event object as its data.
pub(super) fn put_event(
    event: &Event,
    name: Option<&str>,
    position: Option<&Position>,
    frames: &mut Vec<u8>,
) {
    in_scratch(|json| {
        envelope::write_event(event, json);
        put_data(event, name, json, position, frames);
    });
}

/// Appends an event with this data. The stream's id is `position` if there is one, else the event's own id.
pub(super) fn put_data(
    event: &Event,
    name: Option<&str>,
    data: &str,
    position: Option<&Position>,
    frames: &mut Vec<u8>,
) {
    let id = position.map(Position::to_string).or_else(|| event.id().map(|id| id.to_string()));
    sse::encode_event(frames, name, data, id.as_deref());
}

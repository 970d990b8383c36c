//! Encodes native events in lean form, for clients that need few bytes. Over WebSocket it is the event object without a
//! message around it; on an event stream it is the payload alone. All other messages are those of the native dialect.

use std::fmt::Write as _;

use super::command::{in_scratch, put_text};
use super::{envelope, stream};
use crate::event::{Event, Position};

/// Subprotocol by which a client asks for this form.
pub(crate) const PROTOCOL: &str = "fanwire.v1.lean";

/// Appends the event object as a WebSocket frame. If the id alone is not enough to resume from, the last field is a
/// `position`.
pub(super) fn put_event(event: &Event, position: Option<&Position>, frames: &mut Vec<u8>) {
    in_scratch(|out| {
        envelope::write_lean(event, out);
        put_position(position, out);
        put_text(frames, out);
    });
}

/// Adds the position to the event object at the end of `out`, if there is one.
pub(super) fn put_position(position: Option<&Position>, out: &mut String) {
    if let Some(position) = position {
        // Reopens the object before its closing bracket. Writing to a String does not fail.
        out.pop();
        let _ = write!(out, r#","position":"{position}"}}"#);
    }
}

/// Appends the payload as an event of an event stream. Its name and id carry the type and the event's id.
pub(super) fn put_sse_event(
    event: &Event,
    name: Option<&str>,
    position: Option<&Position>,
    frames: &mut Vec<u8>,
) {
    stream::put_data(event, name, event.payload(), position, frames);
}

#[cfg(test)]
mod tests {
    use super::super::Encoding;
    use super::*;
    use crate::codec::ws;
    use crate::event::EventId;

    const ID: EventId = EventId { epoch: 0x7fff_ffff, shard: 0, sequence: 123_456 };

    fn event(payload: &str) -> Event {
        let event = Event::builder("task.progress").source("core").json(payload).build().expect("valid");
        event.set_id(ID);
        event
    }

    fn text(frame: &[u8]) -> &str {
        let (op, payload) = ws::payload_of(frame).expect("a frame");
        assert_eq!(op, ws::OpCode::Text);
        std::str::from_utf8(payload).expect("text")
    }

    #[test]
    fn a_frame_is_the_object() {
        let frame = Encoding::NativeWsLean.encode(&event("[1]"), None);
        let want =
            format!(r#"{{"event_id":"{ID}","event_type":"task.progress","source":"core","payload":[1]}}"#);
        assert_eq!(text(&frame), want);
    }

    #[test]
    fn a_position_stands_last() {
        let position: Position = "zik0zj~1.2".parse().expect("a position");
        let frame = Encoding::NativeWsLean.encode(&event("{}"), Some(&position));
        let want = format!(r#""source":"core","payload":{{}},"position":"{position}"}}"#);
        assert!(text(&frame).ends_with(&want), "{}", text(&frame));
        let stream = Encoding::NativeSseLeanUnnamed.encode(&event("{}"), Some(&position));
        assert_eq!(stream, format!("data: {{}}\nid: {position}\n\n"));
    }

    #[test]
    fn a_stream_has_the_payload_as_data_and_the_rest_in_its_fields() {
        let event = event(r#"{"text":"a\nb \u2028"}"#);
        let named = Encoding::NativeSseLean.encode(&event, None);
        assert_eq!(
            named,
            format!("event: task.progress\ndata: {{\"text\":\"a\\nb \\u2028\"}}\nid: {ID}\n\n")
        );
        let unpublished = Event::builder("x").build().expect("valid");
        assert_eq!(Encoding::NativeSseLeanUnnamed.encode(&unpublished, None), "data: {}\n\n");
    }
}

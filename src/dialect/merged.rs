//! Merged events: the last one of several neighbours, with the merged payload and the number of events.

use std::fmt::Write as _;

use bytes::Bytes;

use super::command::{in_scratch, put_text};
use super::encoding::Encoding;
use super::{envelope, lean, native, stream};
use crate::event::{Event, Position};

/// Payload of a merged event.
#[derive(Debug)]
pub(crate) struct MergedPayload {
    pub(crate) payload: String,
    /// Number of events.
    pub(crate) count: u32,
}

impl MergedPayload {
    /// Puts it in place of the payload at the end of an event object, which is the end of `out`.
    fn replace_in(&self, event: &Event, out: &mut String) {
        out.truncate(out.len() - event.payload().len() - 1);
        out.push_str(&self.payload);
        // Writing to a String does not fail.
        let _ = write!(out, r#","merged":{}}}"#, self.count);
    }
}

impl Encoding {
    /// Encodes a merged event for a client at `position` after it; `None` if the dialect has no merged events.
    #[cfg_attr(not(feature = "dialects"), expect(clippy::unnecessary_wraps, reason = "as with `dialects`"))]
    pub(crate) fn encode_merged(
        self,
        event: &Event,
        merged: &MergedPayload,
        position: Option<&Position>,
    ) -> Option<Bytes> {
        let mut frame = Vec::with_capacity(merged.payload.len() + 512);
        let name = Some(event.event_type());
        match self {
            Self::NativeWs => {
                native::put_message(event, position, &mut frame, |time, out| {
                    envelope::write_event_at(event, time, out);
                    merged.replace_in(event, out);
                });
            }
            Self::NativeWsLean => in_scratch(|out| {
                envelope::write_lean(event, out);
                merged.replace_in(event, out);
                lean::put_position(position, out);
                put_text(&mut frame, out);
            }),
            Self::NativeSse | Self::NativeSseUnnamed => in_scratch(|json| {
                envelope::write_event(event, json);
                merged.replace_in(event, json);
                let name = name.filter(|_| self == Self::NativeSse);
                stream::put_data(event, name, json, position, &mut frame);
            }),
            Self::NativeSseLean | Self::NativeSseLeanUnnamed => {
                let name = name.filter(|_| self == Self::NativeSseLean);
                stream::put_data(event, name, &merged.payload, position, &mut frame);
            }
            #[cfg(feature = "dialects")]
            _ => return None,
        }
        Some(frame.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::event::EventId;

    #[test]
    fn a_merged_event_is_the_last_one_with_another_payload() {
        let event =
            Event::builder("token").source("core").json(r#"{"delta":"c","n":3}"#).build().expect("valid");
        event.set_id(EventId { epoch: 7, shard: 0, sequence: 9 });
        let merged = MergedPayload { payload: r#"{"delta":"abc","n":3}"#.to_owned(), count: 3 };
        let position: Position = "a~1.2".parse().expect("a position");
        let native =
            [Encoding::NativeWs, Encoding::NativeWsLean, Encoding::NativeSse, Encoding::NativeSseUnnamed];
        for position in [None, Some(&position)] {
            for encoding in native {
                let text = |frame: Bytes| {
                    let text = String::from_utf8_lossy(&frame).into_owned();
                    text[text.find('{').expect("an object")..].to_owned()
                };
                let plain = text(encoding.encode(&event, position));
                let whole = text(encoding.encode_merged(&event, &merged, position).expect("native"));
                let want = plain.replace(
                    r#""payload":{"delta":"c","n":3}}"#,
                    r#""payload":{"delta":"abc","n":3},"merged":3}"#,
                );
                // A lean object has its position after it.
                let want = want.replace(
                    r#""payload":{"delta":"c","n":3},"position""#,
                    r#""payload":{"delta":"abc","n":3},"merged":3,"position""#,
                );
                assert_eq!(whole, want, "{encoding:?}");
                let json = whole.lines().next().expect("a line");
                assert!(serde_json::from_str::<Value>(json).is_ok(), "{json}");
            }
            for encoding in [Encoding::NativeSseLean, Encoding::NativeSseLeanUnnamed] {
                let plain = encoding.encode(&event, position);
                let whole = encoding.encode_merged(&event, &merged, position).expect("native");
                let want = String::from_utf8_lossy(&plain).replace(r#":"c""#, r#":"abc""#);
                assert_eq!(whole, want, "{encoding:?}");
            }
        }
    }
}

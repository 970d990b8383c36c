//! Client protocols: an event to their bytes, their messages to commands. One file each.
//!
//! Imports `event`, `filter` and `codec`. Always: no I/O and no clock of its own; what a dialect encodes for
//! many clients depends on the event alone.

pub(crate) mod envelope;
pub(crate) mod native;

use bytes::Bytes;

use crate::codec::{sse, ws};
use crate::event::{Event, EventId, Timestamp};

/// What a subscription wants done when its client lags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OnLag {
    /// The oldest events go, and a gap tells how many.
    #[default]
    DropOldest,
    /// The newest go, and a gap tells how many.
    DropNewest,
    /// The latest event of each key comes; those before it are left out.
    Conflate,
    /// At most so many a second, lag or not; at least one.
    Sample { per_second: u32 },
    /// The connection is closed.
    Disconnect,
}

/// How many events a second a sample has where the client does not say.
const SAMPLE_PER_SECOND_DEFAULT: u32 = 10;

impl OnLag {
    /// Reads the contract's word for it, or says which there are. `per_second` is for `sample` alone.
    pub(crate) fn read(word: Option<&str>, per_second: Option<u32>) -> Result<Self, String> {
        let rate = per_second.filter(|rate| *rate > 0).unwrap_or(SAMPLE_PER_SECOND_DEFAULT);
        Ok(match word {
            None | Some("drop_oldest") => Self::DropOldest,
            Some("drop_newest") => Self::DropNewest,
            Some("conflate") => Self::Conflate,
            Some("sample") => Self::Sample { per_second: rate },
            Some("disconnect") => Self::Disconnect,
            Some(other) => {
                let words = "drop_oldest, drop_newest, conflate, sample or disconnect";
                return Err(format!("on_lag '{}' is none of {words}", native::shortened(other)));
            }
        })
    }
}

/// How an event's bytes look on a connection: dialect x transport.
///
/// Every event keeps at most one frame for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(clippy::enum_variant_names, reason = "the native dialect is the first of several")]
pub(crate) enum Encoding {
    /// Native messages in WebSocket text frames.
    NativeWs = 0,
    /// Native events as SSE, named by their type.
    NativeSse = 1,
    /// Native events as SSE without a name, for `onmessage`.
    NativeSseUnnamed = 2,
}

impl Encoding {
    /// The event's frame in this encoding, made now. See [`Event::frame`] for the shared one.
    pub(crate) fn encode(self, event: &Event) -> Bytes {
        match self {
            Self::NativeWs => native::event_frame(event),
            Self::NativeSse => sse_frame(event, Some(event.event_type())),
            Self::NativeSseUnnamed => sse_frame(event, None),
        }
    }

    /// The frame that tells a client of a gap.
    pub(crate) fn gap(self, gap: &GapNotice) -> Bytes {
        match self {
            Self::NativeWs => native::gap_frame(gap),
            Self::NativeSse | Self::NativeSseUnnamed => {
                let mut out = Vec::with_capacity(128);
                sse::encode_event(&mut out, Some("gap"), &gap.json(), None);
                out.into()
            }
        }
    }

    /// The frame that asks whether the client is still there, on a connection that is quiet.
    pub(crate) fn heartbeat(self) -> Bytes {
        match self {
            Self::NativeWs => ws::frame(ws::OpCode::Ping, b""),
            Self::NativeSse | Self::NativeSseUnnamed => Bytes::from_static(b": heartbeat\n\n"),
        }
    }
}

fn sse_frame(event: &Event, name: Option<&str>) -> Bytes {
    let mut json = String::with_capacity(256 + event.payload().len());
    envelope::write_event(event, &mut json);
    let id = event.id().map(|id| id.to_string());
    let mut out = Vec::with_capacity(json.len() + 96);
    sse::encode_event(&mut out, name, &json, id.as_deref());
    out.into()
}

/// What a client is told when events were dropped for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GapNotice {
    /// How many of the events it wanted; `None` where that can't be known (another epoch).
    pub(crate) missed: Option<u64>,
    /// The last event before the gap; a resume from here is worth a try if `recoverable`.
    pub(crate) from: Option<EventId>,
    /// The last event within the gap.
    pub(crate) to: Option<EventId>,
    /// Whether the ring still holds what was missed.
    pub(crate) recoverable: bool,
    /// When it was found.
    pub(crate) at: Timestamp,
}

impl GapNotice {
    /// `{"missed","from","to","recoverable"}`.
    pub(crate) fn json(&self) -> String {
        let id = |id: Option<EventId>| id.map_or_else(|| "null".to_owned(), |id| format!("\"{id}\""));
        let missed = self.missed.map_or_else(|| "null".to_owned(), |n| n.to_string());
        format!(
            r#"{{"missed":{missed},"from":{},"to":{},"recoverable":{}}}"#,
            id(self.from),
            id(self.to),
            self.recoverable
        )
    }
}

//! One row per encoding and per dialect: everything that differs between them.

use bytes::Bytes;
use serde_json::json;

use super::command::{LogEnded, Opening, PastEnd, Place, Stamp};
use super::encoding::Encoding;
use super::gap::GapNotice;
use super::name::Dialect;
use super::wire::WireProtocol;
#[cfg(feature = "dialects")]
use super::{agentos, autosdlc, gathering, hive};
use super::{lean, native, stream};
use crate::codec::sse;
use crate::event::{ENCODINGS_MAX, Event, Position};

/// Function that appends the frame of an event, for clients at this position after it.
type Put = fn(&Event, Option<&Position>, &mut Vec<u8>);

/// One encoding.
struct Spec {
    encoding: Encoding,
    dialect: Dialect,
    /// Protocol of the clients' messages.
    protocol: &'static dyn WireProtocol,
    put: Put,
    is_sse: bool,
    /// Whether events omit the parts that the client can know otherwise.
    is_lean: bool,
    /// The lean encoding of the same transport; the encoding itself if there is none.
    lean: Encoding,
    /// The encoding that has the same frames, so that an event keeps one frame for both.
    frames_of: Encoding,
}

impl Spec {
    const fn ws(encoding: Encoding, dialect: Dialect, protocol: &'static dyn WireProtocol, put: Put) -> Self {
        let (lean, frames_of) = (encoding, encoding);
        Self { encoding, dialect, protocol, put, is_sse: false, is_lean: false, lean, frames_of }
    }

    const fn native(encoding: Encoding, lean: Encoding, put: Put) -> Self {
        Self { lean, ..Self::ws(encoding, Dialect::Native, &native::Native, put) }
    }

    const fn lean(self) -> Self {
        Self { is_lean: true, ..self }
    }

    const fn sse(self) -> Self {
        Self { is_sse: true, ..self }
    }

    #[cfg(feature = "dialects")]
    const fn frames_of(self, frames_of: Encoding) -> Self {
        Self { frames_of, ..self }
    }
}

/// Rows in the order of [`Encoding`].
const TABLE: &[Spec] = {
    use Encoding as E;
    &[
        Spec::native(E::NativeWs, E::NativeWsLean, native::put_event),
        Spec::native(E::NativeSse, E::NativeSseLean, |e, at, out| {
            stream::put_event(e, Some(e.event_type()), at, out);
        })
        .sse(),
        Spec::native(E::NativeSseUnnamed, E::NativeSseLeanUnnamed, |e, at, out| {
            stream::put_event(e, None, at, out);
        })
        .sse(),
        Spec::native(E::NativeWsLean, E::NativeWsLean, lean::put_event).lean(),
        Spec::native(E::NativeSseLean, E::NativeSseLean, |e, at, out| {
            lean::put_sse_event(e, Some(e.event_type()), at, out);
        })
        .sse()
        .lean(),
        Spec::native(E::NativeSseLeanUnnamed, E::NativeSseLeanUnnamed, |e, at, out| {
            lean::put_sse_event(e, None, at, out);
        })
        .sse()
        .lean(),
        #[cfg(feature = "dialects")]
        Spec::ws(E::AgentosWs, Dialect::Agentos, &agentos::Agentos { gaps: false }, agentos::put_event),
        #[cfg(feature = "dialects")]
        Spec::ws(E::AgentosWsGaps, Dialect::Agentos, &agentos::Agentos { gaps: true }, agentos::put_event)
            .frames_of(E::AgentosWs),
        #[cfg(feature = "dialects")]
        Spec::ws(E::HiveWs, Dialect::Hive, &hive::Hive { binary: false }, |e, _, out| {
            hive::put_event(e, false, out);
        }),
        #[cfg(feature = "dialects")]
        Spec::ws(E::HiveWsBinary, Dialect::Hive, &hive::Hive { binary: true }, |e, _, out| {
            hive::put_event(e, true, out);
        }),
        #[cfg(feature = "dialects")]
        Spec::ws(E::GatheringWs, Dialect::Gathering, &gathering::Gathering, gathering::put_event),
        #[cfg(feature = "dialects")]
        Spec::ws(E::AutosdlcWs, Dialect::Autosdlc, &autosdlc::Autosdlc { gzip: false }, |e, _, out| {
            autosdlc::put_event(e, false, out);
        }),
        #[cfg(feature = "dialects")]
        Spec::ws(E::AutosdlcWsGzip, Dialect::Autosdlc, &autosdlc::Autosdlc { gzip: true }, |e, _, out| {
            autosdlc::put_event(e, true, out);
        }),
    ]
};

const _: () = {
    // An event keeps at most one frame for each encoding.
    assert!(TABLE.len() <= ENCODINGS_MAX);
    let mut at = 0;
    while at < TABLE.len() {
        assert!(TABLE[at].encoding as usize == at);
        at += 1;
    }
};

impl Encoding {
    /// Returns every encoding.
    #[cfg(test)]
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.encoding)
    }

    const fn spec(self) -> &'static Spec {
        &TABLE[self as usize]
    }

    /// Returns the index under which an event keeps its frame.
    pub(crate) const fn slot(self) -> usize {
        self.spec().frames_of as usize
    }

    pub(crate) const fn dialect(self) -> Dialect {
        self.spec().dialect
    }

    /// Returns whether the bytes are an event stream, not WebSocket messages.
    pub(crate) const fn is_sse(self) -> bool {
        self.spec().is_sse
    }

    /// Returns whether events omit the parts that the client can know otherwise.
    pub(crate) const fn is_lean(self) -> bool {
        self.spec().is_lean
    }

    /// Returns the lean encoding of the same transport, if the dialect has one, else this encoding.
    pub(crate) const fn lean(self) -> Self {
        self.spec().lean
    }

    /// Returns the protocol of the clients' messages.
    pub(crate) const fn protocol(self) -> &'static dyn WireProtocol {
        self.spec().protocol
    }

    /// Encodes the event's frame for a client at `position` after it. The shared frame, from [`Event::frame`], is
    /// encoded for [`Event::position`].
    pub(crate) fn encode(self, event: &Event, position: Option<&Position>) -> Bytes {
        let mut frame = Vec::new();
        self.put(event, position, &mut frame);
        frame.into()
    }

    /// Appends the event's frame to `frames`.
    pub(crate) fn put(self, event: &Event, position: Option<&Position>, frames: &mut Vec<u8>) {
        (self.spec().put)(event, position, frames);
    }

    /// Returns the frame that reports a gap to a client.
    pub(crate) fn gap(self, gap: &GapNotice) -> Bytes {
        if !self.is_sse() {
            return self.protocol().gap(gap);
        }
        let mut out = Vec::with_capacity(128);
        sse::encode_event(&mut out, Some("gap"), &gap.json(), None);
        out.into()
    }

    /// Returns the frame after the last event of a past, if the dialect has one. On an event stream the frame is a comment,
    /// which client code does not see by accident.
    pub(crate) fn past_end(self, end: &PastEnd<'_>, stamp: &Stamp) -> Option<Bytes> {
        if !self.is_sse() {
            return self.protocol().past_end(end, stamp);
        }
        let mut out = Vec::with_capacity(48);
        let PastEnd { events, complete, .. } = end;
        sse::encode_comment(&mut out, &format!("history_end events={events} complete={complete}"));
        Some(out.into())
    }

    /// Appends the event of an event stream that reports the end of a kept log. `at` is the client's place after it.
    pub(crate) fn put_sse_log_end(end: &LogEnded<'_>, at: Option<&str>, out: &mut Vec<u8>) {
        let LogEnded { by, value, last_event_id, complete, .. } = end;
        let data = json!({
            "by": by,
            "value": value,
            "last_event_id": last_event_id.to_string(),
            "complete": complete,
        });
        sse::encode_event(out, Some("end"), &data.to_string(), at);
    }

    /// Returns the heartbeat's frame, which checks that the client on a quiet connection is still there.
    pub(crate) fn heartbeat(self) -> Bytes {
        if self.is_sse() { Bytes::from_static(sse::HEARTBEAT) } else { self.protocol().heartbeat() }
    }
}

impl Dialect {
    /// Returns the start of a connection, from the path's channel and the query. The error describes the fault in them.
    #[cfg_attr(
        not(feature = "dialects"),
        expect(
            unused_variables,
            clippy::needless_pass_by_value,
            clippy::unnecessary_wraps,
            reason = "for the optional dialects"
        )
    )]
    pub(crate) fn open(self, place: Place, query: &[(String, String)]) -> Result<Opening, String> {
        match self {
            Self::Native => Ok(Opening { encoding: Encoding::NativeWs, subscribe: None, place: None }),
            #[cfg(feature = "dialects")]
            Self::Agentos => agentos::open(query),
            #[cfg(feature = "dialects")]
            Self::Hive => Ok(hive::open(query)),
            #[cfg(feature = "dialects")]
            Self::Autosdlc => Ok(autosdlc::open(place, query)),
            #[cfg(feature = "dialects")]
            Self::Gathering => Ok(gathering::open(place)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_has_an_encoding_and_lean_ones_are_their_own() {
        for dialect in Dialect::ALL {
            assert!(TABLE.iter().any(|row| row.dialect == *dialect), "{dialect}");
        }
        for row in TABLE {
            let lean = row.lean.spec();
            assert_eq!((lean.lean, lean.is_sse, lean.dialect), (row.lean, row.is_sse, row.dialect));
            assert_eq!(row.frames_of.spec().frames_of, row.frames_of);
            assert!(lean.is_lean || row.dialect != Dialect::Native, "{:?}", row.encoding);
        }
    }
}

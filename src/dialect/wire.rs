//! The interface of a client protocol over WebSocket.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

#[cfg(feature = "schema")]
use super::command::ClientError;
use super::command::{ClientMessage, Incoming, LogEnded, PastEnd, Place, Refusal, Reply, ReplyTag, Stamp};
#[cfg(feature = "schema")]
use super::documents::DocumentSchemas;
use super::gap::GapNotice;
use super::observe::{Observed, Observers, Watch};
use crate::codec::ws;
use crate::filter::Filter;

/// Messages that one client may send in a window (a minute unless configured), by kind. The empty kind stands for all
/// kinds that are not listed.
pub(crate) type KindLimits = &'static [(&'static str, u32)];

/// One client protocol over WebSocket.
pub(crate) trait WireProtocol: Sync {
    /// Reads one message. A compressed message may expand to `bytes_max`.
    fn read(&self, message: Incoming<'_>, place: &Place, bytes_max: usize) -> ClientMessage;

    /// Reads a message's type, and the whole message only if a client may send it before it has shown a token: a ping or
    /// the token. Every other message, and one longer than `bytes_max`, is [`Command::Withheld`](super::Command::Withheld).
    fn read_unauthenticated(&self, message: Incoming<'_>, bytes_max: usize) -> ClientMessage;

    /// Returns the frame of a reply; `None` if the dialect has no message for it.
    fn reply(&self, reply: &Reply<'_>, tag: &ReplyTag, stamp: Stamp) -> Option<Bytes>;

    /// Returns the `gap` message if the dialect reports gaps in band, else a frame that applications do not see.
    fn gap(&self, gap: &GapNotice) -> Bytes;

    /// Returns the message after the last event of a past; `None` if the dialect's document has none.
    fn past_end(&self, _end: &PastEnd<'_>, _stamp: &Stamp) -> Option<Bytes> {
        None
    }

    /// Returns the message that reports the end of a kept log; `None` if the dialect's document has none.
    fn log_end(&self, _end: &LogEnded<'_>, _stamp: &Stamp) -> Option<Bytes> {
        None
    }

    /// Returns the heartbeat's frame, which checks that the client on a quiet connection is still there.
    fn heartbeat(&self) -> Bytes {
        Bytes::from_static(ws::PING)
    }

    /// Returns whether the heartbeat is also sent to a client that has just sent something.
    fn always_beats(&self) -> bool {
        false
    }

    /// Returns the message limits of the dialect's document.
    fn usual_limits(&self) -> KindLimits {
        &[]
    }

    /// Returns whether the reply to a `subscribe` reports the start of the subscription's past.
    fn reports_past_start(&self) -> bool {
        false
    }

    /// Returns whether a subscription names each event type in several spellings. A grant must then cover one of them.
    fn spells_types(&self) -> bool {
        false
    }

    /// Returns whether [`observe`](Self::observe) has to be called.
    fn observes(&self) -> bool {
        false
    }

    /// Checks a message against the schemas of the dialect's document, if the server is configured to. Bytes that are
    /// no message pass: reading them reports a better error.
    #[cfg(feature = "schema")]
    fn check(&self, _: &DocumentSchemas, _: Incoming<'_>, _bytes_max: usize) -> Result<(), ClientError> {
        Ok(())
    }

    /// Records something that happened to a client. Only called if [`observes`](Self::observes).
    fn observe(&self, _watch: &Watch<'_>, _observed: Observed<'_>) {}

    /// Returns the dialect's record of a client as JSON, for the process that takes the client over.
    fn keep(&self, _observers: &Observers, _client: u64) -> Option<Box<RawValue>> {
        None
    }

    /// Returns the filters of each subscription in a record of [`keep`](Self::keep), by the subscription's id. For clients of
    /// versions that handed filters over as text, which has no form for every dialect's patterns.
    fn filters_of(&self, _kept: &RawValue) -> Vec<(String, Vec<Filter>)> {
        Vec::new()
    }

    /// Returns the close code and reason for a client that is refused; `None` if the connection stays open.
    fn refuse(&self, why: &Refusal) -> Option<(u16, Cow<'static, str>)>;
}

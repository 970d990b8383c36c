//! The encodings of an event: dialect, transport, and the client's choices within its dialect.

use serde::{Deserialize, Serialize};

/// Form of an event's bytes on a connection. Everything about an encoding is in its row of `table`.
///
/// Clients are handed over between processes with these names, so a name keeps its meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Encoding {
    /// Native messages in WebSocket text frames.
    #[default]
    NativeWs,
    /// Native events as SSE, named by their type.
    NativeSse,
    /// Native events as SSE without a name, for `onmessage`.
    NativeSseUnnamed,
    /// Native messages; events without a message around them.
    NativeWsLean,
    /// Native payloads as SSE, named by their type.
    NativeSseLean,
    /// Native payloads as SSE without a name.
    NativeSseLeanUnnamed,
    /// AgentOS's envelopes.
    AgentosWs,
    /// AgentOS's envelopes, and gap messages in band.
    AgentosWsGaps,
    /// Hive's messages.
    HiveWs,
    /// Hive's messages in binary frames.
    HiveWsBinary,
    /// GatheRing's messages.
    GatheringWs,
    /// AutoSDLC's messages.
    AutosdlcWs,
    /// AutoSDLC's messages; longer ones as gzip in binary frames.
    AutosdlcWsGzip,
}

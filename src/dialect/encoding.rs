//! The encodings of an event: dialect, transport, and the client's choices within its dialect.

use serde::{Deserialize, Serialize};

/// Form of an event's bytes on a connection. Everything about an encoding is in its row of `table`.
///
/// These names are part of the handover between processes, so a name keeps its meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(not(feature = "dialects"), expect(clippy::enum_variant_names, reason = "the others are optional"))]
pub(crate) enum Encoding {
    /// Native messages in WebSocket text frames.
    #[default]
    NativeWs,
    /// Native events as SSE, named by their type.
    NativeSse,
    /// Native events as SSE without a name, for `onmessage`.
    NativeSseUnnamed,
    /// Native messages; events as bare objects, without the message around them.
    NativeWsLean,
    /// Native payloads as SSE, named by their type.
    NativeSseLean,
    /// Native payloads as SSE without a name.
    NativeSseLeanUnnamed,
    /// AgentOS's envelopes.
    #[cfg(feature = "dialects")]
    AgentosWs,
    /// AgentOS's envelopes, and gap messages in band.
    #[cfg(feature = "dialects")]
    AgentosWsGaps,
    /// Hive's messages.
    #[cfg(feature = "dialects")]
    HiveWs,
    /// Hive's messages in binary frames.
    #[cfg(feature = "dialects")]
    HiveWsBinary,
    /// GatheRing's messages.
    #[cfg(feature = "dialects")]
    GatheringWs,
    /// AutoSDLC's messages.
    #[cfg(feature = "dialects")]
    AutosdlcWs,
    /// AutoSDLC's messages; longer ones as gzip in binary frames.
    #[cfg(feature = "dialects")]
    AutosdlcWsGzip,
}

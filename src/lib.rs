//! # Fanwire
//!
//! Events from the code that makes them to every screen that wants them: a sharded, lock-free ring-buffer
//! [`Bus`] to embed, and (feature `server`) a mio event loop that encodes an event once and writes the same
//! bytes to every WebSocket and SSE client that asked for it.
//!
//! # Features
//!
//! `default-features = false` is the bus alone: no sockets, no JSON parser.
//!
//! | feature | what | in the default |
//! |---|---|---|
//! | `async` | [`Subscriber`] as a `futures_core::Stream`, `publish_async`; under any runtime | yes |
//! | `server` | [`Server`]: WebSocket, SSE, publish, metrics, the page; the bridge; `protocol` and `sse` as values | yes |
//! | `auth` | tokens, API keys, tickets, grants, revocation | yes |
//! | `tls` | `https://` and `wss://` on the server's port | yes |
//! | `deflate` | compression towards clients, once for each feed | yes |
//! | `schema` | payloads checked against JSON Schemas | yes |
//! | `config-file` | `Config` from a TOML file, the environment and flags | yes |
//! | `redis`, `nats` | engines: order and history in a log that nodes share | yes |
//! | `cli` | the `fanwire` program: all of the above, and its commands | yes |
//!
//! Where to go from here: the README's table names the guides in `docs/`, for operators, embedders and front ends.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "server")]
mod bridge;
mod bus;
pub mod catalogue;
#[cfg(feature = "server")]
mod codec;
#[cfg(feature = "config-file")]
pub mod config;
#[cfg(feature = "server")]
mod dialect;
#[cfg(feature = "server")]
#[cfg_attr(
    not(all(feature = "config-file", any(feature = "redis", feature = "nats"))),
    allow(dead_code, reason = "what no log and no setting asks for")
)]
mod engine;
mod event;
#[cfg(feature = "server")]
mod feed;
mod filter;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "server")]
mod server;
mod sync;

#[cfg(feature = "async")]
pub use bus::{AsyncAdapter, PublishAsync};
pub use bus::{
    Bus, BusBuilder, BusConfig, BusConfigError, BusStats, CAPACITY_DEFAULT, Carried, Closed, Delivery, Full,
    Gap, HandlerGuard, HandlerId, Keep, Ledger, LosslessBus, LosslessSubscriber, PositionError, Published,
    PublishedBatch, Publisher, RecvTimeoutError, Replay, ShardStats, SoloPublisher, Subscriber, TryRecvError,
    Visit, Wait,
};
pub use event::{
    ATTRIBUTE_BYTES_MAX, Attribute, Event, EventBuilder, EventError, EventId, JsonError, ParseEventIdError,
    ParseTimestampError, Position, Sequence, Timestamp,
};
pub use filter::{
    Condition, Explanation, Filter, FilterError, FilterErrorKind, FilterLimits, Literal, Number, Operator,
    Pattern,
};

/// The native protocol without a server: messages, subscriptions, and who gets what.
#[cfg(feature = "server")]
pub mod protocol {
    pub use crate::dialect::protocol::{Message, MessageError, MessageType, Protocol, Subscription};
}

/// Server-sent events as text: what a client of `/sse` needs, and what serves them elsewhere.
#[cfg(feature = "server")]
pub mod sse {
    pub use crate::codec::sse::{SseError, SseEvent, SseParser, parse_sse_line};
    pub use crate::dialect::sse_bridge::{HEADERS, SseBridge, format_sse_event};
}

/// AutoSDLC's messages against the schemas of its document.
#[cfg(feature = "schema")]
pub mod autosdlc {
    pub use crate::dialect::autosdlc::validator::MessageValidator;
}

/// Who may come in, and with what rights: a server's configuration, and the making of tokens and API keys.
#[cfg(feature = "auth")]
pub mod auth {
    pub use crate::server::auth::{
        AnonymousConfig, ApiKey, AuthConfig, AuthError, Claims, JwtConfig, PublishRight, Secret, SigningKey,
        SigningKeyError,
    };
}

#[cfg(feature = "server")]
pub use bridge::{Bridge, BridgeAnswer, BridgeError, BridgeMessage, BridgeOutcome};
#[cfg(feature = "config-file")]
pub use config::Config;
#[cfg(feature = "server")]
pub use dialect::envelope::ReadError;
#[cfg(feature = "server")]
pub use dialect::{Dialect, ParseDialectError};
#[cfg(feature = "server")]
pub use engine::{EngineConfig, EngineError, Ingest};
#[cfg(feature = "schema")]
pub use server::SchemaConfig;
#[cfg(feature = "tls")]
pub use server::TlsConfig;
#[cfg(feature = "server")]
pub use server::{
    AddressRange, BridgeConfig, ClientSubscription, Endpoint, MemoryLine, MessageLogConfig,
    ParseAddressRangeError, PresenceConfig, Pulse, RateLimits, Server, ServerBuilder, ServerConfig,
    ServerError, ServerHandle, System,
};

#[cfg(all(unix, feature = "server"))]
pub use server::{HandoverError, Inheritance};

/// For this crate's own benchmarks and fuzz targets. No part of the interface: anything here may change in any
/// release.
#[doc(hidden)]
pub mod internals {
    #[cfg(feature = "server")]
    pub use crate::codec::{deflate, http, sse, ws};
    pub use crate::event::signature::value_hash;
    #[cfg(feature = "server")]
    pub use crate::feed::harness::{Fan, Form, native_frame};
    #[cfg(fuzzing)]
    pub use crate::filter::fuzz_matcher;
    pub use crate::filter::{ClassId, Matcher, MatcherStats};
    #[cfg(feature = "server")]
    pub use crate::server::echo::serve as serve_echo;
    #[cfg(all(fuzzing, feature = "server"))]
    pub use crate::server::fuzzing;
}

#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../docs/cluster.md")]
struct Cluster;

#[cfg(all(doctest, feature = "config-file"))]
#[doc = include_str!("../docs/configuration.md")]
struct Configuration;

#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../docs/bridge.md")]
struct BridgePage;

#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;

#[cfg(doctest)]
#[doc = include_str!("../docs/migrating.md")]
struct Migrating;

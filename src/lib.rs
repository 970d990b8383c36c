//! # Fanwire
//!
//! Events from the code that makes them to every screen that wants them: a sharded, lock-free ring-buffer
//! [`Bus`] to embed, and (feature `server`) a mio event loop that encodes an event once and writes the same
//! bytes to every WebSocket and SSE client that asked for it.
//!
//! # 1. A bus, and what a reader gets
//!
//! ```
//! use fanwire::{Bus, Delivery, Event, Filter};
//!
//! let bus = Bus::new();
//! let mut tasks = bus.subscribe("type=task.* source=core".parse::<Filter>()?);
//! bus.publish(Event::builder("task.progress").source("core").json(r#"{"progress": 42}"#).build()?);
//! match tasks.recv()? {
//!     Delivery::Event(event) => assert_eq!(event.payload(), r#"{"progress":42}"#),
//!     Delivery::Gap(gap) => panic!("missed {}, from {:?} to {:?}", gap.missed, gap.from, gap.to),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Bus::publish`] never waits, locks or fails: what can be wrong with an [`Event`] is wrong when it is built. The bus is a ring a
//! shard, of fixed size in events and bytes ([`Bus::builder`]): a reader that falls behind by more than a ring gets a [`Gap`] with the number, in its place,
//! and goes on. [`Subscriber::ledger`] adds up at any quiet moment: seen + missed = published since it joined. Events of one
//! stream stay in order, whoever publishes them; between shards nothing is promised.
//!
//! # 2. Ways to read
//!
//! | | waits | for |
//! |---|---|---|
//! | [`Subscriber::recv`], [`recv_timeout`](Subscriber::recv_timeout), [`try_recv`](Subscriber::try_recv), `for … in` | as its [`Wait`] says: spinning, then asleep | threads of one's own |
//! | [`Subscriber::recv_batch`] | the same | many at once |
//! | [`Subscriber::visit_batch`] | no | the same by reference, where they lie |
//! | `Subscriber` as a `futures_core::Stream`, `recv_async`, [`AsyncAdapter`] | as a task | any async runtime (feature `async`) |
//! | [`Bus::on`], [`Bus::on_sync`] | no | handlers: in a thread of their own, or within `publish` |
//! | [`Bus::replay`], [`Subscriber::seek`] | no | the past, as far as the ring has it; [`Bus::start_recording`] keeps more |
//!
#![cfg_attr(
    feature = "async",
    doc = r"
The first line of async code, with `StreamExt` of `futures`, `tokio-stream` or `smol`:

```
# smol::block_on(async {
use fanwire::{Bus, Delivery, Keep};
use futures_util::StreamExt as _;

let bus = Bus::builder().carrying::<u64>().build()?;
let mut sub = bus.subscribe(Keep::all());
bus.publish(1);
assert_eq!(sub.next().await, Some(Delivery::Event(1)));
# Ok::<(), fanwire::BusConfigError>(())
# }).unwrap();
```
"
)]
//! # 3. Which events
//!
//! A [`Filter`] says it by type, source, stream, entity, channel and fields of the payload, in code or as text, with [`Pattern`]s
//! that go by segment. [`Filter::explain`] tells why an event is wanted or not.
//!
//! ```
//! # use fanwire::{Event, Filter};
//! let young: Filter = "type=task.* payload.progress < 10".parse()?;
//! assert!(young.matches(&Event::builder("task.started").json(r#"{"progress": 3}"#).build()?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # 4. Other things to carry, other promises
//!
//! [`Bus<T>`](Bus) carries any plain value ([`Carried`]) without an allocation, and [`Keep`] picks among them. Where nothing may be lost
//! [`LosslessBus`] holds publishers up instead, and is another type, so that nobody does so by oversight;
//! [`SoloPublisher`] is its fastest form.
//!
//! ```
//! # use fanwire::{Bus, Keep, LosslessBus};
//! let prices = Bus::builder().carrying::<u64>().capacity(1024).build()?;
//! let mut reader = prices.subscribe(Keep::all());
//! prices.publish_batch([99, 100, 101]);
//! assert_eq!(reader.lag(), 3);
//!
//! let orders = LosslessBus::builder().carrying::<u64>().capacity(2).build_lossless()?;
//! let _reader = orders.subscribe();
//! assert!(orders.try_publish(1).is_ok() && orders.try_publish(2).is_ok());
//! assert!(orders.try_publish(3).is_err(), "full, as long as nobody reads");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # 5. To browsers and other machines
//!
#![cfg_attr(
    feature = "server",
    doc = r#"
[`Server`] puts a bus on the network: [`Server::builder`] says where, [`ServerBuilder::spawn`] starts its loops in threads beside
whatever runtime there is, [`ServerHandle`] drains and ends them. [`Dialect`]s are the protocols it speaks, [`Bridge`] takes other
protocols' messages, [`protocol`] and [`sse`] are for sockets of one's own.

```
use fanwire::{Bus, Server};
use std::time::Duration;

let bus = Bus::new();
let server = Server::builder(&bus).listen("127.0.0.1:0").spawn()?;
println!("open http://{}", server.local_addr());
server.drain(Duration::ZERO);
server.join()?;
# Ok::<(), Box<dyn std::error::Error>>(())
```
"#
)]
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
mod held;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "server")]
mod server;
mod sync;
#[cfg(feature = "server")]
mod threads;

#[cfg(feature = "async")]
pub use bus::{AsyncAdapter, PublishAsync};
pub use bus::{
    Bus, BusBuilder, BusConfig, BusConfigError, BusStats, CAPACITY_DEFAULT, Carried, Closed, Delivery, Full,
    Gap, HandlerGuard, HandlerId, Keep, Ledger, LosslessBus, LosslessIntoIter, LosslessIter,
    LosslessSubscriber, MAX_BYTES_DEFAULT, PositionError, Published, PublishedBatch, Publisher,
    RecvTimeoutError, Replay, ShardStats, SoloPublisher, Subscriber, SubscriberIntoIter, SubscriberIter,
    TryRecvError, Visit, Wait, WeakBus,
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
#[cfg(feature = "server")]
pub use threads::ThreadFailure;

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
    #[cfg(feature = "server")]
    pub use crate::server::harness::{OneClient, SECRET, frame as client_frame};
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

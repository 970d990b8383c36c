//! # Fanwire
//!
//! Fanwire carries events from the code that makes them to every screen that shows them. It is a sharded, lock-free ring-buffer
//! [`Bus`] to embed and, with the feature `server`, a mio event loop that encodes each event once and writes the same bytes to
//! every WebSocket and SSE client that subscribed to it.
//!
//! The types of the usual path are here at the root. Everything else is in the module of its subject: [`bus`], [`event`],
//! [`filter`], and with features `server`, `bridge`, `engine`, `protocol`, `sse`, `auth`, `config` and `dialects`.
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
//! [`Bus::publish`] never waits, locks or fails: every fault of an [`Event`] is reported when the event is built. The bus has one
//! ring per shard, of fixed size in events and bytes ([`Bus::builder`]). A reader that falls behind by more than a ring receives a
//! [`Gap`] with the number of missed events, at their place, and continues. [`Subscriber::ledger`] adds up at any quiet moment:
//! seen + missed = published since the subscriber joined. Events of one stream keep their order, whichever thread publishes
//! them. There is no order between shards.
//!
//! # 2. Ways to read
//!
//! | | waits | for |
//! |---|---|---|
//! | [`Subscriber::recv`], [`recv_timeout`](Subscriber::recv_timeout), [`try_recv`](Subscriber::try_recv), `for … in` | as set by [`bus::WaitStrategy`]: spins, then sleeps | a thread of the caller's own |
//! | [`Subscriber::recv_batch`] | as above | many events at once |
//! | [`Subscriber::visit_batch`] | no | many events by reference, without a copy |
//! | `Subscriber` as a `futures_core::Stream`, `recv_async`, `AsyncAdapter` | as a task | any async runtime (feature `async`) |
//! | [`Bus::on`], [`Bus::on_sync`] | no | handlers: in a thread of their own, or inside `publish` |
//! | [`Bus::replay`], [`Subscriber::seek`] | no | the past, as far as the ring has it; [`Bus::start_recording`] keeps more |
//!
#![cfg_attr(
    feature = "async",
    doc = r"
Async code starts like this, with `StreamExt` of `futures`, `tokio-stream` or `smol`:

```
# smol::block_on(async {
use fanwire::{Bus, Delivery, Predicate};
use futures_util::StreamExt as _;

let bus = Bus::builder().carrying::<u64>().build()?;
let mut sub = bus.subscribe(Predicate::all());
bus.publish(1);
assert_eq!(sub.next().await, Some(Delivery::Event(1)));
# Ok(())
# })?;
# Ok::<(), fanwire::bus::BusConfigError>(())
```
"
)]
//! # 3. Which events
//!
//! A [`Filter`] selects events by type, source, stream, entity, channel and payload fields, in code or as text, with [`Pattern`]s
//! that match by segment. [`Filter::explain`] reports why an event matches or does not.
//!
//! ```
//! # use fanwire::{Event, Filter};
//! let young: Filter = "type=task.* payload.progress < 10".parse()?;
//! assert!(young.matches(&Event::builder("task.started").json(r#"{"progress": 3}"#).build()?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # 4. Other values, other guarantees
//!
//! [`Bus<T>`](Bus) carries any plain value ([`bus::Item`]) without an allocation, and [`Predicate`] selects among them. A [`LosslessBus`]
//! loses nothing: it makes publishers wait instead. It is a separate type, so that no bus waits by oversight.
//! [`bus::SoloPublisher`] is its fastest form.
//!
//! ```
//! # use fanwire::{Bus, Predicate, LosslessBus};
//! let prices = Bus::builder().carrying::<u64>().capacity(1024).build()?;
//! let mut reader = prices.subscribe(Predicate::all());
//! prices.publish_batch([99, 100, 101]);
//! assert_eq!(reader.lag(), 3);
//!
//! let orders = LosslessBus::builder().carrying::<u64>().capacity(2).build_lossless()?;
//! let _reader = orders.subscribe(Predicate::all());
//! assert!(orders.try_publish(1).is_ok() && orders.try_publish(2).is_ok());
//! assert!(orders.try_publish(3).is_err(), "full until a subscriber reads");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # 5. To browsers and other machines
//!
#![cfg_attr(
    feature = "server",
    doc = r#"
[`Server`] puts a bus on the network. [`Server::builder`] takes the address, [`server::ServerBuilder::spawn`] starts the loops in
threads beside whatever runtime there is, and [`ServerHandle`] drains and ends them. [`server::Dialect`] lists the protocols,
[`bridge::Bridge`] takes other protocols' messages, and [`protocol`] and [`sse`] are for programs with their own sockets.

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
#![cfg_attr(
    feature = "tower",
    doc = r#"
On the port of your own app, with axum, hyper or another router ([`tower`](mod@tower)), in five lines:

```no_run
# #[tokio::main]
# async fn main() -> Result<(), Box<dyn std::error::Error>> {
let bus = fanwire::Bus::new();
let server = fanwire::Server::builder(&bus).spawn()?;
let app = axum::Router::new().route_service("/live", fanwire::tower::live(&server));
let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
axum::serve(listener, app).await?;
# Ok(())
# }
```

A WebSocket over plain TCP becomes the loop's own socket, and so does an event stream with one more line
([`Live::listener`](tower::Live::listener)). Code without `tower` gives its sockets to [`ServerHandle::acceptor`].
"#
)]
//! # Features
//!
//! `default-features = false` is the bus alone: no sockets, no JSON parser.
//!
//! | feature | adds | in the default |
//! |---|---|---|
//! | `async` | [`Subscriber`] as a `futures_core::Stream`, `publish_async`; under any runtime | yes |
//! | `serde` | `EventBuilder::payload` and [`Event`]`::parse`: payloads of your own types | yes |
//! | `server` | [`Server`]: WebSocket, SSE, publish, metrics, the page; the bridge; `protocol` and `sse` as values | yes |
//! | `dialects` | the dialects of AgentOS, AutoSDLC, GatheRing and Hive in the server, and their event types | yes |
//! | `auth` | tokens, API keys, tickets, grants, revocation | yes |
//! | `tls` | `https://` and `wss://` on the server's port | yes |
//! | `deflate` | compression towards clients, once for each feed | yes |
//! | `schema` | payloads checked against JSON Schemas | yes |
//! | `config-file` | `Config` from a TOML file, the environment and flags | yes |
//! | `redis`, `nats` | engines: order and history in a log that nodes share | yes |
//! | `tower` | [`tower`](mod@tower): streams on the port of an axum or hyper app | no |
//! | `axum` | `tower`, and its `LiveListener` for `axum::serve` | no |
//! | `cli` | the `fanwire` program: all of the above but `tower` and `axum`, and its commands | yes |
//!
//! The README's table names the guides in `docs/` for operators, embedders and front ends.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "server")]
pub mod bridge;
pub mod bus;
#[cfg(feature = "dialects")]
mod catalogue;
#[cfg(feature = "server")]
mod codec;
#[cfg(feature = "config-file")]
pub mod config;
#[cfg(feature = "server")]
#[cfg_attr(not(feature = "dialects"), allow(dead_code, reason = "used by the optional dialects"))]
mod dialect;
#[cfg(feature = "server")]
#[cfg_attr(
    not(all(feature = "config-file", any(feature = "redis", feature = "nats"))),
    allow(dead_code, reason = "used by logs and settings of other features")
)]
pub mod engine;
pub mod event;
#[cfg(feature = "server")]
mod feed;
pub mod filter;
#[cfg(all(feature = "server", fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(all(feature = "server", test, not(fuzzing)))]
mod fuzzing;
#[cfg(feature = "server")]
mod held;
#[cfg(feature = "server")]
mod kept;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "server")]
pub mod server;
#[cfg(all(test, feature = "server"))]
mod sim;
mod sync;
#[cfg(feature = "server")]
mod threads;
#[cfg(all(unix, feature = "tower"))]
pub mod tower;

pub use bus::{Bus, Delivery, Gap, LosslessBus, Predicate, Publisher, Subscriber};
pub use event::Event;
pub use filter::{Filter, Pattern};
#[cfg(feature = "server")]
pub use server::{Server, ServerConfig, ServerHandle};

/// The native protocol without a server: messages, subscriptions, and the choice of events for each client.
#[cfg(feature = "server")]
pub mod protocol {
    pub use crate::dialect::envelope::ReadError;
    pub use crate::dialect::protocol::{Message, MessageError, MessageType, Protocol, Subscription};
}

/// Server-sent events as text: a parser for clients of `/sse`, and a buffer for use in other HTTP servers.
#[cfg(feature = "server")]
pub mod sse {
    pub use crate::codec::sse::{SseError, SseEvent, SseParser, parse_sse_line};
    pub use crate::dialect::sse_bridge::SseBridge;
    pub use crate::dialect::stream::{HEADERS, format_sse_event};
}

/// Dialects of AgentOS, AutoSDLC, GatheRing and Hive: event types of these systems and of FCC, makers of events, and the settings
/// and answers of single dialects.
#[cfg(feature = "dialects")]
pub mod dialects {
    pub use crate::catalogue::{agentos, autosdlc, fcc, gathering, hive};
    #[cfg(all(feature = "server", feature = "schema"))]
    pub use crate::dialect::autosdlc::MessageValidator;
    #[cfg(feature = "server")]
    pub use crate::dialect::autosdlc::{ClientSubscription, MessageLogConfig};
}

/// Authentication and rights: the server's settings, and makers of tokens and API keys.
#[cfg(feature = "auth")]
pub mod auth {
    pub use crate::server::auth::{
        AnonymousConfig, ApiKey, AuthConfig, AuthError, Claims, GrantConfig, JwtConfig, PublishRight, Secret,
        SigningKey, SigningKeyError,
    };
}

/// For this crate's own benchmarks and fuzz targets. Not part of the interface: anything here may change in any
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
    #[cfg(all(fuzzing, feature = "server"))]
    pub use crate::fuzzing;
    #[cfg(feature = "server")]
    pub use crate::server::harness::serve_echo;
    #[cfg(feature = "server")]
    pub use crate::server::harness::{OneClient, SECRET, frame as client_frame};
}

#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../README.md")]
struct ReadmePage;

#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../docs/cluster.md")]
struct ClusterPage;

#[cfg(all(doctest, feature = "config-file"))]
#[doc = include_str!("../docs/configuration.md")]
struct ConfigurationPage;

#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../docs/bridge.md")]
struct BridgePage;

#[cfg(all(doctest, unix, feature = "async", feature = "axum"))]
#[doc = include_str!("../docs/embedding.md")]
struct EmbeddingPage;

#[cfg(doctest)]
#[doc = include_str!("../docs/migrating.md")]
struct MigratingPage;

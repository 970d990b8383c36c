//! The server: connections, their protocols and the loops that drive them.
//!
//! Invariants:
//! - A connection is a state machine without a socket.
//! - A loop's state drives connections without depending on mio. Only `reactor::event_loop` touches sockets and
//!   threads.

mod acceptor;
pub(crate) mod auth;
mod builder;
pub(crate) mod config;
pub(crate) mod conn;
pub(crate) mod dedupe;
pub(crate) mod endpoint;
mod error;
mod handle;
#[cfg(unix)]
pub(crate) mod handover;
pub(crate) mod harness;
pub(crate) mod http;
mod kept_reader;
pub(crate) mod limits;
pub(crate) mod memory;
pub(crate) mod origin;
pub(crate) mod presence;
pub(crate) mod reactor;
pub(crate) mod rng;
#[cfg(feature = "schema")]
mod schemas;
pub(crate) mod session;
pub(crate) mod shared;
pub(crate) mod tick;
#[cfg(feature = "tls")]
pub(crate) mod tls_config;
pub(crate) mod workers;

pub use crate::dialect::{Dialect, ParseDialectError};
pub use crate::kept::{RetainBy, RetainConfig, RetainRule};
pub use crate::threads::ThreadFailure;
pub use acceptor::{Acceptor, AgreedStream, ClientSocket, StreamRequest, StreamResponse};
pub use builder::{Server, ServerBuilder};
pub use config::{BridgeConfig, ServerConfig};
pub use dedupe::DedupeConfig;
pub use endpoint::{Endpoint, Preset};
pub use error::{ServerError, ServerErrorKind};
pub use handle::{Liveness, ServerHandle};
#[cfg(unix)]
pub use handover::{HandoverError, Inheritance};
pub use kept_reader::{KeptDelivery, KeptEnd, KeptReader, KeptReaderIntoIter, NotKept, ReadFrom};
pub use limits::client_address::{AddressRange, ParseAddressRangeError};
pub use limits::rates::RateLimits;
pub use memory::MemoryLine;
pub use presence::PresenceConfig;
#[cfg(feature = "schema")]
pub use schemas::SchemaConfig;
#[cfg(feature = "tls")]
pub use tls_config::TlsConfig;

#[cfg(test)]
mod tests;

//! Engines: a log outside the rings that holds order and history, in Redis or NATS for many nodes, or in files for one.
//!
//! Invariants:
//! - An event goes to the log first. Every node, the publishing one included, publishes on its bus the events that it reads
//!   from the log, in the log's order and under the log's ids.
//! - A publication is acknowledged only after the log has its events. If the log can't be reached, the publication is
//!   refused within a bounded time.
//! - No engine code runs on an event loop. One thread appends and one follows; they own the connections. A third thread
//!   answers publishers at their deadline, even if the other two hang.
//!
//! `log` defines what a log must do; `redis`, `nats` and `file` implement it. `queue` holds the events that wait to be
//! appended, `append` and `follow` are the two threads' loops, `recorder` receives what is read, `status` is their
//! report, `runtime` starts them. With plain NATS a node may subscribe only to what its clients want (`interest`,
//! `subject`). `ingest` publishes messages of other systems. The rings of the bus hold the newest part of the log: a
//! client resumes from them on any node.

mod address;
mod append;
mod backoff;
mod config;
mod error;
mod file;
mod follow;
mod history;
mod ingest;
#[cfg_attr(not(feature = "nats"), allow(dead_code, reason = "no other log subscribes by interest"))]
mod interest;
#[cfg_attr(
    not(any(feature = "redis", feature = "nats")),
    allow(dead_code, reason = "files have no channels")
)]
mod listen;
mod log;
#[cfg(feature = "nats")]
mod nats;
mod pause;
mod queue;
mod recorder;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "nats")]
mod reorder;
mod runtime;
mod status;
#[cfg(test)]
pub(crate) mod stepped;
#[cfg_attr(not(feature = "nats"), allow(dead_code, reason = "as interest"))]
mod subject;

pub use config::EngineConfig;
pub use error::EngineError;
pub use ingest::Ingest;

#[cfg(feature = "config-file")]
pub(crate) use address::check_url;
pub(crate) use history::{Handed, History, LogPage, LogPlace, PAGE_EVENTS, Ticket, log_place_of};
pub(crate) use interest::InterestGuard;
pub(crate) use log::Places;
pub(crate) use queue::{Done, Refused};
pub(crate) use recorder::EntryRecorder;
pub(crate) use runtime::{Engine, EngineHooks};
pub(crate) use status::{LogBreak, NotReady, Status};

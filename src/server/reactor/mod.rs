//! The event loop: connections, feeds and the bus, driven by readiness and time.
//!
//! `loop_state` holds a loop's state; the files next to it add one task each. `event_loop` alone knows mio and threads.

mod accounts;
mod admit;
mod answers;
mod catch_up;
mod channels;
pub(crate) mod clients;
mod commit;
pub(crate) mod continuity;
mod deferred;
mod deliver;
mod delivery;
mod departures;
mod drain;
mod effects;
mod end_watch;
pub(crate) mod event_loop;
mod expire_grants;
mod gather;
mod handover;
mod heap;
mod kept_logs;
pub(crate) mod kernel_queue;
mod kind_log;
pub(crate) mod listener;
mod log_ends;
pub(crate) mod loop_state;
mod mailbox;
mod once;
mod presence;
mod purge;
mod purge_news;
mod queues;
mod ready;
mod replay;
mod report;
mod snapshots;
pub(crate) mod socket;
pub(crate) mod stream;
#[cfg(feature = "tls")]
pub(crate) mod tls;
mod token;
mod turn;
pub(crate) mod wheel;
pub(crate) mod zero_copy;

pub(crate) use clients::Conn;
pub(crate) use handover::SavedClient;
pub(crate) use loop_state::{LoopState, READ_BYTES};
pub(crate) use token::Token;

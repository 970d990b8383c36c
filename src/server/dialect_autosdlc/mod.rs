//! The server's part of AutoSDLC: its message log, its register of clients, and its schemas.

pub(crate) mod client_registry;
pub(crate) mod messages;
#[cfg(feature = "schema")]
pub(crate) mod schemas;

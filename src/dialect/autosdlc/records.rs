//! The server's records of AutoSDLC's clients: counters and client registry.

use prometheus_client::registry::Registry;
use serde_json::value::{RawValue, to_raw_value};

use super::client_registry::{ClientRegistry, ClientSubscription};
use super::counters::Counters;

/// Counters and client registry of one server.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(super) counters: Counters,
    pub(crate) clients: ClientRegistry,
}

impl Records {
    /// Returns the registry of the counters.
    pub(crate) fn registry(&self) -> &Registry {
        self.counters.registry()
    }

    /// Returns the entries of a client, for a handover; `None` if there are none.
    pub(super) fn keep(&self, client: u64) -> Option<Box<RawValue>> {
        let entries = self.clients.of_number(client);
        // Strings and raw JSON always serialize.
        if entries.is_empty() { None } else { to_raw_value(&entries).ok() }
    }
}

/// Reads the entries of [`Records::keep`].
pub(super) fn read_kept(kept: &RawValue) -> Vec<ClientSubscription> {
    serde_json::from_str(kept.get()).unwrap_or_default()
}

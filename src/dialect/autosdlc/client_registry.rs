//! The subscriptions of AutoSDLC's clients by `clientId`, for operators: the document's `getClientSubscriptions`. Other
//! dialects give their clients no such id.
//!
//! Invariants:
//! - An entry is added before the reply to the client's `subscribe`, and removed with the subscription.
//! - An entry keeps only the parts of the client's message that had an effect.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::text::{client_id, client_of};
use crate::codec::portable;
use crate::event::Timestamp;
use crate::sync::{Mutex, lock};

/// One subscription of an AutoSDLC client, as the document describes it. As JSON: `id`, `clientId`, `config`,
/// `createdAt` and `active`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientSubscription {
    id: String,
    client_id: String,
    config: Box<RawValue>,
    #[serde(with = "portable::text")]
    created_at: Timestamp,
    active: bool,
}

impl ClientSubscription {
    /// Returns the subscription's id: the client's own, or one that the server chose.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the `clientId` of the client.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Returns the client's request as JSON: `resource`, `resourceId` and `events`, or `pattern`.
    #[must_use]
    pub fn config(&self) -> &str {
        self.config.get()
    }

    /// Returns the start of the subscription.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }
}

/// One client's subscriptions.
#[derive(Debug, Default)]
struct ClientEntries {
    subscriptions: Vec<ClientSubscription>,
    bytes: usize,
}

/// The subscriptions of all clients.
#[derive(Debug, Default)]
pub(crate) struct ClientRegistry(Mutex<RegistryTable>);

#[derive(Debug, Default)]
struct RegistryTable {
    clients: HashMap<u64, ClientEntries>,
    bytes: usize,
}

impl ClientSubscription {
    /// Returns the approximate size in bytes.
    fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.id.len() + self.client_id.len() + self.config.get().len() + 48
    }
}

impl ClientRegistry {
    /// Returns a client's subscriptions in the order of its requests; empty if there is no such client.
    pub(crate) fn of(&self, client: &str) -> Vec<ClientSubscription> {
        client_of(client).map_or_else(Vec::new, |client| self.of_number(client))
    }

    /// Returns the subscriptions of the client with this number, as [`Self::of`] does.
    pub(crate) fn of_number(&self, client: u64) -> Vec<ClientSubscription> {
        lock(&self.0).clients.get(&client).map(|client| client.subscriptions.clone()).unwrap_or_default()
    }

    /// Returns the size of all entries in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        lock(&self.0).bytes
    }

    /// Returns the size of one client's entries in bytes.
    pub(crate) fn bytes_of(&self, client: u64) -> usize {
        lock(&self.0).clients.get(&client).map_or(0, |client| client.bytes)
    }

    /// Adds a subscription. The caller has removed an earlier one of this id.
    pub(crate) fn add(&self, client: u64, id: String, config: Box<RawValue>, now: Timestamp) {
        let subscription =
            ClientSubscription { id, client_id: client_id(client), config, created_at: now, active: true };
        lock(&self.0).change(client, |subscriptions| subscriptions.push(subscription));
    }

    /// Removes a subscription, or all with the id `*`.
    pub(crate) fn remove(&self, client: u64, id: &str) {
        let mut table = lock(&self.0);
        if table.clients.contains_key(&client) {
            table.change(client, |subscriptions| {
                subscriptions.retain(|subscription| id != "*" && subscription.id != id);
            });
        }
    }

    /// Sets the subscriptions of a client taken over from the predecessor process.
    pub(crate) fn take_over(&self, client: u64, subscriptions: Vec<ClientSubscription>) {
        if !subscriptions.is_empty() {
            lock(&self.0).change(client, |all| *all = subscriptions);
        }
    }
}

impl RegistryTable {
    fn change(&mut self, client: u64, change: impl FnOnce(&mut Vec<ClientSubscription>)) {
        let entry = self.clients.entry(client).or_default();
        change(&mut entry.subscriptions);
        let bytes: usize = entry.subscriptions.iter().map(ClientSubscription::held_bytes).sum();
        self.bytes = self.bytes - entry.bytes + bytes;
        entry.bytes = bytes;
        if entry.subscriptions.is_empty() {
            self.clients.remove(&client);
        }
    }
}

//! Which of AutoSDLC's clients subscribed to what, for an operator who asks by `clientId`: that document's
//! `getClientSubscriptions`. Other dialects tell their clients no such id.
//!
//! Imports `dialect`, `event`. Always: what is here is what the client is subscribed to at that moment, told before
//! its subscription is answered, and gone with it; a client's words are here only as far as they counted.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::codec::portable;
use crate::dialect::autosdlc::{client_id, client_of};
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
    /// The subscription's id: the client's own, or one that it was given.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The client that it is of.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// What the client asked for, as JSON: `resource`, `resourceId` and `events`, or `pattern`.
    pub fn config(&self) -> &str {
        self.config.get()
    }

    /// When it began.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }
}

/// One client's subscriptions.
#[derive(Debug, Default)]
struct Client {
    its: Vec<ClientSubscription>,
    bytes: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Directory(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    clients: HashMap<u64, Client>,
    bytes: usize,
}

impl ClientSubscription {
    /// Bytes that it takes, about.
    fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.id.len() + self.client_id.len() + self.config.get().len() + 48
    }
}

impl Directory {
    /// What this client is subscribed to, in the order in which it asked; nothing where there is no such client.
    pub(crate) fn of(&self, client: &str) -> Vec<ClientSubscription> {
        client_of(client).map_or_else(Vec::new, |client| self.of_number(client))
    }

    /// As [`Self::of`], by the client's number.
    pub(crate) fn of_number(&self, client: u64) -> Vec<ClientSubscription> {
        lock(&self.0).clients.get(&client).map(|client| client.its.clone()).unwrap_or_default()
    }

    /// Bytes that it holds.
    pub(crate) fn held_bytes(&self) -> usize {
        lock(&self.0).bytes
    }

    /// Bytes that it holds for one client.
    pub(crate) fn bytes_of(&self, client: u64) -> usize {
        lock(&self.0).clients.get(&client).map_or(0, |client| client.bytes)
    }

    /// A client has subscribed; what had this id was removed before.
    pub(crate) fn add(&self, client: u64, id: String, config: Box<RawValue>, now: Timestamp) {
        let one =
            ClientSubscription { id, client_id: client_id(client), config, created_at: now, active: true };
        lock(&self.0).change(client, |its| its.push(one));
    }

    /// A client wants this no more, or all by the name `*`.
    pub(crate) fn remove(&self, client: u64, id: &str) {
        let mut table = lock(&self.0);
        if table.clients.contains_key(&client) {
            table.change(client, |its| its.retain(|one| id != "*" && one.id != id));
        }
    }

    /// A client came from the process before this one.
    pub(crate) fn take_over(&self, client: u64, its: Vec<ClientSubscription>) {
        if !its.is_empty() {
            lock(&self.0).change(client, |all| *all = its);
        }
    }
}

impl Table {
    fn change(&mut self, client: u64, change: impl FnOnce(&mut Vec<ClientSubscription>)) {
        let one = self.clients.entry(client).or_default();
        change(&mut one.its);
        let bytes: usize = one.its.iter().map(ClientSubscription::held_bytes).sum();
        self.bytes = self.bytes - one.bytes + bytes;
        one.bytes = bytes;
        if one.its.is_empty() {
            self.clients.remove(&client);
        }
    }
}

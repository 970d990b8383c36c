//! The connections of a loop, and what the loop keeps for each of them by token.
//!
//! Always: a token names one life of one number, so a token that outlives its connection reaches no other.

use std::collections::HashMap;

use slab::Slab;

use super::channels::Present;
use super::replay::ClientReplay;
use super::token::{Token, token_of};
use crate::engine::InterestGuard;
use crate::feed::Outbox;
use crate::filter::Filter;
use crate::server::auth::Denied;
use crate::server::conn::Connection;
use crate::server::limits::rates::CountedConnection;

pub(crate) struct Conn<S> {
    pub(super) socket: S,
    pub(super) generation: u32,
    pub(super) connection: Connection,
    pub(super) outbox: Outbox,
    /// Past that the client asked for and has not received completely.
    pub(super) replay: Option<Box<ClientReplay>>,
    /// Answers that the engine owes it; it is not read meanwhile.
    pub(super) awaits: u32,
    /// The socket takes no more until it says so.
    pub(super) blocked: bool,
    /// The socket may hold more to read.
    pub(super) unread: bool,
    /// It is in `ready`.
    pub(super) queued: bool,
    /// The turn in which it was read last, and what it spent of its part then: it may be read twice in one.
    pub(super) spent_in: (u16, u16),
    pub(super) ending: Ending,
}

/// Fate of a connection once its pending bytes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// It stays; a closed one until its peer or its timer ends it.
    #[default]
    None,
    /// It is closed from this side.
    Closing,
    /// It is removed: the peer has said that it will say no more.
    HungUp,
}

impl<S> Conn<S> {
    /// Returns the token of this connection, which has this number.
    pub(super) fn token(&self, slot: usize) -> Token {
        token_of(slot, self.generation)
    }

    /// Bytes of its own that wait for the client, with what it takes to keep them: a reply of two bytes takes more than
    /// a hundred.
    pub(super) fn waiting_bytes(&self) -> usize {
        let (own, shared) = self.outbox.held_bytes();
        own + shared
    }

    /// A peer that is gone stays gone.
    pub(super) fn end_with(&mut self, ending: Ending) {
        self.ending = self.ending.max(ending);
    }
}

/// Connections of one loop.
pub(super) struct Clients<S> {
    pub(super) conns: Slab<Conn<S>>,
    /// Generation of the newest connection.
    pub(super) generation: u32,
    /// Connections that have something to do without waiting for their sockets, in order.
    pub(super) ready: Vec<Token>,
    /// Addresses that connections are counted for.
    pub(super) addresses: HashMap<Token, CountedConnection>,
    /// Filters that the engine follows because of a connection, where it follows no more than its clients want.
    pub(super) wanted: HashMap<Token, HashMap<Filter, InterestGuard>>,
    /// Connections to close because they lag.
    pub(super) lagged: Vec<Token>,
    /// Connections to close because their grants have ended.
    pub(super) denied: Vec<(Token, Denied)>,
    /// Channels that clients are in.
    pub(super) present: Present,
}

impl<S> Default for Clients<S> {
    fn default() -> Self {
        Self {
            conns: Slab::new(),
            generation: 0,
            ready: Vec::new(),
            addresses: HashMap::new(),
            wanted: HashMap::new(),
            lagged: Vec::new(),
            denied: Vec::new(),
            present: Present::default(),
        }
    }
}

impl<S> Clients<S> {
    /// Returns the token of the connection with this number.
    pub(super) fn token(&self, slot: usize) -> Token {
        self.conns[slot].token(slot)
    }

    /// Returns the number of a connection that is still open.
    pub(super) fn find(&self, token: Token) -> Option<usize> {
        let slot = (token & 0xffff_ffff) as usize;
        self.conns.get(slot).filter(|conn| u64::from(conn.generation) == token >> 32).map(|_| slot)
    }
}

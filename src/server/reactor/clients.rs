//! The connections of a loop, and what the loop keeps for each of them by token.
//!
//! Always: a token names one use of a slot, so a token that outlives its connection reaches no other connection.

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;

use super::channels::Present;
use super::end_watch::EndWatch;
use super::purge_news::PurgeNews;
use super::queues::{Queued, Queues};
use super::replay::ClientReplay;
use super::token::{Token, token_of};
use crate::dialect::{ConcatTarget, Encoding};
use crate::engine::InterestGuard;
use crate::feed::{Fanout, Outbox};
use crate::filter::Filter;
use crate::server::auth::Denied;
use crate::server::conn::Connection;
use crate::server::limits::rates::CountedConnection;

pub(crate) struct Conn<S> {
    pub(super) socket: S,
    pub(super) generation: u32,
    pub(super) connection: Connection,
    pub(super) outbox: Outbox,
    /// Replay that the client has not received completely.
    pub(super) replay: Option<Box<ClientReplay>>,
    /// Number of pending answers of the engine. The connection is not read while there are any.
    pub(super) pending_answers: u32,
    /// Whether the socket is full: it is not written until it is reported writable.
    pub(super) blocked: bool,
    pub(super) input: SocketInput,
    pub(super) queued: Queued,
    /// Turn in which it was last read, and the units spent on it in that turn. It may be read twice in a turn.
    pub(super) spent_in: (u16, u16),
    pub(super) ending: Ending,
}

/// Input that a socket may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SocketInput {
    /// None: the poll reports the next bytes.
    #[default]
    Drained,
    /// There may be some.
    Unread,
    /// There may be some, followed by the end of the peer's input. The poll reports no more, so the socket is read to
    /// that end.
    UntilEnd,
}

/// Fate of a connection once its pending bytes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// The connection stays open. If our side is already closed, its peer or its timer ends it.
    #[default]
    None,
    /// The connection is closed from this side.
    Closing,
    /// The connection is removed, because the peer has ended its input.
    HungUp,
}

impl<S> Conn<S> {
    /// Returns the token of this connection, which is in this slot.
    pub(super) fn token(&self, slot: usize) -> Token {
        token_of(slot, self.generation)
    }

    /// Records that the socket may have input.
    pub(super) fn record_input(&mut self) {
        if self.input == SocketInput::Drained {
            self.input = SocketInput::Unread;
        }
    }

    /// Returns whether the socket may have input.
    pub(super) fn is_unread(&self) -> bool {
        self.input != SocketInput::Drained
    }

    /// Begins a replay, after those by which the client catches up.
    pub(super) fn add_replay(&mut self, replay: ClientReplay) {
        match &mut self.replay {
            Some(first) if first.is_catch_up() => first.queue_replay(replay),
            other => *other = Some(Box::new(replay)),
        }
    }

    /// Adds a replay of a purge's gap if the notice of the purge is among the pending frames. The replay of the frames' events
    /// would not report the purge, because the ids after a purge may follow those before it.
    pub(super) fn add_purge_notice(&mut self, fanout: &Fanout, encoding: Encoding, filters: &[Filter]) {
        if self.outbox.has_purge_notice(fanout) {
            self.add_replay(ClientReplay::purge_notice(encoding, filters.to_vec()));
        }
    }

    /// Returns whether the connection must not be read before its past is over.
    pub(super) fn is_held_by_past(&self) -> bool {
        self.replay.as_ref().is_some_and(|replay| !replay.takes_messages())
    }

    /// Returns the memory of the connection's unsent bytes, in bytes. A reply of two bytes takes more than 100.
    pub(super) fn waiting_bytes(&self) -> usize {
        let (own, shared) = self.outbox.held_bytes();
        own + shared
    }

    /// Sets the ending, unless a later stage is set already.
    pub(super) fn end_with(&mut self, ending: Ending) {
        self.ending = self.ending.max(ending);
    }
}

/// Connections of one loop.
pub(super) struct Clients<S> {
    pub(super) conns: Slab<Conn<S>>,
    /// Generation of the newest connection.
    pub(super) generation: u32,
    pub(super) queues: Queues,
    /// Addresses that connections are counted for.
    pub(super) addresses: HashMap<Token, CountedConnection>,
    /// Filters that the engine follows for each connection, if it follows only what its clients want.
    pub(super) wanted: HashMap<Token, HashMap<Filter, InterestGuard>>,
    /// Connections to close because they lag.
    pub(super) lagged: Vec<Token>,
    /// Connections that are behind and are to catch up.
    pub(super) behind: Vec<Token>,
    /// Strings by which neighbours are merged for clients that catch up (`on_lag=concat`).
    pub(super) concats: HashMap<Token, Arc<ConcatTarget>>,
    /// Connections to close because their grants have ended.
    pub(super) denied: Vec<(Token, Denied)>,
    /// Channels that clients are in.
    pub(super) present: Present,
    /// Logs with an end that is reported to clients.
    pub(super) ends: EndWatch,
    /// Purges to report to clients.
    pub(super) purges: PurgeNews,
}

impl<S> Default for Clients<S> {
    fn default() -> Self {
        Self {
            conns: Slab::new(),
            generation: 0,
            queues: Queues::default(),
            addresses: HashMap::new(),
            wanted: HashMap::new(),
            lagged: Vec::new(),
            behind: Vec::new(),
            concats: HashMap::new(),
            denied: Vec::new(),
            present: Present::default(),
            ends: EndWatch::default(),
            purges: PurgeNews::default(),
        }
    }
}

impl<S> Clients<S> {
    /// Returns the token of the connection in this slot.
    pub(super) fn token(&self, slot: usize) -> Token {
        self.conns[slot].token(slot)
    }

    /// Returns the slot of a connection, if it is still open.
    pub(super) fn find(&self, token: Token) -> Option<usize> {
        let slot = (token & 0xffff_ffff) as usize;
        self.conns.get(slot).filter(|conn| u64::from(conn.generation) == token >> 32).map(|_| slot)
    }
}

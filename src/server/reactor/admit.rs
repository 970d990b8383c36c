//! Admission of new connections.
//!
//! Invariants:
//! - A refused client receives 503 and is counted.
//! - An admitted client has a slot, a token and a deadline.

use std::net::IpAddr;

use super::clients::{Conn, Ending, SocketInput};
use super::listener;
use super::loop_state::LoopState;
use super::queues::Queued;
use super::socket::Socket;
use super::token::Token;
use crate::feed::{ConnIndex, Outbox};
use crate::metrics::Kind;
use crate::server::conn::Connection;
use crate::server::limits::client_address::is_trusted;
use crate::server::limits::rates::{CountedConnection, address_key};
use crate::server::tick::Tick;

impl<S: Socket> LoopState<S> {
    /// Admits a new connection. Returns `None` if there are too many: the client is refused, and the socket dropped.
    pub(crate) fn admit(&mut self, socket: S) -> Option<Token> {
        match self.check_room(&socket) {
            Ok(counted) => Some(self.insert_new(socket, counted)),
            Err(refused) => {
                self.count_refused(refused);
                listener::refuse(socket);
                None
            }
        }
    }

    /// Gives a slot and a token to a connection that was just accepted.
    pub(super) fn insert_new(&mut self, socket: S, counted: Option<CountedConnection>) -> Token {
        let connection = Connection::new(self.turn.tick);
        let look = self.turn.config.handshake_ticks().min(10);
        self.insert(socket, connection, Outbox::default(), counted, look)
    }

    /// Counts a new connection for its address, or returns the reason to refuse it.
    pub(super) fn check_room(&self, socket: &S) -> Result<Option<CountedConnection>, &'static str> {
        self.shared.metrics.connections_accepted.inc();
        if self.departures.is_draining {
            return Err("draining");
        }
        if self.shared.open_connections() >= self.turn.config.max_connections as u64 {
            return Err("too_many");
        }
        match self.counted_address(socket) {
            Some((address, max)) => {
                self.shared.clients.addresses.enter(address, max).map(Some).ok_or("address")
            }
            None => Ok(None),
        }
    }

    /// Gives a connection a slot and a token, and sets its timer to this many ticks.
    pub(super) fn insert(
        &mut self,
        socket: S,
        connection: Connection,
        outbox: Outbox,
        counted: Option<CountedConnection>,
        look: Tick,
    ) -> Token {
        let kind = connection.transport().name();
        self.shared.metrics.connections.get_or_create(&Kind { kind }).inc();
        // 31 bits: the token fits a mio token and never meets the loop's own.
        self.clients.generation = (self.clients.generation + 1) & 0x7fff_ffff;
        let generation = self.clients.generation;
        let slot = self.clients.conns.insert(Conn {
            socket,
            generation,
            connection,
            outbox,
            replay: None,
            pending_answers: 0,
            blocked: false,
            input: SocketInput::default(),
            queued: Queued::default(),
            spent_in: (0, 0),
            ending: Ending::default(),
        });
        let token = self.clients.token(slot);
        if let Some(counted) = counted {
            self.clients.addresses.insert(token, counted);
        }
        self.turn.wheel.add(self.turn.tick + look, slot as ConnIndex);
        token
    }

    /// Counts a refused connection.
    pub(crate) fn count_refused(&self, kind: &'static str) {
        self.shared.metrics.connections_refused.get_or_create(&Kind { kind }).inc();
    }

    /// Returns the address that a new connection counts for, and the limit of that address.
    pub(super) fn counted_address(&self, socket: &S) -> Option<(IpAddr, u32)> {
        let max = self.turn.config.limits.connections_per_address?;
        // A trusted proxy forwards many clients. Each is counted once a request names its address.
        let peer = socket.peer().filter(|peer| !is_trusted(*peer, &self.turn.config.trusted_proxies))?;
        Some((address_key(peer), max))
    }
}

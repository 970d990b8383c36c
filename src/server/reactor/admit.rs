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
use crate::codec::ws;
use crate::dialect::CLOSE_TRY_LATER;
use crate::feed::{ConnIndex, Outbox};
use crate::metrics::Kind;
use crate::server::conn::Connection;
use crate::server::limits::client_address::is_trusted;
use crate::server::limits::rates::{CountedConnection, address_key};
use crate::server::shared::adoption::{AdoptedHead, AdoptedRequest};
use crate::server::tick::Tick;

impl<S: Socket> LoopState<S> {
    /// Admits a new connection. Returns `None` if there are too many: the client is refused, and the socket dropped.
    pub(crate) fn admit(&mut self, socket: S) -> Option<Token> {
        self.admit_as(Connection::new(self.turn.tick), socket, |socket| listener::refuse(socket))
    }

    /// Admits a connection that the embedding program accepted, and queues its request as input. Returns `None` as
    /// [`admit`](Self::admit) does. A client that already has its response is refused by a close frame, or by the end
    /// of its stream.
    pub(crate) fn adopt(&mut self, socket: S, request: AdoptedRequest) -> Option<Token> {
        let is_answered = matches!(request.head, AdoptedHead::Written);
        let is_upgrade = ws::is_upgrade(&request.request);
        let token = self.admit_as(Connection::adopted(self.turn.tick, request), socket, |mut socket| {
            if !is_answered {
                listener::refuse(socket);
            } else if is_upgrade {
                // A new socket accepts a few bytes. If it does not, the client sees the end of the stream.
                let _ =
                    socket.write(&ws::close_frame(CLOSE_TRY_LATER, "server takes no more connections now"));
            }
        })?;
        let slot = self.find(token)?;
        self.queue_input(slot);
        Some(token)
    }

    fn admit_as(&mut self, connection: Connection, socket: S, refuse: impl FnOnce(S)) -> Option<Token> {
        match self.check_room(&socket) {
            Ok(counted) => {
                let look = self.turn.config.handshake_ticks().min(10);
                Some(self.insert(socket, connection, Outbox::default(), counted, look))
            }
            Err(refused) => {
                self.count_refused(refused);
                refuse(socket);
                None
            }
        }
    }

    /// Counts a new connection for its address, or returns the reason to refuse it.
    fn check_room(&self, socket: &S) -> Result<Option<CountedConnection>, &'static str> {
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
        // 31 bits, so that the token fits a mio token and never equals one of the loop's own.
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

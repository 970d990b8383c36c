//! Packs clients for a successor process, and unpacks those of a predecessor.
//!
//! Always: a packed client has every event that this loop has read, or its pending bytes move with it. One process at a
//! time writes to it. A client that can't move stays, and is asked to reconnect.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clients::Conn;
use super::clients::Ending;
use super::delivery::BATCHES_A_TURN;
use super::loop_state::LoopState;
use super::socket::Socket;
use super::token::Token;
use crate::dialect::{ConcatTarget, Encoding};
use crate::event::Timestamp;
use crate::feed::{Conflation, FeedInterest, FilterSelection, LagPolicy, Outbox, OutboxContext, SavedOutbox};
use crate::filter::saved::{Exact, SavedFilter};
use crate::filter::{Filter, FilterLimits};
use crate::server::conn::Connection;
use crate::server::conn::saved::SavedConnection;
use crate::server::shared::report::ClientTransport;
use crate::server::tick::Tick;

/// State of one client, without its socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedClient {
    connection: SavedConnection,
    #[serde(rename = "cursor")]
    outbox: SavedOutbox,
    /// Interest of an event stream, which has no session.
    interest: Option<SavedInterest>,
    /// Name that the client chose.
    #[serde(default)]
    name: Option<Box<str>>,
    /// Pointer of `on_lag=concat`; absent from a version that has no such policy.
    #[serde(default)]
    concat: Option<Box<str>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedInterest {
    encoding: Encoding,
    #[serde(rename = "cut")]
    lag_policy: LagPolicy,
    wishes: Vec<(String, Conflation)>,
    /// Exact forms of the wishes' filters; absent from a version that saved texts only.
    #[serde(default)]
    exact: Vec<Option<Exact>>,
}

impl From<&FeedInterest> for SavedInterest {
    fn from(interest: &FeedInterest) -> Self {
        let forms = interest.selections.iter().map(|wish| {
            let (text, exact) = SavedFilter::from(&wish.filter).into_forms();
            ((text, wish.conflation), exact)
        });
        let (wishes, exact) = forms.unzip();
        Self { encoding: interest.encoding, lag_policy: interest.lag_policy, wishes, exact }
    }
}

impl SavedInterest {
    /// Restores an interest. It was joined with a grant, so it may be longer than a client's own limit.
    fn restored(self) -> Option<FeedInterest> {
        let mut limits = FilterLimits::default();
        (limits.values_max, limits.comparisons_max) = (limits.values_max * 4, limits.comparisons_max * 4);
        let selection = |((text, conflation), exact): ((String, Conflation), Option<Exact>)| {
            let filter = match exact {
                Some(_) => SavedFilter::from_forms(text, exact).try_into().ok()?,
                None => Filter::parse(&text, &limits).ok()?,
            };
            Some(FilterSelection { filter, conflation })
        };
        let exact = self.exact.into_iter().chain(std::iter::repeat(None));
        let selections = self.wishes.into_iter().zip(exact).map(selection).collect::<Option<_>>()?;
        Some(FeedInterest { encoding: self.encoding, lag_policy: self.lag_policy, selections })
    }
}

/// A packed client, and the interest to restore if it has to stay.
pub(crate) type Packed = (Token, Option<FeedInterest>);

impl<S: Socket> LoopState<S> {
    /// Returns whether a client still waits for an answer from another thread.
    pub(crate) fn awaits_answers(&self) -> bool {
        !self.requests.deferred.is_empty()
            || self.clients.conns.iter().any(|(_, conn)| conn.pending_answers > 0)
    }

    /// Reads the bus to its end, and passes every client that can move to `give`. The caller guarantees that nothing is
    /// published during the call, and uses no socket afterwards until [`Self::release`] or [`Self::reclaim`].
    pub(crate) fn pack(&mut self, mut give: impl FnMut(&S, SavedClient)) -> Vec<Packed> {
        self.commit_all();
        self.close_denied();
        self.delivery.more_events = true;
        while self.delivery.more_events {
            self.begin_conditions();
            self.pump(BATCHES_A_TURN);
        }
        let can_move = |conn: &Conn<S>| {
            let is_idle = conn.replay.is_none() && conn.pending_answers == 0 && conn.ending == Ending::None;
            is_idle && conn.socket.can_move()
        };
        let slots: Vec<usize> =
            self.clients.conns.iter().filter(|(_, conn)| can_move(conn)).map(|(slot, _)| slot).collect();
        let mut packed = Vec::new();
        for slot in slots {
            let Some(connection) =
                self.clients.conns[slot].connection.save(self.turn.tick, &self.shared.clients.observers)
            else {
                continue;
            };
            let name = self.name_of(slot);
            let conn = &mut self.clients.conns[slot];
            let interest = conn.outbox.interest(&self.delivery.fanout);
            let ring = self.turn.resume_lookup(&self.shared, &self.places);
            let (outbox, moved) = conn
                .outbox
                .save(&mut self.delivery.fanout, &mut OutboxContext::new(&mut self.delivery.tally, &ring));
            let of_stream = interest.as_ref().filter(|_| conn.connection.transport() == ClientTransport::Sse);
            let concat = self.clients.concats.get(&conn.token(slot)).map(|target| target.text().into());
            let interest_too = of_stream.map(SavedInterest::from);
            give(&conn.socket, SavedClient { connection, outbox, interest: interest_too, name, concat });
            packed.push((conn.token(slot), interest));
            self.update_member_index(moved);
        }
        packed
    }

    /// Drops the packed clients, which the successor now has. Their sockets stay open for the peers.
    pub(crate) fn release(&mut self, packed: Vec<Packed>) {
        for (token, _) in packed {
            self.forget(token);
        }
    }

    /// Restores the packed clients after a failed handover.
    pub(crate) fn reclaim(&mut self, packed: Vec<Packed>) {
        for (token, interest) in packed {
            let Some(slot) = self.find(token) else { continue };
            if let Some(FeedInterest { encoding, lag_policy, selections }) = interest {
                self.join(slot, encoding, lag_policy, &selections);
            }
            self.queue(slot);
        }
    }

    /// Sets the time at which clients are taken over. Events wait until then, so that all clients begin at one place.
    pub(crate) fn set_time(&mut self, tick: Tick, now: Timestamp) {
        (self.turn.tick, self.turn.now) = (self.turn.tick.max(tick), now);
    }

    /// Takes over a client. It is not written before its socket is reported writable. Returns `None` if it is not allowed to
    /// continue here.
    pub(crate) fn unpack(&mut self, socket: S, saved: SavedClient) -> Option<Token> {
        let SavedClient { connection, outbox, interest, name, concat } = saved;
        let view = self.delivery.view(&self.shared.bus, &socket, None);
        let cx = self.turn.context(&self.shared, &view, true);
        let connection = Connection::restored(connection, &cx)?;
        let interest = match interest {
            Some(interest) => Some(interest.restored()?),
            None => None,
        };
        let outbox = Outbox::restored(outbox, &mut self.delivery.fanout);
        let look = if connection.transport() == ClientTransport::Http {
            10
        } else {
            self.turn.config.heartbeat_ticks()
        };
        let address = self.counted_address(&socket);
        // The predecessor admitted it, so the limit for its address is not checked again.
        let counted = address.and_then(|(address, _)| self.shared.clients.addresses.enter(address, u32::MAX));
        let token = self.insert(socket, connection, outbox, counted, look);
        let slot = self.find(token)?;
        self.clients.conns[slot].blocked = true;
        if let Some(name) = name {
            self.call(slot, name);
        }
        if let Some(target) = concat.and_then(|text| ConcatTarget::read(&text).ok()) {
            self.clients.concats.insert(token, Arc::new(target));
        }
        if let Some(FeedInterest { encoding, lag_policy, selections }) = interest {
            self.place(slot, selections.iter().map(|selection| &selection.filter));
            self.watch_ends(slot, encoding, selections.iter().map(|selection| &selection.filter));
            self.join(slot, encoding, lag_policy, &selections);
        }
        let conn = &mut self.clients.conns[slot];
        let view = self.delivery.view(&self.shared.bus, &conn.socket, Some(&conn.outbox));
        let mut cx = self.turn.context(&self.shared, &view, conn.blocked);
        conn.connection.resume(&mut cx);
        self.apply(slot);
        Some(token)
    }
}

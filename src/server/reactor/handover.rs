//! Packs clients for a successor process, and unpacks those of a predecessor.
//!
//! Always: a packed client has every event that this loop has read, or its pending bytes move with it. One process at a
//! time writes to it. A client that catches up moves with its place. A client that can't move stays, and is asked to
//! reconnect.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::clients::Conn;
use super::clients::Ending;
use super::delivery::BATCHES_A_TURN;
use super::loop_state::LoopState;
use super::replay::SuspendedCatchUp;
use super::socket::Socket;
use super::token::Token;
use crate::codec::portable;
use crate::dialect::{ConcatTarget, Encoding};
use crate::event::{Since, Timestamp};
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
    /// Rest of a catch-up; absent from a version that keeps such clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    catch_up: Option<SavedCatchUp>,
}

/// Place of a client that catches up, and the replies that follow the events after it.
#[derive(Debug, Serialize, Deserialize)]
struct SavedCatchUp {
    #[serde(with = "portable::text")]
    place: Since,
    replies: Vec<SavedReply>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedReply(#[serde(with = "portable::bytes")] Bytes);

impl From<&SuspendedCatchUp> for SavedCatchUp {
    fn from(SuspendedCatchUp { place, held }: &SuspendedCatchUp) -> Self {
        Self { place: place.clone(), replies: held.iter().cloned().map(SavedReply).collect() }
    }
}

impl From<SavedCatchUp> for SuspendedCatchUp {
    fn from(SavedCatchUp { place, replies }: SavedCatchUp) -> Self {
        Self { place, held: replies.into_iter().map(|reply| reply.0).collect() }
    }
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

/// A packed client, and what is restored if it has to stay.
pub(crate) struct Packed {
    token: Token,
    interest: Option<FeedInterest>,
    catch_up: Option<SuspendedCatchUp>,
}

impl<S: Socket> LoopState<S> {
    /// Returns whether a client still waits for an answer from another thread.
    pub(crate) fn awaits_answers(&self) -> bool {
        !self.requests.deferred.is_empty()
            || self.clients.conns.iter().any(|(_, conn)| conn.pending_answers > 0)
    }

    /// Reads the bus to its end, and passes every client that can move to `give`. The caller guarantees that nothing is
    /// published during the call, and uses no socket afterwards until [`Self::release`] or [`Self::reclaim`].
    /// `moves_catch_ups`: whether the successor continues for clients that catch up.
    pub(crate) fn pack(
        &mut self,
        moves_catch_ups: bool,
        mut give: impl FnMut(&S, SavedClient),
    ) -> Vec<Packed> {
        self.commit_all();
        self.close_denied();
        self.delivery.more_events = true;
        while self.delivery.more_events {
            self.begin_conditions();
            self.pump(BATCHES_A_TURN);
        }
        // The successor reports no purge from before its start.
        self.report_all_purges();
        let can_move = |conn: &Conn<S>| {
            let is_idle = conn.pending_answers == 0 && conn.ending == Ending::None;
            let has_past = conn.replay.as_ref().is_some_and(|past| !(moves_catch_ups && past.is_catch_up()));
            is_idle && !has_past && conn.socket.can_move()
        };
        let slots: Vec<usize> =
            self.clients.conns.iter().filter(|(_, conn)| can_move(conn)).map(|(slot, _)| slot).collect();
        let mut packed = Vec::new();
        for slot in slots {
            let conn = &self.clients.conns[slot];
            let Some(connection) = conn.connection.save(self.turn.tick, &self.shared.clients.observers)
            else {
                continue;
            };
            let name = self.name_of(slot);
            let interest = conn.outbox.interest(&self.delivery.fanout);
            let catch_up = if conn.replay.is_some() {
                let Some(catch_up) = self.pack_catch_up(slot, interest.as_ref()) else { continue };
                Some(catch_up)
            } else {
                None
            };
            let conn = &mut self.clients.conns[slot];
            let ring = self.turn.resume_lookup(&self.shared, &self.places);
            let (outbox, moved) = conn
                .outbox
                .save(&mut self.delivery.fanout, &mut OutboxContext::new(&mut self.delivery.tally, &ring));
            let of_stream = interest.as_ref().filter(|_| conn.connection.transport() == ClientTransport::Sse);
            let concat = self.clients.concats.get(&conn.token(slot)).map(|target| target.text().into());
            let saved = catch_up.as_ref().map(SavedCatchUp::from);
            let interest_too = of_stream.map(SavedInterest::from);
            let client =
                SavedClient { connection, outbox, interest: interest_too, name, concat, catch_up: saved };
            give(&conn.socket, client);
            packed.push(Packed { token: conn.token(slot), interest, catch_up });
            self.update_member_index(moved);
        }
        packed
    }

    /// Ends the replay of a client that catches up. Frames of its feed are read by the next one. Returns `None` if the client
    /// can't move.
    fn pack_catch_up(&mut self, slot: usize, interest: Option<&FeedInterest>) -> Option<SuspendedCatchUp> {
        let filters: Vec<Filter> =
            interest?.selections.iter().map(|selection| selection.filter.clone()).collect();
        if self.clients.conns[slot].outbox.has_purge_notice(&self.delivery.fanout) {
            // The successor would not know of the purge.
            return None;
        }
        let suspended = self.suspend_catch_up(slot, &filters)?;
        let outbox = &mut self.clients.conns[slot].outbox;
        outbox.skip_to_end(&mut self.delivery.fanout);
        outbox.set_replaying(false);
        Some(suspended)
    }

    /// Drops the packed clients, which the successor now has. Their sockets stay open for the peers.
    pub(crate) fn release(&mut self, packed: Vec<Packed>) {
        for Packed { token, .. } in packed {
            self.forget(token);
        }
    }

    /// Restores the packed clients after a failed handover.
    pub(crate) fn reclaim(&mut self, packed: Vec<Packed>) {
        for Packed { token, interest, catch_up } in packed {
            let Some(slot) = self.find(token) else { continue };
            if let Some(FeedInterest { encoding, lag_policy, selections }) = interest {
                self.join(slot, encoding, lag_policy, &selections);
            }
            if let Some(catch_up) = catch_up {
                self.continue_catch_up(slot, catch_up);
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
        let SavedClient { connection, outbox, interest, name, concat, catch_up } = saved;
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
        if let (Some(catch_up), Some(slot)) = (catch_up, self.find(token)) {
            self.continue_catch_up(slot, catch_up.into());
        }
        Some(token)
    }
}

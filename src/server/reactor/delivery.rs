//! The path of events through a loop: its reader of the bus, its feeds, and its record of past events.

use std::sync::Arc;

use super::continuity::Continuity;
use super::gather::Unwritten;
use super::kind_log::KindLog;
use super::replay::{Arrived, Forward};
use super::socket::Socket;
use super::token::Token;
use super::zero_copy::SharedPages;
use crate::bus::{Bus, LoopReader};
use crate::engine::Ticket;
use crate::event::{Event, EventId, Position, Sequence, Timestamp};
use crate::feed::{Fanout, FeedKey, Outbox, Snapshot, Tally};
use crate::kept::LogEnd;
use crate::server::session::context::LoopView;

/// Batches of events taken from the bus between two looks at the sockets.
pub(super) const BATCHES_A_TURN: usize = 8;

/// Maximum number of events that clients publish before the loop delivers them, so that no request laps the ring or its own
/// feeds.
pub(super) const PUBLISHED_A_BATCH: usize = 256;

/// Token of the snapshot in requests for pages of the log. No connection has it.
pub(super) const SNAPSHOT: Token = Token::MAX;

/// A snapshot that still lacks earlier events.
#[derive(Debug)]
pub(super) struct Building {
    pub(super) forward: Forward,
    pub(super) ticket: Option<Ticket>,
    pub(super) arrived: Option<Arrived>,
    /// Clients that wait for the snapshot.
    pub(super) waiting: Vec<Token>,
}

/// Event taken from the bus whose match continues in the next turn.
pub(super) struct EventInHand {
    pub(super) event: Event,
    /// Place of a client that has received all events before it.
    pub(super) before: Option<Position>,
    /// End of the log that the event ends.
    pub(super) ended: Option<Arc<LogEnd>>,
}

/// Reader, feeds and past of one loop.
pub(super) struct EventFlow {
    pub(super) reader: LoopReader,
    pub(super) fanout: Fanout,
    /// Event that is not in the feeds yet. Meanwhile no client is read and no past continues, so every place that a client
    /// gets, and every interest, is from before the event.
    pub(super) in_hand: Option<EventInHand>,
    /// Work on conditions before this turn, in instructions.
    pub(super) worked_before: u64,
    /// Feeds with events to write; kept for its capacity.
    pub(super) dirty: Vec<FeedKey>,
    /// Pages of memory that many sockets share.
    pub(super) pages: SharedPages,
    /// Whether the bus may have more events.
    pub(super) more_events: bool,
    /// Time at which events were last taken from the bus.
    pub(super) pumped: Timestamp,
    /// Number of events that this loop's clients have published since it last read the bus.
    pub(super) unpumped: usize,
    /// Events in the feeds that wait to be written.
    pub(super) unwritten: Unwritten,
    /// Latest event of each key; made when the first client asks for it.
    pub(super) snapshot: Option<Box<Snapshot>>,
    /// Older events that are still being put into the snapshot.
    pub(super) building: Option<Box<Building>>,
    /// Kinds of past events, for clients that resume after the events were dropped.
    pub(super) kind_log: KindLog,
    /// With an engine: the newest id of each shard, which shows holes in the log.
    pub(super) continuity: Option<Continuity>,
    pub(super) tally: Tally,
}

impl EventFlow {
    pub(super) fn new(bus: &Bus, reader: LoopReader, fanout: Fanout, has_engine: bool) -> Self {
        Self {
            continuity: has_engine.then(|| Continuity::starting_at(bus, &reader)),
            reader,
            fanout,
            in_hand: None,
            worked_before: 0,
            dirty: Vec::new(),
            pages: SharedPages::default(),
            more_events: true,
            pumped: Timestamp::default(),
            unpumped: 0,
            unwritten: Unwritten::default(),
            snapshot: None,
            building: None,
            kind_log: KindLog::default(),
            tally: Tally::default(),
        }
    }

    /// Returns the place of a client that has received all events in the feeds.
    pub(super) fn position(&self, bus: &Bus) -> Option<Position> {
        match &self.in_hand {
            Some(in_hand) => in_hand.before.clone(),
            None => taken(bus, &self.reader, self.continuity.as_ref()),
        }
    }

    /// Returns the view of this loop that one of its connections is given.
    pub(super) fn view<'a, S: Socket>(
        &'a self,
        bus: &'a Bus,
        socket: &'a S,
        outbox: Option<&'a Outbox>,
    ) -> ConnView<'a, S> {
        ConnView { delivery: self, bus, socket, outbox }
    }
}

/// View of a loop that one of its connections is given.
pub(super) struct ConnView<'a, S> {
    delivery: &'a EventFlow,
    bus: &'a Bus,
    socket: &'a S,
    outbox: Option<&'a Outbox>,
}

impl<S: Socket> LoopView for ConnView<'_, S> {
    fn position(&self) -> Option<Position> {
        self.delivery.position(self.bus)
    }

    fn read_to(&self, shard: u16) -> Sequence {
        self.delivery.reader.position(shard)
    }

    fn newest(&self) -> Option<EventId> {
        self.outbox?.newest(&self.delivery.fanout)
    }

    fn peer(&self) -> Option<std::net::IpAddr> {
        self.socket.peer()
    }
}

/// Returns the position of a client that has received all events that the loop has appended to its feeds. With an engine,
/// there is one only after the loop has read an event of its log.
pub(super) fn taken(bus: &Bus, reader: &LoopReader, log: Option<&Continuity>) -> Option<Position> {
    match (reader.client_position(), log) {
        (Some(place), log) => (log.is_none() || place.epoch() != bus.epoch()).then(|| place.clone()),
        (None, None) => Some(Position::new(bus.epoch(), [reader.position(0)])),
        (None, Some(log)) => log.newest(0).map(|id| Position::new(id.epoch, [id.next_sequence()])),
    }
}

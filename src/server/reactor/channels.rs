//! The channels that a loop's clients are in, and the users that may have left them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::token::Token;
use crate::server::presence::Seat;
use crate::server::tick::Tick;

/// Presence of a loop's clients.
#[derive(Debug, Default)]
pub(super) struct Present {
    pub(super) clients: HashMap<Token, ChannelClient>,
    pub(super) departures: BTreeMap<(Tick, u64), Departure>,
    /// Number of departures so far; makes their keys unique.
    pub(super) number: u64,
    /// Bytes of the channels' names in `clients`.
    pub(super) seat_bytes: usize,
}

/// Memory of a seat without its channel's name, in bytes.
pub(super) const SEAT_BYTES: usize = 64;

#[derive(Debug, Default)]
pub(super) struct ChannelClient {
    /// Name that the client chose, if the server has no authentication.
    pub(super) name: Option<Arc<str>>,
    /// User that the client counts as in the channels below.
    pub(super) user: Option<Arc<str>>,
    /// By channel: the client's seat in it, and the number of the client's filters that name it.
    pub(super) seats: BTreeMap<Box<str>, (Seat, u32)>,
}

/// A user without connections, in its grace time.
#[derive(Debug)]
pub(super) struct Departure {
    pub(super) channel: Box<str>,
    pub(super) user: Arc<str>,
}

impl Present {
    /// Schedules a check at tick `due` whether the user has left.
    pub(super) fn depart_at(&mut self, due: Tick, departure: Departure) {
        self.number += 1;
        self.departures.insert((due, self.number), departure);
    }
}

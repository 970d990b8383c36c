//! Which of a loop's clients are in which channels, and when those who went have left.
//!
//! Imports the room's core. Always: a client is in the channels that its subscriptions name, as far as it may see
//! them; the loop from which a user's last connection went says that they left, when they have been away for the grace
//! time; where presence is off, this costs a look at the settings.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::super::presence::{JOINED, LEFT, Seat, event, is_name};
use super::super::wheel::Tick;
use super::{Core, Socket, Token, token_of};
use crate::event::{Attribute, Event};
use crate::filter::Filter;
use crate::sync::lock;

/// What a loop knows of its clients' presence.
#[derive(Debug, Default)]
pub(super) struct Present {
    clients: HashMap<Token, Client>,
    departures: BTreeMap<(Tick, u64), Departure>,
    /// Numbers them.
    number: u64,
    /// Events that are to be published when the loop is done with what it does.
    unsaid: Vec<Event>,
}

#[derive(Debug, Default)]
struct Client {
    /// What it calls itself, where nobody need show who they are.
    name: Option<Arc<str>>,
    /// Who it is in the channels below.
    user: Option<Arc<str>>,
    seats: BTreeMap<Box<str>, Seat>,
}

/// A user whose last connection went.
#[derive(Debug)]
struct Departure {
    channel: Box<str>,
    user: Arc<str>,
    absence: u32,
}

impl Present {
    /// Looks at this tick whether the user has left.
    fn depart_at(&mut self, due: Tick, departure: Departure) {
        self.number += 1;
        self.departures.insert((due, self.number), departure);
    }
}

impl<S: Socket> Core<S> {
    /// A connection says who it is.
    pub(super) fn call(&mut self, slot: usize, name: Box<str>) {
        let token = token_of(slot, self.conns[slot].generation);
        self.present.clients.entry(token).or_default().name = Some(name.into());
    }

    /// The name that a connection has given itself, for another process.
    pub(super) fn name_of(&self, slot: usize) -> Option<Box<str>> {
        let client = self.present.clients.get(&token_of(slot, self.conns[slot].generation))?;
        client.name.as_deref().map(Box::from)
    }

    /// A connection is now in the channels that these filters name, and in no others.
    pub(super) fn place<'a>(&mut self, slot: usize, filters: impl Iterator<Item = &'a Filter>) {
        let token = token_of(slot, self.conns[slot].generation);
        let config = &self.config.presence;
        if !config.is_on() && !self.present.clients.contains_key(&token) {
            return;
        }
        let wanted: BTreeSet<&str> = filters
            .flat_map(|filter| filter.named(Attribute::Channel))
            .filter(|c| config.covers(c))
            .collect();
        if wanted.is_empty() && !self.present.clients.contains_key(&token) {
            return;
        }
        let subject = self.conns[slot].connection.grant().map(super::super::auth::Grant::subject);
        let client = self.present.clients.entry(token).or_default();
        let user = match subject {
            Some(subject) => Some(subject).filter(|subject| is_name(subject)).map(Arc::from),
            None => client.name.clone(),
        };
        let is_another = user != client.user;
        let goes = |channel: &str| is_another || !wanted.contains(channel);
        let mut gone = Vec::new();
        client.seats.retain(|channel, seat| {
            let stays = !goes(channel);
            if !stays {
                gone.push((channel.clone(), *seat));
            }
            stays
        });
        let before = std::mem::replace(&mut client.user, user.clone());
        let new: Vec<&str> =
            wanted.into_iter().filter(|channel| !client.seats.contains_key(*channel)).collect();
        self.vacate(before.as_ref(), gone);
        let shared = Arc::clone(&self.shared);
        let mut presence = lock(&shared.presence);
        for channel in new {
            let (seat, joined) = presence.enter(channel, user.as_ref(), self.now, &self.config.presence);
            if seat == Seat::Nowhere || (seat == Seat::Other && user.is_some()) {
                shared.metrics.presence_refused.inc();
            }
            if joined && let Some(user) = &user {
                shared.metrics.presence_joins.inc();
                self.present.unsaid.extend(event(JOINED, channel, user, shared.bus.epoch()));
            }
            if let Some(client) = self.present.clients.get_mut(&token) {
                client.seats.insert(channel.into(), seat);
            }
        }
        presence.tell(&shared.metrics);
    }

    /// A connection is in no channel any more.
    pub(super) fn displace(&mut self, slot: usize) {
        if self.present.clients.is_empty() {
            return;
        }
        let token = token_of(slot, self.conns[slot].generation);
        if let Some(Client { user, seats, .. }) = self.present.clients.remove(&token) {
            self.vacate(user.as_ref(), seats);
        }
    }

    /// Gives up what a client was in these channels.
    fn vacate(&mut self, user: Option<&Arc<str>>, seats: impl IntoIterator<Item = (Box<str>, Seat)>) {
        let mut presence = lock(&self.shared.presence);
        let due = self.tick + self.config.presence_grace_ticks();
        for (channel, seat) in seats {
            if let (Some(absence), Some(user)) = (presence.leave(&channel, user, seat), user) {
                self.present.depart_at(due, Departure { channel, user: Arc::clone(user), absence });
            }
        }
        presence.tell(&self.shared.metrics);
    }

    /// The tick at which somebody may have left.
    pub(super) fn next_departure(&self) -> Option<Tick> {
        self.present.departures.first_key_value().map(|((tick, _), _)| *tick)
    }

    /// Waits for who was here before an upgrade, and has not been seen since.
    pub(crate) fn expect_users(&mut self) {
        let due = self.tick + self.config.presence_grace_ticks();
        for one in lock(&self.shared.presence).take_expected() {
            let departure = Departure { channel: one.channel, user: one.user.into(), absence: 0 };
            self.present.depart_at(due, departure);
        }
    }

    /// Publishes who came, and who has left by this tick.
    pub(super) fn tell_presence(&mut self, by: Tick) {
        while let Some(entry) = self.present.departures.first_entry() {
            if entry.key().0 > by {
                break;
            }
            let Departure { channel, user, absence } = entry.remove();
            let mut presence = lock(&self.shared.presence);
            if presence.depart(&channel, &user, absence) {
                self.shared.metrics.presence_leaves.inc();
                self.present.unsaid.extend(event(LEFT, &channel, &user, self.shared.bus.epoch()));
            }
            presence.tell(&self.shared.metrics);
        }
        let events = std::mem::take(&mut self.present.unsaid);
        if events.is_empty() || self.shared.is_handed_over() {
            return;
        }
        match &self.shared.engine {
            // What it refuses, it counts.
            Some(engine) => engine.submit(&events, Box::new(|_| {})),
            None => {
                self.publish_here(events);
            }
        }
    }

    /// Says what is still to be said before the loop's clients are packed.
    pub(crate) fn settle_presence(&mut self) {
        self.tell_presence(self.tick);
    }

    /// The loop ends: whoever was here only has left.
    pub(crate) fn end_presence(&mut self) {
        let slots: Vec<usize> = self.conns.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.displace(slot);
        }
        self.tell_presence(Tick::MAX);
    }
}

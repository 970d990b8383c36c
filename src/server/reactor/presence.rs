//! The loop's part of presence: the channels of its clients, and the grace time of those that left.
//!
//! Invariants:
//! - A client is in the channels that its subscriptions name, within its rights.
//! - The loop that closed a user's last connection announces the user's leave, after the grace time.
//! - If presence is off, the cost is one look at a setting.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::presence::{Absence, JOINED, LEFT, News, Seat, event, is_name};
use super::channels::{ChannelClient, Departure, SEAT_BYTES};
use super::loop_state::LoopState;
use super::socket::Socket;
use super::token::Token;
use crate::engine::Refused;
use crate::event::{Attribute, Event, EventId};
use crate::feed::Change;
use crate::filter::Filter;
use crate::server::tick::Tick;
use crate::sync::lock;

/// Divisor of the rings' capacity that gives the maximum number of presence events per tick. So filling the rings takes
/// at least six seconds, regardless of the number of joins.
const PACE_PARTS: usize = 64;
const PACE_MIN: usize = 16;

impl<S: Socket> LoopState<S> {
    /// Records the name that a connection gives itself.
    pub(super) fn call(&mut self, slot: usize, name: Box<str>) {
        let token = self.clients.token(slot);
        self.clients.present.clients.entry(token).or_default().name = Some(name.into());
    }

    /// Returns the name that a connection gave itself, for the handover.
    pub(super) fn name_of(&self, slot: usize) -> Option<Box<str>> {
        let client = self.clients.present.clients.get(&self.clients.token(slot))?;
        client.name.as_deref().map(Box::from)
    }

    /// Sets the channels of a connection to those that these filters name.
    pub(super) fn place<'a>(&mut self, slot: usize, filters: impl Iterator<Item = &'a Filter>) {
        let config = Arc::clone(&self.turn.config);
        let named = filters.flat_map(|filter| filter.named(Attribute::Channel));
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        for channel in named.filter(|channel| config.presence.covers(channel)) {
            *counts.entry(channel).or_default() += 1;
        }
        self.seat(slot, true, counts);
    }

    /// Moves a connection into and out of the channels that these changes name. The cost is proportional to their number.
    pub(super) fn change_channels(&mut self, slot: usize, changes: &[Change]) {
        let config = Arc::clone(&self.turn.config);
        if !config.presence.is_on() && self.clients.present.clients.is_empty() {
            return;
        }
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        for Change { filter, was, to, from } in changes {
            for channel in from.iter().flat_map(|from| from.named(Attribute::Channel)) {
                *counts.entry(channel).or_default() -= 1;
            }
            for channel in filter.named(Attribute::Channel) {
                match (was, to.is_some()) {
                    (false, true) if config.presence.covers(channel) => {
                        *counts.entry(channel).or_default() += 1;
                    }
                    (true, false) => *counts.entry(channel).or_default() -= 1,
                    _ => {}
                }
            }
        }
        self.seat(slot, false, counts);
    }

    /// Updates a connection's seats. `counts` has, for each channel, the number of the connection's filters that name it if
    /// `is_whole`, or the change of that number if not.
    fn seat(&mut self, slot: usize, is_whole: bool, counts: BTreeMap<&str, i64>) {
        let token = self.clients.token(slot);
        let is_known = self.clients.present.clients.contains_key(&token);
        if !is_known && (counts.is_empty() || !self.turn.config.presence.is_on()) {
            return;
        }
        let subject = self.clients.conns[slot].connection.grant().map(super::super::auth::Grant::subject);
        let client = self.clients.present.clients.entry(token).or_default();
        let user = match subject {
            Some(subject) => Some(subject).filter(|subject| is_name(subject)).map(Arc::from),
            None => client.name.clone(),
        };
        let is_another = user != client.user;
        let mut gone: Vec<(Box<str>, Seat)> = Vec::new();
        let mut new: Vec<(Box<str>, u32)> = Vec::new();
        for (&channel, &count) in &counts {
            let count = u32::try_from(count.max(0)).unwrap_or(u32::MAX);
            if !client.seats.contains_key(channel) && count > 0 {
                new.push((channel.into(), count));
            }
        }
        if is_whole || is_another {
            client.seats.retain(|channel, (seat, named)| {
                let count = counts.get(&**channel).copied();
                let before = if is_whole { 0 } else { i64::from(*named) };
                *named = u32::try_from(before + count.unwrap_or_default()).unwrap_or_default();
                if *named > 0 && is_another {
                    new.push((channel.clone(), *named));
                }
                let stays = *named > 0 && !is_another;
                if !stays {
                    gone.push((channel.clone(), *seat));
                }
                stays
            });
        } else {
            for (&channel, count) in &counts {
                let Some((seat, named)) = client.seats.get_mut(channel) else { continue };
                *named = u32::try_from(i64::from(*named) + count).unwrap_or_default();
                if *named == 0 {
                    gone.push((channel.into(), *seat));
                    client.seats.remove(channel);
                }
            }
        }
        let before = std::mem::replace(&mut client.user, user.clone());
        if gone.is_empty() && new.is_empty() {
            return;
        }
        self.free_seats(before.as_ref(), gone);
        let shared = Arc::clone(&self.shared);
        let mut presence = lock(&shared.clients.presence);
        let most = self.turn.config.presence.max_channels_per_user;
        for (channel, count) in new {
            let has = self.clients.present.clients.get(&token).map_or(0, |client| client.seats.len());
            let (seat, joined) = if has >= most {
                presence.nowhere()
            } else {
                presence.enter(&channel, user.as_ref(), self.turn.now, &self.turn.config.presence)
            };
            if seat == Seat::Nowhere || (seat == Seat::Other && user.is_some()) {
                shared.metrics.presence_refused.inc();
            }
            if joined {
                shared.metrics.presence_joins.inc();
            }
            self.clients.present.seat_bytes += channel.len() + SEAT_BYTES;
            if let Some(client) = self.clients.present.clients.get_mut(&token) {
                client.seats.insert(channel, (seat, count));
            }
        }
        presence.update_gauges(&shared.metrics);
    }

    /// Removes a connection from all channels.
    pub(super) fn leave_channels(&mut self, slot: usize) {
        if self.clients.present.clients.is_empty() {
            return;
        }
        let token = self.clients.token(slot);
        if let Some(ChannelClient { user, seats, .. }) = self.clients.present.clients.remove(&token) {
            let seats = seats.into_iter().map(|(channel, (seat, _))| (channel, seat));
            self.free_seats(user.as_ref(), seats);
        }
    }

    /// Frees a client's seats in these channels.
    fn free_seats(&mut self, user: Option<&Arc<str>>, seats: impl IntoIterator<Item = (Box<str>, Seat)>) {
        let mut presence = lock(&self.shared.clients.presence);
        let due = self.turn.tick + self.turn.config.presence_grace_ticks();
        for (channel, seat) in seats {
            self.clients.present.seat_bytes -= channel.len() + SEAT_BYTES;
            if presence.leave(&channel, user, seat, due)
                && let Some(user) = user
            {
                self.clients.present.depart_at(due, Departure { channel, user: Arc::clone(user) });
            }
        }
        presence.update_gauges(&self.shared.metrics);
    }

    /// Returns the tick at which a user may have left, or news has to be published.
    pub(super) fn next_departure(&self) -> Option<Tick> {
        let departure = self.clients.present.departures.first_key_value().map(|((tick, _), _)| *tick);
        let has_news = self.turn.config.presence.is_on() && lock(&self.shared.clients.presence).has_news();
        if has_news {
            Some(departure.map_or(self.turn.tick + 1, |tick| tick.min(self.turn.tick + 1)))
        } else {
            departure
        }
    }

    /// Returns the bytes held for the presence of clients.
    pub(super) fn presence_bytes(&self) -> usize {
        self.clients.present.seat_bytes
            + self.clients.present.clients.len() * size_of::<(Token, ChannelClient)>()
    }

    /// Gives the users of the predecessor, which have not connected here yet, their grace time.
    pub(crate) fn expect_users(&mut self) {
        let due = self.turn.tick + self.turn.config.presence_grace_ticks();
        for one in lock(&self.shared.clients.presence).take_expected() {
            let departure = Departure { channel: one.channel, user: one.user.into() };
            self.clients.present.depart_at(due, departure);
        }
    }

    /// Publishes the joins, and the leaves that are due at this tick.
    pub(super) fn publish_presence(&mut self, by: Tick) {
        while let Some(entry) = self.clients.present.departures.first_entry() {
            if entry.key().0 > by {
                break;
            }
            let departure = entry.remove();
            let mut presence = lock(&self.shared.clients.presence);
            match presence.depart(&departure.channel, &departure.user, by) {
                Absence::Left => {
                    self.shared.metrics.presence_leaves.inc();
                }
                Absence::Until(due) => {
                    drop(presence);
                    self.clients.present.depart_at(due, departure);
                    continue;
                }
                Absence::Over => {}
            }
            presence.update_gauges(&self.shared.metrics);
        }
        let rings = self.shared.bus.capacity() * self.shared.bus.shards();
        self.publish_presence_news((rings / PACE_PARTS).max(PACE_MIN));
    }

    /// Publishes pending joins and leaves, at most `pace` of them per tick for all loops together.
    fn publish_presence_news(&mut self, pace: usize) {
        if !self.turn.config.presence.is_on() || self.shared.is_handed_over() {
            return;
        }
        let news = lock(&self.shared.clients.presence).take_news(self.turn.tick, pace);
        if news.is_empty() {
            return;
        }
        let node = self.shared.bus.epoch();
        let event =
            |news: &News| event(if news.joined { JOINED } else { LEFT }, &news.channel, &news.user, node);
        let events: Vec<Event> = news.iter().filter_map(event).collect();
        let presence = Arc::clone(&self.shared.clients.presence);
        match &self.shared.engine {
            Some(engine) => {
                let done = move |outcome: Result<&[EventId], Refused>| {
                    let mut presence = lock(&presence);
                    match outcome {
                        Err(why) if why.may_pass_later() => presence.retry_news(news),
                        _ => presence.confirm_news(),
                    }
                };
                engine.submit(&events, &[], Box::new(done));
            }
            None => {
                self.publish_here(events);
                lock(&presence).confirm_news();
            }
        }
    }

    /// Publishes all pending joins and leaves before the loop's clients are packed.
    pub(crate) fn settle_presence(&mut self) {
        self.publish_presence(self.turn.tick);
        self.publish_presence_news(usize::MAX);
    }

    /// Publishes the leaves of all clients at the loop's end.
    pub(crate) fn end_presence(&mut self) {
        self.commit_all();
        let slots: Vec<usize> = self.clients.conns.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.leave_channels(slot);
        }
        self.publish_presence(Tick::MAX);
        self.publish_presence_news(usize::MAX);
    }
}

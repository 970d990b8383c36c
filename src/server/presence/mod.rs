//! Presence: the users in each channel of this node, by name, with any number of connections each.
//!
//! The table has no clock and does no I/O. The loops report the connections that enter and leave, and the end of a grace time.
//!
//! Invariants:
//! - For one user in one channel, `joined` and `left` alternate.
//! - The table is bounded. Connections beyond its bounds are counted, so that an answer can say that it is incomplete.

mod news;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::tick::Tick;
use crate::event::{Event, Timestamp};
use crate::filter::Pattern;
use crate::metrics::Metrics;
pub(crate) use news::News;
use news::Queue;

/// Type of the event for a user's arrival in a channel.
pub(crate) const JOINED: &str = "presence.joined";

/// Type of the event for a user's departure from a channel.
pub(crate) const LEFT: &str = "presence.left";

/// Source of both events.
const SOURCE: &str = "fanwire";

/// Maximum length of a user's name, and of a channel with presence, in bytes: an event has room for both.
pub(crate) const NAME_BYTES_MAX: usize = 256;

/// Channels with presence, and the limits of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PresenceConfig {
    /// `presence.channels`: channels with presence, as values or patterns. Default: none, which turns presence off.
    pub channels: Vec<String>,
    /// `presence.grace`: time that a user may be away before a leave is reported, so that a page reload is not
    /// reported. Default: 10 s.
    pub grace: Duration,
    /// `presence.max_channels`: maximum number of channels with a connection in them. Default: 10,000.
    pub max_channels: usize,
    /// `presence.max_channels_per_user`: maximum number of channels of one user, or of one connection; further ones are
    /// not tracked. A user may join by name twice as often per minute. Default: 100.
    pub max_channels_per_user: usize,
    /// `presence.max_members`: maximum number of users by name in one channel. Default: 1,000.
    pub max_members: usize,
}

impl Default for PresenceConfig {
    fn default() -> Self {
        Self {
            channels: Vec::new(),
            grace: Duration::from_secs(10),
            max_channels: 10_000,
            max_channels_per_user: 100,
            max_members: 1000,
        }
    }
}

impl PresenceConfig {
    /// Returns whether any channel has presence.
    pub(crate) fn is_on(&self) -> bool {
        !self.channels.is_empty()
    }

    /// Returns whether the channel has presence.
    pub(crate) fn covers(&self, channel: &str) -> bool {
        (1..=NAME_BYTES_MAX).contains(&channel.len())
            && self.channels.iter().any(|pattern| Pattern::from(pattern.as_str()).matches(channel))
    }

    /// Returns whether only the server may publish the event.
    pub(crate) fn reserves(&self, event: &Event) -> bool {
        self.is_on()
            && matches!(event.event_type(), JOINED | LEFT)
            && event.channel().is_some_and(|channel| self.covers(channel))
    }
}

/// Role of one connection in a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// A connection of a named user.
    Named,
    /// A connection without a name, or of a user beyond the limit of names.
    Other,
    /// A connection in a channel beyond the limits, which is only counted.
    Nowhere,
}

#[derive(Debug)]
struct Member {
    connections: u32,
    since: Timestamp,
    /// Tick at which the user counts as having left, if no connection is there.
    due: Tick,
    /// Whether a check is scheduled at that tick or an earlier one. There is one check per user, however often the user
    /// reconnects.
    is_watched: bool,
}

impl Member {
    fn new(connections: u32, since: Timestamp) -> Self {
        Self { connections, since, due: 0, is_watched: connections == 0 }
    }
}

/// Outcome of a check on an absent user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// The user is back, or had left before.
    Over,
    /// A new absence has begun; check again at this tick.
    Until(Tick),
    /// The user has left.
    Left,
}

#[derive(Debug, Default)]
struct Channel {
    members: BTreeMap<Arc<str>, Member>,
    others: u64,
}

/// Memory of a channel without its name, in bytes: its table entry and its counts.
const CHANNEL_BYTES: usize = size_of::<(Box<str>, Channel)>() + 48;

/// Memory of a user in a channel without the name, in bytes.
const MEMBER_BYTES: usize = size_of::<(Arc<str>, Member)>() + 64;

/// Window for the limit on joins by name, in microseconds.
const JOINS_WINDOW: i64 = 60_000_000;

/// One user's share of the table.
#[derive(Debug, Default)]
struct User {
    channels: usize,
    /// Joins by name since `since`.
    joins: usize,
    since: i64,
}

/// Presence table of all loops.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    channels: HashMap<Box<str>, Channel>,
    /// Number of channels with a user known by name.
    peopled: usize,
    users: HashMap<Arc<str>, User>,
    news: Queue,
    /// Bytes of the names of channels and users.
    name_bytes: usize,
    /// Number of users by name, counted once per channel.
    named: usize,
    /// Number of connections beyond the limits.
    nowhere: u64,
    /// Users of the predecessor process that have not connected here yet.
    expected: Vec<Expected>,
}

/// A user of the predecessor process, expected to reconnect soon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Expected {
    pub(crate) channel: Box<str>,
    pub(crate) user: Box<str>,
    since: i64,
}

impl Presence {
    /// Adds a connection to a channel. Returns the connection's role, and whether its user joined the channel with it.
    pub(crate) fn enter(
        &mut self,
        channel: &str,
        user: Option<&Arc<str>>,
        now: Timestamp,
        config: &PresenceConfig,
    ) -> (Seat, bool) {
        let is_new = !self.channels.contains_key(channel);
        // Connections without a name can't be told apart, so together they get at most half of the channels.
        let nameless = self.channels.len() - self.peopled;
        let is_full = self.channels.len() >= config.max_channels
            || (user.is_none() && nameless >= config.max_channels.div_ceil(2));
        if is_new && is_full {
            return self.nowhere();
        }
        let is_member =
            |user| self.channels.get(channel).is_some_and(|place| place.members.contains_key(user));
        let mut is_named = user.is_some();
        if let Some(user) = user.filter(|user| !is_member(*user)) {
            let most = config.max_channels_per_user;
            let has = self.user(user, now);
            if has.channels >= most {
                return self.nowhere();
            }
            is_named = has.joins < 2 * most;
            if !is_named && is_new {
                return self.nowhere();
            }
        }
        if is_new {
            self.name_bytes += channel.len();
        }
        let place = self.channels.entry(channel.into()).or_default();
        let Some(user) = user.filter(|_| is_named) else {
            place.others += 1;
            return (Seat::Other, false);
        };
        if let Some(member) = place.members.get_mut(user) {
            member.connections += 1;
            return (Seat::Named, false);
        }
        if place.members.len() >= config.max_members {
            place.others += 1;
            return (Seat::Other, false);
        }
        place.members.insert(Arc::clone(user), Member::new(1, now));
        self.peopled += usize::from(place.members.len() == 1);
        self.name_bytes += user.len();
        self.named += 1;
        let has = self.user(user, now);
        has.channels += 1;
        has.joins += 1;
        self.news.push(News { joined: true, channel: channel.into(), user: Arc::clone(user) });
        (Seat::Named, true)
    }

    /// Counts a connection in a channel beyond the limits.
    pub(crate) fn nowhere(&mut self) -> (Seat, bool) {
        self.nowhere += 1;
        (Seat::Nowhere, false)
    }

    /// Returns the user's share of the table. Users in no channel are forgotten once their window is over.
    fn user(&mut self, user: &Arc<str>, now: Timestamp) -> &mut User {
        let is_old = |has: &User| !(0..JOINS_WINDOW).contains(&(now.0 - has.since));
        if self.users.len() > 2 * self.named + 1024 {
            self.users.retain(|_, has| has.channels > 0 || !is_old(has));
        }
        let has = self.users.entry(Arc::clone(user)).or_default();
        if is_old(has) {
            (has.since, has.joins) = (now.0, 0);
        }
        has
    }

    /// Removes a connection from a channel. Returns `true` if it was its user's last one and no check is scheduled yet: then the
    /// caller must call [`Self::depart`] at the tick `due`.
    pub(crate) fn leave(&mut self, channel: &str, user: Option<&Arc<str>>, seat: Seat, due: Tick) -> bool {
        if seat == Seat::Nowhere {
            self.nowhere -= 1;
            return false;
        }
        let Some(place) = self.channels.get_mut(channel) else { return false };
        if seat == Seat::Named {
            let Some(member) = user.and_then(|user| place.members.get_mut(user)) else { return false };
            member.connections -= 1;
            member.due = due;
            return member.connections == 0 && !std::mem::replace(&mut member.is_watched, true);
        }
        place.others -= 1;
        self.tidy(channel);
        false
    }

    /// Checks at the tick `by` whether an absent user has left.
    pub(crate) fn depart(&mut self, channel: &str, user: &str, by: Tick) -> Absence {
        let Some(place) = self.channels.get_mut(channel) else { return Absence::Over };
        let Some(member) = place.members.get_mut(user) else { return Absence::Over };
        if member.connections > 0 {
            member.is_watched = false;
            return Absence::Over;
        }
        if member.due > by {
            return Absence::Until(member.due);
        }
        let Some((name, _)) = place.members.remove_entry(user) else { return Absence::Over };
        self.peopled -= usize::from(place.members.is_empty());
        self.name_bytes -= user.len();
        self.named -= 1;
        if let Some(has) = self.users.get_mut(user) {
            has.channels = has.channels.saturating_sub(1);
        }
        self.tidy(channel);
        self.news.push(News { joined: false, channel: channel.into(), user: name });
        Absence::Left
    }

    fn tidy(&mut self, channel: &str) {
        if self.channels.get(channel).is_some_and(|place| place.members.is_empty() && place.others == 0) {
            self.channels.remove(channel);
            self.name_bytes -= channel.len();
        }
    }

    /// Returns all users known by name, for a successor process.
    pub(crate) fn save(&self) -> Vec<Expected> {
        let mut all = Vec::with_capacity(self.named);
        for (channel, place) in &self.channels {
            all.extend(place.members.iter().map(|(user, member)| Expected {
                channel: channel.clone(),
                user: (**user).into(),
                since: member.since.0,
            }));
        }
        all
    }

    /// Takes over the users of the predecessor process. They count as away until they reconnect.
    pub(crate) fn expect(&mut self, all: Vec<Expected>) {
        for Expected { channel, user, since } in &all {
            if !self.channels.contains_key(channel) {
                self.name_bytes += channel.len();
            }
            let place = self.channels.entry(channel.clone()).or_default();
            let member = Member::new(0, Timestamp(*since));
            let user: Arc<str> = (**user).into();
            if place.members.insert(Arc::clone(&user), member).is_none() {
                self.peopled += usize::from(place.members.len() == 1);
                self.named += 1;
                self.name_bytes += user.len();
                self.users.entry(user).or_default().channels += 1;
            }
        }
        self.expected = all;
    }

    /// Takes the expected users. The caller schedules a check on each.
    pub(crate) fn take_expected(&mut self) -> Vec<Expected> {
        std::mem::take(&mut self.expected)
    }

    /// Returns the approximate memory of the table, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.name_bytes
            + self.channels.len() * CHANNEL_BYTES
            + self.named * MEMBER_BYTES
            + self.users.len() * (size_of::<(Arc<str>, User)>() + 16)
            + self.news.held_bytes()
    }

    /// Takes the next batch of news to publish, at most `pace` pieces per tick. [`confirm_news`](Self::confirm_news) or
    /// [`retry_news`](Self::retry_news) must follow.
    pub(crate) fn take_news(&mut self, tick: Tick, pace: usize) -> Vec<News> {
        self.news.take(tick, pace)
    }

    /// Confirms that the last batch is published.
    pub(crate) fn confirm_news(&mut self) {
        self.news.confirm();
    }

    /// Puts the last batch back, because it may not have been published.
    pub(crate) fn retry_news(&mut self, batch: Vec<News>) {
        self.news.retry(batch);
    }

    /// Returns whether news waits, or is being published.
    pub(crate) fn has_news(&self) -> bool {
        self.news.has_some()
    }

    /// Updates the gauges.
    pub(crate) fn update_gauges(&self, metrics: &Metrics) {
        metrics.presence_channels.set(self.channels.len() as i64);
        metrics.presence_users.set(self.named as i64);
    }

    /// Returns whether every connection in a channel with presence is in the table.
    pub(crate) fn is_complete(&self) -> bool {
        self.nowhere == 0
    }

    /// Returns the users of a channel, each with the number of connections and the time of joining, and the number of other
    /// connections.
    pub(crate) fn list(&self, channel: &str) -> (Vec<(Arc<str>, u32, Timestamp)>, u64) {
        let Some(place) = self.channels.get(channel) else { return (Vec::new(), 0) };
        let one = |(user, member): (&Arc<str>, &Member)| (Arc::clone(user), member.connections, member.since);
        (place.members.iter().map(one).collect(), place.others)
    }
}

/// Returns the event for a user's arrival or departure. Its entity is the user in this channel, so a client that conflates
/// gets the latest event of each user.
pub(crate) fn event(what: &'static str, channel: &str, user: &str, node: u64) -> Option<Event> {
    let payload = json!({ "user": user, "node": node.to_string() });
    let event = Event::builder(what).source(SOURCE).channel(channel).json(payload.to_string());
    // The table holds only names from which an event can be built.
    event.entity("presence", &format!("{channel}/{user}")).build().ok()
}

/// Returns whether the text can be a user's name.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const NOW: Timestamp = Timestamp(5_000_000);

    fn name(user: &str) -> Arc<str> {
        user.into()
    }

    fn config(max_channels: usize, max_members: usize) -> PresenceConfig {
        PresenceConfig {
            max_channels,
            max_members,
            channels: vec!["room.*".to_owned()],
            ..Default::default()
        }
    }

    fn users(presence: &Presence, channel: &str) -> Vec<(String, u32)> {
        presence.list(channel).0.iter().map(|(user, count, _)| (user.to_string(), *count)).collect()
    }

    #[test]
    fn a_user_joins_with_the_first_connection_and_leaves_with_the_last() {
        let (mut presence, config, ann) = (Presence::default(), config(10, 10), name("ann"));
        assert_eq!(presence.enter("room.1", Some(&ann), NOW, &config), (Seat::Named, true));
        assert_eq!(presence.enter("room.1", Some(&ann), NOW, &config), (Seat::Named, false));
        assert_eq!(users(&presence, "room.1"), [("ann".to_owned(), 2)]);
        assert!(!presence.leave("room.1", Some(&ann), Seat::Named, 5));
        assert!(presence.leave("room.1", Some(&ann), Seat::Named, 5), "the last one");
        assert_eq!(users(&presence, "room.1"), [("ann".to_owned(), 0)], "away, and not left yet");
        assert_eq!(presence.depart("room.1", "ann", 5), Absence::Left);
        assert_eq!(presence.depart("room.1", "ann", 5), Absence::Over, "once");
        assert!(presence.channels.is_empty());
    }

    #[test]
    fn a_user_that_returns_in_time_has_not_left() {
        let (mut presence, config, ann) = (Presence::default(), config(10, 10), name("ann"));
        presence.enter("room.1", Some(&ann), NOW, &config);
        assert!(presence.leave("room.1", Some(&ann), Seat::Named, 5));
        assert_eq!(presence.enter("room.1", Some(&ann), Timestamp(6_000_000), &config), (Seat::Named, false));
        assert_eq!(presence.depart("room.1", "ann", 5), Absence::Over, "is here again");
        assert!(presence.leave("room.1", Some(&ann), Seat::Named, 8));
        for due in 9..1000 {
            assert_eq!(presence.enter("room.1", Some(&ann), NOW, &config), (Seat::Named, false));
            assert!(!presence.leave("room.1", Some(&ann), Seat::Named, due), "a check is scheduled already");
        }
        assert_eq!(presence.depart("room.1", "ann", 8), Absence::Until(999), "the last absence counts");
        assert_eq!(presence.list("room.1").0[0].2, NOW, "joined at the first time");
        assert_eq!(presence.depart("room.1", "ann", 999), Absence::Left);
    }

    #[test]
    fn the_table_is_bounded_and_the_rest_is_counted() {
        let (mut presence, config) = (Presence::default(), config(1, 1));
        assert_eq!(presence.enter("room.1", Some(&name("ann")), NOW, &config), (Seat::Named, true));
        assert_eq!(presence.enter("room.1", Some(&name("bob")), NOW, &config), (Seat::Other, false));
        assert_eq!(presence.enter("room.1", None, NOW, &config), (Seat::Other, false));
        assert_eq!(presence.enter("room.2", Some(&name("ann")), NOW, &config), (Seat::Nowhere, false));
        assert_eq!((presence.list("room.1").1, presence.nowhere), (2, 1));
        assert!(!presence.leave("room.2", Some(&name("ann")), Seat::Nowhere, 5));
        for user in [Some(name("bob")), None] {
            assert!(!presence.leave("room.1", user.as_ref(), Seat::Other, 5));
        }
        assert_eq!((presence.list("room.1").1, presence.nowhere), (0, 0));
    }

    #[test]
    fn one_user_has_a_share_of_the_table_and_of_the_joins() {
        let (mut presence, ann) = (Presence::default(), name("ann"));
        let config = PresenceConfig { max_channels_per_user: 3, ..config(8, 10) };
        for n in 0..3 {
            assert_eq!(presence.enter(&format!("room.{n}"), Some(&ann), NOW, &config), (Seat::Named, true));
        }
        for n in 3..50 {
            let (seat, joined) = presence.enter(&format!("room.{n}"), Some(&ann), NOW, &config);
            assert_eq!((seat, joined), (Seat::Nowhere, false), "by one user");
        }
        for n in 50..100 {
            presence.enter(&format!("room.{n}"), None, NOW, &config);
        }
        assert_eq!(presence.channels.len(), 3 + 4, "connections without names have half");
        assert_eq!(presence.enter("room.200", Some(&name("bob")), NOW, &config), (Seat::Named, true));
        // The sixth join of a minute is the last by name.
        let mut seats = Vec::new();
        for _ in 0..5 {
            assert!(presence.leave("room.0", Some(&ann), Seat::Named, 5), "the last one");
            assert_eq!(presence.depart("room.0", "ann", 5), Absence::Left);
            seats.push(presence.enter("room.0", Some(&ann), NOW, &config).0);
            if seats.last() != Some(&Seat::Named) {
                break;
            }
        }
        assert_eq!(seats[..], [Seat::Named, Seat::Named, Seat::Named, Seat::Nowhere]);
        let later = Timestamp(NOW.0 + JOINS_WINDOW);
        assert_eq!(presence.enter("room.0", Some(&ann), later, &config), (Seat::Named, true));
        let events = presence.take_news(1, usize::MAX);
        assert!(events.len() <= 5, "a join and a leave that were not published cancel out: {events:?}");
    }

    #[test]
    fn users_from_before_an_upgrade_are_expected() {
        let (mut before, config, ann) = (Presence::default(), config(10, 10), name("ann"));
        before.enter("room.1", Some(&ann), NOW, &config);
        before.enter("room.1", Some(&name("bob")), NOW, &config);
        let mut after = Presence::default();
        after.expect(before.save());
        assert_eq!(after.enter("room.1", Some(&ann), Timestamp(9_000_000), &config), (Seat::Named, false));
        let mut expected = after.take_expected();
        expected.sort_by(|a, b| a.user.cmp(&b.user));
        assert_eq!(expected.len(), 2);
        assert!(after.take_expected().is_empty());
        let left: Vec<Absence> =
            expected.iter().map(|expected| after.depart(&expected.channel, &expected.user, 5)).collect();
        assert_eq!(left, [Absence::Over, Absence::Left], "one came, one did not");
        assert_eq!(after.list("room.1").0[0].2, NOW);
    }

    #[test]
    fn any_valid_name_and_channel_make_an_event() {
        let long = "x".repeat(NAME_BYTES_MAX);
        for user in ["ann", "a \"b\" \\ é", long.as_str()] {
            assert!(is_name(user));
            let event = event(JOINED, &long, user, 1).expect("an event");
            let payload: Value = serde_json::from_str(event.payload()).expect("JSON");
            assert_eq!(payload["user"], user);
        }
        for user in ["", "a\nb", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(!is_name(user));
        }
        assert!(config(1, 1).covers("room.1") && !config(1, 1).covers("hall") && !config(1, 1).covers(""));
    }
}

//! Who is in which channel of this node: users by name, however many connections each has.
//!
//! Imports `dialect`, `event`, `filter`, its siblings. No clock and no I/O: `core::presence` tells it who comes and goes,
//! and when a user has been away long enough. Always: of one user in one channel `joined` and `left` take turns; what is
//! kept is bounded, and what was not kept is owned up to.

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

/// The type of the event that says that a user came into a channel.
pub(crate) const JOINED: &str = "presence.joined";

/// The type of the event that says that a user went.
pub(crate) const LEFT: &str = "presence.left";

/// The source of both.
const SOURCE: &str = "fanwire";

/// The longest name of a user, in bytes, and of a channel that has presence: an event about both has room for them.
pub(crate) const NAME_BYTES_MAX: usize = 256;

/// Of which channels it is kept who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PresenceConfig {
    /// `presence.channels`: these, values or patterns. None: presence is off.
    pub channels: Vec<String>,
    /// `presence.grace`: how long a user may be away before they have left, so that a reload is no news. 10 s.
    pub grace: Duration,
    /// `presence.max_channels`: channels with somebody in them. 10,000.
    pub max_channels: usize,
    /// `presence.max_channels_per_user`: channels that one user, or one connection, is in; of those beyond it is not kept,
    /// and twice as many times a minute a user may join one by name. 100.
    pub max_channels_per_user: usize,
    /// `presence.max_members`: users that are known by name in one channel. 1,000.
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
    /// Whether it is kept anywhere.
    pub(crate) fn is_on(&self) -> bool {
        !self.channels.is_empty()
    }

    /// Whether it is kept in this channel.
    pub(crate) fn covers(&self, channel: &str) -> bool {
        (1..=NAME_BYTES_MAX).contains(&channel.len())
            && self.channels.iter().any(|pattern| Pattern::from(pattern.as_str()).matches(channel))
    }

    /// Whether only the server may say this.
    pub(crate) fn reserves(&self, event: &Event) -> bool {
        self.is_on()
            && matches!(event.event_type(), JOINED | LEFT)
            && event.channel().is_some_and(|channel| self.covers(channel))
    }
}

/// What one connection is in a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// One of its user's.
    Named,
    /// Without a name, or beyond those that are known by theirs.
    Other,
    /// Beyond the channels that there may be.
    Nowhere,
}

#[derive(Debug)]
struct Member {
    connections: u32,
    since: Timestamp,
    /// The tick by which the user has left, where no connection is there.
    due: Tick,
    /// A loop looks at that tick, or at an earlier one: one look waits however often a user comes and goes.
    is_watched: bool,
}

impl Member {
    fn new(connections: u32, since: Timestamp) -> Self {
        Self { connections, since, due: 0, is_watched: connections == 0 }
    }
}

/// What became of a user who was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// It is over, or the user left before.
    Over,
    /// It began anew: look again at this tick.
    Until(Tick),
    /// The user has left by it.
    Left,
}

#[derive(Debug, Default)]
struct Channel {
    members: BTreeMap<Arc<str>, Member>,
    others: u64,
}

/// What a channel and a user in it take beside their names: places in tables, counts.
const CHANNEL_BYTES: usize = size_of::<(Box<str>, Channel)>() + 48;
const MEMBER_BYTES: usize = size_of::<(Arc<str>, Member)>() + 64;

/// Microseconds in which a user may join twice as many times as there may be channels of theirs.
const JOINS_WINDOW: i64 = 60_000_000;

/// What one user has of the table.
#[derive(Debug, Default)]
struct User {
    channels: usize,
    /// Times that they joined by name since `since`.
    joins: usize,
    since: i64,
}

/// Who is where, on all loops.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    channels: HashMap<Box<str>, Channel>,
    /// Channels with somebody known by name.
    peopled: usize,
    users: HashMap<Arc<str>, User>,
    news: Queue,
    /// Bytes of the channels' names and of the users'.
    name_bytes: usize,
    named: usize,
    nowhere: u64,
    /// Of the process before this one: not seen here yet.
    expected: Vec<Expected>,
}

/// A user of the process before, who is likely to be here in a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Expected {
    pub(crate) channel: Box<str>,
    pub(crate) user: Box<str>,
    since: i64,
}

impl Presence {
    /// A connection of this user comes in, or of nobody in particular; what it is there, and whether the user was not
    /// there before.
    pub(crate) fn enter(
        &mut self,
        channel: &str,
        user: Option<&Arc<str>>,
        now: Timestamp,
        config: &PresenceConfig,
    ) -> (Seat, bool) {
        let is_new = !self.channels.contains_key(channel);
        // Whoever has no name can't be told apart, so that all together have no more than half.
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

    /// A connection is in more channels than may be.
    pub(crate) fn nowhere(&mut self) -> (Seat, bool) {
        self.nowhere += 1;
        (Seat::Nowhere, false)
    }

    /// What a user has of the table. One who is in no channel is forgotten when the window is over.
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

    /// It goes. True where it was its user's last one and nobody looks yet whether the user has left by `due`: then
    /// [`Self::depart`] must be asked at that tick.
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

    /// It is this tick: whether a user who was away has left.
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

    /// All that are known by name, for another process.
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

    /// Takes over who was there in the process before: away, until they are seen.
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

    /// Those, once: whoever asks sees to it that they have left in time.
    pub(crate) fn take_expected(&mut self) -> Vec<Expected> {
        std::mem::take(&mut self.expected)
    }

    /// Bytes that the table takes, about.
    pub(crate) fn held_bytes(&self) -> usize {
        self.name_bytes
            + self.channels.len() * CHANNEL_BYTES
            + self.named * MEMBER_BYTES
            + self.users.len() * (size_of::<(Arc<str>, User)>() + 16)
            + self.news.held_bytes()
    }

    /// The next that is to be told, at most so much in one tick: [`told`](Self::told) or [`untold`](Self::untold) must
    /// follow.
    pub(crate) fn take_news(&mut self, tick: Tick, pace: usize) -> Vec<News> {
        self.news.take(tick, pace)
    }

    /// What was taken is where watchers get it.
    pub(crate) fn told(&mut self) {
        self.news.told();
    }

    /// What was taken may not be: it is told again.
    pub(crate) fn untold(&mut self, batch: Vec<News>) {
        self.news.untold(batch);
    }

    /// Whether something is to be told.
    pub(crate) fn has_news(&self) -> bool {
        self.news.has_some()
    }

    /// Moves the gauges.
    pub(crate) fn tell(&self, metrics: &Metrics) {
        metrics.presence_channels.set(self.channels.len() as i64);
        metrics.presence_users.set(self.named as i64);
    }

    /// The users of a channel, each with its connections and since when; and how many others are there.
    /// Whether every connection that belongs in a channel is in the table.
    pub(crate) fn is_complete(&self) -> bool {
        self.nowhere == 0
    }

    pub(crate) fn list(&self, channel: &str) -> (Vec<(Arc<str>, u32, Timestamp)>, u64) {
        let Some(place) = self.channels.get(channel) else { return (Vec::new(), 0) };
        let one = |(user, member): (&Arc<str>, &Member)| (Arc::clone(user), member.connections, member.since);
        (place.members.iter().map(one).collect(), place.others)
    }
}

/// The event that says that a user came or went. Its entity is the user in this channel, so that clients who want the
/// latest of each thing get the latest of each user.
pub(crate) fn event(what: &'static str, channel: &str, user: &str, node: u64) -> Option<Event> {
    let payload = json!({ "user": user, "node": node.to_string() });
    let event = Event::builder(what).source(SOURCE).channel(channel).json(payload.to_string());
    // Names that make no event were not let in.
    event.entity("presence", &format!("{channel}/{user}")).build().ok()
}

/// Whether this can be a user's name.
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
        assert_eq!(users(&presence, "room.1"), [("ann".to_owned(), 0)], "away, and not gone yet");
        assert_eq!(presence.depart("room.1", "ann", 5), Absence::Left);
        assert_eq!(presence.depart("room.1", "ann", 5), Absence::Over, "once");
        assert!(presence.channels.is_empty());
    }

    #[test]
    fn who_comes_back_in_time_was_never_gone() {
        let (mut presence, config, ann) = (Presence::default(), config(10, 10), name("ann"));
        presence.enter("room.1", Some(&ann), NOW, &config);
        assert!(presence.leave("room.1", Some(&ann), Seat::Named, 5));
        assert_eq!(presence.enter("room.1", Some(&ann), Timestamp(6_000_000), &config), (Seat::Named, false));
        assert_eq!(presence.depart("room.1", "ann", 5), Absence::Over, "is here again");
        assert!(presence.leave("room.1", Some(&ann), Seat::Named, 8));
        for due in 9..1000 {
            assert_eq!(presence.enter("room.1", Some(&ann), NOW, &config), (Seat::Named, false));
            assert!(!presence.leave("room.1", Some(&ann), Seat::Named, due), "somebody looks already");
        }
        assert_eq!(presence.depart("room.1", "ann", 8), Absence::Until(999), "the last absence counts");
        assert_eq!(presence.list("room.1").0[0].2, NOW, "there since the first time");
        assert_eq!(presence.depart("room.1", "ann", 999), Absence::Left);
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_not_is_counted() {
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
    fn one_user_has_a_part_of_the_table_and_joins_no_more_often_than_may_be() {
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
        assert_eq!(presence.channels.len(), 3 + 4, "those without names have half");
        assert_eq!(presence.enter("room.200", Some(&name("bob")), NOW, &config), (Seat::Named, true));
        // In and out: the sixth join of a minute is the last by name.
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
        let told = presence.take_news(1, usize::MAX);
        assert!(told.len() <= 5, "who came and went untold is no news: {told:?}");
    }

    #[test]
    fn who_was_there_before_an_upgrade_is_expected() {
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
            expected.iter().map(|one| after.depart(&one.channel, &one.user, 5)).collect();
        assert_eq!(left, [Absence::Over, Absence::Left], "one came, one did not");
        assert_eq!(after.list("room.1").0[0].2, NOW);
    }

    #[test]
    fn names_and_channels_make_an_event_whatever_they_are() {
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

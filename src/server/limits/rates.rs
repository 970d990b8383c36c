//! Rate limits of clients: messages by kind, publishes, and connections of one address.
//!
//! A count is a bucket that is refilled when its window is over, as the AutoSDLC document defines it: a number of
//! messages in each window, at any time within it.
//!
//! Always: a client that sends nothing has no bucket, and without limits there are none. Every table has a maximum
//! size.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::dialect::KindLimits;
use crate::server::tick::{TICK_MS, Tick, ticks};
use crate::sync::{Mutex, lock};

/// Rate limits of a client. A request over a limit is refused in the client's protocol: an error with the limit, or
/// over HTTP 429 and `Retry-After`. A client that continues is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimits {
    /// `limits.window`: length of a window. Default: 60 s.
    pub window: Duration,
    /// `limits.messages`: messages of each kind (each `type`) that one WebSocket client may send in a window. Default:
    /// none; then the dialect's document decides (AutoSDLC: 100), or there is no limit.
    pub messages: Option<u32>,
    /// `limits.message_kinds`: limits of single kinds, as `("subscribe", 50)`. Default: none; AutoSDLC: subscribe 50,
    /// agent_log 1000, ping 60.
    pub message_kinds: Vec<(String, u32)>,
    /// `limits.refused_messages`: refused messages in a window after which the client is closed. Default: 100.
    pub refused_messages: u32,
    /// `limits.publishes`: requests to `/publish` that one client, by its token's subject or its address, may make in a
    /// window. Default: none, no limit.
    pub publishes: Option<u32>,
    /// `limits.connections_per_address`: open connections of one address (for IPv6: of one /64). Connections through a
    /// trusted proxy count for the address that the proxy names, WebSockets and event streams only. Default: none, no
    /// limit.
    pub connections_per_address: Option<u32>,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            messages: None,
            message_kinds: Vec::new(),
            refused_messages: 100,
            publishes: None,
            connections_per_address: None,
        }
    }
}

impl RateLimits {
    /// Returns whether messages are counted in dialects whose documents define no limits.
    pub(crate) fn count_messages(&self) -> bool {
        self.messages.is_some() || !self.message_kinds.is_empty()
    }

    fn window_ticks(&self) -> u32 {
        u32::try_from(ticks(self.window)).unwrap_or(u32::MAX)
    }

    /// Returns the limit of a kind of message. `usual` has the limits of the dialect's document, the default first.
    fn of(&self, kind: &str, usual: KindLimits) -> Option<u32> {
        let set = self.message_kinds.iter().find(|(name, _)| name == kind).map(|(_, max)| *max);
        let documented = || usual.iter().find(|(name, _)| *name == kind).map(|(_, max)| *max);
        let others = || usual.iter().find(|(name, _)| name.is_empty()).map(|(_, max)| *max);
        set.or(self.messages).or_else(documented).or_else(others)
    }
}

/// Bucket: the number taken since its window began.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    since: u32,
    taken: u32,
}

impl Bucket {
    /// Takes one, or returns the ticks until the next window.
    fn take(&mut self, tick: Tick, window: u32, max: u32) -> Result<(), u32> {
        let tick = tick as u32;
        let passed = tick.wrapping_sub(self.since);
        if self.taken == 0 || passed >= window {
            *self = Self { since: tick, taken: 0 };
        }
        if self.taken >= max {
            return Err(window - tick.wrapping_sub(self.since));
        }
        self.taken += 1;
        Ok(())
    }
}

/// Buckets of a client: one for each kind of message it has sent, and one for refused ones. Kinds are the dialect's own
/// words, so there are few.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    kinds: SmallVec<[(Cow<'static, str>, Bucket); 2]>,
    refused: Bucket,
}

/// Saved form of a client's buckets, for another process: ticks since each window began, and the number taken in it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedBuckets {
    kinds: Vec<(String, u32, u32)>,
    refused: (u32, u32),
}

impl Buckets {
    pub(crate) fn save(&self, tick: Tick) -> SavedBuckets {
        let age = |bucket: &Bucket| (tick as u32).wrapping_sub(bucket.since);
        let kind =
            |(name, bucket): &(Cow<'static, str>, Bucket)| (name.to_string(), age(bucket), bucket.taken);
        SavedBuckets {
            kinds: self.kinds.iter().map(kind).collect(),
            refused: (age(&self.refused), self.refused.taken),
        }
    }

    pub(crate) fn restored(saved: SavedBuckets, tick: Tick) -> Self {
        let bucket = |age: u32, taken: u32| Bucket { since: (tick as u32).wrapping_sub(age), taken };
        let kind = |(name, age, taken): (String, u32, u32)| (Cow::Owned(name), bucket(age, taken));
        let (age, taken) = saved.refused;
        Self { kinds: saved.kinds.into_iter().map(kind).collect(), refused: bucket(age, taken) }
    }
}

/// Message over its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limited {
    pub(crate) max: u32,
    pub(crate) window_seconds: u64,
    pub(crate) retry_seconds: u64,
    /// Whether the client has had too many refused messages.
    pub(crate) is_last: bool,
}

fn seconds(ticks: u32) -> u64 {
    (u64::from(ticks) * TICK_MS).div_ceil(1000)
}

/// Counts a message of this kind from a client. Creates the client's buckets at its first counted message.
pub(crate) fn admit(
    buckets: &mut Option<Box<Buckets>>,
    limits: &RateLimits,
    usual: KindLimits,
    kind: &'static str,
    tick: Tick,
) -> Result<(), Limited> {
    let Some(max) = limits.of(kind, usual) else { return Ok(()) };
    let window = limits.window_ticks();
    let Buckets { kinds, refused } = &mut **buckets.get_or_insert_default();
    let at = kinds.iter().position(|(name, _)| *name == kind).unwrap_or_else(|| {
        kinds.push((kind.into(), Bucket::default()));
        kinds.len() - 1
    });
    kinds[at].1.take(tick, window, max).map_err(|ticks| Limited {
        max,
        window_seconds: seconds(window),
        retry_seconds: seconds(ticks),
        is_last: refused.take(tick, window, limits.refused_messages).is_err(),
    })
}

/// Buckets of recent callers.
#[derive(Debug)]
pub(crate) struct Callers<K> {
    buckets: HashMap<K, Bucket>,
    /// Bucket of all callers without room for their own.
    others: Bucket,
}

/// Maximum number of callers with a bucket of their own. Further ones share one bucket.
const CALLERS_MAX: usize = 10_000;

impl<K> Default for Callers<K> {
    fn default() -> Self {
        Self { buckets: HashMap::new(), others: Bucket::default() }
    }
}

impl<K: Hash + Eq> Callers<K> {
    /// Counts one call, or returns the seconds until the next window.
    pub(crate) fn admit(&mut self, who: K, tick: Tick, window: Duration, max: u32) -> Result<(), u64> {
        let window = RateLimits { window, ..RateLimits::default() }.window_ticks();
        if self.buckets.len() >= CALLERS_MAX && !self.buckets.contains_key(&who) {
            self.buckets.retain(|_, bucket| (tick as u32).wrapping_sub(bucket.since) < window);
            if self.buckets.len() >= CALLERS_MAX {
                return self.others.take(tick, window, max).map_err(seconds);
            }
        }
        self.buckets.entry(who).or_default().take(tick, window, max).map_err(seconds)
    }
}

/// Returns the address to count by: for IPv6 the /64, within which a host can choose its address.
pub(crate) fn address_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Open connections by address, over all loops. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses(Arc<Mutex<HashMap<IpAddr, u32>>>);

/// Count of one connection of an address. Dropping it subtracts it.
#[derive(Debug)]
pub(crate) struct CountedConnection {
    all: Addresses,
    address: IpAddr,
}

impl Addresses {
    /// Counts one more connection, if the limit allows it.
    pub(crate) fn enter(&self, address: IpAddr, max: u32) -> Option<CountedConnection> {
        let mut counts = lock(&self.0);
        if counts.get(&address).copied().unwrap_or_default() >= max {
            return None;
        }
        *counts.entry(address).or_default() += 1;
        Some(CountedConnection { all: self.clone(), address })
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let mut counts = lock(&self.all.0);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: KindLimits = &[("", 3), ("ping", 1)];

    fn limits() -> RateLimits {
        RateLimits { window: Duration::from_secs(60), refused_messages: 2, ..RateLimits::default() }
    }

    #[test]
    fn each_kind_has_its_own_number_in_each_window() {
        let mut buckets = None;
        let mut take = |kind, tick| admit(&mut buckets, &limits(), USUAL, kind, tick);
        for _ in 0..3 {
            assert_eq!(take("subscribe", 10), Ok(()));
        }
        assert_eq!(take("ping", 10), Ok(()));
        let over = take("subscribe", 20).expect_err("one too many");
        assert_eq!((over.max, over.window_seconds, over.retry_seconds, over.is_last), (3, 60, 59, false));
        assert_eq!(take("publish", 20), Ok(()), "one kind's limit is not another's");
        assert!(!take("ping", 609).expect_err("the window is not over").is_last);
        assert!(take("ping", 609).expect_err("who goes on").is_last);
        assert_eq!(take("ping", 610), Ok(()), "a new window");
        assert_eq!(take("subscribe", 610), Ok(()));
    }

    #[test]
    fn where_nothing_is_limited_there_is_no_bucket() {
        let mut buckets = None;
        for tick in 0..1000 {
            assert_eq!(admit(&mut buckets, &limits(), &[], "ping", tick), Ok(()));
        }
        assert!(buckets.is_none());
    }

    #[test]
    fn the_operators_numbers_come_before_the_documents() {
        let mut set = limits();
        assert_eq!((set.of("ping", USUAL), set.of("x", USUAL), set.of("x", &[])), (Some(1), Some(3), None));
        set.messages = Some(7);
        assert_eq!((set.of("ping", USUAL), set.of("x", &[])), (Some(7), Some(7)));
        set.message_kinds = vec![("ping".to_owned(), 0)];
        assert_eq!((set.of("ping", USUAL), set.of("x", USUAL)), (Some(0), Some(7)));
        assert!(admit(&mut None, &set, USUAL, "ping", 5).is_err(), "none at all");
    }

    #[test]
    fn many_callers_take_no_more_than_the_table() {
        let mut callers = Callers::default();
        let minute = Duration::from_secs(60);
        for who in 0..CALLERS_MAX {
            assert_eq!(callers.admit(who, 1, minute, 2), Ok(()));
        }
        assert_eq!(callers.admit(0, 1, minute, 2), Ok(()));
        assert_eq!(callers.admit(0, 1, minute, 2), Err(60));
        for who in [CALLERS_MAX, CALLERS_MAX + 1] {
            assert_eq!(callers.admit(who, 1, minute, 2), Ok(()));
        }
        assert!(callers.admit(CALLERS_MAX + 2, 1, minute, 2).is_err(), "the rest share one");
        assert_eq!(callers.buckets.len(), CALLERS_MAX);
        assert_eq!(callers.admit(CALLERS_MAX + 3, 601, minute, 2), Ok(()));
        assert_eq!(callers.buckets.len(), 1, "who does not ask any more is forgotten");
    }

    #[test]
    fn connections_of_one_address_are_counted_until_they_go() {
        let addresses = Addresses::default();
        let v4 = address_key("::ffff:10.0.0.1".parse().expect("an address"));
        assert_eq!(v4, "10.0.0.1".parse::<IpAddr>().expect("an address"));
        let near = address_key("2001:db8::1".parse().expect("an address"));
        assert_eq!(near, address_key("2001:db8::ffff:2".parse().expect("an address")));
        let two = [addresses.enter(v4, 2), addresses.enter(v4, 2)];
        assert!(two.iter().all(Option::is_some) && addresses.enter(v4, 2).is_none());
        let other = addresses.enter(near, 2);
        assert!(other.is_some() && addresses.enter(near, 0).is_none());
        let [first, second] = two;
        drop(first);
        let third = addresses.enter(v4, 2);
        assert!(third.is_some());
        drop((second, third, other));
        assert!(lock(&addresses.0).is_empty());
    }
}

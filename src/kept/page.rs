//! Reads pages of kept logs: events of all lives in the order of recording, forwards or backwards.
//!
//! Invariant: no state is kept between two calls; the caller passes the remaining range.

use std::collections::{BinaryHeap, VecDeque};

use super::log::{KeptLog, LogName, ShardPlace};
use super::packed::Entry;
use super::store::KeptLogs;
use crate::event::{Event, EventId, Position, Timestamp};
use crate::filter::Filter;

/// Place of an event in the order in which the loops read events: the epoch, and the number of events up to it.
pub(crate) type OrderPlace = (u64, u128);

/// Returns the place of an event; `None` on a bus of several shards if no loop has read the event, because it has no
/// place in their order yet.
pub(crate) fn order_place(event: &Event, shards: usize) -> Option<OrderPlace> {
    place_of(event.position().map(Position::passed), event.id(), shards)
}

/// Returns the place of a log's event, as [`order_place`] does.
fn entry_place(entry: &Entry<'_>, shards: usize) -> Option<OrderPlace> {
    place_of(entry.passed(), Some(entry.id()), shards)
}

/// Returns the place of an event from its [`Position::passed`] and its id.
fn place_of(passed: Option<OrderPlace>, id: Option<EventId>, shards: usize) -> Option<OrderPlace> {
    passed.or_else(|| id.filter(|_| shards == 1).map(|id| (id.epoch, u128::from(id.sequence) + 1)))
}

/// Part of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OrderRange {
    /// Place before the first event.
    pub(crate) after: OrderPlace,
    /// Place of the last event.
    pub(crate) until: OrderPlace,
}

impl OrderRange {
    /// Returns whether a place is in the range.
    pub(crate) fn contains(&self, place: OrderPlace) -> bool {
        self.after < place && place <= self.until
    }
}

impl KeptLog {
    /// Returns the number of retained entries up to a place.
    pub(super) fn count_to(&self, place: OrderPlace, shards: usize) -> usize {
        self.entries.partition_point(|entry| entry_place(entry, shards).is_some_and(|known| known <= place))
    }
}

impl KeptLogs {
    /// Returns the place of the next event of each shard that will be recorded.
    pub(crate) fn recorded(&self) -> impl Iterator<Item = ShardPlace> {
        self.next.iter().copied()
    }

    /// Reads up to `max` events of these logs in a range into `out`, from its beginning on, or backwards from its end.
    pub(crate) fn read_page(
        &self,
        names: &[LogName],
        range: OrderRange,
        is_desc: bool,
        now: Timestamp,
        max: usize,
        out: &mut VecDeque<Event>,
    ) {
        let shards = self.next.len();
        // The next one in the direction of reading has the largest rank.
        let rank = |number: u64| if is_desc { number } else { u64::MAX - number };
        let found: Vec<&KeptLog> = names.iter().filter_map(|name| self.find(name, now)).collect();
        let mut heads = BinaryHeap::with_capacity(found.len());
        for (log, kept) in found.iter().enumerate() {
            let (low, high) = (kept.count_to(range.after, shards), kept.count_to(range.until, shards));
            let at = if is_desc { high.saturating_sub(1) } else { low };
            if let Some(entry) = kept.entries.get(at).filter(|_| low < high) {
                heads.push((rank(entry.number), log, at, low, high));
            }
        }
        for _ in 0..max {
            let Some((_, log, at, low, high)) = heads.pop() else { return };
            let entries = &found[log].entries;
            out.extend(entries.get(at).map(|entry| self.event(&entry)));
            let next = if is_desc { at.checked_sub(1) } else { Some(at + 1) };
            if let Some(at) = next.filter(|at| (low..high).contains(at))
                && let Some(entry) = entries.get(at)
            {
                heads.push((rank(entry.number), log, at, low, high));
            }
        }
    }

    /// Returns whether, as far as is known, the logs of a filter have evicted nothing after this position and since
    /// this time. `after` is `None` for the beginning. Evicted events count as older than the oldest retained one of
    /// their log.
    pub(crate) fn is_whole_after(
        &self,
        filter: &Filter,
        names: &[LogName],
        after: Option<&Position>,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> bool {
        if self.may_lack_logs(filter, now) {
            return false;
        }
        let place = after.map(Position::passed);
        let shards = self.next.len();
        let mut number = 0;
        for name in names {
            let Some(log) = self.find(name, now) else {
                if self.may_have_had(name, now) {
                    return false;
                }
                continue;
            };
            let is_early = |entry: &Entry<'_>| {
                since.is_some_and(|since| entry.timestamp() < since)
                    || place.zip(entry_place(entry, shards)).is_some_and(|(place, event)| event <= place)
            };
            let has_evicted_early = after.zip(log.last_evicted).is_some_and(|(after, last)| {
                let next = after.sequences().get(usize::from(last.shard));
                after.epoch() == last.epoch && next.is_some_and(|next| last.sequence < *next)
            });
            let first = log.entries.front().filter(is_early);
            let may_lack = log.base > 0 || self.may_have_had(name, now);
            if may_lack && first.is_none() && !has_evicted_early {
                return false;
            }
            let read = place.map_or(0, |place| log.count_to(place, shards));
            let last = read.checked_sub(1).and_then(|at| log.entries.get(at)).or(first);
            number = number.max(last.map_or(0, |entry| entry.number));
        }
        (names.is_empty() && !self.selects_more(filter)) || self.holes().after(number).is_none()
    }
}

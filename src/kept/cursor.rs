//! A reader's place in several kept logs, merged in the order of recording.
//!
//! Invariants:
//! - The place is a number for each log; no event is kept between two pages.
//! - Each retained event after the place is read once. For events that were evicted before they were read, a gap is
//!   read instead.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use smallvec::SmallVec;

use super::log::{KeptLog, LogName, place_after, place_at};
use super::named::implies;
use super::page::order_place;
use super::purge::filter_of;
use super::store::{Hole, KeptLogs, TooManyLogs};
use crate::dialect::Missed;
use crate::event::{Event, EventId, Timestamp};
use crate::filter::Filter;

/// Place of a reader in one log.
#[derive(Debug)]
pub(super) struct LogCursor {
    pub(super) name: LogName,
    /// Serial number of the log; 0 while it does not exist.
    pub(super) serial: u64,
    /// Index of the next entry.
    pub(super) next: u64,
    /// Gap before the first event, which is reported first.
    pub(super) gap: Option<FrontGap>,
}

/// Number of events that may be missing, and the last of them, if known.
pub(super) type FrontGap = (Missed, Option<EventId>);

/// Place of a reader in the logs that its filters name or match.
#[derive(Debug, Default)]
pub(crate) struct KeptCursor {
    pub(super) logs: Vec<LogCursor>,
    /// Number of the last event read, or of the last hole.
    pub(super) number: u64,
    /// Places after which the reader begins, one for each shard; none for the beginning.
    after: SmallVec<[EventId; 1]>,
    /// Whether logs that the filters match may be unknown because they were evicted. Reported first.
    pub(super) has_unknown: bool,
    /// Whether the reader wants every event of its only log.
    pub(super) takes_all: bool,
    /// Whether the range of the reader had a hole when it began.
    has_hole: bool,
    /// Whether the reader gets the rest of older lives.
    spans_lives: bool,
}

/// Next item of a reader. Its place moves past an item by [`KeptCursor::pass`].
#[derive(Debug)]
pub(crate) struct KeptItem {
    log: usize,
    serial: u64,
    next: u64,
    number: u64,
    pub(crate) content: KeptContent,
}

/// Event or gap.
#[derive(Debug)]
pub(crate) enum KeptContent {
    Event(Event),
    /// Missing events: their number, and the last of them, if known.
    Gap {
        missed: Missed,
        to: Option<EventId>,
    },
}

impl KeptCursor {
    /// Returns whether an event comes before the places after which the reader began.
    pub(super) fn is_before(&self, id: EventId) -> bool {
        if self.after.is_empty() {
            return false;
        }
        let of_shard = self.after.iter().find(|after| after.shard == id.shard);
        // In a shard without a place, the reader begins at the current end, so the events there are before it.
        of_shard.is_none_or(|after| place_at(id) < place_after(*after))
    }

    /// Returns the places after which the reader began; none for the beginning.
    pub(crate) fn after(&self) -> &[EventId] {
        &self.after
    }

    /// Moves past an item.
    pub(crate) fn pass(&mut self, item: &KeptItem) {
        self.number = self.number.max(item.number);
        self.has_unknown = false;
        if let Some(log) = self.logs.get_mut(item.log) {
            log.serial = item.serial;
            log.next = item.next;
            log.gap = None;
        }
    }

    /// Returns whether a gap is known before anything is read.
    pub(crate) fn has_gap(&self) -> bool {
        self.has_unknown || self.has_hole || self.logs.iter().any(|log| log.gap.is_some())
    }

    /// Reports first that the reader's place is unknown, so that it begins with a gap.
    pub(crate) fn after_unknown(self) -> Self {
        Self { has_unknown: true, ..self }
    }

    /// Returns the number of logs.
    pub(crate) fn len(&self) -> usize {
        self.logs.len()
    }

    /// Returns the memory of the cursor on the heap, in bytes. The names are shared with the logs, or the request's own.
    pub(crate) fn held_bytes(&self) -> usize {
        let names: usize = self.logs.iter().map(|log| log.name.value.len()).sum();
        self.logs.capacity() * size_of::<LogCursor>() + names + self.after.len() * size_of::<EventId>()
    }
}

impl KeptLogs {
    /// Returns a reader of the logs that the filters name or match. It begins at their newest lives, or after these
    /// places (one for each shard) if those are later. Fails if the logs are more than one request may read.
    pub(crate) fn cursor(
        &self,
        filters: &[Filter],
        after: &[EventId],
        now: Timestamp,
    ) -> Result<KeptCursor, TooManyLogs> {
        self.cursor_of(filters, now, KeptCursor { after: after.into(), ..KeptCursor::default() })
    }

    /// Returns a reader of everything retained after these places, as [`cursor`](Self::cursor) does. The rest of older lives is
    /// included, because the client followed the logs up to there.
    pub(crate) fn cursor_over_lives(
        &self,
        filters: &[Filter],
        after: &[EventId],
        now: Timestamp,
    ) -> Result<KeptCursor, TooManyLogs> {
        let cursor = KeptCursor { after: after.into(), spans_lives: true, ..KeptCursor::default() };
        self.cursor_of(filters, now, cursor)
    }

    /// Returns the last event before the newest purge of an engine's log, if a reader's loop has not read it.
    pub(crate) fn unread_before_purge(&self, is_read: impl Fn(EventId) -> bool) -> Option<EventId> {
        self.followed.as_ref()?.before_purge.filter(|id| !is_read(*id))
    }

    /// Returns the first events of the newest lives of logs that the filters name or match, as far as a reader's loop has not read
    /// them.
    pub(crate) fn unread_lives(
        &self,
        filters: &[Filter],
        is_read: impl Fn(EventId) -> bool,
        now: Timestamp,
    ) -> Vec<EventId> {
        let begin = |log: &KeptLog| log.entry(log.life.start).map(|entry| entry.id());
        let names = self.matched(filters, now).unwrap_or_default();
        let begins = names.iter().filter_map(|name| begin(self.find(name, now)?));
        begins.filter(|id| !is_read(*id)).collect()
    }

    fn cursor_of(
        &self,
        filters: &[Filter],
        now: Timestamp,
        cursor: KeptCursor,
    ) -> Result<KeptCursor, TooManyLogs> {
        let names = self.matched(filters, now)?;
        let has_unknown = filters.iter().any(|filter| self.may_lack_logs(filter, now));
        // Begins at the current number: a hole before a log was made, or before its newest life, is outside the range
        // of the reader.
        let number = self.next_number() - 1;
        let takes_all = take_all(filters, &names);
        let mut cursor = KeptCursor { number, has_unknown, takes_all, ..cursor };
        for name in names {
            let place = match self.find(&name, now) {
                Some(log) => {
                    let mut place = begin(log, &cursor);
                    if place.gap.is_none() && self.follows_another(log, &cursor) {
                        place.gap = Some(before(log));
                    }
                    let before = number_before(log, place.next, cursor.spans_lives);
                    cursor.number = cursor.number.min(before);
                    place
                }
                None => LogCursor {
                    gap: (self.may_have_had(&name, now) || self.may_go_on(&name)).then(|| self.unknown()),
                    name,
                    serial: 0,
                    next: 0,
                },
            };
            cursor.logs.push(place);
        }
        cursor.has_hole = !cursor.logs.is_empty() && self.holes().after(cursor.number).is_some();
        Ok(cursor)
    }

    /// Returns whether a log that has expired by the reader's clock still exists by the clock of the engine's log. Such a log may
    /// get another event, which was accepted earlier.
    fn may_go_on(&self, name: &LogName) -> bool {
        self.is_followed() && self.names[name.by as usize].contains_key(&name.value)
    }

    /// Returns whether a reader that followed the logs may have missed an earlier log of this name, of which nothing is left.
    fn follows_another(&self, log: &KeptLog, cursor: &KeptCursor) -> bool {
        let first = log.entry(0).map(|entry| entry.id());
        let has_some = first.is_none_or(|first| cursor.is_before(first));
        cursor.spans_lives && !has_some && self.has_evicted_one(&log.name)
    }

    /// Returns whether one of a reader's logs has an event that no rule in force covers, in any of its lives: it was recorded by a
    /// rule of before.
    pub(crate) fn have_by_old_rule(&self, cursor: &KeptCursor, event: &Event) -> bool {
        let shards = self.recorded().count();
        let Some(place) = order_place(event, shards).filter(|_| self.has_new_rules()) else { return false };
        cursor.logs.iter().any(|LogCursor { name, .. }| {
            let log = self.names[name.by as usize].get(&name.value).map(|at| &self.logs[*at]);
            log.is_some_and(|log| {
                let is_of_log = name.by.value_of(event).is_some_and(|value| *value == *name.value);
                let found = is_of_log.then(|| log.count_to(place, shards).checked_sub(1)).flatten();
                found.and_then(|at| log.entries.get(at)).is_some_and(|entry| Some(entry.id()) == event.id())
            })
        })
    }

    /// Returns the gap for a log of which nothing is retained.
    fn unknown(&self) -> FrontGap {
        (Missed::Unknown, self.holes().last().map(|hole| hole.last))
    }

    /// Adds the logs that the filters match by pattern and that were made since the last call.
    pub(crate) fn extend(&self, cursor: &mut KeptCursor, filters: &[Filter], now: Timestamp) {
        if !filters.iter().any(|filter| self.is_open(filter)) {
            return;
        }
        let Ok(names) = self.matched(filters, now) else {
            cursor.has_unknown = true;
            return;
        };
        for name in names {
            if !cursor.logs.iter().any(|log| log.name == name)
                && let Some(log) = self.find(&name, now)
            {
                let (serial, next, gap) = (log.serial, log.base, before_new(log));
                cursor.logs.push(LogCursor { name, serial, next, gap });
            }
        }
    }

    /// Reads the next items into `out`, up to `max` events. If there are none, the reader has reached the end.
    /// `is_read` returns whether the reader's loop has read an event.
    pub(crate) fn read(
        &self,
        cursor: &KeptCursor,
        is_read: impl Fn(EventId) -> bool,
        now: Timestamp,
        max: usize,
        out: &mut VecDeque<KeptItem>,
    ) {
        if cursor.has_unknown {
            out.push_back(gap_item(usize::MAX, 0, 0, self.unknown()));
        }
        let mut heads: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::with_capacity(cursor.logs.len());
        let mut found: Vec<Option<&KeptLog>> = Vec::with_capacity(cursor.logs.len());
        for (at, place) in cursor.logs.iter().enumerate() {
            let log = self.find(&place.name, now);
            found.push(log);
            let (mut next, mut missed) = (place.next, place.gap);
            match log {
                None if place.serial == 0 => {}
                // The log was evicted, with the events that the reader had not read.
                None => missed = Some(self.unknown()),
                Some(log) if place.serial == 0 => {
                    next = log.base;
                    missed = missed.or_else(|| before_new(log));
                }
                Some(log) if place.serial != log.serial => {
                    next = log.base;
                    missed = Some(before(log));
                }
                Some(log) if next < log.base => {
                    missed = missed.or(Some((Missed::AtMost(log.base - next), log.last_evicted)));
                    next = log.base;
                }
                Some(_) => {}
            }
            let serial = log.map_or(0, |log| log.serial);
            if let Some(gap) = missed {
                out.push_back(gap_item(at, serial, next, gap));
            }
            if let Some(entry) = log.and_then(|log| log.entry(next)) {
                heads.push(Reverse((entry.number, at, next)));
            }
        }
        let mut number = cursor.number;
        let mut left = max;
        while let Some(Reverse((next, at, index))) = heads.pop() {
            let Some((log, entry)) = found[at].and_then(|log| Some((log, log.entry(index)?))) else {
                continue;
            };
            if !is_read(entry.id()) {
                continue;
            }
            if left == 0 {
                return;
            }
            while let Some(hole) = self.holes().after(number).filter(|hole| hole.number <= next) {
                out.push_back(hole_item(hole));
                number = hole.number;
            }
            // An event that the reader already has is read again with the next items, after holes that it has passed.
            number = number.max(next);
            if let Some(after) = log.entry(index + 1) {
                heads.push(Reverse((after.number, at, index + 1)));
            }
            if cursor.is_before(entry.id()) {
                continue;
            }
            left -= 1;
            let content = KeptContent::Event(self.event(&entry));
            out.push_back(KeptItem { log: at, serial: log.serial, next: index + 1, number: next, content });
        }
        // A hole after the place of the reader's loop belongs to the live events, or to the next read.
        let is_before_live = |hole: &Hole| !cursor.logs.is_empty() && is_read(hole.first);
        while let Some(hole) = self.holes().after(number).filter(is_before_live) {
            out.push_back(hole_item(hole));
            number = hole.number;
        }
    }
}

/// Returns whether one of the filters matches every event of the only log among `names`.
fn take_all(filters: &[Filter], names: &[LogName]) -> bool {
    let [_] = names else { return false };
    let whole = filter_of(names);
    filters.iter().any(|filter| implies(&whole, filter))
}

/// Returns the number of the log's last event before this place. A hole after it may contain events of the log.
fn number_before(log: &KeptLog, next: u64, spans_lives: bool) -> u64 {
    match log.entry(next.wrapping_sub(1)) {
        Some(entry) if next > log.life.start || spans_lives => entry.number,
        None if spans_lives && log.base < log.life.start => {
            log.entries.front().map_or(0, |first| first.number.saturating_sub(1))
        }
        _ if log.base > log.life.start => log.life.number,
        // The life begins at this place.
        _ => log.life.number.saturating_sub(1),
    }
}

/// Returns the gap before the first retained event of a log, if the number of missing events is unknown.
fn before(log: &KeptLog) -> FrontGap {
    let first = log.entries.front().map(|entry| entry.id());
    let first = first.filter(|first| first.sequence > 0);
    (Missed::Unknown, first.map(|first| EventId::before(first.epoch, first.shard, first.sequence)))
}

/// Returns the gap before the first retained event of a log that was made after the reader began.
fn before_new(log: &KeptLog) -> Option<FrontGap> {
    (log.base > 0 || !log.life.is_from_start).then(|| before(log))
}

/// Returns the place at which a reader begins in a log.
fn begin(log: &KeptLog, cursor: &KeptCursor) -> LogCursor {
    let is_read = |index: u64| log.entry(index).is_some_and(|entry| cursor.is_before(entry.id()));
    let has_older = cursor.spans_lives && log.base < log.life.start;
    let first = if has_older { log.base } else { log.base.max(log.life.start) };
    let (mut low, mut high) = (first, log.next());
    while low < high {
        let middle = low + (high - low) / 2;
        if is_read(middle) { low = middle + 1 } else { high = middle }
    }
    // Evicted events matter only if the reader has not received them.
    let has_received = |id: Option<EventId>| id.is_some_and(|id| cursor.is_before(id));
    let gap = if low > first {
        None
    } else if has_older {
        // The log may have had a life before its first retained entry.
        (log.base == 0 || !has_received(log.last_evicted)).then(|| before(log))
    } else if cursor.spans_lives && log.life.start > 0 && log.base == log.life.start {
        (!has_received(log.last_evicted)).then(|| before(log))
    } else if log.base > log.life.start {
        (!has_received(log.last_evicted))
            .then(|| (Missed::AtMost(log.base - log.life.start), log.last_evicted))
    } else {
        (!log.life.is_from_start).then(|| before(log))
    };
    LogCursor { name: log.name.clone(), serial: log.serial, next: low, gap }
}

fn gap_item(log: usize, serial: u64, next: u64, (missed, to): FrontGap) -> KeptItem {
    KeptItem { log, serial, next, number: 0, content: KeptContent::Gap { missed, to } }
}

/// Returns the gap of a hole, which belongs to no single log.
fn hole_item(hole: Hole) -> KeptItem {
    KeptItem { number: hole.number, ..gap_item(usize::MAX, 0, 0, (Missed::Unknown, Some(hole.last))) }
}

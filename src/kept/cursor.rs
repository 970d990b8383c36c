//! A reader's place in several kept logs, merged in the order of recording.
//!
//! Invariants:
//! - The place is a number for each log; no event is kept between two pages.
//! - Each retained event after the place is read once; where events were let go before they were read, a gap is read instead.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use smallvec::SmallVec;

use super::log::{KeptLog, LogName};
use super::store::{KeptLogs, TooManyLogs};
use crate::dialect::Missed;
use crate::event::{Event, EventId, Timestamp};
use crate::filter::Filter;

/// Entries that a reader passes over in one page beside those that it gets.
const PASSED_A_PAGE: usize = 1024;

/// Place of a reader in one log.
#[derive(Debug)]
struct LogCursor {
    name: LogName,
    /// Serial number of the log; 0 while there is none.
    serial: u64,
    /// Index of the next entry.
    next: u64,
    /// Events before the first one that may be missing; reported first.
    gap: Option<Missed>,
}

/// Place of a reader in the logs that its filters name or match.
#[derive(Debug, Default)]
pub(crate) struct KeptCursor {
    logs: Vec<LogCursor>,
    /// Number of the last event read, or of the last hole.
    number: u64,
    /// Places after which the reader begins, one for each shard; none for the beginning.
    after: SmallVec<[EventId; 1]>,
    /// Whether logs that the filters match are unknown, because they were let go; reported first.
    has_unknown: bool,
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
    /// Events are missing, this many if it is known; the last of them if that is known.
    Gap {
        missed: Missed,
        to: Option<EventId>,
    },
}

impl KeptCursor {
    /// Returns whether an event comes before the places after which the reader began.
    fn is_before(&self, id: EventId) -> bool {
        if self.after.is_empty() {
            return false;
        }
        let of_shard = self.after.iter().find(|after| after.shard == id.shard);
        // Shards that the reader did not name began when it came.
        of_shard.is_none_or(|after| after.epoch == id.epoch && id.sequence < after.next_sequence())
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
    pub(crate) fn begins_with_gap(&self) -> bool {
        self.has_unknown || self.logs.iter().any(|log| log.gap.is_some())
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
    /// Returns a reader of the logs that the filters name or match: of their newest lives, or of what comes after these places
    /// (one for each shard), if that is later. An error if they are more than one request may read.
    pub(crate) fn cursor(
        &self,
        filters: &[Filter],
        after: &[EventId],
        now: Timestamp,
    ) -> Result<KeptCursor, TooManyLogs> {
        let names = self.matched(filters, now)?;
        let has_unknown = self.has_let_go() && filters.iter().any(|filter| self.is_open(filter));
        // A hole before a log was made, or before its newest life, is not one of what is read.
        let number = self.next_number() - 1;
        let mut cursor =
            KeptCursor { logs: Vec::with_capacity(names.len()), number, after: after.into(), has_unknown };
        for name in names {
            let place = match self.find(&name, now) {
                Some(log) => {
                    let place = begin(log, &cursor);
                    let before = log.entry(place.next).map_or(log.number, |entry| entry.number - 1);
                    cursor.number = cursor.number.min(before);
                    place
                }
                None => LogCursor {
                    gap: self.may_have_had(&name).then_some(Missed::Unknown),
                    name,
                    serial: 0,
                    next: 0,
                },
            };
            cursor.logs.push(place);
        }
        Ok(cursor)
    }

    /// Adds the logs that the filters match by pattern and that were made since.
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
                let (serial, next) = (log.serial, log.base);
                let gap = (log.base > 0 || !log.life.is_from_start).then_some(Missed::Unknown);
                cursor.logs.push(LogCursor { name, serial, next, gap });
            }
        }
    }

    /// Reads the next items into `out`, up to `max` events. Nothing is left if there are none. `is_read` returns whether the
    /// reader's loop has read an event.
    pub(crate) fn read(
        &self,
        cursor: &KeptCursor,
        is_read: impl Fn(EventId) -> bool,
        now: Timestamp,
        max: usize,
        out: &mut VecDeque<KeptItem>,
    ) {
        if cursor.has_unknown {
            out.push_back(gap_item(usize::MAX, 0, 0, Missed::Unknown, None));
        }
        let is_within = |event: &Event| event.id().is_some_and(&is_read);
        let mut heads: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::with_capacity(cursor.logs.len());
        let mut found: Vec<Option<&KeptLog>> = Vec::with_capacity(cursor.logs.len());
        for (at, place) in cursor.logs.iter().enumerate() {
            let log = self.find(&place.name, now);
            found.push(log);
            let (mut next, mut missed) = (place.next, place.gap);
            match log {
                None if place.serial == 0 => {}
                // It is gone, with what the reader had not read.
                None => missed = Some(Missed::Unknown),
                Some(log) if place.serial == 0 => {
                    next = log.base;
                    missed = missed.or((log.base > 0 || !log.life.is_from_start).then_some(Missed::Unknown));
                }
                Some(log) if place.serial != log.serial => {
                    next = log.base;
                    missed = Some(Missed::Unknown);
                }
                Some(log) if next < log.base => {
                    missed = missed.or(Some(Missed::AtMost(log.base - next)));
                    next = log.base;
                }
                Some(_) => {}
            }
            let serial = log.map_or(0, |log| log.serial);
            if let Some(missed) = missed {
                out.push_back(gap_item(at, serial, next, missed, log.and_then(|log| log.let_go)));
            }
            if let Some(entry) = log.and_then(|log| log.entry(next)) {
                heads.push(Reverse((entry.number, at, next)));
            }
        }
        let mut number = cursor.number;
        let (mut left, mut passed) = (max, 0);
        while let Some(Reverse((next, at, index))) = heads.pop() {
            let Some((log, entry)) = found[at].and_then(|log| Some((log, log.entry(index)?))) else {
                continue;
            };
            if !is_within(&entry.event) {
                continue;
            }
            if left == 0 || passed == PASSED_A_PAGE {
                return;
            }
            while let Some(hole) = self.holes().after(number).filter(|hole| *hole <= next) {
                out.push_back(hole_item(hole));
                number = hole;
            }
            number = next;
            if let Some(after) = log.entry(index + 1) {
                heads.push(Reverse((after.number, at, index + 1)));
            }
            passed += 1;
            if entry.event.id().is_some_and(|id| cursor.is_before(id)) {
                continue;
            }
            left -= 1;
            let content = KeptContent::Event(entry.event.clone());
            out.push_back(KeptItem { log: at, serial: log.serial, next: index + 1, number: next, content });
        }
        while let Some(hole) = self.holes().after(number).filter(|_| !cursor.logs.is_empty()) {
            out.push_back(hole_item(hole));
            number = hole;
        }
    }
}

/// Returns the place at which a reader begins in a log.
fn begin(log: &KeptLog, cursor: &KeptCursor) -> LogCursor {
    let is_read = |index: u64| {
        log.entry(index).and_then(|entry| entry.event.id()).is_some_and(|id| cursor.is_before(id))
    };
    let first = log.base.max(log.life.start);
    let (mut low, mut high) = (first, log.next());
    while low < high {
        let middle = low + (high - low) / 2;
        if is_read(middle) { low = middle + 1 } else { high = middle }
    }
    // Events that were let go matter if the reader has not got them.
    let has_got = |id: Option<EventId>| id.is_some_and(|id| cursor.is_before(id));
    let gap = if low > first {
        None
    } else if log.base > log.life.start {
        (!has_got(log.let_go)).then_some(Missed::AtMost(log.base - log.life.start))
    } else {
        (!log.life.is_from_start).then_some(Missed::Unknown)
    };
    LogCursor { name: log.name.clone(), serial: log.serial, next: low, gap }
}

fn gap_item(log: usize, serial: u64, next: u64, missed: Missed, to: Option<EventId>) -> KeptItem {
    KeptItem { log, serial, next, number: 0, content: KeptContent::Gap { missed, to } }
}

/// Returns the gap of a hole, which concerns no log more than another.
fn hole_item(hole: u64) -> KeptItem {
    KeptItem { number: hole, ..gap_item(usize::MAX, 0, 0, Missed::Unknown, None) }
}

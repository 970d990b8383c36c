//! Parts of a log that a reader takes as a whole, so that readers share the encoded bytes of their events.
//!
//! Invariants:
//! - A part has the events that the reader would get one by one, in the same order, and no gap comes before or among them.
//! - A log's serial number and an index always name the same event: a new log of the same name has another number, and an
//!   index is never used again.

use std::ops::Range;

use super::cursor::KeptCursor;
use super::log::KeptLog;
use super::packed::Entry;
use super::store::KeptLogs;
use crate::event::packed::PlainEvent;
use crate::event::{Event, EventId, Timestamp};

/// Maximum number of events of a part. Each part lies within a stretch of this many entries, which begins at a multiple of it.
const PART_EVENTS: u64 = 256;

/// Next events of a reader in its only log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptPart {
    /// Serial number of the log.
    pub(crate) serial: u64,
    /// Index of the first event of the stretch that can be encoded together with the part.
    pub(crate) first: u64,
    /// Index of the part's first event.
    pub(crate) from: u64,
    /// Index after the part's last event.
    pub(crate) end: u64,
    /// The part's last event.
    pub(crate) last: EventId,
    /// Number of the last event among all recorded events.
    number: u64,
}

impl KeptPart {
    /// Returns the number of the stretch of the log in which the part lies.
    pub(crate) fn stretch(&self) -> u64 {
        self.from / PART_EVENTS
    }
}

#[cfg(test)]
impl KeptPart {
    /// Returns the first event of a log with this serial number.
    pub(crate) fn at(serial: u64) -> Self {
        let last = EventId { epoch: 1, shard: 0, sequence: 0 };
        Self { serial, first: 0, from: 0, end: 1, last, number: 1 }
    }
}

impl KeptCursor {
    /// Moves past a part.
    pub(crate) fn pass_part(&mut self, part: &KeptPart) {
        self.pass_to(part.end, part.number);
    }

    /// Moves past the events of a part up to an index. `number` is that of the last one.
    pub(crate) fn pass_to(&mut self, end: u64, number: u64) {
        self.number = self.number.max(number);
        if let [log] = self.logs.as_mut_slice() {
            log.next = end;
        }
    }
}

impl KeptLogs {
    /// Returns a reader's only log, and its place there, if no gap is known before it.
    fn only_log(&self, cursor: &KeptCursor, now: Timestamp) -> Option<(&KeptLog, u64)> {
        let [place] = cursor.logs.as_slice() else { return None };
        if cursor.has_unknown || place.gap.is_some() {
            return None;
        }
        let log = self.find(&place.name, now)?;
        (log.serial == place.serial && place.next >= log.base).then_some((log, place.next))
    }

    /// Returns the next events of a reader, if it takes them as a whole. `is_read` returns whether the reader's loop has
    /// read an event.
    pub(crate) fn part(
        &self,
        cursor: &KeptCursor,
        is_read: impl Fn(EventId) -> bool,
        now: Timestamp,
    ) -> Option<KeptPart> {
        if cursor.takes_all { self.next_part(cursor, is_read, now) } else { None }
    }

    /// Returns the next events of a reader in its only log, wanted or not.
    pub(crate) fn next_part(
        &self,
        cursor: &KeptCursor,
        is_read: impl Fn(EventId) -> bool,
        now: Timestamp,
    ) -> Option<KeptPart> {
        let (log, from) = self.only_log(cursor, now)?;
        let id = |index: u64| log.entry(index).map(|entry| entry.id());
        let is_taken = |index: u64| id(index).is_some_and(|id| is_read(id) && !cursor.is_before(id));
        let mut end = ((from / PART_EVENTS + 1) * PART_EVENTS).min(log.next());
        if from >= end || !is_taken(from) {
            return None;
        }
        let mut first = log.base.max(from - from % PART_EVENTS);
        if self.recorded().count() == 1 {
            // The places of one shard grow along the log.
            if !is_taken(end - 1) {
                end = (from..end).find(|index| !is_taken(*index))?;
            }
        } else {
            end = (from..end).find(|index| !is_taken(*index)).unwrap_or(end);
            if (first..from).any(|index| !id(index).is_some_and(&is_read)) {
                first = from;
            }
        }
        let last = log.entry(end - 1)?;
        let part = KeptPart { serial: log.serial, first, from, end, last: last.id(), number: last.number };
        self.holes().after(cursor.number).is_none_or(|hole| hole.number > part.number).then_some(part)
    }

    /// Returns the approximate size of a reader's only log from one index up to another, in bytes: at least that of the payloads.
    pub(crate) fn part_bytes(&self, cursor: &KeptCursor, indexes: Range<u64>, now: Timestamp) -> usize {
        let Some((log, _)) = self.only_log(cursor, now) else { return 0 };
        let Range { start, end } = places(log, &indexes);
        log.entries.bytes_between(start, end)
    }

    /// Returns the events of a reader's only log from one index up to another.
    pub(crate) fn part_events<'a>(
        &'a self,
        cursor: &KeptCursor,
        indexes: Range<u64>,
        now: Timestamp,
    ) -> impl Iterator<Item = PartEvent<'a>> + use<'a> {
        let log = self.only_log(cursor, now).map(|(log, _)| log);
        let entries = log.into_iter().flat_map(move |log| {
            let Range { start, end } = places(log, &indexes);
            log.entries.range(start, end)
        });
        entries.map(move |entry| PartEvent { entry, logs: self })
    }
}

impl KeptLogs {
    /// Passes the events of a reader's only log from one index up to another to `take`, until it returns false. That takes less than
    /// half of the time of [`part_events`](Self::part_events).
    #[inline]
    pub(crate) fn visit_part<'a>(
        &'a self,
        cursor: &KeptCursor,
        indexes: Range<u64>,
        now: Timestamp,
        mut take: impl FnMut(PartEvent<'a>) -> bool,
    ) {
        let Some((log, _)) = self.only_log(cursor, now) else { return };
        let Range { start, end } = places(log, &indexes);
        log.entries.visit(start, end, |entry| take(PartEvent { entry, logs: self }));
    }
}

/// Returns the places of a log's indexes among its retained entries.
fn places(log: &KeptLog, indexes: &Range<u64>) -> Range<usize> {
    let place = |index: u64| index.saturating_sub(log.base) as usize;
    place(indexes.start)..place(indexes.end)
}

/// Event of a part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartEvent<'a> {
    entry: Entry<'a>,
    logs: &'a KeptLogs,
}

impl<'a> PartEvent<'a> {
    /// Returns the event in packed form, if it has no more than its head, its payload, its id and its times.
    /// Only on a bus of one shard: with several, a loop may set the position of an event after it was recorded.
    #[inline]
    pub(crate) fn plain(&self) -> Option<PlainEvent<'a>> {
        if self.logs.next.len() == 1 { self.entry.plain() } else { None }
    }

    pub(crate) fn id(&self) -> EventId {
        self.entry.id()
    }

    /// Returns the event's number among all recorded events.
    pub(crate) fn number(&self) -> u64 {
        self.entry.number
    }

    /// Builds the event.
    pub(crate) fn event(&self) -> Event {
        self.logs.event(&self.entry)
    }
}

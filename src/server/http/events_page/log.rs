//! The part of a page that only an engine's log has: events under no rule that the ring has dropped.
//!
//! Invariants:
//! - Its calls block, so a worker makes them.
//! - One call holds at most [`CHUNK_BYTES`] and one page of the log.

use std::collections::VecDeque;

use crate::engine::{EngineError, History, LogPlace, PAGE_EVENTS, log_place_of};
use crate::event::{Event, Timestamp};

/// Maximum size of the events that are read backwards together, in bytes.
const CHUNK_BYTES: usize = 4 << 20;

/// Reader of the first shard of an engine's log, in either direction.
pub(super) struct LogWalk<'a> {
    history: &'a History,
    /// Rest of the range.
    next: LogPlace,
    end: LogPlace,
    /// Place of the oldest entry of the log from the range's beginning on, and the time of its first event.
    oldest: Option<(LogPlace, Option<Timestamp>)>,
    /// Whether entries were missing when they were to be read.
    has_hole: bool,
}

impl<'a> LogWalk<'a> {
    /// Returns a reader of the entries from a place on, up to but without `end`.
    pub(super) fn new(history: &'a History, from: LogPlace, end: LogPlace) -> Result<Self, EngineError> {
        // Pages in memory may have what the log has forgotten since.
        let mut page = history.probe(0, from)?;
        if page.first.is_none() && from.0 < end.0 {
            // The log has nothing of that epoch.
            page = history.probe(0, (end.0, 0))?;
        }
        let oldest = page.first.map(|first| (first, page.events.first().map(Event::timestamp)));
        let next = oldest.map_or(end, |(oldest, _)| oldest);
        Ok(Self { history, next, end, oldest, has_hole: false })
    }

    /// Returns the place of the oldest entry of the log from the range's beginning on.
    pub(super) fn oldest(&self) -> Option<LogPlace> {
        self.oldest.map(|(place, _)| place)
    }

    /// Returns whether all entries before the oldest one have an earlier time, if times increase along the log.
    pub(super) fn is_oldest_before(&self, since: Timestamp) -> bool {
        self.oldest.is_some_and(|(_, at)| at.is_some_and(|at| at < since))
    }

    /// Returns whether entries were missing when they were to be read: the log has forgotten them meanwhile.
    pub(super) fn has_hole(&self) -> bool {
        self.has_hole
    }

    /// Returns whether the range was read.
    pub(super) fn is_over(&self) -> bool {
        self.next >= self.end
    }

    /// Reads the next events of the range, in the order of reading. Returns none at its end only.
    pub(super) fn read(&mut self, is_desc: bool) -> Result<VecDeque<Event>, EngineError> {
        let mut events = VecDeque::new();
        while events.is_empty() && !self.is_over() {
            if is_desc { self.read_back(&mut events)? } else { self.read_on(&mut events)? }
        }
        Ok(events)
    }

    fn read_on(&mut self, events: &mut VecDeque<Event>) -> Result<(), EngineError> {
        let page = self.history.read(0, self.next)?;
        self.has_hole |= page.first.is_none_or(|first| first > self.next);
        let wanted = page.from(self.next).iter().take_while(|event| log_place_of(event) < self.end);
        events.extend(wanted.cloned());
        self.next = match self.next {
            next if page.next > next => page.next,
            // The log has no more of that epoch.
            (epoch, _) if epoch < self.end.0 => (self.end.0, 0),
            _ => self.end,
        };
        Ok(())
    }

    fn read_back(&mut self, events: &mut VecDeque<Event>) -> Result<(), EngineError> {
        let (epoch, end) = self.end;
        let Some(last) = end.checked_sub(1) else {
            // The end of an earlier epoch is not known, and events of it are missing.
            self.next = self.end;
            return Ok(());
        };
        let mut floor = (epoch, last - last % PAGE_EVENTS).max(self.next);
        let (mut at, mut bytes) = (floor, 0);
        while at < self.end {
            let page = self.history.read(0, at)?;
            self.has_hole |= page.first.is_none_or(|first| first > at);
            for event in page.from(at).iter().take_while(|event| log_place_of(event) < self.end) {
                bytes += event.weight() as usize;
                events.push_back(event.clone());
            }
            while bytes > CHUNK_BYTES
                && events.len() > 1
                && let Some(dropped) = events.pop_front()
            {
                bytes -= dropped.weight() as usize;
                let place = log_place_of(&dropped);
                floor = (place.0, place.1 + 1);
            }
            if page.next <= at {
                break;
            }
            at = page.next;
        }
        events.make_contiguous().reverse();
        self.end = floor;
        Ok(())
    }
}

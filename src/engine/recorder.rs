//! The receiver of what is read from the log, and the reading of the log's past for it.
//!
//! Invariants:
//! - A recorder receives each event once, in the log's order, before the event is published.
//! - Reading the past holds one page, and ends at a time limit. Entries that are not read then are missing, and the recorder
//!   finds out by their places.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::EngineError;
use super::history::LogPlace;
use super::log::{Log, LogEntry, LogSpan, Places, stamp_of};
use crate::dialect::envelope;
use crate::event::{Event, EventId};
use crate::threads;

/// Entries and bytes of a page.
const PAGE_EVENTS: usize = 1024;
const PAGE_BYTES: usize = 1 << 20;

/// Interval between log lines about progress.
const REPORT: Duration = Duration::from_secs(5);

/// Receiver of the log's events, in their order.
pub(crate) trait EntryRecorder: Send + Sync {
    /// Returns the place from which it wants the entries that the log still has, and how long reading them may take;
    /// `None` if it wants none.
    fn wants_past(&self, shard: u16) -> Option<(LogPlace, Duration)>;

    /// Takes an event, with the stamp of its entry. Returns whether the event is published.
    fn record(&self, event: &Event, stamp: Option<&str>) -> bool;

    /// Takes an entry that has a stamp and no event. Returns false if the entry is unknown here.
    fn record_other(&self, id: EventId, stamp: &str) -> bool;

    /// Returns false for an event that it has refused, as far as it remembers.
    fn is_delivered(&self, id: EventId) -> bool;

    /// Records that the past was read: up to these places nothing more comes. Called for each connection to the log.
    fn end_past(&self, places: &Places);

    /// Waits until the event with this id was read, or the time has come. Returns whether it was read.
    fn await_read(&self, id: EventId, until: Instant) -> bool;
}

/// Recorder, shared by the engine's threads.
pub(crate) type SharedRecorder = Arc<dyn EntryRecorder>;

/// Reads the entries before `end` that the recorder wants.
pub(super) fn read_past(
    log: &dyn Log,
    recorder: &dyn EntryRecorder,
    end: &Places,
    is_closed: impl Fn() -> bool,
) -> Result<(), EngineError> {
    let mut past = None;
    for (shard, next) in end.next.iter().enumerate() {
        let (shard, end) = (shard as u16, (end.epoch, *next));
        let Some((from, limit)) = recorder.wants_past(shard).filter(|(from, _)| *from < end) else {
            continue;
        };
        let past = match &mut past {
            Some(past) => past,
            none => match log.past()? {
                Some(opened) => none.insert(opened),
                None => return Err(EngineError::KeepsNothing),
            },
        };
        let (started, mut reported) = (Instant::now(), Instant::now());
        let (mut place, mut count) = (from, 0_u64);
        while place < end && !is_closed() {
            threads::fault_point();
            if started.elapsed() >= limit {
                tracing::warn!(
                    events = count,
                    "the engine's log was not read to its end within retain_read_timeout: kept logs are incomplete"
                );
                break;
            }
            let mut next = place;
            let span = LogSpan {
                shard,
                epoch: place.0,
                from: place.1,
                max_events: PAGE_EVENTS,
                max_bytes: PAGE_BYTES,
            };
            past.read(span, &mut |entry| {
                let at = (entry.id.epoch, entry.id.sequence);
                if entry.id.shard == shard && (next..end).contains(&at) {
                    next = (at.0, at.1.saturating_add(1));
                    count += 1;
                    pass(&entry, recorder);
                }
            })?;
            if next == place {
                if place.0 >= end.0 {
                    break;
                }
                // The log has no more of that epoch, or never had.
                next = (end.0, 0);
            }
            place = next;
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                tracing::info!(events = count, "reading kept logs from the engine's log");
            }
        }
        if count > 0 {
            let ms = started.elapsed().as_millis() as u64;
            tracing::info!(events = count, ms, "kept logs were read from the engine's log");
        }
    }
    Ok(())
}

/// Passes an entry of the past to the recorder.
fn pass(entry: &LogEntry<'_>, recorder: &dyn EntryRecorder) {
    let Ok(json) = std::str::from_utf8(entry.json) else { return };
    let Ok(event) = envelope::read_stored(json) else {
        if let Some(stamp) = stamp_of(json) {
            recorder.record_other(entry.id, stamp);
        }
        return;
    };
    let event = event.into_publishable();
    event.set_id(entry.id);
    recorder.record(&event, stamp_of(json));
}

//! The following thread: reads the log and publishes its events on this node's bus.
//!
//! Invariants:
//! - Entries of a shard are published once each, in the log's order and under the log's ids. Events that the log no
//!   longer has appear as a hole in the ids, which the loops report as a gap.
//! - An entry that no node wrote advances the position no further than a node's entry could, and such entries are
//!   logged at most once per [`COMPLAIN`].

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::error::EngineError;
use super::log::{Log, LogEntry, Places, SEQUENCE_MAX, stamp_of};
use super::queue::AppendQueue;
use super::recorder::{EntryRecorder, read_past};
use super::status::Status;
use crate::bus::Bus;
use crate::dialect::envelope;
use crate::event::Position;
use crate::threads;

/// Maximum wait for entries before the follower checks whether it should end.
const WAIT: Duration = Duration::from_millis(500);

/// A read that returns less than this has reached the end of the log, or nearly so.
const READ_SOME: usize = 100;
const READ_SOME_BYTES: usize = 1 << 20;

/// Age after which a connection is made again before it is read.
const STALE: Duration = Duration::from_secs(1);

/// Maximum pause before a log that can't be followed is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Maximum number of consecutive epoch changes without an entry in between: the log may have had several short epochs.
const EPOCHS_AT_ONCE: u32 = 16;

/// Interval between log lines about entries that no node wrote.
const COMPLAIN: Duration = Duration::from_secs(10);

/// Destinations of the entries that the follower reads.
#[derive(Clone, Copy)]
pub(super) struct FollowTarget<'a> {
    pub(super) status: &'a Status,
    pub(super) bus: &'a Bus,
    pub(super) recorder: &'a dyn EntryRecorder,
}

/// Counter of entries that no node wrote, of which one log line reports many.
#[derive(Default)]
pub(super) struct Unreadable {
    logged: Option<Instant>,
    unlogged: u64,
}

impl Unreadable {
    fn found(&mut self, entry: &LogEntry<'_>, status: &Status) {
        status.metrics.engine_unreadable.inc();
        self.unlogged += 1;
        if self.logged.is_none_or(|logged| logged.elapsed() >= COMPLAIN) {
            tracing::warn!(id = %entry.id, count = self.unlogged, "entries of the engine's log are no events");
            (self.logged, self.unlogged) = (Some(Instant::now()), 0);
        }
    }
}

/// Follows until the queue is closed.
pub(super) fn run(log: &dyn Log, queue: &AppendQueue, target: &FollowTarget<'_>, mut known: Option<Places>) {
    let mut backoff = Backoff::new(PAUSE_MAX);
    let mut unreadable = Unreadable::default();
    let mut epochs = 0;
    while !queue.is_closed() {
        let mut has_read = false;
        let error = follow(log, queue, target, &mut known, &mut unreadable, &mut || {
            has_read = true;
            backoff.reset();
        });
        let Err(error) = error else { return };
        epochs = if has_read { 0 } else { epochs + 1 };
        if matches!(error, EngineError::OtherEpoch) && epochs < EPOCHS_AT_ONCE {
            // Not a failure: the next read begins in another epoch.
            continue;
        }
        if target.status.lost_following(&error) || backoff.is_fresh() {
            tracing::warn!(%error, "the engine's log can't be followed");
        }
        if queue.sleep(backoff.pause()) {
            return;
        }
    }
}

/// Follows the log over one connection.
fn follow(
    log: &dyn Log,
    queue: &AppendQueue,
    target: &FollowTarget<'_>,
    known: &mut Option<Places>,
    unreadable: &mut Unreadable,
    on_read: &mut dyn FnMut(),
) -> Result<(), EngineError> {
    let FollowTarget { status, bus, recorder } = *target;
    let past = bus.capacity() as u64;
    let (mut connection, mut start) = log.follower(known.as_ref(), past)?;
    let began = Instant::now();
    read_past(log, recorder, &start.places, || queue.is_closed())?;
    if began.elapsed() > STALE {
        // Entries that came meanwhile would wait in memory.
        drop(connection);
        (connection, start) = log.follower(Some(&start.places), past)?;
    }
    status.set_attached(&start, known.as_ref(), log.has_one_owner());
    let places = known.insert(start.places);
    // In one step: rules that come later begin at the follower's places.
    status.pause.pass(places, || queue.is_closed(), || recorder.end_past(places));
    bus.begin_at(Position::new(places.epoch, places.next.iter().copied()));
    tracing::info!(epoch = places.epoch, "following the engine's log");
    // Existing entries arrive without waiting.
    let mut wait = Duration::from_millis(1);
    while !queue.is_closed() {
        threads::fault_point();
        let mut next = places.clone();
        let (mut count, mut bytes) = (0, 0);
        let outcome = connection.follow(places, wait, &mut |entry| {
            count += 1;
            bytes += entry.json.len();
            publish(&entry, target, &mut next, unreadable, || queue.is_closed());
        });
        *places = next;
        if outcome.is_ok() || count > 0 {
            on_read();
        }
        outcome?;
        if count < READ_SOME && bytes < READ_SOME_BYTES {
            // The events that the log held at the start have been read now, not before.
            status.set_following();
            wait = WAIT;
        }
    }
    Ok(())
}

pub(super) fn publish(
    entry: &LogEntry<'_>,
    target: &FollowTarget<'_>,
    next: &mut Places,
    unreadable: &mut Unreadable,
    is_closed: impl Fn() -> bool,
) {
    let FollowTarget { status, bus, recorder } = *target;
    let Some(place) = next.next.get_mut(usize::from(entry.id.shard)) else { return };
    if entry.id.sequence < *place {
        return;
    }
    if entry.id.sequence > SEQUENCE_MAX {
        // No later entry would be valid after it.
        return unreadable.found(entry, status);
    }
    *place = entry.id.sequence + 1;
    status.metrics.engine_followed.inc();
    let json = std::str::from_utf8(entry.json).ok();
    let event = json.and_then(|json| envelope::read_stored(json).ok());
    match event {
        Some(event) => status.pause.pass(next, is_closed, || {
            let event = event.into_publishable();
            event.set_id(entry.id);
            if recorder.record(&event, json.and_then(stamp_of)) {
                bus.publish_identified(event);
            }
        }),
        None => {
            let stamp = json.and_then(stamp_of);
            let mut is_known = false;
            status.pause.pass(next, is_closed, || {
                is_known = stamp.is_some_and(|stamp| recorder.record_other(entry.id, stamp));
            });
            if !is_known {
                // No node wrote this: a node checks events before it writes them.
                unreadable.found(entry, status);
            }
        }
    }
}

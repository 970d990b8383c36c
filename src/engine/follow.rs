//! The thread that follows the log and publishes on this node's bus what it reads.
//!
//! Imports its siblings, `bus`, `dialect`. Always: entries of a shard are published in the log's order, each
//! once, under the log's id; what the log no longer has shows as a hole in the ids, which the loops tell.

use std::time::Duration;

use super::backoff::Backoff;
use super::queue::Queue;
use super::{EngineError, Entry, Log, Places, Status};
use crate::bus::Bus;
use crate::dialect::envelope;
use crate::event::Position;
use crate::threads;

/// How long a follower waits for entries before it looks whether it is to end.
const WAIT: Duration = Duration::from_millis(500);

/// A read that brings fewer entries has reached the log's end, or nearly so.
const READ_SOME: usize = 100;

/// The longest pause before a log that can't be followed is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Follows until the queue is closed.
pub(super) fn run(log: &dyn Log, queue: &Queue, status: &Status, bus: &Bus, mut known: Option<Places>) {
    let mut backoff = Backoff::new(PAUSE_MAX);
    while !queue.is_closed() {
        let error = follow(log, queue, status, bus, &mut known, &mut backoff);
        let Err(error) = error else { return };
        if matches!(error, EngineError::OtherEpoch) && backoff.is_fresh() {
            // Nothing is wrong: what it reads next is of another life.
            backoff.pause();
            continue;
        }
        if status.lost_following(&error) || backoff.is_fresh() {
            tracing::warn!(%error, "the engine's log can't be followed");
        }
        if queue.sleep(backoff.pause()) {
            return;
        }
    }
}

/// Over one connection.
fn follow(
    log: &dyn Log,
    queue: &Queue,
    status: &Status,
    bus: &Bus,
    known: &mut Option<Places>,
    backoff: &mut Backoff,
) -> Result<(), EngineError> {
    let past = bus.capacity() as u64;
    let (mut connection, start) = log.follower(known.as_ref(), past)?;
    let places = known.insert(start);
    status.attached(places.epoch);
    status.gate.pass(places, || queue.is_closed(), || ());
    bus.begin_at(Position::new(places.epoch, places.next.iter().copied()));
    tracing::info!(epoch = places.epoch, "following the engine's log");
    // What is there already comes without waiting.
    let mut wait = Duration::from_millis(1);
    while !queue.is_closed() {
        threads::fault_point();
        let mut next = places.clone();
        let mut count = 0;
        let outcome = connection.follow(places, wait, &mut |entry| {
            count += 1;
            publish(&entry, bus, &mut next, status, || queue.is_closed());
        });
        *places = next;
        outcome?;
        backoff.reset();
        if count < READ_SOME {
            // Only now: what the log held at the start has been read.
            status.follows();
            wait = WAIT;
        }
    }
    Ok(())
}

fn publish(entry: &Entry<'_>, bus: &Bus, next: &mut Places, status: &Status, is_closed: impl Fn() -> bool) {
    let Some(place) = next.next.get_mut(usize::from(entry.id.shard)) else { return };
    if entry.id.sequence < *place {
        return;
    }
    *place = entry.id.sequence + 1;
    status.metrics.engine_followed.inc();
    let event = std::str::from_utf8(entry.json).ok().and_then(|json| envelope::read_stored(json).ok());
    match event {
        Some(event) => status.gate.pass(next, is_closed, || bus.publish_placed(event, entry.id)),
        None => {
            // Somebody else wrote it: nodes write what they have checked.
            status.metrics.engine_unreadable.inc();
            tracing::warn!(id = %entry.id, "an entry of the engine's log is no event");
        }
    }
}

//! Publications that carry an idempotency key, or events with a dedupe id: each is accepted once within a window.
//!
//! A publication claims its names before it is published, and settles the claim when its outcome is known. A later
//! publication with one of these names is answered with that outcome instead of being published again.
//!
//! Invariants:
//! - A publication without a key or id never touches the table.
//! - Each claim is settled once. A claim that is dropped, perhaps by a panicking thread, is settled as uncertain.
//! - The lock is held for the table's own work only. Waiters are called without it.

mod saved;
mod table;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::auth::Grant;
use super::tick::{TICK_MS, Tick, ticks};
use crate::event::{EventId, Timestamp};
use crate::sync::{Mutex, lock};
pub(crate) use saved::SavedOutcome;
pub(crate) use table::{AcceptedIds, Answered, Fresh, Settled, SettledCallback};
use table::{Claimed, Name, NameTable, TableLimits};

/// Memory that `dedupe.max_ids` allows for each name, in bytes: the entry and a name of half the maximum length.
const NAME_BYTES: usize = 384;

/// Number and lifetime of the names that are kept so that nothing is published twice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DedupeConfig {
    /// `dedupe.window`: time for which a key or id is remembered after its publication was answered. Default: 2 min.
    pub window: Duration,
    /// `dedupe.max_ids`: maximum number of keys and ids that are remembered, with at most 384 bytes for each on average.
    /// Beyond it, the oldest are forgotten before their time. Default: 100,000.
    pub max_ids: usize,
}

impl Default for DedupeConfig {
    fn default() -> Self {
        Self { window: Duration::from_secs(120), max_ids: 100_000 }
    }
}

impl DedupeConfig {
    fn limits(&self) -> TableLimits {
        TableLimits {
            window: ticks(self.window),
            names: self.max_ids,
            bytes: self.max_ids.saturating_mul(NAME_BYTES),
        }
    }
}

/// Publication that is accepted once, without its events.
#[derive(Debug)]
pub(crate) struct PublishOnce {
    /// Subject of the publisher's token; empty without one. Publishers of other scopes may use equal names.
    pub(crate) scope: Box<str>,
    /// Key of the whole request, and a digest of the request.
    pub(crate) key: Option<(Box<str>, u64)>,
    /// Number of times that the publication has waited for another one with one of its names.
    pub(crate) waits: u8,
}

/// Names of an event as an engine's log keeps them beside it, so that other nodes and later processes know them.
#[derive(Debug, Serialize, Deserialize)]
struct OnceStamp {
    /// Time when its publication was accepted, in microseconds since 1970.
    at: i64,
    /// Names with their digests: the event's, its number in a request with a key if the log takes events one by one, and the
    /// request's in its last event.
    names: Vec<(String, u64)>,
}

impl PublishOnce {
    /// Returns a new publication of a client with this grant.
    pub(crate) fn new(grant: Option<&Grant>, key: Option<(Box<str>, u64)>) -> Self {
        Self { scope: grant.map_or("", Grant::subject).into(), key, waits: 0 }
    }

    /// Returns the stamp of an event with this id, as JSON; `None` if it has no name. `part` is its number in a publication of which
    /// the log may have a part. `is_last` says that it is the last of its publication.
    pub(crate) fn stamp(
        &self,
        dedupe_id: Option<&str>,
        part: Option<usize>,
        is_last: bool,
        now: Timestamp,
    ) -> Option<Box<str>> {
        let id = dedupe_id.map(|id| (Name::of_event(&self.scope, id).0.to_string(), 0));
        let key = self.key.as_ref().filter(|_| is_last || part.is_some());
        let key = key.map(|(key, digest)| (Name::of_request(&self.scope, key), *digest));
        // An id of its own names it already.
        let part = part.filter(|_| id.is_none());
        let part = key.as_ref().zip(part).map(|((name, digest), at)| (name.part(at), *digest));
        let key = key.filter(|_| is_last).map(|(name, digest)| (name.0.to_string(), digest));
        let names: Vec<(String, u64)> = [id, part, key].into_iter().flatten().collect();
        if names.is_empty() {
            return None;
        }
        serde_json::to_string(&OnceStamp { at: now.0, names }).ok().map(String::into_boxed_str)
    }
}

/// Outcome of a claim.
pub(crate) enum ClaimOutcome {
    /// The publication has these names now. Its other events are duplicates.
    Publish(OnceClaim, Fresh),
    /// Other publications with its names have an answer, which is its own too.
    Answered(Answered),
    /// Another publication with one of its names is in flight. The waiter is called when it is settled.
    Waits,
}

/// Table of a server's names. Clones share it.
#[derive(Clone)]
pub(crate) struct Dedupe(Arc<Mutex<NameTable>>);

impl Default for Dedupe {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(NameTable::new(DedupeConfig::default().limits()))))
    }
}

impl fmt::Debug for Dedupe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dedupe")
    }
}

impl Dedupe {
    /// Sets the limits.
    pub(crate) fn configure(&self, config: &DedupeConfig) {
        lock(&self.0).limits = config.limits();
    }

    /// Claims the names of a publication: its key, and the ids of its events. `waiter` makes the callback for a
    /// publication that has to wait; one without it is answered instead.
    pub(crate) fn claim<'a>(
        &self,
        now: Tick,
        once: &PublishOnce,
        ids: impl Iterator<Item = Option<&'a str>>,
        waiter: Option<impl FnOnce() -> SettledCallback>,
    ) -> ClaimOutcome {
        let key = once.key.as_ref().map(|(key, digest)| (Name::of_request(&once.scope, key), *digest));
        let ids: Vec<Option<Name>> = ids.map(|id| id.map(|id| Name::of_event(&once.scope, id))).collect();
        let claimed = lock(&self.0).claim(now, key, ids, waiter);
        match claimed {
            Claimed::Names { names, number, fresh } => {
                ClaimOutcome::Publish(OnceClaim { table: Arc::clone(&self.0), names, number }, fresh)
            }
            Claimed::Answered(answered) => ClaimOutcome::Answered(answered),
            Claimed::Waits => ClaimOutcome::Waits,
        }
    }

    /// Returns the memory of the table, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        lock(&self.0).held_bytes()
    }

    /// Returns the number of names, and the number of those that were forgotten before their time.
    pub(crate) fn counts(&self) -> (usize, u64) {
        lock(&self.0).counts()
    }

    /// Returns the outcomes for a successor process.
    pub(crate) fn save(&self) -> Vec<SavedOutcome> {
        lock(&self.0).save()
    }

    /// Adds a predecessor's outcomes.
    pub(crate) fn restore(&self, saved: Vec<SavedOutcome>) {
        lock(&self.0).restore(saved);
    }

    /// Records that the engine's log has an event with this stamp. `now` is the time of both clocks.
    pub(crate) fn learn(&self, now: (Tick, Timestamp), stamp: &str, id: EventId) {
        let Ok(OnceStamp { at, names }) = serde_json::from_str(stamp) else { return };
        let age = u64::try_from(now.1.0.saturating_sub(at)).unwrap_or(0) / (TICK_MS * 1000);
        let mut table = lock(&self.0);
        for (name, digest) in names {
            match Name::read_part(&name) {
                Some((name, at)) => table.learn_part(now.0, (name, digest), at, id, age),
                None => table.learn(now.0, Name((&*name).into()), digest, id, age),
            }
        }
    }
}

/// Names that a publication holds until its outcome is known.
pub(crate) struct OnceClaim {
    table: Arc<Mutex<NameTable>>,
    names: Vec<Name>,
    number: u64,
}

impl fmt::Debug for OnceClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnceClaim({} names)", self.names.len())
    }
}

impl OnceClaim {
    /// Ends the claim with the outcome of its publication.
    pub(crate) fn settle(mut self, outcome: Settled) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: Settled) {
        let names = std::mem::take(&mut self.names);
        if names.is_empty() {
            return;
        }
        let waiters = lock(&self.table).settle(&names, self.number, outcome);
        for waiter in waiters {
            waiter();
        }
    }
}

impl Drop for OnceClaim {
    fn drop(&mut self) {
        self.end(Settled::Uncertain);
    }
}

#[cfg(test)]
mod tests;

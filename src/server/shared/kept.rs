//! The kept logs, shared by all loops and the engine's threads, and the encoded blocks of their events.
//!
//! Invariants:
//! - Without a rule, the cost is one look at a flag.
//! - The lock of the blocks is taken after that of the logs.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Condvar, PoisonError};
use std::time::{Duration, Instant};

use crate::dialect::GapNotice;
use crate::engine::{EntryRecorder, LogPlace, Places};
use crate::event::{Event, EventId, Sequence, Since, Timestamp};
use crate::filter::Filter;
use crate::kept::{KeptLogs, LogName, PurgedLogs, RetainConfig, ShardPlace, place_after};
use crate::server::dedupe::Dedupe;
use crate::server::shared::blocks::BlockCache;
use crate::server::tick::TICK_MS;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Callback, Mutex, MutexGuard, lock};

/// Kept logs, and whether there are any.
#[derive(Debug)]
pub(crate) struct KeptStore {
    is_on: AtomicBool,
    logs: Mutex<KeptLogs>,
    blocks: Mutex<BlockCache>,
    /// Number of purges, readable without the lock.
    purges: AtomicU64,
    /// Longest time of reading the engine's log, in milliseconds.
    read_timeout: AtomicU64,
}

impl KeptStore {
    pub(crate) fn new(config: &RetainConfig, shards: usize) -> Self {
        Self {
            is_on: AtomicBool::new(!config.rules.is_empty()),
            logs: Mutex::new(KeptLogs::new(config, shards)),
            blocks: Mutex::default(),
            purges: AtomicU64::new(0),
            read_timeout: AtomicU64::new(config.read_timeout.as_millis() as u64),
        }
    }

    /// Shares the bodies of events with rings of this many events and bytes, while these have them.
    pub(crate) fn sharing_with_rings(self, events: usize, bytes: u64) -> Self {
        lock(&self.logs).share_with_rings(events, bytes);
        self
    }

    /// Makes the logs from what is read of an engine's log. `slots` is the number of events in the rings.
    pub(crate) fn follow_engine(&self, slots: usize) {
        lock(&self.logs).follow_engine(slots, RandomState::new().hash_one(slots));
    }

    /// Returns whether the past of the engine's log is still being read for the logs.
    pub(crate) fn is_reading(&self) -> bool {
        self.lock().is_some_and(|logs| logs.is_reading())
    }

    /// Returns whether there ever was a rule.
    pub(crate) fn is_on(&self) -> bool {
        // Relaxed: a hint. New rules take effect a little later.
        self.is_on.load(Ordering::Relaxed)
    }

    /// Releases logs after a long batch.
    pub(crate) fn release(&self, names: &[LogName]) {
        if !names.is_empty()
            && let Some(mut logs) = self.lock()
        {
            logs.release(names);
        }
    }

    /// Removes these logs. Returns `None`, and does nothing, if that has to wait: see [`KeptLogs::purge`]. Wake the loops
    /// afterwards, which report the purge to their clients.
    pub(crate) fn purge(&self, names: &[LogName], heads: &[Sequence], now: Timestamp) -> Option<PurgedLogs> {
        let mut logs = self.lock()?;
        let purged = logs.purge(names, heads, now);
        // No reader can find the blocks of the purged logs.
        self.blocks().clear();
        // Relaxed: a hint; the loops are woken after it is set, and look under the lock.
        self.purges.store(logs.purge_count(), Ordering::Relaxed);
        purged
    }

    /// Purges the logs that an entry of the engine's log without an event names. Returns whether it is a record of a purge.
    fn purge_followed(&self, id: EventId, stamp: &str) -> bool {
        let Some(mut logs) = self.lock() else { return false };
        let is_purge = logs.purge_followed(id, stamp);
        if is_purge {
            self.blocks().clear();
        }
        // Relaxed: as above.
        self.purges.store(logs.purge_count(), Ordering::Relaxed);
        is_purge
    }

    /// Returns the filters of what was purged since a loop saw this number of purges, and moves the number on.
    pub(crate) fn purged_since(&self, seen: &mut u64) -> Vec<Arc<Filter>> {
        // Relaxed: as above.
        if self.purges.load(Ordering::Relaxed) == *seen {
            return Vec::new();
        }
        let Some(logs) = self.lock() else { return Vec::new() };
        let purged = logs.purged_after(*seen);
        *seen = logs.purge_count();
        purged
    }

    /// Returns whether no node delivers what a gap of an engine's log lacks: refused events, and records of purges.
    pub(crate) fn are_undelivered(&self, gap: &GapNotice) -> bool {
        let (Some(Since::Event(from)), Some(to)) = (&gap.from, gap.to) else { return false };
        self.lock().is_some_and(|logs| logs.are_undelivered(*from, to))
    }

    /// Locks the logs; `None` if there never was a rule.
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, KeptLogs>> {
        self.is_on().then(|| lock(&self.logs))
    }

    /// Locks the encoded blocks of the logs.
    pub(crate) fn blocks(&self) -> MutexGuard<'_, BlockCache> {
        lock(&self.blocks)
    }

    /// Locks the logs; `None` if no rule ends logs.
    pub(crate) fn lock_with_ends(&self) -> Option<MutexGuard<'_, KeptLogs>> {
        self.lock().filter(|logs| logs.has_ends())
    }

    /// Records that the engine's log was read up to these places, and that its follower continues there. Returns whether that was
    /// awaited.
    fn end_past(&self, places: &Places) -> bool {
        // Also without a rule, for those that a reload adds.
        let mut logs = lock(&self.logs);
        // Without a rule nothing was recorded: the logs begin where a rule does.
        let shards = if self.is_on() { places.next.len() } else { 0 };
        let places = || places.next[..shards].iter().map(|next| (places.epoch, *next));
        let is_reading = logs.is_reading();
        if is_reading {
            logs.end_reading(places());
        }
        logs.continue_at(places());
        is_reading
    }

    /// Replaces the rules for later events. `heads` has the place of the next event of each shard; with an engine, of the next
    /// that is recorded, and nothing before the engine's log was reached.
    pub(crate) fn set_rules(&self, config: &RetainConfig, heads: &[ShardPlace]) {
        // Relaxed: as where it is read.
        self.read_timeout.store(config.read_timeout.as_millis() as u64, Ordering::Relaxed);
        let mut logs = lock(&self.logs);
        if !config.rules.is_empty() && !self.is_on.load(Ordering::Relaxed) {
            // Events before this point were not recorded.
            if logs.is_followed() {
                logs.begin_rules(heads.iter().copied());
            } else {
                logs.begin_at(heads.iter().copied());
            }
            self.is_on.store(true, Ordering::Relaxed);
        }
        logs.set_rules(config, Some(heads));
    }

    /// Returns the memory of the logs and their encoded blocks, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.counts().1
    }

    /// Returns the number of logs and their memory in bytes.
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.lock().map_or((0, 0), |logs| (logs.log_count(), logs.held_bytes() + self.blocks().held_bytes()))
    }
}

/// Recorder of what the engine's follower reads: into the kept logs, and the names of publications.
pub(crate) struct LogRecorder {
    pub(crate) kept: Arc<KeptStore>,
    pub(crate) dedupe: Dedupe,
    pub(crate) started: Instant,
    /// Wakes the loops.
    pub(crate) wake: Callback,
    /// Number of threads that wait for an event to be read.
    waiting: AtomicUsize,
    /// Locked while one of them looks whether it was.
    looking: Mutex<()>,
    changed: Condvar,
}

impl LogRecorder {
    pub(crate) fn new(kept: &Arc<KeptStore>, dedupe: Dedupe, started: Instant, wake: Callback) -> Self {
        Self {
            kept: Arc::clone(kept),
            dedupe,
            started,
            wake,
            waiting: AtomicUsize::new(0),
            looking: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Wakes the threads that wait for an entry to be read.
    fn notify_waiting(&self) {
        // Relaxed: the lock of the logs orders it after the number of one who looked in vain.
        if self.waiting.load(Ordering::Relaxed) > 0 {
            drop(lock(&self.looking));
            self.changed.notify_all();
        }
    }

    /// Returns whether an event was read.
    fn was_read(&self, id: EventId) -> bool {
        self.kept.lock().is_none_or(|logs| logs.next_place(id.shard) >= place_after(id))
    }
}

impl EntryRecorder for LogRecorder {
    fn wants_past(&self, shard: u16) -> Option<(LogPlace, Duration)> {
        // Relaxed: a setting on its own.
        let limit = Duration::from_millis(self.kept.read_timeout.load(Ordering::Relaxed));
        Some((self.kept.lock()?.next_place(shard), limit))
    }

    fn record(&self, event: &Event, stamp: Option<&str>) -> bool {
        let is_published = self.kept.lock().is_none_or(|mut logs| logs.record_followed(event, stamp));
        if let (true, Some(stamp), Some(id)) = (is_published, stamp, event.id()) {
            let tick = self.started.elapsed().as_millis() as u64 / TICK_MS;
            self.dedupe.learn((tick, Timestamp::now()), stamp, id);
        }
        // A publication that waits for it is settled afterwards.
        self.notify_waiting();
        is_published
    }

    fn record_other(&self, id: EventId, stamp: &str) -> bool {
        if !self.kept.purge_followed(id, stamp) {
            return false;
        }
        self.notify_waiting();
        (self.wake)();
        true
    }

    fn is_delivered(&self, id: EventId) -> bool {
        self.kept.lock().is_none_or(|logs| !logs.is_refused(id))
    }

    fn end_past(&self, places: &Places) {
        self.kept.end_past(places);
        // Also for the loops' clients, which may miss events before these places.
        (self.wake)();
    }

    fn await_read(&self, id: EventId, until: Instant) -> bool {
        // Relaxed: as above.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut looking = lock(&self.looking);
        let was_read = loop {
            if self.was_read(id) {
                break true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break false;
            }
            looking = self.changed.wait_timeout(looking, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(looking);
        // Relaxed: a number on its own.
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        was_read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept::{RetainBy, RetainRule};

    const EPOCH: u64 = 7;

    fn rules() -> RetainConfig {
        let rule = RetainRule::new("stream=run-*", RetainBy::Stream).expect("valid");
        RetainConfig { rules: vec![rule], ..RetainConfig::default() }
    }

    fn places(next: Sequence) -> Places {
        Places { epoch: EPOCH, next: vec![next], kept: None }
    }

    /// Returns the store of a node without rules.
    fn store() -> KeptStore {
        let store = KeptStore::new(&RetainConfig::default(), 1);
        store.follow_engine(16);
        store
    }

    fn next_place(store: &KeptStore) -> ShardPlace {
        store.lock().expect("it has rules").next_place(0)
    }

    #[test]
    fn the_first_rules_of_a_reload_begin_where_the_follower_is() {
        let store = store();
        assert!(store.end_past(&places(3)));
        store.set_rules(&rules(), &[(EPOCH, 40)]);
        // A follower that connects anew reads no past before the rules.
        assert_eq!((store.is_reading(), next_place(&store)), (false, (EPOCH, 40)));
        assert!(!store.end_past(&places(40)));
        assert_eq!(next_place(&store), (EPOCH, 40));
        let (filter, logs) = ("stream=run-1".parse::<Filter>().expect("valid"), store.lock());
        let is_covered =
            |oldest| logs.as_ref().is_some_and(|logs| logs.cover(std::slice::from_ref(&filter), |_| oldest));
        assert_eq!([is_covered((EPOCH, 39)), is_covered((EPOCH, 40))], [false, true]);
    }

    #[test]
    fn what_the_follower_skips_is_missing_from_the_logs_at_once() {
        let store = KeptStore::new(&rules(), 1);
        store.follow_engine(16);
        assert!(store.end_past(&places(0)));
        let event = |sequence| {
            let event = Event::builder("token").stream("run-1").build().expect("valid");
            event.set_id(EventId { epoch: EPOCH, shard: 0, sequence });
            event
        };
        let has_gap = || {
            let filter = ["stream=run-1".parse::<Filter>().expect("valid")];
            let cursor = store.lock().expect("it has rules").cursor(&filter, &[], Timestamp(0));
            cursor.expect("one log").has_gap()
        };
        assert!(store.lock().expect("it has rules").record_followed(&event(0), None));
        store.end_past(&places(1));
        assert!(!has_gap(), "it continues");
        store.end_past(&Places { epoch: EPOCH + 1, next: vec![0], kept: None });
        assert_eq!((next_place(&store), has_gap()), ((EPOCH + 1, 0), true));
    }

    #[test]
    fn rules_that_come_before_the_engine_is_reached_wait_for_its_past() {
        let store = store();
        store.set_rules(&rules(), &[]);
        assert!(store.is_reading());
        assert!(store.end_past(&places(3)));
        assert_eq!((store.is_reading(), next_place(&store)), (false, (EPOCH, 3)));
    }
}

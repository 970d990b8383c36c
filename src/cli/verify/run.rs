//! State and constants that the publisher and the readers of `fanwire verify` share.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::Ids;
use super::watch::WatchKeys;

/// Time for the readers to catch up once everything is published.
pub(super) const SETTLE: Duration = Duration::from_secs(15);
/// Time limit for all readers to connect for the first time.
pub(super) const GATHER: Duration = Duration::from_secs(15);
/// Type of the events for the readers.
pub(super) const EVENT_TYPE: &str = "fanwire.verify.event";
/// Hint for a server that refuses readers or events.
pub(super) const RIGHTS_HINT: &str =
    "With authentication, the token must be allowed to see and publish fanwire.verify.**";
/// Size of the filler text of an event.
const PAD_BYTES: usize = 64;
/// Size of the filler text of an event for the slow reader.
pub(super) const SLOW_PAD_BYTES: usize = 16 * 1024;
/// Number of different reasons for lost connections that are kept.
const NOTES_MAX: usize = 5;

/// Lag policy of the readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum VerifyOnLag {
    /// Read on from its place.
    #[value(name = "catch_up")]
    CatchUp,
    /// Read on from its place, with neighbours merged; the past after a reconnect is merged too.
    #[value(name = "concat")]
    Concat,
}

/// String of a payload by which events are merged.
pub(super) const CONCAT: &str = "/payload/pad";

impl VerifyOnLag {
    /// Returns the options of a subscription.
    pub(super) fn options(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::CatchUp => &[("on_lag", "catch_up")],
            Self::Concat => &[("on_lag", "concat"), ("compact", "concat"), ("concat", CONCAT)],
        }
    }
}

/// State that the threads of a run share.
pub(super) struct VerifyRun {
    /// Prefix of the run's streams. It distinguishes this run's events from another run's.
    name: String,
    pub(super) start: Instant,
    /// Lane of the slow reader.
    pub(super) slow_lane: Option<usize>,
    /// Keys of the events, if readers watch some of them.
    pub(super) keys: Option<WatchKeys>,
    /// Policy of the readers, if it is not the server's default.
    pub(super) on_lag: Option<VerifyOnLag>,
    progress: Mutex<RunProgress>,
    /// Reason why the server refuses the readers.
    pub(super) refusal: Mutex<Option<String>>,
    /// Reasons why connections were lost.
    pub(super) notes: Mutex<Vec<String>>,
    pub(super) ids: Ids,
}

/// Progress of a run.
struct RunProgress {
    /// Number of readers that have connected.
    ready: usize,
    is_published: bool,
    /// Time at which readers stop.
    deadline: Instant,
}

/// Locks a mutex, even after a panic of another thread.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VerifyRun {
    /// Creates a run that publishes for `seconds`. Its time starts now.
    pub(super) fn new(
        seed: u64,
        slow_lane: Option<usize>,
        keys: Option<WatchKeys>,
        on_lag: Option<VerifyOnLag>,
        seconds: u64,
    ) -> Self {
        let start = Instant::now();
        Self {
            name: format!("verify-{seed:x}-{}", std::process::id()),
            start,
            slow_lane,
            keys,
            on_lag,
            progress: Mutex::new(RunProgress {
                ready: 0,
                is_published: false,
                deadline: start + GATHER + Duration::from_secs(seconds) + SETTLE,
            }),
            refusal: Mutex::new(None),
            notes: Mutex::new(Vec::new()),
            ids: Ids::default(),
        }
    }

    /// Returns the stream of a lane. The events of a stream have one order.
    pub(super) fn stream(&self, lane: usize) -> String {
        format!("{}-{lane}", self.name)
    }

    /// Returns the key of an event. The slow reader gets its whole lane, without keys.
    pub(super) fn key(&self, lane: usize, n: u64, is_last: bool) -> Option<usize> {
        let keys = self.keys.filter(|_| self.slow_lane != Some(lane))?;
        Some(if is_last { keys.end() } else { keys.of(lane, n) })
    }

    /// Returns the numbers of the `count` newest events of a lane up to `n`, its last event or not, that a merge can contain:
    /// neighbours have one key.
    pub(super) fn mergeable(&self, lane: usize, (n, is_last): (u64, bool), count: u64) -> Vec<u64> {
        let key = self.key(lane, n, is_last);
        let has_key = |other: &u64| *other == n || self.key(lane, *other, false) == key;
        let mut numbers: Vec<u64> = (1..=n).rev().filter(has_key).take(count as usize).collect();
        numbers.reverse();
        numbers
    }

    pub(super) fn pad_bytes(&self, lane: usize) -> usize {
        if self.slow_lane == Some(lane) { SLOW_PAD_BYTES } else { PAD_BYTES }
    }

    pub(super) fn time_left(&self) -> Duration {
        lock(&self.progress).deadline.saturating_duration_since(Instant::now())
    }

    pub(super) fn is_past_deadline(&self) -> bool {
        self.time_left().is_zero()
    }

    pub(super) fn is_published(&self) -> bool {
        lock(&self.progress).is_published
    }

    /// Records that everything is published, and starts the readers' last time limit.
    pub(super) fn published(&self) {
        let mut progress = lock(&self.progress);
        progress.is_published = true;
        progress.deadline = Instant::now() + SETTLE;
    }

    pub(super) fn ready_count(&self) -> usize {
        lock(&self.progress).ready
    }

    pub(super) fn ready(&self) {
        lock(&self.progress).ready += 1;
    }

    pub(super) fn refuse(&self, why: &str) {
        lock(&self.refusal).get_or_insert_with(|| why.to_owned());
    }

    pub(super) fn record(&self, why: &str) {
        let mut notes = lock(&self.notes);
        if notes.len() < NOTES_MAX && !notes.iter().any(|note| note == why) {
            notes.push(why.to_owned());
        }
    }
}

/// Returns the filler text of a numbered event. It depends on the number alone, so a reader can detect a change.
pub(super) fn pad(n: u64, bytes: usize) -> String {
    let word = format!("{:016x}.", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word.chars().cycle().take(bytes).collect()
}

/// Sleeps until an instant.
pub(super) fn sleep_until(instant: Instant) {
    std::thread::sleep(instant.saturating_duration_since(Instant::now()));
}

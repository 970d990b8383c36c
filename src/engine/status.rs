//! Health of the log according to the engine's threads, for `/readyz`, `/api/stats` and `/metrics`.
//!
//! Invariant: following and appending are reported separately, and each counts as healthy only after an operation
//! succeeded.

use std::sync::Arc;

use super::error::EngineError;
use super::history::LogPlace;
use super::log::Places;
use super::pause::FollowerPause;
use crate::event::Sequence;
use crate::metrics::Metrics;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, lock};

/// Reason why one side is not healthy.
#[derive(Clone, Debug)]
struct Outage {
    /// Text for `/readyz`.
    status: &'static str,
    error: String,
}

/// Health of following or of appending.
#[derive(Debug)]
struct Side(Mutex<Option<Outage>>);

impl Side {
    fn new() -> Self {
        let outage = Outage { status: "the log was not reached yet", error: String::new() };
        Self(Mutex::new(Some(outage)))
    }

    /// Records success and returns whether the side was unhealthy before.
    fn record_success(&self) -> bool {
        lock(&self.0).take().is_some()
    }

    /// Records a failure and returns whether the side was healthy before.
    fn record_failure(&self, error: &EngineError) -> bool {
        let outage = Outage { status: error.status(), error: error.to_string() };
        lock(&self.0).replace(outage).is_none()
    }

    fn outage(&self) -> Option<Outage> {
        lock(&self.0).clone()
    }
}

/// Reason why new clients should not connect to this node now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotReady {
    pub(crate) status: &'static str,
    /// Whether published events reach clients.
    pub(crate) readers: bool,
    /// Whether the log accepts events.
    pub(crate) publishers: bool,
}

/// Shared report of the engine's threads.
#[derive(Debug)]
pub(crate) struct Status {
    pub(super) metrics: Arc<Metrics>,
    pub(super) pause: FollowerPause,
    following: Side,
    appending: Side,
    epoch: AtomicU64,
    /// Places at which the follower first reached the log.
    began: Mutex<Option<Places>>,
    /// Epoch in which the follower first reached the log's end; 0 before.
    caught_up: AtomicU64,
}

impl Status {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        Self {
            metrics: Arc::clone(metrics),
            pause: FollowerPause::default(),
            following: Side::new(),
            appending: Side::new(),
            epoch: AtomicU64::new(0),
            began: Mutex::new(None),
            caught_up: AtomicU64::new(0),
        }
    }

    /// Returns whether the log is being followed, so that clients see events of other nodes.
    pub(crate) fn is_following(&self) -> bool {
        self.following.outage().is_none()
    }

    /// Returns whether the log accepts events, by the last append or probe.
    pub(crate) fn is_appending(&self) -> bool {
        self.appending.outage().is_none()
    }

    /// Returns why the node is not ready for readers or publishers.
    pub(crate) fn not_ready(&self) -> Option<NotReady> {
        let (following, appending) = (self.following.outage(), self.appending.outage());
        let (readers, publishers) = (following.is_none(), appending.is_none());
        // The appending side has priority: only an append detects that the log is full or read-only.
        let status = appending.or(following)?.status;
        Some(NotReady { status, readers, publishers })
    }

    /// Returns the epoch of the log.
    pub(crate) fn epoch(&self) -> u64 {
        // Relaxed, here and below: an informational value that orders nothing.
        self.epoch.load(Ordering::Relaxed)
    }

    /// Returns the last error; empty if there was none, or the engine has recovered.
    pub(crate) fn last_error(&self) -> String {
        let outage = self.following.outage().filter(|outage| !outage.error.is_empty());
        outage.or_else(|| self.appending.outage()).map(|outage| outage.error).unwrap_or_default()
    }

    /// Returns whether the follower has ever reached the log.
    pub(crate) fn is_attached(&self) -> bool {
        lock(&self.began).is_some()
    }

    /// Returns the place at which the follower began in a shard, or `None` before it reached the log.
    pub(crate) fn began_at(&self, shard: u16) -> Option<Sequence> {
        lock(&self.began).as_ref()?.next.get(usize::from(shard)).copied()
    }

    /// Returns the place at which the follower began in a shard; the beginning before it reached the log.
    pub(crate) fn began_at_place(&self, shard: u16) -> LogPlace {
        let began = lock(&self.began);
        let place =
            began.as_ref().and_then(|began| Some((began.epoch, *began.next.get(usize::from(shard))?)));
        place.unwrap_or_default()
    }

    /// Returns the place of the first entry that the node was to read of a shard, for its first event, which is of this epoch. Returns
    /// `None` if the entries before that event may be older than the node's first connection to the log: then none of its clients
    /// was to receive them.
    pub(crate) fn first_due(&self, shard: u16, epoch: u64) -> Option<LogPlace> {
        let began = self.began_at_place(shard);
        // Relaxed: it was set before the log went on to another epoch, whose events are read later.
        let caught_up = self.caught_up.load(Ordering::Relaxed);
        let has_ended = caught_up > 0 && epoch > caught_up;
        (began.0 > 0 && (began.0 == epoch || has_ended)).then_some(began)
    }

    pub(super) fn set_attached(&self, places: &Places) {
        lock(&self.began).get_or_insert_with(|| places.clone());
        // Relaxed: as where it is read.
        self.epoch.store(places.epoch, Ordering::Relaxed);
    }

    pub(super) fn set_following(&self) {
        self.following.record_success();
        self.metrics.engine_following.set(1);
        // Relaxed: as where it is read. The follower's thread alone sets it.
        if self.caught_up.load(Ordering::Relaxed) == 0 {
            self.caught_up.store(self.epoch(), Ordering::Relaxed);
        }
    }

    /// Records that following failed. Returns whether it worked until now.
    pub(super) fn lost_following(&self, error: &EngineError) -> bool {
        let was = self.following.record_failure(error);
        self.metrics.engine_following.set(0);
        self.metrics.engine_losses.inc_by(was.into());
        was
    }

    pub(super) fn set_appending(&self) {
        if self.appending.record_success() {
            self.metrics.engine_appending.set(1);
            tracing::info!("the engine takes events");
        }
    }

    /// Records that appending failed. Returns whether it worked until now, or failed for another reason.
    pub(super) fn lost_appending(&self, error: &EngineError) -> bool {
        let before = self.appending.outage();
        let was = self.appending.record_failure(error);
        self.metrics.engine_appending.set(0);
        self.metrics.engine_losses.inc_by(was.into());
        was || before.is_some_and(|before| before.status != error.status())
    }

    /// Records that the engine can't work at all.
    pub(super) fn failed(&self, error: &EngineError) {
        self.lost_following(error);
        self.lost_appending(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_that_is_due_is_where_the_follower_began_unless_the_log_had_ended_epochs() {
        let status = Status::new(&Arc::default());
        assert_eq!(status.first_due(0, 5), None);
        status.set_attached(&Places { epoch: 5, next: vec![3], kept: None });
        assert_eq!([status.first_due(0, 5), status.first_due(0, 6)], [Some((5, 3)), None]);
        // The log had a second epoch when the node reached it.
        status.set_attached(&Places { epoch: 6, next: vec![0], kept: None });
        status.set_following();
        assert_eq!([status.first_due(0, 6), status.first_due(0, 7)], [None, Some((5, 3))]);
    }

    #[test]
    fn a_node_is_ready_once_both_sides_were_found_to_be_well() {
        let status = Status::new(&Arc::default());
        let reported = |status: &Status| status.not_ready().map(|not| (not.readers, not.publishers));
        assert_eq!(reported(&status), Some((false, false)));
        status.set_following();
        assert_eq!(reported(&status), Some((true, false)));
        status.set_appending();
        assert_eq!(reported(&status), None);
        assert!(status.lost_appending(&EngineError::TakesNothing("full".to_owned())));
        assert!(!status.lost_appending(&EngineError::TakesNothing("full".to_owned())));
        let not = status.not_ready().expect("it takes nothing");
        assert_eq!((not.status, not.readers, not.publishers), ("the log takes nothing", true, false));
        assert!(status.last_error().contains("full"));
        assert!(status.lost_appending(&EngineError::Unreachable("gone".to_owned())), "another reason");
        status.set_appending();
        assert_eq!((reported(&status), status.last_error()), (None, String::new()));
    }
}

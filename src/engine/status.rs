//! What the engine's threads tell of the log: `/readyz`, `/api/stats` and `/metrics` show it.
//!
//! Imports its siblings. Always: readers and publishers are told apart, and each side counts as well only once the log was
//! found to be.

use std::sync::Arc;

use super::error::EngineError;
use super::log::Places;
use super::pause::FollowerPause;
use crate::event::Sequence;
use crate::metrics::Metrics;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, lock};

/// Why a side is not well.
#[derive(Clone, Debug)]
struct Trouble {
    /// For `/readyz`.
    status: &'static str,
    error: String,
}

/// What following or appending is like.
#[derive(Debug)]
struct Side(Mutex<Option<Trouble>>);

impl Side {
    fn new() -> Self {
        let trouble = Trouble { status: "the log was not reached yet", error: String::new() };
        Self(Mutex::new(Some(trouble)))
    }

    /// Returns whether it was not well until now.
    fn is_well_now(&self) -> bool {
        lock(&self.0).take().is_some()
    }

    /// Returns whether it was well until now.
    fn is_ill_now(&self, error: &EngineError) -> bool {
        let trouble = Trouble { status: error.status(), error: error.to_string() };
        lock(&self.0).replace(trouble).is_none()
    }

    fn trouble(&self) -> Option<Trouble> {
        lock(&self.0).clone()
    }
}

/// Why new clients would be wrong here for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotReady {
    pub(crate) status: &'static str,
    /// Whether events that are published come to clients.
    pub(crate) readers: bool,
    /// Whether events are taken.
    pub(crate) publishers: bool,
}

/// What the threads tell.
#[derive(Debug)]
pub(crate) struct Status {
    pub(super) metrics: Arc<Metrics>,
    pub(super) pause: FollowerPause,
    following: Side,
    appending: Side,
    epoch: AtomicU64,
    /// Where the follower began, in each shard, when it reached the log for the first time.
    began: Mutex<Option<Places>>,
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
        }
    }

    /// Whether the log is being followed, so that clients see what other nodes publish.
    pub(crate) fn is_following(&self) -> bool {
        self.following.trouble().is_none()
    }

    /// Whether the log takes events, as far as the last one or the last probe says.
    pub(crate) fn is_appending(&self) -> bool {
        self.appending.trouble().is_none()
    }

    /// Returns why the node is not ready for readers or publishers.
    pub(crate) fn not_ready(&self) -> Option<NotReady> {
        let (following, appending) = (self.following.trouble(), self.appending.trouble());
        let (readers, publishers) = (following.is_none(), appending.is_none());
        // Appending says more: that the log is full or read-only is seen there only.
        let status = appending.or(following)?.status;
        Some(NotReady { status, readers, publishers })
    }

    /// The life that the log is in.
    pub(crate) fn epoch(&self) -> u64 {
        // Relaxed, here and below: something to look at, nothing hangs on its order.
        self.epoch.load(Ordering::Relaxed)
    }

    /// What went wrong last; empty where nothing did, or where all is well again.
    pub(crate) fn last_error(&self) -> String {
        let trouble = self.following.trouble().filter(|trouble| !trouble.error.is_empty());
        trouble.or_else(|| self.appending.trouble()).map(|trouble| trouble.error).unwrap_or_default()
    }

    /// Returns where the follower began in a shard; none before the log was reached.
    pub(crate) fn began_at(&self, shard: u16) -> Option<Sequence> {
        lock(&self.began).as_ref()?.next.get(usize::from(shard)).copied()
    }

    pub(super) fn attached(&self, places: &Places) {
        lock(&self.began).get_or_insert_with(|| places.clone());
        // Relaxed: as where it is read.
        self.epoch.store(places.epoch, Ordering::Relaxed);
    }

    pub(super) fn follows(&self) {
        self.following.is_well_now();
        self.metrics.engine_following.set(1);
    }

    /// The log can't be followed; true where it could be until now.
    pub(super) fn lost_following(&self, error: &EngineError) -> bool {
        let was = self.following.is_ill_now(error);
        self.metrics.engine_following.set(0);
        self.metrics.engine_losses.inc_by(was.into());
        was
    }

    pub(super) fn appends(&self) {
        if self.appending.is_well_now() {
            self.metrics.engine_appending.set(1);
            tracing::info!("the engine takes events");
        }
    }

    /// The log can't be appended to; true where it could be until now, or for another reason.
    pub(super) fn lost_appending(&self, error: &EngineError) -> bool {
        let before = self.appending.trouble();
        let was = self.appending.is_ill_now(error);
        self.metrics.engine_appending.set(0);
        self.metrics.engine_losses.inc_by(was.into());
        was || before.is_some_and(|before| before.status != error.status())
    }

    /// The engine can't work at all.
    pub(super) fn failed(&self, error: &EngineError) {
        self.lost_following(error);
        self.lost_appending(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_once_both_sides_were_found_to_be_well() {
        let status = Status::new(&Arc::default());
        let told = |status: &Status| status.not_ready().map(|not| (not.readers, not.publishers));
        assert_eq!(told(&status), Some((false, false)));
        status.follows();
        assert_eq!(told(&status), Some((true, false)));
        status.appends();
        assert_eq!(told(&status), None);
        assert!(status.lost_appending(&EngineError::TakesNothing("full".to_owned())));
        assert!(!status.lost_appending(&EngineError::TakesNothing("full".to_owned())));
        let not = status.not_ready().expect("it takes nothing");
        assert_eq!((not.status, not.readers, not.publishers), ("the log takes nothing", true, false));
        assert!(status.last_error().contains("full"));
        assert!(status.lost_appending(&EngineError::Unreachable("gone".to_owned())), "another reason");
        status.appends();
        assert_eq!((told(&status), status.last_error()), (None, String::new()));
    }
}

//! Health of the log according to the engine's threads, for `/readyz`, `/api/stats` and `/metrics`.
//!
//! Invariant: following and appending are reported separately, and each counts as healthy only after an operation
//! succeeded.

use std::sync::Arc;

use super::error::EngineError;
use super::history::LogPlace;
use super::log::{FollowStart, Places};
use super::pause::FollowerPause;
use crate::event::{EventId, Sequence};
use crate::metrics::Metrics;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// Place at which the follower continued although it had not read everything before: its clients may miss events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogBreak {
    /// Number of breaks up to this one.
    pub(crate) count: u64,
    pub(crate) places: Places,
}

/// Shared report of the engine's threads.
#[derive(Debug)]
pub(crate) struct Status {
    pub(super) metrics: Arc<Metrics>,
    pub(super) pause: FollowerPause,
    following: Side,
    appending: Side,
    epoch: AtomicU64,
    /// Places at which the follower began, and the log's end at that time.
    began: Mutex<Option<FollowStart>>,
    /// Whether that was a break.
    began_with_break: AtomicBool,
    /// Number of breaks, readable without the lock.
    breaks: AtomicU64,
    newest_break: Mutex<Option<LogBreak>>,
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
            began_with_break: AtomicBool::new(false),
            breaks: AtomicU64::new(0),
            newest_break: Mutex::new(None),
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
        lock(&self.began).as_ref()?.places.next.get(usize::from(shard)).copied()
    }

    /// Returns the place at which the follower began in a shard; the beginning before it reached the log.
    pub(crate) fn began_at_place(&self, shard: u16) -> LogPlace {
        let began = lock(&self.began);
        began.as_ref().and_then(|began| place_of(&began.places, shard)).unwrap_or_default()
    }

    /// Returns the place of the first entry that the node was to read of a shard, for its first event. Returns `None` if the entries
    /// before that event were in the log when the node first reached it, in an epoch after the one in which it began to read:
    /// no client that has joined since was to receive them.
    pub(crate) fn first_due(&self, first: EventId) -> Option<LogPlace> {
        let began = lock(&self.began);
        let FollowStart { places, end } = began.as_ref()?;
        let (from, end) = (place_of(places, first.shard)?, place_of(end, first.shard)?);
        match first.epoch {
            epoch if epoch == from.0 => Some(from),
            // That epoch began later, so the one before it has ended, with entries that were to be read.
            epoch if epoch > end.0 => Some(from),
            epoch if epoch == end.0 => Some(end).filter(|_| first.sequence > end.1),
            _ => None,
        }
    }

    /// Returns the number of breaks so far. Events that are read from the bus before the number changes come before the break.
    pub(crate) fn breaks(&self) -> u64 {
        // Acquire: pairs with the Release below. Events published before the break are in the rings then.
        self.breaks.load(Ordering::Acquire)
    }

    /// Returns whether the place at which the follower began is the first break. To be called after an event was read.
    pub(crate) fn began_with_break(&self) -> bool {
        // Relaxed: it was set before any event was published.
        self.began_with_break.load(Ordering::Relaxed)
    }

    /// Returns the newest break.
    pub(crate) fn newest_break(&self) -> Option<LogBreak> {
        lock(&self.newest_break).clone()
    }

    /// Records that the follower continues at a place, after it had read up to `read`. `is_alone`: no other process appends.
    pub(super) fn set_attached(&self, start: &FollowStart, read: Option<&Places>, is_alone: bool) {
        let places = &start.places;
        lock(&self.began).get_or_insert_with(|| match read {
            // A predecessor's clients were to receive everything after its places.
            Some(read) => FollowStart { places: read.clone(), end: read.clone() },
            None => start.clone(),
        });
        // Relaxed: as where it is read.
        self.epoch.store(places.epoch, Ordering::Relaxed);
        let continues = match read {
            Some(read) => (read.epoch, &read.next) == (places.epoch, &places.next),
            // Other nodes may have published before these places while clients were connected here.
            None => is_alone,
        };
        if !continues {
            let mut newest = lock(&self.newest_break);
            let count = newest.as_ref().map_or(0, |newest| newest.count) + 1;
            if read.is_none() {
                // Relaxed: as where it is read.
                self.began_with_break.store(true, Ordering::Relaxed);
            }
            *newest = Some(LogBreak { count, places: places.clone() });
            // Release: pairs with the Acquire above.
            self.breaks.store(count, Ordering::Release);
        }
    }

    pub(super) fn set_following(&self) {
        self.following.record_success();
        self.metrics.engine_following.set(1);
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

/// Returns the place in a shard.
fn place_of(places: &Places, shard: u16) -> Option<LogPlace> {
    Some((places.epoch, *places.next.get(usize::from(shard))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(epoch: u64, next: Sequence) -> Places {
        Places { epoch, next: vec![next], kept: None }
    }

    fn start(from: (u64, Sequence), end: (u64, Sequence)) -> FollowStart {
        FollowStart { places: places(from.0, from.1), end: places(end.0, end.1) }
    }

    fn due(status: &Status, epoch: u64, sequence: Sequence) -> Option<LogPlace> {
        status.first_due(EventId { epoch, shard: 0, sequence })
    }

    #[test]
    fn the_first_entry_that_is_due_is_where_the_follower_began_unless_the_log_had_ended_epochs() {
        let status = Status::new(&Arc::default());
        assert_eq!(due(&status, 5, 9), None);
        // The log had two epochs when the node reached it.
        status.set_attached(&start((5, 3), (6, 4)), None, false);
        assert_eq!([due(&status, 5, 3), due(&status, 5, 9)], [Some((5, 3)); 2]);
        assert_eq!([due(&status, 6, 0), due(&status, 6, 4)], [None; 2]);
        // Entries that came later and that the log has forgotten before they were read.
        assert_eq!(due(&status, 6, 9), Some((6, 4)));
        // An epoch that began later, also if the node never came to the end of the one before.
        assert_eq!(due(&status, 7, 0), Some((5, 3)));
    }

    #[test]
    fn a_successor_is_to_read_everything_after_the_places_of_its_predecessor() {
        let status = Status::new(&Arc::default());
        status.set_attached(&start((5, 3), (5, 9)), Some(&places(5, 3)), false);
        assert_eq!((status.breaks(), due(&status, 5, 9)), (0, Some((5, 3))));
        // The log began another epoch during the handover.
        let status = Status::new(&Arc::default());
        status.set_attached(&start((6, 0), (6, 2)), Some(&places(5, 3)), false);
        assert_eq!((status.breaks(), due(&status, 6, 0)), (1, Some((5, 3))));
    }

    #[test]
    fn a_follower_that_does_not_continue_where_it_was_is_a_break() {
        let status = Status::new(&Arc::default());
        let attached = |from: (u64, Sequence), read: Option<Places>, is_alone| {
            status.set_attached(&start(from, from), read.as_ref(), is_alone);
            status.breaks()
        };
        assert_eq!(attached((5, 3), None, true), 0, "nobody else appends");
        assert_eq!(attached((5, 3), None, false), 1, "other nodes may have");
        assert_eq!(attached((5, 7), Some(places(5, 7)), false), 1, "connected anew");
        assert_eq!(attached((6, 0), Some(places(5, 7)), true), 2, "another epoch");
        assert_eq!(status.newest_break(), Some(LogBreak { count: 2, places: places(6, 0) }));
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

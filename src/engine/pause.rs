//! Pauses the follower between two events, while the node hands its state to another process.
//!
//! Invariant: while paused, every event before the reported places is on the bus, and none after them.

use std::sync::{Condvar, PoisonError};
use std::time::Duration;

use super::log::Places;
use crate::sync::{Mutex, lock};

/// Interval at which a paused follower checks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
struct PauseState {
    is_closed: bool,
    /// Places up to which the follower has published.
    places: Option<Places>,
}

/// Switch that pauses the follower.
#[derive(Debug, Default)]
pub(super) struct FollowerPause {
    state: Mutex<PauseState>,
    changed: Condvar,
}

impl FollowerPause {
    /// Publishes the event after which the follower is at `places`, once the follower is not paused. Does nothing if
    /// the follower has to end first. Blocks while paused.
    pub(super) fn pass(&self, places: &Places, is_over: impl Fn() -> bool, publish: impl FnOnce()) {
        let mut state = lock(&self.state);
        while state.is_closed {
            if is_over() {
                return;
            }
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        publish();
        match &mut state.places {
            Some(known) => known.clone_from(places),
            none => *none = Some(places.clone()),
        }
    }

    /// Calls `act` with the follower's places, while the follower publishes nothing. They are `None` before it has reached the log.
    pub(super) fn at_places<T>(&self, act: impl FnOnce(Option<&Places>) -> T) -> T {
        act(lock(&self.state).places.as_ref())
    }

    /// Pauses the follower and returns its places, or `None` if it has not reached the log yet.
    pub(super) fn close(&self) -> Option<Places> {
        let mut state = lock(&self.state);
        state.is_closed = true;
        state.places.clone()
    }

    pub(super) fn open(&self) {
        lock(&self.state).is_closed = false;
        self.changed.notify_all();
    }
}

//! Where the follower can be held up between two events, while all that this node has goes to another process.
//!
//! Imports its siblings. Always: where the gate is closed, every event before the places that it names is on the bus,
//! and none behind.

use std::sync::{Condvar, PoisonError};
use std::time::Duration;

use super::log::Places;
use crate::sync::{Mutex, lock};

/// How often a follower that is held up looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
struct PauseState {
    is_closed: bool,
    /// Where the follower stands.
    places: Option<Places>,
}

/// The gate.
#[derive(Debug, Default)]
pub(super) struct FollowerPause {
    state: Mutex<PauseState>,
    changed: Condvar,
}

impl FollowerPause {
    /// Publishes what leads to these places, when the gate is open; never where the follower is to end first.
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

    /// Nothing is published from here on. The places, once the log was reached.
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

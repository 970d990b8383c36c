//! How the loops of a server stand still together while its clients are given away.
//!
//! Invariants:
//! - Every loop that came to a muster leaves it by the decision, which its caller makes at a deadline at the latest, also
//!   where the caller panics.
//! - Between the packing and the decision no loop touches a socket.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, PoisonError};
use std::time::Instant;

use serde_json::value::RawValue;

use crate::sync::{Mutex, lock};

/// Parcels that wait for the wire.
const PARCELS_MAX: usize = 128;

/// What a loop gives.
pub(crate) enum Parcel {
    Listener(OwnedFd),
    /// A client as JSON, and its socket.
    Client(Box<RawValue>, OwnedFd),
    Failed(io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Gathering,
    Packing,
    /// Whether the clients are another's now.
    Decided(bool),
}

#[derive(Debug)]
struct State {
    phase: Phase,
    arrived: usize,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    loops: usize,
    /// When all of it ends, with or without a successor.
    until: Instant,
    /// Each loop takes one with it; who called the muster reads until all are gone.
    parcels: Mutex<Option<SyncSender<Parcel>>>,
}

/// Calls all loops together. The loops' handle.
#[derive(Clone, Debug)]
pub(crate) struct Muster(Arc<Inner>);

impl Muster {
    pub(crate) fn new(loops: usize, until: Instant) -> (Self, Receiver<Parcel>) {
        let (sender, receiver) = sync_channel(PARCELS_MAX);
        let state = Mutex::new(State { phase: Phase::Gathering, arrived: 0 });
        let inner = Inner { state, changed: Condvar::new(), loops, until, parcels: Mutex::new(Some(sender)) };
        (Self(Arc::new(inner)), receiver)
    }

    /// Waits until every loop stands still.
    pub(crate) fn wait_for_all(&self) -> io::Result<()> {
        let mut state = lock(&self.0.state);
        while state.arrived < self.0.loops {
            let left = self.0.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    fn set(&self, phase: Phase) {
        lock(&self.0.state).phase = phase;
        self.0.changed.notify_all();
    }

    /// Has the loops pack.
    pub(crate) fn pack(&self) {
        self.set(Phase::Packing);
    }

    /// Tells the loops whether what they packed is another's now. The first decision counts.
    pub(crate) fn decide(&self, given: bool) {
        // Loops that have not come yet are not to wait for a reader that is gone.
        lock(&self.0.parcels).take();
        let mut state = lock(&self.0.state);
        if !matches!(state.phase, Phase::Decided(_)) {
            state.phase = Phase::Decided(given);
        }
        drop(state);
        self.0.changed.notify_all();
    }

    /// A loop stands still from here on; none to give to where the muster was called off. Blocks until all do.
    pub(crate) fn arrive(&self) -> Option<SyncSender<Parcel>> {
        let mut state = lock(&self.0.state);
        state.arrived += 1;
        self.0.changed.notify_all();
        while state.phase == Phase::Gathering {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let is_on = state.phase == Phase::Packing;
        drop(state);
        let mut parcels = lock(&self.0.parcels);
        if !is_on {
            return None;
        }
        let own = parcels.clone();
        let mut state = lock(&self.0.state);
        state.arrived -= 1;
        if state.arrived == 0 {
            // The last one: the reader's end comes when all have given what they have.
            parcels.take();
        }
        own
    }

    /// Waits for the decision: whether what was packed is another's now. Blocks.
    pub(crate) fn decision(&self) -> bool {
        let mut state = lock(&self.0.state);
        loop {
            if let Phase::Decided(given) = state.phase {
                return given;
            }
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

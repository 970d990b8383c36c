//! The barrier at which the loops of a server stop together while its clients are handed over.
//!
//! Invariants:
//! - Every loop that arrives at a barrier leaves it at the decision. The caller decides by a deadline, even if it
//!   panics.
//! - Between packing and the decision no loop touches a socket.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, PoisonError};
use std::time::Instant;

use serde_json::value::RawValue;

use crate::sync::{Mutex, lock};

/// Maximum number of parcels that wait to be sent.
const PARCELS_MAX: usize = 128;

/// Item that a loop hands over.
pub(crate) enum Parcel {
    Listener(OwnedFd),
    /// Client as JSON, and its socket.
    Client(Box<RawValue>, OwnedFd),
    Failed(io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Gathering,
    Packing,
    /// Decided; `true` if the clients were handed over.
    Decided(bool),
}

#[derive(Debug)]
struct BarrierState {
    phase: Phase,
    arrived: usize,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<BarrierState>,
    changed: Condvar,
    loops: usize,
    /// Deadline of the handover, with or without a successor.
    until: Instant,
    /// Whether the successor continues for clients that catch up.
    moves_catch_ups: bool,
    /// Sender that each loop takes a clone of. The caller reads until all clones are gone.
    parcels: Mutex<Option<SyncSender<Parcel>>>,
}

/// Loops' handle of a barrier that stops all loops.
#[derive(Clone, Debug)]
pub(crate) struct HandoverBarrier(Arc<Inner>);

impl HandoverBarrier {
    pub(crate) fn new(loops: usize, until: Instant, moves_catch_ups: bool) -> (Self, Receiver<Parcel>) {
        let (sender, receiver) = sync_channel(PARCELS_MAX);
        let state = Mutex::new(BarrierState { phase: Phase::Gathering, arrived: 0 });
        let inner = Inner {
            state,
            changed: Condvar::new(),
            loops,
            until,
            parcels: Mutex::new(Some(sender)),
            moves_catch_ups,
        };
        (Self(Arc::new(inner)), receiver)
    }

    /// Returns whether the successor continues for clients that catch up.
    pub(crate) fn moves_catch_ups(&self) -> bool {
        self.0.moves_catch_ups
    }

    /// Waits until every loop has stopped. Blocks.
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

    /// Asks the loops to pack their clients.
    pub(crate) fn pack(&self) {
        self.set(Phase::Packing);
    }

    /// Decides for the loops whether their clients were handed over. The first decision counts.
    pub(crate) fn decide(&self, given: bool) {
        // Loops that have not arrived yet must not wait for a receiver that is gone.
        lock(&self.0.parcels).take();
        let mut state = lock(&self.0.state);
        if !matches!(state.phase, Phase::Decided(_)) {
            state.phase = Phase::Decided(given);
        }
        drop(state);
        self.0.changed.notify_all();
    }

    /// Stops a loop until all have stopped. Returns the sender for its parcels, or `None` if the handover was called
    /// off. Blocks.
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
            // The last loop: the reader ends when all have sent their parcels.
            parcels.take();
        }
        own
    }

    /// Waits for the decision and returns whether the clients were handed over. Blocks.
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

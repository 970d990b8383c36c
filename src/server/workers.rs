//! Threads for slow work, so that no loop waits: bridge handlers, long bodies, messages to other nodes.
//!
//! Always: jobs wait only for jobs of their own lane, so that slow or endless jobs delay no other lane. A lane limits
//! its threads and waiting jobs, and refuses further jobs. An idle thread ends after a few seconds.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, PoisonError};
use std::time::Duration;

use crate::held::{Charge, HeldBytes};
use crate::sync::{Mutex, lock};
use crate::threads::{self, Alarm, CaughtPanic, catch_panic};

/// Work of a thread. The job passes its result on by itself.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Memory of a job without its own bytes.
const JOB_BYTES: usize = size_of::<(Job, Charge)>() + 256;

/// Time that an idle thread waits for another job.
const IDLE: Duration = Duration::from_secs(5);

/// Limits of a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneLimits {
    pub(crate) threads: usize,
    pub(crate) waiting: usize,
    /// Maximum bytes of the waiting jobs. A single waiting job is accepted regardless of its size. Running jobs do not count:
    /// there are at most as many as threads, and a publisher may send its next body before the job that answered it has
    /// ended.
    pub(crate) bytes: usize,
}

#[derive(Default)]
struct Lane {
    state: Mutex<LaneState>,
    more: Condvar,
}

#[derive(Default)]
struct LaneState {
    waiting: VecDeque<(Job, Charge)>,
    /// Bytes of the waiting jobs.
    bytes: usize,
    threads: usize,
    idle: usize,
}

/// Lanes of a server, by name. They are never removed, so a client must not choose their names.
#[derive(Default)]
pub(crate) struct Workers {
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
    alarm: Alarm,
    held: HeldBytes,
    /// Whether jobs run in the thread that submits them, for tests with one thread.
    #[cfg(any(test, fuzzing))]
    is_inline: crate::sync::atomic::AtomicBool,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Workers")
    }
}

/// Error: the lane is full, or no thread could be started.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Busy;

impl Workers {
    /// Returns workers without lanes. The jobs' bytes are charged to `held`.
    pub(crate) fn new(alarm: &Alarm, held: &HeldBytes) -> Self {
        Self { alarm: alarm.clone(), held: held.clone(), ..Self::default() }
    }

    /// Runs jobs in the thread that submits them from now on.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn work_inline(&self) {
        // Relaxed: one thread sets and reads it.
        self.is_inline.store(true, crate::sync::atomic::Ordering::Relaxed);
    }

    /// Queues a job with this many bytes for a thread of this lane. Does not block.
    pub(crate) fn submit(&self, lane: &str, limits: LaneLimits, bytes: usize, job: Job) -> Result<(), Busy> {
        #[cfg(any(test, fuzzing))]
        if self.is_inline.load(crate::sync::atomic::Ordering::Relaxed) {
            job();
            return Ok(());
        }
        let lane = {
            let mut lanes = lock(&self.lanes);
            match lanes.get(lane) {
                Some(known) => Arc::clone(known),
                None => Arc::clone(lanes.entry(lane.to_owned()).or_default()),
            }
        };
        let mut state = lock(&lane.state);
        let is_heavy = state.bytes > 0 && state.bytes.saturating_add(bytes) > limits.bytes;
        if state.waiting.len() >= limits.waiting || is_heavy {
            return Err(Busy);
        }
        if state.waiting.len() >= state.idle && state.threads < limits.threads {
            let own = Arc::clone(&lane);
            let made = threads::spawn("fanwire-worker", &self.alarm, move || own.work());
            match made {
                Ok(_) => state.threads += 1,
                Err(_) if state.threads == 0 => return Err(Busy),
                Err(_) => {}
            }
        }
        state.bytes += bytes;
        state.waiting.push_back((job, self.held.charge(bytes + JOB_BYTES)));
        drop(state);
        lane.more.notify_one();
        Ok(())
    }
}

impl Lane {
    fn work(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some((job, charge)) = state.waiting.pop_front() {
                state.bytes = state.bytes.saturating_sub(charge.bytes() - JOB_BYTES);
                drop(state);
                threads::fault_point();
                // The client of a job that panics is answered when its wait times out.
                if let Err(CaughtPanic { message, place }) = catch_panic(job) {
                    tracing::error!(message, place, "a job panicked, and its thread continues");
                }
                drop(charge);
                state = lock(&self.state);
                continue;
            }
            state.idle += 1;
            let waited = self.more.wait_timeout(state, IDLE);
            let (next, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = next;
            state.idle -= 1;
            if timeout.timed_out() && state.waiting.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const LIMITS: LaneLimits = LaneLimits { threads: 2, waiting: 3, bytes: 100 };

    #[test]
    fn a_lane_that_hangs_delays_no_other_and_refuses_work_beyond_its_limit() {
        let workers = Workers::default();
        let (release, hold) = channel::<()>();
        let hold = Arc::new(Mutex::new(hold));
        let (begun, begins) = channel();
        for _ in 0..2 {
            let (hold, begun) = (Arc::clone(&hold), begun.clone());
            let job = move || {
                begun.send(()).expect("the test listens");
                let _ = lock(&hold).recv();
            };
            workers.submit("slow", LIMITS, 0, Box::new(job)).expect("room");
        }
        (0..2).for_each(|_| begins.recv().expect("both run"));
        let (done, ends) = channel();
        for n in 0..3 {
            let done = done.clone();
            let job = move || done.send(n).expect("the test listens");
            workers.submit("slow", LIMITS, 0, Box::new(job)).expect("it waits");
        }
        assert_eq!(workers.submit("slow", LIMITS, 0, Box::new(|| {})), Err(Busy));
        assert!(workers.held.bytes() >= 3 * JOB_BYTES);
        let (quick, receiver) = channel();
        workers.submit("quick", LIMITS, 0, Box::new(move || quick.send(()).expect("heard"))).expect("room");
        receiver.recv().expect("the other lane goes on");
        assert!(ends.try_recv().is_err(), "the slow lane is still held up");
        drop(release);
        let mut all: Vec<i32> = (0..3).map(|_| ends.recv().expect("done")).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2], "nothing was lost");
    }

    #[test]
    fn a_job_that_panics_ends_no_thread() {
        let workers = Workers::default();
        let one = LaneLimits { threads: 1, waiting: 10, bytes: 100 };
        workers.submit("x", one, 0, Box::new(|| panic!("as a test wants it"))).expect("room");
        let (done, ends) = channel();
        workers.submit("x", one, 0, Box::new(move || done.send(()).expect("heard"))).expect("room");
        ends.recv().expect("the same thread goes on");
    }

    #[test]
    fn a_lane_refuses_jobs_that_have_too_many_bytes_together_but_takes_one_of_any_size() {
        let workers = Workers::default();
        let limits = LaneLimits { threads: 1, waiting: 10, bytes: 100 };
        let (release, hold) = channel::<()>();
        let (begun, begins) = channel();
        let wait = move || {
            begun.send(()).expect("the test listens");
            let _ = hold.recv();
        };
        workers.submit("x", limits, 1000, Box::new(wait)).expect("alone");
        begins.recv().expect("it runs");
        workers.submit("x", limits, 1000, Box::new(|| {})).expect("alone among those that wait");
        assert_eq!(workers.submit("x", limits, 1, Box::new(|| {})), Err(Busy));
        assert!(workers.held.bytes() >= 2000);
        drop(release);
        let (done, ends) = channel();
        loop {
            let done = done.clone();
            if workers.submit("x", limits, 90, Box::new(move || done.send(()).expect("heard"))).is_ok() {
                break;
            }
            std::thread::yield_now();
        }
        ends.recv().expect("it ran");
    }
}

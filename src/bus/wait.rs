//! Waiting until there is something to read.
//!
//! Invariant: a wait ends by an event, by the end of the bus, by its deadline, or by another condition of its caller; a
//! wait that does not end costs no processor time, unless the strategy asks for that.
//!
//! A wait measures two things. If another thread takes the turn that a yield offers (the reader comes back late),
//! threads outnumber cores. Spinning for long would then keep the other readers from reading, and all would be lapped.
//! If several events come between two waits, this reader follows a publisher closely. Each look would take the cache
//! line that is being written, so the reader backs off for a moment and finds several events together.

use std::time::{Duration, Instant};

use super::event_count::Wake;
use super::waitable::Waitable;
use crate::sync::{hint, thread};

/// Empty looks of one wait before a reader sleeps.
const LOOKS: u32 = 500;
/// Empty looks, summed over waits, between two turns given to other threads.
const LOOKS_PER_TURN: u32 = 8192;
/// Empty looks between two turns if another thread took the last one. With 8, three stages on one core passed 3 % fewer items.
const LOOKS_PER_TURN_OVERSUBSCRIBED: u32 = 2;
/// Turns taken by other threads before a reader sleeps.
const TURNS: u32 = 16;
/// Time before its deadline from which a wait gives no turns: if threads outnumber cores, a turn lasts as long as the other
/// threads like to run, which is several milliseconds.
pub(super) const NEAR: Duration = Duration::from_millis(5);
/// Duration of a turn that no thread takes: a system call.
const TURN_NOT_TAKEN: Duration = Duration::from_nanos(800);
/// Shortest backoff from the publishers, in spins.
const BACKOFF_MIN: u32 = 32;
const BACKOFF_MAX: u32 = 256;
/// Number of events that must come during a backoff for it to pay off.
const CAME_ENOUGH: u64 = 8;
/// Waits between two trial backoffs.
const WAITS_PER_ATTEMPT: u32 = 64;

/// Way in which a [`Subscriber`](super::Subscriber) or a [`LosslessSubscriber`](super::LosslessSubscriber) waits for the
/// next event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitStrategy {
    /// Spins: the quickest to see an event, at the price of a core. Yields to other threads regularly, and more often
    /// if threads outnumber cores.
    Spin,
    /// Looks about 500 times, or only a few times if threads outnumber cores; then sleeps.
    #[default]
    SpinThenPark,
    /// Sleeps at once. Waking costs the publisher a system call, and the reader tens of microseconds.
    Park,
}

/// Spins before a look of a poller that follows a publisher closely: about 0.3 us.
const POLL_SPINS: u32 = 16;
/// Items that must arrive during the spins to make them worthwhile.
const POLL_ENOUGH: u64 = 4;
/// Items beyond which a poller is slow itself, and needs no wait: no publisher publishes more during the spins.
const POLL_MANY: u64 = 128;
/// Looks that find fewer items, between two attempts; twice as many after each attempt that brought nothing.
const LOOKS_PER_ATTEMPT: u32 = 64;
const LOOKS_PER_ATTEMPT_MAX: u32 = 1 << 16;

/// Pace of a poller's looks. Each look takes the cache line that the publisher writes. If items arrive faster than
/// that, a look a moment later finds several.
#[derive(Clone, Debug)]
pub(super) struct PollPace {
    is_held: bool,
    few: u32,
    attempt_at: u32,
}

impl Default for PollPace {
    fn default() -> Self {
        Self { is_held: false, few: 0, attempt_at: LOOKS_PER_ATTEMPT }
    }
}

impl PollPace {
    /// Spins, if that was worthwhile the last time, or if it is time to try.
    #[inline]
    pub(super) fn before_look(&self) {
        if self.is_held {
            (0..POLL_SPINS).for_each(|_| hint::spin_loop());
        }
    }

    /// Learns from the number of items that the look found.
    #[inline]
    pub(super) fn after_look(&mut self, found: u64) {
        if self.is_held {
            self.is_held = (POLL_ENOUGH..=POLL_MANY).contains(&found);
            self.attempt_at = if found >= POLL_ENOUGH {
                LOOKS_PER_ATTEMPT
            } else {
                (self.attempt_at * 2).min(LOOKS_PER_ATTEMPT_MAX)
            };
        } else if (1..POLL_ENOUGH).contains(&found) {
            self.few += 1;
            if self.few >= self.attempt_at {
                self.few = 0;
                self.is_held = true;
            }
        }
    }
}

/// Deliveries that a task may take without a wait before other tasks get a turn.
#[cfg(feature = "async")]
const BUDGET: u32 = 256;

/// Number of deliveries that a task took since it last waited or gave other tasks a turn.
#[cfg(feature = "async")]
#[derive(Clone, Debug, Default)]
pub(super) struct TaskBudget {
    used: u32,
}

#[cfg(feature = "async")]
impl TaskBudget {
    /// Returns whether other tasks must get a turn.
    pub(super) fn is_spent(&self) -> bool {
        self.used >= BUDGET
    }

    /// Counts a delivery.
    pub(super) fn spend(&mut self) {
        self.used += 1;
    }

    /// Begins anew, after a wait or a turn of other tasks.
    pub(super) fn reset(&mut self) {
        self.used = 0;
    }
}

/// A reader's wait strategy, and what it learned about publishers and other threads.
#[derive(Clone, Debug, Default)]
pub(super) struct AdaptiveWait {
    strategy: WaitStrategy,
    /// Empty looks since a turn was given.
    looks: u32,
    /// Whether another thread took the last turn given.
    oversubscribed: bool,
    /// Spins before the first look.
    backoff: u32,
    /// Waits that began with a look.
    waits: u32,
    /// Number of events read at the last wait.
    passed: u64,
    /// Deliveries that a task may take before other tasks get a turn.
    #[cfg(feature = "async")]
    pub(super) budget: TaskBudget,
}

impl AdaptiveWait {
    pub(super) fn new(strategy: WaitStrategy) -> Self {
        Self { strategy, ..Self::default() }
    }

    /// Backs off, then waits until `at` has something to show, `done` returns true or the deadline has passed. Returns
    /// false if time ran out.
    pub(super) fn wait(
        &mut self,
        at: &mut impl Waitable,
        deadline: Option<Instant>,
        done: impl Fn() -> bool,
    ) -> bool {
        self.back_off(at);
        self.wait_without_backoff(at, deadline, done)
    }

    /// Waits as [`Self::wait`] does, for a caller that backed off before it looked.
    pub(super) fn wait_without_backoff(
        &mut self,
        at: &mut impl Waitable,
        deadline: Option<Instant>,
        done: impl Fn() -> bool,
    ) -> bool {
        let left = || deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        loop {
            let gives_turns = left().is_none_or(|left| left > NEAR);
            match self.strategy {
                WaitStrategy::Spin => {
                    // Without yields, only a number of looks ends this.
                    if self.look(at, if gives_turns { u32::MAX } else { LOOKS }, gives_turns) {
                        return true;
                    }
                    if at.is_closed() || done() || at.is_at_hole() {
                        return true;
                    }
                    if left() == Some(Duration::ZERO) {
                        return false;
                    }
                    continue;
                }
                WaitStrategy::SpinThenPark => {
                    if self.look(at, LOOKS, gives_turns) {
                        return true;
                    }
                    let mut turns = 0;
                    while gives_turns && self.oversubscribed && turns < TURNS {
                        if self.look(at, LOOKS, true) {
                            return true;
                        }
                        turns += 1;
                    }
                }
                WaitStrategy::Park => {}
            }
            if !at.prepare_sleep(Wake::Thread(thread::current())) {
                return true;
            }
            if done() {
                at.cancel_sleep();
                return true;
            }
            match left() {
                None => thread::park(),
                Some(left) => thread::park_timeout(left),
            }
            at.cancel_sleep();
            if at.is_ready() || done() {
                return true;
            }
            if left() == Some(Duration::ZERO) {
                return false;
            }
        }
    }

    /// Backs off before a look, if the last one reached the end. If that look finds nothing, call
    /// [`Self::wait_without_backoff`].
    #[inline]
    pub(super) fn back_off_at_end(&mut self, at: &impl Waitable) {
        if at.is_at_end() {
            self.back_off(at);
        }
    }

    /// Lets publishers get ahead: longer if many events came in the last backoff, with a trial backoff every few waits.
    /// Never long enough to be lapped.
    fn back_off(&mut self, at: &impl Waitable) {
        if self.strategy == WaitStrategy::Park {
            return;
        }
        let passed = at.passed();
        let came = passed.wrapping_sub(self.passed);
        self.passed = passed;
        let most = at.capacity() / 8;
        self.backoff = if came < CAME_ENOUGH || came > most {
            self.backoff / 2
        } else {
            (self.backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX)
        };
        if self.backoff < BACKOFF_MIN {
            self.backoff = 0;
            self.waits += 1;
            if self.waits < WAITS_PER_ATTEMPT {
                return;
            }
            self.waits = 0;
            self.backoff = BACKOFF_MIN;
        }
        if !self.oversubscribed {
            for _ in 0..self.backoff {
                hint::spin_loop();
            }
            self.looks += self.backoff;
        }
        if self.oversubscribed || self.looks >= LOOKS_PER_TURN {
            self.yield_turn();
        }
    }

    /// Yields to other threads, and records whether one took the turn.
    fn yield_turn(&mut self) {
        let given = Instant::now();
        thread::yield_now();
        self.oversubscribed = given.elapsed() > TURN_NOT_TAKEN;
        self.looks = 0;
    }

    /// Looks up to `looks` times, or until a turn of other threads is due, which it yields if it may. Returns whether
    /// there is something to read.
    fn look(&mut self, at: &impl Waitable, looks: u32, gives_turns: bool) -> bool {
        let turn = if self.oversubscribed { LOOKS_PER_TURN_OVERSUBSCRIBED } else { LOOKS_PER_TURN };
        for _ in 0..looks {
            if at.is_ready() {
                return true;
            }
            if self.looks >= turn && gives_turns {
                self.yield_turn();
                return at.is_ready();
            }
            self.looks = self.looks.saturating_add(1);
            hint::spin_loop();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of looks at one item each until a poller waits before a look.
    fn looks_to_attempt(pace: &mut PollPace) -> u32 {
        let mut looks = 0;
        while !pace.is_held {
            pace.after_look(1);
            looks += 1;
        }
        looks
    }

    #[test]
    fn a_poller_holds_back_while_that_brings_items() {
        let mut pace = PollPace::default();
        // Nothing to gain: no items, or enough of them already.
        (0..10_000).for_each(|n| pace.after_look(if n % 2 == 0 { 0 } else { POLL_ENOUGH }));
        assert!(!pace.is_held);
        assert_eq!(looks_to_attempt(&mut pace), LOOKS_PER_ATTEMPT);
        (0..100).for_each(|_| pace.after_look(POLL_ENOUGH));
        assert!(pace.is_held);
        // A poller that comes seldom finds many in any case.
        pace.after_look(POLL_MANY + 1);
        assert!(!pace.is_held);
        assert_eq!(looks_to_attempt(&mut pace), LOOKS_PER_ATTEMPT);
        // In vain: attempts become rare, and never end.
        for times in [2, 4, 8] {
            pace.after_look(POLL_ENOUGH - 1);
            assert!(!pace.is_held);
            assert_eq!(looks_to_attempt(&mut pace), LOOKS_PER_ATTEMPT * times);
        }
        (0..20).for_each(|_| {
            pace.after_look(0);
            looks_to_attempt(&mut pace);
        });
        pace.after_look(0);
        assert_eq!(looks_to_attempt(&mut pace), LOOKS_PER_ATTEMPT_MAX);
        // The attempt was worth while: the next ones come soon again.
        pace.after_look(POLL_ENOUGH);
        pace.after_look(0);
        assert_eq!(looks_to_attempt(&mut pace), LOOKS_PER_ATTEMPT * 2);
    }
}

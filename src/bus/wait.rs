//! How a reader passes the time until there is something to read.
//!
//! Imports the parking. Always: a wait ends by an event, by the end of the bus, by its deadline, or by what
//! else its caller asked for; a wait that does not end costs no processor time, unless that was asked for.
//!
//! Two things are learned while waiting. Where a turn given to others is taken by one (it takes long to come
//! back), threads outnumber cores: then looking long only keeps the others from reading, and all are lapped.
//! And where several events come between two waits, this reader is at a publisher's heels: each look takes
//! the line that is just written, so it stays away for a moment and finds some at once.

use std::time::{Duration, Instant};

use super::event_count::Wake;
use crate::sync::{hint, thread};

/// Empty looks of one wait before a reader sleeps.
const LOOKS: u32 = 500;
/// Empty looks, waits added up, between two turns given to other threads...
const LOOKS_PER_TURN: u32 = 8192;
/// ...and where one takes it.
const LOOKS_PER_TURN_OVERSUBSCRIBED: u32 = 8;
/// Turns taken by others before a reader sleeps.
const TURNS: u32 = 16;
/// So near its deadline a wait gives no turns: where threads outnumber cores, one lasts as long as others like to run,
/// which is some milliseconds.
pub(super) const NEAR: Duration = Duration::from_millis(5);
/// A turn that nobody takes is a system call.
const TURN_NOT_TAKEN: Duration = Duration::from_nanos(800);
/// The first stay away from the publishers, in spins, and the longest: some microseconds.
const AWAY_FIRST: u32 = 32;
const AWAY_MAX: u32 = 256;
/// What must come meanwhile to be worth it.
const CAME_ENOUGH: u64 = 8;
/// Waits between two tries whether it is.
const WAITS_A_TRY: u32 = 64;

/// How a [`Subscriber`](super::Subscriber) or a [`LosslessSubscriber`](super::LosslessSubscriber) waits for the
/// next event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitStrategy {
    /// Look again and again: the quickest to see an event, at the price of a core. Other threads get a turn
    /// now and then, and soon where threads outnumber cores.
    Spin,
    /// Look some hundred times, or only a few where threads outnumber cores; then sleep.
    #[default]
    SpinThenPark,
    /// Sleep at once. Waking takes the publisher a system call, and the reader tens of microseconds.
    Park,
}

/// What a reader waits at.
pub(super) trait Waitable {
    /// Whether there is something to read. Cheap: asked again and again.
    fn is_ready(&self) -> bool;
    /// Whether the last look came to the end of what was there.
    fn is_done(&self) -> bool;
    /// Whether nothing more will come.
    fn is_closed(&self) -> bool;
    /// Whether it stands before something that only a patient reader sees; then it is ready.
    fn is_at_hole(&mut self) -> bool;
    /// How many were read so far.
    fn passed(&self) -> u64;
    /// How many it can be behind before something happens: a loss, or publishers that wait.
    fn capacity(&self) -> u64;
    /// Announces a sleep and looks again. True: there is nothing, and what comes will wake; [`Self::cancel_sleep`] must
    /// follow. False: there is something, or the end; the announcement is withdrawn.
    fn prepare_sleep(&mut self, wake: Wake) -> bool;
    /// Withdraws the announcement.
    fn cancel_sleep(&mut self);
}

/// A reader's way to wait, and what it learned of publishers and other threads.
#[derive(Clone, Debug, Default)]
pub(super) struct AdaptiveWait {
    pub(super) wait: WaitStrategy,
    /// Empty looks since a turn was given.
    looks: u32,
    /// Whether somebody took the last turn given.
    oversubscribed: bool,
    /// Spins before the first look.
    away: u32,
    /// Waits that began with a look.
    waits: u32,
    /// Where the reader stood at the last wait.
    passed: u64,
}

impl AdaptiveWait {
    pub(super) fn new(wait: WaitStrategy) -> Self {
        Self { wait, ..Self::default() }
    }

    /// Waits until `at` has something to show or `done` is true, for ever or until the deadline. False
    /// where time ran out.
    pub(super) fn wait(
        &mut self,
        at: &mut impl Waitable,
        deadline: Option<Instant>,
        done: impl Fn() -> bool,
    ) -> bool {
        self.back_off(at);
        self.wait_without_backoff(at, deadline, done)
    }

    /// [`Self::wait`] for who kept its distance before it looked.
    pub(super) fn wait_without_backoff(
        &mut self,
        at: &mut impl Waitable,
        deadline: Option<Instant>,
        done: impl Fn() -> bool,
    ) -> bool {
        let left = || deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        loop {
            let gives_turns = left().is_none_or(|left| left > NEAR);
            match self.wait {
                WaitStrategy::Spin => {
                    // Unless it gives turns, nothing else ends a look at nothing.
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

    /// Before a look that may wait: lets publishers get ahead where the reader has caught up with them. What waits
    /// then is [`Self::wait_without_backoff`].
    #[inline]
    pub(super) fn back_off_at_end(&mut self, at: &impl Waitable) {
        if at.is_done() {
            self.back_off(at);
        }
    }

    /// Lets publishers get ahead, the longer the more came in the last such time; now and then tries whether
    /// they would. Never for as long as to be lapped.
    fn back_off(&mut self, at: &impl Waitable) {
        if self.wait == WaitStrategy::Park {
            return;
        }
        let passed = at.passed();
        let came = passed.wrapping_sub(self.passed);
        self.passed = passed;
        let most = at.capacity() / 8;
        self.away = if came < CAME_ENOUGH || came > most {
            self.away / 2
        } else {
            (self.away * 2).clamp(AWAY_FIRST, AWAY_MAX)
        };
        if self.away < AWAY_FIRST {
            self.away = 0;
            self.waits += 1;
            if self.waits < WAITS_A_TRY {
                return;
            }
            self.waits = 0;
            self.away = AWAY_FIRST;
        }
        if !self.oversubscribed {
            for _ in 0..self.away {
                hint::spin_loop();
            }
            self.looks += self.away;
        }
        if self.oversubscribed || self.looks >= LOOKS_PER_TURN {
            self.yield_turn();
        }
    }

    /// Lets other threads run, and learns whether one wanted to.
    fn yield_turn(&mut self) {
        let given = Instant::now();
        thread::yield_now();
        self.oversubscribed = given.elapsed() > TURN_NOT_TAKEN;
        self.looks = 0;
    }

    /// Looks up to so many times, or until it is others' turn, and gives them that, if it may. True where there is
    /// something.
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

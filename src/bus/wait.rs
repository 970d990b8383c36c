//! How a reader passes the time until there is something to read.
//!
//! Imports the cursor. Always: a wait ends by an event, by the end of the bus, by its deadline, or by what
//! else its caller asked for; a wait that does not end costs no processor time, unless that was asked for.

use std::sync::OnceLock;
use std::time::Instant;

use super::carried::Carried;
use super::cursor::Cursor;
use super::park::Wake;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{hint, thread};

/// Looks before a reader sleeps, if there is a core to spare for looking.
const SPINS: u32 = 500;
/// Looks between two turns given to other threads, where there are cores for all who spin.
const SPINS_ALONE: u32 = 50_000;
/// Turns given to other threads before a reader sleeps.
const YIELDS: u32 = 4;

/// How a [`Subscriber`](super::Subscriber) waits for the next event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// Look again and again: the quickest to see an event, at the price of a core. Other threads get a turn
    /// now and then.
    Spin,
    /// Look some hundred times, unless more threads look than there are cores to spare; then sleep.
    #[default]
    SpinThenPark,
    /// Sleep at once. Waking takes the publisher a system call, and the reader tens of microseconds.
    Park,
}

/// Threads that look without sleeping, in this process.
static SPINNING: AtomicUsize = AtomicUsize::new(0);

fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Waits until the cursor has something to show or `done` is true, for ever or until the deadline. False
/// where time ran out.
pub(super) fn wait<T: Carried>(
    cursor: &mut Cursor<T>,
    wait: Wait,
    deadline: Option<Instant>,
    done: impl Fn() -> bool,
) -> bool {
    let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
    loop {
        match wait {
            Wait::Spin => {
                if spin(cursor, SPINS_ALONE, SPINS) {
                    return true;
                }
                thread::yield_now();
                if cursor.core().is_closed() || done() || cursor.is_stuck() {
                    return true;
                }
                if is_over() {
                    return false;
                }
                continue;
            }
            Wait::SpinThenPark => {
                let give_way = |_| {
                    thread::yield_now();
                    cursor.is_ready()
                };
                if spin(cursor, SPINS, 0) || (0..YIELDS).any(give_way) {
                    return true;
                }
            }
            Wait::Park => {}
        }
        if !cursor.prepare_sleep(Wake::Thread(thread::current())) {
            return true;
        }
        if done() {
            cursor.awake();
            return true;
        }
        match deadline {
            None => thread::park(),
            Some(deadline) => thread::park_timeout(deadline.saturating_duration_since(Instant::now())),
        }
        cursor.awake();
        if cursor.is_ready() || done() {
            return true;
        }
        if is_over() {
            return false;
        }
    }
}

/// Looks so many times: `alone` where there are cores for all who do, else `crowded`. True where there is
/// something.
fn spin<T: Carried>(cursor: &Cursor<T>, alone: u32, crowded: u32) -> bool {
    // A guess that others may change at once: no edge. One core is left to the publisher.
    let spinning = SPINNING.fetch_add(1, Ordering::Relaxed) + 1;
    let found = (0..if spinning < cores() { alone } else { crowded }).any(|_| {
        hint::spin_loop();
        cursor.is_ready()
    });
    SPINNING.fetch_sub(1, Ordering::Relaxed);
    found
}

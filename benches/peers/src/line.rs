//! Time of a cache line from core to core, which every contestant waits for. Under a hypervisor that moves the two
//! cores, the time changes within seconds, so a table would mix two machines. `line=LOW-HIGH` (nanoseconds, one way)
//! accepts only runs before and after which it was in that range.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::contestants::pin_to;

const TRIPS: u64 = 2_000;
/// Number of attempts before the range counts as unreachable.
const TRIES: u32 = 1_000;

/// The requested range.
#[derive(Clone, Copy, Debug)]
pub struct Range(u64, u64);

impl Range {
    /// Parses `line=40-90`.
    pub fn parse(text: &str) -> Option<Self> {
        let (low, high) = text.strip_prefix("line=")?.split_once('-')?;
        Some(Self(low.parse().ok()?, high.parse().ok()?))
    }

    fn holds(self) -> bool {
        (self.0..=self.1).contains(&one_way())
    }
}

/// Returns the one-way time of a line, in nanoseconds: half of the median of about 100 round trips.
pub fn one_way() -> u64 {
    let (ball, trips) = (&AtomicU64::new(0), 10);
    thread::scope(|scope| {
        scope.spawn(move || {
            pin_to(1);
            for n in 0..TRIPS {
                while ball.load(Ordering::Acquire) != 2 * n + 1 {
                    spin_loop();
                }
                ball.store(2 * n + 2, Ordering::Release);
            }
        });
        let served = scope.spawn(move || {
            pin_to(0);
            let mut times = Vec::new();
            for first in (0..TRIPS).step_by(trips) {
                let begun = Instant::now();
                for n in first..first + trips as u64 {
                    ball.store(2 * n + 1, Ordering::Release);
                    while ball.load(Ordering::Acquire) != 2 * n + 2 {
                        spin_loop();
                    }
                }
                times.push(begun.elapsed().as_nanos() as u64 / trips as u64 / 2);
            }
            times.sort_unstable();
            times[times.len() / 2]
        });
        served.join().expect("it only counts")
    })
}

/// Repeats `run` until the line's time was in the range before and after it.
pub fn within<R>(range: Option<Range>, mut run: impl FnMut() -> R) -> R {
    let Some(range) = range else { return run() };
    for _ in 0..TRIES {
        if !range.holds() {
            thread::sleep(Duration::from_millis(100));
            continue;
        }
        let result = run();
        if range.holds() {
            return result;
        }
    }
    panic!("a line did not take {} to {} ns in {TRIES} tries; one way now: {} ns", range.0, range.1, one_way());
}

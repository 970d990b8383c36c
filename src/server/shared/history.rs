//! Counters of the last minutes, by second, for a page that is opened later.
//!
//! The history has no clock: loops record their counters once a second while they are active, and once at the end of the activity.
//!
//! Always: a fixed number of seconds is kept. A second without a record was like the one before.

use std::collections::VecDeque;

use serde_json::{Value, json};

/// Number of seconds that are kept.
const SECONDS: i64 = 300;

/// Counters since the start at the end of a second. The last two are gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) published: u64,
    pub(crate) delivered: u64,
    pub(crate) written_bytes: u64,
    pub(crate) missed: u64,
    pub(crate) connections: u64,
    pub(crate) pending: u64,
}

/// Counters by second, oldest first, including one before the oldest that is shown.
#[derive(Debug, Default)]
pub(crate) struct MinuteHistory {
    seconds: VecDeque<(i64, Counts)>,
}

impl MinuteHistory {
    /// Records the counters of this second (since 1970).
    pub(crate) fn record(&mut self, second: i64, counts: Counts) {
        self.spread(second, &counts);
        match self.seconds.back_mut() {
            // A clock that was set back continues at the last second.
            Some((last, known)) if *last >= second => *known = counts,
            _ => self.seconds.push_back((second, counts)),
        }
        while self.seconds.get(1).is_some_and(|(next, _)| *next <= second - SECONDS) {
            self.seconds.pop_front();
        }
    }

    /// Spreads the events published since the last record over the seconds since then, if there was no connection.
    /// Publishing in the process does not wake a loop without clients, and one sum at the end would look like a burst.
    fn spread(&mut self, second: i64, counts: &Counts) {
        let Some(&(last, known)) = self.seconds.back() else { return };
        let more = counts.published.saturating_sub(known.published);
        if known.connections > 0 || more == 0 {
            return;
        }
        for at in (last + 1).max(second - SECONDS)..second {
            let part = u128::from(more) * (at - last).unsigned_abs() as u128
                / (second - last).unsigned_abs() as u128;
            self.seconds.push_back((at, Counts { published: known.published + part as u64, ..known }));
        }
    }

    /// Returns each second up to this one, oldest first: the events in it, and the gauges at its end.
    pub(crate) fn json(&self, second: i64) -> Value {
        let mut lists: [Vec<u64>; 6] = Default::default();
        let mut known = self.seconds.iter().peekable();
        let first = known.peek().map_or(second, |(first, _)| *first).max(second - SECONDS);
        let mut counts: Option<Counts> = None;
        for at in first..=second {
            let before = counts;
            while let Some((_, newer)) = known.next_if(|(when, _)| *when <= at) {
                counts = Some(*newer);
            }
            let (Some(before), Some(now)) = (before, counts) else { continue };
            let numbers = [
                now.published.saturating_sub(before.published),
                now.delivered.saturating_sub(before.delivered),
                now.written_bytes.saturating_sub(before.written_bytes),
                now.missed.saturating_sub(before.missed),
                now.connections,
                now.pending,
            ];
            lists.iter_mut().zip(numbers).for_each(|(list, number)| list.push(number));
        }
        let [published, delivered, written_bytes, missed, connections, pending] = lists;
        json!({
            "published": published, "delivered": delivered, "written_bytes": written_bytes, "missed": missed,
            "connections": connections, "pending": pending,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(published: u64) -> Counts {
        Counts { published, connections: published % 7, ..Counts::default() }
    }

    fn published(history: &MinuteHistory, second: i64) -> Vec<u64> {
        serde_json::from_value(history.json(second)["published"].clone()).expect("numbers")
    }

    #[test]
    fn a_quiet_time_is_no_slow_one() {
        let mut history = MinuteHistory::default();
        history.record(1000, counts(50));
        assert_eq!(published(&history, 1000), Vec::<u64>::new(), "what came before is no rate");
        history.record(1001, counts(60));
        history.record(1001, counts(65));
        // There is nothing for three seconds, then a burst.
        history.record(1005, counts(165));
        assert_eq!(published(&history, 1006), [15, 0, 0, 0, 100, 0]);
        assert_eq!(history.json(1006)["connections"], json!([2, 2, 2, 2, 4, 4]));
    }

    #[test]
    fn counts_of_unrecorded_seconds_are_spread_evenly() {
        let mut history = MinuteHistory::default();
        history.record(1000, Counts::default());
        history.record(1004, Counts { published: 80, connections: 1, ..Counts::default() });
        assert_eq!(published(&history, 1004), [20; 4]);
        assert_eq!(history.json(1004)["connections"], json!([0, 0, 0, 1]));
        // The length of that time does not matter.
        let mut history = MinuteHistory::default();
        history.record(1000, Counts::default());
        history.record(1_000_000_000, Counts { published: u64::MAX, ..Counts::default() });
        assert_eq!(published(&history, 1_000_000_000).len() as i64, SECONDS);
        assert!(history.seconds.len() as i64 <= SECONDS + 1, "{}", history.seconds.len());
    }

    #[test]
    fn five_minutes_are_kept_and_no_more() {
        let mut history = MinuteHistory::default();
        for second in 0..10_000 {
            history.record(second, counts(second as u64 * 3));
        }
        assert!(history.seconds.len() as i64 <= SECONDS + 1, "{}", history.seconds.len());
        assert_eq!(published(&history, 9_999), vec![3; SECONDS as usize]);
        // Long afterwards: all seconds are quiet, and the sums still contain the earlier events.
        assert_eq!(published(&history, 9_999 + 500), vec![0; SECONDS as usize]);
        history.record(11_000, counts(30_000));
        assert_eq!(
            published(&history, 11_000).iter().sum::<u64>(),
            3,
            "only what came since the last second"
        );
        assert!(history.seconds.len() <= 2);
    }

    #[test]
    fn a_clock_that_was_put_back_does_no_harm() {
        let mut history = MinuteHistory::default();
        history.record(1000, counts(10));
        history.record(1001, counts(20));
        history.record(500, counts(30));
        history.record(1002, counts(31));
        assert_eq!(published(&history, 1002), [20, 1]);
    }
}

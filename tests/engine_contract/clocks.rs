//! The referee of time: nothing waits longer than it may, and readiness tells the truth to publishers and readers.
//!
//! Pure, as [`referee`](crate::referee).

use std::time::Duration;

use std::collections::HashMap;

use crate::referee::{Attempt, Outcome, Seen, What};

/// What a node said of itself at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) at: Duration,
    pub(crate) is_ready: bool,
}

/// How long a node may still say that it is ready after it answered a first publisher with a refusal, and how long
/// the last refusal counts. A probe comes every 100 ms; the rest is for a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// How long the reader of a node that says that it is ready may get nothing while accepted events are under way to it:
/// the log's own timeouts, and the rest for a busy machine. A reader that is slow and gets on is none of this.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Returns what is wrong with the times of a node: `attempts` of its publisher in order, its `probes` in order, and
/// how long a publisher may wait.
pub(crate) fn judge(attempts: &[Attempt], probes: &[Probe], wait_max: Duration) -> Vec<String> {
    let mut faults = Vec::new();
    for attempt in attempts {
        let waited = attempt.answered.saturating_sub(attempt.asked);
        if waited > wait_max {
            faults.push(format!(
                "publisher {} waited {waited:?} for event {}",
                attempt.publisher, attempt.first
            ));
        }
    }
    // Runs of refusals: from the first answer that refused to the last.
    let mut run: Option<(Duration, Duration)> = None;
    let mut check = |run: Option<(Duration, Duration)>| {
        let Some((first, last)) = run else { return };
        let (from, to) = (first + SLACK, last.saturating_sub(SLACK / 2));
        let liars =
            probes.iter().filter(|probe| probe.is_ready && from <= probe.at && probe.at <= to).count();
        if liars > 0 {
            faults.push(format!("the node said {liars} times that it is ready while it refused events from {first:?} to {last:?}"));
        }
    };
    for attempt in attempts {
        match &attempt.outcome {
            Outcome::Accepted { .. } => check(run.take()),
            Outcome::Refused { .. } | Outcome::Unknown => {
                let first = run.map_or(attempt.answered, |(first, _)| first);
                run = Some((first, attempt.answered));
            }
        }
    }
    check(run);
    faults
}

/// Returns whether the reader of a node got nothing for too long, though accepted events were under way to it and the
/// node said that it is ready. `attempts` are of all publishers.
pub(crate) fn judge_reader(attempts: &[Attempt], seen: &[Seen], probes: &[Probe]) -> Option<String> {
    let mut accepted: HashMap<(usize, u64), Duration> = HashMap::new();
    for attempt in attempts {
        if let Outcome::Accepted { .. } = attempt.outcome {
            let events = attempt.first..attempt.first + attempt.count;
            accepted.extend(events.map(|n| ((attempt.publisher, n), attempt.answered)));
        }
    }
    let mut before = Duration::ZERO;
    for one in seen {
        let silent_since = std::mem::replace(&mut before, one.at);
        let What::Event { publisher, n, .. } = &one.what else { continue };
        let Some(from) = accepted.get(&(*publisher, *n)).map(|answered| silent_since.max(*answered)) else {
            continue;
        };
        if one.at <= from + SILENCE_MAX {
            continue;
        }
        let mut meanwhile =
            probes.iter().filter(|probe| from + SLACK <= probe.at && probe.at <= one.at).peekable();
        if meanwhile.peek().is_some() && meanwhile.all(|probe| probe.is_ready) {
            return Some(format!(
                "its reader got nothing for {:?} before event {n} of publisher {publisher}, and it said that it is ready",
                one.at.saturating_sub(from)
            ));
        }
    }
    None
}

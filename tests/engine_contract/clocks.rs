//! The referee of time: no request waits longer than its limit, and readiness is reported correctly to publishers and
//! readers.
//!
//! The check has no side effects, like [`referee`](crate::referee).

use std::time::Duration;

use std::collections::HashMap;

use crate::referee::{Attempt, Outcome, Seen, What};

/// State that a node reported at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) at: Duration,
    pub(crate) is_ready: bool,
}

/// Time for which a node may report that it is ready after it first refused a publisher, and for which the last refusal
/// counts. The node is probed every 100 ms; the rest is for a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// Time for which the reader of a ready node may get nothing although accepted events are due: the log's own timeouts,
/// and more for a busy machine. A slow reader that makes progress is no fault.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Returns every fault in the times of a node. Its publisher's `attempts` and its `probes` are in order. A publisher
/// may wait for `wait_max`.
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
    // Runs of refusals, each from its first refusing answer to its last.
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

/// Returns a fault if the reader of a node got nothing for too long although accepted events were due and the node
/// reported that it was ready. `attempts` are those of all publishers.
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

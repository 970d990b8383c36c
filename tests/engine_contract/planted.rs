//! Faults planted in the records of a good trial: the referee reports each of them, and none in the good trial.

use std::time::Duration;

use crate::clocks::{Probe, judge as judge_clocks, judge_reader};
use crate::referee::{Attempt, Fault, Outcome, Seen, Trial, What, judge};

const T: Duration = Duration::ZERO;

/// A trial under construction: two publishers, two readers that share their ids.
struct Records {
    attempts: Vec<Attempt>,
    readers: Vec<Vec<Seen>>,
}

fn event(sequence: u64, publisher: usize, n: u64) -> Seen {
    Seen { at: T, what: What::Event { id: format!("e-{sequence}"), publisher, n } }
}

const GAP: Seen = Seen { at: T, what: What::Gap { shard: None } };

fn attempt(publisher: usize, first: u64, count: u64, outcome: Outcome) -> Attempt {
    Attempt { publisher, first, count, outcome, asked: T, answered: T }
}

fn accepted(last: u64) -> Outcome {
    Outcome::Accepted { last_id: Some(format!("e-{last}")) }
}

impl Records {
    /// Publisher 0 sends 0 to 5 in three requests, and publisher 1 sends 0 and 1. All are accepted and
    /// delivered.
    fn good() -> Self {
        let attempts = vec![
            attempt(0, 0, 2, accepted(1)),
            attempt(1, 0, 1, accepted(2)),
            attempt(0, 2, 2, accepted(4)),
            attempt(0, 4, 2, accepted(6)),
            attempt(1, 1, 1, accepted(7)),
        ];
        let order = [(0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (0, 4), (0, 5), (1, 1)];
        let seen: Vec<Seen> =
            (order.iter().enumerate()).map(|(at, (p, n))| event(at as u64, *p, *n)).collect();
        Self { attempts, readers: vec![seen.clone(), seen] }
    }

    fn faults(&self) -> Vec<Fault> {
        judge(Trial { attempts: &self.attempts, readers: &self.readers, shares_ids: true })
    }
}

#[test]
fn a_good_trial_has_no_fault() {
    assert_eq!(Records::good().faults(), []);
}

#[test]
fn a_lost_event_is_reported_and_a_gap_in_its_place_excuses_it() {
    let mut records = Records::good();
    records.readers[1].remove(3);
    let lost = Fault::Lost { reader: 1, publisher: 0, first: 2, last: 2 };
    assert!(records.faults().contains(&lost), "{:?}", records.faults());
    // A gap that is too early or too late is at a position where nothing is missing.
    for place in [1, 5] {
        let mut misplaced = records.readers.clone();
        misplaced[1].insert(place, GAP);
        let trial = Trial { attempts: &records.attempts, readers: &misplaced, shares_ids: true };
        assert!(judge(trial).contains(&lost), "a gap at {place}");
    }
    records.readers[1].insert(3, GAP);
    assert_eq!(records.faults(), []);
}

#[test]
fn a_lost_tail_is_reported() {
    let mut records = Records::good();
    records.readers[0].truncate(5);
    let faults = records.faults();
    for lost in [
        Fault::Lost { reader: 0, publisher: 0, first: 4, last: 5 },
        Fault::Lost { reader: 0, publisher: 1, first: 1, last: 1 },
    ] {
        assert!(faults.contains(&lost), "{faults:?}");
    }
}

#[test]
fn a_gap_of_another_shard_excuses_nothing() {
    let mut records = Records::good();
    records.readers[0][3] = Seen { at: T, what: What::Gap { shard: Some(1) } };
    assert!(records.faults().contains(&Fault::Lost { reader: 0, publisher: 0, first: 2, last: 2 }));
}

#[test]
fn a_doubled_event_is_reported() {
    let mut records = Records::good();
    let again = records.readers[0][2].clone();
    records.readers[0].insert(3, again);
    assert!(records.faults().contains(&Fault::Twice { reader: 0, publisher: 1, n: 0 }));
    // If the second one has another id, that is another fault, too.
    let mut records = Records::good();
    records.readers[0].push(event(8, 1, 0));
    let other = Fault::OtherId { publisher: 1, n: 0, one: "e-2".into(), other: "e-8".into() };
    assert!(records.faults().contains(&other), "{:?}", records.faults());
}

#[test]
fn an_id_that_is_given_twice_is_reported() {
    let mut records = Records::good();
    records.readers[1][7] = event(6, 1, 1);
    let twice = Fault::IdTwice { id: "e-6".into(), one: (0, 5), other: (1, 1) };
    assert!(records.faults().contains(&twice), "{:?}", records.faults());
    // Also if no reader received the first of the two: its publisher got the id.
    let mut records = Records::good();
    for reader in &mut records.readers {
        reader.truncate(6);
        reader.extend([GAP, event(6, 1, 1)]);
    }
    let twice = Fault::IdTwice { id: "e-6".into(), one: (0, 5), other: (1, 1) };
    assert!(records.faults().contains(&twice), "{:?}", records.faults());
}

#[test]
fn ids_of_a_nodes_own_may_meet_those_of_another_node() {
    let mut records = Records::good();
    for attempt in &mut records.attempts {
        attempt.outcome = Outcome::Accepted { last_id: None };
    }
    // The second reader has the events in another order.
    records.readers[1].clone_from(
        &[(1, 0), (0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 1)]
            .map(|(p, n)| event(0, p, n))
            .to_vec(),
    );
    for (at, seen) in records.readers[1].iter_mut().enumerate() {
        if let What::Event { id, .. } = &mut seen.what {
            *id = format!("e-{at}");
        }
    }
    let trial = Trial { attempts: &records.attempts, readers: &records.readers, shares_ids: false };
    assert_eq!(judge(trial), []);
    let trial = Trial { shares_ids: true, ..trial };
    assert!(judge(trial).iter().any(|fault| matches!(fault, Fault::IdTwice { .. })));
}

#[test]
fn a_missing_gap_between_epochs_or_sequences_is_reported() {
    let mut records = Records::good();
    // The outcome of this request is unknown, so only the ids show that it is missing.
    records.attempts[4].outcome = Outcome::Unknown;
    records.attempts.push(attempt(1, 2, 1, accepted(8)));
    for reader in &mut records.readers {
        reader.pop();
        reader.push(event(8, 1, 2));
    }
    let hole = Fault::Hole { reader: 0, before: "e-6".into(), after: "e-8".into() };
    assert!(records.faults().contains(&hole), "{:?}", records.faults());
    let mut records = Records::good();
    for reader in &mut records.readers {
        reader[7] = Seen { at: T, what: What::Event { id: "f-0".into(), publisher: 1, n: 1 } };
    }
    records.attempts[4].outcome = Outcome::Accepted { last_id: Some("f-0".into()) };
    let hole = Fault::Hole { reader: 1, before: "e-6".into(), after: "f-0".into() };
    assert!(records.faults().contains(&hole), "{:?}", records.faults());
    for reader in &mut records.readers {
        reader.insert(7, GAP);
    }
    assert_eq!(records.faults(), []);
}

#[test]
fn gaps_without_end_are_reported() {
    let mut records = Records::good();
    records.readers[0].extend(vec![GAP; 61]);
    assert_eq!(records.faults(), [Fault::Gaps { reader: 0, count: 61 }]);
}

#[test]
fn a_reordered_event_is_reported() {
    let mut records = Records::good();
    records.readers[0].swap(3, 5);
    assert!(records.faults().contains(&Fault::Reordered { reader: 0, publisher: 0, n: 3, after: 4 }));
}

#[test]
fn a_refused_event_that_is_delivered_and_an_unknown_one_are_reported() {
    let mut records = Records::good();
    let why = "full".to_owned();
    records.attempts[4].outcome = Outcome::Refused { why: why.clone() };
    assert!(records.faults().contains(&Fault::Refused { reader: 0, publisher: 1, n: 1, why }));
    records.attempts.pop();
    assert!(records.faults().contains(&Fault::Stranger { reader: 1, publisher: 1, n: 1 }));
}

fn seconds(at: u64) -> Duration {
    Duration::from_secs(at)
}

fn asked(from: u64, to: u64, outcome: Outcome) -> Attempt {
    Attempt { publisher: 0, first: from, count: 1, outcome, asked: seconds(from), answered: seconds(to) }
}

#[test]
fn a_publisher_that_waits_too_long_is_reported() {
    let attempts = [asked(0, 3, accepted(0)), asked(4, 16, Outcome::Unknown)];
    let faults = judge_clocks(&attempts, &[], seconds(10));
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains("waited"), "{faults:?}");
}

#[test]
fn readiness_that_stays_while_publishes_are_refused_is_reported() {
    let refused: Vec<Attempt> = (5..15).map(|at| asked(at, at + 1, Outcome::Unknown)).collect();
    let attempts = [&[asked(0, 1, accepted(0))], refused.as_slice(), &[asked(16, 17, accepted(1))]].concat();
    let probes = |unready: std::ops::Range<u64>| -> Vec<Probe> {
        (0..20).map(|at| Probe { at: seconds(at), is_ready: !unready.contains(&at) }).collect()
    };
    assert!(judge_clocks(&attempts, &probes(6..16), seconds(10)).is_empty());
    for liar in [probes(0..0), probes(6..12)] {
        let faults = judge_clocks(&attempts, &liar, seconds(10));
        assert!(faults.iter().any(|fault| fault.contains("ready")), "{faults:?}");
    }
}

#[test]
fn a_reader_that_waits_at_a_ready_node_is_reported() {
    let attempts = [asked(0, 1, accepted(0))];
    let late =
        |at: u64| [Seen { at: seconds(at), what: What::Event { id: "e-0".into(), publisher: 0, n: 0 } }];
    let probes = |unready: u64| -> Vec<Probe> {
        (0..40).map(|at| Probe { at: seconds(at), is_ready: at != unready }).collect()
    };
    assert_eq!(judge_reader(&attempts, &late(5), &probes(40)), None);
    assert_eq!(judge_reader(&attempts, &late(30), &probes(12)), None, "it said that it was not ready");
    assert!(judge_reader(&attempts, &late(30), &probes(40)).is_some());
    // A reader that makes progress is slow, not stuck.
    let other = |at: u64| Seen { at: seconds(at), what: What::Other { id: "e-0".into() } };
    let slow = [&[other(8), other(16), other(24)], late(30).as_slice()].concat();
    assert_eq!(judge_reader(&attempts, &slow, &probes(40)), None);
}

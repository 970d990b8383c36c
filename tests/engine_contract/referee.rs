//! The referee: compares the publishers' answers with the events that the readers of every node received.
//!
//! The referee takes records and returns faults, without side effects, so its own tests can plant each fault. It checks for
//! every engine:
//! - An event answered with 200 is delivered to each reader exactly once, or a gap takes its place.
//! - An event that was certainly refused is never delivered.
//! - No two events have the same id, neither for readers nor in the answers to publishers.
//! - The ids of one epoch grow without holes, or a gap fills the hole. Another epoch begins with a gap.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

/// Outcome of a request, as the publisher knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// 200, with the id of the last event if the engine gives one.
    Accepted { last_id: Option<String> },
    /// The log does not contain the events, for this reason.
    Refused { why: String },
    /// The log may or may not contain the events.
    Unknown,
}

/// A request of one publisher: consecutive numbers.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) publisher: usize,
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) outcome: Outcome,
    /// Times since the start of the trial.
    pub(crate) asked: Duration,
    pub(crate) answered: Duration,
}

/// A reader's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Event {
        id: String,
        publisher: usize,
        n: u64,
    },
    /// An event that no publisher of the trial sent, such as presence. Its id is checked, too.
    Other {
        id: String,
    },
    /// A gap, with its shard if it names one.
    Gap {
        shard: Option<u16>,
    },
}

/// One message that a reader received.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Time since the start of the trial.
    pub(crate) at: Duration,
    pub(crate) what: What,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An accepted event is missing, and no gap takes its place.
    Lost { reader: usize, publisher: usize, first: u64, last: u64 },
    /// A reader received an event twice.
    Twice { reader: usize, publisher: usize, n: u64 },
    /// Accepted events of one publisher were delivered in another order.
    Reordered { reader: usize, publisher: usize, n: u64, after: u64 },
    /// Two events have one id.
    IdTwice { id: String, one: (usize, u64), other: (usize, u64) },
    /// One event has two ids.
    OtherId { publisher: usize, n: u64, one: String, other: String },
    /// A refused event was delivered.
    Refused { reader: usize, publisher: usize, n: u64, why: String },
    /// No publisher sent this event.
    Stranger { reader: usize, publisher: usize, n: u64 },
    /// Ids are not consecutive, and there is no gap between them.
    Hole { reader: usize, before: String, after: String },
    /// More gaps than the faults can explain.
    Gaps { reader: usize, count: usize },
    /// An unreadable id.
    Unreadable { reader: usize, id: String },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { reader, publisher, first, last } => {
                write!(
                    f,
                    "reader {reader}: accepted events {first}..={last} of publisher {publisher} are missing without a gap"
                )
            }
            Self::Twice { reader, publisher, n } => {
                write!(f, "reader {reader}: event {n} of publisher {publisher} came twice")
            }
            Self::Reordered { reader, publisher, n, after } => {
                write!(f, "reader {reader}: accepted event {n} of publisher {publisher} came after {after}")
            }
            Self::IdTwice { id, one, other } => write!(f, "id {id} stands for {one:?} and for {other:?}"),
            Self::OtherId { publisher, n, one, other } => {
                write!(f, "event {n} of publisher {publisher} has the ids {one} and {other}")
            }
            Self::Refused { reader, publisher, n, why } => {
                write!(
                    f,
                    "reader {reader}: event {n} of publisher {publisher} was refused ({why}) and delivered"
                )
            }
            Self::Stranger { reader, publisher, n } => {
                write!(f, "reader {reader}: nobody published event {n} of publisher {publisher}")
            }
            Self::Hole { reader, before, after } => {
                write!(f, "reader {reader}: {after} came after {before} without a gap")
            }
            Self::Gaps { reader, count } => write!(f, "reader {reader}: {count} gaps"),
            Self::Unreadable { reader, id } => write!(f, "reader {reader}: unreadable id {id}"),
        }
    }
}

/// The records of a trial.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial<'a> {
    pub(crate) attempts: &'a [Attempt],
    pub(crate) readers: &'a [Vec<Seen>],
    /// Whether an event has the same id on every node.
    pub(crate) shares_ids: bool,
}

type Key = (usize, u64);

/// Parses the epoch, sequence and shard of an id, as `EPOCH-SEQUENCE` or `EPOCH-SEQUENCE.SHARD`.
pub(crate) fn parts(id: &str) -> Option<(&str, u64, u16)> {
    let (epoch, rest) = id.split_once('-')?;
    let (sequence, shard) = rest.split_once('.').unwrap_or((rest, "0"));
    Some((epoch, sequence.parse().ok()?, shard.parse().ok()?))
}

/// Maximum number of gaps that a reader may get in a trial. A node that sends more has lost its position.
const GAPS_MAX: usize = 60;

/// Returns every broken promise.
pub(crate) fn judge(trial: Trial<'_>) -> Vec<Fault> {
    let mut outcomes: HashMap<Key, &Outcome> = HashMap::new();
    for attempt in trial.attempts {
        for n in attempt.first..attempt.first + attempt.count {
            outcomes.insert((attempt.publisher, n), &attempt.outcome);
        }
    }
    let mut faults = Vec::new();
    ids(trial, &mut faults);
    for (reader, seen) in trial.readers.iter().enumerate() {
        order_of_ids(reader, seen, &mut faults);
        deliveries(reader, seen, &outcomes, &mut faults);
        let count = seen.iter().filter(|one| matches!(one.what, What::Gap { .. })).count();
        if count > GAPS_MAX {
            faults.push(Fault::Gaps { reader, count });
        }
    }
    faults
}

/// Pairs of ids and events of a trial.
#[derive(Default)]
struct Ids<'a> {
    events: HashMap<(usize, &'a str), Key>,
    ids: HashMap<(usize, Key), &'a str>,
}

impl<'a> Ids<'a> {
    /// Records a pair of id and event. Returns a fault if either is already paired with another.
    fn take(&mut self, scope: usize, id: &'a str, event: Key) -> Option<Fault> {
        let known = *self.events.entry((scope, id)).or_insert(event);
        if known != event {
            return Some(Fault::IdTwice { id: id.to_owned(), one: known, other: event });
        }
        let first = *self.ids.entry((scope, event)).or_insert(id);
        let (publisher, n) = event;
        (first != id).then(|| Fault::OtherId { publisher, n, one: first.to_owned(), other: id.to_owned() })
    }
}

/// Checks that ids and events correspond one to one, for readers and in the answers to publishers.
fn ids(trial: Trial<'_>, faults: &mut Vec<Fault>) {
    let mut known = Ids::default();
    if trial.shares_ids {
        for attempt in trial.attempts {
            if let Outcome::Accepted { last_id: Some(id) } = &attempt.outcome {
                faults.extend(known.take(0, id, (attempt.publisher, attempt.first + attempt.count - 1)));
            }
        }
    }
    for (reader, seen) in trial.readers.iter().enumerate() {
        let scope = if trial.shares_ids { 0 } else { reader };
        for one in seen {
            if let What::Event { id, publisher, n } = &one.what {
                faults.extend(known.take(scope, id, (*publisher, *n)));
            }
        }
    }
}

/// Checks that the ids of each shard are consecutive, or that there is a gap between them.
fn order_of_ids(reader: usize, seen: &[Seen], faults: &mut Vec<Fault>) {
    let mut last: HashMap<u16, &str> = HashMap::new();
    for one in seen {
        match &one.what {
            What::Gap { shard: Some(shard) } => drop(last.remove(shard)),
            What::Gap { shard: None } => last.clear(),
            What::Event { id, .. } | What::Other { id } => {
                let Some((epoch, sequence, shard)) = parts(id) else {
                    faults.push(Fault::Unreadable { reader, id: id.clone() });
                    continue;
                };
                let Some(before) = last.insert(shard, id) else { continue };
                if parts(before).is_some_and(|(of, at, _)| of != epoch || at + 1 != sequence) {
                    faults.push(Fault::Hole { reader, before: before.to_owned(), after: id.clone() });
                }
            }
        }
    }
}

/// Checks the outcome of each event of each publisher.
fn deliveries(reader: usize, seen: &[Seen], told: &HashMap<Key, &Outcome>, faults: &mut Vec<Fault>) {
    let mut places: BTreeMap<Key, usize> = BTreeMap::new();
    let mut shards: HashMap<usize, u16> = HashMap::new();
    let mut newest: HashMap<usize, u64> = HashMap::new();
    for (at, one) in seen.iter().enumerate() {
        let What::Event { id, publisher, n } = &one.what else { continue };
        let (publisher, n) = (*publisher, *n);
        if places.insert((publisher, n), at).is_some() {
            faults.push(Fault::Twice { reader, publisher, n });
            continue;
        }
        if let Some((_, _, shard)) = parts(id) {
            shards.insert(publisher, shard);
        }
        match told.get(&(publisher, n)) {
            None => faults.push(Fault::Stranger { reader, publisher, n }),
            Some(Outcome::Refused { why }) => {
                faults.push(Fault::Refused { reader, publisher, n, why: why.clone() });
            }
            Some(Outcome::Unknown) => {}
            Some(Outcome::Accepted { .. }) => match newest.get(&publisher) {
                Some(&after) if after > n => faults.push(Fault::Reordered { reader, publisher, n, after }),
                _ => drop(newest.insert(publisher, n)),
            },
        }
    }
    let gaps: Vec<(usize, Option<u16>)> = (seen.iter().enumerate())
        .filter_map(|(at, one)| if let What::Gap { shard } = one.what { Some((at, shard)) } else { None })
        .collect();
    let mut missing: Vec<Key> = (told.iter())
        .filter(|(key, outcome)| matches!(outcome, Outcome::Accepted { .. }) && !places.contains_key(key))
        .map(|(key, _)| *key)
        .collect();
    missing.sort_unstable();
    let mut run: Option<(usize, u64, u64)> = None;
    let mut lost = |run: &mut Option<(usize, u64, u64)>| {
        if let Some((publisher, first, last)) = run.take() {
            faults.push(Fault::Lost { reader, publisher, first, last });
        }
    };
    for (publisher, n) in missing {
        // The publisher's neighbouring events, which are in the same shard.
        let before = places.range((publisher, 0)..(publisher, n)).next_back().map(|(_, at)| *at);
        let after = places.range((publisher, n)..=(publisher, u64::MAX)).next().map(|(_, at)| *at);
        let shard = shards.get(&publisher);
        let is_told = gaps.iter().any(|(at, of)| {
            before.is_none_or(|before| before < *at)
                && after.is_none_or(|after| *at < after)
                && (of.is_none() || shard.is_none() || of.as_ref() == shard)
        });
        if is_told {
            continue;
        }
        match &mut run {
            Some((of, _, last)) if *of == publisher && *last + 1 == n => *last = n,
            _ => {
                lost(&mut run);
                run = Some((publisher, n, n));
            }
        }
    }
    lost(&mut run);
}

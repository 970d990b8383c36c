//! Model of kept logs: computes from the entries of the engine's log what each run is, without code of the server.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::publisher::Asked;
use crate::engine::stepped::SimulatedLog;
use crate::event::EventId;

/// Rules of retention of a simulation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Least and largest number of events that a log has kept.
    pub(super) keeps: (usize, usize),
    /// Time since a log's last event after which it is gone, in microseconds.
    pub(super) keep_for: i64,
}

impl Rules {
    /// Returns whether logs can be gone by time within a simulation.
    pub(super) fn can_expire(&self) -> bool {
        self.keep_for < 3_600_000_000
    }
}

/// Whether the log of a life is known from its beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knowledge {
    Whole,
    /// An earlier log of the run was purged, or is gone by time while it was open.
    Lost,
    /// A node may know it or not.
    Unsure,
}

/// Accepted event of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    pub(super) n: u64,
    pub(super) id: EventId,
    pub(super) is_first: bool,
    pub(super) is_end: bool,
    pub(super) life: Knowledge,
    /// Whether it begins a log after a purge.
    pub(super) is_after_purge: bool,
}

/// Run, by the order of the log.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    pub(super) accepted: Vec<Accepted>,
    /// Numbers of the entries that purged it.
    pub(super) purges: Vec<usize>,
    /// Newest event of its log, and whether that ended it; `None` if there is no log.
    pub(super) newest: Option<(EventId, bool)>,
    written: i64,
    is_lost: bool,
    was_purged: bool,
}

impl Run {
    /// Forgets a log that is gone by time.
    fn expire(&mut self, clock: i64, rules: &Rules) {
        if self.newest.is_some() && clock - self.written >= rules.keep_for {
            self.is_lost |= self.newest.take().is_some_and(|(_, is_end)| !is_end);
        }
    }

    fn purge(&mut self, at: usize) {
        (self.newest, self.is_lost, self.was_purged) = (None, true, true);
        self.purges.push(at);
    }

    /// Returns whether its log takes an event with these conditions.
    fn takes(&self, reopen: bool, expected: Option<&str>) -> bool {
        let is_expected = expected.is_none_or(|expected| {
            self.newest.map_or(expected.is_empty(), |(id, _)| *expected == id.to_string())
        });
        is_expected && self.newest.is_none_or(|(_, was_ended)| was_ended == reopen)
    }

    fn accept(&mut self, n: u64, at: usize, is_end: bool, clock: i64) {
        let is_first = self.newest.is_none_or(|(_, was_ended)| was_ended);
        let life = match (self.newest, self.accepted.last()) {
            (Some((_, false)), Some(last)) => last.life,
            (Some(_), _) => Knowledge::Whole,
            (None, _) if self.is_lost => Knowledge::Lost,
            (None, None) => Knowledge::Whole,
            (None, _) => Knowledge::Unsure,
        };
        let is_after_purge = std::mem::take(&mut self.was_purged);
        let id = SimulatedLog::id(at);
        self.accepted.push(Accepted { n, id, is_first, is_end, life, is_after_purge });
        (self.newest, self.written) = (Some((id, is_end)), clock);
    }
}

/// Runs, by the order of the log.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) runs: HashMap<u64, Run>,
    /// Numbers of the stored events, with whether they were accepted, in the order of the log.
    pub(super) stored: Vec<(u64, bool)>,
}

/// Returns the number of the event in an entry; `None` for a record of a purge.
fn number_of(entry: &Value) -> Option<u64> {
    entry["payload"]["n"].as_u64()
}

/// Returns the number of a run by its stream.
fn run_of(stream: &Value) -> u64 {
    let stream = stream.as_str().expect("a stream");
    stream.strip_prefix("run-").and_then(|number| number.parse().ok()).expect("a run")
}

/// Returns the runs that an entry purges.
pub(super) fn purged_by(entry: &str) -> Vec<u64> {
    let entry: Value = serde_json::from_str(entry).expect("JSON");
    entry["stamp"]["purge"]["values"].as_array().map_or_else(Vec::new, |all| all.iter().map(run_of).collect())
}

/// Computes the accepted events of each run, by the order of the log.
pub(super) fn model(entries: &[String], asked: &HashMap<u64, Asked>, rules: &Rules) -> Model {
    let mut all = Model::default();
    let mut refused: HashSet<u64> = HashSet::new();
    let mut clock = i64::MIN;
    for (at, entry) in entries.iter().enumerate() {
        let entry: Value = serde_json::from_str(entry).expect("JSON");
        let stamp = &entry["stamp"];
        clock = clock.max(stamp["at"].as_i64().expect("a time"));
        all.runs.values_mut().for_each(|run| run.expire(clock, rules));
        let Some(n) = number_of(&entry) else {
            let values = stamp["purge"]["values"].as_array().expect("runs");
            for value in values {
                all.runs.entry(run_of(value)).or_default().purge(at);
            }
            continue;
        };
        // A batch is refused as a whole where its first event is, or from its first refused event on.
        let batch = &stamp["kept"]["batch"];
        let key = batch["key"].as_u64();
        let needs = batch["needs"].as_array().map_or(&[][..], |needs| needs);
        let is_unmet = needs.iter().any(|need| {
            let run = all.runs.entry(run_of(&need["value"])).or_default();
            !run.takes(need["reopen"].as_bool().unwrap_or(false), need["after"].as_str())
        });
        let Asked { run, is_end, reopen, expected, .. } = &asked[&n];
        let run = all.runs.entry(*run).or_default();
        let is_accepted = !is_unmet
            && key.is_none_or(|key| !refused.contains(&key))
            && run.takes(*reopen, expected.as_deref());
        if is_accepted {
            run.accept(n, at, *is_end, clock);
        } else {
            refused.extend(key);
        }
        all.stored.push((n, is_accepted));
    }
    all
}

/// Checks an end, and returns the place of the event that it names.
pub(super) fn check_end(
    accepted: &[Accepted],
    id: &str,
    complete: bool,
    rules: &Rules,
) -> Result<usize, String> {
    let place = accepted.iter().position(|one| one.is_end && one.id.to_string() == id);
    let place = place.ok_or(format!("{id} ended nothing"))?;
    let first = accepted[..=place].iter().rposition(|one| one.is_first).expect("a life has a first event");
    let (count, life) = (place + 1 - first, accepted[place].life);
    let is_wrong = if life == Knowledge::Lost || count > rules.keeps.1 {
        complete
    } else {
        life == Knowledge::Whole && count <= rules.keeps.0 && !complete
    };
    if is_wrong {
        return Err(format!("the end {id}: complete is {complete}, of {count} events, {life:?}"));
    }
    Ok(place)
}

#[test]
fn an_end_is_checked_against_the_log() {
    let event = |n: u64, is_first, is_end, life| {
        let id = SimulatedLog::id(n as usize);
        Accepted { n, id, is_first, is_end, life, is_after_purge: false }
    };
    let check = |life, id: &str, complete, keeps| {
        let log = [
            event(1, true, false, life),
            event(2, false, true, life),
            event(3, true, false, life),
            event(5, false, true, life),
        ];
        check_end(&log, id, complete, &Rules { keeps, keep_for: i64::MAX })
    };
    let whole = |id: &str, complete, keeps| check(Knowledge::Whole, id, complete, (keeps, keeps));
    assert_eq!((whole("7-2", true, 2), whole("7-5", true, 2), whole("7-5", false, 1)), (Ok(1), Ok(3), Ok(3)));
    assert!(whole("7-3", true, 2).is_err(), "it ended nothing");
    assert!(whole("7-5", true, 1).is_err(), "its first event is evicted");
    assert!(whole("7-5", false, 2).is_err(), "it has its first event");
    let either = [true, false].map(|complete| check(Knowledge::Unsure, "7-5", complete, (2, 2)).is_ok());
    assert_eq!(either, [true, true]);
    let lost = [true, false].map(|complete| check(Knowledge::Lost, "7-5", complete, (2, 2)).is_ok());
    assert_eq!(lost, [false, true]);
    let reloaded = [true, false].map(|complete| check(Knowledge::Whole, "7-5", complete, (1, 2)).is_ok());
    assert_eq!(reloaded, [true, true]);
}

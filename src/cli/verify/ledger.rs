//! Comparison of the events that a reader expects with those that it received, number by number.
//!
//! Always: a missing event is excused by a gap at its place or by a publish with an unknown outcome. Otherwise
//! it is a violation. Each violation is reported once, with the events around it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Mutex;

use serde::Serialize;

use super::watch::WatchSet;

/// Kind of a broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ViolationKind {
    /// An event did not arrive, and no gap reported it.
    Lost,
    /// An event arrived twice.
    Twice,
    /// An event arrived after a later one.
    Disorder,
    /// An event differs from the published one, or another reader got it under another id.
    Changed,
    /// An event arrived that the reader had not subscribed to.
    Unwanted,
    /// A reader could not reconnect.
    Away,
}

impl ViolationKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Twice => "twice",
            Self::Disorder => "disorder",
            Self::Changed => "changed",
            Self::Unwanted => "unwanted",
            Self::Away => "away",
        }
    }
}

/// One broken promise, as the report shows it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Violation {
    pub(super) kind: ViolationKind,
    pub(super) reader: String,
    pub(super) lane: usize,
    /// Number of the event in its lane, or of the first of several.
    pub(super) n: u64,
    /// Number of events concerned.
    pub(super) events: u64,
    /// Number of the reader's connection.
    pub(super) connection: u64,
    pub(super) text: String,
}

/// A received event: its number in the lane and its id.
#[derive(Clone, Debug)]
struct Seen {
    n: u64,
    id: String,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} ({})", self.n, self.id)
    }
}

/// Missing events that gaps reported since the last event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reported {
    #[default]
    Nothing,
    Missed(u64),
    /// A gap of unknown size.
    Unknown,
}

impl Reported {
    /// Returns the maximum number of missing events that the gaps explain.
    fn excuses(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Missed(missed) => missed,
            Self::Unknown => u64::MAX,
        }
    }
}

/// Position of missing events: the events before and after, and the connection.
#[derive(Debug)]
struct Hole {
    before: Option<Seen>,
    after: Seen,
    connection: u64,
    reported: Reported,
}

/// Ids that readers have seen, by lane and number. All readers must see the same ids.
pub(super) type Ids = Mutex<HashMap<(usize, u64), String>>;

/// One reader's account of its lane.
#[derive(Debug)]
pub(super) struct Account {
    reader: String,
    lane: usize,
    /// Number of the next event.
    next: u64,
    last: Option<Seen>,
    /// Numbers that have not arrived, each with the index of its hole.
    holes: BTreeMap<u64, usize>,
    places: Vec<Hole>,
    reported: Reported,
    pub(super) connection: u64,
    pub(super) delivered: u64,
    /// Number of events that arrived merged into a later one.
    pub(super) merged: u64,
    pub(super) gaps: u64,
    /// Number of events that gaps reported as missed.
    pub(super) missed: u64,
    pub(super) faults: Vec<Violation>,
    /// Whether the last event of the lane has arrived.
    pub(super) is_over: bool,
    /// Keys of the reader. Without them it gets every event of its lane.
    pub(super) watch: Option<WatchSet>,
}

impl Account {
    pub(super) fn new(reader: String, lane: usize) -> Self {
        Self {
            reader,
            lane,
            next: 1,
            last: None,
            holes: BTreeMap::new(),
            places: Vec::new(),
            reported: Reported::Nothing,
            connection: 0,
            delivered: 0,
            merged: 0,
            gaps: 0,
            missed: 0,
            faults: Vec::new(),
            is_over: false,
            watch: None,
        }
    }

    pub(super) fn reader(&self) -> &str {
        &self.reader
    }

    pub(super) fn lane(&self) -> usize {
        self.lane
    }

    pub(super) fn fault(&mut self, kind: ViolationKind, n: u64, events: u64, text: String) {
        let (reader, lane, connection) = (self.reader.clone(), self.lane, self.connection);
        self.faults.push(Violation { kind, reader, lane, n, events, connection, text });
    }

    /// Records a gap: an exact number of events, an upper bound, or neither.
    pub(super) fn gap(&mut self, missed: Option<u64>, at_most: Option<u64>) {
        self.gaps += 1;
        self.missed += missed.unwrap_or(0);
        self.reported = match (self.reported, missed.or(at_most)) {
            (Reported::Nothing, Some(missed)) => Reported::Missed(missed),
            (Reported::Missed(reported), Some(missed)) => Reported::Missed(reported.saturating_add(missed)),
            (Reported::Unknown, _) | (_, None) => Reported::Unknown,
        };
    }

    /// Records an event of the lane.
    pub(super) fn event(&mut self, n: u64, id: &str, ids: &Ids) {
        let seen = Seen { n, id: id.to_owned() };
        self.compare(&seen, ids);
        self.came(seen);
    }

    /// Records events of the lane that were merged into a later one, which has an id.
    pub(super) fn merged(&mut self, numbers: &[u64], id: &str) {
        self.merged += numbers.len() as u64;
        for n in numbers {
            self.came(Seen { n: *n, id: format!("in {id}") });
        }
    }

    fn came(&mut self, seen: Seen) {
        self.delivered += 1;
        let n = seen.n;
        if n < self.next {
            let at = format!("on its connection {}", self.connection);
            if self.holes.remove(&n).is_some() {
                let before = self.last.as_ref().map(ToString::to_string).unwrap_or_default();
                self.fault(ViolationKind::Disorder, n, 1, format!("{seen} arrived after {before}, {at}"));
            } else {
                self.fault(ViolationKind::Twice, n, 1, format!("{seen} arrived again, {at}"));
            }
            return;
        }
        let reported = std::mem::take(&mut self.reported);
        let missing: Vec<u64> = (self.next..n).filter(|n| self.must_come(*n)).collect();
        if missing.len() as u64 > reported.excuses() {
            let place = self.places.len();
            let (before, after) = (self.last.clone(), seen.clone());
            self.places.push(Hole { before, after, connection: self.connection, reported });
            self.holes.extend(missing.into_iter().map(|n| (n, place)));
        }
        if let Some(watch) = &mut self.watch {
            watch.firm();
        }
        self.next = n + 1;
        self.last = Some(seen);
    }

    /// Returns whether an event of the lane must arrive at this position of the stream.
    fn must_come(&self, n: u64) -> bool {
        self.watch.as_ref().is_none_or(|watch| watch.must_come(n))
    }

    /// Checks that all readers see the event under one id.
    fn compare(&mut self, seen: &Seen, ids: &Ids) {
        let mut ids = ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = ids.entry((self.lane, seen.n)).or_insert_with(|| seen.id.clone());
        if *known != seen.id {
            let text = format!("{seen} has the id {known} for another reader, or had it before");
            drop(ids);
            self.fault(ViolationKind::Changed, seen.n, 1, text);
        }
    }

    /// Closes the account. `published` is the lane's last number. `unsure` holds the numbers of which it is unknown
    /// whether they were published.
    pub(super) fn close(&mut self, published: u64, unsure: &BTreeSet<u64>) {
        let reported = std::mem::take(&mut self.reported);
        // All readers must receive the last event.
        let is_due = |n: &u64| !unsure.contains(n) && (*n == published || self.must_come(*n));
        let missing: Vec<u64> = (self.next..=published).filter(is_due).collect();
        if let Some(first) = missing.first().filter(|_| missing.len() as u64 > reported.excuses()) {
            let last = self
                .last
                .as_ref()
                .map_or_else(|| "nothing arrived".into(), |last| format!("{last} arrived last"));
            let text =
                format!("{} never arrived: {last}{}", numbers(*first, missing.len()), gap_words(reported));
            self.fault(ViolationKind::Lost, *first, missing.len() as u64, text);
        }
        let mut by_place: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for (n, place) in std::mem::take(&mut self.holes) {
            if !unsure.contains(&n) {
                by_place.entry(place).or_default().push(n);
            }
        }
        for (place, missing) in by_place {
            let Hole { before, after, connection, reported } = &self.places[place];
            if missing.len() as u64 <= reported.excuses() {
                continue;
            }
            let before = before.as_ref().map_or_else(|| "the beginning".into(), ToString::to_string);
            let text = format!(
                "{} never arrived, between {before} and {after}, on its connection {connection}{}",
                numbers(missing[0], missing.len()),
                gap_words(*reported)
            );
            self.fault(ViolationKind::Lost, missing[0], missing.len() as u64, text);
        }
    }
}

fn numbers(first: u64, count: usize) -> String {
    if count == 1 { format!("#{first}") } else { format!("{count} events from #{first} on") }
}

fn gap_words(reported: Reported) -> String {
    if reported == Reported::Nothing {
        "; no gap was reported".into()
    } else {
        format!("; the gap reported {}", reported.excuses())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::dice::Dice;
    use super::super::watch::WatchKeys;
    use super::*;

    /// One item that a reader receives in a test: an event's number, or a gap.
    enum Comes {
        Event(u64),
        Gap(Option<u64>),
        Bound(u64),
    }
    use Comes::{Bound, Event, Gap};

    fn faults(what: &[Comes], published: u64, unsure: &[u64]) -> Vec<(ViolationKind, u64, u64)> {
        let ids = Ids::default();
        let mut account = Account::new("ws-1".into(), 0);
        account.connection = 1;
        for one in what {
            match one {
                Event(n) => account.event(*n, &format!("e-{n}"), &ids),
                Gap(missed) => account.gap(*missed, None),
                Bound(most) => account.gap(None, Some(*most)),
            }
        }
        account.close(published, &unsure.iter().copied().collect());
        account.faults.iter().map(|fault| (fault.kind, fault.n, fault.events)).collect()
    }

    #[test]
    fn all_in_order_is_no_fault() {
        assert_eq!(faults(&[Event(1), Event(2), Event(3)], 3, &[]), []);
    }

    #[test]
    fn a_missing_event_is_lost_unless_a_gap_reported_it() {
        assert_eq!(faults(&[Event(1), Event(3)], 3, &[]), [(ViolationKind::Lost, 2, 1)]);
        assert_eq!(faults(&[Event(1), Gap(Some(1)), Event(3)], 3, &[]), []);
        assert_eq!(faults(&[Event(1), Gap(Some(1)), Event(4)], 4, &[]), [(ViolationKind::Lost, 2, 2)]);
        assert_eq!(faults(&[Event(1), Gap(None), Event(9)], 9, &[]), []);
        assert_eq!(faults(&[Event(1), Bound(9), Event(9)], 9, &[]), []);
        assert_eq!(faults(&[Event(1), Bound(6), Event(9)], 9, &[]), [(ViolationKind::Lost, 2, 7)]);
        assert_eq!(
            faults(&[Event(1), Gap(Some(1)), Event(2), Event(4)], 4, &[]),
            [(ViolationKind::Lost, 3, 1)]
        );
        assert_eq!(faults(&[Event(1), Gap(Some(2)), Gap(Some(1)), Event(5)], 5, &[]), []);
    }

    #[test]
    fn a_missing_end_is_lost_too() {
        assert_eq!(faults(&[Event(1)], 3, &[]), [(ViolationKind::Lost, 2, 2)]);
        assert_eq!(faults(&[], 3, &[]), [(ViolationKind::Lost, 1, 3)]);
        assert_eq!(faults(&[Event(1), Gap(Some(2))], 3, &[]), []);
    }

    #[test]
    fn a_repeat_is_twice_and_a_late_event_is_disorder() {
        assert_eq!(faults(&[Event(1), Event(1), Event(2)], 2, &[]), [(ViolationKind::Twice, 1, 1)]);
        assert_eq!(faults(&[Event(2), Event(1), Event(3)], 3, &[]), [(ViolationKind::Disorder, 1, 1)]);
    }

    #[test]
    fn a_publish_with_an_unknown_outcome_is_excused() {
        assert_eq!(faults(&[Event(1), Event(4)], 6, &[2, 3, 5, 6]), []);
        assert_eq!(faults(&[Event(1), Event(3), Event(4)], 4, &[3]), [(ViolationKind::Lost, 2, 1)]);
    }

    const KEYS: WatchKeys = WatchKeys { seed: 1, keys: 8 };

    /// Account of a reader with keys, and numbers of events that it must get.
    fn watching() -> (Account, Vec<u64>) {
        let mut account = Account::new("ws-1".into(), 0);
        let watch = WatchSet::new(KEYS, 0, 4, &mut Dice(5));
        let due = (1..100).filter(|n| watch.must_come(*n)).collect();
        account.watch = Some(watch);
        (account, due)
    }

    #[test]
    fn a_reader_with_keys_misses_only_events_of_these() {
        let kinds = |account: &Account| account.faults.iter().map(|f| (f.kind, f.n)).collect::<Vec<_>>();
        let (mut account, due) = watching();
        for n in due {
            account.event(n, "e", &Ids::default());
        }
        account.event(100, "e", &Ids::default());
        account.close(100, &BTreeSet::new());
        assert_eq!(kinds(&account), []);

        let (mut account, due) = watching();
        due.iter().filter(|n| **n != due[3]).for_each(|n| account.event(*n, "e", &Ids::default()));
        account.close(100, &BTreeSet::new());
        assert_eq!(
            kinds(&account),
            [(ViolationKind::Lost, 100), (ViolationKind::Lost, due[3])],
            "and the end"
        );
    }

    #[test]
    fn events_around_a_change_are_excused_and_later_ones_are_not() {
        let (mut account, due) = watching();
        account.event(due[0], "e", &Ids::default());
        let mut dice = Dice(1);
        let watch = account.watch.as_mut().expect("keys");
        let change = loop {
            match watch.change(&mut dice) {
                Some(change) if !change.add.is_empty() => break change,
                Some(_) => watch.confirmed(),
                None => {}
            }
        };
        let added = |n: &u64| change.add.contains(&KEYS.of(0, *n));
        let come = |account: &mut Account, numbers: std::ops::Range<u64>| {
            let numbers: Vec<u64> = numbers.filter(|n| account.must_come(*n)).collect();
            for n in numbers {
                account.event(n, "e", &Ids::default());
            }
        };
        // An event of the added key that is older than the change, and so is never delivered.
        let older = (due[0] + 1..500).find(added).expect("an event");
        come(&mut account, due[0] + 1..older);
        account.watch.as_mut().expect("keys").confirmed();
        let first = (older + 1..500).find(|n| account.must_come(*n)).expect("an event");
        come(&mut account, first..first + 1);
        assert!(account.holes.is_empty(), "{:?}", account.holes);
        // Another event of the added key, newer than the change.
        let newer = (first + 1..500).find(added).expect("an event");
        come(&mut account, first + 1..newer);
        come(&mut account, newer + 1..newer + 50);
        assert!(account.holes.contains_key(&newer), "{:?}", account.holes);
    }

    #[test]
    fn all_readers_see_one_id() {
        let ids = Ids::default();
        let mut one = Account::new("ws-1".into(), 0);
        let mut other = Account::new("sse-1".into(), 0);
        one.event(1, "e-1", &ids);
        other.event(1, "e-2", &ids);
        assert!(one.faults.is_empty());
        assert_eq!(other.faults[0].kind, ViolationKind::Changed);
    }
}

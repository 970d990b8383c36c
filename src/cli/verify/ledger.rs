//! What a reader was owed and what it got, number by number. Imports nothing of ours.
//!
//! Always: an event that did not come is excused by a gap at its place, by a publish whose end nobody knows, or is a
//! fault; each fault is told once, with the events beside it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Mutex;

use serde::Serialize;

/// What a server did that it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// An event never came, and no gap told of it.
    Lost,
    /// An event came again.
    Twice,
    /// An event came behind a later one.
    Disorder,
    /// An event is not what was published, or has another id elsewhere.
    Changed,
    /// An event came that was not asked for.
    Unwanted,
    /// A reader could not come back.
    Away,
}

impl Kind {
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

/// One fault, as a report has it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) reader: String,
    pub(super) lane: usize,
    /// The event's number in its lane; the first of them.
    pub(super) n: u64,
    /// How many events it is about.
    pub(super) events: u64,
    /// Which of the reader's connections it was.
    pub(super) connection: u64,
    pub(super) text: String,
}

/// An event as it came: its number in the lane and its id.
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

/// What gaps told since the last event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    Missed(u64),
    /// A gap, and nobody knows of how many.
    Unknown,
}

impl Told {
    /// How many missing events that excuses.
    fn excuses(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Missed(missed) => missed,
            Self::Unknown => u64::MAX,
        }
    }
}

/// Where events are missing: what came before and after, and on which connection.
#[derive(Debug)]
struct Hole {
    before: Option<Seen>,
    after: Seen,
    connection: u64,
    told: Told,
}

/// Ids that readers saw, so that all see the same: by lane and number.
pub(super) type Ids = Mutex<HashMap<(usize, u64), String>>;

/// One reader's account of its lane.
#[derive(Debug)]
pub(super) struct Account {
    reader: String,
    lane: usize,
    /// The number that comes next.
    next: u64,
    last: Option<Seen>,
    /// Numbers that have not come, each with its place.
    holes: BTreeMap<u64, usize>,
    places: Vec<Hole>,
    told: Told,
    pub(super) connection: u64,
    pub(super) delivered: u64,
    pub(super) gaps: u64,
    /// Events that gaps told of.
    pub(super) missed: u64,
    pub(super) faults: Vec<Fault>,
    /// The last event of the lane came.
    pub(super) is_over: bool,
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
            told: Told::Nothing,
            connection: 0,
            delivered: 0,
            gaps: 0,
            missed: 0,
            faults: Vec::new(),
            is_over: false,
        }
    }

    pub(super) fn reader(&self) -> &str {
        &self.reader
    }

    pub(super) fn lane(&self) -> usize {
        self.lane
    }

    pub(super) fn fault(&mut self, kind: Kind, n: u64, events: u64, text: String) {
        let (reader, lane, connection) = (self.reader.clone(), self.lane, self.connection);
        self.faults.push(Fault { kind, reader, lane, n, events, connection, text });
    }

    /// A gap was told: so many events, or at most so many, or nobody knows.
    pub(super) fn gap(&mut self, missed: Option<u64>, at_most: Option<u64>) {
        self.gaps += 1;
        self.missed += missed.unwrap_or(0);
        self.told = match (self.told, missed.or(at_most)) {
            (Told::Nothing, Some(missed)) => Told::Missed(missed),
            (Told::Missed(told), Some(missed)) => Told::Missed(told.saturating_add(missed)),
            (Told::Unknown, _) | (_, None) => Told::Unknown,
        };
    }

    /// An event of the lane came.
    pub(super) fn event(&mut self, n: u64, id: &str, ids: &Ids) {
        self.delivered += 1;
        let seen = Seen { n, id: id.to_owned() };
        self.compare(&seen, ids);
        if n < self.next {
            let at = format!("on its connection {}", self.connection);
            if self.holes.remove(&n).is_some() {
                let behind = self.last.as_ref().map(ToString::to_string).unwrap_or_default();
                self.fault(Kind::Disorder, n, 1, format!("{seen} came behind {behind}, {at}"));
            } else {
                self.fault(Kind::Twice, n, 1, format!("{seen} came again, {at}"));
            }
            return;
        }
        let told = std::mem::take(&mut self.told);
        if n - self.next > told.excuses() {
            let place = self.places.len();
            let (before, after) = (self.last.clone(), seen.clone());
            self.places.push(Hole { before, after, connection: self.connection, told });
            self.holes.extend((self.next..n).map(|n| (n, place)));
        }
        self.next = n + 1;
        self.last = Some(seen);
    }

    /// Everybody must see an event under the same id.
    fn compare(&mut self, seen: &Seen, ids: &Ids) {
        let mut ids = ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = ids.entry((self.lane, seen.n)).or_insert_with(|| seen.id.clone());
        if *known != seen.id {
            let text = format!("{seen} has the id {known} for another reader, or had it before");
            drop(ids);
            self.fault(Kind::Changed, seen.n, 1, text);
        }
    }

    /// Closes the account: `published` is the lane's last number; of those in `unsure` nobody knows whether they were
    /// published.
    pub(super) fn close(&mut self, published: u64, unsure: &BTreeSet<u64>) {
        let told = std::mem::take(&mut self.told);
        let missing: Vec<u64> = (self.next..=published).filter(|n| !unsure.contains(n)).collect();
        if let Some(first) = missing.first().filter(|_| missing.len() as u64 > told.excuses()) {
            let last =
                self.last.as_ref().map_or_else(|| "nothing came".into(), |last| format!("{last} came last"));
            let text = format!("{} never came: {last}{}", numbers(*first, missing.len()), gap_words(told));
            self.fault(Kind::Lost, *first, missing.len() as u64, text);
        }
        let mut by_place: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for (n, place) in std::mem::take(&mut self.holes) {
            if !unsure.contains(&n) {
                by_place.entry(place).or_default().push(n);
            }
        }
        for (place, missing) in by_place {
            let Hole { before, after, connection, told } = &self.places[place];
            if missing.len() as u64 <= told.excuses() {
                continue;
            }
            let before = before.as_ref().map_or_else(|| "the beginning".into(), ToString::to_string);
            let text = format!(
                "{} never came, between {before} and {after}, on its connection {connection}{}",
                numbers(missing[0], missing.len()),
                gap_words(*told)
            );
            self.fault(Kind::Lost, missing[0], missing.len() as u64, text);
        }
    }
}

fn numbers(first: u64, count: usize) -> String {
    if count == 1 { format!("#{first}") } else { format!("{count} events from #{first} on") }
}

fn gap_words(told: Told) -> String {
    if told == Told::Nothing {
        "; no gap was told".into()
    } else {
        format!("; the gap told of {}", told.excuses())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes: an event's number, or a gap.
    enum Comes {
        Event(u64),
        Gap(Option<u64>),
        Bound(u64),
    }
    use Comes::{Bound, Event, Gap};

    fn faults(what: &[Comes], published: u64, unsure: &[u64]) -> Vec<(Kind, u64, u64)> {
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
    fn what_did_not_come_is_lost_unless_a_gap_told_of_it() {
        assert_eq!(faults(&[Event(1), Event(3)], 3, &[]), [(Kind::Lost, 2, 1)]);
        assert_eq!(faults(&[Event(1), Gap(Some(1)), Event(3)], 3, &[]), []);
        assert_eq!(faults(&[Event(1), Gap(Some(1)), Event(4)], 4, &[]), [(Kind::Lost, 2, 2)]);
        assert_eq!(faults(&[Event(1), Gap(None), Event(9)], 9, &[]), []);
        assert_eq!(faults(&[Event(1), Bound(9), Event(9)], 9, &[]), []);
        assert_eq!(faults(&[Event(1), Bound(6), Event(9)], 9, &[]), [(Kind::Lost, 2, 7)]);
        assert_eq!(faults(&[Event(1), Gap(Some(1)), Event(2), Event(4)], 4, &[]), [(Kind::Lost, 3, 1)]);
        assert_eq!(faults(&[Event(1), Gap(Some(2)), Gap(Some(1)), Event(5)], 5, &[]), []);
    }

    #[test]
    fn the_end_is_owed_too() {
        assert_eq!(faults(&[Event(1)], 3, &[]), [(Kind::Lost, 2, 2)]);
        assert_eq!(faults(&[], 3, &[]), [(Kind::Lost, 1, 3)]);
        assert_eq!(faults(&[Event(1), Gap(Some(2))], 3, &[]), []);
    }

    #[test]
    fn again_is_twice_and_late_is_disorder() {
        assert_eq!(faults(&[Event(1), Event(1), Event(2)], 2, &[]), [(Kind::Twice, 1, 1)]);
        assert_eq!(faults(&[Event(2), Event(1), Event(3)], 3, &[]), [(Kind::Disorder, 1, 1)]);
    }

    #[test]
    fn a_publish_whose_end_nobody_knows_owes_nothing() {
        assert_eq!(faults(&[Event(1), Event(4)], 6, &[2, 3, 5, 6]), []);
        assert_eq!(faults(&[Event(1), Event(3), Event(4)], 4, &[3]), [(Kind::Lost, 2, 1)]);
    }

    #[test]
    fn all_readers_see_one_id() {
        let ids = Ids::default();
        let mut one = Account::new("ws-1".into(), 0);
        let mut other = Account::new("sse-1".into(), 0);
        one.event(1, "e-1", &ids);
        other.event(1, "e-2", &ids);
        assert!(one.faults.is_empty());
        assert_eq!(other.faults[0].kind, Kind::Changed);
    }
}

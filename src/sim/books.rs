//! What was published, what clients may ask for, and what they were told.
//!
//! Imports the event's id. Always: an event is looked up by its id, wanted by a plain `match`, and counted one
//! by one: nothing here is the server's.

use std::rc::Rc;

use crate::event::EventId;

pub(super) const KINDS: [&str; 3] = ["a.b", "a.c", "b.x"];
pub(super) const SOURCES: [&str; 2] = ["s0", "s1"];
pub(super) const STREAMS: [&str; 3] = ["st0", "st1", "st2"];
pub(super) const ENTITIES: u8 = 4;
pub(super) const FILTERS: u8 = 6;

/// An event as it was published.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) kind: u8,
    pub(super) source: u8,
    pub(super) stream: u8,
    pub(super) entity: Option<u8>,
    pub(super) n: u64,
    pub(super) id: EventId,
}

impl Entry {
    /// Whether one of the filters that the simulation knows wants it.
    pub(super) fn is_wanted(&self, filter: u8) -> bool {
        match filter {
            0 => true,
            1 => self.kind == 0,
            2 => self.kind < 2,
            3 => self.source == 1,
            4 => self.kind < 2 && self.source == 0,
            _ => self.entity == Some(1),
        }
    }

    /// What it is about, for who conflates.
    pub(super) fn key(&self) -> (u8, Option<u8>, u8) {
        (self.kind, self.entity, if self.entity.is_some() { 0 } else { self.stream })
    }
}

/// What a client asks for when it lags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    DropOldest,
    DropNewest,
    Conflate,
    Sample(u32),
    Disconnect,
}

impl Policy {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::DropOldest => "drop_oldest",
            Self::DropNewest => "drop_newest",
            Self::Conflate => "conflate",
            Self::Sample(_) => "sample",
            Self::Disconnect => "disconnect",
        }
    }

    pub(super) fn is_thin(self) -> bool {
        matches!(self, Self::Conflate | Self::Sample(_))
    }
}

/// What a connection wants.
#[derive(Clone, Debug, Default)]
pub(super) struct Interest(pub(super) Vec<(u8, Policy)>);

impl Interest {
    pub(super) fn wants(&self, entry: &Entry) -> bool {
        self.0.iter().any(|(filter, _)| entry.is_wanted(*filter))
    }

    /// What it wants done with an event for a client that lags: of several, what leaves out least.
    pub(super) fn least(&self, entry: &Entry) -> Option<Policy> {
        let order = |policy: &Policy| match policy {
            Policy::Conflate => 1,
            // The rarer leaves out more.
            Policy::Sample(rate) => u64::from(u32::MAX - rate) + 2,
            _ => 0,
        };
        let wanting = self.0.iter().filter(|(filter, _)| entry.is_wanted(*filter));
        wanting.map(|(_, policy)| *policy).min_by_key(order)
    }

    pub(super) fn is_thin(&self) -> bool {
        self.0.iter().any(|(_, policy)| policy.is_thin())
    }
}

/// Where a subscription asked to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// Behind this event.
    After(u64),
    /// Behind one that never was.
    Unknown,
    Newest(usize),
    Snapshot,
}

/// A past that a subscription asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) from: From,
    /// The connection's other subscriptions, and the event from which on each brought what it wants; none: all of it.
    pub(super) beside: Vec<(u8, Option<u64>)>,
    /// Beginning as the answer to the subscribe told it; a stream has none.
    pub(super) start: Option<Start>,
}

/// Beginning of a past, as the answer to its subscribe tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// The first event that the past may begin with.
    pub(super) first: Option<u64>,
    pub(super) complete: Option<bool>,
}

impl Past {
    /// Whether it is the resume of a connection that wanted nothing before.
    pub(super) fn is_resume(&self) -> bool {
        matches!(self.from, From::After(_)) && self.beside.is_empty()
    }
}

/// One thing that a connection was told.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    /// The event with this number in the log.
    Event(u64),
    Gap {
        missed: Option<u64>,
        /// An upper bound, where the number is not known.
        at_most: Option<u64>,
        from: Option<EventId>,
        to: Option<EventId>,
        recoverable: bool,
    },
    /// An answer said that all up to this event had come before.
    UpTo(u64),
    /// The past that was asked for last is over.
    PastEnd { events: u64, complete: bool },
    /// From here on it wants something else. The bus was between `low` and `high` when the server took note; with
    /// several shards its reader was at `cursors` in them, which need not be all that came first.
    Change { interest: Interest, from: Option<Past>, cursors: Rc<[u64]>, low: u64, high: u64 },
}

/// How many of the events were counted before each place.
#[derive(Debug)]
pub(super) struct Sums(Vec<u64>);

impl Sums {
    /// How many are among `from..to`.
    pub(super) fn between(&self, from: u64, to: u64) -> u64 {
        self.0[to.max(from) as usize] - self.0[from as usize]
    }
}

/// All that was published.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) entries: Vec<Entry>,
    pub(super) by_shard: Vec<Vec<u64>>,
    pub(super) capacity: u64,
}

impl Log {
    pub(super) fn new(shards: usize, capacity: usize) -> Self {
        Self { entries: Vec::new(), by_shard: vec![Vec::new(); shards], capacity: capacity as u64 }
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let shard = &mut self.by_shard[usize::from(entry.id.shard)];
        assert_eq!(shard.len() as u64, entry.id.sequence, "sequences have no holes");
        shard.push(self.entries.len() as u64);
        self.entries.push(entry);
    }

    pub(super) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(super) fn find(&self, id: EventId) -> Option<u64> {
        let entry = *self.by_shard.get(usize::from(id.shard))?.get(id.sequence as usize)?;
        (self.entries[entry as usize].id == id).then_some(entry)
    }

    pub(super) fn entry(&self, number: u64) -> &Entry {
        &self.entries[number as usize]
    }

    /// Counts those that are wanted and not excused.
    pub(super) fn sums(&self, wants: impl Fn(&Entry) -> bool, excused: &[(u64, u64)]) -> Sums {
        let mut sums = Vec::with_capacity(self.entries.len() + 1);
        let mut sum = 0;
        sums.push(0);
        for (entry, n) in self.entries.iter().zip(0..) {
            let is_due = wants(entry) && !excused.iter().any(|(from, to)| (*from..*to).contains(&n));
            sum += u64::from(is_due);
            sums.push(sum);
        }
        Sums(sums)
    }

    pub(super) fn place(&self, id: Option<EventId>) -> Option<u64> {
        id.and_then(|id| self.find(id))
    }
}

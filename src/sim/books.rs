//! Record of a run: the published events, the interests of clients, and the messages that clients received.
//!
//! Invariant: no code of the server is used. Events are found by id, matched by a plain `match`, and counted one by
//! one.

use std::rc::Rc;

use crate::event::EventId;

/// First filter on an entity. A retain rule keeps every event with an entity.
pub(super) const KEPT: u8 = 5;
pub(super) const KINDS: [&str; 3] = ["a.b", "a.c", "b.x"];
pub(super) const SOURCES: [&str; 2] = ["s0", "s1"];
pub(super) const STREAMS: [&str; 3] = ["st0", "st1", "st2"];
pub(super) const ENTITIES: u8 = 4;
pub(super) const FILTERS: u8 = 6;
/// Filters with this number and above are lists of entities: each lower bit stands for one entity.
pub(super) const LISTS: u8 = 64;

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
    /// Returns whether a filter of the simulation matches the event.
    pub(super) fn is_wanted(&self, filter: u8) -> bool {
        match filter {
            0 => true,
            1 => self.kind == 0,
            2 => self.kind < 2,
            3 => self.source == 1,
            4 => self.kind < 2 && self.source == 0,
            LISTS.. => self.entity.is_some_and(|entity| filter & 1 << entity != 0),
            _ => self.entity == Some(1),
        }
    }

    /// Returns the event's key for conflation.
    pub(super) fn key(&self) -> (u8, Option<u8>, u8) {
        (self.kind, self.entity, if self.entity.is_some() { 0 } else { self.stream })
    }
}

/// Lag policy of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    DropOldest,
    DropNewest,
    CatchUp,
    /// Catches up, with neighbours merged.
    Concat,
    Conflate,
    Sample(u32),
    Disconnect,
}

impl Policy {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::DropOldest => "drop_oldest",
            Self::DropNewest => "drop_newest",
            Self::CatchUp => "catch_up",
            Self::Concat => "concat",
            Self::Conflate => "conflate",
            Self::Sample(_) => "sample",
            Self::Disconnect => "disconnect",
        }
    }

    pub(super) fn catches_up(self) -> bool {
        matches!(self, Self::CatchUp | Self::Concat)
    }

    pub(super) fn may_omit(self) -> bool {
        matches!(self, Self::Conflate | Self::Sample(_))
    }
}

/// Filters and policies of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Interest(pub(super) Vec<(u8, Policy)>);

impl Interest {
    pub(super) fn wants(&self, entry: &Entry) -> bool {
        self.0.iter().any(|(filter, _)| entry.is_wanted(*filter))
    }

    /// Returns the policy for an event. If several subscriptions match, the policy that omits the fewest events
    /// applies.
    pub(super) fn least(&self, entry: &Entry) -> Option<Policy> {
        let order = |policy: &Policy| match policy {
            Policy::Conflate => 1,
            // A lower rate omits more events.
            Policy::Sample(rate) => u64::from(u32::MAX - rate) + 2,
            _ => 0,
        };
        let wanting = self.0.iter().filter(|(filter, _)| entry.is_wanted(*filter));
        wanting.map(|(_, policy)| *policy).min_by_key(order)
    }

    pub(super) fn may_omit(&self) -> bool {
        self.0.iter().any(|(_, policy)| policy.may_omit())
    }
}

/// Requested start of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// After this event.
    After(u64),
    /// After an event that never existed.
    Unknown,
    Newest(usize),
    Snapshot,
    /// At the first retained event.
    Start,
}

/// Past that a subscription requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) from: From,
    /// Filters of the connection's other subscriptions, and the first event that each delivers; `None`: every event.
    pub(super) beside: Vec<(u8, Option<u64>)>,
    /// Beginning, as the reply to the subscribe gives it. An event stream has no reply.
    pub(super) start: Option<Start>,
}

/// Beginning of a past, as the reply to its subscribe gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// First event that the past may begin with.
    pub(super) first: Option<u64>,
    pub(super) complete: Option<bool>,
}

impl Past {
    /// Returns whether the past resumes a connection that had no other subscription.
    pub(super) fn is_resume(&self) -> bool {
        matches!(self.from, From::After(_)) && self.beside.is_empty()
    }
}

/// One item that a connection received.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    /// Event with this number in the log.
    Event(u64),
    Gap {
        missed: Option<u64>,
        /// Upper bound, if the number is not known.
        at_most: Option<u64>,
        from: Option<EventId>,
        to: Option<EventId>,
        recoverable: bool,
    },
    /// Reply which says that all events up to this one were delivered before.
    UpTo(u64),
    /// End of the most recently requested past.
    PastEnd { events: u64, complete: bool },
    /// Change of the interest. The bus had between `low` and `high` events when the server applied it. With several
    /// shards, `cursors` are the positions of the loop's reader in them; it may have read some events later than
    /// others.
    Change { interest: Interest, from: Option<Past>, cursors: Rc<[u64]>, low: u64, high: u64 },
}

/// Number of counted events before each position in the log.
#[derive(Debug)]
pub(super) struct Sums(Vec<u64>);

impl Sums {
    /// Returns the number of counted events in `from..to`.
    pub(super) fn between(&self, from: u64, to: u64) -> u64 {
        self.0[to.max(from) as usize] - self.0[from as usize]
    }
}

/// All published events.
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

    /// Counts the events that `wants` accepts, except those in the `excused` ranges.
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

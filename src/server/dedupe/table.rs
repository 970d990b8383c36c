//! The table of names, without a clock: every call passes the time.
//!
//! Invariants:
//! - A name is claimed by at most one publication at a time, and a publication claims all its names or none.
//! - Accepted and uncertain names are forgotten in the order in which they were settled: after the window, or earlier if
//!   there are too many. A refused publication leaves no name.
//! - A claim in flight is not forgotten. Its publication is held within the limits of the engine's queue and of batches.
//! - A call forgets a bounded number of names more than it adds.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::super::tick::Tick;
use crate::event::EventId;

/// Maximum number of publications that wait for others, all names together.
const WAITERS_MAX: usize = 1024;

/// Maximum number of names that a call drops, in addition to as many as it adds.
const FORGET_MAX: usize = 64;

/// Memory of a name without its text, in bytes: the entry in the map, the place in the queue, and the text's header.
const ENTRY_BYTES: usize = 192;

/// Memory of a waiter without its publication, in bytes.
const WAITER_BYTES: usize = 192;

/// Time of the table at the first tick of its process. Outcomes of a predecessor lie before it.
pub(super) const BEGIN: Tick = 1 << 40;

/// Limits of the table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TableLimits {
    /// Time for which an outcome is remembered, in ticks.
    pub(super) window: Tick,
    pub(super) names: usize,
    pub(super) bytes: usize,
}

/// Key or id within its scope. The length of the scope makes the text unambiguous.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name(pub(super) Arc<str>);

impl Name {
    /// Returns the name of a request with an idempotency key.
    pub(super) fn of_request(scope: &str, key: &str) -> Self {
        Self(format!("r{}:{scope}{key}", scope.len()).into())
    }

    /// Returns the form in which an engine's log names one event of a request with this name.
    pub(super) fn part(&self, at: usize) -> String {
        format!("p{at}/{}", self.0)
    }

    /// Reads the form of [`part`](Self::part): the request's name, and the number of the event.
    pub(super) fn read_part(text: &str) -> Option<(Self, u32)> {
        let (at, request) = text.strip_prefix('p')?.split_once('/')?;
        Some((Self(request.into()), at.parse().ok()?))
    }

    /// Returns the name of an event with a dedupe id.
    pub(super) fn of_event(scope: &str, id: &str) -> Self {
        Self(format!("e{}:{scope}{id}", scope.len()).into())
    }

    /// Returns the ids of a publication whose event with this name was read from the log. A request's name is at its last
    /// event.
    fn read(&self, id: EventId) -> AcceptedIds {
        AcceptedIds { first: Some(id).filter(|_| self.is_of_event()), last: Some(id) }
    }

    /// Returns whether it names an event, not a request.
    fn is_of_event(&self) -> bool {
        self.0.starts_with('e')
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.0.len()
    }
}

/// Events of a publication with a key that were read from the log, while its last event was not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartialIds {
    /// Numbers of the events in the publication, in ascending order.
    pub(super) numbers: Vec<u32>,
    /// Id of the last one that was read.
    pub(super) last: EventId,
}

impl PartialIds {
    fn bytes(&self) -> usize {
        self.numbers.capacity() * size_of::<u32>() + size_of::<Self>()
    }
}

/// Ids of a publication that was accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AcceptedIds {
    /// Id of its first event, if it is known.
    pub(crate) first: Option<EventId>,
    /// Id of its last event.
    pub(crate) last: Option<EventId>,
}

/// Outcome of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// All of it was accepted.
    Accepted(AcceptedIds),
    /// None of it was accepted, except events that were read from the log meanwhile.
    Refused,
    /// All of it may have been accepted, or none.
    Uncertain,
}

/// Answer to a publication that is not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// All its events were accepted before.
    Accepted(AcceptedIds),
    /// A part of it may have been accepted before.
    Uncertain,
    /// The publication's key was used for another request.
    OtherBody,
    /// Another publication with one of its names is in flight, and it can't wait for that.
    Busy,
}

/// Callback for a publication that waits until another one with one of its names is settled.
pub(crate) type SettledCallback = Box<dyn FnOnce() + Send>;

/// Events of a publication that are new.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fresh {
    /// Whether each event is new.
    pub(crate) is_fresh: Vec<bool>,
    /// Id under which the last duplicate was published.
    pub(crate) known: Option<EventId>,
}

/// Outcome of a claim.
pub(super) enum Claimed {
    Names { names: Vec<Name>, number: u64, fresh: Fresh },
    Answered(Answered),
    Waits,
}

#[derive(Debug)]
pub(super) enum NameState {
    /// A publication with this name is in flight. The id is that of the event if the log already has it.
    InFlight(Option<EventId>),
    Accepted(AcceptedIds),
    Uncertain,
    /// Some events of the publication are in the log: its node ended midway, or it is not read to its end.
    Partial,
}

#[derive(Debug)]
pub(super) struct NameEntry {
    /// Digest of the request, for a key.
    pub(super) digest: u64,
    /// Number of the claim.
    pub(super) number: u64,
    pub(super) state: NameState,
    /// Time when the claim was settled.
    pub(super) since: Tick,
    /// For a key: the events that the log is known to have.
    pub(super) parts: Option<Box<PartialIds>>,
}

impl NameEntry {
    fn part_bytes(&self) -> usize {
        self.parts.as_ref().map_or(0, |parts| parts.bytes())
    }
}

/// Names of publications with their outcomes.
#[derive(Default)]
pub(super) struct NameTable {
    pub(super) limits: TableLimits,
    pub(super) entries: HashMap<Name, NameEntry>,
    /// Settled names with the number of their claim, in the order in which they were settled. A name may have been
    /// claimed again since, under another number.
    pub(super) settled: VecDeque<(Tick, u64, Name)>,
    /// Publications that wait, by the number of the claim that they wait for.
    waiters: HashMap<u64, Vec<SettledCallback>>,
    waiting: usize,
    /// Latest time that a call passed, after [`BEGIN`].
    pub(super) now: Tick,
    /// Number of claims so far.
    claims: u64,
    /// Memory of the names, in bytes.
    bytes: usize,
    /// Number of names that were forgotten before their time.
    forgotten: u64,
}

impl NameTable {
    /// Creates a table without names.
    pub(super) fn new(limits: TableLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Claims the key and the ids of a publication. `ids` has an item for each of its events.
    pub(super) fn claim(
        &mut self,
        now: Tick,
        key: Option<(Name, u64)>,
        ids: Vec<Option<Name>>,
        waiter: Option<impl FnOnce() -> SettledCallback>,
    ) -> Claimed {
        self.now = self.now.max(BEGIN + now);
        let count = ids.len();
        self.forget(FORGET_MAX + 2 * count);
        if let Some(claimed) = self.known(key.as_ref(), &ids, waiter) {
            return claimed;
        }
        self.claims += 1;
        let number = self.claims;
        let mut names = Vec::with_capacity(count + 1);
        let mut fresh = Fresh { is_fresh: Vec::with_capacity(count), known: None };
        let mut is_known = vec![false; count];
        if let Some((name, digest)) = key {
            let parts = self.take_parts(&name, digest);
            self.insert(name.clone(), digest, number);
            if let Some(parts) = parts {
                fresh.known = Some(parts.last);
                for at in &parts.numbers {
                    // A number beyond the publication was not written by a node.
                    if let Some(is_known) = is_known.get_mut(*at as usize) {
                        *is_known = true;
                    }
                }
                self.bytes += parts.bytes();
                self.entries.entry(name.clone()).and_modify(|entry| entry.parts = Some(parts));
            }
            names.push(name);
        }
        for (name, is_known) in ids.into_iter().zip(is_known) {
            let Some(name) = name else {
                fresh.is_fresh.push(!is_known);
                continue;
            };
            match self.look(&name).map(|entry| &entry.state) {
                None => {
                    self.insert(name.clone(), 0, number);
                    names.push(name);
                    fresh.is_fresh.push(true);
                }
                Some(NameState::Accepted(ids)) => {
                    fresh.known = ids.last;
                    fresh.is_fresh.push(false);
                }
                // An earlier event of this publication has the same id.
                Some(_) => fresh.is_fresh.push(false),
            }
        }
        Claimed::Names { names, number, fresh }
    }

    /// Returns the answer to a publication that must not be published now.
    fn known(
        &mut self,
        key: Option<&(Name, u64)>,
        ids: &[Option<Name>],
        waiter: Option<impl FnOnce() -> SettledCallback>,
    ) -> Option<Claimed> {
        if let Some((name, digest)) = key
            && let Some(entry) = self.look(name)
        {
            match entry.state {
                // A repetition completes it. Another request may have been refused in part.
                NameState::Partial => {}
                _ if entry.digest != *digest => return Some(Claimed::Answered(Answered::OtherBody)),
                NameState::Accepted(ids) => return Some(Claimed::Answered(Answered::Accepted(ids))),
                NameState::Uncertain => return Some(Claimed::Answered(Answered::Uncertain)),
                NameState::InFlight(_) => {
                    let number = entry.number;
                    return Some(self.wait(number, waiter));
                }
            }
        }
        let mut known: Option<AcceptedIds> = None;
        let mut are_all_accepted = !ids.is_empty();
        let mut in_flight = None;
        for name in ids {
            let Some(entry) = name.as_ref().and_then(|name| self.look(name)) else {
                are_all_accepted = false;
                continue;
            };
            match entry.state {
                NameState::Accepted(ids) => {
                    known = Some(AcceptedIds { first: known.map_or(ids.first, |known| known.first), ..ids });
                }
                NameState::Uncertain => return Some(Claimed::Answered(Answered::Uncertain)),
                NameState::InFlight(_) => in_flight = Some(entry.number),
                // Names of events have no parts.
                NameState::Partial => are_all_accepted = false,
            }
        }
        if let Some(number) = in_flight {
            return Some(self.wait(number, waiter));
        }
        // A key is remembered too, so it takes a claim.
        (are_all_accepted && key.is_none())
            .then_some(Claimed::Answered(Answered::Accepted(known.unwrap_or_default())))
    }

    fn wait(&mut self, number: u64, waiter: Option<impl FnOnce() -> SettledCallback>) -> Claimed {
        let Some(waiter) = waiter.filter(|_| self.waiting < WAITERS_MAX) else {
            return Claimed::Answered(Answered::Busy);
        };
        self.waiting += 1;
        self.waiters.entry(number).or_default().push(waiter());
        Claimed::Waits
    }

    /// Returns the entry of a name, unless it has expired.
    fn look(&self, name: &Name) -> Option<&NameEntry> {
        self.entries.get(name).filter(|entry| {
            matches!(entry.state, NameState::InFlight(_)) || self.age(entry.since) < self.limits.window
        })
    }

    fn age(&self, since: Tick) -> Tick {
        self.now.saturating_sub(since)
    }

    fn insert(&mut self, name: Name, digest: u64, number: u64) {
        let bytes = name.bytes();
        let entry = NameEntry { digest, number, state: NameState::InFlight(None), since: 0, parts: None };
        // An expired entry may still be there.
        match self.entries.insert(name, entry) {
            Some(expired) => self.bytes -= expired.part_bytes(),
            None => self.bytes += bytes,
        }
    }

    /// Takes the events of a publication that the log is known to have.
    fn take_parts(&mut self, name: &Name, digest: u64) -> Option<Box<PartialIds>> {
        self.look(name).filter(|entry| entry.digest == digest)?;
        let parts = self.entries.get_mut(name)?.parts.take()?;
        self.bytes -= parts.bytes();
        Some(parts)
    }

    /// Ends a claim, and returns the publications that have waited for it.
    pub(super) fn settle(&mut self, names: &[Name], number: u64, outcome: Settled) -> Vec<SettledCallback> {
        let state = |name: &Name, seen: Option<EventId>, has_parts: bool| match (outcome, seen) {
            (Settled::Accepted(ids), _) => Some(NameState::Accepted(ids)),
            // The publication's answer was lost, but the event has been read from the log.
            (Settled::Uncertain, Some(id)) => Some(NameState::Accepted(name.read(id))),
            (Settled::Uncertain, None) => Some(NameState::Uncertain),
            // The publication was refused in part, and the log has this event.
            (Settled::Refused, Some(id)) if name.is_of_event() => Some(NameState::Accepted(name.read(id))),
            (Settled::Refused, _) => has_parts.then_some(NameState::Partial),
        };
        for name in names {
            let Some(entry) = self.entries.get_mut(name).filter(|entry| entry.number == number) else {
                continue;
            };
            let NameState::InFlight(seen) = entry.state else { continue };
            match state(name, seen, entry.parts.is_some()) {
                Some(state) => {
                    if matches!(state, NameState::Accepted(_)) {
                        self.bytes -= entry.part_bytes();
                        entry.parts = None;
                    }
                    (entry.state, entry.since) = (state, self.now);
                    self.settled.push_back((self.now, number, name.clone()));
                }
                None => self.remove(name),
            }
        }
        self.forget(FORGET_MAX);
        let waiters = self.waiters.remove(&number).unwrap_or_default();
        self.waiting -= waiters.len();
        waiters
    }

    /// Forgets at most `most` names: expired ones, and the oldest beyond the limits.
    fn forget(&mut self, most: usize) {
        let mut left = most;
        while let Some((since, number, _)) = self.settled.front() {
            let is_over = self.age(*since) >= self.limits.window;
            let are_too_many = self.entries.len() > self.limits.names || self.bytes > self.limits.bytes;
            if !are_too_many && (!is_over || left == 0) {
                break;
            }
            left = left.saturating_sub(1);
            let number = *number;
            let Some((_, _, name)) = self.settled.pop_front() else { break };
            let is_it = |entry: &NameEntry| entry.number == number;
            if self.entries.get(&name).is_some_and(is_it) {
                self.forgotten += u64::from(!is_over);
                self.remove(&name);
            }
        }
    }

    fn remove(&mut self, name: &Name) {
        if let Some(entry) = self.entries.remove(name) {
            self.bytes -= name.bytes() + entry.part_bytes();
        }
    }

    /// Adds an outcome that is not known here. It was settled `age` ticks ago.
    pub(super) fn remember(&mut self, name: Name, digest: u64, state: NameState, age: Tick) {
        if age >= self.limits.window || self.look(&name).is_some() {
            return;
        }
        self.claims += 1;
        let (number, since) = (self.claims, self.now.saturating_sub(age));
        self.insert(name.clone(), digest, number);
        if let Some(entry) = self.entries.get_mut(&name) {
            (entry.state, entry.since) = (state, since);
        }
        self.settled.push_back((since, number, name));
        self.forget(FORGET_MAX);
    }

    /// Records that the log has an event with this name, which it accepted `age` ticks ago.
    pub(super) fn learn(&mut self, now: Tick, name: Name, digest: u64, id: EventId, age: Tick) {
        self.now = self.now.max(BEGIN + now);
        match self.entries.get_mut(&name).map(|entry| (entry.part_bytes(), entry)) {
            Some((_, NameEntry { state: NameState::InFlight(seen), .. })) => *seen = Some(id),
            Some((bytes, entry)) if matches!(entry.state, NameState::Uncertain | NameState::Partial) => {
                (entry.state, entry.parts) = (NameState::Accepted(name.read(id)), None);
                self.bytes -= bytes;
            }
            _ => {
                let ids = name.read(id);
                self.remember(name, digest, NameState::Accepted(ids), age);
            }
        }
    }

    /// Records that the log has the event with this number of a publication with a key, which was accepted `age` ticks ago.
    pub(super) fn learn_part(
        &mut self,
        now: Tick,
        (name, digest): (Name, u64),
        at: u32,
        id: EventId,
        age: Tick,
    ) {
        self.now = self.now.max(BEGIN + now);
        if self.look(&name).is_none() {
            self.remember(name.clone(), digest, NameState::Partial, age);
        }
        let Some(entry) = self.entries.get_mut(&name) else { return };
        if matches!(entry.state, NameState::Accepted(_)) {
            return;
        }
        let before = entry.part_bytes();
        if entry.digest != digest {
            if !matches!(entry.state, NameState::Partial) {
                return;
            }
            // An earlier publication under this name was refused in part.
            (entry.digest, entry.parts) = (digest, None);
        }
        let new = || Box::new(PartialIds { numbers: Vec::new(), last: id });
        let parts = entry.parts.get_or_insert_with(new);
        parts.last = id;
        if let Err(place) = parts.numbers.binary_search(&at) {
            // At the end, unless the events are in several shards.
            parts.numbers.insert(place, at);
        }
        self.bytes = self.bytes - before + entry.part_bytes();
    }

    /// Returns the memory of the names and the waiters, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes + self.waiting * WAITER_BYTES
    }

    /// Returns the number of names, and the number of those that were forgotten before their time.
    pub(super) fn counts(&self) -> (usize, u64) {
        (self.entries.len(), self.forgotten)
    }
}

//! All kept logs of a server: records events by rule, and evicts logs by count, bytes and time.
//!
//! Invariants:
//! - Each event is recorded once, whichever loop reads it first, in the order that all loops read; with an engine by its
//!   follower, in the log's order (`followed`).
//! - A hole in that order is recorded: each reader that passes it receives a gap, and no log with a hole in its newest
//!   life is complete.
//! - Publishers see events that were accepted and not recorded yet, so two of them can't both append after the same
//!   event of a log.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use slab::Slab;
use smallvec::{SmallVec, smallvec};

use super::follow_state::FollowedLog;
use super::log::{KeptLog, Links, LogEnd, LogLife, LogName, ShardPlace, place_after, place_at};
use super::lost::{LostNames, Purges};
use super::packed::{Entry, PackedEvents};
use super::recent::RecentEvents;
use super::rule::{RetainBy, RetainConfig, RetainRule};
use super::seen::SeenEvents;
use crate::event::{Event, EventId, Since, Timestamp};
use crate::filter::Filter;

/// Maximum number of entries that one call evicts from the log that is written.
const EVICTED_A_CALL: usize = 64;

/// Maximum number of segments of evicted logs that one call frees.
const FREED_A_CALL: usize = 4;

/// Minimum number of ends kept for loops that read the event later.
const ENDS_MAX: usize = 4096;

/// Maximum number of holes in the order of recording that are kept apart.
const HOLES_MAX: usize = 64;

/// Memory of a log's entry among the accepted publications, in bytes.
const ACCEPTED_BYTES: usize = size_of::<LogName>() + 64;

/// Rule that is in force, or was.
#[derive(Debug)]
pub(super) struct RuleInForce {
    pub(super) rule: RetainRule,
    /// Place of the next event of each shard when it came into force.
    pub(super) since: Box<[ShardPlace]>,
    /// Whether it was in force from the first event on.
    is_whole: bool,
    /// Whether the rule still applies to new events. A rule that no longer applies stays while it has logs.
    pub(super) is_active: bool,
    /// The rule's logs, from the least to the most recently written.
    oldest: Option<usize>,
    newest: Option<usize>,
}

/// Last event of a publication in a log, which was accepted and is not recorded yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct AcceptedEntry {
    /// Number of the publication, if it is on its way to an engine.
    pub(super) ticket: u64,
    /// Id, once the engine has given it.
    pub(super) id: Option<EventId>,
    pub(super) is_end: bool,
}

/// Logs with publications that are under way.
#[derive(Debug, Default)]
pub(super) struct LogsInUse {
    /// By log: publications that are not recorded yet, in their order.
    pub(super) accepted: HashMap<LogName, SmallVec<[AcceptedEntry; 1]>>,
    /// Logs that take nothing until a long batch is published.
    pub(super) held: HashSet<LogName>,
}

/// State of a log for publishers, including events that were accepted and not recorded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogHead {
    /// Newest event; `None` while it is on its way to an engine and has no id.
    pub(crate) last: Option<EventId>,
    /// Whether that event ended the log.
    pub(crate) is_ended: bool,
}

/// Error: a request names or matches more logs than a request may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyLogs {
    /// Limit.
    pub(crate) max: usize,
}

impl std::fmt::Display for TooManyLogs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the filter names or matches more than {} kept logs (retain_max_logs_read): narrow it (docs/runs.md)",
            self.max
        )
    }
}

/// Logs that a filter names by value and that can end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NamedLogs {
    pub(crate) names: Vec<LogName>,
    /// Whether the filter selects no other log, by value or by pattern. Then its subscription is complete when these
    /// logs have ended.
    pub(crate) is_closed: bool,
}

/// Counts from which logs and events get their numbers.
#[derive(Debug)]
struct RecordedCounts {
    /// Number of logs made so far.
    logs: u64,
    /// Number of the next recorded event, from 1.
    next_event: u64,
    /// Number of times that the rules were replaced.
    rule_changes: u64,
}

/// Logs in the order of recording, and what is known of evicted logs.
#[derive(Debug)]
pub(crate) struct KeptLogs {
    pub(super) rules: Slab<RuleInForce>,
    /// Rules in force, in the order of the settings.
    active: Vec<usize>,
    pub(super) limits: RetainConfig,
    pub(super) names: [HashMap<Arc<str>, usize>; RetainBy::ALL.len()],
    /// Boxed, because a growing table would hold up to twice their memory.
    pub(super) logs: Slab<Box<KeptLog>>,
    recent: RecentEvents,
    counts: RecordedCounts,
    /// Place of the next event of each shard.
    pub(super) next: Box<[ShardPlace]>,
    pub(super) holes: Holes,
    /// Whether a loop has begun to read.
    has_begun: bool,
    /// Whether every event since the bus, or the engine's log, began was recorded.
    pub(super) is_whole: bool,
    /// Memory of the logs, in bytes.
    bytes: usize,
    pub(super) past: PastLogs,
    pub(super) publishing: LogsInUse,
    /// State of logs that are made from an engine's log; `None` without one.
    pub(super) followed: Option<Box<FollowedLog>>,
}

/// Place in the order of recording at which events are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    /// Number of the next event.
    pub(super) number: u64,
    /// First event that was not recorded.
    pub(super) first: EventId,
    /// Last event that was not recorded.
    pub(super) last: EventId,
}

/// Holes, oldest first.
#[derive(Debug, Default)]
pub(super) struct Holes {
    newest: VecDeque<Hole>,
    /// Newest hole that was dropped from the list.
    forgotten: Option<Hole>,
    /// Time since which every event was recorded by the rules in force; `None` until the next event.
    known_since: Option<Timestamp>,
}

impl Holes {
    fn add(&mut self, hole: Hole) {
        self.known_since = None;
        self.newest.push_back(hole);
        if self.newest.len() > HOLES_MAX {
            self.forgotten = self.newest.pop_front();
        }
    }

    /// Returns the newest hole.
    pub(super) fn last(&self) -> Option<Hole> {
        self.newest.back().copied()
    }

    /// Returns the number of the newest hole; 0 if there is none.
    fn last_number(&self) -> u64 {
        self.last().map_or(0, |hole| hole.number)
    }

    /// Returns the first hole after the event with this number.
    pub(super) fn after(&self, number: u64) -> Option<Hole> {
        let forgotten = self.forgotten.filter(|hole| hole.number > number);
        forgotten.or_else(|| self.newest.iter().copied().find(|hole| hole.number > number))
    }
}

/// Traces of evicted logs, and of lives that ended.
#[derive(Debug, Default)]
pub(super) struct PastLogs {
    pub(super) purges: Purges,
    /// Logs that were evicted while they were open.
    open: LostNames,
    /// All evicted logs.
    all: LostNames,
    /// Values that the events of all logs had, evicted or not, for each attribute by which they are kept.
    pub(super) seen: [SeenEvents; RetainBy::ALL.len()],
    /// Ends by their event, for loops that read the event later.
    ends: HashMap<EventId, Arc<LogEnd>>,
    ends_order: VecDeque<EventId>,
    /// Number of events that may be recorded before a loop reads them.
    pub(super) ends_max: usize,
    /// Entries to free.
    garbage: VecDeque<PackedEvents>,
    garbage_bytes: usize,
}

impl PastLogs {
    fn add_end(&mut self, end: &Arc<LogEnd>) {
        self.ends.insert(end.id, Arc::clone(end));
        self.ends_order.push_back(end.id);
        if self.ends_order.len() > self.ends_max.max(ENDS_MAX)
            && let Some(oldest) = self.ends_order.pop_front()
        {
            self.ends.remove(&oldest);
        }
    }

    /// Frees some entries of evicted logs.
    fn free(&mut self) {
        for _ in 0..FREED_A_CALL {
            let Some(front) = self.garbage.front_mut() else { return };
            self.garbage_bytes -= front.held_bytes();
            if front.drop_segment() {
                self.garbage_bytes += front.held_bytes();
            } else {
                self.garbage.pop_front();
            }
        }
    }

    fn held_bytes(&self) -> usize {
        let end = size_of::<(EventId, Arc<LogEnd>)>() + size_of::<LogEnd>() + size_of::<EventId>();
        let purges = self.purges.held_bytes();
        let seen: usize = self.seen.iter().map(SeenEvents::held_bytes).sum();
        let names = self.open.held_bytes() + self.all.held_bytes();
        names + self.ends.len() * end + self.garbage_bytes + purges + seen
    }
}

impl KeptLogs {
    /// Creates a store without logs, for a bus of this many shards.
    pub(crate) fn new(config: &RetainConfig, shards: usize) -> Self {
        let next: Box<[ShardPlace]> = vec![(0, 0); shards].into();
        let mut store = Self {
            rules: Slab::new(),
            active: Vec::new(),
            limits: RetainConfig::default(),
            names: Default::default(),
            logs: Slab::new(),
            recent: RecentEvents::default(),
            counts: RecordedCounts { logs: 0, next_event: 1, rule_changes: 0 },
            next,
            holes: Holes::default(),
            has_begun: false,
            is_whole: true,
            bytes: 0,
            past: PastLogs::default(),
            publishing: LogsInUse::default(),
            followed: None,
        };
        store.set_rules(config, None);
        store
    }

    /// Shares the bodies of events that rings of this many events and bytes still have.
    pub(crate) fn share_with_rings(&mut self, events: usize, bytes: u64) {
        self.recent = RecentEvents::with_rings(events, bytes);
    }

    /// Returns the event of an entry.
    pub(super) fn event(&self, entry: &Entry<'_>) -> Event {
        self.recent.get(entry.number).cloned().unwrap_or_else(|| entry.event())
    }

    /// Returns whether any rule ends logs.
    pub(crate) fn has_ends(&self) -> bool {
        self.active_rules().any(|(_, in_force)| !in_force.rule.end.is_empty())
    }

    pub(super) fn active_rules(&self) -> impl Iterator<Item = (usize, &RuleInForce)> {
        self.active.iter().filter_map(|&rule| Some((rule, self.rules.get(rule)?)))
    }

    /// Sets where the first loop begins to read, before anything is recorded. Events before that place are not known.
    pub(crate) fn begin_at(&mut self, next: impl Iterator<Item = ShardPlace>) {
        if self.followed.is_some()
            || std::mem::replace(&mut self.has_begun, true)
            || self.counts.next_event > 1
        {
            return;
        }
        self.next = next.collect();
        self.is_whole = self.next.iter().all(|next| next.1 == 0);
        for (_, in_force) in &mut self.rules {
            in_force.since.clone_from(&self.next);
        }
    }

    /// Replaces the rules and limits for later events. `heads` has the place of the next event of each shard; `None` when
    /// the store is created.
    pub(crate) fn set_rules(&mut self, config: &RetainConfig, heads: Option<&[ShardPlace]>) {
        let followed = self.next_followed();
        let heads = followed.as_deref().filter(|_| heads.is_some()).or(heads);
        self.counts.rule_changes += u64::from(heads.is_some());
        self.limits = RetainConfig { rules: Vec::new(), ..config.clone() };
        let mut before = std::mem::take(&mut self.active);
        for rule in &config.rules {
            let known = before.iter().position(|&at| self.rules[at].rule == *rule);
            // A rule with other limits keeps the same events.
            let is_same = |at: &&usize| self.rules[**at].rule.keeps_as(rule);
            let same = before.iter().find(is_same).map(|&at| &self.rules[at]);
            let (since, is_whole) = match same {
                Some(same) => (same.since.clone(), same.is_whole),
                None => {
                    self.holes.known_since = None;
                    (heads.unwrap_or(&self.next).into(), heads.is_none())
                }
            };
            let at = match known {
                Some(known) => before.swap_remove(known),
                None => self.rules.insert(RuleInForce {
                    rule: rule.clone(),
                    since,
                    is_whole,
                    is_active: true,
                    oldest: None,
                    newest: None,
                }),
            };
            self.active.push(at);
        }
        for gone in before {
            self.rules[gone].is_active = false;
            self.drop_unused(gone);
        }
    }

    fn drop_unused(&mut self, rule: usize) {
        if self.rules.get(rule).is_some_and(|rule| !rule.is_active && rule.oldest.is_none()) {
            self.rules.remove(rule);
        }
    }

    /// Records an event, unless another loop has done so. Returns the end of the log if the event ends it, to each loop
    /// that calls.
    pub(crate) fn record(&mut self, event: &Event, now: Timestamp) -> Option<Arc<LogEnd>> {
        let id = event.id()?;
        let next = self.next.get_mut(usize::from(id.shard))?;
        if self.followed.is_some() || place_at(id) < *next {
            return self.past.ends.get(&id).cloned();
        }
        *next = place_after(id);
        self.tend(now);
        let (rule, value) = self.rule_of(event)?;
        let found = self.live(rule, &value, now);
        let by = self.rules[rule].rule.by;
        let is_from_start = found.is_none() && self.is_known_from_start(by, &value, now);
        self.keep(event, (rule, &value), found, now, is_from_start)
    }

    /// Returns the log of a value. An expired log is evicted first.
    pub(super) fn live(&mut self, rule: usize, value: &str, now: Timestamp) -> Option<usize> {
        let mut found = self.names[self.rules[rule].rule.by as usize].get(value).copied();
        if let Some(expired) = found.take_if(|at| self.is_expired(&self.logs[*at], now)) {
            self.evict(expired);
        }
        found
    }

    /// Appends an event to its log, which is made if it is not there. Returns the end of the log if the event ends it.
    pub(super) fn keep(
        &mut self,
        event: &Event,
        (rule, value): (usize, &str),
        found: Option<usize>,
        written: Timestamp,
        is_from_start: bool,
    ) -> Option<Arc<LogEnd>> {
        let id = event.id()?;
        let by = self.rules[rule].rule.by;
        let at = found.unwrap_or_else(|| self.make(rule, value, id, is_from_start));
        if !self.publishing.accepted.is_empty() {
            self.settle(by, value, id);
        }
        let number = self.counts.next_event;
        self.counts.next_event += 1;
        let hole = self.holes.last_number();
        let log = &mut self.logs[at];
        let before = log.held_bytes();
        if log.end.take().is_some() {
            log.life = LogLife { start: log.next(), number, is_from_start: true };
        } else if log.next() == 0 {
            log.life.number = number;
        }
        log.push(number, id, event);
        self.past.seen[by as usize].add(by, event);
        self.recent.push(number, id, event);
        log.number = number;
        log.written = written;
        let limits = &self.rules[rule].rule;
        for _ in 0..EVICTED_A_CALL {
            if log.entries.len() <= limits.events && log.entries.size() <= limits.bytes {
                break;
            }
            log.pop();
        }
        let end = limits.is_end(event).then(|| {
            let at = event.position().cloned().map_or(Since::Event(id), Since::Position);
            Arc::new(LogEnd { name: log.name.clone(), id, at, complete: log.is_complete(hole) })
        });
        log.end.clone_from(&end);
        self.bytes = self.bytes + log.held_bytes() - before;
        self.renew(at, rule);
        self.limit(at);
        if let Some(end) = &end {
            self.past.add_end(end);
        }
        end
    }

    /// Records that a loop lost the events of a shard up to this one. They are missing from the logs unless they were recorded.
    pub(crate) fn record_gap(&mut self, last: EventId) {
        let Some(next) = self.next.get_mut(usize::from(last.shard)) else { return };
        // A follower misses no event because a loop is slow.
        if self.followed.is_none() && place_after(last) > *next {
            let first = std::mem::replace(next, place_after(last));
            self.add_hole(first, last);
        }
    }

    /// Records that the events of a shard from a place up to this event are missing.
    pub(super) fn add_hole(&mut self, (epoch, sequence): ShardPlace, last: EventId) {
        // The missing events of an older epoch are not known.
        let first = if epoch == last.epoch { EventId { sequence, ..last } } else { last };
        self.holes.add(Hole { number: self.counts.next_event, first, last });
        self.is_whole = false;
        self.publishing.accepted.clear();
    }

    /// Returns the rule that keeps an event, and the value by which it does.
    pub(super) fn rule_of<'a>(&self, event: &'a Event) -> Option<(usize, std::borrow::Cow<'a, str>)> {
        let (at, in_force) =
            self.active_rules().find(|(_, in_force)| in_force.rule.filter().matches(event))?;
        Some((at, in_force.rule.by.value_of(event)?))
    }

    /// Returns whether an event in the ring belongs to a log, retained or evicted.
    pub(crate) fn covers_event(&self, event: &Event) -> bool {
        let Some((rule, _)) = self.rule_of(event) else { return false };
        let is_since = |id: EventId| {
            self.rules[rule].since.get(usize::from(id.shard)).is_some_and(|since| place_at(id) >= *since)
        };
        event.id().is_some_and(is_since)
    }

    /// Returns whether the rules were ever replaced, so that logs may have events that no rule in force covers.
    pub(super) fn has_new_rules(&self) -> bool {
        self.counts.rule_changes > 0
    }

    /// Returns the name of the log that would keep an event, and whether the event would end it.
    pub(crate) fn log_of(&self, event: &Event) -> Option<(LogName, bool)> {
        let (rule, value) = self.rule_of(event)?;
        let rule = &self.rules[rule].rule;
        Some((LogName::new(rule.by, &value), rule.is_end(event)))
    }

    /// Records that an event of a log was published under this id, before a loop records the event.
    pub(crate) fn record_accepted(&mut self, name: LogName, id: EventId, is_end: bool) {
        // A loop may have recorded it already.
        if self.next.get(usize::from(id.shard)).is_some_and(|next| place_at(id) >= *next) {
            self.publishing
                .accepted
                .insert(name, smallvec![AcceptedEntry { ticket: 0, id: Some(id), is_end }]);
        }
    }

    /// Removes accepted publications of a log up to this event, which is recorded now.
    pub(super) fn settle(&mut self, by: RetainBy, value: &str, id: EventId) {
        let name = LogName::new(by, value);
        if let Some(entries) = self.publishing.accepted.get_mut(&name) {
            entries.retain(|entry| entry.id.is_none_or(|known| place_at(known) > place_at(id)));
            if entries.is_empty() {
                self.publishing.accepted.remove(&name);
            }
        }
    }

    /// Returns the state of a log for publishers; `None` if the log does not exist.
    pub(crate) fn head(&self, name: &LogName, now: Timestamp) -> Option<LogHead> {
        if let Some(AcceptedEntry { id, is_end, .. }) =
            self.publishing.accepted.get(name).and_then(|all| all.last())
        {
            return Some(LogHead { last: *id, is_ended: *is_end });
        }
        let log = self.find(name, now)?;
        Some(LogHead { last: Some(log.newest), is_ended: log.end.is_some() })
    }

    /// Returns the end of a log's newest life; `None` while it is open, or if there is no such log.
    pub(crate) fn end(&self, name: &LogName, now: Timestamp) -> Option<&Arc<LogEnd>> {
        self.find(name, now)?.end.as_ref()
    }

    /// Returns whether all these logs have ended, and the reader has passed each end.
    pub(crate) fn have_ended<'a>(
        &self,
        names: impl IntoIterator<Item = &'a LogName>,
        now: Timestamp,
        has_passed: impl Fn(&LogEnd) -> bool,
    ) -> bool {
        names.into_iter().all(|name| self.end(name, now).is_some_and(|end| has_passed(end)))
    }

    /// Returns a log that has not expired.
    pub(super) fn find(&self, name: &LogName, now: Timestamp) -> Option<&KeptLog> {
        let log = &self.logs[*self.names[name.by as usize].get(&name.value)?];
        (!self.is_expired(log, now)).then_some(log)
    }

    pub(super) fn is_expired(&self, log: &KeptLog, now: Timestamp) -> bool {
        let keep_for = i64::try_from(self.rules[log.rule].rule.keep_for.as_micros()).unwrap_or(i64::MAX);
        now.0.saturating_sub(log.written.0) >= keep_for
    }

    /// Returns whether a log that does not exist may have had events that were evicted or never recorded.
    pub(super) fn may_have_had(&self, name: &LogName, now: Timestamp) -> bool {
        !self.is_known_from_start(name.by, &name.value, now) || self.has_evicted_one(name)
    }

    /// Returns whether a log of this name may have been evicted.
    pub(super) fn has_evicted_one(&self, name: &LogName) -> bool {
        self.past.all.may_have(name.by, &name.value)
    }

    /// Returns whether a log of this attribute that had events of a filter may have been evicted, or not been recorded.
    pub(super) fn may_have_evicted(&self, by: RetainBy, filter: &Filter, now: Timestamp) -> bool {
        let is_recorded = self.is_whole || self.is_known_for_long(by, now);
        !is_recorded || self.past.all.have_any(by) && self.past.seen[by as usize].may_match(filter)
    }

    /// Returns whether it is known that the first event of a new log of this name is the first that it ever had.
    pub(super) fn is_known_from_start(&self, by: RetainBy, value: &str, now: Timestamp) -> bool {
        let is_whole = self.is_whole && self.has_lost_no_beginning(by, value);
        is_whole || self.is_known_for_long(by, now) && !self.was_evicted_open(by, value)
    }

    /// Returns whether a log of this attribute with an event that was not recorded would have expired. With an engine the marks of
    /// its log decide.
    fn is_known_for_long(&self, by: RetainBy, now: Timestamp) -> bool {
        let Some(since) = self.holes.known_since.filter(|_| self.followed.is_none()) else { return false };
        let rules = self.rules.iter().filter(|(_, in_force)| in_force.rule.by == by);
        let longest = rules.map(|(_, in_force)| in_force.rule.keep_for).max().unwrap_or_default();
        let longest = i64::try_from(longest.as_micros()).unwrap_or(i64::MAX);
        now.0.saturating_sub(since.0) >= longest
    }

    /// Returns whether no log of this name is known to have been evicted while it was open, and no rule came into force
    /// later.
    pub(super) fn has_lost_no_beginning(&self, by: RetainBy, value: &str) -> bool {
        let mut rules = self.active_rules().filter(|(_, in_force)| in_force.rule.by == by);
        rules.all(|(_, in_force)| in_force.is_whole) && !self.was_evicted_open(by, value)
    }

    /// Returns whether a log of this name may have been evicted while it was open.
    pub(super) fn was_evicted_open(&self, by: RetainBy, value: &str) -> bool {
        self.past.open.may_have(by, value)
    }

    /// Returns the places where events were not recorded.
    pub(super) fn holes(&self) -> &Holes {
        &self.holes
    }

    /// Returns the number of the next recorded event.
    pub(super) fn next_number(&self) -> u64 {
        self.counts.next_event
    }

    /// Creates a log for its first event.
    fn make(&mut self, rule: usize, value: &str, id: EventId, is_from_start: bool) -> usize {
        let by = self.rules[rule].rule.by;
        let name = LogName::new(by, value);
        self.counts.logs += 1;
        let log = KeptLog {
            name: name.clone(),
            rule,
            serial: self.counts.logs,
            entries: PackedEvents::default(),
            base: 0,
            life: LogLife { start: 0, number: 0, is_from_start },
            last_evicted: None,
            end: None,
            newest: id,
            written: Timestamp::default(),
            number: 0,
            links: Links::default(),
        };
        self.bytes += log.held_bytes();
        let at = self.logs.insert(Box::new(log));
        self.names[by as usize].insert(name.value, at);
        self.link(at, rule);
        at
    }

    /// Puts a log last among those of a rule.
    fn link(&mut self, at: usize, rule: usize) {
        let list = &mut self.rules[rule];
        let older = list.newest.replace(at);
        list.oldest.get_or_insert(at);
        if let Some(older) = older {
            self.logs[older].links.newer = Some(at);
        }
        let log = &mut self.logs[at];
        log.rule = rule;
        log.links = Links { older, newer: None };
    }

    fn unlink(&mut self, at: usize) {
        let (rule, Links { older, newer }) = (self.logs[at].rule, self.logs[at].links);
        match older {
            Some(older) => self.logs[older].links.newer = newer,
            None => self.rules[rule].oldest = newer,
        }
        match newer {
            Some(newer) => self.logs[newer].links.older = older,
            None => self.rules[rule].newest = older,
        }
        self.drop_unused(rule);
    }

    /// Moves a log to the end of the list of the rule that has just written it.
    fn renew(&mut self, at: usize, rule: usize) {
        if self.rules[rule].newest != Some(at) || self.logs[at].rule != rule {
            self.unlink(at);
            self.link(at, rule);
        }
    }

    /// Evicts a log.
    fn evict(&mut self, at: usize) {
        self.unlink(at);
        let log = self.logs.remove(at);
        self.names[log.name.by as usize].remove(&log.name.value);
        self.bytes -= log.held_bytes();
        if log.end.is_none() {
            self.past.open.add(log.name.by, &log.name.value);
        }
        self.past.all.add(log.name.by, &log.name.value);
        self.past.garbage_bytes += log.entries.held_bytes();
        self.past.garbage.push_back(log.entries);
    }

    /// Evicts a log, so that it is never complete again. Returns the number of its events.
    pub(super) fn evict_by_name(&mut self, name: &LogName, now: Timestamp) -> Option<usize> {
        let events = self.find(name, now)?.entries.len();
        let at = *self.names[name.by as usize].get(&name.value)?;
        self.evict(at);
        self.record_lost(name);
        Some(events)
    }

    /// Records that a log of this name is never complete again.
    pub(super) fn record_lost(&mut self, name: &LogName) {
        self.past.open.add(name.by, &name.value);
        self.past.all.add(name.by, &name.value);
    }

    /// Returns the attributes by which rules keep events, or kept events that are still retained.
    pub(super) fn attributes(&self) -> Vec<RetainBy> {
        let mut attributes: Vec<RetainBy> = self.rules.iter().map(|(_, in_force)| in_force.rule.by).collect();
        attributes.sort_unstable();
        attributes.dedup();
        attributes
    }

    /// Returns the maximum number of logs of one request.
    pub(super) fn max_logs_read(&self) -> usize {
        self.limits.max_logs_read
    }

    /// Evicts logs that have expired, and frees some memory. Each rule's logs expire in the order of their last writes.
    pub(crate) fn tend(&mut self, now: Timestamp) {
        self.past.free();
        self.recent.follow(&self.next);
        self.holes.known_since.get_or_insert(now);
        // With an engine the log's own clock decides.
        if self.followed.is_none() {
            self.expire(now);
        }
    }

    pub(super) fn expire(&mut self, now: Timestamp) {
        // An event adds at most one log, so two for each rule catch up.
        for rule in 0..self.rules.capacity() {
            for _ in 0..2 {
                let oldest = self.rules.get(rule).and_then(|rule| rule.oldest);
                let Some(oldest) = oldest.filter(|&at| self.is_expired(&self.logs[at], now)) else { break };
                self.evict(oldest);
            }
        }
    }

    /// Evicts the least recently written logs until all are within the limits. The log `written` is evicted last, from
    /// its front.
    fn limit(&mut self, written: usize) {
        // Handles of recent events grow with the ring, so that at most an eighth of the limit counts for them.
        let beside = (self.unused_bytes() + self.recent.held_bytes()).min(self.limits.max_bytes / 8);
        let max_bytes = self.limits.max_bytes - beside;
        while self.logs.len() > self.limits.max_logs || self.bytes > max_bytes {
            let oldest = self.rules.iter().filter_map(|(_, rule)| rule.oldest);
            match oldest.min_by_key(|&at| self.logs[at].number).filter(|&at| at != written) {
                Some(oldest) => self.evict(oldest),
                None => break,
            }
        }
        let log = &mut self.logs[written];
        for _ in 0..EVICTED_A_CALL {
            if self.bytes <= max_bytes || log.entries.is_empty() {
                break;
            }
            let before = log.held_bytes();
            log.pop();
            self.bytes = self.bytes + log.held_bytes() - before;
        }
    }

    /// Returns the memory of the unused part of the logs' table, in bytes.
    fn unused_bytes(&self) -> usize {
        (self.logs.capacity() - self.logs.len()) * 2 * size_of::<usize>()
    }

    /// Returns the memory of all logs, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes
            + self.unused_bytes()
            + self.recent.held_bytes()
            + self.past.held_bytes()
            + self
                .publishing
                .accepted
                .values()
                .map(|all| ACCEPTED_BYTES + size_of_val(all.as_slice()))
                .sum::<usize>()
            + self.followed.as_ref().map_or(0, |followed| followed.held_bytes())
    }

    /// Returns the number of logs.
    pub(crate) fn log_count(&self) -> usize {
        self.logs.len()
    }

    /// Returns the number of logs and of the events in them.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.logs.len(), self.logs.iter().map(|(_, log)| log.entries.len()).sum())
    }
}

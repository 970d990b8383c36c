//! Kept logs that are made from an engine's log.
//!
//! Every node, and every later process, reads one log. So lives, ends, last events and completeness are a function of
//! the log's order, from the place at which the reading began.
//!
//! Invariants:
//! - No clock of a reading node decides. The time of an event is the one in its mark, and the clock of the logs is the newest
//!   such time.
//! - The log's order decides about admission: each node checks an event's conditions when it reads the event. An event that
//!   a node had accepted while another node changed its log is refused by every node, and its publisher learns that.
//! - A log's first life is complete only if the mark of its first event says that there was no log, and this node has read
//!   everything since the accepting node checked that.

use std::collections::HashMap;
#[cfg(test)]
use std::collections::HashSet;

use super::follow_state::{FollowedLog, Undelivered};
use super::log::{LogName, ShardPlace, place_after, place_at};
use super::lost::PurgedLogs;
use super::mark::{BatchMark, BatchNeed, KeptMark, StampParts, put_mark};
use super::refusal::LogRefusal;
use super::store::{AcceptedEntry, KeptLogs};
use crate::dialect::{Complete, ErrorCode, ExpectedLast};
use crate::event::{Event, EventId, Timestamp};

/// Publication to kept logs that was sent to an engine and not read back.
#[derive(Debug)]
pub(crate) struct SentPublication {
    ticket: u64,
    /// Logs of its events, with the number of the last event in each.
    logs: Vec<(LogName, usize)>,
    /// Stamps of its events, as JSON.
    pub(crate) stamps: Vec<Option<Box<str>>>,
    /// Whether an event of another node can cause the refusal of one of them.
    pub(crate) is_conditional: bool,
    /// Whether its events are marked as one batch.
    is_batch: bool,
}

/// Maximum number of logs of a batch that is accepted as a whole or not at all. Its first event carries the conditions.
const NEEDS_MAX: usize = 256;

impl KeptLogs {
    /// Makes the logs from the events of an engine's log. The store must have no events. `slots` is the number of events
    /// in the rings, by which loops may lag. `batches` is a random number, from which this node counts its batches.
    pub(crate) fn follow_engine(&mut self, slots: usize, batches: u64) {
        self.past.ends_max = slots;
        let known_from = vec![None; self.next.len()].into();
        self.followed =
            Some(Box::new(FollowedLog { known_from, is_reading: true, batches, ..FollowedLog::default() }));
    }

    /// Returns the place of the next event of each shard, if the logs are made from an engine's log. Before a shard's first event,
    /// that is the largest place.
    pub(super) fn next_followed(&self) -> Option<Box<[ShardPlace]>> {
        let followed = self.followed.as_ref()?;
        let next = |(next, from): (&ShardPlace, &Option<ShardPlace>)| {
            if from.is_some() { *next } else { (u64::MAX, u64::MAX) }
        };
        Some(self.next.iter().zip(&followed.known_from).map(next).collect())
    }

    /// Returns whether the logs are made from an engine's log.
    pub(crate) fn is_followed(&self) -> bool {
        self.followed.is_some()
    }

    /// Returns whether the past of the engine's log is still being read.
    pub(crate) fn is_reading(&self) -> bool {
        self.followed.as_ref().is_some_and(|followed| followed.is_reading)
    }

    /// Returns the place of the next event of a shard. Before the first event, that is the beginning.
    pub(crate) fn next_place(&self, shard: u16) -> ShardPlace {
        self.next.get(usize::from(shard)).copied().unwrap_or_default()
    }

    /// Records that the past of the engine's log was read up to these places, or is gone.
    pub(crate) fn end_reading(&mut self, places: impl Iterator<Item = ShardPlace>) {
        for (shard, place) in places.enumerate() {
            self.begin_followed(shard, place);
        }
        if let Some(followed) = &mut self.followed {
            followed.is_reading = false;
        }
    }

    /// Begins to record at these places, for the first rules of a node that has read without rules so far. Earlier events are
    /// not known. Does nothing while the past is still to be read.
    pub(crate) fn begin_rules(&mut self, places: impl Iterator<Item = ShardPlace>) {
        if self.is_reading() {
            return;
        }
        for (shard, place) in places.enumerate() {
            self.begin_followed(shard, place);
        }
        // Each epoch begins at 0, so a place alone does not exclude earlier events.
        self.is_whole = false;
    }

    /// Sets where the reading of a shard began, unless it has begun.
    fn begin_followed(&mut self, shard: usize, place: ShardPlace) {
        let Some(followed) = &mut self.followed else { return };
        let Some(from) = followed.known_from.get_mut(shard).filter(|from| from.is_none()) else { return };
        *from = Some(place);
        self.next[shard] = place;
        self.is_whole &= place.1 == 0;
        for (_, in_force) in &mut self.rules {
            in_force.since[shard] = place;
        }
    }

    /// Records a hole before an event: the log had events there that this node did not read.
    fn pass_hole(&mut self, id: EventId) {
        let last = if id.sequence == 0 { id } else { EventId::before(id.epoch, id.shard, id.sequence) };
        let first = self.next[usize::from(id.shard)];
        self.add_hole(first, last);
        if let Some(followed) = &mut self.followed {
            followed.known_from[usize::from(id.shard)] = Some(place_at(id));
            followed.known_since = None;
        }
    }

    /// Records that the engine's log is read from these places on. Entries before them that were not read are missing, also if no event
    /// follows.
    pub(crate) fn continue_at(&mut self, places: impl Iterator<Item = ShardPlace>) {
        for (shard, (epoch, sequence)) in (0..).zip(places) {
            let at = usize::from(shard);
            let known_from = self.followed.as_ref().and_then(|followed| *followed.known_from.get(at)?);
            if known_from.is_some() && self.next[at] < (epoch, sequence) {
                self.pass_hole(EventId { epoch, shard, sequence });
                self.next[at] = (epoch, sequence);
            }
        }
    }

    /// Moves past an entry of the engine's log. Returns false if it was read before, or there is no engine.
    fn pass_entry(&mut self, id: EventId) -> bool {
        let shard = usize::from(id.shard);
        if self.followed.is_none() || place_at(id) < self.next[shard] {
            return false;
        }
        self.begin_followed(shard, place_at(id));
        if self.next[shard] != place_at(id) {
            self.pass_hole(id);
        }
        self.next[shard] = place_after(id);
        true
    }

    /// Purges the logs that an entry without an event names in its stamp. Returns whether the entry is such a record.
    ///
    /// Each of the names is never complete again, also if this node has no such log: another node may have had one.
    pub(crate) fn purge_followed(&mut self, id: EventId, stamp: &str) -> bool {
        let parts = serde_json::from_str::<StampParts>(stamp).ok();
        let Some(StampParts { at, purge: Some(mark), .. }) = parts else { return false };
        if usize::from(id.shard) >= self.next.len() || !self.pass_entry(id) {
            return true;
        }
        let clock = self.advance_clock(Some(Timestamp(at)));
        self.tend(clock);
        self.expire(clock);
        let names = mark.names();
        let purged = self.remove(&names, clock);
        for name in &names {
            self.record_lost(name);
        }
        // A purge that is read with the past was reported when it happened.
        if purged.logs > 0 && !self.is_reading() {
            self.record_purge(&names);
        }
        if let Some(followed) = &mut self.followed {
            followed.record_undelivered(id, Undelivered::Purge(purged));
            followed.before_purge = followed.delivered;
        }
        true
    }

    /// Returns how much the purge with this id has removed, if this node has read it recently.
    pub(crate) fn purged_by(&self, id: EventId) -> Option<PurgedLogs> {
        match self.followed.as_ref()?.undelivered.get(&id)? {
            Undelivered::Purge(purged) => Some(*purged),
            Undelivered::Refused(_) => None,
        }
    }

    /// Records an event of the engine's log, with its stamp. Returns false if the event is refused: then it is not
    /// delivered.
    pub(crate) fn record_followed(&mut self, event: &Event, stamp: Option<&str>) -> bool {
        let is_delivered = self.record_in_order(event, stamp);
        if let (true, Some(followed)) = (is_delivered, &mut self.followed) {
            followed.delivered = event.id();
        }
        is_delivered
    }

    fn record_in_order(&mut self, event: &Event, stamp: Option<&str>) -> bool {
        let Some(id) = event.id().filter(|id| usize::from(id.shard) < self.next.len()) else { return true };
        if !self.pass_entry(id) {
            return !self.is_refused(id);
        }
        let parts = stamp.and_then(|stamp| serde_json::from_str::<StampParts>(stamp).ok());
        let clock = self.advance_clock(parts.as_ref().map(|parts| Timestamp(parts.at)));
        self.tend(clock);
        self.expire(clock);
        let has_time = parts.is_some();
        let mark = parts.and_then(|parts| parts.kept);
        let batch = mark.as_ref().and_then(|mark| mark.batch.as_ref());
        let of_batch = batch.and_then(|batch| self.refusal_of_batch(batch, id, clock));
        let batch_key = batch.map(|batch| batch.key).filter(|_| of_batch.is_none());
        let Some((rule, value)) = self.rule_of(event) else {
            return of_batch.is_none_or(|refusal| self.refuse(id, refusal));
        };
        let found = self.live(rule, &value, clock);
        let by = self.rules[rule].rule.by;
        let refusal = of_batch.or_else(|| {
            let (mark, name) = (mark.as_ref()?, LogName::new(by, &value));
            self.refusal_by_log(found, name, mark, id)
        });
        if let Some(refusal) = refusal {
            self.settle(by, &value, id);
            if let (Some(batch), Some(followed)) = (&batch_key, &mut self.followed) {
                // An event of another node came between the batch's events, so only the beginning of the batch stays.
                followed.refuse_batch(*batch, refusal.clone());
            }
            return self.refuse(id, refusal);
        }
        // The timestamp is the publisher's, so it does not advance the clock.
        let before = found.map_or(Timestamp::default(), |at| self.logs[at].written);
        let written = if has_time { clock } else { before.max(event.timestamp()) };
        let is_from_start = found.is_none() && self.begins_log(rule, &value, mark.as_ref(), id);
        self.keep(event, (rule, &value), found, written, is_from_start);
        true
    }

    /// Records that an event is refused. Returns false: the event is not delivered.
    fn refuse(&mut self, id: EventId, refusal: LogRefusal) -> bool {
        if let Some(followed) = &mut self.followed {
            followed.record_undelivered(id, Undelivered::Refused(refusal));
        }
        false
    }

    /// Returns why a log refuses an event.
    fn refusal_by_log(
        &self,
        found: Option<usize>,
        name: LogName,
        mark: &KeptMark,
        id: EventId,
    ) -> Option<LogRefusal> {
        let code = self.find_unmet(found, mark, id)?;
        let at = mark.batch.as_ref().map_or(0, |batch| batch.part);
        Some(LogRefusal { code, at, name: Some(name), last: found.map(|at| self.logs[at].newest) })
    }

    /// Returns the reason for which an event's batch is refused. It is decided at the place of the batch's first event in the log.
    fn refusal_of_batch(&mut self, batch: &BatchMark, id: EventId, clock: Timestamp) -> Option<LogRefusal> {
        let known = self.followed.as_ref()?.refused_batches.iter().find(|(key, _)| *key == batch.key);
        if let Some((_, refusal)) = known {
            return Some(refusal.clone());
        }
        let refusal = batch.needs.iter().find_map(|need| {
            let (at, name, mark) = need.parts()?;
            let found = self.names[name.by as usize].get(&name.value).copied();
            let found = found.filter(|at| !self.is_expired(&self.logs[*at], clock));
            Some(LogRefusal { at, ..self.refusal_by_log(found, name, &mark, id)? })
        })?;
        if let Some(followed) = &mut self.followed {
            followed.refuse_batch(batch.key, refusal.clone());
        }
        Some(refusal)
    }

    /// Moves the clock of the logs to the time of an event, and returns it.
    fn advance_clock(&mut self, at: Option<Timestamp>) -> Timestamp {
        let Some(followed) = &mut self.followed else { return Timestamp::default() };
        if let Some(at) = at {
            followed.clock = followed.clock.max(at);
            followed.known_since.get_or_insert(followed.clock);
        }
        followed.clock
    }

    /// Returns the condition of an event that its log does not meet.
    fn find_unmet(&self, found: Option<usize>, mark: &KeptMark, id: EventId) -> Option<ErrorCode> {
        if mark.free {
            return None;
        }
        let log = found.map(|at| &self.logs[at]);
        if let Some(after) = &mark.after {
            let expected: Option<EventId> = after.parse().ok();
            let is_met = match (log, expected) {
                (None, None) => true,
                (Some(log), Some(expected)) => log.newest == expected,
                (Some(_), None) => false,
                // The event may have been evicted before the reading began: the accepting node knew it.
                (None, Some(expected)) => !self.was_read(expected, id.shard),
            };
            if !is_met {
                return Some(ErrorCode::UnexpectedLastId);
            }
        }
        match (log.map(|log| log.end.is_some()), mark.reopen) {
            (Some(true), false) => Some(ErrorCode::Ended),
            (Some(false), true) => Some(ErrorCode::NotEnded),
            _ => None,
        }
    }

    /// Returns whether everything from an event on was read.
    fn was_read(&self, id: EventId, shard: u16) -> bool {
        self.is_known_after(shard, place_at(id))
    }

    /// Returns whether everything of a shard from a place on was read.
    fn is_known_after(&self, shard: u16, place: ShardPlace) -> bool {
        let from =
            self.followed.as_ref().and_then(|followed| *followed.known_from.get(usize::from(shard))?);
        from.is_some_and(|from| from <= place)
    }

    /// Returns whether an event is the first one that a log ever had.
    fn begins_log(&self, rule: usize, value: &str, mark: Option<&KeptMark>, id: EventId) -> bool {
        let by = self.rules[rule].rule.by;
        // No node looked for an earlier log.
        let Some(mark) = mark else { return self.is_known_from_start(by, value, Timestamp::default()) };
        let is_since = |seen: ShardPlace| {
            let mut rules = self.active_rules().filter(|(_, in_force)| in_force.rule.by == by);
            rules.all(|(_, in_force)| in_force.since[usize::from(id.shard)] <= seen)
        };
        mark.first.is_some_and(|seen| self.is_known_after(id.shard, seen) && is_since(seen))
            && !self.was_evicted_open(by, value)
    }

    /// Returns whether it is known that no log of this name existed: either everything from the beginning was read, or enough
    /// that an earlier log would have expired.
    fn knows_no_log(&self, rule: usize, value: &str, now: Timestamp) -> bool {
        let in_force = &self.rules[rule].rule;
        let keep_for = i64::try_from(in_force.keep_for.as_micros()).unwrap_or(i64::MAX);
        let since = self.followed.as_ref().and_then(|followed| followed.known_since);
        let is_long = since.is_some_and(|since| now.0.saturating_sub(since.0) >= keep_for);
        (self.is_whole || is_long) && self.has_lost_no_beginning(in_force.by, value)
    }

    /// Admits a publication that goes to an engine, by the state of the logs that this node has read and what it has sent. `stamps`
    /// is empty, or has an item for each event. Returns `None` if no rule keeps any of the events.
    pub(crate) fn admit_sent(
        &mut self,
        events: &[Complete],
        stamps: &[Option<Box<str>>],
        now: Timestamp,
    ) -> Result<Option<SentPublication>, LogRefusal> {
        let names = self.admit(events, now)?;
        if names.is_empty() {
            return Ok(None);
        }
        let mut sent = SentPublication {
            ticket: self.next_ticket(),
            logs: Vec::new(),
            stamps: Vec::new(),
            is_conditional: false,
            is_batch: false,
        };
        let (mut marks, mut needs) = (Vec::with_capacity(events.len()), Vec::new());
        let mut last: HashMap<LogName, (usize, bool)> = HashMap::new();
        for (at, event) in events.iter().enumerate() {
            let Some((rule, value)) = self.rule_of(event) else {
                marks.push(None);
                continue;
            };
            let in_force = &self.rules[rule].rule;
            let name = LogName::new(in_force.by, &value);
            // A publication that is on its way may be refused, so it makes no log.
            let is_new = !last.contains_key(&name) && self.find(&name, now).is_none();
            let expected = event.expected_last_id();
            let mark = KeptMark {
                reopen: event.reopens(),
                after: expected.map(|ExpectedLast(id)| id.map_or_else(String::new, |id| id.to_string())),
                first: (is_new && self.knows_no_log(rule, &value, now)).then(|| self.next_place(0)),
                ..KeptMark::default()
            };
            if !last.contains_key(&name) {
                needs.push(BatchNeed::new(at, &name, &mark));
            }
            sent.is_conditional |= mark.reopen || expected.is_some() || !in_force.end.is_empty();
            last.insert(name, (at, in_force.is_end(event)));
            marks.push(Some(mark));
        }
        sent.is_batch = sent.is_conditional && events.len() > 1 && needs.len() <= NEEDS_MAX;
        if sent.is_batch {
            self.mark_batch(&mut marks, needs);
        }
        let stamp = |at: usize| stamps.get(at).and_then(Option::as_deref);
        sent.stamps = (marks.iter().enumerate())
            .map(|(at, mark)| match mark {
                Some(mark) => put_mark(stamp(at), mark, now),
                None => stamp(at).map(Into::into),
            })
            .collect();
        for (name, (at, is_end)) in last {
            let entry = AcceptedEntry { ticket: sent.ticket, id: None, is_end };
            self.publishing.accepted.entry(name.clone()).or_default().push(entry);
            sent.logs.push((name, at));
        }
        Ok(Some(sent))
    }

    /// Marks events as one batch with these conditions.
    fn mark_batch(&mut self, marks: &mut [Option<KeptMark>], mut needs: Vec<BatchNeed>) {
        let Some(followed) = &mut self.followed else { return };
        followed.batches = followed.batches.wrapping_add(1);
        for (part, mark) in marks.iter_mut().enumerate() {
            let batch = BatchMark { key: followed.batches, part, needs: std::mem::take(&mut needs) };
            mark.get_or_insert_default().batch = Some(batch);
        }
    }

    fn next_ticket(&mut self) -> u64 {
        let Some(followed) = &mut self.followed else { return 0 };
        followed.tickets += 1;
        followed.tickets
    }

    /// Returns the stamp of an event that is published without a check of its log; `None` if no rule keeps it.
    pub(crate) fn stamp_free(&self, event: &Event, now: Timestamp) -> Option<Box<str>> {
        let (rule, value) = self.rule_of(event)?;
        let name = LogName::new(self.rules[rule].rule.by, &value);
        let is_new = self.head(&name, now).is_none() && self.knows_no_log(rule, &value, now);
        let first = is_new.then(|| self.next_place(0));
        put_mark(None, &KeptMark { first, free: true, ..KeptMark::default() }, now)
    }

    /// Records the outcome of a publication: its events have these ids, or none. Returns the first refusal of one of its events,
    /// as far as this node has read them.
    pub(crate) fn settle_sent(&mut self, sent: &SentPublication, ids: &[EventId]) -> Option<LogRefusal> {
        for (name, at) in &sent.logs {
            let id = ids.get(*at).copied().filter(|id| place_at(*id) >= self.next_place(id.shard));
            let Some(entries) = self.publishing.accepted.get_mut(name) else { continue };
            match id {
                // Read, refused by the engine, or unknown.
                None => entries.retain(|entry| entry.ticket != sent.ticket),
                Some(_) => {
                    entries
                        .iter_mut()
                        .filter(|entry| entry.ticket == sent.ticket)
                        .for_each(|entry| entry.id = id);
                }
            }
            if entries.is_empty() {
                self.publishing.accepted.remove(name);
            }
        }
        let refused = ids.iter().enumerate().find_map(|(at, id)| Some((at, self.refusal_of(*id)?)));
        let at_of = |at, refusal: &LogRefusal| if sent.is_batch { refusal.at } else { at };
        refused.map(|(at, refusal)| LogRefusal { at: at_of(at, refusal), ..refusal.clone() })
    }

    /// Returns the numbers and ids of the events that were not refused. This node must have read them just now.
    pub(crate) fn stayed(&self, ids: &[EventId]) -> Vec<(usize, EventId)> {
        ids.iter().copied().enumerate().filter(|(_, id)| !self.is_refused(*id)).collect()
    }

    /// Returns the reason why an event was refused when it was read, if that was recently.
    fn refusal_of(&self, id: EventId) -> Option<&LogRefusal> {
        match self.followed.as_ref()?.undelivered.get(&id)? {
            Undelivered::Refused(refusal) => Some(refusal),
            Undelivered::Purge(_) => None,
        }
    }

    /// Returns whether no node delivers an entry that this node has read, as far as it remembers.
    pub(crate) fn is_refused(&self, id: EventId) -> bool {
        self.followed.as_ref().is_some_and(|followed| followed.undelivered_ids.have(id, 1))
    }

    /// Returns whether no node delivers the entries between these two events, of one shard and epoch, so that none is missing.
    pub(crate) fn are_undelivered(&self, after: EventId, before: EventId) -> bool {
        let count = before.sequence.saturating_sub(after.next_sequence());
        let Some(followed) = self.followed.as_ref().filter(|_| after.epoch == before.epoch) else {
            return false;
        };
        let first = EventId { sequence: after.next_sequence(), ..after };
        count > 0 && followed.undelivered_ids.have(first, count)
    }

    /// Returns the names of the logs with publications that were sent and not read yet.
    #[cfg(test)]
    pub(super) fn sent(&self) -> HashSet<LogName> {
        self.publishing.accepted.keys().cloned().collect()
    }
}

//! Random walks over the states of an outbox. Each step is a row of the table at the head of `outbox.rs`, and each row occurs.

use std::collections::{BTreeSet, VecDeque};

use super::catch_up::Places;
use super::changes::dice;
use super::*;
use crate::feed::outbox::OutboxState;

/// A transition: the function, the state before it, and the state after it.
type Transition = (&'static str, OutboxState, OutboxState);

/// A policy for lag, and how events may be left out: all of them, and those of the type "a".
type Policy = (LagPolicy, Conflation, Option<Conflation>);

const POLICIES: [Policy; 7] = [
    (LagPolicy::DropOldest, Conflation::None, None),
    (LagPolicy::DropNewest, Conflation::None, None),
    (LagPolicy::CatchUp, Conflation::None, None),
    (LagPolicy::Disconnect, Conflation::None, None),
    (LagPolicy::DropOldest, Conflation::LatestPerKey, None),
    (LagPolicy::DropNewest, Conflation::LatestPerKey, None),
    MIXED,
];

const MIXED: Policy = (LagPolicy::DropOldest, Conflation::LatestPerKey, Some(Conflation::None));

/// A replay.
struct Past {
    /// Events that are not sent yet.
    events: VecDeque<u64>,
    /// Event after the last one.
    end: u64,
    /// Replies that wait for the events, of a client that catches up.
    held: HeldReplies,
    is_catch_up: bool,
}

/// A connection that wants every event, as its loop treats it.
struct Client {
    world: World,
    outbox: Outbox,
    pipe: Pipe,
    policy: Policy,
    /// Whether some events may have been left out.
    conflated: bool,
    /// Whether the policy has been another one.
    changed: bool,
    /// Kinds of the events that were published.
    kinds: Vec<u64>,
    is_blocked: bool,
    places: Places,
    /// Replays, in order.
    pasts: VecDeque<Past>,
    /// For each reply, the number of events published before it.
    replies: Vec<u64>,
    /// Whether each of them was sent during a refill, and so comes before those that wait for its events.
    early: Vec<bool>,
    /// Events that were pending in outboxes of processes before this one.
    handed_over: u64,
    seen: BTreeSet<Transition>,
}

impl Client {
    fn new(policy: Policy) -> Self {
        let mut client = Self {
            world: World::new(6),
            outbox: Outbox::default(),
            pipe: Pipe::default(),
            policy,
            conflated: false,
            changed: false,
            kinds: Vec::new(),
            is_blocked: false,
            places: Places::of(0, 0),
            pasts: VecDeque::new(),
            replies: Vec::new(),
            early: Vec::new(),
            handed_over: 0,
            seen: BTreeSet::new(),
        };
        client.join();
        client
    }

    /// Calls a function of the outbox, and records the transition.
    fn step<R>(
        &mut self,
        name: &'static str,
        call: impl FnOnce(&mut Outbox, &mut Fanout, &mut OutboxContext<'_, Places>) -> R,
    ) -> R {
        let from = self.outbox.state_in(&self.world.fanout);
        let mut cx = OutboxContext::new(&mut self.world.tally, &self.places);
        let result = call(&mut self.outbox, &mut self.world.fanout, &mut cx);
        self.seen.insert((name, from, self.outbox.state_in(&self.world.fanout)));
        result
    }

    fn selections(&self) -> Vec<FilterSelection> {
        let (_, all, some) = self.policy;
        let some = some.map(|conflation| selection("type=a", conflation));
        std::iter::once(selection("", all)).chain(some).collect()
    }

    fn join(&mut self) {
        let (lag_policy, all, _) = self.policy;
        self.conflated |= all != Conflation::None;
        self.outbox.set_lag_policy(lag_policy);
        let selections = self.selections();
        self.step("join", |outbox, fanout, _| outbox.join(fanout, ENCODING, &selections, 0));
        self.step("record_place", |outbox, fanout, cx| outbox.record_place(fanout, cx.lookup));
    }

    fn change(&mut self, policy: Policy) {
        let (_, _, before) = self.policy;
        let (lag_policy, all, some) = policy;
        self.changed |= policy != self.policy;
        self.policy = policy;
        self.conflated |= all != Conflation::None;
        let change = |filter: &str, was, to| {
            let filter = selection(filter, Conflation::None).filter;
            Change { filter, was, to, from: None }
        };
        let mut changes = vec![change("", true, Some(all))];
        if before.is_some() || some.is_some() {
            changes.push(change("type=a", before.is_some(), some));
        }
        self.step("change", |outbox, fanout, cx| {
            outbox.change(fanout, ENCODING, lag_policy, &changes, 0, cx);
        });
    }

    /// Publishes a batch, and writes to the client as the loop does, or only seals its feed.
    fn publish(&mut self, kinds: impl Iterator<Item = u64>, more: &str, writes: bool) {
        let before = self.world.published;
        for kind in kinds {
            self.world.publish_with(KINDS[kind as usize], more);
            self.kinds.push(kind);
        }
        self.places = Places::of(before, self.world.published);
        // The loop's places are those of the newest batch, so it writes each batch to a client that catches up.
        let writes = writes || self.outbox.catches_up();
        if let Some(feed) = self.outbox.feed().filter(|_| self.is_blocked || !writes) {
            self.step("seal", |_, fanout, _| fanout.seal(feed));
        }
        if self.is_blocked {
            self.enforce_drop_newest();
            self.record_loss();
        } else if writes {
            self.flush(usize::MAX);
        }
    }

    fn enforce_drop_newest(&mut self) {
        self.step("enforce_drop_newest", |outbox, fanout, cx| outbox.enforce_drop_newest(fanout, cx));
    }

    fn record_loss(&mut self) {
        if self.outbox.should_disconnect(&self.world.fanout) {
            self.abandon();
        } else if self.outbox.is_behind(&self.world.fanout) {
            self.begin_catch_up();
        }
    }

    fn flush(&mut self, budget: usize) {
        if let Some(feed) = self.outbox.feed().filter(|_| !self.world.writes_through) {
            self.step("seal", |_, fanout, _| fanout.seal(feed));
        }
        let mut pipe = std::mem::take(&mut self.pipe);
        let through = self.world.writes_through;
        let flushed = self.step("flush", |outbox, fanout, cx| {
            if through {
                outbox.flush_appended(fanout, &mut pipe, budget, cx)
            } else {
                outbox.flush(fanout, &mut pipe, budget, cx)
            }
        });
        self.pipe = pipe;
        match flushed {
            Flushed::Done if self.pasts.is_empty() => {
                self.outbox.feed().into_iter().for_each(|feed| self.world.fanout.forget_written(feed));
            }
            Flushed::Done => {}
            Flushed::Blocked => {
                self.is_blocked = true;
                self.enforce_drop_newest();
            }
            Flushed::Budget => self.enforce_drop_newest(),
            Flushed::Lagged | Flushed::Behind => self.record_loss(),
            Flushed::Failed => panic!("a pipe does not fail"),
        }
    }

    /// Handles a message of the client: sends a reply, as the loop does.
    fn reply(&mut self) {
        let reply: Bytes = format!(": reply {}\n\n", self.replies.len()).into();
        let catches_up = self.pasts.front().is_some_and(|past| past.is_catch_up);
        if self.outbox.falls_behind(&mut self.world.fanout)
            || (catches_up && self.outbox.has_frames(&self.world.fanout))
        {
            self.begin_catch_up();
        }
        self.early.push(self.pasts.back().is_some_and(|past| !past.is_catch_up));
        match self.pasts.back_mut() {
            Some(past) if past.is_catch_up => {
                self.outbox.hold(reply, &mut past.held);
                self.replies.push(past.end);
            }
            past => {
                // Events of a replay that are not sent yet come after the reply.
                let first = past.map(|past| past.events.front().copied().unwrap_or(past.end));
                self.replies.push(first.unwrap_or(self.world.published));
                self.step("send", |outbox, fanout, cx| outbox.send(fanout, reply, cx));
            }
        }
    }

    /// Begins to deliver in a replay the newest events: as many as were skipped since `matched` events were counted.
    fn replay(&mut self, matched: u64, held: HeldReplies, is_catch_up: bool) {
        let end = self.world.published;
        let events = (end - (matched - self.world.fanout.totals.matched)..end).collect();
        self.pasts.push_back(Past { events, end, held, is_catch_up });
    }

    fn begin_refill(&mut self) {
        let matched = self.world.fanout.totals.matched;
        let held = self.step("skip_for_replay", Outbox::skip_for_replay);
        self.step("set_replaying", |outbox, _, _| outbox.set_replaying(true));
        self.replay(matched, held, false);
    }

    fn begin_catch_up(&mut self) {
        let matched = self.world.fanout.totals.matched;
        let (since, held) =
            self.step("begin_catch_up", |outbox, fanout, cx| outbox.begin_catch_up(fanout, cx.lookup));
        self.replay(matched, held, true);
        let first = self.pasts.back().and_then(|past| past.events.front().copied());
        let Some(Since::Position(place)) = since else { panic!("{since:?} is no place") };
        assert_eq!(first, Some(place.sequences()[0]), "the place is the one before the skipped frames");
    }

    /// Sends the next events of a replay, and ends it after the last one.
    fn step_replay(&mut self, count: usize) {
        let Some(mut past) = self.pasts.pop_front() else { return };
        for n in past.events.drain(..count.min(past.events.len())) {
            let frame = format!("data: {{\"n\":{n},\n\n");
            self.step("send_replayed", |outbox, fanout, _| {
                outbox.send_replayed(
                    fanout,
                    frame.into(),
                    1,
                    Some(EventId { epoch: 1, shard: 0, sequence: n }),
                );
            });
        }
        if !past.events.is_empty() {
            self.pasts.push_front(past);
            return;
        }
        self.step("send_held", |outbox, _, _| outbox.send_held(past.held));
        if !self.pasts.is_empty() {
            return;
        }
        let matched = self.world.fanout.totals.matched;
        if self.outbox.has_lost_frames(&self.world.fanout)
            && self.step("skip_to_end", |outbox, fanout, _| outbox.skip_to_end(fanout))
        {
            self.step("record_place", |outbox, fanout, cx| outbox.record_place(fanout, cx.lookup));
            self.replay(matched, HeldReplies::default(), past.is_catch_up);
        } else {
            self.step("set_replaying", |outbox, _, _| outbox.set_replaying(false));
        }
    }

    /// Continues the client's connection in another process.
    fn hand_over(&mut self) {
        let (saved, _) = self.step("save", Outbox::save);
        self.handed_over += self.outbox.pending(&self.world.fanout);
        self.outbox = Outbox::restored(saved, &mut self.world.fanout);
        self.join();
    }

    /// Leaves the feed, and joins one again.
    fn leave(&mut self) {
        if self.world.published.is_multiple_of(2) {
            self.step("leave", Outbox::leave);
            self.reply();
            self.flush(100);
            self.join();
            return;
        }
        let policy = self.policy;
        let no_change = |filter| Change { filter, was: true, to: None, from: None };
        let filters: Vec<Filter> = self.selections().into_iter().map(|selection| selection.filter).collect();
        let changes: Vec<Change> = filters.iter().cloned().map(no_change).collect();
        self.step("change", |outbox, fanout, cx| {
            outbox.change(fanout, ENCODING, policy.0, &changes, 0, cx);
        });
        self.flush(100);
        let selections = self.selections().into_iter();
        let changes: Vec<Change> = selections
            .map(|FilterSelection { filter, conflation }| Change {
                filter,
                was: false,
                to: Some(conflation),
                from: None,
            })
            .collect();
        self.step("change", |outbox, fanout, cx| {
            outbox.change(fanout, ENCODING, policy.0, &changes, 0, cx);
        });
    }

    /// Closes the connection, and opens another one.
    fn abandon(&mut self) {
        self.step("set_replaying", |outbox, _, _| outbox.set_replaying(false));
        self.step("abandon", |outbox, fanout, cx| outbox.abandon(fanout, cx.tally));
        self.pipe.room = usize::MAX;
        self.flush(usize::MAX);
        self.check(false);
        let seen = std::mem::take(&mut self.seen);
        *self = Self { seen, ..Self::new(self.policy) };
    }

    /// Checks that the counts balance.
    fn check_balance(&self) {
        assert_eq!(self.world.difference(&[&self.outbox]) + self.handed_over as i64, 0);
    }

    /// Checks the client's stream: events in order and once, each reply after everything that was published before it, and,
    /// if the stream is complete, everything delivered or reported as missing.
    fn check(&self, is_complete: bool) {
        let text = std::str::from_utf8(&self.pipe.taken).expect("text").replace("\"missed\":null", UNKNOWN);
        let seen = read(&Pipe { taken: text.into_bytes(), ..Pipe::default() });
        let (mut at, mut missed, mut count) = (0, 0, 0);
        let mut replies: Vec<usize> = Vec::new();
        for item in &seen {
            match *item {
                -9999 => {}
                gap if gap < 0 => missed += gap.unsigned_abs(),
                reply if reply >= REPLY => {
                    let number = (reply - REPLY) as usize;
                    assert!(
                        self.early[number] || !replies.iter().any(|one| *one > number && !self.early[*one])
                    );
                    assert!(!replies.contains(&number), "{seen:?}");
                    assert!(self.conflated || count + missed >= self.replies[number], "{seen:?}");
                    replies.push(number);
                }
                n => {
                    assert!(n as u64 >= at, "{seen:?}");
                    assert!(self.conflated || n as u64 == count + missed, "{n} in {seen:?}");
                    at = n as u64 + 1;
                    count += 1;
                }
            }
        }
        assert!(count + missed <= self.world.published, "more is reported than was lost: {seen:?}");
        if self.policy == MIXED && !self.changed && !seen.contains(&-9999) && is_complete {
            let required = self.kinds.iter().zip(0..).filter(|(kind, _)| **kind == 0);
            let unseen = required.filter(|(_, n)| !seen.contains(n)).count() as u64;
            assert_eq!(missed, unseen, "each required event that was lost is reported: {seen:?}");
        }
        if is_complete {
            assert_eq!(replies.len(), self.replies.len(), "{seen:?}");
            assert!(self.conflated || count + missed == self.world.published, "{seen:?}");
        }
    }
}

/// Number in a gap notice that has none.
const UNKNOWN: &str = "\"missed\":9999";

/// First number of a reply in [`read`].
const REPLY: i64 = 1000;

/// Takes random steps, and returns the transitions.
fn walk(seed: u64) -> BTreeSet<Transition> {
    let mut dice = dice(seed);
    let mut client = Client::new(POLICIES[dice(POLICIES.len() as u64) as usize]);
    client.world.writes_through = dice(2) == 0;
    for _ in 0..60 {
        match dice(16) {
            0..=3 => {
                let more = if dice(5) == 0 { "x".repeat(MERGE_FRAME_BYTES_MAX) } else { String::new() };
                let kinds: Vec<u64> = (0..dice(12)).map(|_| dice(5)).collect();
                client.publish(kinds.into_iter(), &more, dice(4) > 0);
            }
            4..=6 => {
                client.pipe.room = [0, 1, 40, 80, 120, 400, 5000, usize::MAX][dice(8) as usize];
                client.is_blocked = false;
                client.flush([1, 100, usize::MAX][dice(3) as usize]);
            }
            7 | 8 => client.reply(),
            9..=11 => client.step_replay(dice(4) as usize),
            12 if client.pasts.is_empty() => client.begin_refill(),
            13 if client.pasts.is_empty() => client.change(POLICIES[dice(POLICIES.len() as u64) as usize]),
            14 if client.pasts.is_empty() && dice(2) == 0 => client.leave(),
            15 if client.pasts.is_empty() && dice(3) == 0 => client.hand_over(),
            15 if dice(8) == 0 => client.abandon(),
            _ => {}
        }
        client.check_balance();
    }
    while !client.pasts.is_empty() {
        client.step_replay(3);
    }
    client.pipe.room = usize::MAX;
    client.flush(usize::MAX);
    while !client.pasts.is_empty() {
        client.step_replay(3);
    }
    client.flush(usize::MAX);
    client.check_balance();
    client.check(true);
    assert!(client.outbox.is_done(&client.world.fanout));
    client.seen
}

/// Returns the rows of the table: functions, states before and states after.
fn rows() -> Vec<[Vec<String>; 3]> {
    let head = include_str!("../outbox.rs").lines().filter_map(|line| line.strip_prefix("//! | `"));
    let rows = head.map(|row| row.split('|').map(cells)).filter_map(|mut row| {
        let row = [row.next()?, row.next()?, row.next()?];
        // The other table has states in its first column.
        row[0][0].starts_with(char::is_lowercase).then_some(row)
    });
    rows.collect()
}

fn cells(text: &str) -> Vec<String> {
    text.split(',').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
}

/// Each step that changes the state is in the table, and each function and state of a row occurs there.
#[test]
fn each_transition_of_an_outbox_is_in_the_table_and_occurs() {
    let mut seen = BTreeSet::new();
    for seed in 1..=SEEDS {
        let walked = std::panic::catch_unwind(|| walk(seed));
        seen.append(&mut walked.unwrap_or_else(|_| panic!("seed {seed}")));
    }
    let name = |state: OutboxState| format!("{state:?}");
    let seen = seen.into_iter().filter(|(_, from, to)| from != to);
    let seen: Vec<[String; 3]> =
        seen.map(|(function, from, to)| [function.to_owned(), name(from), name(to)]).collect();
    let is_in = |row: &[Vec<String>; 3], step: &[String; 3]| {
        row.iter().zip(step).all(|(cells, value)| cells.contains(value))
    };
    let rows = rows();
    for step in &seen {
        assert!(rows.iter().any(|row| is_in(row, step)), "{step:?} is not in the table");
    }
    for row in &rows {
        for (column, cells) in row.iter().enumerate() {
            for cell in cells {
                let occurs = seen.iter().any(|step| is_in(row, step) && step[column] == *cell);
                assert!(occurs, "{cell} of the row {row:?} does not occur");
            }
        }
    }
}

/// Number of walks. Each cell of the table occurs in at least two of them.
const SEEDS: u64 = 800;

/// A replay delivers the required frames that it skips, so they are not reported when the feed trims them later.
#[test]
fn required_events_of_a_replay_are_not_reported_as_lost() {
    let mut client = Client::new(MIXED);
    client.is_blocked = false;
    client.publish([0, 1].into_iter(), "", true);
    client.reply();
    client.begin_refill();
    for _ in 0..4 {
        client.publish([0, 0, 0].into_iter(), "", true);
    }
    client.step_replay(9);
    client.step_replay(99);
    for _ in 0..4 {
        client.publish([0, 1, 2].into_iter(), "", true);
    }
    client.pipe.room = usize::MAX;
    client.flush(usize::MAX);
    client.check_balance();
    client.check(true);
}

//! Kept logs that are made from an engine's log: equal on every node, and the log decides.

use std::time::Duration;

use super::followed::SentPublication;
use super::tests::dice;
use super::*;
use crate::dialect::{Complete, ErrorCode, envelope};
use crate::event::{EventId, Sequence, Timestamp};
use crate::sync::atomic::{AtomicU64, Ordering};

const EPOCH: u64 = 7;
const SECOND: i64 = 1_000_000;
static NODES: AtomicU64 = AtomicU64::new(0);

/// Entry of a log: an event and its stamp.
#[derive(Clone, Debug)]
struct TestEntry {
    id: EventId,
    json: String,
    stamp: Option<String>,
}

fn id(sequence: Sequence) -> EventId {
    EventId { epoch: EPOCH, shard: 0, sequence }
}

fn runs() -> RetainConfig {
    let mut rule = RetainRule::new("stream=run-*", RetainBy::Stream).expect("valid").end(["end"]);
    (rule.keep_for, rule.events) = (Duration::from_secs(60), 5);
    RetainConfig { rules: vec![rule], max_logs: 4, ..RetainConfig::default() }
}

/// Node that reads the log, at its own pace and with a clock of its own.
struct Node {
    logs: KeptLogs,
    read: usize,
    clock: Timestamp,
}

impl Node {
    fn new(clock: i64) -> Self {
        let mut logs = KeptLogs::new(&runs(), 1);
        logs.follow_engine(16, NODES.fetch_add(1, Ordering::Relaxed) << 32);
        Self { logs, read: 0, clock: Timestamp(clock) }
    }

    /// Node that begins to read at this entry.
    fn at(log: &[TestEntry], read: usize, clock: i64) -> Self {
        let mut node = Self::new(clock);
        node.read = read;
        node.logs.end_reading(std::iter::once(
            log.get(read).map_or((EPOCH, 0), |entry| (entry.id.epoch, entry.id.sequence)),
        ));
        node
    }

    /// Reads entries, and returns those that are delivered.
    fn read(&mut self, log: &[TestEntry]) -> Vec<EventId> {
        let mut delivered = Vec::new();
        while let Some(entry) = log.get(self.read) {
            self.read += 1;
            let Ok(event) = envelope::read_stored(&entry.json) else {
                assert!(self.logs.purge_followed(entry.id, entry.stamp.as_deref().expect("a stamp")));
                continue;
            };
            let event = event.into_publishable();
            event.set_id(entry.id);
            if self.logs.record_followed(&event, entry.stamp.as_deref()) {
                delivered.push(entry.id);
            }
        }
        delivered
    }

    fn admit(&mut self, events: &[Complete]) -> Result<SentPublication, LogRefusal> {
        self.logs.admit_sent(events, &[], self.clock).map(|sent| sent.expect("a rule keeps them"))
    }

    /// Publishes events, and returns their ids.
    fn publish(&mut self, log: &mut Vec<TestEntry>, events: &[Complete]) -> Result<Vec<EventId>, LogRefusal> {
        let sent = self.admit(events)?;
        let ids = append(log, events, &sent);
        self.read(log);
        self.logs.settle_sent(&sent, &ids).map_or(Ok(ids), Err)
    }

    /// Returns what a client can learn of the logs.
    fn view(&self, now: i64) -> Vec<String> {
        let now = Timestamp(now);
        let mut all = Vec::new();
        for n in 0..6 {
            let name = LogName::new(RetainBy::Stream, &format!("run-{n}"));
            let head = self.logs.head(&name, now);
            let end = self.logs.end(&name, now);
            let mut got = String::new();
            let filter = format!("stream={}", name.value).parse().expect("a filter");
            let mut cursor = self.logs.cursor(&[filter], &[], now).expect("one");
            let mut items = std::collections::VecDeque::new();
            self.logs.read(&cursor, |_| true, now, 1000, &mut items);
            for item in items {
                let shown = match &item.content {
                    KeptContent::Event(event) => event.id().expect("published").sequence.to_string(),
                    KeptContent::Gap { missed, .. } => format!("{missed:?}"),
                };
                got = got + " " + &shown;
                cursor.pass(&item);
            }
            all.push(format!("{} {head:?} {end:?}{got}", name.value));
        }
        all
    }
}

/// Appends the record of a purge, and returns its id.
fn append_purge(log: &mut Vec<TestEntry>, runs: &[&str], at: i64) -> EventId {
    let names: Vec<LogName> = runs.iter().map(|run| LogName::new(RetainBy::Stream, run)).collect();
    let json = purge_record(&names, Timestamp(at)).expect("names");
    let stamp = json.strip_prefix(r#"{"stamp":"#).and_then(|rest| rest.strip_suffix('}'));
    log.push(TestEntry { id: id(log.len() as Sequence), stamp: stamp.map(str::to_owned), json });
    log[log.len() - 1].id
}

/// Appends a publication, and returns its ids.
fn append(log: &mut Vec<TestEntry>, events: &[Complete], sent: &SentPublication) -> Vec<EventId> {
    append_stamped(log, events, &sent.stamps)
}

fn append_stamped(
    log: &mut Vec<TestEntry>,
    events: &[Complete],
    stamps: &[Option<Box<str>>],
) -> Vec<EventId> {
    let first = log.len();
    for (event, stamp) in events.iter().zip(stamps) {
        let stamp = stamp.as_deref().map(str::to_owned);
        let mut json = String::new();
        envelope::write_stored(event, &mut json);
        log.push(TestEntry { id: id(log.len() as Sequence), json, stamp });
    }
    log[first..].iter().map(|entry| entry.id).collect()
}

fn event(run: u64, event_type: &str) -> Complete {
    with(run, event_type, r#""reopen":false"#)
}

/// Returns an event that no rule keeps.
fn noise() -> Complete {
    envelope::read_published(r#"{"type":"noise","stream_id":"noise"}"#).expect("valid")
}

/// Returns an event with conditions.
fn with(run: u64, event_type: &str, terms: &str) -> Complete {
    let text = format!(r#"{{"type":"{event_type}","stream_id":"run-{run}",{terms}}}"#);
    envelope::read_published(&text).expect("valid")
}

fn after(run: u64, expected: Option<EventId>) -> Complete {
    let expected = expected.map_or_else(String::new, |id| id.to_string());
    with(run, "token", &format!(r#""expected_last_id":"{expected}""#))
}

fn reopen(run: u64) -> Complete {
    with(run, "token", r#""reopen":true"#)
}

/// Returns the sequences of a log's newest life, and whether it is complete.
fn kept(node: &Node, run: u64) -> (Vec<Sequence>, bool) {
    let filter = format!("stream=run-{run}").parse().expect("a filter");
    let mut items = std::collections::VecDeque::new();
    let cursor = node.logs.cursor(&[filter], &[], node.clock).expect("one");
    node.logs.read(&cursor, |_| true, node.clock, 1000, &mut items);
    let mut sequences = Vec::new();
    let mut complete = true;
    for item in items {
        match item.content {
            KeptContent::Event(event) => sequences.push(event.id().expect("published").sequence),
            KeptContent::Gap { .. } => complete = false,
        }
    }
    (sequences, complete)
}

#[test]
fn nodes_that_race_agree_and_so_does_one_that_comes_later() {
    for seed in 1..25_u64 {
        let mut next = dice(seed);
        let mut log = Vec::new();
        // The nodes' clocks differ by some seconds.
        let mut nodes = [Node::at(&[], 0, 0), Node::at(&[], 0, 3 * SECOND)];
        let mut refused = 0;
        for step in 0..120 {
            for node in &mut nodes {
                node.clock.0 += next(6) as i64 * SECOND;
            }
            // Both admit before either has read what the other sent.
            let sent: Vec<_> = nodes
                .iter_mut()
                .map(|node| {
                    let run = next(6);
                    let name = LogName::new(RetainBy::Stream, &format!("run-{run}"));
                    let last = node.logs.head(&name, node.clock).and_then(|head| head.last);
                    let other = (run + 1) % 6;
                    let events = match next(10) {
                        8 => vec![event(run, "token"), noise(), event(other, "end")],
                        9 => vec![noise(), reopen(run), event(other, "token")],
                        0 => vec![event(run, "token"), event(run, "end")],
                        1 => vec![event(run, "end")],
                        2 => vec![reopen(run)],
                        3 | 4 => vec![after(run, last)],
                        _ => vec![event(run, "token")],
                    };
                    node.admit(&events).map(|sent| (events, sent))
                })
                .collect();
            if next(8) == 0 {
                let run = format!("run-{}", next(6));
                append_purge(&mut log, &[&run], nodes[0].clock.0);
            }
            let appended: Vec<_> = sent
                .into_iter()
                .map(|sent| sent.ok().map(|(events, sent)| (append(&mut log, &events, &sent), sent)))
                .collect();
            let delivered = nodes.each_mut().map(|node| node.read(&log));
            assert_eq!(delivered[0], delivered[1], "seed {seed} step {step}");
            for (node, appended) in nodes.iter_mut().zip(appended) {
                let Some((ids, sent)) = appended else { continue };
                let refusal = node.logs.settle_sent(&sent, &ids);
                let count = ids.iter().filter(|id| delivered[0].contains(id)).count();
                let wanted = if refusal.is_some() { 0 } else { ids.len() };
                assert_eq!(count, wanted, "seed {seed} step {step}: all or nothing");
                assert_eq!(ids.iter().all(|id| node.logs.is_refused(*id)), refusal.is_some());
                refused += usize::from(refusal.is_some());
            }
            let now = nodes.iter().map(|node| node.clock.0).max().expect("two");
            let view = nodes[0].view(now);
            assert_eq!(view, nodes[1].view(now), "seed {seed} step {step}");
            if step % 10 == 0 {
                let mut later = Node::new(now + 500 * SECOND);
                later.read(&log);
                assert_eq!(view, later.view(now), "seed {seed} step {step}");
            }
            assert!(nodes.iter().all(|node| node.logs.sent().is_empty()), "seed {seed} step {step}");
        }
        assert!(refused > 0, "seed {seed}: nobody lost a race");
    }
}

#[test]
fn events_after_another_nodes_end_are_refused_by_all() {
    let mut log = Vec::new();
    let (mut a, mut b) = (Node::at(&[], 0, 0), Node::at(&[], 0, 0));
    a.publish(&mut log, &[event(1, "token")]).expect("taken");
    b.read(&log);
    let (end, token) = ([event(1, "end")], [event(1, "token")]);
    let of_a = a.admit(&end).expect("open");
    let of_b = b.admit(&token).expect("open, as far as it knows");
    let ids = append(&mut log, &end, &of_a);
    let late = append(&mut log, &token, &of_b);
    assert_eq!((a.read(&log), b.read(&log)), (ids.clone(), ids.clone()));
    let refusal = b.logs.settle_sent(&of_b, &late).expect("refused");
    assert_eq!((refusal.code, refusal.last, refusal.at), (ErrorCode::Ended, Some(ids[0]), 0));
    assert_eq!(a.logs.settle_sent(&of_a, &ids), None);
    // Nobody misses it.
    assert!(a.logs.are_undelivered(ids[0], id(3)) && !a.logs.are_undelivered(id(0), id(2)));
    assert!(
        !a.logs.are_undelivered(id(2), id(2)) && !a.logs.are_undelivered(id(3), id(1)),
        "nothing is between"
    );
    assert_eq!(a.admit(&token).expect_err("ended").code, ErrorCode::Ended);
    // Both begin the next life: one of them does.
    let again = [reopen(1)];
    let (of_a, of_b) = (a.admit(&again).expect("ended"), b.admit(&again).expect("ended"));
    let first = append(&mut log, &again, &of_b);
    let second = append(&mut log, &again, &of_a);
    assert_eq!((a.read(&log), b.read(&log)), (first.clone(), first));
    assert_eq!(a.logs.settle_sent(&of_a, &second).map(|refusal| refusal.code), Some(ErrorCode::NotEnded));
    assert_eq!(kept(&a, 1), (vec![3], true));
}

#[test]
fn what_is_on_its_way_counts_for_the_node_that_sent_it() {
    let mut log = Vec::new();
    let mut node = Node::at(&[], 0, 0);
    let batch = [event(1, "token"), event(1, "end")];
    let sent = node.admit(&batch).expect("new");
    assert_eq!(node.admit(&[event(1, "token")]).expect_err("ended").code, ErrorCode::Ended);
    let refusal = node.admit(&[after(1, None)]).expect_err("its id is not known");
    assert_eq!(refusal.code, ErrorCode::PublishInFlight);
    let ids = append(&mut log, &batch, &sent);
    assert_eq!(node.logs.settle_sent(&sent, &ids), None);
    assert_eq!(node.admit(&[after(1, None)]).expect_err("ended").last, Some(ids[1]));
    node.read(&log);
    assert!(node.logs.sent().is_empty());
    // The engine refuses what comes next: nothing has happened.
    let sent = node.admit(&[reopen(1)]).expect("ended");
    assert_eq!(node.logs.settle_sent(&sent, &[]), None);
    assert_eq!(node.admit(&[event(1, "token")]).expect_err("still ended").code, ErrorCode::Ended);
}

#[test]
fn a_node_that_begins_later_knows_what_the_log_retains() {
    let mut log = Vec::new();
    let mut node = Node::at(&[], 0, 0);
    node.publish(&mut log, &[event(1, "token")]).expect("taken");
    node.publish(&mut log, &[event(2, "token"), event(1, "token")]).expect("taken");
    node.publish(&mut log, &[event(2, "end")]).expect("taken");
    // The engine's log has forgotten the first entry.
    let mut later = Node::at(&log, 1, 0);
    later.read(&log);
    assert_eq!((kept(&later, 1), kept(&later, 2)), ((vec![2], false), (vec![1, 3], true)));
    assert_eq!((kept(&node, 1), kept(&node, 2)), ((vec![0, 2], true), (vec![1, 3], true)));
    // This node can't know that a name is new, so it does not say so; another node can.
    later.publish(&mut log, &[event(3, "token")]).expect("taken");
    node.read(&log);
    assert_eq!((kept(&later, 3).1, kept(&node, 3).1), (false, false));
    node.publish(&mut log, &[event(4, "token")]).expect("taken");
    later.read(&log);
    assert_eq!((kept(&later, 4).1, kept(&node, 4).1), (true, true));
    // After the time of a rule an earlier log would be over.
    later.clock = Timestamp(61 * SECOND);
    later.publish(&mut log, &[event(5, "token")]).expect("taken");
    node.read(&log);
    assert_eq!((kept(&later, 5).1, kept(&node, 5).1), (true, true));
    // A condition on an event that was before the beginning can't be checked here, and was checked there.
    let mut lone = Node::at(&log, 2, 0);
    assert_eq!(lone.read(&log).len(), log.len() - 2);
}

#[test]
fn entries_of_older_nodes_are_kept_by_rule() {
    let stored = |text: &str| {
        let mut json = String::new();
        envelope::write_stored(&envelope::read_event(text).expect("valid"), &mut json);
        json
    };
    let texts = ["token", "end", "token", "token"];
    let log: Vec<TestEntry> = texts
        .iter()
        .enumerate()
        .map(|(at, event_type)| {
            let json = stored(&format!(r#"{{"type":"{event_type}","stream_id":"run-1"}}"#));
            TestEntry { id: id(at as Sequence), json, stamp: None }
        })
        .collect();
    let mut node = Node::new(0);
    assert_eq!(node.read(&log).len(), 4, "no publisher was asked to reopen it");
    assert_eq!(kept(&node, 1), (vec![2, 3], true));
    let mut later = Node::at(&log, 3, 0);
    later.read(&log);
    assert_eq!(kept(&later, 1), (vec![3], false));
    // Names of publications alone are no mark.
    let stamp = Some(r#"{"at":5,"names":[["a",0]]}"#.to_owned());
    let more = TestEntry { id: id(4), json: log[0].json.clone(), stamp };
    let log: Vec<TestEntry> = log.into_iter().chain([more]).collect();
    node.read(&log);
    assert_eq!(kept(&node, 1), (vec![2, 3, 4], true));
}

#[test]
fn a_first_life_is_complete_if_the_log_got_nothing_of_an_earlier_publication() {
    let mut log = Vec::new();
    let mut node = Node::at(&[], 0, 0);
    let lost = node.admit(&[event(1, "token")]).expect("open");
    let events = [event(1, "token")];
    let sent = node.admit(&events).expect("open");
    let ids = append(&mut log, &events, &sent);
    node.read(&log);
    assert_eq!((node.logs.settle_sent(&lost, &[]), node.logs.settle_sent(&sent, &ids)), (None, None));
    assert_eq!(kept(&node, 1), (vec![0], true));
    // An earlier publication of which a reader does not know whether it was stored.
    let stored = [event(2, "token")];
    let first = node.admit(&stored).expect("open");
    let second = node.admit(&stored).expect("open");
    append(&mut log, &stored, &first);
    append(&mut log, &stored, &second);
    node.read(&log);
    let mut later = Node::at(&log, 1, 0);
    later.read(&log);
    assert_eq!((kept(&node, 2), kept(&later, 2)), ((vec![1, 2], true), (vec![1, 2], true)));
    let mut latest = Node::at(&log, 2, 0);
    latest.read(&log);
    assert_eq!(kept(&latest, 2), (vec![2], false), "it has not read where the first one is");
}

#[test]
fn a_hole_or_another_epoch_makes_the_earlier_past_incomplete() {
    let mut log = Vec::new();
    let mut node = Node::at(&[], 0, 0);
    node.publish(&mut log, &[event(1, "token")]).expect("taken");
    node.publish(&mut log, &[event(1, "token")]).expect("taken");
    node.publish(&mut log, &[event(1, "token")]).expect("taken");
    log.remove(1);
    let mut other = Node::new(0);
    other.read(&log);
    assert_eq!(kept(&other, 1), (vec![0, 2], false));
    // Another epoch of the log.
    let mut entry = log[0].clone();
    entry.id.epoch += 1;
    log.push(entry);
    node.read = 2;
    node.read(&log);
    assert_eq!(kept(&node, 1), (vec![0, 1, 2, 0], false));
}

#[test]
fn a_batch_that_loses_a_race_is_refused_as_a_whole() {
    let mut log = Vec::new();
    let mut a = Node::at(&[], 0, 0);
    let mut b = Node::at(&[], 0, 0);
    a.publish(&mut log, &[event(1, "token"), event(2, "token")]).expect("taken");
    b.read(&log);
    let end = [event(2, "end")];
    let of_a = a.admit(&end).expect("open");
    let batch = [event(1, "token"), noise(), event(2, "token"), event(3, "token")];
    let of_b = b.admit(&batch).expect("open, as far as it knows");
    let ended = append(&mut log, &end, &of_a);
    let ids = append(&mut log, &batch, &of_b);
    assert_eq!((a.read(&log), b.read(&log)), (ended.clone(), ended.clone()));
    assert_eq!(a.logs.settle_sent(&of_a, &ended), None);
    let refusal = b.logs.settle_sent(&of_b, &ids).expect("refused");
    assert_eq!((refusal.code, refusal.at, refusal.last), (ErrorCode::Ended, 2, Some(ended[0])));
    assert_eq!((kept(&a, 1), kept(&a, 3).0), ((vec![0], true), vec![]));
    assert!(a.logs.are_undelivered(ended[0], id(ids[3].sequence + 1)), "nobody misses it");
    // A log in which another event comes between two of a batch refuses the batch from there on.
    let batch = [event(1, "token"), event(4, "token"), event(1, "end")];
    let (end, token) = ([event(4, "end")], [event(1, "token")]);
    let of_b = b.admit(&batch).expect("open");
    let (first, second) = (a.admit(&end).expect("new"), a.admit(&token).expect("open"));
    let mut ids = append_stamped(&mut log, &batch[..1], &of_b.stamps);
    let others = [append(&mut log, &end, &first), append(&mut log, &token, &second)].concat();
    ids.extend(append_stamped(&mut log, &batch[1..], &of_b.stamps[1..]));
    let delivered = vec![ids[0], others[0], others[1]];
    assert_eq!((a.read(&log), b.read(&log)), (delivered.clone(), delivered));
    let refusal = b.logs.settle_sent(&of_b, &ids).expect("refused");
    assert_eq!((refusal.code, refusal.at), (ErrorCode::Ended, 1));
    assert_eq!(b.logs.stayed(&ids), [(0, ids[0])], "the publisher is told what stays");
}

#[test]
fn a_purge_has_its_place_in_the_log() {
    let mut log = Vec::new();
    let mut a = Node::at(&[], 0, 0);
    let mut b = Node::at(&[], 0, 0);
    a.publish(&mut log, &[event(1, "token"), event(2, "token"), event(1, "end")]).expect("taken");
    b.read(&log);
    let token = [event(2, "token")];
    let before = a.admit(&token).expect("open");
    let ids = append(&mut log, &token, &before);
    let purge = append_purge(&mut log, &["run-1", "run-2", "run-3"], 0);
    let after = b.admit(&token).expect("open, as far as it knows");
    append(&mut log, &token, &after);
    let mut seen = 0;
    for node in [&mut a, &mut b] {
        node.read(&log);
        assert_eq!(node.logs.purged_by(purge), Some(PurgedLogs { logs: 2, events: 4 }));
        assert_eq!((kept(node, 1), kept(node, 2)), ((vec![], false), (vec![5], false)));
        assert!(node.logs.are_undelivered(ids[0], id(5)), "the record is no missing event");
        assert_eq!(node.logs.purged_after(seen).len(), 1);
    }
    assert_eq!(a.logs.settle_sent(&before, &ids), None, "what was purged was accepted");
    seen = a.logs.purge_count();
    // A new log is never complete, also if there was none to purge.
    a.publish(&mut log, &[event(3, "token")]).expect("taken");
    a.publish(&mut log, &[event(4, "token")]).expect("taken");
    b.read(&log);
    for node in [&a, &b] {
        assert_eq!((kept(node, 3).1, kept(node, 4).1), (false, true));
        assert!(node.logs.purged_after(seen).is_empty());
    }
    // A process that reads the past purges too, and reports that to no client.
    let mut later = Node::new(0);
    later.read(&log);
    later.logs.end_reading(std::iter::once((EPOCH, log.len() as Sequence)));
    assert_eq!(later.view(0), a.view(0));
    assert_eq!(later.logs.purge_count(), 0);
    // An attribute of a later version.
    let record = r#"{"at":1,"purge":{"by":"shape","values":["round"]}}"#;
    assert!(later.logs.purge_followed(id(log.len() as Sequence), record));
    assert!(!later.logs.purge_followed(id(log.len() as Sequence + 1), r#"{"at":1}"#));
}

#[test]
fn nothing_is_admitted_while_the_log_is_read() {
    let mut node = Node::new(0);
    assert_eq!(node.admit(&[event(1, "token")]).expect_err("unknown").code, ErrorCode::EngineUnreachable);
    node.logs.end_reading(std::iter::once((EPOCH, 0)));
    assert!(node.admit(&[event(1, "token")]).is_ok());
}

#[test]
fn lives_that_begin_after_the_place_of_a_loop_are_unread() {
    let (mut log, mut node) = (Vec::new(), Node::at(&[], 0, 0));
    for event in [event(1, "token"), event(1, "end"), reopen(1), event(2, "token")] {
        node.publish(&mut log, &[event]).expect("taken");
        node.read(&log);
    }
    let unread = |run: u64, read: Sequence| {
        let filter = format!("stream=run-{run}").parse().expect("a filter");
        node.logs.unread_lives(&[filter], |id| id.sequence < read, node.clock)
    };
    assert_eq!([0, 2, 3].map(|read| unread(1, read)), [vec![id(2)], vec![id(2)], vec![]]);
    assert_eq!([3, 4].map(|read| unread(2, read)), [vec![id(3)], vec![]]);
    assert_eq!(unread(3, 0), []);
}

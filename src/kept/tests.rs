//! Compares the store with a naive model, and checks its answers one by one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::cursor::KeptContent;
use super::*;
use crate::dialect::Missed;
use crate::event::{Event, EventId, Sequence, Timestamp};
use crate::filter::Filter;

const EPOCH: u64 = 7;

fn id(sequence: Sequence) -> EventId {
    EventId { epoch: EPOCH, shard: 0, sequence }
}

fn event(sequence: Sequence, stream: &str, event_type: &str) -> Event {
    let event = Event::builder(event_type).stream(stream).json("[1]").build().expect("valid");
    event.set_id(id(sequence));
    event
}

fn filter(text: &str) -> Filter {
    text.parse().expect("a filter")
}

fn config(rules: Vec<RetainRule>) -> RetainConfig {
    RetainConfig { rules, ..RetainConfig::default() }
}

fn runs() -> RetainRule {
    RetainRule::new("stream=run-*", RetainBy::Stream).expect("valid").end(["end"])
}

fn name(stream: &str) -> LogName {
    LogName::new(RetainBy::Stream, stream)
}

/// Returns a generator of pseudorandom numbers below a bound (xorshift).
pub(crate) fn dice(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    }
}

/// State of a log.
#[derive(Debug, PartialEq, Eq)]
struct LogStatus {
    last: EventId,
    end: Option<Arc<LogEnd>>,
    complete: bool,
}

impl KeptLogs {
    fn status(&self, name: &LogName, now: Timestamp) -> Option<LogStatus> {
        let log = self.find(name, now)?;
        let hole = self.holes().last().map_or(0, |hole| hole.number);
        Some(LogStatus { last: log.newest, end: log.end.clone(), complete: log.is_complete(hole) })
    }
}

/// Sequences and gaps that a reader gets.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    events: Vec<Sequence>,
    gaps: Vec<Missed>,
}

/// Reads everything up to `end`, in pages of `page` events.
fn read(logs: &KeptLogs, cursor: &mut KeptCursor, end: Sequence, now: i64, page: usize) -> Got {
    let mut got = Got::default();
    loop {
        let mut items = VecDeque::new();
        logs.read(cursor, |id| id.sequence < end, Timestamp(now), page, &mut items);
        if items.is_empty() {
            return got;
        }
        for item in items {
            match &item.content {
                KeptContent::Event(event) => got.events.push(event.id().expect("published").sequence),
                KeptContent::Gap { missed, .. } => got.gaps.push(*missed),
            }
            cursor.pass(&item);
        }
    }
}

fn from_start(logs: &KeptLogs, text: &str, end: Sequence, now: i64) -> Got {
    let mut cursor = logs.cursor(&[filter(text)], &[], Timestamp(now)).expect("few");
    read(logs, &mut cursor, end, now, 3)
}

fn events(sequences: &[Sequence]) -> Got {
    Got { events: sequences.to_vec(), gaps: Vec::new() }
}

/// A log in the naive model.
#[derive(Debug, Default)]
struct NaiveLog {
    kept: Vec<Sequence>,
    /// Number of evicted events of the newest life.
    lost: u64,
    is_ended: bool,
    is_from_start: bool,
    written: i64,
    order: usize,
}

#[test]
fn the_store_behaves_as_a_naive_model() {
    const EVENTS_MAX: usize = 5;
    const LOGS_MAX: usize = 4;
    const KEEP: i64 = 40_000_000;
    for seed in 1..40_u64 {
        let mut next = dice(seed);
        let mut rule = runs();
        (rule.events, rule.keep_for) = (EVENTS_MAX, Duration::from_micros(KEEP as u64));
        let limits = RetainConfig { max_logs: LOGS_MAX, ..config(vec![rule]) };
        let mut logs = KeptLogs::new(&limits, 1);
        let mut model: HashMap<String, NaiveLog> = HashMap::new();
        let (mut lost_open, mut lost): (HashSet<String>, HashSet<String>) = Default::default();
        let mut now = 0;
        for step in 0..250 {
            now += next(3_000_000) as i64;
            let sequence = step as Sequence;
            let value = format!("{}-{}", if next(10) == 0 { "chat" } else { "run" }, next(7));
            let is_end = next(6) == 0;
            let recorded = event(sequence, &value, if is_end { "end" } else { "token" });
            let recorded_ends = logs.record(&recorded, Timestamp(now));
            assert_eq!(logs.record(&recorded, Timestamp(now)), recorded_ends, "a second loop gets the same");
            let mut evict = |log: NaiveLog, name: String| {
                if !log.is_ended {
                    lost_open.insert(name.clone());
                }
                lost.insert(name);
            };
            let expired: Vec<String> = model
                .iter()
                .filter(|(_, log)| now - log.written >= KEEP)
                .map(|(name, _)| name.clone())
                .collect();
            for name in expired {
                let log = model.remove(&name).expect("there");
                evict(log, name);
            }
            if value.starts_with("run") {
                if !model.contains_key(&value) && model.len() == LOGS_MAX {
                    let oldest = model.iter().min_by_key(|(_, log)| log.order).expect("some").0.clone();
                    let log = model.remove(&oldest).expect("there");
                    evict(log, oldest);
                }
                let is_from_start = !lost_open.contains(&value);
                let log = model
                    .entry(value.clone())
                    .or_insert_with(|| NaiveLog { is_from_start, ..NaiveLog::default() });
                if log.is_ended {
                    *log = NaiveLog { is_from_start: true, ..NaiveLog::default() };
                }
                log.kept.push(sequence);
                if log.kept.len() > EVENTS_MAX {
                    log.kept.remove(0);
                    log.lost += 1;
                }
                (log.is_ended, log.written, log.order) = (is_end, now, step);
                let complete = log.is_from_start && log.lost == 0;
                assert_eq!(
                    recorded_ends.map(|end| (end.id, end.complete)),
                    is_end.then_some((id(sequence), complete))
                );
            } else {
                assert_eq!(recorded_ends, None);
            }
            for value in 0..7 {
                let value = format!("run-{value}");
                let text = format!("stream={value}");
                let status = logs.status(&name(&value), Timestamp(now));
                let got = from_start(&logs, &text, Sequence::MAX, now);
                let Some(log) = model.get(&value) else {
                    assert_eq!(status, None, "seed {seed} step {step}");
                    let gaps = if lost.contains(&value) { vec![Missed::Unknown] } else { Vec::new() };
                    assert_eq!(got, Got { events: Vec::new(), gaps });
                    continue;
                };
                let status = status.unwrap_or_else(|| panic!("seed {seed} step {step}: {value} is kept"));
                let complete = log.is_from_start && log.lost == 0;
                assert_eq!(
                    (status.end.is_some(), status.complete),
                    (log.is_ended, complete),
                    "seed {seed} step {step}"
                );
                assert_eq!(got.events, log.kept, "seed {seed} step {step}");
                assert_eq!(got.gaps.is_empty(), complete, "seed {seed} step {step}: {got:?}");
                if log.lost > 0 && log.is_from_start {
                    assert_eq!(got.gaps, [Missed::AtMost(log.lost)]);
                }
                // A reader after any place receives the newest life's events after it, and a gap if some of them were
                // evicted.
                let place = next(step as u64 + 1);
                let mut cursor = logs.cursor(&[filter(&text)], &[id(place)], Timestamp(now)).expect("few");
                let got = read(&logs, &mut cursor, Sequence::MAX, now, 2);
                let after: Vec<Sequence> = log.kept.iter().copied().filter(|kept| *kept > place).collect();
                assert_eq!(got.events, after, "seed {seed} step {step} place {place}");
                if after.len() < log.kept.len() {
                    assert_eq!(got.gaps, [], "seed {seed} step {step} place {place}");
                }
            }
            assert!(logs.counts().0 <= LOGS_MAX);
        }
        // The memory is freed when everything has expired.
        for _ in 0..500 {
            logs.tend(Timestamp(now + KEEP));
        }
        assert_eq!(logs.counts(), (0, 0));
        assert!(logs.held_bytes() < (260 << 10) + 4096 * 200, "{}", logs.held_bytes());
    }
}

#[test]
fn several_logs_are_merged_in_the_order_of_recording() {
    let mut logs = KeptLogs::new(&config(vec![runs()]), 1);
    for sequence in 0..30 {
        logs.record(&event(sequence, &format!("run-{}", sequence % 3), "token"), Timestamp(0));
    }
    let all: Vec<Sequence> = (0..30).collect();
    assert_eq!(from_start(&logs, "stream=run-0,run-1,run-2", 30, 0), events(&all));
    // A reader gets events up to its loop's place.
    assert_eq!(from_start(&logs, "stream=run-0,run-1,run-2", 11, 0), events(&all[..11]));
    assert_eq!(from_start(&logs, "", 30, 0), events(&all));
    assert_eq!(from_start(&logs, "stream=run-1", 30, 0), events(&[1, 4, 7, 10, 13, 16, 19, 22, 25, 28]));
    assert_eq!(from_start(&logs, "stream=other", 30, 0), events(&[]));
}

#[test]
fn an_ended_log_begins_a_life_with_the_next_event() {
    let mut logs = KeptLogs::new(&config(vec![runs()]), 1);
    let mut put =
        |sequence, event_type: &str| logs.record(&event(sequence, "run-1", event_type), Timestamp(0));
    assert!(put(0, "token").is_none());
    let end = put(1, "end").expect("ends it");
    assert_eq!((end.name.clone(), end.id, end.complete), (name("run-1"), id(1), true));
    assert!(put(2, "token").is_none());
    assert!(put(3, "token").is_none());
    assert_eq!(from_start(&logs, "stream=run-1", 4, 0), events(&[2, 3]));
    // A place in an older life resumes into the newest with its first event.
    let mut cursor = logs.cursor(&[filter("stream=run-1")], &[id(0)], Timestamp(0)).expect("one");
    assert_eq!(read(&logs, &mut cursor, 4, 0, 10), events(&[2, 3]));
    let status = logs.status(&name("run-1"), Timestamp(0)).expect("there");
    assert_eq!((status.last, status.end, status.complete), (id(3), None, true));
}

#[test]
fn events_evicted_under_a_reader_are_a_gap() {
    let mut rule = runs();
    rule.events = 4;
    let mut logs = KeptLogs::new(&config(vec![rule]), 1);
    for sequence in 0..4 {
        logs.record(&event(sequence, "run-1", "token"), Timestamp(0));
    }
    let mut cursor = logs.cursor(&[filter("stream=run-1")], &[], Timestamp(0)).expect("one");
    assert!(!cursor.has_gap());
    let mut items = VecDeque::new();
    logs.read(&cursor, |_| true, Timestamp(0), 1, &mut items);
    cursor.pass(&items[0]);
    for sequence in 4..8 {
        logs.record(&event(sequence, "run-1", "token"), Timestamp(0));
    }
    let got = read(&logs, &mut cursor, 8, 0, 10);
    assert_eq!(got, Got { events: vec![4, 5, 6, 7], gaps: vec![Missed::AtMost(3)] });
}

#[test]
fn a_hole_is_reported_and_no_log_with_one_is_complete() {
    let mut logs = KeptLogs::new(&config(vec![runs()]), 1);
    logs.record(&event(0, "run-1", "token"), Timestamp(0));
    logs.record(&event(1, "run-2", "end"), Timestamp(0));
    // Another loop recorded the first two, so this is no hole.
    logs.record_gap(id(1));
    assert!(logs.status(&name("run-1"), Timestamp(0)).expect("there").complete);
    logs.record_gap(id(4));
    assert_eq!(from_start(&logs, "stream=run-1", 5, 0), Got { events: vec![0], gaps: vec![Missed::Unknown] });
    logs.record(&event(5, "run-1", "token"), Timestamp(0));
    logs.record(&event(6, "run-2", "token"), Timestamp(0));
    logs.record(&event(7, "run-3", "token"), Timestamp(0));
    assert_eq!(
        from_start(&logs, "stream=run-1", 8, 0),
        Got { events: vec![0, 5], gaps: vec![Missed::Unknown] }
    );
    let complete = |value: &str| logs.status(&name(value), Timestamp(0)).expect("there").complete;
    // The second life of run-2 began after the hole. The beginning of run-3 is unknown.
    assert_eq!([complete("run-1"), complete("run-2"), complete("run-3")], [false, true, false]);
    assert_eq!(from_start(&logs, "stream=run-2", 8, 0), events(&[6]));
}

/// After the time for which a log is kept, a log that was not read completely would be gone, so new ones are complete again.
#[test]
fn new_logs_are_complete_again_when_those_with_a_hole_would_have_expired() {
    const HOUR: i64 = 3_600_000_000;
    let mut logs = KeptLogs::new(&config(vec![runs()]), 1);
    logs.begin_at([(EPOCH, 10)].into_iter());
    let is_complete = |logs: &KeptLogs, stream: &str, now: i64| {
        let status = logs.status(&name(stream), Timestamp(now)).expect("a log");
        let is_without_gap = from_start(logs, &format!("stream={stream}"), 99, now).gaps.is_empty();
        assert_eq!(status.complete, is_without_gap, "{stream}");
        status.complete
    };
    logs.record(&event(10, "run-1", "token"), Timestamp(5));
    logs.record(&event(11, "run-2", "token"), Timestamp(HOUR + 4));
    logs.record(&event(12, "run-3", "token"), Timestamp(HOUR + 5));
    let now = HOUR + 5;
    assert_eq!([2, 3].map(|n| is_complete(&logs, &format!("run-{n}"), now)), [false, true]);
    // So with a hole: the time counts from the next event.
    logs.record_gap(id(20));
    logs.record(&event(21, "run-4", "token"), Timestamp(now));
    logs.record(&event(22, "run-5", "token"), Timestamp(now + HOUR));
    assert_eq!(
        [4, 5].map(|n| is_complete(&logs, &format!("run-{n}"), now + HOUR - 1 + n - 4)),
        [false, true]
    );
    // And with a rule that a reload has added.
    let mut longer = RetainRule::new("stream=job-*", RetainBy::Stream).expect("valid");
    longer.keep_for = Duration::from_secs(7200);
    logs.set_rules(&config(vec![runs(), longer]), Some(&[(EPOCH, 23)]));
    let now = now + 2 * HOUR;
    for (n, (stream, at)) in
        [("job-1", 0), ("job-2", 2 * HOUR - 1), ("job-3", 2 * HOUR)].into_iter().enumerate()
    {
        logs.record(&event(23 + n as Sequence, stream, "token"), Timestamp(now + at));
        assert_eq!(is_complete(&logs, stream, now + at), stream == "job-3", "{stream}");
    }
}

/// A loop that lags has not reached a hole that another loop recorded. A reader of the slower loop gets the hole at its place,
/// even if a page ends just before it.
#[test]
fn a_hole_is_reported_at_its_place_and_once() {
    for page in 1..5 {
        let mut logs = KeptLogs::new(&config(vec![runs()]), 1);
        for sequence in [0, 1, 2, 6, 7, 11, 12] {
            if sequence == 6 || sequence == 11 {
                logs.record_gap(id(sequence - 1));
            }
            logs.record(&event(sequence, "run-1", "token"), Timestamp(0));
        }
        let mut cursor = logs.cursor(&[filter("stream=run-1")], &[], Timestamp(0)).expect("few");
        let mut parts = Vec::new();
        for end in [2, 7, 8, 13, 13] {
            parts.push(read(&logs, &mut cursor, end, 0, page));
        }
        let part = |sequences: &[Sequence], gaps| Got {
            events: sequences.to_vec(),
            gaps: vec![Missed::Unknown; gaps],
        };
        let expected = [part(&[0, 1], 0), part(&[2, 6], 1), part(&[7], 0), part(&[11, 12], 1), part(&[], 0)];
        assert_eq!(parts, expected, "pages of {page}");
    }
}

#[test]
fn a_reload_keeps_logs_and_reports_new_ones_as_incomplete() {
    let mut logs = KeptLogs::new(&config(vec![runs()]), 1);
    logs.record(&event(0, "run-1", "token"), Timestamp(0));
    let mut other = RetainRule::new("stream=chat-*", RetainBy::Stream).expect("valid");
    other.keep_for = Duration::from_secs(5);
    logs.set_rules(&config(vec![other, runs()]), Some(&[(EPOCH, 3)]));
    logs.record(&event(3, "run-1", "token"), Timestamp(0));
    logs.record(&event(4, "chat-1", "token"), Timestamp(0));
    assert_eq!(from_start(&logs, "stream=run-1", 5, 0), events(&[0, 3]));
    assert_eq!(
        from_start(&logs, "stream=chat-1", 5, 0),
        Got { events: vec![4], gaps: vec![Missed::Unknown] }
    );
    // The logs of a removed rule are kept until they expire.
    logs.set_rules(&config(vec![runs()]), Some(&[(EPOCH, 5)]));
    logs.record(&event(5, "chat-1", "token"), Timestamp(1));
    assert_eq!(from_start(&logs, "stream=chat-1", 6, 2).events, [4]);
    logs.tend(Timestamp(6_000_000));
    assert_eq!(logs.counts(), (1, 2));
}

#[test]
fn bytes_are_bounded_a_log_and_all_together() {
    let mut rule = runs();
    rule.bytes = 20_000;
    let mut limits = config(vec![rule]);
    limits.max_bytes = 100_000;
    let mut logs = KeptLogs::new(&limits, 1);
    let big = format!("\"{}\"", "x".repeat(3000));
    let mut most = 0;
    for sequence in 0..500 {
        let made = Event::builder("token")
            .stream(&format!("run-{}", sequence / 20))
            .json(&big)
            .build()
            .expect("valid");
        made.set_id(id(sequence));
        logs.record(&made, Timestamp(sequence as i64));
        most = most.max(logs.held_bytes());
    }
    // The rest is the names of evicted logs, and entries that are not freed yet.
    assert!((90_000..(256 << 10) + 150_000).contains(&most), "{most}");
    let (count, events) = logs.counts();
    assert!((4..=6).contains(&count) && events <= 6 * count, "{count} logs, {events} events");
    // One event that is larger than the limit of all logs is evicted immediately.
    let huge = Event::builder("token")
        .stream("run-9")
        .json(format!("\"{}\"", "x".repeat(200_000)))
        .build()
        .expect("valid");
    huge.set_id(id(500));
    logs.record(&huge, Timestamp(500));
    assert_eq!(from_start(&logs, "stream=run-9", 501, 500).events, [] as [Sequence; 0]);
    assert!(logs.held_bytes() < (256 << 10) + 250_000);
}

#[test]
fn a_request_reads_a_limited_number_of_logs() {
    let mut limits = config(vec![runs()]);
    limits.max_logs_read = 10;
    let mut logs = KeptLogs::new(&limits, 1);
    let named = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("run-{n}")).collect();
        filter(&format!("stream={}", names.join(",")))
    };
    assert_eq!(logs.cursor(&[named(10)], &[], Timestamp(0)).expect("ten").len(), 10);
    assert_eq!(logs.cursor(&[named(11)], &[], Timestamp(0)).expect_err("one too many").max, 10);
    for sequence in 0..11 {
        logs.record(&event(sequence, &format!("run-{sequence}"), "token"), Timestamp(0));
    }
    assert!(logs.cursor(&[Filter::new()], &[], Timestamp(0)).is_err());
    assert!(logs.cursor(&[named(5), named(5)], &[], Timestamp(0)).is_ok());
    assert!(logs.cursor(&[filter("stream=other")], &[], Timestamp(0)).is_ok());
}

#[test]
fn a_filter_is_covered_if_every_event_of_it_is_in_a_log() {
    let by_type = RetainRule::new("type=audit.**", RetainBy::Type).expect("valid");
    let logs = KeptLogs::new(&config(vec![by_type, runs()]), 1);
    for (text, is_covered) in [
        ("stream=run-1 type=token", true),
        ("stream=run-1,run-2 type=token", true),
        ("type=audit.login", true),
        // Either rule may keep these events, and both rules' attributes are present.
        ("stream=run-1", true),
        ("stream=run-1,chat type=token", false),
        ("type=token", false),
        ("", false),
        ("stream!=run-1", false),
        ("type=audit.*", false),
    ] {
        assert_eq!(logs.cover(&[filter(text)], |_| (EPOCH, 0)), is_covered, "{text}");
    }
    assert!(!logs.cover(&[filter("stream=run-1"), Filter::new()], |_| (EPOCH, 0)));
    // A rule without a condition on its attribute keeps only events that have it.
    let catch_all = RetainRule::new("", RetainBy::Channel).expect("valid");
    let logs = KeptLogs::new(&config(vec![catch_all]), 1);
    assert!(logs.cover(&[filter("channel=a")], |_| (EPOCH, 0)));
    assert!(logs.cover(&[filter("channel=a.*")], |_| (EPOCH, 0)));
    assert!(!logs.cover(&[filter("type=x")], |_| (EPOCH, 0)));
    // Events that are older than the rule may be in the ring only.
    let mut logs = KeptLogs::new(&config(Vec::new()), 1);
    logs.set_rules(&config(vec![runs()]), Some(&[(EPOCH, 100)]));
    assert!(!logs.cover(&[filter("stream=run-1")], |_| (EPOCH, 50)));
    assert!(logs.cover(&[filter("stream=run-1")], |_| (EPOCH, 100)));
}

#[test]
fn logs_that_end_are_named_by_value_within_the_rule() {
    let chat = RetainRule::new("channel=room-*", RetainBy::Channel).expect("valid");
    let logs = KeptLogs::new(&config(vec![runs(), chat]), 1);
    let named = |text: &str| {
        let named = logs.named_with_end(&filter(text));
        let names: Vec<String> = named.names.iter().map(|name| name.value.to_string()).collect();
        (names.join(","), named.is_closed)
    };
    assert_eq!(named("stream=run-1 type=token"), ("run-1".into(), true));
    assert_eq!(named("stream=run-2,run-1"), ("run-1,run-2".into(), true));
    assert_eq!(named("stream=run-1,other"), ("run-1".into(), false));
    assert_eq!(named("stream=run-1,run.*"), ("run-1".into(), false));
    assert_eq!(named("channel=room-1"), (String::new(), false));
    assert_eq!(named(""), (String::new(), false));
    let pairs = RetainRule::new("", RetainBy::Entity).expect("valid").end(["end"]);
    let logs = KeptLogs::new(&config(vec![pairs]), 1);
    let named = logs.named_with_end(&filter("entity=task:t-1"));
    assert_eq!((&*named.names[0].value, named.is_closed), ("task:t-1", true));
}

#[test]
fn publishers_see_accepted_events_before_they_are_recorded() {
    let mut logs = KeptLogs::new(&config(vec![runs()]), 1);
    let now = Timestamp(0);
    let log = name("run-1");
    assert_eq!(logs.head(&log, now), None);
    let (made, is_end) = logs.log_of(&event(0, "run-1", "end")).expect("kept");
    assert_eq!((&made, is_end), (&log, true));
    assert_eq!(logs.log_of(&event(0, "chat", "end")), None);
    logs.record_accepted(made, id(0), is_end);
    let head = logs.head(&log, now).expect("accepted");
    assert_eq!((head.last, head.is_ended), (Some(id(0)), true));
    assert_eq!(logs.status(&log, now), None);
    logs.record(&event(0, "run-1", "end"), now);
    assert_eq!(logs.head(&log, now), Some(head));
    // The loop recorded the event before the publisher recorded its acceptance.
    logs.record_accepted(log.clone(), id(0), false);
    assert_eq!(logs.head(&log, now), Some(head));
}

#[test]
fn a_hole_after_a_place_is_reported_whichever_log_is_written_next() {
    let mut logs = KeptLogs::new(&config(vec![runs()]), 1);
    logs.record(&event(0, "run-1", "token"), Timestamp(0));
    logs.record_gap(id(2));
    logs.record(&event(3, "run-2", "token"), Timestamp(0));
    logs.record(&event(4, "run-1", "token"), Timestamp(0));
    let mut cursor = logs.cursor(&[filter("stream=run-1")], &[id(0)], Timestamp(0)).expect("one");
    assert!(cursor.has_gap());
    assert_eq!(read(&logs, &mut cursor, 5, 0, 10), Got { events: vec![4], gaps: vec![Missed::Unknown] });
}

/// A hole was reported again and again if it came after events that the reader already had from another shard.
#[test]
fn a_hole_after_events_that_a_reader_has_is_reported_once() {
    let mut logs = KeptLogs::new(&config(vec![runs()]), 2);
    let now = Timestamp(1);
    for (shard, sequence) in [(0, 0), (1, 0), (0, 1)] {
        let event = Event::builder("token").stream("run-1").build().expect("valid");
        event.set_id(EventId { epoch: EPOCH, shard, sequence });
        logs.record(&event, now);
    }
    logs.record_gap(id(4));
    let after = [id(1), EventId::before(EPOCH, 1, 0)];
    let mut cursor = logs.cursor(&[filter("stream=run-1")], &after, now).expect("few");
    assert_eq!(read(&logs, &mut cursor, 9, 1, 3), Got { events: vec![0], gaps: vec![Missed::Unknown] });
}

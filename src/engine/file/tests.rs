//! Tests of a log in files: restarts and damage of any kind.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::log::{AppendBatch, Record, SEQUENCE_MAX};
use super::open_segment::path_of;
use super::segment::{END, SegmentReader, write_record};
use super::shared::UNREAD_BYTES_MAX;
use super::*;
use crate::event::EventId;
use crate::sync::atomic::{AtomicU32, Ordering};

/// Folder of one test, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fanwire-log-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn config(&self) -> EngineConfig {
        EngineConfig {
            sync_interval: Duration::ZERO,
            ..EngineConfig::new(format!("file://{}", self.0.display()))
        }
    }

    fn open(&self) -> FileLog {
        open(&self.config(), 2).expect("it opens")
    }

    fn files(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(&self.0).expect("it is there").map(|entry| entry.expect("readable").path());
        let mut all: Vec<PathBuf> = all.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
        all.sort();
        all
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(config: &EngineConfig, shards: usize) -> Result<FileLog, EngineError> {
    FileLog::new(config, shards, &Alarm::default(), Arc::new(|_| ()))
}

/// Closes a log as a crash does: without the mark of an orderly end.
fn crash(log: FileLog) {
    let path = lock(&log.shared.state).open.as_ref().expect("a segment").segment.path.clone();
    let bytes = fs::read(&path).expect("it is there");
    drop(log);
    fs::write(&path, bytes).expect("writable");
}

fn append(log: &FileLog, batch: &[(u16, String)]) -> Vec<EventId> {
    let records: Vec<Record> =
        batch.iter().map(|(shard, json)| Record { shard: *shard, json: json.clone() }).collect();
    let mut appender = log.appender().expect("it opens");
    appender.append(&AppendBatch::new(1, 1, &records, std::time::Instant::now())).expect("it has room")
}

/// Returns everything that a new follower receives.
fn all(log: &FileLog, past: u64) -> Vec<(EventId, String)> {
    let mut found = Vec::new();
    let mut known: Option<Places> = None;
    loop {
        let (mut follower, start) = log.follower(known.as_ref(), past).expect("it opens");
        let mut places = start.places;
        loop {
            let before = found.len();
            let outcome = follower.follow(&places.clone(), Duration::ZERO, &mut |entry| {
                places.next[usize::from(entry.id.shard)] = entry.id.sequence + 1;
                found.push((entry.id, String::from_utf8(entry.json.to_vec()).expect("text")));
            });
            match outcome {
                Ok(()) if found.len() == before => return found,
                Ok(()) => {}
                Err(EngineError::OtherEpoch) => break,
                Err(error) => panic!("{error}"),
            }
        }
        known = Some(places);
    }
}

fn numbered(range: std::ops::Range<u64>) -> Vec<(u16, String)> {
    range.map(|n| ((n % 2) as u16, format!("{{\"n\":{n}}}"))).collect()
}

#[test]
fn a_restart_keeps_epoch_order_and_history() {
    let folder = Folder::new();
    let mut written = Vec::new();
    for (at, crashes) in [false, true, false, true].into_iter().enumerate() {
        let log = folder.open();
        for batch in 0..5 {
            let first = (at as u64 * 5 + batch) * 10;
            let batch = numbered(first..first + 10);
            let ids = append(&log, &batch);
            written.extend(ids.into_iter().zip(batch).map(|(id, (_, json))| (id, json)));
        }
        assert_eq!(all(&log, 1000), written);
        if crashes { crash(log) } else { drop(log) }
    }
    let log = folder.open();
    assert_eq!(all(&log, 1000), written);
    let epochs: std::collections::HashSet<u64> = written.iter().map(|(id, _)| id.epoch).collect();
    assert_eq!(epochs.len(), 1, "nothing was lost, so it is one life");
    let newest: Vec<_> = all(&log, 3).into_iter().map(|(id, _)| id).collect();
    assert!(written[written.len() - 6..].iter().all(|(id, _)| newest.contains(id)), "{newest:?}");
}

#[test]
fn appended_events_reach_the_follower_at_once() {
    let folder = Folder::new();
    let log = folder.open();
    let (mut follower, start) = log.follower(None, 10).expect("it opens");
    let ids = append(&log, &numbered(0..3));
    let mut got = Vec::new();
    follower
        .follow(&start.places, Duration::from_secs(10), &mut |entry| got.push(entry.id))
        .expect("it reads");
    assert_eq!(got, ids);
    // However much was appended before it began.
    let ids = append(&log, &numbered(3..80));
    let (_, late) = log.follower(None, 10).expect("it opens");
    assert_eq!(late.places, start.places);
    assert_eq!(late.end.next, [40, 40]);
    assert_eq!(all(&log, 10).len(), ids.len() + 3);
}

#[test]
fn one_process_has_a_log_and_the_number_of_shards_stays() {
    let folder = Folder::new();
    let log = folder.open();
    append(&log, &numbered(0..1));
    let other = open(&folder.config(), 2).err().expect("it is taken").to_string();
    assert!(other.contains("another process has"), "{other}");
    drop(log);
    let other = open(&folder.config(), 3).err().expect("other shards");
    assert!(matches!(other, EngineError::Shards { log: 2, node: 3 }), "{other}");
}

#[test]
fn the_oldest_goes_when_the_bound_is_reached() {
    let folder = Folder::new();
    let config = EngineConfig { max_bytes: 1 << 20, ..folder.config() };
    let log = open(&config, 2).expect("it opens");
    let text = "x".repeat(1000);
    let mut last = Vec::new();
    for _ in 0..300 {
        last = append(&log, &vec![(0, text.clone()); 10]);
    }
    let bytes: u64 = folder.files().iter().map(|path| path.metadata().expect("there").len()).sum();
    assert!((1 << 19..=1 << 20).contains(&bytes), "{bytes}");
    let kept = all(&log, u64::MAX);
    assert!(kept.windows(2).all(|two| two[0].0.sequence + 1 == two[1].0.sequence), "a hole");
    assert_eq!(kept.last().map(|(id, _)| *id), last.last().copied());
    drop(log);
    let log = open(&config, 2).expect("it opens");
    assert_eq!(all(&log, u64::MAX), kept);
}

#[test]
fn a_crash_of_the_machine_begins_another_life_where_accepted_events_may_be_lost() {
    for (interval, goes_on) in [(Duration::ZERO, true), (Duration::from_secs(60), false)] {
        let folder = Folder::new();
        let config = EngineConfig { sync_interval: interval, ..folder.config() };
        let log = open(&config, 2).expect("it opens");
        let before = append(&log, &numbered(0..4));
        crash(log);
        // Makes the file look as if it was written before a reboot.
        let path = folder.files().remove(0);
        let bytes = fs::read(&path).expect("readable");
        let (head, reader) = SegmentReader::open(bytes.as_slice()).expect("no I/O").expect("a head");
        let start = reader.end as usize;
        let other = SegmentHead { boot: head.boot ^ 1, ..head };
        fs::write(&path, [other.to_bytes().as_slice(), &bytes[start..]].concat()).expect("writable");
        let log = open(&config, 2).expect("it opens");
        let after = append(&log, &numbered(4..6));
        assert_eq!(after[0].epoch == before[0].epoch, goes_on, "{interval:?}");
        let ids: Vec<EventId> = all(&log, 1000).into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, [before, after].concat(), "the past is there all the same");
    }
}

#[test]
fn notices_are_kept_and_read_before_anything_else() {
    let folder = Folder::new();
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let open = || {
        let heard = Arc::clone(&heard);
        let on_notice = move |notice: &[u8]| lock(&heard).push(String::from_utf8_lossy(notice).into_owned());
        FileLog::new(&folder.config(), 2, &Alarm::default(), Arc::new(on_notice)).expect("it opens")
    };
    let log = open();
    log.send_notice("one").expect("it is kept");
    log.send_notice("two").expect("it is kept");
    assert_eq!(std::mem::take(&mut *lock(&heard)), ["one", "two"]);
    crash(log);
    // An incomplete notice at the end.
    let path = folder.0.join("notices");
    let bytes = fs::read(&path).expect("readable");
    fs::write(&path, &bytes[..bytes.len() - 2]).expect("writable");
    open().send_notice("three").expect("it is kept");
    drop(open());
    assert_eq!(*lock(&heard), ["one", "three", "one", "three"]);
}

#[test]
fn remains_of_a_failed_write_are_overwritten_or_cut_off() {
    let folder = Folder::new();
    let log = folder.open();
    let mut written = append(&log, &numbered(0..4));
    // A failed write that could not be cut off; the next record is shorter.
    {
        let mut state = lock(&log.shared.state);
        let open = state.open.as_mut().expect("a segment");
        open.file.write_all(&[7; 5000]).expect("it is written");
        open.is_torn = true;
    }
    written.extend(append(&log, &numbered(4..6)));
    crash(log);
    let log = folder.open();
    written.extend(append(&log, &numbered(6..8)));
    let found: Vec<EventId> = all(&log, 1000).into_iter().map(|(id, _)| id).collect();
    assert_eq!(found, written);
    assert!(written.iter().all(|id| id.epoch == written[0].epoch), "nothing was lost");
}

#[test]
fn a_segment_that_could_not_be_synced_is_left_and_never_reported_as_whole() {
    let folder = Folder::new();
    let log = folder.open();
    let suspect = |log: &FileLog| {
        let mut state = lock(&log.shared.state);
        state.trouble = Some("the disk said so".to_owned());
        state.open.as_mut().expect("a segment").is_suspect = true;
    };
    let mut written = append(&log, &numbered(0..2));
    suspect(&log);
    log.appender().expect("it opens").probe().expect("the next segment is safe");
    assert_eq!(folder.files().len(), 2);
    written.extend(append(&log, &numbered(2..4)));
    suspect(&log);
    drop(log);
    let last = fs::read(folder.files().pop().expect("a segment")).expect("readable");
    assert!(!last.ends_with(END), "nobody knows whether it is whole");
    assert_eq!(all(&folder.open(), 1000).into_iter().map(|(id, _)| id).collect::<Vec<_>>(), written);
}

#[test]
fn a_log_that_has_no_room_for_a_segment_is_followed_in_its_newest_epoch() {
    for has_past in [false, true] {
        let folder = Folder::new();
        let mut written = Vec::new();
        if has_past {
            let log = folder.open();
            written = append(&log, &numbered(0..4));
            crash(log);
            // The file is damaged after its last record, so another epoch begins.
            let path = folder.files().remove(0);
            let bytes = fs::read(&path).expect("readable");
            fs::write(&path, [bytes, vec![0; 40]].concat()).expect("writable");
        }
        let log = folder.open();
        // Simulates a full disk.
        let open = lock(&log.shared.state).open.take().expect("a segment");
        fs::remove_file(&open.segment.path).expect("it is ours");
        let epoch = lock(&log.shared.state).epoch;
        assert_eq!(all(&log, 1000).into_iter().map(|(id, _)| id).collect::<Vec<_>>(), written);
        let (_, start) = log.follower(None, 1000).expect("it opens");
        assert_eq!(start.places.epoch == epoch, !has_past, "the oldest life comes first");
        written.extend(append(&log, &numbered(4..6)));
        assert_eq!(all(&log, 1000).into_iter().map(|(id, _)| id).collect::<Vec<_>>(), written);
        assert_eq!(written[written.len() - 1].epoch, epoch);
    }
}

#[test]
fn a_segment_that_claims_more_than_a_log_has_hides_nothing_that_comes_after() {
    const HUGE: Sequence = 1 << 50;
    for next in [HUGE, SEQUENCE_MAX, Sequence::MAX] {
        let folder = Folder::new();
        let log = folder.open();
        let before = append(&log, &numbered(0..4));
        let epoch = before[0].epoch;
        drop(log);
        // The record's checksums are right: a failing disk does not produce this, but an intruder with write access can.
        let head = SegmentHead { epoch, boot: boot(), is_safe: true, next: vec![next, next] };
        let mut record = Vec::new();
        assert!(write_record(&[Record { shard: 0, json: "{}".to_owned() }], &mut record));
        fs::write(path_of(&folder.0, 2), [head.to_bytes(), record].concat()).expect("writable");
        let mut last = before;
        for at in 0..2 {
            let log = folder.open();
            let more = append(&log, &numbered(4 + at..6 + at));
            assert!(more.iter().all(|id| !last.contains(id)), "an id was given twice");
            let found: Vec<EventId> = all(&log, 1000).into_iter().map(|(id, _)| id).collect();
            assert!(more.iter().all(|id| found.contains(id)), "{next}: {found:?}");
            last.extend(more);
        }
    }
}

#[test]
fn appends_are_refused_after_the_time_of_a_stopped_reader() {
    let folder = Folder::new();
    let log = folder.open();
    let _reader = log.follower(None, 10).expect("it opens");
    let long = "x".repeat(UNREAD_BYTES_MAX / 4);
    let mut appender = log.appender().expect("it opens");
    let mut outcomes = (1..8).map(|number| {
        let records = [Record { shard: 0, json: long.clone() }];
        appender.append(&AppendBatch::new(number, number, &records, Instant::now()))
    });
    assert!(outcomes.any(|outcome| matches!(outcome, Err(EngineError::TakesNothing(_)))));
}

#[cfg(unix)]
#[test]
fn only_its_user_can_read_a_log_even_one_of_an_earlier_version() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    let set =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    let folder = Folder::new();
    let log = folder.open();
    append(&log, &numbered(0..2));
    drop(log);
    let files = |folder: &Folder| -> Vec<PathBuf> {
        fs::read_dir(&folder.0).expect("readable").map(|entry| entry.expect("readable").path()).collect()
    };
    assert_eq!(mode(&folder.0), 0o700);
    for is_shared in [false, true] {
        assert!(files(&folder).iter().all(|path| mode(path) == 0o600), "{:?}", files(&folder));
        for path in files(&folder) {
            set(&path, 0o644);
        }
        set(&folder.0, 0o755);
        if is_shared {
            fs::write(folder.0.join("notes.txt"), "of somebody else").expect("writable");
            set(&folder.0.join("notes.txt"), 0o644);
        }
        append(&folder.open(), &numbered(2..4));
        assert_eq!(mode(&folder.0), if is_shared { 0o755 } else { 0o700 }, "it holds more than the log");
    }
    assert_eq!(mode(&folder.0.join("notes.txt")), 0o644);
}

/// Damage done to a file.
#[derive(Clone, Debug)]
enum Harm {
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u32),
    Zeros(usize),
    Garbage(Vec<u8>),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Harm::Cut),
        (any::<prop::sample::Index>(), 0..8u32).prop_map(|(at, bit)| Harm::Flip(at, bit)),
        (1..100usize).prop_map(Harm::Zeros),
        prop::collection::vec(any::<u8>(), 1..60).prop_map(Harm::Garbage),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_cut_or_damaged_it_opens_and_gives_no_id_twice(
        runs in prop::collection::vec((1..6u64, any::<bool>()), 1..4),
        victim in any::<prop::sample::Index>(),
        harm in harm(),
    ) {
        let folder = Folder::new();
        let mut written: HashMap<EventId, String> = HashMap::new();
        let mut n = 0;
        let mut write = |log: &FileLog, batches: u64| {
            for _ in 0..batches {
                let batch = numbered(n..n + 3);
                n += 3;
                let ids = append(log, &batch);
                for (id, (_, json)) in ids.into_iter().zip(batch) {
                    assert!(written.insert(id, json).is_none(), "{id} was given twice");
                }
            }
        };
        for (batches, crashes) in runs {
            let log = folder.open();
            write(&log, batches);
            if crashes { crash(log) } else { drop(log) }
        }
        let files = folder.files();
        let path = &files[victim.index(files.len())];
        let mut bytes = fs::read(path).expect("readable");
        // A file cut at a record's end looks as after a crash, so the loss can't be detected. A crash loses no accepted
        // event, so this cut stands for events that were never accepted.
        let cuts = matches!(harm, Harm::Cut(_));
        match harm {
            Harm::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Harm::Flip(at, bit) => { let at = at.index(bytes.len()); bytes[at] ^= 1 << bit }
            Harm::Zeros(count) => bytes.resize(bytes.len() + count, 0),
            Harm::Garbage(more) => bytes.extend(more),
        }
        fs::write(path, bytes).expect("writable");
        let log = folder.open();
        let found = all(&log, 1000);
        for (id, json) in &found {
            prop_assert_eq!(written.get(id), Some(json), "{} is not what was written", id);
        }
        prop_assert!(found.windows(2).all(|two| two[0].0.shard != two[1].0.shard || two[0].0 < two[1].0));
        if !cuts {
            let more = append(&log, &numbered(1000..1004));
            prop_assert!(more.iter().all(|id| !written.contains_key(id)), "an id was given twice");
            let again: Vec<EventId> = all(&log, 1000).into_iter().map(|(id, _)| id).collect();
            prop_assert_eq!(again, found.into_iter().map(|(id, _)| id).chain(more).collect::<Vec<_>>());
        }
    }
}

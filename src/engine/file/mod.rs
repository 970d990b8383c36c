//! The log of one node, in files of its own: what the memory engine needs to keep epoch and history over a restart.
//!
//! Imports its siblings. Always:
//! - an event is written before its publisher is told and before any client sees it; so what a crash of this
//!   process leaves in the last record was nobody's yet, and is cut off;
//! - no id is given twice: where the machine may have lost events that clients saw, another epoch begins;
//! - a write that fails leaves nothing behind: what it left of a record is cut off or written over, a segment has its name only once
//!   its head is safe, and a segment that could not be made safe is never said to be whole. So a disk that was full, wherever that
//!   showed, needs no restart;
//! - the files together stay within the bound, but for the newest of them; one process has them at a time, and only its user
//!   reads them.
//!
//! The log is our own and small, because it is only ever appended to and read from front to end: an embedded store
//! would bring an index, compaction and a cache that nothing here asks for.

mod disk;
mod notices;
mod past;
mod segment;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::history::Past;
use super::{
    Append, Batch, EPOCH_MAX, EngineConfig, EngineError, Entry, Follow, Log, OnNotice, Places, Record,
    SEQUENCE_MAX,
};
use crate::event::{EventId, Sequence, Timestamp};
use crate::sync::{Mutex, MutexGuard, lock};
use crate::threads::{self, Alarm};
use notices::Notices;
use segment::{END, Head, Item, RECORD_BYTES_MAX, Reader, record_bytes, write_record};

/// Events, and bytes of them, that were appended and that the follower has not taken yet; the appender waits beyond.
const UNREAD_MAX: usize = 1 << 16;
const UNREAD_BYTES_MAX: usize = 64 << 20;

/// Entries handed over in one call.
const READ_COUNT: usize = 1000;

/// Of how many segments the bound is made: as much goes at a time.
const SEGMENTS: u64 = 8;
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// A segment on disk.
#[derive(Clone, Debug)]
struct Segment {
    path: PathBuf,
    epoch: u64,
    /// Where its whole records end.
    bytes: u64,
    next: Vec<Sequence>,
}

/// What is appended to.
#[derive(Debug)]
struct Open {
    file: File,
    segment: Segment,
    /// Something was written since it was last made safe.
    is_dirty: bool,
    /// Something may stand behind its whole records.
    is_torn: bool,
    /// It could not be made safe: a part of it may be missing on the disk though it can still be read.
    is_suspect: bool,
}

/// Events for the follower.
#[derive(Default)]
struct Unread {
    events: VecDeque<(EventId, String)>,
    bytes: usize,
}

impl Unread {
    fn is_full(&self) -> bool {
        self.events.len() > UNREAD_MAX || self.bytes > UNREAD_BYTES_MAX
    }
}

struct State {
    /// Those before the one that is open, oldest first.
    segments: VecDeque<Segment>,
    /// None where the disk had no room for it.
    open: Option<Open>,
    /// The number of the segment that comes next.
    number: u64,
    epoch: u64,
    next: Vec<Sequence>,
    /// For the follower, once there is one.
    unread: Option<Unread>,
    /// Why what was to be written could not be.
    trouble: Option<String>,
    /// The life of the log that the follower has read to its end, before the newest.
    finished: u64,
    is_closed: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Something was appended or taken.
    changed: Condvar,
    closed: Condvar,
    folder: PathBuf,
    boot: u64,
    sync_interval: Duration,
    max_bytes: u64,
}

/// A log in files.
pub(super) struct FileLog {
    shared: Arc<Shared>,
    /// Makes safe what was written, where that is not done before each answer.
    syncer: Option<JoinHandle<()>>,
    notices: Mutex<Notices>,
    on_notice: OnNotice,
    /// Held while the log is ours.
    _lock: File,
}

fn broken(path: &Path, what: &str, error: &io::Error) -> EngineError {
    EngineError::Unreachable(describe(path, what, error))
}

fn describe(path: &Path, what: &str, error: &io::Error) -> String {
    format!("{what} {}: {error}", path.display())
}

/// Which run of the machine this is: what was written in it and not made safe is still there.
fn boot() -> u64 {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// What the files say when the log is opened.
struct Found {
    segments: VecDeque<Segment>,
    number: u64,
    epoch: u64,
    next: Vec<Sequence>,
}

impl FileLog {
    /// Opens the log in the folder that the address names, or begins one. Reads all of it once, and hands over the
    /// notices that it keeps.
    pub(super) fn new(
        config: &EngineConfig,
        shards: usize,
        alarm: &Alarm,
        on_notice: OnNotice,
    ) -> Result<Self, EngineError> {
        let path = config.url.split_once("://").map_or("", |(_, path)| path);
        if path.is_empty() {
            return Err(EngineError::Url("expected file://FOLDER, as file:///var/lib/fanwire".to_owned()));
        }
        let folder = PathBuf::from(path);
        disk::make_folder(&folder).map_err(|error| broken(&folder, "making", &error))?;
        let lock = lock_folder(&folder)?;
        disk::make_private(&folder);
        let boot = boot();
        let notices = Notices::open(&folder, &*on_notice);
        let notices = Mutex::new(notices.map_err(|error| broken(&folder, "opening the notices in", &error))?);
        let found = recover(&folder, shards, boot)?;
        let Found { segments, number, epoch, next } = found;
        let head = Head { epoch, boot, is_safe: config.sync_interval.is_zero(), next: next.clone() };
        let (open, trouble) = match begin(&folder, number, &head) {
            Ok(open) => (Some(open), None),
            // It may have room again: until then nothing is taken.
            Err(error) if disk::is_full(&error) => (None, Some(describe(&folder, "writing in", &error))),
            Err(error) => return Err(broken(&folder, "writing in", &error)),
        };
        let number = number + u64::from(open.is_some());
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                segments,
                open,
                number,
                epoch,
                next,
                unread: None,
                trouble,
                finished: 0,
                is_closed: false,
            }),
            changed: Condvar::new(),
            closed: Condvar::new(),
            folder,
            boot,
            sync_interval: config.sync_interval,
            max_bytes: config.max_bytes,
        });
        let syncer = if config.sync_interval.is_zero() {
            None
        } else {
            let shared = Arc::clone(&shared);
            let spawned = threads::spawn("fanwire-engine-sync", alarm, move || shared.sync_now_and_then());
            Some(spawned.map_err(|error| EngineError::Unreachable(error.to_string()))?)
        };
        Ok(Self { shared, syncer, notices, on_notice, _lock: lock })
    }
}

impl Drop for FileLog {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.shared.state);
            state.is_closed = true;
            let closed = state.open.as_mut().map_or(Ok(()), Open::close);
            if let Err(error) = closed {
                tracing::warn!(%error, "the engine's log could not be closed in order");
            }
        }
        self.shared.closed.notify_all();
        if let Some(syncer) = self.syncer.take() {
            // A thread of ours that panicked has nothing to say any more.
            let _ = syncer.join();
        }
    }
}

/// Makes sure that no other process has the log.
fn lock_folder(folder: &Path) -> Result<File, EngineError> {
    let path = folder.join("lock");
    let file = disk::private().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| broken(&path, "opening", &error))?;
    #[cfg(unix)]
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| broken(&path, "another process has", &error.into()))?;
    Ok(file)
}

fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}.log"))
}

/// Begins a segment. It has its name only once its head is safe: what is left of one that could not be begun is in
/// nobody's way.
fn begin(folder: &Path, number: u64, head: &Head) -> io::Result<Open> {
    let path = path_of(folder, number);
    let bytes = head.to_bytes();
    let new = path.with_extension(disk::UNFINISHED);
    let make = || {
        let mut file = disk::private().create(true).truncate(true).write(true).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        fs::rename(&new, &path)?;
        // The folder's entry, too.
        #[cfg(unix)]
        File::open(folder)?.sync_all()?;
        Ok(file)
    };
    let file = make().inspect_err(|_: &io::Error| {
        // What can't be removed is written over the next time.
        let _ = fs::remove_file(&new);
        let _ = fs::remove_file(&path);
    })?;
    let segment = Segment { path, epoch: head.epoch, bytes: bytes.len() as u64, next: head.next.clone() };
    Ok(Open { file, segment, is_dirty: false, is_torn: false, is_suspect: false })
}

impl Open {
    /// Writes behind the whole records. What a failed write left there is cut off, now or before the next one; an error
    /// says whether that is so.
    fn write(&mut self, bytes: &[u8], is_safe: bool) -> Result<(), NotWritten> {
        if let Err(error) = self.cut_torn() {
            return Err(NotWritten { error, may_be_there: false });
        }
        self.is_torn = true;
        let written = self.file.write_all(bytes);
        let written = if is_safe { written.and_then(|()| self.file.sync_data()) } else { written };
        if let Err(error) = written {
            let is_cut = self.cut_torn().is_ok();
            return Err(NotWritten { error, may_be_there: !is_cut });
        }
        self.is_torn = false;
        self.segment.bytes += bytes.len() as u64;
        self.is_dirty |= !is_safe;
        Ok(())
    }

    fn cut_torn(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.segment.bytes)?;
            self.file.seek(SeekFrom::Start(self.segment.bytes))?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Makes safe what was written.
    fn sync(&mut self) -> io::Result<()> {
        let synced = self.file.sync_data();
        // The kernel reports an error once: the next attempt would succeed, and what was lost stays lost.
        self.is_suspect |= synced.is_err();
        self.is_dirty &= synced.is_err();
        synced
    }

    /// Writes that nothing is missing; so it comes behind what it speaks of.
    fn close(&mut self) -> io::Result<()> {
        self.cut_torn()?;
        self.sync()?;
        if self.is_suspect {
            return Err(io::Error::other("a part of it could not be made safe"));
        }
        self.file.write_all(END)?;
        self.file.sync_data()
    }
}

/// A write that failed.
struct NotWritten {
    error: io::Error,
    /// Whether a reader may find what was to be written.
    may_be_there: bool,
}

/// Reads all segments, and cuts off what is not whole at the end.
fn recover(folder: &Path, shards: usize, boot: u64) -> Result<Found, EngineError> {
    let fault = |error: &io::Error| broken(folder, "reading", error);
    let mut numbers: Vec<u64> = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| fault(&error))? {
        let name = entry.map_err(|error| fault(&error))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok());
        numbers.extend(number.filter(|number| *number < u64::MAX));
    }
    numbers.sort_unstable();
    let last = numbers.last().copied();
    let mut found = Found {
        segments: VecDeque::new(),
        number: last.map_or(1, |last| last + 1),
        epoch: 0,
        next: vec![0; shards],
    };
    // Whether something may be missing that clients have seen.
    let mut may_lack = false;
    let mut is_disordered = false;
    for number in numbers {
        let path = path_of(folder, number);
        let read = read_segment(&path).map_err(|error| broken(&path, "reading", &error))?;
        let Some(Contents { head, bytes, item, next }) = read else {
            // It may have been begun in the moment when all ended. What it is, whoever runs this may want to know.
            tracing::warn!(path = %path.display(), "no segment of the engine's log: it is put aside");
            let length = path.metadata().map_err(|error| broken(&path, "reading", &error))?.len();
            may_lack = length > Head::bytes(shards);
            fs::rename(&path, path.with_extension("broken"))
                .map_err(|error| broken(&path, "renaming", &error))?;
            continue;
        };
        if head.next.len() != shards {
            return Err(EngineError::Shards { log: head.next.len(), node: shards });
        }
        // A segment that begins before the end of the one before it gives ids again that were given.
        let is_in_order = head.epoch > found.epoch
            || (head.epoch == found.epoch
                && found.next.iter().zip(&head.next).all(|(end, first)| end <= first));
        if !is_in_order {
            tracing::warn!(path = %path.display(), "a segment of the engine's log does not follow the one before it");
        }
        is_disordered |= !is_in_order;
        // What follows knows its own numbers: what is missing here shows as a hole.
        may_lack = match item {
            Item::End => false,
            Item::Broken => true,
            _ => !head.is_safe && (head.boot != boot || boot == 0),
        };
        if item == Item::Broken {
            tracing::warn!(path = %path.display(), at = bytes, "a record of the engine's log is damaged");
        }
        if matches!(item, Item::Torn | Item::Broken) && Some(number) == last {
            cut(&path, bytes).map_err(|error| broken(&path, "cutting", &error))?;
        }
        found.epoch = found.epoch.max(head.epoch);
        if next == head.next {
            // Nothing was appended to it; what it says of the places, the next one says again.
            fs::remove_file(&path).map_err(|error| broken(&path, "removing", &error))?;
        } else {
            found.segments.push_back(Segment { path, epoch: head.epoch, bytes, next: head.next });
        }
        found.next = next;
    }
    may_lack |= is_disordered;
    if may_lack || found.epoch == 0 {
        let now = Timestamp::now().0 as u64;
        if may_lack {
            tracing::warn!("the engine's log may have lost events that clients saw: another epoch begins");
        }
        (found.epoch, found.next) = (now.max(found.epoch + 1), vec![0; shards]);
    }
    Ok(found)
}

/// What is in a segment.
struct Contents {
    head: Head,
    /// Where its whole records end, what comes there, and the places behind them.
    bytes: u64,
    item: Item,
    next: Vec<Sequence>,
}

fn read_segment(path: &Path) -> io::Result<Option<Contents>> {
    let Some((head, mut reader)) = Reader::open(BufReader::new(File::open(path)?))? else { return Ok(None) };
    // Numbers that no log of ours reaches: nothing could come behind them.
    if head.epoch > EPOCH_MAX || head.next.iter().any(|next| *next > SEQUENCE_MAX) {
        return Ok(None);
    }
    let mut next = head.next.clone();
    let item = loop {
        match reader.next()? {
            Item::Batch => {
                for (shard, _) in reader.events() {
                    if let Some(next) = next.get_mut(usize::from(shard)) {
                        *next += 1;
                    }
                }
            }
            item => break item,
        }
    };
    Ok(Some(Contents { head, bytes: reader.end, item, next }))
}

/// Cuts off what is behind the whole records of a segment.
fn cut(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(bytes)?;
    file.sync_data()
}

impl Shared {
    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Makes safe what was written, each interval.
    fn sync_now_and_then(&self) {
        let mut state = lock(&self.state);
        while !state.is_closed {
            threads::fault_point();
            state =
                self.closed.wait_timeout(state, self.sync_interval).unwrap_or_else(PoisonError::into_inner).0;
            let Some(open) = state.open.as_mut().filter(|open| open.is_dirty) else { continue };
            // What is written meanwhile is made safe the next time.
            open.is_dirty = false;
            // Not with the lock held: it may take as long as the disk likes.
            let (file, path) = (open.file.try_clone(), open.segment.path.clone());
            drop(state);
            let synced = file.and_then(|file| file.sync_data());
            state = lock(&self.state);
            let Err(error) = synced else { continue };
            tracing::error!(%error, "the engine's log could not be made safe from a crash of the machine");
            state.trouble = Some(describe(&path, "making safe", &error));
            if let Some(open) = state.open.as_mut().filter(|open| open.segment.path == path) {
                open.is_dirty = true;
                open.is_suspect = true;
            }
        }
    }

    /// Makes sure that there is a segment to write to: begins another where this one is full or suspect, and lets go of
    /// the oldest beyond the bound. Where that fails all is as it was.
    fn roll(&self, state: &mut State) -> io::Result<()> {
        let size = (self.max_bytes / SEGMENTS).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        if let Some(open) = &mut state.open {
            if open.segment.bytes < size && !open.is_suspect {
                return Ok(());
            }
            open.cut_torn()?;
            if !open.is_suspect {
                open.sync()?;
            }
        }
        let head = Head {
            epoch: state.epoch,
            boot: self.boot,
            is_safe: self.sync_interval.is_zero(),
            next: state.next.clone(),
        };
        let next = begin(&self.folder, state.number, &head)?;
        state.number += 1;
        state.segments.extend(state.open.replace(next).map(|full| full.segment));
        let mut bytes: u64 = state.segments.iter().map(|segment| segment.bytes).sum();
        while bytes + size > self.max_bytes
            && let Some(oldest) = state.segments.pop_front()
        {
            bytes -= oldest.bytes;
            if let Err(error) = fs::remove_file(&oldest.path) {
                tracing::warn!(path = %oldest.path.display(), %error, "a segment of the engine's log stays");
            }
        }
        Ok(())
    }

    /// Writes a record, and notes whether that went well.
    fn write(&self, state: &mut State, record: &[u8]) -> Result<(), EngineError> {
        let rolled = self.roll(state).map_err(|error| NotWritten { error, may_be_there: false });
        let written = rolled.and_then(|()| match &mut state.open {
            Some(open) => open.write(record, self.sync_interval.is_zero()),
            None => Ok(()),
        });
        let Err(NotWritten { error, may_be_there }) = written else {
            state.trouble = None;
            return Ok(());
        };
        let why = describe(&self.folder, "writing in", &error);
        state.trouble = Some(why.clone());
        Err(if may_be_there { EngineError::Unreachable(why) } else { EngineError::TakesNothing(why) })
    }
}

impl Log for FileLog {
    fn past(&self) -> Result<Option<Box<dyn Past>>, EngineError> {
        Ok(Some(Box::new(past::FilePast::new(&self.shared))))
    }

    fn tell(&self, notice: &str) -> Result<(), EngineError> {
        let kept = lock(&self.notices).add(notice);
        kept.map_err(|error| broken(&self.shared.folder, "writing the notices in", &error))?;
        (self.on_notice)(notice.as_bytes());
        Ok(())
    }

    fn appender(&self) -> Result<Box<dyn Append>, EngineError> {
        Ok(Box::new(Appender { shared: Arc::clone(&self.shared), record: Vec::new() }))
    }

    fn follower(&self, known: Option<&Places>, past: u64) -> Result<(Box<dyn Follow>, Places), EngineError> {
        let mut state = lock(&self.shared.state);
        // What is appended from here on comes by memory, what was before it by the files.
        state.unread = Some(Unread::default());
        let mut segments = state.segments.clone();
        segments.extend(state.open.as_ref().map(|open| open.segment.clone()));
        let places = match known {
            Some(known) if known.epoch > state.finished => known.clone(),
            Some(_) => {
                let finished = state.finished;
                segments.retain(|segment| segment.epoch > finished);
                let epoch = segments.front().map_or(state.epoch, |segment| segment.epoch);
                Places { epoch, next: vec![0; state.next.len()], kept: None }
            }
            None => first_places(&segments, state.epoch, &state.next, past)?,
        };
        drop(state);
        segments.retain(|segment| segment.epoch >= places.epoch);
        while let [_, second, ..] = segments.make_contiguous()
            && second.epoch == places.epoch
            && second.next.iter().zip(&places.next).all(|(first, wanted)| first <= wanted)
        {
            segments.pop_front();
        }
        let follower = Follower { shared: Arc::clone(&self.shared), segments, reading: None };
        Ok((Box::new(follower), places))
    }
}

/// So many events before the end of the oldest life of the log that is there; `newest` is the newest, and `next` is where it
/// ends.
fn first_places(
    segments: &VecDeque<Segment>,
    newest: u64,
    next: &[Sequence],
    past: u64,
) -> Result<Places, EngineError> {
    let epoch = segments.front().map_or(newest, |segment| segment.epoch);
    let last = segments.iter().rfind(|segment| segment.epoch == epoch);
    let ends = match last.filter(|last| last.epoch != newest) {
        None => next.to_vec(),
        Some(last) => {
            let read = read_segment(&last.path).map_err(|error| broken(&last.path, "reading", &error))?;
            read.map_or_else(|| last.next.clone(), |read| read.next)
        }
    };
    Ok(Places { epoch, next: ends.iter().map(|end| end.saturating_sub(past)).collect(), kept: None })
}

struct Appender {
    shared: Arc<Shared>,
    record: Vec<u8>,
}

impl Append for Appender {
    fn check(&self, records: &[Record]) -> Result<(), EngineError> {
        let bytes = record_bytes(records);
        let limit = RECORD_BYTES_MAX as u64;
        if bytes > limit { Err(EngineError::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    fn append(&mut self, batch: &Batch<'_>) -> Result<Vec<EventId>, EngineError> {
        self.check(batch.records)?;
        write_record(batch.records, &mut self.record);
        let shared = &*self.shared;
        let mut state = lock(&shared.state);
        if batch.records.is_empty() {
            return Ok(Vec::new());
        }
        while state.unread.as_ref().is_some_and(Unread::is_full) {
            let left = batch.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(EngineError::TakesNothing(
                    "the node has not read what was written before".to_owned(),
                ));
            }
            state = shared.wait(state, left.min(Duration::from_secs(1)));
        }
        shared.write(&mut state, &self.record)?;
        let State { next, epoch, unread, .. } = &mut *state;
        let mut ids = Vec::with_capacity(batch.records.len());
        for Record { shard, json } in batch.records {
            let Some(next) = next.get_mut(usize::from(*shard)) else { continue };
            let id = EventId { epoch: *epoch, shard: *shard, sequence: *next };
            *next += 1;
            ids.push(id);
            if let Some(unread) = unread {
                unread.bytes += json.len();
                unread.events.push_back((id, json.clone()));
            }
        }
        drop(state);
        shared.changed.notify_all();
        Ok(ids)
    }

    fn probe(&mut self) -> Result<(), EngineError> {
        let shared = &*self.shared;
        let trouble = lock(&shared.state).trouble.clone();
        if trouble.is_none() && disk::has_room(&shared.folder) {
            return Ok(());
        }
        // Without the lock: a disk that is full may be slow as well.
        disk::try_write(&shared.folder)
            .map_err(|error| EngineError::TakesNothing(describe(&shared.folder, "writing in", &error)))?;
        let mut state = lock(&shared.state);
        let rolled = shared.roll(&mut state);
        rolled.map_err(|error| EngineError::TakesNothing(describe(&shared.folder, "writing in", &error)))?;
        state.trouble = None;
        Ok(())
    }
}

/// A segment that is being read.
struct Reading {
    reader: Reader<BufReader<io::Take<File>>>,
    path: PathBuf,
    epoch: u64,
    next: Vec<Sequence>,
}

struct Follower {
    shared: Arc<Shared>,
    /// What is still to be read from files.
    segments: VecDeque<Segment>,
    reading: Option<Reading>,
}

impl Follower {
    /// Reads on in the files; how many entries that were, none where all is read.
    fn read_files(&mut self, places: &Places, take: &mut dyn FnMut(Entry<'_>)) -> Result<bool, EngineError> {
        let mut count = 0;
        while count < READ_COUNT {
            let reading = match &mut self.reading {
                Some(reading) => reading,
                None => {
                    let Some(segment) = self.segments.front() else { return Ok(count > 0) };
                    if segment.epoch != places.epoch {
                        lock(&self.shared.state).finished = places.epoch;
                        return Err(EngineError::OtherEpoch);
                    }
                    let Some(segment) = self.segments.pop_front() else { return Ok(count > 0) };
                    match Reading::open(&segment) {
                        Ok(Some(reading)) => self.reading.insert(reading),
                        // It was let go meanwhile, or is no segment any more: what is missing shows as a hole.
                        Ok(None) => continue,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        Err(error) => return Err(broken(&segment.path, "reading", &error)),
                    }
                }
            };
            let item = reading.reader.next().map_err(|error| broken(&reading.path, "reading", &error))?;
            if item != Item::Batch {
                self.reading = None;
                continue;
            }
            for (shard, json) in reading.reader.events() {
                let Some(next) = reading.next.get_mut(usize::from(shard)) else { continue };
                let id = EventId { epoch: reading.epoch, shard, sequence: *next };
                *next += 1;
                if places.next.get(usize::from(shard)).is_some_and(|from| id.sequence >= *from) {
                    count += 1;
                    take(Entry { id, json });
                }
            }
        }
        Ok(true)
    }
}

impl Reading {
    fn open(segment: &Segment) -> io::Result<Option<Self>> {
        // What was written since comes by memory.
        let file = File::open(&segment.path)?.take(segment.bytes);
        let opened = Reader::open(BufReader::new(file))?;
        Ok(opened.map(|(head, reader)| Self {
            reader,
            path: segment.path.clone(),
            epoch: head.epoch,
            next: head.next,
        }))
    }
}

impl Follow for Follower {
    fn follow(
        &mut self,
        places: &Places,
        wait: Duration,
        take: &mut dyn FnMut(Entry<'_>),
    ) -> Result<(), EngineError> {
        if self.read_files(places, take)? {
            return Ok(());
        }
        let shared = &*self.shared;
        let mut state = lock(&shared.state);
        if places.epoch < state.epoch {
            // The newest life may have no file yet, where the disk is full.
            state.finished = state.finished.max(places.epoch);
            return Err(EngineError::OtherEpoch);
        }
        if state.unread.as_ref().is_none_or(|unread| unread.events.is_empty()) {
            state = shared.wait(state, wait);
        }
        let unread = state.unread.as_mut().map(std::mem::take).unwrap_or_default();
        drop(state);
        shared.changed.notify_all();
        for (id, json) in &unread.events {
            take(Entry { id: *id, json: json.as_bytes() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

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

mod append;
mod folder;
mod follow;
mod notices;
mod open_segment;
mod past;
mod recover;
mod segment;
mod shared;

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar};
use std::thread::JoinHandle;

use super::config::EngineConfig;
use super::error::EngineError;
use super::log::{Append, Follow, Log, OnNotice, Past, Places};
use crate::event::Sequence;
use crate::sync::{Mutex, lock};
use crate::threads::{self, Alarm};
use append::FileAppender;
use follow::FileFollower;
use notices::Notices;
use open_segment::{LogSegment, OpenSegment, begin, broken, describe};
use recover::{Recovered, boot, read_segment, recover};
use segment::SegmentHead;
use shared::{FileShared, FileState, UnreadEvents};

/// A log in files.
pub(super) struct FileLog {
    shared: Arc<FileShared>,
    /// Makes safe what was written, where that is not done before each answer.
    syncer: Option<JoinHandle<()>>,
    notices: Mutex<Notices>,
    on_notice: OnNotice,
    /// Held while the log is ours.
    _lock: File,
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
        folder::make_folder(&folder).map_err(|error| broken(&folder, "making", &error))?;
        let lock = lock_folder(&folder)?;
        folder::make_private(&folder);
        let boot = boot();
        let notices = Notices::open(&folder, &*on_notice);
        let notices = Mutex::new(notices.map_err(|error| broken(&folder, "opening the notices in", &error))?);
        let found = recover(&folder, shards, boot)?;
        let Recovered { segments, number, epoch, next } = found;
        let head = SegmentHead { epoch, boot, is_safe: config.sync_interval.is_zero(), next: next.clone() };
        let (open, trouble) = match begin(&folder, number, &head) {
            Ok(open) => (Some(open), None),
            // It may have room again: until then nothing is taken.
            Err(error) if folder::is_full(&error) => (None, Some(describe(&folder, "writing in", &error))),
            Err(error) => return Err(broken(&folder, "writing in", &error)),
        };
        let number = number + u64::from(open.is_some());
        let shared = Arc::new(FileShared {
            state: Mutex::new(FileState {
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
            let closed = state.open.as_mut().map_or(Ok(()), OpenSegment::close);
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
    let file = folder::private().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| broken(&path, "opening", &error))?;
    #[cfg(unix)]
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| broken(&path, "another process has", &error.into()))?;
    Ok(file)
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
        Ok(Box::new(FileAppender { shared: Arc::clone(&self.shared), record: Vec::new() }))
    }

    fn follower(&self, known: Option<&Places>, past: u64) -> Result<(Box<dyn Follow>, Places), EngineError> {
        let mut state = lock(&self.shared.state);
        // What is appended from here on comes by memory, what was before it by the files.
        state.unread = Some(UnreadEvents::default());
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
        let follower = FileFollower::new(Arc::clone(&self.shared), segments);
        Ok((Box::new(follower), places))
    }
}

/// So many events before the end of the oldest life of the log that is there; `newest` is the newest, and `next` is where it
/// ends.
fn first_places(
    segments: &VecDeque<LogSegment>,
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

#[cfg(test)]
mod tests;

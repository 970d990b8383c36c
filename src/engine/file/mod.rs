//! The log of one node in files of its own: it keeps epoch and history over a restart without a server.
//!
//! Invariants:
//! - An event is written before its publisher is answered and before any client sees it. A record that a crash of the
//!   process left incomplete was not acknowledged to any publisher, and is cut off.
//! - No id is given twice: if the machine may have lost events that clients saw, another epoch begins.
//! - A failed write has no lasting effect. Its remains are cut off or overwritten, a segment gets its name only once
//!   its head is synchronized, and a segment that could not be synchronized is never marked complete. So a full disk
//!   needs no restart, whichever write hits it.
//! - The files together stay within the bound, except for the newest. One process owns them at a time, and only its
//!   user can read them.
//!
//! The format is our own and small, because the log is only ever appended to and read from front to end: an embedded
//! store would add an index, compaction and a cache that nothing here needs.

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
use super::log::{Append, Follow, FollowStart, Log, OnNotice, Past, Places};
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

/// Log in files.
pub(super) struct FileLog {
    shared: Arc<FileShared>,
    /// Thread that synchronizes writes, unless that happens before each answer.
    syncer: Option<JoinHandle<()>>,
    notices: Mutex<Notices>,
    on_notice: OnNotice,
    /// Place at which this process began to append.
    opened: Places,
    /// Locked while this process owns the log.
    _lock: File,
}

impl FileLog {
    /// Opens the log in the folder of the address, or creates it. Reads all of it once, and passes its notices to
    /// `on_notice`.
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
            // The disk may have space again later; until then nothing is accepted.
            Err(error) if folder::is_full(&error) => (None, Some(describe(&folder, "writing in", &error))),
            Err(error) => return Err(broken(&folder, "writing in", &error)),
        };
        let number = number + u64::from(open.is_some());
        let opened = Places { epoch, next: next.clone(), kept: None };
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
        Ok(Self { shared, syncer, notices, on_notice, opened, _lock: lock })
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
            // A panic of the thread was reported already.
            let _ = syncer.join();
        }
    }
}

/// Locks the folder against other processes.
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

    fn send_notice(&self, notice: &str) -> Result<(), EngineError> {
        let kept = lock(&self.notices).add(notice);
        kept.map_err(|error| broken(&self.shared.folder, "writing the notices in", &error))?;
        (self.on_notice)(notice.as_bytes());
        Ok(())
    }

    fn appender(&self) -> Result<Box<dyn Append>, EngineError> {
        Ok(Box::new(FileAppender { shared: Arc::clone(&self.shared), record: Vec::new() }))
    }

    fn has_one_owner(&self) -> bool {
        true
    }

    fn follower(
        &self,
        known: Option<&Places>,
        past: u64,
    ) -> Result<(Box<dyn Follow>, FollowStart), EngineError> {
        let mut state = lock(&self.shared.state);
        // Events appended from now on arrive through memory, earlier ones through the files.
        state.unread = Some(UnreadEvents::default());
        let mut segments = state.segments.clone();
        segments.extend(state.open.as_ref().map(|open| open.segment.clone()));
        let places = match known {
            Some(known) if known.epoch > state.finished => known.clone(),
            Some(_) => {
                let finished = state.finished;
                segments.retain(|segment| segment.epoch > finished);
                let begin = segments.front().map(|segment| (segment.epoch, segment.next.clone()));
                let (epoch, next) = begin.unwrap_or_else(|| (state.epoch, vec![0; state.next.len()]));
                Places { epoch, next, kept: None }
            }
            None => first_places(&segments, &self.opened, past)?,
        };
        let end = Places { epoch: state.epoch, next: state.next.clone(), kept: None };
        drop(state);
        segments.retain(|segment| segment.epoch >= places.epoch);
        while let [_, second, ..] = segments.make_contiguous()
            && second.epoch == places.epoch
            && second.next.iter().zip(&places.next).all(|(first, wanted)| first <= wanted)
        {
            segments.pop_front();
        }
        let follower = FileFollower::new(Arc::clone(&self.shared), segments);
        Ok((Box::new(follower), FollowStart { places, end }))
    }
}

/// Returns places `past` events before the end of the oldest epoch in the log, or its oldest events. `opened` is the place at which
/// this process began to append: what it has appended since then comes after these places.
fn first_places(segments: &VecDeque<LogSegment>, opened: &Places, past: u64) -> Result<Places, EngineError> {
    let epoch = segments.front().map_or(opened.epoch, |segment| segment.epoch);
    let last = segments.iter().rfind(|segment| segment.epoch == epoch);
    let ends = match last.filter(|last| last.epoch != opened.epoch) {
        None => opened.next.clone(),
        Some(last) => {
            let read = read_segment(&last.path).map_err(|error| broken(&last.path, "reading", &error))?;
            read.map_or_else(|| last.next.clone(), |read| read.next)
        }
    };
    let oldest =
        |shard: usize| segments.front().and_then(|first| first.next.get(shard)).copied().unwrap_or(0);
    // If entries after the end were evicted already, they are missing after these places.
    let first = |(shard, end): (usize, &Sequence)| end.saturating_sub(past).max(oldest(shard).min(*end));
    let before = ends.iter().enumerate().map(first);
    Ok(Places { epoch, next: before.collect(), kept: None })
}

#[cfg(test)]
mod tests;

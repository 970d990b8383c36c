//! State shared by a file log's appender, follower and synchronizing thread: the segments, and the events that the
//! follower has not taken yet.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Condvar, PoisonError};
use std::time::Duration;

use super::super::error::EngineError;
use super::open_segment::{LogSegment, NotWritten, OpenSegment, begin, describe};
use super::segment::SegmentHead;
use crate::event::{EventId, Sequence};
use crate::sync::{Mutex, MutexGuard, lock};
use crate::threads;

/// Maximum number of appended events that the follower has not taken yet; beyond it, or beyond the size below, the
/// appender waits.
const UNREAD_MAX: usize = 1 << 16;
pub(super) const UNREAD_BYTES_MAX: usize = 64 << 20;

/// Number of segments into which the size bound is divided. The oldest segment is removed as a whole.
const SEGMENTS: u64 = 8;
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// Appended events that the follower has not taken yet.
#[derive(Default)]
pub(super) struct UnreadEvents {
    pub(super) events: VecDeque<(EventId, String)>,
    pub(super) bytes: usize,
}

impl UnreadEvents {
    pub(super) fn is_full(&self) -> bool {
        self.events.len() > UNREAD_MAX || self.bytes > UNREAD_BYTES_MAX
    }
}

pub(super) struct FileState {
    /// Segments before the open one, oldest first.
    pub(super) segments: VecDeque<LogSegment>,
    /// Open segment; `None` if the disk had no space for one.
    pub(super) open: Option<OpenSegment>,
    /// Number of the next segment.
    pub(super) number: u64,
    pub(super) epoch: u64,
    pub(super) next: Vec<Sequence>,
    /// Events for the follower, once there is one.
    pub(super) unread: Option<UnreadEvents>,
    /// Error of the last write, if it failed.
    pub(super) trouble: Option<String>,
    /// Last epoch, before the newest, that the follower has read to its end.
    pub(super) finished: u64,
    pub(super) is_closed: bool,
}

pub(super) struct FileShared {
    pub(super) state: Mutex<FileState>,
    /// Signals that events were appended or taken.
    pub(super) changed: Condvar,
    pub(super) closed: Condvar,
    pub(super) folder: PathBuf,
    pub(super) boot: u64,
    pub(super) sync_interval: Duration,
    pub(super) max_bytes: u64,
}

impl FileShared {
    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, FileState>,
        time: Duration,
    ) -> MutexGuard<'a, FileState> {
        self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Synchronizes writes at each interval.
    pub(super) fn sync_now_and_then(&self) {
        let mut state = lock(&self.state);
        while !state.is_closed {
            threads::fault_point();
            state =
                self.closed.wait_timeout(state, self.sync_interval).unwrap_or_else(PoisonError::into_inner).0;
            let Some(open) = state.open.as_mut().filter(|open| open.is_dirty) else { continue };
            // Later writes are synchronized at the next interval.
            open.is_dirty = false;
            // Without the lock, because the disk may be slow.
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

    /// Makes sure that there is a segment to write to: begins another if the open one is full or suspect, and removes
    /// the oldest beyond the bound. A failure changes nothing.
    pub(super) fn roll(&self, state: &mut FileState) -> io::Result<()> {
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
        let head = SegmentHead {
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

    /// Writes a record and records whether that succeeded.
    pub(super) fn write(&self, state: &mut FileState, record: &[u8]) -> Result<(), EngineError> {
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

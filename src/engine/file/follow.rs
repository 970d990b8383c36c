//! The following side of a log in files: first the segments on disk, then appended events through memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::error::EngineError;
use super::super::log::{Follow, LogEntry, Places};
use super::open_segment::{LogSegment, broken};
use super::segment::{SegmentItem, SegmentReader};
use super::shared::FileShared;
use crate::event::{EventId, Sequence};
use crate::sync::lock;

/// Maximum number of entries passed on in one call.
const READ_COUNT: usize = 1000;

/// Segment that is being read.
struct Reading {
    reader: SegmentReader<BufReader<io::Take<File>>>,
    path: PathBuf,
    epoch: u64,
    next: Vec<Sequence>,
}

pub(super) struct FileFollower {
    shared: Arc<FileShared>,
    /// Segments that were not read yet.
    segments: VecDeque<LogSegment>,
    reading: Option<Reading>,
}

impl FileFollower {
    pub(super) fn new(shared: Arc<FileShared>, segments: VecDeque<LogSegment>) -> Self {
        Self { shared, segments, reading: None }
    }

    /// Continues to read the files. Returns whether it passed any entries; if not, the files are read to their end.
    fn read_files(
        &mut self,
        places: &Places,
        take: &mut dyn FnMut(LogEntry<'_>),
    ) -> Result<bool, EngineError> {
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
                        // The file was removed, or is no longer a segment: the missing events appear as a hole.
                        Ok(None) => continue,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        Err(error) => return Err(broken(&segment.path, "reading", &error)),
                    }
                }
            };
            let item = reading.reader.next().map_err(|error| broken(&reading.path, "reading", &error))?;
            if item != SegmentItem::Record {
                self.reading = None;
                continue;
            }
            for (shard, json) in reading.reader.events() {
                let Some(next) = reading.next.get_mut(usize::from(shard)) else { continue };
                let id = EventId { epoch: reading.epoch, shard, sequence: *next };
                *next += 1;
                if places.next.get(usize::from(shard)).is_some_and(|from| id.sequence >= *from) {
                    count += 1;
                    take(LogEntry { id, json });
                }
            }
        }
        Ok(true)
    }
}

impl Reading {
    fn open(segment: &LogSegment) -> io::Result<Option<Self>> {
        // Later writes arrive through memory.
        let file = File::open(&segment.path)?.take(segment.bytes);
        let opened = SegmentReader::open(BufReader::new(file))?;
        Ok(opened.map(|(head, reader)| Self {
            reader,
            path: segment.path.clone(),
            epoch: head.epoch,
            next: head.next,
        }))
    }
}

impl Follow for FileFollower {
    fn follow(
        &mut self,
        places: &Places,
        wait: Duration,
        take: &mut dyn FnMut(LogEntry<'_>),
    ) -> Result<(), EngineError> {
        if self.read_files(places, take)? {
            return Ok(());
        }
        let shared = &*self.shared;
        let mut state = lock(&shared.state);
        if places.epoch < state.epoch {
            // The newest epoch may have no file yet, because the disk is full.
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
            take(LogEntry { id: *id, json: json.as_bytes() });
        }
        Ok(())
    }
}
